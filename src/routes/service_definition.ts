// What a service is registered with: the fields, what may be in each, and what goes with what.
import { z } from '@hono/zod-openapi';
import { compile } from 'json-p3';
import { jsonSchema, prose, text, timestampSchema } from '../request.ts';
import { severitySchema } from './alerts.ts';

export const kinds = ['http', 'tcp', 'heartbeat'] as const;
const methods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const;

const nameSchema = text(255).refine(
  (name) => !['export', '.', '..'].includes(name),
  'is a name that the API itself uses in its paths',
);

const integer = (min: number, max: number) => {
  const expected = `expected a whole number from ${min} to ${max}`;
  return z.number(expected).int(expected).min(min, expected).max(max, expected);
};

const endpointSchema = text(2048)
  .superRefine((value, context) => {
    const problem = endpointProblem(value);
    if (problem) context.addIssue({ code: 'custom', message: problem });
  })
  .openapi({
    example: 'http://auth:8001/health',
    description: 'http://…, https://… or tcp://host:port; viewers do not see its query',
  });

function endpointProblem(value: string): string | null {
  const expected = 'expected a URL such as http://auth:8001/health, https://… or tcp://db:5432';
  if (!URL.canParse(value)) return expected;
  const url = new URL(value);
  if (!url.hostname) return expected;
  if (url.username || url.password)
    return 'must not hold credentials: put them into headers, which viewers do not see';
  if (url.port === '0') return 'expected a port from 1 to 65535';
  if (url.protocol === 'http:' || url.protocol === 'https:') return null;
  if (url.protocol !== 'tcp:') return expected;
  return /^tcp:\/\/[^/?#@]+:[1-9]\d*\/?$/.test(value) ? null : 'expected tcp://host:port, and nothing more';
}

// What a client may not set is what makes the exchange one: its length, its end, its connection.
const hopHeaders = /^(connection|content-length|expect|keep-alive|te|trailer|transfer-encoding|upgrade)$/i;
const headersSchema = z
  .custom<Record<string, string>>(
    (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
    'expected an object of header names and values',
  )
  .superRefine((headers, context) => {
    const add = (message: string, path: string[] = []) => context.addIssue({ code: 'custom', message, path });
    if (Object.keys(headers).length > 32) add('must be at most 32');
    if (JSON.stringify(headers).length > 8192) add('must be at most 8192 characters in all');
    for (const [name, value] of Object.entries(headers)) {
      if (!/^[\w!#$%&'*+.^`|~-]{1,128}$/.test(name)) add('is not the name of a header', [name]);
      else if (hopHeaders.test(name)) add('cannot be set', [name]);
      if (typeof value !== 'string' || !/^[\t\x20-\x7e\x80-\xff]*$/.test(value))
        add('expected text that a header can hold', [name]);
    }
  })
  .openapi({
    type: 'object',
    additionalProperties: { type: 'string' },
    description: 'Values are shown to operators and admins alone; others see ***',
    example: { 'X-Api-Key': 'secret' },
  });

const expectedStatusSchema = z
  .array(
    z
      .union([z.number().int().transform(String), z.string()], 'expected 204, "2xx" or "200-204"')
      .refine((value) => {
        const match = /^([1-5]xx|([1-5]\d\d)(?:-([1-5]\d\d))?)$/.exec(value);
        return match !== null && (match[3] === undefined || match[2]! <= match[3]);
      }, 'expected 204, "2xx" or "200-204"'),
    'expected a list such as ["2xx", 304]',
  )
  .min(1, 'must not be empty')
  .max(20, 'must be at most 20')
  .openapi({ type: 'array', items: { type: 'string' }, example: ['2xx'] });

const expectedBodySchema = z
  .union(
    [
      z.strictObject({ contains: prose(1000).min(1, 'must not be empty') }),
      z.strictObject({
        json_path: text(1000).superRefine((path, context) => {
          const message = pathProblem(path);
          if (message) context.addIssue({ code: 'custom', message });
        }),
        equals: jsonSchema.optional(),
      }),
    ],
    'expected {"contains": text}, or {"json_path": text} and if wanted "equals"',
  )
  .openapi({
    description:
      'What the answer holds: a text, or at an RFC 9535 JSONPath of one value any value, or the one in equals. Without it an ' +
      'answer {"status": …} is understood: degraded (warn) and unhealthy (down, fail, error) are taken at their word.',
    example: { json_path: '$.checks.db', equals: 'up' },
  });

// One value, so that no query can keep a worker busy.
function pathProblem(path: string): string | null {
  try {
    return compile(path).singularQuery() ? null : 'expected a JSONPath of one value, such as $.checks.db';
  } catch (error) {
    return `is not a JSONPath: ${(error as Error).message}`;
  }
}

const listOf = (item: z.ZodType<string>, max: number) =>
  z
    .array(item, 'expected a list')
    .max(max, `must be at most ${max}`)
    .transform((items) => [...new Set(items)]);

const definitionFields = {
  kind: z.enum(kinds, `expected one of ${kinds.join(', ')}`).openapi({
    description: 'Follows from health_endpoint; heartbeat for a service that calls in by itself',
  }),
  health_endpoint: endpointSchema.nullable(),
  description: prose(2000).nullable(),
  method: z.enum(methods, `expected one of ${methods.join(', ')}`),
  headers: headersSchema,
  request_body: prose(8192)
    .nullable()
    .openapi({
      type: ['string', 'null'],
      description: 'Shown to operators and admins alone; others see ***',
    }),
  expected_status: expectedStatusSchema,
  expected_body: expectedBodySchema.nullable(),
  max_redirects: integer(0, 20),
  tls_verify: z.boolean('expected true or false'),
  tls_expiry_days: integer(0, 365).openapi({
    description: 'Degraded when the certificate expires within so many days; 0: never',
  }),
  degraded_above_ms: integer(1, 60_000).nullable(),
  check_interval_seconds: integer(5, 86_400),
  timeout_seconds: z
    .number('expected a number of seconds')
    .min(0.1, 'must be from 0.1 to 60')
    .max(60, 'must be from 0.1 to 60')
    .openapi({
      description:
        'For the whole exchange; of a heartbeat, how much later than its interval it may come. At most check_interval_seconds',
    }),
  failure_threshold: integer(1, 100),
  success_threshold: integer(1, 100),
  alert_on_failure: z.boolean('expected true or false'),
  alert_severity: severitySchema,
  tags: listOf(text(100), 50).openapi({ type: 'array', items: { type: 'string' }, example: ['core'] }),
  depends_on: listOf(text(255), 50).openapi({ type: 'array', items: { type: 'string' } }),
  sla_target_percent: z
    .number('expected a percentage below 100')
    .gt(0, 'must be above 0')
    .lt(100, 'must be below 100')
    .nullable()
    .openapi({ example: 99.9 }),
};

const changesSchema = z.strictObject(definitionFields).partial();

/** kind and health_endpoint go together: what only one of them says follows for the other. */
function completed<Changes extends z.infer<typeof changesSchema>>(
  changes: Changes,
  context: z.RefinementCtx,
): Changes {
  const { health_endpoint } = changes;
  if (health_endpoint) {
    const kind = health_endpoint.startsWith('tcp:') ? 'tcp' : 'http';
    if (changes.kind && changes.kind !== kind) {
      context.addIssue({
        code: 'custom',
        path: ['kind'],
        message:
          changes.kind === 'heartbeat'
            ? 'a heartbeat has no health_endpoint'
            : `does not fit health_endpoint, which makes it ${kind}`,
      });
    }
    return { ...changes, kind };
  }
  if (changes.kind === 'heartbeat') return { ...changes, health_endpoint: null };
  if (changes.kind || health_endpoint === null) {
    context.addIssue({
      code: 'custom',
      path: ['health_endpoint'],
      message: 'is required, unless kind is heartbeat',
    });
  }
  return changes;
}

const registrationShape = changesSchema.extend({
  service_name: nameSchema.openapi({ example: 'auth' }),
});
export const registrationSchema = registrationShape.transform(completed).openapi('ServiceRegistration');

export const patchSchema = changesSchema
  .extend({
    paused: z.boolean('expected true or false').optional().openapi({
      description: 'For maintenance: not probed, and in neither uptime nor downtime',
    }),
    paused_until: timestampSchema.optional().openapi({
      type: 'string',
      format: 'date-time',
      description: 'With paused: when it ends by itself',
    }),
  })
  .refine(({ paused, paused_until }) => paused_until === undefined || paused === true, {
    path: ['paused_until'],
    message: 'goes with "paused": true',
  })
  .transform(completed)
  .openapi('ServicePatch');
