// What the commands of the Makefile share: the checkout's .env and its background processes.
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  appendFileSync,
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { checkoutFolder, dataFolder } from '../db/server/find.ts';

const envFile = path.join(checkoutFolder, '.env');

/** Reads .env, and gives it random keys where none are configured. What is set already wins over the file. */
export function loadEnvironment(): void {
  const text = existsSync(envFile) ? readFileSync(envFile, 'utf8') : '';
  // An empty variable is an absent one, and must not hide the file's.
  for (const name of ['JWT_SECRET', 'JWT_JWKS_URL', 'SECRETS_KEY', 'DATABASE_URL'])
    if (process.env[name] === '') delete process.env[name];
  if (text) process.loadEnvFile(envFile);
  // In production keys are for whoever deploys to give; the configuration, or a warning, says so when there is none.
  if (process.env.NODE_ENV === 'production') return;
  const missing = [
    ...(process.env.JWT_SECRET || process.env.JWT_JWKS_URL ? [] : ['JWT_SECRET']),
    ...(process.env.SECRETS_KEY ? [] : ['SECRETS_KEY']),
  ];
  if (missing.length === 0) return;
  for (const name of missing) process.env[name] = randomBytes(32).toString('hex');
  const lines = missing.map((name) => `${name}=${process.env[name]}\n`).join('');
  appendFileSync(envFile, `${text && !text.endsWith('\n') ? '\n' : ''}${lines}`);
  chmodSync(envFile, 0o600);
}

/** Runs a command's main function; an error is printed as a message, without a stack. */
export async function command(main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (error) {
    console.error(`\n${(error as Error).message}`);
    process.exit(1);
  }
}

export const processes = { api: 'src/main.ts', worker: 'jobs/main.ts' } as const;
export type ProcessName = keyof typeof processes;

export function logFile(name: ProcessName): string {
  return path.join(dataFolder, 'logs', `${name}.log`);
}

function pidFile(name: ProcessName): string {
  return path.join(dataFolder, 'run', `${name}.pid`);
}

/** Process id of a background process of this checkout, or null when it does not run. */
export function pidOf(name: ProcessName): number | null {
  if (!existsSync(pidFile(name))) return null;
  const pid = Number(readFileSync(pidFile(name), 'utf8'));
  // The file outlives a killed process, and its number may belong to another by now.
  try {
    if (!existsSync('/proc/self')) return process.kill(pid, 0) ? pid : null;
    const isOurs =
      readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')[1] === processes[name] &&
      readlinkSync(`/proc/${pid}/cwd`) === checkoutFolder;
    return isOurs ? pid : null;
  } catch {
    return null;
  }
}

function settingsFile(name: ProcessName): string {
  return path.join(dataFolder, 'run', `${name}.settings`);
}

/** Whether a background process was started with other settings than these. */
export function hasOtherSettings(name: ProcessName, settings: string): boolean {
  return existsSync(settingsFile(name)) && readFileSync(settingsFile(name), 'utf8') !== settings;
}

/** Starts a process in the background with its output in .data/logs. */
export function startProcess(name: ProcessName, env: Record<string, string>, settings: string): void {
  for (const file of [logFile(name), pidFile(name)]) mkdirSync(path.dirname(file), { recursive: true });
  const log = openSync(logFile(name), 'a');
  const child = spawn(process.execPath, [processes[name]], {
    cwd: checkoutFolder,
    env: { ...process.env, ...env },
    detached: true,
    stdio: ['ignore', log, log],
  });
  closeSync(log);
  child.unref();
  writeFileSync(pidFile(name), `${child.pid}\n`);
  writeFileSync(settingsFile(name), settings);
}

/** Ends a background process with SIGTERM and waits until it is gone. Answers whether it ran. */
export async function stopProcess(name: ProcessName): Promise<boolean> {
  const pid = pidOf(name);
  if (pid) {
    process.kill(pid, 'SIGTERM');
    const deadline = Date.now() + 30_000;
    while (pidOf(name) === pid) {
      if (Date.now() > deadline) throw new Error(`The ${name} (process ${pid}) did not stop within 30 s.`);
      await sleep(50);
    }
  }
  rmSync(pidFile(name), { force: true });
  return pid !== null;
}

/** What a process has said since its log was this long: the messages alone. */
export function messagesSince(name: ProcessName, length: number): string {
  if (!existsSync(logFile(name))) return '';
  const lines = readFileSync(logFile(name), 'utf8').slice(length).trim().split('\n').slice(-10);
  return lines.map((line) => `  ${/"msg":("(?:[^"\\]|\\.)*")/.exec(line)?.[1] ?? line}`).join('\n');
}

export function logLength(name: ProcessName): number {
  return existsSync(logFile(name)) ? readFileSync(logFile(name), 'utf8').length : 0;
}
