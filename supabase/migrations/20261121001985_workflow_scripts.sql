-- Scripts: the versions of what a workflow does. Saving one activates nothing.

alter table public.workflow_scripts add column actor uuid;
comment on column public.workflow_scripts.actor is 'The operator who saved it for its owner.';

create function private.config_problem(config jsonb)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  part record;
begin
  if jsonb_typeof(config) is distinct from 'object' or octet_length(config::text) > 65536 then
    return 'must be an object of at most 64 KB.';
  elsif jsonb_typeof(config -> 'topics') is distinct from 'array'
    or exists (select from jsonb_array_elements(config -> 'topics') t where jsonb_typeof(t) <> 'string')
  then
    return 'has as topics a list of names.';
  elsif jsonb_typeof(config -> 'producers') is distinct from 'object'
    or jsonb_typeof(config -> 'consumers') is distinct from 'object'
  then
    return 'has as producers and consumers an object each.';
  end if;
  for part in select p.key as name, p.value -> 'schedule' as schedule from jsonb_each(config -> 'producers') p loop
    if num_nonnulls(part.schedule ->> 'interval', part.schedule ->> 'cron') <> 1 then
      return format('gives each producer an interval or a cron: %s has neither or both.', part.name);
    end if;
  end loop;
  for part in select c.key as name, c.value -> 'subscribe' as topics from jsonb_each(config -> 'consumers') c loop
    if jsonb_typeof(part.topics) is distinct from 'array' then
      return format('gives each consumer a list of topics to subscribe to: %s has none.', part.name);
    end if;
  end loop;
  return null;
end;
$$;
comment on function private.config_problem is
  'What is wrong with the shape of a config; null for nothing. What it says of the script the validator in the sandbox has judged.';

create function private.newest_script(workflow_id uuid)
returns public.workflow_scripts
language plpgsql
stable
set search_path = ''
as $$
declare
  script public.workflow_scripts;
begin
  select * into script from public.workflow_scripts s
  where s.workflow_id = newest_script.workflow_id order by s.major desc, s.minor desc limit 1;
  return script;
end;
$$;
comment on function private.newest_script is 'The newest version of a workflow''s script; a row of nulls before the first.';

create function private.add_script(
  workflow public.workflows, code text, config jsonb, comment text, summary text,
  base public.workflow_scripts default null, actor uuid default null
)
returns public.workflow_scripts
language plpgsql
set search_path = ''
as $$
declare
  whole jsonb := '{"topics": [], "producers": {}, "consumers": {}}'::jsonb || config;
  script public.workflow_scripts;
begin
  if coalesce(btrim(code, E' \t\r\n'), '') = '' then
    perform lifecycle.refuse_input('code', 'is needed: a script without code does nothing.');
  elsif octet_length(code) > 262144 then
    perform lifecycle.refuse_input('code', 'has at most 256 KB.');
  elsif private.config_problem(whole) is not null then
    perform lifecycle.refuse_input('config', private.config_problem(whole));
  end if;
  insert into public.workflow_scripts as s (
    workflow_id, owner_id, major, minor, code, config, comment, summary, actor, created_at
  )
  select workflow.id, workflow.owner_id,
    case when base.id is null then 1 + coalesce(max(v.major), 0) else base.major end,
    case when base.id is null then 0 else 1 + max(v.minor) filter (where v.major = base.major) end,
    add_script.code, whole, left(nullif(btrim(add_script.comment), ''), 2000),
    left(nullif(btrim(add_script.summary), ''), 2000), add_script.actor, lifecycle.now()
  from public.workflow_scripts v where v.workflow_id = workflow.id
  returning s.* into script;
  -- The first one makes a draft ready: the guard tells.
  update public.workflows w set version = w.version + 1
  where w.id = workflow.id and w.status = 'draft' and script.major = 1 and script.minor = 0;
  return script;
end;
$$;
comment on function private.add_script is
  'Saves a version; the caller holds the lock of the workflow. With a base it is a fix of that one and raises minor, else major. PT422 for what can not be a script.';

create function private.script_version(script public.workflow_scripts)
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  return format('%s.%s', script.major, script.minor);
end;
$$;
comment on function private.script_version is 'What people call a version of a script: 1.0, and 1.1 for its first fix.';

create function public.save_script(
  workflow_id uuid, owner_id uuid, code text, config jsonb, comment text default null, summary text default null,
  actor uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write scripts
set search_path = ''
as $$
declare
  workflow public.workflows := private.lock_workflow(workflow_id, owner_id);
  script public.workflow_scripts := private.newest_script(workflow_id);
  is_new boolean := script.code is distinct from save_script.code;
begin
  if is_new then
    script := private.add_script(workflow, code, config, comment, summary, actor => save_script.actor);
  end if;
  return jsonb_build_object(
    'ok', true, 'changed', is_new, 'result', case when is_new then 'created' else 'unchanged' end,
    'workflow_id', workflow.id, 'script_id', script.id, 'major', script.major, 'minor', script.minor,
    'version', private.script_version(script)
  );
end;
$$;
comment on function public.save_script is
  'Saves a new version of a workflow''s script, the next major: { script_id, major, minor, version }. The code of the newest once more is unchanged. Saving activates nothing. PT404 workflow_not_found.';

revoke execute on function
  private.config_problem(jsonb), private.newest_script(uuid),
  private.add_script(public.workflows, text, jsonb, text, text, public.workflow_scripts, uuid)
from public, anon, authenticated, service_role;
revoke execute on function
  private.script_version(public.workflow_scripts), public.save_script(uuid, uuid, text, jsonb, text, text, uuid)
from public, anon, authenticated;
grant execute on function private.script_version(public.workflow_scripts) to authenticated, service_role;
grant execute on function public.save_script(uuid, uuid, text, jsonb, text, text, uuid) to service_role;
