// The application: what every request passes through, and the routers of all topics.
import { randomUUID } from 'node:crypto';
import { getConnInfo } from '@hono/node-server/conninfo';
import { OpenAPIHono } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { compress } from 'hono/compress';
import { cors } from 'hono/cors';
import { HTTPException } from 'hono/http-exception';
import { secureHeaders } from 'hono/secure-headers';
import { timeout } from 'hono/timeout';
import { COMPRESSIBLE_CONTENT_TYPE_REGEX } from 'hono/utils/compress';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import ipaddr from 'ipaddr.js';
import type { Logger } from 'pino';
import { createAccessLog } from './access_log.ts';
import { type AuthEnv, createAuthenticator } from './auth.ts';
import type { Config } from './config.ts';
import type { Session, Sql } from './db.ts';
import { Problem, problemDocument, toProblem, unavailable } from './errors.ts';
import { createGate } from './gate.ts';
import { createHotAnswers, minCompressedBytes } from './hot_answers.ts';
import { createTimeBounds } from './ingest/bounds.ts';
import { type Committer, type CommitterOptions, createCommitter } from './ingest/commit.ts';
import { createLogStreamCache, createSeriesCache } from './ingest/ids.ts';
import { createLineWriter, type Lines } from './ingest/lines.ts';
import { type Samples, sampleWriter } from './ingest/samples.ts';
import { createOrgCache } from './orgs.ts';
import { createRateLimit } from './rate_limit.ts';
import type { SharedRedis } from './redis.ts';
import { patternOf } from './request.ts';
import { alertRuleRoutes } from './routes/alert_rules.ts';
import { alertRoutes } from './routes/alerts.ts';
import { analyticsRoutes } from './routes/analytics.ts';
import { auditRoutes } from './routes/audit.ts';
import { channelRoutes } from './routes/channels.ts';
import { dashboardRoutes } from './routes/dashboards.ts';
import { addDocs } from './routes/docs.ts';
import { escalationRoutes } from './routes/escalations.ts';
import { healthRoutes, pingDatabase } from './routes/health.ts';
import { logRoutes } from './routes/logs.ts';
import { metricsRoutes } from './routes/metrics.ts';
import { notificationRoutes } from './routes/notifications.ts';
import { orgRoutes } from './routes/orgs.ts';
import { overviewRoutes } from './routes/overview.ts';
import { serviceRoutes } from './routes/services.ts';
import { silenceRoutes } from './routes/silences.ts';
import { tokenRoutes } from './routes/tokens.ts';
import { createSealer } from './seal.ts';
import { createShare } from './share.ts';
import { createLogTail, type LogTail, type TailOptions } from './tail.ts';
import { createTelemetry, type Telemetry } from './telemetry.ts';
import { createTurns } from './turns.ts';
import { createUsage } from './usage.ts';
import { addPages } from './web/routes.ts';

export interface AppOptions {
  config: Config;
  log: Logger;
  /** Pool of queries, as role obs_api. */
  sql: Sql;
  /** A few connections for what must go on when queries fill that pool: org and series ids, health. */
  controlSql: Sql;
  /** Connections of flushes, as the same role: queries that fill the pool must not hold up ingest. */
  sessions: Session[];
  /** As many for log lines: neither holds up the other. */
  logSessions: Session[];
  /** For exports; and for live tails: a few connections each, and what listens. */
  exportSql: Sql;
  tailSql: Sql;
  listen: TailOptions['listen'];
  /** What API processes share limits and hot answers through, if anything. */
  redis?: SharedRedis | undefined;
}

export interface Observability {
  app: OpenAPIHono<AppEnv>;
  telemetry: Telemetry;
  committer: Committer<Samples>;
  logCommitter: Committer<Lines>;
  tail: LogTail;
  /** From here on /health/ready says that no more requests should be sent, each answer ends its connection, and live tails end. */
  startDraining(): void;
  /** Resolves when everything that was accepted has been committed, and nothing listens any more. */
  drain(): Promise<void>;
  /** Requests that are not answered yet. */
  inFlight(): number;
}

export type AppEnv = AuthEnv;

export function createApp(options: AppOptions): Observability {
  const { config, log, sql, controlSql, redis } = options;
  let isDraining = false;
  const ending = new AbortController();
  let inFlight = 0;
  const usage = createUsage(controlSql, log);
  const turns = createTurns();
  const orgs = createOrgCache(controlSql, config.orgLimits);
  const authenticator = createAuthenticator(config, controlSql, orgs);
  const hotAnswers = createHotAnswers(config.cacheMs, redis);
  const cache = createSeriesCache(controlSql, config.seriesCacheSize);
  const observeFlush =
    (
      signal: 'metrics' | 'logs',
      committed: 'committedSamples' | 'committedLines',
    ): CommitterOptions['onFlush'] =>
    ({ rows, recorded, seconds }) => {
      telemetry.flushRows.observe({ signal }, rows);
      telemetry.flushDuration.observe({ signal }, seconds);
      telemetry[committed].inc(recorded);
    };
  const committer = createCommitter(options.sessions, sampleWriter, {
    flushLimit: config.flushSamples,
    bufferLimit: config.bufferSamples,
    onFlush: observeFlush('metrics', 'committedSamples'),
    onRecorded: (orgId, rows) => usage.add(orgId, 'samples', rows),
  });
  const logCommitter = createCommitter(options.logSessions, createLineWriter(controlSql), {
    flushLimit: config.flushLogBytes,
    bufferLimit: config.bufferLogBytes,
    onFlush: observeFlush('logs', 'committedLines'),
    onRecorded: (orgId, rows) => usage.add(orgId, 'log_lines', rows),
  });
  const tail = createLogTail({
    sql: options.tailSql,
    log,
    listen: options.listen,
    maxClients: config.tailClients,
    openTimeoutMs: config.statementTimeoutMs,
    onDrop: () => telemetry.droppedTails.inc(),
    onFailedRead: () => telemetry.failedTailReads.inc(),
  });
  const telemetry = createTelemetry({
    bufferedSamples: committer.buffered,
    bufferedLogBytes: logCommitter.buffered,
    tailClients: tail.clients,
    cachedSeries: cache.size,
    lag: async () => {
      const ping = await pingDatabase(controlSql);
      return 'error' in ping ? null : ping.lag;
    },
  });

  const app = new OpenAPIHono<AppEnv>();
  app.openAPIRegistry.registerComponent('securitySchemes', 'bearer', {
    type: 'http',
    scheme: 'bearer',
    bearerFormat: 'JWT',
  });

  app.use(async (c, next) => {
    const given = c.req.header('X-Request-Id');
    const requestId = given && /^[\w.:-]{1,128}$/.test(given) ? given : randomUUID();
    c.set('requestId', requestId);
    c.header('X-Request-Id', requestId);
    c.set('address', addressOf(c, config.trustedProxies));
    // A client that keeps its connection busy would otherwise keep the process from ever stopping.
    if (isDraining) c.header('Connection', 'close');
    const started = performance.now();
    inFlight++;
    try {
      await next();
    } finally {
      inFlight--;
    }
    const seconds = (performance.now() - started) / 1000;
    const { status } = c.res;
    // The pattern, not the path: a metric's labels must not grow with what clients ask for.
    telemetry.requestDuration.observe(
      { method: c.req.method, route: patternOf(c) ?? 'none', status },
      seconds,
    );
    const line = {
      request_id: requestId,
      method: c.req.method,
      path: c.req.path.slice(0, maxLoggedText),
      status,
      duration_ms: Math.round(seconds * 1e6) / 1000,
      org: c.var.principal?.org,
    };
    // Ingest and health checks come by the thousand; they are worth a line when something is wrong.
    if (status >= 500) log.error({ ...line, error: c.error?.cause ?? c.error }, 'request failed');
    else if (status >= 400)
      log.info({ ...line, reason: c.error?.message.slice(0, maxLoggedText) }, 'request refused');
    else if (status === 201 || c.req.path.includes('/health')) log.debug(line, 'request');
    else log.info(line, 'request');
  });
  app.use(
    secureHeaders({
      // With no-referrer a browser says of its own forms' origin: null.
      referrerPolicy: 'same-origin',
      xFrameOptions: 'DENY',
      strictTransportSecurity: config.tls ? 'max-age=31536000; includeSubDomains' : false,
      crossOriginOpenerPolicy: 'same-origin',
      xXssProtection: false,
      xDownloadOptions: false,
      xDnsPrefetchControl: false,
      xPermittedCrossDomainPolicies: false,
      originAgentCluster: false,
    }),
  );
  app.use(async (c, next) => {
    await next();
    // Pages say by themselves what they need.
    if (!c.res.headers.has('Content-Security-Policy'))
      c.header('Content-Security-Policy', "default-src 'none'; frame-ancestors 'none'");
  });
  // Closed unless origins are named: then the browser of who is on one of these may ask, with a token of its own.
  if (config.corsOrigins.length > 0) {
    app.use(
      '/api/*',
      cors({
        origin: config.corsOrigins,
        allowMethods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'],
        allowHeaders: [
          'Authorization',
          'Content-Type',
          'Content-Encoding',
          'Idempotency-Key',
          'If-None-Match',
          'Last-Event-ID',
          'X-Request-Id',
        ],
        exposeHeaders: [
          'ETag',
          'RateLimit-Limit',
          'RateLimit-Policy',
          'RateLimit-Remaining',
          'RateLimit-Reset',
          'Retry-After',
          'X-Request-Id',
        ],
        maxAge: 600,
      }),
    );
  }
  app.use(
    compress({
      threshold: minCompressedBytes,
      contentTypeFilter: (type) =>
        COMPRESSIBLE_CONTENT_TYPE_REGEX.test(type) || type === 'application/x-ndjson',
    }),
  );

  app.onError((error, c) => {
    const problem =
      error instanceof HTTPException
        ? error.status === 503
          ? unavailable('database_unavailable', error.message)
          : new Problem(error.status, 'refused', error.message)
        : toProblem(error);
    return c.json(problemDocument(problem, c.var.requestId), problem.status as ContentfulStatusCode, {
      ...problem.headers,
      'Content-Type': 'application/problem+json',
    });
  });

  app.notFound((c) => {
    const allowed = app.routes
      .filter((route) => route.method !== 'ALL' && matches(route.path, c.req.path))
      .map((route) => route.method);
    if (allowed.length === 0) throw new Problem(404, 'not_found', `There is nothing at ${c.req.path}.`);
    throw new Problem(405, 'method_not_allowed', `${c.req.path} does not take ${c.req.method}.`, {
      headers: { Allow: [...new Set(allowed)].join(', ') },
    });
  });

  app.route(
    '/',
    healthRoutes({
      sql: controlSql,
      bufferedSamples: committer.buffered,
      bufferSize: config.bufferSamples,
      bufferedLogBytes: logCommitter.buffered,
      logBufferBytes: config.bufferLogBytes,
      isDraining: () => isDraining,
      redis,
    }),
  );
  app.get('/metrics', async (c) =>
    c.body(await telemetry.registry.metrics(), 200, { 'Content-Type': telemetry.registry.contentType }),
  );
  addDocs(app);
  addPages(app, { config, sql: controlSql, authenticator });

  // The database cancels what takes longer than its statement timeout; this is for one that does not answer at all.
  const deadlineMs = config.statementTimeoutMs + 5_000;
  app.use(
    '/api/v1/*',
    timeout(deadlineMs, () => new HTTPException(503, { message: 'The database does not answer.' })),
  );
  app.use('/api/v1/*', async (c, next) => {
    await next();
    // What belongs to one org is not for whatever stands between; hot answers say so in their own words.
    if (!c.res.headers.has('Cache-Control')) c.header('Cache-Control', 'no-store');
  });
  app.use(
    '/api/v1/*',
    createGate({
      authenticator,
      orgs,
      rateLimit: createRateLimit(config.tokenLimits, redis),
      share: createShare(config.poolSize, waitingQueries),
      usage,
      hotAnswers,
      recordAccess: createAccessLog(controlSql, log),
      auditReads: config.auditReads,
    }),
  );
  app.route(
    '/api/v1',
    metricsRoutes({
      sql,
      cache,
      committer,
      turns,
      timeBounds: createTimeBounds(controlSql, 'sample'),
      maxBodyBytes: config.maxBodyBytes,
    }),
  );
  app.route(
    '/api/v1',
    logRoutes({
      log,
      sql,
      exportSql: options.exportSql,
      cache: createLogStreamCache(controlSql, config.seriesCacheSize),
      committer: logCommitter,
      turns,
      tail,
      timeBounds: createTimeBounds(controlSql, 'log'),
      maxBodyBytes: config.maxBodyBytes,
    }),
  );
  app.route('/api/v1', analyticsRoutes({ sql }));
  app.route(
    '/api/v1',
    serviceRoutes({ sql, maxBodyBytes: config.maxBodyBytes, egress: config.egressPrivate, hotAnswers }),
  );
  const { maxBodyBytes } = config;
  app.route('/api/v1', alertRoutes({ sql, maxBodyBytes }));
  app.route('/api/v1', alertRuleRoutes({ sql, maxBodyBytes }));
  app.route(
    '/api/v1',
    channelRoutes({
      sql,
      maxBodyBytes,
      egress: config.egressPrivate,
      hasSmtp: config.smtpUrl !== undefined,
      sealer: createSealer(config.secretsKeys),
    }),
  );
  app.route('/api/v1', silenceRoutes({ sql, maxBodyBytes }));
  app.route('/api/v1', escalationRoutes({ sql, maxBodyBytes }));
  app.route('/api/v1', notificationRoutes({ sql }));
  app.route('/api/v1', orgRoutes({ sql, maxBodyBytes, orgs, orgLimits: config.orgLimits }));
  app.route(
    '/api/v1',
    overviewRoutes({ sql, hotAnswers, maxStreams: config.tailClients, ending: ending.signal }),
  );
  app.route('/api/v1', dashboardRoutes({ sql, maxBodyBytes }));
  app.route('/api/v1', tokenRoutes({ sql, maxBodyBytes, authenticator }));
  app.route('/api/v1', auditRoutes({ sql }));

  return {
    app,
    telemetry,
    committer,
    logCommitter,
    tail,
    startDraining() {
      isDraining = true;
      ending.abort();
      void tail.close();
    },
    async drain() {
      await Promise.all([committer.drain(), logCommitter.drain(), tail.close()]);
      await usage.end();
    },
    inFlight: () => inFlight,
  };
}

// Of a log line, what a client chose.
const maxLoggedText = 1000;

// Of all orgs, each holding a request of a client.
const waitingQueries = 2_000;

// Of proxies each adds the address that it was asked from; what is before those that are trusted anyone may have written.
function addressOf(c: Context, trustedProxies: number): string {
  const forwarded =
    trustedProxies > 0 ? c.req.header('X-Forwarded-For')?.split(',').at(-trustedProxies)?.trim() : undefined;
  if (forwarded && ipaddr.isValid(forwarded)) return forwarded;
  // There is no connection where a test asks the app itself.
  return (c.env?.incoming ? getConnInfo(c).remote.address : undefined) ?? 'unknown';
}

// Whether a path fits a route's pattern, such as /docs/:file.
function matches(pattern: string, path: string): boolean {
  const parts = path.split('/');
  const patternParts = pattern.split('/');
  return (
    parts.length === patternParts.length &&
    patternParts.every(
      (part, i) => part !== '*' && (part.startsWith(':') ? parts[i] !== '' : part === parts[i]),
    )
  );
}
