// make bench: measures a service of its own, on databases of its own, on the server that make up would use.
import { parseArgs } from 'node:util';
import postgres from 'postgres';
import { findServer } from '../db/server/find.ts';
import { roleUrl } from '../src/config.ts';
import { cloneDatabase, createTemplate, dropDatabases } from '../test/support/database.ts';
import { signToken, startService } from '../test/support/process.ts';
import { benchFairness } from './fairness.ts';
import { benchGate } from './gate.ts';
import { benchAnalytics, benchHistory, hosts, newHistory, storeHistory } from './history.ts';
import { benchCopy, benchIngest, ownIngest } from './ingest.ts';
import { logComparison, type Row } from './load.ts';
import { benchLogIngest, benchLogSearch, benchTails } from './logs.ts';
import { benchOverview } from './overview.ts';
import { benchPeers } from './peers.ts';
import { benchFleet, benchHealth } from './probes.ts';
import { benchQuery, dayTicks, newDay, ownQuery, storeDay } from './query.ts';
import { benchAlertLatency, benchRules } from './rules.ts';

const { values: options } = parseArgs({
  options: {
    only: { type: 'string' },
    seconds: { type: 'string', default: '5' },
    samples: { type: 'string' },
    peers: { type: 'boolean', default: false },
  },
});
const seconds = Number(options.seconds);
const day = newDay(Number(options.samples ?? 20_000_000));
if (
  !(
    seconds > 0 &&
    day.series > 0 &&
    ['ingest', 'query', 'history', 'probes', 'rules', 'logs', 'tenants', 'overview', undefined].includes(
      options.only,
    )
  )
)
  throw new Error(
    'usage: [--only ingest|query|history|probes|rules|logs|tenants|overview] [--seconds S] [--samples N] [--peers]',
  );
if (options.only === 'history') {
  await runHistory();
  process.exit();
}
if (options.only === 'probes') {
  await runProbes();
  process.exit();
}

if (options.only === 'rules') {
  await runRules();
  process.exit();
}
if (options.only === 'logs') {
  await runLogs();
  process.exit();
}
if (options.only === 'overview') {
  await runOverview();
  process.exit();
}
if (options.only === 'tenants') {
  await runTenants();
  process.exit();
}

const server = await createTemplate((await findServer(console.log)).url);
let ingestRows: Row[] = [];
let queryRows: Row[] = [];
try {
  const token = await signToken();
  if (options.only !== 'query') {
    const databaseUrl = await cloneDatabase(server);
    const api = await startService('api', { DATABASE_URL: databaseUrl });
    try {
      console.log(`\nIngest (${server.edition} edition, ${seconds} s each; samples a second)`);
      ingestRows = await benchIngest(ownIngest(api.url, token), seconds);
    } finally {
      await api.stop();
    }
    const copied = await benchCopy(databaseUrl, 500_000);
    console.log(`  ${'psql binary COPY, same table'.padEnd(32)} ${copied.toFixed(0).padStart(9)}/s`);
    const ratios = ingestRows.slice(0, 3).map((row) => (row.perSecond / copied).toFixed(2));
    console.log(`  batches, as shares of the COPY: ${ratios.join(', ')}`);
  }
  if (options.only !== 'ingest') {
    const databaseUrl = await cloneDatabase(server);
    console.log(
      `\nQueries (${server.edition} edition, ${day.series * dayTicks} samples of ${day.series} series)`,
    );
    const started = performance.now();
    await storeDay(databaseUrl, day);
    console.log(`  stored in ${((performance.now() - started) / 1000).toFixed(0)} s`);
    const api = await startService('api', { DATABASE_URL: databaseUrl });
    try {
      queryRows = await benchQuery(ownQuery(api.url, token), day);
    } finally {
      await api.stop();
    }
    console.log(`  p95 of the first: ${queryRows[0]!.p95.toFixed(1)} ms (goal: < 20 ms)`);
  }
} finally {
  await dropDatabases(server);
}

if (options.peers) {
  const ingestPeers =
    options.only === 'query' ? [] : await benchPeers('Ingest', ({ ingest }) => benchIngest(ingest, seconds));
  const queryPeers =
    options.only === 'ingest'
      ? []
      : await benchPeers('Queries', async ({ query, storeDay }) => benchQuery(query, await storeDay(day)));
  if (ingestPeers.length > 0) {
    logComparison('Ingest side by side (samples/s, ms)', ingestRows, ingestPeers);
    console.log(
      '  VictoriaMetrics acknowledges before data is durable: it keeps what came last in memory for some seconds.\n' +
        '  This service and InfluxDB, as set up here, answer after the samples have been flushed to disk.',
    );
  }
  if (queryPeers.length > 0) logComparison('Queries side by side (queries/s, ms)', queryRows, queryPeers);
}

async function runHistory() {
  const history = newHistory(Number(options.samples ?? 50_000_000));
  const server = await createTemplate((await findServer(console.log)).url);
  let rows: Row[];
  try {
    const token = await signToken();
    const databaseUrl = await cloneDatabase(server);
    console.log(`\nHistory (${server.edition} edition, ${history.metrics * hosts} series)`);
    await storeHistory(databaseUrl, history);
    const api = await startService('api', { DATABASE_URL: databaseUrl });
    try {
      rows = await benchHistory(ownQuery(api.url, token), history, true);
      await benchAnalytics(api.url, token, history);
    } finally {
      await api.stop();
    }
  } finally {
    await dropDatabases(server);
  }
  if (!options.peers) return;
  const peers = await benchPeers('History', async ({ query, storeHistory }) =>
    benchHistory(query, await storeHistory(history), false),
  );
  logComparison('History side by side (queries/s, ms)', rows, peers);
}

async function runProbes() {
  const server = await createTemplate((await findServer(console.log)).url);
  try {
    console.log(`\nHealth of 1000 services (${server.edition} edition)`);
    await benchHealth(await cloneDatabase(server), await signToken());
    const fleetSeconds = options.seconds === '5' ? 300 : seconds;
    console.log(`\n1000 services each 10 s, for ${fleetSeconds} s (${server.edition} edition)`);
    await benchFleet(await cloneDatabase(server), fleetSeconds);
  } finally {
    await dropDatabases(server);
  }
}

async function runRules() {
  const server = await createTemplate((await findServer(console.log)).url);
  try {
    console.log(`\nAlert rules on 5000 series each 10 s (${server.edition} edition)`);
    await benchRules(await cloneDatabase(server));
    await benchAlertLatency(await cloneDatabase(server), await signToken(), 60);
  } finally {
    await dropDatabases(server);
  }
}

async function runLogs() {
  const server = await createTemplate((await findServer(console.log)).url);
  try {
    const token = await signToken();
    console.log(`\nLogs (${server.edition} edition, ${seconds} s each; lines a second)`);
    await benchLogIngest(await cloneDatabase(server), token, seconds, 'with the index of words');
    const unindexed = await cloneDatabase(server);
    const sql = postgres(unindexed, { max: 1 });
    await sql`drop index obs.log_words`;
    await sql.end();
    await benchLogIngest(unindexed, token, seconds, 'without it');
    console.log(`\nTails (${4 * seconds} s each)`);
    await benchTails(await cloneDatabase(server), token, 4 * seconds);
    const lines = Number(options.samples ?? 10_000_000);
    console.log(`\nSearches (${server.edition} edition, one connection)`);
    const databaseUrl = await cloneDatabase(server);
    await benchLogSearch(databaseUrl, roleUrl(databaseUrl, 'obs_api'), token, lines);
  } finally {
    await dropDatabases(server);
  }
}

async function runTenants() {
  const server = await createTemplate((await findServer(console.log)).url);
  try {
    console.log('\nWhat stands before each request (20,000 with and without it, in turn, one connection)');
    await benchGate(await cloneDatabase(server));
    const history = newHistory(Number(options.samples ?? 5_000_000));
    const each = 3 * seconds;
    console.log(
      `\nOne org beside another that floods the service (${server.edition} edition, ${each} s each)`,
    );
    await benchFairness(await cloneDatabase(server), history, each);
  } finally {
    await dropDatabases(server);
  }
}

async function runOverview() {
  const server = await createTemplate((await findServer(console.log)).url);
  try {
    // Whole series of whole hosts: what is asked for is rounded, and 50 million are the least.
    const history = newHistory(Number(options.samples ?? 52_000_000));
    console.log(
      `\nOverview of 1000 services, 10,000 alerts and ${history.metrics * hosts * history.ticks} samples (${server.edition} edition)`,
    );
    const databaseUrl = await cloneDatabase(server);
    // Of samples the overview reads the last ten minutes, and no tier.
    await storeHistory(databaseUrl, history, false);
    await benchOverview(databaseUrl, await signToken());
  } finally {
    await dropDatabases(server);
  }
}
