import type { SentRow } from '../../src/client/live/run.ts'
import type { TestDatabase } from './database.ts'

export type Page = {
  items: SentRow[]
  next: { before_created: string; before_id: string } | null
  as_of: string
}

export type Counts = {
  counts: { kind: string; state: string; n: number; exact: boolean }[]
  stuck: { n: number; exact: boolean }
  failed_last_hour: { n: number; exact: boolean }
  stuck_rules: { rule: string; kind: string; words: string }[]
  exact: boolean
}

export type Reader = { sub: string; [claim: string]: unknown } | 'secret'

/** Calls a function of the list of runs as somebody; at a pretended time where one is given. */
export async function ask<T>(
  database: TestDatabase,
  reader: Reader,
  name: string,
  args: Record<string, unknown>,
): Promise<T> {
  const names = Object.keys(args)
  const call = `select public.${name}(${names.map((key, i) => `${key} => $${i + 1}`).join(', ')}) as answer`
  return as(database, reader, async (sql) => {
    const [row] = await sql.unsafe(call, Object.values(args) as never[])
    return row?.answer as T
  })
}

/** How many pages of the database a call touches, once the session knows its way. */
export async function pagesOf(
  database: TestDatabase,
  reader: Reader,
  call: string,
  args: unknown[] = [],
): Promise<number> {
  return as(database, reader, async (sql) => {
    for (let n = 0; n < 2; n++) await sql.unsafe(call, args as never[])
    const [row] = await sql.unsafe(`explain (analyze, buffers, format json) ${call}`, args as never[])
    const plans = (row?.['QUERY PLAN'] ?? []) as {
      Plan: Record<'Shared Hit Blocks' | 'Shared Read Blocks', number>
    }[]
    return plans.reduce((sum, { Plan: it }) => sum + it['Shared Hit Blocks'] + it['Shared Read Blocks'], 0)
  })
}

function as<T>(database: TestDatabase, reader: Reader, work: Parameters<TestDatabase['as']>[2]): Promise<T> {
  return reader === 'secret'
    ? (database.as('service_role', {}, work) as Promise<T>)
    : (database.as('authenticated', reader, work) as Promise<T>)
}

/** Every row of a list, page by page. */
export async function everyRow(
  database: TestDatabase,
  reader: Reader,
  filter: Record<string, unknown>,
  max_rows: number,
): Promise<SentRow[]> {
  const rows: SentRow[] = []
  let place = {}
  for (let pages = 0; pages < 500; pages++) {
    const page = await ask<Page>(database, reader, 'runs_list', { filter, max_rows, ...place })
    rows.push(...page.items)
    if (page.next === null) return rows
    place = page.next
  }
  throw new Error('the list has no end')
}
