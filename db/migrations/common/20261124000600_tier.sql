-- migrate:up
create table obs.tier (
  name text primary key,
  width interval not null unique,
  lag interval not null check (lag >= interval '10 minutes'),
  watermark timestamptz not null default '-infinity'
);
comment on table obs.tier is 'The tiers that samples are rolled up to, read through obs.sample_5m, obs.sample_1h and obs.sample_1d.';
comment on column obs.tier.width is 'Width of the tier''s buckets, aligned to UTC.';
comment on column obs.tier.lag is
  'How long after its end a bucket is rolled up. At least ten minutes: what arrives for a time more than five minutes '
  'ago is written to obs.dirty_range, and a flush under way takes less than the difference.';
comment on column obs.tier.watermark is
  'Apache 2 edition: buckets before it are rolled up. Read obs.tier_watermark, which is right for both editions.';
insert into obs.tier (name, width, lag) values
  ('5m', '5 minutes', '10 minutes'),
  ('1h', '1 hour', '15 minutes'),
  ('1d', '1 day', '30 minutes');
grant select on obs.tier to obs_api_definer, obs_job_definer;
grant update (watermark) on obs.tier to obs_job_definer;

insert into obs.retention (table_name, keep) values ('sample_5m', interval '90 days'), ('sample_1h', interval '400 days');

create table obs.dirty_range (
  id bigint generated always as identity primary key,
  -- No foreign key: its check would lock the org's row in every flush of late samples.
  org_id int not null,
  starts_at timestamptz not null,
  ends_at timestamptz not null check (ends_at > starts_at),
  created_at timestamptz not null default now()
);
comment on table obs.dirty_range is
  'Times for which an org has samples that came after their bucket may have been rolled up, written in the samples'' '
  'own transaction. Readers take these buckets from raw samples until a refresh has rolled them up again.';
create index dirty_range_org_id on obs.dirty_range (org_id, ends_at);
alter table obs.dirty_range enable row level security;
-- One flush carries samples of many orgs.
create policy arrival on obs.dirty_range for insert to obs_api_definer with check (true);
create policy tenant on obs.dirty_range for select to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy worker on obs.dirty_range to obs_job_definer using (true);
grant select, insert on obs.dirty_range to obs_api_definer;
grant select, insert, delete on obs.dirty_range to obs_job_definer;

create aggregate obs.moments(float8) (
  sfunc = pg_catalog.float8_accum,
  stype = float8[],
  initcond = '{0,0,0}',
  combinefunc = pg_catalog.float8_combine,
  parallel = safe
);
comment on aggregate obs.moments(float8) is
  'Count, sum and sum of squared deviations from the mean, as PostgreSQL''s own variance keeps them (Youngs and Cramer, '
  '1971): merging them does not cancel as sums of squares do. Sample variance: moments[3] / (moments[1] - 1).';

create aggregate obs.merge_moments(float8[]) (
  sfunc = pg_catalog.float8_combine,
  stype = float8[],
  initcond = '{0,0,0}',
  combinefunc = pg_catalog.float8_combine,
  parallel = safe
);
comment on aggregate obs.merge_moments(float8[]) is 'Merges what obs.moments gave for parts into that of the whole.';

create function obs.counter_increase(_values float8[])
returns float8
language plpgsql
immutable
strict
parallel safe
set search_path = ''
as $$
declare
  _value float8;
  _previous float8 := _values[1];
  _increase float8 := 0;
begin
  foreach _value in array _values loop
    _increase := _increase + case when _value >= _previous then _value - _previous else _value end;
    _previous := _value;
  end loop;
  return _increase;
end
$$;
comment on function obs.counter_increase(float8[]) is
  'Increase of a counter over successive values: the sum of steps, a fall counted as a reset to 0 '
  '(https://prometheus.io/docs/prometheus/latest/querying/functions/#increase, without its extrapolation).';

-- migrate:down
drop function obs.counter_increase(float8[]);
drop aggregate obs.merge_moments(float8[]);
drop aggregate obs.moments(float8);
drop table obs.dirty_range;
delete from obs.retention where table_name in ('sample_5m', 'sample_1h');
drop table obs.tier;
