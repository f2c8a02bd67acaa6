// Announcements of lines: positions in the order of commits, ids that no one else has, and each org's for itself.
import postgres from 'postgres';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { parseConfig } from '../../src/config.ts';
import { useDatabase } from '../support/database.ts';
import { jwtSecret } from '../support/process.ts';

const database = useDatabase();
let api: postgres.Sql;
let orgId: number;

beforeAll(() => {
  const config = parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret });
  api = postgres(config.apiDatabaseUrl, { max: 10, onnotice: () => {} });
});
afterAll(() => api?.end());

const makeOrg = async (name: string) =>
  (await api<{ id: number }[]>`select api.ensure_org(${name}) as id`)[0]!.id;
let orgs = 0;
beforeEach(async () => {
  orgId = await makeOrg(`org-${++orgs}`);
});

const now = Math.floor(Date.now() / 60_000) * 60_000_000;
const dateOf = (time: number) => new Date(time / 1000);

async function streamOf(org: number, service = 'auth', level = 'info'): Promise<number> {
  const [row] = await api<{ id: number }[]>`
    select (api.ensure_log_streams(${org}, array[${service}], array[${level}]))[1] as id`;
  return row!.id;
}

const announce = (sql: postgres.ISql, org: number, streamId: number, first = 1) => sql<
  { position: string }[]
>`
  select api.announce_logs(${JSON.stringify([
    {
      org_id: org,
      log_stream_id: streamId,
      minute: dateOf(now),
      line_count: 1,
      byte_count: 1,
      first_id: first,
      last_id: first,
      oldest: dateOf(now),
      newest: dateOf(now),
    },
  ])}::text::jsonb) as position`;

test('who announces later waits for the commit of who came before, and has the higher one', async () => {
  const streamId = await streamOf(orgId);
  const [first, second] = await Promise.all([api.reserve(), api.reserve()]);
  try {
    const pid = (await second<{ pid: number }[]>`select pg_backend_pid() as pid`)[0]!.pid;
    await first`begin`;
    await second`begin`;
    const [a] = await announce(first, orgId, streamId);
    let isSecondDone = false;
    const later = announce(second, orgId, streamId).then(([row]) => {
      isSecondDone = true;
      return row!.position;
    });
    const isWaiting = async () =>
      (await database.sql`select from pg_locks where pid = ${pid} and locktype = 'advisory' and not granted`)
        .length > 0;
    await expect.poll(isWaiting).toBe(true);
    expect(isSecondDone).toBe(false);
    const seen = async () =>
      (
        await database.sql<
          { n: number }[]
        >`select count(*)::int as n from obs.log_arrival where org_id = ${orgId}`
      )[0]!.n;
    expect(await seen()).toBe(0);
    await first`commit`;
    const b = await later;
    expect(Number(b)).toBeGreaterThan(Number(a!.position));
    expect(await seen()).toBe(1);
    await second`commit`;
    expect(await seen()).toBe(2);
  } finally {
    first.release();
    second.release();
  }
});

test('a reader sees them in their order, whoever writes at once, and none in between later', async () => {
  const streamId = await streamOf(orgId);
  let isOver = false;
  let announced = 0;
  const writers = Array.from({ length: 6 }, async () => {
    for (let i = 0; i < 150; i++) {
      await api
        .begin(async (sql) => {
          // What a flush writes before is what flushes differ in.
          await sql`select count(*) from generate_series(1, ${Math.floor(Math.random() * 20_000)}::int)`;
          await announce(sql, orgId, streamId);
          if (i % 10 === 9) throw new Error('rolled back');
        })
        .then(
          () => announced++,
          () => {},
        );
    }
  });
  const seen: number[] = [];
  const reader = (async () => {
    let after = 0;
    for (;;) {
      const isLast = isOver;
      // As tails go on: past the highest position that they have seen.
      const rows = await database.sql<{ position: string }[]>`
          select position from obs.log_arrival where org_id = ${orgId} and position > ${after} order by position`;
      seen.push(...rows.map(({ position }) => Number(position)));
      after = seen.at(-1) ?? 0;
      if (isLast) return;
    }
  })();
  await Promise.all(writers);
  isOver = true;
  await reader;
  expect(announced).toBe(6 * 135);
  const all = await database.sql<{ position: string }[]>`
      select position from obs.log_arrival where org_id = ${orgId} order by position`;
  expect(seen).toEqual(all.map(({ position }) => Number(position)));
  expect(seen).toHaveLength(announced);
});

test('ids of lines are reserved for one alone, however many ask at once', async () => {
  const blocks = await Promise.all(
    Array.from(
      { length: 200 },
      async () =>
        (await api<{ first_id: string; last_id: string }[]>`select * from api.reserve_log_ids()`)[0]!,
    ),
  );
  const ranges = blocks
    .map((block) => [Number(block.first_id), Number(block.last_id)] as const)
    .sort((a, b) => a[0] - b[0]);
  for (const [i, [first, last]] of ranges.entries()) {
    expect(last - first).toBe(99_999);
    if (i > 0) expect(first).toBeGreaterThan(ranges[i - 1]![1]);
  }
});

test('arrivals, lines and positions of one org are out of reach of a call of another', async () => {
  const stranger = await makeOrg('stranger');
  // One flush with lines of both, of which the ids of the one lie among those of the other.
  const [mine, theirs] = [await streamOf(orgId, 'secret'), await streamOf(stranger, 'secret')];
  const first = 1_900_000_000;
  await database.sql`
      insert into obs.log (time, id, log_stream_id, message)
      select ${dateOf(now)}, ${first} + n, case when n % 2 = 0 then ${mine}::int else ${theirs} end, case when n % 2 = 0 then 'mine' else 'theirs' end
      from generate_series(0, 9) n`;
  const arrival = (org: number, id: number) => ({
    org_id: org,
    log_stream_id: id,
    minute: dateOf(now),
    line_count: 5,
    byte_count: 5,
    first_id: first,
    last_id: first + 9,
    oldest: dateOf(now),
    newest: dateOf(now),
  });
  await api`select api.announce_logs(${JSON.stringify([arrival(orgId, mine), arrival(stranger, theirs)])}::text::jsonb)`;
  const outsider = await makeOrg('outsider');
  const tail = (org: number) => api<{ line: string | null; until_position: string | null }[]>`
      select line, until_position from api.tail_logs(${org}, 0, ${JSON.stringify([{ service_name: 'secret' }])}::text::jsonb, 1000000)`;
  const messages = async (org: number) =>
    (await tail(org)).flatMap(({ line }) => (line === null ? [] : [JSON.parse(line).message]));
  expect(await messages(orgId)).toEqual(Array(5).fill('mine'));
  expect(await messages(stranger)).toEqual(Array(5).fill('theirs'));
  expect(await messages(outsider)).toEqual([]);

  const [row] = await api<{ position: string }[]>`select api.get_log_position(${outsider}) as position`;
  const [last] = await database.sql<{ position: string; counted: string }[]>`
      select max(position) as position, (select position from obs.log_counted) as counted from obs.log_arrival`;
  expect(row!.position).toBe(last!.counted);
  expect(Number(last!.position)).toBeGreaterThan(Number(last!.counted));

  const search = async (org: number, filter: object) =>
    (
      await api<{ line_count: number }[]>`
        select line_count from api.search_logs(${org}, ${JSON.stringify(filter)}::text::jsonb, '-infinity', 'infinity', null, null, 100, false, 5)`
    )[0]!.line_count;
  expect(await search(orgId, { service_name: 'secret', q: 'mine' })).toBe(5);
  expect(await search(orgId, { q: 'theirs' })).toBe(0);
  expect(await search(outsider, { service_name: 'secret' })).toBe(0);
  const [context] =
    await api`select line from api.get_log_context(${outsider}, 'secret', ${dateOf(now)}, ${first}, 5, 5)`;
  expect(context!.line).toBeNull();
  const [histogram] = await api<{ counts: { total: number }[] }[]>`
      select api.get_log_histogram(${outsider}, 'secret', 'trace', ${dateOf(now - 3_600_000_000)}, ${dateOf(now + 3_600_000_000)}, '1 hour', 'UTC')::json as counts`;
  expect(histogram!.counts.reduce((sum, { total }) => sum + total, 0)).toBe(0);
});
