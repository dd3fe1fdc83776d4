import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { App } from '@supabase/lite'
import { PostgresConnection } from '@supabase/lite/postgres'
import postgres from 'postgres'

const before_auth = ['roles', 'extensions']
const after_auth = ['auth', 'realtime', 'cron', 'vault', 'net', 'room']

/**
 * Gives a database what a hosted project has before its first migration: roles, extensions, and the schemas of
 * Auth, Realtime, cron, vault and net. May run again, and for a second database of the same cluster.
 * @param superuser_url a connection string of the bootstrap superuser for the database to prepare.
 */
export async function installPlatform(superuser_url: string): Promise<void> {
  const sql = postgres(superuser_url, { max: 1, onnotice: () => {} })
  try {
    for (const name of before_auth) await runFile(sql, name)
    await makeAuthTables(superuser_url)
    for (const name of after_auth) await runFile(sql, name)
  } finally {
    await sql.end()
  }
}

async function runFile(sql: postgres.Sql, name: string): Promise<void> {
  const file = join(import.meta.dirname, 'platform', `${name}.sql`)
  if (!existsSync(file)) return
  try {
    await sql.unsafe(readFileSync(file, 'utf8')).simple()
  } catch (error) {
    throw new Error(`${file}: ${(error as Error).message}`, { cause: error })
  }
}

async function makeAuthTables(superuser_url: string): Promise<void> {
  const connection = new PostgresConnection({
    url: superuser_url,
    postgresOptions: { max: 1, onnotice: () => {} },
  })
  try {
    // Only the tables: the CLI makes supabase_migrations, and the secret signs nothing here.
    const app = new App({
      connection,
      auth: { enabled: true, jwt_secret: 'unused-while-the-tables-are-made' },
      db: { migrations: { enabled: false } },
    } as ConstructorParameters<typeof App>[0])
    await app.ensureSystemSchema()
  } finally {
    await connection.close()
  }
}
