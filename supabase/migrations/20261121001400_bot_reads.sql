-- Reading bots. Security invoker: users see what the policies let them see, a secret key sees everything.
-- Nothing here writes.

create function private.bot_error(thread public.workflow_threads)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select jsonb_build_object(
      'stage', thread.error_stage, 'code', thread.error_code, 'message', thread.error_message,
      'details', thread.error_details, 'attribution', c.attribution, 'meaning', c.meaning,
      'next_step', c.next_step, 'retryable', c.retryable
    )
    from (select) nothing left join public.error_codes c on c.code = thread.error_code
  );
end;
$$;
comment on function private.bot_error is 'Why a bot failed, with the meaning of its code.';

create function private.bot_json(thread public.workflow_threads)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  error jsonb;
begin
  if thread.error_code is not null then
    error := private.bot_error(thread);
  end if;
  return jsonb_build_object(
    'workflow_thread_id', thread.workflow_thread_id,
    'bot_id', thread.bot_id,
    'owner_id', thread.owner_id,
    'retry_of', thread.retry_of,
    'platform', thread.platform,
    'native_meeting_id', thread.native_meeting_id,
    'meeting_url', thread.meeting_url,
    'room_url', thread.meeting_url,
    'room_name', thread.room_name,
    'bot_name', thread.bot_name,
    'bot_config', thread.bot_config,
    'process_insights', thread.process_insights,
    'webhook_url', thread.webhook_url,
    'metadata', thread.metadata,
    'launched', thread.launched,
    'status', thread.bot_status,
    'bot_status', thread.bot_status,
    'bot_status_updated_at', thread.bot_status_updated_at,
    'bot_started_at', thread.bot_started_at,
    'bot_completed_at', thread.bot_completed_at,
    'error', error,
    'meeting_status', thread.meeting_status,
    'meeting_status_updated_at', thread.meeting_status_updated_at,
    'joined_at', thread.joined_at,
    'left_at', thread.left_at,
    'completion_reason', thread.completion_reason,
    'failure_stage', thread.failure_stage,
    'stop_requested_at', thread.stop_requested_at,
    'stop_reason', thread.stop_reason
  ) || jsonb_build_object(
    'container_id', thread.container_id,
    'container_status', thread.container_status,
    'container_status_raw', thread.container_status_raw,
    'container_seen_at', thread.container_seen_at,
    'last_heartbeat_at', thread.last_heartbeat_at,
    'participant_count', thread.participant_count,
    'deadline_at', thread.deadline_at,
    'version', thread.version,
    'processing_attempts', thread.processing_attempts,
    'qa_pairs', thread.qa_pairs,
    'insights', thread.insights,
    'created_at', thread.created_at,
    'updated_at', thread.updated_at,
    'topic', 'bot:' || thread.bot_id,
    'out_of_sync', coalesce(
      case when thread.left_at is null
        then thread.container_status in ('Exited', 'Failed')
        else thread.container_status = 'Up'
      end, false),
    'allowed_actions', case
      when thread.left_at is null and thread.stop_requested_at is null then '["stop"]'::jsonb
      when thread.bot_completed_at is not null and thread.owner_id is not null then '["retry"]'
      else '[]'
    end
  );
end;
$$;
comment on function private.bot_json is
  'A bot as callers get it: every column but the transcript, the error with its meaning, out_of_sync and allowed_actions.';

create function private.bot_events(bot_id uuid)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(private.event_json(e) order by e.id), '[]')
  from public.status_events e where e.subject_id = bot_events.bot_id
$$;
comment on function private.bot_events is 'The history of a bot, both machines, in the order in which it happened.';

create function private.bot_transcript(thread public.workflow_threads)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  if thread.transcript is not null then
    return thread.transcript;
  end if;
  return (
    select jsonb_agg(u.utterance order by c.chunk, u.position)
    from public.transcript_chunks c, jsonb_array_elements(c.utterances) with ordinality u (utterance, position)
    where c.bot_id = thread.bot_id
  );
end;
$$;
comment on function private.bot_transcript is 'The utterances of a bot: the transcript, or while it is not complete what has come so far; null where there is none.';

create function public.get_bot(
  bot_id uuid default null, workflow_thread_id text default null,
  platform text default null, native_meeting_id text default null,
  include text[] default '{}', owner_id uuid default null
)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  thread public.workflow_threads;
begin
  if bot_id is null and workflow_thread_id is null and (platform is null or native_meeting_id is null) then
    perform lifecycle.refuse_input('bot_id', 'or workflow_thread_id, or platform and native_meeting_id, is needed.');
  end if;
  if bot_id is not null then
    select * into thread from public.workflow_threads t
    where t.bot_id = get_bot.bot_id
      and (get_bot.workflow_thread_id is null or t.workflow_thread_id = get_bot.workflow_thread_id)
      and (get_bot.owner_id is null or t.owner_id = get_bot.owner_id);
  elsif workflow_thread_id is not null then
    select * into thread from public.workflow_threads t
    where t.workflow_thread_id = get_bot.workflow_thread_id
      and (get_bot.owner_id is null or t.owner_id = get_bot.owner_id);
  else
    select * into thread from public.workflow_threads t
    where t.platform = private.to_platform(get_bot.platform) and t.native_meeting_id = get_bot.native_meeting_id
      and t.bot_status is not null
      and (get_bot.owner_id is null or t.owner_id = get_bot.owner_id)
    order by t.created_at desc, t.workflow_thread_id limit 1;
  end if;
  -- A thread that never had a bot is none.
  if thread.bot_status is null then
    return null;
  end if;
  return private.bot_json(thread)
    || case when 'events' = any(include) then jsonb_build_object('events', private.bot_events(thread.bot_id)) else '{}' end
    || case when 'transcript' = any(include)
      then jsonb_build_object('transcript', private.bot_transcript(thread)) else '{}' end;
end;
$$;
comment on function public.get_bot is
  'A bot by its id, by its thread, or the newest of a meeting; null where the caller sees none. include: events, transcript.';

create function private.to_platform(platform text)
returns public.meeting_platform
language plpgsql
immutable
set search_path = ''
as $$
begin
  return platform::public.meeting_platform;
exception when invalid_text_representation then
  perform lifecycle.refuse_input('platform', 'must be daily, google_meet, zoom, teams or room.');
end;
$$;
comment on function private.to_platform is 'The platform of this name; PT422 for an unknown one.';

create function public.list_bots(
  status text default null, meeting_status text default null, active boolean default null,
  max_rows int default 50, cursor text default null, owner_id uuid default null
)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  wanted public.bot_status;
  wanted_meeting public.meeting_status;
  place record := private.read_text_cursor(cursor);
  items jsonb;
begin
  if max_rows is null or max_rows not between 1 and 200 then
    perform lifecycle.refuse_input('limit', 'must be a whole number from 1 to 200.');
  end if;
  begin
    wanted := status;
  exception when invalid_text_representation then
    perform lifecycle.refuse_input('status', 'must be pending, starting, running, completed or failed.');
  end;
  begin
    wanted_meeting := meeting_status;
  exception when invalid_text_representation then
    perform lifecycle.refuse_input('meeting_status',
      'must be requested, joining, awaiting_admission, active, stopping, completed or failed.');
  end;

  select jsonb_agg(private.bot_json(t) order by t.created_at desc, t.workflow_thread_id) into items
  from (
    select * from public.workflow_threads t
    where t.bot_status is not null
      and (list_bots.owner_id is null or t.owner_id = list_bots.owner_id)
      and (wanted is null or t.bot_status = wanted)
      and (wanted_meeting is null or t.meeting_status = wanted_meeting)
      and (active is null or lifecycle.is_open(t.bot_status) = active)
      and (
        t.created_at < place.before_at
        or (t.created_at = place.before_at and t.workflow_thread_id > place.before_id)
      )
    order by t.created_at desc, t.workflow_thread_id
    limit max_rows + 1
  ) t;

  if jsonb_array_length(items) > max_rows then
    items := items - max_rows;
    return jsonb_build_object('items', items, 'next_cursor',
      private.list_cursor((items -> -1 ->> 'created_at')::timestamptz, items -> -1 ->> 'workflow_thread_id'));
  end if;
  return jsonb_build_object('items', coalesce(items, '[]'), 'next_cursor', null);
end;
$$;
comment on function public.list_bots is
  'The bots that the caller sees, newest first: { items, next_cursor }. active: those that are (true) or are not (false) on their way or at work. max_rows: 1 to 200.';

create function public.get_workflow_thread_by_bot_id(bot_id uuid)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select private.bot_json(t) || jsonb_build_object('transcript', private.bot_transcript(t))
  from public.workflow_threads t where t.bot_id = get_workflow_thread_by_bot_id.bot_id
$$;
comment on function public.get_workflow_thread_by_bot_id is 'The whole thread of a bot, with its transcript; null for an unknown id.';

revoke execute on function
  private.bot_error(public.workflow_threads), private.bot_json(public.workflow_threads), private.bot_events(uuid), private.bot_transcript(public.workflow_threads),
  private.to_platform(text),
  public.get_bot(uuid, text, text, text, text[], uuid),
  public.list_bots(text, text, boolean, int, text, uuid),
  public.get_workflow_thread_by_bot_id(uuid)
from public, anon, authenticated;
grant execute on function
  private.bot_error(public.workflow_threads), private.bot_json(public.workflow_threads), private.bot_events(uuid), private.bot_transcript(public.workflow_threads),
  private.to_platform(text),
  public.get_bot(uuid, text, text, text, text[], uuid),
  public.list_bots(text, text, boolean, int, text, uuid)
to authenticated, service_role;
grant execute on function public.get_workflow_thread_by_bot_id(uuid) to service_role;
