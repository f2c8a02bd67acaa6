// The audit log: who changed what, and what was refused to whom.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { AuthEnv } from '../auth.ts';
import type { Sql } from '../db.ts';
import { needs } from '../permissions.ts';
import {
  check,
  cursorSchema,
  endpoint,
  endsAfterStart,
  pageAfter,
  pageLimitSchema,
  pageOf,
  queryOf,
  responses,
  text,
  timestampSchema,
} from '../request.ts';

const eventSchema = z
  .strictObject({
    id: z.uuid(),
    time: z.iso.datetime(),
    actor: z.string().openapi({ description: 'The sub claim, or the name of the API token' }),
    token_id: z.uuid().nullable().openapi({ description: 'The API token; null for a JWT' }),
    action: z.string().openapi({
      description: 'Of a change kind.verb; of what was refused or read its endpoint',
      example: 'channel.update',
    }),
    target_kind: z.string().nullable(),
    target_id: z.string().nullable().openapi({
      description: 'Its id, or the name of a service; of what was refused or read the path',
    }),
    outcome: z.enum(['done', 'refused']),
    status: z.number().int().nullable().openapi({ description: 'HTTP status of what was refused or read' }),
    count: z.number().int().openapi({
      description: 'How often the same was refused at that moment',
    }),
    before: z.unknown(),
    after: z.unknown(),
    request_id: z.string().nullable(),
    address: z.string().nullable(),
  })
  .openapi('AuditEvent');

const querySchema = z
  .strictObject({
    actor: text(255).optional(),
    action: text(255)
      .optional()
      .openapi({ description: 'Such as channel.update, or channel for all of its kind' }),
    target_kind: text(255).optional(),
    target_id: text(1000).optional(),
    outcome: z.enum(['done', 'refused'], 'expected done or refused').optional(),
    token_id: z.guid('expected the id of a token').optional(),
    request_id: text(128).optional(),
    address: text(255).optional(),
    start_time: timestampSchema.optional(),
    end_time: timestampSchema.optional(),
    limit: pageLimitSchema,
    cursor: cursorSchema.optional(),
  })
  .refine(...endsAfterStart);

const listSchema = z.strictObject({ events: z.array(eventSchema), next_cursor: z.string().nullable() });

export function auditRoutes({ sql }: { sql: Sql }) {
  const router = new OpenAPIHono<AuthEnv>();
  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/audit',
      tags: ['Audit'],
      security: needs('audit:read'),
      summary: 'The audit log, newest first',
      description:
        'Every change of what the org has defined, of its alerts, tokens and settings, with what was there before and after (without secrets), and every access that was refused: ' +
        '403, and 401 for a token of the org that has expired or is revoked. Reads too where the deployment sets AUDIT_READS. What is recorded (metrics, logs, heartbeats) is not in it. Kept for 400 days.',
      request: { query: querySchema },
      responses: responses(200, 'Its events', listSchema, [400, 401, 403, 503, 504]),
    }),
    async (c) => {
      const query = check(querySchema, queryOf(c), 'query');
      const after = pageAfter(query.cursor);
      const { start_time, end_time, limit, cursor: _, ...filters } = query;
      const rows = await sql<{ event: z.infer<typeof eventSchema>; cursor: string }[]>`
        select event, cursor from api.list_audit(
          ${c.var.principal.orgId}, ${JSON.stringify(filters)}::text::jsonb, ${start_time ?? '-infinity'}::text::timestamptz,
          ${end_time ?? 'infinity'}::text::timestamptz, ${after.at}::text::timestamptz, ${after.id}::text::uuid, ${limit + 1}
        )`;
      const { page, next_cursor } = pageOf(rows, limit, ({ cursor }) => cursor);
      return c.json({
        events: page.map((row) => row.event),
        next_cursor,
      } satisfies z.infer<typeof listSchema>);
    },
  );
  return router;
}
