// Which database the commands of this checkout use: DATABASE_URL, else Docker Compose, else the embedded server.
import { existsSync } from 'node:fs';
import path from 'node:path';
import postgres from 'postgres';
import { hasCompose, startCompose, stopCompose } from './compose.ts';
import { embeddedObstacle, embeddedPid, startEmbedded, stopEmbedded } from './embedded.ts';

export const checkoutFolder = path.resolve(import.meta.dirname, '../..');
export const dataFolder = path.join(checkoutFolder, '.data');
export const embeddedFolder = path.join(dataFolder, 'postgresql');

const databaseName = 'observability';

export type ServerKind = 'given' | 'compose' | 'embedded';

/** Finds the database server, starting it where it is ours to start. The URL's user may create databases. */
export async function findServer(log: (line: string) => void): Promise<{ kind: ServerKind; url: string }> {
  if (process.env.DATABASE_URL) return { kind: 'given', url: process.env.DATABASE_URL };
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

/** The service's database: the one that DATABASE_URL names, else "observability" on a server of ours. */
export async function findDatabase(log: (line: string) => void): Promise<{ kind: ServerKind; url: string }> {
  const server = await findServer(log);
  if (server.kind === 'given') return server;
  const sql = postgres(server.url, { max: 1, onnotice: () => {} });
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

/** Stops the server if it is ours. */
export async function stopServer(): Promise<void> {
  if (process.env.DATABASE_URL) return;
  if (existsSync(embeddedFolder)) await stopEmbedded(embeddedFolder);
  else if (hasCompose()) stopCompose();
}
