import { deno_sockets } from '../../src/worker/deno_sockets.ts'
import { getTool } from '../../src/worker/script/http_tools.ts'
import { runPhase } from '../../src/worker/script/run_phase.ts'
import { ScriptFailure } from '../../src/worker/script/script_failure.ts'
import { validateScript } from '../../src/worker/script/validate_script.ts'

/** What the test asks of this process, as JSON in its one argument. Its answer is a line of JSON. */
export interface ScriptInDeno {
  /** A script to validate. */
  validate: string
  /** Bodies of a producer's handler, run one after the other. */
  handlers: string[]
}

const { Deno } = globalThis as unknown as { Deno: { args: string[]; exit(code: number): never } }
const asked = JSON.parse(Deno.args[0] ?? '{}') as ScriptInDeno
const signal = new AbortController().signal

async function outcomeOf(body: string): Promise<unknown> {
  try {
    const { value } = await runPhase({
      code: `workflow = { producers: { poll: { async handler(state) { ${body} } } } }`,
      handler_type: 'producer',
      handler_name: 'poll',
      phase: 'handler',
      args: [{ n: 1 }],
      config: { producers: { poll: {} }, consumers: {} },
      started_at: '2026-03-01T12:00:00.000Z',
      cpu_ms: 5_000,
      wall_ms: 20_000,
      signal,
      tools: {
        get: (request) =>
          getTool(request, {
            sockets: deno_sockets,
            allow_private: true,
            secrets: async () => ({}),
            timeout_ms: 5_000,
            signal,
          }),
      },
    })
    return { value }
  } catch (error) {
    if (!(error instanceof ScriptFailure)) throw error
    return { error_class: error.error_class, message: error.message }
  }
}

const { issues, config } = await validateScript(asked.validate)
const outcomes: unknown[] = []
for (const body of asked.handlers) outcomes.push(await outcomeOf(body))
console.log(JSON.stringify({ issues, config, outcomes }))
Deno.exit(0)
