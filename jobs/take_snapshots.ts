// Every minute: how each org is, for trends, and what its services' probes observed in 24 hours.
import type { Task } from 'graphile-worker';
import type { Logger } from 'pino';
import type { Sql } from '../src/db.ts';
import { isConnectionError } from '../src/errors.ts';

export function takeSnapshots(sql: Sql, log: Pick<Logger, 'error'>): Task {
  return async (_payload, helpers) => {
    for (const { id } of await sql<{ id: number }[]>`select job.list_orgs() as id`) {
      if (helpers.abortSignal?.aborted) return;
      try {
        await sql`select job.take_snapshot(${id})`;
      } catch (error) {
        if (isConnectionError(error)) throw error;
        // What is wrong with one org must not cost the others theirs.
        log.error({ error, org_id: id }, 'no snapshot was taken of an org');
      }
    }
  };
}
