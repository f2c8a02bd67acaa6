-- migrate:up
-- What is secret of a channel's configuration, or may hold a secret, is sealed: sealed:<key>:<base64>:<what may be shown>. Key 0 is none: such
-- a value is encrypted by the next worker that has a key.
create function obs.sealed(_value text, _shown text)
returns text
language sql
immutable
as $$
  select case
    -- It is already, where this was undone once.
    when _value ~ '^sealed:[0-9a-f]{8}:[A-Za-z0-9+/=]+:' then _value
    else 'sealed:0:' || translate(encode(convert_to(_value, 'UTF8'), 'base64'), E'\n', '') || ':' || _shown
  end
$$;
create function obs.seal_config(_type text, _config jsonb)
returns jsonb
language sql
immutable
as $$
  select jsonb_object_agg(
    c.key,
    case
      when c.key = 'headers' then (select coalesce(jsonb_object_agg(h.key, obs.sealed(h.value #>> '{}', '••••')), '{}') from jsonb_each(c.value) as h)
      when c.key in ('secret', 'password', 'bearer_token') then to_jsonb(obs.sealed(c.value #>> '{}', '••••'))
      when c.key in ('url', 'smtp_url') and (_type <> 'alertmanager' or c.value #>> '{}' ~ '[@?]') then to_jsonb(obs.sealed(
        c.value #>> '{}',
        coalesce(substring(c.value #>> '{}' from '^[a-z]+://') || substring(c.value #>> '{}' from '^[a-z]+://(?:[^/?#]*@)?([^/?#@]*)'), '') || '/••••'
      ))
      else c.value
    end
  )
  from jsonb_each(_config) as c
$$;
update obs.channel set config = obs.seal_config(type, config) where config <> '{}';
drop function obs.seal_config(text, jsonb);
drop function obs.sealed(text, text);

-- migrate:down
-- What is encrypted stays so: its key is not here.
create function obs.unsealed(_value jsonb)
returns jsonb
language sql
immutable
as $$
  select case
    when _value #>> '{}' ~ '^sealed:0:' then to_jsonb(convert_from(decode(split_part(_value #>> '{}', ':', 3), 'base64'), 'UTF8'))
    else _value
  end
$$;
update obs.channel
set config = (
  select jsonb_object_agg(
    c.key,
    case jsonb_typeof(c.value)
      when 'object' then (select coalesce(jsonb_object_agg(h.key, obs.unsealed(h.value)), '{}') from jsonb_each(c.value) as h)
      else obs.unsealed(c.value)
    end
  )
  from jsonb_each(config) as c
)
where config <> '{}';
drop function obs.unsealed(jsonb);
