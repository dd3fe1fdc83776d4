-- What is shown of a workflow, and what its owner may do then. The state itself has one definition, beside the guard.

create function private.workflow_actions(state text)
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case state
    when 'draft' then '["talk", "archive"]'
    when 'ready' then '["activate", "test", "talk", "archive"]'
    when 'active' then '["pause", "test", "talk"]'
    when 'paused' then '["resume", "talk", "archive"]'
    when 'error' then '["view", "retry", "acknowledge", "talk", "pause"]'
    when 'fixing' then '["wait", "pause"]'
    when 'archived' then '["unarchive"]'
  end::jsonb;
end;
$$;
comment on function private.workflow_actions is 'What the owner of a workflow is offered in a state, as a JSON array.';

revoke execute on function private.workflow_actions(text) from public, anon;
grant execute on function private.workflow_actions(text) to authenticated, service_role;

create view public.workflow_states with (security_invoker = true) as
  select w.id as workflow_id, w.owner_id, w.status, w.version, s.state, private.workflow_actions(s.state) as actions
  from public.workflows w
  cross join lateral (select private.workflow_state(w) as state) s;
comment on view public.workflow_states is
  'What is shown of each workflow: state (archived, fixing, error, paused, active, ready, draft) and the actions that it offers.';

revoke all on public.workflow_states from public, anon, authenticated, service_role;
grant select on public.workflow_states to authenticated, service_role;
