-- Who may hear a bot's topic; policies only, as for the other topics.

create policy "owners hear their bots" on realtime.messages
  for select to authenticated
  using (
    extension = 'broadcast'
    and exists (
      select from public.workflow_threads t
      where t.bot_id = (select private.topic_subject('bot'))
        and (t.owner_id = (select auth.uid()) or (select private.is_operator()))
    )
  );
