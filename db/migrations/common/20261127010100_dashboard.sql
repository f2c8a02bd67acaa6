-- migrate:up
create table obs.dashboard (
  id uuid primary key default gen_random_uuid(),
  org_id int not null references obs.org on delete cascade,
  name text not null check (length(name) between 1 and 255),
  description text,
  panels jsonb not null check (jsonb_typeof(panels) = 'array'),
  created_by text not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (org_id, name)
);
comment on table obs.dashboard is 'Arrangements of panels that somebody of the org has saved, for all of it.';
comment on column obs.dashboard.panels is 'In the order in which they are shown, as POST /dashboards takes them.';

alter table obs.dashboard enable row level security;
create policy tenant on obs.dashboard to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy worker on obs.dashboard to obs_job_definer using (true);
grant select, insert, update, delete on obs.dashboard to obs_api_definer;
grant select on obs.dashboard to obs_job_definer;

-- migrate:down
drop table obs.dashboard;
