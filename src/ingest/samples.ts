// Samples on their way from a request to obs.sample, without an object a sample.
import { arrayLiteral, type Queryable } from '../db.ts';
import { formatTimestamp } from '../timestamp.ts';
import type { OrgRows, Writer } from './commit.ts';
import { copyHeader, copyIn, copyTrailer, writeTimestamp } from './copy.ts';

/** Column-wise samples: times in microseconds since 1970, ids of obs.series, values. All of one length. */
export interface Samples {
  times: Float64Array;
  seriesIds: Int32Array;
  values: Float64Array;
}

export function newSamples(length: number): Samples {
  return {
    times: new Float64Array(length),
    seriesIds: new Int32Array(length),
    values: new Float64Array(length),
  };
}

export const sampleWriter: Writer<Samples> = {
  count: (samples) => samples.times.length,
  weigh: (samples) => samples.times.length,
  insert: (sql, parts) => {
    const list = (pick: (samples: Samples) => ArrayLike<number>) =>
      `{${parts.map(({ rows }) => Array.prototype.join.call(pick(rows), ',')).join(',')}}`;
    return sql`
      insert into obs.sample (time, series_id, value)
      select timestamptz 'epoch' + s.micros * interval '1 microsecond', s.series_id, s.value
      from unnest(
        ${list((samples) => samples.times)}::text::bigint[],
        ${list((samples) => samples.seriesIds)}::text::int[],
        ${list((samples) => samples.values)}::text::float8[]
      ) as s (micros, series_id, value)
      cross join ${markLate(sql, parts)}`;
  },
  copy: (sql, parts) =>
    copyIn(
      sql`copy obs.sample (time, series_id, value) from stdin with (format binary)`,
      encodeCopy(parts.map(({ rows }) => rows)),
    ),
  finish: (sql, parts) => sql`select ${markLate(sql, parts)}`,
};

const rowBytes = 2 + (4 + 8) + (4 + 4) + (4 + 8);

/** Encodes samples as the whole input of copy obs.sample (time, series_id, value) … (format binary). */
export function encodeCopy(batches: readonly Samples[]): Buffer {
  let rows = 0;
  for (const batch of batches) rows += batch.times.length;
  const buffer = Buffer.allocUnsafe(copyHeader.length + rows * rowBytes + copyTrailer.length);
  copyHeader.copy(buffer);
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  let at = copyHeader.length;
  for (const { times, seriesIds, values } of batches) {
    for (let i = 0; i < times.length; i++) {
      view.setInt16(at, 3);
      view.setInt32(at + 2, 8);
      writeTimestamp(view, at + 6, times[i]!);
      view.setInt32(at + 14, 4);
      view.setInt32(at + 18, seriesIds[i]!);
      view.setInt32(at + 22, 8);
      view.setFloat64(at + 26, values[i]!);
      at += rowBytes;
    }
  }
  copyTrailer.copy(buffer, at);
  return buffer;
}

// Tells the database for which times samples come: part of the insert that writes them, or right behind their COPY.
function markLate(sql: Queryable, parts: readonly OrgRows<Samples>[]) {
  const { orgIds, starts, ends } = touchedTimes(parts);
  return sql`api.mark_late(${orgIds}::text::int[], ${starts}::text::timestamptz[], ${ends}::text::timestamptz[])`;
}

const spanMicros = 300e6;

// The spans of five minutes, the width of the finest tier, that a batch has samples for; neighbours are joined.
// Which of them are late is for the database to say: its clock decides what has been rolled up.
function touchedTimes(parts: readonly OrgRows<Samples>[]): { orgIds: string; starts: string; ends: string } {
  const spansOf = new Map<number, Set<number>>();
  for (const { orgId, rows } of parts) {
    let spans = spansOf.get(orgId);
    if (!spans) {
      spans = new Set();
      spansOf.set(orgId, spans);
    }
    let last = Number.NaN;
    for (const time of rows.times) {
      const span = Math.floor(time / spanMicros);
      if (span !== last) spans.add(span);
      last = span;
    }
  }
  const times = { orgIds: [] as number[], starts: [] as string[], ends: [] as string[] };
  for (const [orgId, spans] of spansOf) {
    const sorted = [...spans].sort((a, b) => a - b);
    for (const [i, span] of sorted.entries()) {
      const end = formatTimestamp((span + 1) * spanMicros);
      if (i > 0 && sorted[i - 1] === span - 1) times.ends[times.ends.length - 1] = end;
      else {
        times.orgIds.push(orgId);
        times.starts.push(formatTimestamp(span * spanMicros));
        times.ends.push(end);
      }
    }
  }
  return {
    orgIds: arrayLiteral(times.orgIds),
    starts: arrayLiteral(times.starts),
    ends: arrayLiteral(times.ends),
  };
}
