create function api.get_ingest_limits(_org_id int, _table_name text)
returns table (max_age_seconds float8)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  select extract(epoch from least(
    (
      select case
        -- Late samples are rolled up together with those of their day, and of a day that was dropped there are none.
        when r.table_name = 'sample' and isfinite(r.complete_from) then least(r.keep, now() - r.complete_from)
        else r.keep
      end
      from obs.retention r
      where r.table_name = _table_name
    ),
    (select o.retention from obs.org o where o.id = _org_id)
  ))::float8;
end
$$;
comment on function api.get_ingest_limits is
  'How old what an org sends for a table, sample or log, may be when it arrives: the table''s retention or the org''s own, in seconds; null: no limit.';

create function api.claim_idempotency_keys(
  _org_ids int[],
  _keys text[],
  _body_hashes bytea[],
  _recorded int[]
)
returns text[]
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _verdicts text[] := array_fill('claimed'::text, array[cardinality(_keys)]);
  _claim record;
  _stored obs.idempotency_key;
begin
  -- In one order everywhere, so that two flushes with keys in common wait for each other and never in a circle.
  for _claim in
    select k.position, k.org_id, k.key, k.body_hash, k.recorded
    from unnest(_org_ids, _keys, _body_hashes, _recorded) with ordinality
      as k (org_id, key, body_hash, recorded, position)
    order by k.org_id, k.key collate "C", k.position
  loop
    perform set_config('obs.org_id', _claim.org_id::text, true);
    -- Waits for a transaction that holds the same key; a key older than a day is taken over.
    insert into obs.idempotency_key as k (org_id, key, body_hash, recorded)
    values (_claim.org_id, _claim.key, _claim.body_hash, _claim.recorded)
    on conflict (org_id, key) do update
      set body_hash = excluded.body_hash, recorded = excluded.recorded, created_at = now()
      where k.created_at < now() - interval '1 day';
    if not found then
      select * into _stored from obs.idempotency_key k where k.org_id = _claim.org_id and k.key = _claim.key;
      _verdicts[_claim.position] :=
        case when _stored.body_hash = _claim.body_hash then 'replayed' else 'mismatched' end;
    end if;
  end loop;
  return _verdicts;
end
$$;
comment on function api.claim_idempotency_keys is
  'Claims the Idempotency-Keys of the requests of one flush, in its transaction; arrays run in parallel, one '
  'element a request. Answers for each: claimed (record it), replayed (the same request was committed before) or '
  'mismatched (the key belongs to another body). A key lives one day.';

create function job.purge_idempotency_keys(_now timestamptz default now())
returns int
language sql
volatile
security definer
set search_path = ''
as $$
  with purged as (
    delete from obs.idempotency_key where created_at < _now - interval '1 day' returning 1
  )
  select count(*)::int from purged
$$;
comment on function job.purge_idempotency_keys is 'Deletes Idempotency-Keys older than a day; returns how many.';

create function lib.record_samples(_org_id int, _samples jsonb, _now timestamptz)
returns int
language plpgsql
volatile
set search_path = ''
as $$
declare
  _series_ids int[] := lib.ensure_series(_org_id, _samples);
begin
  insert into obs.sample (time, series_id, value)
  select _now, _series_ids[s.ordinality], (s.value ->> 'value')::float8
  from jsonb_array_elements(_samples) with ordinality as s;
  return cardinality(_series_ids);
end
$$;
comment on function lib.record_samples is
  'Records what the service itself observed: a JSON array of {name, value, service_name?, labels?}, all at _now. Returns the number of samples.';

create function api.record_samples(_org_id int, _samples jsonb, _now timestamptz default now())
returns int
language plpgsql
volatile
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return lib.record_samples(_org_id, _samples, _now);
end
$$;
comment on function api.record_samples is
  'lib.record_samples, of what an API process observed of itself. What clients send is copied into obs.sample by the flushes of src/ingest.';

create function job.record_samples(_org_external_id text, _samples jsonb, _now timestamptz default now())
returns int
language sql
volatile
security definer
set search_path = ''
as $$
  select lib.record_samples(job.ensure_org(_org_external_id), _samples, _now)
$$;
comment on function job.record_samples is 'lib.record_samples, of what a worker observed, for an org by its external id.';

create function job.measure_database()
returns table (name text, value float8)
language sql
stable
security definer
set search_path = ''
as $$
  select m.name, m.value
  from pg_catalog.pg_stat_database d
  cross join lateral (values
    ('database_size_bytes', pg_catalog.pg_database_size(d.datid)::float8),
    ('database_connections', d.numbackends::float8),
    ('database_transactions_total', (d.xact_commit + d.xact_rollback)::float8),
    ('database_deadlocks_total', d.deadlocks::float8),
    ('database_cache_hit_percentage', 100 * d.blks_hit::float8 / nullif(d.blks_hit + d.blks_read, 0))
  ) as m (name, value)
  where d.datname = pg_catalog.current_database() and m.value is not null
$$;
comment on function job.measure_database is 'Size, connections, transactions, deadlocks and cache hits of this database, by the name of the metric (pg_stat_database).';
