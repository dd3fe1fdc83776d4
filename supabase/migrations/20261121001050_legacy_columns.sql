-- Projects with the tables of old code: makes room for columns of the same names and other types, gives every thread
-- a bot_id that is a uuid, and mends what would break a check of the next migration. Where there never was old code
-- nothing of this file remains.
-- plpgsql where SQL would do: a SQL function with a search_path is planned anew for every row.

create function private.legacy_metadata(metadata jsonb)
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case
    when jsonb_typeof(metadata) = 'object' then metadata
    when coalesce(jsonb_typeof(metadata), 'null') = 'null' then '{}'
    else jsonb_build_object('legacy_metadata', metadata)
  end;
end;
$$;
comment on function private.legacy_metadata is 'Metadata as an object, whatever old code stored there.';

create function private.keep_legacy(metadata jsonb, kept jsonb, notes jsonb default null)
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
begin
  return private.legacy_metadata(metadata)
    || case when kept is null then '{}' else jsonb_build_object('legacy_values', kept || coalesce((
      -- What a thread said first is kept; of a session the newest.
      select jsonb_object_agg(v.key, v.value) from jsonb_each(
        case when jsonb_typeof(metadata -> 'legacy_values') = 'object' then metadata -> 'legacy_values' end) v
      where v.key like 'workflow\_threads.%' or not kept ? v.key
    ), '{}')) end
    || case when notes is null then '{}'
      else jsonb_build_object('legacy_notes', coalesce(metadata -> 'legacy_notes', '[]') || notes) end;
end;
$$;
comment on function private.keep_legacy is
  'Metadata with values that fit no column (legacy_values, by table.column) and sentences on what was repaired (legacy_notes).';

create function private.fits_bot_config(bot_config jsonb)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  return jsonb_typeof(bot_config) = 'object' and octet_length(bot_config::text) <= 65536;
end;
$$;

create function private.pause_triggers()
returns text[]
language plpgsql
set search_path = ''
as $$
declare
  command text;
  to_resume text[] := '{}';
  found_trigger record;
begin
  -- The project's own triggers (updated_at, database webhooks) must not take a migration for news.
  for found_trigger in
    select t.tgrelid::regclass as on_table, t.tgname, t.tgenabled from pg_catalog.pg_trigger t
    where t.tgrelid in (to_regclass('public.workflow_threads'), to_regclass('public.bot_sessions'))
      and not t.tgisinternal and t.tgenabled <> 'D'
      and not exists (select from pg_catalog.pg_proc p where p.oid = t.tgfoid and p.pronamespace = 'private'::regnamespace)
  loop
    execute format('alter table %s disable trigger %I', found_trigger.on_table, found_trigger.tgname);
    command := format('alter table %s enable %s trigger %I', found_trigger.on_table,
      case found_trigger.tgenabled when 'A' then 'always' when 'R' then 'replica' else '' end, found_trigger.tgname);
    to_resume := to_resume || command;
  end loop;
  return to_resume;
end;
$$;
comment on function private.pause_triggers is 'Switches the project''s own triggers of the legacy tables off; returns the commands that switch them on again.';

create function private.resume_triggers(commands text[])
returns void
language plpgsql
set search_path = ''
as $$
declare
  command text;
begin
  foreach command in array commands loop
    execute command;
  end loop;
end;
$$;

revoke execute on function
  private.legacy_metadata(jsonb), private.keep_legacy(jsonb, jsonb, jsonb), private.fits_bot_config(jsonb),
  private.pause_triggers(), private.resume_triggers(text[])
from public, anon, authenticated, service_role;

do $$
declare
  old_policy record;
  paused text[];
begin
  if to_regtype('public.bot_status') is not null or not exists (
    select from pg_catalog.pg_attribute
    where attrelid = 'public.workflow_threads'::regclass and attname = 'bot_id' and not attisdropped
  ) then
    drop function
      private.keep_legacy(jsonb, jsonb, jsonb), private.legacy_metadata(jsonb), private.fits_bot_config(jsonb),
      private.pause_triggers(), private.resume_triggers(text[]);
    return;
  end if;

  -- using (true) shows every row to everybody. service_role needs no policy.
  for old_policy in
    select p.tablename, p.policyname from pg_catalog.pg_policies p
    where p.schemaname = 'public' and p.tablename in ('workflow_threads', 'bot_sessions')
      and coalesce(p.qual, 'true') = 'true' and coalesce(p.with_check, 'true') = 'true'
  loop
    execute format('drop policy %I on public.%I', old_policy.policyname, old_policy.tablename);
  end loop;

  alter table public.workflow_threads rename column bot_id to legacy_bot_id;
  alter table public.workflow_threads rename column meeting_status to legacy_meeting_status;
  alter table public.workflow_threads alter column room_name drop not null;
  -- A default now would write every row anew, transcripts and all.
  alter table public.workflow_threads add column bot_id uuid;

  paused := private.pause_triggers();
  -- Ids that are uuids become the uuid; of duplicates the newest keeps it.
  update public.workflow_threads t
  set bot_id = coalesce(k.uuid, gen_random_uuid()),
    bot_config = case when k.fits then t.bot_config end,
    metadata = case when k.uuid is null and k.said <> '' or not k.fits then
      private.keep_legacy(
        private.legacy_metadata(t.metadata)
          || case when k.uuid is null and k.said <> '' then jsonb_build_object('legacy_bot_id', k.said) else '{}' end,
        case when not k.fits then jsonb_build_object('workflow_threads.bot_config', t.bot_config) end,
        case when not k.fits then '["bot_config is over 64 KB: kept in legacy_values."]'::jsonb end)
      else t.metadata end
  from (
    select s.workflow_thread_id, s.said, s.fits, case
      when s.uuid is not null
        and row_number() over (partition by s.uuid order by s.created_at desc, s.workflow_thread_id desc) = 1
      then s.uuid end as uuid
    from (
      select w.workflow_thread_id, w.created_at, btrim(w.legacy_bot_id::text) as said,
        coalesce(octet_length(w.bot_config::text) <= 65536, true) as fits,
        case when btrim(w.legacy_bot_id::text) ~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$'
          then btrim(w.legacy_bot_id::text)::uuid end as uuid
      from public.workflow_threads w
    ) s
  ) k
  where t.workflow_thread_id = k.workflow_thread_id;
  perform private.resume_triggers(paused);
  alter table public.workflow_threads
    alter column bot_id set default gen_random_uuid(),
    alter column bot_id set not null,
    add unique (bot_id);
end;
$$;
