-- What bots report, and what the workflow says of them.

create table private.callback_receipts (
  bot_id uuid references public.workflow_threads (bot_id) on delete cascade,
  event_id text constraint event_id_is_short check (length(event_id) between 1 and 255),
  created_at timestamptz not null,
  primary key (bot_id, event_id)
);
create index callback_receipts_by_age on private.callback_receipts (created_at);
comment on table private.callback_receipts is 'The callbacks that were taken, so that one sent twice counts once.';
alter table private.callback_receipts enable row level security;
revoke all on private.callback_receipts from public, anon, authenticated, service_role;

create function private.newest_text(text text, max_bytes int)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  kept text := text;
begin
  while octet_length(kept) > max_bytes loop
    kept := right(kept, least(length(kept) - 1, (length(kept)::bigint * max_bytes / octet_length(kept))::int));
  end loop;
  return kept;
end;
$$;
comment on function private.newest_text is 'The end of a text, at most so many bytes.';

create unlogged table private.callback_rates (
  bot_id uuid primary key references public.workflow_threads (bot_id) on delete cascade,
  second timestamptz not null,
  made int not null
);
comment on table private.callback_rates is 'How many callbacks a bot made in its newest second; only of bots that make more than one, or one that was refused.';
alter table private.callback_rates enable row level security;
revoke all on private.callback_rates from public, anon, authenticated, service_role;

create function private.callback_allowed(bot_id uuid, moment timestamptz)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  is_allowed boolean;
begin
  insert into private.callback_rates as r (bot_id, second, made)
  values (callback_allowed.bot_id, date_trunc('second', moment), 2)
  on conflict on constraint callback_rates_pkey do update
  set made = case when r.second = excluded.second then r.made + 1 else 2 end, second = excluded.second
  returning r.made <= (select s.callbacks_per_second from lifecycle.settings s) into is_allowed;
  return is_allowed;
end;
$$;
comment on function private.callback_allowed is
  'Counts a callback against the limit a second, the first that is counted as the second: that one shows on the row. The caller holds the lock of the row.';

create function private.bot_answer(thread public.workflow_threads, result text, changed boolean)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  answer jsonb := jsonb_build_object(
    'ok', true,
    'result', result,
    'changed', changed,
    'workflow_thread_id', thread.workflow_thread_id,
    'bot_id', thread.bot_id,
    'status', thread.bot_status,
    'bot_status', thread.bot_status,
    'bot_status_updated_at', thread.bot_status_updated_at,
    'bot_started_at', thread.bot_started_at,
    'bot_completed_at', thread.bot_completed_at,
    'error', null,
    'meeting_status', thread.meeting_status,
    'joined_at', thread.joined_at,
    'left_at', thread.left_at,
    'completion_reason', thread.completion_reason,
    'failure_stage', thread.failure_stage,
    'container_id', thread.container_id,
    'container_status', thread.container_status,
    'participant_count', thread.participant_count,
    'version', thread.version
  );
begin
  if thread.error_code is not null then
    answer := answer || jsonb_build_object('error', private.bot_error(thread));
  end if;
  -- A bot whose meeting has ended without its knowing is told to go, too.
  if thread.stop_requested_at is not null or thread.left_at is not null then
    answer := answer || '{"command": "leave"}';
  end if;
  return answer;
end;
$$;
comment on function private.bot_answer is
  'What a bot is answered: where it stands, what came of its report, and command leave once it should go. Its settings and results are not its own business.';

create function private.refuse_report(
  thread public.workflow_threads, to_status public.meeting_status, payload jsonb, moment timestamptz
)
returns jsonb
language plpgsql
set search_path = ''
as $$
begin
  -- A refused callback leaves no trace on the row: it is counted here, unless it was counted before.
  if coalesce(thread.last_heartbeat_at < date_trunc('second', moment), true)
    and not private.callback_allowed(thread.bot_id, moment)
  then
    return '{"ok": false, "code": "limit_reached", "retry_after": 1}';
  end if;
  perform lifecycle.reject('meeting', thread.bot_id, thread.owner_id, thread.meeting_status::text, to_status::text,
    'bot', 'illegal_transition', payload);
  return jsonb_build_object(
    'ok', false, 'code', 'illegal_transition', 'machine', 'meeting',
    'from', thread.meeting_status, 'to', to_status, 'current', thread.meeting_status,
    'allowed', lifecycle.allowed_from('meeting', thread.meeting_status::text)
  );
end;
$$;

create function private.add_transcript_chunk(thread public.workflow_threads, chunk int, utterances jsonb)
returns boolean
language plpgsql
set search_path = ''
as $$
begin
  insert into public.transcript_chunks as c (bot_id, chunk, owner_id, utterances, created_at)
  values (thread.bot_id, chunk, thread.owner_id, utterances, lifecycle.now())
  on conflict on constraint transcript_chunks_pkey do nothing;
  return found;
end;
$$;

create function public.report_bot(
  bot_id uuid,
  token_hash text,
  status text,
  event_id text default null,
  container_id text default null,
  reason text default null,
  completion_reason text default null,
  exit_code int default null,
  error_code text default null,
  error_message text default null,
  error_details jsonb default null,
  failure_stage text default null,
  participant_count int default null,
  transcript jsonb default null,
  bot_logs text default null,
  occurred_at timestamptz default null,
  utterances jsonb default null,
  chunk int default null
)
returns jsonb
language plpgsql
security definer -- bots have no database role: their token is the proof
set search_path = ''
set plan_cache_mode = force_generic_plan -- planning a report anew costs more than it
as $$
declare
  moment timestamptz := lifecycle.now();
  -- Compared under a salt of this moment: how long it takes tells nothing of where the two differ.
  salt bytea := uuid_send(gen_random_uuid());
  proof bytea := sha256(salt || decode(token_hash, 'hex'));
  thread public.workflow_threads;
  target public.meeting_status;
  told text := coalesce(completion_reason, reason);
  why public.meeting_completion_reason;
  details jsonb;
  is_known boolean := false;
  is_allowed boolean;
  new_container boolean;
  said text;
begin
  loop
    -- The usual report is one step on: one statement proves, locks, decides and moves. A step is not counted against the
    -- limit a second, since a bot has only so many.
    if status in ('joining', 'awaiting_admission', 'active') then
      target := status;
      if num_nonnulls(told, occurred_at) > 0 then
        said := lifecycle.because('bot', told, occurred_at => occurred_at);
      end if;
      update public.workflow_threads t
      set meeting_status = target,
        bot_status = case target when 'active' then 'running'::public.bot_status else 'starting' end,
        last_heartbeat_at = moment, missing_since = null,
        -- Of a machine that Rollcall started the machines API knows the name, not the bot.
        container_id = case when t.launched and t.container_seen_at is not null then t.container_id
          else coalesce(report_bot.container_id, t.container_id) end,
        participant_count = coalesce(report_bot.participant_count, t.participant_count),
        transcript = coalesce(report_bot.transcript, t.transcript)
      from private.bot_secrets s
      where s.bot_id = report_bot.bot_id and t.bot_id = report_bot.bot_id
        and sha256(salt || s.token_hash) = proof
        and t.stop_requested_at is null
        and t.meeting_status = case target
          when 'joining' then 'requested'::public.meeting_status when 'awaiting_admission' then 'joining'
          else 'awaiting_admission' end
        and (event_id is null or not exists (
          select from private.callback_receipts r where r.bot_id = t.bot_id and r.event_id = report_bot.event_id
        ))
      returning t.* into thread;
      if found then
        if event_id is not null then
          insert into private.callback_receipts (bot_id, event_id, created_at) values (thread.bot_id, event_id, moment);
        end if;
        return private.bot_answer(thread, 'processed', true);
      end if;
      if num_nonnulls(told, occurred_at) > 0 then
        said := set_config('rollcall.because', '', true);
      end if;
    end if;

    -- Everything else is judged on the locked row. Who does not know the secret locks nothing.
    select t.* into thread
    from private.bot_secrets s join public.workflow_threads t on t.bot_id = s.bot_id
    where s.bot_id = report_bot.bot_id and sha256(salt || s.token_hash) = proof
    for update of t;
    if not found then
      return '{"ok": false, "code": "unauthorized"}';
    end if;
    if event_id is not null then
      is_known := exists (
        select from private.callback_receipts r where r.bot_id = thread.bot_id and r.event_id = report_bot.event_id
      );
    end if;
    -- More than one step on: there is a row of history for each.
    exit when is_known or coalesce(target <= thread.meeting_status, true)
      or thread.left_at is not null or thread.stop_requested_at is not null;
    thread := private.walk_toward(thread, target, 'bot');
  end loop;
  -- The first of a second costs nothing: that it was made shows on the row. The end comes once, and is not counted.
  if thread.last_heartbeat_at >= date_trunc('second', moment) then
    if thread.left_at is null and status in ('completed', 'failed', 'exited') then
      is_allowed := not exists (
        select from private.callback_rates r, lifecycle.settings s
        where r.bot_id = thread.bot_id and r.second = date_trunc('second', moment) and r.made >= s.callbacks_per_second
      );
    else
      is_allowed := private.callback_allowed(bot_id, moment);
    end if;
    if not is_allowed then
      return '{"ok": false, "code": "limit_reached", "retry_after": 1}';
    end if;
  end if;
  if thread.launched and thread.container_seen_at is not null then
    container_id := thread.container_id;
  end if;

  if status = 'heartbeat' or (status = 'transcript' and thread.left_at is null) then
    update public.workflow_threads t
    set last_heartbeat_at = moment, missing_since = null,
      participant_count = coalesce(report_bot.participant_count, t.participant_count)
    where t.workflow_thread_id = thread.workflow_thread_id
    returning * into thread;
    if status = 'transcript' and not private.add_transcript_chunk(thread, chunk, utterances) then
      return private.bot_answer(thread, 'unchanged', false);
    end if;
    return private.bot_answer(thread, 'processed', false);
  elsif status = 'transcript' then
    return private.bot_answer(thread, 'ignored', false);
  end if;

  target := case
    when status = 'exited' and (exit_code = 0 or thread.stop_requested_at is not null) then 'completed'
    when status = 'exited' then 'failed'
    else status
  end;
  if target in ('requested', 'stopping') then
    perform lifecycle.refuse_input('status',
      'must be joining, awaiting_admission, active, completed, failed, exited, heartbeat or transcript.');
  end if;

  if is_known or thread.meeting_status = target then
    new_container := container_id is distinct from coalesce(thread.container_id, container_id)
      and thread.meeting_status = target and lifecycle.is_open(target);
    update public.workflow_threads t
    set last_heartbeat_at = moment, missing_since = null,
      container_id = case when new_container then report_bot.container_id else t.container_id end
    where t.workflow_thread_id = thread.workflow_thread_id
    returning * into thread;
    return private.bot_answer(thread, case when new_container then 'container_updated' else 'unchanged' end, new_container);
  end if;

  if thread.left_at is not null or (thread.stop_requested_at is null and target < thread.meeting_status) then
    return private.refuse_report(thread, target, jsonb_strip_nulls(jsonb_build_object(
      'status', status, 'event_id', event_id, 'container_id', container_id, 'reason', reason,
      'completion_reason', completion_reason, 'exit_code', exit_code, 'error_code', error_code,
      'error_message', left(error_message, 1000), 'failure_stage', failure_stage, 'timestamp', occurred_at)), moment);
  end if;

  if event_id is not null then
    insert into private.callback_receipts (bot_id, event_id, created_at) values (thread.bot_id, event_id, moment);
  end if;

  -- The last word of most bots has nothing that belongs on the row.
  if target <> 'completed' or num_nonnulls(container_id, participant_count, transcript) > 0
    or (status = 'exited' and private.may_have_a_machine(thread))
  then
    update public.workflow_threads t
    set last_heartbeat_at = moment, missing_since = null,
      container_id = coalesce(report_bot.container_id, t.container_id),
      participant_count = coalesce(report_bot.participant_count, t.participant_count),
      transcript = coalesce(report_bot.transcript, t.transcript),
      -- Its last word: the machine goes next, and is asked after until it has.
      container_status = case
        when status = 'exited' and private.may_have_a_machine(t) then 'Stopping' else t.container_status end
    where t.workflow_thread_id = thread.workflow_thread_id
    returning * into thread;
    if target <= 'active' then
      return private.bot_answer(thread, 'ignored', false);
    end if;
  end if;

  if num_nonnulls(exit_code, bot_logs, error_code) > 0 then
    details := nullif(jsonb_strip_nulls(jsonb_build_object(
      'exit_code', exit_code, 'bot_logs', private.newest_text(bot_logs, 51200), 'error_code',
      case when target = 'completed' then error_code end)), '{}');
  end if;
  if target = 'failed' or num_nonnulls(told, details, occurred_at) > 0 then
    said := lifecycle.because('bot', told, details, occurred_at);
  end if;

  if target = 'completed' then
    if thread.stop_requested_at is not null then
      why := thread.stop_reason::text::public.meeting_completion_reason;
    elsif told is null then
      why := 'stopped';
    elsif told = any (enum_range(null::public.meeting_completion_reason)::text[]) then
      why := told::public.meeting_completion_reason;
    else
      why := 'other';
    end if;
    thread := private.leave_meeting(thread, why,
      coalesce(error_message, case when why = 'other' then told end), error_details, moment);
    return private.bot_answer(thread, 'processed', true);
  end if;

  details := coalesce(error_details, '{}');
  if jsonb_typeof(details) <> 'object' then
    details := jsonb_build_object('details', details);
  end if;
  if failure_stage is not null then
    details := details || jsonb_build_object('reported', jsonb_build_object('failure_stage', failure_stage));
  end if;
  thread := private.fail_bot(thread,
    coalesce(error_code, 'BOT_CRASHED'),
    coalesce(error_message, reason,
      case when exit_code is not null then format('Bot exited with code %s.', exit_code) end,
      'The bot reported a failure.'),
    nullif(details, '{}'));
  return private.bot_answer(thread, 'processed', true);
end;
$$;
comment on function public.report_bot is
  'A callback of a bot, proven by the SHA-256 (hex) of its token. status: joining, awaiting_admission, active, completed, failed, exited (with exit_code), heartbeat, transcript (with utterances and chunk). A later presence state walks the hops before it. Returns where the bot stands, with result processed | unchanged | ignored | container_updated and command leave once the bot should go, or { ok: false, code: unauthorized | illegal_transition | limit_reached }.';

create function public.update_bot_status(
  workflow_thread_id text, status text,
  error_stage text default null, error_code text default null, error_message text default null,
  error_details jsonb default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write threads
set search_path = ''
as $$
declare
  thread public.workflow_threads;
  target public.bot_status;
  wanted public.bot_error_stage;
  choice public.bot_error_stage;
  details jsonb := error_details;
begin
  begin
    target := status;
  exception when invalid_text_representation then
    null;
  end;
  if target is null then
    perform lifecycle.refuse_input('status', 'must be starting, running, completed or failed.');
  end if;
  if target = 'failed' and (
    error_stage is null or coalesce(btrim(error_code), '') = '' or coalesce(btrim(error_message), '') = ''
  ) then
    perform lifecycle.refuse_input(
      case when error_stage is null then 'error_stage' when coalesce(btrim(error_code), '') = '' then 'error_code'
        else 'error_message' end,
      'is needed: failed says stage, code and message.');
  elsif target <> 'failed' and num_nonnulls(error_stage, error_code, error_message, error_details) > 0 then
    perform lifecycle.refuse_input('status', 'must be failed where an error is given.');
  end if;
  begin
    wanted := error_stage;
  exception when invalid_text_representation then
    perform lifecycle.refuse_input('error_stage', 'must be machine_start, joining, running or processing.');
  end;

  select * into thread from public.workflow_threads t
  where t.workflow_thread_id = update_bot_status.workflow_thread_id and t.bot_status is not null
  for update;
  if not found then
    perform lifecycle.refuse(404, 'bot_not_found', 'No bot has this workflow_thread_id.');
  end if;
  if thread.bot_status = target then
    return private.bot_json(thread) || '{"ok": true, "result": "unchanged", "changed": false}';
  end if;
  if not lifecycle.transition_allowed('bot', thread.bot_status::text, target::text)
    -- Once told to leave it never gets into the room.
    or (target = 'running' and not lifecycle.is_attending(thread.meeting_status))
  then
    perform lifecycle.reject('bot', thread.bot_id, thread.owner_id, thread.bot_status::text, target::text,
      'worker', 'illegal_transition', jsonb_strip_nulls(jsonb_build_object(
        'status', status, 'error_stage', error_stage, 'error_code', error_code, 'error_message', left(error_message, 1000))));
    return jsonb_build_object(
      'ok', false, 'code', 'illegal_transition', 'machine', 'bot', 'from', thread.bot_status, 'to', target,
      'current', thread.bot_status, 'allowed', lifecycle.allowed_from('bot', thread.bot_status::text));
  end if;

  if target = 'starting' then
    perform lifecycle.because('worker');
    update public.workflow_threads t set bot_status = 'starting'
    where t.workflow_thread_id = thread.workflow_thread_id returning * into thread;
  elsif target = 'running' then
    thread := private.walk_toward(thread, 'active', 'worker');
    perform lifecycle.because('worker', implied => '{meeting}');
    update public.workflow_threads t set meeting_status = 'active', bot_status = 'running'
    where t.workflow_thread_id = thread.workflow_thread_id returning * into thread;
  elsif target = 'completed' then
    perform lifecycle.because('worker', implied => '{meeting}');
    update public.workflow_threads t
    set bot_status = 'completed',
      meeting_status = case when lifecycle.is_open(t.meeting_status) then 'completed' else t.meeting_status end,
      completion_reason = case when lifecycle.is_open(t.meeting_status) then 'other' else t.completion_reason end,
      transcript = private.bot_transcript(thread),
      qa_pairs = coalesce(t.qa_pairs, '[]'),
      insights = coalesce(t.insights, '{"summary": "", "topics": [], "action_items": []}')
    where t.workflow_thread_id = thread.workflow_thread_id returning * into thread;
  else
    choice := case
      when not lifecycle.is_open(thread.meeting_status) then null
      when thread.bot_status = 'starting' and wanted in ('machine_start', 'joining') then wanted
      when thread.bot_status = 'running' and wanted in ('running', 'processing') then wanted
      when thread.bot_status = 'pending' then 'machine_start'
    end;
    if wanted is distinct from coalesce(choice,
      case when lifecycle.is_open(thread.meeting_status)
        then private.error_stage_of(private.presence_stage(thread)) else 'processing' end)
    then
      details := case when jsonb_typeof(details) = 'object' then details
        when details is null then '{}' else jsonb_build_object('details', details) end
        || jsonb_build_object('reported', jsonb_build_object('error_stage', wanted));
    end if;
    perform lifecycle.because('worker', implied => '{meeting}');
    thread := private.fail_bot(thread, btrim(error_code), error_message, details, choice);
  end if;
  return private.bot_json(thread) || '{"ok": true, "result": "processed", "changed": true}';
end;
$$;
comment on function public.update_bot_status is
  'One legal hop of bot_status, strictly; the meeting follows. failed needs stage, code and message. Returns the row, or { ok: false, code: illegal_transition, current, allowed }; raises PT404 bot_not_found, PT422 invalid_request.';

create function public.save_workflow_thread_data(workflow_thread_id text, data jsonb)
returns jsonb
language plpgsql
security definer -- API roles may not write threads
set search_path = ''
as $$
declare
  thread public.workflow_threads;
  stranger text;
begin
  if data is null or jsonb_typeof(data) <> 'object' then
    perform lifecycle.refuse_input('data', 'must be an object.');
  end if;
  select k into stranger from jsonb_object_keys(data) k
  where k not in ('bot_name', 'bot_config', 'transcript', 'qa_pairs', 'insights', 'metadata') limit 1;
  if stranger is not null then
    perform lifecycle.refuse_input('data.' || stranger,
      'can not be saved: only bot_name, bot_config, transcript, qa_pairs, insights and metadata can.');
  end if;
  select d.key into stranger from jsonb_each(data) d
  where jsonb_typeof(d.value) <> case
    when d.key = 'bot_name' then 'string' when d.key in ('transcript', 'qa_pairs') then 'array' else 'object' end
  limit 1;
  if stranger is not null then
    perform lifecycle.refuse_input('data.' || stranger, case
      when stranger = 'bot_name' then 'must be a string.'
      when stranger in ('transcript', 'qa_pairs') then 'must be an array.'
      else 'must be an object.' end);
  end if;

  update public.workflow_threads t
  set bot_name = coalesce(data ->> 'bot_name', t.bot_name),
    bot_config = coalesce(t.bot_config, '{}') || coalesce(data -> 'bot_config', '{}'),
    transcript = coalesce(data -> 'transcript', t.transcript),
    qa_pairs = coalesce(data -> 'qa_pairs', t.qa_pairs),
    insights = coalesce(data -> 'insights', t.insights),
    metadata = coalesce(data -> 'metadata', t.metadata),
    updated_at = lifecycle.now()
  where t.workflow_thread_id = save_workflow_thread_data.workflow_thread_id
  returning * into thread;
  if not found then
    perform lifecycle.refuse(404, 'bot_not_found', 'No bot has this workflow_thread_id.');
  end if;
  return private.bot_json(thread) || '{"ok": true, "result": "processed", "changed": true}';
end;
$$;
comment on function public.save_workflow_thread_data is
  'Saves bot_name, bot_config (merged by key), transcript, qa_pairs, insights and metadata of a thread; anything else, statuses too, is PT422.';

revoke execute on function
  private.newest_text(text, int),
  private.callback_allowed(uuid, timestamptz),
  private.bot_answer(public.workflow_threads, text, boolean),
  private.refuse_report(public.workflow_threads, public.meeting_status, jsonb, timestamptz),
  private.add_transcript_chunk(public.workflow_threads, int, jsonb)
from public, anon, authenticated, service_role;
revoke execute on function
  public.report_bot(uuid, text, text, text, text, text, text, int, text, text, jsonb, text, int, jsonb, text, timestamptz, jsonb, int),
  public.update_bot_status(text, text, text, text, text, jsonb),
  public.save_workflow_thread_data(text, jsonb)
from public, anon, authenticated;
grant execute on function
  public.report_bot(uuid, text, text, text, text, text, text, int, text, text, jsonb, text, int, jsonb, text, timestamptz, jsonb, int),
  public.update_bot_status(text, text, text, text, text, jsonb),
  public.save_workflow_thread_data(text, jsonb)
to service_role;
