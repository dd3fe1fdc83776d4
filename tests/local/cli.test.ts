import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { latest_cli_version } from '../../src/local/latest_cli.ts'
import { installPlatform } from '../../src/local/platform.ts'
import { type Postgres, startPostgres, superuser } from '../../src/local/postgres.ts'
import { project_dir } from '../../src/local/project.ts'
import { createTestDatabase } from '../support/database.ts'
import { startManagementApi } from '../support/management_api.ts'
import {
  copyProject,
  findLatestCli,
  locked_cli,
  type ProjectCopy,
  type SupabaseCli,
} from '../support/supabase_cli.ts'

const migrations = readdirSync(join(project_dir, 'supabase', 'migrations')).flatMap(
  (file) => /^(\d{14})_.*\.sql$/.exec(file)?.[1] ?? [],
)
const functions = readdirSync(join(project_dir, 'functions'), { withFileTypes: true })
  .filter((entry) => entry.isDirectory() && !entry.name.startsWith('_'))
  .map((entry) => entry.name)

const latest_cli = await findLatestCli()

describe(`supabase ${locked_cli.version}`, () => {
  behaves(locked_cli, {
    local: ['--local'],
    url: (url) => ['--db-url', url],
    project: (ref) => ['--project-ref', ref],
  })
})

// The registry must have it for this machine: some hold the locked one alone.
describe.skipIf(latest_cli === null)(`supabase ${latest_cli_version}`, () => {
  if (latest_cli === null) return
  behaves(latest_cli, {
    local: [],
    url: (url) => [`--remote=${url}`, '--yes'],
    project: (ref) => [`--remote=${ref}`, '--yes'],
  })
})

type Spelling = { local: string[]; url(url: string): string[]; project(ref: string): string[] }

function behaves(cli: SupabaseCli, target: Spelling): void {
  let dir: string
  let embedded: Postgres
  let project: ProjectCopy
  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'rollcall-cli-db-'))
    embedded = await startPostgres({ dir, port: 0, durable: false })
    await installPlatform(embedded.url(superuser))
    project = copyProject({ db_port: embedded.port })
  })
  afterAll(async () => {
    project.remove()
    await embedded.stop()
    rmSync(dir, { recursive: true, force: true })
  })

  test('db push brings every migration onto the embedded database, then finds nothing to do', async () => {
    const first = await cli.run(['db', 'push', ...target.local], project.dir, { SUPABASE_YES: '1' })
    expect(first).toMatchObject({ code: 0 })
    for (const version of migrations) expect(first.output).toContain(version)
    const second = await cli.run(['db', 'push', ...target.local], project.dir)
    expect(second).toMatchObject({ code: 0, output: expect.stringMatching(/database is up to date/) })

    const list = await cli.run(['migration', 'list', ...target.local], project.dir)
    expect(list.code).toBe(0)
    const applied = [...list.stdout.matchAll(/^\D*(\d{14})\D+(\d{14})\D/gm)].map(([, local, there]) => [
      local,
      there,
    ])
    expect(applied).toEqual(migrations.map((version) => [version, version]))
  })

  test('db push --include-seed finds every seed that the config names', async () => {
    const said = await cli.run(['db', 'push', '--include-seed', ...target.local], project.dir, {
      SUPABASE_YES: '1',
    })
    expect(said).toMatchObject({ code: 0, output: expect.not.stringMatching(/no files matched/i) })
    const again = await cli.run(['db', 'push', '--include-seed', ...target.local], project.dir)
    expect(again).toMatchObject({ code: 0, output: expect.stringMatching(/database is up to date/) })
    const sql = postgres(embedded.url('postgres'), { max: 1, onnotice: () => {} })
    try {
      const runs = await sql`
        select kind, state from (
          select 'bot' as kind, bot_status::text as state from public.workflow_threads
          union all select 'flow', status::text from public.flow_executions
          union all select 'workflow', state from public.workflow_states
        ) run order by kind, state`
      expect(runs.map(({ kind, state }) => `${kind} ${state}`)).toEqual([
        ...['bot failed', 'flow completed', 'flow failed', 'workflow ready'],
      ])
      expect(await sql`select * from public.invariant_violations`).toEqual([])
    } finally {
      await sql.end()
    }
  })

  test('db advisors warns of nothing', async () => {
    const advice = await cli.run(['db', 'advisors', '--fail-on', 'warn', ...target.local], project.dir)
    const found = JSON.parse(advice.stdout || '[]') as { level: string; name: string; detail: string }[]
    expect(found.map(({ level, name, detail }) => `${level} ${name}: ${detail}`)).toEqual([])
    expect(advice.code).toBe(0)
  })

  test('db push brings every migration onto an empty Postgres by its URL, then finds nothing to do', async () => {
    const empty = await createTestDatabase({ migrated: false })
    try {
      const push = () => cli.run(['db', 'push', ...target.url(empty.url)], project.dir, { SUPABASE_YES: '1' })
      expect(await push()).toMatchObject({ code: 0 })
      const rows =
        await empty.owner`select version from supabase_migrations.schema_migrations order by version`
      expect(rows.map((row) => row.version)).toEqual(migrations)
      expect(await push()).toMatchObject({ code: 0, output: expect.stringMatching(/database is up to date/) })
    } finally {
      await empty.drop()
    }
  })

  test('functions deploy sends every file that a function imports, and warns of nothing', async () => {
    const api = await startManagementApi()
    try {
      const profile = join(project.dir, 'profile.yaml')
      writeFileSync(profile, api.profile)
      const deploy = ['functions', 'deploy', '--use-api', '--profile', profile]
      const said = await cli.run([...deploy, ...target.project('abcdefghijklmnopqrst')], project.dir, {
        SUPABASE_ACCESS_TOKEN: `sbp_${'0'.repeat(40)}`,
      })
      expect(said.output.split('\n').filter((line) => /\bWARN/.test(line))).toEqual([])
      expect(said.code).toBe(0)
      expect([...api.deployed.keys()].sort()).toEqual(functions)
      for (const [name, { files, metadata }] of api.deployed) {
        expect(metadata).toMatchObject({
          entrypoint_path: `functions/${name}/index.ts`,
          import_map_path: 'functions/deno.json',
          verify_jwt: false,
        })
        expect([...files.keys()]).toEqual(expect.arrayContaining(['functions/deno.json', ...importsOf(name)]))
        for (const [path, text] of files) expect(text).toBe(readFileSync(join(project_dir, path), 'utf8'))
      }
    } finally {
      await api.close()
    }
  })
}

/** The project's files that a function consists of, as Deno finds them: its entry and all that it imports. */
function importsOf(name: string): string[] {
  const require = createRequire(import.meta.url)
  const entry = `functions/${name}/index.ts`
  const info = ['info', '--json', '--node-modules-dir=manual', '--no-remote', '--no-lock']
  const graph = JSON.parse(
    execFileSync(
      process.execPath,
      [require.resolve('deno/bin.cjs'), ...info, '--config', 'functions/deno.json', entry],
      { cwd: project_dir, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] },
    ),
  ) as { modules: { specifier: string; error?: string }[] }
  const files = graph.modules
    .filter(({ specifier }) => specifier.startsWith('file:'))
    .map(({ specifier }) => relative(project_dir, fileURLToPath(specifier)).replaceAll('\\', '/'))
    .filter((path) => !path.startsWith('node_modules/'))
  expect(files).toContain(entry)
  return files
}
