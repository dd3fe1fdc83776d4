/** Browsers may refuse to keep anything, from file:// for one: then it lasts as long as the page. */
export interface Keep {
  get(name: string): string | null
  set(name: string, value: string | null): void
}

function keepIn(storage: () => Storage): Keep {
  const own = new Map<string, string>()
  return {
    get(name) {
      try {
        return storage().getItem(`rollcall.${name}`) ?? own.get(name) ?? null
      } catch {
        return own.get(name) ?? null
      }
    },
    set(name, value) {
      if (value === null) own.delete(name)
      else own.set(name, value)
      try {
        if (value === null) storage().removeItem(`rollcall.${name}`)
        else storage().setItem(`rollcall.${name}`, value)
      } catch {
        // It lasts as long as the page.
      }
    },
  }
}

/** For this tab: tokens. */
export const for_tab: Keep = keepIn(() => sessionStorage)

/** For this browser: settings, and which project was looked at. */
export const for_browser: Keep = keepIn(() => localStorage)
