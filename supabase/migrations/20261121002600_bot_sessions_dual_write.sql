-- Old code and Rollcall side by side: what old code writes into bot_sessions is carried over into workflow_threads,
-- and new bots appear in bot_sessions. Where there is no bot_sessions nothing of this file remains.

create function private.carry_bot_session()
returns trigger
language plpgsql
security definer -- old code may not write threads
set search_path = ''
as $$
declare
  -- Only what this statement changed is news, but at the beginning all of it is.
  everything boolean := tg_op = 'INSERT' or coalesce(current_setting('rollcall.catching_up', true) = 'yes', false);
  thread public.workflow_threads;
  carried public.workflow_threads;
  heard text;
  displaced jsonb;
begin
  if current_setting('rollcall.mirroring', true) = 'yes' then
    return null;
  end if;
  perform set_config('rollcall.mirroring', 'yes', true);
  select * into thread from public.workflow_threads t where t.bot_id = new.bot_id for update;
  if thread.bot_status is null then
    perform lifecycle.adopt(new.bot_id);
    perform set_config('rollcall.mirroring', '', true);
    return null;
  end if;

  -- Results first: they are kept even where the status is refused. A null erases nothing.
  carried := thread;
  if everything or new.room_name is distinct from old.room_name then
    carried.room_name := coalesce(new.room_name, thread.room_name);
  end if;
  if everything or new.qa_pairs is distinct from old.qa_pairs then
    carried.qa_pairs := coalesce(nullif(new.qa_pairs, 'null'), thread.qa_pairs);
  end if;
  if everything or new.insights is distinct from old.insights then
    carried.insights := coalesce(nullif(new.insights, 'null'), thread.insights);
  end if;
  if everything or new.bot_config is distinct from old.bot_config then
    if private.fits_bot_config(new.bot_config) then
      carried.bot_config := new.bot_config;
    elsif jsonb_typeof(new.bot_config) <> 'null' then
      displaced := jsonb_build_object('bot_sessions.bot_config', new.bot_config);
    end if;
  end if;
  if (everything or new.transcript_text is distinct from old.transcript_text)
    -- What a bot of Rollcall heard has speakers and times.
    and (thread.owner_id is null or thread.transcript is null)
  then
    select v.transcript_text into heard from private.bot_sessions_of_threads v where v.bot_id = new.bot_id;
    if new.transcript_text is distinct from heard then
      carried.transcript := coalesce(private.one_utterance(new.transcript_text), thread.transcript);
    end if;
  end if;
  if thread.owner_id is null then
    if everything or new.room_url is distinct from old.room_url then
      carried.meeting_url := coalesce(new.room_url, thread.meeting_url);
    end if;
    if everything or new.process_insights is distinct from old.process_insights then
      carried.process_insights := coalesce(new.process_insights, thread.process_insights);
    end if;
    if (everything or new.started_at is distinct from old.started_at) and lifecycle.is_open(thread.bot_status) then
      carried.bot_started_at := coalesce(new.started_at, thread.bot_started_at);
      carried.deadline_at := private.bot_deadline(carried);
    end if;
  end if;
  if (everything or new.error is distinct from old.error) and btrim(new.error) <> ''
    and btrim(new.error) is distinct from btrim(thread.error_message)
    and not (private.legacy_bot_status(new.status) = 'failed' and lifecycle.is_open(thread.bot_status))
  then
    displaced := coalesce(displaced, '{}') || jsonb_build_object('bot_sessions.error', new.error);
  end if;
  -- What the thread had and the session never.
  select nullif(coalesce(displaced, '{}') || coalesce(jsonb_object_agg(k.key, k.present), '{}'), '{}') into displaced
  from (values
    ('workflow_threads.room_name', to_jsonb(thread.room_name), to_jsonb(carried.room_name), to_jsonb(old.room_name)),
    ('workflow_threads.bot_config', thread.bot_config, carried.bot_config, old.bot_config),
    ('workflow_threads.qa_pairs', thread.qa_pairs, carried.qa_pairs, old.qa_pairs),
    ('workflow_threads.insights', thread.insights, carried.insights, old.insights)
  ) k (key, present, carried, session_had)
  where k.present <> k.carried and k.present is distinct from k.session_had;

  update public.workflow_threads t
  set room_name = carried.room_name,
    meeting_url = carried.meeting_url,
    bot_config = carried.bot_config,
    process_insights = carried.process_insights,
    transcript = carried.transcript,
    qa_pairs = carried.qa_pairs,
    insights = carried.insights,
    bot_started_at = carried.bot_started_at,
    deadline_at = carried.deadline_at,
    metadata = case when displaced is null then t.metadata else private.keep_legacy(t.metadata, displaced) end,
    updated_at = greatest(t.updated_at, new.updated_at)
  where t.workflow_thread_id = thread.workflow_thread_id
  returning * into thread;
  if new.status is distinct from old.status or (everything and private.legacy_bot_status(new.status) <> 'running') then
    thread := private.carry_session_status(thread, new.status, new.completed_at, new.error);
  end if;

  -- What was refused is undone where old code reads it. Before running there is nothing that old code knows.
  if greatest(thread.bot_status, 'running'::public.bot_status) <> private.legacy_bot_status(new.status) then
    update public.bot_sessions b
    set status = greatest(thread.bot_status, 'running'),
      completed_at = thread.bot_completed_at,
      error = coalesce(thread.error_message, b.error)
    where b.bot_id = new.bot_id;
  end if;
  perform set_config('rollcall.mirroring', '', true);
  return null;
end;
$$;
comment on function private.carry_bot_session is 'Carries a change of bot_sessions by old code over into workflow_threads.';

create function private.mirror_bot_sessions(bot_id uuid default null)
returns void
language plpgsql
set search_path = ''
as $$
begin
  update public.bot_sessions b
  set status = case when private.legacy_bot_status(b.status)::text = v.status then b.status else v.status end,
    completed_at = case when private.legacy_bot_status(b.status)::text = v.status
      then coalesce(b.completed_at, v.completed_at) else v.completed_at end,
    started_at = v.started_at,
    room_url = coalesce(v.room_url, b.room_url),
    room_name = coalesce(v.room_name, b.room_name),
    process_insights = v.process_insights,
    bot_config = coalesce(v.bot_config, b.bot_config),
    transcript_text = coalesce(v.transcript_text, b.transcript_text),
    qa_pairs = coalesce(v.qa_pairs, b.qa_pairs),
    insights = coalesce(v.insights, b.insights),
    error = coalesce(v.error, b.error),
    updated_at = greatest(b.updated_at, v.updated_at)
  from private.bot_sessions_of_threads v
  where v.bot_id = b.bot_id and (mirror_bot_sessions.bot_id is null or v.bot_id = mirror_bot_sessions.bot_id)
    and (
      private.legacy_bot_status(b.status)::text <> v.status
      or (b.completed_at, b.started_at, b.room_url, b.room_name, b.process_insights, b.bot_config, b.transcript_text,
        b.qa_pairs, b.insights, b.error)
      is distinct from (coalesce(b.completed_at, v.completed_at), v.started_at, coalesce(v.room_url, b.room_url),
        coalesce(v.room_name, b.room_name), v.process_insights, coalesce(v.bot_config, b.bot_config),
        coalesce(v.transcript_text, b.transcript_text), coalesce(v.qa_pairs, b.qa_pairs), coalesce(v.insights, b.insights),
        coalesce(v.error, b.error))
    );

  -- Only new bots: of those of old code, the ones that had no session get none.
  insert into public.bot_sessions (
    bot_id, room_url, room_name, status, started_at, completed_at, process_insights, bot_config, transcript_text, qa_pairs,
    insights, error, created_at, updated_at
  )
  select v.bot_id, coalesce(v.room_url, ''), coalesce(v.room_name, ''), v.status, v.started_at, v.completed_at,
    v.process_insights, v.bot_config, v.transcript_text, v.qa_pairs, v.insights, v.error, v.created_at, v.updated_at
  from private.bot_sessions_of_threads v
  join public.workflow_threads t on t.bot_id = v.bot_id
  where t.owner_id is not null and (mirror_bot_sessions.bot_id is null or v.bot_id = mirror_bot_sessions.bot_id)
    and not exists (select from public.bot_sessions b where b.bot_id = v.bot_id)
  on conflict do nothing;
end;
$$;
comment on function private.mirror_bot_sessions is 'Writes into bot_sessions what workflow_threads says, of one bot or of all.';

create function private.mirror_bot()
returns trigger
language plpgsql
security definer -- whoever moves a bot need not be old code
set search_path = ''
as $$
begin
  if current_setting('rollcall.mirroring', true) = 'yes' then
    return null;
  end if;
  -- Old code locks its session first, then waits for the thread: whoever holds the thread never waits for the
  -- session. Old code's own write then sees the thread as it is, and corrects the session.
  perform from public.bot_sessions b where b.bot_id = new.bot_id for update skip locked;
  if not found and exists (select from public.bot_sessions b where b.bot_id = new.bot_id) then
    return null;
  end if;
  perform set_config('rollcall.mirroring', 'yes', true);
  perform private.mirror_bot_sessions(new.bot_id);
  perform set_config('rollcall.mirroring', '', true);
  return null;
end;
$$;
comment on function private.mirror_bot is 'Writes into bot_sessions what became of a bot.';

create function private.refuse_bot_session()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  perform lifecycle.refuse(405, 'read_only', 'bot_sessions only shows what workflow_threads says: use the functions join, stop and callback.');
  return null;
end;
$$;

create function private.dual_write(switched_on boolean)
returns void
language plpgsql
set search_path = ''
as $$
begin
  if not switched_on then
    drop trigger mirror_new_bot on public.workflow_threads;
    drop trigger mirror_bot on public.workflow_threads;
    drop trigger carry_bot_session on public.bot_sessions;
    return;
  end if;
  create trigger carry_bot_session after insert or update on public.bot_sessions
    for each row execute function private.carry_bot_session();
  create trigger mirror_new_bot after insert on public.workflow_threads
    for each row when (new.bot_status is not null) execute function private.mirror_bot();
  -- Heartbeats set none of these.
  create trigger mirror_bot after update of
    bot_status, error_message, meeting_url, room_name, process_insights, bot_config, transcript, qa_pairs, insights
    on public.workflow_threads
    for each row when (new.bot_status is not null) execute function private.mirror_bot();
end;
$$;
comment on function private.dual_write is 'Switches the dual write of bot_sessions and workflow_threads on or off.';

revoke execute on function
  private.carry_bot_session(),
  private.mirror_bot_sessions(uuid), private.mirror_bot(), private.refuse_bot_session(),
  private.dual_write(boolean)
from public, anon, authenticated, service_role;

do $$
declare
  paused text[];
begin
  if to_regclass('public.bot_sessions') is null then
    drop function
      private.dual_write(boolean), private.refuse_bot_session(), private.mirror_bot(), private.mirror_bot_sessions(uuid),
      private.carry_bot_session();
    return;
  end if;
  lock table public.workflow_threads, public.bot_sessions in share row exclusive mode;
  create view private.bot_sessions_of_threads with (security_invoker = true) as
    select t.bot_id, t.meeting_url as room_url, coalesce(t.room_name, t.native_meeting_id) as room_name,
      greatest(t.bot_status, 'running')::text as status, coalesce(t.bot_started_at, t.created_at) as started_at,
      t.bot_completed_at as completed_at, t.process_insights, t.bot_config,
      (
        select string_agg(concat_ws(': ', u.utterance ->> 'speaker', u.utterance ->> 'text'), E'\n' order by u.position)
        from jsonb_array_elements(case jsonb_typeof(t.transcript) when 'array' then t.transcript end) with ordinality u (utterance, position)
      ) as transcript_text,
      t.qa_pairs, t.insights,
      coalesce(t.error_message, t.metadata #>> '{legacy_values,bot_sessions.error}') as error,
      case
        when t.metadata #>> '{legacy_values,bot_sessions.created_at}' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d$'
        then (t.metadata #>> '{legacy_values,bot_sessions.created_at}')::timestamptz
        else t.created_at
      end as created_at,
      t.updated_at
    -- Joined to nothing: a view of one table can be written through.
    from public.workflow_threads t, (select) read_only
    where t.bot_status is not null;
  -- Says so in a sentence.
  create trigger refuse_write instead of insert or update or delete on private.bot_sessions_of_threads
    for each row execute function private.refuse_bot_session();
  revoke all on private.bot_sessions_of_threads from public, anon, authenticated, service_role;
  comment on view private.bot_sessions_of_threads is 'The bots as bot_sessions has them.';
  create index workflow_threads_by_room_name on public.workflow_threads (coalesce(room_name, native_meeting_id));

  -- What happened since the adoption: old code's news, then the new bots.
  paused := private.pause_triggers();
  perform lifecycle.adopt();
  perform private.dual_write(true);
  perform set_config('rollcall.catching_up', 'yes', true);
  update public.bot_sessions b set status = b.status
  from private.bot_sessions_of_threads v
  where v.bot_id = b.bot_id and (
    private.legacy_bot_status(b.status)::text <> v.status
    or b.room_url is distinct from v.room_url
    or b.room_name is distinct from v.room_name
    or b.started_at is distinct from v.started_at
    or b.process_insights <> v.process_insights
    or (jsonb_typeof(b.bot_config) <> 'null' and b.bot_config is distinct from v.bot_config)
    or (btrim(b.transcript_text) <> '' and b.transcript_text is distinct from v.transcript_text)
    or (jsonb_typeof(b.qa_pairs) <> 'null' and b.qa_pairs is distinct from v.qa_pairs)
    or (jsonb_typeof(b.insights) <> 'null' and b.insights is distinct from v.insights)
    or (btrim(b.error) <> '' and b.error is distinct from v.error)
  );
  perform set_config('rollcall.catching_up', '', true);
  perform private.mirror_bot_sessions(t.bot_id) from public.workflow_threads t
  where t.owner_id is not null and t.bot_status is not null;
  perform private.resume_triggers(paused);
end;
$$;
