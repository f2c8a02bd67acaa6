// make bench: measures a service of its own, on a database of its own, on the server that make up would use.
import { parseArgs } from 'node:util';
import { findServer } from '../db/server/find.ts';
import { cloneDatabase, createTemplate, dropDatabases } from '../test/support/database.ts';
import { signToken, startService } from '../test/support/process.ts';
import { benchCopy, benchIngest } from './ingest.ts';

const { values: options } = parseArgs({
  options: {
    seconds: { type: 'string', default: '5' },
    peers: { type: 'boolean', default: false },
  },
});
const seconds = Number(options.seconds);

const server = await createTemplate((await findServer(console.log)).url);
try {
  const databaseUrl = await cloneDatabase(server);
  const api = await startService('api', { DATABASE_URL: databaseUrl });
  const token = await signToken();
  console.log(`\nIngest (${server.edition} edition, ${seconds} s each)`);
  const rows = await benchIngest({ url: api.url, token }, seconds, (row) =>
    console.log(
      `  ${row.name.padEnd(14)} ${String(row.connections).padStart(3)} connections ${Math.round(row.perSecond).toString().padStart(9)} samples/s  p50 ${row.p50.toFixed(2)} ms  p99 ${row.p99.toFixed(2)} ms`,
    ),
  );
  const copied = await benchCopy(databaseUrl, 500_000);
  console.log(`  psql binary COPY, same table    ${Math.round(copied).toString().padStart(9)} rows/s`);
  for (const row of rows)
    if (row.name !== 'single')
      console.log(`  ratio at ${row.connections}: ${(row.perSecond / copied).toFixed(2)}`);
  await api.stop();
} finally {
  await dropDatabases(server);
}
