// Every setting of the service: read from the environment once, checked, with its default.
// .env.example documents the same list for people; test/http/config.test.ts keeps the two in step.
import { createHmac } from 'node:crypto';
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { z } from 'zod';

const integer = (min: number, max: number, fallback: number) => {
  const expected = `an integer from ${min} to ${max}`;
  return z
    .string()
    .regex(/^\d{1,15}$/, `expected ${expected}`)
    .transform(Number)
    .refine((n) => n >= min && n <= max, `expected ${expected}`)
    .default(fallback);
};

const boolean = z
  .string()
  .toLowerCase()
  .refine((text) => ['true', 'false', '1', '0'].includes(text), 'expected true or false')
  .transform((text) => text === 'true' || text === '1')
  .default(false);

const url = (...schemes: string[]) =>
  z
    .string()
    .refine(
      (text) => URL.canParse(text) && schemes.includes(new URL(text).protocol),
      `expected a URL that starts with ${schemes.map((scheme) => `${scheme}//`).join(' or ')}`,
    );

const list = (of: z.ZodType<string, string>) =>
  z
    .string()
    .transform((text) => text.split(',').map((part) => part.trim()))
    .pipe(z.array(of));

const origin = z
  .string()
  .refine(
    (text) => URL.canParse(text) && new URL(text).origin === text && !text.includes('*'),
    'expected origins such as https://dashboard.example, separated by commas',
  );

// 32 bytes, in hexadecimal or base64.
const key = z
  .string()
  .refine(
    (text) =>
      /^[0-9a-f]{64}$/i.test(text) ||
      (/^[\w+/-]{43}=?$/.test(text) && Buffer.from(text, 'base64').length === 32),
    'expected keys of 32 bytes in hexadecimal or base64, separated by commas (try: openssl rand -hex 32)',
  );

// Requests a second. Above what one machine can take, so that who sets none meets none.
const rate = (fallback: number) => integer(1, 1_000_000, fallback);

const postgresUrl = url('postgres:', 'postgresql:');

const environment = z.object({
  DATABASE_URL: postgresUrl,
  API_DATABASE_URL: postgresUrl.optional(),
  WORKER_DATABASE_URL: postgresUrl.optional(),
  QUEUE_DATABASE_URL: postgresUrl.optional(),
  REDIS_URL: url('redis:', 'rediss:').optional(),
  JWT_SECRET: z
    .string()
    .refine(
      (secret) => Buffer.byteLength(secret) >= 32,
      'expected at least 32 bytes (try: openssl rand -hex 32)',
    )
    .optional(),
  JWT_JWKS_URL: url('http:', 'https:').optional(),
  JWT_ISSUER: z.string().min(1).optional(),
  JWT_AUDIENCE: z.string().min(1).optional(),
  SECRETS_KEY: list(key).optional(),
  AUDIT_READS: boolean,
  RATE_LIMIT_INGEST: rate(50_000),
  RATE_LIMIT_QUERY: rate(20_000),
  RATE_LIMIT_CHANGE: rate(10_000),
  TOKEN_RATE_LIMIT_INGEST: rate(50_000),
  TOKEN_RATE_LIMIT_QUERY: rate(20_000),
  TOKEN_RATE_LIMIT_CHANGE: rate(10_000),
  ORG_CONCURRENT_QUERIES: integer(1, 500, Math.max(3, availableParallelism() + 1)),
  CACHE_MS: integer(0, 60_000, 2_000),
  CORS_ORIGINS: list(origin).optional(),
  TRUSTED_PROXIES: integer(0, 10, 0),
  TLS_CERT: z.string().min(1).optional(),
  TLS_KEY: z.string().min(1).optional(),
  DEFAULT_ORG: z
    .string()
    .regex(/^\S{1,200}$/, 'expected 1 to 200 characters without spaces')
    .default('liftos'),
  HOST: z.string().min(1).optional(),
  PORT: integer(0, 65535, 8004),
  DEBUG: boolean,
  LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).optional(),
  MAX_BODY_BYTES: integer(1024, 1024 ** 3, 8 * 1024 ** 2),
  DATABASE_POOL_SIZE: integer(1, 500, 10),
  STATEMENT_TIMEOUT_MS: integer(100, 3_600_000, 30_000),
  INGEST_CONNECTIONS: integer(1, 64, 2),
  INGEST_FLUSH_SAMPLES: integer(1, 1_000_000, 10_000),
  INGEST_BUFFER_SAMPLES: integer(1, 100_000_000, 200_000),
  // A flush has fewer lines than a block of ids: see lines.ts.
  INGEST_FLUSH_LOG_BYTES: integer(1, 8 * 1024 ** 2, 4 * 1024 ** 2),
  INGEST_BUFFER_LOG_BYTES: integer(1, 1024 ** 4, 64 * 1024 ** 2),
  TAIL_CLIENTS: integer(1, 100_000, 1000),
  SERIES_CACHE_SIZE: integer(1, 50_000_000, 500_000),
  SHUTDOWN_TIMEOUT_MS: integer(100, 600_000, 15_000),
  WORKER_CONCURRENCY: integer(1, 200, 4),
  PROBE_CONCURRENCY: integer(1, 10_000, 500),
  NOTIFY_CONCURRENCY: integer(1, 1000, 50),
  SMTP_URL: url('smtp:', 'smtps:').optional(),
  SMTP_FROM: z.email('expected an email address').default('observability@localhost.localdomain'),
  EGRESS_PRIVATE: z.enum(['allow', 'deny']).default('allow'),
  SELF_HEALTH_URL: url('http:', 'https:').optional(),
  REGISTER_LIFTOS: boolean,
  LIFTOS_HOST: z
    .string()
    .regex(/^[\w.:[\]-]{1,253}$/, 'expected a host name or address')
    .default('localhost'),
});

/** Names of all the environment variables that the service reads. */
export const variableNames = Object.keys(environment.shape);

export type Config = ReturnType<typeof parseConfig>;

export class ConfigError extends Error {}

/** Login roles that db/migrations/common create; each process connects as the least of them that it needs. */
export type LoginRole = 'obs_api' | 'obs_worker' | 'obs_queue';

/**
 * Reads a configuration from environment variables. An empty variable counts as unset.
 * Throws a ConfigError that lists every wrong variable with what was expected of it.
 */
export function parseConfig(env: Record<string, string | undefined>) {
  const given = Object.fromEntries(
    Object.entries(env).filter(([, value]) => value !== undefined && value !== ''),
  );
  const parsed = environment.safeParse(given);
  const problems = parsed.success
    ? []
    : parsed.error.issues.map((issue) => {
        const name = String(issue.path[0]);
        // A secret or a URL with a password must not end up in a log because it had a typing error.
        const shown =
          /SECRET|URL|KEY/.test(name) || given[name] === undefined
            ? ''
            : `, got ${JSON.stringify(given[name])}`;
        const message =
          given[name] === undefined ? 'is required' : issue.message.replace(/^Invalid \w+: /, '');
        return `${name}: ${message}${shown}`;
      });
  if (parsed.success && !parsed.data.JWT_SECRET && !parsed.data.JWT_JWKS_URL) {
    problems.push('JWT_SECRET: is required (at least 32 bytes), unless JWT_JWKS_URL names a key set');
  }
  if (parsed.success && (parsed.data.TLS_CERT === undefined) !== (parsed.data.TLS_KEY === undefined)) {
    const missing = parsed.data.TLS_CERT === undefined ? 'TLS_CERT' : 'TLS_KEY';
    problems.push(`${missing}: is required, since the other of TLS_CERT and TLS_KEY is set`);
  }
  if (!parsed.success || problems.length > 0) {
    throw new ConfigError(
      `The configuration is wrong:\n${problems.map((problem) => `  ${problem}`).join('\n')}`,
    );
  }
  const data = parsed.data;
  return {
    databaseUrl: data.DATABASE_URL,
    apiDatabaseUrl: data.API_DATABASE_URL ?? roleUrl(data.DATABASE_URL, 'obs_api'),
    workerDatabaseUrl: data.WORKER_DATABASE_URL ?? roleUrl(data.DATABASE_URL, 'obs_worker'),
    queueDatabaseUrl: data.QUEUE_DATABASE_URL ?? roleUrl(data.DATABASE_URL, 'obs_queue'),
    /** Login roles without a URL of their own. */
    derivedRoles: [
      ...(data.API_DATABASE_URL ? [] : ['obs_api' as const]),
      ...(data.WORKER_DATABASE_URL ? [] : ['obs_worker' as const]),
      ...(data.QUEUE_DATABASE_URL ? [] : ['obs_queue' as const]),
    ] satisfies LoginRole[],
    redisUrl: data.REDIS_URL,
    jwtSecret: data.JWT_SECRET,
    jwksUrl: data.JWT_JWKS_URL,
    jwtIssuer: data.JWT_ISSUER,
    jwtAudience: data.JWT_AUDIENCE,
    /** The first one encrypts, each can decrypt. Empty: secrets are stored readable. */
    secretsKeys: (data.SECRETS_KEY ?? []).map((text) =>
      Buffer.from(text, /^[0-9a-f]{64}$/i.test(text) ? 'hex' : 'base64'),
    ),
    auditReads: data.AUDIT_READS,
    /** Requests a second of an org, where it has no limits of its own, and its queries at once. */
    orgLimits: {
      ingest_per_second: data.RATE_LIMIT_INGEST,
      query_per_second: data.RATE_LIMIT_QUERY,
      change_per_second: data.RATE_LIMIT_CHANGE,
      concurrent_queries: data.ORG_CONCURRENT_QUERIES,
    },
    /** Requests a second of one token. */
    tokenLimits: {
      ingest: data.TOKEN_RATE_LIMIT_INGEST,
      query: data.TOKEN_RATE_LIMIT_QUERY,
      change: data.TOKEN_RATE_LIMIT_CHANGE,
    },
    cacheMs: data.CACHE_MS,
    corsOrigins: data.CORS_ORIGINS ?? [],
    trustedProxies: data.TRUSTED_PROXIES,
    tls: data.TLS_CERT && data.TLS_KEY ? { certFile: data.TLS_CERT, keyFile: data.TLS_KEY } : undefined,
    defaultOrg: data.DEFAULT_ORG,
    host: data.HOST,
    port: data.PORT,
    debug: data.DEBUG,
    logLevel: data.LOG_LEVEL ?? (data.DEBUG ? 'debug' : 'info'),
    maxBodyBytes: data.MAX_BODY_BYTES,
    poolSize: data.DATABASE_POOL_SIZE,
    statementTimeoutMs: data.STATEMENT_TIMEOUT_MS,
    ingestConnections: data.INGEST_CONNECTIONS,
    flushSamples: data.INGEST_FLUSH_SAMPLES,
    bufferSamples: data.INGEST_BUFFER_SAMPLES,
    flushLogBytes: data.INGEST_FLUSH_LOG_BYTES,
    bufferLogBytes: data.INGEST_BUFFER_LOG_BYTES,
    tailClients: data.TAIL_CLIENTS,
    seriesCacheSize: data.SERIES_CACHE_SIZE,
    shutdownTimeoutMs: data.SHUTDOWN_TIMEOUT_MS,
    workerConcurrency: data.WORKER_CONCURRENCY,
    probeConcurrency: data.PROBE_CONCURRENCY,
    notifyConcurrency: data.NOTIFY_CONCURRENCY,
    smtpUrl: data.SMTP_URL,
    smtpFrom: data.SMTP_FROM,
    egressPrivate: data.EGRESS_PRIVATE,
    selfHealthUrl: data.SELF_HEALTH_URL,
    registerLiftos: data.REGISTER_LIFTOS,
    liftosHost: data.LIFTOS_HOST,
  };
}

/** The process's own configuration; a wrong one ends the process with a message and exit code 78 (EX_CONFIG). */
export function loadConfig(): Config {
  if (existsSync('.env')) process.loadEnvFile('.env');
  try {
    return parseConfig(process.env);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    process.stderr.write(`${error.message}\nSee .env.example for every setting.\n`);
    process.exit(78);
  }
}

/**
 * The password of a login role, derived from the owner's own, so that one DATABASE_URL configures
 * migration, API and worker. Undefined where the owner has none (trust or peer authentication).
 */
export function rolePassword(databaseUrl: string, role: LoginRole): string | undefined {
  const { password } = new URL(databaseUrl);
  return password
    ? createHmac('sha256', decodeURIComponent(password)).update(`liftos-observability/${role}`).digest('hex')
    : undefined;
}

/** URL of a database for one of the login roles, with its derived password. */
export function roleUrl(databaseUrl: string, role: LoginRole): string {
  const url = new URL(databaseUrl);
  url.username = role;
  url.password = rolePassword(databaseUrl, role) ?? '';
  return url.href;
}
