// Of each service that reports its response time, the last day in small.
import { ask } from './api.ts';
import { format } from './chart.ts';

const place = document.querySelector<HTMLElement>('[data-sparks]');
// More would be none that anybody looks at; the slowest come first.
const most = 60;

interface Answer {
  times: number[];
  series: { labels: { service_name?: string }; values: (number | null)[] }[];
}

async function show() {
  if (!place) return;
  const end = Date.now();
  let answer: Answer;
  try {
    answer = await ask('POST', '/api/v1/metrics/query', {
      metric_name: 'response_time_ms',
      aggregation: 'avg',
      group_by: ['service_name'],
      start_time: new Date(end - 86_400_000).toISOString(),
      end_time: new Date(end).toISOString(),
      time_window: '30m',
      format: 'columns',
      fill: 'null',
    });
  } catch (error) {
    place.replaceChildren(paragraph('failure', (error as Error).message));
    return;
  }
  const services = answer.series
    .filter(({ labels, values }) => labels.service_name && values.some((value) => value !== null))
    .map(({ labels, values }) => {
      const known = values.filter((value) => value !== null);
      const sorted = known.toSorted((a, b) => a - b);
      const usual = sorted[Math.floor(sorted.length / 2)]!;
      return { name: labels.service_name!, values, last: known.at(-1)!, peak: Math.max(...known), usual };
    })
    // What stands out most against its own usual.
    .sort((a, b) => b.peak / b.usual - a.peak / a.usual);
  if (services.length === 0) {
    place.replaceChildren(paragraph('empty', 'No service has reported response_time_ms in the last day.'));
    return;
  }
  place.replaceChildren(
    ...services.slice(0, most).map(({ name, values, last, peak, usual }) => {
      const link = document.createElement('a');
      link.className = peak > 2.5 * usual ? 'spark stands-out' : 'spark';
      link.href = `/services/${encodeURIComponent(name)}`;
      const title = document.createElement('span');
      title.className = 'name';
      title.textContent = name;
      const figures = document.createElement('span');
      figures.className = 'figures';
      figures.textContent = `now ${format(last, 'ms')}, at most ${format(peak, 'ms')}, usually ${format(usual, 'ms')}`;
      link.append(title, line(values, peak), figures);
      return link;
    }),
    ...(services.length > most ? [paragraph('hint', `and ${services.length - most} more`)] : []),
  );
}

function paragraph(kind: string, text: string): HTMLElement {
  const element = document.createElement('p');
  element.className = kind;
  element.textContent = text;
  return element;
}

function line(values: (number | null)[], peak: number): SVGElement {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', `0 0 ${values.length - 1 || 1} 30`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  let isDrawing = false;
  path.setAttribute(
    'd',
    values
      .map((value, i) => {
        if (value === null) {
          isDrawing = false;
          return '';
        }
        const step = `${isDrawing ? 'L' : 'M'}${i} ${(29 - (28 * value) / (peak || 1)).toFixed(2)}`;
        isDrawing = true;
        return step;
      })
      .join(''),
  );
  svg.append(path);
  return svg;
}

void show();
setInterval(() => {
  if (document.visibilityState === 'visible') void show();
}, 60_000);
