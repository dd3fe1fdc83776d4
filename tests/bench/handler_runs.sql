-- What a consumer's run would be by hand: the same rows (run, event, mutation, handler state, session, history), written by
-- one function a step. Whoever has not the session's lease is refused; no guard, no legality, no push.
create table raw.session (
  id uuid primary key default gen_random_uuid(),
  lease_token uuid not null default gen_random_uuid(),
  lease_expires_at timestamptz not null default now() + interval '1 h',
  run_count int not null default 0
) with (fillfactor = 70);

create table raw.handler_run (
  id uuid primary key default gen_random_uuid(),
  session_id uuid not null references raw.session,
  handler text not null,
  phase text not null default 'pending',
  status text not null default 'active',
  version int not null default 1,
  outcome text,
  state_before jsonb,
  prepare_result jsonb,
  state_after jsonb,
  started_at timestamptz not null default now(),
  ended_at timestamptz
) with (fillfactor = 70);
create index on raw.handler_run (session_id, started_at);

create table raw.event (
  id bigint generated always as identity primary key,
  session_id uuid not null,
  message_id text not null,
  payload jsonb not null,
  status text not null default 'pending',
  run_id uuid references raw.handler_run,
  updated_at timestamptz not null default now(),
  unique (session_id, message_id)
) with (fillfactor = 70);
create index on raw.event (session_id, id) where status = 'pending';
create index on raw.event (run_id) where run_id is not null;

create table raw.mutation (
  id uuid primary key default gen_random_uuid(),
  run_id uuid not null unique references raw.handler_run,
  tool text not null,
  params jsonb not null,
  status text not null default 'in_flight',
  version int not null default 1,
  result jsonb,
  created_at timestamptz not null default now(),
  resolved_at timestamptz
) with (fillfactor = 70);

create table raw.handler_state (
  session_id uuid not null,
  handler text not null,
  state jsonb not null default '{}',
  dirty boolean not null default true,
  wake_at timestamptz,
  updated_at timestamptz not null default now(),
  primary key (session_id, handler)
) with (fillfactor = 70);

create table raw.run_history (
  id bigint generated always as identity primary key,
  subject_id uuid not null,
  from_status text,
  to_status text not null,
  version int not null,
  source text,
  detail jsonb,
  at timestamptz not null default clock_timestamp()
);
create index on raw.run_history (subject_id, version);

create function raw.hold(session_id uuid, lease_token uuid) returns void language plpgsql as $$
begin
  perform from raw.session s
  where s.id = hold.session_id and s.lease_token = hold.lease_token and s.lease_expires_at > now() for update;
  if not found then
    raise exception 'stale lease';
  end if;
end;
$$;

create function raw.begin_run(session_id uuid, lease_token uuid) returns uuid language plpgsql as $$
declare
  run_id uuid;
begin
  perform raw.hold(session_id, lease_token);
  insert into raw.handler_run as r (session_id, handler, state_before)
  select s.session_id, s.handler, s.state from raw.handler_state s
  where s.session_id = begin_run.session_id and (s.dirty or s.wake_at <= now())
  order by least(s.updated_at, s.wake_at), s.handler limit 1
  returning r.id into run_id;
  insert into raw.run_history (subject_id, to_status, version) values (run_id, 'active', 1);
  return run_id;
end;
$$;

create function raw.set_phase(session_id uuid, lease_token uuid, run_id uuid, phase text) returns void language plpgsql as $$
begin
  perform raw.hold(session_id, lease_token);
  update raw.handler_run r set phase = set_phase.phase where r.id = set_phase.run_id and r.status = 'active';
end;
$$;

create function raw.set_prepared(session_id uuid, lease_token uuid, run_id uuid, message_ids text[], result jsonb, wake_at timestamptz)
returns setof raw.event language plpgsql as $$
begin
  perform raw.hold(session_id, lease_token);
  update raw.handler_run r set phase = 'prepared', prepare_result = result
  where r.id = set_prepared.run_id and r.status = 'active';
  update raw.handler_state s set wake_at = set_prepared.wake_at
  where s.session_id = set_prepared.session_id and s.handler = 'C' and s.wake_at is distinct from set_prepared.wake_at;
  return query update raw.event e set status = 'reserved', run_id = set_prepared.run_id, updated_at = now()
    where e.session_id = set_prepared.session_id and e.message_id = any (message_ids) and e.status = 'pending'
    returning *;
end;
$$;

create function raw.begin_mutation(session_id uuid, lease_token uuid, run_id uuid, tool text, params jsonb)
returns uuid language plpgsql as $$
declare
  mutation_id uuid;
begin
  perform raw.hold(session_id, lease_token);
  update raw.session s set lease_expires_at = now() + interval '1 h' where s.id = begin_mutation.session_id;
  insert into raw.mutation as m (run_id, tool, params) values (begin_mutation.run_id, begin_mutation.tool, begin_mutation.params)
  returning m.id into mutation_id;
  insert into raw.run_history (subject_id, to_status, version) values (mutation_id, 'in_flight', 1);
  return mutation_id;
end;
$$;

create function raw.apply_mutation(session_id uuid, lease_token uuid, run_id uuid, mutation_id uuid, result jsonb)
returns void language plpgsql as $$
declare
  new_version int;
begin
  perform raw.hold(session_id, lease_token);
  update raw.mutation m
  set status = 'applied', result = apply_mutation.result, resolved_at = now(), version = m.version + 1
  where m.id = apply_mutation.mutation_id returning m.version into new_version;
  insert into raw.run_history (subject_id, from_status, to_status, version)
  values (apply_mutation.mutation_id, 'in_flight', 'applied', new_version);
  update raw.handler_run r set phase = 'mutated', outcome = 'success' where r.id = apply_mutation.run_id;
end;
$$;

create function raw.commit_run(session_id uuid, lease_token uuid, run_id uuid, state jsonb) returns void language plpgsql as $$
declare
  new_version int;
begin
  perform raw.hold(session_id, lease_token);
  update raw.event e set status = 'consumed', updated_at = now() where e.run_id = commit_run.run_id;
  update raw.handler_state s set state = commit_run.state, updated_at = now()
  where s.session_id = commit_run.session_id and s.handler = 'C';
  update raw.handler_run r
  set phase = 'committed', status = 'committed', state_after = commit_run.state, ended_at = now(), version = r.version + 1
  where r.id = commit_run.run_id returning r.version into new_version;
  insert into raw.run_history (subject_id, from_status, to_status, version)
  values (commit_run.run_id, 'active', 'committed', new_version);
  update raw.session s set run_count = s.run_count + 1 where s.id = commit_run.session_id;
end;
$$;
