/** What an agent is taught about scripts: all that it knows of them. */
export const SCRIPT_GUIDE = `A script is plain JavaScript (no modules, no imports, no require, no fetch, no timers, no Date.now() as a clock, no Math.random).
It runs in a sandbox and sets one global, "workflow":

workflow = {
  topics: ["name", ...],              // every topic that is published or subscribed to
  producers: { name: { schedule, publishes: [topic], handler } },
  consumers: { name: { subscribe: [topic], publishes: [topic], prepare, mutate, next } },
}

Rules
- A producer finds something out and publishes an event for each thing to be done. "schedule" is { interval: "5m" } (a whole number and
  s, m, h or d) or { cron: "0 9 * * 1-5" } (five fields, in the workflow's time zone).
- async handler(state) returns the new state: any JSON, {} at first. The same event id is published once: publish every item that
  you see, with an id that stays the same for the same item. Do not keep lists of ids in the state for that.
- Each topic is consumed by exactly one consumer.
- A consumer run goes prepare, mutate, next. One run does one side effect.
- async prepare(state) looks at the pending events and reserves those that this one run deals with. It returns
  { reservations: [{ topic, ids: [event id] }], data?, wakeAt? }. Reserve nothing if there is nothing to do. wakeAt (ISO string or ms):
  when to look again although no event comes.
- async mutate(prepared) makes exactly one Http.send, or none. "prepared" is what prepare returned, with "events": [{ topic, id, payload, attempt }].
  Leave mutate out where a consumer has no side effect.
- async next(prepared, result) returns the new state, and may publish. result is { status: "applied", result: { status, headers, body } },
  { status: "skipped" } (a person chose to leave it) or { status: "none" } (nothing was sent). Leave next out where it has nothing to do.
- A handler keeps nothing in variables between phases: each phase runs in a new sandbox.
- Do not catch errors of tools: a failed call ends its phase, and the system tries again, asks the owner or has the script fixed.

Tools (all async, all to be awaited)
- Topics.peek(topic, { limit }) -> [{ id, payload, attempt }]: pending events, oldest first. Only in prepare.
- Topics.publish(topic, { id, payload }): only in handler and next. payload is JSON of at most 64 KB.
- Http.get(url) or Http.get({ url, headers, query }) -> { status, headers, body }: only in handler and prepare. body is parsed if it is JSON.
- Http.send({ url, method, headers, body, reconcile }) -> { status, headers, body }: only in mutate. method is POST, PUT, PATCH or DELETE;
  body is JSON. The header Idempotency-Key is set. If the service can be asked whether a call with that key happened, give
  reconcile: { url }: it is asked with GET and the same Idempotency-Key header, and answers { "status": "applied", "result"? } or { "status": "failed" }.
- User.send(text): a message to the owner. Only in handler and next.
- Clock.now() -> the time at which the phase began, as an ISO string.
- console.log(...): everywhere; it helps whoever has to fix the script.
- Secrets: write {{secret.NAME}} in a header; it is filled in outside the sandbox. Never ask for the value of a secret, never put one
  into the code: name it, and tell the owner to set it.
- Only public https addresses can be reached. Answers other than 2xx make the call fail.

Example: tell a chat room about each new item of a feed.

workflow = {
  topics: ["items"],
  producers: {
    feed: {
      schedule: { interval: "10m" },
      publishes: ["items"],
      async handler(state) {
        const { body } = await Http.get("https://example.com/feed.json")
        for (const item of body.items) {
          await Topics.publish("items", { id: String(item.id), payload: { title: item.title, url: item.url } })
        }
        return { seen: body.items.length, at: Clock.now() }
      },
    },
  },
  consumers: {
    announce: {
      subscribe: ["items"],
      publishes: [],
      async prepare(state) {
        const [item] = await Topics.peek("items", { limit: 1 })
        if (!item) return {}
        return { reservations: [{ topic: "items", ids: [item.id] }], data: { text: item.payload.title + " " + item.payload.url } }
      },
      async mutate(prepared) {
        await Http.send({
          url: "https://chat.example.com/api/messages",
          method: "POST",
          headers: { authorization: "Bearer {{secret.CHAT_TOKEN}}" },
          body: { text: prepared.data.text },
        })
      },
      async next(prepared, result) {
        return { last: prepared.data.text }
      },
    },
  },
}`
