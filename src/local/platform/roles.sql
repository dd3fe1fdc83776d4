-- The roles a hosted project has before its first migration. Roles belong to the whole cluster, so this
-- file may run again for a second database.

do $$
declare
  wanted text;
begin
  foreach wanted in array array[
    'postgres', 'authenticator', 'supabase_auth_admin', 'anon', 'authenticated', 'service_role'
  ] loop
    if not exists (select from pg_catalog.pg_roles where rolname = wanted) then
      execute format('create role %I', wanted);
    end if;
  end loop;
end $$;

-- Pushes the migrations. Not a superuser: what it may not do on a hosted project, it may not do here.
alter role postgres login nosuperuser createrole createdb replication bypassrls password 'postgres';
alter role postgres set search_path = "$user", public, extensions;

-- Behind /rest/v1: has no rights of its own, becomes one of the API roles for each request.
alter role authenticator login noinherit nosuperuser password 'postgres';
alter role authenticator set search_path = public, extensions;
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';

alter role supabase_auth_admin login noinherit nosuperuser createrole password 'postgres';
alter role supabase_auth_admin set search_path = auth;
alter role supabase_auth_admin set idle_in_transaction_session_timeout = '60s';

alter role anon nologin inherit;
alter role authenticated nologin inherit;
alter role service_role nologin inherit bypassrls;

grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role, authenticator to postgres with admin option;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;

-- The database and through it (pg_database_owner) the schema public.
do $$ begin
  execute format('alter database %I owner to postgres', current_database());
end $$;

alter schema public owner to pg_database_owner;
grant usage on schema public to anon, authenticated, service_role;
grant all on schema public to postgres;
