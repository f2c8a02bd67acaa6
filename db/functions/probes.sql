create function lib.schedule_probe(
  _service obs.service,
  _state obs.service_state,
  _now timestamptz,
  out next_check_at timestamptz,
  out is_due boolean,
  out is_deferred boolean
)
language plpgsql
immutable
set search_path = ''
as $$
declare
  _interval constant interval := make_interval(secs => _service.check_interval_seconds);
  _next_slot constant timestamptz := lib.slot_start(_service.id, _service.check_interval_seconds, _now) + _interval;
begin
  is_due := _state.next_check_at <= _now;
  is_deferred := false;
  next_check_at := case when is_due then _next_slot else _state.next_check_at end;
  -- No worker was there for the last slots. When one comes back it would find every service due at once. Once only:
  -- where workers are slower than the interval, a probe that is put off again and again would never come.
  if is_due and _state.next_check_at < _now - _interval and not _state.is_deferred then
    is_due := false;
    is_deferred := true;
    next_check_at := least(_next_slot, _now + (_next_slot - _now) / extract(epoch from _interval) * 10);
  end if;
end
$$;
comment on function lib.schedule_probe is
  'Whether a service is to be probed at _now, and when next. A slot is due once: who is told that it is has to move next_check_at on. '
  'Where slots were missed the next probe comes within ten seconds (the interval, where that is shorter), spread over them.';

create function lib.observe_probe(
  _state obs.service_state,
  _outcome text,
  _failure_threshold int,
  _success_threshold int,
  _now timestamptz
)
returns obs.service_state
language plpgsql
immutable
set search_path = ''
as $$
declare
  _is_up constant boolean := _outcome in ('up', 'degraded');
  _status text := _state.status;
  _flips int;
begin
  if _outcome = 'unknown' then
    -- An alert that is open stays so: it has not been learned that the service is well again.
    if _status in ('healthy', 'degraded') then
      _status := 'unknown';
    end if;
  else
    _state.outcomes := substring(_state.outcomes || (case when _is_up then b'1' else b'0' end) from greatest(1, length(_state.outcomes) - 19));
    if _is_up then
      _state.consecutive_successes := _state.consecutive_successes + 1;
      _state.consecutive_failures := 0;
    else
      _state.consecutive_failures := _state.consecutive_failures + 1;
      _state.consecutive_successes := 0;
    end if;
    _status := case
      when not _is_up and _state.consecutive_failures >= _failure_threshold then 'unhealthy'
      when not _is_up then _status
      when _status = 'unhealthy' and _state.consecutive_successes < _success_threshold then 'unhealthy'
      when _outcome = 'degraded' then 'degraded'
      else 'healthy'
    end;
    _flips := bit_count(
      substring(_state.outcomes from 2) # substring(_state.outcomes for greatest(0, length(_state.outcomes) - 1))
    );
    _state.is_flapping := case when _flips >= 6 then true when _flips <= 2 then false else _state.is_flapping end;
  end if;
  if _status <> _state.status then
    _state.status := _status;
    _state.status_since := _now;
  end if;
  return _state;
end
$$;
comment on function lib.observe_probe is
  'How a service is after one more outcome (up, degraded, down, unknown), see obs.probe_result. down leads to unhealthy after '
  '_failure_threshold in a row; up or degraded lead out of it after _success_threshold in a row, and elsewhere at once. Flapping: 6 or '
  'more of the last 20 changes from one probe to the next were between up (or degraded) and down, until there are 2 or fewer: two '
  'thresholds, so that the mark does not flap itself (https://assets.nagios.com/downloads/nagioscore/docs/nagioscore/4/en/flapping.html).';

create function lib.was_up(_outcomes varbit)
returns boolean
language sql
immutable
as $$
  select substring(_outcomes from length(_outcomes)) = b'1'
$$;
comment on function lib.was_up is 'Whether the last of obs.service_state.outcomes was up; null when there is none.';

create function lib.assess_worker(_worker obs.probe_worker, _answered boolean, _service_ids int[], _hosts text[], _now timestamptz)
returns obs.probe_worker
language plpgsql
immutable
set search_path = ''
as $$
begin
  if _answered then
    _worker.answered_at := _now;
    _worker.failed_service_ids := '{}';
    _worker.failed_hosts := '{}';
    _worker.offline_since := null;
  elsif cardinality(_service_ids) > 0 then
    -- Bounded: as many as could turn unhealthy before it can be told, and more hosts than it takes.
    _worker.failed_service_ids := (array(select distinct unnest(_worker.failed_service_ids || _service_ids)))[:1000];
    _worker.failed_hosts := (array(select distinct unnest(_worker.failed_hosts || _hosts)))[:10];
    if cardinality(_worker.failed_service_ids) >= 3 and cardinality(_worker.failed_hosts) >= 2 then
      _worker.offline_since := coalesce(_worker.offline_since, _now);
    end if;
  end if;
  return _worker;
end
$$;
comment on function lib.assess_worker is
  'Whether a worker''s own network is down, from a batch of its results: _answered, some host other than its own answered in any '
  'way, a refusal included; else _service_ids and _hosts are those that had answered before and now could not be reached. '
  'It is offline from the third such service, on the second host, without an answer in between, to the first answer.';

create function lib.list_unhealthy_dependencies(_org_id int, _names text[])
returns text[]
language plpgsql
stable
set search_path = ''
as $$
declare
  _most constant int := 20;
  _found text[] := array[]::text[];
  _next text[];
begin
  -- Level by level and never more than so many: an org may have a graph of any shape, and others' results wait meanwhile.
  for _depth in 1..4 loop
    _next := array(
      select s.name
      from obs.service s
      join obs.service_state t on t.service_id = s.id
      where s.org_id = _org_id and s.name = any (_names) and t.status = 'unhealthy' and s.name <> all (_found)
      order by s.name
      limit _most - cardinality(_found)
    );
    _found := _found || _next;
    exit when cardinality(_next) = 0 or cardinality(_found) = _most;
    _names := array(
      select distinct d.name
      from obs.service s
      cross join unnest(s.depends_on) as d (name)
      where s.org_id = _org_id and s.name = any (_next)
    );
  end loop;
  return array(select f from unnest(_found) as f order by f);
end
$$;
comment on function lib.list_unhealthy_dependencies is
  'Which of these services are unhealthy, and which of those that they depend on in turn, four deep; 20 at the most.';

create function lib.alert_of_service(_service obs.service)
returns text
language sql
immutable
as $$
  select 'service:' || _service.id
$$;
comment on function lib.alert_of_service is 'Fingerprint of the alert that a service is unhealthy.';

create function lib.open_service_alert(_service obs.service, _state obs.service_state, _now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _dependencies constant text[] := lib.list_unhealthy_dependencies(_service.org_id, _service.depends_on);
  _dependent record;
  _alert obs.alert;
begin
  perform lib.open_alert(
    _service.org_id, 'service', lib.alert_of_service(_service), left(_service.name, 242) || ' is unhealthy', _service.alert_severity,
    format(
      '%s: %s%s', _service.name, _state.reason,
      case when cardinality(_dependencies) > 0 then '. It depends on ' || array_to_string(_dependencies, ', ') || ', unhealthy too' else '' end
    ),
    _service.name, '{}',
    jsonb_build_object(
      'reason', _state.reason, 'status_code', _state.status_code,
      -- Without its query, which may hold a secret.
      'health_endpoint', split_part(_service.health_endpoint, '?', 1),
      'consecutive_failures', _state.consecutive_failures, 'is_flapping', _state.is_flapping, 'tags', _service.tags,
      'unhealthy_dependencies', _dependencies
    ),
    'worker', _now
  );
  -- Those that need it may have been found first.
  for _dependent in
    select a.id
    from obs.service s
    join obs.alert a
      on a.org_id = s.org_id and a.fingerprint = lib.alert_of_service(s) and a.status <> 'resolved'
    where s.org_id = _service.org_id and s.depends_on @> array[_service.name]
      and s.id <> _service.id and not (a.metadata -> 'unhealthy_dependencies') ? _service.name
    order by a.id
    limit 100
  loop
    update obs.alert
    set
      metadata = jsonb_set(metadata, '{unhealthy_dependencies}', (metadata -> 'unhealthy_dependencies') || to_jsonb(_service.name)),
      description = description || format('. It depends on %s, unhealthy too', _service.name)
    where id = _dependent.id
    returning * into _alert;
    perform lib.note_alert(
      _alert, 'dependency_unhealthy', _alert.status, 'worker', null,
      jsonb_build_object('service_name', _service.name, 'reason', _state.reason), _now
    );
  end loop;
end
$$;
comment on function lib.open_service_alert is
  'Opens the alert that a service is unhealthy, or brings it up to date, and names the service in the open alerts of those that '
  'depend on it (of a hundred of them at a time).';

create function lib.note_service(
  _service_id int,
  _event text,
  _from text,
  _to text,
  _reason text,
  _actor text,
  _now timestamptz
)
returns void
language sql
volatile
set search_path = ''
as $$
  insert into obs.service_event (time, service_id, event, from_status, to_status, reason, actor)
  values (_now, _service_id, _event, _from, _to, _reason, _actor)
$$;
comment on function lib.note_service is 'Adds an event to a service''s history.';

create function lib.count_probe(_service obs.service, _state obs.service_state, _result obs.probe_result)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _is_up constant boolean := _result.outcome in ('up', 'degraded');
  -- One that began to be watched within the slot has not been for all of it.
  _seconds constant float8 := case
    when _result.slot < _state.watched_since
      then greatest(0, extract(epoch from _result.slot - _result.time) + _service.check_interval_seconds)
    else _service.check_interval_seconds
  end;
  _row obs.probe_1h;
begin
  insert into obs.sample (time, series_id, value)
  select _result.time, v.series_id, v.value
  from (values (_service.up_series_id, _is_up::int), (_service.duration_series_id, _result.response_time_ms)) as v (series_id, value)
  where v.value is not null;

  _row := row(
    public.time_bucket(interval '1 hour', _result.time), _service.id,
    (_result.outcome = 'up')::int, (_result.outcome = 'degraded')::int, (_result.outcome = 'down')::int,
    _seconds, case when _is_up then 0 else _seconds end,
    case when _is_up then coalesce(_result.response_time_ms, 0) else 0 end, case when _is_up then _result.response_time_ms end
  );
  insert into obs.probe_1h as t select _row.*
  on conflict (service_id, bucket) do update set
    up_count = t.up_count + excluded.up_count,
    degraded_count = t.degraded_count + excluded.degraded_count,
    down_count = t.down_count + excluded.down_count,
    observed_seconds = t.observed_seconds + excluded.observed_seconds,
    down_seconds = t.down_seconds + excluded.down_seconds,
    response_time_sum_ms = t.response_time_sum_ms + excluded.response_time_sum_ms,
    response_time_max_ms = greatest(t.response_time_max_ms, excluded.response_time_max_ms);

  _row.bucket := public.time_bucket(interval '1 day', _result.time);
  insert into obs.probe_1d as t select _row.*
  on conflict (service_id, bucket) do update set
    up_count = t.up_count + excluded.up_count,
    degraded_count = t.degraded_count + excluded.degraded_count,
    down_count = t.down_count + excluded.down_count,
    observed_seconds = t.observed_seconds + excluded.observed_seconds,
    down_seconds = t.down_seconds + excluded.down_seconds,
    response_time_sum_ms = t.response_time_sum_ms + excluded.response_time_sum_ms,
    response_time_max_ms = greatest(t.response_time_max_ms, excluded.response_time_max_ms);
end
$$;
comment on function lib.count_probe is
  'Adds the result of a slot to its hour and its day, and to the org''s metrics as probe_up (1, 0) and probe_duration_ms.';

create function lib.record_probe(
  _service obs.service,
  _state obs.service_state,
  _result obs.probe_result,
  _is_observed boolean,
  _tls_expires_at timestamptz,
  _actor text
)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _before constant obs.service_state := _state;
  _event text;
begin
  insert into obs.probe_result select _result.*;
  if _state.is_paused then
    return;
  end if;
  if _result.slot is not null and _result.outcome <> 'unknown' then
    perform lib.count_probe(_service, _state, _result);
  end if;
  -- One that is older than what is known already tells nothing of how the service is now.
  if not _is_observed or _result.time < _state.last_check_at then
    return;
  end if;

  _state := lib.observe_probe(
    _state, _result.outcome, _service.failure_threshold, _service.success_threshold, _result.time
  );
  _state.reason := _result.reason;
  _state.last_check_at := _result.time;
  if _result.outcome <> 'unknown' then
    -- How long it took not to get an answer is no response time.
    _state.response_time_ms := case
      when _result.outcome <> 'down' or _result.status_code is not null then _result.response_time_ms
    end;
    _state.is_doubted := _state.is_doubted and _result.outcome = 'down';
    _state.status_code := _result.status_code;
    _state.tls_expires_at := _tls_expires_at;
  end if;
  update obs.service_state
  set
    status = _state.status,
    status_since = _state.status_since,
    reason = _state.reason,
    consecutive_failures = _state.consecutive_failures,
    consecutive_successes = _state.consecutive_successes,
    outcomes = _state.outcomes,
    is_flapping = _state.is_flapping,
    last_check_at = _state.last_check_at,
    response_time_ms = _state.response_time_ms,
    status_code = _state.status_code,
    tls_expires_at = _state.tls_expires_at,
    is_doubted = _state.is_doubted
  where service_id = _service.id;

  if _state.status <> _before.status then
    perform lib.note_service(_service.id, 'status', _before.status, _state.status, _result.reason, _actor, _result.time);
  end if;
  -- Anew each so many failures: what is wrong may be another thing by now, and an alert that was resolved by hand was so too early.
  if _state.status = 'unhealthy' and _service.alert_on_failure and _result.outcome = 'down'
    and (_before.status <> 'unhealthy' or _state.consecutive_failures % _service.failure_threshold = 0)
  then
    perform lib.open_service_alert(_service, _state, _result.time);
  end if;
  if _state.is_flapping <> _before.is_flapping then
    _event := case when _state.is_flapping then 'flapping' else 'stable' end;
    perform lib.note_service(_service.id, _event, _before.status, _state.status, _result.reason, _actor, _result.time);
    perform lib.note_alert(a, _event, a.status, _actor, null, '{}', _result.time)
    from obs.alert a
    where a.id = lib.open_alert_id(_service.org_id, lib.alert_of_service(_service));
  end if;
  -- The alert of a service that flaps stays open until it does so no longer: one alert, not one each time.
  if _state.status in ('healthy', 'degraded') and not _state.is_flapping
    and (_before.status not in ('healthy', 'degraded') or _before.is_flapping)
  then
    perform lib.resolve_alert(_service.org_id, lib.alert_of_service(_service), _actor, null, _result.time);
  end if;
end
$$;
comment on function lib.record_probe is
  'Records what a probe found, with everything that follows from it, in one transaction: the result, its tiers and metrics where it '
  'was for a slot, and (_is_observed) the service''s state, its event, and its alert opened or resolved. While a service is paused '
  'only the result. _state is its row, locked.';

create function job.record_probes(_worker text, _home_org text, _results jsonb, _now timestamptz default now())
returns boolean
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _before obs.probe_worker;
  _after obs.probe_worker;
  _answered boolean;
  _failed_ids int[];
  _failed_hosts text[];
  _row record;
  _state obs.service_state;
begin
  -- What the batch says of the worker itself.
  select
    coalesce(bool_or(r.network = 'answered'), false),
    coalesce(array_agg(r.service_id) filter (where r.is_evidence), '{}'),
    coalesce(array_agg(r.host) filter (where r.is_evidence), '{}')
  into _answered, _failed_ids, _failed_hosts
  from (
    select b.service_id, b.host, b.network, b.network = 'unreachable' and lib.was_up(t.outcomes) and not t.is_doubted as is_evidence
    from jsonb_to_recordset(_results) as b (service_id int, host text, network text)
    left join obs.service_state t on t.service_id = b.service_id
  ) as r;
  select * into _before from obs.probe_worker where name = _worker;
  if not found then
    insert into obs.probe_worker (name, seen_at) values (_worker, _now) on conflict (name) do nothing;
  end if;
  -- One row, and a batch of answers many times a second: it is written when it says something new.
  if cardinality(_failed_ids) > 0 or _before.offline_since is not null
    or _answered and (_before.answered_at is null or _before.answered_at < _now - interval '1 second' or cardinality(_before.failed_service_ids) > 0)
  then
    select * into _before from obs.probe_worker where name = _worker for update;
    _after := lib.assess_worker(_before, _answered, _failed_ids, _failed_hosts, _now);
    if _after.offline_since is not null and _before.offline_since is null then
      perform lib.doubt_services(_before.failed_service_ids, _now);
    end if;
    -- Not for a moment, which an answer may be about to end.
    if _after.offline_since <= _now - interval '1 minute' or _before.is_told then
      _after.is_told := _after.offline_since is not null;
    end if;
    if _after.is_told <> _before.is_told then
      perform lib.tell_worker(_after, job.ensure_org(_home_org), _now);
    end if;
    update obs.probe_worker
    set
      seen_at = _now,
      answered_at = _after.answered_at,
      failed_service_ids = _after.failed_service_ids,
      failed_hosts = _after.failed_hosts,
      offline_since = _after.offline_since,
      is_told = _after.is_told
    where name = _worker;
  else
    _after := _before;
  end if;

  -- In one order everywhere, so that two workers with the same services wait for each other and never in a circle.
  perform 1
  from obs.service_state t
  where t.service_id in (select r.service_id from jsonb_to_recordset(_results) as r (service_id int))
  order by t.service_id
  for update;

  for _row in
    select s as service, r.tls_expires_at,
      coalesce(r.network = 'unreachable', false) and _after.offline_since is not null as is_offline,
      row(
        r.started_at, r.service_id, r.slot, r.outcome, r.response_time_ms, r.dns_ms, r.connect_ms, r.tls_ms, r.first_byte_ms,
        r.status_code, r.reason, _worker
      )::obs.probe_result as result
    from jsonb_to_recordset(_results) as r (
      service_id int, started_at timestamptz, slot timestamptz, outcome text, response_time_ms float8, dns_ms float8,
      connect_ms float8, tls_ms float8, first_byte_ms float8, status_code int, reason text, tls_expires_at timestamptz,
      network text
    )
    join obs.service s on s.id = r.service_id
    -- Org by org, so that two batches take the groups of notifications in one order.
    order by s.org_id, r.started_at
  loop
    -- A worker that does not know whether its results were committed sends them again.
    continue when exists (
      select
      from obs.probe_result p
      where p.service_id = (_row.result).service_id and p.time = (_row.result).time and p.slot is not distinct from (_row.result).slot
    );
    if _row.is_offline then
      _row.result.outcome := 'unknown';
      _row.result.reason := 'the worker has no network: ' || (_row.result).reason;
    end if;
    select * into _state from obs.service_state t where t.service_id = (_row.result).service_id;
    _state.is_doubted := _state.is_doubted or _row.is_offline;
    perform lib.record_probe(_row.service, _state, _row.result, true, _row.tls_expires_at, 'worker');
  end loop;
  return _after.offline_since is not null;
end
$$;
comment on function job.record_probes is
  'Records the results of probes, an array of {service_id, started_at, slot, outcome, response_time_ms, dns_ms, connect_ms, tls_ms, '
  'first_byte_ms, status_code, reason, tls_expires_at, host, network: answered, unreachable or null}: each once, however often it is sent. Answers '
  'whether the worker is taken to have no network (lib.assess_worker): then what it could not reach is recorded as unknown.';

create function lib.doubt_services(_service_ids int[], _now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _service obs.service;
  _state obs.service_state;
begin
  for _service in select s.* from obs.service s where s.id = any (_service_ids) order by s.id loop
    select * into _state from obs.service_state t where t.service_id = _service.id for update;
    -- Each was up when the first of its failures came: all that is after that is to be forgotten.
    continue when lib.was_up(_state.outcomes);
    update obs.service_state
    set
      is_doubted = true,
      outcomes = rtrim(outcomes::text, '0')::varbit,
      consecutive_failures = 0,
      status = 'unknown',
      status_since = _now
    where service_id = _service.id;
    if _state.status <> 'unknown' then
      perform lib.note_service(_service.id, 'status', _state.status, 'unknown', 'the worker has no network', 'worker', _now);
    end if;
    perform lib.resolve_alert(_service.org_id, lib.alert_of_service(_service), 'worker', 'the worker has no network', _now);
  end loop;
end
$$;
comment on function lib.doubt_services is
  'Takes back what was concluded of the services that failed before it could be told that it was the worker that had no network.';

create function lib.tell_worker(_worker obs.probe_worker, _org_id int, _now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _fingerprint constant text := 'worker:' || _worker.name;
begin
  if _worker.is_told then
    perform lib.open_alert(
      _org_id, 'worker', _fingerprint, left(format('Worker %s has no network', _worker.name), 255), 'critical',
      format('None of the hosts that %s probes can be reached any more. What it finds of services meanwhile is not counted.', _worker.name),
      null, '{}', jsonb_build_object('worker', _worker.name, 'offline_since', _worker.offline_since), 'worker', _now
    );
  else
    perform lib.resolve_alert(_org_id, _fingerprint, 'worker', null, _now);
  end if;
end
$$;
comment on function lib.tell_worker is 'Opens or resolves the alert that a worker has no network, in the org of the service itself.';

create function job.claim_probes(
  _service_ids int[],
  _are_requested boolean[],
  _now timestamptz default now(),
  _are_skipped boolean[] default null
)
returns table (service_id int, is_requested boolean, slot timestamptz, started_at timestamptz, definition jsonb)
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _row record;
  _state obs.service_state;
  _schedule record;
  _locked_ids int[];
  _scheduled_ids int[] := array[]::int[];
  _scheduled_org_ids int[] := array[]::int[];
  _scheduled_ats timestamptz[] := array[]::timestamptz[];
  _slot timestamptz;
begin
  -- In one order everywhere, so that two workers with the same services wait for each other and never in a circle.
  -- What is being changed just now is passed over: job.heal_probes comes back to it.
  _locked_ids := array(
    select t.service_id from obs.service_state t
    where t.service_id = any (_service_ids)
    order by t.service_id
    for update skip locked
  );

  for _row in
    select s as service, c.is_requested, coalesce(c.is_skipped, false) as is_skipped
    from unnest(_service_ids, _are_requested, _are_skipped) as c (id, is_requested, is_skipped)
    join obs.service s on s.id = c.id
    where c.is_requested or s.id = any (_locked_ids)
  loop
    if _row.is_requested then
      return query select (_row.service).id, true, null::timestamptz, _now, to_jsonb(_row.service);
      continue;
    end if;
    select * into _state from obs.service_state t where t.service_id = (_row.service).id;
    if _state.is_paused and _state.next_check_at <= _now then
      perform lib.resume_service(_row.service, 'worker', _now);
      select * into _state from obs.service_state t where t.service_id = (_row.service).id;
    end if;
    continue when _state.next_check_at is null;
    _schedule := lib.schedule_probe(_row.service, _state, _now);
    continue when _schedule.next_check_at = _state.next_check_at;
    _slot := lib.slot_start(_state.service_id, (_row.service).check_interval_seconds, _now);
    update obs.service_state t
    set
      next_check_at = _schedule.next_check_at,
      is_deferred = _schedule.is_deferred,
      last_slot = case when _schedule.is_due and not _row.is_skipped then _slot else t.last_slot end
    where t.service_id = _state.service_id;
    -- Probed within it already, before a change: observed, and not counted as a second slot.
    if _slot = _state.last_slot then
      _slot := null;
    end if;
    _scheduled_ids := _scheduled_ids || _state.service_id;
    _scheduled_org_ids := _scheduled_org_ids || _state.org_id;
    _scheduled_ats := _scheduled_ats || _schedule.next_check_at;
    continue when not _schedule.is_due;
    if (_row.service).kind = 'heartbeat' then
      perform lib.check_heartbeat(_row.service, _state, _slot, _now);
    elsif not _row.is_skipped then
      return query select _state.service_id, false, _slot, _now, to_jsonb(_row.service);
    end if;
  end loop;
  perform queue.schedule_probes(_scheduled_ids, _scheduled_org_ids, _scheduled_ats);
end
$$;
comment on function job.claim_probes is
  'Which of these services the caller is to probe now, with their definitions: those whose slot is due and that nobody else has '
  'claimed, and those that are requested (slot is null then). Adds the job for each one''s next slot in the same transaction, so '
  'that a worker that dies takes no more than the slot with it. Of those that are skipped nobody probes the slot. Heartbeats are judged '
  'here, skipped or not, and are not among the answers.';

create function lib.check_heartbeat(_service obs.service, _state obs.service_state, _slot timestamptz, _now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _deadline constant interval := make_interval(secs => _service.check_interval_seconds + _service.timeout_seconds);
  _since constant timestamptz := greatest(_state.last_heartbeat_at, _state.watched_since);
  _is_late constant boolean := _since + _deadline < _now;
  _result obs.probe_result;
begin
  -- One that has not called yet has its time to do so.
  if not _is_late and (_state.last_heartbeat_at is null or length(_state.outcomes) = 0) then
    return;
  end if;
  _result.time := _now;
  _result.service_id := _service.id;
  _result.slot := _slot;
  _result.outcome := case
    when _is_late or not lib.was_up(_state.outcomes) then 'down'
    when _state.status = 'degraded' then 'degraded'
    else 'up'
  end;
  _result.reason := case
    when not _is_late then _state.reason
    when _state.last_heartbeat_at is null or _state.last_heartbeat_at < _state.watched_since then 'no heartbeat has come yet'
    else format('no heartbeat for %s s', round(extract(epoch from _now - _since)))
  end;
  -- A heartbeat was observed when it came.
  perform lib.record_probe(_service, _state, _result, _is_late, null, 'worker');
end
$$;
comment on function lib.check_heartbeat is
  'The result of a heartbeat service''s slot: down when its last heartbeat is longer ago than the interval and the timeout together.';

create function job.heal_probes(_now timestamptz default now())
returns int
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _overdue record;
  _worker text;
begin
  select array_agg(o.service_id) as service_ids, array_agg(o.org_id) as org_ids, array_agg(o.next_check_at) as run_ats
  into _overdue
  from (
    select t.service_id, t.org_id, t.next_check_at
    from obs.service_state t
    where t.next_check_at < _now - interval '3 seconds'
    order by t.next_check_at
    limit 10000
  ) as o;

  -- A worker that is gone for good takes its alert with it.
  for _worker in delete from obs.probe_worker where seen_at < _now - interval '10 minutes' returning name loop
    perform lib.resolve_alert(a.org_id, a.fingerprint, 'worker', 'the worker has not been seen for ten minutes', _now)
    from obs.alert a
    where a.source = 'worker' and a.fingerprint = 'worker:' || _worker and a.status <> 'resolved';
  end loop;
  return queue.heal_probes(coalesce(_overdue.service_ids, array[]::int[]), _overdue.org_ids, _overdue.run_ats);
end
$$;
comment on function job.heal_probes is
  'Adds the jobs of services whose slot passed 3 s ago and was not claimed, and that have none: it was lost, or its worker died with '
  'it. Returns how many.';

create function job.purge_jobs()
returns int
language sql
volatile
security definer
set search_path = ''
as $$
  select queue.purge_jobs()
$$;
comment on function job.purge_jobs is 'queue.purge_jobs.';
