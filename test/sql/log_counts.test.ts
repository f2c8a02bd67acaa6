// What becomes of lines once they are there: counts, log_lines_total, retention.
import postgres from 'postgres';
import { afterAll, beforeAll, beforeEach, describe, expect, inject, test } from 'vitest';
import { parseConfig } from '../../src/config.ts';
import { useDatabase } from '../support/database.ts';
import { createRecorder, type Line } from '../support/lines.ts';
import { jwtSecret } from '../support/process.ts';

const database = useDatabase();
const isApache = inject('server').edition === 'apache';
let api: postgres.Sql;
let worker: postgres.Sql;
let recorder: ReturnType<typeof createRecorder>;
let orgId: number;

beforeAll(() => {
  const config = parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret });
  api = postgres(config.apiDatabaseUrl, { max: 2, onnotice: () => {} });
  worker = postgres(config.workerDatabaseUrl, {
    max: 4,
    // Who counts while somebody else does waits for nobody.
    connection: { lock_timeout: 5000 },
    onnotice: () => {},
  });
  recorder = createRecorder(database.url);
});
afterAll(async () => {
  await Promise.all([api?.end(), worker?.end(), recorder?.end()]);
});

const makeOrg = async (name: string) =>
  (await api<{ id: number }[]>`select api.ensure_org(${name}) as id`)[0]!.id;
let orgs = 0;
beforeEach(async () => {
  await countAll();
  orgId = await makeOrg(`org-${++orgs}`);
});

const second = 1e6;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;
const now = Math.floor(Date.now() / 60_000) * minute;
const dateOf = (time: number) => new Date(time / 1000);
const line = (time: number, more: Partial<Line> = {}): Line => ({
  time,
  service: 'auth',
  level: 'info',
  message: `at ${time}`,
  ...more,
});
const lines = (count: number, time: number, more: Partial<Line> = {}) =>
  Array.from({ length: count }, (_, i) => line(time + i, more));

async function count(seconds?: number): Promise<number> {
  const at = seconds === undefined ? null : dateOf(now + seconds * second);
  const [row] = await worker<
    { n: number }[]
  >`select job.count_logs(coalesce(${at}::timestamptz, now())) as n`;
  return row!.n;
}
async function countAll() {
  while ((await count()) > 0);
}

/** Minutes of streams whose lines are not as many as the counts say, those included that are not counted yet. */
const wrongCounts = () => database.sql`
  select log_stream_id, minute, a.n as counted, b.n as there
  from (
    select log_stream_id, minute, sum(n)::int as n
    from (
      select log_stream_id, bucket as minute, line_count as n from obs.log_1m
      union all
      select log_stream_id, minute, line_count from obs.log_arrival where position > (select position from obs.log_counted)
    ) c group by 1, 2
  ) a
  full join (select log_stream_id, date_trunc('minute', time) as minute, count(*)::int as n from obs.log group by 1, 2) b
    using (log_stream_id, minute)
  where a.n is distinct from b.n`;

async function streamOf(org: number, service = 'auth', level = 'info'): Promise<number> {
  const [row] = await api<{ id: number }[]>`
    select (api.ensure_log_streams(${org}, array[${service}], array[${level}]))[1] as id`;
  return row!.id;
}

describe('counting', () => {
  // Of this block on every line that is there was announced.
  beforeAll(async () => {
    await database.sql`truncate obs.log, obs.log_1m, obs.log_arrival`;
    await database.sql`update obs.log_stream set line_count = 0, counted_at = null`;
  });

  const samples = (org: number) => database.sql<
    { service: string; level: string; at: number; value: number }[]
  >`
    select s.service_name as service, s.labels ->> 'level' as level, extract(epoch from m.time - ${dateOf(now)}::timestamptz)::int as at, m.value
    from obs.sample m join obs.series s on s.id = m.series_id
    where s.org_id = ${org} and s.name = 'log_lines_total' order by 1, 2, m.time`;

  test('equals what is there, whatever arrives when, and by however many workers at once', async () => {
    let isOver = false;
    let counted = 0;
    const workers = Array.from({ length: 3 }, async () => {
      for (;;) {
        const isLast = isOver;
        const n = await count();
        counted += n;
        if (isLast && n === 0) return;
      }
    });
    for (let i = 0; i < 60; i++) {
      const services = ['auth', 'web', 'db'];
      await recorder.record(
        orgId,
        Array.from({ length: 1 + Math.floor(Math.random() * 300) }, () =>
          line(now - Math.floor(Math.random() * 3 * hour), {
            service: services[Math.floor(Math.random() * 3)]!,
            level: Math.random() < 0.5 ? 'info' : 'error',
          }),
        ),
      );
      // Also in the midst of it.
      if (i % 10 === 0) expect(await wrongCounts()).toEqual([]);
    }
    isOver = true;
    await Promise.all(workers);
    expect(await wrongCounts()).toEqual([]);
    expect(await count()).toBe(0);
    const [row] = await database.sql<{ arrivals: number; lines: number; counted: number; wrong: number }[]>`
      select (select count(*)::int from obs.log_arrival where org_id = ${orgId}) as arrivals,
        (select count(*)::int from obs.log) as lines, (select sum(line_count)::int from obs.log_1m) as counted,
        (select count(*)::int from obs.log_stream s where s.line_count <> (select count(*) from obs.log l where l.log_stream_id = s.id)) as wrong`;
    expect(row).toEqual({ arrivals: counted, lines: row!.lines, counted: row!.lines, wrong: 0 });
  });

  test('is done by one at a time, and not at all when it is rolled back', async () => {
    await recorder.record(orgId, lines(10, now));
    await worker
      .begin(async (sql) => {
        expect((await sql<{ n: number }[]>`select job.count_logs() as n`)[0]!.n).toBe(1);
        // The other one leaves it to who is at it.
        expect(await count()).toBe(0);
        throw new Error('rolled back');
      })
      .catch((error) => expect(error.message).toBe('rolled back'));
    const [before] =
      await database.sql`select line_count::int as n from obs.log_stream where org_id = ${orgId}`;
    expect(before!.n).toBe(0);
    expect(await wrongCounts()).toEqual([]);
    expect(await count()).toBe(1);
    expect(await wrongCounts()).toEqual([]);
    const [after] =
      await database.sql`select line_count::int as n from obs.log_stream where org_id = ${orgId}`;
    expect(after!.n).toBe(10);
  });

  test('counts no further than it began, and what came meanwhile next time', async () => {
    // More than one call takes: rows of one flush are counted together, though they are more than that.
    const streamId = await streamOf(orgId);
    const flush = (minutes: number) => api`
      select api.announce_logs((
        select jsonb_agg(jsonb_build_object('org_id', ${orgId}::int, 'log_stream_id', ${streamId}::int, 'minute', ${dateOf(now)}::timestamptz - n * interval '1 minute',
          'line_count', 1, 'byte_count', 1, 'first_id', 1, 'last_id', 1, 'oldest', now(), 'newest', now()))
        from generate_series(1, ${minutes}::int) n))`;
    await flush(15_000);
    await flush(15_000);
    await flush(3);
    expect([await count(), await count(), await count()]).toEqual([30_000, 3, 0]);
    const [row] = await database.sql`
      select line_count::int as n, (select sum(line_count)::int from obs.log_1m where log_stream_id = s.id) as counted
      from obs.log_stream s where id = ${streamId}`;
    expect(row).toEqual({ n: 30_003, counted: 30_003 });
    await database.sql`delete from obs.log_1m where log_stream_id = ${streamId}`;
  });

  test('keeps for ten minutes what tails may go back to, and until it is counted whatever its age', async () => {
    const positions = async () =>
      (
        await database.sql<{ position: string }[]>`
          select position from obs.log_arrival where org_id = ${orgId} order by 1`
      ).map(({ position }) => Number(position));
    const ageAll = (minutes: number) =>
      database.sql`update obs.log_arrival set arrived_at = now() - ${minutes} * interval '1 minute' where org_id = ${orgId}`;
    const isGap = async (after: number) =>
      (
        await api<
          { is_gap: boolean }[]
        >`select purged_position > ${after} as is_gap from api.tail_logs(${orgId}, ${after}, '[{}]', 1000)`
      )[0]!.is_gap;
    await recorder.record(orgId, lines(1, now));
    const [first] = await positions();
    await ageAll(60);
    await count();
    expect(await positions()).toEqual([first]);
    await ageAll(9.9);
    await recorder.record(orgId, lines(1, now));
    const [, next] = await positions();
    await count();
    expect(await positions()).toEqual([first, next]);
    expect(await isGap(first! - 1)).toBe(false);
    await database.sql`update obs.log_arrival set arrived_at = now() - interval '10.1 minutes' where position = ${first!}`;
    await count();
    expect(await positions()).toEqual([next]);
    expect(await isGap(first! - 1)).toBe(true);
    expect(await isGap(first!)).toBe(false);
    expect(await wrongCounts()).toEqual([]);
  });

  describe('log_lines_total', () => {
    test('begins with 0, has a sample a call for each stream that lines came for, and never falls', async () => {
      await recorder.record(orgId, [...lines(5, now), ...lines(2, now, { level: 'error' })]);
      await count(0);
      await recorder.record(orgId, [...lines(3, now - 2 * hour), ...lines(1, now, { service: 'web' })]);
      await count(10);
      // None came.
      await count(20);
      expect((await samples(orgId)).map((row) => [row.service, row.level, row.at, row.value])).toEqual([
        ['auth', 'error', -10, 0],
        ['auth', 'error', 0, 2],
        ['auth', 'info', -10, 0],
        ['auth', 'info', 0, 5],
        ['auth', 'info', 10, 8],
        ['web', 'info', 0, 0],
        ['web', 'info', 10, 1],
      ]);
    });

    test('goes on twice a minute for as long as counts are kept where a stream falls silent', async () => {
      await recorder.record(orgId, lines(4, now));
      for (let seconds = 0; seconds <= 180; seconds += 10) await count(seconds);
      for (const days of [1, 89, 91]) await count(days * 86_400);
      expect((await samples(orgId)).map(({ at, value }) => [at, value])).toEqual([
        [-10, 0],
        ...[0, 30, 60, 90, 120, 150, 180, 86_400, 89 * 86_400].map((at) => [at, 4]),
      ]);
      await recorder.record(orgId, lines(1, now));
      await count(92 * 86_400);
      expect((await samples(orgId)).at(-1)).toMatchObject({ at: 92 * 86_400, value: 5 });
    });

    test('has none where an org may have no more series, and others have theirs', async () => {
      const [before, after] = [await makeOrg(`before-${orgs}`), await makeOrg(`after-${orgs}`)];
      await database.sql`update obs.org set series_limit = 0 where id = ${before}`;
      for (const org of [before, orgId, after]) await recorder.record(org, lines(2, now));
      await count(0);
      await count(10);
      expect(await samples(before)).toEqual([]);
      for (const org of [orgId, after])
        expect((await samples(org)).map(({ value }) => value)).toEqual([0, 2]);
      expect(await wrongCounts()).toEqual([]);
      // Its lines were counted all the same.
      await database.sql`update obs.org set series_limit = 10 where id = ${before}`;
      await count(20);
      expect((await samples(before)).map(({ at, value }) => [at, value])).toEqual([
        [10, 0],
        [20, 2],
      ]);
    });
  });
});

describe('retention', () => {
  const histogram = async (org: number, days: number) => {
    const [row] = await api<{ buckets: { total: number }[] }[]>`
      select api.get_log_histogram(${org}, 'auth', 'trace', ${dateOf(now - days * day)}, ${dateOf(now + minute)}, '1 day', 'UTC')::json as buckets`;
    return row!.buckets.reduce((sum, { total }) => sum + total, 0);
  };
  const find = async (org: number) =>
    (
      await api<
        { n: number }[]
      >`select line_count as n from api.search_logs(${org}, '{}', '-infinity', 'infinity', null, null, 100, false, 5)`
    )[0]!.n;
  const stored = async (org: number) =>
    (
      await database.sql<{ lines: number; counted: number }[]>`
      select (select count(*)::int from obs.log where log_stream_id = any (s.ids)) as lines,
        (select coalesce(sum(line_count), 0)::int from obs.log_1m where log_stream_id = any (s.ids)) as counted
      from (select array_agg(id) as ids from obs.log_stream where org_id = ${org}) s`
    )[0];

  test('of an org alone hides lines and counts at once, and the worker deletes both, of this org alone', async () => {
    const other = await makeOrg(`other-${orgs}`);
    for (const org of [orgId, other])
      await recorder.record(
        org,
        [0, 1, 2.5, 4, 5.5].flatMap((days) => lines(3, now - days * day)),
      );
    // Counted or not makes no difference.
    expect(await histogram(orgId, 10)).toBe(15);
    await database.sql`update obs.org set retention = interval '3 days' where id = ${orgId}`;
    const [visible, counts] = [await find(orgId), await histogram(orgId, 10)];
    expect([visible, counts]).toEqual([9, 9]);
    await countAll();
    expect(await histogram(orgId, 10)).toBe(9);
    while ((await worker<{ n: string | null }[]>`select job.delete_expired() as n`)[0]!.n !== null);
    expect(await stored(orgId)).toEqual({ lines: 9, counted: 9 });
    expect(await stored(other)).toEqual({ lines: 15, counted: 15 });
    expect([await find(other), await histogram(other, 10)]).toEqual([15, 15]);
    // A counter does not fall for what is deleted.
    const [stream] =
      await database.sql`select line_count::int as n from obs.log_stream where org_id = ${orgId}`;
    expect(stream!.n).toBe(15);
  });

  test('lists lines and their counts among what an org stores', async () => {
    await recorder.record(orgId, [...lines(7, now), ...lines(2, now - 2 * hour)]);
    await countAll();
    const rows = await api<
      { table_name: string; row_count: number; bytes: number; oldest: Date; newest: Date }[]
    >`
      select table_name, row_count::int, bytes::float8, oldest, newest from api.get_storage(${orgId}) where table_name like 'log%'`;
    expect(rows.map(({ table_name, row_count }) => [table_name, row_count]).sort()).toEqual([
      ['log', 9],
      ['log_1m', 2],
    ]);
    for (const { bytes, oldest } of rows) {
      expect(bytes).toBeGreaterThan(0);
      expect(oldest).toEqual(dateOf(now - 2 * hour));
    }
  });

  test('is what a migration sets: older chunks of lines are dropped, and counts are kept for longer', async () => {
    const { sql } = database;
    await recorder.record(
      orgId,
      [0, 2, 6, 9].flatMap((days) => lines(2, now - days * day)),
    );
    await countAll();
    const limit = async () =>
      (
        await api<
          { days: number }[]
        >`select max_age_seconds / 86400 as days from api.get_ingest_limits(${orgId}, 'log')`
      )[0]!.days;
    expect(await limit()).toBe(7);
    await sql`select obs.set_retention('log', interval '3 days')`;
    expect(await limit()).toBe(3);
    // The Community edition's scheduler does it there.
    if (isApache) await worker`select job.drop_expired()`;
    else
      await sql.unsafe(`do $$ declare id int; begin
        for id in select job_id from timescaledb_information.jobs where proc_name = 'policy_retention' and hypertable_name = 'log' loop
          call public.run_job(id);
        end loop; end $$`);
    expect(await stored(orgId)).toEqual({ lines: 4, counted: 8 });
    expect([await find(orgId), await histogram(orgId, 12)]).toEqual([4, 8]);
    await sql`select obs.set_retention('log', interval '7 days')`;
  });
});
