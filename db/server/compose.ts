// The database of compose.yaml, where a Docker engine answers.
import { spawnSync } from 'node:child_process';

/** Whether an engine answers and its compose plugin is there. */
export function hasCompose(): boolean {
  return ['info', 'compose'].every(
    (word) =>
      spawnSync('docker', word === 'info' ? ['info'] : ['compose', 'version'], {
        stdio: 'ignore',
        timeout: 5_000,
      }).status === 0,
  );
}

/** Starts the service "db" of compose.yaml, waits until it is healthy, and answers with its URL. */
export function startCompose(log: (line: string) => void): string {
  log('Starting TimescaleDB with Docker Compose');
  const started = spawnSync('docker', ['compose', 'up', '--detach', '--wait', '--quiet-pull', 'db'], {
    encoding: 'utf8',
  });
  if (started.status !== 0) {
    throw new Error(
      `docker compose up db failed: ${started.stderr.trim()}\nGive a DATABASE_URL to use another database.`,
    );
  }
  const address = spawnSync('docker', ['compose', 'port', 'db', '5432'], { encoding: 'utf8' }).stdout.trim();
  const password = process.env.POSTGRES_PASSWORD || 'postgres';
  return `postgresql://postgres:${encodeURIComponent(password)}@${address.replace('0.0.0.0', '127.0.0.1')}/postgres`;
}

export function stopCompose(): void {
  spawnSync('docker', ['compose', 'stop', 'db'], { stdio: 'ignore' });
}
