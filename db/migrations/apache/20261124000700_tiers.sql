-- migrate:up
-- Buckets that job.refresh_tiers has rolled up are in the hypertables *_rolled; the views add those that are not.
-- In plpgsql, which keeps its plan: in SQL it is planned anew at each call, and each flush calls it.
create function obs.tier_watermark(_tier text)
returns timestamptz
language plpgsql
stable
parallel safe
set search_path = ''
as $$
begin
  return (select t.watermark from obs.tier t where t.name = _tier);
end
$$;
comment on function obs.tier_watermark(text) is 'Buckets of a tier that end at or before it are materialized.';

create table obs.sample_5m_rolled (
  bucket timestamptz not null,
  series_id int not null,
  count bigint not null,
  sum float8 not null,
  min float8 not null,
  max float8 not null,
  moments float8[] not null,
  first_value float8 not null,
  first_time timestamptz not null,
  last_value float8 not null,
  last_time timestamptz not null,
  increase float8 not null
);
comment on table obs.sample_5m_rolled is 'Samples of a series in buckets of 5 minutes, as far as they are rolled up. Read obs.sample_5m.';
select public.create_hypertable('obs.sample_5m_rolled', public.by_range('bucket', interval '7 days'), create_default_indexes => false);
create index sample_5m_rolled_series_id_bucket on obs.sample_5m_rolled (series_id, bucket);

create view obs.sample_5m as
  select
    bucket, series_id, count, sum, min, max, moments, first_value, first_time, last_value, last_time, increase
  from obs.sample_5m_rolled
  where bucket < obs.tier_watermark('5m')
  union all
  select
    public.time_bucket(interval '5 minutes', time) as bucket,
    series_id,
    count(*) as count,
    sum(value) as sum,
    min(value) as min,
    max(value) as max,
    obs.moments(value) filter (where abs(value) < 1e140) as moments,
    public.first(value, time) as first_value,
    min(time) as first_time,
    public.last(value, time) as last_value,
    max(time) as last_time,
    obs.counter_increase(array_agg(value order by time, value)) as increase
  from obs.sample
  where time >= obs.tier_watermark('5m')
  group by 1, 2;
comment on view obs.sample_5m is 'Samples of a series in buckets of 5 minutes, rolled up or not yet.';

create table obs.sample_1h_rolled (
  bucket timestamptz not null,
  series_id int not null,
  count bigint not null,
  sum float8 not null,
  min float8 not null,
  max float8 not null,
  moments float8[] not null,
  first_value float8 not null,
  first_time timestamptz not null,
  last_value float8 not null,
  last_time timestamptz not null,
  increase float8 not null,
  p50 float8,
  p90 float8,
  p95 float8,
  p99 float8
);
comment on table obs.sample_1h_rolled is 'Samples of a series in buckets of 1 hour, as far as they are rolled up. Read obs.sample_1h.';
select public.create_hypertable('obs.sample_1h_rolled', public.by_range('bucket', interval '30 days'), create_default_indexes => false);
create index sample_1h_rolled_series_id_bucket on obs.sample_1h_rolled (series_id, bucket);

create view obs.sample_1h as
  select
    bucket, series_id, count, sum, min, max, moments, first_value, first_time, last_value, last_time, increase, p50, p90, p95, p99
  from obs.sample_1h_rolled
  where bucket < obs.tier_watermark('1h')
  union all
  select
    public.time_bucket(interval '1 hour', time) as bucket,
    series_id,
    count(*) as count,
    sum(value) as sum,
    min(value) as min,
    max(value) as max,
    obs.moments(value) filter (where abs(value) < 1e140) as moments,
    public.first(value, time) as first_value,
    min(time) as first_time,
    public.last(value, time) as last_value,
    max(time) as last_time,
    obs.counter_increase(array_agg(value order by time, value)) as increase,
    (percentile_cont(array[0.5, 0.9, 0.95, 0.99]) within group (order by value))[1] as p50,
    (percentile_cont(array[0.5, 0.9, 0.95, 0.99]) within group (order by value))[2] as p90,
    (percentile_cont(array[0.5, 0.9, 0.95, 0.99]) within group (order by value))[3] as p95,
    (percentile_cont(array[0.5, 0.9, 0.95, 0.99]) within group (order by value))[4] as p99
  from obs.sample
  where time >= obs.tier_watermark('1h')
  group by 1, 2;
comment on view obs.sample_1h is 'Samples of a series in buckets of 1 hour, rolled up or not yet.';

create table obs.sample_1d_rolled (
  bucket timestamptz not null,
  series_id int not null,
  count bigint not null,
  sum float8 not null,
  min float8 not null,
  max float8 not null,
  moments float8[] not null,
  first_value float8 not null,
  first_time timestamptz not null,
  last_value float8 not null,
  last_time timestamptz not null,
  increase float8 not null,
  p50 float8,
  p90 float8,
  p95 float8,
  p99 float8
);
comment on table obs.sample_1d_rolled is 'Samples of a series in buckets of 1 day, as far as they are rolled up. Read obs.sample_1d.';
select public.create_hypertable('obs.sample_1d_rolled', public.by_range('bucket', interval '1 year'), create_default_indexes => false);
create index sample_1d_rolled_series_id_bucket on obs.sample_1d_rolled (series_id, bucket);

create view obs.sample_1d as
  select
    bucket, series_id, count, sum, min, max, moments, first_value, first_time, last_value, last_time, increase, p50, p90, p95, p99
  from obs.sample_1d_rolled
  where bucket < obs.tier_watermark('1d')
  union all
  select
    public.time_bucket(interval '1 day', time) as bucket,
    series_id,
    count(*) as count,
    sum(value) as sum,
    min(value) as min,
    max(value) as max,
    obs.moments(value) filter (where abs(value) < 1e140) as moments,
    public.first(value, time) as first_value,
    min(time) as first_time,
    public.last(value, time) as last_value,
    max(time) as last_time,
    obs.counter_increase(array_agg(value order by time, value)) as increase,
    (percentile_cont(array[0.5, 0.9, 0.95, 0.99]) within group (order by value))[1] as p50,
    (percentile_cont(array[0.5, 0.9, 0.95, 0.99]) within group (order by value))[2] as p90,
    (percentile_cont(array[0.5, 0.9, 0.95, 0.99]) within group (order by value))[3] as p95,
    (percentile_cont(array[0.5, 0.9, 0.95, 0.99]) within group (order by value))[4] as p99
  from obs.sample
  where time >= obs.tier_watermark('1d')
  group by 1, 2;
comment on view obs.sample_1d is 'Samples of a series in buckets of 1 day, rolled up or not yet.';

create function obs.refresh_tier(_tier text, _now timestamptz)
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
declare
  _width interval;
  _watermark timestamptz;
  _target timestamptz;
  _until timestamptz;
  _oldest timestamptz;
begin
  -- The row is the lock: a second worker waits here and then finds the watermark moved. A clock that was turned
  -- back gives a target below the watermark, which then stays where it is.
  select t.width, t.watermark, public.time_bucket(t.width, _now - t.lag)
  into _width, _watermark, _target
  from obs.tier t where t.name = _tier for update;
  if _target <= _watermark then
    return false;
  end if;
  select min(s.time) into _oldest from obs.sample s where s.time >= _watermark;
  if _oldest is null or _oldest >= _target then
    update obs.tier set watermark = _target where name = _tier;
    return false;
  end if;
  -- Bounded, so that a backlog is worked off in transactions of a day (of a bucket where that is longer).
  _watermark := greatest(_watermark, public.time_bucket(_width, _oldest));
  _until := least(_target, _watermark + greatest(_width, interval '1 day'));
  perform obs.roll_up(_tier, _watermark, _until, null);
  update obs.tier set watermark = _until where name = _tier;
  return _until < _target;
end
$$;
comment on function obs.refresh_tier(text, timestamptz) is
  'Rolls up what of a tier is due at _now, a day at the most; true when there is more to do. Any number of sessions may call it.';

create function obs.roll_up(_tier text, _start timestamptz, _end timestamptz, _series_ids int[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- Seen by this transaction alone: the view takes everything from _start on from raw samples.
  update obs.tier set watermark = _start where name = _tier;
  execute format(
    'insert into obs.%I select * from obs.%I where bucket >= $1 and bucket < $2 and ($3 is null or series_id = any ($3))',
    'sample_' || _tier || '_rolled', 'sample_' || _tier
  ) using _start, _end, _series_ids;
end
$$;
comment on function obs.roll_up(text, timestamptz, timestamptz, int[]) is
  'Writes the buckets of [_start, _end) from raw samples, of some series or of all (null). Leaves the watermark at _start: '
  'the caller sets it. What was there before must have been deleted.';

create function obs.refresh_dirty_ranges(_now timestamptz)
returns int
language plpgsql
volatile
set search_path = ''
as $$
declare
  _tier obs.tier;
  _ids bigint[];
  _org record;
  _series_ids int[];
  _dirty tstzrange;
  _kept_from timestamptz;
  _start timestamptz;
  _end timestamptz;
begin
  -- Rows that a flush commits from here on are for the next call.
  select array_agg(d.id) into _ids from (select id from obs.dirty_range order by id for update skip locked) d;
  if _ids is null then
    return 0;
  end if;
  select _now - r.keep into _kept_from from obs.retention r where r.table_name = 'sample';
  for _tier in select * from obs.tier t order by t.width for update loop
    for _org in
      select d.org_id, range_agg(tstzrange(
        public.time_bucket(_tier.width, d.starts_at),
        public.time_bucket(_tier.width, d.ends_at - interval '1 microsecond') + _tier.width
      )) as ranges
      from obs.dirty_range d
      where d.id = any (_ids)
      group by d.org_id
    loop
      select array_agg(s.id) into _series_ids from obs.series s where s.org_id = _org.org_id;
      foreach _dirty in array array(select unnest(_org.ranges)) loop
        -- Never a bucket that raw samples no longer fill: that would erase what the tier still knows.
        _start := greatest(lower(_dirty), public.time_bucket(_tier.width, _kept_from) + _tier.width);
        _end := least(upper(_dirty), _tier.watermark);
        if _start < _end then
          execute format('delete from obs.%I where bucket >= $1 and bucket < $2 and series_id = any ($3)', 'sample_' || _tier.name || '_rolled')
            using _start, _end, _series_ids;
          perform obs.roll_up(_tier.name, _start, _end, _series_ids);
        end if;
      end loop;
    end loop;
    update obs.tier set watermark = _tier.watermark where name = _tier.name;
  end loop;
  delete from obs.dirty_range where id = any (_ids);
  return cardinality(_ids);
end
$$;
comment on function obs.refresh_dirty_ranges(timestamptz) is
  'Rolls up again the buckets in obs.dirty_range, in one transaction with the removal of its rows; returns how many. '
  'Buckets that begin before the retention of raw samples stay as they are.';

create function obs.set_retention(_table_name text, _keep interval)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform format('obs.%I', _table_name)::regclass;
  if _table_name = 'sample' and _keep < interval '7 days' then
    raise exception 'raw samples must be kept for 7 days at least, for the tiers to be taken from' using errcode = '22023';
  end if;
  insert into obs.retention (table_name, keep) values (_table_name, _keep)
  on conflict (table_name) do update set keep = excluded.keep;
end
$$;
comment on function obs.set_retention(text, interval) is
  'Keeps the rows of a table of obs (sample, sample_5m, sample_1h) for so long, counted from their time; raw samples 7 days '
  'at least. For a migration: select obs.set_retention(''sample'', interval ''14 days'').';

create function obs.drop_expired(_now timestamptz)
returns int
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _retention record;
  _dropped int := 0;
  _kept_from timestamptz;
begin
  for _retention in
    select h.hypertable_name as name, _now - r.keep as kept_from
    from obs.retention r
    join timescaledb_information.hypertables h
      on h.hypertable_schema = 'obs' and h.hypertable_name in (r.table_name, r.table_name || '_rolled')
  loop
    _kept_from := _retention.kept_from;
    if _retention.name = 'sample' then
      -- What is not rolled up yet has to stay, however old.
      select least(_kept_from, min(t.watermark)) into _kept_from from obs.tier t;
    end if;
    continue when not isfinite(_kept_from);
    _dropped := _dropped + (
      select count(*)::int from public.drop_chunks(format('obs.%I', _retention.name)::regclass, older_than => _kept_from)
    );
  end loop;
  return _dropped;
end
$$;
comment on function obs.drop_expired(timestamptz) is
  'Drops the chunks that obs.retention no longer keeps, raw samples only once every tier has them; returns how many.';
revoke all on function obs.drop_expired(timestamptz) from public;

grant select on obs.sample_5m, obs.sample_1h, obs.sample_1d to obs_api_definer, obs_job_definer;
grant select, insert, delete on obs.sample_5m_rolled, obs.sample_1h_rolled, obs.sample_1d_rolled to obs_job_definer;
grant execute on function obs.refresh_tier(text, timestamptz), obs.refresh_dirty_ranges(timestamptz), obs.drop_expired(timestamptz)
  to obs_job_definer;

-- migrate:down
drop function obs.set_retention(text, interval);
drop function obs.drop_expired(timestamptz);
drop function obs.refresh_dirty_ranges(timestamptz);
drop function obs.refresh_tier(text, timestamptz);
drop function obs.roll_up(text, timestamptz, timestamptz, int[]);
drop view obs.sample_1d;
drop table obs.sample_1d_rolled;
drop view obs.sample_1h;
drop table obs.sample_1h_rolled;
drop view obs.sample_5m;
drop table obs.sample_5m_rolled;
drop function obs.tier_watermark(text);
