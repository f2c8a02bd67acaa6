// An org that has one of everything, each text of it with a marker: for tests of what others see of it.
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import type postgres from 'postgres';
import { expect } from 'vitest';
import type { Answer, Call, TestApi } from './api.ts';
import { signToken } from './process.ts';

/** What requests can name of an org, by the name of the thing: names, ids, words, cursors. */
export type Things = Record<string, string>;

export interface Tenant {
  org: string;
  orgId: number;
  /** In every text of the org, its external id among them. */
  marker: string;
  things: Things;
  /** An API token that may do everything; its name, which is the actor of what is done with it, has the marker. */
  token: string;
  /** API tokens that let nobody in any more. */
  revoked: string;
  expired: string;
  /** What was recorded with an Idempotency-Key, by path. */
  batches: Record<string, { key: string; body: object }>;
  /** Sends a request as the org itself. */
  call(method: string, path: string, call?: Call): Promise<Answer>;
  /** What it has asked for and recorded itself; samples and lines only what is posted by call. */
  used: { requests: number; samples: number; log_lines: number };
}

export const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

export interface TenantOptions {
  /** Of 16 letters and digits, so that names of two orgs are of one length. */
  marker: string;
  timezone: string;
  retentionDays: number;
  /** The first value of its metrics. */
  value: number;
  requests: number;
}

const newMarker = (word: string) => `${word}${randomBytes(5).toString('hex')}`;

export const victimOptions: TenantOptions = {
  marker: newMarker('victim'),
  timezone: 'Pacific/Chatham',
  retentionDays: 321,
  value: 73164.53125,
  requests: 918_273_645_546,
};
export const attackerOptions: TenantOptions = {
  marker: newMarker('attack'),
  timezone: 'Europe/Madrid',
  retentionDays: 123,
  value: 12.5,
  requests: 1,
};

/** Makes an org over HTTP, and what takes a worker in the database. */
export async function fillTenant(api: TestApi, options: TenantOptions): Promise<Tenant> {
  const { marker } = options;
  const named = (what: string) => `${marker}-${what}`;
  const org = named('Org');
  const used = { requests: 0, samples: 0, log_lines: 0 };
  // The address comes from a proxy that is trusted.
  const address = `2001:db8::${Buffer.from(marker)
    .toString('hex')
    .slice(-8)
    .replace(/^(.{4})/, '$1:')}`;
  const headers = { 'X-Forwarded-For': address, 'X-Request-Id': named('request') };
  let token = await signToken({ org_id: org });
  const call: Tenant['call'] = (method, path, more = {}) => {
    used.requests++;
    return api.call(method, `/api/v1${path}`, { token, ...more, headers: { ...headers, ...more.headers } });
  };
  const good = async (method: string, path: string, body?: object, more: Call = {}) => {
    const answer = await call(method, path, { ...(body ? { body } : {}), ...more });
    expect(answer.status, `${method} ${path}: ${JSON.stringify(answer.body)}`).toBeLessThan(300);
    return answer.body;
  };

  // From here on by an actor with the marker.
  token = (await good('POST', '/tokens', { name: named('actor'), role: 'admin' })).token;

  const service = named('service');
  const heartbeat = named('heartbeat');
  const metric = `${marker}_metric`;
  const otherMetric = `${marker}_other`;
  const zone = named('zone');
  await good('PATCH', '/org', {
    retention_days: options.retentionDays,
    limits: { series: 54_321, change_per_second: 9_876 },
  });

  const now = Date.now();
  // Longer than a day, so that one is over at any hour.
  const samples = Array.from({ length: 52 }, (_, i) => [
    { name: metric, value: options.value + (i % 7) * 0.0005, i },
    { name: otherMetric, value: options.value + ((i + 1) % 7) * 0.0005, i },
  ])
    .flat()
    .map(({ i, ...sample }) => ({
      ...sample,
      labels: { zone },
      service_name: service,
      timestamp: now - i * 0.5 * hourMs,
    }));
  const lines = Array.from({ length: 4 }, (_, i) => ({
    service_name: service,
    level: i === 0 ? 'error' : 'info',
    message: `${marker}word ${named('part')} of line ${i}, with ${named('password')}`,
    metadata: { user: named('user'), [named('key')]: i },
    trace_id: named('trace'),
    span_id: named('span'),
    timestamp: now - i * 60_000,
  }));
  const batches = {
    '/metrics/batch': { key: named('idempotency'), body: { metrics: samples } },
    '/metrics': { key: named('single'), body: samples[0]! },
    '/logs': { key: named('lines'), body: { logs: lines } },
  };
  for (const [path, { key, body }] of Object.entries(batches))
    await good('POST', path, body, { headers: { 'Idempotency-Key': key } });
  used.samples += samples.length + 1;
  used.log_lines += lines.length;

  await good('POST', '/services/import', {
    services: [
      {
        service_name: heartbeat,
        kind: 'heartbeat',
        failure_threshold: 1,
        description: named('description'),
        tags: [named('tag')],
      },
      {
        service_name: service,
        health_endpoint: `http://${marker}.test/health?key=${named('query')}`,
        description: named('description'),
        method: 'POST',
        headers: { 'X-Api-Key': named('header-secret') },
        request_body: named('body-secret'),
        expected_body: { contains: named('expected') },
        timeout_seconds: 0.1,
        tags: [named('tag')],
        depends_on: [heartbeat],
        sla_target_percent: 99.5,
      },
    ],
  });

  const config = {
    webhook: {
      url: `https://${marker}.test/in?key=${named('url-secret')}`,
      secret: named('hook-secret'),
      headers: { 'X-Key': named('hook-header') },
    },
    slack: { url: `https://hooks.test/${named('slack-secret')}` },
    email: {
      to: [`${marker}@ops.test`],
      from: `${marker}@from.test`,
      smtp_url: `smtp://${marker}:${named('mail-secret')}@mail.test`,
    },
    alertmanager: {
      url: `http://${marker}.test:9093`,
      username: named('user-name'),
      password: named('am-secret'),
      bearer_token: named('am-token'),
    },
  };
  const channels: Record<string, string> = {};
  for (const [type, value] of Object.entries(config)) {
    const body = { name: named(type), type, config: value, timeout_seconds: 1 };
    channels[type] = (await good('POST', '/channels', body)).id;
  }
  await good('PATCH', `/channels/${channels.slack}`, {
    service_names: [service],
    matchers: [`zone="${zone}"`],
  });
  const webhook = channels.webhook!;
  const [escalation] = await Promise.all([
    good('POST', '/escalations', {
      name: named('escalation'),
      matchers: [`zone="${zone}"`],
      steps: [{ after_minutes: 30, channel_ids: [webhook] }],
    }),
    good('POST', '/escalations', { name: named('second-escalation'), steps: [{ after_minutes: 60 }] }),
  ]);
  const [dashboard] = await Promise.all([
    good('POST', '/dashboards', {
      name: named('dashboard'),
      description: named('arranged'),
      panels: [
        {
          type: 'metric',
          title: named('panel'),
          metric_name: metric,
          service_name: service,
          labels: { zone },
        },
      ],
    }),
    good('POST', '/dashboards', { name: named('second-dashboard'), panels: [] }),
  ]);
  const [rule] = await Promise.all([
    good('POST', '/alert-rules', {
      name: named('rule'),
      expression: `avg by (zone) (${metric}{zone="${zone}",service="${service}"}) > 1 for 10m`,
      severity: 'critical',
      labels: { team: named('team') },
      annotations: { summary: named('summary') },
    }),
    good('POST', '/alert-rules', { name: named('second-rule'), expression: `absent(${metric})` }),
  ]);

  const alert = async (name: string, more: object = {}) =>
    (
      await good('POST', '/alerts', {
        name: named(name),
        severity: 'critical',
        description: named('what'),
        service_name: service,
        labels: { zone },
        metadata: { cause: named('cause') },
        ...more,
      })
    ).id;
  const firing = await alert('alert');
  const acknowledged = await alert('acknowledged-alert');
  const resolved = await alert('resolved-alert');
  await alert('ruled-alert', { rule_expression: `max(${otherMetric}) > 1e9` });
  await good('POST', `/alerts/${firing}/notes`, { note: named('note') });
  await good('PUT', `/alerts/${acknowledged}/acknowledge`, { note: named('taken') });
  await good('PUT', `/alerts/${resolved}/resolve`, { note: named('over') });
  await good('POST', `/heartbeat/${heartbeat}`, { status: 'unhealthy', message: named('sick') });

  const silences = await Promise.all(
    ['reason', 'second-reason'].map((reason) =>
      good('POST', '/silences', {
        matchers: [`zone="${named('silenced')}"`],
        ends_at: now + hourMs,
        reason: named(reason),
        author: named('author'),
      }),
    ),
  );
  const windows = await Promise.all(
    ['window', 'second-window'].map((name) =>
      good('POST', '/maintenance-windows', {
        name: named(name),
        matchers: [`zone="${named('maintained')}"`],
        starts_at: now - hourMs,
        ends_at: now + hourMs,
        reason: named('upkeep'),
      }),
    ),
  );

  const [plain, revoked, expired] = await Promise.all(
    ['token', 'revoked-token', 'expired-token'].map((name) =>
      good('POST', '/tokens', { name: named(name), role: 'admin', expires_at: now + dayMs }),
    ),
  );
  await good('POST', `/tokens/${revoked.id}/revoke`);
  // Refused, and so in the audit log.
  const viewer = await signToken({ org_id: org, role: 'viewer' });
  await call('GET', `/tokens/${plain.id}`, { token: viewer });

  let erasure = '';
  for (let i = 0; i < 2; i++) {
    erasure = (await good('POST', '/org/erasures', { confirm: org })).id;
    await good('DELETE', `/org/erasures/${erasure}`);
  }

  const { sql } = api;
  const [{ id: orgId }] = (await sql`select id from obs.org where external_id = ${org}`) as [{ id: number }];
  await sql`update obs.org set settings = settings || ${sql.json({ timezone: options.timezone })} where id = ${orgId}`;
  await sql`update obs.api_token set expires_at = now() - interval '1 hour' where id = ${expired.id}`;
  await sql`
    insert into obs.org_usage (org_id, day, requests, series, log_streams)
    values (${orgId}, (now() - interval '10 days')::date, ${options.requests}, 1, 1)`;
  const found = { reason: named('probed'), worker: named('worker') };
  for (const seconds of [60, 30]) {
    await sql`
      insert into obs.probe_result (time, service_id, slot, outcome, response_time_ms, status_code, reason, worker)
      select now() - make_interval(secs => ${seconds}), s.id, now(), 'down', ${options.value}, 500, ${found.reason}, ${found.worker}
      from obs.service s where s.org_id = ${orgId} and s.name = ${service}`;
    await sql`
      insert into obs.service_event (time, service_id, event, from_status, to_status, reason, actor)
      select now() - make_interval(secs => ${seconds}), s.id, 'status', 'unknown', 'unhealthy', ${found.reason}, ${found.worker}
      from obs.service s where s.org_id = ${orgId} and s.name = ${service}`;
  }
  for (const [table, width] of [
    ['probe_1h', '1 hour'],
    ['probe_1d', '1 day'],
  ] as const)
    await sql`
      insert into ${sql(`obs.${table}`)}
      select time_bucket(${width}::interval, now()), s.id, 1, 0, 2, 60, 40, ${options.value}, ${options.value}
      from obs.service s where s.org_id = ${orgId} and s.name = ${service}`;
  for (const hours of [0, 24])
    await sql`
      insert into obs.system_snapshot (
        time, org_id, total_services, healthy_services, degraded_services, unhealthy_services, avg_response_time_ms, critical_alerts, warning_alerts,
        info_alerts, started_alerts, reported_response_time_ms
      )
      values (now() - make_interval(hours => ${hours}), ${orgId}, 2, 1, 0, 1, ${options.value}, 1, 0, 0, 1, ${options.value})`;
  await sql`
    insert into obs.uptime_24h
    select ${orgId}, now(), array_agg(s.id), array_agg(60), array_agg(40) from obs.service s where s.org_id = ${orgId}`;
  const notification = await deliver(sql, orgId, webhook, named);

  const list = async (path: string, query = '') => {
    const body = await good('GET', `${path}?limit=1${query}`);
    expect(body.next_cursor, path).not.toBeNull();
    return body;
  };
  const { logs, next_cursor: logsCursor } = await list(`/logs/${service}`);
  const cursor = async (path: string) => (await list(path)).next_cursor as string;
  const health = await call('GET', '/health/services');
  expect(health.status).toBe(200);
  const [{ position }] = (await sql`
    select max(position)::text as position from obs.log_arrival where org_id = ${orgId}`) as [
    { position: string },
  ];

  return {
    org,
    orgId,
    marker,
    token,
    revoked: revoked.token,
    expired: expired.token,
    batches,
    call,
    used,
    things: {
      org,
      service,
      heartbeat,
      metric,
      zone,
      tag: named('tag'),
      word: `${marker}word`,
      part: named('part'),
      user: named('user'),
      trace: named('trace'),
      key: named('idempotency'),
      actor: named('actor'),
      request: named('request'),
      address,
      lineId: logs[0].id,
      alert: firing,
      alertName: named('alert'),
      ruledName: named('ruled-alert'),
      rule: rule.id,
      ruleName: named('rule'),
      channel: webhook,
      channelName: named('webhook'),
      silence: silences[0].id,
      silenceReason: named('reason'),
      window: windows[0].id,
      windowName: named('window'),
      escalation: escalation.id,
      escalationName: named('escalation'),
      dashboard: dashboard.id,
      dashboardName: named('dashboard'),
      notification,
      token: plain.id,
      tokenName: named('token'),
      tokenText: plain.token,
      erasure,
      etag: health.headers.get('ETag')!,
      lastEventId: position,
      metricsCursor: await cursor('/metrics'),
      logsCursor,
      servicesCursor: await cursor('/services'),
      resultsCursor: await cursor(`/services/${service}/results`),
      eventsCursor: await cursor(`/services/${service}/events`),
      alertsCursor: await cursor('/alerts'),
      rulesCursor: await cursor('/alert-rules'),
      channelsCursor: await cursor('/channels'),
      silencesCursor: await cursor('/silences'),
      windowsCursor: await cursor('/maintenance-windows'),
      escalationsCursor: await cursor('/escalations'),
      dashboardsCursor: await cursor('/dashboards'),
      notificationsCursor: await cursor('/notifications'),
      erasuresCursor: await cursor('/org/erasures'),
      tokensCursor: await cursor('/tokens'),
      auditCursor: await cursor('/audit'),
    },
  };
}

/** As a worker does: two notifications, dead and pending; the dead one's id. */
async function deliver(sql: postgres.Sql, orgId: number, channel: string, named: (what: string) => string) {
  const groups = await sql<{ id: string }[]>`
    select g.id::text
    from obs.notification_group g
    join obs.notification_member m on m.group_id = g.id
    join obs.alert a on a.id = m.alert_id
    where g.org_id = ${orgId} and g.channel_id = ${channel} and a.status = 'firing'
    order by a.started_at
    limit 2`;
  expect(groups).toHaveLength(2);
  const [dead] = await Promise.all(
    groups.map(async ({ id }) => {
      const [claim] = await sql<{ notification_id: string; attempt: number }[]>`
        select notification_id, attempt from job.claim_notification(${id}::bigint, null, now() + interval '1 minute')`;
      return claim!;
    }),
  );
  await sql`
    select job.finish_attempt(
      ${dead!.notification_id}, ${dead!.attempt}, false, 500, 12.5, ${named('error')}, ${named('detail')}, true, null,
      now() + interval '1 minute'
    )`;
  return dead!.notification_id;
}

/** Once all orgs are filled: rolls up and counts what they recorded, and has each send a late sample. */
export async function settle(
  api: TestApi,
  tenants: readonly Tenant[],
  rollUp: (sql: postgres.Sql) => Promise<void>,
) {
  await rollUp(api.sql);
  while ((await api.sql<{ n: number }[]>`select job.count_logs() as n`)[0]!.n > 0);
  for (const { call, used, things } of tenants) {
    const timestamp = Date.now() - 3 * hourMs;
    const body = { name: things.metric, value: 1, service_name: things.service, timestamp };
    expect((await call('POST', '/metrics', { body })).status).toBe(201);
    used.samples++;
  }
}

const uuid = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g;

/** Things that nobody has, each as long as the tenant's. */
export function nothingLike({ things, marker }: Tenant): Things {
  const stranger = newMarker('nobody');
  const ids = new Map<string, string>();
  const replaced = (text: string) =>
    text.replaceAll(marker, stranger).replace(uuid, (id) => {
      if (!ids.has(id)) ids.set(id, randomUUID());
      return ids.get(id)!;
    });
  return Object.fromEntries(
    Object.entries(things).map(([name, thing]) => {
      if (name === 'lastEventId') return [name, thing];
      // One more than its last digit; of 9 one less, to stay as long.
      if (name === 'lineId') return [name, otherDigit(thing)];
      if (name === 'tokenText') return [name, `obs_${randomBytes(36).toString('hex')}`];
      if (name === 'etag')
        return [
          name,
          `W/"${randomBytes(16)
            .toString('hex')
            .slice(0, thing.length - 4)}"`,
        ];
      if (!name.endsWith('Cursor')) return [name, replaced(thing)];
      const text = Buffer.from(thing, 'base64url').toString();
      const other = name === 'logsCursor' ? otherDigit(text) : replaced(text);
      return [name, Buffer.from(other).toString('base64url')];
    }),
  );
}

const otherDigit = (text: string) => text.slice(0, -1) + (text.endsWith('9') ? 8 : Number(text.at(-1)) + 1);

const parents = { series_id: 'series', service_id: 'service', log_stream_id: 'log_stream' } as const;
/** What no org owns. */
const shared = ['retention', 'tier', 'log_counted', 'probe_worker'];
/** What goes on by itself while an org asks for something. */
const moving: Record<string, string[]> = { api_token: ['last_used_at', 'last_used_address'] };

/** All rows of an org as text, in order, by table: those of each table of obs, and its jobs. */
export async function rowsOf(
  sql: postgres.Sql,
  { org, orgId }: { org: string; orgId: number },
): Promise<Record<string, string[]>> {
  const tables = await sql<{ name: string; columns: string[] }[]>`
    select c.relname as name, array_agg(a.attname::text) as columns
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = 'obs'::regnamespace and c.relkind in ('r', 'p')
    group by c.relname order by c.relname`;
  const rows: Record<string, string[]> = {};
  await Promise.all(
    tables.map(async ({ name, columns }) => {
      const parent = Object.keys(parents).find((column) => columns.includes(column)) as keyof typeof parents;
      const owned =
        name === 'org'
          ? sql`id = ${orgId}`
          : columns.includes('org_id')
            ? // Of today it is added to every few seconds.
              sql`org_id = ${orgId} ${name === 'org_usage' ? sql`and day < (now() - interval '5 days')::date` : sql``}`
            : columns.includes('org')
              ? sql`org = ${org}`
              : parent
                ? sql`${sql(parent)} in (select id from ${sql(`obs.${parents[parent]}`)} where org_id = ${orgId})`
                : shared.includes(name)
                  ? sql`true`
                  : undefined;
      if (!owned)
        throw new Error(`obs.${name}: of which org are its rows? Say so in ${import.meta.filename}`);
      const found = await sql<{ row: string }[]>`
        select (to_jsonb(t) - ${moving[name] ?? []}::text[])::text as row from ${sql(`obs.${name}`)} t where ${owned}`;
      rows[name] = found.map(({ row }) => row).sort();
    }),
  );
  const jobs = await sql<{ row: string }[]>`
    select to_jsonb(j)::text as row from graphile_worker._private_jobs j where payload ->> 'org_id' = ${String(orgId)}`;
  rows.jobs = jobs.map(({ row }) => row).sort();
  return rows;
}

/** Tables of which an org with one of everything has no row. */
export const unowned = shared;

/** Tells what of a tenant a text holds. */
export async function leakDetector(
  sql: postgres.Sql,
  tenant: Tenant,
  { timezone, value, requests }: TenantOptions,
) {
  const rows = Object.values(await rowsOf(sql, tenant)).flat();
  const ids = new Set(rows.flatMap((row) => row.match(uuid) ?? []));
  const tokens = await sql<{ prefix: string; hash: string }[]>`
    select prefix, encode(hash, 'hex') as hash from obs.api_token where org_id = ${tenant.orgId}`;
  const texts = [
    tenant.marker,
    timezone,
    value.toFixed(2),
    String(requests),
    // As a secret is stored where there is no key for it.
    'sealed:',
    ...tokens.flatMap(({ prefix, hash }) => [prefix, hash]),
  ].map((text) => text.toLowerCase());

  /** said: what the one who was answered has said, and may be told again. */
  return (text: string, said: Iterable<string> = []): string[] => {
    // Without a number of one digit nothing would be what it is.
    const allowed = [...said].filter((thing) => thing.length >= 8).sort((a, b) => b.length - a.length);
    // A cursor says where the next page begins.
    const cursors = [...text.matchAll(/"next_cursor":"([^"]+)"/g)].map(([, cursor]) =>
      Buffer.from(cursor!, 'base64url').toString(),
    );
    let rest = [text, ...cursors].join('\n');
    for (const thing of allowed) rest = rest.replaceAll(thing, '');
    rest = rest.toLowerCase();
    return [
      ...texts.filter((secret) => rest.includes(secret)),
      ...(rest.match(uuid) ?? []).filter((id) => ids.has(id)),
    ];
  };
}

/** A text without what differs from one answer to the same question to the next, and without these things. */
export function normalized(text: string, things: Iterable<string>): string {
  let rest = text;
  // A number of one digit is in anything.
  for (const thing of [...things].sort((a, b) => b.length - a.length))
    if (thing.length >= 8) rest = rest.replaceAll(thing, '<thing>');
  return rest
    .replace(/"next_cursor":"[^"]*"/g, '"next_cursor":"<cursor>"')
    .replace(uuid, '<id>')
    .replace(/\bobs_[0-9a-f]+/g, '<token>')
    .replace(/\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d(:?\d\d)?)/g, '<time>')
    .replace(/"duration_seconds": ?[\d.]+/g, '"duration_seconds":0');
}

export const sha256 = (text: string) => createHash('sha256').update(text).digest();
