-- Sessions: a worker claims a workflow that is due and holds its lease; every call on its runs carries the token.

create function private.check_lease(session_id uuid, lease_token uuid)
returns void
language plpgsql
set search_path = ''
as $$
declare
  session public.script_runs;
begin
  select * into session from public.script_runs s where s.id = check_lease.session_id;
  -- Without a token: people and tests, where no worker is at it. Whoever gave the session back has no lease any more.
  if (lease_token is null and session.lease_expires_at > lifecycle.now())
    or (lease_token is not null and (
      lease_token is distinct from session.lease_token or (session.status = 'running' and session.lease_owner is null)))
  then
    perform lifecycle.refuse(409, 'stale_lease', 'Another worker has the session, or it has ended: claim one again.');
  end if;
end;
$$;
comment on function private.check_lease is
  'Raises PT409 stale_lease unless a session may be written with this token; the caller holds its lock. Whoever names the token of a session that has an owner may: the steps of a run ask here only for all others.';

create function private.hold_session(session_id uuid, lease_token uuid, out workflow public.workflows, out session public.script_runs)
language plpgsql
set search_path = ''
as $$
declare
  held record;
begin
  -- One statement, which locks in the order in which they are named. Not the keys: rows that refer to them may be written.
  select w as workflow, s as session, s.lease_token = hold_session.lease_token and s.lease_owner is not null as is_held into held
  from public.script_runs s join public.workflows w on w.id = s.workflow_id
  where s.id = hold_session.session_id
  for no key update of w, s;
  if not found then
    perform lifecycle.refuse(404, 'session_not_found', 'No session has this id.');
  end if;
  if held.is_held is not true then
    perform private.check_lease(session_id, lease_token);
  end if;
  workflow := held.workflow;
  session := held.session;
end;
$$;
comment on function private.hold_session is
  'Locks a workflow and its session for whoever has its lease; PT404 session_not_found, PT409 stale_lease.';

create function private.hold_run(
  run_id uuid, lease_token uuid, out workflow public.workflows, out session public.script_runs, out run public.handler_runs
)
language plpgsql
set search_path = ''
as $$
declare
  held record;
begin
  select w as workflow, s as session, r as run, s.lease_token = hold_run.lease_token and s.lease_owner is not null as is_held
  into held
  from public.handler_runs r
  join public.script_runs s on s.id = r.script_run_id
  join public.workflows w on w.id = s.workflow_id
  where r.id = hold_run.run_id
  for no key update of w, s, r;
  if not found then
    perform lifecycle.refuse(404, 'handler_run_not_found', 'No handler run has this id.');
  end if;
  if held.is_held is not true then
    perform private.check_lease((held.session).id, lease_token);
  end if;
  workflow := held.workflow;
  session := held.session;
  run := held.run;
end;
$$;
comment on function private.hold_run is 'Locks a workflow, a session and a run of it for whoever has the lease of the session.';

create function private.known_outcome(run_id uuid, outcome public.mutation_outcome)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  result jsonb;
begin
  if run_id is null then
    return null;
  elsif outcome = 'skipped' then
    return '{"status": "skipped"}';
  elsif outcome = 'success' then
    result := (
      select jsonb_build_object('status', 'applied', 'result', m.result)
      from public.workflow_mutations m where m.run_id = known_outcome.run_id and m.status = 'applied'
    );
    if result is null then
      -- It was done by a run that this one goes on with.
      result := private.known_outcome((select r.retry_of from public.handler_runs r where r.id = known_outcome.run_id), outcome);
    end if;
    return result;
  end if;
  return '{"status": "none"}';
end;
$$;
comment on function private.known_outcome is
  'What next() is told of the side effect, through the chain of retries: { status: applied, result }, { status: skipped } or { status: none }.';

create function private.reserved_events_json(run_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'topic', t.name, 'message_id', e.message_id, 'payload', e.payload, 'attempt_number', e.attempt_number
    ) order by e.position), '[]')
    from public.workflow_events e join public.workflow_topics t on t.id = e.topic_id
    where e.reserved_by_run_id = reserved_events_json.run_id
  );
end;
$$;
comment on function private.reserved_events_json is 'The events that a run has, or had when they were consumed or skipped, as its worker gets them.';

create function private.run_json(run public.handler_runs)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  events jsonb := '[]';
  mutation jsonb;
  result jsonb := '{"status": "none"}';
begin
  -- What can not be there yet is not looked for.
  if run.phase >= 'prepared' and run.handler_type = 'consumer' then
    events := private.reserved_events_json(run.id);
    mutation := (
      select jsonb_build_object('mutation_id', m.id, 'tool', m.tool, 'status', m.status, 'result', m.result)
      from public.workflow_mutations m where m.run_id = run.id
    );
    result := private.known_outcome(run.id, run.mutation_outcome);
  end if;
  return jsonb_build_object(
    'run_id', run.id, 'handler_type', run.handler_type, 'handler_name', run.handler_name, 'phase', run.phase,
    'status', run.status, 'state', run.state_before, 'prepare_result', run.prepare_result,
    'mutation_outcome', run.mutation_outcome, 'retry_of', run.retry_of,
    'mutation', mutation, 'events', events, 'result', result
  );
end;
$$;
comment on function private.run_json is 'A run as its worker needs it to go on at its phase.';

create function private.claimed_session(session public.script_runs)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'session_id', (session).id, 'lease_token', (session).lease_token, 'lease_expires_at', (session).lease_expires_at,
    'workflow_id', w.id, 'owner_id', w.owner_id, 'title', w.title, 'time_zone', w.time_zone, 'trigger', (session).trigger,
    'script', jsonb_build_object('id', s.id, 'major', s.major, 'minor', s.minor, 'code', s.code, 'config', s.config),
    'run', (
      select private.run_json(r) from public.handler_runs r where r.script_run_id = (session).id and r.status = 'active'
    )
  )
  from public.workflows w, public.workflow_scripts s
  where w.id = (session).workflow_id and s.id = (session).script_id
$$;
comment on function private.claimed_session is 'A session as its worker gets it.';

create function private.script_to_run(workflow public.workflows)
returns public.workflow_scripts
language sql
stable
set search_path = ''
as $$
  select s from public.workflow_scripts s
  where s.workflow_id = (workflow).id and (s.id = (workflow).active_script_id or (workflow).active_script_id is null)
  order by s.major desc, s.minor desc limit 1
$$;
comment on function private.script_to_run is 'The active script of a workflow, before the first activation the newest; null for none.';

create function private.open_session(
  workflow public.workflows, trigger public.session_trigger, worker text, retry_of uuid default null
)
returns public.script_runs
language plpgsql
set search_path = ''
as $$
declare
  script public.workflow_scripts := private.script_to_run(workflow);
  session public.script_runs;
begin
  if workflow.status <> 'active' then
    perform private.sync_handlers(workflow.id, script.config, false);
  end if;
  insert into public.script_runs as s (
    workflow_id, owner_id, script_id, trigger, retry_of, started_at, lease_owner, lease_token, lease_expires_at
  )
  values (
    workflow.id, workflow.owner_id, script.id, trigger, retry_of, lifecycle.now(),
    -- Never null: that is a session that was given back.
    coalesce(left(worker, 200), 'unnamed'), gen_random_uuid(), lifecycle.now() + (select l.session_lease from lifecycle.settings l)
  )
  returning * into session;
  update public.workflows w
  set next_due_at = null, run_requested_at = case when open_session.trigger <> 'manual' then w.run_requested_at end
  where w.id = workflow.id;
  return session;
end;
$$;
comment on function private.open_session is 'Opens a session with its lease; the caller holds the lock of the workflow.';

create function private.is_retryable(run public.handler_runs)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return run.id is not null and run.status not in ('active', 'committed')
    and coalesce(run.mutation_outcome in ('success', 'skipped'), false)
    and not exists (select from public.handler_runs r where r.retry_of = run.id);
end;
$$;
comment on function private.is_retryable is 'Did this run end behind its side effect, and did nobody go on with it yet?';

create function private.open_retry(workflow public.workflows, failed public.handler_runs, worker text)
returns public.script_runs
language plpgsql
set search_path = ''
as $$
declare
  session public.script_runs := private.open_session(workflow, 'retry', worker, failed.script_run_id);
  retry uuid;
begin
  insert into public.handler_runs as r (
    script_run_id, workflow_id, owner_id, handler_type, handler_name, phase, mutation_outcome, retry_of, prepare_result,
    state_before, started_at
  )
  select session.id, workflow.id, workflow.owner_id, failed.handler_type, failed.handler_name, 'emitting',
    failed.mutation_outcome, failed.id, failed.prepare_result,
    (select h.state from public.handler_states h
      where h.workflow_id = workflow.id and h.handler_type = failed.handler_type and h.handler_name = failed.handler_name),
    lifecycle.now()
  returning r.id into retry;
  update public.workflow_events e set reserved_by_run_id = retry, updated_at = lifecycle.now()
  where e.reserved_by_run_id = failed.id and e.status in ('reserved', 'skipped');
  update public.workflows w set pending_retry_run_id = null where w.id = workflow.id;
  return session;
end;
$$;
comment on function private.open_retry is
  'Opens a session whose run goes on with next() of a run that ended behind its side effect: same events, same outcome.';

create function public.create_retry_run(run_id uuid, worker text default null)
returns jsonb
language plpgsql
security definer -- API roles may not write runs
set search_path = ''
as $$
declare
  failed public.handler_runs;
  workflow public.workflows;
  session public.script_runs;
begin
  select * into failed from public.handler_runs r where r.id = create_retry_run.run_id;
  if failed.id is null then
    perform lifecycle.refuse(404, 'handler_run_not_found', 'No handler run has this id.');
  end if;
  workflow := private.lock_workflow(failed.workflow_id);
  select * into failed from public.handler_runs r where r.id = create_retry_run.run_id for no key update;
  if exists (select from public.handler_runs r where r.retry_of = failed.id) then
    perform lifecycle.refuse(409, 'already_retried', 'A run is retried once: retry the run that went on with it.');
  elsif not private.is_retryable(failed) then
    perform lifecycle.refuse(409, 'not_retryable', 'Only a run that ended behind its side effect is retried: any other begins anew by itself.');
  elsif exists (select from public.script_runs s where s.workflow_id = workflow.id and s.status = 'running') then
    perform lifecycle.refuse(409, 'session_running', 'The workflow is running: wait until its session has ended.');
  end if;
  perform lifecycle.because('worker');
  session := private.open_retry(workflow, failed, worker);
  return private.claimed_session(session) || '{"ok": true, "changed": true, "result": "created"}';
end;
$$;
comment on function public.create_retry_run is
  'Goes on with next() of a run that ended behind its side effect, in a new session whose answer is that of claim_workflow_session(). PT409 already_retried, not_retryable, session_running.';

create function private.claim_yielded_session(worker text)
returns public.script_runs
language plpgsql
set search_path = ''
as $$
declare
  candidate record;
  session public.script_runs;
begin
  for candidate in
    select s.id, s.workflow_id from public.script_runs s
    where s.status = 'running' and s.lease_owner is null and s.lease_expires_at <= lifecycle.now()
    order by s.lease_expires_at
  loop
    perform from public.workflows w where w.id = candidate.workflow_id for no key update skip locked;
    continue when not found;
    update public.script_runs s
    set lease_owner = coalesce(left(worker, 200), 'unnamed'), lease_token = gen_random_uuid(),
      lease_expires_at = lifecycle.now() + (select l.session_lease from lifecycle.settings l)
    where s.id = candidate.id and s.status = 'running' and s.lease_owner is null
    returning * into session;
    if found then
      return session;
    end if;
  end loop;
  return null;
end;
$$;
comment on function private.claim_yielded_session is 'Takes a session that a worker gave back, oldest first; nulls for none.';

create function private.open_due_session(workflow public.workflows, worker text)
returns public.script_runs
language plpgsql
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  due timestamptz := private.workflow_due_at(workflow);
  failed public.handler_runs;
begin
  if due is null or due > moment then
    update public.workflows w set next_due_at = due where w.id = workflow.id;
    return null;
  end if;
  perform lifecycle.because('worker');
  if workflow.pending_retry_run_id is null then
    return private.open_session(workflow, case
      when workflow.run_requested_at is not null then 'manual'
      when exists (
        select from public.producer_schedules p where p.workflow_id = workflow.id and p.next_run_at <= moment
      ) then 'schedule'
      else 'event'
    end::public.session_trigger, worker);
  end if;
  select * into failed from public.handler_runs r where r.id = workflow.pending_retry_run_id for no key update;
  if private.is_retryable(failed) then
    return private.open_retry(workflow, failed, worker);
  end if;
  update public.workflows w set pending_retry_run_id = null, version = w.version + 1 where w.id = workflow.id;
  perform private.notify_workflow(workflow.id, 'error', jsonb_build_object(
    'code', 'RETRY_INVALID', 'run_id', failed.id, 'message', 'A run that was to be gone on with can not be.'));
  perform private.refresh_due(workflow.id);
  return null;
end;
$$;
comment on function private.open_due_session is
  'Opens the session for which a workflow is due; nulls where it is not due after all, or its retry was none. The caller holds its lock.';

create function public.claim_workflow_session(worker text)
returns jsonb
language plpgsql
security definer -- API roles may not write sessions
set search_path = ''
as $$
declare
  workflow public.workflows;
  session public.script_runs := private.claim_yielded_session(worker);
begin
  if session.id is not null then
    return private.claimed_session(session);
  end if;
  loop
    select * into workflow from public.workflows w
    where w.next_due_at <= lifecycle.now()
    order by w.next_due_at limit 1 for no key update skip locked;
    if not found then
      return null;
    end if;
    begin
      session := private.open_due_session(workflow, worker);
    exception when others then
      -- Out of the way of the others, and tried again in a minute.
      raise warning 'claim: workflow % could not begin: %', workflow.id, sqlerrm;
      update public.workflows w set next_due_at = lifecycle.now() + interval '60 s' where w.id = workflow.id;
      session := null;
    end;
    if session.id is not null then
      return private.claimed_session(session);
    end if;
  end loop;
end;
$$;
comment on function public.claim_workflow_session is
  'Takes a session to work on, with a lease and a lease_token: one that was given back, else that of the workflow that has been due for longest. run: where it goes on (a session that was given back, or a retry), null for a fresh one. Null where nothing is due.';

create function public.renew_session(session_id uuid, lease_token uuid)
returns jsonb
language plpgsql
security definer -- API roles may not write sessions
set search_path = ''
as $$
declare
  expires timestamptz := lifecycle.now() + (select l.session_lease from lifecycle.settings l);
begin
  update public.script_runs s set lease_expires_at = expires
  where s.id = renew_session.session_id and s.lease_token = renew_session.lease_token and s.status = 'running'
    and s.lease_owner is not null;
  if not found then
    -- Whoever waited for the session holds it now, update or not: the workflow may not be locked behind it.
    if not exists (select from public.script_runs s where s.id = renew_session.session_id) then
      perform lifecycle.refuse(404, 'session_not_found', 'No session has this id.');
    end if;
    perform lifecycle.refuse(409, 'stale_lease', 'Another worker has the session, or it has ended: claim one again.');
  end if;
  return jsonb_build_object('ok', true, 'changed', true, 'result', 'processed', 'lease_expires_at', expires);
end;
$$;
comment on function public.renew_session is 'Renews the lease of a session; PT404 session_not_found, PT409 stale_lease.';

create function public.yield_session(session_id uuid, lease_token uuid)
returns jsonb
language plpgsql
security definer -- API roles may not write sessions
set search_path = ''
as $$
declare
  held record;
begin
  if exists (
    select from public.script_runs s
    where s.id = yield_session.session_id and s.lease_token = yield_session.lease_token
      and s.status = 'running' and s.lease_owner is null
  ) then
    return '{"ok": true, "changed": false, "result": "unchanged"}';
  end if;
  held := private.hold_session(session_id, lease_token);
  if (held.session).status <> 'running' then
    perform lifecycle.refuse(409, 'stale_lease', 'The session has ended: claim one again.');
  end if;
  update public.script_runs s set lease_owner = null, lease_expires_at = lifecycle.now()
  where s.id = yield_session.session_id;
  perform lifecycle.wake_lane('scripts');
  return '{"ok": true, "changed": true, "result": "processed"}';
end;
$$;
comment on function public.yield_session is
  'Gives a session back between two phases; the next claim goes on with it. PT409 stale_lease.';

create function public.finish_session(session_id uuid, lease_token uuid default null)
returns jsonb
language plpgsql
security definer -- API roles may not write sessions
set search_path = ''
as $$
declare
  held record := private.hold_session(session_id, lease_token);
begin
  if (held.session).status = 'success' then
    return '{"ok": true, "changed": false, "result": "unchanged", "status": "success"}';
  elsif (held.session).status = 'failed' then
    perform lifecycle.refuse(409, 'session_ended', 'The session has failed: claim one again.');
  elsif exists (select from public.handler_runs r where r.script_run_id = finish_session.session_id and r.status = 'active') then
    perform lifecycle.refuse(409, 'run_active', 'A run of the session is under way: commit it or end it first.');
  end if;
  perform lifecycle.because('worker');
  perform private.end_session_well(held.session);
  return '{"ok": true, "changed": true, "result": "processed", "status": "success"}';
end;
$$;
comment on function public.finish_session is
  'Ends a session well: the counts of failures in a row start anew. PT409 stale_lease, run_active, session_ended.';

create function private.end_session_well(session public.script_runs)
returns void
language plpgsql
set search_path = ''
as $$
begin
  update public.script_runs s
  set status = 'success', result = 'completed',
    cost_microusd = (select coalesce(sum(r.cost_microusd), 0) from public.handler_runs r where r.script_run_id = s.id)
  where s.id = session.id;
  update public.workflows w set transient_failures = 0, backoff_until = null, maintenance_fix_count = 0
  where w.id = session.workflow_id
    and (w.transient_failures > 0 or w.backoff_until is not null or w.maintenance_fix_count > 0);
  perform private.refresh_due(session.workflow_id);
end;
$$;
comment on function private.end_session_well is 'Every run of the session committed; the caller holds its locks.';

revoke execute on function
  private.check_lease(uuid, uuid), private.hold_session(uuid, uuid), private.hold_run(uuid, uuid),
  private.known_outcome(uuid, public.mutation_outcome),
  private.reserved_events_json(uuid), private.run_json(public.handler_runs), private.claimed_session(public.script_runs),
  private.script_to_run(public.workflows),
  private.open_session(public.workflows, public.session_trigger, text, uuid),
  private.is_retryable(public.handler_runs), private.open_retry(public.workflows, public.handler_runs, text),
  private.claim_yielded_session(text), private.open_due_session(public.workflows, text),
  private.end_session_well(public.script_runs)
from public, anon, authenticated, service_role;
revoke execute on function
  public.create_retry_run(uuid, text), public.claim_workflow_session(text), public.renew_session(uuid, uuid),
  public.yield_session(uuid, uuid), public.finish_session(uuid, uuid)
from public, anon, authenticated;
grant execute on function
  public.create_retry_run(uuid, text), public.claim_workflow_session(text), public.renew_session(uuid, uuid),
  public.yield_session(uuid, uuid), public.finish_session(uuid, uuid)
to service_role;
