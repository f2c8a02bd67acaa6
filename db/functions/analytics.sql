create function lib.share(_value float8, _largest float8)
returns float8
language sql
immutable
parallel safe
as $$
  select case when _largest = 0 or abs(_value) / _largest < 1e-100 then 0 else _value / _largest end
$$;
comment on function lib.share(float8, float8) is 'A value as a share of the largest, 0 where it is next to nothing beside it.';

create function lib.choose_step(_start timestamptz, _end timestamptz, _max_points int)
returns interval
language sql
immutable
as $$
  select coalesce(
    min(step) filter (where _end - _start <= step * _max_points),
    max(step)
  )
  from unnest(array['1 minute', '5 minutes', '15 minutes', '30 minutes', '1 hour', '3 hours', '6 hours', '12 hours', '1 day', '7 days', '30 days']::interval[]) as step
$$;
comment on function lib.choose_step is
  'The shortest bucket, of those that tiers answer well, that makes at most _max_points of a range; 30 days for a very long one.';

create function lib.summarize(
  _org_id int,
  _series_ids int[],
  _start timestamptz,
  _end timestamptz,
  out count bigint,
  out min float8,
  out max float8,
  out avg float8,
  out stddev float8,
  out median float8,
  out p95 float8,
  out p99 float8
)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _plan record;
  _moments float8[];
  _percentiles float8[];
begin
  select * into _plan from lib.choose_tier('avg', _start, _end, null, 'UTC', cardinality(_series_ids), 1);
  if _plan.raw_from <= _start then
    select count(*), min(s.value), max(s.value), sum(s.value) / count(*), obs.moments(s.value) filter (where abs(s.value) < 1e140)
    into count, min, max, avg, _moments
    from obs.sample s
    where s.series_id = any (_series_ids) and s.time >= _start and s.time < _end;
  else
    select sum(t.count)::bigint, min(t.min), max(t.max), sum(t.sum) / sum(t.count)::float8, obs.merge_moments(t.moments)
    into count, min, max, avg, _moments
    from lib.read_tier(_plan.tier, _org_id, _series_ids, _start, _end) t;
  end if;
  count := coalesce(count, 0);
  stddev := case when _moments[1] > 1 then sqrt(_moments[3] / (_moments[1] - 1)) end;

  select * into _plan from lib.choose_tier('median', _start, _end, null, 'UTC', cardinality(_series_ids), 1);
  if _plan.raw_from <= _start then
    select percentile_cont(array[0.5, 0.95, 0.99]) within group (order by s.value)
    into _percentiles
    from obs.sample s
    where s.series_id = any (_series_ids) and s.time >= _start and s.time < _end;
  else
    execute format(
      'select array(
        select lib.histogram_percentile(p, m.count, m.min, m.max, m.zero_count, m.positive, m.negative)
        from unnest(array[0.5, 0.95, 0.99]) as p
      )
      from (
        select sum(h.count)::bigint as count, min(h.min) as min, max(h.max) as max, sum(h.zero_count)::bigint as zero_count,
          sum(h.positive) as positive, sum(h.negative) as negative
        from %s h
        where h.series_id = any ($1)
      ) as m',
      lib.tier_source(_plan.tier, _org_id, _start, _end)
    )
    into _percentiles
    using _series_ids;
  end if;
  median := _percentiles[1];
  p95 := _percentiles[2];
  p99 := _percentiles[3];
end
$$;
comment on function lib.summarize is
  'Statistics of the samples of some series in [_start, _end), pooled. Percentiles are exact, or within 1 % over longer ranges: '
  'see lib.choose_tier. stddev is the sample one, null for one sample. count is 0, and the rest null, where there is none.';

create function api.analyze_metric(
  _org_id int,
  _metric_name text,
  _start timestamptz,
  _end timestamptz,
  _service_name text,
  _labels jsonb
)
returns text
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _from timestamptz;
  _step interval;
  _series_ids int[];
  _summary record;
  _buckets timestamptz[];
  _values float8[];
  _scale float8;
  _trend record;
  _has_days boolean;
  _json_trend text;
  _json_anomalies text;
  _json_forecast text;
  _clean boolean[];
begin
  perform set_config('obs.org_id', _org_id::text, true);
  _from := lib.clip_start(_org_id, _start, _end);
  _step := lib.choose_step(_from, _end, 300);
  _series_ids := (lib.group_series(_org_id, _metric_name, _service_name, _labels, '{}')).series_ids;
  if _series_ids is null then
    return null;
  end if;

  select * into _summary from lib.summarize(_org_id, _series_ids, _from, _end);
  select array_agg(a.bucket order by a.bucket), array_agg(a.value order by a.bucket), coalesce(nullif(max(abs(a.value)), 0), 1)
  into _buckets, _values, _scale
  from lib.aggregate_range(
    _org_id, _series_ids, array_fill(1, array[cardinality(_series_ids)]), 1, _from, _end, 'avg', _step, 'UTC'
  ) a;
  _buckets := coalesce(_buckets, '{}');
  -- As shares of the largest, and 0 where that is next to nothing: squares neither overflow nor underflow.
  _values := array(
    select lib.share(v.value, _scale)
    from unnest(_values) with ordinality as v (value, position)
    order by v.position
  );
  -- Hours of the day can be told apart.
  _has_days := _step <= interval '12 hours';

  select f.*,
    case
      when f.r_squared >= 0.1 and abs(f.change) >= 0.01 * abs(f.mean)
        -- Student's t of the correlation.
        and f.r_squared * (f.n - 2) > 4 * (1 - f.r_squared)
        then case when f.slope > 0 then 'rising' else 'falling' end
      else 'stable'
    end as direction
  into _trend
  from (
    select l.n, l.mean, l.slope, l.mean_hour, l.r_squared,
      l.slope * (l.last_hour - l.first_hour) as change,
      l.mean + l.slope * (l.first_hour - l.mean_hour) as first_fitted
    from (
      select count(p.value) as n, avg(p.value) as mean, avg(p.hour) as mean_hour, min(p.hour) as first_hour, max(p.hour) as last_hour,
        case when d.is_constant then 0 else regr_slope(p.value, p.hour) end as slope,
        case when d.is_constant then 0 else regr_r2(p.value, p.hour) end as r_squared
      from (
        -- What differs in the last digits only is the same.
        select count(*) > 1 and max(v) - min(v) <= 1e-9 * greatest(abs(min(v)), abs(max(v))) as is_constant
        from unnest(_values) as v
      ) as d
      left join (
        select v.value, extract(epoch from v.bucket - _start)::float8 / 3600 as hour
        from unnest(_buckets, _values) as v (bucket, value)
      ) as p on true
      group by d.is_constant
    ) as l
  ) as f;
  _json_trend := format(
    '{"direction":%s,"slope_per_hour":%s,"r_squared":%s,"change_percent":%s}',
    to_json(_trend.direction), coalesce(lib.json_number(_trend.slope * _scale), 'null'), coalesce(lib.json_number(_trend.r_squared), 'null'),
    coalesce(lib.json_number(100 * _trend.change / nullif(abs(_trend.first_fitted), 0)), 'null')
  );

  with point as (
    select v.position, v.bucket, v.value,
      case when _trend.direction = 'stable' then 0
        else _trend.slope * (extract(epoch from v.bucket - _start)::float8 / 3600 - _trend.mean_hour) end as drift,
      case when _has_days and _buckets[cardinality(_buckets)] - _buckets[1] > interval '7 days' - _step - interval '1 hour'
        then extract(hour from v.bucket at time zone 'UTC') else 0 end as season
    from unnest(_buckets, _values) with ordinality as v (bucket, value, position)
  ),
  baseline as (
    select p.season, percentile_cont(0.5) within group (order by p.value - p.drift) as level
    from point p
    group by p.season
  ),
  residual as (
    select p.position, p.bucket, p.value, b.level + p.drift as expected, abs(p.value - b.level - p.drift) as distance
    from point p
    join baseline b on b.season = p.season
  ),
  spread as (
    select percentile_cont(0.5) within group (order by r.distance) as mad, avg(r.distance) as mean_ad, count(*) as n
    from residual r
  ),
  scored as (
    select r.position, r.bucket, r.value, r.expected,
      case
        when s.n < 10 or r.distance <= 1e-9 * greatest(abs(r.value), abs(r.expected)) then 0
        when s.mad > 1e-100 then 0.6745 * r.distance / s.mad
        else r.distance / (1.253314 * s.mean_ad)
      end as score
    from residual r
    cross join spread s
  ),
  worst as (
    select c.bucket, c.value, c.expected, c.score
    from scored c
    where c.score > 3.5
    order by c.score desc, c.bucket
    limit 100
  )
  select
    (
      select string_agg(
        format(
          '{"time":"%s","value":%s,"expected":%s,"score":%s}',
          lib.rfc3339(w.bucket), lib.json_number(w.value * _scale), lib.json_number(w.expected * _scale), lib.json_number(w.score)
        ),
        ',' order by w.bucket
      )
      from worst w
    ),
    (select array_agg(c.score <= 3.5 order by c.position) from scored c)
  into _json_anomalies, _clean;

  with point as (
    select v.bucket, v.value, extract(epoch from v.bucket - _start)::float8 / 3600 as hour,
      extract(hour from v.bucket at time zone 'UTC') as hour_of_day
    from unnest(_buckets, _values, _clean) as v (bucket, value, is_clean)
    where v.is_clean
  ),
  -- Share of the variance about the trend that the hour of day explains.
  strength as (
    select 1 - sum((d.value - d.hourly) ^ 2) / nullif(sum((d.value - d.mean) ^ 2), 0) as seasonal
    from (
      select e.value, avg(e.value) over (partition by e.hour_of_day) as hourly, avg(e.value) over () as mean
      from (
        select p.hour_of_day,
          p.value - case when _trend.direction = 'stable' then 0 else _trend.slope * (p.hour - _trend.mean_hour) end as value
        from point p
      ) as e
    ) as d
  ),
  grouped as (
    select p.value, p.hour, case when s.is_seasonal then p.hour_of_day else 0 end as season
    from point p
    cross join (
      select _has_days and _buckets[cardinality(_buckets)] - _buckets[1] > interval '2 days' - _step - interval '1 hour'
        and coalesce(seasonal >= 0.3, false) as is_seasonal
      from strength
    ) as s
  ),
  centred as (
    select g.season, g.value, g.hour,
      avg(g.value) over (partition by g.season) as mean_value, avg(g.hour) over (partition by g.season) as mean_hour
    from grouped g
  ),
  -- Least squares with a level for each season: both sides centred within it (Frisch, Waugh and Lovell).
  slope as (
    select sxy / nullif(sxx, 0) as b, sxx, n,
      sqrt(greatest(0, syy - coalesce(sxy * sxy / nullif(sxx, 0), 0)) / nullif(n - k - 1, 0)) as s,
      sqrt(syy / nullif(n - k, 0)) as s_without
    from (
      select sum((c.hour - c.mean_hour) * (c.value - c.mean_value)) as sxy, sum((c.hour - c.mean_hour) ^ 2) as sxx,
        sum((c.value - c.mean_value) ^ 2) as syy, count(*) as n, count(distinct c.season) as k
      from centred c
    ) as sums
  ),
  -- A slope within two of its standard errors is none.
  fitted as (
    select l.sxx,
      case when l.b ^ 2 * l.sxx > 4 * l.s ^ 2 then l.b else 0 end as b,
      case when l.b ^ 2 * l.sxx > 4 * l.s ^ 2 then l.s else l.s_without end as s
    from slope l
    where l.n >= 10
  ),
  levels as (
    select c.season, avg(c.value) - f.b * avg(c.hour) as level, avg(c.hour) as mean_hour, count(*) as n
    from centred c
    cross join fitted f
    group by c.season, f.b
  ),
  ahead as (
    select at.bucket, extract(epoch from at.bucket - _start)::float8 / 3600 as hour,
      extract(hour from at.bucket at time zone 'UTC') as hour_of_day
    from generate_series(
      _buckets[cardinality(_buckets)] + _step,
      _buckets[cardinality(_buckets)] + greatest(_step, least((_end - _start) / 4, interval '7 days')),
      _step
    ) as at (bucket)
  ),
  predicted as (
    select a.bucket, l.level + f.b * a.hour as value,
      1.96 * f.s * sqrt(1 + 1.0 / l.n + case when f.b = 0 then 0 else (a.hour - l.mean_hour) ^ 2 / f.sxx end) as margin
    from ahead a
    cross join fitted f
    cross join lateral (
      select v.level, v.mean_hour, v.n
      from levels v
      -- The nearest hour, where the range had none such.
      order by least(abs(v.season - a.hour_of_day), 24 - abs(v.season - a.hour_of_day)), v.season
      limit 1
    ) as l
  )
  select string_agg(
    format(
      '{"time":"%s","value":%s,"lower":%s,"upper":%s}',
      lib.rfc3339(p.bucket), lib.json_number(p.value * _scale),
      lib.json_number((p.value - p.margin) * _scale), lib.json_number((p.value + p.margin) * _scale)
    ),
    ',' order by p.bucket
  )
  into _json_forecast
  from predicted p
  where p.value is not null and p.margin is not null;

  return format(
    '{"metric_name":%s,"start_time":"%s","end_time":"%s","time_window":%s,"count":%s,"min":%s,"max":%s,"avg":%s,"median":%s,'
    '"stddev":%s,"p95":%s,"p99":%s,"trend":%s,"anomalies":[%s],"forecast":[%s]}',
    to_json(_metric_name), lib.rfc3339(_start), lib.rfc3339(_end), to_json(lib.format_window(_step)), _summary.count,
    coalesce(lib.json_number(_summary.min), 'null'), coalesce(lib.json_number(_summary.max), 'null'),
    coalesce(lib.json_number(_summary.avg), 'null'), coalesce(lib.json_number(_summary.median), 'null'),
    coalesce(lib.json_number(_summary.stddev), 'null'), coalesce(lib.json_number(_summary.p95), 'null'),
    coalesce(lib.json_number(_summary.p99), 'null'), _json_trend, coalesce(_json_anomalies, ''), coalesce(_json_forecast, '')
  );
end
$$;
comment on function api.analyze_metric is
  'The answer of GET /metrics/{name}/analytics as JSON text, null where the org has no such series. Statistics are of the '
  'samples (lib.summarize), the rest of the averages y of buckets of time_window, at most 300 of them. '
  'trend: y on time t in hours by least squares, r_squared its coefficient of determination (0 for a constant), change_percent '
  'the fitted line''s change over the range in percent of its start; rising or falling when r_squared >= 0.1, |Student''s t| > 2 and '
  'the change is at least 1 % of the mean, else stable. '
  'anomalies: the modified z-score 0.6745 |y - expected| / MAD > 3.5 (Iglewicz and Hoaglin, How to Detect and Handle Outliers, '
  '1993), or where MAD is 0 |y - expected| / (1.253314 mean absolute deviation), which for a normal distribution is the same; expected is the median, of the same hour of '
  'day (UTC) where there is a week of data, about the trend unless stable; at least ten buckets, the worst 100. '
  'forecast: from the last bucket with samples a quarter of the range on, a week at most, from all but the anomalies: y = level + b t by least squares, one '
  'level an hour of day where there are two days and the hours explain 30 % of the variance about the trend (strength of '
  'seasonality: Hyndman and Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., 4.3), b = 0 when within two standard errors of 0; '
  'lower and upper: 95 % prediction interval +-1.96 s sqrt(1 + 1/n + (t - mean t)^2 / Sxx) (Draper and Smith, Applied Regression Analysis, 1.4).';

create function api.correlate_metric(
  _org_id int,
  _metric_name text,
  _start timestamptz,
  _end timestamptz,
  _service_name text,
  _labels jsonb,
  _q text,
  _limit int,
  _max_series int default 500
)
returns text
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _from timestamptz;
  _step interval;
  _step_seconds float8;
  _max_lag int;
  _target_ids int[];
  _other_ids int[];
  _result text;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  _from := lib.clip_start(_org_id, _start, _end);
  _step := lib.choose_step(_from, _end, 150);
  _step_seconds := extract(epoch from _step);
  -- An eighth of the range either way, in twelve steps at the most.
  _max_lag := least(12, floor(extract(epoch from _end - _from) / 8 / _step_seconds));
  _target_ids := (lib.group_series(_org_id, _metric_name, _service_name, _labels, '{}')).series_ids;
  if _target_ids is null then
    return null;
  end if;
  _other_ids := array(
    select s.id
    from obs.series s
    where s.org_id = _org_id
      and s.id <> all (_target_ids)
      and (_q is null or strpos(lower(s.name), lower(_q)) > 0)
    order by s.service_name is distinct from _service_name, s.id
    limit _max_series + 1
  );

  with target as materialized (
    -- Each series as shares of its largest value: squares neither overflow nor underflow.
    select (extract(epoch from a.bucket) / _step_seconds)::int as tick, lib.share(a.value, max(abs(a.value)) over ()) as value
    from lib.aggregate_range(
      _org_id, _target_ids, array_fill(1, array[cardinality(_target_ids)]), 1, _from, _end, 'avg', _step, 'UTC'
    ) a
  ),
  other as materialized (
    select a.group_number as series_id, (extract(epoch from a.bucket) / _step_seconds)::int as tick,
      lib.share(a.value, max(abs(a.value)) over (partition by a.group_number)) as value
    from lib.aggregate_range(
      _org_id, _other_ids[:_max_series], _other_ids[:_max_series], cardinality(_other_ids[:_max_series]),
      _from, _end, 'avg', _step, 'UTC'
    ) a
  ),
  correlated as (
    select o.series_id, l.lag, corr(o.value, t.value) as correlation, count(*) as n
    from generate_series(-_max_lag, _max_lag) as l (lag)
    join target t on true
    join other o on o.tick = t.tick + l.lag
    group by o.series_id, l.lag
    -- Few common buckets correlate by chance.
    having count(*) >= greatest(10, (select count(*) from target) / 2)
  ),
  best as (
    select distinct on (c.series_id) c.series_id, c.lag, c.correlation, c.n
    from correlated c
    where c.correlation between -1.000001 and 1.000001
    -- A longer lag has to be better by more than rounding.
    order by c.series_id, round(abs(c.correlation)::numeric, 9) desc, abs(c.lag), c.lag
  ),
  ranked as (
    select s.name, s.service_name, s.labels, b.correlation, b.lag * _step_seconds as lag_seconds, b.n
    from best b
    join obs.series s on s.id = b.series_id
    order by abs(b.correlation) desc, s.name, s.service_name, s.labels
    limit _limit
  )
  select string_agg(
    format(
      '{"metric_name":%s,"service_name":%s,"labels":%s,"correlation":%s,"lag_seconds":%s,"points":%s}',
      to_json(r.name), to_json(r.service_name), r.labels, lib.json_number(r.correlation), r.lag_seconds, r.n
    ),
    ',' order by abs(r.correlation) desc, r.name, r.service_name, r.labels
  )
  into _result
  from ranked r;

  return format(
    '{"metric_name":%s,"start_time":"%s","end_time":"%s","time_window":%s,"correlations":[%s],"truncated":%s}',
    to_json(_metric_name), lib.rfc3339(_start), lib.rfc3339(_end), to_json(lib.format_window(_step)), coalesce(_result, ''),
    (cardinality(_other_ids) > _max_series)::text
  );
end
$$;
comment on function api.correlate_metric is
  'The answer of GET /metrics/{name}/correlations as JSON text, null where the org has no such series: other series by '
  '|correlation| with the metric (its series merged), at most _limit. Pearson''s coefficient of the averages of buckets of '
  'time_window, at most 150, over the buckets that both have (at least ten, and half of the metric''s), at the lag where '
  'it is largest; lag_seconds > 0: the other follows the metric by so much, an eighth of the range or twelve buckets at the '
  'most. _q: part of the others'' names. Of more than _max_series those of _service_name, then the oldest; truncated says so.';
