// Logs: search, how many there were when, what they have in common, and what arrives just now.
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

interface Line {
  id: string;
  timestamp: string;
  service_name: string;
  level: string;
  message: string;
  metadata: Record<string, unknown>;
  trace_id: string | null;
  highlighted?: string[];
}

interface Histogram {
  buckets: { time: string; total: number; levels: Record<string, number> }[];
}

interface Patterns {
  patterns: {
    pattern: string;
    count: number;
    share: number;
    levels: string[];
    last_seen: string;
    example: string;
  }[];
  lines_examined: number;
  complete: boolean;
}

const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'];
const spans: Record<string, [number, string]> = {
  '15m': [0.25, '1m'],
  '1h': [1, '1m'],
  '6h': [6, '5m'],
  '24h': [24, '15m'],
  '7d': [168, '3h'],
};

export const logsPage: Page = async ({ ask, query }) => {
  const { service = '', q = '', level = '', trace_id = '', cursor } = query;
  const range = Object.hasOwn(spans, query.range ?? '') ? query.range! : '24h';
  const isFixed = Date.parse(query.start_time ?? '') < Date.parse(query.end_time ?? '');
  const end = isFixed ? query.end_time! : new Date().toISOString();
  const start = isFixed
    ? query.start_time!
    : new Date(Date.parse(end) - spans[range]![0] * 3_600_000).toISOString();
  const view = query.view === 'patterns' ? 'patterns' : 'lines';
  const path = service ? encodeURIComponent(service) : '*';
  const asked = new URLSearchParams({
    start_time: start,
    end_time: end,
    ...(q ? { q } : {}),
    ...(level ? { level } : {}),
    ...(trace_id ? { trace_id } : {}),
  });
  const hours = (Date.parse(end) - Date.parse(start)) / 3_600_000;
  const window = isFixed ? (hours <= 2 ? '1m' : hours <= 24 ? '15m' : '3h') : spans[range]![1];
  const [histogram, found, services] = await Promise.all([
    ask<Histogram>(
      `/logs/${path}/histogram?${new URLSearchParams({ start_time: start, end_time: end, time_window: window, ...(level ? { level } : {}) })}`,
    ),
    view === 'patterns'
      ? ask<Patterns>(`/logs/${path}/patterns?${asked}&limit=50`)
      : ask<{ logs: Line[]; next_cursor: string | null; partial: boolean }>(
          `/logs/${path}?${asked}&limit=100&highlight=true${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`,
        ),
    ask<{ labels: { label: string; values: string[] }[] }>('/metrics/log_lines_total/labels'),
  ]);
  const known = services.data?.labels.find(({ label }) => label === 'service_name')?.values ?? [];
  const { cursor: _, ...withoutCursor } = query;
  const here = (more: Record<string, string>) =>
    `/logs?${new URLSearchParams({ ...withoutCursor, ...more })}`;
  const fixed = isFixed
    ? html`<input type="hidden" name="start_time" value="${start}"><input type="hidden" name="end_time" value="${end}"><span class="fixed">from ${time(start)} to ${time(end)} <a href="/logs?${new URLSearchParams({ service, q, level })}">the latest instead</a></span>`
    : select('range', 'Range', Object.keys(spans), range);
  return {
    title: service ? `Logs of ${service}` : 'Logs',
    section: '/logs',
    modules: ['logs'],
    hasCharts: true,
    body: html`<h1>Logs${service ? html` of <a href="/services/${encodeURIComponent(service)}">${service}</a>` : ''}</h1>
<form class="filter" method="get" action="/logs">
${input('q', 'Search', q, { placeholder: 'words, "a phrase", -without' })}
${input('service', 'Service', service, { list: 'log-services', placeholder: 'all' })}
<datalist id="log-services">${known.map((name) => html`<option value="${name}">`)}</datalist>
${select('level', 'Level', [['', 'any'], ...levels.map((name) => [name, `${name} and above`] as const)], level)}
${trace_id ? input('trace_id', 'Trace', trace_id) : ''}
${fixed}
<input type="hidden" name="view" value="${view}">
<button class="primary">Search</button>
<button type="button" data-tail="/api/v1/logs/${path}/stream?${new URLSearchParams({ ...(q ? { q } : {}), ...(level ? { level } : {}) })}" aria-pressed="false">Live tail</button>
</form>
${(query.start_time || query.end_time) && !isFixed ? failure('start_time and end_time: expected both, and end_time after start_time. What follows is the latest.') : ''}
<div class="panels">
${panel(
  {
    title: 'Lines over time',
    aside: html`<span class="hint">${q || trace_id ? 'all of this time, whatever is searched for; ' : ''}choose a bar to see its lines</span>`,
  },
  shown(histogram, ({ buckets }) =>
    buckets.length === 0
      ? empty('No lines in this time.')
      : chart(
          'Lines by level',
          {
            times: buckets.map((bucket) => Date.parse(bucket.time)),
            kind: 'bars',
            unit: '',
            min: 0,
            zoom: here({ start_time: '', end_time: '' }),
            lines: [
              { name: 'errors', values: buckets.map((b) => (b.levels.error ?? 0) + (b.levels.fatal ?? 0)) },
              { name: 'warnings', values: buckets.map((b) => b.levels.warn ?? 0) },
              {
                name: 'others',
                values: buckets.map(
                  (b) => b.total - (b.levels.error ?? 0) - (b.levels.fatal ?? 0) - (b.levels.warn ?? 0),
                ),
              },
            ],
            colors: ['bad', 'warn', 'plain'],
          },
          { height: 'small' },
        ),
  ),
)}
${panel(
  {
    title: view === 'patterns' ? 'Patterns' : 'Lines, the newest first',
    aside: html`<nav class="tabs" aria-label="View"><a href="${here({ view: 'lines' })}"${view === 'lines' ? html` aria-current="page"` : ''}>Lines</a><a href="${here({ view: 'patterns' })}"${view === 'patterns' ? html` aria-current="page"` : ''}>Patterns</a></nav>`,
  },
  html`<div class="lines" data-tail-lines hidden></div>
<div data-found>${
    view === 'patterns'
      ? shown(found as Awaited<ReturnType<typeof ask<Patterns>>>, patternTable)
      : shown(
          found as Awaited<
            ReturnType<typeof ask<{ logs: Line[]; next_cursor: string | null; partial: boolean }>>
          >,
          ({ logs, next_cursor, partial }) =>
            logs.length === 0
              ? empty(
                  q || level || service
                    ? 'No line is like that in this time.'
                    : html`No lines in this time: <code>POST /api/v1/logs</code> records them.`,
                )
              : html`<div class="lines">${logs.map((line) => lineRow(line))}</div>${partial ? html`<p class="hint">The search stopped after five seconds; there may be more that is older.</p>` : ''}${next_cursor ? html`<p><a href="${here({ cursor: next_cursor })}">Older</a></p>` : ''}`,
        )
  }</div>`,
)}
</div>`,
  };
};

export function lineRow(line: Line, isChosen = false): Html {
  const parts = line.highlighted ?? [line.message];
  const metadata = Object.entries(line.metadata);
  return html`<details class="line${isChosen ? ' chosen' : ''}"${isChosen ? html` open id="chosen"` : ''}><summary>${time(line.timestamp)} <span class="level ${line.level}">${line.level}</span> <span class="from">${line.service_name}</span> <span class="message">${parts.map((part, i) => (i % 2 === 1 ? html`<mark>${part}</mark>` : part))}</span></summary>
<dl class="pairs">${metadata.map(([key, value]) => html`<dt>${key}</dt><dd>${typeof value === 'string' ? value : JSON.stringify(value)}</dd>`)}${line.trace_id ? html`<dt>trace_id</dt><dd><a href="/logs?trace_id=${encodeURIComponent(line.trace_id)}&range=7d">${line.trace_id}</a></dd>` : ''}</dl>
<p><a href="/logs/${encodeURIComponent(line.service_name)}/${encodeURIComponent(line.id)}#chosen">What was around it</a></p></details>`;
}

function patternTable({ patterns, lines_examined, complete }: Patterns): Part {
  if (patterns.length === 0) return empty('No line is like that in this time.');
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Patterns"><table><thead><tr><th scope="col" class="num">Lines</th><th scope="col" class="num">Share</th><th scope="col">Pattern</th><th scope="col">Last seen</th></tr></thead><tbody>${patterns.map(
    (p) =>
      html`<tr><td class="num">${number(p.count, '', 0)}</td><td class="num">${number(100 * p.share, ' %', 1)}</td><td>${p.levels.map((level) => badge(level))} <code title="${p.example}">${p.pattern}</code></td><td>${time(p.last_seen)}</td></tr>`,
  )}</tbody></table></div><p class="hint">Of ${number(lines_examined, '', 0)} lines${complete ? '' : ', the newest of this time'}.</p>`;
}

export const logContextPage: Page = async ({ ask, params }) => {
  const { service, id } = params as { service: string; id: string };
  const context = await ask<{ before: Line[]; line: Line; after: Line[] }>(
    `/logs/${encodeURIComponent(service)}/${encodeURIComponent(id)}/context?before=25&after=25`,
  );
  return {
    title: `Logs of ${service}`,
    section: '/logs',
    ...(context.problem?.status === 404 ? { status: 404 as const } : {}),
    body: html`<h1>Around a line of <a href="/logs?service=${encodeURIComponent(service)}">${service}</a></h1>
${context.problem ? failure(context.problem.detail) : panel({ title: 'Oldest first' }, html`<div class="lines">${[...context.data.before.map((line) => lineRow(line)), lineRow(context.data.line, true), ...context.data.after.map((line) => lineRow(line))]}</div>`)}`,
  };
};
