-- migrate:up
-- Read as a row, and so as of the same moment as the tier: TimescaleDB's own function looks at what has been committed
-- since, and a query that began before a refresh would miss the buckets that it materialized.
create or replace function obs.tier_watermark(_tier text)
returns timestamptz
language plpgsql
stable
parallel safe
set search_path = ''
as $$
begin
  return (
    select _timescaledb_functions.to_timestamp(w.watermark)
    from _timescaledb_catalog.continuous_agg a
    join _timescaledb_catalog.continuous_aggs_watermark w on w.mat_hypertable_id = a.mat_hypertable_id
    where a.user_view_schema = 'obs' and a.user_view_name = 'sample_' || _tier
  );
end
$$;

create or replace procedure obs.run_refresh_dirty_ranges(_job_id int default null, _config jsonb default null)
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
  -- Rows that a flush commits from here on are for the next call, and so are those that a refresh under way may not have
  -- seen: once it has ended, what it materialized without them is behind the watermark.
  select array_agg(d.id), range_agg(tstzrange(d.starts_at, d.ends_at)) into _ids, _ranges
  from obs.dirty_range d
  where not exists (
    select
    from pg_stat_activity a
    where a.datname = current_database() and a.pid <> pg_backend_pid() and age(a.backend_xmin) >= age(d.xmin)
  );
  if _ids is null then
    return;
  end if;
  _kept_from := obs.kept_from('sample', now());
  for _tier in select * from obs.tier t order by t.width loop
    for _dirty in
      select unnest(range_agg(tstzrange(
        public.time_bucket(_tier.width, lower(r)),
        public.time_bucket(_tier.width, upper(r) - interval '1 microsecond') + _tier.width
      )))
      from unnest(_ranges) as r
    loop
      -- Never a bucket that raw samples no longer fill: that would erase what the tier still knows.
      _start := greatest(lower(_dirty), obs.bucket_ceiling(_tier.width, _kept_from));
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

-- migrate:down
create or replace function obs.tier_watermark(_tier text)
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

create or replace procedure obs.run_refresh_dirty_ranges(_job_id int default null, _config jsonb default null)
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
