// Rate limits: requests a second of a token and of its org, by class of endpoint.
import { RateLimiterMemory, RateLimiterRedis, type RateLimiterRes } from 'rate-limiter-flexible';
import type { Principal } from './auth.ts';
import type { Config } from './config.ts';
import { Problem } from './errors.ts';
import type { EndpointClass } from './permissions.ts';
import type { SharedRedis } from './redis.ts';

/** Headers of an answer (draft-ietf-httpapi-ratelimit-headers-06): of the org's and the token's limit that of which less is left. */
export type RateLimitHeaders = Record<
  'RateLimit-Limit' | 'RateLimit-Remaining' | 'RateLimit-Reset' | 'RateLimit-Policy',
  string
>;

/** Counts a request; rejects with 429 when it is one too many. */
export type RateLimit = (principal: Principal, endpointClass: EndpointClass) => Promise<RateLimitHeaders>;

// The smallest unit that Redis' expiry, and the headers, know.
const windowSeconds = 1;

export function createRateLimit(tokenLimits: Config['tokenLimits'], redis?: SharedRedis): RateLimit {
  // The limit differs from one to another, so that it is compared here: what the library counts is never too much for it.
  const options = { points: Number.MAX_SAFE_INTEGER, duration: windowSeconds, keyPrefix: 'obs:rate' };
  const local = new RateLimiterMemory(options);
  const shared = redis && new RateLimiterRedis({ ...options, storeClient: redis.client });

  async function consume(key: string): Promise<RateLimiterRes> {
    if (shared && redis.isUp()) {
      try {
        return await shared.consume(key);
      } catch (error) {
        redis.failed(error);
      }
    }
    return local.consume(key);
  }

  function headersOf(limit: number, { consumedPoints, msBeforeNext }: RateLimiterRes): RateLimitHeaders {
    return {
      'RateLimit-Limit': String(limit),
      'RateLimit-Remaining': String(Math.max(0, limit - consumedPoints)),
      'RateLimit-Reset': String(Math.max(1, Math.ceil(msBeforeNext / 1000))),
      'RateLimit-Policy': `${limit};w=${windowSeconds}`,
    };
  }

  function refuse(
    whose: string,
    endpointClass: EndpointClass,
    limit: number,
    consumed: RateLimiterRes,
  ): never {
    const headers = headersOf(limit, consumed);
    throw new Problem(
      429,
      'rate_limited',
      `The ${whose} has made all of its ${limit} ${endpointClass} requests a second. Try again in ${headers['RateLimit-Reset']} s.`,
      { headers: { ...headers, 'Retry-After': headers['RateLimit-Reset'] } },
    );
  }

  return async (principal, endpointClass) => {
    const tokenLimit = tokenLimits[endpointClass];
    const orgLimit = principal.limits[`${endpointClass}_per_second`];
    // One token after the other: what one asks for in vain takes nothing from its org.
    const ofToken = await consume(`${endpointClass}:token:${principal.tokenKey}`);
    if (ofToken.consumedPoints > tokenLimit) refuse('token', endpointClass, tokenLimit, ofToken);
    const ofOrg = await consume(`${endpointClass}:org:${principal.orgId}`);
    if (ofOrg.consumedPoints > orgLimit) refuse('organisation', endpointClass, orgLimit, ofOrg);
    return tokenLimit - ofToken.consumedPoints < orgLimit - ofOrg.consumedPoints
      ? headersOf(tokenLimit, ofToken)
      : headersOf(orgLimit, ofOrg);
  };
}
