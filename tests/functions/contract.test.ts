import { describe, expect, test } from 'vitest'
import type { z } from 'zod'
import { callbackRequest } from '../../src/contract/callback.ts'
import { issuesOf } from '../../src/contract/errors.ts'
import { type JoinOptions, joinRequest } from '../../src/contract/join.ts'
import { storageIssues } from '../../src/contract/json.ts'
import { publicUrlProblem } from '../../src/contract/public_url.ts'
import { StatusQuery } from '../../src/contract/status.ts'
import {
  ActivateRequest,
  CreateWorkflowRequest,
  ResolveMutationRequest,
  SetSecretRequest,
} from '../../src/contract/workflow_requests.ts'

const BOT = '11111111-1111-4111-8111-111111111111'

function join(body: unknown, options: JoinOptions = {}) {
  const parsed = joinRequest(options).safeParse(body)
  return parsed.success ? parsed.data : { refused: issuesOf(parsed.error).map(({ path }) => path) }
}

function callback(path: string, body: unknown) {
  const schema = callbackRequest(path)
  if (schema === null) return null
  const parsed = schema.safeParse(body)
  return parsed.success ? parsed.data : { refused: issuesOf(parsed.error).map(({ path }) => path) }
}

describe('a meeting is completed', () => {
  test.each([
    [
      'google_meet',
      { native_meeting_id: 'abc-defg-hij' },
      'abc-defg-hij',
      'https://meet.google.com/abc-defg-hij',
    ],
    [
      'google_meet',
      { meeting_url: 'https://meet.google.com/abc-defg-hij?authuser=1' },
      'abc-defg-hij',
      'https://meet.google.com/abc-defg-hij?authuser=1',
    ],
    ['zoom', { native_meeting_id: '123456789' }, '123456789', 'https://zoom.us/j/123456789'],
    ['zoom', { meeting_url: 'https://us05web.zoom.us/j/12345678901?pwd=x' }, '12345678901', undefined],
    ['zoom', { meeting_url: 'https://app.zoom.us/wc/1234567890/join' }, '1234567890', undefined],
    ['zoom', { meeting_url: 'https://zoom.us/wc/join/1234567890' }, '1234567890', undefined],
    [
      'teams',
      { native_meeting_id: '9876543210' },
      '9876543210',
      'https://teams.microsoft.com/meet/9876543210',
    ],
    ['teams', { meeting_url: 'https://teams.live.com/meet/9876543210?p=abc' }, '9876543210', undefined],
    [
      'teams',
      {
        meeting_url: 'https://teams.microsoft.com/l/meetup-join/19%3ameeting_Nz%40thread.v2/0?context=%7b%7d',
      },
      '19:meeting_Nz@thread.v2',
      undefined,
    ],
    [
      'daily',
      { meeting_url: 'https://acme.daily.co/stand-up' },
      'stand-up',
      'https://acme.daily.co/stand-up',
    ],
    [
      'daily',
      { room_url: 'https://acme.daily.co/stand-up', native_meeting_id: 'stand-up' },
      'stand-up',
      undefined,
    ],
  ])('%s %o', (platform, given, id, url) => {
    const completed = join({ platform, ...given })
    expect(completed).toMatchObject({ platform, native_meeting_id: id })
    if (url !== undefined) expect(completed).toMatchObject({ meeting_url: url })
  })

  test('room: only on the local stack', () => {
    const room = { room_url: 'http://127.0.0.1:54321/room' }
    expect(join({ platform: 'room', native_meeting_id: 'demo' }, room)).toMatchObject({
      meeting_url: 'http://127.0.0.1:54321/room/demo',
    })
    expect(
      join({ platform: 'room', meeting_url: 'http://127.0.0.1:54321/room/d%C3%A9mo' }, room),
    ).toMatchObject({
      native_meeting_id: 'démo',
    })
    expect(join({ platform: 'room', native_meeting_id: 'demo' })).toEqual({ refused: ['platform'] })
    for (const meeting_url of [
      'http://127.0.0.1:54321/roommate/demo',
      'http://127.0.0.1:54322/room/demo',
      'http://127.0.0.1:54321/room/',
      'http://127.0.0.1:54321/room/a/b',
      'http://user@127.0.0.1:54321/room/demo',
      'http://127.0.0.1:54321/room/%00',
    ]) {
      expect(join({ platform: 'room', meeting_url }, room)).toEqual({ refused: ['meeting_url'] })
    }
  })

  test('or left to the earlier bot', () => {
    expect(join({ retry_of: 'thread-1' })).toMatchObject({ retry_of: 'thread-1', launch: true })
    expect(join({ retry_of: 'thread-1', native_meeting_id: 'abc-defg-hij' })).toEqual({
      refused: ['platform'],
    })
    expect(join({ retry_of: 'thread-1', platform: 'zoom' })).toEqual({ refused: ['native_meeting_id'] })
  })
})

test('P01 provider and room_url are other names of platform and meeting_url', () => {
  const body = {
    provider: 'daily',
    room_url: 'https://acme.daily.co/standup',
    bot_config: { video_mode: 'static', static_image: 'https://example.com/a.png', prompt: 'Be kind.' },
  }
  expect(join(body)).toMatchObject({
    platform: 'daily',
    native_meeting_id: 'standup',
    bot_config: body.bot_config,
  })
  expect(join({ ...body, platform: 'zoom' })).toEqual({ refused: ['provider'] })
  expect(join({ ...body, meeting_url: 'https://acme.daily.co/other' })).toEqual({ refused: ['room_url'] })
})

test('P02 a static video needs an image', () => {
  const meet = { platform: 'google_meet', native_meeting_id: 'abc-defg-hij' }
  expect(join({ ...meet, bot_config: { video_mode: 'static' } })).toEqual({
    refused: ['bot_config.static_image'],
  })
  expect(join({ ...meet, bot_config: { static_image: 'http://10.0.0.1/a.png' } })).toEqual({
    refused: ['bot_config.static_image'],
  })
})

describe('A07 A09 A10 A11 A12 A22 join refuses', () => {
  const meet = { platform: 'google_meet', native_meeting_id: 'abc-defg-hij' }
  test.each<[unknown, string]>([
    [undefined, ''],
    [[], ''],
    ['text', ''],
    [{}, 'platform'],
    [{ platform: 'google_meet' }, 'native_meeting_id'],
    [{ native_meeting_id: 'abc-defg-hij' }, 'platform'],
    [{ platform: 'skype', native_meeting_id: 'abc' }, 'platform'],
    [{ platform: null, native_meeting_id: 'abc' }, 'platform'],
    [{ platform: 'google_meet', native_meeting_id: 'nonsense' }, 'native_meeting_id'],
    [{ platform: 'google_meet', native_meeting_id: null }, 'native_meeting_id'],
    [{ platform: 'zoom', native_meeting_id: '12345678' }, 'native_meeting_id'],
    [{ platform: 'zoom', native_meeting_id: '123456789012' }, 'native_meeting_id'],
    [{ platform: 'zoom', native_meeting_id: 123456789 }, 'native_meeting_id'],
    [{ platform: 'daily', native_meeting_id: 'standup' }, 'meeting_url'],
    [{ platform: 'teams', native_meeting_id: 'x'.repeat(256) }, 'native_meeting_id'],
    ...['a b', 'a?b', 'a#b', 'a&b', 'a=b', 'a/b', 'a\u0000b', 'a\u2003b', 'a\nb', ''].map(
      (native_meeting_id): [unknown, string] => [
        { platform: 'teams', native_meeting_id },
        'native_meeting_id',
      ],
    ),
    ...[
      'http://meet.google.com/abc-defg-hij',
      'https://localhost/abc-defg-hij',
      'https://10.0.0.1/abc-defg-hij',
      'https://user:pw@meet.google.com/abc-defg-hij',
      'https://meet.google.com:8443/abc-defg-hij',
      'https://meet.google.com.example.com/abc-defg-hij',
      'https://zoom.us/j/123456789',
      'ftp://meet.google.com/abc-defg-hij',
      'nonsense',
    ].map((meeting_url): [unknown, string] => [{ platform: 'google_meet', meeting_url }, 'meeting_url']),
    [{ ...meet, meeting_url: 'https://meet.google.com/xyz-defg-hij' }, 'native_meeting_id'],
    [{ ...meet, passcode: '12345678' }, 'passcode'],
    [{ platform: 'teams', native_meeting_id: '9876543210', passcode: 'abc' }, 'passcode'],
    [{ platform: 'teams', native_meeting_id: '9876543210', passcode: 'a'.repeat(21) }, 'passcode'],
    [{ platform: 'teams', native_meeting_id: '9876543210', passcode: 'abcdefg-' }, 'passcode'],
    [{ ...meet, process_insights: 'yes' }, 'process_insights'],
    [{ ...meet, launch: 'false' }, 'launch'],
    [{ ...meet, launch: null }, 'launch'],
    [{ ...meet, bot_name: '' }, 'bot_name'],
    [{ ...meet, bot_name: 7 }, 'bot_name'],
    [{ ...meet, bot_config: [] }, 'bot_config'],
    [{ ...meet, bot_config: 'x' }, 'bot_config'],
    [{ ...meet, bot_config: { text: 'x'.repeat(64 * 1024) } }, 'bot_config'],
    [{ ...meet, bot_config: { max_duration_s: '60' } }, 'bot_config.max_duration_s'],
    [{ ...meet, bot_config: { max_duration_s: 0 } }, 'bot_config.max_duration_s'],
    [{ ...meet, bot_config: { max_duration_s: 1.5 } }, 'bot_config.max_duration_s'],
    [{ ...meet, webhook_url: 'https://localhost/hook' }, 'webhook_url'],
    [{ ...meet, webhook_url: 'http://example.com/hook' }, 'webhook_url'],
    [{ ...meet, owner_id: 'me' }, 'owner_id'],
    [{ ...meet, retry_of: '' }, 'retry_of'],
    [{ ...meet, metadata: 'x' }, 'metadata'],
  ])('%j', (body, path) => {
    expect(join(body)).toEqual({ refused: [path] })
  })

  test('nothing for a field that nobody knows', () => {
    expect(join({ ...meet, color: 'red' })).not.toHaveProperty('color')
    expect(join({ ...meet, color: 'red' })).toMatchObject(meet)
  })

  test('no private webhook where local development allows them', () => {
    const webhook_url = 'http://127.0.0.1:9999/hook'
    expect(join({ ...meet, webhook_url }, { allow_private_webhooks: true })).toMatchObject({ webhook_url })
  })
})

describe('a URL is refused', () => {
  test.each([
    'http://example.com',
    'https://localhost',
    'https://LOCALHOST.',
    'https://app.localhost',
    'https://printer.local',
    'https://metadata.google.internal',
    'https://intranet',
    'https://127.0.0.1',
    'https://127.1',
    'https://2130706433',
    'https://0x7f000001',
    'https://0177.0.0.1',
    'https://0.0.0.0',
    'https://10.1.2.3',
    'https://172.16.0.1',
    'https://192.168.1.1',
    'https://169.254.169.254/latest/meta-data',
    'https://100.64.0.1',
    'https://255.255.255.255',
    'https://224.0.0.1',
    // A public address in a disguise.
    'https://0x08080808',
    'https://134744072',
    'https://[::1]',
    'https://[::]',
    'https://[::ffff:127.0.0.1]',
    'https://[::ffff:8.8.8.8]',
    'https://[::127.0.0.1]',
    'https://[fe80::1]',
    'https://[fc00::1]',
    'https://[64:ff9b::7f00:1]',
    'https://[2002:7f00:1::]',
    'https://[2001:db8::1]',
    'https://[ff02::1]',
    'https://user@example.com',
    'https://user:password@example.com',
    'javascript:alert(1)',
    'data:text/plain,hello',
    '//example.com',
    '',
    `https://example.com/${'a'.repeat(2048)}`,
  ])('%s', (url) => {
    expect(publicUrlProblem(url)).not.toBeNull()
  })

  test.each([
    'https://example.com/a?b=c',
    'https://example.com:8443',
    'https://8.8.8.8',
    'https://[2606:4700::1111]',
  ])('not %s', (url) => {
    expect(publicUrlProblem(url)).toBeNull()
  })
})

describe('a callback', () => {
  test.each([
    ['starting', 'joining'],
    ['joining', 'joining'],
    ['awaiting_admission', 'awaiting_admission'],
    ['running', 'active'],
    ['active', 'active'],
    ['completed', 'completed'],
    ['failed', 'failed'],
    ['heartbeat', 'heartbeat'],
  ])('that says %s means %s', (said, status) => {
    for (const path of ['', 'status_change'])
      expect(callback(path, { bot_id: BOT, status: said })).toMatchObject({ status })
  })

  test.each([
    ['joining', {}, 'joining'],
    ['joining', { status: 'starting' }, 'joining'],
    ['awaiting_admission', {}, 'awaiting_admission'],
    ['started', {}, 'active'],
    ['started', { status: 'running' }, 'active'],
    ['exited', { exit_code: 0 }, 'exited'],
    ['exited', { exit_code: 137 }, 'exited'],
    ['exited', { exit_code: 0, status: 'completed' }, 'completed'],
    ['exited', { exit_code: 1, status: 'failed' }, 'failed'],
    ['exited', { status: 'completed' }, 'completed'],
    ['heartbeat', {}, 'heartbeat'],
    ['transcript', { utterances: [], chunk: 0 }, 'transcript'],
  ])('to /%s with %j means %s', (path, body, status) => {
    expect(callback(path, { bot_id: BOT, ...body })).toMatchObject({ status })
  })

  test.each([
    ['joining', { status: 'active' }],
    ['started', { status: 'joining' }],
    ['exited', { status: 'active', exit_code: 0 }],
    ['exited', { status: 'completed', exit_code: 1 }],
    ['exited', { status: 'failed', exit_code: 0 }],
    ['heartbeat', { status: 'completed' }],
    ['transcript', { status: 'heartbeat', utterances: [], chunk: 0 }],
    ['', { status: 'transcript' }],
  ])('to /%s that says %j disagrees with its path', (path, body) => {
    expect(callback(path, { bot_id: BOT, ...body })).toEqual({ refused: ['status'] })
  })

  test('to no known path is nothing', () => {
    for (const path of ['nope', 'joining/x', 'toString', '__proto__']) expect(callback(path, {})).toBeNull()
  })

  test.each<[unknown, string]>([
    [{ status: 'joining' }, 'bot_id'],
    [{ bot_id: BOT }, 'status'],
    [{ bot_id: BOT, status: 'requested' }, 'status'],
    [{ bot_id: BOT, status: 'pending' }, 'status'],
    [{ bot_id: BOT, status: 'stopping' }, 'status'],
    [{ bot_id: BOT, status: 'exited' }, 'status'],
    [{ bot_id: BOT, status: 'Joining' }, 'status'],
    [{ bot_id: BOT, status: null }, 'status'],
    [{ bot_id: 'bot-1', status: 'joining' }, 'bot_id'],
    [{ bot_id: BOT, connection_id: BOT.replace('1', '2'), status: 'joining' }, 'connection_id'],
    [{ bot_id: BOT, status: 'joining', reason: null }, 'reason'],
    [{ bot_id: BOT, status: 'joining', reason: '' }, 'reason'],
    [{ bot_id: BOT, status: 'failed', exit_code: '1' }, 'exit_code'],
    [{ bot_id: BOT, status: 'failed', exit_code: 1.5 }, 'exit_code'],
    [{ bot_id: BOT, status: 'failed', exit_code: 2 ** 31 }, 'exit_code'],
    [{ bot_id: BOT, status: 'failed', error_details: 'text' }, 'error_details'],
    [{ bot_id: BOT, status: 'failed', error_message: '' }, 'error_message'],
    [{ bot_id: BOT, status: 'active', participant_count: -1 }, 'participant_count'],
    [{ bot_id: BOT, status: 'active', participant_count: '3' }, 'participant_count'],
    [{ bot_id: BOT, status: 'active', timestamp: 'yesterday' }, 'timestamp'],
    [{ bot_id: BOT, status: 'active', timestamp: '0000-01-01T00:00:00Z' }, 'timestamp'],
    [{ bot_id: BOT, status: 'active', timestamp: 1700000000 }, 'timestamp'],
    [{ bot_id: BOT, status: 'completed', transcript: 'Hello' }, 'transcript'],
    [{ bot_id: BOT, status: 'completed', transcript: [{ speaker: 'Ann' }] }, 'transcript.0.text'],
    [{ bot_id: BOT, status: 'completed', event_id: '' }, 'event_id'],
    [{ bot_id: BOT, status: 'completed', event_id: 'x'.repeat(256) }, 'event_id'],
  ])('C13 C21 of %j is refused', (body, path) => {
    expect(callback('', body)).toEqual({ refused: [path] })
  })

  test.each([
    { utterances: [] },
    { chunk: 0 },
    { utterances: [], chunk: -1 },
    { utterances: [], chunk: '0' },
  ])('with the transcript %j is refused', (body) => {
    expect(callback('transcript', { bot_id: BOT, ...body })).toHaveProperty('refused')
  })

  test('drops what nobody knows and cuts what is too long', () => {
    const report = callback('', {
      bot_id: BOT,
      status: 'failed',
      error_message: 'x'.repeat(20_000),
      color: 'red',
    })
    expect(report).not.toHaveProperty('color')
    expect(report).toMatchObject({ error_message: 'x'.repeat(16_384) })
  })

  test('may call its bot connection_id and gives its time in any zone', () => {
    const report = { connection_id: BOT, status: 'joining', timestamp: '2030-01-01T12:00:00+02:00' }
    expect(callback('', report)).toMatchObject({ bot_id: BOT, occurred_at: '2030-01-01T10:00:00.000Z' })
  })
})

describe('a status query', () => {
  test.each([
    [{ bot_id: 'x' }, 'bot_id'],
    [{ platform: 'zoom' }, 'native_meeting_id'],
    [{ native_meeting_id: '123456789' }, 'platform'],
    [{ bot_id: BOT, workflow_thread_id: 'a' }, ''],
    [{ status: 'happy' }, 'status'],
    [{ meeting_status: 'running' }, 'meeting_status'],
    [{ active: 'yes' }, 'active'],
    [{ limit: '0' }, 'limit'],
    [{ limit: '201' }, 'limit'],
    [{ limit: '1.5' }, 'limit'],
    [{ limit: '' }, 'limit'],
    [{ include: 'secrets' }, 'include'],
    [{ include: 'toString' }, 'include'],
    [{ owner_id: '1' }, 'owner_id'],
  ])('%j is refused', (query, path) => {
    const parsed = StatusQuery.safeParse(query)
    expect(parsed.success ? [] : issuesOf(parsed.error).map((issue) => issue.path)).toEqual([path])
  })

  test('reads numbers, flags and lists from their text', () => {
    expect(StatusQuery.parse({ limit: '200', active: 'false', include: 'events,transcript' })).toEqual({
      limit: 200,
      active: false,
      include: ['events', 'transcript'],
    })
  })
})

describe('a workflow request', () => {
  const script = { title: 'a', code: 'workflow = {}' }
  const schemas: Record<string, z.ZodType> = {
    CreateWorkflowRequest,
    ActivateRequest,
    SetSecretRequest,
    ResolveMutationRequest,
  }
  test.each<[string, unknown, string[]]>([
    ['CreateWorkflowRequest', { message: 'Every morning.' }, []],
    ['CreateWorkflowRequest', { message: 'Every morning.', title: 'Morning' }, []],
    ['CreateWorkflowRequest', { ...script, time_zone: 'America/New_York' }, []],
    ['CreateWorkflowRequest', { ...script, message: 'a' }, ['message']],
    ['CreateWorkflowRequest', { code: 'workflow = {}' }, ['title']],
    ['CreateWorkflowRequest', { title: 'a' }, ['']],
    ['CreateWorkflowRequest', { ...script, code: 'ä'.repeat(129 * 1024) }, ['code']],
    ['CreateWorkflowRequest', { ...script, time_zone: '+01:00' }, ['time_zone']],
    ['ActivateRequest', undefined, []],
    ['ActivateRequest', { script_id: '1.0' }, ['script_id']],
    ['SetSecretRequest', { name: 'API_TOKEN', value: null }, []],
    ['SetSecretRequest', { name: 'API TOKEN', value: 'x' }, ['name']],
    ['SetSecretRequest', { name: 'API_TOKEN', value: 'x'.repeat(9 * 1024) }, ['value']],
    ['ResolveMutationRequest', { how: 'applied' }, []],
    ['ResolveMutationRequest', { how: 'applied', result: null }, []],
    ['ResolveMutationRequest', { how: 'applied', result: 'x'.repeat(65 * 1024) }, ['result']],
    ['ResolveMutationRequest', { how: 'skipped', result: {} }, ['result']],
  ])('%s: of %j these are refused: %j', (schema, body, paths) => {
    const parsed = schemas[schema]?.safeParse(body)
    expect(parsed?.success !== false ? [] : issuesOf(parsed.error).map((issue) => issue.path)).toEqual(paths)
  })
})

describe('what Postgres can not store is found', () => {
  test.each([
    [{ a: ['x', { b: 'nul \0' }] }, 'a.1.b'],
    [{ a: { 'key\0': 1 } }, 'a'],
    [{ a: '\ud800' }, 'a'],
    [JSON.parse('{"a": 1e999}'), 'a'],
  ])('in %j', (value, path) => {
    expect(storageIssues(value).map((issue) => issue.path)).toEqual([path])
  })

  test('in a million nested brackets, without falling over', () => {
    const deep = JSON.parse(`${'['.repeat(500_000)}${']'.repeat(500_000)}`)
    expect(storageIssues(deep)).toHaveLength(1)
  })

  test('nowhere in usual text', () => {
    expect(storageIssues({ a: ['\u{1F600} é', 1, true, null, -1e300] })).toEqual([])
  })
})
