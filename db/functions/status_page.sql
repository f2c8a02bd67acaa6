create function api.get_status_page(_external_id text, _now timestamptz default now())
returns text
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _org_id int;
  _page jsonb;
  _day constant timestamptz := public.time_bucket(interval '1 day', _now);
begin
  perform set_config('obs.org_external_id', _external_id, true);
  select o.id, o.settings -> 'status_page' into _org_id, _page
  from obs.org o
  where o.external_id = _external_id and o.erasing_since is null;
  if _page is null then
    return null;
  end if;
  perform set_config('obs.org_id', _org_id::text, true);
  return (
    with chosen as materialized (
      select n.position, s.id, s.name, s.description, lib.current_status(s, t, _now) as status
      from jsonb_array_elements_text(_page -> 'service_names') with ordinality as n (name, position)
      join obs.service s on s.org_id = _org_id and s.name = n.name
      join obs.service_state t on t.service_id = s.id
    ),
    day as (
      select p.service_id,
        sum(p.observed_seconds) as observed_seconds,
        sum(p.down_seconds) as down_seconds,
        json_agg(json_build_object(
          'day', to_char(p.bucket at time zone 'UTC', 'YYYY-MM-DD'),
          'uptime_percentage', lib.uptime_percentage(p.observed_seconds, p.down_seconds)
        ) order by p.bucket) as days
      from obs.probe_1d p
      where p.service_id = any (array(select c.id from chosen c))
        and p.bucket >= greatest(_day - interval '89 days', lib.org_kept_from(_org_id)) and p.bucket <= _day
      group by p.service_id
    )
    select json_build_object(
      'title', _page ->> 'title',
      'updated_at', lib.rfc3339(_now),
      'status', case
        when bool_or(c.status = 'unhealthy') then 'unhealthy'
        when bool_or(c.status = 'degraded') then 'degraded'
        when bool_and(c.status = 'healthy') then 'healthy'
        else 'unknown'
      end,
      'services', coalesce(json_agg(json_build_object(
        'service_name', c.name,
        'description', c.description,
        'current_status', c.status,
        'uptime_percentage', lib.uptime_percentage(d.observed_seconds, d.down_seconds),
        'days', coalesce(d.days, '[]')
      ) order by c.position), '[]')
    )
    from chosen c
    left join day d on d.service_id = c.id
  );
end
$$;
comment on function api.get_status_page is
  'What an org shows to everybody, as JSON text: of the services that it chose (settings: status_page), how each is, its description, and its uptime of today (UTC) and the 89 days before. Null where the '
  'org has no status page, is being erased, or is none. Says nothing of addresses, errors, or other services.';
