import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto'

export type Certificate = { cert: string; key: string }

/** A new certificate authority, and a certificate of it for a name: for servers that only a test trusts. */
export function certificateFor(name: string): { ca: string; server: Certificate } {
  const authority = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const server = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const issuer = { name: 'Rollcall test authority', key: authority.privateKey }
  return {
    ca: certify(issuer.name, authority.publicKey, issuer, [
      extension('2.5.29.19', true, sequence(boolean(true))),
    ]),
    server: {
      cert: certify(name, server.publicKey, issuer, [
        extension('2.5.29.19', true, sequence()),
        extension('2.5.29.17', false, sequence(der(0x82, Buffer.from(name)))),
      ]),
      key: server.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    },
  }
}

type Issuer = { name: string; key: KeyObject }

/** An X.509 certificate (RFC 5280), valid from yesterday to tomorrow, signed with ECDSA and SHA-256. */
function certify(name: string, public_key: KeyObject, issuer: Issuer, extensions: Buffer[]): string {
  const algorithm = sequence(oid('1.2.840.10045.4.3.2'))
  const day_ms = 86_400_000
  const content = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.from([1 + Math.floor(Math.random() * 127)])),
    algorithm,
    distinguished(issuer.name),
    sequence(utcTime(Date.now() - day_ms), utcTime(Date.now() + day_ms)),
    distinguished(name),
    public_key.export({ type: 'spki', format: 'der' }),
    der(0xa3, sequence(...extensions)),
  )
  const signature = der(0x03, Buffer.concat([Buffer.from([0]), sign('sha256', content, issuer.key)]))
  const base64 = sequence(content, algorithm, signature).toString('base64')
  return `-----BEGIN CERTIFICATE-----\n${base64.replaceAll(/.{64}/g, '$&\n').trimEnd()}\n-----END CERTIFICATE-----\n`
}

function extension(id: string, critical: boolean, value: Buffer): Buffer {
  return sequence(oid(id), ...(critical ? [boolean(true)] : []), der(0x04, value))
}

function distinguished(name: string): Buffer {
  return sequence(der(0x31, sequence(oid('2.5.4.3'), der(0x0c, Buffer.from(name)))))
}

function utcTime(at: number): Buffer {
  return der(0x17, Buffer.from(`${new Date(at).toISOString().replaceAll(/\D/g, '').slice(2, 14)}Z`))
}

function boolean(value: boolean): Buffer {
  return der(0x01, Buffer.from([value ? 0xff : 0]))
}

function sequence(...items: Buffer[]): Buffer {
  return der(0x30, ...items)
}

function oid(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number)
  const bytes = rest.flatMap((number) => {
    const groups = [number & 127]
    for (let left = number >>> 7; left > 0; left >>>= 7) groups.unshift((left & 127) | 128)
    return groups
  })
  return der(0x06, Buffer.from([first * 40 + second, ...bytes]))
}

function der(tag: number, ...contents: Buffer[]): Buffer {
  const content = Buffer.concat(contents)
  const size = content.length
  const length = size < 128 ? [size] : size < 256 ? [0x81, size] : [0x82, size >> 8, size & 255]
  return Buffer.concat([Buffer.from([tag, ...length]), content])
}
