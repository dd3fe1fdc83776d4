-- How long runs are in their states: of one run, and of all of a window. From the history, newest first and bounded.

create function private.open_now(machine text, f private.run_filter)
returns table (state text, n int, oldest_at timestamptz)
language plpgsql
stable
set search_path = ''
as $$
declare
  place text := case machine
    when 'bot' then 'select t.bot_status::text as state, t.bot_status_updated_at as since, t.owner_id from public.workflow_threads t where t.bot_status in (''pending'', ''starting'', ''running'')'
    when 'meeting' then 'select t.meeting_status::text as state, t.meeting_status_updated_at as since, t.owner_id from public.workflow_threads t where t.bot_status in (''pending'', ''starting'', ''running'') and lifecycle.is_open(t.meeting_status)'
    when 'flow_execution' then 'select t.status::text as state, t.created_at as since, t.owner_id from public.flow_executions t where t.status = ''running'''
    when 'handler_run' then 'select t.status::text as state, t.started_at as since, t.owner_id from public.handler_runs t where t.status = ''active'''
    when 'script_run' then 'select t.status::text as state, t.started_at as since, t.owner_id from public.script_runs t where t.status = ''running'''
    when 'workflow' then 'select t.status::text as state, t.status_updated_at as since, t.owner_id from public.workflows t where true'
    when 'mutation' then 'select t.status::text as state, t.created_at as since, t.owner_id from public.workflow_mutations t where t.status in (''in_flight'', ''needs_reconcile'', ''indeterminate'')'
  end;
begin
  if place is null then
    return;
  end if;
  return query execute format(
    'select o.state, count(*)::int, min(o.since) from (%s%s limit 10001) o group by o.state',
    place, case when not f.everyone then format(' and t.owner_id = %L::uuid', f.reader) end);
end;
$$;
comment on function private.open_now is 'How many runs of a machine are in each of its states that is no end, counted to 10,000 together, and since when the first.';

create function private.state_spans(machine text, f private.run_filter, since timestamptz, until timestamptz, scan_limit int)
returns table (state text, ms float8, cut boolean)
language plpgsql
stable
set search_path = ''
as $$
declare
  mine text := case when not f.everyone then format('e.owner_id = %L::uuid', f.reader) else 'true' end;
  last_xid xid8;
  last_id bigint;
  newest timestamptz;
  found int;
  total int := 0;
  cut boolean := false;
begin
  -- Back through the history in batches, until one is wholly before the window: an order that an index has.
  loop
    execute format(
      'with batch as (
        select e.xid, e.id, e.created_at from public.status_events e where %s%s order by e.xid desc, e.id desc limit 2000
      ) select count(*), max(b.created_at), (array_agg(b.xid order by b.xid, b.id))[1], (array_agg(b.id order by b.xid, b.id))[1]
      from batch b',
      mine, case when last_id is not null then ' and (e.xid, e.id) < ($1, $2)' end)
    into found, newest, last_xid, last_id using last_xid, last_id;
    total := total + found;
    exit when found < 2000 or newest < since;
    cut := total >= scan_limit;
    exit when cut;
  end loop;
  if last_id is null then
    return;
  end if;
  return query execute format(
    'select s.to_status, extract(epoch from s.ended_at - s.created_at)::float8 * 1000, $6
    from (
      select e.to_status, e.created_at, lead(e.created_at) over (partition by e.subject_id order by e.seq) as ended_at
      from public.status_events e
      where %s and (e.xid, e.id) >= ($1, $2) and e.machine = $3 and e.created_at < $5
    ) s
    where s.ended_at is not null and s.created_at >= $4',
    mine)
  using last_xid, last_id, machine, since, until, cut;
end;
$$;
comment on function private.state_spans is
  'How long runs of a machine were in the states that they entered in a window and have left (ms), from the newest scan_limit events; cut: the window holds more.';

create function public.state_timing(machine text, since timestamptz default null, until timestamptz default null, owner_id uuid default null)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  f private.run_filter := private.read_run_filter(jsonb_strip_nulls(jsonb_build_object('owner_id', owner_id)));
  known text;
  states jsonb;
  cut boolean;
begin
  if not exists (select from lifecycle.machines m where m.name = state_timing.machine and m.history) or machine is null then
    select string_agg(m.name, ', ' order by m.name) into known from lifecycle.machines m where m.history;
    perform lifecycle.refuse_input('machine', format('must be one of: %s.', known));
  end if;
  until := coalesce(until, moment);
  since := coalesce(since, until - interval '24 h');
  if since >= until then
    perform lifecycle.refuse_input('since', 'must be before until.');
  end if;
  with spans as (
    select * from private.state_spans(state_timing.machine, f, since, until, 50000)
  ),
  timed as (
    select s.state, count(*) as n, max(s.ms) as max_ms,
      percentile_cont(array[0.5, 0.9, 0.95, 0.99]) within group (order by s.ms) as p
    from spans s group by s.state
  )
  select jsonb_agg(jsonb_build_object(
      'state', s.state, 'n', coalesce(t.n, 0),
      'p50_ms', round(t.p[1]), 'p90_ms', round(t.p[2]), 'p95_ms', round(t.p[3]), 'p99_ms', round(t.p[4]),
      'max_ms', round(t.max_ms), 'open_n', coalesce(o.n, 0), 'oldest_open_at', private.stamp(o.oldest_at)
    ) order by s.position),
    (select coalesce(bool_or(spans.cut), false) from spans)
  into states, cut
  from lifecycle.states s
  left join timed t on t.state = s.state
  left join private.open_now(state_timing.machine, f) o on o.state = s.state
  where s.machine = state_timing.machine and s.kind <> 'terminal';
  return jsonb_build_object('machine', machine, 'since', private.stamp(since), 'until', private.stamp(until),
    'states', states, 'exact', not cut, 'as_of', private.exact_stamp(moment));
end;
$$;
comment on function public.state_timing is
  'How long runs of a machine were in each of its states that is no end, of those that entered it in a window (by default the last 24 h) and have left it: { machine, since, until, states: [{ state, n, p50_ms, p90_ms, p95_ms, p99_ms, max_ms, open_n, oldest_open_at }], exact, as_of }. exact false: only the newest 50,000 events were read.';

create function public.run_timeline(id text)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  shown constant int := 200;
  moment timestamptz := lifecycle.now();
  subject uuid;
  run record;
  owner uuid;
  total bigint;
  transitions jsonb;
begin
  begin
    subject := id;
  exception when invalid_text_representation then
    perform lifecycle.refuse_input('id', 'must be a UUID.');
  end;
  select s.kind, s.id into run from private.subject_runs(subject) s order by s.id = subject desc limit 1;
  if run.id is null then
    return null;
  end if;
  select count(*), max(e.owner_id::text)::uuid into total, owner
  from (select e.owner_id from public.status_events e where e.subject_id = subject limit 10000) e;

  with spans as (
    select e.*, lead(e.created_at) over (partition by e.machine order by e.seq) as next_at
    from (
      select * from public.status_events e where e.subject_id = subject order by e.id desc limit shown
    ) e
  ),
  usual as (
    select m.machine, s.state, percentile_cont(array[0.5, 0.95]) within group (order by s.ms) as p
    from (select distinct e.machine from spans e) m,
      private.state_spans(m.machine, row(null, null, null, null, null, null, null, null, null, owner is null, owner)::private.run_filter,
        '-infinity', 'infinity', 2000) s
    group by m.machine, s.state having count(*) >= 5
  )
  select jsonb_agg(private.event_json(e) || jsonb_build_object(
      'duration_ms', round(extract(epoch from s.next_at - s.created_at) * 1000),
      'p50_ms', round(u.p[1]), 'p95_ms', round(u.p[2])
    ) order by s.id)
  into transitions
  from spans s
  join public.status_events e on e.subject_id = s.subject_id and e.machine = s.machine and e.seq = s.seq
  left join usual u on u.machine = s.machine and u.state = s.to_status;

  return jsonb_build_object(
    'id', run.id, 'kind', run.kind, 'transitions', coalesce(transitions, '[]'), 'omitted', greatest(0, total - shown),
    'rejections', (
      select coalesce(jsonb_agg(jsonb_build_object(
          'id', r.id, 'machine', r.machine, 'from_status', r.from_status, 'to_status', r.to_status,
          'source', r.source, 'code', r.code, 'created_at', r.created_at
        ) order by r.id), '[]')
      from public.status_rejections r where r.subject_id = subject
    ),
    'as_of', private.exact_stamp(moment)
  ) || private.run_repeats(run.kind, subject);
end;
$$;
comment on function public.run_timeline is
  'The transitions of a run with how long it was in each state and how long that usually takes, what was refused, and the runs before and after it: { id, kind, transitions, omitted, rejections, retry_of, retried_by, as_of }; the newest 200. Null where the caller sees none.';

create function private.run_repeats(kind text, id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  retry_of uuid;
  retried_by uuid;
begin
  if kind = 'bot' then
    select b.bot_id, (
        select n.bot_id from public.workflow_threads n
        where n.retry_of = t.workflow_thread_id order by n.created_at desc limit 1)
    into retry_of, retried_by
    from public.workflow_threads t left join public.workflow_threads b on b.workflow_thread_id = t.retry_of
    where t.bot_id = run_repeats.id;
  elsif kind = 'flow' then
    select e.retry_of, (
        select n.id from public.flow_executions n where n.retry_of = e.id order by n.created_at desc limit 1)
    into retry_of, retried_by
    from public.flow_executions e where e.id = run_repeats.id;
  elsif kind = 'handler' then
    select h.retry_of, (select n.id from public.handler_runs n where n.retry_of = h.id) into retry_of, retried_by
    from public.handler_runs h where h.id = run_repeats.id;
  end if;
  return jsonb_build_object('retry_of', retry_of, 'retried_by', retried_by);
end;
$$;
comment on function private.run_repeats is 'The run that a run repeats, and the newest one that repeats it.';

create function public.recent_changes(since timestamptz, max_rows int default 200, owner_id uuid default null)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  f private.run_filter := private.read_run_filter(jsonb_strip_nulls(jsonb_build_object('owner_id', owner_id)));
  events jsonb;
begin
  if since is null then
    perform lifecycle.refuse_input('since', 'must be a time as in 2026-11-21T00:31:02Z.');
  end if;
  if max_rows is null or max_rows not between 1 and 1000 then
    perform lifecycle.refuse_input('max_rows', 'must be a whole number from 1 to 1000.');
  end if;
  execute format(
    'select jsonb_agg(private.event_json(e) order by e.id) from (
      select * from public.status_events e where %s order by e.xid desc, e.id desc limit $1
    ) e where e.created_at >= $2',
    case when not f.everyone then format('e.owner_id = %L::uuid', f.reader) else 'true' end)
  into events using max_rows, since;
  return jsonb_build_object('events', coalesce(events, '[]'), 'next', pg_current_snapshot());
end;
$$;
comment on function public.recent_changes is
  'The newest transitions since a time, at most max_rows (1 to 1000), oldest first, and the cursor with which status_changes() goes on: { events, next }.';

revoke execute on function
  private.open_now(text, private.run_filter),
  private.state_spans(text, private.run_filter, timestamptz, timestamptz, int), private.run_repeats(text, uuid),
  public.state_timing(text, timestamptz, timestamptz, uuid), public.run_timeline(text),
  public.recent_changes(timestamptz, int, uuid)
from public, anon, authenticated;
grant execute on function
  private.open_now(text, private.run_filter),
  private.state_spans(text, private.run_filter, timestamptz, timestamptz, int), private.run_repeats(text, uuid),
  public.state_timing(text, timestamptz, timestamptz, uuid), public.run_timeline(text),
  public.recent_changes(timestamptz, int, uuid)
to authenticated, service_role;
