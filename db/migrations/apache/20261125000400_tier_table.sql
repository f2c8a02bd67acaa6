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

-- What GET /org/storage counts.
grant select on
  obs.sample_5m_rolled, obs.sample_1h_rolled, obs.sample_1d_rolled, obs.sample_hist_1h_rolled, obs.sample_hist_1d_rolled
  to obs_api_definer;

-- migrate:down
drop function obs.tier_table(text);
