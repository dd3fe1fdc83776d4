-- Asking for a bot: dedupe, cap, row, history, token and receipt in one transaction.

create table private.idempotency_receipts (
  owner_id uuid,
  key text constraint key_is_short check (length(key) between 1 and 255),
  request_hash bytea not null,
  answer jsonb not null,
  created_at timestamptz not null,
  primary key (owner_id, key)
);
create index idempotency_receipts_by_age on private.idempotency_receipts (created_at);
comment on table private.idempotency_receipts is 'The first answer to a request that carried an Idempotency-Key, for 24 h.';
alter table private.idempotency_receipts enable row level security;
revoke all on private.idempotency_receipts from public, anon, authenticated, service_role;

create function public.request_bot(
  owner_id uuid,
  token_hash text,
  platform text default null,
  native_meeting_id text default null,
  meeting_url text default null,
  passcode text default null,
  bot_name text default null,
  bot_config jsonb default null,
  process_insights boolean default null,
  webhook_url text default null,
  metadata jsonb default null,
  retry_of text default null,
  launch boolean default true,
  idempotency_key text default null,
  max_open int default null,
  actor uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write threads, secrets or receipts
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  request_hash bytea;
  receipt private.idempotency_receipts;
  earlier public.workflow_threads;
  thread public.workflow_threads;
  wanted_platform public.meeting_platform;
  launch_lease interval;
  open_bot uuid;
  said text;
  answer jsonb;
begin
  if owner_id is null then
    perform lifecycle.refuse_input('owner_id', 'is needed: a bot belongs to somebody.');
  end if;
  -- Assignments, since plpgsql makes a whole query of each perform.
  said := pg_advisory_xact_lock(hashtextextended('bots of ' || owner_id, 0));

  if idempotency_key is not null then
    request_hash := sha256(convert_to(jsonb_build_array(
      platform, native_meeting_id, meeting_url, passcode, bot_name, bot_config, process_insights, webhook_url,
      metadata, retry_of, launch)::text, 'utf8'));
    select * into receipt from private.idempotency_receipts r
    where r.owner_id = request_bot.owner_id and r.key = idempotency_key
      and r.created_at > moment - (select s.receipt_retention from lifecycle.settings s);
    if receipt.request_hash = request_hash then
      return receipt.answer || '{"result": "replayed", "changed": false}';
    elsif receipt.request_hash is not null then
      return '{"ok": false, "code": "idempotency_key_reused"}';
    end if;
  end if;

  if retry_of is not null then
    select * into earlier from public.workflow_threads t
    where (t.workflow_thread_id = request_bot.retry_of or t.bot_id::text = request_bot.retry_of)
      and t.owner_id = request_bot.owner_id and t.bot_status is not null;
    if earlier.workflow_thread_id is null then
      return '{"ok": false, "code": "bot_not_found"}';
    elsif lifecycle.is_open(earlier.bot_status) then
      return jsonb_build_object('ok', false, 'code', 'not_ended', 'bot_id', earlier.bot_id);
    end if;
    -- Another meeting has another URL and another passcode.
    if platform is null and native_meeting_id is null and meeting_url is null then
      platform := earlier.platform;
      native_meeting_id := earlier.native_meeting_id;
      meeting_url := earlier.meeting_url;
      passcode := coalesce(passcode, (select s.passcode from private.bot_secrets s where s.bot_id = earlier.bot_id));
    end if;
  end if;
  if platform is null or native_meeting_id is null then
    perform lifecycle.refuse_input(case when platform is null then 'platform' else 'native_meeting_id' end, 'is needed.');
  end if;

  wanted_platform := private.to_platform(platform);
  select t.bot_id into open_bot from public.workflow_threads t
  where t.owner_id = request_bot.owner_id and t.platform = wanted_platform
    and t.native_meeting_id = request_bot.native_meeting_id and lifecycle.is_attending(t.meeting_status);
  if open_bot is not null then
    return jsonb_build_object('ok', false, 'code', 'already_open', 'bot_id', open_bot);
  end if;
  if max_open is not null then
    if max_open <= (
      select count(*) from public.workflow_threads t
      where t.owner_id = request_bot.owner_id and lifecycle.is_attending(t.meeting_status)
    ) then
      return jsonb_build_object('ok', false, 'code', 'limit_reached', 'limit', max_open);
    end if;
  end if;

  if launch then
    launch_lease := (select s.launch_lease from lifecycle.settings s);
  end if;
  if actor is not null then
    said := lifecycle.because('user', details => jsonb_build_object('actor', actor));
  end if;
  insert into public.workflow_threads as t (
    owner_id, retry_of, platform, native_meeting_id, meeting_url, bot_name, bot_config, process_insights, webhook_url,
    metadata, launched, container_status, launch_token, launch_due_at, launch_attempts, bot_status, meeting_status
  )
  values (
    owner_id, earlier.workflow_thread_id, platform::public.meeting_platform, native_meeting_id, meeting_url,
    coalesce(bot_name, earlier.bot_name),
    coalesce(bot_config, earlier.bot_config, '{}'),
    coalesce(process_insights, earlier.process_insights, true),
    coalesce(webhook_url, earlier.webhook_url),
    coalesce(metadata, earlier.metadata, '{}'),
    launch,
    case when launch then 'Requested'::public.container_status end,
    case when launch then gen_random_uuid() end,
    moment + launch_lease,
    launch::int,
    'pending', 'requested'
  )
  returning * into thread;
  insert into private.bot_secrets (bot_id, token_hash, passcode)
  values (thread.bot_id, decode(token_hash, 'hex'), passcode);

  answer := jsonb_build_object(
    'ok', true, 'changed', true, 'result', 'created',
    'workflow_thread_id', thread.workflow_thread_id,
    'bot_id', thread.bot_id,
    'retry_of', thread.retry_of,
    'platform', thread.platform,
    'native_meeting_id', thread.native_meeting_id,
    'meeting_url', thread.meeting_url,
    'room_url', thread.meeting_url,
    'bot_name', thread.bot_name,
    'bot_config', thread.bot_config,
    'process_insights', thread.process_insights,
    'webhook_url', thread.webhook_url,
    'status', thread.bot_status,
    'bot_status', thread.bot_status,
    'meeting_status', thread.meeting_status,
    'container_status', thread.container_status,
    'error', null,
    'created_at', thread.created_at,
    'topic', 'bot:' || thread.bot_id
  );
  if idempotency_key is not null then
    insert into private.idempotency_receipts as r (owner_id, key, request_hash, answer, created_at)
    values (owner_id, idempotency_key, request_hash, answer, moment)
    on conflict on constraint idempotency_receipts_pkey
    do update set request_hash = excluded.request_hash, answer = excluded.answer, created_at = excluded.created_at;
  end if;
  return answer || jsonb_build_object('launch_token', thread.launch_token, 'passcode', passcode);
end;
$$;
comment on function public.request_bot is
  'Asks for a bot. token_hash: SHA-256 of its callback token, as hex. Null means absent; with retry_of (an ended bot of the owner) the earlier settings are the defaults. max_open: how many bots the owner may have attending. Returns what was asked for with launch_token, or { ok: false, code: already_open | limit_reached | idempotency_key_reused | bot_not_found | not_ended }.';

revoke execute on function public.request_bot(
  uuid, text, text, text, text, text, text, jsonb, boolean, text, jsonb, text, boolean, text, int, uuid
) from public, anon, authenticated;
grant execute on function public.request_bot(
  uuid, text, text, text, text, text, text, jsonb, boolean, text, jsonb, text, boolean, text, int, uuid
) to service_role;
