// The API in the test's own process, over real HTTP; every answer is parsed with the route's own schema.
import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { serve } from '@hono/node-server';
import type { z } from '@hono/zod-openapi';
import { pino } from 'pino';
import type postgres from 'postgres';
import { afterAll, beforeAll, expect } from 'vitest';
import { dataFolder } from '../../db/server/find.ts';
import { createApp, type Observability } from '../../src/app.ts';
import { parseConfig } from '../../src/config.ts';
import { connect, connectSession, listen } from '../../src/db.ts';
import { useDatabase } from './database.ts';
import { jwtSecret, signToken } from './process.ts';

export const exercisedFolder = path.join(dataFolder, 'test-exercised');

export interface Answer {
  status: number;
  headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: what it is follows from the route, and was checked against it
  body: any;
}

export interface Call {
  token?: string | null;
  headers?: Record<string, string>;
  body?: unknown;
}

export interface TestApi {
  url: string;
  databaseUrl: string;
  /** The database's owner. */
  sql: postgres.Sql;
  observability: Observability;
  /** Sends a request (as admin of the org acme unless told otherwise) and checks the answer against its schema. */
  call(method: string, path: string, call?: Call): Promise<Answer>;
}

/** In a test file: the API on a database of its own. */
export function useApi(env: Record<string, string> = {}): TestApi {
  const database = useDatabase();
  const api = {} as TestApi;
  const exercised = new Set<string>();
  const logged: string[] = [];
  let server: Server;
  let stop: () => Promise<unknown>;

  beforeAll(async () => {
    const config = parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret, ...env });
    const sql = connect(config.apiDatabaseUrl, {
      name: 'test-api',
      max: 5,
      statementTimeoutMs: config.statementTimeoutMs,
    });
    const openSessions = () =>
      Array.from({ length: config.ingestConnections }, () =>
        connectSession(config.apiDatabaseUrl, { name: 'test-api-ingest' }),
      );
    const sessions = openSessions();
    const logSessions = openSessions();
    const observability = createApp({
      config,
      log: pino({ level: 'error' }, { write: (line: string) => logged.push(line) }),
      sql,
      controlSql: sql,
      sessions,
      logSessions,
      exportSql: sql,
      tailSql: sql,
      listen: (onNotify, onListening) =>
        listen(config.apiDatabaseUrl, { name: 'test-api-listen' }, 'obs_log', onNotify, onListening),
    });
    server = serve({ fetch: observability.app.fetch, port: 0, hostname: '127.0.0.1' }) as Server;
    await new Promise((resolve) => server.once('listening', resolve));
    const token = await signToken();
    Object.assign(api, {
      url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      databaseUrl: database.url,
      sql: database.sql,
      observability,
    });
    api.call = async (method, target, call = {}) => {
      const isRaw =
        call.body === undefined || typeof call.body === 'string' || call.body instanceof Uint8Array;
      const response = await fetch(api.url + target, {
        method,
        headers: {
          ...(call.token === null ? {} : { Authorization: `Bearer ${call.token ?? token}` }),
          ...(call.body === undefined ? {} : { 'Content-Type': 'application/json' }),
          ...call.headers,
        },
        ...(call.body === undefined
          ? {}
          : { body: isRaw ? (call.body as string) : JSON.stringify(call.body) }),
      });
      const text = await response.text();
      const type = response.headers.get('Content-Type') ?? '';
      const body = /[/+]json\b/.test(type) ? JSON.parse(text) : text;
      expect(response.status, `${method} ${target}: ${logged.at(-1)}`).not.toBe(500);
      const route = routeOf(observability.app, method, target);
      if (route) {
        parseAnswer(route, response.status, type, body);
        if (response.ok) exercised.add(`${method.toUpperCase()} ${route.path}`);
      }
      return { status: response.status, headers: response.headers, body };
    };
    stop = async () => {
      server.closeAllConnections();
      server.close();
      await observability.drain();
      await Promise.all([
        sql.end({ timeout: 5 }),
        ...[...sessions, ...logSessions].map((session) => session.end()),
      ]);
    };
  });

  afterAll(async () => {
    writeFileSync(path.join(exercisedFolder, `${randomUUID()}.json`), JSON.stringify([...exercised]));
    await stop?.();
  });
  return api;
}

interface RouteDefinition {
  method: string;
  path: string;
  responses: Record<string, { content?: Record<string, { schema: z.ZodType }> }>;
}

function routeOf(app: Observability['app'], method: string, target: string): RouteDefinition | undefined {
  const { pathname } = new URL(target, 'http://test');
  for (const definition of app.openAPIRegistry.definitions) {
    if (definition.type !== 'route') continue;
    const route = definition.route as unknown as RouteDefinition;
    const pattern = new RegExp(`^${route.path.replace(/\{\w+\}/g, '[^/]+')}$`);
    if (route.method === method.toLowerCase() && pattern.test(pathname)) return route;
  }
  return undefined;
}

function parseAnswer(route: RouteDefinition, status: number, type: string, body: unknown) {
  const described = route.responses[status];
  expect(
    described,
    `${route.method} ${route.path} answers ${status}, which it does not document: ${JSON.stringify(body)}`,
  ).toBeDefined();
  if (described && !described.content) return expect(body, `${route.method} ${route.path}`).toBe('');
  const schema = described?.content?.[type.split(';')[0]!]?.schema;
  expect(
    schema,
    `${route.method} ${route.path} answers ${status} as ${type}, which it does not document`,
  ).toBeDefined();
  const parsed = schema!.safeParse(body);
  expect(
    parsed.error?.issues,
    `${route.method} ${route.path} ${status}: ${JSON.stringify(body).slice(0, 500)}`,
  ).toBeUndefined();
}
