// Dashboards that people have arranged and saved, for all of their org.
import { OpenAPIHono, z } from '@hono/zod-openapi';
import type { AuthEnv } from '../auth.ts';
import { limits } from '../ingest/metrics.ts';
import { prose, text } from '../request.ts';
import { aggregations } from '../rules/expression.ts';
import { definitionRoutes, type RouteDependencies, type Row } from './definitions.ts';
import { labelsSchema, windowSchema } from './metrics.ts';

const frame = {
  title: text(200),
  width: z
    .number('expected 1, 2 or 3')
    .int('expected 1, 2 or 3')
    .min(1, 'must be from 1 to 3')
    .max(3, 'must be from 1 to 3')
    .optional()
    .openapi({ description: 'Thirds of the page; 1 by default' }),
};

const panelSchema = z
  .discriminatedUnion(
    'type',
    [
      z.strictObject({
        type: z.literal('metric'),
        ...frame,
        metric_name: text(limits.nameLength),
        aggregation: z.enum(aggregations, `expected one of ${aggregations.join(', ')}`).optional(),
        time_window: windowSchema.optional(),
        service_name: text(limits.serviceNameLength).optional(),
        labels: labelsSchema.optional(),
        group_by: z.array(text(limits.labelNameLength)).max(16).optional(),
      }),
      z.strictObject({
        type: z.literal('logs'),
        ...frame,
        service_name: text(limits.serviceNameLength).optional(),
        level: z
          .enum(
            ['trace', 'debug', 'info', 'warn', 'error', 'fatal'],
            'expected one of trace, debug, info, warn, error, fatal',
          )
          .optional()
          .openapi({ description: 'This one and above' }),
        q: text(1000).optional(),
      }),
      z.strictObject({
        type: z.literal('alerts'),
        ...frame,
        service_name: text(limits.serviceNameLength).optional(),
      }),
      z.strictObject({ type: z.literal('services'), ...frame }),
    ],
    'expected an object of type metric, logs, alerts or services',
  )
  .openapi('Panel');
export type Panel = z.infer<typeof panelSchema>;

const panelsSchema = z.array(panelSchema, 'expected a list').max(50, 'must be at most 50');

export const newDashboardSchema = z
  .strictObject({ name: text(255), description: prose(2000).nullable().optional(), panels: panelsSchema })
  .openapi('NewDashboard');
const dashboardChangesSchema = z
  .strictObject({
    name: text(255).optional(),
    description: prose(2000).nullable().optional(),
    panels: panelsSchema.optional(),
  })
  .openapi('DashboardChanges');
const dashboardSchema = z
  .strictObject({
    id: z.uuid(),
    name: z.string(),
    description: z.string().nullable(),
    panels: panelsSchema,
    created_by: z.string(),
    created_at: z.iso.datetime(),
    updated_at: z.iso.datetime(),
  })
  .openapi('Dashboard');
export type Dashboard = z.infer<typeof dashboardSchema>;

export function dashboardRoutes(dependencies: RouteDependencies) {
  const router = new OpenAPIHono<AuthEnv>();
  router.route(
    '/',
    definitionRoutes(dependencies, {
      kind: 'dashboard',
      path: '/dashboards',
      tags: ['Dashboards'],
      area: 'dashboards',
      noun: 'dashboard',
      plural: 'dashboards',
      description: 'Panels are shown in their order, at /dashboards/{id} of the web interface.',
      newSchema: newDashboardSchema,
      changesSchema: dashboardChangesSchema,
      shownSchema: dashboardSchema,
      activeMeans: 'true for all of them',
      toFields: (given) => given,
      toShown: (row: Row) => row as unknown as Dashboard,
    }),
  );
  return router;
}
