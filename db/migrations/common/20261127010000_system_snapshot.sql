-- migrate:up
create table obs.system_snapshot (
  time timestamptz not null,
  org_id int not null,
  total_services int not null,
  healthy_services int not null,
  degraded_services int not null,
  unhealthy_services int not null,
  avg_response_time_ms float8,
  uptime_percentage float8,
  critical_alerts int not null,
  warning_alerts int not null,
  info_alerts int not null,
  started_alerts int not null,
  requests_per_second float8,
  error_percentage float8,
  reported_response_time_ms float8
);
comment on table obs.system_snapshot is
  'How each org was, once a minute: what trends are told from, at the same cost whatever the size of the org. Unlike other hypertables it says the org itself: it is small, and needs no columnstore, which row-level security would rule out.';
comment on column obs.system_snapshot.total_services is 'Registered, of whatever status: those that are in none of the three counts are unknown.';
comment on column obs.system_snapshot.avg_response_time_ms is 'Of the last probe of each service that is healthy or degraded; null where none has one.';
comment on column obs.system_snapshot.uptime_percentage is 'Of all services in the running hour and the 23 before; null where nothing was observed.';
comment on column obs.system_snapshot.critical_alerts is 'Alerts that are firing or acknowledged, of this severity.';
comment on column obs.system_snapshot.started_alerts is 'Alerts that began since the snapshot before, those that are over again among them.';
comment on column obs.system_snapshot.requests_per_second is
  'What the org''s services report, the rate of http_requests_total over the last five minutes; null where none does.';
comment on column obs.system_snapshot.error_percentage is
  'Share of those requests that failed: a label status, status_code or code of 5xx, or else the rate of http_errors_total.';
comment on column obs.system_snapshot.reported_response_time_ms is 'The average of the samples of response_time_ms in the last five minutes.';
select public.create_hypertable('obs.system_snapshot', public.by_range('time', interval '1 day'), create_default_indexes => false);
create index system_snapshot_org_id_time on obs.system_snapshot (org_id, time desc);
select obs.set_retention('system_snapshot', interval '90 days');
alter table obs.system_snapshot enable row level security;
create policy tenant on obs.system_snapshot to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy worker on obs.system_snapshot to obs_job_definer using (true);
grant select on obs.system_snapshot to obs_api_definer;
grant select, insert, delete on obs.system_snapshot to obs_job_definer;

-- migrate:down
drop table obs.system_snapshot;
delete from obs.retention where table_name = 'system_snapshot';
