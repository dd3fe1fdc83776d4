-- The machine behind a bot: who is starting it, and what is known of it.

create function public.normalize_container_status(status_text text)
returns public.container_status
language sql
immutable
set search_path = ''
as $$
  select case
    when lower(status_text) like 'up%' then 'Up'
    when lower(status_text) like 'exited%' or lower(status_text) like '%dead%' then 'Exited'
    when lower(status_text) like '%restarting%' or lower(status_text) like '%starting%' then 'Starting'
    when lower(status_text) = 'created' then 'Requested'
    when lower(status_text) = 'started' then 'Up'
    when lower(status_text) = 'stopping' then 'Stopping'
    when lower(status_text) in ('stopped', 'destroyed') then 'Exited'
    when lower(status_text) = 'failed' then 'Failed'
  end::public.container_status
$$;
comment on function public.normalize_container_status is 'The container status behind what Docker or Fly says, whatever its case; null for what nobody knows.';

create function private.stale_launch()
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select '{"ok": false, "code": "stale_lease"}'::jsonb
$$;

create function public.claim_launch(worker text)
returns jsonb
language plpgsql
security definer -- API roles may not write threads
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  thread public.workflow_threads;
begin
  update public.workflow_threads t
  set launch_token = gen_random_uuid(),
    launch_due_at = moment + (select s.launch_lease from lifecycle.settings s),
    launch_attempts = t.launch_attempts + 1
  where t.workflow_thread_id = (
    select due.workflow_thread_id from public.workflow_threads due
    where due.launch_due_at <= moment
    order by (
      select count(*) from public.workflow_threads live
      where live.owner_id = due.owner_id and live.launch_due_at > moment
    ), due.launch_due_at
    limit 1 for update skip locked
  )
  returning * into thread;
  if thread.bot_id is null then
    return null;
  end if;
  return jsonb_build_object(
    'bot_id', thread.bot_id, 'workflow_thread_id', thread.workflow_thread_id,
    'launch_token', thread.launch_token, 'attempts', thread.launch_attempts, 'worker', worker,
    'platform', thread.platform, 'native_meeting_id', thread.native_meeting_id, 'meeting_url', thread.meeting_url,
    'bot_name', thread.bot_name, 'bot_config', thread.bot_config,
    'passcode', (select s.passcode from private.bot_secrets s where s.bot_id = thread.bot_id)
  );
end;
$$;
comment on function public.claim_launch is
  'Takes up a launch that nobody finished, with a lease and a new launch_token; null where there is none. Look for a machine of the bot first: it may have been created.';

create function public.replace_callback_token(bot_id uuid, launch_token uuid, token_hash text)
returns jsonb
language plpgsql
security definer -- the token's hash is unreadable and unwritable for API roles
set search_path = ''
as $$
begin
  perform from public.workflow_threads t
  where t.bot_id = replace_callback_token.bot_id and t.launch_token = replace_callback_token.launch_token
    and t.launch_due_at is not null
  for update;
  if not found then
    return private.stale_launch();
  end if;
  update private.bot_secrets s set token_hash = decode(replace_callback_token.token_hash, 'hex')
  where s.bot_id = replace_callback_token.bot_id;
  return '{"ok": true, "result": "processed", "changed": true}';
end;
$$;
comment on function public.replace_callback_token is 'A new machine gets a new callback token: token_hash is its SHA-256 as hex. { ok: false, code: stale_lease } when another attempt has the launch.';

create function public.record_container(bot_id uuid, launch_token uuid, container_id text, status_text text)
returns jsonb
language plpgsql
security definer -- API roles may not write threads
set search_path = ''
as $$
declare
  thread public.workflow_threads;
  normal public.container_status := public.normalize_container_status(status_text);
begin
  select * into thread from public.workflow_threads t where t.bot_id = record_container.bot_id for update;
  if thread.launch_token is distinct from record_container.launch_token then
    return private.stale_launch();
  end if;
  perform lifecycle.because('worker', details => jsonb_build_object('container_id', container_id, 'status', status_text));
  update public.workflow_threads t
  set container_id = record_container.container_id,
    container_status = coalesce(normal, t.container_status),
    container_status_raw = status_text,
    container_seen_at = lifecycle.now(),
    -- Up or ended, the launch is done; a machine that is neither is looked after until it is.
    launch_due_at = case when normal in ('Up', 'Exited', 'Failed') then null else t.launch_due_at end,
    -- Asked after even where no status moves, and at once when the bot has ended meanwhile.
    probe_due_at = lifecycle.now() + case
      when lifecycle.is_open(t.meeting_status) then private.probe_grace(t.meeting_status) else interval '0' end,
    bot_status = case when normal = 'Up' and t.bot_status = 'pending' then 'starting' else t.bot_status end
  where t.workflow_thread_id = thread.workflow_thread_id
  returning * into thread;
  -- Nothing moved: the reason must not stick to the next move of this transaction.
  perform set_config('rollcall.because', '', true);
  return private.bot_json(thread) || jsonb_build_object(
    'ok', true, 'result', 'processed', 'changed', true,
    'stop_requested', thread.stop_requested_at is not null or not lifecycle.is_open(thread.meeting_status));
end;
$$;
comment on function public.record_container is
  'Stores what the machines API says of a bot''s machine; Up moves pending to starting. Returns the row with stop_requested: true means destroy it at once. { ok: false, code: stale_lease } when another attempt has the launch.';

create function public.fail_launch(
  bot_id uuid, launch_token uuid, error_code text, error_message text, error_details jsonb default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write threads
set search_path = ''
as $$
declare
  thread public.workflow_threads;
begin
  select * into thread from public.workflow_threads t where t.bot_id = fail_launch.bot_id for update;
  if thread.launch_token is distinct from fail_launch.launch_token or thread.launch_due_at is null then
    return private.stale_launch();
  end if;
  update public.workflow_threads t
  set container_status = 'Failed', launch_due_at = null
  where t.workflow_thread_id = thread.workflow_thread_id
  returning * into thread;
  if thread.meeting_status <> 'requested' then
    -- The bot is there after all: its callbacks came before the machines API answered.
    return private.bot_json(thread) || '{"ok": true, "result": "ignored", "changed": false}';
  end if;
  perform lifecycle.because('worker', error_message);
  thread := private.fail_bot(thread, error_code, error_message, error_details);
  return private.bot_json(thread) || '{"ok": true, "result": "processed", "changed": true}';
end;
$$;
comment on function public.fail_launch is 'The machine can not be created: the bot is failed at machine_start.';

revoke execute on function private.stale_launch() from public, anon, authenticated, service_role;
revoke execute on function
  public.normalize_container_status(text),
  public.claim_launch(text),
  public.replace_callback_token(uuid, uuid, text),
  public.record_container(uuid, uuid, text, text),
  public.fail_launch(uuid, uuid, text, text, jsonb)
from public, anon, authenticated;
grant execute on function
  public.normalize_container_status(text),
  public.claim_launch(text),
  public.replace_callback_token(uuid, uuid, text),
  public.record_container(uuid, uuid, text, text),
  public.fail_launch(uuid, uuid, text, text, jsonb)
to service_role;
