create function lib.transition_alert(
  _alert_id uuid,
  _to text,
  _actor text,
  _note text default null,
  _details jsonb default '{}',
  _now timestamptz default now()
)
returns obs.alert
language plpgsql
volatile
set search_path = ''
-- Rows are found by their keys. A plan that was made while there were few would read the whole table for each of thousands of alerts
-- of one transaction.
set enable_seqscan = 'off'
as $$
declare
  _alert obs.alert;
  _from text;
begin
  -- Not for update, which a notification that tells of it would have to wait for.
  select * into _alert from obs.alert where id = _alert_id for no key update;
  if not found then
    return null;
  end if;
  _from := _alert.status;
  if not (_from, _to) in (
    ('inactive', 'pending'), ('inactive', 'firing'), ('pending', 'inactive'), ('pending', 'firing'),
    ('firing', 'acknowledged'), ('firing', 'resolved'), ('acknowledged', 'resolved')
  ) then
    raise exception 'the alert is % and cannot become %', _from, _to using errcode = 'PT409', hint = 'alert_status';
  end if;
  -- _now is when the transaction began, which may have waited for another since: nothing is before what it follows.
  _now := greatest(
    _now,
    case
      when _from = 'inactive' then (
        select max(a.resolved_at)
        from obs.alert a
        where a.org_id = _alert.org_id and a.fingerprint = _alert.fingerprint and a.status = 'resolved'
      )
      else (select e.at from obs.alert_event e where e.alert_id = _alert_id order by e.id desc limit 1)
    end
  );
  update obs.alert
  set
    status = _to,
    started_at = case when _from in ('inactive', 'pending') then _now else started_at end,
    acknowledged_at = case when _to = 'acknowledged' then _now else acknowledged_at end,
    resolved_at = case when _to = 'resolved' then _now end,
    escalate_at = null
  where id = _alert_id
  returning * into _alert;
  perform lib.note_alert(_alert, _to, _from, _actor, _note, _details, _now);
  case _to
    when 'firing' then
      perform lib.plan_escalation(_alert, _now);
      perform lib.route_alert(_alert, _now);
    when 'resolved' then
      perform lib.route_resolved(_alert, _now);
    when 'inactive' then
      delete from obs.alert where id = _alert_id;
    else
  end case;
  return _alert;
end
$$;
comment on function lib.transition_alert is
  'The one way for an alert''s status to change, with all that follows from it in the same transaction: the event that tells of it, the '
  'jobs that notify, its escalation. inactive to pending or firing; pending to firing, or to inactive again, and then it is '
  'deleted; firing to acknowledged or resolved; acknowledged to resolved. Returns the alert, null where there is none; raises PT409 '
  '(alert_status) for any other change.';

create function lib.note_alert(
  _alert obs.alert,
  _event text,
  _from text,
  _actor text,
  _note text,
  _details jsonb,
  _now timestamptz
)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  insert into obs.alert_event (alert_id, org_id, at, event, from_status, to_status, actor, note, details)
  values (_alert.id, _alert.org_id, _now, _event, _from, _alert.status, _actor, _note, _details);
end
$$;
comment on function lib.note_alert is 'Adds an event to an alert''s history.';

create function lib.open_alert(
  _org_id int,
  _source text,
  _fingerprint text,
  _name text,
  _severity text,
  _description text,
  _service_name text,
  _labels jsonb,
  _metadata jsonb,
  _actor text,
  _now timestamptz default now(),
  _rule_id uuid default null,
  out alert_id uuid,
  out is_new boolean
)
language plpgsql
volatile
set search_path = ''
-- As lib.transition_alert.
set enable_seqscan = 'off'
as $$
declare
  _before obs.alert;
  _after obs.alert;
  _changes jsonb;
begin
  loop
    select * into _before
    from obs.alert a
    where a.org_id = _org_id and a.fingerprint = _fingerprint and a.status <> 'resolved'
    for no key update;
    exit when found and _before.status <> 'pending';
    -- Somebody says that it is so: there is no waiting any more.
    if found then
      alert_id := _before.id;
      is_new := true;
      update obs.alert
      set
        severity = _severity,
        description = coalesce(_description, description),
        service_name = coalesce(_service_name, service_name),
        labels = labels || _labels,
        metadata = metadata || coalesce(_metadata, '{}')
      where id = alert_id;
      perform lib.transition_alert(alert_id, 'firing', _actor, null, coalesce(_metadata, '{}'), _now);
      return;
    end if;
    insert into obs.alert
      (org_id, source, fingerprint, name, severity, description, service_name, labels, metadata, started_at, rule_id)
    values
      (_org_id, _source, _fingerprint, _name, _severity, _description, _service_name, _labels, coalesce(_metadata, '{}'), _now, _rule_id)
    on conflict (org_id, fingerprint) where status <> 'resolved' do nothing
    returning id into alert_id;
    if found then
      perform lib.transition_alert(alert_id, 'firing', _actor, null, coalesce(_metadata, '{}'), _now);
      is_new := true;
      return;
    end if;
  end loop;

  alert_id := _before.id;
  is_new := false;
  update obs.alert
  set
    -- What an escalation has raised stays so.
    severity = case
      when escalation_step > 0 and lib.severity_rank(severity) > lib.severity_rank(_severity) then severity
      else _severity
    end,
    description = coalesce(_description, description),
    metadata = coalesce(_metadata, metadata)
  where id = alert_id
  returning * into _after;
  if _after.severity <> _before.severity then
    perform lib.route_alert(_after, _now);
  end if;
  -- What probes go on finding is no event.
  if _source <> 'api' then
    return;
  end if;
  select jsonb_object_agg(b.key, jsonb_build_object('from', b.value, 'to', a.value))
  into _changes
  from jsonb_each(to_jsonb(_before)) b
  join jsonb_each(to_jsonb(_after)) a on a.key = b.key and a.value <> b.value;
  if _changes is not null then
    perform lib.note_alert(_after, 'updated', _after.status, _actor, null, _changes, _now);
  end if;
end
$$;
comment on function lib.open_alert is
  'Opens an alert, firing, or brings the one that is open for the fingerprint up to date: its severity, and its description and metadata '
  'where they are not null. What a client changes so is an event.';

create function lib.open_alert_id(_org_id int, _fingerprint text)
returns uuid
language sql
stable
as $$
  select a.id from obs.alert a where a.org_id = _org_id and a.fingerprint = _fingerprint and a.status <> 'resolved'
$$;
comment on function lib.open_alert_id is 'The alert that is open for a fingerprint, or null.';

create function lib.resolve_alert(_org_id int, _fingerprint text, _actor text, _note text, _now timestamptz)
returns void
language sql
volatile
as $$
  -- Locked first: who resolves it by hand at this moment is waited for, and then there is nothing left to do.
  with open_alert as materialized (
    select a.id from obs.alert a
    where a.org_id = _org_id and a.fingerprint = _fingerprint and a.status <> 'resolved'
    for no key update
  )
  select lib.transition_alert(o.id, 'resolved', _actor, _note, '{}', _now) from open_alert o
$$;
comment on function lib.resolve_alert is 'Resolves the alert that is open for a fingerprint, if there is one.';

create function lib.alert_fields(_alert obs.alert, _now timestamptz)
returns json
language sql
stable
set search_path = ''
as $$
  select json_build_object(
    'id', _alert.id,
    'name', _alert.name,
    'description', _alert.description,
    'severity', _alert.severity,
    'status', _alert.status,
    'source', _alert.source,
    'service_name', _alert.service_name,
    'labels', _alert.labels,
    'annotations', _alert.annotations,
    'metadata', _alert.metadata,
    'value', _alert.value,
    'rule_id', _alert.rule_id,
    'started_at', lib.rfc3339(_alert.started_at),
    'acknowledged_at', lib.rfc3339(_alert.acknowledged_at),
    'resolved_at', lib.rfc3339(_alert.resolved_at),
    'duration_seconds', round(extract(epoch from coalesce(_alert.resolved_at, greatest(_now, _alert.started_at)) - _alert.started_at), 3)
  )
$$;
comment on function lib.alert_fields is 'An alert as the API shows it; duration_seconds until it was resolved, or until _now.';

create function api.create_alert(
  _org_id int,
  _name text,
  _severity text,
  _description text,
  _service_name text,
  _labels jsonb,
  _metadata jsonb,
  _rule jsonb,
  _actor text,
  _request jsonb default null
)
returns table (alert json, is_new boolean)
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _fingerprint text := 'api:' || md5(jsonb_build_array(_name, _service_name, _labels)::text);
  _rule_id uuid;
  _opened record;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  if _rule is not null then
    -- The lock under which rules are made: two that say the same at once make one.
    perform 1 from obs.org o where o.id = _org_id for no key update;
    -- One that was made by itself and says the same is meant.
    select r.id into _rule_id
    from obs.alert_rule r
    where r.org_id = _org_id
      and (r.reported_as = _fingerprint or r.reported_as is null and r.name = _name and r.expression = _rule ->> 'expression')
    order by r.reported_as nulls last
    limit 1;
    _rule := _rule || jsonb_build_object('reported_as', _fingerprint);
    if _rule_id is null then
      -- A rule that has this name and is about something else stays what it is.
      _rule := _rule || jsonb_build_object('name', (
        select n.name
        from (values
          (_name, 1), (left(_name, 200) || coalesce(' (' || left(_service_name, 50) || ')', ''), 2), (left(_name, 200) || ' ' || right(_fingerprint, 32), 3)
        ) as n (name, position)
        where not exists (select from obs.alert_rule r where r.org_id = _org_id and r.name = n.name)
        order by n.position
        limit 1
      ));
    else
      _rule := _rule - 'name';
    end if;
    _rule_id := lib.put_rule(_org_id, _rule_id, _rule, _actor);
  end if;
  -- Reported again without it, the alert is still the rule's.
  if _rule is null then
    select r.id into _rule_id from obs.alert_rule r where r.org_id = _org_id and r.reported_as = _fingerprint;
  end if;
  if _rule_id is not null then
    -- The same, reported without the rule before, becomes its alert.
    update obs.alert a
    set fingerprint = lib.rule_fingerprint(_rule_id, '{}'), rule_id = _rule_id
    where a.org_id = _org_id and a.fingerprint = _fingerprint and a.status <> 'resolved'
      and lib.open_alert_id(_org_id, lib.rule_fingerprint(_rule_id, '{}')) is null;
    _fingerprint := lib.rule_fingerprint(_rule_id, '{}');
  end if;
  _opened := lib.open_alert(
    _org_id, 'api', _fingerprint, _name, _severity, _description, _service_name, _labels, _metadata, _actor, _rule_id => _rule_id
  );
  -- For its escalation.
  perform lib.schedule_rules(_org_id, now());
  return query
  select lib.alert_fields(a, now()), _opened.is_new from obs.alert a where a.id = _opened.alert_id;
  perform lib.audit(
    _org_id, _actor, _request, case when _opened.is_new then 'alert.create' else 'alert.update' end, 'alert', _opened.alert_id::text, null,
    lib.audited_alert(_opened.alert_id)
  );
end
$$;
comment on function api.create_alert is
  'Opens an alert on behalf of a client. While one with the same name, service and labels is open that one is brought up to date '
  'instead, and is_new is false. With a _rule (see lib.put_rule) there is one rule for these from then on, made or changed, and the alert is its: the '
  'rule resolves it once its condition has held, and does so no more.';

create function api.list_alerts(
  _org_id int,
  _status text,
  _severity text,
  _service_name text,
  _start timestamptz,
  _end timestamptz,
  _q text,
  _before_started_at timestamptz,
  _before_id uuid,
  _limit int
)
returns table (alerts json, summary json, next_started_at timestamptz, next_id uuid)
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  with matching as not materialized (
    select a.*
    from obs.alert a
    where a.org_id = _org_id
      and (_status is null or a.status = _status)
      and (_severity is null or a.severity = _severity)
      and (_service_name is null or a.service_name = _service_name)
      and (_start is null or a.started_at >= _start)
      and (_end is null or a.started_at < _end)
      and (_q is null or strpos(lower(a.name || ' ' || coalesce(a.description, '')), lower(_q)) > 0)
  ),
  page as materialized (
    select m.*::obs.alert as alert, row_number() over (order by m.started_at desc, m.id desc) as n
    from matching m
    where (_before_started_at is null or (m.started_at, m.id) < (_before_started_at, _before_id))
      -- One that is pending may never fire: it is counted, and shown to who asks for it.
      and (_status is not null or m.status <> 'pending')
    order by m.started_at desc, m.id desc
    limit _limit + 1
  ),
  -- The page's last, where there is another page.
  last as (
    select (p.alert).started_at, (p.alert).id
    from page p
    where p.n = _limit and exists (select from page next where next.n > _limit)
  ),
  counts as (
    select
      count(*) filter (where m.severity = 'critical' and m.is_shown) as critical,
      count(*) filter (where m.severity = 'warning' and m.is_shown) as warning,
      count(*) filter (where m.severity = 'info' and m.is_shown) as info,
      count(*) filter (where m.status = 'firing') as firing,
      count(*) filter (where m.status = 'acknowledged') as acknowledged,
      count(*) filter (where m.status = 'resolved') as resolved,
      count(*) filter (where m.status = 'pending') as pending,
      avg(extract(epoch from m.acknowledged_at - m.started_at))::float8 as mean_time_to_acknowledge_seconds,
      avg(extract(epoch from m.resolved_at - m.started_at))::float8 as mean_time_to_resolve_seconds
    from (select m.*, _status is not null or m.status <> 'pending' as is_shown from matching m) as m
  )
  select
    coalesce((select json_agg(lib.alert_fields(p.alert, now()) order by p.n) from page p where p.n <= _limit), '[]'),
    (select row_to_json(c) from counts c),
    (select l.started_at from last l),
    (select l.id from last l);
end
$$;
comment on function api.list_alerts is
  'Alerts of an org that match, newest first, at most _limit after the one before; the summary counts all that match. _start and _end '
  'are about started_at; _q is part of the name or description in any case; the next page comes after (next_started_at, next_id).';

create function api.get_alert(_org_id int, _id uuid)
returns table (alert json, events json, notifications json, muted_by json, channels json)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  select
    lib.alert_fields(a, now()),
    (
      select json_agg(json_build_object(
        'at', lib.rfc3339(e.at), 'event', e.event, 'from_status', e.from_status, 'to_status', e.to_status,
        'actor', e.actor, 'note', e.note, 'details', e.details
      ) order by e.id)
      from (select * from obs.alert_event e where e.alert_id = a.id order by e.id desc limit 500) as e
    ),
    (
      select coalesce(json_agg(lib.notification_fields(n) order by n.created_at, n.id), '[]')
      from (
        select n.*
        from obs.notification_alert na
        join obs.notification n on n.id = na.notification_id
        where na.alert_id = a.id
        order by n.created_at desc, n.id desc
        limit 500
      ) as n
    ),
    case when a.status in ('firing', 'acknowledged') then lib.muted_by(a, now()) else '[]' end,
    (
      select coalesce(json_agg(distinct c.name), '[]')
      from (
        select n.channel_name as name
        from obs.notification_alert na
        join obs.notification n on n.id = na.notification_id
        where na.alert_id = a.id
        union all
        select c.name
        from obs.notification_member m
        join obs.notification_group g on g.id = m.group_id
        join obs.channel c on c.id = g.channel_id
        where m.alert_id = a.id
      ) as c
    )
  from obs.alert a
  where a.id = _id and a.org_id = _org_id;
end
$$;
comment on function api.get_alert is
  'An alert, its events and its notifications, oldest first, the last 500 of each, what keeps others from being sent, and the names of the channels that '
  'were or will be told of it; no row where there is none.';

create function lib.audited_alert(_id uuid)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select lib.alert_fields(a, now())::jsonb - array['id', 'duration_seconds'] from obs.alert a where a.id = _id
$$;
comment on function lib.audited_alert is 'An alert as the audit log shows it.';

create function api.change_alert(_org_id int, _id uuid, _to text, _actor text, _note text, _request jsonb default null)
returns json
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _alert obs.alert;
  _before jsonb;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  if not exists (select from obs.alert a where a.id = _id and a.org_id = _org_id) then
    return null;
  end if;
  _before := lib.audited_alert(_id);
  _alert := lib.transition_alert(_id, _to, _actor, _note);
  perform lib.audit(
    _org_id, _actor, _request, case _to when 'acknowledged' then 'alert.acknowledge' else 'alert.resolve' end, 'alert', _id::text, _before,
    lib.audited_alert(_id)
  );
  return lib.alert_fields(_alert, now());
end
$$;
comment on function api.change_alert is 'lib.transition_alert for one org: the alert as it is then, or null where there is none.';

create function api.add_note(_org_id int, _id uuid, _actor text, _note text, _request jsonb default null)
returns json
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _alert obs.alert;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  select * into _alert from obs.alert a where a.id = _id and a.org_id = _org_id;
  if not found then
    return null;
  end if;
  perform lib.note_alert(_alert, 'note', _alert.status, _actor, _note, '{}', now());
  perform lib.audit(_org_id, _actor, _request, 'alert.note', 'alert', _id::text, null, jsonb_build_object('note', _note));
  return lib.alert_fields(_alert, now());
end
$$;
comment on function api.add_note is 'Adds a note to an alert''s history, whatever its status. Null where there is no such alert.';

create function job.purge_alerts(_now timestamptz default now())
returns int
language sql
volatile
security definer
set search_path = ''
as $$
  with purged as (
    delete from obs.alert a
    using obs.org o
    where o.id = a.org_id and a.resolved_at < _now - least(o.retention, interval '400 days')
    returning 1
  )
  select count(*)::int from purged
$$;
comment on function job.purge_alerts is
  'Deletes alerts that were resolved more than 400 days ago, or longer than their org keeps what it recorded; returns how many.';
