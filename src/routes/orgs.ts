// The org of the token: its limits, its retention, what it takes up.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { type AuthEnv, permit } from '../auth.ts';
import type { Sql } from '../db.ts';
import { check, endpoint, parseJson, readBody, refuseQuery, responses } from '../request.ts';

const orgSchema = z
  .object({
    org_id: z.string().openapi({ description: "The token's org_id claim", example: 'acme' }),
    retention_days: z.number().int().nullable().openapi({
      description:
        'How long what the org recorded is kept; null: as long as the tables of the service keep it',
    }),
    series_count: z.number().int(),
    series_limit: z.number().int(),
    log_stream_count: z.number().int(),
    log_stream_limit: z.number().int(),
    created_at: z.iso.datetime(),
  })
  .openapi('Org');

const orgPatchSchema = z
  .strictObject({
    retention_days: z
      .number('expected a whole number, or null')
      .int('expected a whole number, or null')
      .min(1, 'must be from 1 to 36500')
      .max(36_500, 'must be from 1 to 36500')
      .nullable(),
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

const tags = ['Org'];
const security = [{ bearer: [] }];

export function orgRoutes({ sql, maxBodyBytes }: { sql: Sql; maxBodyBytes: number }) {
  const router = new OpenAPIHono<AuthEnv>();

  async function org(c: Context<AuthEnv>) {
    const [row] = await sql<
      {
        external_id: string;
        retention_days: number | null;
        series_count: number;
        series_limit: number;
        log_stream_count: number;
        log_stream_limit: number;
        created_at: Date;
      }[]
    >`select * from api.get_org(${c.var.principal.orgId})`;
    const { external_id: org_id, created_at, ...rest } = row!;
    return c.json({ org_id, ...rest, created_at: created_at.toISOString() } satisfies z.infer<
      typeof orgSchema
    >);
  }

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/org',
      tags,
      security,
      summary: "The token's org",
      responses: responses(200, 'Its limits and retention', orgSchema, [400, 401, 403, 503]),
    }),
    permit('administer'),
    (c) => {
      refuseQuery(c);
      return org(c);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'patch',
      path: '/org',
      tags,
      security,
      summary: 'Keep what the org recorded for a shorter time',
      description:
        'What is older than retention_days, whole days in UTC, is not shown from then on, refused when it arrives, and deleted ' +
        'from every table from the next full hour on. A longer retention later does not bring back what has been deleted.',
      request: { body: { required: true, content: { 'application/json': { schema: orgPatchSchema } } } },
      responses: responses(200, 'The org', orgSchema, [400, 401, 403, 413, 415, 503]),
    }),
    permit('administer'),
    async (c) => {
      const { retention_days } = check(orgPatchSchema, parseJson(c, await readBody(c, maxBodyBytes)));
      await sql`select api.set_org_retention(${c.var.principal.orgId}, ${retention_days})`;
      return org(c);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/org/storage',
      tags,
      security,
      summary: 'What the org takes up',
      description:
        'Raw samples, each tier as far as it is rolled up, probe results and what follows from them. Counts rows: it can take seconds for many millions.',
      responses: responses(200, 'A table each', storageSchema, [400, 401, 403, 503, 504]),
    }),
    permit('administer'),
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

  return router;
}
