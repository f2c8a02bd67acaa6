// The org: its settings, its own retention, which hides, refuses and deletes; what it takes up, what it used, and what it takes elsewhere.
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, test } from 'vitest';
import { rollUp } from '../../db/roll_up.ts';
import { useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';

const api = useApi();
const hour = 3_600_000;
const day = 24 * hour;
const today = Math.floor(Date.now() / day) * day;

const tables = ['sample', 'sample_5m', 'sample_1h', 'sample_1d', 'sample_hist_1h', 'sample_hist_1d'];

async function record(token: string) {
  const metrics = Array.from({ length: 480 }, (_, i) => ({
    name: 'm',
    value: i % 17,
    timestamp: today - 20 * day + i * hour,
    labels: { host: String(i % 2) },
  }));
  expect((await api.call('POST', '/api/v1/metrics/batch', { token, body: { metrics } })).status).toBe(201);
}

async function count(token: string, aggregation = 'count', time_window?: string) {
  const { body } = await api.call('POST', '/api/v1/metrics/query', {
    token,
    body: { metric_name: 'm', start_time: today - 25 * day, end_time: today, aggregation, time_window },
  });
  return body.series.flatMap((series: { points: { value: number }[] }) =>
    series.points.map((point) => point.value),
  );
}

/** As the worker does; the number of rows. */
async function deleteExpired(): Promise<number> {
  for (let deleted = 0; ; ) {
    const [step] = await api.sql<{ n: string | null }[]>`select job.delete_expired() as n`;
    if (step!.n === null) return deleted;
    deleted += Number(step!.n);
  }
}

let short: string;
let long: string;
beforeAll(async () => {
  short = await signToken({ org_id: 'short' });
  long = await signToken({ org_id: 'long' });
  await record(short);
  await record(long);
  await rollUp(api.sql);
});

test('an org knows itself', async () => {
  const { body } = await api.call('GET', '/api/v1/org', { token: short });
  expect(body).toMatchObject({
    org_id: 'short',
    retention_days: null,
    series_count: 2,
    series_limit: 100_000,
    log_stream_count: 0,
    log_stream_limit: 10_000,
  });
});

describe('storage', () => {
  test('rows, samples and times of each table are the org’s own', async () => {
    const { body } = await api.call('GET', '/api/v1/org/storage', { token: short });
    expect(body.tables.map(({ table }: { table: string }) => table)).toEqual([
      ...tables,
      ...['probe_result', 'service_event', 'probe_1h', 'probe_1d', 'log', 'log_1m', 'system_snapshot'],
    ]);
    const of = (name: string) => body.tables.find(({ table }: { table: string }) => table === name);
    expect(of('sample')).toMatchObject({
      rows: 480,
      samples: 480,
      oldest: new Date(today - 20 * day).toISOString(),
      newest: new Date(today - hour).toISOString(),
    });
    // Each hour has one of the two series, each day both. What of a tier is not rolled up yet is not counted: shortly
    // after midnight the hour, and the day, that have just ended.
    const hours = of('sample_1h').rows === 479 && Date.now() - today < hour ? 479 : 480;
    expect(of('sample_1h')).toMatchObject({
      samples: hours,
      rows: hours,
      oldest: new Date(today - 20 * day).toISOString(),
    });
    expect(of('sample_hist_1h')).toMatchObject({ samples: hours, rows: hours });
    expect([of('sample_1d').rows, of('sample_1d').samples]).toEqual(
      of('sample_1d').rows === 40 ? [40, 480] : [38, 456],
    );
    // It has no services.
    for (const { table, bytes } of body.tables) expect(bytes > 0, table).toBe(tables.includes(table));
    expect(of('sample').bytes_per_sample).toBeCloseTo(of('sample').bytes / 480, 9);
    expect(body.bytes).toBe(
      body.tables.reduce((sum: number, { bytes }: { bytes: number }) => sum + bytes, 0),
    );
  });

  test('two orgs of the same size share a table by halves', async () => {
    await api.sql`analyze`;
    const [{ size }] = await api.sql<[{ size: string }]>`select hypertable_size('obs.sample') as size`;
    for (const token of [short, long]) {
      const { body } = await api.call('GET', '/api/v1/org/storage', { token });
      expect(body.tables[0].bytes / (Number(size) / 2)).toBeCloseTo(1, 1);
    }
  });

  test('of nothing is nothing', async () => {
    const { body } = await api.call('GET', '/api/v1/org/storage', {
      token: await signToken({ org_id: 'empty' }),
    });
    expect(body.bytes).toBe(0);
    expect(body.tables[0]).toEqual({
      table: 'sample',
      rows: 0,
      bytes: 0,
      samples: 0,
      bytes_per_sample: null,
      oldest: null,
      newest: null,
    });
  });
});

describe('a retention of its own', () => {
  const visible = 5 * 24;

  test('hides what is older at once, for that org alone', async () => {
    const answer = await api.call('PATCH', '/api/v1/org', { token: short, body: { retention_days: 5 } });
    expect([answer.status, answer.body.retention_days]).toEqual([200, 5]);
    for (const window of [undefined, '1m', '1h', '1d'])
      expect((await count(short, 'count', window)).reduce((sum: number, n: number) => sum + n, 0)).toBe(
        visible,
      );
    expect((await count(short, 'p99', '6h')).length).toBe(20);
    const { body } = await api.call(
      'GET',
      `/api/v1/metrics/m/analytics?start_time=${today - 25 * day}&end_time=${today}`,
      { token: short },
    );
    expect(body.count).toBe(visible);
    expect(await count(long)).toEqual([480]);
    // A range that lies before all of it.
    const before = await api.call('POST', '/api/v1/metrics/query', {
      token: short,
      body: {
        metric_name: 'm',
        start_time: today - 20 * day,
        end_time: today - 10 * day,
        fill: 'zero',
        time_window: '1d',
      },
    });
    expect([before.status, before.body.series]).toEqual([200, []]);
  });

  test('refuses what is older when it arrives, and names the field', async () => {
    // A process that has read the org's retention before goes by it for up to a minute.
    const body = { name: 'm', value: 1, timestamp: today - 7 * day };
    const fresh = await signToken({ org_id: 'fresh' });
    await api.call('PATCH', '/api/v1/org', { token: fresh, body: { retention_days: 5 } });
    const answer = await api.call('POST', '/api/v1/metrics', { token: fresh, body });
    expect([answer.status, answer.body.errors[0].path]).toEqual([400, 'timestamp']);
    const inTime = { ...body, timestamp: today - 4 * day };
    expect((await api.call('POST', '/api/v1/metrics', { token: fresh, body: inTime })).status).toBe(201);
  });

  test('deletes what is older from every table, and nothing of others', async () => {
    const counts = async () => {
      const rows = await api.sql.unsafe(
        tables
          .map(
            (table) =>
              `select '${table}' as name, o.external_id as org, count(*)::int as n, min(t.${table === 'sample' ? 'time' : 'bucket'}) as oldest
               from obs.${table} t join obs.series s on s.id = t.series_id join obs.org o on o.id = s.org_id
               where o.external_id in ('short', 'long') group by 1, 2`,
          )
          .join(' union all '),
      );
      return new Map(rows.map((row) => [`${row.org} ${row.name}`, row]));
    };
    const before = await counts();
    expect(await deleteExpired()).toBeGreaterThanOrEqual(4 * 15 * 24 + 2 * 15 * 2 - 4);
    const after = await counts();
    for (const table of tables) {
      expect(after.get(`long ${table}`)!.n, table).toBe(before.get(`long ${table}`)!.n);
      expect(after.get(`short ${table}`)!.oldest.getTime(), table).toBeGreaterThanOrEqual(today - 5 * day);
    }
    expect(after.get('short sample')!.n).toBe(visible);
    // Nothing is left to do, and a refresh brings nothing back.
    expect(await deleteExpired()).toBe(0);
    await rollUp(api.sql);
    expect((await counts()).get('short sample_1h')!.n).toBe(after.get('short sample_1h')!.n);
    expect(await count(short)).toEqual([visible]);
  });

  test('can be taken back; what was deleted stays deleted', async () => {
    await api.call('PATCH', '/api/v1/org', { token: short, body: { retention_days: null } });
    expect((await api.call('GET', '/api/v1/org', { token: short })).body.retention_days).toBeNull();
    expect(await count(short)).toEqual([visible]);
  });

  test('deletes very many samples, in the columnstore where there is one', async () => {
    const token = await signToken({ org_id: 'bulky' });
    await api.call('POST', '/api/v1/metrics', { token, body: { name: 'm', value: 1 } });
    const n = 150_000;
    const series = api.sql`select s.id from obs.series s join obs.org o on o.id = s.org_id where o.external_id = 'bulky'`;
    await api.sql`
      insert into obs.sample
      select ${new Date(today - 12 * day)}::timestamptz + i * interval '1 second', (${series}), i from generate_series(1, ${n}::int) i`;
    const [{ license }] = await api.sql<
      [{ license: string }]
    >`select current_setting('timescaledb.license') as license`;
    if (license === 'timescale')
      await api.sql`select compress_chunk(c, true) from show_chunks('obs.sample', older_than => now() - interval '2 days') c`;
    await api.call('PATCH', '/api/v1/org', { token, body: { retention_days: 2 } });
    expect(await deleteExpired()).toBe(n);
    expect(await api.sql`select from obs.sample where series_id = (${series})`).toHaveLength(1);
  });

  test('hides and deletes what is known of services too', async () => {
    const token = await signToken({ org_id: 'probed' });
    const body = { service_name: 'old', kind: 'heartbeat' };
    await api.call('POST', '/api/v1/services/register', { token, body });
    const [service] = await api.sql<{ id: number }[]>`
      select s.id from obs.service s join obs.org o on o.id = s.org_id where o.external_id = 'probed'`;
    for (const days of [0, 1, 5, 10, 20]) {
      const time = new Date(Date.now() - days * day);
      await api.sql`insert into obs.probe_result (time, service_id, outcome) values (${time}, ${service!.id}, 'up')`;
      await api.sql`
        insert into obs.service_event (time, service_id, event, from_status, to_status, actor)
        values (${time}, ${service!.id}, 'status', 'unknown', 'healthy', 'worker')`;
      for (const [table, width] of [
        ['probe_1h', '1 hour'],
        ['probe_1d', '1 day'],
      ] as const)
        await api.sql`
          insert into ${api.sql(`obs.${table}`)}
          values (time_bucket(${width}::interval, ${time}::timestamptz), ${service!.id}, 1, 0, 0, 30, 0, 5, 5)`;
    }
    await api.call('POST', '/api/v1/logs', {
      token,
      body: {
        logs: [0, 1, 2, 4, 5].map((days) => ({
          service_name: 'old',
          level: 'info',
          message: 'x',
          timestamp: Date.now() - days * day,
        })),
      },
    });
    await api.sql`select job.count_logs()`;
    const shown = async () => {
      const list = async (what: string) =>
        (await api.call('GET', `/api/v1/services/old/${what}`, { token })).body[what].length;
      const { uptime } = (await api.call('GET', '/api/v1/services/old', { token })).body;
      const { logs } = (await api.call('GET', '/api/v1/logs/old', { token })).body;
      return [
        await list('results'),
        await list('events'),
        uptime['7d'].checks,
        uptime['90d'].checks,
        logs.length,
      ];
    };
    expect(await shown()).toEqual([5, 5, 3, 5, 5]);
    await api.call('PATCH', '/api/v1/org', { token, body: { retention_days: 3 } });
    expect(await shown()).toEqual([2, 2, 2, 2, 3]);
    expect(await deleteExpired()).toBe(16);
    expect(await shown()).toEqual([2, 2, 2, 2, 3]);
    const { tables: stored } = (await api.call('GET', '/api/v1/org/storage', { token })).body;
    const rows = Object.fromEntries(
      stored.map(({ table, rows }: { table: string; rows: number }) => [table, rows]),
    );
    expect(rows).toMatchObject({
      ...{ probe_result: 2, service_event: 2, probe_1h: 2, probe_1d: 2 },
      ...{ log: 3, log_1m: 3 },
    });
  });

  test.each([
    [{ retention_days: 0 }, 'retention_days'],
    [{ retention_days: 1.5 }, 'retention_days'],
    [{ retention_days: '7' }, 'retention_days'],
    [{ retention_days: 36_501 }, 'retention_days'],
    [{ retention_days: true }, 'retention_days'],
    [{ retention_days: 5, name: 'x' }, 'name'],
    [[], ''],
  ])('of %j is refused', async (body, path) => {
    const answer = await api.call('PATCH', '/api/v1/org', { token: short, body });
    expect([answer.status, answer.body.errors[0].path]).toEqual([400, path]);
  });
});

describe('settings', () => {
  const patch = (token: string, body: unknown) => api.call('PATCH', '/api/v1/org', { token, body });

  test('nothing changes nothing', async () => {
    const token = await signToken({ org_id: 'idle' });
    const { body: before } = await api.call('GET', '/api/v1/org', { token });
    expect(before.limits).toEqual(before.max_limits);
    expect(await patch(token, {})).toMatchObject({ status: 200, body: before });
  });

  test('a time zone is what days begin by where a query names none', async () => {
    const token = await signToken({ org_id: 'berlin' });
    await record(token);
    const days = async (timezone?: string) => {
      const { body } = await api.call('POST', '/api/v1/metrics/query', {
        token,
        body: {
          metric_name: 'm',
          start_time: today - 10 * day,
          end_time: today - 8 * day,
          time_window: '1d',
          timezone,
        },
      });
      return body.series[0].points.map(({ time }: { time: string }) => time);
    };
    const inUtc = await days();
    const inKolkata = await days('Asia/Kolkata');
    expect(inKolkata).not.toEqual(inUtc);
    expect((await patch(token, { timezone: 'Asia/Kolkata' })).body.timezone).toBe('Asia/Kolkata');
    expect(await days()).toEqual(inKolkata);
    expect(await days('UTC')).toEqual(inUtc);
    expect((await patch(token, { timezone: null })).body.timezone).toBe('UTC');
    expect(await days()).toEqual(inUtc);
  });

  test('limits are lowered, each by itself, and null goes back to what the deployment allows', async () => {
    const token = await signToken({ org_id: 'modest' });
    const { body: before } = await api.call('GET', '/api/v1/org', { token });
    await patch(token, { limits: { series: 2, query_per_second: 5 } });
    const { body } = await patch(token, { limits: { services: 0 } });
    expect(body.limits).toEqual({ ...before.limits, series: 2, query_per_second: 5, services: 0 });
    expect(body.max_limits).toEqual(before.max_limits);
    expect(body.series_limit).toBe(2);
    const after = await patch(token, { limits: { series: null, query_per_second: null, services: null } });
    expect(after.body.limits).toEqual(before.limits);
  });

  test('limits are kept: series, services, requests a second', async () => {
    const token = await signToken({ org_id: 'held' });
    expect((await patch(token, { limits: { series: 4, services: 1, query_per_second: 5 } })).status).toBe(
      200,
    );
    const register = (service_name: string) =>
      api.call('POST', '/api/v1/services/register', { token, body: { service_name, kind: 'heartbeat' } });
    expect((await register('one')).status).toBe(201);
    expect((await register('two')).body).toMatchObject({ status: 422, code: 'service_limit' });
    expect((await register('one')).status).toBe(200);
    // A service has two series.
    const write = (host: string) =>
      api.call('POST', '/api/v1/metrics', { token, body: { name: 'm', value: 1, labels: { host } } });
    expect([(await write('a')).status, (await write('b')).status]).toEqual([201, 201]);
    expect((await write('c')).body).toMatchObject({ status: 422, code: 'cardinality_limit' });
    expect((await write('a')).status).toBe(201);
    // Never more than two windows of a second.
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => api.call('GET', '/api/v1/metrics', { token })),
    );
    const refused = answers.filter(({ status }) => status === 429);
    expect(refused.length).toBeGreaterThanOrEqual(10);
    expect(refused[0]!.headers.get('RateLimit-Limit')).toBe('5');
    // What it records is of another class.
    expect((await write('a')).status).toBe(201);
  });

  test('limits are of their org alone', async () => {
    expect((await patch(await signToken({ org_id: 'held' }), {})).body.limits.series).toBe(4);
    const { body } = await api.call('GET', '/api/v1/org', { token: await signToken({ org_id: 'other' }) });
    expect(body.limits).toEqual(body.max_limits);
  });

  const wrong: [string, unknown, string][] = [
    ['a time zone that is none', { timezone: 'Mars/Olympus' }, 'timezone'],
    ['an offset for a time zone', { timezone: '+02:00' }, 'timezone'],
    ['a limit above what the deployment allows', { limits: { series: 100_001 } }, 'limits.series'],
    ['a rate above that', { limits: { ingest_per_second: 1_000_000_000 } }, 'limits.ingest_per_second'],
    ['no request a second', { limits: { query_per_second: 0 } }, 'limits.query_per_second'],
    ['half a service', { limits: { services: 0.5 } }, 'limits.services'],
    ['fewer than none', { limits: { log_streams: -1 } }, 'limits.log_streams'],
    ['text for a limit', { limits: { series: '5' } }, 'limits.series'],
    ['a limit that there is not', { limits: { dashboards: 5 } }, 'limits.dashboards'],
    ['limits that are none', { limits: 5 }, 'limits'],
    ['a field that there is not', { plan: 'gold' }, 'plan'],
  ];
  test.each(wrong)('%s is refused, and nothing of it is done', async (_, body, field) => {
    const token = await signToken({ org_id: 'strict' });
    const { body: before } = await api.call('GET', '/api/v1/org', { token });
    const answer = await patch(token, { retention_days: 7, timezone: 'Europe/Oslo', ...(body as object) });
    expect([answer.status, answer.body.errors[0].path]).toEqual([400, field]);
    expect((await api.call('GET', '/api/v1/org', { token })).body).toEqual(before);
  });
});

describe('usage', () => {
  const usage = async (token: string, query = '') =>
    (await api.call('GET', `/api/v1/org/usage${query}`, { token })).body.days;

  test('counts requests, what they recorded and what was refused, by day', async () => {
    const token = await signToken({ org_id: 'counted' });
    const call = (method: string, path: string, body?: object) =>
      api.call(method, `/api/v1${path}`, { token, ...(body ? { body } : {}) });
    await call('POST', '/metrics', { name: 'm', value: 1 });
    const metrics = Array.from({ length: 10 }, (_, i) => ({
      name: 'm',
      value: i,
      labels: { i: String(i % 3) },
    }));
    const headers = { 'Idempotency-Key': 'once' };
    await api.call('POST', '/api/v1/metrics/batch', { token, headers, body: { metrics } });
    // What was recorded before is not recorded again.
    await api.call('POST', '/api/v1/metrics/batch', { token, headers, body: { metrics } });
    await call('POST', '/logs', { logs: [{ service_name: 'web', level: 'info', message: 'hello' }] });
    // Refused: a field, not a limit.
    await call('POST', '/metrics', { name: 'm' });
    // Once each, since how often it is asked for counts too.
    await sleep(6_000);
    const [line, ...others] = await usage(token);
    expect(others).toEqual([]);
    expect(line).toEqual({
      day: new Date().toISOString().slice(0, 10),
      requests: 5,
      refused: 0,
      samples: 11,
      log_lines: 1,
      series: 4,
      log_streams: 1,
    });
  });

  test('counts what a limit refused', async () => {
    // By the tests above.
    const token = await signToken({ org_id: 'held' });
    await expect
      .poll(async () => (await usage(token))[0]?.refused, { timeout: 10_000 })
      .toBeGreaterThanOrEqual(10);
  });

  test('is of the org alone, and of the days that are asked for', async () => {
    const token = await signToken({ org_id: 'counted' });
    expect(await usage(await signToken({ org_id: 'uncounted' }))).toEqual([]);
    const from = (days: number) => new Date(today + days * day).toISOString();
    expect(await usage(token, `?start_time=${from(-5)}&end_time=${from(0)}`)).toEqual([]);
    expect(await usage(token, `?start_time=${from(0)}&end_time=${from(1)}`)).toHaveLength(1);
    for (const [query, field] of [
      [`?start_time=${from(0)}&end_time=${from(-1)}`, 'query.end_time'],
      [`?start_time=${from(-400)}`, 'query.start_time'],
      ['?start_time=yesterday', 'query.start_time'],
      ['?day=1', 'query.day'],
    ]) {
      const { status, body } = await api.call('GET', `/api/v1/org/usage${query}`, { token });
      expect([status, body.errors[0].path]).toEqual([400, field]);
    }
  });
});

describe('an export', () => {
  const secret = 'hunter2hunter2';
  const definitions = {
    services: {
      service_name: 'shop',
      health_endpoint: 'http://shop.test/health',
      headers: { Authorization: 'Basic abc' },
      tags: ['web'],
      check_interval_seconds: 60,
    },
    alert_rules: {
      name: 'busy',
      expression: 'avg by (host) (cpu_usage{env="prod"}) > 90',
      severity: 'critical',
      labels: { team: 'web' },
      annotations: { summary: 'It is at {{ $value }}' },
    },
    channels: {
      name: 'hook',
      type: 'webhook',
      config: { url: 'http://hooks.test/x', secret, headers: { 'X-Token': secret } },
    },
    silences: {
      reason: 'move',
      matchers: ['host="a"'],
      ends_at: new Date(Date.now() + day).toISOString(),
    },
    maintenance_windows: {
      name: 'nightly',
      matchers: ['host="a"'],
      starts_at: new Date(today + 3 * hour).toISOString(),
      ends_at: new Date(today + 4 * hour).toISOString(),
      repeats: 'daily',
      timezone: 'Europe/Berlin',
    },
    escalations: { name: 'louder', steps: [{ after_minutes: 10, severity: 'critical' }] },
    dashboards: {
      name: 'ours',
      panels: [{ type: 'metric', title: 'CPU', width: 2, metric_name: 'cpu_usage', aggregation: 'max' }],
    },
  } as const;
  const paths = {
    services: '/services/register',
    alert_rules: '/alert-rules',
    channels: '/channels',
    silences: '/silences',
    maintenance_windows: '/maintenance-windows',
    escalations: '/escalations',
    dashboards: '/dashboards',
  } as const;
  const exported = async (token: string) => (await api.call('GET', '/api/v1/org/export', { token })).body;

  test('has everything that was defined, as it was given, and no secret but those of services', async () => {
    const token = await signToken({ org_id: 'here' });
    for (const [kind, path] of Object.entries(paths)) {
      const body = definitions[kind as keyof typeof definitions];
      const answer = await api.call('POST', `/api/v1${path}`, { token, body });
      expect(answer.status, `${path}: ${JSON.stringify(answer.body)}`).toBe(201);
    }
    await api.call('PATCH', '/api/v1/org', { token, body: { timezone: 'Europe/Oslo', retention_days: 30 } });
    const { token: machine } = (
      await api.call('POST', '/api/v1/tokens', { token, body: { name: 'machine', role: 'viewer' } })
    ).body;
    const all = await exported(token);
    const { config: _, ...channel } = definitions.channels;
    expect(all).toMatchObject({
      org_id: 'here',
      settings: { timezone: 'Europe/Oslo', retention_days: 30 },
      services: [definitions.services],
      alert_rules: [definitions.alert_rules],
      channels: [channel],
      silences: [definitions.silences],
      maintenance_windows: [definitions.maintenance_windows],
      escalations: [definitions.escalations],
      dashboards: [definitions.dashboards],
      tokens: [{ name: 'machine', role: 'viewer' }],
    });
    expect(JSON.stringify(all)).not.toContain(secret);
    expect(JSON.stringify(all)).not.toContain(machine);
  });

  test('can be imported elsewhere: services at once, the others one by one', async () => {
    const here = await exported(await signToken({ org_id: 'here' }));
    const token = await signToken({ org_id: 'there' });
    const imported = await api.call('POST', '/api/v1/services/import', {
      token,
      body: { services: here.services },
    });
    expect(imported.body).toMatchObject({ created: 1 });
    // An escalation may name channels by their ids, which are others here; what is secret has to be given anew.
    for (const kind of ['alert_rules', 'channels', 'silences', 'maintenance_windows', 'escalations'] as const)
      for (const { id, ...given } of here[kind]) {
        const body = JSON.parse(JSON.stringify(given).replaceAll('••••', secret));
        const answer = await api.call('POST', `/api/v1${paths[kind]}`, { token, body });
        expect(answer.status, `${kind}: ${JSON.stringify(answer.body)}`).toBe(201);
        expect(answer.body.id).not.toBe(id);
      }
    const there = await exported(token);
    expect(there.services).toEqual(here.services);
    expect(there.alert_rules).toEqual([{ ...here.alert_rules[0], id: expect.any(String) }]);
    expect(await exported(await signToken({ org_id: 'here' }))).toEqual({
      ...here,
      exported_at: expect.any(String),
    });
  });
});

test('all of it is for admins', async () => {
  for (const role of ['viewer', 'ingest', 'operator']) {
    const token = await signToken({ org_id: 'short', role });
    expect((await api.call('GET', '/api/v1/org', { token })).status).toBe(403);
    expect((await api.call('GET', '/api/v1/org/storage', { token })).status).toBe(403);
    expect((await api.call('PATCH', '/api/v1/org', { token, body: { retention_days: 1 } })).status).toBe(403);
  }
});
