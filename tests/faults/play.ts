import { random } from '../support/random.ts'
import type { Called, Caller, Json, World } from './world.ts'

/** What a move has to play with: a connection, and dice that fall the same way for the same number. */
export interface Play {
  world: World
  call: Caller['call']
  /** Below 1. */
  dice(): number
  pick<T>(from: readonly T[]): T
  /** One of a list, rather a recent one; undefined where there is none. */
  recent<T>(from: readonly T[]): T | undefined
}

/** A move makes one call, or a few; it knows what came of those before it. */
export type Moves = Record<string, (play: Play) => Promise<unknown>>

/** One part of the project: what it starts from, and what can be done. */
export interface Part {
  moves: Moves
  /** The moves that are made more often than others. */
  often: string[]
}

/** A move of a plan, made by one of the connections. */
export interface Move {
  name: string
  dice: number
  by: number
}

export function playing(world: World, { dice: number, by }: Move): Play {
  const dice = random(`${number}`)
  const caller = world.callers[by % world.callers.length] as Caller
  return {
    world,
    call: caller.call,
    dice,
    pick: (from) => from[Math.floor(dice() * from.length)] as never,
    recent: (from) => from[Math.floor((1 - dice() ** 3) * from.length)],
  }
}

/** The answer of a call that was not refused. */
export const accepted = (called: Called): Json => (called.answer?.ok === false ? null : called.answer)

/** Sweeps, and time that passes. */
export const time_moves: Moves = {
  sweep: ({ call }) => call('lifecycle.sweep', {}),
  async advance({ world, pick }) {
    world.advance(pick([0.2, 1, 1, 5, 5, 20, 31, 61, 61, 130, 320, 700, 4_000, 90_000]))
  },
}
