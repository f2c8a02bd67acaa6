// For tasks that run more often than the crontab's minute: each run schedules the next one, under the task's name as its key.
import type { JobHelpers } from 'graphile-worker';

/**
 * To be called first, so that a failure later costs one run and not all that follow. At the next multiple of so many seconds by the
 * database's clock, which is also what says when a job is due.
 */
export async function repeat(helpers: JobHelpers, task: string, seconds: number): Promise<void> {
  await helpers.query(
    `select graphile_worker.add_job($1, '{}'::json, job_key => $1, max_attempts => 1,
       run_at => to_timestamp((floor(extract(epoch from now()) / $2::int) + 1) * $2::int))`,
    [task, seconds],
  );
}
