// Each page's main path in a real browser, on data that came through the API: light and dark, at a desk and on a phone.
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import type { Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { dataFolder } from '../../db/server/find.ts';
import { browserObstacle, expectAccessible, signIn, useBrowser, type Visit } from '../support/browser.ts';
import { cloneDatabase } from '../support/database.ts';
import { type Service, signToken, startService } from '../support/process.ts';
import { isSoak } from '../support/soak.ts';

const screenshots = path.join(dataFolder, 'screenshots');
mkdirSync(screenshots, { recursive: true });
const minute = 60_000;
const slowFrom = Math.floor((Date.now() - 3 * 60 * minute) / (10 * minute)) * 10 * minute;

describe.skipIf(browserObstacle)(
  `pages in a browser${browserObstacle ? ` (${browserObstacle})` : ''}`,
  () => {
    const browser = useBrowser();
    let api: Service;
    let worker: Service;
    let token: string;
    let visit: Visit;
    let page: Page;

    const call = async (method: string, target: string, body?: unknown, expected = 201) => {
      const answer = await fetch(`${api.url}/api/v1${target}`, {
        method,
        headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
        ...(body ? { body: JSON.stringify(body) } : {}),
      });
      const given = answer.status === 204 ? undefined : await answer.json();
      expect(answer.status, `${method} ${target}: ${JSON.stringify(given)}`).toBe(expected);
      // biome-ignore lint/suspicious/noExplicitAny: what it is follows from the route
      return given as any;
    };
    const open = async (target: string) => {
      await page.goto(api.url + target);
      await page.waitForLoadState('load');
    };
    const charts = () => page.locator('.plot canvas').count();

    beforeAll(async () => {
      const url = await cloneDatabase(inject('server'));
      const env = { DATABASE_URL: url, DEFAULT_ORG: 'acme' };
      api = await startService('api', env);
      worker = await startService('worker', env);
      token = await signToken();
      await call('POST', '/services/register', {
        service_name: 'gateway',
        health_endpoint: `${api.url}/health`,
        check_interval_seconds: 5,
      });
      await call('POST', '/services/register', {
        service_name: 'auth',
        health_endpoint: `${api.url}/none`,
        check_interval_seconds: 5,
        failure_threshold: 1,
      });
      for (const service_name of ['gateway', 'auth', 'billing']) {
        const metrics = Array.from({ length: 144 }, (_, i) => {
          const timestamp = Date.now() - (143 - i) * 10 * minute;
          const isSlow =
            service_name === 'billing' && timestamp >= slowFrom && timestamp < slowFrom + 30 * minute;
          const of = { service_name, timestamp, labels: { host: `${service_name}-1` } };
          return [
            { name: 'response_time_ms', value: (isSlow ? 900 : 80) + (i % 7), ...of },
            { name: 'http_requests_total', value: 600 * i, ...of },
            { name: 'http_errors_total', value: 6 * i, ...of },
            { name: 'cpu_usage', value: 30 + (i % 20), ...of },
          ];
        }).flat();
        await call('POST', '/metrics/batch', { metrics });
        const logs = Array.from({ length: 40 }, (_, i) => ({
          service_name,
          level: i % 10 === 0 ? 'error' : 'info',
          message: i % 10 === 0 ? `request ${i} timed out` : `request ${i} took ${i * 3} ms`,
          timestamp: slowFrom + i * minute,
          metadata: { user: i },
        }));
        await call('POST', '/logs', { logs });
      }
      await call('POST', '/channels', {
        name: 'nowhere',
        type: 'webhook',
        config: { url: `${api.url}/none` },
        max_attempts: 1,
      });
      for (const name of ['Slow answers', 'To be resolved', 'To be silenced'])
        await call('POST', '/alerts', {
          name,
          severity: 'warning',
          service_name: 'billing',
          description: 'billing answers slowly',
        });
      await call('POST', '/alert-rules', {
        name: 'Busy',
        expression: 'avg by (host) (cpu_usage[10m]) > 1000',
        severity: 'info',
      });
      visit = await browser.visit({ viewport: { width: 1400, height: 900 } });
      page = visit.page;
      await signIn(page, api.url, token);
    }, 120_000);

    afterAll(async () => {
      await visit?.end();
      await Promise.all([api?.stop(), worker?.stop()]);
    });

    test('a visitor signs in with a token, and what is no token is refused where it was typed', async () => {
      const stranger = await browser.visit();
      await stranger.page.goto(`${api.url}/alerts`);
      expect(stranger.problems).toEqual([]);
      await stranger.page.getByLabel('Token').fill(token);
      await stranger.page.getByRole('button', { name: 'Sign in' }).click();
      await stranger.page.waitForURL(`${api.url}/alerts`);
      expect(await stranger.page.getByRole('heading', { level: 1 }).textContent()).toBe('Alerts');
      await stranger.page.getByRole('button', { name: 'Sign out' }).click();
      await stranger.page.getByLabel('Token').fill('rubbish');
      await stranger.page.getByRole('button', { name: 'Sign in' }).click();
      await expect.poll(() => stranger.page.getByRole('alert').textContent()).toBe('The token is not valid.');
      await stranger.end();
    });

    test('one signs in and out by plain HTTP at a name of its own, too', async () => {
      const { page, end } = await browser.visit();
      const url = api.url.replace('127.0.0.1', 'obs.test');
      await page.goto(`${url}/`);
      await page.getByLabel('Token').fill(token);
      await page.getByRole('button', { name: 'Sign in' }).click();
      await expect.poll(() => page.locator('.org').textContent()).toBe('acme');
      await page.getByRole('button', { name: 'Sign out' }).click();
      await expect.poll(() => page.getByLabel('Token').count()).toBe(1);
      await end();
    });

    test('a link with a token signs nobody in whom another site has sent', async () => {
      const { page, end } = await browser.visit();
      await page.route('http://evil.test/', (route) =>
        route.fulfill({
          contentType: 'text/html',
          body: `<a href="${api.url}/signin#token=${token}">here</a>`,
        }),
      );
      await page.goto('http://evil.test/');
      await page.getByRole('link').click();
      await expect.poll(() => page.getByLabel('Token').inputValue()).toBe(token);
      await page.waitForLoadState('networkidle');
      expect(new URL(page.url()).pathname).toBe('/signin');
      await end();
    });

    test('the overview shows what is wrong, and follows it as it changes', async () => {
      await open('/');
      await expect.poll(() => page.locator('[data-live-state="on"]').count()).toBe(1);
      await expect
        .poll(() => page.locator('.cell.unhealthy').first().textContent(), { timeout: 30_000 })
        .toContain('auth');
      expect(await page.locator('.cell.healthy').first().textContent()).toMatch(
        /gateway|liftos-observability/,
      );
      // What stood out most comes first.
      await expect.poll(() => page.locator('.spark').first().textContent()).toContain('billing');
      expect(await page.locator('.spark.stands-out').count()).toBe(1);
      // They are drawn when they come into view.
      await page.locator('figure').last().scrollIntoViewIfNeeded();
      await expect.poll(charts).toBeGreaterThan(1);
      await call('POST', '/alerts', { name: 'Just now', severity: 'critical' });
      await expect
        .poll(() => page.getByRole('link', { name: 'Just now' }).count(), { timeout: 20_000 })
        .toBe(1);
      expect(await page.locator('.status.unhealthy').count()).toBe(1);
      await page.getByRole('button', { name: 'Acknowledge Just now' }).click();
      await expect.poll(() => page.getByRole('button', { name: 'Acknowledge Just now' }).count()).toBe(0);
      expect((await call('GET', '/alerts?q=Just', undefined, 200)).alerts[0].status).toBe('acknowledged');
    });

    test('a service shows its state, its charts, and the logs of a moment that one chooses', async () => {
      await open('/services/billing');
      await expect.poll(charts).toBeGreaterThan(1);
      const plot = page.locator('.plot').first();
      const box = (await plot.locator('.u-over').boundingBox())!;
      // Where it was slow.
      const x = box.width * (1 - (Date.now() - slowFrom - 10 * minute) / (24 * 60 * minute));
      await plot.locator('.u-over').click({ position: { x, y: box.height / 2 } });
      await page.locator('.chosen-moment a').first().click();
      await page.waitForURL(/\/logs\?service=billing&start_time=/);
      expect(await page.locator('.lines .line').count()).toBeGreaterThan(3);

      await open('/services/auth?period=7d');
      await expect.poll(() => page.locator('rect.unhealthy').count(), { timeout: 20_000 }).toBeGreaterThan(0);
      expect(await page.locator('.events li').count()).toBeGreaterThan(0);
      expect(await page.locator('h1').textContent()).toContain('unhealthy');
    });

    test('the explorer finds a metric, aggregates, groups and compares it, and its address is the view', async () => {
      await open('/explore');
      await page.getByLabel('Metric', { exact: true }).fill('response_time');
      await expect.poll(() => page.locator('#metric-names option').count()).toBe(1);
      await page.getByLabel('Metric', { exact: true }).fill('response_time_ms');
      await page.getByLabel('Aggregation').selectOption('p95');
      await page.getByLabel('Group by').fill('service_name');
      await page.getByLabel('the period before').check();
      await page.getByLabel('anomalies and forecast').check();
      await page.getByRole('button', { name: 'Show' }).click();
      await page.waitForURL(/metric_name=response_time_ms/);
      await expect.poll(charts).toBe(1);
      await expect.poll(() => page.locator('.reading').first().textContent()).toContain('billing');
      expect(await page.locator('dl.pairs').textContent()).toContain('host');
      const address = page.url();
      expect(new URL(address).searchParams.get('labels')).toBeNull();
      const shown = await page.locator('.reading').first().textContent();
      await page.goto(address);
      await expect.poll(() => page.locator('.reading').first().textContent()).toContain(shown!.slice(0, 8));
    });

    test('the explorer takes a span of its own, tells lines of two periods apart, and says what it does not draw', async () => {
      const reading = page.locator('.reading').first();
      await open('/explore?metric_name=cpu_usage&group_by=host&range=6h&compare=on');
      await expect.poll(() => reading.textContent()).toContain('billing-1, the period before');
      const box = (await page.locator('.u-over').boundingBox())!;
      await page.mouse.move(box.x + box.width / 4, box.y + 50);
      await page.mouse.down();
      await page.mouse.move(box.x + box.width / 2, box.y + 50, { steps: 4 });
      await page.mouse.up();
      await page.locator('.chosen-span a').click();
      await page.waitForURL(/start_time=.*end_time=/);
      await expect.poll(charts).toBe(1);
      const [from, to] = await Promise.all(
        ['or from', 'to'].map((label) => page.getByLabel(label, { exact: true }).inputValue()),
      );
      const spanMs = Date.parse(to!) - Date.parse(from!);
      expect(Math.abs(spanMs - 90 * minute)).toBeLessThan(2 * minute);
      const before = new URL(page.url()).searchParams.get('start_time')!;
      await page.getByRole('button', { name: 'Show' }).click();
      await page.waitForLoadState('load');
      // The same instant, to the second that the field holds.
      expect(Date.parse(new URL(page.url()).searchParams.get('start_time')!)).toBe(
        Math.floor(Date.parse(before) / 1000) * 1000,
      );

      await open('/explore?metric_name=cpu_usage&group_by=host&range=7d&time_window=10s');
      await expect.poll(() => page.locator('p.note').textContent()).toContain('A wider window has fewer');
      await open('/explore?metric_name=cpu_usage&labels=host');
      expect(await page.locator('.failure').textContent()).toBe(
        'Labels: expected such as host=web-1, zone=a.',
      );
      const nowhere = await page.request.get(`${api.url}/services/nowhere`);
      expect(nowhere.status()).toBe(404);
      expect(await nowhere.text()).toContain('There is no service nowhere');
    });

    test('alerts are filtered, acknowledged, resolved and silenced, and say what became of them and who was told', async () => {
      await open('/alerts');
      await page.getByLabel('Text').fill('slow answers');
      await page.getByRole('button', { name: 'Filter' }).click();
      await page.waitForURL(/q=slow/);
      expect(await page.locator('tbody tr').count()).toBe(1);
      await page.getByRole('button', { name: 'Acknowledge Slow answers' }).click();
      await expect.poll(() => page.locator('tbody .badge.acknowledged').count()).toBe(1);
      await page.getByRole('link', { name: 'Slow answers' }).click();
      await page.getByLabel('Add a note').fill('looking at it');
      // What happens meanwhile takes nothing away.
      const slowId = page.url().split('/').at(-1);
      await call('POST', `/alerts/${slowId}/notes`, { note: 'by another' });
      await expect.poll(() => page.locator('[data-live-state="on"]').count()).toBe(1);
      await page.waitForTimeout(2_000);
      await call('POST', '/alerts', { name: 'Meanwhile', severity: 'info', service_name: 'billing' });
      await expect
        .poll(() => page.locator('.events').textContent(), { timeout: 20_000 })
        .toContain('by another');
      expect(await page.getByLabel('Add a note').inputValue()).toBe('looking at it');
      await page.getByRole('button', { name: 'Add', exact: true }).click();
      await expect.poll(() => page.locator('.events').textContent()).toContain('looking at it');
      expect(await page.locator('.events').textContent()).toContain('acknowledged by tester');

      await open('/alerts?status=firing');
      await page.getByRole('button', { name: 'Resolve To be resolved' }).click();
      await expect.poll(() => page.getByText('To be resolved').count()).toBe(0);
      await page.getByRole('button', { name: /Silence .*To be silenced/ }).click();
      await expect.poll(() => page.locator('[data-toast]').textContent()).toContain('Silenced');
      await expect.poll(() => page.getByRole('link', { name: '1 silence is in force' }).count()).toBe(1);
      await page.getByRole('link', { name: 'To be silenced' }).click();
      await expect.poll(() => page.locator('.muted').textContent()).toContain('silenced for an hour');
      await open('/alerts?view=silences');
      expect(await page.locator('tbody').textContent()).toContain('alertname="To be silenced"');
      await page.getByRole('button', { name: 'End' }).click();
      await expect.poll(() => page.locator('tbody .badge.warning').count()).toBe(0);

      await open('/alerts?view=notifications');
      await expect.poll(() => page.locator('tbody tr').count(), { timeout: 20_000 }).toBeGreaterThan(0);
      expect(await page.locator('tbody').textContent()).toMatch(/nowhere webhook.*404/s);
    });

    test('a rule is checked as one types, replayed, and made', async () => {
      await open('/rules');
      await page.getByRole('link', { name: 'New rule' }).click();
      await page.getByLabel('Name').fill('Billing is slow');
      await page.getByLabel('Expression').fill('avg(response_time_ms{service="billing"}[10m] > 500');
      expect(await page.locator('[data-expression-state]').textContent()).toMatch(
        /^line 1, column \d+: expected/,
      );
      await page.getByLabel('Expression').fill('avg(response_time_ms{service="billing"}[10m]) > 500');
      expect(await page.locator('[data-expression-state]').textContent()).toBe('It reads well.');
      await page.getByLabel('Every (seconds)').fill('300');
      await page.getByRole('button', { name: 'Replay the last day' }).click();
      await expect
        .poll(() => page.locator('[data-replay-result]').textContent(), { timeout: 60_000 })
        .toContain('would have fired 1 times');
      await expect.poll(charts).toBe(1);
      // What is shown is of the rule as it is.
      await page.getByLabel('Expression').fill('avg(response_time_ms{service="billing"}[10m]) > 600');
      expect(await page.locator('[data-replay-result]').textContent()).toContain('The rule has changed');
      await page.getByRole('button', { name: 'Make the rule' }).click();
      await page.waitForURL(/\/rules\/[0-9a-f-]{36}$/);
      // What the form does not show stays as it is.
      const ruleId = page.url().split('/').at(-1)!;
      await call(
        'PATCH',
        `/alert-rules/${ruleId}`,
        { annotations: { runbook_url: 'https://wiki.test/' } },
        200,
      );
      await page.reload();
      await page.getByLabel('Summary').fill('billing is slow');
      await page.getByRole('button', { name: 'Save' }).click();
      await expect
        .poll(async () => (await call('GET', `/alert-rules/${ruleId}`, undefined, 200)).annotations)
        .toEqual({ runbook_url: 'https://wiki.test/', summary: 'billing is slow' });
      await page.waitForLoadState('load');
      // What the API has to say of one that it does not take is told in the form.
      await page.getByLabel('Every (seconds)').fill('1');
      await page.getByRole('button', { name: 'Save' }).click();
      await expect
        .poll(() => page.locator('[data-form-problem]').textContent())
        .toContain('interval_seconds');
      visit.problems.splice(
        0,
        visit.problems.length,
        ...visit.problems.filter((problem) => !problem.includes('400')),
      );
      page.once('dialog', (dialog) => dialog.accept());
      await page.getByRole('button', { name: 'Delete' }).click();
      await page.waitForURL(`${api.url}/rules`);
      expect(await page.getByText('Billing is slow').count()).toBe(0);
    });

    test('logs are searched, counted, put into patterns, seen in their context, and followed', async () => {
      await open('/logs?range=6h');
      await page.getByLabel('Search').fill('"timed out"');
      await page.getByLabel('Service').fill('billing');
      await page.getByRole('button', { name: 'Search' }).click();
      await page.waitForURL(/service=billing/);
      await expect.poll(() => page.locator('.lines .line').count()).toBe(4);
      expect(await page.locator('mark').first().textContent()).toMatch(/timed|out/);
      await expect.poll(charts).toBe(1);
      await page.locator('.line summary').first().click();
      await page.getByRole('link', { name: 'What was around it' }).first().click();
      await page.waitForURL(/\/logs\/billing\//);
      expect(await page.locator('.line.chosen').count()).toBe(1);
      expect(await page.locator('.line').count()).toBeGreaterThan(20);

      await open('/logs?service=billing&range=6h&view=patterns');
      expect(await page.locator('tbody').textContent()).toContain('request <num> took <num> ms');

      await open('/logs?service=gateway');
      await page.getByRole('button', { name: 'Live tail' }).click();
      await expect.poll(() => page.locator('[data-tail-lines]').textContent()).toContain('Waiting');
      await expect
        .poll(
          async () => {
            await call('POST', '/logs', {
              service_name: 'gateway',
              level: 'warn',
              message: 'arrived just now',
            });
            return page.locator('[data-tail-lines] .line').count();
          },
          { interval: 500, timeout: 20_000 },
        )
        .toBeGreaterThan(0);
      await page.getByRole('button', { name: 'Stop the tail' }).click();
    });

    test('a dashboard is made, arranged and shared', async () => {
      await open('/dashboards');
      await page.getByLabel('Name of a new one').fill('Ours');
      await page.getByRole('button', { name: 'Make it' }).click();
      await page.waitForURL(/edit=on/);
      const add = async (fields: () => Promise<unknown>, count: number) => {
        await fields();
        await page.getByRole('button', { name: 'Add', exact: true }).click();
        await expect.poll(() => page.locator('[data-remove]').count()).toBe(count);
      };
      await add(async () => {
        await page.getByLabel('Title').fill('CPU');
        await page.getByLabel('Metric', { exact: true }).fill('cpu_usage');
        await page.getByLabel('Group by').fill('host');
      }, 1);
      await add(async () => {
        await page.getByLabel('Shows').selectOption('logs');
        await page.getByLabel('Title').fill('Errors');
        await page.getByLabel('Level').selectOption('error');
      }, 2);
      await page.getByRole('button', { name: 'Move Errors forward' }).click();
      await expect.poll(() => page.locator('.panel h2').first().textContent()).toBe('Errors');
      await page.getByRole('button', { name: 'Change the width of CPU' }).click();
      await expect.poll(() => page.locator('.panel.w8 h2').textContent()).toBe('CPU');
      const shared = page.url().replace(/\?.*/, '');
      const other = await browser.visit();
      await signIn(other.page, api.url, await signToken({ role: 'viewer', sub: 'other' }));
      await other.page.goto(shared);
      expect(await other.page.locator('.panel h2').allTextContents()).toEqual(['Errors', 'CPU']);
      await expect.poll(() => other.page.locator('.plot canvas').count()).toBe(1);
      // Who may not change it is not asked to.
      expect(await other.page.getByRole('link', { name: 'Arrange' }).count()).toBe(0);
      expect(other.problems).toEqual([]);
      await other.end();
    });

    test('panels of one title stay apart as a dashboard follows what changes', async () => {
      const panels = ['cpu_usage', 'response_time_ms'].map((metric_name) => ({
        type: 'metric',
        title: 'Latency',
        metric_name,
      }));
      const { id } = await call('POST', '/dashboards', {
        name: 'Twins',
        panels: [...panels, { type: 'alerts', title: 'Open' }],
      });
      await open(`/dashboards/${id}`);
      const asked = () =>
        page
          .locator('figure')
          .evaluateAll((figures) =>
            figures.map((figure) => JSON.parse(figure.getAttribute('data-chart')!).queries[0].metric_name),
          );
      expect(await asked()).toEqual(['cpu_usage', 'response_time_ms']);
      await call('POST', '/alerts', { name: 'Of twins', severity: 'info' });
      await expect.poll(() => page.getByText('Of twins').count(), { timeout: 20_000 }).toBe(1);
      expect(await asked()).toEqual(['cpu_usage', 'response_time_ms']);
      // Arranged by another: shown as it is now.
      await call('PATCH', `/dashboards/${id}`, { panels: panels.slice(1) }, 200);
      await call('POST', '/alerts', { name: 'Of one', severity: 'info' });
      await expect.poll(asked, { timeout: 20_000 }).toEqual(['response_time_ms']);
    });

    test('admins make and revoke tokens, see what was used and who did what, and show a status page', async () => {
      await open('/admin');
      await page.locator('[data-new-token]').getByLabel('Name').fill('ci');
      await page.getByRole('button', { name: 'Make a token' }).click();
      await expect
        .poll(() => page.locator('[data-made-token] code').textContent())
        .toMatch(/^obs_[0-9a-f]{72}$/);
      page.once('dialog', (dialog) => dialog.accept());
      await page.getByRole('button', { name: 'Revoke ci' }).click();
      await expect.poll(() => page.getByText('revoked', { exact: true }).count()).toBe(1);
      await open('/admin?action=token');
      expect(await page.locator('section').last().textContent()).toContain('token.revoke');
      await expect.poll(charts).toBeGreaterThan(0);
      await page.locator('[data-status-page]').getByLabel('Title').fill('Acme');
      await page.locator('[data-status-page]').getByLabel('Services').fill('gateway');
      await page.getByRole('button', { name: 'Switch on' }).click();
      await page.getByRole('link', { name: '/status/acme' }).click();
      expect(await page.locator('.banner').textContent()).toBe('All systems are up');
      expect(await page.getByText('auth').count()).toBe(0);
    });

    test('an error is shown where it happens, and the rest of the page is there', async () => {
      const narrow = await browser.visit();
      await signIn(
        narrow.page,
        api.url,
        await signToken({ role: 'viewer', permissions: ['overview:read', 'metrics:read'] }),
      );
      await narrow.page.goto(`${api.url}/services/billing`);
      expect(await narrow.page.locator('.failure').first().textContent()).toContain('services:read');
      await expect.poll(() => narrow.page.locator('.plot canvas').count()).toBeGreaterThan(0);
      await narrow.end();
    });

    test('times are in the viewer’s zone, with UTC on hover; the theme is remembered', async () => {
      await open('/alerts');
      const time = page.locator('tbody time').first();
      const at = await time.getAttribute('datetime');
      const local = new Intl.DateTimeFormat('en-US', {
        dateStyle: 'medium',
        timeStyle: 'medium',
        timeZone: 'Europe/Berlin',
      }).format(new Date(at!));
      await expect.poll(() => time.textContent()).toBe(local);
      expect(await time.getAttribute('title')).toMatch(/ UTC$/);
      await page.getByRole('button', { name: 'Theme' }).click();
      expect(await page.locator('html').getAttribute('data-theme')).toBe('dark');
      await open('/alerts');
      expect(await page.locator('html').getAttribute('data-theme')).toBe('dark');
      await page.getByRole('button', { name: 'Theme' }).click();
    });

    test('charts are drawn anew in another theme', async () => {
      await open('/services/billing');
      // Response time, throughput, and what failed of it.
      await expect.poll(charts).toBe(3);
      await page.getByRole('button', { name: 'Theme' }).click();
      await expect.poll(() => page.locator('html').getAttribute('data-theme')).toBe('dark');
      await expect.poll(charts).toBe(3);
      await page.getByRole('button', { name: 'Theme' }).click();
      await expect.poll(charts).toBe(3);
    });

    test('everything can be reached by keyboard', async () => {
      await open('/');
      await page.keyboard.press('Tab');
      expect(await page.evaluate('document.activeElement.textContent')).toBe('Skip to content');
      await page.keyboard.press('Enter');
      expect(await page.evaluate('document.activeElement.id')).toBe('main');
      const reached = new Set<string>();
      for (let i = 0; i < 60; i++) {
        await page.keyboard.press('Tab');
        reached.add(
          (await page.evaluate(
            'document.activeElement.getAttribute("href") ?? document.activeElement.textContent',
          )) as string,
        );
      }
      expect([...reached]).toEqual(
        expect.arrayContaining(['/alerts', '/services/auth', '/services/billing']),
      );
    });

    test('there has been no error in the console, and no request that failed', () => {
      expect(visit.problems).toEqual([]);
    });

    const looks = [
      ['light', 1400],
      ['dark', 390],
      ...(isSoak
        ? ([
            ['dark', 1400],
            ['light', 390],
          ] as const)
        : []),
    ] as const;
    describe(looks.map(([colorScheme, width]) => `${colorScheme}, ${width} wide`).join('; '), () => {
      let shown: Visit;
      beforeAll(async () => {
        shown = await browser.visit();
        await signIn(shown.page, api.url, token);
      });
      afterAll(() => shown?.end());

      test.each([
        ['overview', '/'],
        ['service', '/services/auth'],
        ['explorer', '/explore?metric_name=response_time_ms&group_by=service_name&analytics=on'],
        ['alerts', '/alerts'],
        ['notifications', '/alerts?view=notifications'],
        ['rules', '/rules'],
        ['rule', '/rules/new'],
        ['logs', '/logs?q=request&range=6h'],
        ['patterns', '/logs?view=patterns&range=6h'],
        ['dashboards', '/dashboards'],
        ['admin', '/admin'],
        ['status', '/status/acme'],
      ])('the page %s is accessible, and not wider than the screen', async (name, target) => {
        const { page } = shown;
        await page.setViewportSize({ width: 1400, height: 900 });
        await page.goto(api.url + target);
        await page.waitForLoadState('load');
        for (const [colorScheme, width] of looks) {
          const look = `${name}-${colorScheme}-${width}`;
          await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
          await page.setViewportSize({ width, height: 900 });
          await page.waitForTimeout(400);
          await expectAccessible(page, look);
          const overflow = await page.evaluate(
            'document.documentElement.scrollWidth - document.documentElement.clientWidth',
          );
          expect(overflow, look).toBeLessThanOrEqual(0);
          if (isSoak) await page.screenshot({ path: path.join(screenshots, `${look}.png`), fullPage: true });
        }
        expect(shown.problems).toEqual([]);
      });
    });
  },
);
