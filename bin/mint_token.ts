import { SignJWT } from 'jose';
import { parseConfig } from '../src/config.ts';

export interface TokenClaims {
  org: string;
  role: string;
  subject?: string;
  /** Narrows what the role allows. */
  permissions?: readonly string[] | undefined;
  /** Such as 24h or 30d. */
  expiresIn?: string;
}

/** A token signed with the service's own secret; with the issuer and audience that are configured. */
export async function mintToken(
  secret: string,
  { org, role, permissions, subject = 'make-token', expiresIn = '24h' }: TokenClaims,
): Promise<string> {
  const config = parseConfig({ DATABASE_URL: 'postgres://unused', ...process.env, JWT_SECRET: secret });
  const token = new SignJWT({ org_id: org, role, ...(permissions ? { permissions } : {}) })
    .setProtectedHeader({ alg: 'HS256' })
    .setSubject(subject)
    .setIssuedAt()
    .setExpirationTime(expiresIn);
  if (config.jwtIssuer) token.setIssuer(config.jwtIssuer);
  if (config.jwtAudience) token.setAudience(config.jwtAudience);
  return await token.sign(new TextEncoder().encode(secret));
}
