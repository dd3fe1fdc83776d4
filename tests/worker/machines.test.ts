import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createMachines, type Machines, MachinesError } from '../../src/worker/machines.ts'
import { type FaultMachines, startFaultMachines } from '../support/fault_machines.ts'

let api: FaultMachines
let pauses: number[]
let machines: Machines

beforeEach(async () => {
  api = await startFaultMachines()
  pauses = []
  machines = createMachines(
    { api_url: api.url, token: 'fly-token', app: 'bots', image: 'bot:1', cpus: 2, memory_mb: 512 },
    {
      pause: async (ms) => {
        pauses.push(ms)
      },
    },
  )
})

afterEach(() => api.close())

function order(bot_id = randomUUID()) {
  return { bot_id, name: `bot-${bot_id.slice(0, 8)}-1`, env: async () => ({ A: 'b' }), look_first: false }
}

const creations = () => api.requests.filter(({ method }) => method === 'POST')

async function failure(work: Promise<unknown>): Promise<MachinesError> {
  const error = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  )
  expect(error).toBeInstanceOf(MachinesError)
  return error as MachinesError
}

describe('a machine is created', () => {
  test('once, with the label of its bot, and never restarts', async () => {
    const { bot_id, ...rest } = order()
    const machine = await machines.create({ bot_id, ...rest })
    expect(machine.state).toBe('started')
    const [request] = creations()
    expect(request?.path).toBe('/v1/apps/bots/machines')
    expect(request?.authorization).toBe('Bearer fly-token')
    expect(request?.body).toEqual({
      name: rest.name,
      config: {
        image: 'bot:1',
        env: { A: 'b' },
        metadata: { rollcall_bot_id: bot_id, rollcall: 'bot' },
        guest: { cpu_kind: 'shared', cpus: 2, memory_mb: 512 },
        auto_destroy: true,
        restart: { policy: 'no' },
      },
    })
    expect(pauses).toEqual([])
  })

  test('after 429 and 5xx, with pauses that double, 20 % more or less', async () => {
    api.creations = [{ status: 503 }, { status: 429 }]
    await machines.create(order())
    expect(creations()).toHaveLength(3)
    expect(api.machines).toHaveLength(1)
    const [first = 0, second = 0] = pauses
    expect(first).toBeGreaterThanOrEqual(1600)
    expect(first).toBeLessThanOrEqual(2400)
    expect(second).toBeGreaterThanOrEqual(3200)
    expect(second).toBeLessThanOrEqual(4800)
  })

  test('not before the Retry-After, as far as that is within 30 s', async () => {
    api.creations = [
      { status: 429, retry_after: 7 },
      { status: 429, retry_after: 3600 },
    ]
    await machines.create(order())
    expect(pauses).toEqual([7000, 30_000])
  })

  test('once though the answer to the first attempt was lost', async () => {
    api.creations = ['answer_lost']
    const machine = await machines.create(order())
    expect(api.machines).toHaveLength(1)
    expect(machine.id).toBe(api.machines[0]?.id)
    expect(creations()).toHaveLength(1)
  })

  test('once though the answer to the last attempt was lost', async () => {
    api.creations = [{ status: 500 }, { status: 500 }, 'answer_lost']
    const machine = await machines.create(order())
    expect(machine.id).toBe(api.machines[0]?.id)
  })

  test('once though its answer was garbage', async () => {
    api.creations = ['garbage', 'cut']
    await machines.create(order())
    expect(api.machines).toHaveLength(1)
  })

  test('not at all after three refusals: the error tells how many and the last status', async () => {
    api.creations = [{ status: 500 }, { status: 502 }, { status: 503 }]
    const error = await failure(machines.create(order()))
    expect(error).toMatchObject({ attempts: 3, status: 503 })
    expect(error.message).toContain('told to fail')
  })

  test('with one attempt where another would be refused alike', async () => {
    api.creations = [{ status: 422 }]
    const error = await failure(machines.create(order()))
    expect(error).toMatchObject({ attempts: 1, status: 422, retryable: false })
    expect(pauses).toEqual([])
  })

  test('not again when an earlier worker has made it', async () => {
    const first = order()
    const made = await machines.create(first)
    const again = await machines.create({
      ...first,
      look_first: true,
      env: () => Promise.reject(new Error('no environment is needed')),
    })
    expect(again.id).toBe(made.id)
    expect(api.machines).toHaveLength(1)
  })
})

describe('a machine', () => {
  test('is found by its label until it is destroyed', async () => {
    const first = order()
    const made = await machines.create(first)
    await machines.create(order())
    expect((await machines.find(first.bot_id))?.id).toBe(made.id)
    expect(await machines.list()).toHaveLength(2)
    expect(await machines.destroy(made.id)).toBe(true)
    expect(await machines.find(first.bot_id)).toBeNull()
  })

  test('that the API does not know is null, and can neither be stopped nor destroyed', async () => {
    expect(await machines.get('unknown')).toBeNull()
    expect(await machines.stop('unknown', 30)).toBe(false)
    expect(await machines.destroy('unknown')).toBe(false)
  })

  test('is waited for, and what it never becomes is false', async () => {
    const made = await machines.create(order())
    expect(await machines.wait(made.id, 'started', 1)).toBe(true)
    expect(await machines.wait(made.id, 'destroyed', 1)).toBe(false)
    expect(await machines.wait('unknown', 'started', 1)).toBe(false)
  })

  test('is stopped with SIGTERM and its grace', async () => {
    const made = await machines.create(order())
    expect(await machines.stop(made.id, 30)).toBe(true)
    expect(api.requests.at(-1)?.body).toEqual({ signal: 'SIGTERM', timeout: '30s' })
  })

  test('of an API that is away is an error, never null', async () => {
    api.always = { status: 503 }
    expect(await failure(machines.get('m000001'))).toMatchObject({ status: 503, retryable: true })
    await api.close()
    expect(await failure(machines.find(randomUUID()))).toMatchObject({ status: null, retryable: true })
    api = await startFaultMachines()
  })
})
