import type { SupabaseClient } from '@supabase/supabase-js'
import { type Bots, createBots } from './bots.ts'
import { type ChangesOptions, type ChangeWithCursor, changes } from './changes.ts'
import type { Connection } from './connection.ts'
import { createFlows, type Flows } from './flows.ts'
import { hubOf } from './hub.ts'
import { createWebhooks, type Webhooks } from './webhooks.ts'
import { createWorkflows, type Workflows } from './workflows.ts'

export interface RollcallOptions {
  /** For whom a secret key acts; a signed-in user acts for themselves. */
  owner_id?: string
}

/** The client. It opens nothing by itself: a channel and timers exist while something is watched. */
export interface Rollcall {
  bots: Bots
  flows: Flows
  webhooks: Webhooks
  workflows: Workflows
  /**
   * All transitions of the caller's runs from a cursor on, exactly once, and then the new ones as they come. Keep
   * `cursor` of the last change that was handled, and go on with it as `after`.
   */
  changes(options?: ChangesOptions): AsyncIterableIterator<ChangeWithCursor>
  /** Tells how the link is: now, if something is watched, and at each change. Returns how to end that. */
  onConnection(listener: (connection: Connection) => void): () => void
}

/** A client of Rollcall for the user, or the secret key, of a Supabase client. */
export function createRollcall(supabase: SupabaseClient, { owner_id }: RollcallOptions = {}): Rollcall {
  const owner = owner_id?.toLowerCase()
  return {
    bots: createBots(supabase, owner),
    flows: createFlows(supabase, owner),
    webhooks: createWebhooks(supabase, owner),
    workflows: createWorkflows(supabase, owner),
    changes: (options = {}) => changes(supabase, owner, options),
    onConnection: (listener) => hubOf(supabase, owner).onConnection(listener),
  }
}
