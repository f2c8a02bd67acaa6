-- migrate:up
create or replace function obs.refresh_tier(_tier text, _now timestamptz)
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
  -- The oldest chunk stands in for its oldest sample, which no index gives.
  select min(c.range_start) into _oldest
  from timescaledb_information.chunks c
  where c.hypertable_schema = 'obs' and c.hypertable_name = 'sample' and c.range_end > _watermark;
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

create or replace function obs.refresh_dirty_ranges(_now timestamptz)
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
  _kept_from := obs.kept_from('sample', _now);
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
        _start := greatest(lower(_dirty), obs.bucket_ceiling(_tier.width, _kept_from));
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

-- Whole days, see obs.kept_from.
create or replace function obs.drop_expired(_now timestamptz)
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
    select h.hypertable_name as name, public.time_bucket(interval '1 day', _now - r.keep) as kept_from
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

-- migrate:down
create or replace function obs.refresh_tier(_tier text, _now timestamptz)
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

create or replace function obs.refresh_dirty_ranges(_now timestamptz)
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

create or replace function obs.drop_expired(_now timestamptz)
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
