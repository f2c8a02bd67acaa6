// Alerts: opened by clients and by the service itself, acknowledged and resolved by operators.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type { AuthEnv } from '../auth.ts';
import type { Sql } from '../db.ts';
import { Problem } from '../errors.ts';
import { limits } from '../ingest/metrics.ts';
import { needs } from '../permissions.ts';
import {
  check,
  cursorSchema,
  endpoint,
  endsAfterStart,
  isUuid,
  jsonObjectSchema,
  pageAfter,
  pageLimitSchema,
  parseJson,
  prose,
  queryOf,
  readBody,
  refuseQuery,
  requestOf,
  responses,
  text,
  timestampSchema,
  toCursor,
} from '../request.ts';
import { expressionFields, expressionSchema } from './expressions.ts';
import { labelsSchema } from './metrics.ts';
import { notificationSchema } from './notifications.ts';

export const severities = ['critical', 'warning', 'info'] as const;
const statuses = ['pending', 'firing', 'acknowledged', 'resolved'] as const;
export const severitySchema = z.enum(severities, `expected one of ${severities.join(', ')}`);

const alertFields = {
  id: z.uuid(),
  name: z.string(),
  description: z.string().nullable(),
  severity: z.enum(severities),
  status: z.enum(statuses).openapi({
    description: 'pending: the condition of its rule holds, and not for long enough yet',
  }),
  source: z.enum(['api', 'rule', 'service', 'worker']).openapi({
    description: 'A client; a rule; the probes of a service; the worker, about itself',
  }),
  service_name: z.string().nullable(),
  labels: z.record(z.string(), z.string()),
  annotations: z.record(z.string(), z.string()),
  metadata: z.record(z.string(), z.unknown()),
  value: z.number().nullable().openapi({ description: 'What its rule found last, while the condition held' }),
  rule_id: z.uuid().nullable(),
  started_at: z.iso.datetime(),
  acknowledged_at: z.iso.datetime().nullable(),
  resolved_at: z.iso.datetime().nullable(),
  duration_seconds: z.number(),
};
export const alertSchema = z.strictObject(alertFields).openapi('Alert');
const alertDetailSchema = z
  .strictObject({
    ...alertFields,
    events: z.array(
      z.strictObject({
        at: z.iso.datetime(),
        event: z.string().openapi({
          description:
            'The status that it led to, or note, updated, escalated, muted, unmuted, notification_failed, flapping, stable, dependency_unhealthy, which change none',
          example: 'acknowledged',
        }),
        from_status: z.string().nullable(),
        to_status: z.string().nullable(),
        actor: z.string().openapi({ description: 'Subject of the token, or worker' }),
        note: z.string().nullable(),
        details: z.record(z.string(), z.unknown()),
      }),
    ),
    notifications: z.array(notificationSchema),
    muted_by: z
      .array(
        z.strictObject({
          kind: z.enum(['silence', 'maintenance_window', 'alert']),
          id: z.uuid(),
          name: z.string(),
          until: z.iso.datetime().nullable(),
        }),
      )
      .openapi({ description: 'Why nobody is notified of it at this moment' }),
    channels: z.array(z.string()).openapi({
      description:
        'The channels that were or will be told of it; empty where the routing of none that is enabled lets it pass',
    }),
  })
  .openapi('AlertDetail');
const alertListSchema = z
  .strictObject({
    alerts: z.array(alertSchema),
    summary: z
      .strictObject({
        critical: z.number().int(),
        warning: z.number().int(),
        info: z.number().int(),
        firing: z.number().int(),
        acknowledged: z.number().int(),
        resolved: z.number().int(),
        pending: z.number().int(),
        mean_time_to_acknowledge_seconds: z.number().nullable(),
        mean_time_to_resolve_seconds: z.number().nullable(),
      })
      .openapi({ description: 'All that match, on this page or not' }),
    next_cursor: z.string().nullable(),
  })
  .openapi('AlertList');

const newAlertSchema = z
  .strictObject({
    name: text(255).openapi({ example: 'Backup failed' }),
    severity: severitySchema,
    description: prose(10_000).nullish(),
    service_name: text(limits.serviceNameLength).nullish(),
    labels: labelsSchema.optional(),
    metadata: jsonObjectSchema.optional(),
    rule_expression: expressionSchema.optional().openapi({
      description:
        'Makes an alert rule of this name besides (or changes the one there is), which goes on looking: it resolves this alert once its condition ' +
        'has held and does so no more, and opens others. It is about service_name, where that is given.',
    }),
  })
  .openapi('NewAlert');

const listQuerySchema = z
  .strictObject({
    status: z.enum(statuses, `expected one of ${statuses.join(', ')}`).optional(),
    severity: severitySchema.optional(),
    service_name: text(limits.serviceNameLength).optional(),
    start_time: timestampSchema.optional(),
    end_time: timestampSchema.optional(),
    q: text(255).optional(),
    limit: pageLimitSchema,
    cursor: cursorSchema.optional(),
  })
  .refine(...endsAfterStart);

const transitionSchema = z.strictObject({ note: prose(10_000).nullish() }).openapi('AlertTransition');

const noteSchema = z
  .strictObject({ note: prose(10_000).refine((note) => note.trim() !== '', 'must not be empty') })
  .openapi('AlertNote');

const tags = ['Alerts'];
const idParams = z.object({ id: z.string().openapi({ format: 'uuid' }) });

export function alertRoutes({ sql, maxBodyBytes }: { sql: Sql; maxBodyBytes: number }) {
  const router = new OpenAPIHono<AuthEnv>();

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/alerts',
      tags,
      security: needs('alerts:write'),
      summary: 'Open an alert',
      description:
        'While an alert with the same name, service_name and labels is open, that one is brought up to date instead (what is left out ' +
        'stays as it is): one problem is one alert, however often it is reported.',
      request: { body: { required: true, content: { 'application/json': { schema: newAlertSchema } } } },
      responses: {
        ...responses(201, 'The alert, firing', alertSchema, [400, 401, 403, 413, 415, 422, 503]),
        200: {
          description: 'The alert that was open already',
          content: { 'application/json': { schema: alertSchema } },
        },
      },
    }),
    async (c) => {
      refuseQuery(c);
      const alert = check(newAlertSchema, parseJson(c, await readBody(c, maxBodyBytes)));
      const rule = alert.rule_expression && {
        name: alert.name,
        severity: alert.severity,
        is_enabled: true,
        ...expressionFields(alert.rule_expression, alert.service_name),
        ...(alert.labels ? { labels: alert.labels, label_templates: literal(alert.labels) } : {}),
        ...(alert.description
          ? {
              annotations: { description: alert.description },
              annotation_templates: literal({ description: alert.description }),
            }
          : {}),
      };
      const [row] = await sql<{ alert: z.infer<typeof alertSchema>; is_new: boolean }[]>`
        select * from api.create_alert(
          ${c.var.principal.orgId}, ${alert.name}, ${alert.severity}, ${alert.description ?? null}, ${alert.service_name ?? null},
          ${JSON.stringify(alert.labels ?? {})}::text::jsonb, ${alert.metadata ? JSON.stringify(alert.metadata) : null}::text::jsonb,
          ${rule ? JSON.stringify(rule) : null}::text::jsonb, ${c.var.principal.subject},
          ${requestOf(c)}::text::jsonb
        )`;
      return c.json(row!.alert, row!.is_new ? 201 : 200);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/alerts',
      tags,
      security: needs('alerts:read'),
      summary: 'List alerts, the newest first',
      request: { query: listQuerySchema },
      responses: responses(
        200,
        'Alerts that started in [start_time, end_time)',
        alertListSchema,
        [400, 401, 403, 503, 504],
      ),
    }),
    async (c) => {
      const query = check(listQuerySchema, queryOf(c), 'query');
      const after = pageAfter(query.cursor);
      const [row] = await sql<
        {
          alerts: z.infer<typeof alertSchema>[];
          summary: z.infer<typeof alertListSchema>['summary'];
          next: string | null;
        }[]
      >`
        select l.alerts, l.summary, to_char(l.next_started_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || ' ' || l.next_id as next
        from api.list_alerts(
          ${c.var.principal.orgId}, ${query.status ?? null}, ${query.severity ?? null}, ${query.service_name ?? null},
          ${query.start_time ?? null}::text::timestamptz, ${query.end_time ?? null}::text::timestamptz, ${query.q ?? null},
          ${after.at}::text::timestamptz, ${after.id}::text::uuid, ${query.limit}
        ) l`;
      return c.json({
        alerts: row!.alerts,
        summary: row!.summary,
        next_cursor: row!.next === null ? null : toCursor(row!.next),
      } satisfies z.infer<typeof alertListSchema>);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/alerts/{id}',
      tags,
      security: needs('alerts:read'),
      summary: 'An alert with its history',
      request: { params: idParams },
      responses: responses(200, 'The alert', alertDetailSchema, [400, 401, 403, 404, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      const [row] = isUuid(c.req.param('id') ?? '')
        ? await sql<
            {
              alert: object;
              events: object[];
              notifications: object[];
              muted_by: object[];
              channels: string[];
            }[]
          >`
            select * from api.get_alert(${c.var.principal.orgId}, ${c.req.param('id')!}::text::uuid)`
        : [];
      if (!row) throw noAlert();
      const { alert, ...details } = row;
      return c.json({ ...alert, ...details });
    },
  );

  for (const [verb, to, description] of [
    ['acknowledge', 'acknowledged', 'Somebody is at it. 409 unless the alert is firing.'],
    ['resolve', 'resolved', 'It is over. 409 when it is resolved already.'],
  ] as const) {
    endpoint(
      router,
      createRoute({
        method: 'put',
        path: `/alerts/{id}/${verb}`,
        tags,
        security: needs('alerts:write'),
        summary: `${verb[0]!.toUpperCase()}${verb.slice(1)} an alert`,
        description,
        request: {
          params: idParams,
          body: { required: false, content: { 'application/json': { schema: transitionSchema } } },
        },
        responses: responses(
          200,
          'The alert as it is now',
          alertSchema,
          [400, 401, 403, 404, 409, 413, 415, 503],
        ),
      }),
      (c: Context<AuthEnv>) => transition(c, to),
    );
  }

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/alerts/{id}/notes',
      tags,
      security: needs('alerts:write'),
      summary: 'Add a note to an alert',
      description: 'To its history, whatever its status.',
      request: {
        params: idParams,
        body: { required: true, content: { 'application/json': { schema: noteSchema } } },
      },
      responses: responses(201, 'The alert', alertSchema, [400, 401, 403, 404, 413, 415, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      const { note } = check(noteSchema, parseJson(c, await readBody(c, maxBodyBytes)));
      const id = c.req.param('id') ?? '';
      const [row] = isUuid(id)
        ? await sql<{ alert: z.infer<typeof alertSchema> | null }[]>`
            select api.add_note(
              ${c.var.principal.orgId}, ${id}::text::uuid, ${c.var.principal.subject}, ${note}, ${requestOf(c)}::text::jsonb
            ) as alert`
        : [];
      if (!row?.alert) throw noAlert();
      return c.json(row.alert, 201);
    },
  );

  async function transition(c: Context<AuthEnv>, to: 'acknowledged' | 'resolved') {
    refuseQuery(c);
    const body = await readBody(c, maxBodyBytes);
    const { note } = check(transitionSchema, body.length > 0 ? parseJson(c, body) : {});
    const id = c.req.param('id') ?? '';
    const [row] = isUuid(id)
      ? await sql<{ alert: z.infer<typeof alertSchema> | null }[]>`
          select api.change_alert(
            ${c.var.principal.orgId}, ${id}::text::uuid, ${to}, ${c.var.principal.subject}, ${note ?? null},
            ${requestOf(c)}::text::jsonb
          ) as alert`
      : [];
    if (!row?.alert) throw noAlert();
    return c.json(row.alert);
  }

  return router;
}

/** Texts as templates that say what they say, whatever they hold. */
function literal(texts: Record<string, string>): Record<string, string[]> {
  return Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, [text]]));
}

function noAlert(): Problem {
  return new Problem(404, 'not_found', 'There is no such alert.');
}
