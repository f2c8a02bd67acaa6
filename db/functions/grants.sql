-- Runs last: owners and grants by schema.
do $$
declare
  _function record;
begin
  for _function in
    select
      n.nspname as schema_name,
      p.oid::regprocedure as signature,
      case n.nspname when 'api' then 'obs_api_definer' when 'job' then 'obs_job_definer' else 'obs_queue' end as owner
    from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where n.nspname in ('api', 'job', 'queue')
  loop
    -- A new owner must be able to create in the schema at the moment it is handed the function.
    execute format('grant usage, create on schema %I to %I', _function.schema_name, _function.owner);
    execute format('alter function %s owner to %I', _function.signature, _function.owner);
    execute format('revoke create on schema %I from %I', _function.schema_name, _function.owner);
  end loop;
end
$$;

revoke all on all functions in schema api, job, lib, queue from public;

grant usage on schema api to obs_api;
grant execute on all functions in schema api to obs_api;
grant usage on schema job to obs_worker;
grant execute on all functions in schema job to obs_worker;
grant usage on schema lib to obs_api_definer, obs_job_definer;
grant execute on all functions in schema lib to obs_api_definer, obs_job_definer;
grant usage on schema queue to obs_api_definer, obs_job_definer;
grant execute on all functions in schema queue to obs_api_definer, obs_job_definer;
