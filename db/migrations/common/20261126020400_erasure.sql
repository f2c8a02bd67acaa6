-- migrate:up
create table obs.erasure (
  id uuid primary key default gen_random_uuid(),
  org text not null,
  org_id int not null,
  requested_by text not null,
  requested_at timestamptz not null default now(),
  starts_at timestamptz not null,
  cancelled_at timestamptz,
  started_at timestamptz,
  erased_before timestamptz not null default '-infinity',
  finished_at timestamptz,
  parents jsonb,
  deleted jsonb not null default '{}'
);
comment on table obs.erasure is 'Erasures of all that an org has, and their receipts, which outlive it.';
comment on column obs.erasure.org is 'obs.org.external_id: the org that is made at the next use of a token sees the receipt.';
comment on column obs.erasure.org_id is 'The row of obs.org that went.';
comment on column obs.erasure.starts_at is 'Until then it can be cancelled; by then every process has heard of it.';
comment on column obs.erasure.parents is
  'Ids of the org''s series, services and log streams by table: by them rows of hypertables are found, when the rows that they join are gone.';
comment on column obs.erasure.erased_before is 'What is older is deleted from the hypertables.';
comment on column obs.erasure.deleted is 'Number of rows deleted, by table.';
create unique index erasure_open on obs.erasure (org_id) where finished_at is null and cancelled_at is null;
create index erasure_org on obs.erasure (org, requested_at desc, id desc);

alter table obs.erasure enable row level security;
create policy tenant on obs.erasure to obs_api_definer
  using (org = (select o.external_id from obs.org o where o.id = nullif(current_setting('obs.org_id', true), '')::int))
  with check (
    org_id = nullif(current_setting('obs.org_id', true), '')::int
    and org = (select o.external_id from obs.org o where o.id = org_id)
  );
create policy worker on obs.erasure to obs_job_definer using (true);
grant select, insert, update on obs.erasure to obs_api_definer, obs_job_definer;

-- migrate:down
drop table obs.erasure;
