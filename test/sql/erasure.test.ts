// The erasure of an org: nothing of it is left in any table, nothing of another is touched, and the receipt says what went.
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { rollUp } from '../../db/roll_up.ts';
import { parseConfig } from '../../src/config.ts';
import { connect } from '../../src/db.ts';
import { expressionFields } from '../../src/routes/expressions.ts';
import { parseMatcher, parseRule } from '../../src/rules/expression.ts';
import { useDatabase } from '../support/database.ts';
import { jwtSecret } from '../support/process.ts';

const database = useDatabase();
const isCommunity = inject('server').edition === 'community';
const seconds = 1000;
/** For what takes many statements. */
const patient = { timeout: 120_000 };
let worker: postgres.Sql;
let ownTables: string[];
let keptTables: { name: string; relation: string; parent: string; time: string }[];

beforeAll(async () => {
  const { sql } = database;
  const config = parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret });
  worker = connect(config.workerDatabaseUrl, { name: 'test-worker', max: 4 });
  // What the scheduler refreshes or drops in the meantime is no part of this.
  if (isCommunity)
    await sql`select public.alter_job(job_id, scheduled => false) from timescaledb_information.jobs where job_id >= 1000`;
  ownTables = (
    await sql<{ name: string }[]>`
      select c.relname as name
      from pg_class c
      join pg_attribute a on a.attrelid = c.oid and a.attname = 'org_id' and not a.attisdropped
      where c.relnamespace = 'obs'::regnamespace and c.relkind in ('r', 'p') and c.relname <> 'erasure'
      order by 1`
  ).map((row) => row.name);
  keptTables = await sql`
    select c.relname as name, k.relation::text, k.parent, k.time_column as time
    from lib.kept_tables() k join pg_class c on c.oid = k.relation`;
});
afterAll(() => worker?.end());

interface Org {
  id: number;
  name: string;
  series: number[];
  streams: number[];
  service: number;
}

const json = (value: unknown) => JSON.stringify(value);

async function first<T>(query: PromiseLike<readonly unknown[]>): Promise<T> {
  return (await query)[0] as T;
}

/** An org with rows in every table that orgs have rows in. */
async function fill(name: string): Promise<Org> {
  const { sql } = database;
  const { id } = await first<{ id: number }>(sql`select api.ensure_org(${name}) as id`);
  const { series } = await first<{ series: number[] }>(sql`
    select api.ensure_series(${id}, ${json(['a', 'b'].map((metric) => ({ name: metric })))}::text::jsonb) as series`);
  await sql`
    insert into obs.sample (time, series_id, value)
    select at, s, 1 + extract(hour from at)
    from generate_series(now() - interval '16 days', now() - interval '3 days', interval '1 hour') at, unnest(${series}::int[]) s
    union all
    select now() + ahead, s, 7
    from unnest(array[interval '0', interval '20 hours', interval '23 hours 59 minutes']) ahead, unnest(${series}::int[]) s`;

  const { streams } = await first<{ streams: number[] }>(sql`
    select api.ensure_log_streams(${id}, array['web', 'web'], array['info', 'error']) as streams`);
  for (const age of ['5 minutes', '4 days']) await logLine(id, streams[0]!, age);

  const definition = { kind: 'http', health_endpoint: 'http://web.test/' };
  await sql`select api.put_service(${id}, 'web', ${json(definition)}::text::jsonb, 'me')`;
  const { service } = await first<{ service: number }>(
    sql`select s.id as service from obs.service s where s.org_id = ${id}`,
  );
  for (const age of ['1 hour', '9 days']) {
    await sql`insert into obs.probe_result (time, service_id, outcome) values (now() - ${age}::interval, ${service}, 'up')`;
    await sql`
      insert into obs.service_event (time, service_id, event, from_status, to_status, actor)
      values (now() - ${age}::interval, ${service}, 'status', 'unknown', 'healthy', 'worker')`;
  }
  for (const [table, width] of [
    ['probe_1h', '1 hour'],
    ['probe_1d', '1 day'],
  ] as const)
    await sql`
      insert into ${sql(`obs.${table}`)}
      values (time_bucket(${width}::interval, now() - interval '9 days'), ${service}, 1, 0, 0, 30, 0, 5, 5)`;

  const put = (kind: string, fields: object) =>
    sql`select api.put_definition(${id}, ${kind}, null, ${json(fields)}::text::jsonb, 'me')`;
  await put('channel', {
    name: 'hook',
    type: 'webhook',
    config: { url: 'http://receiver.test/' },
    group_wait_seconds: 0,
  });
  await put('alert_rule', {
    name: 'rule',
    severity: 'info',
    ...expressionFields(parseRule('last(a) > 1'), null),
  });
  await put('silence', {
    reason: 'r',
    matchers: [parseMatcher('a="b"')],
    starts_at: new Date(),
    ends_at: new Date(Date.now() + 1e6),
  });
  await put('maintenance_window', {
    name: 'w',
    starts_at: new Date(Date.now() + 1e5),
    ends_at: new Date(Date.now() + 1e6),
  });
  await put('escalation', { name: 'e', steps: [] });
  await put('dashboard', { name: 'd', panels: [] });
  for (const age of ['1 hour', '9 days'])
    await sql`
      insert into obs.system_snapshot (time, org_id, total_services, healthy_services, degraded_services, unhealthy_services, critical_alerts, warning_alerts, info_alerts, started_alerts)
      values (now() - ${age}::interval, ${id}, 1, 1, 0, 0, 0, 0, 0, 0)`;
  await sql`insert into obs.uptime_24h values (${id}, now(), '{1}', '{60}', '{0}')`;
  const alert = () =>
    sql`select * from api.create_alert(${id}, 'down', 'critical', null, null, '{}', '{}', null, 'me')`;
  await alert();
  const group = await first<{ id: string }>(
    sql`select g.id::text from obs.notification_group g where g.org_id = ${id}`,
  );
  const claim = await first<{ notification_id: string; attempt: number }>(sql`
    select notification_id, attempt from job.claim_notification(${group.id}::bigint, null, now() + interval '1 minute')`);
  await sql`select job.finish_attempt(${claim.notification_id}, ${claim.attempt}, true, 200, 1, null, null, false, null, now() + interval '1 minute')`;

  const hash = createHash('sha256').update(name).digest();
  await sql`select api.create_token(${id}, ${json({ name: 't', role: 'admin', prefix: 'obs_' })}::text::jsonb, ${hash}, 'me')`;
  await sql`insert into obs.org_usage (org_id, day, series, log_streams) values (${id}, now()::date, 2, 2), (${id}, now()::date - 300, 1, 1)`;
  await sql`insert into obs.idempotency_key (org_id, key, body_hash, recorded) values (${id}, 'k', ${hash}, 1)`;
  return { id, name, series, streams, service };
}

async function logLine(orgId: number, stream: number, age: string) {
  const { sql } = database;
  await sql`
    insert into obs.log (time, id, log_stream_id, message)
    values (now() - ${age}::interval, (select first_id from api.reserve_log_ids()), ${stream}, 'a line')`;
  await sql`
    select api.announce_logs(jsonb_build_array(jsonb_build_object(
      'org_id', ${orgId}::int, 'log_stream_id', ${stream}::int, 'minute', time_bucket('1 minute', now() - ${age}::interval), 'line_count', 1,
      'byte_count', 6, 'first_id', 1, 'last_id', 1, 'oldest', now() - ${age}::interval, 'newest', now() - ${age}::interval)))`;
}

/** Rolls up and counts what has been recorded; then rows of tiers from long before the oldest sample, and what is dirty or not counted. */
async function settle(orgs: Org[]) {
  const { sql } = database;
  for (const org of orgs)
    await sql`insert into obs.dirty_range (org_id, starts_at, ends_at) values (${org.id}, now() - interval '17 days', now())`;
  await rollUp(sql);
  while ((await first<{ n: number }>(sql`select job.count_logs() as n`)).n > 0);
  if (isCommunity)
    await sql`select public.compress_chunk(c, true) from public.show_chunks('obs.sample', older_than => now() - interval '2 days') c`;
  for (const org of orgs) {
    for (const { relation, name, parent, time } of keptTables) {
      if (parent !== 'series' || name === 'sample') continue;
      const columns = await sql<{ name: string }[]>`
        select quote_ident(attname) as name from pg_attribute
        where attrelid = ${relation}::regclass and attnum > 0 and not attisdropped and attname <> ${time}`;
      const list = columns.map((column) => column.name).join(', ');
      const [row] = await sql.unsafe(
        `with copied as (
          insert into ${relation} (${time}, ${list})
          select ${time} - interval '400 days', ${list} from ${relation} where series_id = any ($1) returning 1
        ) select count(*)::int as n from copied`,
        [org.series],
      );
      expect(row!.n, name).toBeGreaterThan(0);
    }
    await sql`
      insert into obs.dirty_range (org_id, starts_at, ends_at)
      values (${org.id}, now() - interval '5 days', now() - interval '4 days'), (${org.id}, now() - interval '9 days', now() - interval '8 days')`;
    await logLine(org.id, org.streams[0]!, '6 minutes');
  }
}

const parentsOf = (org: Org) =>
  first<{ parents: Record<string, number[]> }>(
    database.sql`select lib.org_parents(${org.id}) as parents`,
  ).then((row) => row.parents);

/** Rows of an org by table; those of hypertables by ids of parents that may be gone. Tables without any are left out. */
async function countRows(org: Org, parents: Record<string, number[]>): Promise<Record<string, number>> {
  const { sql } = database;
  const counts: Record<string, number> = {};
  for (const name of ownTables) {
    const { n } = await first<{ n: number }>(
      sql`select count(*)::int as n from ${sql(`obs.${name}`)} where org_id = ${org.id}`,
    );
    if (n > 0) counts[name] = n;
  }
  for (const { relation, name, parent } of keptTables) {
    const { n } = await first<{ n: number }>(
      sql.unsafe(`select count(*)::int as n from ${relation} where ${parent}_id = any ($1)`, [
        parents[parent]!,
      ]),
    );
    if (n > 0) counts[name] = n;
  }
  return counts;
}

/** Every row of an org, its own included, as one hash by table. */
async function hashRows(org: Org, parents: Record<string, number[]>): Promise<Record<string, string>> {
  const { sql } = database;
  const hashes: Record<string, string> = {};
  const add = async (name: string, from: string, value: unknown) => {
    const { hash } = await first<{ hash: string }>(
      sql.unsafe(
        `select count(*) || ' ' || md5(coalesce(string_agg(t::text, E'\\n' order by t::text), '')) as hash from ${from}`,
        [value as never],
      ),
    );
    hashes[name] = hash;
  };
  await add('org', 'obs.org t where t.id = $1', org.id);
  await add('audit_event', 'obs.audit_event t where t.org = $1', org.name);
  for (const name of ownTables) await add(name, `obs.${name} t where t.org_id = $1`, org.id);
  for (const { relation, name, parent } of keptTables)
    await add(name, `${relation} t where t.${parent}_id = any ($1)`, parents[parent]);
  return hashes;
}

interface Erasure {
  id: string;
  status: string;
  starts_at: string;
  started_at: string | null;
  finished_at: string | null;
  cancelled_at: string | null;
  deleted: Record<string, number>;
}

const request = (org: Org) =>
  first<{ erasure: Erasure }>(
    database.sql`select api.request_erasure(${org.id}, 'me', '{"id": "r1"}') as erasure`,
  ).then((row) => row.erasure);
const receipt = (orgId: number, id: string) =>
  first<{ erasure: Erasure | null }>(database.sql`select api.get_erasure(${orgId}, ${id}) as erasure`).then(
    (row) => row.erasure,
  );
/** The receipt, whether there is an org that may see it or not. */
const stored = (id: string) =>
  first<{ erasure: Erasure }>(
    database.sql`select lib.erasure_fields(e) as erasure from obs.erasure e where e.id = ${id}`,
  ).then((row) => row.erasure);
/** The first whole millisecond at which it may start. */
const begin = ({ starts_at }: Pick<Erasure, 'starts_at'>) => Date.parse(starts_at) + 1;
const eraseNext = (at: number, sql: postgres.Sql = worker) =>
  first<{ org: string | null }>(sql`select job.erase_next(${new Date(at)}) as org`).then((row) => row.org);
/** Until nothing is left to do at that time; how many parts it were. */
async function eraseAll(at: number, sql?: postgres.Sql): Promise<number> {
  for (let parts = 0; ; parts++) if ((await eraseNext(at, sql)) === null) return parts;
}

describe('an org that is erased', () => {
  let gone: Org;
  let other: Org;
  let parents: Record<string, number[]>;
  let otherParents: Record<string, number[]>;
  let otherRows: Record<string, string>;
  let erasure: Erasure;
  let startsAt: number;
  let expected: Record<string, number>;

  beforeAll(async () => {
    gone = await fill('gone');
    other = await fill('other');
    await settle([gone, other]);
    [parents, otherParents] = [await parentsOf(gone), await parentsOf(other)];
    otherRows = await hashRows(other, otherParents);
  });

  test('has had rows in every table that orgs have rows in', async () => {
    expected = await countRows(gone, parents);
    expect(Object.keys(expected).sort()).toEqual(
      [...new Set([...ownTables, ...keptTables.map((table) => table.name)])].sort(),
    );
    expect(Object.keys(otherRows)).toHaveLength(Object.keys(expected).length + 2);
  });

  test('is found by lib.kept_tables in every hypertable that belongs to series, services, log streams or the org itself', async () => {
    const hypertables = await database.sql<{ name: string }[]>`
      select distinct h.table_name::text as name
      from _timescaledb_catalog.hypertable h
      join pg_attribute a on a.attrelid = format('%I.%I', h.schema_name, h.table_name)::regclass and not a.attisdropped
      where h.compression_state <> 2 and (a.attname in ('series_id', 'service_id', 'log_stream_id') or a.attname = 'org_id' and h.table_name <> 'audit_event')`;
    expect(keptTables.map((table) => table.name).sort()).toEqual(hypertables.map(({ name }) => name).sort());
  });

  test('is left as it is until its time has come', async () => {
    const before = await hashRows(gone, parents);
    erasure = await request(gone);
    startsAt = begin(erasure);
    expect(erasure).toMatchObject({ status: 'pending', deleted: {}, started_at: null });
    expect(await eraseNext(startsAt - 2)).toBeNull();
    const { org, audit_event, ...rows } = await hashRows(gone, parents);
    expect(rows).toEqual(
      Object.fromEntries(Object.entries(before).filter(([name]) => name !== 'org' && name !== 'audit_event')),
    );
    // Twice is refused.
    await expect(request(gone)).rejects.toMatchObject({ code: 'PT409', hint: 'org_erasing' });
  });

  test('goes with its first part, but for what hypertables hold', async () => {
    expect(await eraseNext(startsAt)).toBe('gone');
    expect(await database.sql`select from obs.org where id = ${gone.id}`).toHaveLength(0);
    const kept = keptTables.map((table) => table.name);
    expect(Object.keys(await countRows(gone, parents)).sort()).toEqual([...kept].sort());
    expect(await stored(erasure.id)).toMatchObject({
      status: 'erasing',
      deleted: Object.fromEntries(Object.entries(expected).filter(([name]) => !kept.includes(name))),
    });
    // It cannot be called back.
    const { id } = await first<{ id: number }>(database.sql`select api.ensure_org('gone') as id`);
    await expect(database.sql`select api.cancel_erasure(${id}, ${erasure.id}, 'me')`).rejects.toMatchObject({
      code: 'PT409',
      hint: 'erasure_status',
    });
  });

  test(
    'leaves nothing, of what came late either, and is not done before a minute is over',
    patient,
    async () => {
      const { sql } = database;
      const late = async () => {
        await sql`
        insert into obs.sample (time, series_id, value)
        select at, ${gone.series[0]!}, 1
        from unnest(array[now(), now() - interval '12 days', now() + interval '23 hours']) at`;
        await sql`
        insert into obs.log (time, id, log_stream_id, message) values (now(), 1, ${gone.streams[0]!}, 'late')`;
        expected.sample! += 3;
        expected.log! += 1;
      };
      await late();
      // More than a year of tiers, a week at a time.
      expect(await eraseAll(startsAt + 30 * seconds)).toBeGreaterThan(50);
      expect(await countRows(gone, parents)).toEqual({});
      await late();
      expect(await eraseNext(startsAt + 60 * seconds - 1)).toBeNull();
      expect((await stored(erasure.id)).status).toBe('erasing');
      expect(await countRows(gone, parents)).toEqual({ sample: 3, log: 1 });

      expect(await eraseAll(startsAt + 60 * seconds)).toBe(1);
      expect(await countRows(gone, parents)).toEqual({});
      const done = await stored(erasure.id);
      expect([done.status, done.finished_at]).toEqual([
        'done',
        new Date(startsAt + 60 * seconds).toISOString(),
      ]);
      expect(done.deleted).toEqual(expected);
      expect((await sql`select parents from obs.erasure where id = ${erasure.id}`)[0]!.parents).toBeNull();
      expect(await eraseNext(startsAt + 86_400 * seconds)).toBeNull();
      // Nor does rolling up bring anything back.
      await rollUp(sql);
      expect(await countRows(gone, parents)).toEqual({});
    },
  );

  test('takes no row of another along', async () => {
    // Its dirty ranges have been rolled up by now, to what was there.
    const rows = await hashRows(other, otherParents);
    for (const [name, hash] of Object.entries(otherRows))
      if (name !== 'dirty_range') expect.soft([name, rows[name]]).toEqual([name, hash]);
  });

  test('comes again as an empty one that sees the receipt and what was done before', async () => {
    const { sql } = database;
    const { id } = await first<{ id: number }>(sql`select api.ensure_org('gone') as id`);
    expect(id).not.toBe(gone.id);
    const again = { ...gone, id };
    const seen = await receipt(id, erasure.id);
    expect(seen).toMatchObject({ status: 'done', deleted: expected });
    expect(await countRows(again, await parentsOf(again))).toEqual({});
    expect(await sql`select api.list_erasures(${id}, null, null, 10)`).toHaveLength(1);
    const actions = (orgId: number) =>
      sql<{ action: string; request: string | null }[]>`
        select event ->> 'action' as action, event ->> 'request_id' as request
        from api.list_audit(${orgId}, '{}', now() - interval '1 day', now() + interval '1 day', null, null, 100)`;
    const done = await actions(id);
    expect(done).toContainEqual({ action: 'org.erase', request: 'r1' });
    expect(done.map(({ action }) => action)).toContain('channel.create');

    expect(await receipt(other.id, erasure.id)).toBeNull();
    expect(await sql`select api.list_erasures(${other.id}, null, null, 10)`).toHaveLength(0);
    expect((await actions(other.id)).map(({ action }) => action)).not.toContain('org.erase');
  });
});

test('one that is cancelled never starts, and can be asked for again', patient, async () => {
  const org = await fill('kept');
  const parents = await parentsOf(org);
  const before = await hashRows(org, parents);
  const erasure = await request(org);
  const cancel = () =>
    database.sql`select api.cancel_erasure(${org.id}, ${erasure.id}, 'me') as erasure`.then(
      (rows) => rows[0]!.erasure as Erasure,
    );
  expect(await cancel()).toMatchObject({ status: 'cancelled', deleted: {} });
  await expect(cancel()).rejects.toMatchObject({ code: 'PT409', hint: 'erasure_status' });
  expect(await eraseNext(begin(erasure) + 3_600 * seconds)).toBeNull();
  const { audit_event: _, ...rows } = before;
  expect(await hashRows(org, parents)).toMatchObject(rows);
  expect(await receipt(org.id, erasure.id)).toMatchObject({ status: 'cancelled', started_at: null });
  const again = await request(org);
  expect([again.status, again.id === erasure.id]).toEqual(['pending', false]);
  await eraseAll(begin(again));
  await eraseAll(begin(again) + 60 * seconds);
  expect(await countRows(org, parents)).toEqual({});
  expect((await stored(again.id)).status).toBe('done');
});

test('another org cannot cancel it', async () => {
  const [one, two] = [await fill('one'), await fill('two')];
  const { id } = await request(one);
  const [row] = await database.sql`select api.cancel_erasure(${two.id}, ${id}, 'me') as erasure`;
  expect(row!.erasure).toBeNull();
  expect((await receipt(one.id, id))!.status).toBe('pending');
  await database.sql`select api.cancel_erasure(${one.id}, ${id}, 'me')`;
});

test('workers that erase at once do not meet, and finish', patient, async () => {
  const orgs = [await fill('first'), await fill('second'), await fill('third')];
  await settle(orgs);
  const parents = await Promise.all(orgs.map(parentsOf));
  const expected = await Promise.all(orgs.map((org, i) => countRows(org, parents[i]!)));
  const erasures = await Promise.all(orgs.map(request));
  const startsAt = Math.max(...erasures.map(begin));
  for (const at of [startsAt, startsAt + 60 * seconds]) {
    // One that finds all of them taken stops, as a task does.
    await Promise.all(Array.from({ length: 4 }, () => eraseAll(at)));
    await eraseAll(at);
  }
  for (const [i, org] of orgs.entries()) {
    expect(await countRows(org, parents[i]!), org.name).toEqual({});
    expect(await stored(erasures[i]!.id), org.name).toMatchObject({ status: 'done', deleted: expected[i]! });
  }
});

/** Until work, which calls job.erase_next, is done or waits for a lock. */
async function untilDoneOrBlocked(work: Promise<unknown>) {
  let isDone = false;
  const done = () => {
    isDone = true;
  };
  work.then(done, done);
  const isBlocked = async () =>
    (
      await database.sql`
        select from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and query like '%job.erase_next%'`
    ).length > 0;
  while (!isDone && !(await isBlocked())) await sleep(20);
}

test('one that is cancelled while it begins is either cancelled or begun', async () => {
  const org = await fill('torn');
  const { id, starts_at } = await request(org);
  let begun: Promise<string | null> | undefined;
  const cancelled = database.sql
    .begin(async (sql) => {
      // As far as api.cancel_erasure comes before the worker does.
      await sql`select from obs.org where id = ${org.id} for no key update`;
      begun = eraseNext(begin({ starts_at })).catch((error) => error.code);
      await untilDoneOrBlocked(begun);
      await sql`select api.cancel_erasure(${org.id}, ${id}, 'me')`;
      return 'cancelled';
    })
    .catch((error) => error.code);
  expect([
    ['cancelled', null],
    ['PT409', 'torn'],
  ]).toContainEqual([await cancelled, await begun]);
});

test('lines of a flush that ended late are counted for nobody', patient, async () => {
  const { sql } = database;
  const org = await fill('chatty');
  const parents = await parentsOf(org);
  const { id, starts_at } = await request(org);
  const startsAt = begin({ starts_at });
  await eraseAll(startsAt);
  await logLine(org.id, org.streams[0]!, '5 minutes');
  await sql`insert into obs.dirty_range (org_id, starts_at, ends_at) values (${org.id}, now() - interval '5 days', now())`;
  await eraseAll(startsAt + 61 * seconds);
  expect((await stored(id)).status).toBe('done');
  // The worker counts lines when it comes to it.
  while ((await first<{ n: number }>(sql`select job.count_logs() as n`)).n > 0);
  expect(await countRows(org, parents)).toEqual({});
});

test.skipIf(isCommunity)(
  `tiers that are being rolled up meanwhile keep nothing of it${isCommunity ? " (skipped: the Community edition's scheduler does this)" : ''}`,
  patient,
  async () => {
    const { sql } = database;
    const org = await fill('rolling');
    const parents = await parentsOf(org);
    // A day of it is due.
    await sql`update obs.tier set watermark = time_bucket('1 day', now() - interval '5 days') where name = '1h'`;
    await sql`delete from ${sql(keptTables.find((table) => table.name.startsWith('sample_1h'))!.relation)} where bucket >= time_bucket('1 day', now() - interval '5 days')`;
    const startsAt = begin(await request(org));
    let erased: Promise<number> | undefined;
    await sql.begin(async (other) => {
      // It takes longer than all of the erasure.
      await other`select job.refresh_tier('1h')`;
      erased = eraseAll(startsAt).then(() => eraseAll(startsAt + 60 * seconds));
      await untilDoneOrBlocked(erased);
    });
    await erased;
    await eraseAll(startsAt + 120 * seconds);
    expect(await countRows(org, parents)).toEqual({});
  },
);
