// The org: its own retention, which hides, refuses and deletes; and what it takes up.
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
      ...['probe_result', 'service_event', 'probe_1h', 'probe_1d', 'log', 'log_1m'],
    ]);
    const of = (name: string) => body.tables.find(({ table }: { table: string }) => table === name);
    expect(of('sample')).toMatchObject({
      rows: 480,
      samples: 480,
      oldest: new Date(today - 20 * day).toISOString(),
      newest: new Date(today - hour).toISOString(),
    });
    // Each hour has one of the two series, each day both.
    expect(of('sample_1h')).toMatchObject({
      samples: 480,
      rows: 480,
      oldest: new Date(today - 20 * day).toISOString(),
    });
    expect(of('sample_hist_1h')).toMatchObject({ samples: 480, rows: 480 });
    // What of a tier is not rolled up yet is not counted: the day that has just ended, shortly after midnight.
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

test('all of it is for admins', async () => {
  for (const role of ['viewer', 'ingest', 'operator']) {
    const token = await signToken({ org_id: 'short', role });
    expect((await api.call('GET', '/api/v1/org', { token })).status).toBe(403);
    expect((await api.call('GET', '/api/v1/org/storage', { token })).status).toBe(403);
    expect((await api.call('PATCH', '/api/v1/org', { token, body: { retention_days: 1 } })).status).toBe(403);
  }
});
