-- migrate:up
alter table obs.org add column rule_limit int not null default 10000 check (rule_limit >= 0);
comment on column obs.org.rule_limit is 'How many alert rules the org may have.';

create table obs.alert_rule (
  id uuid primary key default gen_random_uuid(),
  org_id int not null references obs.org on delete cascade,
  name text not null check (length(name) between 1 and 255),
  expression text not null check (length(expression) between 1 and 10000),
  tree jsonb not null check (jsonb_typeof(tree) = 'object'),
  for_seconds float8 not null check (for_seconds between 0 and 2592000),
  severity text not null check (severity in ('critical', 'warning', 'info')),
  service_name text check (length(service_name) between 1 and 255),
  interval_seconds int not null check (interval_seconds between 5 and 86400),
  evaluation_delay_seconds float8 not null check (evaluation_delay_seconds between 0 and 3600),
  keep_firing_for_seconds float8 not null check (keep_firing_for_seconds between 0 and 2592000),
  no_data text not null check (no_data in ('ok', 'keep', 'alert')),
  labels jsonb not null check (jsonb_typeof(labels) = 'object'),
  annotations jsonb not null check (jsonb_typeof(annotations) = 'object'),
  label_templates jsonb not null check (jsonb_typeof(label_templates) = 'object'),
  annotation_templates jsonb not null check (jsonb_typeof(annotation_templates) = 'object'),
  is_enabled boolean not null,
  reported_as text,
  created_by text not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (org_id, name),
  unique (org_id, reported_as)
);
comment on table obs.alert_rule is 'A condition on metrics that is looked at again and again, and opens alerts.';
comment on column obs.alert_rule.expression is 'The rule as people read it, in canonical form. Evaluated is its tree.';
comment on column obs.alert_rule.tree is 'What src/rules/expression.ts makes of the expression: {condition, selectors, by}.';
comment on column obs.alert_rule.service_name is 'The service that its alerts are about, unless their labels say another.';
comment on column obs.alert_rule.evaluation_delay_seconds is 'How far behind the clock samples are read, for those that come late.';
comment on column obs.alert_rule.keep_firing_for_seconds is 'How long the condition has to be gone before an alert is resolved.';
comment on column obs.alert_rule.no_data is
  'What a group of series without samples in its window means: ok, the condition does not hold; keep, nothing changes; alert, it holds.';
comment on column obs.alert_rule.reported_as is
  'Of a rule that came with an alert: the name, service and labels of that, by which it is found when they are reported again.';
comment on column obs.alert_rule.label_templates is 'Of each label its template in parts, see lib.render_template; annotation_templates likewise.';

-- Apart from the definition, since it changes with each evaluation.
create table obs.alert_rule_state (
  rule_id uuid primary key references obs.alert_rule on delete cascade,
  org_id int not null,
  next_evaluation_at timestamptz,
  last_evaluation_at timestamptz,
  last_evaluation_ms float8,
  last_error text
) with (fillfactor = 50);
comment on table obs.alert_rule_state is 'How the last evaluation of a rule went, and when the next is due.';
comment on column obs.alert_rule_state.next_evaluation_at is
  'Who moves it on, under the row''s lock, is the one who evaluates. Null: the rule is not enabled.';
comment on column obs.alert_rule_state.last_evaluation_ms is 'How long the pass took that the rule was evaluated in, with others of its org.';
comment on column obs.alert_rule_state.last_error is 'Why the last evaluation failed; null when it did not.';
create index alert_rule_state_next_evaluation_at on obs.alert_rule_state (next_evaluation_at);
create index alert_rule_state_org_id on obs.alert_rule_state (org_id, next_evaluation_at);

alter table obs.alert
  drop constraint alert_source_check,
  drop constraint alert_status_check,
  add constraint alert_source_check check (source in ('api', 'rule', 'service', 'worker')),
  add constraint alert_status_check check (status in ('inactive', 'pending', 'firing', 'acknowledged', 'resolved')),
  add column rule_id uuid references obs.alert_rule on delete set null,
  add column annotations jsonb not null default '{}' check (jsonb_typeof(annotations) = 'object'),
  add column group_labels jsonb not null default '{}',
  add column value float8,
  add column active_since timestamptz,
  add column keep_firing_since timestamptz,
  add column escalation jsonb,
  add column escalation_step int not null default 0,
  add column escalate_at timestamptz;
comment on column obs.alert.source is 'Who opened it: a client, a rule, the probes of a service, or the worker about itself.';
comment on column obs.alert.status is
  'inactive only within a transaction: until it is pending or fires, or once it is pending no longer, before it is deleted.';
comment on column obs.alert.group_labels is 'Of a rule''s alert: the labels of the group of series that it is about.';
comment on column obs.alert.value is 'Of a rule''s alert: what the rule found last, while its condition held.';
comment on column obs.alert.active_since is
  'Of a rule''s alert: since when its condition holds. Null where a client opened it and it has not held yet: the rule then leaves it alone.';
comment on column obs.alert.keep_firing_since is 'Of a rule''s alert that fires: since when its condition does not hold any more.';
comment on column obs.alert.escalation is 'The policy that it follows, as it was when the alert fired: {name, steps}. Null: none.';
comment on column obs.alert.escalation_step is 'How many steps of its escalation were taken.';
comment on column obs.alert.escalate_at is 'When the next step is due, unless somebody acknowledges it before.';
create index alert_rule_open on obs.alert (rule_id) where status <> 'resolved';
-- For the foreign key, and for what is to be purged.
create index alert_rule_id on obs.alert (rule_id) where rule_id is not null;
create index alert_fingerprint on obs.alert (org_id, fingerprint, resolved_at) where status = 'resolved';
create index alert_resolved_at on obs.alert (resolved_at) where status = 'resolved';
create index alert_escalate_at on obs.alert (escalate_at) where escalate_at is not null;
-- What mutes others: see lib.list_mutes.
create index alert_service_open on obs.alert (org_id, service_name) where source = 'service' and status <> 'resolved';

alter table obs.alert_rule enable row level security;
alter table obs.alert_rule_state enable row level security;
create policy tenant on obs.alert_rule to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy tenant on obs.alert_rule_state to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy worker on obs.alert_rule to obs_job_definer using (true);
create policy worker on obs.alert_rule_state to obs_job_definer using (true);
grant select, insert, update, delete on obs.alert_rule, obs.alert_rule_state to obs_api_definer;
grant select, update on obs.alert_rule, obs.alert_rule_state to obs_job_definer;
-- An alert that was only pending leaves nothing behind.
grant delete on obs.alert to obs_api_definer;

-- migrate:down
revoke delete on obs.alert from obs_api_definer;
delete from obs.alert where source = 'rule' or status = 'pending';
drop index obs.alert_service_open;
drop index obs.alert_fingerprint;
drop index obs.alert_resolved_at;
alter table obs.alert
  drop column escalate_at,
  drop column escalation_step,
  drop column escalation,
  drop column keep_firing_since,
  drop column active_since,
  drop column value,
  drop column group_labels,
  drop column annotations,
  drop column rule_id,
  drop constraint alert_source_check,
  drop constraint alert_status_check,
  add constraint alert_source_check check (source in ('api', 'service', 'worker')),
  add constraint alert_status_check check (status in ('inactive', 'firing', 'acknowledged', 'resolved'));
drop table obs.alert_rule_state;
drop table obs.alert_rule;
alter table obs.org drop column rule_limit;
