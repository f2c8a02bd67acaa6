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
