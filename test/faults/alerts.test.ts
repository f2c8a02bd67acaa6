// An alert's transition, its history and its notifications are one transaction: workers, PostgreSQL and the API are killed at random
// moments, and nothing may be lost, doubled or told out of turn. FAULT_ROUNDS and FAULT_SEED repeat a run.
import { createHmac, randomInt, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Message } from '../../jobs/channels/channel.ts';
import { crashObstacle, useCrashableDatabase } from '../support/crash.ts';
import { type Service, signToken, startService } from '../support/process.ts';
import { isSoak } from '../support/soak.ts';

const rounds = Number(process.env.FAULT_ROUNDS || (isSoak ? 50 : 3));
const seed = Number(process.env.FAULT_SEED || randomInt(1_000_000_000));
const roundMs = 5000;

/** Who fires for as long as this, with everything running, has been told of: its group's wait and interval, and ample time to heal. */
const toldWithinMs = 25_000;

const metrics = ['m0', 'm1', 'm2', 'm3', 'm4'];
const hosts = Array.from({ length: 8 }, (_, i) => `h${i}`);
const levels = [10, 60, 90];

interface RuleKind {
  name: string;
  condition: (metric: string) => string;
  holds: (value: number) => boolean;
  severity: 'critical' | 'warning';
  keep_firing_for?: string;
}
const last = (metric: string) => `last(${metric}[10m]) by (host)`;
const ruleKinds: RuleKind[] = [
  { name: 'high', condition: (m) => `${last(m)} > 50`, holds: (v) => v > 50, severity: 'warning' },
  { name: 'long', condition: (m) => `${last(m)} > 50 for 5s`, holds: (v) => v > 50, severity: 'warning' },
  {
    name: 'severe',
    condition: (m) => `${last(m)} > 80`,
    holds: (v) => v > 80,
    severity: 'critical',
    keep_firing_for: '5s',
  },
  {
    name: 'between',
    condition: (m) => `${last(m)} > 50 and ${last(m)} < 80 for 5s`,
    holds: (v) => v > 50 && v < 80,
    severity: 'warning',
    keep_firing_for: '5s',
  },
];

const channels = {
  // One group for each alert, so that what is told of one can be counted.
  each: { group_by: ['alertname', 'host', 'case'], group_wait_seconds: 0.2, group_interval_seconds: 1 },
  grouped: { group_by: ['team'], group_wait_seconds: 0.5, group_interval_seconds: 1 },
  critical: {
    group_by: ['alertname'],
    group_wait_seconds: 0,
    group_interval_seconds: 0.5,
    severities: ['critical'],
    send_resolved: false,
  },
  // Only escalations come here.
  late: {
    group_by: ['alertname', 'host', 'case'],
    group_wait_seconds: 0,
    group_interval_seconds: 1,
    matchers: ['team="nobody"'],
  },
};
type ChannelName = keyof typeof channels;
const escalatedTeams = ['m0', 'api'];
const secret = 'what the receiver knows';

/** Numbers from 0 to 1 that a seed decides on (mulberry32). */
function createRandom(state: number) {
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    next,
    between: (min: number, max: number) => min + Math.floor(next() * (max - min)),
    pick: <T>(values: readonly T[]): T => values[Math.floor(next() * values.length)]!,
  };
}

interface Arrival {
  /** When it came, and when it was answered with 200, among all that happened at the receiver. */
  order: number;
  answered: number | null;
  channel: string;
  key: string;
  isSigned: boolean;
  /** Null where it was not read, or broke off. */
  body: string | null;
}

async function startReceiver() {
  const random = createRandom(seed ^ 0x5eed);
  const arrivals: Arrival[] = [];
  let order = 0;
  const receiver = {
    url: '',
    arrivals,
    isHealthy: false,
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
  const server = http.createServer((request, response) => {
    const arrival: Arrival = {
      order: ++order,
      answered: null,
      channel: request.url!.slice(1),
      key: String(request.headers['idempotency-key']),
      isSigned: true,
      body: null,
    };
    arrivals.push(arrival);
    const mood = receiver.isHealthy ? 1 : random.next();
    request.on('error', () => {});
    response.on('error', () => {});
    if (mood < 0.03) {
      request.socket.destroy();
      return;
    }
    const chunks: Buffer[] = [];
    request.on('data', (chunk) => chunks.push(chunk));
    request.on('end', async () => {
      const body = Buffer.concat(chunks);
      arrival.body = body.toString();
      arrival.isSigned =
        request.headers['x-signature-256'] ===
        `sha256=${createHmac('sha256', secret).update(body).digest('hex')}`;
      // It has been read, and its sender does not learn what has become of it.
      if (mood < 0.08) request.socket.destroy();
      else if (mood < 0.12) return;
      else if (mood < 0.18) response.writeHead(500).end('not now');
      else if (mood < 0.2) response.writeHead(429, { 'Retry-After': '1' }).end();
      else {
        // Some answers come when the sender has given up.
        if (mood < 0.24) await sleep(1100);
        else if (mood < 0.6) await sleep(random.between(0, 200));
        if (request.socket.destroyed) return;
        const now = ++order;
        response.on('finish', () => {
          arrival.answered = now;
        });
        response.writeHead(200).end('thanks');
      }
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  receiver.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return receiver;
}

interface AlertRow {
  id: string;
  fingerprint: string;
  name: string;
  source: string;
  severity: string;
  status: string;
  rule_id: string | null;
  labels: Record<string, string>;
  started_ms: number;
  acknowledged_ms: number | null;
  resolved_ms: number | null;
  escalation_step: number;
}
interface EventRow {
  alert_id: string;
  at_ms: number;
  event: string;
  from_status: string;
  to_status: string;
  actor: string;
  note: string | null;
  details: { op?: string; step?: number; severity?: unknown; metadata?: { to?: { op?: string } } };
}
interface NotificationRow {
  id: string;
  channel_name: string;
  group_id: string;
  status: string;
  payload: Message;
  attempts: number;
  attempt_numbers: number[];
  delivered_attempts: number;
  alerts: { id: string; status: string }[];
}

const hasEnded = ({ child }: Service) => child.exitCode !== null || child.signalCode !== null;
const describeEnd = ({ child, output }: Service) =>
  child.exitCode === null && child.signalCode === null
    ? `process ${child.pid} runs`
    : `process ${child.pid} ended by itself with ${child.exitCode ?? child.signalCode}: …${output().slice(-2000)}`;

/** What a client was told with a 2xx. */
interface Promised {
  alertId: string;
  what: 'opened' | 'updated' | 'acknowledged' | 'resolved';
  op: string;
}

describe.skipIf(crashObstacle !== null)(
  crashObstacle ? `alerts (skipped: ${crashObstacle})` : 'alerts',
  () => {
    const database = useCrashableDatabase();
    const workers: Service[] = [];
    let api: Service;
    let receiver: Awaited<ReturnType<typeof startReceiver>>;
    let sql: postgres.Sql;
    let token: string;
    const startWorker = () => startService('worker', { DATABASE_URL: database.url });
    const startApi = () => startService('api', { DATABASE_URL: database.url });
    beforeAll(async () => {
      sql = postgres(database.url, { max: 2, onnotice: () => {} });
      token = await signToken({ exp: Math.floor(Date.now() / 1000) + 4 * 3600 });
      receiver = await startReceiver();
      api = await startApi();
      workers.push(await startWorker(), await startWorker());
    });
    afterAll(async () => {
      for (const service of [api, ...workers]) if (service && !hasEnded(service)) await service.kill();
      receiver?.close();
      await sql?.end({ timeout: 5 });
    });

    const statuses = new Map<number, number>();

    /** Asks until there is an answer that is not 503; isRepeated: whether one before it may have done it. */
    async function call(method: string, path: string, body?: unknown, headers: Record<string, string> = {}) {
      const deadline = Date.now() + 90_000;
      for (let isRepeated = false; ; isRepeated = true) {
        const answer = await fetch(`${api.url}/api/v1${path}`, {
          method,
          headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json', ...headers },
          ...(body === undefined ? {} : { body: JSON.stringify(body) }),
          signal: AbortSignal.timeout(20_000),
        })
          // biome-ignore lint/suspicious/noExplicitAny: answers are checked elsewhere
          .then(async (got) => ({ status: got.status, body: (await got.json()) as any }))
          .catch(() => ({ status: 0, body: null }));
        statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
        if (answer.status !== 0 && answer.status !== 503) return { ...answer, isRepeated };
        if (Date.now() > deadline) throw new Error(`${method} ${path} has no answer: ${answer.status}`);
        await sleep(50);
      }
    }
    async function create(path: string, body: unknown): Promise<string> {
      const answer = await call('POST', path, body);
      expect(answer.status, JSON.stringify(answer.body)).toBe(201);
      return answer.body.id;
    }

    test(`${rounds} rounds of kill -9 of workers, PostgreSQL and the API, seed ${seed}`, async () => {
      process.stderr.write(`  seed ${seed}\n`);
      const random = createRandom(seed);
      const channelIds = {} as Record<ChannelName, string>;
      for (const [name, fields] of Object.entries(channels))
        channelIds[name as ChannelName] = await create('/channels', {
          name,
          type: 'webhook',
          config: { url: `${receiver.url}/${name}`, secret },
          timeout_seconds: 1,
          max_attempts: 100,
          repeat_interval_seconds: 86_400,
          ...fields,
        });
      await create('/escalations', {
        name: 'nobody acknowledges',
        severities: ['warning'],
        matchers: [`team=~"${escalatedTeams.join('|')}"`],
        steps: [
          { after_minutes: 0.1, severity: 'critical', channel_ids: [channelIds.late] },
          { after_minutes: 0.15 },
        ],
      });
      const rules = new Map<string, { kind: RuleKind; metric: string }>();
      for (const metric of metrics)
        for (const kind of ruleKinds) {
          const { condition, name, severity, keep_firing_for = '0s' } = kind;
          const id = await create('/alert-rules', {
            name: `${name} ${metric}`,
            expression: condition(metric),
            severity,
            keep_firing_for,
            interval_seconds: 5,
            labels: { team: metric },
          });
          rules.set(id, { kind, metric });
        }

      // What each series was told to be, one after the other.
      const history = new Map<string, number[]>();
      for (const metric of metrics) for (const host of hosts) history.set(`${metric} ${host}`, []);
      let written = 0;
      /** Writes all series, some of them changed. */
      async function write(share: number) {
        written = Math.max(Date.now(), written + 1);
        for (const values of history.values()) {
          const isChanged = values.length === 0 ? random.next() < 0.3 : random.next() < share;
          values.push(isChanged ? random.pick(levels) : (values.at(-1) ?? levels[0]!));
        }
        const batch = [...history].map(([series, values]) => {
          const [name, host] = series.split(' ');
          return { name, labels: { host }, value: values.at(-1), timestamp: written };
        });
        const answer = await call(
          'POST',
          '/metrics/batch',
          { metrics: batch },
          { 'Idempotency-Key': randomUUID() },
        );
        expect(answer.status, JSON.stringify(answer.body)).toBe(201);
      }

      // What clients do meanwhile.
      const promised: Promised[] = [];
      const unexpected: string[] = [];
      let operations = 0;
      let isOver = false;
      const changed = { acknowledge: 'acknowledged', resolve: 'resolved' } as const;
      /** Acknowledges or resolves; whether it is so then, as far as this client can tell. */
      async function change(id: string, verb: keyof typeof changed, isAlone: boolean): Promise<boolean> {
        const op = `op ${++operations}`;
        const { status, body, isRepeated } = await call('PUT', `/alerts/${id}/${verb}`, { note: op });
        if (status === 200) promised.push({ alertId: id, what: changed[verb], op });
        else if (status !== 409 || (isAlone && !isRepeated))
          unexpected.push(`${verb} of ${id}: ${status} ${JSON.stringify(body)}`);
        return status === 200 || isRepeated;
      }
      async function open(fields: object, isNew: boolean | null): Promise<string> {
        const op = `op ${++operations}`;
        const { status, body, isRepeated } = await call('POST', '/alerts', { ...fields, metadata: { op } });
        if (status !== 200 && status !== 201)
          throw new Error(`POST /alerts: ${status} ${JSON.stringify(body)}`);
        if (isNew !== null) {
          if ((status === 201) !== isNew && !(isNew && isRepeated))
            unexpected.push(`${isNew ? 'new' : 'open'} alert: ${status} ${JSON.stringify(body)}`);
          promised.push({ alertId: body.id, what: isNew ? 'opened' : 'updated', op });
        }
        return body.id;
      }
      /** The one client of an alert, who so knows what it has to be; answers its id and status at the end. */
      async function ownAlert(i: number): Promise<{ id: string; status: string } | null> {
        const { next, between } = createRandom(seed + 1000 + i);
        const isEscalated = i % 2 === 0;
        const fields = {
          name: 'own',
          severity: isEscalated ? 'warning' : 'info',
          labels: { case: String(i), team: isEscalated ? 'api' : 'quiet' },
        };
        let alert: { id: string; status: string } | null = null;
        while (!isOver) {
          const choice = next();
          if (!alert || alert.status === 'resolved') {
            const before: string | undefined = alert?.id;
            alert = { id: await open(fields, true), status: 'firing' };
            if (alert.id === before) unexpected.push(`${alert.id} was resolved and is open again`);
          } else if (choice < 0.3) {
            const id = await open(fields, false);
            if (id !== alert.id) unexpected.push(`${alert.id} is open, and ${id} was opened`);
          } else if (choice < 0.5 && alert.status === 'firing') {
            await change(alert.id, 'acknowledge', true);
            alert.status = 'acknowledged';
          } else if (choice < 0.7) {
            await change(alert.id, 'resolve', true);
            alert.status = 'resolved';
          }
          await sleep(between(300, 2500));
        }
        return alert;
      }
      /** Several of these open and resolve the same alert at the same time. */
      async function sharedAlert(i: number) {
        const { pick, between } = createRandom(seed + 2000 + i);
        while (!isOver) {
          const id = await open({ name: 'shared', severity: 'info', labels: { case: 'shared' } }, null);
          await sleep(between(0, 300));
          await change(id, pick(['acknowledge', 'resolve', 'resolve']), false);
          await sleep(between(0, 300));
        }
      }
      async function operator() {
        const { pick, between } = createRandom(seed + 3000);
        while (!isOver) {
          const { status, body } = await call('GET', '/alerts?status=firing&limit=200');
          if (status !== 200) unexpected.push(`GET /alerts: ${status} ${JSON.stringify(body)}`);
          const firing = (body.alerts as { id: string; source: string }[]).filter((a) => a.source === 'rule');
          if (firing.length > 0)
            await change(pick(firing).id, pick(['acknowledge', 'acknowledge', 'resolve']), false);
          await sleep(between(300, 1500));
        }
      }

      const restart = async (i: number) => {
        if (hasEnded(workers[i]!)) unexpected.push(describeEnd(workers[i]!));
        await workers[i]!.kill();
        workers[i] = await startWorker();
      };
      const faults: Record<string, () => Promise<unknown>> = {
        'worker A': () => restart(0),
        'worker B': () => restart(1),
        'both workers': () => Promise.all([restart(0), restart(1)]),
        PostgreSQL: () => database.crash(),
        API: async () => {
          if (hasEnded(api)) unexpected.push(describeEnd(api));
          await api.kill();
          api = await startApi();
        },
        'PostgreSQL and a worker': () => Promise.all([restart(random.between(0, 2)), database.crash()]),
      };
      const outages: { from: number; to: number }[] = [];

      const clients = Promise.all([
        Promise.all(Array.from({ length: 6 }, (_, i) => ownAlert(i))),
        ...Array.from({ length: 3 }, (_, i) => sharedAlert(i)),
        operator(),
      ]);
      clients.catch(() => {});
      let left: string[] = [];
      for (let round = 0; round < rounds; round++) {
        const began = Date.now();
        await write(0.25);
        // Each comes up as often as any other.
        if (left.length === 0) left = Object.keys(faults);
        const [fault] = left.splice(random.between(0, left.length), 1);
        await sleep(random.between(0, 4000));
        const from = Date.now();
        await faults[fault!]!();
        outages.push({ from, to: Date.now() });
        await sleep(Math.max(0, began + roundMs - Date.now()));
      }
      isOver = true;
      const [own] = await clients;
      receiver.isHealthy = true;
      await write(0.25);

      // A rule looks twice before an alert fires or is resolved, and once more where it came a little early the first time.
      const stateOf = async () => {
        const [row] = await sql`
          select
            (select count(*)::int from obs.notification where status = 'pending') as pending,
            (select count(*)::int from obs.notification_group where flush_at < now() + interval '1 hour') as to_flush,
            (
              select count(*)::int from obs.alert_rule_state
              where last_evaluation_at is null or last_evaluation_at < to_timestamp(${written / 1000}::float8) + interval '16 seconds'
            ) as to_evaluate,
            (
              select count(*)::int from obs.alert
              where status in ('inactive', 'pending') or status <> 'resolved' and keep_firing_since is not null
            ) as to_change,
            (select count(*)::int from obs.alert where escalate_at is not null and status = 'firing') as to_escalate`;
        return row;
      };
      const quiet = { pending: 0, to_flush: 0, to_evaluate: 0, to_change: 0, to_escalate: 0 };
      for (const deadline = Date.now() + 180_000; ; await sleep(300)) {
        const state = { ...(await stateOf()) };
        if (isDeepStrictEqual(state, quiet)) break;
        if (Date.now() > deadline || [api, ...workers].some(hasEnded))
          throw new Error(
            `it does not become quiet, seed ${seed}: ${JSON.stringify(state)}\n${[api, ...workers].map(describeEnd).join('\n')}`,
          );
      }
      const quietAt = Date.now();

      // The rest is looked at as it is.
      const alerts = await sql<AlertRow[]>`
        select id, fingerprint, name, source, severity, status, rule_id, labels, escalation_step,
          (extract(epoch from started_at) * 1000)::float8 as started_ms, (extract(epoch from acknowledged_at) * 1000)::float8 as acknowledged_ms,
          (extract(epoch from resolved_at) * 1000)::float8 as resolved_ms
        from obs.alert where source in ('api', 'rule')`;
      const events = await sql<EventRow[]>`
        select alert_id, (extract(epoch from at) * 1000)::float8 as at_ms, event, from_status, to_status, actor, note, details
        from obs.alert_event order by id`;
      const notifications = await sql<NotificationRow[]>`
        select n.id, n.channel_name, n.group_id, n.status, n.payload, n.attempts,
          array(select t.number from obs.notification_attempt t where t.notification_id = n.id order by 1) as attempt_numbers,
          (select count(*)::int from obs.notification_attempt t where t.notification_id = n.id and t.is_delivered) as delivered_attempts,
          (
            select json_agg(json_build_object('id', a.alert_id, 'status', a.status)) from obs.notification_alert a where a.notification_id = n.id
          ) as alerts
        from obs.notification n order by n.created_at, n.id`;
      const eventsOf = Map.groupBy(events, (event) => event.alert_id);
      const wrong: string[] = [...unexpected];
      const check = (isRight: boolean, what: string) => {
        if (!isRight) wrong.push(what);
      };

      // Every alert has gone one way, and says what its history says.
      const steps = new Set([
        'inactive pending',
        'inactive firing',
        'pending firing',
        'firing acknowledged',
        'firing resolved',
        'acknowledged resolved',
      ]);
      const reached = new Map<string, Partial<Record<string, EventRow>>>();
      for (const alert of alerts) {
        const path = (eventsOf.get(alert.id) ?? []).filter((event) => event.from_status !== event.to_status);
        const what = `alert ${alert.id} (${alert.name}): ${path.map((e) => `${e.to_status} ${e.at_ms}`).join(', ')}`;
        let before = 'inactive';
        let at = 0;
        for (const event of path) {
          check(
            event.from_status === before && steps.has(`${before} ${event.to_status}`),
            `${what}: from ${event.from_status} after ${before}`,
          );
          check(event.event === event.to_status, `${what}: ${event.event}`);
          check(event.at_ms >= at, `${what}: goes back in time`);
          before = event.to_status;
          at = event.at_ms;
        }
        check(before === alert.status, `${what}: is ${alert.status}`);
        const byStatus = Object.fromEntries(path.map((event) => [event.to_status, event]));
        reached.set(alert.id, byStatus);
        check(byStatus.firing?.at_ms === alert.started_ms, `${what}: started at ${alert.started_ms}`);
        check((byStatus.acknowledged?.at_ms ?? null) === alert.acknowledged_ms, `${what}: acknowledged_at`);
        check((byStatus.resolved?.at_ms ?? null) === alert.resolved_ms, `${what}: resolved_at`);
        const escalated = (eventsOf.get(alert.id) ?? []).filter((event) => event.event === 'escalated');
        check(
          isDeepStrictEqual(
            escalated.map((event) => event.details.step),
            Array.from({ length: alert.escalation_step }, (_, i) => i + 1),
          ),
          `${what}: steps ${escalated.map((event) => event.details.step)} of ${alert.escalation_step}`,
        );
      }

      // One after the other, each for a reason.
      const firstAt = (alert: AlertRow) => eventsOf.get(alert.id)?.[0]?.at_ms ?? alert.started_ms;
      const byFingerprint = Map.groupBy(alerts, (alert) => alert.fingerprint);
      for (const [fingerprint, generations] of byFingerprint) {
        generations.sort(
          (a, b) => firstAt(a) - firstAt(b) || (a.resolved_ms ?? Infinity) - (b.resolved_ms ?? Infinity),
        );
        for (const [i, alert] of generations.entries()) {
          const before = generations[i - 1];
          check(
            !before || (before.resolved_ms !== null && before.resolved_ms <= firstAt(alert)),
            `${fingerprint}: ${alert.id} began at ${firstAt(alert)}, and ${before?.id} ended at ${before?.resolved_ms}`,
          );
        }
      }
      for (const [ruleId, { kind, metric }] of rules)
        for (const host of hosts) {
          const what = `${kind.name} ${metric} ${host}`;
          const generations = alerts.filter((a) => a.rule_id === ruleId && a.labels.host === host);
          const held = history.get(`${metric} ${host}`)!.map(kind.holds);
          const rises = held.filter((holds, i) => holds && !held[i - 1]).length;
          const falls = held.filter((holds, i) => !holds && held[i - 1]).length;
          const ended = generations.flatMap((a) => reached.get(a.id)?.resolved ?? []);
          const endedByHand = ended.filter((event) => event.actor !== 'worker').length;
          check(
            generations.length <= rises + endedByHand,
            `${what}: ${generations.length} alerts, rose ${rises} times, ended ${endedByHand}`,
          );
          check(
            ended.length - endedByHand <= falls,
            `${what}: resolved ${ended.length - endedByHand} times, fell ${falls}`,
          );
          // As the last values say.
          const isOpen = generations.some((a) => a.status === 'firing' || a.status === 'acknowledged');
          check(
            isOpen === held.at(-1),
            `${what}: ${history.get(`${metric} ${host}`)!.slice(-3)}, and its alerts are ${generations.map((a) => a.status)}`,
          );
        }
      for (const alert of own)
        if (alert) {
          const status = alerts.find((a) => a.id === alert.id)?.status;
          check(status === alert.status, `alert ${alert.id} is ${status}, not ${alert.status}`);
        }

      // What was answered with 2xx is there, once.
      for (const { alertId, what, op } of promised) {
        const mine = (eventsOf.get(alertId) ?? []).filter((event) =>
          what === 'opened'
            ? event.event === 'firing' && event.details.op === op
            : what === 'updated'
              ? event.event === 'updated' && event.details.metadata?.to?.op === op
              : event.event === what && event.note === op,
        );
        check(
          mine.length === 1,
          `${what} ${alertId} (${op}) was acknowledged, and is there ${mine.length} times`,
        );
      }

      // The ledger, and what came of it.
      const { arrivals } = receiver;
      const arrivalsOf = Map.groupBy(arrivals, (arrival) => arrival.key);
      const ledger = new Map(notifications.map((notification) => [notification.id, notification]));
      const answeredAt = (id: string) =>
        Math.min(...(arrivalsOf.get(id) ?? []).map((arrival) => arrival.answered ?? Infinity));
      const contents = new Map<string, string>();
      for (const [key, mine] of arrivalsOf) {
        const notification = ledger.get(key);
        check(notification !== undefined, `${key} arrived and is not in the ledger`);
        check(
          mine.every((arrival) => arrival.isSigned),
          `${key}: a signature is wrong`,
        );
        check(
          mine.every((arrival) => arrival.channel === notification?.channel_name),
          `${key}: came to another channel`,
        );
        const bodies = new Set(mine.flatMap((arrival) => arrival.body ?? []));
        check(bodies.size <= 1, `${key}: said ${bodies.size} different things`);
        for (const body of bodies) {
          const message = JSON.parse(body) as Message;
          check(
            isDeepStrictEqual(message, notification?.payload),
            `${key}: said something else than the ledger`,
          );
          check(
            message.notification_id === key && message.truncated_alerts === 0,
            `${key}: ${message.notification_id}`,
          );
          const { notification_id: _, ...rest } = message;
          const twin = contents.get(JSON.stringify(rest));
          check(twin === undefined, `${key} and ${twin} say the same`);
          contents.set(JSON.stringify(rest), key);
        }
        check(
          mine.length <= (notification?.attempts ?? 0),
          `${key}: arrived ${mine.length} times in ${notification?.attempts} attempts`,
        );
      }
      for (const {
        id,
        status,
        attempts,
        attempt_numbers,
        delivered_attempts,
        payload,
        ...notification
      } of notifications) {
        // Nothing that the receiver does is for good, and 100 attempts are more than there were.
        check(status === 'delivered', `notification ${id} is ${status}`);
        check(answeredAt(id) < Infinity, `notification ${id} is ${status} and was never answered with 200`);
        check(
          isDeepStrictEqual(
            attempt_numbers,
            Array.from({ length: attempts }, (_, i) => i + 1),
          ),
          `notification ${id}: attempts ${attempt_numbers} of ${attempts}`,
        );
        check(delivered_attempts >= 1, `notification ${id}: no attempt delivered it`);
        const told = (list: { id: string; status: string }[]) =>
          list.map((a) => `${a.id} ${a.status}`).sort();
        check(
          isDeepStrictEqual(told(notification.alerts), told(payload.alerts)),
          `notification ${id}: tells of others than the ledger`,
        );
      }
      for (const [groupId, mine] of Map.groupBy(notifications, (notification) => notification.group_id))
        for (const [i, { id }] of mine.entries())
          if (i > 0) {
            const before = mine[i - 1]!.id;
            const cameAt = Math.min(...(arrivalsOf.get(id) ?? []).map((arrival) => arrival.order));
            check(
              answeredAt(before) < cameAt,
              `group ${groupId}: ${id} came at ${cameAt}, ${before} was answered at ${answeredAt(before)}`,
            );
          }

      // Who was told what of each alert.
      interface Told {
        order: number;
        status: string;
        isEscalated: boolean;
      }
      const toldOf = new Map<string, Told[]>();
      for (const { id, channel_name, payload } of notifications)
        for (const alert of payload.alerts) {
          const key = `${alert.id} ${channel_name}`;
          toldOf.set(key, [
            ...(toldOf.get(key) ?? []),
            { order: answeredAt(id), status: alert.status, isEscalated: alert.is_escalated },
          ]);
        }
      const runningMs = (from: number, to: number) =>
        to -
        from -
        outages.reduce((sum, o) => sum + Math.max(0, Math.min(to, o.to) - Math.max(from, o.from)), 0);
      let due = 0;
      for (const alert of alerts) {
        const { firing, acknowledged, resolved } = reached.get(alert.id)!;
        if (!firing) continue;
        const what = `alert ${alert.id} (${alert.name}, ${JSON.stringify(alert.labels)})`;
        const until = Math.min(acknowledged?.at_ms ?? quietAt, resolved?.at_ms ?? quietAt);
        const isDue = (from: number) => alert.status === 'firing' || runningMs(from, until) > toldWithinMs;
        const escalated = (eventsOf.get(alert.id) ?? []).find((event) => event.event === 'escalated');
        const isEscalating =
          escalatedTeams.includes(alert.labels.team ?? '') &&
          ruleKinds.every((k) => k.severity === 'warning' || !alert.name.startsWith(k.name));
        check(!escalated || isEscalating, `${what} was escalated`);
        if (isEscalating && isDue(firing.at_ms)) check(escalated !== undefined, `${what} was not escalated`);

        for (const channel of Object.keys(channels) as ChannelName[]) {
          const told = toldOf.get(`${alert.id} ${channel}`) ?? [];
          const open = told.filter((t) => t.status !== 'resolved');
          const ends = told.filter((t) => t.status === 'resolved');
          const takes =
            channel === 'each' ||
            channel === 'grouped' ||
            (channel === 'critical' && alert.name.startsWith('severe'));
          if (takes && isDue(firing.at_ms)) {
            due++;
            check(
              open.some((t) => t.status === 'firing' && t.order < Infinity),
              `${what} fired, and ${channel} was not told`,
            );
          }
          if (escalated && isDue(escalated.at_ms)) {
            due++;
            check(
              open.some((t) => t.isEscalated && t.order < Infinity),
              `${what} was escalated, and ${channel} was not told`,
            );
          }
          check(takes || escalated !== undefined || told.length === 0, `${what}: ${channel} was told`);
          const isToEnd = open.length > 0 && resolved !== undefined && channel !== 'critical';
          check(
            ends.length === (isToEnd ? 1 : 0),
            `${what}: ${channel} was told ${ends.length} times that it is resolved`,
          );
          const lastOpen = Math.max(...open.map((t) => t.order));
          check(
            ends.every((t) => t.order < Infinity && t.order > lastOpen),
            `${what}: ${channel} was told too early that it is resolved`,
          );
          // In a group of its own it is told anew only when it is escalated, or somebody makes it more or less severe.
          const severed = (eventsOf.get(alert.id) ?? []).filter(
            (event) => event.event === 'updated' && 'severity' in event.details,
          ).length;
          if (channel === 'each')
            check(
              open.length <= 1 + alert.escalation_step + severed,
              `${what}: ${channel} was told ${open.length} times that it fires`,
            );
        }
      }

      // Everything goes on.
      const stopped = async () => {
        const [row] = await sql`
          select count(*) filter (where t.last_error is not null)::int as failed,
            count(*) filter (where t.next_evaluation_at is null or t.next_evaluation_at < now() - interval '1 second')::int as late,
            count(*) filter (
              where not exists (
                select from graphile_worker.jobs j
                where j.key = 'evaluate:' || t.org_id
                  and (j.attempts < j.max_attempts or j.locked_at > now() - interval '1 minute')
              )
            )::int as without_job
          from obs.alert_rule_state t`;
        return { ...row };
      };
      await expect.poll(stopped, { timeout: 30_000 }).toEqual({ failed: 0, late: 0, without_job: 0 });

      const [server] =
        await sql`select deadlocks::int from pg_stat_database where datname = current_database()`;
      const repeated = [...arrivalsOf.values()].filter(
        (mine) => mine.filter((arrival) => arrival.body).length > 1,
      );
      process.stderr.write(
        `  ${alerts.length} alerts, ${events.length} events, ${promised.length} promises, ${notifications.length} notifications in ${arrivals.length} ` +
          `requests, ${repeated.length} of them delivered more than once, ${due} due to be told, quiet after ${quietAt - written} ms, ${server!.deadlocks} deadlocks since the last crash, statuses ${JSON.stringify([...statuses])}\n`,
      );
      expect(wrong.slice(0, 40), `${wrong.length} faults, seed ${seed}`).toEqual([]);
      // The faults have hit something.
      expect(repeated.length).toBeGreaterThan(0);
      expect(due).toBeGreaterThan(20);
      expect([...statuses.keys()].filter((status) => status >= 500 && status !== 503)).toEqual([]);
    });
  },
);
