// GET /logs/{service}/stream: lines as they arrive, as server-sent events.
import http from 'node:http';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type TestApi, useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';
import { type EventStream, openEvents } from '../support/sse.ts';

const api = useApi();

const patient = { timeout: 10_000 };
const streams: EventStream[] = [];
afterEach(() => {
  for (const stream of streams.splice(0)) stream.close();
});

/** Opens a stream of a service, with query parameters and headers. */
async function follow(
  service: string,
  query: Record<string, string> = {},
  { lastEventId, token, from = api }: { lastEventId?: string; token?: string; from?: TestApi } = {},
) {
  const stream = await openEvents(`${from.url}/api/v1/logs/${service}/stream?${new URLSearchParams(query)}`, {
    Authorization: `Bearer ${token ?? (await signToken())}`,
    ...(lastEventId === undefined ? {} : { 'Last-Event-ID': lastEventId }),
  });
  streams.push(stream);
  return stream;
}

const line = (service_name: string, message: string, more: object = {}) => ({
  service_name,
  level: 'info',
  message,
  ...more,
});
const post = async (logs: object[], token?: string) => {
  const answer = await api.call('POST', '/api/v1/logs', { body: { logs }, ...(token ? { token } : {}) });
  expect(answer.status).toBe(201);
};
const lines = (stream: EventStream) =>
  stream.events.filter(({ event }) => event === 'log').map(({ data }) => JSON.parse(data));
const messages = (stream: EventStream): string[] => lines(stream).map(({ message }) => message);
/** Waits until a stream has so many lines, or one that ends with a text. */
const until = (stream: EventStream, last: string) =>
  expect.poll(() => messages(stream).at(-1), { ...patient, message: last }).toBe(last);
const clients = (expected: number) =>
  expect.poll(() => api.observability.tail.clients(), patient).toBe(expected);
const numbered = (service: string, from: number, count: number) =>
  Array.from({ length: count }, (_, i) => line(service, `${from + i}`));
const numbers = (from: number, count: number) => Array.from({ length: count }, (_, i) => `${from + i}`);

describe('a tail', () => {
  test('gets what arrives once it is open, as a search shows it, in the order of arrival', async () => {
    await post([line('live', 'before')]);
    const stream = await follow('live');
    expect(stream.status).toBe(200);
    expect(stream.headers.get('Content-Type')).toBe('text/event-stream');
    expect(stream.headers.get('Content-Encoding')).toBeNull();
    // Younger by its own time, yet first to arrive.
    await post([line('live', '1', { metadata: { n: [1] }, trace_id: 't' })]);
    await post([
      line('live', '2', { timestamp: Date.now() - 86_400_000 }),
      line('live', '3', { level: 'fatal', timestamp: Date.now() + 60_000 }),
      line('live', '4\n\n"😀'),
    ]);
    await post(numbered('live', 5, 300));
    await until(stream, '304');
    expect(messages(stream)).toEqual(['1', '2', '3', '4\n\n"😀', ...numbers(5, 300)]);
    const { body } = await api.call('GET', '/api/v1/logs/live?limit=1000');
    const found = body.logs.filter(({ message }: { message: string }) => message !== 'before');
    const byId = (a: { id: string }, b: { id: string }) => (a.id < b.id ? -1 : 1);
    expect(lines(stream).sort(byId)).toEqual(found.sort(byId));
    expect(new Set(stream.events.map(({ id }) => id)).size).toBe(stream.events.length);
  });

  test('gets what its filters ask for, each client for itself', async () => {
    const filters: [Record<string, string>, string[]][] = [
      [{}, ['a', 'b', 'c', 'd needle', 'xneedlex', 'end needle']],
      [{ level: 'WARN' }, ['b', 'c', 'end needle']],
      [{ q: 'needle' }, ['d needle', 'end needle']],
      [{ q: '-needle' }, ['a', 'b', 'c', 'xneedlex']],
      [{ contains: 'NEEDLE' }, ['d needle', 'xneedlex', 'end needle']],
      [{ trace_id: 't1' }, ['c', 'end needle']],
      [{ 'meta.http.status': '500' }, ['a', 'd needle', 'end needle']],
      [{ level: 'error', 'meta.http.status': '500', q: 'needle' }, ['end needle']],
    ];
    const tails = await Promise.all(filters.map(([query]) => follow('filtered', query)));
    // A second one with the same filter.
    tails.push(await follow('filtered', filters[1]![0]));
    const metadata = { http: { status: 500 } };
    await post([
      line('filtered', 'a', { metadata }),
      line('filtered', 'b', { level: 'warn' }),
      line('filtered', 'c', { level: 'fatal', trace_id: 't1' }),
    ]);
    await post([line('filtered', 'd needle', { metadata, trace_id: 't2' }), line('filtered', 'xneedlex')]);
    await post([line('filtered', 'end needle', { metadata, trace_id: 't1', level: 'error' })]);
    await post([line('filtered', 'end', { level: 'fatal', trace_id: 't1', metadata })]);
    await until(tails[0]!, 'end');
    for (const [i, [query, expected]] of [...filters, filters[1]!].entries()) {
      const hasEnd = !query.q && !query.contains;
      const all = hasEnd || query.q === '-needle' ? [...expected, 'end'] : expected;
      await expect
        .poll(() => messages(tails[i]!), { ...patient, message: JSON.stringify(query) })
        .toEqual(all);
    }
  });

  test('gets no line of another service, or of another org', async () => {
    const other = await signToken({ org_id: 'other' });
    const mine = await follow('shared');
    const theirs = await follow('shared', {}, { token: other });
    const beside = await follow('beside');
    await Promise.all(
      Array.from({ length: 20 }, (_, i) => [
        post([line('shared', `acme ${i}`), line('beside', `beside ${i}`)]),
        post([line('shared', `other ${i}`, { trace_id: 't' })], other),
      ]).flat(),
    );
    await post([line('shared', 'acme 20'), line('beside', 'beside 20')]);
    await post([line('shared', 'other 20')], other);
    for (const [stream, name] of [
      [mine, 'acme'],
      [theirs, 'other'],
      [beside, 'beside'],
    ] as const) {
      await until(stream, `${name} 20`);
      expect(messages(stream).sort()).toEqual(
        numbers(0, 21)
          .map((i) => `${name} ${i}`)
          .sort(),
      );
    }
    // Nor where it comes back.
    const { id } = mine.events[0]!;
    const resumed = await follow('shared', {}, { token: other, lastEventId: id });
    await post([line('shared', 'end')], other);
    await until(resumed, 'end');
    expect(messages(resumed).filter((message) => message.startsWith('acme'))).toEqual([]);
  });

  test.each<[string, Record<string, string>, string]>([
    ['an unknown level', { level: 'loud' }, 'query.level'],
    ['no word', { q: '-' }, 'query.q'],
    ['a limit', { limit: '1' }, 'query.limit'],
    ['a range', { start_time: '2026-01-01T00:00:00Z' }, 'query.start_time'],
    ['another service', { service_name: 'x' }, 'query.service_name'],
  ])('with %s is refused', async (_, query, path) => {
    const { status, body } = await api.call('GET', `/api/v1/logs/x/stream?${new URLSearchParams(query)}`);
    expect([status, body.errors[0].path]).toEqual([400, path]);
  });

  test.each(['x', '1-', '-1', '1.5', '1-2-3', '0x10', '1234567890123456', '1 2'])(
    'is refused with the Last-Event-ID %s',
    async (lastEventId) => {
      const { status, body } = await api.call('GET', '/api/v1/logs/x/stream', {
        headers: { 'Last-Event-ID': lastEventId },
      });
      expect([status, body.errors[0].path]).toEqual([400, 'header.Last-Event-ID']);
    },
  );

  test('is for those who may read', async () => {
    const token = await signToken({ role: 'ingest' });
    expect((await api.call('GET', '/api/v1/logs/x/stream', { token })).status).toBe(403);
    expect((await api.call('GET', '/api/v1/logs/x/stream', { token: null })).status).toBe(401);
    expect((await follow('x', {}, { token: await signToken({ role: 'viewer' }) })).status).toBe(200);
  });
});

describe('a client that comes back', () => {
  test.each([
    ['when nobody else is there', false],
    ['next to others that are further', true],
  ])('with Last-Event-ID goes on, also in the middle of a batch, %s', async (name, hasOthers) => {
    const service = `back ${name}`;
    const first = await follow(service);
    await post(numbered(service, 0, 10));
    await until(first, '9');
    const ids = first.events.map(({ id }) => id);
    if (!hasOthers) {
      first.close();
      await clients(0);
    }
    await post(numbered(service, 10, 150));
    await post([line('elsewhere', 'x')]);
    if (hasOthers) await until(first, '159');
    const resumed = await Promise.all([2, 9, 0].map((i) => follow(service, {}, { lastEventId: ids[i]! })));
    // The same with a filter, for which there is nothing of the rest of that batch.
    const filtered = await follow(service, { contains: '15' }, { lastEventId: ids[2]! });
    await post([line(service, '160'), line(service, '1500')]);
    for (const [j, i] of [2, 9, 0].entries()) {
      await until(resumed[j]!, '1500');
      expect(messages(resumed[j]!)).toEqual([...numbers(i + 1, 160 - i), '1500']);
    }
    await until(filtered, '1500');
    expect(messages(filtered)).toEqual(
      ['15', '115', ...numbers(150, 10), '1500'].filter((n) => n.includes('15')),
    );
    expect(resumed.flatMap(({ events }) => events).filter(({ event }) => event === 'gap')).toEqual([]);
    if (hasOthers) {
      await until(first, '1500');
      expect(messages(first)).toEqual([...numbers(0, 161), '1500']);
    }
  });

  test('again and again, while lines are written and others read, misses none and gets none twice', async () => {
    const service = 'restless';
    const count = 3000;
    // Whose reads are under way when the others, with filters of their own, come.
    const steady = await follow(service, { level: 'info' });
    const comesBack = async (i: number) => {
      const query = { q: `-x${i}` };
      const got: string[] = [];
      let stream = await follow(service, query);
      while (got.at(-1) !== `${count - 1}`) {
        await expect.poll(() => stream.events.length, { ...patient, interval: 5 }).toBeGreaterThan(0);
        const lastEventId = stream.lastEventId();
        got.push(...messages(stream));
        stream.close();
        if (got.at(-1) !== `${count - 1}`) stream = await follow(service, query, { lastEventId });
      }
      return got;
    };
    const coming = Promise.all([0, 1, 2, 3].map(comesBack));
    await expect.poll(() => api.observability.tail.clients(), patient).toBeGreaterThanOrEqual(5);
    for (let i = 0; i < count; i += 10) await post(numbered(service, i, 10));
    for (const got of await coming) expect(got).toEqual(numbers(0, count));
    await until(steady, `${count - 1}`);
    expect(messages(steady)).toEqual(numbers(0, count));
  });

  test('after longer than arrivals are kept is told of the gap, and goes on', async () => {
    const first = await follow('gap');
    await post(numbered('gap', 0, 3));
    await until(first, '2');
    first.close();
    await clients(0);
    await post(numbered('gap', 3, 3));
    await api.sql`
      with gone as (delete from obs.log_arrival returning position)
      update obs.log_counted set position = g.last, purged_position = g.last from (select max(position) as last from gone) as g`;
    const stream = await follow('gap', {}, { lastEventId: first.lastEventId() });
    await post(numbered('gap', 6, 2));
    await until(stream, '7');
    expect(stream.events[0]!.event).toBe('gap');
    expect(JSON.parse(stream.events[0]!.data).reason).toEqual(expect.any(String));
    expect(messages(stream)).toEqual(['6', '7']);
    // From here on nothing is missing.
    const again = await follow('gap', {}, { lastEventId: stream.events.at(-2)!.id });
    await until(again, '7');
    expect(again.events.map(({ event }) => event)).toEqual(['log']);
  });

  test('from a place that is still to come, as of another database, is told of a gap and begins with what arrives now', async () => {
    const stream = await follow('future', {}, { lastEventId: '999999999999-1' });
    await post([line('future', 'now')]);
    await until(stream, 'now');
    expect(stream.events.map(({ event }) => event)).toEqual(['gap', 'log']);
    expect(messages(stream)).toEqual(['now']);
  });
});

test('a client that leaves is forgotten', async () => {
  await clients(0);
  const stays = await follow('leave');
  const leaves = await Promise.all([follow('leave'), follow('leave', { level: 'info' }), follow('other')]);
  expect(api.observability.tail.clients()).toBe(4);
  for (const stream of leaves) stream.close();
  await clients(1);
  await post([line('leave', 'still')]);
  await until(stays, 'still');
});

test('a client that does not read is dropped, and another goes on', async () => {
  await clients(0);
  const reader = await follow('slow');
  const broken = Promise.withResolvers<unknown>();
  const request = http.get(`${api.url}/api/v1/logs/slow/stream`, {
    headers: { Authorization: `Bearer ${await signToken()}` },
  });
  const response = await new Promise<http.IncomingMessage>((resolve) => request.once('response', resolve));
  response.once('error', broken.resolve);
  await clients(2);
  let count = 0;
  // What the kernel holds for it is some megabytes, too.
  while (api.observability.tail.clients() === 2 && count < 2000) {
    await post(Array.from({ length: 25 }, () => line('slow', `${count++} ${'x'.repeat(20_000)}`)));
    await expect.poll(() => reader.events.length, patient).toBe(count);
  }
  expect(api.observability.tail.clients()).toBe(1);
  expect(await (await fetch(`${api.url}/metrics`)).text()).toContain('\nobs_tail_dropped_total 1\n');
  response.resume();
  await broken.promise;
  await post([line('slow', 'end')]);
  await until(reader, 'end');
  expect(messages(reader).map((message) => message.split(' ')[0])).toEqual([...numbers(0, count), 'end']);
});

test('many filters are read in portions, and every client gets its lines', async () => {
  const clientsOf = (n: number) => follow('portions', { contains: `<${n}>` });
  const many = await Promise.all(Array.from({ length: 40 }, (_, n) => clientsOf(n)));
  const rounds = 5;
  for (let round = 0; round < rounds; round++)
    await post(Array.from({ length: 40 }, (_, n) => line('portions', `<${n}> ${round} ${'x'.repeat(2000)}`)));
  for (const [n, stream] of many.entries()) {
    await expect.poll(() => stream.events.length, patient).toBe(rounds);
    expect(messages(stream).map((message) => message.split(' x')[0])).toEqual(
      Array.from({ length: rounds }, (_, round) => `<${n}> ${round}`),
    );
  }
});

test('fifty clients take as many connections of the database as one', async () => {
  const connections = async () => {
    // The pool opens what it may when there is much to do at once.
    await Promise.all(Array.from({ length: 30 }, () => api.call('GET', '/api/v1/logs/crowd')));
    return [
      ...(await api.sql<{ name: string; n: number }[]>`
        select application_name as name, count(*)::int as n from pg_stat_activity
        where datname = current_database() and starts_with(application_name, 'test-api') group by 1 order by 1`),
    ];
  };
  await follow('crowd');
  const few = await connections();
  expect(few.find(({ name }) => name === 'test-api-listen')?.n).toBe(1);
  const crowd = await Promise.all(
    Array.from({ length: 49 }, (_, i) => follow('crowd', i % 2 ? { contains: `${i}` } : {})),
  );
  await post([line('crowd', Array.from({ length: 49 }, (_, i) => i).join(' '))]);
  for (const stream of crowd) await expect.poll(() => stream.events.length, patient).toBe(1);
  expect(await connections()).toEqual(few);
});

test('heartbeats move on what a client has read when nothing is for it, and end a stream with its token', {
  timeout: 60_000,
}, async () => {
  // A token is taken for five seconds longer.
  const token = await signToken({ exp: Math.floor(Date.now() / 1000) });
  const brief = await follow('quiet', {}, { token });
  const stream = await follow('quiet', { q: 'nothing' });
  const other = await follow('quiet');
  await post([line('quiet', 'x')]);
  await until(other, 'x');
  const position = Number(other.lastEventId().split('-')[0]);
  await expect.poll(() => brief.end(), { timeout: 30_000 }).toBe('ended');
  await expect.poll(() => Number(stream.lastEventId()), { timeout: 30_000 }).toBeGreaterThanOrEqual(position);
  expect([stream.end(), stream.events]).toEqual([undefined, []]);
});

describe('with at most three clients', () => {
  const small = useApi({ TAIL_CLIENTS: '3' });

  test('a fourth is a 429 until one leaves', async () => {
    const three = [];
    for (const service of ['a', 'b', 'c']) three.push(await follow(service, {}, { from: small }));
    const fourth = await small.call('GET', '/api/v1/logs/d/stream');
    expect([fourth.status, fourth.body.code]).toEqual([429, 'too_many_tails']);
    expect(Number(fourth.headers.get('Retry-After'))).toBeGreaterThan(0);
    three[1]!.close();
    await expect.poll(async () => (await follow('d', {}, { from: small })).status, patient).toBe(200);
  });

  test('so it is where many come at once', async () => {
    await expect.poll(() => small.observability.tail.clients(), patient).toBe(0);
    const many = await Promise.all(Array.from({ length: 12 }, () => follow('a', {}, { from: small })));
    expect(many.map(({ status }) => status).sort()).toEqual([...Array(3).fill(200), ...Array(9).fill(429)]);
  });
});

describe('a process that is about to stop', () => {
  const draining = useApi();
  let orgId: number;
  beforeAll(async () => {
    await draining.call('POST', '/api/v1/logs', { body: line('x', 'm') });
    orgId = (await draining.sql<{ id: number }[]>`select id from obs.org where external_id = 'acme'`)[0]!.id;
  });

  test('ends its tails, those that are just opened, too, and opens no more', async () => {
    const stream = await follow('x', {}, { from: draining });
    // The whole answer, checked as any other.
    const answered = draining.call('GET', '/api/v1/logs/x/stream');
    await expect.poll(() => draining.observability.tail.clients(), patient).toBe(2);
    const opening = draining.observability.tail
      .open(
        orgId,
        { service_name: 'x' },
        { expiresAt: Number.POSITIVE_INFINITY, mayStill: async () => true, disconnect: () => {} },
      )
      .then(
        () => 'opened',
        ({ code }) => code,
      );
    draining.observability.startDraining();
    await expect.poll(() => stream.end(), patient).toBe('ended');
    const { status, body } = await answered;
    expect([status, body]).toEqual([200, expect.stringMatching(/^retry: \d+\nid: \d+\n\n$/)]);
    await opening;
    expect(draining.observability.tail.clients()).toBe(0);
    const late = await draining.call('GET', '/api/v1/logs/x/stream');
    expect([late.status, late.body.code]).toEqual([503, 'draining']);
  });
});
