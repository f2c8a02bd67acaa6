// How a service's state follows from its probes, with time as an argument: as the worker calls it, on a database alone.

import postgres from 'postgres';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { parseConfig } from '../../src/config.ts';
import { useDatabase } from '../support/database.ts';
import { jwtSecret } from '../support/process.ts';

const database = useDatabase();
let api: postgres.Sql;
let worker: postgres.Sql;
let orgId: number;

beforeAll(async () => {
  const config = parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret });
  api = postgres(config.apiDatabaseUrl, { max: 2, onnotice: () => {} });
  worker = postgres(config.workerDatabaseUrl, { max: 4, onnotice: () => {} });
});
afterAll(async () => {
  await Promise.all([api?.end(), worker?.end()]);
});

let orgs = 0;
beforeEach(async () => {
  await database.sql`delete from obs.probe_worker`;
  [{ id: orgId }] = (await api`select api.ensure_org(${`org-${++orgs}`}) as id`) as unknown as [
    { id: number },
  ];
});

// Nothing here reads the clock but what the API does, which is later than what a test begins with.
const start = Math.floor(Date.now() / 60_000 - 2) * 60_000;
const at = (seconds: number) => new Date(start + seconds * 1000);

async function register(name: string, definition: object = {}): Promise<number> {
  const given = {
    kind: 'http',
    health_endpoint: 'http://service.test/',
    check_interval_seconds: 10,
    ...definition,
  };
  await api`select api.put_service(${orgId}, ${name}, ${JSON.stringify(given)}::text::jsonb, 'me')`;
  const [row] = await database.sql<{ id: number }[]>`
    select id from obs.service where org_id = ${orgId} and name = ${name}`;
  // Registered when this test's time begins.
  await database.sql`
    update obs.service_state set next_check_at = ${at(0)}, status_since = ${at(0)}, watched_since = ${at(0)} where service_id = ${row!.id}`;
  return row!.id;
}

interface Claim {
  service_id: number;
  slot: Date | null;
  started_at: Date;
}
const claim = (ids: number[], seconds: number, isRequested = false) =>
  worker<Claim[]>`
    select service_id, slot, started_at from job.claim_probes(
      ${`{${ids}}`}::text::int[], ${`{${ids.map(() => isRequested)}}`}::text::boolean[], ${at(seconds)}
    ) order by 1`;

const record = async (results: object[], seconds: number, name = 'worker-1') => {
  const [row] = await worker<{ is_offline: boolean }[]>`
    select job.record_probes(${name}, 'home', ${JSON.stringify(results)}::text::jsonb, ${at(seconds)}) as is_offline`;
  return row!.is_offline;
};

interface Outcome {
  outcome?: 'up' | 'degraded' | 'down';
  network?: string | null;
  host?: string;
  reason?: string | null;
}
const resultOf = (id: number, seconds: number, { outcome = 'up', ...more }: Outcome = {}) => ({
  service_id: id,
  slot: at(seconds),
  started_at: at(seconds),
  outcome,
  response_time_ms: 20,
  reason: outcome === 'up' ? null : `was ${outcome}`,
  network: 'answered',
  host: 'service.test',
  ...more,
});

const stateOf = async (id: number) => {
  const [row] = await database.sql<
    {
      status: string;
      reason: string | null;
      is_flapping: boolean;
      is_paused: boolean;
      consecutive_failures: number;
      consecutive_successes: number;
      next_check_at: Date | null;
    }[]
  >`select * from obs.service_state where service_id = ${id}`;
  return row!;
};
const eventsOf = async (id: number) =>
  (
    await database.sql<{ event: string; from_status: string; to_status: string }[]>`
      select event, from_status, to_status from obs.service_event where service_id = ${id} order by time, event`
  ).map(({ event, from_status, to_status }) =>
    event === 'status' ? `${from_status} > ${to_status}` : event,
  );
const alertsOf = async () =>
  (
    await database.sql<{ status: string; events: string[] }[]>`
      select a.status, (select array_agg(e.event order by e.id) from obs.alert_event e where e.alert_id = a.id) as events
      from obs.alert a where a.org_id = ${orgId} order by a.started_at, a.service_name`
  ).map(({ status, events }) => `${status}: ${events.join(', ')}`);

const letters = { u: 'up', g: 'degraded', d: 'down', '?': 'unknown' } as const;

describe('each outcome leads to a status', () => {
  // Failure threshold, success threshold, outcomes one after the other; the status after each, with a * while it flaps.
  const table: [string, number, number, string, string][] = [
    ['the first answer makes it healthy', 3, 1, 'u', 'h'],
    ['the first failures leave it unknown, until they are enough', 3, 1, 'ddd', '??u'],
    ['so many failures in a row, and not one fewer', 3, 1, 'uddudddd', 'hhhhhhuu'],
    ['one answer recovers', 2, 1, 'uddu', 'hhuh'],
    ['answers in a row recover', 2, 3, 'udduuduuu', 'hhuuuuuuh'],
    ['slow is degraded at once, and well again at once', 3, 1, 'ugu', 'hdh'],
    ['degraded is up: it recovers, and does not count as failure', 2, 2, 'ddgg', '?uud'],
    ['a failure below the threshold leaves degraded as it is', 3, 1, 'gdd', 'ddd'],
    ['degraded between failures begins the count anew', 3, 1, 'uddgdd', 'hhhddd'],
    ['what is not known makes healthy unknown', 3, 1, 'u?u', 'h?h'],
    ['and leaves unhealthy as it is', 1, 1, 'ud?u', 'huuh'],
    ['and does not count between failures', 3, 1, 'ud?d?d', 'hh??' + '?u'],
    ['six changes flap', 1, 1, 'udududud', 'huhuh' + 'u' + 'h*u*'],
    ['also where no threshold is reached', 3, 1, 'udududu', 'hhhhhhh*'],
    ['degraded and up are no change', 1, 1, 'ugugugugu', 'hdhdhdhdh'],
  ];
  const names = { h: 'healthy', d: 'degraded', u: 'unhealthy', '?': 'unknown' } as const;

  test.each(table)('%s', async (_name, failures, successes, outcomes, expected) => {
    const steps = [...expected.matchAll(/([hdu?])(\*?)/g)].map(
      ([, letter, star]) => names[letter as keyof typeof names] + star,
    );
    expect(steps.length).toBe(outcomes.length);
    const states = await database.sql<{ status: string; is_flapping: boolean; status_since: Date }[]>`
      with recursive step as (
        select 0 as n, jsonb_populate_record(null::obs.service_state,
          '{"status": "unknown", "consecutive_failures": 0, "consecutive_successes": 0, "outcomes": "", "is_flapping": false}') as state
        union all
        select s.n + 1, lib.observe_probe(s.state, (${outcomes.split('').map((o) => letters[o as keyof typeof letters])}::text[])[s.n + 1],
          ${failures}, ${successes}, ${at(0)}::timestamptz + (s.n + 1) * interval '1 second')
        from step s where s.n < ${outcomes.length}
      )
      select (state).status, (state).is_flapping, (state).status_since from step where n > 0 order by n`;
    expect(states.map(({ status, is_flapping }) => status + (is_flapping ? '*' : ''))).toEqual(steps);
    // Since when: the step of its last change.
    states.forEach(({ status, status_since }, i) => {
      if (i === 0 ? status === 'unknown' : states[i - 1]!.status === status)
        expect(status_since).toEqual(i === 0 ? null : states[i - 1]!.status_since);
      else expect(status_since).toEqual(at(i + 1));
    });
  });

  test('flapping ends once 18 of 20 probes were as the one before', async () => {
    const outcomes = `udududu${'u'.repeat(20)}`;
    const states = await database.sql<{ is_flapping: boolean }[]>`
      with recursive step as (
        select 0 as n, jsonb_populate_record(null::obs.service_state,
          '{"status": "unknown", "consecutive_failures": 0, "consecutive_successes": 0, "outcomes": "", "is_flapping": false}') as state
        union all
        select s.n + 1, lib.observe_probe(s.state, (${outcomes.split('').map((o) => letters[o as keyof typeof letters])}::text[])[s.n + 1],
          1, 1, ${at(0)}) from step s where s.n < ${outcomes.length}
      )
      select (state).is_flapping from step where n > 0 order by n`;
    const flaps = states.map(({ is_flapping }) => is_flapping);
    // 21 outcomes are 20 changes. The last two of the six leave the window with the 26th outcome.
    expect(flaps.indexOf(true)).toBe(6);
    expect(flaps.lastIndexOf(true)).toBe(23);
  });
});

describe('slots', () => {
  test('are an interval apart, hold their time, and do not drift', async () => {
    const rows = await database.sql<{ ok: boolean }[]>`
      select lib.slot_start(s, i, t) <= t and t < lib.slot_start(s, i, t) + make_interval(secs => i)
        and lib.slot_start(s, i, lib.slot_start(s, i, t)) = lib.slot_start(s, i, t)
        and lib.slot_start(s, i, t + make_interval(secs => 1000 * i)) = lib.slot_start(s, i, t) + make_interval(secs => 1000 * i)
        as ok
      from generate_series(1, 50) s, unnest(array[5, 7, 10, 60, 3600, 86400]) i,
        unnest(array['2026-11-25 12:00:00.123456+00', '2031-02-28 23:59:59.999+00', '1999-12-31 00:00:00+00']::timestamptz[]) t`;
    expect(rows.length).toBe(900);
    expect(rows.filter(({ ok }) => !ok)).toEqual([]);
  });

  test('of a thousand services are spread evenly', async () => {
    const [row] = await database.sql<{ most: number; least: number }[]>`
      select max(n)::int as most, min(n)::int as least from (
        select floor(extract(epoch from lib.slot_start(s, 10, '2026-11-25 12:00:09.999+00')) * 10) as tenth, count(*) as n
        from generate_series(4001, 5000) s group by 1) x`;
    expect(row!.most).toBeLessThanOrEqual(13);
    expect(row!.least).toBeGreaterThanOrEqual(7);
  });

  test('are claimed once, by whoever comes first, and the next one is scheduled with it', async () => {
    const ids = (await Promise.all(['a', 'b', 'c'].map((name) => register(name)))).sort((a, b) => a - b);
    // Each twice in one call too.
    const claims = await Promise.all(Array.from({ length: 8 }, () => claim([...ids, ...ids].reverse(), 1)));
    expect(
      claims
        .flat()
        .map(({ service_id }) => service_id)
        .sort((a, b) => a - b),
    ).toEqual(ids);
    for (const id of ids) {
      const { next_check_at } = await stateOf(id);
      const [job] = await database.sql<{ run_at: Date }[]>`
        select run_at from graphile_worker.jobs where key = ${`probe:${id}`}`;
      expect(job!.run_at).toEqual(next_check_at);
      expect(next_check_at!.getTime()).toBeGreaterThan(at(1).getTime());
      expect(next_check_at!.getTime()).toBeLessThanOrEqual(at(11).getTime());
      // Not again before it, and then again.
      expect(await claim([id], (next_check_at!.getTime() - start) / 1000 - 0.001)).toEqual([]);
      const [next] = await claim([id], (next_check_at!.getTime() - start) / 1000 + 0.2);
      expect(next!.slot).toEqual(next_check_at);
    }
  });

  test('that every worker missed are not made up for, and the next probes come spread over ten seconds', async () => {
    const ids = await Promise.all(
      Array.from({ length: 30 }, (_, i) => register(`s${i}`, { check_interval_seconds: 60 })),
    );
    expect(await claim(ids, 600)).toEqual([]);
    const next = await Promise.all(
      ids.map(async (id) => ((await stateOf(id)).next_check_at!.getTime() - start) / 1000 - 600),
    );
    expect(Math.min(...next)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...next)).toBeLessThanOrEqual(10);
    expect(new Set(next.map(Math.floor)).size).toBeGreaterThan(6);
    // And however late they are then, they are probed.
    expect(await claim(ids, 900)).toHaveLength(30);
  });

  test('whose job was lost get another within seconds', async () => {
    const id = await register('a');
    await database.sql`select graphile_worker.complete_jobs(array(select id from graphile_worker.jobs))`;
    const heal = async (seconds: number) =>
      (await worker<{ n: number }[]>`select job.heal_probes(${at(seconds)}) as n`)[0]!.n;
    expect(await heal(2.9)).toBe(0);
    expect(await heal(3.1)).toBe(1);
    const jobs = await database.sql`select run_at from graphile_worker.jobs where key = ${`probe:${id}`}`;
    expect(jobs).toEqual([{ run_at: at(0) }]);
    // It is there: another look changes nothing.
    expect(await heal(4)).toBe(0);
    expect(await database.sql`select run_at from graphile_worker.jobs where key = ${`probe:${id}`}`).toEqual(
      jobs,
    );
  });

  test('whose job failed get another too', async () => {
    const id = await register('a');
    await database.sql`update graphile_worker._private_jobs set attempts = max_attempts where key = ${`probe:${id}`}`;
    expect(await worker`select job.heal_probes(${at(4)}) as n`).toEqual([{ n: 1 }]);
    expect(
      await database.sql`select attempts from graphile_worker.jobs where key = ${`probe:${id}`}`,
    ).toEqual([{ attempts: 0 }]);
  });

  test('that are skipped move on without a probe, and are told after two of them', async () => {
    const id = await register('a');
    await record([resultOf(id, 0)], 0);
    const skip = (seconds: number) => worker`
      select service_id from job.claim_probes(${`{${id}}`}::text::int[], '{false}', ${at(seconds)}, '{true}')`;
    expect(await skip(1)).toEqual([]);
    const { next_check_at } = await stateOf(id);
    expect(next_check_at!.getTime()).toBeGreaterThan(at(1).getTime());
    const status = async (seconds: number) =>
      JSON.parse(
        (await api`select api.get_services_health(${orgId}, false, ${at(seconds)}) as answer`)[0]!.answer,
      ).services.a.current_status;
    await database.sql`update obs.service_state set next_check_at = ${at(1000)} where service_id = ${id}`;
    expect(await status(79)).toBe('healthy');
    expect(await status(81)).toBe('unknown');
  });

  test('a requested check takes no slot', async () => {
    const id = await register('a');
    const [requested] = await claim([id], 1, true);
    expect(requested!.slot).toBeNull();
    expect(await claim([id], 1)).toHaveLength(1);
  });
});

describe('what is recorded', () => {
  test('is recorded once, however often it is sent', async () => {
    const id = await register('a');
    await record([resultOf(id, 1)], 1);
    await record([resultOf(id, 1), resultOf(id, 1)], 2);
    const [row] = await database.sql<{ results: number; samples: number; checks: number }[]>`
      select
        (select count(*)::int from obs.probe_result where service_id = ${id}) as results,
        (select count(*)::int from obs.sample m join obs.service s on m.series_id = s.up_series_id where s.id = ${id}) as samples,
        (select sum(up_count + degraded_count + down_count)::int from obs.probe_1h where service_id = ${id}) as checks`;
    expect(row).toEqual({ results: 1, samples: 1, checks: 1 });
    expect(await stateOf(id)).toMatchObject({ status: 'healthy', consecutive_successes: 1 });
  });

  test('a slot counts once, however often the service is changed within it', async () => {
    const id = await register('a', { check_interval_seconds: 86_400, failure_threshold: 9 });
    for (let i = 0; i < 4; i++) {
      await api`select api.put_service(${orgId}, 'a', ${JSON.stringify({ timeout_seconds: 1 + i })}::text::jsonb, 'me')`;
      await database.sql`update obs.service_state set next_check_at = ${at(i)} where service_id = ${id}`;
      const [claimed] = await claim([id], i);
      await record([{ ...resultOf(id, i, { outcome: 'down' }), slot: claimed!.slot }], i);
    }
    const [day] = await database.sql<{ n: number; seconds: number }[]>`
      select sum(down_count)::int as n, sum(down_seconds) as seconds from obs.probe_1d where service_id = ${id}`;
    expect(day!.n).toBe(1);
    // It began to be watched within the slot: what is left of it from the probe on.
    const { next_check_at } = await stateOf(id);
    expect(day!.seconds).toBeCloseTo((next_check_at!.getTime() - start) / 1000, 3);
    expect(await stateOf(id)).toMatchObject({ consecutive_failures: 4 });
  });

  test('what probes do not depend on is changed without one', async () => {
    const id = await register('a');
    await record([resultOf(id, 1)], 1);
    await api`select api.put_service(${orgId}, 'a', '{"tags": ["x"], "failure_threshold": 5, "description": "d"}', 'me')`;
    expect((await stateOf(id)).next_check_at).toEqual(at(0));
  });

  test('older than what is known changes nothing but the history', async () => {
    const id = await register('a', { failure_threshold: 1 });
    await record([resultOf(id, 20)], 20);
    await record([resultOf(id, 10, { outcome: 'down' })], 21);
    expect(await stateOf(id)).toMatchObject({ status: 'healthy', consecutive_failures: 0 });
    expect(await alertsOf()).toEqual([]);
  });

  test('the tiers are what the results of the slots give, and uptime weighs time', async () => {
    const id = await register('a', { sla_target_percent: 99 });
    const outcomes = ['up', 'degraded', 'down', 'up', 'down'] as const;
    await record(
      outcomes.map((outcome, i) => resultOf(id, i * 10, { outcome })),
      50,
    );
    // One that was asked for is no part of it.
    await record([{ ...resultOf(id, 55, { outcome: 'down' }), slot: null }], 55);
    await api`select api.put_service(${orgId}, 'a', '{"check_interval_seconds": 60}', 'me')`;
    await record([resultOf(id, 59)], 59);
    const [hour] = await database.sql`
      select sum(up_count)::int as up, sum(degraded_count)::int as degraded, sum(down_count)::int as down, sum(observed_seconds) as observed,
        sum(down_seconds) as down_seconds, sum(response_time_sum_ms) as ms
      from obs.probe_1h where service_id = ${id}`;
    expect(hour).toEqual({ up: 3, degraded: 1, down: 2, observed: 110, down_seconds: 20, ms: 80 });
    const [service] = await api<{ uptime: Record<string, object>; sla: object }[]>`
      select uptime, sla from api.get_service(${orgId}, 'a', ${at(59)})`;
    for (const period of ['24h', '7d', '30d', '90d']) {
      expect(service!.uptime[period], period).toMatchObject({
        uptime_percentage: 81.8182,
        checks: 6,
        observed_seconds: 110,
        down_seconds: 20,
        avg_response_time_ms: 20,
      });
    }
    expect(service!.sla).toEqual({
      target_percent: 99,
      period: '30d',
      uptime_percentage: 81.8182,
      is_met: false,
      error_budget_seconds: 25_920,
      error_budget_remaining_seconds: 25_900,
      error_budget_remaining_percent: 99.923,
    });
  });

  test('is metrics of the org', async () => {
    const id = await register('a');
    await record([resultOf(id, 1), resultOf(id, 11, { outcome: 'down' })], 11);
    const samples = await database.sql`
      select s.name, s.service_name, m.value from obs.sample m join obs.series s on s.id = m.series_id
      where s.org_id = ${orgId} order by s.name, m.time`;
    expect(samples.map(({ name, service_name, value }) => [name, service_name, value])).toEqual([
      ['probe_duration_ms', 'a', 20],
      ['probe_duration_ms', 'a', 20],
      ['probe_up', 'a', 1],
      ['probe_up', 'a', 0],
    ]);
  });
});

describe('alerts of a service', () => {
  const play = async (id: number, outcomes: string, from = 0) => {
    for (const [i, letter] of [...outcomes].entries())
      await record([resultOf(id, from + i * 10, { outcome: letters[letter as 'u'] as 'up' })], from + i * 10);
  };

  test('one opens when it becomes unhealthy, and recovery resolves it', async () => {
    const id = await register('a', { failure_threshold: 2, success_threshold: 2, alert_severity: 'warning' });
    await play(id, 'uddddu');
    expect(await alertsOf()).toEqual(['firing: firing']);
    await play(id, 'u', 60);
    expect(await alertsOf()).toEqual(['resolved: firing, resolved']);
    const [alert] = await database.sql`select * from obs.alert where org_id = ${orgId}`;
    expect(alert).toMatchObject({
      name: 'a is unhealthy',
      severity: 'warning',
      service_name: 'a',
      source: 'service',
      started_at: at(20),
      resolved_at: at(60),
      description: 'a: was down',
    });
    expect(await eventsOf(id)).toEqual(['unknown > healthy', 'healthy > unhealthy', 'unhealthy > healthy']);
  });

  test('none where alert_on_failure is off', async () => {
    const id = await register('a', { failure_threshold: 1, alert_on_failure: false });
    await play(id, 'ud');
    expect(await stateOf(id)).toMatchObject({ status: 'unhealthy' });
    expect(await alertsOf()).toEqual([]);
  });

  test('one for all the time that it flaps', async () => {
    const id = await register('a', { failure_threshold: 1 });
    // From the sixth change on it flaps; the alert that was open then stays open through all that follows.
    await play(id, 'udududududududud');
    expect(await stateOf(id)).toMatchObject({ is_flapping: true });
    const flapping = await alertsOf();
    expect(flapping.slice(0, 2)).toEqual(Array(2).fill('resolved: firing, resolved'));
    expect(flapping.slice(2)).toEqual(['firing: firing, flapping']);
    await play(id, 'u'.repeat(25), 200);
    const after = await alertsOf();
    expect(after).toHaveLength(3);
    expect(after[2]).toBe('resolved: firing, flapping, stable, resolved');
    expect((await eventsOf(id)).filter((event) => event === 'flapping' || event === 'stable')).toEqual([
      'flapping',
      'stable',
    ]);
  });

  test('resolved by hand too early, another opens after as many failures again', async () => {
    const id = await register('a', { failure_threshold: 2 });
    await play(id, 'udd');
    const [{ id: alertId }] =
      (await database.sql`select id from obs.alert where org_id = ${orgId}`) as unknown as [{ id: string }];
    await api`select api.change_alert(${orgId}, ${alertId}, 'resolved', 'me', null)`;
    await play(id, 'd', 30);
    expect(await alertsOf()).toEqual(['resolved: firing, resolved']);
    await play(id, 'd', 40);
    expect(await alertsOf()).toEqual(['resolved: firing, resolved', 'firing: firing']);
  });

  test('resolved by hand at the moment of recovery: the probe is recorded all the same', async () => {
    const id = await register('a', { failure_threshold: 1 });
    await play(id, 'ud');
    const [{ id: alertId }] =
      (await database.sql`select id from obs.alert where org_id = ${orgId}`) as unknown as [{ id: string }];
    let recording: Promise<unknown>;
    await api.begin(async (sql) => {
      await sql`select api.change_alert(${orgId}, ${alertId}, 'resolved', 'me', null)`;
      recording = record([resultOf(id, 20)], 20);
      await new Promise((resolve) => setTimeout(resolve, 200));
    });
    await recording!;
    expect(await stateOf(id)).toMatchObject({ status: 'healthy' });
    expect(await alertsOf()).toEqual(['resolved: firing, resolved']);
  });

  test('ends with alert_on_failure, and opens with it', async () => {
    const id = await register('a', { failure_threshold: 2 });
    await play(id, 'udd');
    await api`select api.put_service(${orgId}, 'a', '{"alert_on_failure": false}', 'me')`;
    expect(await alertsOf()).toEqual(['resolved: firing, resolved']);
    await play(id, 'dd', 30);
    expect(await alertsOf()).toHaveLength(1);
    await api`select api.put_service(${orgId}, 'a', '{"alert_on_failure": true}', 'me')`;
    await play(id, 'dd', 50);
    expect(await alertsOf()).toEqual(['resolved: firing, resolved', 'firing: firing']);
  });

  test('acknowledged is not opened again, and is resolved by recovery', async () => {
    const id = await register('a', { failure_threshold: 1 });
    await play(id, 'ud');
    const [{ id: alertId }] =
      (await database.sql`select id from obs.alert where org_id = ${orgId}`) as unknown as [{ id: string }];
    await api`select api.change_alert(${orgId}, ${alertId}, 'acknowledged', 'me', 'on it')`;
    await play(id, 'dd', 20);
    expect(await alertsOf()).toEqual(['acknowledged: firing, acknowledged']);
    await play(id, 'u', 40);
    expect(await alertsOf()).toEqual(['resolved: firing, acknowledged, resolved']);
  });

  test('name the dependency that is unhealthy, found before or after, also a dependency of a dependency', async () => {
    const db = await register('db', { failure_threshold: 1 });
    const auth = await register('auth', { failure_threshold: 1, depends_on: ['db', 'not-registered'] });
    const web = await register('web', { failure_threshold: 1, depends_on: ['auth'] });
    await record([resultOf(auth, 10, { outcome: 'down' })], 10);
    await record([resultOf(db, 11, { outcome: 'down' })], 11);
    await record([resultOf(web, 12, { outcome: 'down' })], 12);
    const alerts = await database.sql<{ name: string; of: string[]; description: string }[]>`
      select service_name as name, metadata -> 'unhealthy_dependencies' as of, description from obs.alert where org_id = ${orgId} order by 1`;
    expect(alerts.map(({ name, of }) => [name, of])).toEqual([
      ['auth', ['db']],
      ['db', []],
      ['web', ['auth', 'db']],
    ]);
    expect(alerts[0]!.description).toBe('auth: was down. It depends on db, unhealthy too');
    expect(alerts[2]!.description).toBe('web: was down. It depends on auth, db, unhealthy too');
    expect((await alertsOf())[0]).toBe('firing: firing, dependency_unhealthy');
  });

  test('dependencies in a circle end', async () => {
    const a = await register('a', { failure_threshold: 1, depends_on: ['b'] });
    const b = await register('b', { failure_threshold: 1, depends_on: ['a'] });
    await record([resultOf(a, 10, { outcome: 'down' }), resultOf(b, 10, { outcome: 'down' })], 10);
    expect(await alertsOf()).toHaveLength(2);
  });

  test('two results at once, by two workers, open one alert', async () => {
    const id = await register('a', { failure_threshold: 1 });
    await Promise.all(
      [1, 2, 3, 4].map((n) => record([resultOf(id, 10 + n / 10, { outcome: 'down' })], 11, `worker-${n}`)),
    );
    expect(await alertsOf()).toEqual(['firing: firing']);
  });
});

describe('a pause', () => {
  const pause = (name: string, until: Date | null = null) =>
    api`select api.patch_service(${orgId}, ${name}, '{}', true, ${until}, 'me')`;
  const resume = (name: string) => api`select api.patch_service(${orgId}, ${name}, '{}', false, null, 'me')`;

  test('ends probes and the alert, counts for nothing, and begins anew', async () => {
    const id = await register('a', { failure_threshold: 2 });
    await record([resultOf(id, 0, { outcome: 'down' }), resultOf(id, 10, { outcome: 'down' })], 10);
    await pause('a');
    expect(await stateOf(id)).toMatchObject({
      status: 'unknown',
      is_paused: true,
      next_check_at: null,
      consecutive_failures: 0,
    });
    expect(await alertsOf()).toEqual(['resolved: firing, resolved']);
    expect(await claim([id], 100)).toEqual([]);
    // A probe that was under way.
    await record([resultOf(id, 20, { outcome: 'down' })], 21);
    const before =
      await database.sql`select sum(down_count)::int as n from obs.probe_1h where service_id = ${id}`;
    expect(before).toEqual([{ n: 2 }]);
    expect(await stateOf(id)).toMatchObject({ status: 'unknown', consecutive_failures: 0 });
    await resume('a');
    expect(await stateOf(id)).toMatchObject({ is_paused: false, status: 'unknown', reason: null });
    await database.sql`update obs.service_state set next_check_at = ${at(100)} where service_id = ${id}`;
    expect(await claim([id], 101)).toHaveLength(1);
    await record([resultOf(id, 101, { outcome: 'down' })], 101);
    expect(await stateOf(id)).toMatchObject({ status: 'unknown', consecutive_failures: 1 });
    expect((await eventsOf(id)).slice(0, 1)).toEqual(['unknown > unhealthy']);
    expect(await eventsOf(id)).toEqual(expect.arrayContaining(['paused', 'resumed']));
  });

  test('with an end ends by itself', async () => {
    const id = await register('a');
    const until = new Date(Date.now() + 3_600_000);
    await pause('a', until);
    const seconds = (until.getTime() - start) / 1000;
    expect(await claim([id], seconds - 1)).toEqual([]);
    expect(await stateOf(id)).toMatchObject({ is_paused: true, next_check_at: until });
    expect(await claim([id], seconds + 0.5)).toHaveLength(1);
    expect(await stateOf(id)).toMatchObject({ is_paused: false });
    expect(await eventsOf(id)).toEqual(['paused', 'resumed']);
  });

  test('of a service that is not paused changes nothing', async () => {
    const id = await register('a');
    await record([resultOf(id, 1)], 1);
    await resume('a');
    expect(await stateOf(id)).toMatchObject({ status: 'healthy' });
    expect(await eventsOf(id)).toEqual(['unknown > healthy']);
  });
});

describe('a worker without a network', () => {
  const unreachable = (host: string): Outcome => ({
    outcome: 'down',
    network: 'unreachable',
    host,
    reason: 'no route',
  });

  test('is told apart from the third service on a second host: nothing is counted, no alert but its own', async () => {
    const ids = await Promise.all(
      ['a', 'b', 'c', 'd'].map((name) => register(name, { failure_threshold: 2 })),
    );
    await record(
      ids.map((id) => resultOf(id, 0)),
      0,
    );
    const hosts = ['x', 'x', 'y', 'y'];
    expect(await record([resultOf(ids[0]!, 10, unreachable('x'))], 10)).toBe(false);
    expect(await record([resultOf(ids[1]!, 11, unreachable('x'))], 11)).toBe(false);
    expect(await record([resultOf(ids[2]!, 12, unreachable('y'))], 12)).toBe(true);
    const home = async () =>
      (
        await database.sql<{ status: string }[]>`
          select a.status from obs.alert a join obs.org o on o.id = a.org_id
          where o.external_id = 'home' and a.source = 'worker' order by a.started_at desc limit 1`
      )[0]?.status;
    for (let round = 2; round < 9; round++) {
      expect(
        await record(
          ids.map((id, i) => resultOf(id, round * 10, unreachable(hosts[i]!))),
          round * 10,
        ),
      ).toBe(true);
      // Told once it has lasted a minute.
      expect(await home(), `${round}`).toBe(round * 10 < 12 + 60 ? undefined : 'firing');
    }
    for (const [i, id] of ids.entries()) {
      expect(await stateOf(id), `service ${i}`).toMatchObject({
        status: 'unknown',
        reason: 'the worker has no network: no route',
        consecutive_failures: 0,
      });
    }
    expect(await alertsOf()).toEqual([]);
    const [{ down, seconds }] = (await database.sql`
      select sum(down_count)::int as down, sum(observed_seconds) as seconds from obs.probe_1h where service_id = any (${ids})`) as unknown as [
      { down: number; seconds: number },
    ];
    expect([down, seconds]).toEqual([2, 60]);

    // One answer, and it is over.
    expect(
      await record(
        ids.map((id, i) => (i === 0 ? resultOf(id, 90) : resultOf(id, 90, unreachable(hosts[i]!)))),
        90,
      ),
    ).toBe(false);
    expect(await home()).toBe('resolved');
    expect(await stateOf(ids[0]!)).toMatchObject({ status: 'healthy' });
  });

  test('takes back what was concluded before it could be told, also an alert', async () => {
    const ids = await Promise.all(['a', 'b', 'c'].map((name) => register(name, { failure_threshold: 1 })));
    await record(
      ids.map((id) => resultOf(id, 0)),
      0,
    );
    for (const [i, id] of ids.entries()) await record([resultOf(id, 10 + i, unreachable(`h${i}`))], 10 + i);
    for (const id of ids)
      expect(await stateOf(id)).toMatchObject({ status: 'unknown', consecutive_failures: 0 });
    expect(await alertsOf()).toEqual(['resolved: firing, resolved', 'resolved: firing, resolved']);
    await record(
      ids.map((id) => resultOf(id, 20)),
      20,
    );
    for (const id of ids) expect(await stateOf(id)).toMatchObject({ status: 'healthy' });
  });

  test('is not taken for one for longer than a round when some host answers: twenty of them are really down', async () => {
    const ids = await Promise.all(
      Array.from({ length: 21 }, (_, i) =>
        register(`s${i}`, { failure_threshold: 3, check_interval_seconds: 30 }),
      ),
    );
    const answering = ids.pop()!;
    await record(
      [...ids, answering].map((id) => resultOf(id, 0)),
      0,
    );
    const unhealthyAfter: number[] = [];
    for (let round = 1; round <= 5; round++) {
      for (const [i, id] of ids.entries())
        await record([resultOf(id, round * 30 + i, unreachable(`h${i}`))], round * 30 + i);
      await record([resultOf(answering, round * 30 + 25)], round * 30 + 25);
      const [row] = await database.sql<{ n: number }[]>`
        select count(*)::int as n from obs.service_state where org_id = ${orgId} and status = 'unhealthy'`;
      unhealthyAfter.push(row!.n);
    }
    // One round later than without the doubt.
    expect(unhealthyAfter).toEqual([0, 0, 0, 20, 20]);
    expect(await alertsOf()).toHaveLength(20);
    expect(
      await database.sql`select from obs.alert where source = 'worker' and started_at >= ${at(0)} and org_id <> ${orgId} and status = 'firing'`,
    ).toEqual([]);
  });

  test('leaves an alert open: that the service is well has not been learned', async () => {
    const ids = await Promise.all(
      ['a', 'b', 'c', 'd'].map((name) => register(name, { failure_threshold: 1 })),
    );
    await record(
      ids.map((id, i) => resultOf(id, 0, i === 0 ? { outcome: 'down' } : {})),
      0,
    );
    await record(
      ids.slice(1).map((id, i) => resultOf(id, 10, unreachable(`h${i}`))),
      10,
    );
    await record([resultOf(ids[0]!, 11, unreachable('h9'))], 11);
    expect(await stateOf(ids[0]!)).toMatchObject({ status: 'unhealthy' });
    expect(await alertsOf()).toEqual(['firing: firing']);
  });

  test.each([
    [
      'hosts that answer in between',
      (i: number): Outcome => (i % 3 === 2 ? { outcome: 'down' } : unreachable(`h${i}`)),
    ],
    ['services on one host', (): Outcome => unreachable('x')],
    [
      'refusals, which are answers',
      (i: number): Outcome => ({ outcome: 'down', network: 'answered', host: `h${i}` }),
    ],
    [
      'targets of its own machine',
      (i: number): Outcome => ({ outcome: 'down', network: null, host: `h${i}` }),
    ],
  ])('is not taken for one: %s', async (_name, outcome) => {
    const ids = await Promise.all(
      Array.from({ length: 6 }, (_, i) => register(`s${i}`, { failure_threshold: 1 })),
    );
    await record(
      ids.map((id) => resultOf(id, 0)),
      0,
    );
    for (const [i, id] of ids.entries())
      expect(await record([resultOf(id, 10 + i, outcome(i))], 10 + i)).toBe(false);
    for (const id of ids) expect(await stateOf(id)).toMatchObject({ status: 'unhealthy' });
  });

  test('is not taken for one: services that never answered', async () => {
    const ids = await Promise.all(
      Array.from({ length: 4 }, (_, i) => register(`s${i}`, { failure_threshold: 1 })),
    );
    expect(
      await record(
        ids.map((id, i) => resultOf(id, 10, unreachable(`h${i}`))),
        10,
      ),
    ).toBe(false);
    for (const id of ids) expect(await stateOf(id)).toMatchObject({ status: 'unhealthy' });
  });

  test('says nothing of another worker', async () => {
    const ids = await Promise.all(['a', 'b', 'c'].map((name) => register(name, { failure_threshold: 1 })));
    await record(
      ids.map((id) => resultOf(id, 0)),
      0,
    );
    expect(
      await record(
        ids.map((id, i) => resultOf(id, 10, unreachable(`h${i}`))),
        10,
        'cut-off',
      ),
    ).toBe(true);
    expect(
      await record(
        ids.map((id) => resultOf(id, 20)),
        20,
        'connected',
      ),
    ).toBe(false);
    for (const id of ids) expect(await stateOf(id)).toMatchObject({ status: 'healthy' });
  });
});

describe('a heartbeat service', () => {
  const beat = (seconds: number, outcome = 'up', reason: string | null = null) =>
    api`select api.record_heartbeat(${orgId}, 'cron', ${outcome}, ${reason}, 'me', ${at(seconds)})`;
  const definition = { kind: 'heartbeat', health_endpoint: null, timeout_seconds: 5, failure_threshold: 1 };
  // Its slots come to their own time, of which a test knows only that it is due by the end of an interval.
  const tick = async (id: number, seconds: number) => {
    await database.sql`
      update obs.service_state set next_check_at = ${at(seconds)}, last_slot = null where service_id = ${id}`;
    expect(await claim([id], seconds)).toEqual([]);
  };
  const counts = async (id: number) =>
    (
      await database.sql`
      select coalesce(sum(up_count), 0)::int as up, coalesce(sum(degraded_count), 0)::int as degraded, coalesce(sum(down_count), 0)::int as down
      from obs.probe_1h where service_id = ${id}`
    )[0];

  test('is healthy with its first, and unhealthy when one is missing', async () => {
    const id = await register('cron', definition);
    await tick(id, 9);
    expect(await stateOf(id)).toMatchObject({ status: 'unknown' });
    await beat(10);
    expect(await stateOf(id)).toMatchObject({ status: 'healthy' });
    await tick(id, 12);
    await tick(id, 24.9);
    expect(await stateOf(id)).toMatchObject({ status: 'healthy', consecutive_successes: 1 });
    expect(await counts(id)).toEqual({ up: 2, degraded: 0, down: 0 });
    await tick(id, 25.1);
    expect(await stateOf(id)).toMatchObject({ status: 'unhealthy', reason: 'no heartbeat for 15 s' });
    expect(await alertsOf()).toEqual(['firing: firing']);
    await beat(26);
    expect(await alertsOf()).toEqual(['resolved: firing, resolved']);
    expect(await counts(id)).toEqual({ up: 2, degraded: 0, down: 1 });
  });

  test('that never calls is unhealthy after its time', async () => {
    const id = await register('cron', definition);
    await tick(id, 14.9);
    expect(await stateOf(id)).toMatchObject({ status: 'unknown' });
    await tick(id, 15.1);
    expect(await stateOf(id)).toMatchObject({ status: 'unhealthy', reason: 'no heartbeat has come yet' });
  });

  test('says itself how it is', async () => {
    const id = await register('cron', definition);
    await beat(1, 'degraded', 'disk is filling');
    expect(await stateOf(id)).toMatchObject({ status: 'degraded', reason: 'disk is filling' });
    await tick(id, 2);
    await beat(3, 'down', 'backup failed');
    expect(await stateOf(id)).toMatchObject({ status: 'unhealthy', reason: 'backup failed' });
    await tick(id, 4);
    expect(await counts(id)).toEqual({ up: 0, degraded: 1, down: 1 });
    expect(await stateOf(id)).toMatchObject({ status: 'unhealthy', consecutive_failures: 1 });
  });

  test('paused has its time anew when it is resumed', async () => {
    const id = await register('cron', definition);
    await beat(1);
    await api`select api.patch_service(${orgId}, 'cron', '{}', true, null, 'me')`;
    await database.sql`
      update obs.service_state set is_paused = false, watched_since = ${at(1000)}, reason = null where service_id = ${id}`;
    await tick(id, 1014);
    expect(await stateOf(id)).toMatchObject({ status: 'unknown', reason: null });
    await tick(id, 1016);
    expect(await stateOf(id)).toMatchObject({ status: 'unhealthy' });
  });
});

test('that no worker has come for a minute is shown as unknown', async () => {
  const id = await register('a');
  await record([resultOf(id, 0)], 0);
  const shown = async () => {
    const [service] = await api<{ state: { current_status: string; reason: string | null } }[]>`
      select state from api.get_service(${orgId}, 'a')`;
    const [health] = await api<
      { answer: string }[]
    >`select api.get_services_health(${orgId}, true) as answer`;
    const [listed] = await api<{ n: number }[]>`
      select count(*)::int as n from api.list_services(${orgId}, null, 'healthy', null, null, 10)`;
    return [service!.state.current_status, JSON.parse(health!.answer).services.a.current_status, listed!.n];
  };
  await database.sql`update obs.service_state set next_check_at = now() - interval '50 seconds', last_slot = now() where service_id = ${id}`;
  expect(await shown()).toEqual(['healthy', 'healthy', 1]);
  await database.sql`update obs.service_state set next_check_at = now() - interval '61 seconds' where service_id = ${id}`;
  expect(await shown()).toEqual(['unknown', 'unknown', 0]);
  const [lag] = await api<{ seconds: number }[]>`select probes as seconds from api.get_lag()`;
  expect(lag!.seconds).toBeGreaterThanOrEqual(61);
});

test('imports, changes and deletions beside workers end in no deadlock, and lose nothing', {
  timeout: 60_000,
}, async () => {
  const names = Array.from({ length: 60 }, (_, i) => `s${String(i).padStart(2, '0')}`);
  const definitions = (interval: number, list: string[]) =>
    JSON.stringify(
      list.map((service_name) => ({
        service_name,
        kind: 'http',
        health_endpoint: 'http://service.test/',
        check_interval_seconds: interval,
        failure_threshold: 1,
      })),
    );
  await api`select api.import_services(${orgId}, ${definitions(10, names)}::text::jsonb, 'me')`;
  const ids = (await database.sql<{ id: number }[]>`select id from obs.service where org_id = ${orgId}`).map(
    ({ id }) => id,
  );
  const until = Date.now() + 4000;
  const repeat = async (work: (n: number) => Promise<unknown>) => {
    // Each a few times at least, also on a machine where that takes longer.
    for (let n = 0; n < 5 || Date.now() < until; n++) await work(n);
  };
  const shuffled = () =>
    ids
      .map((id) => [id, Math.random()] as const)
      .sort((a, b) => a[1] - b[1])
      .map(([id]) => id);
  let seconds = 100;
  await Promise.all([
    repeat(
      (n) =>
        api`select api.import_services(${orgId}, ${definitions(10 + (n % 2), [...names].reverse())}::text::jsonb, 'me')`,
    ),
    repeat(async (n) => {
      const name = names[n % names.length]!;
      await api`select api.patch_service(${orgId}, ${name}, '{}', ${n % 2 === 0}, null, 'me')`;
    }),
    repeat(async () => {
      const some = shuffled().slice(0, 30);
      await worker`select job.claim_probes(${`{${some}}`}::text::int[], array_fill(false, array[30]))`;
    }),
    ...[1, 2].map((n) =>
      repeat(async () => {
        seconds++;
        const outcome = seconds % 2 ? 'up' : 'down';
        await record(
          shuffled()
            .slice(0, 30)
            .map((id) => resultOf(id, seconds + n / 10, { outcome })),
          seconds,
          `worker-${n}`,
        );
      }),
    ),
    repeat(async (n) => {
      const name = `extra-${n}`;
      await api`select api.put_service(${orgId}, ${name}, '{"kind": "heartbeat"}', 'me')`;
      await api`select api.delete_service(${orgId}, ${name}, 'me')`;
    }),
  ]);
  const [row] = await database.sql<{ services: number; open: number }[]>`
    select (select count(*)::int from obs.service where org_id = ${orgId}) as services,
      (select coalesce(max(n), 0)::int from (
        select count(*) as n from obs.alert where org_id = ${orgId} and status <> 'resolved' group by fingerprint) a) as open`;
  expect(row!.services).toBe(60);
  expect(row!.open).toBeLessThanOrEqual(1);
});

test('a change that meets a deletion makes no service', async () => {
  await register('a');
  let patching: Promise<unknown>;
  await api.begin(async (sql) => {
    await sql`select api.delete_service(${orgId}, 'a', 'me')`;
    patching = database.sql`
      select api.patch_service(${orgId}, 'a', '{"kind": "http", "health_endpoint": "http://a.test/"}', null, null, 'me') as is_found`;
    void patching.catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 200));
  });
  expect(await patching!).toEqual([{ is_found: false }]);
  expect(await database.sql`select from obs.service where org_id = ${orgId}`).toEqual([]);
});

test('one org does not see, change, delete or check the services and alerts of another', async () => {
  const id = await register('secret', { failure_threshold: 1 });
  await record([resultOf(id, 1, { outcome: 'down' })], 1);
  const [{ alert_id }] =
    (await database.sql`select id as alert_id from obs.alert where org_id = ${orgId}`) as unknown as [
      { alert_id: string },
    ];
  const [{ id: other }] = (await api`select api.ensure_org('stranger') as id`) as unknown as [{ id: number }];
  const answers = await Promise.all([
    api`select api.has_service(${other}, 'secret') as answer`,
    api`select count(*)::int as answer from api.get_service(${other}, 'secret')`,
    api`select count(*)::int as answer from api.list_services(${other}, null, null, null, null, 10)`,
    api`select count(*)::int as answer from api.list_results(${other}, 'secret', '-infinity', 'infinity', 10)`,
    api`select count(*)::int as answer from api.list_service_events(${other}, 'secret', '-infinity', 'infinity', 10)`,
    api`select count(*)::int as answer from api.get_check(${other}, 'secret', '-infinity')`,
    api`select count(*)::int as answer from api.request_check(${other}, 'secret', 'me')`,
    api`select api.patch_service(${other}, 'secret', '{"tags": ["mine"]}', true, null, 'me') as answer`,
    api`select api.record_heartbeat(${other}, 'secret', 'up', null, 'me') as answer`,
    api`select api.delete_service(${other}, 'secret', 'me') as answer`,
    api`select count(*)::int as answer from api.get_alert(${other}, ${alert_id})`,
    api`select api.change_alert(${other}, ${alert_id}, 'resolved', 'me', null) as answer`,
    api`select json_array_length(alerts) as answer from api.list_alerts(${other}, null, null, null, null, null, null, null, null, 10)`,
    api`select json_array_length(api.export_services(${other})) as answer`,
  ]);
  for (const [i, [row]] of answers.entries()) expect([false, 0, null], `query ${i}`).toContain(row!.answer);
  expect(await stateOf(id)).toMatchObject({ status: 'unhealthy', is_paused: false });
  expect(await alertsOf()).toEqual(['firing: firing']);
});
