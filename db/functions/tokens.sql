create function api.find_token(_hash bytea)
returns table (
  id uuid,
  org text,
  org_id int,
  name text,
  role text,
  permissions jsonb,
  expires_at timestamptz,
  revoked_at timestamptz
)
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
  _token obs.api_token;
begin
  perform set_config('obs.org_id', '', true);
  perform set_config('obs.token_hash', encode(_hash, 'hex'), true);
  select * into _token from obs.api_token t where t.hash = _hash;
  if not found then
    return;
  end if;
  perform set_config('obs.org_id', _token.org_id::text, true);
  return query
  select _token.id, o.external_id, _token.org_id, _token.name, _token.role, to_jsonb(_token.permissions), _token.expires_at, _token.revoked_at
  from obs.org o
  where o.id = _token.org_id;
end
$$;
comment on function api.find_token is 'The API token of which this is the SHA-256, whatever its state; no row where there is none.';

create function lib.token_fields(_token obs.api_token)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select to_jsonb(_token) - array['org_id', 'hash'] || jsonb_build_object(
    'created_at', lib.rfc3339(_token.created_at),
    'updated_at', lib.rfc3339(_token.updated_at),
    'expires_at', lib.rfc3339(_token.expires_at),
    'last_used_at', lib.rfc3339(_token.last_used_at),
    'revoked_at', lib.rfc3339(_token.revoked_at)
  )
$$;
comment on function lib.token_fields is 'An API token as the API shows it.';

create function lib.audited_token(_token obs.api_token)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select lib.token_fields(_token) - array['last_used_at', 'last_used_address']
$$;
comment on function lib.audited_token is 'An API token as the audit log shows it.';

create function api.create_token(_org_id int, _fields jsonb, _hash bytea, _actor text, _request jsonb default null)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  -- Each is a line of an answer.
  _most constant int := 1000;
  _token obs.api_token;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  -- The lock under which they are counted.
  perform 1 from obs.org o where o.id = _org_id for no key update;
  if (select count(*) from obs.api_token t where t.org_id = _org_id) >= _most then
    raise exception 'the org has % tokens, which is all that it may have: delete those that are not needed', _most
      using errcode = 'PT422', hint = 'token_limit';
  end if;
  insert into obs.api_token (org_id, name, prefix, hash, role, permissions, expires_at, created_by)
  select _org_id, f.name, f.prefix, _hash, f.role, f.permissions, f.expires_at, _actor
  from jsonb_to_record(_fields) as f (name text, prefix text, role text, permissions text[], expires_at timestamptz)
  returning * into _token;
  perform lib.audit(_org_id, _actor, _request, 'token.create', 'token', _token.id::text, null, lib.audited_token(_token));
  return lib.token_fields(_token);
exception
  when unique_violation then
    raise exception 'another has this name already' using errcode = 'PT409', hint = 'name_taken', column = 'name';
end
$$;
comment on function api.create_token is
  'Makes an API token: {name, prefix, role, permissions?, expires_at?} and the SHA-256 of what its owner is given. Raises PT409 (name_taken), PT422 (token_limit, 1,000).';

create function api.list_tokens(_org_id int, _before_created_at timestamptz, _before_id uuid, _limit int)
returns table (token jsonb, cursor text)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  select lib.token_fields(t), lib.rfc3339_micros(t.created_at) || ' ' || t.id
  from obs.api_token t
  where t.org_id = _org_id and (_before_created_at is null or (t.created_at, t.id) < (_before_created_at, _before_id))
  order by t.created_at desc, t.id desc
  limit _limit;
end
$$;
comment on function api.list_tokens is 'API tokens, newest first, at most _limit after (_before_created_at, _before_id); revoked and expired ones too.';

create function api.get_token(_org_id int, _id uuid)
returns jsonb
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return (select lib.token_fields(t) from obs.api_token t where t.id = _id and t.org_id = _org_id);
end
$$;
comment on function api.get_token is 'An API token; null where there is none.';

create function api.change_token(_org_id int, _id uuid, _fields jsonb, _actor text, _request jsonb default null)
returns jsonb
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _before obs.api_token;
  _after obs.api_token;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  select * into _before from obs.api_token t where t.id = _id and t.org_id = _org_id for update;
  if not found then
    return null;
  end if;
  if _before.revoked_at is not null then
    raise exception 'the token is revoked, which is for good' using errcode = 'PT409', hint = 'token_revoked';
  end if;
  _after := jsonb_populate_record(_before, _fields);
  update obs.api_token t
  set
    name = _after.name,
    role = _after.role,
    permissions = _after.permissions,
    expires_at = _after.expires_at,
    revoked_at = _after.revoked_at,
    revoked_by = case when _after.revoked_at is not null then _actor end,
    updated_at = now()
  where t.id = _id
  returning t.* into _after;
  perform lib.audit(
    _org_id, _actor, _request, case when _after.revoked_at is null then 'token.update' else 'token.revoke' end, 'token', _id::text,
    lib.audited_token(_before), lib.audited_token(_after)
  );
  return lib.token_fields(_after);
exception
  when unique_violation then
    raise exception 'another has this name already' using errcode = 'PT409', hint = 'name_taken', column = 'name';
end
$$;
comment on function api.change_token is
  'Changes the given ones of {name, role, permissions, expires_at} of an API token, or with {revoked_at} revokes it, for good. Null where there is none; raises PT409 '
  '(token_revoked, name_taken).';

create function api.delete_token(_org_id int, _id uuid, _actor text, _request jsonb default null)
returns boolean
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _token obs.api_token;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  delete from obs.api_token t where t.id = _id and t.org_id = _org_id returning t.* into _token;
  if not found then
    return false;
  end if;
  perform lib.audit(_org_id, _actor, _request, 'token.delete', 'token', _id::text, lib.audited_token(_token), null);
  return true;
end
$$;
comment on function api.delete_token is 'Deletes an API token, which then lets nobody in; whether there was one.';
