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
      select series_count, series_limit into _count, _limit from obs.org where id = _org_id for update;
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
  'are missing. Raises PT422 (cardinality_limit) when that would pass the org''s series_limit, 23503 when there is no such '
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

create function api.list_metrics(_org_id int, _q text, _service_name text, _after text, _limit int)
returns table (name text, series_count int, first_seen timestamptz, last_seen timestamptz)
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
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
  )
  select p.name, cardinality(p.ids), min(oldest.time), max(newest.time)
  from page p
  cross join lateral unnest(p.ids) as id
  -- One step down the index a series and chunk, from each end, until a chunk has a sample.
  left join lateral (
    select m.time from obs.sample m where m.series_id = id order by m.time limit 1
  ) as oldest on true
  left join lateral (
    select m.time from obs.sample m where m.series_id = id order by m.time desc limit 1
  ) as newest on true
  group by p.name, p.ids
  order by p.name;
end
$$;
comment on function api.list_metrics is
  'Metric names of an org in order, after _after, at most _limit: number of series, times of the oldest and newest '
  'stored sample (null when retention has dropped them all). _q: part of the name in any case.';
