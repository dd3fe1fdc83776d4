-- Refuses before anything is made when a table of one of Rollcall's names is somebody else's.
do $$
declare
  taken text;
begin
  select string_agg(format('%I.%I', n.nspname, c.relname), ', ' order by c.relname) into taken
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where n.nspname = 'public'
    and c.relname in (
      'status_events', 'status_rejections', 'error_codes', 'transcript_chunks', 'webhook_endpoints', 'webhook_deliveries',
      'task_flows', 'flow_executions', 'flow_prompt_results',
      'workflows', 'workflow_scripts', 'workflow_chats', 'workflow_messages', 'workflow_notifications', 'workflow_tasks',
      'script_runs', 'handler_runs', 'workflow_topics', 'workflow_events', 'workflow_mutations', 'handler_states',
      'producer_schedules', 'workflow_states'
    );

  -- Two tables may be there: those of old code, whose columns tell them.
  if taken is null then
    select string_agg('public.' || legacy.name, ', ' order by legacy.name) into taken
    from (values
      ('workflow_threads', '{workflow_thread_id,room_name,bot_id,meeting_status,created_at,updated_at}'::text[]),
      ('bot_sessions', '{bot_id,room_url,room_name,status,started_at}')
    ) legacy (name, columns)
    join pg_catalog.pg_class c on c.oid = to_regclass('public.' || legacy.name)
    where c.relkind not in ('r', 'p')
      or (
        select count(*) from pg_catalog.pg_attribute a
        where a.attrelid = c.oid and not a.attisdropped and a.attname = any (legacy.columns)
          and (legacy.name <> 'bot_sessions' or a.attname <> 'bot_id' or a.atttypid = 'uuid'::regtype)
      ) < cardinality(legacy.columns);
  end if;

  if taken is not null then
    raise exception 'Rollcall needs the name % for itself: rename or drop what is there, then push again.', taken;
  end if;
end;
$$;

create schema lifecycle;
comment on schema lifecycle is 'The kernel of Rollcall: state machines as rows, guard, history, deadlines. Not exposed to the API.';
create schema if not exists private;
comment on schema private is 'What API roles must not read: secrets, receipts, internal functions.';

revoke all on schema lifecycle, private from public, anon, authenticated, service_role;
grant usage on schema lifecycle, private to anon, authenticated, service_role;
