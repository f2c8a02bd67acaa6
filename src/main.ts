// Starts the API; nothing else.
import { randomUUID } from 'node:crypto';
import type { Server } from 'node:http';
import https from 'node:https';
import os from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { serve } from '@hono/node-server';
import { createApp } from './app.ts';
import { loadConfig } from './config.ts';
import { connect, connectSession, listen } from './db.ts';
import { codeOf, isConnectionError, problemDocument, unreadable } from './errors.ts';
import { liftosServices, registerServices, self } from './liftos.ts';
import { createLog } from './log.ts';
import { connectRedis } from './redis.ts';
import { createApiReader, recordEvery } from './self_metrics.ts';
import { onStop } from './stop.ts';
import { readCertificate, reloadCertificate, type TlsFiles } from './tls.ts';

const config = loadConfig();
const log = createLog(config, 'api');
const openPool = (name: string, max: number, statementTimeoutMs = config.statementTimeoutMs) =>
  connect(config.apiDatabaseUrl, { name, max, statementTimeoutMs });
const sql = openPool('obs-api', config.poolSize);
const controlSql = openPool('obs-api-control', 3);
const exportSql = openPool('obs-api-export', 4);
// What one org's tails take must not keep those of others waiting.
const tailSql = openPool('obs-api-tail', 2, Math.min(5_000, config.statementTimeoutMs));
const openSessions = () =>
  Array.from({ length: config.ingestConnections }, () =>
    connectSession(config.apiDatabaseUrl, {
      name: 'obs-api-ingest',
      statementTimeoutMs: config.statementTimeoutMs,
    }),
  );
const sessions = openSessions();
const logSessions = openSessions();
const redis = config.redisUrl ? connectRedis(config.redisUrl, log) : undefined;
if (config.secretsKeys.length === 0)
  log.warn('SECRETS_KEY is not set: secrets of channels are stored readable');
const { app, telemetry, startDraining, drain, inFlight } = createApp({
  config,
  log,
  sql,
  controlSql,
  sessions,
  logSessions,
  exportSql,
  tailSql,
  redis,
  listen: (onNotify, onListening) =>
    listen(config.apiDatabaseUrl, { name: 'obs-api-listen' }, 'obs_log', onNotify, onListening),
});

// Listens at once: until the database is there requests get 503 and /health/ready says why.
const server = serve(
  {
    fetch: app.fetch,
    port: config.port,
    hostname: config.host,
    ...(config.tls ? { createServer: https.createServer, serverOptions: certificate(config.tls) } : {}),
  },
  (address) => {
    log.info({ port: address.port }, 'listening');
    void register(address.port);
    void recordEvery(
      createApiReader(telemetry, controlSql, `${os.hostname()}:${address.port}`),
      recordSelf,
      log,
      ending.signal,
    );
  },
) as Server;
const stopReloading = config.tls ? reloadCertificate(server as https.Server, config.tls, log) : () => {};
// What Node refuses before there is a request.
server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
  if (error.code === 'ECONNRESET' || !socket.writable) return socket.destroy();
  const problem = problemDocument(unreadable(codeOf(error)), randomUUID());
  const body = JSON.stringify(problem);
  socket.end(
    `HTTP/1.1 ${problem.status} ${problem.title}\r\nContent-Type: application/problem+json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
});
server.on('error', (error: NodeJS.ErrnoException) => {
  const reason =
    error.code === 'EADDRINUSE'
      ? `port ${config.port} is taken: stop what uses it, or set PORT`
      : error.message;
  log.fatal(`cannot listen: ${reason}`);
  process.exit(1);
});

function certificate(files: TlsFiles): https.ServerOptions {
  try {
    return { ...readCertificate(files), minVersion: 'TLSv1.2' };
  } catch (error) {
    log.fatal(`TLS_CERT and TLS_KEY cannot be used: ${(error as Error).message}`);
    process.exit(78);
  }
}

let isStopping = false;
const ending = new AbortController();

async function recordSelf(samples: object[]) {
  const [row] = await controlSql<{ id: number }[]>`select api.ensure_org(${config.defaultOrg}) as id`;
  await controlSql`select api.record_samples(${row!.id}, ${JSON.stringify(samples)}::text::jsonb)`;
}

// Until the database is there, and migrated.
async function register(port: number) {
  const services = [self(config, port), ...(config.registerLiftos ? liftosServices(config.liftosHost) : [])];
  while (!isStopping) {
    try {
      const outcome = await registerServices(controlSql, config.defaultOrg, services);
      log.info(outcome, 'registered this service');
      return;
    } catch (error) {
      if (!isConnectionError(error)) log.warn({ error }, 'this service cannot be registered yet');
      await sleep(1000, undefined, { ref: false });
    }
  }
}

onStop(log, config.shutdownTimeoutMs, async () => {
  isStopping = true;
  ending.abort();
  startDraining();
  stopReloading();
  let isClosed = false;
  server.close(() => {
    isClosed = true;
  });
  // Connections end with their answer. Those that never asked anything, or stopped half-way, are not waited for.
  for (let quiet = 0; !isClosed && quiet < 10; quiet = inFlight() === 0 ? quiet + 1 : 0) {
    server.closeIdleConnections();
    await sleep(50);
  }
  server.closeAllConnections();
  await drain();
  redis?.end();
  await Promise.all([
    ...[sql, controlSql, exportSql, tailSql].map((pool) => pool.end({ timeout: 5 })),
    ...[...sessions, ...logSessions].map((session) => session.end()),
  ]);
});
