-- Sending webhooks: claimed with a lease, fair between owners, in order within a run, retried for a day and a half.

create function private.complete_webhooks()
returns trigger
language plpgsql
security definer -- old code may write threads, and nobody deliveries
set search_path = ''
as $$
begin
  -- Of the transition just made: what is older shows the run already.
  update public.webhook_deliveries d
  set payload = jsonb_set(d.payload, '{data,bot}', private.bot_json(new)), payload_complete = true
  where d.subject_id = new.bot_id and not d.payload_complete;
  perform set_config('rollcall.webhooks', '', true);
  return null;
end;
$$;
comment on function private.complete_webhooks is 'Adds to the deliveries of a transition the bot as it is right after it.';

-- Only where the guard queued something: most owners have no webhooks.
create trigger complete_webhooks_of_new after insert on public.workflow_threads
  for each row when (current_setting('rollcall.webhooks', true) = 'queued') execute function private.complete_webhooks();
create trigger complete_webhooks after update of bot_status, meeting_status on public.workflow_threads
  for each row when (current_setting('rollcall.webhooks', true) = 'queued') execute function private.complete_webhooks();

create function private.webhook_subject(machine text, subject_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  of_workflow uuid;
begin
  if machine in ('bot', 'meeting') then
    return jsonb_build_object('bot', public.get_bot(subject_id));
  elsif machine = 'flow_execution' then
    -- As lists show it: two hundred responses are no webhook.
    return jsonb_build_object(machine, (
      select private.execution_json(e) from public.flow_executions e where e.id = subject_id));
  end if;
  of_workflow := case machine
    when 'workflow' then subject_id
    when 'script_run' then (select s.workflow_id from public.script_runs s where s.id = subject_id)
    when 'handler_run' then (select r.workflow_id from public.handler_runs r where r.id = subject_id)
    when 'mutation' then (select m.workflow_id from public.workflow_mutations m where m.id = subject_id)
  end;
  return jsonb_build_object('workflow', (
    select private.workflow_summary(w) from public.workflows w where w.id = of_workflow));
exception when others then
  -- One run that can not be read must not stop the webhooks of all others: the event speaks for itself.
  return '{}';
end;
$$;
comment on function private.webhook_subject is 'The run of an event as its owner gets it, under its noun: bot, flow_execution or workflow.';

create function private.waits_its_turn(delivery public.webhook_deliveries, moment timestamptz)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return exists (
    select from public.webhook_deliveries earlier
    where earlier.state = 'pending' and earlier.destination = delivery.destination
      and earlier.subject_id = delivery.subject_id and earlier.event_id < delivery.event_id
      and (
        -- What was never tried is due before what came later, so it is chosen first anyway. Of the others one that
        -- is just being sent takes no time; one that is retried is waited for so long and no longer.
        (earlier.lease_token is not null and earlier.next_attempt_at > moment)
        or delivery.created_at + (select s.webhook_patience from lifecycle.settings s) > moment
      )
  );
end;
$$;
comment on function private.waits_its_turn is 'Must an earlier event of the same run reach the same destination first?';

create function private.next_webhook(moment timestamptz)
returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
  under_way int;
  owners uuid[];
  busy uuid[];
  chosen uuid;
begin
  select count(*), coalesce(array_agg(distinct d.owner_id), '{}') into under_way, owners
  from public.webhook_deliveries d where d.lease_token is not null and d.next_attempt_at > moment;
  if under_way >= 20 then
    return null;
  end if;
  select coalesce(array_agg(two.destination), '{}') into busy from (
    select d.destination from public.webhook_deliveries d
    where d.lease_token is not null and d.next_attempt_at > moment
    group by d.destination having count(*) >= 2
  ) two;

  -- An owner for whom nothing is under way comes first; few have something, so what is skipped is theirs alone.
  select d.id into chosen from public.webhook_deliveries d
  where d.state = 'pending' and d.next_attempt_at <= moment and d.owner_id <> all (owners)
    and not private.waits_its_turn(d, moment)
  order by d.next_attempt_at, d.event_id limit 1;
  if chosen is not null then
    return chosen;
  end if;
  select due.id into chosen
  from unnest(owners) o (owner_id), lateral (
    select d.id, d.next_attempt_at, d.event_id from public.webhook_deliveries d
    where d.owner_id = o.owner_id and d.state = 'pending' and d.next_attempt_at <= moment
      and d.destination <> all (busy) and not private.waits_its_turn(d, moment)
    order by d.next_attempt_at, d.event_id limit 1
  ) due
  order by (
    select count(*) from public.webhook_deliveries live
    where live.lease_token is not null and live.next_attempt_at > moment and live.owner_id = o.owner_id
  ), due.next_attempt_at, due.event_id
  limit 1;
  return chosen;
end;
$$;
comment on function private.next_webhook is
  'The delivery that is to be sent now: at most 20 are under way, two of them to one destination; owners with the fewest first, then the oldest.';

create function public.claim_delivery(worker text)
returns jsonb
language plpgsql
security definer -- API roles may not write deliveries or read secrets
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  settings lifecycle.settings;
  delivery public.webhook_deliveries;
  endpoint public.webhook_endpoints;
  secret private.webhook_secrets;
begin
  select * into settings from lifecycle.settings;
  -- One claim at a time, so that the limits are exact.
  perform pg_advisory_xact_lock(hashtextextended('webhook claims', 0));
  loop
    delivery := null;
    endpoint := null;
    select * into delivery from public.webhook_deliveries d where d.id = private.next_webhook(moment) for update;
    if delivery.id is null then
      return null;
    end if;
    -- Somebody settled it between the look and the lock.
    continue when delivery.state <> 'pending' or delivery.next_attempt_at > moment;
    select * into endpoint from public.webhook_endpoints e where e.id = delivery.endpoint_id;
    exit when coalesce(endpoint.enabled, true) and delivery.attempts <= cardinality(settings.webhook_retries);
    update public.webhook_deliveries d
    set state = 'failed', next_attempt_at = null, lease_token = null,
      last_error = case when endpoint.enabled is false then 'The endpoint is disabled.'
        else 'No worker came back from its last attempt.' end
    where d.id = delivery.id;
  end loop;

  if not delivery.payload_complete then
    delivery.payload := jsonb_set(delivery.payload, '{data}',
      (delivery.payload -> 'data') || private.webhook_subject(delivery.machine, delivery.subject_id));
  end if;
  update public.webhook_deliveries d
  set lease_token = gen_random_uuid(), next_attempt_at = moment + settings.webhook_lease, attempts = d.attempts + 1,
    payload = delivery.payload, payload_complete = true
  where d.id = delivery.id
  returning * into delivery;

  -- An endpoint was made with its secret; the owner's own is made when it first signs.
  if delivery.endpoint_id is null then
    insert into private.webhook_secrets (owner_id, secret) values (delivery.owner_id, private.new_webhook_secret())
    on conflict on constraint one_secret_each do nothing;
  end if;
  select * into secret from private.webhook_secrets s
  where s.owner_id = delivery.owner_id and s.endpoint_id is not distinct from delivery.endpoint_id;
  return jsonb_build_object(
    'delivery_id', delivery.id, 'lease_token', delivery.lease_token, 'worker', worker, 'attempt', delivery.attempts,
    'url', coalesce(delivery.url, endpoint.url), 'type', delivery.type,
    -- As text: every attempt sends the same bytes.
    'body', delivery.payload::text,
    'secrets', to_jsonb(array_remove(array[
      secret.secret, case when secret.previous_until > moment then secret.previous_secret end
    ], null))
  );
end;
$$;
comment on function public.claim_delivery is
  'Takes a webhook to send, with a lease_token: { delivery_id, lease_token, attempt, url, type, body, secrets }; delivery_id is the webhook-id, each of the secrets signs. Null where nothing is due, or 20 are under way.';

create function public.record_delivery(
  delivery_id uuid, lease_token uuid, http_status int default null, error text default null,
  retry_after_s double precision default null, refused boolean default false
)
returns jsonb
language plpgsql
security definer -- API roles may not write deliveries or endpoints
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  settings lifecycle.settings;
  endpoint public.webhook_endpoints;
  delivery public.webhook_deliveries;
  rest interval;
  why text := left(coalesce(error, 'The receiver answered ' || http_status || '.'), 500);
begin
  select * into settings from lifecycle.settings;
  -- The parent first, as everywhere.
  select e.* into endpoint from public.webhook_endpoints e
  where e.id = (select d.endpoint_id from public.webhook_deliveries d where d.id = record_delivery.delivery_id)
  for no key update;
  select * into delivery from public.webhook_deliveries d
  where d.id = record_delivery.delivery_id and d.lease_token = record_delivery.lease_token for update;
  if delivery.id is null then
    return '{"ok": false, "code": "stale_lease"}';
  end if;

  if http_status between 200 and 299 then
    update public.webhook_deliveries d
    set state = 'delivered', delivered_at = moment, next_attempt_at = null, lease_token = null,
      last_status = http_status, last_error = null
    where d.id = delivery.id;
    if endpoint.failing_since is not null then
      update public.webhook_endpoints e set failing_since = null where e.id = endpoint.id;
    end if;
    return jsonb_build_object('ok', true, 'changed', true, 'result', 'delivered');
  end if;

  if not refused and (http_status is null or http_status in (408, 425, 429) or http_status >= 500) then
    rest := settings.webhook_retries[delivery.attempts];
    -- A receiver that says when is believed, up to a day.
    rest := greatest(rest, case when rest is not null and retry_after_s > 0
      then make_interval(secs => least(retry_after_s, 86400)) end);
  end if;
  update public.webhook_deliveries d
  set state = case when rest is null then 'failed' else 'pending' end::public.webhook_delivery_state,
    next_attempt_at = moment + rest, lease_token = null, last_status = http_status, last_error = why
  where d.id = delivery.id;

  if endpoint.id is not null then
    if endpoint.enabled and endpoint.failing_since <= moment - settings.webhook_dead_after then
      update public.webhook_endpoints e
      set enabled = false, disabled_at = moment, updated_at = moment,
        disabled_reason = format('Nothing was delivered since %s. The last attempt: %s',
          to_char(endpoint.failing_since at time zone 'utc', 'YYYY-MM-DD HH24:MI "UTC"'), why)
      where e.id = endpoint.id;
      perform private.drop_webhooks(endpoint.id, 'The endpoint was disabled: ' || why);
      return jsonb_build_object('ok', true, 'changed', true, 'result', 'endpoint_disabled');
    elsif endpoint.failing_since is null then
      update public.webhook_endpoints e set failing_since = moment where e.id = endpoint.id;
    end if;
  end if;
  return jsonb_build_object('ok', true, 'changed', true,
    'result', case when rest is null then 'failed' else 'retrying' end, 'next_attempt_at', moment + rest);
end;
$$;
comment on function public.record_delivery is
  'What became of an attempt. 2xx: delivered. No http_status (error says why), 408, 425, 429 and 5xx: retried after settings.webhook_retries, not before retry_after_s. Others, and refused (a target that may not be called): failed. An endpoint without a success for settings.webhook_dead_after is disabled. { ok: false, code: stale_lease } for an old token.';

create function private.webhook_delivery_json(delivery public.webhook_deliveries)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'id', delivery.id, 'event_id', delivery.event_id, 'endpoint_id', delivery.endpoint_id, 'url', delivery.url,
    'owner_id', delivery.owner_id, 'machine', delivery.machine, 'subject_id', delivery.subject_id, 'type', delivery.type,
    'state', delivery.state, 'attempts', delivery.attempts, 'last_status', delivery.last_status,
    'last_error', delivery.last_error, 'next_attempt_at', delivery.next_attempt_at,
    'created_at', delivery.created_at, 'delivered_at', delivery.delivered_at
  )
$$;
comment on function private.webhook_delivery_json is 'A delivery as callers get it in a list: without its payload.';

create function public.resend_delivery(delivery_id uuid, owner_id uuid default null)
returns jsonb
language plpgsql
security definer -- API roles may not write deliveries
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  delivery public.webhook_deliveries;
  endpoint public.webhook_endpoints;
begin
  select e.* into endpoint from public.webhook_endpoints e
  where e.id = (select d.endpoint_id from public.webhook_deliveries d where d.id = resend_delivery.delivery_id)
  for key share;
  select * into delivery from public.webhook_deliveries d
  where d.id = resend_delivery.delivery_id
    and (resend_delivery.owner_id is null or d.owner_id = resend_delivery.owner_id)
  for update;
  if delivery.id is null then
    return '{"ok": false, "code": "webhook_delivery_not_found"}';
  elsif endpoint.enabled is false then
    return jsonb_build_object('ok', false, 'code', 'webhook_endpoint_disabled', 'endpoint_id', endpoint.id,
      'disabled_reason', endpoint.disabled_reason);
  elsif delivery.lease_token is not null and delivery.next_attempt_at > moment then
    return private.webhook_delivery_json(delivery) || '{"ok": true, "changed": false, "result": "unchanged"}';
  end if;
  update public.webhook_deliveries d
  set state = 'pending', next_attempt_at = moment, attempts = 0, delivered_at = null, lease_token = null
  where d.id = delivery.id
  returning * into delivery;
  perform lifecycle.wake_lane('webhooks');
  return private.webhook_delivery_json(delivery) || '{"ok": true, "changed": true, "result": "processed"}';
end;
$$;
comment on function public.resend_delivery is
  'Has a delivery sent again, with the same webhook-id and all its attempts anew; one that is being sent right now is left alone. { ok: false, code: webhook_delivery_not_found | webhook_endpoint_disabled }.';

create function public.list_webhook_deliveries(
  delivery_id uuid default null, endpoint_id uuid default null, subject_id uuid default null, state text default null,
  max_rows int default 50, cursor text default null, owner_id uuid default null
)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  wanted public.webhook_delivery_state;
  place record := private.read_list_cursor(cursor);
  items jsonb;
begin
  if max_rows is null or max_rows not between 1 and 200 then
    perform lifecycle.refuse_input('limit', 'must be a whole number from 1 to 200.');
  end if;
  begin
    wanted := state;
  exception when invalid_text_representation then
    perform lifecycle.refuse_input('state', 'must be pending, delivered or failed.');
  end;

  select jsonb_agg(
    private.webhook_delivery_json(d)
      || case when delivery_id is null then '{}' else jsonb_build_object('payload', d.payload) end
    order by d.created_at desc, d.id
  ) into items
  from (
    select * from public.webhook_deliveries d
    where (list_webhook_deliveries.delivery_id is null or d.id = list_webhook_deliveries.delivery_id)
      and (list_webhook_deliveries.owner_id is null or d.owner_id = list_webhook_deliveries.owner_id)
      and (list_webhook_deliveries.endpoint_id is null or d.endpoint_id = list_webhook_deliveries.endpoint_id)
      and (list_webhook_deliveries.subject_id is null or d.subject_id = list_webhook_deliveries.subject_id)
      and (wanted is null or d.state = wanted)
      and (d.created_at < place.before_at or (d.created_at = place.before_at and d.id > place.before_id))
    order by d.created_at desc, d.id
    limit max_rows + 1
  ) d;
  if jsonb_array_length(items) > max_rows then
    items := items - max_rows;
    return jsonb_build_object('items', items, 'next_cursor',
      private.list_cursor((items -> -1 ->> 'created_at')::timestamptz, (items -> -1 ->> 'id')::uuid));
  end if;
  return jsonb_build_object('items', coalesce(items, '[]'), 'next_cursor', null);
end;
$$;
comment on function public.list_webhook_deliveries is
  'The deliveries that the caller sees, newest first: { items, next_cursor }. With delivery_id the one, and its payload. max_rows: 1 to 200.';

revoke execute on function
  private.complete_webhooks(), private.webhook_subject(text, uuid),
  private.waits_its_turn(public.webhook_deliveries, timestamptz), private.next_webhook(timestamptz),
  private.webhook_delivery_json(public.webhook_deliveries),
  public.claim_delivery(text),
  public.record_delivery(uuid, uuid, int, text, double precision, boolean),
  public.resend_delivery(uuid, uuid),
  public.list_webhook_deliveries(uuid, uuid, uuid, text, int, text, uuid)
from public, anon, authenticated, service_role;
grant execute on function
  private.webhook_delivery_json(public.webhook_deliveries),
  public.list_webhook_deliveries(uuid, uuid, uuid, text, int, text, uuid)
to authenticated, service_role;
grant execute on function
  public.claim_delivery(text),
  public.record_delivery(uuid, uuid, int, text, double precision, boolean),
  public.resend_delivery(uuid, uuid)
to service_role;
