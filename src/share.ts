import { adjust, createCompany } from './turns.ts';

/** Runs what an org asks for when its turn comes, and then lets the next begin. */
export interface Share {
  /**
   * Resolves with what gives the place back, once there is one. Null at once, when so many of the org are waiting that another
   * would wait in vain. With ownPlaces an org has no more than these at once; while others are there those of it that had to wait have half of them.
   */
  enter(org: number, ownPlaces?: number): Promise<(() => void) | null>;
}

/**
 * Shares a number of places among orgs. One may have four fifths of them; the rest is for those that have less than a
 * tenth: whatever an org asks for, there is a place for another's next. Who waits is served in turn, org by org; waitingPlaces, by
 * default as many as places, are divided among the orgs that wait.
 */
export function createShare(places: number, waitingPlaces = places): Share {
  const busy = new Map<number, number>();
  const waiting = new Map<number, { ownPlaces: number | undefined; start: () => void }[]>();
  let total = 0;
  const company = createCompany();

  function mayEnter(org: number, ownPlaces: number): boolean {
    const own = busy.get(org) ?? 0;
    return total < places && own < ownPlaces && (total < places * 0.8 || own < Math.max(1, places * 0.1));
  }

  // Who asks for more than it may have at once takes less while others are there, who then have the machine to themselves the sooner.
  const placesInTurn = (org: number, ownPlaces: number) =>
    company.hasOthers(org) ? Math.max(1, Math.floor(ownPlaces / 2)) : ownPlaces;

  function take(org: number) {
    total++;
    adjust(busy, org, 1);
  }

  function leave(org: number) {
    total--;
    adjust(busy, org, -1);
    for (const [next, queue] of waiting) {
      const { ownPlaces } = queue[0]!;
      if (!mayEnter(next, ownPlaces === undefined ? places : placesInTurn(next, ownPlaces))) continue;
      // To the end of the line, with those of it that still wait.
      waiting.delete(next);
      const { start } = queue.shift()!;
      if (queue.length > 0) waiting.set(next, queue);
      take(next);
      start();
      if (total >= places) return;
    }
  }

  return {
    async enter(org, ownPlaces) {
      company.saw(org);
      const place = () => {
        let isLeft = false;
        return () => {
          if (!isLeft) leave(org);
          isLeft = true;
        };
      };
      const queue = waiting.get(org) ?? [];
      if (queue.length === 0 && mayEnter(org, ownPlaces ?? places)) {
        take(org);
        return place();
      }
      // All that wait hold something: jobs of the worker, requests of clients.
      if (queue.length >= waitingPlaces / (waiting.size + (waiting.has(org) ? 0 : 1))) return null;
      await new Promise<void>((start) => {
        queue.push({ ownPlaces, start });
        waiting.set(org, queue);
      });
      return place();
    },
  };
}
