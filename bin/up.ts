// make up: database, migration, API and worker in the background; says where they are and what to try.
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { migrate } from '../db/migrate.ts';
import { findDatabase } from '../db/server/find.ts';
import { type Config, parseConfig } from '../src/config.ts';
import { command, loadEnvironment, logFile, logTail, pidOf, startProcess } from './environment.ts';
import { mintToken } from './mint_token.ts';

await command(async () => {
  const started = performance.now();
  loadEnvironment();
  const database = await findDatabase(step);
  const config = parseConfig({ ...process.env, DATABASE_URL: database.url });
  const migrated = await migrate(database.url, () => {}, config);
  step(`TimescaleDB ${migrated.timescaledb} (${migrated.edition} edition, ${database.kind}) is migrated`);

  const wasRunning = pidOf('api') !== null;
  if (!wasRunning && (await isTaken(config))) {
    throw new Error(`Port ${config.port} is taken by another program: stop it, or set PORT in .env.`);
  }
  startProcess('api', { DATABASE_URL: database.url });
  startProcess('worker', { DATABASE_URL: database.url });
  const host = config.host && !['0.0.0.0', '::'].includes(config.host) ? config.host : 'localhost';
  const url = `http://${host}:${config.port}`;
  await untilReady(url);
  step(
    wasRunning ? 'API and worker are running already (make down stops them)' : 'API and worker are running',
  );

  const token = config.jwtSecret
    ? await mintToken(config.jwtSecret, { org: config.defaultOrg, role: 'admin' })
    : undefined;
  if (token) await untilObserved(url, token);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`
Ready in ${seconds} s.

  API        ${url}/api/v1
  Reference  ${url}/docs
  Health     ${url}/health
  Logs       make logs

${token ? tryThis(url, token, config) : 'Tokens come from the issuer behind JWT_JWKS_URL.'}`);
});

function step(line: string) {
  console.log(`- ${line}`);
}

function isTaken(config: Config): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = net.createServer();
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'EADDRINUSE'));
    probe.listen(config.port, config.host, () => probe.close(() => resolve(false)));
  });
}

async function untilReady(url: string) {
  const deadline = Date.now() + 60_000;
  let reason = 'no answer';
  while (Date.now() < deadline) {
    for (const name of ['api', 'worker'] as const) {
      if (!pidOf(name))
        throw new Error(`The ${name} ended at its start. The end of ${logFile(name)}:\n${logTail(name)}`);
    }
    try {
      const answer = await fetch(`${url}/health/ready`, { signal: AbortSignal.timeout(3_000) });
      if (answer.ok) return;
      reason = await answer.text();
    } catch (error) {
      reason = (error as Error).message;
    }
    await sleep(50);
  }
  throw new Error(
    `The API is not ready after a minute: ${reason}\nThe end of ${logFile('api')}:\n${logTail('api')}`,
  );
}

// The worker observes its host at once; wait for that, so that the first query has something to show.
async function untilObserved(url: string, token: string) {
  const deadline = Date.now() + 10_000;
  while (Date.now() < deadline) {
    const answer = await fetch(`${url}/api/v1/metrics?q=cpu_usage`, {
      headers: { Authorization: `Bearer ${token}` },
    });
    const { metrics } = (await answer.json()) as { metrics?: unknown[] };
    if (metrics?.length) return;
    await sleep(100);
  }
}

function tryThis(url: string, token: string, config: Config): string {
  return `An admin token for the org "${config.defaultOrg}" (make token ORG=… ROLE=… makes others), valid for a day:

  export TOKEN=${token}

Try:

  curl -s ${url}/api/v1/metrics -H "Authorization: Bearer $TOKEN"
  curl -s ${url}/api/v1/metrics -H "Authorization: Bearer $TOKEN" \\
    --json '{"name":"response_time_ms","value":12.5,"service_name":"auth"}'
`;
}
