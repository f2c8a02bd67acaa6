create function queue.schedule_probes(_service_ids int[], _org_ids int[], _run_ats timestamptz[])
returns void
language plpgsql
volatile
security definer
set search_path = ''
as $$
begin
  if cardinality(_service_ids) > 0 then
    perform graphile_worker.add_jobs(array(
      select (
        'probe', json_build_object('service_id', p.service_id, 'org_id', p.org_id), null, p.run_at, 1, 'probe:' || p.service_id, 0, null
      )::graphile_worker.job_spec
      from unnest(_service_ids, _org_ids, _run_ats) as p (service_id, org_id, run_at)
    ));
  end if;
end
$$;
comment on function queue.schedule_probes is
  'Jobs that probe services at these times, one a service: a job that waits is moved, one that runs is followed by another.';

create function queue.heal_probes(_service_ids int[], _org_ids int[], _run_ats timestamptz[])
returns int
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _missing record;
begin
  select array_agg(p.service_id) as ids, array_agg(p.org_id) as org_ids, array_agg(p.run_at) as ats
  into _missing
  from unnest(_service_ids, _org_ids, _run_ats) as p (service_id, org_id, run_at)
  where not exists (
    select
    from graphile_worker.jobs j
    where j.key = 'probe:' || p.service_id and j.locked_at is null and j.attempts < j.max_attempts
  );
  perform queue.schedule_probes(_missing.ids, _missing.org_ids, _missing.ats);
  return coalesce(cardinality(_missing.ids), 0);
end
$$;
comment on function queue.heal_probes is
  'queue.schedule_probes for those services that have no job waiting; returns how many. One that failed counts as none, and so does one '
  'that a worker has taken: it may have died, and if not, who claims the slot first is the one who probes.';

create function queue.request_check(_service_id int, _org_id int)
returns void
language plpgsql
volatile
security definer
set search_path = ''
as $$
begin
  -- Before what is scheduled: somebody waits for it.
  perform graphile_worker.add_job(
    'probe', json_build_object('service_id', _service_id, 'org_id', _org_id, 'is_requested', true),
    max_attempts => 1, job_key => 'check:' || _service_id, priority => -10
  );
end
$$;
comment on function queue.request_check is 'A job that probes a service now, out of its slots; several that wait are one.';

create function queue.purge_jobs()
returns int
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _purged int;
begin
  -- Its own period, after which it takes a job's worker for dead.
  select count(*)::int into _purged
  from graphile_worker.complete_jobs(array(
    select j.id
    from graphile_worker.jobs j
    where j.task_identifier in ('probe', 'evaluate', 'notify') and j.attempts >= j.max_attempts
      and (j.locked_at is null or j.locked_at < now() - interval '4 hours')
  ));
  return _purged;
end
$$;
comment on function queue.purge_jobs is
  'Deletes jobs that failed, or whose worker died with them, of those tasks that heal: others have done their work. Returns how many.';

create function queue.add_earliest(_task text, _payload json, _key text, _run_at timestamptz)
returns void
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _waits_until timestamptz;
begin
  -- One that another transaction is adding cannot be seen, and its time would be lost; one that a worker takes now would be done
  -- before our caller commits what it is for.
  perform pg_advisory_xact_lock(hashtextextended(_key, 0));
  select j.run_at into _waits_until
  from graphile_worker._private_jobs j
  where j.key = _key and j.locked_at is null and j.attempts < j.max_attempts
  for update;
  -- Written anew for each of thousands of alerts of a transaction it would take longer with each.
  if _waits_until <= _run_at then
    return;
  end if;
  perform graphile_worker.add_job(_task, _payload, run_at => _run_at, max_attempts => 1, job_key => _key);
end
$$;
comment on function queue.add_earliest is
  'A job of which one waits at most, for the earliest of the times that were asked for; one that runs is followed by another. Other callers '
  'with the same key wait for the caller''s transaction: to be called late in it.';

create function queue.evaluate(_org_id int, _run_at timestamptz)
returns void
language sql
volatile
security definer
set search_path = ''
as $$
  select queue.add_earliest('evaluate', json_build_object('org_id', _org_id), 'evaluate:' || _org_id, _run_at)
$$;
comment on function queue.evaluate is 'The job that evaluates the rules of an org that are due then, and takes due steps of escalations.';

create function queue.notify(_org_id int, _group_id bigint, _run_at timestamptz)
returns void
language sql
volatile
security definer
set search_path = ''
as $$
  select queue.add_earliest('notify', json_build_object('org_id', _org_id, 'group_id', _group_id), 'notify:' || _group_id, _run_at)
$$;
comment on function queue.notify is 'The job that sees then what a group has to tell its channel, and delivers it.';

create function queue.send(_org_id int, _notification_id uuid, _run_at timestamptz)
returns void
language sql
volatile
security definer
set search_path = ''
as $$
  select queue.add_earliest(
    'notify', json_build_object('org_id', _org_id, 'notification_id', _notification_id), 'notify:' || _notification_id, _run_at
  )
$$;
comment on function queue.send is 'The job that delivers a notification that belongs to no group.';

create function queue.erase(_erasure_id uuid, _run_at timestamptz)
returns void
language sql
volatile
security definer
set search_path = ''
as $$
  select queue.add_earliest('erase_orgs', json_build_object('erasure_id', _erasure_id), 'erase_orgs:' || _erasure_id, _run_at)
$$;
comment on function queue.erase is 'The job that goes on with an erasure, and with others whose time has come.';

create function queue.heal_alerts(
  _evaluate_org_ids int[],
  _org_ids int[],
  _group_ids bigint[],
  _notification_ids uuid[],
  _now timestamptz
)
returns int
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _missing record;
  _count int := 0;
begin
  for _missing in
    select d.task, d.key, d.payload
    from (
      select 'evaluate' as task, 'evaluate:' || e.org_id as key, json_build_object('org_id', e.org_id) as payload, 0::bigint as position
      from unnest(_evaluate_org_ids) as e (org_id)
      union all
      select 'notify', 'notify:' || coalesce(n.group_id::text, n.notification_id::text),
        json_build_object('org_id', n.org_id, 'group_id', n.group_id, 'notification_id', n.notification_id), n.position
      from unnest(_org_ids, _group_ids, _notification_ids) with ordinality as n (org_id, group_id, notification_id, position)
    ) as d
    where not exists (
      select
      from graphile_worker._private_jobs j
      where j.key = d.key and j.locked_at is null and j.attempts < j.max_attempts and j.run_at <= _now
    )
    order by d.position
    limit 200
  loop
    perform queue.add_earliest(_missing.task, _missing.payload, _missing.key, _now);
    _count := _count + 1;
  end loop;
  return _count;
end
$$;
comment on function queue.heal_alerts is
  'Jobs now for those orgs, groups (group_ids[i] null: the notification alone) that have none which is due: it was lost, or a worker has taken it '
  'and may have died, or it waits for later than it should. Returns how many.';
