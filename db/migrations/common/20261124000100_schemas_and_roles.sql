-- migrate:up
-- Roles belong to the whole server, so another database may have made them already.
-- obs_api, obs_worker and obs_queue log in (db/migrate.ts sets their passwords); the definers only own
-- functions. None of them owns a table, so row-level security binds all of them.
do $$
declare
  _role text;
begin
  foreach _role in array array['obs_api', 'obs_worker', 'obs_queue', 'obs_api_definer', 'obs_job_definer'] loop
    if not exists (select from pg_catalog.pg_roles where rolname = _role) then
      execute format('create role %I nosuperuser nocreatedb nocreaterole nobypassrls', _role);
    end if;
    if _role in ('obs_api', 'obs_worker', 'obs_queue') then
      execute format('alter role %I login', _role);
    end if;
    -- Handing a function to its definer takes membership, which a superuser has and others have to be given.
    if not (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
      execute format('grant %I to current_user with inherit true, set true', _role);
    end if;
  end loop;
end
$$;

create schema obs;
comment on schema obs is 'State: tables, hypertables and tiers. Changed by migrations only.';
grant usage on schema obs to obs_api, obs_worker, obs_api_definer, obs_job_definer;

-- graphile-worker's tables have row-level security without policies, so they answer to their owner alone.
create schema if not exists graphile_worker authorization obs_queue;

-- migrate:down
drop schema if exists graphile_worker cascade;
drop schema obs cascade;
