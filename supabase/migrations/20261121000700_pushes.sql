-- Pushes: hints on private Realtime topics, sent in the transaction of the transition.

create table lifecycle.hints (
  topic text primary key,
  quiet_until timestamptz not null,
  xid xid8 not null,
  pending boolean not null default false
) with (fillfactor = 70);
comment on table lifecycle.hints is 'Until when nothing is said again on each owner''s topic (and operators), and which transaction spoke last.';
comment on column lifecycle.hints.pending is 'flush_hints() came too early after the last hint and owes one.';

create function lifecycle.hint(topic text)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
begin
  if exists (select from lifecycle.hints h where h.topic = hint.topic and h.quiet_until > moment) then
    return false;
  end if;
  -- Never waits for the row: whoever has it is about to send, and may wait for what this transaction holds.
  update lifecycle.hints h
  set quiet_until = moment + s.hint_interval, xid = pg_current_xact_id(), pending = false
  from lifecycle.settings s
  where h.topic = (
    select l.topic from lifecycle.hints l where l.topic = hint.topic and l.quiet_until <= moment for update skip locked
  );
  if not found then
    -- An insert would wait for the row, as for another one that inserts it.
    if exists (select from lifecycle.hints h where h.topic = hint.topic)
      or not pg_try_advisory_xact_lock(hashtextextended('hint:' || topic, 0))
    then
      return false;
    end if;
    insert into lifecycle.hints as h (topic, quiet_until, xid)
    select hint.topic, moment + s.hint_interval, pg_current_xact_id() from lifecycle.settings s
    on conflict on constraint hints_pkey do nothing;
  end if;
  return realtime.send(jsonb_build_object('at', moment), 'changed', topic, true) is not null;
end;
$$;
comment on function lifecycle.hint is
  'Tells a topic that something changed, at most once per interval and without waiting for other transactions; what it leaves out flush_hints() sends.';

create function lifecycle.hint_owner(owner_id uuid)
returns boolean
language plpgsql
set search_path = ''
as $$
begin
  -- While the owner's topic is quiet the operators' is left to flush_hints(), too: one look-up less for each transition.
  if owner_id is not null and not lifecycle.hint('owner:' || owner_id) then
    return false;
  end if;
  return lifecycle.hint('operators');
end;
$$;
comment on function lifecycle.hint_owner is 'Hints to an owner, and to the operators, that something of the owner''s changed.';

create function lifecycle.flush_hints(batch int default 500)
returns int
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan -- it runs every second: planning it costs more than it
as $$
declare
  marks lifecycle.watermarks;
  last record;
  due record;
  owed text[];
  sent int := 0;
begin
  if not (select s.push from lifecycle.settings s) then
    return 0;
  end if;
  select w.* into marks from lifecycle.watermarks w for update skip locked;
  if not found then
    return 0;
  end if;
  if marks.hinting_to is null then
    marks.hinting_to := pg_current_snapshot();
    marks.hinting_xid := pg_snapshot_xmin(marks.hinted_to);
    marks.hinting_id := 0;
  end if;

  -- In batches, since each hint to a new topic holds a lock to the end, and locks are few: after a long pause the rest
  -- waits for the next time.
  loop
    owed := marks.hints_owed;
    marks.hints_owed := '{}';
    select b.xid, b.id, b.n into last
    from (
      select n.xid, n.id, count(*) over () as n
      from (
        select e.xid, e.id from public.status_events e
        where (e.xid, e.id) > (marks.hinting_xid, marks.hinting_id)
          and not pg_visible_in_snapshot(e.xid, marks.hinted_to) and pg_visible_in_snapshot(e.xid, marks.hinting_to)
        order by e.xid, e.id limit batch
      ) n
    ) b
    order by b.xid desc, b.id desc limit 1;
    -- A hint covers its own transaction and what had committed before it. Whatever else became visible since the
    -- last flush may have come after it, so its topic hears once more.
    for due in
      with news as (
        select e.owner_id, e.xid from public.status_events e
        where (e.xid, e.id) > (marks.hinting_xid, marks.hinting_id) and (e.xid, e.id) <= (last.xid, last.id)
          and not pg_visible_in_snapshot(e.xid, marks.hinted_to) and pg_visible_in_snapshot(e.xid, marks.hinting_to)
      )
      select t.topic from (
        select 'owner:' || n.owner_id as topic, n.xid from news n where n.owner_id is not null
        union all
        select 'operators', n.xid from news n
      ) t
      left join lifecycle.hints h on h.topic = t.topic
      where h.xid is distinct from t.xid
      union
      (select h.topic from lifecycle.hints h where h.pending limit batch)
      union
      select unnest(owed)
    loop
      if lifecycle.hint(due.topic) then
        sent := sent + 1;
      else
        update lifecycle.hints h set pending = true
        where h.topic = (select l.topic from lifecycle.hints l where l.topic = due.topic for update skip locked);
        if not found then
          -- Its row is in another transaction, which sends if it commits.
          marks.hints_owed := marks.hints_owed || due.topic;
        end if;
      end if;
    end loop;
    if coalesce(last.n, 0) < batch then
      marks.hinted_to := marks.hinting_to;
      marks.hinting_to := null;
      exit;
    end if;
    marks.hinting_xid := last.xid;
    marks.hinting_id := last.id;
    exit when sent >= batch;
  end loop;
  update lifecycle.watermarks w
  set hinted_to = marks.hinted_to, hinting_to = marks.hinting_to, hinting_xid = marks.hinting_xid,
    hinting_id = marks.hinting_id, hints_owed = marks.hints_owed;
  return sent;
end;
$$;
comment on function lifecycle.flush_hints is 'Sends the hints that were held back, after a long pause in several calls; runs every second. Returns how many it sent. batch: how many events it looks at, and about how many hints it sends, at a time.';

create index hints_pending on lifecycle.hints (topic) where pending;

create function lifecycle.record(
  machine text, subject_id uuid, owner_id uuid, seq int, version int, from_status text, to_status text,
  at timestamptz, topic text, error_stage text, error_code text, error_message text, shown jsonb,
  webhook_url text default null, source public.event_source default 'system', progress jsonb default null
)
returns bigint
language plpgsql
set search_path = ''
as $$
declare
  because jsonb := nullif(current_setting('rollcall.because', true), '')::jsonb;
  event_id bigint;
  is_legal boolean;
  is_pushed boolean;
  is_hinted boolean;
  is_queued boolean;
  is_whole boolean := true;
  event public.status_events;
  pushed jsonb;
begin
  if because is not null then
    source := because ->> 'source';
    is_whole := because - 'source' = '{}';
  end if;
  -- One statement writes the event and looks up all that follows from it: each further one would cost as much again.
  insert into public.status_events as e (
    machine, subject_id, owner_id, seq, from_status, to_status, source, reason,
    error_stage, error_code, error_message, details, implied, occurred_at, created_at
  )
  values (
    machine, subject_id, owner_id, seq, from_status, to_status,
    source, because ->> 'reason',
    error_stage, error_code, error_message, nullif(because -> 'details', 'null'),
    coalesce(because -> 'implied' ? machine, false), (because ->> 'occurred_at')::timestamptz, at
  )
  returning e.id,
    record.from_status is null or exists (
      select from lifecycle.transitions t
      where t.machine = record.machine and t.from_state = record.from_status and t.to_state = record.to_status
    ),
    (select s.push from lifecycle.settings s),
    not exists (
      select from lifecycle.hints h where h.topic = 'owner:' || record.owner_id and h.quiet_until > record.at
    ),
    record.webhook_url is not null or exists (
      select from public.webhook_endpoints p where p.owner_id = record.owner_id and p.enabled
    )
  into event_id, is_legal, is_pushed, is_hinted, is_queued;

  -- Set by lifecycle.repair() alone, which only the owner of the schema may call.
  if not is_legal and current_setting('rollcall.repairing', true) is distinct from 'yes' then
    perform lifecycle.refuse_transition(machine, from_status, to_status);
  end if;

  -- Assignments, since plpgsql makes a whole query of each perform.
  if is_pushed then
    if progress is not null then
      is_pushed := realtime.send(progress, 'progress', topic, true) is not null;
    end if;
    is_whole := is_whole and error_code is null;
    pushed := jsonb_build_object(
      'event_id', event_id, 'machine', machine, 'subject_id', subject_id, 'seq', seq, 'version', version,
      'from', from_status, 'to', to_status, 'error_code', error_code, 'at', at,
      'source', case when is_whole then source end
    ) || shown;
    -- Pushes stay small: with source they tell the event whole, without it the rest is in the history.
    if not is_whole and coalesce(because -> 'details', 'null') = 'null'
      and coalesce(octet_length(because ->> 'reason'), 0) + coalesce(octet_length(error_message), 0) <= 300
    then
      pushed := pushed || jsonb_strip_nulls(jsonb_build_object(
        'source', source, 'reason', because -> 'reason',
        'error_stage', error_stage, 'error_message', error_message,
        'implied', nullif(because -> 'implied' ? machine, false), 'occurred_at', because -> 'occurred_at'
      ));
    end if;
    is_pushed := realtime.send(pushed, 'status_changed', topic, true) is not null;
    if is_hinted then
      is_hinted := lifecycle.hint_owner(owner_id);
    end if;
  end if;
  if is_queued and owner_id is not null then
    select e.* into event from public.status_events e
    where e.subject_id = record.subject_id and e.machine = record.machine and e.seq = record.seq;
    perform lifecycle.queue_webhooks(event, shown, webhook_url);
  end if;
  return event_id;
end;
$$;
comment on function lifecycle.record is
  'Decides whether a transition is legal (PT409 illegal_transition), writes it into the history, with what lifecycle.because() said of it, pushes it to the subject''s topic and queues its webhooks. Called by guards only. shown: what the push carries beside the transition. webhook_url: where the run itself wants its webhooks, instead of the owner''s endpoints. source: who made the move, where nobody said. progress: pushed as progress, before the transition.';

alter table lifecycle.hints enable row level security;
revoke all on lifecycle.hints from public, anon, authenticated, service_role;
revoke execute on function
  lifecycle.hint(text),
  lifecycle.hint_owner(uuid),
  lifecycle.flush_hints(int),
  lifecycle.record(text, uuid, uuid, int, int, text, text, timestamptz, text, text, text, text, jsonb, text, public.event_source, jsonb)
from public, anon, authenticated, service_role;
