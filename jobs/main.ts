// Starts the worker: the list of its tasks, when each runs, and a runner that outlives the database.
import os from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CronItem, Logger, parseCronItems, type Runner, run, type TaskList } from 'graphile-worker';
import { loadConfig } from '../src/config.ts';
import { connect } from '../src/db.ts';
import { createLog } from '../src/log.ts';
import { onStop } from '../src/stop.ts';
import { dropExpired } from './drop_expired.ts';
import { hostMetricsTask, recordHostMetrics } from './host_metrics.ts';
import { purgeIdempotencyKeys } from './purge_idempotency_keys.ts';
import { refreshTiers } from './refresh_tiers.ts';

const config = loadConfig();
const log = createLog(config, 'worker');
// Two roles: the queue's tables answer to obs_queue alone, everything else goes through functions of schema job.
const sql = connect(config.workerDatabaseUrl, {
  name: 'obs-worker',
  max: config.workerConcurrency,
  statementTimeoutMs: config.statementTimeoutMs,
});

// A day of samples in one statement can take longer than what anyone waits for.
const tierSql = connect(config.workerDatabaseUrl, {
  name: 'obs-worker-tiers',
  max: 1,
  statementTimeoutMs: 600_000,
});

const host = os.hostname();
const hostTask = hostMetricsTask(host);

const taskList: TaskList = {
  [hostTask]: recordHostMetrics({ sql, org: config.defaultOrg, host }),
  purge_idempotency_keys: purgeIdempotencyKeys(sql),
  refresh_tiers: refreshTiers(tierSql),
  drop_expired: dropExpired(tierSql),
};

const crontab: CronItem[] = [
  // Schedules itself every 10 s; this sets it going again should a job be lost.
  {
    task: hostTask,
    match: '* * * * *',
    options: { jobKey: hostTask, jobKeyMode: 'preserve_run_at', backfillPeriod: 0 },
  },
  {
    task: 'purge_idempotency_keys',
    match: '17 * * * *',
    options: { jobKey: 'purge_idempotency_keys', backfillPeriod: 0 },
  },
  {
    task: 'refresh_tiers',
    match: '* * * * *',
    options: { jobKey: 'refresh_tiers', maxAttempts: 1, backfillPeriod: 0 },
  },
  { task: 'drop_expired', match: '7 * * * *', options: { jobKey: 'drop_expired', backfillPeriod: 0 } },
];

const queueLog = new Logger((scope) => (level, message, meta) => {
  const line = { ...scope, ...(meta?.error ? { error: meta.error } : {}) };
  if (level === 'error') log.error(line, message);
  else if (level === 'warning') log.warn(line, message);
  else log.debug(line, message);
});

let runner: Runner | undefined;
let isStopping = false;

async function work() {
  while (!isStopping) {
    try {
      runner = await run({
        connectionString: config.queueDatabaseUrl,
        concurrency: config.workerConcurrency,
        maxPoolSize: config.workerConcurrency + 2,
        pollInterval: 1000,
        noHandleSignals: true,
        taskList,
        parsedCronItems: parseCronItems(crontab),
        logger: queueLog,
      });
      // Observed at once, unless the next slot is scheduled already.
      await runner.addJob(hostTask, {}, { jobKey: hostTask, jobKeyMode: 'preserve_run_at' });
      log.info('working');
      await runner.promise;
    } catch (error) {
      if (isStopping) return;
      // graphile-worker gives up after a number of failures in a row; the database may yet come back.
      log.error({ error }, 'the queue cannot be worked, trying again');
      await runner?.stop().catch(() => {});
      await sleep(1000);
    }
  }
}

onStop(log, config.shutdownTimeoutMs, async () => {
  isStopping = true;
  await runner?.stop();
  await Promise.all([sql.end({ timeout: 5 }), tierSql.end({ timeout: 5 })]);
});

void work();
