import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { project_dir } from '../../src/local/project.ts'
import type { ScriptInDeno } from '../support/script_in_deno.ts'

let dir: string
const server = createServer((_incoming, outgoing) => {
  outgoing.writeHead(200, { 'content-type': 'application/json' })
  outgoing.write('{"items":')
  outgoing.end('[1,2]}')
})

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'rollcall-script-'))
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
})
afterAll(async () => {
  rmSync(dir, { recursive: true, force: true })
  await new Promise((done) => server.close(done))
})

/** As the functions host runs them: offline, with no right but to the network and the environment. */
async function inDeno(asked: ScriptInDeno) {
  const deno = join(dirname(createRequire(import.meta.url).resolve('deno/package.json')), 'deno')
  const read = ['functions', 'src', 'tests', 'node_modules'].map((name) => join(project_dir, name)).join(',')
  const { stdout } = await promisify(execFile)(
    deno,
    [
      'run',
      '--config',
      join(project_dir, 'functions', 'deno.json'),
      '--node-modules-dir=manual',
      '--cached-only',
      '--no-remote',
      '--no-lock',
      '--no-check',
      '--no-prompt',
      '--allow-net',
      '--allow-env',
      `--allow-read=${read}`,
      join(import.meta.dirname, '../support/script_in_deno.ts'),
      JSON.stringify(asked),
    ],
    { env: { ...process.env, DENO_DIR: join(dir, 'deno'), NO_COLOR: '1' } },
  )
  return JSON.parse(stdout)
}

test('scripts are validated, run and stopped in Deno as they are in Node', { timeout: 60_000 }, async () => {
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const { issues, config, outcomes } = await inDeno({
    validate: `workflow = {
      topics: ['items'],
      producers: { poll: { schedule: { cron: '0 9 * * *' }, publishes: ['items'], handler() {} } },
      consumers: { send: { subscribe: ['items', 'others'], prepare() {} } },
    }`,
    handlers: [
      'return { n: state.n + 1, at: Clock.now() }',
      `return (await Http.get('${url}')).body.items.length`,
      'for (;;) {}',
      'const all = []; for (;;) all.push(new Uint8Array(1e6))',
      `const all = []; try { for (;;) all.push('x'.repeat(2e5) + all.length) } catch {} ; all.pop(); await Http.get('${url}')`,
      'return [typeof Deno, typeof fetch, typeof process]',
    ],
  })
  expect(issues).toEqual([
    { path: 'consumers.send.subscribe', message: 'The topic others is not declared in topics.' },
  ])
  expect(config.producers).toEqual({ poll: { schedule: { cron: '0 9 * * *' }, publishes: ['items'] } })
  expect(outcomes).toEqual([
    { value: { n: 2, at: '2026-03-01T12:00:00.000Z' } },
    { value: 2 },
    { error_class: 'logic', message: 'The script used more than 5 s of CPU.' },
    { error_class: 'logic', message: 'The script used more than 64 MB of memory.' },
    expect.toSatisfy((one) => one.value === null || one.error_class === 'logic'),
    { value: ['undefined', 'undefined', 'undefined'] },
  ])
})
