// Log lines through kills: what was acknowledged is there once, is counted once, and reaches those who follow once.
import { randomInt } from 'node:crypto';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { crashObstacle, useCrashableDatabase } from '../support/crash.ts';
import { cloneDatabase } from '../support/database.ts';
import { expectStored, loadUnderFaults, postJson, untilReachable } from '../support/load.ts';
import { type Service, signToken, startService } from '../support/process.ts';
import { isSoak } from '../support/soak.ts';
import { type Follower, follow } from '../support/sse.ts';

const rounds = isSoak ? 100 : 4;
const title = (what: string) => (crashObstacle ? `${what} (skipped: ${crashObstacle})` : what);

const messagesOf = (follower: Follower): string[] =>
  follower
    .events()
    .filter(({ event }) => event === 'log')
    .map(({ data }) => JSON.parse(data).message);

describe.skipIf(crashObstacle !== null)(title('with a server that can be killed'), () => {
  const database = useCrashableDatabase();
  let sql: postgres.Sql;
  let token: string;
  beforeAll(async () => {
    // An error in answer to the look-up of array types, in the middle of a crash, nobody could catch.
    sql = postgres(database.url, { max: 2, fetch_types: false, onnotice: () => {} });
    token = await signToken();
  });
  afterAll(() => sql?.end({ timeout: 5 }));

  const startApi = () => startService('api', { DATABASE_URL: database.url });
  const startWorker = () => startService('worker', { DATABASE_URL: database.url });
  const levelOf = (value: number) => (value % 3 === 0 ? 'error' : 'info');

  const post = (url: string, kind: string, values: number[], key?: string) => {
    const lines = values.map((value) => ({
      service_name: kind,
      level: levelOf(value),
      message: String(value),
      metadata: { value },
    }));
    return postJson(`${url}/api/v1/logs`, token, lines.length === 1 ? lines[0] : { logs: lines }, key);
  };

  async function stored(kind: string): Promise<Map<number, number>> {
    const rows = await sql<{ value: number; n: number }[]>`
      select l.message::int as value, count(*)::int as n from obs.log l join obs.log_stream s on s.id = l.log_stream_id
      where s.service_name = ${kind} group by 1`;
    return new Map(rows.map((row) => [row.value, row.n]));
  }

  const counts = async () =>
    (
      await sql<{ lines: number; counted: number; waiting: number; total: number }[]>`
        select (select count(*)::int from obs.log) as lines,
          (select coalesce(sum(line_count), 0)::int from obs.log_1m) as counted,
          (select coalesce(sum(line_count), 0)::int from obs.log_arrival
            where position > (select position from obs.log_counted)) as waiting,
          (select coalesce(sum(value), 0)::int from (
            select distinct on (m.series_id) m.value from obs.sample m join obs.series s on s.id = m.series_id
            where s.name = 'log_lines_total' order by m.series_id, m.time desc) t) as total`
    )[0]!;

  test(`${rounds} rounds of kill -9 of an API, both APIs, PostgreSQL and all of them, under load and followed`, async () => {
    const apis = await Promise.all([startApi(), startApi()]);
    let worker = await startWorker();
    const streams = ['keyed/stream', 'plain/stream', 'keyed/stream?level=error'];
    const followers = streams.map((path) =>
      follow(() => `${apis[randomInt(2)]!.url}/api/v1/logs/${path}`, { Authorization: `Bearer ${token}` }),
    );
    // What is recorded before they are there is none of theirs.
    await expect
      .poll(() => followers.every((follower) => follower.lastEventId() !== ''), { timeout: 20_000 })
      .toBe(true);

    const restart = async (i: number) => {
      await apis[i]!.kill();
      apis[i] = await startApi();
    };
    const restartWorker = async () => {
      await worker.kill();
      worker = await startWorker();
    };
    const outcome = await loadUnderFaults({
      rounds,
      urls: () => [apis[0]!.url, apis[1]!.url],
      post,
      size: () => (randomInt(2) ? 1 : randomInt(1, 251)),
      faults: [
        () => restart(0),
        () => Promise.all([restart(0), restart(1)]),
        () => database.crash(),
        () => Promise.all([restart(0), restart(1), restartWorker(), database.crash()]),
        () => restart(1),
        restartWorker,
      ],
    });
    await untilReachable(sql);
    const there = { keyed: await stored('keyed'), plain: await stored('plain') };
    expectStored(outcome, there);

    // Followers: each line that is there once, in the order of the flushes, and no gap.
    const wanted = [
      [...there.keyed.keys()],
      [...there.plain.keys()],
      [...there.keyed.keys()].filter((value) => levelOf(value) === 'error'),
    ];
    for (const [i, follower] of followers.entries()) {
      await expect
        .poll(() => messagesOf(follower).length, { timeout: 60_000, interval: 200, message: streams[i]! })
        .toBeGreaterThanOrEqual(wanted[i]!.length);
    }
    for (const [i, follower] of followers.entries()) {
      await follower.stop();
      expect(follower.opened(), streams[i]).toBeGreaterThan(1);
      expect(follower.events().filter(({ event }) => event !== 'log')).toEqual([]);
      const ascending = (a: number, b: number) => a - b;
      expect(messagesOf(follower).map(Number).sort(ascending), streams[i]).toEqual(
        wanted[i]!.sort(ascending),
      );
      const places = follower.events().map(({ id }) => id.split('-').map(Number) as [number, number]);
      const isInOrder = places.every(
        ([position, id], at) =>
          at === 0 ||
          position > places[at - 1]![0] ||
          (position === places[at - 1]![0] && id > places[at - 1]![1]),
      );
      expect(isInOrder, streams[i]).toBe(true);
    }

    // Counts: at any time what is counted and what waits, and in the end the worker has counted everything.
    const first = await counts();
    expect(first.counted + first.waiting).toBe(first.lines);
    await expect.poll(async () => (await counts()).waiting, { timeout: 60_000, interval: 500 }).toBe(0);
    const { lines } = first;
    expect(await counts()).toEqual({ lines, counted: lines, waiting: 0, total: lines });
    const falls = await sql`
      select series_id, time from (
        select m.series_id, m.time, m.value - lag(m.value) over (partition by m.series_id order by m.time) as step
        from obs.sample m join obs.series s on s.id = m.series_id where s.name = 'log_lines_total') t
      where step < 0`;
    expect(falls).toEqual([]);
    for (const service of [...apis, worker]) expect(await service.stop()).toBe(0);
  });
});

describe('with a server that goes on', () => {
  let url: string;
  let token: string;
  let sql: postgres.Sql;
  let api: Service;
  beforeAll(async () => {
    url = await cloneDatabase(inject('server'));
    token = await signToken();
    sql = postgres(url, { max: 3, onnotice: () => {} });
    api = await startService('api', { DATABASE_URL: url });
  });
  afterAll(async () => {
    await api?.stop();
    await sql?.end({ timeout: 5 });
  });

  const send = (service: string, message: string) =>
    postJson(`${api.url}/api/v1/logs`, token, { service_name: service, level: 'info', message });
  const open = (service: string, from?: string) =>
    follow(() => `${api.url}/api/v1/logs/${service}/stream`, { Authorization: `Bearer ${token}` }, from);

  test('who comes back while others are read to misses nothing', async () => {
    const first = open('first');
    await expect.poll(first.lastEventId).not.toBe('');
    for (const service of ['first', 'second']) expect(await send(service, 'one')).toBe(201);
    await expect.poll(() => messagesOf(first)).toEqual(['one']);
    const [last] = await sql<
      { position: string }[]
    >`select max(position)::text as position from obs.log_arrival`;
    let second: Follower | undefined;
    const isReading = async () =>
      (await sql`select from pg_locks where relation = 'obs.log_stream'::regclass and not granted`).length >
      0;
    await sql.begin(async (held) => {
      // Holds up whoever reads what arrived: it has seen what is committed by then.
      await held`lock table obs.log_stream in access exclusive mode`;
      expect(await send('second', 'two')).toBe(201);
      await expect.poll(isReading, { timeout: 10_000 }).toBe(true);
      second = open('second', last!.position);
      await expect.poll(second.opened, { timeout: 10_000 }).toBe(1);
      await expect.poll(second.lastEventId).not.toBe('');
    });
    expect(await send('second', 'three')).toBe(201);
    await expect.poll(() => messagesOf(second!).at(-1), { timeout: 10_000 }).toBe('three');
    expect(messagesOf(second!)).toEqual(['two', 'three']);
    await Promise.all([first.stop(), second!.stop()]);
  });

  test('SIGTERM ends the streams of those who follow, who go on elsewhere where they were', async () => {
    const other = await startService('api', { DATABASE_URL: url });
    let target = other.url;
    const follower = follow(() => `${target}/api/v1/logs/moved/stream`, { Authorization: `Bearer ${token}` });
    await expect.poll(follower.lastEventId).not.toBe('');
    expect(await send('moved', '1')).toBe(201);
    await expect.poll(() => messagesOf(follower)).toEqual(['1']);
    target = api.url;
    const stopping = other.stop();
    for (const message of ['2', '3', '4']) expect(await send('moved', message)).toBe(201);
    expect(await stopping, other.output()).toBe(0);
    await expect.poll(() => messagesOf(follower), { timeout: 10_000 }).toEqual(['1', '2', '3', '4']);
    await follower.stop();
  });
});
