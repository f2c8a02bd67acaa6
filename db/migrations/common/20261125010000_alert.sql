-- migrate:up
create table obs.alert (
  id uuid primary key default gen_random_uuid(),
  org_id int not null references obs.org on delete cascade,
  fingerprint text not null,
  source text not null check (source in ('api', 'service', 'worker')),
  name text not null check (length(name) between 1 and 255),
  description text,
  severity text not null check (severity in ('critical', 'warning', 'info')),
  status text not null default 'inactive' check (status in ('inactive', 'firing', 'acknowledged', 'resolved')),
  service_name text check (length(service_name) between 1 and 255),
  labels jsonb not null default '{}' check (jsonb_typeof(labels) = 'object'),
  metadata jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),
  started_at timestamptz not null,
  acknowledged_at timestamptz,
  resolved_at timestamptz,
  check ((status = 'resolved') = (resolved_at is not null))
);
comment on table obs.alert is 'An alert from its start to its end. Its status is changed by lib.transition_alert alone.';
comment on column obs.alert.fingerprint is 'What the alert is about: of one fingerprint at most one alert is open.';
comment on column obs.alert.source is 'Who opened it: a client, the probes of a service, or the worker about itself.';
comment on column obs.alert.status is 'inactive only until the transaction that makes the alert has let it fire.';

create unique index alert_open on obs.alert (org_id, fingerprint) where status <> 'resolved';
create index alert_started_at on obs.alert (org_id, started_at desc, id desc);

create table obs.alert_event (
  id bigint generated always as identity primary key,
  alert_id uuid not null references obs.alert on delete cascade,
  org_id int not null,
  at timestamptz not null,
  event text not null,
  from_status text,
  to_status text,
  actor text not null,
  note text,
  details jsonb not null default '{}'
);
comment on table obs.alert_event is 'The history of alerts: each transition, and what was learned in between.';
comment on column obs.alert_event.event is
  'The status that a transition led to; or updated, flapping, stable, dependency_unhealthy, which change no status.';
comment on column obs.alert_event.actor is 'Subject of the token, or "worker".';
create index alert_event_alert_id on obs.alert_event (alert_id, id);

alter table obs.alert enable row level security;
alter table obs.alert_event enable row level security;
create policy tenant on obs.alert to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy tenant on obs.alert_event to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy worker on obs.alert to obs_job_definer using (true);
create policy worker on obs.alert_event to obs_job_definer using (true);
grant select, insert, update on obs.alert to obs_api_definer, obs_job_definer;
grant select, insert on obs.alert_event to obs_api_definer, obs_job_definer;
grant delete on obs.alert to obs_job_definer;

-- migrate:down
drop table obs.alert_event;
drop table obs.alert;
