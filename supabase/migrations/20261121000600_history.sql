-- The history: append-only, one row a transition. The truth that pushes only hint at.

create type public.event_source as enum ('user', 'bot', 'worker', 'sweep', 'reconcile', 'system', 'repair');

create table public.status_events (
  id bigint generated always as identity,
  machine text not null,
  subject_id uuid not null,
  owner_id uuid,
  seq int not null,
  from_status text,
  to_status text not null,
  source public.event_source not null,
  reason text,
  error_stage text,
  error_code text,
  error_message text,
  details jsonb,
  implied boolean not null default false,
  occurred_at timestamptz,
  xid xid8 not null default pg_current_xact_id(),
  created_at timestamptz not null,
  -- Also the index for reading on within one run: subject_id, then the few rows beyond the last id.
  -- No further constraint: each is parsed anew with every transition. invariant_violations folds the history.
  primary key (subject_id, machine, seq)
);
create index status_events_by_owner on public.status_events (owner_id, xid, id);
create index status_events_by_transaction on public.status_events (xid, id);
comment on table public.status_events is 'Every transition of every run. For the machines bot and meeting the subject is the bot_id.';
comment on column public.status_events.id is 'Commit order within a subject, since every writer holds its row lock. Across subjects read on with status_changes().';
comment on column public.status_events.seq is '1, 2, 3 ... per machine and subject, without a gap.';
comment on column public.status_events.implied is 'A hop that nobody reported: a later callback walked it.';
comment on column public.status_events.occurred_at is 'When the reporter says that it happened; never trusted for ordering.';
comment on column public.status_events.owner_id is 'No foreign key: deleting a user never fails, lifecycle.forget_owner() erases the history.';

create table public.status_rejections (
  id bigint generated always as identity primary key,
  machine text not null,
  subject_id uuid not null,
  owner_id uuid,
  from_status text not null,
  to_status text not null,
  source public.event_source not null,
  code text not null,
  payload jsonb constraint payload_is_at_most_4_kb check (octet_length(payload::text) <= 4096),
  created_at timestamptz not null
);
create index status_rejections_by_subject on public.status_rejections (subject_id, id);
create index status_rejections_by_owner on public.status_rejections (owner_id, id);
comment on table public.status_rejections is 'Moves that somebody outside asked for and that were refused; at most the newest 100 a subject.';

create function private.keep_history()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if current_setting('rollcall.erasing', true) = 'yes' then
    return null;
  end if;
  raise exception using
    errcode = 'PT409', message = 'append_only',
    hint = 'The history is never changed: use lifecycle.prune() or lifecycle.forget_owner() to erase whole subjects.';
end;
$$;
create trigger keep_history before update or delete or truncate on public.status_events
  for each statement execute function private.keep_history();

create function lifecycle.because(
  source public.event_source, reason text default null, details jsonb default null,
  occurred_at timestamptz default null, implied text[] default '{}'
)
returns text
language plpgsql
set search_path = ''
as $$
begin
  if num_nulls(reason, details, occurred_at) = 3 and implied = '{}' then
    return set_config('rollcall.because', '{"source": "' || source || '"}', true);
  end if;
  return set_config('rollcall.because', jsonb_build_object(
    'source', source, 'reason', reason, 'details', details, 'occurred_at', occurred_at, 'implied', to_jsonb(implied)
  )::text, true);
end;
$$;
comment on function lifecycle.because is 'Says who makes the next move in this transaction, and why: the guard writes it into the history and forgets it. implied: the machines whose move nobody reported.';

create function lifecycle.reject(
  machine text, subject_id uuid, owner_id uuid, from_status text, to_status text,
  source public.event_source, code text, payload jsonb
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  insert into public.status_rejections (machine, subject_id, owner_id, from_status, to_status, source, code, payload, created_at)
  values (machine, subject_id, owner_id, from_status, to_status, source, code, lifecycle.cut(payload, 4096), lifecycle.now());

  delete from public.status_rejections r
  where r.id <= (
    select old.id from public.status_rejections old
    where old.subject_id = reject.subject_id
    order by old.id desc offset 100 limit 1
  ) and r.subject_id = reject.subject_id;
end;
$$;
comment on function lifecycle.reject is 'Keeps an attempt that was refused; the caller holds the lock of the subject''s row.';

create table private.history_horizon (
  one boolean primary key default true constraint only_one_row check (one),
  pruned_to xid8,
  pruned_before timestamptz
);
insert into private.history_horizon default values;
comment on table private.history_horizon is 'One row: how far back the history reaches.';
comment on column private.history_horizon.pruned_to is 'The newest transaction whose history was pruned: cursors that had not seen it must start afresh.';
comment on column private.history_horizon.pruned_before is 'Runs that ended before this may have no history any more.';
alter table private.history_horizon enable row level security;
create policy "everyone reads how far the history reaches back" on private.history_horizon
  for select to authenticated, service_role using (true);
revoke all on private.history_horizon from public, anon, authenticated, service_role;
grant select on private.history_horizon to authenticated, service_role;

create function private.read_changes_cursor(
  after text, out read_to pg_snapshot, out target pg_snapshot, out last_id bigint, out reset boolean
)
language plpgsql
stable
set search_path = ''
as $$
declare
  parts text[] := string_to_array(after, '/');
  present pg_snapshot := pg_current_snapshot();
  pruned_to xid8 := (select h.pruned_to from private.history_horizon h);
begin
  begin
    read_to := case when after is null then '1:1:' else coalesce(parts[1], '') end::pg_snapshot;
    target := coalesce(parts[2]::pg_snapshot, present);
    last_id := coalesce(parts[3]::bigint, 0);
  exception when data_exception then
    perform lifecycle.refuse_input('after', 'is no cursor of this history: leave it out to start from the beginning.');
  end;
  reset := after is not null and coalesce(
    pg_snapshot_xmax(read_to) <= pruned_to
    -- Under way when the cursor was made, and over now: what it wrote may be among what was pruned.
    or exists (
      select from pg_snapshot_xip(read_to) late (xid)
      where late.xid <= pruned_to and pg_visible_in_snapshot(late.xid, present)
    )
    or pg_snapshot_xmax(read_to) > pg_snapshot_xmax(present)
    or pg_snapshot_xmax(target) > pg_snapshot_xmax(present),
    false
  );
end;
$$;
comment on function private.read_changes_cursor is
  'What a cursor over the history stands for: read_to was read whole, of what target sees besides the events up to last_id. reset: older than the history that is kept, or from another cluster. PT422 for what is no cursor.';

create function public.status_changes(after text default null, max_rows int default 100, owner_id uuid default null)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  present pg_snapshot := pg_current_snapshot();
  read_to pg_snapshot;
  target pg_snapshot;
  last_id bigint;
  reset boolean;
  everyone boolean := owner_id is null and ((select auth.role()) = 'service_role' or private.is_operator());
  -- Whoever may not read this owner's history finds nothing: the policy sees to that.
  reader uuid := coalesce(owner_id, (select auth.uid()));
  found jsonb;
  n int;
begin
  if max_rows is null or max_rows not between 0 and 1000 then
    perform lifecycle.refuse_input('max_rows', 'must be a whole number from 0 to 1000.');
  end if;
  select c.read_to, c.target, c.last_id, c.reset into read_to, target, last_id, reset
  from private.read_changes_cursor(after) c;
  if reset then
    return jsonb_build_object('events', '[]'::jsonb, 'next', present, 'has_more', false, 'reset', true);
  end if;
  if max_rows = 0 then
    return jsonb_build_object('events', '[]'::jsonb, 'next', present, 'has_more', false, 'reset', false);
  end if;

  -- Two queries, since an owner's index serves only a plain comparison and operators have none to make.
  if everyone then
    select jsonb_agg(
        private.event_json(e) || jsonb_build_object('cursor', concat_ws('/', read_to, target, e.id)) order by e.id
      ), count(*)
    into found, n
    from (
      select * from public.status_events e
      where e.xid >= pg_snapshot_xmin(read_to)
        and not pg_visible_in_snapshot(e.xid, read_to) and pg_visible_in_snapshot(e.xid, target)
        and e.id > last_id
      order by e.id limit max_rows + 1
    ) e;
  else
    select jsonb_agg(
        private.event_json(e) || jsonb_build_object('cursor', concat_ws('/', read_to, target, e.id)) order by e.id
      ), count(*)
    into found, n
    from (
      select * from public.status_events e
      where e.owner_id = reader
        and e.xid >= pg_snapshot_xmin(read_to)
        and not pg_visible_in_snapshot(e.xid, read_to) and pg_visible_in_snapshot(e.xid, target)
        and e.id > last_id
      order by e.id limit max_rows + 1
    ) e;
  end if;

  if n > max_rows then
    found := found - max_rows;
    return jsonb_build_object(
      'events', found, 'has_more', true, 'reset', false,
      'next', found -> -1 ->> 'cursor'
    );
  end if;
  return jsonb_build_object('events', coalesce(found, '[]'), 'next', target, 'has_more', false, 'reset', false);
end;
$$;
comment on function public.status_changes is
  'The caller''s transitions after an opaque cursor (null: from the beginning; max_rows 0: only a cursor of this moment): { events, next, has_more, reset }. Nothing is missed or repeated, however late a transaction commits. Each event has the cursor that reads on behind it. owner_id: of this owner alone, for operators and secret keys. reset: the cursor is older than the history that is kept, or from another cluster; read everything anew, then go on from next.';

create function private.event_json(event public.status_events)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'id', event.id, 'machine', event.machine, 'subject_id', event.subject_id, 'seq', event.seq,
    'from_status', event.from_status, 'to_status', event.to_status, 'source', event.source, 'reason', event.reason,
    'error_stage', event.error_stage, 'error_code', event.error_code, 'error_message', event.error_message,
    'details', event.details, 'implied', event.implied, 'occurred_at', event.occurred_at, 'created_at', event.created_at
  )
$$;
comment on function private.event_json is 'One event of the history as readers get it.';

alter table public.status_events enable row level security;
alter table public.status_rejections enable row level security;
create policy "owners read their history" on public.status_events
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
create policy "owners read their rejections" on public.status_rejections
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
revoke all on public.status_events, public.status_rejections from public, anon, authenticated, service_role;
grant select on public.status_events, public.status_rejections to authenticated, service_role;

revoke execute on function
  private.keep_history(),
  lifecycle.because(public.event_source, text, jsonb, timestamptz, text[]),
  lifecycle.reject(text, uuid, uuid, text, text, public.event_source, text, jsonb),
  private.event_json(public.status_events), private.read_changes_cursor(text),
  public.status_changes(text, int, uuid)
from public, anon, authenticated;
grant execute on function
  private.event_json(public.status_events), private.read_changes_cursor(text),
  public.status_changes(text, int, uuid)
to authenticated, service_role;
