-- migrate:up
create table obs.idempotency_key (
  org_id int not null references obs.org on delete cascade,
  key text not null check (length(key) between 1 and 255),
  body_hash bytea not null,
  recorded int not null,
  created_at timestamptz not null default now(),
  primary key (org_id, key)
);
comment on table obs.idempotency_key is
  'Idempotency-Key headers of batches, stored in the transaction of their samples; a key lives one day.';
comment on column obs.idempotency_key.body_hash is 'SHA-256 of the body: the same key with another body is refused.';
create index idempotency_key_created_at on obs.idempotency_key (created_at);

alter table obs.idempotency_key enable row level security;
create policy tenant on obs.idempotency_key to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy worker on obs.idempotency_key to obs_job_definer using (true);
grant select, insert, update on obs.idempotency_key to obs_api_definer;
grant select, delete on obs.idempotency_key to obs_job_definer;

-- migrate:down
drop table obs.idempotency_key;
