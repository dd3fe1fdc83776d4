import type postgres from 'postgres'

/** Calls a function of the database by the names of its parameters, as the API does. */
export async function rpc<T = Record<string, unknown>>(
  sql: postgres.Sql | postgres.TransactionSql,
  name: string,
  args: Record<string, unknown> = {},
): Promise<T> {
  const names = Object.keys(args)
  const list = names.map((key, i) => `${key} => $${i + 1}`).join(', ')
  const [row] = await sql.unsafe(
    `select ${name.includes('.') ? name : `public.${name}`}(${list}) as answer`,
    Object.values(args) as never[],
  )
  return row?.answer as T
}

/** The error that a statement raises, with its SQLSTATE, message, detail and hint; fails when it raises none. */
export async function refusal(work: Promise<unknown>): Promise<postgres.PostgresError> {
  try {
    await work
  } catch (error) {
    return error as postgres.PostgresError
  }
  throw new Error('nothing was refused')
}
