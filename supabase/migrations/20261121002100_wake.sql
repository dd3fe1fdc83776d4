-- Which lanes have work that nobody does, and waking them.

create function lifecycle.lane_load(lane text, out due boolean, out leases int)
language plpgsql
stable
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
begin
  due := false;
  leases := 0;
  if lane = 'containers' then
    due := exists (select from public.workflow_threads t where t.launch_due_at <= moment)
      or exists (select from public.workflow_threads t where t.probe_due_at <= moment)
      -- Machines that nobody knows are looked for as long as any may be alive.
      or (
        exists (select from public.workflow_threads t where t.probe_due_at is not null)
        and not exists (
          select from lifecycle.watermarks w, lifecycle.settings s where w.machines_listed_at > moment - s.probe_interval)
      );
    select count(*) into leases from public.workflow_threads t
    where t.launch_due_at > moment or (t.probe_due_at > moment and t.probe_token is not null);
  elsif lane = 'processing' then
    due := exists (select from public.workflow_threads t where t.processing_due_at <= moment);
    select count(*) into leases from public.workflow_threads t
    where t.processing_due_at > moment and t.processing_token is not null;
  elsif lane = 'prompts' then
    due := exists (
      select from public.flow_executions e
      where e.status = 'running' and (e.lease_expires_at is null or e.lease_expires_at <= moment)
        and (e.not_before is null or e.not_before <= moment)
    );
    select count(*) into leases from public.flow_executions e where e.status = 'running' and e.lease_expires_at > moment;
  elsif lane = 'scripts' then
    due := exists (select from public.workflows w where w.next_due_at <= moment)
      or exists (
        select from public.script_runs s
        where s.status = 'running' and s.lease_owner is null and s.lease_expires_at <= moment
      );
    select count(*) into leases from public.script_runs s
    where s.status = 'running' and s.lease_owner is not null and s.lease_expires_at > moment;
  elsif lane = 'reconcile' then
    due := exists (select from public.workflow_mutations m where m.next_reconcile_at <= moment);
  elsif lane = 'agents' then
    due := exists (select from private.due_tasks(moment))
      or exists (
        select from public.workflows w
        where w.maintenance and not exists (
          select from public.workflow_tasks t where t.workflow_id = w.id and t.type = 'maintainer' and t.state = 'queued'
        )
      );
    select count(*) into leases from public.workflow_tasks t where t.state = 'queued' and t.lease_expires_at > moment;
  elsif lane = 'webhooks' then
    due := private.next_webhook(moment) is not null;
    select count(*) into leases from public.webhook_deliveries d
    where d.lease_token is not null and d.next_attempt_at > moment;
  end if;
end;
$$;
comment on function lifecycle.lane_load is 'Has a lane work that is due and unclaimed, and how many live leases?';

create function lifecycle.wake()
returns text[]
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan -- planning it anew costs more than it
as $$
declare
  woken text[] := '{}';
  candidate record;
begin
  for candidate in select l.lane, l.max_leases from lifecycle.lanes l order by l.lane loop
    if (select load.due and load.leases < candidate.max_leases from lifecycle.lane_load(candidate.lane) load)
      and lifecycle.post_work(candidate.lane)
    then
      update lifecycle.lanes l set woken_at = lifecycle.now() where l.lane = candidate.lane;
      woken := woken || candidate.lane;
    end if;
  end loop;
  return woken;
end;
$$;
comment on function lifecycle.wake is 'Wakes each lane that has due work and fewer live leases than its limit; runs every 5 s. Returns the lanes it woke.';

revoke execute on function lifecycle.lane_load(text), lifecycle.wake() from public, anon, authenticated, service_role;
