-- migrate:up
-- In plpgsql, which keeps its plan: each query on a tier calls it.
create function obs.tier_table(_tier text)
returns regclass
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select format('%I.%I', h.schema_name, h.table_name)::regclass
    from _timescaledb_catalog.continuous_agg a
    join _timescaledb_catalog.hypertable h on h.id = a.mat_hypertable_id
    where a.user_view_schema = 'obs' and a.user_view_name = 'sample_' || _tier
  );
end
$$;
comment on function obs.tier_table(text) is 'The hypertable that holds the materialized rows of a tier.';

create function obs.grant_tier(_tier text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  execute format('grant select on obs.%I to obs_api_definer, obs_job_definer', 'sample_' || _tier);
  -- What GET /org/storage counts, and what an org's own retention deletes (job.delete_expired).
  execute format('grant select on %s to obs_api_definer', obs.tier_table(_tier));
  execute format('grant select, delete on %s to obs_job_definer', obs.tier_table(_tier));
end
$$;
comment on function obs.grant_tier(text) is 'Lets the functions of schemas api and job read a tier.';
grant usage on schema _timescaledb_internal to obs_api_definer, obs_job_definer;
select obs.grant_tier(name) from obs.tier;

-- migrate:down
revoke usage on schema _timescaledb_internal from obs_api_definer, obs_job_definer;
drop function obs.grant_tier(text);
drop function obs.tier_table(text);
