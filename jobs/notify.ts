// Delivers notifications. The database decides what a channel is to be told, and who tells it (job.claim_notification); between that
// and the outcome (job.finish_attempt) nothing is held there.
import type { Task } from 'graphile-worker';
import type { Logger } from 'pino';
import type { Sql } from '../src/db.ts';
import type { EgressPolicy } from '../src/egress.ts';
import { SealError, type Sealer } from '../src/seal.ts';
import { createShare } from '../src/share.ts';
import { type Delivery, DeliveryFailure, deliver, type Message } from './channels/channel.ts';
import { retried } from './retried.ts';

interface Payload {
  org_id: number;
  group_id?: string;
  notification_id?: string;
}

interface Claim {
  notification_id: string;
  attempt: number;
  type: Delivery['channel']['type'];
  config: Record<string, unknown>;
  message: Message;
  timeout_seconds: number;
  alert_ttl_seconds: number;
}

export interface NotifyDependencies {
  sql: Sql;
  log: Logger;
  egress: EgressPolicy;
  smtp: Delivery['smtp'];
  sealer: Sealer;
  /** Deliveries under way at once. */
  concurrency: number;
}

export function notify({ sql, log, egress, smtp, sealer, concurrency }: NotifyDependencies): Task {
  // One org's receivers that all hang hold up nobody else's.
  const share = createShare(concurrency);

  return async (payload, { abortSignal }) => {
    const { org_id, group_id = null, notification_id = null } = payload as Payload;
    const leave = await share.enter(org_id);
    // Too many of the org wait: job.heal_alerts comes back to it.
    if (!leave) return;
    try {
      while (!abortSignal?.aborted) {
        const [claim] = await sql<Claim[]>`
          select * from job.claim_notification(${group_id}::text::bigint, ${notification_id}::text::uuid)`;
        if (!claim) return;
        await attempt(org_id, claim);
      }
    } finally {
      leave();
    }
  };

  // What a key is missing for may be delivered once it is there.
  function open(orgId: number, config: Record<string, unknown>): Record<string, unknown> {
    try {
      return sealer.open(orgId, config);
    } catch (error) {
      if (error instanceof SealError)
        throw new DeliveryFailure(`the channel's secrets cannot be read: ${error.message}`);
      throw error;
    }
  }

  async function attempt(
    orgId: number,
    { notification_id, attempt, type, config, message, ...claim }: Claim,
  ) {
    const began = performance.now();
    const outcome = await (async () =>
      deliver({
        channel: { type, config: open(orgId, config) },
        message,
        egress,
        smtp,
        signal: AbortSignal.timeout(claim.timeout_seconds * 1000),
        alertTtlSeconds: claim.alert_ttl_seconds,
      }))().catch((error: unknown) => {
      if (error instanceof DeliveryFailure) return error;
      log.error({ error, notification_id, type }, 'a notification could not be made');
      return new DeliveryFailure('the message could not be made', { isPermanent: true });
    });
    const failure = outcome instanceof DeliveryFailure ? outcome : null;
    const latencyMs = performance.now() - began;
    const detail = failure || outcome instanceof DeliveryFailure ? null : outcome.detail;
    // What has been delivered is worth telling: without it the same would be delivered once more.
    const [row] = await retried(
      () => sql<{ status: string | null }[]>`
        select job.finish_attempt(
          ${notification_id}::text::uuid, ${attempt}, ${failure === null}, ${outcome.response_code}, ${latencyMs},
          ${failure?.message ?? null}, ${detail}, ${failure?.isPermanent ?? false}, ${failure?.retryAfterSeconds ?? null}
        ) as status`,
      10_000,
    );
    const line = {
      notification_id,
      org: message.org,
      channel: message.channel,
      attempt,
      status: row!.status,
    };
    if (failure) log.warn({ ...line, reason: failure.message }, 'a notification was not delivered');
    else log.info(line, 'a notification was delivered');
  }
}
