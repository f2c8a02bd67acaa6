// Buckets across changes of the clock, and how instants and numbers are written.
import { expect, test } from 'vitest';
import { useDatabase } from '../support/database.ts';

const database = useDatabase();

const bucket = async (time: string, window: string, zone: string) => {
  const [row] = await database.sql<{ starts: string; ends: string }[]>`
    select lib.rfc3339(b.starts) as starts,
      lib.rfc3339(lib.bucket_end(b.starts, ${window}::text::interval, ${zone}, null)) as ends
    from (select lib.bucket_start(${time}::text::timestamptz, ${window}::text::interval, ${zone}, null) as starts) b`;
  return [row!.starts.replace(':00.000', ''), row!.ends.replace(':00.000', '')];
};

test.each([
  // Summer time in Berlin ends on 2026-10-25 at 03:00 CEST = 01:00 UTC, and begins on 2026-03-29 at 02:00 CET.
  ['2026-10-25T12:00Z', '1d', 'Europe/Berlin', '2026-10-24T22:00Z', '2026-10-25T23:00Z'],
  ['2026-03-29T12:00Z', '1d', 'Europe/Berlin', '2026-03-28T23:00Z', '2026-03-29T22:00Z'],
  ['2026-10-25T00:30Z', '1h', 'Europe/Berlin', '2026-10-25T00:00Z', '2026-10-25T01:00Z'],
  ['2026-10-25T01:30Z', '1h', 'Europe/Berlin', '2026-10-25T01:00Z', '2026-10-25T02:00Z'],
  ['2026-07-01T11:00Z', '6h', 'Europe/Berlin', '2026-07-01T10:00Z', '2026-07-01T16:00Z'],
  ['2026-07-01T11:10Z', '1h', 'Asia/Kolkata', '2026-07-01T10:30Z', '2026-07-01T11:30Z'],
  // The start is a reading that comes twice: the first of the two.
  ['2026-10-25T01:30Z', '2h', 'Europe/Berlin', '2026-10-25T00:00Z', '2026-10-25T03:00Z'],
  ['2026-03-29T02:30Z', '2h', 'Europe/Berlin', '2026-03-29T02:00Z', '2026-03-29T04:00Z'],
  ['2026-10-25T00:30Z', '1d', 'Atlantic/Azores', '2026-10-25T00:00Z', '2026-10-26T01:00Z'],
  // The day has no midnight.
  ['2026-04-24T12:00Z', '1d', 'Africa/Cairo', '2026-04-23T22:00Z', '2026-04-24T21:00Z'],
  ['2026-11-25T12:00Z', '1w', 'UTC', '2026-11-23T00:00Z', '2026-11-30T00:00Z'],
  ['2026-11-25T12:34Z', '5m', 'UTC', '2026-11-25T12:30Z', '2026-11-25T12:35Z'],
])('%s by %s in %s is in the bucket from %s to %s', async (time, window, zone, starts, ends) => {
  expect(await bucket(time, window, zone)).toEqual([starts, ends]);
});

test('numbers become JSON numbers, or null where JSON has none', async () => {
  const [row] = await database.sql`
    select array(select lib.json_number(v) from unnest(array[0, -0.5, 1e300, 5e-324, 'NaN', 'Infinity', '-Infinity', null]::float8[]) v) as texts`;
  expect(row!.texts.map((text: string) => JSON.parse(text))).toEqual([
    0,
    -0.5,
    1e300,
    5e-324,
    null,
    null,
    null,
    null,
  ]);
});

test.each([
  ['Europe/Berlin', '2026-03-28', '2h'],
  ['Europe/Berlin', '2026-03-28', '24h'],
  ['Europe/Berlin', '2026-10-24', '2h'],
  ['Europe/Berlin', '2026-10-24', '30m'],
  ['Africa/Cairo', '2026-04-22', '1d'],
  ['Atlantic/Azores', '2026-10-23', '1d'],
  ['Australia/Lord_Howe', '2026-04-04', '3h'],
  ['Australia/Lord_Howe', '2026-10-03', '1d'],
  ['America/New_York', '2026-03-07', '6h'],
])(
  'in %s from %s on by %s the listed buckets are those that times fall into, end to end',
  async (zone, from, window) => {
    const [row] = await database.sql`
    with listed as (
      select b, lib.bucket_end(b, ${window}::text::interval, ${zone}, null) as ends
      from lib.list_buckets(${from}::text::date, ${from}::text::date + 5, ${window}::text::interval, ${zone}, 1000) b
    ),
    fallen as (
      select distinct lib.bucket_start(t, ${window}::text::interval, ${zone}, null) as b
      from generate_series(${from}::text::timestamptz, ${from}::text::timestamptz + interval '5 days' - interval '1 minute', interval '1 minute') t
    )
    select
      (select array_agg(b order by b) from listed) = (select array_agg(b order by b) from fallen) as same,
      (select bool_and(ends = next) from (select ends, lead(b) over (order by b) as next from listed) x where next is not null) as joined`;
    expect(row).toEqual({ same: true, joined: true });
  },
);
