-- migrate:up
create table obs.api_token (
  id uuid primary key default gen_random_uuid(),
  org_id int not null references obs.org on delete cascade,
  name text not null check (length(name) between 1 and 255),
  prefix text not null,
  hash bytea not null unique check (length(hash) = 32),
  role text not null check (role in ('viewer', 'ingest', 'operator', 'admin')),
  permissions text[],
  expires_at timestamptz,
  created_by text not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  last_used_at timestamptz,
  last_used_address text,
  revoked_at timestamptz,
  revoked_by text
);
comment on table obs.api_token is 'Tokens that the service itself gave out, for machines. What is stored does not let anyone in.';
comment on column obs.api_token.prefix is 'How the token begins, by which people tell it from others.';
comment on column obs.api_token.hash is 'SHA-256 of the token, which holds 256 random bits: there is nothing to guess that a slower hash would protect.';
comment on column obs.api_token.permissions is 'Narrows what the role allows; null: all of it.';
comment on column obs.api_token.last_used_at is 'To within a few seconds.';
-- Names are free again once their token is revoked.
create unique index api_token_name on obs.api_token (org_id, name) where revoked_at is null;
create index api_token_created_at on obs.api_token (org_id, created_at desc, id desc);

alter table obs.api_token enable row level security;
-- By its hash before the org is known: who has the token may know whose it is.
create policy tenant on obs.api_token to obs_api_definer
  using (
    org_id = nullif(current_setting('obs.org_id', true), '')::int
    or hash = decode(nullif(current_setting('obs.token_hash', true), ''), 'hex')
  )
  with check (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy worker on obs.api_token to obs_job_definer using (true);
grant select, insert, update, delete on obs.api_token to obs_api_definer;
grant select on obs.api_token to obs_job_definer;

-- migrate:down
drop table obs.api_token;
