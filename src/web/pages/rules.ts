// Alert rules: which there are, and the editor, which checks as one types and replays the last day.
import { html } from 'hono/html';
import { badge, data, empty, failure, input, panel, select, shown, time } from '../layout.ts';
import type { Page } from '../routes.ts';

interface Rule {
  id: string;
  name: string;
  expression: string;
  severity: string;
  service_name: string | null;
  interval_seconds: number;
  keep_firing_for: string;
  no_data: string;
  annotations: Record<string, string>;
  enabled: boolean;
  last_evaluation_at: string | null;
  last_error: string | null;
  series_count: number | null;
  alerts: { pending: number; firing: number; acknowledged: number };
}

export const rulesPage: Page = async ({ ask, may, query }) => {
  const { q = '', cursor } = query;
  const rules = await ask<{ alert_rules: Rule[]; next_cursor: string | null }>(
    `/alert-rules?limit=100${q ? `&q=${encodeURIComponent(q)}` : ''}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`,
  );
  return {
    title: 'Rules',
    section: '/rules',
    body: html`<div class="head"><h1>Alert rules</h1>${may('rules:write') ? html`<p><a class="button primary" href="/rules/new">New rule</a></p>` : ''}</div>
<form class="filter" method="get" action="/rules">${input('q', 'Name', q)}<button>Filter</button></form>
${panel(
  { title: 'Rules, the newest first', live: 'rules' },
  shown(rules, ({ alert_rules: list, next_cursor }) =>
    list.length === 0
      ? empty(
          html`${q ? 'No rule is called so.' : 'There are no rules yet: services are watched by their probes alone.'} <a href="/rules/new">Make one</a>`,
        )
      : html`<div class="scroll" tabindex="0" role="region" aria-label="Rules"><table><thead><tr><th scope="col">Rule</th><th scope="col">Expression</th><th scope="col">State</th><th scope="col">Evaluated</th></tr></thead><tbody>${list.map(
          (r) =>
            html`<tr><td>${badge(r.severity)} <a href="/rules/${r.id}">${r.name}</a></td><td><code>${r.expression}</code>${r.last_error ? failure(r.last_error) : ''}</td><td>${state(r)}</td><td>${time(r.last_evaluation_at, 'relative')}</td></tr>`,
        )}</tbody></table></div>${next_cursor ? html`<p><a href="/rules?q=${encodeURIComponent(q)}&cursor=${encodeURIComponent(next_cursor)}">Older</a></p>` : ''}`,
  ),
)}`,
  };
};

function state({ enabled, alerts }: Rule) {
  if (!enabled) return badge('unknown', 'disabled');
  if (alerts.firing > 0) return badge('critical', `${alerts.firing} firing`);
  if (alerts.acknowledged > 0) return badge('warning', `${alerts.acknowledged} acknowledged`);
  return alerts.pending > 0 ? badge('warning', `${alerts.pending} pending`) : badge('healthy', 'quiet');
}

export const rulePage: Page = async ({ ask, may, params }) => {
  const isNew = params.id === 'new';
  const found = isNew ? undefined : await ask<Rule>(`/alert-rules/${encodeURIComponent(params.id!)}`);
  if (found?.problem)
    return {
      title: 'Rule',
      section: '/rules',
      ...(found.problem.status === 404 ? { status: 404 as const } : {}),
      body: html`<h1>Rule</h1>${failure(found.problem.detail)}`,
    };
  const rule = found?.data;
  return {
    title: rule?.name ?? 'New rule',
    section: '/rules',
    modules: ['rules'],
    hasCharts: true,
    body: html`<h1>${rule?.name ?? 'New rule'}</h1>
${data('rule', rule ? { id: rule.id, annotations: rule.annotations } : { annotations: {} })}
<div class="panels">
${panel(
  { title: 'Definition' },
  html`<form class="editor" data-rule-form>
<div class="filter">
${input('name', 'Name', rule?.name, { required: true })}
${select('severity', 'Severity', ['critical', 'warning', 'info'], rule?.severity ?? 'warning')}
${input('interval_seconds', 'Every (seconds)', String(rule?.interval_seconds ?? 30), { type: 'number' })}
${input('keep_firing_for', 'Keep firing for', rule?.keep_firing_for ?? '0s')}
${select(
  'no_data',
  'Without data',
  [
    ['ok', 'it does not hold'],
    ['keep', 'nothing changes'],
    ['alert', 'it holds'],
  ],
  rule?.no_data ?? 'ok',
)}
<label class="check"><input type="checkbox" name="enabled"${rule?.enabled === false ? '' : html` checked`}> enabled</label>
</div>
<label for="expression">Expression</label>
<textarea id="expression" name="expression" rows="3" required spellcheck="false" autocomplete="off" aria-describedby="expression-state" placeholder='avg(response_time_ms{service="auth"}[10m]) &gt; 1000 for 5m'>${rule?.expression ?? ''}</textarea>
<p id="expression-state" class="check-state" role="status" data-expression-state></p>
${input('summary', 'Summary for people', rule?.annotations.summary, { placeholder: '{{ $labels.service }} answers in {{ $value }} ms' })}
<div class="actions">${may('rules:write') ? html`<button class="primary">${rule ? 'Save' : 'Make the rule'}</button>` : ''}
<button type="button" data-replay>Replay the last day</button>
${rule && may('rules:write') ? html`<button type="button" class="quiet danger" data-delete="/api/v1/alert-rules/${rule.id}" data-next="/rules" data-confirm="Delete the rule ${rule.name}? Its open alerts are resolved.">Delete</button>` : ''}</div>
<p class="failure" role="alert" data-form-problem hidden></p>
</form>`,
)}
${panel({ title: 'When it would have fired, last 24 hours' }, html`<div data-replay-result>${empty('Replay it to see.')}</div>`)}
</div>`,
  };
};
