/** Whose fault it is, and with that what happens to the run. */
export type ErrorClass = 'auth' | 'permission' | 'network' | 'logic' | 'internal'

/** What a script wrote to the console. `at`: ISO. */
export interface LogLine {
  at: string
  level: 'debug' | 'info' | 'warn' | 'error'
  text: string
}

export interface FailureFields {
  /** False: the request certainly never left. */
  request_sent?: boolean | undefined
  /** What was answered; null for no answer. */
  http_status?: number | null | undefined
  /** The host that was called. */
  service?: string | undefined
  /** Of a call that succeeded: what can be told of an answer that makes no sense. */
  answer?: undefined | { status: number; headers: Record<string, string>; body: unknown }
  logs?: LogLine[]
}

/** A phase of a script that ended otherwise than well. */
export class ScriptFailure extends Error {
  override name = 'ScriptFailure'
  readonly error_class: ErrorClass
  readonly request_sent: boolean | undefined
  readonly service: string | undefined
  readonly http_status: number | null | undefined
  readonly answer: FailureFields['answer']
  readonly logs: LogLine[]

  constructor(error_class: ErrorClass, message: string, fields: FailureFields = {}) {
    super(message)
    this.error_class = error_class
    this.request_sent = fields.request_sent
    this.service = fields.service
    this.http_status = fields.http_status
    this.answer = fields.answer
    this.logs = fields.logs ?? []
  }

  /** The same failure with what was logged before it. */
  withLogs(logs: LogLine[]): ScriptFailure {
    const { request_sent, service, http_status, answer } = this
    return new ScriptFailure(this.error_class, this.message, {
      request_sent,
      service,
      http_status,
      answer,
      logs,
    })
  }
}
