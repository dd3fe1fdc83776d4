import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Machine } from './machine.ts'

/** Keeps one JSON file and one log per machine in a directory. */
export type Store = {
  load(): Machine[]
  save(machine: Machine): void
  remove(id: string): void
  log_path(id: string): string
}

/** Opens the directory, made if absent and readable by its owner only: records hold the machines' secrets. */
export function openStore(dir: string): Store {
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const path = (id: string) => join(dir, `${id}.json`)
  return {
    load() {
      const names = readdirSync(dir).filter((name) => /^[0-9a-f]{14}\.json$/.test(name))
      return names.flatMap((name) => {
        try {
          return [JSON.parse(readFileSync(join(dir, name), 'utf8')) as Machine]
        } catch {
          return [] // a disk that was full: the machine is forgotten rather than the start refused
        }
      })
    },
    save(machine) {
      // Written aside and renamed, so that a kill in between leaves the old record whole.
      const aside = `${path(machine.id)}.new`
      writeFileSync(aside, JSON.stringify(machine), { mode: 0o600 })
      renameSync(aside, path(machine.id))
    },
    remove(id) {
      rmSync(path(id), { force: true })
      rmSync(this.log_path(id), { force: true })
    },
    log_path: (id) => join(dir, `${id}.log`),
  }
}
