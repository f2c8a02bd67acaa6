// What a metric has done, is likely to do, and what moves with it.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type { AuthEnv } from '../auth.ts';
import type { Sql } from '../db.ts';
import { Problem } from '../errors.ts';
import { limits } from '../ingest/metrics.ts';
import { needs } from '../permissions.ts';
import {
  check,
  endpoint,
  rangeOf,
  responses,
  splitQuery,
  text,
  timestampSchema,
  wholeNumber,
} from '../request.ts';
import { labelsSchema } from './metrics.ts';

const selection = {
  start_time: timestampSchema.optional(),
  end_time: timestampSchema.optional(),
  service_name: text(limits.serviceNameLength).optional(),
};
const analyticsQuerySchema = z.strictObject(selection);
const correlationsQuerySchema = z.strictObject({
  ...selection,
  q: text(255).optional(),
  limit: wholeNumber(1, 100).default(20),
});

// As they are documented; label.K=V cannot be said in a schema.
const selectionParameters = {
  start_time: timestampSchema.optional().openapi({ description: '24 hours before end_time by default' }),
  end_time: timestampSchema.optional().openapi({ description: 'Now by default' }),
  service_name: z.string().optional(),
  'label.{name}': z
    .string()
    .optional()
    .openapi({ description: 'Series with this label, such as label.host=web-1; any number of them' }),
};
const parameters = z.object({ name: z.string() });

const number = z.number().nullable();
const summaryFields = {
  metric_name: z.string(),
  start_time: z.iso.datetime(),
  end_time: z.iso.datetime(),
  time_window: z
    .string()
    .openapi({ description: 'Length of the buckets whose averages were looked at', example: '5m' }),
};
const analyticsSchema = z
  .strictObject({
    ...summaryFields,
    count: z.number().int(),
    min: number,
    max: number,
    avg: number,
    median: number,
    stddev: number,
    p95: number,
    p99: number,
    trend: z.strictObject({
      direction: z.enum(['rising', 'falling', 'stable']),
      slope_per_hour: number,
      r_squared: number,
      change_percent: number.openapi({
        description: "The line's change over the range, in percent of where it begins",
      }),
    }),
    anomalies: z.array(
      z.strictObject({
        time: z.iso.datetime(),
        value: z.number(),
        expected: z.number(),
        score: z
          .number()
          .openapi({ description: 'Modified z-score: robust standard deviations away from expected' }),
      }),
    ),
    forecast: z.array(
      z.strictObject({ time: z.iso.datetime(), value: z.number(), lower: z.number(), upper: z.number() }),
    ),
  })
  .openapi('MetricAnalytics');
const correlationsSchema = z
  .strictObject({
    ...summaryFields,
    correlations: z.array(
      z.strictObject({
        metric_name: z.string(),
        service_name: z.string(),
        labels: z.record(z.string(), z.string()),
        correlation: z.number(),
        lag_seconds: z
          .number()
          .openapi({ description: 'By how much it follows the metric; negative: it leads' }),
        points: z.number().int().openapi({ description: 'Buckets that both have' }),
      }),
    ),
    truncated: z
      .boolean()
      .openapi({ description: 'There were more series than are compared (500): narrow them with q' }),
  })
  .openapi('MetricCorrelations');

const tags = ['Metrics'];

export function analyticsRoutes({ sql }: { sql: Sql }) {
  const router = new OpenAPIHono<AuthEnv>();

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/metrics/{name}/analytics',
      tags,
      security: needs('metrics:read'),
      summary: 'Statistics, trend, anomalies and forecast of a metric',
      description:
        'Matching series are taken together. Statistics are of the samples; trend, anomalies and forecast of the averages of at ' +
        'most 300 buckets: a line by least squares, modified z-scores (median and MAD, by hour of day where there is a week of data) ' +
        'over 3.5, and trend plus daily season with a 95 % prediction interval for a quarter of the range.',
      request: { params: parameters, query: z.object(selectionParameters) },
      responses: responses(200, 'The analysis', analyticsSchema, [400, 401, 403, 404, 503, 504]),
    }),
    async (c) => {
      const name = nameOf(c);
      const { query, labels } = readQuery(c, analyticsQuerySchema);
      const { start, end } = rangeOf(query);
      const [row] = await sql<{ answer: string | null }[]>`
        select api.analyze_metric(
          ${c.var.principal.orgId}, ${name}, ${start}::text::timestamptz, ${end}::text::timestamptz,
          ${query.service_name ?? null}, ${JSON.stringify(labels)}::text::jsonb
        ) as answer`;
      return answer(c, name, row?.answer);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/metrics/{name}/correlations',
      tags,
      security: needs('metrics:read'),
      summary: 'Other series of the org that move with a metric',
      description:
        "Ranked by the absolute value of Pearson's coefficient between the averages of at most 150 buckets, at the lag where it " +
        'is largest. Matching series of the metric are taken together; each other series of the org is compared by itself.',
      request: {
        params: parameters,
        query: z.object({
          ...selectionParameters,
          q: z.string().optional().openapi({ description: "Part of the others' metric names" }),
          limit: z.number().int().min(1).max(100).default(20).optional(),
        }),
      },
      responses: responses(200, 'The closest first', correlationsSchema, [400, 401, 403, 404, 503, 504]),
    }),
    async (c) => {
      const name = nameOf(c);
      const { query, labels } = readQuery(c, correlationsQuerySchema);
      const { start, end } = rangeOf(query);
      const [row] = await sql<{ answer: string | null }[]>`
        select api.correlate_metric(
          ${c.var.principal.orgId}, ${name}, ${start}::text::timestamptz, ${end}::text::timestamptz,
          ${query.service_name ?? null}, ${JSON.stringify(labels)}::text::jsonb, ${query.q ?? null}, ${query.limit}
        ) as answer`;
      return answer(c, name, row?.answer);
    },
  );

  return router;
}

function nameOf(c: Context<AuthEnv>): string {
  return check(z.object({ name: text(limits.nameLength) }), c.req.param(), 'path').name;
}

/** Query parameters by a schema, and apart from them the labels, given as label.K=V. */
function readQuery<Schema extends z.ZodType>(c: Context<AuthEnv>, schema: Schema) {
  const [query, labels] = splitQuery(c, 'label.');
  return { query: check(schema, query, 'query'), labels: check(labelsSchema, labels, 'query.label') };
}

function answer(c: Context<AuthEnv>, name: string, json: string | null | undefined) {
  if (!json) throw new Problem(404, 'not_found', `The org has no series of ${name} that match.`);
  return c.body(json, 200, { 'Content-Type': 'application/json' });
}
