create function api.ensure_log_streams(_org_id int, _service_names text[], _levels text[])
returns int[]
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _ids int[];
  _missing int;
  _count int;
  _limit int;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  -- Twice at most, as lib.ensure_series.
  loop
    select array_agg(s.id order by w.position), count(distinct (w.service_name, w.level)) filter (where s.id is null)
    into _ids, _missing
    from unnest(_service_names, _levels) with ordinality as w (service_name, level, position)
    left join obs.log_stream s
      on s.org_id = _org_id and s.service_name = w.service_name and s.level = w.level::obs.log_level;

    exit when _missing = 0;

    if _count is null then
      select o.log_stream_count, lib.limit_of(o, 'log_streams') into _count, _limit from obs.org o where o.id = _org_id for no key update;
      if not found then
        raise exception 'there is no org %', _org_id using errcode = '23503';
      end if;
      continue;
    end if;

    if _count + _missing > _limit then
      raise exception 'the org has % of at most % log streams (a service and a level each), and this request would add %',
        _count, _limit, _missing
        using errcode = 'PT422', hint = 'cardinality_limit';
    end if;

    insert into obs.log_stream (org_id, service_name, level)
    select distinct _org_id, w.service_name, w.level::obs.log_level
    from unnest(_service_names, _levels) as w (service_name, level)
    where not exists (
      select from obs.log_stream s
      where s.org_id = _org_id and s.service_name = w.service_name and s.level = w.level::obs.log_level
    );
    update obs.org set log_stream_count = log_stream_count + _missing where id = _org_id;
  end loop;
  return _ids;
end
$$;
comment on function api.ensure_log_streams is
  'Ids of the log streams of an org that services and levels, arrays of one length, name, in their order. Makes those that are '
  'missing. Raises PT422 (cardinality_limit) when that would pass the org''s limit of log streams, 23503 when there is no such org; '
  'then none is made.';

create function api.reserve_log_ids(out first_id bigint, out last_id bigint)
language sql
volatile
security definer
set search_path = ''
as $$
  select n.id, n.id + s.increment_by - 1
  from (select nextval('obs.log_line_id') as id) as n
  cross join pg_catalog.pg_sequences s
  where s.schemaname = 'obs' and s.sequencename = 'log_line_id'
$$;
comment on function api.reserve_log_ids is 'A block of ids for log lines that no one else has.';

create function api.announce_logs(_arrivals jsonb)
returns bigint
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _position bigint;
begin
  -- Held until the commit, so that positions become visible in their order.
  perform pg_advisory_xact_lock(hashtext('obs.log_arrival'));
  _position := nextval('obs.log_position');
  insert into obs.log_arrival (position, org_id, log_stream_id, minute, line_count, byte_count, first_id, last_id, oldest, newest)
  select _position, a.org_id, a.log_stream_id, a.minute, a.line_count, a.byte_count, a.first_id, a.last_id, a.oldest, a.newest
  from jsonb_to_recordset(_arrivals) as a (
    org_id int, log_stream_id int, minute timestamptz, line_count int, byte_count int,
    first_id bigint, last_id bigint, oldest timestamptz, newest timestamptz
  );
  perform pg_notify('obs_log', case when length(o.org_ids) < 7900 then o.org_ids else '*' end)
  from (select string_agg(distinct a ->> 'org_id', ',') as org_ids from jsonb_array_elements(_arrivals) as a) as o;
  return _position;
end
$$;
comment on function api.announce_logs is
  'Tells of the lines of a flush, at the end of the transaction that writes them: an array of {org_id, log_stream_id, minute, '
  'line_count, byte_count, first_id, last_id, oldest, newest} for obs.log_arrival. Notifies channel obs_log, at the commit, with the ids of '
  'the orgs, or *. Returns the flush''s position. A flush holds lines of many orgs. To be followed by the commit without a '
  'pause: until then no other flush is announced.';

create function lib.query_terms(_q text)
returns table ("position" bigint, is_unwanted boolean, is_or boolean, term text)
language sql
immutable
as $$
  select t.ordinality, t.parts[1] <> '', t.parts[1] = '' and coalesce(lower(t.parts[3]) = 'or', false), coalesce(t.parts[2], t.parts[3])
  from regexp_matches(_q, '(-?)(?:"([^"]*)"|([^\s"]+))', 'g') with ordinality as t (parts)
$$;
comment on function lib.query_terms(text) is
  'The terms of a full text search: words and "phrases", of which -some are not wanted, and or between them.';

create function lib.log_query(_q text)
returns tsquery
language sql
immutable
as $$
  -- A word that punctuation divides becomes a phrase, as websearch_to_tsquery makes of those that PostgreSQL divides.
  select websearch_to_tsquery('pg_catalog.simple', string_agg(
    case when t.is_or then 'or' else case when t.is_unwanted then '-' else '' end || '"' || obs.log_text(t.term) || '"' end,
    ' ' order by t.position
  ))
  from lib.query_terms(_q) t
$$;
comment on function lib.log_query(text) is
  'What a full text search asks of obs.log_words: words, "a phrase", or, -without, as websearch_to_tsquery '
  '(https://www.postgresql.org/docs/17/textsearch-controls.html).';

create function lib.mark_matches(_message text, _q text)
returns text
language sql
immutable
as $$
  select ts_headline(
    'pg_catalog.simple',
    translate(obs.log_text(_message), '>', ' '),
    -- What is not wanted is left out: it would be marked, too.
    lib.log_query((
      select string_agg('"' || t.term || '"', ' or ' order by t.position)
      from lib.query_terms(_q) t
      where not t.is_unwanted and not t.is_or
    )),
    'HighlightAll=true, StartSel=<, StopSel=>'
  )
$$;
comment on function lib.mark_matches is
  'obs.log_text of a message, without > and words of more than 2046 bytes, with < and > around what a full text search looks for.';

create function lib.contains_pattern(_text text)
returns text
language sql
immutable
as $$
  select '%' || regexp_replace(_text, '([\\%_])', '\\\1', 'g') || '%'
$$;
comment on function lib.contains_pattern(text) is 'Pattern for ilike that finds a text anywhere, its special characters taken as they are.';

create function lib.log_query_pattern(_q text)
returns text
language sql
immutable
as $$
  select case
    -- Either side of an "or" may be missing.
    when not exists (select from lib.query_terms(_q) t where t.is_or) then (
      select lib.contains_pattern(word)
      from lib.query_terms(_q) t
      cross join lateral regexp_split_to_table(t.term, '[^[:alnum:]]+') as word
      where not t.is_unwanted and word <> ''
      order by length(word) desc
      limit 1
    )
  end
$$;
comment on function lib.log_query_pattern(text) is
  'The longest word that every line has that a full text search finds, as a pattern for ilike, which rules out a line at a tenth of what its '
  'words cost; null where there is none.';

create function lib.metadata_query(_metadata jsonb)
returns jsonpath
language sql
immutable
as $$
  select string_agg(c.condition, ' && ')::jsonpath
  from (
    select '(' || string_agg(p.path || ' == ' || v.literal, ' || ') || ')' as condition
    from jsonb_each_text(_metadata) as m
    cross join lateral (
      select '$.' || to_json(m.key)::text as path
      union
      select '$.' || string_agg(to_json(part)::text, '.') from regexp_split_to_table(m.key, '\.') as part
      having bool_and(part <> '')
    ) as p
    cross join lateral (
      select to_json(m.value)::text as literal
      union
      select m.value where m.value ~ '^(true|false|null|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?)$'
    ) as v
    group by m.key
  ) as c
$$;
comment on function lib.metadata_query(jsonb) is
  'What metadata filters ask, {key: text}, as a jsonpath predicate: each key has that value, be it text, number, true, false or null, or '
  'is a list with it. A key with dots is a key as it stands (http.status_code) or one inside another.';

create function lib.log_matches(
  _words tsvector,
  _message text,
  _metadata jsonb,
  _trace_id text,
  _wanted_query tsquery,
  _wanted_pattern text,
  _wanted_text text,
  _wanted_metadata jsonpath,
  _wanted_trace_id text
)
returns boolean
language sql
immutable
as $$
  select (_wanted_trace_id is null or _trace_id = _wanted_trace_id)
    and (_wanted_text is null or _message ilike _wanted_text)
    and (_wanted_pattern is null or _message ilike _wanted_pattern)
    and (_wanted_metadata is null or _metadata @@ _wanted_metadata)
    and (_wanted_query is null or _words @@ _wanted_query)
$$;
comment on function lib.log_matches is
  'Whether a line, its words by obs.log_words, is one that a filter asks for, see lib.read_log_filter; null where a part does not apply. '
  'Inlined, so that an index can answer.';

create function lib.read_log_filter(
  _filter jsonb,
  out service_name text,
  out min_level obs.log_level,
  out query tsquery,
  out query_pattern text,
  out text_pattern text,
  out metadata_query jsonpath,
  out trace_id text
)
language sql
immutable
as $$
  select
    _filter ->> 'service_name',
    coalesce(_filter ->> 'level', 'trace')::obs.log_level,
    lib.log_query(_filter ->> 'q'),
    lib.log_query_pattern(_filter ->> 'q'),
    lib.contains_pattern(_filter ->> 'contains'),
    lib.metadata_query(_filter -> 'metadata'),
    _filter ->> 'trace_id'
$$;
comment on function lib.read_log_filter is
  'A filter of log lines, {service_name?, level?, q?, contains?, metadata?: {key: text}, trace_id?}, as what lib.log_matches takes.';

create function lib.log_line(
  _time timestamptz,
  _received_at timestamptz,
  _id bigint,
  _service_name text,
  _level obs.log_level,
  _message text,
  _metadata jsonb,
  _trace_id text,
  _span_id text
)
returns text
language sql
stable
as $$
  select '{"id":"' || (extract(epoch from _time) * 1000000)::bigint || '-' || _id
    || '","timestamp":"' || lib.rfc3339_micros(_time)
    || '","received_at":"' || lib.rfc3339_micros(_received_at)
    || '","service_name":' || to_json(_service_name)::text
    || ',"level":"' || _level
    || '","message":' || to_json(_message)::text
    || ',"metadata":' || coalesce(_metadata::text, '{}')
    || ',"trace_id":' || coalesce(to_json(_trace_id)::text, 'null')
    || ',"span_id":' || coalesce(to_json(_span_id)::text, 'null')
    || '}'
$$;
comment on function lib.log_line is
  'A line as JSON, as the API answers it. Its id tells where it is: microseconds since 1970, and the id among lines of that time.';

create function lib.find_log_streams(_org_id int, _service_name text, _min_level obs.log_level)
returns int[]
language sql
stable
as $$
  select array(
    select s.id
    from obs.log_stream s
    where s.org_id = _org_id
      and s.level >= _min_level
      and (_service_name is null or s.service_name = _service_name)
  )
$$;
comment on function lib.find_log_streams is 'Ids of the log streams of a service of an org, or of all (null), at a level and above.';

create function lib.list_log_chunks()
returns table (range_start timestamptz, range_end timestamptz, is_compressed boolean)
language plpgsql
stable
set search_path = ''
-- Planning the view takes longer than reading it.
set plan_cache_mode = 'force_generic_plan'
as $$
begin
  return query
  select c.range_start, c.range_end, c.is_compressed
  from timescaledb_information.chunks c
  where c.hypertable_schema = 'obs' and c.hypertable_name = 'log';
end
$$;
comment on function lib.list_log_chunks is 'The chunks of obs.log; is_compressed: in the columnstore.';

create function lib.count_log_lines(_stream_ids int[], _start timestamptz, _end timestamptz)
returns table (log_stream_id int, minute timestamptz, line_count bigint)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
begin
  return query
  select c.log_stream_id, c.bucket, c.line_count
  from obs.log_1m c
  where c.log_stream_id = any (_stream_ids) and c.bucket >= _start and c.bucket < _end
  union all
  select a.log_stream_id, a.minute, a.line_count::bigint
  from obs.log_arrival a
  where a.position > (select c.position from obs.log_counted c)
    and a.log_stream_id = any (_stream_ids) and a.minute >= _start and a.minute < _end;
end
$$;
comment on function lib.count_log_lines is
  'Numbers of lines of streams, by minutes that begin in [_start, _end), to be added up: counted ones and those that have just arrived.';

create function lib.lines_back(_stream_ids int[], _from timestamptz, _before timestamptz, _count bigint)
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
declare
  _span interval;
  _minute record;
  _minute_end timestamptz;
begin
  -- Most often the last minutes tell; the counts of a day of many services are some hundred thousand.
  foreach _span in array array['10 minutes', '3 hours', '2 days', '400 days']::interval[] loop
    select c.* into _minute
    from (
      select m.minute, sum(m.line_count) as line_count,
        sum(sum(m.line_count)) over (order by m.minute desc) - sum(m.line_count) as later_count
      from lib.count_log_lines(_stream_ids, date_trunc('minute', greatest(_from, _before - _span)), _before) as m
      group by m.minute
    ) as c
    where c.later_count < _count
    order by c.minute
    limit 1;
    if _minute.later_count + _minute.line_count >= _count then
      _minute_end := least(_before, _minute.minute + interval '1 minute');
      return greatest(_from, least(
        _before - interval '1 microsecond',
        case
          -- Some part of a busy minute, as if its lines were spread evenly over it.
          when _minute.line_count > _count
            then _minute_end - interval '1 minute' * ((_count - _minute.later_count) / _minute.line_count)::float8
          else _minute.minute
        end
      ));
    end if;
    exit when _before - _span <= _from;
  end loop;
  return _from;
end
$$;
comment on function lib.lines_back is
  'About where the last _count lines of streams in [_from, _before) begin, before _before at any rate, by the '
  'counts of whole minutes; _from when there are not so many.';

create function lib.find_logs(
  _org_id int,
  _filter jsonb,
  _start timestamptz,
  _end timestamptz,
  _before_time timestamptz,
  _before_id bigint,
  _limit int,
  _seconds float8,
  out lines obs.log[],
  out until_time timestamptz,
  out until_id bigint
)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _wanted record;
  _stream_ids int[];
  _streams tsquery;
  _indexed_query tsquery;
  _chunk_starts timestamptz[];
  _from timestamptz;
  _bound timestamptz;
  _indexed_from timestamptz;
  _is_indexed boolean;
  _step bigint;
  _looked_at bigint := 0;
  _started_at timestamptz;
  _kept int;
begin
  lines := '{}';
  select * into _wanted from lib.read_log_filter(_filter);
  _stream_ids := lib.find_log_streams(_org_id, _wanted.service_name, _wanted.min_level);
  -- As far as there are chunks.
  select array_agg(c.range_start order by c.range_start desc),
    greatest(_start, lib.org_kept_from(_org_id), min(c.range_start)),
    -- Lines of that very time are still to come, unless the page before ended between two times.
    least(_end, _before_time + case when _before_id > 0 then interval '1 microsecond' else interval '0' end, max(c.range_end)),
    -- The columnstore has no index of words or of metadata. It has a filter of trace ids.
    coalesce(max(c.range_end) filter (where c.is_compressed and _wanted.trace_id is null), '-infinity')
  into _chunk_starts, _from, _bound, _indexed_from
  from lib.list_log_chunks() c;
  if _chunk_starts is null or _from >= _bound or cardinality(_stream_ids) = 0 then
    return;
  end if;
  _is_indexed := _wanted.trace_id is not null or _wanted.metadata_query is not null or coalesce(querytree(_wanted.query), '') not in ('', 'T');

  -- By the index the words are looked for together with those of the streams.
  _indexed_query := _wanted.query;
  if _wanted.trace_id is null and cardinality(_stream_ids) <= 500 then
    _streams := (select string_agg('''#' || id || '''', '|') from unnest(_stream_ids) as id)::tsquery;
    _indexed_query := coalesce(_wanted.query && _streams, _streams);
  end if;

  -- Everything is looked for among the newest lines first: what is common is found there, while the index would have to list
  -- every line that has it. A trace is as quick wherever it is.
  _step := case when _wanted.trace_id is not null then 0 else 500 end;
  while _from < _bound and cardinality(lines) < _limit loop
    _started_at := clock_timestamp();
    if _is_indexed and _bound > _indexed_from and _step not between 1 and 30000 then
      -- Chunk by chunk, of which the newest may do.
      until_time := greatest(_from, _indexed_from, (select max(c) from unnest(_chunk_starts) as c where c < _bound));
      lines := lines || array(
        select l
        from obs.log l
        where l.time >= until_time
          and l.time < _bound
          and (_before_time is null or (l.time, l.id) < (_before_time, _before_id))
          and l.log_stream_id = any (_stream_ids)
          and lib.log_matches(
            obs.log_words(l.log_stream_id, l.message), l.message, l.metadata, l.trace_id,
            _indexed_query, _wanted.query_pattern, _wanted.text_pattern, _wanted.metadata_query, _wanted.trace_id
          )
        order by l.time desc, l.id desc
        limit _limit - cardinality(lines)
      );
    else
      until_time := lib.lines_back(_stream_ids, _from, _bound, _step);
      lines := lines || array(
        select f.line
        from unnest(_stream_ids) as s (id)
        cross join lateral (
          select row(l.*)::obs.log as line, l.time, l.id
          from (
            select l.*
            from obs.log l
            where l.log_stream_id = s.id
              and l.time >= until_time
              and l.time < _bound
              and (_before_time is null or (l.time, l.id) < (_before_time, _before_id))
            order by l.time desc, l.id desc
            -- A fence: the index of words, once for each stream, would cost more than the lines.
            offset 0
          ) as l
          where lib.log_matches(
            obs.log_words(l.log_stream_id, l.message), l.message, l.metadata, l.trace_id,
            _wanted.query, _wanted.query_pattern, _wanted.text_pattern, _wanted.metadata_query, _wanted.trace_id
          )
          limit _limit - cardinality(lines)
        ) as f
        order by f.time desc, f.id desc
        limit _limit - cardinality(lines)
      );
      _looked_at := _looked_at + _step;
      _step := least(200000, case
        -- Long lines: no step shall take much more than the time there is.
        when clock_timestamp() > _started_at + interval '1 second' then greatest(1, _step / 4)
        when not _is_indexed or _looked_at < 2000 then 4 * _step
        -- As many again as it may take to find the rest, if it goes on as it went.
        when cardinality(lines) > 0
          then greatest(2 * _step, _looked_at * (_limit - cardinality(lines)) / cardinality(lines))
        else 200000
      end);
    end if;
    _bound := until_time;
    exit when clock_timestamp() > statement_timestamp() + make_interval(secs => _seconds);
  end loop;

  -- Not more than a reader can take at once.
  select count(*) into _kept
  from (
    select sum(octet_length(l.message) + coalesce(octet_length(l.metadata::text), 0)) over (order by l.ordinality) as bytes, l.ordinality
    from unnest(lines) with ordinality as l
  ) as l
  where l.bytes <= 4000000 or l.ordinality = 1;
  if _kept < cardinality(lines) or _kept >= _limit then
    lines := lines[:_kept];
    until_time := lines[_kept].time;
    until_id := lines[_kept].id;
  elsif _bound > _from then
    until_time := _bound;
    until_id := 0;
  else
    until_time := null;
  end if;
end
$$;
comment on function lib.find_logs is
  'Lines of an org that a filter (see lib.read_log_filter) asks for with times in [_start, _end) and before (_before_time, _before_id), '
  'newest first, at most _limit and some four megabytes. until_time and until_id are where to go on: null when there are no more; a '
  'search stops after so many seconds, a step of it more. What the columnstore holds is read line by line.';

create function api.search_logs(
  _org_id int,
  _filter jsonb,
  _start timestamptz,
  _end timestamptz,
  _before_time timestamptz,
  _before_id bigint,
  _limit int,
  _is_marked boolean,
  _seconds float8
)
returns table (lines text, marked json, line_count int, until_time text, until_id text)
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
  _page record;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  select * into _page from lib.find_logs(_org_id, _filter, _start, _end, _before_time, _before_id, _limit, _seconds);
  return query
  select
    string_agg(
      lib.log_line(l.time, l.received_at, l.id, s.service_name, s.level, l.message, l.metadata, l.trace_id, l.span_id),
      E',\n' order by l.ordinality
    ),
    case when _is_marked and _filter ? 'q' then json_agg(
      lib.mark_matches(l.message, _filter ->> 'q')
      order by l.ordinality
    ) end,
    count(*)::int,
    lib.rfc3339_micros(_page.until_time),
    _page.until_id::text
  from unnest(_page.lines) with ordinality as l
  join obs.log_stream s on s.id = l.log_stream_id;
end
$$;
comment on function api.search_logs is
  'lib.find_logs as JSON: the lines, separated by commas; with _is_marked each message by lib.mark_matches; their number; where to go on, null when there are no more.';

create function api.get_log_context(
  _org_id int,
  _service_name text,
  _time timestamptz,
  _id bigint,
  _before int,
  _after int
)
returns table (before_lines text, line text, after_lines text)
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _stream_ids int[];
  _from timestamptz;
  _until timestamptz;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  _stream_ids := lib.find_log_streams(_org_id, _service_name, 'trace');
  select greatest(lib.org_kept_from(_org_id), min(c.range_start)), max(c.range_end)
  into _from, _until
  from lib.list_log_chunks() c;
  return query
  with nearest as (
    select l.*
    from unnest(_stream_ids) as s (id)
    cross join lateral (
      (
        select b.*, -1 as place
        from obs.log b
        where b.log_stream_id = s.id and b.time >= _from and b.time <= _time and (b.time, b.id) < (_time, _id)
        order by b.time desc, b.id desc
        limit _before
      )
      union all
      (
        select a.*, case when (a.time, a.id) = (_time, _id) then 0 else 1 end
        from obs.log a
        where a.log_stream_id = s.id and a.time >= greatest(_time, _from) and a.time < _until and (a.time, a.id) >= (_time, _id)
        order by a.time, a.id
        limit _after + 1
      )
    ) as l
  ),
  numbered as (
    select n.*,
      row_number() over (partition by n.place order by n.time desc, n.id desc) as before_number,
      row_number() over (partition by n.place order by n.time, n.id) as after_number
    from nearest n
  ),
  written as (
    select n.place, n.time, n.id,
      lib.log_line(n.time, n.received_at, n.id, s.service_name, s.level, n.message, n.metadata, n.trace_id, n.span_id) as line
    from numbered n
    join obs.log_stream s on s.id = n.log_stream_id
    where case n.place when -1 then n.before_number <= _before when 1 then n.after_number <= _after else true end
  )
  select
    string_agg(w.line, E',\n' order by w.time, w.id) filter (where w.place = -1),
    max(w.line) filter (where w.place = 0),
    string_agg(w.line, E',\n' order by w.time, w.id) filter (where w.place = 1)
  from written w;
end
$$;
comment on function api.get_log_context is
  'A line of a service, or of any (null), and at most so many lines right before and after it, oldest first, as JSON separated by commas; '
  'line is null where there is none.';

create function api.get_log_histogram(
  _org_id int,
  _service_name text,
  _min_level text,
  _start timestamptz,
  _end timestamptz,
  _window interval,
  _timezone text
)
returns text
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
  _stream_ids int[];
  _from timestamptz;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  _stream_ids := lib.find_log_streams(_org_id, _service_name, _min_level::obs.log_level);
  _from := lib.clip_start(_org_id, date_trunc('minute', _start), _end);
  return (
    with counted as (
      select lib.bucket_start(c.minute, _window, _timezone, _start) as bucket, s.level, sum(c.line_count) as line_count
      from lib.count_log_lines(_stream_ids, _from, _end) c
      join obs.log_stream s on s.id = c.log_stream_id
      group by 1, 2
    ),
    filled as (
      select b.bucket,
        string_agg(format('"%s":%s', l.level, coalesce(c.line_count, 0)), ',' order by l.level) as counts,
        coalesce(sum(c.line_count), 0) as total
      from lib.list_buckets(_start, _end, _window, _timezone, 10001) as b (bucket)
      cross join unnest(enum_range(_min_level::obs.log_level, null)) as l (level)
      left join counted c on c.bucket = b.bucket and c.level = l.level
      group by b.bucket
    )
    select coalesce(
      '[' || string_agg(
        format('{"time":"%s","total":%s,"levels":{%s}}', lib.rfc3339(f.bucket), f.total, f.counts), E',\n' order by f.bucket
      ) || ']',
      '[]'
    )
    from filled f
  );
end
$$;
comment on function api.get_log_histogram is
  'Numbers of lines of a service, or of all (null), by level, _min_level and above, in buckets of _window over [_start, _end), as JSON: '
  '[{time, total, levels: {info: 12, …}}], a bucket without lines too. Whole minutes: those that either end of the range cuts are counted in full.';

create function lib.fold_message(_message text)
returns text
language sql
immutable
as $$
  select regexp_replace(
    regexp_replace(
      regexp_replace(
        _message,
        '\m[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\M', '<uuid>', 'gi'
      ),
      '\m(?:0x[0-9a-f]+|(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{8,})\M', '<hex>', 'gi'
    ),
    '[0-9]+(?:[.:,][0-9]+)*', '<num>', 'g'
  )
$$;
comment on function lib.fold_message(text) is
  'The shape of a message: UUIDs, hexadecimal ids and numbers (addresses, times, versions and decimals as one) replaced.';

create function api.get_log_patterns(
  _org_id int,
  _filter jsonb,
  _start timestamptz,
  _end timestamptz,
  _limit int,
  _max_lines int
)
returns table (patterns json, lines_examined int, examined_from timestamptz, is_complete boolean)
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
  _lines obs.log[];
  _until_time timestamptz;
  _until_id bigint;
  _messages text[] := array[]::text[];
  _times timestamptz[] := array[]::timestamptz[];
  _stream_ids int[] := array[]::int[];
begin
  perform set_config('obs.org_id', _org_id::text, true);
  loop
    select f.lines, f.until_time, f.until_id
    into _lines, _until_time, _until_id
    from lib.find_logs(
      _org_id, _filter, _start, _end, _until_time, _until_id, least(1000, _max_lines - cardinality(_messages)), 2
    ) as f;
    select _messages || array_agg(left(l.message, 1000)), _times || array_agg(l.time), _stream_ids || array_agg(l.log_stream_id)
    into _messages, _times, _stream_ids
    from unnest(_lines) as l;
    exit when _until_time is null or cardinality(_messages) >= _max_lines
      or clock_timestamp() > statement_timestamp() + interval '2 seconds';
  end loop;
  return query
  with shapes as (
    select lib.fold_message(l.message) as pattern, count(*)::int as line_count, min(l.time) as first_seen, max(l.time) as last_seen,
      (array_agg(l.message order by l.time desc))[1] as example,
      array_agg(distinct s.level order by s.level) as levels
    from unnest(_messages, _times, _stream_ids) as l (message, time, log_stream_id)
    join obs.log_stream s on s.id = l.log_stream_id
    group by 1
    order by 2 desc, 1
    limit _limit
  )
  select
    coalesce(
      json_agg(
        json_build_object(
          'pattern', h.pattern,
          'count', h.line_count,
          'share', round(h.line_count::numeric / cardinality(_messages), 4)::float8,
          'levels', h.levels,
          'first_seen', lib.rfc3339_micros(h.first_seen),
          'last_seen', lib.rfc3339_micros(h.last_seen),
          'example', h.example
        )
        order by h.line_count desc, h.pattern
      ),
      '[]'
    ),
    cardinality(_messages),
    coalesce(_until_time, _start),
    _until_time is null
  from shapes h;
end
$$;
comment on function api.get_log_patterns is
  'The most frequent shapes (lib.fold_message) among the newest _max_lines lines that a filter asks for, as far as two seconds go, as '
  'JSON; how many lines that were, from when on all of them, and whether that is the whole range.';

create function job.count_logs(_now timestamptz default now())
returns int
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  _counted obs.log_counted;
  _until bigint;
begin
  -- One worker at a time; the others find it done.
  select * into _counted from obs.log_counted for update skip locked;
  if not found then
    return 0;
  end if;
  -- Some thousand flushes, so that no transaction is long.
  select max(p.position) into _until
  from (
    select a.position from obs.log_arrival a where a.position > _counted.position order by a.position limit 20000
  ) as p;

  insert into obs.log_1m as c (bucket, log_stream_id, line_count)
  select a.minute, a.log_stream_id, sum(a.line_count)
  from obs.log_arrival a
  where a.position > _counted.position and a.position <= _until
  group by 1, 2
  on conflict (log_stream_id, bucket) do update set line_count = c.line_count + excluded.line_count;
  update obs.log_stream s
  set line_count = s.line_count + n.line_count, counted_at = _now
  from (
    select a.log_stream_id, sum(a.line_count) as line_count
    from obs.log_arrival a
    where a.position > _counted.position and a.position <= _until
    group by 1
  ) as n
  where s.id = n.log_stream_id;
  perform lib.sample_log_lines(_now);

  -- By age, and never what was not counted before.
  with purged as (
    delete from obs.log_arrival a
    where a.position <= _counted.position and a.arrived_at < _now - interval '10 minutes'
    returning a.position
  )
  update obs.log_counted
  set position = coalesce(_until, log_counted.position),
    purged_position = greatest(log_counted.purged_position, (select max(position) from purged));
  return (select count(*)::int from obs.log_arrival a where a.position > _counted.position and a.position <= _until);
end
$$;
comment on function job.count_logs is
  'Counts what arrived: adds it to obs.log_1m and obs.log_stream, and records log_lines_total. To be called until it returns 0: the number of rows '
  'of obs.log_arrival that it counted. Safe to call at once from many workers.';

create function lib.sample_log_lines(_now timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  _counts_kept constant interval := (select r.keep from obs.retention r where r.table_name = 'log_1m');
  _org record;
  _series_ids int[];
begin
  -- Series that are new, org by org: where an org may have no more of them the others get theirs.
  for _org in
    select s.org_id, array_agg(s.id order by s.id) as stream_ids,
      jsonb_agg(
        jsonb_build_object('name', 'log_lines_total', 'service_name', s.service_name, 'labels', jsonb_build_object('level', s.level))
        order by s.id
      ) as series
    from obs.log_stream s
    where s.series_id is null and s.line_count > 0
    group by s.org_id
  loop
    begin
      _series_ids := lib.ensure_series(_org.org_id, _org.series);
      update obs.log_stream s
      set series_id = n.series_id
      from unnest(_org.stream_ids, _series_ids) as n (log_stream_id, series_id)
      where s.id = n.log_stream_id;
      -- So that the first lines are an increase.
      insert into obs.sample (time, series_id, value)
      select _now - interval '10 seconds', n, 0 from unnest(_series_ids) as n;
    exception
      when sqlstate 'PT422' then null;
    end;
  end loop;
  with due as (
    update obs.log_stream s
    set sampled_at = _now
    where s.series_id is not null
      -- As often as lines come, and twice a minute as long as those that came are counted: that nothing comes is what a rule may watch for.
      and (
        s.sampled_at is null
        or s.counted_at > s.sampled_at
        or (s.sampled_at <= _now - interval '25 seconds' and s.counted_at > _now - _counts_kept)
      )
    returning s.series_id, s.line_count
  )
  insert into obs.sample (time, series_id, value)
  select _now, d.series_id, d.line_count from due d;
end
$$;
comment on function lib.sample_log_lines is
  'Records log_lines_total{level}, by service, as samples of its org: a counter of the lines that arrived. It begins with 0; none where the org is at its limit of series.';

create function api.get_log_position(_org_id int)
returns bigint
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  perform set_config('obs.org_id', _org_id::text, true);
  return greatest(
    (select c.position from obs.log_counted c),
    (select max(a.position) from obs.log_arrival a where a.org_id = _org_id)
  );
end
$$;
comment on function api.get_log_position is 'A position of obs.log_arrival that everything of an org that is committed is at or before.';

create function api.tail_logs(_org_id int, _after bigint, _filters jsonb, _max_bytes int, _at_most bigint default null)
returns table (until_position bigint, purged_position bigint, "position" bigint, id bigint, filter_numbers json, line text)
language plpgsql
stable
security definer
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  _until bigint;
  _oldest timestamptz;
  _newest timestamptz;
begin
  perform set_config('obs.org_id', _org_id::text, true);
  select max(f.position), min(f.oldest), max(f.newest)
  into _until, _oldest, _newest
  from (
    select a.position, min(a.oldest) as oldest, max(a.newest) as newest,
      sum(sum(a.byte_count)) over (order by a.position) - sum(a.byte_count) as bytes_before
    from obs.log_arrival a
    where a.org_id = _org_id and a.position > _after and (_at_most is null or a.position <= _at_most)
    group by a.position
    order by a.position
    limit 1000
  ) as f
  where f.bytes_before < _max_bytes;
  select coalesce(_until, greatest(c.position, _after)), c.purged_position
  into until_position, purged_position
  from obs.log_counted c;
  return next;
  if _until is null then
    return;
  end if;

  return query
  with wanted as materialized (
    select (f.ordinality - 1)::int as number, w.*
    from jsonb_array_elements(_filters) with ordinality as f
    cross join lateral lib.read_log_filter(f.value) as w
  ),
  flushes as materialized (
    select a.position, min(a.first_id) as first_id, max(a.last_id) as last_id
    from obs.log_arrival a
    where a.org_id = _org_id and a.position > _after and a.position <= _until
    group by a.position
  ),
  streams as materialized (
    select s.id, s.service_name, s.level from obs.log_stream s where s.org_id = _org_id
  ),
  lines as materialized (
    select f.position, l.*, s.service_name, s.level,
      -- Once, for however many filters.
      case when exists (select from wanted w where w.query is not null) then obs.log_words(l.log_stream_id, l.message) end as words
    from flushes f
    cross join lateral (
      select l.*
      from obs.log l
      where l.id >= f.first_id and l.id <= f.last_id and l.time >= _oldest and l.time <= _newest
    ) as l
    join streams s on s.id = l.log_stream_id
  ),
  arrived as (
    select l.*,
      (
        select json_agg(w.number)
        from wanted w
        where l.level >= w.min_level
          and (w.service_name is null or w.service_name = l.service_name)
          and lib.log_matches(
            l.words, l.message, l.metadata, l.trace_id, w.query, w.query_pattern, w.text_pattern, w.metadata_query, w.trace_id
          )
      ) as numbers
    from lines l
  )
  select null::bigint, null::bigint, a.position, a.id, a.numbers,
    lib.log_line(a.time, a.received_at, a.id, a.service_name, a.level, a.message, a.metadata, a.trace_id, a.span_id)
  from arrived a
  where a.numbers is not null
  order by a.position, a.id;
end
$$;
comment on function api.tail_logs is
  'What arrived of an org after a position (and at most up to another), whole flushes until they come to so many bytes. The first row tells up to which position '
  'and up to which one arrivals are gone already; each further one a line that some of _filters (an array, see lib.read_log_filter) asks for, '
  'which of them, counted from 0, and its place. Lines of a position are in order of their ids.';
