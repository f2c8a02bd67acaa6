// make token ORG=acme ROLE=admin: prints a token and nothing else.
import { parseArgs } from 'node:util';
import { roles } from '../src/auth.ts';
import { command, loadEnvironment } from './environment.ts';
import { mintToken } from './mint_token.ts';

await command(async () => {
  loadEnvironment();
  const { values } = parseArgs({
    options: {
      org: { type: 'string', default: '' },
      role: { type: 'string', default: '' },
      ttl: { type: 'string', default: '' },
    },
  });
  const role = values.role || 'admin';
  if (!(roles as readonly string[]).includes(role))
    throw new Error(`ROLE must be one of ${roles.join(', ')}; it is "${role}".`);
  const ttl = values.ttl || '24h';
  if (!/^[1-9]\d{0,5}[smhdw]$/.test(ttl))
    throw new Error(`TTL must be a number and one of s, m, h, d, w, such as 24h; it is "${ttl}".`);
  if (!process.env.JWT_SECRET)
    throw new Error('Only JWT_JWKS_URL is configured: tokens come from its issuer.');
  const org = values.org || process.env.DEFAULT_ORG || 'liftos';
  console.log(await mintToken(process.env.JWT_SECRET, { org, role, expiresIn: ttl }));
});
