// From the JSON of POST /logs to lines. As with metrics the published schema (src/routes/logs.ts) is written out here by hand.
import { type FieldError, invalid } from '../errors.ts';
import { parseTimestamp } from '../timestamp.ts';
import type { IdCache, LogStreamIdentity, Missing } from './ids.ts';
import { type Lines, newLines } from './lines.ts';
import { join, type TimeBounds, textProblem, timestampProblem, unknownField } from './metrics.ts';

// https://tc39.es/proposal-json-parse-with-source/, which TypeScript's library does not have yet.
declare global {
  interface JSON {
    parse(
      text: string,
      reviver: (key: string, value: unknown, context?: { source: string }) => unknown,
    ): unknown;
    rawJSON(source: string): object;
    isRawJSON(value: unknown): boolean;
  }
}

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'] as const;
export type LogLevel = (typeof logLevels)[number];

const levelsByName = new Map<string, LogLevel>([
  ...logLevels.map((level): [string, LogLevel] => [level, level]),
  ['warning', 'warn'],
  ['critical', 'fatal'],
]);

/** The level that a text names, in any case. */
export function levelOf(text: string): LogLevel | undefined {
  return levelsByName.get(text) ?? levelsByName.get(text.toLowerCase());
}

export const levelMessage = `expected one of ${[...levelsByName.keys()].join(', ')}`;

export const logLimits = {
  batch: 1000,
  serviceNameLength: 255,
  /** Bytes of UTF-8. */
  messageBytes: 32_768,
  /** Bytes of its JSON. */
  metadataBytes: 16_384,
  metadataDepth: 20,
  idLength: 128,
} as const;

/**
 * Turns the objects of a request into lines, looking up (and making) their streams. pathOf names the i-th object in
 * errors: '' or 'logs[i]'. Rejects with a 400 Problem that lists every wrong field, or with what
 * api.ensure_log_streams raises; then nothing has been recorded.
 * What PostgreSQL cannot store in a message or metadata, NUL and lone surrogates, becomes U+FFFD: a batch must not be
 * lost for one line's garbage.
 */
export async function readLogs(
  items: readonly unknown[],
  pathOf: (index: number) => string,
  orgId: number,
  bounds: TimeBounds,
  cache: IdCache<LogStreamIdentity>,
): Promise<Lines> {
  const lines = newLines(items.length);
  const errors: FieldError[] = [];
  const missing: Missing<LogStreamIdentity> = new Map();
  const now = Date.now() * 1000;

  for (let i = 0; i < items.length; i++) {
    const item = items[i];
    if (!isObject(item)) {
      errors.push({ path: pathOf(i), message: 'expected an object' });
      continue;
    }
    const complain = (field: string, message: string) =>
      errors.push({ path: join(pathOf(i), field), message });
    let serviceName: unknown;
    let level: unknown;
    let message: unknown;
    let timestamp: unknown;
    let unknownFields = 0;
    for (const field in item) {
      const value = (item as Record<string, unknown>)[field];
      switch (field) {
        case 'service_name':
          serviceName = value;
          break;
        case 'level':
          level = value;
          break;
        case 'message':
          message = value;
          break;
        case 'timestamp':
          timestamp = value;
          break;
        case 'metadata': {
          if (value === null) break;
          const metadata = readMetadata(value);
          if ('problem' in metadata) complain(field, metadata.problem);
          else {
            lines.metadata[i] = metadata.json;
            lines.bytes += metadata.json.length;
          }
          break;
        }
        case 'trace_id':
        case 'span_id': {
          // What a logger says outside of any trace.
          if (value === null || value === '') break;
          const problem = textProblem(value, logLimits.idLength);
          if (problem) complain(field, problem);
          else if (field === 'trace_id') lines.traceIds[i] = value as string;
          else lines.spanIds[i] = value as string;
          break;
        }
        default:
          if (++unknownFields <= 10) errors.push(unknownField(pathOf(i), field, knownFields));
      }
    }

    if (typeof message !== 'string' || message === '') {
      complain(
        'message',
        message === undefined ? 'is required' : message === '' ? 'must not be empty' : 'expected text',
      );
    } else {
      const text = storable(message);
      const bytes = text.length * 3 > logLimits.messageBytes ? Buffer.byteLength(text) : text.length;
      if (bytes > logLimits.messageBytes)
        complain('message', `must be at most ${logLimits.messageBytes} bytes, has ${bytes}`);
      lines.messages[i] = text;
      lines.bytes += bytes;
    }

    if (timestamp === undefined || timestamp === null) lines.times[i] = now;
    else {
      const time = parseTimestamp(timestamp);
      if (time >= bounds.min && time <= bounds.max) lines.times[i] = time;
      else complain('timestamp', timestampProblem(time, bounds, 'logs'));
    }

    const known = typeof level === 'string' ? levelOf(level) : undefined;
    if (!known) complain('level', level === undefined ? 'is required' : levelMessage);
    const key =
      known && typeof serviceName === 'string' && serviceName !== ''
        ? `${orgId}\0${serviceName}\0${known}`
        : null;
    const id = key === null ? undefined : cache.get(key);
    if (id !== undefined) {
      lines.streamIds[i] = id;
      continue;
    }
    // A name in the cache was checked when it came there; only what is new has to be.
    const problem =
      serviceName === undefined ? 'is required' : textProblem(serviceName, logLimits.serviceNameLength);
    if (problem) complain('service_name', problem);
    else if (key !== null) {
      const entry = missing.get(key);
      if (entry) entry.indexes.push(i);
      else
        missing.set(key, { identity: { serviceName: serviceName as string, level: known! }, indexes: [i] });
    }
  }

  if (errors.length > 0) throw invalid(errors);
  lines.bytes += 100 * items.length;
  await cache.resolve(orgId, missing, lines.streamIds);
  return lines;
}

const knownFields = 'service_name, level, message, timestamp, metadata, trace_id, span_id';

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !JSON.isRawJSON(value);
}

function storable(text: string): string {
  const wellFormed = text.toWellFormed();
  return wellFormed.includes('\0') ? wellFormed.replaceAll('\0', '\ufffd') : wellFormed;
}

function readMetadata(value: unknown): { json: string } | { problem: string } {
  if (!isObject(value)) return { problem: 'expected an object' };
  const numbers = { zeros: 0 };
  const problem = innerProblem(value, 1, numbers);
  if (problem) return { problem };
  let json = JSON.stringify(value);
  // NUL, or half of a surrogate pair, as JSON writes them; perhaps a backslash followed by the same letters, and no harm done.
  if (/\\u(?:0000|d[89a-f])/.test(json)) json = JSON.stringify(storableJson(value));
  const length = json.length * 3 > logLimits.metadataBytes ? Buffer.byteLength(json) : json.length;
  const bytes = length + numbers.zeros;
  if (bytes > logLimits.metadataBytes)
    return { problem: `must be at most ${logLimits.metadataBytes} bytes as JSON, has ${Math.ceil(bytes)}` };
  return { json };
}

// zeros: what numbers such as 1e300 have more of when PostgreSQL writes them, which does so in full.
function innerProblem(value: object, depth: number, numbers: { zeros: number }): string | null {
  if (depth > logLimits.metadataDepth)
    return `must not be nested deeper than ${logLimits.metadataDepth} levels`;
  for (const key in value) {
    const inner = (value as Record<string, unknown>)[key];
    if (typeof inner === 'number') {
      if (!Number.isFinite(inner)) return `${key.slice(0, 100)} is too large a number`;
      if (inner !== 0) numbers.zeros += Math.max(0, Math.abs(Math.log10(Math.abs(inner))) - 20);
    } else if (typeof inner === 'object' && inner !== null && !JSON.isRawJSON(inner)) {
      const problem = innerProblem(inner, depth + 1, numbers);
      if (problem) return problem;
    }
  }
  return null;
}

function storableJson(value: unknown): unknown {
  if (typeof value === 'string') return storable(value);
  if (typeof value !== 'object' || value === null || JSON.isRawJSON(value)) return value;
  if (Array.isArray(value)) return value.map(storableJson);
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [storable(key), storableJson(inner)]),
  );
}

/**
 * Parses JSON that may hold integers larger than a double does, such as ids of 64 bits: they are kept as they were written.
 */
export function parseExactly(text: string): unknown {
  const value = JSON.parse(text);
  // Most bodies have no number that long; the others are parsed anew, several times slower.
  if (!/[:,[\s]-?\d{16}/.test(text)) return value;
  return JSON.parse(text, (_key, inner, context) =>
    typeof inner === 'number' && !Number.isSafeInteger(inner) && context && /^-?\d+$/.test(context.source)
      ? JSON.rawJSON(context.source)
      : inner,
  );
}
