-- Workflows: a user's automation. Its status is what the user wants; error and maintenance are what the system found.

create type public.workflow_status as enum ('draft', 'active', 'disabled', 'archived');
create type public.workflow_stage as enum ('producer', 'prepare', 'mutate', 'next', 'reconcile', 'maintenance');
create type public.workflow_message_role as enum ('user', 'assistant', 'event');
create type public.workflow_message_type as enum (
  'error', 'maintenance_started', 'maintenance_fixed', 'maintenance_escalated', 'script'
);
create type public.workflow_notification_type as enum ('error', 'escalated', 'maintenance_failed', 'script_message');
create type public.workflow_task_type as enum ('planner', 'maintainer');
create type public.workflow_task_state as enum ('queued', 'waiting', 'finished', 'error');

create table public.workflows (
  id uuid primary key default gen_random_uuid(),
  owner_id uuid not null,
  title text not null constraint title_is_speakable check (btrim(title) <> '' and length(title) <= 255),
  status public.workflow_status not null default 'draft',
  status_seq int not null default 0,
  status_updated_at timestamptz not null,
  version int not null default 0,
  error text,
  error_code text,
  error_stage public.workflow_stage,
  error_run_id uuid,
  error_at timestamptz,
  maintenance boolean not null default false,
  maintenance_fix_count int not null default 0,
  pending_retry_run_id uuid,
  active_script_id uuid,
  task_id uuid,
  chat_id uuid,
  time_zone text not null default 'UTC',
  cron text,
  next_due_at timestamptz,
  run_requested_at timestamptz,
  transient_failures int not null default 0,
  backoff_until timestamptz,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  constraint error_has_its_code check (
    (error is null) = (error_code is null) and (error is null) = (error_at is null)
    and (error is not null or num_nonnulls(error_stage, error_run_id) = 0)
  ),
  constraint active_has_a_script check (status <> 'active' or active_script_id is not null)
) with (fillfactor = 70);
create index workflows_by_owner on public.workflows (owner_id, created_at desc, id desc);
-- Blocked and idle workflows are not in it: a claim reads what is due and nothing else.
create index workflows_due on public.workflows (next_due_at) where next_due_at is not null;
create index workflows_in_maintenance on public.workflows (updated_at) where maintenance;

comment on table public.workflows is 'A user''s automation: what its owner wants (status) beside what the system found (error, maintenance).';
comment on column public.workflows.owner_id is 'No foreign key: deleting a user never fails, lifecycle.forget_owner() erases the workflows.';
comment on column public.workflows.status_seq is 'The seq of the newest event of the machine workflow.';
comment on column public.workflows.version is 'One more with each change of status, error, maintenance or active script.';
comment on column public.workflows.pending_retry_run_id is 'A run that ended after its side effect: the next session goes on with its next().';
comment on column public.workflows.cron is 'How people read its schedule; what counts stands in producer_schedules.';
comment on column public.workflows.next_due_at is 'When a session may be claimed; null while there is nothing to do or something forbids it. Kept by private.refresh_due().';
comment on column public.workflows.transient_failures is 'Failures in a row that pass by themselves; the sixth becomes an error.';

create table public.workflow_scripts (
  id uuid primary key default gen_random_uuid(),
  workflow_id uuid not null references public.workflows on delete cascade,
  owner_id uuid not null,
  major int not null constraint major_counts check (major > 0),
  minor int not null constraint minor_counts check (minor >= 0),
  code text not null constraint code_is_at_most_256_kb check (octet_length(code) <= 262144),
  config jsonb not null constraint config_is_an_object check (jsonb_typeof(config) = 'object' and octet_length(config::text) <= 65536),
  comment text,
  summary text,
  created_at timestamptz not null,
  constraint one_of_each_version unique (workflow_id, major, minor)
);
comment on table public.workflow_scripts is 'The versions of a workflow''s script: people and the planner raise major, fixes raise minor.';
comment on column public.workflow_scripts.config is 'What the validator read from the code: topics, producers with their schedules, consumers.';

create table public.workflow_chats (
  id uuid primary key default gen_random_uuid(),
  workflow_id uuid not null references public.workflows on delete cascade,
  owner_id uuid not null,
  created_at timestamptz not null
);
create index workflow_chats_by_workflow on public.workflow_chats (workflow_id);
comment on table public.workflow_chats is 'The conversation about a workflow.';

create table public.workflow_messages (
  id uuid primary key default gen_random_uuid(),
  workflow_id uuid not null references public.workflows on delete cascade,
  owner_id uuid not null,
  role public.workflow_message_role not null,
  type public.workflow_message_type,
  content text not null constraint message_is_at_most_64_kb check (octet_length(content) <= 65536),
  payload jsonb,
  acknowledged_at timestamptz,
  resolved_at timestamptz,
  created_at timestamptz not null
);
create index workflow_messages_by_workflow on public.workflow_messages (workflow_id, created_at desc, id desc);
create index workflow_messages_open_errors on public.workflow_messages (workflow_id)
  where role = 'event' and type = 'error' and acknowledged_at is null and resolved_at is null;
comment on table public.workflow_messages is 'What was said about a workflow, and what happened to it (role event).';

create table public.workflow_notifications (
  id uuid primary key default gen_random_uuid(),
  workflow_id uuid not null references public.workflows on delete cascade,
  owner_id uuid not null,
  type public.workflow_notification_type not null,
  payload jsonb not null default '{}',
  acknowledged_at timestamptz,
  resolved_at timestamptz,
  created_at timestamptz not null
);
create index workflow_notifications_open on public.workflow_notifications (workflow_id, created_at desc)
  where acknowledged_at is null and resolved_at is null;
create index workflow_notifications_by_workflow on public.workflow_notifications (workflow_id, created_at desc);
comment on table public.workflow_notifications is 'What the owner of a workflow should see.';

create table public.workflow_tasks (
  id uuid primary key default gen_random_uuid(),
  owner_id uuid not null,
  workflow_id uuid not null references public.workflows on delete cascade,
  type public.workflow_task_type not null,
  state public.workflow_task_state not null default 'queued',
  title text,
  messages jsonb not null default '[]' constraint messages_are_a_list check (jsonb_typeof(messages) = 'array'),
  reply text,
  error text,
  handler_run_id uuid constraint one_task_per_failed_run unique,
  attempts int not null default 0,
  not_before timestamptz,
  lease_owner text,
  lease_token uuid,
  lease_expires_at timestamptz,
  created_at timestamptz not null,
  ended_at timestamptz,
  constraint error_says_why check ((state = 'error') = (error is not null)),
  constraint ended_has_its_time check ((state in ('finished', 'error')) = (ended_at is not null)),
  constraint maintainers_have_a_run check ((type = 'maintainer') = (handler_run_id is not null))
);
create index workflow_tasks_queued on public.workflow_tasks (created_at, id) where state = 'queued';
create index workflow_tasks_by_workflow on public.workflow_tasks (workflow_id, created_at desc);
comment on table public.workflow_tasks is 'What an agent does for a workflow: writing its script (planner) or repairing it (maintainer).';
comment on column public.workflow_tasks.messages is 'The conversation with the agent, as its API has it.';
comment on column public.workflow_tasks.handler_run_id is 'The failed run that a maintainer repairs: one task each.';

alter table public.workflows
  add constraint active_script_is_there foreign key (active_script_id) references public.workflow_scripts on delete set null,
  add constraint task_is_there foreign key (task_id) references public.workflow_tasks on delete set null,
  add constraint chat_is_there foreign key (chat_id) references public.workflow_chats on delete set null;

create table private.workflow_secrets (
  workflow_id uuid not null references public.workflows on delete cascade,
  name text not null constraint name_is_a_word check (name ~ '^[A-Za-z_][A-Za-z0-9_]{0,63}$'),
  vault_id uuid not null,
  updated_at timestamptz not null,
  primary key (workflow_id, name)
);
comment on table private.workflow_secrets is 'What scripts name as {{secret.NAME}}; the values are in Vault. No API role reads them: a worker is handed them with its lease.';
comment on column private.workflow_secrets.vault_id is 'The row of vault.secrets; it goes when this one does.';

alter table public.workflows enable row level security;
alter table public.workflow_scripts enable row level security;
alter table public.workflow_chats enable row level security;
alter table public.workflow_messages enable row level security;
alter table public.workflow_notifications enable row level security;
alter table public.workflow_tasks enable row level security;
alter table private.workflow_secrets enable row level security;
create policy "owners read their workflows" on public.workflows
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
create policy "owners read their scripts" on public.workflow_scripts
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
create policy "owners read their chats" on public.workflow_chats
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
create policy "owners read their messages" on public.workflow_messages
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
create policy "owners read their notifications" on public.workflow_notifications
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
create policy "owners read their tasks" on public.workflow_tasks
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
revoke all on
  public.workflows, public.workflow_scripts, public.workflow_chats, public.workflow_messages,
  public.workflow_notifications, public.workflow_tasks, private.workflow_secrets
from public, anon, authenticated, service_role;
grant select on
  public.workflows, public.workflow_scripts, public.workflow_chats, public.workflow_messages,
  public.workflow_notifications, public.workflow_tasks
to authenticated, service_role;
