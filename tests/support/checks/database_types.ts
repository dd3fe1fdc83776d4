import { existsSync, readFileSync } from 'node:fs'
import { generateTypes, types_file } from '../../../src/local/types.ts'
import type { Check } from './check.ts'

export const database_types: Check = {
  name: 'src/database.types.ts is what the migrations give',
  async run() {
    const written = existsSync(types_file) ? readFileSync(types_file, 'utf8') : ''
    const generated = await generateTypes()
    if (written === generated) return []
    const lines = new Set(written.split('\n'))
    const first = generated.split('\n').find((line) => !lines.has(line))
    return [
      `It differs${first === undefined ? '' : `, first near "${first.trim()}"`}: npm run types writes it anew.`,
    ]
  },
}
