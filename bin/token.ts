// make token ORG=acme ROLE=admin: prints a token and nothing else.
import { permissions, roles } from '../src/permissions.ts';
import { command, loadEnvironment } from './environment.ts';
import { mintToken } from './mint_token.ts';

await command(async () => {
  loadEnvironment();
  // Make hands its variables on in the environment, whatever characters they hold.
  const { ORG: org, ROLE: role, TTL: ttl, PERMISSIONS: list } = process.env;
  const narrowedTo = list?.split(',').map((name) => name.trim());
  const unknown = narrowedTo?.find((name) => !(permissions as readonly string[]).includes(name));
  if (list && unknown !== undefined)
    throw new Error(`PERMISSIONS must be of ${permissions.join(', ')}; "${unknown}" is not.`);
  if (role && !(roles as readonly string[]).includes(role)) {
    throw new Error(`ROLE must be one of ${roles.join(', ')}; it is "${role}".`);
  }
  if (ttl && !/^[1-9]\d{0,5}[smhdw]$/.test(ttl)) {
    throw new Error(`TTL must be a number and one of s, m, h, d, w, such as 24h; it is "${ttl}".`);
  }
  if (org && !/^[^\p{Cc}]{1,200}$/u.test(org)) throw new Error('ORG must be 1 to 200 characters.');
  if (!process.env.JWT_SECRET)
    throw new Error('Only JWT_JWKS_URL is configured: tokens come from its issuer.');
  const claims = {
    org: org || process.env.DEFAULT_ORG || 'liftos',
    role: role || 'admin',
    expiresIn: ttl || '24h',
    ...(list ? { permissions: narrowedTo } : {}),
  };
  console.log(await mintToken(process.env.JWT_SECRET, claims));
});
