-- Secrets of scripts: written by their owner, handed to whoever holds a live lease, read by nobody else.

alter table private.workflow_secrets add column actor uuid;
comment on column private.workflow_secrets.actor is 'The operator who set it for the owner of the workflow.';

create function private.drop_vault_secret()
returns trigger
language plpgsql
security definer -- whoever erases a workflow erases its secrets
set search_path = ''
as $$
begin
  delete from vault.secrets v where v.id = old.vault_id;
  return null;
end;
$$;
create trigger drop_vault_secret after delete on private.workflow_secrets
  for each row execute function private.drop_vault_secret();

create function public.set_workflow_secret(
  workflow_id uuid, name text, value text, owner_id uuid default null, actor uuid default null
)
returns jsonb
language plpgsql
security definer -- API roles may not write secrets
set search_path = ''
as $$
declare
  workflow public.workflows := private.lock_workflow(workflow_id, owner_id);
  known record;
  is_new boolean;
begin
  if coalesce(set_workflow_secret.name !~ '^[A-Za-z_][A-Za-z0-9_]{0,63}$', true) then
    perform lifecycle.refuse_input('name',
      'has 1 to 64 letters, digits and underscores, and does not begin with a digit.');
  elsif octet_length(set_workflow_secret.value) not between 1 and 8192 then
    perform lifecycle.refuse_input('value', 'has 1 to 8192 bytes; null takes the secret away.');
  end if;
  select s.vault_id, v.decrypted_secret as value into known
  from private.workflow_secrets s left join vault.decrypted_secrets v on v.id = s.vault_id
  where s.workflow_id = workflow.id and s.name = set_workflow_secret.name;
  is_new := known.value is distinct from set_workflow_secret.value;
  if set_workflow_secret.value is null then
    delete from private.workflow_secrets s where s.workflow_id = workflow.id and s.name = set_workflow_secret.name;
  elsif known.value is null then
    -- Also where somebody took the value out of Vault by hand.
    insert into private.workflow_secrets (workflow_id, name, vault_id, actor, updated_at)
    values (
      workflow.id, set_workflow_secret.name,
      vault.create_secret(set_workflow_secret.value, format('rollcall/%s/%s', workflow.id, set_workflow_secret.name)),
      set_workflow_secret.actor, lifecycle.now()
    )
    on conflict on constraint workflow_secrets_pkey do update
    set vault_id = excluded.vault_id, actor = excluded.actor, updated_at = excluded.updated_at;
  elsif is_new then
    perform vault.update_secret(known.vault_id, set_workflow_secret.value);
    update private.workflow_secrets s set actor = set_workflow_secret.actor, updated_at = lifecycle.now()
    where s.workflow_id = workflow.id and s.name = set_workflow_secret.name;
  end if;
  return jsonb_build_object(
    'ok', true, 'changed', is_new, 'result', case when is_new then 'processed' else 'unchanged' end,
    'workflow_id', workflow.id, 'secret_names', (
      select coalesce(jsonb_agg(s.name order by s.name), '[]')
      from private.workflow_secrets s where s.workflow_id = workflow.id
    )
  );
end;
$$;
comment on function public.set_workflow_secret is
  'Sets a secret of a workflow, or takes it away (null): { secret_names }. Nobody reads it again; scripts name it as {{secret.NAME}}. PT404 workflow_not_found.';

create function public.read_workflow_secrets(
  session_id uuid default null, mutation_id uuid default null, lease_token uuid default null, attempt int default null
)
returns jsonb
language plpgsql
stable
security definer -- secrets are nobody's to read
set search_path = ''
as $$
declare
  of_workflow uuid;
begin
  if session_id is not null then
    select s.workflow_id into of_workflow from public.script_runs s
    where s.id = read_workflow_secrets.session_id and s.status = 'running'
      and s.lease_token = read_workflow_secrets.lease_token and s.lease_expires_at > lifecycle.now();
  else
    select m.workflow_id into of_workflow from public.workflow_mutations m
    where m.id = read_workflow_secrets.mutation_id and m.status = 'needs_reconcile'
      and m.reconcile_attempts = read_workflow_secrets.attempt and m.reconcile_attempts > 0;
  end if;
  if of_workflow is null then
    perform lifecycle.refuse(409, 'stale_lease', 'Secrets are for whoever holds the lease of the session, or asks after the side effect now.');
  end if;
  return (
    select coalesce(jsonb_object_agg(s.name, v.decrypted_secret), '{}')
    from private.workflow_secrets s join vault.decrypted_secrets v on v.id = s.vault_id
    where s.workflow_id = of_workflow
  );
end;
$$;
comment on function public.read_workflow_secrets is
  'The secrets of a workflow, { NAME: value }, for the holder of a session''s live lease (session_id, lease_token) or of the present attempt to ask after a side effect (mutation_id, attempt); else PT409 stale_lease.';

revoke execute on function private.drop_vault_secret() from public, anon, authenticated, service_role;
revoke execute on function
  public.set_workflow_secret(uuid, text, text, uuid, uuid), public.read_workflow_secrets(uuid, uuid, uuid, int)
from public, anon, authenticated;
grant execute on function
  public.set_workflow_secret(uuid, text, text, uuid, uuid), public.read_workflow_secrets(uuid, uuid, uuid, int)
to service_role;
