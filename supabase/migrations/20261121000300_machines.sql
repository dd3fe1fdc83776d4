-- The machines are rows: the guard reads them, pages and diagrams are drawn from them.

create table lifecycle.machines (
  name text primary key,
  description text not null,
  history boolean not null
);
comment on table lifecycle.machines is 'A state machine. Without history (phases, events, tasks) a move writes no event and sends no push.';

create table lifecycle.states (
  machine text not null references lifecycle.machines,
  state text not null,
  kind text not null constraint known_kind check (kind in ('initial', 'open', 'terminal')),
  position int not null,
  time_limit interval constraint limit_is_positive check (time_limit > '0'),
  description text not null,
  primary key (machine, state)
);
comment on table lifecycle.states is 'A state of a machine. time_limit: how long a run may stay in it (meeting active: how long without a sign of life); null waits for ever.';

create table lifecycle.transitions (
  machine text not null,
  from_state text not null,
  to_state text not null,
  primary key (machine, from_state, to_state),
  foreign key (machine, from_state) references lifecycle.states,
  foreign key (machine, to_state) references lifecycle.states
);
comment on table lifecycle.transitions is 'The legal moves: every other pair is refused.';

insert into lifecycle.machines (name, description, history) values
  ('bot', 'Did the work get done? (bot_status of workflow_threads)', true),
  ('meeting', 'Is the bot in the room? (meeting_status of workflow_threads)', true),
  ('handler_run', 'Why is a handler run (not) running? (status of handler_runs)', true),
  ('mutation', 'What is known of a side effect? (status of mutations)', true),
  ('workflow', 'What does the user want? (status of workflows; what is shown is derived, see automations)', true),
  ('script_run', 'One session of a workflow (status of script_runs)', true),
  ('flow_execution', 'One run of a prompt flow (status of flow_executions)', true),
  ('producer_phase', 'How far did a producer run get? (phase of handler_runs)', false),
  ('consumer_phase', 'How far did a consumer run get? (phase of handler_runs; a retry run is inserted at emitting)', false),
  ('event', 'What became of an event? (status of events)', false),
  ('task', 'An agent''s task: planner or maintainer (state of tasks)', false);

insert into lifecycle.states (machine, state, kind, position, time_limit, description) values
  ('bot', 'pending', 'initial', 1, null, 'Asked for; its machine is not up yet.'),
  ('bot', 'starting', 'open', 2, null, 'Its machine is up or it is on its way into the room.'),
  ('bot', 'running', 'open', 3, null, 'It is in the room, or its result is being made.'),
  ('bot', 'completed', 'terminal', 4, null, 'It was in the room and its result is there.'),
  ('bot', 'failed', 'terminal', 5, null, 'It ended without its result; the error says why.'),
  ('meeting', 'requested', 'initial', 1, '180 s', 'Nothing was heard of the bot yet.'),
  ('meeting', 'joining', 'open', 2, '120 s', 'The bot is at the door.'),
  ('meeting', 'awaiting_admission', 'open', 3, '900 s', 'The bot waits in the lobby.'),
  ('meeting', 'active', 'open', 4, '180 s', 'The bot is in the room.'),
  ('meeting', 'stopping', 'open', 5, '30 s', 'The bot was told to leave.'),
  ('meeting', 'completed', 'terminal', 6, null, 'The bot left; the reason says why.'),
  ('meeting', 'failed', 'terminal', 7, null, 'The bot was lost or gave up; the stage says where.'),
  ('handler_run', 'active', 'initial', 1, null, 'It is running.'),
  ('handler_run', 'paused:transient', 'terminal', 2, null, 'The network failed; the system tries again.'),
  ('handler_run', 'paused:approval', 'terminal', 3, null, 'A person must grant access.'),
  ('handler_run', 'paused:reconciliation', 'terminal', 4, null, 'A side effect may have happened; it is being asked.'),
  ('handler_run', 'failed:logic', 'terminal', 5, null, 'The script is wrong.'),
  ('handler_run', 'failed:internal', 'terminal', 6, null, 'The system is at fault.'),
  ('handler_run', 'crashed', 'terminal', 7, null, 'Its worker died.'),
  ('handler_run', 'committed', 'terminal', 8, null, 'Its work is done and saved.'),
  ('mutation', 'in_flight', 'initial', 1, null, 'The call may have left.'),
  ('mutation', 'needs_reconcile', 'open', 2, null, 'Nobody knows yet; the other side is asked.'),
  ('mutation', 'indeterminate', 'open', 3, null, 'Nobody can tell; a person decides.'),
  ('mutation', 'applied', 'terminal', 4, null, 'It happened.'),
  ('mutation', 'failed', 'terminal', 5, null, 'It did not happen.'),
  ('workflow', 'draft', 'initial', 1, null, 'It is being written.'),
  ('workflow', 'active', 'open', 2, null, 'It runs on its schedule.'),
  ('workflow', 'disabled', 'open', 3, null, 'It is paused.'),
  ('workflow', 'archived', 'open', 4, null, 'It is put away.'),
  ('script_run', 'running', 'initial', 1, null, 'A worker has it.'),
  ('script_run', 'success', 'terminal', 2, null, 'Every run of it committed.'),
  ('script_run', 'failed', 'terminal', 3, null, 'A run of it did not commit.'),
  ('flow_execution', 'running', 'initial', 1, '15 min', 'Prompts are being answered.'),
  ('flow_execution', 'completed', 'terminal', 2, null, 'Every prompt is answered.'),
  ('flow_execution', 'failed', 'terminal', 3, null, 'A prompt could not be answered; the error says why.'),
  ('producer_phase', 'pending', 'initial', 1, null, 'Not begun.'),
  ('producer_phase', 'executing', 'open', 2, null, 'The handler runs.'),
  ('producer_phase', 'committed', 'terminal', 3, null, 'Its events are published.'),
  ('consumer_phase', 'pending', 'initial', 1, null, 'Not begun.'),
  ('consumer_phase', 'preparing', 'open', 2, null, 'prepare() runs.'),
  ('consumer_phase', 'prepared', 'open', 3, null, 'Its events are reserved.'),
  ('consumer_phase', 'mutating', 'open', 4, null, 'The side effect is under way.'),
  ('consumer_phase', 'mutated', 'open', 5, null, 'The outcome of the side effect is known.'),
  ('consumer_phase', 'emitting', 'open', 6, null, 'next() runs.'),
  ('consumer_phase', 'committed', 'terminal', 7, null, 'Its events are consumed and its publications visible.'),
  ('event', 'pending', 'initial', 1, null, 'Nobody has it.'),
  ('event', 'reserved', 'open', 2, null, 'A run has it.'),
  ('event', 'consumed', 'terminal', 3, null, 'Its effect is done.'),
  ('event', 'skipped', 'terminal', 4, null, 'A person gave it up.'),
  ('task', 'queued', 'initial', 1, null, 'An agent will take it.'),
  ('task', 'waiting', 'open', 2, null, 'It waits for an answer of the user.'),
  ('task', 'finished', 'terminal', 3, null, 'Done.'),
  ('task', 'error', 'terminal', 4, null, 'It failed for good.');

insert into lifecycle.transitions (machine, from_state, to_state) values
  ('bot', 'pending', 'failed'),
  ('bot', 'pending', 'starting'),
  ('bot', 'running', 'completed'),
  ('bot', 'running', 'failed'),
  ('bot', 'starting', 'failed'),
  ('bot', 'starting', 'running'),
  ('meeting', 'active', 'completed'),
  ('meeting', 'active', 'failed'),
  ('meeting', 'active', 'stopping'),
  ('meeting', 'awaiting_admission', 'active'),
  ('meeting', 'awaiting_admission', 'completed'),
  ('meeting', 'awaiting_admission', 'failed'),
  ('meeting', 'awaiting_admission', 'stopping'),
  ('meeting', 'joining', 'awaiting_admission'),
  ('meeting', 'joining', 'completed'),
  ('meeting', 'joining', 'failed'),
  ('meeting', 'joining', 'stopping'),
  ('meeting', 'requested', 'completed'),
  ('meeting', 'requested', 'failed'),
  ('meeting', 'requested', 'joining'),
  ('meeting', 'requested', 'stopping'),
  ('meeting', 'stopping', 'completed'),
  ('meeting', 'stopping', 'failed'),
  ('handler_run', 'active', 'committed'),
  ('handler_run', 'active', 'crashed'),
  ('handler_run', 'active', 'failed:internal'),
  ('handler_run', 'active', 'failed:logic'),
  ('handler_run', 'active', 'paused:approval'),
  ('handler_run', 'active', 'paused:reconciliation'),
  ('handler_run', 'active', 'paused:transient'),
  ('mutation', 'in_flight', 'applied'),
  ('mutation', 'in_flight', 'failed'),
  ('mutation', 'in_flight', 'indeterminate'),
  ('mutation', 'in_flight', 'needs_reconcile'),
  ('mutation', 'indeterminate', 'applied'),
  ('mutation', 'indeterminate', 'failed'),
  ('mutation', 'indeterminate', 'needs_reconcile'),
  ('mutation', 'needs_reconcile', 'applied'),
  ('mutation', 'needs_reconcile', 'failed'),
  ('mutation', 'needs_reconcile', 'indeterminate'),
  ('workflow', 'active', 'disabled'),
  ('workflow', 'archived', 'disabled'),
  ('workflow', 'archived', 'draft'),
  ('workflow', 'disabled', 'active'),
  ('workflow', 'disabled', 'archived'),
  ('workflow', 'draft', 'active'),
  ('workflow', 'draft', 'archived'),
  ('script_run', 'running', 'failed'),
  ('script_run', 'running', 'success'),
  ('flow_execution', 'running', 'completed'),
  ('flow_execution', 'running', 'failed'),
  ('producer_phase', 'executing', 'committed'),
  ('producer_phase', 'pending', 'executing'),
  ('consumer_phase', 'emitting', 'committed'),
  ('consumer_phase', 'mutated', 'emitting'),
  ('consumer_phase', 'mutating', 'mutated'),
  ('consumer_phase', 'pending', 'preparing'),
  ('consumer_phase', 'prepared', 'emitting'),
  ('consumer_phase', 'prepared', 'mutating'),
  ('consumer_phase', 'preparing', 'prepared'),
  ('event', 'pending', 'reserved'),
  ('event', 'reserved', 'consumed'),
  ('event', 'reserved', 'pending'),
  ('event', 'reserved', 'skipped'),
  ('task', 'queued', 'error'),
  ('task', 'queued', 'finished'),
  ('task', 'queued', 'waiting'),
  ('task', 'waiting', 'finished'),
  ('task', 'waiting', 'queued');

create function lifecycle.transition_allowed(machine text, from_state text, to_state text)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return exists (
    select from lifecycle.transitions t
    where t.machine = transition_allowed.machine
      and t.from_state = transition_allowed.from_state
      and t.to_state = transition_allowed.to_state
  );
end;
$$;
comment on function lifecycle.transition_allowed is 'Is this move in the table of moves?';

create function lifecycle.allowed_from(machine text, from_state text)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(t.to_state order by s.position), '[]')
  from lifecycle.transitions t
  join lifecycle.states s on s.machine = t.machine and s.state = t.to_state
  where t.machine = allowed_from.machine and t.from_state = allowed_from.from_state
$$;
comment on function lifecycle.allowed_from is 'The states that a run may move to from this one, as a JSON array; empty for a terminal state.';

create function lifecycle.refuse_transition(machine text, from_state text, to_state text)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  allowed jsonb := case
    when from_state is null then
      (select jsonb_agg(s.state) from lifecycle.states s where s.machine = refuse_transition.machine and s.kind = 'initial')
    else lifecycle.allowed_from(machine, from_state)
  end;
begin
  raise exception using
    errcode = 'PT409',
    message = 'illegal_transition',
    detail = jsonb_build_object('machine', machine, 'from', from_state, 'to', to_state, 'allowed', allowed)::text,
    hint = case
      when from_state is null then format('A new %s starts as %s.', machine, allowed ->> 0)
      when allowed = '[]' then format('%s is the end of a %s: it never changes again.', from_state, machine)
      else format('From %s a %s may become: %s.', from_state, machine,
        (select string_agg(a, ', ') from jsonb_array_elements_text(allowed) a))
    end;
end;
$$;
comment on function lifecycle.refuse_transition is 'Raises PT409 illegal_transition with detail { machine, from, to, allowed } and a hint that names the allowed states.';

alter table lifecycle.machines enable row level security;
alter table lifecycle.states enable row level security;
alter table lifecycle.transitions enable row level security;
create policy "everyone reads the machines" on lifecycle.machines for select to anon, authenticated, service_role using (true);
create policy "everyone reads the states" on lifecycle.states for select to anon, authenticated, service_role using (true);
create policy "everyone reads the transitions" on lifecycle.transitions for select to anon, authenticated, service_role using (true);
revoke all on lifecycle.machines, lifecycle.states, lifecycle.transitions from public, anon, authenticated, service_role;
grant select on lifecycle.machines, lifecycle.states, lifecycle.transitions to anon, authenticated, service_role;
revoke execute on function
  lifecycle.transition_allowed(text, text, text),
  lifecycle.allowed_from(text, text),
  lifecycle.refuse_transition(text, text, text)
from public, anon, authenticated;
