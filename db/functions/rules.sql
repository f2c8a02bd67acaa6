create function lib.matches(_actual text, _op text, _value text)
returns boolean
language sql
immutable
as $$
  select case _op
    when '=' then _actual = _value
    when '!=' then _actual <> _value
    -- Whatever the database's locale, so that \w means what it means elsewhere.
    when '=~' then _actual collate "C" ~ ('^(?:' || _value || ')$')
    when '!~' then _actual collate "C" !~ ('^(?:' || _value || ')$')
  end
$$;
comment on function lib.matches is 'Whether a label''s value is as a matcher wants it; a regular expression has to match all of it.';

create function lib.label_of(_service_name text, _labels jsonb, _label text)
returns text
language sql
immutable
as $$
  select case _label
    when 'service_name' then _service_name
    when 'service' then coalesce(nullif(_service_name, ''), _labels ->> 'service', '')
    else coalesce(_labels ->> _label, '')
  end
$$;
comment on function lib.label_of is
  'A label of a series as rules see it, '''' where it has none; service is the service it came from, or a label of that name.';

create function lib.match_selectors(_org_id int, _selectors jsonb[])
returns table (selector_number int, series_id int, group_labels jsonb)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
begin
  return query
  with selector as materialized (
    select s.number::int, s.definition ->> 'metric' as metric, s.definition -> 'by' as by, m.labels, m.service, m.filters
    from unnest(_selectors) with ordinality as s (definition, number)
    cross join lateral (
      select
        coalesce(jsonb_object_agg(f.label, f.value) filter (where f.is_label), '{}') as labels,
        min(f.value) filter (where f.is_service) as service,
        coalesce(jsonb_agg(to_jsonb(f)) filter (where not f.is_label), '[]') as filters
      from (
        select e.label, e.op, e.value,
          e.op = '=' and e.value <> '' and e.label not in ('service', 'service_name') and count(*) over (partition by e.label) = 1 as is_label,
          e.op = '=' and e.value <> '' and e.label in ('service', 'service_name') as is_service
        from jsonb_to_recordset(s.definition -> 'matchers') as e (label text, op text, value text)
      ) as f
    ) as m
  )
  select e.number, s.id,
    case
      when e.by = '[]' then '{}'
      else (select jsonb_object_agg(k, lib.label_of(s.service_name, s.labels, k)) from jsonb_array_elements_text(e.by) as k)
    end
  from selector e
  join obs.series s on s.org_id = _org_id and s.name = e.metric
  where s.labels @> e.labels
    and (e.service is null or s.service_name in (e.service, ''))
    and (e.filters = '[]' or not exists (
      select
      from jsonb_to_recordset(e.filters) as f (label text, op text, value text)
      where not lib.matches(lib.label_of(s.service_name, s.labels, f.label), f.op, f.value)
    ));
end
$$;
comment on function lib.match_selectors is
  'The series of each selector of a rule (see src/rules/expression.ts), with the labels of the group that it belongs to.';

create function lib.evaluate_selectors(_org_id int, _selectors jsonb[], _end timestamptz)
returns table (selector_number int, group_labels jsonb, value float8)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _raw_kept_from constant timestamptz := obs.kept_from('sample', now());
  _part record;
  _start timestamptz;
begin
  -- All selectors that ask the same of a window are one question.
  for _part in
    with matched as (
      select m.selector_number, m.series_id, m.group_labels,
        dense_rank() over (order by m.selector_number, m.group_labels)::int as group_number
      from lib.match_selectors(_org_id, _selectors) m
    ),
    asked as (
      select s.number::int, s.definition ->> 'aggregation' as aggregation, (s.definition ->> 'window_seconds')::float8 as window_seconds
      from unnest(_selectors) with ordinality as s (definition, number)
    )
    select a.aggregation, a.window_seconds, array_agg(m.series_id) as series_ids, array_agg(m.group_number) as group_numbers,
      array_agg(m.selector_number) as selector_numbers, array_agg(m.group_labels) as group_labels,
      count(distinct m.group_number)::int as group_count
    from matched m
    join asked a on a.number = m.selector_number
    group by a.aggregation, a.window_seconds
  loop
    _start := lib.clip_start(_org_id, _end - make_interval(secs => _part.window_seconds), _end);
    return query
    select g.selector_number, g.group_labels, v.value
    from (
      -- Of a short window raw samples are all there is to read, which need not be found out.
      select a.group_number, a.value
      from lib.aggregate_samples(_part.series_ids, _part.group_numbers, _start, _end, _part.aggregation, null, 'UTC') a
      where _part.window_seconds <= 3600 and _start >= _raw_kept_from
      union all
      select a.group_number, a.value
      from lib.aggregate_range(
        _org_id, _part.series_ids, _part.group_numbers, _part.group_count, _start, _end, _part.aggregation, null, 'UTC'
      ) as a
      where not (_part.window_seconds <= 3600 and _start >= _raw_kept_from)
    ) as v
    join (
      select distinct on (u.group_number) u.group_number, u.selector_number, u.group_labels
      from unnest(_part.group_numbers, _part.selector_numbers, _part.group_labels) as u (group_number, selector_number, group_labels)
    ) as g on g.group_number = v.group_number
    where v.value is not null;
  end loop;
end
$$;
comment on function lib.evaluate_selectors is
  'What each selector of rules is by group over its window before _end, as api.query_metrics would answer; no row for a group without a value.';

create function lib.number_of(_node jsonb, _values float8[])
returns float8
language plpgsql
immutable
set search_path = ''
as $$
declare
  _op constant text := _node ->> 'op';
  _left float8;
  _right float8;
begin
  if _op = 'selector' then
    return _values[(_node ->> 'selector')::int + 1];
  elsif _op = 'number' then
    return (_node ->> 'value')::float8;
  elsif _op = 'negate' then
    return -lib.number_of(_node -> 'operand', _values);
  end if;
  _left := lib.number_of(_node -> 'left', _values);
  _right := lib.number_of(_node -> 'right', _values);
  begin
    return case _op
      when '+' then _left + _right
      when '-' then _left - _right
      when '*' then _left * _right
      when '/' then _left / nullif(_right, 0)
      when '%' then _left - _right * trunc(_left / nullif(_right, 0))
    end;
  exception
    when numeric_value_out_of_range then
      return null;
  end;
end
$$;
comment on function lib.number_of is
  'The value of a number of a rule''s tree; _values are those of its selectors for one group. Null where a part has none, for a division by '
  'zero, and where the result is beyond float8. The remainder has the sign of the dividend, as in PromQL.';

create function lib.compare(_op text, _left float8, _right float8)
returns boolean
language sql
immutable
as $$
  select case _op
    when '>' then _left > _right
    when '>=' then _left >= _right
    when '<' then _left < _right
    when '<=' then _left <= _right
    when '==' then _left = _right
    when '!=' then _left <> _right
  end
$$;
comment on function lib.compare is 'A comparison of a rule; null where a side has no value.';

create function lib.condition_holds(_node jsonb, _values float8[])
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
declare
  _op constant text := _node ->> 'op';
  _left float8;
  _right float8;
begin
  if _op = 'and' then
    return lib.condition_holds(_node -> 'left', _values) and lib.condition_holds(_node -> 'right', _values);
  elsif _op = 'or' then
    return lib.condition_holds(_node -> 'left', _values) or lib.condition_holds(_node -> 'right', _values);
  elsif _op = 'absent' then
    return _values[(_node ->> 'selector')::int + 1] is null;
  end if;
  -- As variables, so that the comparison becomes part of the expression instead of a call.
  _left := lib.number_of(_node -> 'left', _values);
  _right := lib.number_of(_node -> 'right', _values);
  return lib.compare(_op, _left, _right);
end
$$;
comment on function lib.condition_holds is
  'Whether a condition of a rule''s tree holds for a group; null where that hangs on a value that it does not have (true or null is true, '
  'false and null is false).';

create function lib.condition_value(_node jsonb, _values float8[])
returns float8
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case _node ->> 'op'
    when 'and' then lib.condition_value(_node -> 'left', _values)
    when 'or' then case
      when lib.condition_holds(_node -> 'left', _values) then lib.condition_value(_node -> 'left', _values)
      else lib.condition_value(_node -> 'right', _values)
    end
    when 'absent' then null
    else lib.number_of(case when _node #>> '{left,op}' = 'number' then _node -> 'right' else _node -> 'left' end, _values)
  end;
end
$$;
comment on function lib.condition_value is
  'The number that a condition is about: of a comparison the left side, or the right where the left is a constant; of several the first, of '
  'those joined by or the first that holds. Null for absent().';

create function lib.evaluate_conditions(
  _org_id int,
  _rules obs.alert_rule[],
  _open_rule_ids uuid[],
  _open_groups jsonb[],
  _open_are_reported boolean[],
  _end timestamptz
)
returns table (rule_id uuid, group_labels jsonb, holds boolean, value float8, has_data boolean)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _selectors jsonb[];
  _silent_selectors jsonb[];
begin
  select
    array_agg(distinct s),
    array_agg(distinct s) filter (where r.no_data = 'alert' and s -> 'by' <> '[]')
  into _selectors, _silent_selectors
  from unnest(_rules) as r
  cross join jsonb_array_elements(r.tree -> 'selectors') as s;

  return query
  with rule as materialized (
    select r.id, r.no_data, r.tree -> 'condition' as condition, r.tree -> 'by' as by,
      r.tree #>> '{condition,op}' as op,
      (r.tree #>> '{condition,right,value}')::float8 as threshold,
      -- By far most rules compare one aggregate with a number.
      jsonb_array_length(r.tree -> 'selectors') = 1
        and coalesce(r.tree #>> '{condition,left,op}' = 'selector' and r.tree #>> '{condition,right,op}' = 'number', false) as is_plain
    from unnest(_rules) as r
  ),
  rule_selector as materialized (
    select r.id as rule_id, s.position::int, n.number::int, s.selector -> 'by' <> '[]' as is_grouped
    from unnest(_rules) as r
    cross join jsonb_array_elements(r.tree -> 'selectors') with ordinality as s (selector, position)
    join unnest(_selectors) with ordinality as n (selector, number) on n.selector = s.selector
  ),
  plain_rule as materialized (
    select r.id, r.no_data, r.op, r.threshold, rs.number
    from rule r
    join rule_selector rs on rs.rule_id = r.id
    where r.is_plain
  ),
  found as materialized (
    select v.selector_number, v.group_labels, v.value from lib.evaluate_selectors(_org_id, _selectors, _end) v
  ),
  open_group as materialized (
    select o.rule_id, o.group_labels, o.is_reported
    from unnest(_open_rule_ids, _open_groups, _open_are_reported) as o (rule_id, group_labels, is_reported)
  ),
  -- Groups of which it is to be told that they have no data: those that had samples within the last day; where a rule does not group,
  -- all its series; where it does and there is no group, that.
  silent_group as materialized (
    select distinct r.id as rule_id, m.group_labels
    from lib.match_selectors(_org_id, _silent_selectors) m
    join unnest(_silent_selectors) with ordinality as n (selector, number) on n.number = m.selector_number
    join unnest(_selectors) with ordinality as a (selector, number) on a.selector = n.selector
    join rule_selector rs on rs.number = a.number
    join rule r on r.id = rs.rule_id and r.no_data = 'alert'
    where exists (
      select
      from obs.sample s
      where s.series_id = m.series_id and s.time >= _end - interval '1 day' and s.time < _end
    )
  ),
  watched_silence as materialized (
    select s.rule_id, s.group_labels from silent_group s
    union all
    select r.id, '{}'::jsonb
    from rule r
    where r.no_data = 'alert' and (r.by = '[]' or not exists (select from silent_group s where s.rule_id = r.id))
  ),
  -- Groups that are looked at whether they have a value or not.
  watched_group as materialized (
    select o.rule_id, o.group_labels from open_group o
    union
    select s.rule_id, s.group_labels from watched_silence s
    union
    select r.id, '{}'::jsonb from rule r where r.by = '[]'
  ),
  grouped as (
    select w.rule_id, w.group_labels from watched_group w join rule r on r.id = w.rule_id and not r.is_plain
    union
    select rs.rule_id, f.group_labels
    from rule_selector rs
    join rule r on r.id = rs.rule_id and not r.is_plain
    join found f on f.selector_number = rs.number
    where rs.is_grouped
  ),
  judged as materialized (
    select r.id as rule_id, r.no_data, f.group_labels, true as holds, f.value
    from plain_rule r
    join found f on f.selector_number = r.number
    where lib.compare(r.op, f.value, r.threshold)
    union all
    select r.id, r.no_data, w.group_labels, lib.compare(r.op, f.value, r.threshold), f.value
    from watched_group w
    join plain_rule r on r.id = w.rule_id
    left join found f on f.selector_number = r.number and f.group_labels = w.group_labels
    -- Those for which it holds are among the first.
    where lib.compare(r.op, f.value, r.threshold) is not true
    union all
    select r.id, r.no_data, v.group_labels, h.holds, case when h.holds then lib.condition_value(r.condition, v.values) end
    from (
      select g.rule_id, g.group_labels, array_agg(f.value order by rs.position) as values
      from grouped g
      join rule_selector rs on rs.rule_id = g.rule_id
      left join found f
        on f.selector_number = rs.number and f.group_labels = case when rs.is_grouped then g.group_labels else '{}' end
      group by g.rule_id, g.group_labels
    ) as v
    join rule r on r.id = v.rule_id
    cross join lateral (select lib.condition_holds(r.condition, v.values) as holds) as h
  )
  select j.rule_id, j.group_labels, d.holds, j.value, j.holds is not null
  from judged j
  join rule r on r.id = j.rule_id
  cross join lateral (
    select coalesce(j.holds, case j.no_data
      when 'ok' then false
      when 'alert' then exists (select from watched_silence s where s.rule_id = j.rule_id and s.group_labels = j.group_labels)
    end) as holds
  ) as d
  where (r.by = '[]' or j.group_labels <> '{}')
    and (d.holds or exists (select from open_group o where o.rule_id = j.rule_id and o.group_labels = j.group_labels))
  union all
  -- An alert that is about no group, of a rule that groups: that there is none, or one that a client opened, for which any group counts.
  select r.id, '{}'::jsonb,
    case
      when h.is_silent then true
      when not h.is_reported then false
      when h.has_data or r.no_data <> 'keep' then h.holds
    end,
    null, h.has_data
  from rule r
  cross join lateral (
    select
      exists (select from watched_silence s where s.rule_id = r.id and s.group_labels = '{}') as is_silent,
      exists (select from judged j where j.rule_id = r.id and j.holds and j.group_labels <> '{}') as holds,
      exists (select from rule_selector rs join found f on f.selector_number = rs.number where rs.rule_id = r.id and rs.is_grouped) as has_data,
      bool_or(o.is_reported) as is_reported,
      count(*) > 0 as is_open
    from open_group o
    where o.rule_id = r.id and o.group_labels = '{}'
  ) as h
  where r.by <> '[]' and (h.is_silent or h.is_open);
end
$$;
comment on function lib.evaluate_conditions is
  'For which groups of series the conditions of an org''s rules hold, all at once, with samples before _end; and how it is with the groups that '
  'have an open alert. holds is null where that is not known and no_data is keep; has_data says whether it follows from samples.';

create function lib.next_alert_status(
  _status text,
  _holds boolean,
  _active_since timestamptz,
  _keep_firing_since timestamptz,
  _for_seconds float8,
  _keep_firing_for_seconds float8,
  _now timestamptz
)
returns text
language sql
immutable
as $$
  select case
    when _holds is null then _status
    when _status = 'inactive' then case when not _holds then 'inactive' when _for_seconds = 0 then 'firing' else 'pending' end
    when _status = 'pending' then case
      when not _holds then 'inactive'
      when _now >= _active_since + make_interval(secs => _for_seconds) then 'firing'
      else 'pending'
    end
    -- Opened by a client: the condition has not held yet, so that it does not says nothing.
    when _holds or _active_since is null then _status
    when _now >= coalesce(_keep_firing_since, _now) + make_interval(secs => _keep_firing_for_seconds) then 'resolved'
    else _status
  end
$$;
comment on function lib.next_alert_status is
  'The status of a rule''s alert after one more look at its condition (null: not known, nothing changes). The state machine is that of '
  'Prometheus (rules/alerting.go): inactive, pending until the condition has held for _for_seconds, firing (or acknowledged) until it has '
  'been gone for _keep_firing_for_seconds.';

create function lib.render_template(_parts jsonb, _labels jsonb, _value float8)
returns text
language sql
immutable
as $$
  select string_agg(
    case
      when jsonb_typeof(p.part) = 'string' then p.part #>> '{}'
      when p.part ? 'value' then lib.format_value(_value)
      else coalesce(_labels ->> (p.part ->> 'label'), '')
    end,
    '' order by p.position
  )
  from jsonb_array_elements(_parts) with ordinality as p (part, position)
$$;
comment on function lib.render_template is
  'A template (src/rules/template.ts) filled in; a label that the alert does not have is ''''.';

create function lib.format_value(_value float8)
returns text
language sql
immutable
as $$
  select case
    when _value is null then 'no data'
    when _value = 0 then '0'
    when abs(_value) between 1e-4 and 1e15 then trim_scale(round(_value::numeric, 5 - floor(log(abs(_value)))::int))::text
    else _value::text
  end
$$;
comment on function lib.format_value is 'A value as people read it: six significant digits.';

create function lib.render_templates(_templates jsonb, _labels jsonb, _value float8)
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
begin
  if _templates = '{}' then
    return _templates;
  end if;
  return (
    select jsonb_object_agg(t.key, left(lib.render_template(t.value, _labels, _value), 4096)) from jsonb_each(_templates) as t
  );
end
$$;
comment on function lib.render_templates is 'Templates by name filled in, each cut at 4096 characters.';

create function lib.describe_rule_alert(_rule obs.alert_rule, _annotations jsonb, _value float8)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  return coalesce(
    nullif(_annotations ->> 'description', ''), nullif(_annotations ->> 'summary', ''),
    _rule.expression || case when _value is null then '' else ': ' || lib.format_value(_value) end
  );
end
$$;
comment on function lib.describe_rule_alert is 'The description of a rule''s alert: its annotation description or summary, or the expression and the value.';

create function lib.rule_fingerprint(_rule_id uuid, _group_labels jsonb)
returns text
language sql
immutable
as $$
  select 'rule:' || _rule_id || ':' || md5(_group_labels::text)
$$;
comment on function lib.rule_fingerprint is 'Fingerprint of a rule''s alert for a group of series.';

create function lib.rule_alert(_rule obs.alert_rule, _group_labels jsonb, _value float8, _now timestamptz)
returns obs.alert
language plpgsql
stable
set search_path = ''
as $$
declare
  _alert obs.alert;
begin
  _alert.id := gen_random_uuid();
  _alert.org_id := _rule.org_id;
  _alert.source := 'rule';
  _alert.rule_id := _rule.id;
  _alert.fingerprint := lib.rule_fingerprint(_rule.id, _group_labels);
  _alert.name := _rule.name;
  _alert.severity := _rule.severity;
  _alert.group_labels := _group_labels;
  _alert.service_name := coalesce(
    nullif(_group_labels ->> 'service', ''), nullif(_group_labels ->> 'service_name', ''), _rule.service_name
  );
  _alert.labels := _group_labels || lib.render_templates(
    _rule.label_templates, _group_labels || lib.own_labels(_alert), _value
  );
  _alert.annotations := lib.render_templates(_rule.annotation_templates, _alert.labels || lib.own_labels(_alert), _value);
  _alert.description := lib.describe_rule_alert(_rule, _alert.annotations, _value);
  _alert.metadata := jsonb_build_object('expression', _rule.expression);
  _alert.value := _value;
  _alert.status := 'inactive';
  _alert.started_at := _now;
  _alert.active_since := _now;
  _alert.escalation_step := 0;
  return _alert;
end
$$;
comment on function lib.rule_alert is 'The alert of a rule for a group of series, inactive and not stored yet.';

create function lib.own_labels(_alert obs.alert)
returns jsonb
language sql
immutable
as $$
  select jsonb_strip_nulls(jsonb_build_object(
    'alertname', _alert.name, 'severity', _alert.severity, 'service', _alert.service_name, 'service_name', _alert.service_name,
    'source', _alert.source
  ))
$$;
comment on function lib.own_labels is 'What of an alert counts as labels besides those that it has: alertname, severity, service (and service_name), source.';

create function lib.schedule_rules(_org_id int, _now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _next_at timestamptz;
begin
  select least(
    (select min(t.next_evaluation_at) from obs.alert_rule_state t where t.org_id = _org_id),
    (select min(a.escalate_at) from obs.alert a where a.org_id = _org_id and a.escalate_at is not null)
  )
  into _next_at;
  if _next_at is not null then
    perform queue.evaluate(_org_id, greatest(_next_at, _now));
  end if;
end
$$;
comment on function lib.schedule_rules is 'Has a worker come back to an org when the next of its rules, or of its escalations, is due.';

create function lib.advance_alert(
  _rule obs.alert_rule,
  _group_labels jsonb,
  _holds boolean,
  _value float8,
  _has_data boolean,
  _now timestamptz
)
returns boolean
language plpgsql
volatile
set search_path = ''
-- Rows are found by their keys. A plan that was made while there were few would read the whole table for each of thousands of alerts
-- of one transaction.
set enable_seqscan = 'off'
as $$
declare
  -- As a variable, so that the index is searched for it instead of computing it for each alert.
  _fingerprint constant text := lib.rule_fingerprint(_rule.id, _group_labels);
  _alert obs.alert;
  _next text;
  _details constant jsonb := jsonb_strip_nulls(jsonb_build_object('value', _value, 'no_data', nullif(not _has_data, false)));
begin
  -- Whoever acknowledges or resolves it now is waited for.
  select * into _alert
  from obs.alert a
  where a.org_id = _rule.org_id and a.fingerprint = _fingerprint and a.status <> 'resolved'
  for no key update;
  _next := lib.next_alert_status(
    coalesce(_alert.status, 'inactive'), _holds, _alert.active_since, _alert.keep_firing_since,
    _rule.for_seconds, _rule.keep_firing_for_seconds, _now
  );
  if _alert.id is null then
    if _next = 'inactive' then
      return false;
    end if;
    _alert := lib.rule_alert(_rule, _group_labels, _value, _now);
    -- A client may be opening it at this moment.
    insert into obs.alert select _alert.* on conflict (org_id, fingerprint) where status <> 'resolved' do nothing;
    if not found then
      return false;
    end if;
  elsif _holds then
    _alert.annotations := lib.render_templates(_rule.annotation_templates, _alert.labels || lib.own_labels(_alert), _value);
    update obs.alert
    set
      value = _value,
      active_since = coalesce(active_since, _now),
      keep_firing_since = null,
      annotations = case when source = 'rule' then _alert.annotations else annotations end,
      description = case when source = 'rule' then lib.describe_rule_alert(_rule, _alert.annotations, _value) else description end
    where id = _alert.id and (value is distinct from _value or active_since is null or keep_firing_since is not null);
  elsif not _holds and _alert.status in ('firing', 'acknowledged') and _alert.active_since is not null then
    update obs.alert set keep_firing_since = _now where id = _alert.id and keep_firing_since is null;
  end if;
  if _next <> coalesce(_alert.status, 'inactive') then
    perform lib.transition_alert(
      _alert.id, _next, 'worker',
      case when _next = 'resolved' then case when _has_data then 'the condition does not hold any more' else 'there is no data any more' end end,
      _details, _now
    );
    return true;
  end if;
  return false;
end
$$;
comment on function lib.advance_alert is
  'What one more look at a rule''s condition means for the alert of a group of series: it is opened, kept up to date, or changes its '
  'status. Returns whether it did.';

create function job.evaluate_rules(_org_id int, _now timestamptz default now(), _limit int default null, _rule_id uuid default null)
returns int
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  -- What one transaction may change, and how long it may take for that: the rest follows in others. With each alert come its groups and
  -- their jobs, of which there may be many.
  _most_changes constant int := 3000;
  _most_time constant interval := interval '3 seconds';
  _began constant timestamptz := clock_timestamp();
  _rules obs.alert_rule[];
  _part obs.alert_rule[];
  _delay float8;
  _row record;
  _changes int := 0;
  _changes_began timestamptz;
  _is_full boolean := false;
  _done uuid[] := array[]::uuid[];
begin
  -- No plan_cache_mode of its own: it would be that of all that is called, and each alert's statements planned anew each time.

  -- One at a time for an org, whatever the number of jobs and workers: a second could only wait.
  if not pg_try_advisory_xact_lock(hashtext('job.evaluate_rules'), _org_id) then
    return null;
  end if;
  -- What somebody changes just now is passed over, and comes a little later.
  select array_agg(r order by r.id) into _rules
  from (
    select t.rule_id
    from obs.alert_rule_state t
    where t.org_id = _org_id and t.next_evaluation_at <= _now
      -- One that could not be evaluated the last time is tried alone.
      and case when _rule_id is null then t.last_error is null else t.rule_id = _rule_id end
    order by t.next_evaluation_at, t.rule_id
    limit _limit
    for update skip locked
  ) as due
  join obs.alert_rule r on r.id = due.rule_id;

  for _delay, _part in
    select r.evaluation_delay_seconds, array_agg(r) from unnest(_rules) as r group by r.evaluation_delay_seconds
  loop
    exit when _is_full;
    _changes_began := null;
    for _row in
      with open_alert as materialized (
        select a.id, a.rule_id, a.group_labels, a.source = 'api' as is_reported
        from obs.alert a
        where a.rule_id in (select r.id from unnest(_part) as r) and a.status <> 'resolved'
      )
      select r as rule, e.group_labels, e.holds, e.value, e.has_data
      from lib.evaluate_conditions(
        _org_id, _part,
        (select array_agg(o.rule_id order by o.id) from open_alert o), (select array_agg(o.group_labels order by o.id) from open_alert o),
        (select array_agg(o.is_reported order by o.id) from open_alert o),
        _now - make_interval(secs => _delay)
      ) as e
      join unnest(_part) as r on r.id = e.rule_id
      order by e.rule_id, e.group_labels
    loop
      _changes_began := coalesce(_changes_began, clock_timestamp());
      if lib.advance_alert(_row.rule, _row.group_labels, _row.holds, _row.value, _row.has_data, _now) then
        _changes := _changes + 1;
        _is_full := _changes >= _most_changes or clock_timestamp() > _changes_began + _most_time;
        exit when _is_full;
      end if;
    end loop;
    _done := _done || array(select r.id from unnest(_part) as r where not _is_full or r.id < (_row.rule).id);
  end loop;

  -- A rule that was left in the middle stays due: what has been done of it is not done again.
  update obs.alert_rule_state t
  set
    next_evaluation_at = lib.slot_start(_org_id, r.interval_seconds, _now) + make_interval(secs => r.interval_seconds),
    last_evaluation_at = _now,
    last_evaluation_ms = extract(epoch from clock_timestamp() - _began) * 1000,
    last_error = null
  from unnest(_rules) as r
  where t.rule_id = r.id and r.id = any (_done);
  perform lib.schedule_rules(_org_id, _now);
  return coalesce(cardinality(_rules), 0);
end
$$;
comment on function job.evaluate_rules is
  'Looks at the conditions of those rules of an org that are due, at most _limit of them, the longest due first, and does what follows, all '
  'in one transaction: alerts, their history, the jobs that notify of them, the job of the next evaluation. Returns how many rules '
  'were due, null when another is evaluating the org''s rules at this moment. Rules of one interval are due at the same moments, so that they are '
  'evaluated together; those of another org at others.';

create function job.first_due_rule(_org_id int, _now timestamptz default now(), out rule_id uuid, out due int)
language sql
stable
security definer
set search_path = ''
as $$
  select
    (array_agg(t.rule_id order by t.last_error is not null, t.next_evaluation_at, t.rule_id))[1],
    count(*) filter (where t.last_error is null)::int
  from obs.alert_rule_state t
  where t.org_id = _org_id and t.next_evaluation_at <= _now
$$;
comment on function job.first_due_rule is
  'The rule of an org that has been due for longest, those last that could not be evaluated the last time; and how many are due besides these.';

create function job.fail_rule(_rule_id uuid, _error text, _now timestamptz default now())
returns void
language sql
volatile
security definer
set search_path = ''
as $$
  update obs.alert_rule_state t
  set
    -- Others of its org have to wait while it is tried.
    next_evaluation_at = _now + greatest(make_interval(secs => r.interval_seconds), interval '5 minutes'),
    last_evaluation_at = _now,
    last_evaluation_ms = null,
    last_error = left(_error, 1000)
  from obs.alert_rule r
  where t.rule_id = _rule_id and r.id = _rule_id and r.is_enabled
$$;
comment on function job.fail_rule is
  'Notes that a rule cannot be evaluated; it is tried again after its interval, or five minutes where that is longer. Its alerts stay as they are.';

create function api.test_rule(_org_id int, _fields jsonb, _start timestamptz, _end timestamptz)
returns table (evaluations int, alerts jsonb)
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
  _rule obs.alert_rule;
  _now timestamptz := _start;
  -- The open alerts, by the text of their group.
  _open jsonb := jsonb_build_object();
  _key text;
  _alert obs.alert;
  _fired_at timestamptz;
  _next text;
  _row record;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  _rule := jsonb_populate_record(lib.default_rule(), _fields);
  _rule.id := gen_random_uuid();
  _rule.org_id := _org_id;
  evaluations := 0;
  alerts := jsonb_build_array();
  while _now < _end loop
    evaluations := evaluations + 1;
    for _row in
      select e.group_labels, e.holds, e.value
      from lib.evaluate_conditions(
        _org_id, array[_rule],
        (select array_agg(_rule.id) from jsonb_each(_open)), (select array_agg(o.value -> 'alert' -> 'group_labels') from jsonb_each(_open) o), null,
        _now - make_interval(secs => _rule.evaluation_delay_seconds)
      ) as e
      order by e.group_labels
    loop
      _key := _row.group_labels::text;
      if _open ? _key then
        _alert := jsonb_populate_record(null::obs.alert, _open -> _key -> 'alert');
        _fired_at := (_open -> _key ->> 'fired_at')::timestamptz;
      else
        _alert := lib.rule_alert(_rule, _row.group_labels, _row.value, _now);
        _fired_at := null;
      end if;
      _next := lib.next_alert_status(
        _alert.status, _row.holds, _alert.active_since, _alert.keep_firing_since,
        _rule.for_seconds, _rule.keep_firing_for_seconds, _now
      );
      if _row.holds then
        _alert.keep_firing_since := null;
      elsif not _row.holds then
        _alert.keep_firing_since := coalesce(_alert.keep_firing_since, _now);
      end if;
      if _next = 'firing' and _alert.status <> 'firing' then
        _fired_at := _now;
        _alert := jsonb_populate_record(_alert, jsonb_build_object(
          'value', _row.value, 'annotations', lib.render_templates(_rule.annotation_templates, _alert.labels || lib.own_labels(_alert), _row.value)
        ));
        _alert.description := lib.describe_rule_alert(_rule, _alert.annotations, _row.value);
      end if;
      _alert.status := _next;
      if _next in ('inactive', 'resolved') then
        _open := _open - _key;
        alerts := alerts || lib.replayed_alert(_alert, _fired_at, _now);
      else
        _open := jsonb_set(_open, array[_key], jsonb_build_object('alert', to_jsonb(_alert), 'fired_at', _fired_at));
      end if;
    end loop;
    _now := _now + make_interval(secs => _rule.interval_seconds);
  end loop;
  select alerts || coalesce(
    jsonb_agg(lib.replayed_alert(
      jsonb_populate_record(null::obs.alert, o.value -> 'alert'), (o.value ->> 'fired_at')::timestamptz, null
    ) order by o.key),
    '[]'
  )
  into alerts
  from jsonb_each(_open) as o;
  select coalesce(jsonb_agg(a.value order by a.value ->> 'pending_at', a.ordinality), '[]')
  into alerts
  from jsonb_array_elements(alerts) with ordinality as a;
  return next;
end
$$;
comment on function api.test_rule is
  'What a rule (columns of obs.alert_rule) would have done, had it been evaluated at _start and each interval after it before _end, with the samples there are now: its '
  'alerts, in the order in which they began. Stores nothing.';

create function lib.replayed_alert(_alert obs.alert, _fired_at timestamptz, _ended_at timestamptz)
returns jsonb
language sql
stable
as $$
  select jsonb_build_object(
    'name', _alert.name, 'service_name', _alert.service_name, 'labels', _alert.labels, 'annotations', _alert.annotations,
    'description', _alert.description, 'value', _alert.value,
    'pending_at', lib.rfc3339(_alert.active_since), 'firing_at', lib.rfc3339(_fired_at), 'resolved_at', lib.rfc3339(_ended_at)
  )
$$;
comment on function lib.replayed_alert is 'An alert that there would have been, as api.test_rule answers it.';
