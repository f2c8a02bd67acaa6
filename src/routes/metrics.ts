// Metrics: recording samples and querying them.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type { AuthEnv } from '../auth.ts';
import { arrayLiteral, type Sql } from '../db.ts';
import { Problem } from '../errors.ts';
import type { Committer } from '../ingest/commit.ts';
import type { IdCache, SeriesIdentity } from '../ingest/ids.ts';
import { labelProblems, limits, readMetrics, type TimeBounds, valueProblem } from '../ingest/metrics.ts';
import type { Samples } from '../ingest/samples.ts';
import { needs } from '../permissions.ts';
import {
  batchItems,
  check,
  cursorSchema,
  endpoint,
  endsAfterStart,
  idempotencyHeader,
  pageOf,
  parseJson,
  queryOf,
  readBody,
  readIdempotencyKey,
  responses,
  text,
  timestampSchema,
} from '../request.ts';
import { aggregations } from '../rules/expression.ts';
import type { Turns } from '../turns.ts';

// Not z.record, which passes over a label that is called __proto__.
export const labelsSchema = z
  .custom<Record<string, string>>()
  .superRefine((labels, context) => {
    for (const { path, message } of labelProblems(labels))
      context.addIssue({ code: 'custom', message, path: path ? [path] : [] });
  })
  .openapi({
    type: 'object',
    additionalProperties: { type: 'string', maxLength: limits.labelValueLength },
    maxProperties: limits.labels,
    example: { host: 'web-1' },
  });

/** One sample as POST /metrics takes it. The hot path checks the same by hand: see src/ingest/metrics.ts. */
export const metricSchema = z
  .strictObject({
    name: text(limits.nameLength).openapi({ example: 'response_time_ms' }),
    value: z
      .number('expected a finite number')
      .min(-limits.value, valueProblem)
      .max(limits.value, valueProblem)
      .openapi({ example: 12.5 }),
    labels: labelsSchema.optional(),
    service_name: text(limits.serviceNameLength).optional().openapi({ example: 'auth' }),
    timestamp: timestampSchema.optional(),
  })
  .openapi('Metric');

export const batchSchema = z
  .strictObject({ metrics: z.array(metricSchema).min(1).max(limits.batch) })
  .openapi('MetricBatch');

export const recordedSchema = z.object({ recorded: z.number().int() }).openapi('Recorded');

const windowUnits: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };
const maxWindowSeconds = 366 * 86_400;

/** Length of a window such as 5m; NaN where it is none. */
export function windowSeconds(window: string): number {
  const match = /^([1-9]\d{0,7})([smhdw])$/.exec(window);
  return match ? Number(match[1]) * windowUnits[match[2]!]! : Number.NaN;
}

export const windowSchema = z
  .string()
  .refine(
    (window) => windowSeconds(window) <= maxWindowSeconds,
    'expected a number and a unit of s, m, h, d or w, such as 5m, of at most 366d',
  )
  .openapi({ example: '1h' });

// A name, not an offset: PostgreSQL reads the sign of one the other way round.
export const timeZoneSchema = z.string().refine((zone) => {
  try {
    return /^[A-Za-z]/.test(zone) && Boolean(new Intl.DateTimeFormat('en', { timeZone: zone }));
  } catch {
    return false;
  }
}, 'expected the name of a time zone such as Europe/Berlin');

export const metricsQuerySchema = z
  .strictObject({
    metric_name: text(limits.nameLength).openapi({ example: 'response_time_ms' }),
    start_time: timestampSchema,
    end_time: timestampSchema,
    aggregation: z.enum(aggregations, `expected one of ${aggregations.join(', ')}`).default('avg'),
    time_window: windowSchema.optional(),
    labels: labelsSchema.optional(),
    service_name: text(limits.serviceNameLength).optional(),
    group_by: z.array(text(limits.labelNameLength)).max(16).optional(),
    fill: z.enum(['none', 'null', 'zero', 'previous', 'linear']).default('none'),
    timezone: timeZoneSchema
      .optional()
      .openapi({ description: "The org's by default, which is UTC unless it has another" }),
    limit: z.number().int().min(1).max(10_000).default(1000),
    format: z.enum(['points', 'columns']).default('points'),
  })
  .refine(...endsAfterStart)
  .openapi('MetricsQuery');

const seriesLabelsSchema = z.record(z.string(), z.string());
const answerFields = {
  metric_name: z.string(),
  aggregation: z.enum(aggregations),
  time_window: z.string().nullable(),
  resolution: z.string().openapi({ description: 'raw, or the tier that answered: 5m, 1h or 1d' }),
  truncated: z.boolean(),
};
const pointsAnswerSchema = z
  .strictObject({
    ...answerFields,
    series: z.array(
      z.strictObject({
        labels: seriesLabelsSchema,
        points: z.array(z.strictObject({ time: z.iso.datetime(), value: z.number().nullable() })),
      }),
    ),
  })
  .openapi('MetricsAnswer');
const columnsAnswerSchema = z
  .strictObject({
    ...answerFields,
    times: z.array(z.number().int()),
    series: z.array(z.strictObject({ labels: seriesLabelsSchema, values: z.array(z.number().nullable()) })),
  })
  .openapi('MetricsColumns');

const listQuerySchema = z.strictObject({
  q: text(255).optional(),
  service_name: text(limits.serviceNameLength).optional(),
  limit: z.coerce.number('expected a whole number').int().min(1).max(1000).default(100),
  cursor: cursorSchema.optional(),
});
const metricListSchema = z
  .object({
    metrics: z.array(
      z.object({
        name: z.string(),
        series_count: z.number().int(),
        first_seen: z.iso.datetime().nullable(),
        last_seen: z.iso.datetime().nullable(),
      }),
    ),
    next_cursor: z.string().nullable(),
  })
  .openapi('MetricList');

const labelsQuerySchema = z.strictObject({ service_name: text(limits.serviceNameLength).optional() });
const labelListSchema = z
  .strictObject({
    metric_name: z.string(),
    labels: z.array(
      z.strictObject({ label: z.string(), value_count: z.number().int(), values: z.array(z.string()) }),
    ),
  })
  .openapi('MetricLabels');

export interface MetricsDependencies {
  sql: Sql;
  cache: IdCache<SeriesIdentity>;
  committer: Committer<Samples>;
  turns: Turns;
  /** Accepted times of an org's samples at this moment. */
  timeBounds: (orgId: number) => Promise<TimeBounds>;
  maxBodyBytes: number;
}

const tags = ['Metrics'];

export function metricsRoutes({
  sql,
  cache,
  committer,
  turns,
  timeBounds,
  maxBodyBytes,
}: MetricsDependencies) {
  const router = new OpenAPIHono<AuthEnv>();

  async function record(c: Context<AuthEnv>, itemsOf: (body: unknown) => [unknown[], (i: number) => string]) {
    const { orgId } = c.var.principal;
    const body = await readBody(c, maxBodyBytes);
    await turns.next(orgId, body.length);
    const key = readIdempotencyKey(c, body);
    const [items, pathOf] = itemsOf(parseJson(c, body));
    const samples = await readMetrics(items, pathOf, orgId, await timeBounds(orgId), cache);
    if ((await committer.submit(orgId, samples, key)) === 'replayed')
      c.header('Idempotency-Replayed', 'true');
    return c.json({ recorded: items.length } satisfies z.infer<typeof recordedSchema>, 201);
  }

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/metrics',
      tags,
      security: needs('metrics:write'),
      summary: 'Record one sample',
      description:
        'Answered after the sample is committed. The same Idempotency-Key within a day records it once.',
      request: {
        headers: idempotencyHeader,
        body: { required: true, content: { 'application/json': { schema: metricSchema } } },
      },
      responses: responses(201, 'Recorded', recordedSchema, [400, 401, 403, 413, 415, 422, 503]),
    }),
    (c) => record(c, (body) => [[body], () => '']),
  );

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/metrics/batch',
      tags,
      security: needs('metrics:write'),
      summary: 'Record up to 1000 samples, all or none',
      description:
        'Answered after all samples are committed. The same Idempotency-Key within a day records them once.',
      request: {
        headers: idempotencyHeader,
        body: { required: true, content: { 'application/json': { schema: batchSchema } } },
      },
      responses: responses(201, 'Recorded', recordedSchema, [400, 401, 403, 413, 415, 422, 503]),
    }),
    (c) => record(c, (body) => [batchItems(body, 'metrics', limits.batch), (i) => `metrics[${i}]`]),
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/metrics',
      tags,
      security: needs('metrics:read'),
      summary: 'List metric names',
      request: { query: listQuerySchema },
      responses: responses(
        200,
        'Names in order, with the number of series and the times of the first and last stored sample',
        metricListSchema,
        [400, 401, 403, 503, 504],
      ),
    }),
    async (c) => {
      const query = check(listQuerySchema, queryOf(c), 'query');
      const rows = await sql<
        { name: string; series_count: number; first_seen: Date | null; last_seen: Date | null }[]
      >`
        select * from api.list_metrics(
          ${c.var.principal.orgId}, ${query.q ?? null}, ${query.service_name ?? null}, ${query.cursor ?? null}, ${query.limit + 1}
        )`;
      const { page, next_cursor } = pageOf(rows, query.limit, ({ name }) => name);
      return c.json({
        metrics: page.map((row) => ({
          name: row.name,
          series_count: row.series_count,
          first_seen: row.first_seen?.toISOString() ?? null,
          last_seen: row.last_seen?.toISOString() ?? null,
        })),
        next_cursor,
      } satisfies z.infer<typeof metricListSchema>);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/metrics/{name}/labels',
      tags,
      security: needs('metrics:read'),
      summary: 'Labels of the series of a metric',
      description:
        'service_name is one of them. Of each label the first 100 values in order, and how many there are.',
      request: { params: z.object({ name: z.string() }), query: labelsQuerySchema },
      responses: responses(200, 'The labels in order', labelListSchema, [400, 401, 403, 404, 503, 504]),
    }),
    async (c) => {
      const { name } = check(z.object({ name: text(limits.nameLength) }), c.req.param(), 'path');
      const query = check(labelsQuerySchema, queryOf(c), 'query');
      const [row] = await sql<{ answer: string | null }[]>`
        select api.list_labels(${c.var.principal.orgId}, ${name}, ${query.service_name ?? null}) as answer`;
      if (!row?.answer) throw new Problem(404, 'not_found', `The org has no series of ${name} that match.`);
      return c.body(row.answer, 200, { 'Content-Type': 'application/json' });
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/metrics/query',
      tags,
      security: needs('metrics:read'),
      summary: 'Aggregate the samples of a metric over a range',
      description:
        'Samples of [start_time, end_time) in buckets of time_window, or in one bucket over the range without it. ' +
        'Matching series merge into one, or into one for each value of the labels in group_by. ' +
        'A point is there for each bucket with samples, unless fill says otherwise; its value is null where the aggregation has none.',
      request: { body: { required: true, content: { 'application/json': { schema: metricsQuerySchema } } } },
      responses: responses(
        200,
        'One series, or one a group',
        z.union([pointsAnswerSchema, columnsAnswerSchema]),
        [400, 401, 403, 413, 415, 503, 504],
      ),
    }),
    async (c) => {
      const query = check(metricsQuerySchema, parseJson(c, await readBody(c, maxBodyBytes)));
      const [row] = await sql<{ answer: string }[]>`
        select api.query_metrics(
          ${c.var.principal.orgId}, ${query.metric_name}, ${query.start_time}::text::timestamptz, ${query.end_time}::text::timestamptz,
          ${query.aggregation}, ${query.time_window ?? null}, ${query.service_name ?? null},
          ${JSON.stringify(query.labels ?? {})}::text::jsonb, ${arrayLiteral(query.group_by ?? [])}::text::text[],
          ${query.fill}, ${query.timezone ?? c.var.principal.timezone}, ${query.limit}, ${query.format}
        ) as answer`;
      return c.body(row!.answer, 200, { 'Content-Type': 'application/json' });
    },
  );

  return router;
}
