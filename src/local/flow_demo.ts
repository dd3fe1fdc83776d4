import { setTimeout as pause } from 'node:timers/promises'
import { styleText } from 'node:util'
import type { SupabaseClient } from '@supabase/supabase-js'
import type { Execution } from '../contract/executions.ts'
import type { Flow, FlowList } from '../contract/flows.ts'

const flow = {
  name: 'Release notes',
  prompts: [
    'List what a release of a meeting bot should be checked for.',
    'Which of these can a machine check by itself?',
    'Write one sentence for the customers.',
  ],
}

interface FlowDemo {
  /** Signed in. */
  client: SupabaseClient
  print: (line: string) => void
  deadline: AbortSignal
}

/** Runs a flow of three prompts and prints each answer as it is pushed. Throws when it does not complete. */
export async function runFlowDemo({ client, print, deadline }: FlowDemo): Promise<void> {
  const call = async <T>(path: string, body?: object): Promise<T> => {
    const method = body === undefined ? 'GET' : 'POST'
    const { data, error } = await client.functions.invoke<T>(path, { method, ...(body && { body }) })
    if (error !== null || data === null) throw new Error(`${path} does not answer: ${error?.message}`)
    return data
  }

  const { items } = await call<FlowList>('flows')
  const known = items.find((one) => one.name === flow.name)
  const { id } = known ?? (await call<Flow>('flows', flow))
  const { execution_id, topic } = await call<Execution>(`flows/${id}/run`, {})
  print('')
  print(styleText('bold', `Demo: the flow "${flow.name}"`))

  let pushed = Promise.withResolvers<void>()
  const ring = () => pushed.resolve()
  const channel = client
    .channel(topic, { config: { private: true } })
    .on('broadcast', { event: 'progress' }, ring)
    .on('broadcast', { event: 'status_changed' }, ring)
    .subscribe(ring)
  try {
    for (let shown = 0; ; ) {
      deadline.throwIfAborted()
      const execution = await call<Execution>(`executions/${execution_id}`)
      for (const { prompt, response, error } of (execution.prompt_results ?? []).slice(shown)) {
        shown++
        print(`${styleText('dim', `${shown}/${execution.total_prompts}`.padStart(7))}  ${prompt}`)
        print(`         ${styleText(error === null ? 'green' : 'red', response ?? error ?? '')}`)
      }
      if (execution.status === 'failed') throw new Error(`The flow failed: ${execution.error}`)
      if (execution.status === 'completed') return
      await Promise.race([pushed.promise, pause(2_000)])
      pushed = Promise.withResolvers()
    }
  } finally {
    await client.removeChannel(channel)
  }
}
