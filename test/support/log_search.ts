// What a search of logs should find, told plainly in TypeScript from the lines.
import type { Stored } from './lines.ts';

export interface Term {
  isNegated: boolean;
  /** One word, or a phrase. */
  words: string[];
}

/** Terms that all have to hold, and others that may instead. */
export type Query = Term[][];

export interface Filter {
  q?: Query | undefined;
  contains?: string | undefined;
  service?: string | undefined;
  level?: string | undefined;
  metadata?: Record<string, string> | undefined;
  traceId?: string | undefined;
}

const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'];

/** Runs of letters and digits; a number with an exponent ends at its digits, as in 8e9c, which is 8e9 and c. */
export function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[0-9]+e[0-9]+|[a-z0-9]+/g) ?? [];
}

/** Whether a message of these words has a term's in a row. */
export function holds({ isNegated, words }: Term, message: string[]): boolean {
  const wanted = words.flatMap(wordsOf);
  const isThere = message.some((_, at) => wanted.every((word, i) => message[at + i] === word));
  return isThere !== isNegated;
}

// As itself, as a number or another literal, or as one of a list.
function isValue(value: unknown, text: string): boolean {
  if (Array.isArray(value)) return value.some((one) => !Array.isArray(one) && isValue(one, text));
  if (typeof value === 'string') return value === text;
  if (typeof value === 'number') return /^-?[0-9]/.test(text) && Number(text) === value;
  return typeof value !== 'object' || value === null ? String(value) === text : false;
}

function hasValue(metadata: object, key: string, text: string): boolean {
  const whole = (metadata as Record<string, unknown>)[key];
  if (whole !== undefined && isValue(whole, text)) return true;
  let inner: unknown = metadata;
  for (const part of key.split('.')) inner = (inner as Record<string, unknown> | undefined)?.[part];
  return inner !== undefined && isValue(inner, text);
}

export function matches(filter: Filter, line: Stored): boolean {
  const message = wordsOf(line.message);
  return (
    (filter.service === undefined || line.service === filter.service) &&
    (filter.level === undefined || levels.indexOf(line.level) >= levels.indexOf(filter.level)) &&
    (filter.traceId === undefined || line.traceId === filter.traceId) &&
    (filter.contains === undefined || line.message.toLowerCase().includes(filter.contains.toLowerCase())) &&
    Object.entries(filter.metadata ?? {}).every(
      ([key, text]) => line.metadata && hasValue(line.metadata, key, text),
    ) &&
    (filter.q === undefined || filter.q.some((terms) => terms.every((term) => holds(term, message))))
  );
}

/** As a user would write it: a phrase in quotes, or as words that punctuation divides. */
export function writeQuery(query: Query, punctuation: string): string {
  return query
    .map((terms) =>
      terms
        .map(({ isNegated, words }) => {
          const text = punctuation === '"' ? `"${words.join(' ')}"` : words.join(punctuation);
          return `${isNegated ? '-' : ''}${text}`;
        })
        .join(' '),
    )
    .join(' or ');
}

/** A filter as lib.read_log_filter takes it. */
export function toFilter(filter: Filter, punctuation: string): string {
  return JSON.stringify({
    q: filter.q && writeQuery(filter.q, punctuation),
    contains: filter.contains,
    service_name: filter.service,
    level: filter.level,
    metadata: filter.metadata,
    trace_id: filter.traceId,
  });
}
