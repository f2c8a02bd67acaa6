-- migrate:up
-- job.refresh_dirty_ranges locks the rows that it is about to work off, which takes the right to update them.
grant update on obs.dirty_range to obs_job_definer;

-- migrate:down
revoke update on obs.dirty_range from obs_job_definer;
