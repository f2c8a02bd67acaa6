// The README's curl lines, as printed, give the answers that it prints.
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { registerServices, self } from '../../src/liftos.ts';
import { useApi } from '../support/api.ts';
import { type Service, signToken, startService } from '../support/process.ts';

const api = useApi();

// What make up starts: a worker, and the service registered with itself.
let worker: Service;
beforeAll(async () => {
  await registerServices(api.sql, 'acme', [self({ selfHealthUrl: `${api.url}/health` }, 0)]);
  worker = await startService('worker', { DATABASE_URL: api.databaseUrl });
});
afterAll(() => worker?.stop());

const examples = [
  ...readFileSync('README.md', 'utf8').matchAll(/```console\n\$ (curl [^\n]+)\n([^\n]+)\n```/g),
].map(([, command, answer]) => [command!, answer!] as const);

// What differs from one run to the next.
const steady = (text: string) =>
  text
    // No worker rolls up here.
    .replace('"resolution":"5m"', '"resolution":"raw"')
    .replace(/"\d{4}-\d\d-\d\dT[^"]+"/g, '"TIME"')
    .replace(/"(request_id|id|worker)":"[^"]+"/g, '"$1":"ID"')
    // One more where the range begins on a full minute.
    .replace(/"evaluations":6[23]/g, '"evaluations":62')
    .replace(/"(\w+_ms|checks|uptime_percentage|duration_seconds|consecutive_failures)":[\d.]+/g, '"$1":0');

test('the service watches itself', async () => {
  const healthy = async () =>
    (await api.call('GET', '/api/v1/health/services')).body.summary.healthy_services;
  await expect.poll(healthy, { timeout: 10_000 }).toBe(1);
});

test('there are at least five', () => {
  expect(examples.length).toBeGreaterThanOrEqual(5);
});

test.each(examples)('%s', async (command, answer) => {
  const line = command
    .replace('localhost:8004', api.url)
    // The --json option came with curl 7.82.
    .replace("--json '", "-H 'Content-Type: application/json' -d '");
  const { stdout } = await promisify(execFile)('bash', ['-c', line], {
    env: { ...process.env, TOKEN: await signToken() },
  });
  expect(steady(stdout.trimEnd())).toBe(steady(answer));
});
