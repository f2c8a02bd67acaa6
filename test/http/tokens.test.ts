// API tokens: what they let in, how they end, and that nobody gets more by them than they have.
import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';

const api = useApi();
const tokens = '/api/v1/tokens';

let made = 0;
async function make(more: object = {}, token?: string) {
  const body = { name: `token ${made++}`, role: 'viewer', ...more };
  return api.call('POST', tokens, { body, ...(token ? { token } : {}) });
}
const statusOf = async (token: string, method = 'GET', path = '/api/v1/metrics', body?: object) =>
  (await api.call(method, path, { token, body })).status;

test('a token is shown once, is stored as its hash alone, and lets in', async () => {
  const { status, body } = await make({ name: 'collector' });
  expect(status).toBe(201);
  expect(body.token).toMatch(/^obs_[0-9a-f]{72}$/);
  expect(body.prefix).toBe(body.token.slice(0, 12));
  expect(body).toMatchObject({
    name: 'collector',
    role: 'viewer',
    permissions: null,
    expires_at: null,
    revoked_at: null,
  });
  const { token, ...shown } = body;
  expect((await api.call('GET', `${tokens}/${body.id}`)).body).toEqual(shown);
  expect((await api.call('GET', tokens)).body.tokens[0]).toEqual(shown);
  const [row] = await api.sql`select t::text as text, hash from obs.api_token t where id = ${body.id}`;
  expect(row!.hash).toEqual(createHash('sha256').update(token).digest());
  expect(row!.text).not.toContain(token.slice(12));
  expect(await statusOf(token)).toBe(200);
});

test.each([
  [{}, 'name'],
  [{ name: '', role: 'viewer' }, 'name'],
  [{ name: 'x', role: 'root' }, 'role'],
  [{ name: 'x', role: 'viewer', permissions: ['metrics:everything'] }, 'permissions[0]'],
  [{ name: 'x', role: 'viewer', permissions: [] }, 'permissions'],
  [{ name: 'x', role: 'viewer', expires_at: '2020-01-01T00:00:00Z' }, 'expires_at'],
  [{ name: 'x', role: 'viewer', expires_at: 'soon' }, 'expires_at'],
  [{ name: 'x', role: 'viewer', org_id: 'other' }, 'org_id'],
])('%j is refused', async (body, path) => {
  const answer = await api.call('POST', tokens, { body });
  expect([answer.status, answer.body.errors[0].path]).toEqual([400, path]);
});

test.each([
  ['viewer', null, [200, 403, 403, 403]],
  ['ingest', null, [403, 201, 403, 403]],
  ['operator', null, [200, 201, 200, 403]],
  ['admin', null, [200, 201, 200, 200]],
  ['admin', ['metrics:write'], [403, 201, 403, 403]],
  ['viewer', ['metrics:read', 'metrics:write'], [200, 403, 403, 403]],
  ['operator', ['services:read', 'org:read'], [403, 403, 200, 403]],
] as const)('%s with %j', async (role, permissions, expected) => {
  const { body } = await make({ role, permissions });
  // The same of a JWT, whose list may hold names that are not known.
  const jwt = await signToken({
    role,
    ...(permissions ? { permissions: [...permissions, 'everything'] } : {}),
  });
  for (const token of [body.token, jwt]) {
    expect([
      await statusOf(token),
      await statusOf(token, 'POST', '/api/v1/metrics', { name: 'm', value: 1 }),
      await statusOf(
        token,
        'GET',
        role === 'viewer' || role === 'ingest' ? '/api/v1/services/export' : '/api/v1/services',
      ),
      await statusOf(token, 'GET', '/api/v1/org'),
    ]).toEqual(expected);
  }
});

test('a JWT without a role may nothing, whatever its permissions', async () => {
  expect(await statusOf(await signToken({ role: undefined, permissions: ['metrics:read'] }))).toBe(403);
});

describe('the end of a token', () => {
  test('revoked, it lets nobody in from then on, and stays to be seen', async () => {
    const { body } = await make();
    expect(await statusOf(body.token)).toBe(200);
    const revoked = await api.call('POST', `${tokens}/${body.id}/revoke`);
    expect(revoked.body).toMatchObject({ revoked_by: 'tester', revoked_at: expect.any(String) });
    expect(await statusOf(body.token)).toBe(401);
    expect((await api.call('GET', `${tokens}/${body.id}`)).body).toEqual(revoked.body);
    const again = await api.call('PATCH', `${tokens}/${body.id}`, { body: { expires_at: null } });
    expect([again.status, again.body.code]).toEqual([409, 'token_revoked']);
    // Its name is free.
    expect((await make({ name: body.name })).status).toBe(201);
  });

  test('deleted, it is gone', async () => {
    const { body } = await make();
    expect(await statusOf(body.token)).toBe(200);
    expect((await api.call('DELETE', `${tokens}/${body.id}`)).status).toBe(204);
    expect(await statusOf(body.token)).toBe(401);
    for (const [method, path] of [
      ['GET', ''],
      ['DELETE', ''],
      ['POST', '/revoke'],
    ] as const)
      expect((await api.call(method, `${tokens}/${body.id}${path}`)).status).toBe(404);
  });

  test('in the middle of requests, none fails otherwise than for the token', async () => {
    const { body } = await make();
    const statuses = new Set<number>();
    let isOver = false;
    const using = Array.from({ length: 8 }, async () => {
      while (!isOver) statuses.add(await statusOf(body.token));
    });
    for (let i = 0; i < 10; i++)
      await api.call('PATCH', `${tokens}/${body.id}`, { body: { name: `${body.name} ${i}` } });
    expect([...statuses]).toEqual([200]);
    await api.call('POST', `${tokens}/${body.id}/revoke`);
    await expect.poll(() => statuses.has(401)).toBe(true);
    isOver = true;
    await Promise.all(using);
    expect([...statuses].sort()).toEqual([200, 401]);
  });

  test('comes when it expires', async () => {
    const { body } = await make({ expires_at: new Date(Date.now() + 1500).toISOString() });
    expect(await statusOf(body.token)).toBe(200);
    await expect.poll(() => statusOf(body.token), { timeout: 10_000 }).toBe(401);
    const later = await api.call('PATCH', `${tokens}/${body.id}`, { body: { expires_at: null } });
    expect(later.body.expires_at).toBe(null);
    expect(await statusOf(body.token)).toBe(200);
  });
});

test.each([
  ['cut short', (token: string) => token.slice(0, -1)],
  ['mistyped', (token: string) => token.replace(/.$/, (c) => (c === '0' ? '1' : '0'))],
  ['in capitals', (token: string) => token.toUpperCase()],
  ['its prefix', (token: string) => token.slice(0, 12)],
])('a token %s is none', async (_, change) => {
  expect(await statusOf(change((await make()).body.token))).toBe(401);
});

test('names are taken while their token lives', async () => {
  const results = await Promise.all(Array.from({ length: 5 }, () => make({ name: 'at once' })));
  expect(results.map(({ status }) => status).sort()).toEqual([201, 409, 409, 409, 409]);
  expect(results.find(({ status }) => status === 409)!.body.code).toBe('name_taken');
});

test('when and from where a token was used is told', async () => {
  const { body } = await make();
  await statusOf(body.token);
  const seen = async () => (await api.call('GET', `${tokens}/${body.id}`)).body;
  await expect.poll(async () => (await seen()).last_used_at, { timeout: 15_000 }).not.toBe(null);
  expect((await seen()).last_used_address).toMatch(/127\.0\.0\.1$/);
});

test('pages hold each token once', async () => {
  const token = await signToken({ org_id: 'paged' });
  for (let i = 0; i < 7; i++) await make({}, token);
  const names: string[] = [];
  let cursor: string | null = null;
  do {
    const path: string = `${tokens}?limit=3${cursor ? `&cursor=${cursor}` : ''}`;
    const { body } = await api.call('GET', path, { token });
    names.push(...body.tokens.map(({ name }: { name: string }) => name));
    cursor = body.next_cursor;
  } while (cursor);
  expect(new Set(names).size).toBe(7);
  expect(names).toHaveLength(7);
});

describe('who may make tokens', () => {
  const narrow = () => signToken({ permissions: ['tokens:read', 'tokens:write', 'metrics:read'] });

  test('makes none that may more than they', async () => {
    const token = await narrow();
    expect((await make({ role: 'admin' }, token)).body.errors[0].path).toBe('role');
    expect((await make({ role: 'viewer' }, token)).status).toBe(403);
    expect((await make({ role: 'admin', permissions: ['metrics:write'] }, token)).body.errors[0].path).toBe(
      'permissions',
    );
    expect((await make({ role: 'viewer', permissions: ['metrics:read'] }, token)).status).toBe(201);
  });

  test('widens none, and changes none that may more', async () => {
    const token = await narrow();
    const { body: weak } = await make({ role: 'viewer', permissions: ['metrics:read'] }, token);
    const { body: strong } = await make({
      role: 'admin',
      expires_at: new Date(Date.now() + 60_000).toISOString(),
    });
    const patch = (id: string, body: object) => api.call('PATCH', `${tokens}/${id}`, { token, body });
    for (const [id, body] of [
      [weak.id, { permissions: null }],
      [weak.id, { role: 'admin', permissions: ['metrics:write'] }],
      [weak.id, { permissions: ['logs:read'] }],
      [strong.id, { expires_at: null }],
      [strong.id, { name: 'mine' }],
      [strong.id, { role: 'viewer', permissions: ['metrics:read'] }],
    ] as const)
      expect((await patch(id, body)).status, JSON.stringify(body)).toBe(403);
    expect((await patch(weak.id, { name: 'weak' })).status).toBe(200);
  });

  test('are admins', async () => {
    for (const role of ['viewer', 'ingest', 'operator']) {
      const token = await signToken({ role });
      expect((await make({}, token)).status).toBe(403);
      expect((await api.call('GET', tokens, { token })).status).toBe(403);
    }
  });
});

test('two changes at once of a token make no more of it than each of them may', async () => {
  const token = await signToken({ permissions: ['tokens:read', 'tokens:write', 'metrics:read'] });
  for (let i = 0; i < 20; i++) {
    const { body } = await make({ role: 'viewer', permissions: ['metrics:read'] }, token);
    const patch = (fields: object) => api.call('PATCH', `${tokens}/${body.id}`, { token, body: fields });
    await Promise.all([patch({ role: 'admin' }), patch({ permissions: ['org:write', 'tokens:write'] })]);
    expect(await statusOf(body.token, 'GET', '/api/v1/org')).toBe(403);
    expect(await statusOf(body.token, 'PATCH', '/api/v1/org', {})).toBe(403);
  }
});

test('a token goes with its org: of the one that comes after an erasure it is not', async () => {
  const org_id = 'phoenix';
  const { body } = await make({ role: 'admin' }, await signToken({ org_id }));
  const call = (method: string, path: string, more: object = {}) =>
    api.call(method, path, { token: body.token, ...more });
  expect((await call('POST', '/api/v1/org/erasures', { body: { confirm: org_id } })).status).toBe(202);
  expect((await call('GET', '/api/v1/org/erasures')).status).toBe(200);
  await api.sql`select job.erase_next(now() + interval '1 minute')`;
  await call('GET', '/api/v1/org/erasures');
  expect((await call('POST', tokens, { body: { name: 'successor', role: 'admin' } })).status).not.toBe(201);
  await expect.poll(() => statusOf(body.token), { timeout: 8000 }).toBe(401);
  expect(await statusOf(await signToken({ org_id }))).toBe(200);
  expect(await statusOf(body.token)).toBe(401);
});
