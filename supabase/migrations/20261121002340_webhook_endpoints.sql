-- Webhook endpoints as their owners manage them. owner_id null: whoever's it is (operators and secret keys).

create function private.check_webhook_events(events text[])
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  unknown text;
begin
  if cardinality(events) not between 1 and 100 or array_position(events, null) is not null then
    perform lifecycle.refuse_input('events', 'must name 1 to 100 events; * is all of them.');
  end if;
  select e into unknown from unnest(events) e
  where e <> '*' and not exists (
    select from lifecycle.states s join lifecycle.machines m on m.name = s.machine
    where m.history and e in (s.machine || '.*', s.machine || '.' || s.state)
  ) limit 1;
  if unknown is not null then
    perform lifecycle.refuse_input('events',
      format('names %s, which never happens: write <machine>.<state>, <machine>.* or *.', left(unknown, 100)));
  end if;
end;
$$;
comment on function private.check_webhook_events is 'Raises PT422 unless each event is *, <machine>.* or <machine>.<state> of a machine that has a history.';

create function private.webhook_endpoint_json(endpoint public.webhook_endpoints)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'id', endpoint.id, 'owner_id', endpoint.owner_id, 'url', endpoint.url, 'events', endpoint.events,
    'enabled', endpoint.enabled, 'disabled_reason', endpoint.disabled_reason, 'disabled_at', endpoint.disabled_at,
    'failing_since', endpoint.failing_since, 'created_at', endpoint.created_at, 'updated_at', endpoint.updated_at
  )
$$;
comment on function private.webhook_endpoint_json is 'An endpoint as callers get it: without its secret.';

create function private.lock_webhook_endpoint(endpoint_id uuid, owner_id uuid)
returns public.webhook_endpoints
language plpgsql
set search_path = ''
as $$
declare
  endpoint public.webhook_endpoints;
begin
  -- Not its key: transitions that write deliveries for it must not wait.
  select * into endpoint from public.webhook_endpoints e
  where e.id = lock_webhook_endpoint.endpoint_id
    and (lock_webhook_endpoint.owner_id is null or e.owner_id = lock_webhook_endpoint.owner_id)
  for no key update;
  return endpoint;
end;
$$;
comment on function private.lock_webhook_endpoint is 'Locks an endpoint (of this owner, unless null); a row of nulls where there is none.';

create function private.drop_webhooks(endpoint_id uuid, why text)
returns void
language sql
set search_path = ''
as $$
  update public.webhook_deliveries d
  set state = 'failed', next_attempt_at = null, lease_token = null, last_error = left(why, 500)
  where d.endpoint_id = drop_webhooks.endpoint_id and d.state = 'pending'
$$;
comment on function private.drop_webhooks is 'Fails what waits for an endpoint that is disabled; its owner may have it sent again.';

create function public.create_webhook_endpoint(owner_id uuid, url text, events text[], max_endpoints int default 20)
returns jsonb
language plpgsql
security definer -- API roles may not write endpoints or secrets
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  endpoint public.webhook_endpoints;
  new_secret text := private.new_webhook_secret();
begin
  if owner_id is null then
    perform lifecycle.refuse_input('owner_id', 'is needed: an endpoint belongs to somebody.');
  end if;
  perform private.check_webhook_events(events);
  perform pg_advisory_xact_lock(hashtextextended('webhook endpoints of ' || owner_id, 0));
  if max_endpoints <= (select count(*) from public.webhook_endpoints e where e.owner_id = create_webhook_endpoint.owner_id) then
    return jsonb_build_object('ok', false, 'code', 'limit_reached', 'limit', max_endpoints);
  end if;
  insert into public.webhook_endpoints (owner_id, url, events, created_at, updated_at)
  values (owner_id, url, events, moment, moment)
  returning * into endpoint;
  insert into private.webhook_secrets (owner_id, endpoint_id, secret) values (owner_id, endpoint.id, new_secret);
  return private.webhook_endpoint_json(endpoint)
    || jsonb_build_object('ok', true, 'changed', true, 'result', 'created', 'secret', new_secret);
end;
$$;
comment on function public.create_webhook_endpoint is
  'A new endpoint of an owner, with its signing secret, which is shown this once. { ok: false, code: limit_reached } beyond max_endpoints.';

create function public.update_webhook_endpoint(
  endpoint_id uuid, owner_id uuid default null, url text default null, events text[] default null, enabled boolean default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write endpoints
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  endpoint public.webhook_endpoints := private.lock_webhook_endpoint(endpoint_id, owner_id);
begin
  if endpoint.id is null then
    return '{"ok": false, "code": "webhook_endpoint_not_found"}';
  end if;
  if events is not null then
    perform private.check_webhook_events(events);
  end if;
  update public.webhook_endpoints e
  set url = coalesce(update_webhook_endpoint.url, e.url),
    events = coalesce(update_webhook_endpoint.events, e.events),
    enabled = coalesce(update_webhook_endpoint.enabled, e.enabled),
    disabled_at = case when coalesce(update_webhook_endpoint.enabled, e.enabled) then null else coalesce(e.disabled_at, moment) end,
    disabled_reason = case when coalesce(update_webhook_endpoint.enabled, e.enabled) then null else e.disabled_reason end,
    -- Enabled again, or elsewhere: what it failed before does not count.
    failing_since = case
      when update_webhook_endpoint.enabled and not e.enabled then null
      when update_webhook_endpoint.url <> e.url then null
      else e.failing_since
    end,
    updated_at = moment
  where e.id = endpoint.id
  returning * into endpoint;
  if not endpoint.enabled then
    perform private.drop_webhooks(endpoint.id, 'The endpoint is disabled.');
  end if;
  return private.webhook_endpoint_json(endpoint) || '{"ok": true, "changed": true, "result": "processed"}';
end;
$$;
comment on function public.update_webhook_endpoint is
  'Changes what is not null of an endpoint. enabled false fails what waits for it. { ok: false, code: webhook_endpoint_not_found } for an unknown one, or another owner''s.';

create function public.delete_webhook_endpoint(endpoint_id uuid, owner_id uuid default null)
returns jsonb
language plpgsql
security definer -- API roles may not write endpoints
set search_path = ''
as $$
declare
  endpoint public.webhook_endpoints;
begin
  delete from public.webhook_endpoints e
  where e.id = delete_webhook_endpoint.endpoint_id
    and (delete_webhook_endpoint.owner_id is null or e.owner_id = delete_webhook_endpoint.owner_id)
  returning * into endpoint;
  if endpoint.id is null then
    return '{"ok": false, "code": "webhook_endpoint_not_found"}';
  end if;
  return private.webhook_endpoint_json(endpoint) || '{"ok": true, "changed": true, "result": "deleted"}';
end;
$$;
comment on function public.delete_webhook_endpoint is 'Deletes an endpoint with its secret and its deliveries.';

create function public.rotate_webhook_secret(owner_id uuid default null, endpoint_id uuid default null)
returns jsonb
language plpgsql
security definer -- API roles may not write secrets
set search_path = ''
as $$
declare
  overlap_end timestamptz := lifecycle.now() + interval '24 h';
  endpoint public.webhook_endpoints;
  new_secret text := private.new_webhook_secret();
  previous_until timestamptz;
begin
  if endpoint_id is not null then
    endpoint := private.lock_webhook_endpoint(endpoint_id, owner_id);
    if endpoint.id is null then
      return '{"ok": false, "code": "webhook_endpoint_not_found"}';
    end if;
    owner_id := endpoint.owner_id;
  elsif owner_id is null then
    perform lifecycle.refuse_input('owner_id', 'is needed: a secret belongs to somebody.');
  end if;
  insert into private.webhook_secrets as s (owner_id, endpoint_id, secret)
  values (owner_id, endpoint_id, new_secret)
  on conflict on constraint one_secret_each
  do update set secret = excluded.secret, previous_secret = s.secret, previous_until = overlap_end
  returning s.previous_until into previous_until;
  return jsonb_build_object('ok', true, 'changed', true, 'result', 'processed', 'owner_id', owner_id,
    'endpoint_id', endpoint_id, 'secret', new_secret, 'previous_signs_until', previous_until);
end;
$$;
comment on function public.rotate_webhook_secret is
  'A new signing secret, shown this once; the old one signs as well for 24 h. Without endpoint_id: the owner''s own secret, which signs what goes to the webhook_url of a bot.';

create function public.list_webhook_endpoints(endpoint_id uuid default null, owner_id uuid default null)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object('items', coalesce(jsonb_agg(private.webhook_endpoint_json(e) order by e.created_at, e.id), '[]'))
  from public.webhook_endpoints e
  where (list_webhook_endpoints.endpoint_id is null or e.id = list_webhook_endpoints.endpoint_id)
    and (list_webhook_endpoints.owner_id is null or e.owner_id = list_webhook_endpoints.owner_id)
$$;
comment on function public.list_webhook_endpoints is 'The endpoints that the caller sees (of one owner, or one of them), oldest first: { items }.';

revoke execute on function
  private.check_webhook_events(text[]), private.webhook_endpoint_json(public.webhook_endpoints),
  private.lock_webhook_endpoint(uuid, uuid), private.drop_webhooks(uuid, text),
  public.create_webhook_endpoint(uuid, text, text[], int),
  public.update_webhook_endpoint(uuid, uuid, text, text[], boolean),
  public.delete_webhook_endpoint(uuid, uuid),
  public.rotate_webhook_secret(uuid, uuid),
  public.list_webhook_endpoints(uuid, uuid)
from public, anon, authenticated, service_role;
grant execute on function
  private.webhook_endpoint_json(public.webhook_endpoints), public.list_webhook_endpoints(uuid, uuid)
to authenticated, service_role;
grant execute on function
  public.create_webhook_endpoint(uuid, text, text[], int),
  public.update_webhook_endpoint(uuid, uuid, text, text[], boolean),
  public.delete_webhook_endpoint(uuid, uuid),
  public.rotate_webhook_secret(uuid, uuid)
to service_role;
