-- What pages, commands and uptime checks ask.

create function public.machine_catalog()
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'schema_version', 1,
    'machines', (
      select jsonb_agg(jsonb_build_object(
        'name', m.name, 'description', m.description, 'history', m.history,
        'states', (
          select jsonb_agg(jsonb_build_object(
            'state', s.state, 'kind', s.kind, 'position', s.position, 'description', s.description,
            'time_limit_s', extract(epoch from s.time_limit),
            'allowed', lifecycle.allowed_from(s.machine, s.state)
          ) order by s.position)
          from lifecycle.states s where s.machine = m.name
        )
      ) order by m.name)
      from lifecycle.machines m
    ),
    'error_codes', (select jsonb_agg(to_jsonb(c) order by c.code) from public.error_codes c)
  )
$$;
comment on function public.machine_catalog is 'Every machine with its states (kind, limit in seconds, allowed moves), and every error code with its meaning.';

create function lifecycle.health()
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  moment timestamptz := lifecycle.now();
  swept_at timestamptz := (select w.swept_at from lifecycle.watermarks w);
  missing text;
  idle text;
  dead text;
  oldest interval;
  checks jsonb := '[]';
begin
  if to_regclass('cron.job') is null then
    missing := 'pg_cron';
  else
    execute $q$
      select string_agg(wanted, ', ') from unnest(array['rollcall-sweep', 'rollcall-wake', 'rollcall-hints', 'rollcall-prune']) wanted
      where not exists (select from cron.job j where j.jobname = wanted and j.active)
    $q$ into missing;
  end if;
  checks := checks || jsonb_build_object('check', 'cron_jobs', 'ok', missing is null,
    'detail', coalesce('missing: ' || missing, 'all jobs are scheduled'),
    'cure', 'Enable the extension pg_cron, then call lifecycle.schedule_jobs().');

  select string_agg(wanted, ', ') into missing from unnest(array['rollcall_functions_url', 'rollcall_secret_key']) wanted
  where not exists (select from vault.decrypted_secrets s where s.name = wanted and s.decrypted_secret <> '');
  checks := checks || jsonb_build_object('check', 'vault_secrets', 'ok', missing is null,
    'detail', coalesce('missing: ' || missing, 'both secrets are there'),
    'cure', 'select vault.create_secret(<value>, <name>) for each of them.');

  checks := checks || jsonb_build_object('check', 'last_sweep', 'ok', coalesce(swept_at > moment - interval '60 s', false),
    'detail', coalesce(swept_at::text, 'never'), 'cure', 'See cron_jobs; until then call lifecycle.sweep() by hand.');

  select string_agg(l.lane, ', ') into idle
  from lifecycle.lanes l, lateral lifecycle.lane_load(l.lane) load
  where load.due and load.leases = 0 and coalesce(l.woken_at, '-infinity') < moment - interval '30 s';
  checks := checks || jsonb_build_object('check', 'work', 'ok', idle is null,
    'detail', coalesce('due and unclaimed: ' || idle, 'nothing waits for a worker'),
    'cure', 'See vault_secrets, deploy the function work, or run npm run worker.',
    'lanes', (select jsonb_object_agg(l.lane, l.woken_at) from lifecycle.lanes l));

  checks := checks || jsonb_build_object('check', 'realtime_partition',
    'ok', to_regclass('realtime.messages_' || to_char(moment at time zone 'utc', 'YYYY_MM_DD')) is not null,
    'detail', 'realtime.messages of ' || to_char(moment at time zone 'utc', 'YYYY-MM-DD'),
    'cure', 'Pushes are lost until Realtime makes the partition: open any channel once, or restart Realtime.');

  select string_agg(format('%s (owner %s)', e.id, e.owner_id), ', ' order by e.id) into dead
  from public.webhook_endpoints e
  where (e.enabled and e.failing_since < moment - interval '1 day')
    or (e.disabled_reason is not null and e.disabled_at > moment - interval '1 day');
  checks := checks || jsonb_build_object('check', 'webhooks', 'ok', dead is null,
    'detail', coalesce('dead: ' || dead, 'no endpoint has been failing for a day'),
    'cure', 'Their owners see why in webhook_deliveries: let the receiver answer 2xx, then enable the endpoint again.');

  select max(clock_timestamp() - a.xact_start) into oldest from pg_catalog.pg_stat_activity a
  where a.backend_xid is not null and a.datname = current_database();
  checks := checks || jsonb_build_object('check', 'oldest_writing_transaction', 'ok', coalesce(oldest < interval '60 s', true),
    'detail', coalesce(oldest::text, 'none'), 'cure', 'Find it in pg_stat_activity; pg_terminate_backend(pid) ends it.');

  return jsonb_build_object(
    'ok', not exists (select from jsonb_array_elements(checks) c where not (c ->> 'ok')::boolean),
    'schema_version', 1, 'at', moment, 'checks', checks
  );
end;
$$;
comment on function lifecycle.health is 'What an uptime check should watch: { ok, schema_version, at, checks: [{ check, ok, detail, cure }] }.';

create function public.get_health()
returns jsonb
language sql
security definer -- health looks into schemas that API roles may not read
set search_path = ''
as $$
  select lifecycle.health()
$$;
comment on function public.get_health is 'lifecycle.health() for secret keys.';

revoke execute on function public.machine_catalog(), public.get_health(), lifecycle.health() from public, anon, authenticated, service_role;
grant execute on function public.machine_catalog(), lifecycle.allowed_from(text, text) to anon, authenticated, service_role;
grant execute on function public.get_health() to service_role;
