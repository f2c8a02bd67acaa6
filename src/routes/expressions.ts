// Schemas of what the rule language reads: expressions, and matchers of alerts as channels, silences and escalations take them.
import { z } from '@hono/zod-openapi';
import { invalid } from '../errors.ts';
import { text } from '../request.ts';
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

export const expressionSchema = z.string('expected text').transform(parsed(parseRule)).openapi({
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

const matcherSchema = z
  .union(
    [
      z.string().transform(parsed(parseMatcher)),
      z
        .strictObject({
          label: text(255),
          op: z.enum(operators).default('='),
          value: z.string().max(expressionLimits.textLength),
        })
        .superRefine(({ op, value }, context) => {
          const problem = op === '=~' || op === '!~' ? patternProblem(value) : null;
          if (problem)
            context.addIssue({
              code: 'custom',
              path: ['value'],
              message: `expected a regular expression (${problem})`,
            });
        }),
    ],
    'expected text such as service="auth", or {label, op, value}',
  )
  .openapi({ type: 'string', example: 'service=~"auth|billing"' });

/** All of them have to match; labels are those of the alert, and alertname, severity, service, source. */
export const matchersSchema = z
  .array(matcherSchema, 'expected an array of matchers')
  .max(expressionLimits.matchers, `at most ${expressionLimits.matchers}`);

export const shownMatchersSchema = z.array(z.string()).openapi({ example: ['service="auth"'] });

export function showMatchers(matchers: unknown): string[] {
  return (matchers as Matcher[]).map(printMatcher);
}
