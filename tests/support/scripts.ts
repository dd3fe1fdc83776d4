/** A script as the API takes it: one producer, one consumer that sends each of its events to a URL. */
export function sendingScript(url: string, { every = '1d', reconcile = false } = {}): string {
  return `
workflow = {
  topics: ['items'],
  producers: {
    make: {
      schedule: { interval: '${every}' },
      publishes: ['items'],
      async handler(state) {
        const n = (state?.n ?? 0) + 1
        await Topics.publish('items', { id: 'item-' + n, payload: { n } })
        return { n }
      },
    },
  },
  consumers: {
    send: {
      subscribe: ['items'],
      publishes: [],
      async prepare() {
        const [item] = await Topics.peek('items', { limit: 1 })
        return item ? { reservations: [{ topic: 'items', ids: [item.id] }], data: item.payload } : {}
      },
      async mutate({ data }) {
        await Http.send({ url: ${JSON.stringify(url)}, method: 'POST', body: data${
          reconcile ? `, reconcile: { url: ${JSON.stringify(url)} }` : ''
        } })
      },
      async next() {},
    },
  },
}
`
}

/** A script that does nothing, once a day. */
export const idle_script = `
workflow = {
  topics: [],
  producers: { rest: { schedule: { interval: '1d' }, publishes: [], async handler() {} } },
  consumers: {},
}
`
