// Items that gather while a call is under way, and what becomes of them when it fails.
import { expect, test } from 'vitest';
import { createBatch } from '../../jobs/batch.ts';

test('items that come together, or while a call is under way, are one call, and each has its answer', async () => {
  const calls: number[][] = [];
  const double = createBatch(async (items: number[]) => {
    calls.push(items);
    await new Promise((resolve) => setTimeout(resolve, 10));
    return items.map((item) => 2 * item);
  }, 3);
  const first = [1, 2].map(double);
  await new Promise((resolve) => setTimeout(resolve, 2));
  const rest = [3, 4, 5, 6].map(double);
  expect(await Promise.all([...first, ...rest])).toEqual([2, 4, 6, 8, 10, 12]);
  expect(calls).toEqual([[1, 2], [3, 4, 5], [6]]);
});

test('one that makes the call fail fails alone, and those after it go on', async () => {
  const run = createBatch(async (items: string[]) => {
    if (items.includes('bad')) throw new Error('bad');
    return items.map((item) => item.toUpperCase());
  }, 10);
  const outcomes = await Promise.allSettled(['a', 'bad', 'b'].map(run));
  expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
  expect(outcomes[2]).toMatchObject({ value: 'B' });
  expect(await run('c')).toBe('C');
  await expect(run('bad')).rejects.toThrow('bad');
});
