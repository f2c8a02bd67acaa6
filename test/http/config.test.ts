import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ConfigError, parseConfig, rolePassword, variableNames } from '../../src/config.ts';

const good = { DATABASE_URL: 'postgresql://me:secret@db:5432/obs', JWT_SECRET: 's'.repeat(32) };

test('little is required, the rest has defaults', () => {
  const config = parseConfig(good);
  expect(config).toMatchObject({
    port: 8004,
    defaultOrg: 'liftos',
    logLevel: 'info',
    bufferSamples: 200_000,
  });
});

test('each process connects as a role of its own, with a password of its own', () => {
  const config = parseConfig(good);
  const urls = [config.apiDatabaseUrl, config.workerDatabaseUrl, config.queueDatabaseUrl].map(
    (url) => new URL(url),
  );
  expect(urls.map((url) => url.username)).toEqual(['obs_api', 'obs_worker', 'obs_queue']);
  expect(new Set(urls.map((url) => url.password)).size).toBe(3);
  expect(urls[0]?.password).toBe(rolePassword(good.DATABASE_URL, 'obs_api'));
  expect(urls.every((url) => url.host === 'db:5432' && url.pathname === '/obs')).toBe(true);
  const own = parseConfig({ ...good, API_DATABASE_URL: 'postgres://a:b@c/d' });
  expect([own.apiDatabaseUrl, own.derivedRoles]).toEqual(['postgres://a:b@c/d', ['obs_worker', 'obs_queue']]);
});

test('no password is made up where the owner has none', () => {
  expect(
    new URL(parseConfig({ ...good, DATABASE_URL: 'postgres://me@db/obs' }).apiDatabaseUrl).password,
  ).toBe('');
});

test('DEBUG brings debug lines, unless LOG_LEVEL says otherwise', () => {
  expect(parseConfig({ ...good, DEBUG: 'true' }).logLevel).toBe('debug');
  expect(parseConfig({ ...good, DEBUG: '1', LOG_LEVEL: 'warn' }).logLevel).toBe('warn');
});

test('an empty variable is an absent one', () => {
  expect(parseConfig({ ...good, PORT: '', REDIS_URL: '' }).port).toBe(8004);
});

describe('a wrong value stops the start with its name and what was expected', () => {
  test.each<[string, Record<string, string | undefined>, string]>([
    ['PORT', { PORT: 'http' }, 'PORT: expected an integer from 0 to 65535, got "http"'],
    ['PORT out of range', { PORT: '70000' }, 'PORT: expected an integer from 0 to 65535, got "70000"'],
    ['PORT below zero', { PORT: '-1' }, 'PORT: expected an integer from 0 to 65535, got "-1"'],
    ['DEBUG', { DEBUG: 'yes' }, 'DEBUG: expected true or false, got "yes"'],
    ['no DATABASE_URL', { DATABASE_URL: undefined }, 'DATABASE_URL: is required'],
    [
      'DATABASE_URL',
      { DATABASE_URL: 'mysql://x' },
      'DATABASE_URL: expected a URL that starts with postgres:// or postgresql://',
    ],
    [
      'REDIS_URL',
      { REDIS_URL: 'localhost:6379' },
      'REDIS_URL: expected a URL that starts with redis:// or rediss://',
    ],
    [
      'JWT_SECRET',
      { JWT_SECRET: 'hunter2' },
      'JWT_SECRET: expected at least 32 bytes (try: openssl rand -hex 32)',
    ],
    [
      'no key',
      { JWT_SECRET: undefined },
      'JWT_SECRET: is required (at least 32 bytes), unless JWT_JWKS_URL names a key set',
    ],
    ['LOG_LEVEL', { LOG_LEVEL: 'loud' }, 'LOG_LEVEL: '],
  ])('%s', (_, change, message) => {
    expect(() => parseConfig({ ...good, ...change })).toThrow(ConfigError);
    expect(() => parseConfig({ ...good, ...change })).toThrow(message);
  });

  test('and a secret is not repeated', () => {
    expect(() => parseConfig({ ...good, JWT_SECRET: 'hunter2' })).not.toThrow('hunter2');
  });

  test('all of them at once', () => {
    expect(() => parseConfig({ PORT: 'x' })).toThrow(/PORT.*\n?.*/s);
    expect(() => parseConfig({ PORT: 'x' })).toThrow('DATABASE_URL');
  });
});

test('.env.example and the README name every variable, and .env.example no other', () => {
  const example = readFileSync('.env.example', 'utf8');
  const named = [...example.matchAll(/^#? ?([A-Z][A-Z_]+)=/gm)].map((match) => match[1]);
  expect(named.sort()).toEqual([...variableNames].sort());
  const readme = readFileSync('README.md', 'utf8');
  for (const name of variableNames) expect(readme).toContain(`\`${name}\``);
});
