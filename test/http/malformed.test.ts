// 10,000 malformed requests over the ingest and query endpoints: a 4xx each, and not a row written.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { limits, readMetrics } from '../../src/ingest/metrics.ts';
import { metricSchema } from '../../src/routes/metrics.ts';
import { useApi } from '../support/api.ts';
import { isSoak } from '../support/soak.ts';

const api = useApi();
const runs = isSoak ? 2_500 : 800;

const targets = {
  '/api/v1/metrics': { name: 'm', value: 1, labels: { a: 'b' }, service_name: 's', timestamp: Date.now() },
  '/api/v1/metrics/batch': {
    metrics: [
      { name: 'm', value: 1 },
      { name: 'n', value: 2, labels: { a: 'b' } },
    ],
  },
  '/api/v1/metrics/query': {
    metric_name: 'm',
    start_time: Date.now() - 1000,
    end_time: Date.now(),
    aggregation: 'avg',
    time_window: '1m',
    labels: { a: 'b' },
    service_name: 's',
    group_by: ['a'],
    fill: 'none',
    timezone: 'UTC',
    limit: 10,
    format: 'points',
  },
} as const;

const nasty = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    true,
    -1,
    1e308,
    0.5,
    '',
    '\0',
    '\ud800',
    'x'.repeat(300),
    '1e999',
    'NaN',
    [],
    {},
    [[]],
    { '': '' },
    '9999-99-99T99:99:99Z',
    "'; drop table obs.sample; --",
    '%00',
    '2026-02-30T00:00:00Z',
    1e15,
    -1e15,
    '-5m',
    '0s',
    '99999999d',
    '1M',
    'PT5M',
    '../../etc/passwd',
  ),
  fc.jsonValue({ maxDepth: 3 }),
  fc.string({ unit: 'binary', maxLength: 40 }),
);

type Path = (string | number)[];

function pathsOf(value: unknown, path: Path = []): Path[] {
  if (typeof value !== 'object' || value === null) return [path];
  return [
    path,
    ...Object.entries(value).flatMap(([key, inner]) =>
      pathsOf(inner, [...path, Array.isArray(value) ? Number(key) : key]),
    ),
  ];
}

function replaced(value: unknown, path: Path, by: unknown): unknown {
  const [key, ...rest] = path;
  if (key === undefined) return by;
  if (Array.isArray(value)) return value.map((inner, i) => (i === key ? replaced(inner, rest, by) : inner));
  return { ...(value as object), [key]: replaced((value as Record<string, unknown>)[key], rest, by) };
}

const requestOf = <Targets extends object>(targets: Targets) =>
  fc.constantFrom(...(Object.keys(targets) as (keyof Targets & string)[])).chain((target) =>
    fc
      .oneof(
        {
          weight: 6,
          arbitrary: fc
            .tuple(fc.constantFrom(...pathsOf(targets[target])), nasty)
            .map(([path, by]) => JSON.stringify(replaced(targets[target], path, by)) ?? ''),
        },
        {
          weight: 2,
          arbitrary: fc
            .string({ minLength: 1, maxLength: 20 })
            .map((key) => JSON.stringify({ ...targets[target], [key]: 1 })),
        },
        // Cut short, or with a byte changed: seldom JSON, sometimes not even UTF-8.
        {
          weight: 1,
          arbitrary: fc
            .nat(JSON.stringify(targets[target]).length - 1)
            .map((n) => JSON.stringify(targets[target]).slice(0, n)),
        },
        {
          weight: 1,
          arbitrary: fc
            .tuple(fc.nat(JSON.stringify(targets[target]).length - 1), fc.nat(255))
            .map(([at, byte]) => {
              const bytes = Buffer.from(JSON.stringify(targets[target]));
              bytes[at] = byte;
              return bytes;
            }),
        },
      )
      .map((body) => ({ target, body })),
  );
const request = requestOf(targets);

test('only 4xx for what is malformed, a 2xx only where the change happened to be valid, never a 5xx', {
  timeout: 300_000,
}, async () => {
  let refused = 0;
  let accepted = 0;
  const rows = async () => (await api.sql<{ n: number }[]>`select count(*)::int as n from obs.sample`)[0]!.n;
  let expected = await rows();
  while (refused < 4 * runs) {
    const bodies = fc.sample(request, { numRuns: runs });
    for (let i = 0; i < bodies.length; i += 50) {
      const answers = await Promise.all(
        bodies
          .slice(i, i + 50)
          .map(async ({ target, body }) => ({ body, answer: await api.call('POST', target, { body }) })),
      );
      for (const { body, answer } of answers) {
        expect(answer.status, `${body} → ${JSON.stringify(answer.body)}`).toBeLessThan(500);
        if (answer.status >= 400) {
          refused++;
          // Whoever sent it is told where the fault is, or that the body as a whole is at fault.
          if (answer.status === 400) expect(answer.body.detail, String(body)).not.toBe('');
        } else {
          accepted++;
          if (answer.status === 201) expected += answer.body.recorded;
        }
      }
    }
    expect(await rows()).toBe(expected);
  }
  // The generator makes mostly what is malformed; were it not so, this test would show little.
  expect(accepted).toBeLessThan(refused / 2);
});

test('the hand-written checks of the hot path agree with the published schema', async () => {
  const cache = {
    get: () => undefined,
    size: () => 0,
    resolve: async () => {},
  };
  const bounds = { min: (Date.now() - 86_400_000) * 1000, max: (Date.now() + 86_400_000) * 1000 };
  const accepts = (item: unknown) =>
    readMetrics([item], () => '', 1, bounds, cache).then(
      () => true,
      () => false,
    );
  const template = targets['/api/v1/metrics'];
  const edges = [
    { ...template, name: 'n'.repeat(limits.nameLength) },
    { ...template, name: 'n'.repeat(limits.nameLength + 1) },
    { ...template, labels: { ['k'.repeat(limits.labelNameLength)]: '' } },
    { ...template, labels: { ['k'.repeat(limits.labelNameLength + 1)]: '' } },
    {
      ...template,
      labels: Object.fromEntries(Array.from({ length: limits.labels }, (_, i) => [`k${i}`, 'v'])),
    },
    {
      ...template,
      labels: Object.fromEntries(Array.from({ length: limits.labels + 1 }, (_, i) => [`k${i}`, 'v'])),
    },
  ];
  const changed = fc
    .tuple(fc.constantFrom(...pathsOf(template)), nasty)
    .map(([path, by]) => JSON.parse(JSON.stringify(replaced(template, path, by)) ?? 'null'));
  for (const item of [...edges, ...fc.sample(changed, 5_000)]) {
    const { timestamp, ...rest } = (item ?? {}) as { timestamp?: unknown };
    // Which times are accepted depends on the moment, which a schema cannot say.
    const bySchema = metricSchema.safeParse(
      timestamp === template.timestamp
        ? item
        : item && typeof item === 'object' && !Array.isArray(item)
          ? rest
          : item,
    ).success;
    const byHand = await accepts(
      timestamp === template.timestamp
        ? item
        : item && typeof item === 'object' && !Array.isArray(item)
          ? rest
          : item,
    );
    expect(byHand, JSON.stringify(item)).toBe(bySchema);
  }
});

const registration = {
  kind: 'http',
  health_endpoint: 'https://a.test:8443/health?full=1',
  description: 'd',
  method: 'POST',
  headers: { 'X-Key': 'k' },
  request_body: 'b',
  expected_status: ['2xx', 304, '400-404'],
  expected_body: { json_path: '$.a', equals: { b: [1] } },
  max_redirects: 1,
  tls_verify: true,
  tls_expiry_days: 7,
  degraded_above_ms: 100,
  check_interval_seconds: 3600,
  timeout_seconds: 5,
  failure_threshold: 2,
  success_threshold: 2,
  alert_on_failure: true,
  alert_severity: 'info',
  tags: ['t'],
  depends_on: ['other'],
  sla_target_percent: 99.5,
};

test('nor for services and alerts, of which there are then as many as were answered with a 2xx', {
  timeout: 300_000,
}, async () => {
  await api.call('POST', '/api/v1/services/register', { body: { service_name: 'beat', kind: 'heartbeat' } });
  await api.call('POST', '/api/v1/services/register', {
    body: { service_name: 'patched', health_endpoint: 'http://a.test/' },
  });
  const requests = requestOf({
    'POST /api/v1/services/register': { service_name: 'a', ...registration },
    'POST /api/v1/services/import': {
      services: [
        { service_name: 'a', ...registration },
        { service_name: 'b', kind: 'heartbeat' },
      ],
    },
    'PATCH /api/v1/services/patched': { ...registration, paused: true, paused_until: Date.now() + 3_600_000 },
    'POST /api/v1/heartbeat/beat': { status: 'healthy', message: 'm' },
    'POST /api/v1/alerts': {
      name: 'n',
      severity: 'info',
      description: 'd',
      service_name: 's',
      labels: { a: 'b' },
      metadata: { a: [1, { b: null }] },
    },
  });
  const statuses = new Map<number, number>();
  let services = 2;
  let alerts = 0;
  for (const { target, body } of fc.sample(requests, runs)) {
    const [method, path] = target.split(' ') as [string, string];
    const answer = await api.call(method, path, { body });
    statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
    expect(answer.status, `${target} ${body}: ${JSON.stringify(answer.body)}`).toBeLessThan(500);
    if (answer.status >= 400) expect(answer.body.detail).not.toBe('');
    if (path.endsWith('/register') && answer.status === 201) services++;
    if (path.endsWith('/import') && answer.status === 200) services += answer.body.created;
    if (path.endsWith('/alerts') && answer.status === 201) alerts++;
  }
  const [row] = await api.sql<{ services: number; states: number; alerts: number }[]>`
    select (select count(*)::int from obs.service) as services, (select count(*)::int from obs.service_state) as states,
      (select count(*)::int from obs.alert where source = 'api') as alerts`;
  expect(row).toEqual({ services, states: services, alerts });
  expect(statuses.get(400) ?? 0).toBeGreaterThan(runs / 2);
});

test.each([
  ['GET', '/services', ['tag', 'status', 'q', 'limit', 'cursor']],
  ['GET', '/services/patched/results', ['start_time', 'end_time', 'limit', 'cursor']],
  ['GET', '/services/patched/events', ['start_time', 'end_time', 'limit', 'cursor']],
  ['GET', '/health/services', ['history']],
  [
    'GET',
    '/alerts',
    ['status', 'severity', 'service_name', 'start_time', 'end_time', 'q', 'limit', 'cursor'],
  ],
])('nor for parameters of %s %s', async (method, path, names) => {
  for (const value of fc.sample(
    fc.oneof(
      nasty.map((value) => (typeof value === 'string' ? value : (JSON.stringify(value) ?? ''))),
      fc.string({ unit: 'binary' }),
    ),
    60,
  )) {
    for (const name of names) {
      let query: string;
      try {
        query = `${name}=${encodeURIComponent(name === 'cursor' ? Buffer.from(value).toString('base64url') : value)}`;
      } catch {
        // A lone surrogate, which no URL can hold.
        continue;
      }
      const { status, body } = await api.call(method, `/api/v1${path}?${query}`);
      expect([200, 400], `${query}: ${JSON.stringify(body)}`).toContain(status);
    }
  }
});
