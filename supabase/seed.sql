-- For looking around on a laptop, once, after the migrations: whom the local dashboard asks to sign in, and some runs.
-- Never for a hosted project.

do $$
declare
  demo constant uuid := '00000000-0000-4000-8000-00000000d3a0';
  email constant text := 'demo@rollcall.local';
  hash constant text := encode(sha256('seed'), 'hex');
  bot jsonb;
  flow jsonb;
  claimed jsonb;
begin
  if exists (select from auth.users u where u.email = 'demo@rollcall.local') then
    return;
  end if;
  insert into auth.users (
    id, aud, role, email, encrypted_password, email_confirmed_at, raw_app_meta_data, raw_user_meta_data,
    created_at, updated_at, confirmation_token, recovery_token, email_change, email_change_token_new
  )
  values (
    demo, 'authenticated', 'authenticated', email,
    extensions.crypt('rollcall-demo', extensions.gen_salt('bf')), now(),
    '{"provider": "email", "providers": ["email"]}', '{}', now(), now(), '', '', '', ''
  );
  -- Hosted Auth looks for its users by it; the local one has no such column.
  if exists (
    select from pg_catalog.pg_attribute a where a.attrelid = 'auth.users'::regclass and a.attname = 'instance_id'
  ) then
    execute 'update auth.users set instance_id = $1 where id = $2' using '00000000-0000-0000-0000-000000000000'::uuid, demo;
  end if;
  insert into auth.identities (id, provider_id, user_id, identity_data, provider, last_sign_in_at, created_at, updated_at)
  values (
    gen_random_uuid(), demo::text, demo, jsonb_build_object('sub', demo, 'email', email, 'email_verified', true), 'email',
    now(), now(), now()
  );

  -- A bot that nobody let in.
  bot := public.request_bot(demo, hash, 'room', 'seed-lobby', 'http://127.0.0.1:54321/room/seed-lobby',
    bot_name => 'Scribe', launch => false);
  perform public.report_bot((bot ->> 'bot_id')::uuid, hash, 'joining');
  perform public.report_bot((bot ->> 'bot_id')::uuid, hash, 'awaiting_admission');
  perform public.report_bot((bot ->> 'bot_id')::uuid, hash, 'failed',
    error_code => 'JOIN_ROOM_TIMEOUT', error_message => 'Nobody opened the door.');

  -- A flow that was answered, and one whose agent was not there.
  flow := public.create_flow(demo, 'Morning routine', '["What is on today?", "What comes first?"]');
  perform public.create_execution((flow ->> 'id')::uuid);
  claimed := public.claim_execution('seed');
  perform public.update_execution_progress((claimed ->> 'id')::uuid, 0, '{"response": "Two meetings and a release."}',
    (claimed ->> 'lease_token')::uuid);
  perform public.update_execution_progress((claimed ->> 'id')::uuid, 1, '{"response": "The release."}',
    (claimed ->> 'lease_token')::uuid);
  perform public.create_execution((flow ->> 'id')::uuid);
  claimed := public.claim_execution('seed');
  perform public.update_execution_progress((claimed ->> 'id')::uuid, 0, '{"response": "Nothing."}',
    (claimed ->> 'lease_token')::uuid);
  perform public.complete_execution((claimed ->> 'id')::uuid, 'failed', lease_token => (claimed ->> 'lease_token')::uuid,
    error => 'Prompt 2 of 2: the agent could not be reached.', error_code => 'AGENT_UNREACHABLE');

  -- An automation to be looked at and activated: it asks nobody and sends nothing.
  perform public.create_workflow(demo, title => 'Hourly greeting', code => $code$workflow = {
  topics: [],
  producers: {
    greet: {
      schedule: { interval: '1h' },
      publishes: [],
      async handler(state) {
        const times = (state.times ?? 0) + 1
        await User.send(`Hello for the ${times}. time.`)
        return { times }
      },
    },
  },
  consumers: {},
}
$code$, config => '{"topics": [], "producers": {"greet": {"schedule": {"interval": "1h"}, "publishes": []}}, "consumers": {}}');
end;
$$;
