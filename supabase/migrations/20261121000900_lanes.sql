-- Background work is woken when it is due: an idle project makes no invocations.

create table lifecycle.lanes (
  lane text primary key,
  max_leases int not null default 4 constraint lane_has_room check (max_leases > 0),
  woken_at timestamptz
);
insert into lifecycle.lanes (lane) values
  ('containers'), ('processing'), ('prompts'), ('scripts'), ('agents'), ('webhooks'), ('reconcile');
comment on table lifecycle.lanes is 'The lanes of the work function: how many leases each may hold at a time, and when it was last woken.';

create function lifecycle.post_work(lane text)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  url text := (select s.decrypted_secret from vault.decrypted_secrets s where s.name = 'rollcall_functions_url');
  secret_key text := (select s.decrypted_secret from vault.decrypted_secrets s where s.name = 'rollcall_secret_key');
begin
  if url is null or secret_key is null then
    return false;
  end if;
  -- pg_net sends after the commit, and only then: what was made due is there when the worker looks.
  perform net.http_post(
    url := url || '/work?lane=' || lane,
    body := '{}'::jsonb,
    headers := jsonb_build_object('content-type', 'application/json', 'apikey', secret_key),
    timeout_milliseconds := 5000
  );
  return true;
end;
$$;
comment on function lifecycle.post_work is 'Posts to the work function of a lane. False where Vault lacks rollcall_functions_url or rollcall_secret_key.';

create function lifecycle.wake_lane(lane text, moment timestamptz default lifecycle.now())
returns boolean
language plpgsql
set search_path = ''
as $$
begin
  -- At most once a second, and never waiting for another transaction that wakes the same lane.
  if exists (select from lifecycle.lanes l where l.lane = wake_lane.lane and l.woken_at > moment - interval '1 s')
    or not pg_try_advisory_xact_lock(hashtextextended('lane:' || lane, 0))
  then
    return false;
  end if;
  if not lifecycle.post_work(lane) then
    return false;
  end if;
  update lifecycle.lanes l set woken_at = moment where l.lane = wake_lane.lane;
  return true;
end;
$$;
comment on function lifecycle.wake_lane is 'Called by RPCs that make work due: wakes the lane after their commit. False where somebody just did, or nobody can.';

alter table lifecycle.lanes enable row level security;
revoke all on lifecycle.lanes from public, anon, authenticated, service_role;
revoke execute on function lifecycle.post_work(text), lifecycle.wake_lane(text, timestamptz) from public, anon, authenticated, service_role;
