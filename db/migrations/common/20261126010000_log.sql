-- migrate:up
alter table obs.org add column log_stream_limit int not null default 10000 check (log_stream_limit >= 0);
alter table obs.org add column log_stream_count int not null default 0 check (log_stream_count >= 0);
comment on column obs.org.log_stream_limit is 'No new log stream is made past it, existing ones go on.';
comment on column obs.org.log_stream_count is 'Number of rows in obs.log_stream, kept by api.ensure_log_streams under the row''s lock.';

create type obs.log_level as enum ('trace', 'debug', 'info', 'warn', 'error', 'fatal');
comment on type obs.log_level is 'Levels of log lines, in order: level >= ''error''.';

-- The level is the stream's, not the line's: "error and above" is then a choice of streams, each read in order of time, and
-- not a filter on what was read.
create table obs.log_stream (
  id int generated always as identity primary key,
  org_id int not null references obs.org on delete cascade,
  service_name text not null check (length(service_name) between 1 and 255),
  level obs.log_level not null,
  line_count bigint not null default 0,
  counted_at timestamptz,
  series_id int,
  sampled_at timestamptz,
  created_at timestamptz not null default now(),
  unique (org_id, service_name, level)
);
comment on table obs.log_stream is 'Where log lines come from: a service of an org, and one stream of it for each level.';
comment on column obs.log_stream.line_count is 'Lines that arrived, as far as job.count_logs has counted: the value of log_lines_total.';
comment on column obs.log_stream.counted_at is 'When the last of them were counted.';
comment on column obs.log_stream.series_id is 'The series of its log_lines_total; null until the first sample.';
comment on column obs.log_stream.sampled_at is 'When the last sample of log_lines_total was recorded.';

-- The words that a line is found by. In obs, because an index depends on it.
create function obs.log_text(_text text)
returns text
language sql
immutable
parallel safe
as $$
  select translate(_text, '-+./@<&~', '        ')
$$;
comment on function obs.log_text(text) is
  'Text, character by character, without the punctuation that PostgreSQL''s parser would make more of than a gap between words: paths, hosts, '
  'signed numbers, tags, entities. So words are runs of letters and digits, and /api/v1/users, user_id=42 and 10.0.0.1 are found '
  'by each of their parts.';

create function obs.log_words(_log_stream_id int, _message text)
returns tsvector
language sql
immutable
parallel safe
as $$
  select to_tsvector('pg_catalog.simple', obs.log_text(_message)) || array_to_tsvector(array['#' || _log_stream_id])
$$;
comment on function obs.log_words(int, text) is
  'The words of a line, and one that no text has and that stands for its stream (#17): a search names the org''s streams together '
  'with its words, so that the index passes over the lines of others, however many have the words. Words of more than 2046 bytes are left out.';

create sequence obs.log_line_id as bigint increment by 100000;
comment on sequence obs.log_line_id is 'Ids of log lines, by the hundred thousand: each API process hands out those of a block of its own.';

create table obs.log (
  time timestamptz not null,
  received_at timestamptz not null default now(),
  id bigint not null,
  log_stream_id int not null,
  message text not null,
  metadata jsonb,
  trace_id text,
  span_id text
);
comment on table obs.log is
  'Log lines. Carries no org: it is reached by joining obs.log_stream, which row-level security protects.';
comment on column obs.log.time is 'The line''s own timestamp, or when it arrived.';
comment on column obs.log.received_at is 'When the transaction began that recorded it, by the database''s clock.';
comment on column obs.log.id is
  'With time the order of lines, (time, id). Lines of one flush have ids in a row; nothing follows from which of two flushes has the higher.';
comment on column obs.log.metadata is 'A JSON object; null where there is none.';
-- A search goes through the index of words chunk by chunk. A chunk of ten million lines a day is 1.7 million lines, 0.7 GB of
-- rows and 0.4 GB of indexes.
select public.create_hypertable('obs.log', public.by_range('time', interval '4 hours'), create_default_indexes => false);
create index log_log_stream_id_time on obs.log (log_stream_id, time desc);
-- For what has just arrived, which obs.log_arrival names by ids.
create index log_id on obs.log (id);
create index log_trace_id on obs.log (trace_id) where trace_id is not null;
create index log_words on obs.log using gin (obs.log_words(log_stream_id, message), metadata jsonb_path_ops);

create sequence obs.log_position as bigint;
comment on sequence obs.log_position is 'Positions of obs.log_arrival.';

create table obs.log_arrival (
  position bigint not null,
  org_id int not null,
  log_stream_id int not null,
  minute timestamptz not null,
  line_count int not null,
  byte_count int not null,
  first_id bigint not null,
  last_id bigint not null,
  oldest timestamptz not null,
  newest timestamptz not null,
  arrived_at timestamptz not null default now(),
  primary key (position, log_stream_id, minute)
);
comment on table obs.log_arrival is
  'What each flush recorded, by stream and minute, in the order in which flushes were committed: for live tails, which go on from '
  'a position, and for job.count_logs. Kept for ten minutes, and until it is counted.';
comment on column obs.log_arrival.position is
  'The flush. Given out under a lock that is held until the commit: who has seen one has seen all before it.';
comment on column obs.log_arrival.byte_count is 'About what the lines take as JSON: how much of them is read at once.';
comment on column obs.log_arrival.first_id is 'The flush''s lines of the stream and minute are among ids first_id to last_id, times oldest to newest.';
create index log_arrival_org_id_position on obs.log_arrival (org_id, position);

create table obs.log_counted (
  position bigint not null,
  purged_position bigint not null,
  only_row boolean primary key default true check (only_row)
);
comment on table obs.log_counted is
  'Of obs.log_arrival: up to position it is counted in obs.log_1m, up to purged_position it is gone. One row, which is also the '
  'lock under which it is counted.';
insert into obs.log_counted (position, purged_position) values (0, 0);

-- Not a continuous aggregate: what arrives is counted once, when it arrives and however late, and obs.log_arrival holds what is
-- not counted yet. It is right at once, on both editions, and costs a flush a row a stream instead of a reading of its lines.
create table obs.log_1m (
  bucket timestamptz not null,
  log_stream_id int not null,
  line_count bigint not null,
  primary key (log_stream_id, bucket)
) with (fillfactor = 80);
comment on table obs.log_1m is
  'Lines of a stream by minute (UTC) of their timestamps: a tier of obs.log, kept by job.count_logs. What is not in it yet is in '
  'obs.log_arrival past obs.log_counted.position.';
select public.create_hypertable('obs.log_1m', public.by_range('bucket', interval '7 days'), create_default_indexes => false);

select obs.set_retention('log', interval '7 days');
select obs.set_retention('log_1m', interval '90 days');

alter table obs.log_stream enable row level security;
create policy tenant on obs.log_stream to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy worker on obs.log_stream to obs_job_definer using (true);

alter table obs.log_arrival enable row level security;
-- One flush carries lines of many orgs.
create policy arrival on obs.log_arrival for insert to obs_api_definer with check (true);
create policy tenant on obs.log_arrival for select to obs_api_definer
  using (org_id = nullif(current_setting('obs.org_id', true), '')::int);
create policy worker on obs.log_arrival to obs_job_definer using (true);

grant select, insert on obs.log_stream to obs_api_definer;
grant select, update on obs.log_stream to obs_job_definer;
grant select on obs.log, obs.log_1m, obs.log_counted to obs_api_definer;
grant select, insert on obs.log_arrival to obs_api_definer;
grant usage on sequence obs.log_line_id, obs.log_position to obs_api_definer;
grant select, delete on obs.log, obs.log_arrival to obs_job_definer;
grant select, insert, update, delete on obs.log_1m to obs_job_definer;
grant select, update on obs.log_counted to obs_job_definer;
-- As with samples: the ingest path writes lines with COPY, whose stream ids come from api.ensure_log_streams.
grant insert on obs.log to obs_api;

-- migrate:down
-- Functions that use these types are in the way; each migrate makes all of them anew.
drop schema if exists api, job, lib, queue cascade;
drop table obs.log_1m;
drop table obs.log_counted;
drop table obs.log_arrival;
drop sequence obs.log_position;
drop table obs.log;
drop sequence obs.log_line_id;
drop function obs.log_words(int, text);
drop function obs.log_text(text);
drop table obs.log_stream;
drop type obs.log_level;
delete from obs.retention where table_name in ('log', 'log_1m');
alter table obs.org drop column log_stream_count;
alter table obs.org drop column log_stream_limit;
