-- Old code only reads from here on: bot_sessions becomes a view of workflow_threads. Hold this file back for as long
-- as old code writes. The table is kept aside, out of the API, for the way back (supabase/optional).

do $$
declare
  lost bigint;
begin
  if to_regclass('public.bot_sessions') is null then
    return;
  end if;
  lock table public.workflow_threads, public.bot_sessions in access exclusive mode;
  select count(*) into lost from public.bot_sessions b
  where not exists (select from private.bot_sessions_of_threads v where v.bot_id = b.bot_id);
  if lost > 0 then
    raise exception '% rows of bot_sessions have no bot: call lifecycle.adopt(), then push again.', lost;
  end if;

  perform private.dual_write(false);
  perform private.legacy_writes(false);
  alter table public.workflow_threads alter column legacy_meeting_status drop default;

  revoke all on public.bot_sessions from public, anon, authenticated, service_role;
  alter table public.bot_sessions rename to legacy_bot_sessions;
  alter table public.legacy_bot_sessions set schema private;
  comment on table private.legacy_bot_sessions is 'bot_sessions as it was at the cutover; nothing reads or writes it.';

  alter view private.bot_sessions_of_threads set schema public;
  alter view public.bot_sessions_of_threads rename to bot_sessions;
  comment on view public.bot_sessions is 'The bots as old code knows them, read-only: running stands for pending, starting and running.';
  revoke all on public.bot_sessions from public, anon, authenticated, service_role;
  grant select on public.bot_sessions to service_role;
end;
$$;
