-- An execution is one run of a flow: its own copy of the plan, how far it is, and who works on it.

create type public.flow_execution_status as enum ('running', 'completed', 'failed');

-- What must hold of a row its guard refuses: a check here would be parsed anew with every claim and every result.
create table public.flow_executions (
  id uuid primary key default gen_random_uuid(),
  flow_id uuid not null,
  owner_id uuid not null,
  status public.flow_execution_status not null default 'running',
  version int not null default 0,
  current_prompt_index int not null default 0,
  total_prompts int not null,
  attempt int not null default 1,
  prompt_attempts int not null default 0,
  lost_leases int not null default 0,
  created_at timestamptz not null,
  started_at timestamptz,
  progressed_at timestamptz,
  completed_at timestamptz,
  deadline_at timestamptz,
  not_before timestamptz,
  lease_expires_at timestamptz,
  lease_token uuid,
  retry_of uuid references public.flow_executions on delete set null,
  lease_owner text,
  error text,
  error_code text,
  error_details jsonb,
  flow_name text not null,
  agent jsonb not null,
  prompts jsonb not null
) with (fillfactor = 70);

-- A step changes none of the indexed columns, so it stays on its page and touches no index.
create index flow_executions_by_owner on public.flow_executions (owner_id, created_at desc, id desc);
create index flow_executions_running on public.flow_executions (owner_id, created_at, id) where status = 'running';
create index flow_executions_due on public.flow_executions (deadline_at) where deadline_at is not null;
create index flow_executions_retries on public.flow_executions (retry_of) where retry_of is not null;

comment on table public.flow_executions is
  'One run of a flow. Its prompts and agent are those of the start: editing or deleting the flow changes nothing here.';
comment on column public.flow_executions.flow_id is 'No foreign key: an execution outlives its flow.';
comment on column public.flow_executions.owner_id is 'No foreign key: deleting a user never fails, lifecycle.forget_owner() erases the executions.';
comment on column public.flow_executions.version is 'One more with each transition: the seq of the newest event.';
comment on column public.flow_executions.current_prompt_index is 'The prompt being answered, from 0; total_prompts when completed.';
comment on column public.flow_executions.attempt is '1, and one more with each retry.';
comment on column public.flow_executions.prompt_attempts is 'How often the current prompt was asked in vain.';
comment on column public.flow_executions.lost_leases is 'How many workers in a row died at the current prompt.';
comment on column public.flow_executions.started_at is 'The first claim; null while it waits for a worker.';
comment on column public.flow_executions.progressed_at is 'The newest claim or stored result: the limit counts from here.';
comment on column public.flow_executions.deadline_at is 'When the sweep looks after it, never later than its limit; null at the end.';
comment on column public.flow_executions.not_before is 'Until when nobody may claim it: the wait after a failed attempt.';
comment on column public.flow_executions.lease_token is 'Of the newest claim: whoever holds another one changes nothing.';

alter table public.flow_executions enable row level security;
create policy "owners read their executions" on public.flow_executions
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
revoke all on public.flow_executions from public, anon, authenticated, service_role;
grant select on public.flow_executions to authenticated, service_role;

create table public.flow_prompt_results (
  execution_id uuid references public.flow_executions on delete cascade,
  prompt_index int,
  owner_id uuid not null,
  attempts int not null,
  duration_ms int not null,
  omitted_pairs int not null default 0,
  completed_at timestamptz not null,
  response text,
  error text,
  usage jsonb,
  primary key (execution_id, prompt_index),
  constraint answer_or_error check ((response is null) <> (error is null))
);
comment on table public.flow_prompt_results is
  'What became of each prompt of an execution, a row each: a step writes its own result and never those before it. The prompt is in the execution.';
comment on column public.flow_prompt_results.omitted_pairs is
  'How many of the first prompts and responses the agent was not shown, since the conversation had become too long.';

alter table public.flow_prompt_results enable row level security;
create policy "owners read their results" on public.flow_prompt_results
  for select to authenticated using (owner_id = (select auth.uid()) or (select private.is_operator()));
revoke all on public.flow_prompt_results from public, anon, authenticated, service_role;
grant select on public.flow_prompt_results to authenticated, service_role;

create function private.progress_json(
  id uuid, status public.flow_execution_status, version int, current_prompt_index int, total_prompts int, at timestamptz
)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return jsonb_build_object(
    'machine', 'flow_execution', 'subject_id', id, 'seq', version, 'version', version, 'status', status,
    'current_prompt_index', current_prompt_index, 'total_prompts', total_prompts, 'at', at
  );
end;
$$;
comment on function private.progress_json is 'What is pushed as progress of an execution.';

create function private.guard_flow_execution()
returns trigger
language plpgsql
set search_path = ''
as $$
declare
  stamp timestamptz := lifecycle.now();
  before public.flow_execution_status;
  progress jsonb;
  event_id bigint;
  said text;
begin
  if new.status = 'failed' then
    if coalesce(btrim(new.error), '') = '' or new.error_code is null then
      perform lifecycle.refuse_row(tg_relid, 'failed_says_why', 'A failed execution has an error and an error_code.');
    end if;
  elsif num_nonnulls(new.error, new.error_code, new.error_details) > 0 then
    perform lifecycle.refuse_row(tg_relid, 'only_failed_has_an_error', 'Only a failed execution has an error.');
  end if;
  if new.current_prompt_index not between 0 and new.total_prompts
    or (new.current_prompt_index = new.total_prompts) <> (new.status = 'completed')
  then
    perform lifecycle.refuse_row(tg_relid, 'index_is_of_a_prompt',
      'current_prompt_index is that of a prompt, and total_prompts once it is completed.');
  end if;

  if tg_op = 'INSERT' then
    if new.status <> 'running' then
      perform lifecycle.refuse_transition('flow_execution', null, new.status::text);
    end if;
    new.version := 0;
    new.created_at := stamp;
  else
    before := old.status;
    if new.status = before or before <> 'running' then
      -- Set by lifecycle.repair() alone, which only the owner of the schema may call.
      if (new.error, new.error_code, new.error_details, new.completed_at)
          is distinct from (old.error, old.error_code, old.error_details, old.completed_at)
        and current_setting('rollcall.repairing', true) is distinct from 'yes'
      then
        perform lifecycle.refuse(409, 'illegal_transition', 'An execution keeps its error and its end for ever, and has none before.',
          jsonb_build_object('machine', 'flow_execution', 'from', before, 'to', new.status,
            'allowed', lifecycle.allowed_from('flow_execution', before::text)));
      elsif new.status = before then
        return new;
      end if;
    end if;
    -- Never earlier than the stamp before, whatever the clock does.
    stamp := greatest(stamp, old.created_at, old.progressed_at, old.completed_at);
  end if;

  if new.status = 'completed' then
    -- The last progress before the end: whoever watches is done with that.
    progress := private.progress_json(new.id, before, new.version, new.current_prompt_index, new.total_prompts, stamp);
  end if;
  new.version := new.version + 1;
  if new.status = 'running' then
    new.completed_at := null;
    -- Claims and results do not move it: the sweep works it out anew when it seems to have passed.
    new.deadline_at := stamp + (
      select s.time_limit from lifecycle.states s where s.machine = 'flow_execution' and s.state = 'running');
  else
    new.completed_at := stamp;
    new.deadline_at := null;
    new.lease_expires_at := null;
    new.not_before := null;
  end if;
  event_id := lifecycle.record('flow_execution', new.id, new.owner_id, new.version, new.version,
    before::text, new.status::text, stamp, 'flow_execution:' || new.id,
    case when new.status = 'failed' then case when new.started_at is null then 'queue' else 'prompt' end end,
    new.error_code, new.error,
    jsonb_build_object('current_prompt_index', new.current_prompt_index, 'total_prompts', new.total_prompts),
    -- Only a user starts it and only a stored result completes it: the usual moves need not pay for saying so.
    source => case when before is null then 'user' when new.status = 'completed' then 'worker' else 'system' end::public.event_source,
    progress => progress);
  said := set_config('rollcall.because', '', true);
  return new;
end;
$$;

create trigger guard_status_of_new before insert on public.flow_executions
  for each row execute function private.guard_flow_execution();
-- Claims and leases set none of these and do not pay for the guard. Columns, since a condition is parsed anew with
-- every statement.
create trigger guard_status before update of status, completed_at, error, error_code, error_details,
    current_prompt_index, total_prompts
  on public.flow_executions
  for each row execute function private.guard_flow_execution();

revoke execute on function
  private.progress_json(uuid, public.flow_execution_status, int, int, int, timestamptz), private.guard_flow_execution()
from public, anon, authenticated, service_role;
