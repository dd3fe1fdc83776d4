-- A bot is one row of workflow_threads: one request to attend one meeting, and all that came of it.

create type public.bot_status as enum ('pending', 'starting', 'running', 'completed', 'failed');
create type public.meeting_status as enum
  ('requested', 'joining', 'awaiting_admission', 'active', 'stopping', 'completed', 'failed');
create type public.container_status as enum ('Requested', 'Starting', 'Up', 'Stopping', 'Exited', 'Failed');
create type public.meeting_platform as enum ('daily', 'google_meet', 'zoom', 'teams', 'room');
create type public.bot_error_stage as enum ('machine_start', 'joining', 'running', 'processing');
create type public.meeting_failure_stage as enum ('requested', 'joining', 'awaiting_admission', 'active');
create type public.meeting_completion_reason as enum (
  'stopped', 'validation_error', 'awaiting_admission_timeout', 'awaiting_admission_rejected',
  'left_alone', 'evicted', 'meeting_ended', 'max_duration_exceeded', 'other'
);
create type public.bot_stop_reason as enum ('stopped', 'max_duration_exceeded');

-- The sets of states, defined once: index, cap, stop, lists and deadlines all ask these. plpgsql, since they are
-- evaluated for every write and a SQL function with a search_path is planned anew each time.
create function lifecycle.is_open(status public.bot_status) returns boolean
language plpgsql immutable set search_path = ''
as $$ begin return status < 'completed'; end; $$;
comment on function lifecycle.is_open(public.bot_status) is 'Is the bot not at its end?';

create function lifecycle.is_open(status public.meeting_status) returns boolean
language plpgsql immutable set search_path = ''
as $$ begin return status < 'completed'; end; $$;
comment on function lifecycle.is_open(public.meeting_status) is 'Is the meeting not at its end?';

create function lifecycle.is_attending(status public.meeting_status) returns boolean
language plpgsql immutable set search_path = ''
as $$ begin return status < 'stopping'; end; $$;
comment on function lifecycle.is_attending(public.meeting_status) is 'Is the bot in the meeting or on its way, and not told to leave?';

alter table public.workflow_threads
  alter column workflow_thread_id set default gen_random_uuid()::text,
  add column if not exists bot_id uuid not null default gen_random_uuid() unique,
  add column owner_id uuid,
  add column retry_of text references public.workflow_threads on delete set null,
  add column platform public.meeting_platform,
  add column native_meeting_id text,
  add column meeting_url text,
  add column bot_name text,
  add column process_insights boolean not null default true,
  add column webhook_url text,
  add column launched boolean not null default false,
  add column bot_status public.bot_status,
  add column bot_status_updated_at timestamptz,
  add column bot_seq int not null default 0,
  add column bot_started_at timestamptz,
  add column bot_completed_at timestamptz,
  add column error_stage public.bot_error_stage,
  add column error_code text,
  add column error_message text,
  add column error_details jsonb,
  add column meeting_status public.meeting_status,
  add column meeting_status_updated_at timestamptz,
  add column meeting_seq int not null default 0,
  add column joined_at timestamptz,
  add column left_at timestamptz,
  add column completion_reason public.meeting_completion_reason,
  add column failure_stage public.meeting_failure_stage,
  add column stop_requested_at timestamptz,
  add column stop_reason public.bot_stop_reason,
  add column container_id text,
  add column container_status public.container_status,
  add column container_status_raw text,
  add column container_seen_at timestamptz,
  add column last_heartbeat_at timestamptz,
  add column participant_count int,
  add column deadline_at timestamptz,
  add column version int not null default 0,
  add column launch_token uuid,
  add column launch_due_at timestamptz,
  add column launch_attempts int not null default 0,
  add column stop_delay interval,
  add column probe_token uuid,
  add column probe_due_at timestamptz,
  add column missing_since timestamptz,
  add column teardowns jsonb not null default '[]',
  add column processing_token uuid,
  add column processing_due_at timestamptz,
  add column processing_attempts int not null default 0,
  add column transcript jsonb;

-- What must hold of a row the guard sees to, in private.check_thread(): Postgres parses every CHECK of a table anew with
-- each statement, heartbeats too.

comment on table public.workflow_threads is
  'One request to have a bot attend one meeting. bot_status: did the work get done? meeting_status: is the bot in the room? container_status: is the process alive? Threads that never had a bot have no statuses.';
comment on column public.workflow_threads.owner_id is 'Who asked. Null only for rows of old code. No foreign key: deleting a user never fails.';
comment on column public.workflow_threads.launched is 'Rollcall started the machine of this bot (false: its owner runs the bot).';
comment on column public.workflow_threads.meeting_status is 'Moved by the bot''s callbacks, stop and the sweep.';
comment on column public.workflow_threads.container_status is 'Normalised from container_status_raw; moves nothing but pending to starting.';
comment on column public.workflow_threads.bot_started_at is 'When bot_status became running.';
comment on column public.workflow_threads.bot_completed_at is 'When bot_status became completed or failed.';
comment on column public.workflow_threads.joined_at is 'When the bot was in the room.';
comment on column public.workflow_threads.left_at is 'When the meeting ended for the bot.';
comment on column public.workflow_threads.deadline_at is 'When the sweep looks after it; null where nothing is awaited.';
comment on column public.workflow_threads.version is 'One more with each transition of either machine.';
comment on column public.workflow_threads.bot_seq is 'The seq of the newest event of the machine bot.';
comment on column public.workflow_threads.meeting_seq is 'The seq of the newest event of the machine meeting.';
comment on column public.workflow_threads.launch_due_at is 'When the launch may be taken (up) by a worker: the end of the lease of launch_token. Null: nothing to launch.';
comment on column public.workflow_threads.stop_delay is 'How long the bot may take to leave once it was told to.';
comment on column public.workflow_threads.probe_due_at is 'When its machine may be asked after: null unless Rollcall launched it and it may be alive.';
comment on column public.workflow_threads.missing_since is 'Since when the machines API does not know its machine, without a break.';
comment on column public.workflow_threads.teardowns is 'The failed attempts to destroy its machine, [{ at, error }].';
comment on column public.workflow_threads.processing_due_at is 'When the result may be taken by a worker: the end of the lease of processing_token, or of the wait after an error.';
comment on column public.workflow_threads.transcript is 'Utterances [{ speaker, text, started_at, ended_at }].';

create unique index one_attending_bot_per_meeting
  on public.workflow_threads (owner_id, platform, native_meeting_id)
  where lifecycle.is_attending(meeting_status);
create index workflow_threads_by_bot_status on public.workflow_threads (bot_status);
create index workflow_threads_by_owner on public.workflow_threads (owner_id, created_at desc, workflow_thread_id);
create index workflow_threads_by_meeting on public.workflow_threads (platform, native_meeting_id, created_at desc);
create index workflow_threads_retries on public.workflow_threads (retry_of) where retry_of is not null;
create index workflow_threads_due on public.workflow_threads (deadline_at) where deadline_at is not null;
create index workflow_threads_to_launch on public.workflow_threads (launch_due_at) where launch_due_at is not null;
create index workflow_threads_to_probe on public.workflow_threads (probe_due_at) where probe_due_at is not null;
create index workflow_threads_to_process on public.workflow_threads (processing_due_at) where processing_due_at is not null;

create policy "owners read their threads" on public.workflow_threads
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
revoke all on public.workflow_threads from public, anon, authenticated, service_role;
grant select on public.workflow_threads to authenticated, service_role;

create table private.bot_secrets (
  bot_id uuid primary key references public.workflow_threads (bot_id) on delete cascade,
  token_hash bytea not null constraint token_hash_is_sha_256 check (octet_length(token_hash) = 32),
  passcode text
);
comment on table private.bot_secrets is 'The SHA-256 of the callback token and the passcode of the meeting.';
alter table private.bot_secrets enable row level security;
revoke all on private.bot_secrets from public, anon, authenticated, service_role;

create table public.transcript_chunks (
  bot_id uuid references public.workflow_threads (bot_id) on delete cascade,
  chunk int constraint chunk_is_not_negative check (chunk >= 0),
  owner_id uuid,
  utterances jsonb not null constraint utterances_are_a_list check (jsonb_typeof(utterances) = 'array'),
  created_at timestamptz not null,
  primary key (bot_id, chunk)
);
comment on table public.transcript_chunks is 'What a bot heard, as it sends it; put together into the transcript when it leaves.';
alter table public.transcript_chunks enable row level security;
create policy "owners read their transcripts" on public.transcript_chunks
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
revoke all on public.transcript_chunks from public, anon, authenticated, service_role;
grant select on public.transcript_chunks to authenticated, service_role;

revoke execute on function
  lifecycle.is_open(public.bot_status), lifecycle.is_open(public.meeting_status),
  lifecycle.is_attending(public.meeting_status)
from public, anon;
grant execute on function
  lifecycle.is_open(public.bot_status), lifecycle.is_open(public.meeting_status),
  lifecycle.is_attending(public.meeting_status)
to authenticated, service_role;
