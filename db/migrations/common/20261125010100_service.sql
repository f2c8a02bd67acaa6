-- migrate:up
alter table obs.org add column service_limit int not null default 10000 check (service_limit >= 0);
comment on column obs.org.service_limit is 'How many services the org may register.';

create table obs.service (
  id int generated always as identity primary key,
  org_id int not null references obs.org on delete cascade,
  name text not null check (length(name) between 1 and 255),
  kind text not null check (kind in ('http', 'tcp', 'heartbeat')),
  health_endpoint text check (length(health_endpoint) <= 2048),
  description text,
  method text not null,
  headers jsonb not null check (jsonb_typeof(headers) = 'object'),
  request_body text,
  expected_status text[] not null,
  expected_body jsonb,
  max_redirects int not null check (max_redirects between 0 and 20),
  tls_verify boolean not null,
  tls_expiry_days int not null check (tls_expiry_days between 0 and 365),
  degraded_above_ms int check (degraded_above_ms > 0),
  check_interval_seconds int not null check (check_interval_seconds between 5 and 86400),
  timeout_seconds float8 not null check (timeout_seconds between 0.1 and 60),
  failure_threshold int not null check (failure_threshold between 1 and 100),
  success_threshold int not null check (success_threshold between 1 and 100),
  alert_on_failure boolean not null,
  alert_severity text not null check (alert_severity in ('critical', 'warning', 'info')),
  tags text[] not null,
  depends_on text[] not null,
  sla_target_percent float8 check (sla_target_percent > 0 and sla_target_percent < 100),
  up_series_id int not null,
  duration_series_id int not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (org_id, name),
  check ((kind = 'heartbeat') = (health_endpoint is null))
);
comment on table obs.service is 'A service as its org registered it: where and how often it is probed, and what is expected of it.';
comment on column obs.service.expected_status is 'Statuses that are fine: codes (204), classes (2xx) or ranges (200-204).';
comment on column obs.service.expected_body is
  '{"contains": text}, or {"json_path": an RFC 9535 query, "equals"?: any JSON}: what the answer has to hold.';
comment on column obs.service.timeout_seconds is
  'For the whole exchange, from looking the name up to the last byte. Of a heartbeat: how much later than its interval it may come.';
comment on column obs.service.depends_on is 'Names of services of the org that this one needs; they need not be registered.';
comment on column obs.service.up_series_id is 'The series of probe_up: 1 or 0 for each slot.';
comment on column obs.service.duration_series_id is 'The series of probe_duration_ms.';

-- Apart from the definition, since it changes with each probe: narrow, and its indexed column only with the slot.
create table obs.service_state (
  service_id int primary key references obs.service on delete cascade,
  org_id int not null,
  status text not null default 'unknown' check (status in ('healthy', 'degraded', 'unhealthy', 'unknown')),
  status_since timestamptz not null,
  reason text,
  consecutive_failures int not null default 0,
  consecutive_successes int not null default 0,
  outcomes varbit not null default '',
  is_flapping boolean not null default false,
  is_paused boolean not null default false,
  paused_until timestamptz,
  watched_since timestamptz not null,
  next_check_at timestamptz,
  last_slot timestamptz,
  is_deferred boolean not null default false,
  is_doubted boolean not null default false,
  last_check_at timestamptz,
  response_time_ms float8,
  status_code int,
  tls_expires_at timestamptz,
  last_heartbeat_at timestamptz
) with (fillfactor = 50);
comment on table obs.service_state is 'How a service is, as its probes have found; see lib.observe_probe.';
comment on column obs.service_state.reason is 'What the last probe that counted had to say; null when all was well.';
comment on column obs.service_state.outcomes is 'Of the last 21 probes that counted, oldest first: 1 for an answer as expected, 0 for none.';
comment on column obs.service_state.next_check_at is
  'The slot that is to be probed next: who moves it on, under the row''s lock, is the one who probes. Null: none, the service is paused.';
comment on column obs.service_state.watched_since is 'When it was registered, resumed, or became a heartbeat.';
comment on column obs.service_state.last_slot is 'The slot that was claimed last: another probe within it, after a change say, does not count as a second one.';
comment on column obs.service_state.is_doubted is
  'It could not be reached when the worker had no network, and has not answered since: no evidence that the worker has none now.';
comment on column obs.service_state.is_deferred is
  'Its last slots were missed, by every worker, and the next probe was put off so that not all services come at once.';
create index service_state_next_check_at on obs.service_state (next_check_at);

alter table obs.service enable row level security;
alter table obs.service_state enable row level security;
create policy tenant on obs.service to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy tenant on obs.service_state to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy worker on obs.service to obs_job_definer using (true);
create policy worker on obs.service_state to obs_job_definer using (true);
grant select, insert, update, delete on obs.service, obs.service_state to obs_api_definer;
grant usage on sequence obs.service_id_seq to obs_api_definer;
-- To lock a row takes the right to update it.
grant select, update on obs.service, obs.service_state to obs_job_definer;

create index service_depends_on on obs.service using gin (depends_on);

create table obs.probe_worker (
  name text primary key,
  seen_at timestamptz not null,
  answered_at timestamptz,
  failed_service_ids int[] not null default '{}',
  failed_hosts text[] not null default '{}',
  offline_since timestamptz,
  is_told boolean not null default false
);
comment on table obs.probe_worker is
  'Whether a worker''s own network is in order, see lib.assess_worker. No tenant''s data, and no business of any.';
comment on column obs.probe_worker.answered_at is 'When a host that is not the worker''s own last answered, to a second or so.';
comment on column obs.probe_worker.failed_service_ids is 'Services that did answer before and that it could not reach since then.';
alter table obs.probe_worker enable row level security;
create policy worker on obs.probe_worker to obs_job_definer using (true);
grant select, insert, update, delete on obs.probe_worker to obs_job_definer;

create function obs.probe_lag(_now timestamptz)
returns float8
language sql
stable
security definer
set search_path = ''
as $$
  select case when min(next_check_at) is not null then greatest(0, extract(epoch from _now - min(next_check_at))) end::float8
  from obs.service_state
$$;
comment on function obs.probe_lag(timestamptz) is
  'How late the probe is that is due for longest, of any org, in seconds: under a second as long as workers are there and keep up. '
  'Null where there is nothing to probe. Runs as the owner, past row-level security, and says no more than that.';
revoke all on function obs.probe_lag(timestamptz) from public;
grant execute on function obs.probe_lag(timestamptz) to obs_api_definer, obs_job_definer;

-- migrate:down
drop function obs.probe_lag(timestamptz);
drop table obs.probe_worker;
drop table obs.service_state;
drop table obs.service;
alter table obs.org drop column service_limit;
