// Alerts handed to a Prometheus Alertmanager (API v2), which routes them by its own rules.
import { z } from 'zod';
import {
  type Delivery,
  httpUrl,
  type Message,
  type MessageAlert,
  type Outcome,
  parseConfig,
} from './delivery.ts';
import { post } from './http.ts';

const configSchema = z.object({
  /** Where the Alertmanager is, without the path of its API. */
  url: httpUrl,
  username: z.string().nullish(),
  password: z.string().nullish(),
  bearer_token: z.string().nullish(),
});
type Config = z.infer<typeof configSchema>;

export async function sendAlertmanager(delivery: Delivery): Promise<Outcome> {
  const { channel, message, egress, signal, alertTtlSeconds } = delivery;
  const config = parseConfig(configSchema, channel.config);
  const url = new URL(config.url);
  url.pathname = `${url.pathname.replace(/\/+$/, '')}/api/v2/alerts`;
  const firingUntil = Date.parse(message.created_at) + alertTtlSeconds * 1000;
  return await post(url, {
    headers: { 'Content-Type': 'application/json', ...authorization(config) },
    body: JSON.stringify(message.alerts.map((alert) => postable(alert, message, firingUntil))),
    egress,
    signal,
  });
}

function authorization({ username, password, bearer_token }: Config): Record<string, string> {
  if (bearer_token) return { Authorization: `Bearer ${bearer_token}` };
  if (!username && !password) return {};
  const credentials = Buffer.from(`${username ?? ''}:${password ?? ''}`).toString('base64');
  return { Authorization: `Basic ${credentials}` };
}

function postable(alert: MessageAlert, message: Message, firingUntil: number) {
  const annotations = named(alert.annotations);
  if (alert.description) annotations.description ??= alert.description;
  const started = Date.parse(alert.started_at);
  const ended =
    alert.status === 'resolved' ? Date.parse(alert.resolved_at ?? message.created_at) : firingUntil;
  return {
    // Without what changes while the alert lasts: an Alertmanager knows an alert by its labels.
    labels: {
      ...named(alert.labels),
      alertname: alert.name,
      severity: alert.severity,
      ...(alert.service_name ? { service: alert.service_name } : {}),
      org: message.org,
    },
    annotations,
    startsAt: new Date(started).toISOString(),
    // One that ends before it starts is refused.
    endsAt: new Date(Math.max(started, ended)).toISOString(),
  };
}

// Prometheus knows letters, digits and underscores. Of two names that become one, the one that is right already stays.
function named(pairs: Record<string, string>): Record<string, string> {
  const names = new Map<string, string>();
  for (const [name, value] of Object.entries(pairs)) {
    const allowed = name.replace(/[^a-zA-Z0-9_]/g, '_').replace(/^(?=\d|$)/, '_');
    if (allowed === name || !names.has(allowed)) names.set(allowed, value);
  }
  return Object.fromEntries(names);
}
