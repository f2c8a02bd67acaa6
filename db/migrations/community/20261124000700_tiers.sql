-- migrate:up
-- The times up to which each continuous aggregate is materialized, and the tiers themselves. 1h and 1d are taken from
-- raw samples and not from the tier below: exact percentiles cannot be had from anything else.

create materialized view obs.sample_5m
with (timescaledb.continuous, timescaledb.materialized_only = false, timescaledb.create_group_indexes = false) as
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
  group by 1, 2
with no data;
select public.set_chunk_time_interval('obs.sample_5m', interval '7 days');
create index on obs.sample_5m (series_id, bucket);
comment on view obs.sample_5m is 'Samples of a series in buckets of 5 minutes: a real-time continuous aggregate.';

create materialized view obs.sample_1h
with (timescaledb.continuous, timescaledb.materialized_only = false, timescaledb.create_group_indexes = false) as
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
  group by 1, 2
with no data;
select public.set_chunk_time_interval('obs.sample_1h', interval '30 days');
create index on obs.sample_1h (series_id, bucket);
comment on view obs.sample_1h is 'Samples of a series in buckets of 1 hour: a real-time continuous aggregate.';

create materialized view obs.sample_1d
with (timescaledb.continuous, timescaledb.materialized_only = false, timescaledb.create_group_indexes = false) as
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
  group by 1, 2
with no data;
select public.set_chunk_time_interval('obs.sample_1d', interval '1 year');
create index on obs.sample_1d (series_id, bucket);
comment on view obs.sample_1d is 'Samples of a series in buckets of 1 day: a real-time continuous aggregate.';

-- In plpgsql, which keeps its plan: in SQL it is planned anew at each call, and each flush calls it.
create function obs.tier_watermark(_tier text)
returns timestamptz
language plpgsql
stable
parallel safe
set search_path = ''
as $$
begin
  return (
    select _timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark(a.mat_hypertable_id))
    from _timescaledb_catalog.continuous_agg a
    where a.user_view_schema = 'obs' and a.user_view_name = 'sample_' || _tier
  );
end
$$;
comment on function obs.tier_watermark(text) is 'Buckets of a tier that end at or before it are materialized.';

create procedure obs.run_refresh_dirty_ranges(_job_id int default null, _config jsonb default null)
language plpgsql
as $$
declare
  _ids bigint[];
  _ranges tstzmultirange;
  _dirty tstzrange;
  _tier obs.tier;
  _kept_from timestamptz;
  _start timestamptz;
  _end timestamptz;
begin
  -- Rows that a flush commits from here on are for the next call.
  select array_agg(d.id), range_agg(tstzrange(d.starts_at, d.ends_at)) into _ids, _ranges from obs.dirty_range d;
  if _ids is null then
    return;
  end if;
  select now() - r.keep into _kept_from from obs.retention r where r.table_name = 'sample';
  for _tier in select * from obs.tier t order by t.width loop
    for _dirty in
      select unnest(range_agg(tstzrange(
        public.time_bucket(_tier.width, lower(r)),
        public.time_bucket(_tier.width, upper(r) - interval '1 microsecond') + _tier.width
      )))
      from unnest(_ranges) as r
    loop
      -- Never a bucket that raw samples no longer fill: that would erase what the tier still knows.
      _start := greatest(lower(_dirty), public.time_bucket(_tier.width, _kept_from) + _tier.width);
      _end := least(upper(_dirty), obs.tier_watermark(_tier.name));
      if _start < _end then
        call public.refresh_continuous_aggregate(format('obs.sample_%s', _tier.name)::regclass, _start, _end);
      end if;
    end loop;
  end loop;
  delete from obs.dirty_range d where d.id = any (_ids);
  commit;
end
$$;
comment on procedure obs.run_refresh_dirty_ranges(int, jsonb) is
  'Refreshes the buckets in obs.dirty_range and removes its rows. Buckets that begin before the retention of raw samples stay '
  'as they are. A job of TimescaleDB''s scheduler runs it every minute.';
select public.add_job('obs.run_refresh_dirty_ranges', interval '1 minute');

create function obs.set_retention(_table_name text, _keep interval)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _relation regclass := format('obs.%I', _table_name)::regclass;
  _tier obs.tier;
  _schedule interval;
begin
  if _table_name = 'sample' and _keep < interval '7 days' then
    raise exception 'raw samples must be kept for 7 days at least, for the tiers to be taken from' using errcode = '22023';
  end if;
  insert into obs.retention (table_name, keep) values (_table_name, _keep)
  on conflict (table_name) do update set keep = excluded.keep;
  perform public.remove_retention_policy(_relation, if_exists => true);
  perform public.add_retention_policy(_relation, _keep);
  if _table_name <> 'sample' then
    return;
  end if;
  -- A refresh that reached past the raw samples would erase the tier there.
  for _tier in select * from obs.tier loop
    _relation := format('obs.%I', 'sample_' || _tier.name)::regclass;
    select j.schedule_interval into _schedule
    from timescaledb_information.jobs j
    join timescaledb_information.continuous_aggregates a
      on a.materialization_hypertable_schema = j.hypertable_schema and a.materialization_hypertable_name = j.hypertable_name
    where a.view_schema = 'obs' and a.view_name = 'sample_' || _tier.name and j.proc_name = 'policy_refresh_continuous_aggregate';
    perform public.remove_continuous_aggregate_policy(_relation, if_exists => true);
    perform public.add_continuous_aggregate_policy(
      _relation,
      start_offset => _keep - _tier.width,
      end_offset => _tier.lag,
      schedule_interval => coalesce(_schedule, greatest(interval '1 minute', _tier.width / 12))
    );
  end loop;
end
$$;
comment on function obs.set_retention(text, interval) is
  'Keeps the rows of a table of obs (sample, sample_5m, sample_1h) for so long, counted from their time; raw samples 7 days '
  'at least. For a migration: select obs.set_retention(''sample'', interval ''14 days'').';

select obs.set_retention(table_name, keep) from obs.retention;

-- What the worker calls on the Apache 2 edition; here TimescaleDB's scheduler does the work.
create function obs.refresh_tier(_tier text, _now timestamptz) returns boolean language sql immutable as $$ select false $$;
comment on function obs.refresh_tier(text, timestamptz) is 'False, nothing more to do: refresh policies roll up.';
create function obs.refresh_dirty_ranges(_now timestamptz) returns int language sql immutable as $$ select 0 $$;
comment on function obs.refresh_dirty_ranges(timestamptz) is '0: see procedure obs.run_refresh_dirty_ranges.';
create function obs.drop_expired(_now timestamptz) returns int language sql immutable as $$ select 0 $$;
comment on function obs.drop_expired(timestamptz) is '0: retention policies drop chunks.';

grant select on obs.sample_5m, obs.sample_1h, obs.sample_1d to obs_api_definer, obs_job_definer;

-- migrate:down
drop function obs.drop_expired(timestamptz);
drop function obs.refresh_dirty_ranges(timestamptz);
drop function obs.refresh_tier(text, timestamptz);
select public.delete_job(job_id) from timescaledb_information.jobs where proc_schema = 'obs' and proc_name = 'run_refresh_dirty_ranges';
drop function obs.set_retention(text, interval);
select public.remove_retention_policy('obs.sample');
drop procedure obs.run_refresh_dirty_ranges(int, jsonb);
drop function obs.tier_watermark(text);
drop materialized view obs.sample_1d;
drop materialized view obs.sample_1h;
drop materialized view obs.sample_5m;
