-- migrate:up
alter table obs.org add column retention interval check (retention >= interval '1 day');
comment on column obs.org.retention is
  'How long the org keeps what it recorded, in whole days, at any resolution; null: as long as obs.retention says for each table.';
alter table obs.org add column deleted_before timestamptz not null default '-infinity';
comment on column obs.org.deleted_before is 'What is older has been deleted on behalf of the org''s own retention.';
grant delete on obs.sample to obs_job_definer;

-- migrate:down
revoke delete on obs.sample from obs_job_definer;
alter table obs.org drop column deleted_before;
alter table obs.org drop column retention;
