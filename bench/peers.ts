// InfluxDB and VictoriaMetrics under the same load as this service, each started for it on data of its own.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { dataFolder } from '../db/server/find.ts';
import { freePort } from '../test/support/process.ts';
import { type History, historySeries, historyTime, historyValue, hosts, oldTime } from './history.ts';
import type { IngestTarget, Metric, Series } from './ingest.ts';
import { type Row, runLoad } from './load.ts';
import { type Day, daySeries, dayTicks, type QueryTarget, timeAt, valueAt, windowMs } from './query.ts';

const writePath = '/write?db=bench&precision=ms';
const form = { 'content-type': 'application/x-www-form-urlencoded' };

interface Program {
  name: string;
  file: string;
  package: string;
  args: (folder: string, port: number) => string[];
  env?: (folder: string, port: number, otherPort: number) => Record<string, string>;
  /** Answers once it can be used. */
  readyPath: string;
  /** A request before the load, and one between storing the day and asking for it. */
  prepare?: { path: string; body: string };
  settle?: string;
  query: Omit<QueryTarget, 'url' | 'headers'>;
}

const programs: Program[] = [
  {
    name: 'InfluxDB',
    file: 'influxd',
    package: 'influxdb',
    args: () => ['-config', '/dev/null'],
    env: (folder, port, otherPort) => ({
      INFLUXDB_REPORTING_DISABLED: 'true',
      INFLUXDB_BIND_ADDRESS: `127.0.0.1:${otherPort}`,
      INFLUXDB_META_DIR: path.join(folder, 'meta'),
      INFLUXDB_DATA_DIR: path.join(folder, 'data'),
      INFLUXDB_DATA_WAL_DIR: path.join(folder, 'wal'),
      INFLUXDB_DATA_QUERY_LOG_ENABLED: 'false',
      INFLUXDB_MONITOR_STORE_ENABLED: 'false',
      INFLUXDB_HTTP_BIND_ADDRESS: `127.0.0.1:${port}`,
      INFLUXDB_HTTP_LOG_ENABLED: 'false',
    }),
    readyPath: '/ping',
    prepare: { path: '/query', body: 'q=create database bench' },
    query: {
      path: '/query',
      encode: ({ metric, labels, by, aggregation, window, start, end }) => {
        const aggregate = aggregation === 'avg' ? 'mean(value)' : 'percentile(value, 95)';
        const where = Object.entries(labels).map(([label, value]) => `${label} = '${value}' and `);
        const q = `select ${aggregate} from ${metric} where ${where.join('')}time >= ${start}ms and time < ${end}ms group by time(${window})${by ? `, ${by}` : ''}`;
        return new URLSearchParams({ db: 'bench', epoch: 'ms', q }).toString();
      },
      read: (answer) => JSON.parse(answer).results[0].series.map(({ values }: { values: unknown }) => values),
      interpolates: false,
    },
  },
  {
    name: 'VictoriaMetrics',
    file: 'victoria-metrics',
    package: 'victoria-metrics',
    args: (folder, port) => [
      `-storageDataPath=${folder}`,
      `-httpListenAddr=127.0.0.1:${port}`,
      // In months; one is the default.
      '-retentionPeriod=24',
    ],
    readyPath: '/health',
    settle: '/internal/force_flush',
    query: {
      path: '/api/v1/query_range',
      encode: ({ metric, labels, by, aggregation, window, start, end }) => {
        const matchers = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
        const over = `${aggregation === 'avg' ? 'avg_over_time(' : 'quantile_over_time(0.95, '}${metric}_value{${matchers.join(',')}}[${window}])`;
        // A window holds its end and not its start, in milliseconds: this is [bucket, next bucket).
        const width = windowMs[window];
        const endOfBucket = (time: number) => ((Math.floor(time / width) + 1) * width - 1) / 1000;
        return new URLSearchParams({
          query: `avg${by ? ` by (${by})` : ''} (${over})`,
          step: window,
          // Else it answers for other times, multiples of the step, and from what it has answered before.
          nocache: '1',
          start: String(endOfBucket(start)),
          end: String(endOfBucket(end - 1)),
        }).toString();
      },
      read: (answer, { window }) =>
        JSON.parse(answer).data.result.map(({ values }: { values: [number, string][] }) =>
          values.map(([time, value]) => [Math.round(time * 1000) + 1 - windowMs[window], Number(value)]),
        ),
      interpolates: true,
    },
  },
];

const tagsOf = ({ name, service_name, labels }: Series) =>
  Object.entries({ service_name, ...labels }).reduce((line, [key, value]) => `${line},${key}=${value}`, name);

function toLine({ value, timestamp, ...series }: Metric): string {
  return `${tagsOf(series)} value=${value}${timestamp ? ` ${Date.parse(timestamp)}` : ''}`;
}

export interface Peer {
  ingest: IngestTarget;
  query: QueryTarget;
  /** Stores the day, or as many of its series as fit into two minutes, and answers what it stored. */
  storeDay: (day: Day) => Promise<Day>;
  /** Stores the history, with as many of its metrics as fit into four minutes, and answers what it stored. */
  storeHistory: (history: History) => Promise<History>;
}

/** Starts each program that is installed, has work done with it, and removes it with its data. */
export async function benchPeers(title: string, work: (peer: Peer) => Promise<Row[]>) {
  const done: { name: string; rows: Row[] }[] = [];
  for (const program of programs) {
    if (spawnSync(program.file, ['--help']).error) {
      console.log(`\n${program.name} is not installed: apt-get install ${program.package}`);
      continue;
    }
    console.log(`\n${title}, ${program.name}`);
    done.push({ name: program.name, rows: await runProgram(program, work) });
  }
  return done;
}

async function runProgram(program: Program, work: (peer: Peer) => Promise<Row[]>): Promise<Row[]> {
  // Beside the embedded database, so that both are on one disk: the system's temporary folder may be in memory.
  mkdirSync(dataFolder, { recursive: true });
  const folder = mkdtempSync(path.join(dataFolder, 'peer-'));
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const child = spawn(program.file, program.args(folder, port), {
    env: { PATH: process.env.PATH, ...program.env?.(folder, port, await freePort()) },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const exited = once(child, 'exit');
  let output = '';
  child.stderr.on('data', (chunk) => {
    output = `${output}${chunk}`.slice(-4000);
  });
  try {
    const isReady = async () => (await fetch(url + program.readyPath).catch(() => undefined))?.ok;
    for (const deadline = Date.now() + 20_000; !(await isReady()); await sleep(50))
      if (child.exitCode !== null || Date.now() > deadline)
        throw new Error(`${program.file} did not start:\n${output}`);
    const { prepare, settle } = program;
    if (prepare) await fetch(url + prepare.path, { method: 'POST', headers: form, body: prepare.body });
    return await work({
      ingest: {
        url,
        headers: { 'content-type': 'text/plain' },
        expect: 204,
        batch: { path: writePath, encode: (metrics) => metrics.map(toLine).join('\n') },
        single: { path: writePath, encode: toLine },
      },
      query: { url, headers: form, ...program.query },
      storeDay: async (day) => {
        const stored = await storeLines(url, day);
        if (settle) await fetch(url + settle);
        return stored;
      },
      storeHistory: async (history) => {
        const stored = await storeHistoryLines(url, history);
        if (settle) await fetch(url + settle);
        return stored;
      },
    });
  } finally {
    // Its data goes anyway, and a program that shut down in good order would first write it out.
    child.kill('SIGKILL');
    await exited;
    rmSync(folder, { recursive: true, force: true });
  }
}

async function storeLines(url: string, day: Day): Promise<Day> {
  const tags = Array.from({ length: day.series }, (_, i) => tagsOf(daySeries(i)));
  let tick = 0;
  const store = (ticks: number, series: number) =>
    runLoad({
      ...{ url, path: writePath, headers: { 'content-type': 'text/plain' }, expect: 204 },
      ...{ connections: 2, requests: ticks },
      body: () => {
        const time = timeAt(day, tick);
        const lines = tags.slice(0, series).map((tags, i) => `${tags} value=${valueAt(i, tick)} ${time}`);
        tick++;
        return lines.join('\n');
      },
    });
  const trial = await store(Math.floor(dayTicks / 50), day.series);
  const fitting = Math.floor((day.series * 120) / (trial.seconds * 50));
  const series = Math.min(day.series, Math.max(100, fitting));
  await store(dayTicks - tick, series);
  const why = series < day.series ? ', fewer than ours: more would take over two minutes' : '';
  console.log(`  stored ${series * dayTicks} samples of ${series} series${why}`);
  return { ...day, series };
}

async function storeHistoryLines(url: string, history: History): Promise<History> {
  const started = performance.now();
  let metrics = 0;
  const tags = (metric: number) =>
    Array.from({ length: hosts }, (_, host) => tagsOf(historySeries(metric, host)));
  const send = (bodies: string[]) =>
    runLoad({
      ...{ url, path: writePath, headers: { 'content-type': 'text/plain' }, expect: 204 },
      ...{ connections: 2, requests: bodies.length },
      body: () => bodies.pop()!,
    });
  for (; metrics < history.metrics && performance.now() - started < 240_000; metrics++) {
    const lines = tags(metrics);
    for (let from = 0; from < history.ticks; from += 500) {
      const ticks = Math.min(500, history.ticks - from);
      await send(
        Array.from({ length: Math.ceil(ticks / 50) }, (_, batch) =>
          Array.from({ length: Math.min(50, ticks - batch * 50) }, (_, i) => {
            const tick = from + batch * 50 + i;
            return lines
              .map(
                (line, host) =>
                  `${line} value=${historyValue(metrics, host, tick)} ${historyTime(history, host, tick)}`,
              )
              .join('\n');
          }).join('\n'),
        ),
      );
    }
  }
  const old = tags(-1);
  await send(
    Array.from({ length: history.oldHours / 10 }, (_, batch) =>
      Array.from({ length: 10 }, (_, i) => {
        const hour = batch * 10 + i;
        return old
          .map(
            (line, host) => `${line} value=${historyValue(-1, host, hour)} ${oldTime(history, host, hour)}`,
          )
          .join('\n');
      }).join('\n'),
    ),
  );
  const why = metrics < history.metrics ? ', fewer than ours: more would take over four minutes' : '';
  console.log(`  stored ${metrics * hosts * history.ticks} samples of ${metrics * hosts} series${why}`);
  return { ...history, metrics };
}
