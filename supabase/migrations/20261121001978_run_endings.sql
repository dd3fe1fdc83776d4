-- How a run ends other than by commit, and what becomes of its side effect. The order in which the fate of its events is
-- judged matters: whoever looks at the phase first gives back events whose side effect may have happened, and it then
-- happens twice.

create function private.error_sentence(status public.handler_run_status, message text)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  return coalesce(nullif(btrim(message), ''), case status
    when 'paused:approval' then 'Authentication required'
    when 'paused:reconciliation' then 'Mutation outcome uncertain'
    when 'failed:internal' then 'Internal error'
    when 'failed:logic' then 'The script failed'
    when 'crashed' then 'The worker died'
    else 'The network failed'
  end);
end;
$$;
comment on function private.error_sentence is 'What a person is told of an ended run: the message given, else what its status says.';

create function private.brake(workflow_id uuid, status public.handler_run_status, stage public.workflow_stage, run_id uuid, message text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  settings lifecycle.settings;
  failures int;
  has_error boolean;
begin
  select * into settings from lifecycle.settings;
  update public.workflows w
  set transient_failures = w.transient_failures + 1,
    -- Doubling, and a little less at random, so that what failed together does not come back together.
    backoff_until = lifecycle.now() + least(settings.brake_longest, settings.brake_first * 2 ^ least(w.transient_failures, 20))
      * (0.8 + 0.2 * random())
  where w.id = brake.workflow_id
  returning w.transient_failures, w.error is not null into failures, has_error;
  if failures >= settings.transient_limit and not has_error then
    perform private.set_workflow_error(workflow_id,
      case status when 'crashed' then 'CRASH_LOOP' else 'TRANSIENT_EXHAUSTED' end, message, stage, run_id);
  end if;
end;
$$;
comment on function private.brake is 'Counts a failure that should pass by itself and lets the workflow rest; the sixth in a row becomes an error.';

create function private.end_run(
  workflow public.workflows, session public.script_runs, run public.handler_runs, status public.handler_run_status,
  message text, error_type public.handler_error_type, cost bigint, logs jsonb, details jsonb
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  stage public.workflow_stage := private.run_stage(run.handler_type, run.phase);
  sentence text := private.error_sentence(status, message);
  mutation public.workflow_mutations;
  uncertain boolean;
begin
  select * into mutation from public.workflow_mutations m where m.run_id = run.id for no key update;
  uncertain := coalesce(mutation.status in ('in_flight', 'needs_reconcile', 'indeterminate'), false);

  update public.handler_runs r
  set status = end_run.status, error = left(sentence, 2000), error_type = coalesce(end_run.error_type, 'unknown'),
    cost_microusd = r.cost_microusd + coalesce(cost, 0), logs = coalesce(private.cut_logs(end_run.logs), r.logs),
    details = lifecycle.cut(end_run.details, 65536)
  where r.id = run.id;
  update public.script_runs s
  set status = 'failed', error = left(sentence, 2000), error_type = coalesce(end_run.error_type, 'unknown'),
    error_code = private.run_error_code(end_run.status, end_run.error_type),
    cost_microusd = (select coalesce(sum(r.cost_microusd), 0) from public.handler_runs r where r.script_run_id = s.id),
    result = case end_run.status
      when 'failed:logic' then 'maintenance'
      when 'paused:transient' then 'transient'
      when 'paused:approval' then 'suspended'
      when 'paused:reconciliation' then 'suspended'
      else 'failed'
    end::public.script_run_result
  where s.id = session.id;
  if mutation.status = 'in_flight' then
    update public.workflow_mutations m
    set status = case when m.reconcile is null then 'indeterminate' else 'needs_reconcile' end::public.mutation_status,
      error = left(sentence, 2000),
      -- Whoever had the lease may be sending until it ended.
      next_reconcile_at = case when m.reconcile is not null then
        least(session.lease_expires_at, moment) + (select l.reconcile_grace from lifecycle.settings l) end
    where m.id = mutation.id;
  end if;

  if run.handler_type = 'producer' then
    null;
  elsif run.mutation_outcome in ('success', 'skipped') or uncertain then
    update public.workflows w set pending_retry_run_id = run.id where w.id = workflow.id;
  else
    perform private.release_events(run.id);
  end if;

  if uncertain or status in ('paused:approval', 'paused:reconciliation', 'failed:internal') then
    perform private.set_workflow_error(workflow.id,
      case when status in ('paused:approval', 'failed:internal') then private.run_error_code(status, error_type) else 'MUTATION_UNCERTAIN' end,
      sentence, stage, run.id);
  end if;
  if status = 'failed:logic' then
    update public.workflows w set maintenance = true where w.id = workflow.id;
    perform lifecycle.wake_lane('agents');
  elsif status in ('paused:transient', 'crashed') then
    perform private.brake(workflow.id, status, stage, run.id, sentence);
  end if;
  perform private.refresh_due(workflow.id);
end;
$$;
comment on function private.end_run is 'Ends an active run with all that follows from it; the caller holds the locks of workflow, session and run.';

create function public.update_handler_run_status(
  run_id uuid, status text, error text default null, error_type public.handler_error_type default null,
  lease_token uuid default null, cost bigint default 0, logs jsonb default null, details jsonb default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write runs
set search_path = ''
as $$
declare
  held record;
  run public.handler_runs;
  unresolved boolean;
begin
  if status = 'committed' then
    perform lifecycle.refuse(409, 'use_commit_operation', 'A run is committed by commit_producer() or commit_consumer().');
  elsif coalesce(status not in (
    'paused:transient', 'paused:approval', 'paused:reconciliation', 'failed:logic', 'failed:internal', 'crashed'
  ), true) then
    perform lifecycle.refuse_input('status',
      'must be paused:transient, paused:approval, paused:reconciliation, failed:logic, failed:internal or crashed.');
  end if;
  held := private.hold_run(run_id, lease_token);
  run := held.run;
  if run.status::text = update_handler_run_status.status then
    return jsonb_build_object('ok', true, 'changed', false, 'result', 'unchanged', 'run_id', run.id, 'status', run.status);
  elsif run.status <> 'active' then
    perform lifecycle.refuse(409, 'run_not_active', format('The run has ended: it is %s.', run.status), jsonb_build_object('status', run.status));
  elsif status = 'paused:reconciliation' and run.handler_type = 'producer' then
    perform lifecycle.refuse(409, 'invalid_status_for_producer', 'A producer has no side effect to ask after.');
  end if;
  unresolved := exists (
    select from public.workflow_mutations m
    where m.run_id = run.id and m.status in ('in_flight', 'needs_reconcile', 'indeterminate')
  );
  if status = 'paused:reconciliation' and not unresolved then
    perform lifecycle.refuse(409, 'no_unresolved_mutation', 'The run has no side effect of which nobody knows whether it happened.');
  elsif status = 'failed:logic' and unresolved then
    perform lifecycle.refuse(409, 'unresolved_mutation', 'Nobody knows whether the side effect happened: use paused:reconciliation.');
  end if;
  perform lifecycle.because('worker');
  perform private.end_run(held.workflow, held.session, run, update_handler_run_status.status::public.handler_run_status,
    update_handler_run_status.error, update_handler_run_status.error_type, cost, logs, details);
  return jsonb_build_object('ok', true, 'changed', true, 'result', 'processed', 'run_id', run.id, 'status', status);
end;
$$;
comment on function public.update_handler_run_status is
  'Ends an active run other than by commit: paused:transient, paused:approval, paused:reconciliation, failed:logic, failed:internal or crashed, with what follows for its side effect, events, session and workflow. cost in millionths of a US dollar; logs at most 64 KB. PT409 stale_lease, run_not_active, use_commit_operation, invalid_status_for_producer, no_unresolved_mutation, unresolved_mutation.';

create function private.expire_session(session_id uuid)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  workflow public.workflows;
  session public.script_runs;
  run public.handler_runs;
begin
  -- The workflow first, and only if nobody has it; then the session is looked at again.
  select w.* into workflow from public.workflows w
  where w.id = (select s.workflow_id from public.script_runs s where s.id = expire_session.session_id)
  for no key update skip locked;
  if not found then
    return false;
  end if;
  select * into session from public.script_runs s
  where s.id = expire_session.session_id and s.status = 'running' and s.lease_owner is not null and s.lease_expires_at <= moment
  for no key update;
  if not found then
    return false;
  end if;
  perform lifecycle.because('sweep', details => jsonb_build_object('lease_expires_at', session.lease_expires_at));
  -- Whoever had it comes too late with whatever it says.
  update public.script_runs s set lease_token = null where s.id = session.id;
  select * into run from public.handler_runs r where r.script_run_id = session.id and r.status = 'active' for no key update;
  if run.id is not null then
    perform private.end_run(workflow, session, run, 'crashed', null, 'unknown', 0, null,
      jsonb_build_object('lease_owner', session.lease_owner));
  elsif exists (select from public.handler_runs r where r.script_run_id = session.id) then
    perform private.end_session_well(session);
  else
    update public.script_runs s
    set status = 'failed', result = 'failed', error_type = 'unknown', error_code = 'INTERRUPTED',
      error = 'The session ended before it ran anything.'
    where s.id = session.id;
    perform private.brake(workflow.id, 'crashed', null, null, 'The worker died');
    perform private.refresh_due(workflow.id);
  end if;
  return true;
end;
$$;
comment on function private.expire_session is
  'Ends a session whose worker let its lease run out: an active run has crashed; without one its runs committed, or it ran nothing. False: somebody has it after all.';

revoke execute on function
  private.error_sentence(public.handler_run_status, text),
  private.brake(uuid, public.handler_run_status, public.workflow_stage, uuid, text),
  private.end_run(
    public.workflows, public.script_runs, public.handler_runs, public.handler_run_status, text, public.handler_error_type,
    bigint, jsonb, jsonb
  ),
  private.expire_session(uuid)
from public, anon, authenticated, service_role;
revoke execute on function
  public.update_handler_run_status(uuid, text, text, public.handler_error_type, uuid, bigint, jsonb, jsonb)
from public, anon, authenticated;
grant execute on function
  public.update_handler_run_status(uuid, text, text, public.handler_error_type, uuid, bigint, jsonb, jsonb)
to service_role;
