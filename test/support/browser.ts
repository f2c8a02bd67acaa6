// A real browser: Debian's Chromium, headless, and what it had to complain about.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, expect } from 'vitest';

/** The one without windows is the same browser, at two thirds of the cost. */
export const executablePath =
  process.env.CHROMIUM ||
  (existsSync('/usr/bin/chromium-headless-shell') ? '/usr/bin/chromium-headless-shell' : '/usr/bin/chromium');
const axeSource = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** Why there is no browser here, or null. */
export const browserObstacle =
  spawnSync(executablePath, ['--version']).status === 0
    ? null
    : 'chromium is missing: apt-get install chromium-headless-shell';

export interface Visit {
  page: Page;
  /** Errors and warnings of the console, exceptions, answers that failed and requests that did. */
  problems: string[];
  end(): Promise<void>;
}

export interface TestBrowser {
  /** A tab of its own, with a session of its own. */
  visit(options?: BrowserContextOptions): Promise<Visit>;
}

export function useBrowser(): TestBrowser {
  let browser: Browser;
  beforeAll(async () => {
    browser = await chromium.launch({
      executablePath,
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
        // A name that a browser does not trust as it does an address of its own machine.
        '--host-resolver-rules=MAP obs.test 127.0.0.1',
      ],
    });
  });
  afterAll(() => browser?.close());
  return {
    async visit(options = {}) {
      const context = await browser.newContext({
        timezoneId: 'Europe/Berlin',
        reducedMotion: 'reduce',
        ...options,
      });
      const page = await context.newPage();
      const problems: string[] = [];
      page.on('console', (message) => {
        if (['error', 'warning'].includes(message.type())) problems.push(`console: ${message.text()}`);
      });
      page.on('pageerror', (error) => problems.push(`exception: ${error.message}`));
      page.on('response', (response) => {
        if (response.status() >= 400) problems.push(`${response.status()} ${response.url()}`);
      });
      page.on('requestfailed', (request) => {
        // What a page was still asking for when one went on to another.
        if (request.failure()?.errorText !== 'net::ERR_ABORTED')
          problems.push(`failed: ${request.url()} ${request.failure()?.errorText}`);
      });
      return { page, problems, end: () => context.close() };
    },
  };
}

/** Signs a tab in as the link of make up does. */
export async function signIn(page: Page, url: string, token: string): Promise<void> {
  await page.goto(`${url}/signin#token=${token}`);
  await page.waitForURL(`${url}/`);
}

/** That axe finds nothing serious, WCAG 2.1 AA, at this moment. */
export async function expectAccessible(page: Page, what: string): Promise<void> {
  // Not as a script of the page, whose policy takes none.
  await page.evaluate(axeSource);
  const violations = await page.evaluate(`(async () => {
    const { violations } = await axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'] });
    return violations.map(({ id, impact, nodes }) => ({
      id,
      impact,
      nodes: nodes.slice(0, 3).map(({ target, failureSummary }) => target + ' ' + failureSummary),
    }));
  })()`);
  expect(violations, what).toEqual([]);
}
