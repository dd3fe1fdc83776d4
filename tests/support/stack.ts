import { randomUUID } from 'node:crypto'
import { createClient, type SupabaseClient } from '@supabase/supabase-js'
import { inject } from 'vitest'
import type { Stack } from '../../src/local/stack.ts'

/** A running stack without the means to stop it: what a test needs to reach it. */
export type StackAddress = Omit<Stack, 'stop'>

export type SignedUpUser = {
  client: SupabaseClient
  user_id: string
  email: string
  password: string
  access_token: string
}

/**
 * The stack of this test run: this project's migrations and functions, a temporary directory, random ports. It
 * starts with the first test that asks; tests share it, so each brings users of its own.
 */
export async function sharedStack(): Promise<StackAddress> {
  const response = await fetch(inject('stack_starter'))
  if (!response.ok) throw new Error(await response.text())
  return (await response.json()) as StackAddress
}

/** A client with the publishable key that keeps its session in memory. */
export function anonymous(stack: Pick<StackAddress, 'api_url' | 'publishable_key'>): SupabaseClient {
  return createClient(stack.api_url, stack.publishable_key, in_memory)
}

/** A client with the secret key. */
export function admin(stack: Pick<StackAddress, 'api_url' | 'secret_key'>): SupabaseClient {
  return createClient(stack.api_url, stack.secret_key, in_memory)
}

/** A client of a user who has just signed up. */
export async function signUp(
  stack: Pick<StackAddress, 'api_url' | 'publishable_key'>,
  email = `user-${randomUUID()}@example.com`,
): Promise<SignedUpUser> {
  const client = anonymous(stack)
  const password = randomUUID()
  const { data, error } = await client.auth.signUp({ email, password })
  if (error) throw error
  if (!data.session || !data.user) throw new Error('the sign-up brought no session')
  return { client, user_id: data.user.id, email, password, access_token: data.session.access_token }
}

const in_memory = { auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false } }
