// Erases orgs whose time has come: part by part, until nothing is left to do now.
import type { Task } from 'graphile-worker';
import type { Logger } from 'pino';
import type { Sql } from '../src/db.ts';

export function eraseOrgs(sql: Sql, log: Logger): Task {
  return async (_payload, { abortSignal }) => {
    while (!abortSignal?.aborted) {
      const [row] = await sql<{ org: string | null }[]>`select job.erase_next() as org`;
      if (row!.org === null) return;
      log.info({ org: row!.org }, 'a part of an org was erased');
    }
  };
}
