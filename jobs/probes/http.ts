// An http(s) service is up when the answer is as expected: status, body, certificate.
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import tls from 'node:tls';
import { isDeepStrictEqual } from 'node:util';
import { compile, type JSONValue } from 'json-p3';
import { bareHost, type EgressPolicy } from '../../src/egress.ts';
import { serviceName, version } from '../../src/version.ts';
import { connect } from './tcp.ts';
import { abortable, type Definition, ms, ProbeFailure, type Trace } from './trace.ts';

/** An answer that is longer is a failure: what is probed is a health endpoint. */
export const maxAnswerBytes = 1024 ** 2;

interface Options {
  egress: EgressPolicy;
  signal: AbortSignal;
}

interface Request {
  url: URL;
  method: string;
  headers: Record<string, string>;
  body: string | null;
}

interface Answer {
  status: number;
  location: string | undefined;
  /** A redirect that leads on; its body is not read. */
  isFollowed: boolean;
  type: string;
  body: Buffer;
}

/** Answers why the service is degraded, or null when all is well; throws why it is down. */
export async function probeHttp(
  definition: Definition,
  trace: Trace,
  options: Options,
): Promise<string | null> {
  let request: Request = {
    url: new URL(definition.health_endpoint),
    method: definition.method,
    headers: definition.headers,
    body: definition.request_body,
  };
  for (let hop = 0; ; hop++) {
    const answer = await exchange(request, definition, trace, options);
    if (!answer.isFollowed) return judge(answer, definition, trace);
    if (hop === definition.max_redirects)
      throw new ProbeFailure(`redirected more than ${definition.max_redirects} times`);
    request = follow(request, answer);
  }
}

function follow(request: Request, answer: Answer): Request {
  if (!URL.canParse(answer.location!, request.url.href))
    throw new ProbeFailure('redirected to something that is not a URL');
  const url = new URL(answer.location!, request.url);
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw new ProbeFailure(`redirected to ${url.protocol.slice(0, 50)}, which is not followed`);
  // Headers and body may hold secrets, which are meant for the service and not for where it sends us.
  if (url.origin !== request.url.origin)
    return { url, method: request.method === 'HEAD' ? 'HEAD' : 'GET', headers: {}, body: null };
  const keepsMethod = answer.status === 307 || answer.status === 308 || request.method === 'HEAD';
  return {
    url,
    method: keepsMethod ? request.method : 'GET',
    body: keepsMethod ? request.body : null,
    headers: request.headers,
  };
}

async function exchange(
  request: Request,
  definition: Definition,
  trace: Trace,
  options: Options,
): Promise<Answer> {
  return await send(request, definition, trace, options, async (response, destroy) => {
    const status = response.statusCode!;
    const { location, 'content-type': type = '' } = response.headers;
    const isFollowed =
      [301, 302, 303, 307, 308].includes(status) &&
      location !== undefined &&
      definition.max_redirects > 0 &&
      !isExpected(status, definition.expected_status);
    const body = isFollowed ? Buffer.alloc(0) : await abortable(options.signal, destroy, read(response));
    return { status, location, isFollowed, type, body };
  });
}

/**
 * Sends one request over a connection of its own, which is closed when read has settled. The trace gets timings, phase, status
 * and what is learned of the certificate.
 */
export async function send<T>(
  { url, method, headers, body }: Request,
  definition: Pick<Definition, 'tls_verify' | 'timeout_seconds'>,
  trace: Trace,
  options: Options,
  read: (response: http.IncomingMessage, destroy: () => void) => Promise<T>,
): Promise<T> {
  Object.assign(trace, {
    tls_ms: null,
    connect_ms: null,
    first_byte_ms: null,
    address: null,
  });
  const isTls = url.protocol === 'https:';
  const port = Number(url.port) || (isTls ? 443 : 80);
  const plain = await connect(url, port, trace, options, definition.timeout_seconds * 1000);
  const destroy = () => plain.destroy();
  try {
    const socket = isTls ? await secure(plain, url, definition, trace, options.signal) : plain;
    trace.phase = 'waiting for its answer';
    const began = performance.now();
    const request = http.request({
      createConnection: () => socket,
      method,
      path: url.pathname + url.search,
      headers: {
        Host: url.host,
        'User-Agent': `${serviceName}/${version}`,
        Accept: '*/*',
        'Accept-Encoding': 'identity',
        ...headers,
        Connection: 'close',
      },
    });
    request.on('error', () => {});
    const responded = Promise.race([once(request, 'response'), upgraded(request)]) as Promise<
      [http.IncomingMessage]
    >;
    request.end(body ?? undefined);
    const [response] = await abortable(options.signal, destroy, responded);
    trace.first_byte_ms = ms(performance.now() - began);
    trace.status_code = response.statusCode!;
    trace.phase = 'reading its answer';
    return await read(response, destroy);
  } finally {
    destroy();
  }
}

async function upgraded(request: http.ClientRequest): Promise<never> {
  await once(request, 'upgrade');
  throw new ProbeFailure('it switches to another protocol (status 101)');
}

async function read(response: http.IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > maxAnswerBytes) throw new ProbeFailure(`the answer is longer than ${maxAnswerBytes} bytes`);
      chunks.push(chunk);
    }
  } catch (error) {
    if (error instanceof ProbeFailure) throw error;
    const { code } = error as { code?: string };
    throw code === 'ECONNRESET' && !response.complete
      ? new ProbeFailure(`the connection was closed in the middle of the answer, after ${size} bytes`)
      : error;
  }
  return Buffer.concat(chunks);
}

async function secure(
  plain: net.Socket,
  url: URL,
  definition: Pick<Definition, 'tls_verify'>,
  trace: Trace,
  signal: AbortSignal,
): Promise<tls.TLSSocket> {
  trace.phase = 'shaking hands for TLS';
  const began = performance.now();
  const hostname = bareHost(url.hostname);
  const socket = tls.connect({
    socket: plain,
    host: hostname,
    ...(net.isIP(hostname) ? {} : { servername: hostname }),
    ALPNProtocols: ['http/1.1'],
    // Judged below, where more can be said than that it failed; nothing is sent before.
    rejectUnauthorized: false,
  });
  socket.on('error', () => {});
  await abortable(
    signal,
    () => plain.destroy(),
    Promise.race([once(socket, 'secureConnect'), closed(socket)]),
  );
  trace.tls_ms = ms(performance.now() - began);
  const { valid_to } = socket.getPeerCertificate();
  const expiresAt = new Date(valid_to);
  if (!Number.isNaN(expiresAt.getTime())) trace.tls_expires_at = expiresAt.toISOString();
  if (definition.tls_verify && !socket.authorized) {
    const code = String(socket.authorizationError);
    throw new ProbeFailure(
      code === 'CERT_HAS_EXPIRED'
        ? `the certificate expired at ${trace.tls_expires_at}`
        : `the certificate is not valid: ${certificateTexts[code] ?? code}`,
    );
  }
  return socket;
}

async function closed(socket: tls.TLSSocket): Promise<never> {
  await once(socket, 'close');
  throw new ProbeFailure('the connection was closed in the TLS handshake');
}

/** What is wrong with a certificate, by the code of the error. */
export const certificateTexts: Record<string, string> = {
  DEPTH_ZERO_SELF_SIGNED_CERT: 'it is self-signed',
  SELF_SIGNED_CERT_IN_CHAIN: 'its chain ends in a self-signed one that is not trusted',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its issuer is not trusted, or missing from the chain',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'its issuer is not trusted',
  CERT_NOT_YET_VALID: 'it is not valid yet',
  ERR_TLS_CERT_ALTNAME_INVALID: 'it is for another host name',
};

function isExpected(status: number, expected: string[]): boolean {
  return expected.some((text) => {
    if (/^\dxx$/.test(text)) return Math.floor(status / 100) === Number(text[0]);
    const [from, to = from] = text.split('-').map(Number);
    return status >= from! && status <= to!;
  });
}

const degradedWords = new Set(['degraded', 'warn', 'warning']);
const downWords = new Set(['unhealthy', 'down', 'fail', 'failed', 'error', 'critical', 'out_of_service']);

function judge(answer: Answer, definition: Definition, trace: Trace): string | null {
  const said = statusIn(answer);
  if (!isExpected(answer.status, definition.expected_status)) {
    const more = said ? `; it says ${said.status}${said.message}` : '';
    throw new ProbeFailure(
      `status ${answer.status}, expected ${definition.expected_status.join(', ')}${more}`,
    );
  }
  const expected = definition.expected_body;
  if (expected && 'contains' in expected) {
    if (!answer.body.includes(expected.contains))
      throw new ProbeFailure(`the answer does not contain ${JSON.stringify(expected.contains)}`);
  } else if (expected) {
    checkJson(answer, expected);
  } else if (said && downWords.has(said.status)) {
    throw new ProbeFailure(`it says that it is ${said.status}${said.message}`);
  }
  if (!expected && said && degradedWords.has(said.status))
    return `it says that it is ${said.status}${said.message}`;
  return expiryWarning(definition, trace);
}

/** Of an answer {"status": "…", "message": "…"} what it says: the status in lower case, and ': message' or nothing. */
function statusIn(answer: Answer): { status: string; message: string } | null {
  if (!/json/i.test(answer.type) && answer.body[0] !== 0x7b) return null;
  const { status, message } = (parseJson(answer.body) ?? {}) as { status?: unknown; message?: unknown };
  if (typeof status !== 'string') return null;
  return {
    status: status.toLowerCase().slice(0, 100),
    message: typeof message === 'string' && message ? `: ${message.slice(0, 200)}` : '',
  };
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString());
  } catch {
    return undefined;
  }
}

function checkJson(answer: Answer, expected: { json_path: string; equals?: unknown }) {
  const value = parseJson(answer.body);
  if (value === undefined) throw new ProbeFailure('the answer is not JSON');
  const [found] = compile(expected.json_path)
    .query(value as JSONValue)
    .values();
  if (found === undefined) throw new ProbeFailure(`the answer has nothing at ${expected.json_path}`);
  if ('equals' in expected && !isDeepStrictEqual(found, expected.equals)) {
    const is = JSON.stringify(found).slice(0, 100);
    throw new ProbeFailure(
      `the answer has ${is} at ${expected.json_path}, expected ${JSON.stringify(expected.equals).slice(0, 100)}`,
    );
  }
}

const dayMs = 86_400_000;

function expiryWarning(definition: Definition, trace: Trace): string | null {
  if (!trace.tls_expires_at || definition.tls_expiry_days === 0) return null;
  const days = (Date.parse(trace.tls_expires_at) - Date.now()) / dayMs;
  if (days > definition.tls_expiry_days) return null;
  return days < 0
    ? `the certificate expired at ${trace.tls_expires_at}`
    : `the certificate expires in ${days < 1 ? 'less than a day' : `${Math.floor(days)} days`}, at ${trace.tls_expires_at}`;
}
