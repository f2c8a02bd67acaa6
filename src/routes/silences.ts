// Times at which nobody is notified: silences, and maintenance windows that may repeat.
import { OpenAPIHono, z } from '@hono/zod-openapi';
import type { AuthEnv } from '../auth.ts';
import { prose, text, timestampSchema } from '../request.ts';
import { definitionRoutes, instant, instantOrNull, type RouteDependencies, type Row } from './definitions.ts';
import { matchersSchema, showMatchers, shownMatchersSchema } from './expressions.ts';

const silenceFields = {
  matchers: matchersSchema.min(1, 'must hold at least one: a silence of everything is a maintenance window'),
  starts_at: timestampSchema,
  ends_at: timestampSchema,
  author: text(255).openapi({ description: 'The subject of the token by default' }),
  reason: prose(2000),
};
export const newSilenceSchema = z
  .strictObject({
    ...silenceFields,
    starts_at: silenceFields.starts_at.optional(),
    author: silenceFields.author.optional(),
    reason: silenceFields.reason.optional(),
  })
  .refine(({ ends_at }) => typeof ends_at !== 'string' || Date.parse(ends_at) > Date.now(), {
    path: ['ends_at'],
    message: 'must be in the future',
  })
  .openapi('NewSilence');
const silenceChangesSchema = z.strictObject(silenceFields).partial().openapi('SilenceChanges');
const silenceSchema = z
  .strictObject({
    id: z.uuid(),
    matchers: shownMatchersSchema,
    starts_at: z.iso.datetime(),
    ends_at: z.iso.datetime(),
    active: z.boolean().openapi({ description: 'In force at this moment' }),
    author: z.string(),
    reason: z.string(),
    created_at: z.iso.datetime(),
    updated_at: z.iso.datetime(),
  })
  .openapi('Silence');

const weekdays = ['monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday', 'sunday'] as const;
const timezoneSchema = z
  .string()
  .refine(isTimezone, 'expected an IANA time zone such as Europe/Berlin')
  .openapi({ example: 'Europe/Berlin' });

const windowFields = {
  name: text(255),
  matchers: matchersSchema.openapi({ description: 'Which alerts; all of the org by default' }),
  timezone: timezoneSchema,
  starts_at: timestampSchema,
  ends_at: timestampSchema.openapi({ description: 'Of the first occurrence; each lasts as long' }),
  repeats: z
    .enum(['never', 'daily', 'weekly', 'monthly'], 'expected one of never, daily, weekly, monthly')
    .openapi({ description: "At the first one's reading of the clock in timezone" }),
  weekdays: z
    .array(z.enum(weekdays, `expected ${weekdays.join(', ')}`))
    .max(7)
    .openapi({ description: 'Of a weekly one; that of starts_at by default' }),
  until: timestampSchema.nullable().openapi({ description: 'No occurrence begins then or later' }),
  author: text(255),
  reason: prose(2000).nullable(),
};
export const newWindowSchema = z
  .strictObject({
    ...z.strictObject(windowFields).partial().shape,
    name: windowFields.name,
    starts_at: windowFields.starts_at,
    ends_at: windowFields.ends_at,
  })
  .openapi('NewMaintenanceWindow');
const windowChangesSchema = z.strictObject(windowFields).partial().openapi('MaintenanceWindowChanges');
const windowSchema = z
  .strictObject({
    id: z.uuid(),
    name: z.string(),
    matchers: shownMatchersSchema,
    timezone: z.string(),
    starts_at: z.iso.datetime(),
    ends_at: z.iso.datetime(),
    repeats: z.string(),
    weekdays: z.array(z.enum(weekdays)),
    until: z.iso.datetime().nullable(),
    active_until: z.iso
      .datetime()
      .nullable()
      .openapi({ description: 'When the occurrence ends that lasts at this moment' }),
    author: z.string(),
    reason: z.string().nullable(),
    created_at: z.iso.datetime(),
    updated_at: z.iso.datetime(),
  })
  .openapi('MaintenanceWindow');

function isTimezone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name });
    // Offsets are time zones to JavaScript, and mean the opposite to PostgreSQL.
    return /^[A-Za-z]/.test(name);
  } catch {
    return false;
  }
}

export function shownSilence(row: Row): z.infer<typeof silenceSchema> {
  return {
    ...row,
    matchers: showMatchers(row.matchers),
    starts_at: instant(row.starts_at),
    ends_at: instant(row.ends_at),
    active: Date.parse(String(row.starts_at)) <= Date.now() && Date.now() < Date.parse(String(row.ends_at)),
  } as unknown as z.infer<typeof silenceSchema>;
}

export function shownWindow(row: Row): z.infer<typeof windowSchema> {
  return {
    ...row,
    matchers: showMatchers(row.matchers),
    weekdays: (row.weekdays as number[]).map((day) => weekdays[day - 1]!),
    starts_at: instant(row.starts_at),
    ends_at: instant(row.ends_at),
    until: instantOrNull(row.until),
    active_until: instantOrNull(row.active_until),
  } as unknown as z.infer<typeof windowSchema>;
}

export function silenceRoutes(dependencies: RouteDependencies) {
  const router = new OpenAPIHono<AuthEnv>();
  router.route(
    '/',
    definitionRoutes(dependencies, {
      kind: 'silence',
      path: '/silences',
      tags: ['Silences'],
      area: 'silences',
      noun: 'silence',
      plural: 'silences',
      description:
        'Nobody is notified of alerts that all its matchers match, from starts_at (now, by default) to ends_at.',
      newSchema: newSilenceSchema,
      changesSchema: silenceChangesSchema,
      shownSchema: silenceSchema,
      activeMeans: 'in force at this moment or not',
      toFields: (given) => given,
      toShown: shownSilence,
    }),
  );
  router.route(
    '/',
    definitionRoutes(dependencies, {
      kind: 'maintenance_window',
      path: '/maintenance-windows',
      tags: ['Silences'],
      area: 'silences',
      noun: 'maintenance window',
      plural: 'maintenance windows',
      description:
        'Nobody is notified of alerts that all its matchers match while it lasts: once, or again and again.',
      newSchema: newWindowSchema,
      changesSchema: windowChangesSchema,
      shownSchema: windowSchema,
      activeMeans: 'an occurrence lasts at this moment or not',
      toFields: ({ weekdays: days, ...rest }) => ({
        ...rest,
        ...(days ? { weekdays: days.map((day) => weekdays.indexOf(day) + 1) } : {}),
      }),
      toShown: shownWindow,
    }),
  );
  return router;
}
