import { useEffect, useState } from 'preact/hooks'

const query = matchMedia('(max-width: 719px)')

/** Whether there is room for no more than cards. */
export function useNarrow(): boolean {
  const [is_narrow, set] = useState(query.matches)
  useEffect(() => {
    const follow = () => set(query.matches)
    query.addEventListener('change', follow)
    return () => query.removeEventListener('change', follow)
  }, [])
  return is_narrow
}
