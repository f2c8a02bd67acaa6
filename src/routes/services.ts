// Services: what is registered, how each is, and what its probes have found.
import net from 'node:net';
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type { AuthEnv } from '../auth.ts';
import type { Sql } from '../db.ts';
import { bareHost, type EgressPolicy, egressObstacle } from '../egress.ts';
import { invalid, Problem } from '../errors.ts';
import type { HotAnswers } from '../hot_answers.ts';
import { needs } from '../permissions.ts';
import {
  badCursor,
  check,
  cursorSchema,
  endpoint,
  endsAfterStart,
  isTimestamp,
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
  waitForWorker,
} from '../request.ts';
import { adjust } from '../turns.ts';
import { severities } from './alerts.ts';
import { kinds, patchSchema, registrationSchema } from './service_definition.ts';

export const serviceStatuses = ['healthy', 'degraded', 'unhealthy', 'unknown'] as const;

const definitionAnswer = {
  service_name: z.string(),
  kind: z.enum(kinds),
  health_endpoint: z.string().nullable(),
  description: z.string().nullable(),
  method: z.string(),
  headers: z.record(z.string(), z.string()),
  request_body: z.string().nullable(),
  expected_status: z.array(z.string()),
  expected_body: z.record(z.string(), z.unknown()).nullable(),
  max_redirects: z.number().int(),
  tls_verify: z.boolean(),
  tls_expiry_days: z.number().int(),
  degraded_above_ms: z.number().int().nullable(),
  check_interval_seconds: z.number().int(),
  timeout_seconds: z.number(),
  failure_threshold: z.number().int(),
  success_threshold: z.number().int(),
  alert_on_failure: z.boolean(),
  alert_severity: z.enum(severities),
  tags: z.array(z.string()),
  depends_on: z.array(z.string()),
  sla_target_percent: z.number().nullable(),
};
const instant = z.iso.datetime().nullable();
const serviceAnswer = {
  ...definitionAnswer,
  current_status: z.enum(serviceStatuses),
  status_since: z.iso.datetime(),
  reason: z.string().nullable().openapi({ description: 'What the last probe found wrong' }),
  is_flapping: z.boolean().openapi({ description: 'Goes up and down too often to be paged for each time' }),
  paused: z.boolean(),
  paused_until: instant,
  last_check: instant,
  next_check: instant,
  last_heartbeat: instant,
  response_time_ms: z.number().nullable(),
  status_code: z.number().int().nullable(),
  tls_expires_at: instant,
  consecutive_failures: z.number().int(),
  consecutive_successes: z.number().int(),
  created_at: z.iso.datetime(),
  updated_at: z.iso.datetime(),
};
const serviceSchema = z.strictObject(serviceAnswer).openapi('Service');
const uptimeSchema = z.strictObject({
  uptime_percentage: z.number().nullable(),
  checks: z.number().int(),
  observed_seconds: z.number(),
  down_seconds: z.number(),
  avg_response_time_ms: z.number().nullable(),
  max_response_time_ms: z.number().nullable(),
});
const serviceDetailSchema = z
  .strictObject({
    ...serviceAnswer,
    dependencies: z.array(
      z.strictObject({ service_name: z.string(), current_status: z.enum(serviceStatuses).nullable() }),
    ),
    uptime: z.strictObject({
      '24h': uptimeSchema,
      '7d': uptimeSchema,
      '30d': uptimeSchema,
      '90d': uptimeSchema,
    }),
    sla: z
      .strictObject({
        target_percent: z.number(),
        period: z.literal('30d'),
        uptime_percentage: z.number().nullable(),
        is_met: z.boolean(),
        error_budget_seconds: z.number(),
        error_budget_remaining_seconds: z.number(),
        error_budget_remaining_percent: z.number(),
      })
      .nullable(),
  })
  .openapi('ServiceDetail');
const serviceListSchema = z
  .strictObject({ services: z.array(serviceSchema), next_cursor: z.string().nullable() })
  .openapi('ServiceList');
const exportSchema = z
  .strictObject({ services: z.array(z.strictObject(definitionAnswer)) })
  .openapi('ServiceExport');
const importSchema = z
  .strictObject({
    services: z
      .array(registrationSchema, 'expected a list')
      .min(1, 'must not be empty')
      .max(10_000, 'must be at most 10000'),
  })
  .superRefine(({ services }, context) => {
    const seen = new Map<string, number>();
    for (const [i, { service_name }] of services.entries()) {
      const first = seen.get(service_name);
      if (first !== undefined)
        context.addIssue({
          code: 'custom',
          path: ['services', i, 'service_name'],
          message: `is the same as services[${first}].service_name`,
        });
      else seen.set(service_name, i);
    }
  })
  .openapi('ServiceImport');
const importedSchema = z
  .strictObject({
    created: z.number().int(),
    updated: z.number().int(),
    unchanged: z.number().int(),
  })
  .openapi('ServicesImported');

const resultSchema = z
  .strictObject({
    time: z.iso.datetime(),
    slot: instant.openapi({
      description: 'When it was due; null for one that was asked for, or a heartbeat',
    }),
    outcome: z.enum(['up', 'degraded', 'down', 'unknown']),
    response_time_ms: z.number().nullable(),
    dns_ms: z.number().nullable(),
    connect_ms: z.number().nullable(),
    tls_ms: z.number().nullable(),
    first_byte_ms: z.number().nullable(),
    status_code: z.number().int().nullable(),
    reason: z.string().nullable(),
    worker: z.string().nullable(),
  })
  .openapi('ProbeResult');
const resultListSchema = z
  .strictObject({ results: z.array(resultSchema), next_cursor: z.string().nullable() })
  .openapi('ProbeResultList');
const eventListSchema = z
  .strictObject({
    events: z.array(
      z.strictObject({
        time: z.iso.datetime(),
        event: z.enum(['status', 'flapping', 'stable', 'paused', 'resumed']),
        from_status: z.enum(serviceStatuses),
        to_status: z.enum(serviceStatuses),
        reason: z.string().nullable(),
        actor: z.string(),
      }),
    ),
    next_cursor: z.string().nullable(),
  })
  .openapi('ServiceEventList');
const timelineSchema = z
  .strictObject({
    period: z.enum(['24h', '7d', '90d']),
    bucket_seconds: z.number().int(),
    buckets: z.array(
      z.strictObject({
        time: z.iso.datetime(),
        status: z.enum(['healthy', 'degraded', 'unhealthy']),
        uptime_percentage: z.number().nullable(),
        response_time_ms: z.number().nullable(),
        checks: z.number().int(),
      }),
    ),
  })
  .openapi('ServiceTimeline');
const timelineQuerySchema = z.strictObject({
  period: z.enum(['24h', '7d', '90d'], 'expected 24h, 7d or 90d').default('24h'),
});
const checkSchema = z
  .strictObject({ service_name: z.string(), current_status: z.enum(serviceStatuses), result: resultSchema })
  .openapi('ServiceCheck');
const requestedSchema = z
  .strictObject({ service_name: z.string(), requested_at: z.iso.datetime() })
  .openapi('ServiceCheckRequested');

const healthSchema = z
  .strictObject({
    services: z.record(
      z.string(),
      z.strictObject({
        current_status: z.enum(serviceStatuses),
        reason: z.string().nullable(),
        last_check: instant,
        response_time_ms: z.number().nullable(),
        uptime_percentage: z.number().nullable().openapi({ description: 'Of the last 24 hours' }),
        is_flapping: z.boolean(),
        paused: z.boolean(),
        history: z
          .array(
            z.strictObject({
              time: z.iso.datetime(),
              status: z.enum(['healthy', 'degraded', 'unhealthy']),
              uptime_percentage: z.number().nullable(),
              response_time_ms: z.number().nullable(),
              checks: z.number().int(),
            }),
          )
          .optional()
          .openapi({ description: 'Hours that had probes, of the running one and the 23 before' }),
      }),
    ),
    summary: z.strictObject({
      total_services: z.number().int(),
      healthy_services: z.number().int(),
      degraded_services: z.number().int(),
      unhealthy_services: z.number().int(),
      unknown_services: z.number().int(),
      avg_response_time_ms: z.number().nullable(),
      uptime_percentage: z.number().nullable(),
    }),
  })
  .openapi('ServicesHealth');

const heartbeatSchema = z
  .strictObject({
    status: z
      .enum(['healthy', 'degraded', 'unhealthy'], 'expected healthy, degraded or unhealthy')
      .optional(),
    message: text(500).optional(),
  })
  .openapi('Heartbeat');
const heardSchema = z.strictObject({ recorded: z.literal(1) }).openapi('HeartbeatRecorded');

const listQuerySchema = z.strictObject({
  tag: text(100).optional(),
  status: z.enum(serviceStatuses, `expected one of ${serviceStatuses.join(', ')}`).optional(),
  q: text(255).optional(),
  limit: pageLimitSchema,
  cursor: cursorSchema.optional(),
});
const rangeQuerySchema = z
  .strictObject({
    start_time: timestampSchema.optional(),
    end_time: timestampSchema.optional(),
    limit: pageLimitSchema,
    cursor: cursorSchema.optional(),
  })
  .refine(...endsAfterStart);
const healthQuerySchema = z.strictObject({
  history: z
    .enum(['true', 'false'], 'expected true or false')
    .default('true')
    .openapi({ description: 'false leaves history out' })
    .transform((value) => value === 'true'),
});

export type ServiceDefinition = z.infer<z.ZodObject<typeof definitionAnswer>>;

interface ServiceRow {
  definition: ServiceDefinition;
  state: Omit<z.infer<typeof serviceSchema>, keyof typeof definitionAnswer>;
}

export interface ServicesDependencies {
  sql: Sql;
  maxBodyBytes: number;
  egress: EgressPolicy;
  hotAnswers: HotAnswers;
}

const tags = ['Services'];
const nameParams = z.object({ name: z.string() });
/** Checks that an org may wait for at once, since each goes on asking the database whether it is done. */
const maxChecks = 20;
/** Of an instant (sessions are in UTC), to the microsecond. */
const cursorFormat = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"';

export function serviceRoutes({ sql, maxBodyBytes, egress, hotAnswers }: ServicesDependencies) {
  const router = new OpenAPIHono<AuthEnv>();
  const checks = new Map<number, number>();

  // Told here as well, since a probe's result is a late place to learn that an address will never be reached. A name's
  // addresses are checked when they are connected to.
  function checkEgress(endpoint: string | null | undefined, path: string) {
    const host = endpoint ? bareHost(new URL(endpoint).hostname) : '';
    if (!net.isIP(host)) return;
    const obstacle = egressObstacle(host, egress);
    if (obstacle) throw invalid([{ path, message: obstacle }]);
  }

  async function answer(c: Context<AuthEnv>, name: string) {
    const [row] = await sql<
      (ServiceRow & Pick<z.infer<typeof serviceDetailSchema>, 'dependencies' | 'uptime' | 'sla'>)[]
    >`select * from api.get_service(${c.var.principal.orgId}, ${name})`;
    if (!row) throw noService(name);
    const { dependencies, uptime, sla } = row;
    return { ...shown(c, row), dependencies, uptime, sla } satisfies z.infer<typeof serviceDetailSchema>;
  }

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/services/register',
      tags,
      security: needs('services:write'),
      summary: 'Register a service, or change the one of that name',
      description:
        'Fields that are left out keep their value, and have their default in a new service: a service may register itself at each ' +
        'start. The first probe comes at once.',
      request: { body: { required: true, content: { 'application/json': { schema: registrationSchema } } } },
      responses: {
        ...responses(201, 'Registered', serviceDetailSchema, [400, 401, 403, 413, 415, 422, 503]),
        200: {
          description: 'It was registered already, and is now as asked for',
          content: { 'application/json': { schema: serviceDetailSchema } },
        },
      },
    }),
    async (c) => {
      const { service_name, ...definition } = check(
        registrationSchema,
        parseJson(c, await readBody(c, maxBodyBytes)),
      );
      checkEgress(definition.health_endpoint, 'health_endpoint');
      const { orgId, subject } = c.var.principal;
      const [row] = await sql<{ outcome: string }[]>`
        select api.put_service(${orgId}, ${service_name}, ${JSON.stringify(definition)}::text::jsonb, ${subject}, ${requestOf(c)}::text::jsonb) as outcome`;
      return c.json(await answer(c, service_name), row!.outcome === 'created' ? 201 : 200);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/services',
      tags,
      security: needs('services:read'),
      summary: 'List services by name',
      request: { query: listQuerySchema },
      responses: responses(200, 'Services', serviceListSchema, [400, 401, 403, 503]),
    }),
    async (c) => {
      const query = check(listQuerySchema, queryOf(c), 'query');
      const rows = await sql<(ServiceRow & { name: string })[]>`
        select * from api.list_services(
          ${c.var.principal.orgId}, ${query.tag ?? null}, ${query.status ?? null}, ${query.q ?? null}, ${query.cursor ?? null},
          ${query.limit + 1}
        )`;
      const { page, next_cursor } = pageOf(rows, query.limit, ({ name }) => name);
      return c.json({
        services: page.map((row) => shown(c, row)),
        next_cursor,
      } satisfies z.infer<typeof serviceListSchema>);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/services/export',
      tags,
      security: needs('services:write'),
      summary: 'All definitions, as /services/import takes them',
      responses: responses(
        200,
        'The definitions, secrets in headers among them',
        exportSchema,
        [400, 401, 403, 503],
      ),
    }),
    async (c) => {
      refuseQuery(c);
      const [row] = await sql<{ services: z.infer<typeof exportSchema>['services'] }[]>`
        select api.export_services(${c.var.principal.orgId}) as services`;
      return c.json({ services: row!.services } satisfies z.infer<typeof exportSchema>);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/services/import',
      tags,
      security: needs('services:write'),
      summary: 'Register many services, all or none',
      description: 'As /services/register for each. Services that are not named stay as they are.',
      request: { body: { required: true, content: { 'application/json': { schema: importSchema } } } },
      responses: responses(200, 'How many', importedSchema, [400, 401, 403, 413, 415, 422, 503]),
    }),
    async (c) => {
      const { services } = check(importSchema, parseJson(c, await readBody(c, maxBodyBytes)));
      for (const [i, { health_endpoint }] of services.entries())
        checkEgress(health_endpoint, `services[${i}].health_endpoint`);
      const [row] = await sql<z.infer<typeof importedSchema>[]>`
        select * from api.import_services(
          ${c.var.principal.orgId}, ${JSON.stringify(services)}::text::jsonb, ${c.var.principal.subject},
          ${requestOf(c)}::text::jsonb
        )`;
      return c.json(row!);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/services/{name}',
      tags,
      security: needs('services:read'),
      summary: 'A service: definition, state, dependencies, uptime, SLA',
      request: { params: nameParams },
      responses: responses(200, 'The service', serviceDetailSchema, [400, 401, 403, 404, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      return c.json(await answer(c, nameOf(c)));
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'patch',
      path: '/services/{name}',
      tags,
      security: needs('services:write'),
      summary: 'Change, pause or resume a service',
      request: {
        params: nameParams,
        body: { required: true, content: { 'application/json': { schema: patchSchema } } },
      },
      responses: responses(200, 'The service', serviceDetailSchema, [400, 401, 403, 404, 413, 415, 503]),
    }),
    async (c) => {
      const { paused, paused_until, ...changes } = check(
        patchSchema,
        parseJson(c, await readBody(c, maxBodyBytes)),
      );
      checkEgress(changes.health_endpoint, 'health_endpoint');
      const name = nameOf(c);
      const { orgId, subject } = c.var.principal;
      const [row] = await sql<{ is_found: boolean }[]>`
        select api.patch_service(
          ${orgId}, ${name}, ${JSON.stringify(changes)}::text::jsonb, ${paused ?? null}, ${paused_until ?? null}::text::timestamptz,
          ${subject}, ${requestOf(c)}::text::jsonb
        ) as is_found`;
      if (!row!.is_found) throw noService(name);
      return c.json(await answer(c, name));
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'delete',
      path: '/services/{name}',
      tags,
      security: needs('services:write'),
      summary: 'Delete a service',
      description: 'Its open alert is resolved. Its metrics stay.',
      request: { params: nameParams },
      responses: responses(204, 'Deleted', null, [400, 401, 403, 404, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      const name = nameOf(c);
      const [row] = await sql<{ is_found: boolean }[]>`
        select api.delete_service(
          ${c.var.principal.orgId}, ${name}, ${c.var.principal.subject}, ${requestOf(c)}::text::jsonb
        ) as is_found`;
      if (!row!.is_found) throw noService(name);
      return c.body(null, 204);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/services/{name}/check',
      tags,
      security: needs('services:write'),
      summary: 'Probe a service now',
      description:
        'A worker probes it and the answer is what it found. It counts for the status, and its thresholds, as any probe; uptime is of the ' +
        'scheduled ones alone. 202 when no worker has done it within the timeout and five seconds, or 25 s.',
      request: { params: nameParams },
      responses: {
        ...responses(200, 'What was found', checkSchema, [400, 401, 403, 404, 409, 429, 503]),
        202: {
          description: 'Requested, and not done yet: see /services/{name}/results',
          content: { 'application/json': { schema: requestedSchema } },
        },
      },
    }),
    async (c) => {
      refuseQuery(c);
      const name = nameOf(c);
      const { orgId } = c.var.principal;
      const waiting = checks.get(orgId) ?? 0;
      if (waiting >= maxChecks) {
        throw new Problem(429, 'too_many_checks', `At most ${maxChecks} checks may be waited for at once.`, {
          headers: { 'Retry-After': '1' },
        });
      }
      adjust(checks, orgId, 1);
      try {
        return await checkNow(c, orgId, name);
      } finally {
        adjust(checks, orgId, -1);
      }
    },
  );

  async function checkNow(c: Context<AuthEnv>, orgId: number, name: string) {
    const [requested] = await sql<{ requested_at: string; timeout_seconds: number }[]>`
      select requested_at::text, timeout_seconds from api.request_check(
        ${orgId}, ${name}, ${c.var.principal.subject}, ${requestOf(c)}::text::jsonb
      )`;
    if (!requested) throw noService(name);
    const row = await waitForWorker(c, requested.timeout_seconds, async () => {
      const [found] = await sql<(ResultRow & { current_status: (typeof serviceStatuses)[number] })[]>`
        select r.*, to_char(r.time, ${cursorFormat}) as cursor
        from api.get_check(${orgId}, ${name}, ${requested.requested_at}::text::timestamptz) r`;
      return found;
    });
    if (row) {
      const { current_status, ...result } = row;
      return c.json({ service_name: name, current_status, result: shownResult(result) } satisfies z.infer<
        typeof checkSchema
      >);
    }
    const requested_at = new Date(requested.requested_at).toISOString();
    return c.json({ service_name: name, requested_at } satisfies z.infer<typeof requestedSchema>, 202);
  }

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/services/{name}/timeline',
      tags,
      security: needs('services:read'),
      summary: 'How a service was: 24 hours or 7 days by the hour, 90 days by the day',
      description:
        'Steps (UTC) that had probes, the running one among them. healthy: every answer was as expected; unhealthy: none was.',
      request: { params: nameParams, query: timelineQuerySchema },
      responses: responses(200, 'The steps, oldest first', timelineSchema, [400, 401, 403, 404, 503]),
    }),
    async (c) => {
      const { period } = check(timelineQuerySchema, queryOf(c), 'query');
      const name = nameOf(c);
      const [row] = await sql<{ body: string | null }[]>`
        select api.get_timeline(${c.var.principal.orgId}, ${name}, ${period}) as body`;
      if (!row?.body) throw noService(name);
      return c.body(row.body, 200, { 'Content-Type': 'application/json' });
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/services/{name}/results',
      tags,
      security: needs('services:read'),
      summary: 'What the probes of a service found, the newest first',
      description: 'Of [start_time, end_time); without start_time as far back as results are kept.',
      request: { params: nameParams, query: rangeQuerySchema },
      responses: responses(200, 'Results', resultListSchema, [400, 401, 403, 404, 503, 504]),
    }),
    async (c) => {
      const [name, start, end, limit] = await range(c);
      const rows = await sql<ResultRow[]>`
        select r.*, to_char(r.time, ${cursorFormat}) as cursor
        from api.list_results(
          ${c.var.principal.orgId}, ${name}, ${start}::text::timestamptz, ${end}::text::timestamptz, ${limit + 1}
        ) r`;
      const { page, next_cursor } = pageWithTies(rows, limit);
      return c.json({ results: page.map(shownResult), next_cursor } satisfies z.infer<
        typeof resultListSchema
      >);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/services/{name}/events',
      tags,
      security: needs('services:read'),
      summary: 'The changes of a service, the newest first',
      description:
        'Each change of its status, pauses, and when it began and ceased to flap, of [start_time, end_time).',
      request: { params: nameParams, query: rangeQuerySchema },
      responses: responses(200, 'Events', eventListSchema, [400, 401, 403, 404, 503, 504]),
    }),
    async (c) => {
      const [name, start, end, limit] = await range(c);
      const rows = await sql<
        (Omit<z.infer<typeof eventListSchema>['events'][number], 'time'> & { time: Date; cursor: string })[]
      >`
        select e.*, to_char(e.time, ${cursorFormat}) as cursor
        from api.list_service_events(
          ${c.var.principal.orgId}, ${name}, ${start}::text::timestamptz, ${end}::text::timestamptz, ${limit + 1}
        ) e`;
      const { page, next_cursor } = pageWithTies(rows, limit);
      return c.json({
        events: page.map(({ cursor, time, ...event }) => ({ time: time.toISOString(), ...event })),
        next_cursor,
      } satisfies z.infer<typeof eventListSchema>);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/health/services',
      tags,
      security: needs('services:read'),
      summary: 'How every service is, with the last 24 hours',
      description: 'Kept for two seconds (CACHE_MS); what the org itself changes is in the next answer.',
      request: { query: healthQuerySchema },
      responses: {
        ...responses(200, 'Services by name', healthSchema, [400, 401, 403, 503, 504]),
        304: { description: 'As the client has it: If-None-Match names its ETag' },
      },
    }),
    async (c) => {
      const { history } = check(healthQuerySchema, queryOf(c), 'query');
      return hotAnswers.respond(c, `health/services?history=${history}`, async () => {
        const [row] = await sql<{ answer: string }[]>`
          select api.get_services_health(${c.var.principal.orgId}, ${history}) as answer`;
        return row!.answer;
      });
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/heartbeat/{name}',
      tags,
      security: needs('heartbeats:write'),
      summary: 'A heartbeat service calls in',
      description:
        'Without a body it is healthy. It is down when no heartbeat has come for check_interval_seconds and timeout_seconds together.',
      request: {
        params: nameParams,
        body: { required: false, content: { 'application/json': { schema: heartbeatSchema } } },
      },
      responses: responses(201, 'Heard', heardSchema, [400, 401, 403, 404, 409, 413, 415, 503]),
    }),
    async (c) => {
      const body = await readBody(c, maxBodyBytes);
      const { status = 'healthy', message } = check(
        heartbeatSchema,
        body.length > 0 ? parseJson(c, body) : {},
      );
      const name = nameOf(c);
      const outcome = { healthy: 'up', degraded: 'degraded', unhealthy: 'down' }[status];
      const reason = message ?? (status === 'healthy' ? null : `it says that it is ${status}`);
      const [row] = await sql<{ is_found: boolean }[]>`
        select api.record_heartbeat(
          ${c.var.principal.orgId}, ${name}, ${outcome}, ${reason}, ${c.var.principal.subject}
        ) as is_found`;
      if (!row!.is_found) throw noService(name);
      return c.json({ recorded: 1 } satisfies z.infer<typeof heardSchema>, 201);
    },
  );

  // Of a list that belongs to a service: its name, and what to ask for.
  async function range(c: Context<AuthEnv>): Promise<[string, string, string, number]> {
    const query = check(rangeQuerySchema, queryOf(c), 'query');
    if (query.cursor !== undefined && !isTimestamp(query.cursor)) throw badCursor();
    const name = nameOf(c);
    const [row] = await sql<{ is_found: boolean }[]>`
      select api.has_service(${c.var.principal.orgId}, ${name}) as is_found`;
    if (!row!.is_found) throw noService(name);
    return [name, query.start_time ?? '-infinity', query.cursor ?? query.end_time ?? 'infinity', query.limit];
  }

  return router;
}

interface ResultRow extends Omit<z.infer<typeof resultSchema>, 'time' | 'slot'> {
  time: Date;
  slot: Date | null;
  cursor: string;
}

function shownResult({ cursor, time, slot, ...result }: ResultRow): z.infer<typeof resultSchema> {
  return { time: time.toISOString(), slot: slot?.toISOString() ?? null, ...result };
}

// Rows of one time are never parted, so that the next page can begin before it: the query answers with ties.
function pageWithTies<Row extends { cursor: string }>(rows: readonly Row[], limit: number) {
  const last = rows[limit - 1]?.cursor;
  const ties = rows.slice(limit).findIndex(({ cursor }) => cursor !== last);
  return pageOf(rows, ties === -1 ? rows.length : limit + ties, ({ cursor }) => cursor);
}

/** A service as the caller may see it: what may hold secrets is for those who could change it. */
function shown(c: Context<AuthEnv>, { definition, state }: ServiceRow): z.infer<typeof serviceSchema> {
  return { ...shownDefinition(c, definition), ...state };
}

/** A service's definition as the caller may see it, likewise. */
export function shownDefinition(c: Context<AuthEnv>, definition: ServiceDefinition): ServiceDefinition {
  if (c.var.principal.permissions.has('services:write')) return definition;
  return {
    ...definition,
    health_endpoint: definition.health_endpoint?.replace(/\?.*$/, '?***') ?? null,
    headers: Object.fromEntries(Object.keys(definition.headers).map((name) => [name, '***'])),
    request_body: definition.request_body === null ? null : '***',
  };
}

function nameOf(c: Context<AuthEnv>): string {
  const name = c.req.param('name') ?? '';
  return check(text(255), name, 'name');
}

function noService(name: string): Problem {
  return new Problem(404, 'not_found', `There is no service ${JSON.stringify(name)}.`);
}
