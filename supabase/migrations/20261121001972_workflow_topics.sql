-- Who may hear a workflow's topic; policies only, as for the other topics.

create policy "owners hear their workflows" on realtime.messages
  for select to authenticated
  using (
    extension = 'broadcast'
    and exists (
      select from public.workflows w
      where w.id = (select private.topic_subject('workflow'))
        and (w.owner_id = (select auth.uid()) or (select private.is_operator()))
    )
  );
