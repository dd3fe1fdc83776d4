/** A callback of a bot over HTTP, next to a function that does nothing but one RPC of `select 1`. */
import { randomUUID } from 'node:crypto'
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { project_dir } from '../../src/local/project.ts'
import { startStack } from '../../src/local/stack.ts'
import { atLeast, atMost, median, quantile, type Row } from './measure.ts'

const LIVES = Number(process.env.BENCH_CALLBACK_LIVES ?? 60)
const steps = [
  ['joining', {}],
  ['awaiting_admission', {}],
  ['started', {}],
  ['exited', { exit_code: 0 }],
] as const

export async function callbacks(): Promise<Row[]> {
  const dir = mkdtempSync(join(tmpdir(), 'rollcall-bench-http-'))
  chmodSync(dir, 0o755)
  const project = projectWithNeighbour(dir)
  const stack = await startStack({
    dir: join(dir, 'data'),
    project,
    port: 0,
    db_port: 0,
    durable: false,
    seeded: false,
  })
  const sql = postgres(stack.db_url, { max: 2, onnotice: () => {} })
  try {
    await sql.unsafe(`
      create function public.bench_one() returns jsonb language sql set search_path = ''
        as $$ select jsonb_build_object('ok', true, 'one', 1) $$;
      revoke execute on function public.bench_one() from public, anon, authenticated;
      grant execute on function public.bench_one() to service_role;
      notify pgrst, 'reload schema'`)
    const post = async (path: string, token: string, body: object) => {
      const start = performance.now()
      const response = await fetch(`${stack.functions_url}/${path}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
        body: JSON.stringify(body),
      })
      const text = await response.text()
      if (response.status !== 200) throw new Error(`${path}: ${response.status} ${text}`)
      return performance.now() - start
    }
    const times = { neighbour: [] as number[], callback: [] as number[] }
    for (let life = 0; life < LIVES + 10; life++) {
      const { bot_id, token } = await newBot(sql)
      for (const [path, more] of steps) {
        const one = await post('bench', token, { bot_id, ...more })
        const own = await post(`callback/${path}`, token, { bot_id, ...more })
        // Warm.
        if (life < 10) continue
        times.neighbour.push(one)
        times.callback.push(own)
      }
    }
    const [a, b] = [median(times.neighbour), median(times.callback)]
    return [
      atLeast(
        'callback, of a function with the same auth and one RPC of `select 1`',
        0.7,
        null,
        a / b,
        `medians ${b.toFixed(1)} and ${a.toFixed(1)} ms, n ${times.callback.length}`,
      ),
      atMost('p99 of callback, in medians', 4, null, quantile(times.callback, 0.99) / b),
    ]
  } finally {
    await sql.end({ timeout: 1 })
    await stack.stop()
    rmSync(dir, { recursive: true, force: true })
  }
}

async function newBot(sql: postgres.Sql): Promise<{ bot_id: string; token: string }> {
  const token = Buffer.from(randomUUID() + randomUUID())
    .toString('base64url')
    .slice(0, 43)
  const [row] = await sql`
    select public.request_bot(owner_id => ${randomUUID()}, token_hash => encode(sha256(${token}::text::bytea), 'hex'),
      platform => 'room', native_meeting_id => ${randomUUID()}, launch => false) ->> 'bot_id' as bot_id`
  return { bot_id: row?.bot_id, token }
}

/** This project with one function more. */
function projectWithNeighbour(dir: string): string {
  const project = join(dir, 'project')
  for (const part of ['supabase', 'functions', 'src']) {
    cpSync(join(project_dir, part), join(project, part), { recursive: true })
  }
  cpSync(join(project_dir, 'package.json'), join(project, 'package.json'))
  symlinkSync(join(project_dir, 'node_modules'), join(project, 'node_modules'))
  mkdirSync(join(project, 'functions', 'bench'))
  writeFileSync(
    join(project, 'functions', 'bench', 'index.ts'),
    `import { callbackRequest } from '../../src/contract/callback.ts'
import { endpoint } from '../_shared/endpoint.ts'
import { z } from 'zod'

export default endpoint({ method: 'POST', auth: ['bot'], input: z.object({ bot_id: z.guid() }) }, async (_input, { rpc }) => ({
  status: 200,
  body: await rpc('bench_one', {}),
}))
void callbackRequest
`,
  )
  const config = join(project, 'supabase', 'config.toml')
  writeFileSync(
    config,
    `${readFileSync(config, 'utf8')}
[functions.bench]
enabled = true
verify_jwt = false
import_map = "../functions/deno.json"
entrypoint = "../functions/bench/index.ts"
`,
  )
  return project
}
