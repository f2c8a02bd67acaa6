// Probes: how late they begin and what they cost, and how quickly the health of a thousand services is told.
import postgres from 'postgres';
import { runFleet } from '../test/support/fleet.ts';
import { startService } from '../test/support/process.ts';
import { logRow, runLoad, toRow } from './load.ts';

const services = 1000;

/** A thousand services each 10 s, two workers, one of them killed half-way. */
export async function benchFleet(databaseUrl: string, seconds: number): Promise<void> {
  const sql = postgres(databaseUrl, { max: 3, onnotice: () => {} });
  try {
    const report = await runFleet(sql, databaseUrl, {
      services,
      intervalSeconds: 10,
      seconds,
      killsOne: true,
    });
    const { from, until, killedAt } = report;
    const late = async (a: Date, b: Date) => {
      const [row] = await sql<{ n: number; p50: number; p99: number; most: number }[]>`
        select count(*)::int as n,
          percentile_cont(0.5) within group (order by late) * 1000 as p50,
          percentile_cont(0.99) within group (order by late) * 1000 as p99,
          max(late) * 1000 as most
        from (
          select extract(epoch from time - slot)::float8 as late from obs.probe_result where slot >= ${a} and slot < ${b}
        ) r`;
      return `${row!.n} probes began late by p50 ${row!.p50.toFixed(0)} ms, p99 ${row!.p99.toFixed(0)} ms, at most ${row!.most.toFixed(0)} ms`;
    };
    console.log(`  two workers      ${await late(from, killedAt!)}`);
    console.log(`  one was killed   ${await late(killedAt!, until)}`);
    const [slots] = await sql<{ twice: number; missed: number; longest: number }[]>`
      select
        (select count(*)::int from (
          select from obs.probe_result where slot is not null group by service_id, slot having count(*) > 1) d) as twice,
        (count(*) filter (where gap > 10))::int as missed, max(gap)::float8 as longest
      from (
        select extract(epoch from slot - lag(slot) over (partition by service_id order by slot)) as gap
        from obs.probe_result where slot >= ${from} and slot < ${until}
      ) g`;
    console.log(
      `  slots            ${slots!.twice} probed twice, ${slots!.missed} not at all; ${slots!.longest} s at most from one to the next`,
    );
    for (const { cpuSeconds, seconds, peakMiB, isKilled } of report.workers) {
      console.log(
        `  ${isKilled ? 'killed worker  ' : 'other worker   '}  ${((100 * cpuSeconds) / seconds).toFixed(0)} % of a core, ${peakMiB.toFixed(0)} MiB at most`,
      );
    }
  } finally {
    await sql.end({ timeout: 5 });
  }
}

/** A thousand services of an org, and as many of another, each with 30 days by the hour and 90 by the day. */
export async function storeFleet(sql: postgres.Sql): Promise<void> {
  const definitions = Array.from({ length: services }, (_, i) => ({
    service_name: `fleet-${String(i).padStart(5, '0')}`,
    kind: 'tcp',
    health_endpoint: `tcp://127.0.0.1:${i + 1}`,
    check_interval_seconds: 10,
  }));
  await sql`select api.import_services(api.ensure_org('acme'), ${sql.json(definitions)}, 'bench')`;
  // And those of another org, among whom they have to be found.
  await sql`select api.import_services(api.ensure_org('other'), ${sql.json(definitions)}, 'bench')`;
  for (const [table, width, buckets] of [
    ['obs.probe_1h', '1 hour', 24 * 30],
    ['obs.probe_1d', '1 day', 90],
  ] as const) {
    await sql.unsafe(`
      insert into ${table}
      select time_bucket('${width}', now()) - n * interval '${width}', s.id, 350, 4, 6, 3600, 60, 350 * 25.5, 180
      from obs.service s, generate_series(0, ${buckets - 1}) n`);
  }
  await sql`
    update obs.service_state
    set status = (array['healthy', 'healthy', 'healthy', 'degraded', 'unhealthy'])[1 + service_id % 5], last_check_at = now(),
      response_time_ms = 20 + service_id % 50`;
  await sql.unsafe('vacuum analyze obs.probe_1h, obs.probe_1d, obs.service, obs.service_state');
}

/** GET /health/services with a thousand services and their last day. */
export async function benchHealth(databaseUrl: string, token: string): Promise<void> {
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => {} });
  try {
    await storeFleet(sql);
    const api = await startService('api', { DATABASE_URL: databaseUrl });
    try {
      for (const path of [
        '/health/services',
        '/health/services?history=false',
        '/services?limit=1000',
        '/services/fleet-00500',
      ]) {
        const load = {
          url: api.url,
          path: `/api/v1${path}`,
          method: 'GET' as const,
          headers: { authorization: `Bearer ${token}` },
          connections: 1,
          body: () => '',
          expect: 200,
          // The thousand of this org, each with its day.
          check: (answer: string) => {
            if (!path.startsWith('/health')) return;
            const { summary, services: shown } = JSON.parse(answer);
            const hours = Object.values(shown as Record<string, { history?: unknown[] }>).every(
              ({ history }) => (history?.length ?? 0) === (path.includes('false') ? 0 : 24),
            );
            if (summary.total_services !== services || !hours || summary.uptime_percentage !== 98.3333)
              throw new Error(`${path}: ${answer.slice(0, 1000)}`);
          },
        };
        await runLoad({ ...load, requests: 10 });
        logRow(toRow(`GET ${path}`, await runLoad({ ...load, requests: 200 })));
      }
    } finally {
      await api.stop();
    }
  } finally {
    await sql.end({ timeout: 5 });
  }
}
