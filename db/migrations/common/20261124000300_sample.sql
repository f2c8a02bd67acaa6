-- migrate:up
create table obs.sample (
  time timestamptz not null,
  series_id int not null,
  value float8 not null
);
comment on table obs.sample is
  'Raw samples. No unique constraint: two observations of one series at one instant are both real. '
  'Carries no org: it is reached by joining obs.series, which row-level security protects.';

select public.create_hypertable(
  'obs.sample',
  public.by_range('time', interval '1 day'),
  create_default_indexes => false
);
-- Holds the value too, so that a series is read from the index alone: its samples lie on one heap page each,
-- and fetching those was three quarters of a query over a day.
create index sample_series_id_time on obs.sample (series_id, time desc) include (value);

grant select, insert on obs.sample to obs_api_definer, obs_job_definer;
-- The ingest path writes samples with COPY, whose series ids come from api.ensure_series.
grant insert on obs.sample to obs_api;

-- migrate:down
drop table obs.sample;
