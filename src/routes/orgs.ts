// The org of the token: its settings and limits, what it uses and takes up, its export and its erasure.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type { AuthEnv } from '../auth.ts';
import type { Sql } from '../db.ts';
import { invalid, Problem } from '../errors.ts';
import { limits as textLimits } from '../ingest/metrics.ts';
import type { OrgCache, OrgLimits } from '../orgs.ts';
import { needs } from '../permissions.ts';
import {
  check,
  cursorSchema,
  endpoint,
  endsAfterStart,
  isUuid,
  pageAfter,
  pageLimitSchema,
  pageOf,
  parseJson,
  queryOf,
  readBody,
  refuseQuery,
  requestOf,
  responses,
  text,
  timestampSchema,
} from '../request.ts';
import { newRuleSchema, shownRule } from './alert_rules.ts';
import { newChannelSchema } from './channels.ts';
import { newDashboardSchema } from './dashboards.ts';
import { exportedDefinition, idParams, type Row, shownSwitch } from './definitions.ts';
import { newEscalationSchema } from './escalations.ts';
import { timeZoneSchema } from './metrics.ts';
import { type ServiceDefinition, shownDefinition } from './services.ts';
import { newSilenceSchema, newWindowSchema, shownSilence, shownWindow } from './silences.ts';

const limitNames = [
  'series',
  'log_streams',
  'services',
  'ingest_per_second',
  'query_per_second',
  'change_per_second',
  'concurrent_queries',
] as const;

const limitsSchema = z
  .strictObject(
    Object.fromEntries(limitNames.map((name) => [name, z.number().int()])) as Record<
      (typeof limitNames)[number],
      z.ZodNumber
    >,
  )
  .openapi('OrgLimits', {
    description:
      'How many series, log streams and services there may be; requests a second, by class of endpoint (ingest records, query reads, change is the rest); queries and changes under way at once, of one API process',
  });

const statusPageSchema = z
  .strictObject(
    {
      title: text(200),
      service_names: z
        .array(text(textLimits.serviceNameLength), 'expected a list')
        .min(1, 'must not be empty')
        .max(100, 'must be at most 100')
        .refine((names) => new Set(names).size === names.length, 'names a service twice'),
    },
    'expected an object, or null',
  )
  .openapi('StatusPage', {
    description:
      'What anyone can see without a token, at /status/{org_id}: how each of these services is, in this order, and its uptime by day. Names that are not registered are left out.',
  });

const orgSchema = z
  .strictObject({
    org_id: z.string().openapi({ description: "The token's org_id claim", example: 'acme' }),
    retention_days: z.number().int().nullable().openapi({
      description:
        'How long what the org recorded is kept; null: as long as the tables of the service keep it',
    }),
    timezone: z.string().openapi({
      description: 'What queries align their windows to when they name none',
      example: 'UTC',
    }),
    limits: limitsSchema,
    max_limits: limitsSchema.openapi({ description: 'What the deployment allows the org' }),
    series_count: z.number().int(),
    series_limit: z.number().int(),
    log_stream_count: z.number().int(),
    log_stream_limit: z.number().int(),
    service_count: z.number().int(),
    status_page: statusPageSchema.nullable(),
    created_at: z.iso.datetime(),
  })
  .openapi('Org');

const wholeNumberOrNull = (min: number, max: number) =>
  z
    .number('expected a whole number, or null')
    .int('expected a whole number, or null')
    .min(min, `must be from ${min} to ${max}`)
    .max(max, `must be from ${min} to ${max}`)
    .nullable();

const orgPatchSchema = z
  .strictObject({
    retention_days: wholeNumberOrNull(1, 36_500).optional(),
    timezone: timeZoneSchema.nullable().optional().openapi({ description: 'null: UTC' }),
    status_page: statusPageSchema.nullable().optional().openapi({ description: 'null: none' }),
    limits: z
      .strictObject(
        Object.fromEntries(
          limitNames.map((name) => [
            name,
            wholeNumberOrNull(
              name.endsWith('second') || name.startsWith('concurrent') ? 1 : 0,
              1_000_000_000,
            ).optional(),
          ]),
        ),
        'expected an object',
      )
      .optional()
      .openapi({
        description: 'Each at most what the deployment allows (max_limits), which null goes back to',
      }),
  })
  .openapi('OrgPatch');

const storageSchema = z
  .object({
    tables: z.array(
      z.object({
        table: z.string().openapi({ example: 'sample_1h' }),
        rows: z.number().int(),
        bytes: z.number().openapi({ description: "The org's share of the table and its indexes" }),
        samples: z.number().int().openapi({ description: 'Samples that the rows stand for' }),
        bytes_per_sample: z.number().nullable(),
        oldest: z.iso.datetime().nullable(),
        newest: z.iso.datetime().nullable(),
      }),
    ),
    bytes: z.number(),
  })
  .openapi('Storage');

const usageSchema = z
  .strictObject({
    days: z.array(
      z.strictObject({
        day: z.iso.date(),
        requests: z
          .number()
          .int()
          .openapi({ description: 'With a token of the org, answered in whatever way' }),
        refused: z.number().int().openapi({ description: 'Those of them that a limit refused: 429' }),
        samples: z.number().int().openapi({ description: 'Recorded over HTTP' }),
        log_lines: z.number().int(),
        series: z.number().int().openapi({ description: 'At the end of the day, or now' }),
        log_streams: z.number().int(),
      }),
    ),
  })
  .openapi('Usage');

const usageQuerySchema = z
  .strictObject({ start_time: timestampSchema.optional(), end_time: timestampSchema.optional() })
  .refine(...endsAfterStart);

const anything = z.array(z.record(z.string(), z.unknown()));
const exportSchema = z
  .strictObject({
    org_id: z.string(),
    exported_at: z.iso.datetime(),
    settings: z.record(z.string(), z.unknown()),
    services: anything.openapi({ description: 'As POST /services/import takes them' }),
    alert_rules: anything.openapi({
      description: 'These and the others as their POST takes them, and with their id',
    }),
    channels: anything,
    silences: anything,
    maintenance_windows: anything,
    escalations: anything,
    dashboards: anything,
    tokens: anything,
  })
  .openapi('OrgExport');

const exportedKinds = {
  alert_rules: (row: Row) => exportedDefinition(shownRule(row), newRuleSchema),
  channels: (row: Row) => exportedDefinition(shownSwitch(row), newChannelSchema.options[0]),
  silences: (row: Row) => exportedDefinition(shownSilence(row), newSilenceSchema),
  maintenance_windows: (row: Row) => exportedDefinition(shownWindow(row), newWindowSchema),
  escalations: (row: Row) => exportedDefinition(shownSwitch(row), newEscalationSchema),
  dashboards: (row: Row) => exportedDefinition(row, newDashboardSchema),
};

/** As api.export_org has it. */
type StoredExport = Pick<z.infer<typeof exportSchema>, 'org_id' | 'exported_at' | 'settings' | 'tokens'> & {
  services: ServiceDefinition[];
} & Record<keyof typeof exportedKinds, Row[]>;

const erasureSchema = z
  .strictObject({
    id: z.uuid(),
    org_id: z.string(),
    status: z.enum(['pending', 'erasing', 'done', 'cancelled']),
    requested_by: z.string(),
    requested_at: z.iso.datetime(),
    starts_at: z.iso.datetime().openapi({ description: 'Until then it can be cancelled' }),
    cancelled_at: z.iso.datetime().nullable(),
    started_at: z.iso.datetime().nullable(),
    finished_at: z.iso.datetime().nullable(),
    deleted: z
      .record(z.string(), z.number().int())
      .openapi({ description: 'Rows deleted so far, by table', example: { sample: 1200, series: 3 } }),
  })
  .openapi('Erasure');
type Erasure = z.infer<typeof erasureSchema>;

const newErasureSchema = z
  .strictObject({ confirm: z.string('expected text').openapi({ description: "The org's org_id" }) })
  .openapi('NewErasure');
const erasureListQuerySchema = z.strictObject({ limit: pageLimitSchema, cursor: cursorSchema.optional() });
const erasureListSchema = z.strictObject({
  erasures: z.array(erasureSchema),
  next_cursor: z.string().nullable(),
});

const tags = ['Org'];
const dayMs = 86_400_000;

type Limits = z.infer<typeof limitsSchema>;
/** The ones that the database alone knows. */
type Counts = Pick<Limits, 'series' | 'log_streams' | 'services'>;

export interface OrgDependencies {
  sql: Sql;
  maxBodyBytes: number;
  orgs: OrgCache;
  /** What an org may where the database says nothing else of it. */
  orgLimits: OrgLimits;
}

export function orgRoutes({ sql, maxBodyBytes, orgs, orgLimits }: OrgDependencies) {
  const router = new OpenAPIHono<AuthEnv>();

  async function find(c: Context<AuthEnv>): Promise<z.infer<typeof orgSchema>> {
    const [row] = await sql<
      {
        external_id: string;
        retention_days: number | null;
        timezone: string;
        limits: Partial<Limits>;
        max_limits: Partial<Limits> & Counts;
        series_count: number;
        log_stream_count: number;
        service_count: number;
        status_page: z.infer<typeof statusPageSchema> | null;
        created_at: Date;
      }[]
    >`select * from api.get_org(${c.var.principal.orgId})`;
    const { limits, max_limits: allowed, created_at, ...org } = row!;
    const max = { ...orgLimits, ...allowed };
    const inForce = { ...max, ...limits };
    for (const name of limitNames) inForce[name] = Math.min(inForce[name], max[name]);
    return {
      org_id: org.external_id,
      retention_days: org.retention_days,
      timezone: org.timezone,
      limits: inForce,
      max_limits: max,
      series_count: org.series_count,
      series_limit: inForce.series,
      log_stream_count: org.log_stream_count,
      log_stream_limit: inForce.log_streams,
      service_count: org.service_count,
      status_page: org.status_page,
      created_at: created_at.toISOString(),
    };
  }

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/org',
      tags,
      security: needs('org:read'),
      summary: "The token's org",
      responses: responses(200, 'Its limits and retention', orgSchema, [400, 401, 403, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      return c.json(await find(c));
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'patch',
      path: '/org',
      tags,
      security: needs('org:write'),
      summary: "Change the org's settings",
      description:
        'Fields that are left out stay as they are. What is older than retention_days, whole days in UTC, is not shown from then on, refused when it arrives, and deleted ' +
        'from every table from the next full hour on. A longer retention later does not bring back what has been deleted.',
      request: { body: { required: true, content: { 'application/json': { schema: orgPatchSchema } } } },
      responses: responses(200, 'The org', orgSchema, [400, 401, 403, 413, 415, 503]),
    }),
    async (c) => {
      const changes = check(orgPatchSchema, parseJson(c, await readBody(c, maxBodyBytes)));
      const { orgId, org, subject } = c.var.principal;
      const before = await find(c);
      // What the database does not know the environment allows.
      const beyond = Object.entries(orgLimits).find(
        ([name]) => Number(changes.limits?.[name] ?? 0) > before.max_limits[name as keyof OrgLimits],
      );
      if (beyond) {
        const most = before.max_limits[beyond[0] as keyof OrgLimits];
        throw invalid([
          {
            path: `limits.${beyond[0]}`,
            message: `must be at most ${most}, which is what the deployment allows`,
          },
        ]);
      }
      await sql`
        select api.change_org(${orgId}, ${JSON.stringify(changes)}::text::jsonb, ${subject}, ${requestOf(c)}::text::jsonb)`;
      orgs.forget(org);
      return c.json(await find(c));
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/org/storage',
      tags,
      security: needs('org:read'),
      summary: 'What the org takes up',
      description:
        'Raw samples, each tier as far as it is rolled up, probe results and what follows from them. Counts rows: it can take seconds for many millions.',
      responses: responses(200, 'A table each', storageSchema, [400, 401, 403, 503, 504]),
    }),
    async (c) => {
      refuseQuery(c);
      const rows = await sql<
        {
          table_name: string;
          row_count: string;
          bytes: string;
          sample_count: string;
          bytes_per_sample: number | null;
          oldest: Date | null;
          newest: Date | null;
        }[]
      >`select * from api.get_storage(${c.var.principal.orgId})`;
      const tables = rows.map((row) => ({
        table: row.table_name,
        rows: Number(row.row_count),
        bytes: Number(row.bytes),
        samples: Number(row.sample_count),
        bytes_per_sample: row.bytes_per_sample,
        oldest: row.oldest?.toISOString() ?? null,
        newest: row.newest?.toISOString() ?? null,
      }));
      return c.json({
        tables,
        bytes: tables.reduce((sum, { bytes }) => sum + bytes, 0),
      } satisfies z.infer<typeof storageSchema>);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/org/usage',
      tags,
      security: needs('org:read'),
      summary: 'What the org used, by day',
      description:
        'Days (UTC) that begin in the range, the last 30 by default, a year at most; those without a request are left out. Up to date to within seconds.',
      request: { query: usageQuerySchema },
      responses: responses(200, 'A line each day', usageSchema, [400, 401, 403, 503]),
    }),
    async (c) => {
      const query = check(usageQuerySchema, queryOf(c), 'query');
      const end = query.end_time ?? new Date(Date.now() + dayMs).toISOString();
      const start = query.start_time ?? new Date(Date.parse(end) - 31 * dayMs).toISOString();
      if (Date.parse(end) - Date.parse(start) > 366 * dayMs)
        throw invalid([{ path: 'query.start_time', message: 'must be at most a year before end_time' }]);
      const rows = await sql<Record<string, string>[]>`
        select day::text, requests::text, refused::text, samples::text, log_lines::text, series::text, log_streams::text
        from api.list_usage(${c.var.principal.orgId}, ${start}::text::timestamptz::date, ${end}::text::timestamptz::date)`;
      const days = rows.map(({ day, ...counts }) => ({
        day,
        ...Object.fromEntries(Object.entries(counts).map(([name, count]) => [name, Number(count)])),
      }));
      return c.json({ days } as z.infer<typeof usageSchema>);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/org/export',
      tags,
      security: needs('org:read'),
      summary: 'Everything that the org has defined',
      description:
        'Settings, services, alert rules, channels, silences, maintenance windows, escalations, dashboards and API tokens. Secrets of channels read ••••, what may be secret of services reads *** for who may not change them, and tokens are not in it. What was recorded is had by queries, and by exports of logs.',
      responses: responses(200, 'The definitions', exportSchema, [400, 401, 403, 503, 504]),
    }),
    async (c) => {
      refuseQuery(c);
      const [row] = await sql<{ definitions: StoredExport }[]>`
        select api.export_org(${c.var.principal.orgId}) as definitions`;
      const { definitions } = row!;
      const kinds = Object.entries(exportedKinds).map(([kind, exported]) => [
        kind,
        definitions[kind as keyof typeof exportedKinds].map(exported),
      ]);
      return c.json({
        ...definitions,
        ...Object.fromEntries(kinds),
        services: definitions.services.map((service) => shownDefinition(c, service)),
      });
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/org/erasures',
      tags,
      security: needs('org:write'),
      summary: 'Erase all that the org has',
      description:
        'Metrics, logs, services, rules, alerts, channels, tokens, usage and settings. From now on the service takes nothing for the org (409, org_erasing); ten seconds later a worker begins, and until then it can be ' +
        'cancelled. What can be seen of it is gone at once then, and the last of what lies below within a minute or two. The answer is its receipt, which stays; so does the audit log, for its own retention. A token of an issuer that is used afterwards finds the org empty.',
      request: { body: { required: true, content: { 'application/json': { schema: newErasureSchema } } } },
      responses: responses(202, 'It will be done', erasureSchema, [400, 401, 403, 409, 413, 415, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      const { confirm } = check(newErasureSchema, parseJson(c, await readBody(c, maxBodyBytes)));
      const { orgId, org, subject } = c.var.principal;
      if (confirm !== org) throw invalid([{ path: 'confirm', message: `expected ${JSON.stringify(org)}` }]);
      const [row] = await sql<{ erasure: Erasure }[]>`
        select api.request_erasure(${orgId}, ${subject}, ${requestOf(c)}::text::jsonb) as erasure`;
      orgs.forget(org);
      return c.json(row!.erasure, 202);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/org/erasures',
      tags,
      security: needs('org:read'),
      summary: 'Erasures of the org, the newest first',
      request: { query: erasureListQuerySchema },
      responses: responses(200, 'The erasures', erasureListSchema, [400, 401, 403, 503]),
    }),
    async (c) => {
      const query = check(erasureListQuerySchema, queryOf(c), 'query');
      const after = pageAfter(query.cursor);
      const rows = await sql<{ erasure: Erasure; cursor: string }[]>`
        select erasure, cursor from api.list_erasures(
          ${await orgIdNow(c)}, ${after.at}::text::timestamptz, ${after.id}::text::uuid, ${query.limit + 1}
        )`;
      const { page, next_cursor } = pageOf(rows, query.limit, ({ cursor }) => cursor);
      return c.json({
        erasures: page.map((row) => row.erasure),
        next_cursor,
      } satisfies z.infer<typeof erasureListSchema>);
    },
  );

  // What is known of the org may be of before its erasure.
  async function orgIdNow(c: Context<AuthEnv>): Promise<number> {
    const { org, orgId, tokenId } = c.var.principal;
    orgs.forget(org);
    // An API token makes no org: it went with its own.
    const state = await (tokenId === null ? orgs.open(org) : orgs.find(org));
    return state?.orgId ?? orgId;
  }

  const missingErasure = () => new Problem(404, 'not_found', 'There is no such erasure.');

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/org/erasures/{id}',
      tags,
      security: needs('org:read'),
      summary: 'An erasure: how far it is, and then its receipt',
      request: { params: idParams },
      responses: responses(200, 'The erasure', erasureSchema, [400, 401, 403, 404, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      const id = c.req.param('id')!;
      const [row] = isUuid(id)
        ? await sql<{ erasure: Erasure | null }[]>`
            select api.get_erasure(${await orgIdNow(c)}, ${id}::text::uuid) as erasure`
        : [];
      if (!row?.erasure) throw missingErasure();
      return c.json(row.erasure);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'delete',
      path: '/org/erasures/{id}',
      tags,
      security: needs('org:write'),
      summary: 'Cancel an erasure that has not begun',
      request: { params: idParams },
      responses: responses(200, 'The erasure, cancelled', erasureSchema, [400, 401, 403, 404, 409, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      const { orgId, org, subject } = c.var.principal;
      const id = c.req.param('id')!;
      const [row] = isUuid(id)
        ? await sql<{ erasure: Erasure | null }[]>`
            select api.cancel_erasure(${orgId}, ${id}::text::uuid, ${subject}, ${requestOf(c)}::text::jsonb) as erasure`
        : [];
      if (!row?.erasure) throw missingErasure();
      orgs.forget(org);
      return c.json(row.erasure);
    },
  );

  return router;
}
