// A real Redis that a test may kill, hang and fill with garbage.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { freePort } from './process.ts';

/** Why there is no Redis here, or null. */
export const redisObstacle =
  spawnSync('redis-server', ['--version']).status === 0
    ? null
    : 'redis-server is missing: apt-get install redis-server';

export interface RedisServer {
  url: string;
  /** A client of the test's own. */
  client: Redis;
  start(...options: string[]): Promise<void>;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** SIGSTOP: it keeps its connections, takes new ones, and answers nobody. */
  hang(): void;
  /** SIGCONT. */
  goOn(): void;
  end(): Promise<void>;
}

/** Not started yet. It keeps its port from one start to the next. */
export async function createRedis(): Promise<RedisServer> {
  const port = await freePort();
  let child: ChildProcess | undefined;
  const client = new Redis(`redis://127.0.0.1:${port}`, { lazyConnect: true, retryStrategy: () => 50 });
  client.on('error', () => {});

  async function kill() {
    if (!child) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
    child = undefined;
  }

  return {
    url: `redis://127.0.0.1:${port}`,
    client,
    async start(...options) {
      const started = spawn(
        'redis-server',
        ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', ...options],
        { cwd: '/', stdio: 'ignore' },
      );
      child = started;
      for (let attempt = 0; attempt < 500; attempt++) {
        if (started.exitCode !== null) throw new Error('redis-server ended');
        const socket = net.connect(port, '127.0.0.1');
        const answered = await new Promise<boolean>((resolve) => {
          socket.once('data', () => resolve(true));
          socket.once('error', () => resolve(false));
          socket.once('connect', () => socket.write('PING\r\n'));
        });
        socket.destroy();
        if (answered) return;
        await sleep(20);
      }
      throw new Error('redis-server does not answer');
    },
    kill,
    hang: () => child?.kill('SIGSTOP'),
    goOn: () => child?.kill('SIGCONT'),
    async end() {
      client.disconnect();
      await kill();
    },
  };
}
