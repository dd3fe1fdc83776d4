-- The baseline: the tables as they were before they knew statuses. Projects that have them keep theirs, with their
-- data, and get what theirs lack. On an empty database there is only what Rollcall uses, and no bot_sessions.

do $$
declare
  legacy boolean := to_regclass('public.workflow_threads') is not null or to_regclass('public.bot_sessions') is not null;
begin
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

  if legacy then
    alter table public.workflow_threads
      add column if not exists room_url text,
      add column if not exists room_id text,
      add column if not exists session_id text,
      add column if not exists analysis_prompt text,
      add column if not exists summary_format_prompt text,
      add column if not exists bot_enabled boolean default false,
      add column if not exists bot_id text,
      add column if not exists bot_config jsonb,
      add column if not exists meeting_status text default 'in_progress',
      add column if not exists meeting_start_time timestamptz,
      add column if not exists meeting_end_time timestamptz,
      add column if not exists duration integer,
      add column if not exists transcript_text text,
      add column if not exists transcript_id text,
      add column if not exists transcript_processed boolean default false,
      add column if not exists transcript_processing boolean default false,
      add column if not exists email_sent boolean default false,
      add column if not exists webhook_sent boolean default false,
      add column if not exists candidate_summary text,
      add column if not exists insights jsonb,
      add column if not exists qa_pairs jsonb,
      add column if not exists webhook_callback_url text,
      add column if not exists email_results_to text,
      add column if not exists workflow_paused boolean default false,
      add column if not exists waiting_for_meeting_ended boolean default false,
      add column if not exists waiting_for_transcript_webhook boolean default false,
      add column if not exists metadata jsonb,
      add column if not exists checkpoint_id text,
      add column if not exists unkey_key_id text,
      add column if not exists usage_stats jsonb,
      add column if not exists bot_join_time timestamptz,
      add column if not exists bot_leave_time timestamptz,
      add column if not exists bot_duration integer,
      add column if not exists email text,
      add column if not exists provider text default 'daily';
  end if;

  if to_regclass('public.bot_sessions') is not null then
    alter table public.bot_sessions
      add column if not exists completed_at timestamptz,
      add column if not exists process_insights boolean default true,
      add column if not exists bot_config jsonb,
      add column if not exists transcript_text text,
      add column if not exists qa_pairs jsonb,
      add column if not exists insights jsonb,
      add column if not exists error text,
      add column if not exists created_at timestamptz not null default now(),
      add column if not exists updated_at timestamptz not null default now(),
      enable row level security;
  end if;
end;
$$;
