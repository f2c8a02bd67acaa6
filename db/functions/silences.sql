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

create function lib.has_mutes(_org_id int, _now timestamptz)
returns boolean
language sql
stable
as $$
  select exists (select from obs.silence s where s.org_id = _org_id and s.starts_at <= _now and s.ends_at > _now)
    or exists (select from obs.maintenance_window w where w.org_id = _org_id and lib.window_end(w, _now) is not null)
    or exists (
      select from obs.alert a where a.org_id = _org_id and a.source = 'service' and a.status in ('firing', 'acknowledged')
    )
$$;
comment on function lib.has_mutes is 'Whether anything of an org can mute alerts at _now: lib.list_mutes of each of thousands need not be asked where nothing can.';

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
  select 'silence', s.id, s.reason, s.ends_at
  from obs.silence s
  where s.org_id = _alert.org_id and s.starts_at <= _now and s.ends_at > _now and lib.matches_all(s.matchers, _labels)
  union all
  select 'maintenance_window', w.id, w.name, e.until
  from obs.maintenance_window w
  cross join lateral lib.window_end(w, _now) as e (until)
  where w.org_id = _alert.org_id and e.until is not null and lib.matches_all(w.matchers, _labels)
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
