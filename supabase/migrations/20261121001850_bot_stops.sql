-- Stopping: the intent is stored first and dominates whatever comes later.

create function public.stop_bot(
  owner_id uuid default null, bot_id uuid default null, platform text default null, native_meeting_id text default null,
  delay_s int default 30, actor uuid default null, reason text default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write threads
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  fast_path interval := (select s.stop_fast_path from lifecycle.settings s);
  thread public.workflow_threads;
  newest public.workflow_threads;
  bots jsonb := '[]';
  machines jsonb := '[]';
  found_open boolean := false;
  changed boolean := false;
begin
  if bot_id is null and (owner_id is null or platform is null or native_meeting_id is null) then
    perform lifecycle.refuse_input('bot_id', 'or owner_id, platform and native_meeting_id, is needed.');
  end if;
  if delay_s is null or delay_s not between 1 and 3600 then
    perform lifecycle.refuse_input('delay_s', 'must be a whole number of seconds from 1 to 3600.');
  end if;

  for thread in
    select * from public.workflow_threads t
    where t.bot_status is not null
      and (stop_bot.owner_id is null or t.owner_id = stop_bot.owner_id)
      and (
        t.bot_id = stop_bot.bot_id
        or (stop_bot.bot_id is null and t.platform = private.to_platform(stop_bot.platform)
          and t.native_meeting_id = stop_bot.native_meeting_id)
      )
    order by t.workflow_thread_id for update
  loop
    if newest.created_at is null or thread.created_at > newest.created_at then
      newest := thread;
    end if;
    continue when not lifecycle.is_open(thread.meeting_status);
    found_open := true;
    if thread.stop_requested_at is null then
      changed := true;
      update public.workflow_threads t
      set stop_requested_at = moment, stop_reason = 'stopped', stop_delay = make_interval(secs => delay_s)
      where t.workflow_thread_id = thread.workflow_thread_id
      returning * into thread;
      perform lifecycle.because('user', left(nullif(btrim(stop_bot.reason), ''), 500), case when actor is not null then jsonb_build_object('actor', actor) end);
      if (thread.meeting_status = 'requested' and thread.container_id is null)
        or (thread.joined_at is null and moment < thread.created_at + fast_path)
      then
        thread := private.leave_meeting(thread, 'stopped');
        if private.may_have_a_machine(thread) then
          machines := machines || jsonb_build_object('bot_id', thread.bot_id, 'container_id', thread.container_id, 'action', 'destroy');
        end if;
      else
        update public.workflow_threads t
        set meeting_status = 'stopping',
          container_status = case when private.may_have_a_machine(t) then 'Stopping' else t.container_status end
        where t.workflow_thread_id = thread.workflow_thread_id
        returning * into thread;
        if private.may_have_a_machine(thread) then
          machines := machines || jsonb_build_object('bot_id', thread.bot_id, 'container_id', thread.container_id, 'action', 'stop');
        end if;
      end if;
    end if;
    bots := bots || private.bot_json(thread);
  end loop;

  if newest.bot_id is null then
    return '{"ok": false, "code": "bot_not_found", "message": "No meeting found to stop."}';
  elsif not found_open then
    return jsonb_build_object('ok', true, 'changed', false, 'result', 'unchanged',
      'message', format('Meeting already %s.', newest.meeting_status),
      'bots', jsonb_build_array(private.bot_json(newest)), 'machines', machines);
  end if;
  return jsonb_build_object('ok', true, 'changed', changed, 'result', case when changed then 'processed' else 'unchanged' end,
    'message', 'Stop request accepted.', 'bots', bots, 'machines', machines);
end;
$$;
comment on function public.stop_bot is
  'Stops a bot, or all bots of an owner in a meeting. Returns { message, bots, machines: [{ bot_id, container_id, action: stop | destroy }] }: the caller does with the machines what it says. { ok: false, code: bot_not_found }. delay_s: how long the bots may take to leave. reason: what the history says of it, at most 500 characters.';

revoke execute on function public.stop_bot(uuid, uuid, text, text, int, uuid, text) from public, anon, authenticated;
grant execute on function public.stop_bot(uuid, uuid, text, text, int, uuid, text) to service_role;
