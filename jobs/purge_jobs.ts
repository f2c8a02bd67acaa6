// Once an hour: jobs of probes whose worker died with them.
import type { Task } from 'graphile-worker';
import type { Sql } from '../src/db.ts';

export function purgeJobs(sql: Sql): Task {
  return async (_payload, helpers) => {
    const [row] = await sql<{ purged: number }[]>`select job.purge_jobs() as purged`;
    helpers.logger.info(`purged ${row?.purged} jobs`);
  };
}
