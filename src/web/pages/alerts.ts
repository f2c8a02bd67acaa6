// Alerts: which there are, what became of each, and who was told.
import { html } from 'hono/html';
import {
  badge,
  duration,
  empty,
  type Html,
  input,
  type Part,
  panel,
  select,
  shown,
  time,
} from '../layout.ts';
import type { Page } from '../routes.ts';

export interface Alert {
  id: string;
  name: string;
  description: string | null;
  severity: string;
  status: string;
  source: string;
  service_name: string | null;
  labels: Record<string, string>;
  annotations: Record<string, string>;
  metadata: Record<string, unknown>;
  value: number | null;
  rule_id: string | null;
  started_at: string;
  acknowledged_at: string | null;
  resolved_at: string | null;
  duration_seconds: number;
}

interface Notification {
  id: string;
  channel: string;
  type: string;
  kind: string;
  status: string;
  error: string | null;
  created_at: string;
  next_attempt_at: string | null;
  alerts: { id: string; name: string; status: string }[];
  attempts: {
    number: number;
    at: string;
    delivered: boolean | null;
    response_code: number | null;
    latency_ms: number | null;
    error: string | null;
  }[];
}

interface AlertDetail extends Alert {
  events: {
    at: string;
    event: string;
    from_status: string | null;
    to_status: string | null;
    actor: string;
    note: string | null;
  }[];
  notifications: Notification[];
  muted_by: { kind: string; name: string; until: string | null }[];
}

/** Buttons that change an alert; client/page.ts does what they say. */
export function alertActions(alert: Pick<Alert, 'id' | 'name' | 'status' | 'service_name'>): Html {
  const label = (verb: string) => `${verb} ${alert.name}`;
  return html`<div class="actions">${
    alert.status === 'firing'
      ? html`<button type="button" data-put="/api/v1/alerts/${alert.id}/acknowledge" data-done="Acknowledged" aria-label="${label('Acknowledge')}">Acknowledge</button>`
      : ''
  }${
    ['firing', 'acknowledged'].includes(alert.status)
      ? html`<button type="button" class="quiet" data-put="/api/v1/alerts/${alert.id}/resolve" data-done="Resolved" aria-label="${label('Resolve')}">Resolve</button>
<button type="button" class="quiet" data-silence="${JSON.stringify([`alertname="${alert.name.replace(/(["\\])/g, '\\$1')}"`, ...(alert.service_name ? [`service="${alert.service_name.replace(/(["\\])/g, '\\$1')}"`] : [])])}" aria-label="${label('Silence 1 h:')}">Silence 1 h</button>`
      : ''
  }</div>`;
}

export const alertsPage: Page = async ({ ask, may, query }) => {
  const { view = 'alerts', status = '', severity = '', service_name = '', q = '', cursor } = query;
  const filter = new URLSearchParams(
    Object.entries({ status, severity, service_name, q }).filter(([, value]) => value !== ''),
  );
  const asked = new URLSearchParams(filter);
  asked.set('limit', '50');
  if (cursor) asked.set('cursor', cursor);
  const tabs = html`<nav class="tabs" aria-label="Alerts"><a href="/alerts"${view === 'alerts' ? html` aria-current="page"` : ''}>Alerts</a><a href="/alerts?view=notifications"${view === 'notifications' ? html` aria-current="page"` : ''}>Delivery ledger</a><a href="/alerts?view=silences"${view === 'silences' ? html` aria-current="page"` : ''}>Silences</a></nav>`;
  const frame = (body: Part) => ({
    title: 'Alerts',
    section: '/alerts',
    body: html`<h1>Alerts</h1>${tabs}<div class="panels">${body}</div>`,
  });

  if (view === 'notifications') {
    const ledger = await ask<{ notifications: Notification[]; next_cursor: string | null }>(
      `/notifications?limit=50${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`,
    );
    return frame(
      panel(
        { title: 'Notifications, the newest first', live: 'ledger' },
        shown(ledger, ({ notifications, next_cursor }) =>
          notifications.length === 0
            ? empty(
                html`Nobody has been notified. A channel (<code>POST /api/v1/channels</code>) is told of every alert of its org unless it chooses.`,
              )
            : html`${notificationTable(notifications, may('notifications:write'))}${nextPage(`/alerts?view=notifications`, next_cursor)}`,
        ),
      ),
    );
  }
  if (view === 'silences') {
    const silences = await ask<{
      silences: {
        id: string;
        matchers: string[];
        starts_at: string;
        ends_at: string;
        author: string;
        reason: string;
        active: boolean;
      }[];
    }>('/silences?limit=100');
    return frame(
      panel(
        { title: 'Silences', live: 'silences' },
        shown(silences, ({ silences: list }) =>
          list.length === 0
            ? empty('There are none: no alert is silenced.')
            : html`<div class="scroll" tabindex="0" role="region" aria-label="Silences"><table><thead><tr><th scope="col">What</th><th scope="col">From</th><th scope="col">To</th><th scope="col">By</th><th scope="col">State</th><th scope="col"><span class="visually-hidden">Actions</span></th></tr></thead><tbody>${list.map(
                (s) =>
                  html`<tr><td><code>${s.matchers.join(', ')}</code>${s.reason ? html`<div class="hint">${s.reason}</div>` : ''}</td><td>${time(s.starts_at)}</td><td>${time(s.ends_at)}</td><td>${s.author}</td><td>${s.active ? badge('warning', 'active') : badge('unknown', 'over')}</td><td>${may('silences:write') && s.active ? html`<button type="button" class="quiet" data-delete="/api/v1/silences/${s.id}" data-done="The silence is over">End</button>` : ''}</td></tr>`,
              )}</tbody></table></div>`,
        ),
      ),
    );
  }

  const [alerts, silences] = await Promise.all([
    ask<{ alerts: Alert[]; summary: Record<string, number>; next_cursor: string | null }>(`/alerts?${asked}`),
    ask<{ silences: unknown[] }>('/silences?active=true&limit=100'),
  ]);
  const silenceCount = silences.data?.silences.length ?? 0;
  return frame(html`${panel(
    { title: 'Filter' },
    html`<form class="filter" method="get" action="/alerts">
${select('status', 'Status', [['', 'any'], 'firing', 'acknowledged', 'resolved', 'pending'], status)}
${select('severity', 'Severity', [['', 'any'], 'critical', 'warning', 'info'], severity)}
${input('service_name', 'Service', service_name)}
${input('q', 'Text', q, { placeholder: 'in name or description' })}
<button class="primary">Filter</button></form>`,
  )}
${panel(
  {
    title: 'Alerts, the newest first',
    live: 'alerts',
  },
  shown(
    alerts,
    ({
      alerts: list,
      summary,
      next_cursor,
    }) => html`<p class="hint">${['firing', 'acknowledged', 'resolved'].map((name) => `${summary[name]} ${name}`).join(' · ')}${silenceCount > 0 ? html` · <a href="/alerts?view=silences">${silenceCount === 1 ? '1 silence is' : `${silenceCount} silences are`} in force</a>` : ''}</p>
${
  list.length === 0
    ? empty(
        filter.size > 0
          ? html`No alert is like that. <a href="/alerts">Show all</a>`
          : html`There has been no alert yet. <a href="/rules/new">Make a rule</a>, or register a service.`,
      )
    : html`<div class="scroll" tabindex="0" role="region" aria-label="Alerts"><table><thead><tr><th scope="col">Alert</th><th scope="col">Service</th><th scope="col">Status</th><th scope="col">Began</th><th scope="col">Lasted</th><th scope="col"><span class="visually-hidden">Actions</span></th></tr></thead><tbody>${list.map(
        (a) =>
          html`<tr><td>${badge(a.severity)} <a href="/alerts/${a.id}">${a.name}</a></td><td>${a.service_name ? html`<a href="/services/${encodeURIComponent(a.service_name)}">${a.service_name}</a>` : '–'}</td><td>${badge(a.status)}</td><td>${time(a.started_at)}</td><td>${duration(a.duration_seconds)}</td><td>${may('alerts:write') ? alertActions(a) : ''}</td></tr>`,
      )}</tbody></table></div>${nextPage(`/alerts?${filter}`, next_cursor)}`
}`,
  ),
)}`);
};

function nextPage(path: string, cursor: string | null): Part {
  return cursor ? html`<p><a href="${path}&cursor=${encodeURIComponent(cursor)}">Older</a></p>` : '';
}

function notificationTable(notifications: Notification[], mayResend: boolean): Html {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Notifications"><table><thead><tr><th scope="col">When</th><th scope="col">Channel</th><th scope="col">About</th><th scope="col">Status</th><th scope="col">Attempts</th></tr></thead><tbody>${notifications.map(
    (n) =>
      html`<tr><td>${time(n.created_at)}</td><td>${n.channel} <span class="hint">${n.type}</span></td><td>${n.alerts.slice(0, 5).map((a) => html`<div><a href="/alerts/${a.id}">${a.name}</a> <span class="hint">${a.status}</span></div>`)}${n.alerts.length > 5 ? html`<div class="hint">and ${n.alerts.length - 5} more</div>` : ''}${n.kind === 'test' ? 'a test' : ''}</td><td>${badge(n.status === 'delivered' ? 'healthy' : n.status === 'dead' ? 'critical' : 'warning', n.status)}${n.status === 'dead' && mayResend ? html` <button type="button" class="quiet" data-post="/api/v1/notifications/${n.id}/resend" data-done="Sent again">Send again</button>` : ''}</td><td>${n.attempts.map(
        (a) =>
          html`<div>${a.number}. ${time(a.at, 'time')} ${a.response_code ?? ''} ${a.delivered ? 'delivered' : (a.error ?? 'under way')} ${a.latency_ms === null ? '' : html`<span class="hint">${Math.round(a.latency_ms)} ms</span>`}</div>`,
      )}</td></tr>`,
  )}</tbody></table></div>`;
}

export const alertPage: Page = async ({ ask, may, params }) => {
  const alert = await ask<AlertDetail>(`/alerts/${encodeURIComponent(params.id!)}`);
  if (!alert.data)
    return {
      title: 'Alert',
      section: '/alerts',
      ...(alert.problem.status === 404 ? { status: 404 as const } : {}),
      body: html`<h1>Alert</h1>${shown(alert, () => '')}`,
    };
  const a = alert.data;
  const pairs = Object.entries({ ...a.labels, ...a.annotations });
  const from = new Date(Date.parse(a.started_at) - 300_000).toISOString();
  const to = new Date(Date.parse(a.resolved_at ?? new Date().toISOString())).toISOString();
  return {
    title: a.name,
    section: '/alerts',
    body: html`<div data-live="alert"><h1>${badge(a.severity)} ${a.name} ${badge(a.status)}</h1>
${a.description ? html`<p>${a.description}</p>` : ''}
<p>${a.service_name ? html`<a href="/services/${encodeURIComponent(a.service_name)}">${a.service_name}</a> · ` : ''}since ${time(a.started_at)}, for ${duration(a.duration_seconds)}${a.value === null ? '' : html` · value ${a.value}`}${a.rule_id ? html` · <a href="/rules/${a.rule_id}">its rule</a>` : ''}${
      a.service_name
        ? html` · <a href="/logs?service=${encodeURIComponent(a.service_name)}&start_time=${from}&end_time=${to}">its logs</a>`
        : ''
    }</p>
${a.muted_by.map((m) => html`<p class="muted">Nobody is notified of it${m.until ? html` until ${time(m.until)}` : ''}: ${m.kind.replace('_', ' ')} ${m.name}.</p>`)}
${may('alerts:write') ? alertActions(a) : ''}</div>
<div class="panels">
${panel(
  { title: 'History', width: 6 },
  html`<ol class="events" data-live="history">${a.events.map((e) => html`<li>${time(e.at)} <strong>${e.event}</strong> by ${e.actor}${e.note ? html`<div>${e.note}</div>` : ''}</li>`)}</ol>
${may('alerts:write') ? html`<form class="filter" data-post-form="/api/v1/alerts/${a.id}/notes" data-done="Noted">${input('note', 'Add a note', '', { required: true })}<button>Add</button></form>` : ''}`,
)}
${panel({ title: 'Labels', width: 6 }, pairs.length === 0 ? empty('It has no labels.') : html`<dl class="pairs">${pairs.map(([key, value]) => html`<dt>${key}</dt><dd>${value}</dd>`)}</dl>`)}
${panel(
  { title: 'Who was told', live: 'told' },
  a.notifications.length === 0
    ? empty('Nobody has been notified of it.')
    : notificationTable(
        a.notifications.map((n) => ({ ...n, alerts: n.alerts ?? [] })),
        may('notifications:write'),
      ),
)}
</div>`,
  };
};
