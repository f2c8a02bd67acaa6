// Escalations: what happens when nobody acknowledges an alert.
import { createRoute, OpenAPIHono, z } from '@hono/zod-openapi';
import type { AuthEnv } from '../auth.ts';
import { needs } from '../permissions.ts';
import { endpoint, refuseQuery, responses, text } from '../request.ts';
import { severities, severitySchema } from './alerts.ts';
import { definitionRoutes, type RouteDependencies, shownSwitch, switchSchema } from './definitions.ts';
import { matchersSchema, shownMatchersSchema } from './expressions.ts';

const stepSchema = z
  .strictObject({
    after_minutes: z
      .number('expected a number')
      .min(0.1, 'must be from 0.1 to 43200')
      .max(43_200, 'must be from 0.1 to 43200')
      .openapi({ description: 'Since the alert fired' }),
    severity: severitySchema.optional().openapi({ description: 'What it is raised to, where that is more' }),
    channel_ids: z.array(z.uuid('expected the id of a channel').toLowerCase()).max(50).optional().openapi({
      description: 'Who is told besides those who know of it; whatever the routing of these channels',
    }),
  })
  .openapi('EscalationStep');

const stepsSchema = z
  .array(stepSchema)
  .max(20, 'at most 20')
  .superRefine((steps, context) => {
    steps.forEach((step, i) => {
      if (i > 0 && step.after_minutes <= steps[i - 1]!.after_minutes)
        context.addIssue({
          code: 'custom',
          path: [i, 'after_minutes'],
          message: 'must be more than that of the step before',
        });
    });
  });

const fields = {
  severities: z.array(severitySchema).max(3).optional().openapi({ description: 'All by default' }),
  matchers: matchersSchema.optional(),
  enabled: switchSchema.optional(),
};
export const newEscalationSchema = z
  .strictObject({ name: text(255), steps: stepsSchema, ...fields })
  .openapi('NewEscalation');
const escalationChangesSchema = z
  .strictObject({ name: text(255).optional(), steps: stepsSchema.optional(), ...fields })
  .openapi('EscalationChanges');
const escalationSchema = z
  .strictObject({
    id: z.uuid(),
    name: z.string(),
    severities: z.array(z.enum(severities)),
    matchers: shownMatchersSchema,
    steps: z.array(stepSchema),
    enabled: z.boolean(),
    created_by: z.string(),
    created_at: z.iso.datetime(),
    updated_at: z.iso.datetime(),
  })
  .openapi('Escalation');

const defaultSchema = z
  .strictObject({
    default_escalations: z.array(
      z.strictObject({ name: z.string(), severity: z.enum(severities), steps: z.array(stepSchema) }),
    ),
  })
  .openapi('DefaultEscalations');

const tags = ['Escalations'];

export function escalationRoutes(dependencies: RouteDependencies) {
  const router = new OpenAPIHono<AuthEnv>();

  endpoint(
    router,
    createRoute({
      method: 'get',
      path: '/escalations/default',
      tags,
      security: needs('channels:read'),
      summary: 'What alerts follow where the org has made no escalation',
      responses: responses(
        200,
        'By severity; empty as soon as the org has one',
        defaultSchema,
        [400, 401, 403, 503],
      ),
    }),
    async (c) => {
      refuseQuery(c);
      const rows = await dependencies.sql<z.infer<typeof defaultSchema>['default_escalations']>`
        select name, severity, steps from api.get_default_escalation(${c.var.principal.orgId})`;
      return c.json({
        default_escalations: rows.map(({ name, severity, steps }) => ({ name, severity, steps })),
      });
    },
  );

  router.route(
    '/',
    definitionRoutes(dependencies, {
      kind: 'escalation',
      path: '/escalations',
      tags,
      area: 'channels',
      noun: 'escalation',
      plural: 'escalations',
      description:
        'An alert that fires follows the first one by name whose severities and matchers fit it, as it is at that moment, until it is acknowledged or ' +
        'resolved. At each step all channels that know of it are told again.',
      newSchema: newEscalationSchema,
      changesSchema: escalationChangesSchema,
      shownSchema: escalationSchema,
      activeMeans: 'enabled or not',
      toFields: ({ enabled, ...rest }) => ({
        ...rest,
        ...(enabled === undefined ? {} : { is_enabled: enabled }),
      }),
      toShown: (row) => shownSwitch(row) as unknown as z.infer<typeof escalationSchema>,
    }),
  );
  return router;
}
