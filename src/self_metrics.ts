// The service's own figures as metrics of the default org, so that it can be looked at as any service is. What Prometheus reads at
// /metrics is the same in more detail.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Sql } from './db.ts';
import type { Telemetry } from './telemetry.ts';
import { serviceName } from './version.ts';

export interface SelfSample {
  name: string;
  value: number;
  labels?: Record<string, string>;
}

const intervalMs = 10_000;

/** Reads samples every ten seconds and hands them on; what fails is left out, and tried again with the next. Ends with the signal. */
export async function recordEvery(
  read: () => Promise<SelfSample[]>,
  record: (samples: (SelfSample & { service_name: string })[]) => PromiseLike<unknown>,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    await sleep(intervalMs - (Date.now() % intervalMs), undefined, { signal, ref: false }).catch(() => {});
    if (signal.aborted) return;
    try {
      const samples = (await read()).filter(({ value }) => Number.isFinite(value));
      if (samples.length > 0)
        await record(samples.map((sample) => ({ ...sample, service_name: serviceName })));
    } catch (error) {
      log.debug({ error }, 'own metrics cannot be recorded');
    }
  }
}

/**
 * What an API process has to say of itself: http_requests_total by status class, response_time_ms (average since the last time), what was committed and how
 * long a flush takes, how long the database takes to answer, memory and event loop.
 */
export function createApiReader(
  telemetry: Telemetry,
  sql: Sql,
  instance: string,
): () => Promise<SelfSample[]> {
  let last = { count: 0, seconds: 0 };
  let lastFlush = { count: 0, seconds: 0 };

  return async () => {
    const asked = performance.now();
    await sql`select 1`;
    const databaseMs = performance.now() - asked;

    const requests = await telemetry.requestDuration.get();
    const byClass = new Map<string, number>();
    const total = { count: 0, seconds: 0 };
    for (const { metricName, labels, value } of requests.values) {
      if (metricName?.endsWith('_sum')) total.seconds += value;
      if (!metricName?.endsWith('_count')) continue;
      total.count += value;
      const status = `${String(labels.status)[0]}xx`;
      byClass.set(status, (byClass.get(status) ?? 0) + value);
    }
    const flushes = await telemetry.flushDuration.get();
    const flush = { count: 0, seconds: 0 };
    for (const { metricName, value } of flushes.values) {
      if (metricName?.endsWith('_sum')) flush.seconds += value;
      if (metricName?.endsWith('_count')) flush.count += value;
    }
    const averageMs = (now: typeof total, before: typeof total) =>
      now.count > before.count
        ? (1000 * (now.seconds - before.seconds)) / (now.count - before.count)
        : Number.NaN;
    const labels = { instance };
    const samples: SelfSample[] = [
      ...[...byClass].map(([status, value]) => ({
        name: 'http_requests_total',
        value,
        labels: { instance, status },
      })),
      { name: 'response_time_ms', value: averageMs(total, last), labels },
      { name: 'ingest_flush_ms', value: averageMs(flush, lastFlush), labels },
      { name: 'ingest_samples_total', value: await totalOf(telemetry.committedSamples), labels },
      { name: 'ingest_log_lines_total', value: await totalOf(telemetry.committedLines), labels },
      { name: 'database_ping_ms', value: databaseMs, labels },
      { name: 'process_resident_memory_bytes', value: process.memoryUsage.rss(), labels },
    ];
    last = total;
    lastFlush = flush;
    return samples;
  };
}

async function totalOf(counter: Telemetry['committedSamples']): Promise<number> {
  const { values } = await counter.get();
  return values.reduce((sum, { value }) => sum + value, 0);
}
