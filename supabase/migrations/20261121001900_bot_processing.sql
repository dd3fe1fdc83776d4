-- Turning a transcript into a result: claimed with a lease, three attempts, never swallowed.

create function public.claim_processing(worker text)
returns jsonb
language plpgsql
security definer -- API roles may not write threads
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  settings lifecycle.settings;
  thread public.workflow_threads;
begin
  select * into settings from lifecycle.settings;
  loop
    update public.workflow_threads t
    set processing_token = gen_random_uuid(),
      processing_due_at = moment + settings.processing_lease,
      processing_attempts = t.processing_attempts + 1
    where t.workflow_thread_id = (
      select due.workflow_thread_id from public.workflow_threads due
      where due.processing_due_at <= moment
      order by (
        select count(*) from public.workflow_threads live
        where live.owner_id = due.owner_id and live.processing_due_at > moment and live.processing_token is not null
      ), due.processing_due_at
      limit 1 for update skip locked
    )
    returning * into thread;
    if thread.bot_id is null then
      return null;
    end if;
    exit when thread.processing_attempts <= settings.processing_attempts;
    -- Whoever made the last attempt never said what came of it: nobody makes another, and nothing is waited for.
    perform lifecycle.because('system', details => jsonb_build_object('attempts', settings.processing_attempts));
    perform private.fail_bot(thread, 'TRANSCRIPT_PROCESSING_FAILED', 'The worker that made the last attempt at the result was lost.');
  end loop;
  return jsonb_build_object(
    'bot_id', thread.bot_id, 'workflow_thread_id', thread.workflow_thread_id,
    'processing_token', thread.processing_token, 'attempt', thread.processing_attempts, 'worker', worker,
    'transcript', thread.transcript, 'bot_name', thread.bot_name, 'platform', thread.platform,
    'meeting_url', thread.meeting_url, 'bot_config', thread.bot_config
  );
end;
$$;
comment on function public.claim_processing is
  'Takes a transcript to work on, with a lease and a processing_token; owners with the fewest live leases first, then the oldest. Null where nothing is due. A bot whose last attempt was lost with its worker is failed.';

create function private.lock_processing(workflow_thread_id text, processing_token uuid)
returns public.workflow_threads
language plpgsql
set search_path = ''
as $$
declare
  thread public.workflow_threads;
begin
  select * into thread from public.workflow_threads t
  where t.workflow_thread_id = lock_processing.workflow_thread_id
    and t.processing_token = lock_processing.processing_token and t.processing_due_at is not null
  for update;
  return thread;
end;
$$;
comment on function private.lock_processing is 'Locks the thread for the worker that holds this token; a row of nulls when another attempt has it, or it has ended.';

create function public.renew_processing(workflow_thread_id text, processing_token uuid)
returns jsonb
language plpgsql
security definer -- API roles may not write threads
set search_path = ''
as $$
declare
  thread public.workflow_threads := private.lock_processing(workflow_thread_id, processing_token);
begin
  if thread.bot_id is null then
    return '{"ok": false, "code": "stale_lease"}';
  end if;
  update public.workflow_threads t
  set processing_due_at = lifecycle.now() + (select s.processing_lease from lifecycle.settings s)
  where t.workflow_thread_id = thread.workflow_thread_id;
  return '{"ok": true, "result": "processed", "changed": true}';
end;
$$;
comment on function public.renew_processing is 'Renews the lease on a transcript; { ok: false, code: stale_lease } for an old token.';

create function public.complete_processing(workflow_thread_id text, processing_token uuid, qa_pairs jsonb, insights jsonb)
returns jsonb
language plpgsql
security definer -- API roles may not write threads
set search_path = ''
as $$
declare
  thread public.workflow_threads := private.lock_processing(workflow_thread_id, processing_token);
begin
  if thread.bot_id is null then
    return '{"ok": false, "code": "stale_lease"}';
  end if;
  if jsonb_typeof(qa_pairs) is distinct from 'array' then
    perform lifecycle.refuse_input('qa_pairs', 'must be an array.');
  elsif jsonb_typeof(insights) is distinct from 'object' then
    perform lifecycle.refuse_input('insights', 'must be an object.');
  end if;
  perform lifecycle.because('worker');
  update public.workflow_threads t
  set bot_status = 'completed', qa_pairs = complete_processing.qa_pairs, insights = complete_processing.insights
  where t.workflow_thread_id = thread.workflow_thread_id
  returning * into thread;
  return private.bot_json(thread) || '{"ok": true, "result": "processed", "changed": true}';
end;
$$;
comment on function public.complete_processing is 'Stores the result of a meeting and completes the bot; { ok: false, code: stale_lease } for an old token.';

create function public.fail_processing(
  workflow_thread_id text, processing_token uuid, error_message text, error_details jsonb default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write threads
set search_path = ''
as $$
declare
  thread public.workflow_threads := private.lock_processing(workflow_thread_id, processing_token);
  settings lifecycle.settings;
begin
  if thread.bot_id is null then
    return '{"ok": false, "code": "stale_lease"}';
  end if;
  select * into settings from lifecycle.settings;
  if thread.processing_attempts < settings.processing_attempts then
    update public.workflow_threads t
    set processing_token = null,
      processing_due_at = lifecycle.now() + settings.processing_backoff * (4 ^ (thread.processing_attempts - 1))
    where t.workflow_thread_id = thread.workflow_thread_id
    returning * into thread;
    return private.bot_json(thread) || '{"ok": true, "result": "retrying", "changed": true}';
  end if;
  perform lifecycle.because('worker', error_message, jsonb_build_object('attempts', thread.processing_attempts));
  thread := private.fail_bot(thread, 'TRANSCRIPT_PROCESSING_FAILED', error_message, error_details);
  return private.bot_json(thread) || '{"ok": true, "result": "processed", "changed": true}';
end;
$$;
comment on function public.fail_processing is
  'An attempt at a result failed: tried again after 5 s, then 20 s; the third error fails the bot with TRANSCRIPT_PROCESSING_FAILED and keeps the transcript.';

revoke execute on function private.lock_processing(text, uuid) from public, anon, authenticated, service_role;
revoke execute on function
  public.claim_processing(text), public.renew_processing(text, uuid),
  public.complete_processing(text, uuid, jsonb, jsonb), public.fail_processing(text, uuid, text, jsonb)
from public, anon, authenticated;
grant execute on function
  public.claim_processing(text), public.renew_processing(text, uuid),
  public.complete_processing(text, uuid, jsonb, jsonb), public.fail_processing(text, uuid, text, jsonb)
to service_role;
