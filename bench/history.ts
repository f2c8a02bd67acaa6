// Thirty days of many series, and a year of some: rolled up, then asked for in every way, checked, side by side with others.
import { setTimeout as sleep } from 'node:timers/promises';
import postgres from 'postgres';
import { rollUp } from '../db/roll_up.ts';
import { encodeCopy, newSamples, type Samples } from '../src/ingest/samples.ts';
import type { Series } from './ingest.ts';
import { logRow, percentile, type Row, runLoad, toRow } from './load.ts';
import { type Points, type Query, type QueryTarget, valueAt, windowMs } from './query.ts';

const dayMs = 86_400_000;
const hourMs = 3_600_000;
const stepMs = 259_200;
export const hosts = 100;

/** Metrics of a hundred series each, a sample every 259.2 s; and one metric hourly in the year before. */
export interface History {
  start: number;
  metrics: number;
  ticks: number;
  oldHours: number;
}

export function newHistory(samples: number): History {
  const ticks = 10_000;
  return {
    start: Math.floor(Date.now() / dayMs) * dayMs - 29 * dayMs,
    metrics: Math.max(1, Math.round(samples / ticks / hosts)),
    ticks: Math.floor((29 * dayMs) / stepMs),
    oldHours: 370 * 24,
  };
}

// Two to a letter, so that a part of the name chooses two hundred series.
const metricName = (metric: number) =>
  `history_${String.fromCodePoint(97 + Math.floor(metric / 2))}${metric % 2}`;

/** Metric -1 is the one that goes further back. */
export function historySeries(metric: number, host: number): Series {
  const name = metric < 0 ? 'yearly' : metricName(metric);
  return { name, service_name: `service-${metric % 7}`, labels: { host: `web-${host}` } };
}

// Each host at a time of its own within the step.
export const historyTime = ({ start }: History, host: number, tick: number) =>
  start + tick * stepMs + ((host * 37) % 259) * 1000;
export const oldTime = ({ start, oldHours }: History, host: number, hour: number) =>
  start - (oldHours - hour) * hourMs + host * 1000;
export const historyValue = (metric: number, host: number, tick: number) =>
  valueAt((metric + 1) * hosts + host, tick);

/** Stores the history in order of time, rolls it up, and prints how fast. */
export async function storeHistory(databaseUrl: string, history: History, isRolledUp = true): Promise<void> {
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => {} });
  try {
    const ids: number[][] = [];
    for (let metric = -1; metric < history.metrics; metric++) {
      const series = Array.from({ length: hosts }, (_, host) => historySeries(metric, host));
      const [made] = await sql<{ ids: number[] }[]>`
        select api.ensure_series(api.ensure_org('acme'), ${sql.json(series)}) as ids`;
      ids.push(made!.ids);
    }
    let stored = 0;
    const copyIn = async (samples: Samples) => {
      const copy = await sql`copy obs.sample (time, series_id, value) from stdin (format binary)`.writable();
      await new Promise<void>((resolve, reject) => {
        copy.on('error', reject).write(encodeCopy([samples]), (error) => (error ? reject(error) : resolve()));
      });
      copy.end();
      // postgres.js loses a COPY that follows on another's heels.
      await sql`select 1`;
      stored += samples.times.length;
    };
    const started = performance.now();
    for (let hour = 0; hour < history.oldHours; hour += 240) {
      const samples = newSamples(Math.min(240, history.oldHours - hour) * hosts);
      for (let i = 0; i < samples.times.length; i++) {
        const [host, at] = [i % hosts, hour + Math.floor(i / hosts)];
        samples.times[i] = oldTime(history, host, at) * 1000;
        samples.seriesIds[i] = ids[0]![host]!;
        samples.values[i] = historyValue(-1, host, at);
      }
      await copyIn(samples);
    }
    const seriesCount = history.metrics * hosts;
    const chunk = Math.max(1, Math.floor(200_000 / seriesCount));
    for (let tick = 0; tick < history.ticks; tick += chunk) {
      const samples = newSamples(Math.min(chunk, history.ticks - tick) * seriesCount);
      for (let i = 0; i < samples.times.length; i++) {
        const at = tick + Math.floor(i / seriesCount);
        const [metric, host] = [Math.floor((i % seriesCount) / hosts), i % hosts];
        samples.times[i] = historyTime(history, host, at) * 1000;
        samples.seriesIds[i] = ids[metric + 1]![host]!;
        samples.values[i] = historyValue(metric, host, at);
      }
      await copyIn(samples);
    }
    const seconds = (performance.now() - started) / 1000;
    const [found] = await sql<{ count: number }[]>`select count(*)::int as count from obs.sample`;
    if (found!.count !== stored) throw new Error(`${found!.count} samples were stored, and not ${stored}`);
    console.log(`  stored ${stored} samples in ${seconds.toFixed(0)} s`);
    await sql`vacuum analyze obs.sample`;
    if (!isRolledUp) return;

    const [license] = await sql<{ name: string }[]>`select current_setting('timescaledb.license') as name`;
    for (const { tier } of await sql<{ tier: string }[]>`select job.list_tiers() as tier`) {
      const began = performance.now();
      if (license!.name === 'timescale') {
        await sql.unsafe(
          `call refresh_continuous_aggregate('obs.sample_${tier}', null, now() - interval '1 hour')`,
        );
      } else {
        while ((await sql<{ more: boolean }[]>`select job.refresh_tier(${tier}) as more`)[0]?.more);
      }
      const rate = stored / ((performance.now() - began) / 1000);
      console.log(
        `  rolled up to ${tier.padEnd(8)} ${rate.toFixed(0).padStart(9)} samples/s (goal: >= 150,000)`,
      );
    }
    await rollUp(sql);
    await sql`vacuum analyze`;
    const storage = await sql<{ name: string; rows: string; bytes: string; per_sample: number }[]>`
      select table_name as name, row_count as rows, bytes, bytes_per_sample as per_sample
      from api.get_storage(api.ensure_org('acme'))`;
    for (const { name, rows, bytes, per_sample } of storage)
      console.log(
        `  ${name.padEnd(16)} ${rows.padStart(10)} rows  ${(Number(bytes) / 1e6).toFixed(0).padStart(6)} MB  ${per_sample?.toFixed(2).padStart(7)} bytes/sample`,
      );
    await logPlanning(sql, ids[1]!.slice(0, 1));
    await sql`checkpoint`;
  } finally {
    await sql.end();
  }
}

/** Planning time of one day's raw samples, with all chunks there. */
async function logPlanning(sql: postgres.Sql, seriesIds: number[]) {
  const times: number[] = [];
  for (let i = 0; i < 50; i++) {
    const from = new Date(Date.now() - (2 + (i % 20)) * dayMs);
    const [row] = await sql.unsafe(`
      explain (summary, format json) select public.time_bucket('1 minute', time), avg(value) from obs.sample
      where series_id = any ('{${seriesIds}}') and time >= '${from.toISOString()}' and time < '${new Date(from.getTime() + dayMs).toISOString()}'
      group by 1`);
    times.push(row!['QUERY PLAN'][0]['Planning Time']);
  }
  const sorted = Float64Array.from(times).sort();
  const [chunks] = await sql<{ n: number }[]>`select count(*)::int as n from show_chunks('obs.sample')`;
  console.log(
    `  planning a day of raw samples among ${chunks!.n} chunks: p50 ${percentile(sorted, 50).toFixed(1)} ms, p95 ${percentile(sorted, 95).toFixed(1)} ms (goal: < 10 ms)`,
  );
}

function expectedPoints(history: History, metric: number, from: number, size: number, query: Query): Points {
  const width = windowMs[query.window];
  const buckets = new Map<number, number[]>();
  for (let host = from; host < from + size; host++) {
    for (let tick = 0; tick < (metric < 0 ? history.oldHours : history.ticks); tick++) {
      const time = metric < 0 ? oldTime(history, host, tick) : historyTime(history, host, tick);
      if (time < query.start || time >= query.end) continue;
      const bucket = Math.floor(time / width) * width;
      const values = buckets.get(bucket) ?? [];
      buckets.set(bucket, values);
      values.push(historyValue(metric, host, tick));
    }
  }
  return [...buckets]
    .sort(([a], [b]) => a - b)
    .map(([bucket, values]) => {
      if (query.aggregation === 'avg')
        return [bucket, values.reduce((sum, value) => sum + value, 0) / values.length];
      const sorted = values.sort((a, b) => a - b);
      const place = 0.95 * (sorted.length - 1);
      const below = sorted[Math.floor(place)]!;
      return [bucket, below + (sorted[Math.ceil(place)]! - below) * (place % 1)];
    });
}

interface Line {
  what: string;
  goalMs: number;
  aggregation: 'avg' | 'p95';
  window: '1h' | '1d';
  /** Series of a request: one of a metric's hosts, or all of them. */
  size: 1 | typeof hosts;
  by?: 'host';
  days: number;
  isOld?: boolean;
}

const lines: Line[] = [
  { what: '24 h, 1 series, avg by 1h', goalMs: 10, aggregation: 'avg', window: '1h', size: 1, days: 1 },
  {
    what: '30 d, 100 series, avg by 1h',
    goalMs: 60,
    aggregation: 'avg',
    window: '1h',
    size: hosts,
    days: 29,
  },
  {
    what: '30 d, 100 series, p95 by 1h',
    goalMs: 300,
    aggregation: 'p95',
    window: '1h',
    size: hosts,
    days: 29,
  },
  {
    what: '  the same grouped, avg',
    goalMs: 200,
    aggregation: 'avg',
    window: '1h',
    size: hosts,
    by: 'host',
    days: 29,
  },
  {
    what: '  the same grouped, p95',
    goalMs: 200,
    aggregation: 'p95',
    window: '1h',
    size: hosts,
    by: 'host',
    days: 29,
  },
  { what: '30 d, 1 series, avg by 1d', goalMs: 20, aggregation: 'avg', window: '1d', size: 1, days: 29 },
  {
    what: '1 y, 1 series, avg by 1d',
    goalMs: 20,
    aggregation: 'avg',
    window: '1d',
    size: 1,
    days: 365,
    isOld: true,
  },
];

/** isExact: its answers for merged series are of the samples, not of the series' own answers. */
export async function benchHistory(target: QueryTarget, history: History, isExact: boolean): Promise<Row[]> {
  const { encode, read, interpolates, ...address } = target;
  const rows: Row[] = [];
  await sleep(5000);
  for (const line of lines) {
    const seed = Math.floor(Math.random() * 1e6);
    const choose = (n: number) => {
      const metric = line.isOld ? -1 : (seed + n * 7) % history.metrics;
      const host = line.size === 1 ? (seed + n * 13) % hosts : 0;
      const end = line.isOld
        ? history.start
        : history.start + (line.days === 1 ? 1 + ((seed + n) % 28) : 29) * dayMs;
      const query: Query = {
        metric: historySeries(metric, host).name,
        labels: line.size === 1 ? historySeries(metric, host).labels : {},
        ...(line.by ? { by: line.by } : {}),
        aggregation: line.aggregation,
        window: line.window,
        start: end - line.days * dayMs,
        end,
      };
      return { metric, host, query };
    };
    const load = (requests: number) =>
      runLoad({
        ...{ ...address, expect: 200, connections: 1, requests, seconds: 40 },
        body: (_, n) => encode(choose(n).query),
        check: (answer, _, n) => {
          if (n >= 3) return;
          const { metric, host, query } = choose(n);
          const answered = read(answer, query);
          if (answered.length !== (line.by ? hosts : 1))
            throw new Error(`${line.what}: ${answered.length} series`);
          if ((line.aggregation === 'p95' && !interpolates) || (line.size > 1 && !line.by && !isExact))
            return;
          const expected = line.by
            ? Array.from({ length: hosts }, (_, i) => expectedPoints(history, metric, i, 1, query))
            : [expectedPoints(history, metric, host, line.size, query)];
          // Series come in an order of their own: told apart by their first value.
          const byFirst = (a: Points, b: Points) => a[0]![1] - b[0]![1];
          const tolerance = line.aggregation === 'p95' && !line.by ? 0.0101 : 1e-9;
          const [is, should] = [answered.toSorted(byFirst), expected.toSorted(byFirst)];
          for (const [i, points] of should.entries())
            for (const [j, [time, value]] of points.entries())
              if (is[i]?.[j]?.[0] !== time || Math.abs(is[i][j][1] / value - 1) > tolerance)
                throw new Error(
                  `${line.what}: ${JSON.stringify(query)} gives ${is[i]?.[j]} and not ${[time, value]}`,
                );
        },
      });
    await load(3);
    const row = toRow(line.what, await load(200));
    rows.push(row);
    logRow(row);
    console.log(
      `${''.padEnd(34)} p95 ${row.p95 < line.goalMs ? 'within' : 'OVER'} the goal of ${line.goalMs} ms`,
    );
  }
  return rows;
}

/** Analytics and correlations, which the others do not have. */
export async function benchAnalytics(url: string, token: string, history: History): Promise<void> {
  const headers = { authorization: `Bearer ${token}` };
  const ask = async (what: string, goalMs: number, topic: string, more: string) => {
    const load = (requests: number) =>
      runLoad({
        ...{
          url,
          path: '/api/v1/metrics/',
          method: 'GET' as const,
          headers,
          expect: 200,
          connections: 1,
          requests,
        },
        body: (_, n) => {
          const end = history.start + (1 + (n % 28)) * dayMs;
          return `${metricName((n * 7) % history.metrics)}/${topic}?start_time=${end - dayMs}&end_time=${end}${more.replace('HOST', `web-${n % hosts}`)}`;
        },
        seconds: 60,
      });
    await load(3);
    const row = toRow(what, await load(200));
    logRow(row);
    console.log(`${''.padEnd(34)} p95 ${row.p95 < goalMs ? 'within' : 'OVER'} the goal of ${goalMs} ms`);
  };
  await ask('analytics, 24 h of 1 series', 100, 'analytics', '&label.host=HOST');
  await ask('analytics, 24 h of 100 series', 100, 'analytics', '');
  await ask('correlations, among 200 series', 1000, 'correlations', '&label.host=HOST&q=history_b&limit=100');
}
