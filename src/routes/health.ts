// Health of the service itself, for load balancers, orchestrators and people. No token is asked for.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type { Sql } from '../db.ts';
import { isConnectionError } from '../errors.ts';
import type { SharedRedis } from '../redis.ts';
import { endpoint, responses } from '../request.ts';
import { serviceName, version } from '../version.ts';

const healthSchema = z
  .object({
    status: z.enum(['healthy', 'degraded', 'unhealthy']),
    service: z.string(),
    timestamp: z.iso.datetime(),
    version: z.string(),
    details: z.object({
      database: z.object({
        status: z.enum(['healthy', 'unhealthy']),
        latency_ms: z.number().nullable(),
        error: z.string().optional(),
      }),
      probes: z.object({
        status: z.enum(['healthy', 'degraded']),
        lag_seconds: z.number().nullable().openapi({
          description:
            'How late the probe is that is due for longest, of any org. Degraded from a minute on: no worker is there, or they do not keep up',
        }),
      }),
      alerts: z.object({
        status: z.enum(['healthy', 'degraded']),
        rules_lag_seconds: z.number().nullable().openapi({ description: 'Of alert rules, likewise' }),
        notifications_lag_seconds: z.number().nullable().openapi({
          description: 'Of notifications, likewise. One that is tried again later is not late',
        }),
      }),
      ingest: z.object({
        buffered_samples: z.number().int(),
        buffer_size: z.number().int(),
        buffered_log_bytes: z.number().int(),
        log_buffer_bytes: z.number().int(),
      }),
      redis: z
        .object({ status: z.enum(['healthy', 'degraded']) })
        .optional()
        .openapi({
          description:
            'Where there is a REDIS_URL. Degraded: rate limits and hot answers are those of each process by itself',
        }),
      uptime_seconds: z.number().int(),
    }),
  })
  .openapi('Health');

const liveSchema = z.object({ status: z.literal('live') }).openapi('Live');
const readySchema = z
  .object({ status: z.enum(['ready', 'draining', 'waiting']), reason: z.string().optional() })
  .openapi('Ready');

/** How late workers are with what is due for longest, in seconds; null where nothing is. */
export interface Lag {
  probes: number | null;
  rules: number | null;
  notifications: number | null;
}

/** What the database answered, and in how many milliseconds; or why there is no answer. */
export type Ping = { latencyMs: number; lag: Lag } | { error: string };

/** Asks the database for a sign of life. One that hangs must not hang a health check, or a scrape, with it. */
export async function pingDatabase(sql: Sql): Promise<Ping> {
  const started = performance.now();
  const ping = sql<[Lag]>`select probes, rules, notifications from api.get_lag()`.then(
    ([{ probes, rules, notifications }]) => ({
      latencyMs: Math.round((performance.now() - started) * 1000) / 1000,
      lag: { probes, rules, notifications },
    }),
    (error) => ({
      error: isConnectionError(error)
        ? 'cannot be reached'
        : `does not answer as expected (${error.code ?? 'error'})`,
    }),
  );
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<{ error: string }>((resolve) => {
    timer = setTimeout(resolve, 2_000, { error: 'does not answer within 2 s' });
  });
  const result = await Promise.race([ping, timeout]);
  clearTimeout(timer);
  return result;
}

export interface HealthDependencies {
  sql: Sql;
  bufferedSamples: () => number;
  bufferSize: number;
  bufferedLogBytes: () => number;
  logBufferBytes: number;
  isDraining: () => boolean;
  redis: SharedRedis | undefined;
}

export function healthRoutes(dependencies: HealthDependencies) {
  const { sql, bufferedSamples, bufferSize, bufferedLogBytes, logBufferBytes, isDraining, redis } =
    dependencies;
  const router = new OpenAPIHono();
  const tags = ['Health'];

  const health = async (c: Context) => {
    const ping = await pingDatabase(sql);
    const isFull = bufferedSamples() > bufferSize * 0.9 || bufferedLogBytes() > logBufferBytes * 0.9;
    const lag = 'error' in ping ? { probes: null, rules: null, notifications: null } : ping.lag;
    const isLate = (...seconds: (number | null)[]) => seconds.some((late) => late !== null && late > 60);
    const probes = isLate(lag.probes) ? 'degraded' : 'healthy';
    const alerts = isLate(lag.rules, lag.notifications) ? 'degraded' : 'healthy';
    const isAlone = redis !== undefined && !redis.isUp();
    const isDegraded = isFull || isAlone || probes === 'degraded' || alerts === 'degraded' || isDraining();
    const status = 'error' in ping ? 'unhealthy' : isDegraded ? 'degraded' : 'healthy';
    return c.json(
      {
        status,
        service: serviceName,
        timestamp: new Date().toISOString(),
        version,
        details: {
          database:
            'error' in ping
              ? { status: 'unhealthy', latency_ms: null, error: ping.error }
              : { status: 'healthy', latency_ms: ping.latencyMs },
          probes: { status: probes, lag_seconds: lag.probes },
          alerts: {
            status: alerts,
            rules_lag_seconds: lag.rules,
            notifications_lag_seconds: lag.notifications,
          },
          ingest: {
            buffered_samples: bufferedSamples(),
            buffer_size: bufferSize,
            buffered_log_bytes: bufferedLogBytes(),
            log_buffer_bytes: logBufferBytes,
          },
          ...(redis ? { redis: { status: isAlone ? 'degraded' : 'healthy' } as const } : {}),
          uptime_seconds: Math.floor(process.uptime()),
        },
      } satisfies z.infer<typeof healthSchema>,
      status === 'unhealthy' ? 503 : 200,
    );
  };

  for (const path of ['/health', '/api/v1/health']) {
    endpoint(
      router,
      createRoute({
        method: 'get',
        path,
        tags,
        summary: 'How the service is: 200 healthy or degraded, 503 unhealthy',
        responses: {
          ...responses(200, 'Healthy or degraded', healthSchema, []),
          503: { description: 'Unhealthy', content: { 'application/json': { schema: healthSchema } } },
        },
      }),
      health,
    );
    endpoint(
      router,
      createRoute({
        method: 'get',
        path: `${path}/live`,
        tags,
        summary: 'Whether the process answers; restart it when not',
        responses: responses(200, 'It does', liveSchema, []),
      }),
      (c) => c.json({ status: 'live' } satisfies z.infer<typeof liveSchema>),
    );
    endpoint(
      router,
      createRoute({
        method: 'get',
        path: `${path}/ready`,
        tags,
        summary: 'Whether the process takes requests; send none when not',
        responses: {
          ...responses(200, 'Ready', readySchema, []),
          503: {
            description: 'Draining before it stops, or waiting for the database',
            content: { 'application/json': { schema: readySchema } },
          },
        },
      }),
      async (c) => {
        if (isDraining()) return c.json({ status: 'draining' } satisfies z.infer<typeof readySchema>, 503);
        const ping = await pingDatabase(sql);
        if ('error' in ping) {
          return c.json(
            { status: 'waiting', reason: `database ${ping.error}` } satisfies z.infer<typeof readySchema>,
            503,
          );
        }
        return c.json({ status: 'ready' } satisfies z.infer<typeof readySchema>);
      },
    );
  }
  return router;
}
