// make migrate: brings the database up to date.
import { migrate } from '../db/migrate.ts';
import { findDatabase } from '../db/server/find.ts';
import { parseConfig } from '../src/config.ts';
import { command, loadEnvironment } from './environment.ts';

await command(async () => {
  loadEnvironment();
  const database = await findDatabase(console.log);
  const config = parseConfig({ ...process.env, DATABASE_URL: database.url });
  await migrate(database.url, console.log, config);
  console.log('The database is up to date.');
});
