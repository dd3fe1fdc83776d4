-- Workflows as callers get them. Reads run as their caller: the policies say what each sees.

-- The names of secrets are no secret.
create policy "owners read the names of their secrets" on private.workflow_secrets
  for select to authenticated using (exists (select from public.workflows w where w.id = workflow_id));
grant select (workflow_id, name) on private.workflow_secrets to authenticated, service_role;

create function private.script_json(script public.workflow_scripts)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'id', script.id, 'version', private.script_version(script), 'major', script.major, 'minor', script.minor,
    'comment', script.comment, 'summary', script.summary, 'actor', script.actor,
    'created_at', script.created_at
  )
  where script.id is not null
$$;
comment on function private.script_json is 'A version of a script as lists show it, without its code; null for none.';

create function private.workflow_error_json(workflow public.workflows)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'code', workflow.error_code, 'message', workflow.error, 'run_id', workflow.error_run_id,
    'stage', workflow.error_stage,
    'attribution', c.attribution, 'meaning', c.meaning, 'next_step', c.next_step, 'retryable', c.retryable,
    'at', workflow.error_at
  )
  from (select) one
  left join public.error_codes c on c.code = workflow.error_code
  where workflow.error is not null
$$;
comment on function private.workflow_error_json is 'What is wrong with a workflow, with the meaning of its code; null for nothing.';

create function private.workflow_summary(workflow public.workflows)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'workflow_id', workflow.id, 'id', workflow.id, 'owner_id', workflow.owner_id, 'title', workflow.title,
    'status', workflow.status, 'state', s.state, 'actions', s.actions,
    'error', private.workflow_error_json(workflow),
    'maintenance', workflow.maintenance, 'maintenance_fix_count', workflow.maintenance_fix_count,
    'pending_retry_run_id', workflow.pending_retry_run_id,
    'active_script_id', workflow.active_script_id,
    'active_script', (
      select private.script_json(a) from public.workflow_scripts a where a.id = workflow.active_script_id),
    'time_zone', workflow.time_zone, 'next_due_at', workflow.next_due_at,
    'run_requested_at', workflow.run_requested_at, 'backoff_until', workflow.backoff_until,
    'transient_failures', workflow.transient_failures, 'version', workflow.version,
    'topic', 'workflow:' || workflow.id,
    'created_at', workflow.created_at, 'updated_at', workflow.updated_at
  )
  from public.workflow_states s where s.workflow_id = workflow.id
$$;
comment on function private.workflow_summary is 'A workflow as lists show it.';

create function private.mutation_actions(mutation public.workflow_mutations)
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case
    when mutation.status <> 'indeterminate' then '[]'
    when mutation.reconcile is null then '["failed", "skipped", "applied"]'
    else '["failed", "skipped", "applied", "ask_again"]'
  end::jsonb;
end;
$$;
comment on function private.mutation_actions is 'What a person may say of a side effect: nothing while it is still being asked.';

create function private.unresolved_mutation_json(workflow_id uuid)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'id', m.id, 'mutation_id', m.id, 'run_id', m.run_id, 'tool', m.tool, 'params', m.params, 'status', m.status,
    'error', m.error, 'reconcile_attempts', m.reconcile_attempts, 'next_reconcile_at', m.next_reconcile_at,
    'actions', private.mutation_actions(m)
  )
  from public.workflow_mutations m
  where m.workflow_id = unresolved_mutation_json.workflow_id
    and (
      m.status in ('needs_reconcile', 'indeterminate')
      -- While its run goes on, a call that is under way is nothing to worry about.
      or (m.status = 'in_flight' and not exists (
        select from public.handler_runs r where r.id = m.run_id and r.status = 'active'
      ))
    )
  order by m.created_at limit 1
$$;
comment on function private.unresolved_mutation_json is
  'The side effect of a workflow of which nobody knows whether it happened, with what may be said of it; null for none.';

create function private.workflow_json(workflow public.workflows)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select private.workflow_summary(workflow) || jsonb_build_object(
    'chat_id', workflow.chat_id,
    'task', (
      select jsonb_build_object('id', t.id, 'type', t.type, 'state', t.state, 'title', t.title, 'error', t.error)
      from public.workflow_tasks t where t.id = workflow.task_id
    ),
    'schedules', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'producer', p.producer, 'interval', p.interval, 'cron', p.cron,
        'next_run_at', p.next_run_at, 'last_run_at', p.last_run_at
      ) order by p.producer), '[]')
      from public.producer_schedules p where p.workflow_id = workflow.id
    ),
    'notifications', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', n.id, 'type', n.type, 'payload', n.payload, 'created_at', n.created_at,
        'acknowledged_at', n.acknowledged_at, 'resolved_at', n.resolved_at
      ) order by n.created_at desc, n.id desc), '[]')
      from (
        select * from public.workflow_notifications o
        where o.workflow_id = workflow.id and o.acknowledged_at is null and o.resolved_at is null
        order by o.created_at desc, o.id desc limit 50
      ) n
    ),
    'unresolved_mutation', private.unresolved_mutation_json(workflow.id),
    'secret_names', (
      select coalesce(jsonb_agg(s.name order by s.name), '[]')
      from private.workflow_secrets s where s.workflow_id = workflow.id
    )
  )
$$;
comment on function private.workflow_json is 'A workflow with its task, schedules, newest open notifications (at most 50) and what waits for a person.';

create function public.get_workflow(workflow_id uuid, owner_id uuid default null)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select private.workflow_json(w) from public.workflows w
  where w.id = get_workflow.workflow_id and (get_workflow.owner_id is null or w.owner_id = get_workflow.owner_id)
$$;
comment on function public.get_workflow is
  'A workflow: its status, what is shown of it (state, actions), error, active script, schedules and open notifications; null where the caller sees none.';

create function public.list_workflows(
  max_rows int default 20, cursor text default null, owner_id uuid default null, state text default null
)
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
  elsif list_workflows.state not in ('draft', 'ready', 'active', 'paused', 'error', 'fixing', 'archived') then
    perform lifecycle.refuse_input('state', 'must be draft, ready, active, paused, error, fixing or archived.');
  end if;
  select jsonb_agg(private.workflow_summary(w) order by w.created_at desc, w.id desc),
    jsonb_agg(private.list_cursor(w.created_at, w.id) order by w.created_at desc, w.id desc)
  into items, ends
  from (
    select w.* from public.workflows w
    where (list_workflows.owner_id is null or w.owner_id = list_workflows.owner_id)
      and (w.created_at, w.id) < (place.before_at, place.before_id)
      and (list_workflows.state is null or private.workflow_state(w) = list_workflows.state)
    order by w.created_at desc, w.id desc limit max_rows + 1
  ) w;
  if jsonb_array_length(items) > max_rows then
    return jsonb_build_object('items', items - max_rows, 'next_cursor', ends ->> (max_rows - 1));
  end if;
  return jsonb_build_object('items', coalesce(items, '[]'), 'next_cursor', null);
end;
$$;
comment on function public.list_workflows is
  'The workflows that the caller sees, newest first: { items, next_cursor }. state: only those that are shown so. max_rows: 1 to 200.';

create function private.seen_workflow(workflow_id uuid, owner_id uuid)
returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
  seen uuid;
begin
  select w.id into seen from public.workflows w
  where w.id = seen_workflow.workflow_id and (seen_workflow.owner_id is null or w.owner_id = seen_workflow.owner_id);
  if seen is null then
    perform lifecycle.refuse(404, 'workflow_not_found', 'There is no such workflow.');
  end if;
  return seen;
end;
$$;
comment on function private.seen_workflow is 'The workflow if the caller sees it, and it is this owner''s (null: anyone''s); else PT404.';

create function public.list_workflow_scripts(workflow_id uuid, owner_id uuid default null)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  perform private.seen_workflow(workflow_id, owner_id);
  return jsonb_build_object('items', (
    select coalesce(jsonb_agg(private.script_json(s) order by s.major desc, s.minor desc), '[]')
    from public.workflow_scripts s where s.workflow_id = list_workflow_scripts.workflow_id
  ));
end;
$$;
comment on function public.list_workflow_scripts is 'The versions of a workflow''s script, newest first, without their code: { items }.';

create function public.get_workflow_script(script_id uuid, owner_id uuid default null)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select private.script_json(s) || jsonb_build_object('workflow_id', s.workflow_id, 'code', s.code, 'config', s.config)
  from public.workflow_scripts s
  where s.id = get_workflow_script.script_id
    and (get_workflow_script.owner_id is null or s.owner_id = get_workflow_script.owner_id)
$$;
comment on function public.get_workflow_script is 'A version of a script with its code and config; null where the caller sees none.';

create function public.list_workflow_messages(
  workflow_id uuid, max_rows int default 20, cursor text default null, owner_id uuid default null
)
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
  perform private.seen_workflow(workflow_id, owner_id);
  select jsonb_agg(jsonb_build_object(
      'id', m.id, 'workflow_id', m.workflow_id, 'role', m.role, 'type', m.type, 'content', m.content, 'payload', m.payload,
      'acknowledged_at', m.acknowledged_at, 'resolved_at', m.resolved_at, 'created_at', m.created_at
    ) order by m.created_at desc, m.id desc),
    jsonb_agg(private.list_cursor(m.created_at, m.id) order by m.created_at desc, m.id desc)
  into items, ends
  from (
    select * from public.workflow_messages m
    where m.workflow_id = list_workflow_messages.workflow_id
      and (m.created_at, m.id) < (place.before_at, place.before_id)
    order by m.created_at desc, m.id desc limit max_rows + 1
  ) m;
  if jsonb_array_length(items) > max_rows then
    return jsonb_build_object('items', items - max_rows, 'next_cursor', ends ->> (max_rows - 1));
  end if;
  return jsonb_build_object('items', coalesce(items, '[]'), 'next_cursor', null);
end;
$$;
comment on function public.list_workflow_messages is
  'What was said about a workflow, newest first: { items, next_cursor }. max_rows: 1 to 200.';

create function private.handler_run_json(run public.handler_runs)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'id', run.id, 'run_id', run.id, 'handler_type', run.handler_type, 'handler_name', run.handler_name,
    'phase', run.phase, 'status', run.status, 'mutation_outcome', run.mutation_outcome, 'retry_of', run.retry_of,
    'error', run.error, 'error_type', run.error_type, 'cost_microusd', run.cost_microusd,
    'started_at', run.started_at, 'ended_at', run.ended_at
  )
$$;
comment on function private.handler_run_json is 'A handler run as lists show it.';

create function private.whole_handler_run_json(run public.handler_runs)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select private.handler_run_json(run) || jsonb_build_object(
    'prepare_result', run.prepare_result, 'publications', run.publications,
    'state_before', run.state_before, 'state_after', run.state_after, 'details', run.details, 'logs', run.logs,
    'mutation', (
      select jsonb_build_object(
        'id', m.id, 'mutation_id', m.id, 'tool', m.tool, 'params', m.params, 'reconcile', m.reconcile, 'status', m.status,
        'result', m.result, 'error', m.error, 'reconcile_attempts', m.reconcile_attempts,
        'next_reconcile_at', m.next_reconcile_at, 'resolved_by', m.resolved_by, 'resolved_at', m.resolved_at,
        'actions', private.mutation_actions(m)
      )
      from public.workflow_mutations m where m.run_id = run.id
    ),
    'events', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'topic', t.name, 'message_id', e.message_id, 'payload', e.payload, 'status', e.status,
        'attempt_number', e.attempt_number,
        'part', case when e.reserved_by_run_id = run.id then 'reserved' else 'published' end
      ) order by e.position), '[]')
      from public.workflow_events e join public.workflow_topics t on t.id = e.topic_id
      where e.reserved_by_run_id = run.id or e.created_by_run_id = run.id
    )
  )
$$;
comment on function private.whole_handler_run_json is 'A handler run with all that it did.';

create function private.session_json(session public.script_runs)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'id', session.id, 'session_id', session.id, 'workflow_id', session.workflow_id, 'script_id', session.script_id,
    'script_version', (select private.script_version(s) from public.workflow_scripts s where s.id = session.script_id),
    'trigger', session.trigger, 'status', session.status, 'result', session.result,
    'error', session.error, 'error_type', session.error_type, 'cost_microusd', session.cost_microusd,
    'handler_run_count', session.handler_run_count, 'retry_of', session.retry_of,
    'started_at', session.started_at, 'ended_at', session.ended_at
  )
$$;
comment on function private.session_json is 'A session of a workflow, without its handler runs. Never the lease''s token.';

create function public.list_workflow_runs(
  workflow_id uuid, max_rows int default 20, cursor text default null, owner_id uuid default null
)
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
  perform private.seen_workflow(workflow_id, owner_id);
  select jsonb_agg(private.session_json(s) || jsonb_build_object('handler_runs', (
      select coalesce(jsonb_agg(private.handler_run_json(r) order by r.started_at, r.id), '[]')
      from public.handler_runs r where r.script_run_id = s.id
    )) order by s.started_at desc, s.id desc),
    jsonb_agg(private.list_cursor(s.started_at, s.id) order by s.started_at desc, s.id desc)
  into items, ends
  from (
    select * from public.script_runs s
    where s.workflow_id = list_workflow_runs.workflow_id
      and (s.started_at, s.id) < (place.before_at, place.before_id)
    order by s.started_at desc, s.id desc limit max_rows + 1
  ) s;
  if jsonb_array_length(items) > max_rows then
    return jsonb_build_object('items', items - max_rows, 'next_cursor', ends ->> (max_rows - 1));
  end if;
  return jsonb_build_object('items', coalesce(items, '[]'), 'next_cursor', null);
end;
$$;
comment on function public.list_workflow_runs is
  'The sessions of a workflow with their handler runs, newest first: { items, next_cursor }. max_rows: 1 to 200.';

create function public.get_workflow_run(session_id uuid, workflow_id uuid default null, owner_id uuid default null)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select private.session_json(s) || jsonb_build_object('handler_runs', (
    select coalesce(jsonb_agg(private.whole_handler_run_json(r) order by r.started_at, r.id), '[]')
    from public.handler_runs r where r.script_run_id = s.id
  ))
  from public.script_runs s
  where s.id = get_workflow_run.session_id
    and (get_workflow_run.workflow_id is null or s.workflow_id = get_workflow_run.workflow_id)
    and (get_workflow_run.owner_id is null or s.owner_id = get_workflow_run.owner_id)
$$;
comment on function public.get_workflow_run is
  'A session with all that its handler runs did: logs, states, events and side effects; null where the caller sees none.';

revoke execute on function
  private.script_json(public.workflow_scripts), private.workflow_error_json(public.workflows),
  private.workflow_summary(public.workflows), private.mutation_actions(public.workflow_mutations),
  private.unresolved_mutation_json(uuid), private.workflow_json(public.workflows), private.seen_workflow(uuid, uuid),
  private.handler_run_json(public.handler_runs), private.whole_handler_run_json(public.handler_runs),
  private.session_json(public.script_runs),
  public.get_workflow(uuid, uuid), public.list_workflows(int, text, uuid, text),
  public.list_workflow_scripts(uuid, uuid), public.get_workflow_script(uuid, uuid),
  public.list_workflow_messages(uuid, int, text, uuid), public.list_workflow_runs(uuid, int, text, uuid),
  public.get_workflow_run(uuid, uuid, uuid)
from public, anon, authenticated;
grant execute on function
  private.script_json(public.workflow_scripts), private.workflow_error_json(public.workflows),
  private.workflow_summary(public.workflows), private.mutation_actions(public.workflow_mutations),
  private.unresolved_mutation_json(uuid), private.workflow_json(public.workflows), private.seen_workflow(uuid, uuid),
  private.handler_run_json(public.handler_runs), private.whole_handler_run_json(public.handler_runs),
  private.session_json(public.script_runs),
  public.get_workflow(uuid, uuid), public.list_workflows(int, text, uuid, text),
  public.list_workflow_scripts(uuid, uuid), public.get_workflow_script(uuid, uuid),
  public.list_workflow_messages(uuid, int, text, uuid), public.list_workflow_runs(uuid, int, text, uuid),
  public.get_workflow_run(uuid, uuid, uuid)
to authenticated, service_role;
