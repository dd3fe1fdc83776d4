-- Sessions and their handler runs. A run has a phase (how far it got, only forward) and a status (why it is, or is not, running).

create type public.session_trigger as enum ('schedule', 'manual', 'event', 'retry');
create type public.script_run_status as enum ('running', 'success', 'failed');
create type public.script_run_result as enum ('completed', 'suspended', 'failed', 'maintenance', 'transient');
create type public.handler_type as enum ('producer', 'consumer');
create type public.handler_phase as enum (
  'pending', 'executing', 'preparing', 'prepared', 'mutating', 'mutated', 'emitting', 'committed'
);
create type public.handler_run_status as enum (
  'active', 'paused:transient', 'paused:approval', 'paused:reconciliation',
  'failed:logic', 'failed:internal', 'crashed', 'committed'
);
create type public.handler_error_type as enum ('auth', 'permission', 'network', 'logic', 'internal', 'unknown');
create type public.mutation_outcome as enum ('success', 'failure', 'skipped');
create type public.mutation_status as enum ('in_flight', 'needs_reconcile', 'indeterminate', 'applied', 'failed');
create type public.mutation_resolver as enum ('reconcile', 'user', 'user_skip');
create type public.workflow_event_status as enum ('pending', 'reserved', 'consumed', 'skipped');

-- What must hold of the rows that each step writes is checked by their guards, under the names that constraints would have:
-- Postgres parses every CHECK of a table anew with each statement that writes it.
create table public.script_runs (
  id uuid primary key default gen_random_uuid(),
  workflow_id uuid not null references public.workflows on delete cascade,
  owner_id uuid not null,
  script_id uuid not null references public.workflow_scripts,
  trigger public.session_trigger not null,
  status public.script_run_status not null default 'running',
  version int not null default 0,
  result public.script_run_result,
  error text,
  error_type public.handler_error_type,
  error_code text,
  cost_microusd bigint not null default 0,
  handler_run_count int not null default 0,
  retry_of uuid references public.script_runs on delete cascade,
  started_at timestamptz not null,
  ended_at timestamptz,
  lease_owner text,
  lease_token uuid,
  lease_expires_at timestamptz,
  constraint ended_is_nobodys check (status = 'running' or lease_expires_at is null)
) with (fillfactor = 80);
-- Sweep and claims read it too: leases are in no index, since they are renewed all the time.
create unique index one_running_session_per_workflow on public.script_runs (workflow_id) where status = 'running';
create index script_runs_by_workflow on public.script_runs (workflow_id, started_at desc, id desc);
create index script_runs_by_owner on public.script_runs (owner_id, started_at desc, id desc);
create index script_runs_by_script on public.script_runs (script_id);
create index script_runs_retries on public.script_runs (retry_of) where retry_of is not null;
comment on table public.script_runs is 'A session of a workflow: one worker runs its due handlers, one after the other, under one lease.';
comment on column public.script_runs.lease_owner is 'The worker; null when it gave the session back, to be gone on with by the next one.';
comment on column public.script_runs.retry_of is 'The session whose run this one goes on with.';

create table public.handler_runs (
  id uuid primary key default gen_random_uuid(),
  script_run_id uuid not null references public.script_runs on delete cascade,
  workflow_id uuid not null,
  owner_id uuid not null,
  handler_type public.handler_type not null,
  handler_name text not null,
  phase public.handler_phase not null default 'pending',
  status public.handler_run_status not null default 'active',
  version int not null default 0,
  mutation_outcome public.mutation_outcome,
  retry_of uuid references public.handler_runs on delete cascade,
  prepare_result jsonb,
  publications jsonb,
  state_before jsonb,
  state_after jsonb,
  error text,
  error_type public.handler_error_type,
  details jsonb,
  cost_microusd bigint not null default 0,
  logs jsonb,
  started_at timestamptz not null,
  ended_at timestamptz
) with (fillfactor = 70);
create unique index one_active_run_per_workflow on public.handler_runs (workflow_id) where status = 'active';
create unique index one_retry_per_run on public.handler_runs (retry_of) where retry_of is not null;
create index handler_runs_by_session on public.handler_runs (script_run_id, started_at, id);
create index handler_runs_by_workflow on public.handler_runs (workflow_id, started_at desc, id desc);
create index handler_runs_by_owner on public.handler_runs (owner_id, started_at desc, id desc);
comment on column public.handler_runs.workflow_id is 'That of its session, which goes with its workflow: no foreign key of its own.';
comment on table public.handler_runs is 'One run of a producer or consumer.';
comment on column public.handler_runs.retry_of is 'The run whose side effect is done and whose next() this one does again.';
comment on column public.handler_runs.publications is 'What it publishes; visible to others when it commits.';

create table public.workflow_topics (
  id uuid primary key default gen_random_uuid(),
  workflow_id uuid not null references public.workflows on delete cascade,
  owner_id uuid not null,
  name text not null,
  created_at timestamptz not null,
  constraint one_topic_of_a_name unique (workflow_id, name)
);
comment on table public.workflow_topics is 'The topics that a workflow''s scripts declared.';

create table public.workflow_events (
  id uuid primary key default gen_random_uuid(),
  position bigint generated always as identity,
  workflow_id uuid not null,
  owner_id uuid not null,
  topic_id uuid not null references public.workflow_topics on delete cascade,
  message_id text not null,
  payload jsonb not null,
  status public.workflow_event_status not null default 'pending',
  reserved_by_run_id uuid references public.handler_runs on delete cascade,
  created_by_run_id uuid references public.handler_runs on delete set null,
  attempt_number int not null default 1,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  constraint one_event_per_message unique (topic_id, message_id)
);
create index workflow_events_pending on public.workflow_events (topic_id, position) where status = 'pending';
create index workflow_events_by_run on public.workflow_events (reserved_by_run_id) where reserved_by_run_id is not null;
create index workflow_events_by_maker on public.workflow_events (created_by_run_id) where created_by_run_id is not null;
comment on table public.workflow_events is 'What producers published and consumers work on; a message is published once, whoever repeats it.';
comment on column public.workflow_events.workflow_id is 'That of its topic: no foreign key of its own.';
comment on column public.workflow_events.reserved_by_run_id is 'The run that has it, or had it when it was consumed or skipped.';

create table public.workflow_mutations (
  id uuid primary key default gen_random_uuid(),
  run_id uuid not null constraint one_mutation_per_run unique references public.handler_runs on delete cascade,
  workflow_id uuid not null,
  owner_id uuid not null,
  tool text not null,
  params jsonb not null,
  reconcile jsonb,
  status public.mutation_status not null default 'in_flight',
  version int not null default 0,
  result jsonb,
  error text,
  reconcile_attempts int not null default 0,
  next_reconcile_at timestamptz,
  resolved_by public.mutation_resolver,
  resolved_at timestamptz,
  created_at timestamptz not null
) with (fillfactor = 80);
create index workflow_mutations_unresolved on public.workflow_mutations (workflow_id)
  where status in ('in_flight', 'needs_reconcile', 'indeterminate');
create index workflow_mutations_to_ask on public.workflow_mutations (next_reconcile_at) where next_reconcile_at is not null;
comment on column public.workflow_mutations.workflow_id is 'That of its run: no foreign key of its own.';
comment on table public.workflow_mutations is 'The ledger of side effects, at most one a run: written before the call leaves. Its id is the idempotency key.';
comment on column public.workflow_mutations.resolved_by is 'Null where the worker that made the call knew.';
comment on column public.workflow_mutations.reconcile is 'How to ask whether it happened: { url, headers }; null where nobody can be asked.';

create table public.handler_states (
  workflow_id uuid not null references public.workflows on delete cascade,
  owner_id uuid not null,
  handler_type public.handler_type not null,
  handler_name text not null,
  state jsonb not null default '{}' constraint state_is_at_most_1_mb check (octet_length(state::text) <= 1048576),
  dirty boolean not null default false,
  wake_at timestamptz,
  updated_at timestamptz not null,
  primary key (workflow_id, handler_type, handler_name)
);
comment on table public.handler_states is 'What a handler keeps from run to run, and whether a consumer has work: dirty, or wake_at is due.';

create table public.producer_schedules (
  workflow_id uuid not null references public.workflows on delete cascade,
  owner_id uuid not null,
  producer text not null,
  interval text,
  cron text,
  next_run_at timestamptz not null,
  last_run_at timestamptz,
  primary key (workflow_id, producer),
  constraint interval_or_cron check (num_nonnulls(interval, cron) = 1)
);
comment on table public.producer_schedules is 'When each producer of the active script runs next.';

alter table public.workflows
  add constraint error_run_is_there foreign key (error_run_id) references public.handler_runs on delete set null,
  add constraint pending_retry_is_there foreign key (pending_retry_run_id) references public.handler_runs on delete set null;
alter table public.workflow_tasks
  add constraint handler_run_is_there foreign key (handler_run_id) references public.handler_runs on delete cascade;
create index workflows_by_error_run on public.workflows (error_run_id) where error_run_id is not null;
create index workflows_by_pending_retry on public.workflows (pending_retry_run_id) where pending_retry_run_id is not null;

alter table public.script_runs enable row level security;
alter table public.handler_runs enable row level security;
alter table public.workflow_topics enable row level security;
alter table public.workflow_events enable row level security;
alter table public.workflow_mutations enable row level security;
alter table public.handler_states enable row level security;
alter table public.producer_schedules enable row level security;
create policy "owners read their sessions" on public.script_runs
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
create policy "owners read their handler runs" on public.handler_runs
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
create policy "owners read their topics" on public.workflow_topics
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
create policy "owners read their events" on public.workflow_events
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
create policy "owners read their mutations" on public.workflow_mutations
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
create policy "owners read their handler states" on public.handler_states
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
create policy "owners read their schedules" on public.producer_schedules
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
revoke all on
  public.script_runs, public.handler_runs, public.workflow_topics, public.workflow_events, public.workflow_mutations,
  public.handler_states, public.producer_schedules
from public, anon, authenticated, service_role;
grant select on
  public.script_runs, public.handler_runs, public.workflow_topics, public.workflow_events, public.workflow_mutations,
  public.handler_states, public.producer_schedules
to authenticated, service_role;
