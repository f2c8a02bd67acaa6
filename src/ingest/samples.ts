// Samples on their way from a request to obs.sample, without an object a sample.

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

// https://www.postgresql.org/docs/17/sql-copy.html, "Binary Format": signature, flags, length of the extension.
const header = Buffer.concat([Buffer.from('PGCOPY\n\xff\r\n\0', 'latin1'), Buffer.alloc(8)]);
const headerBytes = header.length;
const rowBytes = 2 + (4 + 8) + (4 + 4) + (4 + 8);
const postgresEpoch = 946_684_800_000_000;

/** Encodes samples as the whole input of copy obs.sample (time, series_id, value) … (format binary). */
export function encodeCopy(batches: readonly Samples[]): Buffer {
  let rows = 0;
  for (const batch of batches) rows += batch.times.length;
  const buffer = Buffer.allocUnsafe(headerBytes + rows * rowBytes + 2);
  header.copy(buffer);
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  let at = headerBytes;
  for (const { times, seriesIds, values } of batches) {
    for (let i = 0; i < times.length; i++) {
      const micros = times[i]! - postgresEpoch;
      const high = Math.floor(micros / 0x1_0000_0000);
      view.setInt16(at, 3);
      view.setInt32(at + 2, 8);
      view.setInt32(at + 6, high);
      view.setUint32(at + 10, micros - high * 0x1_0000_0000);
      view.setInt32(at + 14, 4);
      view.setInt32(at + 18, seriesIds[i]!);
      view.setInt32(at + 22, 8);
      view.setFloat64(at + 26, values[i]!);
      at += rowBytes;
    }
  }
  view.setInt16(at, -1);
  return buffer;
}
