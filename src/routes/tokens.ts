// API tokens: what machines sign in with, given out by the service itself.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { type AuthEnv, type Authenticator, newApiToken } from '../auth.ts';
import type { Sql } from '../db.ts';
import { Problem } from '../errors.ts';
import { grantedBy, needs, permissions, type Role, roles } from '../permissions.ts';
import {
  check,
  cursorSchema,
  endpoint,
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
import { idParams } from './definitions.ts';

const roleSchema = z.enum(roles, `expected one of ${roles.join(', ')}`);
const permissionsSchema = z
  .array(z.enum(permissions, `expected one of ${permissions.join(', ')}`))
  .min(1, 'must hold one')
  .max(permissions.length, `at most ${permissions.length}`)
  .nullable()
  .openapi({
    description: 'Narrows what the role allows; null, the default, leaves it all',
    example: ['metrics:write'],
  });
const expirySchema = timestampSchema
  .refine((time) => Date.parse(time) > Date.now(), 'must be in the future')
  .nullable()
  .openapi({ description: 'null, the default: never' });

const newTokenSchema = z
  .strictObject({
    name: text(255),
    role: roleSchema,
    permissions: permissionsSchema.optional(),
    expires_at: expirySchema.optional(),
  })
  .openapi('NewToken');

const tokenChangesSchema = z
  .strictObject({
    name: text(255).optional(),
    role: roleSchema.optional(),
    permissions: permissionsSchema.optional(),
    expires_at: expirySchema.optional(),
  })
  .openapi('TokenChanges');

const tokenFields = {
  id: z.uuid(),
  name: z.string(),
  prefix: z.string().openapi({ description: 'How it begins', example: 'obs_3f9a01bc' }),
  role: z.enum(roles),
  permissions: z.array(z.string()).nullable(),
  expires_at: z.iso.datetime().nullable(),
  created_by: z.string(),
  created_at: z.iso.datetime(),
  updated_at: z.iso.datetime(),
  last_used_at: z.iso.datetime().nullable().openapi({ description: 'To within a few seconds' }),
  last_used_address: z.string().nullable(),
  revoked_at: z.iso.datetime().nullable(),
  revoked_by: z.string().nullable(),
};
const tokenSchema = z.strictObject(tokenFields).openapi('Token');
const madeTokenSchema = z
  .strictObject({
    ...tokenFields,
    token: z.string().openapi({ description: 'The token itself, which is not shown again' }),
  })
  .openapi('MadeToken');

type Token = z.infer<typeof tokenSchema>;

const listQuerySchema = z.strictObject({ limit: pageLimitSchema, cursor: cursorSchema.optional() });
const tags = ['Tokens'];

export interface TokenDependencies {
  sql: Sql;
  maxBodyBytes: number;
  authenticator: Authenticator;
}

export function tokenRoutes({ sql, maxBodyBytes, authenticator }: TokenDependencies) {
  const router = new OpenAPIHono<AuthEnv>();
  const missing = () => new Problem(404, 'not_found', 'There is no such token.');

  // Or whoever may make tokens could make one that may more.
  function checkReach(c: Context<AuthEnv>, role: Role, narrowedTo: readonly string[] | null) {
    const beyond = [...grantedBy([role], narrowedTo ?? undefined)].filter(
      (permission) => !c.var.principal.permissions.has(permission),
    );
    if (beyond.length === 0) return;
    const path = narrowedTo ? 'permissions' : 'role';
    const message = `would allow what the token that asks for it does not: ${beyond.join(', ')}`;
    throw new Problem(403, 'forbidden', `${path}: ${message}`, { errors: [{ path, message }] });
  }

  async function find(c: Context<AuthEnv>): Promise<Token> {
    const id = c.req.param('id')!;
    const [row] = isUuid(id)
      ? await sql<{ token: Token | null }[]>`
          select api.get_token(${c.var.principal.orgId}, ${id}::text::uuid) as token`
      : [];
    if (!row?.token) throw missing();
    return row.token;
  }

  async function change(c: Context<AuthEnv>, id: string, fields: object): Promise<Token> {
    const { orgId, subject } = c.var.principal;
    const [row] = await sql<{ token: Token | null }[]>`
      select api.change_token(
        ${orgId}, ${id}::text::uuid, ${JSON.stringify(fields)}::text::jsonb, ${subject}, ${requestOf(c)}::text::jsonb
      ) as token`;
    if (!row!.token) throw missing();
    authenticator.forgetTokens();
    return row!.token;
  }

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/tokens',
      tags,
      security: needs('tokens:write'),
      summary: 'Make an API token',
      description:
        'It is sent as any other: `Authorization: Bearer obs_…`. What it may do is what its role allows, narrowed by its permissions, and never more than the token allows that makes it. ' +
        'The token is in this answer alone: the service keeps its SHA-256.',
      request: {
        body: { required: true, content: { 'application/json': { schema: newTokenSchema } } },
      },
      responses: responses(201, 'The token', madeTokenSchema, [400, 401, 403, 409, 413, 415, 422, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      const given = check(newTokenSchema, parseJson(c, await readBody(c, maxBodyBytes)));
      checkReach(c, given.role, given.permissions ?? null);
      const { token, prefix, hash } = newApiToken();
      const { orgId, subject } = c.var.principal;
      const [row] = await sql<{ token: Token }[]>`
        select api.create_token(
          ${orgId}, ${JSON.stringify({ ...given, prefix })}::text::jsonb, ${`\\x${hash.toString('hex')}`}::text::bytea, ${subject},
          ${requestOf(c)}::text::jsonb
        ) as token`;
      return c.json({ ...row!.token, token } satisfies z.infer<typeof madeTokenSchema>, 201);
    },
  );

  const listSchema = z.strictObject({ tokens: z.array(tokenSchema), next_cursor: z.string().nullable() });

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/tokens',
      tags,
      security: needs('tokens:read'),
      summary: 'List API tokens, the newest first',
      description: 'Those that are revoked or have expired too, until they are deleted.',
      request: { query: listQuerySchema },
      responses: responses(200, 'The tokens', listSchema, [400, 401, 403, 503]),
    }),
    async (c) => {
      const query = check(listQuerySchema, queryOf(c), 'query');
      const after = pageAfter(query.cursor);
      const rows = await sql<{ token: Token; cursor: string }[]>`
        select token, cursor from api.list_tokens(
          ${c.var.principal.orgId}, ${after.at}::text::timestamptz, ${after.id}::text::uuid, ${query.limit + 1}
        )`;
      const { page, next_cursor } = pageOf(rows, query.limit, ({ cursor }) => cursor);
      return c.json({
        tokens: page.map((row) => row.token),
        next_cursor,
      } satisfies z.infer<typeof listSchema>);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/tokens/{id}',
      tags,
      security: needs('tokens:read'),
      summary: 'An API token',
      request: { params: idParams },
      responses: responses(200, 'The token', tokenSchema, [400, 401, 403, 404, 503]),
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
      path: '/tokens/{id}',
      tags,
      security: needs('tokens:write'),
      summary: 'Change an API token',
      description: 'Fields that are left out stay as they are. Other processes go by it two seconds later.',
      request: {
        params: idParams,
        body: { required: true, content: { 'application/json': { schema: tokenChangesSchema } } },
      },
      responses: responses(200, 'The token', tokenSchema, [400, 401, 403, 404, 409, 413, 415, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      const given = check(tokenChangesSchema, parseJson(c, await readBody(c, maxBodyBytes)));
      const before = await find(c);
      // Of one that is beyond the reach of who changes it nothing is to change, such as its end.
      checkReach(c, before.role, before.permissions);
      const role = given.role ?? before.role;
      const permissions = given.permissions === undefined ? before.permissions : given.permissions;
      checkReach(c, role, permissions);
      // Both, as they were checked: another change may have come in between.
      return c.json(await change(c, before.id, { ...given, role, permissions }));
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/tokens/{id}/revoke',
      tags,
      security: needs('tokens:write'),
      summary: 'Revoke an API token, for good',
      description:
        'It stays in the list. It lets nobody in any more: here at once, at other processes two seconds later.',
      request: { params: idParams },
      responses: responses(200, 'The token', tokenSchema, [400, 401, 403, 404, 409, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      const { id } = await find(c);
      return c.json(await change(c, id, { revoked_at: new Date().toISOString() }));
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'delete',
      path: '/tokens/{id}',
      tags,
      security: needs('tokens:write'),
      summary: 'Delete an API token',
      description: 'As revoking it, and it is not in the list any more; the audit log knows it.',
      request: { params: idParams },
      responses: responses(204, 'It is gone', null, [400, 401, 403, 404, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      const { orgId, subject } = c.var.principal;
      const { id } = await find(c);
      await sql`select api.delete_token(${orgId}, ${id}::text::uuid, ${subject}, ${requestOf(c)}::text::jsonb)`;
      authenticator.forgetTokens();
      return c.body(null, 204);
    },
  );
  return router;
}
