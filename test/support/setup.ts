// Once a run: finds the server, makes the template database, drops everything at the end.
import { mkdirSync, rmSync } from 'node:fs';
import type { TestProject } from 'vitest/node';
import { findServer } from '../../db/server/find.ts';
import { exercisedFolder } from './api.ts';
import { createTemplate, dropDatabases, type TestServer } from './database.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    server: TestServer;
  }
}

// Vitest calls this once a project, with a module of its own each time; the run is shared by way of the process.
interface Run {
  users: number;
  server?: Promise<TestServer>;
}

const shared = globalThis as { observabilityTestRun?: Run };
shared.observabilityTestRun ??= { users: 0 };
const run = shared.observabilityTestRun;

export async function setup(project: TestProject) {
  run.users++;
  run.server ??= start();
  project.provide('server', await run.server);
}

async function start(): Promise<TestServer> {
  rmSync(exercisedFolder, { recursive: true, force: true });
  mkdirSync(exercisedFolder, { recursive: true });
  const log = (line: string) => process.stderr.write(`${line}\n`);
  const server = await createTemplate((await findServer(log)).url);
  log(`Testing on TimescaleDB ${server.timescaledb}, ${server.edition} edition`);
  return server;
}

export async function teardown() {
  run.users--;
  if (run.users > 0 || !run.server) return;
  // Of a checkout that is thrown away the server is too, and to drop a hundred databases takes it most of a minute.
  if (process.env.CI && !process.env.DATABASE_URL) return;
  await dropDatabases(await run.server);
}
