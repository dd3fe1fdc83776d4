import { randomUUID } from 'node:crypto'
import type postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { callable, readable, roles, seen_by } from '../support/access.ts'
import { botIn } from '../support/bots.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { ownEverything } from '../support/owned_rows.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

test('each role may call what tests/support/access.ts says and nothing else', async () => {
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

test('each role may read what tests/support/access.ts says, and writes nowhere', async () => {
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
