// What the kinds of probes share: what they are asked, what they leave behind, and how they are called off.

/** The columns of obs.service that a probe needs. */
export interface Definition {
  kind: 'http' | 'tcp';
  health_endpoint: string;
  method: string;
  headers: Record<string, string>;
  request_body: string | null;
  expected_status: string[];
  expected_body: { contains: string } | { json_path: string; equals?: unknown } | null;
  max_redirects: number;
  tls_verify: boolean;
  tls_expiry_days: number;
  degraded_above_ms: number | null;
  timeout_seconds: number;
}

/** Milliseconds of the last hop; null where it did not come to that. */
export interface Timings {
  dns_ms: number | null;
  connect_ms: number | null;
  tls_ms: number | null;
  first_byte_ms: number | null;
}

/** What a probe fills in as it goes, so that what was learned before a failure is there after it. */
export interface Trace extends Timings {
  host: string;
  /** What the probe is waiting for. */
  phase: string;
  /** Address that is connected to. */
  address: string | null;
  /** Whether any hop was connected. */
  hasConnected: boolean;
  status_code: number | null;
  tls_expires_at: string | null;
}

export function newTrace(): Trace {
  return {
    host: '',
    phase: 'starting',
    address: null,
    hasConnected: false,
    dns_ms: null,
    connect_ms: null,
    tls_ms: null,
    first_byte_ms: null,
    status_code: null,
    tls_expires_at: null,
  };
}

/** Reason for which a service counts as down: its message is the probe's. */
export class ProbeFailure extends Error {}

export function ms(elapsed: number): number {
  return Math.round(elapsed * 1000) / 1000;
}

/** Rejects when the signal is aborted, whatever happens to work; destroy is called then. */
export function abortable<T>(signal: AbortSignal, destroy: () => void, work: Promise<T>): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const abort = () => {
      destroy();
      reject(signal.reason);
    };
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
