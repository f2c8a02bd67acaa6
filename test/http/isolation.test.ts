// One org attacks another over HTTP: with the other's names, ids, cursors and tokens, and by claiming to be it. Whatever it tries, it is
// answered as if the other were not there, and of the other nothing changes. Each route of the document has its line in the table
// below: a new one takes a line, too.
import { setTimeout as sleep } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { SignJWT } from 'jose';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { rollUp } from '../../db/roll_up.ts';
import { type Permission, permissions, roles } from '../../src/permissions.ts';
import { openApiDocument } from '../../src/routes/docs.ts';
import { useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';
import { type EventStream, openEvents } from '../support/sse.ts';
import {
  attackerOptions,
  fillTenant,
  hourMs,
  leakDetector,
  normalized,
  nothingLike,
  rowsOf,
  settle,
  type Tenant,
  type Things,
  unowned,
  victimOptions,
} from '../support/tenant.ts';

const api = useApi({ TRUSTED_PROXIES: '1' });

interface Request {
  /** What is in the path's braces. */
  path?: Record<string, string>;
  query?: Record<string, string>;
  body?: unknown;
  headers?: Record<string, string>;
}

interface Route {
  /** read: stores nothing; change: of what is there; make: of something new. */
  kind: 'read' | 'change' | 'make';
  /** The answer where all that is named is the org's own. */
  status: number | number[];
  /** What can be asked of it: each thing in it is put to the test by itself, and all together. */
  requests: ((t: Things) => Request)[];
  /** Its answer has nothing of the org but what the request had. */
  isSilent?: boolean;
  /** Its answer is another each time. */
  isMoving?: boolean;
}

const now = Date.now();
const range = { start_time: String(now - 24 * hourMs), end_time: String(now + hourMs) };
const read = (...requests: Route['requests']): Route => ({
  kind: 'read',
  status: 200,
  requests: requests.length > 0 ? requests : [() => ({})],
});
const change = (status: Route['status'], ...requests: Route['requests']): Route => ({
  kind: 'change',
  status,
  requests,
});
const make = (status: Route['status'], ...requests: Route['requests']): Route => ({
  kind: 'make',
  status,
  requests,
});
const page = (cursor: string) => (t: Things) => ({ query: { limit: '1', cursor: t[cursor]! } });
const byId = (thing: string) => (t: Things) => ({ path: { id: t[thing]! } });
const byName = (t: Things) => ({ path: { name: t.service! } });
const byService = (t: Things) => ({ path: { service: t.service! } });
const withBody = (thing: string, body: (t: Things) => object) => (t: Things) => ({
  path: { id: t[thing]! },
  body: body(t),
});
const ofLogs = (query: (t: Things) => Record<string, string>) => (t: Things) => ({ query: query(t) });
const logFilters: ((t: Things) => Record<string, string>)[] = [
  (t) => ({ q: t.word! }),
  (t) => ({ contains: t.part! }),
  (t) => ({ trace_id: t.trace! }),
  (t) => ({ 'meta.user': t.user! }),
  (t) => ({ q: t.word!, contains: t.part!, trace_id: t.trace!, 'meta.user': t.user! }),
];
const ofAll = logFilters.map((query) => (t: Things) => ({ path: { service: '*' }, query: query(t) }));
const sample = (t: Things) => ({
  name: t.metric,
  value: 1,
  labels: { zone: t.zone },
  service_name: t.service,
});
const line = (t: Things) => ({
  service_name: t.service,
  level: 'info',
  message: `${t.word} ${t.part}`,
  metadata: { user: t.user },
  trace_id: t.trace,
});
const keyed = (t: Things) => ({ 'Idempotency-Key': t.key! });
const definition = (t: Things) => ({
  service_name: t.service,
  health_endpoint: 'http://127.0.0.1:1/',
  timeout_seconds: 0.1,
  tags: [t.tag],
  depends_on: [t.heartbeat],
});
const metricsQuery = (t: Things, more: object) => ({
  body: { metric_name: t.metric, ...range, aggregation: 'max', ...more },
});
const replay = (expression: (t: Things) => string, more: (t: Things) => object) => (t: Things) => ({
  body: {
    expression: expression(t),
    start_time: now - hourMs,
    end_time: now,
    interval_seconds: 600,
    ...more(t),
  },
});

// In the order in which an org can do all of it to what it has.
const routes: Record<string, Route> = {
  'GET /api/v1/metrics': read(
    () => ({}),
    (t) => ({ query: { q: t.metric! } }),
    (t) => ({ query: { service_name: t.service! } }),
    page('metricsCursor'),
  ),
  'POST /api/v1/metrics/query': read(
    (t) => metricsQuery(t, {}),
    (t) => metricsQuery(t, { service_name: t.service, labels: { zone: t.zone } }),
    (t) => metricsQuery(t, { group_by: ['zone', 'service_name'], format: 'columns', time_window: '1h' }),
    (t) => metricsQuery(t, { aggregation: 'count', fill: 'zero', time_window: '1d' }),
  ),
  'GET /api/v1/metrics/{name}/labels': read(
    (t) => ({ path: { name: t.metric! } }),
    (t) => ({ path: { name: t.metric! }, query: { service_name: t.service! } }),
  ),
  'GET /api/v1/metrics/{name}/analytics': read(
    (t) => ({ path: { name: t.metric! }, query: range }),
    (t) => ({
      path: { name: t.metric! },
      query: { ...range, service_name: t.service!, 'label.zone': t.zone! },
    }),
  ),
  'GET /api/v1/metrics/{name}/correlations': read(
    (t) => ({ path: { name: t.metric! }, query: range }),
    (t) => ({ path: { name: t.metric! }, query: { ...range, q: t.metric!, service_name: t.service! } }),
  ),
  'GET /api/v1/logs': read(
    () => ({}),
    (t) => ({ query: { service_name: t.service!, highlight: 'true' } }),
    ...logFilters.map(ofLogs),
    page('logsCursor'),
    (t) => ({ query: { format: 'ndjson', q: t.word! } }),
  ),
  'GET /api/v1/logs/{service}': read(
    byService,
    ...ofAll,
    (t) => ({ path: { service: t.service! }, query: { limit: '1', cursor: t.logsCursor! } }),
    (t) => ({ path: { service: t.service! }, query: { format: 'ndjson' } }),
  ),
  'GET /api/v1/logs/{service}/stream': read(
    byService,
    (t) => ({ path: { service: t.service! }, headers: { 'Last-Event-ID': t.lastEventId! } }),
    (t) => ({ path: { service: '*' }, headers: { 'Last-Event-ID': '0' }, query: { q: t.word! } }),
  ),
  'GET /api/v1/logs/{service}/histogram': {
    ...read((t) => ({ ...byService(t), query: range })),
    isSilent: true,
  },
  'GET /api/v1/logs/{service}/patterns': read(byService, ...ofAll),
  'GET /api/v1/logs/{service}/{id}/context': read(
    (t) => ({ path: { service: t.service!, id: t.lineId! } }),
    (t) => ({ path: { service: '*', id: t.lineId! } }),
  ),
  'GET /api/v1/services': read(
    () => ({}),
    (t) => ({ query: { tag: t.tag! } }),
    (t) => ({ query: { q: t.service! } }),
    page('servicesCursor'),
  ),
  'GET /api/v1/services/export': read(),
  'GET /api/v1/services/{name}': read(byName, (t) => ({ path: { name: t.heartbeat! } })),
  'GET /api/v1/services/{name}/results': read(byName, (t) => ({
    ...byName(t),
    query: { limit: '1', cursor: t.resultsCursor! },
  })),
  'GET /api/v1/services/{name}/events': read(byName, (t) => ({
    ...byName(t),
    query: { limit: '1', cursor: t.eventsCursor! },
  })),
  'GET /api/v1/services/{name}/timeline': { ...read(byName), isSilent: true },
  'GET /api/v1/health/services': read(
    () => ({}),
    (t) => ({ headers: { 'If-None-Match': t.etag! } }),
  ),
  'GET /api/v1/alerts': read(
    () => ({}),
    (t) => ({ query: { service_name: t.service! } }),
    (t) => ({ query: { q: t.alertName!, status: 'firing' } }),
    page('alertsCursor'),
  ),
  'GET /api/v1/alerts/{id}': read(byId('alert')),
  'GET /api/v1/alert-rules': read(
    () => ({}),
    (t) => ({ query: { q: t.ruleName! } }),
    page('rulesCursor'),
  ),
  'GET /api/v1/alert-rules/{id}': read(byId('rule')),
  'POST /api/v1/alert-rules/test': read(
    replay(
      (t) => `max(${t.metric}[1h]) > 0`,
      () => ({}),
    ),
    replay(
      (t) => `max by (zone) (${t.metric}{zone=~"${t.zone}.*",service="${t.service}"}[1h]) > 0 for 5m`,
      () => ({}),
    ),
    replay(
      (t) => `count(${t.metric}[1h]) < 1 or absent(${t.metric}{zone="${t.zone}"}[1h])`,
      (t) => ({ service_name: t.service, no_data: 'alert' }),
    ),
  ),
  'GET /api/v1/channels': read(
    () => ({}),
    (t) => ({ query: { q: t.channelName! } }),
    page('channelsCursor'),
  ),
  'GET /api/v1/channels/{id}': read(byId('channel')),
  'GET /api/v1/silences': read(
    () => ({}),
    (t) => ({ query: { q: t.silenceReason! } }),
    page('silencesCursor'),
  ),
  'GET /api/v1/silences/{id}': read(byId('silence')),
  'GET /api/v1/maintenance-windows': read(
    () => ({}),
    (t) => ({ query: { q: t.windowName! } }),
    page('windowsCursor'),
  ),
  'GET /api/v1/maintenance-windows/{id}': read(byId('window')),
  'GET /api/v1/escalations/default': { ...read(), isSilent: true },
  'GET /api/v1/escalations': read(
    () => ({}),
    (t) => ({ query: { q: t.escalationName! } }),
    page('escalationsCursor'),
  ),
  'GET /api/v1/escalations/{id}': read(byId('escalation')),
  'GET /api/v1/dashboards': read(
    () => ({}),
    (t) => ({ query: { q: t.dashboardName! } }),
    page('dashboardsCursor'),
  ),
  'GET /api/v1/dashboards/{id}': read(byId('dashboard')),
  'GET /api/v1/overview': { ...read(), isSilent: true },
  'GET /api/v1/overview/stream': { ...read(), isSilent: true },
  'GET /api/v1/dashboard/metrics': read(),
  'GET /api/v1/notifications': read(
    () => ({}),
    (t) => ({ query: { channel_id: t.channel! } }),
    (t) => ({ query: { alert_id: t.alert! } }),
    page('notificationsCursor'),
  ),
  'GET /api/v1/notifications/{id}': read(byId('notification')),
  'GET /api/v1/org': read(),
  'GET /api/v1/org/storage': { ...read(), isSilent: true, isMoving: true },
  'GET /api/v1/org/usage': { ...read(), isMoving: true },
  'GET /api/v1/org/export': read(),
  'GET /api/v1/org/erasures': read(() => ({}), page('erasuresCursor')),
  'GET /api/v1/org/erasures/{id}': read(byId('erasure')),
  'GET /api/v1/tokens': read(() => ({}), page('tokensCursor')),
  'GET /api/v1/tokens/{id}': read(byId('token')),
  'GET /api/v1/audit': {
    ...read(
      () => ({}),
      (t) => ({ query: { actor: t.actor! } }),
      (t) => ({ query: { action: 'channel', target_kind: 'channel', target_id: t.channel! } }),
      (t) => ({ query: { token_id: t.token! } }),
      (t) => ({ query: { request_id: t.request! } }),
      (t) => ({ query: { address: t.address!, outcome: 'refused' } }),
      page('auditCursor'),
    ),
    isMoving: true,
  },

  'PUT /api/v1/alerts/{id}/acknowledge': change(
    200,
    withBody('alert', () => ({ note: 'mine' })),
  ),
  'POST /api/v1/alerts/{id}/notes': change(
    201,
    withBody('alert', () => ({ note: 'mine' })),
  ),
  'PUT /api/v1/alerts/{id}/resolve': change(200, byId('alert')),
  'POST /api/v1/notifications/{id}/resend': change(200, byId('notification')),
  'PATCH /api/v1/escalations/{id}': change(
    200,
    withBody('escalation', (t) => ({
      name: t.escalationName,
      matchers: [`zone="${t.zone}"`],
      steps: [{ after_minutes: 1, channel_ids: [t.channel] }],
    })),
  ),
  'DELETE /api/v1/escalations/{id}': change(204, byId('escalation')),
  'PATCH /api/v1/dashboards/{id}': change(
    200,
    withBody('dashboard', (t) => ({
      name: t.dashboardName,
      panels: [{ type: 'metric', title: 'mine', metric_name: t.metric, service_name: t.service }],
    })),
  ),
  'DELETE /api/v1/dashboards/{id}': change(204, byId('dashboard')),
  'PATCH /api/v1/channels/{id}': change(
    200,
    withBody('channel', (t) => ({
      name: t.channelName,
      service_names: [t.service],
      matchers: [`zone="${t.zone}"`],
    })),
    // Who could move another's channel to an address of its own would be sent its secrets.
    withBody('channel', () => ({ config: { url: 'http://127.0.0.1:1/', secret: 's', headers: {} } })),
  ),
  'POST /api/v1/channels/{id}/test': change(200, byId('channel')),
  // 409 where an escalation adds it: it is found.
  'DELETE /api/v1/channels/{id}': change([204, 409], byId('channel')),
  'PATCH /api/v1/alert-rules/{id}': change(
    200,
    withBody('rule', (t) => ({ name: t.ruleName, expression: `max(${t.metric}{zone="${t.zone}"}) > 0` })),
    withBody('rule', (t) => ({ expression: `max(${t.metric}) > 0`, service_name: t.service })),
  ),
  'DELETE /api/v1/alert-rules/{id}': change(204, byId('rule')),
  'PATCH /api/v1/silences/{id}': change(
    200,
    withBody('silence', (t) => ({ matchers: [`service="${t.service}"`], reason: t.silenceReason })),
  ),
  'DELETE /api/v1/silences/{id}': change(204, byId('silence')),
  'PATCH /api/v1/maintenance-windows/{id}': change(
    200,
    withBody('window', (t) => ({ name: t.windowName, matchers: [`service="${t.service}"`] })),
  ),
  'DELETE /api/v1/maintenance-windows/{id}': change(204, byId('window')),
  'PATCH /api/v1/tokens/{id}': change(
    200,
    withBody('token', (t) => ({ name: t.tokenName, role: 'admin' })),
  ),
  'POST /api/v1/tokens/{id}/revoke': change(200, byId('token')),
  'DELETE /api/v1/tokens/{id}': change(204, byId('token')),
  'POST /api/v1/heartbeat/{name}': change(201, (t) => ({ path: { name: t.heartbeat! } })),
  'POST /api/v1/services/{name}/check': change(200, byName),
  'PATCH /api/v1/services/{name}': change(
    200,
    (t) => ({ ...byName(t), body: { depends_on: [t.heartbeat], tags: [t.tag] } }),
    (t) => ({ ...byName(t), body: { paused: true, health_endpoint: 'http://127.0.0.1:1/' } }),
  ),
  'DELETE /api/v1/services/{name}': change(204, byName),

  'POST /api/v1/metrics': make(201, (t) => ({ body: sample(t), headers: keyed(t) })),
  'POST /api/v1/metrics/batch': make(201, (t) => ({ body: { metrics: [sample(t)] }, headers: keyed(t) })),
  'POST /api/v1/logs': make(201, (t) => ({ body: { logs: [line(t)] }, headers: keyed(t) })),
  'POST /api/v1/services/register': make([200, 201], (t) => ({ body: definition(t) })),
  'POST /api/v1/services/import': make(200, (t) => ({ body: { services: [definition(t)] } })),
  'POST /api/v1/alerts': make(
    [200, 201],
    (t) => ({
      body: { name: t.alertName, severity: 'info', service_name: t.service, labels: { zone: t.zone } },
    }),
    (t) => ({
      body: {
        name: t.alertName,
        severity: 'info',
        service_name: t.service,
        rule_expression: `max(${t.metric}{zone="${t.zone}"}) > 0`,
      },
    }),
    // Of which the other has a rule that was made with it.
    (t) => ({
      body: { name: t.ruledName, severity: 'info', service_name: t.service, labels: { zone: t.zone } },
    }),
  ),
  'POST /api/v1/alert-rules': make(
    201,
    (t) => ({
      body: {
        name: t.ruleName,
        expression: `absent(${t.metric}{zone="${t.zone}"})`,
        service_name: t.service,
      },
    }),
    (t) => ({ body: { name: `${t.ruleName}-too`, expression: `max(${t.metric}) > 0` } }),
  ),
  'POST /api/v1/channels': make(201, (t) => ({
    body: {
      name: t.channelName,
      type: 'webhook',
      config: { url: 'http://127.0.0.1:1/' },
      service_names: [t.service],
      matchers: [`zone="${t.zone}"`],
    },
  })),
  'POST /api/v1/silences': make(201, (t) => ({
    body: { matchers: [`service="${t.service}"`], ends_at: now + hourMs, reason: t.silenceReason },
  })),
  'POST /api/v1/maintenance-windows': make(201, (t) => ({
    body: {
      name: t.windowName,
      matchers: [`zone="${t.zone}"`],
      starts_at: now - hourMs,
      ends_at: now + hourMs,
    },
  })),
  'POST /api/v1/escalations': make(201, (t) => ({
    body: { name: t.escalationName, steps: [{ after_minutes: 1, channel_ids: [t.channel] }] },
  })),
  'POST /api/v1/dashboards': make(201, (t) => ({
    body: {
      name: t.dashboardName,
      panels: [{ type: 'metric', title: 'mine', metric_name: t.metric, service_name: t.service }],
    },
  })),
  'POST /api/v1/tokens': make(201, (t) => ({ body: { name: t.tokenName, role: 'viewer' } })),
  'PATCH /api/v1/org': make(
    200,
    () => ({ body: { retention_days: 30 } }),
    () => ({ body: { timezone: 'Europe/Oslo' } }),
    () => ({ body: { limits: { series: 1000 } } }),
  ),
  'POST /api/v1/org/erasures': make(202, (t) => ({ body: { confirm: t.org } })),
  // The one that there is was cancelled: it is found.
  'DELETE /api/v1/org/erasures/{id}': change(409, byId('erasure')),
};
const all = Object.keys(routes);
const ofKind = (...kinds: Route['kind'][]) => all.filter((key) => kinds.includes(routes[key]!.kind));

let victim: Tenant;
let attacker: Tenant;
/** Things that no org has. */
let nothing: Things;
let leaksIn: Awaited<ReturnType<typeof leakDetector>>;
let before: Record<string, string[]>;
const count = { requests: 0, attacks: new Set<string>() };

beforeAll(async () => {
  [victim, attacker] = await Promise.all([fillTenant(api, victimOptions), fillTenant(api, attackerOptions)]);
  await settle(api, [victim, attacker], rollUp);
  nothing = nothingLike(victim);
  leaksIn = await leakDetector(api.sql, victim, victimOptions);
});

interface Asked {
  status: number;
  text: string;
  headers: Headers;
}

function pathOf(key: string, { path = {}, query = {} }: Request): string {
  const filled = key.split(' ')[1]!.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(path[name]!));
  return Object.keys(query).length > 0 ? `${filled}?${new URLSearchParams(query)}` : filled;
}

/** Sends a request to a route; of a stream what comes within a moment. */
async function ask(key: string, request: Request, token: string | null): Promise<Asked> {
  const path = pathOf(key, request);
  const headers = request.headers ?? {};
  if (key.endsWith('/stream')) {
    const stream = await openEvents(api.url + path, {
      ...headers,
      ...(token === null ? {} : { Authorization: `Bearer ${token}` }),
    });
    if (stream.status === 200) {
      await sleep(60);
      stream.close();
      const lines = stream.events.map(({ event, data }) => `${event} ${data}`);
      return { status: 200, text: lines.join('\n'), headers: stream.headers };
    }
  }
  const { body, ...answer } = await api.call(key.split(' ')[0]!, path, {
    token,
    headers,
    ...('body' in request ? { body: request.body } : {}),
  });
  return { ...answer, text: typeof body === 'string' ? body : JSON.stringify(body) };
}

/** The same as an attack: whoever asks, the answer has nothing of the victim but what was said by who asks. */
async function attack(
  name: string,
  key: string,
  request: Request,
  token: string | null,
  said: Iterable<string> = [],
): Promise<Asked> {
  count.requests++;
  count.attacks.add(name);
  const asked = await ask(key, request, token);
  const whole = `${[...asked.headers].map(([header, value]) => `${header}: ${value}`).join('\n')}\n\n${asked.text}`;
  const leaks = leaksIn(whole, said);
  expect(
    leaks,
    `${name}: ${key} ${JSON.stringify(request)} by ${token?.slice(0, 20)}: ${asked.text.slice(0, 2000)}`,
  ).toEqual([]);
  return asked;
}

/** The things that a request names. */
function slotsOf(request: Route['requests'][number]): string[] {
  const names = new Set<string>();
  request(
    new Proxy(attacker.things, {
      get(things, name: string) {
        expect(things, name).toHaveProperty(name);
        names.add(name);
        return things[name];
      },
    }),
  );
  return [...names];
}

let fresh = 0;
/** With names that are not taken yet. */
function fresher(things: Things): Things {
  fresh++;
  const made = [
    'alertName',
    'ruledName',
    'ruleName',
    'channelName',
    'windowName',
    'escalationName',
    'dashboardName',
    'tokenName',
    'key',
  ];
  return { ...things, ...Object.fromEntries(made.map((name) => [name, `${things[name]}-${fresh}`])) };
}

/** From the address that all of an org's requests come from. */
const from = ({ things }: Tenant, request: Request): Request => ({
  ...request,
  headers: { 'X-Forwarded-For': things.address!, ...request.headers },
});
const mine = (request: Request) => from(attacker, request);
/** What the attacker has had stored of the victim's names. */
const stored = new Set<string>();

describe('the table', () => {
  test('has each route of the document that takes a token, and no other', () => {
    const { paths = {} } = openApiDocument(api.observability.app);
    const documented = Object.entries(paths).flatMap(([path, methods]) =>
      Object.entries(methods as Record<string, { security?: unknown }>)
        .filter(([, { security }]) => security !== undefined)
        .map(([method]) => `${method.toUpperCase()} ${path}`),
    );
    expect(all.toSorted()).toEqual(documented.toSorted());
  });

  test('leaves out of what is served under /api/v1 health alone', () => {
    const served = new Set(
      api.observability.app.routes
        .filter(({ method, path }) => method !== 'ALL' && path.startsWith('/api/'))
        .map(({ method, path }) => `${method} ${path.replace(/:(\w+)/g, '{$1}')}`),
    );
    expect([...served].filter((key) => !routes[key]).toSorted()).toEqual([
      'GET /api/v1/health',
      'GET /api/v1/health/live',
      'GET /api/v1/health/ready',
    ]);
  });

  test('is about an org that has something in every table', async () => {
    const rows = await rowsOf(api.sql, victim);
    for (const [table, { length }] of Object.entries(rows))
      if (!unowned.includes(table)) expect(length, table).toBeGreaterThan(0);
  });

  test.each(ofKind('read'))('%s shows an org what is its own', async (key) => {
    const { requests, status, isSilent } = routes[key]!;
    const found: string[] = [];
    for (const request of requests) {
      const asked = await ask(key, from(victim, request(victim.things)), victim.token);
      victim.used.requests++;
      expect([304, status].flat(), asked.text).toContain(asked.status);
      found.push(
        ...leaksIn(
          asked.text,
          slotsOf(request).map((slot) => victim.things[slot]!),
        ),
      );
    }
    // What would tell were it to come to another.
    if (!isSilent) expect(found).not.toEqual([]);
  });
});

describe('a live tail', () => {
  const streams: EventStream[] = [];
  afterAll(() => {
    for (const stream of streams) stream.close();
  });

  test('of another org’s service is silent, while the org’s own is not', async () => {
    const open = async (token: string, service: string, headers: Record<string, string> = {}) => {
      const stream = await openEvents(`${api.url}/api/v1/logs/${service}/stream`, {
        Authorization: `Bearer ${token}`,
        ...headers,
      });
      expect(stream.status).toBe(200);
      streams.push(stream);
      return stream;
    };
    const { service, lastEventId } = victim.things;
    const token = await signToken({ org_id: `${attacker.marker}-tails` });
    const own = await open(victim.token, service!, { 'X-Forwarded-For': victim.things.address! });
    victim.used.requests++;
    const others = await Promise.all([
      open(token, service!),
      open(token, '*'),
      open(token, service!, { 'Last-Event-ID': lastEventId! }),
      open(token, '*', { 'Last-Event-ID': `${Number(lastEventId) - 1}-0` }),
      open(await signToken({ org_id: victim.org.toLowerCase() }), service!),
    ]);
    count.requests += others.length;
    const body = { service_name: service, level: 'error', message: `${victim.marker} is live` };
    expect((await victim.call('POST', '/logs', { body })).status).toBe(201);
    victim.used.log_lines++;
    await expect.poll(() => own.events.map(({ data }) => data).join()).toContain('is live');
    // One of the attacker's own comes through: the tails are at work.
    const mark = { service_name: service, level: 'info', message: 'of the attacker' };
    expect((await api.call('POST', '/api/v1/logs', { token, body: mark })).status).toBe(201);
    await expect
      .poll(() =>
        others.slice(0, 4).filter(({ events }) => events.some(({ data }) => data.includes('of the'))),
      )
      .toHaveLength(4);
    await sleep(1000);
    for (const { events } of others)
      expect(leaksIn(events.map(({ data }) => data).join('\n'), [service!])).toEqual([]);
    expect(own.events.map(({ data }) => data).join()).not.toContain('of the attacker');
    expect(others[4]!.events).toEqual([]);
  });
});

describe('another org’s', () => {
  beforeAll(async () => {
    before = await rowsOf(api.sql, victim);
  });

  // Reads first: what changes below has the attacker store some of the names.
  test.each([...ofKind('read'), ...ofKind('change'), ...ofKind('make')])(
    'names, ids and cursors are to %s as those that nobody has',
    async (key) => {
      const { requests, kind } = routes[key]!;
      for (const request of requests) {
        const slots = slotsOf(request);
        for (const slot of [...slots, 'all']) {
          const named = slot === 'all' ? slots : [slot];
          const texts: string[] = [];
          for (const things of [victim.things, nothing]) {
            const used =
              slot === 'all'
                ? things
                : kind === 'make'
                  ? { ...fresher(attacker.things), [slot]: things[slot]! }
                  : { ...attacker.things, [slot]: things[slot]! };
            const said = named.map((name) => used[name]!);
            if (kind !== 'read') for (const thing of said) stored.add(thing);
            const asked = await attack(
              slot.endsWith('Cursor') ? 'cursors' : slot === 'all' ? 'all names and ids' : 'names and ids',
              key,
              mine(request(used)),
              attacker.token,
              [...stored, ...said],
            );
            const own = slots.map((name) => used[name]!);
            texts.push(`${asked.status} ${normalized(asked.text, own)}`);
          }
          if (slots.length > 0) expect(texts[0], `${slot} of ${key}`).toBe(texts[1]);
        }
        // Things get their own names back, for what follows.
        if (key.startsWith('PATCH') && kind === 'change')
          expect((await ask(key, request(attacker.things), attacker.token)).status).toBe(200);
      }
    },
  );

  test.each(['/metrics', '/metrics/batch', '/logs'])(
    'Idempotency-Key with the same body to %s is no repetition',
    async (path) => {
      const token = await signToken({ org_id: `${attacker.marker}-${path}` });
      const { key, body } = victim.batches[path]!;
      for (const replayed of [null, 'true']) {
        const answer = await attack(
          'idempotency keys',
          `POST /api/v1${path}`,
          { body, headers: { 'Idempotency-Key': key } },
          token,
        );
        expect([answer.status, answer.headers.get('Idempotency-Replayed')]).toEqual([201, replayed]);
      }
      const found = await api.call('GET', path === '/logs' ? '/api/v1/logs' : '/api/v1/metrics', { token });
      expect((found.body.metrics ?? found.body.logs).length).toBeGreaterThan(0);
    },
  );

  const base64 = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const forged: [string, () => string | null | Promise<string | null>][] = [
    ['none', () => null],
    ['an API token that is revoked', () => victim.revoked],
    ['an API token that has expired', () => victim.expired],
    ['an API token cut short', () => victim.things.tokenText!.slice(0, -1)],
    ['an API token with another digit', () => flipped(victim.things.tokenText!)],
    ['an API token with another digit and its checksum', () => resummed(victim.things.tokenText!)],
    ['the shown beginning of an API token', () => victim.things.tokenText!.slice(0, 12)],
    ['an API token in capitals', () => `obs_${victim.things.tokenText!.slice(4).toUpperCase()}`],
    ['a JWT that has expired', () => signToken({ org_id: victim.org, exp: 1 })],
    [
      'a JWT of the attacker, made one of the victim',
      async () => {
        const [header, payload, signature] = (await signToken({ org_id: attacker.org })).split('.');
        const claims = JSON.parse(Buffer.from(payload!, 'base64url').toString());
        return `${header}.${base64({ ...claims, org_id: victim.org })}.${signature}`;
      },
    ],
    [
      'a JWT with alg none',
      () => `${base64({ alg: 'none' })}.${base64({ sub: 'x', org_id: victim.org, role: 'admin' })}.`,
    ],
    ['a JWT signed with another secret', () => signedWith('z'.repeat(32), 'HS256')],
    ['a JWT signed with no secret', () => signedWith('\0', 'HS256')],
    ['a JWT with another algorithm', () => signedWith('a-secret-for-tests-of-at-least-32-bytes', 'HS512')],
    ['a JWT of a list of orgs', () => signToken({ org_id: [attacker.org, victim.org] })],
    ['a JWT of an object', () => signToken({ org_id: { '0': victim.org } })],
    ['a JWT of null', () => signToken({ org_id: null })],
    ['a JWT of the victim and a NUL', () => signToken({ org_id: `${victim.org}\0` })],
    ['a JWT of the victim and a line', () => signToken({ org_id: `${victim.org}\n${attacker.org}` })],
  ];

  function signedWith(secret: string, alg: string) {
    return new SignJWT({ org_id: victim.org, role: 'admin' })
      .setProtectedHeader({ alg })
      .setSubject('tester')
      .setExpirationTime('1h')
      .sign(new TextEncoder().encode(secret));
  }
  const head = async (path: string, token: string | null) => {
    count.requests++;
    const headers: Record<string, string> = token === null ? {} : { Authorization: `Bearer ${token}` };
    return (await fetch(api.url + path, { method: 'HEAD', headers })).status;
  };
  const flipped = (token: string) =>
    `${token.slice(0, 20)}${token[20] === '0' ? '1' : '0'}${token.slice(21)}`;
  const resummed = (token: string) => {
    const random = flipped(token).slice(4, 68);
    return `obs_${random}${crc32(random).toString(16).padStart(8, '0')}`;
  };

  test.each(forged)('token is not had by %s', async (name, token) => {
    const made = await token();
    for (const key of all) {
      const asked = await attack(`token: ${name}`, key, routes[key]!.requests.at(-1)!(victim.things), made);
      expect([asked.status, JSON.parse(asked.text).code], key).toEqual([401, 'unauthorized']);
      expect(asked.headers.get('WWW-Authenticate')).toBe('Bearer');
    }
    if (made === null || made === victim.revoked)
      for (const key of all.filter((key) => key.startsWith('GET ')))
        expect(await head(pathOf(key, routes[key]!.requests[0]!(victim.things)), made), key).toBe(401);
  });

  // The claim is good, and of an org that is another.
  const alike: [string, () => unknown][] = [
    ['in capitals', () => victim.org.toUpperCase()],
    ['in small letters', () => victim.org.toLowerCase()],
    ['with a space behind', () => `${victim.org} `],
    ['with a space before', () => ` ${victim.org}`],
    ['with a no-break space', () => `${victim.org}\u00a0`],
    ['with a space of no width', () => `${victim.org.slice(0, 3)}\u200b${victim.org.slice(3)}`],
    ['with a Cyrillic letter', () => victim.org.replace('i', '\u0456')],
    ['with a wide letter', () => victim.org.replace('v', '\uff56')],
    ['with an accent of its own', () => victim.org.replace('O', 'O\u0300')],
    ['with more behind', () => `${victim.org}2`],
    ['with more before', () => `../${victim.org}`],
    ['cut short', () => victim.org.slice(0, -1)],
    ['as a pattern', () => `${victim.marker}%`],
    ['as another pattern', () => victim.org.replace(/.$/, '_')],
    ['as SQL', () => `x' or external_id = '${victim.org}`],
    ['as its number', () => victim.orgId],
    ['as its number after a space', () => ` ${victim.orgId}`],
    ['as true', () => 'true'],
  ];
  const answersOfNew = new Map<string, Promise<number>>();

  test.each(alike)('external id %s is another org’s', async (name, orgId) => {
    const org = String(orgId());
    const token = await signToken({ org_id: orgId() });
    const newToken = await signToken({ org_id: nothing.org });
    const said = new Set([org]);
    const find = async () =>
      (await api.sql<{ id: number }[]>`select id from obs.org where external_id = ${org}`)[0]?.id;
    for (const key of [...ofKind('read'), ...ofKind('change'), ...ofKind('make')]) {
      const { requests, kind } = routes[key]!;
      const request = requests.at(-1)!;
      // As a new org is answered that asks for the same.
      if (!answersOfNew.has(key))
        answersOfNew.set(
          key,
          ask(key, request(victim.things), newToken).then(({ status }) => status),
        );
      const things = slotsOf(request).map((slot) => victim.things[slot]!);
      if (kind !== 'read') for (const thing of things) said.add(thing);
      const asked = await attack(`org id ${name}`, key, request(victim.things), token, [...said, ...things]);
      expect(asked.status, key).toBe(await answersOfNew.get(key));
    }
    expect(await find()).not.toBe(victim.orgId);
    expect(await find()).toBeDefined();
  });

  test.each(all)('name beside the token says nothing to %s', async (key) => {
    const { requests, kind, isMoving } = routes[key]!;
    // What nobody had is had by the attacker by now.
    const others = nothingLike(victim);
    const base = () =>
      requests[0]!(kind === 'read' ? attacker.things : kind === 'make' ? fresher(others) : others);
    const ids = [victim.org, String(victim.orgId)];
    const said = [...stored, ...ids];
    const send = (name: string, request: Request) => attack(name, key, mine(request), attacker.token, said);
    // What it registers is there the second time.
    const answerTo = ({ status, text }: Asked) =>
      isMoving || kind === 'make'
        ? Math.floor(status / 100)
        : `${status} ${normalized(text, Object.values(others))}`;
    const bare = answerTo(await send('headers', base()));
    const pretending: Record<string, string>[] = ids.map((org) => ({
      'X-Org-Id': org,
      'X-Org': org,
      'X-Tenant-Id': org,
      'X-Scope-OrgID': org,
      Org_Id: org,
      Cookie: `org_id=${org}; obs_session=${victim.things.tokenText}`,
      'X-Forwarded-Host': `${org}.test`,
      'X-Forwarded-User': org,
      'X-Original-URL': '/api/v1/org',
      'X-Rewrite-URL': '/api/v1/org',
      'X-HTTP-Method-Override': 'DELETE',
      Forwarded: `for=${org};host=${org}`,
    }));
    for (const headers of pretending) {
      const request = base();
      const asked = await send('headers', { ...request, headers: { ...request.headers, ...headers } });
      expect(answerTo(asked), JSON.stringify(headers)).toBe(bare);
    }
    for (const name of ['org_id', 'orgId', 'org', '_org_id']) {
      const request = base();
      const asked = await send('query', { ...request, query: { ...request.query, [name]: victim.org } });
      if (asked.status === 400) expect(JSON.parse(asked.text).errors[0].path).toBe(`query.${name}`);
      else expect(answerTo(asked), name).toBe(bare);
    }
    for (const org of ids)
      for (const name of ['org_id', 'org', 'orgId']) {
        const request = base();
        if (request.body === undefined && !key.startsWith('P')) continue;
        // Beside what belongs there, and in each of what is in a list.
        const fields = (request.body ?? {}) as Record<string, unknown>;
        const lists = Object.entries(fields).filter(
          ([, value]) => Array.isArray(value) && typeof value[0] === 'object',
        );
        const bodies = [
          { ...fields, [name]: org },
          ...lists.map(([list, items]) => ({
            ...fields,
            [list]: (items as object[]).map((item) => ({ ...item, [name]: org })),
          })),
        ];
        for (const body of bodies) {
          const asked = await send('body', { ...request, body });
          if (request.body === undefined && asked.status !== 400) {
            // It takes no body, and reads none.
            expect(answerTo(asked)).toBe(bare);
            continue;
          }
          expect(asked.status, asked.text).toBe(400);
          expect(JSON.stringify(JSON.parse(asked.text).errors)).toContain(name);
        }
      }
  });
});

describe('a token', () => {
  const tokens = new Map<string, { token: string; permissions: readonly string[] }>();
  const required = new Map<string, Permission>();
  const org_id = () => `${attacker.marker}-roles`;

  beforeAll(async () => {
    const add = async (name: string, claims: object, permissions: readonly string[]) =>
      tokens.set(name, { token: await signToken({ org_id: org_id(), ...claims }), permissions });
    const may: Record<string, RegExp> = {
      viewer:
        /^(metrics|logs|services|alerts|rules|channels|silences|notifications|overview|dashboards):read$/,
      ingest: /^(metrics|logs|heartbeats):write$/,
      operator:
        /^(metrics|logs|services|heartbeats|alerts|rules|channels|silences|notifications|overview|dashboards):/,
      admin: /^/,
    };
    expect(Object.keys(may)).toEqual([...roles]);
    const allowed = (role: string) => permissions.filter((permission) => may[role]!.test(permission));
    for (const role of roles) await add(role, { role }, allowed(role));
    await add('no role', { role: undefined }, []);
    await add('no role and every permission', { role: undefined, permissions }, []);
    await add('viewer and every permission', { role: 'viewer', permissions }, allowed('viewer'));
    await add('admin and no permission', { permissions: [] }, []);
    await add('two roles', { role: undefined, roles: ['viewer', 'ingest'] }, [
      ...allowed('viewer'),
      ...allowed('ingest'),
    ]);
    const admin = tokens.get('admin')!.token;
    for (const permission of permissions) {
      const body = { name: permission, role: 'admin', permissions: [permission] };
      const made = await api.call('POST', '/api/v1/tokens', { token: admin, body });
      expect(made.status).toBe(201);
      tokens.set(`API token with ${permission}`, { token: made.body.token, permissions: [permission] });
    }
    for (const definition of api.observability.app.openAPIRegistry.definitions) {
      if (definition.type !== 'route') continue;
      const { method, path, security } = definition.route;
      const [permission, ...more] = security?.[0]?.bearer ?? [];
      expect(more).toEqual([]);
      if (permission) required.set(`${method.toUpperCase()} ${path}`, permission as Permission);
    }
  });

  test.each(all)('is let in to %s by its permission alone, whatever the request', async (key) => {
    const permission = required.get(key)!;
    expect(permissions).toContain(permission);
    // Exports hold the secrets of services, which are for who could change them.
    const isRead = routes[key]!.kind === 'read' && key !== 'GET /api/v1/services/export';
    expect(permission).toMatch(isRead ? /:read$/ : /:write$/);
    const broken: Request = {
      ...routes[key]!.requests[0]!(nothing),
      query: { isolation: 'x' },
      ...(/^P/.test(key) ? { body: '{' } : {}),
    };
    const good = routes[key]!.requests[0]!(nothing);
    await Promise.all(
      [...tokens].map(async ([name, { token, permissions }]) => {
        const isAllowed = permissions.includes(permission);
        const asked = await attack('roles', key, broken, token);
        expect([asked.status, JSON.parse(asked.text).code], name).toEqual(
          isAllowed ? [400, 'invalid_request'] : [403, 'forbidden'],
        );
        if (!isAllowed && !name.startsWith('API'))
          expect((await attack('roles', key, good, token)).status, name).toBe(403);
      }),
    );
  });
});

test('what asks for no token has nothing of any org', async () => {
  for (const path of [
    '/health',
    '/health/ready',
    '/api/v1/health',
    '/metrics',
    '/openapi.json',
    '/docs',
    '/api/v1/nothing',
    `/${victim.org}`,
  ]) {
    count.requests++;
    const { headers, body } = await api.call('GET', path, { token: null });
    const text = `${JSON.stringify([...headers])} ${typeof body === 'string' ? body : JSON.stringify(body)}`;
    expect(leaksIn(text, [victim.org]), path).toEqual([]);
  }
});

describe('the attacker’s own', () => {
  // Last, since it deletes them: each request above is one that would have been answered, of the org's own.
  test('things can be had by the same requests', async () => {
    const failures: unknown[] = [];
    // In place of a worker, which some wait for.
    const work = async () => {
      await sleep(100);
      await api.sql`
        update obs.notification set status = 'delivered', settled_at = now(), next_attempt_at = null
        where org_id = ${attacker.orgId} and kind = 'test'`;
      await api.sql`
        insert into obs.probe_result (time, service_id, outcome)
        select now(), id, 'down' from obs.service where org_id = ${attacker.orgId}`;
    };
    for (const key of all) {
      const { kind, requests, status } = routes[key]!;
      const worked = /\/(check|test)$/.test(key) ? work() : undefined;
      for (const request of key.startsWith('DELETE') ? requests.slice(0, 1) : requests) {
        const things = kind === 'make' ? fresher(attacker.things) : attacker.things;
        await ask(key, mine(request(things)), attacker.token).then(
          (answer) => {
            if (![304, status].flat().includes(answer.status))
              failures.push([key, answer.status, answer.text]);
          },
          (error: Error) => failures.push([key, error.message.slice(0, 500)]),
        );
      }
      await worked;
    }
    expect(failures).toEqual([]);
  });
});

test('of the other org nothing has changed', async () => {
  const after = await rowsOf(api.sql, victim);
  for (const table of Object.keys(before)) {
    if (table === 'audit_event') continue;
    // What is rolled up meanwhile is late no more.
    if (table === 'dirty_range') expect(before[table]).toEqual(expect.arrayContaining(after[table]!));
    else expect(after[table], table).toEqual(before[table]);
  }
  // What its tokens were refused that are no longer good is in its audit log.
  const known = new Set(before.audit_event);
  const added = after.audit_event!.filter((row) => !known.delete(row)).map((row) => JSON.parse(row));
  expect([...known]).toEqual([]);
  const actors = new Set(added.map(({ actor, outcome, status }) => `${actor} ${outcome} ${status}`));
  expect(actors).toEqual(
    new Set(
      [`${victim.marker}-revoked-token`, `${victim.marker}-expired-token`, 'tester'].map(
        (actor) => `${actor} refused 401`,
      ),
    ),
  );
  // Its usage is what it used itself.
  const usage = async () =>
    (
      await api.sql`
        select sum(requests)::int as requests, sum(samples)::int as samples, sum(log_lines)::int as log_lines
        from obs.org_usage where org_id = ${victim.orgId} and day > (now() - interval '5 days')::date`
    )[0];
  await expect.poll(usage, { timeout: 8000, interval: 200 }).toEqual(victim.used);
  const addresses = await api.sql`
    select distinct last_used_address as address from obs.api_token where org_id = ${victim.orgId} and last_used_at is not null`;
  expect(addresses.map(({ address }) => address)).toEqual([victim.things.address]);
  // biome-ignore lint/suspicious/noConsole: how much was tried is what the run is to tell
  console.log(`${all.length} routes x ${count.attacks.size} attacks: ${count.requests} requests`);
});
