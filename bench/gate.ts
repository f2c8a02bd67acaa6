// What authentication, rate limits, permission, audit and the share of queries add to a request: the same handler with and without them, in turn.
import { once } from 'node:events';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { serve } from '@hono/node-server';
import { createRoute, OpenAPIHono } from '@hono/zod-openapi';
import { pino } from 'pino';
import { Client } from 'undici';
import { createAccessLog } from '../src/access_log.ts';
import { type AuthEnv, createAuthenticator } from '../src/auth.ts';
import { parseConfig } from '../src/config.ts';
import { connect } from '../src/db.ts';
import { createGate } from '../src/gate.ts';
import { createHotAnswers } from '../src/hot_answers.ts';
import { createOrgCache } from '../src/orgs.ts';
import { needs, type Permission } from '../src/permissions.ts';
import { createRateLimit } from '../src/rate_limit.ts';
import { connectRedis, type SharedRedis } from '../src/redis.ts';
import { endpoint } from '../src/request.ts';
import { createShare } from '../src/share.ts';
import { createUsage } from '../src/usage.ts';
import { jwtSecret, signToken } from '../test/support/process.ts';
import { createRedis, redisObstacle } from '../test/support/redis.ts';
import { percentile } from './load.ts';

const requests = 20_000;

export async function benchGate(databaseUrl: string): Promise<void> {
  await run(databaseUrl, 'limits in memory');
  await run(databaseUrl, 'the same, and reads in the audit log', { auditReads: true });
  if (redisObstacle) return;
  const server = await createRedis();
  try {
    await server.start();
    const redis = connectRedis(server.url, pino({ level: 'silent' }));
    while (!redis.isUp()) await sleep(20);
    await run(databaseUrl, 'limits in Redis', { redis });
    redis.end();
  } finally {
    await server.end();
  }
}

async function run(
  databaseUrl: string,
  what: string,
  { redis, auditReads = false }: { redis?: SharedRedis; auditReads?: boolean } = {},
) {
  const config = parseConfig({ DATABASE_URL: databaseUrl, JWT_SECRET: jwtSecret });
  const log = pino({ level: 'silent' });
  const sql = connect(config.apiDatabaseUrl, { name: 'bench-gate', max: 3 });
  const orgs = createOrgCache(sql, config.orgLimits);
  const usage = createUsage(sql, log);
  const router = new OpenAPIHono<AuthEnv>();
  const add = (path: string, permission?: Permission) =>
    endpoint(
      router,
      createRoute({
        method: 'get',
        path,
        ...(permission ? { security: needs(permission) } : {}),
        responses: {},
      }),
      (c) => c.json({ metrics: [], next_cursor: null }),
    );
  add('/without');
  add('/with', 'metrics:read');
  const app = new OpenAPIHono<AuthEnv>();
  app.use(async (c, next) => {
    c.set('requestId', 'bench');
    c.set('address', '127.0.0.1');
    await next();
  });
  app.use(
    '/with',
    createGate({
      authenticator: createAuthenticator(config, sql, orgs),
      orgs,
      rateLimit: createRateLimit(config.tokenLimits, redis),
      share: createShare(config.poolSize),
      usage,
      hotAnswers: createHotAnswers(config.cacheMs, redis),
      recordAccess: createAccessLog(sql, log),
      auditReads,
    }),
  );
  app.route('/', router);
  const server = serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' }) as Server;
  await once(server, 'listening');
  const client = new Client(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, { pipelining: 1 });
  const headers = { Authorization: `Bearer ${await signToken()}` };
  const latencies = { '/without': [] as number[], '/with': [] as number[] };
  for (let i = 0; i < requests + 2_000; i++) {
    for (const path of ['/without', '/with'] as const) {
      const sent = performance.now();
      const answer = await client.request({ path, method: 'GET', headers });
      await answer.body.text();
      if (answer.statusCode !== 200) throw new Error(`${path}: ${answer.statusCode}`);
      // The first ones are for the compiler.
      if (i >= 2_000) latencies[path].push(performance.now() - sent);
    }
  }
  await client.close();
  server.closeAllConnections();
  server.close();
  await usage.end();
  await sql.end();
  const [without, with_] = Object.values(latencies).map((values) =>
    percentile(Float64Array.from(values).sort(), 50),
  );
  console.log(
    `  ${what.padEnd(38)} p50 ${without!.toFixed(3)} ms without, ${with_!.toFixed(3)} ms with: ${((with_! - without!) * 1000).toFixed(0)} us more`,
  );
}
