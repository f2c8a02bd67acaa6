// Every channel against receivers that take the notification, refuse it or misbehave, each a real one on this machine.
import { spawn, spawnSync } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import tls from 'node:tls';
import { generate } from 'selfsigned';
import { SMTPServer, type SMTPServerOptions } from 'smtp-server';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  type Delivery,
  DeliveryFailure,
  deliver,
  type Message,
  type MessageAlert,
} from '../../jobs/channels/channel.ts';
import { serviceName, version } from '../../src/version.ts';

const closing: { close(): void }[] = [];
const sockets = new Set<net.Socket>();
afterAll(() => {
  for (const server of closing) server.close();
  for (const socket of sockets) socket.destroy();
});

async function listen(server: net.Server, host = '127.0.0.1'): Promise<number> {
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
  });
  closing.push(server);
  server.listen(0, host);
  await once(server, 'listening');
  return (server.address() as net.AddressInfo).port;
}
const serveHttp = async (handler: http.RequestListener) =>
  `http://127.0.0.1:${await listen(http.createServer(handler))}`;
/** A server that reads the beginning of the request and then does as it likes with the socket. */
const serveRaw = async (answer: (socket: net.Socket) => void) =>
  `http://127.0.0.1:${await listen(net.createServer((socket) => socket.once('data', () => answer(socket))))}`;
async function closedPort(): Promise<number> {
  const server = net.createServer();
  const port = await listen(server);
  server.close();
  await once(server, 'close');
  return port;
}

interface Received {
  method: string;
  url: string;
  headers: http.IncomingHttpHeaders;
  body: string;
}

/** A receiver that keeps what it gets. */
async function serveKeeping(status = 200, answer = 'ok'): Promise<{ url: string; received: Received[] }> {
  const received: Received[] = [];
  const url = await serveHttp(async (request, response) => {
    const body = Buffer.concat(await Array.fromAsync(request)).toString();
    received.push({ method: request.method!, url: request.url!, headers: request.headers, body });
    response.writeHead(status).end(answer);
  });
  return { url, received };
}

const notificationId = '0198f3f2-7c1e-7cc3-98c4-dc0c0c07398f';

function alertOf(more: Partial<MessageAlert> = {}): MessageAlert {
  return {
    id: '12',
    name: 'HighLatency',
    description: 'p95 is above 1 s',
    severity: 'critical',
    status: 'firing',
    source: 'rule',
    service_name: 'auth',
    labels: { region: 'eu', 'pod-name': 'auth-1' },
    annotations: { runbook: 'https://wiki.test/latency?a=1&b=2' },
    metadata: {},
    value: 1.25,
    rule_name: 'latency of auth',
    fingerprint: 'f00d',
    started_at: '2026-01-02T03:04:05Z',
    acknowledged_at: null,
    resolved_at: null,
    duration_seconds: 3725,
    is_escalated: false,
    ...more,
  };
}

function messageOf(more: Partial<Message> = {}): Message {
  return {
    notification_id: notificationId,
    kind: 'alert',
    org: 'acme',
    channel: 'on-call',
    status: 'firing',
    group_labels: { service: 'auth' },
    created_at: '2026-01-02T04:06:10Z',
    summary: { firing: 1, resolved: 0 },
    alerts: [alertOf()],
    truncated_alerts: 0,
    ...more,
  };
}

type Type = Delivery['channel']['type'];

interface More extends Partial<Omit<Delivery, 'channel'>> {
  timeoutMs?: number;
}

const send = (type: Type, config: Record<string, unknown>, { timeoutMs = 5000, ...more }: More = {}) =>
  deliver({
    channel: { type, config },
    message: messageOf(),
    egress: 'allow',
    smtp: { url: undefined, from: 'LiftOS <alerts@liftos.test>' },
    signal: AbortSignal.timeout(timeoutMs),
    alertTtlSeconds: 600,
    ...more,
  });

async function failureOf(delivered: Promise<unknown>): Promise<DeliveryFailure> {
  const error = await delivered.then(
    (outcome) => expect.fail(`was delivered: ${JSON.stringify(outcome)}`),
    (error) => error,
  );
  expect(error).toBeInstanceOf(DeliveryFailure);
  expect(error.message.length).toBeLessThanOrEqual(500);
  expect(error.message).not.toMatch(/[\r\n]/);
  return error;
}

/** Texts nothing of which may be lost, get out of its place or do anything. */
const hostile = `<!channel> <b onmouseover="x()">&amp; @here\r\nBcc: thief@evil.test\0 ${'é<&>"\u{1f600}'.repeat(2000)}`;
const hugeMessage = messageOf({
  org: hostile,
  channel: hostile,
  group_labels: { [hostile]: hostile },
  summary: { firing: 120, resolved: 3 },
  alerts: Array.from({ length: 100 }, (_, i) =>
    alertOf({
      id: String(i),
      name: `${i} ${hostile}`,
      description: hostile,
      service_name: hostile,
      rule_name: hostile,
      source: hostile,
      labels: Object.fromEntries(
        Array.from({ length: i === 0 ? 30 : 2 }, (_, j) => [`${j} ${hostile}`, hostile]),
      ),
      annotations: { [hostile]: hostile, runbook: `https://wiki.test/"><script>${'x'.repeat(3000)}` },
    }),
  ),
  truncated_alerts: 23,
});

describe('a webhook', () => {
  test('gets the message as it is, with who sends it and a key that is the same at every attempt', async () => {
    const { url, received } = await serveKeeping(202, 'queued');
    const message = messageOf({ alerts: [alertOf({ name: 'Ünïcode 😀', metadata: { a: [1, null] } })] });
    const outcome = await send('webhook', { url: `${url}/hook?team=7` }, { message });
    await send('webhook', { url }, { message });
    expect(outcome).toEqual({ response_code: 202, detail: 'queued' });
    expect(received[0]).toMatchObject({ method: 'POST', url: '/hook?team=7', body: JSON.stringify(message) });
    expect(received[0]!.headers).toMatchObject({
      'content-type': 'application/json',
      'user-agent': `${serviceName}/${version}`,
      'idempotency-key': notificationId,
      'content-length': String(Buffer.byteLength(JSON.stringify(message))),
    });
    expect(received[0]!.headers).not.toHaveProperty('x-signature-256');
    expect(received[1]!.headers['idempotency-key']).toBe(notificationId);
  });

  test('can tell by the signature that it is from here', async () => {
    const { url, received } = await serveKeeping();
    await send('webhook', { url, secret: 'sësame' });
    const [{ headers, body }] = received as [Received];
    const expected = createHmac('sha256', 'sësame').update(body).digest('hex');
    expect(headers['x-signature-256']).toBe(`sha256=${expected}`);
  });

  test('gets headers of its own, which replace none of those that matter', async () => {
    const { url, received } = await serveKeeping();
    const headers = {
      Authorization: 'Bearer token',
      'content-type': 'text/plain',
      'USER-AGENT': 'curl',
      'idempotency-KEY': '1',
      'x-signature-256': 'sha256=forged',
      'Content-Length': '3',
      'Transfer-Encoding': 'chunked',
    };
    await send('webhook', { url, headers });
    await send('webhook', { url, headers, secret: 'sesame' });
    for (const { headers, body } of received) {
      expect(headers).toMatchObject({
        authorization: 'Bearer token',
        'content-type': 'application/json',
        'user-agent': `${serviceName}/${version}`,
        'idempotency-key': notificationId,
        'content-length': String(Buffer.byteLength(body)),
      });
      expect(headers).not.toHaveProperty('transfer-encoding');
      expect(JSON.parse(body)).toEqual(messageOf());
    }
    expect(received.map(({ headers }) => headers['x-signature-256']?.slice(0, 9))).toEqual([
      undefined,
      expect.stringMatching(/^sha256=[0-9a-f]{2}$/),
    ]);
  });

  test.each([
    [500, false],
    [502, false],
    [503, false],
    [408, false],
    [425, false],
    [429, false],
    [400, true],
    [401, true],
    [404, true],
    [410, true],
    [302, true],
    [307, true],
  ])('that answers %i: is that for good? %s', async (status, isPermanent) => {
    let requests = 0;
    const url = await serveHttp((_request, response) => {
      requests++;
      response.writeHead(status, { Location: '/elsewhere' }).end('out of\norder');
    });
    const failure = await failureOf(send('webhook', { url }));
    expect(failure).toMatchObject({ response_code: status, isPermanent, retryAfterSeconds: null });
    expect(failure.message).toBe(
      status < 400
        ? `the receiver answered ${status}, and redirects are not followed`
        : `the receiver answered ${status}: out of order`,
    );
    expect(requests).toBe(1);
  });

  test.each([
    [429, '17', 17],
    [503, '0', 0],
    [429, '86400', 3600],
    [503, 'two minutes', 120],
    [429, 'Wed, 21 Oct 2015 07:28:00 GMT', 0],
    [429, 'soon', null],
    [500, '17', null],
    [404, '17', null],
  ])('that answers %i and asks to be left alone for %s', async (status, asked, expected) => {
    const inTwoMinutes = new Date(Date.now() + 120_000).toUTCString();
    const url = await serveHttp((_request, response) =>
      response.writeHead(status, { 'Retry-After': asked === 'two minutes' ? inTwoMinutes : asked }).end(),
    );
    const { retryAfterSeconds, message } = await failureOf(send('webhook', { url }));
    if (expected === 120) expect(Math.abs(retryAfterSeconds! - 120)).toBeLessThan(5);
    else expect(retryAfterSeconds).toBe(expected);
    expect(message).toBe(`the receiver answered ${status}`);
  });

  test('that refuses the connection', async () => {
    const port = await closedPort();
    expect(await failureOf(send('webhook', { url: `http://127.0.0.1:${port}/` }))).toMatchObject({
      message: `the connection was refused while connecting to 127.0.0.1:${port}`,
      response_code: null,
      isPermanent: false,
    });
  });

  test('that has a name which does not exist', async () => {
    const failure = await failureOf(send('webhook', { url: 'http://no-such-host.invalid/' }));
    expect(failure.message).toMatch(/^its name cannot be resolved.* \(no-such-host\.invalid\)$/);
    expect(failure.isPermanent).toBe(false);
  });

  test.each([
    [
      'says nothing',
      () => {},
      /^no answer within 0\.[34] s while waiting for its answer \(127\.0\.0\.1:\d+\)$/,
    ],
    [
      'hangs amid headers',
      (socket: net.Socket) => socket.write('HTTP/1.1 200 OK\r\nContent-'),
      /^no answer within 0\.[34] s while waiting for its answer/,
    ],
    [
      'closes before it answers',
      (socket: net.Socket) => socket.end(),
      /^(the connection was reset|socket hang up,) while waiting for its answer/,
    ],
    [
      'closes amid headers',
      (socket: net.Socket) => socket.end('HTTP/1.1 200 OK\r\nContent-'),
      /^(the connection was reset|socket hang up,|what came is not HTTP).*\(127/,
    ],
    ['resets', (socket: net.Socket) => socket.resetAndDestroy(), /^the connection was reset while waiting/],
    ['speaks something else', (socket: net.Socket) => socket.end('SSH-2.0\r\n'), /^what came is not HTTP/],
    [
      'switches to another protocol',
      (socket: net.Socket) =>
        socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n'),
      /^it switches to another protocol/,
    ],
  ])('that %s', async (_name, answer, message) => {
    const url = await serveRaw(answer);
    const failure = await failureOf(send('webhook', { url }, { timeoutMs: 300 }));
    expect(failure.message).toMatch(message);
    expect(failure).toMatchObject({ response_code: null, isPermanent: false });
  });

  test('that has accepted has accepted, whatever becomes of the rest of its answer', async () => {
    const cut = await serveRaw((socket) =>
      socket.end('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly so much'),
    );
    expect(await send('webhook', { url: cut })).toEqual({ response_code: 200, detail: 'only so much' });
    const hanging = await serveRaw((socket) =>
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhm'),
    );
    expect(await send('webhook', { url: hanging }, { timeoutMs: 200 })).toEqual({
      response_code: 200,
      detail: 'hm',
    });
    const failing = await serveRaw((socket) =>
      socket.write('HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\nhm'),
    );
    expect(await failureOf(send('webhook', { url: failing }, { timeoutMs: 200 }))).toMatchObject({
      response_code: 500,
      message: 'the receiver answered 500: hm',
    });
  });

  test('that sends 10 MB is heard only at the beginning', async () => {
    let sent = 0;
    const url = await serveHttp(async (_request, response) => {
      const chunk = Buffer.alloc(65_536, 'x');
      response.setMaxListeners(0).on('error', () => {});
      while (sent < 10 * 1024 ** 2 && !response.destroyed) {
        sent += chunk.length;
        if (!response.write(chunk))
          await Promise.race([once(response, 'drain'), once(response, 'close')]).catch(() => {});
      }
      response.end();
    });
    expect(await send('webhook', { url })).toEqual({ response_code: 200, detail: 'x'.repeat(500) });
    expect(sent).toBeLessThan(9 * 1024 ** 2);
  });

  test('that says what cannot be stored', async () => {
    const url = await serveHttp((_request, response) =>
      response.end(Buffer.from(`a\0b\x1b[31m\xff${'😀'.repeat(400)}`, 'utf8')),
    );
    const { detail } = await send('webhook', { url });
    expect(detail).toMatch(/^a b \[31mÿ(😀)+�?$/u);
    expect(detail!.length).toBeLessThanOrEqual(500);
    expect(detail!.isWellFormed()).toBe(true);
  });

  test('is left with the reason of whoever calls it off', async () => {
    const url = await serveRaw(() => {});
    const stop = new AbortController();
    setTimeout(() => stop.abort(new Error('shutting down')), 50);
    await expect(send('webhook', { url }, { signal: stop.signal })).rejects.toThrow(/^shutting down$/);
    await expect(send('webhook', { url }, { signal: stop.signal })).rejects.toThrow(/^shutting down$/);
  });

  test('leaves no connection open', async () => {
    const server = http.createServer((_request, response) => response.end('ok'));
    const url = `http://127.0.0.1:${await listen(server)}`;
    await Promise.all(Array.from({ length: 10 }, () => send('webhook', { url })));
    await sleep(50);
    const open = await new Promise((resolve) => server.getConnections((_error, count) => resolve(count)));
    expect(open).toBe(0);
  });

  test.each([
    [{}, /url/],
    [{ url: 'ftp://files.test/' }, /url: expected a URL, http/],
    [{ url: 'nonsense' }, /url: expected a URL, http/],
    [{ url: 'https://user:sesame@hook.test/' }, /url: must not hold credentials$/],
    [{ url: 'http://127.0.0.1:1/', headers: { 'X-Key': 1 } }, /headers: X-Key/],
    [{ url: null, secret: 'sesame' }, /url/],
  ])('whose configuration is %j is not tried again', async (config, message) => {
    const failure = await failureOf(send('webhook', config));
    expect(failure.message).toMatch(/^the channel's configuration is not valid: /);
    expect(failure.message).toMatch(message);
    expect(failure.message).not.toContain('sesame');
    expect(failure.isPermanent).toBe(true);
  });

  test('nor one with a header that cannot be sent', async () => {
    const { url, received } = await serveKeeping();
    for (const headers of [{ 'X-Key': 'sesame\r\nHost: evil' }, { 'X Key': 'sesame' }]) {
      const failure = await failureOf(send('webhook', { url, headers }));
      expect(failure).toMatchObject({
        isPermanent: true,
        message: expect.stringMatching(/^the channel's configuration is not valid: /),
      });
      expect(failure.message).not.toContain('sesame');
    }
    expect(received).toEqual([]);
  });
});

describe('where nothing may be sent', () => {
  test.each([
    ['webhook', 'url'],
    ['slack', 'url'],
    ['alertmanager', 'url'],
  ] as const)('%s: this machine, where that is denied', async (type, key) => {
    const { url, received } = await serveKeeping();
    const { host, port } = new URL(url);
    for (const address of [url, `http://localhost:${port}`, `http://[::ffff:127.0.0.1]:${port}`]) {
      const failure = await failureOf(send(type, { [key]: address }, { egress: 'deny' }));
      expect(failure.message).toMatch(
        /^refused: .* is a loopback address, which this deployment does not reach/,
      );
      expect(failure.isPermanent).toBe(true);
    }
    expect(received).toEqual([]);
    await send(type, { [key]: `http://${host}` }, { egress: 'allow' });
    expect(received.length).toBe(1);
  });

  test.each([
    ['webhook', { url: 'http://169.254.169.254/latest/meta-data/' }],
    ['slack', { url: 'http://[fd00:ec2::254]/' }],
    ['alertmanager', { url: 'http://[::ffff:a9fe:a9fe]/' }],
    ['email', { to: ['a@b.test'], smtp_url: 'smtp://169.254.169.254:25' }],
  ] as const)('%s: metadata services, ever', async (type, config) => {
    const failure = await failureOf(send(type, config, { egress: 'allow' }));
    expect(failure.message).toMatch(/^refused: .* address, which is never reached/);
    expect(failure.isPermanent).toBe(true);
  });
});

describe('secrets', () => {
  const secrets = {
    path: 'T0123456789abcdef',
    query: 'q-s3cret',
    header: 'h-s3cret',
    signing: 'sign-s3cret',
    user: 'us-er',
    password: 'p@ss/wörd',
    bearer: 'bearer-s3cret',
  };
  const basic = Buffer.from(`${secrets.user}:${secrets.password}`).toString('base64');
  const cases: [Type, (url: string) => Record<string, unknown>, string[]][] = [
    [
      'webhook',
      (url) => ({
        url: `${url}/services/${secrets.path}?token=${secrets.query}`,
        secret: secrets.signing,
        headers: { Authorization: `Bearer ${secrets.bearer}`, 'X-Key': secrets.header },
      }),
      [secrets.path, secrets.query, secrets.signing, secrets.bearer, secrets.header, '/services'],
    ],
    ['slack', (url) => ({ url: `${url}/services/${secrets.path}` }), [secrets.path, '/services']],
    [
      'alertmanager',
      (url) => ({ url: `${url}/am`, username: secrets.user, password: secrets.password }),
      [secrets.password, basic],
    ],
    ['alertmanager', (url) => ({ url: `${url}/am`, bearer_token: secrets.bearer }), [secrets.bearer]],
  ];

  test.each(cases)(
    '%s: are not in what is said of it, even where the receiver repeats them',
    async (type, config, hidden) => {
      let status = 500;
      let seen = '';
      const url = await serveHttp((request, response) => {
        seen = `${request.url} ${JSON.stringify(request.headers)}`;
        const [, , segment, query] = request.url!.split(/[/?]/);
        response
          .writeHead(status)
          .end(`Cannot POST ${seen} ${segment} ${query?.split('=')[1]} ${secrets.signing}`);
      });
      const failure = await failureOf(send(type, config(url)));
      status = 200;
      const { detail } = await send(type, config(url));
      const refused = await failureOf(send(type, config(`http://127.0.0.1:${await closedPort()}`)));
      const late = await failureOf(send(type, config(await serveRaw(() => {})), { timeoutMs: 100 }));
      const denied = await failureOf(send(type, config(url), { egress: 'deny' }));
      expect(failure.message).toMatch(/^the receiver answered 500: Cannot POST \*\*\*/);
      expect(detail).toMatch(/^Cannot POST \*\*\*/);
      const said = [failure, refused, late, denied].map((error) => `${error.stack} ${JSON.stringify(error)}`);
      for (const text of [...said, detail]) for (const secret of hidden) expect(text).not.toContain(secret);
      // That they were there to be repeated.
      if (type === 'webhook') for (const secret of hidden.slice(0, 2)) expect(seen).toContain(secret);
      if (type === 'alertmanager') expect(seen).toContain(hidden.at(-1));
    },
  );
});

describe('TLS', () => {
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

  async function certificate(name: string, isSigned: boolean): Promise<{ key: string; cert: string }> {
    const { private: key, cert } = await generate([{ name: 'commonName', value: name }], {
      keyType: 'ec',
      algorithm: 'sha256',
      extensions: [{ name: 'subjectAltName', altNames: [{ type: 2, value: name }] }],
      ...(isSigned ? { ca: { key: authority.private, cert: authority.cert } } : {}),
    } as never);
    return { key, cert };
  }

  test('an https receiver whose certificate is in order', async () => {
    const server = tls.createServer(await certificate('localhost', true), (socket) => {
      socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
    });
    const url = `https://localhost:${await listen(server)}/`;
    expect(await send('webhook', { url })).toEqual({ response_code: 200, detail: 'ok' });
  });

  test.each([
    ['self-signed', 'localhost', false, 'it is self-signed'],
    ['for another host', 'elsewhere.test', true, 'it is for another host name'],
  ])('one that is %s gets nothing', async (_name, host, isSigned, what) => {
    let bytes = 0;
    const server = tls.createServer(await certificate(host, isSigned), (socket) => {
      socket.on('error', () => {});
      socket.on('data', (chunk) => {
        bytes += chunk.length;
      });
    });
    server.on('tlsClientError', () => {});
    const port = await listen(server);
    const failure = await failureOf(send('webhook', { url: `https://localhost:${port}/` }));
    expect(failure.message).toBe(`the certificate is not valid: ${what} (localhost:${port})`);
    expect(failure.isPermanent).toBe(false);
    expect(bytes).toBe(0);
  });

  test('a mail server whose certificate is in order, from the start or by STARTTLS', async () => {
    const keys = await certificate('localhost', true);
    for (const secure of [true, false]) {
      const { port, mails } = await serveSmtp({ ...keys, secure });
      await send('email', { to: ['a@b.test'], smtp_url: `smtp${secure ? 's' : ''}://localhost:${port}` });
      expect(mails[0]!.isEncrypted).toBe(true);
    }
  });

  test('one whose certificate is not gets nothing, from the start or by STARTTLS', async () => {
    for (const [keys, what] of [
      [await certificate('localhost', false), 'it is self-signed'],
      [await certificate('elsewhere.test', true), 'it is for another host name'],
    ] as const)
      for (const secure of [true, false]) {
        const { port, mails } = await serveSmtp({ ...keys, secure });
        const smtp_url = `smtp${secure ? 's' : ''}://user:sesame@localhost:${port}`;
        const failure = await failureOf(send('email', { to: ['a@b.test'], smtp_url }));
        expect(failure.message).toBe(`the certificate is not valid: ${what} (localhost:${port})`);
        expect(failure.isPermanent).toBe(false);
        expect(mails).toEqual([]);
      }
  });
});

interface Mail {
  raw: string;
  from: string;
  to: string[];
  user: unknown;
  isEncrypted: boolean;
}

/** A mail server that keeps what it gets; without STARTTLS unless it has a certificate. */
async function serveSmtp(options: SMTPServerOptions = {}, host?: string) {
  const mails: Mail[] = [];
  const server = new SMTPServer({
    authOptional: true,
    disabledCommands: options.key ? [] : ['STARTTLS'],
    allowInsecureAuth: true,
    disableReverseLookup: true,
    logger: false,
    onData: async (stream, session, callback) => {
      const raw = Buffer.concat(await Array.fromAsync(stream)).toString();
      const { mailFrom, rcptTo } = session.envelope;
      mails.push({
        raw,
        from: mailFrom ? mailFrom.address : '',
        to: rcptTo.map(({ address }) => address),
        user: session.user,
        isEncrypted: session.secure,
      });
      callback(null, 'queued as 42');
    },
    ...options,
  });
  server.on('error', () => {});
  const port = await listen(server.server, host);
  return { port, mails, url: `smtp://127.0.0.1:${port}` };
}

const smtpError = (code: number, text: string) => Object.assign(new Error(text), { responseCode: code });

/** The headers, by lower-case name, and the decoded bodies of text and HTML. */
function parseMail(raw: string) {
  const { headers, body } = split(raw);
  const boundary = /boundary="([^"]+)"/.exec(headers['content-type']!)![1]!;
  const parts = body
    .split(`--${boundary}`)
    .slice(1, -1)
    .map((part) => split(part.replace(/^\r\n/, '')));
  const part = (type: string) => {
    const found = parts.find(({ headers }) => headers['content-type']!.startsWith(type))!;
    return decodeBody(found.body, found.headers['content-transfer-encoding']!);
  };
  return { headers, text: part('text/plain'), html: part('text/html') };
}

function split(raw: string): { headers: Record<string, string>; body: string } {
  const end = raw.indexOf('\r\n\r\n');
  const lines = raw
    .slice(0, end)
    .replace(/\r\n[ \t]+/g, ' ')
    .split('\r\n');
  const headers = Object.fromEntries(
    lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 2)]),
  );
  return { headers, body: raw.slice(end + 4) };
}

function decodeBody(body: string, encoding: string): string {
  if (encoding === 'base64') return Buffer.from(body, 'base64').toString();
  if (encoding !== 'quoted-printable') return body;
  const joined = body.replace(/=\r\n/g, '');
  const bytes = joined.replace(/=([0-9A-F]{2})/g, (_match, hex) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
  return Buffer.from(bytes, 'latin1').toString();
}

describe('email', () => {
  const to = ['on-call@acme.test', 'Second <second@acme.test>'];

  test('says it in text and in HTML', async () => {
    const { url, mails } = await serveSmtp();
    const message = messageOf({
      summary: { firing: 2, resolved: 1 },
      alerts: [
        alertOf(),
        alertOf({
          id: '13',
          status: 'acknowledged',
          acknowledged_at: '2026-01-02T03:10:00Z',
          severity: 'info',
        }),
        alertOf({ id: '14', name: 'Disk & <full>', status: 'resolved', resolved_at: '2026-01-02T04:00:00Z' }),
      ],
      truncated_alerts: 1,
    });
    const outcome = await send('email', { to, smtp_url: url }, { message });
    expect(outcome).toEqual({ response_code: 250, detail: '250 queued as 42' });
    const [mail] = mails as [Mail];
    expect(mail).toMatchObject({
      from: 'alerts@liftos.test',
      to: ['on-call@acme.test', 'second@acme.test'],
    });
    const { headers, text, html } = parseMail(mail.raw);
    expect(headers).toMatchObject({
      from: 'LiftOS <alerts@liftos.test>',
      to: 'on-call@acme.test, Second <second@acme.test>',
      subject: '[FIRING:2] HighLatency (auth)',
      'message-id': `<${notificationId}@liftos.test>`,
      'x-notification-id': notificationId,
      'auto-submitted': 'auto-generated',
    });
    for (const part of [text, html]) {
      expect(part).toContain('2 firing, 1 resolved, 2026-01-02 04:06:10 UTC');
      expect(part).toContain('p95 is above 1 s');
      expect(part).toContain('2026-01-02 03:04:05 UTC (1 h 2 min)');
      expect(part).toContain('info, acknowledged');
      expect(part).toContain('2026-01-02 03:10:00 UTC');
      expect(part).toContain('1.25');
      expect(part).toContain('auth-1');
      expect(part).toContain('1 more alert is not shown.');
      expect(part).toContain('Organisation acme, channel on-call');
    }
    expect(text).toContain('Disk & <full>');
    expect(html).toContain('Disk &amp; &lt;full&gt;');
    expect(html).not.toContain('<full>');
    expect(html).toContain('<a href="https://wiki.test/latency?a=1&amp;b=2">');
    expect(html).toContain('name="viewport"');
  });

  test('has the same Message-ID at every attempt, and goes with the others of its group', async () => {
    const { url, mails } = await serveSmtp();
    const first = messageOf({ group_labels: { a: '1', b: '2' } });
    await send('email', { to, smtp_url: url }, { message: first });
    await send('email', { to, smtp_url: url }, { message: first });
    const next = { ...first, notification_id: '0198f3f2-0000-7cc3-98c4-dc0c0c07398f' };
    await send('email', { to, smtp_url: url }, { message: { ...next, group_labels: { b: '2', a: '1' } } });
    await send('email', { to, smtp_url: url }, { message: { ...next, group_labels: { a: '1' } } });
    await send('email', { to, smtp_url: url }, { message: { ...next, channel: 'other' } });
    const headers = mails.map(({ raw }) => parseMail(raw).headers);
    const ids = headers.map((one) => one['message-id']);
    expect(ids[1]).toBe(ids[0]);
    expect(ids[2]).not.toBe(ids[0]);
    const threads = headers.map((one) => one.references);
    expect(threads[0]).toMatch(/^<[0-9a-f]{32}@liftos\.test>$/);
    expect(headers.map((one) => one['in-reply-to'])).toEqual(threads);
    expect(threads[1]).toBe(threads[0]);
    expect(threads[2]).toBe(threads[0]);
    expect(new Set(threads).size).toBe(3);
  });

  test.each([
    ['[RESOLVED] HighLatency (auth)', { status: 'resolved', alerts: [alertOf({ status: 'resolved' })] }],
    ['[TEST] HighLatency (auth)', { kind: 'test' }],
    ['[FIRING:1] HighLatency', { alerts: [alertOf({ service_name: null })] }],
    [
      '[FIRING:5] A and 2 more (auth, api)',
      {
        summary: { firing: 5, resolved: 1 },
        alerts: [
          alertOf({ name: 'A' }),
          alertOf({ name: 'B', service_name: 'api' }),
          alertOf({ name: 'C' }),
          alertOf({ name: 'D', service_name: 'gone', status: 'resolved' }),
        ],
      },
    ],
    [
      '[FIRING:1] A Bcc: thief@evil.test (a b)',
      { alerts: [alertOf({ name: 'A\r\nBcc: thief@evil.test', service_name: 'a\nb' })] },
    ],
  ] as [string, Partial<Message>][])('has the subject %s', async (subject, more) => {
    const { url, mails } = await serveSmtp();
    await send('email', { to, smtp_url: url }, { message: messageOf(more) });
    const { headers } = parseMail(mails[0]!.raw);
    expect(headers.subject).toBe(subject);
    expect(headers).not.toHaveProperty('bcc');
    expect(mails[0]!.to).toEqual(['on-call@acme.test', 'second@acme.test']);
  });

  test('of a hundred hostile alerts is whole, and does nothing', async () => {
    const { url, mails } = await serveSmtp();
    await send('email', { to, smtp_url: url }, { message: hugeMessage });
    const { headers, text, html } = parseMail(mails[0]!.raw);
    expect(headers).not.toHaveProperty('bcc');
    expect(mails[0]!.to).toEqual(['on-call@acme.test', 'second@acme.test']);
    expect(mails[0]!.raw.length).toBeLessThan(20 * 1024 ** 2);
    expect(html.match(/border-left/g)).toHaveLength(100);
    expect(text).toContain('99 <!channel>');
    const tags = new Set(html.match(/<\/?[a-z!][^\s>]*/gi));
    expect(
      [...tags].filter((tag) => !/^<\/?(!doctype|html|head|meta|body|div|h2|p|table|tr|td|a)$/.test(tag)),
    ).toEqual([]);
    expect(html).not.toMatch(/<[^>]*onmouseover/);
  });

  test("falls back to the deployment's mail server, or says that there is none", async () => {
    const { url, mails } = await serveSmtp();
    const smtp = { url, from: 'obs@liftos.test' };
    await send('email', { to }, { smtp });
    await send('email', { to, smtp_url: null, from: 'Acme <acme@acme.test>' }, { smtp });
    // Through which nobody but the deployment itself is heard.
    await send('email', { to, smtp_url: url, from: 'Acme <acme@acme.test>' }, { smtp });
    expect(mails.map(({ from }) => from)).toEqual(['obs@liftos.test', 'obs@liftos.test', 'acme@acme.test']);
    const failure = await failureOf(send('email', { to }));
    expect(failure.message).toMatch(/SMTP_URL/);
    expect(failure.isPermanent).toBe(true);
  });

  test.each([
    [{}, /to/],
    [{ to: [] }, /to/],
    [{ to, smtp_url: 'http://mail.test' }, /smtp_url: expected one such as smtp:/],
    [{ to, smtp_url: 'smtp://user:sesame@mail.test?pool=true' }, /smtp_url: expected one such as smtp:/],
    [{ to: ['<>'], smtp_url: 'here' }, /No recipients defined/],
    [{ to, smtp_url: 'smtp://user@here' }, /Missing credentials/],
  ])('with the configuration %j is not tried again', async (config, message) => {
    const { url } = await serveSmtp();
    const smtp_url = (config as { smtp_url?: string }).smtp_url?.replace(/here$/, new URL(url).host);
    const failure = await failureOf(
      send('email', { ...config, smtp_url: smtp_url === new URL(url).host ? url : smtp_url }),
    );
    expect(failure.message).toMatch(/^the channel's configuration is not valid: /);
    expect(failure.message).toMatch(message);
    expect(failure.message).not.toContain('sesame');
    expect(failure.isPermanent).toBe(true);
  });

  test.each([
    [451, 'try again later', false],
    [421, 'too busy', false],
    [550, 'no such user', true],
    [554, 'spam', true],
  ])('that is answered with %i %s: is that for good? %s', async (code, text, isPermanent) => {
    const error = smtpError(code, text);
    const refusing: SMTPServerOptions[] = [
      { onMailFrom: (_address, _session, callback) => callback(error) },
      { onRcptTo: (_address, _session, callback) => callback(error) },
      { onData: (stream, _session, callback) => stream.on('end', () => callback(error)).resume() },
    ];
    const commands: string[] = [];
    for (const options of refusing) {
      const { url, mails } = await serveSmtp(options);
      const failure = await failureOf(send('email', { to, smtp_url: url }));
      expect(failure).toMatchObject({ response_code: code, isPermanent, retryAfterSeconds: null });
      commands.push(failure.message);
      expect(mails).toEqual([]);
    }
    // 421 ends the connection, which may be what is noticed first.
    expect(commands.map((said) => (code === 421 ? said.replace(/ \S+( TO| FROM)? with/, '') : said))).toEqual(
      ['MAIL FROM', 'RCPT TO', 'DATA'].map((name) =>
        code === 421
          ? `the mail server answered ${code} ${text}`
          : `the mail server answered ${name} with ${code} ${text}`,
      ),
    );
  });

  test('that one recipient of two gets is delivered, and says who did not get it', async () => {
    const { url, mails } = await serveSmtp({
      onRcptTo: ({ address }, _session, callback) =>
        callback(address.startsWith('second') ? smtpError(550, 'no such user') : null),
    });
    const outcome = await send('email', { to, smtp_url: url });
    expect(mails[0]!.to).toEqual(['on-call@acme.test']);
    expect(outcome).toEqual({
      response_code: 250,
      detail: '250 queued as 42; refused for second@acme.test: 550 no such user',
    });
  });

  test('logs in, and does not tell the password when that fails', async () => {
    const password = 'p@ss/wörd%';
    for (const method of ['PLAIN', 'LOGIN']) {
      const { port, mails } = await serveSmtp({
        authOptional: false,
        authMethods: [method],
        onAuth: ({ username, password: given }, _session, callback) => {
          const plain = Buffer.from(`\0${username}\0${given}`).toString('base64');
          const base64 = Buffer.from(given!).toString('base64');
          if (given === password) callback(null, { user: username });
          else callback(smtpError(535, `wrong: ${given} ${encodeURIComponent(given!)} ${base64} ${plain}`));
        },
      });
      const smtpUrl = (text: string) => `smtp://us%40er:${encodeURIComponent(text)}@127.0.0.1:${port}`;
      await send('email', { to, smtp_url: smtpUrl(password) });
      await send('email', { to }, { smtp: { url: smtpUrl(password), from: 'a@b.test' } });
      expect(mails.map(({ user }) => user)).toEqual(['us@er', 'us@er']);
      for (const failing of [
        send('email', { to, smtp_url: smtpUrl('s3same/ö') }),
        send('email', { to }, { smtp: { url: smtpUrl('s3same/ö'), from: 'a@b.test' } }),
      ]) {
        const failure = await failureOf(failing);
        expect(failure.message).toBe(
          `the mail server answered AUTH ${method} with 535 wrong: *** *** *** ***`,
        );
        expect(failure).toMatchObject({ response_code: 535, isPermanent: true });
        expect(failure.stack).not.toContain('s3same');
      }
      const anonymous = await failureOf(send('email', { to, smtp_url: `smtp://127.0.0.1:${port}` }));
      expect(anonymous).toMatchObject({ response_code: 530, isPermanent: true });
    }
  });

  const outer = Object.values(os.networkInterfaces())
    .flatMap((list) => list ?? [])
    .find(({ family, internal }) => family === 'IPv4' && !internal)?.address;

  test.skipIf(!outer)('sends no password over a network unencrypted', async () => {
    const attempts: unknown[] = [];
    const { port, mails } = await serveSmtp(
      {
        onAuth: (auth, _session, callback) => {
          attempts.push(auth.username);
          callback(null, { user: auth.username });
        },
      },
      outer,
    );
    const failure = await failureOf(send('email', { to, smtp_url: `smtp://user:sesame@${outer}:${port}` }));
    expect(failure.message).toMatch(/^the mail server answered STARTTLS with 5/);
    expect(attempts).toEqual([]);
    await send('email', { to, smtp_url: `smtp://${outer}:${port}` });
    expect(mails.length).toBe(1);
  });

  test.each([
    [
      'accepts and says nothing',
      () => {},
      /^no answer within 0\.[34] s while talking to the mail server \(127/,
    ],
    [
      'greets and says no more',
      (socket: net.Socket) => socket.write('220 here\r\n'),
      /^no answer within 0\.[34] s while talking to the mail server/,
    ],
    [
      'closes at once',
      (socket: net.Socket) => socket.end(),
      /^Connection closed unexpectedly, while talking/,
    ],
    [
      'resets',
      (socket: net.Socket) => socket.resetAndDestroy(),
      /(reset|closed).* while (talking|connecting)/,
    ],
    [
      'speaks something else',
      (socket: net.Socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'),
      /Invalid greeting|Connection closed/,
    ],
    [
      'is too busy',
      (socket: net.Socket) => socket.end('421 come back later\r\n'),
      /^the mail server answered 421 come back later$/,
    ],
    [
      'wants nothing of us',
      (socket: net.Socket) => socket.end('554 go away\r\n'),
      /^the mail server answered 554 go away$/,
    ],
  ])('to a server that %s', async (_name, answer, message) => {
    const port = await listen(net.createServer((socket) => answer(socket.resume())));
    const began = performance.now();
    const failure = await failureOf(
      send('email', { to, smtp_url: `smtp://127.0.0.1:${port}` }, { timeoutMs: 300 }),
    );
    expect(failure.message).toMatch(message);
    expect(failure.isPermanent).toBe(failure.response_code === 554);
    expect(performance.now() - began).toBeLessThan(2000);
    await sleep(50);
    expect([...sockets].filter((socket) => socket.localPort === port)).toEqual([]);
  });

  test('to a server that is not there', async () => {
    const port = await closedPort();
    expect(await failureOf(send('email', { to, smtp_url: `smtp://127.0.0.1:${port}` }))).toMatchObject({
      message: `the connection was refused while connecting to 127.0.0.1:${port}`,
      isPermanent: false,
    });
  });

  test('goes to no address that is denied, and stops when it is called off', async () => {
    let connections = 0;
    const port = await listen(net.createServer(() => connections++));
    for (const host of ['127.0.0.1', 'localhost', '[::ffff:127.0.0.1]', '0x7f.1']) {
      const smtp_url = `smtp://${host}:${port}`;
      const failure = await failureOf(send('email', { to, smtp_url }, { egress: 'deny' }));
      expect(failure.message).toMatch(/^refused: .* loopback address, which this deployment does not reach/);
      expect(failure.isPermanent).toBe(true);
    }
    expect(connections).toBe(0);
    const stop = new AbortController();
    setTimeout(() => stop.abort(new Error('shutting down')), 50);
    const smtp_url = `smtp://127.0.0.1:${port}`;
    await expect(send('email', { to, smtp_url }, { signal: stop.signal })).rejects.toThrow(/^shutting down$/);
    await expect(send('email', { to, smtp_url }, { signal: stop.signal })).rejects.toThrow(/^shutting down$/);
    expect(connections).toBe(1);
  });
});

// What Slack says of its blocks: https://docs.slack.dev/reference/block-kit/blocks
interface Text {
  type: string;
  text: string;
}
interface Block {
  type: string;
  text?: Text;
  fields?: Text[];
  elements?: Text[];
}
interface Payload {
  text: string;
  blocks: Block[];
  attachments: { color: string; fallback: string; blocks: Block[] }[];
}

function blocksOf({ blocks, attachments }: Payload): Block[] {
  return [...blocks, ...attachments.flatMap((attachment) => attachment.blocks)];
}

function checkBlocks(payload: Payload) {
  const within = (text: Text, type: string, length: number) => {
    expect(text.type).toBe(type);
    expect(text.text.length).toBeGreaterThan(0);
    expect(text.text.length).toBeLessThanOrEqual(length);
    expect(text.text.isWellFormed()).toBe(true);
  };
  expect(blocksOf(payload).length).toBeLessThanOrEqual(50);
  expect(payload.attachments.length).toBeLessThanOrEqual(20);
  expect(payload.text.length).toBeLessThanOrEqual(4000);
  for (const block of blocksOf(payload)) {
    if (block.type === 'header') within(block.text!, 'plain_text', 150);
    else if (block.type === 'section') {
      within(block.text!, 'mrkdwn', 3000);
      expect(block.fields!.length).toBeLessThanOrEqual(10);
      for (const field of block.fields!) within(field, 'mrkdwn', 2000);
    } else {
      expect(block.type).toBe('context');
      expect(block.elements!.length).toBeLessThanOrEqual(10);
      for (const element of block.elements!) within(element, 'mrkdwn', 3000);
    }
  }
}

describe('Slack', () => {
  async function payloadOf(message: Message): Promise<Payload> {
    const { url, received } = await serveKeeping();
    expect(await send('slack', { url: `${url}/services/T0/B0/x` }, { message })).toEqual({
      response_code: 200,
      detail: 'ok',
    });
    expect(received[0]!.headers).toMatchObject({
      'content-type': 'application/json',
      'idempotency-key': notificationId,
    });
    return JSON.parse(received[0]!.body);
  }

  test('gets a header, a line of counts, and a coloured section for each alert', async () => {
    const payload = await payloadOf(
      messageOf({
        summary: { firing: 1, resolved: 1 },
        alerts: [alertOf(), alertOf({ name: 'Disk', status: 'resolved', value: null, rule_name: null })],
      }),
    );
    checkBlocks(payload);
    expect(payload.text).toBe('[FIRING:1] HighLatency (auth)');
    const [header, context] = payload.blocks as [Block, Block];
    expect(header.text!.text).toBe('🔴 [FIRING:1] HighLatency (auth)');
    expect(context.elements![0]!.text).toBe(
      '1 firing, 1 resolved, <!date^1767326770^{date_short_pretty} {time_secs}|2026-01-02 04:06:10 UTC>  |  organisation acme, channel on-call',
    );
    expect(payload.attachments.map(({ color }) => color)).toEqual(['#c62828', '#2e7d32']);
    const [first, second] = payload.attachments.map(({ blocks }) => blocks[0]!) as [Block, Block];
    expect(first.text!.text).toBe('🔴 *HighLatency*\np95 is above 1 s');
    expect(first.fields!.map(({ text }) => text)).toEqual([
      '*Service*\nauth',
      '*Status*\ncritical, firing',
      '*Since*\n<!date^1767323045^{date_short_pretty} {time_secs}|2026-01-02 03:04:05 UTC> (1 h 2 min)',
      '*Value*\n1.25',
      '*Rule*\nlatency of auth',
      '*Labels*\nregion=eu, pod-name=auth-1',
      '*Annotations*\nrunbook=https://wiki.test/latency?a=1&amp;b=2',
    ]);
    expect(second.text!.text).toContain('🟢 *Disk*');
    expect(second.fields!.length).toBe(5);
  });

  test('gets a message of a hundred hostile alerts within its limits, and nobody is called by it', async () => {
    const payload = await payloadOf(hugeMessage);
    checkBlocks(payload);
    expect(payload.attachments.length).toBe(10);
    expect(payload.blocks[1]!.elements![0]!.text).toContain('113 more alerts are not shown');
    const texts = [payload.text, ...payload.attachments.map(({ fallback }) => fallback)];
    for (const block of blocksOf(payload))
      texts.push(
        ...[block.text, ...(block.fields ?? []), ...(block.elements ?? [])].map((one) => one?.text ?? ''),
      );
    for (const text of texts) {
      const rest = text.replace(/<!date\^\d+\^[^|<>]*\|[^|<>]*>/g, '').replace(/&(amp|lt|gt);/g, '');
      expect(rest).not.toMatch(/[<>&\0]/);
    }
    expect(payload.text).toContain('&lt;!channel&gt; &lt;b');
    for (const block of blocksOf(payload))
      for (const text of [block.text, ...(block.fields ?? []), ...(block.elements ?? [])])
        if (text?.type === 'mrkdwn') expect(text).toMatchObject({ verbatim: true });
  });

  test.each([0, 1])('gets no half of a character, %i on', async (offset) => {
    const name = 'x'.repeat(offset) + '😀'.repeat(2000);
    const alert = alertOf({ name, description: name, service_name: name, labels: { name } });
    checkBlocks(await payloadOf(messageOf({ alerts: [alert] })));
  });

  test('says that a test is one', async () => {
    const payload = await payloadOf(messageOf({ kind: 'test' }));
    expect(payload.text).toBe('[TEST] HighLatency (auth)');
    expect(payload.blocks[1]!.elements![0]!.text).toMatch(/^This is a test\./);
  });

  test('says why it refuses', async () => {
    const { url } = await serveKeeping(404, 'no_service');
    expect(await failureOf(send('slack', { url }))).toMatchObject({
      message: 'the receiver answered 404: no_service',
      isPermanent: true,
    });
  });
});

describe('an Alertmanager', () => {
  test('gets alerts at its API, below the path it has, with what it is to be let in by', async () => {
    const { url, received } = await serveKeeping(200, '');
    expect(await send('alertmanager', { url })).toEqual({ response_code: 200, detail: null });
    await send('alertmanager', { url: `${url}/am/`, username: 'user', password: 'p:ss' });
    await send('alertmanager', { url: `${url}/am`, bearer_token: 'token' });
    expect(received.map(({ url, headers }) => [url, headers.authorization])).toEqual([
      ['/api/v2/alerts', undefined],
      ['/am/api/v2/alerts', `Basic ${Buffer.from('user:p:ss').toString('base64')}`],
      ['/am/api/v2/alerts', 'Bearer token'],
    ]);
  });

  test('gets names that it knows, and instants in their order', async () => {
    const { url, received } = await serveKeeping();
    const alerts = [
      alertOf({
        labels: {
          'pod-name': 'minus',
          pod_name: 'right',
          'pod.name': 'dot',
          '9lives': 'cat',
          ärger: 'x',
          severity: 'low',
          status: 'mine',
          constructor: 'c',
          '': 'empty',
        },
        annotations: { 'a b': '1', description: 'its own' },
        service_name: null,
      }),
      alertOf({ status: 'acknowledged', labels: {}, annotations: {}, description: null }),
      alertOf({ status: 'resolved', resolved_at: '2026-01-02T03:30:00+02:00', labels: {} }),
    ];
    await send('alertmanager', { url }, { message: messageOf({ alerts }) });
    const [named, plain, resolved] = JSON.parse(received[0]!.body);
    expect(named.labels).toEqual({
      alertname: 'HighLatency',
      severity: 'critical',
      org: 'acme',
      pod_name: 'right',
      _9lives: 'cat',
      _rger: 'x',
      status: 'mine',
      constructor: 'c',
      _: 'empty',
    });
    expect(named.annotations).toEqual({ a_b: '1', description: 'its own' });
    expect(plain).toEqual({
      labels: { alertname: 'HighLatency', severity: 'critical', service: 'auth', org: 'acme' },
      annotations: {},
      startsAt: '2026-01-02T03:04:05.000Z',
      endsAt: '2026-01-02T04:16:10.000Z',
    });
    expect(resolved.annotations.description).toBe('p95 is above 1 s');
    // It was resolved before it began, by somebody's clock.
    expect(resolved.endsAt).toBe(resolved.startsAt);
  });

  test('that refuses says why, and is not asked again', async () => {
    const { url } = await serveKeeping(400, '"invalid label set: empty label value"');
    expect(await failureOf(send('alertmanager', { url }))).toMatchObject({
      message: 'the receiver answered 400: "invalid label set: empty label value"',
      response_code: 400,
      isPermanent: true,
    });
  });
});

const program = '/usr/bin/prometheus-alertmanager';

/** Installs Debian's Alertmanager where that can be done. Why it is not there, or null. */
function alertmanagerObstacle(): string | null {
  const isThere = () => !spawnSync(program, ['--version']).error;
  if (isThere()) return null;
  if (process.getuid?.() !== 0 || spawnSync('apt-get', ['--version']).error)
    return 'is not installed: apt-get install prometheus-alertmanager';
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const apt = (...args: string[]) => spawnSync('apt-get', args, { env, stdio: 'ignore' }).status === 0;
  for (let attempt = 0; attempt < 2 && !isThere(); attempt++) {
    apt('update', '-qq');
    apt('install', '-y', '-qq', '--no-install-recommends', 'prometheus-alertmanager');
  }
  return isThere() ? null : 'cannot be installed: apt-get install prometheus-alertmanager fails';
}

const obstacle = alertmanagerObstacle();

describe.skipIf(obstacle)(`Debian's Alertmanager${obstacle ? `, which ${obstacle}` : ''}`, () => {
  let url: string;
  let stop: () => Promise<void>;

  beforeAll(async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'alertmanager-'));
    writeFileSync(path.join(folder, 'config.yml'), 'route: {receiver: none}\nreceivers: [{name: none}]\n');
    const port = await closedPort();
    url = `http://127.0.0.1:${port}`;
    const child = spawn(
      program,
      [
        `--config.file=${path.join(folder, 'config.yml')}`,
        `--storage.path=${folder}`,
        `--web.listen-address=127.0.0.1:${port}`,
        '--cluster.listen-address=',
      ],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    let output = '';
    child.stderr.on('data', (chunk) => {
      output += chunk;
    });
    const exited = once(child, 'exit');
    stop = async () => {
      child.kill('SIGTERM');
      await exited;
      rmSync(folder, { recursive: true, force: true });
    };
    for (let i = 0; !(await isReady()); i++) {
      if (i === 100 || child.exitCode !== null) throw new Error(`Alertmanager did not start:\n${output}`);
      await sleep(100);
    }
  });
  afterAll(() => stop?.());

  const isReady = () =>
    fetch(`${url}/-/ready`).then(
      ({ ok }) => ok,
      () => false,
    );

  async function shown(): Promise<Record<string, unknown>[]> {
    const response = await fetch(`${url}/api/v2/alerts`);
    return (await response.json()) as Record<string, unknown>[];
  }

  test('shows an alert while it fires, and no more when it is resolved', async () => {
    const started = new Date(Date.now() - 60_000).toISOString();
    const now = new Date().toISOString();
    const firing = alertOf({ started_at: started, labels: { 'pod-name': 'a', ü: '"\n😀' } });
    const other = alertOf({ name: 'Disk', started_at: started, status: 'acknowledged', service_name: null });
    await send('alertmanager', { url }, { message: messageOf({ created_at: now, alerts: [firing, other] }) });
    const expected = {
      labels: {
        alertname: 'HighLatency',
        severity: 'critical',
        service: 'auth',
        org: 'acme',
        pod_name: 'a',
        _: '"\n😀',
      },
      annotations: { description: 'p95 is above 1 s', runbook: 'https://wiki.test/latency?a=1&b=2' },
      startsAt: started,
      endsAt: new Date(Date.parse(now) + 600_000).toISOString(),
      status: { state: expect.stringMatching(/^(unprocessed|active)$/) },
    };
    const both = await shown();
    expect(both.map(({ labels }) => (labels as { alertname: string }).alertname).sort()).toEqual([
      'Disk',
      'HighLatency',
    ]);
    expect(both).toContainEqual(
      expect.objectContaining({ ...expected, status: expect.objectContaining(expected.status) }),
    );

    const resolved = { ...firing, status: 'resolved', resolved_at: new Date().toISOString() } as const;
    await send(
      'alertmanager',
      { url },
      { message: messageOf({ status: 'resolved', created_at: now, alerts: [resolved] }) },
    );
    const rest = await shown();
    expect(rest.map(({ labels }) => (labels as { alertname: string }).alertname)).toEqual(['Disk']);
  });

  test('takes a hundred hostile alerts', async () => {
    const before = (await shown()).length;
    const message = { ...hugeMessage, created_at: new Date().toISOString() };
    // Half a megabyte of labels takes it a while, beside other tests.
    const outcome = await send('alertmanager', { url }, { message, timeoutMs: 50_000 });
    expect(outcome).toEqual({ response_code: 200, detail: null });
    expect((await shown()).length).toBe(before + 100);
  });

  test('whose address is wrong says so', async () => {
    const failure = await failureOf(send('alertmanager', { url: `${url}/elsewhere` }));
    expect(failure).toMatchObject({ response_code: 404, isPermanent: true });
  });
});
