create function api.ensure_org(_external_id text)
returns int
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _org_id int;
begin
  perform set_config('obs.org_external_id', _external_id, true);
  select id into _org_id from obs.org where external_id = _external_id;
  if _org_id is null then
    insert into obs.org (external_id) values (_external_id) on conflict (external_id) do nothing;
    select id into _org_id from obs.org where external_id = _external_id;
  end if;
  return _org_id;
end
$$;
comment on function api.ensure_org is
  'Id of the org that a token names by its org_id claim; makes the org at its first use. Safe to call at once from many sessions.';

create function job.ensure_org(_external_id text)
returns int
language sql
volatile
security definer
set search_path = ''
as $$
  -- An insert that meets a conflict uses up an id all the same.
  insert into obs.org (external_id)
  select _external_id
  where not exists (select from obs.org where external_id = _external_id)
  on conflict (external_id) do nothing;
  select id from obs.org where external_id = _external_id;
$$;
comment on function job.ensure_org is 'As api.ensure_org, for the worker.';

create function lib.org_kept_from(_org_id int)
returns timestamptz
language sql
stable
as $$
  select coalesce((select public.time_bucket(interval '1 day', now() - o.retention) from obs.org o where o.id = _org_id), '-infinity')
$$;
comment on function lib.org_kept_from(int) is
  'From when on an org keeps what it recorded, the start of a day (UTC); -infinity where it has no retention of its own.';

create function lib.clip_start(_org_id int, _start timestamptz, _end timestamptz)
returns timestamptz
language sql
stable
as $$
  select least(_end, greatest(_start, lib.org_kept_from(_org_id)))
$$;
comment on function lib.clip_start is
  '_start, or from when on the org keeps what it recorded: what is older is not shown, whether it is deleted yet or not.';

create function api.get_org(_org_id int)
returns table (
  external_id text,
  retention_days int,
  series_count int,
  series_limit int,
  log_stream_count int,
  log_stream_limit int,
  created_at timestamptz
)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  select o.external_id, (extract(epoch from o.retention) / 86400)::int, o.series_count, o.series_limit, o.log_stream_count,
    o.log_stream_limit, o.created_at
  from obs.org o
  where o.id = _org_id;
end
$$;
comment on function api.get_org is 'An org; retention_days is null where it has no retention of its own. No row where there is no such org.';

create function api.set_org_retention(_org_id int, _days int)
returns void
language plpgsql
volatile
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  -- Deleted anew: with a longer retention before, late samples may have come for days that were deleted once.
  update obs.org set retention = make_interval(days => _days), deleted_before = '-infinity' where id = _org_id;
end
$$;
comment on function api.set_org_retention is
  'Keeps what an org recorded for so many days (at least 1; null: as long as the tables'' own retention). What is older is not '
  'shown from then on, and deleted from every table within the hour. 23514 for less than a day.';

create function api.get_storage(_org_id int)
returns table (
  table_name text,
  row_count bigint,
  bytes bigint,
  sample_count bigint,
  bytes_per_sample float8,
  oldest timestamptz,
  newest timestamptz
)
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _series_ids int[];
  _from timestamptz;
  _days timestamptz[];
  _counts bigint[];
  _table record;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  _series_ids := array(select s.id from obs.series s where s.org_id = _org_id);

  -- Samples a day, which is quicker told by the tier of days than by the samples themselves.
  select min(c.range_start) into _from
  from timescaledb_information.chunks c
  where format('%I.%I', c.hypertable_schema, c.hypertable_name)::regclass in ('obs.sample'::regclass, obs.tier_table('1d'));
  select array_agg(d.bucket order by d.bucket), array_agg(d.count order by d.bucket), min(d.first_time), max(d.last_time)
  into _days, _counts, oldest, newest
  from (
    select t.bucket, sum(t.count)::bigint as count, min(t.first_time) as first_time, max(t.last_time) as last_time
    from lib.read_tier('1d', _org_id, _series_ids, _from, now() + interval '2 days') t
    group by t.bucket
  ) as d;
  -- Raw samples as far as there are chunks of them.
  select case when oldest is not null then greatest(oldest, min(c.range_start)) end into oldest
  from timescaledb_information.chunks c
  where c.hypertable_schema = 'obs' and c.hypertable_name = 'sample'
  having min(c.range_start) is not null;
  if oldest is null or oldest > newest then
    oldest := null;
    newest := null;
  end if;

  for _table in
    select 'sample' as name, 'obs.sample'::regclass as relation
    union all
    (select 'sample_' || t.name, obs.tier_table(t.name) from obs.tier t order by t.holds_histograms, t.width)
  loop
    table_name := _table.name;
    if _table.name <> 'sample' then
      execute format('select count(*), min(bucket), max(bucket) from %s where series_id = any ($1)', _table.relation)
        into row_count, oldest, newest using _series_ids;
    end if;
    select coalesce(sum(d.count), 0)::bigint into sample_count
    from unnest(_days, _counts) as d (day, count)
    where d.day >= public.time_bucket(interval '1 day', oldest)
      and d.day < case when _table.name = 'sample' then 'infinity' else public.time_bucket(interval '1 day', newest) end;
    if _table.name = 'sample' then
      row_count := sample_count;
    else
      -- The last day may be rolled up in part.
      execute format('select $1 + coalesce(sum(count), 0)::bigint from %s where series_id = any ($2) and bucket >= $3', _table.relation)
        into sample_count using sample_count, _series_ids, public.time_bucket(interval '1 day', newest);
    end if;
    bytes := public.hypertable_size(_table.relation)::numeric * row_count
      / greatest(public.approximate_row_count(_table.relation), row_count, 1);
    bytes_per_sample := bytes::float8 / nullif(sample_count, 0);
    return next;
  end loop;

  sample_count := 0;
  bytes_per_sample := null;
  for _table in select * from lib.kept_tables() k where k.parent <> 'series' loop
    table_name := (select c.relname from pg_catalog.pg_class c where c.oid = _table.relation);
    execute format(
      'select count(*), min(%1$I), max(%1$I) from %2$s where %3$I = any (array(select id from obs.%4$I where org_id = $1))',
      _table.time_column, _table.relation, _table.parent || '_id', _table.parent
    ) into row_count, oldest, newest using _org_id;
    bytes := public.hypertable_size(_table.relation)::numeric * row_count
      / greatest(public.approximate_row_count(_table.relation), row_count, 1);
    return next;
  end loop;
end
$$;
comment on function api.get_storage is
  'What an org takes up, a row for the raw samples, for each tier, and for what there is of its services: rows, bytes with indexes (the table''s, by the org''s share of '
  'its rows as the planner counts them), the samples that the rows stand for, bytes for each of those, times of the oldest '
  'and newest row. A tier is counted as far as it is rolled up.';

create function lib.kept_tables()
returns table (relation regclass, parent text, time_column text)
language sql
stable
as $$
  select 'obs.sample'::regclass, 'series', 'time'
  union all
  select obs.tier_table(t.name), 'series', 'bucket' from obs.tier t
  union all
  select t.name::regclass, t.parent, t.time_column
  from (values
    ('obs.probe_result', 'service', 'time'),
    ('obs.service_event', 'service', 'time'),
    ('obs.probe_1h', 'service', 'bucket'),
    ('obs.probe_1d', 'service', 'bucket'),
    ('obs.log', 'log_stream', 'time'),
    ('obs.log_1m', 'log_stream', 'bucket')
  ) as t (name, parent, time_column)
$$;
comment on function lib.kept_tables is
  'The hypertables that hold what an org recorded, each by way of its series, services or log streams, for a retention of the org''s own.';

create function job.delete_expired(_now timestamptz default now())
returns bigint
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _org record;
  _oldest timestamptz;
  _until timestamptz;
  _table record;
  _n bigint;
  _deleted bigint := 0;
begin
  -- One org, and a week of it, so that no transaction is long. Not the org's row is the lock: making series wants that.
  select o.id, o.deleted_before, public.time_bucket(interval '1 day', _now - o.retention) as kept_from
  into _org
  from obs.org o
  where o.retention is not null
    and o.deleted_before < public.time_bucket(interval '1 day', _now - o.retention)
    and pg_try_advisory_xact_lock(hashtext('obs.delete_expired'), o.id)
  order by o.id
  limit 1;
  if not found then
    return null;
  end if;
  select min(c.range_start) into _oldest
  from timescaledb_information.chunks c
  where format('%I.%I', c.hypertable_schema, c.hypertable_name)::regclass in (select k.relation from lib.kept_tables() k);
  _until := least(_org.kept_from, greatest(_org.deleted_before, _oldest) + interval '7 days');

  -- Samples in the columnstore have to be taken out of it to be deleted, by default 100,000 at the most.
  if current_setting('timescaledb.license') = 'timescale' then
    perform set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', true);
  end if;
  for _table in select * from lib.kept_tables() loop
    execute format(
      'delete from %s where %I = any (array(select id from obs.%I where org_id = $1)) and %I < $2',
      _table.relation, _table.parent || '_id', _table.parent, _table.time_column
    ) using _org.id, _until;
    get diagnostics _n = row_count;
    _deleted := _deleted + _n;
  end loop;
  update obs.org set deleted_before = coalesce(_until, _org.kept_from) where id = _org.id;
  return _deleted;
end
$$;
comment on function job.delete_expired is
  'Deletes what an org with a retention of its own keeps no longer from lib.kept_tables, whole days (UTC), a week of one org at '
  'a call: to be called until it returns null. Returns the number of rows. A bucket that began before is deleted with them.';
