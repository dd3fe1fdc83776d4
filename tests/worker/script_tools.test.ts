import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { node_sockets } from '../../src/worker/node_sockets.ts'
import { askTool, getTool, type HttpOptions, sendTool } from '../../src/worker/script/http_tools.ts'
import { type ErrorClass, ScriptFailure } from '../../src/worker/script/script_failure.ts'

const KEY = '0b0e7d56-6c52-4cf5-9a7c-1c9d8b1b2f10'

let server: Server
let url: string
/** What came over each connection, as text. */
let came: string[] = []
/** What the server does once a whole request came. */
let behave: (socket: Socket) => void = () => {}
const open = new Set<Socket>()

beforeAll(async () => {
  server = createServer((socket) => {
    open.add(socket)
    socket.on('error', () => {})
    socket.once('close', () => open.delete(socket))
    let text = ''
    socket.on('data', (bytes) => {
      text += bytes
      const [head = '', body] = text.split('\r\n\r\n')
      const length = Number(/content-length: (\d+)/.exec(head)?.[1] ?? 0)
      if (body === undefined || Buffer.byteLength(body) < length) return
      came.push(text)
      behave(socket)
    })
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
beforeEach(() => {
  came = []
})
afterEach(() => {
  for (const socket of open) socket.destroy()
})
afterAll(() => new Promise((done) => server.close(done)))

const options = (more: Partial<HttpOptions> = {}): HttpOptions => ({
  sockets: node_sockets,
  allow_private: true,
  secrets: async () => ({ TOKEN: 'sesame', BROKEN: 'a\nb' }),
  timeout_ms: 5_000,
  signal: new AbortController().signal,
  ...more,
})

const says = (...parts: string[]) => {
  behave = (socket) => {
    for (const part of parts) socket.write(part)
  }
}
const saysAndEnds = (text: string) => {
  behave = (socket) => socket.end(text)
}
const json = (body: string, status = '200 OK') =>
  `HTTP/1.1 ${status}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`

async function failure(work: Promise<unknown>): Promise<ScriptFailure> {
  const error = await work.then(
    () => null,
    (reason: unknown) => reason,
  )
  if (!(error instanceof ScriptFailure)) throw new Error(`It did not fail as a script does: ${error}`)
  return error
}

const send = (more: Record<string, unknown> = {}, with_options = options()) =>
  sendTool({ url, method: 'POST', ...more }, KEY, with_options)

describe('an answer', () => {
  test('is read whole, by its length, in chunks, or to the end of the connection', async () => {
    says(json('{"a": "\u00e9"}'))
    expect(await getTool({ url }, options())).toMatchObject({ status: 200, body: { a: '\u00e9' } })
    says(
      'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a":',
      '\r\n2;x=y\r\n 1\r\n1\r\n}\r\n0\r\n\r\n',
    )
    expect(await getTool({ url }, options())).toMatchObject({ body: { a: 1 } })
    saysAndEnds('HTTP/1.1 200 OK\r\nx-One: 1\r\nX-one: 2\r\n\r\nwords')
    expect(await getTool({ url }, options())).toEqual({
      status: 200,
      headers: { 'x-one': '1, 2' },
      body: 'words',
    })
    says('HTTP/1.1 204 No Content\r\n\r\n')
    expect(await send()).toMatchObject({ status: 204, body: '' })
    says('HTTP/1.1 103 Early Hints\r\n\r\n', json('', '201 Created'))
    expect(await send()).toMatchObject({ status: 201, body: null })
  })

  const classes: [number, ErrorClass][] = [
    [301, 'logic'],
    [400, 'logic'],
    [401, 'auth'],
    [403, 'permission'],
    [404, 'logic'],
    [408, 'network'],
    [409, 'logic'],
    [429, 'network'],
    [500, 'network'],
    [503, 'network'],
  ]
  for (const [status, error_class] of classes) {
    test(`of ${status} is of class ${error_class}`, async () => {
      says(`HTTP/1.1 ${status} No\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n`)
      for (const call of [getTool({ url }, options()), send()]) {
        const { http_status, request_sent, ...failed } = await failure(call)
        expect(failed.error_class).toBe(error_class)
        expect([http_status, request_sent]).toEqual([status, true])
      }
      expect(came).toHaveLength(2)
    })
  }

  const malformed: [string, () => void, ErrorClass][] = [
    ['that says it is JSON and is not', () => says(json('{"a": ')), 'logic'],
    ['that is cut off', () => saysAndEnds('HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf'), 'network'],
    [
      'that is cut off between its chunks',
      () => saysAndEnds('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n'),
      'network',
    ],
    [
      'that is larger than 1 MB',
      () => says(`HTTP/1.1 200 OK\r\n\r\n${'x'.repeat(1024 * 1024 + 1)}`),
      'logic',
    ],
  ]
  for (const [what, act, error_class] of malformed) {
    test(`${what} still says that the call succeeded`, async () => {
      act()
      const failed = await failure(send())
      expect(failed).toMatchObject({ error_class, request_sent: true, http_status: 200 })
      expect(failed.answer).toMatchObject({ status: 200, body: null })
    })
  }

  test('in very many parts is read in a moment', async () => {
    const parts = 400_000
    says('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n', '1\r\nx\r\n'.repeat(parts), '0\r\n\r\n')
    expect(await getTool({ url }, options({ timeout_ms: 20_000 }))).toMatchObject({ body: 'x'.repeat(parts) })
  }, 30_000)

  test('with a part of no length ends there', async () => {
    says('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\n\r\n')
    expect(await failure(send())).toMatchObject({ error_class: 'network', http_status: 200 })
  })

  test('that is nested without an end still says that the call succeeded', async () => {
    says(json('['.repeat(500_000) + ']'.repeat(500_000)))
    const failed = await failure(send())
    expect(failed).toMatchObject({
      error_class: 'logic',
      http_status: 200,
      answer: { status: 200, body: null },
    })
  })

  test('that repeats a secret is told without it', async () => {
    says(
      `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-echo: Bearer sesame\r\ncontent-length: 23\r\n\r\n{"got":"Bearer sesame"}`,
    )
    expect(await send({ headers: { authorization: 'Bearer {{secret.TOKEN}}' } })).toMatchObject({
      headers: { 'x-echo': 'Bearer [secret]' },
      body: { got: 'Bearer [secret]' },
    })
  })

  test('whose head came and whose body never does has succeeded too', async () => {
    says('HTTP/1.1 201 Created\r\ncontent-length: 10\r\n\r\nhalf')
    const failed = await failure(send({}, options({ timeout_ms: 300 })))
    expect(failed).toMatchObject({ error_class: 'network', http_status: 201, answer: { status: 201 } })
  })

  const uncertain: [string, () => void, Partial<HttpOptions>][] = [
    ['that never comes', () => says(), { timeout_ms: 300 }],
    ['before which the connection is cut', () => saysAndEnds(''), {}],
    ['within whose head the connection is cut', () => saysAndEnds('HTTP/1.1 200 OK\r\ncontent-le'), {}],
    ['that is no HTTP', () => says('hello\r\n\r\n'), {}],
    ['whose head never ends', () => says(`HTTP/1.1 200 OK\r\nx: ${'x'.repeat(70_000)}`), {}],
  ]
  for (const [what, act, more] of uncertain) {
    test(`${what} leaves it open what happened`, async () => {
      act()
      const failed = await failure(send({}, options(more)))
      expect(failed).toMatchObject({ error_class: 'network', request_sent: true, http_status: null })
      expect(failed.answer).toBeUndefined()
    })
  }
})

describe('a request', () => {
  test('carries the key, the body as JSON, and the secrets of its headers', async () => {
    says(json('{}'))
    await send({
      method: 'put',
      headers: { Authorization: 'Bearer {{secret.TOKEN}}', 'X-A': 1 },
      body: { a: [1] },
    })
    expect(came[0]).toMatch(/^PUT \/ HTTP\/1\.1\r\n/)
    expect(came[0]).toContain(`\r\nidempotency-key: ${KEY}\r\n`)
    expect(came[0]).toContain('\r\nauthorization: Bearer sesame\r\n')
    expect(came[0]).toContain('\r\nx-a: 1\r\n')
    expect(came[0]).toContain('\r\ncontent-type: application/json\r\n')
    expect(came[0]?.split('\r\n\r\n')[1]).toBe('{"a":[1]}')
    await send({ headers: { 'content-type': 'text/csv' }, body: 'a,b' })
    expect(came[1]).toContain('\r\ncontent-type: text/csv\r\n')
    expect(came[1]?.split('\r\n\r\n')[1]).toBe('a,b')
    await getTool({ url: `${url}/p?a=1#x`, query: { b: 'c d', e: [1, 2], f: null } }, options())
    expect(came[2]).toMatch(/^GET \/p\?a=1&b=c\+d&e=1&e=2 HTTP/)
    expect(came[2]).not.toContain('idempotency-key')
    await askTool({ url }, KEY, options())
    expect(came[3]).toContain(`\r\nidempotency-key: ${KEY}\r\n`)
  })

  test('reads secrets only where it names one', async () => {
    says(json('{}'))
    const secrets = () => Promise.reject(new Error('nobody asked'))
    expect(await send({ body: '{{secret.TOKEN}}' }, options({ secrets }))).toMatchObject({ status: 200 })
    expect(came[0]).toContain('{{secret.TOKEN}}')
  })

  const refused: [string, Record<string, unknown>, ErrorClass][] = [
    ['without a url', { url: undefined }, 'logic'],
    ['to what is no url', { url: 'over there' }, 'logic'],
    ['to another protocol', { url: 'file:///etc/passwd' }, 'logic'],
    ['with credentials in its url', { url: 'http://a:b@127.0.0.1/' }, 'logic'],
    ['by another method', { method: 'TRACE' }, 'logic'],
    ['with a header of the connection', { headers: { Host: 'example.com' } }, 'logic'],
    ['with a key of its own', { headers: { 'Idempotency-Key': 'x' } }, 'logic'],
    ['with a line break in a header', { headers: { a: 'b\r\nc: d' } }, 'logic'],
    ['with a line break in the name of a header', { headers: { 'a\r\nb': 'c' } }, 'logic'],
    ['with a list of headers', { headers: ['a'] }, 'logic'],
    ['with a secret that is not set', { headers: { a: '{{secret.OTHER}}' } }, 'auth'],
    ['with a secret that no header can hold', { headers: { a: '{{secret.BROKEN}}' } }, 'auth'],
    ['with a secret of no name of its own', { headers: { a: '{{secret.constructor}}' } }, 'auth'],
    ['to a port where nobody listens', { url: 'http://127.0.0.1:1/' }, 'network'],
    ['to a name that is nowhere', { url: 'http://nowhere.invalid/' }, 'network'],
  ]
  for (const [what, more, error_class] of refused) {
    test(`${what} certainly never left: ${error_class}`, async () => {
      const failed = await failure(send(more))
      expect(failed).toMatchObject({ error_class, request_sent: false, http_status: null })
      expect(came).toHaveLength(0)
      expect(failed.message).not.toContain('sesame')
    })
  }

  for (const target of [
    'https://127.0.0.1/',
    'https://10.0.0.1/',
    'https://[::1]/',
    'https://2130706433/',
    'https://169.254.169.254/latest/meta-data',
    'https://localhost/',
    'http://example.com/',
  ]) {
    test(`to ${target} is not for scripts`, async () => {
      expect(await failure(send({ url: target }, options({ allow_private: false })))).toMatchObject({
        error_class: 'logic',
        request_sent: false,
      })
    })
  }

  test('to a public name that leads to a private address is not for scripts', async () => {
    const sockets = { ...node_sockets, resolve: async () => ['93.184.216.34', '127.0.0.1'] }
    const failed = await failure(
      send({ url: 'https://example.com/' }, options({ sockets, allow_private: false })),
    )
    expect(failed).toMatchObject({ error_class: 'logic', request_sent: false })
  })

  test('ends when it is wanted no more', async () => {
    says()
    const over = new AbortController()
    const work = failure(send({}, options({ signal: over.signal })))
    await expect.poll(() => came.length).toBe(1)
    over.abort()
    expect(await work).toMatchObject({ request_sent: true })
  })
})
