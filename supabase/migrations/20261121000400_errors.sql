-- Errors: one table of codes, and the two ways in which SQL says no.

create type public.error_attribution as enum ('user', 'host', 'platform', 'system');

create table public.error_codes (
  code text primary key constraint code_is_upper_snake check (code ~ '^[A-Z][A-Z0-9_]*$'),
  attribution public.error_attribution not null,
  retryable boolean not null,
  meaning text not null,
  next_step text not null
);
comment on table public.error_codes is 'What an error code means, whose fault it is, whether trying again can help, and what to do next.';

insert into public.error_codes (code, attribution, retryable, meaning, next_step) values
  ('STOPPED_BEFORE_JOIN', 'user', false, 'The bot was stopped before it was in the room.', 'Nothing, or ask for a new bot.'),
  ('ADMISSION_TIMEOUT', 'host', true, 'Nobody let the bot in from the lobby.', 'Ask the host to admit the bot, then try again.'),
  ('ADMISSION_REJECTED', 'host', false, 'The host refused the bot.', 'Ask the host before you send a new bot.'),
  ('VALIDATION_ERROR', 'user', false, 'The bot could not use the settings it was given.', 'Check the meeting, the passcode and bot_config.'),
  ('LEFT_BEFORE_JOIN', 'platform', true, 'The bot left before it was in the room.', 'Look at the reason in the history, then try again.'),
  ('MACHINE_START_TIMEOUT', 'system', true, 'The machine of the bot did not come up, or came up and stayed silent.', 'Try again; if it goes on, check the image and the callback URL.'),
  ('MACHINE_START_FAILED', 'system', true, 'The machine of the bot could not be created.', 'Check the machines API and its token, then try again.'),
  ('MACHINE_LOST', 'system', true, 'The machine of the bot ended or vanished before the bot was in the room.', 'Look at the logs of the machine, then try again.'),
  ('BOT_CRASHED', 'system', true, 'The bot ended with an error.', 'Look at the message and the bot''s logs, then try again.'),
  ('HEARTBEAT_LOST', 'system', true, 'Nothing was heard of the bot for too long.', 'Try again; if it goes on, check the network of the machine.'),
  ('TRANSCRIPT_PROCESSING_FAILED', 'system', true, 'The transcript could not be turned into a result; it is kept.', 'Check the agent (AGENT_API_URL), then try again.'),
  ('PROCESSING_TIMEOUT', 'system', true, 'The result took too long; the transcript is kept.', 'Check that the work function or a worker runs.'),
  ('TEARDOWN_UNCONFIRMED', 'system', true, 'The machine of the bot could not be destroyed for certain.', 'Look for the machine at the provider and destroy it by hand.'),
  ('LEGACY_FAILURE', 'system', false, 'The bot had failed before the migration.', 'Nothing: kept for the record.'),
  ('LEGACY_ABANDONED', 'system', false, 'The bot was started by old code and never ended.', 'Nothing: kept for the record.'),
  ('JOIN_ROOM_TIMEOUT', 'platform', true, 'The bot did not get into the room or its lobby in time.', 'Check that the meeting is open, then try again.'),
  ('UNSUPPORTED_PLATFORM', 'user', false, 'The bot can not attend meetings of this platform.', 'Use a bot image that knows the platform.'),
  ('CONNECTION_LOST', 'platform', true, 'The bot lost its connection to the room and could not get it back.', 'Try again.'),
  ('JOIN_ROOM_AUTH_FAILED', 'user', false, 'The room refused the bot''s credentials.', 'Check the passcode or the token of the meeting.'),
  ('AGENT_UNREACHABLE', 'system', true, 'The agent could not be reached.', 'Check AGENT_API_URL and that the agent runs.'),
  ('AGENT_TIMEOUT', 'system', true, 'The agent did not answer in time.', 'Shorten the prompt, or run npm run worker, which waits longer, then try again.'),
  ('AGENT_RATE_LIMITED', 'platform', true, 'The agent takes no more requests for now.', 'Wait, then try again.'),
  ('AGENT_REFUSED', 'user', false, 'The agent refused the request.', 'Check AGENT_API_KEY, AGENT_MODEL and the prompt.'),
  ('AGENT_BAD_ANSWER', 'system', true, 'The agent''s answer could not be used.', 'Try again, or change the prompt.'),
  ('EXECUTION_LOST', 'system', true, 'No worker went on with the execution.', 'Check that the work function runs, or run npm run worker, then retry.'),
  ('QUEUE_TIMEOUT', 'platform', true, 'No worker took the execution within a day.', 'Check that the work function or a worker runs, then retry.'),
  ('CANCELLED', 'user', true, 'It was cancelled.', 'Nothing, or start it again.'),
  ('AUTH_REQUIRED', 'user', false, 'A service asks to be signed in to again.', 'Set the secret anew, then resume the workflow.'),
  ('PERMISSION_DENIED', 'user', false, 'A service denied access.', 'Check the permissions there, then resume the workflow.'),
  ('NETWORK', 'platform', true, 'A service could not be reached.', 'Nothing: it is tried again.'),
  ('SCRIPT_ERROR', 'system', false, 'The script of the workflow is wrong.', 'Nothing: it is being fixed.'),
  ('INTERNAL', 'system', false, 'Rollcall itself failed.', 'Read the message, then retry the workflow.'),
  ('MUTATION_UNCERTAIN', 'system', false, 'Nobody knows whether a side effect happened.', 'Look at the other side, then resolve the mutation.'),
  ('TRANSIENT_EXHAUSTED', 'platform', true, 'A service could not be reached, time after time.', 'Check the service, then retry the workflow.'),
  ('CRASHED', 'system', true, 'The worker died.', 'Nothing: it is tried again.'),
  ('CRASH_LOOP', 'system', true, 'The worker died, time after time.', 'Look at the logs of the run, then retry the workflow.'),
  ('INTERRUPTED', 'system', true, 'The session ended before it ran anything.', 'Nothing: it is tried again.'),
  ('FIX_ATTEMPTS_EXHAUSTED', 'system', false, 'The script could not be fixed in three attempts.', 'Look at the script, save a better one, then activate it.'),
  ('MAINTENANCE_FAILED', 'system', false, 'The agent found no fix for the script.', 'Look at the script, save a better one, then activate it.'),
  ('RETRY_INVALID', 'system', false, 'The run that was to be retried can not be.', 'Retry the workflow.'),
  ('NO_AGENT', 'user', false, 'There is no agent to write or fix scripts.', 'Set AGENT_API_URL, or save a script yourself.');

alter table public.error_codes enable row level security;
create policy "everyone reads the error codes" on public.error_codes for select to anon, authenticated, service_role using (true);
revoke all on public.error_codes from public, anon, authenticated, service_role;
grant select on public.error_codes to anon, authenticated, service_role;

create function lifecycle.refuse(http_status int, code text, hint text, detail jsonb default '{}')
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  raise exception using errcode = 'PT' || http_status, message = code, hint = refuse.hint, detail = detail::text;
end;
$$;
comment on function lifecycle.refuse is 'Raises PTnnn (nnn = HTTP status) with a stable code as message, JSON as detail, and a sentence that names the cure as hint.';

create function lifecycle.refuse_input(path text, complaint text)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  perform lifecycle.refuse(422, 'invalid_request', format('%s %s', path, complaint),
    jsonb_build_object('issues', jsonb_build_array(jsonb_build_object('path', path, 'message', complaint))));
end;
$$;
comment on function lifecycle.refuse_input is 'Raises PT422 invalid_request with detail.issues[] = { path, message }.';

create function lifecycle.refuse_row(relation regclass, constraint_name text, complaint text default null)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  schema_name text;
  table_name text;
begin
  select c.relnamespace::regnamespace::text, c.relname into schema_name, table_name
  from pg_catalog.pg_class c where c.oid = relation;
  raise exception using errcode = 'check_violation', schema = schema_name, table = table_name, constraint = constraint_name,
    message = coalesce(complaint, format('new row for relation "%s" violates check constraint "%s"', table_name, constraint_name));
end;
$$;
comment on function lifecycle.refuse_row is 'Raises check_violation for a guard: what a check constraint of this name would, without its cost for every other statement.';

create function lifecycle.cut(document jsonb, max_bytes int)
returns jsonb
language plpgsql
immutable strict -- most documents are not there, and cost no call
set search_path = ''
as $$
begin
  if octet_length(document::text) <= max_bytes then
    return document;
  end if;
  -- A character has at most four bytes, and the text is escaped once more inside the new document.
  return jsonb_build_object('truncated', true, 'text', left(document::text, max_bytes / 8));
end;
$$;
comment on function lifecycle.cut is 'The document, or where it is larger than max_bytes its beginning as { "truncated": true, "text" }.';

revoke execute on function
  lifecycle.refuse(int, text, text, jsonb),
  lifecycle.refuse_input(text, text),
  lifecycle.refuse_row(regclass, text, text),
  lifecycle.cut(jsonb, int)
from public, anon, authenticated;
grant execute on function lifecycle.refuse(int, text, text, jsonb), lifecycle.refuse_input(text, text) to authenticated, service_role;
