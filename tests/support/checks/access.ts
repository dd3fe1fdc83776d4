import { access_document, drawAccess } from '../access_document.ts'
import type { Check } from './check.ts'
import { readProjectFile } from './project_files.ts'

export const access: Check = {
  name: 'docs/security.md shows who may do what',
  async run() {
    const text = readProjectFile(access_document)
    return drawAccess(text) === text
      ? []
      : [`${access_document} differs: node tests/support/access_document.ts draws it anew.`]
  },
}
