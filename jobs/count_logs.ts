// Every 10 s: counts the log lines that arrived, for histograms and for log_lines_total.
import type { Task } from 'graphile-worker';
import type { Sql } from '../src/db.ts';
import { repeat } from './repeat.ts';

export const countLogsTask = 'count_logs';
const intervalSeconds = 10;

export function countLogs(sql: Sql): Task {
  return async (_payload, helpers) => {
    await repeat(helpers, countLogsTask, intervalSeconds);
    let isMore = true;
    while (isMore && !helpers.abortSignal?.aborted) {
      const [row] = await sql<{ counted: number }[]>`select job.count_logs() as counted`;
      isMore = row!.counted > 0;
    }
  };
}
