// Every minute: the database's own figures, as metrics of the default org.
import type { Task } from 'graphile-worker';
import type { Sql } from '../src/db.ts';
import { serviceName } from '../src/version.ts';

export function recordDatabaseMetrics(sql: Sql, org: string): Task {
  return async () => {
    const rows = await sql<{ name: string; value: number }[]>`select name, value from job.measure_database()`;
    const samples = rows.map(({ name, value }) => ({ name, value, service_name: serviceName }));
    await sql`select job.record_samples(${org}, ${JSON.stringify(samples)}::text::jsonb)`;
  };
}
