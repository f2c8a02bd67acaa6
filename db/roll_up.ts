// Rolls up what is due now, and again what late samples made dirty, without waiting for the background jobs that do so.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Sql } from '../src/db.ts';
import { codeOf } from '../src/errors.ts';

/** For a connection of the database's owner. */
export async function rollUp(sql: Sql): Promise<void> {
  const tiers = await sql<{ name: string }[]>`select job.list_tiers() as name`;
  const [row] = await sql<{ license: string }[]>`select current_setting('timescaledb.license') as license`;
  if (row!.license !== 'timescale') {
    await sql`select job.refresh_dirty_ranges()`;
    for (const { name } of tiers)
      while ((await sql<{ more: boolean }[]>`select job.refresh_tier(${name}) as more`)[0]?.more);
    return;
  }
  // Newest buckets first, the default where there is a choice, would move the watermark past those not there yet.
  const [supported] = await sql<{ options: boolean }[]>`
    select bool_or('options' = any (proargnames)) as options from pg_proc where proname = 'refresh_continuous_aggregate'`;
  const order = supported!.options ? `, options => '{"refresh_newest_first": false}'` : '';
  for (const { name } of tiers) {
    const [window] = await sql<{ since: string; until: string }[]>`
      select obs.kept_from('sample', now())::text as since, (now() - lag)::text as until
      from obs.tier where name = ${name}`;
    await inTurn(() =>
      sql.unsafe(
        `call public.refresh_continuous_aggregate('obs.sample_${name}', '${window!.since}', '${window!.until}'${order})`,
      ),
    );
  }
  // What another transaction may still be at work on is left for the next call.
  const [newest] = await sql<{ id: string | null }[]>`select max(id) as id from obs.dirty_range`;
  const isLeft = async () =>
    (await sql`select from obs.dirty_range where id <= ${newest!.id ?? 0} limit 1`).length > 0;
  for (let attempt = 0; attempt < 100 && (await isLeft()); attempt++) {
    if (attempt > 0) await sleep(100);
    await inTurn(() => sql.unsafe('call obs.run_refresh_dirty_ranges()'));
  }
}

/** Again while another refresh of the same buckets, a policy's, is under way: TimescaleDB refuses instead of waiting. */
export async function inTurn<T>(refresh: () => Promise<T>): Promise<T> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    try {
      return await refresh();
    } catch (error) {
      if (codeOf(error) !== '55P03' || Date.now() > deadline) throw error;
      await sleep(200);
    }
  }
}
