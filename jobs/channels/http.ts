// One POST to a receiver, and what its answer means.
import type http from 'node:http';
import type { EgressPolicy } from '../../src/egress.ts';
import { send } from '../probes/http.ts';
import { abortable, newTrace } from '../probes/trace.ts';
import { DeliveryFailure, failureOf, type Outcome } from './delivery.ts';

/** Of the answer only its beginning is of interest; the rest is not read. */
const maxAnswerBytes = 64 * 1024;

const maxRetryAfterSeconds = 3600;

// Shared out among the addresses of a host that has several, so that one that does not answer leaves time for the others.
const connectSeconds = 5;

export async function post(
  url: URL,
  {
    headers,
    body,
    egress,
    signal,
  }: { headers: Record<string, string>; body: string; egress: EgressPolicy; signal: AbortSignal },
): Promise<Outcome> {
  const trace = newTrace();
  const began = performance.now();
  try {
    return await send(
      { url, method: 'POST', headers, body },
      { tls_verify: true, timeout_seconds: connectSeconds },
      trace,
      { egress, signal },
      async (response, destroy) => judge(response, await readStart(response, signal, destroy)),
    );
  } catch (error) {
    throw failureOf(error, { phase: trace.phase, host: url.host, began, signal });
  }
}

// The status is the receiver's word. Where its body breaks off or does not end, what has come of it will do.
async function readStart(
  response: http.IncomingMessage,
  signal: AbortSignal,
  destroy: () => void,
): Promise<string> {
  const chunks: Buffer[] = [];
  const reading = async () => {
    let size = 0;
    for await (const chunk of response as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      size += chunk.length;
      if (size >= maxAnswerBytes) break;
    }
  };
  await abortable(signal, destroy, reading()).catch(() => {});
  return Buffer.concat(chunks).subarray(0, maxAnswerBytes).toString();
}

function judge(response: http.IncomingMessage, text: string): Outcome {
  const status = response.statusCode!;
  if (status >= 200 && status < 300) return { response_code: status, detail: text };
  const isRedirect = status >= 300 && status < 400;
  const isRefusal = status >= 400 && status < 500 && ![408, 425, 429].includes(status);
  const said = text.trim() ? `: ${text}` : '';
  throw new DeliveryFailure(
    isRedirect
      ? `the receiver answered ${status}, and redirects are not followed`
      : `the receiver answered ${status}${said}`,
    {
      response_code: status,
      isPermanent: isRedirect || isRefusal,
      retryAfterSeconds:
        status === 429 || status === 503 ? retryAfterSeconds(response.headers['retry-after']) : null,
    },
  );
}

function retryAfterSeconds(header: string | undefined): number | null {
  if (!header) return null;
  const seconds = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? null : Math.min(maxRetryAfterSeconds, Math.max(0, Math.ceil(seconds)));
}
