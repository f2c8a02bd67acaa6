create function api.record_usage(_usage jsonb)
returns void
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _org record;
begin
  -- In one order everywhere, since each waits for the other's row.
  for _org in
    select u.* from jsonb_to_recordset(_usage) as u (org_id int, day date, requests bigint, refused bigint, samples bigint, log_lines bigint, tokens jsonb)
    order by u.org_id, u.day
  loop
    perform set_config('obs.org_id', _org.org_id::text, true);
    insert into obs.org_usage as u (org_id, day, requests, refused, samples, log_lines, series, log_streams)
    select o.id, _org.day, _org.requests, _org.refused, _org.samples, _org.log_lines, o.series_count, o.log_stream_count
    from obs.org o
    where o.id = _org.org_id
    on conflict (org_id, day) do update set
      requests = u.requests + excluded.requests,
      refused = u.refused + excluded.refused,
      samples = u.samples + excluded.samples,
      log_lines = u.log_lines + excluded.log_lines,
      series = excluded.series,
      log_streams = excluded.log_streams;
    with used as (
      select t.id
      from obs.api_token t
      where t.org_id = _org.org_id and t.id in (select (k ->> 'id')::uuid from jsonb_array_elements(_org.tokens) as k)
      order by t.id
      for update
    )
    update obs.api_token t
    set last_used_at = greatest(t.last_used_at, (k.value ->> 'at')::timestamptz), last_used_address = k.value ->> 'address'
    from jsonb_array_elements(_org.tokens) as k
    where t.id = (k.value ->> 'id')::uuid and t.id in (select u.id from used u);
  end loop;
end
$$;
comment on function api.record_usage is
  'Adds up what an API process counted: an array of {org_id, day, requests, refused, samples, log_lines, tokens: [{id, at, address}]}, of which tokens are the API tokens '
  'that were used.';

create function api.list_usage(_org_id int, _start date, _end date)
returns table (day date, requests bigint, refused bigint, samples bigint, log_lines bigint, series int, log_streams int)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  select u.day, u.requests, u.refused, u.samples, u.log_lines, u.series, u.log_streams
  from obs.org_usage u
  where u.org_id = _org_id and u.day >= _start and u.day < _end
  order by u.day;
end
$$;
comment on function api.list_usage is 'What an org used by day (UTC) in [_start, _end); days without a request are left out.';

create function job.purge_usage(_now timestamptz default now())
returns int
language sql
volatile
security definer
set search_path = ''
as $$
  with purged as (
    delete from obs.org_usage where day < (_now - interval '400 days')::date returning 1
  )
  select count(*)::int from purged
$$;
comment on function job.purge_usage is 'Deletes what was used more than 400 days ago; returns how many days of orgs.';
