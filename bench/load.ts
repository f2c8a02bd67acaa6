// An HTTP load generator: a number of connections, each with one request under way at a time.
import { Client } from 'undici';

export interface LoadOptions {
  url: string;
  path: string;
  token?: string;
  connections: number;
  seconds: number;
  /** Body of the n-th request of a connection. Made before the clock starts where that is dear. */
  body: (connection: number, request: number) => string | Buffer;
  headers?: Record<string, string>;
  /** Status that counts as success. */
  expect: number;
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
  const deadline = performance.now() + options.seconds * 1000;
  const started = performance.now();
  await Promise.all(
    Array.from({ length: options.connections }, async (_, connection) => {
      const client = new Client(options.url, { pipelining: 1 });
      for (let request = 0; performance.now() < deadline; request++) {
        const sent = performance.now();
        const answer = await client.request({
          method: 'POST',
          path: options.path,
          headers: {
            'content-type': 'application/json',
            ...(options.token ? { authorization: `Bearer ${options.token}` } : {}),
            ...options.headers,
          },
          body: options.body(connection, request),
        });
        const text = await answer.body.text();
        if (answer.statusCode !== options.expect)
          throw new Error(`${options.path}: ${answer.statusCode} ${text}`);
        latencies.push(performance.now() - sent);
      }
      await client.close();
    }),
  );
  return {
    requests: latencies.length,
    seconds: (performance.now() - started) / 1000,
    latencies: Float64Array.from(latencies).sort(),
  };
}

/** The p-th percentile (0 to 100) of sorted values. */
export function percentile(sorted: Float64Array, p: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * p) / 100))] ?? Number.NaN;
}
