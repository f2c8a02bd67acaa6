// Requests to every route by its schema, nearly so or not at all, with tokens of every sort: each has an answer that is documented or says
// what is wrong, and nothing of another org, of a secret or of the inside of the service gets out. FUZZ_SEED and FUZZ_REQUESTS repeat a run.
import { randomBytes, randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { brotliDecompressSync, gunzipSync, inflateSync } from 'node:zlib';
import { SignJWT } from 'jose';
import { type Dispatcher, Pool } from 'undici';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { newApiToken } from '../../src/auth.ts';
import { roleUrl } from '../../src/config.ts';
import { grantedBy, permissions, roles } from '../../src/permissions.ts';
import { useDatabase } from '../support/database.ts';
import {
  createFuzz,
  createRandom,
  type Document,
  type FuzzRequest,
  type Hints,
  type Route,
  routesOf,
} from '../support/fuzz.ts';
import { jwtSecret, type Service, startService } from '../support/process.ts';
import { isSoak } from '../support/soak.ts';

const requests = Number(process.env.FUZZ_REQUESTS || (isSoak ? 10_000 : 2_000));
const seed = Number(process.env.FUZZ_SEED || randomInt(1_000_000_000));
const concurrency = 16;
const maxBodyBytes = 262_144;

const database = useDatabase();
const random = createRandom(seed);
const secretsKey = randomBytes(32).toString('hex');
let service: Service;
let pool: Pool;

// What these begin with occurs nowhere else.
const marker = () => `zqx${random.letters(10, 'bcdfghjklmnp')}`;
const markerPattern = /zqx[b-p]{10}/g;
// Of a channel nobody is shown it; of a service whoever may change services.
const channelSecret = () => `chsec-${random.letters(12)}`;
const serviceSecret = () => `svsec-${random.letters(12)}`;

interface Org {
  /** In everything that the org has, and in its external id. */
  marker: string;
  id: string;
  /** Ids of what it has, by the path before them. */
  ids: Map<string, string[]>;
  cursors: string[];
}

interface Token {
  what: string;
  org: Org;
  header: string | undefined;
  /** Null: it lets nobody in. */
  permissions: ReadonlySet<string> | null;
}

const newOrg = (): Org => {
  const text = marker();
  return { marker: text, id: `org-${text}`, ids: new Map(), cursors: [] };
};
const orgs = Array.from({ length: 5 }, newOrg);
// What these are asked would stop the others: the one is being erased, the other has limits of its own.
const erasedOrg = newOrg();
const limitedOrg = newOrg();
const allOrgs = [...orgs, erasedOrg, limitedOrg];
const orgOfId = new Map<string, Org>();
const tokens: Token[] = [];
/** Texts that nobody but their bearer is to see. */
const bearers: string[] = [];
const sharedService = 'shared-service';
const sharedMetric = 'shared_metric';

beforeAll(async () => {
  service = await startService('api', {
    DATABASE_URL: database.url,
    LOG_LEVEL: 'trace',
    SECRETS_KEY: secretsKey,
    MAX_BODY_BYTES: String(maxBodyBytes),
    SMTP_URL: 'smtp://127.0.0.1:9',
  });
  pool = new Pool(service.url, { connections: concurrency, pipelining: 1 });
  for (const org of allOrgs) await fill(org);
  await makeTokens();
});

afterAll(async () => {
  await pool?.destroy();
  await service?.stop();
});

function sign(claims: Record<string, unknown>, header: { alg: string; typ?: string } = { alg: 'HS256' }) {
  return new SignJWT({ exp: Math.floor(Date.now() / 1000) + 3600, ...claims })
    .setProtectedHeader(header)
    .sign(new TextEncoder().encode(jwtSecret));
}

const adminOf = (org: Org) => sign({ sub: `admin ${org.marker}`, org_id: org.id, role: 'admin' });

async function ask(org: Org, method: string, path: string, body?: unknown) {
  const answer = await fetch(service.url + path, {
    method,
    headers: { Authorization: `Bearer ${await adminOf(org)}`, 'Content-Type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
  // biome-ignore lint/suspicious/noExplicitAny: of whatever route
  return (text === '' ? null : JSON.parse(text)) as any;
}

function keep(org: Org, path: string, id: string) {
  const ids = org.ids.get(path) ?? [];
  org.ids.set(path, ids);
  ids.push(id);
  orgOfId.set(id, org);
}

/** Gives an org something of every kind, all with its marker; names are its own, or the same in every org. */
async function fill(org: Org) {
  const text = org.marker;
  const metric = (name: string, i: number) => ({
    name,
    value: i,
    service_name: i % 2 ? `${text}-service` : sharedService,
    labels: { host: `${text}-${i % 3}` },
    timestamp: Date.now() - i * 60_000,
  });
  await ask(org, 'POST', '/api/v1/metrics/batch', {
    metrics: Array.from({ length: 60 }, (_, i) => metric(i % 2 ? sharedMetric : `${text}_metric`, i)),
  });
  await ask(org, 'POST', '/api/v1/logs', {
    logs: Array.from({ length: 60 }, (_, i) => ({
      service_name: i % 2 ? `${text}-service` : sharedService,
      level: ['info', 'warn', 'error'][i % 3],
      message: `request ${i} of ${text} failed`,
      metadata: { user: text, n: i },
      trace_id: i % 5 ? 'trace' : text,
      timestamp: Date.now() - i * 60_000,
    })),
  });
  const { logs } = await ask(org, 'GET', '/api/v1/logs/*');
  for (const { id } of logs) keep(org, '/api/v1/logs/{service}', id);
  for (const name of [`${text}-service`, sharedService])
    await ask(org, 'POST', '/api/v1/services/register', {
      service_name: name,
      health_endpoint: `http://127.0.0.1:9/?key=${serviceSecret()}`,
      headers: { 'X-Key': serviceSecret() },
      method: 'POST',
      request_body: serviceSecret(),
      description: text,
      tags: [text],
      timeout_seconds: 0.5,
    });
  await ask(org, 'POST', '/api/v1/services/register', { service_name: `${text}-beat`, kind: 'heartbeat' });
  const made: [string, Record<string, unknown>][] = [
    ['alerts', { name: 'shared alert', severity: 'critical', description: text, metadata: { a: text } }],
    ['alerts', { name: `${text} alert`, severity: 'info', service_name: sharedService }],
    ['alert-rules', { name: `${text} rule`, expression: `avg(${text}_metric[10m]) > 1` }],
    ['alert-rules', { name: 'shared rule', expression: 'avg(x[10m]) > 1', annotations: { summary: text } }],
    [
      'channels',
      {
        name: `${text} webhook`,
        type: 'webhook',
        config: {
          url: `http://127.0.0.1:9/?key=${channelSecret()}`,
          secret: channelSecret(),
          headers: { 'X-Key': channelSecret() },
        },
        service_names: [`${text}-service`],
      },
    ],
    [
      'channels',
      { name: `${text} slack`, type: 'slack', config: { url: `http://127.0.0.1:9/${channelSecret()}` } },
    ],
    [
      'channels',
      {
        name: `${text} email`,
        type: 'email',
        config: { to: [`${text}@mail.test`], smtp_url: `smtp://user:${channelSecret()}@127.0.0.1:9` },
      },
    ],
    [
      'channels',
      {
        name: `${text} alertmanager`,
        type: 'alertmanager',
        config: { url: 'http://127.0.0.1:9/', bearer_token: channelSecret() },
      },
    ],
    [
      'silences',
      { matchers: [`a="${text}"`], ends_at: new Date(Date.now() + 86_400_000).toISOString(), reason: text },
    ],
    [
      'maintenance-windows',
      {
        name: `${text} window`,
        matchers: [`a="${text}"`],
        starts_at: new Date(Date.now() - 3_600_000).toISOString(),
        ends_at: new Date(Date.now() + 3_600_000).toISOString(),
      },
    ],
    ['escalations', { name: `${text} escalation`, steps: [{ after_minutes: 5 }] }],
    ['tokens', { name: `${text} token`, role: 'viewer' }],
    ['tokens', { name: `${text} other token`, role: 'ingest', permissions: ['metrics:write'] }],
  ];
  for (const [kind, body] of made) {
    const { id, token } = await ask(org, 'POST', `/api/v1/${kind}`, body);
    keep(org, `/api/v1/${kind}`, id);
    if (token) bearers.push(token);
  }
  // A worker would write these.
  const notifications = await database.sql<{ id: string }[]>`
    insert into obs.notification (
      org_id, channel_id, channel_name, channel_type, kind, status, payload, attempts, attempts_left, last_error, created_at, settled_at
    )
    select c.org_id, c.id, c.name, c.type, 'test', 'dead', jsonb_build_object('group_labels', '{}'::jsonb, 'text', ${text}::text), 1, 0, ${text}, now(),
      now()
    from obs.channel c
    where c.id::text = any (${org.ids.get('/api/v1/channels')!})
    returning id`;
  for (const { id } of notifications) {
    keep(org, '/api/v1/notifications', id);
    await database.sql`
      insert into obs.notification_alert (notification_id, alert_id, org_id, status)
      select ${id}, a.id, a.org_id, 'firing' from obs.alert a where a.id::text = any (${org.ids.get('/api/v1/alerts')!})`;
  }
  if (org === erasedOrg) {
    const { id } = await ask(org, 'POST', '/api/v1/org/erasures', { confirm: org.id });
    keep(org, '/api/v1/org/erasures', id);
    await ask(org, 'DELETE', `/api/v1/org/erasures/${id}`);
  }
}

async function makeTokens() {
  const add = (
    what: string,
    org: Org,
    token: string,
    granted: ReadonlySet<string> | null,
    scheme = 'Bearer',
  ) => {
    tokens.push({ what, org, header: `${scheme} ${token}`, permissions: granted });
    if (token.length > 12) bearers.push(token);
  };
  const jwt = async (
    what: string,
    org: Org,
    claims: Record<string, unknown>,
    granted = new Set<string>() as ReadonlySet<string>,
  ) => add(what, org, await sign({ sub: `${what} ${org.marker}`, org_id: org.id, ...claims }), granted);

  for (const org of allOrgs) {
    for (const role of roles) await jwt(role, org, { role }, grantedBy([role]));
    await jwt('two roles', org, { roles: ['viewer', 'ingest'] }, grantedBy(['viewer', 'ingest']));
    await jwt('no role', org, {});
    await jwt('unknown role', org, { role: 'constructor', roles: ['root'] });
    await jwt('no end', org, { role: 'admin', exp: undefined }, grantedBy(['admin']));
    for (let i = 0; i < 4; i++) {
      const narrowed = permissions.filter(() => random.chance(0.3));
      const role = random.pick(['admin', 'admin', 'operator'] as const);
      await jwt(
        `narrowed ${i}`,
        org,
        { role, permissions: [...narrowed, 'no:such'] },
        grantedBy([role], narrowed),
      );
      if (narrowed.length === 0) continue;
      const body = { name: `${org.marker} ${i}`, role: 'admin', permissions: narrowed };
      add(
        'API token',
        org,
        (await ask(org, 'POST', '/api/v1/tokens', body)).token,
        grantedBy(['admin'], narrowed),
      );
    }
    const made = (name: string, more = {}) =>
      ask(org, 'POST', '/api/v1/tokens', { name: `${org.marker} ${name}`, role: 'admin', ...more });
    add('API token of an admin', org, (await made('admin')).token, grantedBy(['admin']), 'bearer');
    const revoked = await made('revoked');
    await ask(org, 'POST', `/api/v1/tokens/${revoked.id}/revoke`);
    add('revoked', org, revoked.token, null);
    const deleted = await made('deleted');
    await ask(org, 'DELETE', `/api/v1/tokens/${deleted.id}`);
    add('deleted', org, deleted.token, null);
    const expired = await made('expired', { expires_at: new Date(Date.now() + 3_600_000).toISOString() });
    await database.sql`update obs.api_token set expires_at = now() - interval '1 minute' where id = ${expired.id}`;
    add('expired', org, expired.token, null);
    const good = await adminOf(org);
    const [head, payload, signature] = good.split('.') as [string, string, string];
    const base64 = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const claims = { sub: `x ${org.marker}`, org_id: org.id, role: 'admin' };
    add('expired JWT', org, await sign({ ...claims, exp: Math.floor(Date.now() / 1000) - 60 }), null);
    add('JWT of later', org, await sign({ ...claims, nbf: Math.floor(Date.now() / 1000) + 600 }), null);
    add('HS512', org, await sign(claims, { alg: 'HS512' }), null);
    add('unsigned', org, `${base64({ alg: 'none' })}.${payload}.`, null);
    add('no signature', org, `${head}.${payload}.`, null);
    add('alg of another', org, `${base64({ alg: 'RS256' })}.${payload}.${signature}`, null);
    add('other claims', org, `${head}.${base64({ ...claims, role: 'admin' })}.${signature}`, null);
    add('not base64', org, `${head}.${payload}.${signature.slice(0, -4)}!!!!`, null);
    add('no org', org, await sign({ ...claims, org_id: undefined }), null);
    add('org in a list', org, await sign({ ...claims, org_id: [org.id] }), null);
    add('org with a NUL', org, await sign({ ...claims, org_id: `${org.id}\0` }), null);
    add('long org', org, await sign({ ...claims, org_id: org.id.padEnd(201, 'x') }), null);
    add('no subject', org, await sign({ ...claims, sub: undefined }), null);
    add('permissions as text', org, await sign({ ...claims, permissions: 'metrics:read' }), null);
    add(
      'claims nested deep',
      org,
      await sign({ ...claims, x: JSON.parse('['.repeat(900) + ']'.repeat(900)) }),
      grantedBy(['admin']),
    );
    add('long', org, await sign({ ...claims, x: 'x'.repeat(8000) }), grantedBy(['admin']));
    add(
      'another secret',
      org,
      await new SignJWT(claims).setProtectedHeader({ alg: 'HS256' }).sign(randomBytes(32)),
      null,
    );
    const unknown = newApiToken().token;
    add('unknown API token', org, unknown, null);
    add('mistyped', org, unknown.slice(0, -1) + (unknown.endsWith('0') ? '1' : '0'), null);
    add('cut short', org, unknown.slice(0, 40), null);
    add('in capitals', org, `obs_${unknown.slice(4).toUpperCase()}`, null);
    add('garbage', org, random.letters(30, 'abc.-_=/+'), null);
    add('long garbage', org, random.letters(8000, 'abc.'), null);
    add('long API token', org, `obs_${'0'.repeat(8000)}`, null);
    add('basic', org, Buffer.from(`admin:${random.letters(20)}`).toString('base64'), null, 'Basic');
    add('two', org, `${good} ${good}`, null);
    tokens.push({ what: 'none', org, header: undefined, permissions: null });
    tokens.push({ what: 'empty', org, header: 'Bearer ', permissions: null });
  }
}

const expressions = [
  'avg(shared_metric[10m]) > 1',
  'p95 by (service) (shared_metric[5m]) > 10 and count(shared_metric[5m]) > 1 for 5m',
  'absent(shared_metric[1h])',
  'increase(log_lines_total{level="error"}[5m]) > 10',
  'shared_metric > 1',
];

/** What a client of an org would say where the schema leaves it open. */
function hintsFor(org: Org): Hints {
  const own = () => `${org.marker}-${random.letters(4)}`;
  const names: Record<string, () => unknown> = {
    'path.name': () => random.pick([`${org.marker}-service`, sharedService, `${org.marker}-beat`, own()]),
    'path.service': () => random.pick([`${org.marker}-service`, sharedService, '*']),
    name: () => random.pick([own(), own(), sharedMetric, 'shared alert', 'shared rule']),
    service_name: () => random.pick([own(), sharedService, `${org.marker}-service`]),
    metric_name: () => random.pick([sharedMetric, `${org.marker}_metric`]),
    description: () => own(),
    message: () => `request of ${own()} failed`,
    reason: () => own(),
    author: () => own(),
    actor: () => `admin ${org.marker}`,
    value: () => random.between(0, 100),
    expression: () => random.pick(expressions),
    rule_expression: () => random.pick(expressions),
    health_endpoint: () => random.pick([`http://127.0.0.1:9/?key=${serviceSecret()}`, 'tcp://127.0.0.1:9']),
    'headers.*': () => channelSecret(),
    request_body: () => serviceSecret(),
    expected_status: () => ['2xx'],
    json_path: () => '$.a',
    timeout_seconds: () => 1,
    check_interval_seconds: () => 60,
    depends_on: () => [sharedService],
    keep_firing_for: () => '5m',
    time_window: () => random.pick(['1m', '5m', '1h']),
    timezone: () => random.pick(['UTC', 'Europe/Berlin']),
    level: () => random.pick(['info', 'warn', 'error', 'ERROR']),
    matchers: () => [`a="${own()}"`],
    url: () => `http://127.0.0.1:9/?key=${channelSecret()}`,
    smtp_url: () => `smtp://user:${channelSecret()}@127.0.0.1:9`,
    secret: channelSecret,
    password: channelSecret,
    bearer_token: channelSecret,
    channel_ids: () => idsOf(org, '/api/v1/channels').slice(0, 1),
    channel_id: () => idsOf(org, '/api/v1/channels')[0],
    starts_at: () => new Date(Date.now() - 60_000).toISOString(),
    ends_at: () => new Date(Date.now() + random.between(1, 7200) * 1000).toISOString(),
    start_time: () => new Date(Date.now() - random.between(60, 86_400) * 1000).toISOString(),
    end_time: () => new Date(Date.now() + 1000).toISOString(),
    until: () => new Date(Date.now() + 30 * 86_400_000).toISOString(),
    expires_at: () => new Date(Date.now() + 3_600_000).toISOString(),
    timestamp: () => Date.now() - random.below(3_600_000),
    q: () => random.pick(['request', 'failed -retry', '"request of"', org.marker, 'shared']),
    contains: () => random.pick(['fail', org.marker]),
    trace_id: () => random.pick(['trace', org.marker]),
    status: () => undefined,
    repeats: () => random.pick(['never', 'daily']),
    weekdays: () => [],
    'header.last-event-id': () => String(random.below(3)),
    confirm: () => erasedOrg.id,
  };
  return (name, route) => {
    // Names that channels and services share.
    if (route.path.includes('/services') && name === 'headers.*') return serviceSecret();
    if (name === 'path.name' && route.path.includes('/metrics/'))
      return random.pick([sharedMetric, `${org.marker}_metric`]);
    // Each step of a replay takes a while.
    if (name === 'start_time' && route.path.endsWith('/test')) return Date.now() - random.below(600_000);
    if (name === 'path.id') {
      const kind = route.path.slice(0, route.path.indexOf('/{id}'));
      // Of another org, of which this one must not even learn that there is such a thing.
      const ids = idsOf(random.chance(0.15) ? random.pick(allOrgs) : org, kind);
      return ids.length > 0 ? random.pick(ids) : undefined;
    }
    return Object.hasOwn(names, name) ? names[name]!() : undefined;
  };
}

const idsOf = (org: Org, path: string) => org.ids.get(path) ?? [];

// Nothing of how the service is made. Not in what it documents, where some of it is a word like any other.
const insides =
  /node_modules|\/(?:root|work|tmp|usr|home|opt|var)\/|\.[tj]s:\d+|\bat [\w.<>]+ \(|\b(?:api|lib|job|obs|queue|pg_catalog|graphile_worker)\.\w+\(?|relation "|column "|violates|syntax error at|duplicate key|SQLSTATE|postgres(?:ql)?:\/\/|obs_api|PostgresError|(?:Type|Range|Syntax)Error|Cannot read|call stack|Unicode (?:escape|low|high)|invalid (?:input syntax|byte sequence)|out of range for type/;
const isDocument = (path: string) => /^\/(openapi\.json|docs|metrics)/.test(path);

/** What was wrong, by fault and route: how often, and with which request at first. */
const faults = new Map<string, { count: number; first: string; requestId: string }>();
const statuses = new Map<number | 'left' | 'none', number>();
const succeeded = new Set<string>();

interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: string;
}

/** Routes that wait for a worker, of which there is none here. */
const waits = (route: Route) => /\/(check|test)$/.test(route.path) && route.path.includes('{');

async function send(request: FuzzRequest, token: Token): Promise<Answer | 'left'> {
  // Some do not wait for what they asked for.
  const leaveMs =
    waits(request.route) && !random.chance(0.03) ? 200 : random.chance(0.01) ? random.below(30) : 60_000;
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), leaveMs);
  try {
    const { statusCode, headers, body } = await pool.request({
      method: request.method as Dispatcher.HttpMethod,
      path: request.path,
      headers: { ...request.headers, ...(token.header === undefined ? {} : { authorization: token.header }) },
      body: request.body ?? null,
      signal: controller.signal,
      headersTimeout: 0,
      bodyTimeout: 0,
    });
    if (String(headers['content-type']).startsWith('text/event-stream')) {
      const chunks: Buffer[] = [];
      body.on('data', (chunk) => chunks.push(chunk));
      body.on('error', () => {});
      await sleep(random.below(40));
      body.destroy();
      return { status: statusCode, headers, body: Buffer.concat(chunks).toString() };
    }
    const bytes = Buffer.from(await body.arrayBuffer());
    const encoding = headers['content-encoding'];
    const decode = { gzip: gunzipSync, br: brotliDecompressSync, deflate: inflateSync }[String(encoding)];
    return {
      status: statusCode,
      headers,
      body: (decode && bytes.length > 0 ? decode(bytes) : bytes).toString(),
    };
  } catch (error) {
    if (controller.signal.aborted) return 'left';
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

const schemas = new Map<string, z.ZodType>();

function schemaOf(document: Document, route: Route, status: number, type: string): z.ZodType | undefined {
  const described = route.operation.responses[status]?.content?.[type]?.schema;
  if (!described) return undefined;
  const key = `${route.method} ${route.path} ${status} ${type}`;
  let schema = schemas.get(key);
  if (!schema) {
    const text = JSON.stringify({ ...described, $defs: document.components.schemas });
    schema = z.fromJSONSchema(JSON.parse(text.replaceAll('#/components/schemas/', '#/$defs/')));
    schemas.set(key, schema);
  }
  return schema;
}

/** What is not HTTP, or has a head longer than 16 KiB, does not come as far as the app: see the last test. */
function isRefusedByNode({ path, headers }: FuzzRequest, token: Token, status: number): boolean {
  const head = [path, token.header ?? '', ...Object.values(headers)].join('');
  return (
    (status === 431 && head.length > 14_000) || (status === 400 && ('host' in headers || path.includes('\\')))
  );
}

/** What is wrong with an answer. */
function judge(document: Document, request: FuzzRequest, token: Token, answer: Answer): string[] {
  const wrong: string[] = [];
  const { route, isOfRoute } = request;
  const { status, headers, body } = answer;
  const isRefused = isRefusedByNode(request, token, status);
  const type = String(headers['content-type'] ?? '').split(';')[0]!;
  if (status >= 500) wrong.push(`${status}`);

  let parsed: Record<string, unknown> | undefined;
  if (/[/+]json$/.test(type) && request.method !== 'HEAD') {
    try {
      parsed = JSON.parse(body);
    } catch {
      wrong.push('is no JSON');
    }
  }
  if (status >= 400 && request.method !== 'HEAD' && !isRefused) {
    if (type !== 'application/problem+json') wrong.push(`a problem of type ${type}`);
    for (const field of ['type', 'title', 'detail', 'code', 'request_id'])
      if (typeof parsed?.[field] !== 'string' || parsed[field] === '')
        wrong.push(`a problem without ${field}`);
    if (parsed?.status !== status) wrong.push('another status in the problem');
    if (parsed?.request_id !== headers['x-request-id']) wrong.push('another request_id in the problem');
  }

  if (isOfRoute && !isRefused) {
    const described = route.operation.responses[status];
    if (!described && !(status >= 400 && status < 500)) wrong.push('a status that is not documented');
    if (described?.content && !described.content[type]) wrong.push(`${type} is not documented`);
    if (parsed) {
      const issue = schemaOf(document, route, status, type)?.safeParse(parsed).error?.issues[0];
      if (issue) wrong.push(`not as documented: ${issue.path.join('.')} ${issue.message}`);
    }
    if (route.permission) {
      const mayRoute = token.permissions?.has(route.permission);
      if (!token.permissions !== (status === 401)) wrong.push(`${status} for a token that is ${token.what}`);
      // Who makes an API token that may more than they is told so by its field.
      const isBeyond =
        status === 403 &&
        route.path.startsWith('/api/v1/tokens') &&
        /"path":"(role|permissions)"/.test(JSON.stringify(parsed?.errors ?? ''));
      if (token.permissions && status !== 429 && !isBeyond && !mayRoute !== (status === 403))
        wrong.push(`${status} for a token ${mayRoute ? 'with' : 'without'} ${route.permission}`);
    }
    const owner = orgOfId.get(request.params.id ?? '');
    if (owner && owner !== token.org && status < 400) wrong.push('something of another org by its id');
  }
  if (status === 429 && token.org !== limitedOrg) wrong.push('limited, without a limit of its own');
  if (status === 409 && parsed?.code === 'org_erasing' && token.org !== erasedOrg) wrong.push('erasing');

  const cursor = typeof parsed?.next_cursor === 'string' ? parsed.next_cursor : undefined;
  const shown = [body, JSON.stringify(headers), Buffer.from(cursor ?? '', 'base64url').toString()].join('\n');
  for (const [found] of shown.matchAll(markerPattern))
    if (found !== token.org.marker) wrong.push(`the marker of another org: ${found}`);
  if (shown.includes('chsec-')) wrong.push('a secret of a channel');
  if (shown.includes('svsec-') && !token.permissions?.has('services:write'))
    wrong.push('a secret of a service');
  const isMadeToken = request.route.path === '/api/v1/tokens' && status === 201;
  if (/eyJ[\w-]{20}/.test(shown) || (/obs_[0-9a-f]{20}/.test(shown) && !isMadeToken)) wrong.push('a token');
  if (!isDocument(request.path)) {
    const inside = insides.exec(shown);
    if (inside) wrong.push(`something of the inside: ${inside[0]}`);
  }

  if (isOfRoute && status < 300) {
    succeeded.add(`${route.method} ${route.path}`);
    if (cursor && token.org.cursors.length < 50) token.org.cursors.push(cursor);
    const made = parsed as { id?: string; token?: string } | undefined;
    if (made?.token) bearers.push(made.token);
    if (route.method === 'POST' && typeof made?.id === 'string' && !route.path.includes('{'))
      if (idsOf(token.org, route.path).length < 30) keep(token.org, route.path, made.id);
  }
  return wrong;
}

function describe({ method, path, kind, headers, body }: FuzzRequest, token: Token, answer: Answer | Error) {
  const isAnswer = !(answer instanceof Error);
  return {
    requestId: isAnswer ? String(answer.headers['x-request-id']) : 'none',
    first: [
      `  ${method} ${path.slice(0, 300)} ${JSON.stringify(headers).slice(0, 300)}, ${kind}, with a token that is ${token.what}`,
      `  ${body?.subarray(0, 300).toString() ?? 'without a body'}`,
      isAnswer ? `  → ${answer.status} ${answer.body.slice(0, 500)}` : '  → no answer',
    ].join('\n'),
  };
}

function tokenFor(route: Route): Token {
  const isGood = random.chance(0.75);
  // See erasedOrg and limitedOrg.
  const reserved: Record<string, Org[]> = {
    'PATCH /api/v1/org': [limitedOrg],
    'DELETE /api/v1/org/erasures/{id}': [erasedOrg],
  };
  const ofRoute = reserved[`${route.method} ${route.path}`];
  const among = random.chance(0.08) ? [erasedOrg, limitedOrg] : orgs;
  for (;;) {
    const token = random.pick(tokens);
    if (!(token.permissions === null ? among : (ofRoute ?? among)).includes(token.org)) continue;
    if (isGood !== (token.permissions !== null)) continue;
    // Most may do what they ask for, or little else than 403 would be seen.
    if (isGood && route.permission && !token.permissions!.has(route.permission) && random.chance(0.8))
      continue;
    return token;
  }
}

test(`every answer to ${requests} requests is one that was promised (FUZZ_SEED=${seed})`, {
  timeout: 600_000 + requests * 20,
}, async () => {
  const document = (await (await fetch(`${service.url}/openapi.json`)).json()) as Document;
  const routes = routesOf(document);
  let org: Org = orgs[0]!;
  const fuzz = createFuzz(document, random, () =>
    org.cursors.length > 0 && random.chance(0.8) ? random.pick(org.cursors) : undefined,
  );
  let left = requests;
  const began = performance.now();

  async function client() {
    while (left-- > 0 && faults.size < 50) {
      const route = random.pick(routes);
      const token = tokenFor(route);
      org = token.org;
      const request = fuzz.request(route, hintsFor(org));
      const answer = await send(request, token).catch((error) => error as Error);
      const status = answer === 'left' ? answer : answer instanceof Error ? 'none' : answer.status;
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      if (answer === 'left') continue;
      const wrong = answer instanceof Error ? [answer.message] : judge(document, request, token, answer);
      for (const fault of wrong) {
        const name = `${fault}: ${route.method} ${route.path}`;
        const known = faults.get(name);
        if (known) known.count++;
        else faults.set(name, { count: 1, ...describe(request, token, answer) });
      }
    }
  }
  await Promise.all(Array.from({ length: concurrency }, client));
  const seconds = (performance.now() - began) / 1000;
  const histogram = [...statuses].sort().map(([status, count]) => `${status}: ${count}`);
  process.stderr.write(
    `fuzz: seed ${seed}, ${Math.round(requests / seconds)} requests/s, ${succeeded.size} of ${routes.length} routes with success; ${histogram.join(', ')}\n`,
  );
  const log = service.output().split('\n');
  const report = [...faults].map(([fault, { count, first, requestId }]) => {
    const logged = log.find((entry) => entry.includes(requestId) && /"level":"(warn|error)"/.test(entry));
    return `${fault} (${count} times)\n${first}\n${logged?.slice(0, 1000) ?? ''}`;
  });
  expect(report.join('\n\n')).toBe('');

  // The generator finds its way in; were it not so, this test would show little.
  const missed = routes
    .map((route) => `${route.method} ${route.path}`)
    .filter((name) => !succeeded.has(name));
  if (requests >= 3_000) expect(missed.length, missed.join('\n')).toBeLessThan(routes.length / 4);
});

test('afterwards the service is as it was', async () => {
  const health = await fetch(`${service.url}/health`);
  expect([
    health.status,
    ((await health.json()) as { details: { database: { status: string } } }).details.database.status,
  ]).toEqual([200, 'healthy']);
  expect((await fetch(`${service.url}/health/ready`)).status).toBe(200);
  const org = orgs[0]!;
  await ask(org, 'POST', '/api/v1/metrics', { name: 'after', value: 42 });
  const { series } = await ask(org, 'POST', '/api/v1/metrics/query', {
    metric_name: 'after',
    start_time: Date.now() - 60_000,
    end_time: Date.now() + 60_000,
    aggregation: 'last',
  });
  expect(series[0].points.at(-1).value).toBe(42);
  expect(service.child.exitCode).toBeNull();
});

test('its log has no error, and nothing of a token or a secret', () => {
  const output = service.output();
  const lines = output.trim().split('\n');
  expect(lines.length).toBeGreaterThan(requests / 2);
  // Parts of a JWT tell as much as all of it.
  const parts = bearers
    .flatMap((bearer) => [bearer, ...bearer.split(/[. ]/).slice(-2)])
    .filter((part) => part.length > 30);
  const secrets = [
    ...new Set(parts),
    jwtSecret,
    secretsKey,
    new URL(database.url).password,
    new URL(roleUrl(database.url, 'obs_api')).password,
    'chsec-',
    'svsec-',
  ];
  expect(secrets.filter((secret) => output.includes(secret))).toEqual([]);
  expect(lines.filter((line) => /"authorization":|bearer [\w.-]{8}/i.test(line)).slice(0, 5)).toEqual([]);
  const errors = lines.filter((line) => !line.startsWith('{') || /"level":"(error|fatal)"/.test(line));
  expect(errors.slice(0, 5)).toEqual([]);
});

test.each([['a head that is too long', 431, { 'X-Long': 'x'.repeat(20_000) }]])(
  '%s is refused with a problem as anything else is',
  async (_, status, headers) => {
    const answer = await pool.request({ method: 'GET', path: '/api/v1/metrics', headers });
    const body = await answer.body.text();
    expect([answer.statusCode, answer.headers['content-type'], body]).toEqual([
      status,
      'application/problem+json',
      expect.stringContaining(`"status":${status}`),
    ]);
  },
);

// By no measure of time that a busy machine could miss: what grows with the square of a path's length took a minute.
test.each([['a'], ['eyJaaaaa-'], ['a+'], ['%25'], ['a:'], ['bearer%20']])(
  'many long paths of %s are nothing to wait for',
  async (part) => {
    const path = `/${part.repeat(13_000 / part.length)}`;
    const work = async () => {
      for (let i = 0; i < 10; i++) {
        const { statusCode, body } = await pool.request({ method: 'GET', path });
        await body.dump();
        expect(statusCode).toBe(404);
      }
    };
    const outcome = await Promise.race([
      Promise.all(Array.from({ length: 5 }, work)).then(() => 'answered'),
      sleep(10_000, 'still waiting', { ref: false }),
    ]);
    expect(outcome).toBe('answered');
  },
  120_000,
);

test('what is refused at a path with a NUL is in the audit log, and so is what was refused beside it', async () => {
  const org = orgs[0]!;
  const token = await sign({ sub: `nobody ${org.marker}`, org_id: org.id });
  const headers = { Authorization: `Bearer ${token}` };
  const names = ['a', 'b%00', 'c', 'd%ED%A0%80', 'e'];
  const paths = names.map((name) => `/api/v1/services/${name}`);
  await Promise.all(
    paths.map((path) => pool.request({ method: 'GET', path, headers }).then(({ body }) => body.dump())),
  );
  const { events } = await ask(org, 'GET', `/api/v1/audit?outcome=refused&actor=nobody%20${org.marker}`);
  expect(events.reduce((sum: number, event: { count: number }) => sum + event.count, 0)).toBe(names.length);
});

test('an org has a time zone', async () => {
  expect((await ask(limitedOrg, 'PATCH', '/api/v1/org', { timezone: 'Europe/Berlin' })).timezone).toBe(
    'Europe/Berlin',
  );
});

test('who may not change services has no secrets of theirs from an export', async () => {
  const org = orgs[0]!;
  const name = `${org.marker}-secrets`;
  const secrets = Array.from({ length: 3 }, serviceSecret);
  await ask(org, 'POST', '/api/v1/services/register', {
    service_name: name,
    health_endpoint: `http://127.0.0.1:9/?key=${secrets[0]}`,
    method: 'POST',
    headers: { 'X-Key': secrets[1] },
    request_body: secrets[2],
  });
  const reader = await sign({ sub: 'reader', org_id: org.id, role: 'admin', permissions: ['org:read'] });
  const answer = await fetch(`${service.url}/api/v1/org/export`, {
    headers: { Authorization: `Bearer ${reader}` },
  });
  const text = await answer.text();
  expect([answer.status, text.includes(name), secrets.filter((secret) => text.includes(secret))]).toEqual([
    200,
    true,
    [],
  ]);
});
