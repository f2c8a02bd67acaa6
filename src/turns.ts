// Fairness among orgs for what keeps the event loop busy, who is there to be fair to, and how much each has under way.

/** Who may go on: each org in turn, so that whoever sends little waits for one piece of another's work and not for all that it has sent. */
export interface Turns {
  /** Resolves when the org may do so many bytes' worth of work; undefined when it may at once. */
  next(org: number, bytes: number): Promise<void> | undefined;
}

// A millisecond or two of work.
const turnBytes = 64 * 1024;
const turnRequests = 8;

/**
 * Between two looks at its sockets the process does, for each org, one request of any size, or up to eight that have 64 KiB together. The others wait, while
 * what has come in meanwhile is read and has its own turn.
 */
export function createTurns(): Turns {
  const taken = new Map<number, { bytes: number; requests: number }>();
  const waiting = new Map<number, { bytes: number; start: () => void }[]>();
  let isScheduled = false;

  function mayStart(org: number, bytes: number): boolean {
    const own = taken.get(org);
    if (!own) taken.set(org, { bytes, requests: 1 });
    else if (own.bytes + bytes > turnBytes || own.requests === turnRequests) return false;
    else {
      own.bytes += bytes;
      own.requests++;
    }
    return true;
  }

  function schedule() {
    if (isScheduled) return;
    isScheduled = true;
    setImmediate(nextRound);
  }

  function nextRound() {
    isScheduled = false;
    taken.clear();
    for (const [org, queue] of waiting) {
      while (queue.length > 0 && mayStart(org, queue[0]!.bytes)) queue.shift()!.start();
      if (queue.length === 0) waiting.delete(org);
    }
    if (taken.size > 0) schedule();
  }

  return {
    next(org, bytes) {
      schedule();
      const queue = waiting.get(org);
      if (!queue && mayStart(org, bytes)) return undefined;
      return new Promise((start) => {
        if (queue) queue.push({ bytes, start });
        else waiting.set(org, [{ bytes, start }]);
      });
    },
  };
}

/** Which orgs have been at work within the last second or two. */
export interface Company {
  saw(org: number): void;
  /** Whether others than this one have. */
  hasOthers(org: number): boolean;
}

export function createCompany(spanMs = 1_000): Company {
  let earlier = new Set<number>();
  let latest = new Set<number>();
  let until = 0;

  function turn() {
    const now = performance.now();
    if (now < until) return;
    // Longer than a span ago they are of no account.
    earlier = now < until + spanMs ? latest : new Set();
    latest = new Set();
    until = now + spanMs;
  }

  return {
    saw(org) {
      turn();
      latest.add(org);
    },
    hasOthers(org) {
      turn();
      for (const seen of [latest, earlier]) if (seen.size > (seen.has(org) ? 1 : 0)) return true;
      return false;
    },
  };
}

/** Adds to what is counted under a key, which is there as long as that is more than zero. */
export function adjust<Key>(counts: Map<Key, number>, key: Key, by: number) {
  const count = (counts.get(key) ?? 0) + by;
  if (count > 0) counts.set(key, count);
  else counts.delete(key);
}
