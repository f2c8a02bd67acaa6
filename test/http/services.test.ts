// Services over HTTP: registered, changed, listed, exported and imported; probed by a worker that runs beside.
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { useApi } from '../support/api.ts';
import { type Service, signToken, startService } from '../support/process.ts';

const api = useApi();

const register = (service_name: string, more: object = {}) =>
  api.call('POST', '/api/v1/services/register', {
    body: { service_name, health_endpoint: 'http://service.test/health', ...more },
  });
const get = async (name: string, call = {}) =>
  (await api.call('GET', `/api/v1/services/${encodeURIComponent(name)}`, call)).body;
const patch = (name: string, body: object) =>
  api.call('PATCH', `/api/v1/services/${encodeURIComponent(name)}`, { body });
const names = async (query = '') =>
  (await api.call('GET', `/api/v1/services${query}`)).body.services.map(
    ({ service_name }: { service_name: string }) => service_name,
  );

describe('a registration', () => {
  test('that is nested too deep is refused', async () => {
    const deep = `${'['.repeat(20_000)}${']'.repeat(20_000)}`;
    const body = `{"service_name":"deep","health_endpoint":"http://service.test/","headers":{"X-Deep":${deep}}}`;
    const answer = await api.call('POST', '/api/v1/services/register', { body });
    expect([answer.status, answer.body.errors[0].message]).toEqual([400, 'the body is nested too deep']);
  });

  test('has its defaults, and is a 201 the first time and a 200 after that', async () => {
    const first = await register('auth');
    expect(first.status).toBe(201);
    expect(first.body).toMatchObject({
      service_name: 'auth',
      kind: 'http',
      health_endpoint: 'http://service.test/health',
      method: 'GET',
      expected_status: ['2xx'],
      max_redirects: 5,
      tls_verify: true,
      tls_expiry_days: 14,
      check_interval_seconds: 30,
      timeout_seconds: 10,
      failure_threshold: 3,
      success_threshold: 1,
      alert_on_failure: true,
      alert_severity: 'critical',
      tags: [],
      depends_on: [],
      sla_target_percent: null,
      current_status: 'unknown',
      last_check: null,
      sla: null,
    });
    const again = await register('auth');
    expect(again.status).toBe(200);
    expect(again.body.updated_at).toBe(first.body.updated_at);
  });

  test('changes what it names and nothing else', async () => {
    await register('billing', { check_interval_seconds: 60, tags: ['money', 'money'], description: 'bills' });
    const { status, body } = await register('billing', { health_endpoint: 'tcp://service.test:5432' });
    expect(status).toBe(200);
    expect(body).toMatchObject({
      kind: 'tcp',
      check_interval_seconds: 60,
      tags: ['money'],
      description: 'bills',
    });
    expect((await register('billing', { description: null })).body.description).toBeNull();
  });

  test('of another kind drops what was for the old one', async () => {
    await register('changing', {
      method: 'POST',
      request_body: 'ping',
      headers: { 'X-Key': 'k' },
      expected_body: { contains: 'pong' },
    });
    const { body } = await patch('changing', { kind: 'heartbeat' });
    expect(body).toMatchObject({
      kind: 'heartbeat',
      health_endpoint: null,
      method: 'GET',
      request_body: null,
      headers: {},
      expected_body: null,
    });
    expect((await patch('changing', { health_endpoint: 'https://service.test/' })).body.kind).toBe('http');
  });

  test('with an interval shorter than the timeout makes the timeout shorter, unless it is asked for', async () => {
    expect((await register('quick', { check_interval_seconds: 5 })).body.timeout_seconds).toBe(5);
    await register('quicker');
    expect((await register('quicker', { check_interval_seconds: 7 })).body.timeout_seconds).toBe(7);
    const { status, body } = await register('quicker', { timeout_seconds: 8 });
    expect([status, body.errors]).toEqual([
      400,
      [{ path: 'timeout_seconds', message: 'must not be longer than check_interval_seconds, 7' }],
    ]);
  });

  test('by twenty at once is one service', async () => {
    const answers = await Promise.all(Array.from({ length: 20 }, () => register('rush')));
    expect(answers.map(({ status }) => status).sort()).toEqual([...Array(19).fill(200), 201]);
    expect((await names()).filter((name: string) => name === 'rush')).toHaveLength(1);
  });

  test.each(['with space', 'a/b', 'ünïcode', '100%', 'import', 'a?b#c', '日本'])(
    'under the name %s can be found again',
    async (name) => {
      expect((await register(name)).status).toBe(201);
      expect((await get(name)).service_name).toBe(name);
      expect((await api.call('DELETE', `/api/v1/services/${encodeURIComponent(name)}`)).status).toBe(204);
      expect((await api.call('GET', `/api/v1/services/${encodeURIComponent(name)}`)).status).toBe(404);
    },
  );

  test.each(['1.2.3.4.5', '999.1.1.1', '1.', '08.1.1.1'])(
    'at tcp://%s is registered, whatever a resolver makes of it',
    async (host) => {
      expect([200, 201]).toContain((await register('odd', { health_endpoint: `tcp://${host}:80` })).status);
    },
  );

  test('past the limit of the org is refused, and what is there goes on', async () => {
    await api.sql`insert into obs.org (external_id, service_limit) values ('small', 2)`;
    const token = await signToken({ org_id: 'small' });
    const call = (service_name: string) =>
      api.call('POST', '/api/v1/services/register', {
        token,
        body: { service_name, health_endpoint: 'http://service.test/' },
      });
    expect([(await call('a')).status, (await call('b')).status]).toEqual([201, 201]);
    const third = await call('c');
    expect([third.status, third.body.code]).toEqual([422, 'service_limit']);
    expect((await call('a')).status).toBe(200);
  });
});

// The body of a registration, and the fields that are wrong.
const refusals: [object, string[]][] = [
  [{}, ['service_name']],
  [{ service_name: 'x' }, ['health_endpoint']],
  [{ service_name: 'x', kind: 'http' }, ['health_endpoint']],
  [{ service_name: 'x', kind: 'heartbeat', health_endpoint: 'http://a.test/' }, ['kind']],
  [{ service_name: 'x', kind: 'tcp', health_endpoint: 'http://a.test/' }, ['kind']],
  [{ service_name: 'export', health_endpoint: 'http://a.test/' }, ['service_name']],
  ...[
    'a.test',
    'ftp://a.test/',
    'http://',
    'tcp://a.test',
    'tcp://a.test:0',
    'tcp://a.test:1/x',
    'http://me:secret@a.test/',
    'javascript:1',
    'http://a.test:0/',
    'tcp://a.test:99999',
    'http://a\nb.test',
  ].map(
    (health_endpoint) => [{ service_name: 'x', health_endpoint }, ['health_endpoint']] as [object, string[]],
  ),
  [{ service_name: 'x', health_endpoint: 'http://169.254.169.254/' }, ['health_endpoint']],
  [{ service_name: 'x', health_endpoint: 'http://[fe80::1]/' }, ['health_endpoint']],
  ...(
    [
      ['check_interval_seconds', 4],
      ['check_interval_seconds', 5.5],
      ['check_interval_seconds', '30'],
      ['timeout_seconds', 0],
      ['timeout_seconds', 61],
      ['failure_threshold', 0],
      ['success_threshold', 101],
      ['alert_on_failure', 'yes'],
      ['alert_severity', 'fatal'],
      ['tags', 'core'],
      ['tags[1]', ['a', '']],
      ['depends_on[0]', [5]],
      ['depends_on', ['x']],
      ['sla_target_percent', 100],
      ['sla_target_percent', 0],
      ['method', 'TRACE'],
      ['headers.Content-Length', { 'Content-Length': '5' }],
      ['headers.a b', { 'a b': 'c' }],
      ['headers.a', { a: 'b\r\nc: d' }],
      ['expected_status', []],
      ['expected_status[0]', [700]],
      ['expected_status[0]', ['299-200']],
      ['expected_body', {}],
      ['expected_body.json_path', { json_path: '$[' }],
      ['expected_body.json_path', { json_path: '$..a' }],
      ['expected_body.json_path', { json_path: "$[?search(@, '(a+)+$')]" }],
      ['request_body', 'with GET'],
      ['max_redirects', -1],
      ['tls_expiry_days', 366],
      ['degraded_above_ms', 0],
      ['timeout', 5],
    ] as const
  ).map(
    ([path, value]) =>
      [
        { service_name: 'x', health_endpoint: 'http://a.test/', [path.replace(/[.[].*/, '')]: value },
        [path],
      ] as [object, string[]],
  ),
  [
    { service_name: 'x', health_endpoint: 'tcp://a.test:1', expected_body: { contains: 'a' } },
    ['expected_body'],
  ],
  [{ service_name: 'x', health_endpoint: 'tcp://a.test:1', headers: { a: 'b' } }, ['headers']],
  [
    {
      service_name: 'x',
      health_endpoint: 'http://a.test/',
      method: 'HEAD',
      expected_body: { contains: 'a' },
    },
    ['expected_body'],
  ],
];

describe('bad input is a 400 that names the field', () => {
  test.each(refusals)('%j', async (body, paths) => {
    const { status, body: problem } = await api.call('POST', '/api/v1/services/register', { body });
    expect(status, JSON.stringify(problem)).toBe(400);
    expect(problem.errors.map(({ path }: { path: string }) => path)).toEqual(paths);
    expect(await names()).not.toContain('x');
  });

  test.each([
    ['GET', '/services?status=ok', 'query.status'],
    ['GET', '/services?limit=0', 'query.limit'],
    ['GET', '/services?colour=red', 'query.colour'],
    ['GET', '/health/services?history=1', 'query.history'],
    ['GET', '/services/auth/results?cursor=eA', 'query.cursor'],
    ['GET', '/services/auth/events?start_time=now', 'query.start_time'],
    ['GET', '/services/auth?x=1', 'query.x'],
  ])('%s %s', async (method, path, field) => {
    const { status, body } = await api.call(method, `/api/v1${path}`);
    expect([status, body.errors[0].path]).toEqual([400, field]);
  });

  test.each([
    [{ paused_until: '2030-01-01T00:00:00Z' }, 'paused_until'],
    [{ paused: false, paused_until: '2030-01-01T00:00:00Z' }, 'paused_until'],
    [{ paused: true, paused_until: '2020-01-01T00:00:00Z' }, 'paused_until'],
    [{ paused: 'yes' }, 'paused'],
    [{ service_name: 'other' }, 'service_name'],
    [{ health_endpoint: null }, 'health_endpoint'],
  ])('PATCH %j', async (changes, path) => {
    await register('patched');
    const { status, body } = await patch('patched', changes);
    expect([status, body.errors[0].path]).toEqual([400, path]);
  });
});

describe('what is there', () => {
  beforeAll(async () => {
    await api.sql`delete from obs.service`;
    for (let i = 0; i < 25; i++) {
      await register(`list-${String(i).padStart(2, '0')}`, {
        tags: i % 2 ? ['odd', 'core'] : ['even'],
        description: i === 7 ? 'The Payment Gateway' : null,
      });
    }
  });

  test('is listed by name, page after page', async () => {
    const seen: string[] = [];
    let cursor: string | null = '';
    while (cursor !== null) {
      const { body } = await api.call('GET', `/api/v1/services?limit=10${cursor ? `&cursor=${cursor}` : ''}`);
      seen.push(...body.services.map(({ service_name }: { service_name: string }) => service_name));
      cursor = body.next_cursor as string | null;
    }
    expect(seen).toEqual(Array.from({ length: 25 }, (_, i) => `list-${String(i).padStart(2, '0')}`));
  });

  test.each([
    ['?tag=odd', 12],
    ['?tag=core&q=list-0', 5],
    ['?status=unknown', 25],
    ['?status=healthy', 0],
    ['?q=payment%20g', 1],
    ['?q=SERVICE.TEST', 25],
    ['?tag=none', 0],
  ])('%s', async (query, count) => {
    expect(await names(query)).toHaveLength(count);
  });

  test('is exported, and imported again as it was', async () => {
    await register('list-03', {
      headers: { 'X-Key': 'secret' },
      expected_body: { json_path: '$.a', equals: null },
      sla_target_percent: 99.95,
      depends_on: ['list-04'],
    });
    await api.call('POST', '/api/v1/services/register', {
      body: { service_name: 'cron', kind: 'heartbeat', check_interval_seconds: 3600 },
    });
    const { body: exported } = await api.call('GET', '/api/v1/services/export');
    expect(exported.services).toHaveLength(26);
    const same = await api.call('POST', '/api/v1/services/import', { body: exported });
    expect(same.body).toEqual({ created: 0, updated: 0, unchanged: 26 });

    const token = await signToken({ org_id: 'copy' });
    const copied = await api.call('POST', '/api/v1/services/import', { token, body: exported });
    expect(copied.body).toEqual({ created: 26, updated: 0, unchanged: 0 });
    expect((await api.call('GET', '/api/v1/services/export', { token })).body).toEqual(exported);
    // Many at once are not probed at once.
    const [{ seconds }] = (await api.sql`
      select extract(epoch from max(next_check_at) - min(next_check_at))::float8 as seconds
      from obs.service_state t join obs.org o on o.id = t.org_id where o.external_id = 'copy'`) as unknown as [
      { seconds: number },
    ];
    expect(seconds).toBeCloseTo(0.5, 1);
  });

  test('is imported all or not at all, and each wrong field is named', async () => {
    const before = await names();
    const { status, body } = await api.call('POST', '/api/v1/services/import', {
      body: {
        services: [
          { service_name: 'new-1', health_endpoint: 'http://a.test/' },
          {
            service_name: 'new-2',
            health_endpoint: 'http://a.test/',
            check_interval_seconds: 5,
            timeout_seconds: 9,
          },
        ],
      },
    });
    expect([status, body.errors[0].path]).toEqual([400, 'services[1].timeout_seconds']);
    const twice = await api.call('POST', '/api/v1/services/import', {
      body: {
        services: [
          { service_name: 'new-1', health_endpoint: 'http://a.test/' },
          { service_name: 'new-1', health_endpoint: 'http://b.test/' },
        ],
      },
    });
    expect(twice.body.errors).toEqual([
      { path: 'services[1].service_name', message: 'is the same as services[0].service_name' },
    ]);
    expect(await names()).toEqual(before);
  });

  test('shows header values to those who may change them, and to no other', async () => {
    await register('keyed', {
      health_endpoint: 'http://service.test/health?token=secret',
      method: 'POST',
      request_body: '{"password": "secret"}',
      headers: { Authorization: 'Bearer secret' },
    });
    const viewer = { token: await signToken({ role: 'viewer' }) };
    expect((await get('keyed')).headers).toEqual({ Authorization: 'Bearer secret' });
    expect(await get('keyed', viewer)).toMatchObject({
      headers: { Authorization: '***' },
      request_body: '***',
      health_endpoint: 'http://service.test/health?***',
    });
    const { body } = await api.call('GET', '/api/v1/services?q=keyed', viewer);
    expect(JSON.stringify(body)).not.toContain('secret');
  });
});

test('roles: viewers read, operators change, ingest sends heartbeats', async () => {
  await register('roles');
  await api.call('POST', '/api/v1/services/register', {
    body: { service_name: 'beat', kind: 'heartbeat' },
  });
  const requests = [
    ['GET', '/services', undefined],
    ['GET', '/services/roles', undefined],
    ['GET', '/services/roles/results', undefined],
    ['GET', '/services/roles/events', undefined],
    ['GET', '/health/services', undefined],
    ['POST', '/heartbeat/beat', undefined],
    ['POST', '/services/register', { service_name: 'roles', health_endpoint: 'http://a.test/' }],
    ['PATCH', '/services/roles', { description: 'x' }],
    ['GET', '/services/export', undefined],
    [
      'POST',
      '/services/import',
      { services: [{ service_name: 'roles', health_endpoint: 'http://a.test/' }] },
    ],
    ['DELETE', '/services/roles', undefined],
  ] as const;
  for (const [role, allowed] of [
    ['viewer', [0, 1, 2, 3, 4]],
    ['ingest', [5]],
    ['operator', [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]],
  ] as const) {
    const token = await signToken({ role });
    for (const [i, [method, path, body]] of requests.entries()) {
      const { status } = await api.call(method, `/api/v1${path}`, { token, body });
      expect(status < 300, `${role} ${method} ${path}: ${status}`).toBe(
        (allowed as readonly number[]).includes(i),
      );
      if (status >= 300) expect(status).toBe(403);
    }
  }
});

test('of another org nothing is found', async () => {
  await register('private');
  const token = await signToken({ org_id: 'elsewhere' });
  for (const [method, path] of [
    ['GET', '/services/private'],
    ['PATCH', '/services/private'],
    ['DELETE', '/services/private'],
    ['POST', '/services/private/check'],
    ['GET', '/services/private/results'],
    ['GET', '/services/private/events'],
    ['POST', '/heartbeat/private'],
  ] as const) {
    const call = { token, ...(method === 'PATCH' ? { body: {} } : {}) };
    expect((await api.call(method, `/api/v1${path}`, call)).status, `${method} ${path}`).toBe(404);
  }
  expect((await api.call('GET', '/api/v1/health/services', { token })).body.services).toEqual({});
});

describe('a heartbeat', () => {
  const beat = (body?: object) => api.call('POST', '/api/v1/heartbeat/nightly', { body });

  test('makes its service what it says', async () => {
    await api.call('POST', '/api/v1/services/register', {
      body: { service_name: 'nightly', kind: 'heartbeat', failure_threshold: 1 },
    });
    expect((await beat()).body).toEqual({ recorded: 1 });
    expect(await get('nightly')).toMatchObject({ current_status: 'healthy', reason: null });
    expect((await get('nightly')).last_heartbeat).not.toBeNull();
    await beat({ status: 'degraded' });
    expect(await get('nightly')).toMatchObject({
      current_status: 'degraded',
      reason: 'it says that it is degraded',
    });
    await beat({ status: 'unhealthy', message: 'no space left' });
    expect(await get('nightly')).toMatchObject({ current_status: 'unhealthy', reason: 'no space left' });
    const { body } = await api.call('GET', '/api/v1/alerts?service_name=nightly');
    expect(body.alerts).toMatchObject([{ status: 'firing', source: 'service', severity: 'critical' }]);
    await beat({ status: 'healthy' });
    expect((await api.call('GET', '/api/v1/alerts?service_name=nightly')).body.summary.resolved).toBe(1);
    const events = (await api.call('GET', '/api/v1/services/nightly/events')).body.events;
    expect(events.map(({ to_status, actor }: Record<string, string>) => [to_status, actor])).toEqual([
      ['healthy', 'tester'],
      ['unhealthy', 'tester'],
      ['degraded', 'tester'],
      ['healthy', 'tester'],
    ]);
  });

  test('is for heartbeat services alone, and they cannot be probed', async () => {
    await register('probed');
    expect((await api.call('POST', '/api/v1/heartbeat/probed')).body).toMatchObject({
      status: 409,
      code: 'not_a_heartbeat_service',
    });
    expect((await api.call('POST', '/api/v1/services/nightly/check')).body).toMatchObject({
      status: 409,
      code: 'heartbeat_service',
    });
  });

  test('that says nonsense is refused', async () => {
    expect((await beat({ status: 'fine' })).body.errors[0].path).toBe('status');
    expect((await beat({ state: 'healthy' })).body.errors[0].path).toBe('state');
  });
});

describe('with a worker', () => {
  let worker: Service;
  let status = 200;
  let probes = 0;
  const server = http.createServer((_request, response) => {
    probes++;
    response.writeHead(status, { 'Content-Type': 'application/json' }).end('{"status":"healthy"}');
  });
  let endpoint: string;

  beforeAll(async () => {
    await api.sql`delete from obs.service`;
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
    worker = await startService('worker', { DATABASE_URL: api.databaseUrl, LOG_LEVEL: 'info' });
  });
  afterAll(async () => {
    await worker?.stop();
    server.close();
  });

  test('a service is probed as soon as it is registered, again when it is changed, and when it is asked for', async () => {
    await register('live', { health_endpoint: endpoint, check_interval_seconds: 3600 });
    await expect.poll(async () => (await get('live')).current_status, { timeout: 5000 }).toBe('healthy');
    expect(probes).toBe(1);
    await patch('live', { degraded_above_ms: 60_000, failure_threshold: 2 });
    await expect.poll(() => probes, { timeout: 5000 }).toBe(2);
    status = 500;
    const { status: answered, body } = await api.call('POST', '/api/v1/services/live/check');
    expect(answered).toBe(200);
    expect(body).toMatchObject({
      service_name: 'live',
      current_status: 'healthy',
      result: {
        outcome: 'down',
        reason: 'status 500, expected 2xx; it says healthy',
        status_code: 500,
        slot: null,
      },
    });
    expect((await api.call('POST', '/api/v1/services/live/check')).body.current_status).toBe('unhealthy');
    status = 200;
    expect((await api.call('POST', '/api/v1/services/live/check')).body.current_status).toBe('healthy');
    expect(probes).toBe(5);

    const { body: results } = await api.call('GET', '/api/v1/services/live/results?limit=2');
    expect(results.results.map(({ outcome }: { outcome: string }) => outcome)).toEqual(['up', 'down']);
    const { body: rest } = await api.call(
      'GET',
      `/api/v1/services/live/results?cursor=${results.next_cursor}`,
    );
    expect(rest.results.map(({ outcome }: { outcome: string }) => outcome)).toEqual(['down', 'up', 'up']);
    expect(rest.next_cursor).toBeNull();
    const { body: metrics } = await api.call('GET', '/api/v1/metrics?q=probe_&service_name=live');
    expect(metrics.metrics.map(({ name }: { name: string }) => name)).toEqual([
      'probe_duration_ms',
      'probe_up',
    ]);
  });

  test('GET /health/services tells how each is', async () => {
    await register('gone', {
      health_endpoint: 'tcp://127.0.0.1:1',
      failure_threshold: 1,
      check_interval_seconds: 3600,
    });
    await expect.poll(async () => (await get('gone')).current_status, { timeout: 5000 }).toBe('unhealthy');
    const { body } = await api.call('GET', '/api/v1/health/services');
    expect(body.services.live).toMatchObject({
      current_status: 'healthy',
      uptime_percentage: 100,
      // The second probe of one slot, after the change, counts for the status alone.
      history: [{ status: 'healthy', uptime_percentage: 100, checks: 1 }],
    });
    expect(body.services.gone).toMatchObject({
      current_status: 'unhealthy',
      reason: 'the connection was refused while connecting',
      uptime_percentage: 0,
      history: [{ status: 'unhealthy', uptime_percentage: 0, response_time_ms: null, checks: 1 }],
    });
    expect(body.summary).toMatchObject({
      total_services: 2,
      healthy_services: 1,
      degraded_services: 0,
      unhealthy_services: 1,
      unknown_services: 0,
      avg_response_time_ms: body.services.live.response_time_ms,
    });
    const without = (await api.call('GET', '/api/v1/health/services?history=false')).body;
    expect(without.services.live).toEqual({ ...body.services.live, history: undefined });
    expect(without.summary).toEqual(body.summary);
  });

  test('a paused service is not probed by itself', async () => {
    await register('paused', { health_endpoint: endpoint, check_interval_seconds: 5 });
    await expect.poll(async () => (await get('paused')).current_status, { timeout: 5000 }).toBe('healthy');
    const { body } = await patch('paused', { paused: true });
    expect(body).toMatchObject({ paused: true, current_status: 'unknown', next_check: null });
    const before = probes;
    await sleep(6500);
    expect(probes).toBe(before);
    // Whoever repairs it may look all the same.
    const check = await api.call('POST', '/api/v1/services/paused/check');
    expect(check.body).toMatchObject({ current_status: 'unknown', result: { outcome: 'up' } });
    expect((await patch('paused', { paused: false })).body.paused).toBe(false);
    await expect.poll(async () => (await get('paused')).current_status, { timeout: 5000 }).toBe('healthy');
  });

  test('deleted is deleted: its alert is resolved, and it is not probed again', async () => {
    await register('short', {
      health_endpoint: 'tcp://127.0.0.1:1',
      failure_threshold: 1,
      check_interval_seconds: 5,
    });
    await expect.poll(async () => (await get('short')).current_status, { timeout: 5000 }).toBe('unhealthy');
    expect((await api.call('DELETE', '/api/v1/services/short')).status).toBe(204);
    const { body } = await api.call('GET', '/api/v1/alerts?service_name=short');
    expect(body.alerts).toMatchObject([{ status: 'resolved' }]);
    const detail = await api.call('GET', `/api/v1/alerts/${body.alerts[0].id}`);
    expect(detail.body.events.at(-1)).toMatchObject({ actor: 'tester', note: 'the service was deleted' });
    expect((await api.call('DELETE', '/api/v1/services/short')).status).toBe(404);
  });
});

test('a check that no worker comes for is a 202', { timeout: 30_000 }, async () => {
  await register('alone', { timeout_seconds: 0.1 });
  const { status, body } = await api.call('POST', '/api/v1/services/alone/check');
  expect(status).toBe(202);
  expect(body.service_name).toBe('alone');
});

test('checks that wait are not more than twenty of an org', { timeout: 30_000 }, async () => {
  await register('many', { timeout_seconds: 0.1 });
  const answers = await Promise.all(
    Array.from({ length: 24 }, () => api.call('POST', '/api/v1/services/many/check')),
  );
  const statuses = answers.map(({ status }) => status);
  expect(statuses.filter((status) => status === 202)).toHaveLength(20);
  const refused = answers.find(({ status }) => status === 429)!;
  expect(statuses.filter((status) => status === 429)).toHaveLength(4);
  expect([refused.body.code, refused.headers.get('Retry-After')]).toEqual(['too_many_checks', '1']);
  expect((await api.call('POST', '/api/v1/services/many/check')).status).toBe(202);
});
