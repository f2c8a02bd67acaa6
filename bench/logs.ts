// Logs: lines a second over HTTP, searches among millions of lines, and how soon two hundred tails see what arrives.
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import postgres from 'postgres';
import { connect, connectSession } from '../src/db.ts';
import { createCommitter } from '../src/ingest/commit.ts';
import { createLineWriter, newLines } from '../src/ingest/lines.ts';
import { type LogLevel, logLevels } from '../src/ingest/logs.ts';
import { type Service, startService } from '../test/support/process.ts';
import { logRow, percentile, runLoad, toRow } from './load.ts';

const services = 20;
const rareWords = 50;
const rareLines = 20;
const hourMs = 3_600_000;

interface Entry {
  service_name: string;
  level: LogLevel;
  message: string;
  metadata: Record<string, unknown>;
  trace_id: string;
  span_id: string;
}

/** Random from 0 to 1, and the same at each call: nothing need be kept to know what an answer should be. */
function hash(i: number, salt: number): number {
  let h = Math.imul(i + 1, 0x9e3779b1) ^ Math.imul(salt + 1, 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
  h = Math.imul(h ^ (h >>> 12), 0x297a2d39);
  return ((h ^ (h >>> 15)) >>> 0) / 2 ** 32;
}

function levelOf(i: number): LogLevel {
  const h = hash(i, 1);
  return h < 0.001 ? 'fatal' : h < 0.02 ? 'error' : h < 0.1 ? 'warn' : h < 0.8 ? 'info' : 'debug';
}

function hex(i: number, salt: number, length: number): string {
  let text = '';
  for (let n = 0; text.length < length; n++)
    text += Math.floor(hash(i, salt + n) * 2 ** 32)
      .toString(16)
      .padStart(8, '0');
  return text.slice(0, length);
}

const traceOf = (i: number) => hex(Math.floor(i / 5), 100, 32);

/** The i-th line: 200 to 400 bytes of message, metadata and ids. */
function entryOf(i: number): Entry {
  const n = (salt: number, max: number) => Math.floor(hash(i, salt) * max);
  const ip = `${n(2, 256)}.${n(3, 256)}.${n(4, 256)}.${n(5, 256)}`;
  const uuid = `${hex(i, 10, 8)}-${hex(i, 12, 4)}-${hex(i, 13, 4)}-${hex(i, 14, 4)}-${hex(i, 15, 12)}`;
  const messages = [
    () =>
      `GET /api/v1/users/${n(6, 1e6)}/orders?page=${n(7, 50)} completed with status ${[200, 200, 201, 404, 500][n(8, 5)]} in ${n(9, 500)} ms, ${n(20, 1e5)} bytes sent to client ${ip}`,
    () =>
      `Connection to upstream payment-gateway.internal:8443 failed: timeout after ${n(6, 5000)} ms (attempt ${1 + n(7, 3)} of 3), request ${uuid} will be retried with exponential backoff`,
    () =>
      `User ${n(6, 1e5)} logged in from ${ip} using password authentication; session ${hex(i, 16, 32)} created, expires in 3600 seconds`,
    () =>
      `Cache miss for key user:profile:${n(6, 1e6)}, loaded from primary database in ${n(7, 50)} ms and stored with a time to live of 300 seconds`,
    () =>
      `Processed message ${uuid} from queue orders.created partition ${n(6, 16)} offset ${1e6 + i} in ${n(7, 100)} ms; consumer lag is ${n(8, 1000)} messages`,
    () =>
      `Slow query detected: select * from orders where customer_id = ${n(6, 1e6)} and status = 'pending' order by created_at desc limit 20 took ${100 + n(7, 900)} ms (threshold 100 ms)`,
  ];
  return {
    service_name: `service-${Math.floor(i / 10) % services}`,
    level: levelOf(i),
    message: messages[n(30, messages.length)]!(),
    metadata: {
      user_id: n(31, 1e5),
      host: `web-${n(32, 12)}`,
      region: 'eu-west-1',
      duration_ms: n(33, 500),
    },
    trace_id: traceOf(i),
    span_id: hex(i, 200, 16),
  };
}

/** Lines a second, in batches of 1000. */
export async function benchLogIngest(databaseUrl: string, token: string, seconds: number, what: string) {
  const api = await startService('api', { DATABASE_URL: databaseUrl });
  try {
    const bodies = Array.from({ length: 300 }, (_, b) =>
      Buffer.from(JSON.stringify({ logs: Array.from({ length: 1000 }, (_, i) => entryOf(b * 1000 + i)) })),
    );
    const bytes = bodies.reduce((sum, body) => sum + body.length, 0) / bodies.length / 1000;
    console.log(`  ${what} (${bytes.toFixed(0)} bytes a line as JSON)`);
    const run = (
      connections: number,
      seconds: number,
      body = (c: number, n: number): string | Buffer => bodies[(c + n * connections) % bodies.length]!,
    ) =>
      runLoad({
        url: api.url,
        path: '/api/v1/logs',
        headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
        connections,
        seconds,
        body,
        expect: 201,
      });
    await run(4, 2);
    for (const connections of [1, 4, 16])
      logRow(toRow(`batch of 1000, connections: ${connections}`, await run(connections, seconds), 1000));
    for (const connections of [1, 16]) {
      const one = (c: number, n: number) => JSON.stringify(entryOf(c * 1_000_003 + n));
      logRow(toRow(`single line, connections: ${connections}`, await run(connections, seconds, one)));
    }
  } finally {
    await api.stop();
  }
}

/** Stores so many lines of the last 24 hours, in order of time, by the service's own ingest path. Answers their end. */
async function storeLines(databaseUrl: string, apiUrl: string, lines: number): Promise<number> {
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => {} });
  const api = connect(apiUrl, { name: 'bench', max: 1 });
  const sessions = [0, 1].map(() => connectSession(apiUrl, { name: 'bench' }));
  try {
    const [org] = await sql<{ id: number }[]>`select api.ensure_org('acme') as id`;
    const names = Array.from({ length: services }, (_, s) =>
      logLevels.map((level) => [`service-${s}`, level]),
    ).flat();
    const [made] = await sql<{ ids: number[] }[]>`
      select to_jsonb(api.ensure_log_streams(${org!.id}, ${names.map(([name]) => name!)}, ${names.map(([, level]) => level!)})) as ids`;
    const ids = new Map(names.map(([name, level], i) => [`${name} ${level}`, made!.ids[i]!]));
    const committer = createCommitter(sessions, createLineWriter(api), {
      flushLimit: 4e6,
      bufferLimit: 1e12,
    });
    const end = Date.now();
    const rareEvery = Math.max(1, Math.floor(lines / (rareWords * rareLines)));
    const batch = 10_000;
    const pending = new Set<Promise<unknown>>();
    for (let from = 0; from < lines; from += batch) {
      const part = newLines(Math.min(batch, lines - from));
      for (let j = 0; j < part.times.length; j++) {
        const i = from + j;
        const entry = entryOf(i);
        part.times[j] = Math.floor((end - 24 * hourMs + (i / lines) * 24 * hourMs) * 1000);
        part.streamIds[j] = ids.get(`${entry.service_name} ${entry.level}`)!;
        part.messages[j] =
          i % rareEvery === 0 ? `${entry.message} rare${(i / rareEvery) % rareWords}` : entry.message;
        part.metadata[j] = JSON.stringify(entry.metadata);
        part.traceIds[j] = entry.trace_id;
        part.spanIds[j] = entry.span_id;
        part.bytes += 400;
      }
      const written = committer.submit(org!.id, part).finally(() => pending.delete(written));
      pending.add(written);
      if (pending.size >= 3) await Promise.race(pending);
    }
    await Promise.all(pending);
    for (;;) {
      const [row] = await sql<{ counted: number }[]>`select job.count_logs() as counted`;
      if (row!.counted === 0) break;
    }
    await sql`vacuum analyze obs.log, obs.log_1m, obs.log_arrival`;
    await sql`checkpoint`;
    return end;
  } finally {
    await Promise.all([sql.end(), api.end(), ...sessions.map((session) => session.end())]);
  }
}

/** Searches among so many lines of 24 hours, each answer checked. */
export async function benchLogSearch(databaseUrl: string, apiUrl: string, token: string, lines: number) {
  const started = performance.now();
  const end = await storeLines(databaseUrl, apiUrl, lines);
  const seconds = (performance.now() - started) / 1000;
  console.log(`  ${lines} lines stored in ${seconds.toFixed(0)} s, ${(lines / seconds).toFixed(0)} a second`);
  const api = await startService('api', { DATABASE_URL: databaseUrl });
  const range = `start_time=${new Date(end - 24 * hourMs).toISOString()}&end_time=${new Date(end + hourMs).toISOString()}`;
  const count = (answer: string) => JSON.parse(answer).logs.length;
  const expectCount = (least: number, most: number) => (answer: string) => {
    const n = count(answer);
    if (n < least || n > most)
      throw new Error(`${n} lines, not ${least} to ${most}: ${answer.slice(0, 500)}`);
  };
  const perRare = Math.floor(lines / (Math.max(1, Math.floor(lines / (rareWords * rareLines))) * rareWords));
  const common = ['timeout', 'request', 'database', 'session', 'queue', '"status 404"', 'gateway failed'];
  const searches: [string, (n: number) => string, (answer: string) => void][] = [
    [
      'rare word (20 lines), 24 h',
      (n) => `/logs?q=rare${n % rareWords}&${range}`,
      expectCount(perRare, perRare + 1),
    ],
    [
      'rare word of a service, 24 h',
      (n) => `/logs/service-${n % services}?q=rare${n % rareWords}&${range}`,
      expectCount(0, rareLines),
    ],
    ['word that is not there, 24 h', (n) => `/logs?q=absent${n}&${range}`, expectCount(0, 0)],
    [
      'common word, limit 100, 24 h',
      (n) => `/logs?q=${encodeURIComponent(common[n % common.length]!)}&limit=100&${range}`,
      expectCount(100, 100),
    ],
    [
      'common word of a service',
      (n) =>
        `/logs/service-${n % services}?q=${encodeURIComponent(common[n % common.length]!)}&limit=100&${range}`,
      expectCount(100, 100),
    ],
    ['newest 100', () => `/logs?${range}`, expectCount(100, 100)],
    ['newest 100, error and above', () => `/logs?level=error&${range}`, expectCount(100, 100)],
    [
      'meta.user_id=N, 24 h',
      (n) => `/logs?meta.user_id=${n * 97}&${range}`,
      expectCount(lines < 1e6 ? 0 : 1, 1000),
    ],
    [
      'trace id, 24 h',
      (n) => `/logs?trace_id=${traceOf(Math.floor(hash(n, 7) * lines))}&${range}`,
      expectCount(5, 5),
    ],
    [
      'trace id, all time',
      (n) => `/logs?trace_id=${traceOf(Math.floor(hash(n, 8) * lines))}`,
      expectCount(5, 5),
    ],
    [
      'histogram of a service, 24 h',
      (n) => `/logs/service-${n % services}/histogram?${range}`,
      (answer) => {
        const buckets: { total: number }[] = JSON.parse(answer).buckets;
        const total = buckets.reduce((sum, bucket) => sum + bucket.total, 0);
        if (Math.abs(total - lines / services) > 10) throw new Error(`${total} lines counted`);
      },
    ],
    ['patterns of 10,000 lines', (n) => `/logs/service-${n % services}/patterns?${range}`, () => {}],
  ];
  try {
    for (const [what, path, check] of searches) {
      const load = {
        url: api.url,
        path: '/api/v1',
        method: 'GET' as const,
        headers: { authorization: `Bearer ${token}` },
        connections: 1,
        expect: 200,
        check,
      };
      await runLoad({ ...load, requests: 5, body: (_, n) => path(n + 1000) });
      logRow(
        toRow(
          what,
          await runLoad({
            ...load,
            requests: what.startsWith('patterns') ? 20 : 200,
            body: (_, n) => path(n),
          }),
        ),
      );
    }
  } finally {
    await api.stop();
  }
}

const tails = 200;
const linesPerSecond = 5000;

/** From the request that posts a line to its event, by two hundred clients of two API processes. */
export async function benchTails(databaseUrl: string, token: string, seconds: number) {
  const apis = [
    await startService('api', { DATABASE_URL: databaseUrl }),
    await startService('api', { DATABASE_URL: databaseUrl }),
  ];
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => {} });
  const connections = async () =>
    (
      await sql<
        { n: number }[]
      >`select count(*)::int as n from pg_stat_activity where datname = current_database() and application_name like 'obs-api%'`
    )[0]!.n;
  try {
    for (const [what, serviceOf] of [
      [`${tails} tails, ten of each of ${services} services`, (tail: number) => `service-${tail % services}`],
      [`${tails} tails of one service that writes everything`, () => 'service-0'],
    ] as const) {
      const isOne = serviceOf(1) === 'service-0';
      await post(apis[0]!, token, 0, isOne);
      // The first of each process makes its pool and what listens.
      const first = await Promise.all(
        apis.map((api) =>
          openTail(
            api,
            token,
            serviceOf(0),
            () => {},
            () => {},
          ),
        ),
      );
      await sleep(500);
      const before = { connections: await connections(), rss: apis.map(rssMiB) };
      const latencies: number[] = [];
      let events = 0;
      let dropped = 0;
      const clients = Array.from({ length: tails }, (_, tail) =>
        openTail(
          apis[tail % 2]!,
          token,
          serviceOf(tail),
          (sentAt, lines) => {
            events += lines;
            latencies.push(performance.timeOrigin + performance.now() - sentAt);
          },
          () => dropped++,
        ),
      );
      const streams = await Promise.all(clients);
      const perPost = 250;
      const started = performance.now();
      const posts: Promise<void>[] = [];
      let peak = 0;
      for (let n = 0; n < (seconds * linesPerSecond) / perPost; n++) {
        const due = started + (n * perPost * 1000) / linesPerSecond;
        await sleep(Math.max(0, due - performance.now()));
        posts.push(post(apis[n % 2]!, token, perPost, isOne));
        if (n % 20 === 0) peak = Math.max(peak, ...apis.map(rssMiB));
      }
      await Promise.all(posts);
      const took = (performance.now() - started) / 1000;
      const expected = isOne ? posts.length * perPost * tails : (posts.length * perPost * tails) / services;
      for (let wait = 0; events < expected && wait < 50; wait++) await sleep(100);
      const during = await connections();
      for (const close of [...first, ...streams]) close();
      const sorted = Float64Array.from(latencies).sort();
      const [p50, p95, p99] = [50, 95, 99].map((p) => percentile(sorted, p).toFixed(0));
      console.log(
        `  ${what}\n` +
          `    ${((posts.length * perPost) / took).toFixed(0)} lines/s posted, ${events} of ${expected} events delivered (${(events / took).toFixed(0)}/s), ${dropped} clients dropped\n` +
          `    from post to event p50 ${p50} ms, p95 ${p95} ms, p99 ${p99} ms\n` +
          `    database connections ${before.connections} with one client a process, ${during} with all; memory of an API process ${Math.max(...before.rss).toFixed(0)} MiB before, ${peak.toFixed(0)} MiB at most`,
      );
      await sleep(500);
    }
  } finally {
    await sql.end();
    for (const api of apis) await api.stop();
  }
}

async function post(api: Service, token: string, lines: number, isOne: boolean) {
  const sentAt = performance.timeOrigin + performance.now();
  const logs = Array.from({ length: Math.max(lines, 1) }, (_, i) => ({
    ...entryOf(i),
    service_name: `service-${isOne ? 0 : i % services}`,
    metadata: { sent_at: sentAt },
  }));
  const answer = await fetch(`${api.url}/api/v1/logs`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ logs }),
  });
  if (answer.status !== 201) throw new Error(`${answer.status} ${await answer.text()}`);
  await answer.arrayBuffer();
}

// Reads no more of what comes than it has to: the clients share two cores with what they measure.
function openTail(
  api: Service,
  token: string,
  service: string,
  onLines: (sentAt: number, lines: number) => void,
  onEnd: () => void,
): Promise<() => void> {
  return new Promise((resolve, reject) => {
    let isClosed = false;
    const request = http.get(
      `${api.url}/api/v1/logs/${service}/stream`,
      { headers: { Authorization: `Bearer ${token}` }, agent: false },
      (response) => {
        let rest: Buffer = Buffer.alloc(0);
        response.on('data', (chunk: Buffer) => {
          resolve(() => {
            isClosed = true;
            request.destroy();
          });
          let at = 0;
          const data = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
          let lines = 0;
          let sentAt = '';
          for (let end = data.indexOf('\n\n', at); end >= 0; end = data.indexOf('\n\n', at)) {
            if (data.indexOf('event: log', at) >= 0 && data.indexOf('event: log', at) < end) {
              lines++;
              if (lines === 1)
                sentAt = /"sent_at": ?([\d.]+)/.exec(data.toString('latin1', at, end))?.[1] ?? '';
            }
            at = end + 2;
          }
          rest = data.subarray(at);
          if (lines > 0) onLines(Number(sentAt), lines);
        });
        response.on('close', () => {
          if (!isClosed) onEnd();
        });
        response.on('error', () => {});
      },
    );
    request.on('error', (error) => {
      if (!isClosed) reject(error);
    });
  });
}

function rssMiB(service: Service): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${service.child.pid}/status`, 'utf8'))![1]) / 1024;
}
