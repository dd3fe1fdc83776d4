import { join } from 'node:path'

/** The root folder of the project: where package.json and supabase/ lie. */
export const project_dir = join(import.meta.dirname, '..', '..')
