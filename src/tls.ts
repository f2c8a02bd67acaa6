// TLS of the API's own: certificate and key from files, read again when they change.
import { readFileSync, unwatchFile, watchFile } from 'node:fs';
import type { Server } from 'node:https';
import { createSecureContext } from 'node:tls';
import type { Logger } from 'pino';

export interface TlsFiles {
  certFile: string;
  keyFile: string;
}

/** Certificate (with what it was issued by, if anything) and key, in PEM. Throws where they cannot be read, or do not belong together. */
export function readCertificate({ certFile, keyFile }: TlsFiles) {
  const pair = { cert: readFileSync(certFile), key: readFileSync(keyFile) };
  createSecureContext(pair);
  return pair;
}

/** Gives a server what its files hold whenever they change; what cannot be used is logged, and the one before stays. Answers what ends it. */
export function reloadCertificate(
  server: Server,
  files: TlsFiles,
  log: Logger,
  intervalMs = 2_000,
): () => void {
  const names = [files.certFile, files.keyFile];
  const reload = () => {
    try {
      server.setSecureContext({ ...readCertificate(files), minVersion: 'TLSv1.2' });
      log.info('the TLS certificate was read anew');
    } catch (error) {
      // Of two files that are written one after the other the first may not fit the second yet.
      log.warn({ error }, 'the TLS certificate cannot be used, the one before stays');
    }
  };
  // Looked at rather than watched: who renews one may replace the file, or a link on the way to it.
  for (const name of names) watchFile(name, { interval: intervalMs, persistent: false }, reload);
  return () => {
    for (const name of names) unwatchFile(name, reload);
  };
}
