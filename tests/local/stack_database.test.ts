import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'

let db: TestDatabase
beforeAll(async () => {
  db = await createTestDatabase({ migrated: false })
})
afterAll(() => db.drop())

describe('the platform before the first migration', () => {
  test('postgres is not a superuser and pushes the migrations', async () => {
    const [role] = await db.owner`
      select rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls from pg_roles where rolname = current_user`
    expect(role).toEqual({
      rolsuper: false,
      rolcreaterole: true,
      rolcreatedb: true,
      rolreplication: true,
      rolbypassrls: true,
    })
    await db.owner`create schema pushed`
    await db.owner`drop schema pushed`
  })

  test('a new table is closed to the API roles until it is granted', async () => {
    await db.owner`create table notes (id int primary key)`
    await expect(db.as('anon', {}, (sql) => sql`select * from public.notes`)).rejects.toMatchObject({
      code: '42501',
    })
    await expect(db.as('service_role', {}, (sql) => sql`select * from public.notes`)).rejects.toMatchObject({
      code: '42501',
    })
    await db.owner`grant select on notes to authenticated`
    expect(await db.as('authenticated', {}, (sql) => sql`select * from public.notes`)).toHaveLength(0)
  })

  test('a request logs in as authenticator and acts as the user of its token', async () => {
    const sub = '00000000-0000-4000-8000-000000000001'
    const [seen] = await db.as(
      'authenticated',
      { sub, email: 'ada@example.com' },
      (sql) =>
        sql`select session_user, current_user, auth.uid(), auth.role(), auth.email(), auth.jwt() ->> 'sub' as sub`,
    )
    expect(seen).toEqual({
      session_user: 'authenticator',
      current_user: 'authenticated',
      uid: sub,
      role: 'authenticated',
      email: 'ada@example.com',
      sub,
    })
  })

  test('create extension if not exists passes for what is played by plain SQL', async () => {
    await db.owner`create extension if not exists pg_cron with schema pg_catalog`
    await db.owner`create extension if not exists pg_net`
    await db.owner`create extension if not exists supabase_vault with schema vault`
    await db.owner`create extension if not exists pgcrypto with schema extensions`
  })

  test('the server speaks UTC', async () => {
    expect(await db.owner`show timezone`).toMatchObject([{ TimeZone: 'UTC' }])
  })

  test('two databases of one run do not see each other', async () => {
    const other = await createTestDatabase({ migrated: false })
    try {
      await other.owner`create table only_here (id int)`
      const [row] = await db.owner`select to_regclass('public.only_here') as found`
      expect(row?.found).toBeNull()
    } finally {
      await other.drop()
    }
  })
})
