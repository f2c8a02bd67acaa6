// One notification through one channel. Whoever calls says how long it may take, and whether to try again.
import { sendAlertmanager } from './alertmanager.ts';
import { clean, type Delivery, DeliveryFailure, type Outcome, secretsOf } from './delivery.ts';
import { sendEmail } from './email.ts';
import { sendSlack } from './slack.ts';
import { sendWebhook } from './webhook.ts';

export type { Delivery, Message, MessageAlert, Outcome, Severity } from './delivery.ts';
export { DeliveryFailure } from './delivery.ts';

const senders = {
  webhook: sendWebhook,
  slack: sendSlack,
  email: sendEmail,
  alertmanager: sendAlertmanager,
};

/** Delivers, or rejects with a DeliveryFailure; with the signal's own reason when that is not a timeout. */
export async function deliver(delivery: Delivery): Promise<Outcome> {
  const { type, config } = delivery.channel;
  const secrets = secretsOf(config, delivery.smtp.url);
  try {
    const { response_code, detail } = await senders[type](delivery);
    return { response_code, detail: clean(detail ?? '', secrets) || null };
  } catch (error) {
    throw error instanceof DeliveryFailure
      ? new DeliveryFailure(clean(error.message, secrets), error)
      : error;
  }
}
