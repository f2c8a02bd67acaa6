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

create function lib.org_limits(_org obs.org)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  -- A setting that has come to lie above what the deployment allows says nothing.
  select coalesce(
    jsonb_object_agg(l.name, l.value) filter (where l.value::numeric <= coalesce(lib.max_limits(_org) ->> l.name, 'infinity')::numeric),
    '{}'
  )
  from jsonb_each_text(coalesce(_org.settings -> 'limits', '{}')) as l (name, value)
$$;
comment on function lib.org_limits is 'The limits that an org''s admins set for it, each below what the deployment allows (lib.max_limits).';

create function lib.max_limits(_org obs.org)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select _org.max_limits || jsonb_build_object('series', _org.series_limit, 'log_streams', _org.log_stream_limit, 'services', _org.service_limit)
$$;
comment on function lib.max_limits is
  'What the deployment allows an org, as far as the database knows: where it says nothing of rates and concurrent queries, the environment of the API does.';

create function lib.limit_of(_org obs.org, _name text)
returns int
language sql
immutable
set search_path = ''
as $$
  select least((_org.settings -> 'limits' ->> _name)::int, (lib.max_limits(_org) ->> _name)::int)
$$;
comment on function lib.limit_of is 'How many series, log_streams or services an org may have.';

create function api.get_org(_org_id int)
returns table (
  external_id text,
  retention_days int,
  timezone text,
  limits jsonb,
  max_limits jsonb,
  series_count int,
  log_stream_count int,
  service_count int,
  status_page jsonb,
  is_erasing boolean,
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
  select o.external_id, (extract(epoch from o.retention) / 86400)::int, coalesce(o.settings ->> 'timezone', 'UTC'), lib.org_limits(o),
    lib.max_limits(o), o.series_count, o.log_stream_count, (select count(*)::int from obs.service s where s.org_id = _org_id),
    o.settings -> 'status_page', o.erasing_since is not null, o.created_at
  from obs.org o
  where o.id = _org_id;
end
$$;
comment on function api.get_org is
  'An org; retention_days is null where it has no retention of its own, limits are lib.org_limits, max_limits lib.max_limits. No row where there is no such org.';

create function api.open_org(_external_id text, _may_make boolean)
returns table (id int, timezone text, limits jsonb, max_limits jsonb, is_erasing boolean)
language plpgsql
volatile
security definer
set search_path = ''
as $$
begin
  if _may_make then
    perform api.ensure_org(_external_id);
  else
    perform set_config('obs.org_external_id', _external_id, true);
  end if;
  return query
  select o.id, coalesce(o.settings ->> 'timezone', 'UTC'), lib.org_limits(o), lib.max_limits(o), o.erasing_since is not null
  from obs.org o
  where o.external_id = _external_id;
end
$$;
comment on function api.open_org is
  'The org that a token names, as far as each of its requests has to know it; made at its first use, see api.ensure_org, where it may be. No row where there is none.';

create function api.change_org(_org_id int, _changes jsonb, _actor text, _request jsonb default null)
returns void
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _before obs.org;
  _after obs.org;
  _limit record;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  select * into _before from obs.org o where o.id = _org_id for no key update;
  begin
    -- Which time zones there are is for the server's own files to say.
    perform now() at time zone (_changes ->> 'timezone');
  exception
    when invalid_parameter_value then
      raise exception '%', sqlerrm using errcode = 'PT400', hint = 'invalid_request', column = 'timezone';
  end;
  for _limit in
    select l.name, l.value::numeric as value, (_before.max_limits || lib.max_limits(_before) ->> l.name)::numeric as most
    from jsonb_each_text(_changes -> 'limits') as l (name, value)
  loop
    if _limit.value > _limit.most then
      raise exception 'must be at most %, which is what the deployment allows', _limit.most
        using errcode = 'PT400', hint = 'invalid_request', column = 'limits.' || _limit.name;
    end if;
  end loop;
  update obs.org o
  set
    settings = jsonb_strip_nulls(
      o.settings || _changes - array['retention_days', 'limits']
      || jsonb_build_object('limits', coalesce(o.settings -> 'limits', '{}') || coalesce(_changes -> 'limits', '{}'))
    ),
    retention = case when _changes ? 'retention_days' then make_interval(days => (_changes ->> 'retention_days')::int) else o.retention end,
    -- Deleted anew: with a longer retention before, late samples may have come for days that were deleted once.
    deleted_before = case when _changes ? 'retention_days' then '-infinity' else o.deleted_before end
  where o.id = _org_id
  returning o.* into _after;
  perform lib.audit(_org_id, _actor, _request, 'org.update', 'org', _after.external_id, lib.audited_org(_before), lib.audited_org(_after));
end
$$;
comment on function api.change_org is
  'Changes the given ones of an org''s settings. retention_days (at least 1; null: as long as the tables'' own retention): what is older is not '
  'shown from then on, and deleted from every table within the hour. timezone (null: UTC). status_page (null: none): see api.get_status_page. limits: of those that are given, null goes back to what the deployment allows. Raises '
  'PT400 for an unknown time zone and a limit above that; 23514 for a retention of less than a day.';

create function lib.audited_org(_org obs.org)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select _org.settings || jsonb_build_object('retention_days', extract(epoch from _org.retention) / 86400)
$$;
comment on function lib.audited_org is 'What of an org its admins can change, as the audit log shows it.';

create function api.export_org(_org_id int)
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
  _kind record;
  _part jsonb;
  _export jsonb;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  select jsonb_build_object(
    'org_id', o.external_id, 'exported_at', lib.rfc3339(now()), 'settings', lib.audited_org(o),
    'services', (select coalesce(jsonb_agg(lib.service_definition(s)::jsonb order by s.name), '[]') from obs.service s where s.org_id = _org_id),
    'tokens', (select coalesce(jsonb_agg(lib.audited_token(t) order by t.created_at, t.id), '[]') from obs.api_token t where t.org_id = _org_id)
  )
  into _export
  from obs.org o
  where o.id = _org_id;
  for _kind in
    select k.name, k.field
    from (values
      ('alert_rule', 'alert_rules'), ('channel', 'channels'), ('silence', 'silences'), ('maintenance_window', 'maintenance_windows'),
      ('escalation', 'escalations'), ('dashboard', 'dashboards')
    ) as k (name, field)
  loop
    execute format(
      'select coalesce(jsonb_agg(lib.audited_definition(%1$L, to_jsonb(d)) order by d.created_at, d.id), ''[]'') from obs.%1$I d where d.org_id = $1',
      _kind.name
    ) into _part using _org_id;
    _export := _export || jsonb_build_object(_kind.field, _part);
  end loop;
  return _export;
end
$$;
comment on function api.export_org is
  'Everything that an org has defined: settings, services, alert rules, channels, silences, maintenance windows, escalations, dashboards and API tokens. Secrets of channels read ••••, '
  'and of tokens there is none.';

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
  _parents jsonb;
  _series_ids int[];
  _from timestamptz;
  _days timestamptz[];
  _counts bigint[];
  _table record;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  _parents := lib.org_parents(_org_id);
  _series_ids := array(select jsonb_array_elements(_parents -> 'series')::int);

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
      'select count(*), min(%1$I), max(%1$I) from %2$s where %3$I = any (array(select jsonb_array_elements($1)::int))',
      _table.time_column, _table.relation, _table.parent || '_id'
    ) into row_count, oldest, newest using _parents -> _table.parent;
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
    ('obs.log_1m', 'log_stream', 'bucket'),
    ('obs.system_snapshot', 'org', 'time')
  ) as t (name, parent, time_column)
$$;
comment on function lib.kept_tables is
  'The hypertables that hold what an org recorded, each by way of its series, services or log streams, or by the org itself, for a retention of the org''s own.';

create function lib.oldest_recorded()
returns timestamptz
language sql
stable
set search_path = ''
as $$
  select min(c.range_start)
  from timescaledb_information.chunks c
  where format('%I.%I', c.hypertable_schema, c.hypertable_name)::regclass in (select k.relation from lib.kept_tables() k)
$$;
comment on function lib.oldest_recorded is 'Where the oldest chunk of lib.kept_tables begins; null where there is none.';

create function lib.org_parents(_org_id int)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'series', (select coalesce(jsonb_agg(s.id), '[]') from obs.series s where s.org_id = _org_id),
    'service', (select coalesce(jsonb_agg(s.id), '[]') from obs.service s where s.org_id = _org_id),
    'log_stream', (select coalesce(jsonb_agg(s.id), '[]') from obs.log_stream s where s.org_id = _org_id),
    'org', jsonb_build_array(_org_id)
  )
$$;
comment on function lib.org_parents is 'Ids by which rows of lib.kept_tables belong to an org, by table.';

create function lib.delete_recorded(_parents jsonb, _until timestamptz)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  _table record;
  _count bigint;
  _deleted jsonb := jsonb_build_object();
begin
  -- Samples in the columnstore have to be taken out of it to be deleted, by default 100,000 at the most.
  if current_setting('timescaledb.license') = 'timescale' then
    perform set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', true);
  end if;
  for _table in select k.relation, k.parent, k.time_column, c.relname from lib.kept_tables() k join pg_catalog.pg_class c on c.oid = k.relation loop
    execute format(
      'delete from %s where %I = any (array(select jsonb_array_elements($1)::int)) and %I < $2', _table.relation, _table.parent || '_id', _table.time_column
    ) using _parents -> _table.parent, _until;
    get diagnostics _count = row_count;
    if _count > 0 then
      _deleted := _deleted || jsonb_build_object(_table.relname, _count);
    end if;
  end loop;
  return _deleted;
end
$$;
comment on function lib.delete_recorded is 'Deletes rows before _until of lib.kept_tables that belong to _parents (lib.org_parents); the number of rows by table.';

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
  _deleted bigint;
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
  _oldest := lib.oldest_recorded();
  _until := least(_org.kept_from, greatest(_org.deleted_before, _oldest) + interval '7 days');

  select coalesce(sum(d.value::bigint), 0) into _deleted
  from jsonb_each_text(lib.delete_recorded(lib.org_parents(_org.id), _until)) as d (name, value);
  update obs.org set deleted_before = coalesce(_until, _org.kept_from) where id = _org.id;
  return _deleted;
end
$$;
comment on function job.delete_expired is
  'Deletes what an org with a retention of its own keeps no longer from lib.kept_tables, whole days (UTC), a week of one org at '
  'a call: to be called until it returns null. Returns the number of rows. A bucket that began before is deleted with them.';
