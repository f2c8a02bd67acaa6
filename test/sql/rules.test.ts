// Rules, alerts and notifications as tables of (minute, value, expected state, expected notification), each told thrice: as it should
// be, with two workers that do everything at once, and with a worker that dies at every delivery.
import postgres from 'postgres';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { parseConfig } from '../../src/config.ts';
import { expressionFields } from '../../src/routes/expressions.ts';
import { parseRule } from '../../src/rules/expression.ts';
import { useDatabase } from '../support/database.ts';
import { jwtSecret } from '../support/process.ts';
import { type Fate, type Sent, tell } from '../support/story.ts';

const database = useDatabase();
let api: postgres.Sql;
let worker: postgres.Sql;
beforeAll(async () => {
  const config = parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret });
  api = postgres(config.apiDatabaseUrl, { max: 2, onnotice: () => {} });
  worker = postgres(config.workerDatabaseUrl, { max: 4, onnotice: () => {} });
});
afterAll(async () => {
  await Promise.all([api?.end(), worker?.end()]);
});

let orgId: number;
let orgs = 0;
beforeEach(async () => {
  [{ id: orgId }] = (await api`select api.ensure_org(${`org-${++orgs}`}) as id`) as unknown as [
    { id: number },
  ];
});

// Minutes of some hours ago: nothing here reads the clock but what makes definitions.
const start = Math.floor(Date.now() / 3_600_000 - 12) * 3_600_000;
const begin = (fate: Fate = 'well') => tell({ sql: database.sql, api, worker, orgId, start, fate });

/** Notifications in short: what of each alert is told. */
const brief = (sent: Sent[]) =>
  sent.map(({ alerts }) => alerts.map(({ status, severity }) => `${status} ${severity}`).join(', '));

// Minute, value of the minute before it (null: no sample), status of the alerts, what is told. Anything else is done before.
type Row = [number, number | null, string, string?];
interface Table {
  title: string;
  expression: string;
  rule?: Record<string, unknown>;
  channel?: Record<string, unknown>;
  rows: Row[];
  before?: Record<number, (story: ReturnType<typeof begin>) => Promise<unknown>>;
}

const hot = 'avg(temperature[1m]) > 50';
const tables: Table[] = [
  {
    title: 'fires at once, and is resolved at once',
    expression: hot,
    rows: [
      [0, 40, ''],
      [1, 60, 'firing', 'firing warning'],
      [2, 60, 'firing'],
      [3, 50, 'resolved', 'resolved warning'],
      [4, 40, ''],
    ],
  },
  {
    title: 'for: is pending first, and fires once the condition has held that long',
    expression: `${hot} for 3m`,
    rows: [
      [0, 60, 'pending'],
      [1, 60, 'pending'],
      [2, 60, 'pending'],
      [3, 60, 'firing', 'firing warning'],
      [4, 40, 'resolved', 'resolved warning'],
    ],
  },
  {
    title: 'for: a condition that is gone before its time leaves nothing behind, and begins anew',
    expression: `${hot} for 2m`,
    rows: [
      [0, 60, 'pending'],
      [1, 60, 'pending'],
      [2, 40, ''],
      [3, 60, 'pending'],
      [4, 60, 'pending'],
      [5, 60, 'firing', 'firing warning'],
    ],
  },
  {
    title: 'keep_firing_for: is resolved once the condition has been gone that long',
    expression: hot,
    rule: { keep_firing_for_seconds: 180 },
    rows: [
      [0, 60, 'firing', 'firing warning'],
      [1, 40, 'firing'],
      [2, 40, 'firing'],
      [3, 60, 'firing'],
      [4, 40, 'firing'],
      [5, 40, 'firing'],
      [6, 40, 'firing'],
      [7, 40, 'resolved', 'resolved warning'],
    ],
  },
  {
    title: 'flapping with keep_firing_for is one alert',
    expression: hot,
    rule: { keep_firing_for_seconds: 120 },
    rows: [
      [0, 60, 'firing', 'firing warning'],
      ...Array.from({ length: 8 }, (_, i): Row => [i + 1, i % 2 ? 60 : 40, 'firing']),
      [9, 40, 'firing'],
      [10, 40, 'firing'],
      [11, 40, 'resolved', 'resolved warning'],
    ],
  },
  {
    title: 'flapping without it is an alert each time',
    expression: hot,
    rows: [
      [0, 60, 'firing', 'firing warning'],
      [1, 40, 'resolved', 'resolved warning'],
      [2, 60, 'firing', 'firing warning'],
      [3, 40, 'resolved', 'resolved warning'],
    ],
  },
  {
    title: 'no_data ok: no samples, no alert',
    expression: hot,
    rows: [
      [0, 60, 'firing', 'firing warning'],
      [1, null, 'resolved', 'resolved warning'],
      [2, null, ''],
      [3, 60, 'firing', 'firing warning'],
    ],
  },
  {
    title: 'no_data keep: nothing changes',
    expression: `${hot} for 2m`,
    rule: { no_data: 'keep' },
    rows: [
      [0, null, ''],
      [1, 60, 'pending'],
      [2, null, 'pending'],
      [3, null, 'pending'],
      [4, 60, 'firing', 'firing warning'],
      [5, null, 'firing'],
      [6, null, 'firing'],
      [7, 40, 'resolved', 'resolved warning'],
      [8, null, ''],
    ],
  },
  {
    title: 'no_data alert: silence is a reason to fire',
    expression: `${hot} for 1m`,
    rule: { no_data: 'alert' },
    rows: [
      [0, 40, ''],
      [1, null, 'pending'],
      [2, null, 'firing', 'firing warning'],
      [3, 60, 'firing'],
      [4, null, 'firing'],
      [5, 40, 'resolved', 'resolved warning'],
    ],
  },
  {
    title: 'absent: fires when nothing comes',
    expression: 'absent(temperature[1m]) for 1m',
    rows: [
      [0, 1, ''],
      [1, null, 'pending'],
      [2, null, 'firing', 'firing warning'],
      [3, 1, 'resolved', 'resolved warning'],
    ],
  },
  {
    title: 'acknowledged: is not told again, and is resolved like any other',
    expression: hot,
    channel: { repeat_interval_seconds: 120 },
    before: { 3: (story) => story.change('acknowledged', 3, 'rule') },
    rows: [
      [0, 60, 'firing', 'firing warning'],
      [1, 60, 'firing'],
      [2, 60, 'firing', 'firing warning'],
      [3, 60, 'acknowledged'],
      [4, 60, 'acknowledged'],
      [5, 60, 'acknowledged'],
      [6, 40, 'resolved', 'resolved warning'],
    ],
  },
  {
    title: 'resolved by hand while the condition holds: for begins anew',
    expression: `${hot} for 2m`,
    before: { 3: (story) => story.change('resolved', 3, 'rule') },
    rows: [
      [0, 60, 'pending'],
      [2, 60, 'firing', 'firing warning'],
      // Resolved, and pending again.
      [3, 60, 'pending, resolved', 'resolved warning'],
      [4, 60, 'pending'],
      [5, 60, 'firing', 'firing warning'],
    ],
  },
  {
    title: 'repeat interval: what still fires is told again',
    expression: hot,
    channel: { repeat_interval_seconds: 180 },
    rows: [
      [0, 60, 'firing', 'firing warning'],
      [1, 60, 'firing'],
      [2, 60, 'firing'],
      [3, 60, 'firing', 'firing warning'],
      [5, 60, 'firing'],
      [6, 60, 'firing', 'firing warning'],
      [7, 40, 'resolved', 'resolved warning'],
      [20, 40, ''],
    ],
  },
  {
    title: 'send_resolved false: the end is not told',
    expression: hot,
    channel: { send_resolved: false },
    rows: [
      [0, 60, 'firing', 'firing warning'],
      [1, 40, 'resolved'],
      [2, 60, 'firing', 'firing warning'],
    ],
  },
  {
    title: 'resolved before anybody was told: nobody is',
    expression: hot,
    channel: { group_wait_seconds: 90 },
    rows: [
      [0, 60, 'firing'],
      [1, 40, 'resolved'],
      [2, 40, ''],
      [3, 60, 'firing'],
      [4, 60, 'firing'],
      [5, 60, 'firing', 'firing warning'],
    ],
  },
  {
    title: 'group interval: not told more often than that',
    expression: hot,
    channel: { group_interval_seconds: 180 },
    rows: [
      [0, 60, 'firing', 'firing warning'],
      [1, 40, 'resolved'],
      [2, 60, 'firing'],
      [3, 60, 'firing', 'firing warning, resolved warning'],
      [4, 40, 'resolved'],
      [6, 40, '', 'resolved warning'],
    ],
  },
  {
    title: 'a silence: not told while it lasts, told when it is over',
    expression: hot,
    before: {
      1: (story) =>
        story.put('silence', {
          matchers: story.matchers('alertname="rule"'),
          starts_at: story.at(1),
          ends_at: story.at(4),
        }),
    },
    rows: [
      [0, 40, ''],
      [1, 60, 'firing'],
      [2, 60, 'firing'],
      [3, 60, 'firing'],
      [4, 60, 'firing', 'firing warning'],
      [5, 40, 'resolved', 'resolved warning'],
    ],
  },
  {
    title: 'a silence of an alert that was told: no repeats, but its end',
    expression: hot,
    channel: { repeat_interval_seconds: 60 },
    before: {
      1: (story) =>
        story.put('silence', {
          matchers: story.matchers('severity=~"warn.*"'),
          starts_at: story.at(1),
          ends_at: story.at(20),
        }),
    },
    rows: [
      [0, 60, 'firing', 'firing warning'],
      [1, 60, 'firing'],
      [2, 60, 'firing'],
      [3, 40, 'resolved', 'resolved warning'],
      [4, 60, 'firing'],
      [5, 40, 'resolved'],
    ],
  },
  {
    title: 'a silence of others has no effect',
    expression: hot,
    before: {
      0: (story) =>
        story.put('silence', {
          matchers: story.matchers('alertname="other"'),
          starts_at: story.at(0),
          ends_at: story.at(9),
        }),
    },
    rows: [[0, 60, 'firing', 'firing warning']],
  },
  {
    title: 'escalation: told again, then raised, until it is acknowledged',
    expression: hot,
    before: {
      0: (story) =>
        story.put('escalation', {
          name: 'policy',
          steps: [{ after_minutes: 2 }, { after_minutes: 4, severity: 'critical' }, { after_minutes: 6 }],
        }),
      5: (story) => story.change('acknowledged', 5, 'rule'),
    },
    rows: [
      [0, 60, 'firing', 'firing warning'],
      [1, 60, 'firing'],
      [2, 60, 'firing', 'firing warning'],
      [3, 60, 'firing'],
      [4, 60, 'firing', 'firing critical'],
      [5, 60, 'acknowledged'],
      [6, 60, 'acknowledged'],
      [8, 40, 'resolved', 'resolved critical'],
    ],
  },
  {
    title: 'escalation by default: a warning becomes critical after an hour',
    expression: hot,
    rows: [
      [0, 60, 'firing', 'firing warning'],
      [59, 60, 'firing'],
      [60, 60, 'firing', 'firing critical'],
      [89, 60, 'firing'],
      [90, 60, 'firing', 'firing critical'],
      [200, 60, 'firing'],
    ],
  },
  {
    title: 'escalation waits while nobody is told',
    expression: hot,
    before: {
      0: async (story) => {
        await story.put('escalation', {
          name: 'policy',
          steps: [{ after_minutes: 3, severity: 'critical' }],
        });
        await story.put('silence', {
          matchers: story.matchers('alertname="rule"'),
          starts_at: story.at(1),
          ends_at: story.at(5),
        });
      },
    },
    rows: [
      [0, 60, 'firing', 'firing warning'],
      [3, 60, 'firing'],
      [5, 60, 'firing'],
      [7, 60, 'firing'],
      [8, 60, 'firing', 'firing critical'],
    ],
  },
];

describe.each(['well', 'two workers', 'dies at every delivery'] as const)('when all goes %s', (fate) => {
  test.each(tables.map((table) => [table.title, table] as const))('%s', async (_title, table) => {
    const story = begin(fate);
    await story.channel('hook', table.channel);
    await story.rule('rule', table.expression, table.rule);
    const told: Row[] = [];
    for (const [minute, value] of table.rows) {
      await table.before?.[minute]?.(story);
      await story.record(minute, value);
      await story.work(minute);
      const sent = brief(await story.deliver(minute));
      const states = (await story.states(minute)).sort().join(', ');
      told.push(sent.length > 0 ? [minute, value, states, sent.join('; ')] : [minute, value, states]);
    }
    expect(told).toEqual(table.rows);
    // Every alert's history leads from status to status.
    const events = await database.sql<
      { alert_id: string; from_status: string; to_status: string; event: string }[]
    >`
      select alert_id, from_status, to_status, event from obs.alert_event
      where org_id = ${orgId} and event in ('pending', 'firing', 'acknowledged', 'resolved') order by alert_id, id`;
    events.forEach((event, i) => {
      const before = events[i - 1];
      expect(event.from_status).toBe(before?.alert_id === event.alert_id ? before.to_status : 'inactive');
    });
    const [twice] = await database.sql<{ n: number }[]>`
      select count(*)::int as n from (
        select from obs.alert where org_id = ${orgId} and status <> 'resolved' group by fingerprint having count(*) > 1) d`;
    expect(twice!.n).toBe(0);
    const attempts = await database.sql<{ attempts: number; status: string }[]>`
      select attempts, status from obs.notification where org_id = ${orgId}`;
    for (const attempt of attempts)
      expect(attempt).toEqual({ attempts: fate === 'dies at every delivery' ? 2 : 1, status: 'delivered' });
  });
});

describe('groups of series', () => {
  test('each is an alert of its own, with its labels, and its service', async () => {
    const story = begin();
    await story.channel('hook');
    await story.rule('hot', 'max by (service, rack) (temperature[1m]) > 50', {
      labels: { team: 'ops-{{ $labels.rack }}' },
      annotations: {
        summary:
          '{{ $labels.service }} in {{ $labels.rack }}: {{ $value }} ({{ $labels.severity }}{{ $labels.none }})',
      },
    });
    for (const [rack, value, service] of [
      ['r1', 60.123456789, 'a'],
      ['r2', 40, 'a'],
      ['r2', 70, 'b'],
    ] as const)
      await story.record(1, value, { rack }, 'temperature', service);
    await story.work(1);
    const alerts = await database.sql<Record<string, unknown>[]>`
      select service_name, labels, annotations, description, value, source, group_labels from obs.alert where org_id = ${orgId} order by service_name`;
    expect(alerts).toEqual([
      {
        service_name: 'a',
        labels: { rack: 'r1', service: 'a', team: 'ops-r1' },
        annotations: { summary: 'a in r1: 60.1235 (warning)' },
        description: 'a in r1: 60.1235 (warning)',
        value: 60.123456789,
        source: 'rule',
        group_labels: { rack: 'r1', service: 'a' },
      },
      expect.objectContaining({ service_name: 'b', description: 'b in r2: 70 (warning)' }),
    ]);
    expect(await story.deliver(1)).toHaveLength(2);
    // One goes on, one ends.
    await story.record(2, 90, { rack: 'r2' }, 'temperature', 'b');
    await story.record(2, 1, { rack: 'r1' }, 'temperature', 'a');
    await story.work(2);
    expect(brief(await story.deliver(2))).toEqual(['resolved warning']);
    const [open] =
      await database.sql`select value, annotations from obs.alert where org_id = ${orgId} and status = 'firing'`;
    expect(open).toMatchObject({ value: 90, annotations: { summary: 'b in r2: 90 (warning)' } });
  });

  test('a group that falls silent is told of with no_data alert, and forgotten after a day', async () => {
    const story = begin();
    await story.rule('hot', 'max by (host) (temperature[1m]) > 50', { no_data: 'alert' });
    const open = async () =>
      (
        await database.sql<{ host: string }[]>`
          select coalesce(group_labels ->> 'host', '-') as host from obs.alert where org_id = ${orgId} and status = 'firing' order by 1`
      ).map(({ host }) => host);
    // Nothing at all is no data, too.
    await story.work(0);
    expect(await open()).toEqual(['-']);
    await story.record(1, 40, { host: 'a' });
    await story.record(1, 40, { host: 'b' });
    await story.work(1);
    expect(await open()).toEqual([]);
    await story.record(2, 40, { host: 'b' });
    await story.work(2);
    expect(await open()).toEqual(['a']);
    await story.record(1439, 40, { host: 'b' });
    await story.work(1439);
    expect(await open()).toEqual(['a']);
    await story.record(1442, 40, { host: 'b' });
    await story.work(1442);
    expect(await open()).toEqual([]);
  });

  test('conditions on several, grouped and not', async () => {
    const story = begin();
    await story.rule(
      'share',
      'sum by (host) (errors[1m]) / sum by (host) (requests[1m]) > 0.1 and sum(requests[1m]) > 50',
    );
    await story.rule('either', 'max by (host) (errors[1m]) >= 9 or max by (host) (requests[1m]) < 20');
    await story.rule('above', 'max by (host) (requests[1m]) > 1.5 * avg(requests[1m])');
    await story.rule(
      'never',
      'max by (host) (errors[1m]) / (max by (host) (requests[1m]) - max by (host) (requests[1m])) > 0',
    );
    for (const [host, errors, requests] of [
      ['a', 5, 100],
      ['b', 9, 30],
      ['c', null, 10],
      ['d', 3, null],
    ] as const) {
      await story.record(1, errors, { host }, 'errors');
      await story.record(1, requests, { host }, 'requests');
    }
    await story.work(1);
    const rows = await database.sql<{ name: string; host: string; value: number }[]>`
      select name, group_labels ->> 'host' as host, value from obs.alert where org_id = ${orgId} order by name, host`;
    expect(rows.map(({ name, host, value }) => [name, host, value])).toEqual([
      ['above', 'a', 100],
      ['either', 'b', 9],
      ['either', 'c', 10],
      ['share', 'b', 0.3],
    ]);
  });

  test('matchers choose series', async () => {
    const story = begin();
    const series: [string, object, string][] = [
      ['web-1', { host: 'web-1', env: 'prod' }, 'auth'],
      ['web-2', { host: 'web-2', env: 'test' }, 'auth'],
      ['db-1', { host: 'db-1' }, 'db'],
      ['own', { host: 'own', service: 'auth' }, ''],
    ];
    for (const [, labels, service] of series) await story.record(1, 60, labels, 'temperature', service);
    const cases: [string, string[]][] = [
      ['', ['db-1', 'own', 'web-1', 'web-2']],
      ['{service="auth"}', ['own', 'web-1', 'web-2']],
      ['{service_name="auth"}', ['web-1', 'web-2']],
      ['{env="prod"}', ['web-1']],
      ['{env=""}', ['db-1', 'own']],
      ['{env!="prod"}', ['db-1', 'own', 'web-2']],
      ['{host=~"web-.*", env!~"t.*"}', ['web-1']],
      ['{host=~"web"}', []],
      ['{service!="auth"}', ['db-1']],
      ['{host="web-1", host="web-2"}', []],
    ];
    for (const [i, [matchers]] of cases.entries())
      await story.rule(`case ${i}`, `max by (host) (temperature${matchers}[1m]) > 50`);
    await story.work(1);
    for (const [i, [matchers, hosts]] of cases.entries()) {
      const rows = await database.sql<{ host: string }[]>`
        select group_labels ->> 'host' as host from obs.alert where org_id = ${orgId} and name = ${`case ${i}`} order by 1`;
      expect(
        rows.map(({ host }) => host),
        matchers,
      ).toEqual(hosts);
    }
  });
});

describe('late data', () => {
  test('is missed without an evaluation delay, and seen with one', async () => {
    const story = begin();
    await story.rule('at once', 'count(temperature[1m]) > 1');
    await story.rule('patient', 'count(temperature[1m]) > 1', { evaluation_delay_seconds: 120 });
    await story.record(1, 40);
    await story.work(1);
    // Recorded at the minute after, for this one.
    await story.record(1, 40);
    await story.work(2);
    expect(await story.states(2)).toEqual([]);
    await story.work(3);
    const [alert] = await database.sql`select name, status from obs.alert where org_id = ${orgId}`;
    expect(alert).toEqual({ name: 'patient', status: 'firing' });
  });
});

describe('an alert of a client with a rule', () => {
  test('is resolved by the rule once its condition has held, not before', async () => {
    const story = begin();
    const id = await story.rule('hot', hot);
    await database.sql`
      select lib.open_alert(
        ${orgId}, 'api', lib.rule_fingerprint(${id}, '{}'), 'hot', 'warning', 'says a person', null, '{}', null, 'me', ${story.at(0)}, ${id})`;
    await story.record(0, 40);
    await story.work(0);
    expect(await story.states(0)).toEqual(['firing']);
    await story.record(1, 60);
    await story.work(1);
    expect(await story.states(1)).toEqual(['firing']);
    await story.record(2, 40);
    await story.work(2);
    expect(await story.states(2)).toEqual(['resolved']);
    const [alert] = await database.sql`select description, value from obs.alert where org_id = ${orgId}`;
    expect(alert).toEqual({ description: 'says a person', value: 60 });
  });
});

describe('an alert of a client with a rule that groups', () => {
  test('is resolved once some group has held and none does any more', async () => {
    const story = begin();
    const id = await story.rule('hot', 'max by (host) (temperature[1m]) > 50');
    await database.sql`
      select lib.open_alert(
        ${orgId}, 'api', lib.rule_fingerprint(${id}, '{}'), 'hot', 'warning', null, null, '{}', null, 'me', ${story.at(0)}, ${id})`;
    for (const [minute, a, b, states] of [
      [0, 40, 40, 'firing'],
      [1, 60, 40, 'firing, firing'],
      [2, 40, 60, 'firing, firing, resolved'],
      [3, 40, 40, 'resolved, resolved'],
    ] as const) {
      await story.record(minute, a, { host: 'a' });
      await story.record(minute, b, { host: 'b' });
      await story.work(minute);
      expect((await story.states(minute)).sort().join(', ')).toBe(states);
    }
  });
});

describe('grouping', () => {
  test('alerts that share labels come in one message, those that come within its wait together', async () => {
    const story = begin();
    await story.channel('hook', { group_by: ['dc'], group_wait_seconds: 120, group_interval_seconds: 300 });
    await story.open('one', 'warning', 0, { labels: { dc: 'x' } });
    await story.open('two', 'critical', 1, { labels: { dc: 'x' } });
    await story.open('other', 'info', 1, { labels: { dc: 'y' } });
    expect(await story.deliver(1.9)).toEqual([]);
    const first = await story.deliver(2);
    // The most severe first.
    expect(first.map(({ alerts }) => alerts.map(({ name }) => name))).toEqual([['two', 'one']]);
    expect((await story.deliver(3)).map(({ alerts }) => alerts.map(({ name }) => name))).toEqual([['other']]);
    await story.change('resolved', 4, 'one');
    await story.open('three', 'warning', 4, { labels: { dc: 'x' } });
    expect(await story.deliver(6.9)).toEqual([]);
    const [second] = await story.deliver(7);
    expect(second!.status).toBe('firing');
    expect(second!.alerts.map(({ name, status }) => `${name} ${status}`)).toEqual([
      'two firing',
      'three firing',
      'one resolved',
    ]);
    await story.change('resolved', 8, 'two');
    await story.change('resolved', 8, 'three');
    const [last] = await story.deliver(12);
    expect(last).toMatchObject({ status: 'resolved' });
    expect(last!.alerts).toHaveLength(2);
  });

  test('a message holds a hundred alerts at most, says how many more there are, and another tells of those', async () => {
    const story = begin();
    await story.channel('hook', { group_by: [] });
    for (let i = 0; i < 120; i++) await story.open(`alert ${i}`, i === 119 ? 'critical' : 'info', 0);
    const [message, next] = await story.deliver(0);
    expect(message!.alerts).toHaveLength(100);
    expect(message!.alerts[0]).toMatchObject({ name: 'alert 119' });
    expect(message).toMatchObject({ truncated_alerts: 20, summary: { firing: 120, resolved: 0 } });
    const told = (sent: Sent) => sent.alerts.map(({ name }) => name);
    expect(new Set([...told(message!), ...told(next!)]).size).toBe(120);
    // One that was told of in the second is told of when it is over, too.
    const last = told(next!).find((name) => !told(message!).includes(name))!;
    await story.change('resolved', 1, last);
    const [end] = await story.deliver(1);
    expect(end!.alerts.filter(({ status }) => status === 'resolved').map(({ name }) => name)).toEqual([last]);
  });
});

describe('routing', () => {
  test('severities, services and matchers all have to let an alert pass', async () => {
    const story = begin();
    await story.channel('all');
    await story.channel('critical', { severities: ['critical'] });
    await story.channel('auth', { service_names: ['auth', 'billing'] });
    await story.channel('prod', { matchers: story.matchers('env="prod"', 'alertname!~"test.*"') });
    await story.channel('off', { is_enabled: false });
    await story.channel('narrow', {
      severities: ['critical'],
      service_names: ['auth'],
      matchers: story.matchers('env="prod"'),
    });
    await story.open('a', 'critical', 0, { service: 'auth', labels: { env: 'prod' } });
    await story.open('b', 'warning', 0, { service: 'auth' });
    await story.open('test c', 'info', 0, { labels: { env: 'prod' } });
    const told: Record<string, string[]> = {};
    for (const { channel, alerts } of await story.deliver(0))
      told[channel] = [...(told[channel] ?? []), ...alerts.map(({ name }) => name)].sort();
    expect(told).toEqual({
      all: ['a', 'b', 'test c'],
      critical: ['a'],
      auth: ['a', 'b'],
      prod: ['a'],
      narrow: ['a'],
    });
  });
});

describe('inhibition', () => {
  test('a service that is down mutes its lesser alerts, until it is up', async () => {
    const story = begin();
    await story.channel('hook');
    await story.open('slow', 'warning', 0, { service: 'auth' });
    await story.open('down', 'critical', 0, { service: 'auth', source: 'service' });
    await story.open('other', 'warning', 0, { service: 'billing' });
    await story.open('worse', 'critical', 0, { service: 'auth' });
    const names = (sent: Sent[]) =>
      sent.flatMap(({ alerts }) => alerts.map(({ name, status }) => `${name} ${status}`)).sort();
    expect(names(await story.deliver(0))).toEqual(['down firing', 'other firing', 'worse firing']);
    expect(names(await story.deliver(5))).toEqual([]);
    await story.change('resolved', 6, 'down');
    expect(names(await story.deliver(7))).toEqual(['down resolved', 'slow firing']);
  });
});

describe('maintenance windows', () => {
  const active = async (fields: object, times: string[]) => {
    const story = begin();
    const id = await story.put('maintenance_window', { name: 'w', ...fields });
    const rows = await database.sql<{ until: Date | null }[]>`
      select lib.window_end(w, t::timestamptz) as until
      from obs.maintenance_window w, unnest(${`{${times.join()}}`}::text::text[]) with ordinality as u (t, i)
      where w.id = ${id} order by u.i`;
    return rows.map(({ until }) => until?.toISOString().replace(':00.000Z', 'Z') ?? null);
  };

  test('once', async () => {
    expect(
      await active({ starts_at: '2026-11-25T10:00:00Z', ends_at: '2026-11-25T12:00:00Z' }, [
        '2026-11-25T09:59:59Z',
        '2026-11-25T10:00:00Z',
        '2026-11-25T11:59:59Z',
        '2026-11-25T12:00:00Z',
        '2026-11-26T11:00:00Z',
      ]),
    ).toEqual([null, '2026-11-25T12:00Z', '2026-11-25T12:00Z', null, null]);
  });

  test('daily in a time zone, at the same reading of its clock in summer and winter, and over midnight', async () => {
    expect(
      await active(
        {
          timezone: 'Europe/Berlin',
          repeats: 'daily',
          // 23:30 to 01:30 local.
          starts_at: '2026-03-01T22:30:00Z',
          ends_at: '2026-03-02T00:30:00Z',
          until: '2026-12-01T00:00:00Z',
        },
        [
          '2026-02-28T23:00:00Z',
          '2026-03-01T22:30:00Z',
          '2026-03-10T00:29:00Z',
          '2026-07-01T21:30:00Z',
          '2026-07-01T22:00:00Z',
          '2026-07-01T23:30:00Z',
          '2026-11-30T22:45:00Z',
          '2026-12-01T22:45:00Z',
        ],
      ),
    ).toEqual([
      null,
      '2026-03-02T00:30Z',
      '2026-03-10T00:30Z',
      '2026-07-01T23:30Z',
      '2026-07-01T23:30Z',
      null,
      '2026-12-01T00:30Z',
      null,
    ]);
  });

  test('weekly on weekdays, and monthly', async () => {
    const weekly = { repeats: 'weekly', starts_at: '2026-11-23T02:00:00Z', ends_at: '2026-11-23T04:00:00Z' };
    const days = ['2026-11-23', '2026-11-24', '2026-11-28', '2026-11-30', '2026-12-05'].map(
      (day) => `${day}T03:00:00Z`,
    );
    expect((await active(weekly, days)).map(Boolean)).toEqual([true, false, false, true, false]);
    await database.sql`delete from obs.maintenance_window`;
    expect((await active({ ...weekly, weekdays: [1, 6] }, days)).map(Boolean)).toEqual([
      true,
      false,
      true,
      true,
      true,
    ]);
    await database.sql`delete from obs.maintenance_window`;
    expect(
      (
        await active(
          { repeats: 'monthly', starts_at: '2026-01-31T02:00:00Z', ends_at: '2026-02-02T02:00:00Z' },
          [
            '2026-02-01T12:00:00Z',
            '2026-02-28T12:00:00Z',
            '2026-03-31T12:00:00Z',
            '2026-04-01T12:00:00Z',
            '2026-04-30T12:00:00Z',
          ],
        )
      ).map(Boolean),
    ).toEqual([true, false, true, true, false]);
  });

  test('nobody is notified while one lasts', async () => {
    const story = begin();
    await story.channel('hook');
    await story.put('maintenance_window', {
      name: 'upgrade',
      matchers: story.matchers('service="auth"'),
      starts_at: story.at(0),
      ends_at: story.at(10),
    });
    await story.open('a', 'warning', 1, { service: 'auth' });
    await story.open('b', 'warning', 1, { service: 'billing' });
    expect((await story.deliver(1)).flatMap(({ alerts }) => alerts.map(({ name }) => name))).toEqual(['b']);
    expect(await story.deliver(9)).toEqual([]);
    expect((await story.deliver(10)).flatMap(({ alerts }) => alerts.map(({ name }) => name))).toEqual(['a']);
  });
});

describe('escalation', () => {
  test('adds channels, whatever their routing, which hear of the end too', async () => {
    const story = begin();
    await story.channel('team');
    const boss = await story.channel('boss', { severities: ['critical'] });
    await story.put('escalation', {
      name: 'boss',
      severities: ['warning'],
      steps: [{ after_minutes: 10, channel_ids: [boss] }],
    });
    await story.open('a', 'warning', 0);
    await story.open('b', 'info', 0);
    const channels = (sent: Sent[]) =>
      sent.map(({ channel, alerts }) => `${channel} ${alerts.map(({ name }) => name)}`).sort();
    expect(channels(await story.deliver(0))).toEqual(['team a', 'team b']);
    await story.work(10);
    expect(channels(await story.deliver(10))).toEqual(['boss a', 'team a']);
    await story.work(30);
    expect(await story.deliver(30)).toEqual([]);
    await story.change('resolved', 31, 'a');
    expect(channels(await story.deliver(31))).toEqual(['boss a', 'team a']);
    const [event] = await database.sql`
      select details from obs.alert_event where org_id = ${orgId} and event = 'escalated'`;
    expect(event!.details).toEqual({
      escalation: 'boss',
      step: 1,
      after_minutes: 10,
      severity: 'warning',
      channels: ['boss'],
    });
  });

  test('raised severity reaches the channels of that severity', async () => {
    const story = begin();
    await story.channel('pager', { severities: ['critical'] });
    await story.open('a', 'warning', 0);
    expect(await story.deliver(0)).toEqual([]);
    await story.work(60);
    expect(brief(await story.deliver(60))).toEqual(['firing critical']);
  });
});

describe('delivery', () => {
  const claim = async (groupId: string, at: Date) =>
    (
      await worker<{ notification_id: string; attempt: number; message: Sent }[]>`
      select * from job.claim_notification(${groupId}::text::bigint, null, ${at})`
    )[0];
  const finish = async (
    claimed: { notification_id: string; attempt: number },
    at: Date,
    failure?: object,
  ) => {
    const { error = null, permanent = false, retryAfter = null } = (failure ?? {}) as Record<string, never>;
    const [row] = await worker<{ status: string }[]>`
      select job.finish_attempt(
        ${claimed.notification_id}, ${claimed.attempt}, ${!failure}, ${failure ? 500 : 200}, 3, ${error}, null, ${permanent}, ${retryAfter}, ${at}) as status`;
    return row!.status;
  };
  const group = async () =>
    (await database.sql<{ id: string }[]>`select id from obs.notification_group where org_id = ${orgId}`)[0]!
      .id;

  test('is tried again after 1, 2, 4 s and so on, five minutes at most, with the same id, and given up at last', async () => {
    const story = begin();
    await story.channel('hook', { max_attempts: 12 });
    await story.open('a', 'warning', 0);
    const id = await group();
    let now = story.at(0).getTime();
    const waits: number[] = [];
    let first: string | undefined;
    for (let attempt = 1; ; attempt++) {
      const claimed = (await claim(id, new Date(now)))!;
      first ??= claimed.notification_id;
      expect(claimed).toMatchObject({ notification_id: first, attempt });
      const status = await finish(claimed, new Date(now), { error: 'the receiver answered 500' });
      if (status === 'dead') break;
      const [row] = await database.sql<
        { next: Date }[]
      >`select next_attempt_at as next from obs.notification where id = ${first}`;
      waits.push((row!.next.getTime() - now) / 1000);
      expect(await claim(id, new Date(row!.next.getTime() - 1))).toBeUndefined();
      now = row!.next.getTime();
    }
    expect(waits).toEqual([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    const events = await database.sql`
      select event, details ->> 'error' as error from obs.alert_event where org_id = ${orgId} order by id desc limit 1`;
    expect(events[0]).toEqual({ event: 'notification_failed', error: 'the receiver answered 500' });
    // Sent again by hand it is the same notification, and has all its attempts.
    await api`select api.resend_notification(${orgId}, ${first!}, 'me')`;
    const [again] = await worker<{ notification_id: string; attempt: number }[]>`
      select * from job.claim_notification(null, ${first!}, ${new Date(now + 3_600_000 * 24)})`;
    expect(again).toMatchObject({ notification_id: first, attempt: 13 });
    expect(await finish(again!, new Date(now), undefined)).toBe('delivered');
    await expect(api`select api.resend_notification(${orgId}, ${first!}, 'me')`).rejects.toMatchObject({
      code: 'PT409',
    });
  });

  test('waits as long as the receiver asks', async () => {
    const story = begin();
    await story.channel('hook');
    await story.open('a', 'warning', 0);
    const id = await group();
    await finish((await claim(id, story.at(0)))!, story.at(0), { error: 'too many', retryAfter: 90 });
    expect(await claim(id, new Date(story.at(0).getTime() + 89_000))).toBeUndefined();
    expect(await claim(id, new Date(story.at(0).getTime() + 90_000))).toBeDefined();
  });

  test('is given up at once after an error that does not pass', async () => {
    const story = begin();
    await story.channel('hook');
    await story.open('a', 'warning', 0);
    const id = await group();
    expect(
      await finish((await claim(id, story.at(0)))!, story.at(0), { error: 'gone', permanent: true }),
    ).toBe('dead');
  });

  test('of a group comes in order, and what is new waits for what came before', async () => {
    const story = begin();
    await story.channel('hook');
    await story.open('a', 'warning', 0);
    const id = await group();
    const first = (await claim(id, story.at(0)))!;
    // While it is under way nobody else gets one.
    await story.change('resolved', 0.1, 'a');
    expect(await claim(id, story.at(0.1))).toBeUndefined();
    await finish(first, story.at(0.2), { error: 'away', retryAfter: 120 });
    const [{ pending }] = (await database.sql`
      select count(*)::int as pending from obs.notification where org_id = ${orgId} and status = 'pending'`) as unknown as [
      { pending: number },
    ];
    expect(pending).toBe(2);
    expect(await claim(id, story.at(2))).toBeUndefined();
    const retried = (await claim(id, story.at(2.2)))!;
    expect(retried.notification_id).toBe(first.notification_id);
    expect(await finish(retried, story.at(2.2))).toBe('delivered');
    const second = (await claim(id, story.at(2.2)))!;
    expect(brief([second.message])).toEqual(['resolved warning']);
    expect(await finish(second, story.at(2.2))).toBe('delivered');
  });

  test('counts once, however many think they deliver it', async () => {
    const story = begin();
    await story.channel('hook');
    await story.open('a', 'warning', 0);
    const id = await group();
    const slow = (await claim(id, story.at(0)))!;
    const other = (await claim(id, story.at(1)))!;
    expect(other).toMatchObject({ notification_id: slow.notification_id, attempt: 2 });
    expect(await finish(other, story.at(1))).toBe('delivered');
    // Comes back late, with bad news.
    expect(await finish(slow, story.at(2), { error: 'no answer' })).toBe('delivered');
    const [{ n }] =
      (await database.sql`select count(*)::int as n from obs.notification where org_id = ${orgId}`) as unknown as [
        { n: number },
      ];
    expect(n).toBe(1);
  });

  test('with what failed last still counting once the channel is disabled or deleted', async () => {
    const story = begin();
    const hook = await story.channel('hook');
    await story.open('a', 'warning', 0);
    const id = await group();
    await finish((await claim(id, story.at(0)))!, story.at(0), { error: 'away' });
    await story.put('channel', { is_enabled: false }, hook);
    expect(await claim(id, story.at(1))).toBeUndefined();
    const [dead] =
      await database.sql`select status, last_error from obs.notification where org_id = ${orgId}`;
    expect(dead).toEqual({ status: 'dead', last_error: 'the channel is not enabled' });
    await api`select api.delete_definition(${orgId}, 'channel', ${hook}, 'me')`;
    const [row] =
      await database.sql`select channel_id, channel_name from obs.notification where org_id = ${orgId}`;
    expect(row).toEqual({ channel_id: null, channel_name: 'hook' });
  });
});

describe('jobs', () => {
  test('how late they are is known', async () => {
    const story = begin();
    await database.sql`delete from obs.alert_rule`;
    await database.sql`delete from obs.channel`;
    await database.sql`delete from obs.notification`;
    const lag = async () =>
      (
        await database.sql<
          { rules: number; notifications: number }[]
        >`select * from obs.alert_lag(${story.at(10)})`
      )[0]!;
    expect(await lag()).toEqual({ rules: null, notifications: null });
    await story.channel('hook');
    await story.rule('hot', hot);
    await story.open('a', 'warning', 4);
    expect(await lag()).toEqual({ rules: 600, notifications: 360 });
    await story.work(10);
    await story.deliver(10);
    expect(await lag()).toEqual({ rules: 0, notifications: 0 });
  });

  test('lost ones are found again: of rules, groups and notifications that are late', async () => {
    const story = begin();
    const hook = await story.channel('hook');
    await story.rule('hot', hot);
    await story.open('a', 'warning', 0);
    await api`select api.test_channel(${orgId}, ${hook}, 'me')`;
    const keys = async () =>
      (
        await database.sql<{ key: string }[]>`
          select j.key from graphile_worker.jobs j
          where j.key in (
            'evaluate:' || ${orgId}::int,
            (select 'notify:' || id from obs.notification_group where org_id = ${orgId}),
            (select 'notify:' || id from obs.notification where org_id = ${orgId})
          )`
      ).length;
    expect(await keys()).toBe(3);
    await database.sql`delete from graphile_worker._private_jobs`;
    expect(await keys()).toBe(0);
    await worker`select job.heal_alerts(now() + interval '1 minute')`;
    expect(await keys()).toBe(3);
  });

  test('a rule that cannot be evaluated says why, and holds up no other', async () => {
    const story = begin();
    const good = await story.rule('good', hot);
    const bad = await story.rule('bad', hot);
    await story.record(0, 40);
    await database.sql`update obs.alert_rule set tree = jsonb_set(tree, '{selectors,0,aggregation}', '"nonsense"') where id = ${bad}`;
    await database.sql`update obs.alert_rule_state set next_evaluation_at = ${story.at(-1)} where rule_id = ${bad}`;
    await expect(worker`select job.evaluate_rules(${orgId}, ${story.at(0)})`).rejects.toMatchObject({
      code: '22023',
    });
    await expect(worker`select job.evaluate_rules(${orgId}, ${story.at(0)}, 1)`).rejects.toMatchObject({
      code: '22023',
    });
    const [first] = await worker`select * from job.first_due_rule(${orgId}, ${story.at(0)})`;
    expect(first).toEqual({ rule_id: bad, due: 2 });
    await worker`select job.fail_rule(${bad}, 'nonsense', ${story.at(0)})`;
    const [row] = await worker`select job.evaluate_rules(${orgId}, ${story.at(0)}) as n`;
    expect(row!.n).toBe(1);
    const states = await database.sql`
      select rule_id, last_error from obs.alert_rule_state where org_id = ${orgId} order by last_error nulls first`;
    expect(states.map(({ rule_id, last_error }) => [rule_id, last_error])).toEqual([
      [good, null],
      [bad, 'nonsense'],
    ]);
  });
});

describe('what must not get lost', () => {
  const told = (sent: Sent[]) =>
    sent.flatMap(({ alerts }) => alerts.map(({ name, status }) => `${name} ${status}`));

  test('a channel that is enabled again hears of what came meanwhile, and of ends', async () => {
    const story = begin();
    const hook = await story.channel('hook', { group_by: [] });
    await story.open('before', 'warning', 0);
    await story.deliver(0);
    await story.open('between', 'warning', 1);
    await story.put('channel', { is_enabled: false }, hook);
    await story.change('resolved', 2, 'before');
    expect(await story.deliver(2)).toEqual([]);
    await story.put('channel', { is_enabled: true }, hook);
    // As soon as it is looked at: now, as the clock has it.
    await database.sql`update obs.notification_group set flush_at = ${story.at(3)} where org_id = ${orgId} and flush_at is not null`;
    expect(told(await story.deliver(3))).toEqual(['between firing', 'before resolved']);
  });

  test('what nobody could be told of is told again later, and its end only to who knows of it', async () => {
    const story = begin();
    await story.channel('hook', { max_attempts: 1, group_by: [] });
    await story.open('unheard', 'warning', 0);
    await story.open('over', 'warning', 0);
    const [{ id }] =
      (await database.sql`select id from obs.notification_group where org_id = ${orgId}`) as unknown as [
        { id: string },
      ];
    const [claimed] = await worker<{ notification_id: string }[]>`
      select * from job.claim_notification(${id}::text::bigint, null, ${story.at(0)})`;
    await worker`select job.finish_attempt(${claimed!.notification_id}, 1, false, 500, 1, 'away', null, false, null, ${story.at(0)})`;
    expect(await story.deliver(14)).toEqual([]);
    // With the next word of the group, or a quarter of an hour later.
    await story.change('resolved', 14, 'over');
    expect(told(await story.deliver(15))).toEqual(['unheard firing']);
    await story.change('resolved', 16, 'unheard');
    expect(told(await story.deliver(16))).toEqual(['unheard resolved']);
  });

  test('that an alert was muted, by what, and until when, is in its history', async () => {
    const story = begin();
    await story.channel('hook');
    await story.put('silence', {
      matchers: story.matchers('alertname="a"'),
      starts_at: story.at(0),
      ends_at: story.at(3),
      reason: 'known',
    });
    const id = await story.open('a', 'warning', 1);
    await story.deliver(1);
    await story.deliver(2);
    await story.deliver(3);
    const events = await database.sql`
      select event, details, at from obs.alert_event where alert_id = ${id} and event ~ 'muted' order by id`;
    expect(events).toEqual([
      { event: 'muted', details: { channel: 'hook', by: 'silence: known' }, at: story.at(1) },
      { event: 'unmuted', details: { channel: 'hook' }, at: story.at(3) },
    ]);
  });

  test('the earlier of two times that are asked for at once', async () => {
    const runAt = async () =>
      (
        await database.sql<
          { run_at: Date }[]
        >`select run_at from graphile_worker.jobs where key = ${`evaluate:${orgId}`}`
      )[0]!.run_at;
    const [soon, late] = ['2030-01-01T00:00:00Z', '2031-01-01T00:00:00Z'].map((time) => new Date(time)) as [
      Date,
      Date,
    ];
    for (const [first, second] of [
      [soon, late],
      [late, soon],
    ] as const) {
      await database.sql`delete from graphile_worker._private_jobs`;
      const other = postgres(database.url, { max: 1, onnotice: () => {} });
      let added: Promise<unknown> | undefined;
      await database.sql.begin(async (sql) => {
        await sql`select queue.evaluate(${orgId}, ${first})`;
        added = Promise.resolve(other`select queue.evaluate(${orgId}, ${second})`);
        await new Promise((resolve) => setTimeout(resolve, 100));
      });
      await added;
      await other.end();
      expect(await runAt()).toEqual(soon);
    }
    // One that waits for later than it should counts as lost.
    await database.sql`delete from graphile_worker._private_jobs`;
    await database.sql`select queue.evaluate(${orgId}, ${late})`;
    await begin().rule('hot', hot);
    await database.sql`delete from graphile_worker._private_jobs`;
    await database.sql`select queue.evaluate(${orgId}, ${late})`;
    await worker`select job.heal_alerts(now() + interval '1 minute')`;
    expect((await runAt()).getTime()).toBeLessThan(soon.getTime());
  });

  test('one evaluation of an org at a time; another leaves at once', async () => {
    const story = begin();
    await story.rule('hot', hot);
    await database.sql.begin(async (sql) => {
      await sql`select job.evaluate_rules(${orgId}, ${story.at(1)})`;
      const [row] = await worker`select job.evaluate_rules(${orgId}, ${story.at(1)}) as n`;
      expect(row!.n).toBeNull();
    });
  });

  test('nothing is earlier than what it follows, however long its transaction waited', async () => {
    const story = begin();
    const id = await story.open('a', 'warning', 0);
    await database.sql`select lib.transition_alert(${id}, 'acknowledged', 'me', null, '{}', ${story.at(5)})`;
    await database.sql`select lib.transition_alert(${id}, 'resolved', 'me', null, '{}', ${story.at(3)})`;
    await story.open('a', 'warning', 2);
    const alerts = await database.sql`
      select started_at, acknowledged_at, resolved_at from obs.alert where org_id = ${orgId} order by started_at, resolved_at nulls last`;
    expect(alerts).toEqual([
      { started_at: story.at(0), acknowledged_at: story.at(5), resolved_at: story.at(5) },
      { started_at: story.at(5), acknowledged_at: null, resolved_at: null },
    ]);
  });

  test('a severity that an escalation raised, when the alert is reported again', async () => {
    const story = begin();
    await story.open('a', 'warning', 0);
    await story.work(60);
    await story.open('a', 'warning', 61);
    const [alert] = await database.sql`select severity from obs.alert where org_id = ${orgId}`;
    expect(alert!.severity).toBe('critical');
  });

  test('steps of an escalation that are late come as far apart as they are meant to', async () => {
    const story = begin();
    await story.channel('hook');
    await story.open('a', 'critical', 0);
    await story.deliver(0);
    // 15, 30 and 60 minutes are meant; the worker was away for two hours.
    const steps: number[] = [];
    for (let minute = 120; minute < 220; minute += 5) {
      await story.work(minute);
      if ((await story.deliver(minute)).length > 0) steps.push(minute);
    }
    expect(steps).toEqual([120, 135, 165]);
  });

  test('alerts of groups that a changed rule does not have any more', async () => {
    const story = begin();
    const rule = await story.rule('hot', 'max by (host) (temperature[1m]) > 50', { no_data: 'keep' });
    await story.record(1, 60, { host: 'a' });
    await story.work(1);
    expect(await story.states(1)).toEqual(['firing']);
    const { tree, ...fields } = expressionFields(parseRule('max by (rack) (temperature[1m]) > 50'), null);
    await story.put('alert_rule', { ...fields, tree }, rule);
    const [alert] = await database.sql`select status from obs.alert where org_id = ${orgId}`;
    expect(alert!.status).toBe('resolved');
  });

  test('groups beyond what one transaction changes', async () => {
    const story = begin();
    await story.rule('hot', 'max by (host) (temperature[1m]) > 50');
    await database.sql`
      insert into obs.sample (time, series_id, value)
      select ${new Date(story.at(1).getTime() - 1000)}, s, 60
      from unnest(api.ensure_series(${orgId}, (
        select jsonb_agg(jsonb_build_object('name', 'temperature', 'labels', jsonb_build_object('host', i))) from generate_series(1, 3100) i
      ))) as s`;
    const evaluate = async () =>
      (await worker<{ n: number }[]>`select job.evaluate_rules(${orgId}, ${story.at(1)}) as n`)[0]!.n;
    const firing = async () =>
      (
        await database.sql<
          { n: number }[]
        >`select count(*)::int as n from obs.alert where org_id = ${orgId} and status = 'firing'`
      )[0]!.n;
    const began = performance.now();
    expect(await evaluate()).toBe(1);
    // Fewer on a machine that is busy: a transaction has three seconds, too.
    const tookMs = performance.now() - began;
    const first = await firing();
    if (tookMs < 3000) expect(first).toBe(3000);
    expect(first).toBeGreaterThan(0);
    expect(first).toBeLessThanOrEqual(3000);
    while ((await firing()) < 3100) expect(await evaluate()).toBe(1);
    expect(await firing()).toBe(3100);
    expect(await evaluate()).toBe(0);
  });

  const attempt = async (groupId: string, at: Date, isDelivered: boolean, isPermanent = false) => {
    const [claimed] = await worker<{ notification_id: string; attempt: number; message: Sent }[]>`
      select * from job.claim_notification(${groupId}::text::bigint, null, ${at})`;
    if (!claimed) return undefined;
    await worker`select job.finish_attempt(
      ${claimed.notification_id}, ${claimed.attempt}, ${isDelivered}, 200, 1, 'x', null, ${isPermanent}, null, ${at})`;
    return claimed;
  };
  const groupOf = async () =>
    (await database.sql<{ id: string }[]>`select id from obs.notification_group where org_id = ${orgId}`)[0]!
      .id;

  test('the end of an alert of which one notification died and the next was delivered', async () => {
    const story = begin();
    await story.channel('hook', { group_by: [], max_attempts: 2 });
    await story.open('a', 'warning', 0);
    const id = await groupOf();
    await attempt(id, story.at(0), false);
    await story.open('b', 'warning', 0);
    // The second is made behind the first, which is given up then.
    await attempt(id, story.at(1), false);
    expect(told(await story.deliver(2)).sort()).toEqual(['a firing', 'b firing']);
    await story.change('resolved', 3, 'a');
    expect(told(await story.deliver(3)).sort()).toEqual(['a resolved', 'b firing']);
  });

  test('the end of an alert whose dead notification was sent again by hand', async () => {
    const story = begin();
    await story.channel('hook', { max_attempts: 1 });
    await story.open('a', 'warning', 0);
    const id = await groupOf();
    const dead = (await attempt(id, story.at(0), false))!;
    await api`select api.resend_notification(${orgId}, ${dead.notification_id}, 'me')`;
    await story.change('resolved', 1, 'a');
    expect(told(await story.deliver(2))).toEqual(['a resolved']);
  });

  test('alerts behind a hundred that a receiver refuses; what it refused is not tried again at once', async () => {
    const story = begin();
    await story.channel('hook', { group_by: [] });
    for (let i = 0; i < 150; i++) await story.open(`alert ${String(i).padStart(3, '0')}`, 'info', 0);
    const id = await groupOf();
    const shown = new Set<string>();
    let attempts = 0;
    for (let i = 0; i < 5; i++) {
      const claimed = await attempt(id, story.at(0), false, true);
      if (!claimed) continue;
      attempts++;
      for (const { name } of claimed.message.alerts) shown.add(name);
    }
    expect(attempts).toBe(2);
    expect(shown.size).toBe(150);
  });

  test('Alertmanager’s knowledge of what was acknowledged', async () => {
    const story = begin();
    await story.channel('am', { type: 'alertmanager', group_by: [] });
    await story.open('a', 'warning', 0);
    await story.deliver(0);
    await story.change('acknowledged', 1, 'a');
    await story.open('b', 'warning', 2);
    await story.change('resolved', 2, 'b');
    await story.deliver(2);
    expect(told(await story.deliver(6))).toEqual(['a acknowledged']);
  });

  test('a rule that groups and found no group is resolved once there is one', async () => {
    const story = begin();
    await story.rule('hot', 'max by (host) (temperature[1m]) > 50', { no_data: 'alert' });
    await story.work(0);
    expect(await story.states(0)).toEqual(['firing']);
    await story.record(1, 90, { host: 'a' });
    await story.work(1);
    const alerts =
      await database.sql`select status, group_labels from obs.alert where org_id = ${orgId} order by started_at`;
    expect(alerts).toEqual([
      { status: 'resolved', group_labels: {} },
      { status: 'firing', group_labels: { host: 'a' } },
    ]);
  });
});
