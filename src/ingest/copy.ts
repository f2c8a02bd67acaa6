// COPY … FROM STDIN (FORMAT binary): https://www.postgresql.org/docs/17/sql-copy.html, "Binary Format".
import type { Writable } from 'node:stream';

/** Signature, flags, length of the extension. */
export const copyHeader = Buffer.concat([Buffer.from('PGCOPY\n\xff\r\n\0', 'latin1'), Buffer.alloc(8)]);
export const copyTrailer = Buffer.from([0xff, 0xff]);

const postgresEpoch = 946_684_800_000_000;

/** Writes a timestamptz of microseconds since 1970, without its length: 8 bytes. */
export function writeTimestamp(view: DataView, at: number, time: number): void {
  const micros = time - postgresEpoch;
  const high = Math.floor(micros / 0x1_0000_0000);
  view.setInt32(at, high);
  view.setUint32(at + 4, micros - high * 0x1_0000_0000);
}

/**
 * Sends the whole input of a COPY. That it resolves proves nothing: after an error at the end of a COPY postgres.js emits
 * 'finish' with the next statement's success, or never. In a transaction that has failed, that statement fails too.
 */
export async function copyIn(copy: { writable(): Promise<Writable> }, input: Buffer): Promise<void> {
  const stream = await copy.writable();
  await new Promise<void>((resolve, reject) => {
    stream.on('error', reject);
    stream.write(input, (error) => (error ? reject(error) : resolve()));
  });
  stream.end();
}
