// The README's curl lines, as printed, give the answers that it prints.
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';

const api = useApi();

const examples = [
  ...readFileSync('README.md', 'utf8').matchAll(/```console\n\$ (curl [^\n]+)\n([^\n]+)\n```/g),
].map(([, command, answer]) => [command!, answer!] as const);

// What differs from one run to the next.
const steady = (text: string) =>
  text
    // No worker rolls up here.
    .replace('"resolution":"5m"', '"resolution":"raw"')
    .replace(/"\d{4}-\d\d-\d\dT[^"]+"/g, '"TIME"')
    .replace(/"request_id":"[^"]+"/, '"request_id":"ID"');

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
  expect(steady(stdout)).toBe(steady(answer));
});
