import { z } from 'zod'
import type { Issue } from './errors.ts'
import { publicUrlProblem } from './public_url.ts'

/** Where meetings take place. `room` is the room of the local stack and exists nowhere else. */
export const Platform = z.enum(['daily', 'google_meet', 'zoom', 'teams', 'room'])
export type Platform = z.infer<typeof Platform>

/** One meeting, fully known. */
export interface Meeting {
  platform: Platform
  native_meeting_id: string
  meeting_url: string
}

/** 1 to 255 characters, none of them a blank, a control character or one that has a meaning in a URL. */
const ID = /^[^\s\p{Cc}\p{Z}\p{Cs}?#&=/]{1,255}$/u

/** The rule of every platform's meeting ids, and the sentence that tells it. */
export const NativeMeetingId = z
  .string()
  .regex(ID, 'A meeting id has 1 to 255 characters without blanks, control characters or any of ?#&=/.')

interface PlatformRules {
  /** The platform's own form of an id, beyond the common rule. */
  id: RegExp
  id_form: string
  /** An example of a link, for the message. */
  link: string
  hosts(hostname: string): boolean
  /** The id in the path of a link, still percent-encoded. */
  path: RegExp
  /** The link of an id; null where an id alone does not tell. */
  url_of(id: string): string | null
}

const RULES: Record<Exclude<Platform, 'room'>, PlatformRules> = {
  google_meet: {
    id: /^[a-z]{3}-[a-z]{4}-[a-z]{3}$/,
    id_form: 'A Google Meet id looks like abc-defg-hij.',
    link: 'https://meet.google.com/abc-defg-hij',
    hosts: (hostname) => hostname === 'meet.google.com',
    path: /^\/([^/]+)\/?$/,
    url_of: (id) => `https://meet.google.com/${id}`,
  },
  zoom: {
    id: /^\d{9,11}$/,
    id_form: 'A Zoom id has 9 to 11 digits.',
    link: 'https://zoom.us/j/1234567890',
    hosts: (hostname) => /(^|\.)(zoom\.us|zoomgov\.com)$/.test(hostname),
    path: /^\/(?:j|w|s|wc|wc\/join)\/([^/]+)(?:\/(?:join|start))?\/?$/,
    url_of: (id) => `https://zoom.us/j/${id}`,
  },
  teams: {
    id: /^.+$/u,
    id_form: 'A Teams id is the number of a /meet/ link or the 19:...@thread.v2 of a /l/meetup-join/ link.',
    link: 'https://teams.microsoft.com/meet/1234567890',
    hosts: (hostname) =>
      ['teams.microsoft.com', 'teams.live.com', 'gov.teams.microsoft.us', 'dod.teams.microsoft.us'].includes(
        hostname,
      ),
    path: /^\/(?:meet|l\/meetup-join)\/([^/]+)(?:\/\d+)?\/?$/,
    url_of: (id) => {
      if (/^\d{9,20}$/.test(id)) return `https://teams.microsoft.com/meet/${id}`
      if (/^19:.+@thread\./.test(id)) {
        return `https://teams.microsoft.com/l/meetup-join/${encodeURIComponent(id)}/0`
      }
      return null
    },
  },
  daily: {
    id: /^[\w-]+$/,
    id_form: 'A Daily room name has letters, digits, - and _.',
    link: 'https://your-domain.daily.co/room-name',
    hosts: (hostname) => /^[a-z0-9][a-z0-9-]*\.daily\.co$/.test(hostname),
    path: /^\/([^/]+)\/?$/,
    url_of: () => null,
  },
}

/** What is known of a meeting before its other half is derived. */
export interface MeetingInput {
  platform: Platform
  native_meeting_id?: string | undefined
  meeting_url?: string | undefined
}

/**
 * Completes a meeting: the id is read from the link, the link is made from the id, and when both are given they
 * must agree. `room_url` is the address of the local room (ROOM_URL), undefined everywhere but on the local stack.
 */
export function completeMeeting(
  input: MeetingInput,
  room_url?: string,
): { meeting: Meeting } | { issues: Issue[] } {
  const { platform, native_meeting_id, meeting_url } = input
  if (native_meeting_id === undefined && meeting_url === undefined) {
    return wrong('native_meeting_id', 'Give native_meeting_id or meeting_url.')
  }
  if (platform === 'room') return completeRoom(native_meeting_id, meeting_url, room_url)
  const rules = RULES[platform]
  if (native_meeting_id !== undefined && !rules.id.test(native_meeting_id)) {
    return wrong('native_meeting_id', rules.id_form)
  }
  if (meeting_url === undefined) {
    const derived = native_meeting_id === undefined ? null : rules.url_of(native_meeting_id)
    if (native_meeting_id === undefined || derived === null) {
      return wrong(
        'meeting_url',
        `The id alone does not say where the meeting is: give a link like ${rules.link}.`,
      )
    }
    return { meeting: { platform, native_meeting_id, meeting_url: derived } }
  }
  const problem = publicUrlProblem(meeting_url)
  if (problem !== null) return wrong('meeting_url', problem)
  const url = new URL(meeting_url)
  const id = rules.hosts(url.hostname) && url.port === '' ? idIn(rules.path, url) : null
  if (id === null || !ID.test(id) || !rules.id.test(id)) {
    return wrong('meeting_url', `Not a link of ${platform}: it looks like ${rules.link}.`)
  }
  return agree(platform, native_meeting_id, id, meeting_url)
}

function completeRoom(
  native_meeting_id: string | undefined,
  meeting_url: string | undefined,
  room_url: string | undefined,
): { meeting: Meeting } | { issues: Issue[] } {
  if (room_url === undefined) return wrong('platform', 'The room exists on the local stack only.')
  const base = room_url.replace(/\/+$/, '')
  if (meeting_url === undefined) {
    const id = native_meeting_id ?? ''
    return {
      meeting: { platform: 'room', native_meeting_id: id, meeting_url: `${base}/${encodeURIComponent(id)}` },
    }
  }
  const url = URL.canParse(meeting_url) ? new URL(meeting_url) : null
  const room = new URL(base)
  const inside = url?.origin === room.origin && url.pathname.startsWith(`${room.pathname}/`)
  const clean = url !== null && url.username === '' && url.password === ''
  const id = inside && clean ? decoded(url.pathname.slice(room.pathname.length + 1).replace(/\/$/, '')) : null
  if (id === null || !ID.test(id))
    return wrong('meeting_url', `Not a link of the room: it looks like ${base}/standup.`)
  return agree('room', native_meeting_id, id, meeting_url)
}

function agree(
  platform: Platform,
  given: string | undefined,
  found: string,
  meeting_url: string,
): { meeting: Meeting } | { issues: Issue[] } {
  if (given !== undefined && given !== found) {
    return wrong(
      'native_meeting_id',
      'native_meeting_id and meeting_url name different meetings: give one of them.',
    )
  }
  return { meeting: { platform, native_meeting_id: found, meeting_url } }
}

function idIn(path: RegExp, url: URL): string | null {
  const match = path.exec(url.pathname)
  return match?.[1] === undefined ? null : decoded(match[1])
}

function decoded(text: string): string | null {
  try {
    return decodeURIComponent(text)
  } catch {
    return null
  }
}

function wrong(path: string, message: string): { issues: Issue[] } {
  return { issues: [{ path, message }] }
}

/** Why a passcode does not fit its platform; null if it does. Google Meet has none, Teams has a form. */
export function passcodeProblem(platform: Platform, passcode: string): string | null {
  if (platform === 'google_meet') return 'Google Meet has no passcodes.'
  if (platform === 'teams' && !/^[A-Za-z0-9]{8,20}$/.test(passcode)) {
    return 'A Teams passcode has 8 to 20 letters and digits.'
  }
  return null
}
