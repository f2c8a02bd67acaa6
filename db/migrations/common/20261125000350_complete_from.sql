-- migrate:up
alter table obs.retention add column complete_from timestamptz not null default '-infinity';
comment on column obs.retention.complete_from is
  'What is older had been dropped when the retention was made longer: it does not come back, and must not be taken for empty.';

create function obs.note_longer_retention()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if new.keep > old.keep then
    new.complete_from := greatest(old.complete_from, public.time_bucket(interval '1 day', now() - old.keep));
  end if;
  return new;
end
$$;
comment on function obs.note_longer_retention() is 'Keeps obs.retention.complete_from.';
create trigger longer before update on obs.retention for each row execute function obs.note_longer_retention();

alter table obs.tier add column complete_from timestamptz not null default '-infinity';
comment on column obs.tier.complete_from is
  'What is older was never rolled up: there were no raw samples of it any more when the tier was made.';

create function obs.kept_from(_table_name text, _now timestamptz)
returns timestamptz
language sql
stable
as $$
  select greatest(
    (select greatest(public.time_bucket(interval '1 day', _now - r.keep), r.complete_from) from obs.retention r where r.table_name = _table_name),
    (select t.complete_from from obs.tier t where 'sample_' || t.name = _table_name),
    '-infinity'
  )
$$;
comment on function obs.kept_from(text, timestamptz) is
  'From when on a table of obs has all its rows, the start of a day (UTC), see obs.retention and obs.tier; -infinity: for ever. '
  'Whole days are kept so that a bucket of any tier can be rolled up again as long as samples may come for it.';

create function obs.bucket_ceiling(_width interval, _time timestamptz)
returns timestamptz
language sql
immutable
parallel safe
as $$
  select public.time_bucket(_width, _time + _width - interval '1 microsecond')
$$;
comment on function obs.bucket_ceiling(interval, timestamptz) is 'Start of the first bucket that begins at _time or later.';

create function obs.note_new_tier()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  new.complete_from := greatest(new.complete_from, obs.kept_from('sample', now()));
  return new;
end
$$;
comment on function obs.note_new_tier() is 'Sets obs.tier.complete_from.';
create trigger new_tier before insert on obs.tier for each row execute function obs.note_new_tier();
-- Those that were made just now.
update obs.tier set complete_from = obs.kept_from('sample', now()) where holds_histograms;

-- migrate:down
drop trigger new_tier on obs.tier;
drop function obs.note_new_tier();
drop function obs.bucket_ceiling(interval, timestamptz);
drop function obs.kept_from(text, timestamptz);
drop trigger longer on obs.retention;
drop function obs.note_longer_retention();
alter table obs.retention drop column complete_from;
alter table obs.tier drop column complete_from;
