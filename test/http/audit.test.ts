// The audit log: every endpoint that changes something writes to it, what is refused is in it, and nobody takes anything out.
import { describe, expect, test } from 'vitest';
import { type TestApi, useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';

const api = useApi();
const secret = 'hush-4711';

interface Event {
  id: string;
  actor: string;
  action: string;
  target_kind: string | null;
  target_id: string | null;
  outcome: string;
  status: number | null;
  count: number;
  before: Record<string, unknown> | null;
  after: Record<string, unknown> | null;
  request_id: string;
  address: string;
  token_id: string | null;
}

async function eventsOf(query: string, more: { api?: TestApi; token?: string } = {}): Promise<Event[]> {
  const { status, body } = await (more.api ?? api).call(
    'GET',
    `/api/v1/audit?${query}`,
    more.token ? { token: more.token } : {},
  );
  expect(status).toBe(200);
  return body.events;
}

const ok = async (method: string, path: string, body?: object) => {
  const answer = await api.call(method, path, { body });
  expect(answer.status, `${method} ${path} ${JSON.stringify(answer.body)}`).toBeLessThan(300);
  return answer;
};
let names = 0;
const name = () => `audited ${names++}`;
const idOf = async (path: string, body: object) => (await ok('POST', path, body)).body.id as string;

const channel = () => ({
  name: name(),
  type: 'webhook',
  config: { url: `https://hooks.test/${secret}`, secret, headers: { 'X-Key': secret } },
});
const rule = () => ({ name: name(), expression: 'avg(cpu_usage) > 90', severity: 'warning' });
const silence = () => ({
  matchers: ['alertname="x"'],
  ends_at: new Date(Date.now() + 3_600_000).toISOString(),
});
const maintenance = () => ({
  name: name(),
  starts_at: new Date().toISOString(),
  ends_at: new Date(Date.now() + 3_600_000).toISOString(),
});
const escalation = () => ({ name: name(), steps: [{ after_minutes: 1 }] });
const dashboard = () => ({ name: name(), panels: [{ type: 'services', title: 'x' }] });
const service = () => ({
  service_name: name(),
  health_endpoint: `http://127.0.0.1:1/?key=${secret}`,
  headers: { Authorization: `Bearer ${secret}` },
});
const alert = () => ({ name: name(), severity: 'info' });
const token = () => ({ name: name(), role: 'viewer' });
const registered = async () =>
  (await ok('POST', '/api/v1/services/register', service())).body.service_name as string;

interface Change {
  /** What it says it did. */
  action: string;
  /** Makes what is to be changed, and answers the request that changes it. */
  make: () => Promise<[path: string, body?: object]>;
  has: 'before' | 'after' | 'both' | 'neither';
}

const definition = (
  path: string,
  kind: string,
  of: () => object,
  changes: object,
): Record<string, Change> => ({
  [`POST ${path}`]: { action: `${kind}.create`, make: async () => [path, of()], has: 'after' },
  [`PATCH ${path}/{id}`]: {
    action: `${kind}.update`,
    make: async () => [`${path}/${await idOf(path, of())}`, changes],
    has: 'both',
  },
  [`DELETE ${path}/{id}`]: {
    action: `${kind}.delete`,
    make: async () => [`${path}/${await idOf(path, of())}`],
    has: 'before',
  },
});

const v1 = '/api/v1';
const changes: Record<string, Change> = {
  ...definition(`${v1}/channels`, 'channel', channel, { enabled: false }),
  ...definition(`${v1}/alert-rules`, 'alert_rule', rule, { severity: 'critical' }),
  ...definition(`${v1}/silences`, 'silence', silence, { reason: 'other' }),
  ...definition(`${v1}/maintenance-windows`, 'maintenance_window', maintenance, { reason: 'other' }),
  ...definition(`${v1}/escalations`, 'escalation', escalation, { enabled: false }),
  ...definition(`${v1}/dashboards`, 'dashboard', dashboard, { description: 'other' }),
  ...definition(`${v1}/tokens`, 'token', token, { role: 'ingest' }),
  [`POST ${v1}/tokens/{id}/revoke`]: {
    action: 'token.revoke',
    make: async () => [`${v1}/tokens/${await idOf(`${v1}/tokens`, token())}/revoke`],
    has: 'both',
  },
  [`POST ${v1}/channels/{id}/test`]: {
    action: 'channel.test',
    make: async () => [
      `${v1}/channels/${await idOf(`${v1}/channels`, { ...channel(), timeout_seconds: 1 })}/test`,
    ],
    has: 'after',
  },
  [`POST ${v1}/services/register`]: {
    action: 'service.create',
    make: async () => [`${v1}/services/register`, service()],
    has: 'after',
  },
  [`POST ${v1}/services/import`]: {
    action: 'service.create',
    make: async () => [`${v1}/services/import`, { services: [service()] }],
    has: 'after',
  },
  [`PATCH ${v1}/services/{name}`]: {
    action: 'service.update',
    make: async () => [`${v1}/services/${await registered()}`, { description: 'other' }],
    has: 'both',
  },
  [`DELETE ${v1}/services/{name}`]: {
    action: 'service.delete',
    make: async () => [`${v1}/services/${await registered()}`],
    has: 'before',
  },
  [`POST ${v1}/services/{name}/check`]: {
    action: 'service.check',
    make: async () => [`${v1}/services/${await registered()}/check`],
    has: 'neither',
  },
  [`POST ${v1}/alerts`]: {
    action: 'alert.create',
    make: async () => [`${v1}/alerts`, alert()],
    has: 'after',
  },
  [`PUT ${v1}/alerts/{id}/acknowledge`]: {
    action: 'alert.acknowledge',
    make: async () => [`${v1}/alerts/${await idOf(`${v1}/alerts`, alert())}/acknowledge`],
    has: 'both',
  },
  [`PUT ${v1}/alerts/{id}/resolve`]: {
    action: 'alert.resolve',
    make: async () => [`${v1}/alerts/${await idOf(`${v1}/alerts`, alert())}/resolve`],
    has: 'both',
  },
  [`POST ${v1}/alerts/{id}/notes`]: {
    action: 'alert.note',
    make: async () => [`${v1}/alerts/${await idOf(`${v1}/alerts`, alert())}/notes`, { note: 'seen' }],
    has: 'after',
  },
  [`POST ${v1}/notifications/{id}/resend`]: {
    action: 'notification.resend',
    make: async () => {
      const id = await idOf(`${v1}/channels`, { ...channel(), timeout_seconds: 1 });
      const { body } = await ok('POST', `${v1}/channels/${id}/test`);
      await api.sql`update obs.notification set status = 'dead', settled_at = now(), next_attempt_at = null where id = ${body.notification.id}`;
      return [`${v1}/notifications/${body.notification.id}/resend`];
    },
    has: 'after',
  },
  [`PATCH ${v1}/org`]: {
    action: 'org.update',
    make: async () => [`${v1}/org`, { timezone: 'Europe/Berlin' }],
    has: 'both',
  },
  [`POST ${v1}/org/erasures`]: {
    action: 'org.erase',
    make: async () => [`${v1}/org/erasures`, { confirm: 'acme' }],
    has: 'after',
  },
  // The one that the entry before asked for.
  [`DELETE ${v1}/org/erasures/{id}`]: {
    action: 'org.cancel_erasure',
    make: async () => {
      const { body } = await api.call('GET', `${v1}/org/erasures`);
      return [`${v1}/org/erasures/${body.erasures[0].id}`];
    },
    has: 'both',
  },
};

// They record, or ask.
const unchanging = [
  'metrics',
  'metrics/batch',
  'metrics/query',
  'logs',
  'heartbeat/{name}',
  'alert-rules/test',
].map((path) => `POST ${v1}/${path}`);

test('every endpoint that is not a GET is in the table of this test', () => {
  const routes = api.observability.app.openAPIRegistry.definitions.flatMap((entry) =>
    entry.type === 'route' && entry.route.method !== 'get'
      ? [`${entry.route.method.toUpperCase()} ${entry.route.path}`]
      : [],
  );
  expect(routes.sort()).toEqual([...Object.keys(changes), ...unchanging].sort());
});

describe('a change is in it, once, with what was before and after, and no secret', () => {
  test.each(Object.entries(changes))('%s', async (route, { action, make, has }) => {
    const [path, body] = await make();
    const requestId = `audit-${names++}`;
    const answer = await api.call(route.split(' ')[0]!, path, {
      body,
      headers: { 'X-Request-Id': requestId },
    });
    expect(answer.status, JSON.stringify(answer.body)).toBeLessThan(300);
    // While an org is being erased nothing else of it can be read.
    const rows = await api.sql<Event[]>`select * from obs.audit_event where request_id = ${requestId}`;
    expect(rows.map((row) => row.action)).toEqual([action]);
    const event = rows[0]!;
    expect(event).toMatchObject({
      actor: 'tester',
      outcome: 'done',
      count: 1,
      target_kind: expect.any(String),
      target_id: expect.any(String),
    });
    expect(event.address).toMatch(/127\.0\.0\.1$/);
    const given = has === 'both' ? [true, true] : [has === 'before', has === 'after'];
    expect([event.before !== null, event.after !== null]).toEqual(given);
    if (has === 'both') expect(event.before).not.toEqual(event.after);
    expect(JSON.stringify(event)).not.toContain(secret);
    if (!path.includes('erasures') || route.startsWith('DELETE'))
      expect((await eventsOf(`request_id=${requestId}`))[0]).toMatchObject({ id: event.id, action });
  });

  test('not even where a channel of another kind holds it', async () => {
    for (const body of [
      { name: name(), type: 'slack', config: { url: `https://slack.test/${secret}` } },
      { name: name(), type: 'email', config: { to: ['a@b.test'], smtp_url: `smtp://u:${secret}@mail.test` } },
      {
        name: name(),
        type: 'alertmanager',
        config: { url: `http://am.test/?k=${secret}`, password: secret, bearer_token: secret },
      },
    ])
      await ok('POST', `${v1}/channels`, body);
    const [row] =
      await api.sql`select count(*)::int as n from obs.audit_event e where e::text like ${`%${secret}%`}`;
    expect(row!.n).toBe(0);
  });
});

test('a change that fails is not in it', async () => {
  const headers = { 'X-Request-Id': 'fails' };
  const { name: taken } = (await ok('POST', `${v1}/channels`, channel())).body;
  expect(
    (await api.call('POST', `${v1}/channels`, { headers, body: { ...channel(), name: taken } })).status,
  ).toBe(409);
  expect((await api.call('DELETE', `${v1}/services/nobody`, { headers })).status).toBe(404);
  expect((await api.call('PATCH', `${v1}/org`, { headers, body: { timezone: 'Nowhere/Land' } })).status).toBe(
    400,
  );
  expect(await eventsOf('request_id=fails')).toEqual([]);
});

describe('what is refused', () => {
  test('for want of a role, or of a permission, is in it with its path', async () => {
    for (const claims of [
      { role: 'viewer', sub: 'r1' },
      { role: 'admin', permissions: ['metrics:read'], sub: 'r2' },
    ]) {
      const token = await signToken(claims);
      expect((await api.call('DELETE', `${v1}/services/x`, { token })).status).toBe(403);
      const [event] = await eventsOf('outcome=refused&limit=1');
      expect(event).toMatchObject({
        actor: claims.sub,
        action: `DELETE ${v1}/services/{name}`,
        target_id: `${v1}/services/x`,
        status: 403,
        count: 1,
      });
    }
  });

  test('for what would come of it is in it', async () => {
    const token = await signToken({ permissions: ['tokens:write', 'metrics:read'], sub: 'climber' });
    const body = { name: name(), role: 'admin' };
    expect((await api.call('POST', `${v1}/tokens`, { token, body })).status).toBe(403);
    expect((await eventsOf('outcome=refused&limit=1'))[0]).toMatchObject({
      actor: 'climber',
      action: `POST ${v1}/tokens`,
      status: 403,
    });
  });

  test('for a token of the org that is over is in it; of an org that never was nothing comes of it', async () => {
    const { id, token } = (await ok('POST', `${v1}/tokens`, { name: 'over', role: 'viewer' })).body;
    await ok('POST', `${v1}/tokens/${id}/revoke`);
    await api.call('GET', `${v1}/metrics`, { token });
    expect((await eventsOf(`token_id=${id}`))[0]).toMatchObject({
      actor: 'over',
      status: 401,
      action: `GET ${v1}/metrics`,
    });
    const expired = (org_id: string) => signToken({ org_id, exp: 1 });
    await api.call('GET', `${v1}/alerts`, { token: await expired('acme') });
    expect((await eventsOf('outcome=refused&limit=1'))[0]).toMatchObject({
      actor: 'tester',
      status: 401,
      action: `GET ${v1}/alerts`,
    });
    await api.call('GET', `${v1}/alerts`, { token: await expired('never-was') });
    expect(await api.sql`select from obs.org where external_id = 'never-was'`).toHaveLength(0);
  });

  test('again and again is counted to the last one', async () => {
    const token = await signToken({ role: 'ingest', org_id: 'hammer' });
    await Promise.all(Array.from({ length: 200 }, () => api.call('GET', `${v1}/metrics`, { token })));
    const events = await eventsOf('limit=1000', { token: await signToken({ org_id: 'hammer' }) });
    expect(events.reduce((sum, { count }) => sum + count, 0)).toBe(200);
    expect(events.length).toBeLessThan(200);
  });
});

test('filters, alone and together', async () => {
  const token = await signToken({ org_id: 'filters' });
  const call = async (method: string, path: string, more: object) =>
    (await api.call(method, path, { token, ...more })).body;
  const { id } = await call('POST', `${v1}/silences`, { body: silence() });
  await call('PATCH', `${v1}/silences/${id}`, {
    body: { reason: 'x' },
    headers: { 'X-Request-Id': 'third' },
  });
  await call('POST', `${v1}/channels`, { body: channel() });
  const actions = async (query: string) => (await eventsOf(query, { token })).map(({ action }) => action);
  expect(await actions('')).toEqual(['channel.create', 'silence.update', 'silence.create']);
  expect(await actions('action=silence')).toEqual(['silence.update', 'silence.create']);
  expect(await actions('action=silence.update')).toEqual(['silence.update']);
  expect(await actions('action=sil')).toEqual([]);
  expect(await actions(`target_kind=silence&target_id=${id}`)).toHaveLength(2);
  expect(await actions('request_id=third')).toEqual(['silence.update']);
  expect(await actions('actor=tester')).toHaveLength(3);
  expect(await actions('actor=nobody')).toEqual([]);
  expect(await actions('outcome=refused')).toEqual([]);
  expect(await actions(`end_time=${Date.now() - 60_000}`)).toEqual([]);
  expect(await actions(`start_time=${Date.now() - 60_000}&outcome=done&action=channel`)).toEqual([
    'channel.create',
  ]);
  for (const query of ['outcome=maybe', 'token_id=x', 'start_time=soon', 'limit=0', 'cursor=x', 'colour=red'])
    expect((await api.call('GET', `${v1}/audit?${query}`, { token })).body.errors[0].path).toBe(
      `query.${query.split('=')[0]}`,
    );
});

test('pages hold each event once, those of one moment too', async () => {
  const token = await signToken({ org_id: 'paged' });
  await api.call('GET', `${v1}/org`, { token });
  await api.sql`
    insert into obs.audit_event (time, org, actor, action, outcome)
    select '2026-11-01', 'paged', 'x', 'a' || i, 'done' from generate_series(1, 25) i`;
  const seen: string[] = [];
  let cursor: string | null = null;
  do {
    const { body } = await api.call('GET', `${v1}/audit?limit=10${cursor ? `&cursor=${cursor}` : ''}`, {
      token,
    });
    seen.push(...body.events.map(({ action }: Event) => action));
    cursor = body.next_cursor;
  } while (cursor);
  expect([seen.length, new Set(seen).size]).toEqual([25, 25]);
});

test('is for admins', async () => {
  for (const role of ['viewer', 'ingest', 'operator'])
    expect((await api.call('GET', `${v1}/audit`, { token: await signToken({ role }) })).status).toBe(403);
});

test.each(['obs_api', 'obs_worker', 'obs_queue', 'obs_api_definer', 'obs_job_definer'])(
  '%s can take nothing out of it',
  async (role) => {
    const [row] = await api.sql`
    select has_table_privilege(${role}, 'obs.audit_event', 'update') as u, has_table_privilege(${role}, 'obs.audit_event', 'delete') as d,
      has_table_privilege(${role}, 'obs.audit_event', 'truncate') as t`;
    expect(row).toEqual({ u: false, d: false, t: false });
  },
);

describe('with AUDIT_READS', () => {
  const reading = useApi({ AUDIT_READS: 'true' });

  test('reads are in it, each, and none is answered that could not be recorded', async () => {
    const headers = { 'X-Request-Id': 'read-1' };
    expect((await reading.call('GET', `${v1}/services?limit=5`, { headers })).status).toBe(200);
    const [event] = await eventsOf('request_id=read-1', { api: reading });
    expect(event).toMatchObject({
      action: `GET ${v1}/services`,
      target_id: `${v1}/services`,
      outcome: 'done',
      status: 200,
      actor: 'tester',
    });
    await reading.sql`revoke insert on obs.audit_event from obs_api_definer`;
    const answer = await reading.call('GET', `${v1}/services`);
    expect([answer.status, answer.body.code]).toEqual([503, 'audit_unavailable']);
    // A change writes its own, in its own transaction.
    expect((await reading.call('POST', `${v1}/silences`, { body: silence() })).status).toBe(403);
    expect(
      (await reading.call('GET', `${v1}/metrics`, { token: await signToken({ role: 'ingest' }) })).status,
    ).toBe(403);
    await reading.sql`grant insert on obs.audit_event to obs_api_definer`;
    expect((await reading.call('GET', `${v1}/services`)).status).toBe(200);
  });

  test('and without it they are not', async () => {
    await api.call('GET', `${v1}/services`, { headers: { 'X-Request-Id': 'read-2' } });
    expect(await eventsOf('request_id=read-2')).toEqual([]);
  });
});
