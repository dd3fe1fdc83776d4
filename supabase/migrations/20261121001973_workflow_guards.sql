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
  -- Set by lifecycle.repair() alone, which only the owner of the schema may call.
  if current_setting('rollcall.repairing', true) = 'yes' then
    return;
  end if;
  perform lifecycle.refuse(409, 'illegal_transition', format('A %s that has ended keeps its end for ever.', replace(machine, '_', ' ')),
    jsonb_build_object('machine', machine, 'from', status, 'to', status, 'allowed', '[]'::jsonb));
end;
$$;
comment on function private.refuse_change_of_ended is 'Raises PT409 illegal_transition for a change of what an end is made of, unless it is a repair.';

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
  violated text;
  event_id bigint;
begin
  if tg_op = 'INSERT' then
    if new.status <> 'running' then
      perform lifecycle.refuse_transition('script_run', null, new.status::text);
    end if;
    new.version := 0;
    new.started_at := stamp;
  else
    before := old.status;
    if before <> 'running' and (new.result, new.error, new.error_type, new.error_code, new.ended_at)
      is distinct from (old.result, old.error, old.error_type, old.error_code, old.ended_at)
    then
      perform private.refuse_change_of_ended('script_run', before::text);
    end if;
    if before <> new.status then
      stamp := greatest(stamp, old.started_at);
      if new.status <> 'running' then
        new.ended_at := stamp;
        new.lease_expires_at := null;
      end if;
    end if;
  end if;
  violated := case
    when (new.status = 'running') <> (new.ended_at is null) then 'ended_has_its_time'
    when (new.status = 'running') <> (new.result is null) then 'ended_has_its_result'
    when (new.status = 'success') <> (new.result is not distinct from 'completed') then 'success_is_completed'
  end;
  if violated is not null then
    perform lifecycle.refuse_row(tg_relid, violated);
  end if;
  if before = new.status then
    return new;
  end if;
  new.version := new.version + 1;
  event_id := lifecycle.record('script_run', new.id, new.owner_id, new.version, new.version, before::text, new.status::text,
    stamp, 'workflow:' || new.workflow_id, null, new.error_code, left(new.error, 2000),
    jsonb_build_object('workflow_id', new.workflow_id, 'trigger', new.trigger, 'result', new.result));
  return new;
end;
$$;
create trigger guard_status_of_new before insert on public.script_runs
  for each row execute function private.guard_script_run();
-- Signs of life and counts do not pay for the guard.
create trigger guard_status before update of status, result, error, error_type, error_code, ended_at on public.script_runs
  for each row execute function private.guard_script_run();

-- lifecycle.record() judges what is legal of a status. Runs and side effects are moved by workers, unless somebody says otherwise.
create function private.guard_handler_run()
returns trigger
language plpgsql
set search_path = ''
as $$
declare
  stamp timestamptz;
  before public.handler_run_status;
  violated text;
  event_id bigint;
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
      perform lifecycle.refuse_transition(new.handler_type || '_phase', null, new.phase::text);
    end if;
    stamp := lifecycle.now();
    new.version := 0;
    new.started_at := stamp;
  else
    before := old.status;
    if old.mutation_outcome is not null and new.mutation_outcome is distinct from old.mutation_outcome
      and current_setting('rollcall.repairing', true) is distinct from 'yes'
    then
      perform lifecycle.refuse(409, 'outcome_is_set', 'The outcome of a side effect is set once.');
    end if;
    if before <> 'active' then
      if (new.error, new.error_type, new.ended_at, new.state_after)
        is distinct from (old.error, old.error_type, old.ended_at, old.state_after)
      then
        perform private.refuse_change_of_ended('handler_run', before::text);
      end if;
      -- What is learned of a side effect after its run ended moves the run behind it, and no further.
      if new.phase not in (old.phase, 'mutated') and current_setting('rollcall.repairing', true) is distinct from 'yes' then
        perform lifecycle.refuse_transition(new.handler_type || '_phase', old.phase::text, new.phase::text);
      end if;
    end if;
    if new.phase <> old.phase then
      perform from lifecycle.transitions t
      where t.machine = new.handler_type || '_phase' and t.from_state = old.phase::text and t.to_state = new.phase::text;
      if not found and current_setting('rollcall.repairing', true) is distinct from 'yes' then
        perform lifecycle.refuse_transition(new.handler_type || '_phase', old.phase::text, new.phase::text);
      end if;
    end if;
    if before <> new.status then
      stamp := greatest(lifecycle.now(), old.started_at);
      if new.status <> 'active' then
        new.ended_at := stamp;
      end if;
    end if;
  end if;
  violated := case
    when (new.status = 'committed') <> (new.phase = 'committed') then 'committed_is_committed'
    when (new.status = 'active') <> (new.ended_at is null) then 'ended_has_its_time'
    when case new.handler_type when 'producer' then new.phase not in ('pending', 'executing', 'committed') else new.phase = 'executing' end
      then 'phase_is_of_its_type'
    when new.mutation_outcome is null then null
    when new.handler_type = 'producer' then 'producers_have_no_mutation'
    when new.phase <> 'mutated' and (new.mutation_outcome = 'failure' or new.phase not in ('emitting', 'committed'))
      then 'outcome_is_behind_mutating'
  end;
  if violated is null and new.prepare_result is distinct from old.prepare_result
    and octet_length(new.prepare_result::text) > 1048576
  then
    violated := 'prepare_result_is_at_most_1_mb';
  end if;
  if violated is not null then
    perform lifecycle.refuse_row(tg_relid, violated);
  end if;
  if before = new.status then
    return new;
  end if;
  new.version := new.version + 1;
  event_id := lifecycle.record('handler_run', new.id, new.owner_id, new.version, new.version, before::text, new.status::text,
    stamp, 'workflow:' || new.workflow_id,
    case when new.error is not null then private.run_stage(new.handler_type, new.phase)::text end,
    case when new.status not in ('active', 'committed') then private.run_error_code(new.status, new.error_type) end,
    left(new.error, 2000),
    jsonb_build_object('workflow_id', new.workflow_id, 'handler_type', new.handler_type, 'handler_name', new.handler_name,
      'phase', new.phase),
    source => 'worker');
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
  violated text;
  event_id bigint;
begin
  if tg_op = 'INSERT' then
    if new.status <> 'in_flight' then
      perform lifecycle.refuse_transition('mutation', null, new.status::text);
    end if;
    new.version := 0;
    new.created_at := stamp;
  else
    before := old.status;
    if before in ('applied', 'failed') and (new.result, new.error, new.resolved_by, new.resolved_at)
      is distinct from (old.result, old.error, old.resolved_by, old.resolved_at)
    then
      perform private.refuse_change_of_ended('mutation', before::text);
    end if;
    if before <> new.status then
      stamp := greatest(stamp, old.created_at);
    end if;
  end if;
  if before is distinct from new.status then
    if new.status in ('applied', 'failed') then
      new.resolved_at := stamp;
    end if;
    if new.status <> 'needs_reconcile' then
      new.next_reconcile_at := null;
    end if;
  end if;
  violated := case
    when (new.status in ('applied', 'failed')) <> (new.resolved_at is not null) then 'resolved_has_its_time'
    when new.resolved_by is not null and new.resolved_at is null then 'only_resolved_has_a_resolver'
    when new.status = 'needs_reconcile' and new.reconcile is null then 'asked_can_be_asked'
    when new.status <> 'needs_reconcile' and new.next_reconcile_at is not null then 'only_asked_has_a_time'
    when octet_length(new.result::text) > 1048576 then 'result_is_at_most_1_mb'
  end;
  if violated is not null then
    perform lifecycle.refuse_row(tg_relid, violated);
  end if;
  if before = new.status then
    return new;
  end if;
  new.version := new.version + 1;
  event_id := lifecycle.record('mutation', new.id, new.owner_id, new.version, new.version, before::text, new.status::text,
    stamp, 'workflow:' || new.workflow_id,
    case when new.status not in ('in_flight', 'applied') then 'mutate' end,
    case when new.status in ('needs_reconcile', 'indeterminate') then 'MUTATION_UNCERTAIN' end,
    left(new.error, 2000),
    jsonb_build_object('workflow_id', new.workflow_id, 'run_id', new.run_id),
    source => 'worker');
  return new;
end;
$$;
create trigger guard_status before insert or update on public.workflow_mutations
  for each row execute function private.guard_mutation();

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
  else
    perform from lifecycle.transitions t
    where t.machine = 'event' and t.from_state = old.status::text and t.to_state = new.status::text;
    if not found and new.status <> old.status then
      perform lifecycle.refuse_transition('event', old.status::text, new.status::text);
    end if;
  end if;
  if (new.status = 'pending') <> (new.reserved_by_run_id is null) then
    perform lifecycle.refuse_row(tg_relid, 'reserved_names_its_run');
  end if;
  return new;
end;
$$;
create trigger guard_status before insert or update of status, reserved_by_run_id on public.workflow_events
  for each row execute function private.guard_workflow_event();

create function private.limit_event()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if length(new.message_id) not between 1 and 255 then
    perform lifecycle.refuse_row(tg_relid, 'message_id_is_short');
  elsif octet_length(new.payload::text) > 65536 then
    perform lifecycle.refuse_row(tg_relid, 'payload_is_at_most_64_kb');
  end if;
  return new;
end;
$$;
create trigger limit_content before insert or update of message_id, payload on public.workflow_events
  for each row execute function private.limit_event();

create function private.guard_new_task()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if new.state <> 'queued' then
    perform lifecycle.refuse_transition('task', null, new.state::text);
  end if;
  return new;
end;
$$;
create trigger guard_state_of_new before insert on public.workflow_tasks
  for each row execute function private.guard_new_task();

create function private.guard_workflow_task()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  perform from lifecycle.transitions t
  where t.machine = 'task' and t.from_state = old.state::text and t.to_state = new.state::text;
  if found then
    if new.state in ('finished', 'error') then
      new.ended_at := greatest(lifecycle.now(), old.created_at);
    end if;
  elsif new.state <> old.state then
    perform lifecycle.refuse_transition('task', old.state::text, new.state::text);
  end if;
  return new;
end;
$$;
-- Signs of life name no state and do not pay for the guard; a WHEN would be parsed with every update.
create trigger guard_state before update of state on public.workflow_tasks
  for each row execute function private.guard_workflow_task();

revoke execute on function
  private.workflow_state(public.workflows),
  private.run_stage(public.handler_type, public.handler_phase),
  private.run_error_code(public.handler_run_status, public.handler_error_type),
  private.refuse_change_of_ended(text, text),
  private.limit_event(),
  private.guard_workflow(), private.guard_script_run(), private.guard_handler_run(), private.guard_mutation(),
  private.guard_workflow_event(), private.guard_new_task(), private.guard_workflow_task()
from public, anon, authenticated, service_role;
grant execute on function private.workflow_state(public.workflows) to authenticated, service_role;
