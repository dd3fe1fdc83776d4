import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Functions, startFunctions } from '../../src/local/functions_host.ts'
import { type Gateway, startGateway } from '../../src/local/gateway.ts'
import { processesOf } from '../support/stack_process.ts'

const project = join(import.meta.dirname, '..', 'support', 'stack_project')

let dir: string
let functions: Functions
let gateway: Gateway

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rollcall-functions-'))
  const env = { SUPABASE_URL: 'http://127.0.0.1:9' }
  functions = await startFunctions({ dir, project, env, jwt_secret: 'not asked for', limit_ms: 200 })
  gateway = await startGateway({ port: 0, functions: functions.handle })
})

afterAll(async () => {
  await gateway.close()
  await functions.close()
  expect(processesOf(dir)).toEqual([])
  rmSync(dir, { recursive: true, force: true })
})

const call = (path: string, init?: RequestInit) =>
  fetch(`http://127.0.0.1:${gateway.port}/functions/v1/${path}`, init)

test('a request that takes too long is answered with 504', async () => {
  expect((await call('echo/slow?ms=20')).status).toBe(200)
  const late = await call('echo/slow?ms=5000')
  expect(late.status).toBe(504)
  expect(await late.json()).toMatchObject({ code: 'IDLE_TIMEOUT' })
})

test('a large body passes through', async () => {
  const body = 'x'.repeat(5_000_000)
  const answer = (await (await call('echo', { method: 'POST', body })).json()) as { body: string }
  expect(answer.body.length).toBe(body.length)
})

test('requests of many clients are answered at the same time', async () => {
  const answers = await Promise.all(Array.from({ length: 50 }, () => call('echo/slow?ms=100')))
  expect(answers.map((answer) => answer.status)).toEqual(Array(50).fill(200))
})

test('a process that was killed comes back', async () => {
  const pid = Number(readFileSync(join(dir, 'functions.pid'), 'utf8').split('\n').at(-1))
  process.kill(pid, 'SIGKILL')
  await expect.poll(async () => (await call('echo')).status, { timeout: 10_000 }).toBe(200)
  expect(Number(readFileSync(join(dir, 'functions.pid'), 'utf8').split('\n').at(-1))).not.toBe(pid)
})

test('the functions do not outlive the process that started them', async () => {
  const orphan_dir = mkdtempSync(join(tmpdir(), 'rollcall-functions-'))
  const host = join(import.meta.dirname, '..', '..', 'src', 'local', 'functions_host.ts')
  const script = `
    import { startFunctions } from ${JSON.stringify(host)}
    await startFunctions({ dir: ${JSON.stringify(orphan_dir)}, project: ${JSON.stringify(project)}, env: {}, jwt_secret: 'x' })
    process.kill(process.pid, 'SIGKILL')`
  expect(() => execFileSync(process.execPath, ['--input-type=module', '--eval', script])).toThrow(
    /Command failed/,
  )
  await expect.poll(() => processesOf(orphan_dir)).toEqual([])
  rmSync(orphan_dir, { recursive: true, force: true })
})
