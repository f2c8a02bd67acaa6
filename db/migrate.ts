// Brings a database up to date: dbmate's migrations, graphile-worker's own, then every SQL function anew.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { resolveBinary } from 'dbmate';
import { Logger, runMigrations } from 'graphile-worker';
import { type LoginRole, rolePassword, roleUrl } from '../src/config.ts';
import { connect, type Sql } from '../src/db.ts';

export type Edition = 'apache' | 'community';

const folder = import.meta.dirname;

export interface Migrated {
  edition: Edition;
  timescaledb: string;
  postgresql: string;
}

export interface MigrateOptions {
  /** Login roles that get the password derived from the owner's (see rolePassword): those without a URL of their own. */
  derivedRoles: readonly LoginRole[];
  queueDatabaseUrl: string;
}

/**
 * Migrates the database at databaseUrl, whose user must own it (or be a superuser). Waits for a migration that
 * another process is running. Throws with the failing statement's message; then functions are as they were.
 */
export async function migrate(
  databaseUrl: string,
  log: (line: string) => void = () => {},
  { derivedRoles, queueDatabaseUrl }: MigrateOptions = {
    derivedRoles: ['obs_api', 'obs_worker', 'obs_queue'],
    queueDatabaseUrl: roleUrl(databaseUrl, 'obs_queue'),
  },
): Promise<Migrated> {
  const sql = connect(databaseUrl, { name: 'obs-migrate', max: 1 });
  try {
    // dbmate does not guard against a second one, so the whole migration runs under one lock.
    await sql`select pg_advisory_lock(hashtext('obs.migrate'))`;
    const found = await inspect(sql);
    log(`TimescaleDB ${found.timescaledb} (${found.edition}) on PostgreSQL ${found.postgresql}`);
    await useUtc(sql);
    runDbmate(databaseUrl, found.edition, log);
    for (const role of derivedRoles) await setPassword(sql, databaseUrl, role);
    await migrateQueue(sql, queueDatabaseUrl);
    await replaceFunctions(sql);
    return found;
  } finally {
    await sql.end({ timeout: 5 });
  }
}

async function inspect(sql: Sql): Promise<Migrated> {
  // Not a migration: which edition the server has decides which folders of migrations are run.
  try {
    await sql`create extension if not exists timescaledb schema public`;
  } catch (error) {
    const reason = (error as Error).message;
    throw new Error(`TimescaleDB cannot be used here: ${reason}. See "Databases" in README.md.`, {
      cause: error,
    });
  }
  const [found] = await sql<{ timescaledb: string; postgresql: string; license: string }[]>`
    select
      (select extversion from pg_extension where extname = 'timescaledb') as timescaledb,
      current_setting('server_version') as postgresql,
      current_setting('timescaledb.license') as license`;
  if (!found) throw new Error('unreachable: a select without a table answers one row');
  if (Number.parseInt(found.postgresql, 10) < 16) {
    throw new Error(`PostgreSQL 16 or later is required, this is ${found.postgresql}.`);
  }
  return {
    timescaledb: found.timescaledb,
    postgresql: found.postgresql,
    edition: found.license === 'timescale' ? 'community' : 'apache',
  };
}

// Days are days of UTC here, in sessions of TimescaleDB's scheduler too, which have no client to say so.
async function useUtc(sql: Sql) {
  const [{ name } = { name: '' }] = await sql<{ name: string }[]>`select current_database() as name`;
  await sql`alter database ${sql(name)} set timezone to 'UTC'`;
}

function runDbmate(
  databaseUrl: string,
  edition: Edition,
  log: (line: string) => void,
  attemptsLeft = 5,
): void {
  const url = new URL(databaseUrl);
  if (!url.searchParams.has('sslmode')) url.searchParams.set('sslmode', 'disable');
  // An edition has a folder once it has a migration of its own.
  const folders = ['common', edition].map((name) => path.join(folder, 'migrations', name)).filter(existsSync);
  const run = spawnSync(
    resolveBinary(),
    [...folders.flatMap((name) => ['--migrations-dir', name]), '--no-dump-schema', 'up', '--strict'],
    { env: { ...process.env, DATABASE_URL: url.href }, encoding: 'utf8' },
  );
  const output = `${run.stdout ?? ''}${run.stderr ?? ''}`.trim();
  for (const line of output.split('\n')) if (line.startsWith('Applied')) log(line);
  if (run.status === 0) return;
  // With a job of TimescaleDB's scheduler, which may be at work on the same tables. A migration is a transaction: what
  // was rolled back is applied again.
  // Nor are roles one database's alone: another's migration may be at them.
  const isTransient = /deadlock detected|tuple concurrently updated/.test(output);
  if (!isTransient || attemptsLeft === 1) throw new Error(`dbmate failed: ${run.error?.message ?? output}`);
  runDbmate(databaseUrl, edition, log, attemptsLeft - 1);
}

async function setPassword(sql: Sql, databaseUrl: string, role: LoginRole) {
  const password = rolePassword(databaseUrl, role);
  if (!password) return;
  // A role is the whole server's; altering it anyway would collide with another database that migrates at once.
  await sql.begin(async (sql) => {
    await sql`select pg_advisory_xact_lock(0, hashtext('obs.roles'))`;
    // Neither part can be a parameter of this statement: one is a constant of ours, the other hexadecimal.
    await sql.unsafe(`alter role ${role} password '${password}'`);
  });
}

async function migrateQueue(sql: Sql, queueDatabaseUrl: string) {
  // Its installer says "create schema if not exists", which wants the right to create even where it exists.
  const [{ name } = { name: '' }] = await sql<{ name: string }[]>`select current_database() as name`;
  await sql`grant create on database ${sql(name)} to obs_queue`;
  try {
    await runMigrations({ connectionString: queueDatabaseUrl, logger: new Logger(() => () => {}) });
  } finally {
    await sql`revoke create on database ${sql(name)} from obs_queue`;
  }
}

async function replaceFunctions(sql: Sql) {
  const directory = path.join(folder, 'functions');
  const topics = readdirSync(directory).filter(
    (file) => file.endsWith('.sql') && file !== 'schemas.sql' && file !== 'grants.sql',
  );
  await sql.begin(async (sql) => {
    // A function may use one of a later file; their bodies are checked once all are there.
    await sql`set local check_function_bodies = off`;
    for (const file of ['schemas.sql', ...topics.sort(), 'grants.sql']) {
      try {
        await sql.unsafe(readFileSync(path.join(directory, file), 'utf8'));
      } catch (error) {
        throw new Error(`db/functions/${file}: ${(error as Error).message}`, { cause: error });
      }
    }
    await sql`set local check_function_bodies = on`;
    await sql`
      select fmgr_sql_validator(p.oid)
      from pg_proc p
      join pg_namespace n on n.oid = p.pronamespace
      join pg_language l on l.oid = p.prolang
      where n.nspname in ('api', 'job', 'lib', 'queue') and l.lanname = 'sql'`;
  });
}
