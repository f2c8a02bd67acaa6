-- migrate:up
create table obs.org (
  id int generated always as identity primary key,
  external_id text not null unique check (length(external_id) between 1 and 200),
  settings jsonb not null default '{}',
  series_limit int not null default 100000 check (series_limit >= 0),
  series_count int not null default 0 check (series_count >= 0),
  created_at timestamptz not null default now()
);
comment on table obs.org is 'A tenant. It comes into being at the first use of a token that names it.';
comment on column obs.org.external_id is 'The org_id claim of the tenant''s tokens.';
comment on column obs.org.series_limit is 'Cardinality limit: no new series is made past it, existing ones go on.';
comment on column obs.org.series_count is 'Number of rows in obs.series, kept by lib.ensure_series under the row''s lock.';

create table obs.series (
  id int generated always as identity primary key,
  org_id int not null references obs.org on delete cascade,
  name text not null check (length(name) between 1 and 255),
  service_name text not null default '' check (length(service_name) <= 255),
  labels jsonb not null default '{}' check (jsonb_typeof(labels) = 'object'),
  -- Stands in for labels in the unique index: a btree entry holds at most 2,704 bytes, labels can be longer.
  labels_hash uuid not null generated always as (md5(labels::text)::uuid) stored,
  created_at timestamptz not null default now(),
  unique (org_id, name, service_name, labels_hash)
);
comment on table obs.series is 'One time series: a metric name, the service it came from ('''' for none) and its labels.';
create index series_labels on obs.series using gin (labels jsonb_path_ops);

alter table obs.org enable row level security;
alter table obs.series enable row level security;

-- A function of schema api sets obs.org_id for its transaction and sees that org alone; without it, nothing.
-- The setting reads '' instead of null once a transaction that set it has ended, hence nullif.
create policy tenant on obs.series to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy tenant on obs.org to obs_api_definer
  using (
    id = nullif(current_setting('obs.org_id', true), '')::int
    or external_id = nullif(current_setting('obs.org_external_id', true), '')
  );
-- Functions of schema job work for all orgs.
create policy worker on obs.series to obs_job_definer using (true);
create policy worker on obs.org to obs_job_definer using (true);

grant select, insert, update on obs.org to obs_api_definer, obs_job_definer;
grant select, insert on obs.series to obs_api_definer, obs_job_definer;

-- migrate:down
drop table obs.series;
drop table obs.org;
