-- The moves of a bot that more than one caller makes. Each expects the row locked, and lifecycle.because() said.

create function private.presence_stage(thread public.workflow_threads)
returns public.meeting_failure_stage
language plpgsql
stable
set search_path = ''
as $$
begin
  if thread.joined_at is not null then
    return 'active';
  elsif thread.meeting_status = 'stopping' then
    return (
      select e.from_status::public.meeting_failure_stage from public.status_events e
      where e.subject_id = thread.bot_id and e.machine = 'meeting' and e.seq = thread.meeting_seq
    );
  end if;
  return thread.meeting_status::text::public.meeting_failure_stage;
end;
$$;
comment on function private.presence_stage is 'How far a bot whose meeting is open got: for one that is stopping, where it was when it was told to leave.';

create function private.error_stage_of(stage public.meeting_failure_stage)
returns public.bot_error_stage
language sql
immutable
set search_path = ''
as $$
  select case stage
    when 'requested' then 'machine_start'
    when 'active' then 'running'
    else 'joining'
  end::public.bot_error_stage
$$;
comment on function private.error_stage_of is 'The stage of an error of a bot that got this far.';

create function private.meaning_of(code text)
returns text
language sql
stable
set search_path = ''
as $$
  select c.meaning from public.error_codes c where c.code = meaning_of.code
$$;

create function private.walk_toward(
  thread public.workflow_threads, target public.meeting_status, source public.event_source
)
returns public.workflow_threads
language plpgsql
set search_path = ''
as $$
declare
  hop public.meeting_status;
  said text;
begin
  foreach hop in array (enum_range(thread.meeting_status, target))[2:] loop
    exit when hop = target;
    said := lifecycle.because(source, implied => '{bot,meeting}');
    update public.workflow_threads t
    set meeting_status = hop,
      bot_status = case when t.bot_status = 'pending' then 'starting' else t.bot_status end
    where t.workflow_thread_id = thread.workflow_thread_id
    returning * into thread;
  end loop;
  return thread;
end;
$$;
comment on function private.walk_toward is
  'Walks a bot toward a state of presence (joining, awaiting_admission, active), hop by hop, up to the one before it. Nobody reported these hops: they are implied.';

create function private.leave_meeting(
  thread public.workflow_threads, reason public.meeting_completion_reason,
  said text default null, details jsonb default null, heard_at timestamptz default null
)
returns public.workflow_threads
language plpgsql
set search_path = ''
as $$
declare
  stage public.meeting_failure_stage;
  heard jsonb := private.bot_transcript(thread);
  to_process boolean := thread.process_insights and jsonb_array_length(heard) > 0;
  code text;
begin
  if thread.joined_at is not null then
    update public.workflow_threads t
    set meeting_status = 'completed',
      last_heartbeat_at = coalesce(heard_at, t.last_heartbeat_at),
      missing_since = case when heard_at is null then t.missing_since end,
      completion_reason = reason,
      transcript = heard,
      bot_status = case when to_process then t.bot_status else 'completed' end,
      qa_pairs = case when to_process then t.qa_pairs else coalesce(t.qa_pairs, '[]') end,
      insights = case when to_process then t.insights
        else coalesce(t.insights, '{"summary": "", "topics": [], "action_items": []}') end,
      processing_due_at = case when to_process then lifecycle.now() end
    where t.workflow_thread_id = thread.workflow_thread_id
    returning * into thread;
    if to_process then
      perform lifecycle.wake_lane('processing');
    end if;
    return thread;
  end if;

  stage := private.presence_stage(thread);
  code := case
    when thread.stop_requested_at is not null then 'STOPPED_BEFORE_JOIN'
    when reason = 'awaiting_admission_timeout' then 'ADMISSION_TIMEOUT'
    when reason = 'awaiting_admission_rejected' then 'ADMISSION_REJECTED'
    when reason = 'validation_error' then 'VALIDATION_ERROR'
    else 'LEFT_BEFORE_JOIN'
  end;
  update public.workflow_threads t
  set meeting_status = 'completed',
    last_heartbeat_at = coalesce(heard_at, t.last_heartbeat_at),
    missing_since = case when heard_at is null then t.missing_since end,
    completion_reason = reason,
    transcript = heard,
    bot_status = 'failed',
    error_stage = case when stage = 'requested' then 'machine_start' else 'joining' end::public.bot_error_stage,
    error_code = code,
    error_message = coalesce(nullif(btrim(left(said, 2000)), ''), private.meaning_of(code)),
    error_details = lifecycle.cut(details, 65536)
  where t.workflow_thread_id = thread.workflow_thread_id
  returning * into thread;
  return thread;
end;
$$;
comment on function private.leave_meeting is
  'The bot left. One that had been in the room goes on to its result (or is completed at once where there is nothing to process); one that never was in it is failed. heard_at: when the bot itself said so.';

create function private.fail_bot(
  thread public.workflow_threads, code text, message text, details jsonb default null,
  chosen_stage public.bot_error_stage default null
)
returns public.workflow_threads
language plpgsql
set search_path = ''
as $$
declare
  in_meeting boolean := lifecycle.is_open(thread.meeting_status);
  stage public.meeting_failure_stage;
begin
  if in_meeting then
    stage := private.presence_stage(thread);
  end if;
  update public.workflow_threads t
  set meeting_status = case when in_meeting then 'failed' else t.meeting_status end,
    failure_stage = case when in_meeting then stage else t.failure_stage end,
    transcript = case when in_meeting then private.bot_transcript(thread) else t.transcript end,
    bot_status = 'failed',
    error_stage = case
      when not in_meeting then 'processing'
      else coalesce(chosen_stage, private.error_stage_of(stage))
    end::public.bot_error_stage,
    error_code = code,
    error_message = coalesce(nullif(btrim(left(message, 2000)), ''), private.meaning_of(code), code),
    error_details = lifecycle.cut(details, 65536)
  where t.workflow_thread_id = thread.workflow_thread_id
  returning * into thread;
  return thread;
end;
$$;
comment on function private.fail_bot is
  'The bot failed. Its stage follows from the row: how far it got, or processing once it had left the meeting. What it heard is kept.';

revoke execute on function
  private.presence_stage(public.workflow_threads),
  private.error_stage_of(public.meeting_failure_stage),
  private.meaning_of(text),
  private.walk_toward(public.workflow_threads, public.meeting_status, public.event_source),
  private.leave_meeting(public.workflow_threads, public.meeting_completion_reason, text, jsonb, timestamptz),
  private.fail_bot(public.workflow_threads, text, text, jsonb, public.bot_error_stage)
from public, anon, authenticated, service_role;
