// The demo data: complete, rolled up, with its incidents, and small once in the columnstore.
import { beforeAll, expect, inject, test } from 'vitest';
import { type Demo, fillDemo } from '../../db/demo.ts';
import { useDatabase } from '../support/database.ts';
import { isSoak } from '../support/soak.ts';

const database = useDatabase();
const days = isSoak ? 30 : 11;
const isApache = inject('server').edition === 'apache';
let demo: Demo | null;
let orgId: number;
beforeAll(async () => {
  // It goes back as far as samples are kept.
  await database.sql`update obs.retention set keep = ${days} * interval '1 day' where table_name = 'sample'`;
  demo = await fillDemo(database.sql, 'demo');
  [{ id: orgId }] = await database.sql<[{ id: number }]>`select api.ensure_org('demo') as id`;
}, 180_000);

test(`${days} days of 72 series, a sample a minute`, async () => {
  expect(demo!.series).toBe(72);
  const [row] = await database.sql`
    select count(*)::int as n, count(distinct series_id)::int as series, min(time) as oldest, max(time) as newest from obs.sample`;
  expect([row!.n, row!.series]).toEqual([demo!.samples, 72]);
  const span = (row!.newest - row!.oldest) / 86_400_000;
  expect(span).toBeGreaterThanOrEqual(days);
  expect(span).toBeLessThan(days + 1);
  expect(Date.now() - row!.newest).toBeLessThan(240_000);
  // All but the 25 minutes, give or take one, that the gateway was down.
  const missing = 72 * (Math.round(span * 1440) + 1) - demo!.samples;
  expect(missing / 12).toBeGreaterThanOrEqual(24);
  expect(missing / 12).toBeLessThanOrEqual(26);
});

test('is rolled up', async () => {
  const [row] = await database.sql`
    select (select count(*)::int from obs.dirty_range) as dirty,
      (select sum(count)::int from obs.sample_1h) as hours, (select sum(count)::int from obs.sample_hist_1d) as days`;
  expect(row).toEqual({ dirty: 0, hours: demo!.samples, days: demo!.samples });
});

test('is filled once', async () => {
  expect(await fillDemo(database.sql, 'demo')).toBeNull();
});

const analyze = async (metric: string, service: string, from: string, to: string) =>
  (
    await database.sql.unsafe(
      `select api.analyze_metric(${orgId}, '${metric}', now() - interval '${from}', now() - interval '${to}', '${service}', '{}')::json as answer`,
    )
  )[0]!.answer;

test('its incidents can be found', async () => {
  const billing = await analyze('response_time_ms', 'billing', '10 days', '8 days');
  const worst = billing.anomalies.toSorted(
    (a: { score: number }, b: { score: number }) => b.score - a.score,
  )[0];
  const age = (Date.now() - Date.parse(worst.time)) / 86_400_000;
  expect(age).toBeGreaterThan(8.8);
  expect(age).toBeLessThan(9.1);
  expect((await analyze('memory_bytes', 'auth', '5 days 12 hours', '1 day')).trend.direction).toBe('rising');
  const [rate] = await database.sql`
    select api.query_metrics(${orgId}, 'http_requests_total', now() - interval '20 days', now(), 'rate', '1h', null, '{}', '{service_name}', 'none', 'UTC', 1000, 'points')::json as answer`;
  // Deployments set counters back; a rate never falls below nothing.
  for (const { points } of rate!.answer.series)
    for (const { value } of points) expect(value).toBeGreaterThan(0);
});

test.skipIf(isApache)(
  isApache
    ? 'three bytes a sample (skipped: the Apache 2 edition has no columnstore)'
    : 'a raw sample takes at most three bytes in the columnstore',
  async () => {
    await database.sql`select compress_chunk(chunk, true) from show_chunks('obs.sample') as chunk`;
    const [row] =
      await database.sql`select bytes_per_sample as bytes, sample_count::int as samples from api.get_storage(${orgId})`;
    expect(row!.samples).toBe(demo!.samples);
    expect(row!.bytes).toBeLessThanOrEqual(3);
  },
);
