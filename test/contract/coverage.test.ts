// Runs after the others: every route of /openapi.json was answered with success in some HTTP test.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import openapi from '../../openapi.json' with { type: 'json' };
import { exercisedFolder } from '../support/api.ts';

test('every documented route is exercised by an HTTP test', () => {
  const exercised = new Set(
    readdirSync(exercisedFolder).flatMap(
      (file) => JSON.parse(readFileSync(path.join(exercisedFolder, file), 'utf8')) as string[],
    ),
  );
  const documented = Object.entries(openapi.paths).flatMap(([route, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${route}`),
  );
  expect(documented.length).toBeGreaterThan(5);
  expect(documented.filter((route) => !exercised.has(route))).toEqual([]);
});
