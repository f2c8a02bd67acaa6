-- migrate:up
create materialized view obs.sample_hist_1h
with (timescaledb.continuous, timescaledb.materialized_only = false, timescaledb.create_group_indexes = false) as
  select
    public.time_bucket(interval '1 hour', time) as bucket,
    series_id,
    count(*) as count,
    min(value) as min,
    max(value) as max,
    count(*) filter (where abs(value) <= 1e-11) as zero_count,
    sum(obs.histogram_digit(value)) filter (where value > 1e-11) as positive,
    sum(obs.histogram_digit(-value)) filter (where value < -1e-11) as negative
  from obs.sample
  group by 1, 2
with no data;
select public.set_chunk_time_interval('obs.sample_hist_1h', interval '30 days');
create index on obs.sample_hist_1h (series_id, bucket);
comment on view obs.sample_hist_1h is
  'Histograms of a series in buckets of 1 hour: positive and negative values (by magnitude) as sums of obs.histogram_digit, '
  'null for none, and the number of values that are 0 (to 1e-11). A real-time continuous aggregate.';

create materialized view obs.sample_hist_1d
with (timescaledb.continuous, timescaledb.materialized_only = false, timescaledb.create_group_indexes = false) as
  select
    public.time_bucket(interval '1 day', bucket) as bucket,
    series_id,
    sum(count)::bigint as count,
    min(min) as min,
    max(max) as max,
    sum(zero_count)::bigint as zero_count,
    sum(positive) as positive,
    sum(negative) as negative
  from obs.sample_hist_1h
  group by 1, 2
with no data;
select public.set_chunk_time_interval('obs.sample_hist_1d', interval '1 year');
create index on obs.sample_hist_1d (series_id, bucket);
comment on view obs.sample_hist_1d is
  'Histograms of a series in buckets of 1 day, from those of 1 hour: a real-time, hierarchical continuous aggregate; columns '
  'as obs.sample_hist_1h.';

-- Gives the new aggregates their refresh and retention policies.
select obs.set_retention(table_name, keep) from obs.retention where table_name in ('sample', 'sample_hist_1h');

-- migrate:down
drop materialized view obs.sample_hist_1d;
drop materialized view obs.sample_hist_1h;
