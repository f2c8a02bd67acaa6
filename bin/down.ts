// make down: stops worker, API and, where it is ours, the database. Data stays.
import { stopServer } from '../db/server/find.ts';
import { command, loadEnvironment, stopProcess } from './environment.ts';

await command(async () => {
  loadEnvironment();
  for (const name of ['worker', 'api'] as const) {
    console.log(
      `- The ${name === 'api' ? 'API' : name} ${(await stopProcess(name)) ? 'is stopped' : 'was not running'}`,
    );
  }
  console.log(`- ${await stopServer()}`);
});
