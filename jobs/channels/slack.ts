// A message in a Slack channel, by way of an incoming webhook.
import { z } from 'zod';
import {
  type Delivery,
  httpUrl,
  type Message,
  type MessageAlert,
  type Outcome,
  parseConfig,
  type Severity,
} from './delivery.ts';
import { post } from './http.ts';
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

const configSchema = z.object({ url: httpUrl });

/** More would not be read, and a message holds 50 blocks at most. */
const maxAlerts = 10;

export async function sendSlack({ channel, message, egress, signal }: Delivery): Promise<Outcome> {
  const { url } = parseConfig(configSchema, channel.config);
  return await post(new URL(url), {
    headers: { 'Content-Type': 'application/json', 'Idempotency-Key': message.notification_id },
    body: JSON.stringify(payload(message)),
    egress,
    signal,
  });
}

function payload(message: Message) {
  const title = titleOf(message);
  const shown = message.alerts.slice(0, maxAlerts);
  const left = message.alerts.length - shown.length + message.truncated_alerts;
  const mark = message.status === 'resolved' ? marks.resolved : marks[worst(message)];
  return {
    // What a phone shows of it, and whoever cannot see blocks.
    text: escaped(title, 1000),
    unfurl_links: false,
    blocks: [
      {
        type: 'header',
        text: { type: 'plain_text', text: escaped(`${mark} ${title}`, 150), emoji: false },
      },
      context(
        [
          ...(message.kind === 'test' ? ['This is a test.'] : []),
          `${countsOf(message)}, ${date(message.created_at)}`,
          `organisation ${escaped(message.org, 200)}, channel ${escaped(message.channel, 200)}`,
          ...(left > 0 ? [`${left} more ${left === 1 ? 'alert is' : 'alerts are'} not shown`] : []),
        ].join('  |  '),
      ),
    ],
    // One for each alert: only an attachment has a colour.
    attachments: shown.map((alert) => ({
      color: colours[lookOf(alert)],
      fallback: escaped(`${alert.name}: ${stateOf(alert)}`, 1000),
      blocks: [section(alert)],
    })),
  };
}

function worst({ alerts }: Message): Severity {
  const severities = ['critical', 'warning', 'info'] as const;
  return (
    severities.find((one) =>
      alerts.some(({ severity, status }) => severity === one && status !== 'resolved'),
    ) ?? 'info'
  );
}

function section(alert: MessageAlert) {
  const description = alert.description ? `\n${encoded(clipLines(alert.description, 2000), 2000)}` : '';
  const labels = pairs(alert.labels);
  const annotations = pairs(alert.annotations);
  return {
    type: 'section',
    text: mrkdwn(`${marks[lookOf(alert)]} *${escaped(alert.name, 300)}*${description}`),
    fields: [
      ...(alert.service_name ? [field('Service', escaped(alert.service_name, 500))] : []),
      field('Status', escaped(stateOf(alert), 500)),
      field('Since', `${date(alert.started_at)} (${duration(alert.duration_seconds)})`),
      ...(alert.value === null ? [] : [field('Value', String(alert.value))]),
      ...(alert.rule_name ? [field('Rule', escaped(alert.rule_name, 500))] : []),
      ...(labels ? [field('Labels', escaped(labels, 1500))] : []),
      ...(annotations ? [field('Annotations', escaped(annotations, 1500))] : []),
    ],
  };
}

function pairs(record: Record<string, string>): string {
  return Object.entries(record)
    .map(([name, value]) => `${name}=${value}`)
    .join(', ');
}

function field(name: string, text: string) {
  return mrkdwn(`*${name}*\n${text}`);
}

function context(text: string) {
  return { type: 'context', elements: [mrkdwn(text)] };
}

// Verbatim: nothing in it becomes a mention or a link that is not written as one.
function mrkdwn(text: string) {
  return { type: 'mrkdwn', text, verbatim: true };
}

/** An instant that Slack shows in the reader's own time zone. */
function date(time: string): string {
  return `<!date^${Math.floor(Date.parse(time) / 1000)}^{date_short_pretty} {time_secs}|${instant(time)}>`;
}

const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;' };

/** In one line, with what Slack takes for markup replaced. */
function escaped(text: string, length: number): string {
  return encoded(clip(text, length), length);
}

/** Of at most so many characters: no entity is cut in two. */
function encoded(text: string, length: number): string {
  const parts = Array.from(text, (character) => entities[character] ?? character);
  let size = parts.reduce((sum, part) => sum + part.length, 0);
  if (size <= length) return parts.join('');
  while (size > length - 1) size -= parts.pop()!.length;
  return `${parts.join('')}…`;
}
