// What stands before every endpoint of /api/v1: the token, the rate limits, the permission, and the org's share of queries.
import type { Context, Next } from 'hono';
import { createMiddleware } from 'hono/factory';
import type { Access, RecordAccess } from './access_log.ts';
import { type AuthEnv, type Authenticator, type Principal, Unauthorized } from './auth.ts';
import { Problem, unavailable } from './errors.ts';
import type { HotAnswers } from './hot_answers.ts';
import type { OrgCache } from './orgs.ts';
import { classOf, type Permission, permissionsOf, roles } from './permissions.ts';
import type { RateLimit } from './rate_limit.ts';
import { patternOf } from './request.ts';
import { sessionToken } from './session.ts';
import type { Share } from './share.ts';
import type { Usage } from './usage.ts';

export interface GateOptions {
  authenticator: Authenticator;
  orgs: OrgCache;
  rateLimit: RateLimit;
  /** Of queries and changes; ingest has connections, and turns, of its own. */
  share: Share;
  usage: Usage;
  hotAnswers: HotAnswers;
  recordAccess: RecordAccess;
  /** Whether reads belong in the audit log. */
  auditReads: boolean;
}

/**
 * Middleware for all of /api/v1: identifies the caller, and gives each endpoint the gate that it lets requests pass by its permission (see endpoint() in
 * request.ts).
 */
export function createGate(options: GateOptions) {
  const { authenticator, orgs, rateLimit, share, usage, hotAnswers, recordAccess } = options;

  return createMiddleware<AuthEnv>(async (c, next) => {
    const principal = await identify(c);
    c.set('principal', principal);
    c.set('pass', pass);
    usage.add(principal.orgId, 'requests', 1);
    usage.saw(principal, c.var.address);
    await next();
  });

  async function pass(c: Context<AuthEnv>, permission: Permission, next: Next) {
    const { principal } = c.var;
    const isRead = ['GET', 'HEAD'].includes(c.req.method);
    const endpointClass = isRead ? 'query' : classOf(permission);
    const headers = await rateLimit(principal, endpointClass).catch((error) => {
      usage.add(principal.orgId, 'refused', 1);
      throw error;
    });
    for (const name in headers) c.header(name, headers[name as keyof typeof headers]);
    if (!principal.permissions.has(permission)) {
      await recordRefusal(c, principal.orgId, principal, 403);
      throw forbidden(permission);
    }
    if (principal.isErasing && !c.req.path.startsWith('/api/v1/org/erasures')) {
      throw new Problem(409, 'org_erasing', 'The organisation is being erased: see /api/v1/org/erasures.');
    }
    c.set('mayStill', () => mayStill(c, principal, permission));
    if (endpointClass !== 'ingest') {
      c.set('enter', async () => {
        // Once, however often the body is asked for.
        c.set('enter', undefined);
        c.set('leave', await enter(c, principal));
      });
      // Nobody's place waits for a client to send what it wants: see readBody.
      if (!hasBody(c)) await c.var.enter!();
    }
    try {
      await next();
    } finally {
      c.var.leave?.();
    }
    // By the endpoint itself, which knows what it would come to.
    if (c.res.status === 403) await recordRefusal(c, principal.orgId, principal, 403);
    if (c.res.status >= 400) return;
    // Whoever changes something sees it in the next answer. (Metrics and logs are in none.)
    if (endpointClass === 'change' || permission === 'heartbeats:write')
      await hotAnswers.forget(principal.orgId);
    if (options.auditReads && endpointClass === 'query') {
      await recordAccess(principal.orgId, accessOf(c, principal, c.res.status)).catch((error) => {
        throw unavailable('audit_unavailable', 'The audit log cannot be written. Try again shortly.', error);
      });
    }
  }

  async function identify(c: Context<AuthEnv>): Promise<Principal> {
    const token = tokenOf(c);
    try {
      return await authenticator.authenticate(token);
    } catch (error) {
      if (error instanceof Unauthorized && error.known) {
        // Not of an org that has never been: nobody is to make one with a token that is not good any more.
        const state = await orgs.find(error.known.org);
        if (state) await recordRefusal(c, state.orgId, error.known, 401);
      }
      throw error;
    }
  }

  // It is refused all the same where the log cannot be written.
  async function recordRefusal(c: Context<AuthEnv>, orgId: number, who: Who, status: number) {
    await recordAccess(orgId, accessOf(c, who, status)).catch(() => {});
  }

  async function mayStill(
    c: Context<AuthEnv>,
    { orgId }: Principal,
    permission: Permission,
  ): Promise<boolean> {
    try {
      const now = await authenticator.authenticate(tokenOf(c));
      return now.orgId === orgId && !now.isErasing && now.permissions.has(permission);
    } catch (error) {
      // That it cannot be found out just now is no reason.
      return !(error instanceof Unauthorized);
    }
  }

  async function enter(c: Context<AuthEnv>, { orgId, limits }: Principal): Promise<() => void> {
    const asked = performance.now();
    const leave = await share.enter(orgId, limits.concurrent_queries);
    if (leave) {
      const waitedMs = performance.now() - asked;
      // Only one that waited is worth the Request of the web's API, which `raw` makes.
      if (waitedMs < 100) return leave;
      const isGone = c.req.raw.signal.aborted;
      if (!isGone && waitedMs < maxWaitMs) return leave;
      // Nobody waits for it any more: it is not done.
      leave();
      if (isGone) throw new Problem(499, 'client_gone', 'The client did not wait for the answer.');
      throw unavailable('too_many_queries', 'The request waited too long for its turn.');
    }
    usage.add(orgId, 'refused', 1);
    throw new Problem(
      429,
      'too_many_queries',
      `The organisation has ${limits.concurrent_queries} queries under way, which is all that it may have at once, and more wait than will be answered in time.`,
      { headers: { 'Retry-After': '1' } },
    );
  }
}

// Shorter than any request may take, so that it is not answered before it is given up.
const maxWaitMs = 30_000;

function hasBody(c: Context): boolean {
  return Number(c.req.header('Content-Length') ?? 0) > 0 || c.req.header('Transfer-Encoding') !== undefined;
}

function tokenOf(c: Context<AuthEnv>): string {
  const header = c.req.header('Authorization');
  if (header === undefined) {
    const token = sessionToken(c);
    if (token) return token;
  }
  if (!header) throw new Unauthorized('An Authorization header with a bearer token is required.');
  if (!/^bearer [^\s]+$/i.test(header))
    throw new Unauthorized('The Authorization header must read "Bearer" and a token.');
  return header.slice(7);
}

type Who = Pick<Principal, 'subject' | 'tokenId'>;

function accessOf(c: Context<AuthEnv>, { subject, tokenId }: Who, status: number): Access {
  const method = c.req.method === 'HEAD' ? 'GET' : c.req.method;
  return {
    actor: subject,
    tokenId,
    action: `${method} ${patternOf(c) ?? '/api/v1/*'}`,
    target: c.req.path.slice(0, 1000),
    outcome: status < 400 ? 'done' : 'refused',
    status,
    requestId: c.var.requestId,
    address: c.var.address,
  };
}

function forbidden(permission: Permission): Problem {
  const able = roles.filter((role) => permissionsOf[role].includes(permission));
  return new Problem(
    403,
    'forbidden',
    `This takes the permission ${permission}, which the token does not have. Roles with it: ${able.join(', ')}; a token's own list of permissions can leave it out.`,
  );
}
