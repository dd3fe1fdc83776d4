import { createClient } from '@supabase/supabase-js'
import { type Connection, createRollcall } from '../../src/index.ts'

/** What the page has to tell the test. */
export const told: { seen: string[]; link: Connection[]; ended: boolean } = {
  seen: [],
  link: [],
  ended: false,
}

/** Watches a bot. */
export function start(settings: { url: string; key: string; token: string; bot_id: string }): void {
  const supabase = createClient(settings.url, settings.key, { accessToken: async () => settings.token })
  const rollcall = createRollcall(supabase)
  rollcall.onConnection((connection) => told.link.push(connection))
  void (async () => {
    for await (const { to } of rollcall.bots.watch(settings.bot_id)) told.seen.push(to)
    told.ended = true
  })()
}
