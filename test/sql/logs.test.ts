// Searches of logs against the same told in TypeScript, whichever way the database takes to find the lines.
import fc from 'fast-check';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { parseConfig } from '../../src/config.ts';
import { formatTimestamp } from '../../src/timestamp.ts';
import { useDatabase } from '../support/database.ts';
import { createRecorder, type Line, type Stored } from '../support/lines.ts';
import { type Filter, matches, type Query, type Term, toFilter, wordsOf } from '../support/log_search.ts';
import { jwtSecret } from '../support/process.ts';
import { isSoak } from '../support/soak.ts';

const database = useDatabase();
const isApache = inject('server').edition === 'apache';
const seed = Number(process.env.SEED || Math.floor(Math.random() * 2 ** 31));
let api: postgres.Sql;
let worker: postgres.Sql;
let recorder: ReturnType<typeof createRecorder>;
let acme: number;
let other: number;

beforeAll(async () => {
  // So that a search can be asked which ways it took: see waysOf.
  await database.sql.unsafe(
    `alter database ${new URL(database.url).pathname.slice(1)} set track_functions = 'pl'`,
  );
  const config = parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret });
  api = postgres(config.apiDatabaseUrl, { max: 1, onnotice: () => {} });
  worker = postgres(config.workerDatabaseUrl, { max: 2, onnotice: () => {} });
  recorder = createRecorder(database.url);
  [acme, other] = (await Promise.all(
    ['acme', 'other'].map(
      async (org) => (await api<{ id: number }[]>`select api.ensure_org(${org}) as id`)[0]!.id,
    ),
  )) as [number, number];
});
afterAll(async () => {
  await Promise.all([api?.end(), worker?.end(), recorder?.end()]);
});

const second = 1e6;
const hour = 3600 * second;
const now = Math.floor(Date.now() / 1000) * second;
const boundary = (Math.floor(now / (4 * hour)) - 2) * 4 * hour;

interface Search {
  filter: Filter;
  punctuation: string;
  start: string;
  end: string;
  limit: number;
  seconds: number;
}

interface Ways {
  /** Steps of scanning, by the counts of lines. */
  steps: number;
  /** Indexes of words that were looked into: a chunk has one. */
  indexes: number;
  pages: number;
}

/** Walks all pages; the lines, and which ways were taken as the statistics of the transaction tell. */
async function search(orgId: number, { filter, punctuation, start, end, limit, seconds }: Search) {
  // The statistics of a transaction are those since they were last written: none before it, that is.
  await api`select pg_stat_force_next_flush()`;
  return await api.begin(async (sql) => {
    const lines: Record<string, unknown>[] = [];
    let before: { until_time: string | null; until_id: string | null } = { until_time: null, until_id: null };
    let pages = 0;
    do {
      const [page] = await sql<
        { lines: string | null; line_count: number; until_time: string | null; until_id: string | null }[]
      >`
        select lines, line_count, until_time, until_id from api.search_logs(
          ${orgId}, ${toFilter(filter, punctuation)}::text::jsonb, ${start}::text::timestamptz, ${end}::text::timestamptz, ${before.until_time}::text::timestamptz, ${before.until_id}::text::bigint,
          ${limit}, false, ${seconds})`;
      const found = JSON.parse(`[${page!.lines ?? ''}]`);
      expect(found).toHaveLength(page!.line_count);
      expect(found.length).toBeLessThanOrEqual(limit);
      lines.push(...found);
      expect(
        page!.until_time === null ||
          page!.until_time !== before.until_time ||
          page!.until_id !== before.until_id,
        'goes on where it was',
      ).toBe(true);
      before = page!;
      expect(++pages, 'pages of one search').toBeLessThan(2000);
    } while (before.until_time !== null);
    const [taken] = await sql<{ steps: number; indexes: number }[]>`
      select
        coalesce((select calls from pg_stat_xact_user_functions where schemaname = 'lib' and funcname = 'lines_back'), 0)::int as steps,
        (select count(*)::int from pg_class where relkind = 'i' and relname like '%\\_log\\_words' and pg_stat_get_xact_numscans(oid) > 0) as indexes`;
    return { lines, ways: { ...taken!, pages } as Ways };
  });
}

function expected(lines: Stored[], { filter, start, end }: Search) {
  const from = start === '-infinity' ? Number.NEGATIVE_INFINITY : Date.parse(start) * 1000;
  const until = end === 'infinity' ? Number.POSITIVE_INFINITY : Date.parse(end) * 1000;
  return lines
    .filter((line) => line.time >= from && line.time < until && matches(filter, line))
    .sort((a, b) => b.time - a.time || b.id - a.id)
    .map((line) => ({
      id: `${line.time}-${line.id}`,
      service_name: line.service,
      level: line.level,
      message: line.message,
      metadata: line.metadata ?? {},
      trace_id: line.traceId ?? null,
    }));
}

const toComparable = ({ timestamp: _, received_at: __, span_id: ___, ...line }: Record<string, unknown>) =>
  line;

const everything: Omit<Search, 'filter'> = {
  punctuation: ' ',
  start: '-infinity',
  end: 'infinity',
  limit: 1000,
  seconds: 60,
};

describe(`some thousand lines, seed ${seed}`, () => {
  let ours: Stored[];
  let theirs: Stored[];

  const streams = ['api', 'web', 'db'].flatMap((service) =>
    ['debug', 'info', 'warn', 'error'].map((level) => ({ service, level })),
  );
  const common = ['request', 'user', 'Timeout', 'ok', '1', '17', '200', 'GET'];
  const rare = Array.from({ length: 60 }, (_, i) => `rare${i}`);
  // Words like those that stand for streams: these are ids of both orgs.
  const streamWords = Array.from({ length: 20 }, (_, i) => `s${i + 1}`);
  const word = fc.oneof(
    { weight: 12, arbitrary: fc.constantFrom(...common) },
    { weight: 2, arbitrary: fc.constantFrom(...rare) },
    { weight: 1, arbitrary: fc.constantFrom(...streamWords) },
    { weight: 1, arbitrary: fc.nat(500).map((n) => n.toString(16)) },
  );
  const separator = fc.constantFrom(
    ' ',
    ' ',
    ' ',
    '/',
    '-',
    '.',
    ': ',
    '=',
    '_',
    '@',
    ' <',
    '&',
    '+',
    '%',
    '\\',
  );
  const message = fc
    .array(fc.tuple(word, separator), { minLength: 1, maxLength: 7 })
    .map((parts) => parts.flat().slice(0, -1).join(''));
  const metadata = fc.option(
    fc.record(
      {
        user_id: fc.oneof(fc.nat(50), fc.nat(50).map(String)),
        ok: fc.oneof(fc.boolean(), fc.constant(null)),
        'http.status': fc.constantFrom(200, 404, 500),
        http: fc.record({ status: fc.constantFrom(200, 404, '500'), 'x.y': fc.constant(1) }),
        tags: fc.array(fc.constantFrom<unknown>('a', 'b', 7, true), { maxLength: 3 }),
      },
      { requiredKeys: [] },
    ),
    { freq: 3 },
  );
  const lineAt = (time: fc.Arbitrary<number>): fc.Arbitrary<Line> =>
    fc
      .tuple(
        time,
        fc.constantFrom(...streams),
        message,
        metadata,
        fc.option(fc.nat(400), { nil: null, freq: 2 }),
      )
      .map(([time, stream, message, metadata, trace]) => ({
        time,
        ...stream,
        message,
        metadata,
        traceId: trace === null ? null : `trace-${trace}`,
      }));
  // Many at one time. Just now; on both sides of where two chunks meet; three days.
  const recent = lineAt(fc.nat(600).map((n) => now - n * 2 * second));
  const meeting = lineAt(fc.nat(600).map((n) => boundary + (n - 300) * second));
  const spread = lineAt(fc.nat(72 * 60).map((n) => now - n * 60 * second));
  const sample = (line: fc.Arbitrary<Line>, numRuns: number, n: number) =>
    fc.sample(line, { seed: seed + n, numRuns });

  beforeAll(async () => {
    const shuffled = (lines: Line[]) =>
      fc.sample(fc.shuffledSubarray(lines, { minLength: lines.length }), { seed, numRuns: 1 })[0]!;
    const fossil = sample(spread, 40, 5).map((line, i) => ({
      ...line,
      time: line.time - 24 * hour,
      message: `${line.message} fossil${i % 3}`,
    }));
    const lines = shuffled([
      ...sample(recent, 5000, 1),
      ...sample(meeting, 4000, 2),
      ...sample(spread, 4000, 3),
      ...fossil,
    ]);
    ours = [];
    for (let i = 0; i < lines.length; i += 1000)
      ours.push(...(await recorder.record(acme, lines.slice(i, i + 1000))));
    theirs = await recorder.record(other, sample(spread, 2000, 4));
    await database.sql`analyze obs.log`;
  }, 60_000);

  const term = (lines: Stored[]): fc.Arbitrary<Term> =>
    fc.record({
      isNegated: fc.integer({ min: 0, max: 3 }).map((n) => n === 0),
      words: fc.oneof(
        word.map((word) => [word]),
        fc
          .tuple(fc.nat(lines.length - 1), fc.nat(6), fc.integer({ min: 1, max: 3 }))
          .map(([i, at, length]) => {
            const words = wordsOf(lines[i]!.message);
            return words.slice(at % words.length).slice(0, length);
          }),
        fc.constantFrom('FOSSIL1', 'fossil2', 'missing').map((word) => [word]),
      ),
    });
  const queryArbitrary = (lines: Stored[]): fc.Arbitrary<Query> =>
    fc.array(fc.array(term(lines), { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 2 });
  const time = (lines: Stored[]) =>
    fc.oneof(
      fc.nat(lines.length - 1).map((i) => lines[i]!.time),
      fc.constant(boundary),
      fc.nat(80 * 3600).map((n) => now - n * second),
    );
  const range = (lines: Stored[]) =>
    fc.oneof(
      fc.constant({ start: '-infinity', end: 'infinity' }),
      fc.tuple(time(lines), time(lines)).map((times) => ({
        start: formatTimestamp(Math.min(...times)),
        end: formatTimestamp(Math.max(...times) + second),
      })),
    );
  const maybe = <T>(arbitrary: fc.Arbitrary<T>, percent: number): fc.Arbitrary<T | undefined> =>
    fc.oneof({ weight: percent, arbitrary }, { weight: 100 - percent, arbitrary: fc.constant(undefined) });
  const filterArbitrary = (lines: Stored[]): fc.Arbitrary<Filter> =>
    fc.record({
      q: maybe(queryArbitrary(lines), 65),
      contains: maybe(
        fc.oneof(
          fc
            .tuple(fc.nat(lines.length - 1), fc.nat(9), fc.integer({ min: 1, max: 9 }))
            .map(([i, at, length]) => lines[i]!.message.slice(at).slice(0, length) || '%'),
          fc.constantFrom('%', '_', '\\', 'T%', 'fossil', 'nowhere'),
        ),
        25,
      ),
      service: maybe(fc.constantFrom('api', 'web', 'db', 'none'), 25),
      level: maybe(fc.constantFrom('trace', 'info', 'warn', 'error', 'fatal'), 25),
      metadata: maybe(
        fc.oneof(
          fc.nat(50).map((n): Record<string, string> => ({ user_id: String(n) })),
          fc.constantFrom<Record<string, string>>(
            { ok: 'true' },
            { ok: 'null' },
            { 'http.status': '500' },
            { 'http.status': '404', ok: 'false' },
            { 'http.x.y': '1' },
            { tags: 'b' },
            { tags: '7', user_id: '3' },
            { tags: 'true' },
            { none: 'x' },
            { user_id: '"3' },
          ),
        ),
        25,
      ),
      traceId: maybe(
        fc.nat(420).map((n) => `trace-${n}`),
        5,
      ),
    });
  const searchArbitrary = (lines: Stored[], seconds: number[]): fc.Arbitrary<Search> =>
    fc
      .record({
        filter: filterArbitrary(lines),
        punctuation: fc.constantFrom('"', '/', '-', '.', '_', '@'),
        range: range(lines),
        limit: fc.constantFrom(1, 10, 100, 1000, 20_000),
        seconds: fc.constantFrom(...seconds),
      })
      .map(({ range, ...search }) => ({ ...search, ...range }));

  /** Random searches, each compared. */
  async function compare(mostRuns: number, n: number, seconds = [0, 60, 60]) {
    const numRuns = isSoak ? mostRuns : Math.ceil(mostRuns / 8);
    await fc.assert(
      fc.asyncProperty(searchArbitrary(ours, seconds), fc.boolean(), async (given, isOurs) => {
        const lines = isOurs ? ours : theirs;
        const wanted = expected(lines, given);
        // Not thousands of pages.
        const asked = { ...given, limit: Math.max(given.limit, Math.ceil(wanted.length / 50)) };
        const { lines: found } = await search(isOurs ? acme : other, asked);
        expect(found.map(({ id }) => id)).toEqual(wanted.map(({ id }) => id));
        expect(found.map(toComparable)).toEqual(wanted);
      }),
      { seed: seed + n, numRuns, endOnFailure: true },
    );
  }

  // Rare words lie behind the first step of 2000 lines, so that indexes are asked, of several chunks where a page needs them.
  const waysOf = async () => {
    const rareWord = { ...everything, filter: { q: [[{ isNegated: false, words: ['rare3'] }]] } };
    const oldWord = { ...everything, filter: { q: [[{ isNegated: false, words: ['fossil1'] }]] } };
    const part = { ...everything, filter: { contains: 'ossil1' } };
    // Several pages of an index alone.
    const trace = { ...everything, filter: { traceId: 'trace-3' }, limit: 3 };
    const all = { ...everything, filter: {}, limit: 500 };
    const ways: Record<string, Ways> = {};
    for (const [name, asked] of Object.entries({ rareWord, oldWord, part, trace, all })) {
      const { lines: found, ways: taken } = await search(acme, asked);
      expect(found.map(toComparable), name).toEqual(expected(ours, asked));
      ways[name] = taken;
    }
    return ways;
  };

  test('a search without time for more than a step answers page by page, and all of it', async () => {
    const asked = { ...everything, filter: { q: [[{ isNegated: false, words: ['fossil1'] }]] }, seconds: 0 };
    const { lines: found, ways } = await search(acme, asked);
    expect(found.map(toComparable)).toEqual(expected(ours, asked));
    expect(ways.pages).toBeGreaterThan(5);
  });

  const states: [string, (sql: postgres.Sql) => Promise<unknown>, seconds?: number[]][] = [
    ['not counted yet', async () => {}],
    [
      'counted',
      async () => {
        while ((await worker<{ n: number }[]>`select job.count_logs() as n`)[0]!.n > 0);
      },
    ],
    [
      'counted in part',
      (sql) => sql`delete from obs.log_1m where bucket < ${new Date((now - 5 * hour) / 1000)}`,
    ],
    ['not there', (sql) => sql`truncate obs.log_1m`],
    [
      // A minute may have that many lines; the steps through it are then a part of it each.
      'half a million in some minutes',
      (sql) => sql`
        insert into obs.log_1m (bucket, log_stream_id, line_count)
        select date_trunc('minute', ${new Date(now / 1000)}::timestamptz) - n * interval '1 minute', s.id, 500000
        from obs.log_stream s, unnest('{1, 2, 5, 30, 700, 1500}'::int[]) n`,
      // A page of one step would be a five hundredth of such a minute.
      [60],
    ],
  ];
  test.each(states)(
    'searches find the same where counts are %s',
    { timeout: 180_000 },
    async (name, prepare, seconds) => {
      await prepare(database.sql);
      await compare(
        seconds ? 20 : 60,
        states.findIndex(([state]) => state === name),
        seconds,
      );
      const { rareWord, oldWord, part, trace, all } = await waysOf();
      expect(all!.pages).toBeGreaterThan(20);
      expect(trace!.steps).toBe(0);
      // Without counts the first step goes through everything.
      if (name === 'not there') return expect([rareWord!.steps, rareWord!.indexes]).toEqual([1, 0]);
      // The newest lines by two steps, the rest by indexes of more than one chunk (a small one may be read through); a part of a word by steps alone.
      expect(rareWord!.steps).toBe(2);
      expect(rareWord!.indexes).toBeGreaterThan(1);
      expect(oldWord!.indexes).toBeGreaterThan(1);
      expect(part!.indexes).toBe(0);
      expect(part!.steps).toBeGreaterThan(1);
    },
  );

  const columnstoreTitle =
    'searches find the same in the columnstore, wholly and in part, and late lines there';
  test.skipIf(isApache)(
    isApache ? `${columnstoreTitle} (skipped: the Apache 2 edition has none)` : columnstoreTitle,
    { timeout: 300_000 },
    async () => {
      const { sql } = database;
      await sql`truncate obs.log_1m`;
      await sql`
        insert into obs.log_1m (bucket, log_stream_id, line_count)
        select date_trunc('minute', time), log_stream_id, count(*) from obs.log group by 1, 2`;
      // One between others first, then all but the last day.
      await sql`select public.compress_chunk(c) from public.show_chunks('obs.log', older_than => ${new Date((now - 24 * hour) / 1000)}::timestamptz, newer_than => ${new Date((now - 32 * hour) / 1000)}::timestamptz) c`;
      await compare(40, 10);
      await sql`select public.compress_chunk(c, true) from public.show_chunks('obs.log', older_than => ${new Date((now - 12 * hour) / 1000)}::timestamptz) c`;
      const [row] = await sql<{ compressed: number; others: number }[]>`
        select count(*) filter (where is_compressed)::int as compressed, count(*) filter (where not is_compressed)::int as others
        from timescaledb_information.chunks where hypertable_name = 'log'`;
      expect(row!.compressed).toBeGreaterThan(10);
      expect(row!.others).toBeGreaterThan(1);
      await compare(60, 11);
      const { rareWord } = await waysOf();
      expect(rareWord!.steps).toBeGreaterThan(1);
      const late = sample(spread, 1000, 6);
      ours.push(...(await recorder.record(acme, late)));
      await compare(60, 12);
    },
  );
});
