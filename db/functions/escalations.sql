create function lib.escalation_of(_alert obs.alert)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  _escalation obs.escalation;
begin
  if not exists (select from obs.escalation e where e.org_id = _alert.org_id) then
    return lib.default_escalation(_alert.severity);
  end if;
  select * into _escalation
  from obs.escalation e
  where e.org_id = _alert.org_id and e.is_enabled
    and (e.severities = '{}' or _alert.severity = any (e.severities))
    and lib.matches_all(e.matchers, lib.alert_labels(_alert))
  order by e.name
  limit 1;
  if not found or jsonb_array_length(_escalation.steps) = 0 then
    return null;
  end if;
  return jsonb_build_object('name', _escalation.name, 'steps', _escalation.steps);
end
$$;
comment on function lib.escalation_of is
  'The escalation that an alert follows, {name, steps} as in obs.escalation: the first by name that fits, the default where the org has none at all; null for none.';

create function lib.default_escalation(_severity text)
returns jsonb
language sql
immutable
as $$
  select case _severity
    when 'critical' then '{"name": "default", "steps": [{"after_minutes": 15}, {"after_minutes": 30}, {"after_minutes": 60}]}'::jsonb
    when 'warning' then '{"name": "default", "steps": [{"after_minutes": 60, "severity": "critical"}, {"after_minutes": 90}]}'::jsonb
  end
$$;
comment on function lib.default_escalation is
  'Where an org has made no escalation: a critical alert that nobody acknowledges is told again after 15, 30 and 60 minutes, a warning '
  'becomes critical after an hour; info is left alone.';

create function lib.plan_escalation(_alert obs.alert, _now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _escalation constant jsonb := lib.escalation_of(_alert);
begin
  if _escalation is null then
    return;
  end if;
  update obs.alert
  set
    escalation = _escalation,
    escalation_step = 0,
    escalate_at = _now + make_interval(secs => 60 * (_escalation #>> '{steps,0,after_minutes}')::float8)
  where id = _alert.id;
end
$$;
comment on function lib.plan_escalation is 'Chooses the escalation of an alert that fires. The job for its first step is lib.schedule_rules'' to add, at the end of a transaction, or job.heal_alerts''.';

create function lib.severity_rank(_severity text)
returns int
language sql
immutable
as $$
  select case _severity when 'critical' then 3 when 'warning' then 2 else 1 end
$$;
comment on function lib.severity_rank is 'critical is 3, warning 2, info 1.';

create function lib.escalate_alert(_alert obs.alert, _now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _steps constant jsonb := _alert.escalation -> 'steps';
  _step constant jsonb := _steps -> _alert.escalation_step;
  _after_minutes constant float8 := (_step ->> 'after_minutes')::float8;
  _muted_until timestamptz;
  _severity text := _alert.severity;
  _channel_ids uuid[];
begin
  -- Nobody was told, so nobody could have acknowledged it: the step waits as long after that as it would have waited.
  _muted_until := lib.muted_until(_alert, _now);
  if _muted_until is not null then
    update obs.alert
    set escalate_at = _muted_until
      + make_interval(secs => 60 * (_after_minutes - coalesce((_steps #>> array[(_alert.escalation_step - 1)::text, 'after_minutes'])::float8 * sign(_alert.escalation_step), 0)))
    where id = _alert.id;
    return;
  end if;
  if lib.severity_rank(_step ->> 'severity') > lib.severity_rank(_severity) then
    _severity := _step ->> 'severity';
  end if;
  _channel_ids := array(
    select c.id
    from obs.channel c
    where c.org_id = _alert.org_id and c.id::text in (select jsonb_array_elements_text(coalesce(_step -> 'channel_ids', '[]')))
  );
  update obs.alert
  set
    severity = _severity,
    escalation_step = escalation_step + 1,
    -- As long after this step as it is meant to be, should this one have come late.
    escalate_at = _now + make_interval(
      secs => 60 * ((_steps -> (_alert.escalation_step + 1) ->> 'after_minutes')::float8 - _after_minutes)
    )
  where id = _alert.id
  returning * into _alert;
  perform lib.note_alert(
    _alert, 'escalated', _alert.status, 'worker', null,
    jsonb_build_object(
      'escalation', _alert.escalation -> 'name', 'step', _alert.escalation_step, 'after_minutes', _after_minutes,
      'severity', _severity,
      'channels', (select coalesce(jsonb_agg(c.name order by c.name), '[]') from obs.channel c where c.id = any (_channel_ids))
    ),
    _now
  );
  perform lib.route_alert(_alert, _now, _channel_ids, true);
end
$$;
comment on function lib.escalate_alert is
  'Takes the next step of an alert''s escalation: its severity is raised, channels are added, and all that know of it are told again. While it '
  'is muted the step is put off.';

create function job.escalate_alerts(_org_id int, _now timestamptz default now())
returns int
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _alert obs.alert;
  _count int := 0;
begin
  for _alert in
    select a.*
    from obs.alert a
    where a.org_id = _org_id and a.status = 'firing' and a.escalate_at <= _now
    order by a.id
    limit 1000
    for no key update skip locked
  loop
    perform lib.escalate_alert(_alert, _now);
    _count := _count + 1;
  end loop;
  perform lib.schedule_rules(_org_id, _now);
  return _count;
end
$$;
comment on function job.escalate_alerts is 'Takes the steps that are due of the escalations of an org''s alerts; returns of how many.';
