// The reference bot: attends one meeting of the local room and reports what happens to Rollcall.
// Everything it needs to know is in its environment; see environment.ts.
import { attend } from './attend.ts'
import { type CallbackTarget, readAssignment, readCallbackTarget } from './environment.ts'

let target: CallbackTarget
try {
  target = readCallbackTarget(process.env)
} catch (error) {
  console.error((error as Error).message)
  process.exit(1)
}

const stop = new AbortController()
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => stop.abort(signal))
for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
  process.on(event, (error) => stop.abort(error instanceof Error ? error : new Error(String(error))))
}

// Not left to run out: a hanging socket would keep the machine, and its bill, alive.
process.exit(await attend(target, () => readAssignment(process.env), stop.signal, console.log))
