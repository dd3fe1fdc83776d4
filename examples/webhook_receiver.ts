import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook, WebhookVerificationError } from 'standardwebhooks'

// A backend that hears of bots over HTTP: node examples/webhook_receiver.ts
// WEBHOOK_SECRET is the whsec_... that creating the endpoint has shown; docs/webhooks.md tells the rest.

const secret = process.env.WEBHOOK_SECRET
if (!secret) {
  console.error('Set WEBHOOK_SECRET to the secret that creating the endpoint has shown (whsec_...).')
  process.exit(1)
}
const webhook = new Webhook(secret)

interface Payload {
  type: string
  data: { event: { subject_id: string; from_status: string | null; to_status: string } }
}

/** Deliveries come at least once: the same id is the same news. A real backend keeps them where it keeps its data. */
const heard = new Set<string>()

const server = createServer(async (request, response) => {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  // The bytes that came, not JSON that was parsed and written again: they are what is signed.
  const body = Buffer.concat(chunks).toString()
  const headers = Object.fromEntries(
    Object.entries(request.headers).map(([name, value]) => [name, String(value)]),
  )
  let payload: Payload
  try {
    payload = webhook.verify(body, headers) as Payload
  } catch (error) {
    if (!(error instanceof WebhookVerificationError)) throw error
    console.log(`refused: ${error.message}`)
    response.writeHead(401).end()
    return
  }
  // Answer first, work later: whoever takes longer than 10 s hears the same again.
  response.writeHead(204).end()

  const id = headers['webhook-id'] ?? ''
  if (heard.has(id)) return
  heard.add(id)
  const { subject_id, from_status, to_status } = payload.data.event
  console.log(`${payload.type}: ${subject_id} went from ${from_status ?? 'nothing'} to ${to_status}`)
})

server.listen(Number(process.env.PORT ?? 8787), () => {
  console.log(`Listening on http://127.0.0.1:${(server.address() as AddressInfo).port}/`)
})
