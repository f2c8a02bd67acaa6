// One probe of a service: what was found, in the words of obs.probe_result.
import os from 'node:os';
import { bareHost, EgressError, type EgressPolicy } from '../../src/egress.ts';
import { probeHttp } from './http.ts';
import { probeTcp } from './tcp.ts';
import { type Definition, ms, newTrace, ProbeFailure, type Timings, type Trace } from './trace.ts';

export interface ProbeResult extends Timings {
  /** unknown: it must not be probed, so nothing was learned. */
  outcome: 'up' | 'degraded' | 'down' | 'unknown';
  /** What is wrong, in one line; null when nothing is. */
  reason: string | null;
  /** The whole exchange, redirects included. */
  response_time_ms: number;
  status_code: number | null;
  tls_expires_at: string | null;
  /** Of the last hop. */
  host: string;
  /**
   * What it says of the worker's own network: some other machine answered in whatever way, or could not be reached.
   * Null where it says nothing.
   */
  network: 'answered' | 'unreachable' | null;
}

export interface ProbeOptions {
  egress: EgressPolicy;
  /** Ends the probe without a result: it rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** Probes a service. Rejects only when options.signal is aborted. */
export async function probe(definition: Definition, { egress, signal }: ProbeOptions): Promise<ProbeResult> {
  const trace = newTrace();
  const started = performance.now();
  const timeout = new AbortController();
  const timer = setTimeout(() => timeout.abort(), definition.timeout_seconds * 1000);
  const either = signal ? AbortSignal.any([signal, timeout.signal]) : timeout.signal;
  const run = definition.kind === 'tcp' ? probeTcp : probeHttp;
  let error: unknown = null;
  let degraded: string | null = null;
  try {
    degraded = await run(definition, trace, { egress, signal: either });
  } catch (caught) {
    signal?.throwIfAborted();
    error = timeout.signal.aborted
      ? new ProbeFailure(`timed out after ${definition.timeout_seconds} s while ${trace.phase}`)
      : caught;
  } finally {
    clearTimeout(timer);
  }
  const elapsed = ms(performance.now() - started);
  if (!error && !degraded && definition.degraded_above_ms !== null && elapsed > definition.degraded_above_ms)
    degraded = `took ${Math.round(elapsed)} ms, more than ${definition.degraded_above_ms} ms`;
  const { phase, address, hasConnected, ...learned } = trace;
  return {
    ...learned,
    outcome: error ? (isRefused(error, trace) ? 'unknown' : 'down') : degraded ? 'degraded' : 'up',
    reason: error ? printable(reasonOf(error, trace)) : degraded && printable(degraded),
    response_time_ms: elapsed,
    network: networkOf(error, trace),
  };
}

const texts: Record<string, string> = {
  ECONNREFUSED: 'the connection was refused',
  ECONNRESET: 'the connection was reset',
  EPIPE: 'the connection was closed',
  ENETUNREACH: 'the network is unreachable',
  EHOSTUNREACH: 'the host is unreachable',
  ETIMEDOUT: 'the host does not answer',
  HPE_HEADER_OVERFLOW: 'the headers of the answer are larger than 16 KiB',
};
// That a name does not exist is not among them: it is an answer of its zone's servers, and how whole companies go down.
const unreachableCodes = new Set(['ENETUNREACH', 'EHOSTUNREACH', 'ETIMEDOUT', 'EAI_AGAIN', 'ENETDOWN']);
const answeredCodes = new Set(['ECONNREFUSED', 'ECONNRESET']);

const nameTexts: Record<string, string> = {
  ENOTFOUND: 'its name cannot be resolved',
  EAI_AGAIN: 'its name cannot be resolved just now: the resolver does not answer',
};

function codeOf(error: unknown): string {
  // Of several addresses that were tried, one that answered, if only with a refusal, says more than the others.
  const errors: unknown[] = error instanceof AggregateError ? error.errors : [error];
  const codes = errors.map((one) => String((one as { code?: unknown } | null)?.code ?? ''));
  return codes.find((code) => answeredCodes.has(code)) ?? codes.at(-1) ?? '';
}

/** Whether it was refused from the start; where a redirect leads is the service's own doing. */
function isRefused(error: unknown, trace: Trace): boolean {
  return error instanceof EgressError && trace.status_code === null;
}

/** What went wrong in one line, for whatever was thrown while the trace was filled in. */
export function reasonOf(error: unknown, trace: Pick<Trace, 'phase'>): string {
  if (error instanceof ProbeFailure) return error.message;
  if (error instanceof EgressError) return `refused: ${error.message}`;
  const code = codeOf(error);
  if (nameTexts[code]) return nameTexts[code];
  if (texts[code]) return `${texts[code]} while ${trace.phase}`;
  if (code.startsWith('HPE_')) return `what came is not HTTP (${(error as Error).message})`;
  if (code === 'ERR_SSL_WRONG_VERSION_NUMBER' || code === 'ERR_SSL_PACKET_LENGTH_TOO_LONG')
    return 'it does not speak TLS';
  const { reason, message } = error as { reason?: string; message?: string };
  return `${reason || message || code || 'failed'}, while ${trace.phase}`;
}

/** A reason that may quote what a server said, which can be anything, as it can be stored and shown. */
export function printable(reason: string): string {
  return reason
    .slice(0, 500)
    .toWellFormed()
    .replace(/\p{Cc}/gu, ' ');
}

// An answer of this machine itself, or a refusal of ours, says nothing of the network.
function networkOf(error: unknown, trace: Trace): ProbeResult['network'] {
  if (error instanceof EgressError || trace.host === 'localhost') return null;
  const addresses = Object.values(os.networkInterfaces()).flatMap((list) => list ?? []);
  const own = trace.address?.replace(/^::ffff:/, '') ?? bareHost(trace.host);
  if (/^127\./.test(own) || addresses.some(({ address }) => address === own)) return null;
  if (trace.hasConnected || answeredCodes.has(codeOf(error))) return 'answered';
  // Not connected, and no time left.
  return error instanceof ProbeFailure || unreachableCodes.has(codeOf(error)) ? 'unreachable' : null;
}
