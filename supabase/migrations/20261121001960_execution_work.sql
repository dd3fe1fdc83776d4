-- What workers do: claim an execution, store one result after the other, give it back. A step writes one row of its
-- own and a few fixed-size columns of the execution, however many prompts there are.

create function private.conversation_of(execution_id uuid, prompts jsonb, before_index int)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  pair record;
  pairs jsonb[] := '{}';
  characters int := 0;
begin
  for pair in
    select private.prompt_text(prompts, r.prompt_index) as prompt, r.response
    from public.flow_prompt_results r
    where r.execution_id = conversation_of.execution_id and r.prompt_index < before_index
    order by r.prompt_index desc
  loop
    characters := characters + length(pair.prompt) + length(pair.response);
    exit when characters > 400000;
    pairs := array_prepend(jsonb_build_object('prompt', pair.prompt, 'response', pair.response), pairs);
  end loop;
  return to_jsonb(pairs);
end;
$$;
comment on function private.conversation_of is
  'The prompts and responses before this prompt, [{ prompt, response }]: of a longer conversation the last 400,000 characters, whole pairs.';

create function private.claim_execution_of(owner_id uuid, since timestamptz, worker text, moment timestamptz)
returns jsonb
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan -- the table grows and shrinks, the way through its index stays the same
as $$
declare
  execution record;
begin
  loop
    update public.flow_executions e
    set lease_owner = left(worker, 200), lease_token = gen_random_uuid(),
      lease_expires_at = moment + s.prompt_lease,
      started_at = coalesce(e.started_at, moment), progressed_at = moment, not_before = null,
      -- A token that nobody gave back: its worker died.
      lost_leases = case when e.lease_token is null then e.lost_leases else e.lost_leases + 1 end
    from lifecycle.settings s
    where e.id = (
      select due.id from public.flow_executions due
      where due.status = 'running' and due.owner_id = claim_execution_of.owner_id and due.created_at >= since
        and (due.lease_expires_at is null or due.lease_expires_at <= moment)
        and (due.not_before is null or due.not_before <= moment)
      order by due.created_at limit 1 for update skip locked
    )
    returning e.id, e.lease_token, e.lost_leases, e.flow_name, e.prompts, e.agent, e.current_prompt_index,
      e.total_prompts, e.prompt_attempts, e.lost_leases >= s.prompt_lost_leases as is_lost into execution;
    if not found then
      return null;
    elsif not execution.is_lost then
      return jsonb_build_object(
        'id', execution.id, 'execution_id', execution.id, 'lease_token', execution.lease_token,
        'flow_name', execution.flow_name, 'prompts', execution.prompts, 'agent', execution.agent,
        'current_prompt_index', execution.current_prompt_index, 'total_prompts', execution.total_prompts,
        'prompt_attempts', execution.prompt_attempts,
        'conversation', case when execution.current_prompt_index = 0 then '[]'::jsonb
          else private.conversation_of(execution.id, execution.prompts, execution.current_prompt_index) end
      );
    end if;
    perform lifecycle.because('system');
    perform private.fail_execution(execution.id, 'EXECUTION_LOST', format(
      '%s workers in a row were lost at prompt %s of %s.',
      execution.lost_leases, execution.current_prompt_index + 1, execution.total_prompts));
  end loop;
end;
$$;
comment on function private.claim_execution_of is
  'Takes the oldest execution of this owner that is due, created at this time or later; null where others were quicker.';

create function public.claim_execution(worker text)
returns jsonb
language plpgsql
security definer -- API roles may not write executions
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  next record;
  claim jsonb;
begin
  -- The usual case: only one owner has something to do.
  select e.owner_id, e.created_at, exists (
    select from public.flow_executions other
    where other.status = 'running' and other.owner_id > e.owner_id
      and (other.lease_expires_at is null or other.lease_expires_at <= moment)
      and (other.not_before is null or other.not_before <= moment)
  ) as is_one_of_many
  into next
  from public.flow_executions e
  where e.status = 'running'
    and (e.lease_expires_at is null or e.lease_expires_at <= moment)
    and (e.not_before is null or e.not_before <= moment)
  order by e.owner_id, e.created_at limit 1;
  if not found then
    return null;
  elsif not next.is_one_of_many then
    return private.claim_execution_of(next.owner_id, next.created_at, worker, moment);
  end if;

  -- The owner with the fewest live leases first, then the one whose execution is oldest.
  for next in
    -- From owner to owner through the index: a long queue of one costs no more than a short one.
    with recursive heads as (
      select next.owner_id, next.created_at
      union all
      select following.owner_id, following.created_at
      from heads h
      cross join lateral (
        select e.owner_id, e.created_at from public.flow_executions e
        where e.status = 'running' and e.owner_id > h.owner_id
          and (e.lease_expires_at is null or e.lease_expires_at <= moment)
          and (e.not_before is null or e.not_before <= moment)
        order by e.owner_id, e.created_at limit 1
      ) following
    )
    select h.owner_id, h.created_at
    from heads h
    order by (
      -- The older ones: claims take the oldest first, so that is where the leases are.
      select count(*) from public.flow_executions live
      where live.status = 'running' and live.owner_id = h.owner_id and live.created_at <= h.created_at
        and live.lease_expires_at > moment
    ), h.created_at
  loop
    claim := private.claim_execution_of(next.owner_id, next.created_at, worker, moment);
    if claim is not null then
      return claim;
    end if;
  end loop;
  return null;
end;
$$;
comment on function public.claim_execution is
  'Takes an execution to work on, with a lease and a lease_token; owners with the fewest live leases first, then the oldest. Returns its prompts, where it stands and the conversation so far. Null where nothing is due.';

create function public.renew_execution_lease(id uuid, lease_token uuid)
returns jsonb
language plpgsql
security definer -- API roles may not write executions
set search_path = ''
as $$
begin
  update public.flow_executions e
  set lease_expires_at = lifecycle.now() + (select s.prompt_lease from lifecycle.settings s)
  where e.id = renew_execution_lease.id and e.lease_token = renew_execution_lease.lease_token and e.status = 'running';
  if not found then
    return '{"ok": false, "code": "stale_lease"}';
  end if;
  return '{"ok": true, "changed": true, "result": "processed"}';
end;
$$;
comment on function public.renew_execution_lease is
  'Renews the lease of an execution; { ok: false, code: stale_lease } for an old token, and when it was cancelled.';

create function public.yield_execution(
  id uuid, lease_token uuid, failed boolean default false, retry_after_s numeric default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write executions
set search_path = ''
as $$
declare
  settings lifecycle.settings;
  execution record;
  wait interval;
begin
  select e.prompt_attempts, e.current_prompt_index into execution from public.flow_executions e
  where e.id = yield_execution.id and e.lease_token = yield_execution.lease_token and e.status = 'running'
  for update;
  if not found then
    return '{"ok": false, "code": "stale_lease"}';
  end if;
  if failed then
    select * into settings from lifecycle.settings;
    if execution.prompt_attempts + 1 >= settings.prompt_attempts
      or retry_after_s > extract(epoch from settings.prompt_longest_wait)
    then
      return jsonb_build_object('ok', false, 'code', 'no_attempt_left', 'attempts', execution.prompt_attempts + 1);
    end if;
    wait := greatest(settings.prompt_backoff * (4 ^ execution.prompt_attempts), make_interval(secs => retry_after_s::float8));
  end if;
  update public.flow_executions e
  set lease_token = null, lease_expires_at = null, not_before = lifecycle.now() + wait,
    prompt_attempts = e.prompt_attempts + failed::int, lost_leases = 0
  where e.id = yield_execution.id;
  if not failed then
    perform lifecycle.wake_lane('prompts');
  end if;
  return jsonb_build_object('ok', true, 'changed', true, 'result', case when failed then 'retrying' else 'processed' end,
    'wait_s', coalesce(extract(epoch from wait), 0));
end;
$$;
comment on function public.yield_execution is
  'Gives an execution back, to be gone on with at once. failed: its prompt was asked in vain in a way that may pass; the attempt is counted and the next waits 1 s, 4 s, 16 s, or retry_after_s if that is longer. { ok: false, code: no_attempt_left } after the fourth, and for more than 300 s; stale_lease for an old token.';

create function private.store_prompt_result(
  execution_id uuid, prompt_index int, owner_id uuid, attempts int, moment timestamptz, prompt_result jsonb
)
returns boolean
language plpgsql
set search_path = ''
as $$
begin
  insert into public.flow_prompt_results as r (
    execution_id, prompt_index, owner_id, attempts, duration_ms, omitted_pairs, completed_at, response, error, usage
  )
  values (
    execution_id, prompt_index, owner_id, attempts,
    coalesce((prompt_result ->> 'duration_ms')::numeric, 0), coalesce((prompt_result ->> 'omitted_pairs')::int, 0), moment,
    prompt_result ->> 'response', left(nullif(btrim(prompt_result ->> 'error'), ''), 2000),
    lifecycle.cut(nullif(prompt_result -> 'usage', 'null'), 4096)
  )
  -- The error of an attempt that another one follows.
  on conflict on constraint flow_prompt_results_pkey do update
  set attempts = excluded.attempts, duration_ms = excluded.duration_ms, omitted_pairs = excluded.omitted_pairs,
    completed_at = excluded.completed_at, response = excluded.response, error = excluded.error, usage = excluded.usage
  where r.response is null;
  return found;
end;
$$;
comment on function private.store_prompt_result is 'Writes what became of one prompt; the caller holds the lock of the execution.';

create function public.update_execution_progress(id uuid, prompt_index int, prompt_result jsonb, lease_token uuid)
returns jsonb
language plpgsql
security definer -- API roles may not write executions
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  response text := prompt_result ->> 'response';
  is_stored boolean;
  is_pushed boolean;
  execution record;
  stored record;
begin
  if jsonb_typeof(prompt_result) is distinct from 'object'
    or (response is null) = (nullif(btrim(prompt_result ->> 'error'), '') is null)
  then
    perform lifecycle.refuse_input('prompt_result', 'must have either a response or an error.');
  elsif octet_length(response) > 262144 then
    perform lifecycle.refuse_input('prompt_result', 'has a response of at most 256 KB.');
  end if;

  if response is not null then
    -- One update for the usual case; everything else is sorted out below.
    update public.flow_executions e
    set current_prompt_index = prompt_index + 1, progressed_at = moment, prompt_attempts = 0, lost_leases = 0,
      lease_expires_at = case when prompt_index + 1 < e.total_prompts
        then moment + (select s.prompt_lease from lifecycle.settings s) end,
      status = case when prompt_index + 1 < e.total_prompts then e.status else 'completed' end
    where e.id = update_execution_progress.id and e.lease_token = update_execution_progress.lease_token
      and e.status = 'running' and e.current_prompt_index = prompt_index
    returning e.owner_id, e.status, e.version, e.current_prompt_index, e.total_prompts into execution;
    if found then
      -- The attempts in vain are those that were counted before this one.
      is_stored := private.store_prompt_result(id, prompt_index, execution.owner_id,
        coalesce((prompt_result ->> 'attempts')::int, 1), moment, prompt_result);
      -- Of the last one the guard has told already, before the end.
      if execution.status = 'running' then
        is_pushed := private.push_progress(id, execution.owner_id, execution.status, execution.version,
          execution.current_prompt_index, execution.total_prompts, moment);
      end if;
      return jsonb_build_object('ok', true, 'changed', true, 'result', 'processed', 'id', id, 'status', execution.status,
        'current_prompt_index', execution.current_prompt_index, 'total_prompts', execution.total_prompts);
    end if;
  end if;

  select e.owner_id, e.status, e.version, e.current_prompt_index, e.total_prompts, e.prompt_attempts into execution
  from public.flow_executions e
  where e.id = update_execution_progress.id and e.lease_token = update_execution_progress.lease_token
  for update;
  if not found then
    return '{"ok": false, "code": "stale_lease"}';
  end if;
  select r.response, r.error into stored from public.flow_prompt_results r
  where r.execution_id = update_execution_progress.id and r.prompt_index = update_execution_progress.prompt_index;
  if found and stored.response is not distinct from prompt_result ->> 'response'
    and (stored.error is null) = (prompt_result ->> 'response' is not null)
    and coalesce(stored.error = left(btrim(prompt_result ->> 'error'), 2000), true)
  then
    return jsonb_build_object('ok', true, 'changed', false, 'result', 'unchanged', 'id', id, 'status', execution.status,
      'current_prompt_index', execution.current_prompt_index, 'total_prompts', execution.total_prompts);
  elsif execution.status <> 'running' then
    return jsonb_build_object('ok', false, 'code', 'already_ended', 'current', execution.status, 'allowed', '[]'::jsonb);
  elsif prompt_index is distinct from execution.current_prompt_index then
    return jsonb_build_object('ok', false, 'code', 'wrong_prompt_index',
      'current_prompt_index', execution.current_prompt_index, 'total_prompts', execution.total_prompts);
  elsif prompt_result ->> 'response' is not null then
    -- The result before it was stored while this call waited for the lock. It holds it now: the update above finds the row.
    return public.update_execution_progress(id, prompt_index, prompt_result, lease_token);
  end if;

  -- An error: kept beside the prompt, which is still the current one.
  perform private.store_prompt_result(id, prompt_index, execution.owner_id, execution.prompt_attempts + 1, moment, prompt_result);
  update public.flow_executions e set progressed_at = moment where e.id = update_execution_progress.id;
  perform private.push_progress(id, execution.owner_id, execution.status, execution.version,
    execution.current_prompt_index, execution.total_prompts, moment);
  return jsonb_build_object('ok', true, 'changed', true, 'result', 'processed', 'id', id, 'status', execution.status,
    'current_prompt_index', execution.current_prompt_index, 'total_prompts', execution.total_prompts);
end;
$$;
comment on function public.update_execution_progress is
  'Stores the result of a prompt, { response } or { error }, with duration_ms, attempts, usage and omitted_pairs, and renews the lease. A response moves the execution on by one, the last completes it; an error is kept and moves nothing. The same result again is unchanged; { ok: false, code: stale_lease | wrong_prompt_index | already_ended } changes nothing.';

create function private.push_progress(
  id uuid, owner_id uuid, status public.flow_execution_status, version int,
  current_prompt_index int, total_prompts int, moment timestamptz
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  is_pushed boolean;
  is_hinted boolean;
begin
  select s.push,
    not exists (
      select from lifecycle.hints h where h.topic = 'owner:' || push_progress.owner_id and h.quiet_until > moment
    )
  into is_pushed, is_hinted
  from lifecycle.settings s;
  if is_pushed then
    is_pushed := realtime.send(
      private.progress_json(id, status, version, current_prompt_index, total_prompts, moment),
      'progress', 'flow_execution:' || id, true) is not null;
    if is_hinted then
      is_hinted := lifecycle.hint_owner(owner_id);
    end if;
  end if;
  return is_pushed;
end;
$$;
comment on function private.push_progress is 'Pushes how far an execution is to its topic, and hints to its owner.';

create function public.complete_execution(
  id uuid, status text, error text default null, error_code text default null, error_details jsonb default null,
  lease_token uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write executions
set search_path = ''
as $$
declare
  execution public.flow_executions;
begin
  if coalesce(complete_execution.status not in ('completed', 'failed'), true) then
    perform lifecycle.refuse_input('status', 'must be completed or failed.');
  end if;
  -- An end stays: whoever only confirms it need not lock.
  perform from public.flow_executions e
  where e.id = complete_execution.id and e.lease_token = complete_execution.lease_token
    and e.status <> 'running' and e.status::text = complete_execution.status;
  if found then
    return jsonb_build_object('ok', true, 'changed', false, 'result', 'unchanged', 'id', id, 'status', status);
  end if;
  select * into execution from public.flow_executions e
  where e.id = complete_execution.id and e.lease_token = complete_execution.lease_token
  for update;
  if execution.id is null then
    return '{"ok": false, "code": "stale_lease"}';
  elsif execution.status::text = complete_execution.status then
    return jsonb_build_object('ok', true, 'changed', false, 'result', 'unchanged', 'id', id, 'status', execution.status);
  elsif execution.status <> 'running' or complete_execution.status = 'completed' then
    -- The last result completes it: before that it is not done.
    return jsonb_build_object('ok', false, 'code', 'illegal_transition', 'current', execution.status,
      'allowed', case execution.status when 'running' then '["failed"]'::jsonb else '[]'::jsonb end,
      'current_prompt_index', execution.current_prompt_index, 'total_prompts', execution.total_prompts);
  end if;
  perform lifecycle.because('worker');
  execution := private.fail_execution(execution.id, coalesce(nullif(btrim(complete_execution.error_code), ''), 'INTERNAL'),
    complete_execution.error, complete_execution.error_details);
  return jsonb_build_object('ok', true, 'changed', true, 'result', 'processed', 'id', id, 'status', execution.status);
end;
$$;
comment on function public.complete_execution is
  'Ends an execution as failed, with a sentence and a code. completed is what the last result makes of it: here it only confirms that. { ok: false, code: stale_lease | illegal_transition } changes nothing.';

create function private.expire_execution(id uuid)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  execution public.flow_executions := private.lock_execution(id, null);
  deadline timestamptz := private.execution_deadline(
    execution.status, execution.created_at, execution.started_at, execution.progressed_at);
begin
  -- Claims and results do not move the deadline: it is worked out anew when it seems to have passed.
  if deadline > moment then
    update public.flow_executions e
    -- The limit of a claimed one is shorter than the wait for the first claim, and that may come at any time.
    set deadline_at = case when execution.started_at is null then least(deadline, moment + (
      select s.time_limit from lifecycle.states s where s.machine = 'flow_execution' and s.state = 'running'
    )) else deadline end
    where e.id = execution.id;
    return false;
  end if;
  update public.flow_executions e set lease_token = null where e.id = execution.id;
  perform lifecycle.because('sweep', details => jsonb_build_object('deadline_at', deadline));
  if execution.started_at is null then
    perform private.fail_execution(execution.id, 'QUEUE_TIMEOUT', 'No worker took the execution within a day.');
  else
    perform private.fail_execution(execution.id, 'EXECUTION_LOST', format(
      'Nothing came of prompt %s of %s in time: no worker went on with it.',
      execution.current_prompt_index + 1, execution.total_prompts));
  end if;
  return true;
end;
$$;
comment on function private.expire_execution is 'Ends an execution that nobody goes on with. False: its deadline had not passed after all.';

revoke execute on function
  private.conversation_of(uuid, jsonb, int), private.claim_execution_of(uuid, timestamptz, text, timestamptz),
  private.store_prompt_result(uuid, int, uuid, int, timestamptz, jsonb),
  private.push_progress(uuid, uuid, public.flow_execution_status, int, int, int, timestamptz),
  private.expire_execution(uuid)
from public, anon, authenticated, service_role;
revoke execute on function
  public.claim_execution(text), public.renew_execution_lease(uuid, uuid),
  public.yield_execution(uuid, uuid, boolean, numeric), public.update_execution_progress(uuid, int, jsonb, uuid),
  public.complete_execution(uuid, text, text, text, jsonb, uuid)
from public, anon, authenticated;
grant execute on function
  public.claim_execution(text), public.renew_execution_lease(uuid, uuid),
  public.yield_execution(uuid, uuid, boolean, numeric), public.update_execution_progress(uuid, int, jsonb, uuid),
  public.complete_execution(uuid, text, text, text, jsonb, uuid)
to service_role;
