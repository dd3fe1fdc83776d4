import type { SupabaseClient } from '@supabase/supabase-js'
import { fromFunction } from './errors.ts'

export interface FunctionCall {
  method?: 'GET' | 'POST' | 'PATCH' | 'DELETE'
  query?: Record<string, string | number | boolean | undefined>
  body?: Record<string, unknown>
  headers?: Record<string, string>
  signal?: AbortSignal | undefined
}

/**
 * Calls an edge function as the client's user or key.
 * @throws RollcallError, or the reason of the signal.
 */
export async function callFunction<T>(
  supabase: SupabaseClient,
  name: string,
  call: FunctionCall,
): Promise<T> {
  const { method = 'POST', query = {}, body, headers = {}, signal } = call
  signal?.throwIfAborted()
  const search = new URLSearchParams()
  for (const [key, value] of Object.entries(query)) if (value !== undefined) search.set(key, String(value))
  const path = [name, search.toString()].filter((part) => part !== '').join('?')
  const { data, error } = await supabase.functions.invoke<T>(path, {
    method,
    headers,
    ...(body && { body }),
    ...(signal && { signal }),
  })
  signal?.throwIfAborted()
  if (error) throw await fromFunction(error)
  return data as T
}
