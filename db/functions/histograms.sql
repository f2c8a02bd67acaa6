create function lib.histogram_samples(_width interval, _series_ids int[], _start timestamptz, _end timestamptz)
returns table (
  series_id int,
  bucket timestamptz,
  count bigint,
  min float8,
  max float8,
  zero_count bigint,
  positive numeric,
  negative numeric
)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
begin
  return query
  select
    s.series_id,
    public.time_bucket(_width, s.time),
    count(*),
    min(s.value),
    max(s.value),
    count(*) filter (where abs(s.value) <= 1e-11),
    sum(obs.histogram_digit(s.value)) filter (where s.value > 1e-11),
    sum(obs.histogram_digit(-s.value)) filter (where s.value < -1e-11)
  from obs.sample s
  where s.series_id = any (_series_ids) and s.time >= _start and s.time < _end
  group by 1, 2;
end
$$;
comment on function lib.histogram_samples is
  'Raw samples of [_start, _end) as rows of a histogram tier of buckets of _width; a bucket at either end holds what of it is '
  'in the range.';

create function lib.histogram_percentile(
  _p float8,
  _count bigint,
  _min float8,
  _max float8,
  _zero_count bigint,
  _positive numeric,
  _negative numeric
)
returns float8
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  _gamma constant float8 := 1.01::float8 / 0.99;
  _rank constant float8 := _p * (_count - 1);
  -- The two neighbours that percentile_cont interpolates between, as numbers of samples above them.
  _above_upper constant bigint := _count - 1 - ceil(_rank)::bigint;
  _above_lower constant bigint := _count - 1 - floor(_rank)::bigint;
  _upper float8;
  _value float8;
  _seen bigint := 0;
  _sign int;
  _digits bytea;
  _point int;
  _highest int;
  _lowest int;
  _bin int;
  _n bigint;
begin
  -- From the largest value down: positive bins from the highest, zeros, negative bins from the lowest.
  foreach _sign in array array[1, 0, -1] loop
    -- As bytes, of which any part can be taken without reading what comes before it.
    _digits := convert_to(
      case _sign when 1 then _positive when 0 then _zero_count::numeric else _negative end::text, 'UTF8'
    );
    continue when _digits is null or _digits = '0';
    _point := position('.'::bytea in _digits) - 1;
    if _point < 0 then
      _point := length(_digits);
    end if;
    _highest := (_point - 1) / 12;
    _lowest := - ((length(_digits) - _point) / 12);
    for _step in 0.._highest - _lowest loop
      _bin := case _sign when -1 then _lowest + _step else _highest - _step end;
      -- The highest bin's leading zeros are not written, hence the start before the first digit.
      _n := convert_from(
        substring(_digits from _point - 12 * (_bin + 1) + case when _bin < 0 then 2 else 1 end for 12), 'UTF8'
      )::bigint;
      continue when _n = 0;
      _seen := _seen + _n;
      if _seen > _above_upper then
        _value := case
          -- The last bin has no upper end.
          when _bin < 10920 then _sign * 2 * _gamma ^ _bin / (_gamma + 1)
          when _sign = 1 then _max
          else _min
        end;
        _upper := coalesce(_upper, _value);
        if _seen > _above_lower then
          return greatest(_min, least(_max, _value + (_upper - _value) * (_rank - floor(_rank))));
        end if;
      end if;
    end loop;
  end loop;
  return null;
end
$$;
comment on function lib.histogram_percentile is
  'The percentile _p (0 to 1) of values of which there is a histogram, that is sums of the columns of a tier of histograms: '
  'each of the two values that percentile_cont interpolates between is within 1 % of the true one, from 1e-11 to 7e94 in '
  'magnitude (less counts as 0, more as the largest). Null for no values.';

create function lib.aggregate_histograms(
  _tier text,
  _org_id int,
  _series_ids int[],
  _group_numbers int[],
  _start timestamptz,
  _end timestamptz,
  _aggregation text,
  _window interval,
  _timezone text
)
returns table (group_number int, bucket timestamptz, value float8)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query execute format(
    'select m.group_number, m.bucket,
      lib.histogram_percentile($6, m.count, m.min, m.max, m.zero_count, m.positive, m.negative)
    from (
      select g.group_number, lib.bucket_start(h.bucket, $3, $4, $5) as bucket, sum(h.count)::bigint as count,
        min(h.min) as min, max(h.max) as max, sum(h.zero_count)::bigint as zero_count,
        sum(h.positive) as positive, sum(h.negative) as negative
      from %s h
      join unnest($1, $2) as g (series_id, group_number) on g.series_id = h.series_id
      group by 1, 2
    ) as m',
    lib.tier_source(_tier, _org_id, _start, _end)
  ) using _series_ids, _group_numbers, _window, _timezone, _start, lib.percentile_fraction(_aggregation);
end
$$;
comment on function lib.aggregate_histograms is
  'Percentiles (median, p50, p90, p95, p99) as lib.aggregate_samples gives them, from a tier of histograms: within 1 %.';
