-- The guard of workflow_threads: decides whether a change is legal, stamps it, writes it into the history and
-- pushes it. One trigger, so that no order of triggers has to be known.

create function private.bot_silent_until(thread public.workflow_threads)
returns timestamptz
language plpgsql -- as all of these: a SQL function with a search_path is planned anew each time
stable
set search_path = ''
as $$
begin
  return (
    select greatest(thread.joined_at, thread.last_heartbeat_at, w.silence_counts_from) + s.time_limit
    from lifecycle.states s, lifecycle.watermarks w
    where s.machine = 'meeting' and s.state = 'active'
  );
end;
$$;
comment on function private.bot_silent_until is 'When an active bot that is not heard of again counts as lost.';

create function private.bot_deadline(thread public.workflow_threads)
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
declare
  longest interval;
begin
  if thread.bot_status is null or thread.bot_completed_at is not null then
    return null;
  elsif thread.left_at is not null then
    return thread.left_at + (select s.processing_limit from lifecycle.settings s);
  elsif thread.meeting_status = 'requested' and thread.bot_status = 'starting' then
    return thread.bot_status_updated_at + (select s.machine_silent_limit from lifecycle.settings s);
  elsif thread.meeting_status <> 'active' then
    return thread.meeting_status_updated_at + coalesce(thread.stop_delay, (
      select s.time_limit from lifecycle.states s
      where s.machine = 'meeting' and s.state = thread.meeting_status::text
    ));
  -- A bot of old code: no heartbeat was ever promised.
  elsif thread.owner_id is null then
    return thread.bot_started_at + interval '4 h';
  end if;
  if jsonb_typeof(thread.bot_config -> 'max_duration_s') = 'number' then
    longest := make_interval(secs =>
      greatest(1, least((thread.bot_config ->> 'max_duration_s')::numeric, 31536000))::float8);
  end if;
  return least(
    private.bot_silent_until(thread),
    thread.joined_at + coalesce(longest, (select s.meeting_max_duration from lifecycle.settings s))
  );
end;
$$;
comment on function private.bot_deadline is 'When the sweep must look after a bot: the earliest of the limits of its meeting state, its silence and its own maximum; null at the end.';

create function private.may_have_a_machine(thread public.workflow_threads)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  return thread.launched and thread.container_id is not null
    and coalesce(thread.container_status not in ('Exited', 'Failed'), true);
end;
$$;
comment on function private.may_have_a_machine is 'Did Rollcall start a machine for the bot that has not been seen ended?';

create function private.probe_grace(status public.meeting_status)
returns interval
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case status
    when 'stopping' then interval '45 s'
    when 'awaiting_admission' then interval '120 s'
    when 'completed' then interval '30 s'
    when 'failed' then interval '30 s'
    else interval '60 s'
  end;
end;
$$;
comment on function private.probe_grace is 'How long a bot may be silent before its machine is asked after; once it has left, how long its machine may take to end by itself.';

create function private.check_thread(thread public.workflow_threads)
returns void
language plpgsql
stable
security definer -- old code may write threads, and is refused like everybody
set search_path = ''
as $$
declare
  has_failed boolean := coalesce(thread.bot_status = 'failed', false);
  broken text := case
    when (thread.bot_status is null) <> (thread.meeting_status is null) then 'statuses_come_together'
    when has_failed and num_nulls(thread.error_stage, thread.error_code, thread.error_message) > 0 then 'failed_says_why'
    when thread.bot_status <> 'failed'
      and num_nonnulls(thread.error_stage, thread.error_code, thread.error_message, thread.error_details) > 0
    then 'only_failed_has_an_error'
    when btrim(thread.error_message) = '' then 'error_message_is_never_empty'
    when octet_length(thread.error_details::text) > 65536 then 'error_details_are_at_most_64_kb'
    when lifecycle.is_open(thread.bot_status) = (thread.bot_completed_at is not null) then 'ended_bot_has_its_time'
    when thread.bot_status = 'completed' and thread.bot_started_at is null then 'completed_bot_was_in_the_room'
    when lifecycle.is_open(thread.meeting_status) = (thread.left_at is not null) then 'ended_meeting_has_its_time'
    when (thread.meeting_status = 'completed') <> (thread.completion_reason is not null) then 'completed_meeting_has_a_reason'
    when (thread.meeting_status = 'failed') <> (thread.failure_stage is not null) then 'failed_meeting_has_a_stage'
    when not lifecycle.is_open(thread.bot_status) and lifecycle.is_open(thread.meeting_status)
    then 'ended_bot_is_out_of_the_meeting'
    when num_nulls(thread.stop_requested_at, thread.stop_reason) = 1 then 'stop_has_a_reason'
    when thread.meeting_status = 'stopping' and thread.stop_requested_at is null then 'stopping_was_requested'
    when octet_length(thread.bot_config::text) > 65536 then 'bot_config_is_at_most_64_kb'
    when length(thread.native_meeting_id) not between 1 and 255
      or thread.native_meeting_id ~ '[[:cntrl:][:space:]?#&=/]' then 'meeting_id_is_speakable'
  end;
begin
  if broken is not null then
    perform lifecycle.refuse_row('public.workflow_threads'::regclass, broken,
      'What a bot says of itself must fit together: use the functions that move it.');
  end if;
end;
$$;
comment on function private.check_thread is
  'What must hold of every thread. Raises check_violation with the name of the constraint that is broken.';

create function private.keep_end(before public.workflow_threads, after public.workflow_threads)
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
  if before.bot_completed_at is not null and (
    (after.error_stage, after.error_code, after.error_message, after.error_details, after.bot_completed_at)
    is distinct from (before.error_stage, before.error_code, before.error_message, before.error_details, before.bot_completed_at)
  ) then
    perform lifecycle.refuse(409, 'illegal_transition', 'An ended bot keeps its error and its time for ever.',
      jsonb_build_object('machine', 'bot', 'from', before.bot_status, 'to', after.bot_status, 'allowed', '[]'::jsonb));
  end if;
  if (after.completion_reason, after.failure_stage, after.left_at)
    is distinct from (before.completion_reason, before.failure_stage, before.left_at)
  then
    perform lifecycle.refuse(409, 'illegal_transition', 'An ended meeting keeps its reason and its time for ever.',
      jsonb_build_object('machine', 'meeting', 'from', before.meeting_status, 'to', after.meeting_status, 'allowed', '[]'::jsonb));
  end if;
end;
$$;
comment on function private.keep_end is 'Refuses to change how, why and when a meeting or a bot ended.';

create function private.guard_workflow_thread()
returns trigger
language plpgsql
set search_path = ''
as $$
declare
  meeting_moves boolean;
  bot_moves boolean;
  stamp timestamptz;
  topic text;
  shown jsonb;
  source public.event_source := 'system';
  said text;
begin
  -- Few and small expressions: each is compiled anew with every transaction. Assignments, since plpgsql makes a whole
  -- query of each perform.
  -- Set by what adopts bots of old code alone; it writes their history itself.
  if current_setting('rollcall.adopting', true) in ('yes', 'once') then
    if current_setting('rollcall.adopting') = 'once' then
      perform set_config('rollcall.adopting', '', true);
    end if;
    perform private.check_thread(new);
    return new;
  end if;
  -- Of a new row everything of the old is null.
  meeting_moves := new.meeting_status is distinct from old.meeting_status;
  bot_moves := new.bot_status is distinct from old.bot_status;
  if old.left_at is not null then
    said := private.keep_end(old, new);
  end if;
  if not meeting_moves and not bot_moves then
    said := private.check_thread(new);
    return new;
  end if;
  if tg_op = 'INSERT' then
    if new.bot_status is distinct from 'pending' then
      perform lifecycle.refuse_transition('bot', null, new.bot_status::text);
    end if;
    if new.meeting_status is distinct from 'requested' then
      perform lifecycle.refuse_transition('meeting', null, new.meeting_status::text);
    end if;
    new.bot_seq := 0;
    new.meeting_seq := 0;
    new.version := 0;
    stamp := lifecycle.now();
    new.created_at := stamp;
    source := 'user';
  else
    -- A thread without a bot gets none later, and a bot never loses its statuses.
    if num_nulls(old.bot_status, new.bot_status, new.meeting_status) > 0 then
      perform lifecycle.refuse_transition('bot', old.bot_status::text, new.bot_status::text);
    end if;
    stamp := new.last_heartbeat_at;
    -- Where nobody said who makes it, a move that comes with a sign of life is the bot's own, of this time.
    if stamp is distinct from old.last_heartbeat_at then
      source := 'bot';
    else
      stamp := lifecycle.now();
    end if;
    -- Never earlier than the stamp before, whatever the clock does.
    stamp := greatest(stamp, old.bot_status_updated_at, old.meeting_status_updated_at);
  end if;

  if meeting_moves then
    new.meeting_status_updated_at := stamp;
    new.meeting_seq := new.meeting_seq + 1;
    new.version := new.version + 1;
    if new.meeting_status = 'active' then
      new.joined_at := stamp;
    elsif new.meeting_status >= 'completed' then
      new.left_at := stamp;
    end if;
  end if;
  if bot_moves then
    new.bot_status_updated_at := stamp;
    new.bot_seq := new.bot_seq + 1;
    new.version := new.version + 1;
    if new.bot_status = 'running' then
      new.bot_started_at := stamp;
    elsif new.bot_status >= 'completed' then
      new.bot_completed_at := stamp;
      new.launch_due_at := null;
      new.processing_due_at := null;
    end if;
  end if;
  new.updated_at := stamp;
  new.deadline_at := case when new.bot_completed_at is null then private.bot_deadline(new) end;
  if new.launched then
    new.probe_due_at := case when private.may_have_a_machine(new) then stamp + private.probe_grace(new.meeting_status) end;
  end if;

  topic := 'bot:' || new.bot_id;
  shown := jsonb_build_object('bot_status', new.bot_status, 'meeting_status', new.meeting_status);
  -- The meeting first: whoever watches a bot is done at the end of the machine bot.
  if meeting_moves then
    said := lifecycle.record('meeting', new.bot_id, new.owner_id, new.meeting_seq,
      new.version - bot_moves::int,
      old.meeting_status::text, new.meeting_status::text, stamp, topic,
      new.error_stage::text, new.error_code, new.error_message, shown, new.webhook_url, source);
  end if;
  if bot_moves then
    said := lifecycle.record('bot', new.bot_id, new.owner_id, new.bot_seq, new.version,
      old.bot_status::text, new.bot_status::text, stamp, topic,
      new.error_stage::text, new.error_code, new.error_message, shown, new.webhook_url, source);
  end if;
  said := set_config('rollcall.because', '', true);
  -- Where there is none of these, nothing can be wrong: so it is with the usual steps of a bot.
  if num_nonnulls(
    new.left_at, new.bot_completed_at, new.completion_reason, new.failure_stage, new.stop_requested_at, new.stop_reason,
    new.error_stage, new.error_code, new.error_message, new.error_details
  ) > 0 or new.meeting_status = 'stopping' or old.bot_status is null then
    said := private.check_thread(new);
  end if;
  return new;
end;
$$;

create trigger guard_status_of_new before insert on public.workflow_threads
  for each row execute function private.guard_workflow_thread();
-- Heartbeats, leases and results set none of these and do not pay for the guard. Columns, since a condition is parsed
-- anew with every statement.
create trigger guard_status before update of bot_status, meeting_status, error_stage, error_code, error_message,
    error_details, bot_started_at, bot_completed_at, completion_reason, failure_stage, left_at,
    stop_requested_at, stop_reason, bot_config, native_meeting_id,
    bot_id, metadata -- with which old code makes a bot its own, statuses and all
  on public.workflow_threads
  for each row execute function private.guard_workflow_thread();

-- Threads that were there before the guard was.
do $$
begin
  perform private.check_thread(t) from public.workflow_threads t;
end;
$$;

revoke execute on function
  private.bot_silent_until(public.workflow_threads),
  private.bot_deadline(public.workflow_threads),
  private.may_have_a_machine(public.workflow_threads),
  private.probe_grace(public.meeting_status),
  private.guard_workflow_thread()
from public, anon, authenticated, service_role;
revoke execute on function
  private.check_thread(public.workflow_threads),
  private.keep_end(public.workflow_threads, public.workflow_threads)
from public, anon, authenticated;
grant execute on function
  private.check_thread(public.workflow_threads),
  private.keep_end(public.workflow_threads, public.workflow_threads)
to service_role;
