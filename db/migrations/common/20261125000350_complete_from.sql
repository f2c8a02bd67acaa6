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
    new.complete_from := greatest(old.complete_from, now() - old.keep);
  end if;
  return new;
end
$$;
comment on function obs.note_longer_retention() is 'Keeps obs.retention.complete_from.';
create trigger longer before update on obs.retention for each row execute function obs.note_longer_retention();

create function obs.kept_from(_table_name text, _now timestamptz)
returns timestamptz
language sql
stable
as $$
  select coalesce(
    (select greatest(_now - r.keep, r.complete_from) from obs.retention r where r.table_name = _table_name),
    '-infinity'
  )
$$;
comment on function obs.kept_from(text, timestamptz) is
  'From when on a table of obs has all its rows, see obs.retention; -infinity: for ever.';

-- migrate:down
drop function obs.kept_from(text, timestamptz);
drop trigger longer on obs.retention;
drop function obs.note_longer_retention();
alter table obs.retention drop column complete_from;
