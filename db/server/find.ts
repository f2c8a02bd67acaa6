// Which database the commands of this checkout use: DATABASE_URL, else Docker Compose, else the embedded server.
import { existsSync } from 'node:fs';
import path from 'node:path';
import { connect } from '../../src/db.ts';
import { hasCompose, startCompose, stopCompose } from './compose.ts';
import { embeddedObstacle, embeddedPid, startEmbedded, stopEmbedded } from './embedded.ts';

export const checkoutFolder = path.resolve(import.meta.dirname, '../..');
export const dataFolder = path.join(checkoutFolder, '.data');
export const embeddedFolder = path.join(dataFolder, 'postgresql');

const databaseName = 'observability';

export type ServerKind = 'given' | 'compose' | 'embedded';

/** Finds the database server, starting it where it is ours to start. The URL's user may create databases. */
export async function findServer(log: (line: string) => void): Promise<{ kind: ServerKind; url: string }> {
  if (process.env.DATABASE_URL) {
    await reach(process.env.DATABASE_URL);
    return { kind: 'given', url: process.env.DATABASE_URL };
  }
  // A checkout that began with the embedded server stays with it: its data is there.
  if (!existsSync(embeddedFolder) && hasCompose()) return { kind: 'compose', url: startCompose(log) };
  const obstacle = embeddedObstacle();
  if (obstacle) {
    throw new Error(
      'No database can be had here. Any one of these will do:\n' +
        '  set DATABASE_URL to a PostgreSQL 16 or later with TimescaleDB,\n' +
        '  start a Docker engine with the compose plugin,\n' +
        `  or: ${obstacle}`,
    );
  }
  if (!embeddedPid(embeddedFolder)) log('Starting the embedded TimescaleDB');
  return { kind: 'embedded', url: (await startEmbedded(embeddedFolder, log)).url };
}

async function reach(url: string) {
  const sql = connect(url, { name: 'obs-find', max: 1 });
  try {
    await sql`select 1`;
  } catch (error) {
    throw new Error(`The database of DATABASE_URL cannot be used: ${(error as Error).message}`);
  } finally {
    await sql.end({ timeout: 1 });
  }
}

/** The service's database: the one that DATABASE_URL names, else "observability" on a server of ours. */
export async function findDatabase(log: (line: string) => void): Promise<{ kind: ServerKind; url: string }> {
  const server = await findServer(log);
  if (server.kind === 'given') return server;
  const sql = connect(server.url, { name: 'obs-find', max: 1 });
  try {
    const [found] = await sql`select from pg_database where datname = ${databaseName}`;
    if (!found) await sql`create database ${sql(databaseName)}`;
  } finally {
    await sql.end();
  }
  const url = new URL(server.url);
  url.pathname = `/${databaseName}`;
  return { kind: server.kind, url: url.href };
}

/** Stops the server if it is ours. Answers what it did, for people. */
export async function stopServer(): Promise<string> {
  if (process.env.DATABASE_URL) return 'The database of DATABASE_URL goes on';
  if (existsSync(embeddedFolder)) {
    const wasRunning = embeddedPid(embeddedFolder) !== null;
    await stopEmbedded(embeddedFolder);
    return wasRunning ? 'The database is stopped; its data stays in .data' : 'The database was not running';
  }
  if (!hasCompose()) return 'The database was not running';
  stopCompose();
  return 'The database is stopped; its data stays in its Docker volume';
}
