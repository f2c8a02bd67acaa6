// Probes a service at each of its slots. The database decides whose slot it is (job.claim_probes) and what follows from
// what was found (job.record_probes); between the two nothing is held there.
import type { Task } from 'graphile-worker';
import type { Logger } from 'pino';
import { arrayLiteral, type Sql } from '../src/db.ts';
import { type EgressPolicy, lookedUp } from '../src/egress.ts';
import { createShare } from '../src/share.ts';
import { createBatch } from './batch.ts';
import { type ProbeResult, probe } from './probes/probe.ts';
import type { Definition } from './probes/trace.ts';
import { retried } from './retried.ts';

interface Payload {
  service_id: number;
  org_id: number;
  is_requested?: boolean;
}

interface Request {
  service_id: number;
  is_requested: boolean;
  is_skipped: boolean;
}

interface Claim {
  service_id: number;
  is_requested: boolean;
  /** Null for one that was asked for, or that comes a second time within its slot. */
  slot: string | null;
  started_at: string;
  definition: Definition;
}

type Result = Omit<Claim, 'definition'> & ProbeResult;

export interface ProbeDependencies {
  sql: Sql;
  log: Logger;
  /** What the results say who probed; processes of one machine share its network, and this name. */
  worker: string;
  /** The org that is told when this worker has no network. */
  homeOrg: string;
  egress: EgressPolicy;
  /** The service's own health, which is probed whatever egress says. */
  selfEndpoint: string;
  /** Probes under way at once. */
  concurrency: number;
}

// Results are small, claims carry definitions.
const maxBatch = 200;
/** How long a result is kept when the database is away; by then the next one says more. */
const retryMs = 60_000;

export function probeService(dependencies: ProbeDependencies): Task {
  const { sql, log, worker, homeOrg, egress, selfEndpoint, concurrency } = dependencies;
  const share = createShare(concurrency);
  const waiting = new Set<string>();
  let isOffline = false;

  const claim = createBatch(async (requests: Request[]) => {
    const claims = await retried(
      () => sql<Claim[]>`
        select service_id, is_requested, slot::text, started_at::text, definition from job.claim_probes(
          ${arrayLiteral(requests.map(({ service_id }) => service_id))}::text::int[],
          ${arrayLiteral(requests.map(({ is_requested }) => is_requested))}::text::boolean[],
          now(),
          ${arrayLiteral(requests.map(({ is_skipped }) => is_skipped))}::text::boolean[]
        )`,
      retryMs,
    );
    return requests.map(({ service_id, is_requested }) => {
      const i = claims.findIndex((c) => c.service_id === service_id && c.is_requested === is_requested);
      return i < 0 ? undefined : claims.splice(i, 1)[0];
    });
  }, maxBatch);

  const record = createBatch(async (results: Result[]) => {
    const [row] = await retried(
      () => sql<{ is_offline: boolean }[]>`
        select job.record_probes(${worker}, ${homeOrg}, ${JSON.stringify(results)}::text::jsonb) as is_offline`,
      retryMs,
    );
    if (row!.is_offline !== isOffline) {
      isOffline = row!.is_offline;
      if (isOffline) log.error('no network: none of the hosts that are probed can be reached any more');
      else log.info('the network is there again');
    }
    return results.map(() => undefined);
  }, maxBatch);

  // Once a minute for an org: there are many when there is one.
  const toldSkipped = new Map<number, number>();
  function tellSkipped(org_id: number) {
    if (Date.now() - (toldSkipped.get(org_id) ?? 0) < 60_000) return;
    toldSkipped.set(org_id, Date.now());
    log.warn({ org_id }, 'probes are skipped: the org has too many of them waiting');
  }

  return async (payload, { abortSignal }) => {
    const { service_id, org_id, is_requested = false } = payload as Payload;
    // Waits here already: its job was added anew, since it is late.
    const key = `${service_id} ${is_requested}`;
    if (waiting.has(key)) return;
    waiting.add(key);
    // Somebody waits for one that is requested; the API sees to it that they are few.
    const leave = is_requested ? () => {} : await share.enter(org_id);
    waiting.delete(key);
    try {
      if (abortSignal?.aborted) return;
      const claimed = await claim({ service_id, is_requested, is_skipped: leave === null });
      if (!leave) tellSkipped(org_id);
      if (!claimed || !leave) return;
      const { definition, ...identity } = claimed;
      const isOwn = definition.health_endpoint === selfEndpoint;
      const result = await probe(definition, { egress: isOwn ? 'allow' : egress, signal: abortSignal });
      await record({ ...identity, ...result });
      await lookedUp(result.host);
    } catch (error) {
      // The worker stops: the slot is lost, and the next one somebody else's.
      if (!abortSignal?.aborted) throw error;
    } finally {
      leave?.();
    }
  };
}
