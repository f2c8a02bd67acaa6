// The audit log's record of what was refused and what was read. (A change writes its own in its transaction: lib.audit.)
import type { Logger } from 'pino';
import type { Sql } from './db.ts';

export interface Access {
  actor: string;
  tokenId: string | null;
  /** The endpoint, such as GET /api/v1/channels/{id}. */
  action: string;
  /** The path that was asked for. */
  target: string;
  outcome: 'done' | 'refused';
  status: number;
  requestId: string;
  address: string;
}

/** Resolves once it is recorded; those that come meanwhile are recorded together. Rejects when it cannot be. */
export type RecordAccess = (orgId: number, access: Access) => Promise<void>;

interface Batch {
  rows: Map<string, Access & { count: number }>;
  recorded: PromiseWithResolvers<void>;
}

export function createAccessLog(sql: Sql, log: Logger): RecordAccess {
  const batches = new Map<number, Batch>();
  let isWriting = false;

  async function writeAll() {
    isWriting = true;
    for (const [orgId, batch] of batches) {
      batches.delete(orgId);
      const rows = [...batch.rows.values()].map(({ tokenId, target, requestId, ...row }) => ({
        ...row,
        token_id: tokenId,
        // A client chose it, and what cannot be stored would take the others' rows along.
        target_id: target.toWellFormed().replaceAll('\0', '\ufffd'),
        request_id: requestId,
      }));
      try {
        await sql`select api.record_accesses(${orgId}, ${JSON.stringify(rows)}::text::jsonb)`;
        batch.recorded.resolve();
      } catch (error) {
        // In place of the audit log.
        log.error({ error, org_id: orgId, accesses: rows }, 'accesses could not be recorded');
        batch.recorded.reject(error);
      }
    }
    isWriting = false;
  }

  return (orgId, access) => {
    const batch = batches.get(orgId) ?? { rows: new Map(), recorded: Promise.withResolvers<void>() };
    batches.set(orgId, batch);
    const { actor, tokenId, action, outcome, status, address, requestId } = access;
    // Who hammers at a door writes a line for each look at it, not one for each knock. Each read is one of its own.
    const key =
      outcome === 'refused'
        ? JSON.stringify([actor, tokenId, action, status, address])
        : `${requestId} ${batch.rows.size}`;
    const same = batch.rows.get(key);
    if (same) same.count++;
    else batch.rows.set(key, { ...access, count: 1 });
    if (!isWriting) void writeAll();
    return batch.recorded.promise;
  };
}
