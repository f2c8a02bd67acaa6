create function lib.erasure_fields(_erasure obs.erasure)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'id', _erasure.id,
    'org_id', _erasure.org,
    'status', case
      when _erasure.finished_at is not null then 'done'
      when _erasure.cancelled_at is not null then 'cancelled'
      when _erasure.started_at is not null then 'erasing'
      else 'pending'
    end,
    'requested_by', _erasure.requested_by,
    'requested_at', lib.rfc3339(_erasure.requested_at),
    'starts_at', lib.rfc3339(_erasure.starts_at),
    'cancelled_at', lib.rfc3339(_erasure.cancelled_at),
    'started_at', lib.rfc3339(_erasure.started_at),
    'finished_at', lib.rfc3339(_erasure.finished_at),
    'deleted', _erasure.deleted
  )
$$;
comment on function lib.erasure_fields is 'An erasure as the API shows it: while it is done what has been deleted so far, and then its receipt.';

create function api.request_erasure(_org_id int, _actor text, _request jsonb default null)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  -- Longer than an API process goes by what it knows of an org (src/auth.ts).
  _notice constant interval := interval '10 seconds';
  _erasure obs.erasure;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  update obs.org o set erasing_since = now() where o.id = _org_id and o.erasing_since is null;
  if not found then
    raise exception 'the org is being erased already' using errcode = 'PT409', hint = 'org_erasing';
  end if;
  insert into obs.erasure (org, org_id, requested_by, starts_at)
  select o.external_id, _org_id, _actor, now() + _notice
  from obs.org o
  where o.id = _org_id
  returning * into _erasure;
  perform lib.audit(_org_id, _actor, _request, 'org.erase', 'erasure', _erasure.id::text, null, lib.erasure_fields(_erasure));
  perform queue.erase(_erasure.id, _erasure.starts_at);
  return lib.erasure_fields(_erasure);
end
$$;
comment on function api.request_erasure is
  'Has all that an org has erased by a worker, ten seconds from now; until then it can be cancelled. The API takes nothing for the org from now on. PT409 (org_erasing) '
  'where that is asked for already.';

create function api.cancel_erasure(_org_id int, _id uuid, _actor text, _request jsonb default null)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _before obs.erasure;
  _after obs.erasure;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  -- The org first, as the erasure itself does.
  perform 1 from obs.org o where o.id = _org_id for no key update;
  select * into _before
  from obs.erasure e
  where e.id = _id and e.org = (select o.external_id from obs.org o where o.id = _org_id)
  for update;
  if not found then
    return null;
  end if;
  if _before.started_at is not null or _before.cancelled_at is not null then
    raise exception 'it is % already', lib.erasure_fields(_before) ->> 'status' using errcode = 'PT409', hint = 'erasure_status';
  end if;
  update obs.erasure e set cancelled_at = now() where e.id = _id returning e.* into _after;
  update obs.org o set erasing_since = null where o.id = _org_id;
  perform lib.audit(
    _org_id, _actor, _request, 'org.cancel_erasure', 'erasure', _id::text, lib.erasure_fields(_before), lib.erasure_fields(_after)
  );
  return lib.erasure_fields(_after);
end
$$;
comment on function api.cancel_erasure is 'Cancels an erasure that has not begun. Null where there is none; PT409 (erasure_status) when it has.';

create function api.get_erasure(_org_id int, _id uuid)
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return (
    select lib.erasure_fields(e)
    from obs.erasure e
    where e.id = _id and e.org = (select o.external_id from obs.org o where o.id = _org_id)
  );
end
$$;
comment on function api.get_erasure is 'An erasure of an org, or of one of that external id before it; null where there is none.';

create function api.list_erasures(_org_id int, _before_requested_at timestamptz, _before_id uuid, _limit int)
returns table (erasure jsonb, cursor text)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  select lib.erasure_fields(e), lib.rfc3339_micros(e.requested_at) || ' ' || e.id
  from obs.erasure e
  where e.org = (select o.external_id from obs.org o where o.id = _org_id)
    and (_before_requested_at is null or (e.requested_at, e.id) < (_before_requested_at, _before_id))
  order by e.requested_at desc, e.id desc
  limit _limit;
end
$$;
comment on function api.list_erasures is 'Erasures of an org, and of those of its external id before it, newest first, at most _limit after (_before_requested_at, _before_id).';

create function job.erase_next(_now timestamptz default now())
returns text
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  -- What was on its way to the org's hypertables when its row went has arrived by then.
  _settling constant interval := interval '1 minute';
  _erasure obs.erasure;
  _until timestamptz;
  _deleted jsonb;
  _table record;
  _count bigint;
begin
  select * into _erasure
  from obs.erasure e
  where e.finished_at is null and e.cancelled_at is null
    and case
      when e.started_at is null then e.starts_at <= _now
      when e.erased_before > _now + interval '1 day' then e.started_at + _settling <= _now
      else true
    end
    and pg_try_advisory_xact_lock(hashtext('obs.erase'), hashtext(e.id::text))
  order by e.starts_at, e.id
  limit 1;
  if not found then
    return null;
  end if;

  if _erasure.started_at is null then
    -- Whoever makes something of the org waits for this, and then finds no org. It may have been cancelled meanwhile.
    perform 1 from obs.org o where o.id = _erasure.org_id for update;
    perform 1 from obs.erasure e where e.id = _erasure.id and e.cancelled_at is null and e.started_at is null for update;
    if not found then
      return job.erase_next(_now);
    end if;
    _deleted := jsonb_build_object();
    for _table in
      select c.oid::regclass as relation, c.relname
      from pg_catalog.pg_class c
      join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = 'org_id' and not a.attisdropped
      where c.relnamespace = 'obs'::regnamespace and c.relkind = 'r' and c.relname <> 'erasure'
        and c.oid <> all (select k.relation from lib.kept_tables() k)
    loop
      execute format('select count(*) from %s where org_id = $1', _table.relation) into _count using _erasure.org_id;
      if _count > 0 then
        _deleted := _deleted || jsonb_build_object(_table.relname, _count);
      end if;
    end loop;
    update obs.erasure e
    set started_at = _now, parents = lib.org_parents(_erasure.org_id), deleted = _deleted
    where e.id = _erasure.id;
    -- By these the org's other rows go; the two tables have no key to it.
    delete from obs.dirty_range d where d.org_id = _erasure.org_id;
    delete from obs.log_arrival a where a.org_id = _erasure.org_id;
    delete from obs.org o where o.id = _erasure.org_id;
    perform queue.erase(_erasure.id, _now + _settling);
    return _erasure.org;
  end if;

  -- A week at a time, so that no transaction is long; and all of it once more at the end.
  _until := case
    when _erasure.erased_before > _now + interval '1 day' then 'infinity'
    else greatest(_erasure.erased_before, coalesce(lib.oldest_recorded(), _now)) + interval '7 days'
  end;
  -- A roll-up that began before would put rows back.
  if _until = 'infinity' and not pg_try_advisory_xact_lock(hashtext('obs.refresh_tier')) then
    return null;
  end if;
  -- Of flushes that ended late, too.
  delete from obs.dirty_range d where d.org_id = _erasure.org_id;
  delete from obs.log_arrival a where a.org_id = _erasure.org_id;
  _deleted := lib.delete_recorded(_erasure.parents, _until);
  update obs.erasure e
  set
    erased_before = _until,
    deleted = (
      select coalesce(jsonb_object_agg(d.name, d.count), '{}')
      from (
        select p.name, sum(p.value::bigint) as count
        from (select * from jsonb_each_text(e.deleted) union all select * from jsonb_each_text(_deleted)) as p (name, value)
        group by p.name
      ) d
    ),
    finished_at = case when _until = 'infinity' then _now end,
    parents = case when _until < 'infinity' then e.parents end
  where e.id = _erasure.id;
  return _erasure.org;
end
$$;
comment on function job.erase_next is
  'Does a part of the erasure that is due for longest: first the org''s row, and with it everything but the hypertables, then these, week by week, and a minute after the '
  'beginning what has arrived late. To be called until it returns null; returns the org''s external id.';
