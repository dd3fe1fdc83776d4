-- What every operation on a workflow needs. Writers lock in the order workflow, session, run, mutation, events.

alter table lifecycle.settings
  add column session_lease interval not null default '60 s',
  add column brake_first interval not null default '10 s',
  add column brake_longest interval not null default '600 s',
  add column transient_limit int not null default 6,
  add column reconcile_first interval not null default '10 s',
  add column reconcile_grace interval not null default '30 s',
  add column reconcile_attempts int not null default 5,
  add constraint automation_limits_are_positive check (
    session_lease > '0' and brake_first > '0' and brake_longest > '0' and transient_limit > 0
    and reconcile_first > '0' and reconcile_grace >= '0' and reconcile_attempts > 0
  );
comment on column lifecycle.settings.session_lease is 'How long a worker has a session of a workflow, from its claim or its last sign of life.';
comment on column lifecycle.settings.brake_first is 'How long a workflow rests after a failure that passes by itself; twice as long after each further one in a row.';
comment on column lifecycle.settings.transient_limit is 'The so many-th failure in a row that should have passed becomes an error.';
comment on column lifecycle.settings.reconcile_first is 'How long after the first question whether a side effect happened the second is asked; twice as long after each further one.';
comment on column lifecycle.settings.reconcile_grace is 'How long after the end of a worker''s lease a side effect is asked after at the earliest.';
comment on column lifecycle.settings.reconcile_attempts is 'After so many questions without an answer a person decides.';

create function private.lock_workflow(workflow_id uuid, owner_id uuid default null)
returns public.workflows
language plpgsql
set search_path = ''
as $$
declare
  workflow public.workflows;
begin
  -- Not its key: rows that refer to it may be written meanwhile.
  select * into workflow from public.workflows w
  where w.id = lock_workflow.workflow_id and (lock_workflow.owner_id is null or w.owner_id = lock_workflow.owner_id)
  for no key update;
  if workflow.id is null then
    perform lifecycle.refuse(404, 'workflow_not_found', 'There is no such workflow.');
  end if;
  return workflow;
end;
$$;
comment on function private.lock_workflow is 'Locks a workflow (of this owner, unless null); PT404 workflow_not_found.';

create function private.has_unresolved_mutation(workflow_id uuid)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return exists (
    select from public.workflow_mutations m
    where m.workflow_id = has_unresolved_mutation.workflow_id and m.status in ('in_flight', 'needs_reconcile', 'indeterminate')
  );
end;
$$;
comment on function private.has_unresolved_mutation is 'Is there a side effect of this workflow of which nobody knows whether it happened?';

create function private.say(
  workflow_id uuid, role public.workflow_message_role, type public.workflow_message_type, content text,
  payload jsonb default null
)
returns uuid
language plpgsql
set search_path = ''
as $$
declare
  message_id uuid;
begin
  insert into public.workflow_messages as m (workflow_id, owner_id, role, type, content, payload, created_at)
  select w.id, w.owner_id, say.role, say.type, left(content, 16000), lifecycle.cut(payload, 16384), lifecycle.now()
  from public.workflows w where w.id = say.workflow_id
  returning m.id into message_id;
  return message_id;
end;
$$;
comment on function private.say is 'Adds a message to the chat of a workflow; returns its id.';

create function private.notify_workflow(workflow_id uuid, type public.workflow_notification_type, payload jsonb)
returns void
language plpgsql
set search_path = ''
as $$
begin
  insert into public.workflow_notifications (workflow_id, owner_id, type, payload, created_at)
  select w.id, w.owner_id, notify_workflow.type, lifecycle.cut(payload, 16384), lifecycle.now()
  from public.workflows w where w.id = notify_workflow.workflow_id;
  -- An error stands in the chat too, where it is acknowledged.
  if type <> 'script_message' then
    perform private.say(workflow_id, 'event', 'error', coalesce(payload ->> 'message', 'The workflow needs you.'), payload);
  end if;
end;
$$;
comment on function private.notify_workflow is
  'Notifies the owner of a workflow; an error, an escalation and a failed maintenance are an error event of its chat as well. payload: { code, message, run_id, ... }.';

create function private.set_workflow_error(
  workflow_id uuid, code text, message text, stage public.workflow_stage, run_id uuid,
  type public.workflow_notification_type default 'error'
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  -- The event first: the state that the guard pushes knows of it.
  perform private.notify_workflow(workflow_id, type,
    jsonb_build_object('code', code, 'message', message, 'stage', stage, 'run_id', run_id));
  update public.workflows w
  set error = left(message, 2000), error_code = code, error_stage = stage, error_run_id = run_id, error_at = lifecycle.now()
  where w.id = set_workflow_error.workflow_id;
end;
$$;
comment on function private.set_workflow_error is
  'Says what is wrong with a workflow and notifies its owner; it is not run until the error is cleared. The caller holds its lock.';

create function private.clear_workflow_error(workflow_id uuid)
returns void
language plpgsql
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
begin
  update public.workflow_notifications n set resolved_at = moment
  where n.workflow_id = clear_workflow_error.workflow_id and n.resolved_at is null and n.type <> 'script_message';
  update public.workflow_messages m set resolved_at = moment
  where m.workflow_id = clear_workflow_error.workflow_id and m.role = 'event' and m.type = 'error' and m.resolved_at is null;
  -- Also where only an event was open: what is shown has changed.
  update public.workflows w
  set error = null, error_code = null, error_stage = null, error_run_id = null, error_at = null,
    version = w.version + case when w.error is null and found then 1 else 0 end
  where w.id = clear_workflow_error.workflow_id and (w.error is not null or found);
end;
$$;
comment on function private.clear_workflow_error is
  'Clears the error of a workflow; its notifications and error events are resolved. The caller holds its lock.';

create function private.workflow_due_at(workflow public.workflows)
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
declare
  consumers jsonb;
begin
  if workflow.status = 'archived' or (workflow.status <> 'active' and workflow.run_requested_at is null)
    or workflow.error is not null or workflow.maintenance
    or exists (select from public.script_runs s where s.workflow_id = workflow.id and s.status = 'running')
    or private.has_unresolved_mutation(workflow.id)
  then
    return null;
  end if;
  consumers := (select s.config -> 'consumers' from public.workflow_scripts s where s.id = workflow.active_script_id);
  return (
    select greatest(workflow.backoff_until, d.due) from (select least(
    workflow.run_requested_at,
    (select r.ended_at from public.handler_runs r where r.id = workflow.pending_retry_run_id),
    (select min(p.next_run_at) from public.producer_schedules p where p.workflow_id = workflow.id),
    (select min(case when h.dirty then least(h.updated_at, h.wake_at) else h.wake_at end)
      from public.handler_states h
      where h.workflow_id = workflow.id and h.handler_type = 'consumer' and (h.dirty or h.wake_at is not null)
        -- One that the script lost while it ran has work that nobody can do.
        and consumers ? h.handler_name)
    )) d (due) where d.due is not null
  );
end;
$$;
comment on function private.workflow_due_at is 'When a session of a workflow may be claimed; null while there is nothing to do or something forbids it.';

create function private.refresh_due(workflow_id uuid)
returns void
language plpgsql
set search_path = ''
as $$
declare
  due timestamptz;
begin
  due := (select private.workflow_due_at(w) from public.workflows w where w.id = refresh_due.workflow_id);
  update public.workflows w set next_due_at = due
  where w.id = refresh_due.workflow_id and w.next_due_at is distinct from due;
  if due <= lifecycle.now() then
    perform lifecycle.wake_lane('scripts');
  end if;
end;
$$;
comment on function private.refresh_due is 'Works out next_due_at anew and wakes the lane scripts where it is now; the last step of whatever changes a workflow.';

create function private.sync_handlers(workflow_id uuid, config jsonb, with_schedules boolean)
returns void
language plpgsql
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  owner uuid := (select w.owner_id from public.workflows w where w.id = sync_handlers.workflow_id);
begin
  insert into public.workflow_topics (workflow_id, owner_id, name, created_at)
  select sync_handlers.workflow_id, owner, t, moment from jsonb_array_elements_text(config -> 'topics') t
  on conflict on constraint one_topic_of_a_name do nothing;

  insert into public.handler_states (workflow_id, owner_id, handler_type, handler_name, updated_at)
  select sync_handlers.workflow_id, owner, h.type, h.name, moment
  from (
    select 'producer'::public.handler_type, jsonb_object_keys(config -> 'producers')
    union all
    select 'consumer', jsonb_object_keys(config -> 'consumers')
  ) h (type, name)
  on conflict on constraint handler_states_pkey do nothing;

  if with_schedules then
    -- Of a handler that is gone nothing is due; its state waits for its return.
    update public.handler_states h set dirty = false, wake_at = null
    where h.workflow_id = sync_handlers.workflow_id and h.handler_type = 'consumer' and (h.dirty or h.wake_at is not null)
      and not config -> 'consumers' ? h.handler_name;
    delete from public.producer_schedules p
    where p.workflow_id = sync_handlers.workflow_id and not config -> 'producers' ? p.producer;
    insert into public.producer_schedules as p (workflow_id, owner_id, producer, interval, cron, next_run_at)
    select sync_handlers.workflow_id, owner, c.name, c.spec #>> '{schedule,interval}', c.spec #>> '{schedule,cron}', moment
    from jsonb_each(config -> 'producers') c (name, spec)
    on conflict on constraint producer_schedules_pkey do update
    set interval = excluded.interval, cron = excluded.cron, next_run_at = excluded.next_run_at;
    update public.workflows w
    set cron = (
      select string_agg(coalesce(p.cron, 'every ' || p.interval), ', ' order by p.producer)
      from public.producer_schedules p where p.workflow_id = sync_handlers.workflow_id
    )
    where w.id = sync_handlers.workflow_id;
  end if;
end;
$$;
comment on function private.sync_handlers is
  'Makes the topics and handler states that a script''s config names; with_schedules (activation) also the schedules, by name and all due now. The caller holds the lock of the workflow.';

create function private.wake_consumers(workflow_id uuid)
returns void
language sql
set search_path = ''
as $$
  update public.handler_states h set dirty = true, updated_at = lifecycle.now()
  from public.workflows w join public.workflow_scripts s on s.id = w.active_script_id
  where w.id = wake_consumers.workflow_id and h.workflow_id = w.id and h.handler_type = 'consumer' and not h.dirty
    and s.config -> 'consumers' ? h.handler_name
$$;
comment on function private.wake_consumers is 'Gives every consumer of the active script work: after activation, resume and retry.';

create function private.release_events(run_id uuid)
returns void
language plpgsql
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  run public.handler_runs;
begin
  update public.workflow_events e
  set status = 'pending', reserved_by_run_id = null, attempt_number = e.attempt_number + 1, updated_at = moment
  where e.reserved_by_run_id = release_events.run_id and e.status = 'reserved';
  -- Also where it had none: what woke it may be over, and its next() is still to be done.
  select * into run from public.handler_runs r where r.id = release_events.run_id;
  update public.handler_states h set dirty = true, updated_at = moment
  where h.workflow_id = run.workflow_id and h.handler_type = 'consumer' and h.handler_name = run.handler_name;
end;
$$;
comment on function private.release_events is 'Gives the reserved events of a run back, each with one more attempt_number, and its consumer work.';

create function private.cut_logs(logs jsonb)
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
begin
  if logs is null or octet_length(logs::text) <= 65536 then
    return logs;
  elsif jsonb_typeof(logs) <> 'array' then
    return lifecycle.cut(logs, 65536);
  end if;
  -- The end of it tells what went wrong.
  return (
    select jsonb_build_array(jsonb_build_object(
        'at', min(k.line ->> 'at'), 'level', 'warn', 'text', 'The lines before this one are left out.')) || jsonb_agg(k.line order by k.position)
    from (
      select c.position, c.line, sum(octet_length(c.line::text) + 2) over (order by c.position desc) as bytes
      from (
        select l.position, case when octet_length(l.line::text) <= 8192 then l.line
          else jsonb_build_object('at', l.line -> 'at', 'level', l.line -> 'level', 'text', left(l.line ->> 'text', 1000)) end as line
        from jsonb_array_elements(logs) with ordinality l (line, position)
      ) c
    ) k
    where k.bytes <= 65000
  );
end;
$$;
comment on function private.cut_logs is 'Logs [{ at, level, text }] of at most 64 KB: the newest lines, and long ones cut.';

revoke execute on function
  private.lock_workflow(uuid, uuid), private.has_unresolved_mutation(uuid),
  private.say(uuid, public.workflow_message_role, public.workflow_message_type, text, jsonb),
  private.notify_workflow(uuid, public.workflow_notification_type, jsonb),
  private.set_workflow_error(uuid, text, text, public.workflow_stage, uuid, public.workflow_notification_type),
  private.clear_workflow_error(uuid), private.workflow_due_at(public.workflows), private.refresh_due(uuid),
  private.sync_handlers(uuid, jsonb, boolean), private.wake_consumers(uuid), private.release_events(uuid), private.cut_logs(jsonb)
from public, anon, authenticated, service_role;
