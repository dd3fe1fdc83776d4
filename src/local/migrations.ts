import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import postgres from 'postgres'
import { project_dir } from './project.ts'

export type PushOptions = {
  /** The project whose supabase/migrations are pushed. Default this one. */
  project?: string
  signal?: AbortSignal
}

/**
 * Pushes supabase/migrations with the real CLI, as the role in `db_url`. Does not start the CLI when the
 * database lists every migration already. Each migration is one transaction, so `signal` cuts none in two.
 * @throws Error with the CLI's own output when a migration fails.
 */
export async function pushMigrations(db_url: string, options: PushOptions = {}): Promise<void> {
  const project = options.project ?? project_dir
  if (await upToDate(db_url, project)) return
  const cli = createRequire(import.meta.url).resolve('supabase/dist/supabase.js')
  const args = ['db', 'push', '--db-url', db_url, '--include-all', '--yes', '--workdir', project]
  // Detached: a signal to the terminal's programs reaches the CLI through `signal` alone.
  const child = spawn(process.execPath, [cli, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
    ...(options.signal && { signal: options.signal }),
    env: { ...process.env, DO_NOT_TRACK: '1', SUPABASE_TELEMETRY_DISABLED: '1' },
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8')
    stream.on('data', (text: string) => {
      output += text
    })
  }
  const code = await new Promise<number | null>((done, fail) => {
    child.once('error', fail)
    child.once('close', done)
  })
  if (code !== 0) throw new Error(`The migrations could not be pushed:\n${output.trim()}`)
}

async function upToDate(db_url: string, project: string): Promise<boolean> {
  const versions = readdirSync(join(project, 'supabase', 'migrations')).flatMap(
    (file) => /^(\d+)_.*\.sql$/.exec(file)?.[1] ?? [],
  )
  if (versions.length === 0) return true
  const sql = postgres(db_url, { max: 1, onnotice: () => {} })
  try {
    const [found] = await sql`select to_regclass('supabase_migrations.schema_migrations') is not null as made`
    if (!found?.made) return false
    const applied = await sql<
      { version: string }[]
    >`select version from supabase_migrations.schema_migrations`
    const known = new Set(applied.map((row) => row.version))
    return versions.every((version) => known.has(version))
  } finally {
    await sql.end()
  }
}
