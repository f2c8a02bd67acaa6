// Tiers under load: right at every moment while samples arrive and are rolled up, whoever is killed meanwhile.
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import postgres from 'postgres';
import { Client } from 'undici';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { rollUp } from '../../db/roll_up.ts';
import { parseConfig } from '../../src/config.ts';
import { crashGiven, crashObstacle, useCrashableDatabase } from '../support/crash.ts';
import { useDatabase } from '../support/database.ts';
import { jwtSecret, type Service, signToken, startService } from '../support/process.ts';
import { isSoak } from '../support/soak.ts';

const isApache = inject('server').edition === 'apache';
const hourMs = 3_600_000;

/** Rows of each tier that are there twice, or differ from what the raw samples give. */
async function faultsOf(sql: postgres.Sql): Promise<Record<string, number>> {
  const faults: Record<string, number> = {};
  const columns =
    'series_id, bucket, count, round(sum::numeric, 3) as sum, min, max, first_time, last_time, round(increase::numeric, 3) as increase';
  const histogram = 'series_id, bucket, count, min, max, zero_count, positive, negative';
  for (const { name, width, holds_histograms } of await sql<
    { name: string; width: string; holds_histograms: boolean }[]
  >`select name, width::text, holds_histograms from obs.tier`) {
    const [rows, source] = holds_histograms ? [histogram, 'histogram_samples'] : [columns, 'roll_up_samples'];
    const [row] = await sql.unsafe(`
      with tier as (select ${rows} from obs.sample_${name}),
      raw as (
        select ${rows} from lib.${source}('${width}', array(select id from obs.series), '-infinity', 'infinity')
      )
      select (select count(*)::int from (select * from tier except all select * from raw) x)
        + (select count(*)::int from (select * from raw except all select * from tier) x) as n`);
    faults[name] = row!.n;
  }
  return faults;
}
const noFaults = { '5m': 0, '1h': 0, '1d': 0, hist_1h: 0, hist_1d: 0 };

const rounds = isSoak ? 40 : 2;
const obstacle = isApache && !crashGiven ? crashObstacle : "the Community edition's own scheduler rolls up";
describe.skipIf(obstacle !== null)(
  obstacle ? `roll-up that is killed (skipped: ${obstacle})` : 'roll-up that is killed',
  () => {
    const database = useCrashableDatabase();
    const workers: Service[] = [];
    afterAll(async () => {
      for (const worker of workers.splice(0)) if (worker.child.exitCode === null) await worker.kill();
    });

    test(`${rounds} rounds of kill -9 of both workers, or of PostgreSQL, in the middle of it`, async () => {
      const sql = postgres(database.url, { max: 2, onnotice: () => {} });
      const start = () => startService('worker', { DATABASE_URL: database.url });
      const retry = async <T>(work: () => Promise<T>): Promise<T> => {
        for (let attempt = 0; ; attempt++) {
          try {
            return await work();
          } catch (error) {
            if (attempt > 300) throw error;
            await sleep(100);
          }
        }
      };
      try {
        await sql`select api.ensure_series(api.ensure_org('o'), (select jsonb_agg(jsonb_build_object('name', 'm' || i)) from generate_series(1, 150) i))`;
        await sql`
          insert into obs.sample
          select t, i, extract(epoch from t)::bigint % 7919 + i
          from generate_series(now() - ${isSoak ? 8 : 3} * interval '1 day', now() - interval '30 minutes', interval '1 minute') t, generate_series(1, 150) i`;
        let killed = 0;
        for (let round = 0; round < rounds; round++) {
          workers.push(...(await Promise.all([start(), start()])));
          // Late samples too, so that there are dirty ranges to work off.
          await sql.begin(async (sql) => {
            await sql`insert into obs.sample select now() - interval '1 day' * random() * 7, i, 1e5 * random() from generate_series(1, 20) i`;
            await sql`insert into obs.dirty_range (org_id, starts_at, ends_at) select id, now() - interval '7 days', now() - interval '1 hour' from obs.org where external_id = 'o'`;
          });
          await sql`select graphile_worker.add_job('refresh_tiers', job_key => 'refresh_tiers'), graphile_worker.add_job('refresh_tiers')`;
          const isRefreshing = async () =>
            (
              await sql`select from pg_stat_activity where usename = 'obs_worker' and state = 'active' and query ~ 'refresh_(tier|dirty)'`
            ).length > 0;
          for (const deadline = Date.now() + 5000; !(await isRefreshing()) && Date.now() < deadline; )
            await sleep(5);
          await sleep(randomInt(300));
          if (await isRefreshing()) killed++;
          if (round % 3 === 1) {
            await database.crash();
            await retry(() => sql`select 1`);
          }
          await Promise.all(workers.splice(0).map((worker) => worker.kill()));
        }
        expect(killed).toBeGreaterThanOrEqual(rounds / 2);
        // As queries read it, whatever is rolled up and dirty just now.
        for (const tier of ['5m', '1h', '1d']) {
          const [row] = await sql`
            select sum(t.count)::int as counted, sum(t.sum) as total, r.n, r.total as raw_total
            from (select count(*)::int as n, sum(value) as total from obs.sample) r
            cross join lib.read_tier(
              ${tier}, api.ensure_org('o'), array(select id from obs.series), time_bucket('1 day', now()) - interval '10 days', now()
            ) t
            group by r.n, r.total`;
          expect(row!.counted, tier).toBe(row!.n);
          expect(row!.total / row!.raw_total, tier).toBeCloseTo(1, 9);
        }

        // What was left off is taken up again.
        workers.push(await start(), await start());
        await sql`select graphile_worker.add_job('refresh_tiers')`;
        const isDone = async () => {
          const [row] = await sql`
            select (select count(*)::int from obs.dirty_range) as dirty,
              (select bool_and(watermark >= time_bucket(width, now() - lag - interval '2 minutes')) from obs.tier) as is_up_to_date`;
          return row;
        };
        await expect
          .poll(isDone, { timeout: 90_000, interval: 200 })
          .toEqual({ dirty: 0, is_up_to_date: true });
        expect(await faultsOf(sql)).toEqual(noFaults);
        const [row] =
          await sql`select count(*)::int as n from (select from obs.sample_1h_rolled group by series_id, bucket having count(*) > 1) x`;
        expect(row!.n).toBe(0);
      } finally {
        await sql.end({ timeout: 5 });
      }
    });
  },
);

describe('while samples arrive', () => {
  const database = useDatabase();
  const seconds = isSoak ? 60 : 8;
  const series = 40;
  let api: Service;
  let token: string;
  let worker: postgres.Sql;
  beforeAll(async () => {
    api = await startService('api', { DATABASE_URL: database.url });
    token = await signToken();
    const { workerDatabaseUrl } = parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret });
    worker = postgres(workerDatabaseUrl, { max: 2, onnotice: () => {} });
  });
  afterAll(async () => {
    await worker?.end();
    await api?.stop();
  });

  test('each answer from a tier is what the raw samples of that moment give', {
    timeout: 600_000,
  }, async () => {
    const { sql } = database;
    let isOver = false;
    let sent = 0;
    const start = Math.floor(Date.now() / hourMs) * hourMs - 48 * hourMs;

    // No two at one instant: which of them a counter had first is not defined, and shows where a bucket begins with them.
    const used = new Set<number>();
    const past = () => {
      for (;;) {
        const time = start + Math.floor(Math.random() * 47 * hourMs);
        if (used.has(time)) continue;
        used.add(time);
        return time;
      }
    };

    async function write() {
      while (!isOver) {
        const metrics = Array.from({ length: 200 }, () => ({
          name: 'm',
          // Mean 10,000 times the standard deviation; counters that fall now and then.
          value: randomInt(50) ? 1e4 + Math.random() : randomInt(100),
          labels: { i: String(randomInt(series)) },
          timestamp: randomInt(4) ? past() : Date.now(),
        }));
        const answer = await fetch(`${api.url}/api/v1/metrics/batch`, {
          method: 'POST',
          headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
          body: JSON.stringify({ metrics }),
        });
        expect(answer.status, await answer.text()).toBe(201);
        sent += 200;
      }
    }
    async function refresh() {
      while (!isOver) {
        if (isApache) {
          await worker`select job.refresh_dirty_ranges()`;
          for (const { tier } of await worker<{ tier: string }[]>`select job.list_tiers() as tier`)
            await worker`select job.refresh_tier(${tier})`;
        } else await rollUp(sql);
        await sleep(100);
      }
    }
    const resolutions = new Map<string, number>();
    let compared = 0;
    async function compare() {
      while (sent === 0) await sleep(50);
      while (!isOver) {
        const isMerged = randomInt(2) === 0;
        const window = ['1 hour', '5 minutes', '1 day', '15 minutes', '6 hours'][randomInt(5)]!;
        const aggregation = ['avg', 'sum', 'min', 'max', 'count', 'stddev', 'increase', 'median', 'p95'][
          randomInt(9)
        ]!;
        const from = start + randomInt(3) * 10 * hourMs + randomInt(2) * 1_234_567;
        // One statement, and so one moment.
        const [row] = await sql<
          {
            answer: { resolution: string; times: number[]; series: { values: number[] }[] };
            times: string[];
            values: number[][];
          }[]
        >`
          with range as (
            select to_timestamp(${from / 1000}::float8) as start, to_timestamp(${(start + 47.5 * hourMs) / 1000}::float8) as "end",
              api.ensure_org('acme') as org_id
          ),
          ids as (select array_agg(id order by labels) as ids from obs.series),
          raw as (
            select a.*
            from range r
            cross join ids i
            cross join lateral lib.aggregate_samples(
              i.ids, case when ${isMerged} then array_fill(1, array[cardinality(i.ids)]) else i.ids end,
              r.start, r.end, ${aggregation}, ${window}::text::interval, 'UTC'
            ) a
          )
          select
            api.query_metrics(
              r.org_id, 'm', r.start, r.end, ${aggregation}, ${window}, null, '{}', case when ${isMerged} then '{}' else '{i}'::text[] end,
              'none', 'UTC', 10000, 'columns'
            )::json as answer,
            (select array_agg(distinct (extract(epoch from bucket) * 1000)::bigint::text) from raw) as times,
            (
              select json_agg(g.by_time order by g.labels)
              from (
                select s.labels, json_object_agg((extract(epoch from w.bucket) * 1000)::bigint, w.value) as by_time
                from raw w
                left join obs.series s on s.id = w.group_number and not ${isMerged}
                group by s.id, s.labels
              ) g
            ) as values
          from range r`;
        if (!row!.values) continue;
        compared++;
        const { answer } = row!;
        resolutions.set(answer.resolution, (resolutions.get(answer.resolution) ?? 0) + 1);
        const isPercentile = aggregation === 'median' || aggregation === 'p95';
        const tolerance = isPercentile ? 0.0101 : aggregation === 'stddev' ? 1e-6 : 1e-9;
        const what = `${aggregation} by ${window}, ${isMerged ? 'merged' : 'grouped'}, from ${answer.resolution}`;
        const [is, should] = [answer.series, row!.values as unknown as Record<string, number | null>[]];
        expect(is.length, what).toBe(should.length);
        for (const [i, byTime] of should.entries()) {
          const answered = Object.fromEntries(
            answer.times
              .map((time, j) => [String(time), is[i]!.values[j]] as const)
              .filter(([time]) => time in byTime),
          );
          for (const [time, value] of Object.entries(byTime)) {
            const actual = answered[time];
            if (value === null) expect(actual, what).toBeNull();
            else
              expect(
                Math.abs(actual! - value),
                `${what}: ${actual} and not ${value} at ${time}`,
              ).toBeLessThanOrEqual(tolerance * Math.max(isPercentile ? 0 : 1, Math.abs(value)));
          }
        }
      }
    }
    const work = [write(), write(), refresh(), compare(), compare()];
    await Promise.race([sleep(seconds * 1000), ...work]);
    isOver = true;
    await Promise.all(work);
    await rollUp(sql);
    expect(await faultsOf(sql)).toEqual(noFaults);
    // But for what the service says of itself.
    const [row] = await sql`
      select count(*)::int as n from obs.sample m join obs.series s on s.id = m.series_id where s.service_name <> 'liftos-observability'`;
    expect(row!.n).toBe(sent);
    expect(compared).toBeGreaterThan(20);
    expect([...resolutions.keys()]).toEqual(expect.arrayContaining(['5m', '1h', '1d']));
    process.stderr.write(
      `  ${sent} samples written, ${compared} answers compared: ${JSON.stringify([...resolutions])}\n`,
    );
  });
});

describe('a steady load', () => {
  const database = useDatabase();
  const seconds = isSoak ? 600 : 6;
  const perSecond = 20_000;
  const services: Service[] = [];
  afterAll(async () => {
    for (const service of services.splice(0)) await service.stop();
  });

  test(`of ${perSecond} samples a second for ${seconds} s, with everything else running`, async () => {
    const { sql } = database;
    const token = await signToken();
    // Something for the retention to drop and for the columnstore to take.
    await sql`select api.ensure_series(api.ensure_org('acme'), (select jsonb_agg(jsonb_build_object('name', 'old' || i)) from generate_series(1, 100) i))`;
    await sql`
      insert into obs.sample
      select t, i, random() from generate_series(now() - interval '40 days', now() - interval '1 day', interval '1 hour') t, generate_series(1, 100) i`;
    // And for the roll-up, from the start on: what comes from now on is due in ten minutes.
    await sql`
      insert into obs.sample
      select t, i, random() from generate_series(now() - interval '2 hours', now(), interval '1 minute') t, generate_series(1, 100) i`;
    await rollUp(sql);
    services.push(
      await startService('api', { DATABASE_URL: database.url }),
      await startService('worker', { DATABASE_URL: database.url }),
      await startService('worker', { DATABASE_URL: database.url }),
    );
    const [api] = services;
    const clients = Array.from({ length: 8 }, () => new Client(api!.url, { pipelining: 1 }));
    const latencies: number[] = [];
    const batchMs = 1_000_000 / perSecond;
    const began = performance.now();
    let acknowledged = 0;
    let next = 0;
    let watched = '';

    async function send(client: Client) {
      for (;;) {
        const n = next++;
        const due = began + n * batchMs;
        if (n * batchMs >= seconds * 1000) return;
        await sleep(Math.max(0, due - performance.now()));
        const metrics = Array.from({ length: 1000 }, (_, i) => {
          const series = (n * 1000 + i) % 5000;
          return {
            name: `m${series % 50}`,
            value: Math.random() * 100,
            labels: { host: String(Math.floor(series / 50)) },
          };
        });
        const answer = await client.request({
          method: 'POST',
          path: '/api/v1/metrics/batch',
          headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
          body: JSON.stringify({ metrics }),
        });
        expect(answer.statusCode, await answer.body.text()).toBe(201);
        // From when it was due: a request that had to wait for others counts as slow.
        latencies.push(performance.now() - due);
        acknowledged += 1000;
      }
    }
    const { workerDatabaseUrl } = parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret });
    const worker = postgres(workerDatabaseUrl, { max: 1, onnotice: () => {} });
    let isOver = false;
    async function maintain() {
      while (!isOver) {
        await worker`select job.drop_expired()`;
        await worker`select job.delete_expired()`;
        if (!isApache) {
          const jobs = await sql<{ job_id: number }[]>`
            select job_id from timescaledb_information.jobs where proc_name in ('policy_retention', 'policy_compression')`;
          for (const { job_id } of jobs) await sql.unsafe(`call run_job(${job_id})`);
        }
        const [state] = await sql`
          select extract(epoch from now() - obs.tier_watermark('5m'))::int as behind,
            (select count(*)::int from obs.dirty_range) as dirty`;
        watched += ` ${state!.behind}/${state!.dirty}`;
        for (let i = 0; i < 60 && !isOver; i++) await sleep(1000);
      }
    }
    const maintenance = maintain();
    try {
      await Promise.all(clients.map(send));
    } finally {
      isOver = true;
      await maintenance;
      await worker.end();
      await Promise.all(clients.map((client) => client.close()));
    }
    const elapsed = (performance.now() - began) / 1000;
    const sorted = latencies.sort((a, b) => a - b);
    const at = (p: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))]!.toFixed(0);
    process.stderr.write(
      `  ${(acknowledged / elapsed).toFixed(0)} samples/s, ms from when due: p50 ${at(0.5)}, p99 ${at(0.99)}, max ${at(1)}; ` +
        `seconds that 5m is behind / dirty ranges, by minute:${watched}\n`,
    );
    expect(acknowledged).toBe(seconds * perSecond);
    const [row] = await sql`
      select (select count(*)::int from obs.sample where time >= time_bucket('5 minutes', now()) - interval '3 hours') as recent,
        (select sum(count)::int from obs.sample_5m where bucket >= time_bucket('5 minutes', now()) - interval '3 hours') as in_tier,
        (select min(time) > now() - interval '39 days' from obs.sample) as is_trimmed`;
    // The worker's own metrics of its host come on top.
    expect(row!.recent).toBeGreaterThanOrEqual(acknowledged);
    expect(row!.in_tier).toBe(row!.recent);
    expect(row!.is_trimmed).toBe(true);
    if (isSoak) {
      expect(Number(at(1))).toBeLessThan(1000);
      // Buckets are due ten minutes after their end; a minute passes between two looks.
      const [state] = await sql`select extract(epoch from now() - obs.tier_watermark('5m'))::int as behind`;
      expect(state!.behind).toBeLessThan(18 * 60);
    }
  });
});
