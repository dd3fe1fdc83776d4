-- The one clock, and the one place for limits and switches.

create function lifecycle.now()
returns timestamptz
language plpgsql
volatile
set search_path = ''
as $$
begin
  if current_setting('rollcall.now', true) <> '' then
    -- session_user, not current_user: inside a definer function the latter is always the owner.
    if session_user = 'postgres' or (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = session_user) then
      return current_setting('rollcall.now')::timestamptz;
    end if;
  end if;
  return clock_timestamp();
end;
$$;
comment on function lifecycle.now is
  'The time by which Rollcall stamps, leases and sweeps: clock_timestamp(), or the setting rollcall.now (a timestamptz as text) in sessions of postgres or a superuser, for tests.';

create table lifecycle.settings (
  one boolean primary key default true constraint only_one_row check (one),
  push boolean not null default true,
  hint_interval interval not null default '250 ms',
  machine_silent_limit interval not null default '120 s',
  meeting_max_duration interval not null default '4 h',
  processing_limit interval not null default '600 s',
  processing_lease interval not null default '60 s',
  processing_attempts int not null default 3,
  processing_backoff interval not null default '5 s',
  launch_lease interval not null default '150 s',
  stop_fast_path interval not null default '5 s',
  probe_interval interval not null default '30 s',
  probe_lease interval not null default '60 s',
  missing_limit interval not null default '600 s',
  teardown_attempts int not null default 5,
  teardown_limit interval not null default '30 min',
  callbacks_per_second int not null default 20,
  prompt_lease interval not null default '60 s',
  prompt_attempts int not null default 4,
  prompt_backoff interval not null default '1 s',
  prompt_longest_wait interval not null default '300 s',
  prompt_lost_leases int not null default 10,
  history_retention interval not null default '90 days',
  receipt_retention interval not null default '24 h',
  transcript_retention interval,
  constraint limits_are_positive check (
    hint_interval > '0' and machine_silent_limit > '0' and meeting_max_duration > '0' and processing_limit > '0'
    and processing_lease > '0' and stop_fast_path > '0' and probe_interval > '0' and probe_lease > '0'
    and missing_limit > '0' and teardown_attempts > 0 and teardown_limit > '0' and processing_attempts > 0 and processing_backoff > '0' and launch_lease > '0'
    and prompt_lease > '0' and prompt_attempts > 0 and prompt_backoff > '0' and prompt_longest_wait > '0'
    and prompt_lost_leases > 0
    and callbacks_per_second > 0 and history_retention > '0' and receipt_retention > '0' and transcript_retention > '0'
  )
);
insert into lifecycle.settings default values;
comment on table lifecycle.settings is 'One row: limits and switches. Limits of single states are in lifecycle.states.time_limit.';
comment on column lifecycle.settings.push is 'Off: no Realtime message is sent; the history is written all the same.';
comment on column lifecycle.settings.hint_interval is 'The shortest time between two hints on one owner''s topic.';
comment on column lifecycle.settings.machine_silent_limit is 'How long a bot whose machine is up may take to call back for the first time.';
comment on column lifecycle.settings.meeting_max_duration is 'How long a bot may attend, unless its bot_config says max_duration_s.';
comment on column lifecycle.settings.processing_limit is 'How long the result of a meeting may take, all attempts together.';
comment on column lifecycle.settings.launch_lease is 'How long one attempt to start a machine may take before another repeats it.';
comment on column lifecycle.settings.stop_fast_path is 'A bot younger than this that is not in the room is ended at once when it is stopped.';
comment on column lifecycle.settings.probe_interval is 'How often a machine is asked after, once its bot was silent for its grace.';
comment on column lifecycle.settings.missing_limit is 'For how long, without a break, the machines API must not know a machine before it counts as lost.';
comment on column lifecycle.settings.teardown_attempts is 'After so many failed attempts to destroy its machine a stopping bot is failed.';
comment on column lifecycle.settings.teardown_limit is 'A stopping bot whose machine no worker destroyed for so long after its deadline is failed.';
comment on column lifecycle.settings.callbacks_per_second is 'How many callbacks a bot may make in a second.';
comment on column lifecycle.settings.prompt_attempts is 'How often one prompt is asked where the agent fails in a way that passes; the wait before the second attempt is prompt_backoff, then four times as long each.';
comment on column lifecycle.settings.prompt_longest_wait is 'An agent that asks to be left alone for longer than this is not waited for.';
comment on column lifecycle.settings.prompt_lost_leases is 'After so many workers in a row that died at the same prompt an execution is failed.';
comment on column lifecycle.settings.transcript_retention is 'Transcripts of bots that ended longer ago are erased by lifecycle.prune(); null keeps them.';

create table lifecycle.watermarks (
  one boolean primary key default true constraint only_one_row check (one),
  swept_at timestamptz,
  silence_counts_from timestamptz,
  machines_listed_at timestamptz,
  hinted_to pg_snapshot not null default pg_current_snapshot(),
  hinting_to pg_snapshot,
  hinting_xid xid8,
  hinting_id bigint,
  hints_owed text[] not null default '{}'
);
insert into lifecycle.watermarks default values;
comment on table lifecycle.watermarks is 'One row: how far the recurring jobs have come.';
comment on column lifecycle.watermarks.silence_counts_from is 'The end of the last outage of the sweep: bots that could not be heard before are given their limit anew.';
comment on column lifecycle.watermarks.hinted_to is 'Hints were sent for all history that this snapshot sees.';
comment on column lifecycle.watermarks.hinting_to is 'So far flush_hints() is on its way, after hinting_xid and hinting_id in the order (xid, id) of the history; null once it is there.';
comment on column lifecycle.watermarks.hints_owed is 'The topics whose hint was in another transaction when flush_hints() came by: it sends them if that one did not.';

alter table lifecycle.settings enable row level security;
alter table lifecycle.watermarks enable row level security;
revoke all on lifecycle.settings, lifecycle.watermarks from public, anon, authenticated, service_role;
revoke execute on function lifecycle.now() from public, anon, authenticated;
grant execute on function lifecycle.now() to service_role;
