// Ids of series: a bounded cache in front of api.ensure_series, one look-up a sample.
import { LRUCache } from 'lru-cache';
import type { Sql } from '../db.ts';
import { isMigrating } from '../errors.ts';

// What a key and its entry take, for series of a few short labels.
const averageBytes = 300;

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
  // Bounded in bytes as well: keys hold all of a series' labels, in whatever order they were sent.
  const cache = new LRUCache<string, number>({
    max: maxSize,
    maxSize: maxSize * averageBytes,
    sizeCalculation: (_, key) => 100 + key.length,
  });

  async function resolve(orgId: number, keys: string[], identities: SeriesIdentity[]) {
    const ask = async () => {
      const [row] = await sql<{ ids: number[] }[]>`
        select to_jsonb(api.ensure_series(${orgId}::int, ${JSON.stringify(identities)}::text::jsonb)) as ids`;
      return row!.ids;
    };
    const ids = await ask().catch((error) => {
      if (isMigrating(error)) return ask();
      throw error;
    });
    for (let i = 0; i < keys.length; i++) cache.set(keys[i]!, ids[i]!);
    return ids;
  }

  return { get: (key) => cache.get(key), resolve, size: () => cache.size };
}
