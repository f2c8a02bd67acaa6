create function lib.default_rule()
returns obs.alert_rule
language sql
stable
set search_path = ''
as $$
  select jsonb_populate_record(null::obs.alert_rule, jsonb_build_object(
    'severity', 'warning',
    'interval_seconds', 30,
    'evaluation_delay_seconds', 0,
    'keep_firing_for_seconds', 0,
    'no_data', 'ok',
    'labels', jsonb_build_object(),
    'annotations', jsonb_build_object(),
    'label_templates', jsonb_build_object(),
    'annotation_templates', jsonb_build_object(),
    'is_enabled', true
  ))
$$;
comment on function lib.default_rule is 'What an alert rule has where its definition does not say.';

create function lib.default_definition(_kind text, _type text)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select case _kind
    when 'channel' then jsonb_build_object(
      'is_enabled', true,
      'severities', array[]::text[],
      'service_names', array[]::text[],
      'matchers', jsonb_build_array(),
      'group_by', array['alertname', 'service'],
      'group_wait_seconds', 1,
      'group_interval_seconds', 5,
      -- Alertmanager does not keep alerts over a restart: it is told of them again and again.
      'repeat_interval_seconds', case _type when 'alertmanager' then 300 else 14400 end,
      'send_resolved', true,
      'timeout_seconds', 10,
      'max_attempts', 20
    )
    when 'silence' then jsonb_build_object('starts_at', now(), 'reason', '')
    when 'maintenance_window' then jsonb_build_object(
      'matchers', jsonb_build_array(), 'timezone', 'UTC', 'repeats', 'never', 'weekdays', array[]::int[]
    )
    when 'escalation' then jsonb_build_object('severities', array[]::text[], 'matchers', jsonb_build_array(), 'is_enabled', true)
    when 'dashboard' then '{}'
  end
$$;
comment on function lib.default_definition is 'What a channel, silence, maintenance window, escalation or dashboard has where its definition does not say.';

create function lib.check_definition(_kind text, _org_id int, _fields jsonb)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  _field text;
  _message text;
begin
  select f.field, f.message
  into _field, _message
  from (values
    (
      'ends_at',
      case when (_fields ->> 'ends_at')::timestamptz <= (_fields ->> 'starts_at')::timestamptz then 'must be after starts_at' end
    ),
    (
      'ends_at',
      case
        when _fields ->> 'repeats' = 'daily'
          and (_fields ->> 'ends_at')::timestamptz > (_fields ->> 'starts_at')::timestamptz + interval '1 day'
          then 'must be at most a day after starts_at, where it repeats daily'
      end
    ),
    (
      'ends_at',
      case
        when _fields ->> 'repeats' <> 'never'
          and (_fields ->> 'ends_at')::timestamptz > (_fields ->> 'starts_at')::timestamptz + interval '7 days'
          then 'must be at most 7 days after starts_at, where it repeats'
      end
    ),
    ('weekdays', case when _fields ->> 'repeats' <> 'weekly' and _fields -> 'weekdays' <> '[]' then 'is for repeats weekly alone' end),
    (
      'until',
      case when (_fields ->> 'until')::timestamptz <= (_fields ->> 'starts_at')::timestamptz then 'must be after starts_at' end
    ),
    ('until', case when _fields ->> 'repeats' = 'never' and _fields ->> 'until' is not null then 'is for one that repeats alone' end),
    (
      (
        select format('steps[%s].channel_ids[%s]', s.position - 1, c.position - 1)
        from jsonb_array_elements(case when _kind = 'escalation' then _fields -> 'steps' else '[]' end) with ordinality as s (step, position)
        cross join jsonb_array_elements_text(coalesce(s.step -> 'channel_ids', '[]')) with ordinality as c (id, position)
        where not exists (select from obs.channel where org_id = _org_id and id::text = c.id)
        order by s.position, c.position
        limit 1
      ),
      'there is no such channel'
    )
  ) as f (field, message)
  where f.field is not null and f.message is not null
  limit 1;
  if found then
    raise exception '%', _message using errcode = 'PT400', hint = 'invalid_request', column = _field;
  end if;
end
$$;
comment on function lib.check_definition is 'Raises PT400 for fields that do not go together; the error''s column is the one that is wrong.';

create function lib.put_rule(_org_id int, _id uuid, _fields jsonb, _actor text)
returns uuid
language plpgsql
volatile
set search_path = ''
as $$
declare
  _rule obs.alert_rule;
  _limit int;
begin
  if _id is null then
    -- The org's row is the lock under which its rules are made, so that the count is exact.
    select o.rule_limit into _limit from obs.org o where o.id = _org_id for no key update;
    if (select count(*) from obs.alert_rule r where r.org_id = _org_id) >= _limit then
      raise exception 'the org has % rules, which is all that it may have', _limit using errcode = 'PT422', hint = 'rule_limit';
    end if;
    _rule := jsonb_populate_record(lib.default_rule(), _fields);
    _rule.id := gen_random_uuid();
    _rule.org_id := _org_id;
    _rule.created_by := _actor;
    _rule.created_at := now();
    _rule.updated_at := now();
    insert into obs.alert_rule select _rule.*;
    insert into obs.alert_rule_state (rule_id, org_id, next_evaluation_at)
    values (_rule.id, _org_id, case when _rule.is_enabled then now() end);
  else
    perform 1 from obs.alert_rule_state t where t.rule_id = _id for update;
    select * into _rule from obs.alert_rule r where r.id = _id and r.org_id = _org_id for update;
    if not found then
      return null;
    end if;
    if _fields #> '{tree,by}' <> _rule.tree -> 'by' then
      perform lib.end_rule_alerts(_id, _actor, 'the rule groups by other labels now');
    end if;
    _rule := jsonb_populate_record(_rule, _fields);
    update obs.alert_rule r
    set
      name = _rule.name,
      expression = _rule.expression,
      tree = _rule.tree,
      for_seconds = _rule.for_seconds,
      severity = _rule.severity,
      service_name = _rule.service_name,
      interval_seconds = _rule.interval_seconds,
      evaluation_delay_seconds = _rule.evaluation_delay_seconds,
      keep_firing_for_seconds = _rule.keep_firing_for_seconds,
      no_data = _rule.no_data,
      labels = _rule.labels,
      annotations = _rule.annotations,
      label_templates = _rule.label_templates,
      annotation_templates = _rule.annotation_templates,
      is_enabled = _rule.is_enabled,
      reported_as = _rule.reported_as,
      updated_at = now()
    where r.id = _id;
    update obs.alert_rule_state t
    set next_evaluation_at = case when _rule.is_enabled then now() end, last_error = null
    where t.rule_id = _id;
    if not _rule.is_enabled then
      perform lib.end_rule_alerts(_id, _actor, 'the rule was disabled');
    end if;
  end if;
  return _rule.id;
exception
  when unique_violation then
    raise exception 'another has this name already' using errcode = 'PT409', hint = 'name_taken', column = 'name';
end
$$;
comment on function lib.put_rule is
  'Makes an alert rule (_id null) or changes the given fields of one; it is due at once, and lib.schedule_rules is to follow at the end of the '
  'transaction. Returns its id, null where there is none to change. Raises PT409 (name_taken), PT422 (rule_limit).';

create function lib.end_rule_alerts(_rule_id uuid, _actor text, _note text)
returns void
language sql
volatile
as $$
  with open_alert as materialized (
    select a.id, a.status from obs.alert a where a.rule_id = _rule_id and a.status <> 'resolved' order by a.id for no key update
  )
  select lib.transition_alert(o.id, case o.status when 'pending' then 'inactive' else 'resolved' end, _actor, _note) from open_alert o
$$;
comment on function lib.end_rule_alerts is 'Resolves the open alerts of a rule; those that are pending go.';

create function lib.mask_config(_type text, _config jsonb)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select coalesce(
    jsonb_object_agg(
      c.key,
      case
        when c.key = 'headers' then (select jsonb_object_agg(h.key, lib.shown_secret(h.value)) from jsonb_each(c.value) as h)
        when c.key in ('secret', 'password', 'bearer_token', 'smtp_url') or c.key = 'url' and (_type <> 'alertmanager' or c.value #>> '{}' ~ '^sealed:')
          then lib.shown_secret(c.value)
        else c.value
      end
    ),
    '{}'
  )
  from jsonb_each(_config) as c
$$;
comment on function lib.mask_config is 'A channel''s configuration without its secrets: of what is sealed, what may be shown.';

create function lib.shown_secret(_value jsonb)
returns jsonb
language sql
immutable
as $$
  select case when _value #>> '{}' ~ '^sealed:' then to_jsonb(regexp_replace(_value #>> '{}', '^sealed:[^:]*:[^:]*:', '')) else to_jsonb('••••'::text) end
$$;
comment on function lib.shown_secret is 'What may be shown of a value of a channel''s configuration: of one that is sealed its last part (src/seal.ts), of others nothing.';

create function lib.change_config(_config jsonb, _changes jsonb)
returns jsonb
language sql
immutable
as $$
  select jsonb_strip_nulls(
    _config || _changes || case
      when jsonb_typeof(_changes -> 'headers') = 'object' then jsonb_build_object('headers', (
        select coalesce(jsonb_object_agg(h.key, case when h.value = '"••••"' then _config -> 'headers' -> h.key else h.value end), '{}')
        from jsonb_each(_changes -> 'headers') as h
      ))
      else '{}'
    end
  )
$$;
comment on function lib.change_config is 'A channel''s configuration with changes: null takes a part away, a header that reads •••• stays as it is.';

create function lib.definition_fields(_kind text, _definition jsonb, _counts_series boolean default true)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select _definition - 'org_id' || case _kind
    when 'channel' then jsonb_build_object('config', lib.mask_config(_definition ->> 'type', _definition -> 'config'))
    when 'alert_rule' then (
      select jsonb_build_object(
        'next_evaluation_at', t.next_evaluation_at, 'last_evaluation_at', t.last_evaluation_at, 'last_evaluation_ms', t.last_evaluation_ms,
        'last_error', t.last_error,
        'series_count', case when _counts_series then (
          select count(distinct m.series_id)
          from lib.match_selectors(
            (_definition ->> 'org_id')::int, array(select jsonb_array_elements(_definition -> 'tree' -> 'selectors'))
          ) m
        ) end,
        'alerts', (
          select jsonb_build_object(
            'pending', count(*) filter (where a.status = 'pending'),
            'firing', count(*) filter (where a.status = 'firing'),
            'acknowledged', count(*) filter (where a.status = 'acknowledged')
          )
          from obs.alert a
          where a.rule_id = t.rule_id and a.status <> 'resolved'
        )
      )
      from obs.alert_rule_state t
      where t.rule_id = (_definition ->> 'id')::uuid
    )
    when 'maintenance_window' then jsonb_build_object(
      'active_until', lib.window_end(jsonb_populate_record(null::obs.maintenance_window, _definition), now())
    )
    else '{}'
  end
$$;
comment on function lib.definition_fields is 'A definition as the API shows it: a row as JSON, without secrets, a rule with how its last evaluation went and (_counts_series) how many series it looks at.';

create function lib.audited_definition(_kind text, _definition jsonb)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select _definition - array['org_id', 'tree', 'label_templates', 'annotation_templates'] || case
    when _kind = 'channel' then jsonb_build_object('config', lib.mask_config(_definition ->> 'type', _definition -> 'config'))
    else '{}'
  end
$$;
comment on function lib.audited_definition is 'A row of a definition''s table as JSON, as the audit log and an export show it: as its author wrote it, without secrets.';

create function lib.check_kind(_kind text)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  if _kind not in ('alert_rule', 'channel', 'silence', 'maintenance_window', 'escalation', 'dashboard') then
    raise exception 'there is no kind of definition %', _kind using errcode = '22023';
  end if;
  return _kind;
end
$$;
comment on function lib.check_kind is 'A kind of definition, which is the name of its table in obs: alert_rule, channel, silence, maintenance_window, escalation, dashboard. Raises 22023 for any other.';

create function lib.find_definition(_org_id int, _kind text, _id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  _definition jsonb;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  execute format('select to_jsonb(d) from obs.%I d where d.id = $1 and d.org_id = $2', lib.check_kind(_kind)) into _definition using _id, _org_id;
  return _definition;
end
$$;
comment on function lib.find_definition is 'A definition''s row by its id, as JSON; null where there is none. Sets the transaction''s org.';

create function lib.lock_definition(_org_id int, _kind text, _id uuid)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  _definition jsonb;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  if _kind = 'alert_rule' then
    -- In the order of an evaluation.
    perform 1 from obs.alert_rule_state t where t.rule_id = _id and t.org_id = _org_id for update;
  end if;
  execute format('select to_jsonb(d) from obs.%I d where d.id = $1 and d.org_id = $2 for update', lib.check_kind(_kind))
  into _definition using _id, _org_id;
  return _definition;
end
$$;
comment on function lib.lock_definition is 'lib.find_definition of a row that is about to be changed: locked until the transaction ends.';

create function api.put_definition(_org_id int, _kind text, _id uuid, _fields jsonb, _actor text, _request jsonb default null)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  -- Each alert is held against all of them.
  _most constant int := 1000;
  _before constant jsonb := lib.lock_definition(_org_id, _kind, _id);
  _definition jsonb;
  _count int;
begin
  if _id is not null and _before is null then
    return null;
  end if;
  if _kind = 'alert_rule' then
    _id := lib.put_rule(_org_id, _id, _fields, _actor);
    perform lib.schedule_rules(_org_id, now());
  elsif _id is null then
    _id := gen_random_uuid();
    _definition := lib.default_definition(_kind, _fields ->> 'type') || jsonb_build_object(
      case when _kind in ('silence', 'maintenance_window') then 'author' else 'created_by' end, _actor
    ) || _fields || jsonb_build_object('id', _id, 'org_id', _org_id, 'created_at', now(), 'updated_at', now());
    perform lib.check_definition(_kind, _org_id, _definition);
    execute format('select count(*) from obs.%I d where d.org_id = $1 and %s', _kind, case when _kind = 'silence' then 'd.ends_at > now()' else 'true' end)
    into _count using _org_id;
    if _count >= _most then
      raise exception 'the org has % of them, which is all that it may have', _count using errcode = 'PT422', hint = 'definition_limit';
    end if;
    execute format('insert into obs.%1$I select * from jsonb_populate_record(null::obs.%1$I, $1)', _kind) using _definition;
  else
    if _fields ? 'config' then
      _fields := _fields || jsonb_build_object('config', lib.change_config(_before -> 'config', _fields -> 'config'));
    end if;
    _fields := _fields || jsonb_build_object('updated_at', now());
    -- Steps that stay as they are may name channels that were deleted since.
    perform lib.check_definition(
      _kind, _org_id, case when _fields ? 'steps' then _before || _fields else (_before || _fields) - 'steps' end
    );
    execute format(
      'update obs.%1$I d set %2$s from jsonb_populate_record(null::obs.%1$I, $1) r where d.id = $2',
      _kind, (select string_agg(format('%1$I = r.%1$I', k), ', ') from jsonb_object_keys(_fields) as k)
    ) using _fields, _id;
    if _kind = 'channel' then
      -- It may have been enabled again, or be told sooner: what is late job.heal_alerts finds.
      update obs.notification_group g
      set flush_at = least(g.flush_at, now())
      where g.channel_id = _id and exists (select from obs.notification_member m where m.group_id = g.id);
    end if;
  end if;
  _definition := lib.find_definition(_org_id, _kind, _id);
  perform lib.audit(
    _org_id, _actor, _request, _kind || case when _before is null then '.create' else '.update' end, _kind, _id::text,
    lib.audited_definition(_kind, _before), lib.audited_definition(_kind, _definition)
  );
  return lib.definition_fields(_kind, _definition);
exception
  when unique_violation then
    raise exception 'another has this name already' using errcode = 'PT409', hint = 'name_taken', column = 'name';
  when invalid_parameter_value then
    -- Which time zones there are is for the server's own files to say.
    if _kind <> 'maintenance_window' or sqlerrm not like 'time zone %' then
      raise;
    end if;
    raise exception '%', sqlerrm using errcode = 'PT400', hint = 'invalid_request', column = 'timezone';
end
$$;
comment on function api.put_definition is
  'Makes a definition (lib.check_kind; _id null) or changes the given fields of one. _fields are columns of its table; of a channel''s config '
  'those parts change that are given, and null takes one away. Null where there is none to change. Raises PT400, PT409 (name_taken), PT422 (rule_limit; definition_limit, of '
  'the other kinds 1,000 each).';

create function api.get_definition(_org_id int, _kind text, _id uuid)
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
  _definition constant jsonb := lib.find_definition(_org_id, _kind, _id);
begin
  return case when _definition is not null then lib.definition_fields(_kind, _definition) end;
end
$$;
comment on function api.get_definition is 'A definition by its id, see lib.definition_fields; null where there is none.';

create function api.list_definitions(
  _org_id int,
  _kind text,
  _q text,
  _is_active boolean,
  _before_created_at timestamptz,
  _before_id uuid,
  _limit int
)
returns setof jsonb
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query execute format(
    $query$
      select lib.definition_fields(%1$L, to_jsonb(d), false)
      from obs.%1$I d
      where d.org_id = $1
        and ($2 is null or strpos(lower(%2$s), lower($2)) > 0)
        and ($3 is null or (%3$s) = $3)
        and ($4 is null or (d.created_at, d.id) < ($4, $5))
      order by d.created_at desc, d.id desc
      limit $6
    $query$,
    lib.check_kind(_kind),
    case when _kind = 'silence' then 'd.reason' else 'd.name' end,
    case _kind
      when 'silence' then 'd.starts_at <= now() and d.ends_at > now()'
      when 'maintenance_window' then 'lib.window_end(d, now()) is not null'
      when 'dashboard' then 'true'
      else 'd.is_enabled'
    end
  )
  using _org_id, _q, _is_active, _before_created_at, _before_id, _limit;
end
$$;
comment on function api.list_definitions is
  'Definitions of a kind, newest first, at most _limit, after (_before_created_at, _before_id): with _q in their name (a silence''s reason), and '
  'active or not: enabled, or in force at this moment.';

create function api.delete_definition(_org_id int, _kind text, _id uuid, _actor text, _request jsonb default null)
returns boolean
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _before jsonb := lib.find_definition(_org_id, _kind, _id);
  _name text;
begin
  if _kind = 'alert_rule' then
    perform 1 from obs.alert_rule_state t where t.rule_id = _id and t.org_id = _org_id for update;
    if found then
      perform lib.end_rule_alerts(_id, _actor, 'the rule was deleted');
    end if;
  elsif _kind = 'channel' then
    select e.name into _name
    from obs.escalation e
    cross join jsonb_array_elements(e.steps) as s (step)
    where e.org_id = _org_id and s.step -> 'channel_ids' ? _id::text
    order by e.name
    limit 1;
    if found then
      raise exception 'the escalation % adds it: change that first', _name using errcode = 'PT409', hint = 'in_use';
    end if;
    -- In the order of a delivery that may be under way.
    perform 1 from obs.notification_group g where g.channel_id = _id and g.org_id = _org_id order by g.id for update;
    -- Before its groups go, with which they would stand alone.
    perform lib.settle_notification(n, 'dead', 'the channel was deleted', now())
    from obs.notification n
    where n.channel_id = _id and n.org_id = _org_id and n.status = 'pending';
  end if;
  execute format('delete from obs.%I d where d.id = $1 and d.org_id = $2 returning to_jsonb(d)', _kind) into _before using _id, _org_id;
  if _before is null then
    return false;
  end if;
  perform lib.audit(_org_id, _actor, _request, _kind || '.delete', _kind, _id::text, lib.audited_definition(_kind, _before), null);
  return true;
end
$$;
comment on function api.delete_definition is
  'Deletes a definition; returns whether there was one. A rule''s open alerts are resolved, a channel''s undelivered notifications given up. '
  'Raises PT409 (in_use) for a channel that an escalation adds.';

create function api.get_default_escalation(_org_id int)
returns table (name text, severity text, steps jsonb)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  select 'default', s.severity, lib.default_escalation(s.severity) -> 'steps'
  from unnest(array['critical', 'warning']) as s (severity)
  where not exists (select from obs.escalation e where e.org_id = _org_id);
end
$$;
comment on function api.get_default_escalation is 'lib.default_escalation by severity, where the org has made no escalation and it is what alerts follow.';
