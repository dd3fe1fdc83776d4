-- What bounds the tables, what erases a person, and the one way around the table of moves.

create function lifecycle.prune(older_than interval default null)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  settings lifecycle.settings;
  moment timestamptz := lifecycle.now();
  horizon timestamptz;
  ended uuid[];
  events int;
  receipts int;
  callbacks int;
  transcripts int;
begin
  select * into settings from lifecycle.settings;
  horizon := moment - coalesce(older_than, settings.history_retention);
  perform set_config('rollcall.erasing', 'yes', true);

  select array_agg(t.subject_id) into ended
  from (
    select t.bot_id from public.workflow_threads t where t.bot_completed_at < horizon
    union all
    select f.id from public.flow_executions f where f.completed_at < horizon
    union all
    select s.id from public.script_runs s where s.ended_at < horizon
    union all
    select r.id from public.handler_runs r where r.ended_at < horizon
    union all
    select m.id from public.workflow_mutations m where m.resolved_at < horizon
  ) t (subject_id)
  where exists (select from public.status_events e where e.subject_id = t.subject_id);
  update private.history_horizon h
  set pruned_to = greatest(h.pruned_to, gone.xid), pruned_before = greatest(h.pruned_before, horizon)
  from (select max(e.xid) as xid from public.status_events e where e.subject_id = any (ended)) gone
  where gone.xid is not null;
  delete from public.status_events e where e.subject_id = any (ended);
  get diagnostics events = row_count;
  delete from public.status_rejections r where r.created_at < horizon;
  delete from private.idempotency_receipts r where r.created_at < moment - settings.receipt_retention;
  get diagnostics receipts = row_count;
  delete from private.callback_receipts r where r.created_at < moment - settings.receipt_retention;
  get diagnostics callbacks = row_count;
  delete from public.webhook_deliveries d where d.created_at < horizon and d.state <> 'pending';
  -- Events stay: their message ids are what keeps a side effect from happening again.
  update public.handler_runs r set logs = null where r.ended_at < horizon and r.logs is not null;
  delete from public.transcript_chunks c using public.workflow_threads t
  where t.bot_id = c.bot_id and t.bot_completed_at < horizon;
  update public.workflow_threads t set transcript = null
  where t.bot_completed_at < moment - settings.transcript_retention and t.transcript is not null;
  get diagnostics transcripts = row_count;
  if to_regclass('cron.job_run_details') is not null then
    execute 'delete from cron.job_run_details where end_time < $1' using moment - interval '1 day';
  end if;
  perform set_config('rollcall.erasing', '', true);
  return jsonb_build_object('events', events, 'receipts', receipts + callbacks, 'transcripts', transcripts);
end;
$$;
comment on function lifecycle.prune is
  'Erases the history of runs that ended longer ago than older_than (default: settings.history_retention), whole subjects only, and bounds rejections, webhook deliveries, receipts, transcripts and the cron log. Returns counts.';

create function lifecycle.forget_owner(owner_id uuid)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  bots int;
  executions int;
  workflows int;
  events int;
begin
  if owner_id is null then
    perform lifecycle.refuse_input('owner_id', 'is needed.');
  end if;
  perform set_config('rollcall.erasing', 'yes', true);
  delete from public.workflow_threads t where t.owner_id = forget_owner.owner_id;
  get diagnostics bots = row_count;
  delete from public.flow_executions e where e.owner_id = forget_owner.owner_id;
  get diagnostics executions = row_count;
  delete from public.workflows w where w.owner_id = forget_owner.owner_id;
  get diagnostics workflows = row_count;
  delete from public.task_flows f where f.owner_id = forget_owner.owner_id;
  delete from public.status_events e where e.owner_id = forget_owner.owner_id;
  get diagnostics events = row_count;
  delete from public.status_rejections r where r.owner_id = forget_owner.owner_id;
  delete from private.idempotency_receipts r where r.owner_id = forget_owner.owner_id;
  delete from public.webhook_endpoints e where e.owner_id = forget_owner.owner_id;
  delete from public.webhook_deliveries d where d.owner_id = forget_owner.owner_id;
  delete from private.webhook_secrets s where s.owner_id = forget_owner.owner_id;
  delete from lifecycle.hints h where h.topic = 'owner:' || forget_owner.owner_id;
  perform set_config('rollcall.erasing', '', true);
  return jsonb_build_object('bots', bots, 'executions', executions, 'workflows', workflows, 'events', events);
end;
$$;
comment on function lifecycle.forget_owner is 'Erases everything of one person, history included. Stop the person''s open bots first: their machines are not looked for afterwards.';

create function lifecycle.repair(machine text, subject_id uuid, to_status text, reason text, error_code text default null)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  thread public.workflow_threads;
  repaired jsonb;
begin
  if coalesce(btrim(reason), '') = '' then
    perform lifecycle.refuse_input('reason', 'is needed: a repair says why.');
  end if;
  if coalesce(machine not in ('bot', 'meeting', 'flow_execution', 'workflow', 'script_run', 'handler_run', 'mutation'), true) then
    perform lifecycle.refuse_input('machine',
      'must be bot, meeting, flow_execution, workflow, script_run, handler_run or mutation.');
  end if;
  if not exists (select from lifecycle.states s where s.machine = repair.machine and s.state = to_status) then
    perform lifecycle.refuse_input('to_status', format('is no state of the machine %s.', machine));
  end if;
  if machine not in ('bot', 'meeting', 'flow_execution') then
    perform set_config('rollcall.repairing', 'yes', true);
    perform lifecycle.because('repair', reason, jsonb_build_object('by', session_user));
    repaired := private.repair_automation(machine, subject_id, to_status, reason, error_code);
    perform set_config('rollcall.repairing', '', true);
    perform set_config('rollcall.because', '', true);
    return repaired;
  end if;
  if machine = 'flow_execution' then
    perform set_config('rollcall.repairing', 'yes', true);
    perform lifecycle.because('repair', reason, jsonb_build_object('by', session_user));
    update public.flow_executions e
    set status = to_status::public.flow_execution_status,
      current_prompt_index = case when to_status = 'completed' then e.total_prompts
        else least(e.current_prompt_index, e.total_prompts - 1) end,
      -- Running again: for whoever claims it next.
      lease_token = null, progressed_at = case when to_status = 'running' then lifecycle.now() else e.progressed_at end,
      lost_leases = 0, prompt_attempts = 0,
      error = case when to_status = 'failed' then reason end,
      error_code = case when to_status = 'failed' then coalesce(repair.error_code, e.error_code, 'INTERNAL') end,
      error_details = case when to_status = 'failed' then e.error_details end
    where e.id = repair.subject_id
    returning private.execution_json(e) into repaired;
    if not found then
      perform lifecycle.refuse(404, 'execution_not_found', 'No execution has this id.');
    end if;
    perform set_config('rollcall.repairing', '', true);
    return repaired || '{"ok": true, "result": "processed", "changed": true}';
  end if;
  select * into thread from public.workflow_threads t where t.bot_id = repair.subject_id for update;
  if not found then
    perform lifecycle.refuse(404, 'bot_not_found', 'No bot has this id.');
  end if;

  perform set_config('rollcall.repairing', 'yes', true);
  perform lifecycle.because('repair', reason, jsonb_build_object('by', session_user));
  if machine = 'bot' then
    update public.workflow_threads t
    set bot_status = to_status::public.bot_status,
      bot_started_at = case when to_status = 'completed' then coalesce(t.bot_started_at, lifecycle.now()) else t.bot_started_at end,
      bot_completed_at = null,
      error_stage = case when to_status = 'failed' then coalesce(t.error_stage, 'running') end,
      error_code = case when to_status = 'failed' then coalesce(repair.error_code, t.error_code, 'INTERNAL') end,
      error_message = case when to_status = 'failed' then reason end,
      error_details = case when to_status = 'failed' then t.error_details end
    where t.workflow_thread_id = thread.workflow_thread_id returning * into thread;
  else
    update public.workflow_threads t
    set meeting_status = to_status::public.meeting_status,
      left_at = null,
      completion_reason = case when to_status = 'completed' then coalesce(t.completion_reason, 'other') end,
      failure_stage = case when to_status = 'failed' then coalesce(t.failure_stage, private.presence_stage(thread)) end
    where t.workflow_thread_id = thread.workflow_thread_id returning * into thread;
  end if;
  perform set_config('rollcall.repairing', '', true);
  return private.bot_json(thread) || '{"ok": true, "result": "processed", "changed": true}';
end;
$$;
comment on function lifecycle.repair is
  'An operator sets a status by hand, around the table of moves; only the owner of the schema may, and must say why. The history keeps it with source repair.';

revoke execute on function
  lifecycle.prune(interval), lifecycle.forget_owner(uuid), lifecycle.repair(text, uuid, text, text, text)
from public, anon, authenticated, service_role;
