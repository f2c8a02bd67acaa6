// Which times samples may have: from the retention of raw samples to a day ahead.
import type { Sql } from '../db.ts';
import type { TimeBounds } from './metrics.ts';

const dayMicros = 86_400e6;
const refreshMs = 60_000;

/** Answers the accepted times at the moment of the call; the retention is read from the database once a minute. */
export function createTimeBounds(sql: Sql): () => Promise<TimeBounds> {
  let maxAgeMicros = Number.POSITIVE_INFINITY;
  let readAt = Number.NEGATIVE_INFINITY;
  let reading: Promise<void> | undefined;

  async function read() {
    try {
      const [limits] = await sql<
        { max_age_seconds: number }[]
      >`select max_age_seconds from api.get_ingest_limits()`;
      maxAgeMicros = limits ? limits.max_age_seconds * 1e6 : Number.POSITIVE_INFINITY;
      readAt = performance.now();
    } finally {
      reading = undefined;
    }
  }

  return async () => {
    if (performance.now() - readAt > refreshMs) {
      reading ??= read();
      // An old figure will do while the database is away; only the first has to be there.
      if (readAt === Number.NEGATIVE_INFINITY) await reading;
      else reading.catch(() => {});
    }
    const now = Date.now() * 1000;
    return { min: now - maxAgeMicros, max: now + dayMicros };
  };
}
