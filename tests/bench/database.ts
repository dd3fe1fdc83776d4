import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { pushMigrations } from '../../src/local/migrations.ts'
import { installPlatform } from '../../src/local/platform.ts'
import { startPostgres } from '../../src/local/postgres.ts'

/** One database of the cluster, with connections that stay prepared. */
export type BenchDatabase = {
  name: string
  /** A connection string of the owner. */
  url: string
  /** The owner. */
  sql: postgres.Sql
  superuser: postgres.Sql
  /** A connection of its own, like one client of pgbench. */
  client(): postgres.Sql
}

export type BenchCluster = {
  version: string
  /** A fresh database with every migration, the raw tables, and the Vault secrets of a project that is set up. */
  create(): Promise<BenchDatabase>
  /** A fresh database with nothing in it. */
  createEmpty(): Promise<BenchDatabase>
  stop(): Promise<void>
}

/** A cluster of Postgres without fsync: the disk of the machine is not what is measured. */
export async function startBenchCluster(): Promise<BenchCluster> {
  const dir = mkdtempSync(join(tmpdir(), 'rollcall-bench-'))
  // Where benchmarks run as root, Postgres runs as somebody else.
  chmodSync(dir, 0o755)
  const cluster = await startPostgres({ dir, port: 0, durable: false })
  const pools: postgres.Sql[] = []
  const open = (url: string, max = 1) => {
    const sql = postgres(url, { max, onnotice: () => {} })
    pools.push(sql)
    return sql
  }
  await installPlatform(cluster.url('supabase_admin'))
  const maintenance = open(cluster.url('supabase_admin', 'template1'))
  await maintenance`create database bare_template template template0 owner postgres`
  await pushMigrations(cluster.url('postgres'))
  const setup = postgres(cluster.url('supabase_admin'), { max: 1, onnotice: () => {} })
  await setup`select vault.create_secret('http://127.0.0.1:1/functions/v1', 'rollcall_functions_url')`
  await setup`select vault.create_secret('sb_secret_bench', 'rollcall_secret_key')`
  const [row] = await setup`select current_setting('server_version') as version`
  await setup.end()
  const raw = postgres(cluster.url('postgres'), { max: 1, onnotice: () => {} })
  await raw.unsafe(readFileSync(join(import.meta.dirname, 'raw.sql'), 'utf8'))
  // raw.advance() for a step that has a result, which it keeps in the history.
  await raw.unsafe(`
    create function raw.store(run_id bigint, to_status text, detail jsonb) returns int language plpgsql as $$
    declare
      new_version int;
    begin
      update raw.run r set status = store.to_status, version = r.version + 1, updated_at = now()
        where r.id = store.run_id returning r.version into new_version;
      insert into raw.history (run_id, to_status, version, detail)
        values (store.run_id, store.to_status, new_version, store.detail);
      return new_version;
    end;
    $$`)
  await raw.end()
  let made = 0
  const create = async (template: string): Promise<BenchDatabase> => {
    made += 1
    const name = `bench_${made}`
    await maintenance.unsafe(`create database ${name} template ${template} owner postgres`)
    const url = cluster.url('postgres', name)
    return {
      name,
      url,
      sql: open(url),
      superuser: open(cluster.url('supabase_admin', name)),
      client: () => open(url),
    }
  }
  return {
    version: row?.version as string,
    create: () => create('postgres'),
    createEmpty: () => create('bare_template'),
    async stop() {
      await Promise.all(pools.map((pool) => pool.end({ timeout: 1 })))
      await cluster.stop()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}
