-- Runs first: the schemas that hold functions, dropped and made anew on every migrate. Nothing in obs may
-- depend on them. Who owns and who may call a function follows from its schema: see grants.sql.
drop schema if exists api, job, lib, queue cascade;

create schema api;
comment on schema api is 'What HTTP may call. Security definer as obs_api_definer; every function takes the org first and sees that org alone.';

create schema job;
comment on schema job is 'What the worker may call. Security definer as obs_job_definer, which sees all orgs.';

create schema lib;
comment on schema lib is 'Shared by api and job, out of reach for the login roles. Runs with the rights of its caller.';

create schema queue;
comment on schema queue is 'Wrappers of graphile-worker''s functions, security definer as obs_queue, for functions of api and job to add jobs in their own transaction.';
