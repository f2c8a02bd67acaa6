-- migrate:up
create table obs.uptime_24h (
  org_id int primary key references obs.org on delete cascade,
  added_up_at timestamptz not null,
  service_ids int[] not null,
  observed_seconds float8[] not null,
  down_seconds float8[] not null,
  check (cardinality(service_ids) = cardinality(observed_seconds) and cardinality(service_ids) = cardinality(down_seconds))
);
comment on table obs.uptime_24h is
  'What the probes of each org''s services observed in 24 hours, added up once a minute with the org''s snapshot: see lib.day_of_services. A row an org and not a service, '
  'which would make as many dead rows a minute as there are services.';
comment on column obs.uptime_24h.observed_seconds is 'Of the service at the same place in service_ids, as is down_seconds.';

alter table obs.uptime_24h enable row level security;
create policy tenant on obs.uptime_24h to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy worker on obs.uptime_24h to obs_job_definer using (true);
grant select on obs.uptime_24h to obs_api_definer;
grant select, insert, update on obs.uptime_24h to obs_job_definer;

-- migrate:down
drop table obs.uptime_24h;
