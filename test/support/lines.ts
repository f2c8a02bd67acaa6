// Log lines written as the API writes them, group commit, COPY and announcement included, and without HTTP in between.
import { parseConfig } from '../../src/config.ts';
import { connect, connectSession } from '../../src/db.ts';
import { createCommitter } from '../../src/ingest/commit.ts';
import { createLogStreamCache } from '../../src/ingest/ids.ts';
import { createLineWriter, newLines } from '../../src/ingest/lines.ts';
import { jwtSecret } from './process.ts';

export interface Line {
  /** Microseconds since 1970. */
  time: number;
  service: string;
  level: string;
  message: string;
  metadata?: object | null;
  traceId?: string | null;
}

export type Stored = Line & { id: number };

export function createRecorder(databaseUrl: string) {
  const { apiDatabaseUrl } = parseConfig({ DATABASE_URL: databaseUrl, JWT_SECRET: jwtSecret });
  const sql = connect(apiDatabaseUrl, { name: 'test-recorder', max: 2 });
  const session = connectSession(apiDatabaseUrl, { name: 'test-recorder' });
  const cache = createLogStreamCache(sql, 1000);
  const committer = createCommitter([session], createLineWriter(sql), {
    flushLimit: 4 * 1024 ** 2,
    bufferLimit: 1024 ** 3,
  });
  return {
    /** Resolves, once they are committed, to the lines with their ids. */
    async record(orgId: number, lines: Line[]): Promise<Stored[]> {
      const rows = newLines(lines.length);
      const places = Map.groupBy(lines.keys(), (i) => `${lines[i]!.service}\0${lines[i]!.level}`);
      await cache.resolve(
        orgId,
        new Map(
          [...places].map(([key, indexes]) => {
            const { service, level } = lines[indexes[0]!]!;
            return [`${orgId}\0${key}`, { identity: { serviceName: service, level }, indexes }];
          }),
        ),
        rows.streamIds,
      );
      for (const [i, line] of lines.entries()) {
        rows.times[i] = line.time;
        rows.messages[i] = line.message;
        rows.metadata[i] = line.metadata ? JSON.stringify(line.metadata) : null;
        rows.traceIds[i] = line.traceId ?? null;
        rows.bytes += 100 + line.message.length;
      }
      await committer.submit(orgId, rows);
      return lines.map((line, i) => ({ ...line, id: rows.firstId + i }));
    },
    async end() {
      await Promise.all([sql.end(), session.end()]);
    },
  };
}
