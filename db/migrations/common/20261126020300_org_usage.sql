-- migrate:up
create table obs.org_usage (
  org_id int not null references obs.org on delete cascade,
  day date not null,
  requests bigint not null default 0,
  refused bigint not null default 0,
  samples bigint not null default 0,
  log_lines bigint not null default 0,
  series int not null,
  log_streams int not null,
  primary key (org_id, day)
);
comment on table obs.org_usage is
  'What an org asked for and recorded over HTTP, by day (UTC) of its arrival. API processes count, and add it up here every few seconds: one '
  'that is killed takes its last few along.';
comment on column obs.org_usage.requests is 'Requests with a token of the org, answered in whatever way.';
comment on column obs.org_usage.refused is 'Those of them that a rate limit or a limit of concurrent queries refused.';
comment on column obs.org_usage.series is 'Series that the org had when this was last added to.';

alter table obs.org_usage enable row level security;
create policy tenant on obs.org_usage to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy worker on obs.org_usage to obs_job_definer using (true);
grant select, insert, update on obs.org_usage to obs_api_definer;
grant select, delete on obs.org_usage to obs_job_definer;

-- migrate:down
drop table obs.org_usage;
