create function lib.takes_alert(_channel obs.channel, _alert obs.alert, _labels jsonb)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  return _channel.is_enabled
    and (_channel.severities = '{}' or _alert.severity = any (_channel.severities))
    and (_channel.service_names = '{}' or _alert.service_name = any (_channel.service_names))
    and lib.matches_all(_channel.matchers, _labels);
end
$$;
comment on function lib.takes_alert is 'Whether a channel''s routing lets an alert pass, whose lib.alert_labels these are; without routing every alert of the org does.';

create function lib.join_group(_channel obs.channel, _alert obs.alert, _alert_labels jsonb)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  _labels constant jsonb := coalesce(
    (select jsonb_object_agg(k, coalesce(_alert_labels ->> k, '')) from unnest(_channel.group_by) as k), '{}'
  );
  _group_id bigint;
begin
  -- It stays where the channel has it, whatever has become of its labels.
  select g.id into _group_id
  from obs.notification_member m
  join obs.notification_group g on g.id = m.group_id
  where m.alert_id = _alert.id and g.channel_id = _channel.id
  order by g.id
  limit 1;
  if found then
    return _group_id;
  end if;
  loop
    select g.id into _group_id from obs.notification_group g where g.channel_id = _channel.id and g.labels = _labels;
    exit when found;
    insert into obs.notification_group (org_id, channel_id, labels)
    values (_alert.org_id, _channel.id, _labels)
    on conflict (channel_id, labels) do nothing;
  end loop;
  insert into obs.notification_member (group_id, alert_id, org_id) values (_group_id, _alert.id, _alert.org_id);
  return _group_id;
end
$$;
comment on function lib.join_group is 'Adds an alert to the group of a channel that its labels belong to; returns the group.';

create function lib.schedule_flush(_group_id bigint, _wait_seconds float8, _now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _group obs.notification_group;
  _flush_at timestamptz;
begin
  -- A flush that is under way does not see what this transaction adds: it is waited for, and another follows.
  select * into _group from obs.notification_group g where g.id = _group_id for no key update;
  select greatest(_now + make_interval(secs => _wait_seconds), _group.notified_at + make_interval(secs => c.group_interval_seconds))
  into _flush_at
  from obs.channel c
  where c.id = _group.channel_id;
  -- Written once, however many alerts a transaction adds to it.
  if _flush_at < _group.flush_at or _group.flush_at is null then
    update obs.notification_group set flush_at = _flush_at where id = _group_id;
    perform queue.notify(_group.org_id, _group_id, _flush_at);
  end if;
end
$$;
comment on function lib.schedule_flush is
  'Has a worker look at a group after a wait, for what else may come, and not before group_interval_seconds have passed since it was last notified.';

create function lib.route_alert(
  _alert obs.alert,
  _now timestamptz,
  _channel_ids uuid[] default '{}',
  _is_urged boolean default false
)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _labels constant jsonb := lib.alert_labels(_alert);
  _channel obs.channel;
  _group_id bigint;
begin
  for _channel in
    select c.*
    from obs.channel c
    where c.org_id = _alert.org_id and c.is_enabled
      and (
        c.id = any (_channel_ids)
        or lib.takes_alert(c, _alert, _labels)
        or exists (
          select
          from obs.notification_member m
          join obs.notification_group g on g.id = m.group_id
          where m.alert_id = _alert.id and g.channel_id = c.id
        )
      )
    order by c.id
  loop
    _group_id := lib.join_group(_channel, _alert, _labels);
    -- The group before its members, as in a flush.
    perform 1 from obs.notification_group g where g.id = _group_id for no key update;
    if _is_urged then
      update obs.notification_member set is_urged = true where group_id = _group_id and alert_id = _alert.id;
    end if;
    perform lib.schedule_flush(_group_id, _channel.group_wait_seconds, _now);
  end loop;
end
$$;
comment on function lib.route_alert is
  'Brings an alert that fires, or has become more or less severe, before the channels that take it, those that know of it, and _channel_ids; '
  '_is_urged: they are told whatever they were told before.';

create function lib.route_resolved(_alert obs.alert, _now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _group_id bigint;
begin
  for _group_id in
    select m.group_id from obs.notification_member m where m.alert_id = _alert.id order by m.group_id
  loop
    perform lib.schedule_flush(_group_id, 0, _now);
  end loop;
end
$$;
comment on function lib.route_resolved is 'Brings an alert that was resolved before the channels that know of it.';

create function lib.message(
  _notification_id uuid,
  _kind text,
  _channel obs.channel,
  _group_labels jsonb,
  _alerts jsonb,
  _firing int,
  _resolved int,
  _now timestamptz
)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'notification_id', _notification_id,
    'kind', _kind,
    'org', (select o.external_id from obs.org o where o.id = _channel.org_id),
    'channel', _channel.name,
    'status', case when _firing > 0 then 'firing' else 'resolved' end,
    'group_labels', _group_labels,
    'created_at', lib.rfc3339(_now),
    'summary', jsonb_build_object('firing', _firing, 'resolved', _resolved),
    'alerts', _alerts,
    'truncated_alerts', _firing + _resolved - jsonb_array_length(_alerts)
  )
$$;
comment on function lib.message is
  'What a notification says (jobs/channels/channel.ts, Message): _alerts are those of its alerts that it shows, the counts are of all of the group.';

create function lib.message_alert(_alert obs.alert, _now timestamptz)
returns jsonb
language sql
stable
as $$
  select lib.alert_fields(_alert, _now)::jsonb || jsonb_build_object(
    -- Whether it is over because all is well or because nothing is heard any more makes a difference.
    'description', nullif(concat_ws(' - ', _alert.description, case when _alert.status = 'resolved' then (
      select 'resolved: ' || e.note from obs.alert_event e where e.alert_id = _alert.id and e.event = 'resolved' order by e.id desc limit 1
    ) end), ''),
    'fingerprint', _alert.fingerprint,
    'rule_name', (select r.name from obs.alert_rule r where r.id = _alert.rule_id),
    'is_escalated', _alert.escalation_step > 0
  )
$$;
comment on function lib.message_alert is 'An alert as notifications show it: with the note of its end in the description.';

create function lib.flush_group(_group obs.notification_group, _channel obs.channel, _now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _most constant int := 100;
  -- Alertmanager forgets what it is not told again: acknowledged or not, and all of it.
  _is_forgetful constant boolean := _channel.type = 'alertmanager';
  _id constant uuid := gen_random_uuid();
  _mutes record;
  _changed record;
  _is_repeat boolean;
  _state record;
begin
  _mutes := lib.mute_members(_group, _now);
  for _changed in
    update obs.notification_member m
    set is_muted = not m.is_muted
    from obs.alert a
    where m.group_id = _group.id and m.is_muted <> (m.alert_id = any (_mutes.alert_ids)) and a.id = m.alert_id and a.status <> 'resolved'
    returning a as alert, m.is_muted
  loop
    perform lib.note_alert(
      _changed.alert, case when _changed.is_muted then 'muted' else 'unmuted' end, (_changed.alert).status, 'worker', null,
      jsonb_strip_nulls(jsonb_build_object(
        'channel', _channel.name,
        'by', case when _changed.is_muted then _mutes.names[array_position(_mutes.alert_ids, (_changed.alert).id)] end
      )),
      _now
    );
  end loop;
  _is_repeat := _group.notified_at + make_interval(secs => _channel.repeat_interval_seconds) <= _now;
  if _is_repeat and _is_forgetful then
    update obs.notification_member set is_urged = true where group_id = _group.id and sent_status is not null;
  end if;

  -- One statement, so that the message, the ledger and what is remembered of it are about the same moment: nothing keeps an alert from
  -- being acknowledged meanwhile.
  with member as materialized (
    select a as alert, m.is_urged, m.sent_status is not null as is_known,
      case
        when a.status = 'resolved' then m.sent_status is not null and _channel.send_resolved
        when a.status = 'firing' then m.sent_status is null or m.sent_severity <> a.severity or m.is_urged
        else _is_forgetful and m.is_urged
      end as is_new
    from obs.notification_member m
    join obs.alert a on a.id = m.alert_id
    where m.group_id = _group.id and m.alert_id <> all (_mutes.alert_ids)
  ),
  tellable as materialized (
    select m.*,
      -- What there is to tell before what was told before, and that before what could not be told the last time.
      row_number() over (
        order by m.is_new desc, m.is_urged, (m.alert).status = 'resolved', lib.severity_rank((m.alert).severity) desc, (m.alert).started_at, (m.alert).id
      ) as position
    from member m
    where m.is_new or m.is_known and (m.alert).status <> 'resolved'
  ),
  state as materialized (
    select
      count(*) filter (where (t.alert).status <> 'resolved')::int as firing,
      count(*) filter (where (t.alert).status = 'resolved')::int as resolved,
      count(*) filter (where t.is_new)::int as new,
      count(*) filter (where t.is_known and ((t.alert).status = 'firing' or _is_forgetful and (t.alert).status <> 'resolved'))::int as old
    from tellable t
  ),
  shown as materialized (
    select t.alert
    from tellable t
    cross join state s
    where t.position <= _most and (s.new > 0 or _is_repeat and s.old > 0)
  ),
  notification as (
    insert into obs.notification
      (id, org_id, channel_id, channel_name, channel_type, group_id, kind, payload, attempts_left, created_at, next_attempt_at)
    select
      _id, _group.org_id, _channel.id, _channel.name, _channel.type, _group.id, 'alert',
      lib.message(_id, 'alert', _channel, _group.labels, m.alerts, s.firing, s.resolved, _now), _channel.max_attempts, _now, _now
    from state s
    cross join (
      -- Those that fire before those that were resolved, the most severe of them first.
      select jsonb_agg(
        lib.message_alert(h.alert, _now)
        order by (h.alert).status = 'resolved', lib.severity_rank((h.alert).severity) desc, (h.alert).started_at, (h.alert).id
      ) as alerts
      from shown h
    ) as m
    where m.alerts is not null
  ),
  ledger as (
    insert into obs.notification_alert (notification_id, alert_id, org_id, status)
    select _id, (h.alert).id, (h.alert).org_id, (h.alert).status
    from shown h
  ),
  told as (
    update obs.notification_member m
    set sent_status = 'firing', sent_severity = (h.alert).severity, is_urged = false
    from shown h
    where m.group_id = _group.id and m.alert_id = (h.alert).id and (h.alert).status <> 'resolved'
  )
  select s.new, s.old, array(select (h.alert).id from shown h) as shown_ids, array(select (h.alert).id from shown h where (h.alert).status = 'resolved') as ended_ids
  into _state
  from state s;
  if cardinality(_state.shown_ids) > 0 then
    _group.notified_at := _now;
  end if;

  -- Resolved, and that was told, or is nobody's business.
  delete from obs.notification_member m
  using obs.alert a
  where m.group_id = _group.id and a.id = m.alert_id and a.status = 'resolved'
    and (m.sent_status is null or not _channel.send_resolved or m.alert_id = any (_state.ended_ids));

  update obs.notification_group g
  set
    notified_at = _group.notified_at,
    flush_at = case
      -- A message has room for so many, and another follows.
      when _state.new > _most then _now
      else least(
        -- Silences end early, and begin anew.
        case when _mutes.until is not null then least(_mutes.until, _now + interval '30 seconds') end,
        case when _state.new + _state.old > 0 then _group.notified_at + make_interval(secs => _channel.repeat_interval_seconds) end
      )
    end
  where g.id = _group.id;
end
$$;
comment on function lib.flush_group is
  'Makes the notification of a group, if there is something to tell: an alert that fires and that the channel does not know of, or not so '
  'severe; one that it knows and that is resolved; or all that still fire, after repeat_interval_seconds. Every alert is told of in some '
  'message; what was told before is left out where there is no room. What is muted is looked at again. '
  'Modelled on Alertmanager (dispatch/dispatch.go, notify/notify.go).';

create function lib.schedule_delivery(_group_id bigint, _now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _due record;
begin
  select g.org_id,
    least(
      g.flush_at,
      (
        select greatest(n.next_attempt_at, n.claimed_until)
        from obs.notification n
        where n.group_id = g.id and n.status = 'pending'
        order by n.created_at, n.id
        limit 1
      )
    ) as at
  into _due
  from obs.notification_group g
  where g.id = _group_id;
  if _due.at is not null then
    perform queue.notify(_due.org_id, _group_id, greatest(_due.at, _now));
  end if;
end
$$;
comment on function lib.schedule_delivery is 'Has a worker come back to a group when there is something to look at or to deliver.';

create function lib.settle_notification(_notification obs.notification, _status text, _error text, _now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  update obs.notification
  set status = _status, last_error = _error, next_attempt_at = null, claimed_until = null, settled_at = _now
  where id = _notification.id;
  if _status = 'delivered' then
    -- Whatever has been thought of it meanwhile: it is known now.
    update obs.notification_member m
    set sent_status = 'firing', sent_severity = coalesce(m.sent_severity, a.severity)
    from obs.notification_alert na
    join obs.alert a on a.id = na.alert_id
    where na.notification_id = _notification.id and na.status <> 'resolved'
      and m.alert_id = na.alert_id and m.sent_status is null
      and m.group_id in (select g.id from obs.notification_group g where g.channel_id = _notification.channel_id);
  else
    -- What still fires is told again, later: should the receiver be well by then it hears of it, and it does not hear of the end of
    -- something that it does not know.
    update obs.notification_member m
    set
      is_urged = true,
      sent_status = case when exists (
        select
        from obs.notification_alert na
        join obs.notification n on n.id = na.notification_id
        where na.alert_id = m.alert_id and n.channel_id = _notification.channel_id and na.status <> 'resolved'
          -- Told, about to be, or perhaps.
          and (
            n.status <> 'dead'
            or exists (select from obs.notification_attempt t where t.notification_id = n.id and t.is_delivered is null)
          )
      ) then m.sent_status end
    where m.group_id = _notification.group_id
      and m.alert_id in (select na.alert_id from obs.notification_alert na where na.notification_id = _notification.id);
    if found then
      -- Not at once: it would end like this. What has not been tried yet does not wait for that.
      update obs.notification_group g
      set flush_at = case
        when exists (
          select from obs.notification_member m where m.group_id = g.id and m.sent_status is null and not m.is_urged
        ) then least(g.flush_at, _now + interval '15 minutes')
        else _now + interval '15 minutes'
      end
      where g.id = _notification.group_id;
    end if;
    perform lib.note_alert(
      a, 'notification_failed', a.status, 'worker', null,
      jsonb_build_object('notification_id', _notification.id, 'channel', _notification.channel_name, 'error', _error), _now
    )
    from obs.notification_alert na
    join obs.alert a on a.id = na.alert_id
    where na.notification_id = _notification.id;
  end if;
end
$$;
comment on function lib.settle_notification is
  'Ends a notification, delivered or dead. That it was given up is told in the history of each of its alerts, and those that still fire are told '
  'again, in another, with the next word of the group or a quarter of an hour later.';

create function job.claim_notification(_group_id bigint, _notification_id uuid, _now timestamptz default now())
returns table (notification_id uuid, attempt int, type text, config jsonb, message jsonb, timeout_seconds float8, alert_ttl_seconds float8)
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _group obs.notification_group;
  _channel obs.channel;
  _notification obs.notification;
begin
  if _group_id is not null then
    -- The group's row is the lock under which it is flushed, and its notifications delivered one after the other.
    select * into _group from obs.notification_group g where g.id = _group_id for no key update;
    if not found then
      return;
    end if;
    select * into _channel from obs.channel c where c.id = _group.channel_id;
    if not _channel.is_enabled then
      update obs.notification_group set flush_at = null where id = _group_id;
    elsif _group.flush_at <= _now then
      perform lib.flush_group(_group, _channel, _now);
    end if;
  end if;
  loop
    if _group_id is not null then
      select * into _notification
      from obs.notification n
      where n.group_id = _group_id and n.status = 'pending'
      order by n.created_at, n.id
      limit 1
      for update;
    else
      select * into _notification from obs.notification n where n.id = _notification_id and n.status = 'pending' for update;
      select * into _channel from obs.channel c where c.id = _notification.channel_id;
    end if;
    exit when _notification.id is null;
    if _notification.claimed_until > _now then
      if _group_id is null then
        perform queue.send(_notification.org_id, _notification.id, _notification.claimed_until);
      end if;
      exit;
    end if;
    exit when _notification.next_attempt_at > _now;
    if _channel.id is null or not _channel.is_enabled and _notification.kind <> 'test' then
      perform lib.settle_notification(
        _notification, 'dead', case when _channel.id is null then 'the channel was deleted' else 'the channel is not enabled' end, _now
      );
      exit when _group_id is null;
      continue;
    end if;
    -- Its worker died with its last attempt.
    if _notification.attempts_left = 0 then
      perform lib.settle_notification(_notification, 'dead', coalesce(_notification.last_error, 'whether it arrived is not known'), _now);
      exit when _group_id is null;
      continue;
    end if;
    update obs.notification n
    set
      attempts = n.attempts + 1,
      attempts_left = n.attempts_left - 1,
      claimed_until = _now + make_interval(secs => _channel.timeout_seconds + 5)
    where n.id = _notification.id
    returning n.* into _notification;
    insert into obs.notification_attempt (notification_id, number, org_id, at)
    values (_notification.id, _notification.attempts, _notification.org_id, _now);
    return query
    select _notification.id, _notification.attempts, _channel.type, _channel.config, _notification.payload, _channel.timeout_seconds,
      4 * _channel.repeat_interval_seconds;
    exit;
  end loop;
  if _group_id is not null then
    perform lib.schedule_delivery(_group_id, _now);
  elsif _notification.status = 'pending' then
    perform queue.send(_notification.org_id, _notification.id, greatest(_notification.next_attempt_at, _notification.claimed_until));
  end if;
end
$$;
comment on function job.claim_notification is
  'The next notification of a group, or the one that belongs to none, that the caller is to deliver now; no row where there is none. What the '
  'group has to tell is gathered first. One of a group comes after the other. The job that looks again is added in the same transaction: should the '
  'caller die, the attempt stays without an end, and after its time another is made, with the same id.';

create function job.finish_attempt(
  _notification_id uuid,
  _number int,
  _is_delivered boolean,
  _response_code int,
  _latency_ms float8,
  _error text,
  _detail text,
  _is_permanent boolean,
  _retry_after_seconds float8,
  _now timestamptz default now()
)
returns text
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _notification obs.notification;
  _group_id bigint;
begin
  -- In the order of job.claim_notification.
  select n.group_id into _group_id from obs.notification n where n.id = _notification_id;
  perform 1 from obs.notification_group g where g.id = _group_id for no key update;
  select * into _notification from obs.notification n where n.id = _notification_id for update;
  if not found then
    return null;
  end if;
  update obs.notification_attempt
  set is_delivered = _is_delivered, response_code = _response_code, latency_ms = _latency_ms, error = _error, detail = _detail
  where notification_id = _notification_id and number = _number;
  -- Another may have taken over when this one took too long: what that one finds counts, but for a success.
  if _is_delivered and _notification.status <> 'delivered' then
    perform lib.settle_notification(_notification, 'delivered', null, _now);
  elsif _notification.status <> 'pending' or _notification.attempts <> _number then
    return _notification.status;
  elsif _is_permanent or _notification.attempts_left = 0 then
    perform lib.settle_notification(_notification, 'dead', _error, _now);
  else
    update obs.notification
    set
      last_error = _error,
      claimed_until = null,
      -- 1, 2, 4 s and so on, up to five minutes.
      next_attempt_at = _now + make_interval(secs => greatest(least(2.0 ^ least(_number - 1, 20), 300), _retry_after_seconds))
    where id = _notification_id;
  end if;
  if _group_id is not null then
    perform lib.schedule_delivery(_group_id, _now);
  else
    select * into _notification from obs.notification n where n.id = _notification_id;
    if _notification.status = 'pending' then
      perform queue.send(_notification.org_id, _notification_id, _notification.next_attempt_at);
    end if;
  end if;
  return (select n.status from obs.notification n where n.id = _notification_id);
end
$$;
comment on function job.finish_attempt is
  'Records how an attempt ended and what follows: the notification is delivered, or dead after its last attempt or a permanent error, or is '
  'tried again after 1, 2, 4 s and so on, five minutes at most, or _retry_after_seconds where that is more. Returns its status.';

create function job.heal_alerts(_now timestamptz default now())
returns int
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _late constant timestamptz := _now - interval '2 seconds';
  _evaluate_org_ids int[];
  _notify record;
begin
  _evaluate_org_ids := array(
    select t.org_id from obs.alert_rule_state t where t.next_evaluation_at < _late
    union
    select a.org_id from obs.alert a where a.escalate_at < _late
  );
  -- Some of each org, so that one with very many does not keep another's from being found.
  select array_agg(d.org_id order by d.position) as org_ids, array_agg(d.group_id order by d.position) as group_ids,
    array_agg(d.notification_id order by d.position) as notification_ids
  into _notify
  from (
    select u.org_id, u.group_id, u.notification_id, row_number() over (partition by u.org_id order by random()) as position
    from (
      select g.org_id, g.id as group_id, null::uuid as notification_id from obs.notification_group g where g.flush_at < _late
      union
      select n.org_id, n.group_id, case when n.group_id is null then n.id end
      from obs.notification n
      where n.status = 'pending' and n.next_attempt_at < _late and (n.claimed_until is null or n.claimed_until < _late)
        -- Those behind wait for it.
        and not exists (
          select
          from obs.notification b
          where b.group_id = n.group_id and b.status = 'pending' and (b.created_at, b.id) < (n.created_at, n.id)
        )
    ) as u
  ) as d
  where d.position <= 1000;
  return queue.heal_alerts(_evaluate_org_ids, _notify.org_ids, _notify.group_ids, _notify.notification_ids, _now);
end
$$;
comment on function job.heal_alerts is
  'Adds jobs that should be there and are not, since a worker died with them: of orgs whose rules or escalations are late, of groups and '
  'notifications that are. Returns how many.';

create function lib.notification_fields(_notification obs.notification)
returns json
language sql
stable
as $$
  select json_build_object(
    'id', _notification.id,
    'channel_id', _notification.channel_id,
    'channel', _notification.channel_name,
    'type', _notification.channel_type,
    'kind', _notification.kind,
    'status', _notification.status,
    'error', _notification.last_error,
    'group_labels', _notification.payload -> 'group_labels',
    'created_at', lib.rfc3339(_notification.created_at),
    'next_attempt_at', lib.rfc3339(_notification.next_attempt_at),
    'settled_at', lib.rfc3339(_notification.settled_at),
    'alerts', (
      select coalesce(json_agg(json_build_object('id', a.id, 'name', a.name, 'status', na.status) order by a.name, a.id), '[]')
      from obs.notification_alert na
      join obs.alert a on a.id = na.alert_id
      where na.notification_id = _notification.id
    ),
    'attempts', (
      select coalesce(json_agg(json_build_object(
        'number', t.number, 'at', lib.rfc3339(t.at), 'delivered', t.is_delivered, 'response_code', t.response_code,
        'latency_ms', round(t.latency_ms::numeric, 3), 'error', t.error, 'detail', t.detail
      ) order by t.number), '[]')
      from obs.notification_attempt t
      where t.notification_id = _notification.id
    )
  )
$$;
comment on function lib.notification_fields is 'A notification with its attempts, as the API shows it.';

create function api.list_notifications(
  _org_id int,
  _status text,
  _channel_id uuid,
  _alert_id uuid,
  _before_created_at timestamptz,
  _before_id uuid,
  _limit int
)
returns table (notifications json, next_created_at timestamptz, next_id uuid)
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  with page as materialized (
    select n.*::obs.notification as notification, row_number() over (order by n.created_at desc, n.id desc) as position
    from obs.notification n
    where n.org_id = _org_id
      and (_status is null or n.status = _status)
      and (_channel_id is null or n.channel_id = _channel_id)
      and (_alert_id is null or n.id in (select na.notification_id from obs.notification_alert na where na.alert_id = _alert_id))
      and (_before_created_at is null or (n.created_at, n.id) < (_before_created_at, _before_id))
    order by n.created_at desc, n.id desc
    limit _limit + 1
  ),
  last as (
    select (p.notification).created_at, (p.notification).id
    from page p
    where p.position = _limit and exists (select from page next where next.position > _limit)
  )
  select
    coalesce((select json_agg(lib.notification_fields(p.notification) order by p.position) from page p where p.position <= _limit), '[]'),
    (select l.created_at from last l),
    (select l.id from last l);
end
$$;
comment on function api.list_notifications is
  'The ledger of an org''s notifications, newest first, at most _limit; the next page comes after (next_created_at, next_id).';

create function api.get_notification(_org_id int, _id uuid)
returns table (notification json, message jsonb)
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return query
  select lib.notification_fields(n), n.payload from obs.notification n where n.id = _id and n.org_id = _org_id;
end
$$;
comment on function api.get_notification is 'A notification and what it says; no row where there is none.';

create function api.resend_notification(_org_id int, _id uuid, _actor text, _request jsonb default null)
returns json
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _notification obs.notification;
  _channel obs.channel;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  select * into _notification from obs.notification n where n.id = _id and n.org_id = _org_id for update;
  if not found then
    return null;
  end if;
  if _notification.status <> 'dead' then
    raise exception 'the notification is %, only one that is dead is sent again', _notification.status
      using errcode = 'PT409', hint = 'notification_status';
  end if;
  select * into _channel from obs.channel c where c.id = _notification.channel_id;
  if not found then
    raise exception 'its channel was deleted' using errcode = 'PT409', hint = 'channel_deleted';
  end if;
  update obs.notification n
  set status = 'pending', next_attempt_at = now(), settled_at = null, attempts_left = _channel.max_attempts, group_id = null
  where n.id = _id
  returning n.* into _notification;
  -- Its receiver is about to know of them, and then has to hear of the end.
  update obs.notification_member m
  set sent_status = 'firing', sent_severity = coalesce(m.sent_severity, a.severity)
  from obs.notification_alert na
  join obs.alert a on a.id = na.alert_id
  where na.notification_id = _id and na.status <> 'resolved' and m.alert_id = na.alert_id
    and m.group_id in (select g.id from obs.notification_group g where g.channel_id = _channel.id);
  perform lib.audit(
    _org_id, _actor, _request, 'notification.resend', 'notification', _id::text, null, jsonb_build_object('channel', _channel.name)
  );
  perform queue.send(_org_id, _id, now());
  return lib.notification_fields(_notification);
end
$$;
comment on function api.resend_notification is
  'Has a dead notification delivered after all, with all the attempts of its channel, and out of the order of its group. PT409 unless it is dead; null where there is none.';

create function api.test_channel(_org_id int, _id uuid, _actor text, _request jsonb default null)
returns table (notification_id uuid, timeout_seconds float8)
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _channel obs.channel;
  _notification_id constant uuid := gen_random_uuid();
begin
  perform set_config('obs.org_id', _org_id::text, true);
  select * into _channel from obs.channel c where c.id = _id and c.org_id = _org_id;
  if not found then
    return;
  end if;
  insert into obs.notification (id, org_id, channel_id, channel_name, channel_type, kind, payload, attempts_left, created_at, next_attempt_at)
  values (
    _notification_id, _org_id, _id, _channel.name, _channel.type, 'test',
    lib.message(
      _notification_id, 'test', _channel, jsonb_build_object(),
      jsonb_build_array(lib.alert_fields(
        jsonb_populate_record(null::obs.alert, jsonb_build_object(
          'id', _notification_id, 'name', 'Test', 'description', format('%s is testing the channel %s. All is well.', _actor, _channel.name),
          'severity', 'info', 'status', 'firing', 'source', 'api', 'labels', jsonb_build_object(), 'annotations', jsonb_build_object(),
          'metadata', jsonb_build_object(), 'started_at', now()
        )),
        now()
      )::jsonb || jsonb_build_object('fingerprint', 'test', 'rule_name', null, 'is_escalated', false)),
      1, 0, now()
    ),
    1, now(), now()
  );
  perform lib.audit(
    _org_id, _actor, _request, 'channel.test', 'channel', _id::text, null, jsonb_build_object('notification_id', _notification_id)
  );
  perform queue.send(_org_id, _notification_id, now());
  return query select _notification_id, _channel.timeout_seconds;
end
$$;
comment on function api.test_channel is
  'Has a worker send a test to a channel, once, whether it is enabled or not; api.get_notification tells how it went. No row where there is no such channel.';

create function job.purge_notifications(_now timestamptz default now())
returns int
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _purged int;
begin
  delete from obs.notification n where n.status <> 'pending' and n.settled_at < _now - interval '90 days';
  get diagnostics _purged = row_count;
  -- They come into being again with their next alert.
  delete from obs.notification_group g
  where g.flush_at is null and (g.notified_at is null or g.notified_at < _now - interval '1 day')
    and not exists (select from obs.notification_member m where m.group_id = g.id)
    and not exists (select from obs.notification n where n.group_id = g.id and n.status = 'pending');
  delete from obs.silence s where s.ends_at < _now - interval '90 days';
  return _purged;
end
$$;
comment on function job.purge_notifications is
  'Deletes notifications that were settled 90 days ago, and silences that ended then; returns how many notifications. Groups in which nothing is any more go too.';

create function job.list_channel_configs()
returns table (id uuid, org_id int, type text, config jsonb)
language sql
stable
security definer
set search_path = ''
as $$
  select c.id, c.org_id, c.type, c.config from obs.channel c order by c.id
$$;
comment on function job.list_channel_configs is 'The configurations of all channels, their secrets as they are sealed.';

create function job.replace_channel_config(_id uuid, _before jsonb, _after jsonb)
returns boolean
language plpgsql
volatile
security definer
set search_path = ''
as $$
begin
  update obs.channel c set config = _after where c.id = _id and c.config = _before;
  return found;
end
$$;
comment on function job.replace_channel_config is 'Replaces a channel''s configuration by the same, sealed anew; false where it is another by now.';
