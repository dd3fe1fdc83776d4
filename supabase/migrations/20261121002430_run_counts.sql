-- How many runs there are of what, counted to 10,000 and no further.

create function private.count_failures(f private.run_filter, named uuid[], count_limit int, out n int, out exact boolean)
language plpgsql
stable
set search_path = ''
as $$
declare
  branch record;
  scanned int;
  passed int;
begin
  n := 0;
  exact := true;
  for branch in
    select s.kind, s.part, array_agg(s.state) filter (where s.failed) as states, array_agg(s.state) as all_states
    from private.run_states() s
    where s.kind = any (f.kinds) and s.ended
    group by s.kind, s.part having bool_or(s.failed)
  loop
    -- By the time of the end, from an index of its own: what failed just now may have been asked for long ago.
    execute format(
      'with scanned as (%s%s order by ended_at desc limit %s) select count(*), count(*) filter (where true%s) from scanned s',
      private.run_scan(branch.kind, branch.part, f),
      case branch.kind
        when 'bot' then format(' and t.bot_completed_at >= %L::timestamptz', f.ended_since)
        when 'flow' then format(' and t.completed_at >= %L::timestamptz', f.ended_since)
        else format(' and t.ended_at >= %L::timestamptz and t.status in (''failed:logic'', ''failed:internal'', ''crashed'')', f.ended_since)
      end,
      count_limit + 1,
      concat(private.run_test(f, branch.states, branch.all_states), case when named is not null then ' and s.id = any ($1)' end))
    into scanned, passed using named;
    exact := exact and scanned <= count_limit;
    n := least(count_limit, n + passed);
  end loop;
end;
$$;
comment on function private.count_failures is 'How many runs that pass a filter ended badly since its ended_since.';

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
  failures record;
  named uuid[];
  branch record;
  scanned int;
  by_state jsonb;
  found jsonb := '{}';
  inexact text[] := '{}';
  stuck_n int;
begin
  -- They narrow the list; the counts are what one chooses from.
  f.stuck := false;
  f.states := null;
  named := private.named_runs(f, count_limit);
  if named is not null then
    f.search := null;
    f.since := null;
    f.until := null;
  end if;
  for branch in select p.* from private.run_parts(f) p loop
    -- No column is asked for but those of the test: without one the index alone answers.
    execute format($q$
        select coalesce(sum(c.scanned), 0), jsonb_object_agg(c.state, c.n)
        from (
          select s.state, count(*) as scanned, count(*) filter (where true%s) as n from (%s%s limit %s) s group by s.state
        ) c
      $q$,
      private.run_test(f, branch.states, branch.all_states), private.run_scan(branch.kind, branch.part, f),
      case when named is not null then format(' and %s = any ($1)', private.run_id_column(branch.kind)) end, count_limit + 1)
    into scanned, by_state using named;
    found := found || jsonb_build_object(branch.kind || ' ' || branch.part, coalesce(by_state, '{}'));
    if scanned > count_limit then
      inexact := inexact || (branch.kind || ' ' || branch.part);
    end if;
  end loop;

  failed := f;
  failed.since := null;
  failed.until := null;
  failed.ended_since := moment - interval '1 h';
  failures := private.count_failures(failed, named, count_limit);
  select count(*) into stuck_n from (
    select from public.stuck_runs r
    where r.kind = any (f.kinds) and (f.everyone or r.owner_id = f.reader) limit count_limit + 1
  ) r;
  return jsonb_build_object(
    'counts', (
      select jsonb_agg(jsonb_build_object(
        'kind', s.kind, 'state', s.state,
        'n', least(count_limit, coalesce((found -> (s.kind || ' ' || s.part) ->> s.state)::int, 0)),
        'exact', s.kind || ' ' || s.part <> all (inexact)))
      from private.run_states() s where s.kind = any (f.kinds)
    ),
    'stuck', jsonb_build_object('n', least(stuck_n, count_limit), 'exact', stuck_n <= count_limit),
    'failed_last_hour', jsonb_build_object('n', failures.n, 'exact', failures.exact),
    'stuck_rules', (select jsonb_agg(jsonb_build_object('kind', r.kind, 'rule', r.rule, 'words', r.words)) from private.stuck_rules() r),
    'exact', inexact = '{}' and failures.exact and stuck_n <= count_limit,
    'as_of', private.exact_stamp(moment));
end;
$$;
comment on function public.runs_counts is
  'How many runs there are of each kind and state: { counts: [{ kind, state, n, exact }], stuck, failed_last_hour, stuck_rules, exact, as_of }. Counted to 10,000 each; exact false: there are more. state and stuck of the filter do not narrow the counts.';

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
    select p.* from private.run_parts(f) p
    where exists (select from private.run_states() s where s.kind = p.kind and s.part = p.part and s.has_code)
  loop
    execute format($q$
        with scanned as materialized (%s order by created_at desc, id desc limit %s)
        select (select count(*) from scanned), jsonb_agg(jsonb_build_object(
          'kind', %L, 'stage', g.stage, 'code', g.code, 'n', g.n, 'last_at', private.stamp(g.last_at)))
        from (
          select s.stage, s.code, count(*) as n, max(coalesce(s.ended_at, s.created_at)) as last_at
          from scanned s where s.code is not null%s group by s.stage, s.code
        ) g
      $q$, private.run_scan(branch.kind, branch.part, f), scan_limit + 1,
      branch.kind, private.run_test(f, branch.states, branch.all_states))
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
  private.count_failures(private.run_filter, uuid[], int),
  public.runs_counts(jsonb), public.run_failures(jsonb)
from public, anon, authenticated;
grant execute on function
  private.count_failures(private.run_filter, uuid[], int),
  public.runs_counts(jsonb), public.run_failures(jsonb)
to authenticated, service_role;
