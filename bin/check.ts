// make check: types, lint, every SQL function, the API's reference. --update rewrites openapi.json.
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { pino } from 'pino';
import { checkoutFolder, findServer } from '../db/server/find.ts';
import { createApp } from '../src/app.ts';
import { parseConfig } from '../src/config.ts';
import { connect } from '../src/db.ts';
import { openApiDocument } from '../src/routes/docs.ts';
import { cloneDatabase, createTemplate, dropDatabases } from '../test/support/database.ts';
import { command } from './environment.ts';

const update = process.argv.includes('--update');

await command(async () => {
  const failed: string[] = [];
  const checks: [string, () => Promise<string | null> | string | null][] = [
    [
      'types',
      () =>
        ['', 'src/web/client']
          .map((folder) => run('tsc', ['--project', path.join(checkoutFolder, folder)]))
          .find((problem) => problem !== null) ?? null,
    ],
    [
      'lint',
      () => run('biome', ['check', '--error-on-warnings', ...(update ? ['--write'] : []), checkoutFolder]),
    ],
    ['SQL functions (plpgsql_check)', checkFunctions],
    ['openapi.json', checkOpenApi],
    ['compose.yaml', checkCompose],
  ];
  for (const [name, check] of checks) {
    const problem = await check();
    console.log(
      `${problem === null ? 'ok  ' : problem.startsWith('skipped') ? '-   ' : 'FAIL'} ${name}${problem ? `\n${problem}` : ''}`,
    );
    if (problem !== null && !problem.startsWith('skipped')) failed.push(name);
  }
  if (failed.length > 0) throw new Error(`Failed: ${failed.join(', ')}`);
});

function run(file: string, args: string[]): string | null {
  const done = spawnSync(file, args, { encoding: 'utf8', cwd: checkoutFolder });
  return done.status === 0 ? null : `${done.error?.message ?? ''}${done.stdout}${done.stderr}`.trim();
}

async function checkFunctions(): Promise<string | null> {
  const server = await createTemplate((await findServer(() => {})).url);
  try {
    const sql = connect(await cloneDatabase(server), { name: 'obs-check', max: 1 });
    try {
      const [available] = await sql`select from pg_available_extensions where name = 'plpgsql_check'`;
      if (!available) return 'skipped: this server has no extension plpgsql_check';
      await sql`create extension plpgsql_check`;
      const problems = await sql<
        { signature: string; lineno: number | null; level: string; message: string }[]
      >`
        select p.oid::regprocedure::text as signature, c.lineno, c.level, c.message
        from pg_proc p
        join pg_namespace n on n.oid = p.pronamespace
        join pg_language l on l.oid = p.prolang
        cross join lateral plpgsql_check_function_tb(p.oid, fatal_errors => false, extra_warnings => true) c
        where n.nspname in ('api', 'job', 'lib') and l.lanname = 'plpgsql'
          -- It cannot see what a dynamic query returns.
          and not (c.message ~ '^OUT variable .* is maybe unmodified$' and p.prosrc ~ 'return query execute')`;
      return problems.length === 0
        ? null
        : problems.map((p) => `${p.signature} line ${p.lineno ?? '?'}: ${p.level}: ${p.message}`).join('\n');
    } finally {
      await sql.end();
    }
  } finally {
    await dropDatabases(server);
  }
}

function checkOpenApi(): string | null {
  const config = parseConfig({ DATABASE_URL: 'postgres://localhost/unused', JWT_SECRET: 'x'.repeat(32) });
  const sql = connect(config.apiDatabaseUrl, { name: 'obs-check', max: 1 });
  const { app } = createApp({
    config,
    log: pino({ level: 'silent' }),
    sql,
    controlSql: sql,
    exportSql: sql,
    tailSql: sql,
    sessions: [],
    logSessions: [],
    listen: () => ({ end: async () => {} }),
  });
  const file = path.join(checkoutFolder, 'openapi.json');
  const current = `${JSON.stringify(openApiDocument(app), null, 2)}\n`;
  if (update) writeFileSync(file, current);
  return readFileSync(file, 'utf8') === current
    ? null
    : 'The routes differ from openapi.json: if that is meant, run make openapi and commit it.';
}

function checkCompose(): string | null {
  if (spawnSync('docker', ['compose', 'version'], { stdio: 'ignore' }).status !== 0)
    return 'skipped: no docker compose here';
  return run('docker', ['compose', 'config', '--quiet']);
}
