-- migrate:up
create table obs.channel (
  id uuid primary key default gen_random_uuid(),
  org_id int not null references obs.org on delete cascade,
  name text not null check (length(name) between 1 and 255),
  type text not null check (type in ('webhook', 'slack', 'email', 'alertmanager')),
  config jsonb not null check (jsonb_typeof(config) = 'object'),
  is_enabled boolean not null,
  severities text[] not null check (severities <@ array['critical', 'warning', 'info']),
  service_names text[] not null,
  matchers jsonb not null check (jsonb_typeof(matchers) = 'array'),
  group_by text[] not null,
  group_wait_seconds float8 not null check (group_wait_seconds between 0 and 3600),
  group_interval_seconds float8 not null check (group_interval_seconds between 0 and 86400),
  repeat_interval_seconds float8 not null check (repeat_interval_seconds between 60 and 2592000),
  send_resolved boolean not null,
  timeout_seconds float8 not null check (timeout_seconds between 1 and 60),
  max_attempts int not null check (max_attempts between 1 and 100),
  created_by text not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (org_id, name)
);
comment on table obs.channel is 'Where notifications go, which alerts it is told of, and how they are gathered into one message.';
comment on column obs.channel.config is 'What the type needs: an address and its secrets, which no function of api answers.';
comment on column obs.channel.severities is 'Only alerts of these; empty: of all. service_names and matchers likewise, and all three have to let an alert pass.';
comment on column obs.channel.group_by is 'Labels of alerts: those that have the same values come in one message. Empty: all of the channel do.';

create table obs.silence (
  id uuid primary key default gen_random_uuid(),
  org_id int not null references obs.org on delete cascade,
  matchers jsonb not null check (jsonb_typeof(matchers) = 'array' and jsonb_array_length(matchers) > 0),
  starts_at timestamptz not null,
  ends_at timestamptz not null,
  author text not null,
  reason text not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  check (starts_at < ends_at)
);
comment on table obs.silence is 'Alerts that nobody is notified of for a time. They fire, and are resolved, all the same.';
create index silence_ends_at on obs.silence (org_id, ends_at);

create table obs.maintenance_window (
  id uuid primary key default gen_random_uuid(),
  org_id int not null references obs.org on delete cascade,
  name text not null check (length(name) between 1 and 255),
  matchers jsonb not null check (jsonb_typeof(matchers) = 'array'),
  timezone text not null,
  starts_at timestamptz not null,
  ends_at timestamptz not null,
  repeats text not null check (repeats in ('never', 'daily', 'weekly', 'monthly')),
  weekdays int[] not null check (weekdays <@ array[1, 2, 3, 4, 5, 6, 7]),
  until timestamptz,
  author text not null,
  reason text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (org_id, name),
  check (starts_at < ends_at and (repeats = 'never' or ends_at <= starts_at + interval '7 days'))
);
comment on table obs.maintenance_window is
  'Alerts that nobody is notified of at planned times: once, or at the same local time again and again.';
comment on column obs.maintenance_window.starts_at is 'Of the first occurrence; ends_at is its end, and so says how long each lasts.';
comment on column obs.maintenance_window.weekdays is 'Of a weekly one, 1 for Monday to 7; empty: the weekday that it starts on.';
comment on column obs.maintenance_window.until is 'No occurrence begins then or later.';

create table obs.escalation (
  id uuid primary key default gen_random_uuid(),
  org_id int not null references obs.org on delete cascade,
  name text not null check (length(name) between 1 and 255),
  severities text[] not null check (severities <@ array['critical', 'warning', 'info']),
  matchers jsonb not null check (jsonb_typeof(matchers) = 'array'),
  steps jsonb not null check (jsonb_typeof(steps) = 'array'),
  is_enabled boolean not null,
  created_by text not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (org_id, name)
);
comment on table obs.escalation is 'What happens when nobody acknowledges an alert. Of several that fit, the one with the first name is followed.';
comment on column obs.escalation.steps is
  'In order: {after_minutes: since it fired, severity?: what it is raised to, channel_ids?: who is told besides}. All that know of the alert are told again.';

create table obs.notification_group (
  id bigint generated always as identity primary key,
  org_id int not null references obs.org on delete cascade,
  channel_id uuid not null references obs.channel on delete cascade,
  labels jsonb not null,
  flush_at timestamptz,
  notified_at timestamptz,
  unique (channel_id, labels)
);
comment on table obs.notification_group is 'The alerts of a channel that have the labels in common that it is grouped by; see lib.flush_group.';
comment on column obs.notification_group.flush_at is 'When it is to be looked at whether there is something to tell; null: nothing is.';
create index notification_group_flush_at on obs.notification_group (flush_at) where flush_at is not null;

create table obs.notification_member (
  group_id bigint not null references obs.notification_group on delete cascade,
  alert_id uuid not null references obs.alert on delete cascade,
  org_id int not null,
  sent_status text check (sent_status = 'firing'),
  sent_severity text,
  is_urged boolean not null default false,
  is_muted boolean not null default false,
  primary key (group_id, alert_id)
);
comment on table obs.notification_member is 'An alert of a group, until it has been told that it is resolved.';
comment on column obs.notification_member.sent_status is 'What the channel was told of it last; null: nothing yet.';
comment on column obs.notification_member.is_urged is 'It is to be told again, whatever was told before: a step of its escalation, a notification that was given up, or Alertmanager, which forgets.';
comment on column obs.notification_member.is_muted is 'It was muted when the group was looked at last.';
create index notification_member_alert_id on obs.notification_member (alert_id);

create table obs.notification (
  id uuid primary key default gen_random_uuid(),
  org_id int not null references obs.org on delete cascade,
  channel_id uuid references obs.channel on delete set null,
  channel_name text not null,
  channel_type text not null,
  group_id bigint references obs.notification_group on delete set null,
  kind text not null check (kind in ('alert', 'test')),
  status text not null default 'pending' check (status in ('pending', 'delivered', 'dead')),
  payload jsonb not null,
  attempts int not null default 0,
  attempts_left int not null,
  last_error text,
  created_at timestamptz not null,
  next_attempt_at timestamptz,
  claimed_until timestamptz,
  settled_at timestamptz,
  check ((status = 'pending') = (next_attempt_at is not null))
);
comment on table obs.notification is
  'The ledger of deliveries: what a channel is to be told. Its id is the idempotency key, the same with each attempt.';
comment on column obs.notification.status is 'pending until it is delivered, or dead: given up after its last attempt, to be sent again by hand.';
comment on column obs.notification.claimed_until is 'A worker is at it; if it is not back by then, it died, and another tries again.';
create index notification_created_at on obs.notification (org_id, created_at desc, id desc);
create index notification_next_attempt_at on obs.notification (next_attempt_at) where status = 'pending';
create index notification_group_id on obs.notification (group_id, created_at);
create index notification_channel_id on obs.notification (channel_id, created_at desc, id desc);
create index notification_settled_at on obs.notification (settled_at) where status <> 'pending';

create table obs.notification_alert (
  notification_id uuid not null references obs.notification on delete cascade,
  alert_id uuid not null references obs.alert on delete cascade,
  org_id int not null,
  status text not null,
  primary key (alert_id, notification_id)
);
comment on table obs.notification_alert is 'Which alerts a notification tells of, and the status of each that it tells.';
create index notification_alert_notification_id on obs.notification_alert (notification_id);

create table obs.notification_attempt (
  notification_id uuid not null references obs.notification on delete cascade,
  number int not null,
  org_id int not null,
  at timestamptz not null,
  is_delivered boolean,
  latency_ms float8,
  response_code int,
  error text,
  detail text,
  primary key (notification_id, number)
);
comment on table obs.notification_attempt is 'Each attempt to deliver a notification and how it ended.';
comment on column obs.notification_attempt.is_delivered is 'Null while it is under way, and for good when its worker died with it: whether it arrived is not known.';

do $$
declare
  _table text;
begin
  foreach _table in array array[
    'channel', 'silence', 'maintenance_window', 'escalation', 'notification_group', 'notification_member', 'notification',
    'notification_alert', 'notification_attempt'
  ] loop
    execute format('alter table obs.%I enable row level security', _table);
    execute format(
      'create policy tenant on obs.%I to obs_api_definer using (org_id = nullif(current_setting(''obs.org_id'', true), '''')::int)', _table
    );
    execute format('create policy worker on obs.%I to obs_job_definer using (true)', _table);
    execute format('grant select, insert, update, delete on obs.%I to obs_api_definer, obs_job_definer', _table);
  end loop;
end
$$;

create function obs.alert_lag(_now timestamptz, out rules float8, out notifications float8)
language sql
stable
security definer
set search_path = ''
as $$
  select
    (
      select case when min(t.next_evaluation_at) is not null then greatest(0, extract(epoch from _now - min(t.next_evaluation_at))) end
      from obs.alert_rule_state t
    ),
    (
      select case when min(d.due_at) is not null then greatest(0, extract(epoch from _now - min(d.due_at))) end
      from (
        select min(g.flush_at) as due_at from obs.notification_group g
        union all
        -- Those of a group come one after the other: of each the first.
        select min(h.due_at)
        from (
          select distinct on (coalesce(n.group_id::text, n.id::text)) greatest(n.next_attempt_at, n.claimed_until) as due_at
          from obs.notification n
          where n.status = 'pending'
          order by coalesce(n.group_id::text, n.id::text), n.created_at, n.id
        ) as h
      ) as d
    )
$$;
comment on function obs.alert_lag(timestamptz) is
  'How late the rule and the notification are that are due for longest, of any org, in seconds: under a second as long as workers are there and keep '
  'up. Null where there is none. Runs as the owner, past row-level security, and says no more than that.';
revoke all on function obs.alert_lag(timestamptz) from public;
grant execute on function obs.alert_lag(timestamptz) to obs_api_definer, obs_job_definer;

-- migrate:down
drop function obs.alert_lag(timestamptz);
drop table obs.notification_attempt;
drop table obs.notification_alert;
drop table obs.notification;
drop table obs.notification_member;
drop table obs.notification_group;
drop table obs.escalation;
drop table obs.maintenance_window;
drop table obs.silence;
drop table obs.channel;
