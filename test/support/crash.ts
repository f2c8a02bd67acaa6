// A database server that a test may kill: an embedded one of its own. The server of DATABASE_URL is crashed
// instead when CRASH_DATABASE_SERVER=true says that it is there for that.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import postgres from 'postgres';
import { afterAll, beforeAll } from 'vitest';
import { embeddedObstacle, embeddedPid, startEmbedded, stopEmbedded } from '../../db/server/embedded.ts';
import { dataFolder } from '../../db/server/find.ts';
import { cloneDatabase, createTemplate, dropDatabases, type TestServer } from './database.ts';
import { freePort } from './process.ts';

export interface CrashableDatabase {
  /** A migrated database on the server. */
  url: string;
  /** SIGKILL, and a start right after. Answers when connections are accepted again. */
  crash(): Promise<void>;
  /** Stops and starts the server; null where it is not ours to stop. */
  outage: { begin(): Promise<void>; end(): Promise<void> } | null;
}

/** Whether the crashed server is the one of DATABASE_URL, which cannot be stopped from here. */
export const crashGiven = Boolean(process.env.DATABASE_URL) && process.env.CRASH_DATABASE_SERVER === 'true';

/** Why no server can be crashed here, or null. */
export const crashObstacle = crashGiven ? null : embeddedObstacle();

/** In a test file: a database on a server that may be crashed. */
export function useCrashableDatabase(): CrashableDatabase {
  const database = {} as CrashableDatabase;
  const folder = path.join(dataFolder, `crash-${process.pid}`);
  let server: TestServer;

  beforeAll(async () => {
    if (crashGiven) {
      const url = process.env.DATABASE_URL!;
      Object.assign(database, { crash: () => crashByBackend(url), outage: null });
      server = await createTemplate(url);
    } else {
      mkdirSync(folder, { recursive: true });
      // Two that begin at once must not choose the same.
      writeFileSync(path.join(folder, 'port'), `${await freePort()}\n`);
      const start = () => startEmbedded(folder, () => {}, { shared_buffers: '256MB' });
      Object.assign(database, {
        async crash() {
          await killPostmaster(folder);
          await start();
        },
        outage: { begin: () => stopEmbedded(folder), end: start },
      });
      server = await createTemplate((await start()).url);
    }
    database.url = await cloneDatabase(server);
  });

  afterAll(async () => {
    if (crashGiven) await dropDatabases(server);
    else {
      await stopEmbedded(folder);
      rmSync(folder, { recursive: true, force: true });
    }
  });
  return database;
}

async function killPostmaster(folder: string) {
  const pid = embeddedPid(folder)!;
  // Its children too: one that is busy would notice late, and no new server starts while it holds the shared memory.
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number);
  for (const victim of [pid, ...children]) {
    try {
      process.kill(victim, 'SIGKILL');
    } catch {
      // Gone already.
    }
  }
  while (embeddedPid(folder) === pid) await sleep(10);
  await sleep(500);
}

// A backend that dies of SIGKILL makes the postmaster drop everyone and recover from the log, as after a crash.
async function crashByBackend(url: string) {
  const sql = postgres(url, { max: 1, onnotice: () => {} });
  try {
    const [victim] = await sql<{ pid: number }[]>`
      select pid from pg_stat_activity where usename = 'obs_api' order by backend_start desc limit 1`;
    await sql.unsafe(`copy (select 1) to program 'kill -9 ${victim?.pid ?? 0}'`).catch(() => {});
  } finally {
    await sql.end({ timeout: 1 }).catch(() => {});
  }
  for (let attempt = 0; ; attempt++) {
    // Without the look-up of array types, whose error nobody could catch.
    const probe = postgres(url, { max: 1, connect_timeout: 2, fetch_types: false, onnotice: () => {} });
    try {
      await probe`select 1`;
      return;
    } catch (error) {
      // A large one takes a while to come back.
      if (attempt > 1200) throw error;
      await sleep(100);
    } finally {
      await probe.end({ timeout: 1 }).catch(() => {});
    }
  }
}
