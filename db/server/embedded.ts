// A TimescaleDB that needs no engine and no installation: Debian 13's PostgreSQL 17 and TimescaleDB (Apache 2
// edition), unpacked into the user's cache folder and run under bubblewrap, with its data in the checkout.
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  appendFileSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf } from '../../src/errors.ts';

type Log = (line: string) => void;

const packages = [
  'dash',
  'coreutils',
  'postgresql-17',
  'postgresql-17-timescaledb',
  'postgresql-17-plpgsql-check',
];

// Raised whenever what is unpacked changes, so that an older runtime in the cache is not taken for it.
const runtimeVersion = 1;

const cacheFolder = path.join(
  process.env.XDG_CACHE_HOME || path.join(os.homedir(), '.cache'),
  'liftos-observability',
);
const runtimeFolder = path.join(cacheFolder, `trixie-pg17-${process.arch}-${runtimeVersion}`);

// PostgreSQL refuses uid 0. Inside its user namespace the server has this one, whoever runs it.
const uid = '1000';

const hint = 'Or give a DATABASE_URL, or start a Docker engine: see "Databases" in README.md.';

/** Why the embedded server cannot work on this machine, or null. */
export function embeddedObstacle(): string | null {
  if (process.platform !== 'linux') return 'the embedded database runs on Linux only';
  if (hasCommand('bwrap') && (existsSync(runtimeFolder) || hasCommand('mmdebstrap'))) return null;
  if (process.getuid?.() === 0 && hasCommand('apt-get')) return null;
  return 'the embedded database needs bubblewrap and mmdebstrap: sudo apt-get install -y bubblewrap mmdebstrap debian-archive-keyring';
}

function hasCommand(name: string) {
  return spawnSync('sh', ['-c', `command -v ${name}`], { stdio: 'ignore' }).status === 0;
}

/** Unpacks the runtime if the cache does not have it (about 15 s and 450 MB, once a machine). */
export async function ensureRuntime(log: Log): Promise<void> {
  if (hasCommand('bwrap') && existsSync(runtimeFolder)) return;
  const obstacle = embeddedObstacle();
  if (obstacle) throw new Error(`${obstacle}. ${hint}`);
  if (!hasCommand('bwrap') || !hasCommand('mmdebstrap')) {
    log('Installing bubblewrap and mmdebstrap');
    installTools();
  }
  mkdirSync(cacheFolder, { recursive: true });
  await withLock(path.join(cacheFolder, 'lock'), log, async () => {
    if (existsSync(runtimeFolder)) return;
    log('Unpacking PostgreSQL 17 and TimescaleDB (once on this machine)');
    const partial = `${runtimeFolder}.partial`;
    rmSync(partial, { recursive: true, force: true });
    mkdirSync(partial);
    // By way of a tar file, so that the files belong to whoever runs this and not to a mapped user.
    const archive = `${partial}.tar`;
    retryOnce('mmdebstrap', [
      '--variant=extract',
      '--quiet',
      `--include=${packages.join(',')}`,
      'trixie',
      archive,
      ...debianMirror(),
    ]);
    run('tar', [
      '--extract',
      '--file',
      archive,
      '--directory',
      partial,
      '--no-same-owner',
      '--exclude=./dev/*',
    ]);
    rmSync(archive);
    // What the packages' own scripts, which were not run, would have made.
    for (const name of ['bin', 'sbin', 'lib', 'lib64']) {
      if (!existsSync(path.join(partial, name))) symlinkSync(`usr/${name}`, path.join(partial, name));
    }
    for (const name of ['proc', 'dev', 'tmp', 'run', 'data', 'etc'])
      mkdirSync(path.join(partial, name), { recursive: true });
    appendFileSync(path.join(partial, 'etc/passwd'), `postgres:x:${uid}:${uid}::/:/bin/sh\n`);
    appendFileSync(path.join(partial, 'etc/group'), `postgres:x:${uid}:\n`);
    const trial = spawnSync('bwrap', sandbox(partial, cacheFolder, ['postgres', '--version']), {
      encoding: 'utf8',
    });
    if (trial.status !== 0) {
      throw new Error(
        `the embedded database does not start under bubblewrap: ${trial.stderr.trim()}\n` +
          `User namespaces may be switched off (kernel.unprivileged_userns_clone, AppArmor). ${hint}`,
      );
    }
    renameSync(partial, runtimeFolder);
  });
}

function installTools() {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  retryOnce('apt-get', ['update', '-qq'], env);
  retryOnce(
    'apt-get',
    ['install', '-y', '-qq', '--no-install-recommends', 'bubblewrap', 'mmdebstrap', 'debian-archive-keyring'],
    env,
  );
}

// The mirror that this machine already uses, where it is Debian itself; else mmdebstrap's default.
function debianMirror(): string[] {
  const osRelease = existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : '';
  if (!/^ID=debian$/m.test(osRelease)) return [];
  const listed = spawnSync(
    'apt-get',
    ['indextargets', '--format', '$(SITE) $(ORIGIN) $(LABEL)', 'Created-By: Packages'],
    {
      encoding: 'utf8',
    },
  );
  const line = (listed.stdout ?? '').split('\n').find((line) => line.endsWith(' Debian Debian'));
  return line ? [line.split(' ')[0]!] : [];
}

function run(command: string, args: string[], env = process.env) {
  const done = spawnSync(command, args, { encoding: 'utf8', env, maxBuffer: 64 * 1024 ** 2 });
  if (done.status !== 0) {
    const output = `${done.error?.message ?? ''}${done.stdout ?? ''}${done.stderr ?? ''}`
      .trim()
      .split('\n')
      .slice(-12)
      .join('\n');
    throw new Error(`${command} failed:\n${output}\n${hint}`);
  }
}

function retryOnce(command: string, args: string[], env = process.env) {
  try {
    run(command, args, env);
  } catch {
    run(command, args, env);
  }
}

// Another process may be at the same work. The lock is a folder, which only one can make.
async function withLock<T>(folder: string, log: Log, work: () => Promise<T>): Promise<T> {
  const holder = path.join(folder, 'pid');
  let isWaiting = false;
  for (;;) {
    try {
      mkdirSync(folder);
      writeFileSync(holder, `${process.pid}\n`);
      break;
    } catch {
      // Whoever made it may have been killed; the file comes a moment after the folder.
      const age = Date.now() - (statSync(folder, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
      if (age > 1_000 && !isAlive(holder)) rmSync(folder, { recursive: true, force: true });
      else if (!isWaiting && age > 1_000) {
        isWaiting = true;
        log(`Waiting for another process that holds ${folder}`);
      }
      await sleep(100);
    }
  }
  try {
    return await work();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function isAlive(pidFile: string): boolean {
  try {
    return process.kill(Number(readFileSync(pidFile, 'utf8')), 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

function sandbox(runtime: string, dataFolder: string, command: string[]): string[] {
  return [
    ...['--unshare-user', '--uid', uid, '--gid', uid],
    ...['--ro-bind', runtime, '/', '--proc', '/proc', '--dev', '/dev', '--tmpfs', '/tmp', '--tmpfs', '/run'],
    ...['--bind', dataFolder, '/data', '--chdir', '/'],
    ...[
      '--clearenv',
      '--setenv',
      'LC_ALL',
      'C.UTF-8',
      '--setenv',
      'PATH',
      '/usr/lib/postgresql/17/bin:/usr/bin:/bin',
    ],
    ...command,
  ];
}

/** How to run one of PostgreSQL's programs (psql, pg_dump …) of the runtime; dataFolder is mounted at /data. */
export function runtimeCommand(dataFolder: string, command: string[]): { file: string; args: string[] } {
  return { file: 'bwrap', args: sandbox(runtimeFolder, dataFolder, command) };
}

export interface EmbeddedServer {
  url: string;
  /** Process id of the postmaster. */
  pid: number;
}

/**
 * Starts the server whose data lives in folder (made at the first start), or finds it running.
 * Answers when it accepts connections. Other settings are for the postgres command line.
 */
export async function startEmbedded(
  folder: string,
  log: Log,
  settings: Record<string, string> = {},
): Promise<EmbeddedServer> {
  await ensureRuntime(log);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  return await withLock(path.join(folder, 'lock'), log, () => startLocked(folder, log, settings));
}

async function startLocked(
  folder: string,
  log: Log,
  settings: Record<string, string>,
): Promise<EmbeddedServer> {
  initialise(folder, log);
  const password = readFileSync(path.join(folder, 'pg/password'), 'utf8').trim();
  const running = embeddedPid(folder);
  if (running) {
    const port = Number(readFileSync(path.join(folder, 'pg/postmaster.pid'), 'utf8').split('\n')[3]);
    await untilReady(folder, port, () => true);
    return { url: serverUrl(password, port), pid: running };
  }
  const port = await freePort(folder);
  const logFile = openSync(path.join(folder, 'postgresql.log'), 'a');
  const options = { port: String(port), ...settings };
  const child = spawn(
    'bwrap',
    sandbox(runtimeFolder, folder, [
      'postgres',
      '-D',
      '/data/pg',
      ...Object.entries(options).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    ]),
    { detached: true, stdio: ['ignore', logFile, logFile] },
  );
  closeSync(logFile);
  let exited = false;
  child.once('exit', () => {
    exited = true;
  });
  await untilReady(folder, port, () => !exited);
  child.unref();
  return { url: serverUrl(password, port), pid: embeddedPid(folder)! };
}

function initialise(folder: string, log: Log) {
  const data = path.join(folder, 'pg');
  if (existsSync(path.join(data, 'password'))) return;
  if (existsSync(data))
    throw new Error(`${data} is not complete: its file "password" is missing. Nothing was changed.`);
  log('Making the database');
  // Made beside its place and renamed when complete: a run that was interrupted half-way starts over.
  const unfinished = path.join(folder, 'pg.new');
  const passwordFile = path.join(folder, 'password.new');
  rmSync(unfinished, { recursive: true, force: true });
  writeFileSync(passwordFile, `${randomBytes(24).toString('hex')}\n`, { mode: 0o600 });
  const made = spawnSync(
    'bwrap',
    sandbox(runtimeFolder, folder, [
      ...['initdb', '--pgdata=/data/pg.new', '--username=postgres', '--pwfile=/data/password.new'],
      ...['--auth=scram-sha-256', '--encoding=UTF8', '--locale=C.UTF-8'],
    ]),
    { encoding: 'utf8' },
  );
  if (made.status !== 0) throw new Error(`initdb failed: ${made.stderr.trim()}`);
  appendFileSync(path.join(unfinished, 'postgresql.conf'), serverSettings());
  renameSync(passwordFile, path.join(unfinished, 'password'));
  renameSync(unfinished, data);
}

function serverSettings(): string {
  const memoryMb = Math.floor(os.totalmem() / 1024 ** 2);
  const sharedBuffersMb = Math.max(128, Math.min(8192, Math.floor(memoryMb / 6)));
  const settings = {
    listen_addresses: "'127.0.0.1'",
    unix_socket_directories: "'/tmp'",
    shared_preload_libraries: "'timescaledb'",
    'timescaledb.license': "'apache'",
    'timescaledb.telemetry_level': 'off',
    // A scheduler for every database, those of a test run included.
    'timescaledb.max_background_workers': '24',
    max_worker_processes: String(24 + os.availableParallelism() + 3),
    max_connections: '200',
    // A query over a year of day chunks locks every one of them and its index.
    max_locks_per_transaction: '512',
    shared_buffers: `${sharedBuffersMb}MB`,
    effective_cache_size: `${Math.floor(memoryMb / 2)}MB`,
    work_mem: `${Math.max(8, Math.min(64, Math.floor(memoryMb / 400)))}MB`,
    maintenance_work_mem: `${Math.max(64, Math.min(1024, Math.floor(memoryMb / 20)))}MB`,
    max_wal_size: '4GB',
    checkpoint_timeout: '15min',
    // The first change of a page after a checkpoint logs the page whole; ingest gains about a tenth.
    wal_compression: 'lz4',
    random_page_cost: '1.1',
    jit: 'off',
    timezone: "'UTC'",
    log_timezone: "'UTC'",
  };
  return `\n# LiftOS Observability\n${Object.entries(settings)
    .map(([name, value]) => `${name} = ${value}\n`)
    .join('')}`;
}

// The port of the last start, if it is still free, so that a DATABASE_URL someone noted goes on working.
async function freePort(folder: string): Promise<number> {
  const file = path.join(folder, 'port');
  const last = existsSync(file) ? Number(readFileSync(file, 'utf8')) : 54320;
  const port = (await tryPort(last)) ?? (await tryPort(0))!;
  writeFileSync(file, `${port}\n`);
  return port;
}

function tryPort(port: number): Promise<number | null> {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once('error', () => resolve(null));
    server.listen(port, '127.0.0.1', () => {
      const { port } = server.address() as net.AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

function serverUrl(password: string, port: number) {
  return `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`;
}

async function untilReady(folder: string, port: number, alive: () => boolean) {
  const deadline = Date.now() + 120_000;
  // The eighth line of postmaster.pid says "ready" from the moment connections are accepted.
  for (;;) {
    const file = path.join(folder, 'pg/postmaster.pid');
    const lines = existsSync(file) ? readFileSync(file, 'utf8').split('\n') : [];
    if (lines[3] === String(port) && lines[7]?.trim() === 'ready' && embeddedPid(folder)) return;
    if (!alive() || Date.now() > deadline) {
      const log = readFileSync(path.join(folder, 'postgresql.log'), 'utf8')
        .trim()
        .split('\n')
        .slice(-10)
        .join('\n');
      throw new Error(`PostgreSQL did not start. The end of ${path.join(folder, 'postgresql.log')}:\n${log}`);
    }
    await sleep(50);
  }
}

/** Process id of the postmaster of the data in folder, or null when it does not run. */
export function embeddedPid(folder: string): number | null {
  try {
    const pid = Number(readFileSync(path.join(folder, 'pg/postmaster.pid'), 'utf8').split('\n')[0]);
    // The file outlives a killed server, and its number may belong to another process by now.
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').startsWith('postgres\0') ? pid : null;
  } catch (error) {
    // Either can go at any moment; a process that is just ending cannot be read either.
    if (['ENOENT', 'ESRCH'].includes(codeOf(error))) return null;
    throw error;
  }
}

/** Stops the server ("fast": clients are cut off, data is flushed). Does nothing when it does not run. */
export async function stopEmbedded(folder: string): Promise<void> {
  const pid = embeddedPid(folder);
  if (!pid) return;
  process.kill(pid, 'SIGINT');
  const deadline = Date.now() + 60_000;
  while (embeddedPid(folder) === pid) {
    if (Date.now() > deadline) throw new Error(`PostgreSQL (process ${pid}) did not stop within a minute`);
    await sleep(50);
  }
}
