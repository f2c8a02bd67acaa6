// 10,000 malformed requests over the ingest and query endpoints: a 4xx each, and not a row written.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { limits, readMetrics } from '../../src/ingest/metrics.ts';
import { metricSchema } from '../../src/routes/metrics.ts';
import { useApi } from '../support/api.ts';

const api = useApi();
const runs = 2_500;

const targets = {
  '/api/v1/metrics': { name: 'm', value: 1, labels: { a: 'b' }, service_name: 's', timestamp: Date.now() },
  '/api/v1/metrics/batch': {
    metrics: [
      { name: 'm', value: 1 },
      { name: 'n', value: 2, labels: { a: 'b' } },
    ],
  },
  '/api/v1/metrics/query': {
    metric_name: 'm',
    start_time: Date.now() - 1000,
    end_time: Date.now(),
    aggregation: 'avg',
    time_window: '1m',
    labels: { a: 'b' },
    service_name: 's',
    group_by: ['a'],
    fill: 'none',
    timezone: 'UTC',
    limit: 10,
    format: 'points',
  },
} as const;

const nasty = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    true,
    -1,
    1e308,
    0.5,
    '',
    '\0',
    '\ud800',
    'x'.repeat(300),
    '1e999',
    'NaN',
    [],
    {},
    [[]],
    { '': '' },
    '9999-99-99T99:99:99Z',
    "'; drop table obs.sample; --",
    '%00',
    '2026-02-30T00:00:00Z',
    1e15,
    -1e15,
    '-5m',
    '0s',
    '99999999d',
    '1M',
    'PT5M',
    '../../etc/passwd',
  ),
  fc.jsonValue({ maxDepth: 3 }),
  fc.string({ unit: 'binary', maxLength: 40 }),
);

type Path = (string | number)[];

function pathsOf(value: unknown, path: Path = []): Path[] {
  if (typeof value !== 'object' || value === null) return [path];
  return [
    path,
    ...Object.entries(value).flatMap(([key, inner]) =>
      pathsOf(inner, [...path, Array.isArray(value) ? Number(key) : key]),
    ),
  ];
}

function replaced(value: unknown, path: Path, by: unknown): unknown {
  const [key, ...rest] = path;
  if (key === undefined) return by;
  if (Array.isArray(value)) return value.map((inner, i) => (i === key ? replaced(inner, rest, by) : inner));
  return { ...(value as object), [key]: replaced((value as Record<string, unknown>)[key], rest, by) };
}

const request = fc.constantFrom(...(Object.keys(targets) as (keyof typeof targets)[])).chain((target) =>
  fc
    .oneof(
      {
        weight: 6,
        arbitrary: fc
          .tuple(fc.constantFrom(...pathsOf(targets[target])), nasty)
          .map(([path, by]) => JSON.stringify(replaced(targets[target], path, by)) ?? ''),
      },
      {
        weight: 2,
        arbitrary: fc
          .string({ minLength: 1, maxLength: 20 })
          .map((key) => JSON.stringify({ ...targets[target], [key]: 1 })),
      },
      // Cut short, or with a byte changed: seldom JSON, sometimes not even UTF-8.
      {
        weight: 1,
        arbitrary: fc
          .nat(JSON.stringify(targets[target]).length - 1)
          .map((n) => JSON.stringify(targets[target]).slice(0, n)),
      },
      {
        weight: 1,
        arbitrary: fc
          .tuple(fc.nat(JSON.stringify(targets[target]).length - 1), fc.nat(255))
          .map(([at, byte]) => {
            const bytes = Buffer.from(JSON.stringify(targets[target]));
            bytes[at] = byte;
            return bytes;
          }),
      },
    )
    .map((body) => ({ target, body })),
);

test('only 4xx for what is malformed, a 2xx only where the change happened to be valid, never a 5xx', {
  timeout: 300_000,
}, async () => {
  let refused = 0;
  let accepted = 0;
  const rows = async () => (await api.sql<{ n: number }[]>`select count(*)::int as n from obs.sample`)[0]!.n;
  let expected = await rows();
  while (refused < 4 * runs) {
    const bodies = fc.sample(request, { numRuns: runs });
    for (let i = 0; i < bodies.length; i += 50) {
      const answers = await Promise.all(
        bodies
          .slice(i, i + 50)
          .map(async ({ target, body }) => ({ body, answer: await api.call('POST', target, { body }) })),
      );
      for (const { body, answer } of answers) {
        expect(answer.status, `${body} → ${JSON.stringify(answer.body)}`).toBeLessThan(500);
        if (answer.status >= 400) {
          refused++;
          // Whoever sent it is told where the fault is, or that the body as a whole is at fault.
          if (answer.status === 400) expect(answer.body.detail, String(body)).not.toBe('');
        } else {
          accepted++;
          if (answer.status === 201) expected += answer.body.recorded;
        }
      }
    }
    expect(await rows()).toBe(expected);
  }
  // The generator makes mostly what is malformed; were it not so, this test would show little.
  expect(accepted).toBeLessThan(refused / 2);
});

test('the hand-written checks of the hot path agree with the published schema', async () => {
  const cache = {
    get: () => undefined,
    size: () => 0,
    resolve: async (_: number, keys: string[]) => keys.map(() => 1),
  };
  const bounds = { min: (Date.now() - 86_400_000) * 1000, max: (Date.now() + 86_400_000) * 1000 };
  const accepts = (item: unknown) =>
    readMetrics([item], () => '', 1, bounds, cache).then(
      () => true,
      () => false,
    );
  const template = targets['/api/v1/metrics'];
  const edges = [
    { ...template, name: 'n'.repeat(limits.nameLength) },
    { ...template, name: 'n'.repeat(limits.nameLength + 1) },
    { ...template, labels: { ['k'.repeat(limits.labelNameLength)]: '' } },
    { ...template, labels: { ['k'.repeat(limits.labelNameLength + 1)]: '' } },
    {
      ...template,
      labels: Object.fromEntries(Array.from({ length: limits.labels }, (_, i) => [`k${i}`, 'v'])),
    },
    {
      ...template,
      labels: Object.fromEntries(Array.from({ length: limits.labels + 1 }, (_, i) => [`k${i}`, 'v'])),
    },
  ];
  const changed = fc
    .tuple(fc.constantFrom(...pathsOf(template)), nasty)
    .map(([path, by]) => JSON.parse(JSON.stringify(replaced(template, path, by)) ?? 'null'));
  for (const item of [...edges, ...fc.sample(changed, 5_000)]) {
    const { timestamp, ...rest } = (item ?? {}) as { timestamp?: unknown };
    // Which times are accepted depends on the moment, which a schema cannot say.
    const bySchema = metricSchema.safeParse(
      timestamp === template.timestamp
        ? item
        : item && typeof item === 'object' && !Array.isArray(item)
          ? rest
          : item,
    ).success;
    const byHand = await accepts(
      timestamp === template.timestamp
        ? item
        : item && typeof item === 'object' && !Array.isArray(item)
          ? rest
          : item,
    );
    expect(byHand, JSON.stringify(item)).toBe(bySchema);
  }
});
