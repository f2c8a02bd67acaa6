// What someone opens first: is everything well, and if not, what is it.
import { html } from 'hono/html';
import type { DashboardMetrics, Overview } from '../../routes/overview.ts';
import {
  badge,
  chart,
  duration,
  empty,
  type Html,
  number,
  type Part,
  panel,
  shown,
  time,
} from '../layout.ts';
import type { Page } from '../routes.ts';
import { alertActions } from './alerts.ts';

export const overviewPage: Page = async ({ ask, may }) => {
  const [overview, dashboard] = await Promise.all([
    ask<Overview>('/overview'),
    ask<DashboardMetrics>('/dashboard/metrics'),
  ]);
  return {
    title: 'Overview',
    section: '/',
    modules: ['overview'],
    hasCharts: true,
    body: html`<h1 class="visually-hidden">Overview</h1>
<div class="panels">
<div class="w12" data-live="tiles">${shown(overview, tiles)}</div>
${panel(
  { title: 'Open alerts', width: 6, live: 'alerts', aside: html`<a href="/alerts">All alerts</a>` },
  shown(dashboard, (d) => openAlerts(d, may('alerts:write'))),
)}
${panel({ title: 'Services', width: 6, live: 'grid' }, shown(dashboard, grid))}
${panel(
  {
    title: 'Response time by service, as they report it',
    live: undefined,
    aside: html`<span class="hint">last 24 hours</span>`,
  },
  html`<div class="sparks" data-sparks><p class="loading">Loading…</p></div>`,
)}
${shown(dashboard, trends)}
${panel({ title: 'Resources', live: 'resources' }, shown(dashboard, resources))}
</div>`,
  };
};

function tiles(o: Overview): Html {
  const { trends } = o;
  const hasBefore = trends.compared_since !== null;
  return html`<div class="tiles">
${tile('System', html`<strong class="status ${o.system_health}">${o.system_health}</strong>`, health(o))}
${tile('Healthy services', html`<strong>${o.healthy_services}<small> / ${o.total_services}</small></strong>`, trend(trends.health_trend_percentage, ' pp', 'up is good', hasBefore))}
${tile('Open alerts', html`<strong>${o.total_alerts}</strong>`, html`${o.critical_alerts > 0 ? badge('critical', `${o.critical_alerts} critical`) : ''} ${trend(trends.alert_trend_count, '', 'down is good', hasBefore)}`)}
${tile('Response time', html`<strong>${number(o.avg_response_time_ms, '', 0)}<small> ms</small></strong>`, trend(trends.response_time_trend_ms, ' ms', 'down is good', hasBefore))}
${tile('Uptime, 24 h', html`<strong>${number(o.uptime_percentage, '', 2)}<small> %</small></strong>`, '')}
</div>`;
}

/** Why it is not well, or that it is. */
function health(o: Overview): string {
  const count = (number: number, name: string) => (number > 0 ? [`${number} ${name}`] : []);
  const parts = [
    ...count(o.unhealthy_services, 'unhealthy'),
    ...count(o.degraded_services, 'degraded'),
    ...count(o.unknown_services, 'unknown'),
    ...count(o.critical_alerts, 'critical'),
    ...count(o.warning_alerts, o.warning_alerts === 1 ? 'warning' : 'warnings'),
  ];
  if (parts.length > 0) return parts.join(', ');
  return o.total_services > 0 ? 'all services are healthy' : 'no services yet';
}

function tile(title: string, value: Part, below: Part): Html {
  return html`<div class="tile"><h2>${title}</h2><p class="value">${value}</p><p class="below">${below}</p></div>`;
}

function trend(change: number, unit: string, kind: 'up is good' | 'down is good', hasBefore: boolean): Part {
  if (!hasBefore) return html`<span class="hint">nothing to compare with yet</span>`;
  if (change === 0) return html`<span class="hint">as the day before</span>`;
  const isGood = change > 0 === (kind === 'up is good');
  return html`<span class="${isGood ? 'good' : 'bad'}">${change > 0 ? '▲' : '▼'} ${number(Math.abs(change), unit)}</span> <span class="hint">against the day before</span>`;
}

function openAlerts(
  { alert_summary: { open, firing, acknowledged } }: DashboardMetrics,
  mayWrite: boolean,
): Part {
  if (open.length === 0) return empty('No alert is open.');
  const more = firing + acknowledged - open.length;
  return html`<ul class="rows">${open.map(
    (alert) => html`<li class="row">
<div>${badge(alert.severity)} <a href="/alerts/${alert.id}">${alert.name}</a>${alert.service_name ? html` <a class="about" href="/services/${encodeURIComponent(alert.service_name)}">${alert.service_name}</a>` : ''}
<div class="hint">${alert.status}, since ${time(alert.started_at)} (${duration(alert.duration_seconds)})</div></div>
${mayWrite ? alertActions(alert) : ''}</li>`,
  )}</ul>${more > 0 ? html`<p class="hint"><a href="/alerts">${more} more</a></p>` : ''}`;
}

function grid({ status_grid: services }: DashboardMetrics): Part {
  if (services.length === 0)
    return empty(
      html`No services are registered. <code>make seed</code> registers those of LiftOS; <code>POST /api/v1/services/register</code> yours.`,
    );
  return html`<ul class="grid">${services.map(
    (s) =>
      html`<li><a class="cell ${s.paused ? 'paused' : s.current_status}" href="/services/${encodeURIComponent(s.service_name)}"${s.reason ? html` title="${s.reason}"` : ''}><span class="name">${s.service_name}</span> <span class="state">${s.paused ? 'paused' : s.current_status}${s.is_flapping ? ', flapping' : ''}</span> <span class="figures">${number(s.response_time_ms, ' ms', 0)} · ${number(s.uptime_percentage, ' %', 2)}</span></a></li>`,
  )}</ul>`;
}

function trends({ performance_trends: t }: DashboardMetrics): Html {
  const of = (label: string, unit: string, lines: [string, (number | null)[]][], more: object = {}) =>
    chart(label, { times: t.times, unit, lines: lines.map(([name, values]) => ({ name, values })), ...more });
  return html`${panel({ title: 'Throughput and errors', width: 4 }, html`${of('Requests a second, as services report them', '/s', [['requests', t.requests_per_second]])}${of('Failed requests', '%', [['errors', t.error_percentage]], { colors: ['bad'] })}`)}
${panel({ title: 'Response time', width: 4 }, html`${of('Average of probes', 'ms', [['probes', t.avg_response_time_ms]])}${of('Average as services report it', 'ms', [['reported', t.reported_response_time_ms]])}`)}
${panel({ title: 'Health', width: 4 }, html`${of('Healthy services', '%', [['healthy', t.healthy_percentage]], { min: 0, max: 100, colors: ['good'] })}${of('Open alerts', '', [['alerts', t.open_alerts]], { min: 0, colors: ['warn'] })}`)}`;
}

function resources({ resource_utilization: r }: DashboardMetrics): Part {
  if (r.hosts.length === 0)
    return empty(
      html`No host reports <code>cpu_usage</code>, <code>memory_usage</code> or <code>disk_usage</code> with a label <code>host</code>.`,
    );
  const cell = (value: number | null) =>
    value === null
      ? html`<td class="num">–</td>`
      : html`<td class="num"><meter min="0" max="100" low="75" high="90" optimum="0" value="${value}" aria-hidden="true"></meter> ${number(value, ' %', 0)}</td>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Resources by host"><table><thead><tr><th scope="col">Host</th><th scope="col" class="num">CPU</th><th scope="col" class="num">Memory</th><th scope="col" class="num">Disk</th><th scope="col">Last seen</th></tr></thead>
<tbody>${r.hosts.map((h) => html`<tr><th scope="row">${h.host}</th>${cell(h.cpu_usage)}${cell(h.memory_usage)}${cell(h.disk_usage)}<td>${time(h.time)}</td></tr>`)}</tbody></table></div>${
    r.truncated ? html`<p class="hint">Of ${r.total_hosts} hosts these are the busiest.</p>` : ''
  }`;
}
