// GET /logs and what is below it: searched, paged, highlighted, exported, in context.
import { beforeAll, describe, expect, test } from 'vitest';
import { type Call, useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';

const api = useApi();

interface Line {
  id: string;
  timestamp: string;
  service_name: string;
  level: string;
  message: string;
  highlighted: string[];
}

const post = (logs: object[], call: Call = {}) =>
  api.call('POST', '/api/v1/logs', { body: { logs }, ...call });
const get = (path: string, query: Record<string, unknown> = {}, call: Call = {}) =>
  api.call('GET', `/api/v1/logs${path}?${new URLSearchParams(query as Record<string, string>)}`, call);
const search = async (path: string, query: Record<string, unknown> = {}): Promise<Line[]> =>
  (await get(path, query)).body.logs;
const messages = async (path: string, query: Record<string, unknown> = {}) =>
  (await search(path, query)).map(({ message }) => message);
const paths = (body: { errors: { path: string }[] }) => [...new Set(body.errors.map((error) => error.path))];

const base = Date.now() - 3_600_000;
/** Lines of a service, a second apart: the first is the newest. */
const write = async (service_name: string, lines: (string | object)[]) => {
  for (let i = 0; i < lines.length; i += 1000) {
    await post(
      lines.slice(i, i + 1000).map((given, j) => ({
        service_name,
        level: 'info',
        timestamp: base - (i + j) * 1000,
        ...(typeof given === 'string' ? { message: given } : { message: 'm', ...given }),
      })),
    );
  }
};

describe('full text', () => {
  const lines = {
    path: 'GET /api/v1/users/17?page=2 took 12ms',
    address: 'refused by 10.0.0.1:8080 (ECONNREFUSED)',
    assigned: 'user_id=42 logged in',
    numbers: 'id 42 of user 7',
    email: 'mail to Bob.Smith@example.org bounced',
    uuid: 'request 550e8400-e29b-41d4-a716-446655440000 done',
    tag: 'parsed <script>alert</script> &amp; more',
    float: 'limit=1e5; id 7e12ab, version 1.20.3-rc.1',
    timeout: 'Timeout of upstream, will retry',
    late: 'upstream timeout: gave up',
    unicode: 'GRÖSSE überschritten: 日本語エラー 😀',
    windows: "can't open C:\\Users\\bob\\log.txt",
    underscored: 'ERR_SSL_WRONG_VERSION at load_config',
    json: '{"level":"info","msg":"nested json","n":[1,2]}',
  };
  beforeAll(async () => {
    await write('words', Object.values(lines));
    // Of another service, with all of the words.
    await write('elsewhere', [Object.values(lines).join(' ')]);
  });

  test.each<[string, (keyof typeof lines)[]]>([
    ['timeout', ['timeout', 'late']],
    ['TIMEOUT Upstream', ['timeout', 'late']],
    ['"upstream timeout"', ['late']],
    ['"timeout upstream"', []],
    ['timeout -retry', ['late']],
    ['timeout -"gave up"', ['timeout']],
    ['bounced or retry', ['email', 'timeout']],
    ['bounced -or mail', ['email']],
    ['bounced OR "gave up" OR nothing', ['email', 'late']],
    ['timeout gave or bounced', ['email', 'late']],
    ['time', []],
    ['/api/v1/users', ['path']],
    ['/api/v1/users/17', ['path']],
    ['v1', ['path']],
    ['/v1/api', []],
    ['?page=2', ['path']],
    ['10.0.0.1', ['address']],
    ['10.0.0.1:8080', ['address']],
    ['10.0.1', []],
    ['econnrefused', ['address']],
    ['user_id=42', ['assigned']],
    ['user 42', ['assigned', 'numbers']],
    ['bob.smith@example.org', ['email']],
    ['example.org', ['email']],
    ['550e8400-e29b-41d4-a716-446655440000', ['uuid']],
    ['550E8400', ['uuid']],
    ['<script>', ['tag']],
    ['&amp;', ['tag']],
    ['1e5', ['float']],
    ['7e12ab', ['float']],
    ['1.20.3-rc.1', ['float']],
    ['größe', []],
    ['grösse', ['unicode']],
    ['ÜBERSCHRITTEN', ['unicode']],
    ['日本語エラー', ['unicode']],
    ['c:\\users\\bob', ['windows']],
    ["can't", ['windows']],
    ['ssl_wrong', ['underscored']],
    ['"msg":"nested json"', ['json']],
    ["it's' :* & | ! () <-> words\\", []],
    ['"timeout', ['timeout', 'late']],
    ['-timeout -path', Object.keys(lines).filter((key) => !/timeout|late/.test(key)) as []],
  ])('%s finds what has it', async (q, expected) => {
    expect(await messages('/words', { q })).toEqual(
      (Object.keys(lines) as (keyof typeof lines)[])
        .filter((key) => expected.includes(key))
        .map((key) => lines[key]),
    );
  });

  test('of a word that names a log stream inside finds only what has it', async () => {
    const [{ id }] = (await api.sql`
      select s.id from obs.log_stream s where s.service_name = 'words'`) as unknown as [{ id: number }];
    expect(await messages('/words', { q: `nothing or s${id}` })).toEqual([]);
    expect(await messages('/words', { q: `bounced -s${id}` })).toEqual([lines.email]);
    expect(await messages('/words', { q: `"up s${id}"` })).toEqual([]);
  });

  test('looks at all of a message, and passes over words that are too long', async () => {
    const many = Array.from({ length: 5000 }, (_, i) => `w${i}`).join(' ');
    await write('long', [`${many} lastword`, `${'x'.repeat(3000)} needle`]);
    expect(await search('/long', { q: 'w4999 lastword' })).toHaveLength(1);
    expect(await search('/long', { q: 'needle' })).toHaveLength(1);
  });
});

describe('filters', () => {
  const at = (i: number) => base - i * 1000;
  const metadata = [
    { user_id: 42, ok: true, none: null, tags: ['a', 7], http: { status: 500 }, 'k"e\\y': 'v"a\\l' },
    { user_id: '42', ok: 'true', none: 'null', tags: 'a', 'http.status': 500, k: '' },
    { user_id: 42.0, big: 1, tags: ['b', ['c']], http: [{ status: 500 }], n: -5, k: "'; drop" },
    { user_id: 421, tags: { a: 'a' }, http: { 'status.code': 1 }, n: 1e300, k: 'ключ 😀' },
  ];
  const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'];
  beforeAll(async () => {
    await write(
      'meta',
      metadata.map((given, i) => ({ message: `${i}`, metadata: given })),
    );
    const big = ',"metadata":{"big":12345678901234567890}}';
    await api.call('POST', '/api/v1/logs', {
      body: `{"service_name":"meta","level":"info","message":"4","timestamp":${at(4)}${big}`,
    });
    await post([{ service_name: 'meta', level: 'info', message: '5', timestamp: at(5) }]);
    await write(
      'levels',
      levels.map((level, i) => ({ level, message: level, trace_id: i % 2 ? 'odd' : 'even' })),
    );
    await write('parts', ['100% of A_b\\c', '100 of AXb/c', 'Ünder "quote\' <x>']);
  });

  test.each<[string, Record<string, string>, string]>([
    ['a number, also as text', { user_id: '42' }, '012'],
    ['true, also as text', { ok: 'true' }, '01'],
    ['null, also as text', { none: 'null' }, '01'],
    ['a value in a list', { tags: 'a' }, '01'],
    ['a number in a list', { tags: '7' }, '0'],
    ['a dotted key, flat or nested', { 'http.status': '500' }, '012'],
    ['several at once', { user_id: '42', tags: 'a', 'http.status': '500', ok: 'true', none: 'null' }, '01'],
    ['several that no line has', { user_id: '42', n: '1' }, ''],
    ['a large integer', { big: '12345678901234567890' }, '4'],
    ['a large integer that is one more', { big: '12345678901234567891' }, ''],
    ['a negative number', { n: '-5' }, '2'],
    ['a number written otherwise', { n: '1e300' }, '3'],
    ['quotes and backslashes', { 'k"e\\y': 'v"a\\l' }, '0'],
    ['empty text', { k: '' }, '1'],
    ['what would end a literal', { k: "'; drop" }, '2'],
    ['other scripts', { k: 'ключ 😀' }, '3'],
    ['a key that no line has', { '$.user_id': '42' }, ''],
    ['part of a value', { user_id: '4' }, ''],
    ['dots without names between', { '..': '1', 'a..b': '2' }, ''],
  ])('of metadata by %s', async (_, wanted, expected) => {
    const query = Object.fromEntries(Object.entries(wanted).map(([key, value]) => [`meta.${key}`, value]));
    expect((await messages('/meta', query)).join('')).toBe(expected);
  });

  test.each([
    ['0% OF', [0]],
    ['%', [0]],
    ['_', [0]],
    ['a_B', [0]],
    ['\\', [0]],
    ['b\\C', [0]],
    ['0 of', [1]],
    ['ünder', [2]],
    ['"QUOTE\' <', [2]],
    ['100', [0, 1]],
    ['.*', []],
  ])('by a part of the message: %s', async (contains, expected) => {
    const found = await search('/parts', { contains });
    expect(found.map(({ timestamp }) => (base - Date.parse(timestamp)) / 1000)).toEqual(expected);
  });

  test.each(levels.map((level, i) => [level, levels.slice(i)] as const))(
    'by level %s and above',
    async (level, expected) => {
      expect(await messages('/levels', { level: level.toUpperCase() })).toEqual(expected);
    },
  );

  test('by trace, time and all together', async () => {
    expect(await messages('/levels', { trace_id: 'odd' })).toEqual(['debug', 'warn', 'fatal']);
    expect(await messages('/levels', { trace_id: 'od' })).toEqual([]);
    // From the start, up to the end and without it.
    const range = { start_time: at(4), end_time: new Date(at(1)).toISOString() };
    expect(await messages('/levels', range)).toEqual(['info', 'warn', 'error']);
    expect(
      await messages('/levels', { ...range, trace_id: 'odd', level: 'warning', q: 'WARN', contains: 'ar' }),
    ).toEqual(['warn']);
    expect(await messages('/levels', { ...range, trace_id: 'odd', level: 'error' })).toEqual([]);
  });

  test('across all services, or of one that a parameter names', async () => {
    const found = await search('', { start_time: at(1), end_time: at(0) });
    expect(found.map(({ service_name }) => service_name).sort()).toEqual(
      expect.arrayContaining(['levels', 'meta', 'parts']),
    );
    const all = await search('', { limit: 1000 });
    expect(all.map(({ timestamp }) => timestamp)).toEqual(
      all
        .map((line) => line.timestamp)
        .sort()
        .reverse(),
    );
    expect(await search('', { service_name: 'levels' })).toEqual(await search('/levels'));
    expect(await search('/never%20heard%20of')).toEqual([]);
  });

  test.each<[string, string, string]>([
    ['', 'q=-%20%22', 'query.q'],
    ['', 'q=', 'query.q'],
    ['', 'q=%00a', 'query.q'],
    ['', 'contains=', 'query.contains'],
    ['', 'level=loud', 'query.level'],
    ['', 'limit=0', 'query.limit'],
    ['', 'limit=1001', 'query.limit'],
    ['', 'limit=1.5', 'query.limit'],
    ['', 'limit=all', 'query.limit'],
    ['', 'format=ndjson&limit=0', 'query.limit'],
    ['', 'cursor=garbage', 'query.cursor'],
    ['', 'cursor=', 'query.cursor'],
    ['', `cursor=${Buffer.from('2026-01-01T00:00:00Z x').toString('base64url')}`, 'query.cursor'],
    ['', `cursor=${Buffer.from('infinity 1').toString('base64url')}`, 'query.cursor'],
    ['', 'highlight=x', 'query.highlight'],
    ['', 'highlight=true&format=ndjson', 'query.highlight'],
    ['', 'format=x', 'query.format'],
    ['', 'start_time=2026-01-02T00:00:00Z&end_time=2026-01-01T00:00:00Z', 'query.end_time'],
    ['', 'start_time=2026-01-02T00:00:00Z&end_time=2026-01-02T00:00:00Z', 'query.end_time'],
    ['', 'end_time=yesterday', 'query.end_time'],
    ['', 'nonsense=1', 'query.nonsense'],
    ['', 'q=a&q=b', 'query.q'],
    ['', 'meta.a=1&meta.a=2', 'query.meta.a'],
    ['', 'meta.=1', 'query.meta'],
    ['', 'service_name=', 'query.service_name'],
    ['/levels', 'service_name=levels', 'query.service_name'],
    ['/levels/patterns', 'limit=101', 'query.limit'],
    ['/levels/patterns', 'cursor=x', 'query.cursor'],
    ['/levels/1-1/context', 'before=501', 'query.before'],
    ['/levels/1-1/context', 'after=-1', 'query.after'],
    ['/levels/1-1/context', 'level=info', 'query.level'],
  ])('of %s?%s are refused, and named', async (path, query, expected) => {
    const { status, body } = await api.call('GET', `/api/v1/logs${path}?${query}`);
    expect([status, paths(body)]).toEqual([400, [expected]]);
  });

  test('that are too long are refused, too', async () => {
    for (const [name, length] of Object.entries({ q: 1000, contains: 1000, trace_id: 128, 'meta.a': 1024 })) {
      expect((await get('', { [name]: 'x'.repeat(length) })).status, name).toBe(200);
      const { status, body } = await get('', { [name]: 'x'.repeat(length + 1) });
      expect([status, paths(body)]).toEqual([400, [`query.${name}`]]);
    }
  });
});

test('pages do not shift while lines arrive, also where many are of one instant', async () => {
  await write(
    'paged',
    Array.from({ length: 60 }, (_, i) => ({
      message: `seldom word ${i}`,
      level: i % 4 ? 'info' : 'error',
      timestamp: base - Math.floor(i / 25) * 1000,
    })),
  );
  await write('paged', Array(70).fill({ timestamp: base - 1000, level: 'warn', message: 'word' }));
  for (const query of [{}, { q: 'word' }, { contains: 'wor', level: 'warn' }]) {
    const snapshot = await search('/paged', { ...query, limit: 1000 });
    expect(snapshot.length).toBeGreaterThan(80);
    const paged: Line[] = [];
    let cursor: string | null = null;
    do {
      const { body } = await get('/paged', { ...query, limit: 7, ...(cursor === null ? {} : { cursor }) });
      expect(body.logs.length).toBeLessThanOrEqual(7);
      expect(body.partial).toBe(false);
      paged.push(...body.logs);
      cursor = body.next_cursor;
      await post([{ service_name: 'paged', level: 'error', message: 'new word' }]);
    } while (cursor !== null && paged.length < 1000);
    expect(paged.map(({ id }) => id)).toEqual(snapshot.map(({ id }) => id));
    expect(new Set(paged.map(({ id }) => id)).size).toBe(paged.length);
  }
});

describe('highlighted', () => {
  test.each<[string, string, Record<string, string>, string[]]>([
    ['a word in any case', 'Token of token', { q: 'token' }, ['', 'Token', ' of ', 'token']],
    ['several', 'a needle, in hay', { q: 'hay needle' }, ['a ', 'needle', ', in ', 'hay']],
    ['after an emoji', '😀😀 needle 😀', { q: 'needle' }, ['😀😀 ', 'needle', ' 😀']],
    ['among < and >', '<b>needle</b> > <', { q: 'needle' }, ['<b>', 'needle', '</b> > <']],
    ['a part', 'xneedlexNEEDLE', { contains: 'Needle' }, ['x', 'needle', 'x', 'NEEDLE']],
    [
      'a part and a word',
      '😀 <i>: xneedle hay',
      { q: 'hay', contains: 'dle' },
      ['😀 <i>: xnee', 'dle', ' ', 'hay'],
    ],
    ['a word that goes on as a part', 'aneedle-b', { q: 'aneedle', contains: 'e-b' }, ['', 'aneedle-b']],
    [
      'a part after letters that change their length',
      'İİİ: NEEDLE!',
      { contains: 'needle' },
      ['İİİ: ', 'NEEDLE', '!'],
    ],
    [
      'a word after one too long to be indexed',
      `${'x'.repeat(2100)} needle`,
      { q: 'needle' },
      [`${'x'.repeat(2100)} `, 'needle'],
    ],
    [
      'a word among such, that PostgreSQL cuts otherwise',
      `a 7e12${'ab'.repeat(1500)}½ needle ${'y'.repeat(3000)}-needle z`,
      { q: 'needle' },
      [`a 7e12${'ab'.repeat(1500)}½ `, 'needle', ` ${'y'.repeat(3000)}-`, 'needle', ' z'],
    ],
    ['over lines', 'a\n\tneedle\n', { q: 'needle' }, ['a\n\t', 'needle', '\n']],
    ['nothing that was not wanted', 'hay needle', { q: 'hay or nothing -needle' }, ['', 'hay', ' needle']],
    ['nothing without words', 'needle', { level: 'info' }, ['needle']],
  ])('is %s', async (name, message, query, expected) => {
    await write(`hl ${name}`, [message]);
    const [line] = await search(`/hl ${name}`, { ...query, highlight: 'true' });
    expect(line?.highlighted.join('')).toBe(message);
    expect(line?.highlighted).toEqual(expected);
  });

  test('in each of many lines is its own, and metadata stay exact', async () => {
    const body = [0, 1, 2]
      .map(
        (i) =>
          `{"service_name":"hl","level":"info","message":"${i} needle","metadata":{"n":1234567890123456789${i},"t":",\\n"}}`,
      )
      .join(',');
    await api.call('POST', '/api/v1/logs', { body: `{"logs":[${body}]}` });
    const found = await search('/hl', { q: 'needle', highlight: 'true' });
    expect(found.map(({ highlighted }) => highlighted)).toEqual([2, 1, 0].map((i) => [`${i} `, 'needle']));
    const text = await fetch(`${api.url}/api/v1/logs/hl?highlight=true`, {
      headers: { Authorization: `Bearer ${await signToken()}` },
    }).then((answer) => answer.text());
    for (const i of [0, 1, 2]) expect(text).toContain(`1234567890123456789${i}`);
  });
});

describe('the context of a line', () => {
  let ids: string[];
  beforeAll(async () => {
    // Oldest first; the middle ones are of one instant, and of several levels.
    const seconds = [0, 1, 2, 2, 2, 2, 2, 3, 4];
    await write(
      'context',
      seconds.map((second, i) => ({
        message: `${i}`,
        level: ['info', 'error', 'debug'][i % 3],
        timestamp: base + second * 1000,
      })),
    );
    await write(
      'beside',
      seconds.map((second) => ({ message: 'x', timestamp: base + second * 1000 })),
    );
    ids = (await search('/context')).map(({ id }) => id).reverse();
  });
  const around = async (i: number, query: object) => {
    const { body } = await get(`/context/${ids[i]}/context`, { ...query });
    const text = (lines: Line[]) => lines.map(({ message }) => message).join('');
    return [text(body.before), body.line.message, text(body.after)];
  };

  test.each([
    [4, { before: 2, after: 3 }, ['23', '4', '567']],
    [4, { before: 0, after: 1 }, ['', '4', '5']],
    [4, {}, ['0123', '4', '5678']],
    [0, { before: 5, after: 2 }, ['', '0', '12']],
    [8, { before: 1, after: 500 }, ['7', '8', '']],
    [2, { before: 0, after: 0 }, ['', '2', '']],
  ])('%i with %o is of its service, in order of time', async (i, query, expected) => {
    expect(await around(i, query)).toEqual(expected);
  });

  test('is a 404 for an unknown id, and for a line of another service', async () => {
    const [time, number] = ids[4]!.split('-');
    for (const path of [
      `/beside/${ids[4]}`,
      '/context/1-1',
      `/context/${time}-${Number(number) + 1e6}`,
      `/context/${Number(time) + 1}-${number}`,
      '/context/9999999999999999-9999999999999999',
      '/context/99999999999999999-1',
      '/context/nonsense',
      `/never heard of/${ids[4]}`,
    ])
      expect((await get(`${path}/context`)).status, path).toBe(404);
  });
});

describe('an export', () => {
  const count = 5200;
  let all: Line[];
  beforeAll(async () => {
    await write(
      'export',
      Array.from({ length: count }, (_, i) => ({
        message: `Nr. ${i},\n"${i % 10}"`,
        metadata: { text: ',\n', n: i },
        timestamp: base - Math.floor(i / 3) * 10,
      })),
    );
    all = [];
    for (let cursor: string | null = ''; cursor !== null; ) {
      const { body } = await get('/export', { limit: 1000, ...(cursor && { cursor }) });
      all.push(...body.logs);
      cursor = body.next_cursor;
    }
  });
  const lines = (text: string): Line[] =>
    text
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line));

  test('has every line that a search pages through, in the same order, and is compressed', async () => {
    const { headers, body } = await get('/export', { format: 'ndjson' });
    expect(headers.get('Content-Type')).toBe('application/x-ndjson');
    expect(headers.get('Content-Encoding')).toBe('gzip');
    expect(all).toHaveLength(count);
    expect(body.endsWith('\n')).toBe(true);
    expect(lines(body)).toEqual(all);
  });

  test('goes on from a cursor, takes filters and ends at a limit', async () => {
    const { body } = await get('/export', { limit: 100 });
    const rest = await get('/export', { format: 'ndjson', cursor: body.next_cursor });
    expect(lines(rest.body)).toEqual(all.slice(100));
    for (const limit of [1, 5000, 5001, count, count + 1])
      expect(lines((await get('/export', { format: 'ndjson', limit })).body)).toEqual(all.slice(0, limit));
    const filtered = await get('/export', { format: 'ndjson', 'meta.n': 4711, q: '"nr 4711"' });
    expect(lines(filtered.body).map(({ message }) => message)).toEqual(['Nr. 4711,\n"1"']);
    expect((await get('/export', { format: 'ndjson', q: 'nowhere' })).body).toBe('');
  });
});

test('another org finds nothing, by whatever it asks, and its own lines alone where it has some', async () => {
  const message = 'secret of acme 4711';
  const trace_id = 'trace-of-acme';
  await write('tenant', [{ message, trace_id, metadata: { k: 'v' } }]);
  const [line] = await search('/tenant');
  const token = await signToken({ org_id: 'other' });
  const ask = async (path: string, query: object = {}) => (await get(path, { ...query }, { token })).body;
  const queries = [
    {},
    { q: 'secret' },
    { contains: 'secret' },
    { trace_id },
    { 'meta.k': 'v' },
    { level: 'info' },
  ];
  const empty = async () => {
    for (const query of queries) {
      for (const path of ['', '/tenant']) {
        expect((await ask(path, query)).logs.map((each: Line) => each.message)).not.toContain(message);
        expect(await ask(path, { ...query, format: 'ndjson' })).not.toContain(message);
      }
      expect(JSON.stringify(await ask('/tenant/patterns', query))).not.toContain('acme');
    }
    expect((await get(`/tenant/${line!.id}/context`, {}, { token })).status).toBe(404);
  };
  await empty();
  expect((await ask('')).logs).toEqual([]);
  await post(
    [{ service_name: 'tenant', level: 'info', message: 'secret of other', trace_id, metadata: { k: 'v' } }],
    { token },
  );
  await empty();
  for (const query of queries) expect((await ask('', query)).logs, JSON.stringify(query)).toHaveLength(1);
  const { buckets } = await ask('/tenant/histogram');
  expect(buckets.reduce((sum: number, { total }: { total: number }) => sum + total, 0)).toBe(1);
  expect(await messages('/tenant', { trace_id })).toEqual([message]);
});
