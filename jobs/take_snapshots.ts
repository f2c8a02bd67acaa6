// Every minute: how each org is, for trends.
import type { Task } from 'graphile-worker';
import type { Sql } from '../src/db.ts';

export function takeSnapshots(sql: Sql): Task {
  return async (_payload, helpers) => {
    let orgId: number | null = 0;
    while (orgId !== null && !helpers.abortSignal?.aborted) {
      const [row]: { org_id: number | null }[] = await sql<{ org_id: number | null }[]>`
        select job.take_snapshot(${orgId}) as org_id`;
      orgId = row!.org_id;
    }
  };
}
