// Probes of servers that misbehave in every way, each a real one on this machine: what is found, and why.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import tls from 'node:tls';
import { generate } from 'selfsigned';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { probe } from '../../jobs/probes/probe.ts';
import type { Definition } from '../../jobs/probes/trace.ts';

const closing: { close(): void }[] = [];
const sockets = new Set<net.Socket>();
afterAll(() => {
  for (const server of closing) server.close();
  for (const socket of sockets) socket.destroy();
});

async function listen(server: net.Server): Promise<number> {
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
  });
  closing.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as net.AddressInfo).port;
}
const serveHttp = async (handler: http.RequestListener) =>
  `http://127.0.0.1:${await listen(http.createServer(handler))}/`;
/** A server that reads the request and then does as it likes with the socket. */
const serveRaw = async (answer: (socket: net.Socket) => void) =>
  `http://127.0.0.1:${await listen(net.createServer((socket) => socket.once('data', () => answer(socket))))}/`;

const defaults: Definition = {
  kind: 'http',
  health_endpoint: '',
  method: 'GET',
  headers: {},
  request_body: null,
  expected_status: ['2xx'],
  expected_body: null,
  max_redirects: 5,
  tls_verify: true,
  tls_expiry_days: 14,
  degraded_above_ms: null,
  timeout_seconds: 0.5,
};
const run = (health_endpoint: string, more: Partial<Definition> = {}) =>
  probe({ ...defaults, health_endpoint, ...more }, { egress: 'allow' });

describe('a server that', () => {
  test('is well', async () => {
    const result = await run(await serveHttp((_request, response) => response.end('ok')));
    expect(result).toMatchObject({
      outcome: 'up',
      reason: null,
      status_code: 200,
      tls_ms: null,
      tls_expires_at: null,
      network: null,
    });
    for (const key of ['dns_ms', 'connect_ms', 'first_byte_ms'] as const)
      expect(result[key]).toBeGreaterThanOrEqual(0);
    expect(result.response_time_ms).toBeGreaterThanOrEqual(result.connect_ms! + result.first_byte_ms!);
  });

  test('refuses', async () => {
    const server = net.createServer();
    const port = await listen(server);
    server.close();
    await once(server, 'close');
    expect(await run(`http://127.0.0.1:${port}/`)).toMatchObject({
      outcome: 'down',
      reason: 'the connection was refused while connecting',
      connect_ms: null,
      status_code: null,
    });
  });

  test('does not accept', async () => {
    // Stopped, with room for hardly any connection that waits to be accepted: the next one is not answered at all.
    const server = spawn(process.execPath, [
      '-e',
      'const s = require("net").createServer().listen({port: 0, host: "127.0.0.1", backlog: 1}, () => console.log(s.address().port))',
    ]);
    try {
      const [line] = (await once(server.stdout, 'data')) as [Buffer];
      server.kill('SIGSTOP');
      const port = Number(line.toString());
      for (let i = 0; i < 5; i++) sockets.add(net.connect(port, '127.0.0.1').on('error', () => {}));
      await sleep(100);
      expect(await run(`http://127.0.0.1:${port}/`)).toMatchObject({
        outcome: 'down',
        reason: 'timed out after 0.5 s while connecting',
        connect_ms: null,
      });
    } finally {
      server.kill('SIGKILL');
    }
  });

  test('has a name that does not exist', async () => {
    const result = await run('http://no-such-host.invalid/', { timeout_seconds: 5 });
    expect(result).toMatchObject({ outcome: 'down', network: null, dns_ms: null });
    expect(result.reason).toMatch(/^its name cannot be resolved/);
  });

  test('accepts and says nothing', async () => {
    const result = await run(await serveRaw(() => {}));
    expect(result).toMatchObject({
      outcome: 'down',
      reason: 'timed out after 0.5 s while waiting for its answer',
    });
    expect(result.connect_ms).not.toBeNull();
    expect(result.response_time_ms).toBeGreaterThan(490);
    expect(result.response_time_ms).toBeLessThan(1500);
  });

  test('hangs amid headers', async () => {
    const result = await run(await serveRaw((socket) => socket.write('HTTP/1.1 200 OK\r\nContent-')));
    expect(result).toMatchObject({
      outcome: 'down',
      reason: 'timed out after 0.5 s while waiting for its answer',
    });
  });

  test('hangs amid its body', async () => {
    const result = await run(await serveHttp((_request, response) => response.write('{"status"')));
    expect(result).toMatchObject({
      outcome: 'down',
      reason: 'timed out after 0.5 s while reading its answer',
      status_code: 200,
    });
  });

  test('drips a byte a second', async () => {
    const result = await run(
      await serveRaw(async (socket) => {
        for (const byte of 'HTTP/1.1 200 OK\r\n') {
          if (socket.destroyed) return;
          socket.write(byte);
          await sleep(1000);
        }
      }),
      { timeout_seconds: 1.5 },
    );
    expect(result.reason).toBe('timed out after 1.5 s while waiting for its answer');
    expect(result.response_time_ms).toBeLessThan(2500);
  });

  test('sends 100 MB', async () => {
    let sent = 0;
    const before = process.memoryUsage().rss;
    const result = await run(
      await serveHttp(async (_request, response) => {
        const chunk = Buffer.alloc(65_536);
        response.setMaxListeners(0).on('error', () => {});
        while (sent < 100 * 1024 ** 2 && !response.destroyed) {
          sent += chunk.length;
          if (!response.write(chunk))
            await Promise.race([once(response, 'drain'), once(response, 'close')]).catch(() => {});
        }
        response.end();
      }),
      { timeout_seconds: 5 },
    );
    expect(result).toMatchObject({ outcome: 'down', reason: 'the answer is longer than 1048576 bytes' });
    expect(sent).toBeLessThan(20 * 1024 ** 2);
    expect(process.memoryUsage().rss - before).toBeLessThan(50 * 1024 ** 2);
  });

  test('sends headers without end', async () => {
    const result = await run(
      await serveRaw((socket) => {
        socket.write('HTTP/1.1 200 OK\r\n');
        for (let i = 0; i < 5000; i++) socket.write(`X-${i}: ${'x'.repeat(100)}\r\n`);
      }),
    );
    expect(result.reason).toBe(
      'the headers of the answer are larger than 16 KiB while waiting for its answer',
    );
  });

  test('redirects for ever', async () => {
    let requests = 0;
    const url = await serveHttp((_request, response) => {
      response.writeHead(302, { Location: `/${++requests}` }).end();
    });
    expect(await run(url)).toMatchObject({
      outcome: 'down',
      reason: 'redirected more than 5 times',
      status_code: 302,
    });
    expect(requests).toBe(6);
    expect(await run(url, { max_redirects: 0 })).toMatchObject({ reason: 'status 302, expected 2xx' });
    expect(await run(url, { max_redirects: 0, expected_status: ['302'] })).toMatchObject({ outcome: 'up' });
  });

  test('redirects to somewhere else: there without the headers that were meant for it', async () => {
    const seen: http.IncomingHttpHeaders[] = [];
    const second = await serveHttp((request, response) => {
      seen.push(request.headers);
      response.end();
    });
    const first = await serveHttp((request, response) => {
      seen.push(request.headers);
      response.writeHead(302, { Location: second }).end();
    });
    expect(await run(first, { headers: { Authorization: 'secret', 'X-Key': 'k' } })).toMatchObject({
      outcome: 'up',
    });
    expect(seen.map(({ authorization, 'x-key': key }) => [authorization, key])).toEqual([
      ['secret', 'k'],
      [undefined, undefined],
    ]);
  });

  test.each([
    ['file:///etc/passwd', 'redirected to file:, which is not followed'],
    ['http://', 'redirected to something that is not a URL'],
    [
      'http://169.254.169.254/latest/meta-data/',
      /^refused: 169\.254\.169\.254 is a (metadata|link-local) address, which is never reached$/,
    ],
  ])('redirects to %s', async (location, reason) => {
    const url = await serveHttp((_request, response) =>
      response.writeHead(302, { Location: location }).end(),
    );
    const result = await run(url);
    expect(result.outcome).toBe('down');
    expect(result.reason).toMatch(reason);
  });

  test('closes before it answers', async () => {
    const result = await run(await serveRaw((socket) => socket.end()));
    expect(result.reason).toMatch(
      /^(the connection was reset|socket hang up,) while waiting for its answer$/,
    );
  });

  test('closes in the middle of its body', async () => {
    const result = await run(
      await serveRaw((socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly so much')),
    );
    expect(result.reason).toBe('the connection was closed in the middle of the answer, after 12 bytes');
  });

  test('closes in the middle of a chunked body', async () => {
    const result = await run(
      await serveRaw((socket) =>
        socket.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n'),
      ),
    );
    expect(result.reason).toBe('the connection was closed in the middle of the answer, after 5 bytes');
  });

  test('resets', async () => {
    const result = await run(await serveRaw((socket) => socket.resetAndDestroy()));
    expect(result.reason).toBe('the connection was reset while waiting for its answer');
  });

  test('speaks something else', async () => {
    expect((await run(await serveRaw((socket) => socket.end('SSH-2.0-OpenSSH_9.2\r\n')))).reason).toMatch(
      /^what came is not HTTP/,
    );
  });

  test('switches to another protocol', async () => {
    const result = await run(
      await serveRaw((socket) =>
        socket.write(
          'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nxx',
        ),
      ),
    );
    expect(result.reason).toBe('it switches to another protocol (status 101)');
  });

  test.each([
    ['informs without end', 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'.repeat(5000), /^timed out/],
    [
      'sends a chunk of no length',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n',
      /closed in the middle/,
    ],
    [
      'sends trailers without end',
      `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n${`X: ${'y'.repeat(100)}\r\n`.repeat(5000)}`,
      /closed in the middle/,
    ],
    ['sends a length below zero', 'HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n', /^what came is not HTTP/],
    [
      'redirects to half an address',
      'HTTP/1.1 302 F\r\nLocation: http://[::1\r\n\r\n',
      /^redirected to something/,
    ],
  ])('%s', async (_name, answer, reason) => {
    const result = await run(await serveRaw((socket) => socket.write(answer)));
    expect(result.outcome).toBe('down');
    expect(result.reason).toMatch(reason);
  });

  test('says what cannot be stored', async () => {
    const body = `{"status": "a\\u0000b\\ud800${'😀'.repeat(300)}"}`;
    const url = await serveHttp((_request, response) =>
      response.writeHead(500, { 'Content-Type': 'application/json' }).end(body),
    );
    const { reason } = await run(url);
    expect(reason).toMatch(/^status 500, expected 2xx; it says a b�(😀)+�?$/u);
    expect(reason!.isWellFormed()).toBe(true);
  });

  test('answers another status', async () => {
    const url = await serveHttp((_request, response) =>
      response.writeHead(503).end('{"status": "unhealthy"}'),
    );
    expect(await run(url)).toMatchObject({
      outcome: 'down',
      reason: 'status 503, expected 2xx; it says unhealthy',
      status_code: 503,
    });
    expect(await run(url, { expected_status: ['200-299', '503'] })).toMatchObject({
      reason: 'it says that it is unhealthy',
    });
  });

  test.each([
    ['{"status": "healthy"}', 'up', null],
    ['{"status": "alive"}', 'up', null],
    ['{"status": "Degraded"}', 'degraded', 'it says that it is degraded'],
    ['{"status": "down"}', 'down', 'it says that it is down'],
    ['{"status": "fail", "message": "no db"}', 'down', 'it says that it is fail: no db'],
    ['{"status": {"db": "down"}}', 'up', null],
    ['{"status": ', 'up', null],
    ['status: down', 'up', null],
    ['null', 'up', null],
  ])('says %s', async (body, outcome, reason) => {
    const url = await serveHttp((_request, response) =>
      response.writeHead(200, { 'Content-Type': 'application/json' }).end(body),
    );
    expect(await run(url)).toMatchObject({ outcome, reason });
  });

  test.each([
    [{ contains: 'pong' }, 'up', null],
    [{ contains: 'péng' }, 'down', 'the answer does not contain "péng"'],
    [{ json_path: '$.checks.db' }, 'up', null],
    [{ json_path: '$.checks.db', equals: 'up' }, 'up', null],
    [
      { json_path: '$.checks.db', equals: 'down' },
      'down',
      'the answer has "up" at $.checks.db, expected "down"',
    ],
    [{ json_path: '$.checks["cache"]' }, 'down', 'the answer has nothing at $.checks["cache"]'],
    [{ json_path: '$.checks', equals: { db: 'up' } }, 'up', null],
  ] as const)('is expected to hold %j', async (expected_body, outcome, reason) => {
    const url = await serveHttp((_request, response) =>
      response.end('{"ping": "pong", "checks": {"db": "up"}}'),
    );
    expect(await run(url, { expected_body })).toMatchObject({ outcome, reason });
  });

  test('is not JSON where JSON is expected', async () => {
    const url = await serveHttp((_request, response) => response.end('<html>'));
    expect(await run(url, { expected_body: { json_path: '$.a' } })).toMatchObject({
      reason: 'the answer is not JSON',
    });
  });

  test('is slow', async () => {
    const url = await serveHttp(async (_request, response) => {
      await sleep(120);
      response.end();
    });
    const result = await run(url, { degraded_above_ms: 100 });
    expect(result.outcome).toBe('degraded');
    expect(result.reason).toMatch(/^took \d+ ms, more than 100 ms$/);
  });

  test('gets the method, headers and body that were asked for', async () => {
    let seen: unknown[] = [];
    const url = await serveHttp(async (request, response) => {
      const body = await Array.fromAsync(request);
      seen = [
        request.method,
        request.url,
        request.headers['x-key'],
        request.headers.host,
        Buffer.concat(body).toString(),
      ];
      response.end();
    });
    await run(`${url}ready?full=1`, {
      method: 'POST',
      headers: { 'X-Key': 'k', Host: 'auth.test' },
      request_body: 'ping',
    });
    expect(seen).toEqual(['POST', '/ready?full=1', 'k', 'auth.test', 'ping']);
  });
});

test('a probe that is called off has no result', async () => {
  const url = await serveRaw(() => {});
  const abort = new AbortController();
  setTimeout(() => abort.abort(new Error('called off')), 50);
  await expect(
    probe(
      { ...defaults, health_endpoint: url, timeout_seconds: 10 },
      { egress: 'allow', signal: abort.signal },
    ),
  ).rejects.toThrow('called off');
});

test('probes leave no connection open', async () => {
  const server = http.createServer((_request, response) => response.end('ok'));
  const url = `http://127.0.0.1:${await listen(server)}/`;
  await Promise.all(Array.from({ length: 20 }, () => run(url)));
  await run(await serveRaw(() => {}));
  await sleep(50);
  const [open] = await Promise.all([
    new Promise((resolve) => server.getConnections((_error, count) => resolve(count))),
  ]);
  expect(open).toBe(0);
});

describe('tcp', () => {
  const tcp = (port: number) => run(`tcp://127.0.0.1:${port}`, { kind: 'tcp' });

  test('is up when it accepts, down when it refuses', async () => {
    const server = net.createServer();
    const port = await listen(server);
    expect(await tcp(port)).toMatchObject({ outcome: 'up', reason: null, first_byte_ms: null });
    server.close();
    await once(server, 'close');
    expect(await tcp(port)).toMatchObject({
      outcome: 'down',
      reason: 'the connection was refused while connecting',
    });
  });
});

describe('TLS', () => {
  const day = 86_400_000;
  let authority: { private: string; cert: string };
  const before = tls.getCACertificates('default');

  beforeAll(async () => {
    authority = await generate([{ name: 'commonName', value: 'Test CA' }], {
      keyType: 'ec',
      algorithm: 'sha256',
      extensions: [
        { name: 'basicConstraints', cA: true, critical: true },
        { name: 'keyUsage', keyCertSign: true, digitalSignature: true },
      ],
    } as never);
    tls.setDefaultCACertificates([...before, authority.cert]);
  });
  afterAll(() => tls.setDefaultCACertificates(before));

  async function serveTls(name: string, fromDays: number, toDays: number, isSigned = true): Promise<string> {
    const { private: key, cert } = await generate([{ name: 'commonName', value: name }], {
      keyType: 'ec',
      algorithm: 'sha256',
      notBeforeDate: new Date(Date.now() + fromDays * day),
      notAfterDate: new Date(Date.now() + toDays * day),
      extensions: [{ name: 'subjectAltName', altNames: [{ type: 2, value: name }] }],
      ...(isSigned ? { ca: { key: authority.private, cert: authority.cert } } : {}),
    } as never);
    const server = tls.createServer({ key, cert }, (socket) => {
      socket.on('error', () => {});
      socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
    });
    server.on('tlsClientError', () => {});
    return `https://localhost:${await listen(server)}/`;
  }

  test('a certificate that is in order', async () => {
    const result = await run(await serveTls('localhost', -1, 100), { timeout_seconds: 5 });
    expect(result).toMatchObject({ outcome: 'up', reason: null });
    expect(result.tls_ms).toBeGreaterThan(0);
    expect(Math.round((Date.parse(result.tls_expires_at!) - Date.now()) / day)).toBe(100);
  });

  test('one that expires soon is degraded, unless that is of no interest', async () => {
    const url = await serveTls('localhost', -1, 5.5);
    const result = await run(url);
    expect(result.outcome).toBe('degraded');
    expect(result.reason).toMatch(/^the certificate expires in 5 days, at 2/);
    expect(await run(url, { tls_expiry_days: 3 })).toMatchObject({ outcome: 'up' });
    expect(await run(url, { tls_expiry_days: 0 })).toMatchObject({ outcome: 'up' });
  });

  test('one that has expired', async () => {
    const url = await serveTls('localhost', -10, -1);
    expect((await run(url)).reason).toMatch(/^the certificate expired at 2/);
    expect(await run(url)).toMatchObject({ outcome: 'down', status_code: null });
    expect(await run(url, { tls_verify: false })).toMatchObject({ outcome: 'degraded', status_code: 200 });
  });

  test.each([
    ['not valid yet', 'localhost', 1, 10, true, 'it is not valid yet'],
    ['for another host', 'elsewhere.test', -1, 100, true, 'it is for another host name'],
    ['self-signed', 'localhost', -1, 100, false, 'it is self-signed'],
  ])('one that is %s', async (_name, host, from, to, isSigned, reason) => {
    const url = await serveTls(host, from, to, isSigned);
    expect(await run(url)).toMatchObject({
      outcome: 'down',
      reason: `the certificate is not valid: ${reason}`,
    });
    expect(await run(url, { tls_verify: false, tls_expiry_days: 0 })).toMatchObject({ outcome: 'up' });
  });

  test('a server that does not speak it', async () => {
    const plain = (await serveHttp((_request, response) => response.end())).replace('http:', 'https:');
    const result = await run(plain);
    expect(result.outcome).toBe('down');
    expect(result.reason).toBe('it does not speak TLS');
  });

  test('a server that hangs in the handshake', async () => {
    const silent = (await serveRaw(() => {})).replace('http:', 'https:');
    expect(await run(silent)).toMatchObject({ reason: 'timed out after 0.5 s while shaking hands for TLS' });
  });

  test('a server that closes in the handshake', async () => {
    const rude = (await serveRaw((socket) => socket.destroy())).replace('http:', 'https:');
    expect((await run(rude)).reason).toMatch(
      /closed in the TLS handshake|reset|disconnected before secure TLS/,
    );
  });
});
