// make up: database, migration, API and worker in the background; says where they are and what to try.
import { createHash } from 'node:crypto';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, fetch } from 'undici';
import { migrate } from '../db/migrate.ts';
import { findDatabase } from '../db/server/find.ts';
import { type Config, parseConfig } from '../src/config.ts';
import { ownUrl } from '../src/liftos.ts';
import {
  command,
  hasOtherSettings,
  loadEnvironment,
  logLength,
  messagesSince,
  type ProcessName,
  pidOf,
  processes,
  startProcess,
  stopProcess,
} from './environment.ts';
import { mintToken } from './mint_token.ts';

// Of its own certificate only clients can say whether it is for the name that they use.
const dispatcher = new Agent({ connect: { rejectUnauthorized: false } });

await command(async () => {
  const started = performance.now();
  loadEnvironment();
  // Checked before anything is started; which database it will be does not matter for that.
  const { port } = parseConfig({ DATABASE_URL: 'postgres://not.known.yet', ...process.env });
  if (port === 0) throw new Error('PORT: 0, any free port, is of no use here: give a number.');

  const database = await findDatabase(step);
  const config = parseConfig({ ...process.env, DATABASE_URL: database.url });
  const migrated = await migrate(database.url, () => {}, config);
  step(`TimescaleDB ${migrated.timescaledb} (${migrated.edition} edition, ${database.kind}) is migrated`);

  const url = ownUrl(config, config.port);
  // Its hash, since it holds secrets.
  const settings = createHash('sha256').update(JSON.stringify(config)).digest('hex');
  const missing = (Object.keys(processes) as ProcessName[]).filter((name) => pidOf(name) === null);
  for (const name of Object.keys(processes) as ProcessName[]) {
    if (!missing.includes(name) && hasOtherSettings(name, settings)) {
      throw new Error(`The ${name} runs with other settings than these. Run make down first.`);
    }
  }
  if (missing.includes('api') && (await isTaken(config))) {
    throw new Error(`Port ${config.port} is taken by another program: stop it, or set PORT in .env.`);
  }
  const logged = { api: logLength('api'), worker: logLength('worker') };
  for (const name of missing) startProcess(name, { DATABASE_URL: database.url }, settings);
  try {
    await untilReady(url, logged);
  } catch (error) {
    for (const name of missing) await stopProcess(name);
    throw error;
  }
  step(
    missing.length === 0
      ? 'API and worker are running already (make down stops them)'
      : 'API and worker are running',
  );

  const token = config.jwtSecret
    ? await mintToken(config.jwtSecret, { org: config.defaultOrg, role: 'admin' })
    : undefined;
  if (token) await untilObserved(url, token);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`
Ready in ${seconds} s.

  Dashboard  ${token ? `${url}/signin#token=${token}` : url}
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

async function untilReady(url: string, logged: Record<ProcessName, number>) {
  const deadline = Date.now() + 60_000;
  let reason = 'no answer';
  while (Date.now() < deadline) {
    let isReady = false;
    try {
      const answer = await fetch(`${url}/health/ready`, { dispatcher, signal: AbortSignal.timeout(3_000) });
      isReady = answer.ok;
      reason = await answer.text();
    } catch (error) {
      reason = (error as Error).message;
    }
    for (const name of ['api', 'worker'] as const) {
      if (!pidOf(name))
        throw new Error(`The ${name} ended at its start:\n${messagesSince(name, logged[name])}`);
    }
    if (isReady) return;
    await sleep(50);
  }
  throw new Error(`The API is not ready after a minute: ${reason}\n${messagesSince('api', logged.api)}`);
}

// The worker observes its host at once; wait for that, so that the first query has something to show.
async function untilObserved(url: string, token: string) {
  const deadline = Date.now() + 10_000;
  while (Date.now() < deadline) {
    const answer = await fetch(`${url}/api/v1/metrics?q=cpu_usage`, {
      dispatcher,
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
  curl -s ${url}/api/v1/logs -H "Authorization: Bearer $TOKEN" \\
    --json '{"service_name":"auth","level":"warn","message":"token rejected for user 42"}'
  curl -s "${url}/api/v1/logs?q=rejected" -H "Authorization: Bearer $TOKEN"
  curl -s ${url}/api/v1/health/services -H "Authorization: Bearer $TOKEN"

make seed registers the six LiftOS services to be probed; make demo fills the org with a history of 30 days to look at.
`;
}
