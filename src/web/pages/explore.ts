// The metrics explorer: one metric, how it is aggregated and grouped, and what it is compared with. Its address is the view.
import { html } from 'hono/html';
import { aggregations } from '../../rules/expression.ts';
import { chart, empty, failure, input, number, panel, select, time } from '../layout.ts';
import type { Page } from '../routes.ts';

/** Ranges that can be chosen, and the window that fits each. */
export const ranges: Record<string, { hours: number; window: string }> = {
  '1h': { hours: 1, window: '1m' },
  '6h': { hours: 6, window: '5m' },
  '24h': { hours: 24, window: '10m' },
  '7d': { hours: 168, window: '1h' },
  '30d': { hours: 720, window: '6h' },
  '90d': { hours: 2160, window: '1d' },
};

/** The chosen one, or a day. */
export function chosenRange(given: string | undefined) {
  const range = given !== undefined && Object.hasOwn(ranges, given) ? given : '24h';
  return { range, ...ranges[range]! };
}

interface Analytics {
  count: number;
  min: number | null;
  max: number | null;
  avg: number | null;
  median: number | null;
  stddev: number | null;
  p95: number | null;
  p99: number | null;
  trend: { direction: string; slope_per_hour: number | null; change_percent: number | null };
  anomalies: { time: string; value: number; expected: number; score: number }[];
  forecast: { time: string; value: number; lower: number; upper: number }[];
}

/** Labels written as host=web-1, zone=a; undefined where a part is not. */
export function parseLabels(text: string): Record<string, string> | undefined {
  const pairs = text
    .split(',')
    .map((pair) => pair.trim())
    .filter(Boolean)
    .map((pair) => /^([^=]*[^=\s])\s*=\s*(.*)$/.exec(pair));
  if (pairs.includes(null)) return undefined;
  return Object.fromEntries(pairs.map((pair) => [pair![1], pair![2]]));
}

/** Of a span of days the window that gives some hundred points. */
function windowFor(hours: number): string {
  return (Object.values(ranges).find((range) => hours <= range.hours) ?? ranges['90d']!).window;
}

export const explorePage: Page = async ({ ask, query }) => {
  const {
    metric_name: metric = '',
    service_name: service = '',
    labels = '',
    aggregation = 'avg',
    group_by: groupBy = '',
  } = query;
  const { range, ...chosen } = chosenRange(query.range);
  const compares = query.compare === 'on';
  const analyses = query.analytics === 'on';
  const [from, to] = [Date.parse(query.start_time ?? ''), Date.parse(query.end_time ?? '')];
  const isFixed = from < to;
  const end = isFixed ? to : Date.now();
  const start = isFixed ? from : end - chosen.hours * 3_600_000;
  const hours = (end - start) / 3_600_000;
  const window = query.time_window || windowFor(hours);
  const matched = parseLabels(labels);
  const problem =
    matched === undefined
      ? 'Labels: expected such as host=web-1, zone=a.'
      : (query.start_time || query.end_time) && !isFixed
        ? 'From and to: expected both, and to after from.'
        : undefined;

  const selection = new URLSearchParams({
    start_time: new Date(start).toISOString(),
    end_time: new Date(end).toISOString(),
    ...(service ? { service_name: service } : {}),
    ...Object.fromEntries(Object.entries(matched ?? {}).map(([key, value]) => [`label.${key}`, value])),
  });
  const [metrics, known, analytics] = await Promise.all([
    ask<{
      metrics: { name: string; series_count: number; last_seen: string | null }[];
      next_cursor: string | null;
    }>('/metrics?limit=200'),
    metric
      ? ask<{ labels: { label: string; value_count: number; values: string[] }[] }>(
          `/metrics/${encodeURIComponent(metric)}/labels${service ? `?service_name=${encodeURIComponent(service)}` : ''}`,
        )
      : undefined,
    metric && analyses && !problem
      ? ask<Analytics>(`/metrics/${encodeURIComponent(metric)}/analytics?${selection}`)
      : undefined,
  ]);
  const groups = groupBy
    .split(',')
    .map((label) => label.trim())
    .filter(Boolean);
  const asked = {
    metric_name: metric,
    aggregation,
    time_window: window,
    ...(service ? { service_name: service } : {}),
    ...(matched && Object.keys(matched).length > 0 ? { labels: matched } : {}),
    ...(groups.length > 0 ? { group_by: groups } : {}),
    as: aggregation,
  };
  const labelNames = known?.data?.labels.map(({ label }) => label) ?? [];

  return {
    title: metric || 'Metrics',
    section: '/explore',
    modules: ['explore'],
    hasCharts: metric !== '',
    body: html`<h1>Metrics</h1>
<form class="filter" method="get" action="/explore" data-explore>
${input('metric_name', 'Metric', metric, { list: 'metric-names', required: true, placeholder: 'type a part of its name' })}
<datalist id="metric-names">${metrics.data?.metrics.map(({ name }) => html`<option value="${name}">`)}</datalist>
${input('service_name', 'Service', service)}
${input('labels', 'Labels', labels, { placeholder: 'host=web-1, zone=a' })}
${select('aggregation', 'Aggregation', aggregations, aggregation)}
${select('range', 'Range', Object.keys(ranges), range)}
<span class="pair">${instant('start_time', 'or from', query.start_time)} ${instant('end_time', 'to', query.end_time)}</span>
${select('time_window', 'Window', [['', 'by range'], '10s', '1m', '5m', '10m', '1h', '6h', '1d'], query.time_window)}
${input('group_by', 'Group by', groupBy, { list: 'label-names', placeholder: 'a label' })}
<datalist id="label-names">${labelNames.map((name) => html`<option value="${name}">`)}</datalist>
<label class="check"><input type="checkbox" name="compare"${compares ? html` checked` : ''}> the period before</label>
<label class="check"><input type="checkbox" name="analytics"${analyses ? html` checked` : ''}> anomalies and forecast</label>
<button class="primary">Show</button>
</form>
${
  problem
    ? failure(problem)
    : metric === ''
      ? panel(
          { title: 'What there is' },
          metrics.problem
            ? failure(metrics.problem.detail)
            : metrics.data!.metrics.length === 0
              ? empty(html`No metric has been recorded yet: <code>POST /api/v1/metrics</code>.`)
              : html`<ul class="columns">${metrics.data!.metrics.map(({ name, series_count }) => html`<li><a href="/explore?metric_name=${encodeURIComponent(name)}${name.endsWith('_total') ? '&aggregation=rate' : ''}">${name}</a> <span class="hint">${series_count}</span></li>`)}</ul>`,
        )
      : html`<div class="panels">
${panel(
  {
    title: `${aggregation} of ${metric}`,
    aside: html`<button type="button" class="quiet" data-copy-link>Copy the link</button>`,
  },
  html`${chart(
    `${aggregation} of ${metric}${service ? ` of ${service}` : ''} in steps of ${window}`,
    {
      range: { hours, ...(isFixed ? { end } : {}) },
      queries: [asked, ...(compares ? [{ ...asked, as: 'the period before', shift_hours: hours }] : [])],
      unit: '',
      select: `/explore?${new URLSearchParams(Object.entries(query).filter(([key]) => key !== 'range'))}`,
      ...(analytics?.data ? { anomalies: analytics.data.anomalies, forecast: analytics.data.forecast } : {}),
      ...(service ? { logs: service } : {}),
    },
    { height: 'tall' },
  )}`,
)}
${known?.data ? panel({ title: 'Labels', width: 6 }, known.data.labels.length === 0 ? empty('Its series have no labels.') : html`<dl class="pairs">${known.data.labels.map(({ label, value_count, values }) => html`<dt>${label} <span class="hint">${value_count}</span></dt><dd>${values.slice(0, 30).map((value) => html`<a href="/explore?${link(query, label, value)}">${value}</a> `)}</dd>`)}</dl>`) : known?.problem ? panel({ title: 'Labels', width: 6 }, failure(known.problem.detail)) : ''}
${analytics ? panel({ title: 'Analysis', width: 6 }, analytics.problem ? failure(analytics.problem.detail) : analysis(analytics.data)) : ''}
</div>`
}`,
  };
};

function link(query: Record<string, string>, label: string, value: string): string {
  const labels = {
    ...parseLabels(query.labels ?? ''),
    ...(label === 'service_name' ? {} : { [label]: value }),
  };
  return new URLSearchParams({
    ...query,
    ...(label === 'service_name' ? { service_name: value } : {}),
    labels: Object.entries(labels)
      .map(([key, text]) => `${key}=${text}`)
      .join(', '),
  }).toString();
}

/** An instant to be typed in the viewer's time zone: client/explore.ts turns it from and to UTC. */
function instant(name: string, label: string, value = '') {
  return html`<label>${label} <input name="${name}" type="datetime-local" step="1" data-instant="${value}"></label>`;
}

function analysis(a: Analytics) {
  return html`<dl class="facts">${(['count', 'min', 'avg', 'median', 'p95', 'p99', 'max', 'stddev'] as const).map((name) => html`<div><dt>${name}</dt><dd>${number(a[name], '', 2)}</dd></div>`)}
<div><dt>Trend</dt><dd>${a.trend.direction}${a.trend.change_percent === null ? '' : `, ${number(a.trend.change_percent, ' %', 1)} over the range`}</dd></div></dl>
${
  a.anomalies.length === 0
    ? empty('No anomalies.')
    : html`<h3>Anomalies${a.anomalies.length > 20 ? html` <span class="hint">20 of ${a.anomalies.length}</span>` : ''}, those that stand out most first</h3><ol class="events">${a.anomalies
        .toSorted((x, y) => Math.abs(y.score) - Math.abs(x.score))
        .slice(0, 20)
        .map(
          (x) =>
            html`<li>${time(x.time)} <strong>${number(x.value, '', 2)}</strong> where ${number(x.expected, '', 2)} was expected <span class="hint">score ${number(x.score, '', 1)}</span></li>`,
        )}</ol>`
}`;
}
