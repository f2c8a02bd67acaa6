// A message by mail, over SMTP: as plain text and as HTML, which is light enough for a phone.
import { createHash } from 'node:crypto';
import type net from 'node:net';
import nodemailer from 'nodemailer';
import { z } from 'zod';
import { bareHost } from '../../src/egress.ts';
import { connect } from '../probes/tcp.ts';
import { newTrace } from '../probes/trace.ts';
import {
  type Delivery,
  DeliveryFailure,
  decoded,
  failureOf,
  invalidConfig,
  type Message,
  type MessageAlert,
  type Outcome,
  parseConfig,
} from './delivery.ts';
import {
  clip,
  clipLines,
  colours,
  countsOf,
  duration,
  instant,
  lookOf,
  marks,
  stateOf,
  titleOf,
} from './words.ts';

const configSchema = z.object({
  to: z.array(z.string().min(1)).min(1),
  smtp_url: z.string().nullish(),
  from: z.string().nullish(),
});

interface Server {
  host: string;
  port: number;
  /** TLS from the start; otherwise whenever the server offers it. */
  secure: boolean;
  auth: { user: string; pass: string } | undefined;
}

// Shared out among the addresses of a host that has several.
const connectMs = 5_000;

export async function sendEmail({ channel, message, egress, smtp, signal }: Delivery): Promise<Outcome> {
  const { to, smtp_url, from } = parseConfig(configSchema, channel.config);
  const server = smtp_url ? parseSmtpUrl('smtp_url', smtp_url) : parseSmtpUrl('SMTP_URL', smtp.url);
  const url = new URL(`smtp://${server.host}:${server.port}`);
  const trace = newTrace();
  const began = performance.now();
  let socket: net.Socket | undefined;
  const transport = nodemailer.createTransport({
    ...server,
    host: bareHost(server.host),
    // Closed below.
    socketCloseTimeout: 0,
    // nodemailer would look the name up by itself, and connect to whatever it stands for then.
    getSocket: async (_options, callback) => {
      try {
        // The deployment's own server is where its operator says.
        const policy = smtp_url ? egress : 'allow';
        socket = await connect(url, server.port, trace, { egress: policy, signal }, connectMs);
      } catch (error) {
        callback(error as Error);
        return;
      }
      trace.phase = 'talking to the mail server';
      // Whoever sits in between could take the offer of TLS out of the server's words, and get the password.
      const requireTLS = server.auth !== undefined && !isLoopback(socket.remoteAddress);
      callback(null, { connection: socket, requireTLS });
    },
  });
  try {
    const info = await transport.sendMail({ ...mail(message, (smtp_url && from) || smtp.from, to), signal });
    const refused = (info.rejectedErrors ?? []).map(
      ({ recipient, response }) => `; refused for ${recipient}: ${response}`,
    );
    return { response_code: codeOf(info.response), detail: `${info.response}${refused.join('')}` };
  } catch (error) {
    throw smtpFailure(error, { phase: trace.phase, host: url.host, began, signal });
  } finally {
    socket?.destroy();
  }
}

function parseSmtpUrl(name: string, text: string | undefined): Server {
  if (!text)
    throw new DeliveryFailure(
      'there is no mail server: neither the channel has an smtp_url nor is SMTP_URL set',
      {
        isPermanent: true,
      },
    );
  const url = URL.parse(text);
  if (!url || !/^smtps?:$/.test(url.protocol) || !url.hostname || url.search)
    throw invalidConfig(
      `${name}: expected one such as smtp://user:password@mail.example.com:587 or smtps://…`,
    );
  const secure = url.protocol === 'smtps:';
  return {
    host: url.hostname,
    port: Number(url.port) || (secure ? 465 : 587),
    secure,
    auth: url.username ? { user: decoded(url.username), pass: decoded(url.password) } : undefined,
  };
}

function isLoopback(address: string | undefined): boolean {
  return /^(::ffff:)?127\.|^::1$/.test(address ?? '');
}

function codeOf(response: string | undefined): number | null {
  return Number(/^\d{3}/.exec(response ?? '')?.[0]) || null;
}

interface SmtpError extends Error {
  code?: string;
  /** What the system or TLS called it, where code is nodemailer's own. */
  originalCode?: string;
  response?: string;
  responseCode?: number;
  command?: string;
}

function smtpFailure(error: unknown, attempt: Parameters<typeof failureOf>[1]): unknown {
  const { code, originalCode, response, responseCode, command, message } = error as SmtpError;
  if (attempt.signal.aborted) return failureOf(error, attempt);
  if (response && responseCode)
    return new DeliveryFailure(
      `the mail server answered ${command && command !== 'CONN' ? `${command} with ` : ''}${response}`,
      { response_code: responseCode, isPermanent: responseCode >= 500 },
    );
  // Never sent: there is nobody to send it to, or nothing to log in with.
  if (code === 'EENVELOPE' || command === 'API') return invalidConfig(message);
  return failureOf(originalCode ? Object.assign(error as Error, { code: originalCode }) : error, attempt);
}

function mail(message: Message, from: string, to: string[]) {
  const domain = /@([\w.-]+)>?\s*$/.exec(from)?.[1] ?? 'liftos-observability.invalid';
  const thread = `<${threadOf(message)}@${domain}>`;
  return {
    from,
    to,
    subject: titleOf(message),
    // The same at every attempt, so that a mailbox which gets it twice can tell.
    messageId: `<${message.notification_id}@${domain}>`,
    // To no message that was ever sent: it is what all notifications of a group have in common.
    inReplyTo: thread,
    references: thread,
    headers: { 'X-Notification-Id': message.notification_id, 'Auto-Submitted': 'auto-generated' },
    text: textOf(message),
    html: htmlOf(message),
    disableFileAccess: true,
    disableUrlAccess: true,
  };
}

function threadOf({ org, channel, group_labels }: Message): string {
  const labels = Object.entries(group_labels).sort(([a], [b]) => (a < b ? -1 : 1));
  return createHash('sha256')
    .update(JSON.stringify([org, channel, labels]))
    .digest('hex')
    .slice(0, 32);
}

const maxValueLength = 500;
const maxDescriptionLength = 2000;

/** What is said of an alert besides its name and description. */
function facts(alert: MessageAlert): [name: string, value: string][] {
  const time = (at: string | null) => (at ? instant(at) : null);
  const all: [string, string | null][] = [
    ['Status', stateOf(alert)],
    ['Service', alert.service_name],
    ['Since', `${instant(alert.started_at)} (${duration(alert.duration_seconds)})`],
    ['Acknowledged', time(alert.acknowledged_at)],
    ['Resolved', time(alert.resolved_at)],
    ['Value', alert.value === null ? null : String(alert.value)],
    ['Rule', alert.rule_name],
    ['Source', alert.source],
    ...Object.entries(alert.labels),
    ...Object.entries(alert.annotations),
  ];
  return all.flatMap(([name, value]) => (value ? [[clip(name, 100), clip(value, maxValueLength)]] : []));
}

function intro(message: Message): string {
  return `${message.kind === 'test' ? 'This is a test. ' : ''}${countsOf(message)}, ${instant(message.created_at)}`;
}

function leftOut({ truncated_alerts: count }: Message): string[] {
  return count > 0 ? [`${count} more ${count === 1 ? 'alert is' : 'alerts are'} not shown.`] : [];
}

function origin(message: Message): string {
  return `Organisation ${clip(message.org, 200)}, channel ${clip(message.channel, 200)}, notification ${message.notification_id}`;
}

function textOf(message: Message): string {
  const alerts = message.alerts.map((alert) =>
    [
      `${marks[lookOf(alert)]} ${clip(alert.name, maxValueLength)}`,
      ...(alert.description ? [clipLines(alert.description, maxDescriptionLength)] : []),
      ...facts(alert).map(([name, value]) => `  ${name}: ${value}`),
    ].join('\n'),
  );
  return `${[titleOf(message), intro(message), ...alerts, ...leftOut(message), origin(message)].join('\n\n')}\n`;
}

function htmlOf(message: Message): string {
  const grey = 'color:#666;font-size:13px';
  return [
    '<!doctype html><html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"></head>',
    '<body style="margin:0;padding:16px;background:#fff;color:#222;font:15px/1.4 sans-serif">',
    '<div style="max-width:600px">',
    `<h2 style="margin:0 0 4px;font-size:18px">${escaped(titleOf(message))}</h2>`,
    `<p style="margin:0 0 16px;${grey}">${escaped(intro(message))}</p>`,
    ...message.alerts.map(alertHtml),
    ...leftOut(message).map((text) => `<p style="margin:0 0 16px">${escaped(text)}</p>`),
    `<p style="margin:16px 0 0;${grey}">${escaped(origin(message))}</p>`,
    '</div></body></html>\n',
  ].join('\n');
}

function alertHtml(alert: MessageAlert): string {
  const cell = 'padding:1px 0;vertical-align:top;overflow-wrap:anywhere';
  return [
    `<div style="margin:0 0 16px;padding:4px 0 4px 12px;border-left:4px solid ${colours[lookOf(alert)]}">`,
    `<div style="font-weight:bold">${escaped(clip(alert.name, maxValueLength))}</div>`,
    ...(alert.description
      ? [
          `<div style="white-space:pre-line">${escaped(clipLines(alert.description, maxDescriptionLength))}</div>`,
        ]
      : []),
    '<table style="border-collapse:collapse;font-size:14px">',
    ...facts(alert).map(
      ([name, value]) =>
        `<tr><td style="${cell};padding-right:12px;color:#666">${escaped(name)}</td><td style="${cell}">${linked(value)}</td></tr>`,
    ),
    '</table></div>',
  ].join('\n');
}

/** A runbook or a dashboard is a link. */
function linked(value: string): string {
  const text = escaped(value);
  return /^https?:\/\/\S+$/.test(value) ? `<a href="${text}">${text}</a>` : text;
}

const entities: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => entities[character]!);
}
