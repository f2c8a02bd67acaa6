-- migrate:up
create function obs.tier_table(_tier text)
returns regclass
language sql
stable
set search_path = ''
as $$
  select format('%I.%I', a.materialization_hypertable_schema, a.materialization_hypertable_name)::regclass
  from timescaledb_information.continuous_aggregates a
  where a.view_schema = 'obs' and a.view_name = 'sample_' || _tier
$$;
comment on function obs.tier_table(text) is 'The hypertable that holds the materialized rows of a tier.';

-- What an org's own retention deletes (job.delete_expired), and what GET /org/storage counts.
do $$
declare
  _tier obs.tier;
begin
  for _tier in select * from obs.tier loop
    execute format('grant select, delete on %s to obs_job_definer', obs.tier_table(_tier.name));
    execute format('grant select on %s to obs_api_definer', obs.tier_table(_tier.name));
  end loop;
end
$$;
grant usage on schema _timescaledb_internal to obs_api_definer, obs_job_definer;

-- migrate:down
drop function obs.tier_table(text);
