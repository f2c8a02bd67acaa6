// Schemas of what the rule language reads: expressions, and matchers of alerts as channels, silences and escalations take them.
import { z } from '@hono/zod-openapi';
import { invalid } from '../errors.ts';
import { limits } from '../ingest/metrics.ts';
import { prose, text } from '../request.ts';
import {
  aboutService,
  ExpressionError,
  expressionLimits,
  type Matcher,
  parseMatcher,
  parseRule,
  patternProblem,
  printMatcher,
  printRule,
  type Rule,
  serviceOf,
} from '../rules/expression.ts';

/** Reads a text of ours within a schema; what is wrong with it is told with its position. */
export function parsed<T>(parse: (text: string) => T) {
  return (value: string, context: z.RefinementCtx): T => {
    try {
      return parse(value);
    } catch (error) {
      if (!(error instanceof ExpressionError)) throw error;
      context.addIssue({
        code: 'custom',
        message: error.message,
        params: { line: error.line, column: error.column },
      });
      return z.NEVER;
    }
  };
}

function readRule(text: string): Rule {
  const rule = parseRule(text);
  if ((serviceOf(rule) ?? '').length > limits.serviceNameLength)
    throw new ExpressionError(text, 0, `a service of at most ${limits.serviceNameLength} characters`, '');
  return rule;
}

export const expressionSchema = z.string('expected text').transform(parsed(readRule)).openapi({
  type: 'string',
  maxLength: expressionLimits.length,
  example: 'avg(response_time_ms{service="auth"}[10m]) > 1000 for 5m',
});

/** Columns of obs.alert_rule that an expression decides on. */
export function expressionFields(rule: Rule, service: string | null | undefined): Record<string, unknown> {
  const about = service ? aboutService(rule, service) : rule;
  try {
    // What is shown can be given again.
    parseRule(printRule(about));
  } catch (error) {
    if (error instanceof ExpressionError)
      throw invalid([{ path: 'service_name', message: `the expression for this service: ${error.message}` }]);
    throw error;
  }
  return {
    expression: printRule(about),
    tree: { condition: about.condition, selectors: about.selectors, by: about.by },
    for_seconds: about.for_seconds,
    service_name: service || serviceOf(about),
  };
}

const operators = ['=', '!=', '=~', '!~'] as const;

const matcherObjectSchema = z
  .strictObject(
    {
      label: text(255),
      op: z.enum(operators, `expected one of ${operators.join(' ')}`).default('='),
      value: prose(expressionLimits.textLength),
    },
    'expected text such as service="auth", or {label, op, value}',
  )
  .superRefine(({ op, value }, context) => {
    const problem = op === '=~' || op === '!~' ? patternProblem(value) : null;
    if (problem)
      context.addIssue({
        code: 'custom',
        path: ['value'],
        message: `expected a regular expression (${problem})`,
      });
  });

// Not a union, which would tell that neither fits, and not what is wrong with the one that was meant.
const matcherSchema = z
  .unknown()
  .transform((value, context): Matcher => {
    if (typeof value === 'string') return parsed(parseMatcher)(value, context);
    const read = matcherObjectSchema.safeParse(value);
    if (read.success) return read.data;
    for (const issue of read.error.issues) context.issues.push({ ...issue, input: value } as never);
    return z.NEVER;
  })
  .openapi({ type: 'string', example: 'service=~"auth|billing"' });

/** All of them have to match; labels are those of the alert, and alertname, severity, service, source. */
export const matchersSchema = z
  .array(matcherSchema, 'expected an array of matchers')
  .max(expressionLimits.matchers, `at most ${expressionLimits.matchers}`);

export const shownMatchersSchema = z.array(z.string()).openapi({ example: ['service="auth"'] });

export function showMatchers(matchers: unknown): string[] {
  return (matchers as Matcher[]).map(printMatcher);
}
