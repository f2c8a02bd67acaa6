/** Runs what an org asks for when its turn comes, and then lets the next begin. */
export interface Share {
  /**
   * Resolves with what gives the place back, once there is one. Null at once, when so many of the org are waiting that another
   * would wait in vain.
   */
  enter(org: number): Promise<(() => void) | null>;
}

/**
 * Shares a number of places among orgs. One may have four fifths of them; the rest is for those that have less than a
 * tenth: whatever an org asks for, there is a place for another's next. Who waits is served in turn, org by org.
 */
export function createShare(places: number): Share {
  const busy = new Map<number, number>();
  const waiting = new Map<number, (() => void)[]>();
  let total = 0;

  const mayEnter = (org: number) =>
    total < places && (total < places * 0.8 || (busy.get(org) ?? 0) < Math.max(1, places * 0.1));

  function take(org: number) {
    total++;
    busy.set(org, (busy.get(org) ?? 0) + 1);
  }

  function leave(org: number) {
    total--;
    const left = busy.get(org)! - 1;
    if (left > 0) busy.set(org, left);
    else busy.delete(org);
    for (const [next, queue] of waiting) {
      if (!mayEnter(next)) continue;
      // To the end of the line, with those of it that still wait.
      waiting.delete(next);
      const start = queue.shift()!;
      if (queue.length > 0) waiting.set(next, queue);
      take(next);
      start();
      if (total >= places) return;
    }
  }

  return {
    async enter(org) {
      const place = () => {
        let isLeft = false;
        return () => {
          if (!isLeft) leave(org);
          isLeft = true;
        };
      };
      const queue = waiting.get(org) ?? [];
      if (queue.length === 0 && mayEnter(org)) {
        take(org);
        return place();
      }
      // All that wait together hold jobs of the worker, of which there is not an end.
      if (queue.length >= places / (waiting.size + (waiting.has(org) ? 0 : 1))) return null;
      await new Promise<void>((resolve) => {
        queue.push(resolve);
        waiting.set(org, queue);
      });
      return place();
    },
  };
}
