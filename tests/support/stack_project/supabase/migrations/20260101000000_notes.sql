-- What the tests of the local stack ask it about: a table under RLS, and functions of every shape.

create table public.notes (
  id bigint generated always as identity primary key,
  owner_id uuid not null default auth.uid(),
  body text not null check (body <> ''),
  created_at timestamptz not null default now()
);
alter table public.notes enable row level security;
grant select, insert on public.notes to authenticated;
grant select, insert, delete on public.notes to service_role;
create policy "owners read their notes" on public.notes
  for select to authenticated using (owner_id = (select auth.uid()));
create policy "owners write their notes" on public.notes
  for insert to authenticated with check (owner_id = (select auth.uid()));

-- Granted to nobody: no API role may look at it.
create table public.secrets (id int primary key);

create function public.sessions() returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
    'session_user', session_user, 'current_user', current_user,
    'uid', auth.uid(), 'role', auth.role(), 'email', auth.email()
  )
$$;

-- Every argument as it arrived, with its own type.
create function public.arguments(
  a_json jsonb default null,
  a_uuid uuid default null,
  a_time timestamptz default null,
  a_list text[] default null,
  a_number int default 7,
  a_flag boolean default false,
  a_text text default 'default'
) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
    'a_json', a_json, 'json_type', jsonb_typeof(a_json), 'a_uuid', a_uuid, 'a_time', a_time, 'a_list', a_list,
    'a_number', a_number, 'a_flag', a_flag, 'a_text', a_text
  )
$$;

create function public.refuse(status text) returns jsonb
language plpgsql set search_path = ''
as $$
begin
  raise exception using errcode = 'PT' || refuse.status, message = 'no_thanks', detail = '{"why": "test"}', hint = 'Ask again.';
end $$;

create function public.raise_plain() returns void
language plpgsql set search_path = ''
as $$
begin
  raise exception 'plain';
end $$;

create function public.nothing() returns jsonb
language sql stable set search_path = '' as $$ select null::jsonb $$;

create function public.list_numbers() returns jsonb
language sql stable set search_path = '' as $$ select '[1, 2, {"three": 3}]'::jsonb $$;

create function public.note_rows() returns setof public.notes
language sql stable set search_path = '' as $$ select * from public.notes order by id $$;

-- Commits in the middle, as a job of cron may.
create table public.ticks (id bigint generated always as identity primary key, who text not null, xid xid8 not null);
grant select on public.ticks to service_role;
create procedure public.tick()
language plpgsql
as $$
begin
  insert into public.ticks (who, xid) values (session_user, pg_current_xact_id());
  commit;
  insert into public.ticks (who, xid) values (session_user, pg_current_xact_id());
end $$;

revoke execute on all functions in schema public from public;
grant execute on all functions in schema public to anon, authenticated, service_role;
revoke execute on function public.nothing() from anon;
