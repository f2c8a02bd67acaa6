// Channels' secrets at rest: sealed and opened, encrypted anew, read by none without the key, and how old rows came to be sealed.
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import type { JobHelpers } from 'graphile-worker';
import { pino } from 'pino';
import type postgres from 'postgres';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { resealSecrets } from '../../jobs/reseal_secrets.ts';
import { parseConfig } from '../../src/config.ts';
import { connect } from '../../src/db.ts';
import { createSealer, SealError, type Sealer } from '../../src/seal.ts';
import { useApi } from '../support/api.ts';
import { jwtSecret, startService } from '../support/process.ts';

type Config = Record<string, unknown>;

const newKey = () => randomBytes(32);
const key = newKey();
const api = useApi({ SECRETS_KEY: key.toString('hex') });
const mask = '••••';

const configs: Record<string, Config> = {
  webhook: {
    url: 'https://hooks.test/in/path-9Ka2?key=query-7Lw1',
    secret: `signing-${'4Ps8'.repeat(60)}`,
    headers: { 'X-Key': 'header-2Mn6', 'X-Other': 'sealed:0:aGVhZGVyLTJNbjY=:x' },
  },
  slack: { url: 'https://hooks.slack.test:8443/services/T0/slack-5Qv3' },
  email: {
    to: ['a@ops.test'],
    from: 'obs@ops.test',
    smtp_url: 'smtps://sender:mail-1Zx9@mail.test:465',
  },
  alertmanager: {
    url: 'https://am.test/base?token=amquery-3Ce7',
    username: 'u',
    password: 'pass:wörd-6Df0:',
    bearer_token: 'bearer-0Gh5',
  },
};
const secrets = [
  ...['path-9Ka2', 'query-7Lw1', '4Ps8', 'header-2Mn6', 'slack-5Qv3', 'mail-1Zx9'],
  ...['amquery-3Ce7', 'pass:wörd-6Df0', 'bearer-0Gh5'],
];
const types = Object.keys(configs);

/** What of a text is a secret, in plain or in base64, wherever in it that begins. */
function secretsIn(text: string): string[] {
  const decoded = [...text.matchAll(/[A-Za-z0-9+/]{8,}=*/g)]
    .flatMap(([part]) => [0, 1, 2, 3].map((from) => Buffer.from(part.slice(from), 'base64').toString()))
    .join('\n');
  return secrets.filter((secret) => text.includes(secret) || decoded.includes(secret));
}

const textsOf = (config: Config): string[] =>
  Object.values(config).flatMap((value) =>
    typeof value === 'string'
      ? [value]
      : Object.values(value as object).filter((text) => typeof text === 'string'),
  );
const sealedOf = (config: Config) => textsOf(config).filter((text) => text.startsWith('sealed:'));

function failureOf(work: () => unknown): Error {
  try {
    work();
  } catch (error) {
    return error as Error;
  }
  throw new Error('it did not fail');
}

describe('a sealer', () => {
  const sealer = createSealer([key]);

  test.each(types)('gives back the configuration of a %s, of which it leaves nothing to read', (type) => {
    const sealed = sealer.seal(7, type, configs[type]!);
    expect(sealer.open(7, sealed)).toEqual(configs[type]);
    expect(secretsIn(JSON.stringify(configs[type])).length).toBeGreaterThan(0);
    expect(secretsIn(JSON.stringify(sealed))).toEqual([]);
    expect(sealer.isStale(sealed)).toBe(false);
    expect(createSealer([newKey(), key]).isStale(sealed)).toBe(true);
    // The same never looks the same.
    const again = sealer.seal(7, type, configs[type]!);
    for (const text of sealedOf(sealed)) expect(sealedOf(again)).not.toContain(text);
  });

  test.each(types)('without a key keeps that of a %s readable, to be encrypted later', (type) => {
    const without = createSealer([]);
    const sealed = without.seal(7, type, configs[type]!);
    expect(sealedOf(sealed).every((text) => text.startsWith('sealed:0:'))).toBe(true);
    expect(without.open(7, sealed)).toEqual(configs[type]);
    expect(sealer.open(7, sealed)).toEqual(configs[type]);
    expect([without.isStale(sealed), sealer.isStale(sealed)]).toEqual([false, true]);
  });

  test('leaves what is no secret, and what stands for one that stays', () => {
    expect(sealer.seal(7, 'email', { to: ['a@b.test'], from: 'c@d.test', smtp_url: null })).toEqual({
      to: ['a@b.test'],
      from: 'c@d.test',
      smtp_url: null,
    });
    expect(sealer.seal(7, 'webhook', { secret: mask, headers: { 'X-A': mask } })).toEqual({
      secret: mask,
      headers: { 'X-A': mask },
    });
    const plain = { url: 'http://am.test:9093/base', username: 'u' };
    expect(sealer.seal(7, 'alertmanager', plain)).toEqual(plain);
    expect([sealer.isStale(plain), sealer.isStale({})]).toEqual([false, false]);
  });

  test('opens what any of its keys sealed, and seals with the first', () => {
    const [old, new_] = [newKey(), newKey()];
    const both = createSealer([new_, old]);
    const config = configs.webhook!;
    const sealed = createSealer([old]).seal(7, 'webhook', config);
    expect(both.open(7, sealed)).toEqual(config);
    expect(both.isStale(sealed)).toBe(true);
    const anew = both.seal(7, 'webhook', both.open(7, sealed));
    expect(createSealer([new_]).open(7, anew)).toEqual(config);
    expect(failureOf(() => createSealer([old]).open(7, anew))).toBeInstanceOf(SealError);
    // One that is stale in part is stale.
    expect(both.isStale({ ...anew, secret: sealed.secret })).toBe(true);
  });

  test.each([
    ['of another org', (sealed: string) => sealed, 8],
    ['with another first byte', (sealed: string) => changed(sealed, 0), 7],
    ['with another byte of text', (sealed: string) => changed(sealed, 14), 7],
    ['with another last byte', (sealed: string) => changed(sealed, -1), 7],
    ['cut short', (sealed: string) => replaced(sealed, (bytes) => bytes.subarray(0, -1)), 7],
    ['cut to nothing', (sealed: string) => replaced(sealed, () => Buffer.alloc(0)), 7],
    ['lengthened', (sealed: string) => replaced(sealed, (bytes) => Buffer.concat([bytes, bytes])), 7],
    ['of a key that is not there', (sealed: string) => sealed.replace(/^sealed:\w+/, 'sealed:12345678'), 7],
    ['that names no key', () => 'sealed:', 7],
  ])('does not open one %s, nor tell what it was', (_what, change, orgId) => {
    const { secret } = sealer.seal(7, 'webhook', configs.webhook!);
    const failure = failureOf(() => sealer.open(orgId, { secret: change(secret as string) }));
    expect(failure).toBeInstanceOf(SealError);
    expect(secretsIn(`${failure.stack} ${JSON.stringify(failure)}`)).toEqual([]);
    for (const id of [key.toString('hex'), key.toString('base64')]) expect(failure.stack).not.toContain(id);
  });

  function replaced(sealed: string, change: (bytes: Buffer) => Buffer): string {
    const parts = sealed.split(':');
    parts[2] = change(Buffer.from(parts[2]!, 'base64')).toString('base64');
    return parts.join(':');
  }
  const changed = (sealed: string, at: number) =>
    replaced(sealed, (bytes) => {
      const copy = Buffer.from(bytes);
      copy[at < 0 ? copy.length + at : at]! ^= 1;
      return copy;
    });
});

async function make(type: string, config: Config): Promise<string> {
  const name = `${type} ${randomBytes(4).toString('hex')}`;
  const answer = await api.call('POST', '/api/v1/channels', { body: { name, type, config } });
  expect(answer.status, JSON.stringify(answer.body)).toBe(201);
  return answer.body.id;
}
async function storedOf(id: string): Promise<{ org_id: number; config: Config; text: string }> {
  const [row] = await api.sql<{ org_id: number; config: Config; text: string }[]>`
    select org_id, config, config::text as text from obs.channel where id = ${id}`;
  return row!;
}
const store = (id: string, config: Config) =>
  api.sql`update obs.channel set config = ${JSON.stringify(config)}::text::jsonb where id = ${id}`;

describe('the row of a channel', () => {
  test.each(types)('of type %s holds no secret', async (type) => {
    const id = await make(type, configs[type]!);
    const { org_id, config, text } = await storedOf(id);
    expect(secretsIn(text)).toEqual([]);
    expect(createSealer([key]).open(org_id, config)).toEqual(configs[type]);
    const { body } = await api.call('GET', `/api/v1/channels/${id}`);
    expect(secretsIn(JSON.stringify(body))).toEqual([]);
    expect(JSON.stringify(body)).not.toContain('sealed:');
  });

  test('that was changed holds none either', async () => {
    const id = await make('webhook', { url: 'https://hooks.test/', secret: 'first' });
    const { url, ...config } = configs.webhook!;
    expect((await api.call('PATCH', `/api/v1/channels/${id}`, { body: { config } })).status).toBe(200);
    const { org_id, config: stored, text } = await storedOf(id);
    expect(secretsIn(text)).toEqual([]);
    expect(createSealer([key]).open(org_id, stored)).toEqual({ url: 'https://hooks.test/', ...config });
  });

  test('holds a user name that looks as if it were sealed as it is', async () => {
    const config = { url: 'http://am.test:9093/', username: 'sealed:a:b:c', password: 'p' };
    const id = await make('alertmanager', config);
    const { body } = await api.call('GET', `/api/v1/channels/${id}`);
    expect.soft(body.config.username).toBe(config.username);
    const { org_id, config: stored } = await storedOf(id);
    expect(createSealer([key]).open(org_id, stored)).toEqual(config);
  });
});

describe('the task that encrypts anew', () => {
  let worker: postgres.Sql;
  let logged: string[];
  beforeAll(() => {
    const { workerDatabaseUrl } = parseConfig({ DATABASE_URL: api.databaseUrl, JWT_SECRET: jwtSecret });
    worker = connect(workerDatabaseUrl, { name: 'test-worker', max: 2 });
  });
  afterAll(() => worker?.end());
  beforeEach(async () => {
    logged = [];
    await api.sql`delete from obs.channel`;
  });

  const reseal = (sealer: Sealer, sql = worker) =>
    resealSecrets(
      sql,
      sealer,
      pino(
        { serializers: { error: pino.stdSerializers.err } },
        { write: (line: string) => logged.push(line) },
      ),
    )({}, {} as JobHelpers);

  test.each(types)('takes the %s that none encrypted', async (type) => {
    const id = await make(type, configs[type]!);
    const { org_id } = await storedOf(id);
    await store(id, createSealer([]).seal(org_id, type, configs[type]!));
    expect(secretsIn((await storedOf(id)).text).length).toBeGreaterThan(0);
    await reseal(createSealer([key]));
    const { config, text } = await storedOf(id);
    expect(secretsIn(text)).toEqual([]);
    expect(createSealer([key]).open(org_id, config)).toEqual(configs[type]);
    // What is in order is not touched.
    await reseal(createSealer([key]));
    expect((await storedOf(id)).text).toBe(text);
  });

  test('takes the old key’s to the new one, and leaves what it cannot open', async () => {
    const [old, lost] = [newKey(), newKey()];
    const ids = [await make('slack', configs.slack!), await make('webhook', configs.webhook!)] as const;
    const { org_id } = await storedOf(ids[0]);
    const sealedBy = (by: Buffer, type: string) => createSealer([by]).seal(org_id, type, configs[type]!);
    await store(ids[0], sealedBy(lost, 'slack'));
    await store(ids[1], sealedBy(old, 'webhook'));
    const before = await storedOf(ids[0]);
    await reseal(createSealer([key, old]));
    expect(await storedOf(ids[0])).toEqual(before);
    expect(createSealer([key]).open(org_id, (await storedOf(ids[1])).config)).toEqual(configs.webhook);
    expect(logged.join('')).toContain(ids[0]);
    expect(secretsIn(logged.join(''))).toEqual([]);
    // Nor does one that has no key at all take encryption back.
    const { text } = await storedOf(ids[1]);
    await reseal(createSealer([]));
    expect((await storedOf(ids[1])).text).toBe(text);
  });

  test('leaves one that is changed meanwhile', async () => {
    const id = await make('slack', configs.slack!);
    const { org_id } = await storedOf(id);
    const keyless = createSealer([]);
    await store(id, keyless.seal(org_id, 'slack', configs.slack!));
    const newer = keyless.seal(org_id, 'slack', { url: 'https://hooks.slack.test/services/newer' });
    let changes = 0;
    const slow = (async (strings: TemplateStringsArray, ...values: never[]) => {
      if (strings.join('').includes('replace_channel_config') && ++changes === 1) await store(id, newer);
      return worker(strings, ...values);
    }) as unknown as postgres.Sql;
    await reseal(createSealer([key]), slow);
    expect([changes, (await storedOf(id)).config]).toEqual([1, newer]);
    await reseal(createSealer([key]), slow);
    expect(createSealer([key]).open(org_id, (await storedOf(id)).config)).toEqual({
      url: 'https://hooks.slack.test/services/newer',
    });
  });
});

test('a worker without the key says so of a notification, and one that has it delivers it', {
  timeout: 90_000,
}, async () => {
  await api.sql`delete from obs.channel`;
  const received: { path: string; key: string }[] = [];
  const server = http.createServer((request, response) => {
    received.push({ path: request.url!, key: String(request.headers['x-key']) });
    request.resume().on('end', () => response.end());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/path-9Ka2`;
  const id = await make('webhook', { url, headers: { 'X-Key': 'header-2Mn6' } });
  const { text } = await storedOf(id);
  const notification = async () => {
    const { body } = await api.call('GET', `/api/v1/notifications?channel_id=${id}`);
    return body.notifications[0];
  };
  const start = (keys: Buffer[]) =>
    startService('worker', {
      DATABASE_URL: api.databaseUrl,
      SECRETS_KEY: keys.map((each) => each.toString('base64')).join(','),
    });

  const keyless = await start([newKey()]);
  try {
    const alert = { name: 'sealed', severity: 'info' };
    expect((await api.call('POST', '/api/v1/alerts', { body: alert })).status).toBe(201);
    await expect.poll(async () => (await notification())?.error, { timeout: 20_000 }).toBeTruthy();
    const failed = await notification();
    expect(failed).toMatchObject({
      status: 'pending',
      error:
        "the channel's secrets cannot be read: it is encrypted with a key that SECRETS_KEY does not hold",
    });
    expect(received).toEqual([]);
    // Nor has it changed what it could not read.
    expect((await storedOf(id)).text).toBe(text);
    expect(secretsIn(keyless.output())).toEqual([]);
  } finally {
    await keyless.kill();
  }
  const worker = await start([newKey(), key]);
  try {
    await expect.poll(async () => (await notification()).status, { timeout: 40_000 }).toBe('delivered');
    expect(received).toEqual([{ path: '/path-9Ka2', key: 'header-2Mn6' }]);
    expect(secretsIn(worker.output())).toEqual([]);
  } finally {
    await worker.stop();
    server.closeAllConnections();
    server.close();
  }
});

describe('the migration of rows from before', () => {
  const file = path.resolve(
    import.meta.dirname,
    '../../db/migrations/common/20261126020500_sealed_config.sql',
  );
  const [up, down] = readFileSync(file, 'utf8')
    .split(/^-- migrate:(?:up|down)$/m)
    .slice(1) as [string, string];
  beforeEach(async () => {
    await api.sql`delete from obs.channel`;
  });

  test('seals each as the service does that has no key, and takes it back', async () => {
    const ids = new Map<string, string>();
    for (const type of types) {
      ids.set(type, await make(type, configs[type]!));
      await store(ids.get(type)!, configs[type]!);
    }
    await api.sql.unsafe(up);
    for (const [type, id] of ids) {
      const { org_id, config } = await storedOf(id);
      expect(config, type).toEqual(createSealer([]).seal(org_id, type, configs[type]!));
      const { body } = await api.call('GET', `/api/v1/channels/${id}`);
      expect(secretsIn(JSON.stringify(body)), type).toEqual([]);
    }
    await api.sql.unsafe(down);
    for (const [type, id] of ids) expect((await storedOf(id)).config, type).toEqual(configs[type]);
  });

  test('has nothing to do with an empty one, nor with texts that are not there', async () => {
    const [empty, plain] = [await make('slack', configs.slack!), await make('email', configs.email!)];
    await store(empty, {});
    const config = { to: ['a@ops.test'], from: null, smtp_url: null };
    await store(plain, config);
    await api.sql.unsafe(up);
    expect([(await storedOf(empty)).config, (await storedOf(plain)).config]).toEqual([{}, config]);
    await api.sql.unsafe(down);
    expect([(await storedOf(empty)).config, (await storedOf(plain)).config]).toEqual([{}, config]);
  });

  test('back leaves what is encrypted, whose key it does not have', async () => {
    const id = await make('webhook', configs.webhook!);
    const { text } = await storedOf(id);
    await api.sql.unsafe(down);
    expect((await storedOf(id)).text).toBe(text);
  });
});
