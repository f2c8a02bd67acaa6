// Two workers probe a fleet, and one of them is killed half-way: each slot once, none lost for longer than an interval.
import { once } from 'node:events';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import postgres from 'postgres';
import { afterEach, beforeEach, expect, inject, test } from 'vitest';
import { cloneDatabase } from '../support/database.ts';
import { type Fleet, runFleet } from '../support/fleet.ts';
import { startService } from '../support/process.ts';
import { isSoak } from '../support/soak.ts';

const fleet: Fleet = isSoak
  ? { services: 1000, intervalSeconds: 10, seconds: 300, killsOne: true }
  : { services: 100, intervalSeconds: 5, seconds: 20, killsOne: true };

let url: string;
let sql: postgres.Sql;
beforeEach(async () => {
  url = await cloneDatabase(inject('server'));
  sql = postgres(url, { max: 3, onnotice: () => {} });
});
afterEach(() => sql?.end({ timeout: 5 }));

test(`${fleet.services} services each ${fleet.intervalSeconds} s for ${fleet.seconds} s, two workers, one killed half-way`, async () => {
  const { from, until, killedAt, requests } = await runFleet(sql, url, fleet);

  const [twice] = await sql<{ n: number }[]>`
    select count(*)::int as n from (
      select from obs.probe_result where slot is not null group by service_id, slot having count(*) > 1) d`;
  expect(twice!.n, 'slots probed twice').toBe(0);
  const [results] = await sql<{ n: number; down: number }[]>`
    select count(*)::int as n, (count(*) filter (where outcome <> 'up'))::int as down from obs.probe_result`;
  expect(results!.down, 'probes that failed').toBe(0);
  // What the killed worker had asked and could not record.
  expect(requests).toBeGreaterThanOrEqual(results!.n);
  expect(requests - results!.n).toBeLessThanOrEqual(fleet.services / fleet.intervalSeconds);

  const gaps = await sql<{ service_id: number; slots: number; until: Date }[]>`
    select service_id, round(extract(epoch from slot - before) / ${fleet.intervalSeconds})::int as slots, slot as until
    from (
      select service_id, slot, lag(slot) over (partition by service_id order by slot) as before
      from obs.probe_result
      where slot >= ${from} and slot < ${until}
    ) s
    where slot - before <> make_interval(secs => ${fleet.intervalSeconds})`;
  // Slots that nobody probed: one at the most, of few services, and only when the worker was killed.
  for (const gap of gaps) {
    expect(gap.slots, `service ${gap.service_id}`).toBe(2);
    expect(Math.abs(gap.until.getTime() - killedAt!.getTime())).toBeLessThan(
      2 * fleet.intervalSeconds * 1000,
    );
  }
  expect(gaps.length).toBeLessThanOrEqual(fleet.services / 4);
  const [counted] = await sql<{ services: number; fewest: number; most: number }[]>`
    select count(*)::int as services, min(n)::int as fewest, max(n)::int as most
    from (select count(*) as n from obs.probe_result where slot >= ${from} and slot < ${until} group by service_id) c`;
  const expected = (until.getTime() - from.getTime()) / 1000 / fleet.intervalSeconds;
  expect(counted!.services).toBe(fleet.services);
  expect(counted!.fewest).toBeGreaterThanOrEqual(Math.floor(expected) - 1);
  expect(counted!.most).toBeLessThanOrEqual(Math.ceil(expected));
  // The tiers hold every one of them.
  const [tiers] = await sql<{ hours: number; days: number; slots: number }[]>`
    select (select sum(up_count)::int from obs.probe_1h) as hours, (select sum(up_count)::int from obs.probe_1d) as days,
      (select count(*)::int from obs.probe_result where slot is not null) as slots`;
  expect([tiers!.hours, tiers!.days]).toEqual([tiers!.slots, tiers!.slots]);
  const [jobs] = await sql<{ waiting: number }[]>`
    select count(*)::int as waiting from graphile_worker.jobs where key like 'probe:%'`;
  expect(jobs!.waiting).toBe(fleet.services);
});

test('an org whose services all hang holds up its own probes and no other org’s', async () => {
  // Never answers, and never reads.
  const hole = net.createServer((socket) => socket.on('error', () => {}));
  const well = net.createServer((socket) => socket.on('error', () => {}).end());
  for (const server of [hole, well]) {
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
  }
  const register = (org: string, n: number, definition: object) => sql`
    select api.import_services(api.ensure_org(${org}), ${sql.json(
      Array.from({ length: n }, (_, i) => ({ service_name: `s${i}`, ...definition })),
    )}, 'test')`;
  const portOf = (server: net.Server) => (server.address() as net.AddressInfo).port;
  await register('greedy', 200, {
    kind: 'http',
    health_endpoint: `http://127.0.0.1:${portOf(hole)}/`,
    check_interval_seconds: 10,
    timeout_seconds: 10,
  });
  await register('modest', 3, {
    kind: 'tcp',
    health_endpoint: `tcp://127.0.0.1:${portOf(well)}`,
    check_interval_seconds: 5,
  });
  const worker = await startService('worker', { DATABASE_URL: url, PROBE_CONCURRENCY: '20' });
  try {
    // The greedy org has its places and its line by then.
    await sleep(8000);
    const from = new Date();
    await sleep(20_000);
    const until = new Date(from.getTime() + 15_000);
    const slots = await sql<{ name: string; n: number; up: boolean }[]>`
      select s.name, count(*)::int as n, bool_and(r.outcome = 'up') as up
      from obs.probe_result r join obs.service s on s.id = r.service_id join obs.org o on o.id = s.org_id
      where o.external_id = 'modest' and r.slot >= ${from} and r.slot < ${until} group by s.name order by 1`;
    expect(slots).toEqual(['s0', 's1', 's2'].map((name) => ({ name, n: 3, up: true })));
    // The greedy one goes on too, with what it has: a fifth of the places at the least are not its own.
    const [greedy] = await sql<{ n: number }[]>`
      select count(*)::int as n from obs.probe_result r join obs.service s on s.id = r.service_id join obs.org o on o.id = s.org_id
      where o.external_id = 'greedy'`;
    expect(greedy!.n).toBeGreaterThanOrEqual(16);
    expect(greedy!.n).toBeLessThanOrEqual(60);
  } finally {
    await worker.kill();
    hole.close();
    well.close();
  }
});
