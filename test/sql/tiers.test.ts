// Tiers: rolled up once whatever happens meanwhile, never erased past the retention of raw samples, late data marked.
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { rollUp } from '../../db/roll_up.ts';
import { parseConfig } from '../../src/config.ts';
import { connectSession } from '../../src/db.ts';
import { useDatabase } from '../support/database.ts';
import { jwtSecret } from '../support/process.ts';

const database = useDatabase();
let worker: postgres.Sql;
let orgId: number;
let seriesIds: number[];
const isApache = inject('server').edition === 'apache';
const apacheOnly = (title: string) =>
  isApache ? title : `${title} (skipped: the Community edition's scheduler does this)`;

beforeAll(async () => {
  const config = parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret });
  worker = postgres(config.workerDatabaseUrl, { max: 4, onnotice: () => {} });
  const { sql } = database;
  [{ id: orgId }] = await sql<[{ id: number }]>`select api.ensure_org('tiers') as id`;
  const series = JSON.stringify([{ name: 'a' }, { name: 'b' }, { name: 'c' }]);
  [{ ids: seriesIds }] = await sql<
    [{ ids: number[] }]
  >`select api.ensure_series(${orgId}, ${series}::text::jsonb) as ids`;
  // Ten days, a sample a minute, ending now.
  await sql`
    insert into obs.sample (time, series_id, value)
    select at, id,
      case when id = ${seriesIds[2]!} then 1e6 + (row_number() over (partition by id order by at)) else extract(epoch from at)::bigint % 1000 + id end
    from generate_series(now() - interval '10 days', now(), interval '1 minute') at, unnest(${seriesIds}::int[]) id`;
});
afterAll(() => worker?.end());

const tiers = ['5m', '1h', '1d'];
const columns =
  'series_id, bucket, count, round(sum::numeric, 3) as sum, min, max, first_value, first_time, last_value, last_time, round(increase::numeric, 3) as increase';

/** Rows of a tier that differ from what the raw samples give; both ways. */
async function differences(tier: string, from = "'-infinity'"): Promise<number> {
  const [row] = await database.sql.unsafe(`
    with tier as (select ${columns} from obs.sample_${tier} where bucket >= ${from}),
    raw as (
      select ${columns}
      from lib.roll_up_samples((select width from obs.tier where name = '${tier}'), '{${seriesIds}}', ${from}, 'infinity')
    )
    select (select count(*)::int from (select * from tier except all select * from raw) x)
      + (select count(*)::int from (select * from raw except all select * from tier) x) as n`);
  return row!.n;
}

const watermarks = async () =>
  Object.fromEntries(
    (
      await database.sql<
        { name: string; at: Date }[]
      >`select name, obs.tier_watermark(name) as at from obs.tier`
    ).map((row) => [row.name, row.at]),
  );

describe.skipIf(!isApache)(apacheOnly('workers that roll up at once'), () => {
  test('give each bucket once', async () => {
    const run = async () => {
      for (const tier of tiers)
        while ((await worker<{ more: boolean }[]>`select job.refresh_tier(${tier}) as more`)[0]?.more);
    };
    await Promise.all([run(), run(), run(), run()]);
    for (const tier of tiers) {
      const [twice] = await database.sql.unsafe(
        `select count(*)::int as n from (select from obs.sample_${tier}_rolled group by series_id, bucket having count(*) > 1) x`,
      );
      expect(twice!.n, tier).toBe(0);
      expect(await differences(tier), tier).toBe(0);
    }
  });

  test('a worker that is cut off half-way leaves nothing half done', async () => {
    await database.sql`truncate obs.sample_5m_rolled`;
    await database.sql`update obs.tier set watermark = '-infinity' where name = '5m'`;
    const { workerDatabaseUrl } = parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret });
    const victim = connectSession(workerDatabaseUrl, { name: 'test-victim' });
    const [{ pid }] = await victim.statement((sql) => sql<[{ pid: number }]>`select pg_backend_pid() as pid`);
    const step = victim.transaction(async (sql) => {
      await sql`select job.refresh_tier('5m')`;
      await sql`select pg_sleep(10)`;
    });
    const cut = expect(step).rejects.toThrow();
    await new Promise((resolve) => setTimeout(resolve, 300));
    await database.sql`select pg_terminate_backend(${pid})`;
    await cut;
    await victim.end();
    expect((await database.sql`select count(*)::int as n from obs.sample_5m_rolled`)[0]?.n).toBe(0);
    expect(await differences('5m')).toBe(0);
    await rollUp(database.sql);
    expect(await differences('5m')).toBe(0);
  });

  test('a clock that is an hour late, or early, moves no watermark back and loses nothing', async () => {
    const before = await watermarks();
    for (const shift of ["- interval '1 hour'", "+ interval '1 hour'"]) {
      for (const tier of tiers)
        await database.sql.unsafe(`select job.refresh_tier('${tier}', now() ${shift})`);
      const after = await watermarks();
      for (const tier of tiers)
        expect(after[tier]!.getTime()).toBeGreaterThanOrEqual(before[tier]!.getTime());
    }
    // Rolled up beyond now: what comes for that time is late, though it is new.
    await database.sql.begin(async (sql) => {
      await sql`insert into obs.sample values (now() + interval '1 minute', ${seriesIds[0]!}, 5)`;
      await sql`select api.mark_late(array[${orgId}]::int[], array[now() + interval '1 minute'], array[now() + interval '2 minutes'])`;
    });
    expect((await database.sql`select count(*)::int as n from obs.dirty_range`)[0]?.n).toBe(1);
    await rollUp(database.sql);
    for (const tier of tiers) expect(await differences(tier), tier).toBe(0);
  });
});

test('what is rolled up equals what raw samples give', async () => {
  await rollUp(database.sql);
  for (const tier of tiers) expect(await differences(tier), tier).toBe(0);
});

test('only times that may have been rolled up are marked, and of the org that sent them', async () => {
  const { sql } = database;
  await sql`select api.mark_late(
    array[${orgId}, ${orgId}, ${orgId}, ${orgId}]::int[],
    array[now() - interval '2 days', now() - interval '2 days' + interval '5 minutes', now() - interval '1 hour', now() - interval '1 minute'],
    array[now() - interval '2 days' + interval '5 minutes', now() - interval '2 days' + interval '10 minutes', now() - interval '55 minutes', now() + interval '4 minutes'])`;
  const ranges =
    await sql`select org_id, ends_at - starts_at as length from obs.dirty_range order by starts_at`;
  expect(ranges.map((range) => [range.org_id, range.length])).toEqual(
    isApache && (await watermarks())['5m']!.getTime() > Date.now()
      ? [
          [orgId, '00:10:00'],
          [orgId, '00:05:00'],
          [orgId, '00:05:00'],
        ]
      : [
          [orgId, '00:10:00'],
          [orgId, '00:05:00'],
        ],
  );
  await rollUp(sql);
  expect(await sql`select from obs.dirty_range`).toHaveLength(0);
});

test('a refresh never reaches past the raw samples: the tier keeps what it has', async () => {
  const { sql } = database;
  const [{ n: before }] = await sql<
    [{ n: number }]
  >`select count(*)::int as n from obs.sample_1h where bucket < now() - interval '8 days 1 hour'`;
  expect(before).toBeGreaterThan(80);
  await sql`select obs.set_retention('sample', interval '7 days')`;
  await sql`select drop_chunks('obs.sample', older_than => now() - interval '7 days')`;
  await sql`insert into obs.dirty_range (org_id, starts_at, ends_at) values (${orgId}, now() - interval '10 days', now() - interval '3 days')`;
  await rollUp(sql);
  const [{ n: after }] = await sql<
    [{ n: number }]
  >`select count(*)::int as n from obs.sample_1h where bucket < now() - interval '8 days 1 hour'`;
  expect(after).toBe(before);
  for (const tier of ['5m', '1h'])
    expect(await differences(tier, "time_bucket('1 day', now() - interval '3 days')"), tier).toBe(0);
  const [answer] = await sql<[{ json: { resolution: string; series: { points: unknown[] }[] } }]>`
    select api.query_metrics(${orgId}, 'a', time_bucket('1 day', now() - interval '9 days'), time_bucket('1 day', now() - interval '8 days'),
      'count', '1h', null, '{}', '{}', 'none', 'UTC', 1000, 'points')::json as json`;
  expect([answer.json.resolution, answer.json.series[0]!.points.length]).toEqual(['1h', 24]);
});

test('where a finer tier has aged out a coarser one answers, and nothing counts twice', async () => {
  const { sql } = database;
  // Raw samples reach back 7 days (see above), and by what is configured 5m 8 days and 1h 9.
  await sql`update obs.retention set keep = interval '8 days' where table_name = 'sample_5m'`;
  await sql`update obs.retention set keep = interval '9 days' where table_name in ('sample_1h', 'sample_hist_1h')`;
  const midnight = (days: number) => `time_bucket('1 day', now()) - interval '${days} days'`;
  const hour = 3_600_000;
  const ask = async (aggregation: string, window: string, from: string, to: string, timezone = 'UTC') => {
    const [row] = await sql.unsafe(`
      select api.query_metrics(${orgId}, 'a', ${from}, ${to}, '${aggregation}', ${window ? `'${window}'` : 'null'}, null, '{}', '{}', 'none', '${timezone}', 10000, 'points')::json as answer`);
    const { resolution, series } = row!.answer;
    return {
      resolution,
      times: series[0].points.map(({ time }: { time: string }) => Date.parse(time)) as number[],
      values: series[0].points.map(({ value }: { value: number }) => value) as number[],
    };
  };
  const [{ total, oldest }] = await sql.unsafe<[{ total: number; oldest: Date }]>(`
    select sum(count)::int as total, min(first_time) as oldest from obs.sample_1d
    where series_id = ${seriesIds[0]} and bucket >= ${midnight(11)} and bucket < ${midnight(1)}`);
  // Whole days are kept.
  const keptFrom = (days: number) => Math.floor((Date.now() - days * 24 * hour) / (24 * hour)) * 24 * hour;
  for (const window of ['1m', '5m', '15m', '1h', '5h', '6h', '1d']) {
    const { resolution, times, values } = await ask('count', window, midnight(11), midnight(1));
    expect(resolution, window).toBe('1d');
    expect(new Set(times).size, window).toBe(times.length);
    expect(
      values.reduce((sum, n) => sum + n, 0),
      window,
    ).toBe(total);
    if (window !== '1m') continue;
    // Days, then hours, then five minutes, then minutes.
    const steps = times.slice(1).map((time, i) => [time, time - times[i]!] as const);
    for (const [time, step] of steps) {
      const expected =
        time < keptFrom(9) + hour
          ? [24 * hour]
          : time < keptFrom(8)
            ? [hour, 24 * hour]
            : time < keptFrom(7)
              ? [hour / 12, hour]
              : [hour / 60, hour / 12];
      expect(expected, new Date(time).toISOString()).toContain(step);
    }
    expect(times[0]).toBe(Math.floor(oldest.getTime() / (24 * hour)) * 24 * hour);
  }
  expect((await ask('count', '', midnight(11), midnight(1))).values).toEqual([total]);
  expect((await ask('count', '1m', midnight(6), midnight(1))).resolution).toBe('raw');
  expect((await ask('avg', '5m', midnight(6), midnight(1))).resolution).toBe('5m');
  expect((await ask('avg', '15m', `${midnight(8)} - interval '12 hours'`, midnight(1))).resolution).toBe(
    '1h',
  );
  // Days of a zone that no tier's days fit come from hours, and where those are gone from days of UTC.
  const zoned = await ask('count', '1d', midnight(11), midnight(1), 'America/New_York');
  expect([zoned.resolution, zoned.values.reduce((sum, n) => sum + n, 0)]).toEqual(['1d', total]);
  // Percentiles by way of the histograms, and the samples where there are some.
  const { resolution, times, values } = await ask('p95', '15m', midnight(11), midnight(1));
  expect(resolution).toBe('1d');
  expect(new Set(times).size).toBe(times.length);
  for (const value of values) expect(value).toBeGreaterThan(0);
  const old = values[0]!;
  const [{ exact }] = await sql.unsafe<[{ exact: number }]>(
    `select p95 as exact from obs.sample_1d where series_id = ${seriesIds[0]} and bucket = '${new Date(times[0]!).toISOString()}'`,
  );
  expect(Math.abs(old / exact - 1)).toBeLessThan(0.0101);
});

test('rate and increase are right from tiers that stand in, and from a start within a bucket', async () => {
  const { sql } = database;
  const ask = async (aggregation: string, window: string | null, from: string, to: string) => {
    const [row] = await sql.unsafe(`
      select api.query_metrics(${orgId}, 'c', ${from}, ${to}, '${aggregation}', ${window ? `'${window}'` : 'null'}, null, '{}', '{}', 'none', 'UTC', 10000, 'points')::json as answer`);
    return row!.answer.series[0].points.map(({ value }: { value: number }) => value) as number[];
  };
  const midnight = "time_bucket('1 day', now())";
  // Counts one a minute, from a million on.
  for (const window of ['1m', '5m', '15m', '1h', '6h', '1d']) {
    const rates = await ask(
      'rate',
      window,
      `${midnight} - interval '10 days'`,
      `${midnight} - interval '1 day'`,
    );
    for (const [i, rate] of rates.entries()) if (i > 0) expect(rate * 60, `${window} ${i}`).toBeCloseTo(1, 1);
  }
  for (const from of [
    "now() - interval '9 days 5 hours'",
    "now() - interval '8 days 7 minutes'",
    "now() - interval '7 days 90 minutes'",
  ]) {
    for (const window of [null, '1h', '5m', '6h']) {
      const increases = await ask('increase', window, from, `${midnight} - interval '1 day'`);
      const total = increases.reduce((sum, increase) => sum + increase, 0);
      const [{ minutes }] = await sql.unsafe<[{ minutes: number }]>(
        `select extract(epoch from ${midnight} - interval '1 day' - (${from}))::float8 / 60 as minutes`,
      );
      // At most a day more, where the first bucket is taken whole.
      expect(total, `${from} by ${window}`).toBeGreaterThan(minutes - 2);
      expect(total, `${from} by ${window}`).toBeLessThan(minutes + 1442);
    }
  }
});

test('fill leaves the buckets of a coarser tier as they are', async () => {
  const [row] = await database.sql.unsafe(`
    select api.query_metrics(${orgId}, 'a', now() - interval '9 days 12 hours', now() - interval '6 days', 'count', '5m', null, '{}', '{}', 'zero', 'UTC', 10000, 'points')::json as answer`);
  const { points } = row!.answer.series[0];
  expect(new Set(points.map(({ time }: { time: string }) => time)).size).toBe(points.length);
  expect(points.filter(({ value }: { value: number }) => value === 0)).toEqual([]);
});

test('late samples show at once though their range begins before the raw samples do', async () => {
  const { sql } = database;
  const count = async () => {
    const [row] = await sql.unsafe(`
      select api.query_metrics(${orgId}, 'b', time_bucket('1 day', now()) - interval '5 days', time_bucket('1 day', now()) - interval '4 days', 'count', '1d', null, '{}', '{}', 'none', 'UTC', 10, 'points')::json as answer`);
    return [row!.answer.resolution, row!.answer.series[0].points[0].value];
  };
  await rollUp(sql);
  const [, before] = await count();
  await sql`
    with late as (insert into obs.sample values (time_bucket('1 day', now()) - interval '4 days 12 hours', ${seriesIds[1]!}, 1))
    insert into obs.dirty_range (org_id, starts_at, ends_at) values (${orgId}, now() - interval '7 days 6 hours', now() - interval '3 days')`;
  expect(await count()).toEqual(['1d', before + 1]);
  await rollUp(sql);
  expect(await count()).toEqual(['1d', before + 1]);
});

test('a longer retention does not take what was dropped for empty', async () => {
  const { sql } = database;
  await sql`select obs.set_retention('sample', interval '30 days')`;
  const [{ days, limit }] = await sql<[{ days: number; limit: number }]>`
    select extract(epoch from now() - obs.kept_from('sample', now()))::float8 / 86400 as days,
      (select max_age_seconds from api.get_ingest_limits(${orgId}, 'sample')) / 86400 as limit`;
  expect(days).toBeGreaterThanOrEqual(7);
  expect(days).toBeLessThan(8);
  expect(limit).toBeCloseTo(days, 6);
  // A sample of then, which the API refuses, would have its bucket rolled up from itself alone.
  const counts = async () =>
    (
      await sql`select bucket, count from obs.sample_1h where bucket < now() - interval '8 days 1 hour' order by bucket, series_id`
    ).map((row) => [row.bucket.getTime(), row.count]);
  const before = await counts();
  expect(before.length).toBeGreaterThan(40);
  await sql`insert into obs.dirty_range (org_id, starts_at, ends_at) values (${orgId}, now() - interval '9 days', now() - interval '8 days 2 hours')`;
  await rollUp(sql);
  expect(await counts()).toEqual(before);
  await sql`select obs.set_retention('sample', interval '7 days')`;
});

test.skipIf(!isApache)(
  apacheOnly('expired chunks are dropped, but no raw sample that is not rolled up'),
  async () => {
    const { sql } = database;
    await sql`update obs.retention set keep = interval '2 days' where table_name in ('sample', 'sample_5m')`;
    await sql`update obs.tier set watermark = now() - interval '4 days' where name = '1d'`;
    const oldest = async () =>
      (await sql<[{ at: Date }]>`select min(time) as at from obs.sample`)[0].at.getTime();
    await worker`select job.drop_expired()`;
    expect(await oldest()).toBeLessThan(Date.now() - 3.9 * 86_400_000);
    await sql`update obs.tier set watermark = (select watermark from obs.tier where name = '1h') where name = '1d'`;
    await worker`select job.drop_expired()`;
    expect(await oldest()).toBeGreaterThan(Date.now() - 3.1 * 86_400_000);
    expect((await worker`select job.drop_expired() as n`)[0]?.n).toBe(0);
  },
);
