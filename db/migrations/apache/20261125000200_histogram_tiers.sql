-- migrate:up
-- Rolled up and read as the other tiers are: hypertables *_rolled and views that add what is not rolled up yet.
create table obs.sample_hist_1h_rolled (
  bucket timestamptz not null,
  series_id int not null,
  count bigint not null,
  min float8 not null,
  max float8 not null,
  zero_count bigint not null,
  positive numeric,
  negative numeric
);
comment on table obs.sample_hist_1h_rolled is 'Histograms of a series in buckets of 1 hour, as far as they are rolled up. Read obs.sample_hist_1h.';
select public.create_hypertable('obs.sample_hist_1h_rolled', public.by_range('bucket', interval '30 days'), create_default_indexes => false);
create index sample_hist_1h_rolled_series_id_bucket on obs.sample_hist_1h_rolled (series_id, bucket);

create view obs.sample_hist_1h as
  select bucket, series_id, count, min, max, zero_count, positive, negative
  from obs.sample_hist_1h_rolled
  where bucket < obs.tier_watermark('hist_1h')
  union all
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
  where time >= obs.tier_watermark('hist_1h')
  group by 1, 2;
comment on view obs.sample_hist_1h is
  'Histograms of a series in buckets of 1 hour, rolled up or not yet: positive and negative values (by magnitude) as sums of '
  'obs.histogram_digit, null for none, and the number of values that are 0 (to 1e-11).';

create table obs.sample_hist_1d_rolled (
  bucket timestamptz not null,
  series_id int not null,
  count bigint not null,
  min float8 not null,
  max float8 not null,
  zero_count bigint not null,
  positive numeric,
  negative numeric
);
comment on table obs.sample_hist_1d_rolled is 'Histograms of a series in buckets of 1 day, as far as they are rolled up. Read obs.sample_hist_1d.';
select public.create_hypertable('obs.sample_hist_1d_rolled', public.by_range('bucket', interval '1 year'), create_default_indexes => false);
create index sample_hist_1d_rolled_series_id_bucket on obs.sample_hist_1d_rolled (series_id, bucket);

-- Taken from the hours, of which it is the sum.
create view obs.sample_hist_1d as
  select bucket, series_id, count, min, max, zero_count, positive, negative
  from obs.sample_hist_1d_rolled
  where bucket < obs.tier_watermark('hist_1d')
  union all
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
  where bucket >= obs.tier_watermark('hist_1d')
  group by 1, 2;
comment on view obs.sample_hist_1d is 'Histograms of a series in buckets of 1 day, rolled up or not yet; columns as obs.sample_hist_1h.';


-- migrate:down
drop view obs.sample_hist_1d;
drop table obs.sample_hist_1d_rolled;
drop view obs.sample_hist_1h;
drop table obs.sample_hist_1h_rolled;
