// make demo: a history to look at, in the default org.
import { fillDemo } from '../db/demo.ts';
import { migrate } from '../db/migrate.ts';
import { findDatabase } from '../db/server/find.ts';
import { parseConfig } from '../src/config.ts';
import { connect } from '../src/db.ts';
import { command, loadEnvironment } from './environment.ts';

await command(async () => {
  const started = performance.now();
  loadEnvironment();
  const log = (line: string) => console.log(`- ${line}`);
  const { url } = await findDatabase(log);
  const config = parseConfig({ ...process.env, DATABASE_URL: url });
  await migrate(url, () => {}, config);
  const sql = connect(url, { name: 'obs-demo', max: 1 });
  try {
    const demo = await fillDemo(sql, config.defaultOrg, log);
    const seconds = ((performance.now() - started) / 1000).toFixed(0);
    console.log(
      demo
        ? `\n${demo.samples} samples of ${demo.series} series, 30 days that end now, and ${demo.lines} log lines of the last 7, in org "${config.defaultOrg}", in ${seconds} s.`
        : `\nThe org "${config.defaultOrg}" has its demo data already.`,
    );
  } finally {
    await sql.end();
  }
});
