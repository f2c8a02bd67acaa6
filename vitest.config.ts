import { defineConfig } from 'vitest/config';

// Files run side by side, each on a database of its own. What needs the others to be done, or the machine to
// itself, comes in a later group.
const project = (name: string, groupOrder: number, more = {}) => ({
  extends: true as const,
  test: { name, include: [`test/${name}/**/*.test.ts`], sequence: { groupOrder }, ...more },
});

export default defineConfig({
  test: {
    globalSetup: 'test/support/setup.ts',
    testTimeout: 30_000,
    hookTimeout: 60_000,
    reporters: ['default', ['json', { outputFile: '.data/test-report.json' }]],
    projects: [
      project('sql', 0),
      project('http', 0),
      project('jobs', 0),
      project('contract', 1),
      project('faults', 2, { fileParallelism: false, testTimeout: 3_600_000 }),
    ],
  },
});
