// Charts: each figure says what it shows (data-chart), and is drawn with uPlot from what the page brought or the API answers.
import type uPlotType from 'uplot';
import { ApiError, ask } from './api.ts';
import { localTime } from './times.ts';

declare const uPlot: typeof uPlotType;

interface Query {
  metric_name: string;
  aggregation: string;
  time_window: string;
  /** Name of its line; the group's labels where it has groups. */
  as: string;
  group_by?: string[];
  /** So many hours before the range, drawn where the range is. */
  shift_hours?: number;
  /** Label whose 5xx groups alone count, added up. */
  failed?: string;
}

export interface ChartSpec {
  label: string;
  unit: string;
  kind?: 'line' | 'bars';
  min?: number;
  max?: number;
  /** Of the lines, in turn: good, warn, bad, plain; others have their own. */
  colors?: string[];
  /** What the page brought. */
  times?: number[];
  lines?: { name: string; values: (number | null)[] }[];
  /** Or what the API is asked for: so many hours up to an instant in epoch milliseconds, or to now. */
  range?: { hours: number; end?: number };
  queries?: Query[];
  /** The first query's share of the second's, in percent. */
  ratio?: boolean;
  /** A service: a moment that is chosen leads to its logs of that minute. */
  logs?: string;
  /** An address: a moment that is chosen leads there, with its step as start_time and end_time. */
  zoom?: string;
  /** An address: a span that is drawn over leads there, as start_time and end_time. */
  select?: string;
  anomalies?: { time: string; value: number }[];
  forecast?: { time: string; value: number; lower: number; upper: number }[];
  /** Spans to be shaded, in epoch milliseconds. */
  spans?: { from: number; to: number }[];
}

interface Line {
  name: string;
  /** null is a gap; undefined a time of other lines, which the line goes over. */
  values: (number | null | undefined)[];
  isDashed?: boolean;
  /** Place of the line that it has its colour from. */
  like?: number;
}

interface Lines {
  times: number[];
  lines: Line[];
  /** What is not shown, and why. */
  note?: string;
}

const palette = Array.from({ length: 10 }, (_, i) => `--line-${i + 1}`);
// So many at once can be told apart, by some.
const mostLines = 20;
const mostPoints = 10_000;
// What of a step that is not over yet is less than it will be.
const growing = new Set(['sum', 'count', 'rate', 'increase']);
const named: Record<string, string> = { good: '--good', warn: '--warn', bad: '--bad', plain: '--line-1' };
interface Figure {
  spec: ChartSpec;
  /** Where there was something to draw. */
  plot?: uPlotType;
  lines?: Lines;
}

const figures = new Map<HTMLElement, Figure>();

export function format(value: number | null | undefined, unit: string): string {
  if (value === null || value === undefined) return '–';
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 1 ? 1 : 3;
  const text = new Intl.NumberFormat('en', {
    maximumFractionDigits: digits,
    ...(Math.abs(value) >= 100_000 ? { notation: 'compact' as const, maximumFractionDigits: 1 } : {}),
  }).format(value);
  return unit ? `${text} ${unit}` : text;
}

/** Draws the chart of a figure anew. */
export async function draw(
  figure: HTMLElement,
  spec: ChartSpec = JSON.parse(figure.dataset.chart!),
): Promise<void> {
  const place = figure.querySelector<HTMLElement>('.plot')!;
  const known = figures.get(figure);
  figures.set(figure, { ...known, spec });
  // Of two that are under way the one that was asked for last counts.
  const isCurrent = () => figures.get(figure)?.spec === spec;
  try {
    if (!spec.times) place.classList.add('loading');
    const lines = spec.times ? { times: spec.times, lines: spec.lines! } : await load(spec);
    if (!isCurrent()) return;
    place.classList.remove('loading');
    render(figure, place, spec, extended(spec, lines));
  } catch (error) {
    if (!isCurrent()) return;
    place.classList.remove('loading');
    // It is tried again when charts follow the clock.
    clear(figure, spec);
    place.textContent = error instanceof ApiError ? error.message : String(error);
    place.classList.add('failure');
  }
}

async function load(spec: ChartSpec): Promise<Lines> {
  const end = spec.range!.end ?? Date.now();
  const spanMs = spec.range!.hours * 3_600_000;
  const answers = await Promise.all(
    spec.queries!.map(async (query) => {
      const { as, shift_hours = 0, failed, ...asked } = query;
      const shiftMs = shift_hours * 3_600_000;
      const { times, series, truncated } = await ask<{
        times: number[];
        series: { labels: Record<string, string>; values: (number | null)[] }[];
        truncated: boolean;
      }>('POST', '/api/v1/metrics/query', {
        ...asked,
        start_time: new Date(end - spanMs - shiftMs).toISOString(),
        end_time: new Date(end - shiftMs).toISOString(),
        format: 'columns',
        fill: 'null',
        limit: mostPoints,
      });
      const isGrowing = growing.has(query.aggregation) && !spec.range!.end && !truncated && times.length > 1;
      return { as, shiftMs, failed, times: isGrowing ? times.slice(0, -1) : times, series, truncated };
    }),
  );
  // One axis for all of them.
  const times = [
    ...new Set(answers.flatMap((answer) => answer.times.map((time) => time + answer.shiftMs))),
  ].sort((a, b) => a - b);
  const at = new Map(times.map((time, i) => [time, i]));
  const lines = answers.flatMap((answer) => {
    const spread = (values: (number | null)[]) => {
      const all: Line['values'] = new Array(times.length).fill(undefined);
      for (const [i, time] of answer.times.entries()) all[at.get(time + answer.shiftMs)!] = values[i];
      return all;
    };
    if (answer.failed) {
      const failed = answer.series.filter(({ labels }) => /^5/.test(labels[answer.failed!] ?? ''));
      const sums = answer.times.map((_, i) => failed.reduce((sum, { values }) => sum + (values[i] ?? 0), 0));
      return [{ name: answer.as, values: spread(sums) }];
    }
    return answer.series.slice(0, mostLines).map(({ labels, values }): Line => {
      const group = Object.values(labels).filter(Boolean).join(' ');
      if (answer.shiftMs === 0) return { name: group || answer.as, values: spread(values) };
      return {
        name: group ? `${group}, ${answer.as}` : answer.as,
        values: spread(values),
        isDashed: true,
        like: answers[0]!.series.findIndex(
          (one) => Object.values(one.labels).join() === Object.values(labels).join(),
        ),
      };
    });
  });
  const most = Math.max(...answers.map(({ series }) => series.length));
  const notes = [
    ...(answers.some(({ truncated }) => truncated)
      ? [
          `A line would have more than ${mostPoints.toLocaleString('en')} points: the newest are not drawn. A wider window has fewer.`,
        ]
      : []),
    ...(most > mostLines && !spec.ratio ? [`Of ${most} lines the first ${mostLines} are drawn.`] : []),
  ];
  if (spec.ratio) {
    const [part, all] = lines;
    if (!all) return { times: [], lines: [] };
    const values = all.values.map((value, i) => (value ? (100 * (part?.values[i] ?? 0)) / value : null));
    return { times, lines: [{ name: spec.queries![0]!.as, values }] };
  }
  return { times, lines, note: notes.join(' ') };
}

// With what is forecast behind it, and anomalies as points.
function extended({ forecast = [], anomalies = [] }: ChartSpec, { times, lines, ...rest }: Lines): Lines {
  if (forecast.length === 0 && anomalies.length === 0) return { times, lines, ...rest };
  const all = [
    ...new Set([
      ...times,
      ...forecast.map(({ time }) => Date.parse(time)),
      ...anomalies.map(({ time }) => Date.parse(time)),
    ]),
  ].sort((a, b) => a - b);
  const spread = (pairs: [number, number | null | undefined][]) => {
    const known = new Map(pairs);
    return all.map((time) => known.get(time));
  };
  return {
    ...rest,
    times: all,
    lines: [
      ...lines.map((line) => ({ ...line, values: spread(times.map((time, i) => [time, line.values[i]])) })),
      ...(forecast.length > 0
        ? (['value', 'lower', 'upper'] as const).map((field) => ({
            name: field === 'value' ? 'forecast' : field,
            isDashed: true,
            values: spread(forecast.map((point) => [Date.parse(point.time), point[field]])),
          }))
        : []),
      ...(anomalies.length > 0
        ? [{ name: 'anomaly', values: spread(anomalies.map(({ time, value }) => [Date.parse(time), value])) }]
        : []),
    ],
  };
}

// Its plot goes; it stays a figure that has something to show.
function clear(figure: HTMLElement, spec: ChartSpec) {
  figures.get(figure)?.plot?.destroy();
  figures.set(figure, { spec });
}

function render(figure: HTMLElement, place: HTMLElement, spec: ChartSpec, lines: Lines) {
  clear(figure, spec);
  place.replaceChildren();
  place.classList.remove('failure', 'empty');
  const isEmpty = lines.lines.every(({ values }) =>
    values.every((value) => value === null || value === undefined),
  );
  const reading = figure.querySelector<HTMLElement>('.reading')!;
  say(figure, 'note', lines.note ?? '');
  if (isEmpty) {
    place.textContent = 'Nothing was recorded in this time.';
    place.classList.add('empty');
    reading.textContent = '';
    return;
  }
  // As it is computed: a variable's own value says light-dark(…).
  const color = (name: string) => {
    place.style.color = `var(${name})`;
    return getComputedStyle(place).color;
  };
  const stroke = (i: number) => color(named[spec.colors?.[i] ?? ''] ?? palette[i % palette.length]!);
  const axis = {
    stroke: color('--text-soft'),
    grid: { stroke: color('--grid'), width: 1 },
    ticks: { show: false },
    font: '12px system-ui, sans-serif',
  };
  const isBars = spec.kind === 'bars';
  const shadeColor = color('--shade');
  const colors = lines.lines.map(({ name, like }, i) =>
    name === 'anomaly' ? color('--bad') : stroke(like === undefined || like < 0 ? i : like),
  );
  const series: uPlotType.Series[] = [
    {},
    ...lines.lines.map(({ name, isDashed }, i): uPlotType.Series => {
      const isPoints = name === 'anomaly';
      return {
        label: name,
        stroke: colors[i],
        width: isPoints ? 0 : 1.5,
        ...(isDashed ? { dash: [5, 4] } : {}),
        ...(isBars ? { fill: colors[i], paths: uPlot.paths.bars!({ size: [0.8, 40] }) } : {}),
        points: isPoints ? { show: true, size: 9, fill: colors[i] } : { show: lines.times.length < 2 },
        value: (_, value) => format(value, spec.unit),
      };
    }),
  ];
  const data = [
    lines.times.map((time) => time / 1000),
    ...(isBars ? stacked(lines.lines) : lines.lines).map(({ values }) => values),
  ] as uPlotType.AlignedData;
  // A bar stands around its time; one alone is a day wide.
  const stepSeconds = Math.min(
    ...lines.times.slice(1).map((time, i) => (time - lines.times[i]!) / 1000),
    86_400,
  );
  const plot = new uPlot(
    {
      width: Math.max(200, place.clientWidth),
      height: place.clientHeight || 160,
      cursor: { y: false, points: { size: 6 }, sync: { key: 'charts' } },
      legend: { show: false },
      scales: {
        x: {
          time: true,
          range: (_plot, low, high) => {
            const aside = isBars || low === high ? stepSeconds / 2 : 0;
            return [low - aside, high + aside];
          },
        },
        y: {
          range: (_plot, low, high) => {
            const min = spec.min ?? Math.min(0, low ?? 0);
            const top = high ?? 1;
            return [min, spec.max ?? (top > min ? top + (top - min) * 0.08 : min + 1)];
          },
        },
      },
      axes: [
        axis,
        { ...axis, size: 62, values: (_, splits) => splits.map((value) => format(value, spec.unit)) },
      ],
      // The highest of a stack is drawn first, behind the others.
      series: isBars ? [series[0]!, ...series.slice(1).reverse()] : series,
      hooks: {
        setCursor: [
          (self) => {
            const i = self.cursor.idx;
            reading.replaceChildren(...read(spec, lines, colors, i));
          },
        ],
        setSelect: [
          (self) => {
            const { left, width } = self.select;
            if (!spec.select || width < 1) return;
            const [from, to] = [left, left + width].map((x) => Math.round(self.posToVal(x, 'x')) * 1000);
            const link = document.createElement('a');
            link.href = address(spec.select, from!, to!);
            link.textContent = `${localTime(from!)} to ${localTime(to!)} alone`;
            say(figure, 'chosen-span', link);
          },
        ],
        drawClear: [(self) => shade(self, spec.spans ?? [], shadeColor)],
      },
    },
    isBars ? ([data[0], ...data.slice(1).reverse()] as uPlotType.AlignedData) : data,
    place,
  );
  place.style.color = '';
  figures.set(figure, { spec, plot, lines });
  reading.replaceChildren(...read(spec, lines, colors, null));
  const lead = (i: number | null | undefined) => {
    if (i === null || i === undefined) return;
    const time = lines.times[i]!;
    const stepMs = Math.max(60_000, (lines.times[1] ?? time + 60_000) - lines.times[0]!);
    if (spec.logs)
      choose(
        figure,
        address(`/logs?service=${encodeURIComponent(spec.logs)}`, time, time + stepMs),
        time,
        stepMs,
      );
    else if (spec.zoom) location.href = address(spec.zoom, time, time + stepMs);
  };
  if (spec.logs || spec.zoom) {
    plot.over.style.cursor = 'pointer';
    let downAt = 0;
    plot.over.addEventListener('mousedown', (event) => (downAt = event.clientX));
    // A drag zooms into the chart, a click leads to the moment.
    plot.over.addEventListener('click', (event) => {
      if (Math.abs(event.clientX - downAt) < 4) lead(plot.cursor.idx);
    });
  }
}

// Of what an address shows, one time alone.
function address(path: string, from: number, to: number): string {
  const url = new URL(path, location.href);
  url.searchParams.set('start_time', new Date(from).toISOString());
  url.searchParams.set('end_time', new Date(to).toISOString());
  return url.href;
}

// A link below the chart, which can be reached by keyboard and says where it leads.
function choose(figure: HTMLElement, href: string, time: number, stepMs: number) {
  const link = document.createElement('a');
  link.href = href;
  const length =
    stepMs < 3_600_000 ? `${Math.round(stepMs / 60_000)} min` : `${Math.round(stepMs / 3_600_000)} h`;
  link.textContent = `Logs of ${localTime(time)} and the ${length} from there`;
  say(figure, 'chosen-moment', link);
}

// Below the chart, in a paragraph of its own.
function say(figure: HTMLElement, kind: string, text: string | Node) {
  let place = figure.querySelector<HTMLElement>(`p.${kind}`);
  if (!place) {
    if (!text) return;
    place = document.createElement('p');
    place.className = `hint ${kind}`;
    figure.append(place);
  }
  place.hidden = !text;
  place.replaceChildren(text);
}

/** Each upon those before it. */
function stacked(lines: readonly Line[]): Line[] {
  const sums: number[] = [];
  return lines.map((line) => ({
    ...line,
    values: line.values.map((value, i) => (sums[i] = (sums[i] ?? 0) + (value ?? 0))),
  }));
}

/** What the lines say at one time, or in all, each with its colour. */
function read(
  { unit, kind }: ChartSpec,
  { times, lines }: Lines,
  colors: string[],
  i: number | null | undefined,
): Node[] {
  const isMoment = i !== null && i !== undefined;
  const keys = lines.map(({ name, values }, n) => {
    const known = values.filter((value) => value !== null && value !== undefined);
    const key = document.createElement('span');
    key.className = 'key';
    const swatch = document.createElement('i');
    swatch.style.background = colors[n]!;
    const text = isMoment
      ? `${name} ${format(values[i], unit)}`
      : known.length === 0
        ? name
        : kind === 'bars'
          ? `${name} ${format(
              known.reduce((sum, value) => sum + value, 0),
              unit,
            )}`
          : `${name} ${format(known.at(-1), unit)}, at most ${format(Math.max(...known), unit)}`;
    key.append(swatch, text);
    return key;
  });
  return isMoment ? [new Text(`${localTime(times[i]!)} `), ...keys] : keys;
}

function shade(self: uPlotType, spans: { from: number; to: number }[], fill: string) {
  const { ctx } = self;
  const { top, height } = self.bbox;
  ctx.save();
  ctx.fillStyle = fill;
  for (const { from, to } of spans) {
    const left = self.valToPos(from / 1000, 'x', true);
    const right = self.valToPos(to / 1000, 'x', true);
    ctx.fillRect(left, top, Math.max(2, right - left), height);
  }
  ctx.restore();
}

// When it comes into view, so that a long page does not ask for everything at once.
const seen = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      void draw(target as HTMLElement);
    }
  },
  { rootMargin: '200px' },
);
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const plot = figures.get(target.closest('figure')!)?.plot;
    const width = Math.max(200, target.clientWidth);
    if (plot && plot.width !== width) plot.setSize({ width, height: target.clientHeight || 160 });
  }
});

export function watchCharts(root: ParentNode): void {
  for (const figure of root.querySelectorAll<HTMLElement>('figure[data-chart]')) {
    seen.observe(figure);
    resized.observe(figure.querySelector('.plot')!);
  }
}

const redraw = () => {
  // Of a copy: each is taken out and put in again, and would come up for ever.
  for (const [figure, { spec, lines }] of [...figures])
    if (lines) render(figure, figure.querySelector('.plot')!, spec, lines);
};
document.addEventListener('theme', redraw);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
watchCharts(document);

// What the page brought has changed.
document.addEventListener('chart', ({ target }) => {
  if (figures.has(target as HTMLElement)) void draw(target as HTMLElement);
});

/** Whether somebody looks at a part of it: that is not taken away. */
function isZoomed({ data, scales }: uPlotType): boolean {
  const { min, max } = scales.x!;
  return min! > data[0][0]! || max! < data[0].at(-1)!;
}

// Charts follow the clock.
setInterval(() => {
  if (document.visibilityState !== 'visible') return;
  for (const [figure, { spec, plot }] of [...figures]) {
    if (!figure.isConnected) {
      plot?.destroy();
      figures.delete(figure);
    } else if (spec.range && !spec.range.end && !(plot && isZoomed(plot))) void draw(figure, { ...spec });
  }
}, 60_000);
