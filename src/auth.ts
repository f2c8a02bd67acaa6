// Who is asking: bearer tokens, which are JWTs of an issuer or API tokens that the service gave out.
import { createHash, randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import type { Context, Next } from 'hono';
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
import type { OrgCache, OrgState } from './orgs.ts';
import { grantedBy, type Permission } from './permissions.ts';

/** Who a token stands for. */
export interface Identity {
  subject: string;
  /** The token's org_id claim. */
  org: string;
  permissions: ReadonlySet<Permission>;
  /** When the token ends, in epoch milliseconds. */
  expiresAt: number;
  /** Tells the token from others, without giving it away. */
  tokenKey: string;
  /** Id of obs.api_token; null for a JWT. */
  tokenId: string | null;
}

/** An API token is one of an org, and not of whatever has its name. */
type ApiIdentity = Identity & Pick<OrgState, 'orgId'>;

/** Who is asking, and what there is to know of the org. */
export interface Principal extends Identity, OrgState {}

export type AuthEnv = {
  Variables: {
    principal: Principal;
    /** Address of the client. */
    address: string;
    requestId: string;
    /** Lets a request pass that may: see createGate. */
    pass: (c: Context<AuthEnv>, permission: Permission, next: Next) => Promise<void>;
    /** Whether the request would pass still, for answers that take long. */
    mayStill: () => Promise<boolean>;
    /** Waits for the org's place among those whose queries are under way. */
    enter?: () => Promise<void>;
    /** Gives back the org's place among those whose queries are under way; see createGate. */
    leave?: () => void;
  };
};

/** Whether an org may be called so. */
export function isOrgName(text: string): boolean {
  return /^[^\p{Cc}\p{Cs}]{1,200}$/u.test(text);
}

const claimsSchema = z.object({
  sub: z.string().regex(/^[^\p{Cc}\p{Cs}]{1,255}$/u),
  org_id: z.union([z.string(), z.number().int().transform(String)]).pipe(z.string().refine(isOrgName)),
  role: z.string().optional(),
  roles: z.array(z.string()).optional(),
  permissions: z.array(z.string()).optional(),
});

/** 401. With whom it is refused, where that is known: then it belongs in the org's audit log. */
export class Unauthorized extends Problem {
  readonly known: Pick<Identity, 'org' | 'subject' | 'tokenId'> | undefined;

  constructor(detail: string, known?: Unauthorized['known']) {
    super(401, 'unauthorized', detail, { headers: { 'WWW-Authenticate': 'Bearer' } });
    this.known = known;
  }
}

export interface Authenticator {
  /** Answers who a bearer token stands for, or rejects with Unauthorized, or 503 when that cannot be found out. */
  authenticate(token: string): Promise<Principal>;
  /** To be called when this process changes or deletes an API token: from then on it goes by what is stored. */
  forgetTokens(): void;
}

// A token that was revoked by another process is good for so long at most.
const tokenMs = 2_000;
// As is a token whose key its issuer has withdrawn.
const keySetMs = 60_000;

export function createAuthenticator(config: Config, sql: Sql, orgs: OrgCache): Authenticator {
  const options: JWTVerifyOptions = {
    clockTolerance: 5,
    ...(config.jwtIssuer ? { issuer: config.jwtIssuer } : {}),
    ...(config.jwtAudience ? { audience: config.jwtAudience } : {}),
  };
  const secret = config.jwtSecret ? new TextEncoder().encode(config.jwtSecret) : undefined;
  const keySet = config.jwksUrl
    ? createRemoteJWKSet(new URL(config.jwksUrl), {
        timeoutDuration: 3_000,
        cooldownDuration: 5_000,
        // It is fetched anew in time (refreshKeys); an issuer that is away must not lock out everyone.
        cacheMaxAge: Number.POSITIVE_INFINITY,
      })
    : undefined;
  let keysAt = performance.now();
  // Counts how often the key set was fetched anew.
  let generation = 0;
  // Verified tokens, so that verification is paid once a token and not once a request.
  const verified = new LRUCache<string, { identity: Identity; until: number }>({ max: 10_000 });
  const apiTokens = new LRUCache<string, ApiIdentity | Unauthorized>({
    max: 10_000,
    ttl: tokenMs,
    fetchMethod: (token) => findToken(token),
    // Who waits for it when it is forgotten has it all the same.
    ignoreFetchAbort: true,
  });

  // Once a minute, beside the requests; after a time without any the next ones wait for it.
  let refreshing: Promise<void> | undefined;
  function refreshKeys(): Promise<void> | undefined {
    const age = performance.now() - keysAt;
    if (!keySet || age < keySetMs) return refreshing;
    keysAt = performance.now();
    const refreshed = keySet.reload().then(
      // What was verified with a key that is not there any more is verified again.
      () => {
        generation++;
        verified.clear();
      },
      () => {},
    );
    if (age < 2 * keySetMs) return undefined;
    refreshing = refreshed.finally(() => {
      refreshing = undefined;
    });
    return refreshing;
  }

  // Which key may verify a token follows from configuration; its header only chooses among the algorithms that
  // belong to that key, so an asymmetric public key is never taken for an HMAC secret.
  async function verify(token: string): Promise<{ payload: JWTPayload; isOfSecret: boolean }> {
    if (secret) {
      try {
        const { payload } = await jwtVerify(token, secret, { ...options, algorithms: ['HS256'] });
        return { payload, isOfSecret: true };
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
      const { payload } = await jwtVerify(token, keySet!, { ...options, algorithms });
      return { payload, isOfSecret: false };
    } catch (error) {
      if (!(error instanceof joseErrors.JWKSMultipleMatchingKeys)) throw error;
      // A token that does not name its key, and a set that has several of its kind.
      for await (const key of error) {
        try {
          const { payload } = await jwtVerify(token, key, { ...options, algorithms });
          return { payload, isOfSecret: false };
        } catch (failure) {
          if (!(failure instanceof joseErrors.JWSSignatureVerificationFailed)) throw failure;
        }
      }
      throw new joseErrors.JWSSignatureVerificationFailed();
    }
  }

  async function verifyJwt(token: string): Promise<Identity> {
    await refreshKeys();
    const cached = verified.get(token);
    if (cached && cached.until > Date.now()) return cached.identity;
    verified.delete(token);
    let payload: JWTPayload;
    let isOfSecret: boolean;
    const generationBefore = generation;
    try {
      ({ payload, isOfSecret } = await verify(token));
    } catch (error) {
      throw verificationProblem(error);
    }
    const claims = claimsSchema.safeParse(payload);
    if (!claims.success) {
      const names = [...new Set(claims.error.issues.map((issue) => issue.path[0]))].join(', ');
      throw new Unauthorized(`The token's claims are not as expected: ${names}.`);
    }
    const { sub, org_id: org, role, roles: roleNames = [], permissions } = claims.data;
    const expiresAt = payload.exp === undefined ? Number.POSITIVE_INFINITY : (payload.exp + 5) * 1000;
    const identity: Identity = {
      subject: sub,
      org,
      permissions: grantedBy(role === undefined ? roleNames : [...roleNames, role], permissions),
      expiresAt,
      tokenKey: hashOf(token).toString('base64url'),
      tokenId: null,
    };
    // Verified with keys that were replaced meanwhile it is good for this once.
    if (generation !== generationBefore) return identity;
    verified.set(token, {
      identity,
      until: isOfSecret ? expiresAt : Math.min(expiresAt, Date.now() + keySetMs),
    });
    return identity;
  }

  async function findToken(token: string): Promise<ApiIdentity | Unauthorized> {
    const [row] = await sql<
      {
        id: string;
        org: string;
        org_id: number;
        name: string;
        role: string;
        permissions: string[] | null;
        expires_at: Date | null;
        revoked_at: Date | null;
      }[]
    >`select * from api.find_token(${`\\x${hashOf(token).toString('hex')}`}::text::bytea)`;
    if (!row) return new Unauthorized('The token is not valid.');
    const known = { org: row.org, subject: row.name, tokenId: row.id };
    if (row.revoked_at) return new Unauthorized('The token is revoked.', known);
    return {
      ...known,
      orgId: row.org_id,
      permissions: grantedBy([row.role], row.permissions ?? undefined),
      expiresAt: row.expires_at?.getTime() ?? Number.POSITIVE_INFINITY,
      tokenKey: row.id,
    };
  }

  async function verifyApiToken(token: string): Promise<Principal> {
    if (!isApiToken(token)) throw new Unauthorized('The token is not valid.');
    const found = (await apiTokens.fetch(token))!;
    if (found instanceof Unauthorized) throw found;
    if (found.expiresAt <= Date.now()) throw new Unauthorized('The token has expired.', found);
    // It goes with its org: of one that was erased and has come into being again it is not.
    const state = await orgs.find(found.org);
    if (state?.orgId !== found.orgId) throw new Unauthorized('The token is not valid.');
    return { ...found, ...state };
  }

  return {
    async authenticate(token) {
      if (token.startsWith(apiTokenStart)) return verifyApiToken(token);
      const identity = await verifyJwt(token);
      return { ...identity, ...(await orgs.open(identity.org)) };
    },
    // All, since one that is being looked up is not known by its id yet.
    forgetTokens: () => apiTokens.clear(),
  };
}

const apiTokenStart = 'obs_';

/** A new API token: 256 random bits, and their checksum, by which one that is cut short or mistyped is known at once. */
export function newApiToken(): { token: string; prefix: string; hash: Buffer } {
  const random = randomBytes(32).toString('hex');
  const token = `${apiTokenStart}${random}${checksumOf(random)}`;
  return { token, prefix: token.slice(0, apiTokenStart.length + 8), hash: hashOf(token) };
}

function isApiToken(token: string): boolean {
  const match = /^obs_([0-9a-f]{64})([0-9a-f]{8})$/.exec(token);
  return match !== null && checksumOf(match[1]!) === match[2];
}

function checksumOf(text: string): string {
  return crc32(text).toString(16).padStart(8, '0');
}

function hashOf(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}

function verificationProblem(error: unknown): Problem {
  // Its signature was good, so that it says whose it was.
  if (error instanceof joseErrors.JWTExpired) {
    const claims = claimsSchema.safeParse(error.payload);
    return new Unauthorized(
      'The token has expired.',
      claims.success ? { org: claims.data.org_id, subject: claims.data.sub, tokenId: null } : undefined,
    );
  }
  if (error instanceof joseErrors.JWTClaimValidationFailed)
    return new Unauthorized(`The token's ${error.claim} claim is not accepted.`);
  if (
    error instanceof joseErrors.JWSSignatureVerificationFailed ||
    error instanceof joseErrors.JWKSNoMatchingKey ||
    error instanceof joseErrors.JWSInvalid ||
    error instanceof joseErrors.JWTInvalid ||
    error instanceof joseErrors.JOSEAlgNotAllowed ||
    error instanceof joseErrors.JOSENotSupported
  ) {
    return new Unauthorized('The token is not valid.');
  }
  // The key set's server is away: the token may well be good.
  return unavailable(
    'key_set_unavailable',
    'The token cannot be verified just now. Try again shortly.',
    error,
  );
}
