// The dashboard: pages rendered here from what the API answers to the browser's own session. It can do nothing that its token cannot.
import type { OpenAPIHono } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { html } from 'hono/html';
import { LRUCache } from 'lru-cache';
import type { AuthEnv, Authenticator } from '../auth.ts';
import { isOrgName, Unauthorized } from '../auth.ts';
import type { Config } from '../config.ts';
import type { Sql } from '../db.ts';
import { Problem, unavailable } from '../errors.ts';
import { readBody } from '../request.ts';
import { beginSession, endSession, maxTokenLength, requireSameOrigin, sessionToken } from '../session.ts';
import { findAsset } from './assets.ts';
import { type Answer, failure, type Html, type Part, page, publicPage } from './layout.ts';
import { adminPage } from './pages/admin.ts';
import { alertPage, alertsPage } from './pages/alerts.ts';
import { dashboardPage, dashboardsPage } from './pages/dashboards.ts';
import { explorePage } from './pages/explore.ts';
import { logContextPage, logsPage } from './pages/logs.ts';
import { overviewPage } from './pages/overview.ts';
import { rulePage, rulesPage } from './pages/rules.ts';
import { servicePage } from './pages/service.ts';
import { statusPage } from './pages/status.ts';

/** What a page has to work with. */
export interface View {
  org: string;
  /** The page's own parameters: of its query, each once. */
  query: Record<string, string>;
  /** Its path's parameters. */
  params: Record<string, string>;
  /** Whether the session's token has a permission: what it may not do is not offered. */
  may: (permission: string) => boolean;
  /** Asks the API as the browser would, by a path such as /overview. */
  ask: <T>(path: string, body?: object) => Promise<Answer<T>>;
}

export type Page = (view: View) => Promise<{
  title: string;
  section: string;
  modules?: string[];
  hasCharts?: boolean;
  body: Part;
  status?: 404;
}>;

const pages: Record<string, Page> = {
  '/': overviewPage,
  '/services/:name': servicePage,
  '/explore': explorePage,
  '/alerts': alertsPage,
  '/alerts/:id': alertPage,
  '/rules': rulesPage,
  '/rules/:id': rulePage,
  '/logs': logsPage,
  '/logs/:service/:id': logContextPage,
  '/dashboards': dashboardsPage,
  '/dashboards/:id': dashboardPage,
  '/admin': adminPage,
};

const contentSecurityPolicy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

export interface WebDependencies {
  config: Config;
  sql: Sql;
  authenticator: Authenticator;
}

// Status pages are for everybody, and so is asking for them.
const statusPageMs = 15_000;
const mostStatusLookups = 2;
const mostFormBytes = 16_384;

export function addPages<E extends AuthEnv>(
  app: OpenAPIHono<E>,
  { config, sql, authenticator }: WebDependencies,
): void {
  const show = (c: Context, body: Html, status: 200 | 401 | 404 = 200) => {
    c.header('Content-Security-Policy', contentSecurityPolicy);
    if (!c.res.headers.has('Cache-Control')) c.header('Cache-Control', 'no-store');
    return c.html(body, status);
  };
  const isSecure = (c: Context) =>
    config.tls !== undefined ||
    (config.trustedProxies > 0 && c.req.header('X-Forwarded-Proto')?.split(',').at(-1)?.trim() === 'https');

  app.get('/assets/*', (c) => {
    const asset = findAsset(c.req.path);
    if (!asset) throw new Problem(404, 'not_found', 'There is no such file.');
    return c.body(asset.body, 200, {
      'Content-Type': asset.type,
      'Cache-Control': 'public, max-age=31536000, immutable',
    });
  });

  // Another site's link must not put whoever follows it into a session of another's: who was not sent by one signs in at once.
  app.get('/signin', (c) =>
    show(c, signIn({ isAtOnce: ['none', 'same-origin'].includes(c.req.header('Sec-Fetch-Site') ?? '') })),
  );

  app.post('/signin', async (c) => {
    requireSameOrigin(c);
    const form = new URLSearchParams((await readBody(c, mostFormBytes)).toString());
    const token = (form.get('token') ?? '').trim();
    const next = form.get('next') ?? '/';
    const refuse = (problem: string) => show(c, signIn({ problem, next }), 401);
    if (token === '') return refuse('A token is required.');
    if (token.length > maxTokenLength)
      return refuse(`The token is longer than ${maxTokenLength} characters, which a browser does not keep.`);
    try {
      const { expiresAt } = await authenticator.authenticate(token);
      beginSession(c, token, expiresAt, isSecure(c));
    } catch (error) {
      if (error instanceof Problem) return refuse(error.message);
      throw error;
    }
    return c.redirect(ownPath(next), 303);
  });

  app.post('/signout', (c) => {
    requireSameOrigin(c);
    endSession(c);
    return c.redirect('/', 303);
  });

  // Kept by name of the org, whether it has one or not, so that whoever asks costs the database nothing more.
  let lookups = 0;
  const statusPages = new LRUCache<string, { page: string | null }>({
    max: 10_000,
    ttl: statusPageMs,
    // Those that ask at once wait for one answer.
    async fetchMethod(org) {
      // Names that nobody has cost connections that others wait for.
      if (lookups >= mostStatusLookups)
        throw unavailable('busy', 'Too many status pages are asked for at once. Try again.');
      lookups++;
      try {
        const [row] = await sql<{ page: string | null }[]>`select api.get_status_page(${org}) as page`;
        return { page: row!.page };
      } finally {
        lookups--;
      }
    },
  });

  app.get('/status/:org', async (c) => {
    const org = c.req.param('org');
    const found = isOrgName(org) ? (await statusPages.fetch(org))!.page : null;
    if (!found)
      return show(
        c,
        publicPage('Not found', [], html`<h1>Not found</h1><p>There is no status page here.</p>`),
        404,
      );
    c.header('Cache-Control', 'public, max-age=15');
    return show(c, statusPage(JSON.parse(found)));
  });

  for (const [pattern, render] of Object.entries(pages)) {
    app.get(pattern, async (c) => {
      const token = sessionToken(c);
      if (!token) return show(c, signIn({ next: pathOf(c) }));
      let principal: Awaited<ReturnType<Authenticator['authenticate']>>;
      try {
        principal = await authenticator.authenticate(token);
      } catch (error) {
        if (!(error instanceof Unauthorized)) throw error;
        endSession(c);
        return show(c, signIn({ problem: error.message, next: pathOf(c) }));
      }
      const view: View = {
        org: principal.org,
        query: c.req.query(),
        params: c.req.param() as Record<string, string>,
        may: (permission) => (principal.permissions as ReadonlySet<string>).has(permission),
        async ask(path, body) {
          const answer = await app.request(
            `/api/v1${path}`,
            {
              method: body ? 'POST' : 'GET',
              headers: {
                Authorization: `Bearer ${token}`,
                'X-Request-Id': c.get('requestId') as string,
                ...(body ? { 'Content-Type': 'application/json' } : {}),
                ...forwardedHeaders(c),
              },
              ...(body ? { body: JSON.stringify(body) } : {}),
            },
            c.env,
          );
          const parsed = (await answer.json()) as { detail?: string };
          return answer.ok
            ? { data: parsed as never }
            : { problem: { status: answer.status, detail: parsed.detail ?? 'Something went wrong.' } };
        },
      };
      const { body, status, ...options } = await render(view);
      return show(c, page({ org: principal.org, ...options }, body), status ?? 200);
    });
  }
}

// By which the API tells the client's address.
function forwardedHeaders(c: Context): Record<string, string> {
  const forwarded = c.req.header('X-Forwarded-For');
  return forwarded ? { 'X-Forwarded-For': forwarded } : {};
}

function pathOf(c: Context): string {
  const { pathname, search } = new URL(c.req.url);
  return pathname + search;
}

// To a page of this service and nowhere else.
function ownPath(next: string): string {
  const base = 'http://here';
  if (!URL.canParse(next, base)) return '/';
  const { origin, pathname, search } = new URL(next, base);
  return origin === base && !pathname.startsWith('//') ? pathname + search : '/';
}

/** isAtOnce: a link that carries a token signs in without being asked. */
function signIn({
  problem,
  next = '/',
  isAtOnce = false,
}: {
  problem?: string;
  next?: string;
  isAtOnce?: boolean;
} = {}): Html {
  return publicPage(
    'Sign in',
    ['signin'],
    html`<div class="signin">
<h1>LiftOS <span>Observability</span></h1>
${problem ? failure(problem) : ''}
<form method="post" action="/signin"${isAtOnce ? html` data-at-once` : ''}>
<input type="hidden" name="next" value="${next}">
<label for="token">Token</label>
<textarea id="token" name="token" rows="4" required autocomplete="off" spellcheck="false" placeholder="eyJ… or obs_…"></textarea>
<button class="primary">Sign in</button>
</form>
<p class="hint"><code>make up</code> prints a link that signs in, <code>make token</code> a token. It is held in a cookie that no script can read, until it expires or you sign out.</p>
</div>`,
  );
}
