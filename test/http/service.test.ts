// What is not about a topic: health, own metrics, docs, unknown paths, request ids, compression.
import { expect, test } from 'vitest';
import { useApi } from '../support/api.ts';

const api = useApi();

test.each(['/health', '/api/v1/health'])('%s tells how the service is, without a token', async (path) => {
  const answer = await api.call('GET', path, { token: null });
  expect(answer.status).toBe(200);
  expect(answer.body).toMatchObject({
    status: 'healthy',
    service: 'liftos-observability',
    details: { database: { status: 'healthy' } },
  });
  expect((await api.call('GET', `${path}/live`, { token: null })).body).toEqual({ status: 'live' });
  expect((await api.call('GET', `${path}/ready`, { token: null })).body).toEqual({ status: 'ready' });
});

test('probes that are late show in /health and in /metrics', async () => {
  const read = async () => {
    const { status, body } = await api.call('GET', '/health', { token: null });
    const text = (await api.call('GET', '/metrics', { token: null })).body as string;
    const lag = /^obs_probe_lag_seconds ([\d.]+)$/m.exec(text)?.[1];
    return [
      status,
      body.status,
      body.details.probes.status,
      lag === undefined ? null : Math.round(Number(lag)),
    ];
  };
  await api.call('POST', '/api/v1/services/register', {
    body: { service_name: 'late', health_endpoint: 'http://service.test/' },
  });
  await api.sql`update obs.service_state set next_check_at = now() + interval '10 seconds'`;
  expect(await read()).toEqual([200, 'healthy', 'healthy', 0]);
  await api.sql`update obs.service_state set next_check_at = now() - interval '90 seconds'`;
  expect(await read()).toEqual([200, 'degraded', 'degraded', 90]);
  await api.call('DELETE', '/api/v1/services/late');
  // Nothing is to be probed.
  expect(await read()).toEqual([200, 'healthy', 'healthy', null]);
});

test('/metrics is in Prometheus text format and counts what was committed', async () => {
  const committed = async () => {
    const text = (await api.call('GET', '/metrics', { token: null })).body as string;
    return Number(/^obs_ingest_committed_samples_total (\d+)$/m.exec(text)?.[1]);
  };
  const before = await committed();
  await api.call('POST', '/api/v1/metrics/batch', {
    body: {
      metrics: [
        { name: 'a', value: 1 },
        { name: 'b', value: 1 },
      ],
    },
  });
  expect((await committed()) - before).toBe(2);
  const answer = await api.call('GET', '/metrics', { token: null });
  expect(answer.headers.get('Content-Type')).toContain('text/plain');
  expect(answer.body).toContain(
    'http_request_duration_seconds_count{method="POST",route="/api/v1/metrics/batch",status="201"} 1',
  );
});

test('/openapi.json and /docs need no token and no other server', async () => {
  const document = (await api.call('GET', '/openapi.json', { token: null })).body;
  expect(Object.keys(document.paths)).toContain('/api/v1/metrics/query');
  const page = (await api.call('GET', '/docs', { token: null })).body as string;
  for (const [, target] of page.matchAll(/(?:src|href)="([^"]+)"/g)) {
    if (target!.startsWith('data:')) continue;
    expect(target).toMatch(/^\/[^/]/);
    expect((await api.call('GET', target!, { token: null })).status).toBe(200);
  }
  expect((await api.call('GET', '/docs/package.json', { token: null })).status).toBe(404);
});

test('an unknown path is 404, a known one with another method 405 that names those it takes', async () => {
  const unknown = await api.call('GET', '/nothing', { token: null });
  expect([unknown.status, unknown.body.code, unknown.headers.get('Content-Type')]).toEqual([
    404,
    'not_found',
    'application/problem+json',
  ]);
  const method = await api.call('PUT', '/api/v1/metrics/batch');
  expect([method.status, method.headers.get('Allow')]).toEqual([405, 'POST']);
});

test('a request id is kept when it is sane, and made when it is not', async () => {
  const kept = await api.call('GET', '/nothing', { headers: { 'X-Request-Id': 'abc-123' } });
  expect([kept.headers.get('X-Request-Id'), kept.body.request_id]).toEqual(['abc-123', 'abc-123']);
  const made = await api.call('GET', '/nothing', { headers: { 'X-Request-Id': 'a b"c' } });
  expect(made.body.request_id).toMatch(/^[0-9a-f-]{36}$/);
});

test('large answers are compressed when asked', async () => {
  const plain = await api.call('GET', '/openapi.json', { headers: { 'Accept-Encoding': 'identity' } });
  expect(plain.headers.get('Content-Encoding')).toBeNull();
  const zipped = await api.call('GET', '/openapi.json', { headers: { 'Accept-Encoding': 'gzip' } });
  expect(zipped.headers.get('Content-Encoding')).toBe('gzip');
  expect(zipped.body).toEqual(plain.body);
});

test('while it drains it says that it is not ready', async () => {
  api.observability.startDraining();
  const answer = await api.call('GET', '/health/ready', { token: null });
  expect([answer.status, answer.body]).toEqual([503, { status: 'draining' }]);
  expect((await api.call('GET', '/health', { token: null })).body.status).toBe('degraded');
});
