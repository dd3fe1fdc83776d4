-- How many runs there are of what, counted to 10,000 and no further.

create function private.count_runs(f private.run_filter, kind text, state text, named uuid[], count_limit int, out n int, out exact boolean)
language plpgsql
stable
set search_path = ''
as $$
declare
  test text := private.run_test(f);
  scanned int;
begin
  execute format(
    'with scanned as (%s%s%s limit %s) select count(*), count(*) filter (where true%s) from scanned s',
    private.run_scan(kind), private.run_condition(kind, f, state),
    case when named is not null then format(' and %s = any ($1)', private.run_id_column(kind)) end,
    count_limit + 1, test)
  into scanned, n using named;
  exact := scanned <= count_limit;
  n := least(n, count_limit);
end;
$$;
comment on function private.count_runs is 'How many runs of a kind and state pass a filter, among count_limit at most; exact: there were not more.';

create function public.runs_counts(filter jsonb default '{}')
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  count_limit constant int := 10000;
  moment timestamptz := lifecycle.now();
  f private.run_filter := private.read_run_filter(filter);
  failed private.run_filter;
  named uuid[];
  branch record;
  counted record;
  counts jsonb := '[]';
  exact boolean := true;
  stuck_n int;
  failed_n int := 0;
  failed_exact boolean := true;
begin
  f.stuck := false;
  f.states := null;
  named := private.named_runs(f, count_limit);
  if named is not null then
    f.search := null;
    f.since := null;
    f.until := null;
  end if;
  failed := f;
  failed.since := null;
  failed.until := null;
  failed.ended_since := moment - interval '1 h';
  for branch in
    select s.*, (s.kind, s.state) in (select b.kind, b.state from private.run_branches(f) b) as is_possible
    from private.run_states() s where s.kind = any (f.kinds)
  loop
    if branch.is_possible then
      counted := private.count_runs(f, branch.kind, branch.state, named, count_limit);
      exact := exact and counted.exact;
    end if;
    counts := counts || jsonb_build_object('kind', branch.kind, 'state', branch.state,
      'n', case when branch.is_possible then counted.n else 0 end, 'exact', not branch.is_possible or counted.exact);
    if branch.failed then
      counted := private.count_failures(failed, branch.kind, branch.state, named, count_limit);
      failed_n := failed_n + counted.n;
      failed_exact := failed_exact and counted.exact;
    end if;
  end loop;
  select count(*) into stuck_n from (
    select from public.stuck_runs r
    where r.kind = any (f.kinds) and (f.everyone or r.owner_id = f.reader) limit count_limit + 1
  ) r;
  return jsonb_build_object(
    'counts', counts,
    'stuck', jsonb_build_object('n', least(stuck_n, count_limit), 'exact', stuck_n <= count_limit),
    'failed_last_hour', jsonb_build_object('n', least(failed_n, count_limit), 'exact', failed_exact),
    'stuck_rules', (select jsonb_agg(jsonb_build_object('kind', r.kind, 'rule', r.rule, 'words', r.words)) from private.stuck_rules() r),
    'exact', exact and failed_exact and stuck_n <= count_limit,
    'as_of', private.exact_stamp(moment));
end;
$$;
comment on function public.runs_counts is
  'How many runs there are of each kind and state: { counts: [{ kind, state, n, exact }], stuck, failed_last_hour, stuck_rules, exact, as_of }. Counted to 10,000 each; exact false: there are more. state and stuck of the filter do not narrow the counts.';

create function private.count_failures(f private.run_filter, kind text, state text, named uuid[], count_limit int, out n int, out exact boolean)
language plpgsql
stable
set search_path = ''
as $$
declare
  scanned int;
begin
  -- By the time of the end, from an index of its own: what failed just now may have been asked for long ago.
  execute format(
    'with scanned as (%s%s and t.%s >= %L::timestamptz order by ended_at desc limit %s) select count(*), count(*) filter (where true%s) from scanned s',
    private.run_scan(kind), private.run_condition(kind, f, state),
    case kind when 'bot' then 'bot_completed_at' else 'completed_at' end, f.ended_since,
    count_limit + 1, concat(private.run_test(f), case when named is not null then ' and s.id = any ($1)' end))
  into scanned, n using named;
  exact := scanned <= count_limit;
  n := least(n, count_limit);
end;
$$;
comment on function private.count_failures is 'How many runs of a kind ended badly since a time.';

create function public.run_failures(filter jsonb default '{}')
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  scan_limit constant int := 10000;
  moment timestamptz := lifecycle.now();
  f private.run_filter := private.read_run_filter(filter);
  branch record;
  found jsonb;
  failures jsonb := '[]';
  exact boolean := true;
  scanned int;
begin
  for branch in
    select s.kind, s.state from private.run_states() s
    where s.failed and s.kind = any (f.kinds) and (f.states is null or s.state = any (f.states))
  loop
    execute format($q$
        with scanned as materialized (%s%s order by created_at desc, id desc limit %s)
        select (select count(*) from scanned), jsonb_agg(jsonb_build_object(
          'kind', %L, 'stage', g.stage, 'code', g.code, 'n', g.n, 'last_at', private.stamp(g.last_at)))
        from (
          select s.stage, s.code, count(*) as n, max(s.ended_at) as last_at
          from scanned s where s.code is not null%s group by s.stage, s.code
        ) g
      $q$, private.run_scan(branch.kind), private.run_condition(branch.kind, f, branch.state), scan_limit + 1,
      branch.kind, private.run_test(f))
    into scanned, found;
    failures := failures || coalesce(found, '[]');
    exact := exact and scanned <= scan_limit;
  end loop;
  return jsonb_build_object(
    'failures', (
      select coalesce(jsonb_agg(x order by (x ->> 'n')::int desc, x ->> 'last_at' desc), '[]')
      from jsonb_array_elements(failures) x),
    'exact', exact, 'as_of', private.exact_stamp(moment));
end;
$$;
comment on function public.run_failures is
  'Failures by kind, stage and code, most first: { failures: [{ kind, stage, code, n, last_at }], exact, as_of }, among the newest 10,000 of each kind that pass the filter.';

revoke execute on function
  private.count_runs(private.run_filter, text, text, uuid[], int), private.count_failures(private.run_filter, text, text, uuid[], int),
  public.runs_counts(jsonb), public.run_failures(jsonb)
from public, anon, authenticated;
grant execute on function
  private.count_runs(private.run_filter, text, text, uuid[], int), private.count_failures(private.run_filter, text, text, uuid[], int),
  public.runs_counts(jsonb), public.run_failures(jsonb)
to authenticated, service_role;
