// Alert rules: conditions on metrics that a worker looks at again and again.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { AuthEnv } from '../auth.ts';
import { invalid } from '../errors.ts';
import { limits } from '../ingest/metrics.ts';
import { needs } from '../permissions.ts';
import {
  check,
  endpoint,
  parseJson,
  prose,
  readBody,
  refuseQuery,
  responses,
  text,
  timestampSchema,
} from '../request.ts';
import { expressionLimits, formatDuration, parseDuration } from '../rules/expression.ts';
import { parseTemplate, type TemplatePart } from '../rules/template.ts';
import { severities, severitySchema } from './alerts.ts';
import {
  definitionRoutes,
  instantOrNull,
  type RouteDependencies,
  type Row,
  switchSchema,
} from './definitions.ts';
import { expressionFields, expressionSchema, parsed } from './expressions.ts';

/** A length of time: text such as 1h30m, or seconds. */
const durationSchema = z
  .union([z.string(), z.number()], 'expected a duration such as 5m, or seconds')
  .transform((value, context): number => {
    const seconds = typeof value === 'number' ? value : parseDuration(value);
    if (
      seconds !== null &&
      Number.isInteger(seconds) &&
      seconds >= 0 &&
      seconds <= expressionLimits.durationSeconds
    )
      return seconds;
    context.addIssue({ code: 'custom', message: 'expected a duration such as 5m, of up to 30d, or seconds' });
    return z.NEVER;
  })
  .openapi({ type: 'string', example: '5m' });

const maxTemplates = 32;

const templatesSchema = (maxLength: number) =>
  z
    .record(
      text(limits.labelNameLength),
      prose(maxLength).transform((value, context) => ({
        text: value,
        parts: parsed(parseTemplate)(value, context),
      })),
      'expected an object of texts',
    )
    .refine((templates) => Object.keys(templates).length <= maxTemplates, `at most ${maxTemplates}`);

const annotationsExample = { summary: '{{ $labels.service }} answers in {{ $value }} ms' };

const fields = {
  severity: severitySchema.optional(),
  service_name: text(limits.serviceNameLength).nullish().openapi({
    description:
      'The service it is about: aggregates that name none are of this one. Otherwise it follows from the expression, where that is about one.',
  }),
  interval_seconds: z
    .number('expected a whole number')
    .int('expected a whole number')
    .min(5, 'must be from 5 to 86400')
    .max(86_400, 'must be from 5 to 86400')
    .optional()
    .openapi({ description: 'How often it is evaluated; 30 by default' }),
  evaluation_delay_seconds: z
    .number('expected a number')
    .min(0, 'must be from 0 to 3600')
    .max(3600, 'must be from 0 to 3600')
    .optional()
    .openapi({
      description: 'How far behind the clock samples are read, for those that come late; 0 by default',
    }),
  keep_firing_for: durationSchema.optional().openapi({
    description: 'How long the condition has to be gone before an alert is resolved; 0s by default',
  }),
  no_data: z
    .enum(['ok', 'keep', 'alert'], 'expected one of ok, keep, alert')
    .optional()
    .openapi({
      description:
        'What it means when there are no samples in the window: the condition does not hold (ok, the default); nothing changes (keep); ' +
        'it holds (alert), for groups that had samples within the day before',
    }),
  labels: templatesSchema(limits.labelValueLength)
    .optional()
    .openapi({
      type: 'object',
      additionalProperties: { type: 'string' },
      description: 'Added to its alerts; templates',
    }),
  annotations: templatesSchema(4096)
    .optional()
    .openapi({
      type: 'object',
      additionalProperties: { type: 'string' },
      description: 'Texts for people: summary, description, runbook_url…; templates',
      example: annotationsExample,
    }),
  enabled: switchSchema.optional(),
};

export const newRuleSchema = z
  .strictObject({
    name: text(255).openapi({ example: 'Slow answers' }),
    expression: expressionSchema,
    ...fields,
  })
  .openapi('NewAlertRule');
const ruleChangesSchema = z
  .strictObject({ name: text(255).optional(), expression: expressionSchema.optional(), ...fields })
  .refine(({ expression, service_name }) => service_name === undefined || expression !== undefined, {
    path: ['service_name'],
    message: 'changes together with expression',
  })
  .openapi('AlertRuleChanges');

const ruleSchema = z
  .strictObject({
    id: z.uuid(),
    name: z.string(),
    expression: z.string().openapi({ description: 'In canonical form' }),
    for: z.string().openapi({ example: '5m' }),
    severity: z.enum(severities),
    service_name: z.string().nullable(),
    interval_seconds: z.number().int(),
    evaluation_delay_seconds: z.number(),
    keep_firing_for: z.string().openapi({ example: '0s' }),
    no_data: z.enum(['ok', 'keep', 'alert']),
    labels: z.record(z.string(), z.string()),
    annotations: z.record(z.string(), z.string()),
    enabled: z.boolean(),
    created_by: z.string(),
    created_at: z.iso.datetime(),
    updated_at: z.iso.datetime(),
    next_evaluation_at: z.iso.datetime().nullable(),
    last_evaluation_at: z.iso.datetime().nullable(),
    last_evaluation_ms: z.number().nullable().openapi({
      description: 'How long the pass took that it was evaluated in, with the other rules of the org',
    }),
    last_error: z
      .string()
      .nullable()
      .openapi({ description: 'Why it could not be evaluated; null when it could' }),
    series_count: z.number().int().nullable().openapi({
      description: 'How many series its aggregates match just now, of none it hears nothing; null in lists',
    }),
    alerts: z.strictObject({
      pending: z.number().int(),
      firing: z.number().int(),
      acknowledged: z.number().int(),
    }),
  })
  .openapi('AlertRule');

type Templates = Record<string, { text: string; parts: TemplatePart[] }>;

function templateFields(column: 'labels' | 'annotations', templates: Templates): Record<string, unknown> {
  const of = (part: 'text' | 'parts') =>
    Object.fromEntries(Object.entries(templates).map(([name, template]) => [name, template[part]]));
  return { [column]: of('text'), [`${column.slice(0, -1)}_templates`]: of('parts') };
}

/** Columns of obs.alert_rule of what a request gives. */
export function ruleFields(
  given: z.output<typeof newRuleSchema> | z.output<typeof ruleChangesSchema>,
): Record<string, unknown> {
  const { expression, service_name, keep_firing_for, labels, annotations, enabled, ...rest } = given;
  return {
    ...rest,
    ...(expression ? expressionFields(expression, service_name) : {}),
    ...(keep_firing_for === undefined ? {} : { keep_firing_for_seconds: keep_firing_for }),
    ...(labels ? templateFields('labels', labels) : {}),
    ...(annotations ? templateFields('annotations', annotations) : {}),
    ...(enabled === undefined ? {} : { is_enabled: enabled }),
  };
}

export function shownRule(row: Row): z.infer<typeof ruleSchema> {
  const {
    tree: _tree,
    reported_as: _reportedAs,
    label_templates: _labels,
    annotation_templates: _annotations,
    for_seconds,
    keep_firing_for_seconds,
    is_enabled,
    ...rest
  } = row;
  return {
    ...rest,
    for: formatDuration(Number(for_seconds)),
    keep_firing_for: formatDuration(Number(keep_firing_for_seconds)),
    enabled: is_enabled,
    next_evaluation_at: instantOrNull(row.next_evaluation_at),
    last_evaluation_at: instantOrNull(row.last_evaluation_at),
  } as z.infer<typeof ruleSchema>;
}

const maxEvaluations = 3000;

const testSchema = z
  .strictObject({
    ...newRuleSchema.shape,
    name: text(255).optional(),
    start_time: timestampSchema,
    end_time: timestampSchema,
  })
  .refine(({ start_time, end_time }) => start_time < end_time, {
    path: ['end_time'],
    message: 'must be after start_time',
  })
  .openapi('AlertRuleTest');

const replaySchema = z
  .strictObject({
    expression: z.string(),
    interval_seconds: z.number().int(),
    evaluations: z.number().int(),
    alerts: z
      .array(
        z.strictObject({
          name: z.string(),
          service_name: z.string().nullable(),
          labels: z.record(z.string(), z.string()),
          annotations: z.record(z.string(), z.string()),
          description: z.string().nullable(),
          value: z.number().nullable(),
          pending_at: z.iso.datetime(),
          firing_at: z.iso.datetime().nullable().openapi({ description: 'Null where it was pending only' }),
          resolved_at: z.iso.datetime().nullable().openapi({
            description: 'Or when it was pending no longer. Null where it was open at the end',
          }),
        }),
      )
      .openapi({ description: 'The alerts that there would have been, at most 1000' }),
    truncated: z.boolean(),
  })
  .openapi('AlertRuleReplay');

const tags = ['Alert rules'];

export function alertRuleRoutes(dependencies: RouteDependencies) {
  const { sql, maxBodyBytes } = dependencies;
  const router = new OpenAPIHono<AuthEnv>();

  // Before /alert-rules/{id}, which has no POST; in its own right all the same.
  endpoint(
    router,
    createRoute({
      method: 'post',
      path: '/alert-rules/test',
      tags,
      security: needs('rules:read'),
      summary: 'Replay a rule over the past',
      description:
        'When it would have fired: it is evaluated as a worker would have, with the samples that are there now, each interval_seconds from ' +
        `start_time to end_time, ${maxEvaluations} times at most. Nothing is stored and nobody notified.`,
      request: { body: { required: true, content: { 'application/json': { schema: testSchema } } } },
      responses: responses(
        200,
        'The alerts there would have been',
        replaySchema,
        [400, 401, 403, 413, 415, 503, 504],
      ),
    }),
    async (c) => {
      refuseQuery(c);
      const { start_time, end_time, ...given } = check(
        testSchema,
        parseJson(c, await readBody(c, maxBodyBytes)),
      );
      const rule = { interval_seconds: 30, ...ruleFields({ name: 'test', ...given }) };
      const { expression, interval_seconds } = rule as unknown as {
        expression: string;
        interval_seconds: number;
      };
      const seconds = (Date.parse(end_time) - Date.parse(start_time)) / 1000;
      if (seconds / interval_seconds > maxEvaluations)
        throw invalid([
          {
            path: 'interval_seconds',
            message: `${Math.ceil(seconds / interval_seconds)} evaluations are more than ${maxEvaluations}: make it ${Math.ceil(seconds / maxEvaluations)} or more, or the range shorter`,
          },
        ]);
      const [row] = await sql<{ evaluations: number; alerts: z.infer<typeof replaySchema>['alerts'] }[]>`
        select evaluations, alerts from api.test_rule(
          ${c.var.principal.orgId}, ${JSON.stringify(rule)}::text::jsonb,
          ${start_time}::text::timestamptz, ${end_time}::text::timestamptz
        )`;
      return c.json({
        expression,
        interval_seconds,
        evaluations: row!.evaluations,
        alerts: row!.alerts.slice(0, 1000),
        truncated: row!.alerts.length > 1000,
      } satisfies z.infer<typeof replaySchema>);
    },
  );

  router.route(
    '/',
    definitionRoutes(dependencies, {
      kind: 'alert_rule',
      path: '/alert-rules',
      tags,
      area: 'rules',
      noun: 'alert rule',
      plural: 'alert rules',
      description:
        'It is evaluated at once and then each interval_seconds. Where its condition holds (for as long as its `for` says) an alert fires, one for each ' +
        'group of series; when it does not hold any more the alert is resolved.',
      newSchema: newRuleSchema,
      changesSchema: ruleChangesSchema,
      shownSchema: ruleSchema,
      activeMeans: 'enabled or not',
      toFields: ruleFields,
      toShown: shownRule,
    }),
  );
  return router;
}
