// The worker as a real process: what it records, with one or two of it, and when its connections are cut.
import os from 'node:os';
import postgres from 'postgres';
import { expect, inject, type onTestFinished as onFinished, test } from 'vitest';
import { intervalMs, readHostMetrics } from '../../jobs/host_metrics.ts';
import { cloneDatabase } from '../support/database.ts';
import { startService } from '../support/process.ts';

/** A database of a test's own, so that those that wait can do so side by side, and workers of it. */
async function prepare(onTestFinished: typeof onFinished) {
  const url = await cloneDatabase(inject('server'));
  const sql = postgres(url, { max: 5, onnotice: () => {} });
  onTestFinished(() => sql.end({ timeout: 5 }));
  return {
    url,
    sql,
    async startWorker() {
      const worker = await startService('worker', {
        DATABASE_URL: url,
        DEFAULT_ORG: 'home',
        LOG_LEVEL: 'info',
      });
      onTestFinished(async () => {
        if (worker.child.exitCode === null) await worker.stop();
      });
      return worker;
    },
    /** Of hosts: what else the service says of itself has no label host. */
    observed: () =>
      sql<{ name: string; labels: { host: string }; org: string; time: Date; value: number }[]>`
        select s.name, s.labels, o.external_id as org, m.time, m.value
        from obs.sample m join obs.series s on s.id = m.series_id join obs.org o on o.id = s.org_id
        where s.labels ? 'host' order by m.time`,
  };
}

test('the host reads as percentages and a load', async () => {
  const metrics = await readHostMetrics('h');
  expect(metrics.map((metric) => metric.name).sort()).toEqual([
    'cpu_usage',
    'disk_usage',
    'load_average',
    'memory_usage',
  ]);
  for (const { name, value, labels } of metrics) {
    expect(labels).toEqual({ host: 'h' });
    expect(value).toBeGreaterThanOrEqual(0);
    if (name !== 'load_average') expect(value).toBeLessThanOrEqual(100);
  }
});

test('right after it starts the host is observed, as metrics of the default org', async ({
  onTestFinished,
}) => {
  const { startWorker, observed } = await prepare(onTestFinished);
  const worker = await startWorker();
  // The next slot may begin at the same moment.
  await expect.poll(async () => (await observed()).length, { timeout: 10_000 }).toBeGreaterThanOrEqual(4);
  for (const row of await observed()) expect([row.org, row.labels.host]).toEqual(['home', os.hostname()]);
  expect(await worker.stop()).toBe(0);
});

test.concurrent('two workers observe a host once a slot, and go on when every connection is cut', {
  timeout: 90_000,
}, async ({ expect, onTestFinished }) => {
  const { sql, startWorker, observed } = await prepare(onTestFinished);
  await Promise.all([startWorker(), startWorker()]);
  // Each says at its start how the host is, before slots count.
  await expect.poll(async () => (await observed()).length, { timeout: 20_000 }).toBeGreaterThan(0);
  await new Promise((resolve) => setTimeout(resolve, 500));
  await sql`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and usename in ('obs_worker', 'obs_queue')`;
  const since = Date.now();
  const slots = async () =>
    (await observed())
      .filter((row) => row.name === 'cpu_usage' && row.time.getTime() > since)
      .map((row) => Math.floor(row.time.getTime() / intervalMs));
  await expect
    .poll(async () => (await slots()).length, { timeout: 60_000, interval: 500 })
    .toBeGreaterThanOrEqual(3);
  const seen = await slots();
  expect(new Set(seen).size, String(seen)).toBe(seen.length);
  expect(Math.max(...seen) - Math.min(...seen), String(seen)).toBe(seen.length - 1);
});

test.concurrent('API, worker and database are metrics of the default org, too', {
  timeout: 150_000,
}, async ({ expect, onTestFinished }) => {
  const { url, sql, startWorker } = await prepare(onTestFinished);
  await startWorker();
  const api = await startService('api', { DATABASE_URL: url, DEFAULT_ORG: 'home' });
  try {
    const names = async () => {
      await fetch(`${api.url}/health`);
      const rows = await sql<{ name: string }[]>`
        select distinct s.name
        from obs.series s join obs.org o on o.id = s.org_id join obs.sample m on m.series_id = s.id
        where o.external_id = 'home' and s.service_name = 'liftos-observability' order by s.name`;
      return rows.map(({ name }) => name);
    };
    await expect
      .poll(names, { timeout: 60_000, interval: 1000 })
      .toEqual(
        expect.arrayContaining([
          ...[
            'database_cache_hit_percentage',
            'database_connections',
            'database_deadlocks_total',
            'database_ping_ms',
          ],
          ...[
            'database_size_bytes',
            'database_transactions_total',
            'http_requests_total',
            'ingest_log_lines_total',
          ],
          ...[
            'ingest_samples_total',
            'job_duration_ms',
            'jobs_total',
            'process_resident_memory_bytes',
            'response_time_ms',
          ],
        ]),
      );
    // With the next minute.
    const snapshots = () =>
      sql`select from obs.system_snapshot s join obs.org o on o.id = s.org_id where o.external_id = 'home'`;
    await expect.poll(async () => (await snapshots()).length, { timeout: 70_000 }).toBeGreaterThan(0);
  } finally {
    await api.stop();
  }
});

test.concurrent('a lost job is put back within a minute', { timeout: 90_000 }, async ({
  expect,
  onTestFinished,
}) => {
  const { sql, startWorker, observed } = await prepare(onTestFinished);
  await startWorker();
  await sql`delete from graphile_worker._private_jobs where locked_at is null`;
  const before = (await observed()).length;
  await expect
    .poll(async () => (await observed()).length, { timeout: 80_000, interval: 1000 })
    .toBeGreaterThan(before);
});
