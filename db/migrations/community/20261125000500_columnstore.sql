-- migrate:up
-- Samples of one series lie together in order of time: 2 to 3 bytes each instead of 100.
alter table obs.sample set (
  timescaledb.enable_columnstore,
  timescaledb.segmentby = 'series_id',
  timescaledb.orderby = 'time',
  -- Seven days to a chunk there: with few series the files' fixed sizes would outweigh what is in them.
  timescaledb.compress_chunk_time_interval = '7 days'
);
call public.add_columnstore_policy('obs.sample', after => interval '7 days');

do $$
declare
  _tier obs.tier;
begin
  for _tier in select * from obs.tier loop
    execute format(
      'alter materialized view obs.%I set (
         timescaledb.enable_columnstore, timescaledb.segmentby = ''series_id'', timescaledb.orderby = ''bucket''
       )',
      'sample_' || _tier.name
    );
  end loop;
end
$$;

create or replace function obs.set_retention(_table_name text, _keep interval)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _relation regclass := format('obs.%I', _table_name)::regclass;
  _tier obs.tier;
  _schedule interval;
  _reach interval;
  _job_id int;
begin
  if _table_name = 'sample' and _keep < interval '7 days' then
    raise exception 'raw samples must be kept for 7 days at least, for the tiers to be taken from' using errcode = '22023';
  end if;
  insert into obs.retention (table_name, keep) values (_table_name, _keep)
  on conflict (table_name) do update set keep = excluded.keep;
  perform public.remove_retention_policy(_relation, if_exists => true);
  -- Raw samples a day longer, so that each day that is begun is there as a whole, see obs.kept_from.
  perform public.add_retention_policy(
    _relation, case when _table_name = 'sample' then _keep + interval '1 day' else _keep end
  );
  if _table_name <> 'sample' then
    return;
  end if;
  -- A refresh that reached past the raw samples would erase the tier there. Where the retention was made longer it stops at
  -- what is complete; late samples from before that are refreshed by obs.run_refresh_dirty_ranges.
  select case when isfinite(r.complete_from) then least(r.keep, now() - r.complete_from) else r.keep end
  into _reach
  from obs.retention r
  where r.table_name = 'sample';
  for _tier in select * from obs.tier loop
    _relation := format('obs.%I', 'sample_' || _tier.name)::regclass;
    select j.schedule_interval into _schedule
    from timescaledb_information.jobs j
    join timescaledb_information.continuous_aggregates a
      -- Which of the two it is depends on TimescaleDB's version.
      on j.hypertable_name in (a.view_name, a.materialization_hypertable_name)
    where a.view_schema = 'obs' and a.view_name = 'sample_' || _tier.name and j.proc_name = 'policy_refresh_continuous_aggregate';
    -- What may be refreshed stays out of the columnstore.
    call public.remove_columnstore_policy(_relation, if_exists => true);
    perform public.remove_continuous_aggregate_policy(_relation, if_exists => true);
    _job_id := public.add_continuous_aggregate_policy(
      _relation,
      start_offset => _reach,
      end_offset => _tier.lag,
      schedule_interval => coalesce(_schedule, greatest(interval '1 minute', _tier.width / 12))
    );
    -- A backlog is worked off in steps. Newest first, TimescaleDB's default, would move the watermark past buckets that
    -- are not there yet.
    perform public.alter_job(_job_id, config => j.config || '{"refresh_newest_first": false}')
    from timescaledb_information.jobs j
    where j.job_id = _job_id;
    call public.add_columnstore_policy(_relation, after => _keep + interval '1 day');
  end loop;
end
$$;
select obs.set_retention('sample', keep) from obs.retention where table_name = 'sample';

-- migrate:down
do $$
declare
  _relation regclass;
begin
  foreach _relation in array array(
    select 'obs.sample'::regclass union all select format('obs.%I', 'sample_' || t.name)::regclass from obs.tier t
  ) loop
    call public.remove_columnstore_policy(_relation, if_exists => true);
  end loop;
end
$$;
-- What lies in the columnstore stays there and is read as before.
create or replace function obs.set_retention(_table_name text, _keep interval)
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
