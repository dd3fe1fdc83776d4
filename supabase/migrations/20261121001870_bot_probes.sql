-- Reconciliation: machines that Rollcall launched are asked after when their bots are silent, and taken down when
-- their bots have ended. Evidence first: an error of the provider ends nothing.

create function public.claim_probe(worker text)
returns jsonb
language plpgsql
security definer -- API roles may not write threads
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  settings lifecycle.settings;
  thread public.workflow_threads;
  quiet_until timestamptz;
  action text;
begin
  select * into settings from lifecycle.settings;
  loop
    select * into thread from public.workflow_threads t
    where t.probe_due_at <= moment
    order by t.probe_due_at limit 1 for update skip locked;
    if not found then
      return null;
    end if;
    action := case
      when not lifecycle.is_open(thread.meeting_status) then 'destroy'
      when thread.meeting_status = 'stopping' and moment >= private.bot_deadline(thread) then 'destroy'
      else 'probe'
    end;
    -- Heartbeats do not move the probe: whether it is due is worked out when it seems so.
    quiet_until := greatest(thread.last_heartbeat_at, thread.meeting_status_updated_at) + private.probe_grace(thread.meeting_status);
    exit when action = 'destroy' or quiet_until <= moment;
    update public.workflow_threads t set probe_due_at = quiet_until, probe_token = null
    where t.workflow_thread_id = thread.workflow_thread_id;
  end loop;

  update public.workflow_threads t
  set probe_token = gen_random_uuid(), probe_due_at = moment + settings.probe_lease
  where t.workflow_thread_id = thread.workflow_thread_id
  returning * into thread;
  return jsonb_build_object(
    'bot_id', thread.bot_id, 'workflow_thread_id', thread.workflow_thread_id, 'probe_token', thread.probe_token,
    'container_id', thread.container_id, 'action', action, 'worker', worker
  );
end;
$$;
comment on function public.claim_probe is
  'A machine to ask after (action probe) or to take down (action destroy), with a lease and a probe_token; null where none is due.';

create function public.record_probe(
  bot_id uuid, probe_token uuid, outcome text, status_text text default null, evidence jsonb default '{}'
)
returns jsonb
language plpgsql
security definer -- API roles may not write threads
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  settings lifecycle.settings;
  thread public.workflow_threads;
  stage public.meeting_failure_stage;
  exit_code numeric := case when jsonb_typeof(evidence -> 'exit_code') = 'number' then (evidence ->> 'exit_code')::numeric end;
  source public.event_source;
  details jsonb;
  lost boolean;
begin
  if outcome not in ('alive', 'ended', 'destroyed', 'not_found', 'error') then
    perform lifecycle.refuse_input('outcome', 'must be alive, ended, destroyed, not_found or error.');
  end if;
  select * into thread from public.workflow_threads t where t.bot_id = record_probe.bot_id for update;
  if thread.probe_token is distinct from record_probe.probe_token or thread.probe_due_at is null then
    return '{"ok": false, "code": "stale_lease"}';
  end if;
  select * into settings from lifecycle.settings;

  update public.workflow_threads t
  set probe_token = null,
    probe_due_at = moment + settings.probe_interval,
    container_seen_at = case when outcome = 'error' then t.container_seen_at else moment end,
    container_status = case
      when outcome in ('ended', 'destroyed') then 'Exited'
      when outcome = 'alive' then coalesce(public.normalize_container_status(status_text), t.container_status)
      else t.container_status
    end,
    container_status_raw = coalesce(status_text, t.container_status_raw),
    missing_since = case outcome when 'not_found' then coalesce(t.missing_since, moment) when 'error' then t.missing_since end,
    teardowns = case
      when outcome = 'error' and t.meeting_status = 'stopping' and moment >= private.bot_deadline(t)
      then t.teardowns || jsonb_build_object('at', moment, 'error', left(evidence ->> 'error', 500))
      else t.teardowns
    end
  where t.workflow_thread_id = thread.workflow_thread_id
  returning * into thread;
  lost := outcome = 'not_found' and moment >= thread.missing_since + settings.missing_limit;

  if not lifecycle.is_open(thread.meeting_status) then
    if outcome in ('ended', 'destroyed', 'not_found') then
      update public.workflow_threads t set probe_due_at = null, container_status = 'Exited'
      where t.workflow_thread_id = thread.workflow_thread_id
      returning * into thread;
    end if;
    return private.probe_answer(thread, case when outcome = 'destroyed' then 'destroyed' else 'unchanged' end, false);
  elsif outcome = 'error' and jsonb_array_length(thread.teardowns) >= settings.teardown_attempts then
    perform lifecycle.because('sweep', details => jsonb_build_object('attempts', thread.teardowns));
    thread := private.fail_bot(thread, 'TEARDOWN_UNCONFIRMED',
      format('The machine of the bot could not be destroyed in %s attempts.', jsonb_array_length(thread.teardowns)),
      jsonb_build_object('attempts', thread.teardowns));
    return private.probe_answer(thread, 'finalized', true);
  elsif outcome in ('alive', 'error') or (outcome = 'not_found' and not lost) then
    return private.probe_answer(thread, case outcome when 'alive' then 'still_running' else outcome end, false);
  end if;

  -- The machine is gone. What becomes of the bot follows from how far it got.
  stage := private.presence_stage(thread);
  source := case when thread.meeting_status = 'stopping' and outcome <> 'ended' then 'sweep' else 'reconcile' end::public.event_source;
  details := jsonb_strip_nulls(jsonb_build_object(
    'evidence', evidence || jsonb_build_object('outcome', outcome, 'status', status_text, 'container_id', thread.container_id),
    'attempts', nullif(thread.teardowns, '[]')
  ));
  perform lifecycle.because(source, case when lost then 'presumed lost' else 'machine ' || outcome end, details);
  if thread.stop_requested_at is not null then
    thread := private.leave_meeting(thread, thread.stop_reason::text::public.meeting_completion_reason);
  elsif stage <> 'active' or lost then
    thread := private.fail_bot(thread, 'MACHINE_LOST', case
      when lost then 'The machine of the bot has been unknown to the machines API for too long: presumed lost.'
      else 'The machine of the bot ended before the bot was in the room.' end, details);
  elsif coalesce(exit_code, 0) = 0 and evidence ->> 'signal' is null then
    thread := private.leave_meeting(thread, 'left_alone');
  else
    thread := private.fail_bot(thread, 'BOT_CRASHED', case
      when exit_code is not null then format('Bot exited with code %s.', exit_code)
      else format('Bot was ended by signal %s.', evidence ->> 'signal') end, details);
  end if;
  if outcome = 'not_found' then
    update public.workflow_threads t set container_status = 'Exited', probe_due_at = null
    where t.workflow_thread_id = thread.workflow_thread_id
    returning * into thread;
  end if;
  return private.probe_answer(thread, 'finalized', true);
end;
$$;
comment on function public.record_probe is
  'What the machines API said of a machine: outcome alive, ended (evidence { exit_code, signal }), destroyed, not_found, or error (evidence { error }). Ends the bot where the evidence says so. Returns the row with result finalized | still_running | destroyed | not_found | error | unchanged; { ok: false, code: stale_lease } for an old token.';

create function private.probe_answer(thread public.workflow_threads, result text, changed boolean)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select private.bot_json(thread) || jsonb_build_object('ok', true, 'result', result, 'changed', changed)
$$;

create function public.judge_machines(machines jsonb)
returns jsonb
language sql
stable
security definer -- every owner's bots are looked at
set search_path = ''
as $$
  select coalesce(jsonb_agg(m.id), '[]')
  from jsonb_to_recordset(machines) as m (id text, bot_id text)
  left join public.workflow_threads t on t.bot_id::text = m.bot_id
  where t.bot_id is null
    -- A second machine of the same bot: the launch that created it lost the race.
    or (t.launched and t.container_id is not null and t.container_id <> m.id)
    or (not lifecycle.is_open(t.meeting_status) and t.meeting_status_updated_at < lifecycle.now() - interval '30 s')
$$;
comment on function public.judge_machines is
  'Of the running machines [{ id, bot_id }] (bot_id from their label) the ids that must be destroyed: their bot has ended, is unknown, or has another machine.';

create function public.claim_orphan_scan()
returns boolean
language plpgsql
security definer -- watermarks are the kernel's
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
begin
  update lifecycle.watermarks w set machines_listed_at = moment
  where w.machines_listed_at is null
    or w.machines_listed_at <= moment - (select s.probe_interval from lifecycle.settings s);
  return found;
end;
$$;
comment on function public.claim_orphan_scan is 'True at most every 30 s: the caller lists the running machines and asks judge_machines() about them.';

revoke execute on function private.probe_answer(public.workflow_threads, text, boolean) from public, anon, authenticated, service_role;
revoke execute on function
  public.claim_probe(text), public.record_probe(uuid, uuid, text, text, jsonb), public.judge_machines(jsonb), public.claim_orphan_scan()
from public, anon, authenticated;
grant execute on function
  public.claim_probe(text), public.record_probe(uuid, uuid, text, text, jsonb), public.judge_machines(jsonb), public.claim_orphan_scan()
to service_role;
