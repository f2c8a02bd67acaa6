// Once an hour: Idempotency-Keys live a day.
import type { Task } from 'graphile-worker';
import type { Sql } from '../src/db.ts';

export function purgeIdempotencyKeys(sql: Sql): Task {
  return async (_payload, helpers) => {
    const [row] = await sql<{ purged: number }[]>`select job.purge_idempotency_keys() as purged`;
    helpers.logger.info(`purged ${row?.purged} keys`);
  };
}
