// make seed: registers the six LiftOS services in the default org.
import { migrate } from '../db/migrate.ts';
import { findDatabase } from '../db/server/find.ts';
import { parseConfig } from '../src/config.ts';
import { connect } from '../src/db.ts';
import { liftosServices, registerServices } from '../src/liftos.ts';
import { command, loadEnvironment } from './environment.ts';

await command(async () => {
  loadEnvironment();
  const log = (line: string) => console.log(`- ${line}`);
  const { url } = await findDatabase(log);
  const config = parseConfig({ ...process.env, DATABASE_URL: url });
  await migrate(url, () => {}, config);
  const sql = connect(config.apiDatabaseUrl, { name: 'obs-seed', max: 1 });
  try {
    const services = liftosServices(config.liftosHost);
    const { created, updated, unchanged } = await registerServices(sql, config.defaultOrg, services);
    for (const { service_name, health_endpoint } of services)
      console.log(`  ${service_name.padEnd(15)} ${health_endpoint}`);
    console.log(
      `\nIn org "${config.defaultOrg}": ${created} registered, ${updated} changed, ${unchanged} as they were. (Another host: LIFTOS_HOST=…)`,
    );
  } finally {
    await sql.end();
  }
});
