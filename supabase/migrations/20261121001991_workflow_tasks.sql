-- The agent's tasks: a planner writes a script with its owner, a maintainer repairs one. A worker takes a task with a
-- lease, stores the conversation after each answer of the agent, and ends it in one transaction.

alter table lifecycle.settings
  add column task_lease interval not null default '60 s' constraint task_lease_is_positive check (task_lease > '0'),
  add column task_attempts int not null default 5 constraint task_has_attempts check (task_attempts > 0),
  add column task_backoff interval not null default '10 s' constraint task_backoff_is_positive check (task_backoff > '0');
comment on column lifecycle.settings.task_lease is 'How long a worker has a task of the agent, from its claim or its last sign of life.';
comment on column lifecycle.settings.task_attempts is 'With so many failures, lost workers among them, a task of the agent ends.';
comment on column lifecycle.settings.task_backoff is 'How long a task rests after its first failure; twice as long after each further one.';

create index workflow_tasks_open on public.workflow_tasks (workflow_id, type, created_at, id) where state = 'queued';
create index workflow_tasks_leased on public.workflow_tasks (owner_id) where state = 'queued' and lease_token is not null;

create function private.hold_task(task_id uuid, lease_token uuid)
returns public.workflow_tasks
language plpgsql
set search_path = ''
as $$
declare
  of_workflow uuid := (select t.workflow_id from public.workflow_tasks t where t.id = hold_task.task_id);
  task public.workflow_tasks;
begin
  if of_workflow is null then
    perform lifecycle.refuse(404, 'task_not_found', 'No task has this id.');
  end if;
  -- The workflow before its task, as everywhere.
  perform private.lock_workflow(of_workflow);
  select * into task from public.workflow_tasks t where t.id = hold_task.task_id for update;
  if hold_task.lease_token is null or task.lease_token is distinct from hold_task.lease_token then
    perform lifecycle.refuse(409, 'stale_lease', 'Another worker has the task, or it was given back: claim one again.');
  end if;
  return task;
end;
$$;
comment on function private.hold_task is
  'Locks a workflow and its task for the worker with this token; PT404 task_not_found, PT409 stale_lease.';

create function private.hold_open_task(task_id uuid, lease_token uuid, type public.workflow_task_type default null)
returns public.workflow_tasks
language plpgsql
set search_path = ''
as $$
declare
  task public.workflow_tasks := private.hold_task(task_id, lease_token);
begin
  if hold_open_task.type <> task.type then
    perform lifecycle.refuse_input('task_id', format('is no task of a %s.', hold_open_task.type));
  elsif task.state <> 'queued' then
    -- It has ended under this very token.
    perform lifecycle.refuse(409, 'task_ended', 'The task has ended: claim another one.',
      jsonb_build_object('current', task.state, 'allowed', lifecycle.allowed_from('task', task.state::text)));
  end if;
  return task;
end;
$$;
comment on function private.hold_open_task is 'private.hold_task(), of a task that is still to be done; else PT409 task_ended.';

create function private.task_answer(task_id uuid, result text, more jsonb default '{}')
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'ok', true, 'changed', result <> 'unchanged', 'result', result, 'task_id', t.id, 'workflow_id', t.workflow_id,
    'state', t.state, 'attempts', t.attempts, 'not_before', t.not_before, 'lease_expires_at', t.lease_expires_at
  ) || more
  from public.workflow_tasks t where t.id = task_answer.task_id
$$;
comment on function private.task_answer is 'A task as it is now, as the answer to its worker.';

create function private.end_task(
  task public.workflow_tasks, state public.workflow_task_state, reply text default null, error text default null,
  messages jsonb default null
)
returns void
language sql
set search_path = ''
as $$
  -- With its token: whoever ended it may say so again.
  update public.workflow_tasks t
  set state = end_task.state, reply = coalesce(left(end_task.reply, 16000), t.reply), error = left(end_task.error, 2000),
    messages = coalesce(end_task.messages, t.messages), lease_owner = null, lease_expires_at = null, not_before = null
  where t.id = (end_task.task).id
$$;
comment on function private.end_task is 'Ends a task, or lets it wait for its owner; the caller holds the lock of its workflow.';

create function private.give_up_task(task public.workflow_tasks, error_code text, error text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  reason text := left(coalesce(
    nullif(btrim(error), ''), (select c.meaning from public.error_codes c where c.code = give_up_task.error_code),
    'It failed, and nobody said why.'), 2000);
  run public.handler_runs;
begin
  if task.type = 'maintainer' then
    select * into run from public.handler_runs r where r.id = task.handler_run_id;
    perform private.give_up_maintenance(task.workflow_id, run, error_code, reason, 'maintenance_failed');
  else
    perform private.say(task.workflow_id, 'assistant', null,
      concat_ws(' ', 'I could not write the script.', reason, (
        select c.next_step from public.error_codes c
        where c.code = give_up_task.error_code and (c.code = 'NO_AGENT' or c.code like 'AGENT\_%')
      )),
      jsonb_build_object('task_id', task.id, 'error_code', error_code));
  end if;
  perform private.end_task(task, 'error', error => reason);
end;
$$;
comment on function private.give_up_task is
  'Ends a task for good: a planner says so in the chat, a maintainer leaves an error. The caller holds the lock of the workflow.';

create function private.give_up_attempt(task public.workflow_tasks, error_code text, error text)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  settings lifecycle.settings;
  is_last boolean;
begin
  select * into settings from lifecycle.settings;
  is_last := task.attempts + 1 >= settings.task_attempts;
  update public.workflow_tasks t
  set attempts = t.attempts + 1, lease_owner = null, lease_expires_at = null,
    lease_token = case when is_last then t.lease_token end,
    not_before = lifecycle.now() + settings.task_backoff * (2 ^ task.attempts)
  where t.id = task.id;
  if is_last then
    perform private.give_up_task(task,
      case task.type when 'maintainer' then 'MAINTENANCE_FAILED' else error_code end,
      case task.type when 'maintainer'
        then concat_ws(' ', 'The agent found no fix:', coalesce(nullif(btrim(error), ''), error_code)) else error end);
  end if;
  return is_last;
end;
$$;
comment on function private.give_up_attempt is
  'Counts a failed attempt and lets the task rest; the last one ends it. True for that one. The caller holds the lock of the workflow.';

create function private.claimed_task(task_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  task public.workflow_tasks;
  workflow public.workflows;
  run public.handler_runs;
  script public.workflow_scripts;
begin
  select * into task from public.workflow_tasks t where t.id = claimed_task.task_id;
  select * into workflow from public.workflows w where w.id = task.workflow_id;
  if task.type = 'maintainer' then
    select * into run from public.handler_runs r where r.id = task.handler_run_id;
    select s.* into script
    from public.script_runs session join public.workflow_scripts s on s.id = session.script_id
    where session.id = run.script_run_id;
  else
    script := private.newest_script(workflow.id);
  end if;
  return jsonb_build_object(
    'task_id', task.id, 'lease_token', task.lease_token, 'lease_expires_at', task.lease_expires_at, 'type', task.type,
    'workflow_id', workflow.id, 'owner_id', workflow.owner_id, 'title', workflow.title, 'time_zone', workflow.time_zone,
    'attempts', task.attempts,
    'messages', case when task.type = 'planner' and task.messages = '[]'
      then private.conversation_with(workflow.id, task.id) else task.messages end,
    'script', case when script.id is not null then jsonb_build_object(
      'id', script.id, 'major', script.major, 'minor', script.minor, 'code', script.code) end,
    'failure', case when run.id is not null then jsonb_build_object(
      'run_id', run.id, 'handler_type', run.handler_type, 'handler_name', run.handler_name, 'phase', run.phase,
      'error', run.error, 'error_type', run.error_type, 'logs', run.logs) end,
    'comments', (
      select coalesce(jsonb_agg(c.comment order by c.major, c.minor), '[]')
      from (
        select s.major, s.minor, s.comment from public.workflow_scripts s
        where s.workflow_id = workflow.id and s.minor > 0 and s.comment is not null
          and (s.major, s.minor) <= (script.major, script.minor)
        order by s.major desc, s.minor desc limit 20
      ) c
    ),
    'secret_names', (
      select coalesce(jsonb_agg(s.name order by s.name), '[]')
      from private.workflow_secrets s where s.workflow_id = workflow.id
    )
  );
end;
$$;
comment on function private.claimed_task is 'A task as its worker gets it: with the conversation so far, the script, and of a maintainer the failure.';

create function private.due_tasks(moment timestamptz)
returns table (task_id uuid, workflow_id uuid)
language sql
stable
set search_path = ''
as $$
  select t.id, t.workflow_id
  from public.workflow_tasks t
  where t.state = 'queued' and (t.lease_expires_at is null or t.lease_expires_at <= moment)
    and (t.not_before is null or t.not_before <= moment)
    -- One after the other: an answer may change what the next one is about.
    and not exists (
      select from public.workflow_tasks earlier
      where earlier.workflow_id = t.workflow_id and earlier.type = t.type and earlier.state = 'queued'
        and (earlier.created_at, earlier.id) < (t.created_at, t.id)
    )
  -- The owner with the fewest live leases first, then the oldest.
  order by (
    select count(*) from public.workflow_tasks live
    where live.state = 'queued' and live.owner_id = t.owner_id and live.lease_token is not null
      and live.lease_expires_at > moment
  ), t.created_at, t.id
$$;
comment on function private.due_tasks is 'The tasks that a worker may claim at a moment, in the order in which it should.';

create function public.claim_task(worker text, has_agent boolean)
returns jsonb
language plpgsql
security definer -- API roles may not write tasks
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  candidate record;
  task public.workflow_tasks;
begin
  perform private.enter_due_maintenance(has_agent);
  for candidate in select d.task_id, d.workflow_id from private.due_tasks(moment) d loop
    perform from public.workflows w where w.id = candidate.workflow_id for no key update skip locked;
    continue when not found;
    -- Looked at once more: somebody may have been here before the lock.
    select * into task from public.workflow_tasks t
    where t.id = candidate.task_id and t.state = 'queued'
      and (t.lease_expires_at is null or t.lease_expires_at <= moment) and (t.not_before is null or t.not_before <= moment)
    for update;
    continue when not found;
    if not has_agent then
      perform private.give_up_task(task, 'NO_AGENT', null);
      continue;
    -- A token that was never given back: its worker died, and this may have been the last one to.
    elsif task.lease_token is not null and private.give_up_attempt(task, 'CRASH_LOOP', null) then
      continue;
    end if;
    update public.workflow_tasks t
    set lease_owner = left(worker, 200), lease_token = gen_random_uuid(), not_before = null,
      lease_expires_at = moment + (select s.task_lease from lifecycle.settings s)
    where t.id = task.id;
    return private.claimed_task(task.id);
  end loop;
  return null;
end;
$$;
comment on function public.claim_task is
  'Takes a task of the agent, with a lease of 60 s and a lease_token; null where none is due. First it begins the repair of workflows in maintenance. Without an agent (has_agent false) it ends what would need one with NO_AGENT, and returns null.';

create function public.renew_task(task_id uuid, lease_token uuid)
returns jsonb
language plpgsql
security definer -- API roles may not write tasks
set search_path = ''
as $$
declare
  until timestamptz := lifecycle.now() + (select s.task_lease from lifecycle.settings s);
begin
  -- One row, its token decides: no lock of the workflow for a sign of life.
  update public.workflow_tasks t set lease_expires_at = until
  where t.id = renew_task.task_id and t.lease_token = renew_task.lease_token and t.state = 'queued';
  if not found then
    perform private.hold_open_task(task_id, lease_token);
  end if;
  return private.task_answer(task_id, 'processed');
end;
$$;
comment on function public.renew_task is 'Keeps a task for another 60 s. PT404 task_not_found, PT409 stale_lease | task_ended.';

create function public.store_task_step(task_id uuid, lease_token uuid, messages jsonb)
returns jsonb
language plpgsql
security definer -- API roles may not write tasks
set search_path = ''
as $$
declare
  task public.workflow_tasks := private.hold_open_task(task_id, lease_token);
begin
  perform private.check_conversation(store_task_step.messages);
  update public.workflow_tasks t
  set messages = store_task_step.messages,
    lease_expires_at = lifecycle.now() + (select s.task_lease from lifecycle.settings s)
  where t.id = task.id;
  return private.task_answer(task.id, case when task.messages = store_task_step.messages then 'unchanged' else 'processed' end);
end;
$$;
comment on function public.store_task_step is
  'Keeps the conversation with the agent so far, and the task for another 60 s. PT404 task_not_found, PT409 stale_lease | task_ended.';

create function private.check_conversation(messages jsonb)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if jsonb_typeof(messages) <> 'array' or octet_length(messages::text) > 4194304 then
    perform lifecycle.refuse_input('messages', 'must be a list of at most 4 MB.');
  end if;
end;
$$;
comment on function private.check_conversation is 'Raises PT422 for what is no conversation with an agent; null is not judged.';

create function public.yield_task(task_id uuid, lease_token uuid)
returns jsonb
language plpgsql
security definer -- API roles may not write tasks
set search_path = ''
as $$
declare
  task public.workflow_tasks := private.hold_open_task(task_id, lease_token);
begin
  update public.workflow_tasks t set lease_owner = null, lease_token = null, lease_expires_at = null where t.id = task.id;
  perform lifecycle.wake_lane('agents');
  return private.task_answer(task.id, 'processed');
end;
$$;
comment on function public.yield_task is
  'Gives a task back, to be gone on with at once; no attempt is counted. PT404 task_not_found, PT409 stale_lease | task_ended.';

create function public.wait_task(task_id uuid, lease_token uuid, reply text, messages jsonb default null)
returns jsonb
language plpgsql
security definer -- API roles may not write tasks or messages
set search_path = ''
as $$
declare
  task public.workflow_tasks := private.hold_task(task_id, lease_token);
  said text := coalesce(nullif(btrim(reply, E' \t\r\n'), ''), 'I need to know more. What exactly should happen, and when?');
begin
  perform private.check_conversation(wait_task.messages);
  if task.state = 'waiting' then
    return private.task_answer(task.id, 'unchanged');
  end if;
  task := private.hold_open_task(task_id, lease_token, 'planner');
  perform private.say(task.workflow_id, 'assistant', null, said, jsonb_build_object('task_id', task.id));
  perform private.end_task(task, 'waiting', reply => said, messages => wait_task.messages);
  return private.task_answer(task.id, 'processed');
end;
$$;
comment on function public.wait_task is
  'The planner asks back: its reply is a message of the chat, and the task waits for the next message of the owner. Again it is unchanged. PT409 stale_lease | task_ended.';

create function public.complete_plan(
  task_id uuid, lease_token uuid, code text, config jsonb, title text default null, summary text default null,
  reply text default null, messages jsonb default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write scripts, tasks or messages
set search_path = ''
as $$
declare
  task public.workflow_tasks := private.hold_task(task_id, lease_token);
  workflow public.workflows := private.lock_workflow(task.workflow_id);
  script public.workflow_scripts;
  said text;
begin
  if task.type = 'planner' and task.state = 'finished' then
    return private.task_answer(task.id, 'unchanged', jsonb_build_object('script_id', (
      select m.payload ->> 'script_id' from public.workflow_messages m
      where m.workflow_id = workflow.id and m.type = 'script' and m.payload ->> 'task_id' = task.id::text limit 1)));
  end if;
  task := private.hold_open_task(task_id, lease_token, 'planner');
  perform private.check_conversation(complete_plan.messages);
  script := private.add_script(workflow, code, config, null, summary);
  -- A title that its owner chose stays.
  if btrim(title) <> '' and workflow.title = (
    select private.title_of(m.content) from public.workflow_messages m
    where m.workflow_id = workflow.id and m.role = 'user' order by m.created_at, m.id limit 1
  ) then
    update public.workflows w set title = left(btrim(complete_plan.title), 255), version = w.version + 1
    where w.id = workflow.id;
  end if;
  said := concat_ws(E'\n\n', nullif(btrim(reply), ''), nullif(btrim(summary), ''));
  if said = '' then
    said := format('Version %s of the script is ready.', private.script_version(script));
  end if;
  perform private.say(workflow.id, 'assistant', 'script', said, jsonb_build_object(
    'task_id', task.id, 'script_id', script.id, 'version', private.script_version(script)));
  perform private.end_task(task, 'finished', reply => said, messages => complete_plan.messages);
  return private.task_answer(task.id, 'processed', jsonb_build_object(
    'script_id', script.id, 'major', script.major, 'minor', script.minor));
end;
$$;
comment on function public.complete_plan is
  'The planner is done: saves its script as the next major version, with a message of type script, and finishes the task. Nothing is activated. Again it is unchanged. PT409 stale_lease | task_ended, PT422.';

create function public.fail_task(task_id uuid, lease_token uuid, error text, error_code text default null)
returns jsonb
language plpgsql
security definer -- API roles may not write tasks
set search_path = ''
as $$
declare
  task public.workflow_tasks := private.hold_task(task_id, lease_token);
begin
  if task.state = 'error' then
    return private.task_answer(task.id, 'unchanged');
  end if;
  task := private.hold_open_task(task_id, lease_token);
  perform private.give_up_attempt(task, coalesce(nullif(btrim(error_code), ''), 'AGENT_BAD_ANSWER'), error);
  return private.task_answer(task.id, 'processed');
end;
$$;
comment on function public.fail_task is
  'An attempt at a task failed: it is counted, and the task rests for 10 s, 20 s, 40 s ...; the fifth ends it, a planner''s with a message, a maintainer''s with an error of the workflow. PT409 stale_lease | task_ended.';

revoke execute on function
  private.hold_task(uuid, uuid), private.hold_open_task(uuid, uuid, public.workflow_task_type),
  private.task_answer(uuid, text, jsonb),
  private.end_task(public.workflow_tasks, public.workflow_task_state, text, text, jsonb),
  private.give_up_task(public.workflow_tasks, text, text), private.give_up_attempt(public.workflow_tasks, text, text),
  private.claimed_task(uuid), private.due_tasks(timestamptz), private.check_conversation(jsonb)
from public, anon, authenticated, service_role;
revoke execute on function
  public.claim_task(text, boolean), public.renew_task(uuid, uuid), public.store_task_step(uuid, uuid, jsonb),
  public.yield_task(uuid, uuid), public.wait_task(uuid, uuid, text, jsonb),
  public.complete_plan(uuid, uuid, text, jsonb, text, text, text, jsonb), public.fail_task(uuid, uuid, text, text)
from public, anon, authenticated;
grant execute on function
  public.claim_task(text, boolean), public.renew_task(uuid, uuid), public.store_task_step(uuid, uuid, jsonb),
  public.yield_task(uuid, uuid), public.wait_task(uuid, uuid, text, jsonb),
  public.complete_plan(uuid, uuid, text, jsonb, text, text, text, jsonb), public.fail_task(uuid, uuid, text, text)
to service_role;
