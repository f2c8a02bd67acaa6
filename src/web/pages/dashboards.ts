// Saved dashboards: panels that somebody has arranged, for all of the org. Their address is what is shared.
import { html } from 'hono/html';
import type { Dashboard, Panel } from '../../routes/dashboards.ts';
import { aggregations } from '../../rules/expression.ts';
import {
  badge,
  chart,
  data,
  duration,
  empty,
  failure,
  type Html,
  input,
  type Part,
  panel,
  select,
  shown,
  time,
} from '../layout.ts';
import type { Page, View } from '../routes.ts';
import type { Alert } from './alerts.ts';
import { chosenRange, ranges } from './explore.ts';
import { lineRow } from './logs.ts';

export const dashboardsPage: Page = async ({ ask, may }) => {
  const found = await ask<{ dashboards: Dashboard[] }>('/dashboards?limit=1000');
  return {
    title: 'Dashboards',
    section: '/dashboards',
    modules: ['dashboards'],
    body: html`<div class="head"><h1>Dashboards</h1></div>
${may('dashboards:write') ? html`<form class="filter" data-new-dashboard>${input('name', 'Name of a new one', '', { required: true })}<button class="primary">Make it</button><p class="failure" role="alert" data-form-problem hidden></p></form>` : ''}
${panel(
  { title: 'Saved dashboards', live: 'dashboards' },
  shown(found, ({ dashboards }) =>
    dashboards.length === 0
      ? empty('There is none yet. Give one a name, and then add panels.')
      : html`<ul class="rows">${dashboards.map((d) => html`<li class="row"><div><a href="/dashboards/${d.id}">${d.name}</a>${d.description ? html`<div class="hint">${d.description}</div>` : ''}</div><span class="hint">${d.panels.length} panels · ${d.created_by} · ${time(d.updated_at)}</span></li>`)}</ul>`,
  ),
)}`,
  };
};

export const dashboardPage: Page = async (view) => {
  const { ask, may, params, query } = view;
  const { range, ...span } = chosenRange(query.range);
  const found = await ask<Dashboard>(`/dashboards/${encodeURIComponent(params.id!)}`);
  if (found.problem)
    return {
      title: 'Dashboard',
      section: '/dashboards',
      ...(found.problem.status === 404 ? { status: 404 as const } : {}),
      body: html`<h1>Dashboard</h1>${failure(found.problem.detail)}`,
    };
  const dashboard = found.data;
  const isEdited = query.edit === 'on' && may('dashboards:write');
  const bodies = await Promise.all(dashboard.panels.map((one) => panelBody(view, one, span)));
  return {
    title: dashboard.name,
    section: '/dashboards',
    modules: ['dashboards'],
    hasCharts: true,
    body: html`<div class="head"><h1>${dashboard.name}</h1>
<nav class="tabs" aria-label="Range">${Object.keys(ranges).map((r) => html`<a href="?range=${r}"${r === range ? html` aria-current="page"` : ''}>${r}</a>`)}</nav>
<p><button type="button" class="quiet" data-copy-link>Copy the link</button> ${may('dashboards:write') ? html`<a class="button" href="?range=${range}${isEdited ? '' : '&edit=on'}">${isEdited ? 'Done' : 'Arrange'}</a>` : ''}</p></div>
${dashboard.description ? html`<p>${dashboard.description}</p>` : ''}
${data('dashboard', { id: dashboard.id, panels: dashboard.panels })}
<p class="failure" role="alert" data-form-problem hidden></p>
<div class="panels arranged" data-layout="${JSON.stringify(dashboard.panels)}">${
      dashboard.panels.length === 0
        ? html`<div class="w12">${empty(isEdited ? 'Add a panel below.' : html`It has no panels yet. <a href="?edit=on">Arrange it</a>`)}</div>`
        : ''
    }${dashboard.panels.map((one, i) =>
      panel(
        {
          title: one.title,
          width: one.width === 3 ? 12 : one.width === 2 ? 8 : 4,
          ...(one.type === 'metric' ? {} : { live: `panel-${i}` }),
          aside: isEdited
            ? html`<span class="actions"><button type="button" class="quiet" data-move="${i}" data-by="-1" aria-label="Move ${one.title} forward">←</button><button type="button" class="quiet" data-move="${i}" data-by="1" aria-label="Move ${one.title} back">→</button><button type="button" class="quiet" data-widen="${i}" aria-label="Change the width of ${one.title}">↔</button><button type="button" class="quiet danger" data-remove="${i}" aria-label="Remove ${one.title}">✕</button></span>`
            : '',
        },
        bodies[i],
      ),
    )}</div>
${isEdited ? panel({ title: 'Add a panel' }, panelForm()) : ''}
${isEdited ? html`<p><button type="button" class="quiet danger" data-delete="/api/v1/dashboards/${dashboard.id}" data-next="/dashboards" data-confirm="Delete the dashboard ${dashboard.name}?">Delete this dashboard</button></p>` : ''}`,
  };
};

function panelForm(): Html {
  return html`<form class="filter" data-new-panel>
${select(
  'type',
  'Shows',
  [
    ['metric', 'a metric'],
    ['logs', 'logs'],
    ['alerts', 'open alerts'],
    ['services', 'services'],
  ],
  'metric',
)}
${input('title', 'Title', '', { required: true })}
${select(
  'width',
  'Width',
  [
    ['1', 'a third'],
    ['2', 'two thirds'],
    ['3', 'all of it'],
  ],
  '1',
)}
<span data-for="metric">${input('metric_name', 'Metric', '')} ${select('aggregation', 'Aggregation', aggregations, 'avg')} ${input('group_by', 'Group by', '')}</span>
<span data-for="metric logs alerts">${input('service_name', 'Service', '')}</span>
<span data-for="logs" hidden>${select('level', 'Level', [['', 'any'], 'info', 'warn', 'error', 'fatal'], '')} ${input('q', 'Search', '')}</span>
<button class="primary">Add</button></form>`;
}

async function panelBody(
  { ask }: View,
  one: Panel,
  { hours, window }: { hours: number; window: string },
): Promise<Part> {
  switch (one.type) {
    case 'metric': {
      const {
        type: _type,
        title,
        width: _width,
        time_window = window,
        aggregation = 'avg',
        ...selection
      } = one;
      return chart(title, {
        range: { hours },
        queries: [{ ...selection, aggregation, time_window, as: aggregation }],
        ...(one.service_name ? { logs: one.service_name } : {}),
      });
    }
    case 'logs': {
      const asked = new URLSearchParams({
        limit: '20',
        ...(one.level ? { level: one.level } : {}),
        ...(one.q ? { q: one.q } : {}),
      });
      const found = await ask<{ logs: Parameters<typeof lineRow>[0][] }>(
        `/logs/${one.service_name ? encodeURIComponent(one.service_name) : '*'}?${asked}`,
      );
      return shown(found, ({ logs }) =>
        logs.length === 0
          ? empty('No lines.')
          : html`<div class="lines">${logs.map((line) => lineRow(line))}</div>`,
      );
    }
    case 'alerts': {
      const found = await Promise.all(
        ['firing', 'acknowledged'].map((status) =>
          ask<{ alerts: Alert[] }>(
            `/alerts?status=${status}&limit=20${one.service_name ? `&service_name=${encodeURIComponent(one.service_name)}` : ''}`,
          ),
        ),
      );
      const open = found.flatMap(({ data }) => data?.alerts ?? []);
      return shown(found.find(({ problem }) => problem) ?? found[0]!, () =>
        open.length === 0
          ? empty('No alert is open.')
          : html`<ul class="rows">${open.map((a) => html`<li class="row"><div>${badge(a.severity)} <a href="/alerts/${a.id}">${a.name}</a> ${badge(a.status)}<div class="hint">since ${time(a.started_at)}, ${duration(a.duration_seconds)}</div></div></li>`)}</ul>`,
      );
    }
    case 'services': {
      const found = await ask<{ services: Record<string, { current_status: string }> }>(
        '/health/services?history=false',
      );
      return shown(found, ({ services }) =>
        Object.keys(services).length === 0
          ? empty('No services are registered.')
          : html`<ul class="grid">${Object.entries(services).map(([name, s]) => html`<li><a class="cell ${s.current_status}" href="/services/${encodeURIComponent(name)}"><span class="name">${name}</span> <span class="state">${s.current_status}</span></a></li>`)}</ul>`,
      );
    }
  }
}
