// The ledger of notifications: what channels were told, and each attempt to tell them.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { AuthEnv } from '../auth.ts';
import type { Sql } from '../db.ts';
import { Problem } from '../errors.ts';
import { needs } from '../permissions.ts';
import {
  check,
  cursorSchema,
  endpoint,
  isUuid,
  pageAfter,
  pageLimitSchema,
  queryOf,
  refuseQuery,
  requestOf,
  responses,
  toCursor,
} from '../request.ts';
import { idParams } from './definitions.ts';

const statuses = ['pending', 'delivered', 'dead'] as const;

export const notificationSchema = z
  .strictObject({
    id: z.uuid().openapi({ description: 'The Idempotency-Key of each attempt' }),
    channel_id: z.uuid().nullable().openapi({ description: 'Null once the channel is deleted' }),
    channel: z.string(),
    type: z.string(),
    kind: z.enum(['alert', 'test']),
    status: z.enum(statuses).openapi({
      description:
        'pending: not delivered yet, and tried again; dead: given up, see /notifications/{id}/resend',
    }),
    error: z.string().nullable().openapi({ description: 'Of the last attempt that failed' }),
    group_labels: z.record(z.string(), z.string()),
    created_at: z.iso.datetime(),
    next_attempt_at: z.iso.datetime().nullable(),
    settled_at: z.iso.datetime().nullable(),
    alerts: z.array(z.strictObject({ id: z.uuid(), name: z.string(), status: z.string() })),
    attempts: z.array(
      z.strictObject({
        number: z.number().int(),
        at: z.iso.datetime(),
        delivered: z
          .boolean()
          .nullable()
          .openapi({ description: 'Null while it is under way, or when it was lost with its worker' }),
        response_code: z.number().int().nullable().openapi({ description: 'Of HTTP, or of SMTP' }),
        latency_ms: z.number().nullable(),
        error: z.string().nullable(),
        detail: z.string().nullable().openapi({ description: 'How the receiver answered, in short' }),
      }),
    ),
  })
  .openapi('Notification');
const detailSchema = z
  .strictObject({
    ...notificationSchema.shape,
    message: z
      .record(z.string(), z.unknown())
      .openapi({ description: 'What it says: the body of a webhook' }),
  })
  .openapi('NotificationDetail');
const listSchema = z
  .strictObject({ notifications: z.array(notificationSchema), next_cursor: z.string().nullable() })
  .openapi('NotificationList');

const listQuerySchema = z.strictObject({
  status: z.enum(statuses, `expected one of ${statuses.join(', ')}`).optional(),
  channel_id: z.guid('expected the id of a channel').optional(),
  alert_id: z.guid('expected the id of an alert').optional(),
  limit: pageLimitSchema,
  cursor: cursorSchema.optional(),
});

const tags = ['Notifications'];

export function notificationRoutes({ sql }: { sql: Sql }) {
  const router = new OpenAPIHono<AuthEnv>();
  const missing = () => new Problem(404, 'not_found', 'There is no such notification.');

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/notifications',
      tags,
      security: needs('notifications:read'),
      summary: 'List notifications, the newest first',
      description: 'Each with its attempts. Dead letters are those of status dead. They are kept 90 days.',
      request: { query: listQuerySchema },
      responses: responses(200, 'Notifications', listSchema, [400, 401, 403, 503]),
    }),
    async (c) => {
      const query = check(listQuerySchema, queryOf(c), 'query');
      const after = pageAfter(query.cursor);
      const [row] = await sql<{ notifications: z.infer<typeof notificationSchema>[]; next: string | null }[]>`
        select l.notifications, to_char(l.next_created_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || ' ' || l.next_id as next
        from api.list_notifications(
          ${c.var.principal.orgId}, ${query.status ?? null}, ${query.channel_id ?? null}::text::uuid, ${query.alert_id ?? null}::text::uuid,
          ${after.at}::text::timestamptz, ${after.id}::text::uuid, ${query.limit}
        ) l`;
      return c.json({
        notifications: row!.notifications,
        next_cursor: row!.next === null ? null : toCursor(row!.next),
      } satisfies z.infer<typeof listSchema>);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/notifications/{id}',
      tags,
      security: needs('notifications:read'),
      summary: 'A notification and what it says',
      request: { params: idParams },
      responses: responses(200, 'The notification', detailSchema, [400, 401, 403, 404, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      const id = c.req.param('id')!;
      const [row] = isUuid(id)
        ? await sql<{ notification: object; message: object }[]>`
            select notification, message from api.get_notification(${c.var.principal.orgId}, ${id}::text::uuid)`
        : [];
      if (!row) throw missing();
      return c.json({ ...row.notification, message: row.message });
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/notifications/{id}/resend',
      tags,
      security: needs('notifications:write'),
      summary: 'Send a dead notification after all',
      description:
        'With the same Idempotency-Key, and all the attempts of its channel. 409 unless it is dead.',
      request: { params: idParams },
      responses: responses(
        200,
        'The notification, pending',
        notificationSchema,
        [400, 401, 403, 404, 409, 503],
      ),
    }),
    async (c) => {
      refuseQuery(c);
      const id = c.req.param('id')!;
      const [row] = isUuid(id)
        ? await sql<{ notification: z.infer<typeof notificationSchema> | null }[]>`
            select api.resend_notification(
              ${c.var.principal.orgId}, ${id}::text::uuid, ${c.var.principal.subject}, ${requestOf(c)}::text::jsonb
            ) as notification`
        : [];
      if (!row?.notification) throw missing();
      return c.json(row.notification);
    },
  );
  return router;
}
