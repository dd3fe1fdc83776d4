-- What must never be. Empty, always: tests end with it, operators watch it.

create view public.invariant_violations with (security_invoker = true) as
  with
  latest as (
    select distinct on (e.machine, e.subject_id) e.machine, e.subject_id, e.seq, e.to_status
    from public.status_events e order by e.machine, e.subject_id, e.seq desc
  ),
  chain as (
    select e.machine, e.subject_id, e.seq, e.from_status, e.to_status, e.source,
      lag(e.seq) over run as seq_before, lag(e.to_status) over run as status_before
    from public.status_events e
    window run as (partition by e.machine, e.subject_id order by e.seq)
  ),
  runs as (
    select m.machine, t.bot_id as subject_id, m.status, m.seq, t.bot_completed_at as ended_at
    from public.workflow_threads t,
      lateral (values ('bot', t.bot_status::text, t.bot_seq), ('meeting', t.meeting_status::text, t.meeting_seq)) m (machine, status, seq)
    where t.bot_status is not null
    union all
    select 'flow_execution', e.id, e.status::text, e.version, e.completed_at from public.flow_executions e
    union all
    select 'workflow', w.id, w.status::text, w.status_seq, null from public.workflows w
    union all
    select 'script_run', s.id, s.status::text, s.version, s.ended_at from public.script_runs s
    union all
    select 'handler_run', r.id, r.status::text, r.version, r.ended_at from public.handler_runs r
    union all
    select 'mutation', m.id, m.status::text, m.version, m.resolved_at from public.workflow_mutations m
  )
  select v.violation, v.machine, v.subject_id, v.detail from (
  select 'status_and_history_disagree' as violation, r.machine, r.subject_id,
    format('the row says %s (seq %s), the history %s (seq %s)', r.status, r.seq, l.to_status, l.seq) as detail
  from runs r left join latest l on l.machine = r.machine and l.subject_id = r.subject_id
  where (l.to_status, l.seq) is distinct from (r.status, r.seq)
    and (l.seq is not null or coalesce(r.ended_at >= (select h.pruned_before from private.history_horizon h), true))
  union all
  select 'seq_has_a_gap', c.machine, c.subject_id, format('%s follows %s', c.seq, coalesce(c.seq_before, 0))
  from chain c where c.seq <> coalesce(c.seq_before, 0) + 1
  union all
  select 'history_does_not_fold', c.machine, c.subject_id,
    format('event %s starts from %s, the one before ended in %s', c.seq, c.from_status, c.status_before)
  from chain c where c.from_status is distinct from c.status_before
  union all
  select 'illegal_move_in_history', c.machine, c.subject_id, format('%s to %s', c.from_status, c.to_status)
  from chain c
  where c.from_status is not null and c.source <> 'repair' and not exists (
    select from lifecycle.transitions t
    where t.machine = c.machine and t.from_state = c.from_status and t.to_state = c.to_status
  )
  union all
  select 'open_without_a_deadline', 'bot', t.bot_id, format('%s, %s', t.bot_status, t.meeting_status)
  from public.workflow_threads t where lifecycle.is_open(t.bot_status) and t.deadline_at is null
  union all
  select 'ended_with_work_left', 'bot', t.bot_id, t.bot_status::text
  from public.workflow_threads t
  where not lifecycle.is_open(t.bot_status) and (t.launch_due_at is not null or t.processing_due_at is not null)
  union all
  select 'open_without_a_deadline', 'flow_execution', e.id, e.status::text
  from public.flow_executions e where e.status = 'running' and e.deadline_at is null
  union all
  select 'results_and_index_disagree', 'flow_execution', e.id,
    format('%s of %s prompts, %s results', e.current_prompt_index, e.total_prompts, r.answered)
  from public.flow_executions e
  cross join lateral (
    select count(*) filter (where r.response is not null) as answered, max(r.prompt_index) as last,
      count(*) filter (where r.error is not null and r.prompt_index <> e.current_prompt_index) as stray
    from public.flow_prompt_results r where r.execution_id = e.id
  ) r
  where r.answered <> e.current_prompt_index or r.last > e.current_prompt_index or r.stray > 0
  union all
  select 'reserved_by_nobody', 'event', e.id, format('reserved by run %s, which is %s', r.id, r.status)
  from public.workflow_events e join public.handler_runs r on r.id = e.reserved_by_run_id
  join public.workflows w on w.id = e.workflow_id
  where e.status = 'reserved' and r.status <> 'active' and w.pending_retry_run_id is distinct from r.id
    and not exists (
      select from public.workflow_mutations m
      where m.run_id = r.id and m.status in ('in_flight', 'needs_reconcile', 'indeterminate')
    )
  union all
  select 'retry_of_the_wrong_run', 'workflow', w.id, format('run %s is %s, %s', r.id, r.status, coalesce(r.mutation_outcome::text, 'without an outcome'))
  from public.workflows w join public.handler_runs r on r.id = w.pending_retry_run_id
  where r.status in ('active', 'committed') or exists (select from public.handler_runs n where n.retry_of = r.id)
    or (coalesce(r.mutation_outcome not in ('success', 'skipped'), true) and not exists (
      select from public.workflow_mutations m
      where m.run_id = r.id and m.status in ('in_flight', 'needs_reconcile', 'indeterminate')
    ))
  union all
  select 'unresolved_without_an_error', 'mutation', m.id, m.status::text
  from public.workflow_mutations m join public.handler_runs r on r.id = m.run_id join public.workflows w on w.id = m.workflow_id
  where m.status in ('in_flight', 'needs_reconcile', 'indeterminate') and r.status <> 'active' and w.error is null
  union all
  select 'in_flight_without_a_run', 'mutation', m.id, format('run %s is %s', r.id, r.status)
  from public.workflow_mutations m join public.handler_runs r on r.id = m.run_id
  where m.status = 'in_flight' and r.status <> 'active'
  union all
  select 'ended_with_a_run_left', 'script_run', s.id, format('%s, while run %s is active', s.status, r.id)
  from public.handler_runs r join public.script_runs s on s.id = r.script_run_id
  where r.status = 'active' and s.status <> 'running'
  union all
  -- Given back, a session waits for a worker as long as it takes.
  select 'session_without_a_worker', 'script_run', s.id, format('its lease ended at %s', s.lease_expires_at)
  from public.script_runs s
  where s.status = 'running' and s.lease_owner is not null and s.lease_expires_at < lifecycle.now() - interval '60 s'
  union all
  select 'maintenance_without_a_maintainer', 'workflow', w.id, format('since %s', w.updated_at)
  from public.workflows w
  where w.maintenance and w.updated_at < lifecycle.now() - interval '5 min' and not exists (
    select from public.workflow_tasks t
    where t.workflow_id = w.id and t.type = 'maintainer' and t.state in ('queued', 'waiting')
  )
  union all
  select 'webhook_is_not_what_happened', d.machine, d.subject_id, format('delivery %s tells of %s', d.id, d.type)
  from public.webhook_deliveries d
  join public.status_events e on e.subject_id = d.subject_id and e.machine = d.machine and e.id = d.event_id
  where (d.owner_id, d.type) is distinct from (e.owner_id, e.machine || '.' || e.to_status)
  union all
  select 'webhook_of_another_owner', d.machine, d.subject_id, format('delivery %s goes to endpoint %s', d.id, p.id)
  from public.webhook_deliveries d join public.webhook_endpoints p on p.id = d.endpoint_id
  where d.owner_id <> p.owner_id
  ) v
  -- Users of the API see it only as operators; row level security shows those everything.
  where current_user not in ('anon', 'authenticated') or (select private.is_operator());
comment on view public.invariant_violations is
  'What must never be: violation, machine, subject_id, detail. For operators and secret keys; an empty answer is the good one.';

revoke all on public.invariant_violations from public, anon, authenticated, service_role;
grant select on public.invariant_violations to authenticated, service_role;
