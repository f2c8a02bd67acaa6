/**
 * Makes one call of many: while one is under way the items of the next gather, as in a group commit. run answers for each of
 * its items, in their order. When it rejects, each item is run alone: whatever it is about one, the others are not lost with it.
 */
export function createBatch<Item, Result>(
  run: (items: Item[]) => Promise<Result[]>,
  maxItems: number,
): (item: Item) => Promise<Result> {
  let waiting: { item: Item; resolve: (result: Result) => void; reject: (error: unknown) => void }[] = [];
  let isRunning = false;

  async function runAlone({ item, resolve, reject }: (typeof waiting)[number]) {
    try {
      const [result] = await run([item]);
      resolve(result!);
    } catch (error) {
      reject(error);
    }
  }

  async function work() {
    while (waiting.length > 0) {
      const batch = waiting.slice(0, maxItems);
      waiting = waiting.slice(maxItems);
      try {
        const results = await run(batch.map(({ item }) => item));
        batch.forEach(({ resolve }, i) => {
          resolve(results[i]!);
        });
      } catch (error) {
        if (batch.length > 1) await Promise.all(batch.map(runAlone));
        else batch[0]!.reject(error);
      }
    }
    isRunning = false;
  }

  return (item) =>
    new Promise((resolve, reject) => {
      waiting.push({ item, resolve, reject });
      // In a moment, so that what comes in the same one comes along.
      if (!isRunning) {
        isRunning = true;
        queueMicrotask(work);
      }
    });
}
