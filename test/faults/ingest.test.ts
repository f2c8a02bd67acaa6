// A 2xx means committed: processes are killed under load, and every acknowledged sample has to be there.
import { randomInt, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { migrate } from '../../db/migrate.ts';
import { crashGiven, crashObstacle, useCrashableDatabase } from '../support/crash.ts';
import { cloneDatabase } from '../support/database.ts';
import { type Service, signToken, startService } from '../support/process.ts';

const rounds = process.env.SOAK === 'true' ? 100 : 10;
const title = (what: string) => (crashObstacle ? `${what} (skipped: ${crashObstacle})` : what);

describe.skipIf(crashObstacle !== null)(title('with a server that can be killed'), () => {
  const database = useCrashableDatabase();
  let sql: postgres.Sql;
  let token: string;
  beforeAll(async () => {
    sql = postgres(database.url, { max: 2, onnotice: () => {} });
    token = await signToken();
  });
  afterAll(() => sql?.end({ timeout: 5 }));

  const startApi = () => startService('api', { DATABASE_URL: database.url });

  /** Sends a batch; the status, or 0 when there was no answer. */
  async function post(url: string, name: string, values: number[], key?: string): Promise<number> {
    try {
      const answer = await fetch(`${url}/api/v1/metrics/batch`, {
        method: 'POST',
        headers: {
          Authorization: `Bearer ${token}`,
          'Content-Type': 'application/json',
          ...(key ? { 'Idempotency-Key': key } : {}),
        },
        body: JSON.stringify({
          metrics: values.map((value) => ({ name, value, labels: { part: String(value % 7) } })),
        }),
        signal: AbortSignal.timeout(20_000),
      });
      await answer.arrayBuffer();
      return answer.status;
    } catch {
      return 0;
    }
  }

  async function storedCounts(name: string): Promise<Map<number, number>> {
    const rows = await sql<{ value: number; n: number }[]>`
      select m.value, count(*)::int as n from obs.sample m join obs.series s on s.id = m.series_id where s.name = ${name} group by 1`;
    return new Map(rows.map((row) => [row.value, row.n]));
  }

  async function untilReachable() {
    for (let attempt = 0; ; attempt++) {
      try {
        await sql`select 1`;
        return;
      } catch (error) {
        if (attempt > 100) throw error;
        await sleep(100);
      }
    }
  }

  test(`${rounds} rounds of kill -9 of an API, both APIs, PostgreSQL and all of them, under load`, async () => {
    const apis: Service[] = await Promise.all([startApi(), startApi()]);
    let next = 0;
    let isOver = false;
    let acknowledged = 0;
    const take = () => Array.from({ length: randomInt(1, 250) }, () => next++);
    const keyed: number[][] = [];
    const plain: { values: number[]; acknowledged: boolean }[] = [];
    const statuses = new Map<number, number>();
    const note = (status: number) => statuses.set(status, (statuses.get(status) ?? 0) + 1);

    // Sends each batch until it is acknowledged, with one key for all tries, to either process.
    async function keyedClient() {
      while (!isOver) {
        const values = take();
        const key = randomUUID();
        for (;;) {
          const status = await post(apis[randomInt(2)]!.url, 'keyed', values, key);
          note(status);
          if (status === 201) break;
          await sleep(20);
        }
        keyed.push(values);
        acknowledged++;
      }
    }
    // Sends each batch once and notes whether it was acknowledged.
    async function plainClient() {
      while (!isOver) {
        const values = take();
        const status = await post(apis[randomInt(2)]!.url, 'plain', values);
        note(status);
        plain.push({ values, acknowledged: status === 201 });
        if (status === 201) acknowledged++;
        else await sleep(20);
      }
    }
    const clients = [...Array.from({ length: 5 }, keyedClient), ...Array.from({ length: 3 }, plainClient)];

    const restart = async (i: number) => {
      await apis[i]!.kill();
      apis[i] = await startApi();
    };
    const faults = [
      () => restart(0),
      () => Promise.all([restart(0), restart(1)]),
      () => database.crash(),
      () => Promise.all([restart(0), restart(1), database.crash()]),
    ];
    for (let round = 0; round < rounds; round++) {
      const target = acknowledged + 30;
      const deadline = Date.now() + 60_000;
      while (acknowledged < target) {
        expect(Date.now(), `no progress in round ${round}: ${JSON.stringify([...statuses])}`).toBeLessThan(
          deadline,
        );
        await sleep(5);
      }
      await sleep(randomInt(50));
      await faults[round % faults.length]!();
    }
    isOver = true;
    await Promise.all(clients);
    for (const api of apis) expect(await api.stop()).toBe(0);

    await untilReachable();
    const stored = { keyed: await storedCounts('keyed'), plain: await storedCounts('plain') };
    for (const values of keyed)
      for (const value of values) expect(stored.keyed.get(value), `keyed ${value}`).toBe(1);
    expect(stored.keyed.size).toBe(keyed.flat().length);
    for (const batch of plain) {
      const counts = new Set(batch.values.map((value) => stored.plain.get(value) ?? 0));
      // All or nothing, and all when it was acknowledged.
      expect([...counts], `plain ${batch.values[0]}`).toHaveLength(1);
      expect([...counts][0]).toBeLessThanOrEqual(1);
      if (batch.acknowledged) expect([...counts][0]).toBe(1);
    }
    // The faults have hit requests, and no request met anything but success, 503 or a broken connection.
    expect((statuses.get(0) ?? 0) + (statuses.get(503) ?? 0)).toBeGreaterThan(0);
    expect([...statuses.keys()].filter((status) => ![0, 201, 503].includes(status))).toEqual([]);
  });

  const outageTitle = 'an API that starts before its database waits for it, and outlives an outage';
  test.skipIf(crashGiven)(
    crashGiven ? `${outageTitle} (skipped: the server of DATABASE_URL is not ours to stop)` : outageTitle,
    async () => {
      const outage = database.outage!;
      await outage.begin();
      const api = await startApi();
      const get = async (path: string) => {
        const answer = await fetch(api.url + path);
        return [answer.status, ((await answer.json()) as { status: string }).status];
      };
      expect(await get('/health/live')).toEqual([200, 'live']);
      expect(await get('/health/ready')).toEqual([503, 'waiting']);
      expect(await get('/health')).toEqual([503, 'unhealthy']);
      expect(await post(api.url, 'outage', [1])).toBe(503);
      await outage.end();
      await expect.poll(() => get('/health/ready'), { timeout: 10_000 }).toEqual([200, 'ready']);
      expect(await post(api.url, 'outage', [2])).toBe(201);
      await outage.begin();
      expect(await post(api.url, 'outage', [3])).toBe(503);
      await outage.end();
      await expect.poll(() => post(api.url, 'outage', [4]), { timeout: 10_000 }).toBe(201);
      expect([...(await storedCounts('outage')).keys()].sort()).toEqual([2, 4]);
      expect(await api.stop()).toBe(0);
    },
  );
});

describe('with a server that goes on', () => {
  // Its own database on the server of all tests.
  let url: string;
  let token: string;
  let sql: postgres.Sql;
  beforeAll(async () => {
    url = await cloneDatabase(inject('server'));
    token = await signToken();
    sql = postgres(url, { max: 2, onnotice: () => {} });
  });
  afterAll(() => sql?.end({ timeout: 5 }));

  const send = (api: Service, body: unknown) =>
    fetch(`${api.url}/api/v1/metrics/batch`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
    }).then(
      async (answer) => ({ status: answer.status, body: await answer.text() }),
      () => ({ status: 0, body: '' }),
    );
  const count = async (name: string) =>
    (
      await sql<
        { n: number }[]
      >`select count(*)::int as n from obs.sample m join obs.series s on s.id = m.series_id where s.name = ${name}`
    )[0]!.n;

  test('SIGTERM under load: what was begun is answered and committed, and the process ends with 0', async () => {
    const api = await startService('api', { DATABASE_URL: url });
    await send(api, { metrics: [{ name: 'term', value: 0 }] });
    let isOver = false;
    const statuses: number[] = [];
    const clients = Array.from({ length: 16 }, async () => {
      while (!isOver) {
        const { status } = await send(api, {
          metrics: Array.from({ length: 300 }, (_, value) => ({ name: 'term', value })),
        });
        statuses.push(status);
        if (status === 0) break;
      }
    });
    await sleep(1000);
    const code = await api.stop();
    isOver = true;
    await Promise.all(clients);
    expect(code, api.output()).toBe(0);
    expect(statuses.filter((status) => status !== 201 && status !== 0)).toEqual([]);
    expect(await count('term')).toBe(1 + 300 * statuses.filter((status) => status === 201).length);
  });

  test('SIGTERM does not wait for a connection that asks nothing', async () => {
    const api = await startService('api', { DATABASE_URL: url });
    const socket = net.connect(Number(new URL(api.url).port), '127.0.0.1');
    socket.on('error', () => {});
    await once(socket, 'connect');
    const started = Date.now();
    expect(await api.stop(), api.output()).toBe(0);
    expect(Date.now() - started).toBeLessThan(10_000);
  });

  test('migrations that run under load fail no request', async () => {
    const api = await startService('api', { DATABASE_URL: url });
    let isOver = false;
    const answers: { status: number; body: string }[] = [];
    const clients = Array.from({ length: 4 }, async (_, client) => {
      for (let i = 0; !isOver; i++) {
        // Always a new series, so that each request calls functions that the migration drops and makes anew.
        answers.push(
          await send(api, { metrics: [{ name: 'migrated', value: i, labels: { of: `${client} ${i}` } }] }),
        );
      }
    });
    for (let i = 0; i < 5; i++) await migrate(url);
    isOver = true;
    await Promise.all(clients);
    await api.stop();
    expect(answers.length).toBeGreaterThan(50);
    expect(answers.filter((answer) => answer.status !== 201)).toEqual([]);
    expect(await count('migrated')).toBe(answers.length);
  });
});
