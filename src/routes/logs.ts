// Logs: recording lines, searching, tailing, counting and exporting them.
import type { HttpBindings } from '@hono/node-server';
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type { Logger } from 'pino';
import type { AuthEnv } from '../auth.ts';
import type { Sql } from '../db.ts';
import { invalid, Problem } from '../errors.ts';
import type { Committer } from '../ingest/commit.ts';
import type { IdCache, LogStreamIdentity } from '../ingest/ids.ts';
import type { Lines } from '../ingest/lines.ts';
import { levelMessage, levelOf, logLevels, logLimits, parseExactly, readLogs } from '../ingest/logs.ts';
import type { TimeBounds } from '../ingest/metrics.ts';
import { needs } from '../permissions.ts';
import {
  badCursor,
  batchItems,
  check,
  cursorSchema,
  endpoint,
  endsAfterStart,
  idempotencyHeader,
  isTimestamp,
  parseJson,
  queryOf,
  rangeOf,
  readBody,
  readIdempotencyKey,
  responses,
  splitQuery,
  text,
  timestampSchema,
  toCursor,
  wholeNumber,
} from '../request.ts';
import { type LogFilter, type LogTail, parsePlace } from '../tail.ts';
import { adjust, type Turns } from '../turns.ts';
import { labelsSchema, recordedSchema, timeZoneSchema, windowSchema, windowSeconds } from './metrics.ts';

const levelSchema = z
  .string(levelMessage)
  .transform((name, context) => {
    const level = levelOf(name);
    if (level) return level;
    context.addIssue({ code: 'custom', message: levelMessage });
    return z.NEVER;
  })
  .openapi({ type: 'string', example: 'error', description: `${levelMessage}, in any case` });

const serviceNameSchema = text(logLimits.serviceNameLength).openapi({ example: 'auth' });
const idSchema = z.string().max(logLimits.idLength).nullable().optional();

/** One line as POST /logs takes it; src/ingest/logs.ts checks the same by hand. */
const entrySchema = z
  .strictObject({
    service_name: serviceNameSchema,
    level: levelSchema,
    message: z
      .string()
      .min(1)
      .openapi({
        example: 'token rejected',
        description: `At most ${logLimits.messageBytes} bytes of UTF-8`,
      }),
    timestamp: timestampSchema.nullable().optional(),
    metadata: z
      .record(z.string(), z.unknown())
      .nullable()
      .optional()
      .openapi({
        example: { user_id: 42 },
        description: `At most ${logLimits.metadataBytes} bytes as JSON, nested at most ${logLimits.metadataDepth} levels deep`,
      }),
    trace_id: idSchema,
    span_id: idSchema,
  })
  .openapi('LogEntry');
const entriesSchema = z
  .strictObject({ logs: z.array(entrySchema).min(1).max(logLimits.batch) })
  .openapi('LogBatch');

const lineSchema = z
  .strictObject({
    id: z.string().openapi({ example: '1795646635123456-4711' }),
    timestamp: z.iso.datetime(),
    received_at: z.iso.datetime(),
    service_name: z.string(),
    level: z.enum(logLevels),
    message: z.string(),
    metadata: z.record(z.string(), z.unknown()),
    trace_id: z.string().nullable(),
    span_id: z.string().nullable(),
    highlighted: z
      .array(z.string())
      .optional()
      .openapi({
        example: ['', 'token', ' rejected'],
        description: 'With highlight=true: the message cut in parts, of which every second one is a match',
      }),
  })
  .openapi('LogLine');
const linesSchema = z
  .strictObject({
    logs: z.array(lineSchema),
    next_cursor: z.string().nullable(),
    partial: z.boolean().openapi({
      description:
        'The search stopped, after five seconds, with older lines left to look at: next_cursor goes on',
    }),
  })
  .openapi('LogLines');

const wordsSchema = text(1000).refine((q) => /[\p{L}\p{N}]/u.test(q), 'must hold a word: letters or digits');
const filterFields = {
  q: wordsSchema.optional().openapi({
    description:
      'Full text: words, "a phrase", or, -without. Words are runs of letters and digits, in any case',
    example: 'timeout -retry',
  }),
  contains: text(1000).optional().openapi({ description: 'A part of the message, in any case' }),
  level: levelSchema.optional().openapi({ description: 'This level and those above it' }),
  trace_id: text(logLimits.idLength).optional(),
};
const rangeFields = { start_time: timestampSchema.optional(), end_time: timestampSchema.optional() };
const maxPage = 1000;
const searchFields = {
  ...filterFields,
  ...rangeFields,
  limit: z.coerce
    .number('expected a whole number')
    .int('expected a whole number')
    .min(1, 'must be 1 or more')
    .optional()
    .openapi({ description: `100 by default, at most ${maxPage}; as ndjson everything by default` }),
  cursor: cursorSchema.optional(),
  highlight: z.enum(['true', 'false'], 'expected true or false').default('false'),
  format: z.enum(['json', 'ndjson'], 'expected json or ndjson').default('json').openapi({
    description: 'ndjson: a line of JSON for each, streamed to the end of the range',
  }),
};
const searchSchema = z
  .strictObject({ ...searchFields, service_name: serviceNameSchema.optional() })
  .refine(...endsAfterStart)
  .refine(({ format, limit = 1 }) => format === 'ndjson' || limit <= maxPage, {
    path: ['limit'],
    message: `must be from 1 to ${maxPage}`,
  })
  .refine(({ format, highlight }) => format === 'json' || highlight === 'false', {
    path: ['highlight'],
    message: 'is for format json alone',
  });
const tailSchema = z.strictObject(filterFields);
const patternsSchema = z.strictObject({
  ...filterFields,
  ...rangeFields,
  limit: wholeNumber(1, 100).default(20),
});
const maxBuckets = 10_000;
const histogramSchema = z.strictObject({
  level: levelSchema.optional(),
  ...rangeFields,
  time_window: windowSchema.optional(),
  timezone: timeZoneSchema.default('UTC'),
});
const around = wholeNumber(0, 500).default(10);
const contextSchema = z.strictObject({ before: around, after: around });

// As they are documented; meta.K=V cannot be said in a schema.
const metaParameter = {
  'meta.{key}': z
    .string()
    .optional()
    .openapi({
      description:
        'Lines whose metadata have this value, such as meta.user_id=42; any number of them. A number, true, false and null are found as ' +
        'such and as text; a list when the value is in it; meta.http.status=500 a key with that dot, or one inside another',
    }),
};

const patternsAnswerSchema = z
  .strictObject({
    patterns: z.array(
      z.strictObject({
        pattern: z.string().openapi({ example: 'user <num> logged in from <num>' }),
        count: z.number().int(),
        share: z.number(),
        levels: z.array(z.enum(logLevels)),
        first_seen: z.iso.datetime(),
        last_seen: z.iso.datetime(),
        example: z.string(),
      }),
    ),
    lines_examined: z.number().int(),
    examined_from: z.iso.datetime(),
    complete: z.boolean().openapi({
      description: 'Whether that were all lines of the range: the newest 10,000 are examined',
    }),
  })
  .openapi('LogPatterns');
const histogramAnswerSchema = z
  .strictObject({
    service_name: z.string().nullable().openapi({ description: 'Null for all' }),
    time_window: z.string(),
    buckets: z.array(
      z.strictObject({
        time: z.iso.datetime(),
        total: z.number().int(),
        levels: z.partialRecord(z.enum(logLevels), z.number().int()),
      }),
    ),
  })
  .openapi('LogHistogram');
const contextAnswerSchema = z
  .strictObject({ before: z.array(lineSchema), line: lineSchema, after: z.array(lineSchema) })
  .openapi('LogContext');

export interface LogsDependencies {
  log: Logger;
  sql: Sql;
  /** A pool of its own, so that exports do not hold up searches. */
  exportSql: Sql;
  cache: IdCache<LogStreamIdentity>;
  committer: Committer<Lines>;
  turns: Turns;
  tail: LogTail;
  /** Accepted times of an org's lines at this moment. */
  timeBounds: (orgId: number) => Promise<TimeBounds>;
  maxBodyBytes: number;
}

const tags = ['Logs'];
const searchSeconds = 5;
const maxExportPage = 5000;
const exportPageBytes = 2 * 1024 ** 2;
// Of an org, in a process: half of the connections that there are for exports.
const maxExports = 2;

export function logRoutes(dependencies: LogsDependencies) {
  const { log, sql, exportSql, cache, committer, turns, tail, timeBounds, maxBodyBytes } = dependencies;
  const router = new OpenAPIHono<AuthEnv>();

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/logs',
      tags,
      security: needs('logs:write'),
      summary: 'Record a log line, or up to 1000, all or none',
      description:
        'Answered after all lines are committed. The same Idempotency-Key within a day records them once. NUL, lone surrogates and bytes ' +
        'that are not UTF-8 are recorded as U+FFFD; what is too long, or nested too deep, is refused.',
      request: {
        headers: idempotencyHeader,
        body: {
          required: true,
          content: { 'application/json': { schema: z.union([entrySchema, entriesSchema]) } },
        },
      },
      responses: responses(201, 'Recorded', recordedSchema, [400, 401, 403, 413, 415, 422, 503]),
    }),
    async (c) => {
      const { orgId } = c.var.principal;
      const bytes = await readBody(c, maxBodyBytes);
      await turns.next(orgId, bytes.length);
      const key = readIdempotencyKey(c, bytes);
      const body = parseJson(c, bytes, (bytes) => parseExactly(bytes.toString()));
      const isBatch = typeof body === 'object' && body !== null && 'logs' in body;
      const items = isBatch ? batchItems(body, 'logs', logLimits.batch) : [body];
      const lines = await readLogs(
        items,
        isBatch ? (i) => `logs[${i}]` : () => '',
        orgId,
        await timeBounds(orgId),
        cache,
      );
      if ((await committer.submit(orgId, lines, key)) === 'replayed')
        c.header('Idempotency-Replayed', 'true');
      return c.json({ recorded: items.length } satisfies z.infer<typeof recordedSchema>, 201);
    },
  );

  interface Range {
    start: string;
    end: string;
  }
  interface Page {
    /** JSON objects, separated by commas and line ends; null for none. */
    lines: string | null;
    marked: string[] | null;
    line_count: number;
    until_time: string | null;
    until_id: string | null;
  }

  async function findPage(
    pool: Sql,
    orgId: number,
    filter: LogFilter,
    range: Range,
    before: { time: string | null; id: string | null },
    limit: number,
    isMarked: boolean,
  ): Promise<Page> {
    const [page] = await pool<Page[]>`
      select lines, marked, line_count, until_time, until_id
      from api.search_logs(
        ${orgId}::int, ${JSON.stringify(filter)}::text::jsonb, ${range.start}::text::timestamptz, ${range.end}::text::timestamptz,
        ${before.time}::text::timestamptz, ${before.id}::text::bigint, ${limit}::int, ${isMarked}::boolean, ${searchSeconds}::float8
      )`;
    return page!;
  }

  async function search(c: Context<AuthEnv>, path?: { service: string | undefined }) {
    const { orgId } = c.var.principal;
    const [given, metadata] = readFilter(c);
    const query = check(searchSchema, given, 'query');
    if (path && query.service_name !== undefined)
      throw invalid([{ path: 'query.service_name', message: 'unknown field: the path names the service' }]);
    const filter = filterOf({ ...query, service_name: path ? path.service : query.service_name }, metadata);
    const range = { start: query.start_time ?? '-infinity', end: query.end_time ?? 'infinity' };
    const before = readCursor(query.cursor);
    if (query.format === 'ndjson') {
      const lines = await exportLines(c, filter, range, before, query.limit ?? Number.POSITIVE_INFINITY);
      return streamed(c, lines, { 'Content-Type': 'application/x-ndjson' });
    }

    const limit = query.limit ?? 100;
    const page = await findPage(sql, orgId, filter, range, before, limit, query.highlight === 'true');
    let { lines } = page;
    if (lines !== null && query.highlight === 'true') {
      const parsed: z.infer<typeof lineSchema>[] = JSON.parse(`[${lines}]`);
      // Large integers of metadata would not survive: what is parsed is only looked at.
      lines = lines
        .split(',\n')
        .map((line, i) => {
          const parts = highlight(parsed[i]!.message, page.marked?.[i], query.contains);
          return `${line.slice(0, -1)},"highlighted":${JSON.stringify(parts)}}`;
        })
        .join(',\n');
    }
    const cursor = page.until_time === null ? null : toCursor(`${page.until_time} ${page.until_id}`);
    return c.body(
      `{"logs":[${lines ?? ''}],"next_cursor":${JSON.stringify(cursor)},"partial":${cursor !== null && page.line_count < limit}}`,
      200,
      { 'Content-Type': 'application/json' },
    );
  }

  // Exports under way, by org.
  const exportsOf = new Map<number, number>();

  function takeExport(orgId: number): () => void {
    const underWay = exportsOf.get(orgId) ?? 0;
    if (underWay >= maxExports)
      throw new Problem(
        429,
        'too_many_exports',
        `There are ${underWay} exports of this org under way already.`,
        { headers: { 'Retry-After': '10' } },
      );
    adjust(exportsOf, orgId, 1);
    let isReleased = false;
    return () => {
      if (isReleased) return;
      isReleased = true;
      adjust(exportsOf, orgId, -1);
    };
  }

  // A page at a time, when there is room for it: neither this process nor the database holds more. The first is there before the
  // answer begins, so that what goes wrong with it is still said.
  async function exportLines(
    c: Context<AuthEnv>,
    filter: LogFilter,
    range: Range,
    before: { time: string | null; id: string | null },
    limit: number,
  ): Promise<ReadableStream<Uint8Array>> {
    const { orgId } = c.var.principal;
    const { signal } = c.req.raw;
    const release = takeExport(orgId);
    let place = before;
    let left = limit;
    let pageLimit = 100;
    const nextPage = async () => {
      const page = await findPage(exportSql, orgId, filter, range, place, Math.min(left, pageLimit), false);
      place = { time: page.until_time, id: page.until_id };
      left -= page.line_count;
      if (page.lines !== null) {
        const perLine = page.lines.length / page.line_count;
        pageLimit = Math.max(1, Math.min(maxExportPage, Math.floor(exportPageBytes / perLine)));
      }
      return page;
    };
    let page: Page | undefined;
    try {
      page = await nextPage();
    } catch (error) {
      release();
      throw error;
    }
    const encoder = new TextEncoder();
    return new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          try {
            // Nobody reads an export whose client is gone, however long there is nothing to write.
            while (!signal.aborted) {
              const { lines } = page ?? (await nextPage());
              page = undefined;
              if (lines !== null) controller.enqueue(encoder.encode(`${lines.replaceAll(',\n', '\n')}\n`));
              if (place.time === null || left <= 0) {
                release();
                return controller.close();
              }
              if (lines !== null) return;
            }
            release();
          } catch (error) {
            release();
            log.warn({ error, org: c.var.principal.org }, 'an export failed');
            disconnect(c);
          }
        },
        cancel: release,
      },
      { highWaterMark: 0 },
    );
  }

  const found = {
    200: {
      description: 'The newest lines first',
      content: {
        'application/json': { schema: linesSchema },
        'application/x-ndjson': { schema: z.string() },
      },
    },
  };
  const searchDescription =
    'Pages do not shift while new lines arrive: next_cursor goes on with older ones. As ndjson an answer that breaks off in the middle is ' +
    'one that failed.';
  const problems = responses(200, '', null, [400, 401, 403, 429, 503, 504]);
  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/logs',
      tags,
      security: needs('logs:read'),
      summary: 'Search the lines of all services',
      description: searchDescription,
      request: {
        query: z.object({ ...searchFields, service_name: serviceNameSchema.optional(), ...metaParameter }),
      },
      responses: { ...problems, ...found },
    }),
    (c) => search(c),
  );
  const serviceParameter = z.object({
    service: z.string().openapi({ description: 'Its name; * for all services' }),
  });
  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/logs/{service}',
      tags,
      security: needs('logs:read'),
      summary: 'Search the lines of a service',
      description: searchDescription,
      request: { params: serviceParameter, query: z.object({ ...searchFields, ...metaParameter }) },
      responses: { ...problems, ...found },
    }),
    (c) => search(c, { service: serviceOf(c) }),
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/logs/{service}/stream',
      tags,
      security: needs('logs:read'),
      summary: 'Follow the lines of a service as they arrive (server-sent events)',
      description:
        'An event "log" for each line, its data the line as a search answers it. A reconnect with Last-Event-ID goes on where it was, up to ten ' +
        'minutes back; an event "gap" says that what arrived meanwhile is no longer at hand. A client that does not keep up is disconnected.',
      request: {
        params: serviceParameter,
        query: z.object({ ...filterFields, ...metaParameter }),
        headers: z.object({ 'last-event-id': z.string().optional() }),
      },
      responses: {
        ...responses(200, '', null, [400, 401, 403, 429, 503, 504]),
        200: {
          description: 'Lines in the order in which they are committed',
          content: { 'text/event-stream': { schema: z.string() } },
        },
      },
    }),
    async (c) => {
      const [given, metadata] = readFilter(c);
      const filter = filterOf({ ...check(tailSchema, given, 'query'), service_name: serviceOf(c) }, metadata);
      const lastEventId = c.req.header('Last-Event-ID');
      const after = lastEventId ? parsePlace(lastEventId) : undefined;
      if (lastEventId && !after)
        throw invalid([
          { path: 'header.Last-Event-ID', message: 'expected the id of an event of this stream' },
        ]);
      const { orgId, expiresAt } = c.var.principal;
      return streamed(
        c,
        await tail.open(orgId, filter, {
          after,
          expiresAt,
          mayStill: c.var.mayStill,
          disconnect: () => disconnect(c),
        }),
        {
          'Content-Type': 'text/event-stream',
          'Cache-Control': 'no-store',
          // For nginx, which would gather events otherwise.
          'X-Accel-Buffering': 'no',
        },
      );
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/logs/{service}/histogram',
      tags,
      security: needs('logs:read'),
      summary: 'Count the lines of a service by level over time',
      description:
        'The last 24 hours by default, in some 60 buckets. Counted by the minute: one that either end of the range cuts is counted in full. ' +
        'Counts are kept for longer than lines.',
      request: { params: serviceParameter, query: histogramSchema },
      responses: responses(
        200,
        'Each bucket, also one without lines',
        histogramAnswerSchema,
        [400, 401, 403, 503, 504],
      ),
    }),
    async (c) => {
      const service = serviceOf(c);
      const query = check(histogramSchema, queryOf(c), 'query');
      const range = rangeOf(query);
      const seconds = (Date.parse(range.end) - Date.parse(range.start)) / 1000;
      const window =
        query.time_window ?? windows.find((width) => seconds / windowSeconds(width) <= 72) ?? '30d';
      if (windowSeconds(window) % 60 !== 0)
        throw invalid([{ path: 'query.time_window', message: 'must be a multiple of a minute' }]);
      if (seconds / windowSeconds(window) > maxBuckets)
        throw invalid([
          { path: 'query.time_window', message: `would make more than ${maxBuckets} buckets of this range` },
        ]);
      const [row] = await sql<{ buckets: string }[]>`
        select api.get_log_histogram(
          ${c.var.principal.orgId}::int, ${service ?? null}, ${query.level ?? 'trace'}, ${range.start}::text::timestamptz,
          ${range.end}::text::timestamptz, ${`${windowSeconds(window)} seconds`}::text::interval, ${query.timezone}
        ) as buckets`;
      return c.body(
        `{"service_name":${JSON.stringify(service ?? null)},"time_window":"${window}","buckets":${row!.buckets}}`,
        200,
        { 'Content-Type': 'application/json' },
      );
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/logs/{service}/patterns',
      tags,
      security: needs('logs:read'),
      summary: 'The most frequent shapes of the messages of a service',
      description: 'Ids and numbers are folded: <uuid>, <hex>, <num>. Of the last 24 hours by default.',
      request: { params: serviceParameter, query: patternsSchema.extend(metaParameter) },
      responses: responses(200, 'The most frequent first', patternsAnswerSchema, [400, 401, 403, 503, 504]),
    }),
    async (c) => {
      const service = serviceOf(c);
      const [given, metadata] = readFilter(c);
      const query = check(patternsSchema, given, 'query');
      const range = rangeOf(query);
      const [row] = await sql<
        {
          patterns: z.infer<typeof patternsAnswerSchema>['patterns'];
          lines_examined: number;
          examined_from: Date;
          is_complete: boolean;
        }[]
      >`
        select patterns, lines_examined, examined_from, is_complete
        from api.get_log_patterns(
          ${c.var.principal.orgId}::int, ${JSON.stringify(filterOf({ ...query, service_name: service }, metadata))}::text::jsonb,
          ${range.start}::text::timestamptz, ${range.end}::text::timestamptz, ${query.limit}::int, 10000
        )`;
      return c.json({
        patterns: row!.patterns,
        lines_examined: row!.lines_examined,
        examined_from: row!.examined_from.toISOString(),
        complete: row!.is_complete,
      } satisfies z.infer<typeof patternsAnswerSchema>);
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/logs/{service}/{id}/context',
      tags,
      security: needs('logs:read'),
      summary: 'A line with those of its service right before and after it',
      request: { params: serviceParameter.extend({ id: z.string() }), query: contextSchema },
      responses: responses(200, 'In order of time', contextAnswerSchema, [400, 401, 403, 404, 503, 504]),
    }),
    async (c) => {
      const { before, after } = check(contextSchema, queryOf(c), 'query');
      const id = /^(\d{1,16})-(\d{1,16})$/.exec(c.req.param('id')!);
      const [row] = id
        ? await sql<{ before_lines: string | null; line: string | null; after_lines: string | null }[]>`
            select before_lines, line, after_lines
            from api.get_log_context(
              ${c.var.principal.orgId}::int, ${serviceOf(c) ?? null}, timestamptz 'epoch' + ${id[1]!}::text::bigint * interval '1 microsecond',
              ${id[2]!}::text::bigint, ${before}::int, ${after}::int
            )`
        : [];
      if (!row?.line) throw new Problem(404, 'not_found', 'There is no such line of this service.');
      return c.body(
        `{"before":[${row.before_lines ?? ''}],"line":${row.line},"after":[${row.after_lines ?? ''}]}`,
        200,
        { 'Content-Type': 'application/json' },
      );
    },
  );

  return router;
}

// An error of the stream would be printed by @hono/node-server, and end the answer in good order.
function disconnect(c: Context) {
  (c.env as HttpBindings).outgoing.destroy();
}

// To a HEAD request Hono answers as to a GET, and leaves the body lying: nobody would ever end it.
async function streamed(c: Context, body: ReadableStream, headers: Record<string, string>) {
  if (c.req.method !== 'HEAD') return c.body(body, 200, headers);
  await body.cancel();
  return c.body(null, 200, headers);
}

const windows = ['1m', '5m', '15m', '30m', '1h', '3h', '6h', '12h', '1d', '7d'];

/** The service that the path names; undefined for all of them. */
function serviceOf(c: Context<AuthEnv>): string | undefined {
  const service = c.req.param('service')!;
  return service === '*' ? undefined : check(serviceNameSchema, service, 'path.service');
}

/** Query parameters, and apart from them what metadata are asked for, given as meta.K=V. */
function readFilter(c: Context<AuthEnv>): [Record<string, string>, Record<string, string>] {
  const [query, metadata] = splitQuery(c, 'meta.');
  return [query, check(labelsSchema, metadata, 'query.meta')];
}

function filterOf(
  { service_name, level, q, contains, trace_id }: LogFilter,
  metadata: Record<string, string>,
): LogFilter {
  return {
    service_name,
    level,
    q,
    contains,
    trace_id,
    metadata: Object.keys(metadata).length > 0 ? metadata : undefined,
  };
}

function readCursor(cursor: string | undefined): { time: string | null; id: string | null } {
  if (cursor === undefined) return { time: null, id: null };
  const [time = '', id = ''] = cursor.split(' ');
  if (!/^\d{4}-[\d:.T-]+Z$/.test(time) || !isTimestamp(time) || !/^\d{1,16}$/.test(id)) throw badCursor();
  return { time, id };
}

/**
 * Cuts a message into what does not match and what does, in turn. marked: by lib.mark_matches, the message with spaces for some
 * punctuation, with < and > around what matches, and without very long words.
 */
function highlight(
  message: string,
  marked: string | null | undefined,
  contains: string | undefined,
): string[] {
  const isMatch = new Uint8Array(message.length);
  const text = message.replace(/[-+./@<&~>]/g, ' ');
  const pieces = marked?.split(/[<>]/) ?? [];
  let at = 0;
  for (const [i, piece] of pieces.entries()) {
    const isMarked = i % 2 === 1;
    if (!isMarked && !text.startsWith(piece, at)) {
      // A word is left out: it goes on where the rest is, and what matches behind it.
      let same = 0;
      while (text[at + same] === piece[same]) same++;
      const match = pieces[i + 1] ?? '';
      const rest = text.indexOf(piece.slice(same) + match, at + same);
      // Or several words are.
      const next = rest < 0 && match ? text.indexOf(match, at + same) : -1;
      if (rest >= 0) at = rest - same;
      else if (next >= 0) at = next - piece.length;
      else break;
    }
    if (isMarked) isMatch.fill(1, at, at + piece.length);
    at += piece.length;
  }
  if (contains !== undefined)
    for (const { 0: part, index } of message.matchAll(new RegExp(RegExp.escape(contains), 'giu')))
      isMatch.fill(1, index, index + part.length);
  const parts: string[] = [];
  let start = 0;
  for (let i = 1; i <= message.length; i++) {
    if (i < message.length && isMatch[i] === isMatch[start]) continue;
    if (parts.length % 2 !== isMatch[start]) parts.push('');
    parts.push(message.slice(start, i));
    start = i;
  }
  return parts;
}
