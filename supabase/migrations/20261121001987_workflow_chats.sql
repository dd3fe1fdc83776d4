-- Talking with the agent: what an owner says makes a task of the planner, or goes on with one that waits for an answer.

create function private.check_message(content text)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if coalesce(btrim(content, E' \t\r\n'), '') = '' then
    perform lifecycle.refuse_input('content', 'needs words.');
  elsif octet_length(content) > 32768 then
    perform lifecycle.refuse_input('content', 'has at most 32 KB.');
  end if;
end;
$$;
comment on function private.check_message is 'Raises PT422 for what is no message of a person.';

create function private.tell_planner(workflow public.workflows, content text, actor uuid default null)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  task uuid;
  message uuid;
begin
  perform private.check_message(content);
  update public.workflow_tasks t
  set state = 'queued', messages = t.messages || jsonb_build_object('role', 'user', 'content', content),
    attempts = 0, not_before = null, lease_token = null
  where t.id = (
    select w.id from public.workflow_tasks w
    where w.workflow_id = workflow.id and w.type = 'planner' and w.state = 'waiting'
    order by w.created_at desc, w.id desc limit 1
  )
  returning t.id into task;
  if task is null then
    insert into public.workflow_tasks as t (workflow_id, owner_id, type, title, created_at)
    values (workflow.id, workflow.owner_id, 'planner', workflow.title, moment)
    returning t.id into task;
  end if;
  insert into public.workflow_messages as m (workflow_id, owner_id, role, content, payload, created_at)
  values (workflow.id, workflow.owner_id, 'user', content, jsonb_strip_nulls(jsonb_build_object('task_id', task, 'actor', actor)), moment)
  returning m.id into message;
  update public.workflows w set task_id = task where w.id = workflow.id;
  perform lifecycle.wake_lane('agents');
  return jsonb_build_object('message_id', message, 'task_id', task);
end;
$$;
comment on function private.tell_planner is
  'Keeps what an owner says, or an operator (actor) in the owner''s name, and gives it to the planner; the caller holds the lock of the workflow.';

create function private.conversation_with(workflow_id uuid, task_id uuid)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(
    jsonb_build_object('role', m.role, 'content', m.content) order by m.is_asked, m.created_at, m.id), '[]')
  from (
    select m.id, m.role, m.content, m.created_at,
      -- What this task was asked comes last, whatever another one answered meanwhile.
      coalesce(m.role = 'user' and m.payload ->> 'task_id' = conversation_with.task_id::text, false) as is_asked
    from public.workflow_messages m
    where m.workflow_id = conversation_with.workflow_id and m.role in ('user', 'assistant')
    order by m.created_at desc, m.id desc limit 100
  ) m
$$;
comment on function private.conversation_with is
  'What a workflow''s owner and the agent said to one another, [{ role, content }]: with this a new task of the planner begins.';

create function public.add_workflow_message(
  workflow_id uuid, content text, owner_id uuid default null, actor uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write messages or tasks
set search_path = ''
as $$
declare
  workflow public.workflows := private.lock_workflow(workflow_id, owner_id);
begin
  if workflow.status = 'archived' then
    perform lifecycle.refuse(409, 'workflow_archived', 'The workflow is put away: unarchive it first.');
  end if;
  return private.tell_planner(workflow, content, actor)
    || jsonb_build_object('ok', true, 'changed', true, 'result', 'created', 'workflow_id', workflow.id);
end;
$$;
comment on function public.add_workflow_message is
  'Says something to the agent of a workflow: { message_id, task_id }, a new task, or the one that waited for an answer. PT404 workflow_not_found, PT409 workflow_archived.';

revoke execute on function
  private.check_message(text), private.tell_planner(public.workflows, text, uuid), private.conversation_with(uuid, uuid)
from public, anon, authenticated, service_role;
revoke execute on function public.add_workflow_message(uuid, text, uuid, uuid) from public, anon, authenticated;
grant execute on function public.add_workflow_message(uuid, text, uuid, uuid) to service_role;
