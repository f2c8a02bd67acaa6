-- Helpers in plain SQL are inlined into the query that calls them, which a "set search_path" would prevent.

create function lib.local_instant(_local timestamp, _timezone text)
returns timestamptz
language sql
immutable
parallel safe
as $$
  select case
    when ((_local at time zone _timezone) - interval '1 hour') at time zone _timezone = _local
      then (_local at time zone _timezone) - interval '1 hour'
    when ((_local at time zone _timezone) - interval '30 minutes') at time zone _timezone = _local
      then (_local at time zone _timezone) - interval '30 minutes'
    else _local at time zone _timezone
  end
$$;
comment on function lib.local_instant(timestamp, text) is
  'The first instant that a clock in _timezone reads _local. PostgreSQL''s own conversion takes the second where the clocks '
  'went back, by an hour or on Lord Howe Island by half of one.';

create function lib.bucket_start(_time timestamptz, _window interval, _timezone text, _range_start timestamptz)
returns timestamptz
language sql
immutable
parallel safe
as $$
  select case
    when _window is null then _range_start
    when _timezone = 'UTC' then public.time_bucket(_window, _time)
    -- Up to an hour a bucket is a fixed length of time, counted from a local midnight: bucketing on local
    -- clock readings would merge the two hours that share a reading when summer time ends.
    when _window <= interval '1 hour'
      then public.time_bucket(_window, _time, origin => timestamp '2000-01-03' at time zone _timezone)
    else lib.local_instant(public.time_bucket(_window, _time at time zone _timezone), _timezone)
  end
$$;
comment on function lib.bucket_start(timestamptz, interval, text, timestamptz) is
  'Start of the bucket that _time falls into: buckets of _window aligned to midnight in _timezone (weeks to Monday), '
  'or one bucket from _range_start when _window is null.';

create function lib.bucket_end(_bucket timestamptz, _window interval, _timezone text, _range_end timestamptz)
returns timestamptz
language sql
immutable
parallel safe
as $$
  select case
    when _window is null then _range_end
    when _timezone = 'UTC' or _window <= interval '1 hour' then _bucket + _window
    else lib.local_instant(public.time_bucket(_window, _bucket at time zone _timezone) + _window, _timezone)
  end
$$;
comment on function lib.bucket_end(timestamptz, interval, text, timestamptz) is
  'Exclusive end of a bucket of lib.bucket_start; a local day is 23 or 25 hours long when the clocks change.';

create function lib.list_buckets(
  _start timestamptz,
  _end timestamptz,
  _window interval,
  _timezone text,
  _limit int
)
returns setof timestamptz
language plpgsql
immutable
set search_path = ''
as $$
declare
  _bucket timestamptz := lib.bucket_start(_start, _window, _timezone, _start);
begin
  for i in 1.._limit loop
    exit when _bucket >= _end;
    return next _bucket;
    _bucket := lib.bucket_end(_bucket, _window, _timezone, _end);
  end loop;
end
$$;
comment on function lib.list_buckets is 'The starts of the buckets that [_start, _end) touches, at most _limit of them.';

create function lib.rfc3339(_time timestamptz)
returns text
language sql
stable
parallel safe
as $$
  select to_char(_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;
comment on function lib.rfc3339(timestamptz) is 'An instant as RFC 3339 text in UTC with milliseconds.';

create function lib.rfc3339_micros(_time timestamptz)
returns text
language sql
stable
parallel safe
as $$
  select to_char(_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;
comment on function lib.rfc3339_micros(timestamptz) is 'An instant as RFC 3339 text in UTC with microseconds.';

create function lib.json_number(_value float8)
returns text
language sql
immutable
parallel safe
as $$
  select case when _value - _value = 0 then _value::text else 'null' end
$$;
comment on function lib.json_number(float8) is
  'A number as JSON text; null for null and for NaN and the infinities, which JSON cannot hold.';

create function lib.counter_lookback(_window interval)
returns interval
language sql
immutable
parallel safe
as $$
  select greatest(least(coalesce(_window, interval '0'), interval '1 day'), interval '5 minutes')
$$;
comment on function lib.counter_lookback(interval) is
  'How far before a range a counter''s previous sample is looked for: a window, of 5 minutes to a day.';

create function lib.per_second(
  _aggregation text,
  _increase float8,
  _bucket timestamptz,
  _start timestamptz,
  _end timestamptz,
  _window interval,
  _timezone text
)
returns float8
language sql
immutable
parallel safe
as $$
  select case _aggregation
    when 'increase' then _increase
    else _increase / nullif(extract(epoch from
      least(lib.bucket_end(_bucket, _window, _timezone, _end), _end) - greatest(_bucket, _start)
    ), 0)::float8
  end
$$;
comment on function lib.per_second is 'For rate an increase divided by the seconds of the bucket''s part inside the range; for increase as it is.';

create function lib.format_window(_window interval)
returns text
language sql
immutable
parallel safe
as $$
  select case
    when mod(seconds, 86400) = 0 then seconds / 86400 || 'd'
    when mod(seconds, 3600) = 0 then seconds / 3600 || 'h'
    else seconds / 60 || 'm'
  end
  from (select extract(epoch from _window)::int as seconds) as s
$$;
comment on function lib.format_window(interval) is 'A length of whole minutes as time_window is written: 5m, 3h, 1d.';

create function lib.slot_start(_id int, _interval_seconds int, _at timestamptz)
returns timestamptz
language plpgsql
immutable
set search_path = ''
as $$
declare
  _interval_ms constant bigint := _interval_seconds * 1000;
  -- Multiples of the golden ratio's fraction never come close to one another (Knuth, TAOCP 3, 6.4): what was
  -- made one after the other lies evenly spread over the interval, however many there are.
  _phase_ms constant bigint := (_id * 618033989::bigint) % 1000000000 * _interval_ms / 1000000000;
  _at_ms constant bigint := floor(extract(epoch from _at) * 1000)::bigint;
begin
  return to_timestamp(((_at_ms - _phase_ms) / _interval_ms * _interval_ms + _phase_ms) / 1000.0);
end
$$;
comment on function lib.slot_start is
  'The slot that a time lies in. The slots of something with an id are its interval apart, counted from the epoch and a phase of its own: they '
  'do not drift, and who computes them does not matter.';
