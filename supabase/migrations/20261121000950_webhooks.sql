-- Webhooks, the outbox: who wants to be told over HTTP, and what each is to be told. A transition writes its
-- deliveries in its own transaction; sending them is work of the lane webhooks.

create type public.webhook_delivery_state as enum ('pending', 'delivered', 'failed');

alter table lifecycle.settings
  add column webhook_retries interval[] not null default '{5 s,30 s,2 min,10 min,1 h,6 h,24 h}',
  add column webhook_lease interval not null default '60 s' constraint webhook_lease_is_positive check (webhook_lease > '0'),
  add column webhook_patience interval not null default '2 min',
  add column webhook_dead_after interval not null default '5 days';
comment on column lifecycle.settings.webhook_retries is 'How long a delivery rests after each failed attempt; after one more than these it has failed.';
comment on column lifecycle.settings.webhook_lease is 'How long a worker may take for one attempt: more than its time-out of 10 s.';
comment on column lifecycle.settings.webhook_patience is 'How long a delivery waits for an earlier one of its run that is being retried.';
comment on column lifecycle.settings.webhook_dead_after is 'An endpoint that failed for so long, without one success, is disabled.';

create table public.webhook_endpoints (
  id uuid primary key default gen_random_uuid(),
  owner_id uuid not null,
  url text not null constraint url_leads_somewhere check (url ~ '^https?://' and length(url) <= 2048),
  events text[] not null constraint endpoint_hears_something check (cardinality(events) between 1 and 100),
  enabled boolean not null default true,
  disabled_reason text,
  disabled_at timestamptz,
  failing_since timestamptz,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  constraint disabled_has_its_time check (enabled = (disabled_at is null)),
  constraint only_disabled_has_a_reason check (not enabled or disabled_reason is null)
);
create index webhook_endpoints_by_owner on public.webhook_endpoints (owner_id, created_at);
create index webhook_endpoints_in_trouble on public.webhook_endpoints (failing_since) where failing_since is not null;
comment on table public.webhook_endpoints is 'Where an owner wants to be told of transitions, and of which.';
comment on column public.webhook_endpoints.events is 'bot.failed, meeting.active ... (<machine>.<to>), a whole machine as bot.*, or everything as *.';
comment on column public.webhook_endpoints.disabled_reason is 'Why Rollcall disabled it; null where its owner did.';
comment on column public.webhook_endpoints.failing_since is 'The first failure since the last success; null while it is well.';

create table private.webhook_secrets (
  owner_id uuid not null,
  endpoint_id uuid references public.webhook_endpoints on delete cascade,
  secret text not null,
  previous_secret text,
  previous_until timestamptz,
  constraint one_secret_each unique nulls not distinct (owner_id, endpoint_id),
  constraint previous_secret_has_an_end check ((previous_secret is null) = (previous_until is null))
);
create index webhook_secrets_by_endpoint on private.webhook_secrets (endpoint_id);
comment on table private.webhook_secrets is
  'What signs deliveries: a secret for each endpoint, and one for each owner (endpoint_id is null) that signs what goes to the webhook_url of a bot.';
comment on column private.webhook_secrets.previous_until is 'Until when the secret before the last rotation signs as well.';

create table public.webhook_deliveries (
  id uuid primary key default gen_random_uuid(),
  event_id bigint not null,
  endpoint_id uuid references public.webhook_endpoints on delete cascade,
  url text,
  owner_id uuid not null,
  machine text not null,
  subject_id uuid not null,
  type text not null,
  payload jsonb not null,
  payload_complete boolean not null default false,
  state public.webhook_delivery_state not null default 'pending',
  attempts int not null default 0,
  last_status int,
  last_error text constraint last_error_is_short check (length(last_error) <= 500),
  next_attempt_at timestamptz,
  lease_token uuid,
  created_at timestamptz not null,
  delivered_at timestamptz,
  destination uuid not null generated always as (coalesce(endpoint_id, md5(owner_id::text || url)::uuid)) stored,
  constraint one_delivery_each unique nulls not distinct (event_id, endpoint_id),
  constraint delivery_goes_to_one_place check (num_nonnulls(endpoint_id, url) = 1),
  constraint pending_has_a_next_attempt check ((state = 'pending') = (next_attempt_at is not null)),
  constraint only_pending_is_leased check (state = 'pending' or lease_token is null),
  constraint delivered_has_its_time check ((state = 'delivered') = (delivered_at is not null))
);
create index webhook_deliveries_by_owner on public.webhook_deliveries (owner_id, created_at desc, id);
create index webhook_deliveries_by_endpoint on public.webhook_deliveries (endpoint_id, created_at desc, id) where endpoint_id is not null;
create index webhook_deliveries_by_subject on public.webhook_deliveries (subject_id);
create index webhook_deliveries_due on public.webhook_deliveries (next_attempt_at, event_id) where state = 'pending';
create index webhook_deliveries_due_by_owner on public.webhook_deliveries (owner_id, next_attempt_at, event_id) where state = 'pending';
create index webhook_deliveries_waiting on public.webhook_deliveries (destination, subject_id, event_id) where state = 'pending';
create index webhook_deliveries_leased on public.webhook_deliveries (next_attempt_at) where lease_token is not null;
create index webhook_deliveries_incomplete on public.webhook_deliveries (subject_id) where not payload_complete;
comment on table public.webhook_deliveries is 'The outbox: one row for each transition and place that is to hear of it. Its id is the webhook-id, the same with every attempt.';
comment on column public.webhook_deliveries.url is 'The webhook_url of a bot, which replaces its owner''s endpoints; null where there is an endpoint_id.';
comment on column public.webhook_deliveries.type is '<machine>.<to>, such as bot.failed.';
comment on column public.webhook_deliveries.payload is 'What is sent: { type, timestamp, data: { event, bot | flow_execution | workflow } }.';
comment on column public.webhook_deliveries.payload_complete is 'The payload shows the run; else it is added before the first attempt.';
comment on column public.webhook_deliveries.attempts is 'How often it was sent since it was written, or since somebody had it sent again.';
comment on column public.webhook_deliveries.last_status is 'The HTTP status of the last attempt; null where there was no answer.';
comment on column public.webhook_deliveries.next_attempt_at is 'When it is tried next; while a worker has it, the end of its lease. Null at the end.';
comment on column public.webhook_deliveries.lease_token is 'Held by the worker that is sending it.';
comment on column public.webhook_deliveries.destination is 'The endpoint, or a uuid made of owner and url: what the order and the limit of two at a time hold for.';

alter table public.webhook_endpoints enable row level security;
alter table public.webhook_deliveries enable row level security;
alter table private.webhook_secrets enable row level security;
create policy "owners read their webhook endpoints" on public.webhook_endpoints
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
create policy "owners read their webhook deliveries" on public.webhook_deliveries
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
revoke all on public.webhook_endpoints, public.webhook_deliveries, private.webhook_secrets
  from public, anon, authenticated, service_role;
grant select on public.webhook_endpoints, public.webhook_deliveries to authenticated, service_role;

update lifecycle.lanes set max_leases = 20 where lane = 'webhooks';

create function private.new_webhook_secret()
returns text
language sql
volatile
set search_path = ''
as $$
  -- Two random uuids hold 244 random bits; the hash spreads them over 32 bytes.
  select 'whsec_' || encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'base64')
$$;
comment on function private.new_webhook_secret is 'A new signing secret in the form of Standard Webhooks: whsec_ and 32 bytes in base64.';

create function lifecycle.queue_webhooks(event public.status_events, shown jsonb, webhook_url text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  type text := event.machine || '.' || event.to_status;
  payload jsonb;
begin
  -- The one lookup that a transition of an owner without webhooks pays for.
  if webhook_url is null and not exists (
    select from public.webhook_endpoints e
    where e.owner_id = event.owner_id and e.enabled and e.events && array['*', event.machine || '.*', type]
  ) then
    return;
  end if;
  payload := jsonb_build_object('type', type, 'timestamp', event.created_at, 'data',
    jsonb_build_object('event', shown || private.event_json(event)));
  if webhook_url is not null then
    insert into public.webhook_deliveries
      (event_id, url, owner_id, machine, subject_id, type, payload, next_attempt_at, created_at)
    values (event.id, webhook_url, event.owner_id, event.machine, event.subject_id, type, payload,
      event.created_at, event.created_at);
  else
    insert into public.webhook_deliveries
      (event_id, endpoint_id, owner_id, machine, subject_id, type, payload, next_attempt_at, created_at)
    select event.id, e.id, event.owner_id, event.machine, event.subject_id, type, payload,
      event.created_at, event.created_at
    from public.webhook_endpoints e
    where e.owner_id = event.owner_id and e.enabled and e.events && array['*', event.machine || '.*', type]
    -- One that is being deleted is gone when it comes to it: no transition fails for a webhook.
    for key share;
  end if;
  perform set_config('rollcall.webhooks', 'queued', true);
  perform lifecycle.wake_lane('webhooks');
end;
$$;
comment on function lifecycle.queue_webhooks is
  'Writes the deliveries of one transition and wakes the lane webhooks. Called by lifecycle.record() alone. webhook_url: the run''s own, which replaces the owner''s endpoints.';

revoke execute on function
  private.new_webhook_secret(), lifecycle.queue_webhooks(public.status_events, jsonb, text)
from public, anon, authenticated, service_role;
