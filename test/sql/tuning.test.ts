// The recipes of docs/TUNING.md, run as they are printed.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { resolveBinary } from 'dbmate';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { migrate } from '../../db/migrate.ts';
import { inTurn, rollUp } from '../../db/roll_up.ts';
import { embeddedObstacle, startEmbedded, stopEmbedded } from '../../db/server/embedded.ts';
import { dataFolder } from '../../db/server/find.ts';
import { useDatabase } from '../support/database.ts';

const { edition } = inject('server');
const isApache = edition === 'apache';

interface Block {
  kind: string;
  sql: string;
}
/** The blocks of SQL under each heading. */
const recipes = new Map(
  readFileSync('docs/TUNING.md', 'utf8')
    .split(/^## /m)
    .map((section): [string, Block[]] => [
      section.slice(0, section.indexOf('\n')),
      [...section.matchAll(/^```sql ([\w ]+)\n([\s\S]*?)^```$/gm)].map((match) => ({
        kind: match[1]!,
        sql: match[2]!,
      })),
    ]),
);

/** Statements one by one, outside a transaction. */
async function runByHand(sql: postgres.Sql, text: string) {
  for (const [statement] of text.matchAll(/(?:--[^\n]*|\$\$[\s\S]*?\$\$|[^;$])+;/g))
    await inTurn(() => sql.unsafe(statement));
}

const database = useDatabase();
const folder = mkdtempSync(path.join(tmpdir(), 'obs-tuning-'));
let orgId: number;
let written = 0;

function dbmate(...args: string[]) {
  const run = spawnSync(resolveBinary(), ['--migrations-dir', folder, '--no-dump-schema', ...args], {
    env: { ...process.env, DATABASE_URL: `${database.url}?sslmode=disable` },
    encoding: 'utf8',
  });
  expect(run.status, `${run.stdout}${run.stderr}`).toBe(0);
}

/** Runs the blocks of a recipe that are for this edition; returns how many were migrations. */
async function follow(heading: string): Promise<number> {
  let migrations = 0;
  for (const { kind, sql } of recipes.get(heading)!) {
    if (!['both', edition, `${edition} by hand`].includes(kind)) continue;
    if (kind.endsWith('by hand')) {
      await runByHand(database.sql, sql);
      continue;
    }
    writeFileSync(path.join(folder, `2027010100${String(++written).padStart(4, '0')}_recipe.sql`), sql);
    dbmate('up');
    migrations++;
  }
  return migrations;
}

const undo = () => dbmate('down');

async function ask(start: string, end: string, aggregation: string, window: string) {
  const [row] = await database.sql.unsafe(`
    select api.query_metrics(${orgId}, 'm', ${start}, ${end}, '${aggregation}', '${window}', null, '{}', '{}', 'none', 'UTC', 10000, 'points')::json as answer`);
  return row!.answer as { resolution: string; series: { points: { time: string; value: number }[] }[] };
}

beforeAll(async () => {
  const { sql } = database;
  [{ id: orgId }] = await sql<[{ id: number }]>`select api.ensure_org('tuned') as id`;
  await sql`
    insert into obs.sample (time, series_id, value)
    select t, (api.ensure_series(${orgId}, '[{"name":"m"}]'))[1], 100 + 50 * sin(extract(epoch from t) / 7000)
    from generate_series(time_bucket('1 day', now()) - interval '12 days', now(), interval '3 minutes') t`;
  await rollUp(sql);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const keep = async (table: string) =>
  (await database.sql`select keep::text from obs.retention where table_name = ${table}`)[0]?.keep;

test('a retention is changed, and changed back', async () => {
  await follow('Change a retention');
  expect([await keep('sample'), await keep('sample_5m')]).toEqual(['14 days', '60 days']);
  if (!isApache) {
    const jobs = await database.sql`
      select config ->> 'drop_after' as drop_after from timescaledb_information.jobs
      where proc_name = 'policy_retention' and hypertable_name in ('sample', 'sample_5m') order by 1`;
    expect(jobs.map((job) => job.drop_after)).toEqual(['15 days', '60 days']);
  }
  undo();
  expect([await keep('sample'), await keep('sample_5m')]).toEqual(['30 days', '90 days']);
});

test('tiers are refreshed later, and less often', async () => {
  const state = async () =>
    isApache
      ? (await database.sql`select lag::text from obs.tier where name = '5m'`)[0]
      : (
          await database.sql`
            select j.config ->> 'end_offset' as lag, j.schedule_interval::text as every from timescaledb_information.jobs j
            where j.proc_name = 'policy_refresh_continuous_aggregate' and j.hypertable_name = 'sample_5m'`
        )[0];
  const before = await state();
  await follow('Change when tiers are refreshed');
  expect(await state()).toEqual(isApache ? { lag: '00:30:00' } : { lag: '00:30:00', every: '00:10:00' });
  undo();
  expect(await state()).toEqual(before);
});

test('new chunks are as long as was said', async () => {
  const interval = async () =>
    (
      await database.sql`
        select time_interval::text as length from timescaledb_information.dimensions
        where hypertable_schema = 'obs' and hypertable_name = 'sample'`
    )[0]!.length;
  await follow('Change a chunk interval');
  expect(await interval()).toBe('01:00:00');
  undo();
  expect(await interval()).toBe('1 day');
});

test.skipIf(isApache)(
  isApache
    ? 'columnstore (skipped: the Apache 2 edition has none)'
    : 'samples and logs go into the columnstore at other times',
  async () => {
    const after = async () =>
      (
        await database.sql`
          select j.config ->> 'compress_after' as after from timescaledb_information.jobs j
          where j.proc_name = 'policy_compression' and j.hypertable_name in ('log', 'sample') order by j.hypertable_name`
      ).map((row) => row.after);
    await follow('Change when samples and logs go into the columnstore');
    expect(await after()).toEqual(['4 days', '3 days']);
    undo();
    expect(await after()).toEqual(['2 days', '7 days']);
  },
);

test('a tier is added, and answers as the ones below it did', async () => {
  const range = [
    "time_bucket('1 day', now()) - interval '3 days'",
    "time_bucket('1 day', now()) - interval '2 days'",
  ] as const;
  const aggregations = ['avg', 'count', 'stddev', 'last', 'increase'];
  const before = await Promise.all(aggregations.map((aggregation) => ask(...range, aggregation, '15m')));
  expect(before.map(({ resolution }) => resolution)).toEqual(aggregations.map(() => '5m'));
  await follow('Add a tier');
  await rollUp(database.sql);
  const after = await Promise.all(aggregations.map((aggregation) => ask(...range, aggregation, '15m')));
  expect(after.map(({ resolution }) => resolution)).toEqual(aggregations.map(() => '15m'));
  for (const [i, { series }] of after.entries()) {
    expect(series[0]!.points).toHaveLength(96);
    for (const [j, { time, value }] of series[0]!.points.entries()) {
      const point = before[i]!.series[0]!.points[j]!;
      expect(time).toBe(point.time);
      expect(Math.abs(value - point.value)).toBeLessThan(1e-9 * Math.abs(point.value));
    }
  }
  expect(await keep('sample_15m')).toBe('120 days');
  // Late samples are rolled up there too, by the worker's own rights.
  await database.sql`
    with late as (insert into obs.sample select time_bucket('1 day', now()) - interval '60 hours', 1, 1000)
    insert into obs.dirty_range (org_id, starts_at, ends_at)
    values (${orgId}, time_bucket('1 day', now()) - interval '60 hours', time_bucket('1 day', now()) - interval '59 hours')`;
  await rollUp(database.sql);
  const [row] = await database.sql`select max(max) as max from obs.sample_15m`;
  expect(row!.max).toBe(1000);
  undo();
  expect((await ask(...range, 'avg', '15m')).resolution).toBe('5m');
});

test('a column is added to a tier; what is older than raw samples stays', async () => {
  const { sql } = database;
  // What only the tier knows any more.
  const old = isApache
    ? 'obs.sample_1h_rolled'
    : (await sql`select obs.tier_table('1h')::text as name`)[0]!.name;
  await sql.unsafe(
    `insert into ${old} select bucket - interval '100 days', series_id, count, sum, min, max, moments, first_value, first_time, last_value, last_time, increase, p50, p90, p95, p99
     from obs.sample_1h order by bucket limit 24`,
  );
  const count = async () =>
    (
      await sql<[{ old: number; all: number }]>`
      select count(*) filter (where bucket < now() - interval '50 days')::int as old, count(*)::int as all from obs.sample_1h`
    )[0];
  const before = await count();
  expect(before.old).toBe(24);
  const migrations = await follow('Add a column to a tier');
  await rollUp(sql);
  expect(await count()).toEqual(before);
  const [row] = await sql`
    select count(*)::int as n, max(abs(t.p75 - e.p75)) as difference
    from obs.sample_1h t
    join (
      select time_bucket('1 hour', time) as bucket, percentile_cont(0.75) within group (order by value) as p75
      from obs.sample group by 1
    ) e using (bucket)
    where t.bucket < now() - interval '2 hours'`;
  expect(row!.n).toBeGreaterThanOrEqual(12 * 24 - 2);
  expect(row!.difference).toBeLessThan(1e-9);
  // Still what queries are answered from.
  const answer = await ask(
    "time_bucket('1 day', now()) - interval '3 days'",
    "time_bucket('1 day', now())",
    'p95',
    '1h',
  );
  expect([answer.resolution, answer.series[0]!.points.length]).toEqual(['1h', 72]);
  if (migrations === 1) {
    undo();
    expect(
      await sql`select from information_schema.columns where table_name = 'sample_1h' and column_name = 'p75'`,
    ).toHaveLength(0);
    expect(
      (
        await ask(
          "time_bucket('1 day', now()) - interval '3 days'",
          "time_bucket('1 day', now())",
          'p95',
          '1h',
        )
      ).resolution,
    ).toBe('1h');
  }
});

test('the move names every table that holds something', async () => {
  const [script] = recipes.get('Move from the Apache 2 edition to Community, with all data')!;
  const tables = await database.sql<{ name: string }[]>`
    select relname as name from pg_class where relnamespace = 'obs'::regnamespace and relkind = 'r' and relname !~ '_rolled$'`;
  // What is due to be rolled up is done on the way; a worker learns of its network by itself, and adds up each minute.
  const passing = ['dirty_range', 'probe_worker', 'uptime_24h'];
  const missing = tables.filter(
    ({ name }) => !passing.includes(name) && !new RegExp(`moved\\.${name}\\b`).test(script!.sql),
  );
  expect(missing).toEqual([]);
});

const obstacle = isApache ? 'no Community server is given' : embeddedObstacle();
describe.skipIf(obstacle !== null)(
  obstacle
    ? `the move from Apache 2 to Community (skipped: ${obstacle})`
    : 'the move from Apache 2 to Community',
  () => {
    const serverFolder = path.join(dataFolder, `move-${process.pid}`);
    let old: postgres.Sql;

    afterAll(async () => {
      await old?.end();
      await stopEmbedded(serverFolder);
      rmSync(serverFolder, { recursive: true, force: true });
    });

    test('keeps orgs, series, samples and tiers, and answers the same', { timeout: 180_000 }, async () => {
      mkdirSync(serverFolder, { recursive: true });
      const { url } = await startEmbedded(serverFolder, () => {}, { shared_buffers: '128MB' });
      expect((await migrate(url)).edition).toBe('apache');
      old = postgres(url, { max: 1, onnotice: () => {} });
      await old`select api.ensure_org('other'), api.ensure_org('moving')`;
      const [{ id }] = await old<[{ id: number }]>`select api.ensure_org('moving') as id`;
      await old`select api.ensure_series(${id}, '[{"name":"m","labels":{"host":"a"}},{"name":"m","service_name":"s"}]')`;
      await old`
        insert into obs.sample
        select t, s, 1000 + 100 * sin(extract(epoch from t) / 7000) * s
        from generate_series(time_bucket('1 day', now()) - interval '60 days', now(), interval '10 minutes') t, generate_series(1, 2) s`;
      await old`update obs.retention set keep = interval '61 days' where table_name = 'sample'`;
      await rollUp(old);
      // A month of it is in the tiers alone.
      await old`update obs.retention set keep = interval '30 days' where table_name = 'sample'`;
      await old`select drop_chunks('obs.sample', older_than => now() - interval '30 days')`;
      await old`select obs.set_retention('sample_1h', interval '300 days')`;
      // A service that is down, with its alert.
      await old`
        select api.put_service(${id}, 'shop', '{"kind": "http", "health_endpoint": "http://shop.test/", "failure_threshold": 1}', 'me')`;
      const [service] = await old<{ id: number }[]>`select id from obs.service`;
      await old`
        select job.record_probes('w', 'other', jsonb_build_array(jsonb_build_object(
          'service_id', ${service!.id}::int, 'started_at', now(), 'slot', now(), 'outcome', 'down', 'reason', 'gone', 'response_time_ms', 5)))`;
      // Log lines, counted and not yet counted.
      const log = async (sql: postgres.Sql, message: string) => {
        const [stream] = await sql<{ ids: number[] }[]>`
          select api.ensure_log_streams(${id}, '{shop}', '{error}') as ids`;
        await sql`
          with line as (
            insert into obs.log (time, id, log_stream_id, message, metadata)
            select now(), first_id, ${stream!.ids[0]!}::int, ${message}, '{"user_id": 42}' from api.reserve_log_ids()
            returning *
          )
          select api.announce_logs(json_agg(json_build_object(
            'org_id', ${id}::int, 'log_stream_id', log_stream_id, 'minute', date_trunc('minute', time), 'line_count', 1, 'byte_count', 100,
            'first_id', id, 'last_id', id, 'oldest', time, 'newest', time))::jsonb)
          from line`;
      };
      await log(old, 'the first');
      await old`select job.count_logs()`;
      await log(old, 'the second');

      const { sql } = database;
      await sql`select drop_chunks('obs.sample', older_than => now() + interval '2 days')`;
      const [{ name }] = await sql<[{ name: string }]>`select current_database() || '_moved' as name`;
      await sql.unsafe(`create database ${name}`);
      const target = new URL(database.url);
      target.pathname = `/${name}`;
      await migrate(target.href);
      const moved = postgres(target.href, { max: 1, onnotice: () => {} });
      try {
        const source = new URL(url);
        const script = recipes
          .get('Move from the Apache 2 edition to Community, with all data')![0]!
          .sql.replace('old.example.com', source.hostname)
          .replace("'5432'", `'${source.port}'`)
          .replace("dbname 'observability'", `dbname '${source.pathname.slice(1)}'`)
          .replace("user 'postgres'", `user '${source.username}'`)
          .replace("'secret'", `'${source.password}'`);
        await runByHand(moved, script);

        const questions = ['count', 'avg', 'stddev', 'increase', 'p95'].flatMap((aggregation) =>
          ['1h', '6h', '1d'].map((window) => [aggregation, window] as const),
        );
        const put = async (sql: postgres.Sql, aggregation: string, window: string) =>
          (
            await sql.unsafe(`
              select api.query_metrics(${id}, 'm', time_bucket('1 day', now()) - interval '59 days', time_bucket('1 day', now()), '${aggregation}', '${window}',
                null, '{}', '{service_name}', 'none', 'UTC', 10000, 'points')::json as answer`)
          )[0]!.answer;
        for (const [aggregation, window] of questions) {
          const [was, is] = [await put(old, aggregation, window), await put(moved, aggregation, window)];
          expect([is.resolution, is.series.length], `${aggregation} ${window}`).toEqual([was.resolution, 2]);
          for (const [i, { points }] of is.series.entries()) {
            expect(points.map(({ time }: { time: string }) => time)).toEqual(
              was.series[i].points.map(({ time }: { time: string }) => time),
            );
            for (const [j, { value }] of points.entries())
              expect(Math.abs(value - was.series[i].points[j].value)).toBeLessThanOrEqual(
                1e-9 * Math.abs(value),
              );
          }
        }
        const services = (sql: postgres.Sql) => sql`
          select s.definition, s.state, s.uptime, a.alerts::jsonb #- '{0,duration_seconds}' as alerts,
            (select json_agg(r) from api.list_results(${id}, 'shop', '-infinity', 'infinity', 10) r) as results,
            (select json_agg(e) from api.list_service_events(${id}, 'shop', '-infinity', 'infinity', 10) e) as events
          from api.get_service(${id}, 'shop') s, api.list_alerts(${id}, null, null, null, null, null, null, null, null, 10) a`;
        expect(await services(moved)).toEqual(await services(old));
        expect((await services(moved))[0]!.state.current_status).toBe('unhealthy');
        expect(await moved`select job.heal_probes(now() + interval '1 minute') as jobs`).toEqual([
          { jobs: 1 },
        ]);
        await moved`select job.record_probes('w', 'other', '[]')`;

        const logs = async (sql: postgres.Sql) => {
          const [found] = await sql<{ lines: string }[]>`
            select lines from api.search_logs(${id}, '{"metadata":{"user_id":"42"}}', '-infinity', 'infinity', null, null, 10, false, 5)`;
          const [histogram] = await sql<{ buckets: string }[]>`
            select api.get_log_histogram(${id}, 'shop', 'trace', now() - interval '1 hour', now(), '1 hour', 'UTC') as buckets`;
          return [JSON.parse(`[${found!.lines}]`), histogram!.buckets.match(/"total":[1-9]\d*/g)];
        };
        expect(await logs(moved)).toEqual(await logs(old));
        expect((await logs(moved))[0]).toHaveLength(2);
        const [{ position }] = await moved<
          [{ position: string }]
        >`select api.get_log_position(${id}) as position`;
        await log(moved, 'the third');
        const [tail] = await moved<{ lines: number; places: boolean }[]>`
          select count(line)::int as lines, bool_and("position" > ${position}) filter (where line is not null) as places
          from api.tail_logs(${id}, ${position}, '[{}]', 1000)`;
        expect(tail).toEqual({ lines: 1, places: true });
        expect((await logs(moved))[0]).toHaveLength(3);

        const [state] = await moved`
          select (select count(*)::int from obs.sample) as samples,
            (select keep::text from obs.retention where table_name = 'sample_1h') as keep,
            (select api.ensure_org('brand new')) as next_org,
            (select min(bucket) from obs.sample_5m) as oldest`;
        const [was] =
          await old`select count(*)::int as samples, (select min(bucket) from obs.sample_5m) as oldest from obs.sample`;
        expect(state).toEqual({ samples: was!.samples, keep: '300 days', next_org: 3, oldest: was!.oldest });
      } finally {
        await moved.end();
        await sql.unsafe(`drop database ${name} with (force)`);
      }
    });
  },
);
