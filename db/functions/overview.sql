create function lib.add_up_day(_org_id int, _now timestamptz)
returns table (service_id int, observed_seconds float8, down_seconds float8)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _from constant timestamptz := greatest(public.time_bucket(interval '1 hour', _now) - interval '23 hours', lib.org_kept_from(_org_id));
  _service_ids constant int[] := array(select s.id from obs.service s where s.org_id = _org_id);
begin
  return query
  select p.service_id, sum(p.observed_seconds), sum(p.down_seconds)
  from obs.probe_1h p
  where p.bucket >= _from and p.bucket <= _now and p.service_id = any (_service_ids)
  group by p.service_id;
end
$$;
comment on function lib.add_up_day is
  'For lib.uptime_percentage: what the probes of an org''s services observed in the running hour and the 23 before; no row for one without probes.';

create function lib.day_of_services(_org_id int, _now timestamptz)
returns table (service_id int, observed_seconds float8, down_seconds float8)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select d.service_id, d.observed_seconds, d.down_seconds
  from obs.uptime_24h u
  cross join unnest(u.service_ids, u.observed_seconds, u.down_seconds) as d (service_id, observed_seconds, down_seconds)
  where u.org_id = _org_id and u.added_up_at > _now - interval '3 minutes' and u.added_up_at <= _now;
  if not found then
    return query select * from lib.add_up_day(_org_id, _now);
  end if;
end
$$;
comment on function lib.day_of_services is
  'lib.add_up_day as the worker keeps it, anew each minute; added up as it is asked for where none has for three.';

create function lib.list_statuses(_org_id int, _now timestamptz)
returns table (service_id int, name text, status text, reason text, response_time_ms float8, last_check_at timestamptz, is_flapping boolean, is_paused boolean)
language sql
stable
as $$
  select s.id, s.name, lib.current_status(s, t, _now), lib.current_reason(s, t, _now), t.response_time_ms, t.last_check_at, t.is_flapping, t.is_paused
  from obs.service s
  join obs.service_state t on t.service_id = s.id
  where s.org_id = _org_id
$$;
comment on function lib.list_statuses is 'How each service of an org is.';

create function lib.count_services(
  _org_id int,
  _now timestamptz,
  out total int,
  out healthy int,
  out degraded int,
  out unhealthy int,
  out response_time_ms float8
)
language sql
stable
set search_path = ''
as $$
  select count(*), count(*) filter (where s.status = 'healthy'), count(*) filter (where s.status = 'degraded'), count(*) filter (where s.status = 'unhealthy'),
    avg(s.response_time_ms) filter (where s.status in ('healthy', 'degraded'))
  from lib.list_statuses(_org_id, _now) s
$$;
comment on function lib.count_services is
  'Services of an org, in all and by status, and the average of the last response times of those that are healthy or degraded; null where none is.';

create function lib.count_open_alerts(
  _org_id int,
  out critical int,
  out warning int,
  out info int,
  out firing int,
  out acknowledged int
)
language sql
stable
set search_path = ''
as $$
  select
    count(*) filter (where a.severity = 'critical'), count(*) filter (where a.severity = 'warning'), count(*) filter (where a.severity = 'info'),
    count(*) filter (where a.status = 'firing'), count(*) filter (where a.status = 'acknowledged')
  from obs.alert a
  where a.org_id = _org_id and a.status <> 'resolved' and a.status in ('firing', 'acknowledged')
$$;
comment on function lib.count_open_alerts is 'Alerts of an org that are firing or acknowledged, by severity and by status.';

create function lib.measure_traffic(
  _org_id int,
  _now timestamptz,
  out requests_per_second float8,
  out error_percentage float8,
  out reported_response_time_ms float8
)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _from constant timestamptz := _now - interval '5 minutes';
  _series_ids int[];
  _kinds int[];
  _errors_per_second float8;
begin
  -- What one org reports must not keep the snapshots of others waiting: the series that were made last stand for all.
  -- Failures of a service are what its requests say, or else what it counts as errors.
  select array_agg(k.id), array_agg(case when k.kind = 3 and k.says_failures then 4 else k.kind end) into _series_ids, _kinds
  from (
    select s.id, s.kind, bool_or(s.kind = 2) over (partition by s.service_name) as says_failures
    from (
      select s.id, s.service_name,
        case
          when s.name = 'http_errors_total' then 3
          when coalesce(s.labels ->> 'status', s.labels ->> 'status_code', s.labels ->> 'code') ~ '^5' then 2
          else 1
        end as kind
      from obs.series s
      where s.org_id = _org_id and s.name in ('http_requests_total', 'http_errors_total')
      order by s.id desc
      limit 10000
    ) s
  ) k;
  select sum(a.value) filter (where a.group_number in (1, 2)), coalesce(sum(a.value) filter (where a.group_number in (2, 3)), 0)
  into requests_per_second, _errors_per_second
  from lib.aggregate_samples(_series_ids, _kinds, _from, _now, 'rate', null, 'UTC') a;
  -- Of figures that nothing real has, products and averages would be out of range.
  if requests_per_second >= 1e12 or _errors_per_second >= 1e12 then
    requests_per_second := null;
  elsif requests_per_second > 1e-9 then
    error_percentage := 100 * round(_errors_per_second::numeric / requests_per_second::numeric, 9);
  end if;

  _series_ids := array(
    select s.id from obs.series s where s.org_id = _org_id and s.name = 'response_time_ms' order by s.id desc limit 10000
  );
  select a.value into reported_response_time_ms
  from lib.aggregate_samples(_series_ids, array_fill(1, array[cardinality(_series_ids)]), _from, _now, 'avg', null, 'UTC') a
  where abs(a.value) < 1e12;
end
$$;
comment on function lib.measure_traffic is
  'What the services of an org report of the last five minutes: requests a second (rate of http_requests_total), how many percent of them failed '
  '(those with a label status, status_code or code of 5xx; of a service without any what it counts as http_errors_total), the average of response_time_ms; '
  'null for what none reports, and for 1e12 and more. Of more than 10,000 series the latest are read.';

create function job.list_orgs()
returns setof int
language sql
stable
security definer
set search_path = ''
as $$
  select o.id from obs.org o where o.erasing_since is null order by o.id
$$;
comment on function job.list_orgs is 'Ids of the orgs that are not being erased, in order.';

create function job.take_snapshot(_org_id int, _now timestamptz default now())
returns void
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _taken_at timestamptz;
  _snapshot obs.system_snapshot;
begin
  if not pg_try_advisory_xact_lock(hashtext('obs.take_snapshot'), _org_id) then
    return;
  end if;
  select max(s.time) into _taken_at from obs.system_snapshot s where s.org_id = _org_id and s.time > _now - interval '1 day' and s.time <= _now;
  if _taken_at >= public.time_bucket(interval '1 minute', _now) then
    return;
  end if;

  _snapshot.time := _now;
  _snapshot.org_id := _org_id;
  select s.total, s.healthy, s.degraded, s.unhealthy, s.response_time_ms
  into _snapshot.total_services, _snapshot.healthy_services, _snapshot.degraded_services, _snapshot.unhealthy_services, _snapshot.avg_response_time_ms
  from lib.count_services(_org_id, _now) s;
  if _snapshot.total_services > 0 then
    insert into obs.uptime_24h as u (org_id, added_up_at, service_ids, observed_seconds, down_seconds)
    select _org_id, _now, coalesce(array_agg(d.service_id), '{}'), coalesce(array_agg(d.observed_seconds), '{}'), coalesce(array_agg(d.down_seconds), '{}')
    from lib.add_up_day(_org_id, _now) d
    on conflict (org_id) do update
    set (added_up_at, service_ids, observed_seconds, down_seconds) = (excluded.added_up_at, excluded.service_ids, excluded.observed_seconds, excluded.down_seconds);
    select lib.uptime_percentage(sum(d.observed_seconds), sum(d.down_seconds)) into _snapshot.uptime_percentage
    from lib.day_of_services(_org_id, _now) d;
  end if;
  select a.critical, a.warning, a.info into _snapshot.critical_alerts, _snapshot.warning_alerts, _snapshot.info_alerts
  from lib.count_open_alerts(_org_id) a;
  select count(*) into _snapshot.started_alerts
  from obs.alert a
  where a.org_id = _org_id and a.started_at > coalesce(_taken_at, _now - interval '1 minute') and a.started_at <= _now
    and a.status in ('firing', 'acknowledged', 'resolved');
  select t.requests_per_second, t.error_percentage, t.reported_response_time_ms
  into _snapshot.requests_per_second, _snapshot.error_percentage, _snapshot.reported_response_time_ms
  from lib.measure_traffic(_org_id, _now) t;

  -- Of an org that has nothing there is nothing to tell.
  if _snapshot.total_services > 0 or _snapshot.started_alerts > 0 or _snapshot.requests_per_second is not null
    or _snapshot.reported_response_time_ms is not null or _snapshot.critical_alerts + _snapshot.warning_alerts + _snapshot.info_alerts > 0
  then
    insert into obs.system_snapshot select _snapshot.*;
  end if;
end
$$;
comment on function job.take_snapshot is 'Takes this minute''s snapshot of an org, and keeps lib.add_up_day of it for lib.day_of_services, unless another worker has, or the org has nothing.';

create function lib.overview_trends(_org_id int, _now timestamptz)
returns json
language plpgsql
stable
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  -- Before the query, which is planned with it: of many chunks it is to see two or three.
  _from constant timestamptz := lib.clip_start(_org_id, _now - interval '48 hours', _now);
begin
  return (
    with half as materialized (
      select s.time >= _now - interval '24 hours' as is_current,
        100 * avg(s.healthy_services::float8 / nullif(s.total_services, 0)) as healthy_percentage,
        avg(s.avg_response_time_ms) as response_time_ms,
        sum(s.started_alerts) as started_alerts,
        min(s.time) as first_time
      from obs.system_snapshot s
      where s.org_id = _org_id and s.time >= _from and s.time <= _now
      group by 1
    )
    select row_to_json(t)
    from (
      select
        coalesce(round((c.healthy_percentage - b.healthy_percentage)::numeric, 2), 0) as health_trend_percentage,
        coalesce(round((c.response_time_ms - b.response_time_ms)::numeric, 2), 0) as response_time_trend_ms,
        -- A count of less than a whole day is none to compare with.
        case when b.first_time < _now - interval '47 hours' then coalesce(c.started_alerts - b.started_alerts, 0) else 0 end as alert_trend_count,
        lib.rfc3339(b.first_time) as compared_since
      from (values (1)) as one (n)
      left join half c on c.is_current
      left join half b on not b.is_current
    ) t
  );
end
$$;
comment on function lib.overview_trends is
  'What obs.system_snapshot tells of the last 24 hours against the 24 before: change of the average share of healthy services (percentage points) and of the '
  'average response time, and how many more alerts began; 0 where there is nothing to compare, for alerts not a whole day. compared_since: the first snapshot of the 24 hours before, null for none.';

create function api.get_overview(_org_id int, _now timestamptz default now())
returns text
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return (
    select row_to_json(o)
    from (
      select
        case
          when s.unhealthy > 0 or a.critical > 0 then 'unhealthy'
          when s.degraded > 0 or a.warning > 0 then 'degraded'
          when s.healthy > 0 then 'healthy'
          else 'unknown'
        end as system_health,
        s.total as total_services,
        s.healthy as healthy_services,
        s.degraded as degraded_services,
        s.unhealthy as unhealthy_services,
        s.total - s.healthy - s.degraded - s.unhealthy as unknown_services,
        a.critical + a.warning + a.info as total_alerts,
        a.critical as critical_alerts,
        a.warning as warning_alerts,
        a.info as info_alerts,
        round(s.response_time_ms::numeric, 3) as avg_response_time_ms,
        (select lib.uptime_percentage(sum(d.observed_seconds), sum(d.down_seconds)) from lib.day_of_services(_org_id, _now) d) as uptime_percentage,
        lib.overview_trends(_org_id, _now) as trends
      from lib.count_services(_org_id, _now) s
      cross join lib.count_open_alerts(_org_id) a
    ) o
  );
end
$$;
comment on function api.get_overview is
  'How an org is, as JSON text. system_health: unhealthy with a service that is, or a critical alert firing or acknowledged; else degraded with a service that is, or a warning; '
  'healthy; unknown where no probe says anything. Alerts are those that are firing or acknowledged. uptime_percentage: of the last 24 hours, lib.day_of_services. trends: lib.overview_trends.';

create function lib.resource_utilization(_org_id int, _now timestamptz)
returns json
language plpgsql
stable
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
begin
  return (
    with series as materialized (
      select s.id, s.name, coalesce(s.labels ->> 'host', s.labels ->> 'instance', s.service_name, '') as host
      from obs.series s
      where s.org_id = _org_id and s.name in ('cpu_usage', 'memory_usage', 'disk_usage')
      order by s.id desc
      limit 3001
    ),
    latest as materialized (
      select s.host, s.name, m.value, m.time
      from (select * from series order by id desc limit 3000) s
      cross join lateral (
        select m.time, m.value
        from obs.sample m
        where m.series_id = s.id and m.time > _now - interval '10 minutes' and m.time <= _now + interval '1 minute'
        order by m.time desc
        limit 1
      ) as m
      -- No percentage: NaN, say, or what an average could not take.
      where abs(m.value) < 1e6
    ),
    by_host as (
      select l.host,
        avg(l.value) filter (where l.name = 'cpu_usage') as cpu_usage,
        avg(l.value) filter (where l.name = 'memory_usage') as memory_usage,
        avg(l.value) filter (where l.name = 'disk_usage') as disk_usage,
        max(l.time) as time
      from latest l
      group by l.host
    ),
    shown as (
      select h.*
      from by_host h
      order by greatest(h.cpu_usage, h.memory_usage, h.disk_usage) desc nulls last, h.host
      limit 100
    )
    select json_build_object(
      'cpu_usage', (select json_build_object('avg', round(avg(h.cpu_usage)::numeric, 2), 'max', round(max(h.cpu_usage)::numeric, 2)) from by_host h),
      'memory_usage', (select json_build_object('avg', round(avg(h.memory_usage)::numeric, 2), 'max', round(max(h.memory_usage)::numeric, 2)) from by_host h),
      'disk_usage', (select json_build_object('avg', round(avg(h.disk_usage)::numeric, 2), 'max', round(max(h.disk_usage)::numeric, 2)) from by_host h),
      'total_hosts', (select count(*) from by_host),
      'hosts', (
        select coalesce(json_agg(json_build_object(
          'host', s.host,
          'cpu_usage', round(s.cpu_usage::numeric, 2),
          'memory_usage', round(s.memory_usage::numeric, 2),
          'disk_usage', round(s.disk_usage::numeric, 2),
          'time', lib.rfc3339(s.time)
        ) order by greatest(s.cpu_usage, s.memory_usage, s.disk_usage) desc nulls last, s.host), '[]')
        from shown s
      ),
      'truncated', (select count(*) > 3000 from series) or (select count(*) > 100 from by_host)
    )
  );
end
$$;
comment on function lib.resource_utilization is
  'The latest cpu_usage, memory_usage and disk_usage (percent) of the last ten minutes by host: the label host, or instance, or else the service. avg and max are over hosts; '
  'the 100 hosts with the most of any are listed. truncated: there are more, or more than 3,000 series, of which the latest are read.';

create function lib.performance_trends(_org_id int, _now timestamptz)
returns json
language plpgsql
stable
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  -- Before the query, which is planned with it: of many chunks it is to see two or three.
  _from constant timestamptz := lib.clip_start(_org_id, _now - interval '24 hours', _now);
begin
  return (
    select json_build_object(
      'bucket_seconds', 600,
      'times', coalesce(json_agg((extract(epoch from b.bucket) * 1000)::bigint order by b.bucket), '[]'),
      'healthy_percentage', coalesce(json_agg(round(b.healthy_percentage::numeric, 2) order by b.bucket), '[]'),
      'avg_response_time_ms', coalesce(json_agg(round(b.avg_response_time_ms::numeric, 2) order by b.bucket), '[]'),
      'open_alerts', coalesce(json_agg(b.open_alerts order by b.bucket), '[]'),
      'requests_per_second', coalesce(json_agg(round(b.requests_per_second::numeric, 3) order by b.bucket), '[]'),
      'error_percentage', coalesce(json_agg(round(b.error_percentage::numeric, 3) order by b.bucket), '[]'),
      'reported_response_time_ms', coalesce(json_agg(round(b.reported_response_time_ms::numeric, 2) order by b.bucket), '[]')
    )
    from (
      select public.time_bucket(interval '10 minutes', s.time) as bucket,
        100 * avg(s.healthy_services::float8 / nullif(s.total_services, 0)) as healthy_percentage,
        avg(s.avg_response_time_ms) as avg_response_time_ms,
        max(s.critical_alerts + s.warning_alerts + s.info_alerts) as open_alerts,
        avg(s.requests_per_second) as requests_per_second,
        avg(s.error_percentage) as error_percentage,
        avg(s.reported_response_time_ms) as reported_response_time_ms
      from obs.system_snapshot s
      where s.org_id = _org_id and s.time >= _from and s.time <= _now
      group by 1
    ) as b
  );
end
$$;
comment on function lib.performance_trends is
  'The last 24 hours of obs.system_snapshot in steps of ten minutes, as columns: times in epoch milliseconds, averages, and the most open alerts of a step; null for what was not known.';

create function api.get_dashboard(_org_id int, _now timestamptz default now())
returns text
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return concat(
    '{"status_grid":[',
    (
      select string_agg(
        concat(
          '{"service_name":', to_json(s.name), ',"current_status":"', s.status,
          '","reason":', coalesce(to_json(s.reason)::text, 'null'),
          ',"last_check":', coalesce('"' || lib.rfc3339(s.last_check_at) || '"', 'null'),
          ',"response_time_ms":', lib.json_number(s.response_time_ms),
          ',"uptime_percentage":', lib.json_number(lib.uptime_percentage(d.observed_seconds, d.down_seconds)),
          ',"is_flapping":', s.is_flapping::text, ',"paused":', s.is_paused::text, '}'
        ),
        ',' order by array_position(array['unhealthy', 'degraded', 'unknown', 'healthy'], s.status), s.name
      )
      from lib.list_statuses(_org_id, _now) s
      left join lib.day_of_services(_org_id, _now) d on d.service_id = s.service_id
    ),
    '],"performance_trends":', lib.performance_trends(_org_id, _now),
    ',"alert_summary":',
    (
      select json_build_object(
        'critical', c.critical, 'warning', c.warning, 'info', c.info, 'firing', c.firing, 'acknowledged', c.acknowledged,
        'resolved', (
          select count(*) from obs.alert a
          where a.org_id = _org_id and a.started_at >= _now - interval '24 hours' and a.started_at <= _now and a.status = 'resolved'
        ),
        'open', (
          select coalesce(json_agg(lib.alert_fields(a, _now) order by lib.severity_rank(a.severity) desc, a.started_at desc, a.id), '[]')
          from (
            select a.*
            from obs.alert a
            where a.org_id = _org_id and a.status <> 'resolved' and a.status in ('firing', 'acknowledged')
            order by lib.severity_rank(a.severity) desc, a.started_at desc, a.id
            limit 20
          ) a
        )
      )
      from lib.count_open_alerts(_org_id) c
    ),
    ',"resource_utilization":', lib.resource_utilization(_org_id, _now),
    '}'
  );
end
$$;
comment on function api.get_dashboard is
  'What a dashboard shows of an org, as JSON text: status_grid, its services, the worst first, uptime by lib.day_of_services; lib.performance_trends; alert_summary, open alerts by severity '
  'and status, how many of the last 24 hours'' are over, and the 20 worst that are open; lib.resource_utilization.';
