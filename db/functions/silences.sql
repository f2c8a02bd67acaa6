create function lib.matches_all(_matchers jsonb, _labels jsonb)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  return _matchers = '[]' or not exists (
    select
    from jsonb_to_recordset(_matchers) as m (label text, op text, value text)
    where not lib.matches(coalesce(_labels ->> m.label, ''), m.op, m.value)
  );
end
$$;
comment on function lib.matches_all is 'Whether labels are as all matchers want them; one that is missing counts as ''''.';

create function lib.alert_labels(_alert obs.alert)
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
begin
  return lib.own_labels(_alert) || _alert.labels
    || jsonb_strip_nulls(jsonb_build_object('alertname', _alert.name, 'severity', _alert.severity, 'source', _alert.source));
end
$$;
comment on function lib.alert_labels is
  'The labels by which alerts are matched and grouped: their own, with alertname, severity, source, and service and service_name where they have none of that name.';

create function lib.window_end(_window obs.maintenance_window, _now timestamptz)
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
declare
  _local_start constant timestamp := _window.starts_at at time zone _window.timezone;
  _length constant interval := _window.ends_at - _window.starts_at;
  _today constant date := (_now at time zone _window.timezone)::date;
  _day date;
  _start timestamptz;
begin
  if _window.repeats = 'never' then
    return case when _now >= _window.starts_at and _now < _window.ends_at then _window.ends_at end;
  end if;
  -- One that began some days ago may still last.
  for _ago in 0..(ceil(extract(epoch from _length) / 86400)::int + 1) loop
    _day := _today - _ago;
    continue when _day < _local_start::date or not case _window.repeats
      when 'daily' then true
      when 'weekly' then
        extract(isodow from _day)::int = any (
          case when _window.weekdays = '{}' then array[extract(isodow from _local_start)::int] else _window.weekdays end
        )
      else extract(day from _day) = extract(day from _local_start)
    end;
    _start := lib.local_instant(_day + _local_start::time, _window.timezone);
    if _start <= _now and _now < _start + _length and (_window.until is null or _start < _window.until) then
      return _start + _length;
    end if;
  end loop;
  return null;
end
$$;
comment on function lib.window_end is
  'When the occurrence of a maintenance window ends that lasts at _now; null where none does. Each begins at the same reading of the clock in its time zone, '
  'whether summer time is in force or not, and lasts equally long; a monthly one passes over months that do not have its day.';

create function lib.list_silences(_org_id int, _now timestamptz)
returns table (kind text, id uuid, name text, matchers jsonb, until timestamptz)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select 'silence', s.id, s.reason, s.matchers, s.ends_at
  from obs.silence s
  where s.org_id = _org_id and s.starts_at <= _now and s.ends_at > _now
  union all
  select 'maintenance_window', w.id, w.name, w.matchers, e.until
  from obs.maintenance_window w
  cross join lateral lib.window_end(w, _now) as e (until)
  where w.org_id = _org_id and e.until is not null;
end
$$;
comment on function lib.list_silences is 'The silences and maintenance windows of an org that are in force at _now, and until when.';

create function lib.list_mutes(_alert obs.alert, _now timestamptz)
returns table (kind text, id uuid, name text, until timestamptz)
language plpgsql
stable
set search_path = ''
as $$
declare
  _labels constant jsonb := lib.alert_labels(_alert);
begin
  return query
  select s.kind, s.id, s.name, s.until
  from lib.list_silences(_alert.org_id, _now) s
  where lib.matches_all(s.matchers, _labels)
  union all
  -- A service that is down mutes what is less severe about it.
  select 'alert', a.id, a.name, null
  from obs.alert a
  where a.org_id = _alert.org_id and a.service_name = _alert.service_name and a.source = 'service'
    and a.status in ('firing', 'acknowledged')
    and lib.severity_rank(a.severity) > lib.severity_rank(_alert.severity);
end
$$;
comment on function lib.list_mutes is
  'What keeps an alert from being notified of at _now: silences, maintenance windows, the alert that its service is unhealthy where that is more severe (no until then).';

create function lib.mute_members(
  _group obs.notification_group,
  _now timestamptz,
  out alert_ids uuid[],
  out names text[],
  out until timestamptz
)
language plpgsql
stable
set search_path = ''
as $$
declare
  _ids uuid[];
  _labels jsonb[];
  _silence record;
  _matching uuid[];
begin
  alert_ids := array(
    select a.id
    from obs.notification_member m
    join obs.alert a on a.id = m.alert_id
    where m.group_id = _group.id and a.status <> 'resolved' and exists (
      select
      from obs.alert s
      where s.org_id = _group.org_id and s.service_name = a.service_name and s.source = 'service'
        and s.status in ('firing', 'acknowledged')
        and lib.severity_rank(s.severity) > lib.severity_rank(a.severity)
    )
  );
  names := array_fill('its service is unhealthy'::text, array[cardinality(alert_ids)]);
  -- When the service will be well again nobody knows: soon is looked again.
  until := case when cardinality(alert_ids) > 0 then _now + interval '30 seconds' end;
  for _silence in
    select s.kind, s.name, s.matchers, s.until, coalesce(e.equal, '{}') as equal
    from lib.list_silences(_group.org_id, _now) s
    cross join lateral (
      select jsonb_object_agg(m.label, m.value) as equal
      from jsonb_to_recordset(s.matchers) as m (label text, op text, value text)
      where m.op = '=' and m.value <> ''
    ) as e
  loop
    if _ids is null then
      select array_agg(a.id), array_agg(lib.alert_labels(a)) into _ids, _labels
      from obs.notification_member m
      join obs.alert a on a.id = m.alert_id
      where m.group_id = _group.id and a.status <> 'resolved';
      exit when _ids is null;
    end if;
    -- One silence after the other with all alerts, so that a pattern is compiled once; what is to be equal is soon compared.
    _matching := array(
      select m.id
      from unnest(_ids, _labels) as m (id, labels)
      where m.labels @> _silence.equal and lib.matches_all(_silence.matchers, m.labels)
    );
    if cardinality(_matching) > 0 then
      alert_ids := alert_ids || _matching;
      names := names || array_fill(replace(_silence.kind, '_', ' ') || ': ' || _silence.name, array[cardinality(_matching)]);
      until := least(until, _silence.until);
    end if;
  end loop;
end
$$;
comment on function lib.mute_members is
  'Which alerts of a group are muted at _now, as lib.list_mutes says of each, by what (names[i] mutes alert_ids[i]), and when to look again at the '
  'latest; null where none is.';

create function lib.muted_until(_alert obs.alert, _now timestamptz)
returns timestamptz
language sql
stable
as $$
  -- Not known in advance: looked at again soon. What ends last is what counts, and it may be made longer or shorter.
  select max(coalesce(m.until, _now + interval '30 seconds')) from lib.list_mutes(_alert, _now) m
$$;
comment on function lib.muted_until is 'Until when an alert is muted, as far as can be told at _now; null where it is not.';

create function lib.muted_by(_alert obs.alert, _now timestamptz)
returns json
language sql
stable
as $$
  select coalesce(
    json_agg(json_build_object('kind', m.kind, 'id', m.id, 'name', m.name, 'until', lib.rfc3339(m.until)) order by m.kind, m.id), '[]'
  )
  from lib.list_mutes(_alert, _now) m
$$;
comment on function lib.muted_by is 'lib.list_mutes as JSON.';
