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

let server: TestServer | undefined;
let users = 0;

// Vitest calls this once a project.
export async function setup(project: TestProject) {
  users++;
  if (!server) {
    const log = (line: string) => process.stderr.write(`${line}\n`);
    server = await createTemplate((await findServer(log)).url);
    log(`Testing on TimescaleDB ${server.timescaledb}, ${server.edition} edition`);
    rmSync(exercisedFolder, { recursive: true, force: true });
    mkdirSync(exercisedFolder, { recursive: true });
  }
  project.provide('server', server);
}

export async function teardown() {
  users--;
  if (users === 0 && server) await dropDatabases(server);
}
