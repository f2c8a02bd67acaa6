// From the JSON of POST /metrics and /metrics/batch to samples. This is the hot path, so the rules of the
// published schema (src/routes/metrics.ts) are written out here by hand; a property test holds the two together.
import { type FieldError, invalid } from '../errors.ts';
import { formatTimestamp, parseTimestamp } from '../timestamp.ts';
import type { IdCache, Missing, SeriesIdentity } from './ids.ts';
import { newSamples, type Samples } from './samples.ts';

export const limits = {
  batch: 1000,
  nameLength: 255,
  serviceNameLength: 255,
  labels: 64,
  labelNameLength: 128,
  labelValueLength: 1024,
  // Room for the sums of a tier's bucket, which overflow at 1.8e308, and error there for everyone.
  value: 1e300,
} as const;

/** Accepted times, in microseconds since 1970. */
export interface TimeBounds {
  min: number;
  max: number;
}

/** Text that PostgreSQL can store and a person can read: no control characters, no lone surrogates. */
export function textProblem(value: unknown, maxLength: number): string | null {
  if (typeof value !== 'string') return 'expected text';
  if (value.length === 0) return 'must not be empty';
  if (value.length > maxLength) return `must be at most ${maxLength} characters, has ${value.length}`;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: finding them is the point
  if (/[\u0000-\u001f\u007f]/.test(value)) return 'must not contain control characters';
  if (!value.isWellFormed()) return 'must be well-formed Unicode';
  return null;
}

/**
 * Turns the objects of a request into samples, looking up (and making) their series.
 * pathOf names the i-th object in errors: '' or 'metrics[i]'. Rejects with a 400 Problem that lists every wrong
 * field, or with what api.ensure_series raises; then nothing has been recorded.
 */
export async function readMetrics(
  items: readonly unknown[],
  pathOf: (index: number) => string,
  orgId: number,
  bounds: TimeBounds,
  cache: IdCache<SeriesIdentity>,
): Promise<Samples> {
  const samples = newSamples(items.length);
  const errors: FieldError[] = [];
  const missing: Missing<SeriesIdentity> = new Map();
  const now = Date.now() * 1000;
  // Most batches carry one timestamp many times.
  let lastText: unknown;
  let lastTime = 0;

  for (let i = 0; i < items.length; i++) {
    const item = items[i];
    if (typeof item !== 'object' || item === null || Array.isArray(item)) {
      errors.push({ path: pathOf(i), message: 'expected an object' });
      continue;
    }
    let name: unknown;
    let value: unknown;
    let serviceName: unknown;
    let labels: unknown;
    let timestamp: unknown;
    let unknownFields = 0;
    for (const field in item) {
      switch (field) {
        case 'name':
          name = (item as Record<string, unknown>).name;
          break;
        case 'value':
          value = (item as Record<string, unknown>).value;
          break;
        case 'service_name':
          serviceName = (item as Record<string, unknown>).service_name;
          break;
        case 'labels':
          labels = (item as Record<string, unknown>).labels;
          break;
        case 'timestamp':
          timestamp = (item as Record<string, unknown>).timestamp;
          break;
        default:
          // A few are enough to see what is wrong, and a small body can hold a million.
          if (++unknownFields <= 10) errors.push(unknownField(pathOf(i), field, knownFields));
      }
    }

    // JSON has no NaN and no infinities, but 1e999 reads as one.
    if (typeof value !== 'number' || !Number.isFinite(value)) {
      errors.push({
        path: join(pathOf(i), 'value'),
        message: value === undefined ? 'is required' : 'expected a finite number',
      });
    } else if (Math.abs(value) > limits.value) {
      errors.push({ path: join(pathOf(i), 'value'), message: valueProblem });
    } else {
      samples.values[i] = value;
    }

    if (timestamp === undefined) {
      samples.times[i] = now;
    } else {
      if (timestamp !== lastText) {
        lastTime = parseTimestamp(timestamp);
        lastText = timestamp;
      }
      if (lastTime >= bounds.min && lastTime <= bounds.max) samples.times[i] = lastTime;
      else
        errors.push({
          path: join(pathOf(i), 'timestamp'),
          message: timestampProblem(lastTime, bounds, 'raw samples'),
        });
    }

    const key = seriesKey(orgId, name, serviceName, labels);
    const id = key === null ? undefined : cache.get(key);
    if (id !== undefined) {
      samples.seriesIds[i] = id;
      continue;
    }
    // A key in the cache was checked when it came there; only what is new has to be.
    const known = key === null ? undefined : missing.get(key);
    if (known) {
      known.indexes.push(i);
    } else if (checkIdentity(pathOf(i), name, serviceName, labels, errors)) {
      const identity = {
        name: name as string,
        service_name: (serviceName as string | undefined) ?? '',
        labels: (labels as Record<string, string> | undefined) ?? {},
      };
      missing.set(key!, { identity, indexes: [i] });
    }
  }

  if (errors.length > 0) throw invalid(errors);
  await cache.resolve(orgId, missing, samples.seriesIds);
  return samples;
}

/**
 * One string for one series, or null where a part is of the wrong type. The parts of a valid series hold no NUL,
 * so the number of NULs follows from the number of labels at the end: no two series share a key, and nothing
 * with a NUL in it shares one with a valid series. Labels in another order make another key, of the same id.
 */
function seriesKey(orgId: number, name: unknown, serviceName: unknown, labels: unknown): string | null {
  if (typeof name !== 'string') return null;
  let key = `${orgId}\0${name}\0`;
  if (typeof serviceName === 'string') {
    // An empty service name is refused, not taken for an absent one.
    if (serviceName === '') return null;
    key += serviceName;
  } else if (serviceName !== undefined) return null;
  let count = 0;
  if (labels !== undefined) {
    if (typeof labels !== 'object' || labels === null || Array.isArray(labels)) return null;
    for (const label in labels) {
      const value = (labels as Record<string, unknown>)[label];
      if (typeof value !== 'string') return null;
      key += `\0${label}\0${value}`;
      count++;
    }
  }
  return `${key}\0${count}`;
}

function checkIdentity(
  path: string,
  name: unknown,
  serviceName: unknown,
  labels: unknown,
  errors: FieldError[],
): boolean {
  const before = errors.length;
  const complain = (field: string, message: string | null) => {
    if (message !== null) errors.push({ path: join(path, field), message });
  };
  complain('name', name === undefined ? 'is required' : textProblem(name, limits.nameLength));
  if (serviceName !== undefined) complain('service_name', textProblem(serviceName, limits.serviceNameLength));
  if (labels !== undefined) {
    for (const problem of labelProblems(labels))
      complain(problem.path ? `labels.${problem.path}` : 'labels', problem.message);
  }
  return errors.length === before;
}

/** What is wrong with the labels of a series: the name of the label, '' for all of them, and why. At most ten. */
export function labelProblems(labels: unknown): FieldError[] {
  if (typeof labels !== 'object' || labels === null || Array.isArray(labels)) {
    return [{ path: '', message: 'expected an object of text values' }];
  }
  const entries = Object.entries(labels);
  if (entries.length > limits.labels) {
    return [{ path: '', message: `must be at most ${limits.labels} labels, has ${entries.length}` }];
  }
  const problems: FieldError[] = [];
  for (const [label, value] of entries) {
    const nameProblem = textProblem(label, limits.labelNameLength);
    // An empty value is allowed: it is what a label that is absent reads as.
    const problem = value === '' ? null : textProblem(value, limits.labelValueLength);
    if (nameProblem)
      problems.push({ path: '', message: `label name ${JSON.stringify(label.slice(0, 40))} ${nameProblem}` });
    else if (problem) problems.push({ path: label, message: problem });
  }
  return problems.slice(0, 10);
}

export const valueProblem = 'must be from -1e300 to 1e300';

const knownFields = 'name, value, labels, service_name, timestamp';

export function unknownField(path: string, field: string, known: string): FieldError {
  return { path: join(path, field.slice(0, 100)), message: `unknown field; known are ${known}` };
}

export function timestampProblem(time: number, bounds: TimeBounds, what: string): string {
  if (Number.isNaN(time)) return 'expected RFC 3339 text such as 2026-01-31T12:00:00Z, or epoch milliseconds';
  // Seconds, taken for milliseconds, are in January 1970.
  if (time > 0 && time < 4e12) return 'expected epoch milliseconds, and these look like seconds';
  return time > bounds.max
    ? `must not be more than a day ahead (${formatTimestamp(bounds.max)})`
    : `must not be older than the retention of ${what} (${formatTimestamp(bounds.min)})`;
}

export function join(path: string, field: string): string {
  return path ? `${path}.${field}` : field;
}
