/** One beat a second for everything that ticks; none while nobody listens or sees it. */
const listeners = new Set<() => void>()
let timer: ReturnType<typeof setInterval> | undefined

function beat(): void {
  if (document.visibilityState === 'hidden') return
  for (const listener of listeners) listener()
}

export function onTick(listener: () => void): () => void {
  listeners.add(listener)
  timer ??= setInterval(beat, 1000)
  return () => {
    listeners.delete(listener)
    if (listeners.size > 0) return
    clearInterval(timer)
    timer = undefined
  }
}

/** Everything at once: back from a hidden tab. */
export function tickNow(): void {
  beat()
}
