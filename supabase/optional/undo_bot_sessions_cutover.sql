-- The way back from the cutover: old code may write again, and dual write goes on.
-- Afterwards: supabase migration repair --status reverted 20261121002700, and hold that file back.

do $$
begin
  if to_regclass('private.legacy_bot_sessions') is null then
    raise exception 'There is no cutover to undo: private.legacy_bot_sessions is not there.';
  end if;
  lock table public.workflow_threads in share row exclusive mode;

  revoke all on public.bot_sessions from service_role;
  alter view public.bot_sessions rename to bot_sessions_of_threads;
  alter view public.bot_sessions_of_threads set schema private;
  comment on view private.bot_sessions_of_threads is 'The bots as bot_sessions has them.';

  alter table private.legacy_bot_sessions set schema public;
  alter table public.legacy_bot_sessions rename to bot_sessions;
  comment on table public.bot_sessions is 'The bots of old code. Its changes are carried over into workflow_threads.';
  grant select, insert, update, delete on public.bot_sessions to service_role;

  -- What became of the bots since.
  perform private.mirror_bot_sessions();
  alter table public.workflow_threads alter column legacy_meeting_status set default 'in_progress';
  perform private.legacy_writes(true);
  perform private.dual_write(true);
end;
$$;
