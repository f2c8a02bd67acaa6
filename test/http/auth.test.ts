// Who may ask what: tokens, roles, and that one org never sees another.
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { useApi } from '../support/api.ts';
import { jwtSecret, signToken } from '../support/process.ts';

const api = useApi({ JWT_ISSUER: 'https://issuer.test', JWT_AUDIENCE: 'observability' });
const good = { iss: 'https://issuer.test', aud: 'observability' };

const list = (token: string | null, headers = {}) => api.call('GET', '/api/v1/metrics', { token, headers });
const secret = new TextEncoder().encode(jwtSecret);
const base64 = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');

test('a good token is let in', async () => {
  expect((await list(await signToken(good))).status).toBe(200);
});

describe('401', () => {
  const claims = { sub: 'x', org_id: 'acme', role: 'admin', ...good };
  const in1h = Math.floor(Date.now() / 1000) + 3600;
  const tokens: [string, () => Promise<string> | string][] = [
    ['nonsense', () => 'abc'],
    ['three parts of nonsense', () => 'a.b.c'],
    [
      'another secret',
      () =>
        new SignJWT(claims)
          .setProtectedHeader({ alg: 'HS256' })
          .sign(new TextEncoder().encode('z'.repeat(32))),
    ],
    ['no signature and alg none', () => `${base64({ alg: 'none' })}.${base64({ ...claims, exp: in1h })}.`],
    ['alg HS512', () => new SignJWT(claims).setProtectedHeader({ alg: 'HS512' }).sign(secret)],
    ['an expiry in the past', () => signToken({ ...good, exp: 1 })],
    [
      'a start in the future',
      () => new SignJWT(claims).setProtectedHeader({ alg: 'HS256' }).setNotBefore('1h').sign(secret),
    ],
    ['another issuer', () => signToken({ ...good, iss: 'https://evil.test' })],
    ['no issuer', () => signToken({ aud: good.aud })],
    ['another audience', () => signToken({ ...good, aud: 'billing' })],
    ['no org', () => signToken({ ...good, org_id: undefined })],
    ['an empty org', () => signToken({ ...good, org_id: '' })],
    ['an org with a NUL', () => signToken({ ...good, org_id: 'a\0b' })],
    ['an org in a list', () => signToken({ ...good, org_id: ['acme'] })],
    [
      'no subject',
      () => new SignJWT({ ...claims, sub: undefined }).setProtectedHeader({ alg: 'HS256' }).sign(secret),
    ],
  ];
  test.each(tokens)('for a token with %s', async (_, make) => {
    const answer = await list(await make());
    expect([answer.status, answer.body.code, answer.headers.get('WWW-Authenticate')]).toEqual([
      401,
      'unauthorized',
      'Bearer',
    ]);
  });

  test('without a token, or with another scheme', async () => {
    expect((await list(null)).status).toBe(401);
    expect((await list(null, { Authorization: 'Basic YTpi' })).status).toBe(401);
    expect((await list(null, { Authorization: 'Bearer ' })).status).toBe(401);
  });

  test('once a token that was good has expired', async () => {
    const token = await new SignJWT({ ...claims })
      .setProtectedHeader({ alg: 'HS256' })
      .setExpirationTime('-3s')
      .sign(secret);
    // Within the tolerance of 5 s for clocks that differ.
    expect((await list(token)).status).toBe(200);
    await new Promise((resolve) => setTimeout(resolve, 3100));
    expect((await list(token)).status).toBe(401);
  });

  test('comes before a complaint about the body', async () => {
    expect((await api.call('POST', '/api/v1/metrics', { token: null, body: 'x' })).status).toBe(401);
  });
});

describe('roles', () => {
  const calls: [string, string, unknown][] = [
    ['GET', '/api/v1/metrics', undefined],
    ['POST', '/api/v1/metrics/query', { metric_name: 'x', start_time: 1, end_time: Date.now() }],
    ['POST', '/api/v1/metrics', { name: 'role', value: 1 }],
    ['POST', '/api/v1/metrics/batch', { metrics: [{ name: 'role', value: 1 }] }],
  ];
  test.each<[string, Record<string, unknown>, number[]]>([
    ['viewer', { role: 'viewer' }, [200, 200, 403, 403]],
    ['ingest', { role: 'ingest' }, [403, 403, 201, 201]],
    ['operator', { role: 'operator' }, [200, 200, 201, 201]],
    ['admin', { role: 'admin' }, [200, 200, 201, 201]],
    ['viewer and ingest in a list', { role: undefined, roles: ['viewer', 'ingest'] }, [200, 200, 201, 201]],
    ['none', { role: undefined }, [403, 403, 403, 403]],
    ['one we do not know', { role: 'superuser' }, [403, 403, 403, 403]],
    ['a name of Object.prototype', { role: 'constructor' }, [403, 403, 403, 403]],
  ])('%s', async (_, claims, expected) => {
    const token = await signToken({ ...good, ...claims });
    const statuses = [];
    for (const [method, path, body] of calls)
      statuses.push((await api.call(method, path, { token, body })).status);
    expect(statuses).toEqual(expected);
  });

  test('403 comes before a complaint about the body', async () => {
    const token = await signToken({ ...good, role: 'viewer' });
    expect((await api.call('POST', '/api/v1/metrics', { token, body: '{' })).status).toBe(403);
  });
});

test('an org sees nothing of another', async () => {
  const mine = await signToken({ ...good, org_id: 'mine' });
  const theirs = await signToken({ ...good, org_id: 'theirs' });
  await api.call('POST', '/api/v1/metrics', { token: mine, body: { name: 'secret', value: 42 } });
  expect((await list(theirs)).body.metrics).toEqual([]);
  const body = { metric_name: 'secret', start_time: Date.now() - 60_000, end_time: Date.now() + 60_000 };
  expect((await api.call('POST', '/api/v1/metrics/query', { token: theirs, body })).body.series).toEqual([]);
  expect((await api.call('POST', '/api/v1/metrics/query', { token: mine, body })).body.series).toHaveLength(
    1,
  );
});

describe('a key set', () => {
  let keys: Awaited<ReturnType<typeof generateKeyPair>>;
  let jwks: Server;
  const env: Record<string, string> = {};

  // Before useApi below reads it.
  beforeAll(async () => {
    keys = await generateKeyPair('RS256', { extractable: true });
    const jwk = { ...(await exportJWK(keys.publicKey)), kid: 'k1', alg: 'RS256' };
    jwks = createServer((_, response) => response.end(JSON.stringify({ keys: [jwk] }))).listen(
      0,
      '127.0.0.1',
    );
    await new Promise((resolve) => jwks.once('listening', resolve));
    env.JWT_JWKS_URL = `http://127.0.0.1:${(jwks.address() as AddressInfo).port}`;
  });
  const keyed = useApi(env);
  afterAll(() => {
    jwks.close();
  });

  const sign = (claims: Record<string, unknown>, kid = 'k1') =>
    new SignJWT({ org_id: 'acme', role: 'viewer', ...claims })
      .setProtectedHeader({ alg: 'RS256', kid })
      .setSubject('x')
      .setExpirationTime('1h')
      .sign(keys.privateKey);

  test('verifies asymmetric tokens, beside those of the secret', async () => {
    expect((await keyed.call('GET', '/api/v1/metrics', { token: await sign({}) })).status).toBe(200);
    expect((await keyed.call('GET', '/api/v1/metrics', { token: await signToken() })).status).toBe(200);
  });

  test('refuses a key it does not have, and a public key taken for a secret', async () => {
    expect((await keyed.call('GET', '/api/v1/metrics', { token: await sign({}, 'k2') })).status).toBe(401);
    const publicKey = JSON.stringify(await exportJWK(keys.publicKey));
    const confused = await new SignJWT({ org_id: 'acme', role: 'admin' })
      .setProtectedHeader({ alg: 'HS256', kid: 'k1' })
      .setSubject('x')
      .sign(new TextEncoder().encode(publicKey));
    expect((await keyed.call('GET', '/api/v1/metrics', { token: confused })).status).toBe(401);
  });

  test('that cannot be fetched is a 503, and no reason to let anyone in', async () => {
    const token = await sign({ sub: 'later' }, 'k3');
    await new Promise((resolve) => {
      jwks.closeAllConnections();
      jwks.close(resolve);
    });
    await new Promise((resolve) => setTimeout(resolve, 5_100));
    expect((await keyed.call('GET', '/api/v1/metrics', { token })).status).toBe(503);
  });
});
