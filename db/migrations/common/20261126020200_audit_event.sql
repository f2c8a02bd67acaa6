-- migrate:up
-- By the org's external id: what was done stays readable to whoever comes after an erasure.
create table obs.audit_event (
  time timestamptz not null default now(),
  id uuid not null default gen_random_uuid(),
  org text not null,
  actor text not null,
  token_id uuid,
  action text not null,
  target_kind text,
  target_id text,
  outcome text not null check (outcome in ('done', 'refused')),
  status int,
  count int not null default 1 check (count > 0),
  before jsonb,
  after jsonb,
  request_id text,
  address text
);
comment on table obs.audit_event is
  'What was changed, and what was refused; reads too where the deployment asks for it. The service''s roles add rows and read their '
  'org''s; none of them can change or delete one. Goes by chunks, with its retention.';
comment on column obs.audit_event.org is 'obs.org.external_id.';
comment on column obs.audit_event.actor is 'The sub claim, or the name of the API token (token_id).';
comment on column obs.audit_event.action is
  'Of a change kind.verb, such as channel.update; of what was refused or read, its endpoint, such as GET /api/v1/channels/{id}.';
comment on column obs.audit_event.count is 'How often the same was refused to the same actor at that moment.';
comment on column obs.audit_event.before is 'What was there, without secrets; null where nothing was.';
comment on column obs.audit_event.after is 'What is there then; null where nothing is.';
select public.create_hypertable('obs.audit_event', public.by_range('time', interval '30 days'), create_default_indexes => false);
create index audit_event_org_time on obs.audit_event (org, time desc, id desc);

alter table obs.audit_event enable row level security;
create policy tenant on obs.audit_event to obs_api_definer
  using (org = (select o.external_id from obs.org o where o.id = nullif(current_setting('obs.org_id', true), '')::int));
grant select, insert on obs.audit_event to obs_api_definer;

select obs.set_retention('audit_event', interval '400 days');

-- migrate:down
delete from obs.retention where table_name = 'audit_event';
drop table obs.audit_event;
