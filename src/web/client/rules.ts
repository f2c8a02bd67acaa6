// The editor of a rule: reads the expression as the API does while one types, and replays the last day.
import { ExpressionError, parseRule } from '../../rules/expression.ts';
import { ApiError, ask, pageData, showProblem } from './api.ts';
import { draw } from './chart.ts';
import { localTime, showTimes } from './times.ts';

const form = document.querySelector<HTMLFormElement>('[data-rule-form]')!;
const expression = form.elements.namedItem('expression') as HTMLTextAreaElement;
const state = document.querySelector<HTMLElement>('[data-expression-state]')!;
const result = document.querySelector<HTMLElement>('[data-replay-result]')!;
const { id, annotations } = pageData<{ id?: string; annotations: Record<string, string> }>('rule');

function parse() {
  state.classList.remove('bad', 'good');
  if (expression.value.trim() === '') {
    state.textContent = 'Such as avg(response_time_ms{service="auth"}[10m]) > 1000 for 5m';
    return undefined;
  }
  try {
    const rule = parseRule(expression.value);
    state.textContent = 'It reads well.';
    state.classList.add('good');
    return rule;
  } catch (error) {
    if (!(error instanceof ExpressionError)) throw error;
    state.textContent = error.message;
    state.classList.add('bad');
    return undefined;
  }
}

function fields() {
  const given = Object.fromEntries(new FormData(form)) as Record<string, string>;
  return {
    name: given.name,
    expression: given.expression,
    severity: given.severity,
    interval_seconds: Number(given.interval_seconds),
    keep_firing_for: given.keep_firing_for,
    no_data: given.no_data,
  };
}

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const data = new FormData(form);
  const summary = String(data.get('summary') ?? '');
  // Of its annotations the form has one; the others stay as they are.
  const { summary: _, ...others } = annotations;
  const body = {
    ...fields(),
    enabled: data.has('enabled'),
    annotations: summary ? { ...others, summary } : others,
  };
  try {
    const rule = await ask<{ id: string }>(
      id ? 'PATCH' : 'POST',
      id ? `/api/v1/alert-rules/${id}` : '/api/v1/alert-rules',
      body,
    );
    location.href = `/rules/${rule.id}`;
  } catch (error) {
    showProblem(form, error);
  }
});

// What was asked of a rule that has changed since is not what it would have done.
let replaying: AbortController | undefined;
form.addEventListener('input', () => {
  if (replaying === undefined) return;
  replaying.abort();
  replaying = undefined;
  result.replaceChildren(text('empty', 'The rule has changed: replay it to see.'));
});

form.querySelector('[data-replay]')!.addEventListener('click', async () => {
  const rule = parse();
  if (!rule) return expression.focus();
  replaying?.abort();
  replaying = new AbortController();
  const { signal } = replaying;
  result.replaceChildren(
    text('loading', 'Replaying a day, minute by minute: it takes some seconds, up to half a minute…'),
  );
  const end = Date.now();
  const start = end - 86_400_000;
  try {
    const { name: _name, severity, interval_seconds, ...rest } = fields();
    const replay = await ask<{
      alerts: {
        name: string;
        labels: Record<string, string>;
        pending_at: string;
        firing_at: string | null;
        resolved_at: string | null;
        value: number | null;
      }[];
      evaluations: number;
    }>(
      'POST',
      '/api/v1/alert-rules/test',
      {
        ...rest,
        severity,
        // A day at each ten seconds is much to wait for, and looks the same.
        interval_seconds: Math.max(60, interval_seconds),
        start_time: new Date(start).toISOString(),
        end_time: new Date(end).toISOString(),
      },
      signal,
    );
    const fired = replay.alerts.filter(({ firing_at }) => firing_at !== null);
    result.replaceChildren(
      text(
        '',
        fired.length === 0
          ? `It would not have fired in ${replay.evaluations} evaluations.`
          : `It would have fired ${fired.length} times in ${replay.evaluations} evaluations.`,
      ),
    );
    const [selector] = rule.selectors;
    if (selector) {
      const figure = document.createElement('figure');
      figure.className = 'chart tall';
      const plot = document.createElement('div');
      plot.className = 'plot';
      plot.setAttribute('role', 'img');
      plot.setAttribute('aria-label', `${selector.metric}, and when the rule would have fired`);
      const caption = document.createElement('figcaption');
      caption.textContent = `${selector.metric}, and when the rule would have fired`;
      const reading = document.createElement('span');
      reading.className = 'reading';
      caption.append(reading);
      figure.append(plot, caption);
      result.append(figure);
      const labels = Object.fromEntries(
        selector.matchers
          .filter(({ op, label }) => op === '=' && label !== 'service')
          .map(({ label, value }) => [label, value]),
      );
      const service = selector.matchers.find(({ op, label }) => op === '=' && label === 'service')?.value;
      await draw(figure, {
        label: selector.metric,
        unit: '',
        range: { hours: 24, end },
        queries: [
          {
            metric_name: selector.metric,
            aggregation: selector.aggregation,
            time_window: '10m',
            as: selector.metric,
            ...(service ? { service_name: service } : {}),
            ...(Object.keys(labels).length > 0 ? { labels } : {}),
            ...(rule.by.length > 0
              ? { group_by: rule.by.map((label) => (label === 'service' ? 'service_name' : label)) }
              : {}),
          } as never,
        ],
        spans: fired.map(({ firing_at, resolved_at }) => ({
          from: Date.parse(firing_at!),
          to: resolved_at ? Date.parse(resolved_at) : end,
        })),
      });
    }
    if (signal.aborted) return;
    const list = document.createElement('ol');
    list.className = 'events';
    list.append(
      ...fired.slice(0, 50).map(({ labels, firing_at, resolved_at }) => {
        const item = document.createElement('li');
        const names = Object.entries(labels).map(([key, value]) => `${key}=${value}`);
        item.textContent = `${localTime(Date.parse(firing_at!))} to ${resolved_at ? localTime(Date.parse(resolved_at)) : 'now'} ${names.join(' ')}`;
        return item;
      }),
    );
    result.append(list);
    showTimes(result);
  } catch (error) {
    if (signal.aborted) return;
    result.replaceChildren(text('failure', error instanceof ApiError ? error.message : String(error)));
  }
});

function text(kind: string, content: string): HTMLElement {
  const element = document.createElement('p');
  element.className = kind;
  element.textContent = content;
  return element;
}

expression.addEventListener('input', parse);
parse();
