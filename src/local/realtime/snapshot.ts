/** What pg_current_snapshot() says: which transactions everyone can see. */
export type Snapshot = { xmin: bigint; xmax: bigint; running: Set<bigint> }

/** Reads the text form `xmin:xmax:xip,xip`. */
export function parseSnapshot(text: string): Snapshot {
  const [xmin = '0', xmax = '0', list = ''] = text.split(':')
  const running = new Set(list.split(',').filter(Boolean).map(BigInt))
  return { xmin: BigInt(xmin), xmax: BigInt(xmax), running }
}

/** Is a committed transaction visible? The feed names it by 32 bits, snapshots by 64. */
export function isVisible(xid: number, { xmin, xmax, running }: Snapshot): boolean {
  // Of all transactions with these low bits the nearest to the snapshot is meant.
  const distance = BigInt.asIntN(32, BigInt(xid) - xmax)
  const full = xmax + distance
  return full < xmin || (full < xmax && !running.has(full))
}
