// Ids of series and log streams: bounded caches in front of the functions that find or make them, one look-up a sample or line.
import { LRUCache } from 'lru-cache';
import { arrayLiteral, type Sql } from '../db.ts';
import { isMigrating } from '../errors.ts';

// What a key and its entry take, for series of a few short labels.
const averageBytes = 300;

export interface IdCache<Identity> {
  /** The id that belongs to a key, if it is known. Whatever is the same has the same key; another org's has not. */
  get(key: string): number | undefined;
  /** Finds the ids that the cache lacks, made as needed, and writes each to all of its places. */
  resolve(orgId: number, missing: Missing<Identity>, ids: Int32Array): Promise<void>;
  size(): number;
}

/** What a request names and the cache does not know, by key: with the places in the request where it does. */
export type Missing<Identity> = Map<string, { identity: Identity; indexes: number[] }>;

export interface SeriesIdentity {
  name: string;
  service_name: string;
  labels: Record<string, string>;
}

export function createSeriesCache(sql: Sql, maxSize: number): IdCache<SeriesIdentity> {
  return createIdCache(maxSize, async (orgId, identities) => {
    const [row] = await sql<{ ids: number[] }[]>`
      select to_jsonb(api.ensure_series(${orgId}::int, ${JSON.stringify(identities)}::text::jsonb)) as ids`;
    return row!.ids;
  });
}

export interface LogStreamIdentity {
  serviceName: string;
  level: string;
}

export function createLogStreamCache(sql: Sql, maxSize: number): IdCache<LogStreamIdentity> {
  return createIdCache(maxSize, async (orgId, identities) => {
    const [row] = await sql<{ ids: number[] }[]>`
      select to_jsonb(api.ensure_log_streams(
        ${orgId}::int,
        ${arrayLiteral(identities.map((stream) => stream.serviceName))}::text::text[],
        ${arrayLiteral(identities.map((stream) => stream.level))}::text::text[]
      )) as ids`;
    return row!.ids;
  });
}

function createIdCache<Identity>(
  maxSize: number,
  ask: (orgId: number, identities: Identity[]) => Promise<number[]>,
): IdCache<Identity> {
  // Bounded in bytes as well: keys hold all of a series' labels, in whatever order they were sent.
  const cache = new LRUCache<string, number>({
    max: maxSize,
    maxSize: maxSize * averageBytes,
    sizeCalculation: (_, key) => 100 + key.length,
  });

  async function resolve(orgId: number, missing: Missing<Identity>, ids: Int32Array) {
    if (missing.size === 0) return;
    const identities = [...missing.values()].map(({ identity }) => identity);
    const found = await ask(orgId, identities).catch((error) => {
      if (isMigrating(error)) return ask(orgId, identities);
      throw error;
    });
    for (const [j, [key, { indexes }]] of [...missing].entries()) {
      cache.set(key, found[j]!);
      for (const i of indexes) ids[i] = found[j]!;
    }
  }

  return { get: (key) => cache.get(key), resolve, size: () => cache.size };
}
