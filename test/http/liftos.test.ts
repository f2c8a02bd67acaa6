// What registers itself: the service when its API starts, and on request the other six of LiftOS.
import { afterEach, expect, test } from 'vitest';
import { parseConfig } from '../../src/config.ts';
import { liftosServices, registerServices, self } from '../../src/liftos.ts';
import { useDatabase } from '../support/database.ts';
import { jwtSecret, type Service, signToken, startService } from '../support/process.ts';

const database = useDatabase();
const running: Service[] = [];
afterEach(async () => {
  for (const service of running.splice(0)) await service.stop();
});

async function startApi(env: Record<string, string>): Promise<Service> {
  const api = await startService('api', { DATABASE_URL: database.url, DEFAULT_ORG: 'home', ...env });
  running.push(api);
  return api;
}
async function endpoints(api: Service): Promise<[string, string][]> {
  const answer = await fetch(`${api.url}/api/v1/services`, {
    headers: { Authorization: `Bearer ${await signToken({ org_id: 'home' })}` },
  });
  const { services } = (await answer.json()) as {
    services: { service_name: string; health_endpoint: string }[];
  };
  return services.map(({ service_name, health_endpoint }) => [service_name, health_endpoint]);
}

test('an API that starts registers itself, where it listens', async () => {
  const api = await startApi({});
  await expect
    .poll(() => endpoints(api))
    .toEqual([['liftos-observability', `http://127.0.0.1:${new URL(api.url).port}/health`]]);
});

test('with REGISTER_LIFTOS the six others too; what was changed of them since stays', async () => {
  const settings = {
    REGISTER_LIFTOS: 'true',
    LIFTOS_HOST: 'liftos.test',
    SELF_HEALTH_URL: 'http://api.test/health',
  };
  const expected = [
    ['auth', 'http://liftos.test:8001/health'],
    ['billing', 'http://liftos.test:8002/health'],
    ['data-ingestion', 'http://liftos.test:8006/health'],
    ['gateway', 'http://liftos.test:8000/health'],
    ['liftos-observability', 'http://api.test/health'],
    ['memory', 'http://liftos.test:8003/health'],
    ['registry', 'http://liftos.test:8005/health'],
  ];
  const first = await startApi(settings);
  await expect.poll(() => endpoints(first)).toEqual(expected);
  await database.sql`update obs.service set check_interval_seconds = 300 where name = 'auth'`;
  await Promise.all([startApi(settings), startApi(settings)]);
  await expect
    .poll(() => running.every((api) => api.output().includes('registered this service')))
    .toBe(true);
  expect(await endpoints(first)).toEqual(expected);
  expect(await database.sql`select check_interval_seconds as s from obs.service where name = 'auth'`).toEqual(
    [{ s: 300 }],
  );
});

test('registering twice changes nothing; IPv6 addresses are written as URLs have them', async () => {
  const services = liftosServices('::1');
  expect(services.map(({ health_endpoint }) => health_endpoint)).toContain('http://[::1]:8005/health');
  expect(await registerServices(database.sql, 'twice', services)).toMatchObject({ created: 6 });
  expect(await registerServices(database.sql, 'twice', services)).toEqual({
    created: 0,
    updated: 0,
    unchanged: 6,
  });
  const endpoint = (env: object) =>
    self(parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret, ...env }), 8004).health_endpoint;
  expect(endpoint({})).toBe('http://localhost:8004/health');
  expect(endpoint({ HOST: '0.0.0.0' })).toBe('http://localhost:8004/health');
  expect(endpoint({ HOST: '10.0.0.5' })).toBe('http://10.0.0.5:8004/health');
  expect(endpoint({ HOST: 'fd00::5' })).toBe('http://[fd00::5]:8004/health');
});
