// What an org feels of another that floods the service: its latencies alone, and under each kind of flood, in one run.
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'undici';
import { signToken, startService } from '../test/support/process.ts';
import { ask, type Call, floods, startFlood } from './flood.ts';
import { type History, storeHistory } from './history.ts';
import { percentile } from './load.ts';

const dayMs = 86_400_000;
// Between the answer to a call of a kind and the next.
const pauseMs = 40;

const sampleOf = (name: string, i: number, timestamp: number) => ({
  name: `${name}_${i % 5}`,
  value: i % 97,
  service_name: 'shop',
  labels: { host: `web-${i % 10}` },
  timestamp,
});

const linesOf = (service_name: string, count: number, timestamp: number) => ({
  logs: Array.from({ length: count }, (_, i) => ({
    service_name,
    level: 'info',
    message: `order ${i} of customer ${i * 7} was shipped by truck ${i % 13}`,
    timestamp,
  })),
});

/** One org's ordinary use. What it records is not what it asks for, so that the one does not grow with the other. */
const calls: Record<string, () => Call> = {
  'one sample': () => ({
    path: '/api/v1/metrics',
    body: JSON.stringify(sampleOf('recorded', 1, Date.now())),
  }),
  '1000 samples': () => ({
    path: '/api/v1/metrics/batch',
    body: JSON.stringify({
      metrics: Array.from({ length: 1000 }, (_, i) => sampleOf('recorded', i, Date.now() - i)),
    }),
  }),
  '100 lines': () => ({ path: '/api/v1/logs', body: JSON.stringify(linesOf('recorded', 100, Date.now())) }),
  '24 h by 1 h': () => ({
    path: '/api/v1/metrics/query',
    body: JSON.stringify({
      metric_name: 'asked_0',
      start_time: Date.now() - dayMs,
      end_time: Date.now(),
      aggregation: 'avg',
      time_window: '1h',
    }),
  }),
  'log search': () => ({ path: '/api/v1/logs/asked?q=shipped&limit=100' }),
  alerts: () => ({ path: '/api/v1/alerts' }),
};
const kinds = Object.keys(calls);

/** The p95 of each kind of call, in milliseconds. */
async function measure(url: string, token: string, seconds: number): Promise<number[]> {
  return Promise.all(
    Object.entries(calls).map(async ([kind, make], i) => {
      const client = new Client(url, { pipelining: 1 });
      const latencies: number[] = [];
      const deadline = Date.now() + seconds * 1000;
      await sleep((i * pauseMs) / kinds.length);
      while (Date.now() < deadline) {
        const call = make();
        const sent = performance.now();
        const status = await ask(client, token, call);
        latencies.push(performance.now() - sent);
        if (status >= 300) throw new Error(`${kind}: ${status}`);
        await sleep(pauseMs);
      }
      await client.close();
      return percentile(Float64Array.from(latencies).sort(), 95);
    }),
  );
}

/** Prints the p95 of each kind of call alone and under each flood, and the ratio. */
export async function benchFairness(databaseUrl: string, history: History, seconds: number): Promise<void> {
  await storeHistory(databaseUrl, history);
  const [mine, theirs] = await Promise.all([signToken({ org_id: 'quiet' }), signToken({ org_id: 'acme' })]);
  const api = await startService('api', { DATABASE_URL: databaseUrl });
  try {
    const client = new Client(api.url);
    // A day of ten hosts each 10 s, and 20,000 lines.
    for (let at = Date.now() - dayMs; at < Date.now(); at += 1_000_000) {
      const metrics = Array.from({ length: 1000 }, (_, i) =>
        sampleOf('asked', i, Math.min(Date.now(), at + Math.floor(i / 10) * 10_000)),
      );
      await ask(client, mine, { path: '/api/v1/metrics/batch', body: JSON.stringify({ metrics }) });
    }
    for (let i = 0; i < 20; i++) {
      const body = JSON.stringify(linesOf('asked', 1000, Date.now() - i * 1000));
      await ask(client, mine, { path: '/api/v1/logs', body });
    }
    for (let i = 0; i < 200; i++)
      await ask(client, theirs, floods(history)['batches of 1000 lines']!.calls()[0]!);
    await client.close();
    const line = (what: string, cells: string[]) =>
      console.log(`  ${what.padEnd(30)}${cells.map((cell) => cell.padStart(15)).join('')}`);
    line('p95 in ms (and times alone)', kinds);
    await measure(api.url, mine, 2);
    for (const what of Object.keys(floods(history))) {
      // Alone before each of them: the machine is not the same all the time.
      const alone = await measure(api.url, mine, seconds);
      const flood = startFlood({ flood: what, url: api.url, token: theirs, history });
      await sleep(1500);
      const flooded = await measure(api.url, mine, seconds);
      const statuses = await flood.stop();
      line(
        'alone',
        alone.map((ms) => ms.toFixed(1)),
      );
      line(
        what,
        flooded.map((ms, i) => `${ms.toFixed(1)} (${(ms / alone[i]!).toFixed(1)})`),
      );
      console.log(
        `    of the flood: ${[...statuses].map(([status, n]) => `${n} times ${status}`).join(', ')}`,
      );
      await sleep(2000);
    }
  } finally {
    await api.stop();
  }
}
