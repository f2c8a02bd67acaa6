// What each request has to know of its org, for a few seconds: its id, time zone and limits.
import { LRUCache } from 'lru-cache';
import type { Config } from './config.ts';
import type { Sql } from './db.ts';

/** Limits of an org; rates are requests a second by class of endpoint. */
export type OrgLimits = Config['orgLimits'];

export interface OrgState {
  /** Id of obs.org. */
  orgId: number;
  timezone: string;
  limits: OrgLimits;
  /** Whether its erasure has been asked for: then nothing is taken for it. */
  isErasing: boolean;
}

export interface OrgCache {
  /** What there is to know of an org, by its external id. It is made at its first use. */
  open(org: string): Promise<OrgState>;
  /** The same of one that there is; undefined for any other. */
  find(org: string): Promise<OrgState | undefined>;
  /** To be called when this process has changed it. */
  forget(org: string): void;
}

// An org that is erased goes ten seconds after that was asked for (api.request_erasure): until then every process has
// looked again.
const knownMs = 5_000;

/** defaults: what an org may where the database says nothing else of it. */
export function createOrgCache(sql: Sql, defaults: OrgLimits): OrgCache {
  async function ask(org: string, mayMake: boolean): Promise<OrgState | undefined> {
    const [row] = await sql<
      {
        id: number;
        timezone: string;
        limits: Partial<OrgLimits>;
        max_limits: Partial<OrgLimits>;
        is_erasing: boolean;
      }[]
    >`select * from api.open_org(${org}, ${mayMake})`;
    return (
      row && {
        orgId: row.id,
        timezone: row.timezone,
        limits: limitsOf(defaults, row.max_limits, row.limits),
        isErasing: row.is_erasing,
      }
    );
  }

  const states = new LRUCache<string, OrgState>({
    max: 10_000,
    ttl: knownMs,
    fetchMethod: (org) => ask(org, true),
    // Who waits for it when it is forgotten has it all the same.
    ignoreFetchAbort: true,
  });
  return {
    open: async (org) => (await states.fetch(org))!,
    async find(org) {
      const known = states.get(org);
      if (known) return known;
      const state = await ask(org, false);
      if (state) states.set(org, state);
      return state;
    },
    forget: (org) => states.delete(org),
  };
}

/** The limits in force: an org's own, but no more than what the deployment allows it, or any org. */
export function limitsOf(
  defaults: OrgLimits,
  allowed: Partial<OrgLimits>,
  own: Partial<OrgLimits>,
): OrgLimits {
  const limits = { ...defaults };
  for (const name of Object.keys(defaults) as (keyof OrgLimits)[]) {
    const most = allowed[name] ?? defaults[name];
    limits[name] = Math.min(most, own[name] ?? most);
  }
  return limits;
}
