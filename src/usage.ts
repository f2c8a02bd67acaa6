// What each org asks for and records, counted here and added up in the database every few seconds; and when API tokens were used.
import type { Logger } from 'pino';
import type { Principal } from './auth.ts';
import type { Sql } from './db.ts';

const counters = ['requests', 'refused', 'samples', 'log_lines'] as const;
export type UsageCounter = (typeof counters)[number];

export interface Usage {
  add(orgId: number, counter: UsageCounter, count: number): void;
  /** That a token was used, if it is an API token. */
  saw(principal: Principal, address: string): void;
  /** Adds up what is counted so far, and ends. */
  end(): Promise<void>;
}

type Day = Record<UsageCounter, number> & { tokens: Map<string, { at: string; address: string }> };

const flushMs = 5_000;

export function createUsage(sql: Sql, log: Logger): Usage {
  // By org and day.
  let counted = new Map<string, Day>();
  let today = '';
  let todayUntil = 0;

  function dayOf(orgId: number): Day {
    const now = Date.now();
    if (now >= todayUntil) {
      today = new Date(now).toISOString().slice(0, 10);
      todayUntil = Date.parse(today) + 86_400_000;
    }
    const key = `${orgId} ${today}`;
    let day = counted.get(key);
    if (!day) {
      day = { requests: 0, refused: 0, samples: 0, log_lines: 0, tokens: new Map() };
      counted.set(key, day);
    }
    return day;
  }

  async function flush() {
    const taken = counted;
    if (taken.size === 0) return;
    counted = new Map();
    const usage = [...taken].map(([key, { tokens, ...counts }]) => {
      const [orgId, day] = key.split(' ');
      return {
        org_id: Number(orgId),
        day,
        ...counts,
        tokens: [...tokens].map(([id, use]) => ({ id, ...use })),
      };
    });
    try {
      await sql`select api.record_usage(${JSON.stringify(usage)}::text::jsonb)`;
    } catch (error) {
      log.warn({ error }, 'usage could not be added up yet');
      for (const [key, day] of taken) {
        const newer = counted.get(key);
        if (!newer) counted.set(key, day);
        else {
          for (const counter of counters) newer[counter] += day[counter];
          newer.tokens = new Map([...day.tokens, ...newer.tokens]);
        }
      }
    }
  }

  let flushing: Promise<void> = Promise.resolve();
  const timer = setInterval(() => {
    flushing = flushing.then(flush);
  }, flushMs).unref();

  return {
    add(orgId, counter, count) {
      dayOf(orgId)[counter] += count;
    },
    saw({ orgId, tokenId }, address) {
      if (tokenId !== null) dayOf(orgId).tokens.set(tokenId, { at: new Date().toISOString(), address });
    },
    async end() {
      clearInterval(timer);
      await flushing;
      await flush();
    },
  };
}
