create function lib.default_service(_kind text, _check_interval_seconds int)
returns obs.service
language sql
immutable
set search_path = ''
as $$
  select jsonb_populate_record(null::obs.service, jsonb_build_object(
    'kind', _kind,
    'method', 'GET',
    'headers', jsonb_build_object(),
    'expected_status', array['2xx'],
    'max_redirects', 5,
    'tls_verify', true,
    'tls_expiry_days', 14,
    'check_interval_seconds', _check_interval_seconds,
    'timeout_seconds', least(10, _check_interval_seconds),
    'failure_threshold', 3,
    'success_threshold', 1,
    'alert_on_failure', true,
    'alert_severity', 'critical',
    'tags', array[]::text[],
    'depends_on', array[]::text[]
  ))
$$;
comment on function lib.default_service is 'What a service has where its registration does not say.';

create function lib.check_service(_service obs.service, _path text)
returns void
language plpgsql
immutable
set search_path = ''
as $$
declare
  _default constant obs.service := lib.default_service(_service.kind, _service.check_interval_seconds);
  _field text;
  _message text;
begin
  select f.field, f.message
  into _field, _message
  from (values
    (
      'health_endpoint',
      case when _service.kind is distinct from 'heartbeat' and _service.health_endpoint is null then 'is required, unless kind is heartbeat' end
    ),
    (
      'timeout_seconds',
      case
        when _service.kind <> 'heartbeat' and _service.timeout_seconds > _service.check_interval_seconds
          then format('must not be longer than check_interval_seconds, %s', _service.check_interval_seconds)
      end
    ),
    ('depends_on', case when _service.name = any (_service.depends_on) then 'names the service itself' end),
    ('expected_body', case when _service.kind <> 'http' and _service.expected_body is not null then 'is for http alone' end),
    ('request_body', case when _service.kind <> 'http' and _service.request_body is not null then 'is for http alone' end),
    ('headers', case when _service.kind <> 'http' and _service.headers <> '{}' then 'is for http alone' end),
    ('method', case when _service.kind <> 'http' and _service.method <> 'GET' then 'is for http alone' end),
    (
      'expected_status',
      case when _service.kind <> 'http' and _service.expected_status <> _default.expected_status then 'is for http alone' end
    ),
    (
      'request_body',
      case when _service.method in ('GET', 'HEAD') and _service.request_body is not null then format('cannot go with %s', _service.method) end
    ),
    (
      'expected_body',
      case when _service.method = 'HEAD' and _service.expected_body is not null then 'cannot go with HEAD, whose answer has no body' end
    )
  ) as f (field, message)
  where f.message is not null
  limit 1;
  if found then
    raise exception '%', _message using errcode = 'PT400', hint = 'invalid_request', column = _path || _field;
  end if;
end
$$;
comment on function lib.check_service is
  'Raises PT400 for fields that do not go together; the error''s column is the one that is wrong, after _path.';

create function lib.make_room(_org_id int, _names text[])
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  _limit int;
  _count int;
  _new_names text[];
  _series_ids int[];
begin
  -- The org's row is the lock under which its services are made, so that the count is exact.
  select lib.limit_of(o, 'services') into _limit from obs.org o where o.id = _org_id for no key update;
  -- In one order everywhere: the services, by name, and then their states, by id.
  perform 1 from obs.service s where s.org_id = _org_id and s.name = any (_names) order by s.name for update;
  perform 1
  from obs.service_state t
  where t.service_id in (select s.id from obs.service s where s.org_id = _org_id and s.name = any (_names))
  order by t.service_id
  for update;

  _new_names := array(
    select n from unnest(_names) as n where not exists (select from obs.service s where s.org_id = _org_id and s.name = n)
  );
  if cardinality(_new_names) = 0 then
    return jsonb_build_object();
  end if;
  select count(*) into _count from obs.service where org_id = _org_id;
  if _count + cardinality(_new_names) > _limit then
    raise exception 'the org has % of at most % services, and this request would add %', _count, _limit, cardinality(_new_names)
      using errcode = 'PT422', hint = 'service_limit';
  end if;
  _series_ids := lib.ensure_series(_org_id, (
    select jsonb_agg(jsonb_build_object('name', m.name, 'service_name', n.name) order by n.i, m.i)
    from unnest(_new_names) with ordinality as n (name, i)
    cross join (values ('probe_up', 1), ('probe_duration_ms', 2)) as m (name, i)
  ));
  return (
    select jsonb_object_agg(n.name, jsonb_build_array(_series_ids[2 * n.i - 1], _series_ids[2 * n.i]))
    from unnest(_new_names) with ordinality as n (name, i)
  );
end
$$;
comment on function lib.make_room is
  'Locks services by their names, to be put, and makes the series (probe_up, probe_duration_ms) of those that do not exist yet: their ids by name. '
  'Raises PT422 when the org would pass its limit of services or of series.';

create function lib.put_service(
  _org_id int,
  _name text,
  _definition jsonb,
  _series jsonb,
  _path text,
  _run_at timestamptz,
  _actor text,
  _request jsonb,
  out service_id int,
  out outcome text,
  out is_scheduled boolean
)
language plpgsql
volatile
set search_path = ''
as $$
declare
  _service obs.service;
  _before obs.service;
  _default obs.service;
begin
  select * into _service from obs.service where org_id = _org_id and name = _name;
  _before := _service;
  is_scheduled := false;

  if _service.id is null then
    _service := lib.default_service(_definition ->> 'kind', coalesce((_definition ->> 'check_interval_seconds')::int, 30));
    _service.org_id := _org_id;
    _service.name := _name;
  elsif _definition ->> 'kind' <> _service.kind then
    -- What http alone can be asked for does not carry over.
    _default := lib.default_service(_definition ->> 'kind', _service.check_interval_seconds);
    _service.method := _default.method;
    _service.headers := _default.headers;
    _service.request_body := null;
    _service.expected_status := _default.expected_status;
    _service.expected_body := null;
  end if;
  _service := jsonb_populate_record(_service, _definition);
  if not _definition ? 'timeout_seconds' and _service.kind <> 'heartbeat' then
    _service.timeout_seconds := least(_service.timeout_seconds, _service.check_interval_seconds);
  end if;
  perform lib.check_service(_service, _path);

  if _before.id is null then
    _service.up_series_id := (_series -> _name ->> 0)::int;
    _service.duration_series_id := (_series -> _name ->> 1)::int;
    _service.id := nextval(pg_get_serial_sequence('obs.service', 'id'));
    _service.created_at := now();
    _service.updated_at := now();
    insert into obs.service overriding system value select _service.*;
    insert into obs.service_state (service_id, org_id, status_since, watched_since, next_check_at)
    values (_service.id, _org_id, now(), now(), _run_at);
    is_scheduled := true;
    outcome := 'created';
  elsif _service is distinct from _before then
    update obs.service
    set
      kind = _service.kind,
      health_endpoint = _service.health_endpoint,
      description = _service.description,
      method = _service.method,
      headers = _service.headers,
      request_body = _service.request_body,
      expected_status = _service.expected_status,
      expected_body = _service.expected_body,
      max_redirects = _service.max_redirects,
      tls_verify = _service.tls_verify,
      tls_expiry_days = _service.tls_expiry_days,
      degraded_above_ms = _service.degraded_above_ms,
      check_interval_seconds = _service.check_interval_seconds,
      timeout_seconds = _service.timeout_seconds,
      failure_threshold = _service.failure_threshold,
      success_threshold = _service.success_threshold,
      alert_on_failure = _service.alert_on_failure,
      alert_severity = _service.alert_severity,
      tags = _service.tags,
      depends_on = _service.depends_on,
      sla_target_percent = _service.sla_target_percent,
      updated_at = now()
    where id = _service.id;
    if _service.kind <> _before.kind then
      update obs.service_state t
      set watched_since = now(), last_heartbeat_at = null, tls_expires_at = null
      where t.service_id = _service.id;
    end if;
    if _before.alert_on_failure and not _service.alert_on_failure then
      perform lib.resolve_alert(_org_id, lib.alert_of_service(_service), _actor, 'alert_on_failure was turned off', now());
    end if;
    -- What is asked of it is another thing now: that is tried at once.
    if lib.probe_definition(_service) <> lib.probe_definition(_before) then
      update obs.service_state t set next_check_at = _run_at where t.service_id = _service.id and not t.is_paused;
      is_scheduled := found;
    end if;
    outcome := 'updated';
  else
    outcome := 'unchanged';
  end if;
  if outcome <> 'unchanged' then
    perform lib.audit(
      _org_id, _actor, _request, case outcome when 'created' then 'service.create' else 'service.update' end, 'service', _name,
      lib.audited_service(_before), lib.audited_service(_service)
    );
  end if;
  service_id := _service.id;
end
$$;
comment on function lib.put_service is
  'Registers a service, or changes the one of that name: fields that are not in _definition stay as they are, or get their default. '
  'outcome: created, updated or unchanged. _series: of lib.make_room, which has locked it. is_scheduled: to be probed at _run_at, of which '
  'the caller sees to the job. Raises PT400, see lib.check_service.';

create function lib.probe_definition(_service obs.service)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select to_jsonb(_service) - array[
    'description', 'tags', 'depends_on', 'sla_target_percent', 'alert_on_failure', 'alert_severity', 'failure_threshold',
    'success_threshold', 'updated_at'
  ]
$$;
comment on function lib.probe_definition is 'What of a service its probes depend on.';

create function lib.service_definition(_service obs.service)
returns json
language sql
immutable
set search_path = ''
as $$
  select json_build_object(
    'service_name', _service.name,
    'kind', _service.kind,
    'health_endpoint', _service.health_endpoint,
    'description', _service.description,
    'method', _service.method,
    'headers', _service.headers,
    'request_body', _service.request_body,
    'expected_status', _service.expected_status,
    'expected_body', _service.expected_body,
    'max_redirects', _service.max_redirects,
    'tls_verify', _service.tls_verify,
    'tls_expiry_days', _service.tls_expiry_days,
    'degraded_above_ms', _service.degraded_above_ms,
    'check_interval_seconds', _service.check_interval_seconds,
    'timeout_seconds', _service.timeout_seconds,
    'failure_threshold', _service.failure_threshold,
    'success_threshold', _service.success_threshold,
    'alert_on_failure', _service.alert_on_failure,
    'alert_severity', _service.alert_severity,
    'tags', _service.tags,
    'depends_on', _service.depends_on,
    'sla_target_percent', _service.sla_target_percent
  )
$$;
comment on function lib.service_definition is 'A service as it is registered, exported and imported.';

create function lib.audited_service(_service obs.service)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select lib.service_definition(_service)::jsonb || jsonb_build_object(
    'health_endpoint', regexp_replace(_service.health_endpoint, '\?.*$', '?***'),
    'headers', (select coalesce(jsonb_object_agg(h.key, '***'), '{}') from jsonb_each(_service.headers) as h),
    'request_body', case when _service.request_body is not null then '***' end
  )
  where _service.id is not null
$$;
comment on function lib.audited_service is 'A service as the audit log shows it, without what may hold secrets; null for none.';

create function lib.is_stale(_service obs.service, _state obs.service_state, _now timestamptz)
returns boolean
language sql
stable
as $$
  select not _state.is_paused and (
    _state.next_check_at < _now - interval '1 minute'
    or greatest(_state.last_slot, _state.watched_since) < _now - make_interval(secs => 60 + 2 * _service.check_interval_seconds)
  )
$$;
comment on function lib.is_stale is
  'Whether no worker has probed a service for so long that what was found before says little: its probe has been due for a minute, or '
  'slots were skipped.';

create function lib.current_status(_service obs.service, _state obs.service_state, _now timestamptz)
returns text
language sql
stable
as $$
  select case when lib.is_stale(_service, _state, _now) then 'unknown' else _state.status end
$$;
comment on function lib.current_status is 'A service''s status; unknown when that is stale (lib.is_stale).';

create function lib.current_reason(_service obs.service, _state obs.service_state, _now timestamptz)
returns text
language sql
stable
as $$
  select case
    when lib.is_stale(_service, _state, _now)
      then 'no worker has probed it since ' || lib.rfc3339(coalesce(_state.last_check_at, _state.watched_since))
    else _state.reason
  end
$$;
comment on function lib.current_reason is 'Why a service has its lib.current_status, or what its last probe found wrong; null when all is well.';

create function lib.service_state_fields(_service obs.service, _state obs.service_state)
returns json
language sql
stable
set search_path = ''
as $$
  select json_build_object(
    'current_status', lib.current_status(_service, _state, now()),
    'status_since', lib.rfc3339(_state.status_since),
    'reason', lib.current_reason(_service, _state, now()),
    'is_flapping', _state.is_flapping,
    'paused', _state.is_paused,
    'paused_until', lib.rfc3339(_state.paused_until),
    'last_check', lib.rfc3339(_state.last_check_at),
    'next_check', lib.rfc3339(_state.next_check_at),
    'last_heartbeat', lib.rfc3339(_state.last_heartbeat_at),
    'response_time_ms', _state.response_time_ms,
    'status_code', _state.status_code,
    'tls_expires_at', lib.rfc3339(_state.tls_expires_at),
    'consecutive_failures', _state.consecutive_failures,
    'consecutive_successes', _state.consecutive_successes,
    'created_at', lib.rfc3339(_service.created_at),
    'updated_at', lib.rfc3339(_service.updated_at)
  )
$$;
comment on function lib.service_state_fields is 'How a service is, as the API shows it.';

create function lib.uptime_percentage(_observed_seconds float8, _down_seconds float8)
returns float8
language sql
immutable
as $$
  select round(1e6 * (1 - _down_seconds / nullif(_observed_seconds, 0))) / 1e4
$$;
comment on function lib.uptime_percentage is
  'Share of the observed time that a service was up, in percent; null where nothing was observed. Time without probes (paused, no '
  'worker) is in neither.';

create function lib.put_services(_org_id int, _definitions jsonb, _path text, _delay interval, _actor text, _request jsonb)
returns table (outcome text)
language plpgsql
volatile
set search_path = ''
as $$
declare
  _series constant jsonb := lib.make_room(_org_id, array(select d ->> 'service_name' from jsonb_array_elements(_definitions) d));
  _definition record;
  _put record;
  _service_ids int[] := array[]::int[];
  _run_ats timestamptz[] := array[]::timestamptz[];
  _run_at timestamptz := now() + _delay;
begin
  for _definition in
    select d.value, d.ordinality - 1 as n from jsonb_array_elements(_definitions) with ordinality as d
  loop
    _put := lib.put_service(
      _org_id, _definition.value ->> 'service_name', _definition.value - 'service_name', _series, format(_path, _definition.n), _run_at, _actor,
      _request
    );
    if _put.is_scheduled then
      _service_ids := _service_ids || _put.service_id;
      _run_ats := _run_ats || _run_at;
      -- Many that are registered at once are not probed at once.
      _run_at := _run_at + interval '20 milliseconds';
    end if;
    return query select _put.outcome;
  end loop;
  perform queue.schedule_probes(_service_ids, array_fill(_org_id, array[cardinality(_service_ids)]), _run_ats);
end
$$;
comment on function lib.put_services is
  'lib.put_service for each of an array of definitions with their service_name, all or none; _path, with its number for %s, is where they '
  'stand in the request. The first that changed is probed after _delay, the others in turn.';

create function api.put_service(_org_id int, _name text, _definition jsonb, _actor text, _request jsonb default null)
returns text
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _pending int;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  -- Nor are many that are registered one after the other.
  select count(*) into _pending
  from obs.service_state t
  where t.org_id = _org_id and t.last_slot is null and t.next_check_at > now() - interval '10 seconds';
  return (
    select p.outcome
    from lib.put_services(
      _org_id, jsonb_build_array(_definition || jsonb_build_object('service_name', _name)), '', make_interval(secs => 0.02 * _pending), _actor,
      _request
    ) p
  );
end
$$;
comment on function api.put_service is 'lib.put_services for one service of an org: created, updated or unchanged.';

create function api.patch_service(
  _org_id int,
  _name text,
  _changes jsonb,
  _is_paused boolean,
  _paused_until timestamptz,
  _actor text,
  _request jsonb default null
)
returns boolean
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _service obs.service;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  -- In the order of lib.make_room, which would make one that is deleted meanwhile.
  perform 1 from obs.org where id = _org_id for no key update;
  perform 1 from obs.service s where s.org_id = _org_id and s.name = _name for update;
  if not found then
    return false;
  end if;
  perform lib.put_services(_org_id, jsonb_build_array(_changes || jsonb_build_object('service_name', _name)), '', interval '0', _actor, _request);
  select * into _service from obs.service s where s.org_id = _org_id and s.name = _name;
  if _is_paused then
    perform lib.pause_service(_service, _paused_until, _actor, now());
    perform lib.audit(
      _org_id, _actor, _request, 'service.pause', 'service', _name, null, jsonb_build_object('paused_until', lib.rfc3339(_paused_until))
    );
  elsif not _is_paused then
    perform lib.resume_service(_service, _actor, now());
    perform lib.audit(_org_id, _actor, _request, 'service.resume', 'service', _name, null, null);
  end if;
  return true;
end
$$;
comment on function api.patch_service is
  'Changes a service (lib.put_service) and, where _is_paused is not null, pauses or resumes it. False where there is no such service.';

create function api.has_service(_org_id int, _name text)
returns boolean
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return exists (select from obs.service s where s.org_id = _org_id and s.name = _name);
end
$$;
comment on function api.has_service is 'Whether the org has a service of that name.';

create function api.import_services(_org_id int, _definitions jsonb, _actor text, _request jsonb default null)
returns table (created int, updated int, unchanged int)
language plpgsql
volatile
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  select
    count(*) filter (where p.outcome = 'created')::int,
    count(*) filter (where p.outcome = 'updated')::int,
    count(*) filter (where p.outcome = 'unchanged')::int
  from lib.put_services(_org_id, _definitions, 'services[%s].', interval '0', _actor, _request) p;
end
$$;
comment on function api.import_services is
  'lib.put_services for a JSON array of definitions (lib.service_definition), all or none.';

create function api.export_services(_org_id int)
returns json
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return (
    select coalesce(json_agg(lib.service_definition(s) order by s.name), '[]')
    from obs.service s
    where s.org_id = _org_id
  );
end
$$;
comment on function api.export_services is 'The definitions of an org''s services, by name.';

create function api.list_services(_org_id int, _tag text, _status text, _q text, _after text, _limit int)
returns table (name text, definition json, state json)
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  select s.name, lib.service_definition(s), lib.service_state_fields(s, t)
  from obs.service s
  join obs.service_state t on t.service_id = s.id
  where s.org_id = _org_id
    and (_after is null or s.name > _after)
    and (_tag is null or _tag = any (s.tags))
    and (_status is null or lib.current_status(s, t, now()) = _status)
    and (
      _q is null
      or strpos(lower(concat_ws(' ', s.name, s.description, s.health_endpoint)), lower(_q)) > 0
    )
  order by s.name
  limit _limit;
end
$$;
comment on function api.list_services is
  'Services of an org by name, after _after, at most _limit. _q: part of the name, description or endpoint in any case.';

create function api.get_service(_org_id int, _name text, _now timestamptz default now())
returns table (definition json, state json, dependencies json, uptime json, sla json)
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _hour constant timestamptz := public.time_bucket(interval '1 hour', _now);
  _day constant timestamptz := public.time_bucket(interval '1 day', _now);
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  with service as materialized (
    select s.*::obs.service as definition from obs.service s where s.org_id = _org_id and s.name = _name
  ),
  buckets as (
    select '24h' as period, p.* from service s join obs.probe_1h p on p.service_id = (s.definition).id
    where p.bucket >= _hour - interval '23 hours'
    union all
    select '7d', p.* from service s join obs.probe_1h p on p.service_id = (s.definition).id
    where p.bucket >= _hour - interval '167 hours'
    union all
    select '30d', p.* from service s join obs.probe_1d p on p.service_id = (s.definition).id
    where p.bucket >= _day - interval '29 days'
    union all
    select '90d', p.* from service s join obs.probe_1d p on p.service_id = (s.definition).id
    where p.bucket >= _day - interval '89 days'
  ),
  periods as materialized (
    select w.period, w.n,
      coalesce(sum(b.up_count + b.degraded_count + b.down_count), 0) as checks,
      coalesce(sum(b.observed_seconds), 0) as observed_seconds,
      coalesce(sum(b.down_seconds), 0) as down_seconds,
      case when max(b.response_time_max_ms) is not null
        then round(1000 * sum(b.response_time_sum_ms) / sum(b.up_count + b.degraded_count)) / 1000
      end as avg_response_time_ms,
      max(b.response_time_max_ms) as max_response_time_ms
    from (values ('24h', 1), ('7d', 2), ('30d', 3), ('90d', 4)) as w (period, n)
    left join buckets b on b.period = w.period and b.bucket >= lib.org_kept_from(_org_id)
    group by w.period, w.n
  )
  select
    lib.service_definition(s.definition),
    lib.service_state_fields(s.definition, t),
    (
      select coalesce(json_agg(json_build_object('service_name', d.name, 'current_status', case when ds.id is not null then lib.current_status(ds, dt, now()) end) order by d.n), '[]')
      from unnest((s.definition).depends_on) with ordinality as d (name, n)
      left join obs.service ds on ds.org_id = _org_id and ds.name = d.name
      left join obs.service_state dt on dt.service_id = ds.id
    ),
    (
      select json_object_agg(p.period, json_build_object(
        'uptime_percentage', lib.uptime_percentage(p.observed_seconds, p.down_seconds),
        'checks', p.checks,
        'observed_seconds', p.observed_seconds,
        'down_seconds', p.down_seconds,
        'avg_response_time_ms', p.avg_response_time_ms,
        'max_response_time_ms', p.max_response_time_ms
      ) order by p.n)
      from periods p
    ),
    (
      select json_build_object(
        'target_percent', b.target,
        'period', '30d',
        'uptime_percentage', lib.uptime_percentage(b.observed_seconds, b.down_seconds),
        'is_met', b.down_seconds <= b.observed_seconds * (1 - b.target / 100),
        'error_budget_seconds', round(b.budget::numeric, 3),
        'error_budget_remaining_seconds', round((b.budget - b.down_seconds)::numeric, 3),
        'error_budget_remaining_percent', round((100 * (1 - b.down_seconds / b.budget))::numeric, 3)
      )
      from (
        select (s.definition).sla_target_percent as target, p.observed_seconds, p.down_seconds,
          30 * 86400 * (1 - (s.definition).sla_target_percent / 100) as budget
        from periods p
        where p.period = '30d'
      ) as b
      where b.target is not null
    )
  from service s
  join obs.service_state t on t.service_id = (s.definition).id;
end
$$;
comment on function api.get_service is
  'A service with its state; its dependencies and theirs (null: not registered); uptime and response time of the running hour and the '
  '23 or 167 before, the running day and the 29 or 89 before (UTC); and, where it has a target, its SLA. The error budget of 30 days '
  'is their length times (1 - target), and each second down is taken from it (Site Reliability Workbook, chapter 2, '
  'https://sre.google/workbook/implementing-slos/); negative once it is spent. No row where there is no such service.';

create function api.delete_service(_org_id int, _name text, _actor text, _request jsonb default null)
returns boolean
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _service obs.service;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  select * into _service from obs.service s where s.org_id = _org_id and s.name = _name for update;
  if not found then
    return false;
  end if;
  -- As a probe does: first the state, then the alert.
  perform 1 from obs.service_state t where t.service_id = _service.id for update;
  perform lib.resolve_alert(_service.org_id, lib.alert_of_service(_service), _actor, 'the service was deleted', now());
  delete from obs.service where id = _service.id;
  perform lib.audit(_org_id, _actor, _request, 'service.delete', 'service', _name, lib.audited_service(_service), null);
  return true;
end
$$;
comment on function api.delete_service is
  'Deletes a service, and resolves its alert; false where there is none. Its results stay, out of reach, until their retention ends; its '
  'metrics stay with the org''s others.';

create function lib.pause_service(_service obs.service, _until timestamptz, _actor text, _now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _before obs.service_state;
begin
  if _until <= _now then
    raise exception 'must be in the future' using errcode = 'PT400', hint = 'invalid_request', column = 'paused_until';
  end if;
  select * into _before from obs.service_state t where t.service_id = _service.id for update;
  update obs.service_state
  set
    is_paused = true,
    paused_until = _until,
    next_check_at = _until,
    is_deferred = false,
    status = 'unknown',
    status_since = case when _before.is_paused then status_since else _now end,
    reason = 'paused',
    consecutive_failures = 0,
    consecutive_successes = 0,
    outcomes = '',
    is_flapping = false
  where service_id = _service.id;
  if _until is not null then
    perform queue.schedule_probes(array[_service.id], array[_service.org_id], array[_until]);
  end if;
  if not _before.is_paused then
    perform lib.note_service(_service.id, 'paused', _before.status, 'unknown', null, _actor, _now);
    perform lib.resolve_alert(_service.org_id, lib.alert_of_service(_service), _actor, 'the service was paused', _now);
  end if;
end
$$;
comment on function lib.pause_service is
  'Pauses a service, for maintenance, until a time or (null) until it is resumed: it is not probed by itself, unknown, and its alert '
  'is resolved. Time paused is in neither uptime nor downtime. Raises PT400 for a time that has passed.';

create function lib.resume_service(_service obs.service, _actor text, _now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  update obs.service_state
  set is_paused = false, paused_until = null, reason = null, watched_since = _now, next_check_at = _now
  where service_id = _service.id and is_paused;
  if found then
    perform lib.note_service(_service.id, 'resumed', 'unknown', 'unknown', null, _actor, _now);
    perform queue.schedule_probes(array[_service.id], array[_service.org_id], array[_now]);
  end if;
end
$$;
comment on function lib.resume_service is 'Ends a service''s pause, if it is paused: it is probed at once, and unknown until then.';

create function api.request_check(_org_id int, _name text, _actor text, _request jsonb default null)
returns table (requested_at timestamptz, timeout_seconds float8)
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _service obs.service;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  select * into _service from obs.service s where s.org_id = _org_id and s.name = _name;
  if not found then
    return;
  end if;
  if _service.kind = 'heartbeat' then
    raise exception 'the service calls in by itself, it cannot be probed' using errcode = 'PT409', hint = 'heartbeat_service';
  end if;
  perform lib.audit(_org_id, _actor, _request, 'service.check', 'service', _name, null, null);
  perform queue.request_check(_service.id, _org_id);
  return query select now(), _service.timeout_seconds;
end
$$;
comment on function api.request_check is
  'Has a worker probe a service now; api.get_check has the result. No row where there is no such service, PT409 for a heartbeat service.';

create function api.get_check(_org_id int, _name text, _since timestamptz)
returns table (
  current_status text,
  "time" timestamptz,
  slot timestamptz,
  outcome text,
  response_time_ms float8,
  dns_ms float8,
  connect_ms float8,
  tls_ms float8,
  first_byte_ms float8,
  status_code int,
  reason text,
  worker text
)
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  select lib.current_status(s, t, now()), p.time, p.slot, p.outcome, p.response_time_ms, p.dns_ms, p.connect_ms, p.tls_ms, p.first_byte_ms, p.status_code,
    p.reason, p.worker
  from obs.service s
  join obs.service_state t on t.service_id = s.id
  join obs.probe_result p on p.service_id = s.id
  where s.org_id = _org_id and s.name = _name and p.time >= _since and p.slot is null
  order by p.time
  limit 1;
end
$$;
comment on function api.get_check is 'The first result of a probe that was asked for and began at _since or later, and the service''s status by now; no row until there is one.';

create function api.list_results(_org_id int, _name text, _start timestamptz, _end timestamptz, _limit int)
returns table (
  "time" timestamptz,
  slot timestamptz,
  outcome text,
  response_time_ms float8,
  dns_ms float8,
  connect_ms float8,
  tls_ms float8,
  first_byte_ms float8,
  status_code int,
  reason text,
  worker text
)
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  select p.time, p.slot, p.outcome, p.response_time_ms, p.dns_ms, p.connect_ms, p.tls_ms, p.first_byte_ms, p.status_code,
    p.reason, p.worker
  from obs.service s
  join obs.probe_result p on p.service_id = s.id
  where s.org_id = _org_id and s.name = _name
    and p.time >= lib.clip_start(_org_id, _start, _end) and p.time < _end
  order by p.time desc
  fetch first (_limit) rows with ties;
end
$$;
comment on function api.list_results is 'What the probes of a service found in [_start, _end), newest first, _limit and what else is of the last one''s time.';

create function api.list_service_events(_org_id int, _name text, _start timestamptz, _end timestamptz, _limit int)
returns table ("time" timestamptz, event text, from_status text, to_status text, reason text, actor text)
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  select e.time, e.event, e.from_status, e.to_status, e.reason, e.actor
  from obs.service s
  join obs.service_event e on e.service_id = s.id
  where s.org_id = _org_id and s.name = _name
    and e.time >= lib.clip_start(_org_id, _start, _end) and e.time < _end
  order by e.time desc
  fetch first (_limit) rows with ties;
end
$$;
comment on function api.list_service_events is 'The changes of a service in [_start, _end), newest first, _limit and what else is of the last one''s time.';

create function api.record_heartbeat(_org_id int, _name text, _outcome text, _reason text, _actor text, _now timestamptz default now())
returns boolean
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _service obs.service;
  _state obs.service_state;
  _result obs.probe_result;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  select * into _service from obs.service s where s.org_id = _org_id and s.name = _name;
  if not found then
    return false;
  end if;
  if _service.kind <> 'heartbeat' then
    raise exception 'the service is probed, it does not take heartbeats' using errcode = 'PT409', hint = 'not_a_heartbeat_service';
  end if;
  update obs.service_state t set last_heartbeat_at = _now where t.service_id = _service.id returning * into _state;
  _result.time := _now;
  _result.service_id := _service.id;
  _result.outcome := _outcome;
  _result.reason := _reason;
  perform lib.record_probe(_service, _state, _result, true, null, _actor);
  return true;
end
$$;
comment on function api.record_heartbeat is
  'A service calls in: up, degraded or down, as it says itself. False where there is no such service; raises PT409 for one that is probed.';

create function api.get_services_health(_org_id int, _has_history boolean, _now timestamptz default now())
returns text
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _from timestamptz;
  _service_ids int[];
  -- How the entry of each hour of the day begins: 24 texts instead of one for every service.
  _heads text[];
begin
  perform set_config('obs.org_id', _org_id::text, true);
  _from := greatest(public.time_bucket(interval '1 hour', _now) - interval '23 hours', lib.org_kept_from(_org_id));
  _service_ids := array(select s.id from obs.service s where s.org_id = _org_id);
  _heads := array(
    select format('{"time":"%s","status":"', lib.rfc3339(h))
    from generate_series(_from, _from + interval '23 hours', interval '1 hour') as h
    order by date_part('hour', h at time zone 'UTC')
  );
  return (
    with day as materialized (
      select p.service_id,
        sum(p.observed_seconds) as observed_seconds,
        sum(p.down_seconds) as down_seconds,
        case when _has_history then string_agg(
          _heads[1 + date_part('hour', p.bucket at time zone 'UTC')::int]
            || case
              when p.down_count + p.degraded_count = 0 then 'healthy'
              when p.up_count + p.degraded_count = 0 then 'unhealthy'
              else 'degraded'
            end
            || '","uptime_percentage":' || lib.uptime_percentage(p.observed_seconds, p.down_seconds)
            || ',"response_time_ms":'
            || case when p.response_time_max_ms is not null
              then (round(10 * p.response_time_sum_ms / (p.up_count + p.degraded_count)) / 10)::text
              else 'null'
            end
            || ',"checks":' || p.up_count + p.degraded_count + p.down_count || '}',
          ',' order by p.bucket
        ) end as history
      from obs.probe_1h p
      where p.bucket >= _from and p.bucket < _from + interval '24 hours' and p.service_id = any (_service_ids)
      group by p.service_id
    )
    -- concat, since each || would copy what may be megabytes.
    select concat(
      '{"services":{',
      string_agg(
        concat(
          to_json(s.name), ':{"current_status":"', s.status,
          '","reason":', coalesce(to_json(s.reason)::text, 'null'),
          ',"last_check":', coalesce('"' || lib.rfc3339(s.last_check_at) || '"', 'null'),
          ',"response_time_ms":', lib.json_number(s.response_time_ms),
          ',"uptime_percentage":', lib.json_number(lib.uptime_percentage(d.observed_seconds, d.down_seconds)),
          ',"is_flapping":', s.is_flapping::text, ',"paused":', s.is_paused::text,
          case when _has_history then ',"history":[' end, d.history, case when _has_history then ']' end,
          '}'
        ),
        ',' order by s.name
      ),
      '},"summary":{"total_services":', count(*),
      ',"healthy_services":', count(*) filter (where s.status = 'healthy'),
      ',"degraded_services":', count(*) filter (where s.status = 'degraded'),
      ',"unhealthy_services":', count(*) filter (where s.status = 'unhealthy'),
      ',"unknown_services":', count(*) filter (where s.status = 'unknown'),
      ',"avg_response_time_ms":',
      lib.json_number(round(1000 * avg(s.response_time_ms) filter (where s.status in ('healthy', 'degraded'))) / 1000),
      ',"uptime_percentage":', lib.json_number(lib.uptime_percentage(sum(d.observed_seconds), sum(d.down_seconds))),
      '}}'
    )
    from (
      select s.id, s.name, lib.current_status(s, t, _now) as status, lib.current_reason(s, t, _now) as reason,
        t.last_check_at, t.response_time_ms, t.is_flapping, t.is_paused
      from obs.service s
      join obs.service_state t on t.service_id = s.id
      where s.org_id = _org_id
    ) as s
    left join day d on d.service_id = s.id
  );
end
$$;
comment on function api.get_services_health is
  'How the services of an org are, as JSON text; with _has_history, each one''s running hour and the 23 before: healthy when every '
  'answer was as expected, unhealthy when none was. uptime_percentage is of that time; avg_response_time_ms of the last answer of '
  'each service that is healthy or degraded.';

create function api.get_lag(out probes float8, out rules float8, out notifications float8)
language sql
stable
security definer
set search_path = ''
as $$
  select obs.probe_lag(now()), a.rules, a.notifications from obs.alert_lag(now()) a
$$;
comment on function api.get_lag is
  'obs.probe_lag and obs.alert_lag: seconds that the most overdue probe, rule and notification of any org are late, null where there is none.';

create function api.get_timeline(_org_id int, _name text, _period text, _now timestamptz default now())
returns text
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _is_daily constant boolean := _period = '90d';
  _width constant interval := case when _is_daily then interval '1 day' else interval '1 hour' end;
  _to constant timestamptz := public.time_bucket(_width, _now) + _width;
  _from constant timestamptz := greatest(_to - _period::interval, lib.org_kept_from(_org_id));
  _service_id int;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  select s.id into _service_id from obs.service s where s.org_id = _org_id and s.name = _name;
  if not found then
    return null;
  end if;
  return (
    select json_build_object('period', _period, 'bucket_seconds', extract(epoch from _width)::int, 'buckets', coalesce(json_agg(json_build_object(
      'time', lib.rfc3339(b.bucket),
      'status', case
        when b.down_count + b.degraded_count = 0 then 'healthy'
        when b.up_count + b.degraded_count = 0 then 'unhealthy'
        else 'degraded'
      end,
      'uptime_percentage', lib.uptime_percentage(b.observed_seconds, b.down_seconds),
      'response_time_ms', round((b.response_time_sum_ms / nullif(b.up_count + b.degraded_count, 0))::numeric, 1),
      'checks', b.up_count + b.degraded_count + b.down_count
    ) order by b.bucket), '[]'))
    from (
      select p.* from obs.probe_1h p where not _is_daily and p.service_id = _service_id and p.bucket >= _from and p.bucket < _to
      union all
      select p.* from obs.probe_1d p where _is_daily and p.service_id = _service_id and p.bucket >= _from and p.bucket < _to
    ) b
  );
end
$$;
comment on function api.get_timeline is
  'How a service was, as JSON text: of _period 24h or 7d by the hour, of 90d by the day (UTC), the running one among them; healthy when every answer was as expected, '
  'unhealthy when none was; steps without probes are left out. Null where there is no such service.';
