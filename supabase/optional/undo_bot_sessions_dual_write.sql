-- The way back from dual write: old code keeps its table and its columns, Rollcall keeps what it adopted, and neither
-- hears of the other. Pushed again, the migration catches up with both.
-- Afterwards: supabase migration repair --status reverted 20261121002600, and hold that file back.

do $$
begin
  if to_regclass('private.bot_sessions_of_threads') is null then
    raise exception 'There is no dual write to undo: undo the cutover first, if there was one.';
  end if;
  perform private.dual_write(false);
end;
$$;
drop view private.bot_sessions_of_threads;
drop index public.workflow_threads_by_room_name;
drop function
  private.dual_write(boolean), private.refuse_bot_session(), private.mirror_bot(), private.mirror_bot_sessions(uuid), private.carry_bot_session();
