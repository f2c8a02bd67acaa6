-- migrate:up
alter table obs.probe_result set (
  timescaledb.enable_columnstore,
  timescaledb.segmentby = 'service_id',
  timescaledb.orderby = 'time',
  timescaledb.compress_chunk_time_interval = '7 days'
);
call public.add_columnstore_policy('obs.probe_result', after => interval '7 days');

-- migrate:down
call public.remove_columnstore_policy('obs.probe_result');
alter table obs.probe_result set (timescaledb.enable_columnstore = false);
