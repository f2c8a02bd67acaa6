// For statements that are worth making again.
import { setTimeout as sleep } from 'node:timers/promises';
import { toProblem } from '../src/errors.ts';

/**
 * Makes a statement again for so long while the database is away, or two workers' statements meet in a deadlock. Whether it was
 * committed before may not be known: it has to bear being made twice.
 */
export async function retried<T>(statement: () => PromiseLike<T>, retryMs: number): Promise<T> {
  const deadline = Date.now() + retryMs;
  for (;;) {
    try {
      return await statement();
    } catch (error) {
      if (toProblem(error).status !== 503 || Date.now() > deadline) throw error;
      await sleep(500);
    }
  }
}
