// Keys of an issuer that come, go and cannot be had. Of the clocks Date and performance alone are moved: what waits for the network waits in earnest.
import { createServer, type Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { exportJWK, generateKeyPair, type JWK, SignJWT } from 'jose';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { type TestApi, useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';

interface Key {
  kid: string;
  jwk: JWK;
  sign(
    claims?: Record<string, unknown>,
    header?: { kid?: string | undefined; alg?: string },
  ): Promise<string>;
}

let signed = 0;

async function newKey(kid: string, alg = 'ES256'): Promise<Key> {
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
  return {
    kid,
    jwk: { ...(await exportJWK(publicKey)), kid, alg, use: 'sig' },
    sign: (claims = {}, header = {}) =>
      new SignJWT({ org_id: 'acme', role: 'viewer', jti: String(++signed), ...claims })
        .setProtectedHeader({ alg, kid, ...header })
        .setSubject('x')
        .setExpirationTime('10h')
        .sign(privateKey),
  };
}

interface Issuer {
  keys: JWK[];
  /** What it answers instead of its keys, if anything. */
  instead: { status: number; body: string } | 'nothing' | undefined;
  /** How often it was asked. */
  asked: number;
  close(): Promise<void>;
  open(): Promise<void>;
}

let keys: { one: Key; two: Key; rsa: Key; other: Key };
beforeAll(async () => {
  const [one, two, rsa, other] = await Promise.all([
    newKey('k1'),
    newKey('k2'),
    newKey('r1', 'RS256'),
    newKey('r2', 'RS256'),
  ]);
  keys = { one: one!, two: two!, rsa: rsa!, other: other! };
});

// Once: a clock that goes back would tell nothing.
beforeAll(() => {
  vi.useFakeTimers({ toFake: ['Date', 'performance'], now: Date.now() });
});
afterAll(() => {
  vi.useRealTimers();
});

/** An issuer with a key set, and the API that goes by it. */
function useIssuer(first: () => Key[], more: Record<string, string> = {}): { issuer: Issuer; api: TestApi } {
  const issuer = { keys: [], instead: undefined, asked: 0 } as unknown as Issuer;
  const env = { ...more };
  let server: Server;
  let port = 0;
  const sockets = new Set<Socket>();
  issuer.open = async () => {
    server = createServer((_, response) => {
      issuer.asked++;
      if (issuer.instead === 'nothing') return;
      response.statusCode = issuer.instead?.status ?? 200;
      response.setHeader('Content-Type', 'application/json');
      response.end(issuer.instead?.body ?? JSON.stringify({ keys: issuer.keys }));
    });
    server.on('connection', (socket) => {
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
    });
    server.listen(port, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    port = (server.address() as AddressInfo).port;
  };
  issuer.close = async () => {
    const closed = new Promise((resolve) => server.close(resolve));
    for (const socket of sockets) socket.destroy();
    await closed;
  };
  // Before useApi below reads it.
  beforeAll(async () => {
    issuer.keys = first().map(({ jwk }) => jwk);
    await issuer.open();
    env.JWT_JWKS_URL = `http://127.0.0.1:${port}/keys`;
  });
  const api = useApi(env);
  afterAll(() => issuer.close());
  return { issuer, api };
}

async function status(api: TestApi, token: string): Promise<number> {
  return (await api.call('GET', '/api/v1/metrics', { token })).status;
}

/** Time passes, and what it sets going has its turn. */
async function pass(seconds: number) {
  vi.advanceTimersByTime(seconds * 1000);
  await sleep(20);
}

/** A token in use: every five seconds. */
async function keepUsing(api: TestApi, token: string, seconds: number) {
  for (let i = 0; i < seconds / 5; i++) {
    await pass(5);
    await status(api, token);
  }
}

/** The clocks stand still, so that it is no later when what was set going is done. */
async function expectRefused(api: TestApi, token: string) {
  await expect.poll(() => status(api, token), { timeout: 10_000 }).toBe(401);
  expect(await status(api, token)).toBe(401);
}

describe('a key that is new', () => {
  const { issuer, api } = useIssuer(() => [keys.one]);

  test('is found in the set by its id, for which an issuer is not asked more than every few seconds', async () => {
    expect(await status(api, await keys.one.sign())).toBe(200);
    issuer.keys = [keys.one.jwk, keys.two.jwk];
    const asked = issuer.asked;
    // Anyone can name keys that there are not.
    const unknown = await Promise.all(
      Array.from({ length: 20 }, (_, i) => keys.two.sign({}, { kid: `guess-${i}` })),
    );
    expect(new Set(await Promise.all(unknown.map((token) => status(api, token))))).toEqual(new Set([401]));
    expect(issuer.asked - asked).toBeLessThanOrEqual(1);
    await pass(6);
    expect(await status(api, await keys.two.sign())).toBe(200);
    expect(await status(api, await keys.one.sign())).toBe(200);
    expect(await status(api, await signToken())).toBe(200);
    expect(issuer.asked - asked).toBeLessThanOrEqual(2);
  });

  test('under an id that was another’s replaces it', async () => {
    const forged = await newKey('k1');
    const old = await keys.one.sign();
    issuer.keys = [forged.jwk];
    await keepUsing(api, old, 70);
    await expectRefused(api, old);
    expect(await status(api, await forged.sign())).toBe(200);
  });
});

describe('a key that is withdrawn', () => {
  const { issuer, api } = useIssuer(() => [keys.one, keys.two]);

  beforeEach(async () => {
    issuer.keys = [keys.one.jwk, keys.two.jwk];
    // Fetched just now.
    await pass(61);
    const { asked } = issuer;
    await expect
      .poll(async () => {
        const known = await status(api, await keys.one.sign());
        return known === 200 && issuer.asked > asked;
      })
      .toBe(true);
    await sleep(100);
  });

  test('lets nobody in from about a minute later on, not with a token that is in use either', async () => {
    const used = await keys.one.sign();
    expect(await status(api, used)).toBe(200);
    issuer.keys = [keys.two.jwk];
    await keepUsing(api, used, 70);
    await expectRefused(api, used);
    expect(await status(api, await keys.one.sign())).toBe(401);
    expect(await status(api, await keys.two.sign())).toBe(200);
  });

  test('lets nobody in for another minute that came just before the set is fetched anew', async () => {
    const used = await keys.one.sign();
    issuer.keys = [keys.two.jwk];
    await pass(55);
    expect(await status(api, used)).toBe(200);
    await keepUsing(api, used, 15);
    await expectRefused(api, used);
  });

  test('lets nobody in with a token that comes back after a while', async () => {
    const used = await keys.one.sign();
    expect(await status(api, used)).toBe(200);
    issuer.keys = [keys.two.jwk];
    await pass(3600);
    expect(await status(api, used)).toBe(401);
  });

  test('lets nobody in with a new token, after a while without requests', async () => {
    const [first, second] = [await keys.one.sign(), await keys.one.sign()];
    issuer.keys = [keys.two.jwk];
    await pass(3600);
    expect(await status(api, first)).toBe(401);
    await pass(30);
    expect(await status(api, second)).toBe(401);
  });

  test('nor does any, once the set is empty', async () => {
    const used = await keys.one.sign();
    expect(await status(api, used)).toBe(200);
    issuer.keys = [];
    await keepUsing(api, used, 70);
    await expectRefused(api, used);
    expect(await status(api, await signToken())).toBe(200);
  });
});

describe('an issuer that', () => {
  const { issuer, api } = useIssuer(() => [keys.one]);

  beforeAll(async () => {
    expect(await status(api, await keys.one.sign())).toBe(200);
  });
  afterEach(() => {
    issuer.instead = undefined;
  });

  /** With the keys that are known, for as long as it may take. */
  async function expectKnownKeys() {
    const used = await keys.one.sign();
    for (let i = 0; i < 10; i++) {
      await pass(90);
      expect([await status(api, used), await status(api, await keys.one.sign())]).toEqual([200, 200]);
    }
  }

  test.each([
    ['fails', { status: 500, body: 'no' }],
    ['has moved', { status: 404, body: '{}' }],
    ['answers what is no JSON', { status: 200, body: '<html>' }],
    ['answers what is no key set', { status: 200, body: '{"keys":{"kid":"k1"}}' }],
  ])('%s locks nobody out, and lets nobody else in', async (_, instead) => {
    issuer.instead = instead;
    await expectKnownKeys();
    const asked = issuer.asked;
    expect([401, 503]).toContain(await status(api, await keys.two.sign()));
    expect(issuer.asked).toBeGreaterThanOrEqual(asked);
  });

  test('is away locks nobody out; it is a 503 to whoever has a key that is not known, until it is back', async () => {
    await issuer.close();
    await expectKnownKeys();
    const refused = await api.call('GET', '/api/v1/metrics', { token: await keys.two.sign() });
    expect([refused.status, refused.body.code, refused.headers.get('Retry-After')]).toEqual([
      503,
      'key_set_unavailable',
      '1',
    ]);
    issuer.keys = [keys.one.jwk, keys.two.jwk];
    await issuer.open();
    await pass(6);
    expect(await status(api, await keys.two.sign())).toBe(200);
  });

  test('does not answer keeps nobody waiting for long whose key is known', { timeout: 120_000 }, async () => {
    issuer.instead = 'nothing';
    const began = process.hrtime.bigint();
    await expectKnownKeys();
    // Twenty requests, and a timeout of three seconds: not each has waited for it.
    expect(Number(process.hrtime.bigint() - began) / 1e9).toBeLessThan(50);
  });
});

describe.each([
  ['a token', {}],
  ['without JWT_SECRET a token', { JWT_SECRET: '' }],
])('%s', (_, env) => {
  const secret = Buffer.alloc(32, 7);
  const { issuer, api } = useIssuer(() => [keys.rsa, keys.other], env);
  beforeAll(() => {
    issuer.keys = [
      { ...keys.rsa.jwk },
      { ...keys.other.jwk },
      { kty: 'oct', kid: 'shared', alg: 'HS256', k: secret.toString('base64url') },
      { ...keys.one.jwk, use: 'enc' },
    ];
  });

  test('that names no key is tried with each of its kind, and with no other', async () => {
    for (const key of [keys.rsa, keys.other])
      expect(await status(api, await key.sign({}, { kid: undefined }))).toBe(200);
    const stranger = await newKey('r1', 'RS256');
    expect(await status(api, await stranger.sign({}, { kid: undefined }))).toBe(401);
    expect(await status(api, await stranger.sign())).toBe(401);
    expect(await status(api, await keys.rsa.sign({}, { kid: 'r2' }))).toBe(401);
  });

  test('is not verified with a key of the set that is shared, or for something else', async () => {
    const publicKey = Buffer.from(JSON.stringify(issuer.keys[0]));
    for (const [kid, key] of [
      ['shared', secret],
      [undefined, secret],
      ['r1', publicKey],
    ] as const) {
      const token = await new SignJWT({ org_id: 'acme', role: 'admin' })
        .setProtectedHeader({ alg: 'HS256', kid })
        .setSubject('x')
        .sign(key);
      expect(await status(api, token)).toBe(401);
    }
    expect(await status(api, await keys.one.sign())).toBe(401);
  });
});
