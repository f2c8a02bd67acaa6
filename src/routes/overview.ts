// What someone opens first: how an org is at this moment and against the day before, and what a dashboard shows of it.
import { setTimeout as sleep } from 'node:timers/promises';
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import { streamSSE } from 'hono/streaming';
import type { AuthEnv } from '../auth.ts';
import type { Sql } from '../db.ts';
import { unavailable } from '../errors.ts';
import type { HotAnswers } from '../hot_answers.ts';
import { needs } from '../permissions.ts';
import { endpoint, refuseQuery, responses } from '../request.ts';
import { adjust } from '../turns.ts';
import { alertSchema } from './alerts.ts';
import { serviceStatuses } from './services.ts';

const count = z.number().int();

const overviewSchema = z
  .strictObject({
    system_health: z.enum(serviceStatuses).openapi({
      description:
        'unhealthy: a service is, or a critical alert is open; degraded: a service is, or a warning is open; unknown: no probe says anything',
    }),
    total_services: count,
    healthy_services: count,
    degraded_services: count,
    unhealthy_services: count,
    unknown_services: count,
    total_alerts: count.openapi({ description: 'Open: firing or acknowledged' }),
    critical_alerts: count,
    warning_alerts: count,
    info_alerts: count,
    avg_response_time_ms: z.number().nullable().openapi({
      description: 'Of the last probe of each service that is healthy or degraded',
    }),
    uptime_percentage: z.number().nullable().openapi({
      description: 'Of all services in the last 24 hours, added up once a minute',
    }),
    trends: z
      .strictObject({
        health_trend_percentage: z.number().openapi({
          description: 'Average share of services that were healthy, in percentage points',
        }),
        response_time_trend_ms: z.number(),
        alert_trend_count: count.openapi({ description: 'How many more alerts began, or fewer' }),
        compared_since: z.iso.datetime().nullable().openapi({
          description:
            'From when on there is something of the 24 hours before to compare with; null: nothing, and the trends are 0',
        }),
      })
      .openapi({ description: 'The last 24 hours against the 24 before' }),
  })
  .openapi('Overview');
export type Overview = z.infer<typeof overviewSchema>;

const column = z.array(z.number().nullable());
const usageSchema = z.strictObject({ avg: z.number().nullable(), max: z.number().nullable() });

const dashboardSchema = z
  .strictObject({
    status_grid: z
      .array(
        z.strictObject({
          service_name: z.string(),
          current_status: z.enum(serviceStatuses),
          reason: z.string().nullable(),
          last_check: z.iso.datetime().nullable(),
          response_time_ms: z.number().nullable(),
          uptime_percentage: z
            .number()
            .nullable()
            .openapi({ description: 'Of the last 24 hours, added up once a minute' }),
          is_flapping: z.boolean(),
          paused: z.boolean(),
        }),
      )
      .openapi({ description: 'Every service, the worst first' }),
    performance_trends: z
      .strictObject({
        bucket_seconds: count,
        times: z.array(count).openapi({ description: 'Starts of the steps, epoch milliseconds' }),
        healthy_percentage: column,
        avg_response_time_ms: column.openapi({ description: 'Of probes' }),
        open_alerts: column.openapi({ description: 'The most at once' }),
        requests_per_second: column.openapi({ description: 'What services report as http_requests_total' }),
        error_percentage: column.openapi({
          description: 'Of these, those with status, status_code or code 5xx, or http_errors_total',
        }),
        reported_response_time_ms: column.openapi({
          description: 'What services report as response_time_ms',
        }),
      })
      .openapi({ description: 'The last 24 hours, a value for each of times' }),
    alert_summary: z.strictObject({
      critical: count,
      warning: count,
      info: count,
      firing: count,
      acknowledged: count,
      resolved: count.openapi({ description: 'Of those that began in the last 24 hours' }),
      open: z.array(alertSchema).openapi({ description: 'The worst that are open, at most 20' }),
    }),
    resource_utilization: z
      .strictObject({
        cpu_usage: usageSchema,
        memory_usage: usageSchema,
        disk_usage: usageSchema,
        total_hosts: count,
        hosts: z.array(
          z.strictObject({
            host: z.string(),
            cpu_usage: z.number().nullable(),
            memory_usage: z.number().nullable(),
            disk_usage: z.number().nullable(),
            time: z.iso.datetime(),
          }),
        ),
        truncated: z.boolean(),
      })
      .openapi({
        description:
          'Percent, the latest samples of the last ten minutes by host (label host, or instance, or else the service); at most 100 hosts, the busiest',
      }),
  })
  .openapi('DashboardMetrics');
export type DashboardMetrics = z.infer<typeof dashboardSchema>;

const tags = ['Overview'];
const notModified = { 304: { description: 'As the client has it: If-None-Match names its ETag' } };
const streamIntervalMs = 5_000;
const heartbeatMs = 15_000;
const stalledMs = 30_000;

export interface OverviewDependencies {
  sql: Sql;
  hotAnswers: HotAnswers;
  /** Streams that may be open at once in this process; of one org half of them. */
  maxStreams: number;
  /** Aborted when the process is about to end. */
  ending: AbortSignal;
}

export function overviewRoutes({ sql, hotAnswers, maxStreams, ending }: OverviewDependencies) {
  const router = new OpenAPIHono<AuthEnv>();
  const streams = new Map<number, number>();

  const computeOverview = (orgId: number) => async () => {
    const [row] = await sql<{ body: string }[]>`select api.get_overview(${orgId}) as body`;
    return row!.body;
  };

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/overview',
      tags,
      security: needs('overview:read'),
      summary: 'How the org is',
      responses: {
        ...responses(
          200,
          'At this moment, and against the day before',
          overviewSchema,
          [400, 401, 403, 503, 504],
        ),
        ...notModified,
      },
    }),
    async (c) => {
      refuseQuery(c);
      return hotAnswers.respond(c, 'overview', computeOverview(c.var.principal.orgId));
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/dashboard/metrics',
      tags,
      security: needs('overview:read'),
      summary: 'What a dashboard shows: status grid, trends, alerts, resources',
      responses: {
        ...responses(200, 'Of the last 24 hours', dashboardSchema, [400, 401, 403, 503, 504]),
        ...notModified,
      },
    }),
    async (c) => {
      refuseQuery(c);
      const { orgId } = c.var.principal;
      return hotAnswers.respond(c, 'dashboard', async () => {
        const [row] = await sql<{ body: string }[]>`select api.get_dashboard(${orgId}) as body`;
        return row!.body;
      });
    },
  );

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/overview/stream',
      tags,
      security: needs('overview:read'),
      summary: 'Follow how the org is (server-sent events)',
      description:
        'An event "overview", its data as GET /overview answers, at once and then whenever it has changed, looked at every 5 seconds. After a reconnect the first one is sent in any case.',
      responses: {
        ...responses(200, '', null, [400, 401, 403, 503]),
        200: {
          description: 'Overviews as they change',
          content: { 'text/event-stream': { schema: z.string() } },
        },
      },
    }),
    async (c) => {
      refuseQuery(c);
      const { orgId } = c.var.principal;
      if (c.req.method === 'HEAD') return c.body(null, 200, { 'Content-Type': 'text/event-stream' });
      const open = [...streams.values()].reduce((sum, count) => sum + count, 0);
      // One org leaves places for others.
      if (open >= maxStreams || (streams.get(orgId) ?? 0) >= Math.ceil(maxStreams / 2))
        throw unavailable('too_many_streams', 'As many streams are open as may be. Try again later.');
      const { mayStill } = c.var;
      const compute = computeOverview(orgId);
      // Counted before anything is waited for: whoever asks meanwhile is to see it.
      adjust(streams, orgId, 1);
      let answer: Awaited<ReturnType<HotAnswers['get']>>;
      try {
        // Its errors are answers still.
        answer = await hotAnswers.get(orgId, 'overview', compute);
        // Who has waited too long has been told so, and reads nothing more.
        if (c.finalized) throw unavailable('database_unavailable', 'The database does not answer.');
      } catch (error) {
        adjust(streams, orgId, -1);
        throw error;
      }
      // A stream is no query under way.
      c.var.leave?.();
      c.header('X-Accel-Buffering', 'no');
      const streamed = streamSSE(c, async (stream) => {
        const ended = new AbortController();
        const isOver = AbortSignal.any([ending, ended.signal]);
        stream.onAbort(() => ended.abort());
        // Who does not read what is written is not waited for.
        const isWritten = (written: Promise<unknown>) =>
          Promise.race([
            written.then(() => true),
            sleep(stalledMs, false, { signal: isOver, ref: false }).catch(() => false),
          ]);
        try {
          let sent: string | undefined;
          let saidAt = Date.now();
          while (!isOver.aborted) {
            if (answer.etag !== sent) {
              if (!(await isWritten(stream.writeSSE({ event: 'overview', data: answer.body })))) break;
              sent = answer.etag;
              saidAt = Date.now();
            } else if (Date.now() - saidAt >= heartbeatMs) {
              if (!(await isWritten(stream.write(': still here\n\n')))) break;
              saidAt = Date.now();
            }
            await sleep(streamIntervalMs, undefined, { signal: isOver }).catch(() => {});
            if (isOver.aborted || !(await mayStill())) break;
            // That the database is away for a moment is no reason to end.
            answer = await hotAnswers.get(orgId, 'overview', compute).catch(() => answer);
          }
        } finally {
          adjust(streams, orgId, -1);
        }
      });
      // What of it was of a moment is not to be kept.
      streamed.headers.set('Cache-Control', 'no-store');
      return streamed;
    },
  );

  return router;
}
