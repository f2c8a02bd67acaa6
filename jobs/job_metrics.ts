// What a worker process has done, as metrics of the default org: jobs_total by task and outcome, and job_duration_ms, the average since
// the last time.
import type { Runner } from 'graphile-worker';
import type { SelfSample } from '../src/self_metrics.ts';

export interface JobMetrics {
  /** Counts the jobs of a runner from now on. */
  watch(runner: Runner): void;
  read(): Promise<SelfSample[]>;
}

interface Figures {
  done: number;
  failed: number;
  /** Since they were read last. */
  count: number;
  totalMs: number;
}

export function createJobMetrics(instance: string): JobMetrics {
  const figures = new Map<string, Figures>();
  const startedAt = new WeakMap<object, number>();

  return {
    watch({ events }) {
      events.on('job:start', ({ job }) => startedAt.set(job, performance.now()));
      events.on('job:complete', ({ job, error }) => {
        // A task of one host is a task all the same.
        const task = job.task_identifier.split(':')[0]!;
        let known = figures.get(task);
        if (!known) {
          known = { done: 0, failed: 0, count: 0, totalMs: 0 };
          figures.set(task, known);
        }
        if (error) known.failed++;
        else known.done++;
        const started = startedAt.get(job);
        if (started === undefined) return;
        known.count++;
        known.totalMs += performance.now() - started;
      });
    },
    async read() {
      return [...figures].flatMap(([task, known]): SelfSample[] => {
        const averageMs = known.totalMs / known.count;
        known.count = 0;
        known.totalMs = 0;
        return [
          { name: 'jobs_total', value: known.done, labels: { instance, task, outcome: 'done' } },
          { name: 'jobs_total', value: known.failed, labels: { instance, task, outcome: 'failed' } },
          { name: 'job_duration_ms', value: averageMs, labels: { instance, task } },
        ];
      });
    },
  };
}
