import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { listen, openRawSocket, subscribe, systemMessages } from '../support/realtime_channel.ts'
import {
  api_keys,
  type RealtimeServer,
  startRealtimeServer,
  startTestDatabase,
  type TestDatabase,
  userToken,
} from '../support/realtime_server.ts'

let db: TestDatabase
let server: RealtimeServer

const owner = '11111111-1111-4111-8111-111111111111'
const stranger = '22222222-2222-4222-8222-222222222222'
const topic = `user:${owner}`

beforeAll(async () => {
  db = await startTestDatabase()
  await db.owner.unsafe(`
    create policy "owners hear their topic" on realtime.messages for select to authenticated
      using (realtime.topic() = 'user:' || auth.uid()::text);
    create policy "members read rooms" on realtime.messages for select to authenticated
      using (realtime.topic() like 'room:%');
    create policy "members write rooms" on realtime.messages for insert to authenticated
      with check (realtime.topic() like 'room:%');
    create policy "guests hear halls but see nobody" on realtime.messages for select to authenticated
      using (realtime.topic() like 'hall:%' and extension = 'broadcast');
    create table public.things (id integer primary key, name text);
  `)
  server = await startRealtimeServer(db.superuser_url)
})

afterEach(() => {
  server.log.length = 0
})

afterAll(async () => {
  await server.close()
  await db.stop()
})

/** A client that already knows its token: private joins need it. */
async function signedIn(sub: string, seconds?: number) {
  const client = server.client()
  await client.realtime.setAuth(await userToken(sub, seconds))
  return client
}

async function send(event: string, payload: object, to = topic, is_private = true) {
  await db.owner`select realtime.send(${db.owner.json(payload as never)}, ${event}, ${to}, ${is_private})`
}

describe('broadcast', () => {
  test('reaches everyone on a public channel but the sender', async () => {
    const [sender, receiver] = [server.client().channel('lobby'), server.client().channel('lobby')]
    const [own, heard] = [listen(sender), listen(receiver)]
    await Promise.all([subscribe(sender), subscribe(receiver)])
    await sender.send({ type: 'broadcast', event: 'greeting', payload: { text: 'grüß dich 👋' } })
    await vi.waitFor(() => expect(heard).toHaveLength(1))
    expect(heard[0]).toMatchObject({
      type: 'broadcast',
      event: 'greeting',
      payload: { text: 'grüß dich 👋' },
    })
    expect(own).toHaveLength(0)
  })

  test('comes back to a sender that asks for its own, and is acknowledged', async () => {
    const config = { broadcast: { self: true, ack: true } }
    const channel = server.client().channel('echo', { config })
    const heard = listen(channel)
    await subscribe(channel)
    expect(await channel.send({ type: 'broadcast', event: 'ping', payload: { n: 1 } })).toBe('ok')
    await vi.waitFor(() => expect(heard.map(({ payload }) => payload)).toEqual([{ n: 1 }]))
  })

  test('passes between protocol versions in both directions', async () => {
    const old = server.client(undefined, { vsn: '1.0.0' }).channel('mixed')
    const young = server.client(undefined, { vsn: '2.0.0' }).channel('mixed')
    const [heard_by_old, heard_by_young] = [listen(old), listen(young)]
    await Promise.all([subscribe(old), subscribe(young)])
    await old.send({ type: 'broadcast', event: 'from_old', payload: { n: 1 } })
    await young.send({ type: 'broadcast', event: 'from_young', payload: { n: 2 } })
    await vi.waitFor(() => expect(heard_by_young).toMatchObject([{ event: 'from_old', payload: { n: 1 } }]))
    await vi.waitFor(() => expect(heard_by_old).toMatchObject([{ event: 'from_young', payload: { n: 2 } }]))
  })

  test('carries bytes as they are, to clients that can take them', async () => {
    const [sender, receiver] = [server.client().channel('bytes'), server.client().channel('bytes')]
    const old = server.client(undefined, { vsn: '1.0.0' }).channel('bytes')
    const [heard, heard_by_old] = [listen(receiver), listen(old)]
    await Promise.all([subscribe(sender), subscribe(receiver), subscribe(old)])
    const { buffer } = Uint8Array.from([0, 1, 2, 255])
    await sender.send({ type: 'broadcast', event: 'blob', payload: buffer })
    await sender.send({ type: 'broadcast', event: 'after', payload: {} })
    await vi.waitFor(() => expect(heard).toHaveLength(2))
    expect([...new Uint8Array(heard[0]?.payload as unknown as ArrayBuffer)]).toEqual([0, 1, 2, 255])
    await vi.waitFor(() => expect(heard_by_old.map(({ event }) => event)).toEqual(['after']))
  })

  test('keeps public and private channels of one name apart', async () => {
    const open = server.client().channel('room:1')
    const client = await signedIn(owner)
    const closed = client.channel('room:1', { config: { private: true, broadcast: { self: true } } })
    const [heard_outside, heard_inside] = [listen(open), listen(closed)]
    await Promise.all([subscribe(open), subscribe(closed)])
    await closed.send({ type: 'broadcast', event: 'secret', payload: {} })
    await open.send({ type: 'broadcast', event: 'public', payload: {} })
    await vi.waitFor(() => expect(heard_inside.map(({ event }) => event)).toEqual(['secret']))
    await send('marker', {}, 'room:1', false)
    await vi.waitFor(() => expect(heard_outside.map(({ event }) => event)).toEqual(['marker']))
  })

  test('of a member without the right to write goes nowhere and is not acknowledged', async () => {
    const client = await signedIn(owner)
    const channel = client.channel(topic, { config: { private: true, broadcast: { self: true, ack: true } } })
    const heard = listen(channel)
    await subscribe(channel)
    const refused = await channel.send({ type: 'broadcast', event: 'nope', payload: {} }, { timeout: 200 })
    expect(refused).toBe('timed out')
    await send('marker', {})
    await vi.waitFor(() => expect(heard.map(({ event }) => event)).toEqual(['marker']))
  })
})

describe('a private channel', () => {
  test('lets its owner in and refuses a stranger, saying why', async () => {
    const mine = (await signedIn(owner)).channel(topic, { config: { private: true } })
    expect(await subscribe(mine)).toEqual({ status: 'SUBSCRIBED', reason: undefined })
    const theirs = (await signedIn(stranger)).channel(topic, { config: { private: true } })
    const reason = `Unauthorized: You do not have permissions to read from this Channel topic: ${topic}`
    expect(await subscribe(theirs)).toEqual({ status: 'CHANNEL_ERROR', reason })
    const anonymous = server.client().channel(topic, { config: { private: true } })
    expect(await subscribe(anonymous)).toEqual({ status: 'CHANNEL_ERROR', reason })
  })

  test('lets a secret key in whatever the policies say', async () => {
    const client = server.client(undefined, { key: api_keys.secret })
    const channel = client.channel('nobody:has:a:policy', {
      config: { private: true, broadcast: { ack: true } },
    })
    expect(await subscribe(channel)).toMatchObject({ status: 'SUBSCRIBED' })
    expect(await channel.send({ type: 'broadcast', event: 'x', payload: {} })).toBe('ok')
  })

  test('refuses tokens that are expired, forged or no tokens', async () => {
    const forged = (await userToken(owner)).replace(/.{4}$/, 'AAAA')
    const wrong: [string, string][] = [
      [await userToken(owner, -10), 'InvalidJWTToken: Token has expired 10 seconds ago'],
      [forged, 'JwtSignatureError: Failed to validate JWT signature'],
      ['nonsense', 'MalformedJWT: The token provided is not a valid JWT'],
    ]
    for (const [token, reason] of wrong) {
      const client = server.client()
      await client.realtime.setAuth(token)
      expect(await subscribe(client.channel('any'))).toEqual({ status: 'CHANNEL_ERROR', reason })
    }
  })

  test('can not be joined while today has no partition', async () => {
    await db.admin`select _realtime.lose_partition()`
    const client = await signedIn(owner)
    expect(await subscribe(client.channel(topic, { config: { private: true } }))).toEqual({
      status: 'CHANNEL_ERROR',
      reason: 'MissingPartition: Realtime was unable to find the expected messages partition',
    })
    await db.admin`select _realtime.maintain_partitions()`
  })

  test('stays open with a new token of its owner', async () => {
    const client = await signedIn(owner)
    const channel = client.channel(topic, { config: { private: true } })
    const heard = listen(channel)
    await subscribe(channel)
    await client.realtime.setAuth(await userToken(owner, 7200))
    await send('still_here', {})
    await vi.waitFor(() => expect(heard.map(({ event }) => event)).toEqual(['still_here']), 10_000)
  })

  test('closes, saying why, when a new token may not read it', async () => {
    const client = await signedIn(owner)
    const channel = client.channel(topic, { config: { private: true } })
    const said = systemMessages(channel)
    const statuses: string[] = []
    channel.subscribe((status) => statuses.push(status))
    await vi.waitFor(() => expect(statuses).toEqual(['SUBSCRIBED']))
    await client.realtime.setAuth(await userToken(stranger))
    await vi.waitFor(() => expect(statuses).toEqual(['SUBSCRIBED', 'CLOSED']))
    expect(said).toEqual([`You do not have permissions to read from this Channel topic: ${topic}`])
  })

  test('closes when its token expires', async () => {
    const client = await signedIn(owner, 2)
    const channel = client.channel(topic, { config: { private: true } })
    const said = systemMessages(channel)
    const statuses: string[] = []
    channel.subscribe((status) => statuses.push(status))
    await vi.waitFor(() => expect(statuses).toEqual(['SUBSCRIBED', 'CLOSED']), { timeout: 5000 })
    expect(said[0]).toMatch(/^Token has expired \d seconds ago$/)
  })

  test('outlives its first token when a later one came in time', async () => {
    const client = await signedIn(owner, 2)
    const channel = client.channel(topic, { config: { private: true } })
    const heard = listen(channel)
    await subscribe(channel)
    const first_token_ends = Date.now() + 2000
    await client.realtime.setAuth(await userToken(owner, 600))
    await vi.waitFor(() => expect(Date.now()).toBeGreaterThan(first_token_ends), { timeout: 5000 })
    await send('later', {})
    await vi.waitFor(() => expect(heard.map(({ event }) => event)).toEqual(['later']))
  })
})

describe('broadcast from the database', () => {
  async function ownerListens(config: object = {}) {
    const client = await signedIn(owner)
    const channel = client.channel(topic, { config: { private: true, ...config } })
    const heard = listen(channel)
    expect(await subscribe(channel)).toMatchObject({ status: 'SUBSCRIBED' })
    return heard
  }

  test('arrives after commit, in order, and a rolled-back transaction sends nothing', async () => {
    const heard = await ownerListens()
    await expect(
      db.owner.begin(async (tx) => {
        await tx`select realtime.send('{"n": 0}', 'change', ${topic})`
        throw new Error('changed my mind')
      }),
    ).rejects.toThrow('changed my mind')
    await db.owner.begin(async (tx) => {
      await tx`select realtime.send('{"n": 1}', 'change', ${topic})`
      await tx`select realtime.send('{"n": 2, "id": "mine"}', 'change', ${topic})`
    })
    await vi.waitFor(() => expect(heard.map(({ payload }) => payload.n)).toEqual([1, 2]))
    expect(heard[0]?.payload.id).toBe(heard[0]?.meta?.id)
    expect(heard[1]?.payload.id).toBe('mine')
  })

  test('finds its transaction visible to whoever reads on hearing it', async () => {
    const client = await signedIn(owner)
    const channel = client.channel(topic, { config: { private: true } })
    const found: Promise<number>[] = []
    channel.on('broadcast', { event: 'thing' }, ({ payload }) => {
      found.push(db.admin`select from public.things where id = ${payload.thing}`.then(({ count }) => count))
    })
    await subscribe(channel)
    const commit = (thing: number) =>
      db.owner.begin(async (tx) => {
        await tx`insert into public.things values (${thing}, 'thing')`
        await tx`select realtime.send(${tx.json({ thing })}, 'thing', ${topic})`
      })
    const commits: Promise<unknown>[] = []
    // A commit that waits for a standby is in the log, where the feed reads it, but not yet visible.
    await db.admin`alter system set synchronous_standby_names = 'nobody'`
    try {
      await db.admin`select pg_reload_conf()`
      // The setting reaches commits a moment later: go on until one waits.
      await vi.waitFor(async () => {
        commits.push(commit(commits.length + 1))
        const waiting = await db.admin`select from pg_stat_activity where wait_event = 'SyncRep'`
        expect(waiting.count).toBeGreaterThan(0)
      })
    } finally {
      await db.admin`alter system reset synchronous_standby_names`
      await db.admin`select pg_reload_conf()`
    }
    await Promise.all(commits)
    await vi.waitFor(() => expect(found).toHaveLength(commits.length))
    expect(await Promise.all(found)).toEqual(commits.map(() => 1))
  })

  test('carries numbers of any length and bytes', async () => {
    const heard = await ownerListens()
    await db.owner`select realtime.send('{"text": "12345678901234567890"}', 'number', ${topic})`
    await db.owner`select realtime.send_binary('\\x00ff10'::bytea, 'bytes', ${topic})`
    await vi.waitFor(() => expect(heard).toHaveLength(2))
    expect(heard[0]?.payload.text).toBe('12345678901234567890')
    expect([...new Uint8Array(heard[1]?.payload as unknown as ArrayBuffer)]).toEqual([0, 255, 16])
  })

  test('of row changes has the shape of the hosted one', async () => {
    const heard = await ownerListens()
    await db.owner.unsafe(`
      create function public.tell() returns trigger language plpgsql as $$
      begin
        perform realtime.broadcast_changes('${topic}', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
        return null;
      end $$;
      create trigger tell after insert or update on public.things for each row execute function public.tell();
    `)
    await db.owner`insert into public.things values (1000, 'a')`
    await db.owner`update public.things set name = 'b' where id = 1000`
    await db.owner`drop trigger tell on public.things`
    await vi.waitFor(() => expect(heard).toHaveLength(2))
    const base = { schema: 'public', table: 'things' }
    expect(heard[0]?.payload).toMatchObject({
      ...base,
      operation: 'INSERT',
      record: { name: 'a' },
      old_record: null,
    })
    expect(heard[1]?.payload).toMatchObject({ ...base, record: { name: 'b' }, old_record: { name: 'a' } })
  })

  test('never fails the transaction that sends', async () => {
    const heard = await ownerListens()
    await db.owner.begin(async (tx) => {
      await tx`select realtime.send('["no object"]', 'broken', ${topic})`
      await tx`insert into public.things values (2000, 'kept')`
    })
    await db.admin`select _realtime.lose_partition()`
    await db.owner.begin(async (tx) => {
      await tx`select realtime.send('{}', 'lost', ${topic})`
      await tx`insert into public.things values (2001, 'kept')`
    })
    await db.admin`select _realtime.maintain_partitions()`
    await send('marker', {})
    await vi.waitFor(() => expect(heard.map(({ event }) => event)).toEqual(['marker']))
    expect(await db.owner`select id from public.things where id >= 2000`).toHaveLength(2)
  })

  test('is replayed, the latest and oldest first, to who asks for it', async () => {
    const since = Date.now()
    for (const n of [1, 2, 3]) await send('earlier', { n })
    await db.owner`select realtime.send_binary('\\x07'::bytea, 'earlier_bytes', ${topic})`
    const heard = await ownerListens({ broadcast: { replay: { since, limit: 3 } } })
    await vi.waitFor(() => expect(heard).toHaveLength(3))
    expect(heard.map(({ event }) => event)).toEqual(['earlier', 'earlier', 'earlier_bytes'])
    expect(heard.map(({ payload }) => payload.n)).toEqual([2, 3, undefined])
    expect(heard.every(({ meta }) => meta?.replayed === true)).toBe(true)
    await send('live', {})
    await vi.waitFor(() => expect(heard).toHaveLength(4))
    expect(heard[3]?.meta).not.toHaveProperty('replayed')
  })

  test('says when it is ready to a channel that asks', async () => {
    const client = await signedIn(owner)
    const config = { private: true, broadcast: { replication_ready: true } }
    const channel = client.channel(topic, { config })
    const said = systemMessages(channel)
    await subscribe(channel)
    await vi.waitFor(() => expect(said).toEqual(['Replication connection established']))
  })

  test('comes back after Postgres restarts', async () => {
    const heard = await ownerListens()
    await db.restart()
    await vi.waitFor(
      async () => {
        await send('after_restart', {})
        expect(heard.length).toBeGreaterThan(0)
      },
      { timeout: 10_000, interval: 100 },
    )
    expect(heard[0]?.event).toBe('after_restart')
    const again = (await signedIn(owner)).channel(topic, { config: { private: true } })
    expect(await subscribe(again)).toMatchObject({ status: 'SUBSCRIBED' })
  })
})

describe('the HTTP API', () => {
  async function post(path: string, body: BodyInit, headers: Record<string, string> = {}) {
    const token = await userToken(owner)
    return fetch(`${server.api_url}/realtime/v1/api/broadcast${path}`, {
      method: 'POST',
      body,
      headers: {
        apikey: api_keys.publishable,
        authorization: `Bearer ${token}`,
        'content-type': 'application/json',
        ...headers,
      },
    })
  }
  const batch = (...messages: object[]) => JSON.stringify({ messages })

  test('sends a batch, and leaves out what the caller may not write', async () => {
    const open = server.client().channel('news')
    const closed = (await signedIn(owner)).channel(topic, { config: { private: true } })
    const [heard, heard_inside] = [listen(open), listen(closed)]
    await Promise.all([subscribe(open), subscribe(closed)])
    const answer = await post(
      '',
      batch(
        { topic: 'news', event: 'a', payload: { n: 1 } },
        { topic, event: 'forbidden', payload: {}, private: true },
        { topic: 'news', event: 'b', payload: { n: 2 } },
      ),
    )
    expect(answer.status).toBe(202)
    await vi.waitFor(() => expect(heard).toMatchObject([{ event: 'a', payload: { n: 1 } }, { event: 'b' }]))
    await send('marker', {})
    await vi.waitFor(() => expect(heard_inside.map(({ event }) => event)).toEqual(['marker']))
  })

  test('carries a send() before the join and httpSend(), JSON or bytes', async () => {
    const receiver = (await signedIn(owner)).channel('room:http', { config: { private: true } })
    const heard = listen(receiver)
    await subscribe(receiver)
    const sender = (await signedIn(stranger)).channel('room:http', { config: { private: true } })
    const warn = vi.spyOn(console, 'warn').mockImplementation(() => {})
    expect(await sender.send({ type: 'broadcast', event: 'batch', payload: { n: 1 } })).toBe('ok')
    warn.mockRestore()
    expect(await sender.httpSend('single event/é', { n: 2 })).toEqual({ success: true })
    expect(await sender.httpSend('bytes', Uint8Array.from([1, 2]))).toEqual({ success: true })
    await vi.waitFor(() => expect(heard).toHaveLength(3))
    expect(heard.map(({ event }) => event)).toEqual(['batch', 'single event/é', 'bytes'])
    expect([...new Uint8Array(heard[2]?.payload as unknown as ArrayBuffer)]).toEqual([1, 2])
  })

  test('says what is wrong with a request', async () => {
    const refused = (await signedIn(owner)).channel(topic, { config: { private: true } })
    await expect(refused.httpSend('x', {})).rejects.toThrow('Unauthorized')
    const no_key = await post('', batch({}), { authorization: '', apikey: 'sb_unknown' })
    expect([no_key.status, await no_key.json()]).toEqual([401, { message: 'Unauthorized' }])
    const blank = await post('', batch({ topic: 't', event: 'e', payload: {} }, { topic: 't' }))
    expect([blank.status, await blank.json()]).toEqual([
      422,
      { errors: { messages: [{}, { event: ["can't be blank"], payload: ["can't be blank"] }] } },
    ])
    const type = await post('/t/events/e', 'x', { 'content-type': 'text/plain' })
    expect(type.status).toBe(415)
  })
})

describe('presence', () => {
  test('tells who is there, who comes and who goes', async () => {
    const config = (key: string) => ({ config: { private: true, presence: { key } } })
    const ann = (await signedIn(owner)).channel('room:p', config('ann'))
    const bob_client = await signedIn(stranger)
    const bob = bob_client.channel('room:p', config('bob'))
    const events: string[] = []
    let syncs = 0
    ann.on('presence', { event: 'sync' }, () => {
      syncs += 1
    })
    ann.on('presence', { event: 'join' }, ({ key }) => events.push(`${key} joins`))
    ann.on('presence', { event: 'leave' }, ({ key }) => events.push(`${key} leaves`))
    await subscribe(ann)
    await vi.waitFor(() => expect(syncs).toBe(1))
    expect(await ann.track({ mood: 'fine' })).toBe('ok')
    await subscribe(bob)
    expect(await bob.track({ mood: 'new' })).toBe('ok')
    await vi.waitFor(() =>
      expect(ann.presenceState()).toMatchObject({ ann: [{ mood: 'fine' }], bob: [{ mood: 'new' }] }),
    )
    await bob.track({ mood: 'better' })
    await vi.waitFor(() => expect(ann.presenceState()).toMatchObject({ bob: [{ mood: 'better' }] }))
    expect(ann.presenceState().bob).toHaveLength(1)
    await bob_client.realtime.disconnect()
    await vi.waitFor(() => expect(Object.keys(ann.presenceState())).toEqual(['ann']))
    await ann.untrack()
    await vi.waitFor(() => expect(ann.presenceState()).toEqual({}))
    expect(events).toEqual(['ann joins', 'bob joins', 'bob joins', 'bob leaves', 'bob leaves', 'ann leaves'])
  })

  test('shows a newcomer who was there before', async () => {
    const first = server.client().channel('porch', { config: { presence: { key: 'first' } } })
    await subscribe(first)
    await first.track({ since: 1 })
    const second = server.client().channel('porch', { config: { presence: { enabled: true } } })
    second.on('presence', { event: 'sync' }, () => {})
    await subscribe(second)
    await vi.waitFor(() => expect(second.presenceState()).toMatchObject({ first: [{ since: 1 }] }))
  })

  test('follows the policies of its own extension', async () => {
    const channel = (await signedIn(owner)).channel('hall:1', {
      config: { private: true, presence: { key: 'me' } },
    })
    let syncs = 0
    channel.on('presence', { event: 'sync' }, () => {
      syncs += 1
    })
    const heard = listen(channel)
    expect(await subscribe(channel)).toMatchObject({ status: 'SUBSCRIBED' })
    expect(await channel.track({})).toBe('error')
    await send('marker', {}, 'hall:1')
    await vi.waitFor(() => expect(heard).toHaveLength(1))
    expect(syncs).toBe(0)
  })

  test('closes the channel of a client that calls too often', async () => {
    const channel = server.client().channel('busy', { config: { presence: { key: 'busy' } } })
    const said = systemMessages(channel)
    await subscribe(channel)
    for (let n = 1; n <= 5; n++) expect(await channel.track({ n })).toBe('ok')
    void channel.track({ n: 6 })
    await vi.waitFor(() => expect(said).toEqual(['Client presence rate limit exceeded']))
  })
})

describe('the wire', () => {
  test('of version 2.0.0 is arrays', async () => {
    const raw = await openRawSocket(server.api_url, '2.0.0', api_keys.publishable)
    raw.send([null, '1', 'phoenix', 'heartbeat', {}])
    raw.send(['2', '2', 'realtime:raw', 'phx_join', { config: { broadcast: { ack: true, self: true } } }])
    raw.send(['2', '3', 'realtime:raw', 'broadcast', { type: 'broadcast', event: 'e', payload: { n: 1 } }])
    raw.send(['2', '4', 'realtime:raw', 'phx_leave', {}])
    raw.send(['2', '5', 'realtime:raw', 'broadcast', {}])
    await vi.waitFor(() => expect(raw.frames).toHaveLength(7))
    expect(raw.frames.map((frame) => JSON.parse(String(frame)))).toEqual([
      [null, '1', 'phoenix', 'phx_reply', { status: 'ok', response: {} }],
      ['2', '2', 'realtime:raw', 'phx_reply', { status: 'ok', response: { postgres_changes: [] } }],
      [null, null, 'realtime:raw', 'broadcast', { type: 'broadcast', event: 'e', payload: { n: 1 } }],
      ['2', '3', 'realtime:raw', 'phx_reply', { status: 'ok', response: {} }],
      ['2', '4', 'realtime:raw', 'phx_reply', { status: 'ok', response: {} }],
      ['2', '2', 'realtime:raw', 'phx_close', {}],
      [null, '5', 'realtime:raw', 'phx_reply', { status: 'error', response: { reason: 'unmatched topic' } }],
    ])
    raw.close()
  })

  test('of version 2.0.0 carries user broadcasts as binary frames of kind 3 and 4', async () => {
    const raw = await openRawSocket(server.api_url, '2.0.0', api_keys.publishable)
    raw.send(['1', '1', 'realtime:raw3', 'phx_join', { config: { broadcast: { self: true } } }])
    const name = 'realtime:raw3'
    const push = Buffer.concat([
      Buffer.from([3, 1, 1, name.length, 1, 0, 1]),
      Buffer.from(`12${name}e{"n":1}`),
    ])
    raw.send(push)
    await vi.waitFor(() => expect(raw.frames).toHaveLength(2))
    const expected = Buffer.concat([Buffer.from([4, name.length, 1, 0, 1]), Buffer.from(`${name}e{"n":1}`)])
    expect(raw.frames[1]).toEqual(expected)
    raw.close()
  })

  test('of version 1.0.0 is objects', async () => {
    const raw = await openRawSocket(server.api_url, '1.0.0', api_keys.publishable)
    raw.send({ topic: 'realtime:old', event: 'phx_join', payload: {}, ref: '1', join_ref: '1' })
    await vi.waitFor(() => expect(raw.frames).toHaveLength(1))
    await send('db', { n: 1, id: 'x' }, 'old', false)
    await vi.waitFor(() => expect(raw.frames).toHaveLength(2))
    raw.send({ topic: 'realtime:old', event: 'phx_leave', payload: {}, ref: '2', join_ref: '1' })
    await vi.waitFor(() => expect(raw.frames).toHaveLength(4))
    expect(raw.frames.map((frame) => JSON.parse(String(frame)))).toEqual([
      {
        topic: 'realtime:old',
        event: 'phx_reply',
        payload: { status: 'ok', response: { postgres_changes: [] } },
        ref: '1',
      },
      {
        topic: 'realtime:old',
        event: 'broadcast',
        payload: {
          type: 'broadcast',
          event: 'db',
          payload: { n: 1, id: 'x' },
          meta: { id: expect.any(String) },
        },
        ref: null,
      },
      { topic: 'realtime:old', event: 'phx_reply', payload: { status: 'ok', response: {} }, ref: '2' },
      { topic: 'realtime:old', event: 'phx_close', payload: {}, ref: '1' },
    ])
    raw.close()
  })

  test('replaces a channel that is joined again', async () => {
    const raw = await openRawSocket(server.api_url, '2.0.0', api_keys.publishable)
    raw.send(['1', '1', 'realtime:twice', 'phx_join', {}])
    raw.send(['2', '2', 'realtime:twice', 'phx_join', {}])
    await vi.waitFor(() => expect(raw.frames).toHaveLength(3))
    expect(raw.frames.map((frame) => JSON.parse(String(frame)).slice(0, 4))).toEqual([
      ['1', '1', 'realtime:twice', 'phx_reply'],
      ['2', '2', 'realtime:twice', 'phx_reply'],
      ['1', '1', 'realtime:twice', 'phx_close'],
    ])
    await send('once', {}, 'twice', false)
    await send('then', {}, 'twice', false)
    await vi.waitFor(() => expect(raw.frames).toHaveLength(5))
    raw.close()
  })

  test('survives nonsense', async () => {
    const raw = await openRawSocket(server.api_url, '2.0.0', api_keys.publishable)
    raw.send(Buffer.from([9, 9, 9]))
    raw.send({ not: 'an array' })
    raw.send([null, '7', 'phoenix', 'heartbeat', {}])
    await vi.waitFor(() => expect(raw.frames).toHaveLength(1))
    raw.close()
  })

  test('refuses a socket without a key, or with a wrong one', async () => {
    const upgrade = (query: string) =>
      fetch(`${server.api_url}/realtime/v1/websocket${query}`).then(({ status }) => status)
    expect(await upgrade('')).toBe(404)
    await expect(openRawSocket(server.api_url, '2.0.0', '')).rejects.toThrow()
    await expect(openRawSocket(server.api_url, '2.0.0', 'sb_wrong')).rejects.toThrow()
    await expect(openRawSocket(server.api_url, '3.0.0', api_keys.publishable)).rejects.toThrow()
  })
})

describe('the schema', () => {
  test('has a partition for yesterday, today and three days ahead', async () => {
    const rows = await db.owner<{ relname: string }[]>`
      select relname from pg_class join pg_inherits on inhrelid = oid where inhparent = 'realtime.messages'::regclass
      order by relname`
    const day = (offset: number) => new Date(Date.now() + offset * 86_400_000).toISOString().slice(0, 10)
    const expected = [-1, 0, 1, 2, 3].map((offset) => `messages_${day(offset).replaceAll('-', '_')}`)
    expect(rows.map(({ relname }) => relname)).toEqual(expected)
  })

  test('lets postgres write policies but create nothing', async () => {
    await db.owner`create policy "a policy" on realtime.messages for select to authenticated using (false)`
    await db.owner`drop policy "a policy" on realtime.messages`
    await expect(db.owner`create table realtime.mine ()`).rejects.toThrow(
      'permission denied for schema realtime',
    )
    await expect(db.owner`select _realtime.lose_partition()`).rejects.toThrow('permission denied')
  })

  test('can be installed again', async () => {
    const { installPlatform } = await import('../../src/local/platform.ts')
    await installPlatform(db.superuser_url)
  })
})
