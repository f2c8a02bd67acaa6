// The message as it is, signed, to a receiver of the user's own.
import { createHmac } from 'node:crypto';
import { z } from 'zod';
import { type Delivery, httpUrl, type Outcome, parseConfig } from './delivery.ts';
import { post } from './http.ts';

const configSchema = z.object({
  url: httpUrl,
  secret: z.string().nullish(),
  headers: z.record(z.string(), z.string()).nullish(),
});

// What the message is and whom it is from, and what makes the exchange one: its length, its end, its connection.
const ownHeaders =
  /^(content-type|user-agent|idempotency-key|x-signature-256|connection|content-length|expect|keep-alive|te|trailer|transfer-encoding|upgrade)$/i;

export async function sendWebhook({ channel, message, egress, signal }: Delivery): Promise<Outcome> {
  const { url, secret, headers } = parseConfig(configSchema, channel.config);
  const body = JSON.stringify(message);
  const more = Object.entries(headers ?? {}).filter(([name]) => !ownHeaders.test(name));
  return await post(new URL(url), {
    headers: {
      ...Object.fromEntries(more),
      'Content-Type': 'application/json',
      'Idempotency-Key': message.notification_id,
      ...(secret ? { 'X-Signature-256': signatureOf(body, secret) } : {}),
    },
    body,
    egress,
    signal,
  });
}

function signatureOf(body: string, secret: string): string {
  return `sha256=${createHmac('sha256', secret).update(body).digest('hex')}`;
}
