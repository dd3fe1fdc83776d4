import { describe, expect, test } from 'vitest'
import { type PhaseRequest, runPhase } from '../../src/worker/script/run_phase.ts'
import { ScriptFailure } from '../../src/worker/script/script_failure.ts'

const started_at = '2026-03-01T12:00:00.000Z'

/** A script whose one producer and one consumer have these bodies. */
function scriptOf(bodies: { handler?: string; prepare?: string; mutate?: string; next?: string }): string {
  return `workflow = {
  topics: ['items'],
  producers: { poll: { schedule: { interval: '5m' }, publishes: ['items'], async handler(state) { ${bodies.handler ?? ''} } } },
  consumers: { send: {
    subscribe: ['items'],
    publishes: ['items'],
    async prepare(state) { ${bodies.prepare ?? ''} },
    async mutate(prepared) { ${bodies.mutate ?? ''} },
    async next(prepared, result) { ${bodies.next ?? ''} },
  } },
}`
}

type Bodies = Parameters<typeof scriptOf>[0]

function run(bodies: Bodies, more: Partial<PhaseRequest> = {}) {
  const [phase = 'handler'] = Object.keys(bodies) as PhaseRequest['phase'][]
  return runPhase({
    code: scriptOf(bodies),
    handler_type: phase === 'handler' ? 'producer' : 'consumer',
    handler_name: phase === 'handler' ? 'poll' : 'send',
    phase,
    args: [{}],
    config: { producers: { poll: { publishes: ['items'] } }, consumers: { send: { publishes: ['items'] } } },
    started_at,
    // Much, since a busy machine makes everything take longer.
    cpu_ms: 10_000,
    wall_ms: 20_000,
    signal: new AbortController().signal,
    tools: {},
    ...more,
  })
}

async function failureOf(work: Promise<unknown>): Promise<ScriptFailure> {
  const outcome = await work.then(
    (value) => new Error(`It gave ${JSON.stringify(value)}`),
    (error: unknown) => error,
  )
  if (outcome instanceof ScriptFailure) return outcome
  throw outcome
}

describe('a phase', () => {
  test('is given JSON and gives JSON', async () => {
    const { value } = await run(
      { handler: 'return { n: state.n + 1, at: Clock.now() }' },
      { args: [{ n: 1 }] },
    )
    expect(value).toEqual({ n: 2, at: started_at })
  })

  test('that returns nothing gives null', async () => {
    expect((await run({ handler: '' })).value).toBeNull()
  })

  test('publishes and speaks to the user, and neither leaves it', async () => {
    const { publications, messages } = await run({
      next: `await Topics.publish('items', { id: 'a', payload: { x: 1 } }); await User.send('done')`,
    })
    expect(publications).toEqual([{ topic: 'items', message_id: 'a', payload: { x: 1 } }])
    expect(messages).toEqual(['done'])
  })

  test('logs with level and text, at most 64 KB', async () => {
    const { logs } = await run({
      handler: `console.warn('a', { b: 1 }, new Error('c')); for (let i = 0; i < 20; i++) console.log('x'.repeat(10000))`,
    })
    expect(logs[0]).toMatchObject({ level: 'warn', text: 'a {"b":1} Error: c' })
    expect(logs.reduce((sum, { text }) => sum + text.length, 0)).toBeLessThan(66_000)
    expect(logs.at(-1)?.text).toContain('the rest is not kept')
    const { logs: empty } = await run({ handler: `for (let i = 0; i < 3000; i++) console.log('')` })
    expect(empty.length).toBeLessThan(1100)
  })

  test('waits for its turn without losing time of its own', async () => {
    const get = () => new Promise((done) => setTimeout(done, 300, {}))
    const slow = run({ handler: `await Http.get('a')` }, { tools: { get } })
    const quick = run({ handler: 'return 1' }, { wall_ms: 100 })
    await slow
    expect((await quick).value).toBe(1)
  })

  test('calls eight services at a time, and goes on with the others', async () => {
    let open = 0
    let most = 0
    const get = async () => {
      most = Math.max(most, ++open)
      await new Promise((done) => setTimeout(done, 1))
      open--
      return {}
    }
    const handler = `const all = []; for (let i = 0; i < 50; i++) all.push(Http.get('a')); return (await Promise.all(all)).length`
    expect((await run({ handler }, { tools: { get } })).value).toBe(50)
    expect(most).toBe(8)
  })

  test('waits for what it has sent, also where the script breaks its sandbox meanwhile', async () => {
    let ended = false
    const send = async () => {
      await new Promise((done) => setTimeout(done, 50))
      ended = true
      return {}
    }
    const mutate = `Http.send({ url: 'a' }); const all = []; for (;;) all.push(new Uint8Array(1e6))`
    await failureOf(run({ mutate }, { tools: { send } }))
    expect(ended).toBe(true)
  })

  test('knows no time but that of its start, and no randomness', async () => {
    const { value } = await run({
      handler: 'return [Date.now(), new Date().toISOString(), new Date(0).getTime()]',
    })
    expect(value).toEqual([Date.parse(started_at), started_at, 0])
    expect((await failureOf(run({ handler: 'Math.random()' }))).message).toContain('no randomness')
  })

  test('ends when every call that it made has ended, awaited or not', async () => {
    let ended = 0
    const get = async () => {
      await new Promise((done) => setTimeout(done, 20))
      ended++
      return {}
    }
    await run({ handler: `Http.get('a'); Http.get('b'); return 1` }, { tools: { get } })
    expect(ended).toBe(2)
  })

  test('ends with the class of a tool that failed, even if the script catches it', async () => {
    const get = async () => {
      throw new ScriptFailure('auth', 'The token has expired.')
    }
    const failure = await failureOf(
      run(
        { handler: `console.log('before'); try { await Http.get('a') } catch {} return 1` },
        { tools: { get } },
      ),
    )
    expect(failure).toMatchObject({ error_class: 'auth', message: 'The token has expired.' })
    expect(failure.logs.map(({ text }) => text)).toEqual(['before'])
  })

  test('sends once', async () => {
    let sent = 0
    const send = async () => {
      sent++
      return { status: 200 }
    }
    const failure = await failureOf(
      run(
        { mutate: `await Http.send({ url: 'a' }); try { await Http.send({ url: 'b' }) } catch {}` },
        { tools: { send } },
      ),
    )
    expect(failure.error_class).toBe('logic')
    expect(sent).toBe(1)
  })

  test('says where a script is wrong', async () => {
    const failure = await failureOf(run({ handler: '\n\nnull.x' }))
    expect(failure).toMatchObject({ error_class: 'logic' })
    expect(failure.message).toMatch(/TypeError: .*\(line 5\)/)
  })

  test('is broken off by its signal', async () => {
    const stop = new AbortController()
    const get = () =>
      new Promise<never>((_, fail) => stop.signal.addEventListener('abort', () => fail(stop.signal.reason)))
    const work = run({ handler: `await Http.get('a')` }, { tools: { get }, signal: stop.signal })
    stop.abort(new Error('lost'))
    await expect(work).rejects.toThrow('lost')
  })

  test('takes at most its time, waiting included', async () => {
    const get = () => new Promise<never>(() => {})
    const failure = await failureOf(run({ handler: `await Http.get('a')` }, { tools: { get }, wall_ms: 100 }))
    expect(failure).toMatchObject({ error_class: 'logic', message: 'handler() took more than 0.1 s.' })
  })

  const tools = { get: async () => ({}), peek: async () => [], send: async () => ({ status: 200 }) }
  const calls = {
    'Http.get': `await Http.get('https://example.com')`,
    'Http.send': `await Http.send({ url: 'https://example.com', method: 'POST' })`,
    'Topics.peek': `await Topics.peek('items')`,
    'Topics.publish': `await Topics.publish('items', { id: 'a', payload: 1 })`,
    'User.send': `await User.send('hello')`,
  }
  const allowed: Record<string, string[]> = {
    handler: ['Http.get', 'Topics.publish', 'User.send'],
    prepare: ['Http.get', 'Topics.peek'],
    mutate: ['Http.send'],
    next: ['Topics.publish', 'User.send'],
  }
  for (const [phase, may] of Object.entries(allowed)) {
    for (const [tool, call] of Object.entries(calls)) {
      test(`${phase} may ${may.includes(tool) ? '' : 'not '}use ${tool}`, async () => {
        const work = run({ [phase]: `try { ${call} } catch {}` }, { tools })
        if (may.includes(tool)) await work
        else
          expect(await failureOf(work)).toMatchObject({
            error_class: 'logic',
            message: expect.stringContaining(tool),
          })
      })
    }
  }
})

/** Bodies of a handler that mean harm, and what is said of them. */
const hostile: [string, string, RegExp][] = [
  ['an endless loop', 'for (;;) {}', /more than 0.3 s of CPU/],
  [
    'a loop of microtasks',
    'const again = () => Promise.resolve().then(again); await again()',
    /more than 0.3 s of CPU/,
  ],
  ['a regular expression that explodes', `/(a+)+$/.test('a'.repeat(40) + 'b')`, /more than 0.3 s of CPU/],
  ['an endless getter of what it returns', 'return { get a() { for (;;) {} } }', /more than 0.3 s of CPU/],
  ['an endless getter of what it throws', 'throw { get message() { for (;;) {} } }', /0.3 s of CPU|threw/],
  ['an endless proxy', 'return new Proxy({}, { ownKeys() { for (;;) {} } })', /more than 0.3 s of CPU/],
  [
    'an endless toJSON',
    'Object.prototype.toJSON = () => { for (;;) {} }; return {}',
    /more than 0.3 s of CPU/,
  ],
  ['an endless then', 'return { then() { for (;;) {} } }', /more than 0.3 s of CPU/],
  ['a catch of its own end', 'for (;;) { try { for (;;) {} } catch {} }', /more than 0.3 s of CPU/],
  ['a memory bomb of bytes', 'const all = []; for (;;) all.push(new Uint8Array(1e6))', /more than 64 MB|CPU/],
  [
    'a memory bomb of lists',
    'const all = []; for (;;) all.push(new Array(1e5).fill(1))',
    /more than 64 MB|CPU/,
  ],
  ['a string that doubles', `let s = 'x'; for (;;) s += s`, /string too long|64 MB/],
  ['deep recursion', 'const deep = () => [1].map(deep); deep()', /stack overflow/],
  ['a result of 2 MB', `return 'x'.repeat(2e6)`, /more than 1 MB/],
  ['a promise that never comes', 'await new Promise(() => {})', /never comes/],
  ['an import', `await import('node:fs')`, /could not load module/],
  ['a flood of large lines', `for (;;) console.log('x'.repeat(9e5))`, /more than 0.3 s of CPU/],
  ['steps that take long', 'const a = new Uint32Array(1e7); for (;;) a.fill(1)', /more than 0.3 s of CPU/],
  [
    'memory that leaves no room for an answer',
    `const all = []; try { for (;;) all.push('x'.repeat(2e5) + all.length) } catch {}
     all.pop(); await Http.get('large')`,
    /more than 64 MB|CPU/,
  ],
  [
    'memory that leaves no room for a call',
    'for (;;) Http.get("a").catch(() => {})',
    /more than 64 MB|out of memory|CPU|no JSON|at most 1000/,
  ],
  ['calls that are awaited when the time is up', `for (;;) await Http.get('a')`, /CPU|at most 1000/],
  ['2 MB for a tool, caught', `try { await Http.get('x'.repeat(2e6)) } catch {}`, /more than 1 MB/],
  ['a circle for a tool, caught', `const a = {}; a.a = a; try { await Http.get(a) } catch {}`, /no JSON/],
  ['a forged list of arguments', 'Array.prototype.toJSON = () => 5; await Http.get("a")', /no JSON/],
  ['a thrown forgery', `Object.prototype.toJSON = () => null; throw new Error('mine')`, /Error: mine/],
  ['a thrown null', 'throw null', /threw null/],
  ['a timer', 'setTimeout(() => {}, 1)', /setTimeout/],
  ['fetch', `await fetch('https://example.com')`, /fetch/],
  ['the process', 'process.exit(1)', /process/],
  ['a topic that is not declared', `await Topics.publish('others', { id: 'a' })`, /publishes does not name/],
  [
    'a payload of 100 KB',
    `await Topics.publish('items', { id: 'a', payload: 'x'.repeat(1e5) })`,
    /at most 64 KB/,
  ],
  ['2 MB for a tool', `await Http.get('x'.repeat(2e6))`, /more than 1 MB/],
  [
    'a flood of events',
    `for (let i = 0; i < 2000; i++) await Topics.publish('items', { id: String(i) })`,
    /at most 1000|CPU/,
  ],
]

describe('a hostile script', () => {
  test.each(hostile)('with %s ends as wrong, and the next one runs', async (_what, body, complaint) => {
    const prototypes = [Object.prototype, Array.prototype, Promise.prototype, Function.prototype]
    const before = prototypes.map((prototype) => Reflect.ownKeys(prototype))
    const get = async ({ url }: Record<string, unknown>) => (url === 'large' ? 'y'.repeat(1e6) : {})
    // Little only where the time is what ends it.
    const cpu_ms = complaint.source.includes('0.3 s of CPU') ? 300 : 10_000
    const failure = await failureOf(run({ handler: body }, { tools: { get }, cpu_ms }))
    expect(failure.error_class).toBe('logic')
    expect(failure.message).toMatch(complaint)
    expect(prototypes.map((prototype) => Reflect.ownKeys(prototype))).toEqual(before)
    expect((await run({ handler: 'return 1' })).value).toBe(1)
  })

  test('that replaces what it runs on changes nothing for us', async () => {
    const { value, publications } = await run({
      handler: `
        JSON.stringify = () => 'evil'; JSON.parse = () => 'evil'; Promise.prototype.then = () => 'evil'
        Array.prototype.map = () => 'evil'; Object.freeze = () => 'evil'; globalThis.Topics = null
        Reflect.apply = () => 'evil'
        Topics.publish('items', { id: 'a', payload: 1 })
        return { fine: true }`,
    })
    expect(value).toEqual({ fine: true })
    expect(publications).toHaveLength(1)
  })

  test('that forges JSON forges what it says, and nothing else', async () => {
    const forge = (forged: string) =>
      run({ handler: `Object.prototype.toJSON = () => (${forged}); return {}` })
    for (const forged of ['null', '5', '{ failure: "x" }']) {
      expect((await forge(forged)).value, forged).toEqual(JSON.parse(forged.replace(/(\w+):/g, '"$1":')))
    }
    const { logs } = await run({
      handler: `Array.prototype.toJSON = () => ['info', {}]; console.log('a'); console.log('b'.repeat(1e5)); console.log('c')`,
    })
    expect(logs.map(({ text }) => text.length)).toEqual([1, expect.any(Number)])
    expect(logs[1]?.text.length).toBeLessThan(66_000)
  })

  test('finds no clock, wherever it looks', async () => {
    const { value } = await run({
      handler: `
        const near = [Date, Date.prototype.constructor, Object.getPrototypeOf(Date), (new Date(0)).constructor]
        const times = [Date(), new Date().toString(), Reflect.construct(Date, []).toString()]
        for (const one of near) { try { times.push(new one().toString()) } catch {} }
        return { times: [...new Set(times)], is_date: new Date(5) instanceof Date, more: typeof performance, utc: Date.UTC(1970, 0), parsed: Date.parse('1970-01-01') }`,
    })
    expect(value).toEqual({
      times: [expect.stringContaining('Mar 01 2026 12:00:00')],
      is_date: true,
      more: 'undefined',
      utc: 0,
      parsed: 0,
    })
  })

  test('finds nothing of its host, however it asks', async () => {
    const { value } = await run(
      {
        handler: `
        const found = ['__call', '__started', 'require', 'Deno', 'process', 'fetch', 'WebAssembly'].filter((name) => name in globalThis)
        const outer = (async () => {}).constructor('return typeof process')
        return { found, outer: await outer(), proto: ({}).__proto__ === Object.prototype, own: Object.keys(state) }`,
      },
      { args: [JSON.parse('{"__proto__": {"evil": 1}, "a": 1}')] },
    )
    expect(value).toEqual({ found: [], outer: 'undefined', proto: true, own: ['__proto__', 'a'] })
    expect(({} as Record<string, unknown>).evil).toBeUndefined()
  })

  test('200 phases leave nothing behind', async () => {
    const work = () =>
      run({ handler: 'const all = []; for (let i = 0; i < 1000; i++) all.push({ i }); return 1' })
    for (let i = 0; i < 20; i++) await work()
    const before = process.memoryUsage().rss
    for (let i = 0; i < 200; i++) await work()
    expect((process.memoryUsage().rss - before) / 1e6).toBeLessThan(60)
  })
})
