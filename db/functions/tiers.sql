create function lib.roll_up_samples(_width interval, _series_ids int[], _start timestamptz, _end timestamptz)
returns table (
  series_id int,
  bucket timestamptz,
  count bigint,
  sum float8,
  min float8,
  max float8,
  moments float8[],
  first_value float8,
  first_time timestamptz,
  last_value float8,
  last_time timestamptz,
  increase float8
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
    sum(s.value),
    min(s.value),
    max(s.value),
    obs.moments(s.value) filter (where abs(s.value) < 1e140),
    public.first(s.value, s.time),
    min(s.time),
    public.last(s.value, s.time),
    max(s.time),
    obs.counter_increase(array_agg(s.value order by s.time, s.value))
  from obs.sample s
  where s.series_id = any (_series_ids) and s.time >= _start and s.time < _end
  group by 1, 2;
end
$$;
comment on function lib.roll_up_samples is
  'Raw samples of [_start, _end) as rows of a tier of buckets of _width; a bucket at either end holds what of it is in the range.';

create function lib.split_range(
  _tier text,
  _org_id int,
  _start timestamptz,
  _end timestamptz,
  out rolled_up tstzmultirange,
  out raw tstzmultirange
)
language plpgsql
stable
set search_path = ''
as $$
declare
  _width interval;
  _raw_from timestamptz;
  _from timestamptz;
  _until timestamptz;
begin
  select t.width into _width from obs.tier t where t.name = _tier;
  _raw_from := obs.kept_from('sample', now());

  -- Whole buckets inside the range. Where raw samples are gone a bucket cannot be cut, and is taken whole.
  _from := public.time_bucket(_width, _start);
  if _from < _start and _start >= _raw_from then
    _from := _from + _width;
  end if;
  _until := public.time_bucket(_width, _end);
  if _until < _end and _until < _raw_from then
    _until := _until + _width;
  end if;
  _until := least(_until, obs.tier_watermark(_tier));
  if _from >= _until then
    rolled_up := '{}';
    raw := tstzmultirange(tstzrange(_start, _end));
    return;
  end if;

  select tstzmultirange(tstzrange(_from, _until)) - coalesce(
    range_agg(tstzrange(
      -- What raw samples no longer hold is not rolled up again, and is not read from them either.
      greatest(public.time_bucket(_width, d.starts_at), obs.bucket_ceiling(_width, _raw_from)),
      public.time_bucket(_width, d.ends_at - interval '1 microsecond') + _width
    )),
    '{}'
  )
  into rolled_up
  from obs.dirty_range d
  where d.org_id = _org_id and d.ends_at > _from and d.starts_at < _until
    and public.time_bucket(_width, d.ends_at - interval '1 microsecond') >= obs.bucket_ceiling(_width, _raw_from);
  raw := tstzmultirange(tstzrange(least(_start, _from), greatest(_end, _until))) - rolled_up;
  if _from < _start then
    raw := raw * tstzmultirange(tstzrange(_from, greatest(_end, _until)));
  end if;
end
$$;
comment on function lib.split_range is
  'Which parts of [_start, _end) are read from a tier (whole buckets, rolled up and not dirty) and which from raw samples: '
  'the rest. Where the retention has dropped the raw samples, a bucket at either end is taken whole.';

create function lib.cover_range(_tier text, _start timestamptz, _end timestamptz)
returns table (tier text, width interval, starts_at timestamptz, ends_at timestamptz)
language plpgsql
stable
set search_path = ''
as $$
declare
  _next record;
  _kept_from timestamptz;
begin
  ends_at := _end;
  for _next in
    select t.name, t.width, lead(t.width) over (order by t.width) as coarser_width
    from obs.tier t
    join obs.tier asked on asked.name = _tier
    where t.width >= asked.width and t.holds_histograms = asked.holds_histograms
      and (t.holds_percentiles or not asked.holds_percentiles)
    order by t.width
  loop
    tier := _next.name;
    width := _next.width;
    _kept_from := obs.kept_from('sample_' || _next.name, now());
    starts_at := case
      when _next.coarser_width is null or _kept_from <= _start then _start
      -- The first bucket of the coarser tier that this one has all of.
      else obs.bucket_ceiling(_next.coarser_width, _kept_from)
    end;
    if starts_at < ends_at then
      return next;
      ends_at := starts_at;
    end if;
    exit when ends_at <= _start;
  end loop;
end
$$;
comment on function lib.cover_range is
  'The tiers that [_start, _end) is read from, newest part first: _tier as far back as its retention reaches, coarser ones before.';

create function lib.tier_source(_tier text, _org_id int, _start timestamptz, _end timestamptz)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  _holds_histograms boolean;
  _columns text;
  _part record;
  _split record;
  _range tstzrange;
  _sources text[] := array[]::text[];
begin
  select t.holds_histograms into _holds_histograms from obs.tier t where t.name = _tier;
  _columns := case
    when _holds_histograms then 'series_id, bucket, count, min, max, zero_count, positive, negative'
    else 'series_id, bucket, count, sum, min, max, moments, first_value, first_time, last_value, last_time, increase'
  end;
  for _part in select * from lib.cover_range(_tier, _start, _end) loop
    select * into _split from lib.split_range(_part.tier, _org_id, _part.starts_at, _part.ends_at);
    foreach _range in array array(select unnest(_split.rolled_up)) loop
      -- The table, not the view: planning for raw samples that are not read would take longer than the rest.
      _sources := _sources || format(
        'select %s from %s where bucket >= %L and bucket < %L',
        _columns, obs.tier_table(_part.tier), lower(_range), upper(_range)
      );
    end loop;
    foreach _range in array array(select unnest(_split.raw)) loop
      _sources := _sources || format(
        'select %s from lib.%I(%L, $1, %L, %L)',
        _columns, case when _holds_histograms then 'histogram_samples' else 'roll_up_samples' end,
        _part.width, lower(_range), upper(_range)
      );
    end loop;
  end loop;
  return format(
    '(%s)',
    coalesce(
      nullif(array_to_string(_sources, ' union all '), ''),
      format('select %s from obs.%I where false', _columns, 'sample_' || _tier)
    )
  );
end
$$;
comment on function lib.tier_source is
  'A subquery, as text, with the rows of a tier for [_start, _end): in no order, right at once whatever is rolled up (see '
  'lib.split_range), of a coarser tier where this one''s retention has dropped them (see lib.cover_range). A bucket can come in '
  'two rows, its parts. To be joined with the series in its parameter $1, which are the only ones that it has to give; a '
  'second condition on them here would make the planner expect a hundredth of the rows.';

create function lib.read_tier(_tier text, _org_id int, _series_ids int[], _start timestamptz, _end timestamptz)
returns table (
  series_id int,
  bucket timestamptz,
  count bigint,
  sum float8,
  min float8,
  max float8,
  moments float8[],
  first_value float8,
  first_time timestamptz,
  last_value float8,
  last_time timestamptz,
  increase float8
)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query execute format(
    'select * from %s t where t.series_id = any ($1)', lib.tier_source(_tier, _org_id, _start, _end)
  ) using _series_ids;
end
$$;
comment on function lib.read_tier is 'The rows of lib.tier_source, where there are few.';

create function lib.aggregate_tier(
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
declare
  _lookback constant interval := lib.counter_lookback(_window);
  _part record;
  _split record;
  _range tstzrange;
  _rows text;
  _counted_from timestamptz;
begin
  if _aggregation in ('rate', 'increase') then
    -- Where raw samples are gone the first and the last bucket are taken whole: what comes before begins before them, and
    -- a second's share is one of the whole.
    select public.time_bucket(c.width, _start) into _counted_from
    from lib.cover_range(_tier, _start, _end) c
    where _start < obs.kept_from('sample', now())
    order by c.starts_at
    limit 1;
    _counted_from := coalesce(_counted_from, _start);
    return query execute format(
      'with covered as materialized (
        select c.width, public.time_bucket(c.width, c.starts_at) as starts_at, c.ends_at from lib.cover_range($8, $5, $7) c
      ),
      parts as (
        select t.*, false as is_counted from %s t where t.series_id = any ($1)
        union all
        select t.*, true from %s t where t.series_id = any ($1)
      ),
      steps as (
        select p.series_id, p.bucket, p.is_counted, p.count, p.first_value, p.increase,
          lag(p.last_value) over (partition by p.series_id order by p.first_time, p.is_counted) as previous
        from parts p
      ),
      increases as (
        select g.group_number, lib.bucket_start(s.bucket, $3, $4, $5) as bucket,
          sum(
            case
              when s.previous is not null
                then s.increase + case when s.first_value >= s.previous then s.first_value - s.previous else s.first_value end
              when s.count > 1 then s.increase
            end
          ) as increase,
          min(s.bucket) as first_part
        from steps s
        join unnest($1, $2) as g (series_id, group_number) on g.series_id = s.series_id
        where s.is_counted
        group by 1, 2
      )
      select i.group_number, i.bucket,
        lib.per_second(
          $6, i.increase, case when $3 is null then $9 else i.bucket end, $9, $7,
          -- A bucket of a coarser tier that stands in is longer than the window.
          case when $3 is not null then greatest($3, c.width) end, $4
        )
      from increases i
      left join covered c on i.first_part >= c.starts_at and i.first_part < c.ends_at',
      lib.tier_source(_tier, _org_id, _counted_from - _lookback, _counted_from), lib.tier_source(_tier, _org_id, _start, _end)
    ) using _series_ids, _group_numbers, _window, _timezone, _start, _aggregation, _end, _tier, _counted_from;

  elsif _aggregation in ('median', 'p50', 'p90', 'p95', 'p99') then
    -- One series a group, buckets of the tier's own width (lib.choose_tier sees to it).
    for _part in select * from lib.cover_range(_tier, _start, _end) loop
      select * into _split from lib.split_range(_part.tier, _org_id, _part.starts_at, _part.ends_at);
      foreach _range in array array(select unnest(_split.rolled_up)) loop
        return query execute format(
          'select g.group_number, t.bucket, t.%I
           from %s t
           join unnest($1, $2) as g (series_id, group_number) on g.series_id = t.series_id
           where t.bucket >= $3 and t.bucket < $4',
          replace(_aggregation, 'median', 'p50'), obs.tier_table(_part.tier)
        ) using _series_ids, _group_numbers, lower(_range), upper(_range);
      end loop;
      foreach _range in array array(select unnest(_split.raw)) loop
        return query
        select a.*
        from lib.aggregate_samples(
          _series_ids, _group_numbers, lower(_range), upper(_range), _aggregation, _part.width, _timezone
        ) a;
      end loop;
    end loop;

  else
    _rows := format(
      case
        -- A row of the tier is a row of the answer.
        when _timezone = 'UTC' and _window = (select t.width from obs.tier t where t.name = _tier)
          and cardinality(_series_ids) = (select count(distinct n) from unnest(_group_numbers) as n)
          then
            'select g.group_number, t.*
            from %s t
            join unnest($1, $2) as g (series_id, group_number) on g.series_id = t.series_id'
        -- What of it is not asked for is not computed: PostgreSQL leaves out what an outer query does not use.
        else
          'select g.group_number, lib.bucket_start(t.bucket, $3, $4, $5) as bucket,
            sum(t.count)::bigint as count, sum(t.sum) as sum, min(t.min) as min, max(t.max) as max,
            obs.merge_moments(t.moments) as moments,
            public.first(t.first_value, t.first_time) as first_value,
            public.last(t.last_value, t.last_time) as last_value
          from %s t
          join unnest($1, $2) as g (series_id, group_number) on g.series_id = t.series_id
          group by 1, 2'
      end,
      lib.tier_source(_tier, _org_id, _start, _end)
    );
    return query execute format(
      'select m.group_number, m.bucket, %s from (%s) as m',
      case _aggregation
        when 'avg' then 'm.sum / m.count'
        when 'stddev' then 'case when m.moments[1] > 1 then sqrt(m.moments[3] / (m.moments[1] - 1)) end'
        when 'first' then 'm.first_value'
        when 'last' then 'm.last_value'
        else format('m.%I::float8', _aggregation)
      end,
      _rows
    ) using _series_ids, _group_numbers, _window, _timezone, _start;
  end if;
end
$$;
comment on function lib.aggregate_tier is 'lib.aggregate_samples from the rows of a tier: the same answers for what lib.choose_tier allows.';

create function lib.choose_tier(
  _aggregation text,
  _start timestamptz,
  _end timestamptz,
  _window interval,
  _timezone text,
  _series_count int,
  _group_count int,
  out tier text,
  out holds_histograms boolean,
  out raw_from timestamptz
)
language plpgsql
stable
set search_path = ''
as $$
declare
  _is_percentile constant boolean := _aggregation in ('median', 'p50', 'p90', 'p95', 'p99');
  _window_seconds constant float8 := extract(epoch from _window);
  _raw_kept_from constant timestamptz := obs.kept_from('sample', now());
  -- Raw samples, which are exact, are as quick: 200 hours of one series, or 2 of a hundred.
  _is_short constant boolean :=
    _start >= _raw_kept_from and _series_count * extract(epoch from _end - _start) <= 200 * 3600;
  _tier obs.tier;
begin
  for _tier in select * from obs.tier t order by t.holds_histograms, t.width desc loop
    continue when case
      when not _is_percentile then _tier.holds_histograms
      when _tier.holds_histograms then _is_short
      else not _tier.holds_percentiles or _window is distinct from _tier.width or _series_count > _group_count
    end;
    continue when case
      when _window is null then _end - _start < 2 * _tier.width
      else mod(_window_seconds::numeric, extract(epoch from _tier.width)) <> 0
    end;
    -- Nothing of the range is rolled up: raw samples are aggregated directly.
    continue when obs.tier_watermark(_tier.name) <= _start;
    -- Local buckets have to begin where the tier's do: the zone's offset a multiple of its width, all through the range.
    continue when _timezone <> 'UTC' and _window is not null and exists (
      select
      from (
        select generate_series(_start, _end, interval '7 days') as at
        union all
        -- From where lib.bucket_start counts hours.
        values (_end), ('2000-01-03Z')
      ) as instants
      where mod(extract(epoch from (at at time zone _timezone) - (at at time zone 'UTC')), extract(epoch from _tier.width)) <> 0
    );
    tier := _tier.name;
    holds_histograms := _tier.holds_histograms;
    raw_from := _end;
    return;
  end loop;

  raw_from := _start;
  if _raw_kept_from <= _start then
    return;
  end if;
  -- What raw samples no longer hold comes from the finest tier, in its buckets; they begin again with a bucket of the answer.
  select * into _tier from obs.tier t where t.holds_histograms = _is_percentile order by t.width limit 1;
  tier := _tier.name;
  holds_histograms := _tier.holds_histograms;
  raw_from := obs.bucket_ceiling(
    _tier.width,
    -- A counter's first step is from a sample before.
    _raw_kept_from + case when _aggregation in ('rate', 'increase') then lib.counter_lookback(_window) else interval '0' end
  );
  raw_from := least(_end, lib.bucket_end(
    lib.bucket_start(raw_from - interval '1 microsecond', _window, _timezone, _start), _window, _timezone, _end
  ));
end
$$;
comment on function lib.choose_tier is
  'What answers a query: the coarsest tier that does so exactly for [_start, raw_from), raw samples for [raw_from, _end). A '
  'tier does when its width divides the window and local buckets begin with one of its own; for percentiles when it holds '
  'them, the window is its width and each group one series. Other percentiles come from histograms, within 1 %, unless the '
  'range is short. Raw samples where no tier does, and the finest tier where they are no longer kept.';

-- In plain SQL, to become part of the query that calls it instead of a table in between.
create function lib.run_plan(
  _tier text,
  _holds_histograms boolean,
  _raw_from timestamptz,
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
language sql
stable
as $$
  select *
  from lib.aggregate_tier(_tier, _org_id, _series_ids, _group_numbers, _start, _raw_from, _aggregation, _window, _timezone)
  where _raw_from > _start and not _holds_histograms
  union all
  select *
  from lib.aggregate_histograms(_tier, _org_id, _series_ids, _group_numbers, _start, _raw_from, _aggregation, _window, _timezone)
  where _raw_from > _start and _holds_histograms
  union all
  select *
  from lib.aggregate_samples(_series_ids, _group_numbers, _raw_from, _end, _aggregation, _window, _timezone)
  where _raw_from < _end
$$;
comment on function lib.run_plan is 'lib.aggregate_samples by way of what lib.choose_tier chose: _tier, _holds_histograms and _raw_from.';

create function lib.aggregate_range(
  _org_id int,
  _series_ids int[],
  _group_numbers int[],
  _group_count int,
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
declare
  _plan record;
begin
  select * into _plan
  from lib.choose_tier(_aggregation, _start, _end, _window, _timezone, cardinality(_series_ids), _group_count);
  return query
  select * from lib.run_plan(
    _plan.tier, _plan.holds_histograms, _plan.raw_from,
    _org_id, _series_ids, _group_numbers, _start, _end, _aggregation, _window, _timezone
  );
end
$$;
comment on function lib.aggregate_range is 'lib.aggregate_samples from whatever answers best; _group_numbers are those of _group_count groups.';

create function api.mark_late(_org_ids int[], _starts timestamptz[], _ends timestamptz[])
returns void
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  -- Five minutes before the transaction: see obs.tier.lag.
  _settled timestamptz := now() - interval '5 minutes';
begin
  -- Later only where a clock was turned back.
  select greatest(_settled, max(obs.tier_watermark(t.name))) into _settled from obs.tier t;
  if (select min(s) from unnest(_starts) as s) >= _settled then
    return;
  end if;
  insert into obs.dirty_range (org_id, starts_at, ends_at)
  select r.org_id, lower(merged.late), upper(merged.late)
  from (
    select a.org_id, range_agg(tstzrange(a.starts_at, a.ends_at)) as late
    from unnest(_org_ids, _starts, _ends) as a (org_id, starts_at, ends_at)
    where a.starts_at < _settled
    group by a.org_id
  ) as r
  cross join lateral (select unnest(r.late) as late) as merged;
end
$$;
comment on function api.mark_late is
  'Writes to obs.dirty_range those of the times that samples arrive for that may have been rolled up. To be called in the '
  'transaction that writes the samples; a flush holds those of many orgs.';

create function job.list_tiers()
returns setof text
language sql
stable
security definer
set search_path = ''
as $$
  select name from obs.tier order by width, holds_histograms
$$;
comment on function job.list_tiers is 'The tiers in the order in which they are to be refreshed: some are taken from finer ones.';

create function job.refresh_tier(_tier text, _now timestamptz default now())
returns boolean
language sql
volatile
security definer
set search_path = ''
as $$
  -- An erasure's end waits for it.
  select pg_advisory_xact_lock_shared(hashtext('obs.refresh_tier'));
  select obs.refresh_tier(_tier, _now);
$$;
comment on function job.refresh_tier is
  'Rolls up what of a tier is due, a day at the most; true when there is more to do. Community edition: false, its policies do it.';

create function job.refresh_dirty_ranges(_now timestamptz default now())
returns int
language sql
volatile
security definer
set search_path = ''
as $$
  -- An erasure's end waits for it.
  select pg_advisory_xact_lock_shared(hashtext('obs.refresh_tier'));
  select obs.refresh_dirty_ranges(_now);
$$;
comment on function job.refresh_dirty_ranges is
  'Rolls up again what late samples changed; returns the number of ranges. Community edition: 0, its scheduler does it.';

create function job.drop_expired(_now timestamptz default now())
returns int
language sql
volatile
security definer
set search_path = ''
as $$
  select obs.drop_expired(_now)
$$;
comment on function job.drop_expired is
  'Drops the chunks that obs.retention no longer keeps; returns how many. Community edition: 0, its policies do it.';
