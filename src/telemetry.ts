// The service's own metrics, in Prometheus' text format at /metrics.

import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Lag } from './routes/health.ts';

export type Telemetry = ReturnType<typeof createTelemetry>;

export function createTelemetry(read: {
  bufferedSamples: () => number;
  bufferedLogBytes: () => number;
  tailClients: () => number;
  cachedSeries: () => number;
  /** Null while it is not known. */
  lag: () => Promise<Lag | null>;
}) {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  new Gauge({
    name: 'obs_ingest_buffered_samples',
    help: 'Samples accepted and not yet committed',
    registers: [registry],
    collect() {
      this.set(read.bufferedSamples());
    },
  });
  new Gauge({
    name: 'obs_ingest_buffered_log_bytes',
    help: 'Size of log lines accepted and not yet committed',
    registers: [registry],
    collect() {
      this.set(read.bufferedLogBytes());
    },
  });
  new Gauge({
    name: 'obs_tail_clients',
    help: 'Live tails of logs',
    registers: [registry],
    collect() {
      this.set(read.tailClients());
    },
  });
  new Gauge({
    name: 'obs_series_cache_entries',
    help: 'Series whose id is in the cache',
    registers: [registry],
    collect() {
      this.set(read.cachedSeries());
    },
  });
  new Gauge({
    name: 'obs_probe_lag_seconds',
    help: 'How late the probe is that is due for longest, of any org: grows when no worker is there, or they do not keep up',
    registers: [registry],
    async collect() {
      const lag = (await read.lag())?.probes ?? null;
      if (lag === null) this.remove();
      else this.set(lag);
    },
  });
  new Gauge({
    name: 'obs_alerting_lag_seconds',
    help: 'How late the alert rule or the notification is that is due for longest, of any org: grows as obs_probe_lag_seconds does',
    labelNames: ['stage'] as const,
    registers: [registry],
    async collect() {
      const lag = await read.lag();
      for (const stage of ['rules', 'notifications'] as const) {
        const seconds = lag?.[stage] ?? null;
        if (seconds === null) this.remove({ stage });
        else this.set({ stage }, seconds);
      }
    },
  });
  return {
    registry,
    requestDuration: new Histogram({
      name: 'http_request_duration_seconds',
      help: "Time from the request's head to its answer",
      labelNames: ['method', 'route', 'status'] as const,
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers: [registry],
    }),
    committedSamples: new Counter({
      name: 'obs_ingest_committed_samples_total',
      help: 'Samples committed to the database',
      registers: [registry],
    }),
    committedLines: new Counter({
      name: 'obs_ingest_committed_log_lines_total',
      help: 'Log lines committed to the database',
      registers: [registry],
    }),
    droppedTails: new Counter({
      name: 'obs_tail_dropped_total',
      help: 'Live tails ended because their client did not keep up',
      registers: [registry],
    }),
    failedTailReads: new Counter({
      name: 'obs_tail_failed_reads_total',
      help: 'Times that what arrived could not be read for live tails; it is tried again',
      registers: [registry],
    }),
    flushDuration: new Histogram({
      name: 'obs_ingest_flush_duration_seconds',
      help: 'Time that a flush of samples (signal metrics) or log lines (logs) took, failed ones included',
      labelNames: ['signal'] as const,
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
      registers: [registry],
    }),
    flushRows: new Histogram({
      name: 'obs_ingest_flush_rows',
      help: 'Samples, or log lines, in a flush',
      labelNames: ['signal'] as const,
      buckets: [1, 10, 100, 1000, 2500, 5000, 10_000],
      registers: [registry],
    }),
  };
}
