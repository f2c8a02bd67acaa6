// Channels and notifications over HTTP: made, changed and tested, what each is told, and the ledger of it. A worker delivers to
// receivers on this machine.
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createSealer } from '../../src/seal.ts';
import { type Call, type TestApi, useApi } from '../support/api.ts';
import { type Service, signToken, startService } from '../support/process.ts';

const secretsKey = 'ab'.repeat(32);
const api = useApi({ SECRETS_KEY: secretsKey });
const mask = '••••';
const sealer = createSealer([Buffer.from(secretsKey, 'hex')]);

/** A channel's configuration as it was given, from what is stored of it. */
async function stored(id: string): Promise<Record<string, unknown>> {
  const [row] = await api.sql<{ org_id: number; config: Record<string, unknown> }[]>`
    select org_id, config from obs.channel where id = ${id}`;
  return sealer.open(row!.org_id, row!.config);
}

const make = (body: object, call: Call = {}) => api.call('POST', '/api/v1/channels', { body, ...call });
const get = (id: string, call: Call = {}) => api.call('GET', `/api/v1/channels/${id}`, call);
const patch = (id: string, body: object, call: Call = {}) =>
  api.call('PATCH', `/api/v1/channels/${id}`, { body, ...call });
const remove = (id: string, call: Call = {}) => api.call('DELETE', `/api/v1/channels/${id}`, call);
const sendTest = (id: string, call: Call = {}) => api.call('POST', `/api/v1/channels/${id}/test`, call);
const list = async (query = '', call: Call = {}) =>
  (await api.call('GET', `/api/v1/channels${query}`, call)).body;
const notificationsOf = async (query = '', call: Call = {}) =>
  (await api.call('GET', `/api/v1/notifications${query}`, call)).body;
const notificationOf = async (id: string, call: Call = {}) =>
  (await api.call('GET', `/api/v1/notifications/${id}`, call)).body;
const resend = (id: string, call: Call = {}) => api.call('POST', `/api/v1/notifications/${id}/resend`, call);
const open = async (name: string, more: object = {}, call: Call = {}) => {
  const { status, body } = await api.call('POST', '/api/v1/alerts', {
    ...call,
    body: { name, severity: 'info', ...more },
  });
  expect(status).toBe(201);
  return body;
};
const resolve = (id: string, call: Call = {}) => api.call('PUT', `/api/v1/alerts/${id}/resolve`, call);
const pathsOf = (body: { errors: { path: string }[] }) => body.errors.map(({ path }) => path);

interface Received {
  path: string;
  headers: http.IncomingHttpHeaders;
  body: string;
}

const received: Received[] = [];
/** How the receiver answers a path, from now on; 200 where nothing is said. */
const answers = new Map<string, { status: number; text?: (request: Received) => string }>();
const receiver = http.createServer(async (request, response) => {
  const got = {
    path: request.url!,
    headers: request.headers,
    body: Buffer.concat(await Array.fromAsync(request)).toString(),
  };
  received.push(got);
  const { status, text } = answers.get(got.path) ?? { status: 200 };
  response.writeHead(status).end(text?.(got) ?? 'taken');
});
const receivedAt = (path: string) => received.filter((request) => request.path === path);
let base: string;

beforeAll(async () => {
  receiver.listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  base = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}`;
});
afterAll(() => {
  receiver.closeAllConnections();
  receiver.close();
});

/** A webhook to a path of the receiver, that is told at once. */
async function hook(path: string, more: object = {}, call: Call = {}) {
  const { status, body } = await make(
    {
      name: path,
      type: 'webhook',
      config: { url: base + path },
      group_wait_seconds: 0,
      group_interval_seconds: 0,
      ...more,
    },
    call,
  );
  expect(status).toBe(201);
  return body;
}

const configs = {
  webhook: { url: 'https://hooks.test/way/in?key=value', secret: 's'.repeat(32), headers: { 'X-Key': 'k' } },
  slack: { url: 'https://hooks.slack.test/services/T0/B0/xyz' },
  email: { to: ['a@ops.test', 'b@ops.test'], from: 'obs@ops.test', smtp_url: 'smtps://u:p@mail.test:465' },
  alertmanager: {
    url: 'http://alertmanager.test:9093/base',
    username: 'u',
    password: 'p',
    bearer_token: 't',
  },
};
const shownConfigs = {
  webhook: { url: `https://hooks.test/${mask}`, secret: mask, headers: { 'X-Key': mask } },
  slack: { url: `https://hooks.slack.test/${mask}` },
  email: {
    to: ['a@ops.test', 'b@ops.test'],
    from: 'obs@ops.test',
    smtp_url: `smtps://mail.test:465/${mask}`,
  },
  alertmanager: {
    url: 'http://alertmanager.test:9093/base',
    username: 'u',
    password: mask,
    bearer_token: mask,
  },
};
const types = ['webhook', 'slack', 'email', 'alertmanager'] as const;

describe('a channel', () => {
  test.each(types)('of type %s has its defaults', async (type) => {
    const { status, body } = await make({ name: `default ${type}`, type, config: configs[type] });
    expect(status).toBe(201);
    const { id, created_at, updated_at, ...rest } = body;
    expect(rest).toEqual({
      name: `default ${type}`,
      type,
      config: shownConfigs[type],
      severities: [],
      service_names: [],
      matchers: [],
      group_by: ['alertname', 'service'],
      group_wait_seconds: 1,
      group_interval_seconds: 5,
      repeat_interval_seconds: type === 'alertmanager' ? 300 : 14_400,
      send_resolved: true,
      timeout_seconds: 10,
      max_attempts: 20,
      enabled: true,
      created_by: 'tester',
    });
    expect(Math.abs(Date.parse(created_at) - Date.now())).toBeLessThan(10_000);
    expect(updated_at).toBe(created_at);
    expect((await get(id)).body).toEqual(body);
    expect((await list(`?q=DEFAULT%20${type}`)).channels).toEqual([body]);
    // What is stored is what was given.
    expect(await stored(id)).toEqual(configs[type]);
  });

  const fields = {
    severities: ['critical', 'info'],
    service_names: ['auth', 'billing'],
    matchers: ['team="core"', 'host!~"test-.*"'],
    group_by: ['host'],
    group_wait_seconds: 0.5,
    group_interval_seconds: 0,
    repeat_interval_seconds: 2_592_000,
    send_resolved: false,
    timeout_seconds: 1.5,
    max_attempts: 100,
    enabled: false,
  };

  test.each(types)('of type %s has every field as it was given, and each can be changed', async (type) => {
    const given = { name: `full ${type}`, type, config: configs[type], ...fields };
    const { status, body } = await make(given);
    expect(status).toBe(201);
    expect(body).toMatchObject({ ...given, config: shownConfigs[type] });
    const { body: bare } = await make({ name: `changed ${type}`, type, config: configs[type] });
    let before = bare;
    for (const [name, value] of Object.entries({ ...fields, name: `renamed ${type}` })) {
      const { status: answered, body: after } = await patch(bare.id, { [name]: value });
      expect(answered).toBe(200);
      expect(after).toEqual({ ...before, [name]: value, updated_at: after.updated_at });
      expect(Date.parse(after.updated_at)).toBeGreaterThan(Date.parse(before.updated_at));
      before = after;
    }
    expect((await get(bare.id)).body).toEqual(before);
    expect((await remove(bare.id)).status).toBe(204);
    for (const again of [
      await get(bare.id),
      await patch(bare.id, {}),
      await remove(bare.id),
      await sendTest(bare.id),
    ])
      expect([again.status, again.body.detail]).toEqual([404, 'There is no such channel.']);
  });

  test('takes matchers as text and as objects, and shows them as text', async () => {
    const { status, body } = await make({
      name: 'matchers',
      type: 'slack',
      config: configs.slack,
      matchers: [
        ' service = "auth" ',
        { label: 'on-call', value: 'a"b' },
        { label: 'host', op: '=~', value: 'web-\\d+' },
      ],
    });
    expect(status).toBe(201);
    expect(body.matchers).toEqual(['service="auth"', '"on-call"="a\\"b"', 'host=~"web-\\\\d+"']);
  });

  test('has a name that no other of the org has', async () => {
    const { body: first } = await make({ name: 'taken', type: 'slack', config: configs.slack });
    const { body: second } = await make({ name: 'free', type: 'slack', config: configs.slack });
    for (const { status, body } of [
      await make({ name: 'taken', type: 'webhook', config: configs.webhook }),
      await patch(second.id, { name: 'taken', enabled: false }),
    ]) {
      expect([status, body.code]).toEqual([409, 'name_taken']);
      expect(pathsOf(body)).toEqual(['name']);
    }
    expect((await get(second.id)).body).toEqual(second);
    expect((await patch(first.id, { name: 'taken' })).status).toBe(200);
    const elsewhere = { token: await signToken({ org_id: 'namesake' }) };
    expect((await make({ name: 'taken', type: 'slack', config: configs.slack }, elsewhere)).status).toBe(201);
  });

  test('is listed, the newest first, page after page', async () => {
    const call = { token: await signToken({ org_id: 'lists' }) };
    for (let i = 0; i < 7; i++)
      await make({ name: `list ${i}`, type: 'slack', config: configs.slack, enabled: i % 2 === 0 }, call);
    await api.sql`update obs.channel set created_at = '2026-01-01T00:00:00.5Z' where name in ('list 0', 'list 1', 'list 2', 'list 3')`;
    const seen: string[] = [];
    for (let query = '?limit=2'; ; ) {
      const page = await list(query, call);
      seen.push(...page.channels.map(({ name }: { name: string }) => name));
      if (page.next_cursor === null) break;
      query = `?limit=2&cursor=${page.next_cursor}`;
    }
    expect(seen.slice(0, 3)).toEqual(['list 6', 'list 5', 'list 4']);
    expect(seen.slice(3).sort()).toEqual(['list 0', 'list 1', 'list 2', 'list 3']);
    expect((await list('?active=false', call)).channels).toHaveLength(3);
    expect((await list('?active=true&q=T%204', call)).channels).toMatchObject([{ name: 'list 4' }]);
  });
});

describe('bad input is a 400 that names the field', () => {
  const webhook = (more: object) => ({
    name: 'bad',
    type: 'webhook',
    config: { url: 'http://a.test/', ...more },
  });
  const slack = (config: object) => ({ name: 'bad', type: 'slack', config });
  const email = (more: object) => ({
    name: 'bad',
    type: 'email',
    config: { to: ['a@ops.test'], smtp_url: 'smtp://mail.test', ...more },
  });
  const manager = (more: object) => ({
    name: 'bad',
    type: 'alertmanager',
    config: { url: 'http://a.test/', ...more },
  });
  const any = (more: object) => ({ name: 'bad', type: 'slack', config: configs.slack, ...more });

  test.each([
    [{}, ['type']],
    [[], ['']],
    [{ name: 'bad', type: 'pager', config: {} }, ['type']],
    [{ type: 'slack', config: configs.slack }, ['name']],
    [{ name: 'bad', type: 'slack' }, ['config']],
    [webhook({ url: undefined }), ['config.url']],
    [webhook({ url: 'ftp://a.test/' }), ['config.url']],
    [webhook({ url: '/relative' }), ['config.url']],
    [webhook({ url: 'http://user:word@a.test/' }), ['config.url']],
    [webhook({ url: `http://a.test/${'x'.repeat(2048)}` }), ['config.url']],
    [webhook({ secret: '' }), ['config.secret']],
    [webhook({ secret: 5 }), ['config.secret']],
    [webhook({ secret: 's'.repeat(1025) }), ['config.secret']],
    [webhook({ headers: [] }), ['config.headers']],
    [webhook({ headers: { 'X-Number': 5 } }), ['config.headers.X-Number']],
    [webhook({ headers: { 'X Space': 'a' } }), ['config.headers.X Space']],
    [webhook({ headers: { 'X-Line': 'a\r\nX-Other: b' } }), ['config.headers.X-Line']],
    [
      webhook({ headers: { Host: 'a', 'X-SIGNATURE-256': 'b' } }),
      ['config.headers.Host', 'config.headers.X-SIGNATURE-256'],
    ],
    [webhook({ headers: { 'content-length': '1' } }), ['config.headers.content-length']],
    [
      webhook({ headers: { Expect: '100-continue', 'Keep-Alive': 'x' } }),
      ['config.headers.Expect', 'config.headers.Keep-Alive'],
    ],
    [webhook({ headers: { 'X-Text': '😀' } }), ['config.headers.X-Text']],
    [email({ smtp_url: 'smtp:mail.test' }), ['config.smtp_url']],
    [email({ smtp_url: 'smtp://mail.test/?tls=no' }), ['config.smtp_url']],
    [webhook({ token: 'x' }), ['config.token']],
    [slack({}), ['config.url']],
    [slack({ url: 'slack' }), ['config.url']],
    [slack({ ...configs.slack, secret: 'x' }), ['config.secret']],
    [email({ to: undefined }), ['config.to']],
    [email({ to: [] }), ['config.to']],
    [email({ to: ['a@ops.test', 'nobody'] }), ['config.to[1]']],
    [email({ to: Array.from({ length: 51 }, (_, i) => `a${i}@ops.test`) }), ['config.to']],
    [email({ from: 'me' }), ['config.from']],
    [email({ smtp_url: 'http://mail.test' }), ['config.smtp_url']],
    // This deployment has no mail server of its own.
    [email({ smtp_url: undefined }), ['config.smtp_url']],
    [email({ smtp_url: null }), ['config.smtp_url']],
    [manager({ url: 'alertmanager:9093' }), ['config.url']],
    [manager({ password: '' }), ['config.password']],
    [manager({ secret: 's' }), ['config.secret']],
    [any({ colour: 'red', id: 'x' }), ['colour', 'id']],
    [any({ severities: ['fatal'] }), ['severities[0]']],
    [any({ severities: ['info', 'info', 'info', 'info'] }), ['severities']],
    [any({ service_names: [''] }), ['service_names[0]']],
    [any({ matchers: ['a="b"', 'severity=~"("'] }), ['matchers[1]']],
    [any({ matchers: [{ label: 'a', op: '=~', value: '(' }] }), ['matchers[0].value']],
    [any({ matchers: 'a="b"' }), ['matchers']],
    [any({ group_by: [''] }), ['group_by[0]']],
    [any({ group_wait_seconds: 3601 }), ['group_wait_seconds']],
    [any({ group_interval_seconds: -1 }), ['group_interval_seconds']],
    [any({ repeat_interval_seconds: 59 }), ['repeat_interval_seconds']],
    [any({ send_resolved: 'no' }), ['send_resolved']],
    [any({ timeout_seconds: 0.5 }), ['timeout_seconds']],
    [any({ timeout_seconds: 61 }), ['timeout_seconds']],
    [any({ max_attempts: 0 }), ['max_attempts']],
    [any({ max_attempts: 1.5 }), ['max_attempts']],
    [any({ enabled: 1 }), ['enabled']],
  ])('POST %j', async (body, paths) => {
    const { status, body: problem } = await make(body);
    expect(status).toBe(400);
    expect(pathsOf(problem)).toEqual(paths);
    expect((await list('?q=bad')).channels).toEqual([]);
  });

  test.each([
    ['webhook', { type: 'slack' }, ['type']],
    ['webhook', { name: '' }, ['name']],
    ['webhook', { config: { smtp_url: 'x' } }, ['config.smtp_url']],
    ['webhook', { config: { url: 'ftp://a.test' } }, ['config.url']],
    ['webhook', { config: { url: null } }, ['config.url']],
    ['webhook', { config: [] }, ['config']],
    ['webhook', { config: { headers: { Host: 'x' } } }, ['config.headers.Host']],
    ['slack', { config: { secret: 'x' } }, ['config.secret']],
    ['slack', { max_attempts: 101, colour: 'red' }, ['max_attempts', 'colour']],
    ['email', { config: { to: ['nobody'] } }, ['config.to[0]']],
    ['email', { config: { to: null } }, ['config.to']],
    // This deployment has no mail server of its own.
    ['email', { config: { smtp_url: null } }, ['config.smtp_url']],
    ['alertmanager', { config: { url: 'http://u:p@a.test' } }, ['config.url']],
    ['alertmanager', { matchers: ['x'] }, ['matchers[0]']],
  ] as const)('PATCH of a channel of type %s: %j', async (type, body, paths) => {
    const { body: before } = await make({
      name: `kept ${JSON.stringify(body)}`.slice(0, 255),
      type,
      config: configs[type],
    });
    const { status, body: problem } = await patch(before.id, body);
    expect(status).toBe(400);
    expect(pathsOf(problem)).toEqual(paths);
    expect((await get(before.id)).body).toEqual(before);
    expect(await stored(before.id)).toEqual(configs[type]);
  });

  test.each([
    ['/notifications?status=lost', 'query.status'],
    ['/notifications?channel_id=x', 'query.channel_id'],
    ['/notifications?alert_id=x', 'query.alert_id'],
    ['/notifications?limit=0', 'query.limit'],
    ['/notifications?cursor=x', 'query.cursor'],
    [`/notifications?cursor=${Buffer.from('a b').toString('base64url')}`, 'query.cursor'],
    ['/notifications?colour=red', 'query.colour'],
    ['/channels?active=yes', 'query.active'],
    ['/channels?cursor=x', 'query.cursor'],
    ['/channels?limit=1001', 'query.limit'],
  ])('GET %s', async (path, field) => {
    const { status, body } = await api.call('GET', `/api/v1${path}`);
    expect([status, pathsOf(body)]).toEqual([400, [field]]);
  });

  test.each([
    ['http://169.254.169.254/latest', 'link-local'],
    // However it is written.
    ['http://0xa9fea9fe/', 'link-local'],
    ['http://[fd00:ec2::254]/', 'metadata'],
    ['http://[::ffff:169.254.169.254]/', 'link-local'],
    ['http://0.0.0.0/', 'unspecified'],
  ])('an address that is never reached: %s', async (url, kind) => {
    const { status, body } = await make({ name: 'bad', type: 'webhook', config: { url } });
    expect([status, pathsOf(body)]).toEqual([400, ['config.url']]);
    expect(body.errors[0].message).toContain(`is a ${kind} address, which is never reached`);
    const { body: kept } = await make({ name: `egress ${url}`, type: 'webhook', config: configs.webhook });
    expect((await patch(kept.id, { config: { url } })).status).toBe(400);
    const { body: mail } = await make({ name: `mail ${url}`, type: 'email', config: configs.email });
    const { status: answered, body: problem } = await patch(mail.id, {
      config: { smtp_url: 'smtp://169.254.169.254' },
    });
    expect([answered, pathsOf(problem)]).toEqual([400, ['config.smtp_url']]);
  });
});

describe.each([
  ['viewer', 200, 403, 403],
  ['ingest', 403, 403, 403],
  ['operator', 200, 201, 204],
] as const)('%s', (role, reads, writes, removes) => {
  test('may do what the role says', async () => {
    const { body: channel } = await make({ name: `for ${role}`, type: 'slack', config: configs.slack });
    const call = { token: await signToken({ role }) };
    for (const path of ['/channels', `/channels/${channel.id}`, '/notifications'])
      expect((await api.call('GET', `/api/v1${path}`, call)).status, path).toBe(reads);
    const config = configs.slack;
    expect((await make({ name: `by ${role}`, type: 'slack', config }, call)).status).toBe(writes);
    expect((await patch(channel.id, { enabled: false }, call)).status).toBe(writes === 201 ? 200 : 403);
    const unknown = '00000000-0000-4000-8000-000000000000';
    expect((await sendTest(unknown, call)).status).toBe(writes === 201 ? 404 : 403);
    expect((await resend(unknown, call)).status).toBe(writes === 201 ? 404 : 403);
    expect((await remove(channel.id, call)).status).toBe(removes);
  });
});

test('without a worker a test is a 202, and delivered once there is one', { timeout: 30_000 }, async () => {
  const channel = await hook('/waiting', { timeout_seconds: 1 });
  const began = Date.now();
  const { status, body } = await sendTest(channel.id);
  expect(status).toBe(202);
  expect(Date.now() - began).toBeGreaterThan(5_000);
  expect(body.notification).toMatchObject({
    channel_id: channel.id,
    channel: '/waiting',
    type: 'webhook',
    kind: 'test',
    status: 'pending',
    error: null,
    attempts: [],
    alerts: [],
    settled_at: null,
  });
  expect(await notificationOf(body.notification.id)).toMatchObject({
    ...body.notification,
    message: { kind: 'test', channel: '/waiting' },
  });
  expect((await resend(body.notification.id)).body).toMatchObject({
    code: 'notification_status',
    detail: 'the notification is pending, only one that is dead is sent again',
  });
});

describe('with a worker', () => {
  let worker: Service;
  beforeAll(async () => {
    worker = await startService('worker', {
      SECRETS_KEY: secretsKey,
      DATABASE_URL: api.databaseUrl,
      LOG_LEVEL: 'debug',
    });
  });
  afterAll(() => worker?.stop());

  const settled = async (id: string, status: string, call: Call = {}) => {
    await expect.poll(async () => (await notificationOf(id, call)).status, { timeout: 15_000 }).toBe(status);
    return notificationOf(id, call);
  };
  /** What a channel was told, the oldest first. */
  const toldTo = async (channelId: string, call: Call = {}) =>
    (await notificationsOf(`?channel_id=${channelId}`, call)).notifications.toReversed();

  test('what waited for one is delivered', async () => {
    const { channels } = await list('?q=/waiting');
    await expect
      .poll(async () => (await toldTo(channels[0].id))[0].status, { timeout: 15_000 })
      .toBe('delivered');
    expect(receivedAt('/waiting')).toHaveLength(1);
  });

  describe('a test', () => {
    test('that the receiver takes is delivered, and is what the ledger says', async () => {
      const channel = await hook('/test/taken');
      const { status, body } = await sendTest(channel.id);
      expect(status).toBe(200);
      const { notification } = body;
      expect(notification).toMatchObject({
        channel_id: channel.id,
        channel: '/test/taken',
        type: 'webhook',
        kind: 'test',
        status: 'delivered',
        error: null,
        next_attempt_at: null,
        alerts: [],
        attempts: [{ number: 1, delivered: true, response_code: 200, error: null, detail: 'taken' }],
      });
      expect(notification.attempts[0].latency_ms).toBeGreaterThan(0);
      expect(Date.parse(notification.settled_at)).toBeGreaterThanOrEqual(Date.parse(notification.created_at));
      const [request] = receivedAt('/test/taken');
      expect(receivedAt('/test/taken')).toHaveLength(1);
      expect(request!.headers['idempotency-key']).toBe(notification.id);
      expect(request!.headers['x-signature-256']).toBeUndefined();
      const detail = await notificationOf(notification.id);
      expect(JSON.parse(request!.body)).toEqual(detail.message);
      expect(detail).toMatchObject({
        ...notification,
        message: {
          notification_id: notification.id,
          kind: 'test',
          org: 'acme',
          channel: '/test/taken',
          status: 'firing',
          alerts: [{ name: 'Test', severity: 'info' }],
        },
      });
    });

    test('that the receiver answers with 500 is dead after that one attempt, and says why', async () => {
      answers.set('/test/broken', { status: 500, text: () => 'the disk\nis full' });
      const channel = await hook('/test/broken');
      const { status, body } = await sendTest(channel.id);
      expect(status).toBe(200);
      expect(body.notification).toMatchObject({
        status: 'dead',
        error: 'the receiver answered 500: the disk is full',
        attempts: [
          {
            number: 1,
            delivered: false,
            response_code: 500,
            error: 'the receiver answered 500: the disk is full',
            detail: null,
          },
        ],
      });
      expect(receivedAt('/test/broken')).toHaveLength(1);
    });

    test('that nobody takes is dead, whatever the type', async () => {
      for (const [type, config] of Object.entries({
        webhook: { url: 'http://127.0.0.1:1/' },
        slack: { url: 'http://127.0.0.1:1/' },
        email: { to: ['a@ops.test'], smtp_url: 'smtp://127.0.0.1:1' },
        alertmanager: { url: 'http://127.0.0.1:1/' },
      })) {
        const { body: channel } = await make({ name: `refused ${type}`, type, config });
        const { body } = await sendTest(channel.id);
        expect(body.notification, type).toMatchObject({ type, status: 'dead' });
        expect(body.notification.error, type).toContain('the connection was refused');
      }
    });

    test('is sent through a channel that is not enabled, too', async () => {
      const channel = await hook('/test/disabled', { enabled: false });
      expect((await sendTest(channel.id)).body.notification.status).toBe('delivered');
    });
  });

  describe('secrets', () => {
    const secrets = {
      url: 'way-in-7Fq2',
      secret: 'signing-9Ld3',
      header: 'header-1Zx8',
      newSecret: 'signing-4Tb6',
      slack: 'xoxb-5Gh1-path',
      smtp: 'smtp-word-8Kp4',
      password: 'manager-word-3Wn9',
      bearer: 'bearer-6Yc5',
    };
    const signatureOf = (body: string, secret: string) =>
      `sha256=${createHmac('sha256', secret).update(body).digest('hex')}`;

    test('are not in any answer, nor in any log, and sign what is sent', { timeout: 60_000 }, async () => {
      const shown: string[] = [];
      const token = await signToken({ org_id: 'secrets' });
      const call = async (method: string, path: string, body?: object) => {
        const answer = await api.call(method, `/api/v1${path}`, {
          token,
          ...(body === undefined ? {} : { body }),
        });
        shown.push(JSON.stringify(answer.body));
        return answer;
      };
      const path = `/secret/${secrets.url}?key=${secrets.url}`;
      const shownUrl = `${base}/${mask}`;
      answers.set(path, { status: 500, text: ({ headers }) => `no: ${JSON.stringify(headers)} ${path}` });
      const config = { url: base + path, secret: secrets.secret, headers: { 'X-Api-Key': secrets.header } };
      const { body: channel } = await call('POST', '/channels', {
        name: 'secrets',
        type: 'webhook',
        config,
        max_attempts: 1,
        group_wait_seconds: 0,
        matchers: ['alertname="secret"'],
      });
      expect(channel.config).toEqual({ url: shownUrl, secret: mask, headers: { 'X-Api-Key': mask } });
      for (const [type, given] of [
        ['slack', { url: `http://127.0.0.1:1/${secrets.slack}` }],
        ['email', { to: ['a@ops.test'], smtp_url: `smtp://user:${secrets.smtp}@127.0.0.1:1/` }],
        [
          'alertmanager',
          {
            url: `http://127.0.0.1:1/?key=${secrets.url}`,
            password: secrets.password,
            bearer_token: secrets.bearer,
          },
        ],
      ] as const) {
        const { status, body } = await call('POST', '/channels', {
          name: `secrets ${type}`,
          type,
          config: given,
        });
        expect(status).toBe(201);
        await call('POST', `/channels/${body.id}/test`);
      }
      // What is wrong with them is told without them.
      await call('POST', '/channels', { name: 'secrets', type: 'webhook', config });
      await call('POST', '/channels', {
        name: 'x',
        type: 'webhook',
        config: { ...config, url: `ftp://a.test/${secrets.url}` },
      });
      await call('POST', '/channels', {
        name: 'x',
        type: 'webhook',
        config: { ...config, headers: { 'X-A': `${secrets.header}\n` } },
      });

      const { body: tested } = await call('POST', `/channels/${channel.id}/test`);
      expect(tested.notification).toMatchObject({ status: 'dead', attempts: [{ response_code: 500 }] });
      expect(tested.notification.error).toContain('the receiver answered 500: no: {');
      const alert = await open('secret', {}, { token });
      await expect.poll(() => receivedAt(path).length, { timeout: 10_000 }).toBe(2);
      const told = async () =>
        (await notificationsOf(`?alert_id=${alert.id}&channel_id=${channel.id}`, { token })).notifications;
      await expect.poll(async () => (await told())[0].status, { timeout: 10_000 }).toBe('dead');
      for (const { headers, body } of receivedAt(path)) {
        expect(headers['x-signature-256']).toBe(signatureOf(body, secrets.secret));
        expect(headers['x-api-key']).toBe(secrets.header);
      }

      // All of it anew.
      answers.delete(path);
      const changed = await call('PATCH', `/channels/${channel.id}`, {
        config: { ...config, secret: secrets.newSecret },
        name: 'secrets changed',
      });
      expect(changed.body.config).toEqual(channel.config);
      expect((await call('POST', `/channels/${channel.id}/test`)).body.notification.status).toBe('delivered');
      const last = receivedAt(path).at(-1)!;
      expect(last.headers['x-signature-256']).toBe(signatureOf(last.body, secrets.newSecret));

      for (const path of [
        '/channels',
        `/channels/${channel.id}`,
        '/notifications',
        `/notifications/${tested.notification.id}`,
        `/alerts/${alert.id}`,
        '/alerts',
      ])
        await call('GET', path);
      await call('POST', `/notifications/${tested.notification.id}/resend`);
      await settled(tested.notification.id, 'delivered', { token });
      const alertShown = await call('GET', `/alerts/${alert.id}`);
      expect(alertShown.body.events.at(-1)).toMatchObject({ event: 'notification_failed' });
      await call('DELETE', `/channels/${channel.id}`);

      // An API of its own, for the sake of its log.
      const process = await startService('api', {
        DATABASE_URL: api.databaseUrl,
        LOG_LEVEL: 'trace',
        DEBUG: 'true',
      });
      try {
        const send = async (method: string, target: string, body: object) => {
          const response = await fetch(`${process.url}/api/v1${target}`, {
            method,
            headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
            body: JSON.stringify(body),
          });
          shown.push(await response.text());
          return response.status;
        };
        const name = 'secrets logged';
        expect(await send('POST', '/channels', { name, type: 'webhook', config })).toBe(201);
        expect(await send('POST', '/channels', { name, type: 'webhook', config })).toBe(409);
        expect(
          await send('POST', '/channels', { name, type: 'webhook', config: { ...config, url: secrets.url } }),
        ).toBe(400);
        const [made] = (await list(`?q=${encodeURIComponent(name)}`, { token })).channels;
        expect(
          await send('PATCH', `/channels/${made.id}`, { config: { ...config, secret: secrets.newSecret } }),
        ).toBe(200);
        expect(process.output()).toContain('/api/v1/channels');
        shown.push(process.output());
      } finally {
        await process.stop();
      }
      expect(worker.output()).toContain('a notification was not delivered');
      shown.push(worker.output());
      for (const text of shown)
        for (const [kind, secret] of Object.entries(secrets)) expect(text, kind).not.toContain(secret);
    });
  });

  test('secrets that read •••• stay as they are, and what is new takes their place', async () => {
    const path = '/kept/way-in-token';
    const channel = await hook(path, {
      config: { url: base + path, secret: 'first', headers: { 'X-A': 'a' } },
      matchers: ['alertname="nobody"'],
    });
    /** What the receiver gets after a change: by whom it is signed, and with which headers. */
    const sentAfter = async (config: object) => {
      const { status, body } = await patch(channel.id, { config });
      expect(status).toBe(200);
      expect(body.config.url).toBe(`${base}/${mask}`);
      expect((await sendTest(channel.id)).body.notification.status).toBe('delivered');
      const { headers, body: sent } = receivedAt(path).at(-1)!;
      const signature = headers['x-signature-256'];
      const isSignedBy = (secret: string) =>
        signature === `sha256=${createHmac('sha256', secret).update(sent).digest('hex')}`;
      const signer = signature === undefined ? null : (['first', 'second'].find(isSignedBy) ?? 'nobody');
      return [signer, headers['x-a'], headers['x-b']];
    };
    expect(await sentAfter({})).toEqual(['first', 'a', undefined]);
    expect(await sentAfter(channel.config)).toEqual(['first', 'a', undefined]);
    expect(await sentAfter({ secret: 'second' })).toEqual(['second', 'a', undefined]);
    expect(await sentAfter({ secret: mask, headers: { 'X-B': 'b' } })).toEqual(['second', undefined, 'b']);
    expect(await sentAfter({ headers: { 'X-A': 'new', 'X-B': mask } })).toEqual(['second', 'new', 'b']);
    expect(await sentAfter({ secret: null })).toEqual([null, 'new', 'b']);
    expect(await sentAfter({ headers: null })).toEqual([null, undefined, undefined]);
    expect(receivedAt(path)).toHaveLength(7);
    for (const type of types) {
      const { body } = await make({ name: `masked ${type}`, type, config: configs[type] });
      expect((await patch(body.id, { config: body.config })).body.config).toEqual(body.config);
      expect(await stored(body.id)).toEqual(configs[type]);
    }
  });

  describe('routing', () => {
    test('tells each channel of the alerts that its severities, service_names and matchers let pass', async () => {
      const call = { token: await signToken({ org_id: 'routing' }) };
      const routes: Record<string, { routing: object; expected: string[] }> = {
        '/route/all': {
          routing: {},
          expected: ['critical auth', 'info auth web-1', 'info none', 'warning billing'],
        },
        '/route/critical': {
          routing: { severities: ['critical', 'warning'] },
          expected: ['critical auth', 'warning billing'],
        },
        '/route/service': {
          routing: { service_names: ['auth', 'other'] },
          expected: ['critical auth', 'info auth web-1'],
        },
        '/route/label': { routing: { matchers: ['host=~"web-.*"'] }, expected: ['info auth web-1'] },
        '/route/absent': {
          routing: { matchers: ['host=""', 'severity!="info"'] },
          expected: ['critical auth', 'warning billing'],
        },
        '/route/own': {
          routing: { matchers: ['source="api"', 'service="billing"', 'alertname=~"warning.*"'] },
          expected: ['warning billing'],
        },
        '/route/both': {
          routing: { severities: ['info'], service_names: ['auth'], matchers: ['host="web-1"'] },
          expected: ['info auth web-1'],
        },
        '/route/nothing': { routing: { severities: ['critical'], service_names: ['billing'] }, expected: [] },
        '/route/disabled': { routing: { enabled: false }, expected: [] },
      };
      const ids = new Map<string, string>();
      for (const [path, { routing }] of Object.entries(routes))
        ids.set(path, (await hook(path, routing, call)).id);
      const alerts = [
        await open('critical auth', { severity: 'critical', service_name: 'auth' }, call),
        await open('warning billing', { severity: 'warning', service_name: 'billing' }, call),
        await open('info auth web-1', { service_name: 'auth', labels: { host: 'web-1' } }, call),
        await open('info none', {}, call),
      ];
      // Of another org, which none of them hears of.
      await open('critical auth', { severity: 'critical', service_name: 'auth' });
      const expected = Object.values(routes).reduce((sum, route) => sum + route.expected.length, 0);
      const delivered = async () =>
        (await notificationsOf('?status=delivered&limit=1000', call)).notifications;
      await expect.poll(async () => (await delivered()).length, { timeout: 15_000 }).toBe(expected);
      for (const { id } of alerts) await resolve(id, call);
      await expect.poll(async () => (await delivered()).length, { timeout: 15_000 }).toBe(2 * expected);
      // What should not have come has had time to.
      await sleep(500);
      for (const [path, route] of Object.entries(routes)) {
        const told = receivedAt(path).map(({ body }) => JSON.parse(body));
        const namesOf = (status: string) =>
          told
            .filter((message) => message.status === status)
            .flatMap((message) => message.alerts.map(({ name }: { name: string }) => name))
            .sort();
        expect(namesOf('firing'), path).toEqual(route.expected);
        expect(namesOf('resolved'), path).toEqual(route.expected);
        expect(new Set(told.map(({ org }) => org)).size, path).toBe(route.expected.length > 0 ? 1 : 0);
        const ledger = await toldTo(ids.get(path)!, call);
        expect(ledger.map(({ id }: { id: string }) => id).sort()).toEqual(
          told.map(({ notification_id }) => notification_id).sort(),
        );
      }
      expect((await notificationsOf('?limit=1000', call)).notifications).toHaveLength(2 * expected);
    });

    test('one message tells of alerts that have the labels of group_by in common', async () => {
      const call = { token: await signToken({ org_id: 'grouping' }) };
      const channel = await hook('/group', { group_by: ['host'], group_wait_seconds: 1 }, call);
      for (const [name, host] of [
        ['a', '1'],
        ['b', '1'],
        ['c', '2'],
      ] as const)
        await open(name, { labels: { host } }, call);
      await expect.poll(() => receivedAt('/group').length, { timeout: 10_000 }).toBe(2);
      const told = (await toldTo(channel.id, call)).map(
        ({ group_labels, alerts }: { group_labels: object; alerts: { name: string; status: string }[] }) =>
          JSON.stringify([group_labels, alerts.map(({ name, status }) => `${name} ${status}`)]),
      );
      expect(told.sort()).toEqual(['[{"host":"1"},["a firing","b firing"]]', '[{"host":"2"},["c firing"]]']);
    });
  });

  describe('the ledger', () => {
    let call: Call;
    let channel: { id: string };
    let other: { id: string };
    let alerts: { id: string }[];
    beforeAll(async () => {
      call = { token: await signToken({ org_id: 'ledger' }) };
      channel = await hook('/ledger', { matchers: ['alertname=~"ledger.*"'] }, call);
      answers.set('/ledger/dead', { status: 400 });
      other = await hook('/ledger/dead', { matchers: ['alertname="ledger 3"'] }, call);
      alerts = [];
      for (let i = 0; i < 7; i++) alerts.push(await open(`ledger ${i}`, {}, call));
      const isSettled = ({ status }: { status: string }) => status !== 'pending';
      const deadline = Date.now() + 15_000;
      while ((await notificationsOf('?limit=1000', call)).notifications.filter(isSettled).length < 8) {
        if (Date.now() > deadline) throw new Error('not all notifications were settled');
        await sleep(100);
      }
    });

    test('has the newest first, page after page, none twice and none missing', async () => {
      // Some at the same instant, where a cursor could lose them.
      await api.sql`
        update obs.notification set created_at = '2026-11-20T10:00:00.000001Z'
        where id in (select id from obs.notification where channel_id = ${channel.id} order by created_at limit 4)`;
      const seen: { id: string; created_at: string }[] = [];
      for (let query = '?limit=3'; ; ) {
        const page = await notificationsOf(query, call);
        expect(page.notifications.length).toBeLessThanOrEqual(3);
        seen.push(...page.notifications);
        if (page.next_cursor === null) break;
        query = `?limit=3&cursor=${page.next_cursor}`;
      }
      expect(new Set(seen.map(({ id }) => id)).size).toBe(8);
      expect(seen).toHaveLength(8);
      const times = seen.map(({ created_at }) => created_at);
      expect(times).toEqual(times.toSorted().reverse());
      expect((await notificationsOf('?limit=8', call)).next_cursor).toBeNull();
    });

    test('is filtered by status, channel and alert', async () => {
      const count = async (query: string) => (await notificationsOf(query, call)).notifications.length;
      expect(await count('?status=delivered')).toBe(7);
      expect(await count('?status=dead')).toBe(1);
      expect(await count('?status=pending')).toBe(0);
      expect(await count(`?channel_id=${channel.id}`)).toBe(7);
      expect(await count(`?channel_id=${other.id}&status=delivered`)).toBe(0);
      expect(await count(`?alert_id=${alerts[3]!.id}`)).toBe(2);
      expect(await count(`?alert_id=${alerts[3]!.id}&channel_id=${channel.id}`)).toBe(1);
      expect(await count(`?alert_id=${channel.id}`)).toBe(0);
    });

    test('tells of each what was said, and the alert tells of its notifications', async () => {
      const [dead] = (await notificationsOf('?status=dead', call)).notifications;
      expect(dead).toMatchObject({
        channel_id: other.id,
        channel: '/ledger/dead',
        kind: 'alert',
        error: 'the receiver answered 400: taken',
        group_labels: { alertname: 'ledger 3', service: '' },
        alerts: [{ id: alerts[3]!.id, name: 'ledger 3', status: 'firing' }],
        // Refused: the same again would be refused again.
        attempts: [{ number: 1, delivered: false, response_code: 400 }],
      });
      const { message, ...rest } = await notificationOf(dead.id, call);
      expect(rest).toEqual(dead);
      expect(message).toMatchObject({
        notification_id: dead.id,
        kind: 'alert',
        org: 'ledger',
        channel: '/ledger/dead',
        status: 'firing',
        summary: { firing: 1, resolved: 0 },
        alerts: [{ id: alerts[3]!.id, name: 'ledger 3', severity: 'info', status: 'firing' }],
      });
      expect(JSON.parse(receivedAt('/ledger/dead')[0]!.body)).toEqual(message);
      const { body: alert } = await api.call('GET', `/api/v1/alerts/${alerts[3]!.id}`, call);
      expect(alert.notifications).toHaveLength(2);
      expect(alert.notifications).toContainEqual(dead);
      expect(alert.events.at(-1)).toMatchObject({
        event: 'notification_failed',
        actor: 'worker',
        details: { notification_id: dead.id, channel: '/ledger/dead', error: dead.error },
      });
    });

    test('is not that of another org, nor are its channels', async () => {
      const [{ id }] = (await notificationsOf('?status=dead', call)).notifications;
      const query = `?channel_id=${channel.id}`;
      expect((await notificationsOf(query)).notifications).toEqual([]);
      expect((await notificationsOf(`?alert_id=${alerts[3]!.id}`)).notifications).toEqual([]);
      for (const unknown of [id, 'x', '%00', '00000000-0000-4000-8000-000000000000']) {
        expect((await api.call('GET', `/api/v1/notifications/${unknown}`)).status).toBe(404);
        expect((await resend(unknown)).status).toBe(404);
      }
      for (const unknown of [channel.id, 'x', '%00', '00000000-0000-4000-8000-000000000000'])
        for (const answer of [
          await get(unknown),
          await patch(unknown, { enabled: false }),
          await remove(unknown),
          await sendTest(unknown),
        ])
          expect(answer.status).toBe(404);
      expect((await get(channel.id, call)).body).toEqual(channel);
      expect((await notificationOf(id, call)).status).toBe('dead');
      expect((await list('', call)).channels).toHaveLength(2);
    });
  });

  test('a dead letter is sent again, as the same one; nothing else is', async () => {
    const call = { token: await signToken({ org_id: 'resend' }) };
    answers.set('/resend', { status: 500 });
    const channel = await hook('/resend', { max_attempts: 2 }, call);
    await open('resent', {}, call);
    await expect
      .poll(async () => (await toldTo(channel.id, call))[0]?.status, { timeout: 15_000 })
      .toBe('dead');
    const [dead] = await toldTo(channel.id, call);
    expect(dead.attempts).toMatchObject([
      { number: 1, delivered: false, response_code: 500 },
      { number: 2, delivered: false, response_code: 500 },
    ]);
    answers.delete('/resend');
    const { status, body } = await resend(dead.id, call);
    expect(status).toBe(200);
    expect(body).toMatchObject({ id: dead.id, status: 'pending', settled_at: null });
    const after = await settled(dead.id, 'delivered', call);
    expect(after).toMatchObject({ error: null, attempts: [{}, {}, { number: 3, delivered: true }] });
    const requests = receivedAt('/resend');
    expect(requests.map(({ headers }) => headers['idempotency-key'])).toEqual(Array(3).fill(dead.id));
    expect(new Set(requests.map(({ body }) => body)).size).toBe(1);
    const again = await resend(dead.id, call);
    expect([again.status, again.body.code]).toEqual([409, 'notification_status']);
    expect(again.body.detail).toBe('the notification is delivered, only one that is dead is sent again');
    expect((await api.call('POST', `/api/v1/notifications/${dead.id}/resend?now=1`, call)).status).toBe(400);
  });

  test('what a deleted channel was not told yet is given up', async () => {
    const call = { token: await signToken({ org_id: 'deleted' }) };
    answers.set('/deleted', { status: 503 });
    const channel = await hook('/deleted', {}, call);
    const alert = await open('not told', {}, call);
    await expect
      .poll(async () => (await toldTo(channel.id, call))[0]?.error, { timeout: 10_000 })
      .toMatch(/503/);
    const [pending] = await toldTo(channel.id, call);
    expect(pending.status).toBe('pending');
    expect((await resend(pending.id, call)).body.code).toBe('notification_status');
    expect((await remove(channel.id, call)).status).toBe(204);
    const dead = await notificationOf(pending.id, call);
    expect(dead).toMatchObject({
      channel_id: null,
      channel: '/deleted',
      status: 'dead',
      error: 'the channel was deleted',
      next_attempt_at: null,
    });
    expect(dead.settled_at).not.toBeNull();
    const { body: shown } = await api.call('GET', `/api/v1/alerts/${alert.id}`, call);
    expect(shown.events.at(-1)).toMatchObject({
      event: 'notification_failed',
      details: { notification_id: dead.id, error: 'the channel was deleted' },
    });
    const resent = await resend(dead.id, call);
    expect([resent.status, resent.body.code, resent.body.detail]).toEqual([
      409,
      'channel_deleted',
      'its channel was deleted',
    ]);
    // And nothing is tried any more.
    const tried = receivedAt('/deleted').length;
    await sleep(2500);
    expect(receivedAt('/deleted')).toHaveLength(tried);
    expect((await notificationOf(dead.id, call)).attempts).toHaveLength(dead.attempts.length);
  });
});

describe('where private addresses are not reached', () => {
  const closed: TestApi = useApi({ EGRESS_PRIVATE: 'deny', SMTP_URL: 'smtp://mail.test' });
  const makeThere = (body: object) => closed.call('POST', '/api/v1/channels', { body });

  test.each([
    ['http://127.0.0.1:9/', 'loopback'],
    ['http://2130706433/', 'loopback'],
    ['http://10.1.2.3/', 'private'],
    ['http://[::1]/', 'loopback'],
    ['http://[fd12::1]/', 'unique local'],
  ])('%s is refused', async (url, kind) => {
    const { status, body } = await makeThere({ name: url, type: 'webhook', config: { url } });
    expect([status, pathsOf(body)]).toEqual([400, ['config.url']]);
    expect(body.errors[0].message).toContain(`is a ${kind} address, which this deployment does not reach`);
  });

  test('a mail server may be the deployment’s own, and not a private one of the channel', async () => {
    const to = ['a@ops.test'];
    expect((await makeThere({ name: 'own', type: 'email', config: { to } })).status).toBe(201);
    const { status, body } = await makeThere({
      name: 'p',
      type: 'email',
      config: { to, smtp_url: 'smtp://10.0.0.1' },
    });
    expect([status, pathsOf(body)]).toEqual([400, ['config.smtp_url']]);
    const { body: channel } = await makeThere({
      name: 'public',
      type: 'slack',
      config: { url: 'https://hooks.test/x' },
    });
    const patched = await closed.call('PATCH', `/api/v1/channels/${channel.id}`, {
      body: { config: { url: 'http://192.168.0.1/' } },
    });
    expect([patched.status, pathsOf(patched.body)]).toEqual([400, ['config.url']]);
  });

  test('a name is refused when it is connected to', async () => {
    const worker = await startService('worker', {
      SECRETS_KEY: secretsKey,
      DATABASE_URL: closed.databaseUrl,
      EGRESS_PRIVATE: 'deny',
    });
    try {
      const url = `${base.replace('127.0.0.1', 'localhost')}/denied`;
      const { body: channel } = await makeThere({ name: 'name', type: 'webhook', config: { url } });
      const { status, body } = await closed.call('POST', `/api/v1/channels/${channel.id}/test`);
      expect(status).toBe(200);
      expect(body.notification.status).toBe('dead');
      expect(body.notification.error).toContain('loopback address, which this deployment does not reach');
      expect(receivedAt('/denied')).toEqual([]);
    } finally {
      await worker.stop();
    }
  });
});

test('secrets are not sent to another address than they were given for', async () => {
  const { body: channel } = await api.call('POST', '/api/v1/channels', {
    body: {
      name: 'moved',
      type: 'webhook',
      config: { url: 'http://127.0.0.1:1/a', secret: 'mine', headers: { 'X-Key': 'k' } },
    },
  });
  const patch = (config: object) => api.call('PATCH', `/api/v1/channels/${channel.id}`, { body: { config } });
  expect((await patch({ url: 'http://127.0.0.1:1/b' })).status).toBe(200);
  const refused = await patch({ url: 'http://127.0.0.1:2/b', headers: { 'X-Key': '••••' }, secret: 'new' });
  expect(refused.status).toBe(400);
  expect(refused.body.errors).toEqual([
    { path: 'config.headers', message: 'has to be given anew, since the address is another' },
  ]);
  expect((await patch({ url: 'http://127.0.0.1:2/b' })).body.errors[0].path).toBe('config.secret');
  expect((await patch({ url: 'http://127.0.0.1:2/b', headers: null, secret: 'new' })).status).toBe(200);
});

test('what is missing is said to be required', async () => {
  const { body } = await api.call('POST', '/api/v1/channels', { body: { type: 'webhook', config: {} } });
  expect(body.errors).toEqual([
    { path: 'name', message: 'is required' },
    { path: 'config.url', message: 'is required' },
  ]);
});
