// Databases for tests and benches: one migrated template a run, one clone of it a test file.
import postgres from 'postgres';
import { afterAll, beforeAll, inject } from 'vitest';
import { type Edition, migrate } from '../../db/migrate.ts';

export interface TestServer {
  /** URL of a user who may create databases. */
  url: string;
  /** Prefix of the names of this run's databases. */
  prefix: string;
  edition: Edition;
  timescaledb: string;
}

function admin(url: string) {
  return postgres(url, { max: 1, onnotice: () => {} });
}

function withDatabase(url: string, name: string): string {
  const changed = new URL(url);
  changed.pathname = `/${name}`;
  return changed.href;
}

/** Makes and migrates the template that clones are copied from. */
export async function createTemplate(url: string): Promise<TestServer> {
  const prefix = `obs_test_${Date.now()}_${process.pid}`;
  const template = `${prefix}_template`;
  const sql = admin(url);
  try {
    await dropLeftovers(sql);
    await sql.unsafe(`create database ${template}`);
    const { edition, timescaledb } = await migrate(withDatabase(url, template));
    // A database that anyone is connected to cannot be copied, and TimescaleDB's scheduler comes back to one that
    // is merely marked as a template.
    await sql.unsafe(`alter database ${template} allow_connections false`);
    await sql`select pg_terminate_backend(pid) from pg_stat_activity where datname = ${template}`;
    return { url, prefix, edition, timescaledb };
  } finally {
    await sql.end();
  }
}

let clones = 0;

/** A fresh, migrated database of its own; dropped at the end of the run. */
export async function cloneDatabase(server: TestServer): Promise<string> {
  const name = `${server.prefix}_${process.pid}_${++clones}`;
  const sql = admin(server.url);
  try {
    await sql.unsafe(`create database ${name} template ${server.prefix}_template`);
  } finally {
    await sql.end();
  }
  return withDatabase(server.url, name);
}

export async function dropDatabases(server: TestServer): Promise<void> {
  const sql = admin(server.url);
  try {
    const names = await sql<
      { datname: string }[]
    >`select datname from pg_database where starts_with(datname, ${server.prefix})`;
    for (const { datname } of names) await sql.unsafe(`drop database if exists ${datname} with (force)`);
  } finally {
    await sql.end();
  }
}

// Databases of runs that were killed: the time is in the name.
async function dropLeftovers(sql: postgres.Sql) {
  const names = await sql<{ datname: string }[]>`
    select datname from pg_database
    where datname ~ '^obs_test_\\d+_' and split_part(datname, '_', 3)::bigint < ${Date.now() - 4 * 3_600_000}`;
  for (const { datname } of names) await sql.unsafe(`drop database if exists ${datname} with (force)`);
}

/** In a test file: a database of its own for the whole file, and its owner's connection. */
export function useDatabase(): { url: string; sql: postgres.Sql } {
  const database = {} as { url: string; sql: postgres.Sql };
  beforeAll(async () => {
    database.url = await cloneDatabase(inject('server'));
    database.sql = postgres(database.url, { max: 5, onnotice: () => {} });
  });
  afterAll(async () => {
    await database.sql?.end({ timeout: 5 });
  });
  return database;
}
