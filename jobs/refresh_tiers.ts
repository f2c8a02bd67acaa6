// Every minute: rolls samples up to the tiers. On the Community edition TimescaleDB's own scheduler does, and there
// is nothing to do here.
import type { Task } from 'graphile-worker';
import type { Sql } from '../src/db.ts';

export function refreshTiers(sql: Sql): Task {
  return async (_payload, helpers) => {
    // First: what is rolled up from here on has the late samples already.
    await sql`select job.refresh_dirty_ranges()`;
    for (const { tier } of await sql<{ tier: string }[]>`select job.list_tiers() as tier`) {
      // One transaction a step: a worker that is killed loses the step it was at, and the next one takes it up.
      let hasMore = true;
      while (hasMore && !helpers.abortSignal?.aborted) {
        const [row] = await sql<{ more: boolean }[]>`select job.refresh_tier(${tier}) as more`;
        hasMore = row?.more ?? false;
      }
    }
  };
}
