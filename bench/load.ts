// An HTTP load generator (a number of connections, each with one request under way at a time) and its figures.
import { Client } from 'undici';

export interface LoadOptions {
  url: string;
  path: string;
  /** GET: what body returns is appended to the path. */
  method?: 'GET' | 'POST';
  headers: Record<string, string>;
  connections: number;
  /** How long, or how many requests in all: whichever is reached first. */
  seconds?: number;
  requests?: number;
  /** Body of the n-th request of a connection. Made before the clock starts where that is dear. */
  body: (connection: number, request: number) => string | Buffer;
  /** Status that counts as success. */
  expect: number;
  /** Throws when the answer to the n-th request of a connection is wrong. Called after the clock has stopped. */
  check?: (answer: string, connection: number, request: number) => void;
}

export interface LoadResult {
  requests: number;
  seconds: number;
  /** Latencies in milliseconds, sorted. */
  latencies: Float64Array;
}

/** Runs the load; throws when any answer has another status. */
export async function runLoad(options: LoadOptions): Promise<LoadResult> {
  const latencies: number[] = [];
  const checks: (() => void)[] = [];
  const started = performance.now();
  const deadline = started + (options.seconds ?? Number.POSITIVE_INFINITY) * 1000;
  let left = options.requests ?? Number.POSITIVE_INFINITY;
  await Promise.all(
    Array.from({ length: options.connections }, async (_, connection) => {
      const client = new Client(options.url, { pipelining: 1 });
      for (let request = 0; left-- > 0 && performance.now() < deadline; request++) {
        const body = options.body(connection, request);
        const sent = performance.now();
        const answer = await client.request({
          method: options.method ?? 'POST',
          headers: options.headers,
          ...(options.method === 'GET' ? { path: `${options.path}${body}` } : { path: options.path, body }),
        });
        const text = await answer.body.text();
        latencies.push(performance.now() - sent);
        if (answer.statusCode !== options.expect)
          throw new Error(`${options.path}: ${answer.statusCode} ${text}`);
        if (options.check) checks.push(() => options.check!(text, connection, request));
      }
      await client.close();
    }),
  );
  const seconds = (performance.now() - started) / 1000;
  for (const check of checks) check();
  return {
    requests: latencies.length,
    seconds,
    latencies: Float64Array.from(latencies).sort(),
  };
}

/** The p-th percentile (0 to 100) of sorted values. */
export function percentile(sorted: Float64Array, p: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * p) / 100))] ?? Number.NaN;
}

/** A line of the benches' output. */
export interface Row {
  what: string;
  perSecond: number;
  p50: number;
  p95: number;
  p99: number;
}

export function toRow(what: string, { requests, seconds, latencies }: LoadResult, perRequest = 1): Row {
  return {
    what,
    perSecond: (requests * perRequest) / seconds,
    p50: percentile(latencies, 50),
    p95: percentile(latencies, 95),
    p99: percentile(latencies, 99),
  };
}

export function logRow(row: Row) {
  const [p50, p95, p99] = [row.p50, row.p95, row.p99].map((ms) => ms.toFixed(2).padStart(8));
  console.log(
    `  ${row.what.padEnd(32)} ${row.perSecond.toFixed(0).padStart(9)}/s  p50 ${p50} ms  p95 ${p95} ms  p99 ${p99} ms`,
  );
}

/** Prints ours beside theirs, with ours/theirs in brackets. */
export function logComparison(title: string, ours: Row[], peers: { name: string; rows: Row[] }[]) {
  const figures = (row: Row) =>
    row.perSecond.toFixed(0).padStart(9) + row.p50.toFixed(2).padStart(9) + row.p99.toFixed(2).padStart(9);
  const heads = peers.map(({ name }) => `${`${name}: rate`.padStart(22)}      p50      p99  (ours/theirs)  `);
  console.log(`\n${title}\n${' '.repeat(34)}ours: rate      p50      p99${heads.join('').trimEnd()}`);
  for (const [i, row] of ours.entries()) {
    const theirs = peers.map(({ rows }) => {
      const peer = rows[i]!;
      const ratios = [row.perSecond / peer.perSecond, row.p50 / peer.p50, row.p99 / peer.p99];
      return `${figures(peer).padStart(40)}  (${ratios.map((ratio) => ratio.toFixed(2)).join(' ')})`.padEnd(
        60,
      );
    });
    console.log(
      `  ${row.what.padEnd(32)}${figures(row).slice(-27).padStart(27)}${theirs.join('').trimEnd()}`,
    );
  }
}
