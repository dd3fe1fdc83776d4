-- Running a flow, cancelling and retrying: what a person asks for.

create function private.replayed(owner_id uuid, idempotency_key text, request_hash bytea)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  receipt private.idempotency_receipts;
begin
  if idempotency_key is null then
    return null;
  end if;
  -- The same request twice at once: the second waits for the receipt of the first.
  perform pg_advisory_xact_lock(hashtextextended(format('receipt %s %s', owner_id, idempotency_key), 0));
  select * into receipt from private.idempotency_receipts r
  where r.owner_id = replayed.owner_id and r.key = idempotency_key
    and r.created_at > lifecycle.now() - (select s.receipt_retention from lifecycle.settings s);
  if receipt.key is null then
    return null;
  elsif receipt.request_hash = replayed.request_hash then
    return receipt.answer || '{"result": "replayed", "changed": false}';
  end if;
  return '{"ok": false, "code": "idempotency_key_reused"}';
end;
$$;
comment on function private.replayed is 'The first answer to this request if it was made before, a refusal if another was made with its key, null for a new one.';

create function private.keep_receipt(owner_id uuid, idempotency_key text, request_hash bytea, answer jsonb)
returns void
language plpgsql
set search_path = ''
as $$
begin
  if idempotency_key is null then
    return;
  end if;
  insert into private.idempotency_receipts as r (owner_id, key, request_hash, answer, created_at)
  values (owner_id, idempotency_key, request_hash, answer, lifecycle.now())
  on conflict on constraint idempotency_receipts_pkey
  do update set request_hash = excluded.request_hash, answer = excluded.answer, created_at = excluded.created_at;
end;
$$;
comment on function private.keep_receipt is 'Keeps the answer to a request that carried an Idempotency-Key.';

create function private.no_execution(flow_id uuid, owner_id uuid)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  prompts int;
begin
  -- Nothing moved: the reason must not stick to the next move of this transaction.
  perform set_config('rollcall.because', '', true);
  select jsonb_array_length(f.prompts) into prompts from public.task_flows f
  where f.id = no_execution.flow_id and f.deleted_at is null
    and (no_execution.owner_id is null or f.owner_id = no_execution.owner_id);
  if prompts is not null then
    perform lifecycle.refuse_input('total_prompts', format('must be the number of prompts of the flow, %s.', prompts));
  end if;
  return '{"ok": false, "code": "flow_not_found"}';
end;
$$;
comment on function private.no_execution is 'Why a flow can not be run: there is none, or it has another number of prompts (PT422).';

create function public.create_execution(
  flow_id uuid, total_prompts int default null, owner_id uuid default null,
  idempotency_key text default null, actor uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write executions
set search_path = ''
as $$
declare
  request_hash bytea;
  execution public.flow_executions;
  answer jsonb;
  said text;
  is_woken boolean;
begin
  if idempotency_key is not null then
    request_hash := sha256(convert_to(concat_ws(' ', 'run', flow_id, total_prompts), 'utf8'));
    -- A replay is answered even when the flow is gone meanwhile.
    answer := private.replayed(coalesce(owner_id, (
      select f.owner_id from public.task_flows f where f.id = create_execution.flow_id and f.deleted_at is null
    )), idempotency_key, request_hash);
    if answer is not null then
      return answer;
    end if;
  end if;

  if actor is not null then
    said := lifecycle.because('user', details => jsonb_build_object('actor', actor));
  end if;
  insert into public.flow_executions as e (flow_id, owner_id, flow_name, prompts, agent, total_prompts)
  select f.id, f.owner_id, f.name, f.prompts, f.agent, jsonb_array_length(f.prompts)
  from public.task_flows f
  where f.id = create_execution.flow_id and f.deleted_at is null
    and (create_execution.owner_id is null or f.owner_id = create_execution.owner_id)
    and (create_execution.total_prompts is null or jsonb_array_length(f.prompts) = create_execution.total_prompts)
  returning * into execution;
  if execution.id is null then
    return private.no_execution(flow_id, owner_id);
  end if;
  answer := private.execution_json(execution) || '{"ok": true, "changed": true, "result": "created"}';
  if idempotency_key is not null then
    perform private.keep_receipt(execution.owner_id, idempotency_key, request_hash, answer);
  end if;
  is_woken := lifecycle.wake_lane('prompts', execution.created_at);
  return answer;
end;
$$;
comment on function public.create_execution is
  'Runs a flow: a worker takes it at once. total_prompts, if given, must be the flow''s. Returns the execution, or { ok: false, code: flow_not_found | idempotency_key_reused }.';

create function private.lock_execution(id uuid, owner_id uuid)
returns public.flow_executions
language plpgsql
set search_path = ''
as $$
declare
  execution public.flow_executions;
begin
  select * into execution from public.flow_executions e
  where e.id = lock_execution.id and (lock_execution.owner_id is null or e.owner_id = lock_execution.owner_id)
  for update;
  return execution;
end;
$$;
comment on function private.lock_execution is 'Locks an execution; a row of nulls where there is none, or it is not this owner''s.';

create function private.fail_execution(id uuid, error_code text, error text, error_details jsonb default null)
returns public.flow_executions
language plpgsql
set search_path = ''
as $$
declare
  execution public.flow_executions;
begin
  update public.flow_executions e
  set status = 'failed', error_code = fail_execution.error_code,
    error = left(coalesce(
      nullif(btrim(fail_execution.error), ''),
      (select c.meaning from public.error_codes c where c.code = fail_execution.error_code),
      'It failed, and nobody said why.'), 2000),
    error_details = lifecycle.cut(fail_execution.error_details, 65536)
  where e.id = fail_execution.id
  returning * into execution;
  return execution;
end;
$$;
comment on function private.fail_execution is 'Ends an execution as failed, never without a sentence; the caller holds its lock and said because().';

create function public.cancel_execution(id uuid, owner_id uuid default null, actor uuid default null)
returns jsonb
language plpgsql
security definer -- API roles may not write executions
set search_path = ''
as $$
declare
  execution public.flow_executions := private.lock_execution(id, owner_id);
begin
  if execution.id is null then
    return '{"ok": false, "code": "execution_not_found"}';
  elsif execution.status <> 'running' then
    return jsonb_build_object('ok', false, 'code', 'already_ended', 'current', execution.status, 'allowed', '[]'::jsonb);
  end if;
  -- Its worker holds a token of the past from now on: a late answer is dropped.
  update public.flow_executions e set lease_token = null where e.id = execution.id;
  perform lifecycle.because('user', details => case when actor is not null then jsonb_build_object('actor', actor) end);
  execution := private.fail_execution(execution.id, 'CANCELLED',
    format('It was cancelled at prompt %s of %s.', execution.current_prompt_index + 1, execution.total_prompts));
  return private.execution_json(execution) || '{"ok": true, "changed": true, "result": "processed"}';
end;
$$;
comment on function public.cancel_execution is
  'Ends a running execution at once: failed, CANCELLED; or { ok: false, code: already_ended | execution_not_found }.';

create function public.retry_execution(
  id uuid, retry_from text default 'start', owner_id uuid default null,
  idempotency_key text default null, actor uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write executions
set search_path = ''
as $$
declare
  request_hash bytea := sha256(convert_to(concat_ws(' ', 'retry', id, retry_from), 'utf8'));
  earlier public.flow_executions := private.lock_execution(id, owner_id);
  execution public.flow_executions;
  answer jsonb;
begin
  if earlier.id is null then
    return '{"ok": false, "code": "execution_not_found"}';
  elsif coalesce(retry_from not in ('start', 'failed_prompt'), true) then
    perform lifecycle.refuse_input('from', 'must be start or failed_prompt.');
  end if;
  answer := private.replayed(earlier.owner_id, idempotency_key, request_hash);
  if answer is not null then
    return answer;
  elsif earlier.status <> 'failed' then
    return jsonb_build_object('ok', false, 'code', 'not_failed', 'current', earlier.status,
      'allowed', lifecycle.allowed_from('flow_execution', earlier.status::text));
  end if;

  perform lifecycle.because('user', 'retry', jsonb_strip_nulls(jsonb_build_object(
    'retry_of', earlier.id, 'from', retry_from, 'actor', actor)));
  insert into public.flow_executions as e (
    flow_id, owner_id, flow_name, prompts, agent, total_prompts, current_prompt_index, retry_of, attempt
  )
  values (
    earlier.flow_id, earlier.owner_id, earlier.flow_name, earlier.prompts, earlier.agent, earlier.total_prompts,
    case when retry_from = 'failed_prompt' then earlier.current_prompt_index else 0 end, earlier.id, earlier.attempt + 1
  )
  returning * into execution;
  insert into public.flow_prompt_results (
    execution_id, prompt_index, owner_id, attempts, duration_ms, omitted_pairs, completed_at, response, usage
  )
  select execution.id, r.prompt_index, r.owner_id, r.attempts, r.duration_ms, r.omitted_pairs, r.completed_at, r.response, r.usage
  from public.flow_prompt_results r
  where r.execution_id = earlier.id and r.prompt_index < execution.current_prompt_index;

  answer := private.execution_json(execution) || '{"ok": true, "changed": true, "result": "created"}';
  perform private.keep_receipt(earlier.owner_id, idempotency_key, request_hash, answer);
  perform lifecycle.wake_lane('prompts');
  return answer;
end;
$$;
comment on function public.retry_execution is
  'Runs a failed execution again, as a new one with retry_of: from start, or from failed_prompt with the earlier results; or { ok: false, code: not_failed | execution_not_found | idempotency_key_reused }.';

revoke execute on function
  private.replayed(uuid, text, bytea), private.keep_receipt(uuid, text, bytea, jsonb), private.no_execution(uuid, uuid),
  private.lock_execution(uuid, uuid),
  private.fail_execution(uuid, text, text, jsonb)
from public, anon, authenticated, service_role;
revoke execute on function
  public.create_execution(uuid, int, uuid, text, uuid), public.cancel_execution(uuid, uuid, uuid),
  public.retry_execution(uuid, text, uuid, text, uuid)
from public, anon, authenticated;
grant execute on function
  public.create_execution(uuid, int, uuid, text, uuid), public.cancel_execution(uuid, uuid, uuid),
  public.retry_execution(uuid, text, uuid, text, uuid)
to service_role;
