import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parse } from 'smol-toml'
import { project_dir } from './project.ts'
import { StartError } from './start_error.ts'

export type LocalConfig = { dir: string; port: number; db_port: number; chaos: string | undefined }

/**
 * Where the local stack lives, from ROLLCALL_DIR, ROLLCALL_PORT, ROLLCALL_DB_PORT and ROLLCALL_REALTIME_CHAOS; the
 * port of the database is that of supabase/config.toml unless set, so that the CLI finds it. Reads the project's .env
 * first; what the shell has set counts more.
 * @throws StartError for a port that is none.
 */
export function localConfig(): LocalConfig {
  const env_file = join(project_dir, '.env')
  if (existsSync(env_file)) process.loadEnvFile(env_file)
  return {
    dir: resolve(project_dir, process.env.ROLLCALL_DIR || '.rollcall'),
    port: portFrom('ROLLCALL_PORT') ?? 54321,
    db_port: portFrom('ROLLCALL_DB_PORT') ?? configuredDbPort(),
    chaos: process.env.ROLLCALL_REALTIME_CHAOS || undefined,
  }
}

function portFrom(name: string): number | undefined {
  const text = process.env[name]
  if (!text) return undefined
  const port = Number(text)
  if (Number.isInteger(port) && port >= 0 && port <= 65_535) return port
  throw new StartError(`${name} must be a port, 0 to 65535, and is "${text}".`)
}

function configuredDbPort(): number {
  const config = parse(readFileSync(join(project_dir, 'supabase', 'config.toml'), 'utf8')) as {
    db?: { port?: number }
  }
  return config.db?.port ?? 54322
}
