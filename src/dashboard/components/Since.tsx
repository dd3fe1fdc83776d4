import { useLayoutEffect, useRef } from 'preact/hooks'
import { useDesk } from '../desk.ts'
import { age, duration } from '../format.ts'
import { onTick } from '../ticker.ts'

/**
 * How long something lasts, or has lasted until `until`. What still lasts ticks, straight into its text: a second costs no
 * drawing of anything else.
 */
export function Since({ at, until = null }: { at: string; until?: string | null }) {
  const { live } = useDesk()
  const text = useRef<HTMLSpanElement>(null)
  const from = Date.parse(at)
  useLayoutEffect(() => {
    if (until !== null) return
    const write = () => {
      if (text.current) text.current.textContent = age(live.now() - from)
    }
    write()
    return onTick(write)
  }, [live, from, until])
  return (
    <span class="num" ref={text}>
      {until === null ? age(live.now() - from) : duration(Date.parse(until) - from)}
    </span>
  )
}
