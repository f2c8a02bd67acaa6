// POST /metrics and /metrics/batch: what is recorded, what is refused and how it is said.
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';

const api = useApi();

async function stored(name: string) {
  return await api.sql<
    { service_name: string; labels: Record<string, string>; value: number; micros: string }[]
  >`
    select s.service_name, s.labels, m.value, (extract(epoch from m.time) * 1000000)::bigint as micros
    from obs.series s join obs.sample m on m.series_id = s.id
    where s.name = ${name} order by m.time, m.value`;
}

const paths = (body: { errors?: { path: string }[] }) => body.errors?.map((error) => error.path).sort();

describe('a single sample', () => {
  test('is stored with its labels, service and time', async () => {
    const timestamp = new Date(Date.now() - 60_000).toISOString();
    const answer = await api.call('POST', '/api/v1/metrics', {
      body: { name: 'one', value: 12.5, labels: { host: 'a', zone: 'b' }, service_name: 'auth', timestamp },
    });
    expect([answer.status, answer.body]).toEqual([201, { recorded: 1 }]);
    expect(await stored('one')).toEqual([
      {
        service_name: 'auth',
        labels: { host: 'a', zone: 'b' },
        value: 12.5,
        micros: String(Date.parse(timestamp) * 1000),
      },
    ]);
  });

  test('has the time of its arrival when it brings none', async () => {
    const before = Date.now() * 1000;
    await api.call('POST', '/api/v1/metrics', { body: { name: 'now', value: 1 } });
    const [row] = await stored('now');
    expect(Number(row?.micros)).toBeGreaterThanOrEqual(before);
    expect(Number(row?.micros)).toBeLessThanOrEqual(Date.now() * 1000);
  });

  test.each([
    ['epoch milliseconds', (ms: number) => ms, 0],
    ['an offset', (ms: number) => new Date(ms + 7_200_000).toISOString().replace('Z', '+02:00'), 0],
    ['microseconds', (ms: number) => new Date(ms).toISOString().replace('Z', '456Z'), 456],
    ['lower case', (ms: number) => new Date(ms).toISOString().toLowerCase(), 0],
  ])('takes a time as %s', async (name, write, extraMicros) => {
    const ms = Date.now() - 5_000;
    const answer = await api.call('POST', '/api/v1/metrics', {
      body: { name: `time ${name}`, value: 1, timestamp: write(ms) },
    });
    expect(answer.status).toBe(201);
    expect((await stored(`time ${name}`))[0]?.micros).toBe(String(ms * 1000 + extraMicros));
  });

  test.each([0, -1.5, 5e-324, 1e300, -1e300, 0.1])('keeps the value %s to the bit', async (value) => {
    await api.call('POST', '/api/v1/metrics', { body: { name: `value ${value}`, value } });
    expect((await stored(`value ${value}`))[0]?.value).toBe(value);
  });

  test('twice at one instant is two samples', async () => {
    const body = { name: 'twice', value: 1, timestamp: Date.now() };
    await api.call('POST', '/api/v1/metrics', { body });
    await api.call('POST', '/api/v1/metrics', { body });
    expect(await stored('twice')).toHaveLength(2);
  });

  test('with its labels in another order is of the same series', async () => {
    await api.call('POST', '/api/v1/metrics', {
      body: { name: 'order', value: 1, labels: { a: '1', b: '2' } },
    });
    await api.call('POST', '/api/v1/metrics', {
      body: { name: 'order', value: 2, labels: { b: '2', a: '1' } },
    });
    const [row] = await api.sql`select count(*)::int as n from obs.series where name = 'order'`;
    expect(row?.n).toBe(1);
  });

  test('can have 64 labels of full length', async () => {
    const labels = Object.fromEntries(
      Array.from({ length: 64 }, (_, i) => [`${i}_`.padEnd(128, 'k'), 'é'.repeat(1024)]),
    );
    const answer = await api.call('POST', '/api/v1/metrics', { body: { name: 'wide', value: 1, labels } });
    expect(answer.status).toBe(201);
    expect((await stored('wide'))[0]?.labels).toEqual(labels);
  });

  const day = 86_400_000;
  test.each<[string, unknown, string[]]>([
    ['no name', { value: 1 }, ['name']],
    ['an empty name', { name: '', value: 1 }, ['name']],
    ['a name of 256 characters', { name: 'n'.repeat(256), value: 1 }, ['name']],
    ['a name that is a number', { name: 7, value: 1 }, ['name']],
    ['a NUL in the name', { name: 'a\0b', value: 1 }, ['name']],
    ['a lone surrogate', { name: 'a\ud800', value: 1 }, ['name']],
    ['no value', { name: 'bad' }, ['value']],
    ['null for a value', { name: 'bad', value: null }, ['value']],
    ['text for a value', { name: 'bad', value: '1' }, ['value']],
    ['a value past 1e300', { name: 'bad', value: 1.1e300 }, ['value']],
    [
      '65 labels',
      {
        name: 'bad',
        value: 1,
        labels: Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`l${i}`, 'x'])),
      },
      ['labels'],
    ],
    ['a label that is a number', { name: 'bad', value: 1, labels: { code: 200 } }, ['labels.code']],
    ['a label of 1025 characters', { name: 'bad', value: 1, labels: { l: 'x'.repeat(1025) } }, ['labels.l']],
    ['a NUL in a label', { name: 'bad', value: 1, labels: { l: 'x\0' } }, ['labels.l']],
    ['an empty label name', { name: 'bad', value: 1, labels: { '': 'x' } }, ['labels']],
    ['labels in a list', { name: 'bad', value: 1, labels: ['x'] }, ['labels']],
    ['null for labels', { name: 'bad', value: 1, labels: null }, ['labels']],
    ['an empty service', { name: 'bad', value: 1, service_name: '' }, ['service_name']],
    ['an unknown field', { name: 'bad', value: 1, vlaue: 2 }, ['vlaue']],
    ['__proto__', '{"name":"bad","value":1,"__proto__":{"x":1}}', ['__proto__']],
    [
      'a time more than a day ahead',
      { name: 'bad', value: 1, timestamp: Date.now() + day + 60_000 },
      ['timestamp'],
    ],
    [
      'a time before the retention',
      { name: 'bad', value: 1, timestamp: Date.now() - 30 * day - 60_000 },
      ['timestamp'],
    ],
    ['a date that is none', { name: 'bad', value: 1, timestamp: '2026-02-30T00:00:00Z' }, ['timestamp']],
    ['a time without a zone', { name: 'bad', value: 1, timestamp: '2026-11-24T00:00:00' }, ['timestamp']],
    ['a time in words', { name: 'bad', value: 1, timestamp: 'yesterday' }, ['timestamp']],
    ['an infinite value', '{"name":"bad","value":1e999}', ['value']],
    ['a value of NaN', '{"name":"bad","value":NaN}', ['']],
    ['a list', [], ['']],
    ['no JSON', '{"name":', ['']],
    ['nothing', '', ['']],
    ['several faults at once', { value: 'x', labels: 3, more: 1 }, ['labels', 'more', 'name', 'value']],
  ])('is refused with %s, and the fields named', async (_, body, expected) => {
    const answer = await api.call('POST', '/api/v1/metrics', { body });
    expect(answer.status).toBe(400);
    expect(paths(answer.body)).toEqual(expected);
    expect(answer.body.code).toBe('invalid_request');
    expect(answer.body.request_id).toBe(answer.headers.get('X-Request-Id'));
    expect(await stored('bad')).toEqual([]);
  });

  test('just inside the accepted times is recorded', async () => {
    for (const timestamp of [Date.now() + day - 60_000, Date.now() - 30 * day + 60_000]) {
      expect(
        (await api.call('POST', '/api/v1/metrics', { body: { name: 'edge', value: 1, timestamp } })).status,
      ).toBe(201);
    }
  });
});

describe('a batch', () => {
  test('of 1000 is stored whole', async () => {
    const metrics = Array.from({ length: 1000 }, (_, i) => ({
      name: 'many',
      value: i,
      labels: { i: String(i % 50) },
    }));
    const answer = await api.call('POST', '/api/v1/metrics/batch', { body: { metrics } });
    expect([answer.status, answer.body]).toEqual([201, { recorded: 1000 }]);
    const values = (await stored('many')).map((row) => row.value).sort((a, b) => a - b);
    expect(values).toEqual(metrics.map((metric) => metric.value));
  });

  test('is refused whole, with every bad index named', async () => {
    const metrics = [
      { name: 'partial', value: 1 },
      { name: '', value: 1 },
      { name: 'partial', value: 1 },
      { name: 'partial', value: 'x' },
      7,
    ];
    const answer = await api.call('POST', '/api/v1/metrics/batch', { body: { metrics } });
    expect(answer.status).toBe(400);
    expect(paths(answer.body)).toEqual(['metrics[1].name', 'metrics[3].value', 'metrics[4]']);
    expect(await stored('partial')).toEqual([]);
  });

  test.each<[string, unknown, string]>([
    ['no samples', { metrics: [] }, 'metrics'],
    ['1001 samples', { metrics: Array.from({ length: 1001 }, () => ({ name: 'x', value: 1 })) }, 'metrics'],
    ['no list', { metrics: {} }, 'metrics'],
    ['nothing in it', {}, 'metrics'],
    ['another field', { metrics: [{ name: 'x', value: 1 }], extra: 1 }, 'extra'],
    ['a list at the top', [{ name: 'x', value: 1 }], ''],
  ])('with %s is refused', async (_, body, expected) => {
    const answer = await api.call('POST', '/api/v1/metrics/batch', { body });
    expect([answer.status, paths(answer.body)]).toEqual([400, [expected]]);
  });

  test.each<[string, (body: string) => Uint8Array]>([
    ['gzip', gzipSync],
    ['deflate', deflateSync],
    ['br', brotliCompressSync],
  ])('may be compressed with %s', async (encoding, compress) => {
    const body = compress(JSON.stringify({ metrics: [{ name: `as ${encoding}`, value: 1 }] }));
    const answer = await api.call('POST', '/api/v1/metrics/batch', {
      body,
      headers: { 'Content-Encoding': encoding },
    });
    expect(answer.status).toBe(201);
    expect(await stored(`as ${encoding}`)).toHaveLength(1);
  });

  test('in a broken or unknown compression is refused', async () => {
    const broken = await api.call('POST', '/api/v1/metrics/batch', {
      body: 'x',
      headers: { 'Content-Encoding': 'gzip' },
    });
    expect([broken.status, broken.body.detail]).toEqual([400, 'the body is not valid gzip']);
    const unknown = await api.call('POST', '/api/v1/metrics/batch', {
      body: 'x',
      headers: { 'Content-Encoding': 'lzma' },
    });
    expect(unknown.status).toBe(415);
  });

  test('in another media type, or not in UTF-8, is refused', async () => {
    const xml = await api.call('POST', '/api/v1/metrics/batch', {
      body: '<x/>',
      headers: { 'Content-Type': 'text/xml' },
    });
    expect(xml.status).toBe(415);
    const latin1 = await api.call('POST', '/api/v1/metrics/batch', {
      body: Buffer.from('{"metrics":"\xe9"}', 'latin1'),
    });
    expect([latin1.status, latin1.body.detail]).toEqual([400, 'the body is not valid UTF-8']);
  });

  test('shares samples of many orgs without mixing them', async () => {
    const tokens = await Promise.all(['red', 'blue', 'green'].map((org_id) => signToken({ org_id })));
    await Promise.all(
      Array.from({ length: 60 }, (_, i) =>
        api.call('POST', '/api/v1/metrics/batch', {
          token: tokens[i % 3]!,
          body: {
            metrics: [
              { name: 'shared', value: i % 3 },
              { name: 'shared', value: i % 3, labels: { i: String(i) } },
            ],
          },
        }),
      ),
    );
    const rows = await api.sql<{ org: string; values: number[]; n: number }[]>`
      select o.external_id as org, array_agg(distinct m.value) as values, count(*)::int as n
      from obs.org o join obs.series s on s.org_id = o.id join obs.sample m on m.series_id = s.id
      where s.name = 'shared' group by 1 order by 1`;
    expect([...rows]).toEqual([
      { org: 'blue', values: [1], n: 40 },
      { org: 'green', values: [2], n: 40 },
      { org: 'red', values: [0], n: 40 },
    ]);
  });
});

describe('an Idempotency-Key', () => {
  const post = (key: string, metrics: unknown[], more = {}) =>
    api.call('POST', '/api/v1/metrics/batch', {
      body: { metrics },
      headers: { 'Idempotency-Key': key },
      ...more,
    });

  test('records a retried batch once and says that it did', async () => {
    const metrics = [
      { name: 'keyed', value: 1 },
      { name: 'keyed', value: 2 },
    ];
    const first = await post('k1', metrics);
    const second = await post('k1', metrics);
    expect([first.status, first.headers.get('Idempotency-Replayed')]).toEqual([201, null]);
    expect([second.status, second.body, second.headers.get('Idempotency-Replayed')]).toEqual([
      201,
      { recorded: 2 },
      'true',
    ]);
    expect(await stored('keyed')).toHaveLength(2);
  });

  test('records once when the same request comes many times at once', async () => {
    const metrics = [{ name: 'stampede', value: 1, labels: { stampede: 'yes' } }];
    const answers = await Promise.all(Array.from({ length: 30 }, () => post('k2', metrics)));
    expect(answers.every((answer) => answer.status === 201)).toBe(true);
    expect(answers.filter((answer) => !answer.headers.get('Idempotency-Replayed'))).toHaveLength(1);
    expect(await stored('stampede')).toHaveLength(1);
  });

  test('with another body is refused with 422', async () => {
    await post('k3', [{ name: 'reused', value: 1 }]);
    const answer = await post('k3', [{ name: 'reused', value: 2 }]);
    expect([answer.status, answer.body.code]).toEqual([422, 'idempotency_key_reused']);
    expect(await stored('reused')).toHaveLength(1);
  });

  test('belongs to one org', async () => {
    const metrics = [{ name: 'own key', value: 1 }];
    await post('k4', metrics);
    const other = await post('k4', metrics, { token: await signToken({ org_id: 'other' }) });
    expect(other.headers.get('Idempotency-Replayed')).toBeNull();
    expect(await stored('own key')).toHaveLength(2);
  });

  test('lives a day', async () => {
    const metrics = [{ name: 'old key', value: 1 }];
    await post('k5', metrics);
    await api.sql`update obs.idempotency_key set created_at = created_at - interval '25 hours' where key = 'k5'`;
    expect((await post('k5', metrics)).headers.get('Idempotency-Replayed')).toBeNull();
    expect((await post('k5', metrics)).headers.get('Idempotency-Replayed')).toBe('true');
    expect(await stored('old key')).toHaveLength(2);
  });

  test('that is too long is refused', async () => {
    const answer = await post('k'.repeat(256), [{ name: 'x', value: 1 }]);
    expect([answer.status, paths(answer.body)]).toEqual([400, ['header.Idempotency-Key']]);
  });

  test('also works for a single sample, and in batches large enough for COPY', async () => {
    const single = () =>
      api.call('POST', '/api/v1/metrics', {
        body: { name: 'single key', value: 1 },
        headers: { 'Idempotency-Key': 'k6' },
      });
    await single();
    expect((await single()).headers.get('Idempotency-Replayed')).toBe('true');
    const metrics = Array.from({ length: 500 }, (_, value) => ({ name: 'copied key', value }));
    await post('k7', metrics);
    await post('k7', metrics);
    expect(await stored('copied key')).toHaveLength(500);
  });
});

test('the cardinality limit refuses new series and lets existing ones go on', async () => {
  const token = await signToken({ org_id: 'limited' });
  const post = (names: string[]) =>
    api.call('POST', '/api/v1/metrics/batch', {
      token,
      body: { metrics: names.map((name) => ({ name, value: 1 })) },
    });
  await post(['l1', 'l2']);
  await api.sql`update obs.org set series_limit = 3 where external_id = 'limited'`;
  const over = await post(['l1', 'l3', 'l4']);
  expect([over.status, over.body.code]).toEqual([422, 'cardinality_limit']);
  expect(over.body.detail).toBe('the org has 2 of at most 3 series, and this request would add 2');
  expect(await stored('l3')).toEqual([]);
  expect((await post(['l1', 'l2', 'l3'])).status).toBe(201);
  expect((await post(['l4'])).status).toBe(422);
  expect((await post(['l1'])).status).toBe(201);
  const [org] = await api.sql`select series_count from obs.org where external_id = 'limited'`;
  expect(org?.series_count).toBe(3);
});
