// Ingest over HTTP against PostgreSQL's own binary COPY of the same rows into the same table, in one run.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import postgres from 'postgres';
import { runtimeCommand } from '../db/server/embedded.ts';
import { encodeCopy, newSamples } from '../src/ingest/samples.ts';
import { type LoadResult, percentile, runLoad } from './load.ts';

export const seriesCount = 5000;
const hosts = 500;
const metricNames = ['response_time_ms', 'http_requests_total', 'cpu_usage', 'memory_usage', 'queue_depth'];

/** The i-th of the bench's series. */
export function seriesOf(i: number) {
  return {
    name: metricNames[i % metricNames.length]!,
    service_name: `service-${i % 7}`,
    labels: {
      host: `web-${Math.floor(i / metricNames.length) % hosts}`,
      region: i % 2 ? 'eu-west-1' : 'us-east-1',
    },
  };
}

/** A body of POST /metrics/batch: 1000 of the series, all at one time, random values. */
export function batchBody(batch: number, time: number): string {
  const timestamp = new Date(time).toISOString();
  const metrics = Array.from({ length: 1000 }, (_, i) => ({
    ...seriesOf((batch * 1000 + i) % seriesCount),
    value: Math.round(Math.random() * 1e6) / 1000,
    timestamp,
  }));
  return JSON.stringify({ metrics });
}

export interface IngestRow {
  name: string;
  connections: number;
  perSecond: number;
  p50: number;
  p99: number;
}

export async function benchIngest(
  api: { url: string; token: string },
  seconds: number,
  log: (row: IngestRow) => void,
) {
  const rows: IngestRow[] = [];
  const add = (name: string, connections: number, samples: number, result: LoadResult) => {
    const row = {
      name,
      connections,
      perSecond: (result.requests * samples) / result.seconds,
      p50: percentile(result.latencies, 50),
      p99: percentile(result.latencies, 99),
    };
    rows.push(row);
    log(row);
  };
  // Bodies are made beforehand. Each is a moment later than the one before it, as in life; they are sent again
  // only when a run outlasts them.
  const start = Date.now() - 3_600_000;
  const batches = Array.from({ length: Math.max(200, seconds * 150) }, (_, i) =>
    Buffer.from(batchBody(i, start + i * 200)),
  );
  const common = { url: api.url, token: api.token, expect: 201 };
  // The first requests make the series and warm the code.
  await runLoad({
    ...common,
    path: '/api/v1/metrics/batch',
    connections: 4,
    seconds: 2,
    body: (c, n) => batches[(c + n * 4) % batches.length]!,
  });
  for (const connections of [1, 4, 16]) {
    const result = await runLoad({
      ...common,
      path: '/api/v1/metrics/batch',
      connections,
      seconds,
      body: (c, n) => batches[(c + n * connections) % batches.length]!,
    });
    add('batch of 1000', connections, 1000, result);
  }
  for (const connections of [1, 4, 16]) {
    const result = await runLoad({
      ...common,
      path: '/api/v1/metrics',
      connections,
      seconds,
      body: (c, n) => JSON.stringify({ ...seriesOf((c * 997 + n) % seriesCount), value: n }),
    });
    add('single', connections, 1, result);
  }
  return rows;
}

/** Rows a second of psql's \copy in binary, of rows like the batches'. */
export async function benchCopy(databaseUrl: string, rows: number): Promise<number> {
  const sql = postgres(databaseUrl, { max: 1 });
  const ids = (await sql<{ id: number }[]>`select id from obs.series order by id limit ${seriesCount}`).map(
    (row) => row.id,
  );
  await sql.end();
  const samples = newSamples(rows);
  const start = (Date.now() - 3_600_000) * 1000;
  for (let i = 0; i < rows; i++) {
    samples.times[i] = start + Math.floor(i / 1000) * 200_000;
    samples.seriesIds[i] = ids[i % ids.length]!;
    samples.values[i] = Math.random() * 1000;
  }
  const folder = mkdtempSync(path.join(os.tmpdir(), 'obs-bench-'));
  try {
    writeFileSync(path.join(folder, 'rows'), encodeCopy([samples]));
    const url = new URL(databaseUrl);
    const isEmbedded = !process.env.DATABASE_URL;
    const file = isEmbedded ? '/data/rows' : path.join(folder, 'rows');
    const args = [
      'psql',
      '-X',
      '-q',
      '-d',
      url.href,
      '-c',
      '\\timing on',
      '-c',
      `\\copy obs.sample (time, series_id, value) from '${file}' with (format binary)`,
    ];
    const command = isEmbedded ? runtimeCommand(folder, args) : { file: args[0]!, args: args.slice(1) };
    const run = spawnSync(command.file, command.args, { encoding: 'utf8' });
    const time = /Time: ([\d.]+) ms/.exec(run.stdout ?? '');
    if (run.status !== 0 || !time) throw new Error(`psql failed: ${run.error?.message ?? run.stderr}`);
    return rows / (Number(time[1]) / 1000);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
