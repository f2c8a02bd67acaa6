// Ids of series: a bounded cache in front of api.ensure_series, one look-up a sample.
import { LRUCache } from 'lru-cache';
import type { Sql } from '../db.ts';

export interface SeriesIdentity {
  name: string;
  service_name: string;
  labels: Record<string, string>;
}

export interface SeriesCache {
  /** The id that belongs to a key of seriesKey, if it is known. */
  get(key: string): number | undefined;
  /** Ids for identities that the cache lacks, in order, making series as needed; they are cached under keys. */
  resolve(orgId: number, keys: string[], identities: SeriesIdentity[]): Promise<number[]>;
  size(): number;
}

export function createSeriesCache(sql: Sql, maxSize: number): SeriesCache {
  const cache = new LRUCache<string, number>({ max: maxSize });

  async function resolve(orgId: number, keys: string[], identities: SeriesIdentity[]) {
    const [row] = await sql<{ ids: number[] }[]>`
      select api.ensure_series(${orgId}::int, ${JSON.stringify(identities)}::text::jsonb) as ids`;
    const ids = row!.ids;
    for (let i = 0; i < keys.length; i++) cache.set(keys[i]!, ids[i]!);
    return ids;
  }

  return { get: (key) => cache.get(key), resolve, size: () => cache.size };
}
