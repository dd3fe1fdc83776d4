import { randomUUID } from 'node:crypto'
import type postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { botIn } from '../support/bots.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { ownEverything } from '../support/owned_rows.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

const roles = ['anon', 'authenticated', 'service_role'] as const

/** The list of everything that runs. */
const of_runs = [
  'private.bot_row',
  'private.bot_stuck_rule',
  'private.count_failures',
  'private.cut_bytes',
  'private.exact_stamp',
  'private.execution_row',
  'private.execution_stuck_rule',
  'private.handler_row',
  'private.handler_stuck_rule',
  'private.workflow_row',
  'private.workflow_stuck_rule',
  'private.run_parts',
  'private.run_stage',
  'private.run_error_code',
  'private.run_time_column',
  'private.filter_time',
  'private.filter_words',
  'private.fitted_run',
  'private.named_runs',
  'private.open_now',
  'private.read_run_filter',
  'private.run_id_column',
  'private.run_matches',
  'private.run_repeats',
  'private.run_row',
  'private.run_scan',
  'private.run_states',
  'private.run_test',
  'private.runs_by_id',
  'private.stamp',
  'private.state_spans',
  'private.stuck_rules',
  'private.subject_runs',
  'private.usual_prompt_ms',
  'public.recent_changes',
  'public.run_failures',
  'public.run_timeline',
  'public.runs_counts',
  'public.runs_get',
  'public.runs_list',
  'public.state_timing',
]

/** Reads of automations run as their caller. */
const workflow_reads = [
  'private.handler_run_json',
  'private.mutation_actions',
  'private.script_json',
  'private.script_version',
  'private.seen_workflow',
  'private.session_json',
  'private.unresolved_mutation_json',
  'private.whole_handler_run_json',
  'private.workflow_actions',
  'private.workflow_error_json',
  'private.workflow_json',
  'private.workflow_state',
  'private.workflow_summary',
  'public.get_workflow',
  'public.get_workflow_run',
  'public.get_workflow_script',
  'public.list_workflow_messages',
  'public.list_workflow_runs',
  'public.list_workflow_scripts',
  'public.list_workflows',
]
/** What people ask of automations and what workers do: through functions alone. */
const workflow_writes = [
  'public.acknowledge_error',
  'public.activate_workflow',
  'public.add_workflow_message',
  'public.advance_handler_run',
  'public.apply_fix',
  'public.apply_mutation',
  'public.archive_workflow',
  'public.begin_mutation',
  'public.claim_reconcile',
  'public.claim_task',
  'public.claim_workflow_session',
  'public.commit_consumer',
  'public.commit_producer',
  'public.complete_plan',
  'public.create_handler_run',
  'public.create_retry_run',
  'public.create_workflow',
  'public.fail_maintenance',
  'public.fail_mutation',
  'public.fail_task',
  'public.finish_session',
  'public.pause_workflow',
  'public.peek_events',
  'public.read_workflow_secrets',
  'public.record_reconcile',
  'public.renew_session',
  'public.renew_task',
  'public.request_run',
  'public.resolve_mutation',
  'public.resume_workflow',
  'public.retry_workflow',
  'public.save_script',
  'public.set_workflow_secret',
  'public.store_task_step',
  'public.unarchive_workflow',
  'public.update_handler_run_status',
  'public.wait_task',
  'public.yield_session',
  'public.yield_task',
]

/** What each role may call. A new function is nobody's until it stands here. */
const callable: Record<string, readonly string[]> = {
  anon: ['lifecycle.allowed_from', 'public.machine_catalog'],
  authenticated: [
    ...workflow_reads,
    ...of_runs,
    'lifecycle.now',
    'lifecycle.allowed_from',
    'lifecycle.is_attending',
    'lifecycle.is_open',
    'lifecycle.refuse',
    'lifecycle.refuse_input',
    'private.bot_error',
    'private.bot_events',
    'private.bot_json',
    'private.bot_transcript',
    'private.event_json',
    'private.execution_deadline',
    'private.execution_json',
    'private.execution_results',
    'private.flow_json',
    'private.is_operator',
    'private.list_cursor',
    'private.prompt_text',
    'private.read_changes_cursor',
    'private.read_list_cursor',
    'private.read_text_cursor',
    'private.to_platform',
    'private.topic_subject',
    'public.get_bot',
    'public.get_execution',
    'public.get_flow',
    'public.list_active_executions',
    'public.list_bots',
    'public.list_flows',
    'public.list_recent_executions',
    'public.machine_catalog',
    'public.status_changes',
    'public.workflow_changes',
    'private.webhook_delivery_json',
    'private.webhook_endpoint_json',
    'public.list_webhook_deliveries',
    'public.list_webhook_endpoints',
  ],
  service_role: [
    ...workflow_reads,
    ...workflow_writes,
    ...of_runs,
    'lifecycle.allowed_from',
    'lifecycle.is_attending',
    'lifecycle.is_open',
    'lifecycle.now',
    'lifecycle.refuse',
    'lifecycle.refuse_input',
    'private.bot_error',
    'private.bot_events',
    'private.bot_json',
    'private.bot_transcript',
    'private.event_json',
    'private.execution_deadline',
    'private.execution_json',
    'private.execution_results',
    'private.flow_json',
    'private.is_operator',
    'private.list_cursor',
    'private.prompt_text',
    'private.read_changes_cursor',
    'private.read_list_cursor',
    'private.read_text_cursor',
    'private.to_platform',
    'private.topic_subject',
    'public.claim_orphan_scan',
    'public.claim_probe',
    'public.judge_machines',
    'public.record_probe',
    'public.stop_bot',
    'public.cancel_execution',
    'public.claim_execution',
    'public.complete_execution',
    'public.create_execution',
    'public.create_flow',
    'public.delete_flow',
    'public.get_execution',
    'public.get_flow',
    'public.list_active_executions',
    'public.list_flows',
    'public.list_recent_executions',
    'public.renew_execution_lease',
    'public.retry_execution',
    'public.update_execution_progress',
    'public.update_flow',
    'public.yield_execution',
    'public.claim_launch',
    'public.claim_processing',
    'public.complete_processing',
    'public.fail_launch',
    'public.fail_processing',
    'public.get_bot',
    'public.get_health',
    'public.get_workflow_thread_by_bot_id',
    'public.list_bots',
    'public.machine_catalog',
    'public.normalize_container_status',
    'public.record_container',
    'public.renew_processing',
    'public.replace_callback_token',
    'public.report_bot',
    'public.request_bot',
    'public.save_workflow_thread_data',
    'public.status_changes',
    'public.workflow_changes',
    'public.update_bot_status',
    'private.webhook_delivery_json',
    'private.webhook_endpoint_json',
    'public.claim_delivery',
    'public.create_webhook_endpoint',
    'public.delete_webhook_endpoint',
    'public.list_webhook_deliveries',
    'public.list_webhook_endpoints',
    'public.record_delivery',
    'public.resend_delivery',
    'public.rotate_webhook_secret',
    'public.update_webhook_endpoint',
  ],
}

/** What each role may read; nobody but the owner writes. */
const everyone = ['lifecycle.machines', 'lifecycle.states', 'lifecycle.transitions', 'public.error_codes']
const own = [
  ...everyone,
  'public.flow_executions',
  'public.flow_prompt_results',
  'public.task_flows',
  'private.history_horizon',
  'public.invariant_violations',
  'public.status_events',
  'public.status_rejections',
  'public.stuck_runs',
  'public.transcript_chunks',
  'public.webhook_deliveries',
  'public.webhook_endpoints',
  'public.handler_runs',
  'public.handler_states',
  'public.producer_schedules',
  'public.script_runs',
  'public.workflow_chats',
  'public.workflow_events',
  'public.workflow_messages',
  'public.workflow_mutations',
  'public.workflow_notifications',
  'public.workflow_scripts',
  'public.workflow_states',
  'public.workflow_tasks',
  'public.workflow_topics',
  'public.workflows',
  'public.workflow_threads',
]
const readable: Record<string, readonly string[]> = { anon: everyone, authenticated: own, service_role: own }

test('each role may call what the table above says and nothing else', async () => {
  for (const role of roles) {
    const rows = await database.superuser`
      select distinct n.nspname || '.' || p.proname as name
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace
      where n.nspname in ('public', 'lifecycle', 'private') and has_function_privilege(${role}, p.oid, 'execute')
      order by 1`
    expect(
      rows.map((row) => row.name),
      role,
    ).toEqual([...(callable[role] ?? [])].sort())
  }
})

test('each role may read what the table above says, and writes nowhere', async () => {
  for (const role of roles) {
    const rows = await database.superuser`
      select n.nspname || '.' || c.relname as name, array_remove(array_agg(p.privilege), 'SELECT') as writes
      from pg_class c join pg_namespace n on n.oid = c.relnamespace,
        unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p (privilege)
      where n.nspname in ('public', 'lifecycle', 'private') and c.relkind in ('r', 'v', 'm', 'p')
        and has_table_privilege(${role}, c.oid, p.privilege)
      group by 1 order by 1`
    expect(
      rows.map((row) => row.name),
      role,
    ).toEqual([...(readable[role] ?? [])].sort())
    for (const row of rows) expect(row.writes, `${role} ${row.name}`).toEqual([])
  }
})

test('row level security is on for every table, and every function has its search_path', async () => {
  const tables = await database.superuser`
    select c.oid::regclass::text as name from pg_class c
    where c.relnamespace in ('public'::regnamespace, 'lifecycle'::regnamespace, 'private'::regnamespace)
      and c.relkind in ('r', 'p') and not c.relrowsecurity`
  expect(tables).toEqual([])
  const functions = await database.superuser`
    select p.oid::regprocedure::text as name from pg_proc p
    where p.pronamespace in ('public'::regnamespace, 'lifecycle'::regnamespace, 'private'::regnamespace)
      and not coalesce(p.proconfig::text like '%search_path=%', false)`
  expect(functions).toEqual([])
})

test('no security definer function is for anon or authenticated', async () => {
  const rows = await database.superuser`
    select p.oid::regprocedure::text as name from pg_proc p
    where p.pronamespace in ('public'::regnamespace, 'lifecycle'::regnamespace, 'private'::regnamespace) and p.prosecdef
      and (has_function_privilege('anon', p.oid, 'execute') or has_function_privilege('authenticated', p.oid, 'execute'))`
  expect(rows).toEqual([])
})

test('every public table, function and view says what it is', async () => {
  const rows = await database.superuser`
    select c.oid::regclass::text as name from pg_class c
    where c.relnamespace in ('public'::regnamespace, 'lifecycle'::regnamespace) and c.relkind in ('r', 'v')
      and obj_description(c.oid, 'pg_class') is null
    union all
    select p.oid::regprocedure::text from pg_proc p
    where p.pronamespace in ('public'::regnamespace, 'lifecycle'::regnamespace) and obj_description(p.oid, 'pg_proc') is null`
  expect(rows).toEqual([])
})

/** Who sees the rows of a readable table or view. A new one is nobody's until it stands here. */
const seen_by: Record<string, 'everyone' | 'owners' | 'the signed-in' | 'operators'> = {
  ...Object.fromEntries(own.map((name) => [name, 'owners' as const])),
  ...Object.fromEntries(everyone.map((name) => [name, 'everyone' as const])),
  'private.history_horizon': 'the signed-in',
  'public.invariant_violations': 'operators',
}
const operator = { sub: randomUUID(), app_metadata: { rollcall: 'operator' } }

/** The callers of the API. */
const callers = (owner_id: string) => ({
  anon: ['anon', {}] as const,
  owner: ['authenticated', { sub: owner_id }] as const,
  stranger: ['authenticated', { sub: randomUUID() }] as const,
  operator: ['authenticated', operator] as const,
  service_role: ['service_role', {}] as const,
})

test('of every table and view owners see their own rows, strangers none, operators and secret keys all', async () => {
  const { owner_id } = await ownEverything(database.owner)
  await ownEverything(database.owner)
  for (const [name, who] of Object.entries(seen_by)) {
    const [all] = await database.superuser.unsafe(`select count(*)::int as n from ${name}`)
    const n: number = all?.n
    const by_owner = `select count(*)::int as n from ${name} where owner_id = '${owner_id}'`
    const [owned] = who === 'owners' ? await database.superuser.unsafe(by_owner) : []
    const expected = {
      everyone: { anon: n, owner: n, stranger: n, operator: n, service_role: n },
      owners: { anon: 'refused', owner: owned?.n, stranger: 0, operator: n, service_role: n },
      'the signed-in': { anon: 'refused', owner: n, stranger: n, operator: n, service_role: n },
      operators: { anon: 'refused', owner: 0, stranger: 0, operator: n, service_role: n },
    }[who]
    const seen: Record<string, number | string> = {}
    for (const [caller, [role, claims]] of Object.entries(callers(owner_id))) {
      const rows = database.as(role, claims, (sql) => sql.unsafe(`select count(*)::int as n from ${name}`))
      seen[caller] = await rows.then(
        ([row]) => row?.n,
        (error) => (error.code === '42501' ? 'refused' : error.message),
      )
    }
    expect(seen, name).toEqual(expected)
    // Nothing is proven by an empty table, nor by one in which everything is the owner's.
    if (who === 'owners') {
      expect(owned?.n, name).toBeGreaterThan(0)
      expect(n, name).toBeGreaterThan(owned?.n)
    }
  }
})

test('a topic is heard by its owner and by operators, of the operators by them alone, and nobody sends on any', async () => {
  const { owner_id, topics } = await ownEverything(database.owner)
  const kinds = await database.superuser<{ kind: string }[]>`
    select distinct split_part(topic, ':', 1) as kind from realtime.messages order by 1`
  expect(kinds.map(({ kind }) => kind)).toEqual(
    [...topics, 'operators'].map((topic) => topic.split(':')[0]).sort(),
  )
  for (const topic of [...topics, 'operators', 'bot:x', `bot:${randomUUID()}`, 'nonsense', 'owner:']) {
    const is_one = topics.includes(topic)
    const of_operators = is_one || topic === 'operators'
    // The rows by which Realtime judges a join have no payload, and no other topic than the one that is asked for.
    const probe = (sql: postgres.TransactionSql) => sql`
      insert into realtime.messages (topic, extension, private) values (${topic}, 'broadcast', true)`
    const heard: Record<string, unknown> = {}
    const sent: Record<string, unknown> = {}
    for (const [caller, [role, claims]] of Object.entries(callers(owner_id))) {
      heard[caller] = await database.as(role, claims, async (sql) => {
        await sql`select set_config('realtime.topic', ${topic}, true)`
        const rows = await sql`select from realtime.messages where topic = ${topic} limit 1`
        return rows.length > 0
      })
      sent[caller] = await database
        .as(role, claims, async (sql) => {
          await sql`select set_config('realtime.topic', ${topic}, true)`
          return probe(sql).then(
            () => true,
            (error) => error.code,
          )
        })
        .catch((error) => error.code)
    }
    expect(heard, topic).toEqual({
      anon: false,
      owner: is_one,
      stranger: false,
      operator: topic.startsWith('owner:') ? false : of_operators,
      service_role: of_operators,
    })
    expect(sent, topic).toMatchObject({ anon: '42501', owner: '42501', stranger: '42501', operator: '42501' })
  }
})

test('what is secret is in its own table and nowhere else, and no role of the API reads that', async () => {
  const { owner_id, secrets } = await ownEverything(database.owner)
  const kept = ['private.workflow_secrets', 'private.webhook_secrets', 'private.bot_secrets', 'vault.secrets']
  const tables = await database.superuser<{ name: string }[]>`
    select n.nspname || '.' || c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm', 'v') and n.nspname not in ('pg_catalog', 'information_schema')
      and c.oid <> 'vault.decrypted_secrets'::regclass`
  for (const secret of secrets) {
    const found: string[] = []
    for (const { name } of tables) {
      const [row] = await database.superuser.unsafe(
        `select exists (select from ${name} t where strpos(t::text, $1) > 0) as is_there`,
        [secret],
      )
      if (row?.is_there) found.push(name)
    }
    expect(
      found.filter((name) => !kept.includes(name)),
      secret,
    ).toEqual([])
    expect(found.length, secret).toBeLessThanOrEqual(1)
  }
  for (const table of kept) {
    for (const role of roles) {
      // The platform shows the Vault to secret keys within the database; its API serves no such schema.
      if (table === 'vault.secrets' && role === 'service_role') continue
      const refused = database.as(role, { sub: owner_id }, (sql) => sql.unsafe(`select * from ${table}`))
      await expect(refused, `${role} ${table}`).rejects.toMatchObject({ code: '42501' })
    }
  }
  // What reads as everybody does: as its owner, an operator, a secret key.
  for (const [caller, [role, claims]] of Object.entries(callers(owner_id))) {
    if (caller === 'anon') continue
    const texts = await database.as(role, claims, async (sql) => {
      const reads: unknown[] = []
      for (const call of [
        'public.list_bots()',
        'public.list_recent_executions()',
        'public.list_flows()',
        'public.list_workflows()',
        'public.list_webhook_endpoints()',
        'public.list_webhook_deliveries()',
        'public.status_changes(null, 200)',
        "public.runs_list('{}', null, null, 100)",
        '(select jsonb_agg(public.get_workflow(w.id)) from public.workflows w)',
        '(select jsonb_agg(public.list_workflow_runs(w.id)) from public.workflows w)',
        '(select jsonb_agg(public.list_workflow_messages(w.id)) from public.workflows w)',
        '(select jsonb_agg(public.get_bot(t.bot_id)) from public.workflow_threads t)',
      ]) {
        reads.push(await sql.unsafe(`select ${call} as answer`))
      }
      return JSON.stringify(reads)
    })
    for (const secret of secrets) expect(texts.includes(secret), `${caller} reads ${secret}`).toBe(false)
    expect(texts.includes('KEY'), caller).toBe(caller !== 'stranger')
  }
})

test('invariant_violations shows nothing to an owner and everything to an operator', async () => {
  const bot = await botIn(database.owner, 'joining')
  await database.superuser.begin(async (sql) => {
    await sql`set local session_replication_role = replica`
    await sql`update public.workflow_threads set deadline_at = null where bot_id = ${bot.bot_id}`
  })
  const violations = (role: 'authenticated' | 'service_role', claims: Record<string, unknown>) =>
    database.as(role, claims, (sql) => sql`select * from public.invariant_violations`)
  expect(await violations('authenticated', { sub: bot.owner_id })).toEqual([])
  for (const rows of [
    await violations('authenticated', { sub: randomUUID(), app_metadata: { rollcall: 'operator' } }),
    await violations('service_role', {}),
  ]) {
    expect(rows).toMatchObject([
      { violation: 'open_without_a_deadline', machine: 'bot', subject_id: bot.bot_id },
    ])
  }
})

test('the first migration refuses a table of one of its names, in one sentence', async () => {
  const { readFileSync } = await import('node:fs')
  const preflight = readFileSync(
    new URL('../../supabase/migrations/20261121000100_preflight.sql', import.meta.url),
    'utf8',
  )
  const fresh = await createTestDatabase({ migrated: false })
  try {
    await fresh.owner`create table public.status_events (id int)`
    await expect(fresh.owner.unsafe(preflight)).rejects.toThrow(/public\.status_events.*rename or drop/)
    await fresh.owner`drop table public.status_events`
    await fresh.owner`create table public.workflow_threads (id int)`
    await expect(fresh.owner.unsafe(preflight)).rejects.toThrow(/public\.workflow_threads/)
  } finally {
    await fresh.drop()
  }
})
