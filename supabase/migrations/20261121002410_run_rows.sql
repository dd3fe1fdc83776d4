-- One list over everything that runs: what a row of it is, and the indexes that it is read by.

-- Every list is a merge of scans of these, so that it never reads more than it shows. Partial, since row level
-- security lets no comparison of enums into an index scan: a row is in one of them for its owner, and in one for all.
create index workflow_threads_open_of_owner on public.workflow_threads (owner_id, created_at desc, bot_id desc)
  where bot_status in ('pending', 'starting', 'running');
create index workflow_threads_completed_of_owner on public.workflow_threads (owner_id, created_at desc, bot_id desc)
  where bot_status = 'completed';
create index workflow_threads_failed_of_owner on public.workflow_threads (owner_id, created_at desc, bot_id desc)
  where bot_status = 'failed';
create index workflow_threads_open on public.workflow_threads (created_at desc, bot_id desc) include (owner_id)
  where bot_status in ('pending', 'starting', 'running');
create index workflow_threads_completed on public.workflow_threads (created_at desc, bot_id desc) include (owner_id)
  where bot_status = 'completed';
create index workflow_threads_failed on public.workflow_threads (created_at desc, bot_id desc) include (owner_id)
  where bot_status = 'failed';
create index workflow_threads_failures on public.workflow_threads (bot_completed_at desc) where bot_status = 'failed';

-- Running ones by the index of claims, completed ones by that of the owner: most are completed.
create index flow_executions_failed_of_owner on public.flow_executions (owner_id, created_at desc, id desc)
  where status = 'failed';
create index flow_executions_open on public.flow_executions (created_at desc, id desc) include (owner_id)
  where status = 'running';
create index flow_executions_completed on public.flow_executions (created_at desc, id desc) include (owner_id)
  where status = 'completed';
create index flow_executions_failed on public.flow_executions (created_at desc, id desc) include (owner_id)
  where status = 'failed';
create index flow_executions_failures on public.flow_executions (completed_at desc) where status = 'failed';
create index flow_executions_of_flow on public.flow_executions (flow_id, created_at desc);

create index handler_runs_active_of_owner on public.handler_runs (owner_id, started_at desc, id desc) where status = 'active';
create index handler_runs_committed_of_owner on public.handler_runs (owner_id, started_at desc, id desc)
  where status = 'committed';
create index handler_runs_broken_of_owner on public.handler_runs (owner_id, started_at desc, id desc)
  where status not in ('active', 'committed');
create index handler_runs_active on public.handler_runs (started_at desc, id desc) include (owner_id)
  where status = 'active';
create index handler_runs_committed on public.handler_runs (started_at desc, id desc) include (owner_id)
  where status = 'committed';
create index handler_runs_broken on public.handler_runs (started_at desc, id desc) include (owner_id)
  where status not in ('active', 'committed');
create index handler_runs_failures on public.handler_runs (ended_at desc)
  where status in ('failed:logic', 'failed:internal', 'crashed');
create index workflows_by_time on public.workflows (created_at desc, id desc) include (owner_id);
create index workflows_with_error on public.workflows (error_at) where error is not null;

-- Stuck: one definition, in words, for lists, counts, commands and alerts.

create function private.stuck_rules()
returns table (kind text, rule text, words text)
language sql
immutable
set search_path = ''
as $$
  values
    ('bot', 'past_deadline', 'Its deadline passed more than 30 s ago and nothing ended it: the sweep does not run.'),
    ('bot', 'start_unclaimed', 'It waits for a machine for more than 60 s and no worker takes that up.'),
    ('bot', 'stop_ignored', 'It was told to leave more than 60 s ago, beyond the time that it was given, and has not ended.'),
    ('bot', 'no_heartbeat', 'It is in the meeting and said nothing for more than 120 s; it owes a sign of life every 60 s.'),
    ('bot', 'machine_gone', 'Its machine ended more than 60 s ago and it did not.'),
    ('bot', 'result_unclaimed', 'Its result is to be made for more than 60 s and no worker takes that up.'),
    ('flow', 'past_deadline', 'Its deadline passed more than 30 s ago and nothing ended it: the sweep does not run.'),
    ('flow', 'prompt_unclaimed', 'A prompt is to be asked for more than 60 s and no worker takes that up.'),
    ('flow', 'slow_prompt', 'Its prompt takes more than 3 times as long as 95 % of the prompts of this flow lately, and more than 60 s.'),
    ('handler', 'lease_lost', 'The lease of its session ran out more than 60 s ago and nothing ended it: the sweep does not run.'),
    ('workflow', 'session_lost', 'The lease of its session ran out more than 120 s ago and no worker goes on with it.'),
    ('workflow', 'session_unclaimed', 'A session is due for more than 120 s and no worker takes it.'),
    ('workflow', 'mutation_waits', 'Nobody can tell whether its side effect happened: its owner must say.'),
    ('workflow', 'fix_unclaimed', 'Its script is to be repaired for more than 5 min and no agent works on that.'),
    ('workflow', 'error_waits', 'It has an error that nobody acknowledged or resolved for more than an hour.')
$$;
comment on function private.stuck_rules is 'Every rule by which a run counts as stuck, in words.';

create function private.bot_stuck_rule(thread public.workflow_threads, moment timestamptz)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  if thread.bot_status is null or not lifecycle.is_open(thread.bot_status) then
    return null;
  elsif thread.deadline_at < moment - interval '30 s' then
    return 'past_deadline';
  elsif thread.stop_requested_at + coalesce(thread.stop_delay, '30 s') < moment - interval '60 s' then
    return 'stop_ignored';
  elsif thread.launch_due_at < moment - interval '60 s' then
    return 'start_unclaimed';
  elsif thread.processing_due_at < moment - interval '60 s' then
    return 'result_unclaimed';
  elsif thread.meeting_status = 'active' and thread.owner_id is not null
    and greatest(thread.joined_at, thread.last_heartbeat_at) < moment - interval '120 s'
  then
    return 'no_heartbeat';
  elsif lifecycle.is_open(thread.meeting_status) and thread.container_status in ('Exited', 'Failed')
    and thread.container_seen_at < moment - interval '60 s'
  then
    return 'machine_gone';
  end if;
  return null;
end;
$$;
comment on function private.bot_stuck_rule is 'The rule by which a bot is stuck at a moment; null if it is not.';

create function private.usual_prompt_ms(flow_id uuid)
returns float8
language sql
stable
set search_path = ''
as $$
  select percentile_cont(0.95) within group (order by r.duration_ms)
  from (
    select e.id from public.flow_executions e
    where e.flow_id = usual_prompt_ms.flow_id order by e.created_at desc limit 20
  ) e
  join public.flow_prompt_results r on r.execution_id = e.id
  where r.response is not null
$$;
comment on function private.usual_prompt_ms is 'What 95 % of the prompts in the last 20 executions of a flow stayed below (ms); null without any.';

create function private.execution_stuck_rule(execution public.flow_executions, moment timestamptz)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  since interval := moment - coalesce(execution.progressed_at, execution.created_at);
begin
  if execution.status <> 'running' then
    return null;
  elsif private.execution_deadline(execution.status, execution.created_at, execution.started_at, execution.progressed_at)
    < moment - interval '30 s'
  then
    return 'past_deadline';
  elsif greatest(execution.lease_expires_at, execution.not_before, execution.created_at) < moment - interval '60 s' then
    return 'prompt_unclaimed';
  elsif since > interval '60 s' and execution.lease_expires_at > moment
    and since > 3 * make_interval(secs => private.usual_prompt_ms(execution.flow_id) / 1000)
  then
    return 'slow_prompt';
  end if;
  return null;
end;
$$;
comment on function private.execution_stuck_rule is 'The rule by which an execution is stuck at a moment; null if it is not.';

create function private.handler_stuck_rule(run public.handler_runs, moment timestamptz)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  if run.status = 'active' and exists (
    select from public.script_runs s
    where s.id = run.script_run_id and s.lease_owner is not null and s.lease_expires_at < moment - interval '60 s'
  ) then
    return 'lease_lost';
  end if;
  return null;
end;
$$;
comment on function private.handler_stuck_rule is 'The rule by which a handler run is stuck at a moment; null if it is not.';

create function private.workflow_stuck_rule(workflow public.workflows, moment timestamptz)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  if exists (
    select from public.script_runs s
    where s.workflow_id = workflow.id and s.status = 'running' and s.lease_expires_at < moment - interval '120 s'
  ) then
    return 'session_lost';
  elsif exists (
    select from public.workflow_mutations m where m.workflow_id = workflow.id and m.status = 'indeterminate'
  ) then
    return 'mutation_waits';
  elsif workflow.maintenance and workflow.updated_at < moment - interval '5 min' and not exists (
    select from public.workflow_tasks t
    where t.workflow_id = workflow.id and t.type = 'maintainer' and t.lease_expires_at > moment
  ) then
    return 'fix_unclaimed';
  elsif workflow.next_due_at < moment - interval '120 s' and not exists (
    select from public.script_runs s where s.workflow_id = workflow.id and s.status = 'running'
  ) then
    return 'session_unclaimed';
  elsif workflow.status <> 'archived' and (
    workflow.error_at < moment - interval '1 h' or exists (
      select from public.workflow_messages m
      where m.workflow_id = workflow.id and m.role = 'event' and m.type = 'error'
        and m.acknowledged_at is null and m.resolved_at is null and m.created_at < moment - interval '1 h'
    )
  ) then
    return 'error_waits';
  end if;
  return null;
end;
$$;
comment on function private.workflow_stuck_rule is 'The rule by which a workflow is stuck at a moment; null if it is not.';

-- Rows

create function private.stamp(at timestamptz)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  return to_char(at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
end;
$$;
comment on function private.stamp is 'A time as short as pages need it: ISO 8601, in UTC, milliseconds.';

create function private.exact_stamp(at timestamptz)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  return to_char(at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
end;
$$;
comment on function private.exact_stamp is 'A time with its microseconds, always of one width: compares as text.';

create function private.cut_bytes(words text, max_bytes int)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  short text := words;
begin
  while octet_length(short) > max_bytes loop
    short := left(short, greatest(0, least(
      length(short) - 1, length(short) * max_bytes / octet_length(short))));
  end loop;
  return case when short = words or short = '' then short else left(short, -1) || '…' end;
end;
$$;
comment on function private.cut_bytes is 'The beginning of a text, about max_bytes of UTF-8 at most, with an ellipsis where something is missing.';

create function private.fitted_run(run jsonb)
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
declare
  cut jsonb := jsonb_strip_nulls(run) || jsonb_strip_nulls(jsonb_build_object(
    'name', private.cut_bytes(regexp_replace(run ->> 'name', '[[:cntrl:]]', ' ', 'g'), 80),
    'error_message', left(run ->> 'error_message', 300),
    'progress_label', left(regexp_replace(run ->> 'progress_label', '[[:cntrl:]]+', ' ', 'g'), 120)));
  excess int := octet_length(cut::text) - 600;
begin
  if excess > 0 and cut ? 'progress_label' then
    cut := cut || jsonb_build_object('progress_label',
      private.cut_bytes(cut ->> 'progress_label', greatest(24, octet_length(cut ->> 'progress_label') - excess - 4)));
    excess := octet_length(cut::text) - 600;
  end if;
  if excess > 0 and cut ? 'error_message' then
    cut := cut || jsonb_build_object('error_message',
      private.cut_bytes(cut ->> 'error_message', greatest(60, octet_length(cut ->> 'error_message') - excess - 4)));
    excess := octet_length(cut::text) - 600;
  end if;
  if excess > 0 then
    cut := cut || jsonb_build_object('name',
      private.cut_bytes(cut ->> 'name', greatest(20, octet_length(cut ->> 'name') - excess - 4)));
  end if;
  return cut;
end;
$$;
comment on function private.fitted_run is 'A row of the list of runs without its nulls, its texts cut so that it has about 600 bytes at most.';

create function private.bot_row(thread public.workflow_threads, moment timestamptz)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.fitted_run(jsonb_build_object(
    'id', thread.bot_id, 'kind', 'bot',
    'name', coalesce(thread.bot_name, thread.native_meeting_id, thread.room_name, 'bot'),
    'state', thread.bot_status, 'meeting_status', thread.meeting_status, 'container_status', thread.container_status,
    'reason', coalesce(thread.completion_reason::text, thread.stop_reason::text),
    'state_since', private.stamp(coalesce(thread.bot_status_updated_at, thread.created_at)),
    'version', thread.version,
    'updated_at', private.exact_stamp(greatest(thread.created_at, thread.bot_status_updated_at, thread.meeting_status_updated_at)),
    'created_at', private.exact_stamp(thread.created_at),
    'started_at', private.stamp(thread.bot_started_at), 'finished_at', private.stamp(thread.bot_completed_at),
    'error_stage', thread.error_stage, 'error_code', thread.error_code, 'error_message', thread.error_message,
    'attempt', 1,
    'deadline_at', private.stamp(thread.deadline_at),
    'retry_of', (select e.bot_id from public.workflow_threads e where e.workflow_thread_id = thread.retry_of),
    'stuck_rule', private.bot_stuck_rule(thread, moment),
    'allowed_actions', to_jsonb(array_remove(array[
      case when lifecycle.is_open(thread.meeting_status) and thread.stop_requested_at is null then 'stop' end,
      case when not lifecycle.is_open(thread.bot_status) and thread.owner_id is not null then 'retry' end
    ], null))
  ) || case when lifecycle.is_open(thread.bot_status) then jsonb_build_object(
    'last_heartbeat_at', private.stamp(thread.last_heartbeat_at),
    'stop_requested_at', private.stamp(thread.stop_requested_at)
  ) else '{}' end);
end;
$$;
comment on function private.bot_row is 'A bot as the list of runs has it.';

create function private.execution_row(execution public.flow_executions, moment timestamptz)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return private.fitted_run(jsonb_build_object(
    'id', execution.id, 'kind', 'flow', 'name', execution.flow_name, 'state', execution.status,
    'state_since', private.stamp(coalesce(execution.completed_at, execution.created_at)),
    'version', execution.version,
    'updated_at', private.exact_stamp(greatest(execution.created_at, execution.progressed_at, execution.completed_at)),
    'created_at', private.exact_stamp(execution.created_at),
    'started_at', private.stamp(execution.started_at), 'finished_at', private.stamp(execution.completed_at),
    'error_stage', case when execution.status = 'failed' then
      case when execution.started_at is null then 'queue' else 'prompt' end end,
    'error_code', execution.error_code, 'error_message', execution.error,
    'progress_done', execution.current_prompt_index, 'progress_total', execution.total_prompts,
    'attempt', execution.attempt, 'retry_of', execution.retry_of,
    'stuck_rule', private.execution_stuck_rule(execution, moment),
    'allowed_actions', case execution.status
      when 'running' then '["cancel"]'::jsonb when 'failed' then '["retry"]'::jsonb else '[]'::jsonb end
  ) || case when execution.status = 'running' then jsonb_build_object(
    'progress_label', coalesce(
      execution.prompts -> execution.current_prompt_index ->> 'title',
      private.prompt_text(execution.prompts, execution.current_prompt_index)),
    'deadline_at', private.stamp(private.execution_deadline(
      execution.status, execution.created_at, execution.started_at, execution.progressed_at))
  ) else '{}' end);
end;
$$;
comment on function private.execution_row is 'An execution as the list of runs has it.';

create function private.handler_row(run public.handler_runs, moment timestamptz)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  place int;
  places int;
begin
  select max(s.position) filter (where s.state = run.phase::text) - 1, count(*) - 1 into place, places
  from lifecycle.states s where s.machine = run.handler_type || '_phase';
  return private.fitted_run(jsonb_build_object(
    'id', run.id, 'kind', 'handler',
    'name', (select w.title from public.workflows w where w.id = run.workflow_id) || ': ' || run.handler_name,
    'state', run.status, 'reason', run.error_type,
    'state_since', private.stamp(coalesce(run.ended_at, run.started_at)),
    'version', run.version,
    'updated_at', private.exact_stamp(greatest(run.started_at, run.ended_at)),
    'created_at', private.exact_stamp(run.started_at),
    'started_at', private.stamp(run.started_at), 'finished_at', private.stamp(run.ended_at),
    'error_stage', case when run.status not in ('active', 'committed') then private.run_stage(run.handler_type, run.phase) end,
    'error_code', private.run_error_code(run.status, run.error_type),
    'error_message', case when run.status not in ('active', 'committed') then run.error end,
    'progress_done', place, 'progress_total', places, 'progress_label', run.phase,
    'attempt', case when run.retry_of is null then 1 else 2 end, 'retry_of', run.retry_of,
    'stuck_rule', private.handler_stuck_rule(run, moment),
    'workflow_id', run.workflow_id, 'session_id', run.script_run_id, 'allowed_actions', '[]'::jsonb
  ) || case when run.status = 'active' then jsonb_build_object(
    'deadline_at', (select private.stamp(s.lease_expires_at) from public.script_runs s where s.id = run.script_run_id)
  ) else '{}' end);
end;
$$;
comment on function private.handler_row is 'A handler run as the list of runs has it; its progress is how many phases it has passed.';

create function private.workflow_row(workflow public.workflows, moment timestamptz)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  state text := private.workflow_state(workflow);
  session public.script_runs;
begin
  select * into session from public.script_runs s
  where s.workflow_id = workflow.id order by s.started_at desc, s.id desc limit 1;
  return private.fitted_run(jsonb_build_object(
    'id', workflow.id, 'kind', 'workflow', 'name', workflow.title, 'state', state, 'reason', workflow.status,
    'state_since', private.stamp(case when state = 'error' then coalesce(workflow.error_at, workflow.updated_at)
      else workflow.status_updated_at end),
    'version', workflow.version,
    'updated_at', private.exact_stamp(greatest(workflow.updated_at, session.started_at, session.ended_at)),
    'created_at', private.exact_stamp(workflow.created_at),
    'started_at', private.stamp(session.started_at),
    'error_stage', workflow.error_stage, 'error_code', workflow.error_code, 'error_message', workflow.error,
    'progress_label', case when session.status = 'running' then coalesce((
      select r.handler_name || ': ' || r.phase from public.handler_runs r
      where r.workflow_id = workflow.id and r.status = 'active'
    ), 'session') end,
    'attempt', 1 + workflow.transient_failures,
    'deadline_at', private.stamp(session.lease_expires_at),
    'stuck_rule', private.workflow_stuck_rule(workflow, moment),
    'session_id', session.id, 'allowed_actions', private.workflow_actions(state)
  ));
end;
$$;
comment on function private.workflow_row is 'A workflow as the list of runs has it, with its newest session.';

create function private.run_row(kind text, id uuid, moment timestamptz)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  thread public.workflow_threads;
  execution public.flow_executions;
  run public.handler_runs;
  workflow public.workflows;
begin
  if kind = 'bot' then
    select * into thread from public.workflow_threads t where t.bot_id = run_row.id and t.bot_status is not null;
    return case when thread.bot_id is not null then private.bot_row(thread, moment) end;
  elsif kind = 'flow' then
    select * into execution from public.flow_executions e where e.id = run_row.id;
    return case when execution.id is not null then private.execution_row(execution, moment) end;
  elsif kind = 'handler' then
    select * into run from public.handler_runs r where r.id = run_row.id;
    return case when run.id is not null then private.handler_row(run, moment) end;
  elsif kind = 'workflow' then
    select * into workflow from public.workflows w where w.id = run_row.id;
    return case when workflow.id is not null then private.workflow_row(workflow, moment) end;
  end if;
  return null;
end;
$$;
comment on function private.run_row is 'A row of the list of runs; null where the caller sees none.';

create view public.stuck_runs with (security_invoker = true) as
  select s.kind, s.id, s.owner_id, s.rule, r.words, s.state, s.since
  from (
    select 'bot' as kind, t.bot_id as id, t.owner_id, private.bot_stuck_rule(t, m.moment) as rule,
      t.bot_status::text as state, t.bot_status_updated_at as since
    from (select lifecycle.now() as moment) m, public.workflow_threads t
    where t.bot_status in ('pending', 'starting', 'running')
    union all
    select 'flow', e.id, e.owner_id, private.execution_stuck_rule(e, m.moment),
      e.status::text, coalesce(e.progressed_at, e.created_at)
    from (select lifecycle.now() as moment) m, public.flow_executions e
    where e.status = 'running'
    union all
    select 'handler', h.id, h.owner_id, private.handler_stuck_rule(h, m.moment), h.status::text, h.started_at
    from (select lifecycle.now() as moment) m, public.handler_runs h
    where h.status = 'active'
    union all
    select 'workflow', w.id, w.owner_id, private.workflow_stuck_rule(w, m.moment), w.status::text, w.updated_at
    from (select lifecycle.now() as moment) m, public.workflows w
    where w.id in (
      select d.id from public.workflows d where d.next_due_at < m.moment - interval '120 s'
      union select x.id from public.workflows x where x.maintenance
      union select x.id from public.workflows x where x.error is not null
      union select s.workflow_id from public.script_runs s where s.status = 'running'
      union select u.workflow_id from public.workflow_mutations u where u.status in ('in_flight', 'needs_reconcile', 'indeterminate')
      union select o.workflow_id from public.workflow_messages o
        where o.role = 'event' and o.type = 'error' and o.acknowledged_at is null and o.resolved_at is null
    )
  ) s
  join private.stuck_rules() r on r.kind = s.kind and r.rule = s.rule;
comment on view public.stuck_runs is
  'What does not go on by itself, with the rule that says so, in words: kind, id, owner_id, rule, words, state, since. Looks only at what has not ended, and at workflows where something is due or wrong.';

revoke all on public.stuck_runs from public, anon, authenticated, service_role;
grant select on public.stuck_runs to authenticated, service_role;

revoke execute on function
  private.stuck_rules(), private.bot_stuck_rule(public.workflow_threads, timestamptz), private.usual_prompt_ms(uuid),
  private.execution_stuck_rule(public.flow_executions, timestamptz),
  private.stamp(timestamptz), private.exact_stamp(timestamptz), private.cut_bytes(text, int), private.fitted_run(jsonb),
  private.bot_row(public.workflow_threads, timestamptz), private.execution_row(public.flow_executions, timestamptz),
  private.handler_row(public.handler_runs, timestamptz), private.workflow_row(public.workflows, timestamptz),
  private.handler_stuck_rule(public.handler_runs, timestamptz), private.workflow_stuck_rule(public.workflows, timestamptz),
  private.run_row(text, uuid, timestamptz)
from public, anon, authenticated;
grant execute on function
  private.stuck_rules(), private.bot_stuck_rule(public.workflow_threads, timestamptz), private.usual_prompt_ms(uuid),
  private.execution_stuck_rule(public.flow_executions, timestamptz),
  private.stamp(timestamptz), private.exact_stamp(timestamptz), private.cut_bytes(text, int), private.fitted_run(jsonb),
  private.bot_row(public.workflow_threads, timestamptz), private.execution_row(public.flow_executions, timestamptz),
  private.handler_row(public.handler_runs, timestamptz), private.workflow_row(public.workflows, timestamptz),
  private.handler_stuck_rule(public.handler_runs, timestamptz), private.workflow_stuck_rule(public.workflows, timestamptz),
  private.run_row(text, uuid, timestamptz)
to authenticated, service_role;
-- How the list words the errors of runs; they read nothing.
grant execute on function
  private.run_stage(public.handler_type, public.handler_phase),
  private.run_error_code(public.handler_run_status, public.handler_error_type)
to authenticated, service_role;
-- It says the time and nothing else.
grant execute on function lifecycle.now() to authenticated;
