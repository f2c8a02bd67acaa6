// GET /metrics/{name}/analytics and /correlations: data whose answers are known, and a reference for the rest.
import { beforeAll, describe, expect, test } from 'vitest';
import { rollUp } from '../../db/roll_up.ts';
import { useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';
import { aggregate } from '../support/reference.ts';

const api = useApi();

const minute = 60_000;
const hour = 60 * minute;
const day = 24 * hour;
const today = Math.floor(Date.now() / day) * day;
// Two hours before now and full hours: all of it is over.
const end = Math.floor(Date.now() / hour) * hour - 2 * hour;

let seed = 11;
const random = () => {
  seed = (seed * 1103515245 + 12345) % 2147483648;
  return seed / 2147483648;
};
/** Standard normal, by the sum of twelve uniform numbers. */
const normal = () => Array.from({ length: 12 }, random).reduce((sum, x) => sum + x, -6);

type Point = { time: number; value: number; labels?: Record<string, string>; service_name?: string };

async function record(name: string, points: Point[], token?: string) {
  for (let i = 0; i < points.length; i += 1000) {
    const metrics = points
      .slice(i, i + 1000)
      .map(({ time, ...point }) => ({ name, timestamp: time, ...point }));
    const answer = await api.call('POST', '/api/v1/metrics/batch', {
      body: { metrics },
      ...(token ? { token } : {}),
    });
    expect(answer.status, JSON.stringify(answer.body)).toBe(201);
  }
}

const every = (step: number, from: number, to: number) =>
  Array.from({ length: Math.round((to - from) / step) }, (_, i) => from + i * step);

async function analyze(name: string, start: number, stop: number, more = '') {
  const answer = await api.call(
    'GET',
    `/api/v1/metrics/${name}/analytics?start_time=${start}&end_time=${stop}${more}`,
  );
  expect(answer.status, JSON.stringify(answer.body)).toBe(200);
  return answer.body;
}

interface Anomaly {
  time: string;
  value: number;
  expected: number;
  score: number;
}
interface Forecast {
  time: string;
  value: number;
  lower: number;
  upper: number;
}

const close = (actual: number, expected: number, relative = 1e-9) =>
  expect(Math.abs(actual - expected), `${actual} and not ${expected}`).toBeLessThanOrEqual(
    relative * Math.max(1, Math.abs(expected)),
  );

describe('analytics', () => {
  test('a line is found exactly, and goes on', async () => {
    const start = end - day;
    const lineAt = (time: number) => 100 + (3 * (time - start)) / hour;
    // One sample at the start of each bucket of 5 minutes.
    await record(
      'line',
      every(5 * minute, start, end).map((time) => ({ time, value: lineAt(time) })),
    );
    const answer = await analyze('line', start, end);
    expect(answer).toMatchObject({ metric_name: 'line', time_window: '5m', count: 288, anomalies: [] });
    expect(answer.trend.direction).toBe('rising');
    close(answer.trend.slope_per_hour, 3);
    close(answer.trend.r_squared, 1);
    close(answer.trend.change_percent, (100 * 3 * (23 + 55 / 60)) / 100);
    expect(answer.forecast).toHaveLength(72);
    for (const [i, { time, value, lower, upper }] of answer.forecast.entries()) {
      expect(Date.parse(time)).toBe(end + i * 5 * minute);
      close(value, lineAt(Date.parse(time)), 1e-6);
      close(upper - lower, 0, 1e-3);
    }
  });

  test('statistics and trend are those of the samples; spikes and dips are found, and nothing else', async () => {
    const start = end - day;
    const samples = every(minute, start, end).map((time, i) => ({
      time,
      // A slow fall with noise; two buckets far off.
      value:
        500 - i * 0.05 + 5 * normal() + (i >= 300 && i < 305 ? 90 : 0) - (i >= 1000 && i < 1005 ? 70 : 0),
    }));
    await record('noisy', samples);
    const answer = await analyze('noisy', start, end);
    const whole = samples.map(({ time, value }) => ({ series: '', time, value }));
    for (const name of ['min', 'max', 'avg', 'median', 'stddev', 'p95', 'p99', 'count'])
      close(answer[name], aggregate(name, whole)!);

    // Ordinary least squares over the buckets' averages, by hand.
    const buckets = [...Map.groupBy(whole, ({ time }) => Math.floor(time / (5 * minute)) * 5 * minute)].map(
      ([time, own]) => ({ hour: (time - start) / hour, value: aggregate('avg', own)!, time }),
    );
    const mean = (of: (bucket: (typeof buckets)[0]) => number) =>
      buckets.reduce((sum, bucket) => sum + of(bucket), 0) / buckets.length;
    const [x, y] = [mean((bucket) => bucket.hour), mean((bucket) => bucket.value)];
    const sxy = mean((bucket) => (bucket.hour - x) * (bucket.value - y));
    const sxx = mean((bucket) => (bucket.hour - x) ** 2);
    const syy = mean((bucket) => (bucket.value - y) ** 2);
    close(answer.trend.slope_per_hour, sxy / sxx, 1e-8);
    close(answer.trend.r_squared, sxy ** 2 / (sxx * syy), 1e-8);
    expect(answer.trend.direction).toBe('falling');

    // Modified z-scores about the line.
    const middle = (values: number[]) =>
      aggregate(
        'median',
        values.map((value) => ({ series: '', time: 0, value })),
      )!;
    const detrended = buckets.map(({ hour, value }) => value - (sxy / sxx) * (hour - x));
    const level = middle(detrended);
    const mad = middle(detrended.map((value) => Math.abs(value - level)));
    const expected = buckets
      .map(({ time, value, hour }, i) => ({
        time: new Date(time).toISOString(),
        value,
        expected: level + (sxy / sxx) * (hour - x),
        score: (0.6745 * Math.abs(detrended[i]! - level)) / mad,
      }))
      .filter(({ score }) => score > 3.5);
    const times = expected.map(({ time }) => Date.parse(time));
    expect(times).toEqual(expect.arrayContaining([start + 300 * minute, start + 1000 * minute]));
    expect(answer.anomalies.map(({ time }: Anomaly) => time)).toEqual(expected.map(({ time }) => time));
    for (const [i, anomaly] of (answer.anomalies as Anomaly[]).entries()) {
      for (const name of ['value', 'expected', 'score'] as const)
        close(anomaly[name], expected[i]![name], 1e-8);
    }

    // The interval holds what comes next, as often as it says: the noise of an average of five is 5/√5.
    const [first] = answer.forecast as Forecast[];
    close(first!.value, 500 - 1440 * 0.05, 0.01);
    expect(first!.upper - first!.lower).toBeGreaterThan(2 * 1.96 * (5 / Math.sqrt(5)) * 0.8);
    expect(first!.upper - first!.lower).toBeLessThan(2 * 1.96 * (5 / Math.sqrt(5)) * 1.25);
  });

  describe('with more than a week of daily seasons', () => {
    const start = today - 10 * day;
    const stop = today;
    const seasonAt = (time: number) => 100 + 50 * Math.sin((2 * Math.PI * (time % day)) / day);
    const oddTime = start + 6 * day + 18 * hour;

    beforeAll(async () => {
      await record(
        'seasonal',
        every(20 * minute, start, stop).map((time) => ({
          time,
          // At six in the evening it is 50; 140 would be nothing odd at six in the morning.
          value: time >= oddTime && time < oddTime + hour ? 140 : seasonAt(time) + normal(),
        })),
      );
      await rollUp(api.sql);
    });

    test('what is odd for its hour is found, though it is common at another', async () => {
      const answer = await analyze('seasonal', start, stop);
      expect(answer.time_window).toBe('1h');
      expect(answer.trend.direction).toBe('stable');
      // Noise alone can pass the threshold; it is not nearly as odd.
      const odd = answer.anomalies.filter(({ score }: Anomaly) => score > 10);
      expect(odd).toHaveLength(1);
      expect(answer.anomalies.length).toBeLessThan(10);
      expect(Date.parse(odd[0].time)).toBe(oddTime);
      expect(odd[0].value).toBeCloseTo(140, 6);
      expect(odd[0].expected).toBeLessThan(60);
    });

    test('over less than a week hours are not told apart', async () => {
      expect(
        (await analyze('seasonal', start + 4 * day, stop)).anomalies.filter(
          ({ score }: Anomaly) => score > 5,
        ),
      ).toEqual([]);
    });

    test('the forecast has the season', async () => {
      const { forecast } = (await analyze('seasonal', start, stop)) as { forecast: Forecast[] };
      expect(forecast).toHaveLength(60);
      for (const { time, value, lower, upper } of forecast) {
        const at = Date.parse(time);
        const true_ = [0, 20, 40].reduce((sum, m) => sum + seasonAt(at + m * minute), 0) / 3;
        expect(Math.abs(value - true_), time).toBeLessThan(2);
        expect(lower).toBeLessThan(true_);
        expect(upper).toBeGreaterThan(true_);
        expect(upper - lower).toBeLessThan(6);
      }
    });
  });

  test('series are taken together, or chosen by service and labels; long ranges within 1 %', async () => {
    const start = today - 12 * day;
    const points = every(10 * minute, start, today - 2 * day).flatMap((time) =>
      ['a', 'b'].map((host) => ({
        time,
        value: (host === 'a' ? 1 : 20) * Math.exp(normal()),
        labels: { host },
        service_name: `s-${host}`,
      })),
    );
    await record('pooled', points);
    await rollUp(api.sql);
    for (const [more, own] of [
      ['', points],
      ['&label.host=a', points.filter(({ labels }) => labels.host === 'a')],
      ['&service_name=s-b', points.filter(({ labels }) => labels.host === 'b')],
    ] as const) {
      const answer = await analyze('pooled', start, today - 2 * day, more);
      const whole = own.map(({ time, value }) => ({ series: '', time, value }));
      for (const name of ['min', 'max', 'avg', 'stddev', 'count'])
        close(answer[name], aggregate(name, whole)!, 1e-8);
      for (const name of ['median', 'p95', 'p99']) close(answer[name] / aggregate(name, whole)!, 1, 0.0101);
    }
  });

  test('a constant is stable, without anomalies, and stays', async () => {
    await record(
      'constant',
      every(5 * minute, end - 6 * hour, end).map((time) => ({ time, value: 0.1 })),
    );
    const answer = await analyze('constant', end - 6 * hour, end);
    expect(answer.trend).toEqual({ direction: 'stable', slope_per_hour: 0, r_squared: 0, change_percent: 0 });
    expect(answer).toMatchObject({ anomalies: [], median: 0.1 });
    close(answer.stddev, 0);
    expect(answer.forecast.length).toBeGreaterThan(10);
    for (const { value, lower, upper } of answer.forecast)
      expect([value, lower, upper].every((of) => Math.abs(of - 0.1) < 1e-12)).toBe(true);
  });

  test('few samples give few answers: nothing is made up', async () => {
    await record('few', [{ time: end - 10 * minute, value: 7 }]);
    expect(await analyze('few', end - hour, end)).toMatchObject({
      count: 1,
      avg: 7,
      median: 7,
      stddev: null,
      trend: { direction: 'stable', slope_per_hour: null, r_squared: null, change_percent: null },
      anomalies: [],
      forecast: [],
    });
    expect(await analyze('few', end - 3 * day, end - 2 * day)).toMatchObject({
      count: 0,
      min: null,
      avg: null,
      p99: null,
      anomalies: [],
      forecast: [],
    });
  });

  test('the last 24 hours by default', async () => {
    const { body } = await api.call('GET', '/api/v1/metrics/line/analytics');
    expect(Date.parse(body.end_time) - Date.parse(body.start_time)).toBe(day);
    expect(Math.abs(Date.parse(body.end_time) - Date.now())).toBeLessThan(minute);
  });

  test.each([1e300, 1e-300, 1e140, 1e-160])('values of %d neither overflow nor underflow', async (size) => {
    const name = `sized_${size}`;
    const values = Array.from({ length: 72 }, (_, i) => size * ((i % 3) - 1) * (i === 40 ? 0.001 : 1));
    await record(
      name,
      values.map((value, i) => ({ time: end - 6 * hour + i * 5 * minute, value })),
    );
    const answer = await analyze(name, end - 6 * hour, end);
    expect(answer.max).toBe(size);
    expect(answer.trend.slope_per_hour).not.toBeNull();
    expect(answer.forecast.length).toBeGreaterThan(10);
    const path = `/api/v1/metrics/${encodeURIComponent(name)}/correlations?start_time=${end - 6 * hour}&end_time=${end}&q=sized_`;
    const { body } = await api.call('GET', path);
    for (const { correlation } of body.correlations) expect(correlation).toBeCloseTo(1, 6);
  });
});

describe('correlations', () => {
  const start = end - day;
  const correlate = async (query: string) =>
    (await api.call('GET', `/api/v1/metrics/cause/correlations?start_time=${start}&end_time=${end}${query}`))
      .body;

  beforeAll(async () => {
    const step = 10 * minute;
    const times = every(step, start - 3 * hour, end + 3 * hour);
    const cause: number[] = [];
    for (let i = 0; i < times.length; i++) cause.push((cause[i - 1] ?? 0) * 0.8 + normal());
    const at = (i: number) => cause[Math.max(0, Math.min(cause.length - 1, i))]!;
    const send = (name: string, of: (i: number) => number, more = {}) =>
      record(
        name,
        times.slice(18, -18).map((time, i) => ({ time: time + step / 2, value: of(i + 18), ...more })),
      );
    await send('cause', at);
    // 90 minutes later, upside down, with a little noise; and three hours earlier.
    await send('follower', (i) => -3 * at(i - 9) + 0.3 * normal(), {
      service_name: 'db',
      labels: { host: 'x' },
    });
    await send('leader', (i) => at(i + 9) + normal());
    await send('alike', (i) => 5 + 2 * at(i));
    await send('unrelated', () => normal());
    await send('flat', () => 4);
    await record('seldom', [{ time: start + hour, value: 1 }]);
    await record(
      'cause',
      times.map((time, i) => ({ time, value: at(i) })),
      await signToken({ org_id: 'another' }),
    );
  });

  test('series are ranked, with the lag at which they are closest', async () => {
    const answer = await correlate('');
    expect(answer).toMatchObject({ metric_name: 'cause', time_window: '15m', truncated: false });
    const [first, second, third, ...rest] = answer.correlations;
    expect(first).toMatchObject({
      metric_name: 'alike',
      service_name: '',
      labels: {},
      lag_seconds: 0,
      points: 96,
    });
    close(first.correlation, 1);
    expect(second).toMatchObject({
      metric_name: 'follower',
      service_name: 'db',
      labels: { host: 'x' },
      lag_seconds: 5400,
      points: 90,
    });
    expect(second.correlation).toBeLessThan(-0.9);
    expect(third).toMatchObject({ metric_name: 'leader', lag_seconds: -5400 });
    expect(third.correlation).toBeGreaterThan(0.5);
    // Series of other tests in this org may be there too; what cannot be correlated is not.
    const names = rest.map(({ metric_name }: { metric_name: string }) => metric_name);
    for (const absent of ['flat', 'seldom', 'cause']) expect(names).not.toContain(absent);
    for (const { correlation } of rest)
      expect(Math.abs(correlation)).toBeLessThan(Math.abs(third.correlation));
  });

  test('q narrows the others, limit the answer', async () => {
    expect((await correlate('&q=FOLLOW')).correlations).toHaveLength(1);
    expect((await correlate('&limit=2')).correlations).toHaveLength(2);
  });

  test('more series than are compared are said to be there', async () => {
    const [row] = await api.sql<{ answer: { truncated: boolean; correlations: unknown[] } }[]>`
      select api.correlate_metric(
        (select id from obs.org where external_id = 'acme'), 'cause', ${new Date(start)}, ${new Date(end)}, null, '{}', null, 20, 1
      )::json as answer`;
    expect(row!.answer.truncated).toBe(true);
    expect(row!.answer.correlations.length).toBeLessThanOrEqual(1);
  });
});

describe.each(['analytics', 'correlations'])('%s', (topic) => {
  test.each([
    ['end_time=yesterday', 'query.end_time'],
    [`start_time=${end}&end_time=${end}`, 'query.end_time'],
    ['label.host=a&label.host=b', 'query.label.host'],
    ['service_name=', 'query.service_name'],
    ['window=5m', 'query.window'],
    ['labels=a', 'query.labels'],
    ['limit=0', 'query.limit'],
  ])('?%s is refused, and %s named', async (query, path) => {
    const answer = await api.call('GET', `/api/v1/metrics/line/${topic}?${query}`);
    expect(answer.status).toBe(400);
    expect(answer.body.errors[0].path).toBe(path);
  });

  test('a metric that the org does not have is not found, nor one that another has', async () => {
    const token = await signToken({ org_id: 'stranger' });
    expect((await api.call('GET', `/api/v1/metrics/unheard/${topic}`)).status).toBe(404);
    expect((await api.call('GET', `/api/v1/metrics/line/${topic}`, { token })).status).toBe(404);
    expect((await api.call('GET', `/api/v1/metrics/line/${topic}?label.host=nowhere`)).status).toBe(404);
  });

  test('a viewer may look, who only writes may not', async () => {
    const path = `/api/v1/metrics/line/${topic}`;
    expect((await api.call('GET', path, { token: await signToken({ role: 'viewer' }) })).status).toBe(200);
    expect((await api.call('GET', path, { token: await signToken({ role: 'ingest' }) })).status).toBe(403);
  });

  test('names may hold what has to be encoded', async () => {
    const name = 'a/b c%ü';
    await record(name, [{ time: end - hour, value: 1 }]);
    const answer = await api.call('GET', `/api/v1/metrics/${encodeURIComponent(name)}/${topic}`);
    expect([answer.status, answer.body.metric_name]).toEqual([200, name]);
  });
});
