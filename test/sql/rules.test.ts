// Rules, alerts and notifications as tables of (minute, value, expected state, expected notification), each told thrice: as it should
// be, with two workers that do everything at once, and with a worker that dies at every delivery.
import postgres from 'postgres';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { parseConfig } from '../../src/config.ts';
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
