// POST /logs: what is recorded, cleaned and refused, and who may.
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Call, useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';

const api = useApi();

const line = <More extends object>(service_name: string, more = {} as More) => ({
  service_name,
  level: 'info',
  message: 'm',
  ...more,
});
const post = (body: unknown, call: Call = {}) => api.call('POST', '/api/v1/logs', { body, ...call });
const find = async (service: string, query = '') =>
  (await api.call('GET', `/api/v1/logs/${service}?limit=1000&${query}`)).body.logs;
const exported = async (service: string): Promise<string> =>
  (await api.call('GET', `/api/v1/logs/${service}?format=ndjson`)).body;
const rowCount = async () => (await api.sql<{ n: number }[]>`select count(*)::int as n from obs.log`)[0]!.n;
const paths = (body: { errors?: { path: string }[] }) => body.errors?.map((error) => error.path).sort();
const nested = (depth: number): object => (depth === 1 ? {} : { a: nested(depth - 1) });
const day = 86_400_000;

describe('a line', () => {
  test('is found with everything that it says', async () => {
    const before = Date.now();
    const entry = {
      service_name: 'auth',
      level: 'error',
      message: 'Zeile 1\nline "2" \\ <b> 😀',
      timestamp: new Date(before - 60_000).toISOString().replace('Z', '123Z'),
      metadata: { user_id: 42, ok: false, none: null, tags: ['a', 1.5], http: { status: 500 } },
      trace_id: '4bf92f3577b34da6a3ce929d0e0e4736',
      span_id: '00f067aa0ba902b7',
    };
    const answer = await post(entry);
    expect([answer.status, answer.body]).toEqual([201, { recorded: 1 }]);
    const [found, ...others] = await find('auth');
    expect(others).toEqual([]);
    expect(found).toEqual({
      ...entry,
      id: expect.stringMatching(/^\d{16}-\d+$/),
      received_at: expect.any(String),
    });
    expect(Date.parse(found.received_at)).toBeGreaterThanOrEqual(before - 1000);
    expect(Date.parse(found.received_at)).toBeLessThanOrEqual(Date.now() + 1000);
  });

  test.each([
    ['absent', {}],
    ['null', { timestamp: null, metadata: null, trace_id: null, span_id: null }],
    ['empty', { metadata: {}, trace_id: '', span_id: '' }],
  ])('needs no more than service, level and message: what is %s has its default', async (name, more) => {
    const before = Date.now();
    expect((await post(line(`sparse ${name}`, more))).status).toBe(201);
    const [found] = await find(`sparse ${name}`);
    expect(found).toMatchObject({ metadata: {}, trace_id: null, span_id: null });
    expect(Date.parse(found.timestamp)).toBeGreaterThanOrEqual(before);
    expect(Date.parse(found.timestamp)).toBeLessThanOrEqual(Date.now());
  });

  test.each([
    ['epoch milliseconds', (ms: number) => ms, '000Z'],
    ['an offset', (ms: number) => new Date(ms - 5_400_000).toISOString().replace('Z', '-01:30'), '000Z'],
    ['nanoseconds', (ms: number) => new Date(ms).toISOString().replace('Z', '123456Z'), '123Z'],
  ])('takes a time as %s', async (name, write, micros) => {
    const ms = Date.now() - 5000;
    await post(line(`time ${name}`, { timestamp: write(ms) }));
    expect((await find(`time ${name}`))[0].timestamp).toBe(new Date(ms).toISOString().replace('Z', micros));
  });

  test.each([
    ['trace', 'trace'],
    ['DEBUG', 'debug'],
    ['Info', 'info'],
    ['warn', 'warn'],
    ['WARNING', 'warn'],
    ['eRRor', 'error'],
    ['fatal', 'fatal'],
    ['Critical', 'fatal'],
  ])('of level %s is of level %s', async (given, level) => {
    await post(line(`level ${given}`, { level: given }));
    expect((await find(`level ${given}`))[0].level).toBe(level);
  });

  test('may be as long, as deep and as old as is said', async () => {
    const text = (await signToken()).padEnd(128, 'x').slice(0, 128);
    const padded = { k: 'é'.repeat((16_384 - '{"k":""}'.length) / 2) };
    const entries = [
      { message: 'é'.repeat(16_384) },
      { message: 'x'.repeat(32_768) },
      { metadata: padded },
      { metadata: nested(20) },
      { trace_id: text, span_id: text },
      { timestamp: Date.now() - 7 * day + 60_000 },
      { timestamp: Date.now() + day - 60_000 },
    ].map((more) => line('s'.repeat(255), more));
    for (const entry of entries) expect((await post(entry)).status, JSON.stringify(entry)).toBe(201);
    const found: { message: string; metadata: object; trace_id: string | null }[] = await find(
      's'.repeat(255),
    );
    expect(found).toHaveLength(entries.length);
    expect(found.map(({ message }) => message)).toEqual(
      expect.arrayContaining([entries[0]!.message, entries[1]!.message]),
    );
    expect(found.map(({ metadata }) => metadata)).toEqual(expect.arrayContaining([padded, nested(20)]));
    expect(found.map(({ trace_id }) => trace_id)).toContain(text);
  });

  test.each<[string, unknown, string[]]>([
    ['nothing in it', {}, ['level', 'message', 'service_name']],
    ['no service', { level: 'info', message: 'm' }, ['service_name']],
    ['an empty service', line('', {}), ['service_name']],
    ['a service of 256 characters', line('s'.repeat(256)), ['service_name']],
    ['a NUL in the service', line('a\0b'), ['service_name']],
    ['a number for a service', line('bad', { service_name: 7 }), ['service_name']],
    ['an unknown field', line('bad', { mesage: 'm' }), ['mesage']],
    ['__proto__', '{"service_name":"bad","level":"info","message":"m","__proto__":{}}', ['__proto__']],
    ['an unknown level', line('bad', { level: 'notice' }), ['level']],
    ['a number for a level', line('bad', { level: 30 }), ['level']],
    ['null for a level', line('bad', { level: null }), ['level']],
    ['an empty message', line('bad', { message: '' }), ['message']],
    ['an object for a message', line('bad', { message: {} }), ['message']],
    ['null for a message', line('bad', { message: null }), ['message']],
    ['a message of 32,769 bytes', line('bad', { message: 'x'.repeat(32_769) }), ['message']],
    ['32,770 bytes of two each', line('bad', { message: 'é'.repeat(16_385) }), ['message']],
    ['a message too long once cleaned', line('bad', { message: '\0'.repeat(10_923) }), ['message']],
    ['a message of a megabyte', line('bad', { message: 'x'.repeat(1024 ** 2) }), ['message']],
    ['too much metadata', line('bad', { metadata: { k: 'é'.repeat(8189) } }), ['metadata']],
    [
      'metadata that are larger once they are stored',
      line('bad', { metadata: { n: Array(60).fill(1e300) } }),
      ['metadata'],
    ],
    [
      'a large integer for metadata',
      '{"service_name":"bad","level":"info","message":"m","metadata":12345678901234567890}',
      ['metadata'],
    ],
    ['metadata of 21 levels', line('bad', { metadata: nested(21) }), ['metadata']],
    [
      'metadata of 100,000 levels',
      `{"service_name":"bad","level":"info","message":"m","metadata":${'{"a":'.repeat(1e5)}1${'}'.repeat(1e5)}}`,
      ['metadata'],
    ],
    ['a list for metadata', line('bad', { metadata: [1] }), ['metadata']],
    ['text for metadata', line('bad', { metadata: '{}' }), ['metadata']],
    [
      'a number no double holds',
      '{"service_name":"bad","level":"info","message":"m","metadata":{"n":[1e400]}}',
      ['metadata'],
    ],
    ['a time more than a day ahead', line('bad', { timestamp: Date.now() + day + 60_000 }), ['timestamp']],
    ['a time before the retention', line('bad', { timestamp: Date.now() - 7 * day - 60_000 }), ['timestamp']],
    ['a time in words', line('bad', { timestamp: 'yesterday' }), ['timestamp']],
    ['a date that is none', line('bad', { timestamp: '2026-02-30T00:00:00Z' }), ['timestamp']],
    ['an empty time', line('bad', { timestamp: '' }), ['timestamp']],
    ['a trace id of 129 characters', line('bad', { trace_id: 't'.repeat(129) }), ['trace_id']],
    ['a NUL in the trace id', line('bad', { trace_id: 'a\0' }), ['trace_id']],
    ['a number for a span id', line('bad', { span_id: 1 }), ['span_id']],
    ['several faults', line('bad', { level: 'x', metadata: 1, more: 1 }), ['level', 'metadata', 'more']],
    ['a list', [line('bad')], ['']],
    ['text', '"m"', ['']],
    ['null', 'null', ['']],
    ['half of its JSON', '{"service_name":"bad","level":', ['']],
    ['nothing', '', ['']],
    ['no lines in a batch', { logs: [] }, ['logs']],
    ['1001 lines', { logs: Array.from({ length: 1001 }, () => line('bad')) }, ['logs']],
    ['an object for lines', { logs: { 0: line('bad') } }, ['logs']],
    ['null for lines', { logs: null }, ['logs']],
    ['a field next to the lines', { logs: [line('bad')], level: 'info' }, ['level']],
    [
      'wrong lines in a batch',
      { logs: [line('bad'), line('bad', { level: 'x' }), 7, line('bad', { trace_id: 7, message: '' })] },
      ['logs[1].level', 'logs[2]', 'logs[3].message', 'logs[3].trace_id'],
    ],
  ])('is refused with %s, the fields named, and nothing is recorded', async (_, body, expected) => {
    const answer = await post(body);
    expect(answer.status).toBe(400);
    expect(answer.body.code).toBe('invalid_request');
    expect(paths(answer.body)).toEqual(expected);
    expect(await find('bad')).toEqual([]);
  });
});

describe.each([
  ['few lines', 3],
  ['as many as are copied', 1000],
])('a batch of %s', (name, count) => {
  test('is stored whole, compressed or not', async () => {
    const timestamp = Date.now() - 1000;
    const logs = Array.from({ length: count }, (_, i) =>
      line(`${name} ${i % 2}`, { message: `Nr. ${i}`, timestamp, trace_id: i % 3 ? `t${i}` : null }),
    );
    const plain = await post({ logs });
    const zipped = await post(gzipSync(JSON.stringify({ logs })), {
      headers: { 'Content-Encoding': 'gzip' },
    });
    expect([plain.body, zipped.status, zipped.body]).toEqual([{ recorded: count }, 201, { recorded: count }]);
    const rows = await api.sql<{ message: string; trace_id: string | null; n: number; ids: number }[]>`
      select l.message, l.trace_id, count(*)::int as n, count(distinct l.id)::int as ids
      from obs.log l join obs.log_stream s on s.id = l.log_stream_id
      where starts_with(s.service_name, ${name}) and l.time = ${new Date(timestamp)}
      group by 1, 2 order by substring(message from 5)::int`;
    expect([...rows]).toEqual(logs.map(({ message, trace_id }) => ({ message, trace_id, n: 2, ids: 2 })));
  });

  test('keeps metadata as they are, large integers to the last digit', async () => {
    const metadata =
      '{"big": 12345678901234567890, "id": -9007199254740993, "huge": 123456789012345678901234567890, "list": [18446744073709551615, {"n": 1234567890123456789}], ' +
      '"text": "ключ 😀 \\\\u0000 \\"q\\"", "ключ": {"a.b": {"": [[], {}, null, true, -0.5, 1e-7]}}, "__proto__": {"x": 1}}';
    const entry = JSON.stringify(line(`exact ${name}`)).replace(/}$/, `,"metadata":${metadata}}`);
    await post(`{"logs":[${Array(count).fill(entry).join(',')}]}`);
    const lines = (await exported(`exact ${name}`)).trimEnd().split('\n');
    expect(lines).toHaveLength(count);
    for (const text of new Set(lines.map((text) => /"metadata":(.*),"trace_id"/.exec(text)![1]!))) {
      expect(JSON.parse(text)).toEqual(JSON.parse(metadata));
      for (const digits of metadata.match(/-?\d{16,}/g)!) expect(text).toContain(digits);
    }
  });

  test.each<[string, string | Buffer, string]>([
    ['NUL', 'a\\u0000b', 'a\ufffdb'],
    ['half a surrogate pair', '\\ud83d and \\ude00', '\ufffd and \ufffd'],
    ['bytes that are not UTF-8', Buffer.from('caf\xe9 \xff', 'latin1'), 'caf\ufffd \ufffd'],
    ['no garbage', '\\ud83d\\ude00 \\\\u0000', '😀 \\u0000'],
  ])('has %s become U+FFFD, in keys and values of metadata, too', async (kind, garbage, cleaned) => {
    const service = `cleaned ${kind} ${count}`;
    const [before, between, after] = [
      `{"service_name":"${service}","level":"info","message":"x`,
      'x","metadata":{"list":[{"k',
      '"}]}}',
    ];
    const bytes = Buffer.from(garbage);
    const entry = [before, bytes, between, bytes, '":"v', bytes, after].map((part) => Buffer.from(part));
    const more = Array.from({ length: count - 1 }, () => `,${JSON.stringify(line(service))}`).join('');
    const body = Buffer.concat([Buffer.from('{"logs":['), ...entry, Buffer.from(`${more}]}`)]);
    expect((await post(body)).status).toBe(201);
    const found: { message: string; metadata: object }[] = await find(service);
    expect(found).toHaveLength(count);
    expect(found.filter(({ message }) => message !== 'm')).toMatchObject([
      { message: `x${cleaned}x`, metadata: { list: [{ [`k${cleaned}`]: `v${cleaned}` }] } },
    ]);
  });
});

test('an Idempotency-Key records a retried batch once, and refuses another', async () => {
  const keyed = (logs: object[]) => post({ logs }, { headers: { 'Idempotency-Key': 'k' } });
  const logs = [line('keyed'), line('keyed', { level: 'warn' })];
  const [first, second] = [await keyed(logs), await keyed(logs)];
  expect([first.status, first.headers.get('Idempotency-Replayed')]).toEqual([201, null]);
  expect([second.status, second.body, second.headers.get('Idempotency-Replayed')]).toEqual([
    201,
    { recorded: 2 },
    'true',
  ]);
  const other = await keyed([line('keyed')]);
  expect([other.status, other.body.code]).toEqual([422, 'idempotency_key_reused']);
  expect(await find('keyed')).toHaveLength(2);
  await api.sql`select job.count_logs()`;
  const [stream] = await api.sql`
    select sum(line_count)::int as lines from obs.log_stream where service_name = 'keyed'`;
  expect(stream?.lines).toBe(2);
});

test('the limit of log streams refuses new ones, all or none, and lets existing ones go on', async () => {
  const token = await signToken({ org_id: 'limited' });
  const send = (...logs: object[]) => post({ logs }, { token });
  await send(line('a'), line('a', { level: 'warn' }));
  await api.sql`update obs.org set log_stream_limit = 3 where external_id = 'limited'`;
  const over = await send(line('a', { level: 'error' }), line('a'), line('b'));
  expect([over.status, over.body.code]).toEqual([422, 'cardinality_limit']);
  expect((await send(line('a'), line('a', { level: 'WARNING' }), line('b'), line('b'))).status).toBe(201);
  expect((await send(line('b', { level: 'debug' }))).status).toBe(422);
  expect((await send(line('b'))).status).toBe(201);
  const found = (await api.call('GET', '/api/v1/logs', { token })).body.logs;
  expect(
    found
      .map((each: { service_name: string }) => each.service_name)
      .sort()
      .join(''),
  ).toBe('aaaabbb');
  const [org] = await api.sql`select log_stream_count from obs.org where external_id = 'limited'`;
  expect(org?.log_stream_count).toBe(3);
});

test.each([
  ['viewer', 403, 200],
  ['ingest', 201, 403],
  ['operator', 201, 200],
  ['admin', 201, 200],
])('a token of role %s is answered %d where it writes and %d where it reads', async (role, write, read) => {
  const token = await signToken({ role });
  expect((await post(line('roles'), { token })).status).toBe(write);
  await post(line('roles'));
  const [{ id }] = await find('roles');
  for (const path of ['', '/roles', '/roles/histogram', '/roles/patterns', `/roles/${id}/context`])
    expect((await api.call('GET', `/api/v1/logs${path}`, { token })).status, path).toBe(read);
  expect((await api.call('GET', '/api/v1/logs/roles', { token: null })).status).toBe(401);
});

test('hundreds of malformed bodies are a 4xx each, or recorded to the line where they happen to be right', {
  timeout: 120_000,
}, async () => {
  const entry = {
    ...line('fuzz'),
    timestamp: Date.now(),
    metadata: { a: [1, { b: null }], c: 'x' },
    trace_id: 't',
    span_id: 's',
  };
  const template = JSON.stringify({ logs: [entry, { ...entry, level: 'fatal' }] });
  const nasty = fc.oneof(
    fc.constantFrom(
      'null',
      '1e999',
      '-1',
      '""',
      '"\\u0000"',
      '"\\ud800"',
      '[]',
      '{}',
      '[[]]',
      '12345678901234567890',
    ),
    fc.constantFrom(
      '{"":""}',
      '{"__proto__":1}',
      '{"toJSON":1}',
      '"NaN"',
      '"9999-99-99T99:99:99Z"',
      '1e15',
      'tru',
    ),
    fc.json({ maxDepth: 3 }),
    fc.string({ unit: 'binary', maxLength: 30 }).map((text) => JSON.stringify(text)),
    fc.constant(`${'['.repeat(50_000)}12345678901234567890${']'.repeat(50_000)}`),
  );
  // Each place of the template where a value begins or ends.
  const values = [...template.matchAll(/"[^"]*"(?=[,\]}])|\d+|null|\[[^[\]]*\]|\{[^{}]*\}/g)];
  const body = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.tuple(fc.constantFrom(...values), nasty).map(
        ([
          {
            0: { length },
            index,
          },
          by,
        ]) => template.slice(0, index) + by + template.slice(index + length),
      ),
    },
    { weight: 1, arbitrary: nasty },
    { weight: 1, arbitrary: fc.nat(template.length - 1).map((n) => template.slice(0, n)) },
    {
      weight: 3,
      arbitrary: fc.tuple(fc.nat(template.length - 1), fc.nat(255)).map(([at, byte]) => {
        const bytes = Buffer.from(template);
        bytes[at] = byte;
        return bytes;
      }),
    },
  );
  let expected = await rowCount();
  let refused = 0;
  const bodies = fc.sample(body, 600);
  for (let i = 0; i < bodies.length; i += 30) {
    await Promise.all(
      bodies.slice(i, i + 30).map(async (body) => {
        const answer = await post(body);
        if (answer.status === 201) expected += answer.body.recorded;
        else {
          refused++;
          expect([400, 422], `${body}: ${JSON.stringify(answer.body)}`).toContain(answer.status);
          expect(answer.body.detail, String(body)).not.toBe('');
        }
      }),
    );
    expect(await rowCount()).toBe(expected);
  }
  expect(refused).toBeGreaterThan(bodies.length / 3);
});
