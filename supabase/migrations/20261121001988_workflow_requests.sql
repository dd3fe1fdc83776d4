-- What a person asks of a workflow. Nothing else changes its status.

create function private.workflow_answer(workflow_id uuid, result text, more jsonb default '{}')
returns jsonb
language sql
stable
set search_path = ''
as $$
  select private.workflow_json(w)
    || jsonb_build_object('ok', true, 'changed', result <> 'unchanged', 'result', result) || more
  from public.workflows w where w.id = workflow_answer.workflow_id
$$;
comment on function private.workflow_answer is 'A workflow as it is now, as the answer to a request.';

create function private.refuse_workflow_move(workflow public.workflows, to_status text, hint text)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  perform lifecycle.refuse(409, 'illegal_transition', hint, jsonb_build_object(
    'machine', 'workflow', 'from', workflow.status, 'to', to_status,
    -- The machine may know this move, for another request.
    'allowed', lifecycle.allowed_from('workflow', workflow.status::text) - to_status));
end;
$$;
comment on function private.refuse_workflow_move is 'Raises PT409 illegal_transition with the hint that fits what was asked for.';

create function private.refuse_unresolved_mutation(workflow_id uuid)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  unresolved jsonb := private.unresolved_mutation_json(workflow_id);
begin
  if unresolved is not null then
    perform lifecycle.refuse(409, 'unresolved_mutation',
      'Nobody knows yet whether a side effect happened: resolve the mutation, or wait until the other side was asked.',
      jsonb_build_object('mutation', unresolved));
  end if;
end;
$$;
comment on function private.refuse_unresolved_mutation is 'Raises PT409 unresolved_mutation while there is one.';

create function private.is_troubled(workflow public.workflows)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return workflow.error is not null or workflow.transient_failures > 0 or workflow.backoff_until is not null
    or exists (
      select from public.workflow_messages m
      where m.workflow_id = workflow.id and m.role = 'event' and m.type = 'error'
        and m.acknowledged_at is null and m.resolved_at is null
    );
end;
$$;
comment on function private.is_troubled is 'Is there an error, a back-off or an open error event that a person may clear?';

create function private.clear_trouble(workflow_id uuid)
returns void
language plpgsql
set search_path = ''
as $$
begin
  update public.workflows w set transient_failures = 0, backoff_until = null
  where w.id = clear_trouble.workflow_id and (w.transient_failures > 0 or w.backoff_until is not null);
  perform private.clear_workflow_error(workflow_id);
end;
$$;
comment on function private.clear_trouble is 'Clears error, back-off and the count of failures: a person has seen to it.';

create function private.because_asked(reason text, actor uuid)
returns void
language sql
set search_path = ''
as $$
  select lifecycle.because('user', reason, case when actor is not null then jsonb_build_object('actor', actor) end)
$$;
comment on function private.because_asked is 'lifecycle.because() of what a person asked for; actor: the operator who did so for somebody else.';

create function private.replayed_request(owner_id uuid, idempotency_key text, request_hash bytea)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  answer jsonb := private.replayed(owner_id, idempotency_key, request_hash);
begin
  if answer ->> 'ok' = 'false' then
    perform lifecycle.refuse(409, 'idempotency_key_reused',
      'Another request was made with this Idempotency-Key: use a new one.');
  end if;
  return answer;
end;
$$;
comment on function private.replayed_request is 'private.replayed(), where a key that was used for another request raises PT409.';

create function private.title_of(message text)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  return btrim(left(split_part(btrim(message, E' \t\r\n'), E'\n', 1), 80), E' \t\r');
end;
$$;
comment on function private.title_of is 'What a workflow is called until the agent finds a title: the beginning of what was asked for.';

create function private.check_title(title text)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if btrim(title) = '' or length(title) > 255 then
    perform lifecycle.refuse_input('title', 'has 1 to 255 characters.');
  end if;
end;
$$;
comment on function private.check_title is 'Raises PT422 for what is no title; null is none.';

create function private.check_time_zone(time_zone text)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  -- Offsets are understood as well, but have no summer.
  if coalesce(time_zone !~ '^[A-Za-z][A-Za-z0-9_+/-]{0,63}$', true) then
    perform lifecycle.refuse_input('time_zone', 'must be the name of a time zone, such as Europe/Berlin.');
  end if;
  perform now() at time zone time_zone;
exception when invalid_parameter_value then
  perform lifecycle.refuse_input('time_zone', 'must be the name of a time zone, such as Europe/Berlin.');
end;
$$;
comment on function private.check_time_zone is 'Raises PT422 for what is not the name of a time zone.';

create function public.create_workflow(
  owner_id uuid, message text default null, title text default null, code text default null, config jsonb default null,
  time_zone text default 'UTC', summary text default null, idempotency_key text default null, actor uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write workflows
set search_path = ''
as $$
declare
  request_hash bytea := sha256(convert_to(
    jsonb_build_array('workflow', message, title, code, time_zone, summary)::text, 'utf8'));
  workflow public.workflows;
  script public.workflow_scripts;
  chat uuid;
  said jsonb;
  answer jsonb;
begin
  if owner_id is null then
    perform lifecycle.refuse_input('owner_id', 'is needed: a workflow belongs to somebody.');
  elsif (message is null) = (code is null) then
    perform lifecycle.refuse_input('message', 'is needed, from which the agent writes the script, or else title and code.');
  elsif code is not null and title is null then
    perform lifecycle.refuse_input('title', 'is needed: a workflow has a name.');
  end if;
  perform private.check_title(title);
  if message is not null then
    perform private.check_message(message);
  end if;
  perform private.check_time_zone(time_zone);
  answer := private.replayed_request(owner_id, idempotency_key, request_hash);
  if answer is not null then
    return answer;
  end if;

  perform private.because_asked(null, actor);
  insert into public.workflows as w (owner_id, title, time_zone)
  values (owner_id, coalesce(title, private.title_of(message)), time_zone)
  returning w.* into workflow;
  insert into public.workflow_chats as c (workflow_id, owner_id, created_at)
  values (workflow.id, workflow.owner_id, workflow.created_at)
  returning c.id into chat;
  update public.workflows w set chat_id = chat where w.id = workflow.id returning w.* into workflow;
  if message is not null then
    said := private.tell_planner(workflow, message, actor);
  else
    script := private.add_script(workflow, code, config, null, summary, actor => create_workflow.actor);
    said := jsonb_build_object('script_id', script.id);
  end if;
  answer := private.workflow_answer(workflow.id, 'created', said);
  perform private.keep_receipt(owner_id, idempotency_key, request_hash, answer);
  return answer;
end;
$$;
comment on function public.create_workflow is
  'A new workflow, a draft: from a message, of which the agent makes a script (task_id), or with its first script (title, code, config; script_id). PT409 idempotency_key_reused for another request with the same key.';

create function public.update_workflow(
  workflow_id uuid, title text default null, time_zone text default null, next_runs jsonb default null,
  owner_id uuid default null, actor uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write workflows
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  workflow public.workflows := private.lock_workflow(workflow_id, owner_id);
  moves boolean := coalesce(update_workflow.time_zone <> workflow.time_zone, false);
begin
  perform private.check_title(title);
  if time_zone is not null then
    perform private.check_time_zone(time_zone);
  end if;
  if coalesce(jsonb_typeof(next_runs), 'object') <> 'object' then
    perform lifecycle.refuse_input('next_runs', 'must be an object, of a time for each cron expression.');
  elsif not moves and coalesce(title, workflow.title) = workflow.title then
    return private.workflow_answer(workflow.id, 'unchanged');
  end if;
  update public.workflows w
  set title = coalesce(update_workflow.title, w.title), time_zone = coalesce(update_workflow.time_zone, w.time_zone),
    -- What is shown has changed: the guard tells.
    version = w.version + 1
  where w.id = workflow.id;
  if moves then
    begin
      -- What is due already stays due. Nobody planned what was activated just now: its worker does.
      update public.producer_schedules p
      set next_run_at = greatest(moment, coalesce((next_runs ->> p.cron)::timestamptz, moment))
      where p.workflow_id = workflow.id and p.cron is not null and p.next_run_at > moment;
    exception when data_exception then
      perform lifecycle.refuse_input('next_runs', 'must have a time for each cron expression.');
    end;
    perform private.refresh_due(workflow.id);
  end if;
  return private.workflow_answer(workflow.id, 'processed');
end;
$$;
comment on function public.update_workflow is
  'Changes the title or the time zone of a workflow; null keeps what is there. next_runs, { "<cron>": time }: when each cron comes next in the new time zone; one that is not named is due at once. A producer that runs just now is planned by the time zone that its worker was told. PT404 workflow_not_found.';

create function public.activate_workflow(
  workflow_id uuid, owner_id uuid default null, script_id uuid default null, actor uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write workflows
set search_path = ''
as $$
declare
  workflow public.workflows := private.lock_workflow(workflow_id, owner_id);
  script public.workflow_scripts;
  is_unresolved boolean := private.unresolved_mutation_json(workflow.id) is not null;
begin
  select * into script from public.workflow_scripts s
  where s.workflow_id = workflow.id and (activate_workflow.script_id is null or s.id = activate_workflow.script_id)
  order by s.major desc, s.minor desc limit 1;
  if script.id is null then
    perform lifecycle.refuse(404, 'script_not_found', case when activate_workflow.script_id is null
      then 'The workflow has no script yet: save one first.' else 'The workflow has no script with this id.' end);
  elsif workflow.status = 'active' and workflow.active_script_id = script.id and not workflow.maintenance
    and workflow.maintenance_fix_count = 0 and (is_unresolved or not private.is_troubled(workflow))
  then
    return private.workflow_answer(workflow.id, 'unchanged');
  end if;

  perform private.because_asked('activated ' || private.script_version(script), actor);
  -- Where the machine knows no such move this is refused, and nothing has changed.
  update public.workflows w
  set status = 'active', active_script_id = script.id, maintenance = false, maintenance_fix_count = 0
  where w.id = workflow.id;
  perform private.drop_repair(workflow.id);
  if not is_unresolved then
    perform private.clear_trouble(workflow.id);
  end if;
  perform private.sync_handlers(workflow.id, script.config, true);
  perform private.wake_consumers(workflow.id);
  perform private.refresh_due(workflow.id);
  return private.workflow_answer(workflow.id, 'processed');
end;
$$;
comment on function public.activate_workflow is
  'Runs a workflow by a version of its script (null: the newest) from now on: everything is due at once, maintenance is over, the error is cleared unless a side effect is unresolved. PT404 workflow_not_found | script_not_found, PT409 illegal_transition.';

create function public.pause_workflow(workflow_id uuid, owner_id uuid default null, actor uuid default null)
returns jsonb
language plpgsql
security definer -- API roles may not write workflows
set search_path = ''
as $$
declare
  workflow public.workflows := private.lock_workflow(workflow_id, owner_id);
begin
  if workflow.status = 'disabled' then
    return private.workflow_answer(workflow.id, 'unchanged');
  elsif workflow.status = 'archived' then
    perform private.refuse_workflow_move(workflow, 'disabled', 'The workflow is put away and does not run: unarchive it.');
  end if;
  perform private.because_asked('paused', actor);
  -- What runs comes to the end of its run: pausing fails nothing.
  update public.workflows w set status = 'disabled', run_requested_at = null where w.id = workflow.id;
  perform private.refresh_due(workflow.id);
  return private.workflow_answer(workflow.id, 'processed');
end;
$$;
comment on function public.pause_workflow is
  'No session begins any more, and no further handler run; the one that runs fails nothing. PT404 workflow_not_found, PT409 illegal_transition.';

create function public.resume_workflow(workflow_id uuid, owner_id uuid default null, actor uuid default null)
returns jsonb
language plpgsql
security definer -- API roles may not write workflows
set search_path = ''
as $$
declare
  workflow public.workflows := private.lock_workflow(workflow_id, owner_id);
begin
  if workflow.status in ('draft', 'archived') then
    perform private.refuse_workflow_move(workflow, 'active', case workflow.status
      when 'draft' then 'The workflow has never run: activate it.' else 'The workflow is put away: unarchive it first.' end);
  end if;
  perform private.refuse_unresolved_mutation(workflow.id);
  if workflow.status = 'active' and not private.is_troubled(workflow) then
    return private.workflow_answer(workflow.id, 'unchanged');
  end if;
  perform private.because_asked('resumed', actor);
  update public.workflows w set status = 'active' where w.id = workflow.id;
  perform private.clear_trouble(workflow.id);
  perform private.wake_consumers(workflow.id);
  perform private.refresh_due(workflow.id);
  return private.workflow_answer(workflow.id, 'processed');
end;
$$;
comment on function public.resume_workflow is
  'A paused workflow, or one that stands still for its error, goes on; the error is cleared. PT404 workflow_not_found, PT409 illegal_transition | unresolved_mutation.';

create function public.archive_workflow(workflow_id uuid, owner_id uuid default null, actor uuid default null)
returns jsonb
language plpgsql
security definer -- API roles may not write workflows
set search_path = ''
as $$
declare
  workflow public.workflows := private.lock_workflow(workflow_id, owner_id);
begin
  if workflow.status = 'archived' then
    return private.workflow_answer(workflow.id, 'unchanged');
  end if;
  perform private.because_asked('archived', actor);
  update public.workflows w set status = 'archived', run_requested_at = null where w.id = workflow.id;
  perform private.refresh_due(workflow.id);
  return private.workflow_answer(workflow.id, 'processed');
end;
$$;
comment on function public.archive_workflow is
  'Puts a draft or a paused workflow away. PT404 workflow_not_found, PT409 illegal_transition (pause it first).';

create function public.unarchive_workflow(workflow_id uuid, owner_id uuid default null, actor uuid default null)
returns jsonb
language plpgsql
security definer -- API roles may not write workflows
set search_path = ''
as $$
declare
  workflow public.workflows := private.lock_workflow(workflow_id, owner_id);
begin
  if workflow.status <> 'archived' then
    return private.workflow_answer(workflow.id, 'unchanged');
  end if;
  perform private.because_asked('unarchived', actor);
  update public.workflows w
  set status = case when w.active_script_id is null then 'draft' else 'disabled' end::public.workflow_status
  where w.id = workflow.id;
  return private.workflow_answer(workflow.id, 'processed');
end;
$$;
comment on function public.unarchive_workflow is
  'Takes a workflow out again: paused, or a draft if it never ran. One that is not put away is unchanged. PT404 workflow_not_found.';

create function public.retry_workflow(workflow_id uuid, owner_id uuid default null, actor uuid default null)
returns jsonb
language plpgsql
security definer -- API roles may not write workflows
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  workflow public.workflows := private.lock_workflow(workflow_id, owner_id);
begin
  if workflow.status = 'archived' then
    perform lifecycle.refuse(409, 'workflow_archived', 'The workflow is put away: unarchive it first.');
  end if;
  perform private.refuse_unresolved_mutation(workflow.id);
  if not private.is_troubled(workflow)
    and not exists (
      select from public.producer_schedules p where p.workflow_id = workflow.id and p.next_run_at > moment)
  then
    return private.workflow_answer(workflow.id, 'unchanged');
  end if;
  perform private.clear_trouble(workflow.id);
  update public.producer_schedules p set next_run_at = moment where p.workflow_id = workflow.id and p.next_run_at > moment;
  perform private.wake_consumers(workflow.id);
  perform private.refresh_due(workflow.id);
  return private.workflow_answer(workflow.id, 'processed');
end;
$$;
comment on function public.retry_workflow is
  'Clears error, back-off and the count of failures; every producer is due and every consumer looks for work. PT404 workflow_not_found, PT409 unresolved_mutation | workflow_archived.';

create function public.request_run(
  workflow_id uuid, owner_id uuid default null, idempotency_key text default null, actor uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write workflows
set search_path = ''
as $$
declare
  request_hash bytea := sha256(convert_to('request_run ' || workflow_id, 'utf8'));
  is_requested boolean := true;
  workflow public.workflows := private.lock_workflow(workflow_id, owner_id);
  answer jsonb;
begin
  answer := private.replayed_request(workflow.owner_id, idempotency_key, request_hash);
  if answer is not null then
    return answer;
  elsif workflow.status = 'archived' then
    perform lifecycle.refuse(409, 'workflow_archived', 'The workflow is put away: unarchive it first.');
  elsif (private.newest_script(workflow.id)).id is null then
    perform lifecycle.refuse(404, 'script_not_found', 'The workflow has no script yet: save one first.');
  elsif workflow.maintenance then
    perform lifecycle.refuse(409, 'not_runnable', 'The script is being fixed: wait for it.');
  end if;
  perform private.refuse_unresolved_mutation(workflow.id);
  if workflow.error is not null then
    perform lifecycle.refuse(409, 'not_runnable', 'The workflow stands still for its error: retry it, or resume it.',
      jsonb_build_object('error_code', workflow.error_code));
  end if;
  if workflow.run_requested_at is null then
    -- Whoever asks does not want to wait for a back-off.
    update public.workflows w set run_requested_at = lifecycle.now(), backoff_until = null where w.id = workflow.id;
    perform private.refresh_due(workflow.id);
    is_requested := false;
  end if;
  answer := private.workflow_answer(workflow.id, case when is_requested then 'unchanged' else 'processed' end,
    '{"note": "This is no rehearsal: what the script sends is really sent."}');
  perform private.keep_receipt(workflow.owner_id, idempotency_key, request_hash, answer);
  return answer;
end;
$$;
comment on function public.request_run is
  'Runs a workflow once, now, all its producers, also where it is not active: by the active script, else the newest. The side effects are real, as the note of the answer says. PT404 workflow_not_found | script_not_found, PT409 not_runnable | unresolved_mutation | workflow_archived | idempotency_key_reused.';

create function public.acknowledge_error(
  workflow_id uuid, event_id uuid, owner_id uuid default null, actor uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write messages
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  workflow public.workflows := private.lock_workflow(workflow_id, owner_id);
  event public.workflow_messages;
begin
  select * into event from public.workflow_messages m
  where m.id = acknowledge_error.event_id and m.workflow_id = workflow.id and m.role = 'event' and m.type = 'error';
  if event.id is null then
    perform lifecycle.refuse(404, 'error_not_found', 'The workflow has no error event with this id.');
  elsif event.acknowledged_at is not null then
    return private.workflow_answer(workflow.id, 'unchanged');
  end if;
  update public.workflow_messages m set acknowledged_at = moment where m.id = event.id;
  -- The notification that came with it.
  update public.workflow_notifications n set acknowledged_at = moment
  where n.id = (
    select e.id from public.workflow_notifications e
    where e.workflow_id = workflow.id and e.acknowledged_at is null and e.type <> 'script_message'
      and e.payload = event.payload and e.created_at <= event.created_at
    order by e.created_at desc limit 1
  );
  -- What is shown may have changed with it: the guard tells.
  update public.workflows w set version = w.version + 1 where w.id = workflow.id;
  return private.workflow_answer(workflow.id, 'processed');
end;
$$;
comment on function public.acknowledge_error is
  'Its owner has seen an error event: it is hidden. While the error itself is there, the state stays error. PT404 workflow_not_found | error_not_found.';

create function public.acknowledge_notification(
  workflow_id uuid, notification_id uuid, owner_id uuid default null, actor uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write notifications
set search_path = ''
as $$
declare
  workflow public.workflows := private.lock_workflow(workflow_id, owner_id);
  notification public.workflow_notifications;
  event uuid;
begin
  select * into notification from public.workflow_notifications n
  where n.id = acknowledge_notification.notification_id and n.workflow_id = workflow.id;
  if notification.id is null then
    perform lifecycle.refuse(404, 'notification_not_found', 'The workflow has no notification with this id.');
  elsif notification.acknowledged_at is not null then
    return private.workflow_answer(workflow.id, 'unchanged');
  end if;
  update public.workflow_notifications n set acknowledged_at = lifecycle.now() where n.id = notification.id;
  if notification.type <> 'script_message' then
    -- The event that came with it.
    select m.id into event from public.workflow_messages m
    where m.workflow_id = workflow.id and m.role = 'event' and m.type = 'error' and m.acknowledged_at is null
      and m.payload = notification.payload and m.created_at >= notification.created_at
    order by m.created_at limit 1;
    update public.workflow_messages m set acknowledged_at = lifecycle.now() where m.id = event;
  end if;
  -- What is shown has changed with it: the guard tells.
  update public.workflows w set version = w.version + 1 where w.id = workflow.id;
  return private.workflow_answer(workflow.id, 'processed');
end;
$$;
comment on function public.acknowledge_notification is
  'Its owner has seen a notification: it is hidden, and with it the error event that came with it. PT404 workflow_not_found | notification_not_found.';

revoke execute on function
  private.workflow_answer(uuid, text, jsonb), private.refuse_workflow_move(public.workflows, text, text),
  private.refuse_unresolved_mutation(uuid), private.is_troubled(public.workflows), private.clear_trouble(uuid),
  private.because_asked(text, uuid), private.replayed_request(uuid, text, bytea),
  private.title_of(text), private.check_title(text), private.check_time_zone(text)
from public, anon, authenticated, service_role;
revoke execute on function
  public.create_workflow(uuid, text, text, text, jsonb, text, text, text, uuid),
  public.update_workflow(uuid, text, text, jsonb, uuid, uuid), public.acknowledge_notification(uuid, uuid, uuid, uuid),
  public.activate_workflow(uuid, uuid, uuid, uuid), public.pause_workflow(uuid, uuid, uuid), public.resume_workflow(uuid, uuid, uuid),
  public.archive_workflow(uuid, uuid, uuid), public.unarchive_workflow(uuid, uuid, uuid), public.retry_workflow(uuid, uuid, uuid),
  public.request_run(uuid, uuid, text, uuid), public.acknowledge_error(uuid, uuid, uuid, uuid)
from public, anon, authenticated;
grant execute on function
  public.create_workflow(uuid, text, text, text, jsonb, text, text, text, uuid),
  public.update_workflow(uuid, text, text, jsonb, uuid, uuid), public.acknowledge_notification(uuid, uuid, uuid, uuid),
  public.activate_workflow(uuid, uuid, uuid, uuid), public.pause_workflow(uuid, uuid, uuid), public.resume_workflow(uuid, uuid, uuid),
  public.archive_workflow(uuid, uuid, uuid), public.unarchive_workflow(uuid, uuid, uuid), public.retry_workflow(uuid, uuid, uuid),
  public.request_run(uuid, uuid, text, uuid), public.acknowledge_error(uuid, uuid, uuid, uuid)
to service_role;
