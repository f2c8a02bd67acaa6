// Two workers probe a fleet, and one of them is killed half-way: each slot once, none lost for longer than an interval.
import postgres from 'postgres';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { cloneDatabase } from '../support/database.ts';
import { type Fleet, runFleet } from '../support/fleet.ts';

const isSoak = process.env.SOAK === 'true';
const fleet: Fleet = isSoak
  ? { services: 1000, intervalSeconds: 10, seconds: 300, killsOne: true }
  : { services: 200, intervalSeconds: 5, seconds: 30, killsOne: true };

let url: string;
let sql: postgres.Sql;
beforeAll(async () => {
  url = await cloneDatabase(inject('server'));
  sql = postgres(url, { max: 3, onnotice: () => {} });
});
afterAll(() => sql?.end({ timeout: 5 }));

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
