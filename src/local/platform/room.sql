-- Who hears what in the local room. Its guests carry a token with the claim
-- room: { id, guest, admitted }. Text is compared with text: other channels share this table, so nothing is cast.
-- Run as supabase_admin; running it again changes nothing.

drop policy if exists "guests of the local room hear it" on realtime.messages;
create policy "guests of the local room hear it" on realtime.messages
  for select to authenticated
  using (
    (select auth.jwt()) -> 'room' ->> 'id' is not null
    and (
      realtime.topic() = 'room:' || ((select auth.jwt()) -> 'room' ->> 'id') || ':' || ((select auth.jwt()) -> 'room' ->> 'guest')
      or (
        realtime.topic() = 'room:' || ((select auth.jwt()) -> 'room' ->> 'id')
        and (select auth.jwt()) -> 'room' -> 'admitted' = 'true'::jsonb
      )
    )
  );

-- What is said is sent by the room itself, which knows who is in and puts the right name to it.
drop policy if exists "guests of the local room show that they are in" on realtime.messages;
create policy "guests of the local room show that they are in" on realtime.messages
  for insert to authenticated
  with check (
    extension = 'presence'
    and realtime.topic() = 'room:' || ((select auth.jwt()) -> 'room' ->> 'id')
    and (select auth.jwt()) -> 'room' -> 'admitted' = 'true'::jsonb
  );
