-- Who somebody is, and which subject a topic speaks of. Policies and views ask here.

create function private.is_operator()
returns boolean
language sql
stable
set search_path = ''
as $$
  select coalesce((select auth.jwt()) -> 'app_metadata' ->> 'rollcall' = 'operator', false)
$$;
comment on function private.is_operator is 'Is the signed-in user an operator (app_metadata.rollcall = operator), who sees every owner''s runs?';

create function private.topic_subject(noun text)
returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
  topic text := realtime.topic();
begin
  -- Other channels of the app share realtime.messages: whatever is not ours is null, never an error.
  if topic ~ ('^' || noun || ':[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$') then
    return split_part(topic, ':', 2)::uuid;
  end if;
  return null;
end;
$$;
comment on function private.topic_subject is 'The uuid of the Realtime topic at hand if it is <noun>:<uuid>, else null.';

revoke execute on function private.is_operator(), private.topic_subject(text) from public, anon;
grant execute on function private.is_operator(), private.topic_subject(text) to authenticated, service_role;
