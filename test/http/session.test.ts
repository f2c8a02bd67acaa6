// The session of a browser: signing in with a token, what the cookie is good for, and what another site's page cannot do with it.
import { describe, expect, test } from 'vitest';
import { useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';

const api = useApi();
const own = () => ({ Origin: api.url });
const signIn = (token: string, headers: Record<string, string> = own(), next = '/') =>
  fetch(`${api.url}/signin`, {
    method: 'POST',
    redirect: 'manual',
    headers,
    body: new URLSearchParams({ token, next }),
  });
const cookieOf = (answer: Response) => answer.headers.get('Set-Cookie')?.split(';')[0] ?? '';
const sessionOf = async (claims = {}) => ({ Cookie: cookieOf(await signIn(await signToken(claims))) });
const get = (path: string, headers: Record<string, string> = {}) =>
  fetch(api.url + path, { headers, redirect: 'manual' });

describe('signing in', () => {
  test('with a token gives a cookie that no script can read, that goes to no other site, and ends with the token', async () => {
    const answer = await signIn(await signToken());
    expect([answer.status, answer.headers.get('Location')]).toEqual([303, '/']);
    const cookie = answer.headers.get('Set-Cookie')!;
    expect(cookie).toMatch(/; HttpOnly/);
    expect(cookie).toMatch(/; SameSite=Lax/);
    expect(cookie).toMatch(/; Path=\//);
    const maxAge = Number(/Max-Age=(\d+)/.exec(cookie)![1]);
    expect(maxAge).toBeGreaterThan(3500);
    expect(maxAge).toBeLessThanOrEqual(3606);
  });

  test.each([
    ['', 'A token is required.'],
    ['rubbish', 'The token is not valid.'],
    [`obs_${'0'.repeat(72)}`, 'The token is not valid.'],
    ['x'.repeat(4000), 'The token is longer than 3800 characters'],
  ])('with %s is refused, and the page says why', async (token, why) => {
    const answer = await signIn(token);
    expect(answer.status).toBe(401);
    expect(await answer.text()).toContain(why);
    expect(answer.headers.get('Set-Cookie')).toBeNull();
  });

  test('leads back to where one was, and to no other site', async () => {
    const token = await signToken();
    for (const [next, location] of [
      ['/logs?q=x', '/logs?q=x'],
      ['//evil.test/', '/'],
      ['/\\evil.test/', '/'],
      ['https://evil.test/', '/'],
      ['/\t/evil.test/', '/'],
      ['/.//evil.test/', '/'],
      ['not a path', '/not%20a%20path'],
    ] as const)
      expect((await signIn(token, own(), next)).headers.get('Location')).toBe(location);
  });

  test('takes a form, and none that is larger than a token', async () => {
    const post = (body: URLSearchParams | FormData | string) =>
      fetch(`${api.url}/signin`, { method: 'POST', redirect: 'manual', headers: own(), body });
    expect((await post(new URLSearchParams({ token: 'x'.repeat(20_000) }))).status).toBe(413);
    const chunks = new ReadableStream({
      pull(controller) {
        controller.enqueue(Buffer.alloc(65_536, 'x'));
      },
    });
    const endless = await fetch(`${api.url}/signin`, {
      method: 'POST',
      headers: own(),
      body: chunks,
      duplex: 'half',
    } as RequestInit).catch((error) => error);
    // Refused; the connection may be closed before the answer is read.
    if (endless instanceof Response) expect(endless.status).toBe(413);
    const multipart = new FormData();
    multipart.set('token', await signToken());
    expect((await post(multipart)).status).toBe(401);
    expect((await post('%%%')).status).toBe(401);
  });

  test('by a link happens at once for who was not sent by another site, and else when asked for', async () => {
    for (const [site, isAtOnce] of [
      ['none', true],
      ['same-origin', true],
      ['same-site', false],
      ['cross-site', false],
      [undefined, false],
    ] as const) {
      const page = await (await get('/signin', site ? { 'Sec-Fetch-Site': site } : {})).text();
      expect(page.includes('data-at-once'), site).toBe(isAtOnce);
    }
  });

  test('by a page of another site is refused', async () => {
    const token = await signToken();
    for (const headers of [
      { Origin: 'https://evil.test' },
      { 'Sec-Fetch-Site': 'cross-site', ...own() },
      {},
    ] as Record<string, string>[])
      expect((await signIn(token, headers)).status).toBe(403);
  });
});

describe('a session', () => {
  test('reads what its token may, and pages show it', async () => {
    const session = await sessionOf({ org_id: 'browser', role: 'viewer' });
    expect((await get('/api/v1/overview', session)).status).toBe(200);
    expect((await get('/api/v1/tokens', session)).status).toBe(403);
    const page = await get('/', session);
    expect(page.status).toBe(200);
    expect(await page.text()).toContain('<span class="org">browser</span>');
  });

  test('changes things for pages of this service, and for those of no other', async () => {
    const session = await sessionOf({ org_id: 'changed' });
    const post = (headers: Record<string, string>) =>
      fetch(`${api.url}/api/v1/alerts`, {
        method: 'POST',
        headers: { ...session, 'Content-Type': 'application/json', ...headers },
        body: JSON.stringify({ name: `by ${JSON.stringify(headers)}`, severity: 'info' }),
      });
    expect((await post(own())).status).toBe(201);
    expect((await post({ 'Sec-Fetch-Site': 'same-origin' })).status).toBe(201);
    for (const headers of [
      {},
      { Origin: 'https://evil.test' },
      { Origin: 'null' },
      { 'Sec-Fetch-Site': 'same-site', ...own() },
      { 'Sec-Fetch-Site': 'cross-site' },
    ] as Record<string, string>[]) {
      const answer = await post(headers);
      expect([answer.status, ((await answer.json()) as { code: string }).code]).toEqual([403, 'cross_site']);
    }
  });

  test('counts for nothing beside an Authorization header', async () => {
    const session = await sessionOf();
    expect((await get('/api/v1/overview', { ...session, Authorization: 'Bearer rubbish' })).status).toBe(401);
    expect((await get('/api/v1/overview', { ...session, Authorization: '' })).status).toBe(401);
  });

  test('ends when one signs out', async () => {
    const session = await sessionOf();
    const answer = await fetch(`${api.url}/signout`, {
      method: 'POST',
      redirect: 'manual',
      headers: { ...session, ...own() },
    });
    expect(answer.status).toBe(303);
    expect(answer.headers.get('Set-Cookie')).toMatch(/^obs_session=;.*Max-Age=0/);
    const crossSite = await fetch(`${api.url}/signout`, {
      method: 'POST',
      redirect: 'manual',
      headers: session,
    });
    expect(crossSite.status).toBe(403);
  });

  test('ends with its token: the page asks to sign in again', async () => {
    const made = await api.call('POST', '/api/v1/tokens', { body: { name: 'browser', role: 'viewer' } });
    const session = { Cookie: cookieOf(await signIn(made.body.token)) };
    expect(await (await get('/', session)).text()).toContain('Sign out');
    await api.call('POST', `/api/v1/tokens/${made.body.id}/revoke`);
    const page = await get('/alerts?status=firing', session);
    expect([page.status, page.headers.get('Set-Cookie')]).toEqual([
      200,
      expect.stringContaining('Max-Age=0'),
    ]);
    const text = await page.text();
    expect(text).toContain('The token is revoked.');
    expect(text).toContain('value="/alerts?status=firing"');
  });
});

describe('pages', () => {
  test('are a page to sign in for who is not', async () => {
    for (const path of ['/', '/alerts', '/services/x', '/admin', '/dashboards/x']) {
      const page = await get(path);
      expect(page.status).toBe(200);
      expect(await page.text()).toContain('action="/signin"');
    }
  });

  test('load nothing from anywhere else, and no script that is written into them', async () => {
    const session = await sessionOf();
    for (const path of ['/', '/explore', '/logs', '/alerts', '/rules/new', '/dashboards', '/admin']) {
      const page = await get(path, session);
      expect(page.headers.get('Content-Security-Policy')).toContain("script-src 'self';");
      expect(page.headers.get('Cache-Control')).toBe('no-store');
      const text = await page.text();
      for (const [, url] of text.matchAll(/(?:src|href)="([^"]*)"/g))
        expect(url).toMatch(/^(\/|#|\?|data:image)/);
      expect(text).not.toMatch(/<script(?![^>]* src=)|\son\w+=|style="/);
    }
  });

  test('escape what others have written', async () => {
    const evil = '<img src=x onerror=alert(1)>"\'&';
    await api.call('POST', '/api/v1/alerts', {
      body: { name: evil, severity: 'info', description: evil, labels: { evil } },
    });
    await api.call('POST', '/api/v1/logs', {
      body: { service_name: evil, level: 'info', message: `${evil} evil`, metadata: { evil } },
    });
    await api.call('POST', '/api/v1/metrics', {
      body: { name: 'response_time_ms', value: 1, service_name: evil, labels: { evil } },
    });
    await api.call('POST', '/api/v1/dashboards', {
      body: { name: evil, description: evil, panels: [{ type: 'metric', title: evil, metric_name: evil }] },
    });
    const session = await sessionOf();
    const [{ id }] = (await api.call('GET', '/api/v1/dashboards')).body.dashboards;
    const [alert] = (await api.call('GET', '/api/v1/alerts')).body.alerts;
    for (const path of [
      '/',
      '/alerts',
      `/alerts/${alert.id}`,
      '/logs?q=evil',
      `/services/${encodeURIComponent(evil)}`,
      '/explore?metric_name=response_time_ms',
      `/explore?metric_name=${encodeURIComponent(evil)}&labels=${encodeURIComponent(evil)}&service_name=${encodeURIComponent(evil)}`,
      '/dashboards',
      `/dashboards/${id}?edit=on`,
      `/logs?service=${encodeURIComponent(evil)}&q=${encodeURIComponent(evil)}`,
    ]) {
      const page = await get(path, session);
      const text = await page.text();
      expect([path, page.status]).toEqual([path, 200]);
      expect(text).not.toContain('<img');
    }
  });

  test('say that there is no such thing', async () => {
    const session = await sessionOf();
    const id = '00000000-0000-4000-8000-000000000000';
    for (const path of [
      `/alerts/${id}`,
      `/rules/${id}`,
      `/dashboards/${id}`,
      '/logs/x/1-1',
      '/status/none',
      '/assets/x/style.css',
    ])
      expect([path, (await get(path, session)).status]).toEqual([path, 404]);
  });

  test('and what they load is less than 150 kB compressed, and is kept', async () => {
    const { allAssets, assetPath } = await import('../../src/web/assets.ts');
    let size = 0;
    for (const file of allAssets.keys()) {
      const answer = await get(`${assetPath}/${file}`, { 'Accept-Encoding': 'gzip' });
      expect(answer.headers.get('Cache-Control')).toContain('immutable');
      const { gzipSync } = await import('node:zlib');
      size += gzipSync(await answer.text()).length;
    }
    expect(size).toBeLessThan(150_000);
  });
});
