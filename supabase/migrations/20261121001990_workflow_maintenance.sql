-- Repairing: where a script failed the workflow is in maintenance, until the agent has fixed it or found that it can not.

alter table lifecycle.settings
  add column fix_limit int not null default 3 constraint fix_limit_is_positive check (fix_limit > 0);
comment on column lifecycle.settings.fix_limit is 'The so many-th failure of a script in a row is not repaired: its owner is told.';

create function private.failed_run_of(workflow_id uuid)
returns public.handler_runs
language plpgsql
stable
set search_path = ''
as $$
declare
  run public.handler_runs;
begin
  select * into run from public.handler_runs r
  where r.workflow_id = failed_run_of.workflow_id and r.status = 'failed:logic'
  order by r.started_at desc, r.id desc limit 1;
  return run;
end;
$$;
comment on function private.failed_run_of is 'The run for which a workflow is in maintenance: the last one that its script failed.';

create function private.drop_repair(workflow_id uuid)
returns void
language sql
set search_path = ''
as $$
  -- Without its token: whoever is at it is refused from now on.
  update public.workflow_tasks t
  set state = 'finished', reply = 'A person activated a script meanwhile.', lease_token = null, lease_expires_at = null
  where t.workflow_id = drop_repair.workflow_id and t.type = 'maintainer' and t.state = 'queued'
$$;
comment on function private.drop_repair is 'Ends what is being repaired: a person has activated a script.';

create function private.give_up_maintenance(
  workflow_id uuid, run public.handler_runs, code text, message text, type public.workflow_notification_type
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  perform private.notify_workflow(workflow_id, type, jsonb_build_object(
    'code', code, 'message', message, 'stage', 'maintenance', 'run_id', run.id,
    'script_id', (select s.script_id from public.script_runs s where s.id = run.script_run_id),
    'handler_type', run.handler_type, 'handler_name', run.handler_name, 'error', run.error,
    'logs', right(run.logs::text, 5000)
  ));
  update public.workflows w
  set error = left(message, 2000), error_code = code, error_stage = 'maintenance', error_run_id = run.id,
    error_at = lifecycle.now(), maintenance = false,
    maintenance_fix_count = case when type = 'escalated' then 0 else w.maintenance_fix_count end
  where w.id = give_up_maintenance.workflow_id;
  perform private.refresh_due(workflow_id);
end;
$$;
comment on function private.give_up_maintenance is
  'Ends a maintenance without a fix: an error, with the logs of the run in its notification. The caller holds the lock of the workflow.';

create function private.enter_maintenance(workflow public.workflows, has_agent boolean)
returns void
language plpgsql
set search_path = ''
as $$
declare
  run public.handler_runs := private.failed_run_of(workflow.id);
  failure text := left(coalesce(run.error, 'nobody said why'), 500);
  attempt int := workflow.maintenance_fix_count + 1;
  task uuid;
begin
  if run.id is null or exists (select from public.workflow_tasks t where t.handler_run_id = run.id) then
    perform private.give_up_maintenance(workflow.id, run, 'MAINTENANCE_FAILED',
      'The script failed and there is no run left to repair it by.', 'maintenance_failed');
  elsif not has_agent then
    perform private.give_up_maintenance(workflow.id, run, 'NO_AGENT',
      format('The script failed, and there is no agent to fix it: %s', failure), 'maintenance_failed');
  elsif attempt >= (select s.fix_limit from lifecycle.settings s) then
    perform private.say(workflow.id, 'event', 'maintenance_escalated',
      format('The script failed %s times in a row and is not fixed again: %s', attempt, failure),
      jsonb_build_object('run_id', run.id, 'attempt', attempt));
    perform private.give_up_maintenance(workflow.id, run, 'FIX_ATTEMPTS_EXHAUSTED',
      format('The script failed %s times in a row: %s', attempt, failure), 'escalated');
  else
    insert into public.workflow_tasks as t (workflow_id, owner_id, type, title, handler_run_id, created_at)
    values (workflow.id, workflow.owner_id, 'maintainer', workflow.title, run.id, lifecycle.now())
    returning t.id into task;
    update public.workflows w set maintenance_fix_count = attempt, task_id = task where w.id = workflow.id;
    perform private.say(workflow.id, 'event', 'maintenance_started',
      format('The script failed and is being fixed: %s', failure),
      jsonb_build_object('run_id', run.id, 'task_id', task, 'attempt', attempt));
  end if;
end;
$$;
comment on function private.enter_maintenance is
  'Begins the repair of a failed script: one task for the failed run; the third failure in a row escalates instead, and without an agent it is given up. The caller holds the lock of the workflow, which is in maintenance without an open task.';

create function private.enter_due_maintenance(has_agent boolean)
returns void
language plpgsql
set search_path = ''
as $$
declare
  candidate uuid;
  workflow public.workflows;
begin
  for candidate in
    select w.id from public.workflows w
    where w.maintenance and not exists (
      select from public.workflow_tasks t where t.workflow_id = w.id and t.type = 'maintainer' and t.state = 'queued'
    )
    order by w.updated_at limit 20
  loop
    select * into workflow from public.workflows w
    where w.id = candidate and w.maintenance for no key update skip locked;
    -- Looked at once more: somebody may have been here before the lock.
    continue when workflow.id is null or exists (
      select from public.workflow_tasks t
      where t.workflow_id = candidate and t.type = 'maintainer' and t.state = 'queued'
    );
    begin
      perform private.enter_maintenance(workflow, has_agent);
    exception when others then
      -- One that can not be begun must not keep the others from being repaired.
      raise warning 'maintenance of workflow % could not be begun: %', workflow.id, sqlerrm;
    end;
  end loop;
end;
$$;
comment on function private.enter_due_maintenance is 'Begins the repair of every workflow in maintenance of which nobody has begun it.';

create function public.apply_fix(
  task_id uuid, lease_token uuid, code text, config jsonb, comment text, messages jsonb default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write scripts, tasks or workflows
set search_path = ''
as $$
declare
  task public.workflow_tasks := private.hold_task(task_id, lease_token);
  workflow public.workflows := private.lock_workflow(task.workflow_id);
  base public.workflow_scripts;
  script public.workflow_scripts;
  is_activated boolean;
begin
  if task.type <> 'maintainer' then
    perform lifecycle.refuse_input('task_id', 'is no task of a maintainer: complete_plan() ends a planner''s.');
  elsif task.state = 'finished' then
    return private.task_answer(task.id, 'unchanged');
  elsif task.state <> 'queued' then
    perform lifecycle.refuse_transition('task', task.state::text, 'finished');
  end if;
  perform private.check_conversation(apply_fix.messages);
  select s.* into base
  from public.handler_runs r
  join public.script_runs session on session.id = r.script_run_id
  join public.workflow_scripts s on s.id = session.script_id
  where r.id = task.handler_run_id;
  script := private.add_script(workflow, code, config, comment, base.summary, base);
  is_activated := workflow.status = 'active' and workflow.active_script_id = base.id;

  perform lifecycle.because('worker', 'fixed', jsonb_build_object('task_id', task.id));
  update public.workflows w
  set maintenance = false, active_script_id = case when is_activated then script.id else w.active_script_id end
  where w.id = workflow.id;
  if is_activated then
    perform private.sync_handlers(workflow.id, script.config, true);
    perform private.wake_consumers(workflow.id);
  end if;
  perform private.say(workflow.id, 'event', 'maintenance_fixed',
    concat_ws(' ', format('The script was fixed: version %s.', private.script_version(script)), nullif(btrim(comment), ''),
      case when not is_activated then 'It is saved, not activated.' end),
    jsonb_build_object('task_id', task.id, 'run_id', task.handler_run_id, 'script_id', script.id,
      'version', private.script_version(script), 'activated', is_activated));
  perform private.end_task(task, 'finished', reply => comment, messages => messages);
  perform private.refresh_due(workflow.id);
  return private.task_answer(task.id, 'processed', jsonb_build_object(
    'script_id', script.id, 'major', script.major, 'minor', script.minor, 'activated', is_activated));
end;
$$;
comment on function public.apply_fix is
  'Ends a maintenance: saves the fix as the next minor version of the script that failed, activates it if that one is still the active script of an active workflow, and finishes the task; again it is unchanged. PT409 stale_lease, PT422.';

create function public.fail_maintenance(task_id uuid, lease_token uuid, code text default null, error text default null)
returns jsonb
language plpgsql
security definer -- API roles may not write tasks or workflows
set search_path = ''
as $$
declare
  task public.workflow_tasks := private.hold_task(task_id, lease_token);
begin
  if task.type <> 'maintainer' then
    perform lifecycle.refuse_input('task_id', 'is no task of a maintainer: fail_task() counts a planner''s failure.');
  elsif task.state = 'error' then
    return private.task_answer(task.id, 'unchanged');
  elsif task.state <> 'queued' then
    perform lifecycle.refuse_transition('task', task.state::text, 'error');
  end if;
  perform private.give_up_task(task, coalesce(nullif(btrim(code), ''), 'MAINTENANCE_FAILED'), error);
  return private.task_answer(task.id, 'processed');
end;
$$;
comment on function public.fail_maintenance is
  'The agent found no fix: the workflow has an error (MAINTENANCE_FAILED unless code says another), maintenance is over, the task has failed; again it is unchanged. PT409 stale_lease.';

revoke execute on function
  private.failed_run_of(uuid), private.drop_repair(uuid),
  private.give_up_maintenance(uuid, public.handler_runs, text, text, public.workflow_notification_type),
  private.enter_maintenance(public.workflows, boolean), private.enter_due_maintenance(boolean)
from public, anon, authenticated, service_role;
revoke execute on function
  public.apply_fix(uuid, uuid, text, jsonb, text, jsonb), public.fail_maintenance(uuid, uuid, text, text)
from public, anon, authenticated;
grant execute on function
  public.apply_fix(uuid, uuid, text, jsonb, text, jsonb), public.fail_maintenance(uuid, uuid, text, text)
to service_role;
