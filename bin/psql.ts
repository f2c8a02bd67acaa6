// make psql: a prompt on the service's database as its owner; make psql SQL="select 1" runs one command.
import { spawnSync } from 'node:child_process';
import { ensureRuntime, runtimeCommand } from '../db/server/embedded.ts';
import { dataFolder, findDatabase } from '../db/server/find.ts';
import { command, loadEnvironment } from './environment.ts';

await command(async () => {
  loadEnvironment();
  const log = (line: string) => console.error(line);
  const { kind, url } = await findDatabase(log);
  // The sandbox has no pager and no home.
  const args = [
    'psql',
    '-P',
    'pager=off',
    '-v',
    'HISTFILE=/tmp/.psql_history',
    '-d',
    url,
    ...(process.env.SQL ? ['-c', process.env.SQL] : []),
  ];
  const hasPsql = spawnSync('psql', ['--version'], { stdio: 'ignore' }).status === 0;
  // The embedded server's own client fits it best; it serves where the machine has none, too.
  if (kind === 'embedded' || !hasPsql) {
    await ensureRuntime(log);
    const inside = runtimeCommand(dataFolder, args);
    process.exitCode = spawnSync(inside.file, inside.args, { stdio: 'inherit' }).status ?? 1;
  } else {
    process.exitCode = spawnSync(args[0]!, args.slice(1), { stdio: 'inherit' }).status ?? 1;
  }
});
