-- Deadlines: whatever waits for a machine too long is ended here, through the same moves as everyone else's.

create function private.abandon_legacy_bot(thread public.workflow_threads)
returns void
language plpgsql
set search_path = ''
as $$
declare
  ended boolean;
begin
  -- As long as nothing carries its changes over, bot_sessions may know better. Dynamic: most projects have none.
  if to_regclass('public.bot_sessions') is not null then
    execute $q$
      select not lifecycle.is_open((private.carry_session_status($1, b.status, b.completed_at, b.error)).bot_status)
      from public.bot_sessions b where b.bot_id = $1.bot_id and private.legacy_bot_status(b.status) <> 'running'
    $q$ into ended using thread;
  end if;
  if not coalesce(ended, false) then
    perform private.fail_bot(thread, 'LEGACY_ABANDONED', 'The bot was started by old code and never ended.');
  end if;
end;
$$;
comment on function private.abandon_legacy_bot is 'A bot of old code is past its deadline: it ends as its session did, or as abandoned.';

create function private.expire_bot(thread public.workflow_threads)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  deadline timestamptz := private.bot_deadline(thread);
begin
  -- Heartbeats do not move the deadline: it is worked out anew when it seems to have passed.
  if deadline is null or deadline > moment then
    update public.workflow_threads t set deadline_at = deadline where t.workflow_thread_id = thread.workflow_thread_id;
    return false;
  end if;
  perform lifecycle.because('sweep', details => jsonb_build_object('deadline_at', deadline));

  case
    when not lifecycle.is_open(thread.meeting_status) then
      perform private.fail_bot(thread, 'PROCESSING_TIMEOUT', 'The result was not there in time.');
    when thread.meeting_status = 'requested' then
      perform private.fail_bot(thread, 'MACHINE_START_TIMEOUT', case
        when thread.bot_status = 'pending' then 'The machine of the bot did not come up in time.'
        else 'The machine of the bot came up, but the bot did not call back in time.' end);
    when thread.meeting_status = 'joining' then
      perform private.fail_bot(thread, 'JOIN_ROOM_TIMEOUT', 'The bot did not get into the room or its lobby in time.');
    when thread.meeting_status = 'awaiting_admission' then
      perform private.leave_meeting(thread, 'awaiting_admission_timeout');
    when thread.meeting_status = 'stopping' and not private.may_have_a_machine(thread) then
      perform private.leave_meeting(thread, thread.stop_reason::text::public.meeting_completion_reason);
    when thread.meeting_status = 'stopping' and moment < deadline + (select s.teardown_limit from lifecycle.settings s) then
      -- Its machine must be gone first: a worker destroys it, and says so or says why not.
      perform set_config('rollcall.because', '', true);
      update public.workflow_threads t
      set probe_due_at = moment, deadline_at = deadline + (select s.teardown_limit from lifecycle.settings s)
      where t.workflow_thread_id = thread.workflow_thread_id;
      perform lifecycle.wake_lane('containers');
      return false;
    when thread.meeting_status = 'stopping' then
      perform private.fail_bot(thread, 'TEARDOWN_UNCONFIRMED', 'No worker could destroy the machine of the bot.',
        jsonb_build_object('attempts', thread.teardowns));
    when thread.owner_id is null then
      perform private.abandon_legacy_bot(thread);
    -- Active, which has two limits.
    when deadline = private.bot_silent_until(thread) then
      perform private.fail_bot(thread, 'HEARTBEAT_LOST', 'Nothing was heard of the bot for too long.',
        jsonb_build_object('last_heartbeat_at', thread.last_heartbeat_at));
    else
      update public.workflow_threads t
      set meeting_status = 'stopping', stop_requested_at = moment, stop_reason = 'max_duration_exceeded'
      where t.workflow_thread_id = thread.workflow_thread_id;
  end case;
  return true;
end;
$$;
comment on function private.expire_bot is 'Ends what a bot waited for too long; the caller holds its lock. False: its deadline had not passed after all.';

create function lifecycle.note_sweep()
returns void
language plpgsql
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  marks lifecycle.watermarks;
begin
  select * into marks from lifecycle.watermarks for update skip locked;
  if found then
    update lifecycle.watermarks
    set swept_at = greatest(swept_at, moment),
      -- Our own outage: nobody could be heard meanwhile.
      silence_counts_from = case when moment > swept_at + interval '60 s' then moment else silence_counts_from end;
  end if;
end;
$$;
comment on function lifecycle.note_sweep is 'Remembers the time of this sweep; after a gap of more than 60 s heartbeat limits start anew.';

create function lifecycle.sweep(max_rows int default 50)
returns jsonb
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan -- planning it anew costs more than it
as $$
declare
  moment timestamptz := lifecycle.now();
  thread public.workflow_threads;
  execution record;
  lost record;
  checked int := 0;
  changed int := 0;
  errors int := 0;
begin
  perform lifecycle.note_sweep();
  -- One look into the index for all that is due; each row stays as it was locked.
  for thread in
    select * from public.workflow_threads t
    where t.deadline_at <= moment
    order by t.deadline_at limit max_rows for update skip locked
  loop
    checked := checked + 1;
    begin
      if private.expire_bot(thread) then
        changed := changed + 1;
      end if;
    exception when others then
      errors := errors + 1;
      raise warning 'sweep: bot % could not be ended: %', thread.bot_id, sqlerrm;
      -- Out of the way of the others, and tried again in a minute.
      update public.workflow_threads t set deadline_at = moment + interval '60 s'
      where t.workflow_thread_id = thread.workflow_thread_id;
    end;
  end loop;
  for execution in
    select e.id from public.flow_executions e
    where e.deadline_at <= moment
    order by e.deadline_at limit greatest(max_rows - checked, 0) for update skip locked
  loop
    checked := checked + 1;
    begin
      if private.expire_execution(execution.id) then
        changed := changed + 1;
      end if;
    exception when others then
      errors := errors + 1;
      raise warning 'sweep: execution % could not be ended: %', execution.id, sqlerrm;
      update public.flow_executions e set deadline_at = moment + interval '60 s' where e.id = execution.id;
    end;
  end loop;
  -- Found without a lock: the workflow is locked before its session.
  for lost in
    select s.id from public.script_runs s
    where s.status = 'running' and s.lease_owner is not null and s.lease_expires_at <= moment
    order by s.lease_expires_at limit greatest(max_rows - checked, 0)
  loop
    begin
      -- One that somebody holds is not counted: it would seem that there is more to do at once.
      if private.expire_session(lost.id) then
        checked := checked + 1;
        changed := changed + 1;
      end if;
    exception when others then
      checked := checked + 1;
      errors := errors + 1;
      raise warning 'sweep: session % could not be ended: %', lost.id, sqlerrm;
      update public.script_runs s set lease_expires_at = moment + interval '60 s' where s.id = lost.id and s.status = 'running';
    end;
  end loop;
  return jsonb_build_object('checked', checked, 'changed', changed, 'errors', errors);
end;
$$;
comment on function lifecycle.sweep is
  'Ends what is past its deadline, at most max_rows runs: { checked, changed, errors }. Two at once do nothing twice, and one failing row never stops the others.';

revoke execute on function
  private.abandon_legacy_bot(public.workflow_threads), private.expire_bot(public.workflow_threads), lifecycle.note_sweep(), lifecycle.sweep(int)
from public, anon, authenticated, service_role;
