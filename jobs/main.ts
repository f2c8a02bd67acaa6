// Starts the worker: the lists of its tasks, when each runs, and runners that outlive the database.
import os from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type CronItem,
  Logger,
  parseCronItems,
  type Runner,
  type RunnerOptions,
  run,
  type TaskList,
} from 'graphile-worker';
import { loadConfig } from '../src/config.ts';
import { connect } from '../src/db.ts';
import { self } from '../src/liftos.ts';
import { createLog } from '../src/log.ts';
import { createSealer } from '../src/seal.ts';
import { recordEvery } from '../src/self_metrics.ts';
import { onStop } from '../src/stop.ts';
import { countLogs, countLogsTask } from './count_logs.ts';
import { recordDatabaseMetrics } from './database_metrics.ts';
import { dropExpired } from './drop_expired.ts';
import { eraseOrgs } from './erase_orgs.ts';
import { evaluateRules } from './evaluate.ts';
import { hostMetricsTask, recordHostMetrics } from './host_metrics.ts';
import { createJobMetrics } from './job_metrics.ts';
import { notify } from './notify.ts';
import { probeService } from './probe.ts';
import { purgeIdempotencyKeys } from './purge_idempotency_keys.ts';
import { purgeJobs } from './purge_jobs.ts';
import { refreshTiers } from './refresh_tiers.ts';
import { resealSecrets } from './reseal_secrets.ts';
import { takeSnapshots } from './take_snapshots.ts';

const config = loadConfig();
// Names are looked up in Node's pool of threads, four by default: one for each probe, so that none waits for another's
// resolver. (1024 is libuv's limit.)
process.env.UV_THREADPOOL_SIZE ??= String(Math.min(1024, config.probeConcurrency + 16));

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

// One to claim, one to record, one to heal: each batches by itself.
const probeSql = connect(config.workerDatabaseUrl, {
  name: 'obs-worker-probes',
  max: 3,
  statementTimeoutMs: config.statementTimeoutMs,
});

// An evaluation may take a while, a claim must not wait for it.
const ruleSql = connect(config.workerDatabaseUrl, {
  name: 'obs-worker-rules',
  max: config.workerConcurrency,
  statementTimeoutMs: Math.min(10_000, config.statementTimeoutMs),
});
const notificationSql = connect(config.workerDatabaseUrl, {
  name: 'obs-worker-notifications',
  max: 4,
  statementTimeoutMs: Math.min(10_000, config.statementTimeoutMs),
});

const sealer = createSealer(config.secretsKeys);
const host = os.hostname();
const hostTask = hostMetricsTask(host);

const taskList: TaskList = {
  [hostTask]: recordHostMetrics({ sql, org: config.defaultOrg, host }),
  [countLogsTask]: countLogs(sql),
  purge_idempotency_keys: purgeIdempotencyKeys(sql),
  purge_jobs: purgeJobs(sql),
  take_snapshots: takeSnapshots(sql, log),
  database_metrics: recordDatabaseMetrics(sql, config.defaultOrg),
  refresh_tiers: refreshTiers(tierSql),
  drop_expired: dropExpired(tierSql),
  erase_orgs: eraseOrgs(tierSql, log),
  reseal_secrets: resealSecrets(sql, sealer, log),
};

const crontab: CronItem[] = [
  // These schedule themselves every 10 s; this sets them going again should a job be lost.
  ...[hostTask, countLogsTask].map(
    (task): CronItem => ({
      task,
      match: '* * * * *',
      options: { jobKey: task, jobKeyMode: 'preserve_run_at', backfillPeriod: 0 },
    }),
  ),
  {
    task: 'purge_idempotency_keys',
    match: '17 * * * *',
    options: { jobKey: 'purge_idempotency_keys', backfillPeriod: 0 },
  },
  { task: 'purge_jobs', match: '27 * * * *', options: { jobKey: 'purge_jobs', backfillPeriod: 0 } },
  ...['take_snapshots', 'database_metrics'].map(
    (task): CronItem => ({
      task,
      match: '* * * * *',
      options: { jobKey: task, maxAttempts: 1, backfillPeriod: 0 },
    }),
  ),
  {
    task: 'refresh_tiers',
    match: '* * * * *',
    options: { jobKey: 'refresh_tiers', maxAttempts: 1, backfillPeriod: 0 },
  },
  { task: 'drop_expired', match: '7 * * * *', options: { jobKey: 'drop_expired', backfillPeriod: 0 } },
  {
    task: 'erase_orgs',
    match: '* * * * *',
    options: { jobKey: 'erase_orgs', maxAttempts: 1, backfillPeriod: 0 },
  },
  {
    task: 'reseal_secrets',
    match: '37 * * * *',
    options: { jobKey: 'reseal_secrets', maxAttempts: 1, backfillPeriod: 0 },
  },
];

// A runner for jobs that are due to the moment and must not wait for a long one. It takes those that are due in one go, a few times a
// second, whatever its concurrency.
const promptRunner = (concurrency: number, taskList: TaskList): RunnerOptions => ({
  concurrency,
  maxPoolSize: 3,
  pollInterval: 200,
  taskList,
  parsedCronItems: [],
  preset: {
    worker: {
      localQueue: {
        size: concurrency,
        // Each job that is added is announced: without this each would make every worker look.
        refetchDelay: { durationMs: 100, threshold: concurrency, maxAbortThreshold: Infinity },
      },
      completeJobBatchDelay: 50,
      failJobBatchDelay: 50,
    },
  },
});

// Of probes and deliveries, which wait for others most of the time, more are taken than are made at once: an org of which many wait
// for their turn does not keep others' from being taken (see createShare).
const promptRunners = [
  promptRunner(4 * config.probeConcurrency, {
    probe: probeService({
      sql: probeSql,
      log,
      worker: host,
      homeOrg: config.defaultOrg,
      egress: config.egressPrivate,
      selfEndpoint: self(config, config.port).health_endpoint,
      concurrency: config.probeConcurrency,
    }),
  }),
  promptRunner(4 * config.notifyConcurrency, {
    notify: notify({
      sql: notificationSql,
      log,
      egress: config.egressPrivate,
      smtp: { url: config.smtpUrl, from: config.smtpFrom },
      sealer,
      concurrency: config.notifyConcurrency,
    }),
  }),
  promptRunner(config.workerConcurrency, { evaluate: evaluateRules({ sql: ruleSql, log }) }),
];

const queueLog = new Logger((scope) => (level, message, meta) => {
  const line = { ...scope, ...(meta?.error ? { error: meta.error } : {}) };
  // Fewer connections than jobs at once are what probes are meant to have.
  if (message.includes('smaller than concurrency')) return;
  if (level === 'error') log.error(line, message);
  else if (level === 'warning') log.warn(line, message);
  else log.debug(line, message);
});

const runners = new Set<Runner>();
const jobMetrics = createJobMetrics(`${host}:${process.pid}`);
const ending = new AbortController();
let isStopping = false;

async function work(options: RunnerOptions, onStart: (runner: Runner) => Promise<void>) {
  while (!isStopping) {
    let runner: Runner | undefined;
    try {
      runner = await run({
        connectionString: config.queueDatabaseUrl,
        noHandleSignals: true,
        logger: queueLog,
        ...options,
      });
      runners.add(runner);
      jobMetrics.watch(runner);
      const { events, promise } = runner;
      // When the database goes away in the middle of its bookkeeping it may never settle.
      const isBroken = new Promise<void>((resolve) => {
        for (const event of ['pool:fatalError', 'pool:gracefulShutdown'] as const)
          events.once(event, () => setTimeout(resolve, 10_000).unref());
      });
      await Promise.race([onStart(runner).then(() => promise), isBroken]);
      if (!isStopping) {
        void runner.stop().catch(() => {});
        await sleep(1000);
      }
    } catch (error) {
      if (isStopping) return;
      // graphile-worker gives up after a number of failures in a row; the database may yet come back.
      log.error({ error }, 'the queue cannot be worked, trying again');
      await runner?.stop().catch(() => {});
      await sleep(1000);
    } finally {
      if (runner) runners.delete(runner);
    }
  }
}

// Not a job, which could be lost like those that it finds missing. Every worker does it: what one has found, others pass over.
async function heal(what: string, look: () => PromiseLike<{ healed: number }[]>) {
  while (!isStopping) {
    try {
      const [row] = await look();
      if (row!.healed > 0) log.debug({ healed: row!.healed }, `jobs of overdue ${what} were added`);
    } catch (error) {
      log.debug({ error }, `overdue ${what} could not be looked for`);
    }
    await sleep(2000, undefined, { ref: false });
  }
}

// graphile-worker does not wait for what it tells the database of a finished job: were the database away, that would end the process.
process.on('unhandledRejection', (error) => log.error({ error }, 'something failed that nobody waited for'));

onStop(log, config.shutdownTimeoutMs, async () => {
  isStopping = true;
  ending.abort();
  await Promise.all([...runners].map((runner) => runner.stop()));
  await Promise.all(
    [sql, tierSql, probeSql, ruleSql, notificationSql].map((pool) => pool.end({ timeout: 5 })),
  );
});

for (const options of promptRunners) void work(options, async () => {});
void recordEvery(
  jobMetrics.read,
  (samples) => sql`select job.record_samples(${config.defaultOrg}, ${JSON.stringify(samples)}::text::jsonb)`,
  log,
  ending.signal,
);
void heal('probes', () => probeSql<{ healed: number }[]>`select job.heal_probes() as healed`);
void heal('alerts', () => sql<{ healed: number }[]>`select job.heal_alerts() as healed`);
void work(
  {
    concurrency: config.workerConcurrency,
    maxPoolSize: config.workerConcurrency + 2,
    pollInterval: 1000,
    taskList,
    parsedCronItems: parseCronItems(crontab),
  },
  async (runner) => {
    // At once, unless the next slot is scheduled already.
    for (const task of [hostTask, countLogsTask, 'take_snapshots', 'database_metrics', 'reseal_secrets'])
      await runner.addJob(task, {}, { jobKey: task, jobKeyMode: 'preserve_run_at' });
    log.info('working');
  },
);
