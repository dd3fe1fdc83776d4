import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import type { TestProject } from 'vitest/node'
import { pushMigrations } from '../../src/local/migrations.ts'
import { installPlatform } from '../../src/local/platform.ts'
import { startPostgres } from '../../src/local/postgres.ts'
import { type Stack, startStack } from '../../src/local/stack.ts'
import { expectNoServerErrors } from './server_errors.ts'

export type TestCluster = {
  port: number
  /** The database that `createTestDatabase` clones: platform and migrations. */
  template: string
  /** The platform alone, for tests of the local parts. */
  platform_template: string
  /** Why the template has not every migration, when it has not. */
  migration_error: string | null
}

declare module 'vitest' {
  export interface ProvidedContext {
    postgres: TestCluster
    /** Answers with the address of the shared stack, which it starts at the first request. */
    stack_starter: string
  }
}

/**
 * One Postgres for the whole test run, with a template database that each test file clones; and one stack,
 * for the tests that want one.
 */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const stops = await Promise.all([startCluster(project), offerStack(project)])
  return async () => {
    await Promise.all(stops.map((stop) => stop()))
  }
}

async function startCluster(project: TestProject): Promise<() => Promise<void>> {
  const dir = temporaryDirectory('rollcall-test-')
  const cluster = await startPostgres({ dir, port: 0, durable: false })
  const stop = async () => {
    await cluster.stop()
    rmSync(dir, { recursive: true, force: true })
  }
  try {
    await installPlatform(cluster.url('supabase_admin'))
    const sql = postgres(cluster.url('supabase_admin', 'template1'), { max: 1, onnotice: () => {} })
    await sql`create database platform_template template postgres owner postgres`
    await sql.end()
    let migration_error: string | null = null
    try {
      await pushMigrations(cluster.url('postgres'))
    } catch (error) {
      // Tests of the local parts need no migration: only those that do fail, and say why.
      migration_error = (error as Error).message
    }
    project.provide('postgres', {
      port: cluster.port,
      template: 'postgres',
      platform_template: 'platform_template',
      migration_error,
    })
    return stop
  } catch (error) {
    await stop()
    throw error
  }
}

async function offerStack(project: TestProject): Promise<() => Promise<void>> {
  let starting: Promise<Stack> | undefined
  let dir: string | undefined
  const start = () => {
    dir = temporaryDirectory('rollcall-stack-')
    return startStack({ dir, port: 0, db_port: 0, durable: false, seeded: false })
  }
  const server = createServer(async (_request, response) => {
    try {
      starting ??= start()
      const { stop: _, ...address } = await starting
      response.end(JSON.stringify(address))
    } catch (error) {
      response.writeHead(500).end(`The shared stack did not start: ${(error as Error).message}`)
    }
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  project.provide('stack_starter', `http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  return async () => {
    server.close()
    await starting?.then((stack) => stack.stop()).catch(() => {})
    if (dir === undefined) return
    try {
      expectNoServerErrors(dir)
    } finally {
      rmSync(dir, { recursive: true, force: true })
    }
  }
}

function temporaryDirectory(prefix: string): string {
  const dir = mkdtempSync(join(tmpdir(), prefix))
  // Where tests run as root, Postgres runs as somebody else.
  chmodSync(dir, 0o755)
  return dir
}
