-- Who may hear an execution's topic; policies only, as for the other topics.

create policy "owners hear their executions" on realtime.messages
  for select to authenticated
  using (
    extension = 'broadcast'
    and exists (
      select from public.flow_executions e
      where e.id = (select private.topic_subject('flow_execution'))
        and (e.owner_id = (select auth.uid()) or (select private.is_operator()))
    )
  );
