-- Who may hear which topic. realtime.messages belongs to the platform: policies only, and nothing for writing,
-- so that clients can not send on these topics. Probe rows have no payload: only the topic and the extension tell.

create policy "owners hear their own changes" on realtime.messages
  for select to authenticated
  using (extension = 'broadcast' and (select private.topic_subject('owner')) = (select auth.uid()));

create policy "operators hear of all changes" on realtime.messages
  for select to authenticated
  using (extension = 'broadcast' and (select realtime.topic()) = 'operators' and (select private.is_operator()));
