// api.ensure_series and api.claim_idempotency_keys under concurrency.
import { randomBytes } from 'node:crypto';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parseConfig } from '../../src/config.ts';
import { useDatabase } from '../support/database.ts';
import { jwtSecret } from '../support/process.ts';

const database = useDatabase();
let api: postgres.Sql;
beforeAll(() => {
  api = postgres(parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret }).apiDatabaseUrl, {
    max: 8,
    onnotice: () => {},
  });
});
afterAll(() => api?.end());

const ensureOrg = async (name: string) =>
  (await api<{ id: number }[]>`select api.ensure_org(${name}) as id`)[0]!.id;
const ensureSeries = async (orgId: number, series: unknown[]) =>
  (
    await api<
      { ids: number[] }[]
    >`select api.ensure_series(${orgId}, ${JSON.stringify(series)}::text::jsonb) as ids`
  )[0]!.ids;
const seriesCount = async (orgId: number) =>
  (
    await database.sql`select series_count, (select count(*)::int from obs.series where org_id = ${orgId}) as actual from obs.org where id = ${orgId}`
  )[0];

test('many sessions make an org at once, and it is one', async () => {
  const ids = await Promise.all(Array.from({ length: 40 }, () => ensureOrg('one')));
  expect(new Set(ids).size).toBe(1);
});

test('ids come in the order asked, repeated where a series is, and stay the same', async () => {
  const org = await ensureOrg('order');
  const series = [
    { name: 'b' },
    { name: 'a' },
    { name: 'b' },
    { name: 'b', labels: { x: '1', y: '2' } },
    { name: 'b', labels: { y: '2', x: '1' } },
    { name: 'b', service_name: 's' },
  ];
  const ids = await ensureSeries(org, series);
  expect([ids[0] === ids[2], ids[3] === ids[4], new Set(ids).size]).toEqual([true, true, 4]);
  expect(await ensureSeries(org, series)).toEqual(ids);
  expect(await seriesCount(org)).toEqual({ series_count: 4, actual: 4 });
});

test('sessions that make overlapping series at once agree on every id, and the count is exact', async () => {
  const org = await ensureOrg('overlap');
  const sets = Array.from({ length: 16 }, (_, k) =>
    Array.from({ length: 200 }, (_, i) => ({ name: `m${(i * (k + 1)) % 311}` })),
  );
  const answers = await Promise.all(sets.map((set) => ensureSeries(org, set)));
  const idOf = new Map<string, number>();
  for (const [k, ids] of answers.entries()) {
    for (const [i, id] of ids.entries()) {
      const { name } = sets[k]![i]!;
      expect(idOf.get(name) ?? id).toBe(id);
      idOf.set(name, id);
    }
  }
  expect(await seriesCount(org)).toEqual({ series_count: idOf.size, actual: idOf.size });
});

test('the limit holds exactly when many sessions run into it at once', async () => {
  const org = await ensureOrg('limit');
  await database.sql`update obs.org set series_limit = 50 where id = ${org}`;
  const outcomes = await Promise.allSettled(
    Array.from({ length: 30 }, (_, k) =>
      ensureSeries(
        org,
        Array.from({ length: 7 }, (_, i) => ({ name: `m${k}_${i}` })),
      ),
    ),
  );
  const refused = outcomes.filter((outcome) => outcome.status === 'rejected');
  expect(refused).toHaveLength(23);
  for (const outcome of refused)
    expect(outcome.reason).toMatchObject({ code: 'PT422', hint: 'cardinality_limit' });
  expect(await seriesCount(org)).toEqual({ series_count: 49, actual: 49 });
});

test('refused and repeated requests use up no ids', async () => {
  const org = await ensureOrg('ids');
  const [before] = await ensureSeries(org, [{ name: 'first' }]);
  for (let i = 0; i < 5; i++) await ensureSeries(org, [{ name: 'first' }]);
  const [after] = await ensureSeries(org, [{ name: 'second' }]);
  expect(after! - before!).toBe(1);
});

test('two flushes with keys in common in opposite order do not deadlock', async () => {
  const org = await ensureOrg('keys');
  const claim = (sql: postgres.ISql, keys: string[]) =>
    sql<{ verdicts: string[] }[]>`
      select api.claim_idempotency_keys(
        ${keys.map(() => org)}::int[], ${keys}::text[], ${keys.map((key) => `\\x${Buffer.from(key).toString('hex')}`)}::text[]::bytea[], ${keys.map(() => 1)}::int[]
      ) as verdicts`;
  for (let round = 0; round < 20; round++) {
    const keys = Array.from({ length: 20 }, () => randomBytes(4).toString('hex'));
    const orders = [keys, [...keys].reverse(), [...keys].sort(), keys];
    const verdicts = await Promise.all(
      orders.map((order) =>
        api.begin(async (sql) => {
          const [row] = await claim(sql, order);
          return Object.fromEntries(order.map((key, i) => [key, row!.verdicts[i]]));
        }),
      ),
    );
    for (const key of keys)
      expect(
        verdicts.filter((verdict) => verdict[key] === 'claimed'),
        key,
      ).toHaveLength(1);
  }
});

test('a key claimed by a transaction that rolled back is free again', async () => {
  const org = await ensureOrg('rollback');
  const claim = (sql: postgres.ISql) =>
    sql<
      { verdicts: string[] }[]
    >`select api.claim_idempotency_keys(array[${org}]::int[], array['k'], array['\\x00'::bytea], array[1]) as verdicts`;
  await api
    .begin(async (sql) => {
      await claim(sql);
      throw new Error('no');
    })
    .catch(() => {});
  expect((await claim(api))[0]!.verdicts).toEqual(['claimed']);
  expect((await claim(api))[0]!.verdicts).toEqual(['replayed']);
});
