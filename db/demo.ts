// Thirty days of six services, for people to look at and for benches: daily and weekly seasons, and some incidents.
import type { Sql } from '../src/db.ts';
import { rollUp } from './roll_up.ts';

/** Name, requests a second at the busiest hour, response time in ms when idle, memory in MiB. */
const services = [
  ['gateway', 40, 45, 420],
  ['auth', 12, 30, 260],
  ['billing', 4, 120, 380],
  ['memory', 8, 60, 900],
  ['registry', 6, 25, 180],
  ['data-ingestion', 25, 80, 640],
] as const;
const instances = [1, 2];
const metrics = [
  'http_requests_total',
  'http_errors_total',
  'response_time_ms',
  'cpu_usage',
  'memory_bytes',
  'active_connections',
] as const;

export interface Demo {
  samples: number;
  series: number;
  lines: number;
}

/**
 * Fills an org with a history that ends now, a sample a minute, and rolls it up. For a connection of the database's
 * owner. Null, and nothing done, where the org has such a history already.
 */
export async function fillDemo(
  sql: Sql,
  org: string,
  log: (line: string) => void = () => {},
): Promise<Demo | null> {
  const [{ id: orgId }] = (await sql`select api.ensure_org(${org}) as id`) as unknown as [{ id: number }];
  const isThere = await sql`
    select from obs.series s
    where s.org_id = ${orgId} and s.name = 'http_requests_total' and s.service_name = 'gateway'
      and exists (select from obs.sample m where m.series_id = s.id and m.time < now() - interval '1 day')`;
  if (isThere.length > 0) return null;

  let samples = 0;
  const [span] = await sql<{ start: string; end: string }[]>`
    select obs.kept_from('sample', now())::text as start, time_bucket('1 minute', now())::text as end`;
  for (const [n, [service, requestsPerSecond, idleMs, memoryMib]] of services.entries()) {
    const series = instances.flatMap((instance) =>
      metrics.map((name) => ({
        name,
        service_name: service,
        labels: { instance: `${service}-${instance}`, env: 'production' },
      })),
    );
    samples += await sql.begin(async (sql) => {
      await sql`select set_config('obs.org_id', ${String(orgId)}, true), setseed(${(n + 1) / 10}::float8)`;
      const [made] = await sql<{ ids: string }[]>`
        select lib.ensure_series(${orgId}, ${JSON.stringify(series)}::text::jsonb)::text as ids`;
      const { count } = await sql`
        with minute as (
          select i.instance, t as at, extract(epoch from t - ${span!.end}::text::timestamptz) / 86400 as day,
            -- Busiest at 14:00, and less so at weekends.
            (0.25 + 0.75 * (0.5 + 0.5 * cos(2 * pi() * (extract(epoch from t)::int8 % 86400 / 3600.0 - 14) / 24)))
              * case when extract(isodow from t) > 5 then 0.6 else 1 end as season,
            (random() + random() + random() - 1.5) * 2 as noise
          from generate_series(${span!.start}::text::timestamptz, ${span!.end}::text::timestamptz, interval '1 minute') t
          cross join unnest(${`{${instances}}`}::text::int[]) as i (instance)
        ),
        condition as (
          select m.*,
            -- A burst of requests at the registry, fifteen days ago.
            m.season * (1 + 0.08 * m.noise) * case when ${service} = 'registry' and m.day between -15 and -14.97 then 5 else 1 end as load,
            -- Two hours in which billing was slow and failed, nine days ago, and one in which auth did, three hours ago.
            (${service} = 'billing' and m.day between -9 and -8.917) or (${service} = 'auth' and m.day between -0.125 and -0.0833) as is_failing,
            -- auth has leaked memory for six days, until it was deployed again half a day ago.
            case when ${service} = 'auth' and m.day between -6 and -0.5 then (m.day + 6) * 120 else 0 end as leaked_mib,
            -- A deployment a week, which sets counters back.
            floor((m.day + 0.5) / 7) as deployment
          from minute m
          -- The gateway was down for 25 minutes, four days ago.
          where not (${service} = 'gateway' and m.day between -4 and -3.983)
        ),
        observed as (
          select c.instance, c.at, c.deployment,
            greatest(0, round(60 * ${requestsPerSecond}::float8 / ${instances.length} * c.load)) as requests,
            greatest(1, round(${idleMs}::float8 * (1 + 0.6 * c.load ^ 2) * (1 + 0.1 * c.noise) * case when c.is_failing then 6 else 1 end)) as response_time_ms,
            case when c.is_failing then 0.15 else 0.002 end * (0.5 + random()) as error_rate,
            round(2 * least(99, greatest(1, 8 + 50 * c.load + 3 * c.noise))) / 2 as cpu_usage,
            (round((${memoryMib}::float8 + c.leaked_mib + 20 * c.load) * 16) * 65536)::float8 as memory_bytes,
            greatest(0, round(150 * c.load)) as active_connections
          from condition c
        ),
        counted as (
          select o.*,
            sum(o.requests) over since_deployment as requests_total,
            sum(round(o.requests * o.error_rate)) over since_deployment as errors_total
          from observed o
          window since_deployment as (partition by o.instance, o.deployment order by o.at)
        )
        insert into obs.sample (time, series_id, value)
        select c.at, (${made!.ids}::text::int[])[(c.instance - 1) * ${metrics.length}::int + v.n], v.value
        from counted c
        cross join lateral (values
          (1, c.requests_total), (2, c.errors_total), (3, c.response_time_ms), (4, c.cpu_usage), (5, c.memory_bytes), (6, c.active_connections)
        ) as v (n, value)
        order by c.at`;
      await sql`
        insert into obs.dirty_range (org_id, starts_at, ends_at)
        values (${orgId}, ${span!.start}::text::timestamptz, ${span!.end}::text::timestamptz + interval '1 minute')`;
      return count;
    });
    log(`${service} has a history`);
  }
  await rollUp(sql);
  log('rolled up');
  let lines = 0;
  for (const [service] of services) lines += await writeLines(sql, orgId, service);
  log('and logs');
  await tellSnapshots(sql, orgId);
  await raiseAlert(sql, orgId);
  await sql`analyze obs.sample, obs.log`;
  return { samples, series: services.length * instances.length * metrics.length, lines };
}

// What the worker would have noted of these two days, for trends.
async function tellSnapshots(sql: Sql, orgId: number): Promise<void> {
  await sql`
    insert into obs.system_snapshot (
      time, org_id, total_services, healthy_services, degraded_services, unhealthy_services, critical_alerts, warning_alerts, info_alerts, started_alerts,
      requests_per_second, error_percentage, reported_response_time_ms
    )
    select t, ${orgId}::int, 0, 0, 0, 0, 0, case when t > now() - interval '175 minutes' then 1 else 0 end, 0,
      case when t > now() - interval '175 minutes' and t <= now() - interval '165 minutes' then 1 else 0 end,
      m.requests_per_second, m.error_percentage, m.reported_response_time_ms
    from generate_series(now() - interval '48 hours', now() - interval '10 minutes', interval '10 minutes') t
    cross join lateral lib.measure_traffic(${orgId}::int, t) m`;
}

// Of auth being slow three hours ago, and nobody has said that they look at it.
async function raiseAlert(sql: Sql, orgId: number): Promise<void> {
  await sql.begin(async (sql) => {
    const [made] = await sql<{ id: string }[]>`
      select alert ->> 'id' as id
      from api.create_alert(
        ${orgId}::int, 'Logins are slow', 'warning', 'auth answered slowly, and failed in part, for an hour', 'auth', '{"env": "production"}', '{}', null,
        'demo'
      )`;
    await sql`update obs.alert set started_at = now() - interval '175 minutes' where id = ${made!.id}`;
    await sql`update obs.alert_event set at = now() - interval '175 minutes' where alert_id = ${made!.id}`;
  });
}

// A line every half minute, or of a failing service more, for as long as lines are kept.
async function writeLines(sql: Sql, orgId: number, service: string): Promise<number> {
  const [{ count }] = await sql<[{ count: number }]>`
    with moment as (
      select t as at, random() as r, (random() * 1e5)::int as n, (random() * 400)::int + 5 as ms,
        -- The others cannot reach the gateway while it is down, for 25 minutes four days ago.
        extract(epoch from t - now()) / 86400 between -4 and -3.983 as is_cut_off,
        ${service}::text = 'auth' and extract(epoch from t - now()) / 86400 between -0.125 and -0.0833 as is_slow
      from generate_series(now() - (select keep from obs.retention where table_name = 'log') + interval '1 hour', now(), interval '30 seconds') t
      where not (${service}::text = 'gateway' and extract(epoch from t - now()) / 86400 between -4 and -3.983)
    ),
    said as (
      select m.at, m.n, m.ms,
        case
          when m.is_cut_off or m.r < 0.01 or (m.is_slow and m.r < 0.2) then 'error' when m.r < 0.05 or m.is_slow then 'warn' when m.r < 0.2 then 'debug' else 'info'
        end::obs.log_level as level,
        case
          when m.is_cut_off then format('request %s to gateway.internal:8443 failed: connection refused, giving up after 3 attempts', m.n)
          when m.is_slow and m.r < 0.2 then format('login of user %s failed: no connection to the database within 3000 ms', m.n)
          when m.is_slow then format('login of user %s took %s ms: waiting for a connection to the database, pool of 10 exhausted', m.n, m.ms * 12)
          when m.r < 0.01 then format('request %s failed: timeout after 3000 ms waiting for the database', m.n)
          when m.r < 0.05 then format('slow query took %s ms: select * from account where id = %s', m.ms * 10, m.n)
          when m.r < 0.2 then format('cache miss for account:%s', m.n)
          else format('GET /api/v1/%s/%s completed with status 200 in %s ms', ${service}::text, m.n, m.ms)
        end as message
      from moment m
    ),
    stream as (
      select l.level, (api.ensure_log_streams(${orgId}::int, array[${service}::text], array[l.level::text]))[1] as id
      from (select distinct level from said) as l
    ),
    block as (
      select first_id from api.reserve_log_ids()
    ),
    line as (
      insert into obs.log (time, received_at, id, log_stream_id, message, metadata, trace_id)
      select s.at, s.at, b.first_id + row_number() over (order by s.at), t.id, s.message,
        jsonb_build_object('user_id', s.n, 'duration_ms', s.ms, 'instance', ${service}::text || '-' || (1 + s.n % 2)),
        md5(s.n::text || s.at)
      from said s
      join stream t on t.level = s.level
      cross join block b
      order by s.at
      returning time, log_stream_id
    ),
    counted as (
      insert into obs.log_1m as c (bucket, log_stream_id, line_count)
      select date_trunc('minute', l.time), l.log_stream_id, count(*) from line l group by 1, 2
      on conflict (log_stream_id, bucket) do update set line_count = c.line_count + excluded.line_count
    )
    select count(*)::int as count from line`;
  return count;
}
