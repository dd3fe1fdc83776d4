-- Lists, newest first, are read page by page: the cursor of a row tells where the next page goes on.

create function private.list_cursor(at timestamptz, id text)
returns text
language sql
stable
set search_path = ''
as $$
  select translate(encode(convert_to(to_jsonb(at) #>> '{}' || ' ' || id, 'utf8'), 'base64'), E'\n', '')
$$;
comment on function private.list_cursor(timestamptz, text) is 'Where a list, newest first, goes on behind this row.';

create function private.list_cursor(at timestamptz, id uuid)
returns text
language sql
stable
set search_path = ''
as $$
  select private.list_cursor(at, id::text)
$$;
comment on function private.list_cursor(timestamptz, uuid) is 'Where a list, newest first, goes on behind this row.';

create function private.read_text_cursor(cursor text, out before_at timestamptz, out before_id text)
language plpgsql
stable
set search_path = ''
as $$
declare
  place text;
begin
  before_at := 'infinity';
  if cursor is not null then
    place := convert_from(decode(cursor, 'base64'), 'utf8');
    before_at := split_part(place, ' ', 1)::timestamptz;
    before_id := substr(place, 1 + strpos(place, ' '));
  end if;
exception when data_exception then
  perform lifecycle.refuse_input('cursor', 'is not a next_cursor of this list.');
end;
$$;
comment on function private.read_text_cursor is 'The row that a cursor stands for; before_at infinity for null, PT422 for anything else.';

create function private.read_list_cursor(cursor text, out before_at timestamptz, out before_id uuid)
language plpgsql
stable
set search_path = ''
as $$
declare
  place record := private.read_text_cursor(cursor);
begin
  before_at := place.before_at;
  before_id := place.before_id::uuid;
exception when invalid_text_representation then
  perform lifecycle.refuse_input('cursor', 'is not a next_cursor of this list.');
end;
$$;
comment on function private.read_list_cursor is 'The row that a cursor stands for, where ids are uuids; before_at infinity for null, PT422 for anything else.';

revoke execute on function
  private.list_cursor(timestamptz, text), private.list_cursor(timestamptz, uuid),
  private.read_text_cursor(text), private.read_list_cursor(text)
from public, anon, authenticated;
grant execute on function
  private.list_cursor(timestamptz, text), private.list_cursor(timestamptz, uuid),
  private.read_text_cursor(text), private.read_list_cursor(text)
to authenticated, service_role;
