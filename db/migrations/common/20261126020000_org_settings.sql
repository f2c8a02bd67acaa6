-- migrate:up
alter table obs.org
  add column max_limits jsonb not null default '{}' check (jsonb_typeof(max_limits) = 'object'),
  add column erasing_since timestamptz;
comment on column obs.org.settings is
  'What the org''s admins set (api.change_org): timezone, and limits, of which each is at most what the deployment allows.';
comment on column obs.org.max_limits is
  'What the deployment allows this org where that is not its default: ingest_per_second, query_per_second, change_per_second '
  '(requests) and concurrent_queries. Of series, log streams and services it is series_limit, log_stream_limit and service_limit.';
comment on column obs.org.erasing_since is
  'Since when its erasure has been asked for: from then on the API takes nothing for it, and the row goes once every process knows.';
comment on column obs.channel.config is
  'What the type needs: an address and its secrets, each of them sealed (src/seal.ts): encrypted with a key of the deployment, with what may be shown of it.';
grant delete on obs.org to obs_job_definer;

-- migrate:down
revoke delete on obs.org from obs_job_definer;
comment on column obs.channel.config is 'What the type needs: an address and its secrets, which no function of api answers.';
comment on column obs.org.settings is null;
alter table obs.org drop column erasing_since, drop column max_limits;
