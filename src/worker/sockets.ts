/** An open connection to a receiver. */
export interface Connection {
  readable: ReadableStream<Uint8Array>
  writable: WritableStream<Uint8Array>
  close(): void
}

/** Where a connection goes: to an address, not to a name, so that it is the one that was checked. */
export interface Target {
  address: string
  port: number
  /** Whose certificate it must show, a name or an address; null for plain http. */
  server_name: string | null
}

/** What a runtime offers below fetch: Deno in functions, Node in npm run worker. */
export interface Sockets {
  /** The addresses of a name; none if it does not resolve. */
  resolve(hostname: string): Promise<string[]>
  open(target: Target, signal: AbortSignal): Promise<Connection>
}
