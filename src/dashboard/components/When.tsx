import { useLayoutEffect, useRef } from 'preact/hooks'
import { useDesk } from '../desk.ts'
import { ago, bothTimes, time } from '../format.ts'
import { usePreferences } from '../hooks.ts'
import { onTick } from '../ticker.ts'

/** A moment: how long ago, or the time of day where somebody prefers that. Hovering tells it in full. */
export function When({ at, ms = false }: { at: string; ms?: boolean }) {
  const { live } = useDesk()
  const { absolute_times } = usePreferences()
  const element = useRef<HTMLTimeElement>(null)
  const moment = Date.parse(at)
  const stands = absolute_times || ms
  const words = () => (stands ? time(moment, live.now(), ms) : ago(moment, live.now()))
  useLayoutEffect(() => {
    if (stands) return
    return onTick(() => {
      const text = words()
      if (element.current && element.current.textContent !== text) element.current.textContent = text
    })
  }, [live, moment, stands])
  return (
    <time class="num" ref={element} dateTime={at} title={bothTimes(moment)}>
      {words()}
    </time>
  )
}
