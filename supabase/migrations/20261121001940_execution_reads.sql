-- Executions as callers get them.

create function private.prompt_text(prompts jsonb, prompt_index int)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  return coalesce(prompts -> prompt_index ->> 'prompt', prompts ->> prompt_index);
end;
$$;
comment on function private.prompt_text is 'The words of a prompt, which is a text or { prompt, title }; null beyond the last.';

create function private.execution_deadline(
  status public.flow_execution_status, created_at timestamptz, started_at timestamptz, progressed_at timestamptz
)
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
begin
  if status <> 'running' then
    return null;
  elsif started_at is null then
    return created_at + interval '24 h';
  end if;
  return progressed_at + (
    select s.time_limit from lifecycle.states s where s.machine = 'flow_execution' and s.state = 'running');
end;
$$;
comment on function private.execution_deadline is
  'When an execution counts as lost: 24 h without any claim, 15 min after the newest claim or stored result; null at the end.';

create function private.execution_json(execution public.flow_executions)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  latest_response text;
  known record;
  shown jsonb;
begin
  if execution.current_prompt_index > 0 then
    select left(r.response, 300) into latest_response from public.flow_prompt_results r
    where r.execution_id = execution.id and r.response is not null
    order by r.prompt_index desc limit 1;
  end if;
  -- One call for all of it, since every object that is put together is written anew.
  shown := jsonb_build_object(
    'id', execution.id, 'execution_id', execution.id, 'flow_id', execution.flow_id, 'owner_id', execution.owner_id,
    'flow_name', execution.flow_name, 'status', execution.status, 'version', execution.version,
    'started', execution.started_at is not null,
    'current_prompt_index', execution.current_prompt_index, 'total_prompts', execution.total_prompts,
    'progress', round(execution.current_prompt_index::numeric / execution.total_prompts, 4),
    'current_prompt', left(case when execution.status <> 'completed'
      then private.prompt_text(execution.prompts, execution.current_prompt_index) end, 300),
    'latest_response', latest_response,
    'created_at', execution.created_at, 'started_at', execution.started_at, 'completed_at', execution.completed_at,
    'progressed_at', execution.progressed_at,
    'deadline_at', private.execution_deadline(
      execution.status, execution.created_at, execution.started_at, execution.progressed_at),
    'retry_of', execution.retry_of, 'attempt', execution.attempt, 'prompt_attempts', execution.prompt_attempts,
    'not_before', execution.not_before, 'lease_owner', execution.lease_owner,
    'lease_expires_at', execution.lease_expires_at,
    'error', execution.error, 'error_code', execution.error_code, 'error_details', execution.error_details,
    'attribution', null, 'retryable', null, 'meaning', null, 'next_step', null,
    'topic', 'flow_execution:' || execution.id,
    'allowed_actions', case execution.status
      when 'running' then '["cancel"]'::jsonb when 'failed' then '["retry"]'::jsonb else '[]'::jsonb end
  );
  if execution.error_code is null then
    return shown;
  end if;
  select c.attribution, c.retryable, c.meaning, c.next_step into known
  from public.error_codes c where c.code = execution.error_code;
  return shown || jsonb_build_object(
    'attribution', known.attribution, 'retryable', known.retryable, 'meaning', known.meaning, 'next_step', known.next_step);
end;
$$;
comment on function private.execution_json is
  'An execution as lists show it: without its prompts and responses, the error with its meaning, and allowed_actions. Never the lease''s token.';

create function private.execution_results(execution public.flow_executions)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(
    jsonb_build_object(
      'index', r.prompt_index, 'prompt', private.prompt_text(execution.prompts, r.prompt_index),
      'response', r.response, 'error', r.error,
      'started_at', r.completed_at - make_interval(secs => r.duration_ms / 1000.0), 'completed_at', r.completed_at,
      'duration_ms', r.duration_ms, 'attempts', r.attempts, 'usage', r.usage
    ) || case when r.omitted_pairs > 0 then jsonb_build_object('omitted_pairs', r.omitted_pairs) else '{}' end
    order by r.prompt_index
  ), '[]')
  from public.flow_prompt_results r where r.execution_id = execution.id
$$;
comment on function private.execution_results is 'What became of each prompt so far, in order.';

create function public.get_execution(id uuid, include text[] default '{results}', owner_id uuid default null)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  execution public.flow_executions;
begin
  select * into execution from public.flow_executions e
  where e.id = get_execution.id and (get_execution.owner_id is null or e.owner_id = get_execution.owner_id);
  if execution.id is null then
    return null;
  end if;
  return private.execution_json(execution)
    || jsonb_build_object('prompts', execution.prompts, 'agent', execution.agent)
    || case when 'results' = any (include)
      then jsonb_build_object('prompt_results', private.execution_results(execution)) else '{}' end
    || case when 'events' = any (include) then jsonb_build_object('events', private.bot_events(execution.id)) else '{}' end;
end;
$$;
comment on function public.get_execution is
  'A whole execution; null where the caller sees none. include: results (prompt_results) and events (its history).';

create function public.list_active_executions(owner_id uuid default null)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object('items', coalesce(jsonb_agg(private.execution_json(e) order by e.created_at, e.id), '[]'))
  from public.flow_executions e
  where e.status = 'running' and (list_active_executions.owner_id is null or e.owner_id = list_active_executions.owner_id)
$$;
comment on function public.list_active_executions is 'All running executions that the caller sees, oldest first: { items }.';

create function public.list_recent_executions(max_rows int default 20, cursor text default null, owner_id uuid default null)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  place record := private.read_list_cursor(cursor);
  items jsonb;
  ends jsonb;
begin
  if max_rows is null or max_rows not between 1 and 200 then
    perform lifecycle.refuse_input('limit', 'must be a whole number from 1 to 200.');
  end if;
  select jsonb_agg(private.execution_json(e) order by e.created_at desc, e.id desc),
    jsonb_agg(private.list_cursor(e.created_at, e.id) order by e.created_at desc, e.id desc)
  into items, ends
  from (
    select * from public.flow_executions e
    where (list_recent_executions.owner_id is null or e.owner_id = list_recent_executions.owner_id)
      and (e.created_at, e.id) < (place.before_at, place.before_id)
    order by e.created_at desc, e.id desc limit max_rows + 1
  ) e;
  if jsonb_array_length(items) > max_rows then
    return jsonb_build_object('items', items - max_rows, 'next_cursor', ends ->> (max_rows - 1));
  end if;
  return jsonb_build_object('items', coalesce(items, '[]'), 'next_cursor', null);
end;
$$;
comment on function public.list_recent_executions is
  'The executions that the caller sees, newest first: { items, next_cursor }. max_rows: 1 to 200.';

revoke execute on function
  private.prompt_text(jsonb, int),
  private.execution_deadline(public.flow_execution_status, timestamptz, timestamptz, timestamptz),
  private.execution_json(public.flow_executions), private.execution_results(public.flow_executions),
  public.get_execution(uuid, text[], uuid), public.list_active_executions(uuid),
  public.list_recent_executions(int, text, uuid)
from public, anon, authenticated;
grant execute on function
  private.prompt_text(jsonb, int),
  private.execution_deadline(public.flow_execution_status, timestamptz, timestamptz, timestamptz),
  private.execution_json(public.flow_executions), private.execution_results(public.flow_executions),
  public.get_execution(uuid, text[], uuid), public.list_active_executions(uuid),
  public.list_recent_executions(int, text, uuid)
to authenticated, service_role;
