-- migrate:up
alter table obs.tier drop constraint tier_width_key;
alter table obs.tier add column holds_histograms boolean not null default false;
comment on column obs.tier.holds_histograms is
  'Rows hold a histogram of the values (sample_hist_1h, sample_hist_1d) instead of aggregates of them.';
alter table obs.tier add column holds_percentiles boolean not null default false;
comment on column obs.tier.holds_percentiles is 'Rows hold the exact p50, p90, p95 and p99 of their samples.';
update obs.tier set holds_percentiles = true where name in ('1h', '1d');
insert into obs.tier (name, width, lag, holds_histograms) values
  ('hist_1h', '1 hour', '15 minutes', true),
  ('hist_1d', '1 day', '30 minutes', true);
insert into obs.retention (table_name, keep) values ('sample_hist_1h', interval '400 days');

-- Neither strict nor with a search path: PostgreSQL would not inline them, and each sample is passed through both.
create function obs.histogram_bin(_value float8)
returns int
language sql
immutable
parallel safe
as $$
  select least(ceil(ln(_value) / ln(1.01::float8 / 0.99)), 10920)::int
$$;
comment on function obs.histogram_bin(float8) is
  'Bin of a value above 1e-11: the b with γ^(b-1) < value <= γ^b, γ = 1.01/0.99. Then 2γ^b/(γ+1) is within 1 % of the '
  'value (DDSketch: Masson, Rim and Lee, 2019, https://arxiv.org/abs/1908.10693). Values above 7e94 share the last bin.';

create function obs.histogram_digit(_value float8)
returns numeric
language sql
immutable
parallel safe
as $$
  select ('1e' || 12 * obs.histogram_bin(_value))::numeric
$$;
comment on function obs.histogram_digit(float8) is
  'A histogram of one value: a number in base 10^12 whose digit at place b, below the point where b is negative, is the count '
  'of bin b. So sum() makes a histogram of values and merges histograms, at the speed of an addition; a bin would overflow '
  'into the next at 10^12 samples. Read with lib.histogram_percentile.';

-- migrate:down
drop function obs.histogram_digit(float8);
drop function obs.histogram_bin(float8);
delete from obs.retention where table_name = 'sample_hist_1h';
delete from obs.tier where holds_histograms;
alter table obs.tier drop column holds_percentiles;
alter table obs.tier drop column holds_histograms;
alter table obs.tier add constraint tier_width_key unique (width);
