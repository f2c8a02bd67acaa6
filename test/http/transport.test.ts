// What stands around every answer: TLS of the API's own, headers for browsers and caches, who may ask from another page, and whose address it was.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { tmpdir } from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import { generate } from 'selfsigned';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { parseConfig } from '../../src/config.ts';
import { useApi } from '../support/api.ts';
import { useDatabase } from '../support/database.ts';
import { jwtSecret, type Service, signToken, startService } from '../support/process.ts';
import { openEvents } from '../support/sse.ts';

interface Pair {
  cert: string;
  key: string;
}

async function newPair(): Promise<Pair> {
  const { cert, private: key } = await generate([{ name: 'commonName', value: 'localhost' }], {
    keyType: 'ec',
    algorithm: 'sha256',
    extensions: [
      {
        name: 'subjectAltName',
        altNames: [
          { type: 2, value: 'localhost' },
          { type: 7, ip: '127.0.0.1' },
        ],
      },
    ],
  } as never);
  return { cert, key };
}

describe('TLS', () => {
  const database = useDatabase();
  let folder: string;
  let pairs: Pair[];
  let files: { TLS_CERT: string; TLS_KEY: string };
  let service: Service | undefined;
  const agents: https.Agent[] = [];

  beforeAll(async () => {
    pairs = await Promise.all([newPair(), newPair(), newPair()]);
  });
  afterEach(async () => {
    for (const agent of agents.splice(0)) agent.destroy();
    await service?.stop();
    service = undefined;
    rmSync(folder, { recursive: true, force: true });
  });

  function write({ cert, key }: Partial<Pair>) {
    if (cert !== undefined) writeFileSync(files.TLS_CERT, cert);
    if (key !== undefined) writeFileSync(files.TLS_KEY, key);
  }

  function useFolder() {
    folder = mkdtempSync(path.join(tmpdir(), 'obs-tls-'));
    files = { TLS_CERT: path.join(folder, 'cert.pem'), TLS_KEY: path.join(folder, 'key.pem') };
  }

  async function start(pair = pairs[0]!): Promise<number> {
    useFolder();
    write(pair);
    service = await startService('api', { DATABASE_URL: database.url, ...files });
    return Number(new URL(service.url).port);
  }

  interface Answer {
    status: number;
    headers: http.IncomingHttpHeaders;
    body: string;
    /** The client's port, which tells connections apart. */
    from: number;
  }

  function ask(port: number, options: https.RequestOptions & { isPlain?: boolean } = {}): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const { request } = options.isPlain ? http : https;
      request({ host: 'localhost', port, path: '/health/live', timeout: 10_000, ...options }, (answer) => {
        const from = answer.socket.localPort!;
        let body = '';
        answer.on('data', (chunk) => {
          body += chunk;
        });
        answer.on('end', () => resolve({ status: answer.statusCode!, headers: answer.headers, body, from }));
        answer.on('error', reject);
      })
        .on('timeout', function (this: http.ClientRequest) {
          this.destroy(new Error('no answer'));
        })
        .on('error', reject)
        .end();
    });
  }

  const expectNoTls11 = (port: number, { cert }: Pair) =>
    expect(
      ask(port, { ca: cert, minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' }),
    ).rejects.toThrow(/protocol version/i);

  /** The number of the pair that a new connection is shown. */
  async function shownTo(port: number): Promise<number> {
    const socket = tls.connect({ host: 'localhost', port, rejectUnauthorized: false });
    await once(socket, 'secureConnect');
    const { raw } = socket.getPeerCertificate();
    socket.destroy();
    return pairs.findIndex(({ cert }) => certificateOf(cert).equals(raw));
  }
  const certificateOf = (pem: string) => Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ''), 'base64');
  const refusals = () =>
    service!.output().match(/"msg":"the TLS certificate cannot be used, the one before stays"/g)?.length ?? 0;
  const readings = () => service!.output().match(/"msg":"the TLS certificate was read anew"/g)?.length ?? 0;

  test('is spoken with the certificate, and nothing else is', async () => {
    const port = await start();
    const answer = await ask(port, { ca: pairs[0]!.cert });
    expect([answer.status, JSON.parse(answer.body)]).toEqual([200, { status: 'live' }]);
    expect(answer.headers['strict-transport-security']).toBe('max-age=31536000; includeSubDomains');
    // On what is refused as well.
    const refused = await ask(port, { ca: pairs[0]!.cert, path: '/api/v1/metrics' });
    expect([refused.status, refused.headers['strict-transport-security']]).toEqual([
      401,
      'max-age=31536000; includeSubDomains',
    ]);
    await expect(ask(port, { ca: pairs[1]!.cert })).rejects.toThrow(/self-signed certificate/);
    await expect(ask(port, { isPlain: true })).rejects.toThrow(/socket hang up|ECONNRESET|Parse Error/);
    for (const version of ['TLSv1.2', 'TLSv1.3'] as const)
      expect((await ask(port, { ca: pairs[0]!.cert, minVersion: version, maxVersion: version })).status).toBe(
        200,
      );
    await expectNoTls11(port, pairs[0]!);
  });

  test('a certificate that is replaced is shown to new connections, and those that are open go on', async () => {
    const port = await start();
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca: pairs[0]!.cert });
    agents.push(agent);
    const before = await ask(port, { agent });
    const ended = { isEnded: false };
    const stream = https.get(
      {
        host: 'localhost',
        port,
        path: '/api/v1/logs/x/stream',
        ca: pairs[0]!.cert,
        headers: { Authorization: `Bearer ${await signToken()}` },
      },
      (answer) => answer.on('close', () => Object.assign(ended, { isEnded: true })).resume(),
    );
    await once(stream, 'response');

    write(pairs[1]!);
    await expect.poll(() => shownTo(port), { timeout: 20_000, interval: 200 }).toBe(1);
    expect((await ask(port, { ca: pairs[1]!.cert })).status).toBe(200);
    const after = await ask(port, { agent });
    expect([after.status, after.from === before.from, ended.isEnded]).toEqual([200, true, false]);
    // TLS 1.1 has not come back with it.
    await expectNoTls11(port, pairs[1]!);
    stream.destroy();
  });

  test('what is broken, or does not belong together, is logged, and the one before stays', async () => {
    const port = await start();
    const steps: Partial<Pair>[] = [
      { cert: 'garbage' },
      { cert: '' },
      { cert: pairs[1]!.cert },
      { cert: pairs[0]!.cert.slice(0, 200) },
    ];
    for (const step of steps) {
      const count = refusals();
      write(step);
      await expect.poll(refusals, { timeout: 20_000 }).toBeGreaterThan(count);
      expect(await shownTo(port)).toBe(0);
      expect((await ask(port, { ca: pairs[0]!.cert })).status).toBe(200);
    }
    // Neither file there, as for a moment while they are replaced.
    const count = refusals();
    rmSync(files.TLS_KEY);
    await expect.poll(refusals, { timeout: 20_000 }).toBeGreaterThan(count);
    expect(await shownTo(port)).toBe(0);

    write({ cert: pairs[2]!.cert });
    write({ key: pairs[2]!.key });
    await expect.poll(() => shownTo(port), { timeout: 20_000, interval: 200 }).toBe(2);
    // The key is in no line.
    expect(service!.output()).not.toMatch(/PRIVATE KEY/);
  });

  test('files behind a link are read anew when the link leads elsewhere', async () => {
    useFolder();
    const inFolder = (...parts: string[]) => path.join(folder, ...parts);
    for (const [i, pair] of pairs.entries()) {
      writeFileSync(inFolder(`cert-${i}.pem`), pair.cert);
      writeFileSync(inFolder(`key-${i}.pem`), pair.key);
    }
    const linkTo = (i: number) => {
      for (const name of ['cert', 'key']) {
        symlinkSync(`${name}-${i}.pem`, inFolder('next'));
        renameSync(inFolder('next'), inFolder(`${name}.pem`));
      }
    };
    linkTo(0);
    service = await startService('api', { DATABASE_URL: database.url, ...files });
    const port = Number(new URL(service.url).port);
    expect(await shownTo(port)).toBe(0);
    linkTo(1);
    await expect.poll(() => shownTo(port), { timeout: 20_000, interval: 200 }).toBe(1);
    expect(readings()).toBeGreaterThanOrEqual(1);
  });

  test('a process that is told to stop does so, however many connections are open', async () => {
    const port = await start();
    const sockets = Array.from({ length: 3 }, () =>
      tls.connect({ host: 'localhost', port, rejectUnauthorized: false }).on('error', () => {}),
    );
    await Promise.all(sockets.map((socket) => once(socket, 'secureConnect')));
    expect(await service!.stop()).toBe(0);
    service = undefined;
    for (const socket of sockets) socket.destroy();
  });

  const wrong: [string, () => Partial<Pair>, RegExp][] = [
    [
      'a certificate that is none',
      () => ({ cert: 'garbage', key: pairs[0]!.key }),
      /TLS_CERT and TLS_KEY cannot be used: /,
    ],
    [
      'a key that is none',
      () => ({ cert: pairs[0]!.cert, key: 'garbage' }),
      /TLS_CERT and TLS_KEY cannot be used: /,
    ],
    [
      'another one’s key',
      () => ({ cert: pairs[0]!.cert, key: pairs[1]!.key }),
      /TLS_CERT and TLS_KEY cannot be used: .*mismatch/,
    ],
    [
      'no file',
      () => ({ cert: pairs[0]!.cert }),
      /TLS_CERT and TLS_KEY cannot be used: .*(ENOENT|no such file)/,
    ],
  ];
  test.each(wrong)('%s ends the start with 78 and what is wrong', async (_, pair, message) => {
    useFolder();
    write(pair());
    const { code, output } = await startInVain(files);
    expect([code, output]).toEqual([78, expect.stringMatching(message)]);
    expect(output).not.toMatch(/PRIVATE KEY/);
  });

  test.each(['TLS_CERT', 'TLS_KEY'] as const)('%s alone ends the start with 78', async (name) => {
    useFolder();
    write(pairs[0]!);
    const { code, output } = await startInVain({ [name]: files[name] });
    expect([code, output]).toEqual([78, expect.stringMatching(/TLS_(CERT|KEY): is required/)]);
  });

  async function startInVain(env: Record<string, string>) {
    const child = spawn(process.execPath, [path.resolve(import.meta.dirname, '../../src/main.ts')], {
      cwd: '/',
      env: {
        PATH: process.env.PATH,
        JWT_SECRET: jwtSecret,
        PORT: '0',
        HOST: '127.0.0.1',
        DATABASE_URL: database.url,
        ...env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk) => {
        output += chunk;
      });
    const [code] = await once(child, 'close');
    return { code, output };
  }
});

describe('headers', () => {
  const api = useApi({ MAX_BODY_BYTES: '20000', TOKEN_RATE_LIMIT_CHANGE: '1' });
  let viewer: string;
  beforeAll(async () => {
    viewer = await signToken({ role: 'viewer' });
    await api.call('POST', '/api/v1/services/register', {
      body: { service_name: 'a', health_endpoint: 'http://127.0.0.1:9/' },
    });
  });

  const everywhere = {
    'x-content-type-options': 'nosniff',
    'x-frame-options': 'DENY',
    'referrer-policy': 'same-origin',
    'cross-origin-opener-policy': 'same-origin',
    'cross-origin-resource-policy': 'same-origin',
  };
  const nothing = "default-src 'none'; frame-ancestors 'none'";
  const headersOf = (answer: { headers: Headers }) => Object.fromEntries(answer.headers);

  const kinds: [number, string, string, RequestInit & { token?: string | null }][] = [
    [200, 'GET', '/api/v1/metrics', {}],
    [201, 'POST', '/api/v1/metrics', { body: '{"name":"m","value":1}' }],
    [204, 'DELETE', '/api/v1/services/gone', {}],
    [400, 'GET', '/api/v1/metrics?limit=x', {}],
    [401, 'GET', '/api/v1/metrics', { token: null }],
    [401, 'GET', '/api/v1/none', { token: null }],
    [403, 'GET', '/api/v1/org', { token: 'viewer' }],
    [404, 'GET', '/api/v1/services/none', {}],
    [404, 'GET', '/api/v1/none', {}],
    [404, 'GET', '/none', { token: null }],
    [405, 'PUT', '/api/v1/metrics', {}],
    [413, 'POST', '/api/v1/metrics', { body: 'x'.repeat(30_000) }],
    [415, 'POST', '/api/v1/metrics', { body: '{}', headers: { 'Content-Encoding': 'zstd' } }],
    [200, 'HEAD', '/api/v1/metrics', {}],
    [200, 'GET', '/api/v1/logs?format=ndjson', {}],
    [200, 'GET', '/api/v1/health', { token: null }],
    [200, 'GET', '/health', { token: null }],
    [200, 'GET', '/health/live', { token: null }],
    [200, 'GET', '/metrics', { token: null }],
    [200, 'GET', '/openapi.json', { token: null }],
  ];

  async function send(
    method: string,
    target: string,
    { token, headers, ...init }: RequestInit & { token?: string | null },
  ) {
    const bearer =
      token === null ? null : token === 'viewer' ? viewer : await signToken({ jti: String(Math.random()) });
    const answer = await fetch(api.url + target, {
      method,
      headers: {
        ...(bearer === null ? {} : { Authorization: `Bearer ${bearer}` }),
        ...(init.body ? { 'Content-Type': 'application/json' } : {}),
        ...headers,
      },
      ...init,
    });
    await answer.arrayBuffer();
    return answer;
  }

  test.each(kinds)('%i for %s %s', async (status, method, target, init) => {
    if (status === 204)
      await send('POST', '/api/v1/services/register', {
        body: '{"service_name":"gone","health_endpoint":"http://127.0.0.1:9/"}',
      });
    const answer = await send(method, target, init);
    expect(answer.status).toBe(status);
    expect(headersOf(answer)).toMatchObject({ ...everywhere, 'content-security-policy': nothing });
    if (target.startsWith('/api/v1/') && !target.startsWith('/api/v1/health'))
      expect(answer.headers.get('Cache-Control')).toBe('no-store');
    expectNoneOf(answer, [
      'Strict-Transport-Security',
      'Server',
      'X-Powered-By',
      'Access-Control-Allow-Origin',
    ]);
  });

  const expectNoneOf = (answer: { headers: Headers }, names: string[]) =>
    expect(names.filter((name) => answer.headers.has(name))).toEqual([]);

  test('429', async () => {
    const token = await signToken({ sub: 'busy' });
    const answers = await Promise.all(
      [1, 2, 3, 4].map(() => api.call('PATCH', '/api/v1/services/none', { token, body: {} })),
    );
    const refused = answers.find(({ status }) => status === 429)!;
    expect(headersOf(refused)).toMatchObject({
      ...everywhere,
      'content-security-policy': nothing,
      'cache-control': 'no-store',
    });
  });

  test('a live tail', async () => {
    const stream = await openEvents(`${api.url}/api/v1/logs/x/stream`, {
      Authorization: `Bearer ${await signToken()}`,
    });
    stream.close();
    expect(stream.status).toBe(200);
    expect(headersOf(stream)).toMatchObject({ ...everywhere, 'content-security-policy': nothing });
    expect(stream.headers.get('Cache-Control')).toMatch(/\bno-store\b/);
  });

  test('the reference runs its own scripts alone, all of which are there', async () => {
    const answer = await fetch(`${api.url}/docs`);
    const page = await answer.text();
    expect(headersOf(answer)).toMatchObject(everywhere);
    const policy = new Map(
      answer.headers
        .get('Content-Security-Policy')!
        .split(';')
        .map((directive) => {
          const [name, ...sources] = directive.trim().split(/\s+/);
          return [name!, sources];
        }),
    );
    expect(policy.get('default-src')).toEqual(["'none'"]);
    expect(policy.get('script-src')).toEqual(["'self'"]);
    expect(policy.get('connect-src')).toEqual(["'self'"]);
    expect(policy.get('frame-ancestors')).toEqual(["'none'"]);
    expect(policy.get('base-uri')).toEqual(["'none'"]);
    expect(
      [...policy.values()].flat().filter((source) => /^(\*|https?:|'unsafe-eval')/.test(source)),
    ).toEqual([]);

    // Nothing in the page that the policy keeps from working.
    const scripts = [...page.matchAll(/<script\b([^>]*)>([^<]*)<\/script>/g)];
    expect(scripts.length).toBeGreaterThan(0);
    const sources = scripts.map(([, attributes, inline]) => {
      expect(inline).toBe('');
      return /src="([^"]+)"/.exec(attributes!)![1]!;
    });
    expect(page).not.toMatch(/\son\w+=|javascript:/i);
    const styles = [...page.matchAll(/<link rel="stylesheet" href="([^"]+)"/g)].map(([, href]) => href!);
    for (const [own, type] of [
      ...sources.map((source) => [source, 'text/javascript'] as const),
      ...styles.map((style) => [style, 'text/css'] as const),
    ]) {
      expect(own).toMatch(/^\/docs\/[\w.-]+$/);
      const asset = await fetch(api.url + own);
      expect([asset.status, asset.headers.get('Content-Type')], own).toEqual([200, `${type}; charset=utf-8`]);
      expect(headersOf(asset)).toMatchObject(everywhere);
      expect((await asset.text()).length).toBeGreaterThan(50);
    }
  });

  describe('a hot answer', () => {
    const hot = (headers = {}, token?: string) =>
      api.call('GET', '/api/v1/health/services', { headers, ...(token ? { token } : {}) });

    test('is the browser’s to keep, and is asked for again', async () => {
      const first = await hot();
      const etag = first.headers.get('ETag')!;
      expect(etag).toMatch(/^(W\/)?"[\w-]{16,}"$/);
      expect(headersOf(first)).toMatchObject({
        ...everywhere,
        'cache-control': 'private, no-cache',
        'content-security-policy': nothing,
      });
      expect(variesBy(first)).toContain('authorization');
      for (const given of [etag, `"x", ${etag}`, `${etag},"y"`, etag.replace('W/', ''), '*']) {
        const same = await hot({ 'If-None-Match': given });
        expect([same.status, same.body, same.headers.get('ETag')], given).toEqual([304, '', etag]);
        expect(headersOf(same)).toMatchObject({ ...everywhere, 'cache-control': 'private, no-cache' });
        expect(variesBy(same)).toContain('authorization');
      }
      for (const given of ['', '"x"', 'W/"x"', etag.slice(0, -2), '***', `${etag.slice(0, -1)}x"`])
        expect((await hot({ 'If-None-Match': given })).status, given).toBe(200);
    });

    const variesBy = (answer: { headers: Headers }) =>
      (answer.headers.get('Vary') ?? '').toLowerCase().split(/\s*,\s*/);

    test('is another one once something has changed, for another org, and for other parameters', async () => {
      const etag = (await hot()).headers.get('ETag')!;
      const token = await signToken({ jti: 'changes' });
      await api.call('POST', '/api/v1/services/register', {
        token,
        body: { service_name: `b-${Date.now()}`, health_endpoint: 'http://127.0.0.1:9/' },
      });
      const changed = await hot({ 'If-None-Match': etag });
      expect([changed.status, changed.headers.get('ETag') === etag]).toEqual([200, false]);
      const now = changed.headers.get('ETag')!;
      expect((await hot({ 'If-None-Match': now }, await signToken({ org_id: 'other' }))).status).toBe(200);
      const without = await api.call('GET', '/api/v1/health/services?history=false', {
        headers: { 'If-None-Match': now },
      });
      expect(without.status).toBe(200);
      // Who may not see it is told nothing of whether it has changed.
      expect((await hot({ 'If-None-Match': now }, await signToken({ role: 'ingest' }))).status).toBe(403);
      expect(
        (await api.call('GET', '/api/v1/health/services', { token: null, headers: { 'If-None-Match': now } }))
          .status,
      ).toBe(401);
    });

    test('is the same compressed, and says that it may be', async () => {
      const token = await signToken({ org_id: 'large' });
      const services = Array.from({ length: 20 }, (_, i) => ({ service_name: `s${i}`, kind: 'heartbeat' }));
      await api.call('POST', '/api/v1/services/import', { token, body: { services } });
      const plain = await hot({ 'Accept-Encoding': 'identity' }, token);
      for (const [accepted, encoding] of [
        ['identity', null],
        ['gzip', 'gzip'],
        ['gzip, deflate, br', 'gzip'],
        ['GZIP;q=0.5', 'gzip'],
        ['deflate', 'deflate'],
        ['gzip;q=0', null],
        ['gzipped', null],
      ] as const) {
        const answer = await hot({ 'Accept-Encoding': accepted }, token);
        expect(answer.headers.get('Content-Encoding'), accepted).toBe(encoding);
        expect(answer.body, accepted).toEqual(plain.body);
        expect(variesBy(answer), accepted).toEqual(
          expect.arrayContaining(['authorization', 'accept-encoding']),
        );
      }
      // Not what is small: it would be no less.
      const small = await hot({ 'Accept-Encoding': 'gzip' }, await signToken({ org_id: 'small' }));
      expect([small.headers.get('Content-Encoding'), small.status]).toEqual([null, 200]);
      const etag = plain.headers.get('ETag')!;
      for (const encoding of ['identity', 'gzip'])
        expect((await hot({ 'If-None-Match': etag, 'Accept-Encoding': encoding }, token)).status).toBe(304);
    });
  });

  test('a page of another origin may ask nothing', async () => {
    for (const [method, target] of [
      ['GET', '/api/v1/metrics'],
      ['GET', '/api/v1/health/services'],
      ['GET', '/health'],
      ['OPTIONS', '/api/v1/metrics'],
      ['OPTIONS', '/api/v1/none'],
      ['OPTIONS', '/health'],
    ] as const) {
      const answer = await send(method, target, {
        headers: {
          Origin: 'https://evil.test',
          'Access-Control-Request-Method': 'POST',
          'Access-Control-Request-Headers': 'authorization',
        },
      });
      expect([...answer.headers.keys()].filter((name) => name.startsWith('access-control-'))).toEqual([]);
      if (method === 'OPTIONS') expect(answer.ok, target).toBe(false);
    }
  });
});

describe('with CORS_ORIGINS', () => {
  const origins = ['https://dash.test', 'http://localhost:3000'];
  const api = useApi({ CORS_ORIGINS: origins.join(', ') });
  const corsOf = (answer: { headers: Headers }) =>
    Object.fromEntries([...answer.headers].filter(([name]) => name.startsWith('access-control-')));

  test.each(origins)('pages of %s may ask, and read what is refused', async (origin) => {
    for (const [target, token, status] of [
      ['/api/v1/metrics', undefined, 200],
      ['/api/v1/health/services', undefined, 200],
      ['/api/v1/metrics', null, 401],
      ['/api/v1/services/none', undefined, 404],
      ['/api/v1/metrics?limit=x', undefined, 400],
    ] as const) {
      const answer = await api.call('GET', target, {
        headers: { Origin: origin },
        ...(token === undefined ? {} : { token }),
      });
      expect(answer.status).toBe(status);
      expect(corsOf(answer), target).toMatchObject({ 'access-control-allow-origin': origin });
      expect(answer.headers.get('Access-Control-Expose-Headers')).toMatch(/ETag.*Retry-After/);
      expect((answer.headers.get('Vary') ?? '').toLowerCase(), target).toMatch(/\borigin\b/);
      expect(answer.headers.has('Access-Control-Allow-Credentials')).toBe(false);
    }
  });

  test('a preflight is answered without a token', async () => {
    for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']) {
      const answer = await fetch(`${api.url}/api/v1/alerts`, {
        method: 'OPTIONS',
        headers: {
          Origin: origins[0]!,
          'Access-Control-Request-Method': method,
          'Access-Control-Request-Headers': 'authorization,content-type',
        },
      });
      expect([answer.status, await answer.text()]).toEqual([204, '']);
      const cors = corsOf(answer);
      expect(cors['access-control-allow-origin']).toBe(origins[0]);
      expect(cors['access-control-allow-methods']!.split(',')).toContain(method);
      expect(cors['access-control-allow-headers']!.toLowerCase().split(',')).toEqual(
        expect.arrayContaining(['authorization', 'content-type']),
      );
      expect(cors).not.toHaveProperty('access-control-allow-credentials');
    }
  });

  test.each([
    'https://evil.test',
    'http://dash.test',
    'https://dash.test:444',
    'https://dash.test.evil.test',
    'https://evil-dash.test',
    'https://sub.dash.test',
    'https://DASH.test',
    'null',
    '*',
    '',
  ])('pages of %j may not', async (origin) => {
    for (const method of ['GET', 'OPTIONS']) {
      const answer = await fetch(`${api.url}/api/v1/metrics`, {
        method,
        headers: {
          Origin: origin,
          'Access-Control-Request-Method': 'GET',
          Authorization: `Bearer ${await signToken()}`,
        },
      });
      await answer.text();
      expect(answer.headers.get('Access-Control-Allow-Origin'), method).toBeNull();
      expect(answer.headers.get('Access-Control-Allow-Credentials'), method).toBeNull();
    }
  });

  test('what is not of the API stays closed', async () => {
    for (const target of ['/health', '/metrics', '/openapi.json', '/docs'])
      expect(corsOf(await fetch(api.url + target, { headers: { Origin: origins[0]! } }))).toEqual({});
  });

  test.each([
    '*',
    'null',
    'https://*.test',
    'https://a.test/',
    'a.test',
    'https://a.test, *',
    'https://a.test/x',
  ])('CORS_ORIGINS=%s is refused', (value) => {
    expect(() =>
      parseConfig({ DATABASE_URL: 'postgres://x@y/z', JWT_SECRET: jwtSecret, CORS_ORIGINS: value }),
    ).toThrow(/CORS_ORIGINS: expected origins/);
  });
});

describe('the address in the audit log', () => {
  const forwarded = '203.0.113.1, 203.0.113.2, 203.0.113.3';
  const own = '127.0.0.1';

  describe.each<[number, [string | undefined, string][]]>([
    [
      0,
      [
        [undefined, own],
        [forwarded, own],
        ['203.0.113.9', own],
      ],
    ],
    [
      1,
      [
        [undefined, own],
        [forwarded, '203.0.113.3'],
        ['203.0.113.9', '203.0.113.9'],
        ['evil, 2001:db8::1', '2001:db8::1'],
        ['', own],
        ['203.0.113.9,', own],
      ],
    ],
    [
      2,
      [
        [forwarded, '203.0.113.2'],
        ['203.0.113.8 ,203.0.113.9', '203.0.113.8'],
        // Of fewer proxies than there are said to be: nothing in it is theirs.
        ['203.0.113.9', own],
      ],
    ],
  ])('behind %i proxies', (proxies, cases) => {
    const api = useApi(proxies > 0 ? { TRUSTED_PROXIES: String(proxies) } : {});

    test.each(cases)('X-Forwarded-For: %s was asked from %s', async (header, expected) => {
      const headers: Record<string, string> = header === undefined ? {} : { 'X-Forwarded-For': header };
      const sub = `asker of ${header} ${proxies}`;
      const refused = await api.call('GET', '/api/v1/org', {
        headers,
        token: await signToken({ sub, role: 'viewer' }),
      });
      expect(refused.status).toBe(403);
      const made = await api.call('POST', '/api/v1/tokens', {
        headers,
        body: { name: sub, role: 'viewer' },
      });
      expect(made.status).toBe(201);
      for (const query of [`outcome=refused&target_id=/api/v1/org`, `target_id=${made.body.id}`]) {
        const { events } = (await api.call('GET', `/api/v1/audit?${query}&limit=1`)).body;
        expect(events[0].address, query).toBe(expected);
      }
    });
  });
});
