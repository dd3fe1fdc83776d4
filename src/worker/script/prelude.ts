/**
 * What runs in the sandbox before the script: the tools over the one host function `__call(tool, json)`, a clock that
 * stands still, and the driver that calls a handler. It keeps its own JSON and Promise, whatever the script does to them.
 */
export const PRELUDE = `
'use strict';
(() => {
  const { stringify, parse } = JSON
  const call = globalThis.__call
  const started = globalThis.__started
  delete globalThis.__call
  delete globalThis.__started
  const { apply, construct, defineProperty, ownKeys } = Reflect
  const { freeze } = Object
  const { isArray } = Array
  const P = Promise
  const then = P.prototype.then
  const { String: text, Error: Fault } = globalThis

  const tool = (name) => (...args) => {
    for (let i = 0; i < args.length; i++) if (args[i] === undefined) args[i] = null
    let sent
    // What is no JSON is for the host to refuse, like whatever else a tool can not be given.
    try { sent = stringify(args) } catch {}
    return apply(then, call(name, sent ?? ''), [(answer) => parse(answer)])
  }
  const give = (name, value) => defineProperty(globalThis, name, { value: freeze(value), enumerable: true })

  give('Topics', { peek: tool('Topics.peek'), publish: tool('Topics.publish') })
  give('Http', { get: tool('Http.get'), send: tool('Http.send') })
  give('User', { send: tool('User.send') })
  const show = (value) => {
    if (typeof value === 'string') return value
    if (value instanceof Fault) return text(value)
    try { return stringify(value) ?? text(value) } catch { return 'something that can not be shown' }
  }
  const write = (level) => (...values) => {
    let line = ''
    for (let i = 0; i < values.length; i++) line += (i === 0 ? '' : ' ') + show(values[i])
    call('console.' + level, line)
  }
  give('console', { debug: write('debug'), log: write('info'), info: write('info'), warn: write('warn'), error: write('error') })

  // There for a strict script to set.
  defineProperty(globalThis, 'workflow', { value: undefined, writable: true, configurable: true })

  const at = Date.parse(started)
  const RealDate = Date
  give('Clock', { now: () => started })
  // No subclass: what it extends would be in reach.
  function StillDate(...parts) {
    if (new.target === undefined) return text(new RealDate(at))
    return construct(RealDate, parts.length === 0 ? [at] : parts, new.target)
  }
  defineProperty(StillDate, 'name', { value: 'Date' })
  defineProperty(StillDate, 'prototype', { value: RealDate.prototype, writable: false })
  defineProperty(StillDate, 'now', { value: () => at })
  defineProperty(StillDate, 'parse', { value: RealDate.parse })
  defineProperty(StillDate, 'UTC', { value: RealDate.UTC })
  defineProperty(RealDate.prototype, 'constructor', { value: StillDate })
  defineProperty(globalThis, 'Date', { value: StillDate })
  defineProperty(Math, 'random', { value: () => { throw new Fault('A script has no randomness: make ids from your data.') } })

  // Put together by hand: a toJSON of the script has its say about what lies in its values, and about nothing else.
  const failure = (error) => {
    let message = 'The script threw something that is no error.'
    let stack = ''
    try {
      message = error instanceof Fault ? text(error.name) + ': ' + text(error.message) : 'The script threw ' + text(show(error))
      stack = error instanceof Fault ? text(error.stack) : ''
    } catch {}
    return '{"message":' + stringify(message) + ',"stack":' + stringify(stack) + '}'
  }
  const shape = (value, depth) => {
    if (typeof value === 'function') return '{"type":"function"}'
    if (typeof value !== 'object' || value === null) {
      const plain = typeof value === 'bigint' || typeof value === 'symbol' ? null : value
      return plain === undefined ? '{"type":"value"}' : '{"type":"value","value":' + stringify(plain) + '}'
    }
    let inner = ''
    if (isArray(value)) {
      for (let i = 0; depth > 0 && i < value.length; i++) inner += (i === 0 ? '' : ',') + shape(value[i], depth - 1)
      return '{"type":"list","items":[' + inner + ']}'
    }
    const keys = depth > 0 ? ownKeys(value) : []
    for (let i = 0; i < keys.length; i++) {
      inner += (i === 0 ? '' : ',') + '[' + stringify(text(keys[i])) + ',' + shape(value[keys[i]], depth - 1) + ']'
    }
    return '{"type":"object","fields":[' + inner + ']}'
  }
  return {
    run: async (workflow, kind, name, phase, args) => {
      try {
        const handlers = workflow[kind][name]
        const value = await apply(handlers[phase], handlers, parse(args))
        return '{"value":' + (stringify(value) ?? 'null') + '}'
      } catch (error) {
        return '{"failure":' + failure(error) + '}'
      }
    },
    describe: (workflow) => shape(workflow, 4),
  }
})()
`
