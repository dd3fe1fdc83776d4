-- Handler runs: created, advanced phase by phase, committed.

create function public.create_handler_run(
  session_id uuid, lease_token uuid default null,
  handler_type public.handler_type default null, handler_name text default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write runs
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  is_held boolean;
  of_workflow uuid;
  of_script uuid;
  owner uuid;
  session_status public.script_run_status;
  session_trigger public.session_trigger;
  has_retry boolean;
  is_blocked boolean;
  found_run uuid;
  is_uncertain boolean;
  next_type public.handler_type;
  next_name text;
  state jsonb;
  run public.handler_runs;
begin
  -- private.hold_session(), without whole rows.
  select s.lease_token = create_handler_run.lease_token and s.lease_owner is not null,
    w.id, s.script_id, w.owner_id, s.status, s.trigger, w.pending_retry_run_id is not null,
    w.status = 'archived'
      -- A test runs also where the workflow does not, but not on when it was paused meanwhile.
      or (w.status <> 'active' and (s.trigger <> 'manual' or w.status_updated_at > s.started_at))
      or w.error is not null or w.maintenance
  into is_held, of_workflow, of_script, owner, session_status, session_trigger, has_retry, is_blocked
  from public.script_runs s join public.workflows w on w.id = s.workflow_id
  where s.id = create_handler_run.session_id
  for no key update of w, s;
  if is_held is not true then
    perform private.hold_session(session_id, lease_token);
  end if;
  if (create_handler_run.handler_type is null) <> (create_handler_run.handler_name is null) then
    perform lifecycle.refuse_input('handler_name', 'and handler_type are given together, or neither.');
  elsif session_status <> 'running' then
    perform lifecycle.refuse(409, 'session_ended', 'The session has ended: claim one again.');
  end if;
  -- All that is asked of other tables, behind the locks: a run that is under way, a side effect that nobody knows the end
  -- of, and what comes next: due producers, then consumers with work, each the longest due first.
  select
    (select r.id from public.handler_runs r where r.workflow_id = of_workflow and r.script_run_id = create_handler_run.session_id and r.status = 'active'),
    exists (
      select from public.workflow_mutations m
      where m.workflow_id = of_workflow and m.status in ('in_flight', 'needs_reconcile', 'indeterminate')
    ),
    h.handler_type, h.handler_name, h.state
  into found_run, is_uncertain, next_type, next_name, state
  from public.workflow_scripts s
  left join lateral (
    select h.handler_type, h.handler_name, h.state
    from public.handler_states h
    left join public.producer_schedules p
      on h.handler_type = 'producer' and p.workflow_id = h.workflow_id and p.producer = h.handler_name
    where h.workflow_id = of_workflow and s.config -> (h.handler_type || 's') ? h.handler_name
      and case
        when create_handler_run.handler_name is not null then
          (h.handler_type, h.handler_name) = (create_handler_run.handler_type, create_handler_run.handler_name)
        -- A producer runs at most once a session; a test runs all of them.
        when h.handler_type = 'producer' then (session_trigger = 'manual' or p.next_run_at <= moment) and not exists (
          select from public.handler_runs r
          where r.script_run_id = create_handler_run.session_id and r.handler_type = 'producer' and r.handler_name = h.handler_name
        )
        else h.dirty or h.wake_at <= moment
      end
    order by h.handler_type,
      case h.handler_type when 'producer' then p.next_run_at else least(case when h.dirty then h.updated_at end, h.wake_at) end,
      h.handler_name
    limit 1
  ) h on true
  where s.id = of_script;

  if found_run is not null then
    select * into run from public.handler_runs r where r.id = found_run;
    if create_handler_run.handler_name is null
      or (run.handler_type, run.handler_name) = (create_handler_run.handler_type, create_handler_run.handler_name)
    then
      return jsonb_build_object('ok', true, 'changed', false, 'result', 'unchanged', 'run', private.run_json(run));
    end if;
    perform lifecycle.refuse(409, 'run_active', 'A run of the session is under way: commit it or end it first.');
  elsif has_retry then
    perform lifecycle.refuse(409, 'retry_pending', 'A run has to be gone on with first: finish the session and claim the retry.');
  elsif is_blocked or is_uncertain then
    perform lifecycle.refuse(409, 'not_runnable', 'The workflow was paused or blocked meanwhile: finish the session.');
  elsif next_name is null then
    if create_handler_run.handler_name is not null then
      perform lifecycle.refuse(404, 'handler_not_found', 'The script of the session has no such handler.');
    end if;
    return '{"ok": true, "changed": false, "result": "nothing_due", "run": null}';
  end if;
  insert into public.handler_runs as r (script_run_id, workflow_id, owner_id, handler_type, handler_name, state_before, started_at)
  values (create_handler_run.session_id, of_workflow, owner, next_type, next_name, state, moment)
  returning * into run;
  return jsonb_build_object('ok', true, 'changed', true, 'result', 'created', 'run', private.run_json(run));
end;
$$;
comment on function public.create_handler_run is
  'Begins a run of the handler that is due next, or of the one that is named: { result: created | nothing_due | unchanged, run }. PT409 retry_pending, not_runnable (finish the session), run_active, session_ended, stale_lease.';

create function public.peek_events(run_id uuid, lease_token uuid, topic text, max_rows int default 100)
returns jsonb
language plpgsql
security definer -- reads for the worker that has the lease
set search_path = ''
as $$
declare
  held record := private.hold_run(run_id, lease_token);
  run public.handler_runs := held.run;
begin
  if max_rows is null or max_rows not between 1 and 1000 then
    perform lifecycle.refuse_input('max_rows', 'must be a whole number from 1 to 1000.');
  end if;
  perform private.check_topic((held.session).script_id, run, 'subscribe', topic);
  return jsonb_build_object('events', (
    select coalesce(jsonb_agg(jsonb_build_object(
      'message_id', e.message_id, 'payload', e.payload, 'attempt_number', e.attempt_number, 'created_at', e.created_at
    ) order by e.position), '[]')
    from (
      select e.* from public.workflow_events e join public.workflow_topics t on t.id = e.topic_id
      where t.workflow_id = run.workflow_id and t.name = peek_events.topic and e.status = 'pending'
      order by e.position limit max_rows
    ) e
  ));
end;
$$;
comment on function public.peek_events is
  'The pending events of a topic that the run''s consumer subscribes to, oldest first: { events }. PT409 unknown_topic, stale_lease.';

create function private.check_topic(script_id uuid, run public.handler_runs, list text, topic text)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if not coalesce((
    select s.config -> (run.handler_type || 's') -> run.handler_name -> list ? topic
    from public.workflow_scripts s where s.id = check_topic.script_id
  ), false) then
    perform lifecycle.refuse(409, 'unknown_topic',
      format('%s names %s in its %s: it is not among them.', run.handler_name, coalesce(topic, 'nothing'), list),
      jsonb_build_object('topic', topic, 'handler_name', run.handler_name));
  end if;
end;
$$;
comment on function private.check_topic is 'Raises PT409 unknown_topic unless the handler of a run lists a topic (list: subscribe or publishes).';

create function private.reserve_events(script_id uuid, run public.handler_runs, reservations jsonb)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  events jsonb;
  is_whole boolean;
  missing record;
begin
  if reservations = '[]' then
    return reservations;
  elsif jsonb_typeof(reservations) is distinct from 'array'
    or reservations @? 'strict $[*] ? (@.type() != "object" || (@.ids.type() == "array") is unknown || @.ids.type() != "array")'
  then
    perform lifecycle.refuse_input('reservations', 'must be a list of { topic, ids }.');
  end if;
  -- Whoever writes events has the lock of their workflow: the order among them does not matter. Each is found by its own
  -- look-up, however many others there are.
  with reserved as (
    update public.workflow_events e
    set status = 'reserved', reserved_by_run_id = run.id, updated_at = lifecycle.now()
    where e.status = 'pending' and e.id = any (array(
      select f.id
      from jsonb_array_elements(reservations) r (wanted)
      cross join lateral jsonb_array_elements_text(r.wanted -> 'ids') i (id)
      cross join lateral (
        select e.id from public.workflow_topics t join public.workflow_events e on e.topic_id = t.id and e.message_id = i.id
        where t.workflow_id = run.workflow_id and t.name = r.wanted ->> 'topic' limit 1
      ) f
      where (
        select s.config -> 'consumers' -> run.handler_name -> 'subscribe'
        from public.workflow_scripts s where s.id = reserve_events.script_id
      ) ? (r.wanted ->> 'topic')
    ))
    returning (select t.name from public.workflow_topics t where t.id = e.topic_id), e.message_id, e.payload, e.attempt_number, e.position
  )
  select
    jsonb_agg(jsonb_build_object(
      'topic', e.name, 'message_id', e.message_id, 'payload', e.payload, 'attempt_number', e.attempt_number
    ) order by e.position),
    count(*) = (select sum(jsonb_array_length(r.wanted -> 'ids')) from jsonb_array_elements(reservations) r (wanted))
  into events, is_whole
  from reserved e;
  if is_whole then
    return events;
  end if;

  -- One was named twice, which does no harm, or one is not to be had, and then none is.
  select n.topic, n.message_id, e.status into missing
  from private.named_events(run.workflow_id, reservations) n
  left join public.workflow_events e on e.id = n.event_id
  where e.id is null or (e.status <> 'pending' and e.reserved_by_run_id is distinct from run.id) or not coalesce((
    select s.config -> 'consumers' -> run.handler_name -> 'subscribe' ? n.topic
    from public.workflow_scripts s where s.id = reserve_events.script_id
  ), false)
  order by n.topic, n.message_id limit 1;
  if found then
    perform lifecycle.refuse(409, case when missing.status is null or missing.status = 'pending' then 'unknown_event' else 'event_not_pending' end,
      format('prepare() reserved event %s of topic %s: it must be there, pending, and of a topic that the consumer subscribes to.',
        missing.message_id, missing.topic),
      jsonb_build_object('topic', missing.topic, 'message_id', missing.message_id, 'status', missing.status));
  end if;
  return coalesce(events, '[]');
end;
$$;
comment on function private.reserve_events is
  'Reserves events for a run, all or none, and returns them as its worker gets them: PT409 unknown_event, event_not_pending. reservations: [{ topic, ids }].';

create function private.named_events(workflow_id uuid, reservations jsonb)
returns table (topic text, message_id text, event_id uuid)
language sql
stable
set search_path = ''
as $$
  select distinct r.wanted ->> 'topic', i.id, e.id
  from jsonb_array_elements(reservations) r (wanted)
  cross join jsonb_array_elements_text(r.wanted -> 'ids') i (id)
  left join public.workflow_topics t on t.workflow_id = named_events.workflow_id and t.name = r.wanted ->> 'topic'
  left join public.workflow_events e on e.topic_id = t.id and e.message_id = i.id
$$;
comment on function private.named_events is 'The events that reservations name; event_id null where there is none.';

create function public.advance_handler_run(
  run_id uuid, phase public.handler_phase, payload jsonb default '{}', lease_token uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write runs
set search_path = ''
as $$
declare
  run public.handler_runs;
  of_script uuid;
  is_held boolean;
  before public.handler_phase;
  run_status public.handler_run_status;
  outcome public.mutation_outcome;
  events jsonb;
  answer jsonb;
  wakes_at timestamptz;
begin
  -- private.hold_run(), without whole rows.
  select s.script_id, s.lease_token = advance_handler_run.lease_token and s.lease_owner is not null, r.phase, r.status, r.mutation_outcome
  into of_script, is_held, before, run_status, outcome
  from public.handler_runs r
  join public.script_runs s on s.id = r.script_run_id
  join public.workflows w on w.id = s.workflow_id
  where r.id = advance_handler_run.run_id
  for no key update of w, s, r;
  if is_held is not true then
    perform private.hold_run(run_id, lease_token);
  end if;
  if run_status <> 'active' then
    perform lifecycle.refuse(409, 'run_not_active', format('The run has ended: it is %s.', run_status), jsonb_build_object('status', run_status));
  elsif advance_handler_run.phase is null then
    perform lifecycle.refuse_input('phase', 'is needed.');
  elsif advance_handler_run.phase = before then
    select * into run from public.handler_runs r where r.id = advance_handler_run.run_id;
    return jsonb_build_object('ok', true, 'changed', false, 'result', 'unchanged', 'run', private.run_json(run));
  elsif advance_handler_run.phase = 'committed' then
    perform lifecycle.refuse(409, 'use_commit_operation', 'A run is committed by commit_producer() or commit_consumer().');
  elsif advance_handler_run.phase = 'emitting' and outcome = 'failure' then
    perform private.refuse_unknown_outcome(run_id, outcome);
  end if;

  -- The hop first, since the guard knows which is legal; whatever is refused below undoes it.
  if advance_handler_run.phase = 'prepared' then
    update public.handler_runs r set phase = 'prepared', prepare_result = payload -> 'result'
    where r.id = advance_handler_run.run_id returning * into run;
    events := private.reserve_events(of_script, run, coalesce(payload -> 'reservations', '[]'));
    if payload ->> 'wake_at' is not null then
      wakes_at := least(greatest((payload ->> 'wake_at')::timestamptz, lifecycle.now() + interval '30 s'), lifecycle.now() + interval '24 h');
    end if;
    update public.handler_states h set wake_at = wakes_at
    where h.workflow_id = run.workflow_id and h.handler_type = 'consumer' and h.handler_name = run.handler_name
      and h.wake_at is distinct from wakes_at;
    return jsonb_build_object('ok', true, 'changed', true, 'result', 'processed', 'run', jsonb_build_object(
      'run_id', run_id, 'status', 'active', 'phase', 'prepared', 'prepare_result', run.prepare_result, 'events', events));
  end if;
  update public.handler_runs r set phase = advance_handler_run.phase where r.id = advance_handler_run.run_id;
  answer := '{"ok": true, "changed": true, "result": "processed"}';
  if advance_handler_run.phase = 'mutating' then
    perform from public.workflow_events e where e.reserved_by_run_id = advance_handler_run.run_id and e.status = 'reserved' limit 1;
    if not found then
      perform lifecycle.refuse(409, 'nothing_reserved', 'A run without events has nothing to do outside: advance it to emitting.');
    end if;
  elsif advance_handler_run.phase = 'mutated' then
    if exists (select from public.workflow_mutations m where m.run_id = advance_handler_run.run_id) then
      perform lifecycle.refuse(409, 'mutation_exists', 'What became of the side effect moves the run: apply_mutation() or fail_mutation().');
    end if;
  elsif advance_handler_run.phase = 'emitting' then
    if outcome is null then
      perform private.refuse_unknown_outcome(run_id, null);
    end if;
    return answer || jsonb_build_object('run', jsonb_build_object(
      'run_id', run_id, 'status', 'active', 'phase', 'emitting', 'mutation_outcome', outcome, 'result', private.known_outcome(run_id, outcome)));
  end if;
  return answer || jsonb_build_object('run', jsonb_build_object('run_id', run_id, 'status', 'active', 'phase', advance_handler_run.phase));
end;
$$;
comment on function public.advance_handler_run is
  'Moves a run one phase on. prepared: payload { result, reservations: [{ topic, ids }], wake_at } reserves the events, all or none, and sets when the consumer wakes at the latest (30 s to 24 h from now; null: not). run: what the hop changed (prepared: prepare_result and events, emitting: result), unchanged: all of it. mutating needs a reserved event; mutated is refused while there is a mutation. PT409 run_not_active, illegal_transition, unknown_event, event_not_pending, nothing_reserved, mutation_exists, mutation_failed, unresolved_mutation, use_commit_operation, stale_lease.';

create function private.refuse_unknown_outcome(run_id uuid, outcome public.mutation_outcome)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if exists (
    select from public.workflow_mutations m where m.run_id = refuse_unknown_outcome.run_id and m.status in ('in_flight', 'needs_reconcile', 'indeterminate')
  ) then
    perform lifecycle.refuse(409, 'unresolved_mutation', 'Nobody knows whether the side effect happened: the run can not go on.');
  elsif outcome = 'failure' then
    perform lifecycle.refuse(409, 'mutation_failed', 'The side effect did not happen: end the run with update_handler_run_status().');
  end if;
end;
$$;
comment on function private.refuse_unknown_outcome is 'Raises PT409 where a run whose outcome is no success may not go on behind its side effect: unresolved_mutation, mutation_failed.';

create function private.publish(script_id uuid, run public.handler_runs, publications jsonb)
returns void
language plpgsql
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  publication jsonb;
  published text[] := '{}';
begin
  if jsonb_typeof(publications) is distinct from 'array' or jsonb_array_length(publications) > 1000 then
    perform lifecycle.refuse_input('publications', 'must be a list of at most 1000 { topic, message_id, payload }.');
  end if;
  for publication in select * from jsonb_array_elements(publications) loop
    if coalesce(publication ->> 'message_id', '') = '' or length(publication ->> 'message_id') > 255
      or octet_length((publication -> 'payload')::text) > 65536
    then
      perform lifecycle.refuse_input('publications', 'have a message_id of 1 to 255 characters and a payload of at most 64 KB.');
    end if;
    perform private.check_topic(script_id, run, 'publishes', publication ->> 'topic');
  end loop;

  -- The same message may stand in it twice: the last one counts. In one order, for the sake of the locks.
  with wanted as (
    select distinct on (t.id, p.publication ->> 'message_id') t.id as topic_id, t.name, p.publication ->> 'message_id' as message_id,
      coalesce(p.publication -> 'payload', 'null') as payload, p.position
    from jsonb_array_elements(publications) with ordinality p (publication, position)
    join public.workflow_topics t on t.workflow_id = run.workflow_id and t.name = p.publication ->> 'topic'
    order by t.id, p.publication ->> 'message_id', p.position desc
  ), written as (
    insert into public.workflow_events as e (
      workflow_id, owner_id, topic_id, message_id, payload, created_by_run_id, created_at, updated_at
    )
    select run.workflow_id, run.owner_id, w.topic_id, w.message_id, w.payload, run.id, moment, moment
    from wanted w order by w.position
    on conflict on constraint one_event_per_message do update
    set payload = excluded.payload, updated_at = excluded.updated_at
    where e.status = 'pending' and e.payload is distinct from excluded.payload
    returning e.topic_id
  )
  select coalesce(array_agg(distinct w.name), '{}') into published
  from wanted w where w.topic_id in (select written.topic_id from written);

  update public.handler_states h set dirty = true, updated_at = moment
  from public.workflow_scripts s
  where s.id = publish.script_id and h.workflow_id = run.workflow_id and h.handler_type = 'consumer'
    and s.config -> 'consumers' -> h.handler_name -> 'subscribe' ?| published and not h.dirty;
end;
$$;
comment on function private.publish is
  'Writes what a run publishes: a new message is an event, a repeated one changes only while it is pending; the consumers of its topic have work.';

create function private.commit_run(
  session_id uuid, run public.handler_runs, state jsonb, publications jsonb, messages jsonb, cost bigint, logs jsonb
)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  message text;
begin
  if octet_length(state::text) > 1048576 then
    perform lifecycle.refuse_input('state', 'has at most 1 MB.');
  elsif jsonb_typeof(messages) is distinct from 'array' or jsonb_array_length(messages) > 100 then
    perform lifecycle.refuse_input('messages', 'must be a list of at most 100 texts.');
  end if;
  if publications is distinct from '[]' then
    perform private.publish((select s.script_id from public.script_runs s where s.id = session_id), run, publications);
  end if;
  if messages <> '[]' then
    for message in select * from jsonb_array_elements_text(messages) loop
      perform private.say(run.workflow_id, 'assistant', null, message, jsonb_build_object('run_id', run.id));
      perform private.notify_workflow(run.workflow_id, 'script_message', jsonb_build_object('message', message, 'run_id', run.id));
    end loop;
  end if;
  with saved as (
    update public.handler_states h set state = commit_run.state, updated_at = case when h.dirty then h.updated_at else lifecycle.now() end
    where commit_run.state is not null
      and h.workflow_id = run.workflow_id and h.handler_type = run.handler_type and h.handler_name = run.handler_name
  ), counted as (
    update public.script_runs s
    set handler_run_count = s.handler_run_count + 1, cost_microusd = s.cost_microusd + coalesce(cost, 0)
    where s.id = commit_run.session_id
  )
  update public.handler_runs r
  set phase = 'committed', status = 'committed', state_after = coalesce(commit_run.state, r.state_before),
    publications = commit_run.publications, cost_microusd = r.cost_microusd + coalesce(cost, 0),
    logs = case when commit_run.logs is not null then private.cut_logs(commit_run.logs) end
  where r.id = run.id;
  return jsonb_build_object('ok', true, 'changed', true, 'result', 'processed', 'run_id', run.id, 'status', 'committed');
end;
$$;
comment on function private.commit_run is 'What both kinds of commit do: publications, state, messages and the run itself; the caller holds the locks.';

create function private.check_commit(run public.handler_runs, phase public.handler_phase)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  if run.status = 'committed' then
    return jsonb_build_object('ok', true, 'changed', false, 'result', 'unchanged', 'run_id', run.id, 'status', 'committed');
  elsif run.status <> 'active' then
    perform lifecycle.refuse(409, 'run_not_active', format('The run has ended: it is %s.', run.status), jsonb_build_object('status', run.status));
  elsif run.phase <> check_commit.phase then
    perform lifecycle.refuse_transition(run.handler_type || '_phase', run.phase::text, 'committed');
  end if;
  return null;
end;
$$;
comment on function private.check_commit is 'Null where a run may be committed from this phase, the answer where it is, else PT409.';

create function public.commit_producer(
  run_id uuid, state jsonb, publications jsonb, next_run_at timestamptz, lease_token uuid default null,
  messages jsonb default '[]', cost bigint default 0, logs jsonb default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write runs
set search_path = ''
as $$
declare
  held record := private.hold_run(run_id, lease_token);
  run public.handler_runs := held.run;
  answer jsonb;
begin
  if run.handler_type <> 'producer' then
    perform lifecycle.refuse(409, 'wrong_handler_type', 'The run is one of a consumer: use commit_consumer().');
  end if;
  answer := private.check_commit(run, 'executing');
  if answer is not null then
    return answer;
  end if;
  update public.producer_schedules p
  set last_run_at = run.started_at, next_run_at = coalesce(commit_producer.next_run_at, p.next_run_at)
  where p.workflow_id = run.workflow_id and p.producer = run.handler_name;
  if found and next_run_at is null then
    perform lifecycle.refuse_input('next_run_at', 'is needed: the producer has a schedule.');
  end if;
  return private.commit_run(run.script_run_id, run, state, publications, messages, cost, logs);
end;
$$;
comment on function public.commit_producer is
  'Commits a producer''s run: its publications [{ topic, message_id, payload }] become events, its state (null: unchanged) and next_run_at are saved. cost in millionths of a US dollar. PT409 stale_lease, run_not_active, unknown_topic.';

create function public.commit_consumer(
  run_id uuid, state jsonb, publications jsonb, lease_token uuid default null,
  messages jsonb default '[]', cost bigint default 0, logs jsonb default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write runs
set search_path = ''
as $$
declare
  is_held boolean;
  run public.handler_runs;
  answer jsonb;
begin
  -- private.hold_run(), of the run only what a commit reads.
  select s.lease_token = commit_consumer.lease_token and s.lease_owner is not null,
    r.id, r.script_run_id, r.workflow_id, r.owner_id, r.handler_type, r.handler_name, r.status, r.phase, r.mutation_outcome, r.started_at
  into is_held, run.id, run.script_run_id, run.workflow_id, run.owner_id, run.handler_type, run.handler_name, run.status,
    run.phase, run.mutation_outcome, run.started_at
  from public.handler_runs r
  join public.script_runs s on s.id = r.script_run_id
  join public.workflows w on w.id = s.workflow_id
  where r.id = commit_consumer.run_id
  for no key update of w, s, r;
  if is_held is not true then
    perform private.hold_run(run_id, lease_token);
  end if;
  if run.handler_type <> 'consumer' then
    perform lifecycle.refuse(409, 'wrong_handler_type', 'The run is one of a producer: use commit_producer().');
  end if;
  if run.status <> 'active' or run.phase <> 'emitting' then
    answer := private.check_commit(run, 'emitting');
    if answer is not null then
      return answer;
    end if;
  end if;
  if run.mutation_outcome is null or run.mutation_outcome = 'failure' then
    perform private.refuse_unknown_outcome(run.id, run.mutation_outcome);
  end if;
  update public.workflow_events e set status = 'consumed', updated_at = lifecycle.now()
  where e.reserved_by_run_id = run.id and e.status = 'reserved';
  if not found and not exists (select from public.workflow_events e where e.reserved_by_run_id = run.id) then
    -- It looked and found nothing, unless it was given work anew while it looked.
    update public.handler_states h set dirty = false
    where h.workflow_id = run.workflow_id and h.handler_type = 'consumer' and h.handler_name = run.handler_name
      and h.dirty and h.updated_at <= run.started_at;
  end if;
  return private.commit_run(run.script_run_id, run, state, publications, messages, cost, logs);
end;
$$;
comment on function public.commit_consumer is
  'Commits a consumer''s run: its events are consumed, its state (null: unchanged) saved, its publications become events. cost in millionths of a US dollar. PT409 stale_lease, run_not_active, illegal_transition, mutation_failed, unresolved_mutation, unknown_topic.';

revoke execute on function
  private.check_topic(uuid, public.handler_runs, text, text),
  private.reserve_events(uuid, public.handler_runs, jsonb), private.named_events(uuid, jsonb),
  private.refuse_unknown_outcome(uuid, public.mutation_outcome),
  private.publish(uuid, public.handler_runs, jsonb),
  private.commit_run(uuid, public.handler_runs, jsonb, jsonb, jsonb, bigint, jsonb),
  private.check_commit(public.handler_runs, public.handler_phase)
from public, anon, authenticated, service_role;
revoke execute on function
  public.create_handler_run(uuid, uuid, public.handler_type, text), public.peek_events(uuid, uuid, text, int),
  public.advance_handler_run(uuid, public.handler_phase, jsonb, uuid),
  public.commit_producer(uuid, jsonb, jsonb, timestamptz, uuid, jsonb, bigint, jsonb),
  public.commit_consumer(uuid, jsonb, jsonb, uuid, jsonb, bigint, jsonb)
from public, anon, authenticated;
grant execute on function
  public.create_handler_run(uuid, uuid, public.handler_type, text), public.peek_events(uuid, uuid, text, int),
  public.advance_handler_run(uuid, public.handler_phase, jsonb, uuid),
  public.commit_producer(uuid, jsonb, jsonb, timestamptz, uuid, jsonb, bigint, jsonb),
  public.commit_consumer(uuid, jsonb, jsonb, uuid, jsonb, bigint, jsonb)
to service_role;
