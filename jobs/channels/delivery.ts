// What the kinds of channels share: what they are given to say, how it can fail, and what must not be said of it.
import { z } from 'zod';
import { EgressError, type EgressPolicy } from '../../src/egress.ts';
import { certificateTexts } from '../probes/http.ts';
import { printable, reasonOf } from '../probes/probe.ts';

export type Severity = 'critical' | 'warning' | 'info';

export interface MessageAlert {
  id: string;
  name: string;
  description: string | null;
  severity: Severity;
  status: 'firing' | 'acknowledged' | 'resolved';
  source: string;
  service_name: string | null;
  labels: Record<string, string>;
  annotations: Record<string, string>;
  metadata: Record<string, unknown>;
  value: number | null;
  rule_name: string | null;
  fingerprint: string;
  started_at: string;
  acknowledged_at: string | null;
  resolved_at: string | null;
  duration_seconds: number;
  is_escalated: boolean;
}

/** What a notification says. It is what a webhook's receiver gets, as it is. */
export interface Message {
  notification_id: string;
  kind: 'alert' | 'test';
  org: string;
  /** Name of the channel. */
  channel: string;
  status: 'firing' | 'resolved';
  group_labels: Record<string, string>;
  created_at: string;
  /** Counts of the whole group, alerts that were left out among them. */
  summary: { firing: number; resolved: number };
  /** At least one, at most 100. */
  alerts: MessageAlert[];
  /** How many were left out. */
  truncated_alerts: number;
}

export interface Delivery {
  channel: {
    type: 'webhook' | 'slack' | 'email' | 'alertmanager';
    config: Record<string, unknown>;
  };
  message: Message;
  egress: EgressPolicy;
  /** The deployment's own mail server, for channels that name none. */
  smtp: { url: string | undefined; from: string };
  /** Ends the attempt: a timeout becomes a DeliveryFailure, any other reason is what deliver rejects with. */
  signal: AbortSignal;
  /** How long an Alertmanager takes an alert for firing that it hears nothing more of. */
  alertTtlSeconds: number;
}

export interface Outcome {
  response_code: number | null;
  /** What the receiver said, at most 500 characters. */
  detail: string | null;
}

/** A notification that was not delivered; its message says why in one line, without secrets of the channel. */
export class DeliveryFailure extends Error {
  readonly response_code: number | null;
  /** Whether the same attempt, made again, can only fail again. */
  readonly isPermanent: boolean;
  /** What the receiver asked for, at most 3600. */
  readonly retryAfterSeconds: number | null;

  // Without a cause: what is behind it may hold what its message leaves out.
  constructor(
    message: string,
    more: {
      response_code?: number | null;
      isPermanent?: boolean;
      retryAfterSeconds?: number | null;
    } = {},
  ) {
    super(message);
    this.response_code = more.response_code ?? null;
    this.isPermanent = more.isPermanent ?? false;
    this.retryAfterSeconds = more.retryAfterSeconds ?? null;
  }
}

export function invalidConfig(what: string): DeliveryFailure {
  return new DeliveryFailure(`the channel's configuration is not valid: ${what}`, { isPermanent: true });
}

export function parseConfig<T>(schema: z.ZodType<T>, config: Record<string, unknown>): T {
  const parsed = schema.safeParse(config);
  if (parsed.success) return parsed.data;
  const { path, message } = parsed.error.issues[0]!;
  throw invalidConfig([...path, message].join(': '));
}

export const httpUrl = z.string().superRefine((text, context) => {
  const url = URL.parse(text);
  if (!url || !/^https?:$/.test(url.protocol))
    context.addIssue({ code: 'custom', message: 'expected a URL, http://… or https://…' });
  else if (url.username || url.password)
    context.addIssue({ code: 'custom', message: 'must not hold credentials' });
});

// Of Node's http: the name or value of a header has a character that cannot be sent.
const headerCodes = new Set(['ERR_INVALID_CHAR', 'ERR_INVALID_HTTP_TOKEN', 'ERR_HTTP_INVALID_HEADER_VALUE']);

/** What to throw for whatever went wrong in an attempt that began then and had come to this phase. */
export function failureOf(
  error: unknown,
  { phase, host, began, signal }: { phase: string; host: string; began: number; signal: AbortSignal },
): unknown {
  if (error instanceof DeliveryFailure) return error;
  const where = phase === 'connecting' ? ` to ${host}` : ` (${host})`;
  if (signal.aborted) {
    if ((signal.reason as Error | undefined)?.name !== 'TimeoutError') return signal.reason;
    const seconds = Math.round((performance.now() - began) / 100) / 10;
    return new DeliveryFailure(`no answer within ${seconds} s while ${phase}${where}`);
  }
  const code = String((error as { code?: unknown } | null)?.code ?? '');
  if (headerCodes.has(code)) return invalidConfig((error as Error).message);
  const reason = certificateTexts[code]
    ? `the certificate is not valid: ${certificateTexts[code]}`
    : reasonOf(error, { phase });
  return new DeliveryFailure(`${reason}${where}`, { isPermanent: error instanceof EgressError });
}

/** A text that may quote a receiver, in one line that can be stored and shown. Receivers like to quote what they got. */
export function clean(text: string, secrets: string[]): string {
  const redacted = secrets.reduce((rest, secret) => rest.replaceAll(secret, '***'), text);
  return printable(redacted.replace(/\s+/g, ' ').trim());
}

// Shorter ones would be found in every other word.
const minSecretLength = 4;
const minSegmentLength = 12;

/** What must not be quoted, longest first: credentials, header values, and of URLs all that comes after the host. */
export function secretsOf(config: Record<string, unknown>, smtpUrl: string | undefined): string[] {
  const { secret, password, bearer_token, username, headers } = config;
  const urls = [config.url, config.smtp_url, smtpUrl].flatMap((text) => URL.parse(String(text)) ?? []);
  const found = [secret, password, bearer_token, ...urls.flatMap(secretsOfUrl)];
  if (password) found.push(base64(`${username ?? ''}:${password}`));
  for (const value of Object.values((headers ?? {}) as Record<string, unknown>))
    found.push(
      value,
      ...String(value)
        .split(/[\s,;]+/)
        .slice(1),
    );
  const texts = found.filter(
    (text) => typeof text === 'string' && text.length >= minSecretLength,
  ) as string[];
  const paths = urls.flatMap(({ pathname, search }) => [pathname + search, pathname, search]);
  texts.push(...paths.filter((path) => path.length > 1));
  return [...new Set(texts)].sort((a, b) => b.length - a.length);
}

function secretsOfUrl({ username, password: encoded, pathname, searchParams }: URL): string[] {
  const segments = pathname.split('/').filter((segment) => segment.length >= minSegmentLength);
  const password = decoded(encoded);
  // As the mechanisms PLAIN and LOGIN of SMTP send them.
  const credentials = password
    ? [encoded, password, base64(password), base64(`\0${decoded(username)}\0${password}`)]
    : [];
  return [...segments, ...segments.map(decoded), ...searchParams.values(), ...credentials];
}

function base64(text: string): string {
  return Buffer.from(text).toString('base64');
}

/** The text itself where it is not what encodeURIComponent makes. */
export function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
