-- pg_net's interface. A request is a row of the caller's transaction, so it is sent only after the commit;
-- src/local/cron.ts sends it.

create schema if not exists net;

create table if not exists net.http_request_queue (
  id bigint generated always as identity,
  method text not null,
  url text not null,
  headers jsonb,
  body bytea,
  timeout_milliseconds integer not null
);

create table if not exists net._http_response (
  id bigint,
  status_code integer,
  content_type text,
  headers jsonb,
  content text,
  timed_out boolean,
  error_msg text,
  created timestamptz not null default now()
);

create index if not exists _http_response_created_idx on net._http_response (created);

create or replace function net._urlencode(value text) returns text
language sql immutable strict
as $$
  select coalesce(string_agg(
    case
      when byte between 48 and 57 or byte between 65 and 90 or byte between 97 and 122 or byte in (45, 46, 95, 126)
        then chr(byte)
      else '%' || upper(lpad(to_hex(byte), 2, '0'))
    end, '' order by at), '')
  from (
    select at, get_byte(convert_to(value, 'UTF8'), at) as byte
    from generate_series(0, octet_length(convert_to(value, 'UTF8')) - 1) as at
  ) as bytes
$$;

create or replace function net._enqueue(
  method text, url text, params jsonb, headers jsonb, body bytea, timeout_milliseconds integer
) returns bigint
language plpgsql
set search_path = ''
as $$
declare
  query text;
  request_id bigint;
begin
  select string_agg(net._urlencode(key) || '=' || net._urlencode(value), '&') into query
  from jsonb_each_text(coalesce(params, '{}'));
  insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
  values (
    method,
    url || case when query is null then '' when position('?' in url) > 0 then '&' || query else '?' || query end,
    headers,
    body,
    timeout_milliseconds
  )
  returning id into request_id;
  notify rollcall_net;
  return request_id;
end $$;

create or replace function net.http_post(
  url text,
  body jsonb default '{}',
  params jsonb default '{}',
  headers jsonb default '{"Content-Type": "application/json"}',
  timeout_milliseconds integer default 5000
) returns bigint
language plpgsql security definer
set search_path = ''
as $$
declare
  content_type text;
begin
  select header.value into content_type
  from jsonb_each_text(coalesce(http_post.headers, '{}')) as header
  where lower(header.key) = 'content-type';
  if content_type is null then
    http_post.headers := coalesce(http_post.headers, '{}') || '{"Content-Type": "application/json"}';
  elsif content_type <> 'application/json' then
    raise exception 'Content-Type header must be "application/json"';
  end if;
  return net._enqueue(
    'POST', url, params, http_post.headers, convert_to(body::text, 'UTF8'), timeout_milliseconds
  );
end $$;

create or replace function net.http_get(
  url text,
  params jsonb default '{}',
  headers jsonb default '{}',
  timeout_milliseconds integer default 5000
) returns bigint
language sql security definer
set search_path = ''
as $$
  select net._enqueue('GET', url, params, headers, null, timeout_milliseconds)
$$;

create or replace function net.http_delete(
  url text,
  params jsonb default '{}',
  headers jsonb default '{}',
  timeout_milliseconds integer default 5000,
  body jsonb default null
) returns bigint
language sql security definer
set search_path = ''
as $$
  select net._enqueue('DELETE', url, params, headers, convert_to(body::text, 'UTF8'), timeout_milliseconds)
$$;

revoke all on function net._enqueue(text, text, jsonb, jsonb, bytea, integer) from public;
revoke all on function net.http_post(text, jsonb, jsonb, jsonb, integer) from public;
revoke all on function net.http_get(text, jsonb, jsonb, integer) from public;
revoke all on function net.http_delete(text, jsonb, jsonb, integer, jsonb) from public;
grant usage on schema net to postgres, anon, authenticated, service_role;
grant execute on function net.http_post(text, jsonb, jsonb, jsonb, integer) to postgres, anon, authenticated, service_role;
grant execute on function net.http_get(text, jsonb, jsonb, integer) to postgres, anon, authenticated, service_role;
grant execute on function net.http_delete(text, jsonb, jsonb, integer, jsonb) to postgres, anon, authenticated, service_role;
grant all on net.http_request_queue, net._http_response to postgres;
