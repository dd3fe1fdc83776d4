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
  const { apply, defineProperty, getPrototypeOf, ownKeys } = Reflect
  const { freeze } = Object
  const P = Promise
  const then = P.prototype.then
  const { String: text, Error: Fault } = globalThis

  const json = (value, what) => {
    const written = stringify(value)
    if (written === undefined) throw new TypeError(what + ' must be JSON.')
    return written
  }
  const tool = (name) => (...args) => {
    for (let i = 0; i < args.length; i++) if (args[i] === undefined) args[i] = null
    const sent = json(args, 'What ' + name + ' is given')
    return apply(then, call(name, sent), [(answer) => parse(answer)])
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
    call('console', stringify([level, line]))
  }
  give('console', { debug: write('debug'), log: write('info'), info: write('info'), warn: write('warn'), error: write('error') })

  const at = Date.parse(started)
  const RealDate = Date
  give('Clock', { now: () => started })
  class StillDate extends RealDate {
    constructor(...parts) { parts.length === 0 ? super(at) : super(...parts) }
    static now() { return at }
  }
  defineProperty(RealDate.prototype, 'constructor', { value: StillDate })
  defineProperty(globalThis, 'Date', { value: StillDate })
  defineProperty(Math, 'random', { value: () => { throw new Fault('A script has no randomness: make ids from your data.') } })

  const failure = (error) => {
    let message = 'The script threw something that is no error.'
    let stack = ''
    try {
      message = error instanceof Fault ? text(error.name) + ': ' + text(error.message) : 'The script threw ' + show(error)
      stack = error instanceof Fault ? text(error.stack) : ''
    } catch {}
    return stringify({ message, stack })
  }
  return {
    run: async (workflow, kind, name, phase, args) => {
      try {
        const handlers = workflow[kind][name]
        const value = await apply(handlers[phase], handlers, parse(args))
        return stringify({ value: value === undefined ? null : value })
      } catch (error) {
        return stringify({ failure: failure(error) })
      }
    },
    describe: (workflow) => {
      const shape = (value, depth) => {
        if (typeof value === 'function') return { type: 'function' }
        if (value === null || typeof value !== 'object') return { type: 'value', value }
        if (Array.isArray(value)) return { type: 'list', items: depth > 0 ? value.map((item) => shape(item, depth - 1)) : [] }
        const fields = []
        if (depth > 0) for (const key of ownKeys(value)) fields.push([text(key), shape(value[key], depth - 1)])
        return { type: 'object', fields }
      }
      return stringify(shape(workflow, 4))
    },
    failure,
  }
})()
`
