// Bounds that protect the service: body size, ingest buffer, series cache, statement time.
import net from 'node:net';
import { gzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';

const api = useApi({
  MAX_BODY_BYTES: '20000',
  INGEST_BUFFER_SAMPLES: '1000',
  INGEST_CONNECTIONS: '1',
  INGEST_FLUSH_LOG_BYTES: '1000',
  SERIES_CACHE_SIZE: '10',
  STATEMENT_TIMEOUT_MS: '1500',
});

const batch = (count: number, name = 'x') => ({
  metrics: Array.from({ length: count }, (_, value) => ({ name, value })),
});

test('a body that is too large is refused, as it comes or once decompressed', async () => {
  const large = JSON.stringify(batch(1000));
  expect(large.length).toBeGreaterThan(20_000);
  expect((await api.call('POST', '/api/v1/metrics/batch', { body: large })).status).toBe(413);
  const zipped = gzipSync(large);
  expect(zipped.length).toBeLessThan(20_000);
  const answer = await api.call('POST', '/api/v1/metrics/batch', {
    body: zipped,
    headers: { 'Content-Encoding': 'gzip' },
  });
  expect([answer.status, answer.body.code]).toEqual([413, 'body_too_large']);
});

test('a body without a length is bounded as well', async () => {
  const stream = new ReadableStream({
    pull(controller) {
      controller.enqueue(new TextEncoder().encode('x'.repeat(10_000)));
    },
  });
  const { Authorization } = await authorization();
  const answer = await fetch(`${api.url}/api/v1/metrics`, {
    method: 'POST',
    headers: { Authorization, 'Content-Type': 'application/json' },
    body: stream,
    duplex: 'half',
  } as RequestInit);
  expect(answer.status).toBe(413);
});

test('who may not write is told so before the body is looked at', async () => {
  const large = { body: 'x'.repeat(30_000) };
  expect((await api.call('POST', '/api/v1/metrics', { ...large, token: null })).status).toBe(401);
  expect(
    (await api.call('POST', '/api/v1/metrics', { ...large, token: await signToken({ role: 'viewer' }) }))
      .status,
  ).toBe(403);
  // Without a length, and without an end.
  const endless = new ReadableStream({
    start: (controller) => controller.enqueue(new TextEncoder().encode('{')),
  });
  const answer = await fetch(`${api.url}/api/v1/metrics`, {
    method: 'POST',
    body: endless,
    duplex: 'half',
  } as RequestInit);
  expect(answer.status).toBe(401);
});

test('a body full of faults gets an answer of bounded size', async () => {
  const fields = Object.fromEntries(Array.from({ length: 1500 }, (_, i) => [`f${i}`, 1]));
  for (const [path, body] of [
    ['/api/v1/metrics', fields],
    ['/api/v1/metrics/batch', { metrics: [fields] }],
    ['/api/v1/metrics/query', fields],
  ] as const) {
    const answer = await api.call('POST', path, { body });
    expect(answer.status, path).toBe(400);
    expect(answer.body.errors.length, path).toBeLessThanOrEqual(100);
  }
});

async function authorization() {
  return { Authorization: `Bearer ${await signToken()}` };
}

test('a full buffer answers 503 with Retry-After and takes samples again once it has room; no org fills it alone', async () => {
  await api.call('POST', '/api/v1/metrics', { body: { name: 'x', value: 1 } });
  const before = await count();
  let release = () => {};
  const locked = new Promise<void>((resolve) => {
    release = resolve;
  });
  const blocker = api.sql.begin(async (sql) => {
    await sql`lock table obs.sample in access exclusive mode`;
    await locked;
  });
  await new Promise((resolve) => setTimeout(resolve, 100));
  const other = await signToken({ org_id: 'other' });
  const waiting = [null, null, null, other].map((token) =>
    api.call('POST', '/api/v1/metrics/batch', { body: batch(250), ...(token ? { token } : {}) }),
  );
  await expect.poll(() => api.observability.committer.buffered()).toBe(1000);
  // Four fifths are an org's own, and then the other's is full as well.
  for (const call of [{ body: batch(51) }, { body: { metrics: [{ name: 'x', value: 1 }] }, token: other }]) {
    const refused = await api.call('POST', '/api/v1/metrics/batch', call);
    expect([refused.status, refused.body.code, refused.headers.get('Retry-After')]).toEqual([
      503,
      'ingest_buffer_full',
      '1',
    ]);
  }
  release();
  await blocker;
  expect((await Promise.all(waiting)).map((answer) => answer.status)).toEqual([201, 201, 201, 201]);
  expect((await api.call('POST', '/api/v1/metrics', { body: { name: 'x', value: 1 } })).status).toBe(201);
  expect((await count()) - before).toBe(1001);
});

test('an org that sends very much is not before those who send a little', async () => {
  const other = await signToken({ org_id: 'little' });
  await api.call('POST', '/api/v1/logs', { body: { logs: [line('much')] } });
  await api.call('POST', '/api/v1/logs', { body: { logs: [line('little')] }, token: other });
  const [before] = await api.sql`select max(position)::int as position from obs.log_arrival`;
  let release = () => {};
  const locked = new Promise<void>((resolve) => {
    release = resolve;
  });
  const blocker = api.sql.begin(async (sql) => {
    await sql`lock table obs.log in access exclusive mode`;
    await locked;
  });
  await new Promise((resolve) => setTimeout(resolve, 100));
  const much = Array.from({ length: 20 }, () =>
    api.call('POST', '/api/v1/logs', { body: { logs: [line('much')] } }),
  );
  await expect.poll(() => api.observability.logCommitter.buffered()).toBe(20 * 1100);
  const little = api.call('POST', '/api/v1/logs', { body: { logs: [line('little')] }, token: other });
  await expect.poll(() => api.observability.logCommitter.buffered()).toBe(21 * 1100);
  release();
  await blocker;
  await Promise.all([...much, little]);
  const arrivals = await api.sql<{ service: string }[]>`
    select s.service_name as service from obs.log_arrival a join obs.log_stream s on s.id = a.log_stream_id
    where a.position > ${before!.position} order by a.position`;
  // One flush was under way when it came; its turn is next but one at the latest.
  expect(arrivals).toHaveLength(21);
  expect(arrivals.findIndex(({ service }) => service === 'little')).toBeLessThanOrEqual(2);
});

function line(service_name: string) {
  return { service_name, level: 'info', message: 'x'.repeat(1000) };
}

async function count() {
  const [row] = await api.sql`select count(*)::int as n from obs.sample`;
  return row!.n as number;
}

test('more series than the cache holds are recorded right', async () => {
  for (let round = 0; round < 3; round++) {
    const metrics = Array.from({ length: 40 }, (_, i) => ({
      name: 'cached',
      value: i,
      labels: { i: String(i) },
    }));
    expect((await api.call('POST', '/api/v1/metrics/batch', { body: { metrics } })).status).toBe(201);
  }
  const rows = await api.sql`
    select s.labels ->> 'i' as i, array_agg(distinct m.value) as values, count(*)::int as n
    from obs.series s join obs.sample m on m.series_id = s.id where s.name = 'cached' group by 1`;
  expect(rows).toHaveLength(40);
  for (const row of rows) expect([row.values, row.n]).toEqual([[Number(row.i)], 3]);
});

test('a query that takes too long answers 504', async () => {
  const blocked = api.sql.begin(async (sql) => {
    await sql`lock table obs.series in access exclusive mode`;
    await new Promise((resolve) => setTimeout(resolve, 2500));
  });
  await new Promise((resolve) => setTimeout(resolve, 100));
  const answer = await api.call('GET', '/api/v1/metrics');
  expect([answer.status, answer.body.code]).toEqual([504, 'timeout']);
  await blocked;
});

test('who sends what it asks for never keeps no place from others', async () => {
  const { host, hostname, port } = new URL(api.url);
  const authorizations = await Promise.all(
    Array.from({ length: 30 }, async (_, i) => `Bearer ${await signToken({ org_id: `slow-${i % 15}` })}`),
  );
  const sockets = authorizations.map((Authorization) => {
    const socket = net.connect(Number(port), hostname);
    socket.write(
      `POST /api/v1/metrics/query HTTP/1.1\r\nHost: ${host}\r\nAuthorization: ${Authorization}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{`,
    );
    return socket;
  });
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect((await api.call('GET', '/api/v1/services')).status).toBe(200);
  const own = await signToken({ org_id: 'slow-1' });
  expect((await api.call('GET', '/api/v1/services', { token: own })).status).toBe(200);
  for (const socket of sockets) socket.destroy();
});
