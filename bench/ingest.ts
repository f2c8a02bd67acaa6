// Ingest over HTTP against PostgreSQL's own binary COPY of the same rows into the same table, in one run.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import postgres from 'postgres';
import { runtimeCommand } from '../db/server/embedded.ts';
import { encodeCopy, newSamples } from '../src/ingest/samples.ts';
import { logRow, type Row, runLoad, toRow } from './load.ts';

const seriesCount = 5000;
const hosts = 500;
const metricNames = ['response_time_ms', 'http_requests_total', 'cpu_usage', 'memory_usage', 'queue_depth'];

export type Series = {
  name: string;
  service_name: string;
  labels: Record<string, string>;
};
export type Metric = Series & { value: number; timestamp?: string };

/** The i-th of the bench's series. */
export function seriesOf(i: number): Series {
  return {
    name: metricNames[i % metricNames.length]!,
    service_name: `service-${i % 7}`,
    labels: {
      host: `web-${Math.floor(i / metricNames.length) % hosts}`,
      region: i % 2 ? 'eu-west-1' : 'us-east-1',
    },
  };
}

/** What takes the samples: this service, or another in its place. */
export interface IngestTarget {
  url: string;
  headers: Record<string, string>;
  expect: number;
  batch: { path: string; encode: (metrics: Metric[]) => string };
  single: { path: string; encode: (metric: Metric) => string };
}

export function ownIngest(url: string, token: string): IngestTarget {
  return {
    url,
    headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
    expect: 201,
    batch: { path: '/api/v1/metrics/batch', encode: (metrics) => JSON.stringify({ metrics }) },
    single: { path: '/api/v1/metrics', encode: JSON.stringify },
  };
}

/** A batch: 1000 of the series, all at one time, random values. */
function batchOf(batch: number, time: number): Metric[] {
  const timestamp = new Date(time).toISOString();
  return Array.from({ length: 1000 }, (_, i) => ({
    ...seriesOf((batch * 1000 + i) % seriesCount),
    value: Math.round(Math.random() * 1e6) / 1000,
    timestamp,
  }));
}

export async function benchIngest(target: IngestTarget, seconds: number): Promise<Row[]> {
  const { url, headers, expect, batch, single } = target;
  const rows: Row[] = [];
  const add = (row: Row) => {
    rows.push(row);
    logRow(row);
  };
  // Bodies are made beforehand. Each is a moment later than the one before it, as in life; they are sent again
  // only when a run outlasts them.
  const start = Date.now() - 60_000;
  const bodies = Array.from({ length: Math.max(200, seconds * 150) }, (_, i) =>
    Buffer.from(batch.encode(batchOf(i, start + i * 200))),
  );
  const runBatches = (connections: number, seconds: number) =>
    runLoad({
      ...{ url, headers, expect, path: batch.path, connections, seconds },
      body: (c, n) => bodies[(c + n * connections) % bodies.length]!,
    });
  // The first requests make the series and warm the code.
  await runBatches(4, 2);
  for (const connections of [1, 4, 16])
    add(toRow(`batch of 1000, connections: ${connections}`, await runBatches(connections, seconds), 1000));
  for (const connections of [1, 4, 16]) {
    const result = await runLoad({
      ...{ url, headers, expect, path: single.path, connections, seconds },
      body: (c, n) => single.encode({ ...seriesOf((c * 997 + n) % seriesCount), value: n }),
    });
    add(toRow(`single, connections: ${connections}`, result));
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
