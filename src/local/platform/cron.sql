-- pg_cron's schema. The rows are run by src/local/cron.ts, each in a session of its own as `username`.

create schema if not exists cron;

create sequence if not exists cron.jobid_seq;
create sequence if not exists cron.runid_seq;

create table if not exists cron.job (
  jobid bigint primary key default nextval('cron.jobid_seq'),
  schedule text not null,
  command text not null,
  nodename text not null default 'localhost',
  nodeport integer not null default inet_server_port(),
  database text not null default current_database(),
  username text not null default current_user,
  active boolean not null default true,
  jobname text,
  constraint jobname_username_uniq unique (jobname, username)
);

create table if not exists cron.job_run_details (
  jobid bigint,
  runid bigint primary key default nextval('cron.runid_seq'),
  job_pid integer,
  database text,
  username text,
  command text,
  status text,
  return_message text,
  start_time timestamptz,
  end_time timestamptz
);

-- The role that a caller of a definer function acts as.
create or replace function cron.caller() returns text
language sql stable
as $$
  select coalesce(nullif(current_setting('role', true), 'none'), session_user::text)
$$;

alter table cron.job enable row level security;
drop policy if exists cron_job_policy on cron.job;
create policy cron_job_policy on cron.job using (username = current_user);
alter table cron.job_run_details enable row level security;
drop policy if exists cron_job_run_details_policy on cron.job_run_details;
create policy cron_job_run_details_policy on cron.job_run_details using (username = current_user);

create or replace function cron.check_schedule(schedule text) returns void
language plpgsql immutable
as $$
begin
  if schedule ~* '^\s*([1-9]|[1-5][0-9])\s+seconds?\s*$'
    or schedule ~ '^\s*(\S+\s+){4}\S+\s*$'
    or schedule ~ '^\s*@(yearly|annually|monthly|weekly|daily|midnight|hourly)\s*$'
  then
    return;
  end if;
  raise exception 'invalid schedule: %', schedule
    using errcode = '22023', hint = 'Use cron format (e.g. 5 4 * * *), or interval format ''[1-59] seconds''';
end $$;

create or replace function cron.schedule_in_database(
  job_name text, schedule text, command text, database text, username text default null, active boolean default true
) returns bigint
language plpgsql security definer
set search_path = ''
as $$
declare
  id bigint;
begin
  perform cron.check_schedule(schedule);
  insert into cron.job as job (jobname, schedule, command, database, username, active)
  values (
    schedule_in_database.job_name,
    schedule_in_database.schedule,
    schedule_in_database.command,
    schedule_in_database.database,
    coalesce(schedule_in_database.username, cron.caller()),
    schedule_in_database.active
  )
  on conflict on constraint jobname_username_uniq do update
    set schedule = excluded.schedule, command = excluded.command, database = excluded.database, active = excluded.active
  returning job.jobid into id;
  notify rollcall_cron;
  return id;
end $$;

create or replace function cron.schedule(job_name text, schedule text, command text) returns bigint
language sql security definer
set search_path = ''
as $$
  select cron.schedule_in_database(job_name, schedule, command, current_database())
$$;

create or replace function cron.schedule(schedule text, command text) returns bigint
language sql security definer
set search_path = ''
as $$
  select cron.schedule_in_database(null, schedule, command, current_database())
$$;

create or replace function cron.alter_job(
  job_id bigint,
  schedule text default null,
  command text default null,
  database text default null,
  username text default null,
  active boolean default null
) returns void
language plpgsql security definer
set search_path = ''
as $$
begin
  if alter_job.schedule is not null then
    perform cron.check_schedule(alter_job.schedule);
  end if;
  update cron.job as job
  set
    schedule = coalesce(alter_job.schedule, job.schedule),
    command = coalesce(alter_job.command, job.command),
    database = coalesce(alter_job.database, job.database),
    username = coalesce(alter_job.username, job.username),
    active = coalesce(alter_job.active, job.active)
  where job.jobid = job_id and job.username = cron.caller();
  if not found then
    raise exception 'Job % does not exist or you don''t own it', job_id;
  end if;
  notify rollcall_cron;
end $$;

create or replace function cron.unschedule(job_id bigint) returns boolean
language plpgsql security definer
set search_path = ''
as $$
begin
  delete from cron.job where job.jobid = job_id and job.username = cron.caller();
  if not found then
    raise exception 'could not find valid entry for job ''%''', job_id;
  end if;
  notify rollcall_cron;
  return true;
end $$;

create or replace function cron.unschedule(job_name text) returns boolean
language plpgsql security definer
set search_path = ''
as $$
begin
  delete from cron.job where job.jobname = job_name and job.username = cron.caller();
  if not found then
    raise exception 'could not find valid entry for job ''%''', job_name;
  end if;
  notify rollcall_cron;
  return true;
end $$;

-- As a hosted project grants it: postgres reads the jobs and changes them through the functions.
revoke all on schema cron from public;
grant usage on schema cron to postgres with grant option;
grant execute on all functions in schema cron to postgres with grant option;
revoke all on function cron.schedule_in_database(text, text, text, text, text, boolean) from public;
grant select on cron.job to postgres with grant option;
grant all on cron.job_run_details to postgres with grant option;
