-- The end of bot_sessions: copy this file into supabase/migrations under a new timestamp once nothing reads it any
-- more. workflow_threads keeps every bot and every result, and its legacy columns. There is no way back.

do $$
begin
  if to_regclass('public.bot_sessions') is not null and to_regclass('private.legacy_bot_sessions') is null then
    raise exception 'bot_sessions is still the table of old code: push the cutover first.';
  end if;
end;
$$;

drop view if exists public.bot_sessions;
drop view if exists private.legacy_bots;
drop table if exists private.legacy_bot_sessions;
drop index if exists public.workflow_threads_by_room_name;
drop function if exists private.dual_write(boolean);
drop function if exists private.refuse_bot_session();
drop function if exists private.mirror_bot();
drop function if exists private.mirror_bot_sessions(uuid);
drop function if exists private.carry_bot_session();
drop function if exists private.carry_session_status(public.workflow_threads, text, timestamptz, text);
drop function if exists private.legacy_writes(boolean);
drop function if exists private.claim_bot_id();
drop function if exists lifecycle.adopt(uuid);
drop function if exists private.one_utterance(text);
drop function if exists private.legacy_platform(text, text);
drop function if exists private.legacy_bot_status(text);
drop function if exists private.keep_legacy(jsonb, jsonb, jsonb);
drop function if exists private.legacy_metadata(jsonb);
drop function if exists private.fits_bot_config(jsonb);
drop function if exists private.pause_triggers();
drop function if exists private.resume_triggers(text[]);
