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
