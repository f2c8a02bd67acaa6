// The session of a browser: the token that it signed in with, in a cookie that no script can read.
import type { Context } from 'hono';
import { deleteCookie, getCookie, setCookie } from 'hono/cookie';
import { Problem } from './errors.ts';

const cookieName = 'obs_session';
// A browser keeps no cookie that is longer, all in all, than 4096 bytes.
export const maxTokenLength = 3800;
const maxAgeSeconds = 30 * 86_400;

/**
 * The token of the browser's session; undefined where it has none. A browser sends it with whatever asks for it, so that what would change
 * something is refused (403) unless a page of this service asks.
 */
export function sessionToken(c: Context): string | undefined {
  const token = getCookie(c, cookieName);
  if (!token) return undefined;
  if (!['GET', 'HEAD'].includes(c.req.method)) requireSameOrigin(c);
  return token;
}

/** Begins a session that ends with its token. isSecure: whether the browser is to send it over TLS alone. */
export function beginSession(c: Context, token: string, expiresAt: number, isSecure: boolean): void {
  setCookie(c, cookieName, token, {
    path: '/',
    httpOnly: true,
    secure: isSecure,
    // Links to a page are followed from anywhere; what changes something is asked for by its own pages alone.
    sameSite: 'Lax',
    maxAge: Math.max(1, Math.min(maxAgeSeconds, Math.floor((expiresAt - Date.now()) / 1000))),
  });
}

export function endSession(c: Context): void {
  deleteCookie(c, cookieName, { path: '/' });
}

/** Refuses (403) what another site's page makes a browser send. */
export function requireSameOrigin(c: Context): void {
  // Browsers send the first to where it is safe to, and the second with everything but a GET.
  const site = c.req.header('Sec-Fetch-Site');
  const origin = c.req.header('Origin');
  const isOwn = site
    ? site === 'same-origin' || site === 'none'
    : origin !== undefined && URL.canParse(origin) && new URL(origin).host === c.req.header('Host');
  if (!isOwn) throw new Problem(403, 'cross_site', 'A page of another site asked for this.');
}
