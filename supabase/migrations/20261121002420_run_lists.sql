-- The list over everything that runs, newest first. Security invoker: everybody lists what the policies let them see.
-- Whatever is asked, what is read is bounded: a scan in the order of the list for each state, which ends when the page
-- is full, and where the filter is not in the index after so many rows at the latest; the page then says where to go on.

create type private.run_filter as (
  kinds text[],
  states text[],
  stuck boolean,
  code text,
  stage text,
  since timestamptz,
  until timestamptz,
  ended_since timestamptz,
  search text,
  everyone boolean,
  reader uuid
);
comment on type private.run_filter is 'A filter of runs that was found to make sense. everyone: of all owners, else of the reader alone.';

create function private.run_states()
returns table (kind text, state text, part text, ended boolean, failed boolean, has_code boolean)
language sql
immutable
set search_path = ''
as $$
  values
    ('bot', 'pending', 'open', false, false, false),
    ('bot', 'starting', 'open', false, false, false),
    ('bot', 'running', 'open', false, false, false),
    ('bot', 'completed', 'completed', true, false, false),
    ('bot', 'failed', 'failed', true, true, true),
    ('handler', 'active', 'active', false, false, false),
    ('handler', 'paused:transient', 'broken', true, false, true),
    ('handler', 'paused:approval', 'broken', true, false, true),
    ('handler', 'paused:reconciliation', 'broken', true, false, true),
    ('handler', 'failed:logic', 'broken', true, true, true),
    ('handler', 'failed:internal', 'broken', true, true, true),
    ('handler', 'crashed', 'broken', true, true, true),
    ('handler', 'committed', 'committed', true, false, false),
    ('workflow', 'draft', 'all', false, false, true),
    ('workflow', 'ready', 'all', false, false, true),
    ('workflow', 'active', 'all', false, false, true),
    ('workflow', 'paused', 'all', false, false, true),
    ('workflow', 'fixing', 'all', false, false, true),
    ('workflow', 'error', 'all', false, false, true),
    ('workflow', 'archived', 'all', false, false, true),
    ('flow', 'running', 'open', false, false, false),
    ('flow', 'completed', 'completed', true, false, false),
    ('flow', 'failed', 'failed', true, true, true)
$$;
comment on function private.run_states is
  'Every kind of run with the states that are shown of it. part: which indexes a run in this state is in.';

create function private.filter_words(filter jsonb, path text, known text[])
returns text[]
language plpgsql
stable
set search_path = ''
as $$
declare
  words text[];
  strange text;
begin
  if filter -> path is null or filter -> path = 'null' then
    return null;
  elsif jsonb_typeof(filter -> path) = 'string' then
    words := array[filter ->> path];
  elsif jsonb_typeof(filter -> path) = 'array' then
    words := array(select jsonb_array_elements_text(filter -> path));
  end if;
  select w into strange from unnest(words) w where w is null or w <> all (known) limit 1;
  if words is null or cardinality(words) = 0 or cardinality(words) > 50 or strange is not null then
    perform lifecycle.refuse_input(path, format('must be one or more of: %s.', array_to_string(known, ', ')));
  end if;
  return words;
end;
$$;
comment on function private.filter_words is 'The words of a part of a filter, each of which must be known.';

create function private.filter_time(filter jsonb, path text)
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
begin
  if coalesce(jsonb_typeof(filter -> path), 'null') not in ('null', 'string') then
    raise exception using errcode = 'invalid_datetime_format';
  end if;
  return (filter ->> path)::timestamptz;
exception when data_exception then
  perform lifecycle.refuse_input(path, 'must be a time as in 2026-11-21T00:31:02Z.');
end;
$$;
comment on function private.filter_time is 'The time of a part of a filter.';

create function private.read_run_filter(filter jsonb)
returns private.run_filter
language plpgsql
stable
set search_path = ''
as $$
declare
  f private.run_filter;
  path text;
  owner_id uuid;
begin
  filter := coalesce(nullif(filter, 'null'), '{}');
  if jsonb_typeof(filter) <> 'object' then
    perform lifecycle.refuse_input('filter', 'must be an object such as { "kind": "bot", "state": ["failed"] }.');
  end if;
  select k into path from jsonb_object_keys(filter) k
  where k not in ('kind', 'state', 'stuck', 'code', 'stage', 'since', 'until', 'ended_since', 'search', 'owner_id') limit 1;
  if path is not null then
    perform lifecycle.refuse_input(path,
      'is no filter: there are kind, state, stuck, code, stage, since, until, ended_since, search and owner_id.');
  end if;

  f.kinds := coalesce(private.filter_words(filter, 'kind', '{bot,flow,handler,workflow}'), '{bot,flow,handler,workflow}');
  f.states := private.filter_words(filter, 'state', array(select distinct s.state from private.run_states() s order by 1));
  if coalesce(jsonb_typeof(filter -> 'stuck'), 'null') not in ('null', 'boolean') then
    perform lifecycle.refuse_input('stuck', 'must be true or false.');
  end if;
  f.stuck := coalesce((filter ->> 'stuck')::boolean, false);
  foreach path in array array['code', 'stage', 'search'] loop
    if coalesce(jsonb_typeof(filter -> path), 'null') not in ('null', 'string') or length(filter ->> path) > 200 then
      perform lifecycle.refuse_input(path, 'must be a text of at most 200 characters.');
    end if;
  end loop;
  f.code := nullif(btrim(filter ->> 'code'), '');
  f.stage := nullif(btrim(filter ->> 'stage'), '');
  f.search := nullif(btrim(filter ->> 'search'), '');
  f.since := private.filter_time(filter, 'since');
  f.until := private.filter_time(filter, 'until');
  f.ended_since := private.filter_time(filter, 'ended_since');
  begin
    owner_id := filter ->> 'owner_id';
  exception when invalid_text_representation then
    perform lifecycle.refuse_input('owner_id', 'must be a UUID.');
  end;
  -- Whoever may not see this owner's runs finds nothing: the policies see to that.
  f.everyone := owner_id is null and ((select auth.role()) = 'service_role' or private.is_operator());
  f.reader := coalesce(owner_id, (select auth.uid()));
  return f;
end;
$$;
comment on function private.read_run_filter is
  'The filter of a list of runs: { kind, state, stuck, code, stage, since, until, ended_since, search, owner_id }, all optional; PT422 for what it does not know.';

create function private.run_parts(f private.run_filter)
returns table (kind text, part text, states text[], all_states text[])
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
    select s.kind, s.part, array_agg(s.state) filter (where (f.states is null or s.state = any (f.states))), array_agg(s.state)
    from private.run_states() s
    where s.kind = any (f.kinds)
    group by s.kind, s.part
    having bool_or(f.states is null or s.state = any (f.states))
      and (bool_or(s.has_code) or (f.code is null and f.stage is null))
      and (bool_or(s.ended) or f.ended_since is null);
end;
$$;
comment on function private.run_parts is
  'The parts in which there can be runs that pass a filter: each is one scan of an index. states: those that the filter lets through.';

create function private.run_id_column(kind text)
returns text
language sql
immutable
set search_path = ''
as $$
  select case kind when 'bot' then 't.bot_id' else 't.id' end
$$;
comment on function private.run_id_column is 'Which column of its table is the id of a run of this kind.';

create function private.run_time_column(kind text)
returns text
language sql
immutable
set search_path = ''
as $$
  select case kind when 'handler' then 't.started_at' else 't.created_at' end
$$;
comment on function private.run_time_column is 'Which column of its table says when a run of this kind began to be.';

create function private.run_scan(kind text, part text, f private.run_filter)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  -- Where a part is one state it is named, so that the index alone may answer.
  single text := (select min(s.state) from private.run_states() s
    where s.kind = run_scan.kind and s.part = run_scan.part having count(*) = 1);
  state_column text := case kind when 'bot' then 't.bot_status::text' when 'workflow' then 'private.workflow_state(t)' else 't.status::text' end;
begin
  return format('select %s as created_at, %s as id, %s as state, t.owner_id, ',
      private.run_time_column(kind), private.run_id_column(kind), coalesce(quote_literal(single), state_column))
    || case kind
      when 'bot' then
        't.bot_completed_at as ended_at, t.error_code as code, t.error_stage::text as stage,'
        ' coalesce(t.bot_name, t.native_meeting_id, t.room_name) as name from public.workflow_threads t'
      when 'flow' then
        't.completed_at as ended_at, t.error_code as code,'
        ' case when t.status = ''failed'' then case when t.started_at is null then ''queue'' else ''prompt'' end end as stage,'
        ' t.flow_name as name from public.flow_executions t'
      when 'handler' then
        't.ended_at, private.run_error_code(t.status, t.error_type) as code,'
        ' private.run_stage(t.handler_type, t.phase)::text as stage,'
        ' (select w.title from public.workflows w where w.id = t.workflow_id) || '': '' || t.handler_name as name'
        ' from public.handler_runs t'
      when 'workflow' then
        'null::timestamptz as ended_at, t.error_code as code, t.error_stage::text as stage, t.title as name from public.workflows t'
    end
    || case
      when single is not null then
        format(' where t.%I = %L', case kind when 'bot' then 'bot_status' else 'status' end, single)
      when kind = 'bot' then ' where t.bot_status in (''pending'', ''starting'', ''running'')'
      when kind = 'handler' then ' where t.status not in (''active'', ''committed'')'
      else ' where true'
    end
    || case when f.everyone then '' else format(' and t.owner_id = %L::uuid', f.reader) end
    || case when f.since is null then '' else format(' and %s >= %L::timestamptz', private.run_time_column(kind), f.since) end
    || case when f.until is null then '' else format(' and %s < %L::timestamptz', private.run_time_column(kind), f.until) end;
end;
$$;
comment on function private.run_scan is
  'The query for the runs of a part (created_at, id, state, owner_id, ended_at, code, stage, name) that an index answers: whose they are, and from when. More conditions may follow.';

create function private.run_test(f private.run_filter, states text[], all_states text[])
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return nullif(concat(
    case when cardinality(states) < cardinality(all_states) then format(' and s.state = any (%L::text[])', states) end,
    case when f.code is not null then format(' and s.code = %L', f.code) end,
    case when f.stage is not null then format(' and s.stage = %L', f.stage) end,
    case when f.ended_since is not null then format(' and s.ended_at >= %L::timestamptz', f.ended_since) end,
    case when f.search is not null then
      format(' and (starts_with(lower(s.name), lower(%1$L)) or s.code = upper(%1$L))', f.search) end
  ), '');
end;
$$;
comment on function private.run_test is 'What of a filter no index answers, for a part whose states are all_states; null for nothing.';

create function private.runs_by_id(f private.run_filter, max_rows int)
returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
declare
  -- Last characters are in no index: they are looked for among so many of each part.
  scan_limit constant int := 10000;
  word text := lower(f.search);
  all_of private.run_filter := f;
  least_id uuid;
  last_id uuid;
  branch record;
  hits uuid[];
  ids uuid[] := '{}';
begin
  if word !~ '^[0-9a-f-]{6,36}$' or word !~ '[0-9a-f]{6}' then
    return null;
  end if;
  begin
    least_id := word || substr('00000000-0000-0000-0000-000000000000', length(word) + 1);
    last_id := word || substr('ffffffff-ffff-ffff-ffff-ffffffffffff', length(word) + 1);
  exception when invalid_text_representation then
    least_id := null;
  end;
  all_of.states := null;
  all_of.code := null;
  all_of.stage := null;
  all_of.since := null;
  all_of.until := null;
  all_of.ended_since := null;
  for branch in select p.kind, p.part from private.run_parts(all_of) p loop
    execute format($q$
        select array(select b.id from (%1$s and %2$s between $1 and $2 limit $3) b)
          || case when length($4) < 36 then array(
            select b.id from (%1$s order by created_at desc, id desc limit %3$s) b
            where right(b.id::text, length($4)) = $4 limit $3) end
      $q$, private.run_scan(branch.kind, branch.part, all_of), private.run_id_column(branch.kind), scan_limit)
    into hits using least_id, last_id, max_rows, word;
    ids := ids || hits;
  end loop;
  return case when ids <> '{}' then ids[1:max_rows] end;
end;
$$;
comment on function private.runs_by_id is
  'The ids that are, or begin or end with, the at least 6 characters that are searched for; null for none. Ends are found among the newest 10,000 of each part.';

create function private.run_matches(run jsonb, f private.run_filter)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return run ->> 'kind' = any (f.kinds)
    and coalesce(run ->> 'state' = any (f.states), true)
    and (not f.stuck or run ? 'stuck_rule')
    and (f.code is null or coalesce(run ->> 'error_code' = f.code, false))
    and (f.stage is null or coalesce(run ->> 'error_stage' = f.stage, false))
    and (f.since is null or (run ->> 'created_at')::timestamptz >= f.since)
    and (f.until is null or (run ->> 'created_at')::timestamptz < f.until)
    and (f.ended_since is null or coalesce((run ->> 'finished_at')::timestamptz >= f.ended_since, false))
    and (
      f.search is null or starts_with(lower(run ->> 'name'), lower(f.search))
      or coalesce(run ->> 'error_code' = upper(f.search), false)
      or (length(f.search) >= 6 and (starts_with(run ->> 'id', lower(f.search)) or right(run ->> 'id', length(f.search)) = lower(f.search)))
    );
end;
$$;
comment on function private.run_matches is 'Does a row of the list of runs pass a filter?';

create function private.named_runs(f private.run_filter, max_rows int)
returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
begin
  if f.stuck then
    return array(
      select r.id from public.stuck_runs r
      where r.kind = any (f.kinds) and (f.everyone or r.owner_id = f.reader) limit max_rows);
  elsif f.search is not null then
    return private.runs_by_id(f, max_rows);
  end if;
  return null;
end;
$$;
comment on function private.named_runs is
  'The ids among which a filter chooses, where it tells: what is stuck, or the ids that the search is a part of. Null: among all.';

create function public.runs_list(
  filter jsonb default '{}', before_created timestamptz default null, before_id text default null, max_rows int default 50
)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  -- How many rows of one state are read at most where the filter is in no index.
  scan_limit constant int := 2000;
  moment timestamptz := lifecycle.now();
  f private.run_filter := private.read_run_filter(filter);
  named uuid[];
  test text;
  branch record;
  scanned record;
  hit record;
  place_id uuid;
  kinds text[] := '{}';
  ids uuid[] := '{}';
  times timestamptz[] := '{}';
  -- Down to here every branch is known; what is older waits for the next page.
  horizon_at timestamptz := '-infinity';
  horizon_id uuid := '00000000-0000-0000-0000-000000000000';
  items jsonb := '[]';
  run jsonb;
  n int := 0;
begin
  if max_rows is null or max_rows not between 1 and 200 then
    perform lifecycle.refuse_input('max_rows', 'must be a whole number from 1 to 200.');
  end if;
  if (before_created is null) <> (before_id is null) then
    perform lifecycle.refuse_input('before_id', 'and before_created come together: both from next of the page before.');
  end if;
  begin
    place_id := before_id;
  exception when invalid_text_representation then
    perform lifecycle.refuse_input('before_id', 'must be that of the next of the page before.');
  end;

  named := private.named_runs(f, 1000);
  if named is not null and not f.stuck then
    -- Whoever names a run means it, however old it is.
    f.search := null;
    f.since := null;
    f.until := null;
  end if;

  for branch in select p.* from private.run_parts(f) p loop
    test := private.run_test(f, branch.states, branch.all_states);
    execute format($q$
        with scanned as materialized (%s%s%s order by created_at desc, id desc limit %s)
        select array_agg(h.id) as ids, array_agg(h.created_at) as times,
          (select count(*) from scanned) as n,
          (select array_agg(l.created_at) from (select s.created_at from scanned s order by s.created_at, s.id limit 1) l) as last_at,
          (select array_agg(l.id) from (select s.id from scanned s order by s.created_at, s.id limit 1) l) as last_id
        from (select s.id, s.created_at from scanned s where true%s order by s.created_at desc, s.id desc limit %s) h
      $q$,
      private.run_scan(branch.kind, branch.part, f),
      case when before_id is not null then
        format(' and (%s, %s) < ($1, $2)', private.run_time_column(branch.kind), private.run_id_column(branch.kind)) end,
      case when named is not null then format(' and %s = any ($3)', private.run_id_column(branch.kind)) end,
      case when test is null then max_rows + 1 else scan_limit end, test, max_rows + 1)
    into scanned using before_created, place_id, named;
    kinds := kinds || array_fill(branch.kind, array[coalesce(cardinality(scanned.ids), 0)]);
    ids := ids || scanned.ids;
    times := times || scanned.times;
    if cardinality(scanned.ids) > max_rows then
      scanned.last_at := array[scanned.times[max_rows + 1]];
      scanned.last_id := array[scanned.ids[max_rows + 1]];
    elsif test is null or scanned.n < scan_limit then
      continue;
    end if;
    if (scanned.last_at[1], scanned.last_id[1]) > (horizon_at, horizon_id) then
      horizon_at := scanned.last_at[1];
      horizon_id := scanned.last_id[1];
    end if;
  end loop;

  for hit in
    select u.kind, u.id, u.at from unnest(kinds, ids, times) u (kind, id, at)
    where (u.at, u.id) >= (horizon_at, horizon_id)
    order by u.at desc, u.id desc limit max_rows + 1
  loop
    n := n + 1;
    if n > max_rows then
      -- The page is full: it goes on behind its last row.
      return jsonb_build_object('items', items, 'as_of', private.exact_stamp(moment),
        'next', jsonb_build_object('before_created', private.exact_stamp(before_created), 'before_id', place_id));
    end if;
    run := private.run_row(hit.kind, hit.id, moment);
    items := items || coalesce(run, '[]'::jsonb);
    before_created := hit.at;
    place_id := hit.id;
  end loop;
  return jsonb_build_object('items', items, 'as_of', private.exact_stamp(moment), 'next', case when horizon_at > '-infinity' then
    jsonb_build_object('before_created', private.exact_stamp(horizon_at), 'before_id', horizon_id) end);
end;
$$;
comment on function public.runs_list is
  'Bots, handler runs, workflows and executions in one list, newest first: { items, next, as_of }. next, { before_created, before_id }, goes on; a page may be short, or empty, and still have one where the filter is rare. max_rows: 1 to 200.';

create function private.subject_runs(subject_id uuid)
returns table (kind text, id uuid)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
    select 'bot', t.bot_id from public.workflow_threads t
    where t.bot_id = subject_runs.subject_id and t.bot_status is not null
    union all
    select 'flow', e.id from public.flow_executions e where e.id = subject_runs.subject_id
    union all
    select 'workflow', w.id from public.workflows w where w.id = subject_runs.subject_id
    union all
    select r.kind, r.id from public.handler_runs h, lateral (values ('handler', h.id), ('workflow', h.workflow_id)) r (kind, id)
    where h.id = subject_runs.subject_id
    union all
    select 'workflow', s.workflow_id from public.script_runs s where s.id = subject_runs.subject_id
    union all
    select r.kind, r.id
    from public.workflow_mutations m, lateral (values ('handler', m.run_id), ('workflow', m.workflow_id)) r (kind, id)
    where m.id = subject_runs.subject_id;
end;
$$;
comment on function private.subject_runs is
  'The runs that a subject of the history belongs to: a bot or an execution to itself, a handler run, a session and a mutation to their workflow, too.';

create function public.runs_get(ids text[], filter jsonb default '{}')
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  f private.run_filter := private.read_run_filter(filter);
  wanted uuid[];
  items jsonb;
begin
  if ids is null or cardinality(ids) > 200 then
    perform lifecycle.refuse_input('ids', 'must be a list of at most 200 ids.');
  end if;
  begin
    wanted := ids;
  exception when invalid_text_representation then
    perform lifecycle.refuse_input('ids', 'must be UUIDs.');
  end;
  select coalesce(jsonb_agg(r.run), '[]') into items
  from (
    select private.run_row(s.kind, s.id, moment) as run
    from (select distinct s.kind, s.id from unnest(wanted) w (id), private.subject_runs(w.id) s) s
  ) r
  where r.run is not null;
  return jsonb_build_object(
    'items', items,
    'matches', (
      select coalesce(jsonb_agg(i.run -> 'id'), '[]') from jsonb_array_elements(items) i (run)
      where private.run_matches(i.run, f)),
    'as_of', private.exact_stamp(moment));
end;
$$;
comment on function public.runs_get is
  'The rows of the list that these subjects belong to, whatever their machine: { items, matches, as_of }; matches names those that the filter lets through. At most 200 ids.';

revoke execute on function
  private.run_states(), private.filter_words(jsonb, text, text[]), private.filter_time(jsonb, text),
  private.read_run_filter(jsonb), private.run_parts(private.run_filter), private.run_id_column(text),
  private.run_time_column(text), private.run_scan(text, text, private.run_filter),
  private.run_test(private.run_filter, text[], text[]),
  private.runs_by_id(private.run_filter, int), private.run_matches(jsonb, private.run_filter),
  private.named_runs(private.run_filter, int), private.subject_runs(uuid),
  public.runs_list(jsonb, timestamptz, text, int), public.runs_get(text[], jsonb)
from public, anon, authenticated;
grant execute on function
  private.run_states(), private.filter_words(jsonb, text, text[]), private.filter_time(jsonb, text),
  private.read_run_filter(jsonb), private.run_parts(private.run_filter), private.run_id_column(text),
  private.run_time_column(text), private.run_scan(text, text, private.run_filter),
  private.run_test(private.run_filter, text[], text[]),
  private.runs_by_id(private.run_filter, int), private.run_matches(jsonb, private.run_filter),
  private.named_runs(private.run_filter, int), private.subject_runs(uuid),
  public.runs_list(jsonb, timestamptz, text, int), public.runs_get(text[], jsonb)
to authenticated, service_role;
