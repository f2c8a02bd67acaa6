// A tab that stays open: it comes back after the API was away, and does not grow.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { browserObstacle, signIn, useBrowser } from '../support/browser.ts';
import { cloneDatabase } from '../support/database.ts';
import { freePort, type Service, signToken, startService } from '../support/process.ts';
import { isSoak } from '../support/soak.ts';

const hours = isSoak ? 24 : 2;

describe.skipIf(browserObstacle)(
  `a tab that stays open${browserObstacle ? ` (${browserObstacle})` : ''}`,
  () => {
    const browser = useBrowser();
    let api: Service;
    let env: Record<string, string>;
    let token: string;
    beforeAll(async () => {
      env = {
        DATABASE_URL: await cloneDatabase(inject('server')),
        PORT: String(await freePort()),
        DEFAULT_ORG: 'acme',
      };
      api = await startService('api', env);
      token = await signToken({ exp: Math.floor(Date.now() / 1000) + 10 * 86_400 });
      for (let i = 0; i < 20; i++)
        await fetch(`${api.url}/api/v1/services/register`, {
          method: 'POST',
          headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
          body: JSON.stringify({ service_name: `s${i}`, health_endpoint: 'http://127.0.0.1:9/' }),
        });
    }, 60_000);
    afterAll(() => api?.stop());

    const alert = (name: string) =>
      fetch(`${api.url}/api/v1/alerts`, {
        method: 'POST',
        headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
        body: JSON.stringify({ name, severity: 'info' }),
      });

    test('says that the API is away, and is live again when it is back', async () => {
      const { page, end } = await browser.visit();
      await signIn(page, api.url, token);
      await expect.poll(() => page.locator('[data-live-state="on"]').count()).toBe(1);
      await api.kill();
      await expect
        .poll(() => page.locator('[data-live-state="off"]').textContent())
        .toContain('not connected');
      // What is there already stays.
      expect(await page.locator('.cell').count()).toBeGreaterThanOrEqual(20);
      api = await startService('api', env);
      await expect.poll(() => page.locator('[data-live-state="on"]').count(), { timeout: 40_000 }).toBe(1);
      await alert('after the restart');
      await expect.poll(() => page.getByText('after the restart').count(), { timeout: 20_000 }).toBe(1);
      await end();
    });

    test(
      `has after ${hours} hours, by its clock, no more memory and no more elements than after one`,
      async () => {
        const { page, problems, end } = await browser.visit();
        await page.clock.install();
        await signIn(page, api.url, token);
        await expect.poll(() => page.locator('.cell').count()).toBeGreaterThanOrEqual(20);
        const devtools = await page.context().newCDPSession(page);
        await devtools.send('Performance.enable');
        const measure = async () => {
          await devtools.send('HeapProfiler.collectGarbage');
          const { metrics } = await devtools.send('Performance.getMetrics');
          const of = (name: string) => metrics.find((metric) => metric.name === name)!.value;
          return { heap: of('JSHeapUsedSize'), nodes: of('Nodes') };
        };
        // It looks for what is new each minute, unless it is at it still.
        let looked = 0;
        page.on('requestfinished', (request) => {
          if (request.url() === `${api.url}/`) looked++;
        });
        const pass = async (minutes: number) => {
          for (let minute = 0; minute < minutes; minute++) {
            const before = looked;
            await page.clock.runFor(60_000);
            for (let waited = 0; looked === before && waited < 50; waited++) await sleep(10);
            if (minute % 60 === 0) await alert(`alert ${Date.now()}`);
          }
        };
        await page.clock.pauseAt(Date.now() + 1000);
        await pass(60);
        const hour = await measure();
        await pass((hours - 1) * 60);
        const last = await measure();
        process.stderr.write(
          `  after an hour ${JSON.stringify(hour)}, after ${hours} ${JSON.stringify(last)}\n`,
        );
        expect(last.heap).toBeLessThan(1.25 * hour.heap + 1_000_000);
        // The open alerts that came meanwhile.
        expect(last.nodes).toBeLessThan(1.5 * hour.nodes + hours * 200);
        expect(looked).toBeGreaterThan(hours * 50);
        expect(problems).toEqual([]);
        await end();
      },
      hours * 30_000,
    );
  },
);
