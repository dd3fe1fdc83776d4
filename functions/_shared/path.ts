import { UUID } from './caller.ts'
import { type RefusalCode, refusal } from './errors.ts'

/** The id in a path, which is the first group of its form. What is no id is nobody's: `not_found` refuses it. */
export function idIn(path: string, form: RegExp, not_found: RefusalCode): string {
  const id = form.exec(path)?.[1] ?? ''
  if (!UUID.test(id)) throw refusal(not_found)
  return id
}
