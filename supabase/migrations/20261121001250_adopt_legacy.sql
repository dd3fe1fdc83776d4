-- Old code's bots become bots of Rollcall, before the guard exists. Where there never was old code nothing of this
-- file remains.

create function private.legacy_bot_status(status text)
returns public.bot_status
language plpgsql
immutable
set search_path = ''
as $$
begin
  -- What nobody knows counts as running: its deadline ends it. It is never shown as completed.
  return case
    when lower(btrim(status)) in ('completed', 'complete', 'ended', 'finished', 'done') then 'completed'
    when lower(btrim(status)) in ('failed', 'failure', 'error') then 'failed'
    else 'running'
  end::public.bot_status;
end;
$$;
comment on function private.legacy_bot_status is 'What a status of old code means: running, completed or failed.';

create function private.legacy_platform(room_url text, provider text)
returns public.meeting_platform
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case
    when room_url ~* '^https?://([^/]+\.)?daily\.co(/|$)' then 'daily'
    when room_url ~* '^https?://meet\.google\.com(/|$)' then 'google_meet'
    when room_url ~* '^https?://([^/]+\.)?zoom\.us(/|$)' then 'zoom'
    when room_url ~* '^https?://teams\.(microsoft|live)\.com(/|$)' then 'teams'
    when lower(provider) in ('daily', 'google_meet', 'zoom', 'teams') then lower(provider)
  end::public.meeting_platform;
end;
$$;
comment on function private.legacy_platform is 'The platform of a room: its link tells, else what old code said; null for what Rollcall does not know.';

create function private.one_utterance(transcript_text text)
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case when btrim(transcript_text, E' \t\r\n') <> '' then jsonb_build_array(jsonb_build_object(
    'speaker', null, 'text', transcript_text, 'started_at', null, 'ended_at', null)) end;
end;
$$;
comment on function private.one_utterance is 'A transcript that is text as utterances: one, without a speaker.';

create function lifecycle.adopt(bot_id uuid default null)
returns int
language plpgsql
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  adopted int;
begin
  perform set_config('rollcall.adopting', 'yes', true);

  -- A session without a thread gets one; legacy_stand_in: it makes way when old code names another thread.
  insert into public.workflow_threads (bot_id, created_at, updated_at, room_name, provider, legacy_meeting_status, metadata)
  select b.bot_id, b.created_at, b.updated_at, b.room_name, null, null, '{"legacy_stand_in": true}'
  from private.legacy_bots b
  where (adopt.bot_id is null or b.bot_id = adopt.bot_id)
    and not exists (select from public.workflow_threads t where t.bot_id = b.bot_id);

  with found as (
    select t.workflow_thread_id, b.*, v.verdict, t.metadata,
      coalesce(t.bot_join_time, b.started_at) as joined_at,
      case when v.verdict <> 'running' then
        coalesce(b.completed_at, t.bot_leave_time, t.meeting_end_time, greatest(b.updated_at, b.started_at))
      end as ended_at,
      case when v.verdict <> 'running' then t.bot_leave_time end as bot_leave_time,
      coalesce(b.room_url, t.room_url) as any_room_url,
      coalesce(b.room_name, t.room_name) as any_room_name,
      case when private.fits_bot_config(b.bot_config) then b.bot_config
        when private.fits_bot_config(t.bot_config) then t.bot_config end as any_bot_config,
      private.legacy_platform(coalesce(b.room_url, t.room_url), t.provider) as platform,
      -- What finds no place in a column: the session decides, nothing is dropped.
      (
        select jsonb_object_agg(k.key, k.value)
        from (values
          ('workflow_threads.room_name', case when t.room_name <> b.room_name then to_jsonb(t.room_name) end),
          ('workflow_threads.bot_config', case
            when jsonb_typeof(t.bot_config) <> 'null' and (
              not private.fits_bot_config(t.bot_config)
              or (private.fits_bot_config(b.bot_config) and t.bot_config <> b.bot_config)
            ) then t.bot_config end),
          ('workflow_threads.qa_pairs', case
            when jsonb_typeof(t.qa_pairs) <> 'null' and t.qa_pairs <> nullif(b.qa_pairs, 'null') then t.qa_pairs end),
          ('workflow_threads.insights', case
            when jsonb_typeof(t.insights) <> 'null' and t.insights <> nullif(b.insights, 'null') then t.insights end),
          ('bot_sessions.bot_config', case
            when jsonb_typeof(b.bot_config) <> 'null' and not private.fits_bot_config(b.bot_config) then b.bot_config end),
          ('bot_sessions.error', case
            when v.verdict <> 'failed' and btrim(b.error) <> '' then to_jsonb(b.error) end),
          ('bot_sessions.completed_at', case when v.verdict = 'running' then to_jsonb(b.completed_at) end),
          ('bot_sessions.created_at', case when b.created_at <> t.created_at then to_jsonb(b.created_at) end),
          ('bot_sessions.status', case
            when b.status is not null and b.status <> v.verdict::text then to_jsonb(b.status) end)
        ) k (key, value)
        where k.value is not null
      ) as kept,
      (
        select jsonb_agg(n.note)
        from (values
          (case when jsonb_typeof(b.bot_config) <> 'null' and not private.fits_bot_config(b.bot_config)
            then 'bot_config of the session is over 64 KB or no object: kept in legacy_values.' end),
          (case when jsonb_typeof(t.bot_config) <> 'null' and not private.fits_bot_config(t.bot_config)
            then 'bot_config of the thread is no object: kept in legacy_values.' end),
          (case when v.verdict <> 'failed' and btrim(b.error) <> ''
            then 'There was an error although the bot had not failed: kept in legacy_values.' end),
          (case when v.verdict = 'running' and b.completed_at is not null
            then 'There was an end although the bot was running: kept in legacy_values.' end),
          (case when v.verdict <> 'running' and coalesce(b.completed_at, t.bot_leave_time, t.meeting_end_time) is null
            then 'There was no time of the end: the last update stands in for it.' end),
          (case when v.verdict = 'running' and lower(btrim(b.status)) not in ('running', 'in_progress', 'active')
            then 'The status was unknown: taken as running, kept in legacy_values.' end)
        ) n (note)
        where n.note is not null
      ) as notes
    from private.legacy_bots b
    join public.workflow_threads t on t.bot_id = b.bot_id
    cross join lateral (select private.legacy_bot_status(b.status) as verdict) v
    where t.bot_status is null and (adopt.bot_id is null or b.bot_id = adopt.bot_id)
  ),
  moved as (
    update public.workflow_threads t
    set bot_status = f.verdict,
      bot_status_updated_at = least(coalesce(f.ended_at, f.started_at), moment),
      bot_seq = 1,
      bot_started_at = f.started_at,
      bot_completed_at = f.ended_at,
      meeting_status = case f.verdict when 'running' then 'active' else f.verdict::text end::public.meeting_status,
      meeting_status_updated_at = least(coalesce(f.bot_leave_time, f.ended_at, f.joined_at), moment),
      meeting_seq = 1,
      joined_at = f.joined_at,
      left_at = coalesce(f.bot_leave_time, f.ended_at),
      version = 2,
      completion_reason = case when f.verdict = 'completed' then 'other'::public.meeting_completion_reason end,
      failure_stage = case when f.verdict = 'failed' then 'active'::public.meeting_failure_stage end,
      error_stage = case when f.verdict = 'failed' then 'running'::public.bot_error_stage end,
      error_code = case when f.verdict = 'failed' then 'LEGACY_FAILURE' end,
      error_message = case when f.verdict = 'failed' then
        case when btrim(f.error) <> '' then f.error else 'Failed before the migration.' end end,
      -- Old code sends no heartbeats: private.bot_deadline() says the same of bots without an owner.
      deadline_at = case when f.verdict = 'running' then f.started_at + interval '4 h' end,
      platform = f.platform,
      native_meeting_id = case
        when length(f.any_room_name) between 1 and 255 and f.any_room_name !~ '[[:cntrl:][:space:]?#&=/]'
        then f.any_room_name end,
      meeting_url = f.any_room_url,
      room_name = f.any_room_name,
      bot_config = f.any_bot_config,
      process_insights = coalesce(f.process_insights, true),
      transcript = coalesce(private.one_utterance(f.transcript_text), t.transcript),
      qa_pairs = coalesce(nullif(f.qa_pairs, 'null'), t.qa_pairs),
      insights = coalesce(nullif(f.insights, 'null'), t.insights),
      updated_at = greatest(t.updated_at, f.updated_at),
      metadata = private.keep_legacy(t.metadata, f.kept, f.notes)
    from found f
    where t.workflow_thread_id = f.workflow_thread_id
    returning t.bot_id, f.verdict, t.meeting_status::text as meeting_status, f.status as said,
      t.error_stage::text as error_stage, t.error_code, t.error_message
  )
  insert into public.status_events (
    machine, subject_id, seq, to_status, source, reason, error_stage, error_code, error_message, details, created_at
  )
  select e.machine, m.bot_id, 1, e.to_status, 'system', 'adopted', m.error_stage, m.error_code, m.error_message,
    jsonb_build_object('legacy_status', m.said), moment
  from moved m, lateral (values (1, 'meeting', m.meeting_status), (2, 'bot', m.verdict::text)) e (position, machine, to_status)
  order by m.bot_id, e.position;
  get diagnostics adopted = row_count;

  perform set_config('rollcall.adopting', '', true);
  return adopted / 2;
end;
$$;
comment on function lifecycle.adopt is
  'Adopts bots of old code (one, or all) that have no status yet: a row of history per machine, no push. Around the table of moves, so for the owner of the schema only. Returns how many.';

create function private.carry_session_status(
  thread public.workflow_threads, status text, completed_at timestamptz, error text
)
returns public.workflow_threads
language plpgsql
set search_path = ''
as $$
declare
  verdict public.bot_status := private.legacy_bot_status(status);
begin
  -- Running says nothing new of a bot that is open: bots on their way are shown to old code as running.
  if verdict = 'running' and lifecycle.is_open(thread.bot_status) or verdict = thread.bot_status then
    return thread;
  end if;
  if not lifecycle.transition_allowed('bot', thread.bot_status::text, verdict::text) then
    perform lifecycle.reject('bot', thread.bot_id, thread.owner_id, thread.bot_status::text, verdict::text,
      'system', 'illegal_transition', jsonb_build_object('bot_sessions', jsonb_build_object(
        'status', status, 'completed_at', completed_at, 'error', left(error, 1000))));
    return thread;
  end if;

  perform lifecycle.because('system', 'bot_sessions', occurred_at => completed_at, implied => '{meeting}');
  if verdict = 'failed' then
    return private.fail_bot(thread, 'LEGACY_FAILURE', coalesce(nullif(btrim(error), ''), 'Old code gave no reason.'),
      case when length(btrim(error)) > 2000 then jsonb_build_object('error', error) end);
  end if;
  update public.workflow_threads t
  set bot_status = 'completed',
    meeting_status = case when lifecycle.is_open(t.meeting_status) then 'completed' else t.meeting_status end,
    completion_reason = case
      when not lifecycle.is_open(t.meeting_status) then t.completion_reason
      when t.stop_reason is not null then t.stop_reason::text::public.meeting_completion_reason
      else 'other' end,
    transcript = private.bot_transcript(thread)
  where t.workflow_thread_id = thread.workflow_thread_id
  returning * into thread;
  return thread;
end;
$$;
comment on function private.carry_session_status is
  'Moves a bot to where old code says it is, through the guard and only forwards; what is refused is kept in status_rejections.';

create function private.claim_bot_id()
returns trigger
language plpgsql
security definer -- old code may write bot_id, not the statuses that come with it
set search_path = ''
as $$
declare
  written public.workflow_threads := new;
  stand_in public.workflow_threads;
begin
  if tg_op = 'UPDATE' then
    new.bot_id := old.bot_id;
    -- Old code knows nothing of what the migrations keep there.
    if old.metadata ?| '{legacy_bot_id,legacy_values,legacy_notes,legacy_stand_in}' then
      new.metadata := private.legacy_metadata(new.metadata) || (
        select jsonb_object_agg(m.key, m.value) from jsonb_each(old.metadata) m
        where m.key in ('legacy_bot_id', 'legacy_values', 'legacy_notes', 'legacy_stand_in')
      );
    end if;
  else
    new.bot_id := gen_random_uuid();
    -- An upsert goes on as an update.
    if exists (select from public.workflow_threads t where t.workflow_thread_id = new.workflow_thread_id) then
      new.bot_id := coalesce(written.bot_id, new.bot_id);
      return new;
    end if;
  end if;
  if written.bot_id is null or written.bot_id = new.bot_id then
    return new;
  end if;

  -- One row is one bot: a second one of a thread stays in the row that its session got.
  if new.bot_status is null then
    select * into stand_in from public.workflow_threads t where t.bot_id = written.bot_id for update;
    if stand_in.bot_id is null then
      new.bot_id := written.bot_id;
      return new;
    elsif stand_in.metadata ? 'legacy_stand_in' then
      delete from public.workflow_threads t where t.workflow_thread_id = stand_in.workflow_thread_id;
      perform set_config('rollcall.adopting', 'once', true);
      new := jsonb_populate_record(new, (
        select jsonb_object_agg(c.key, c.value) from jsonb_each(to_jsonb(stand_in)) c
        where c.key in (
          'bot_id', 'bot_status', 'bot_status_updated_at', 'bot_seq', 'bot_started_at', 'bot_completed_at',
          'meeting_status', 'meeting_status_updated_at', 'meeting_seq', 'joined_at', 'left_at', 'completion_reason',
          'failure_stage', 'error_stage', 'error_code', 'error_message', 'error_details', 'stop_requested_at',
          'stop_reason', 'stop_delay', 'deadline_at', 'version', 'platform', 'native_meeting_id', 'meeting_url',
          'process_insights'
        ) or (c.value <> 'null' and c.key in ('room_name', 'bot_config', 'transcript', 'qa_pairs', 'insights'))
      ));
      new.metadata := private.keep_legacy(
        (stand_in.metadata - 'legacy_stand_in') || private.legacy_metadata(new.metadata),
        (
          select jsonb_object_agg(k.key, k.value)
          from (values
            ('workflow_threads.room_name', case when written.room_name <> new.room_name then to_jsonb(written.room_name) end),
            ('workflow_threads.bot_config', nullif(written.bot_config, new.bot_config)),
            ('workflow_threads.qa_pairs', nullif(written.qa_pairs, new.qa_pairs)),
            ('workflow_threads.insights', nullif(written.insights, new.insights))
          ) k (key, value)
          where k.value is not null
        )
      );
      return new;
    end if;
  end if;
  new.metadata := private.legacy_metadata(new.metadata) || jsonb_build_object('legacy_bot_id', written.bot_id);
  return new;
end;
$$;
comment on function private.claim_bot_id is
  'Old code names the bot of a thread: the thread takes over what is known of that bot, or keeps its own and the id in metadata.legacy_bot_id.';

create function private.legacy_writes(allowed boolean)
returns void
language plpgsql
set search_path = ''
as $$
begin
  drop trigger if exists claim_bot_id on public.workflow_threads;
  drop trigger if exists claim_bot_id_of_new on public.workflow_threads;
  -- Statuses are in none of these: they have their RPCs and their guard.
  revoke insert, update on public.workflow_threads from service_role;
  if not allowed then
    return;
  end if;
  grant
    insert (
      workflow_thread_id, created_at, updated_at, room_name, room_url, room_id, session_id, analysis_prompt,
      summary_format_prompt, bot_enabled, bot_id, bot_config, legacy_meeting_status, meeting_start_time,
      meeting_end_time, duration, transcript_text, transcript_id, transcript_processed, transcript_processing,
      email_sent, webhook_sent, candidate_summary, insights, qa_pairs, webhook_callback_url, email_results_to,
      workflow_paused, waiting_for_meeting_ended, waiting_for_transcript_webhook, metadata, checkpoint_id,
      unkey_key_id, usage_stats, bot_join_time, bot_leave_time, bot_duration, email, provider
    ),
    update (
      workflow_thread_id, created_at, updated_at, room_name, room_url, room_id, session_id, analysis_prompt,
      summary_format_prompt, bot_enabled, bot_id, bot_config, legacy_meeting_status, meeting_start_time,
      meeting_end_time, duration, transcript_text, transcript_id, transcript_processed, transcript_processing,
      email_sent, webhook_sent, candidate_summary, insights, qa_pairs, webhook_callback_url, email_results_to,
      workflow_paused, waiting_for_meeting_ended, waiting_for_transcript_webhook, metadata, checkpoint_id,
      unkey_key_id, usage_stats, bot_join_time, bot_leave_time, bot_duration, email, provider
    )
  on public.workflow_threads to service_role;
  create trigger claim_bot_id_of_new before insert on public.workflow_threads
    for each row when (new.bot_status is null) execute function private.claim_bot_id();
  create trigger claim_bot_id before update of bot_id, metadata on public.workflow_threads
    for each row when ((old.bot_id, old.metadata) is distinct from (new.bot_id, new.metadata))
    execute function private.claim_bot_id();
end;
$$;
comment on function private.legacy_writes is 'Lets old code (service_role) write the legacy columns of workflow_threads, or no longer.';

revoke execute on function
  private.legacy_bot_status(text), private.legacy_platform(text, text), private.one_utterance(text),
  lifecycle.adopt(uuid), private.carry_session_status(public.workflow_threads, text, timestamptz, text),
  private.claim_bot_id(), private.legacy_writes(boolean)
from public, anon, authenticated, service_role;

do $$
declare
  legacy boolean := exists (
    select from pg_catalog.pg_attribute
    where attrelid = 'public.workflow_threads'::regclass and attname = 'legacy_bot_id' and not attisdropped
  );
  sessions boolean := to_regclass('public.bot_sessions') is not null;
  paused text[];
begin
  if legacy then
    lock table public.workflow_threads in share row exclusive mode;
    if sessions then
      lock table public.bot_sessions in share row exclusive mode;
    end if;
    paused := private.pause_triggers();

    -- What old code says of its bots: threads that had a bot but no session first, then the sessions.
    execute $view$
      create view private.legacy_bots as
        select t.bot_id, t.legacy_meeting_status as status,
          coalesce(t.bot_join_time, t.meeting_start_time, t.created_at) as started_at,
          coalesce(t.bot_leave_time, t.meeting_end_time) as completed_at, null::text as room_url, null::text as room_name,
          null::boolean as process_insights, null::jsonb as bot_config, null::text as transcript_text, null::jsonb as qa_pairs,
          null::jsonb as insights, null::text as error, t.created_at, t.updated_at
        from public.workflow_threads t
        where btrim(t.legacy_bot_id::text) <> ''
    $view$ || case when sessions then 'and not exists (select from public.bot_sessions b where b.bot_id = t.bot_id)' else '' end;
    perform lifecycle.adopt();
    drop view private.legacy_bots;
    if sessions then
      create view private.legacy_bots as
        select b.bot_id, b.status, b.started_at, b.completed_at, b.room_url, b.room_name, b.process_insights, b.bot_config,
          b.transcript_text, b.qa_pairs, b.insights, b.error, b.created_at, b.updated_at
        from public.bot_sessions b;
      comment on view private.legacy_bots is 'What old code says of its bots.';
      perform lifecycle.adopt();
    end if;
    -- Where the session had no words, the thread's count.
    update public.workflow_threads t set transcript = private.one_utterance(t.transcript_text)
    where t.transcript is null and t.transcript_text is not null;

    perform private.resume_triggers(paused);
    alter table public.workflow_threads drop column legacy_bot_id;
    comment on column public.workflow_threads.legacy_meeting_status is 'What old code had in meeting_status; nothing reads it.';
  end if;

  if sessions then
    revoke all on public.bot_sessions from public, anon, authenticated, service_role;
    grant select, insert, update, delete on public.bot_sessions to service_role;
    comment on table public.bot_sessions is 'The bots of old code. Its changes are carried over into workflow_threads.';
    perform private.legacy_writes(true);
  else
    drop function
      private.legacy_writes(boolean), private.claim_bot_id(), lifecycle.adopt(uuid),
      private.carry_session_status(public.workflow_threads, text, timestamptz, text),
      private.one_utterance(text), private.legacy_platform(text, text), private.legacy_bot_status(text);
    if legacy then
      drop function
        private.keep_legacy(jsonb, jsonb, jsonb), private.legacy_metadata(jsonb), private.fits_bot_config(jsonb),
        private.pause_triggers(), private.resume_triggers(text[]);
    end if;
  end if;
end;
$$;
