import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer, type IncomingMessage } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { createRequire } from 'node:module'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import tls, { type TLSSocket } from 'node:tls'
import { promisify } from 'node:util'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { project_dir } from '../../src/local/project.ts'
import { node_sockets } from '../../src/worker/node_sockets.ts'
import { type PostAnswer, PostError, postPinned } from '../../src/worker/pinned_post.ts'
import type { Target } from '../../src/worker/sockets.ts'
import { certificateFor } from '../support/certificates.ts'
import type { PostInDeno } from '../support/post_in_deno.ts'

const { ca, server: certificate } = certificateFor('hooks.example.com')

let dir: string
let secure: Server
let raw: Server
const seen: {
  host: string | undefined
  server_name: string | false | null
  url: string | undefined
  body: string
}[] = []
/** What the raw server does with a connection once something came. */
let behave: (socket: Socket) => void = () => {}
const open = new Set<Socket>()

const portOf = (server: Server) => (server.address() as AddressInfo).port
const listen = (server: Server) => new Promise<void>((done) => server.listen(0, '127.0.0.1', done))

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rollcall-post-'))
  writeFileSync(join(dir, 'ca.pem'), ca)
  tls.setDefaultCACertificates([...tls.getCACertificates(), ca])
  secure = createHttpsServer(certificate, async (incoming: IncomingMessage, outgoing) => {
    let body = ''
    for await (const chunk of incoming) body += chunk
    seen.push({
      host: incoming.headers.host,
      server_name: (incoming.socket as TLSSocket & { servername: string | false | null }).servername,
      url: incoming.url,
      body,
    })
    outgoing.writeHead(204).end()
  })
  raw = createServer((socket) => {
    open.add(socket)
    socket.on('error', () => {})
    socket.once('close', () => open.delete(socket))
    socket.once('data', () => behave(socket))
  })
  await Promise.all([listen(secure), listen(raw)])
})
beforeEach(() => {
  seen.length = 0
})
afterAll(async () => {
  for (const socket of open) socket.destroy()
  await Promise.all([secure, raw].map((server) => new Promise((done) => server.close(done))))
  rmSync(dir, { recursive: true, force: true })
})

type Outcome = PostAnswer | { error: string; refused: boolean }
type Post = (url: string, more?: Partial<PostInDeno>) => Promise<Outcome>

const defaults = { timeout_ms: 5_000, allow_private: true, addresses: null }

const inNode: Post = async (url, more) => {
  const { addresses, ...options } = { ...defaults, ...more }
  const sockets = addresses === null ? node_sockets : { ...node_sockets, resolve: async () => addresses }
  try {
    return await postPinned(url, { 'x-test': 'yes' }, '{}', { sockets, ...options })
  } catch (error) {
    if (!(error instanceof PostError)) throw error
    return { error: error.message, refused: error.refused }
  }
}

/** As the functions host runs them: offline, with no right but to the network and the environment. */
const inDeno: Post = async (url, more) => {
  const deno = join(dirname(createRequire(import.meta.url).resolve('deno/package.json')), 'deno')
  const offline = [
    '--node-modules-dir=manual',
    '--cached-only',
    '--no-remote',
    '--no-lock',
    '--no-check',
    '--no-prompt',
  ]
  const read = ['functions', 'src', 'tests', 'node_modules'].map((name) => join(project_dir, name)).join(',')
  const { stdout } = await promisify(execFile)(
    deno,
    [
      'run',
      '--config',
      join(project_dir, 'functions', 'deno.json'),
      ...offline,
      '--allow-net',
      '--allow-env',
      `--allow-read=${read}`,
      join(import.meta.dirname, '../support/post_in_deno.ts'),
      JSON.stringify({ ...defaults, ...more, url } satisfies PostInDeno),
    ],
    { env: { ...process.env, DENO_DIR: join(dir, 'deno'), DENO_CERT: join(dir, 'ca.pem'), NO_COLOR: '1' } },
  )
  return JSON.parse(stdout)
}

describe.each([
  ['Node', inNode],
  ['Deno', inDeno],
] as const)('in %s', (_, post) => {
  test('the connection goes to the address that was checked, under the name that was given', async () => {
    const url = `https://hooks.example.com:${portOf(secure)}/a/b?c=d`
    expect(await post(url, { addresses: ['127.0.0.1'] })).toEqual({ status: 204, retry_after_s: null })
    expect(seen).toEqual([
      {
        host: `hooks.example.com:${portOf(secure)}`,
        server_name: 'hooks.example.com',
        url: '/a/b?c=d',
        body: '{}',
      },
    ])
  })

  test('a server with the certificate of another name is not spoken to', async () => {
    const url = `https://other.example.com:${portOf(secure)}/`
    expect(await post(url, { addresses: ['127.0.0.1'] })).toMatchObject({
      error: expect.stringMatching(/can not be reached: .*(altnames|certificate)/i),
      refused: false,
    })
    expect(seen).toEqual([])
  })

  test('J06 a name that leads to a private address is refused, and nothing is sent', async () => {
    const url = `https://hooks.example.com:${portOf(secure)}/`
    expect(await post(url, { addresses: ['127.0.0.1'], allow_private: false })).toEqual({
      error: 'Not sent. The name hooks.example.com leads to a private address.',
      refused: true,
    })
    expect(seen).toEqual([])
  })

  test('J05 a server that accepts and says nothing is left after the time-out', async () => {
    behave = () => {}
    const started = performance.now()
    expect(await post(`http://127.0.0.1:${portOf(raw)}/`, { timeout_ms: 300 })).toEqual({
      error: 'No answer within 0.3 s.',
      refused: false,
    })
    expect(performance.now() - started).toBeLessThan(5_000)
    await expect.poll(() => open.size).toBe(0)
    // One that never finishes its TLS handshake as well.
    expect(await post(`https://127.0.0.1:${portOf(raw)}/`, { timeout_ms: 300 })).toMatchObject({
      refused: false,
    })
    await expect.poll(() => open.size).toBe(0)
  })

  test('an answer counts as soon as its head is there', async () => {
    behave = (socket) => {
      socket.write('HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 503 Busy\r\nRetry-')
      setImmediate(() => socket.write('After: 7\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel'))
    }
    expect(await post(`http://127.0.0.1:${portOf(raw)}/`)).toEqual({ status: 503, retry_after_s: 7 })
    await expect.poll(() => open.size).toBe(0)
  })

  test('a connection that is cut, or that nobody takes, is said in words', async () => {
    behave = (socket) => socket.end('HTTP/1.1 200')
    expect(await post(`http://127.0.0.1:${portOf(raw)}/`)).toMatchObject({
      error: 'The connection was closed without an answer.',
    })
    behave = (socket) => socket.resetAndDestroy()
    expect(await post(`http://127.0.0.1:${portOf(raw)}/`)).toMatchObject({ error: 'The connection was cut.' })
    expect(await post('http://127.0.0.1:9/')).toEqual({
      error: 'The connection was refused.',
      refused: false,
    })
    expect(await post('http://no-such-name.invalid/')).toMatchObject({ refused: false })
  })
})

test('J06 whatever is not public is refused, also when it is one address of many', async () => {
  const url = 'https://hooks.example.com/'
  for (const addresses of [
    ['127.0.0.1'],
    ['10.1.2.3'],
    ['172.16.0.1'],
    ['192.168.1.1'],
    ['169.254.169.254'],
    ['100.64.0.1'],
    ['0.0.0.0'],
    ['224.0.0.1'],
    ['255.255.255.255'],
    ['::1'],
    ['::'],
    ['fe80::1'],
    ['fd00::1'],
    ['::ffff:10.0.0.1'],
    ['64:ff9b::a00:1'],
    ['2002:7f00:1::'],
    ['93.184.216.34', '10.0.0.1'],
  ]) {
    expect(await inNode(url, { addresses, allow_private: false }), String(addresses)).toMatchObject({
      refused: true,
    })
  }
  for (const given of ['http://example.com/', 'https://127.0.0.1/', 'https://localhost/', 'not a url']) {
    expect(await inNode(given, { allow_private: false }), given).toMatchObject({ refused: true })
  }
})

test('J06 a name that changes between the look and the connection gains nothing', async () => {
  const answers = [['93.184.216.34', '2606:2800:220:1::1'], ['127.0.0.1']]
  const targets: Target[] = []
  const sockets = {
    resolve: async () => answers.shift() ?? [],
    async open(target: Target) {
      targets.push(target)
      throw new Error('far away')
    },
  }
  const options = { sockets, timeout_ms: 1_000, allow_private: false }
  await expect(postPinned('https://hooks.example.com/', {}, '{}', options)).rejects.toThrow('far away')
  expect(targets).toEqual([{ address: '93.184.216.34', port: 443, server_name: 'hooks.example.com' }])
  expect(answers).toHaveLength(1)
})

test('what is no HTTP, or has no end to its head, is no answer', async () => {
  const url = `http://127.0.0.1:${portOf(raw)}/`
  behave = (socket) => socket.end('SSH-2.0-OpenSSH\r\n\r\n')
  expect(await inNode(url)).toMatchObject({ error: 'The answer is not HTTP.' })
  behave = (socket) => socket.write(`HTTP/1.1 200 OK\r\nx: ${'y'.repeat(100_000)}`)
  expect(await inNode(url)).toMatchObject({ error: 'The head of the answer is too long.' })
})

test('retry-after is read as seconds or as a date', async () => {
  const server = createHttpServer((incoming, outgoing) => {
    outgoing.writeHead(429, { 'retry-after': decodeURIComponent(incoming.url?.slice(1) ?? '') }).end()
  })
  await listen(server)
  const read = async (text: string) => {
    const answer = await inNode(`http://127.0.0.1:${portOf(server)}/${encodeURIComponent(text)}`)
    return 'retry_after_s' in answer ? answer.retry_after_s : answer
  }
  try {
    expect(await read('120')).toBe(120)
    expect(await read(new Date(Date.now() + 60_000).toUTCString())).toBeGreaterThan(55)
    for (const nothing of ['0', '-1', 'soon', 'Thu, 01 Jan 1970 00:00:00 GMT'])
      expect(await read(nothing)).toBeNull()
  } finally {
    await new Promise((done) => server.close(done))
  }
})
