// Who is asking: bearer tokens, roles and what each role may do.
import { createMiddleware } from 'hono/factory';
import {
  createRemoteJWKSet,
  type JWTPayload,
  type JWTVerifyOptions,
  errors as joseErrors,
  jwtVerify,
} from 'jose';
import { LRUCache } from 'lru-cache';
import { z } from 'zod';
import type { Config } from './config.ts';
import type { Sql } from './db.ts';
import { Problem, unavailable } from './errors.ts';

export const roles = ['viewer', 'ingest', 'operator', 'admin'] as const;
export type Role = (typeof roles)[number];

/** read: query; ingest: write metrics and logs; operate: change alerts, rules, services; administer: the org. */
export type Permission = 'read' | 'ingest' | 'operate' | 'administer';

const permissionsOf: Record<Role, readonly Permission[]> = {
  viewer: ['read'],
  ingest: ['ingest'],
  operator: ['read', 'ingest', 'operate'],
  admin: ['read', 'ingest', 'operate', 'administer'],
};

export interface Principal {
  subject: string;
  /** The token's org_id claim. */
  org: string;
  /** Id of obs.org. */
  orgId: number;
  permissions: ReadonlySet<Permission>;
  /** When the token ends, in epoch milliseconds. */
  expiresAt: number;
}

export type AuthEnv = { Variables: { principal: Principal } };

const claimsSchema = z.object({
  sub: z.string().min(1).max(255),
  org_id: z
    .union([z.string(), z.number().int().transform(String)])
    .pipe(z.string().regex(/^[^\p{Cc}]{1,200}$/u)),
  role: z.string().optional(),
  roles: z.array(z.string()).optional(),
});

/** A function that answers who a bearer token stands for, or rejects with a 401 Problem. */
export type Authenticate = (token: string) => Promise<Principal>;

export function createAuthenticate(config: Config, sql: Sql): Authenticate {
  const options: JWTVerifyOptions = {
    clockTolerance: 5,
    ...(config.jwtIssuer ? { issuer: config.jwtIssuer } : {}),
    ...(config.jwtAudience ? { audience: config.jwtAudience } : {}),
  };
  const secret = config.jwtSecret ? new TextEncoder().encode(config.jwtSecret) : undefined;
  const keySet = config.jwksUrl
    ? createRemoteJWKSet(new URL(config.jwksUrl), { timeoutDuration: 3_000, cooldownDuration: 5_000 })
    : undefined;
  // Verified tokens, so that verification and the org's look-up are paid once a token and not once a request.
  const verified = new LRUCache<string, Principal>({ max: 10_000 });
  const orgIds = new LRUCache<string, number>({ max: 100_000 });

  // Which key may verify a token follows from configuration; its header only chooses among the algorithms that
  // belong to that key, so an asymmetric public key is never taken for an HMAC secret.
  async function verify(token: string): Promise<JWTPayload> {
    if (secret) {
      try {
        return (await jwtVerify(token, secret, { ...options, algorithms: ['HS256'] })).payload;
      } catch (error) {
        if (!keySet || !(error instanceof joseErrors.JOSEAlgNotAllowed)) throw error;
      }
    }
    const algorithms = [
      'RS256',
      'RS384',
      'RS512',
      'PS256',
      'PS384',
      'PS512',
      'ES256',
      'ES384',
      'ES512',
      'EdDSA',
      'Ed25519',
    ];
    try {
      return (await jwtVerify(token, keySet!, { ...options, algorithms })).payload;
    } catch (error) {
      if (!(error instanceof joseErrors.JWKSMultipleMatchingKeys)) throw error;
      // A token that does not name its key, and a set that has several of its kind.
      for await (const key of error) {
        try {
          return (await jwtVerify(token, key, { ...options, algorithms })).payload;
        } catch (failure) {
          if (!(failure instanceof joseErrors.JWSSignatureVerificationFailed)) throw failure;
        }
      }
      throw new joseErrors.JWSSignatureVerificationFailed();
    }
  }

  async function orgIdOf(org: string): Promise<number> {
    const known = orgIds.get(org);
    if (known !== undefined) return known;
    const [row] = await sql<{ id: number }[]>`select api.ensure_org(${org}) as id`;
    orgIds.set(org, row!.id);
    return row!.id;
  }

  return async (token) => {
    const cached = verified.get(token);
    if (cached && cached.expiresAt > Date.now()) return cached;
    verified.delete(token);
    let payload: JWTPayload;
    try {
      payload = await verify(token);
    } catch (error) {
      throw verificationProblem(error);
    }
    const claims = claimsSchema.safeParse(payload);
    if (!claims.success) {
      const names = [...new Set(claims.error.issues.map((issue) => issue.path[0]))].join(', ');
      throw unauthorized(`The token's claims are not as expected: ${names}.`);
    }
    const { sub, org_id: org, role, roles = [] } = claims.data;
    const principal: Principal = {
      subject: sub,
      org,
      orgId: await orgIdOf(org),
      permissions: new Set([...roles, role ?? ''].flatMap((name) => permissionsOf[name as Role] ?? [])),
      expiresAt: payload.exp === undefined ? Number.POSITIVE_INFINITY : (payload.exp + 5) * 1000,
    };
    verified.set(token, principal);
    return principal;
  };
}

function verificationProblem(error: unknown): Problem {
  if (error instanceof joseErrors.JWTExpired) return unauthorized('The token has expired.');
  if (error instanceof joseErrors.JWTClaimValidationFailed)
    return unauthorized(`The token's ${error.claim} claim is not accepted.`);
  if (
    error instanceof joseErrors.JWSSignatureVerificationFailed ||
    error instanceof joseErrors.JWKSNoMatchingKey ||
    error instanceof joseErrors.JWSInvalid ||
    error instanceof joseErrors.JWTInvalid ||
    error instanceof joseErrors.JOSEAlgNotAllowed ||
    error instanceof joseErrors.JOSENotSupported
  ) {
    return unauthorized('The token is not valid.');
  }
  // The key set's server is away: the token may well be good.
  return unavailable(
    'key_set_unavailable',
    'The token cannot be verified just now. Try again shortly.',
    error,
  );
}

function unauthorized(detail: string): Problem {
  return new Problem(401, 'unauthorized', detail, { headers: { 'WWW-Authenticate': 'Bearer' } });
}

/** Middleware: a valid bearer token, or 401. */
export function requireToken(authenticate: Authenticate) {
  return createMiddleware<AuthEnv>(async (c, next) => {
    const header = c.req.header('Authorization');
    if (!header) throw unauthorized('An Authorization header with a bearer token is required.');
    if (!/^bearer [^\s]+$/i.test(header))
      throw unauthorized('The Authorization header must read "Bearer" and a token.');
    c.set('principal', await authenticate(header.slice(7)));
    await next();
  });
}

/** Middleware: the token's role must allow it, or 403. */
export function permit(permission: Permission) {
  return createMiddleware<AuthEnv>(async (c, next) => {
    if (!c.var.principal.permissions.has(permission)) {
      const able = roles.filter((role) => permissionsOf[role].includes(permission));
      throw new Problem(403, 'forbidden', `This takes one of the roles ${able.join(', ')}.`);
    }
    await next();
  });
}
