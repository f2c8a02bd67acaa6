// What must not be in a log line is taken out of it, wherever it came from, and soon whatever a client made of it.
import { expect, test } from 'vitest';
import { newApiToken } from '../../src/auth.ts';
import { withoutSecrets } from '../../src/log.ts';
import { signToken } from '../support/process.ts';

const plain = (secret: string) => `path /api/v1/x/${secret} and more`;

test.each<[string, () => Promise<string>, (secret: string) => string]>([
  ['a JWT', () => signToken(), plain],
  ['an API token', async () => newApiToken().token, plain],
  ['the password of a URL', async () => 'hunter2', (secret) => `postgresql://obs_api:${secret}@db:5432/x`],
  ['credentials of a header', async () => 'aGk6eW91', (secret) => `Authorization: Basic ${secret}`],
  ['an encoded header', async () => 'opaque-token', (secret) => `/x?authorization=Bearer%20${secret}`],
])('%s', async (_, make, wrap) => {
  const secret = await make();
  const line = JSON.stringify({ level: 'info', reason: wrap(secret), status: 404 });
  const shown = withoutSecrets(line);
  expect(line).toContain(secret);
  expect(shown).not.toContain(secret);
  expect(JSON.parse(shown).status).toBe(404);
});

test('other lines stay as they are', () => {
  const line = JSON.stringify({
    path: '/api/v1/metrics',
    reason: 'expected https://hooks.example:8443/a, basically',
    id: 'obs_log',
  });
  expect(withoutSecrets(line)).toBe(line);
});
