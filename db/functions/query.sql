create function lib.percentile_fraction(_aggregation text)
returns float8
language sql
immutable
parallel safe
as $$
  select case _aggregation when 'p90' then 0.9 when 'p95' then 0.95 when 'p99' then 0.99 else 0.5 end
$$;
comment on function lib.percentile_fraction(text) is 'What median, p50, p90, p95 and p99 stand for, 0 to 1.';

create function lib.aggregate_samples(
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
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _lookback constant interval := lib.counter_lookback(_window);
begin
  -- One statement a family of aggregates: a case over all of them would compute, and sort for, every one.
  if _aggregation in ('avg', 'sum', 'min', 'max', 'count') then
    return query
    select g.group_number, lib.bucket_start(s.time, _window, _timezone, _start),
      case _aggregation
        -- Not avg(): its transition state holds the sum of squares, which overflows long before the sum does.
        when 'avg' then sum(s.value) / count(*)
        when 'sum' then sum(s.value)
        when 'min' then min(s.value)
        when 'max' then max(s.value)
        else count(*)
      end
    from obs.sample s
    join unnest(_series_ids, _group_numbers) as g (series_id, group_number) on g.series_id = s.series_id
    where s.series_id = any (_series_ids) and s.time >= _start and s.time < _end
    group by 1, 2;

  elsif _aggregation in ('median', 'p50', 'p90', 'p95', 'p99') then
    return query
    select g.group_number, lib.bucket_start(s.time, _window, _timezone, _start),
      percentile_cont(lib.percentile_fraction(_aggregation)) within group (order by s.value)
    from obs.sample s
    join unnest(_series_ids, _group_numbers) as g (series_id, group_number) on g.series_id = s.series_id
    where s.series_id = any (_series_ids) and s.time >= _start and s.time < _end
    group by 1, 2;

  elsif _aggregation in ('stddev', 'first', 'last') then
    return query
    select g.group_number, lib.bucket_start(s.time, _window, _timezone, _start),
      case _aggregation
        when 'stddev' then stddev_samp(s.value) filter (where _aggregation = 'stddev' and abs(s.value) < 1e140)
        when 'first' then public.first(s.value, s.time)
        else public.last(s.value, s.time)
      end
    from obs.sample s
    join unnest(_series_ids, _group_numbers) as g (series_id, group_number) on g.series_id = s.series_id
    where s.series_id = any (_series_ids) and s.time >= _start and s.time < _end
    group by 1, 2;

  elsif _aggregation in ('rate', 'increase') then
    return query
    with steps as (
      select s.series_id, s.time, s.value,
        -- Samples at one instant in rising order: their order is unknown, and a fall would read as a reset.
        lag(s.value) over (partition by s.series_id order by s.time, s.value) as previous
      from obs.sample s
      where s.series_id = any (_series_ids) and s.time >= _start - _lookback and s.time < _end
    ),
    increases as (
      select g.group_number, lib.bucket_start(s.time, _window, _timezone, _start) as bucket,
        -- A counter that fell was reset, and has counted from 0 since.
        sum(case when s.value >= s.previous then s.value - s.previous when s.previous is not null then s.value end)
          as increase
      from steps s
      join unnest(_series_ids, _group_numbers) as g (series_id, group_number) on g.series_id = s.series_id
      where s.time >= _start
      group by 1, 2
    )
    select i.group_number, i.bucket, lib.per_second(_aggregation, i.increase, i.bucket, _start, _end, _window, _timezone)
    from increases i;

  else
    raise exception 'unknown aggregation %', _aggregation using errcode = '22023';
  end if;
end
$$;
comment on function lib.aggregate_samples is
  'Raw samples of the range [_start, _end) aggregated by group and bucket; series _series_ids[i] belongs to group '
  '_group_numbers[i]. Buckets as lib.bucket_start. Samples of a group''s series are pooled; percentiles interpolate '
  '(percentile_cont), stddev is the sample one (null for one sample; values past 1e140, whose squares overflow, are left out). increase: per series the sum of steps between '
  'successive samples, a fall counted as a reset to 0 (https://prometheus.io/docs/prometheus/latest/querying/functions/#increase, '
  'without its extrapolation), each step in the bucket of its later sample; null where no step is known. '
  'rate: increase a second of the bucket''s part inside the range. Raises 22003 when a sum overflows float8.';

create function lib.group_series(
  _org_id int,
  _metric_name text,
  _service_name text,
  _labels jsonb,
  _group_by text[],
  out series_ids int[],
  out group_numbers int[],
  out groups jsonb[]
)
language plpgsql
stable
set search_path = ''
-- Which index serves best depends on the labels.
set plan_cache_mode = 'force_custom_plan'
as $$
begin
  with matching as (
    select s.id,
      coalesce(
        (
          select jsonb_object_agg(k, case k when 'service_name' then s.service_name else coalesce(s.labels ->> k, '') end)
          from unnest(_group_by) as k
        ),
        '{}'
      ) as group_labels
    from obs.series s
    where s.org_id = _org_id
      and s.name = _metric_name
      and (_service_name is null or s.service_name = _service_name)
      and s.labels @> _labels
  ),
  numbered as (
    select m.id, m.group_labels, dense_rank() over (order by m.group_labels)::int as group_number
    from matching m
  )
  select array_agg(n.id), array_agg(n.group_number),
    (select array_agg(g.group_labels order by g.group_number) from (select distinct group_number, group_labels from numbered) g)
  into series_ids, group_numbers, groups
  from numbered n;
end
$$;
comment on function lib.group_series is
  'The series of a metric with a service (null: any) and labels (containment); series series_ids[i] belongs to group '
  'group_numbers[i], whose labels _group_by are groups[group_numbers[i]].';

create function api.query_metrics(
  _org_id int,
  _metric_name text,
  _start timestamptz,
  _end timestamptz,
  _aggregation text,
  _window text,
  _service_name text,
  _labels jsonb,
  _group_by text[],
  _fill text,
  _timezone text,
  _limit int,
  _format text,
  _max_points int default 100000
)
returns text
language plpgsql
stable
security definer
set search_path = ''
-- The statement that shapes the answer takes longer to plan than most take to run; what reads samples plans for itself.
set plan_cache_mode = 'force_generic_plan'
as $$
declare
  _width constant interval := _window::interval;
  _from timestamptz;
  _series_ids int[];
  _group_numbers int[];
  _groups jsonb[];
  _plan record;
  _resolution text;
  _buckets timestamptz[];
  _fill_from timestamptz;
  _result text;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  _from := lib.clip_start(_org_id, _start, _end);

  select m.series_ids, m.group_numbers, m.groups into _series_ids, _group_numbers, _groups
  from lib.group_series(_org_id, _metric_name, _service_name, _labels, _group_by) m;
  select * into _plan
  from lib.choose_tier(
    _aggregation, _from, _end, _width, _timezone, cardinality(_series_ids), cardinality(_groups)
  );
  _resolution := coalesce(
    (
      select replace(c.tier, 'hist_', '')
      from lib.cover_range(_plan.tier, _from, _plan.raw_from) c
      where _plan.raw_from > _from
      order by c.starts_at
      limit 1
    ),
    'raw'
  );

  if _fill <> 'none' and _width is not null then
    -- Where a coarser tier stands in, its buckets are longer than those that could be missing.
    select coalesce(max(c.ends_at), '-infinity') into _fill_from
    from lib.cover_range(_plan.tier, _from, _plan.raw_from) c
    where c.width > _width and _plan.raw_from > _from;
    -- One bucket past the limit, to know that there was one.
    _buckets := array(select lib.list_buckets(greatest(_start, _fill_from), _end, _width, _timezone, _limit + 1));
  end if;

  with aggregated as materialized (
    select a.group_number, a.bucket, a.value
    from lib.run_plan(
      _plan.tier, _plan.holds_histograms, _plan.raw_from,
      _org_id, _series_ids, _group_numbers, _from, _end, _aggregation, _width, _timezone
    ) as a
  ),
  filled as (
    select a.group_number, a.bucket, a.value
    from aggregated a
    where _fill = 'none' or _width is null or a.bucket < _fill_from
    union all
    select f.group_number, f.bucket,
      case
        when f.is_known or _fill = 'null' then f.value
        when _fill = 'zero' then 0
        when _fill = 'previous' then f.previous_value
        when _fill = 'linear' then
          f.previous_value + (f.next_value - f.previous_value)
            * (extract(epoch from f.bucket - f.previous_bucket) / extract(epoch from f.next_bucket - f.previous_bucket))
      end
    from (
      select k.group_number, k.bucket, k.value, k.is_known,
        first_value(k.value) over before as previous_value,
        first_value(k.bucket) over before as previous_bucket,
        first_value(k.value) over after as next_value,
        first_value(k.bucket) over after as next_bucket
      from (
        select g.group_number, b.bucket, a.value, a.bucket is not null as is_known,
          count(a.bucket) over (partition by g.group_number order by b.bucket) as known_before,
          count(a.bucket) over (partition by g.group_number order by b.bucket desc) as known_after
        from (
          -- No more groups than can be shown.
          select distinct a.group_number
          from aggregated a
          order by a.group_number
          limit _max_points / least(_limit, cardinality(_buckets)) + 1
        ) as g
        cross join unnest(_buckets) as b (bucket)
        left join aggregated a on a.group_number = g.group_number and a.bucket = b.bucket
      ) as k
      window
        before as (partition by k.group_number, k.known_before order by k.bucket),
        after as (partition by k.group_number, k.known_after order by k.bucket desc)
    ) as f
    where _fill <> 'none' and _width is not null
  ),
  ranked as materialized (
    select f.group_number, f.bucket, f.value,
      row_number() over (partition by f.group_number order by f.bucket) as number_in_series
    from filled f
  ),
  kept as not materialized (
    select r.group_number, r.bucket, r.value
    from ranked r
    where r.number_in_series <= _limit
    order by r.group_number, r.bucket
    limit _max_points
  ),
  times as (
    select distinct k.bucket from kept k where _format = 'columns'
  ),
  -- In columns each series has a value, or null, for each time of any: what counts is cells.
  shown as (
    select distinct k.group_number
    from kept k
    where _format = 'columns'
    order by k.group_number
    limit greatest(1, _max_points / greatest(1, (select count(*) from times)))
  ),
  answered as (
    select
      case _format
        when 'columns' then (
          select format(
            '"times":[%s],"series":[%s]',
            (select string_agg((extract(epoch from t.bucket) * 1000)::bigint::text, ',' order by t.bucket) from times t),
            string_agg(
              format('{"labels":%s,"values":[%s]}', _groups[s.group_number], s.json_values), ',' order by s.group_number
            )
          )
          from (
            select g.group_number, string_agg(lib.json_number(k.value), ',' order by t.bucket) as json_values
            from shown g
            cross join times t
            left join kept k on k.group_number = g.group_number and k.bucket = t.bucket
            group by g.group_number
          ) as s
        )
        else (
          select format(
            '"series":[%s]',
            string_agg(
              format('{"labels":%s,"points":[%s]}', _groups[s.group_number], s.json_points), ',' order by s.group_number
            )
          )
          from (
            select k.group_number,
              string_agg(
                '{"time":"' || lib.rfc3339(k.bucket) || '","value":' || lib.json_number(k.value) || '}',
                ',' order by k.bucket
              ) as json_points
            from kept k
            group by k.group_number
          ) as s
        )
      end as json_series,
      exists (select from ranked where number_in_series > _limit)
        or (select count(*) from ranked where number_in_series <= _limit) > _max_points
        or (
          _format = 'columns' and (select count(distinct group_number) from kept) > (select count(*) from shown)
        ) as is_truncated
  )
  select format(
    '{"metric_name":%s,"aggregation":%s,"time_window":%s,"resolution":%s,%s,"truncated":%s}',
    to_json(_metric_name), to_json(_aggregation), coalesce(to_json(_window)::text, 'null'),
    to_json(_resolution), json_series, is_truncated::text
  )
  into _result
  from answered;
  return _result;
end
$$;
comment on function api.query_metrics is
  'The answer of POST /metrics/query as JSON text. Range [_start, _end); _window such as 5m, null for one bucket over '
  'the range; series match by name, service and labels (containment) and merge into one, or into one for each value of '
  'the labels _group_by (service_name counts as a label; a missing one is ''''). _fill: none, null, zero, previous or '
  'linear, for buckets without samples between the range''s ends. At most _limit points a series, the earliest, and '
  '_max_points in all; truncated says when there were more. _format: points, or columns for charts.';
