// Log lines on their way from a request to obs.log.
import type { Queryable, Sql } from '../db.ts';
import { formatTimestamp } from '../timestamp.ts';
import type { OrgRows, Writer } from './commit.ts';
import { copyHeader, copyIn, copyTrailer, writeTimestamp } from './copy.ts';

/** Column-wise lines, all of one length. */
export interface Lines {
  /** Microseconds since 1970. */
  times: Float64Array;
  /** Ids of obs.log_stream. */
  streamIds: Int32Array;
  messages: string[];
  /** JSON objects as text. */
  metadata: (string | null)[];
  traceIds: (string | null)[];
  spanIds: (string | null)[];
  /** About what they take in memory. */
  bytes: number;
  /** Id of the first line, those of the others follow. Given when they are written. */
  firstId: number;
}

export function newLines(length: number): Lines {
  return {
    times: new Float64Array(length),
    streamIds: new Int32Array(length),
    messages: new Array(length),
    metadata: new Array(length).fill(null),
    traceIds: new Array(length).fill(null),
    spanIds: new Array(length).fill(null),
    bytes: 0,
    firstId: 0,
  };
}

type Part = OrgRows<Lines>;

/** sql: to reserve ids. */
export function createLineWriter(sql: Sql): Writer<Lines> {
  let nextId = 1;
  let lastId = 0;

  async function reserveId(count: number): Promise<number> {
    while (lastId - nextId + 1 < count) {
      const [block] = await sql<{ first: string; last: string }[]>`
        select first_id as first, last_id as last from api.reserve_log_ids()`;
      nextId = Number(block!.first);
      lastId = Number(block!.last);
    }
    nextId += count;
    return nextId - count;
  }

  return {
    count: (lines) => lines.times.length,
    weigh: (lines) => lines.bytes,
    async prepare(parts) {
      // All of a flush in a row: one look-up finds them for those who tail.
      let id = await reserveId(parts.reduce((count, { rows }) => count + rows.times.length, 0));
      for (const { rows } of parts) {
        rows.firstId = id;
        id += rows.times.length;
      }
    },
    insert: (sql, parts) => sql`
      with written as (
        insert into obs.log (time, id, log_stream_id, message, metadata, trace_id, span_id)
        select l.time, l.id, l.log_stream_id, l.message, l.metadata, l.trace_id, l.span_id
        from jsonb_to_recordset(${linesAsJson(parts)}::text::jsonb) as l (
          time timestamptz, id bigint, log_stream_id int, message text, metadata jsonb, trace_id text, span_id text
        )
        returning 1
      )
      -- What nobody reads would be written last, under the lock that the announcement takes.
      select ${announce(sql, parts)} from (select count(*) from written) as w`,
    copy: (sql, parts) =>
      copyIn(
        sql`
          copy obs.log (time, id, log_stream_id, message, metadata, trace_id, span_id)
          from stdin with (format binary)`,
        encodeLines(parts),
      ),
    finish: (sql, parts) => sql`select ${announce(sql, parts)}`,
  };
}

function linesAsJson(parts: readonly Part[]): string {
  const lines: string[] = [];
  for (const { rows } of parts) {
    for (let i = 0; i < rows.times.length; i++) {
      const line = JSON.stringify({
        time: formatTimestamp(rows.times[i]!),
        id: rows.firstId + i,
        log_stream_id: rows.streamIds[i],
        message: rows.messages[i],
        trace_id: rows.traceIds[i],
        span_id: rows.spanIds[i],
      });
      // As it is: its numbers may be larger than a double holds.
      lines.push(rows.metadata[i] ? `{"metadata":${rows.metadata[i]},${line.slice(1)}` : line);
    }
  }
  return `[${lines.join(',')}]`;
}

/** Encodes lines as the whole input of the copy above. */
export function encodeLines(parts: readonly Part[]): Buffer {
  let most = copyHeader.length + copyTrailer.length;
  for (const { rows } of parts) {
    most += rows.times.length * (2 + 12 + 12 + 8 + 4 + 5 + 4 + 4);
    for (let i = 0; i < rows.times.length; i++) {
      most +=
        3 *
        (rows.messages[i]!.length +
          (rows.metadata[i]?.length ?? 0) +
          (rows.traceIds[i]?.length ?? 0) +
          (rows.spanIds[i]?.length ?? 0));
    }
  }
  const buffer = Buffer.allocUnsafe(most);
  copyHeader.copy(buffer);
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  let at = copyHeader.length;
  const writeText = (text: string | null, prefix = 0) => {
    if (text === null) {
      view.setInt32(at, -1);
      at += 4;
      return;
    }
    const bytes = buffer.write(text, at + 4 + prefix);
    view.setInt32(at, bytes + prefix);
    at += 4 + prefix + bytes;
  };
  for (const { rows } of parts) {
    for (let i = 0; i < rows.times.length; i++) {
      view.setInt16(at, 7);
      view.setInt32(at + 2, 8);
      writeTimestamp(view, at + 6, rows.times[i]!);
      view.setInt32(at + 14, 8);
      view.setBigInt64(at + 18, BigInt(rows.firstId + i));
      view.setInt32(at + 26, 4);
      view.setInt32(at + 30, rows.streamIds[i]!);
      at += 34;
      writeText(rows.messages[i]!);
      // jsonb's binary form: its version, then text.
      const metadataAt = at;
      writeText(rows.metadata[i]!, 1);
      if (rows.metadata[i] !== null) view.setUint8(metadataAt + 4, 1);
      writeText(rows.traceIds[i]!);
      writeText(rows.spanIds[i]!);
    }
  }
  copyTrailer.copy(buffer, at);
  return buffer.subarray(0, at + copyTrailer.length);
}

const minuteMicros = 60e6;

// What each stream got, by minute: see obs.log_arrival.
function announce(sql: Queryable, parts: readonly Part[]) {
  interface Arrival {
    orgId: number;
    streamId: number;
    minute: number;
    count: number;
    bytes: number;
    firstId: number;
    lastId: number;
    oldest: number;
    newest: number;
  }
  const arrivals = new Map<number, Map<number, Arrival>>();
  for (const { orgId, rows } of parts) {
    let last: Arrival | undefined;
    for (let i = 0; i < rows.times.length; i++) {
      const time = rows.times[i]!;
      const streamId = rows.streamIds[i]!;
      const minute = Math.floor(time / minuteMicros);
      const id = rows.firstId + i;
      if (last?.streamId !== streamId || last.minute !== minute) {
        let minutes = arrivals.get(streamId);
        if (!minutes) {
          minutes = new Map();
          arrivals.set(streamId, minutes);
        }
        last = minutes.get(minute);
        if (!last) {
          last = {
            orgId,
            streamId,
            minute,
            count: 0,
            bytes: 0,
            firstId: id,
            lastId: id,
            oldest: time,
            newest: time,
          };
          minutes.set(minute, last);
        }
      }
      last.count++;
      last.bytes += 250 + rows.messages[i]!.length + (rows.metadata[i]?.length ?? 0);
      last.lastId = id;
      if (time < last.oldest) last.oldest = time;
      if (time > last.newest) last.newest = time;
    }
  }
  const rows = [...arrivals.values()].flatMap((minutes) =>
    [...minutes.values()].map((arrival) => ({
      org_id: arrival.orgId,
      log_stream_id: arrival.streamId,
      minute: formatTimestamp(arrival.minute * minuteMicros),
      line_count: arrival.count,
      byte_count: arrival.bytes,
      first_id: arrival.firstId,
      last_id: arrival.lastId,
      oldest: formatTimestamp(arrival.oldest),
      newest: formatTimestamp(arrival.newest),
    })),
  );
  return sql`api.announce_logs(${JSON.stringify(rows)}::text::jsonb)`;
}
