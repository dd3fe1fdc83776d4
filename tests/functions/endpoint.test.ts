import { createServer, type Server } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Health } from '../../src/contract/work.ts'
import { type FunctionsHost, type Project, type Reply, startProject, type User } from '../support/project.ts'

let project: Project
let user: User
/** Functions whose database API is told what to answer. */
let broken: FunctionsHost
let api: Server
let api_answers: { status: number; body: unknown }[] = []
let api_calls = 0

beforeAll(async () => {
  project = await startProject()
  user = await project.user()
  api = createServer((_incoming, outgoing) => {
    api_calls += 1
    const answer = api_answers.shift()
    if (answer === undefined) return void outgoing.destroy()
    outgoing.writeHead(answer.status, { 'content-type': 'application/json' })
    outgoing.end(JSON.stringify(answer.body))
  })
  await new Promise<void>((done) => api.listen(0, '127.0.0.1', done))
  broken = await project.host({ SUPABASE_URL: `http://127.0.0.1:${(api.address() as AddressInfo).port}` })
})

afterAll(async () => {
  await project?.close()
  api?.close()
})

function expectWrapped(reply: Reply): void {
  expect(reply.headers.get('access-control-allow-origin')).toBe('*')
  expect(reply.headers.get('access-control-expose-headers')).toContain('x-request-id')
  expect(reply.headers.get('x-request-id')).toMatch(/^[\w.-]+$/)
  expect(reply.headers.get('content-type')).toContain('application/json')
}

const join = (init: { body?: unknown; headers?: Record<string, string>; url?: string }) =>
  project.call('/join', { method: 'POST', as: user, ...init })

describe('every answer has CORS headers and a request id', () => {
  test('whatever it says', async () => {
    const replies: [number, Promise<Reply>][] = [
      [200, project.call('/status', { as: user })],
      [400, join({ body: '{' })],
      [401, project.call('/status')],
      [401, project.call('/callback', { method: 'POST', body: {} })],
      [404, project.call('/status/of/everything', { as: user })],
      [404, project.call('/callback/dancing', { method: 'POST', body: {} })],
      [405, project.call('/join', { as: user })],
      [405, project.call('/status', { method: 'DELETE', as: user })],
      [415, join({ body: 'a=b', headers: { 'content-type': 'text/plain' } })],
      [422, join({ body: {} })],
    ]
    for (const [status, answer] of replies) {
      const reply = await answer
      expect(reply.status).toBe(status)
      expectWrapped(reply)
      if (status >= 400) {
        expect(reply.body).toMatchObject({ code: expect.any(String), message: expect.stringMatching(/\.$/) })
      }
    }
  })

  test('and keeps the id that a caller sends, if it is one', async () => {
    const given = await project.call('/status', { as: user, headers: { 'x-request-id': 'trace-1' } })
    expect(given.headers.get('x-request-id')).toBe('trace-1')
    const odd = await project.call('/status', { as: user, headers: { 'x-request-id': 'a b<c>' } })
    expect(odd.headers.get('x-request-id')).toMatch(/^[\w-]{36}$/)
  })

  test('and a browser may ask first', async () => {
    const reply = await project.call('/join', {
      method: 'OPTIONS',
      headers: {
        origin: 'https://app.example.com',
        'access-control-request-headers': 'authorization, x-odd',
      },
    })
    expect(reply.status).toBe(204)
    expect(reply.headers.get('access-control-allow-origin')).toBe('*')
    expect(reply.headers.get('access-control-allow-headers')).toBe('authorization, x-odd')
    expect(reply.headers.get('access-control-allow-methods')).toBe('POST, OPTIONS')
  })

  test('and 405 names what is allowed', async () => {
    expect((await project.call('/work', { method: 'PUT' })).headers.get('allow')).toBe('POST, GET, OPTIONS')
  })
})

describe('a body', () => {
  test('that is empty is invalid, whatever its type', async () => {
    expect((await join({ body: '' })).status).toBe(422)
    expect((await join({ body: '', headers: { 'content-type': 'text/plain' } })).status).toBe(422)
  })

  test('that is not JSON, not UTF-8, or has a raw NUL is malformed', async () => {
    for (const body of [
      '{',
      'nonsense',
      '{"a":1}}',
      '{"a":"\0"}',
      '\0',
      "{'a':1}",
      new Uint8Array([0x22, 0xff, 0x22]),
    ]) {
      const reply = await join({ body })
      expect([reply.status, reply.body.code]).toEqual([400, 'malformed_json'])
    }
  })

  test('of another type is not looked at', async () => {
    for (const type of [
      'text/plain',
      'application/x-www-form-urlencoded',
      'multipart/form-data',
      'application/jsonp',
    ]) {
      const reply = await join({ body: '{}', headers: { 'content-type': type } })
      expect([type, reply.status, reply.body.code]).toEqual([type, 415, 'unsupported_media_type'])
    }
    const latin = await join({ body: '{}', headers: { 'content-type': 'application/json; charset=latin1' } })
    expect(latin.status).toBe(415)
    const utf8 = await join({ body: '{}', headers: { 'content-type': 'application/json; charset=UTF-8' } })
    expect(utf8.status).toBe(422)
    const gzip = await join({ body: '{}', headers: { 'content-encoding': 'gzip' } })
    expect(gzip.status).toBe(415)
  })

  test('over 1 MB is refused', async () => {
    const body = JSON.stringify({ text: 'x'.repeat(2 * 1024 * 1024) })
    const reply = await join({ body })
    expect([reply.status, reply.body.code]).toEqual([413, 'too_large'])
    expectWrapped(reply)
  })

  test('over 1 MB of unknown length is refused before it has all been sent', async () => {
    const { hostname, port } = new URL(project.functions_url)
    const socket = connect(Number(port), hostname)
    const answered = new Promise<string>((done, fail) => {
      socket.once('data', (data) => done(data.toString()))
      socket.once('error', fail)
    })
    socket.write(
      `POST /functions/v1/join HTTP/1.1\r\nhost: ${hostname}\r\nauthorization: Bearer ${user.token}\r\n` +
        'content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n',
    )
    const chunk = `10000\r\n${'x'.repeat(0x10000)}\r\n`
    // 1.5 MB, and never an end.
    for (let i = 0; i < 24; i++) socket.write(chunk)
    expect(await answered).toContain(' 413 ')
    socket.destroy()
  })

  test('nested half a million deep is invalid, within a second', async () => {
    const started = performance.now()
    const reply = await join({ body: `${'['.repeat(500_000)}${']'.repeat(500_000)}` })
    expect([reply.status, reply.body.code]).toEqual([422, 'invalid_request'])
    expect(performance.now() - started).toBeLessThan(1_000)
  })
})

describe('a database', () => {
  const error = (code: string, message = 'internal text') => ({ code, message, details: null, hint: null })

  async function tries(answers: typeof api_answers): Promise<Reply> {
    api_answers = answers
    api_calls = 0
    return join({
      url: broken.url,
      body: { platform: 'google_meet', native_meeting_id: 'abc-defg-hij', launch: false },
    })
  }

  test('that can not be reached is 503', async () => {
    const reply = await tries([])
    expect([reply.status, reply.body.code]).toEqual([503, 'unavailable'])
    expect(reply.headers.get('retry-after')).toBe('2')
    expectWrapped(reply)
  })

  test.each(['40P01', '40001', '55P03', '57014'])(
    'that gives up with %s is asked once more, then 503',
    async (code) => {
      const answer = { status: 500, body: error(code) }
      const reply = await tries([answer, answer])
      expect([reply.status, reply.body.code, api_calls]).toEqual([503, 'unavailable', 2])
      const second = await tries([answer, { status: 200, body: { ok: false, code: 'not_ended' } }])
      expect([second.status, second.body.code]).toEqual([409, 'not_ended'])
    },
  )

  test.each(['08006', '53300', '57P01', 'PGRST002', 'SUP', ''])(
    'that is away with %s is 503',
    async (code) => {
      expect((await tries([{ status: 500, body: error(code) }])).status).toBe(503)
    },
  )

  test('that refuses is an answer with its word, hint and details', async () => {
    const details = JSON.stringify({ issues: [{ path: 'a', message: 'b' }] })
    const body = { code: 'PT422', message: 'invalid_request', hint: 'a b', details }
    const reply = await tries([{ status: 422, body }])
    expect(reply.status).toBe(422)
    expect(reply.body).toEqual({
      code: 'invalid_request',
      message: 'The request is not valid.',
      hint: 'a b',
      details: { issues: [{ path: 'a', message: 'b' }] },
    })
  })

  test('that can not hold a value is 422, and a bug is 500 without its text', async () => {
    expect((await tries([{ status: 400, body: error('22P02') }])).status).toBe(422)
    const reply = await tries([{ status: 400, body: error('42703', 'column "secret" does not exist') }])
    expect(reply.status).toBe(500)
    expect(reply.body).toEqual({ code: 'internal_error', message: 'Something went wrong on our side.' })
    expectWrapped(reply)
  })

  test('whose answer is of no known form is 500, with CORS headers', async () => {
    const reply = await tries([{ status: 200, body: { ok: true } }])
    expect([reply.status, reply.body.code]).toEqual([500, 'internal_error'])
    expectWrapped(reply)
  })
})

describe('work', () => {
  test('is told its lane by a secret key, and answers before it works', async () => {
    for (const lane of [
      'containers',
      'processing',
      'prompts',
      'scripts',
      'agents',
      'webhooks',
      'reconcile',
    ]) {
      const reply = await project.call(`/work?lane=${lane}`, { method: 'POST', as: 'secret', body: {} })
      expect([lane, reply.status, reply.body]).toEqual([lane, 202, { lane, accepted: true }])
    }
    for (const query of ['', '?lane=', '?lane=dancing']) {
      expect((await project.call(`/work${query}`, { method: 'POST', as: 'secret' })).status).toBe(422)
    }
    expect((await project.call('/work?lane=processing', { method: 'POST', as: user })).status).toBe(401)
  })

  test('tells its health to secret keys and operators', async () => {
    const reply = await project.call('/work', { as: 'secret' })
    expect(reply.status).toBe(200)
    expect(Health.parse(reply.body)).toMatchObject({ checks: expect.any(Array) })
    expect((await project.call('/work', { as: await project.operator() })).status).toBe(200)
    expect((await project.call('/work', { as: user })).status).toBe(403)
    expect((await project.call('/work')).status).toBe(401)
  })
})
