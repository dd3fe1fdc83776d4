interface Runtime {
  Deno?: { env: { get(name: string): string | undefined } }
  EdgeRuntime?: { waitUntil(work: Promise<unknown>): void }
}

const runtime = globalThis as Runtime

/** A variable of the function's environment; undefined if it is unset or empty. */
export function env(name: string): string | undefined {
  return runtime.Deno?.env.get(name) || undefined
}

/** Lets work go on after the answer has left. The work must handle its own errors. */
export function waitUntil(work: Promise<unknown>): void {
  runtime.EdgeRuntime?.waitUntil(work)
}
