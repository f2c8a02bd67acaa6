// A service: how it was and is, by its probes and by what it reports itself. One that is not registered has the latter alone.
import { html } from 'hono/html';
import {
  badge,
  chart,
  duration,
  empty,
  failure,
  type Html,
  number,
  type Part,
  panel,
  shown,
  time,
} from '../layout.ts';
import type { Page } from '../routes.ts';
import { type Alert, alertActions } from './alerts.ts';

interface Timeline {
  period: string;
  bucket_seconds: number;
  buckets: {
    time: string;
    status: string;
    uptime_percentage: number | null;
    response_time_ms: number | null;
    checks: number;
  }[];
}

interface Service {
  service_name: string;
  kind: string;
  health_endpoint: string | null;
  description: string | null;
  current_status: string;
  status_since: string;
  reason: string | null;
  paused: boolean;
  is_flapping: boolean;
  last_check: string | null;
  next_check: string | null;
  response_time_ms: number | null;
  status_code: number | null;
  tls_expires_at: string | null;
  check_interval_seconds: number;
  dependencies: { service_name: string; current_status: string | null }[];
  uptime: Record<string, { uptime_percentage: number | null; avg_response_time_ms: number | null }>;
  sla: { target_percent: number; is_met: boolean; error_budget_remaining_percent: number } | null;
}

interface Event {
  time: string;
  event: string;
  from_status: string;
  to_status: string;
  reason: string | null;
  actor: string;
}

const periods = { '24h': ['10m', 24], '7d': ['1h', 168], '90d': ['1d', 2160] } as const;
type Period = keyof typeof periods;

export const servicePage: Page = async ({ ask, may, params, query }) => {
  const name = params.name!;
  const path = encodeURIComponent(name);
  const period: Period = Object.hasOwn(periods, query.period ?? '') ? (query.period as Period) : '24h';
  const [window, hours] = periods[period];
  const [service, timeline, events, alerts, requests] = await Promise.all([
    ask<Service>(`/services/${path}`),
    ask<Timeline>(`/services/${path}/timeline?period=${period}`),
    ask<{ events: Event[] }>(`/services/${path}/events?limit=20`),
    ask<{ alerts: Alert[] }>(`/alerts?limit=10&service_name=${path}`),
    ask<{ labels: { label: string }[] }>(`/metrics/http_requests_total/labels?service_name=${path}`),
  ]);
  const isRegistered = service.problem?.status !== 404;
  if (!isRegistered && alerts.data?.alerts.length === 0) {
    const reported = await ask<{ metrics: unknown[] }>(`/metrics?limit=1&service_name=${path}`);
    if (reported.data?.metrics.length === 0)
      return {
        title: name,
        section: '/',
        status: 404,
        body: html`<h1>${name}</h1>${failure(`There is no service ${name}: none is registered, and none has reported anything.`)}`,
      };
  }
  // As lib.measure_traffic looks for it.
  const statusLabel = ['status', 'status_code', 'code'].find((name) =>
    requests.data?.labels.some(({ label }) => label === name),
  );
  const range = { hours };
  const of = { service_name: name, time_window: window };
  const responseTime = (aggregation: string) => ({
    ...of,
    metric_name: 'response_time_ms',
    aggregation,
    as: aggregation,
  });
  const probes = (aggregation: string) => ({
    ...of,
    metric_name: 'probe_duration_ms',
    aggregation,
    as: aggregation,
  });
  return {
    title: name,
    section: '/',
    modules: [],
    hasCharts: true,
    body: html`<div class="head"><h1>${name} ${isRegistered && service.data ? html`<span data-live="status">${badge(service.data.paused ? 'unknown' : service.data.current_status, service.data.paused ? 'paused' : service.data.current_status)}</span>` : ''}</h1>
<nav class="tabs" aria-label="Period">${Object.keys(periods).map((p) => html`<a href="/services/${path}?period=${p}"${p === period ? html` aria-current="page"` : ''}>${p}</a>`)}</nav>
<p><a href="/logs?service=${path}">Logs</a> · <a href="/explore?service_name=${path}&metric_name=response_time_ms">Metrics</a></p></div>
${isRegistered ? html`<div data-live="facts">${shown(service, facts)}</div>` : html`<p class="hint">It is not registered, so it is not probed. What follows is what it reports itself.</p>`}
<div class="panels">
${
  isRegistered
    ? panel(
        { title: `Status, ${period}`, live: 'timeline' },
        shown(timeline, (t) => bars(t, hours)),
      )
    : ''
}
${panel(
  { title: 'Response time', aside: html`<span class="hint">choose a moment to see its logs</span>` },
  html`${chart('Response time as it reports it', { range, unit: 'ms', queries: ['p50', 'p95', 'p99'].map(responseTime), logs: name }, { height: 'tall' })}
${isRegistered ? chart('Response time of probes', { range, unit: 'ms', queries: ['p50', 'p95', 'max'].map(probes), logs: name }) : ''}`,
)}
${panel({ title: 'Throughput', width: 6 }, chart('Requests a second', { range, unit: '/s', logs: name, queries: [{ ...of, metric_name: 'http_requests_total', aggregation: 'rate', as: 'requests' }] }))}
${panel(
  { title: 'Error rate', width: 6 },
  chart('Share of requests that failed', {
    range,
    unit: '%',
    min: 0,
    colors: ['bad'],
    logs: name,
    ratio: true,
    queries: [
      statusLabel
        ? {
            ...of,
            metric_name: 'http_requests_total',
            aggregation: 'rate',
            group_by: [statusLabel],
            as: 'errors',
            failed: statusLabel,
          }
        : { ...of, metric_name: 'http_errors_total', aggregation: 'rate', as: 'errors' },
      { ...of, metric_name: 'http_requests_total', aggregation: 'rate', as: 'requests' },
    ],
  }),
)}
${panel(
  {
    title: 'Alerts',
    width: 6,
    live: 'alerts',
    aside: html`<a href="/alerts?service_name=${path}">All of them</a>`,
  },
  shown(alerts, ({ alerts: list }) =>
    list.length === 0
      ? empty('There has been no alert about it.')
      : html`<ul class="rows">${list.map((a) => html`<li class="row"><div>${badge(a.severity)} <a href="/alerts/${a.id}">${a.name}</a> ${badge(a.status)}<div class="hint">${time(a.started_at)}, ${duration(a.duration_seconds)}</div></div>${may('alerts:write') ? alertActions(a) : ''}</li>`)}</ul>`,
  ),
)}
${isRegistered ? panel({ title: 'Events', width: 6, live: 'events' }, shown(events, eventList)) : ''}
</div>`,
  };
};

function facts(s: Service): Html {
  return html`${s.reason ? failure(s.reason) : ''}<p>${s.description ?? ''}</p><dl class="facts">
<div><dt>Since</dt><dd>${time(s.status_since)}</dd></div>
<div><dt>Last check</dt><dd>${time(s.last_check)}</dd></div>
<div><dt>Response time</dt><dd>${number(s.response_time_ms, ' ms', 0)}</dd></div>
${Object.entries(s.uptime).map(([period, { uptime_percentage }]) => html`<div><dt>Uptime ${period}</dt><dd>${number(uptime_percentage, ' %', 3)}</dd></div>`)}
${s.sla ? html`<div><dt>SLA ${number(s.sla.target_percent, ' %', 3)}</dt><dd>${s.sla.is_met ? 'met' : 'missed'}, ${number(s.sla.error_budget_remaining_percent, ' %', 0)} of the budget left</dd></div>` : ''}
${s.tls_expires_at ? html`<div><dt>Certificate until</dt><dd>${time(s.tls_expires_at)}</dd></div>` : ''}
<div><dt>Probed</dt><dd>${s.kind === 'heartbeat' ? 'calls in' : html`<code>${s.health_endpoint}</code>`} every ${s.check_interval_seconds} s</dd></div>
${s.dependencies.length > 0 ? html`<div><dt>Depends on</dt><dd>${s.dependencies.map((d) => html`<a href="/services/${encodeURIComponent(d.service_name)}">${d.service_name}</a> ${badge(d.current_status ?? 'unknown')} `)}</dd></div>` : ''}
</dl>`;
}

// Steps without probes leave a gap, so that time is the same everywhere.
function bars({ buckets, bucket_seconds }: Timeline, hours: number): Part {
  if (buckets.length === 0) return empty('No probe has run in this time.');
  const count = Math.round((hours * 3600) / bucket_seconds);
  const end = (Math.floor(Date.now() / 1000 / bucket_seconds) + 1) * bucket_seconds;
  const start = end - count * bucket_seconds;
  const known = new Map(buckets.map((bucket) => [Math.floor(Date.parse(bucket.time) / 1000), bucket]));
  const steps = Array.from({ length: count }, (_, i) => [i, known.get(start + i * bucket_seconds)] as const);
  return html`${timelineBars(steps.map(([, bucket]) => bucket && { status: bucket.status, text: `${bucket.time.slice(0, 16).replace('T', ' ')} UTC: ${number(bucket.uptime_percentage, ' % up', 2)}, ${bucket.checks} checks` }))}
<p class="scale"><span>${time(new Date(start * 1000).toISOString())}</span><span>now</span></p>`;
}

/** A bar each step, grey where nothing is known. */
export function timelineBars(steps: readonly ({ status: string; text: string } | undefined)[]): Html {
  const good = steps.filter((step) => step?.status === 'healthy').length;
  const known = steps.filter(Boolean).length;
  return html`<svg class="bars" viewBox="0 0 ${steps.length * 4} 24" preserveAspectRatio="none" role="img" aria-label="${good} of ${known} steps without a failure">${steps.map(
    (step, i) =>
      html`<rect x="${i * 4}" y="0" width="3" height="24" class="${step?.status ?? 'nothing'}">${step ? html`<title>${step.text}</title>` : ''}</rect>`,
  )}</svg>`;
}

function eventList({ events }: { events: Event[] }): Part {
  if (events.length === 0) return empty('Nothing has changed yet.');
  return html`<ol class="events">${events.map(
    (e) =>
      html`<li>${time(e.time)} ${e.event === 'status' ? html`${badge(e.from_status)} → ${badge(e.to_status)}` : html`<strong>${e.event}</strong>`}${e.reason ? html`<div class="hint">${e.reason}</div>` : ''}</li>`,
  )}</ol>`;
}
