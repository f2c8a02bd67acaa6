// How places are shared among orgs that want more of them than there are.
import { expect, test } from 'vitest';
import { createShare } from '../../src/share.ts';

test('one org alone may have four fifths; another finds a place at once', async () => {
  const share = createShare(10);
  const entered: number[] = [];
  const enter = async (org: number) => {
    const leave = await share.enter(org);
    entered.push(org);
    return leave;
  };
  const greedy = Array.from({ length: 18 }, () => enter(1));
  await new Promise(setImmediate);
  expect(entered).toHaveLength(8);
  const other = await enter(2);
  expect(other).not.toBeNull();
  // A tenth for each that comes once four fifths are taken.
  const second = enter(2);
  await new Promise(setImmediate);
  expect(entered.filter((org) => org === 2)).toHaveLength(1);

  other!();
  const third = await second;
  // More than there are places may not wait.
  expect(await share.enter(1)).toBeNull();
  // What is given back goes to those who wait.
  (await greedy[0]!)!();
  third!();
  await new Promise(setImmediate);
  expect(entered.filter((org) => org === 1)).toHaveLength(9);
});

test('whoever waits is served in turn, and every place comes back', async () => {
  const share = createShare(10);
  let inside = 0;
  let most = 0;
  const order: number[] = [];
  const visits = [1, 2, 3].flatMap((org) =>
    Array.from({ length: 6 }, async () => {
      const leave = await share.enter(org);
      order.push(org);
      most = Math.max(most, ++inside);
      await new Promise((resolve) => setTimeout(resolve, 5));
      inside--;
      leave!();
      // Twice is once.
      leave!();
    }),
  );
  await Promise.all(visits);
  expect(order).toHaveLength(18);
  expect(most).toBeLessThanOrEqual(10);
  expect(inside).toBe(0);
  // The last org did not have to wait for the others to be through.
  expect(order.indexOf(3)).toBeLessThan(12);
});
