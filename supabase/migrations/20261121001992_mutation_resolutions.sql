-- What a person says of a side effect of which nobody knows whether it happened. Each way has its own consequences:
-- an event is worked on again only where the person says that nothing happened.

create function public.resolve_mutation(
  mutation_id uuid, how text, result jsonb default null, owner_id uuid default null, workflow_id uuid default null,
  actor uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write mutations
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  place record;
  workflow public.workflows;
  mutation public.workflow_mutations;
  resolver public.mutation_resolver := case when how = 'skipped' then 'user_skip' else 'user' end;
  becomes public.mutation_status := case how when 'applied' then 'applied' when 'ask_again' then 'needs_reconcile' else 'failed' end;
  unchanged boolean;
begin
  if coalesce(how not in ('failed', 'skipped', 'applied', 'ask_again'), true) then
    perform lifecycle.refuse_input('how', 'must be failed, skipped, applied or ask_again.');
  elsif how <> 'applied' and result is not null then
    perform lifecycle.refuse_input('result', 'is only of what was applied.');
  elsif octet_length(resolve_mutation.result::text) > 65536 then
    perform lifecycle.refuse_input('result', 'has at most 64 KB.');
  end if;
  select m.workflow_id, m.run_id, r.script_run_id into place
  from public.workflow_mutations m join public.handler_runs r on r.id = m.run_id
  where m.id = resolve_mutation.mutation_id
    and (resolve_mutation.owner_id is null or m.owner_id = resolve_mutation.owner_id)
    and (resolve_mutation.workflow_id is null or m.workflow_id = resolve_mutation.workflow_id);
  if not found then
    perform lifecycle.refuse(404, 'mutation_not_found', 'There is no such mutation.');
  end if;
  -- Workflow, session, run, mutation, events: the order of every writer.
  workflow := private.lock_workflow(place.workflow_id);
  perform from public.script_runs s where s.id = place.script_run_id for no key update;
  perform from public.handler_runs r where r.id = place.run_id for no key update;
  select * into mutation from public.workflow_mutations m where m.id = resolve_mutation.mutation_id for no key update;

  if mutation.status <> 'indeterminate' then
    unchanged := mutation.status = becomes and case how
      when 'ask_again' then mutation.reconcile_attempts = 0
      when 'applied' then mutation.resolved_by = 'user' and mutation.result is not distinct from resolve_mutation.result
      else mutation.resolved_by = resolver
    end;
    if unchanged then
      return private.workflow_answer(workflow.id, 'unchanged', jsonb_build_object('mutation_id', mutation.id));
    elsif mutation.status in ('applied', 'failed') then
      perform lifecycle.refuse_transition('mutation', mutation.status::text, becomes::text);
    end if;
    perform lifecycle.refuse(409, 'not_indeterminate', 'The other side is still being asked: wait for its answer.',
      jsonb_build_object('current', mutation.status));
  elsif how = 'ask_again' and mutation.reconcile is null then
    perform lifecycle.refuse(409, 'cannot_be_asked',
      'The script names nobody to ask: say failed, skipped or applied.', jsonb_build_object('actions', private.mutation_actions(mutation)));
  end if;

  perform private.because_asked(how, actor);
  if how = 'ask_again' then
    -- The error stays until there is an answer.
    update public.workflow_mutations m
    set status = 'needs_reconcile', reconcile_attempts = 0, next_reconcile_at = moment
    where m.id = mutation.id;
    perform lifecycle.wake_lane('reconcile');
  else
    perform private.settle_mutation(mutation.id, becomes,
      case how when 'applied' then 'success' when 'skipped' then 'skipped' else 'failure' end::public.mutation_outcome,
      case when how = 'applied' then resolve_mutation.result end,
      case how
        when 'failed' then coalesce(mutation.error, 'A person said that it did not happen.')
        when 'skipped' then coalesce(mutation.error, 'A person gave it up.')
        else mutation.error
      end, resolver);
  end if;
  perform set_config('rollcall.because', '', true);
  return private.workflow_answer(workflow.id, 'processed', jsonb_build_object('mutation_id', mutation.id));
end;
$$;
comment on function public.resolve_mutation is
  'A person says what became of an indeterminate side effect. failed: it did not happen, its events are worked on again. skipped: it is left, with its events. applied: it did happen, next() gets the result. ask_again: the other side is asked anew. Answers the workflow. PT404 mutation_not_found, PT409 not_indeterminate | cannot_be_asked | illegal_transition.';

revoke execute on function public.resolve_mutation(uuid, text, jsonb, uuid, uuid, uuid) from public, anon, authenticated;
grant execute on function public.resolve_mutation(uuid, text, jsonb, uuid, uuid, uuid) to service_role;
