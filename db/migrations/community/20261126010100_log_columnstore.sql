-- migrate:up
-- The columnstore has no index of words: searches read it from the newest line back. The last two days are the ones searched most.
alter table obs.log set (
  timescaledb.enable_columnstore,
  timescaledb.segmentby = 'log_stream_id',
  timescaledb.orderby = 'time desc'
);
call public.add_columnstore_policy('obs.log', after => interval '2 days');

-- migrate:down
call public.remove_columnstore_policy('obs.log');
alter table obs.log set (timescaledb.enable_columnstore = false);
