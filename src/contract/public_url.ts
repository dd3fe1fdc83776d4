import ipaddr from 'ipaddr.js'

export const MAX_URL_LENGTH = 2048

/** Names that resolve inside a machine or a private network. Last labels, compared without a trailing dot. */
const PRIVATE_SUFFIXES = ['localhost', 'local', 'internal', 'intranet', 'lan', 'home', 'corp', 'home.arpa']

/** Everything that IPv6 routes on the public internet lies in here; ipaddr.js calls the rest unicast too. */
const GLOBAL_UNICAST = ipaddr.IPv6.parseCIDR('2000::/3')

/**
 * Why an address given by a user may not be called from our side, as one sentence; null if it may.
 * Only the text is judged: whoever connects must check what the name resolves to as well.
 */
export function publicUrlProblem(text: string): string | null {
  if (text.length > MAX_URL_LENGTH) return `A URL has at most ${MAX_URL_LENGTH} characters.`
  if (!URL.canParse(text)) return 'Not a URL.'
  const url = new URL(text)
  if (url.protocol !== 'https:') return 'The URL must begin with https://.'
  if (url.username !== '' || url.password !== '') return 'The URL must not carry credentials.'
  return publicHostProblem(url.hostname, text)
}

function publicHostProblem(hostname: string, written: string): string | null {
  const refusal = 'The URL must lead to a public host.'
  if (hostname.startsWith('[')) {
    const address = hostname.slice(1, -1)
    if (!ipaddr.IPv6.isValid(address)) return refusal
    const ip = ipaddr.IPv6.parse(address)
    return ip.range() === 'unicast' && ip.match(GLOBAL_UNICAST) ? null : refusal
  }
  // URL has already turned 0x7f.1, 2130706433 and their like into four decimal parts. Whoever writes one of
  // those forms has something to hide, so a public address counts only as it is usually written.
  if (ipaddr.IPv4.isValidFourPartDecimal(hostname)) {
    const ip = ipaddr.IPv4.parse(hostname)
    return ip.range() === 'unicast' && written.includes(hostname) ? null : refusal
  }
  const name = hostname.replace(/\.$/, '').toLowerCase()
  if (!name.includes('.')) return refusal
  if (PRIVATE_SUFFIXES.some((suffix) => name === suffix || name.endsWith(`.${suffix}`))) return refusal
  return null
}
