// The overview of a large org: what its endpoints cost, cached and not, and how soon a browser shows something.

import { chromium } from 'playwright-core';
import postgres from 'postgres';
import { executablePath } from '../test/support/browser.ts';
import { startService } from '../test/support/process.ts';
import { logRow, percentile, runLoad, toRow } from './load.ts';
import { storeFleet } from './probes.ts';

const alerts = 10_000;
const hosts = 100;

export async function storeRest(sql: postgres.Sql) {
  await sql`
    insert into obs.alert (org_id, fingerprint, source, name, severity, status, service_name, started_at, resolved_at)
    select o.id, 'bench ' || i, 'api', 'alert ' || i, (array['critical', 'warning', 'info'])[1 + i % 3],
      (array['firing', 'acknowledged', 'resolved', 'resolved'])[1 + i % 4], 'fleet-' || lpad((i % 1000)::text, 5, '0'),
      now() - make_interval(mins => i), case when i % 4 >= 2 then now() end
    from obs.org o, generate_series(1, ${alerts}) i
    where o.external_id = 'acme'`;
  await sql`
    insert into obs.system_snapshot (
      time, org_id, total_services, healthy_services, degraded_services, unhealthy_services, avg_response_time_ms, uptime_percentage,
      critical_alerts, warning_alerts, info_alerts, started_alerts, requests_per_second, error_percentage, reported_response_time_ms
    )
    select now() - make_interval(mins => i), o.id, 1000, 600, 200, 200, 30 + i % 7, 98.3, 100, 200, 300, i % 3, 1000, 0.5, 40
    from obs.org o, generate_series(2, 90 * 1440) i
    where o.external_id in ('acme', 'other')`;
  const series = Array.from({ length: hosts }, (_, i) =>
    ['cpu_usage', 'memory_usage', 'disk_usage'].map((name) => ({
      name,
      service_name: 'agent',
      labels: { host: `h${i}` },
    })),
  ).flat();
  await sql`
    insert into obs.sample (time, series_id, value)
    select t, s, 50 + 40 * sin(s + extract(epoch from t))
    from unnest((select api.ensure_series(o.id, ${sql.json(series)}) from obs.org o where o.external_id = 'acme')) s,
      generate_series(now() - interval '1 hour', now() + interval '10 minutes', interval '10 seconds') t
    order by t`;
  await sql.unsafe('vacuum analyze obs.alert, obs.system_snapshot, obs.series');
}

/** With CACHE_MS=0 each answer is computed; cached they are as long as the default has it. */
export async function benchOverview(databaseUrl: string, token: string): Promise<void> {
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => {} });
  try {
    await storeFleet(sql);
    await storeRest(sql);
    // What workers would do all along, who are not there to take of the machine: probe, and a snapshot each minute.
    await sql`update obs.service_state set next_check_at = now() + interval '1 hour', last_slot = now() + interval '1 hour'`;
    await sql.unsafe('vacuum analyze obs.service_state');
    // What was stored is on disk before anything is measured.
    await sql.unsafe('checkpoint');
    const began = performance.now();
    await sql`select job.take_snapshot(id) from obs.org where external_id = 'acme'`;
    console.log(`  one snapshot of the org: ${(performance.now() - began).toFixed(0)} ms`);
  } finally {
    await sql.end({ timeout: 5 });
  }
  for (const [what, env] of [
    ['uncached', { CACHE_MS: '0' }],
    ['cached', { CACHE_MS: '60000' }],
  ] as const) {
    const api = await startService('api', { DATABASE_URL: databaseUrl, DEFAULT_ORG: 'bench-self', ...env });
    try {
      for (const path of ['/overview', '/dashboard/metrics']) {
        const load = {
          url: api.url,
          path: `/api/v1${path}`,
          method: 'GET' as const,
          headers: { authorization: `Bearer ${token}` },
          connections: 1,
          body: () => '',
          expect: 200,
        };
        const check = (answer: string) => {
          const given = JSON.parse(answer);
          const isWhole = given.status_grid
            ? given.status_grid.length === 1000 && given.resource_utilization.total_hosts === hosts
            : given.total_services === 1000 && given.total_alerts === alerts / 2;
          if (!isWhole) throw new Error(`${path}: ${answer.slice(0, 1000)}`);
        };
        await runLoad({ ...load, check, requests: 20 });
        // A process that has been running for a while is what is measured.
        const requests = what === 'cached' ? 2000 : 300;
        await runLoad({ ...load, requests: requests / 2 });
        // Answers are not kept here: hundreds of that size would have the client collect garbage meanwhile.
        logRow(toRow(`GET ${path}, ${what}`, await runLoad({ ...load, requests })));
        if (what === 'uncached') continue;
        // As browsers take it.
        const headers = { ...load.headers, 'accept-encoding': 'gzip' };
        logRow(toRow(`GET ${path}, gzip`, await runLoad({ ...load, headers, requests })));
      }
      if (what === 'cached') await benchBrowser(api.url, token);
    } finally {
      await api.stop();
    }
  }
}

/** First contentful paint of the overview, the browser's cache empty and full. */
async function benchBrowser(url: string, token: string) {
  const browser = await chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu'],
  });
  try {
    const paints: Record<'empty' | 'full', number[]> = { empty: [], full: [] };
    for (let i = 0; i < 10; i++) {
      const context = await browser.newContext({ viewport: { width: 1400, height: 900 } });
      await context.addCookies([
        { name: 'obs_session', value: token, url, httpOnly: true, sameSite: 'Strict' },
      ]);
      const page = await context.newPage();
      for (const cache of ['empty', 'full'] as const) {
        await page.goto(url, { waitUntil: 'load' });
        const paint = await page.evaluate(
          "new Promise((resolve) => new PerformanceObserver((list) => resolve(list.getEntriesByName('first-contentful-paint')[0].startTime)).observe({ type: 'paint', buffered: true }))",
        );
        paints[cache].push(paint as number);
      }
      await context.close();
    }
    for (const [cache, times] of Object.entries(paints)) {
      const sorted = Float64Array.from(times).sort();
      console.log(
        `  first contentful paint, browser's cache ${cache}: p50 ${percentile(sorted, 50).toFixed(0)} ms, at most ${sorted.at(-1)!.toFixed(0)} ms, ${sorted.length} times (goal: < 1 s)`,
      );
    }
  } finally {
    await browser.close();
  }
}
