-- The baseline: the table as it was before it knew statuses. Projects that have it keep theirs, with its data.

create table if not exists public.workflow_threads (
  workflow_thread_id text primary key,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  room_name text,
  bot_config jsonb,
  insights jsonb,
  qa_pairs jsonb,
  metadata jsonb
);
alter table public.workflow_threads enable row level security;
