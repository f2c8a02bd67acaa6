import path from 'node:path';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

// Every file has processes of its own, which would compile the same modules again.
process.env.NODE_COMPILE_CACHE ??= path.join(import.meta.dirname, '.data/compile-cache');

// Files run side by side, each on a database of its own. What needs the others to be done, or the machine to
// itself, comes in a later group. (Group 0 is special to Vitest: with one worker it runs last.)
const project = (name: string, groupOrder: number, more = {}) => ({
  extends: true as const,
  test: { name, include: [`test/${name}/**/*.test.ts`], sequence: { groupOrder }, ...more },
});

/** What takes longest begins first, and what waits most of its time: neither is to be left alone at the end. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isFirst = ({ moduleId }: TestSpecification) => /test\/(web|faults\/probes)/.test(moduleId);
    return (await super.sort(files)).toSorted((a, b) => Number(isFirst(b)) - Number(isFirst(a)));
  }
}

export default defineConfig({
  test: {
    globalSetup: 'test/support/setup.ts',
    sequence: { sequencer: LongestFirst },
    // Most of a test's time is spent waiting for the database, or for other processes.
    maxWorkers: 3,
    // Files that follow one another in a process share its modules, and no state: each has its own database.
    isolate: false,
    testTimeout: 60_000,
    // On a machine that has other things to do, too.
    expect: { poll: { timeout: 10_000 } },
    hookTimeout: 60_000,
    reporters: ['default', ['json', { outputFile: '.data/test-report.json' }]],
    projects: [
      project('sql', 1),
      project('http', 1),
      project('jobs', 1),
      project('web', 1),
      project('contract', 2),
      // A server of DATABASE_URL that some of them crash is not there for others meanwhile.
      project('faults', 3, {
        maxWorkers: process.env.DATABASE_URL ? 1 : 2,
        testTimeout: 3_600_000,
        exclude: ['test/faults/redis.test.ts'],
      }),
      // Whoever waits a tenth of a second for a processor takes Redis for hung: beside others it would test the machine.
      project('faults', 4, { name: 'redis', include: ['test/faults/redis.test.ts'], testTimeout: 3_600_000 }),
    ],
  },
});
