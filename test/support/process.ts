// The API and the worker as real processes, for tests that kill them and for benches.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import net, { type AddressInfo } from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SignJWT } from 'jose';

export const jwtSecret = 'a-secret-for-tests-of-at-least-32-bytes';
const root = path.resolve(import.meta.dirname, '../..');

export interface Service {
  child: ChildProcess;
  url: string;
  /** Everything it has printed. */
  output: () => string;
  /** Ends it with SIGTERM and answers its exit code. */
  stop: () => Promise<number | null>;
  /** SIGKILL, and waits until it is gone. */
  kill: () => Promise<void>;
}

/** Starts src/main.ts or jobs/main.ts with an environment of its own and waits until it says it runs. */
export async function startService(kind: 'api' | 'worker', env: Record<string, string>): Promise<Service> {
  const child = spawn(process.execPath, [path.join(root, kind === 'api' ? 'src/main.ts' : 'jobs/main.ts')], {
    // Not the checkout, where a .env would be read.
    cwd: '/',
    env: {
      PATH: process.env.PATH,
      NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE,
      JWT_SECRET: jwtSecret,
      PORT: '0',
      HOST: '127.0.0.1',
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout.on('data', (chunk) => {
    output += chunk;
  });
  child.stderr.on('data', (chunk) => {
    output += chunk;
  });
  const exited = once(child, 'exit');
  const pattern = kind === 'api' ? /"port":(\d+),"msg":"listening"/ : /"msg":"working"/;
  const deadline = Date.now() + 20_000;
  let match = pattern.exec(output);
  while (!match) {
    if (child.exitCode !== null || Date.now() > deadline) {
      child.kill('SIGKILL');
      throw new Error(`${kind} did not start:\n${output}`);
    }
    await sleep(10);
    match = pattern.exec(output);
  }
  return {
    child,
    url: `http://127.0.0.1:${match[1] ?? 0}`,
    output: () => output,
    async stop() {
      child.kill('SIGTERM');
      await exited;
      return child.exitCode;
    },
    async kill() {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

/** A port that nothing listens at. */
export async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** A token as clients carry it. */
export function signToken(claims: Record<string, unknown> = {}): Promise<string> {
  const exp = Math.floor(Date.now() / 1000) + 3600;
  return new SignJWT({ sub: 'tester', org_id: 'acme', role: 'admin', exp, ...claims })
    .setProtectedHeader({ alg: 'HS256' })
    .setIssuedAt()
    .sign(new TextEncoder().encode(jwtSecret));
}
