// Two API processes that share a Redis, which is killed, hung and filled with garbage: limits and hot answers are of both while it is there, and
// nobody waits, or is refused what is right, when it is not.
import { setTimeout as sleep } from 'node:timers/promises';
import postgres from 'postgres';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, test } from 'vitest';
import { cloneDatabase } from '../support/database.ts';
import { freePort, type Service, signToken, startService } from '../support/process.ts';
import { createRedis, type RedisServer, redisObstacle } from '../support/redis.ts';
import { isSoak } from '../support/soak.ts';

const limits = { query: 50, ingest: 40, change: 30 };
/** How long what takes several windows of a limit is looked at. */
const seconds = isSoak ? 6 : 3;

interface Answer {
  status: number;
  headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: of whatever route
  body: any;
  url: string;
  ms: number;
}

async function ask(
  url: string,
  token: string,
  method: string,
  path: string,
  body?: unknown,
): Promise<Answer> {
  const began = performance.now();
  const answer = await fetch(url + path, {
    method,
    headers: {
      Authorization: `Bearer ${token}`,
      ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(30_000),
  });
  const text = await answer.text();
  const ms = performance.now() - began;
  const { status, headers } = answer;
  try {
    return { status, headers, body: text && JSON.parse(text), url, ms };
  } catch {
    return { status, headers, body: `no JSON: ${text}`, url, ms };
  }
}

const requests = {
  query: ['GET', '/api/v1/metrics?limit=1'],
  ingest: ['POST', '/api/v1/metrics', { name: 'm', value: 1 }],
  change: ['PATCH', '/api/v1/services/none', {}],
} as const;
type Kind = keyof typeof requests;

const one = (service: Service, token: string, kind: Kind = 'query') => {
  const [method, path, body] = requests[kind];
  return ask(service.url, token, method, path, body);
};

interface Hammered {
  answers: Answer[];
  seconds: number;
}

/** More requests than any limit lets pass, through both processes and with all tokens, for as long as work takes. */
async function hammer(
  services: Service[],
  tokens: string[],
  work: () => Promise<unknown>,
  kind: Kind = 'query',
): Promise<Hammered> {
  const answers: Answer[] = [];
  let isOver = false;
  const began = performance.now();
  async function client(service: Service, i: number) {
    while (!isOver) {
      const answer = await one(service, tokens[i++ % tokens.length]!, kind);
      answers.push(answer);
      if (answer.status === 429) await sleep(8);
    }
  }
  const clients = services.flatMap((service) => [0, 1, 2].map((i) => client(service, i)));
  await work();
  isOver = true;
  await Promise.all(clients);
  return { answers, seconds: (performance.now() - began) / 1000 };
}

const passed = ({ answers }: Hammered) => answers.filter(({ status }) => status !== 429);

/** That what passed is what one limit for both lets pass: each window is full, and there is one each second, not one a process. */
function expectShared(hammered: Hammered, limit: number) {
  const windows = passed(hammered).filter(
    ({ headers }) => headers.get('RateLimit-Remaining') === String(limit - 1),
  ).length;
  expect(windows).toBeGreaterThanOrEqual(1);
  expect(windows).toBeLessThanOrEqual(Math.floor(hammered.seconds) + 1);
  expect(passed(hammered).length).toBeLessThanOrEqual(limit * windows);
  // The last window may have just begun.
  expect(passed(hammered).length).toBeGreaterThanOrEqual(0.9 * limit * (windows - 1));
  expect(new Set(passed(hammered).map(({ url }) => url)).size).toBe(2);
}

const gone = /"msg":"Redis is not there/g;
const there = /"msg":"Redis is there/g;
const count = (service: Service, pattern: RegExp) => service.output().match(pattern)?.length ?? 0;

/**
 * A process that gets no processor for a tenth of a second takes Redis for hung, and counts for itself for a second: what it did meanwhile tells nothing
 * of sharing, so that it is done again.
 */
async function undisturbed(services: Service[], work: () => Promise<void>) {
  for (let attempt = 1; ; attempt++) {
    await untilShared(services);
    const before = services.map((service) => count(service, gone));
    try {
      return await work();
    } catch (error) {
      const isDisturbed = services.some((service, i) => count(service, gone) > before[i]!);
      if (!isDisturbed || attempt === 5) throw error;
    }
  }
}

async function untilShared(services: Service[]) {
  for (const service of services)
    await expect.poll(() => count(service, there) - count(service, gone), { timeout: 20_000 }).toBe(1);
}

describe.skipIf(redisObstacle)(
  `API processes with a Redis${redisObstacle ? ` (${redisObstacle})` : ''}`,
  () => {
    let redis: RedisServer;
    let databaseUrl: string;
    let sql: postgres.Sql;
    let a: Service;
    let b: Service;
    let both: Service[];
    let orgs = 0;
    const newOrg = () => `org-${++orgs}`;
    const tokensOf = (org: string, n: number) =>
      Promise.all(Array.from({ length: n }, (_, i) => signToken({ org_id: org, jti: String(i) })));
    const tokenOf = async (org: string) => (await tokensOf(org, 1))[0]!;

    const start = (env: Record<string, string> = {}) =>
      startService('api', {
        DATABASE_URL: databaseUrl,
        REDIS_URL: redis.url,
        RATE_LIMIT_QUERY: String(limits.query),
        RATE_LIMIT_INGEST: String(limits.ingest),
        RATE_LIMIT_CHANGE: String(limits.change),
        CACHE_MS: '60000',
        ...env,
      });

    const startBoth = (env: Record<string, string> = {}) => Promise.all([start(env), start(env)]);

    const hungUrl = async () => {
      redis.hang();
      return redis.url;
    };

    beforeAll(async () => {
      databaseUrl = await cloneDatabase(inject('server'));
      sql = postgres(databaseUrl, { max: 2, onnotice: () => {} });
      redis = await createRedis();
      await redis.start();
      both = await startBoth();
      [a, b] = both as [Service, Service];
    });
    beforeEach(() => untilShared(both));
    afterEach(() => redis.goOn());
    afterAll(async () => {
      await Promise.all((both ?? []).map((service) => service.stop()));
      await redis?.end();
      await sql?.end({ timeout: 5 });
    });

    test('an org has one limit for both, with however many tokens; another org its own', async () => {
      const tokens = await tokensOf(newOrg(), 4);
      const other = await tokenOf(newOrg());
      await undisturbed(both, async () => {
        const statuses = new Set<number>();
        const hammered = await hammer(both, tokens, async () => {
          for (let i = 0; i < 10 * seconds; i++) {
            statuses.add((await one(i % 2 ? a : b, other)).status);
            await sleep(100);
          }
        });
        expect([...statuses]).toEqual([200]);
        expectShared(hammered, limits.query);
      });
    });

    test('a token has one limit for both, and leaves the org’s other tokens theirs', async () => {
      const services = await startBoth({
        TOKEN_RATE_LIMIT_QUERY: String(limits.query),
        RATE_LIMIT_QUERY: '100000',
      });
      try {
        const [busy, quiet] = (await tokensOf(newOrg(), 2)) as [string, string];
        await undisturbed(services, async () => {
          const statuses = new Set<number>();
          const hammered = await hammer(services, [busy], async () => {
            for (let i = 0; i < 10 * seconds; i++) {
              statuses.add((await one(services[i % 2]!, quiet)).status);
              await sleep(100);
            }
          });
          expect([...statuses]).toEqual([200]);
          expectShared(hammered, limits.query);
          const refused = hammered.answers.find(({ status }) => status === 429)!;
          expect(refused.body.detail).toMatch(/^The token has made all of its 50 query requests/);
        });
      } finally {
        await Promise.all(services.map((service) => service.stop()));
      }
    });

    test('an answer says what is left, a refused one when to come back', async () => {
      const token = await tokenOf(newOrg());
      await undisturbed(both, async () => {
        const { answers } = await hammer(both, [token], async () => {
          await sleep(500);
          while ((await one(a, token)).status !== 429);
        });
        expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200, 429]));
        for (const { status, headers, body } of answers) {
          const remaining = Number(headers.get('RateLimit-Remaining'));
          expect(headers.get('RateLimit-Limit')).toBe('50');
          expect(headers.get('RateLimit-Policy')).toBe('50;w=1');
          expect(headers.get('RateLimit-Reset')).toBe('1');
          expect(remaining).toBeGreaterThanOrEqual(0);
          expect(remaining).toBeLessThan(limits.query);
          expect(headers.get('Retry-After')).toBe(status === 429 ? '1' : null);
          if (status !== 429) continue;
          expect(remaining).toBe(0);
          expect(body).toMatchObject({ status: 429, code: 'rate_limited' });
        }
      });
      // Of an answer that refuses for another reason, too.
      const wrong = await ask(a.url, await tokenOf(newOrg()), 'GET', '/api/v1/metrics?limit=x');
      expect([wrong.status, wrong.headers.get('RateLimit-Remaining')]).toEqual([400, '49']);
      const viewer = await signToken({ org_id: newOrg(), role: 'viewer' });
      const forbidden = await ask(a.url, viewer, 'GET', '/api/v1/org');
      expect([forbidden.status, forbidden.headers.get('RateLimit-Remaining')]).toEqual([403, '49']);
    });

    const kinds: [Kind, Kind[]][] = [
      ['query', ['ingest', 'change']],
      ['ingest', ['query', 'change']],
      ['change', ['query', 'ingest']],
    ];
    test.each(isSoak ? kinds : kinds.slice(0, 1))(
      'who has made all %s requests may still make others',
      async (kind, others) => {
        const token = await tokenOf(newOrg());
        await undisturbed(both, async () => {
          const statuses = new Map<Kind, Set<number>>(others.map((other) => [other, new Set()]));
          const hammered = await hammer(
            both,
            [token],
            async () => {
              for (let i = 0; i < 20; i++) {
                for (const other of others)
                  statuses.get(other)!.add((await one(i % 2 ? a : b, token, other)).status);
                await sleep(100);
              }
            },
            kind,
          );
          expectShared(hammered, limits[kind]);
          const right = { query: 200, ingest: 201, change: 404 };
          for (const other of others) expect([...statuses.get(other)!], other).toEqual([right[other]]);
        });
      },
    );

    /** Requests go on, with limits of each process's own, and none of them waits for what does not answer. */
    function expectLocal(hammered: Hammered, slowestBefore: number) {
      const statuses = new Set(hammered.answers.map(({ status }) => status));
      expect([...statuses].sort()).toEqual([200, 429]);
      for (const service of both) {
        const own = { ...hammered, answers: hammered.answers.filter(({ url }) => url === service.url) };
        const windows = Math.floor(hammered.seconds) + 2;
        expect(passed(own).length).toBeGreaterThan(limits.query);
        expect(passed(own).length).toBeLessThanOrEqual(limits.query * windows);
      }
      expect(Math.max(...hammered.answers.map(({ ms }) => ms))).toBeLessThan(1000 + slowestBefore);
    }

    /** How many requests Redis was asked to count. */
    async function askedSoFar(): Promise<number> {
      const stats = await redis.client.info('commandstats');
      return Number(/cmdstat_evalsha:calls=(\d+)/.exec(stats)?.[1] ?? 0);
    }

    test.each<[string, () => Promise<unknown> | undefined, () => Promise<unknown> | undefined]>([
      ['is killed and started again', () => redis.kill(), () => redis.start()],
      ['hangs and goes on', async () => redis.hang(), async () => redis.goOn()],
    ])(
      'a Redis that %s: limits are of each process meanwhile, and then of both again',
      async (_, fault, mend) => {
        const tokens = await tokensOf(newOrg(), 2);
        const before = await hammer(both, tokens, () => sleep(1500));
        await untilShared(both);
        const logged = both.map((service) => count(service, gone));
        let asked = 0;
        const during = await hammer(both, tokens, async () => {
          await sleep(1000);
          asked = await askedSoFar();
          await fault();
          await sleep(1000 * seconds);
        });
        expectLocal(during, Math.max(...before.answers.map(({ ms }) => ms)));
        // Each process says so once, however often it has asked in vain.
        expect(both.map((service, i) => count(service, gone) - logged[i]!)).toEqual([1, 1]);

        await mend();
        await untilShared(both);
        // Nor was each request an attempt of its own: one that hung has them all before it.
        expect((await askedSoFar()) - asked).toBeLessThan(during.answers.length / 4);
        // What it was asked while it hung opens a window of which nobody sees the beginning.
        await sleep(1000);
        await undisturbed(both, async () =>
          expectShared(await hammer(both, tokens, () => sleep(1000 * seconds)), limits.query),
        );
      },
    );

    const names = (answer: Answer) => Object.keys(answer.body.services).sort();
    const services = (service: Service, token: string) =>
      ask(service.url, token, 'GET', '/api/v1/health/services');
    const register = (service: Service, token: string, name: string) =>
      ask(service.url, token, 'POST', '/api/v1/services/register', {
        service_name: name,
        health_endpoint: 'http://127.0.0.1:9/',
      });

    test('a hot answer is one for both, until its org changes something at either', async () => {
      const org = newOrg();
      const [mine, theirs] = [await tokenOf(org), await tokenOf(newOrg())];
      await undisturbed(both, async () => {
        const run = Math.random().toString(36).slice(2);
        await register(a, theirs, `theirs-${run}`);
        for (let i = 0; i < 5; i++) {
          const [changed, other] = i % 2 ? [a, b] : [b, a];
          const name = `${run}-${i}`;
          // Each keeps one of before.
          for (const service of both) expect(names(await services(service, mine))).not.toContain(name);
          for (const service of both)
            expect(names(await services(service, theirs))).toContain(`theirs-${run}`);
          expect((await register(changed, mine, name)).status).toBe(201);
          expect(names(await services(other, mine))).toContain(name);
          expect(names(await services(changed, mine))).toContain(name);
          for (const service of both)
            expect(names(await services(service, theirs)).every((known) => known.startsWith('theirs-'))).toBe(
              true,
            );
        }
        // It is Redis that they share it through: the other does not ask the database, which has less by now.
        await register(b, mine, `${run}-x`);
        expect(names(await services(a, mine))).toContain(`${run}-0`);
        await sql`
          delete from obs.service s using obs.org o
          where s.org_id = o.id and o.external_id = ${org} and s.name = ${`${run}-0`}`;
        expect(names(await services(b, mine))).toContain(`${run}-0`);
        await register(a, mine, `${run}-y`);
        expect(names(await services(b, mine))).not.toContain(`${run}-0`);
      });
    });

    test('what is changed after Redis has lost all that it held is in the next answer, too', async () => {
      const token = await tokenOf(newOrg());
      await undisturbed(both, async () => {
        const run = Math.random().toString(36).slice(2);
        await register(a, token, `${run}-before`);
        for (const service of both) await services(service, token);
        await redis.client.flushall();
        for (let i = 0; i < 5; i++) {
          await register(a, token, `${run}-${i}`);
          for (const service of both) expect(names(await services(service, token))).toContain(`${run}-${i}`);
        }
      });
    });

    const garbage: Record<string, (key: string) => Promise<unknown>> = {
      text: (key) => redis.client.set(key, 'garbage'),
      'an empty text': (key) => redis.client.set(key, ''),
      bytes: (key) => redis.client.set(key, Buffer.from([0xff, 0, 0x80])),
      'half an answer': (key) => redis.client.set(key, '{"services":'),
      'another answer': (key) => redis.client.set(key, '[1]'),
      'a fraction': (key) => redis.client.set(key, '-1.5e300'),
      'the largest number': (key) => redis.client.set(key, '9223372036854775807'),
      'the smallest number': (key) => redis.client.set(key, '-9223372036854775808'),
      'a list': (key) => redis.client.multi().del(key).rpush(key, 'a', 'b').exec(),
      'a hash': (key) => redis.client.multi().del(key).hset(key, 'a', 'b').exec(),
      'a sorted set': (key) => redis.client.multi().del(key).zadd(key, 1, 'a').exec(),
    };

    test.each(isSoak ? ['rate', 'generation', 'answer'] : ['answer'])(
      'garbage under obs:%s… is nobody’s 500, and nobody’s answer',
      async (prefix) => {
        const faults: string[] = [];
        for (const [what, put] of Object.entries(garbage)) {
          const token = await tokenOf(newOrg());
          await untilShared(both);
          await register(a, token, 'before');
          for (const service of both) await services(service, token);
          await register(b, token, what.replaceAll(' ', '-'));
          // The one asks Redis for what the other has told it.
          await services(a, token);
          const keys = await redis.client.keys(`obs:${prefix}*`);
          expect(keys, what).not.toEqual([]);
          for (const key of keys) await put(key);
          const answers = [
            await services(b, token),
            await services(a, token),
            await register(a, token, 'after'),
            await services(b, token),
            await services(a, token),
          ];
          for (const [i, { status, body }] of answers.entries())
            if (status >= 500 || (status === 200 && i !== 2 && body?.summary?.total_services === undefined))
              faults.push(`${what}: ${status} ${JSON.stringify(body).slice(0, 100)}`);
          await redis.client.flushall();
        }
        expect(faults).toEqual([]);
        const tokens = await tokensOf(newOrg(), 2);
        await undisturbed(both, async () =>
          expectShared(await hammer(both, tokens, () => sleep(2500)), limits.query),
        );
      },
    );

    test('a Redis that takes no writes, or wants a password, is as one that is not there', async () => {
      const tokens = await tokensOf(newOrg(), 2);
      await redis.client.config('SET', 'maxmemory', '1');
      expectLocal(await hammer(both, tokens, () => sleep(3000)), 0);
      await redis.kill();
      await redis.start('--requirepass', 'something');
      expectLocal(await hammer(both, tokens, () => sleep(3000)), 0);
      await redis.kill();
      await redis.start();
    });

    const others: [string, () => Promise<string>][] = [
      ['there is no such host', async () => 'redis://no-such-host.invalid'],
      ['it is not Redis', async () => `redis://127.0.0.1:${new URL(a.url).port}`],
    ];
    test.each<[string, () => Promise<string>]>([
      ['nobody listens', async () => `redis://127.0.0.1:${await freePort()}`],
      ['something hangs', hungUrl],
      ...(isSoak ? others : []),
    ])('a process starts, and limits, where %s', async (_, url) => {
      const alone = await start({ REDIS_URL: await url() });
      try {
        const tokens = await tokensOf(newOrg(), 2);
        const hammered = await hammer([alone], tokens, () => sleep(2500));
        expect([...new Set(hammered.answers.map(({ status }) => status))].sort()).toEqual([200, 429]);
        expect(passed(hammered).length).toBeLessThanOrEqual(
          limits.query * (Math.floor(hammered.seconds) + 1),
        );
        expect(count(alone, there)).toBe(0);
        expect(count(alone, gone)).toBe(1);
      } finally {
        expect(await alone.stop()).toBe(0);
      }
    });
  },
);
