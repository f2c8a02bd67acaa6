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
