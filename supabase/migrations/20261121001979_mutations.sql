-- The ledger of side effects: written before the call leaves, settled when it is known what became of it.

create function public.begin_mutation(
  run_id uuid, tool text, params jsonb, reconcile jsonb default null, lease_token uuid default null, mutation_id uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write mutations
set search_path = ''
as $$
declare
  is_held boolean;
  of_session uuid;
  of_workflow uuid;
  owner uuid;
  run_status public.handler_run_status;
  run_phase public.handler_phase;
  known uuid;
  expires timestamptz;
begin
  -- private.hold_run(), without whole rows.
  select s.lease_token = begin_mutation.lease_token and s.lease_owner is not null, s.id, r.workflow_id, r.owner_id, r.status, r.phase
  into is_held, of_session, of_workflow, owner, run_status, run_phase
  from public.handler_runs r
  join public.script_runs s on s.id = r.script_run_id
  join public.workflows w on w.id = s.workflow_id
  where r.id = begin_mutation.run_id
  for no key update of w, s, r;
  if is_held is not true then
    perform private.hold_run(run_id, lease_token);
  end if;
  select (select m.id from public.workflow_mutations m where m.run_id = begin_mutation.run_id), lifecycle.now() + l.session_lease
  into known, expires
  from lifecycle.settings l;
  if run_status <> 'active' then
    perform lifecycle.refuse(409, 'run_not_active', format('The run has ended: it is %s.', run_status), jsonb_build_object('status', run_status));
  elsif known is not null and known = begin_mutation.mutation_id then
    return jsonb_build_object('ok', true, 'changed', false, 'result', 'unchanged', 'mutation_id', known);
  elsif known is not null then
    perform lifecycle.refuse(409, 'mutation_exists', 'A run has one side effect at most.', jsonb_build_object('mutation_id', known));
  elsif run_phase <> 'mutating' then
    perform lifecycle.refuse(409, 'not_mutating', format('Only mutate() has a side effect: the run is %s.', run_phase), jsonb_build_object('phase', run_phase));
  elsif coalesce(btrim(tool), '') = '' or params is null or octet_length(params::text) > 1048576 then
    perform lifecycle.refuse_input('params', 'and tool are needed; params have at most 1 MB.');
  elsif reconcile is not null and coalesce(jsonb_typeof(reconcile) <> 'object' or reconcile ->> 'url' is null, true) then
    perform lifecycle.refuse_input('reconcile', 'must be { url, headers }, or null where nobody can be asked.');
  end if;
  -- The call needs most of a lease: it gets a whole one.
  update public.script_runs s set lease_expires_at = expires
  where s.id = of_session and s.lease_owner is not null;
  known := coalesce(begin_mutation.mutation_id, gen_random_uuid());
  insert into public.workflow_mutations (id, run_id, workflow_id, owner_id, tool, params, reconcile, created_at)
  values (known, begin_mutation.run_id, of_workflow, owner, left(tool, 255), params, reconcile, expires);
  return jsonb_build_object('ok', true, 'changed', true, 'result', 'created', 'mutation_id', known, 'lease_expires_at', expires);
end;
$$;
comment on function public.begin_mutation is
  'Writes down that a side effect is about to be tried, before its call leaves, and renews the lease. mutation_id, the idempotency key, may be the worker''s own: the same again is unchanged. reconcile: { url, headers }, how to ask whether it happened. PT409 stale_lease, run_not_active, not_mutating, mutation_exists.';

create function private.settle_mutation(
  mutation_id uuid, status public.mutation_status, outcome public.mutation_outcome, result jsonb, error text,
  resolved_by public.mutation_resolver default null
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  mutation public.workflow_mutations;
  run public.handler_runs;
begin
  update public.workflow_mutations m
  set status = settle_mutation.status, result = settle_mutation.result, error = left(settle_mutation.error, 2000),
    resolved_by = settle_mutation.resolved_by
  where m.id = settle_mutation.mutation_id
  returning * into mutation;
  update public.handler_runs r
  set mutation_outcome = outcome, phase = case r.phase when 'mutating' then 'mutated' else r.phase end
  where r.id = mutation.run_id
  returning * into run;

  case outcome
    when 'failure' then
      perform private.release_events(run.id);
      update public.workflows w set pending_retry_run_id = null
      where w.id = run.workflow_id and w.pending_retry_run_id = run.id;
    when 'skipped' then
      update public.workflow_events e set status = 'skipped', updated_at = lifecycle.now()
      where e.reserved_by_run_id = run.id and e.status = 'reserved';
    else
      null;
  end case;
  if run.status <> 'active' then
    if outcome <> 'failure' then
      -- What was done or given up is not done again: a retry goes on with next().
      update public.workflows w set pending_retry_run_id = run.id where w.id = run.workflow_id;
    end if;
    if (select w.error_run_id = run.id from public.workflows w where w.id = run.workflow_id) then
      perform private.clear_workflow_error(run.workflow_id);
    end if;
    -- While it is active its session is, and nothing else is due before that has ended.
    perform private.refresh_due(run.workflow_id);
  end if;
end;
$$;
comment on function private.settle_mutation is
  'Writes what became of a side effect, moves its run behind it, and clears the error and the retry that are this run''s; the caller holds the locks.';

create function private.hold_mutation(
  mutation_id uuid, lease_token uuid, out run public.handler_runs, out mutation public.workflow_mutations
)
language plpgsql
set search_path = ''
as $$
declare
  held record;
begin
  select s.id as session_id, r as run, m as mutation, s.lease_token = hold_mutation.lease_token and s.lease_owner is not null as is_held
  into held
  from public.workflow_mutations m
  join public.handler_runs r on r.id = m.run_id
  join public.script_runs s on s.id = r.script_run_id
  join public.workflows w on w.id = s.workflow_id
  where m.id = hold_mutation.mutation_id
  for no key update of w, s, r, m;
  if not found then
    perform lifecycle.refuse(404, 'mutation_not_found', 'No mutation has this id.');
  end if;
  if held.is_held is not true then
    perform private.check_lease(held.session_id, lease_token);
  end if;
  run := held.run;
  mutation := held.mutation;
end;
$$;
comment on function private.hold_mutation is 'Locks a workflow, a session, a run and its mutation for whoever has the lease of the session.';

create function private.refuse_settled(status public.mutation_status)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  perform lifecycle.refuse(409, 'mutation_settled', format('It is known what became of the side effect: it is %s.', status),
    jsonb_build_object('status', status));
end;
$$;
comment on function private.refuse_settled is 'Raises PT409 mutation_settled.';

create function public.apply_mutation(mutation_id uuid, result jsonb, lease_token uuid default null)
returns jsonb
language plpgsql
security definer -- API roles may not write mutations
set search_path = ''
as $$
declare
  is_held boolean;
  before public.mutation_status;
  known jsonb;
begin
  -- private.hold_mutation(), without whole rows.
  select s.lease_token = apply_mutation.lease_token and s.lease_owner is not null, m.status, m.result
  into is_held, before, known
  from public.workflow_mutations m
  join public.handler_runs r on r.id = m.run_id
  join public.script_runs s on s.id = r.script_run_id
  join public.workflows w on w.id = s.workflow_id
  where m.id = apply_mutation.mutation_id
  for no key update of w, s, r, m;
  if is_held is not true then
    perform private.hold_mutation(mutation_id, lease_token);
  end if;
  if before in ('applied', 'failed') then
    if before = 'applied' and known is not distinct from apply_mutation.result then
      return jsonb_build_object('ok', true, 'changed', false, 'result', 'unchanged', 'mutation_id', mutation_id, 'status', 'applied');
    end if;
    perform private.refuse_settled(before);
  end if;
  perform private.settle_mutation(mutation_id, 'applied', 'success', apply_mutation.result, null);
  return jsonb_build_object('ok', true, 'changed', true, 'result', 'processed', 'mutation_id', mutation_id, 'status', 'applied');
end;
$$;
comment on function public.apply_mutation is
  'The side effect happened; result is what next() gets. The same again is unchanged. PT409 stale_lease, mutation_settled.';

create function public.fail_mutation(
  mutation_id uuid, error text, error_type public.handler_error_type default null, lease_token uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write mutations
set search_path = ''
as $$
declare
  held record := private.hold_mutation(mutation_id, lease_token);
begin
  if (held.mutation).status = 'failed' and (held.mutation).error is not distinct from left(fail_mutation.error, 2000) then
    return jsonb_build_object('ok', true, 'changed', false, 'result', 'unchanged', 'mutation_id', mutation_id, 'status', 'failed');
  end if;
  if (held.mutation).status in ('applied', 'failed') then
    perform private.refuse_settled((held.mutation).status);
  end if;
  perform lifecycle.because('worker', details => jsonb_build_object('error_type', error_type));
  perform private.settle_mutation(mutation_id, 'failed', 'failure', null, fail_mutation.error);
  return jsonb_build_object('ok', true, 'changed', true, 'result', 'processed', 'mutation_id', mutation_id, 'status', 'failed');
end;
$$;
comment on function public.fail_mutation is
  'The side effect certainly did not happen: the events of its run are given back. The same again is unchanged. PT409 stale_lease, mutation_settled.';

create function public.claim_reconcile(worker text)
returns jsonb
language plpgsql
security definer -- API roles may not write mutations
set search_path = ''
as $$
declare
  settings lifecycle.settings;
  moment timestamptz := lifecycle.now();
  candidate record;
  mutation public.workflow_mutations;
begin
  select * into settings from lifecycle.settings;
  for candidate in
    select m.id, m.workflow_id from public.workflow_mutations m
    where m.next_reconcile_at <= moment order by m.next_reconcile_at
  loop
    perform from public.workflows w where w.id = candidate.workflow_id for no key update skip locked;
    continue when not found;
    select * into mutation from public.workflow_mutations m
    where m.id = candidate.id and m.next_reconcile_at <= moment for no key update;
    continue when not found;
    perform lifecycle.because('reconcile', details => jsonb_build_object('worker', left(worker, 200)));
    if mutation.reconcile_attempts >= settings.reconcile_attempts then
      -- The last one who asked never said what he heard.
      update public.workflow_mutations m set status = 'indeterminate' where m.id = mutation.id;
      continue;
    end if;
    update public.workflow_mutations m
    set reconcile_attempts = m.reconcile_attempts + 1,
      next_reconcile_at = moment + settings.reconcile_first * 2 ^ m.reconcile_attempts
    where m.id = mutation.id
    returning * into mutation;
    return jsonb_build_object(
      'mutation_id', mutation.id, 'attempt', mutation.reconcile_attempts, 'workflow_id', mutation.workflow_id,
      'owner_id', mutation.owner_id, 'run_id', mutation.run_id, 'reconcile', mutation.reconcile);
  end loop;
  return null;
end;
$$;
comment on function public.claim_reconcile is
  'Takes a side effect to ask after, and counts the attempt: { mutation_id, attempt, reconcile, ... }; the next is due after 10 s, doubling. Null where nothing is due.';

create function public.record_reconcile(
  mutation_id uuid, attempt int, outcome text, result jsonb default null, error text default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write mutations
set search_path = ''
as $$
declare
  mutation public.workflow_mutations;
begin
  if coalesce(outcome not in ('applied', 'failed', 'again'), true) then
    perform lifecycle.refuse_input('outcome', 'must be applied, failed or again.');
  end if;
  select * into mutation from public.workflow_mutations m where m.id = record_reconcile.mutation_id;
  if mutation.id is null then
    perform lifecycle.refuse(404, 'mutation_not_found', 'No mutation has this id.');
  end if;
  perform private.lock_workflow(mutation.workflow_id);
  perform from public.script_runs s
  where s.id = (select r.script_run_id from public.handler_runs r where r.id = mutation.run_id) for no key update;
  perform from public.handler_runs r where r.id = mutation.run_id for no key update;
  select * into mutation from public.workflow_mutations m where m.id = record_reconcile.mutation_id for no key update;
  if mutation.reconcile_attempts is distinct from record_reconcile.attempt then
    perform lifecycle.refuse(409, 'stale_attempt', 'Somebody has asked again since: only the newest answer counts.');
  elsif mutation.status::text = outcome or (outcome = 'again' and mutation.status = 'indeterminate') then
    return jsonb_build_object('ok', true, 'changed', false, 'result', 'unchanged', 'mutation_id', mutation_id, 'status', mutation.status);
  elsif mutation.status <> 'needs_reconcile' then
    perform lifecycle.refuse(409, 'mutation_settled', format('The side effect is not asked after any more: it is %s.', mutation.status),
      jsonb_build_object('status', mutation.status));
  end if;
  perform lifecycle.because('reconcile', details => jsonb_build_object('attempt', attempt));
  case
    when outcome = 'applied' then
      perform private.settle_mutation(mutation.id, 'applied', 'success', record_reconcile.result, null, 'reconcile');
    when outcome = 'failed' then
      perform private.settle_mutation(mutation.id, 'failed', 'failure', null,
        coalesce(record_reconcile.error, 'The other side says that it did not happen.'), 'reconcile');
    when attempt >= (select l.reconcile_attempts from lifecycle.settings l) then
      update public.workflow_mutations m
      set status = 'indeterminate', error = left(coalesce(record_reconcile.error, m.error), 2000) where m.id = mutation.id;
    else
      update public.workflow_mutations m set error = left(coalesce(record_reconcile.error, m.error), 2000) where m.id = mutation.id;
  end case;
  select * into mutation from public.workflow_mutations m where m.id = record_reconcile.mutation_id;
  return jsonb_build_object('ok', true, 'changed', true, 'result', 'processed', 'mutation_id', mutation_id, 'status', mutation.status);
end;
$$;
comment on function public.record_reconcile is
  'What the other side said of a side effect: applied (with a result), failed, or again for anything else; the fifth again leaves it to a person. PT409 stale_attempt, mutation_settled.';

revoke execute on function
  private.settle_mutation(uuid, public.mutation_status, public.mutation_outcome, jsonb, text, public.mutation_resolver),
  private.hold_mutation(uuid, uuid), private.refuse_settled(public.mutation_status)
from public, anon, authenticated, service_role;
revoke execute on function
  public.begin_mutation(uuid, text, jsonb, jsonb, uuid, uuid), public.apply_mutation(uuid, jsonb, uuid),
  public.fail_mutation(uuid, text, public.handler_error_type, uuid), public.claim_reconcile(text),
  public.record_reconcile(uuid, int, text, jsonb, text)
from public, anon, authenticated;
grant execute on function
  public.begin_mutation(uuid, text, jsonb, jsonb, uuid, uuid), public.apply_mutation(uuid, jsonb, uuid),
  public.fail_mutation(uuid, text, public.handler_error_type, uuid), public.claim_reconcile(text),
  public.record_reconcile(uuid, int, text, jsonb, text)
to service_role;
