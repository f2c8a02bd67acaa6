// Channels: where notifications go, and which alerts each is told of.

import net from 'node:net';
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { AuthEnv } from '../auth.ts';
import { bareHost, type EgressPolicy, egressObstacle } from '../egress.ts';
import { invalid, Problem } from '../errors.ts';
import { limits } from '../ingest/metrics.ts';
import { needs } from '../permissions.ts';
import {
  check,
  endpoint,
  isUuid,
  refuseQuery,
  requestOf,
  responses,
  text,
  waitForWorker,
} from '../request.ts';
import type { Sealer } from '../seal.ts';
import { severities, severitySchema } from './alerts.ts';
import {
  definitionRoutes,
  idParams,
  type RouteDependencies,
  type Row,
  shownSwitch,
  switchSchema,
} from './definitions.ts';
import { matchersSchema, shownMatchersSchema } from './expressions.ts';
import { notificationSchema } from './notifications.ts';

const types = ['webhook', 'slack', 'email', 'alertmanager'] as const;
type ChannelType = (typeof types)[number];

// Stored in its normal form, of which SQL knows where the secrets are.
const url = (...schemes: string[]) =>
  text(2048)
    .refine(
      (value) => URL.canParse(value) && schemes.includes(new URL(value).protocol),
      `expected a URL that starts with ${schemes.map((scheme) => `${scheme}//`).join(' or ')}`,
    )
    .transform((value) => (URL.canParse(value) ? new URL(value).href : value));
const webUrl = url('http:', 'https:').refine(
  (value) => !URL.canParse(value) || (new URL(value).username === '' && new URL(value).password === ''),
  'must not hold credentials',
);
const headerName = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$/;
const ownHeaders = [
  'content-type',
  'content-length',
  'host',
  'connection',
  'user-agent',
  'idempotency-key',
  'x-signature-256',
  'transfer-encoding',
  'expect',
  'keep-alive',
  'te',
  'trailer',
  'upgrade',
];
const headerValue = /^[\0-\xff]*$/;
const mask = '••••';
const email = z.email('expected an email address').max(320);

const configs = {
  webhook: z.strictObject({
    url: webUrl,
    secret: text(1024).nullish().openapi({
      description: 'Signs each body: X-Signature-256 is sha256= and its HMAC-SHA256 in hexadecimal',
    }),
    headers: z
      .record(z.string(), text(4096), 'expected an object of texts')
      .superRefine((headers, context) => {
        for (const name of Object.keys(headers))
          if (!headerName.test(name) || ownHeaders.includes(name.toLowerCase()))
            context.addIssue({ code: 'custom', path: [name], message: 'is not a header that can be set' });
          else if (!headerValue.test(headers[name]!) && headers[name] !== mask)
            context.addIssue({
              code: 'custom',
              path: [name],
              message: 'has a character that no header can hold',
            });
      })
      .nullish(),
  }),
  slack: z.strictObject({ url: webUrl }),
  email: z.strictObject({
    to: z.array(email).min(1, 'must hold an address').max(50, 'at most 50'),
    from: email.nullish(),
    smtp_url: url('smtp:', 'smtps:')
      .refine(
        (value) => !URL.canParse(value) || (new URL(value).hostname !== '' && new URL(value).search === ''),
        'expected one such as smtp://user:password@mail.example.com:587',
      )
      .nullish()
      .openapi({ description: 'SMTP_URL by default' }),
  }),
  alertmanager: z.strictObject({
    url: webUrl,
    username: text(255).nullish(),
    password: text(1024).nullish(),
    bearer_token: text(8192).nullish(),
  }),
};

const seconds = (min: number, max: number) =>
  z
    .number('expected a number')
    .min(min, `must be from ${min} to ${max}`)
    .max(max, `must be from ${min} to ${max}`);

const fields = {
  severities: z
    .array(severitySchema)
    .max(3)
    .optional()
    .openapi({ description: 'Only these; all by default' }),
  service_names: z
    .array(text(limits.serviceNameLength))
    .max(1000)
    .optional()
    .openapi({ description: 'Only these; all by default' }),
  matchers: matchersSchema.optional().openapi({ description: 'Only alerts that all of them match' }),
  group_by: z.array(text(limits.labelNameLength)).max(16).optional().openapi({
    description:
      'Alerts that have these labels in common come in one message; alertname and service by default',
  }),
  group_wait_seconds: seconds(0, 3600)
    .optional()
    .openapi({ description: 'How long the first alert of a group waits for others; 1 by default' }),
  group_interval_seconds: seconds(0, 86_400)
    .optional()
    .openapi({ description: 'Time between two messages of a group at the least; 5 by default' }),
  repeat_interval_seconds: seconds(60, 2_592_000).optional().openapi({
    description: 'When what still fires is told again; 4 hours by default, 5 minutes to Alertmanager',
  }),
  send_resolved: switchSchema.optional(),
  timeout_seconds: seconds(1, 60).optional().openapi({ description: 'For one attempt; 10 by default' }),
  max_attempts: z
    .number('expected a whole number')
    .int('expected a whole number')
    .min(1, 'must be from 1 to 100')
    .max(100, 'must be from 1 to 100')
    .optional()
    .openapi({
      description:
        '1, 2, 4 s and so on after one another, 5 minutes at most; 20, which is an hour, by default',
    }),
  enabled: switchSchema.optional(),
};

export const newChannelSchema = z
  .discriminatedUnion(
    'type',
    [
      z.strictObject({ type: z.literal('webhook'), name: text(255), config: configs.webhook, ...fields }),
      z.strictObject({ type: z.literal('slack'), name: text(255), config: configs.slack, ...fields }),
      z.strictObject({ type: z.literal('email'), name: text(255), config: configs.email, ...fields }),
      z.strictObject({
        type: z.literal('alertmanager'),
        name: text(255),
        config: configs.alertmanager,
        ...fields,
      }),
    ],
    `expected one of ${types.join(', ')}`,
  )
  .openapi('NewChannel');

const changesSchema = z
  .strictObject({
    name: text(255).optional(),
    config: z.record(z.string(), z.unknown(), 'expected an object').optional().openapi({
      description: 'Parts that are left out, or read ••••, stay as they are; null takes one away',
    }),
    ...fields,
  })
  .openapi('ChannelChanges');

const channelSchema = z
  .strictObject({
    id: z.uuid(),
    name: z.string(),
    type: z.enum(types),
    config: z.record(z.string(), z.unknown()).openapi({ description: 'What is secret reads ••••' }),
    severities: z.array(z.enum(severities)),
    service_names: z.array(z.string()),
    matchers: shownMatchersSchema,
    group_by: z.array(z.string()),
    group_wait_seconds: z.number(),
    group_interval_seconds: z.number(),
    repeat_interval_seconds: z.number(),
    send_resolved: z.boolean(),
    timeout_seconds: z.number(),
    max_attempts: z.number().int(),
    enabled: z.boolean(),
    created_by: z.string(),
    created_at: z.iso.datetime(),
    updated_at: z.iso.datetime(),
  })
  .openapi('Channel');

const tags = ['Channels'];

export interface ChannelDependencies extends RouteDependencies {
  egress: EgressPolicy;
  /** Whether there is a mail server for channels that name none. */
  hasSmtp: boolean;
  sealer: Sealer;
}

export function channelRoutes(dependencies: ChannelDependencies) {
  const { sql, egress, hasSmtp, sealer } = dependencies;
  const router = new OpenAPIHono<AuthEnv>();

  // An address is known already to be out of reach; names are looked up when they are connected to.
  function checkConfig(config: Record<string, unknown>, type: ChannelType, isNew: boolean) {
    for (const name of ['url', 'smtp_url']) {
      const value = config[name];
      if (typeof value !== 'string') continue;
      const host = bareHost(new URL(value).hostname);
      const obstacle = net.isIP(host) ? egressObstacle(host, egress) : null;
      if (obstacle) throw invalid([{ path: `config.${name}`, message: obstacle }]);
    }
    if (type !== 'email') return;
    // One that is there may have a smtp_url already, unless this takes it away.
    const hasOwn = isNew ? Boolean(config.smtp_url) : config.smtp_url !== null;
    if (isNew && config.from && !hasOwn)
      throw invalid([
        {
          path: 'config.from',
          message: 'goes with a smtp_url: the sender of the deployment is SMTP_FROM',
        },
      ]);
    if (!hasSmtp && !hasOwn)
      throw invalid([{ path: 'config.smtp_url', message: 'is required: this deployment has no SMTP_URL' }]);
  }

  function changedConfig(
    type: ChannelType,
    changes: Record<string, unknown>,
    shown: Record<string, unknown>,
  ) {
    for (const [name, value] of Object.entries(changes))
      if (typeof value === 'string' && value.includes(mask) && value !== shown[name])
        throw invalid([
          { path: `config.${name}`, message: `${mask} stands for what is stored: give all of it anew` },
        ]);
    // Of headers each by itself: see lib.change_config.
    const isKept = (value: unknown) => typeof value === 'string' && value.includes(mask);
    const given = Object.fromEntries(Object.entries(changes).filter(([, value]) => !isKept(value)));
    const config = check(configs[type].partial() as z.ZodType, given, 'config') as Record<string, unknown>;
    for (const [name, schema] of Object.entries(configs[type].shape))
      if (config[name] === null && !(schema as z.ZodType).safeParse(null).success)
        throw invalid([{ path: `config.${name}`, message: 'is required' }]);
    // Or whoever may change a channel could have its secrets sent to an address of his own.
    const { url } = config;
    if (typeof url === 'string' && new URL(url).origin !== new URL(String(shown.url)).origin)
      for (const name of ['secret', 'headers', 'username', 'password', 'bearer_token'])
        if (
          shown[name] !== undefined &&
          (config[name] === undefined || JSON.stringify(config[name]).includes(mask))
        )
          throw invalid([
            { path: `config.${name}`, message: 'has to be given anew, since the address is another' },
          ]);
    return config;
  }

  router.route(
    '/',
    definitionRoutes(dependencies, {
      kind: 'channel',
      path: '/channels',
      tags,
      area: 'channels',
      noun: 'channel',
      plural: 'channels',
      description:
        'It is told of alerts that fire from then on, and that its routing lets pass (severities, service_names and matchers: all of the org where it has none). ' +
        'Its secrets are not shown again.',
      newSchema: newChannelSchema,
      changesSchema,
      shownSchema: channelSchema,
      activeMeans: 'enabled or not',
      toFields: (given, before: Row | null, orgId) => {
        const { enabled, ...rest } = given;
        const type = (before?.type ?? (given as { type: ChannelType }).type) as ChannelType;
        const config =
          before && given.config
            ? changedConfig(type, given.config, before.config as Record<string, unknown>)
            : given.config;
        if (!before && config && JSON.stringify(config).includes(mask))
          throw invalid([
            { path: 'config', message: `${mask} stands for what is stored, and nothing is yet` },
          ]);
        if (config) checkConfig(config, type, before === null);
        return {
          ...rest,
          ...(config ? { config: sealer.seal(orgId, type, before ? config : withoutNulls(config)) } : {}),
          ...(enabled === undefined ? {} : { is_enabled: enabled }),
        };
      },
      toShown: (row) => shownSwitch(row) as unknown as z.infer<typeof channelSchema>,
    }),
  );

  const testedSchema = z.strictObject({ notification: notificationSchema }).openapi('ChannelTest');

  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/channels/{id}/test',
      tags,
      security: needs('channels:write'),
      summary: 'Send a test to a channel',
      description:
        'A worker sends it, once, and the answer is how that went: its status is delivered or dead. 202 when no worker has done it within the ' +
        "channel's timeout and five seconds, or 25 s.",
      request: { params: idParams },
      responses: {
        ...responses(200, 'How it went', testedSchema, [400, 401, 403, 404, 503]),
        202: {
          description: 'Not done yet: see /notifications/{id}',
          content: { 'application/json': { schema: testedSchema } },
        },
      },
    }),
    async (c) => {
      refuseQuery(c);
      const { orgId, subject } = c.var.principal;
      const id = c.req.param('id')!;
      const [test] = isUuid(id)
        ? await sql<{ notification_id: string; timeout_seconds: number }[]>`
            select notification_id, timeout_seconds from api.test_channel(
              ${orgId}, ${id}::text::uuid, ${subject}, ${requestOf(c)}::text::jsonb
            )`
        : [];
      if (!test) throw new Problem(404, 'not_found', 'There is no such channel.');
      const look = async () => {
        const [row] = await sql<{ notification: z.infer<typeof notificationSchema> }[]>`
          select notification from api.get_notification(${orgId}, ${test.notification_id}::text::uuid)`;
        return row!.notification;
      };
      const settled = await waitForWorker(c, test.timeout_seconds, async () => {
        const notification = await look();
        return notification.status === 'pending' ? undefined : notification;
      });
      return settled ? c.json({ notification: settled }, 200) : c.json({ notification: await look() }, 202);
    },
  );
  return router;
}

function withoutNulls(config: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(config).filter(([, value]) => value !== null));
}
