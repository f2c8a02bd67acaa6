// How an org is: what the overview counts, what snapshots note each minute, and the trends that are told from them.
import { beforeAll, describe, expect, test } from 'vitest';
import { useDatabase } from '../support/database.ts';

const database = useDatabase();
const now = new Date('2026-11-20T12:00:30Z');
const minutesAgo = (minutes: number) => new Date(now.getTime() - minutes * 60_000);

const orgOf = async (name: string) =>
  (await database.sql<{ id: number }[]>`select api.ensure_org(${name}) as id`)[0]!.id;
const overviewOf = async (orgId: number, at = now) =>
  JSON.parse(
    (await database.sql<{ body: string }[]>`select api.get_overview(${orgId}, ${at}) as body`)[0]!.body,
  );
const dashboardOf = async (orgId: number, at = now) =>
  JSON.parse(
    (await database.sql<{ body: string }[]>`select api.get_dashboard(${orgId}, ${at}) as body`)[0]!.body,
  );

async function serviceOf(orgId: number, name: string, status: string, responseTimeMs: number | null) {
  await database.sql`select api.put_service(${orgId}, ${name}, ${'{"kind":"http","health_endpoint":"http://x.test/"}'}::text::jsonb, 'me')`;
  await database.sql`
    update obs.service_state t
    set status = ${status}, response_time_ms = ${responseTimeMs}, last_check_at = ${now}, watched_since = ${now}, last_slot = ${now}, next_check_at = ${new Date(now.getTime() + 30_000)}
    from obs.service s where s.id = t.service_id and s.org_id = ${orgId} and s.name = ${name}`;
}

async function alertOf(orgId: number, name: string, severity: string, status: string, startedAt: Date) {
  await database.sql`
    insert into obs.alert (org_id, fingerprint, source, name, severity, status, started_at, resolved_at)
    values (${orgId}, ${name}, 'api', ${name}, ${severity}, ${status}, ${startedAt}, ${status === 'resolved' ? now : null})`;
}

async function snapshotOf(orgId: number, at: Date, fields: Record<string, number>) {
  const row = {
    time: at,
    org_id: orgId,
    total_services: 4,
    healthy_services: 4,
    degraded_services: 0,
    unhealthy_services: 0,
    critical_alerts: 0,
    warning_alerts: 0,
    info_alerts: 0,
    started_alerts: 0,
    ...fields,
  };
  await database.sql`insert into obs.system_snapshot ${database.sql(row)}`;
}

async function sampleOf(orgId: number, series: object, points: [Date, number][]) {
  const [{ ids }] = await database.sql<[{ ids: number[] }]>`
    select api.ensure_series(${orgId}, ${JSON.stringify([series])}::text::jsonb) as ids`;
  for (const [at, value] of points)
    await database.sql`insert into obs.sample (time, series_id, value) values (${at}, ${ids[0]!}, ${value})`;
}

describe('an overview', () => {
  test('of an org that has nothing says so', async () => {
    expect(await overviewOf(await orgOf('nothing'))).toEqual({
      system_health: 'unknown',
      total_services: 0,
      healthy_services: 0,
      degraded_services: 0,
      unhealthy_services: 0,
      unknown_services: 0,
      total_alerts: 0,
      critical_alerts: 0,
      warning_alerts: 0,
      info_alerts: 0,
      avg_response_time_ms: null,
      uptime_percentage: null,
      trends: {
        health_trend_percentage: 0,
        response_time_trend_ms: 0,
        alert_trend_count: 0,
        compared_since: null,
      },
    });
  });

  test('counts services by status and open alerts by severity', async () => {
    const id = await orgOf('counted');
    await serviceOf(id, 'a', 'healthy', 10);
    await serviceOf(id, 'b', 'degraded', 30);
    await serviceOf(id, 'c', 'unhealthy', 1000);
    await serviceOf(id, 'd', 'unknown', null);
    await alertOf(id, 'one', 'critical', 'firing', minutesAgo(1));
    await alertOf(id, 'two', 'warning', 'acknowledged', minutesAgo(1));
    await alertOf(id, 'three', 'warning', 'resolved', minutesAgo(1));
    await alertOf(id, 'four', 'info', 'pending', minutesAgo(1));
    expect(await overviewOf(id)).toMatchObject({
      system_health: 'unhealthy',
      total_services: 4,
      healthy_services: 1,
      degraded_services: 1,
      unhealthy_services: 1,
      unknown_services: 1,
      total_alerts: 2,
      critical_alerts: 1,
      warning_alerts: 1,
      info_alerts: 0,
      // Of those that answer as they should, more or less.
      avg_response_time_ms: 20,
    });
  });

  test.each([
    ['healthy', [['healthy', null]]],
    ['healthy', [['healthy', 'info']]],
    ['degraded', [['degraded', null]]],
    ['degraded', [['healthy', 'warning']]],
    [
      'unhealthy',
      [
        ['degraded', null],
        ['unhealthy', null],
      ],
    ],
    ['unhealthy', [['healthy', 'critical']]],
    ['unhealthy', [['unknown', 'critical']]],
    ['unknown', [['unknown', null]]],
  ] as [string, [string, string | null][]][])('is %s with %j', async (expected, things) => {
    const id = await orgOf(`worst ${JSON.stringify(things)}`);
    for (const [i, [status, severity]] of things.entries()) {
      await serviceOf(id, `s${i}`, status, 1);
      if (severity) await alertOf(id, `a${i}`, severity, 'firing', minutesAgo(5));
    }
    expect((await overviewOf(id)).system_health).toBe(expected);
  });

  test('has the uptime of the running hour and the 23 before, as last added up by a worker, and each service its own', async () => {
    const id = await orgOf('uptime');
    const at = minutesAgo(-10);
    const hour = (hours: number) => new Date(Date.parse('2026-11-20T12:00:00Z') - hours * 3_600_000);
    const probed = (name: string, hours: number, down: number) =>
      database.sql`
        insert into obs.probe_1h select ${hour(hours)}, s.id, 1, 0, 0, 3600, ${down}, 1, 1 from obs.service s where s.org_id = ${id} and s.name = ${name}`;
    const uptimes = async () => [
      (await overviewOf(id, at)).uptime_percentage,
      ...(await dashboardOf(id, at)).status_grid.map(
        (s: { uptime_percentage: number }) => s.uptime_percentage,
      ),
    ];
    await serviceOf(id, 'a', 'healthy', 10);
    await serviceOf(id, 'b', 'healthy', 10);
    await probed('a', 0, 0);
    await probed('a', 23, 1800);
    await probed('a', 24, 3600);
    expect(await uptimes()).toEqual([75, 75, null]);

    await database.sql`select job.take_snapshot(${id}, ${minutesAgo(-8)})`;
    await probed('a', 22, 3600);
    await probed('b', 22, 3600);
    await serviceOf(id, 'c', 'healthy', 10);
    expect(await uptimes()).toEqual([75, 75, null, null]);
    await database.sql`select job.take_snapshot(${id}, ${minutesAgo(-9)})`;
    expect(await uptimes()).toEqual([37.5, 50, 0, null]);
    await database.sql`select api.delete_service(${id}, 'b', 'me')`;
    expect((await dashboardOf(id, at)).status_grid).toHaveLength(2);

    // What no worker has added up for three minutes is added up as it is asked for.
    await database.sql`update obs.uptime_24h set added_up_at = ${minutesAgo(-7)} where org_id = ${id}`;
    await probed('a', 21, 1800);
    expect(await uptimes()).toEqual([50, 50, null]);
    expect((await overviewOf(id, minutesAgo(-7))).uptime_percentage).toBe(37.5);
  });

  test('compares the last 24 hours with the 24 before', async () => {
    const id = await orgOf('trends');
    await snapshotOf(id, minutesAgo(48 * 60 - 1), {
      healthy_services: 4,
      avg_response_time_ms: 100,
      started_alerts: 5,
    });
    await snapshotOf(id, minutesAgo(30 * 60), {
      healthy_services: 2,
      avg_response_time_ms: 200,
      started_alerts: 0,
    });
    await snapshotOf(id, minutesAgo(60), {
      healthy_services: 4,
      avg_response_time_ms: 40,
      started_alerts: 1,
    });
    await snapshotOf(id, minutesAgo(1), { healthy_services: 4, avg_response_time_ms: 60, started_alerts: 2 });
    // And what is none of the two.
    await snapshotOf(id, minutesAgo(49 * 60), {
      healthy_services: 0,
      avg_response_time_ms: 9999,
      started_alerts: 99,
    });
    expect((await overviewOf(id)).trends).toEqual({
      health_trend_percentage: 25,
      response_time_trend_ms: -100,
      alert_trend_count: -2,
      compared_since: minutesAgo(48 * 60 - 1).toISOString(),
    });
  });

  test('compares nothing with nothing', async () => {
    const id = await orgOf('young');
    await snapshotOf(id, minutesAgo(5), { avg_response_time_ms: 40, started_alerts: 3 });
    expect((await overviewOf(id)).trends).toEqual({
      health_trend_percentage: 0,
      response_time_trend_ms: 0,
      alert_trend_count: 0,
      compared_since: null,
    });
  });
});

describe('snapshots', () => {
  let orgs: number[];
  const takeAll = async (at: Date) => {
    const listed = (await database.sql<{ id: number }[]>`select job.list_orgs() as id`).map(({ id }) => id);
    for (const id of listed) await database.sql`select job.take_snapshot(${id}, ${at})`;
    return listed;
  };
  const snapshots = (orgId: number) =>
    database.sql`select * from obs.system_snapshot where org_id = ${orgId} order by time`;

  beforeAll(async () => {
    orgs = [await orgOf('snap one'), await orgOf('snap two'), await orgOf('snap empty')];
    await serviceOf(orgs[0]!, 'a', 'healthy', 10);
    await serviceOf(orgs[0]!, 'b', 'unhealthy', 20);
    await alertOf(orgs[1]!, 'x', 'critical', 'firing', minutesAgo(0.25));
    await alertOf(orgs[1]!, 'y', 'info', 'resolved', minutesAgo(0.5));
    await alertOf(orgs[1]!, 'z', 'info', 'resolved', minutesAgo(5));
  });

  test('note how each org is, and of one that has nothing nothing', async () => {
    expect(await takeAll(now)).toEqual(expect.arrayContaining(orgs));
    expect(await snapshots(orgs[0]!)).toMatchObject([
      {
        total_services: 2,
        healthy_services: 1,
        unhealthy_services: 1,
        avg_response_time_ms: 10,
        critical_alerts: 0,
        started_alerts: 0,
      },
    ]);
    expect(await snapshots(orgs[1]!)).toMatchObject([
      { total_services: 0, critical_alerts: 1, started_alerts: 2 },
    ]);
    expect(await snapshots(orgs[2]!)).toEqual([]);
  });

  test('are one a minute, whoever takes them and how often', async () => {
    await Promise.all([takeAll(now), takeAll(now), takeAll(new Date(now.getTime() + 20_000))]);
    expect(await snapshots(orgs[0]!)).toHaveLength(1);
    const next = new Date(now.getTime() + 40_000);
    await Promise.all([takeAll(next), takeAll(next), takeAll(next)]);
    expect(await snapshots(orgs[0]!)).toHaveLength(2);
  });

  test('count each alert that began once, whatever the time between them', async () => {
    const [later, latest] = [-10, -11].map(minutesAgo);
    await alertOf(orgs[1]!, 'later', 'info', 'firing', minutesAgo(-3));
    await takeAll(later!);
    await takeAll(latest!);
    const rows = await snapshots(orgs[1]!);
    expect(rows.map((row) => row.started_alerts)).toEqual([2, 0, 1, 0]);
  });

  test('have what services report of themselves: requests a second, failed ones, response times', async () => {
    const id = await orgOf('reporting');
    const at = (minutes: number) => minutesAgo(minutes);
    // 60 requests a minute of which 6 fail, in two ways of saying so; a counter that was set back.
    for (const [status, step] of [
      ['200', 54],
      ['503', 6],
    ] as const)
      await sampleOf(id, { name: 'http_requests_total', service_name: 'a', labels: { status } }, [
        ...[6, 5, 4, 3].map((minutes, i): [Date, number] => [at(minutes), 1000 + step * i]),
        ...[2, 1, 0.001].map((minutes, i): [Date, number] => [at(minutes), step * (i + 1)]),
      ]);
    await sampleOf(id, { name: 'response_time_ms', service_name: 'a', labels: {} }, [
      [at(10), 9999],
      [at(2), 100],
      [at(1), 300],
    ]);
    await takeAll(now);
    const [row] = await snapshots(id);
    // Six steps in five minutes.
    expect(row!.requests_per_second).toBeCloseTo(1.2, 5);
    expect(row!.error_percentage).toBeCloseTo(10, 5);
    expect(row!.reported_response_time_ms).toBe(200);

    const other = await orgOf('reporting errors');
    for (const [name, step] of [
      ['http_requests_total', 60],
      ['http_errors_total', 3],
    ] as const)
      await sampleOf(other, { name, service_name: 'a', labels: {} }, [
        [at(3), 0],
        [at(2), step],
        [at(1), 2 * step],
      ]);
    await takeAll(now);
    expect((await snapshots(other))[0]!.error_percentage).toBeCloseTo(5, 5);

    // Of one service in one way, of another in the other; what says both is not counted twice.
    const both = await orgOf('reporting both');
    for (const [service_name, name, labels, step] of [
      ['a', 'http_requests_total', { status: '200' }, 90],
      ['a', 'http_requests_total', { status: '500' }, 10],
      ['a', 'http_errors_total', {}, 10],
      ['b', 'http_requests_total', {}, 100],
      ['b', 'http_errors_total', {}, 20],
    ] as const)
      await sampleOf(both, { name, service_name, labels }, [
        [at(3), 0],
        [at(2), step],
        [at(1), 2 * step],
      ]);
    await takeAll(now);
    expect((await snapshots(both))[0]!.error_percentage).toBeCloseTo(15, 5);
  });

  test('are taken of whatever figures clients send, and so are overviews', async () => {
    const id = await orgOf('hostile');
    const extremes = [0, 1e300, -1e300, 1e-300, 1e-10, 1e200];
    for (const [i, name] of [
      'http_requests_total',
      'http_errors_total',
      'response_time_ms',
      'cpu_usage',
    ].entries())
      for (const [j, first] of extremes.entries())
        await sampleOf(id, { name, service_name: `${i % 2}`, labels: { host: `h${j}` } }, [
          [minutesAgo(3), first],
          [minutesAgo(2), extremes[(j + 1) % extremes.length]!],
          [minutesAgo(1), extremes[(j + 3) % extremes.length]!],
        ]);
    await takeAll(now);
    expect((await dashboardOf(id)).resource_utilization.hosts.length).toBeLessThanOrEqual(extremes.length);
    expect(await overviewOf(id)).toMatchObject({ system_health: 'unknown' });
    // Each pair alone: requests that hardly are, errors that are many.
    for (const [requests, errors] of [
      [1e-10, 1e300],
      [1e-300, 1e-300],
      [1e300, 1],
      [1, 1e-300],
    ] as const) {
      const pair = await orgOf(`hostile ${requests} ${errors}`);
      for (const [name, step] of [
        ['http_requests_total', requests],
        ['http_errors_total', errors],
      ] as const)
        await sampleOf(pair, { name, service_name: 'a', labels: {} }, [
          [minutesAgo(2), 0],
          [minutesAgo(1), step],
        ]);
      await database.sql`select job.take_snapshot(${pair}, ${now})`;
      expect((await dashboardOf(pair)).performance_trends.times.length).toBeLessThanOrEqual(1);
    }
  });

  test('are dropped with their retention, and shown no longer than the org keeps anything', async () => {
    const [kept] =
      await database.sql`select keep::text from obs.retention where table_name = 'system_snapshot'`;
    expect(kept).toEqual({ keep: '90 days' });
  });
});

describe('a dashboard', () => {
  test('has the worst services first, the open alerts by severity, and a step every ten minutes', async () => {
    const id = await orgOf('grid');
    for (const [name, status] of [
      ['a', 'healthy'],
      ['b', 'unhealthy'],
      ['c', 'degraded'],
    ] as const)
      await serviceOf(id, name, status, 5);
    await alertOf(id, 'w', 'warning', 'firing', minutesAgo(1));
    await alertOf(id, 'c', 'critical', 'firing', minutesAgo(100));
    await alertOf(id, 'over', 'info', 'resolved', minutesAgo(60));
    await alertOf(id, 'long over', 'info', 'resolved', minutesAgo(25 * 60));
    for (const minutes of [1, 2, 15])
      await snapshotOf(id, minutesAgo(minutes), { avg_response_time_ms: minutes, warning_alerts: minutes });
    const dashboard = await dashboardOf(id);
    expect(dashboard.status_grid.map((s: { service_name: string }) => s.service_name)).toEqual([
      'b',
      'c',
      'a',
    ]);
    expect(dashboard.alert_summary).toMatchObject({
      critical: 1,
      warning: 1,
      info: 0,
      firing: 2,
      acknowledged: 0,
      resolved: 1,
    });
    expect(dashboard.alert_summary.open.map((a: { name: string }) => a.name)).toEqual(['c', 'w']);
    expect(dashboard.performance_trends).toMatchObject({
      bucket_seconds: 600,
      times: ['2026-11-20T11:40:00Z', '2026-11-20T11:50:00Z'].map((time) => Date.parse(time)),
      avg_response_time_ms: [15, 1.5],
      open_alerts: [15, 2],
      healthy_percentage: [100, 100],
      requests_per_second: [null, null],
    });
  });

  test('has the latest resources of each host, and none that are old', async () => {
    const id = await orgOf('hosts');
    for (const [name, host, value, minutes] of [
      ['cpu_usage', 'h1', 10, 3],
      ['cpu_usage', 'h1', 30, 1],
      ['memory_usage', 'h1', 50, 1],
      ['cpu_usage', 'h2', 90, 1],
      ['cpu_usage', 'h3', 99, 11],
    ] as const)
      await sampleOf(id, { name, service_name: 'agent', labels: { host } }, [[minutesAgo(minutes), value]]);
    const { resource_utilization: resources } = await dashboardOf(id);
    expect(resources).toEqual({
      cpu_usage: { avg: 60, max: 90 },
      memory_usage: { avg: 50, max: 50 },
      disk_usage: { avg: null, max: null },
      total_hosts: 2,
      hosts: [
        {
          host: 'h2',
          cpu_usage: 90,
          memory_usage: null,
          disk_usage: null,
          time: minutesAgo(1).toISOString(),
        },
        { host: 'h1', cpu_usage: 30, memory_usage: 50, disk_usage: null, time: minutesAgo(1).toISOString() },
      ],
      truncated: false,
    });
  });
});

describe('a status page', () => {
  const pageOf = async (org: string) =>
    JSON.parse(
      (await database.sql<{ page: string | null }[]>`select api.get_status_page(${org}, ${now}) as page`)[0]!
        .page ?? 'null',
    );

  test('is none until the org has one, and has then the services that it chose, in their order, and nothing else', async () => {
    const id = await orgOf('shown');
    await serviceOf(id, 'public', 'healthy', 10);
    await serviceOf(id, 'also', 'degraded', 10);
    await serviceOf(id, 'secret', 'unhealthy', 10);
    expect(await pageOf('shown')).toBeNull();
    expect(await pageOf('no such org')).toBeNull();
    const change = (status_page: object | null) =>
      database.sql`select api.change_org(${id}, ${JSON.stringify({ status_page })}::text::jsonb, 'me')`;
    await change({ title: 'Ours', service_names: ['also', 'public', 'never was'] });
    await database.sql`
      insert into obs.probe_1d select '2026-11-20T00:00:00Z', s.id, 9, 0, 1, 1000, 100, 1, 1 from obs.service s where s.org_id = ${id} and s.name = 'public'`;
    const page = await pageOf('shown');
    expect(page).toMatchObject({ title: 'Ours', status: 'degraded' });
    expect(page.services).toEqual([
      {
        service_name: 'also',
        description: null,
        current_status: 'degraded',
        uptime_percentage: null,
        days: [],
      },
      {
        service_name: 'public',
        description: null,
        current_status: 'healthy',
        uptime_percentage: 90,
        days: [{ day: '2026-11-20', uptime_percentage: 90 }],
      },
    ]);
    expect(JSON.stringify(page)).not.toMatch(/secret|x\.test/);
    await change(null);
    expect(await pageOf('shown')).toBeNull();
  });
});

describe('a timeline', () => {
  test('is by the hour for a day and a week, by the day for 90', async () => {
    const id = await orgOf('timeline');
    await serviceOf(id, 'a', 'healthy', 1);
    const rows: [string, string, number, number, number][] = [
      ['probe_1h', '2026-11-20T12:00:00Z', 2, 0, 0],
      ['probe_1h', '2026-11-19T13:00:00Z', 1, 0, 1],
      ['probe_1h', '2026-11-19T12:00:00Z', 0, 0, 2],
      ['probe_1d', '2026-11-20T00:00:00Z', 0, 0, 2],
      ['probe_1d', '2026-08-23T00:00:00Z', 2, 0, 0],
      ['probe_1d', '2026-08-22T00:00:00Z', 2, 0, 0],
    ];
    for (const [table, bucket, up, degraded, down] of rows)
      await database.sql`
        insert into ${database.sql(`obs.${table}`)} select ${bucket}::timestamptz, s.id, ${up}, ${degraded}, ${down}, 60, ${30 * down}, ${10 * up}, 10 from obs.service s where s.org_id = ${id}`;
    const of = async (period: string) => {
      const [row] = await database.sql<
        { body: string }[]
      >`select api.get_timeline(${id}, 'a', ${period}, ${now}) as body`;
      return JSON.parse(row!.body).buckets.map((b: { time: string; status: string }) => [b.time, b.status]);
    };
    expect(await of('24h')).toEqual([
      ['2026-11-19T13:00:00.000Z', 'degraded'],
      ['2026-11-20T12:00:00.000Z', 'healthy'],
    ]);
    expect(await of('7d')).toHaveLength(3);
    expect(await of('90d')).toEqual([
      ['2026-08-23T00:00:00.000Z', 'healthy'],
      ['2026-11-20T00:00:00.000Z', 'unhealthy'],
    ]);
    const [none] = await database.sql`select api.get_timeline(${id}, 'b', '24h', ${now}) as body`;
    expect(none!.body).toBeNull();
  });
});
