// Reading and checking requests: size, encoding, JSON, fields. Every failure is a Problem that names the field.
import { isUtf8 } from 'node:buffer';
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import zlib from 'node:zlib';
import { type OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context, Env, Handler, MiddlewareHandler } from 'hono';
import { matchedRoutes } from 'hono/route';
import type { AuthEnv } from './auth.ts';
import { type FieldError, invalid, Problem, problemSchema } from './errors.ts';
import type { IdempotencyKey } from './ingest/commit.ts';
import { textProblem } from './ingest/metrics.ts';
import type { Permission } from './permissions.ts';
import { formatTimestamp, parseTimestamp } from './timestamp.ts';

const decoders: Record<string, (body: Buffer, options: zlib.ZlibOptions) => Promise<Buffer>> = {
  gzip: promisify<Buffer, zlib.ZlibOptions, Buffer>(zlib.gunzip),
  deflate: promisify<Buffer, zlib.ZlibOptions, Buffer>(zlib.inflate),
  br: promisify<Buffer, zlib.ZlibOptions, Buffer>(zlib.brotliDecompress as typeof zlib.gunzip),
};

function tooLarge(maxBytes: number) {
  return new Problem(413, 'body_too_large', `The body is larger than ${maxBytes} bytes.`);
}

// What goes as deep as the body does runs out of stack.
function tooDeep() {
  return invalid([{ path: '', message: 'the body is nested too deep' }]);
}

/** The body's bytes, decompressed; at most maxBytes after that too. */
export async function readBody(c: Context, maxBytes: number): Promise<Buffer> {
  const body = await readBytes(c, maxBytes);
  await c.get('enter')?.();
  const encoding = c.req.header('Content-Encoding')?.trim().toLowerCase();
  if (!encoding || encoding === 'identity') return body;
  const decode = Object.hasOwn(decoders, encoding) ? decoders[encoding] : undefined;
  if (!decode) {
    const known = ['identity', ...Object.keys(decoders)].join(', ');
    throw new Problem(415, 'unsupported_encoding', `Content-Encoding must be one of ${known}.`);
  }
  try {
    return await decode(body, { maxOutputLength: maxBytes });
  } catch (error) {
    if ((error as { code?: string }).code === 'ERR_BUFFER_TOO_LARGE') throw tooLarge(maxBytes);
    throw invalid([{ path: '', message: `the body is not valid ${encoding}` }]);
  }
}

async function readBytes(c: Context, maxBytes: number): Promise<Buffer> {
  const length = c.req.header('Content-Length');
  if (length !== undefined && Number(length) > maxBytes) throw tooLarge(maxBytes);
  try {
    if (length !== undefined) return Buffer.from(await c.req.arrayBuffer());
    // Without a length (chunked) there may come more than that, or no end.
    const chunks: Uint8Array[] = [];
    let size = 0;
    for await (const chunk of c.req.raw.body ?? []) {
      size += chunk.length;
      if (size > maxBytes) throw tooLarge(maxBytes);
      chunks.push(chunk);
    }
    return Buffer.concat(chunks);
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(400, 'body_incomplete', 'The connection ended before the body did.', { cause: error });
  }
}

/** Parses a JSON body: a syntax error is a 400, a content type other than JSON a 415. */
export function parseJson(c: Context, body: Buffer, parse = parseStrictly): unknown {
  const type = c.req.header('Content-Type');
  if (type && !/^application\/([\w.-]+\+)?json\s*(;|$)/i.test(type)) {
    throw new Problem(415, 'unsupported_media_type', 'Content-Type must be application/json.');
  }
  if (body.length === 0) throw invalid([{ path: '', message: 'a JSON body is required' }]);
  try {
    return parse(body);
  } catch (error) {
    if (error instanceof Problem) throw error;
    if (error instanceof RangeError) throw tooDeep();
    throw invalid([
      { path: '', message: `the body is not valid JSON: ${(error as Error).message.slice(0, 200)}` },
    ]);
  }
}

function parseStrictly(body: Buffer): unknown {
  if (!isUtf8(body)) throw invalid([{ path: '', message: 'the body is not valid UTF-8' }]);
  return JSON.parse(body.toString());
}

/** The Idempotency-Key of a request, if it has one. */
export function readIdempotencyKey(c: Context, body: Buffer): IdempotencyKey | undefined {
  const key = c.req.header('Idempotency-Key');
  if (key === undefined) return undefined;
  const problem = textProblem(key, 255);
  if (problem) throw invalid([{ path: 'header.Idempotency-Key', message: problem }]);
  // What was sent where: the same body to another endpoint is another request.
  const bodyHash = createHash('sha256').update(c.req.path).update('\0').update(body).digest();
  return { key, bodyHash };
}

/** The list in a batch's only field: 1 to max objects. */
export function batchItems(body: unknown, field: string, max: number): unknown[] {
  if (typeof body !== 'object' || body === null || Array.isArray(body))
    throw invalid([{ path: '', message: 'expected an object' }]);
  const unknown = Object.keys(body).filter((key) => key !== field);
  if (unknown.length > 0)
    throw invalid(
      unknown
        .slice(0, maxErrors)
        .map((path) => ({ path: path.slice(0, 100), message: `unknown field; known is ${field}` })),
    );
  const items = (body as Record<string, unknown>)[field];
  if (items === undefined) throw invalid([{ path: field, message: 'is required' }]);
  if (!Array.isArray(items)) throw invalid([{ path: field, message: 'expected a list' }]);
  if (items.length === 0 || items.length > max)
    throw invalid([{ path: field, message: `must hold 1 to ${max}, holds ${items.length}` }]);
  return items;
}

// More would help nobody, and a small body could ask for a very large answer.
const maxErrors = 100;

/** Checks a value against a schema; what is wrong becomes a 400 whose paths begin with prefix ("query"). */
export function check<Schema extends z.ZodType>(
  schema: Schema,
  value: unknown,
  prefix = '',
): z.output<Schema> {
  const checked = parseWithin(schema, value);
  if (checked.success) return checked.data;
  const errors = checked.error.issues.flatMap((issue): FieldError[] => {
    const path = [prefix, ...issue.path].reduce<string>(
      (whole, part) =>
        typeof part === 'number' ? `${whole}[${part}]` : whole ? `${whole}.${String(part)}` : String(part),
      '',
    );
    if (issue.code === 'unrecognized_keys') {
      return issue.keys
        .slice(0, maxErrors)
        .map((key) => ({ path: path ? `${path}.${key}` : key, message: 'unknown field' }));
    }
    const position = issue.code === 'custom' ? (issue.params as Partial<FieldError> | undefined) : undefined;
    if (position?.line !== undefined)
      return [{ path, message: issue.message, line: position.line, column: position.column! }];
    const isMissing =
      issue.code.startsWith('invalid_') && issue.path.length > 0 && at(value, issue.path) === undefined;
    return [{ path, message: isMissing ? 'is required' : issue.message.replace(/^Invalid \w+: /, '') }];
  });
  throw invalid(errors.slice(0, maxErrors));
}

function parseWithin<Schema extends z.ZodType>(schema: Schema, value: unknown) {
  try {
    return schema.safeParse(value);
  } catch (error) {
    if (error instanceof RangeError) throw tooDeep();
    throw error;
  }
}

function at(value: unknown, path: PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (inner, key) => (inner as Record<PropertyKey, unknown> | null | undefined)?.[key],
    value,
  );
}

/** Schema of an instant: RFC 3339 text or epoch milliseconds; read as RFC 3339 text in UTC. */
export const timestampSchema = z
  .unknown()
  .transform((value, context): string => {
    const micros = parseTimestamp(
      typeof value === 'string' && /^\d{11,}$/.test(value) ? Number(value) : value,
    );
    if (!Number.isNaN(micros)) return formatTimestamp(micros);
    context.addIssue({
      code: 'custom',
      message:
        value === undefined
          ? 'is required'
          : 'expected RFC 3339 text such as 2026-01-31T12:00:00Z, or epoch milliseconds',
    });
    return z.NEVER;
  })
  .openapi({
    type: 'string',
    format: 'date-time',
    description: 'RFC 3339, or epoch milliseconds as a number',
  });

const cursorMessage = 'expected the next_cursor of an earlier answer';

/** A page of a list: opaque cursors that say where the next page begins. */
export const cursorSchema = z
  .string()
  .max(1024)
  .transform((cursor, context) => {
    const text = Buffer.from(cursor, 'base64url').toString();
    if (cursor !== '' && Buffer.from(text).toString('base64url') === cursor && !text.includes('\0'))
      return text;
    context.addIssue({ code: 'custom', message: cursorMessage });
    return z.NEVER;
  })
  .openapi({ type: 'string' });

/** To refine a query with a range: its end comes after its start. */
export const endsAfterStart = [
  ({ start_time, end_time }: { start_time?: string | undefined; end_time?: string | undefined }) =>
    !start_time || !end_time || start_time < end_time,
  { path: ['end_time'], message: 'must be after start_time' },
] as const satisfies [unknown, { path: string[]; message: string }];

/** The range asked for: the last 24 hours by default. */
export function rangeOf(query: { start_time?: string | undefined; end_time?: string | undefined }) {
  const end = query.end_time ?? new Date().toISOString();
  const start = query.start_time ?? new Date(Date.parse(end) - 86_400_000).toISOString();
  check(
    z.object({}).refine(() => Date.parse(start) < Date.parse(end), {
      path: [query.end_time === undefined ? 'start_time' : 'end_time'],
      message:
        query.end_time === undefined
          ? 'must be before end_time, which is now by default'
          : 'must be after start_time',
    }),
    {},
    'query',
  );
  return { start, end };
}

/** The 400 for a cursor that no answer of this list had. */
export function badCursor(): Problem {
  return invalid([{ path: 'query.cursor', message: cursorMessage }]);
}

/** Whether a cursor's text is an instant. */
export function isTimestamp(text: string): boolean {
  return !Number.isNaN(parseTimestamp(text));
}

/** Whether an id may be one at all; one that may not is as unknown as any other. */
export function isUuid(id: string): boolean {
  return z.guid().safeParse(id).success;
}

/** Where a page begins whose cursor is an instant and an id; null for the first. */
export function pageAfter(cursor: string | undefined): { at: string | null; id: string | null } {
  if (cursor === undefined) return { at: null, id: null };
  const [at = '', id = ''] = cursor.split(' ');
  if (!isTimestamp(at) || !isUuid(id)) throw badCursor();
  return { at, id };
}

/**
 * Looks for what a worker was asked to do, less and less often, for its timeout and five seconds, and not longer than any request may take.
 * Undefined when it has not come by then, or nobody waits for it any more.
 */
export async function waitForWorker<T>(
  c: Context,
  timeoutSeconds: number,
  look: () => Promise<T | undefined>,
): Promise<T | undefined> {
  // Whoever waits for a worker keeps the org's queries waiting no longer.
  c.get('leave')?.();
  const deadline = Date.now() + Math.min(25, timeoutSeconds + 5) * 1000;
  const { signal } = c.req.raw;
  for (let pollMs = 50; Date.now() < deadline && !signal.aborted; pollMs = Math.min(500, pollMs * 1.3)) {
    await sleep(pollMs);
    const found = await look();
    if (found !== undefined) return found;
  }
  return undefined;
}

export function toCursor(text: string): string {
  return Buffer.from(text).toString('base64url');
}

/** Of rows that were asked for with one more than the limit: a page, and the cursor of the next one, which begins behind cursorOf its last row. */
export function pageOf<Row>(
  rows: readonly Row[],
  limit: number,
  cursorOf: (last: Row) => string,
): { page: Row[]; next_cursor: string | null } {
  const page = rows.slice(0, limit);
  return { page, next_cursor: rows.length > limit ? toCursor(cursorOf(page.at(-1)!)) : null };
}

/** A name or another line of text that can be stored: see textProblem. */
export const text = (maxLength: number) =>
  z
    .string('expected text')
    .superRefine((value, context) => {
      const message = textProblem(value, maxLength);
      if (message) context.addIssue({ code: 'custom', message });
    })
    .openapi({ type: 'string', minLength: 1, maxLength });

/** Where a change came from, for the audit log (lib.audit), as JSON text. */
export function requestOf(c: Context<AuthEnv>): string {
  const { principal, requestId: id, address } = c.var;
  return JSON.stringify({ id, address, token_id: principal.tokenId });
}

export const idempotencyHeader = z.object({ 'idempotency-key': text(255).optional() });

/** Text of several lines, as people write it. */
export const prose = (maxLength: number) =>
  z
    .string('expected text')
    .max(maxLength, `must be at most ${maxLength} characters`)
    .superRefine((value, context) => {
      const message = proseProblem(value);
      if (message) context.addIssue({ code: 'custom', message });
    })
    .openapi({ type: 'string', maxLength });

/** A query parameter that is a whole number. */
export const wholeNumber = (min: number, max: number) => {
  const message = `must be from ${min} to ${max}`;
  return z.coerce
    .number('expected a whole number')
    .int('expected a whole number')
    .min(min, message)
    .max(max, message);
};

export const pageLimitSchema = wholeNumber(1, 1000).default(100);

const maxJsonBytes = 16_384;

/** Any JSON that can be stored; not nested deeper than 20, and not longer than 16 KiB. */
export const jsonSchema = z.unknown().superRefine((value, context) => {
  const message =
    jsonProblem(value, 0) ??
    (Buffer.byteLength(JSON.stringify(value) ?? '') > maxJsonBytes
      ? `is longer than ${maxJsonBytes} bytes as JSON`
      : null);
  if (message) context.addIssue({ code: 'custom', message });
});

/** An object of any JSON, as jsonSchema. */
export const jsonObjectSchema = z
  .custom<Record<string, unknown>>()
  .superRefine((value, context) => {
    const message =
      typeof value === 'object' && value !== null && !Array.isArray(value)
        ? jsonSchema.safeParse(value).error?.issues[0]?.message
        : 'expected an object';
    if (message) context.addIssue({ code: 'custom', message });
  })
  .openapi({ type: 'object', additionalProperties: true });

function jsonProblem(value: unknown, depth: number): string | null {
  if (typeof value === 'string') return proseProblem(value);
  if (typeof value !== 'object' || value === null) return null;
  if (depth === 20) return 'is nested too deep';
  for (const [key, inner] of Object.entries(value)) {
    const problem = proseProblem(key) ?? jsonProblem(inner, depth + 1);
    if (problem) return problem;
  }
  return null;
}

function proseProblem(value: string): string | null {
  if (value.includes('\0')) return 'must not contain a NUL character';
  return value.isWellFormed() ? null : 'must be well-formed Unicode';
}

/** Query parameters as an object; one that is given twice is an error. */
export function queryOf(c: Context): Record<string, string> {
  const twice = Object.entries(c.req.queries()).find(([, values]) => values.length > 1);
  if (twice) throw invalid([{ path: `query.${twice[0]}`, message: 'is given more than once' }]);
  return c.req.query();
}

/** Query parameters, and apart from them those of a prefix (label. or meta.), without it. */
export function splitQuery(c: Context, prefix: string): [Record<string, string>, Record<string, string>] {
  const entries = Object.entries(queryOf(c));
  const isPrefixed = ([key]: [string, string]) => key.startsWith(prefix);
  return [
    Object.fromEntries(entries.filter((entry) => !isPrefixed(entry))),
    Object.fromEntries(entries.filter(isPrefixed).map(([key, value]) => [key.slice(prefix.length), value])),
  ];
}

/** For an endpoint that takes no query parameters: any is an error that names it. */
export function refuseQuery(c: Context): void {
  check(z.strictObject({}), queryOf(c), 'query');
}

type Route = Parameters<OpenAPIHono['openAPIRegistry']['registerPath']>[0] & { getRoutingPath(): string };

/**
 * Adds an endpoint to the router and to /openapi.json. Unlike OpenAPIHono's own it does not validate by itself:
 * handlers read their input with check(), after authentication, and bodies may be compressed.
 */
export function endpoint<E extends Env>(
  router: OpenAPIHono<E>,
  route: Route,
  ...handlers: [...MiddlewareHandler<E>[], Handler<E>]
): void {
  router.openAPIRegistry.registerPath(route);
  // What the document says is what is enforced, and where it says nothing (health) nothing is asked.
  const permission = route.security?.[0]?.bearer?.[0] as Permission | undefined;
  const guard: MiddlewareHandler = (c: Context<AuthEnv>, next) => c.var.pass(c, permission!, next);
  router.on(
    [route.method.toUpperCase()],
    [route.getRoutingPath()],
    ...(permission ? [guard as MiddlewareHandler<E>] : []),
    ...handlers,
  );
}

/** The pattern of the endpoint that answers a request, such as /api/v1/services/{name}; undefined where there is none. */
export function patternOf(c: Context): string | undefined {
  // Of several that match the first answers.
  const route = matchedRoutes(c).find(({ method }) => method !== 'ALL');
  return route?.path.replace(/:(\w+)/g, '{$1}');
}

/** Responses of a route: what it answers (schema null: nothing), and the problems it shares with others. */
export function responses(status: number, description: string, schema: z.ZodType | null, problems: number[]) {
  const described: Record<number, { description: string; content?: Record<string, { schema: z.ZodType }> }> =
    {
      [status]: { description, ...(schema ? { content: { 'application/json': { schema } } } : {}) },
    };
  // Whatever takes a token is limited, and not there while the org is being erased.
  for (const problem of problems.includes(401) ? [...problems, 409, 429] : problems) {
    described[problem] = {
      description: problemTexts[problem] ?? 'Problem',
      content: { 'application/problem+json': { schema: problemSchema } },
    };
  }
  return described;
}

const problemTexts: Record<number, string> = {
  400: 'The request is not valid; errors names each field',
  401: 'The token is missing or not valid',
  403: 'The token does not have the permission',
  404: 'There is no such thing in this org',
  409: 'The request conflicts with the present state, or the org is being erased',
  413: 'The body is too large',
  415: 'Content-Type or Content-Encoding is not supported',
  422: 'A limit of the org is reached, or an Idempotency-Key was used with another body',
  429: 'Too many requests; try again after Retry-After seconds. RateLimit-Limit, -Remaining and -Reset are on every answer',
  503: 'The service is busy or its database away; try again after Retry-After seconds',
  504: 'The request took too long',
};
