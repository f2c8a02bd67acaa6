// Which times samples and log lines may have: from their retention, or the org's, to a day ahead.
import { LRUCache } from 'lru-cache';
import type { Sql } from '../db.ts';
import { unavailable } from '../errors.ts';
import type { TimeBounds } from './metrics.ts';

const dayMicros = 86_400e6;
const refreshMs = 60_000;

/**
 * Answers the accepted times for an org's samples, or lines, at the moment of the call; retentions are read from the
 * database once a minute.
 */
export function createTimeBounds(
  sql: Sql,
  tableName: 'sample' | 'log',
): (orgId: number) => Promise<TimeBounds> {
  const maxAges = new LRUCache<number, number>({
    max: 10_000,
    ttl: refreshMs,
    // An old figure will do while a new one is read, or the database is away; only the first has to be waited for.
    allowStale: true,
    noDeleteOnStaleGet: true,
    noDeleteOnFetchRejection: true,
    allowStaleOnFetchRejection: true,
    async fetchMethod(orgId) {
      const [limits] = await sql<{ max_age_seconds: number | null }[]>`
        select max_age_seconds from api.get_ingest_limits(${orgId}, ${tableName})`;
      return (limits?.max_age_seconds ?? Number.POSITIVE_INFINITY) * 1e6;
    },
  });
  return async (orgId) => {
    const maxAge = await maxAges.fetch(orgId);
    if (maxAge === undefined)
      throw unavailable('database_unavailable', 'The database cannot be reached. Try again shortly.');
    const now = Date.now() * 1000;
    return { min: now - maxAge, max: now + dayMicros };
  };
}
