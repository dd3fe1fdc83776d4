import type { FaultAnswer } from './fault_agent.ts'

/** An answer of an agent that calls a tool; `text` is what it says besides. */
export function toolCall(name: string, args: unknown, text: string | null = null): FaultAnswer {
  const call = {
    id: `call_${Math.random().toString(36).slice(2)}`,
    type: 'function',
    function: { name, arguments: typeof args === 'string' ? args : JSON.stringify(args) },
  }
  return {
    body: JSON.stringify({
      choices: [{ message: { role: 'assistant', content: text, tool_calls: [call] } }],
    }),
  }
}
