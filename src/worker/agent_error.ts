/** Why an agent gave no usable answer, as public.error_codes has it. */
export type AgentErrorCode =
  | 'AGENT_UNREACHABLE'
  | 'AGENT_TIMEOUT'
  | 'AGENT_RATE_LIMITED'
  | 'AGENT_REFUSED'
  | 'AGENT_BAD_ANSWER'

interface Extra {
  status?: number
  /** True: it may pass, so it is worth another attempt. */
  passing?: boolean
  /** How long the agent asks to be left alone, in seconds. */
  retry_after_s?: number | null
}

/** An agent that did not give a usable answer. The message is a sentence without secrets. */
export class AgentError extends Error {
  override name = 'AgentError'
  readonly code: AgentErrorCode
  readonly status: number | null
  readonly passing: boolean
  readonly retry_after_s: number | null

  constructor(code: AgentErrorCode, message: string, extra: Extra = {}) {
    super(message)
    this.code = code
    this.status = extra.status ?? null
    this.passing = extra.passing ?? false
    this.retry_after_s = extra.retry_after_s ?? null
  }
}
