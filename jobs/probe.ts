// Probes a service at each of its slots. The database decides whose slot it is (job.claim_probes) and what follows from
// what was found (job.record_probes); between the two nothing is held there.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Task } from 'graphile-worker';
import type { Logger } from 'pino';
import { arrayLiteral, type Sql } from '../src/db.ts';
import type { EgressPolicy } from '../src/egress.ts';
import { toProblem } from '../src/errors.ts';
import { createBatch } from './batch.ts';
import { type Definition, type ProbeResult, probe } from './probes/probe.ts';

interface Claim {
  service_id: number;
  /** Null for one that was asked for. */
  slot: string | null;
  started_at: string;
  definition: Definition;
}

export interface ProbeDependencies {
  sql: Sql;
  log: Logger;
  /** What the results say who probed; processes of one machine share its network, and this name. */
  worker: string;
  /** The org that is told when this worker has no network. */
  homeOrg: string;
  egress: EgressPolicy;
}

// Results are small, claims carry definitions.
const maxBatch = 200;
/** How long a result is kept when the database is away; by then the next one says more. */
const recordWithinMs = 60_000;

export function probeService({ sql, log, worker, homeOrg, egress }: ProbeDependencies): Task {
  let isOffline = false;

  const claim = createBatch(async (requests: { service_id: number; is_requested: boolean }[]) => {
    const claims = await sql<Claim[]>`
      select service_id, slot::text, started_at::text, definition from job.claim_probes(
        ${arrayLiteral(requests.map(({ service_id }) => service_id))}::text::int[],
        ${`{${requests.map(({ is_requested }) => is_requested).join(',')}}`}::text::boolean[]
      )`;
    return requests.map(({ service_id, is_requested }) => {
      const i = claims.findIndex((c) => c.service_id === service_id && (c.slot === null) === is_requested);
      return i < 0 ? undefined : claims.splice(i, 1)[0];
    });
  }, maxBatch);

  const record = createBatch(async (results: (Omit<Claim, 'definition'> & ProbeResult)[]) => {
    const deadline = Date.now() + recordWithinMs;
    for (;;) {
      try {
        const [row] = await sql<{ is_offline: boolean }[]>`
          select job.record_probes(${worker}, ${homeOrg}, ${JSON.stringify(results)}::text::jsonb) as is_offline`;
        if (row!.is_offline !== isOffline) {
          isOffline = row!.is_offline;
          if (isOffline) log.error('no network: none of the hosts that are probed can be reached any more');
          else log.info('the network is there again');
        }
        return results.map(() => undefined);
      } catch (error) {
        // The database is away, or two workers' results met in a deadlock. Whether they were committed may not be known; each
        // is taken only once.
        if (toProblem(error).status !== 503 || Date.now() > deadline) throw error;
        await sleep(500);
      }
    }
  }, maxBatch);

  return async (payload, { abortSignal }) => {
    const { service_id, is_requested = false } = payload as { service_id: number; is_requested?: boolean };
    const claimed = await claim({ service_id, is_requested });
    if (!claimed) return;
    const { definition, ...identity } = claimed;
    const result = await probe(definition, { egress, signal: abortSignal });
    await record({ ...identity, ...result });
  };
}
