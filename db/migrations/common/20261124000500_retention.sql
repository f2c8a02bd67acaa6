-- migrate:up
create table obs.retention (
  table_name text primary key,
  keep interval not null check (keep > interval '0')
);
comment on table obs.retention is
  'How long the rows of a hypertable are kept, counted from their time. '
  'A sample older than that is refused when it arrives. Change it with obs.set_retention, in a migration.';
insert into obs.retention (table_name, keep) values ('sample', interval '30 days');
grant select on obs.retention to obs_api_definer, obs_job_definer;

-- migrate:down
drop table obs.retention;
