-- migrate:up
create table obs.probe_result (
  time timestamptz not null,
  service_id int not null,
  slot timestamptz,
  outcome text not null check (outcome in ('up', 'degraded', 'down', 'unknown')),
  response_time_ms float8,
  dns_ms float8,
  connect_ms float8,
  tls_ms float8,
  first_byte_ms float8,
  status_code int,
  reason text,
  worker text
);
comment on table obs.probe_result is
  'What each probe found. Carries no org: it is reached by joining obs.service, which row-level security protects.';
comment on column obs.probe_result.time is 'When the probe began, by the database''s clock.';
comment on column obs.probe_result.slot is
  'The slot it was for: time - slot is how late it began. Null for one that was asked for, or a heartbeat as it came.';
comment on column obs.probe_result.outcome is 'unknown: nothing was learned of the service, such as when the worker itself had no network.';
comment on column obs.probe_result.response_time_ms is
  'To the last byte, all redirects included; dns_ms, connect_ms, tls_ms and first_byte_ms are the parts of the last hop.';
select public.create_hypertable('obs.probe_result', public.by_range('time', interval '1 day'), create_default_indexes => false);
create index probe_result_service_id_time on obs.probe_result (service_id, time desc);

-- Tiers of the results. They are not continuous aggregates: a slot has one result, recorded within a minute of it and never
-- later, so the transaction that records it adds it to its buckets. They are right at once, without a watermark, on
-- both editions, and a thousand services' last day is 25,000 rows to read instead of what the last hour's probes left.
create table obs.probe_1h (
  bucket timestamptz not null,
  service_id int not null,
  up_count int not null,
  degraded_count int not null,
  down_count int not null,
  observed_seconds float8 not null,
  down_seconds float8 not null,
  response_time_sum_ms float8 not null,
  response_time_max_ms float8,
  primary key (service_id, bucket)
) with (fillfactor = 70);
comment on table obs.probe_1h is 'Results of the slots of an hour (UTC): a tier of obs.probe_result, kept by lib.record_probes.';
comment on column obs.probe_1h.up_count is 'Answers as expected, the degraded ones not among them.';
comment on column obs.probe_1h.observed_seconds is
  'Time that the results stand for, the service''s interval each: a change of the interval does not change what a minute weighs.';
comment on column obs.probe_1h.response_time_sum_ms is 'Of the answers as expected, the degraded ones among them.';
select public.create_hypertable('obs.probe_1h', public.by_range('bucket', interval '7 days'), create_default_indexes => false);

create table obs.probe_1d (like obs.probe_1h including constraints including comments, primary key (service_id, bucket)) with (fillfactor = 70);
comment on table obs.probe_1d is 'As obs.probe_1h, of a day (UTC).';
select public.create_hypertable('obs.probe_1d', public.by_range('bucket', interval '90 days'), create_default_indexes => false);

create table obs.service_event (
  time timestamptz not null,
  service_id int not null,
  event text not null check (event in ('status', 'flapping', 'stable', 'paused', 'resumed')),
  from_status text not null,
  to_status text not null,
  reason text,
  actor text not null
);
comment on table obs.service_event is 'Each change of a service. Carries no org: it is reached by joining obs.service.';
select public.create_hypertable('obs.service_event', public.by_range('time', interval '30 days'), create_default_indexes => false);
create index service_event_service_id_time on obs.service_event (service_id, time desc);

select obs.set_retention('probe_result', interval '90 days');
select obs.set_retention('probe_1h', interval '100 days');
select obs.set_retention('probe_1d', interval '400 days');
select obs.set_retention('service_event', interval '400 days');

grant select, insert on obs.probe_result, obs.service_event to obs_api_definer, obs_job_definer;
grant select on obs.probe_1h, obs.probe_1d to obs_api_definer;
grant select, insert, update on obs.probe_1h, obs.probe_1d to obs_job_definer;
grant delete on obs.probe_result, obs.service_event, obs.probe_1h, obs.probe_1d to obs_job_definer;

-- migrate:down
drop table obs.service_event;
drop table obs.probe_1d;
drop table obs.probe_1h;
drop table obs.probe_result;
delete from obs.retention where table_name in ('probe_result', 'probe_1h', 'probe_1d', 'service_event');
