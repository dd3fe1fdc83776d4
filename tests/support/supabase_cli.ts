import { spawn } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { latest_cli_version, latestCli } from '../../src/local/latest_cli.ts'
import { project_dir } from '../../src/local/project.ts'

export type Said = { code: number | null; stdout: string; stderr: string; output: string }

/** A version of the Supabase CLI, as a user would run it. */
export type SupabaseCli = {
  version: string
  run(args: string[], cwd: string, env?: Record<string, string>): Promise<Said>
}

const { resolve } = createRequire(import.meta.url)

/** The CLI of the lockfile. */
export const locked_cli: SupabaseCli = {
  version: (JSON.parse(readFileSync(resolve('supabase/package.json'), 'utf8')) as { version: string })
    .version,
  run: (args, cwd, env) => start(process.execPath, [resolve('supabase/dist/supabase.js'), ...args], cwd, env),
}

/** The current major, where npm can bring it to this machine; else null. */
export async function findLatestCli(): Promise<SupabaseCli | null> {
  const [command, first] = latestCli()
  const run: SupabaseCli['run'] = (args, cwd, env) => start(command, [...first, ...args], cwd, env)
  const probe = await run(['--version'], tmpdir())
  return probe.code === 0 ? { version: latest_cli_version, run } : null
}

function start(
  command: string,
  args: string[],
  cwd: string,
  env: Record<string, string> = {},
): Promise<Said> {
  const child = spawn(command, args, {
    cwd,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, DO_NOT_TRACK: '1', NO_COLOR: '1', npm_config_loglevel: 'error', ...env },
  })
  const said: Said = { code: null, stdout: '', stderr: '', output: '' }
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      said[name] += text
      said.output += text
    })
  }
  return new Promise((done, fail) => {
    child.once('error', fail)
    child.once('close', (code) => done({ ...said, code }))
  })
}

export type ProjectCopy = { dir: string; remove(): void }

/** What the CLI reads of this project, in a folder where it may leave its own files. */
export function copyProject(options: { db_port: number }): ProjectCopy {
  const dir = mkdtempSync(join(tmpdir(), 'rollcall-cli-'))
  for (const name of ['supabase', 'functions', 'src']) {
    cpSync(join(project_dir, name), join(dir, name), {
      recursive: true,
      filter: (path) => !/[\\/]supabase[\\/]\.(?:temp|branches)/.test(path),
    })
  }
  const file = join(dir, 'supabase', 'config.toml')
  const config = readFileSync(file, 'utf8')
  writeFileSync(file, config.replace(/^(\[db\]\nport = )\d+$/m, `$1${options.db_port}`))
  return { dir, remove: () => rmSync(dir, { recursive: true, force: true }) }
}
