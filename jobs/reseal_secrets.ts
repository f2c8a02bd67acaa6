// Encrypts channels' secrets anew that are not encrypted with the first of SECRETS_KEY: those from before there was one, and after it was changed.
import type { Task } from 'graphile-worker';
import type { Logger } from 'pino';
import type { Sql } from '../src/db.ts';
import type { Sealer } from '../src/seal.ts';

export function resealSecrets(sql: Sql, sealer: Sealer, log: Logger): Task {
  return async (_payload, { abortSignal }) => {
    const channels = await sql<
      { id: string; org_id: number; type: string; config: Record<string, unknown> }[]
    >`select id, org_id, type, config from job.list_channel_configs()`;
    let resealed = 0;
    for (const { id, org_id, type, config } of channels) {
      if (abortSignal?.aborted || !sealer.isStale(config, type)) continue;
      try {
        const anew = sealer.seal(org_id, type, sealer.open(org_id, config));
        // One that was changed meanwhile is left for the next time.
        const [row] = await sql<{ is_replaced: boolean }[]>`
          select job.replace_channel_config(
            ${id}::text::uuid, ${JSON.stringify(config)}::text::jsonb, ${JSON.stringify(anew)}::text::jsonb
          ) as is_replaced`;
        if (row!.is_replaced) resealed++;
      } catch (error) {
        log.error({ error, channel_id: id }, "a channel's secrets cannot be encrypted anew");
      }
    }
    if (resealed > 0) log.info({ resealed }, "channels' secrets were encrypted anew");
  };
}
