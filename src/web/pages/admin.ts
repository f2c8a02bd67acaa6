// What admins look after: API tokens, what the org uses, its status page, and the audit log.
import { html } from 'hono/html';
import {
  badge,
  chart,
  empty,
  failure,
  type Html,
  input,
  number,
  type Part,
  panel,
  select,
  shown,
  time,
} from '../layout.ts';
import type { Page } from '../routes.ts';

interface Token {
  id: string;
  name: string;
  prefix: string;
  role: string;
  permissions: string[] | null;
  expires_at: string | null;
  created_at: string;
  last_used_at: string | null;
  last_used_address: string | null;
  revoked_at: string | null;
}

interface Org {
  org_id: string;
  retention_days: number | null;
  timezone: string;
  limits: Record<string, number>;
  series_count: number;
  log_stream_count: number;
  service_count: number;
  status_page: { title: string; service_names: string[] } | null;
}

interface AuditEvent {
  id: string;
  time: string;
  actor: string;
  action: string;
  target_id: string | null;
  outcome: string;
  status: number | null;
  address: string | null;
  before?: unknown;
  after?: unknown;
}

export const adminPage: Page = async ({ ask, may, query }) => {
  if (!may('org:read'))
    return {
      title: 'Admin',
      section: '/admin',
      body: html`<h1>Admin</h1>${failure('This page is for admins: your token has another role.')}`,
    };
  const { actor = '', action = '', outcome = '', cursor } = query;
  const filter = new URLSearchParams(
    Object.entries({ actor, action, outcome }).filter(([, value]) => value !== ''),
  );
  const [org, tokens, usage, audit] = await Promise.all([
    ask<Org>('/org'),
    ask<{ tokens: Token[] }>('/tokens?limit=100'),
    ask<{ days: { day: string; requests: number; refused: number; samples: number; log_lines: number }[] }>(
      '/org/usage',
    ),
    ask<{ events: AuditEvent[]; next_cursor: string | null }>(
      `/audit?limit=50&${filter}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`,
    ),
  ]);
  return {
    title: 'Admin',
    section: '/admin',
    modules: ['admin'],
    hasCharts: true,
    body: html`<h1>Admin</h1><div class="panels">
${panel({ title: 'Organisation', width: 6 }, shown(org, orgFacts))}
${panel(
  { title: 'Public status page', width: 6 },
  shown(org, (o) => statusPageForm(o, may('org:write'))),
)}
${panel(
  { title: 'Usage by day' },
  shown(usage, ({ days }) => {
    if (days.length === 0) return empty('Nothing has been used yet.');
    const times = days.map(({ day }) => Date.parse(day));
    const of = (label: string, field: 'requests' | 'samples' | 'log_lines') =>
      chart(
        label,
        {
          times,
          kind: 'bars',
          unit: '',
          min: 0,
          lines: [{ name: field, values: days.map((day) => day[field]) }],
        },
        { height: 'small' },
      );
    return html`<div class="three">${of('Requests', 'requests')}${of('Samples recorded', 'samples')}${of('Log lines recorded', 'log_lines')}</div>`;
  }),
)}
${panel({ title: 'API tokens' }, html`${may('tokens:write') ? tokenForm() : ''}<div data-live="tokens">${shown(tokens, (t) => tokenTable(t, may('tokens:write')))}</div>`)}
${panel(
  { title: 'Audit log, the newest first' },
  html`<form class="filter" method="get" action="/admin">${input('actor', 'Actor', actor)}${input('action', 'Action', action, { placeholder: 'alert_rule.update' })}${select('outcome', 'Outcome', [['', 'any'], 'done', 'refused'], outcome)}<button>Filter</button></form>
${shown(audit, ({ events, next_cursor }) =>
  events.length === 0
    ? empty('Nothing is like that.')
    : html`<div class="scroll" tabindex="0" role="region" aria-label="Audit log"><table><thead><tr><th scope="col">When</th><th scope="col">Who</th><th scope="col">What</th><th scope="col">Of</th><th scope="col">Outcome</th><th scope="col">From</th></tr></thead><tbody>${events.map(
        (e) =>
          html`<tr><td>${time(e.time)}</td><td>${e.actor}</td><td><code>${e.action}</code></td><td>${e.target_id ?? ''}${changes(e)}</td><td>${badge(e.outcome === 'done' ? 'healthy' : 'critical', e.outcome)} ${e.status ?? ''}</td><td>${e.address ?? ''}</td></tr>`,
      )}</tbody></table></div>${next_cursor ? html`<p><a href="/admin?${filter}&cursor=${encodeURIComponent(next_cursor)}">Older</a></p>` : ''}`,
)}`,
)}
</div>`,
  };
};

function orgFacts(o: Org): Html {
  return html`<dl class="facts"><div><dt>Name</dt><dd>${o.org_id}</dd></div>
<div><dt>Series</dt><dd>${number(o.series_count, '', 0)} of ${number(o.limits.series, '', 0)}</dd></div>
<div><dt>Log streams</dt><dd>${number(o.log_stream_count, '', 0)} of ${number(o.limits.log_streams, '', 0)}</dd></div>
<div><dt>Services</dt><dd>${number(o.service_count, '', 0)} of ${number(o.limits.services, '', 0)}</dd></div>
<div><dt>Retention</dt><dd>${o.retention_days === null ? "the service's" : `${o.retention_days} days`}</dd></div>
<div><dt>Time zone</dt><dd>${o.timezone}</dd></div></dl>`;
}

function statusPageForm({ org_id, status_page }: Org, mayWrite: boolean): Html {
  return html`<p>${status_page ? html`Anyone can see <a href="/status/${encodeURIComponent(org_id)}">/status/${org_id}</a>.` : 'Off: nobody can see anything without a token.'}</p>
${mayWrite ? html`<form class="filter" data-status-page>${input('title', 'Title', status_page?.title, { placeholder: 'Our services' })}${input('service_names', 'Services', status_page?.service_names.join(', '), { placeholder: 'gateway, auth' })}<button>${status_page ? 'Change' : 'Switch on'}</button>${status_page ? html`<button type="button" class="quiet danger" data-status-off>Switch off</button>` : ''}<p class="failure" role="alert" data-form-problem hidden></p></form>` : ''}`;
}

function tokenForm(): Html {
  return html`<form class="filter" data-new-token>${input('name', 'Name', '', { required: true, placeholder: 'ci' })}${select('role', 'Role', ['viewer', 'ingest', 'operator', 'admin'], 'viewer')}${select(
    'days',
    'Expires',
    [
      ['30', 'in 30 days'],
      ['90', 'in 90 days'],
      ['365', 'in a year'],
      ['', 'never'],
    ],
    '90',
  )}<button class="primary">Make a token</button><p class="failure" role="alert" data-form-problem hidden></p></form>
<p class="made" role="status" data-made-token hidden></p>`;
}

function tokenTable({ tokens }: { tokens: Token[] }, mayWrite: boolean): Part {
  if (tokens.length === 0) return empty('There are no API tokens: machines need one.');
  return html`<div class="scroll" tabindex="0" role="region" aria-label="API tokens"><table><thead><tr><th scope="col">Name</th><th scope="col">Begins</th><th scope="col">May</th><th scope="col">Expires</th><th scope="col">Last used</th><th scope="col">State</th></tr></thead><tbody>${tokens.map(
    (t) =>
      html`<tr><th scope="row">${t.name}</th><td><code>${t.prefix}…</code></td><td>${t.role}${t.permissions ? html` <span class="hint">${t.permissions.join(', ')}</span>` : ''}</td><td>${t.expires_at ? time(t.expires_at) : 'never'}</td><td>${time(t.last_used_at)}${t.last_used_address ? html` <span class="hint">${t.last_used_address}</span>` : ''}</td><td>${
        t.revoked_at
          ? badge('unknown', 'revoked')
          : mayWrite
            ? html`<button type="button" class="quiet danger" data-post="/api/v1/tokens/${t.id}/revoke" data-done="Revoked" data-confirm="Revoke the token ${t.name}? What uses it is refused from then on." aria-label="Revoke ${t.name}">Revoke</button>`
            : badge('healthy', 'good')
      }</td></tr>`,
  )}</tbody></table></div>`;
}

function changes({ before, after }: AuditEvent): Part {
  if (!before && !after) return '';
  return html`<details><summary>before and after</summary><pre>${JSON.stringify(before ?? null, null, 1)}
→
${JSON.stringify(after ?? null, null, 1)}</pre></details>`;
}
