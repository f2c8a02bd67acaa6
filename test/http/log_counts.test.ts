// What is counted of logs: histograms, the metric log_lines_total, patterns of messages.
import { expect, test } from 'vitest';
import { useApi } from '../support/api.ts';

const api = useApi();

const line = (service_name: string, more: object = {}) => ({
  service_name,
  level: 'info',
  message: 'm',
  ...more,
});
const post = (logs: object[]) => api.call('POST', '/api/v1/logs', { body: { logs } });
const paths = (body: { errors?: { path: string }[] }) => body.errors?.map((error) => error.path).sort();
const day = 86_400_000;

const minute = Math.floor(Date.now() / 60_000) * 60_000 - 30 * 60_000;
const at = (minutes: number) => new Date(minute + minutes * 60_000).toISOString();
const write = (...lines: [number, string, number][]) =>
  post(
    lines.flatMap(([minutes, level, count]) =>
      Array.from({ length: count }, (_, i) =>
        line('counted', { level, timestamp: minute + minutes * 60_000 + i * 1000 }),
      ),
    ),
  );
const histogram = async (query: string, service = 'counted') =>
  (await api.call('GET', `/api/v1/logs/${service}/histogram?${query}`)).body;
const none = { trace: 0, debug: 0, info: 0, warn: 0, error: 0, fatal: 0 };
const count = async () => {
  while ((await api.sql`select job.count_logs() as n`)[0]!.n > 0);
};

test('the counts of a histogram are right before they were counted and after, for late lines, and twice', async () => {
  const range = `start_time=${at(0)}&end_time=${at(4)}`;
  await write([0, 'info', 3], [0, 'error', 1], [2, 'warn', 60], [3, 'fatal', 1], [4, 'info', 1]);
  await post([line('other counted', { timestamp: minute })]);
  const expected = {
    service_name: 'counted',
    time_window: '1m',
    buckets: [
      { time: at(0), total: 4, levels: { ...none, info: 3, error: 1 } },
      { time: at(1), total: 0, levels: none },
      { time: at(2), total: 60, levels: { ...none, warn: 60 } },
      { time: at(3), total: 1, levels: { ...none, fatal: 1 } },
    ],
  };
  expect(await histogram(`${range}&time_window=1m`)).toEqual(expected);
  for (const _ of [1, 2]) {
    await count();
    expect(await histogram(`${range}&time_window=1m`)).toEqual(expected);
  }
  await write([1, 'info', 2], [3, 'fatal', 1]);
  expected.buckets[1] = { time: at(1), total: 2, levels: { ...none, info: 2 } };
  expected.buckets[3] = { time: at(3), total: 2, levels: { ...none, fatal: 2 } };
  expect(await histogram(`${range}&time_window=1m`)).toEqual(expected);
  await count();
  expect(await histogram(`${range}&time_window=1m`)).toEqual(expected);
  expect(await histogram(`${range}&time_window=1m&level=ERROR`)).toMatchObject({
    buckets: [
      { total: 1, levels: { error: 1, fatal: 0 } },
      { total: 0, levels: { error: 0, fatal: 0 } },
      { total: 0 },
      { total: 2, levels: { error: 0, fatal: 2 } },
    ],
  });
  // Minutes that the range cuts are counted in full.
  const cut = await histogram(`start_time=${minute + 30_000}&end_time=${minute + 150_000}&time_window=1m`);
  expect(cut.buckets.map(({ total }: { total: number }) => total)).toEqual([4, 2, 60]);
});

test('the counts of a histogram are by days of the time zone, the last 24 hours by default', async () => {
  const { time_window, buckets } = await histogram('');
  expect(time_window).toBe('30m');
  const sum = (from: { total: number }[]) => from.reduce((total, each) => total + each.total, 0);
  const { logs } = (await api.call('GET', '/api/v1/logs/counted?limit=1000')).body;
  expect(sum(buckets)).toBe(logs.length);
  const days = await histogram(
    `start_time=${Date.now() - 3 * day}&end_time=${Date.now()}&time_window=1d&timezone=Asia/Kolkata`,
  );
  for (const { time } of days.buckets) expect(time).toMatch(/T18:30:00.000Z$/);
  expect(sum(days.buckets)).toBe(sum(buckets));
  expect((await histogram('', 'never heard of')).buckets).toHaveLength(buckets.length);
});

test.each([
  ['time_window=90s', 'query.time_window'],
  ['time_window=fortnight', 'query.time_window'],
  [`time_window=1m&start_time=${Date.now() - 10 * day}`, 'query.time_window'],
  ['timezone=Mars/Phobos', 'query.timezone'],
  ['level=loud', 'query.level'],
  ['end_time=2020-01-02T00:00:00Z&start_time=2020-01-03T00:00:00Z', 'query.end_time'],
  ['q=words', 'query.q'],
])('a histogram with %s is refused', async (query, path) => {
  const { status, body } = await api.call('GET', `/api/v1/logs/counted/histogram?${query}`);
  expect([status, paths(body)]).toEqual([400, [path]]);
});

test('log_lines_total, a metric of the org, increases by the lines of each level', async () => {
  const posted = { info: 5, error: 17 };
  const send = (level: string, n: number) =>
    post(Array.from({ length: n }, () => line('metered', { level, timestamp: minute - day })));
  await send('info', 2);
  await send('error', 16);
  await count();
  await send('info', 3);
  await send('error', 1);
  await count();
  const { body } = await api.call('POST', '/api/v1/metrics/query', {
    body: {
      metric_name: 'log_lines_total',
      service_name: 'metered',
      start_time: Date.now() - 600_000,
      end_time: Date.now() + 60_000,
      aggregation: 'increase',
      group_by: ['level'],
    },
  });
  expect(
    Object.fromEntries(
      body.series.map(({ labels, points }: { labels: { level: string }; points: { value: number }[] }) => [
        labels.level,
        points.reduce((total, { value }) => total + value, 0),
      ]),
    ),
  ).toEqual(posted);
});

test('* in place of a service is all of them', async () => {
  for (const service of ['star', 'starry'])
    await post([line(service, { message: 'of all', timestamp: minute - 3 * day })]);
  const range = `start_time=${minute - 3 * day}&end_time=${minute - 3 * day + 60_000}`;
  const { logs } = (await api.call('GET', `/api/v1/logs/*?q=all&${range}`)).body;
  expect(logs.map(({ service_name }: { service_name: string }) => service_name).sort()).toEqual([
    'star',
    'starry',
  ]);
  expect((await histogram(range, '*')).buckets[0].total).toBe(2);
  expect((await api.call('GET', `/api/v1/logs/*/patterns?${range}`)).body.patterns).toMatchObject([
    { pattern: 'of all', count: 2 },
  ]);
  const { status, body } = await api.call('GET', `/api/v1/logs/*/${logs[1].id}/context`);
  expect([status, body.line.id, body.after[0].id]).toEqual([200, logs[1].id, logs[0].id]);
});

test.each([
  ['three errors are an alert', 'increase(log_lines_total{service="ruled",level="error"}[5m]) > 2', 1],
  ['four would be', 'increase(log_lines_total{service="ruled",level="error"}[5m]) > 3', 0],
  ['lines that come are no silence', 'increase(log_lines_total{service="ruled"}[5m]) < 1', 0],
])('a rule watches log_lines_total: %s', async (_, expression, alerts) => {
  const before = Date.now();
  if (alerts === 1) {
    await post(Array.from({ length: 3 }, () => line('ruled', { level: 'error' })));
    await count();
  }
  const { status, body } = await api.call('POST', '/api/v1/alert-rules/test', {
    body: {
      ...{ name: 'logs', expression, interval_seconds: 5 },
      ...{ start_time: before - 60_000, end_time: before + 20_000 },
    },
  });
  expect(status).toBe(200);
  expect(body.alerts).toHaveLength(alerts);
});

test('patterns are messages with their ids and numbers folded, the most frequent first', async () => {
  const uuid = (i: number) => `550e8400-e29b-41d4-a716-44665544${1000 + i}`;
  const start = minute - day / 2;
  await post([
    ...[1, 2, 3, 4].map((i) =>
      line('shapes', { message: `user ${i}0 from 10.0.0.${i}:80${i} in ${i}.5ms`, timestamp: start + i }),
    ),
    ...[5, 6].map((i) =>
      line('shapes', { message: `request ${uuid(i)} failed`, level: 'error', timestamp: start + i }),
    ),
    line('shapes', {
      message: `request ${uuid(7).toUpperCase()} failed`,
      level: 'warn',
      timestamp: start + 7,
    }),
    line('shapes', { message: 'commit 0xBEEF to deadbeef01', timestamp: start + 8 }),
    line('shapes', { message: 'commit 0xFEED to 0123abcdef', timestamp: start + 9 }),
    line('shapes', { message: 'deadbeef without number', timestamp: start + 10 }),
    line('other shapes', { message: 'user 1', timestamp: start }),
  ]);
  const time = (i: number) => new Date(start + i).toISOString().replace('Z', '000Z');
  const get = async (query = '') => (await api.call('GET', `/api/v1/logs/shapes/patterns?${query}`)).body;
  const all = await get();
  expect(all).toMatchObject({ lines_examined: 10, complete: true });
  expect(all.patterns).toEqual([
    {
      pattern: 'user <num> from <num> in <num>ms',
      count: 4,
      share: 0.4,
      levels: ['info'],
      first_seen: time(1),
      last_seen: time(4),
      example: 'user 40 from 10.0.0.4:804 in 4.5ms',
    },
    {
      pattern: 'request <uuid> failed',
      count: 3,
      share: 0.3,
      levels: ['warn', 'error'],
      first_seen: time(5),
      last_seen: time(7),
      example: `request ${uuid(7).toUpperCase()} failed`,
    },
    expect.objectContaining({ pattern: 'commit <hex> to <hex>', count: 2 }),
    expect.objectContaining({ pattern: 'deadbeef without number', count: 1 }),
  ]);
  const limited = await get('limit=1&level=warn');
  expect(limited.lines_examined).toBe(3);
  expect(limited.patterns).toMatchObject([{ pattern: 'request <uuid> failed', count: 3, share: 1 }]);
  expect(await get(`q=user&start_time=${start + 2}&end_time=${start + 4}`)).toMatchObject({
    lines_examined: 2,
    examined_from: new Date(start + 2).toISOString(),
    patterns: [{ count: 2 }],
  });
  expect(await get('q=nowhere')).toMatchObject({ patterns: [], lines_examined: 0, complete: true });
});

test('patterns are of the newest 10,000 lines', async () => {
  const start = minute - day / 4;
  for (let i = 0; i < 11; i++)
    await post(
      Array.from({ length: 1000 }, (_, j) =>
        line('many', { message: `Nr. ${j}`, timestamp: start + i * 1000 + j }),
      ),
    );
  const { body } = await api.call('GET', '/api/v1/logs/many/patterns');
  expect(body).toMatchObject({
    lines_examined: 10_000,
    complete: false,
    examined_from: new Date(start + 1000).toISOString(),
    patterns: [{ pattern: 'Nr. <num>', count: 10_000, share: 1 }],
  });
});
