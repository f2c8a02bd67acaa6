create function lib.audit(
  _org_id int,
  _actor text,
  _request jsonb,
  _action text,
  _target_kind text,
  _target_id text,
  _before jsonb,
  _after jsonb
)
returns void
language sql
volatile
set search_path = ''
as $$
  insert into obs.audit_event (org, actor, token_id, action, target_kind, target_id, outcome, before, after, request_id, address)
  select o.external_id, _actor, (_request ->> 'token_id')::uuid, _action, _target_kind, _target_id, 'done', _before, _after,
    _request ->> 'id', _request ->> 'address'
  from obs.org o
  where o.id = _org_id
$$;
comment on function lib.audit is
  'Adds a change to the audit log, in the transaction that makes it. _request: {id, address, token_id} of the HTTP request, null for none. _before and _after '
  'must hold no secret.';

create function api.record_accesses(_org_id int, _accesses jsonb)
returns void
language plpgsql
volatile
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  insert into obs.audit_event (time, org, actor, token_id, action, target_id, outcome, status, count, request_id, address)
  select coalesce(a.time, now()), o.external_id, a.actor, a.token_id, a.action, a.target_id, a.outcome, a.status, a.count, a.request_id, a.address
  from jsonb_to_recordset(_accesses) as a (
    time timestamptz, actor text, token_id uuid, action text, target_id text, outcome text, status int, count int, request_id text, address text
  )
  join obs.org o on o.id = _org_id;
end
$$;
comment on function api.record_accesses is
  'Adds to the audit log of an org what was refused, or read: an array of {time?, actor, token_id?, action, target_id, outcome, status, count, request_id, address}.';

create function api.list_audit(
  _org_id int,
  _filters jsonb,
  _start timestamptz,
  _end timestamptz,
  _before_time timestamptz,
  _before_id uuid,
  _limit int
)
returns table (event jsonb, cursor text)
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  select
    to_jsonb(e) - 'org' || jsonb_build_object('time', lib.rfc3339(e.time)),
    lib.rfc3339_micros(e.time) || ' ' || e.id
  from obs.audit_event e
  where e.org = (select o.external_id from obs.org o where o.id = _org_id)
    and e.time >= _start
    and e.time < _end
    and (_filters ->> 'actor' is null or e.actor = _filters ->> 'actor')
    and (_filters ->> 'action' is null or e.action = _filters ->> 'action' or starts_with(e.action, (_filters ->> 'action') || '.'))
    and (_filters ->> 'target_kind' is null or e.target_kind = _filters ->> 'target_kind')
    and (_filters ->> 'target_id' is null or e.target_id = _filters ->> 'target_id')
    and (_filters ->> 'outcome' is null or e.outcome = _filters ->> 'outcome')
    and (_filters ->> 'token_id' is null or e.token_id = (_filters ->> 'token_id')::uuid)
    and (_filters ->> 'request_id' is null or e.request_id = _filters ->> 'request_id')
    and (_filters ->> 'address' is null or e.address = _filters ->> 'address')
    and (_before_time is null or (e.time, e.id) < (_before_time, _before_id))
  order by e.time desc, e.id desc
  limit _limit;
end
$$;
comment on function api.list_audit is
  'The audit log of an org in [_start, _end), newest first, at most _limit after (_before_time, _before_id). _filters: equal to actor, target_kind, '
  'target_id, outcome, token_id, request_id, address; action is equal, or the kind before its dot.';
