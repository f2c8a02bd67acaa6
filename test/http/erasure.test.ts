// Erasing an org over HTTP, with real workers: asked for, called off, done, and done though a worker is killed.
import { afterEach, expect, test } from 'vitest';
import { useApi } from '../support/api.ts';
import { type Service, signToken, startService } from '../support/process.ts';

const api = useApi();
const workers: Service[] = [];
// One that a failed test leaves behind would do the next one's work.
afterEach(() => Promise.all(workers.splice(0).map((worker) => worker.kill())));

async function startWorker(): Promise<Service> {
  const worker = await startService('worker', { DATABASE_URL: api.databaseUrl });
  workers.push(worker);
  return worker;
}

const hour = 3_600_000;
const until = (what: () => unknown, timeout = 40_000) => expect.poll(what, { timeout, interval: 100 });

/** Calls as admin of an org; the answers to those that are to be good. */
async function useOrg(org: string) {
  const token = await signToken({ org_id: org });
  const call = (method: string, path: string, body?: object, more: { token?: string } = {}) =>
    api.call(method, `/api/v1${path}`, { token, ...(body ? { body } : {}), ...more });
  const good = async (method: string, path: string, body?: object) => {
    const answer = await call(method, path, body);
    expect(answer.status, `${method} ${path}: ${JSON.stringify(answer.body)}`).toBeLessThan(300);
    return answer.body;
  };
  const record = async () => {
    const from = Math.floor(Date.now() / hour) * hour - 30 * hour;
    const metrics = Array.from({ length: 30 }, (_, i) => ({
      name: 'm',
      value: i,
      timestamp: from + i * hour,
    }));
    await good('POST', '/metrics/batch', { metrics });
    await good('POST', '/logs', { logs: [{ service_name: 'web', level: 'info', message: 'hello' }] });
    await good('POST', '/services/register', { service_name: 'beat', kind: 'heartbeat' });
    await good('POST', '/channels', {
      name: 'hook',
      type: 'webhook',
      config: { url: 'http://127.0.0.1:9/' },
    });
    await good('POST', '/alerts', { name: 'down', severity: 'info' });
    await good('POST', '/tokens', { name: 'machine', role: 'viewer' });
  };
  /** How much of each there is. */
  const found = async () => {
    const { body } = await call('POST', '/metrics/query', {
      metric_name: 'm',
      start_time: Date.now() - 48 * hour,
      end_time: Date.now(),
      aggregation: 'count',
    });
    const count = async (path: string, field: string) => (await good('GET', path))[field].length as number;
    return {
      samples: body.series?.[0]?.points[0].value ?? 0,
      logs: await count('/logs/web', 'logs'),
      services: await count('/services', 'services'),
      channels: await count('/channels', 'channels'),
      alerts: await count('/alerts', 'alerts'),
      tokens: await count('/tokens', 'tokens'),
    };
  };
  const status = async (id: string) => (await call('GET', `/org/erasures/${id}`)).body.status as string;
  return { token, call, good, record, found, status };
}

const everything = { samples: 30, logs: 1, services: 1, channels: 1, alerts: 1, tokens: 1 };
const nothing = { samples: 0, logs: 0, services: 0, channels: 0, alerts: 0, tokens: 0 };

test('it takes the org’s own id to confirm, and org:write', async () => {
  const { call, good, record, found } = await useOrg('careful');
  await record();
  for (const [body, path] of [
    [{ confirm: 'other' }, 'confirm'],
    [{ confirm: 'Careful' }, 'confirm'],
    [{ confirm: '' }, 'confirm'],
    [{ confirm: null }, 'confirm'],
    [{}, 'confirm'],
    [{ confirm: 'careful', force: true }, 'force'],
  ] as const) {
    const answer = await call('POST', '/org/erasures', body);
    expect([answer.status, answer.body.errors[0].path], JSON.stringify(body)).toEqual([400, path]);
  }
  const narrowed = (permissions: string[], role = 'admin') =>
    signToken({ org_id: 'careful', role, permissions });
  const id = '00000000-0000-4000-8000-000000000000';
  const requests = [
    ['POST', '/org/erasures', 'org:write', { confirm: 'careful' }],
    ['DELETE', `/org/erasures/${id}`, 'org:write', undefined],
    ['GET', '/org/erasures', 'org:read', undefined],
    ['GET', `/org/erasures/${id}`, 'org:read', undefined],
  ] as const;
  for (const [method, path, permission, body] of requests) {
    const without = permission === 'org:write' ? 'org:read' : 'org:write';
    for (const token of [
      await signToken({ org_id: 'careful', role: 'operator' }),
      await narrowed([without, 'metrics:read', 'tokens:write']),
    ])
      expect((await call(method, path, body, { token })).status, `${method} ${path}`).toBe(403);
    if (method === 'POST') continue;
    const status = path.endsWith(id) ? 404 : 200;
    expect((await call(method, path, undefined, { token: await narrowed([permission]) })).status).toBe(
      status,
    );
  }
  expect((await call('GET', '/org/erasures/nonsense')).status).toBe(404);
  expect((await good('GET', '/org/erasures')).erasures).toEqual([]);
  expect(await found()).toEqual(everything);
});

const stopped = [
  ['POST', '/metrics', { name: 'm', value: 1 }],
  ['POST', '/metrics/batch', { metrics: [{ name: 'm', value: 1 }] }],
  ['POST', '/logs', { logs: [{ service_name: 'web', level: 'info', message: 'x' }] }],
  ['POST', '/heartbeat/beat', {}],
  ['GET', '/metrics', undefined],
  ['GET', '/org', undefined],
  ['PATCH', '/org', { timezone: 'UTC' }],
  ['GET', '/org/export', undefined],
  ['GET', '/channels', undefined],
  ['POST', '/alerts', { name: 'x', severity: 'info' }],
  ['GET', '/tokens', undefined],
  ['GET', '/audit', undefined],
] as const;

test('one that is asked for stops all else, and called off brings all of it back', async () => {
  const { token, call, good, record, found, status } = await useOrg('torn');
  await record();
  const other = await useOrg('bystander');
  await other.record();
  const { id, ...erasure } = await good('POST', '/org/erasures', { confirm: 'torn' });
  expect(erasure).toMatchObject({ org_id: 'torn', status: 'pending', requested_by: 'tester', deleted: {} });
  expect(Date.parse(erasure.starts_at) - Date.parse(erasure.requested_at)).toBe(10_000);

  const again = await call('POST', '/org/erasures', { confirm: 'torn' });
  expect([again.status, again.body.code]).toEqual([409, 'org_erasing']);
  for (const [method, path, body] of stopped) {
    // Not by way of call, which holds each answer against the document: see below.
    const answer = await fetch(`${api.url}/api/v1${path}`, {
      method,
      headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
      ...(body ? { body: JSON.stringify(body) } : {}),
    });
    const { code } = (await answer.json()) as { code: string };
    expect([answer.status, code], `${method} ${path}`).toEqual([409, 'org_erasing']);
  }
  expect(await status(id)).toBe('pending');
  expect((await good('GET', '/org/erasures')).erasures.map((one: { id: string }) => one.id)).toEqual([id]);
  for (const method of ['GET', 'DELETE'])
    expect((await other.call(method, `/org/erasures/${id}`)).status).toBe(404);
  expect(await other.found()).toEqual(everything);

  expect(await good('DELETE', `/org/erasures/${id}`)).toMatchObject({ id, status: 'cancelled' });
  expect(await found()).toEqual(everything);
  await good('POST', '/metrics', { name: 'm', value: 1 });
  const late = await call('DELETE', `/org/erasures/${id}`);
  expect([late.status, late.body.code]).toEqual([409, 'erasure_status']);
  expect(await status(id)).toBe('cancelled');
});

test('that an org is being erased is an answer that the document knows of each endpoint', async () => {
  const { paths } = (await api.call('GET', '/openapi.json', { token: null })).body;
  const unknown = Object.entries(paths as Record<string, Record<string, { responses: object }>>).flatMap(
    ([path, methods]) =>
      path.startsWith('/api/v1/') && !/^\/api\/v1\/(org\/erasures|health)/.test(path)
        ? Object.entries(methods)
            .filter(([, { responses }]) => !('409' in responses))
            .map(([method]) => `${method} ${path}`)
        : [],
  );
  expect(unknown).toEqual([]);
});

test('a worker erases it, and it can be used anew at once', { timeout: 90_000 }, async () => {
  const { call, good, record, found } = await useOrg('gone');
  await record();
  const worker = await startWorker();
  const { id } = await good('POST', '/org/erasures', { confirm: 'gone' });
  // Whoever waits for it always finds it.
  const answers = new Set<number>();
  await until(async () => {
    const { status, body } = await call('GET', `/org/erasures/${id}`);
    answers.add(status);
    return body.status;
  }).toBe('erasing');
  expect.soft([...answers]).toEqual([200]);
  await until(async () => (await call('GET', '/metrics')).status).toBe(200);
  expect(await found()).toEqual(nothing);
  const { deleted } = await good('GET', `/org/erasures/${id}`);
  expect(deleted).toMatchObject({ service: 1, channel: 1, alert: 1, api_token: 1 });
  const { events } = await good('GET', '/audit?action=org.erase');
  expect(events).toMatchObject([{ action: 'org.erase', target_id: id, actor: 'tester' }]);
  const { body } = await call('DELETE', `/org/erasures/${id}`);
  expect(body.code).toBe('erasure_status');
  await record();
  expect(await found()).toEqual(everything);
  // What came anew is not taken along.
  await finish(id);
  expect(await found()).toEqual(everything);
  const receipt = await good('GET', `/org/erasures/${id}`);
  expect([receipt.status, receipt.deleted.log]).toEqual(['done', 1]);
  // And those that the service recorded of it itself.
  expect(receipt.deleted.sample).toBeGreaterThanOrEqual(30);
  await worker.stop();
});

/** As a worker does two minutes from now; one that is at it is waited for. */
async function finish(id: string) {
  await until(async () => {
    const [row] = await api.sql<{ org: string | null }[]>`
      select job.erase_next(now() + interval '2 minutes') as org`;
    if (row!.org !== null) return null;
    return (await api.sql`select finished_at from obs.erasure where id = ${id}`)[0]!.finished_at;
  }).not.toBeNull();
}

test('a worker that is killed at it: another goes on', { timeout: 150_000 }, async () => {
  const { good, record, found } = await useOrg('halved');
  await record();
  // Years of what is to be gone through.
  const seriesOf = api.sql`select s.id from obs.series s join obs.org o on o.id = s.org_id where o.external_id = 'halved'`;
  await api.sql`
    insert into obs.sample (time, series_id, value)
    select now() - make_interval(days => 7 * i), (${seriesOf} limit 1), i from generate_series(1, 50) i`;
  const series = (await seriesOf).map((row) => row.id as number);
  const first = await startWorker();
  const { id } = await good('POST', '/org/erasures', { confirm: 'halved' });
  // With this it comes no further than to the first part of what hypertables hold.
  await api.sql.begin(async (sql) => {
    await sql`lock table obs.log_1m in share mode`;
    await until(
      async () => (await api.sql`select started_at from obs.erasure where id = ${id}`)[0]!.started_at,
    ).not.toBeNull();
    await first.kill();
  });
  const left = async () =>
    (await api.sql`select count(*)::int as n from obs.sample where series_id = any (${series}::int[])`)[0]!.n;
  expect(await left()).toBeGreaterThan(0);
  const second = await startWorker();
  await until(left, 100_000).toBe(0);
  await until(() => second.output()).toMatch(/"org":"halved","msg":"a part of an org was erased"/);
  await finish(id);
  const receipt = await good('GET', `/org/erasures/${id}`);
  expect([receipt.status, receipt.deleted.log]).toEqual(['done', 1]);
  expect(receipt.deleted.sample).toBeGreaterThanOrEqual(80);
  expect(await found()).toEqual(nothing);
  await second.stop();
});
