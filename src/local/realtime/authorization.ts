import { randomUUID } from 'node:crypto'
import postgres, { type Sql, type TransactionSql } from 'postgres'
import type { Claims } from './token.ts'

export type Extension = 'broadcast' | 'presence'

/** Who asks, and about what. */
export type AuthorizationContext = { topic: string; claims: Claims; headers: Record<string, string> }

export type ProbeProblem = 'missing_partition' | 'policy_error' | 'query_canceled' | 'unavailable'

/** The policies could not be asked. */
export class ProbeError extends Error {
  override name = 'ProbeError'
  readonly problem: ProbeProblem

  constructor(problem: ProbeProblem, cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause })
    this.problem = problem
  }
}

/**
 * Asks the select policies of realtime.messages: rows that the service itself writes, one an extension, are
 * looked for as the user, and rolled back.
 * @throws ProbeError
 */
export async function probeRead<E extends Extension>(
  sql: Sql,
  context: AuthorizationContext,
  extensions: E[],
): Promise<Record<E, boolean>> {
  const ids = extensions.map(() => randomUUID())
  const rows = extensions.map((extension, index) => ({
    id: ids[index] as string,
    topic: context.topic,
    extension,
  }))
  const seen = await rolledBack(sql, async (tx) => {
    const [, , found] = await Promise.all([
      tx`insert into realtime.messages ${tx(rows)}`,
      become(tx, context),
      tx<{ id: string }[]>`select id from realtime.messages where id in ${tx(ids)}`,
    ])
    return new Set(found.map(({ id }) => id))
  })
  return Object.fromEntries(rows.map(({ extension, id }) => [extension, seen.has(id)])) as Record<E, boolean>
}

/**
 * Asks the insert policies of realtime.messages: the user writes one row an extension, rolled back.
 * @throws ProbeError
 */
export function probeWrite(sql: Sql, context: AuthorizationContext): Promise<Record<Extension, boolean>> {
  return rolledBack(sql, async (tx) => {
    await become(tx, context)
    const write = async (extension: Extension) => {
      try {
        await tx.savepoint(
          (inner) => inner`insert into realtime.messages ${inner({ topic: context.topic, extension })}`,
        )
        return true
      } catch (error) {
        const refused = error instanceof postgres.PostgresError && error.code === '42501'
        if (refused) return false
        throw error
      }
    }
    return { broadcast: await write('broadcast'), presence: await write('presence') }
  })
}

function become(tx: TransactionSql, { topic, claims, headers }: AuthorizationContext) {
  const sub = typeof claims.sub === 'string' ? claims.sub : null
  return tx`
    select
      set_config('role', ${claims.role}, true),
      set_config('realtime.topic', ${topic}, true),
      set_config('request.jwt.claims', ${JSON.stringify(claims)}, true),
      set_config('request.jwt.claim.sub', ${sub}, true),
      set_config('request.jwt.claim.role', ${claims.role}, true),
      set_config('request.headers', ${JSON.stringify(headers)}, true)
  `
}

async function rolledBack<T>(sql: Sql, ask: (tx: TransactionSql) => Promise<T>): Promise<T> {
  const undo = new Error('rolled back on purpose')
  let answer: { value: T } | undefined
  try {
    await sql.begin(async (tx) => {
      answer = { value: await ask(tx) }
      throw undo
    })
  } catch (error) {
    if (error !== undo) throw new ProbeError(problemOf(error), error)
  }
  if (answer === undefined) throw new ProbeError('unavailable', 'the probe did not run')
  return answer.value
}

function problemOf(error: unknown): ProbeProblem {
  if (!(error instanceof postgres.PostgresError)) return 'unavailable'
  if (error.code === '23514' && error.table_name === 'messages') return 'missing_partition'
  if (error.code === '57014') return 'query_canceled'
  // Connection refused, admin shutdown, starting up.
  return /^(08|57P)/.test(error.code) ? 'unavailable' : 'policy_error'
}
