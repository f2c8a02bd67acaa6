// Once an hour: drops chunks past their retention. On the Community edition TimescaleDB's policies do.
import type { Task } from 'graphile-worker';
import type { Sql } from '../src/db.ts';

export function dropExpired(sql: Sql): Task {
  return async (_payload, helpers) => {
    const [row] = await sql<{ dropped: number }[]>`select job.drop_expired() as dropped`;
    helpers.logger.info(`dropped ${row?.dropped} chunks`);
  };
}
