-- The recurring jobs. Where pg_cron can not be had, a process of your own may run the same four commands.

do $$
begin
  if exists (select from pg_catalog.pg_available_extensions where name = 'pg_cron') then
    create extension if not exists pg_cron;
  end if;
  if exists (select from pg_catalog.pg_available_extensions where name = 'pg_net') then
    create extension if not exists pg_net;
  end if;
end;
$$;

create function lifecycle.schedule_jobs()
returns void
language plpgsql
set search_path = ''
as $function$
begin
  -- A commit after each batch: no sweep holds many rows for long.
  perform cron.schedule('rollcall-sweep', '10 seconds', $job$
    do $$ begin
      loop
        exit when (lifecycle.sweep() ->> 'checked')::int < 50;
        commit;
      end loop;
    end $$
  $job$);
  perform cron.schedule('rollcall-wake', '5 seconds', 'select lifecycle.wake()');
  perform cron.schedule('rollcall-hints', '1 second', 'select lifecycle.flush_hints()');
  perform cron.schedule('rollcall-prune', '17 3 * * *', 'select lifecycle.prune()');
end;
$function$;
comment on function lifecycle.schedule_jobs is 'Schedules the sweep, waking, hints and pruning with pg_cron; safe to repeat.';
revoke execute on function lifecycle.schedule_jobs() from public, anon, authenticated, service_role;

do $$
begin
  if to_regclass('cron.job') is not null then
    perform lifecycle.schedule_jobs();
  end if;
end;
$$;
