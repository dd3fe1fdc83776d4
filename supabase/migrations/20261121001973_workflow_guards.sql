-- The guards of automations: which moves are legal, what is stamped, and what is told on workflow:<id>.

create function private.workflow_state(workflow public.workflows)
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return case
    when workflow.status = 'archived' then 'archived'
    when workflow.maintenance then 'fixing'
    when workflow.error is not null or exists (
      select from public.workflow_messages m
      where m.workflow_id = workflow.id and m.role = 'event' and m.type = 'error'
        and m.acknowledged_at is null and m.resolved_at is null
    ) then 'error'
    when workflow.status = 'disabled' then 'paused'
    when workflow.status = 'active' then 'active'
    when exists (select from public.workflow_scripts s where s.workflow_id = workflow.id) then 'ready'
    else 'draft'
  end;
end;
$$;
comment on function private.workflow_state is 'What is shown of a workflow: archived, fixing, error, paused, active, ready or draft. The one definition.';

create function private.run_stage(handler_type public.handler_type, phase public.handler_phase)
returns public.workflow_stage
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case
    when handler_type = 'producer' then 'producer'
    when phase in ('mutating', 'mutated') then 'mutate'
    when phase in ('emitting', 'committed') then 'next'
    else 'prepare'
  end;
end;
$$;
comment on function private.run_stage is 'Where a run is, in the words of errors.';

create function private.run_error_code(status public.handler_run_status, error_type public.handler_error_type)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case status
    when 'paused:transient' then 'NETWORK'
    when 'paused:approval' then case error_type when 'permission' then 'PERMISSION_DENIED' else 'AUTH_REQUIRED' end
    when 'paused:reconciliation' then 'MUTATION_UNCERTAIN'
    when 'failed:logic' then 'SCRIPT_ERROR'
    when 'failed:internal' then 'INTERNAL'
    when 'crashed' then 'CRASHED'
  end;
end;
$$;
comment on function private.run_error_code is 'The code of an ended run; null for one that is active or committed.';

create function private.refuse_change_of_ended(machine text, status text)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  perform lifecycle.refuse(409, 'illegal_transition', format('A %s that has ended keeps its end for ever.', replace(machine, '_', ' ')),
    jsonb_build_object('machine', machine, 'from', status, 'to', status, 'allowed', '[]'::jsonb));
end;
$$;
comment on function private.refuse_change_of_ended is 'Raises PT409 illegal_transition for a change of what an end is made of.';

create function private.record_of_workflow(
  machine text, subject_id uuid, workflow_id uuid, owner_id uuid, version int, from_status text, to_status text, at timestamptz,
  error_stage text, error_code text, error text, shown jsonb default '{}'
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  perform lifecycle.record(machine, subject_id, owner_id, version, version, from_status, to_status, at,
    'workflow:' || workflow_id, error_stage, error_code, left(error, 2000),
    jsonb_build_object('workflow_id', workflow_id) || shown);
end;
$$;
comment on function private.record_of_workflow is 'Records a transition of a part of a workflow and tells it on the workflow''s topic.';

create function private.guard_workflow()
returns trigger
language plpgsql
set search_path = ''
as $$
declare
  stamp timestamptz := lifecycle.now();
  before public.workflow_status;
begin
  if tg_op = 'INSERT' then
    if new.status <> 'draft' then
      perform lifecycle.refuse_transition('workflow', null, new.status::text);
    end if;
    new.version := 0;
    new.status_seq := 0;
    new.created_at := stamp;
  else
    before := old.status;
    stamp := greatest(stamp, old.updated_at);
  end if;
  new.version := new.version + case when tg_op = 'UPDATE' and new.version <> old.version then 0 else 1 end;
  new.updated_at := stamp;

  if before is distinct from new.status then
    if before is not null and not coalesce(current_setting('rollcall.repairing', true) = 'yes', false)
      and not lifecycle.transition_allowed('workflow', before::text, new.status::text)
    then
      perform lifecycle.refuse_transition('workflow', before::text, new.status::text);
    end if;
    new.status_seq := new.status_seq + 1;
    new.status_updated_at := stamp;
    perform lifecycle.record('workflow', new.id, new.owner_id, new.status_seq, new.version, before::text, new.status::text,
      stamp, 'workflow:' || new.id, null, null, null,
      jsonb_build_object('workflow_id', new.id, 'state', private.workflow_state(new)));
    perform set_config('rollcall.because', '', true);
  end if;

  if tg_op = 'UPDATE' and (select s.push from lifecycle.settings s) then
    perform realtime.send(
      jsonb_build_object('workflow_id', new.id, 'version', new.version, 'state', private.workflow_state(new), 'at', stamp),
      'state_changed', 'workflow:' || new.id, true);
    perform lifecycle.hint_owner(new.owner_id);
  end if;
  return new;
end;
$$;
create trigger guard_status_of_new before insert on public.workflows
  for each row execute function private.guard_workflow();
-- Claims, back-off and due times change none of these and do not pay for the guard.
create trigger guard_status before update on public.workflows
  for each row when (
    old.status <> new.status or old.version <> new.version
    or old.error is distinct from new.error or old.error_code is distinct from new.error_code
    or old.maintenance <> new.maintenance or old.active_script_id is distinct from new.active_script_id
  )
  execute function private.guard_workflow();

create function private.guard_script_run()
returns trigger
language plpgsql
set search_path = ''
as $$
declare
  stamp timestamptz := lifecycle.now();
  before public.script_run_status;
  repairing boolean := coalesce(current_setting('rollcall.repairing', true) = 'yes', false);
begin
  if tg_op = 'INSERT' then
    if new.status <> 'running' then
      perform lifecycle.refuse_transition('script_run', null, new.status::text);
    end if;
    new.version := 0;
    new.started_at := stamp;
  else
    before := old.status;
    if before <> 'running' and not repairing and (new.result, new.error, new.error_type, new.error_code, new.ended_at)
      is distinct from (old.result, old.error, old.error_type, old.error_code, old.ended_at)
    then
      perform private.refuse_change_of_ended('script_run', before::text);
    end if;
    if before = new.status then
      return new;
    end if;
    if not repairing and not lifecycle.transition_allowed('script_run', before::text, new.status::text) then
      perform lifecycle.refuse_transition('script_run', before::text, new.status::text);
    end if;
    stamp := greatest(stamp, old.started_at);
    if new.status <> 'running' then
      new.ended_at := stamp;
      new.lease_expires_at := null;
    end if;
  end if;
  new.version := new.version + 1;
  perform private.record_of_workflow('script_run', new.id, new.workflow_id, new.owner_id, new.version,
    before::text, new.status::text, stamp, null, new.error_code, new.error,
    jsonb_build_object('trigger', new.trigger, 'result', new.result));
  return new;
end;
$$;
create trigger guard_status_of_new before insert on public.script_runs
  for each row execute function private.guard_script_run();
create trigger guard_status before update on public.script_runs
  for each row when (
    old.status <> new.status or old.ended_at is distinct from new.ended_at or old.result is distinct from new.result
    or old.error is distinct from new.error or old.error_type is distinct from new.error_type
    or old.error_code is distinct from new.error_code
  )
  execute function private.guard_script_run();

create function private.guard_handler_run()
returns trigger
language plpgsql
set search_path = ''
as $$
declare
  stamp timestamptz := lifecycle.now();
  before public.handler_run_status;
  phases text := new.handler_type || '_phase';
  repairing boolean := coalesce(current_setting('rollcall.repairing', true) = 'yes', false);
begin
  if tg_op = 'INSERT' then
    if new.status <> 'active' then
      perform lifecycle.refuse_transition('handler_run', null, new.status::text);
    end if;
    -- A retry goes on behind the side effect of another run; every other run begins at the beginning.
    if new.phase <> 'pending' and not (new.phase = 'emitting' and new.retry_of is not null
      and coalesce(new.mutation_outcome in ('success', 'skipped'), false))
      or (new.phase = 'pending' and num_nonnulls(new.retry_of, new.mutation_outcome) > 0)
    then
      perform lifecycle.refuse_transition(phases, null, new.phase::text);
    end if;
    new.version := 0;
    new.started_at := stamp;
  else
    before := old.status;
    stamp := greatest(stamp, old.started_at);
    if old.mutation_outcome is not null and new.mutation_outcome is distinct from old.mutation_outcome and not repairing then
      perform lifecycle.refuse(409, 'outcome_is_set', 'The outcome of a side effect is set once.');
    end if;
    if before <> 'active' and not repairing and (new.error, new.error_type, new.ended_at, new.state_after)
      is distinct from (old.error, old.error_type, old.ended_at, old.state_after)
    then
      perform private.refuse_change_of_ended('handler_run', before::text);
    end if;
    if new.phase <> old.phase and not repairing then
      if not lifecycle.transition_allowed(phases, old.phase::text, new.phase::text)
        -- What is learned of a side effect after its run ended moves the run behind it, and no further.
        or (before <> 'active' and new.phase <> 'mutated')
      then
        perform lifecycle.refuse_transition(phases, old.phase::text, new.phase::text);
      end if;
    end if;
    if before = new.status then
      return new;
    end if;
    if not repairing and not lifecycle.transition_allowed('handler_run', before::text, new.status::text) then
      perform lifecycle.refuse_transition('handler_run', before::text, new.status::text);
    end if;
    if new.status <> 'active' then
      new.ended_at := stamp;
    end if;
  end if;
  new.version := new.version + 1;
  perform private.record_of_workflow('handler_run', new.id, new.workflow_id, new.owner_id, new.version,
    before::text, new.status::text, stamp,
    case when new.error is not null then private.run_stage(new.handler_type, new.phase)::text end,
    private.run_error_code(new.status, new.error_type), new.error,
    jsonb_build_object('handler_type', new.handler_type, 'handler_name', new.handler_name, 'phase', new.phase));
  return new;
end;
$$;
create trigger guard_status_of_new before insert on public.handler_runs
  for each row execute function private.guard_handler_run();
create trigger guard_status before update on public.handler_runs
  for each row execute function private.guard_handler_run();

create function private.guard_mutation()
returns trigger
language plpgsql
set search_path = ''
as $$
declare
  stamp timestamptz := lifecycle.now();
  before public.mutation_status;
  repairing boolean := coalesce(current_setting('rollcall.repairing', true) = 'yes', false);
begin
  if tg_op = 'INSERT' then
    if new.status <> 'in_flight' then
      perform lifecycle.refuse_transition('mutation', null, new.status::text);
    end if;
    new.version := 0;
    new.created_at := stamp;
  else
    before := old.status;
    stamp := greatest(stamp, old.created_at);
    if before in ('applied', 'failed') and not repairing and (new.result, new.error, new.resolved_by, new.resolved_at)
      is distinct from (old.result, old.error, old.resolved_by, old.resolved_at)
    then
      perform private.refuse_change_of_ended('mutation', before::text);
    end if;
    if before = new.status then
      return new;
    end if;
    if not repairing and not lifecycle.transition_allowed('mutation', before::text, new.status::text) then
      perform lifecycle.refuse_transition('mutation', before::text, new.status::text);
    end if;
  end if;
  if new.status in ('applied', 'failed') then
    new.resolved_at := stamp;
  end if;
  if new.status <> 'needs_reconcile' then
    new.next_reconcile_at := null;
  end if;
  new.version := new.version + 1;
  perform private.record_of_workflow('mutation', new.id, new.workflow_id, new.owner_id, new.version,
    before::text, new.status::text, stamp,
    case when new.status not in ('in_flight', 'applied') then 'mutate' end,
    case when new.status in ('needs_reconcile', 'indeterminate') then 'MUTATION_UNCERTAIN' end, new.error,
    jsonb_build_object('run_id', new.run_id));
  return new;
end;
$$;
create trigger guard_status_of_new before insert on public.workflow_mutations
  for each row execute function private.guard_mutation();
create trigger guard_status before update on public.workflow_mutations
  for each row when (
    old.status <> new.status or old.result is distinct from new.result or old.error is distinct from new.error
    or old.resolved_by is distinct from new.resolved_by or old.resolved_at is distinct from new.resolved_at
  )
  execute function private.guard_mutation();

create function private.guard_workflow_event()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    if new.status <> 'pending' then
      perform lifecycle.refuse_transition('event', null, new.status::text);
    end if;
  elsif not lifecycle.transition_allowed('event', old.status::text, new.status::text) then
    perform lifecycle.refuse_transition('event', old.status::text, new.status::text);
  end if;
  return new;
end;
$$;
create trigger guard_status_of_new before insert on public.workflow_events
  for each row execute function private.guard_workflow_event();
create trigger guard_status before update on public.workflow_events
  for each row when (old.status <> new.status) execute function private.guard_workflow_event();

create function private.guard_workflow_task()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    if new.state <> 'queued' then
      perform lifecycle.refuse_transition('task', null, new.state::text);
    end if;
    return new;
  elsif not lifecycle.transition_allowed('task', old.state::text, new.state::text) then
    perform lifecycle.refuse_transition('task', old.state::text, new.state::text);
  end if;
  if new.state in ('finished', 'error') then
    new.ended_at := greatest(lifecycle.now(), old.created_at);
  end if;
  return new;
end;
$$;
create trigger guard_state_of_new before insert on public.workflow_tasks
  for each row execute function private.guard_workflow_task();
create trigger guard_state before update on public.workflow_tasks
  for each row when (old.state <> new.state) execute function private.guard_workflow_task();

revoke execute on function
  private.workflow_state(public.workflows),
  private.run_stage(public.handler_type, public.handler_phase),
  private.run_error_code(public.handler_run_status, public.handler_error_type),
  private.refuse_change_of_ended(text, text),
  private.record_of_workflow(text, uuid, uuid, uuid, int, text, text, timestamptz, text, text, text, jsonb),
  private.guard_workflow(), private.guard_script_run(), private.guard_handler_run(), private.guard_mutation(),
  private.guard_workflow_event(), private.guard_workflow_task()
from public, anon, authenticated, service_role;
grant execute on function private.workflow_state(public.workflows) to authenticated, service_role;
