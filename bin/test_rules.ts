// make test-rules FILE=…: unit tests of alert rules, as data: series, times, and the alerts that are expected then. docs/ALERTS.md has
// the format. They run on a database of their own, through the functions that the worker calls.
import { readFileSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import type postgres from 'postgres';
import { parse } from 'yaml';
import { z } from 'zod';
import { findServer } from '../db/server/find.ts';
import { connect } from '../src/db.ts';
import { newRuleSchema, ruleFields } from '../src/routes/alert_rules.ts';
import { formatDuration, parseDuration } from '../src/rules/expression.ts';
import { cloneDatabase, createTemplate, dropDatabases } from '../test/support/database.ts';
import { command } from './environment.ts';

const duration = z.union([z.string(), z.number()]).transform((value, context) => {
  const seconds = typeof value === 'number' ? value : parseDuration(value);
  if (seconds !== null && seconds >= 0) return seconds;
  context.addIssue({ code: 'custom', message: 'expected a duration such as 5m' });
  return z.NEVER;
});

const fileSchema = z.strictObject({
  rules: z.array(z.unknown()).min(1),
  tests: z
    .array(
      z.strictObject({
        name: z.string(),
        interval: duration.refine((seconds) => seconds > 0, 'must be more than 0').default(60),
        series: z.array(
          z.strictObject({
            metric: z.string(),
            service_name: z.string().default(''),
            labels: z.record(z.string(), z.string()).default({}),
            values: z.union([z.string(), z.number()]).transform(String).transform(readValues),
          }),
        ),
        expect: z.array(
          z.strictObject({
            at: duration,
            alerts: z.array(
              z.strictObject({
                rule: z.string(),
                status: z.enum(['pending', 'firing']),
                labels: z.record(z.string(), z.string()).optional(),
                annotations: z.record(z.string(), z.string()).optional(),
                description: z.string().optional(),
                severity: z.string().optional(),
                value: z.number().nullable().optional(),
              }),
            ),
          }),
        ),
      }),
    )
    .min(1),
});
type RuleTest = z.output<typeof fileSchema>['tests'][number];

/** Values in promtool's notation: 1 2 _ 5x3 0+10x5 -3.5-1x2, where a+bxn is n more values after a, and _ is none. */
export function readValues(text: string, context: z.RefinementCtx): (number | null)[] {
  const number = '[+-]?(?:\\d+\\.?\\d*|\\.\\d+)(?:[eE][+-]?\\d+)?';
  const item = new RegExp(`^(?:_(?:x(\\d+))?|(${number})(?:(?:([+-](?:\\d+\\.?\\d*|\\.\\d+)))?x(\\d+))?)$`);
  return text
    .trim()
    .split(/\s+/)
    .flatMap((word) => {
      const match = item.exec(word);
      if (!match) {
        context.addIssue({
          code: 'custom',
          message: `${word}: expected a number, _, or such as 1x5, 0+10x5, _x3`,
        });
        return [];
      }
      const [, gaps, first, step, more] = match;
      if (first === undefined) return Array.from({ length: Number(gaps ?? 1) }, () => null);
      return Array.from({ length: Number(more ?? 0) + 1 }, (_, i) => Number(first) + i * Number(step ?? 0));
    });
}

await command(async () => {
  const file = process.argv[2];
  if (!file) throw new Error('usage: make test-rules FILE=rules.test.yaml');
  const { rules, tests } = checked(fileSchema, parse(readFileSync(file, 'utf8')), '');
  const definitions = rules.map((rule, i) => ruleFields(checked(newRuleSchema, rule, `rules[${i}]`)));

  const names = new Set(definitions.map(({ name }) => name));
  for (const { name, expect } of tests)
    for (const { rule } of expect.flatMap(({ alerts }) => alerts))
      if (!names.has(rule)) throw new Error(`${name}: there is no rule ${rule} in the file`);

  const server = await createTemplate((await findServer(() => {})).url);
  let failed = 0;
  try {
    const sql = connect(await cloneDatabase(server), { name: 'obs-test-rules', max: 1 });
    try {
      for (const [i, test] of tests.entries()) {
        const problems = await run(sql, `test-${i}`, definitions, test);
        console.log(`${problems.length === 0 ? 'ok  ' : 'FAIL'} ${test.name}`);
        for (const problem of problems) console.log(`     ${problem}`);
        if (problems.length > 0) failed++;
      }
    } finally {
      await sql.end();
    }
  } finally {
    await dropDatabases(server);
  }
  if (failed > 0) throw new Error(`${failed} of ${tests.length} tests failed`);
});

function checked<Schema extends z.ZodType>(schema: Schema, value: unknown, path: string): z.output<Schema> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new Error(
    result.error.issues
      .map((issue) => `${[path, ...issue.path.map(String)].filter(Boolean).join('.')}: ${issue.message}`)
      .join('\n'),
  );
}

async function run(sql: postgres.Sql, org: string, rules: object[], test: RuleTest): Promise<string[]> {
  const json = JSON.stringify;
  const [{ id: orgId, start } = { id: 0, start: 0 }] = await sql<{ id: number; start: number }[]>`
    select api.ensure_org(${org}) as id, extract(epoch from date_trunc('hour', now() - interval '2 days'))::float8 as start`;
  const at = (seconds: number) => new Date((start + seconds) * 1000).toISOString();
  const lasts = Math.max(0, ...test.expect.map(({ at }) => at));

  for (const { metric, service_name, labels, values } of test.series) {
    const samples = values.flatMap((value, i) =>
      value === null ? [] : [[at(i * test.interval), value] as const],
    );
    await sql`
      insert into obs.sample (time, series_id, value)
      select (s ->> 0)::timestamptz, (api.ensure_series(${orgId}, ${json([{ name: metric, service_name, labels }])}::text::jsonb))[1], (s ->> 1)::float8
      from jsonb_array_elements(${json(samples)}::text::jsonb) as s`;
  }
  const intervals = new Set<number>();
  for (const rule of rules) {
    const [row] = await sql<{ definition: { id: string; interval_seconds: number } }[]>`
      select api.put_definition(${orgId}, 'alert_rule', null, ${json(rule)}::text::jsonb, 'test') as definition`;
    intervals.add(row!.definition.interval_seconds);
  }
  // All are due at the beginning, and each at the multiples of its interval from then on.
  const times = new Set(test.expect.map(({ at }) => at));
  for (const interval of intervals) for (let time = 0; time <= lasts; time += interval) times.add(time);

  const problems: string[] = [];
  for (const time of [...times].sort((a, b) => a - b)) {
    await sql`
      update obs.alert_rule_state t set next_evaluation_at = ${at(time)}::text::timestamptz
      from obs.alert_rule r
      where r.id = t.rule_id and r.org_id = ${orgId} and ${time}::int % r.interval_seconds = 0`;
    await sql`select job.evaluate_rules(${orgId}, ${at(time)}::text::timestamptz)`;
    for (const expected of test.expect.filter((e) => e.at === time)) {
      const alerts = await sql<Record<string, unknown>[]>`
        select name as rule, status, severity, labels, annotations, description, value
        from obs.alert where org_id = ${orgId} and status in ('pending', 'firing') order by name, labels::text`;
      problems.push(
        ...differences(expected.alerts, alerts).map((text) => `at ${formatDuration(time)}: ${text}`),
      );
    }
  }
  return problems;
}

/** What was expected and is not there, and what is there and was not expected. Of an alert those fields count that are given. */
function differences(expected: Record<string, unknown>[], alerts: Record<string, unknown>[]): string[] {
  const left = [...alerts];
  const missing = expected.filter((one) => {
    const i = left.findIndex((alert) =>
      Object.entries(one).every(([name, value]) => isDeepStrictEqual(alert[name], value)),
    );
    if (i >= 0) left.splice(i, 1);
    return i < 0;
  });
  return [
    ...missing.map((one) => `expected ${JSON.stringify(one)}`),
    ...left.map((alert) => `not expected ${JSON.stringify(alert)}`),
  ];
}
