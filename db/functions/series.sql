create function lib.ensure_series(_org_id int, _series jsonb)
returns int[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  _ids int[];
  _missing int;
  _count int;
  _limit int;
begin
  -- Twice at most: once to find that series are missing, once more after they were made.
  loop
    select
      array_agg(s.id order by w.position),
      count(distinct (w.name, w.service_name, w.labels)) filter (where s.id is null)
    into _ids, _missing
    from (
      select e.ordinality as position, e.value ->> 'name' as name,
        coalesce(e.value ->> 'service_name', '') as service_name, coalesce(e.value -> 'labels', '{}') as labels
      from jsonb_array_elements(_series) with ordinality as e
    ) as w
    left join obs.series s
      on s.org_id = _org_id
      and s.name = w.name
      and s.service_name = w.service_name
      and s.labels_hash = md5(w.labels::text)::uuid;

    exit when _missing = 0;

    -- The org's row is the lock under which its series are made, so that the count is exact. Who waited for
    -- it looks again, with a new snapshot: the series may have come into being meanwhile.
    if _count is null then
      select o.series_count, lib.limit_of(o, 'series') into _count, _limit from obs.org o where o.id = _org_id for no key update;
      if not found then
        raise exception 'there is no org %', _org_id using errcode = '23503';
      end if;
      continue;
    end if;

    if _count + _missing > _limit then
      raise exception 'the org has % of at most % series, and this request would add %', _count, _limit, _missing
        using errcode = 'PT422', hint = 'cardinality_limit';
    end if;

    insert into obs.series (org_id, name, service_name, labels)
    select distinct
      _org_id, e ->> 'name', coalesce(e ->> 'service_name', ''), coalesce(e -> 'labels', '{}')
    from jsonb_array_elements(_series) as e
    where not exists (
      select from obs.series s
      where s.org_id = _org_id
        and s.name = e ->> 'name'
        and s.service_name = coalesce(e ->> 'service_name', '')
        and s.labels_hash = md5(coalesce(e -> 'labels', '{}')::text)::uuid
    );
    update obs.org set series_count = series_count + _missing where id = _org_id;
  end loop;
  return _ids;
end
$$;
comment on function lib.ensure_series is
  'Ids of the series in _series, in its order: a JSON array of {name, service_name?, labels?}. Makes those that '
  'are missing. Raises PT422 (cardinality_limit) when that would pass the org''s limit of series, 23503 when there is no such '
  'org; then none is made.';

create function api.ensure_series(_org_id int, _series jsonb)
returns int[]
language plpgsql
volatile
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return lib.ensure_series(_org_id, _series);
end
$$;
comment on function api.ensure_series is 'lib.ensure_series for one org.';

create function lib.seen_at(_series_ids int[], _is_last boolean)
returns table (series_id int, seen_at timestamptz)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _pending int[] := _series_ids;
  _found_ids int[];
  _found_times timestamptz[];
  _chunk record;
begin
  -- Chunk by chunk from the end that is asked for, one step down its index for each series not found yet: a query
  -- over all chunks at once would open every one of them for every series.
  for _chunk in
    select c.range_start, c.range_end
    from timescaledb_information.chunks c
    where c.hypertable_schema = 'obs' and c.hypertable_name = 'sample'
    order by case when _is_last then -1 else 1 end * extract(epoch from c.range_start)
  loop
    exit when cardinality(_pending) = 0;
    if _is_last then
      select array_agg(p.id), array_agg(m.time)
      into _found_ids, _found_times
      from unnest(_pending) as p (id)
      cross join lateral (
        select s.time from obs.sample s
        where s.series_id = p.id and s.time >= _chunk.range_start and s.time < _chunk.range_end
        order by s.time desc
        limit 1
      ) as m;
    else
      select array_agg(p.id), array_agg(m.time)
      into _found_ids, _found_times
      from unnest(_pending) as p (id)
      cross join lateral (
        select s.time from obs.sample s
        where s.series_id = p.id and s.time >= _chunk.range_start and s.time < _chunk.range_end
        order by s.time
        limit 1
      ) as m;
    end if;
    continue when _found_ids is null;
    return query select * from unnest(_found_ids, _found_times);
    _pending := array(select unnest(_pending) except select unnest(_found_ids));
  end loop;
end
$$;
comment on function lib.seen_at is 'Time of the last, or first, stored sample of each series; no row for one without samples.';

create function api.list_metrics(_org_id int, _q text, _service_name text, _after text, _limit int)
returns table (name text, series_count int, first_seen timestamptz, last_seen timestamptz)
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _kept_from timestamptz;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  _kept_from := lib.org_kept_from(_org_id);
  return query
  with page as (
    select s.name, array_agg(s.id) as ids
    from obs.series s
    where s.org_id = _org_id
      and (_after is null or s.name > _after)
      and (_service_name is null or s.service_name = _service_name)
      and (_q is null or strpos(lower(s.name), lower(_q)) > 0)
    group by s.name
    order by s.name
    limit _limit
  ),
  members as materialized (
    select p.name, m.id from page p cross join unnest(p.ids) as m (id)
  ),
  oldest as materialized (
    select * from lib.seen_at(array(select m.id from members m), false)
  ),
  newest as materialized (
    select * from lib.seen_at(array(select m.id from members m), true)
  )
  select c.name, c.n, case when c.oldest is not null then greatest(c.oldest, _kept_from) end, c.newest
  from (
    select m.name, count(*)::int as n,
      min(o.seen_at) filter (where n.seen_at >= _kept_from) as oldest,
      max(n.seen_at) filter (where n.seen_at >= _kept_from) as newest
    from members m
    left join oldest o on o.series_id = m.id
    left join newest n on n.series_id = m.id
    group by m.name
  ) as c
  order by c.name;
end
$$;
comment on function api.list_metrics is
  'Metric names of an org in order, after _after, at most _limit: number of series, times of the oldest and newest '
  'stored sample (null when retention has dropped them all). _q: part of the name in any case.';

create function api.list_labels(_org_id int, _name text, _service_name text)
returns text
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return (
    with matching as materialized (
      select s.service_name, s.labels
      from obs.series s
      where s.org_id = _org_id and s.name = _name and (_service_name is null or s.service_name = _service_name)
    ),
    pair as (
      select distinct e.key, e.value from matching m cross join lateral jsonb_each_text(m.labels) e
      union
      select 'service_name', m.service_name from matching m where m.service_name <> ''
    ),
    label as (
      select p.key, count(*) as value_count, (array_agg(p.value order by p.value))[:100] as some_values
      from pair p
      group by p.key
    )
    select json_build_object(
      'metric_name', _name,
      'labels', (
        select coalesce(json_agg(
          json_build_object('label', l.key, 'value_count', l.value_count, 'values', l.some_values) order by l.key <> 'service_name', l.key
        ), '[]')
        from label l
      )
    )
    where exists (select from matching)
  );
end
$$;
comment on function api.list_labels is
  'Labels of the series of a metric (service_name, the first, is one) as JSON text: how many values each has, and the first 100 of them. Null where no series matches.';
