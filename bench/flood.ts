// Floods of an org, each in a thread of its own, so that what makes them does not delay what measures (bench/fairness.ts).
import { parentPort, Worker, workerData } from 'node:worker_threads';
import { Client } from 'undici';
import { type History, historySeries } from './history.ts';

export interface Call {
  path: string;
  /** GET without one. */
  body?: string;
}

interface Flood {
  /** Each has one request under way at all times. */
  connections: number;
  /** Requests, made beforehand; sent in turn. */
  calls: () => Call[];
}

const dayMs = 86_400_000;

const floodLogs = JSON.stringify({
  logs: Array.from({ length: 1000 }, (_, i) => ({
    service_name: `flood-${i % 20}`,
    level: 'info',
    message: `GET /api/v1/users/${i * 7919}/orders?page=${i % 50} completed with status 200 in ${i % 500} ms, ${i * 31} bytes sent to client 10.1.${i % 256}.7`,
    metadata: { user_id: i, region: 'eu-west-1' },
  })),
});

const times = <T>(count: number, make: (i: number) => T) => Array.from({ length: count }, (_, i) => make(i));

export function floods(history: History): Record<string, Flood> {
  const end = history.start + 29 * dayMs;
  return {
    'batches of 1000 samples': {
      connections: 16,
      calls: () =>
        times(200, (i) => ({
          path: '/api/v1/metrics/batch',
          body: JSON.stringify({
            metrics: Array.from({ length: 1000 }, (_, k) => ({
              ...historySeries(i % history.metrics, k % 100),
              value: k,
              timestamp: Date.now() - k,
            })),
          }),
        })),
    },
    'single samples': {
      connections: 64,
      calls: () =>
        times(200, (i) => ({
          path: '/api/v1/metrics',
          body: JSON.stringify({ ...historySeries(0, i % 100), value: i }),
        })),
    },
    'batches of 1000 lines': { connections: 16, calls: () => [{ path: '/api/v1/logs', body: floodLogs }] },
    'queries of 29 d, 100 series': {
      connections: 32,
      calls: () =>
        times(200, (i) => ({
          path: '/api/v1/metrics/query',
          body: JSON.stringify({
            metric_name: historySeries(i % history.metrics, 0).name,
            start_time: history.start,
            end_time: end,
            aggregation: 'p95',
            time_window: '1h',
            group_by: ['host'],
            limit: 700,
          }),
        })),
    },
    'searches of logs': {
      connections: 32,
      calls: () => [{ path: '/api/v1/logs?contains=nowhere-to-be-found' }],
    },
    'services registered': {
      connections: 16,
      calls: () =>
        times(200, (i) => ({
          path: '/api/v1/services/register',
          body: JSON.stringify({
            service_name: `flood-${i % 500}`,
            kind: 'heartbeat',
            description: `change ${i}`,
          }),
        })),
    },
  };
}

export async function ask(client: Client, token: string, call: Call): Promise<number> {
  const answer = await client.request({
    path: call.path,
    method: call.body === undefined ? 'GET' : 'POST',
    headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
    ...(call.body === undefined ? {} : { body: call.body }),
  });
  await answer.body.dump({ limit: 100_000_000 });
  return answer.statusCode;
}

interface Order {
  flood: string;
  url: string;
  token: string;
  history: History;
}

/** Starts a flood; stop ends it and answers how often each status came. */
export function startFlood(order: Order): { stop(): Promise<Map<number, number>> } {
  const worker = new Worker(new URL(import.meta.url), { workerData: order });
  return {
    stop: () =>
      new Promise((resolve, reject) => {
        worker.once('message', resolve);
        worker.once('error', reject);
        worker.postMessage('stop');
      }),
  };
}

async function run({ flood, url, token, history }: Order) {
  const { connections, calls } = floods(history)[flood]!;
  const made = calls();
  const statuses = new Map<number, number>();
  let isOver = false;
  parentPort!.once('message', () => {
    isOver = true;
  });
  await Promise.all(
    times(connections, async (connection) => {
      const client = new Client(url, { pipelining: 1 });
      for (let i = connection; !isOver; i += connections) {
        const status = await ask(client, token, made[i % made.length]!);
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
      }
      await client.close();
    }),
  );
  parentPort!.postMessage(statuses);
}

if (parentPort && workerData?.flood) void run(workerData as Order);
