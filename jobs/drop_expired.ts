// Once an hour: drops chunks past their retention (on the Community edition TimescaleDB's policies do), and deletes
// what orgs with a shorter one of their own keep no longer, alerts and notifications that have long been over, and usage of long ago.
import type { Task } from 'graphile-worker';
import type { Sql } from '../src/db.ts';

export function dropExpired(sql: Sql): Task {
  return async (_payload, helpers) => {
    const [row] = await sql<{ dropped: number }[]>`select job.drop_expired() as dropped`;
    let deleted = 0;
    while (!helpers.abortSignal?.aborted) {
      const [step] = await sql<{ rows: string | null }[]>`select job.delete_expired() as rows`;
      if (!step?.rows) break;
      deleted += Number(step.rows);
    }
    const [alerts] = await sql<{ purged: number }[]>`select job.purge_alerts() as purged`;
    const [notifications] = await sql<{ purged: number }[]>`select job.purge_notifications() as purged`;
    await sql`select job.purge_usage()`;
    helpers.logger.info(
      `dropped ${row?.dropped} chunks, deleted ${deleted} rows, ${alerts?.purged} alerts and ${notifications?.purged} notifications`,
    );
  };
}
