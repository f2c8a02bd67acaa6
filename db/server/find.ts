// Which database the commands of this checkout use: DATABASE_URL, else Docker Compose, else the embedded server.
import { existsSync } from 'node:fs';
import path from 'node:path';
import { hasCompose, startCompose, stopCompose } from './compose.ts';
import { embeddedObstacle, embeddedPid, startEmbedded, stopEmbedded } from './embedded.ts';

export const checkoutFolder = path.resolve(import.meta.dirname, '../..');
export const dataFolder = path.join(checkoutFolder, '.data');
export const embeddedFolder = path.join(dataFolder, 'postgresql');

export type ServerKind = 'given' | 'compose' | 'embedded';

/** Finds the database server, starting it where it is ours to start. The URL's user may create databases. */
export async function findServer(log: (line: string) => void): Promise<{ kind: ServerKind; url: string }> {
  if (process.env.DATABASE_URL) return { kind: 'given', url: process.env.DATABASE_URL };
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

/** Stops the server if it is ours. */
export async function stopServer(): Promise<void> {
  if (process.env.DATABASE_URL) return;
  if (existsSync(embeddedFolder)) await stopEmbedded(embeddedFolder);
  else if (hasCompose()) stopCompose();
}
