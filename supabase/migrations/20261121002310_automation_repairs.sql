-- What an operator sets right of automations by hand, through lifecycle.repair(). What hangs on a status follows, so that
-- nothing is left that must never be, and no event whose side effect happened is worked on again.

create function private.reopen_session(session public.script_runs)
returns void
language plpgsql
set search_path = ''
as $$
begin
  if session.status = 'running' then
    return;
  elsif exists (select from public.script_runs s where s.workflow_id = session.workflow_id and s.status = 'running') then
    perform lifecycle.refuse(409, 'session_running', 'Another session of the workflow is running: wait until it has ended.');
  end if;
  update public.script_runs s
  set status = 'running', result = null, error = null, error_type = null, error_code = null, ended_at = null,
    lease_owner = null, lease_token = null, lease_expires_at = lifecycle.now()
  where s.id = session.id;
  perform lifecycle.wake_lane('scripts');
end;
$$;
comment on function private.reopen_session is 'A session that has ended runs again, for whoever claims it next; the caller holds its locks.';

create function private.repair_workflow(workflow public.workflows, to_status text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  script public.workflow_scripts := private.newest_script(workflow.id);
  is_first boolean := to_status = 'active' and workflow.active_script_id is null;
begin
  if is_first and script.id is null then
    perform lifecycle.refuse(404, 'script_not_found', 'The workflow has no script yet: save one first.');
  end if;
  update public.workflows w
  set status = to_status::public.workflow_status,
    active_script_id = case when is_first then script.id else w.active_script_id end,
    run_requested_at = case when to_status = 'active' then w.run_requested_at end
  where w.id = workflow.id;
  if is_first then
    perform private.sync_handlers(workflow.id, script.config, true);
    perform private.wake_consumers(workflow.id);
  end if;
end;
$$;
comment on function private.repair_workflow is 'Sets the status of a workflow; one that becomes active without ever having been runs by its newest script.';

create function private.repair_session(session public.script_runs, to_status text, reason text, error_code text)
returns void
language plpgsql
set search_path = ''
as $$
begin
  if to_status = 'running' then
    perform private.reopen_session(session);
    return;
  elsif exists (select from public.handler_runs r where r.script_run_id = session.id and r.status = 'active') then
    perform lifecycle.refuse(409, 'run_active', 'A run of the session is under way: repair the run, and its session ends with it.');
  end if;
  update public.script_runs s
  set status = to_status::public.script_run_status,
    result = case when to_status = 'success' then 'completed' else coalesce(s.result, 'failed') end::public.script_run_result,
    error = case when to_status = 'failed' then left(reason, 2000) end,
    error_type = case when to_status = 'failed' then coalesce(s.error_type, 'unknown') end,
    error_code = case when to_status = 'failed' then coalesce(repair_session.error_code, s.error_code, 'INTERNAL') end,
    -- Whoever had it comes too late with whatever it says.
    lease_token = null
  where s.id = session.id;
end;
$$;
comment on function private.repair_session is 'Sets the status of a session: running is for whoever claims it next, and it ends only where no run of it is active.';

create function private.repair_handler_run(
  workflow public.workflows, session public.script_runs, run public.handler_runs, to_status text, reason text
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  is_unresolved boolean := exists (
    select from public.workflow_mutations m
    where m.run_id = run.id and m.status in ('in_flight', 'needs_reconcile', 'indeterminate'));
begin
  if run.status = 'committed' then
    perform lifecycle.refuse(409, 'run_committed', 'What the run published is out, and its events are done with.');
  elsif exists (select from public.handler_runs r where r.retry_of = run.id) then
    perform lifecycle.refuse(409, 'already_retried', 'Another run went on with it: repair that one.');
  elsif to_status = 'paused:reconciliation' and not is_unresolved then
    perform lifecycle.refuse(409, 'no_unresolved_mutation', 'The run has no side effect of which nobody knows whether it happened.');
  elsif to_status in ('active', 'committed', 'failed:logic') and is_unresolved then
    perform lifecycle.refuse(409, 'unresolved_mutation', 'Nobody knows whether its side effect happened: repair the mutation first.');
  elsif to_status in ('active', 'committed') and run.mutation_outcome = 'failure' then
    perform lifecycle.refuse(409, 'mutation_failed', 'Its side effect failed: other runs work on its events.');
  end if;

  if to_status = 'active' then
    perform private.reopen_session(session);
    -- Behind its side effect it goes on with next(). Before it its events were given back: it begins anew.
    update public.handler_runs r
    set status = 'active', ended_at = null, error = null, error_type = null, details = null, state_after = null,
      publications = null, phase = case when r.mutation_outcome is null then 'pending' else r.phase end,
      prepare_result = case when r.mutation_outcome is not null then r.prepare_result end,
      state_before = (
        select h.state from public.handler_states h
        where h.workflow_id = r.workflow_id and h.handler_type = r.handler_type and h.handler_name = r.handler_name)
    where r.id = run.id;
  elsif to_status = 'committed' then
    update public.handler_runs r
    set status = 'committed', phase = 'committed', error = null, error_type = null
    where r.id = run.id;
    perform from public.workflow_events e where e.reserved_by_run_id = run.id order by e.id for no key update;
    update public.workflow_events e set status = 'consumed', updated_at = lifecycle.now()
    where e.reserved_by_run_id = run.id and e.status = 'reserved';
    -- Where its session is under way, another worker goes on with that.
    update public.script_runs s
    set handler_run_count = s.handler_run_count + 1,
      lease_owner = case when s.status <> 'running' then s.lease_owner end, lease_token = null,
      lease_expires_at = case when s.status = 'running' then lifecycle.now() end
    where s.id = session.id;
    perform lifecycle.wake_lane('scripts');
  elsif run.status = 'active' then
    update public.script_runs s set lease_token = null where s.id = session.id;
    perform private.end_run(workflow, session, run, to_status::public.handler_run_status, reason, 'unknown', 0, null, null);
  else
    -- What followed from its end was judged by its phase and its side effect: it is the same for every other end.
    update public.handler_runs r set status = to_status::public.handler_run_status, error = left(reason, 2000)
    where r.id = run.id;
  end if;
  if to_status in ('active', 'committed') then
    update public.workflows w set pending_retry_run_id = null where w.id = workflow.id and w.pending_retry_run_id = run.id;
    if workflow.error_run_id = run.id then
      perform private.clear_workflow_error(workflow.id);
    end if;
  end if;
end;
$$;
comment on function private.repair_handler_run is
  'Sets the status of a run. active: it begins anew, behind its side effect with next(). committed: it is done, its events are consumed, nothing is published. Another end of an active run has all that follows from it.';

create function private.repair_mutation(
  workflow public.workflows, run public.handler_runs, mutation public.workflow_mutations, to_status text, reason text
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  was_settled boolean := mutation.status in ('applied', 'failed');
  -- Are its events still its run's own?
  is_open boolean := not was_settled or (
    run.status <> 'committed' and coalesce(run.mutation_outcome in ('success', 'skipped'), false)
    and not exists (select from public.handler_runs r where r.retry_of = run.id));
begin
  if to_status = 'needs_reconcile' and mutation.reconcile is null then
    perform lifecycle.refuse(409, 'cannot_be_asked', 'The script names nobody to ask.');
  elsif to_status = 'in_flight' and run.status <> 'active' then
    perform lifecycle.refuse(409, 'run_not_active', format('The run has ended: it is %s.', run.status));
  elsif to_status not in ('applied', 'failed') and not is_open then
    perform lifecycle.refuse(409, 'run_went_on', 'Its events have gone their way: only applied and failed are set right now.');
  end if;
  if was_settled and is_open then
    update public.handler_runs r set mutation_outcome = null, phase = 'mutating' where r.id = run.id;
  end if;

  if to_status not in ('applied', 'failed') then
    update public.workflow_mutations m
    set status = to_status::public.mutation_status, result = null, resolved_by = null, resolved_at = null,
      error = case when to_status <> 'in_flight' then left(reason, 2000) end, reconcile_attempts = 0,
      next_reconcile_at = case when to_status = 'needs_reconcile' then lifecycle.now() end
    where m.id = mutation.id;
    if run.status <> 'active' then
      update public.workflows w set pending_retry_run_id = run.id where w.id = workflow.id;
      if workflow.error is null then
        perform private.set_workflow_error(workflow.id, 'MUTATION_UNCERTAIN', reason, 'mutate', run.id);
      end if;
    end if;
    if to_status = 'needs_reconcile' then
      perform lifecycle.wake_lane('reconcile');
    end if;
  elsif is_open then
    perform private.settle_mutation(mutation.id, to_status::public.mutation_status,
      case to_status when 'applied' then 'success' else 'failure' end::public.mutation_outcome,
      null, case when to_status = 'failed' then reason end, 'user');
  else
    update public.workflow_mutations m
    set status = to_status::public.mutation_status, result = null,
      error = case when to_status = 'failed' then left(reason, 2000) end, resolved_by = 'user'
    where m.id = mutation.id;
  end if;
end;
$$;
comment on function private.repair_mutation is
  'Sets the status of a side effect. While its events are its run''s own, the run follows; afterwards the ledger alone is set right.';

create function private.repair_automation(machine text, subject_id uuid, to_status text, reason text, error_code text)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  place record;
  workflow public.workflows;
  session public.script_runs;
  run public.handler_runs;
  mutation public.workflow_mutations;
  from_status text;
begin
  select p.* into place from (
    select w.id as workflow_id, null::uuid as session_id, null::uuid as run_id, null::uuid as mutation_id
    from public.workflows w where machine = 'workflow' and w.id = repair_automation.subject_id
    union all
    select s.workflow_id, s.id, null, null
    from public.script_runs s where machine = 'script_run' and s.id = repair_automation.subject_id
    union all
    select r.workflow_id, r.script_run_id, r.id, null
    from public.handler_runs r where machine = 'handler_run' and r.id = repair_automation.subject_id
    union all
    select m.workflow_id, r.script_run_id, r.id, m.id
    from public.workflow_mutations m join public.handler_runs r on r.id = m.run_id
    where machine = 'mutation' and m.id = repair_automation.subject_id
  ) p;
  if not found then
    perform lifecycle.refuse(404, case machine when 'script_run' then 'session' else machine end || '_not_found',
      format('No %s has this id.', replace(machine, '_', ' ')));
  end if;
  -- Workflow, session, run, mutation, events: the order of every writer.
  workflow := private.lock_workflow(place.workflow_id);
  select * into session from public.script_runs s where s.id = place.session_id for no key update;
  select * into run from public.handler_runs r where r.id = place.run_id for no key update;
  select * into mutation from public.workflow_mutations m where m.id = place.mutation_id for no key update;
  from_status := case machine when 'workflow' then workflow.status::text when 'script_run' then session.status::text
    when 'handler_run' then run.status::text else mutation.status::text end;
  if from_status <> to_status then
    case machine
      when 'workflow' then perform private.repair_workflow(workflow, to_status);
      when 'script_run' then perform private.repair_session(session, to_status, reason, error_code);
      when 'handler_run' then perform private.repair_handler_run(workflow, session, run, to_status, reason);
      else perform private.repair_mutation(workflow, run, mutation, to_status, reason);
    end case;
    perform private.refresh_due(workflow.id);
  end if;
  return jsonb_build_object(
    'machine', machine, 'subject_id', subject_id, 'workflow_id', workflow.id, 'status', to_status,
    'ok', true, 'changed', from_status <> to_status,
    'result', case when from_status = to_status then 'unchanged' else 'processed' end);
end;
$$;
comment on function private.repair_automation is 'lifecycle.repair() of the machines workflow, script_run, handler_run and mutation.';

revoke execute on function
  private.reopen_session(public.script_runs), private.repair_workflow(public.workflows, text),
  private.repair_session(public.script_runs, text, text, text),
  private.repair_handler_run(public.workflows, public.script_runs, public.handler_runs, text, text),
  private.repair_mutation(public.workflows, public.handler_runs, public.workflow_mutations, text, text),
  private.repair_automation(text, uuid, text, text, text)
from public, anon, authenticated, service_role;
