// What alert rules, channels, silences, maintenance windows, escalations and dashboards have in common: made, listed, read, changed, deleted.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
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
  pageOf,
  parseJson,
  queryOf,
  readBody,
  refuseQuery,
  requestOf,
  responses,
  text,
} from '../request.ts';
import { showMatchers } from './expressions.ts';

/** A row of a definition's table as JSON, as lib.definition_fields shows it. */
export type Row = Record<string, unknown> & { id: string; created_at: string };

export interface Resource<New extends z.ZodType, Changes extends z.ZodType, Shown extends z.ZodType> {
  /** Its table, see lib.check_kind. */
  kind: 'alert_rule' | 'channel' | 'silence' | 'maintenance_window' | 'escalation' | 'dashboard';
  /** Such as /alert-rules. */
  path: string;
  tags: string[];
  /** Whose permissions it takes, area:read and area:write. */
  area: 'rules' | 'channels' | 'silences' | 'dashboards';
  /** Such as "alert rule", and how it is called in the list of all. */
  noun: string;
  plural: string;
  /** What makes one, with what a description has to say of it. */
  newSchema: New;
  description?: string;
  /** What PATCH takes. */
  changesSchema: Changes;
  shownSchema: Shown;
  /** What the list's query parameter active means. */
  activeMeans: string;
  /** Columns of its table. before is the row that is to be changed. */
  toFields(
    given: z.output<New> | z.output<Changes>,
    before: Row | null,
    orgId: number,
  ): Record<string, unknown> | Promise<Record<string, unknown>>;
  /** What of a row is shown; created_at and updated_at are as they are to be already. */
  toShown(row: Row): z.input<Shown>;
}

export interface RouteDependencies {
  sql: Sql;
  maxBodyBytes: number;
}

export const idParams = z.object({ id: z.string().openapi({ format: 'uuid' }) });

const listQuerySchema = z.strictObject({
  q: text(255).optional(),
  active: z.enum(['true', 'false'], 'expected true or false').optional(),
  limit: pageLimitSchema,
  cursor: cursorSchema.optional(),
});

export const switchSchema = z.boolean('expected true or false');

/** An instant of a row as the API shows it. */
export function instant(value: unknown): string {
  return new Date(String(value)).toISOString();
}

/** What is shown of a row that can be switched off and chooses alerts by matchers. */
export function shownSwitch({ is_enabled, ...row }: Row) {
  return { ...row, matchers: showMatchers(row.matchers), enabled: is_enabled };
}

/** A definition as an export shows it: what makes it anew (its POST takes these fields), and its id, by which others name it. */
export function exportedDefinition(shown: object, { shape }: z.ZodObject): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(shown).filter(([name, value]) => name === 'id' || (name in shape && value !== null)),
  );
}

export function instantOrNull(value: unknown): string | null {
  return value === null || value === undefined ? null : instant(value);
}

export function definitionRoutes<New extends z.ZodType, Changes extends z.ZodType, Shown extends z.ZodType>(
  { sql, maxBodyBytes }: RouteDependencies,
  resource: Resource<New, Changes, Shown>,
): OpenAPIHono<AuthEnv> {
  const { kind, path, tags, area, noun, plural, newSchema, changesSchema, shownSchema } = resource;
  const router = new OpenAPIHono<AuthEnv>();
  const name = plural.replace(/\s/g, '_');
  const listSchema = z.strictObject({ [name]: z.array(shownSchema), next_cursor: z.string().nullable() });
  const missing = () => new Problem(404, 'not_found', `There is no such ${noun}.`);
  const a = /^[aeiou]/.test(noun) ? 'an' : 'a';

  const show = (row: Row) =>
    resource.toShown({
      ...row,
      created_at: instant(row.created_at),
      updated_at: instant(row.updated_at),
    }) as object;

  async function find(orgId: number, id: string): Promise<Row> {
    const [row] = isUuid(id)
      ? await sql<{ definition: Row | null }[]>`
          select api.get_definition(${orgId}, ${kind}, ${id}::text::uuid) as definition`
      : [];
    if (!row?.definition) throw missing();
    return row.definition;
  }

  async function put(c: Context<AuthEnv>, id: string | null, fields: object): Promise<Row> {
    const { orgId, subject } = c.var.principal;
    const [row] = await sql<{ definition: Row | null }[]>`
      select api.put_definition(
        ${orgId}, ${kind}, ${id}::text::uuid, ${JSON.stringify(fields)}::text::jsonb, ${subject}, ${requestOf(c)}::text::jsonb
      ) as definition`;
    if (!row!.definition) throw missing();
    return row!.definition;
  }

  endpoint(
    router,
    createRoute({
      method: 'post',
      path,
      tags,
      security: needs(`${area}:write`),
      summary: `Make ${a} ${noun}`,
      ...(resource.description ? { description: resource.description } : {}),
      request: { body: { required: true, content: { 'application/json': { schema: newSchema } } } },
      responses: responses(201, `The ${noun}`, shownSchema, [400, 401, 403, 409, 413, 415, 422, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      const given = check(newSchema, parseJson(c, await readBody(c, maxBodyBytes)));
      const row = await put(c, null, await resource.toFields(given, null, c.var.principal.orgId));
      return c.json(show(row), 201);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path,
      tags,
      security: needs(`${area}:read`),
      summary: `List ${plural}, the newest first`,
      description: `\`q\` is part of the ${kind === 'silence' ? 'reason' : 'name'} in any case; \`active\`: ${resource.activeMeans}.`,
      request: { query: listQuerySchema },
      responses: responses(200, `The ${plural}`, listSchema, [400, 401, 403, 503]),
    }),
    async (c) => {
      const query = check(listQuerySchema, queryOf(c), 'query');
      const after = pageAfter(query.cursor);
      const rows = await sql<{ definition: Row }[]>`
        select d as definition from api.list_definitions(
          ${c.var.principal.orgId}, ${kind}, ${query.q ?? null}, ${query.active === undefined ? null : query.active === 'true'},
          ${after.at}::text::timestamptz, ${after.id}::text::uuid, ${query.limit + 1}
        ) d`;
      const { page, next_cursor } = pageOf(
        rows,
        query.limit,
        ({ definition: { created_at, id } }) => `${created_at} ${id}`,
      );
      return c.json({
        [name]: page.map(({ definition }) => show(definition)),
        next_cursor,
      });
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: `${path}/{id}`,
      tags,
      security: needs(`${area}:read`),
      summary: `${a === 'an' ? 'An' : 'A'} ${noun}`,
      request: { params: idParams },
      responses: responses(200, `The ${noun}`, shownSchema, [400, 401, 403, 404, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      return c.json(show(await find(c.var.principal.orgId, c.req.param('id')!)));
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'patch',
      path: `${path}/{id}`,
      tags,
      security: needs(`${area}:write`),
      summary: `Change ${a} ${noun}`,
      description: 'Fields that are left out stay as they are.',
      request: {
        params: idParams,
        body: { required: true, content: { 'application/json': { schema: changesSchema } } },
      },
      responses: responses(
        200,
        `The ${noun} as it is now`,
        shownSchema,
        [400, 401, 403, 404, 409, 413, 415, 503],
      ),
    }),
    async (c) => {
      refuseQuery(c);
      const given = check(changesSchema, parseJson(c, await readBody(c, maxBodyBytes)));
      const { orgId } = c.var.principal;
      const before = await find(orgId, c.req.param('id')!);
      const row = await put(c, before.id, await resource.toFields(given, before, orgId));
      return c.json(show(row));
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'delete',
      path: `${path}/{id}`,
      tags,
      security: needs(`${area}:write`),
      summary: `Delete ${a} ${noun}`,
      request: { params: idParams },
      responses: responses(204, 'It is gone', null, [400, 401, 403, 404, 409, 503]),
    }),
    async (c) => {
      refuseQuery(c);
      const id = c.req.param('id')!;
      const { orgId, subject } = c.var.principal;
      const [row] = isUuid(id)
        ? await sql<{ deleted: boolean }[]>`
            select api.delete_definition(
              ${orgId}, ${kind}, ${id}::text::uuid, ${subject}, ${requestOf(c)}::text::jsonb
            ) as deleted`
        : [];
      if (!row?.deleted) throw missing();
      return c.body(null, 204);
    },
  );

  return router;
}
