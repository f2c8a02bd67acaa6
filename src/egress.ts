// Where the service may connect to on behalf of its users: probes, and whatever else goes to an address that they gave.
import dns from 'node:dns';
import net from 'node:net';
import ipaddr from 'ipaddr.js';

/** Whether loopback and private addresses may be reached. Link-local and metadata addresses never are. */
export type EgressPolicy = 'allow' | 'deny';

/** A target that must not be reached; its message says why. */
export class EgressError extends Error {}

// Metadata services of clouds that are not on link-local addresses: Alibaba, Oracle, Azure's wire server, AWS, Google.
const metadataAddresses = new Set([
  '100.100.100.200',
  '192.0.0.192',
  '168.63.129.16',
  'fd00:ec2::254',
  'fd20:ce::254',
]);
const neverRanges = new Set(['linkLocal', 'multicast', 'broadcast', 'unspecified']);

/** Why an address must not be reached, or null. Of an IPv6 address that stands for an IPv4 one that is what counts. */
export function egressObstacle(address: string, policy: EgressPolicy): string | null {
  const parsed = ipaddr.process(address.replace(/%.*$/, ''));
  const embedded = parsed.kind() === 'ipv6' ? embeddedIpv4(parsed as ipaddr.IPv6) : null;
  if (embedded) return egressObstacle(embedded, policy);
  const range = parsed.range();
  if (neverRanges.has(range) || metadataAddresses.has(parsed.toString()))
    return `${address} is a ${metadataAddresses.has(parsed.toString()) ? 'metadata' : words(range)} address, which is never reached`;
  if (policy === 'deny' && range !== 'unicast')
    return `${address} is a ${words(range)} address, which this deployment does not reach`;
  return null;
}

function words(range: string): string {
  return range === 'linkLocal'
    ? 'link-local'
    : range.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}

// NAT64, SIIT, 6to4 and the deprecated IPv4-compatible form; IPv4-mapped ones ipaddr.process has taken care of.
function embeddedIpv4(address: ipaddr.IPv6): string | null {
  const { parts } = address;
  const at = (i: number) =>
    `${parts[i]! >> 8}.${parts[i]! & 255}.${parts[i + 1]! >> 8}.${parts[i + 1]! & 255}`;
  if (address.range() === 'rfc6052' || address.range() === 'rfc6145') return at(6);
  if (address.range() === '6to4') return at(1);
  if (parts.slice(0, 6).every((part) => part === 0) && (parts[6] !== 0 || parts[7]! > 1)) return at(6);
  return null;
}

/** A URL's hostname without the brackets of an IPv6 address. */
export function bareHost(hostname: string): string {
  return hostname.replace(/^\[|\]$/g, '');
}

const lookups = new Map<string, Promise<dns.LookupAddress[]>>();

// Names are looked up by the system, for the sake of its hosts file, in a pool of few threads: who asks for a name that is being
// looked up waits for that answer instead of taking another thread.
function lookup(host: string): Promise<dns.LookupAddress[]> {
  const pending = lookups.get(host);
  if (pending) return pending;
  const looking = dns.promises.lookup(host, { all: true }).finally(() => lookups.delete(host));
  lookups.set(host, looking);
  return looking;
}

/** The addresses of a host that may be reached. Throws an EgressError when it has none, or the look-up's own error. */
export async function resolveHost(hostname: string, policy: EgressPolicy): Promise<dns.LookupAddress[]> {
  const host = bareHost(hostname);
  const family = net.isIP(host);
  const addresses = family ? [{ address: host, family }] : await lookup(host);
  const allowed = addresses.filter(({ address }) => egressObstacle(address, policy) === null);
  if (allowed.length === 0) throw new EgressError(egressObstacle(addresses[0]!.address, policy)!);
  return allowed;
}

/** Settles when no look-up of this host is under way any more: its thread is busy, whoever still waits for it. */
export async function lookedUp(hostname: string): Promise<void> {
  await lookups.get(hostname)?.catch(() => {});
}

/**
 * A socket that connects to one of these addresses, as resolveHost answered them, and to no other: one after the other, each
 * with its share of the time.
 */
export function connectTo(addresses: dns.LookupAddress[], port: number, timeoutMs: number): net.Socket {
  return net.connect({
    host: addresses.length === 1 ? addresses[0]!.address : 'resolved',
    port,
    // Nothing is looked up again here, so a name cannot come to stand for another address meanwhile.
    lookup: (_host, _options, callback) => callback(null, addresses),
    autoSelectFamily: true,
    autoSelectFamilyAttemptTimeout: Math.max(250, Math.floor(timeoutMs / addresses.length)),
    noDelay: true,
  });
}
