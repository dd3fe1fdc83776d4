-- What became of one workflow: its own transitions and those of its sessions, handler runs and side effects.

create function public.workflow_changes(
  workflow_id uuid, after text default null, max_rows int default 100, owner_id uuid default null
)
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
  -- Whoever may not read this workflow finds none: the policies see to that.
  owner uuid := (
    select w.owner_id from public.workflows w
    where w.id = workflow_changes.workflow_id
      and (workflow_changes.owner_id is null or w.owner_id = workflow_changes.owner_id)
  );
  page jsonb;
  found jsonb := '[]';
  n int := 0;
begin
  if owner is null then
    perform lifecycle.refuse(404, 'workflow_not_found', 'There is no such workflow.');
  elsif max_rows is null or max_rows not between 0 and 1000 then
    perform lifecycle.refuse_input('max_rows', 'must be a whole number from 0 to 1000.');
  end if;
  select c.read_to, c.target, c.last_id, c.reset into read_to, target, last_id, reset
  from private.read_changes_cursor(after) c;
  page := (
    select jsonb_build_object('state', s.state, 'version', w.version, 'at', w.updated_at)
    from public.workflows w join public.workflow_states s on s.workflow_id = w.id
    where w.id = workflow_changes.workflow_id
  );
  if reset or max_rows = 0 then
    return page || jsonb_build_object('events', '[]'::jsonb, 'next', present, 'has_more', false, 'reset', reset);
  end if;

  -- From the beginning everything that the workflow ever had is asked for, and later what is new of its owner.
  if pg_snapshot_xmax(read_to) = '1'::xid8 then
    select jsonb_agg(
        private.event_json(e) || jsonb_build_object('cursor', concat_ws('/', read_to, target, e.id)) order by e.id
      ), count(*)
    into found, n
    from (
      select * from public.status_events e
      where e.subject_id in (
          select workflow_changes.workflow_id
          union all
          select s.id from public.script_runs s where s.workflow_id = workflow_changes.workflow_id
          union all
          select r.id from public.handler_runs r where r.workflow_id = workflow_changes.workflow_id
          union all
          select m.id from public.workflow_mutations m where m.workflow_id = workflow_changes.workflow_id
        )
        and pg_visible_in_snapshot(e.xid, target)
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
      where e.owner_id = owner
        and e.xid >= pg_snapshot_xmin(read_to)
        and not pg_visible_in_snapshot(e.xid, read_to) and pg_visible_in_snapshot(e.xid, target)
        and e.id > last_id
        and case e.machine
          when 'workflow' then e.subject_id = workflow_changes.workflow_id
          when 'script_run' then exists (
            select from public.script_runs s
            where s.id = e.subject_id and s.workflow_id = workflow_changes.workflow_id)
          when 'handler_run' then exists (
            select from public.handler_runs r
            where r.id = e.subject_id and r.workflow_id = workflow_changes.workflow_id)
          when 'mutation' then exists (
            select from public.workflow_mutations m
            where m.id = e.subject_id and m.workflow_id = workflow_changes.workflow_id)
          else false
        end
      order by e.id limit max_rows + 1
    ) e;
  end if;

  if n > max_rows then
    found := found - max_rows;
    return page || jsonb_build_object(
      'events', found, 'has_more', true, 'reset', false, 'next', found -> -1 ->> 'cursor');
  end if;
  return page || jsonb_build_object(
    'events', coalesce(found, '[]'), 'next', target, 'reset', false,
    -- Pages show what was there when the first of them was read; the state is that of now, so it comes with the last.
    'has_more', target::text <> present::text
  );
end;
$$;
comment on function public.workflow_changes is
  'The transitions of a workflow, its sessions, handler runs and mutations after an opaque cursor, as status_changes() gives them, with what is shown of the workflow: { events, next, has_more, reset, state, version, at }. Where has_more is false the state is the one behind the last event. PT404 where the caller sees no such workflow.';

revoke execute on function public.workflow_changes(uuid, text, int, uuid) from public, anon, authenticated;
grant execute on function public.workflow_changes(uuid, text, int, uuid) to authenticated, service_role;
