// Every function that HTTP may call, called for one org with all that is another's, whatever the session says beforehand: it answers as
// if the other were not there, and of the other nothing changes. And what the roles may do to tables is what is written here.
import { randomBytes } from 'node:crypto';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { rollUp } from '../../db/roll_up.ts';
import { parseConfig } from '../../src/config.ts';
import { expressionFields } from '../../src/routes/expressions.ts';
import { parseRule } from '../../src/rules/expression.ts';
import { useApi } from '../support/api.ts';
import { jwtSecret } from '../support/process.ts';
import {
  attackerOptions,
  fillTenant,
  hourMs,
  leakDetector,
  normalized,
  nothingLike,
  rowsOf,
  settle,
  sha256,
  type Tenant,
  type Things,
  victimOptions,
} from '../support/tenant.ts';

const api = useApi({ TRUSTED_PROXIES: '1' });

let victim: Tenant;
let attacker: Tenant;
/** What is named of the victim, of nobody, and of the attacker itself; ids of rows that HTTP does not show among them. */
let theirs: Things;
let nobodys: Things;
let own: Things;
let leaksIn: Awaited<ReturnType<typeof leakDetector>>;
/** Signatures of the functions of api, by name: the types of their arguments. */
const functions = new Map<string, Map<string, string>>();
let apiUrl: string;

/** Arguments by name. _org_id is the caller's, where it is left out. */
type Arguments = Record<string, unknown>;

const now = Date.now();
const start = new Date(now - 24 * hourMs);
const hourAgo = new Date(now - hourMs);
const end = new Date(now + hourMs);
const span = { _start: start, _end: end };
const first = { _before_created_at: null, _before_id: null, _limit: 100 };
const actor = { _actor: 'attacker' };
const kinds = {
  alert_rule: 'rule',
  channel: 'channel',
  silence: 'silence',
  maintenance_window: 'window',
  escalation: 'escalation',
  dashboard: 'dashboard',
};
const rule = (t: Things) => ({
  severity: 'info',
  ...expressionFields(
    parseRule(`max(${t.metric}[1h]) > 0 or absent(${t.metric}{zone="${t.zone}"}[1h])`),
    null,
  ),
});
const definitions: Record<keyof typeof kinds, (t: Things) => object> = {
  alert_rule: rule,
  channel: (t) => ({
    type: 'webhook',
    config: { url: 'http://127.0.0.1:1/' },
    service_names: [t.service],
    group_by: [],
  }),
  silence: () => ({ matchers: [], ends_at: end, reason: 'attack' }),
  maintenance_window: () => ({ starts_at: start, ends_at: end }),
  escalation: (t) => ({ steps: [{ after_minutes: 1, channel_ids: [t.channel] }] }),
  dashboard: (t) => ({ panels: [{ type: 'metric', title: 'mine', metric_name: t.metric }] }),
};
// Of a row, whoever writes it: into another org, and over what is another's.
const smuggled = (t: Things) => ({ org_id: Number(t.orgId) });
const named = (t: Things) => ({
  _metric_name: t.metric,
  _service_name: t.service,
  _labels: { zone: t.zone },
});
const logFilters = (t: Things) => [
  {},
  { service_name: t.service },
  { q: t.word },
  { contains: t.part },
  { trace_id: t.trace },
  { metadata: { user: t.user } },
];
const moment = (t: Things) => new Date(Number(t.lineId!.split('-')[0]) / 1000);
/** External ids that are much like another. */
const alike = ({ org }: Things) => [
  org!.toUpperCase(),
  org!.toLowerCase(),
  `${org} `,
  ` ${org}`,
  org!.slice(0, -1),
  `${org!.slice(0, -4)}%`,
  `${org!.slice(0, -1)}_`,
  org!.replace('i', '\u0456'),
  `${org}' or true --`,
];

const calls: Record<string, (t: Things) => Arguments[]> = {
  add_note: (t) => [{ _id: t.alert, _note: 'mine', ...actor }],
  analyze_metric: (t) => [
    { ...named(t), ...span },
    { ...named(t), ...span, _service_name: null, _labels: {} },
  ],
  announce_logs: (t) => [
    {
      _arrivals: [
        {
          org_id: Number(own.orgId),
          log_stream_id: Number(t.streamId),
          minute: start,
          line_count: 1,
          byte_count: 1,
          first_id: 0,
          last_id: 1e15,
          oldest: start,
          newest: end,
        },
      ],
    },
  ],
  cancel_erasure: (t) => [{ _id: t.erasure, ...actor }],
  change_alert: (t) =>
    ['acknowledged', 'resolved', 'firing', 'inactive'].map((_to) => ({
      _id: t.alert,
      _to,
      _note: 'mine',
      ...actor,
    })),
  change_org: (t) => [
    { _changes: { retention_days: 77, external_id: t.org, id: Number(t.orgId) }, ...actor },
    { _changes: { limits: { series: 1 } }, ...actor },
  ],
  change_token: (t) => [
    { _id: t.token, _fields: { name: t.tokenName, ...smuggled(t) }, ...actor },
    { _id: t.token, _fields: { revoked_at: start }, ...actor },
    { _id: own.token, _fields: { id: t.token, hash: `\\x${'00'.repeat(32)}`, ...smuggled(t) }, ...actor },
  ],
  claim_idempotency_keys: (t) => [
    { _org_ids: [Number(own.orgId)], _keys: [t.key], _body_hashes: [t.bodyHash], _recorded: [1] },
    {
      _org_ids: [Number(own.orgId)],
      _keys: [t.key],
      _body_hashes: [`\\x${'00'.repeat(32)}`],
      _recorded: [1],
    },
  ],
  correlate_metric: (t) => [
    { ...named(t), ...span, _q: null, _limit: 100 },
    { ...named(own), ...span, _q: t.metric, _limit: 100 },
    { ...named(own), ...span, _q: null, _limit: 100 },
  ],
  // As the other has them, down to what tells one alert from another.
  create_alert: (t) =>
    [t.alertName, t.ruledName].flatMap((_name) =>
      [null, rule(t)].map((_rule) => ({
        _name,
        _severity: 'info',
        _description: null,
        _service_name: t.service,
        _labels: { zone: t.zone },
        _metadata: null,
        _rule,
        ...actor,
      })),
    ),
  create_token: (t) => [
    {
      _fields: { name: t.tokenName, prefix: 'obs_', role: 'admin', id: t.token, ...smuggled(t) },
      _hash: `\\x${randomBytes(32).toString('hex')}`,
      ...actor,
    },
  ],
  delete_definition: (t) =>
    Object.entries(kinds).map(([_kind, thing]) => ({ _kind, _id: t[thing], ...actor })),
  delete_service: (t) => [{ _name: t.service, ...actor }],
  delete_token: (t) => [{ _id: t.token, ...actor }],
  ensure_log_streams: (t) => [{ _service_names: [t.service, t.service], _levels: ['info', 'error'] }],
  ensure_org: (t) => alike(t).map((_external_id) => ({ _external_id })),
  ensure_series: (t) => [
    { _series: [{ name: t.metric, service_name: t.service, labels: { zone: t.zone } }] },
    { _series: [{ name: t.metric, ...smuggled(t), id: Number(t.seriesId) }] },
  ],
  export_org: () => [{}],
  export_services: () => [{}],
  find_token: (t) => [
    { _hash: null },
    { _hash: '\\x' },
    { _hash: `\\x${t.tokenHash!.slice(0, -2)}` },
    { _hash: `\\x${t.tokenHash!.slice(0, -1)}${t.tokenHash!.endsWith('0') ? 1 : 0}` },
    { _hash: `\\x${Buffer.from(t.tokenText!).toString('hex')}` },
    { _hash: `\\x${Buffer.from(t.tokenHash!).toString('hex')}` },
  ],
  get_alert: (t) => [{ _id: t.alert }],
  get_check: (t) => [{ _name: t.service, _since: start }],
  get_dashboard: () => [{}],
  get_default_escalation: () => [{}],
  get_definition: (t) => Object.entries(kinds).map(([_kind, thing]) => ({ _kind, _id: t[thing] })),
  get_erasure: (t) => [{ _id: t.erasure }],
  get_ingest_limits: () => [{ _table_name: 'sample' }, { _table_name: 'log' }],
  get_lag: () => [{}],
  get_log_context: (t) =>
    [null, t.service, own.service].map((_service_name) => ({
      _service_name,
      _time: moment(t),
      _id: t.lineId!.split('-')[1],
      _before: 10,
      _after: 10,
    })),
  get_log_histogram: (t) =>
    [null, t.service].map((_service_name) => ({
      _service_name,
      _min_level: 'trace',
      ...span,
      _window: '1 hour',
      _timezone: 'UTC',
    })),
  get_log_patterns: (t) =>
    logFilters(t).map((_filter) => ({ _filter, ...span, _limit: 10, _max_lines: 100 })),
  get_log_position: () => [{}],
  get_notification: (t) => [{ _id: t.notification }],
  get_org: () => [{}],
  get_overview: () => [{}],
  get_service: (t) => [{ _name: t.service }, { _name: t.heartbeat }],
  get_services_health: () => [{ _has_history: true }],
  get_status_page: (t) => alike(t).map((_external_id) => ({ _external_id })),
  get_storage: () => [{}],
  get_timeline: (t) => ['24h', '90d'].map((_period) => ({ _name: t.service, _period })),
  get_token: (t) => [{ _id: t.token }],
  has_service: (t) => [{ _name: t.service }],
  import_services: (t) => [
    {
      _definitions: [
        {
          service_name: t.heartbeat,
          kind: 'heartbeat',
          id: Number(t.serviceId),
          depends_on: [t.service],
        },
      ],
      ...actor,
    },
  ],
  list_alerts: (t) =>
    [null, t.service].map((_service_name) => ({
      _status: null,
      _severity: null,
      _service_name,
      _start: null,
      _end: null,
      _q: null,
      _before_started_at: null,
      _before_id: null,
      _limit: 100,
    })),
  list_audit: (t) =>
    [{}, { actor: t.actor }, { token_id: t.token }, { target_id: t.channel }].map((_filters) => ({
      _filters,
      _start: '-infinity',
      _end: 'infinity',
      _before_time: null,
      _before_id: null,
      _limit: 100,
    })),
  list_definitions: () =>
    Object.keys(kinds).flatMap((_kind) =>
      [null, true].map((_is_active) => ({ _kind, _q: null, _is_active, ...first })),
    ),
  list_erasures: (t) => [
    { _before_requested_at: null, _before_id: null, _limit: 100 },
    { _before_requested_at: end, _before_id: t.erasure, _limit: 100 },
  ],
  list_labels: (t) => [null, t.service].map((_service_name) => ({ _name: t.metric, _service_name })),
  list_metrics: (t) => [
    { _q: null, _service_name: null, _after: null, _limit: 100 },
    { _q: t.metric, _service_name: t.service, _after: null, _limit: 100 },
  ],
  list_notifications: (t) =>
    [
      {},
      { _channel_id: t.channel },
      { _alert_id: t.alert },
      { _channel_id: t.channel, _alert_id: own.alert },
    ].map((filter) => ({ _status: null, _channel_id: null, _alert_id: null, ...first, ...filter })),
  list_results: (t) => [{ _name: t.service, ...span, _limit: 10 }],
  list_service_events: (t) => [{ _name: t.service, ...span, _limit: 10 }],
  list_services: (t) => [
    { _tag: null, _status: null, _q: null, _after: null, _limit: 100 },
    { _tag: t.tag, _status: null, _q: t.service, _after: null, _limit: 100 },
  ],
  list_tokens: () => [first],
  list_usage: () => [{ _start: '2000-01-01', _end: '2100-01-01' }],
  mark_late: () => [{ _org_ids: [Number(own.orgId)], _starts: [start], _ends: [end] }],
  open_org: (t) =>
    alike(t).flatMap((_external_id) => [false, true].map((_may_make) => ({ _external_id, _may_make }))),
  patch_service: (t) => [
    { _name: t.service, _changes: {}, _is_paused: true, _paused_until: null, ...actor },
    {
      _name: t.heartbeat,
      _changes: { description: 'mine' },
      _is_paused: false,
      _paused_until: null,
      ...actor,
    },
    {
      _name: own.service,
      _changes: { id: Number(t.serviceId), depends_on: [t.service], description: t.service, ...smuggled(t) },
      _is_paused: true,
      _paused_until: null,
      ...actor,
    },
  ],
  put_definition: (t) =>
    (Object.keys(kinds) as (keyof typeof kinds)[]).flatMap((_kind) => {
      const fields = definitions[_kind](t);
      const name = _kind === 'silence' ? {} : { name: t[`${kinds[_kind]}Name`] };
      return [
        // Over the other's, to the other's side, and in the other's place.
        { _kind, _id: t[kinds[_kind]], _fields: { ...fields }, ...actor },
        { _kind, _id: own[kinds[_kind]], _fields: { ...definitions[_kind](own), ...smuggled(t) }, ...actor },
        { _kind, _id: null, _fields: { ...name, ...fields, ...smuggled(t), id: t[kinds[_kind]] }, ...actor },
      ];
    }),
  put_service: (t) => [
    {
      _name: t.service,
      _definition: {
        kind: 'heartbeat',
        id: Number(t.serviceId),
        up_series_id: Number(t.seriesId),
        depends_on: [t.service],
      },
      ...actor,
    },
    { _name: t.heartbeat, _definition: { kind: 'heartbeat', ...smuggled(t) }, ...actor },
    {
      _name: own.service,
      _definition: {
        kind: 'tcp',
        health_endpoint: 'tcp://127.0.0.1:1',
        id: Number(t.serviceId),
        ...smuggled(t),
      },
      ...actor,
    },
  ],
  query_metrics: (t) =>
    [named(t), { ...named(t), _service_name: null, _labels: {} }].map((what) => ({
      ...what,
      ...span,
      _aggregation: 'max',
      _window: '1h',
      _group_by: ['zone', 'service_name'],
      _fill: 'none',
      _timezone: 'UTC',
      _limit: 100,
      _format: 'points',
    })),
  record_accesses: (t) => [
    {
      _accesses: [
        {
          actor: t.actor,
          token_id: t.token,
          org: t.org,
          action: 'GET /api/v1/channels/{id}',
          target_id: `/api/v1/channels/${t.channel}`,
          outcome: 'refused',
          status: 403,
          count: 1,
        },
      ],
    },
  ],
  record_heartbeat: (t) => [{ _name: t.heartbeat, _outcome: 'up', _reason: null, ...actor }],
  record_samples: (t) => [
    { _samples: [{ name: t.metric, service_name: t.service, labels: { zone: t.zone }, value: 1 }] },
  ],
  record_usage: (t) => [
    {
      _usage: [
        {
          org_id: Number(own.orgId),
          day: '2026-01-01',
          requests: 1,
          refused: 0,
          samples: 0,
          log_lines: 0,
          tokens: [{ id: t.token, at: end, address: 'attacker' }],
        },
      ],
    },
  ],
  request_check: (t) => [{ _name: t.service, ...actor }],
  request_erasure: () => [actor],
  resend_notification: (t) => [{ _id: t.notification, ...actor }],
  reserve_log_ids: () => [{}],
  search_logs: (t) =>
    logFilters(t).map((_filter) => ({
      _filter,
      ...span,
      _before_time: null,
      _before_id: null,
      _limit: 100,
      _is_marked: true,
      _seconds: 5,
    })),
  tail_logs: (t) => [{ _after: 0, _filters: logFilters(t), _max_bytes: 1e6, _at_most: null }],
  test_channel: (t) => [{ _id: t.channel, ...actor }],
  test_rule: (t) => [
    { _fields: { name: 'r', ...rule(t), interval_seconds: 600 }, _start: hourAgo, _end: end },
    { _fields: { name: 'r', ...rule(t), ...smuggled(t), interval_seconds: 600 }, _start: hourAgo, _end: end },
  ],
};

beforeAll(async () => {
  const { sql } = api;
  victim = await fillTenant(api, victimOptions);
  attacker = await fillTenant(api, attackerOptions);
  await settle(api, [victim, attacker], rollUp);
  leaksIn = await leakDetector(sql, victim, victimOptions);
  const withRows = async (t: Things, orgId: number): Promise<Things> => {
    const [row] = await sql<Things[]>`
      select
        (select min(id) from obs.series where org_id = ${orgId} and name = ${t.metric!})::text as "seriesId",
        (select id from obs.service where org_id = ${orgId} and name = ${t.service!})::text as "serviceId",
        (select min(id) from obs.log_stream where org_id = ${orgId})::text as "streamId",
        (select body_hash::text from obs.idempotency_key where org_id = ${orgId} and key = ${t.key!}) as "bodyHash"`;
    return { ...t, ...row!, orgId: String(orgId), tokenHash: sha256(t.tokenText!).toString('hex') };
  };
  theirs = await withRows(victim.things, victim.orgId);
  own = await withRows(attacker.things, attacker.orgId);
  nobodys = {
    ...nothingLike({ ...victim, things: theirs }),
    orgId: '2000000001',
    seriesId: '2000000002',
    serviceId: '2000000003',
    streamId: '2000000004',
  };
  nobodys.tokenHash = sha256(nobodys.tokenText!).toString('hex');
  apiUrl = parseConfig({ DATABASE_URL: api.databaseUrl, JWT_SECRET: jwtSecret }).apiDatabaseUrl;

  const found = await sql<{ name: string; names: string[]; types: string[] }[]>`
    select p.proname as name, p.proargnames[1:p.pronargs] as names,
      array(select format_type(t, null) from unnest(p.proargtypes::oid[]) with ordinality as a (t, n) order by n) as types
    from pg_proc p where p.pronamespace = 'api'::regnamespace`;
  for (const { name, names, types } of found)
    functions.set(name, new Map((names ?? []).map((argument, i) => [argument, types[i]!])));
});

/** A value as text that PostgreSQL casts to its type. */
function literal(value: unknown, type: string): string | null {
  if (value === null || value === undefined) return null;
  if (type === 'jsonb') return JSON.stringify(value);
  if (Array.isArray(value))
    return `{${value.map((item) => `"${String(literal(item, '')).replace(/[\\"]/g, '\\$&')}"`).join(',')}}`;
  return value instanceof Date ? value.toISOString() : String(value);
}

/** What a function answers, as text; or how it fails. */
async function call(sql: postgres.ISql, name: string, given: Arguments): Promise<string> {
  const types = functions.get(name)!;
  const names = Object.keys(given).filter((argument) => types.has(argument));
  expect(Object.keys(given).filter((argument) => argument !== '_org_id' && !types.has(argument))).toEqual([]);
  const list = names.map((argument, i) => `${argument} => $${i + 1}::text::${types.get(argument)}`);
  try {
    const rows = await sql.unsafe(
      `select to_jsonb(r)::text as answer from api.${name}(${list.join(', ')}) r`,
      names.map((argument) => literal(given[argument], types.get(argument)!)) as never[],
    );
    return rows.map(({ answer }) => answer).join('\n');
  } catch (error) {
    if (!(error instanceof postgres.PostgresError)) throw error;
    const { code, message, detail, hint, where, column_name } = error;
    return JSON.stringify({ code, message, detail, hint, where: where?.split('\n')[0], column_name });
  }
}

/** The same, and nothing has come of it. */
async function callAndUndo(sql: postgres.Sql, name: string, given: Arguments): Promise<string> {
  const undo = new Error('taken back');
  let answer = '';
  await sql
    .begin(async (transaction) => {
      answer = await call(transaction, name, given);
      throw undo;
    })
    .catch((error) => {
      if (error !== undo) throw error;
    });
  return answer;
}

/** All texts of some arguments: what whoever calls has said. */
function textsOf(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  if (typeof value !== 'object' || value === null) return [];
  return Object.values(value).flatMap(textsOf);
}

const audit = async () =>
  new Set(
    (await api.sql<{ row: string }[]>`select to_jsonb(e)::text as row from obs.audit_event e`).map(
      ({ row }) => row,
    ),
  );

describe('a session', () => {
  const sessions: postgres.Sql[] = [];
  let said: Set<string>;
  beforeAll(() => {
    said = new Set();
  });
  afterAll(async () => {
    await Promise.all(sessions.map((sql) => sql.end()));
  });
  const settings = () => ({
    'obs.org_id': theirs.orgId!,
    'obs.org_external_id': theirs.org!,
    'obs.token_hash': theirs.tokenHash!,
  });
  const connect = (connection: Record<string, string> = {}) => {
    const sql = postgres(apiUrl, { max: 1, onnotice: () => {}, fetch_types: false, connection });
    sessions.push(sql);
    return sql;
  };

  const climates: [string, () => Promise<postgres.Sql>][] = [
    ['that says nothing', async () => connect()],
    [
      'that has set the org beforehand',
      async () => {
        const sql = connect();
        for (const [name, value] of Object.entries(settings()))
          await sql`select set_config(${name}, ${value}, false)`;
        return sql;
      },
    ],
    ['that begins with the org', async () => connect(settings())],
  ];

  // Whose id is the caller's own, none, and nobody's.
  const orgIds = (name: string) =>
    functions.get(name)?.has('_org_id') ? [own.orgId, null, -1] : [undefined];

  // Taken back each time, so that both are asked of the same rows.
  describe.each(climates)('%s', (climate, open) => {
    let sql: postgres.Sql;
    beforeAll(async () => {
      sql = await open();
    });

    test.each(Object.keys(calls))('has nothing of another org by %s', async (name) => {
      for (const orgId of orgIds(name)) {
        const [ofTheirs, ofNobodys] = [theirs, nobodys].map((t) => calls[name]!(t)) as [
          Arguments[],
          Arguments[],
        ];
        for (const [i, given] of ofTheirs.entries()) {
          const texts: string[] = [];
          for (const more of [given, ofNobodys[i]!]) {
            const answer = await callAndUndo(sql, name, { _org_id: orgId, ...more });
            const what = `${name} ${JSON.stringify({ orgId, ...more })}: ${answer}`;
            expect(leaksIn(answer, textsOf(more)), what).toEqual([]);
            // What is not permitted, or does not fit, would hide what a function does.
            expect(answer, what).not.toMatch(
              /"code":"(42501|42883|42703|22P02|42P..|0A...)","message":"(?!new row)/,
            );
            const things = [
              ...textsOf([given, ofNobodys[i]]),
              ...Object.values(theirs),
              ...Object.values(nobodys),
            ];
            // Ids that are given out are numbers, and another each time.
            texts.push(normalized(answer, things).replace(/\b\d+\b/g, '<number>'));
          }
          expect(texts[0], `${name} for ${orgId} by a session ${climate}: ${JSON.stringify(given)}`).toBe(
            texts[1],
          );
        }
      }
    });

    test.each(['ensure_org', 'open_org'])(
      'has by %s another org for what is only much like it',
      async (name) => {
        for (const given of calls[name]!(theirs)) {
          const answer = await callAndUndo(sql, name, given);
          const [, id] = /^(?:\{.*"id": )?(\d+)/.exec(answer) ?? [];
          expect(id !== undefined || given._may_make === false, `${JSON.stringify(given)}: ${answer}`).toBe(
            true,
          );
          expect(id).not.toBe(theirs.orgId);
        }
      },
    );
  });

  describe.each(climates)('%s', (_, open) => {
    let sql: postgres.Sql;
    let before: Record<string, string[]>;
    beforeAll(async () => {
      sql = await open();
      before = await rowsOf(api.sql, victim);
    });

    test.each(Object.keys(calls))('changes nothing of another org by %s', async (name) => {
      const known = await audit();
      const leaks: string[] = [];
      for (const orgId of orgIds(name))
        for (const given of calls[name]!(theirs)) {
          for (const text of textsOf(given)) said.add(text);
          // What was said to functions before comes back.
          const answer = await call(sql, name, { _org_id: orgId, ...given });
          if (leaksIn(answer, said).length > 0)
            leaks.push(`${JSON.stringify({ orgId, ...given })}: ${answer}`);
        }
      const after = await rowsOf(api.sql, victim);
      const changed = Object.keys(before).filter((table) => before[table]!.join() !== after[table]!.join());
      before = after;
      expect({ leaks, changed }).toEqual({ leaks: [], changed: [] });
      // Nor of what is told of its own doings.
      const told = await audit();
      expect([...known].filter((row) => !told.has(row))).toEqual([]);
    });
  });

  test('finds each function of api in the table', () => {
    expect(Object.keys(calls).toSorted()).toEqual([...functions.keys()].toSorted());
  });

  test('gets by each function what is its own', async () => {
    const sql = connect();
    // What org ids are not an argument of, or who asks is told nothing of.
    const exempt = ['find_token', 'open_org', 'ensure_org', 'get_check', 'get_status_page'];
    for (const name of Object.keys(calls).filter((name) =>
      /^(get|list|search|query|export|has|analyze|tail)_/.test(name),
    )) {
      if (exempt.includes(name)) continue;
      const answers: string[] = [];
      for (const given of calls[name]!(theirs)) {
        const answer = await call(sql, name, { _org_id: theirs.orgId, ...given });
        expect(answer, name).not.toContain('"code"');
        answers.push(answer);
      }
      if (
        ![
          'get_lag',
          'get_default_escalation',
          'get_ingest_limits',
          'get_log_position',
          'get_log_histogram',
          'get_overview',
          'get_storage',
          'get_timeline',
          'has_service',
        ].includes(name)
      )
        expect(leaksIn(answers.join('\n')), name).not.toEqual([]);
    }
  });
});

describe('a role', () => {
  interface Relation {
    oid: number;
    name: string;
    kind: string;
    /** Of a chunk its hypertable. */
    table: string;
  }
  let relations: Relation[];
  const logins = ['obs_api', 'obs_worker', 'obs_queue'];
  const definers = ['obs_api_definer', 'obs_job_definer'];
  // Ingest, with COPY.
  const direct = ['obs_api INSERT obs.sample', 'obs_api INSERT obs.log'];

  beforeAll(async () => {
    relations = await api.sql<Relation[]>`
      select c.oid::int as oid, c.oid::regclass::text as name, c.relkind::text as kind,
        coalesce(h.hypertable_schema || '.' || h.hypertable_name, c.oid::regclass::text) as table
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      left join timescaledb_information.chunks h on h.chunk_schema = n.nspname and h.chunk_name = c.relname
      where c.relkind in ('r', 'p', 'v', 'm', 'f') and (n.nspname in ('obs', 'graphile_worker') or h.chunk_name is not null)`;
  });

  test('that logs in may do to tables what ingest needs, and nothing else', async () => {
    expect(relations.filter(({ name, table }) => name !== table).length).toBeGreaterThan(5);
    expect(relations.length).toBeGreaterThan(40);
    const found = await api.sql<{ role: string; privilege: string; oid: number }[]>`
      select r.role, p.privilege, c.oid::int as oid
      from unnest(${logins}::text[]) as r (role)
      cross join unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) as p (privilege)
      cross join unnest(${relations.map(({ oid }) => oid)}::int[]) as c (oid)
      where has_table_privilege(r.role, c.oid::oid, p.privilege)
        or case when p.privilege in ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES') then has_any_column_privilege(r.role, c.oid::oid, p.privilege) end`;
    const byOid = new Map(relations.map((relation) => [relation.oid, relation]));
    const may = new Set(
      found
        .map(({ role, privilege, oid }) => ({ role, privilege, table: byOid.get(oid)!.table }))
        // The queue's own tables, and nothing of anyone's.
        .filter(({ role, table }) => role !== 'obs_queue' || !table.startsWith('graphile_worker.'))
        .map(({ role, privilege, table }) => `${role} ${privilege} ${table}`),
    );
    expect([...may].toSorted()).toEqual(direct.toSorted());
  });

  test('that logs in may use no sequence, and no function but those of its schema', async () => {
    const sequences = await api.sql`
      select r.role, c.oid::regclass::text as name
      from unnest(${['obs_api', 'obs_worker']}::text[]) as r (role)
      cross join pg_class c
      where c.relkind = 'S' and c.relnamespace in ('obs'::regnamespace, 'graphile_worker'::regnamespace)
        and (has_sequence_privilege(r.role, c.oid, 'USAGE') or has_sequence_privilege(r.role, c.oid, 'UPDATE')
          or has_sequence_privilege(r.role, c.oid, 'SELECT'))`;
    expect([...sequences]).toEqual([]);
    const reachable = await api.sql<{ role: string; schema: string; definer: boolean }[]>`
      select distinct r.role, n.nspname as schema, p.prosecdef as definer
      from unnest(${logins}::text[]) as r (role)
      cross join pg_proc p
      join pg_namespace n on n.oid = p.pronamespace
      where n.nspname in ('api', 'job', 'lib', 'queue', 'obs', 'graphile_worker')
        and has_schema_privilege(r.role, n.oid, 'USAGE') and has_function_privilege(r.role, p.oid, 'EXECUTE')
        -- Those of obs that run with the rights of their caller give it none.
        and (n.nspname <> 'obs' or p.prosecdef)
      order by 1, 2`;
    expect(
      reachable.filter(({ role }) => role !== 'obs_queue').map(({ role, schema }) => `${role} ${schema}`),
    ).toEqual(['obs_api api', 'obs_worker job']);
    expect(new Set(reachable.filter(({ role }) => role === 'obs_queue').map(({ schema }) => schema))).toEqual(
      new Set(['graphile_worker', 'queue']),
    );
  });

  test('that logs in is a member of no other, and creates nothing', async () => {
    const members = await api.sql`
      select r.role, o.rolname as of
      from unnest(${[...logins, ...definers]}::text[]) as r (role)
      join pg_roles o on o.rolname <> r.role and pg_has_role(r.role, o.oid, 'MEMBER')`;
    expect([...members]).toEqual([]);
    const creates = await api.sql`
      select r.role, n.nspname as schema
      from unnest(${[...logins, ...definers]}::text[]) as r (role)
      join pg_namespace n on has_schema_privilege(r.role, n.oid, 'CREATE')
      where (r.role, n.nspname) <> ('obs_queue', 'graphile_worker') and n.nspname !~ '^pg_(toast_)?temp'`;
    expect([...creates]).toEqual([]);
    const databases = await api.sql`
      select r.role from unnest(${[...logins, ...definers]}::text[]) as r (role)
      where has_database_privilege(r.role, current_database(), 'CREATE')`;
    expect([...databases]).toEqual([]);
  });

  test('that functions run as owns them, and they alone', async () => {
    const owners = await api.sql<{ schema: string; owner: string; definer: boolean }[]>`
      select distinct n.nspname as schema, p.proowner::regrole::text as owner, p.prosecdef as definer
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace
      where n.nspname in ('api', 'job', 'queue') or n.nspname = 'obs' and p.prosecdef
      order by 1`;
    const owner = owners.find(({ schema }) => schema === 'obs')!.owner;
    expect(owners.map((row) => ({ ...row }))).toEqual([
      { schema: 'api', owner: 'obs_api_definer', definer: true },
      { schema: 'job', owner: 'obs_job_definer', definer: true },
      { schema: 'obs', owner, definer: true },
      { schema: 'queue', owner: 'obs_queue', definer: true },
    ]);
    // Security definer as the owner of the tables: row security does not bind these. None of them tells of rows.
    const mighty = await api.sql<{ name: string; api: boolean }[]>`
      select p.proname as name, has_function_privilege('obs_api_definer', p.oid, 'EXECUTE') as api
      from pg_proc p where p.pronamespace = 'obs'::regnamespace and p.prosecdef`;
    expect(
      mighty
        .filter(({ api }) => api)
        .map(({ name }) => name)
        .toSorted(),
    ).toEqual(['alert_lag', 'probe_lag']);
  });

  test('can change no line of the audit log', async () => {
    const chunks = relations.filter(({ table }) => table === 'obs.audit_event');
    expect(chunks.length).toBeGreaterThan(1);
    for (const { oid, name } of chunks) {
      const [may] = await api.sql`
        select coalesce(bool_or(has_table_privilege(r, ${oid}::oid, p)), false) as table,
          coalesce(bool_or(p = 'UPDATE' and has_any_column_privilege(r, ${oid}::oid, p)), false) as column
        from unnest(${[...logins, ...definers]}::text[]) as r
        cross join unnest(array['UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER', 'REFERENCES']) as p`;
      expect(may, name).toEqual({ table: false, column: false });
    }
    const [worker] = await api.sql`
      select bool_or(has_table_privilege('obs_job_definer', 'obs.audit_event', p)) as may
      from unnest(array['SELECT', 'INSERT']) as p`;
    expect(worker).toEqual({ may: false });
    for (const role of definers)
      for (const statement of [
        "update obs.audit_event set actor = 'nobody'",
        'delete from obs.audit_event',
        'truncate obs.audit_event',
        `select public.drop_chunks('obs.audit_event', older_than => now() + interval '1 day')`,
        `truncate ${chunks.find(({ name, table }) => name !== table)!.name}`,
      ])
        await expect(
          as(role, theirs.orgId!, (sql) => sql.unsafe(statement)),
          `${role}: ${statement}`,
        ).rejects.toThrow(/permission denied|must be owner/);
  });

  /** Runs something as a role, for an org, and takes it back. */
  async function as<T>(
    role: string,
    orgId: string,
    work: (sql: postgres.TransactionSql) => Promise<T>,
  ): Promise<T> {
    let result: T;
    const done = new Error('done');
    await api.sql
      .begin(async (sql) => {
        await sql.unsafe(`set local role ${role}`);
        await sql`select set_config('obs.org_id', ${orgId}, true)`;
        result = await work(sql);
        throw done;
      })
      .catch((error) => {
        if (error !== done) throw error;
      });
    return result!;
  }

  describe('of the functions of api', () => {
    // One flush holds rows of many orgs.
    const ofMany = ['log_arrival', 'dirty_range'];

    test('sees in tables rows of the org that is set, and writes none of another', async () => {
      const tables = await api.sql<{ name: string; owner: string; columns: string[] }[]>`
        select c.relname as name, case when bool_or(a.attname = 'org_id') then 'org_id' when c.relname = 'org' then 'id' else 'org' end as owner,
          array_agg(a.attname::text order by a.attnum) filter (where a.attgenerated = '') as columns
        from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'obs'::regnamespace and c.relkind = 'r' and c.relrowsecurity and c.relname <> 'probe_worker'
        group by c.oid, c.relname`;
      expect(tables.length).toBeGreaterThan(20);
      for (const { name, owner, columns } of tables) {
        const table = api.sql(`obs.${name}`);
        const ownerOf = (t: Things) => (owner === 'org' ? t.org! : t.orgId!);
        const [row] = await api.sql<{ row: string; n: number }[]>`
          select min(to_jsonb(t)::text) as row, count(*)::int as n from ${table} t where ${api.sql(owner)}::text = ${ownerOf(theirs)}`;
        expect(row!.n, name).toBeGreaterThan(0);
        const count = (orgId: string) =>
          as('obs_api_definer', orgId, async (sql) => {
            const [found] = await sql<{ theirs: number; others: number }[]>`
              select count(*) filter (where ${sql(owner)}::text = ${ownerOf(theirs)})::int as theirs, count(*)::int as all
              from ${sql(`obs.${name}`)}`;
            return { ...found };
          });
        expect.soft(await count(theirs.orgId!), name).toEqual({ theirs: row!.n, all: row!.n });
        expect.soft((await count(own.orgId!)).theirs, name).toBe(0);
        for (const nobody of ['', '-1', '0', '2147483647'])
          expect.soft(await count(nobody), name).toEqual({ theirs: 0, all: 0 });

        const list = columns.map((column) => `"${column}"`).join(', ');
        const insert = as('obs_api_definer', own.orgId!, (sql) =>
          sql.unsafe(
            `insert into obs.${name} (${list}) overriding system value select ${list} from jsonb_populate_record(null::obs.${name}, $1::text::jsonb)`,
            [row!.row],
          ),
        ).then(
          () => 'done',
          ({ code }) => code,
        );
        // That it is there already says that it was let in.
        if (ofMany.includes(name)) expect.soft(['done', '23505'], name).toContain(await insert);
        else expect.soft(await insert, name).toBe('42501');
        // Its lines can be changed by no one: see above. (To try has TimescaleDB fail before it asks for the right.)
        if (name === 'audit_event') continue;
        const written = (statement: string, values: string[] = []) =>
          as('obs_api_definer', own.orgId!, (sql) => sql.unsafe(statement, values)).then(
            ({ count }) => count,
            ({ code }) => code,
          );
        const theirRow = `${owner}::text = '${ownerOf(theirs)}'`;
        expect.soft([0, '42501'], name).toContain(await written(`delete from obs.${name} where ${theirRow}`));
        expect
          .soft([0, '42501'], name)
          .toContain(
            await written(
              `update obs.${name} set ${columns.find((column) => column !== 'id')} = default where ${theirRow}`,
            ),
          );
        // To the other's side.
        if (owner !== 'id')
          expect
            .soft(await written(`update obs.${name} set ${owner} = '${ownerOf(theirs)}'`), name)
            .toBe('42501');
      }
    });
  });
});
