// POST /metrics/query and GET /metrics against a reference computed from the same samples.
import { beforeAll, describe, expect, test } from 'vitest';
import { rollUp } from '../../db/roll_up.ts';
import { aggregations } from '../../src/rules/expression.ts';
import { useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';
import { aggregate, increases, type Sample } from '../support/reference.ts';
import { isSoak } from '../support/soak.ts';

const api = useApi();

const minute = 60_000;
const hour = 60 * minute;
const day = 24 * hour;
// Midnight UTC five days ago: old enough that all of it is in the past, young enough for the retention.
const origin = Math.floor(Date.now() / day) * day - 5 * day;

async function record(
  name: string,
  samples: { time: number; value: number; labels?: Record<string, string>; service_name?: string }[],
) {
  for (let i = 0; i < samples.length; i += 1000) {
    const metrics = samples
      .slice(i, i + 1000)
      .map(({ time, ...sample }) => ({ name, timestamp: time, ...sample }));
    expect((await api.call('POST', '/api/v1/metrics/batch', { body: { metrics } })).status).toBe(201);
  }
}

async function query(body: Record<string, unknown>) {
  const answer = await api.call('POST', '/api/v1/metrics/query', { body });
  expect(answer.status, JSON.stringify(answer.body)).toBe(200);
  return answer.body;
}

const iso = (time: number) => new Date(time).toISOString();

describe('random samples of three hosts with gaps, duplicates and counter resets', () => {
  const hosts = ['a', 'b', 'c'];
  const samples: Sample[] = [];
  let seed = 42;
  const random = () => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return seed / 2147483648;
  };
  for (const host of hosts) {
    let counter = 0;
    for (let time = origin; time < origin + 60 * hour; time += minute) {
      if (random() < 0.2 || (time > origin + 20 * hour && time < origin + 23 * hour)) continue;
      counter = random() < 0.02 ? Math.floor(random() * 5) : counter + Math.floor(random() * 100);
      samples.push({ series: host, time: time + Math.floor(random() * minute), value: counter });
      if (random() < 0.05) samples.push({ series: host, time: samples.at(-1)!.time, value: counter });
    }
  }

  const send = (some: Sample[]) =>
    record(
      'random',
      some.map(({ series, time, value }) => ({
        time,
        value,
        labels: { host: series },
        service_name: `s-${series}`,
      })),
    );
  beforeAll(() => send(samples));

  const start = origin + 10 * minute;
  const end = origin + 59.5 * hour;
  const windows: [string, number][] = [
    ['1m', minute],
    ['15m', 15 * minute],
    ['1h', hour],
    ['1d', day],
  ];

  // The resolution that is to answer a window.
  const finest: Record<string, string> = { '1m': 'raw', '15m': '5m', '1h': '1h', '1d': '1d' };

  async function rolledUp() {
    await rollUp(api.sql);
    const [state] = await api.sql`
      select (select count(*)::int from obs.dirty_range) as dirty,
        (select min(obs.tier_watermark(name)) > ${iso(end)}::text::timestamptz from obs.tier) as is_past`;
    expect(state).toEqual({ dirty: 0, is_past: true });
  }

  // The same answers whatever is rolled up: late samples show at once, and stay right once rolled up again.
  const phases: [string, () => Promise<void>][] = [
    ['as they arrived', async () => {}],
    ['rolled up', rolledUp],
    [
      'with late samples since',
      async () => {
        const late = Array.from({ length: 40 }, (_, i) => ({
          series: hosts[i % 3]!,
          time: origin + 30 * hour + Math.floor(random() * 3 * hour),
          value: Math.floor(random() * 1e5),
        }));
        samples.push(...late);
        await send(late);
      },
    ],
    ...(isSoak ? [['rolled up again', rolledUp] as [string, () => Promise<void>]] : []),
  ];

  describe.each(phases)('%s', (phase, prepare) => {
    beforeAll(prepare);

    describe.each(windows)('by %s', (window, width) => {
      const bucketOf = (time: number) => Math.floor(time / width) * width;

      test.each([...aggregations])('%s, merged and by host', async (aggregation) => {
        const body = {
          metric_name: 'random',
          start_time: iso(start),
          end_time: iso(end),
          aggregation,
          time_window: window,
          limit: 10_000,
        };
        const merged = await query(body);
        expect([merged.metric_name, merged.aggregation, merged.time_window, merged.truncated]).toEqual([
          'random',
          aggregation,
          window,
          false,
        ]);
        const isPercentile = ['median', 'p50', 'p90', 'p95', 'p99'].includes(aggregation);
        // Before anything is rolled up all of it is raw, unless a background job was quicker.
        const tier = phase === 'as they arrived' && merged.resolution === 'raw' ? 'raw' : finest[window];
        expect(merged.resolution).toBe(isPercentile ? 'raw' : tier);
        expect(merged.series).toHaveLength(1);
        compare(merged.series[0], {}, aggregation, samples);
        const grouped = await query({ ...body, group_by: ['host'] });
        expect(grouped.series).toHaveLength(3);
        const isRaw =
          (isPercentile && window === '15m') || (phase === 'as they arrived' && grouped.resolution === 'raw');
        expect(grouped.resolution).toBe(isRaw ? 'raw' : finest[window]);
        for (const [i, host] of hosts.entries()) {
          compare(
            grouped.series[i],
            { host },
            aggregation,
            samples.filter((sample) => sample.series === host),
          );
        }
      });

      function compare(
        series: { labels: unknown; points: { time: string; value: number | null }[] },
        labels: unknown,
        aggregation: string,
        of: Sample[],
      ) {
        expect(series.labels).toEqual(labels);
        const expected = new Map<number, number | null>();
        if (aggregation === 'rate' || aggregation === 'increase') {
          const lookback = Math.max(Math.min(width, day), 5 * minute);
          for (const [bucket, increase] of increases(
            of.filter((sample) => sample.time < end),
            bucketOf,
            start,
            lookback,
          )) {
            const seconds = (Math.min(bucket + width, end) - Math.max(bucket, start)) / 1000;
            expected.set(
              bucket,
              increase === null ? null : aggregation === 'rate' ? increase / seconds : increase,
            );
          }
        } else {
          const inRange = of.filter((sample) => sample.time >= start && sample.time < end);
          for (const [bucket, own] of Map.groupBy(inRange, (sample) => bucketOf(sample.time)))
            expected.set(bucket, aggregate(aggregation, own));
        }
        expect(series.points.map((point) => point.time)).toEqual(
          [...expected.keys()].sort((a, b) => a - b).map(iso),
        );
        const byBucket = Map.groupBy(of, (sample) => bucketOf(sample.time));
        const isRight = (bucket: number, actual: number | null) => {
          const value = expected.get(bucket)!;
          if (value === null || actual === null) return actual === value;
          if (aggregation !== 'first' && aggregation !== 'last')
            return Math.abs(actual - value) <= 1e-9 * Math.max(1, Math.abs(value));
          // Of several samples at one instant any is the first, or the last.
          const own = byBucket.get(bucket)!;
          const { time } = own.find((sample) => sample.value === value)!;
          return own.some((sample) => sample.time === time && sample.value === actual);
        };
        expect(series.points.filter(({ time, value }) => !isRight(Date.parse(time), value))).toEqual([]);
      }
    });
  });

  test('without a window there is one bucket over the range, at its start', async () => {
    const answer = await query({
      metric_name: 'random',
      start_time: start,
      end_time: end,
      aggregation: 'count',
    });
    const n = samples.filter((sample) => sample.time >= start && sample.time < end).length;
    expect(answer.time_window).toBeNull();
    expect(answer.series).toEqual([{ labels: {}, points: [{ time: iso(start), value: n }] }]);
  });

  test('avg is the default', async () => {
    const answer = await query({ metric_name: 'random', start_time: start, end_time: end });
    expect(answer.aggregation).toBe('avg');
  });

  test('series are chosen by labels and by service', async () => {
    const range = { metric_name: 'random', start_time: start, end_time: end, aggregation: 'count' };
    const n = samples.filter(
      (sample) => sample.series === 'b' && sample.time >= start && sample.time < end,
    ).length;
    for (const filter of [
      { labels: { host: 'b' } },
      { service_name: 's-b' },
      { labels: { host: 'b' }, service_name: 's-b' },
    ]) {
      expect((await query({ ...range, ...filter })).series[0].points[0].value).toBe(n);
    }
    for (const filter of [
      { labels: { host: 'd' } },
      { labels: { host: 'a' }, service_name: 's-b' },
      { metric_name: 'unheard of' },
    ]) {
      expect((await query({ ...range, ...filter })).series).toEqual([]);
    }
  });

  test('group_by takes several labels, service_name among them, and reads an absent one as empty', async () => {
    const answer = await query({
      metric_name: 'random',
      start_time: start,
      end_time: end,
      group_by: ['service_name', 'nothing'],
    });
    expect(answer.series.map((series: { labels: unknown }) => series.labels)).toEqual(
      hosts.map((host) => ({ service_name: `s-${host}`, nothing: '' })),
    );
  });

  test('columns hold the same as points', async () => {
    const body = {
      metric_name: 'random',
      start_time: start,
      end_time: end,
      time_window: '1h',
      group_by: ['host'],
    };
    const points = await query(body);
    const columns = await query({ ...body, format: 'columns' });
    for (const [i, series] of points.series.entries()) {
      expect(columns.series[i].labels).toEqual(series.labels);
      const read = columns.times
        .map((time: number, j: number) => ({ time: iso(time), value: columns.series[i].values[j] }))
        .filter((point: { value: number | null }) => point.value !== null);
      expect(read).toEqual(series.points);
    }
  });
});

describe('percentiles of merged series and other windows, from histograms', () => {
  // Spread over nine decades, negative and zero too, and so seldom that ranges are long.
  const hosts = Array.from({ length: 12 }, (_, i) => `h${String(i).padStart(2, '0')}`);
  const samples: Sample[] = [];
  let seed = 7;
  const random = () => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return seed / 2147483648;
  };
  for (const [i, host] of hosts.entries()) {
    for (let time = origin - 10 * day; time < origin + 4 * day; time += 20 * minute) {
      const sign = i === 0 ? -1 : i === 1 && random() < 0.5 ? -1 : 1;
      const value = i === 2 && random() < 0.5 ? 0 : sign * 10 ** (random() * (i < 6 ? 9 : 1) - 3);
      samples.push({ series: host, time: time + Math.floor(random() * 20 * minute), value });
    }
  }
  samples.push({ series: 'huge', time: origin + hour, value: 1e300 });
  const send = (some: Sample[]) =>
    record(
      'spread_out',
      some.map(({ series, time, value }) => ({ time, value, labels: { host: series, half: half(series) } })),
    );
  const half = (host: string) => (host < 'h06' ? 'wide' : 'narrow');
  beforeAll(async () => {
    await send(samples);
    await rollUp(api.sql);
  });

  const start = origin - 9.6 * day;
  const end = origin + 3.7 * day;

  async function compareAll(aggregation: string, window: string | undefined, resolution: string) {
    const width = window ? Number.parseInt(window, 10) * (window.endsWith('h') ? hour : day) : end - start;
    const bucketOf = (time: number) => (window ? Math.floor(time / width) * width : start);
    const answer = await query({
      metric_name: 'spread_out',
      start_time: start,
      end_time: end,
      aggregation,
      time_window: window,
      group_by: ['half'],
    });
    expect(answer.resolution).toBe(resolution);
    expect(answer.series.map((series: { labels: unknown }) => series.labels)).toEqual([
      { half: 'narrow' },
      { half: 'wide' },
    ]);
    let checked = 0;
    for (const { labels, points } of answer.series) {
      const own = samples.filter(
        ({ series, time }) => half(series) === labels.half && time >= start && time < end,
      );
      const expected = Map.groupBy(own, (sample) => bucketOf(sample.time));
      expect(points.map((point: { time: string }) => point.time)).toEqual(
        [...expected.keys()].sort((a, b) => a - b).map(iso),
      );
      for (const { time, value } of points) {
        const bucket = expected.get(Date.parse(time))!;
        const sorted = bucket.map((sample) => sample.value).sort((a, b) => a - b);
        const at =
          (aggregation === 'median' ? 0.5 : Number(aggregation.slice(1)) / 100) * (sorted.length - 1);
        // 1 % of the values interpolated between: of opposite signs their mean can be smaller than either.
        const [low, high] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!];
        const tolerance = 0.010001 * Math.max(Math.abs(low), Math.abs(high));
        expect(
          Math.abs(value - aggregate(aggregation, bucket)!),
          `${labels.half} ${time}`,
        ).toBeLessThanOrEqual(tolerance);
        checked++;
      }
    }
    expect(checked).toBeGreaterThan(window ? 25 : 1);
  }

  const cases: [string | undefined, string][] = [
    ['1h', '1h'],
    ['6h', '1h'],
    ['1d', '1d'],
    [undefined, '1d'],
  ];
  describe.each(['rolled up', 'with late samples since', 'rolled up again'])('%s', (phase) => {
    beforeAll(async () => {
      if (phase === 'with late samples since') {
        const late = Array.from({ length: 60 }, (_, i) => ({
          series: hosts[i % 12]!,
          time: origin - 3 * day + Math.floor(random() * 10 * hour),
          value: 1000 * random() - 300,
        }));
        samples.push(...late);
        await send(late);
      }
      if (phase === 'rolled up again') await rollUp(api.sql);
    });
    describe.each(cases)('by %s', (window, resolution) => {
      test.each(['median', 'p50', 'p90', 'p95', 'p99'])('%s', (aggregation) =>
        compareAll(aggregation, window, resolution),
      );
    });
  });

  test('a short range is exact, from raw samples', async () => {
    const body = { metric_name: 'spread_out', start_time: origin, end_time: origin + 10 * hour };
    const answer = await query({ ...body, aggregation: 'p90', time_window: '2h' });
    expect(answer.resolution).toBe('raw');
    const bucket = samples.filter(({ time }) => time >= origin && time < origin + 10 * hour);
    const expected = Map.groupBy(bucket, ({ time }) => Math.floor(time / (2 * hour)) * 2 * hour);
    for (const { time, value } of answer.series[0].points)
      expect(value).toBeCloseTo(aggregate('p90', expected.get(Date.parse(time))!)!, 9);
  });

  test('the same value throughout comes back as it is, and the largest of all too', async () => {
    await record(
      'constant',
      Array.from({ length: 240 }, (_, i) => ({
        time: origin - 8 * day + i * hour,
        value: 123.456,
        labels: { host: String(i % 2) },
      })),
    );
    await rollUp(api.sql);
    const range = { start_time: origin - 8 * day, end_time: origin + 3 * day, aggregation: 'p99' };
    const answer = await query({ ...range, metric_name: 'constant' });
    expect([answer.resolution, answer.series[0].points[0].value]).toEqual(['1d', 123.456]);
    const huge = await query({ ...range, metric_name: 'spread_out', labels: { host: 'huge' } });
    expect(huge.series[0].points[0].value).toBe(1e300);
    await record(
      'hugely_negative',
      [-1e300, -1e300, -1e300, 5].map((value, i) => ({ time: origin - 9 * day + i * day, value })),
    );
    await rollUp(api.sql);
    const range10 = { start_time: origin - 10 * day, end_time: origin, aggregation: 'median' };
    const negative = await query({ ...range10, metric_name: 'hugely_negative' });
    expect([negative.resolution, negative.series[0].points[0].value]).toEqual(['1d', -1e300]);
  });
});

describe('fill', () => {
  const range = { start_time: origin, end_time: origin + 6 * hour, time_window: '1h' };
  beforeAll(async () => {
    await record('gappy', [
      { time: origin + 1 * hour, value: 10, labels: { host: 'x' } },
      { time: origin + 4 * hour + 5 * minute, value: 40, labels: { host: 'x' } },
      { time: origin + 2 * hour, value: 7, labels: { host: 'y' } },
    ]);
  });

  test.each<[string, (number | null)[], (number | null)[]]>([
    ['null', [null, 10, null, null, 40, null], [null, null, 7, null, null, null]],
    ['zero', [0, 10, 0, 0, 40, 0], [0, 0, 7, 0, 0, 0]],
    ['previous', [null, 10, 10, 10, 40, 40], [null, null, 7, 7, 7, 7]],
    ['linear', [null, 10, 20, 30, 40, null], [null, null, 7, null, null, null]],
  ])('%s', async (fill, x, y) => {
    const answer = await query({ metric_name: 'gappy', ...range, fill, group_by: ['host'] });
    const values = answer.series.map((series: { points: { value: number }[] }) =>
      series.points.map((point) => point.value),
    );
    expect(values).toEqual([x, y]);
    expect(answer.series[0].points.map((point: { time: string }) => point.time)).toEqual(
      [0, 1, 2, 3, 4, 5].map((h) => iso(origin + h * hour)),
    );
  });

  test.each(['zero', 'null', 'previous', 'linear'])(
    '%s gives each bucket once where the range begins within one',
    async (fill) => {
      const body = {
        metric_name: 'gappy',
        ...range,
        start_time: origin + hour - 10 * minute,
        fill,
        labels: { host: 'x' },
      };
      const { series } = await query(body);
      const times = series[0].points.map((point: { time: string }) => point.time);
      expect(times).toEqual([0, 1, 2, 3, 4, 5].map((h) => iso(origin + h * hour)));
      const within = await query({
        ...body,
        start_time: origin + 65 * minute,
        end_time: origin + 5 * hour,
        format: 'columns',
      });
      expect(within.series[0].values).toHaveLength(within.times.length);
      // The first bucket has its only sample before the range.
      expect(within.times).toEqual([1, 2, 3, 4].map((h) => origin + h * hour));
      const cut = await query({ ...body, start_time: origin + 4 * hour + minute, format: 'columns' });
      expect([cut.times, cut.series[0].values[0]]).toEqual([[4, 5].map((h) => origin + h * hour), 40]);
    },
  );

  test('none leaves gaps', async () => {
    const answer = await query({ metric_name: 'gappy', ...range, fill: 'none', labels: { host: 'x' } });
    expect(answer.series[0].points).toHaveLength(2);
  });

  test('of nothing is nothing', async () => {
    expect((await query({ metric_name: 'unheard of', ...range, fill: 'zero' })).series).toEqual([]);
  });
});

describe('limits', () => {
  test('limit keeps the earliest points of each series and says that it cut', async () => {
    await record(
      'long',
      Array.from({ length: 100 }, (_, i) => ({
        time: origin + i * minute,
        value: i,
        labels: { half: i < 50 ? 'first' : 'second' },
      })),
    );
    const body = { metric_name: 'long', start_time: origin, end_time: origin + 2 * hour, time_window: '1m' };
    const cut = await query({ ...body, limit: 30 });
    expect([cut.series[0].points.length, cut.series[0].points[0].value, cut.truncated]).toEqual([
      30,
      0,
      true,
    ]);
    const grouped = await query({ ...body, limit: 30, group_by: ['half'] });
    expect(grouped.series.map((series: { points: unknown[] }) => series.points.length)).toEqual([30, 30]);
    const whole = await query({ ...body, limit: 100 });
    expect([whole.series[0].points.length, whole.truncated]).toEqual([100, false]);
    const filled = await query({ ...body, limit: 30, fill: 'zero' });
    expect([filled.series[0].points.length, filled.truncated]).toEqual([30, true]);
    const exactly = await query({ ...body, limit: 120, fill: 'zero' });
    expect([exactly.series[0].points.length, exactly.truncated]).toEqual([120, false]);
  });

  test('no answer holds more than 100,000 points', async () => {
    await record(
      'broad',
      Array.from({ length: 30 }, (_, i) => ({
        time: origin,
        value: i,
        labels: { i: String(i).padStart(2, '0') },
      })),
    );
    const answer = await query({
      metric_name: 'broad',
      start_time: origin,
      end_time: origin + day,
      time_window: '10s',
      fill: 'zero',
      group_by: ['i'],
      limit: 10_000,
    });
    const points = answer.series.reduce(
      (n: number, series: { points: unknown[] }) => n + series.points.length,
      0,
    );
    expect([points, answer.truncated]).toEqual([100_000, true]);
  });
});

test('columns hold no more than 100,000 cells, however the times of the series are spread', async () => {
  // Each of 40 series has its own 100 times: 4,000 points, and 160,000 cells.
  await record(
    'spread',
    Array.from({ length: 4000 }, (_, i) => ({
      time: origin + i * 1000,
      value: i,
      labels: { i: String(i % 40).padStart(2, '0') },
    })),
  );
  const body = {
    metric_name: 'spread',
    start_time: origin,
    end_time: origin + day,
    time_window: '1s',
    group_by: ['i'],
  };
  const columns = await query({ ...body, format: 'columns' });
  const cells = columns.times.length * columns.series.length;
  expect([columns.times.length, columns.series.length, columns.truncated]).toEqual([4000, 25, true]);
  expect(cells).toBeLessThanOrEqual(100_000);
  expect((await query(body)).truncated).toBe(false);
});

describe('timezone', () => {
  test('days begin at local midnight', async () => {
    await record('zoned', [
      { time: origin + 13 * hour, value: 1 },
      { time: origin + 16 * hour, value: 2 },
    ]);
    const body = {
      metric_name: 'zoned',
      start_time: origin - day,
      end_time: origin + 3 * day,
      time_window: '1d',
      aggregation: 'sum',
    };
    expect((await query(body)).series[0].points).toEqual([{ time: iso(origin), value: 3 }]);
    // UTC+9 without summer time: local midnight is 15:00 UTC.
    expect((await query({ ...body, timezone: 'Asia/Tokyo' })).series[0].points).toEqual([
      { time: iso(origin - 9 * hour), value: 1 },
      { time: iso(origin + 15 * hour), value: 2 },
    ]);
    // UTC+5:30: hours begin at half past.
    expect(
      (await query({ ...body, time_window: '1h', timezone: 'Asia/Kolkata' })).series[0].points[0].time,
    ).toBe(iso(origin + 12.5 * hour));
  });
});

test('weeks begin on Monday', async () => {
  await record('weekly', [{ time: origin, value: 1 }]);
  const answer = await query({
    metric_name: 'weekly',
    start_time: origin - 7 * day,
    end_time: origin + day,
    time_window: '1w',
  });
  expect(new Date(answer.series[0].points[0].time).getUTCDay()).toBe(1);
});

test('a sample as old as is accepted is in every answer, before and after it is rolled up', async () => {
  const time = Date.now() - 30 * day + minute;
  await record('oldest', [
    { time, value: 7 },
    { time: time + day, value: 7 },
  ]);
  for (const rolledUp of [false, true]) {
    if (rolledUp) await rollUp(api.sql);
    for (const time_window of ['1m', '5m', '1h', '6h', '1d', undefined]) {
      for (const aggregation of ['count', 'sum', 'p95', 'increase']) {
        const answer = await query({
          metric_name: 'oldest',
          start_time: time - 2 * day,
          end_time: time + 2 * day,
          time_window,
          aggregation,
        });
        const values = answer.series[0].points.map((point: { value: number | null }) => point.value);
        const what = `${aggregation} by ${time_window}, rolled up: ${rolledUp}`;
        if (aggregation === 'count' || aggregation === 'sum')
          expect(
            values.reduce((sum: number, value: number) => sum + value, 0),
            what,
          ).toBe(aggregation === 'count' ? 2 : 14);
        else expect(values.length, what).toBe(time_window ? 2 : 1);
      }
    }
  }
});

test('stddev stays right ten thousand times its own size away from zero, from every tier', async () => {
  const samples: Sample[] = Array.from({ length: 3 * 24 * 30 }, (_, i) => ({
    series: '',
    time: origin - day + i * 2 * minute,
    // A sum of sines of which no period fits a bucket: a standard deviation of about 100.
    value: 1e6 + 100 * (Math.sin(i * 0.7) + Math.sin(i * 1.3)),
  }));
  await record(
    'far',
    samples.map(({ time, value }) => ({ time, value })),
  );
  await rollUp(api.sql);
  for (const [window, width, resolution] of [
    ['5m', 5 * minute, '5m'],
    ['1h', hour, '1h'],
    ['1d', day, '1d'],
  ] as const) {
    const answer = await query({
      metric_name: 'far',
      start_time: origin - day,
      end_time: origin + 2 * day,
      aggregation: 'stddev',
      time_window: window,
    });
    expect(answer.resolution).toBe(resolution);
    const expected = Map.groupBy(samples, ({ time }) => Math.floor(time / width) * width);
    expect(answer.series[0].points).toHaveLength(expected.size);
    for (const { time, value } of answer.series[0].points)
      expect(Math.abs(value / aggregate('stddev', expected.get(Date.parse(time))!)! - 1)).toBeLessThan(1e-6);
  }
});

test('huge values are aggregated without an overflow', async () => {
  await record('huge', [
    { time: origin, value: 1e300 },
    { time: origin + 1, value: -1e300 },
    { time: origin + 2, value: 1e300 },
  ]);
  const body = { metric_name: 'huge', start_time: origin, end_time: origin + day };
  const value = async (more: object) => (await query({ ...body, ...more })).series[0].points[0].value;
  expect(await value({ aggregation: 'avg' })).toBeCloseTo(1e300 / 3, -290);
  expect(await value({ aggregation: 'p90' })).toBe(1e300);
  // The squares of such values overflow.
  for (const time_window of [undefined, '1m', '1h'])
    expect(await value({ aggregation: 'stddev', time_window })).toBeNull();
});

test('a label may be called anything, __proto__ too', async () => {
  const labels = JSON.parse('{"__proto__":"x"}');
  await record('odd', [
    { time: origin, value: 1, labels },
    { time: origin, value: 2 },
  ]);
  const body = { metric_name: 'odd', start_time: origin, end_time: origin + day, aggregation: 'sum' };
  expect((await query({ ...body, labels })).series[0].points[0].value).toBe(1);
  expect((await query({ ...body, group_by: ['__proto__'] })).series).toHaveLength(2);
});

const valid = { metric_name: 'x', start_time: origin, end_time: origin + hour };
test.each<[string, unknown, string[]]>([
  ['nothing', {}, ['end_time', 'metric_name', 'start_time']],
  ['an end before its start', { ...valid, end_time: origin - 1 }, ['end_time']],
  ['an empty range', { ...valid, end_time: origin }, ['end_time']],
  ['an unknown aggregation', { ...valid, aggregation: 'mode' }, ['aggregation']],
  ['a window without a unit', { ...valid, time_window: '60' }, ['time_window']],
  ['a window of nothing', { ...valid, time_window: '0s' }, ['time_window']],
  ['a window of two years', { ...valid, time_window: '800d' }, ['time_window']],
  ['an unknown time zone', { ...valid, timezone: 'Mars/Olympus' }, ['timezone']],
  ['an offset for a time zone', { ...valid, timezone: '+02:00' }, ['timezone']],
  ['a limit of 0', { ...valid, limit: 0 }, ['limit']],
  ['a limit of 10,001', { ...valid, limit: 10_001 }, ['limit']],
  ['a limit in text', { ...valid, limit: '10' }, ['limit']],
  ['labels that are not text', { ...valid, labels: { a: 1 } }, ['labels.a']],
  ['a NUL', { ...valid, metric_name: 'a\0' }, ['metric_name']],
  ['an unknown field', { ...valid, metric: 'x' }, ['metric']],
  ['an unknown fill', { ...valid, fill: 'spline' }, ['fill']],
  ['a bad time', { ...valid, start_time: 'now' }, ['start_time']],
  ['a list', [], ['']],
])('a query with %s is refused, and the field named', async (_, body, expected) => {
  const answer = await api.call('POST', '/api/v1/metrics/query', { body });
  expect(answer.status).toBe(400);
  expect(answer.body.errors.map((error: { path: string }) => error.path).sort()).toEqual(expected);
});

describe('GET /metrics', () => {
  test('lists names with series, first and last, page by page', async () => {
    const token = await signToken({ org_id: 'lister' });
    const metrics = ['b', 'a', 'c', 'B%_'].flatMap((name) => [
      { name, value: 1, timestamp: origin, labels: { host: '1' } },
      { name, value: 1, timestamp: origin + hour, labels: { host: '2' }, service_name: 'svc' },
    ]);
    await api.call('POST', '/api/v1/metrics/batch', { token, body: { metrics } });
    const list = async (query: string) => (await api.call('GET', `/api/v1/metrics${query}`, { token })).body;
    const whole = await list('');
    expect(whole.next_cursor).toBeNull();
    expect(whole.metrics.map((metric: { name: string }) => metric.name).sort()).toEqual([
      'B%_',
      'a',
      'b',
      'c',
    ]);
    expect(whole.metrics.find((metric: { name: string }) => metric.name === 'a')).toEqual({
      name: 'a',
      series_count: 2,
      first_seen: iso(origin),
      last_seen: iso(origin + hour),
    });
    const names: string[] = [];
    let cursor = '';
    do {
      const page = await list(`?limit=1${cursor}`);
      names.push(...page.metrics.map((metric: { name: string }) => metric.name));
      cursor = page.next_cursor ? `&cursor=${page.next_cursor}` : '';
    } while (cursor);
    expect(names).toEqual(whole.metrics.map((metric: { name: string }) => metric.name));
    expect((await list('?q=%25_')).metrics).toHaveLength(1);
    expect((await list('?service_name=svc')).metrics[0].series_count).toBe(1);
  });

  test.each([
    '?limit=0',
    '?limit=x',
    '?limit=1001',
    '?cursor=%00',
    '?cursor=a',
    '?nothing=1',
    '?limit=1&limit=2',
  ])('refuses %s', async (query) => {
    const answer = await api.call('GET', `/api/v1/metrics${query}`);
    expect(answer.status).toBe(400);
    expect(answer.body.errors[0].path).toMatch(/^query\./);
  });
});
