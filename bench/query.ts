// Queries over a day of samples by HTTP, each answer checked against the samples it is made of.
import { setTimeout as sleep } from 'node:timers/promises';
import postgres from 'postgres';
import { encodeCopy, newSamples } from '../src/ingest/samples.ts';
import type { Series } from './ingest.ts';
import { logRow, type Row, runLoad, toRow } from './load.ts';

const stepMs = 10_000;
const hourMs = 3_600_000;
export const dayTicks = (24 * hourMs) / stepMs;
const rackSize = 100;

/** Samples of 24 hours, every ten seconds from start on, of so many series. */
export interface Day {
  start: number;
  series: number;
}

/** A day that ended an hour ago, so that each hour it touches is over; seldom a calendar day or full hours. */
export function newDay(samples: number): Day {
  const end = Math.floor((Date.now() - hourMs) / stepMs) * stepMs;
  return { start: end - 24 * hourMs, series: Math.max(rackSize, Math.ceil(samples / dayTicks)) };
}

export function daySeries(i: number): Series {
  const labels = { host: `web-${i}`, rack: `rack-${Math.floor(i / rackSize)}` };
  return { name: 'temperature', service_name: `service-${i % 7}`, labels };
}

export const timeAt = (day: Day, tick: number) => day.start + tick * stepMs;

/** Random, and the same at each call: nothing need be kept to know what an answer should be. */
export function valueAt(series: number, tick: number): number {
  let hash = Math.imul(series + 1, 0x9e3779b1) ^ Math.imul(tick + 1, 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return (((hash ^ (hash >>> 13)) >>> 0) % 1e6) / 1000;
}

/** Stores the day in order of time, as its samples would have come. */
export async function storeDay(databaseUrl: string, day: Day): Promise<void> {
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => {} });
  try {
    const series = Array.from({ length: day.series }, (_, i) => daySeries(i));
    const [made] = await sql<
      { ids: number[] }[]
    >`select api.ensure_series(api.ensure_org('acme'), ${sql.json(series)}) as ids`;
    const chunkTicks = Math.ceil(200_000 / day.series);
    for (let from = 0; from < dayTicks; from += chunkTicks) {
      const samples = newSamples(Math.min(chunkTicks, dayTicks - from) * day.series);
      for (let i = 0; i < samples.times.length; i++) {
        const tick = from + Math.floor(i / day.series);
        samples.times[i] = timeAt(day, tick) * 1000;
        samples.seriesIds[i] = made!.ids[i % day.series]!;
        samples.values[i] = valueAt(i % day.series, tick);
      }
      const copy = await sql`copy obs.sample (time, series_id, value) from stdin (format binary)`.writable();
      await new Promise<void>((resolve, reject) => {
        copy.on('error', reject).write(encodeCopy([samples]), (error) => (error ? reject(error) : resolve()));
      });
      copy.end();
      // postgres.js loses a COPY that follows on another's heels.
      await sql`select 1`;
    }
    // It does not tell of a COPY that fails at its end either.
    const [stored] = await sql<{ count: number }[]>`select count(*)::int as count from obs.sample`;
    if (stored!.count !== day.series * dayTicks) throw new Error(`${stored!.count} samples were stored`);
    await sql`vacuum analyze obs.sample`;
    await sql`checkpoint`;
  } finally {
    await sql.end();
  }
}

export type Points = [time: number, value: number][];

/** Buckets of a metric over [start, end): the series with the labels merged, or one a value of the label by. */
export interface Query {
  metric: string;
  labels: Record<string, string>;
  by?: string;
  aggregation: 'avg' | 'p95';
  window: '1h' | '1d';
  start: number;
  end: number;
}
export const windowMs = { '1h': hourMs, '1d': 24 * hourMs };

/** What answers the queries: this service, or another in its place. */
export interface QueryTarget {
  url: string;
  path: string;
  headers: Record<string, string>;
  encode: (query: Query) => string;
  /** The points of an answer, for each series; buckets by their start, in milliseconds. */
  read: (answer: string, query: Query) => Points[];
  /** Where p95 does not interpolate between samples, its values are not checked. */
  interpolates: boolean;
}

export function ownQuery(url: string, token: string): QueryTarget {
  return {
    url,
    path: '/api/v1/metrics/query',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
    encode: ({ metric, labels, by, aggregation, window, start, end }) =>
      JSON.stringify({
        metric_name: metric,
        start_time: new Date(start).toISOString(),
        end_time: new Date(end).toISOString(),
        aggregation,
        time_window: window,
        labels,
        ...(by ? { group_by: [by] } : {}),
      }),
    read: (answer) => {
      const { series } = JSON.parse(answer) as { series: { points: { time: string; value: number }[] }[] };
      return series.map(({ points }) => points.map(({ time, value }) => [Date.parse(time), value]));
    },
    interpolates: true,
  };
}

function expectedPoints(day: Day, from: number, size: number, aggregation: 'avg' | 'p95'): Points {
  const hours = new Map<number, number[]>();
  for (let tick = 0; tick < dayTicks; tick++) {
    const hour = Math.floor(timeAt(day, tick) / hourMs) * hourMs;
    const values = hours.get(hour) ?? [];
    hours.set(hour, values);
    for (let i = from; i < from + size; i++) values.push(valueAt(i, tick));
  }
  return [...hours].map(([hour, values]) => {
    if (aggregation === 'avg') return [hour, values.reduce((sum, value) => sum + value, 0) / values.length];
    values.sort((a, b) => a - b);
    const place = 0.95 * (values.length - 1);
    const below = values[Math.floor(place)]!;
    return [hour, below + (values[Math.ceil(place)]! - below) * (place % 1)];
  });
}

export async function benchQuery(target: QueryTarget, day: Day): Promise<Row[]> {
  const { encode, read, interpolates, ...address } = target;
  const rows: Row[] = [];
  const run = async (what: string, aggregation: 'avg' | 'p95', size: number, requests: number) => {
    // Each request is for others than those before it, until all have been asked for.
    const shuffled = Array.from({ length: Math.floor(day.series / size) }, (_, i) => ({
      from: i * size,
      order: Math.random(),
    })).sort((a, b) => a.order - b.order);
    let skipped = 0;
    const fromOf = (n: number) => shuffled[(skipped + n) % shuffled.length]!.from;
    const queryOf = (n: number): Query => {
      const label = size === 1 ? 'host' : 'rack';
      const labels = { [label]: daySeries(fromOf(n)).labels[label]! };
      return {
        metric: 'temperature',
        labels,
        aggregation,
        window: '1h',
        start: day.start,
        end: timeAt(day, dayTicks),
      };
    };
    const load = (requests: number) =>
      runLoad({
        ...{ ...address, expect: 200, connections: 1, requests },
        body: (_, n) => {
          return encode(queryOf(n));
        },
        check: (answer, _, n) => {
          const points = read(answer, queryOf(n))[0] ?? [];
          const expected = expectedPoints(day, fromOf(n), size, aggregation);
          const isRight = expected.every(
            ([hour, value], i) =>
              points[i]?.[0] === hour &&
              ((aggregation === 'p95' && !interpolates) || Math.abs(points[i][1] / value - 1) < 1e-9),
          );
          if (!isRight || points.length !== expected.length)
            throw new Error(`${what}: ${answer}
and not ${JSON.stringify(expected)}`);
        },
      });
    await load(requests / 20);
    skipped = requests / 20;
    rows.push(toRow(what, await load(requests)));
    logRow(rows.at(-1)!);
  };
  // What a server puts off while it loads is not what is measured here.
  await sleep(5000);
  await run('24 h of one series, avg by 1h', 'avg', 1, 200);
  await run('24 h of one series, p95 by 1h', 'p95', 1, 200);
  await run(`24 h of ${rackSize} series, avg by 1h`, 'avg', rackSize, 20);
  return rows;
}
