-- migrate:up
create function obs.tier_table(_tier text)
returns regclass
language sql
stable
set search_path = ''
as $$
  select format('obs.%I', 'sample_' || _tier || '_rolled')::regclass
$$;
comment on function obs.tier_table(text) is 'The hypertable that holds the rolled-up rows of a tier.';

create function obs.grant_tier(_tier text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  execute format('grant select on obs.%I to obs_api_definer, obs_job_definer', 'sample_' || _tier);
  execute format('grant select on %s to obs_api_definer', obs.tier_table(_tier));
  execute format('grant select, insert, delete on %s to obs_job_definer', obs.tier_table(_tier));
end
$$;
comment on function obs.grant_tier(text) is 'Lets the functions of schemas api and job read, and roll up, a tier.';
select obs.grant_tier(name) from obs.tier;

-- migrate:down
drop function obs.grant_tier(text);
drop function obs.tier_table(text);
