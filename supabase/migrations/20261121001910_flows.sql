-- Flows: named lists of prompts. What is here is only the plan; an execution keeps its own copy of it.

create function private.prompts_problem(prompts jsonb)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  item jsonb;
  said jsonb;
  n int := 0;
begin
  if jsonb_typeof(prompts) is distinct from 'array' or jsonb_array_length(prompts) not between 1 and 200 then
    return 'must be a list of 1 to 200 prompts.';
  end if;
  if octet_length(prompts::text) > 921600 then
    return 'have at most 900 KB together.';
  end if;
  for item in select * from jsonb_array_elements(prompts) loop
    n := n + 1;
    said := case when jsonb_typeof(item) = 'object' then item -> 'prompt' else item end;
    if jsonb_typeof(said) is distinct from 'string' or btrim(said #>> '{}', E' \t\r\n') = '' then
      return format('need words: prompt %s must be a text, or { prompt, title }.', n);
    end if;
    if octet_length(said #>> '{}') > 32768 then
      return format('have at most 32 KB each: prompt %s is larger.', n);
    end if;
    if jsonb_typeof(item) = 'object' and (
      item - array['prompt', 'title'] <> '{}' or coalesce(jsonb_typeof(item -> 'title'), 'string') <> 'string'
      or length(item ->> 'title') > 255
    ) then
      return format('are texts, or { prompt, title } with a title of at most 255 characters: prompt %s is neither.', n);
    end if;
  end loop;
  return null;
end;
$$;
comment on function private.prompts_problem is 'What is wrong with the prompts of a flow; null for nothing.';

create function private.agent_problem(agent jsonb)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  field text;
begin
  if jsonb_typeof(agent) is distinct from 'object' then
    return 'must be an object.';
  end if;
  for field in select jsonb_object_keys(agent) loop
    if field = 'temperature' then
      if jsonb_typeof(agent -> field) <> 'number' or (agent ->> field)::numeric not between 0 and 2 then
        return 'has a temperature from 0 to 2.';
      end if;
    elsif field not in ('model', 'system', 'memory') then
      return 'has model, system, temperature and memory, nothing else.';
    elsif jsonb_typeof(agent -> field) <> 'string' or octet_length(agent ->> field) > 32768 then
      return format('has as %s a text of at most 32 KB.', field);
    end if;
  end loop;
  return null;
end;
$$;
comment on function private.agent_problem is 'What is wrong with the agent settings of a flow; null for nothing.';

create table public.task_flows (
  id uuid primary key default gen_random_uuid(),
  owner_id uuid not null,
  name text not null constraint name_is_speakable check (btrim(name) <> '' and length(name) <= 255),
  prompts jsonb not null constraint prompts_fit check (private.prompts_problem(prompts) is null),
  agent jsonb not null default '{}' constraint agent_fits check (private.agent_problem(agent) is null),
  created_at timestamptz not null,
  updated_at timestamptz not null,
  deleted_at timestamptz
);
create index task_flows_by_owner on public.task_flows (owner_id, created_at desc, id desc) where deleted_at is null;
comment on table public.task_flows is
  'A named list of prompts that an agent answers one after the other. A deleted flow stays for the executions that name it.';
comment on column public.task_flows.prompts is '1 to 200 items, each a text or { prompt, title }, at most 32 KB; 900 KB together.';
comment on column public.task_flows.agent is 'model, system, temperature, memory (text put before the first prompt); all optional.';
comment on column public.task_flows.owner_id is 'No foreign key: deleting a user never fails, lifecycle.forget_owner() erases the flows.';

alter table public.task_flows enable row level security;
create policy "owners read their flows" on public.task_flows
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
revoke all on public.task_flows from public, anon, authenticated, service_role;
grant select on public.task_flows to authenticated, service_role;

create function private.flow_json(flow public.task_flows)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'id', flow.id, 'flow_id', flow.id, 'owner_id', flow.owner_id, 'name', flow.name, 'prompts', flow.prompts,
    'total_prompts', jsonb_array_length(flow.prompts), 'agent', flow.agent,
    'created_at', flow.created_at, 'updated_at', flow.updated_at
  )
$$;
comment on function private.flow_json is 'A flow as callers get it.';

create function private.check_flow(name text, prompts jsonb, agent jsonb)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if btrim(name) = '' or length(name) > 255 then
    perform lifecycle.refuse_input('name', 'has 1 to 255 characters.');
  elsif prompts is not null and private.prompts_problem(prompts) is not null then
    perform lifecycle.refuse_input('prompts', private.prompts_problem(prompts));
  elsif agent is not null and private.agent_problem(agent) is not null then
    perform lifecycle.refuse_input('agent', private.agent_problem(agent));
  end if;
end;
$$;
comment on function private.check_flow is 'Raises PT422 for what a flow can not have; null is not judged.';

create function public.create_flow(owner_id uuid, name text, prompts jsonb, agent jsonb default '{}')
returns jsonb
language plpgsql
security definer -- API roles may not write flows
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  flow public.task_flows;
begin
  if owner_id is null then
    perform lifecycle.refuse_input('owner_id', 'is needed: a flow belongs to somebody.');
  elsif name is null or prompts is null then
    perform lifecycle.refuse_input(case when name is null then 'name' else 'prompts' end, 'is needed.');
  end if;
  perform private.check_flow(name, prompts, agent);
  insert into public.task_flows (owner_id, name, prompts, agent, created_at, updated_at)
  values (owner_id, name, prompts, coalesce(agent, '{}'), moment, moment)
  returning * into flow;
  return private.flow_json(flow) || '{"ok": true, "changed": true, "result": "created"}';
end;
$$;
comment on function public.create_flow is 'Keeps a new flow: a name, 1 to 200 prompts, and how the agent is to answer.';

create function public.update_flow(
  flow_id uuid, owner_id uuid default null, name text default null, prompts jsonb default null, agent jsonb default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write flows
set search_path = ''
as $$
declare
  flow public.task_flows;
begin
  perform private.check_flow(name, prompts, agent);
  update public.task_flows f
  set name = coalesce(update_flow.name, f.name), prompts = coalesce(update_flow.prompts, f.prompts),
    agent = coalesce(update_flow.agent, f.agent), updated_at = greatest(lifecycle.now(), f.updated_at)
  where f.id = update_flow.flow_id and f.deleted_at is null
    and (update_flow.owner_id is null or f.owner_id = update_flow.owner_id)
  returning * into flow;
  if flow.id is null then
    return '{"ok": false, "code": "flow_not_found"}';
  end if;
  return private.flow_json(flow) || '{"ok": true, "changed": true, "result": "processed"}';
end;
$$;
comment on function public.update_flow is
  'Changes a flow; null keeps what is there. Executions keep the prompts that they began with. owner_id: only if it is this owner''s.';

create function public.delete_flow(flow_id uuid, owner_id uuid default null)
returns jsonb
language plpgsql
security definer -- API roles may not write flows
set search_path = ''
as $$
declare
  flow public.task_flows;
begin
  update public.task_flows f set deleted_at = lifecycle.now()
  where f.id = delete_flow.flow_id and f.deleted_at is null
    and (delete_flow.owner_id is null or f.owner_id = delete_flow.owner_id)
  returning * into flow;
  if flow.id is null then
    return '{"ok": false, "code": "flow_not_found"}';
  end if;
  return private.flow_json(flow) || jsonb_build_object(
    'ok', true, 'changed', true, 'result', 'deleted', 'deleted_at', flow.deleted_at);
end;
$$;
comment on function public.delete_flow is 'Takes a flow away; its executions run on and stay. owner_id: only if it is this owner''s.';

create function public.get_flow(flow_id uuid, owner_id uuid default null)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select private.flow_json(f) from public.task_flows f
  where f.id = get_flow.flow_id and f.deleted_at is null and (get_flow.owner_id is null or f.owner_id = get_flow.owner_id)
$$;
comment on function public.get_flow is 'A flow; null where the caller sees none.';

create function public.list_flows(max_rows int default 50, cursor text default null, owner_id uuid default null)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  place record := private.read_list_cursor(cursor);
  items jsonb;
  ends jsonb;
begin
  if max_rows is null or max_rows not between 1 and 200 then
    perform lifecycle.refuse_input('limit', 'must be a whole number from 1 to 200.');
  end if;
  select jsonb_agg(private.flow_json(f) - 'prompts' - 'agent' order by f.created_at desc, f.id desc),
    jsonb_agg(private.list_cursor(f.created_at, f.id) order by f.created_at desc, f.id desc)
  into items, ends
  from (
    select * from public.task_flows f
    where f.deleted_at is null and (list_flows.owner_id is null or f.owner_id = list_flows.owner_id)
      and (f.created_at, f.id) < (place.before_at, place.before_id)
    order by f.created_at desc, f.id desc limit max_rows + 1
  ) f;
  if jsonb_array_length(items) > max_rows then
    return jsonb_build_object('items', items - max_rows, 'next_cursor', ends ->> (max_rows - 1));
  end if;
  return jsonb_build_object('items', coalesce(items, '[]'), 'next_cursor', null);
end;
$$;
comment on function public.list_flows is
  'The flows that the caller sees, newest first and without their prompts: { items, next_cursor }. max_rows: 1 to 200.';

revoke execute on function
  private.prompts_problem(jsonb), private.agent_problem(jsonb), private.check_flow(text, jsonb, jsonb),
  private.flow_json(public.task_flows),
  public.create_flow(uuid, text, jsonb, jsonb), public.update_flow(uuid, uuid, text, jsonb, jsonb),
  public.delete_flow(uuid, uuid), public.get_flow(uuid, uuid), public.list_flows(int, text, uuid)
from public, anon, authenticated;
grant execute on function
  private.flow_json(public.task_flows),
  public.get_flow(uuid, uuid), public.list_flows(int, text, uuid)
to authenticated, service_role;
grant execute on function
  public.create_flow(uuid, text, jsonb, jsonb), public.update_flow(uuid, uuid, text, jsonb, jsonb),
  public.delete_flow(uuid, uuid)
to service_role;
