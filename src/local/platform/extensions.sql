create schema if not exists extensions;
grant usage on schema extensions to anon, authenticated, service_role;
grant all on schema extensions to postgres;

create extension if not exists pgcrypto with schema extensions;
create extension if not exists "uuid-ossp" with schema extensions;

-- PostgREST reads its schema anew when told to on this channel; a hosted project tells it after each DDL.
create or replace function extensions.pgrst_ddl_watch() returns event_trigger
language plpgsql
as $$
begin
  notify pgrst, 'reload schema';
end $$;

do $$ begin
  if not exists (select from pg_catalog.pg_event_trigger where evtname = 'pgrst_ddl_watch') then
    create event trigger pgrst_ddl_watch on ddl_command_end execute function extensions.pgrst_ddl_watch();
  end if;
  if not exists (select from pg_catalog.pg_event_trigger where evtname = 'pgrst_drop_watch') then
    create event trigger pgrst_drop_watch on sql_drop execute function extensions.pgrst_ddl_watch();
  end if;
end $$;

-- cron, net and vault are plain SQL here, so no extension can be created for them. Migrations say
-- `create extension if not exists` and must pass unchanged: the catalogue says that they are there.
set allow_system_table_mods = on;

insert into pg_catalog.pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
select
  (select (max(oid)::int8 + 1 + stub.nth)::oid from pg_catalog.pg_extension),
  stub.name,
  (select oid from pg_catalog.pg_roles where rolname = current_user),
  'pg_catalog'::regnamespace,
  false,
  stub.version
from (values (0, 'pg_cron', '1.6.4'), (1, 'pg_net', '0.19.5'), (2, 'supabase_vault', '0.3.1')) as stub (nth, name, version)
where not exists (select from pg_catalog.pg_extension where extname = stub.name);

set allow_system_table_mods = off;
