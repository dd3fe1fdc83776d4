import { cpSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient } from '@supabase/supabase-js'
import { decodeJwt, decodeProtectedHeader, SignJWT } from 'jose'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Stack, startStack } from '../../src/local/stack.ts'
import { admin, anonymous, signUp } from '../support/stack.ts'

const fixture = join(import.meta.dirname, '..', 'support', 'stack_project')

let stack: Stack
let owner: postgres.Sql
let superuser: postgres.Sql
let project: string
let dir: string

beforeAll(async () => {
  // A copy, because a test changes one of its functions.
  project = mkdtempSync(join(tmpdir(), 'rollcall-project-'))
  dir = mkdtempSync(join(tmpdir(), 'rollcall-stack-'))
  cpSync(fixture, project, { recursive: true })
  const root = join(import.meta.dirname, '..', '..')
  for (const name of ['node_modules', 'package.json']) symlinkSync(join(root, name), join(project, name))
  stack = await startStack({ dir, project, port: 0, db_port: 0, durable: false })
  owner = postgres(stack.db_url, { max: 2, onnotice: () => {} })
  superuser = postgres(stack.superuser_url, { max: 2, onnotice: () => {} })
})

afterAll(async () => {
  await Promise.all([owner?.end(), superuser?.end()])
  await stack?.stop()
  for (const path of [project, dir]) rmSync(path, { recursive: true, force: true })
})

describe('Auth', () => {
  test('a sign-up brings a session at once', async () => {
    const { client, user_id, email } = await signUp(stack)
    const { data } = await client.auth.getUser()
    expect(data.user).toMatchObject({ id: user_id, email })
  })

  test('a user signs in again, and not with a wrong password', async () => {
    const { email, password, user_id } = await signUp(stack)
    const again = await anonymous(stack).auth.signInWithPassword({ email, password })
    expect(again.data.user?.id).toBe(user_id)
    const wrong = await anonymous(stack).auth.signInWithPassword({ email, password: 'not this one' })
    expect(wrong.error?.code).toBe('invalid_credentials')
  })

  test('a session says its key and who the user is, as hosted sessions do', async () => {
    const { access_token, user_id, email } = await signUp(stack)
    expect(decodeProtectedHeader(access_token)).toMatchObject({ alg: 'HS256', kid: expect.any(String) })
    expect(decodeJwt(access_token)).toMatchObject({
      sub: user_id,
      email,
      role: 'authenticated',
      aud: 'authenticated',
      iss: `${stack.api_url}/auth/v1`,
      app_metadata: { provider: 'email' },
    })
  })

  test('a refreshed session is accepted everywhere', async () => {
    const { client, user_id } = await signUp(stack)
    const { data, error } = await client.auth.refreshSession()
    expect(error).toBeNull()
    expect(decodeProtectedHeader(data.session?.access_token ?? '').kid).toEqual(expect.any(String))
    expect((await client.rpc('sessions')).data).toMatchObject({ uid: user_id })
    expect((await client.functions.invoke('whoami')).data).toMatchObject({ user_id })
  })

  test('pages of any origin may use it', async () => {
    const asked = {
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'apikey,x-new',
    }
    const url = `${stack.api_url}/auth/v1/token?grant_type=password`
    const before = await fetch(url, {
      method: 'OPTIONS',
      headers: { origin: 'https://page.example', ...asked },
    })
    expect(before.status).toBe(204)
    expect(before.headers.get('access-control-allow-origin')).toBe('*')
    expect(before.headers.get('access-control-allow-headers')).toBe('apikey,x-new')
    const answer = await fetch(url, {
      method: 'POST',
      body: '{}',
      headers: { apikey: stack.publishable_key },
    })
    expect(answer.headers.get('access-control-allow-origin')).toBe('*')
  })

  test('the key that signs is not published', async () => {
    const response = await fetch(`${stack.api_url}/auth/v1/.well-known/jwks.json`)
    expect(await response.json()).toEqual({ keys: [] })
  })
})

describe('REST', () => {
  test('requests log in as authenticator and act as the role of their key or token', async () => {
    const { client, user_id, email } = await signUp(stack)
    const session_user = 'authenticator'
    expect((await client.rpc('sessions')).data).toEqual({
      session_user,
      current_user: 'authenticated',
      uid: user_id,
      role: 'authenticated',
      email,
    })
    expect((await anonymous(stack).rpc('sessions')).data).toMatchObject({
      session_user,
      current_user: 'anon',
      uid: null,
    })
    expect((await admin(stack).rpc('sessions')).data).toMatchObject({
      session_user,
      current_user: 'service_role',
      uid: null,
    })
  })

  test('a user sees the rows that the policies show', async () => {
    const [ada, ben] = await Promise.all([signUp(stack), signUp(stack)])
    const written = await ada.client.from('notes').insert({ body: 'mine' }).select('*').single()
    expect(written.status).toBe(201)
    expect(written.data).toMatchObject({ owner_id: ada.user_id, body: 'mine' })
    expect((await ada.client.from('notes').select('*')).data).toHaveLength(1)
    expect((await ben.client.from('notes').select('*')).data).toEqual([])
  })

  test('what is not granted is refused to the secret key too', async () => {
    const { client } = await signUp(stack)
    for (const [who, status] of [
      [anonymous(stack), 401],
      [client, 403],
      [admin(stack), 403],
    ] as const) {
      expect(await who.from('secrets').select('*')).toMatchObject({ status, error: { code: '42501' } })
    }
    expect(await anonymous(stack).rpc('nothing')).toMatchObject({ status: 401, error: { code: '42501' } })
  })

  test('arguments arrive with their types', async () => {
    const values = {
      a_json: { deep: [1, 'x', null, { y: true }] },
      a_uuid: '00000000-0000-4000-8000-000000000001',
      a_list: ['a,b', 'c"d', '', null],
      a_number: 3,
      a_flag: true,
      a_text: '{"not": "parsed"}',
    }
    const { data } = await anonymous(stack).rpc('arguments', {
      ...values,
      a_time: '2026-01-02T03:04:05.678+02:00',
    })
    expect(data).toEqual({ ...values, json_type: 'object', a_time: '2026-01-02T01:04:05.678+00:00' })
  })

  test.each([
    ['string', 'plain'],
    ['string', '{"looks": "like JSON"}'],
    ['string', '5'],
    ['number', 5],
    ['boolean', false],
    ['array', [1, { two: 2 }]],
  ])('a jsonb argument may be a %s (%j)', async (json_type, a_json) => {
    expect((await anonymous(stack).rpc('arguments', { a_json })).data).toMatchObject({ json_type, a_json })
  })

  test('absent arguments have their defaults, null ones are null', async () => {
    const call = async (args: object) => (await anonymous(stack).rpc('arguments', args)).data
    expect(await call({})).toMatchObject({ a_number: 7, a_flag: false, a_text: 'default', a_json: null })
    expect(
      await call({ a_number: null, a_flag: null, a_text: null, a_json: null, a_list: null }),
    ).toMatchObject({
      a_number: null,
      a_flag: null,
      a_text: null,
      a_json: null,
      json_type: null,
      a_list: null,
    })
  })

  test('a function can be called with GET', async () => {
    const url = new URL(`${stack.api_url}/rest/v1/rpc/arguments`)
    url.search = new URLSearchParams({ a_json: '{"a":1}', a_list: '{x,y}', a_number: '4' }).toString()
    const response = await fetch(url, { headers: { apikey: stack.publishable_key } })
    expect(await response.json()).toMatchObject({ a_json: { a: 1 }, a_list: ['x', 'y'], a_number: 4 })
  })

  test('a jsonb answer is the body, whatever it holds', async () => {
    const client = admin(stack)
    expect((await client.rpc('nothing')).data).toBeNull()
    expect((await client.rpc('list_numbers')).data).toEqual([1, 2, { three: 3 }])
  })

  test('PTnnn becomes HTTP nnn with code, message, details and hint', async () => {
    for (const status of [401, 404, 409, 422, 429, 503]) {
      expect(await admin(stack).rpc('refuse', { status: String(status) })).toMatchObject({
        status,
        error: { code: `PT${status}`, message: 'no_thanks', details: '{"why": "test"}', hint: 'Ask again.' },
      })
    }
  })

  test('other errors of the database have the status that PostgREST gives them', async () => {
    const client = admin(stack)
    expect(await client.rpc('raise_plain')).toMatchObject({
      status: 400,
      error: { code: 'P0001', message: 'plain' },
    })
    expect(await client.from('notes').insert({ body: '', owner_id: crypto.randomUUID() })).toMatchObject({
      status: 400,
      error: { code: '23514' },
    })
    expect(await client.rpc('arguments', { a_uuid: 'none' })).toMatchObject({
      status: 400,
      error: { code: '22P02' },
    })
    expect(await client.rpc('there_is_no_such_function')).toMatchObject({
      status: 404,
      error: { code: 'PGRST202' },
    })
    expect(await client.rpc('arguments', { wrong: 1 })).toMatchObject({
      status: 404,
      error: { code: 'PGRST202' },
    })
    expect(await client.from('no_such_table').select('*')).toMatchObject({
      status: 404,
      error: { code: 'PGRST205' },
    })
  })

  test('a migration is seen without a restart', async () => {
    expect((await admin(stack).rpc('made_later')).status).toBe(404)
    await owner`create function public.made_later() returns int language sql as 'select 42'`
    await expect.poll(async () => (await admin(stack).rpc('made_later')).data).toBe(42)
    await owner`drop function public.made_later()`
    await expect.poll(async () => (await admin(stack).rpc('made_later')).status).toBe(404)
  })

  test('tokens that are expired, of another key, or of nobody are refused', async () => {
    const { access_token } = await signUp(stack)
    const secret = new TextEncoder().encode(stack.jwt_secret)
    const sign = (claims: object, key = secret) =>
      new SignJWT({ ...decodeJwt(access_token), ...claims }).setProtectedHeader({ alg: 'HS256' }).sign(key)
    const ask = async (token: string) => {
      const client = createClient(stack.api_url, stack.publishable_key, {
        global: { headers: { authorization: `Bearer ${token}` } },
        auth: { persistSession: false },
      })
      const { status, error } = await client.rpc('sessions')
      return { status, code: error?.code }
    }
    expect(await ask(await sign({}))).toEqual({ status: 200, code: undefined })
    expect(await ask(await sign({ exp: 1_700_000_000 }))).toEqual({ status: 401, code: 'PGRST303' })
    expect(await ask(await sign({}, new TextEncoder().encode('x'.repeat(40))))).toEqual({
      status: 401,
      code: 'PGRST301',
    })
    const role = await ask(await sign({ role: 'postgres' }))
    expect(role.status).toBeGreaterThanOrEqual(400)
  })

  test('no key, no answer', async () => {
    const ask = async (headers: Record<string, string>) =>
      (await fetch(`${stack.api_url}/rest/v1/notes`, { headers })).status
    expect(await ask({})).toBe(401)
    expect(await ask({ apikey: 'sb_publishable_guessed' })).toBe(401)
  })
})

describe('edge functions', () => {
  const call = (path: string, init?: RequestInit) => fetch(`${stack.functions_url}/${path}`, init)

  test('a function sees the request as on a hosted project', async () => {
    const response = await call('echo/some/path?x=1', {
      method: 'PUT',
      body: 'text',
      headers: { 'x-test': 'yes' },
    })
    expect(await response.json()).toMatchObject({
      method: 'PUT',
      path: '/echo/some/path',
      query: '?x=1',
      header: 'yes',
      body: 'text',
      url: stack.api_url,
    })
  })

  test('@supabase/server knows users, the secret key and the publishable key', async () => {
    const { client, user_id } = await signUp(stack)
    expect((await client.functions.invoke('whoami')).data).toMatchObject({
      mode: 'user',
      user_id,
      data: { uid: user_id, current_user: 'authenticated' },
    })
    expect((await admin(stack).functions.invoke('whoami')).data).toMatchObject({
      mode: 'secret',
      user_id: null,
    })
    expect((await anonymous(stack).functions.invoke('whoami')).data).toMatchObject({ mode: 'publishable' })
    expect((await call('whoami')).status).toBe(401)
  })

  test('a function that throws answers 500, one that can not be loaded 503, and the others go on', async () => {
    expect((await call('echo/throw')).status).toBe(500)
    expect(await (await call('broken')).json()).toMatchObject({ code: 'BOOT_ERROR' })
    expect((await call('echo/reject')).status).toBe(200)
    expect((await call('nothing-here')).status).toBe(404)
    expect((await call('echo')).status).toBe(200)
  })

  test('work goes on after the answer with EdgeRuntime.waitUntil', async () => {
    const { finished } = (await (await call('echo/background')).json()) as { finished: number }
    await expect
      .poll(async () => ((await (await call('echo')).json()) as { finished: number }).finished)
      .toBeGreaterThan(finished)
  })

  test('answers stream', async () => {
    const response = await call('echo/stream')
    const parts: string[] = []
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
    for (let read = await reader?.read(); read?.value; read = await reader?.read()) parts.push(read.value)
    expect(parts.join('')).toBe('part 1\npart 2\npart 3\n')
    expect(parts.length).toBeGreaterThan(1)
  })

  test('a function can not read the machine', async () => {
    expect(await (await call('echo/read')).text()).toBe('NotCapable')
  })

  test('a function that verifies tokens is closed without one', async () => {
    const { access_token } = await signUp(stack)
    expect((await call('strict')).status).toBe(401)
    expect((await call('strict', { headers: { authorization: `Bearer ${access_token}` } })).status).toBe(200)
  })

  test('a changed file is served without a restart, and what was under way ends as it began', async () => {
    const slow = call('echo/slow?ms=1500')
    const file = join(project, 'functions', 'broken', 'index.ts')
    writeFileSync(file, 'export default { fetch: () => new Response("repaired") }\n')
    await expect.poll(async () => (await call('broken')).text(), { timeout: 10_000 }).toBe('repaired')
    expect(await (await slow).json()).toEqual({ slow: true })
  })
})

describe('cron', () => {
  test('a job runs as its user, in its own session, and may commit in the middle', async () => {
    await owner`select cron.schedule('tick', '1 second', 'call public.tick()')`
    const rows = async () =>
      (await admin(stack).from('ticks').select('who, xid').order('id').limit(2)).data ?? []
    await expect.poll(async () => (await rows()).length, { timeout: 10_000 }).toBe(2)
    await owner`select cron.unschedule('tick')`
    const [first, second] = await rows()
    expect(first?.who).toBe('postgres')
    expect(first?.xid).not.toBe(second?.xid)
    const [run] = await owner`
      select status, return_message, username from cron.job_run_details where command = 'call public.tick()' limit 1`
    expect(run).toEqual({ status: 'succeeded', return_message: 'CALL', username: 'postgres' })
  })

  test('a job that fails says so and runs again', async () => {
    await owner`select cron.schedule('fail', '1 second', 'select 1 / 0')`
    const failures = async () =>
      (await owner`select * from cron.job_run_details where command = 'select 1 / 0' and status = 'failed'`)
        .length
    await expect.poll(failures, { timeout: 10_000 }).toBeGreaterThanOrEqual(2)
    await owner`select cron.unschedule('fail')`
    const [run] =
      await owner`select return_message from cron.job_run_details where command = 'select 1 / 0' limit 1`
    expect(run?.return_message).toContain('division by zero')
  })

  test('a name is scheduled once: again means anew', async () => {
    const [first] = await owner`select cron.schedule('twice', '0 3 * * *', 'select 1') as id`
    const [second] = await owner`select cron.schedule('twice', '30 seconds', 'select 2') as id`
    expect(second?.id).toBe(first?.id)
    expect(
      await owner`select schedule, command, active, username from cron.job where jobname = 'twice'`,
    ).toEqual([{ schedule: '30 seconds', command: 'select 2', active: true, username: 'postgres' }])
    expect(await owner`select cron.unschedule('twice') as gone`).toEqual([{ gone: true }])
    await expect(owner`select cron.unschedule('twice')`).rejects.toThrow(/could not find valid entry/)
    await expect(owner`select cron.schedule('bad', 'now and then', 'select 1')`).rejects.toThrow(
      /invalid schedule/,
    )
  })
})

describe('net', () => {
  const received: { url: string; headers: Record<string, unknown>; body: string }[] = []
  let receiver: ReturnType<typeof createServer>
  let url: string

  beforeAll(async () => {
    receiver = createServer(async (request, response) => {
      let body = ''
      for await (const chunk of request) body += chunk
      received.push({ url: request.url ?? '', headers: request.headers, body })
      if (request.url?.startsWith('/slow')) return
      response.writeHead(201, { 'content-type': 'application/json' }).end('{"got":"it"}')
    })
    await new Promise<void>((done) => receiver.listen(0, '127.0.0.1', done))
    url = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}`
  })
  afterAll(() => {
    receiver.closeAllConnections()
    receiver.close()
  })
  const at = (path: string) => received.filter((request) => request.url.startsWith(path))
  const response = async (id: string) =>
    (await superuser`select * from net._http_response where id = ${id}`)[0]

  test('a request is sent after the commit, with body, query and headers', async () => {
    const id = await owner.begin(async (sql) => {
      const [row] = await sql`
        select net.http_post(
          ${`${url}/commit`}, '{"a": 1}'::jsonb, '{"q": "ü &"}'::jsonb, '{"x-test": "yes"}'::jsonb
        )::text as id`
      // Another request, committed later, is there first: only the commit sends.
      await superuser`select net.http_get(${`${url}/other`})`
      await expect.poll(() => at('/other')).toHaveLength(1)
      expect(at('/commit')).toEqual([])
      return row?.id as string
    })
    await expect.poll(() => at('/commit')).toHaveLength(1)
    expect(at('/commit')[0]).toMatchObject({
      url: '/commit?q=%C3%BC%20%26',
      body: '{"a": 1}',
      headers: { 'x-test': 'yes', 'content-type': 'application/json' },
    })
    await expect
      .poll(() => response(id))
      .toMatchObject({
        status_code: 201,
        content: '{"got":"it"}',
        timed_out: false,
        error_msg: null,
      })
  })

  test('a request that is rolled back is never sent', async () => {
    await owner
      .begin(async (sql) => {
        await sql`select net.http_post(${`${url}/rolled-back`})`
        throw new Error('roll back')
      })
      .catch(() => {})
    await owner`select net.http_post(${`${url}/after`})`
    await expect.poll(() => at('/after')).toHaveLength(1)
    expect(at('/rolled-back')).toEqual([])
  })

  test('a receiver that is slow or away leaves its reason', async () => {
    const post = async (to: string, timeout: number) =>
      (await owner`select net.http_post(${to}, timeout_milliseconds => ${timeout})::text as id`)[0]
        ?.id as string
    const slow = await post(`${url}/slow`, 100)
    const away = await post('http://127.0.0.1:1/', 1000)
    await expect.poll(() => response(slow)).toMatchObject({ timed_out: true, status_code: null })
    await expect.poll(() => response(away)).toMatchObject({ timed_out: false, error_msg: expect.any(String) })
  })
})

describe('vault', () => {
  test('secrets are made, changed and read by postgres, not by users', async () => {
    const [made] = await owner`select vault.create_secret('first', 'word', 'a test') as id`
    await owner`select vault.update_secret(${made?.id}, 'second')`
    expect(
      await owner`select name, description, decrypted_secret from vault.decrypted_secrets where name = 'word'`,
    ).toEqual([{ name: 'word', description: 'a test', decrypted_secret: 'second' }])
    await expect(
      owner.begin(async (sql) => {
        await sql`set local role authenticated`
        await sql`select * from vault.decrypted_secrets`
      }),
    ).rejects.toMatchObject({ code: '42501' })
  })

  test('the database knows where the functions are and a key for them', async () => {
    const rows =
      await owner`select name, decrypted_secret from vault.decrypted_secrets where name like 'rollcall_%'`
    expect(Object.fromEntries(rows.map((row) => [row.name, row.decrypted_secret]))).toEqual({
      rollcall_functions_url: stack.functions_url,
      rollcall_secret_key: stack.secret_key,
    })
  })
})

describe('the gateway', () => {
  test('it serves Realtime to an unmodified client', async () => {
    const client = anonymous(stack)
    const heard: unknown[] = []
    const channel = client.channel('lobby', { config: { broadcast: { self: true, ack: true } } })
    channel.on('broadcast', { event: 'hello' }, ({ payload }) => heard.push(payload))
    await new Promise<void>((done, fail) => {
      channel.subscribe((status, error) => {
        if (status === 'SUBSCRIBED') done()
        else if (error) fail(error)
      })
    })
    await channel.send({ type: 'broadcast', event: 'hello', payload: { to: 'all' } })
    await expect.poll(() => heard).toEqual([{ to: 'all' }])
    await client.removeAllChannels()
  })

  test('it serves the room, and says 404 where nothing is', async () => {
    expect((await fetch(`${stack.room_url}/demo`)).status).toBe(200)
    expect((await fetch(`${stack.api_url}/nowhere`)).status).toBe(404)
  })
})
