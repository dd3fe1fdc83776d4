import { randomUUID } from 'node:crypto'
import postgres from 'postgres'
import { inject } from 'vitest'

export type Claims = { sub?: string; role?: string; [claim: string]: unknown }

export type TestDatabase = {
  name: string
  /** Connection strings: the owner (`postgres`, not a superuser) and the superuser. */
  url: string
  superuser_url: string
  /** A pool as `postgres`, the role that pushes migrations. */
  owner: postgres.Sql
  /** A pool as the superuser. */
  superuser: postgres.Sql
  /** Another pool as any login role of the cluster; ended with the database. */
  connect(user: string, options?: postgres.Options<Record<string, never>>): postgres.Sql
  /**
   * Runs `work` in one transaction as an API role, as /rest/v1 does: logged in as `authenticator`, `set role`,
   * request.jwt.claims. `sub` defaults to none, `role` to the role.
   */
  as<T>(
    role: 'anon' | 'authenticated' | 'service_role',
    claims: Claims,
    work: (sql: postgres.TransactionSql) => Promise<T>,
  ): Promise<T>
  /** Ends the pools and drops the database. */
  drop(): Promise<void>
}

/** A fresh database with the platform and every migration, cloned from the template of this test run. */
export async function createTestDatabase(options: { migrated?: boolean } = {}): Promise<TestDatabase> {
  const cluster = inject('postgres')
  const template = options.migrated === false ? cluster.platform_template : cluster.template
  if (cluster.migration_error && options.migrated !== false) throw new Error(cluster.migration_error)
  const name = `test_${randomUUID().replaceAll('-', '').slice(0, 16)}`
  const url = (user: string, database: string) =>
    `postgresql://${user}:postgres@127.0.0.1:${cluster.port}/${database}?sslmode=disable`
  const maintenance = async (command: string) => {
    const sql = postgres(url('supabase_admin', 'template1'), { max: 1, onnotice: () => {} })
    try {
      await sql.unsafe(command)
    } finally {
      await sql.end()
    }
  }
  await maintenance(`create database ${name} template ${template} owner postgres`)

  const pools: postgres.Sql[] = []
  const connect: TestDatabase['connect'] = (user, more) => {
    const sql = postgres(url(user, name), { max: 4, onnotice: () => {}, ...more })
    pools.push(sql)
    return sql
  }
  const owner = connect('postgres')
  const superuser = connect('supabase_admin')
  const authenticator = connect('authenticator', { max: 20 })
  return {
    name,
    url: url('postgres', name),
    superuser_url: url('supabase_admin', name),
    owner,
    superuser,
    connect,
    as: (role, claims, work) =>
      authenticator.begin(async (sql) => {
        await sql`
          select set_config('role', ${role}, true),
            set_config('request.jwt.claims', ${JSON.stringify({ role, ...claims })}, true)`
        return work(sql)
      }) as Promise<never>,
    async drop() {
      await Promise.all(pools.map((pool) => pool.end({ timeout: 1 })))
      await maintenance(`drop database if exists ${name} with (force)`)
    },
  }
}
