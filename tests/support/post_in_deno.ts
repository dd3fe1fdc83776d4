import { deno_sockets } from '../../src/worker/deno_sockets.ts'
import { PostError, postPinned } from '../../src/worker/pinned_post.ts'

/** What the test asks of this process, as JSON in its one argument. Its answer is a line of JSON. */
export type PostInDeno = {
  url: string
  timeout_ms: number
  allow_private: boolean
  /** The addresses that the name is to have; else it is looked up. */
  addresses: string[] | null
}

const { Deno } = globalThis as unknown as { Deno: { args: string[]; exit(code: number): never } }
const { url, timeout_ms, allow_private, addresses } = JSON.parse(Deno.args[0] ?? '{}') as PostInDeno
const sockets = addresses === null ? deno_sockets : { ...deno_sockets, resolve: async () => addresses }
try {
  console.log(
    JSON.stringify(await postPinned(url, { 'x-test': 'yes' }, '{}', { sockets, timeout_ms, allow_private })),
  )
} catch (error) {
  if (!(error instanceof PostError)) throw error
  console.log(JSON.stringify({ error: error.message, refused: error.refused }))
}
Deno.exit(0)
