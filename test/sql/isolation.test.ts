// What the database itself enforces, whatever the API does: roles that can execute and not read, one org a call.
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseConfig } from '../../src/config.ts';
import { useDatabase } from '../support/database.ts';
import { jwtSecret } from '../support/process.ts';

const database = useDatabase();
let api: postgres.Sql;
let worker: postgres.Sql;
let mine: number;
let theirs: number;

beforeAll(async () => {
  const config = parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret });
  api = postgres(config.apiDatabaseUrl, { max: 2, onnotice: () => {} });
  worker = postgres(config.workerDatabaseUrl, { max: 2, onnotice: () => {} });
  [mine, theirs] = (await Promise.all(
    ['mine', 'theirs'].map(
      async (org) => (await api<{ id: number }[]>`select api.ensure_org(${org}) as id`)[0]!.id,
    ),
  )) as [number, number];
  for (const [orgId, name] of [
    [mine, 'mine'],
    [theirs, 'theirs'],
  ] as const) {
    const series = JSON.stringify([{ name, labels: { of: name } }]);
    const [row] = await api<
      { ids: number[] }[]
    >`select api.ensure_series(${orgId}, ${series}::text::jsonb) as ids`;
    await api`insert into obs.sample (time, series_id, value) values (now(), ${row!.ids[0]!}, 1)`;
  }
});
afterAll(async () => {
  await Promise.all([api?.end(), worker?.end()]);
});

const names = async (sql: postgres.ISql, orgId: number) =>
  (await sql<{ name: string }[]>`select name from api.list_metrics(${orgId}, null, null, null, 100)`).map(
    (row) => row.name,
  );

test('the login roles are neither superusers nor owners, and do not bypass row security', async () => {
  const roles = await database.sql`
    select rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb,
      (select count(*)::int from pg_class where relowner = r.oid and relnamespace = 'obs'::regnamespace) as owned
    from pg_roles r where rolname ~ '^obs_(api|worker|queue|api_definer|job_definer)$'`;
  expect(roles).toHaveLength(5);
  for (const role of roles) {
    expect(role).toMatchObject({
      rolsuper: false,
      rolbypassrls: false,
      rolcreaterole: false,
      rolcreatedb: false,
      owned: 0,
    });
  }
});

test('every table of obs either has row security or is a hypertable without an org column, or holds no tenant data', async () => {
  const tables = await database.sql<
    { name: string; secured: boolean; hypertable: boolean; has_org: boolean }[]
  >`
    select c.relname as name, c.relrowsecurity as secured,
      exists (select from timescaledb_information.hypertables h where h.hypertable_schema = 'obs' and h.hypertable_name = c.relname) as hypertable,
      exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'org_id' and not a.attisdropped) as has_org
    from pg_class c where c.relnamespace = 'obs'::regnamespace and c.relkind = 'r'`;
  for (const table of tables) {
    if (table.hypertable && !['audit_event', 'system_snapshot'].includes(table.name))
      expect(table.has_org, table.name).toBe(false);
    else if (!['retention', 'tier', 'log_counted'].includes(table.name))
      expect(table.secured, table.name).toBe(true);
  }
  expect(tables.map((table) => table.name)).toEqual(
    expect.arrayContaining(['org', 'series', 'sample', 'idempotency_key', 'retention']),
  );
});

describe('the API role', () => {
  test.each([
    'obs.org',
    'obs.series',
    'obs.sample',
    'obs.idempotency_key',
    'obs.retention',
    'obs.alert_rule',
    'obs.channel',
    'obs.notification',
    'obs.log',
    'obs.log_1m',
    'obs.log_stream',
    'obs.log_arrival',
    'obs.log_counted',
  ])('cannot read %s', async (table) => {
    await expect(api.unsafe(`select * from ${table}`)).rejects.toMatchObject({ code: '42501' });
  });

  test.each([
    'update obs.sample set value = 0',
    'delete from obs.sample',
    'delete from obs.log',
    "update obs.log set message = ''",
    'insert into obs.log_arrival select',
    "select setval('obs.log_line_id', 1)",
    "select nextval('obs.log_position')",
    'select job.count_logs()',
    'truncate obs.sample',
    'drop table obs.sample',
    "insert into obs.org (external_id) values ('x')",
    'select job.purge_idempotency_keys()',
    "select lib.ensure_series(1, '[]')",
    'select * from graphile_worker.jobs',
    'set role obs_api_definer',
    'set role postgres',
    'create table public.x (y int)',
    'create function api.f() returns int language sql as $$ select 1 $$',
  ])('cannot: %s', async (statement) => {
    await expect(api.unsafe(statement)).rejects.toMatchObject({ code: '42501' });
  });

  test('sees in each call the org that it names, and no other', async () => {
    expect(await names(api, mine)).toEqual(['mine']);
    expect(await names(api, theirs)).toEqual(['theirs']);
    expect(await names(api, 999_999)).toEqual([]);
  });

  test('gets nothing by setting the org beforehand, nor through what an earlier call left', async () => {
    await api.begin(async (sql) => {
      await sql`select set_config('obs.org_id', ${String(theirs)}, false)`;
      expect(await names(sql, mine)).toEqual(['mine']);
      await sql`select set_config('obs.org_external_id', 'theirs', false)`;
      expect(await names(sql, mine)).toEqual(['mine']);
    });
  });

  test('makes no series in an org that does not exist', async () => {
    await expect(api`select api.ensure_series(999999, '[{"name":"x"}]')`).rejects.toMatchObject({
      code: '23503',
    });
  });
});

describe('the worker role', () => {
  test.each([
    'select * from obs.series',
    'select * from obs.channel',
    'select * from obs.log',
    'select * from obs.log_stream',
    'select * from obs.log_arrival',
    "insert into obs.log (time, id, log_stream_id, message) values (now(), 1, 1, 'x')",
    'select * from api.reserve_log_ids()',
    'select * from graphile_worker.jobs',
    "select api.ensure_org('x')",
    'delete from obs.org',
    'set role obs_job_definer',
  ])('cannot: %s', async (statement) => {
    await expect(worker.unsafe(statement)).rejects.toMatchObject({ code: '42501' });
  });

  test('records what it observed', async () => {
    const samples = JSON.stringify([{ name: 'cpu_usage', value: 12.5, labels: { host: 'h' } }]);
    await worker`select job.record_samples('mine', ${samples}::text::jsonb)`;
    expect(await names(api, mine)).toContain('cpu_usage');
    expect(await names(api, theirs)).not.toContain('cpu_usage');
  });
});

test('functions pin their search path, and none of api or job runs as its caller', async () => {
  const functions = await database.sql<
    {
      signature: string;
      schema: string;
      secdef: boolean;
      config: string[] | null;
      language: string;
      described: boolean;
    }[]
  >`
    select p.oid::regprocedure::text as signature, n.nspname as schema, p.prosecdef as secdef, p.proconfig as config, l.lanname as language,
      obj_description(p.oid, 'pg_proc') is not null as described
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
    where n.nspname in ('api', 'job', 'lib')`;
  expect(functions.length).toBeGreaterThan(10);
  for (const f of functions) {
    expect(f.described, `${f.signature} has no comment`).toBe(true);
    // Helpers of lib in plain SQL are inlined, which a setting would prevent; they name every object in full.
    if (f.schema !== 'lib') expect(f.secdef, f.signature).toBe(true);
    if (f.schema !== 'lib' || f.language !== 'sql') expect(f.config, f.signature).toContain('search_path=""');
  }
});

test('org and query functions of api take the org first', async () => {
  const functions = await database.sql<{ name: string; first: string | null }[]>`
    select p.proname as name, p.proargnames[1] as first from pg_proc p where p.pronamespace = 'api'::regnamespace`;
  const exempt = [
    // Of the org that a token names, and of the token itself.
    'ensure_org',
    'open_org',
    'find_token',
    'record_usage',
    'claim_idempotency_keys',
    'mark_late',
    'get_lag',
    // Of all orgs that a flush has lines of; and of none.
    'announce_logs',
    'reserve_log_ids',
    // For everybody, by the org's name.
    'get_status_page',
  ];
  for (const f of functions) if (!exempt.includes(f.name)) expect(f.first, f.name).toBe('_org_id');
});
