import { useEffect, useState } from 'preact/hooks'

/** After this a first load is said to be slow (ms). */
const SLOW_MS = 3000

/** The list before its first rows: of the same height, so that nothing jumps. */
export function Skeleton() {
  const [is_slow, set] = useState(false)
  useEffect(() => {
    const timer = setTimeout(() => set(true), SLOW_MS)
    return () => clearTimeout(timer)
  }, [])
  return (
    <div class="skeleton">
      <p class={is_slow ? 'quiet' : 'unseen'}>{is_slow ? 'Still loading …' : 'Loading'}</p>
      {[70, 45, 60, 52, 66, 40, 58, 48].map((width) => (
        <div key={width} aria-hidden="true">
          <span style={{ width: '7rem' }} />
          <span style={{ width: `${width / 2}%` }} />
        </div>
      ))}
    </div>
  )
}
