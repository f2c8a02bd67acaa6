// From a sample to a receiver, with a real API, a real worker and real receivers that fail, hang and recover.
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { useApi } from '../support/api.ts';
import { type Service, startService } from '../support/process.ts';

const api = useApi();
let worker: Service;
beforeAll(async () => {
  worker = await startService('worker', { DATABASE_URL: api.databaseUrl });
});
afterAll(() => worker?.stop());

interface Received {
  key: string;
  signature: string;
  body: string;
  message: { kind: string; status: string; alerts: { name: string; status: string; value: number | null }[] };
}
type Answer = (response: http.ServerResponse, n: number) => void;

const receivers: http.Server[] = [];
afterAll(() => {
  for (const server of receivers) {
    server.closeAllConnections();
    server.close();
  }
});

async function receive(answer: Answer = (response) => response.end()) {
  const received: Received[] = [];
  const server = http.createServer((request, response) => {
    let body = '';
    request.on('data', (chunk) => {
      body += chunk;
    });
    request.on('end', () => {
      received.push({
        key: String(request.headers['idempotency-key']),
        signature: String(request.headers['x-signature-256']),
        body,
        message: JSON.parse(body),
      });
      answer(response, received.length);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  receivers.push(server);
  return { received, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook` };
}

beforeEach(async () => {
  await api.sql`delete from obs.channel`;
});

const make = async (path: string, body: object) => {
  const answer = await api.call('POST', `/api/v1${path}`, { body });
  expect(answer.status, JSON.stringify(answer.body)).toBe(201);
  return answer.body;
};
const channel = (url: string, more: object = {}) =>
  make('/channels', { name: `hook ${url}`, type: 'webhook', config: { url, secret: 'a secret' }, ...more });
const until = (what: () => unknown, timeout = 15_000) => expect.poll(what, { timeout, interval: 50 });

test('a sample that crosses is told of, and so is the end, once each and signed', async () => {
  const { received, url } = await receive();
  await channel(url);
  const rule = await make('/alert-rules', {
    name: 'crossed',
    expression: 'last(level) > 100',
    interval_seconds: 5,
    annotations: { summary: 'at {{ $value }}' },
  });
  await make('/metrics', { name: 'level', value: 101 });
  await until(() => received.length).toBe(1);
  await make('/metrics', { name: 'level', value: 99 });
  await until(() => received.length).toBe(2);
  await sleep(1500);
  expect(received.map(({ message }) => message.alerts.map(({ name, status }) => [name, status]))).toEqual([
    [['crossed', 'firing']],
    [['crossed', 'resolved']],
  ]);
  for (const { signature, body } of received)
    expect(signature).toBe(`sha256=${createHmac('sha256', 'a secret').update(body).digest('hex')}`);
  expect(new Set(received.map(({ key }) => key)).size).toBe(2);
  await api.call('DELETE', `/api/v1/alert-rules/${rule.id}`);
});

test('a receiver that answers 500 twice is told a third time, with the same key and body', async () => {
  const { received, url } = await receive((response, n) => {
    response.statusCode = n <= 2 ? 500 : 200;
    response.end(n <= 2 ? 'out of order' : 'thanks');
  });
  await channel(url);
  const { id } = await make('/alerts', { name: 'thrice', severity: 'critical' });
  await until(() => received.length).toBe(3);
  expect(new Set(received.map(({ key, body }) => `${key} ${body}`)).size).toBe(1);
  const notification = async () => (await api.call('GET', `/api/v1/alerts/${id}`)).body.notifications[0];
  await until(async () => (await notification()).status).toBe('delivered');
  const told = await notification();
  expect(told.id).toBe(received[0]!.key);
  expect(
    told.attempts.map((attempt: Record<string, unknown>) => [
      attempt.number,
      attempt.delivered,
      attempt.response_code,
      attempt.detail,
    ]),
  ).toEqual([
    [1, false, 500, null],
    [2, false, 500, null],
    [3, true, 200, 'thanks'],
  ]);
  expect(told.attempts[0].error).toBe('the receiver answered 500: out of order');
});

test('one that hangs is given up after its time and tried again; others wait neither for it nor for its org', async () => {
  const hanging = await receive((response, n) => {
    if (n > 1) response.end();
  });
  await channel(hanging.url, { timeout_seconds: 1 });
  const well = await receive();
  await channel(well.url);
  await make('/alerts', { name: 'hangs', severity: 'info' });
  await until(() => well.received.length, 4_000).toBe(1);
  await until(() => hanging.received.length).toBe(2);
  expect(hanging.received[1]!.key).toBe(hanging.received[0]!.key);
});

test('a worker that is killed in the middle of a delivery: another makes it, with the same key', async () => {
  let kill: (() => Promise<void>) | undefined;
  const { received, url } = await receive((response, n) => {
    if (n === 1) void kill?.();
    else response.end();
  });
  await channel(url, { timeout_seconds: 1 });
  kill = worker.kill;
  await make('/alerts', { name: 'killed', severity: 'info' });
  await until(() => received.length).toBe(1);
  worker = await startService('worker', { DATABASE_URL: api.databaseUrl });
  await until(() => received.length, 25_000).toBe(2);
  expect(received[1]).toEqual(received[0]);
});

test('a worker that is told to stop finishes what it delivers', async () => {
  let stopped: Promise<number | null> | undefined;
  const { received, url } = await receive((response) => {
    stopped ??= worker.stop();
    setTimeout(() => response.end('late'), 1000);
  });
  await channel(url);
  const { id } = await make('/alerts', { name: 'stops', severity: 'info' });
  await until(() => received.length).toBe(1);
  expect(await stopped).toBe(0);
  const { body } = await api.call('GET', `/api/v1/alerts/${id}`);
  expect(body.notifications[0]).toMatchObject({
    status: 'delivered',
    attempts: [{ number: 1, detail: 'late' }],
  });
  worker = await startService('worker', { DATABASE_URL: api.databaseUrl });
});

test('a service that is down is told of through the same channels', async () => {
  const { received, url } = await receive();
  await channel(url);
  await make('/services/register', {
    service_name: 'gone',
    health_endpoint: 'tcp://127.0.0.1:1',
    check_interval_seconds: 5,
    failure_threshold: 1,
  });
  await until(() => received.length).toBe(1);
  expect(received[0]!.message.alerts[0]).toMatchObject({ name: 'gone is unhealthy', status: 'firing' });
});

test('a rule that cannot be evaluated is found among many, which go on', async () => {
  const expression = 'last(many) > 0';
  for (let i = 0; i < 20; i++)
    await make('/alert-rules', { name: `many ${i}`, expression, interval_seconds: 5 });
  await make('/metrics', { name: 'many', value: 1 });
  await api.sql`
    update obs.alert_rule set tree = jsonb_set(tree, '{selectors,0,aggregation}', '"nonsense"') where name in ('many 3', 'many 11')`;
  const states = async () =>
    (
      await api.sql<{ name: string; error: string | null; firing: boolean }[]>`
        select r.name, t.last_error as error, exists (select from obs.alert a where a.rule_id = r.id) as firing
        from obs.alert_rule r join obs.alert_rule_state t on t.rule_id = r.id where r.name ~ '^many' order by r.id`
    ).map(({ name, error, firing }) => [/^many (3|11)$/.test(name), error, firing]);
  await until(
    async () => (await states()).filter(([bad, error, firing]) => (bad ? error : firing)).length,
  ).toBe(20);
  expect((await states()).filter(([bad]) => bad)).toEqual([
    [true, 'unknown aggregation nonsense', false],
    [true, 'unknown aggregation nonsense', false],
  ]);
  await api.sql`delete from obs.alert_rule where name ~ '^many'`;
});
