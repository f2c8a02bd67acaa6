// The rule language: what texts are read as, where wrong ones are wrong, and regular expressions that PostgreSQL and
// JavaScript understand alike.
import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import {
  type Aggregation,
  aboutService,
  aggregations,
  type ConditionNode,
  ExpressionError,
  expressionLimits,
  formatDuration,
  type Matcher,
  type NumberNode,
  parseDuration,
  parseMatcher,
  parseRule,
  patternProblem,
  printMatcher,
  printRule,
  type Rule,
  type Selector,
  serviceOf,
} from '../../src/rules/expression.ts';
import { parseTemplate, type TemplatePart } from '../../src/rules/template.ts';
import { useDatabase } from '../support/database.ts';

const database = useDatabase();
const seed = 20261125;

function errorOf(read: () => unknown): ExpressionError {
  try {
    read();
  } catch (error) {
    expect(error).toBeInstanceOf(ExpressionError);
    return error as ExpressionError;
  }
  throw new Error('It was accepted');
}

/** Where the mark ‸ is in a text, in characters, and the text without it. */
function marked(withMark: string) {
  const lines = withMark.split('\n');
  const line = lines.findIndex((text) => text.includes('‸'));
  return {
    text: withMark.replace('‸', ''),
    line: line + 1,
    column: Array.from(lines[line]!).indexOf('‸') + 1,
  };
}

describe('canonical text', () => {
  test.each([
    'avg(response_time_ms) > 1000 for 5m',
    'avg(response_time_ms{service="auth"}[10m]) > 1000 for 5m',
    'avg(x) > 1 or max(y) < 2 and min(z) == 3',
    '(avg(x) > 1 or max(y) < 2) and min(z) != 3',
    'avg(x) > 1 and (max(y) < 2 and absent(z))',
    'avg(x) - (1 - 2) >= 0',
    'avg(x) + (1 + 2) <= 0',
    'avg(x) / (2 * 3) % 4 > 1',
    '(avg(x) + 1) * 2 > 0',
    'avg(x) + 1 * 2 > 0',
    '-avg(x) * 2 > -1',
    '-(avg(x) * 2) > 1',
    '1 - -avg(x) > --2',
    'sum by (a, b) (x{c="d"}[1h]) > avg(y)',
    'avg("a b"{"k-1"="v", "ü"!="w"}) > 1',
    'avg(http.requests:rate{service_name="x"}) > 1',
    'avg(avg{by="for", and="or"}) > last(for) for 1m',
    'absent(absent[2m])',
    'count by (by) (by) > 1',
    'avg(x{a="1", b!="2", c=~"3|4", d!~"5.*"}) > 1',
    'avg(x{a="# no comment", b="it\'s", c=""}) > 1',
    'avg(x[5m]) > avg(y[1d]) + avg(z) for 10m',
    'avg(x) > 1e+21',
    'avg(x) > 1e-7',
  ])('%s is read back unchanged', (text) => {
    expect(printRule(parseRule(text))).toBe(text);
  });

  test.each([
    // Spaces, case and comments.
    ['AVG(x)>1', 'avg(x) > 1'],
    [' P95 ( x ) >= 1 OR\tAbsent(y) For 1m ', 'p95(x) >= 1 or absent(y) for 1m'],
    ['sum BY(host)(x)>1 And 1<2', 'sum by (host) (x) > 1 and 1 < 2'],
    ['avg(X) > 1', 'avg(X) > 1'],
    ['avg(x) # the mean\r\n > 1 # "', 'avg(x) > 1'],
    ['# 1\n# 2\n\n#\navg(x)\u00a0> 1', 'avg(x) > 1'],
    // Parentheses that change nothing.
    ['((avg(x)) > (1))', 'avg(x) > 1'],
    ['avg(x) > 1 or (max(y) < 2 and min(z) == 3)', 'avg(x) > 1 or max(y) < 2 and min(z) == 3'],
    ['(avg(x) > 1 and max(y) < 2) and absent(z)', 'avg(x) > 1 and max(y) < 2 and absent(z)'],
    ['(avg(x)-1)-2>0', 'avg(x) - 1 - 2 > 0'],
    ['(avg(x) * 2) + (3 / 4) > 0', 'avg(x) * 2 + 3 / 4 > 0'],
    ['(-avg(x))*2 > -(1)', '-avg(x) * 2 > -1'],
    ['- - avg(x) > 1', '--avg(x) > 1'],
    ['(avg(x)) % (-(2)) > 1', 'avg(x) % -2 > 1'],
    // Groups.
    ['sum(x{c="d"}) by (b, a) > 1', 'sum by (a, b) (x{c="d"}) > 1'],
    ['sum by ("b", "a-1") (x) > 1', 'sum by ("a-1", b) (x) > 1'],
    ['1 > sum(x) by (a) * max by (a) (y) and absent(z)', '1 > sum by (a) (x) * max by (a) (y) and absent(z)'],
    // Names and text.
    ['avg("abc") > 1', 'avg(abc) > 1'],
    ["avg('a\"b') > 1", 'avg("a\\"b") > 1'],
    ["avg(\"1x\"{'1'='2'}) > 1", 'avg("1x"{"1"="2"}) > 1'],
    ['avg("a\\nb") > 1', 'avg("a\\nb") > 1'],
    [`avg(x{a="\\n\\t\\r\\\\\\"\\'"}) > 1`, `avg(x{a="\\n\\t\\r\\\\\\"'"}) > 1`],
    [`avg(x{a='\t"\u2028😀'}) > 1`, 'avg(x{a="\\t\\"\u2028😀"}) > 1'],
    ['avg(x{}) > 1', 'avg(x) > 1'],
    ['avg(x { a = "b" , a != "c" } [ 1m ]) > 1', 'avg(x{a="b", a!="c"}[1m]) > 1'],
    // Windows: those that are not given are as long as the condition has to hold, else 5m.
    ['avg(x[5m]) > 1', 'avg(x) > 1'],
    ['avg(x[300s]) > 1', 'avg(x) > 1'],
    ['avg(x[10m]) > avg(y[5m]) for 10m', 'avg(x) > avg(y[5m]) for 10m'],
    ['avg(x) > 1 for 0s', 'avg(x) > 1'],
    ['avg(x[5m]) > 1 for 0', 'avg(x) > 1'],
    // Lengths of time.
    ['avg(x) > 1 for 90s', 'avg(x) > 1 for 1m30s'],
    ['avg(x[3600s]) > 1 for 1w3d', 'avg(x[1h]) > 1 for 10d'],
    ['avg(x) > 1 for 14d', 'avg(x) > 1 for 2w'],
    ['avg(x) > 1 for 36h', 'avg(x) > 1 for 1d12h'],
    ['avg(x) > 1 for 0h61m', 'avg(x) > 1 for 1h1m'],
    ['avg(x) > 1 for 2592000s', 'avg(x) > 1 for 30d'],
    // Numbers.
    ['avg(x) > 1e3', 'avg(x) > 1000'],
    ['avg(x) > .5 + 1. + 007 + 1.50', 'avg(x) > 0.5 + 1 + 7 + 1.5'],
    ['avg(x) > 1E-7', 'avg(x) > 1e-7'],
    ['avg(x) > 1e+2-1', 'avg(x) > 100 - 1'],
    ['avg(x) > 0.1e1', 'avg(x) > 1'],
  ])('%j is %j', (text, canonical) => {
    expect(printRule(parseRule(text))).toBe(canonical);
    expect(parseRule(canonical)).toEqual(parseRule(text));
  });

  test.each(aggregations)('%s is an aggregate', (aggregation) => {
    const rule = parseRule(`${aggregation.toUpperCase()}(x) > 1`);
    expect(rule.selectors[0]!.aggregation).toBe(aggregation);
    expect(printRule(rule)).toBe(`${aggregation}(x) > 1`);
  });

  test('the tree says all that the text does', () => {
    const text =
      'max(a{b!~"c"}) by (host) - 2 * 3 >= -p99(d[1h]) or sum by (host) (e) > 1 and absent(f) for 2m';
    expect(parseRule(text)).toEqual({
      condition: {
        op: 'or',
        left: {
          op: '>=',
          left: {
            op: '-',
            left: { op: 'selector', selector: 0 },
            right: { op: '*', left: { op: 'number', value: 2 }, right: { op: 'number', value: 3 } },
          },
          right: { op: 'negate', operand: { op: 'selector', selector: 1 } },
        },
        right: {
          op: 'and',
          left: { op: '>', left: { op: 'selector', selector: 2 }, right: { op: 'number', value: 1 } },
          right: { op: 'absent', selector: 3 },
        },
      },
      for_seconds: 120,
      selectors: [
        {
          aggregation: 'max',
          metric: 'a',
          matchers: [{ label: 'b', op: '!~', value: 'c' }],
          window_seconds: 120,
          by: ['host'],
        },
        { aggregation: 'p99', metric: 'd', matchers: [], window_seconds: 3600, by: [] },
        { aggregation: 'sum', metric: 'e', matchers: [], window_seconds: 120, by: ['host'] },
        { aggregation: 'count', metric: 'f', matchers: [], window_seconds: 120, by: [] },
      ],
      by: ['host'],
    });
  });
});

// Trees as the parser makes them. Leaves hold their selectors until these are numbered, left to right.
type Leaf = { op: 'leaf'; selector: Omit<Selector, 'by'>; isGrouped: boolean };
type NumberShape =
  | Leaf
  | { op: 'number'; value: number }
  | { op: 'negate'; operand: NumberShape }
  | { op: '+' | '-' | '*' | '/' | '%'; left: NumberShape; right: NumberShape };
type ConditionShape =
  | { op: 'and' | 'or'; left: ConditionShape; right: ConditionShape }
  | { op: '>' | '>=' | '<' | '<=' | '==' | '!='; left: NumberShape; right: NumberShape }
  | { op: 'absent'; leaf: Leaf };

const isJunction = <Node extends { op: string }>(node: Node): node is Extract<Node, { op: 'and' | 'or' }> =>
  node.op === 'and' || node.op === 'or';

const storable = (maxLength: number) =>
  fc
    .oneof(
      fc.string({ unit: 'grapheme', maxLength }),
      fc.string({ unit: 'binary', maxLength }),
      fc.string({
        unit: fc.constantFrom('"', "'", '\\', '\n', '\t', '\r', 'n', '#', '\u2028', '😀'),
        maxLength,
      }),
    )
    .map((text) => text.replaceAll('\0', '').slice(0, maxLength).toWellFormed());
const anyName = fc.oneof(
  { weight: 3, arbitrary: fc.stringMatching(/^[A-Za-z_:][\w:.]{0,12}$/) },
  {
    weight: 2,
    arbitrary: fc.constantFrom(
      'avg',
      'by',
      'for',
      'or',
      'AND',
      'absent',
      ':',
      '_',
      'a.b',
      'a-b',
      '5m',
      '1',
      ' ',
      '"',
      '.a',
    ),
  },
  { weight: 2, arbitrary: storable(12).filter((name) => name !== '') },
  { weight: 1, arbitrary: fc.constantFrom('n'.repeat(255), '-'.repeat(255)) },
);
const anyMatcher: fc.Arbitrary<Matcher> = fc.oneof(
  fc.record({ label: anyName, op: fc.constantFrom('=' as const, '!=' as const), value: storable(20) }),
  fc.record({
    label: anyName,
    op: fc.constantFrom('=~' as const, '!~' as const),
    value: fc.constantFrom('', '.*', 'a|b', '5\\d\\d', '"\'', '[^"\\\\]+', '(?:ü{2,3})?', 'a\tb'),
  }),
);
const anySeconds = fc.oneof(
  fc.constantFrom(1, 59, 60, 300, 600, 3600, 86_400, 604_800, 30 * 86_400),
  fc.integer({ min: 1, max: 30 * 86_400 }),
);
const leafOf = (
  isGrouped: boolean,
  aggregation: fc.Arbitrary<Aggregation> = fc.constantFrom(...aggregations),
) =>
  fc.record({
    op: fc.constant('leaf' as const),
    isGrouped: fc.constant(isGrouped),
    selector: fc.record({
      aggregation,
      metric: anyName,
      matchers: fc.array(anyMatcher, { maxLength: 3 }),
      window_seconds: anySeconds,
    }),
  });
const literal = fc
  .oneof(
    fc.nat(),
    fc.double({ min: 0, max: 1e300, noNaN: true }),
    fc.constantFrom(0, 0.1, 1e21, 1e-7, 5e-324, 1e300, 2 ** 53),
  )
  .map((value) => ({ op: 'number' as const, value: value + 0 }));

// Of two sides that are together grouped or not, which are.
const sidesOf = (isGrouped: boolean) =>
  isGrouped ? fc.constantFrom([true, true], [true, false], [false, true]) : fc.constant([false, false]);

function numberOf(depth: number, isGrouped: boolean): fc.Arbitrary<NumberShape> {
  const leaf: fc.Arbitrary<NumberShape> = isGrouped ? leafOf(true) : fc.oneof(leafOf(false), literal);
  if (depth === 0) return leaf;
  return fc.oneof(
    leaf,
    numberOf(depth - 1, isGrouped).map((operand) => ({ op: 'negate' as const, operand })),
    sidesOf(isGrouped).chain(([left, right]) =>
      fc.record({
        op: fc.constantFrom('+' as const, '-' as const, '*' as const, '/' as const, '%' as const),
        left: numberOf(depth - 1, left!),
        right: numberOf(depth - 1, right!),
      }),
    ),
  );
}

function conditionOf(depth: number, isGrouped: boolean): fc.Arbitrary<ConditionShape> {
  const comparison: fc.Arbitrary<ConditionShape> = sidesOf(isGrouped).chain(([left, right]) =>
    fc.record({
      op: fc.constantFrom(
        '>' as const,
        '>=' as const,
        '<' as const,
        '<=' as const,
        '==' as const,
        '!=' as const,
      ),
      left: numberOf(3, left!),
      right: numberOf(2, right!),
    }),
  );
  const single: fc.Arbitrary<ConditionShape> = isGrouped
    ? comparison
    : fc.oneof(
        { weight: 3, arbitrary: comparison },
        {
          weight: 1,
          arbitrary: leafOf(false, fc.constant('count')).map((leaf) => ({ op: 'absent' as const, leaf })),
        },
      );
  if (depth === 0) return single;
  return fc.oneof(
    single,
    sidesOf(isGrouped).chain(([left, right]) =>
      fc.record({
        op: fc.constant('and' as const),
        left: conditionOf(depth - 1, left!),
        right: conditionOf(depth - 1, right!),
      }),
    ),
    fc.record({
      op: fc.constant('or' as const),
      left: conditionOf(depth - 1, isGrouped),
      right: conditionOf(depth - 1, isGrouped),
    }),
  );
}

function ruleFrom(shape: ConditionShape, by: string[], for_seconds: number): Rule {
  const selectors: Selector[] = [];
  const leaf = ({ selector, isGrouped }: Leaf) =>
    selectors.push({ ...selector, by: isGrouped ? by : [] }) - 1;
  function number(node: NumberShape): NumberNode {
    if (node.op === 'leaf') return { op: 'selector', selector: leaf(node) };
    if (node.op === 'number') return node;
    if (node.op === 'negate') return { op: 'negate', operand: number(node.operand) };
    return { op: node.op, left: number(node.left), right: number(node.right) };
  }
  function condition(node: ConditionShape): ConditionNode {
    if (node.op === 'absent') return { op: 'absent', selector: leaf(node.leaf) };
    if (isJunction(node)) return { op: node.op, left: condition(node.left), right: condition(node.right) };
    return { op: node.op, left: number(node.left), right: number(node.right) };
  }
  return { condition: condition(shape), for_seconds, selectors, by };
}

const anyRule = fc
  .boolean()
  .chain((isGrouped) =>
    fc.record({
      shape: conditionOf(2, isGrouped),
      by: isGrouped
        ? fc.uniqueArray(anyName, { minLength: 1, maxLength: 4 }).map((labels) => labels.sort())
        : fc.constant<string[]>([]),
      for_seconds: fc.oneof(fc.constant(0), anySeconds),
    }),
  )
  .map(({ shape, by, for_seconds }) => ruleFrom(shape, by, for_seconds))
  .filter(
    (rule) =>
      rule.selectors.length > 0 &&
      rule.selectors.length <= expressionLimits.selectors &&
      printRule(rule).length <= expressionLimits.length,
  );

/** A rule with all parentheses, all windows, all names in quotes and by at the end: needs no precedence to be read. */
function spelledOut(rule: Rule): string {
  const quote = (text: string) =>
    `'${text.replace(/['\\\n]/g, (character) => (character === '\n' ? '\\n' : `\\${character}`))}'`;
  const selector = ({ metric, matchers, window_seconds }: Selector) =>
    `${quote(metric)}{${matchers.map(({ label, op, value }) => quote(label) + op + quote(value)).join()}}[${window_seconds}s]`;
  const number = (node: NumberNode): string => {
    if (node.op === 'number') return `(${node.value})`;
    if (node.op === 'negate') return `(-${number(node.operand)})`;
    if (node.op !== 'selector') return `(${number(node.left)}${node.op}${number(node.right)})`;
    const of = rule.selectors[node.selector]!;
    return `(${of.aggregation}(${selector(of)})${of.by.length > 0 ? `by(${of.by.toReversed().map(quote).join()})` : ''})`;
  };
  const condition = (node: ConditionNode): string => {
    if (node.op === 'absent') return `(absent(${selector(rule.selectors[node.selector]!)}))`;
    if (isJunction(node)) return `(${condition(node.left)}${node.op}${condition(node.right)})`;
    return `(${number(node.left)}${node.op}${number(node.right)})`;
  };
  return `${condition(rule.condition)}for ${rule.for_seconds}s`;
}

describe('generated rules', () => {
  test('are read back from their text as the same tree, and printed as the same text', () => {
    const seen = { grouped: 0, nested: 0, quoted: 0 };
    fc.assert(
      fc.property(anyRule, (rule) => {
        const text = printRule(rule);
        expect(text).not.toContain('\n');
        const read = parseRule(text);
        expect(read).toEqual(rule);
        expect(printRule(read)).toBe(text);
        if (rule.by.length > 0) seen.grouped++;
        if (rule.selectors.length > 3) seen.nested++;
        if (/\\["\\nrt]/.test(text)) seen.quoted++;
      }),
      { seed, numRuns: 1500 },
    );
    // Were they all alike, this would show little.
    for (const count of Object.values(seen)) expect(count).toBeGreaterThan(150);
  });

  test('mean what they mean with all parentheses', () => {
    fc.assert(
      fc.property(
        anyRule.filter((rule) => spelledOut(rule).length <= expressionLimits.length),
        (rule) => {
          expect(parseRule(spelledOut(rule))).toEqual(rule);
        },
      ),
      { seed, numRuns: 700 },
    );
  });

  test('matchers of alerts are read back', () => {
    fc.assert(
      fc.property(anyMatcher, (matcher) => {
        expect(parseMatcher(printMatcher(matcher))).toEqual(matcher);
      }),
      { seed, numRuns: 1000 },
    );
  });
});

const aMetric = 'a condition on a metric, such as avg(response_time_ms) > 1000';
const anOperand = 'an aggregate such as avg(response_time_ms), a number or "("';
const anEnd = 'and, or, an operator, for, or the end';
const aLexeme = 'a name, number or operator';
const aNumeral = 'a number such as 1000 or 0.5, or a duration such as 5m or 1h30m';
const aComparison = 'a comparison, such as > 1000';
const anAggregate = `one of the aggregates ${aggregations.join(', ')}, absent`;
const inOrder = 'a duration in w, d, h, m and s, the larger before the smaller, such as 1h30m';

describe('wrong expressions', () => {
  test('lines and columns count from 1, and columns count characters', () => {
    expect(errorOf(() => parseRule('# 😀\navg(x{a="😀é"}) >\n  😀'))).toMatchObject({
      line: 3,
      column: 3,
      expected: aLexeme,
      message: 'line 3, column 3: expected a name, number or operator, found "😀"',
    });
    expect(errorOf(() => parseRule('avg(x{a="😀😀"}) = 1'))).toMatchObject({
      line: 1,
      column: 16,
      message: 'line 1, column 16: expected "==" (a single = is for matchers), found "="',
    });
    expect(errorOf(() => parseRule('avg(x) >'))).toMatchObject({
      line: 1,
      column: 9,
      message: `line 1, column 9: expected ${anOperand}, found the end`,
    });
    expect(errorOf(() => parseRule('1 > 0')).message).toBe(`line 1, column 1: expected ${aMetric}`);
  });

  test.each([
    // Nothing, or only a part.
    ['‸', anOperand],
    ['  \n ‸', anOperand],
    ['# only a comment‸', anOperand],
    ['avg(x)‸', aComparison],
    ['avg(x) ‸for 5m', aComparison],
    ['avg(x) >‸', anOperand],
    ['avg(x) > 1 for‸', 'a duration such as 5m'],
    ['avg(x) > 1 and‸', anOperand],
    ['avg(x) > 1 and\n  max(y) <\n  # 2\n ‸)', anOperand],
    ['avg(x) > 1\n\n or ‸for 5m', 'an aggregate of a metric, such as avg(for)'],
    ['avg(x{a="𝒳", b="\u{10ffff}"})\r\n  > 1 ‸2', anEnd],
    ['/* ‸😀 */', aLexeme],
    ['‸1 > 0', aMetric],
    ['‸\n1 > 0 and 2 < 3', aMetric],
    // What follows a condition.
    ['avg(x) > 1 ‸max(y)', anEnd],
    ['avg(x) > 1‸)', anEnd],
    ['avg(x) > 1 for 5m ‸for 5m', 'the end: for comes last'],
    ['avg(x) > 1 for 5m ‸and absent(y)', 'the end: for comes last'],
    ['(avg(x) > 1 ‸for 5m)', 'an operator or ")"'],
    ['avg(x) > 1 ‸"a"', anEnd],
    // Operators.
    ['avg(x) ‸= 1', '"==" (a single = is for matchers)'],
    ['avg(x) ‸=~ "a"', aComparison],
    ['avg(x) > ‸= 1', anOperand],
    ['sum(‸rate(x[5m])) > 1', 'the name of a metric: aggregates do not nest'],
    ['avg(x) ‸! 1', 'and, or, or another comparison'],
    ['avg(x) > 1 ‸&& absent(y)', 'and, or, or another comparison'],
    ['avg(x) > 1 ‸|| absent(y)', 'and, or, or another comparison'],
    ['‸not absent(x)', 'an aggregate of a metric, such as avg(not)'],
    ['avg(x) > ‸* 2', anOperand],
    ['avg(x) > 1 ‸unless absent(y)', anEnd],
    ['avg(x) > 2 ‸^ 2', aLexeme],
    ['avg(x) > ‸+', anOperand],
    // Numbers where conditions belong, and the other way round.
    ['avg(x) > 1 and ‸2', 'a condition on each side of and, such as avg(response_time_ms) > 1000'],
    ['‸avg(x) or absent(y)', 'a condition on each side of or, such as avg(response_time_ms) > 1000'],
    ['‸(avg(x) + 1) or absent(y)', 'a condition on each side of or, such as avg(response_time_ms) > 1000'],
    ['‸avg(x) > 1 > 2', 'a number on each side of >, not a condition'],
    ['1 + ‸absent(x) > 2', 'a number on each side of +, not a condition'],
    ['1 ==\n‸(avg(x) > 1)', 'a number on each side of ==, not a condition'],
    ['-‸(avg(x) > 1)', 'a number after "-"'],
    ['2 > -‸absent(x)', 'a number after "-"'],
    // Aggregates.
    ['‸x > 1', 'an aggregate of a metric, such as avg(x)'],
    ['‸mean(x) > 1', anAggregate],
    ['1 < ‸constructor(x)', anAggregate],
    ['‸"avg"(x) > 1', anOperand],
    ['avg ‸> 1', '"(" or by'],
    ['absent ‸> 1', '"("'],
    ['avg by (a) ‸> 1', '"("'],
    ['avg by ‸a (x) > 1', '"(" and the labels to group by'],
    ['avg by (‸) (x) > 1', 'a label'],
    ['avg by (a, ‸) (x) > 1', 'a label'],
    ['avg by (a ‸b) (x) > 1', '"," or ")"'],
    ['avg by (a, b, ‸a) (x) > 1', 'a label that is not in the list yet'],
    ['avg by (a, ‸"a") (x) > 1', 'a label that is not in the list yet'],
    ['avg by (‸"") (x) > 1', 'a label of 1 to 255 characters'],
    ['avg(‸) > 1', 'the name of a metric'],
    ['avg(‸5m) > 1', 'the name of a metric'],
    ['avg(‸"") > 1', 'the name of a metric of 1 to 255 characters'],
    ['avg(‸(x)) > 1', 'the name of a metric'],
    ['avg(x ‸+ 1) > 1', '"{", "[" or ")"'],
    ['avg(x‸, y) > 1', '"{", "[" or ")"'],
    ['avg(x‸', '"{", "[" or ")"'],
    ['avg(x[5m]‸{a="b"}) > 1', '")"'],
    ['‸absent by (a) (x)', 'absent without by: it is about all series of the selector'],
    ['absent(x) ‸by (a)', 'no grouping: absent() is about all series of the selector'],
    ['avg by (a) (x) ‸by (a) > 1', aComparison],
    // Groups that do not go together.
    [
      'avg by (a) (x) ‸> avg by (b) (y)',
      'both sides of > to be grouped by the same labels, not by (a) and by (b)',
    ],
    [
      'avg by (a) (x) ‸/ sum(y) by (b, a) > 1',
      'both sides of / to be grouped by the same labels, not by (a) and by (a, b)',
    ],
    [
      'avg by (a) (x) > 1\n‸or absent(y)',
      'both sides of or to be grouped by the same labels, not by (a) and by ()',
    ],
    [
      'max(x) > 1 ‸OR avg by (a) (x) > 1',
      'both sides of or to be grouped by the same labels, not by () and by (a)',
    ],
    // Matchers.
    ['avg(x{‸', 'a label'],
    ['avg(x{a="b",‸}) > 1', 'a label'],
    ['avg(x{a="b" ‸c="d"}) > 1', '"," or "}"'],
    ['avg(x{a ‸"b"}) > 1', 'one of = != =~ !~'],
    ['avg(x{a‸=="b"}) > 1', 'one of = != =~ !~'],
    ['avg(x{a‸>"b"}) > 1', 'one of = != =~ !~'],
    ['avg(x{a=‸b}) > 1', 'text in quotes'],
    ['avg(x{a=‸1}) > 1', 'text in quotes'],
    ['avg(x{‸1="a"}) > 1', 'a label'],
    ['avg(x{a=~‸"(?i)b"}) > 1', /^a regular expression \(.+\)$/],
    [
      'avg(x{a="😀", b!~\n‸"(?=b)"}) > 1',
      'a regular expression (of the groups that begin with (? only (?: is known)',
    ],
    ['avg(x{a=~‸"("}) > 1', 'a regular expression (unterminated group)'],
    // Text.
    ['avg(x{a=‸"b}) > 1', 'text that ends with " on the same line'],
    ['avg(x{a=‸\'b"}) > 1', "text that ends with ' on the same line"],
    ['avg(x{a=‸"b\n"}) > 1', 'text that ends with " on the same line'],
    ['avg(x{a="😀‸\\d"}) > 1', 'an escape such as \\" or \\\\'],
    ["avg(x{a='‸\\u0041'}) > 1", "an escape such as \\' or \\\\"],
    ['avg(x{a="b‸\\\n"}) > 1', 'an escape such as \\" or \\\\'],
    ['avg(x{a="b‸\\', 'an escape such as \\" or \\\\'],
    ['avg(x{a="b", c=‸"}) > 1', 'text that ends with " on the same line'],
    [
      'avg by ("a,b") (x) ‸> avg by (a, b) (y)',
      'both sides of > to be grouped by the same labels, not by (a,b) and by (a, b)',
    ],
    // Numbers.
    ['avg(x) > ‸1.2.3', aNumeral],
    ['avg(x) > ‸1e', aNumeral],
    ['avg(x) > ‸0x10', aNumeral],
    ['avg(x) > ‸1_000', aNumeral],
    ['avg(x) > ‸10ab', aNumeral],
    ['avg(x) > ‸.', aNumeral],
    ['avg(x) > 1‸,5', anEnd],
    ['avg(x) > ‸1e301', 'a number up to 1e300'],
    ['avg(x) > ‸1e999', 'a number up to 1e300'],
    ['avg(x) > ‸5m', anOperand],
    ['avg(x) > ‸NaN', 'an aggregate of a metric, such as avg(NaN)'],
    // Lengths of time.
    ['avg(x) > 1 for ‸5', 'a duration such as 5m'],
    ['avg(x) > 1 for ‸-5m', 'a duration such as 5m'],
    ['avg(x) > 1 for ‸1.5h', aNumeral],
    ['avg(x) > 1 for ‸"5m"', 'a duration such as 5m'],
    ['avg(x) > 1 for ‸30m1h', inOrder],
    ['avg(x) > 1 for ‸1m1m', inOrder],
    ['avg(x) > 1 for ‸100ms', inOrder],
    ['avg(x) > 1 for ‸1y', inOrder],
    ['avg(x) > 1 for ‸5 m', 'a duration such as 5m'],
    ['avg(x) > 1 for ‸31d', 'a duration of 0s to 30d'],
    ['avg(x) > 1 for ‸30d1s', 'a duration of 0s to 30d'],
    ['avg(x) > 1 for ‸99999999999999999999d', 'a duration of 0s to 30d'],
    ['avg(x[‸]) > 1', 'a duration such as 5m'],
    ['avg(x[‸0]) > 1', 'a duration such as 5m'],
    ['avg(x[‸0s]) > 1', 'a duration of 1s to 30d'],
    ['avg(x[‸5w]) > 1', 'a duration of 1s to 30d'],
    ['avg(x[5m‸) > 1', '"]"'],
    ['avg(x[5m‸:1m]) > 1', '"]"'],
    // What can be stored nowhere.
    ['avg(x{a="😀‸\0"}) > 1', 'well-formed text'],
    ['avg(x) > 1 # 😀‸\ud83d', 'well-formed text'],
    ['avg(x{a="\n‸\udc00\ud83d"}) > 1', 'well-formed text'],
    ['‸\0', 'well-formed text'],
  ] as [string, string | RegExp][])('%j: expected %s', (withMark, expected) => {
    const { text, line, column } = marked(withMark);
    const error = errorOf(() => parseRule(text));
    expect({ line: error.line, column: error.column }).toEqual({ line, column });
    if (typeof expected === 'string') expect(error.expected).toBe(expected);
    else expect(error.expected).toMatch(expected);
    expect(
      error.message.startsWith(`line ${error.line}, column ${error.column}: expected ${error.expected}`),
    ).toBe(true);
  });

  const times = (count: number, text: (i: number) => string, between = ', ') =>
    Array.from({ length: count }, (_, i) => text(i)).join(between);
  const equals = (i: number) => `l${i}="v"`;

  test.each([
    ['length', `avg(x) > 1${' '.repeat(3990)}`, `avg(x) > 1${' '.repeat(3990)}‸ `, 'at most 4000 characters'],
    ['length', '(avg(x) > 1)', `avg(x) > 1 #${'\n'.repeat(3988)}‸1`, 'at most 4000 characters'],
    // The condition itself is a level, and so is what is right of an operator.
    [
      'depth',
      `${'('.repeat(48)}avg(x) > 1${')'.repeat(48)}`,
      `${'('.repeat(49)}avg(x) > ‸1${')'.repeat(49)}`,
      'at most 50 levels of nesting',
    ],
    ['depth', `${'-'.repeat(49)}avg(x) > 1`, `${'-'.repeat(50)}‸avg(x) > 1`, 'at most 50 levels of nesting'],
    ['depth', '1 < avg(x)', `avg(x) > ${'('.repeat(49)}‸1`, 'at most 50 levels of nesting'],
    [
      'selectors',
      `${times(20, (i) => `avg(m${i})`, ' + ')} > 1`,
      `${times(20, (i) => `avg(m${i})`, ' +\n')} > absent(‸x)`,
      'at most 20 aggregates',
    ],
    [
      'matchers',
      `avg(x{${times(20, equals)}}) > 1`,
      `avg(x{${times(20, equals)}, ‸b="c"}) > 1`,
      'at most 20 matchers',
    ],
    [
      'labels',
      `avg by (${times(10, (i) => `l${i}`)}) (x) > 1`,
      `avg by (${times(10, (i) => `l${i}`)}, ‸b) (x) > 1`,
      'at most 10 labels',
    ],
    [
      'metric',
      `avg(${'n'.repeat(255)}) > 1`,
      `avg(‸${'n'.repeat(256)}) > 1`,
      'the name of a metric of 1 to 255 characters',
    ],
    [
      'metric',
      `avg("${'-'.repeat(255)}") > 1`,
      `avg(‸"${'-'.repeat(256)}") > 1`,
      'the name of a metric of 1 to 255 characters',
    ],
    [
      'label',
      `avg(x{${'n'.repeat(255)}="a"}) > 1`,
      `avg(x{‸${'n'.repeat(256)}="a"}) > 1`,
      'a label of 1 to 255 characters',
    ],
    [
      'text',
      `avg(x{a="${'v'.repeat(1024)}"}) > 1`,
      `avg(x{a=‸"${'v'.repeat(1025)}"}) > 1`,
      'at most 1024 characters',
    ],
    // Escapes count as what they stand for.
    [
      'text',
      `avg(x{a="${'\\n'.repeat(1024)}"}) > 1`,
      `avg(x{a=‸"${'\\n'.repeat(1025)}"}) > 1`,
      'at most 1024 characters',
    ],
    [
      'pattern',
      `avg(x{a=~"${'v'.repeat(200)}"}) > 1`,
      `avg(x{a=~‸"${'v'.repeat(201)}"}) > 1`,
      'a regular expression (at most 200 characters)',
    ],
    [
      'repetitions of a pattern',
      'avg(x{a=~"(?:b{10}c){6}"}) > 1',
      'avg(x{a=~‸"(?:b{10}c){8}"}) > 1',
      'a regular expression (its repetitions times its length at most 1000)',
    ],
    [
      'operands',
      `avg(x) > ${'1 + '.repeat(98)}1`,
      `avg(x) > ${'1 + '.repeat(99)}‸1`,
      'at most 100 aggregates and numbers',
    ],
    [
      'canonical length',
      `avg(x{${Array.from({ length: 5 }, (_, i) => `a${i}='${'"'.repeat(380)}'`).join()}}) > 1`,
      `‸avg(x{${Array.from({ length: 5 }, (_, i) => `a${i}='${'"'.repeat(750)}'`).join()}}) > 1`,
      'at most 4000 characters in canonical form',
    ],
    ['for', 'avg(x) > 1 for 4w2d', 'avg(x) > 1 for ‸4w2d1s', 'a duration of 0s to 30d'],
    ['window', 'avg(x[1s]) + avg(y[30d]) > 1', 'avg(x[1s]) + avg(y[‸30d1s]) > 1', 'a duration of 1s to 30d'],
    ['number', 'avg(x) > 1e300', 'avg(x) > ‸1.1e300', 'a number up to 1e300'],
  ])('the limit of %s', (_, longest, withMark, expected) => {
    expect(() => parseRule(longest)).not.toThrow();
    const { text, line, column } = marked(withMark);
    expect(errorOf(() => parseRule(text))).toMatchObject({ line, column, expected });
  });

  test.each([
    ['‸', 'a label'],
    ['severity‸', 'one of = != =~ !~'],
    ['severity=‸critical', 'text in quotes'],
    ['severity="critical"‸, a="b"', 'the end of the matcher'],
    ['‸{severity="critical"}', 'a label'],
    ['\n‸😀="a"', aLexeme],
    ['a=~‸"b**"', 'a regular expression (nothing to repeat)'],
  ])('of a matcher: %j', (withMark, expected) => {
    const { text, line, column } = marked(withMark);
    expect(errorOf(() => parseMatcher(text))).toMatchObject({ line, column, expected });
  });
});

describe('malformed expressions', () => {
  const tokensOf = (text: string) =>
    text.match(/"(?:\\.|[^"\\])*"|[A-Za-z_:][\w:.]*|[\d.]+(?:e[+-]\d+)?\w*|[=!<>]=|[=!]~|\S/gu)!;
  const valid = [
    'avg(response_time_ms) > 1000 for 5m',
    'avg(response_time_ms{service="auth"}[10m]) > 1000 for 5m',
    'sum by (a, b) (x{c="d", e=~"f.*"}) / max(y) >= 0.95 and absent(z[1h])',
    '(avg(x) > 1 or max(y) < -2) and -(min("q r"{s!="t"}[90s]) + 3) * 4 != 5 % 6',
    'rate by (host) (requests{code!~"5.."}) == 0 or p99 by (host) (latency) > 1e+21 or increase by (host) (errors) > .5',
    ...fc.sample(
      anyRule.map(printRule).filter((text) => text.length < 300),
      { seed, numRuns: 60 },
    ),
  ].map(tokensOf);
  const junk = fc.constantFrom(
    ';',
    '&',
    '|',
    '!',
    '@',
    '$',
    '?',
    '^',
    '~',
    '`',
    '\\',
    '😀',
    'é',
    '1x',
    '..',
    '⟩',
  );
  const binary = ['>', '>=', '<', '<=', '==', '!=', '+', '*', '/', '%', 'and', 'or'];
  const isBracket = (token: string) => '(){}[]'.includes(token);
  const indexes = (tokens: string[], is: (token: string, i: number) => boolean) =>
    tokens.flatMap((token, i) => (is(token, i) ? [i] : []));
  const inserted = (tokens: string[], at: number, ...more: string[]) =>
    tokens.toSpliced(at, 0, ...more).join(' ');
  const depthAt = (tokens: string[], at: number) =>
    tokens
      .slice(0, at)
      .reduce((depth, token) => depth + (isBracket(token) ? ('([{'.includes(token) ? 1 : -1) : 0), 0);

  // Wrong whatever they are made from.
  const surelyMalformed = fc.constantFrom(...valid).chain((tokens) =>
    fc.oneof(
      fc.constantFrom(...indexes(tokens, isBracket)).map((at) => tokens.toSpliced(at, 1).join(' ')),
      fc
        .tuple(fc.nat(tokens.length), fc.constantFrom('(', ')', '{', '}', '[', ']'))
        .map(([at, bracket]) => inserted(tokens, at, bracket)),
      fc.tuple(fc.nat(tokens.length), junk).map(([at, token]) => inserted(tokens, at, token)),
      fc.nat(tokens.length).map((at) => inserted(tokens, at, '\ud800')),
      fc
        .tuple(fc.constantFrom(...binary), fc.constantFrom(...binary))
        .map(([first, second]) => `(${tokens.join(' ').replace(/ for \S+$/, '')}) ${first} ${second} 1 == 1`),
      fc.constantFrom(...binary, '-', 'for', '1 2', '"', '5m').map((more) => `${tokens.join(' ')} ${more}`),
      fc
        .constantFrom(...indexes(tokens, (_, at) => depthAt(tokens, at) > 0))
        .map((at) => tokens.slice(0, at).join(' ')),
      fc.constantFrom(...binary).map((operator) => `${operator} ${tokens.join(' ')}`),
    ),
  );
  // Wrong more often than not.
  const changed = fc.constantFrom(...valid).chain((tokens) =>
    fc.oneof(
      fc.nat(tokens.length - 1).map((at) => tokens.toSpliced(at, 1).join(' ')),
      fc.nat(tokens.length - 1).map((at) => inserted(tokens, at, tokens[at]!)),
      fc
        .tuple(fc.nat(tokens.length - 1), fc.nat(tokens.length - 1))
        .map(([a, b]) => tokens.with(a, tokens[b]!).with(b, tokens[a]!).join(' ')),
      fc
        .tuple(fc.nat(tokens.length - 1), fc.constantFrom(...valid.flat()))
        .map(([at, token]) => tokens.with(at, token).join('\n')),
      fc.nat(tokens.join(' ').length).map((at) => tokens.join(' ').slice(0, at)),
      fc
        .tuple(fc.nat(tokens.join('').length), fc.string({ unit: 'binary', minLength: 1, maxLength: 3 }))
        .map(([at, more]) => tokens.join('').slice(0, at) + more + tokens.join('').slice(at)),
      fc
        .array(fc.constantFrom(...valid.flat(), '(', ')', '\n', '"', "'", '\\', '#', '0'), { maxLength: 30 })
        .map((list) => list.join('')),
      fc.string({ unit: fc.constantFrom(...'avgx()[]{}<>=!~+-*/%,.:0159ms"\'\\# \n'), maxLength: 40 }),
      fc.string({ unit: 'binary', maxLength: 40 }),
    ),
  );

  function expectRefusal(error: unknown, text: string) {
    if (!(error instanceof ExpressionError)) throw error;
    const lines = text.split('\n');
    expect(error.line, text).toBeGreaterThanOrEqual(1);
    expect(error.line, text).toBeLessThanOrEqual(lines.length);
    expect(error.column, text).toBeGreaterThanOrEqual(1);
    expect(error.column, text).toBeLessThanOrEqual(Array.from(lines[error.line - 1]!).length + 1);
    expect(error.expected, text).not.toBe('');
    expect(error.message, text).toContain(
      `line ${error.line}, column ${error.column}: expected ${error.expected}`,
    );
  }

  test('what they are made from is well-formed', () => {
    for (const tokens of valid) expect(() => parseRule(tokens.join(' ')), tokens.join(' ')).not.toThrow();
  });

  test('more than 1,000 are refused, each with the place where it is wrong', () => {
    const refused = new Set<string>();
    for (const text of fc.sample(surelyMalformed, { seed, numRuns: 2000 })) {
      try {
        parseRule(text);
      } catch (error) {
        expectRefusal(error, text);
        refused.add(text);
        continue;
      }
      expect.unreachable(`${JSON.stringify(text)} was accepted`);
    }
    expect(refused.size).toBeGreaterThan(1000);
  });

  test('another 1,000 that happen to be, and those that are not mean something', () => {
    const refused = new Set<string>();
    const accepted = new Set<string>();
    for (const text of fc.sample(changed, { seed, numRuns: 4000 })) {
      let rule: Rule;
      try {
        rule = parseRule(text);
      } catch (error) {
        expectRefusal(error, text);
        refused.add(text);
        continue;
      }
      accepted.add(text);
      expect(parseRule(printRule(rule)), text).toEqual(rule);
    }
    expect(refused.size).toBeGreaterThan(1000);
    expect(accepted.size).toBeGreaterThan(100);
  });

  test.each([
    '(',
    ')',
    '-',
    '-(',
    '1-',
    '(1+',
    'avg(',
    'avg(x)>',
    'avg by(a,',
    'x{a="b",',
    '[',
    '"',
    '\\',
    '"\\"',
    '\'"',
    '#',
    '# #\n',
    '#\n(',
    ' ',
    '\n',
    '1',
    '.',
    '1.',
    '1e',
    '1m',
    '1ms',
    'a',
    'a.',
    'for ',
    'and ',
    'or(',
    '=',
    '!',
    '!=',
    '😀',
    '\0',
  ])('%j again and again takes no time', (piece) => {
    for (const [before, after] of [
      ['', ''],
      ['', '$'],
      ['', 'x'],
      ['avg(x) > ', ''],
      ['avg(x{a=~"', '"}) > 1'],
      ['avg(x) > 1 for ', ' '],
    ] as const) {
      const text = `${before}${piece.repeat(4000).slice(0, 4000 - before.length - after.length)}${after}`;
      const start = performance.now();
      try {
        parseRule(text);
      } catch (error) {
        expectRefusal(error, text);
      }
      expect(performance.now() - start).toBeLessThan(1000);
    }
  });

  test('nor does what is long and right', () => {
    const start = performance.now();
    const sum = `avg(x) > ${'1+'.repeat(98)}1`;
    expect(printRule(parseRule(sum))).toBe(`avg(x) > ${'1 + '.repeat(98)}1`);
    expect(parseRule(`avg(x) > 1${'#'.repeat(3990)}`)).toEqual(parseRule('avg(x) > 1'));
    expect(performance.now() - start).toBeLessThan(1000);
  });
});

describe('regular expressions', () => {
  interface Pair {
    pattern: string;
    subject: string;
  }

  beforeAll(async () => {
    // One that is refused would take all others of its statement with it.
    await database.sql`
      create function public.answer_of(subject text, pattern text) returns text language plpgsql as $$
      begin
        return lib.matches(subject, '=~', pattern)::text;
      exception when others then
        return sqlerrm;
      end $$`;
  });

  /** What PostgreSQL says of each pair: true, false, or why it refuses the pattern. */
  async function answersOf(pairs: Pair[]): Promise<string[]> {
    const answers: string[] = [];
    for (let i = 0; i < pairs.length; i += 1000) {
      const some = pairs.slice(i, i + 1000);
      const rows = await database.sql<{ answer: string }[]>`
        select public.answer_of(subject, pattern) as answer
        from unnest(${some.map(({ subject }) => subject)}::text[], ${some.map(({ pattern }) => pattern)}::text[])
          with ordinality as pair (subject, pattern, n)
        order by n`;
      answers.push(...rows.map(({ answer }) => answer));
    }
    return answers;
  }

  async function expectAgreement(pairs: Pair[]): Promise<{ matching: number; other: number }> {
    const answers = await answersOf(pairs);
    let matching = 0;
    const differing = pairs.flatMap((pair, i) => {
      const isMatch = new RegExp(`^(?:${pair.pattern})$`, 'u').test(pair.subject);
      if (isMatch) matching++;
      return answers[i] === String(isMatch) ? [] : [{ ...pair, javascript: isMatch, postgresql: answers[i] }];
    });
    expect(differing.slice(0, 20)).toEqual([]);
    return { matching, other: pairs.length - matching };
  }

  // A pattern and a text that it is likely to match.
  interface Piece {
    pattern: string;
    example: string;
  }
  const escaped = (character: string, within: RegExp) =>
    within.test(character) ? `\\${character}` : character;
  const special = /[\\^$.*+?()[\]{}|/]/;

  function grammar(characters: string[], classes: Record<string, string>): fc.Arbitrary<Piece> {
    const character = fc.constantFrom(...characters);
    const member: fc.Arbitrary<Piece> = fc.oneof(
      { weight: 3, arbitrary: character.map((c) => ({ pattern: escaped(c, /[\\^\][-]/), example: c })) },
      {
        weight: 1,
        arbitrary: fc.tuple(character, character, fc.boolean()).map(([a, b, isFirst]) => {
          const [from, to] = a.codePointAt(0)! <= b.codePointAt(0)! ? [a, b] : [b, a];
          return {
            pattern: `${escaped(from, /[\\^\][-]/)}-${escaped(to, /[\\^\][-]/)}`,
            example: isFirst ? from : to,
          };
        }),
      },
      ...Object.entries(classes).map(([pattern, example]) => ({
        weight: 1,
        arbitrary: fc.constant({ pattern, example }),
      })),
    );
    const set = fc
      .tuple(
        fc.array(member, { minLength: 1, maxLength: 4 }),
        fc.constantFrom('', '', '^'),
        fc.constantFrom('', '', '-'),
        character,
      )
      .map(([members, negated, dash, other]) => ({
        pattern: `[${negated}${members.map(({ pattern }) => pattern).join('')}${dash}]`,
        example: negated ? other : members[0]!.example,
      }));
    const atom: fc.Arbitrary<Piece> = fc.oneof(
      { weight: 6, arbitrary: character.map((c) => ({ pattern: escaped(c, special), example: c })) },
      { weight: 2, arbitrary: set },
      { weight: 1, arbitrary: character.map((c) => ({ pattern: '.', example: c })) },
      {
        weight: 1,
        arbitrary: fc.constantFrom(
          { pattern: '^', example: '' },
          { pattern: '$', example: '' },
          { pattern: '()', example: '' },
        ),
      },
      ...Object.entries(classes).map(([pattern, example]) => ({
        weight: 1,
        arbitrary: fc.constant({ pattern, example }),
      })),
    );
    const quantifier = fc
      .tuple(
        fc.constantFrom(
          ...([
            ['*', 0],
            ['*', 2],
            ['+', 1],
            ['+', 2],
            ['?', 0],
            ['?', 1],
            ['{0}', 0],
            ['{2}', 2],
            ['{1,}', 2],
            ['{0,2}', 1],
            ['{2,4}', 3],
            ['{03}', 3],
          ] as [string, number][]),
        ),
        fc.constantFrom('', '', '?'),
      )
      .map(([[pattern, count], lazy]) => ({ pattern: pattern + lazy, count }));
    const { alternatives } = fc.letrec<{ alternatives: Piece; sequence: Piece; item: Piece; group: Piece }>(
      (tie) => ({
        group: fc
          .tuple(fc.constantFrom('(', '(?:'), tie('alternatives'))
          .map(([open, { pattern, example }]) => ({ pattern: `${open}${pattern})`, example })),
        item: fc
          .tuple(
            fc.oneof({ depthSize: 'small', withCrossShrink: true }, atom, tie('group')),
            fc.option(quantifier, { freq: 2 }),
          )
          .map(([piece, repeat]) =>
            repeat && !['^', '$'].includes(piece.pattern)
              ? { pattern: piece.pattern + repeat.pattern, example: piece.example.repeat(repeat.count) }
              : piece,
          ),
        sequence: fc.array(tie('item'), { maxLength: 4 }).map((items) => ({
          pattern: items.map(({ pattern }) => pattern).join(''),
          example: items.map(({ example }) => example).join(''),
        })),
        alternatives: fc
          .tuple(fc.array(tie('sequence'), { minLength: 1, maxLength: 3, size: 'small' }), fc.nat(2))
          .map(([branches, n]) => ({
            pattern: branches.map(({ pattern }) => pattern).join('|'),
            example: branches[n % branches.length]!.example,
          })),
      }),
    );
    return alternatives;
  }

  // Near to what matches: a character less, one more, two the other way round.
  const subjectsOf = (example: string, characters: string[]) =>
    fc
      .tuple(
        fc.nat(),
        fc.constantFrom(...characters),
        fc.string({ unit: fc.constantFrom(...characters), maxLength: 5 }),
      )
      .map(([n, character, random]) => {
        const list = Array.from(example).slice(0, 24);
        const at = n % (list.length + 1);
        return [
          example,
          list.toSpliced(at, 1).join(''),
          list.toSpliced(at, 0, character).join(''),
          list.toSpliced(at, 1, character).join(''),
          random,
        ];
      });
  const ascii = Array.from('abcABz019 _-./:,;=~!"#%&@\'<>`\\^$*+?()[]{}|\t😀→');
  const letters = Array.from('aéßЖж中日\u00a0😀😃\u0301-');

  test.each([
    ['ASCII', ascii, { '\\d': '7', '\\w': '_', '\\s': ' ', '\\D': '-', '\\W': '😀', '\\S': '→' }],
    ['letters of all kinds', letters, {}],
  ] as [string, string[], Record<string, string>][])(
    'that are made of %s match the same in both',
    async (_, characters, classes) => {
      const pairs = fc
        .sample(
          grammar(characters, classes)
            .filter(({ pattern, example }) => pattern.length <= 60 && example.length <= 40)
            .chain(({ pattern, example }) =>
              subjectsOf(example, characters).map((subjects) => ({ pattern, subjects })),
            ),
          { seed, numRuns: 2500 },
        )
        .map((made) => ({ ...made, problem: patternProblem(made.pattern) }));
      const accepted = pairs.filter(({ problem }) => problem === null);
      expect(accepted.length).toBeGreaterThan(pairs.length / 2);
      const { matching, other } = await expectAgreement(
        accepted.flatMap(({ pattern, subjects }) => subjects.map((subject) => ({ pattern, subject }))),
      );
      expect(matching).toBeGreaterThan(2000);
      expect(other).toBeGreaterThan(2000);
    },
  );

  test('that are random characters and accepted match the same in both', async () => {
    const pieces = Array.from('ab1()[]^$*+?{},|.\\:=!<').concat(
      '(?:',
      '{1,2}',
      '\\.',
      '\\]',
      '\\\\',
      '[^',
      '[a',
      '\\d',
    );
    const dashed = Array.from('ab1-\\^$.?|').concat('[a-b', '[-', '-]', '[^-', '\\-', ']', '\\w');
    const pattern = fc.oneof(
      fc.array(fc.constantFrom(...pieces), { maxLength: 12 }).map((list) => list.join('')),
      // Within brackets a dash stands first, last, or between the ends of a range.
      fc
        .array(fc.constantFrom(...dashed), { maxLength: 8 })
        .map((list) => list.join(''))
        .filter((text) => !/-[^\]]-/.test(text)),
    );
    const patterns = [...new Set(fc.sample(pattern, { seed, numRuns: 40_000 }))];
    const accepted = patterns.filter((text) => patternProblem(text) === null);
    const refused = patterns.length - accepted.length;
    expect(accepted.length).toBeGreaterThan(1000);
    expect(refused).toBeGreaterThan(1000);
    const subjects = ['', 'a', 'b', '1', 'ab', '-', '\\', 'a1b', '^', '{', 'aa', '(', ':'];
    const { matching, other } = await expectAgreement(
      accepted.flatMap((text) => subjects.map((subject) => ({ pattern: text, subject }))),
    );
    expect(matching).toBeGreaterThan(1000);
    expect(other).toBeGreaterThan(1000);
  });

  test.each([
    ['', ['', 'a']],
    ['api-.*', ['api-', 'api-1', 'api', 'my-api-1']],
    ['5\\d\\d', ['500', '5xx', '5000']],
    ['(?:eu|us)-(?:east|west)-\\d+', ['eu-west-1', 'eu-north-1']],
    ['a|b', ['a', 'b', 'ab', 'ac', 'cb']],
    ['[\\w.-]+', ['a.b-c_d', 'a b', '']],
    ['https?://[^/]+/.*', ['http://a/', 'https://a', 'https://a.b/c?d']],
    ['(a|b)*?c{2,}', ['cc', 'abcc', 'abc']],
    ['\\(\\?\\)\\[\\]\\{\\}\\^\\$\\|\\/\\\\', ['(?)[]{}^$|/\\', '']],
    ['[\\^\\]\\[\\-\\\\]', ['^', ']', '[', '-', '\\', 'a']],
    ['[^a-c]', ['a', 'd', '😀', '\n']],
    ['.', ['😀', '', 'ab']],
    ['(?:a{5}b){10}', [`${'a'.repeat(5)}b`.repeat(10), 'a']],
    ['a{166}', ['a'.repeat(166), 'a'.repeat(165)]],
    ['\\w+', ['a_1', 'é', 'Ж']],
    ['[*+(?!]', ['*', '+', '(', 'a']],
    ['[a-c-]', ['b', '-', 'd']],
    ['a$|^b', ['a', 'b']],
    ['()|x', ['', 'x']],
    ['[*.]', ['*', '.', 'a']],
    ['[😀-😎]', ['😀', '😃', 'a']],
    ["'; select 1 --", ["'; select 1 --"]],
  ])('%s is accepted', async (pattern, subjects) => {
    expect(patternProblem(pattern)).toBeNull();
    await expectAgreement(subjects.map((subject) => ({ pattern, subject })));
    expect(parseMatcher(printMatcher({ label: 'a', op: '=~', value: pattern })).value).toBe(pattern);
  });

  const lookaroundReferencesNamesOptions = String.raw`
    (?=a)a (?!a)b (?<=a)b (?<!a)b (a)\1 (?<n>a) (?<n>a)\k<n>
    (?i)a (?i:a) (?-i:a) (?ms-i:a) (?x)a (?#comment)a (?>a) ***=a ***:a`;
  const classes = String.raw`
    [[:alpha:]] [^[:space:]] [a[:digit:]] [[:<:]]a [[.a.]] [[=a=]] [a[b] [] [^] []a] [^]a] [b-a] [\d-z] [a-\d]`;
  const unknownEscapes = String.raw`
    \b a\b \\\b [\b] \B \A \Z \z \m \M \y \Y \x41 \u0041 \u{41} \n \t \r \f \v \p{L} \P{L} [\p{L}] \cA \0 \1 \e
    \Qa\E \- \é \ a\ `;
  const repetitions = `
    a{256} a{300} [a-c-e] a{1001} a{1,1001} a{1001,} a{99999999999999999999} (?:a{32}){32} (?:(?:(?:a{11}){10}){10})
    a** a+* a*+ a++ a??? a{2}{3} *a + ? a|* (*a) ^* $+ a{2,1} a{,3} a{ a{1 {1} }`;
  const brackets = '( ) a(b a)b( [a a] (? (?:';
  test.each([
    ...[lookaroundReferencesNamesOptions, classes, unknownEscapes, repetitions, brackets].flatMap((list) =>
      list.trim().split(/\s+/),
    ),
    'v'.repeat(201),
    '[a\n[:b]',
    '(?:(?:.?){0,250}){0,4}',
    `(?:${'\\w?\\W?'.repeat(30)}){250}`,
  ])('%s is refused', (pattern) => {
    const problem = patternProblem(pattern);
    expect(problem).toMatch(/^\S.*\S$/);
    const { line, column, expected } = errorOf(() =>
      parseRule(
        `avg(x{a="😀",\n "😀"${printMatcher({ label: 'b', op: '!~', value: pattern }).slice(1)}}) > 1`,
      ),
    );
    expect({ line, column, expected }).toEqual({
      line: 2,
      column: 7,
      expected: `a regular expression (${problem})`,
    });
    // As text it is as good as any.
    expect(parseMatcher(printMatcher({ label: 'a', op: '!=', value: pattern })).value).toBe(pattern);
  });

  test('to decide takes no time', () => {
    for (const piece of [
      '(',
      '[',
      '{',
      '(?:',
      '\\',
      '[^',
      'a*',
      '(a*)*',
      '{1}',
      'a{1}',
      '?',
      '[a-',
      '\\\\',
      '|',
      '[]',
      '.*',
    ]) {
      const start = performance.now();
      patternProblem(piece.repeat(200).slice(0, 200));
      expect(performance.now() - start, piece).toBeLessThan(1000);
    }
  });
});

describe('templates', () => {
  const value = { value: true } as const;
  test.each([
    ['', ['']],
    ['text', ['text']],
    ['{ } }} $value {$value}', ['{ } }} $value {$value}']],
    ['{{ $value }}', [value]],
    ['{{$value}}{{$labels.host}}', [value, { label: 'host' }]],
    ['{{\n\t$value  }}\n', [value, '\n']],
    [
      'It is {{ $value }} ms on {{ $labels.host.name }}.',
      ['It is ', value, ' ms on ', { label: 'host.name' }, '.'],
    ],
    ['{{ $labels["a b-ü😀\'}"] }}', [{ label: "a b-ü😀'}" }]],
    ['{{ $labels._1 }}😀', [{ label: '_1' }, '😀']],
    ['a }} {{ $value }} }}', ['a }} ', value, ' }}']],
    ['{{ $value }}}', [value, '}']],
    ['{ {{ $value }}', ['{ ', value]],
  ] as [string, TemplatePart[]][])('%j', (text, parts) => {
    expect(parseTemplate(text)).toEqual(parts);
  });

  const known = '{{ $value }}, {{ $labels.NAME }} or {{ $labels["NAME"] }}';
  test.each([
    ['‸{{', '"}}" after "{{"'],
    ['a\n😀😀 ‸{{ $value }', '"}}" after "{{"'],
    ['}} ‸{{ $value', '"}}" after "{{"'],
    ['{{ $value }} ‸{{ value }}', known],
    ['😀 {{ $value }}\n {{ $labels.a }}😀‸{{ }}', known],
    ['‸{{}}', known],
    ['‸{{{ $value }}}', known],
    ['‸{{ $Value }}', known],
    ['‸{{ $value | humanize }}', known],
    ['‸{{ $labels }}', known],
    ['‸{{ $labels. }}', known],
    ['‸{{ $labels.1a }}', known],
    ['‸{{ $labels.a-b }}', known],
    ['‸{{ $labels.é }}', known],
    ['‸{{ $labels[a] }}', known],
    ["‸{{ $labels['a'] }}", known],
    ['‸{{ $labels[""] }}', known],
    ['‸{{ $labels["a"]["b"] }}', known],
    ['‸{{ $labels.a $value }}', known],
    ['‸{{ $value {{ $value }} }}', known],
    ['‸{{ if $value }}a{{ end }}', known],
  ])('%j: expected %s', (withMark, expected) => {
    const { text, line, column } = marked(withMark);
    const error = errorOf(() => parseTemplate(text));
    expect({ line: error.line, column: error.column, expected: error.expected }).toEqual({
      line,
      column,
      expected,
    });
    expect(error.message).toContain(`line ${line}, column ${column}: expected ${expected}, found `);
  });

  test('the parts of generated ones are found, and of random text nothing is lost', () => {
    const part: fc.Arbitrary<{ part: TemplatePart; text: string }> = fc.oneof(
      fc
        .string({
          unit: fc.constantFrom('a', ' ', '}', '\n', '$', '"', '😀', '{ '),
          minLength: 1,
          maxLength: 8,
        })
        .map((text) => ({ part: text, text })),
      fc.constantFrom('{{$value}}', '{{  $value }}').map((text) => ({ part: value, text })),
      fc
        .stringMatching(/^[A-Za-z_][\w.]{0,9}$/)
        .map((label) => ({ part: { label }, text: `{{ $labels.${label} }}` })),
      fc
        .string({ unit: 'grapheme', minLength: 1, maxLength: 9 })
        .filter((label) => !label.includes('"') && !label.includes('}}'))
        .map((label) => ({ part: { label }, text: `{{ $labels["${label}"] }}` })),
    );
    fc.assert(
      fc.property(fc.array(part, { maxLength: 8 }), (parts) => {
        // Text beside text is one part.
        const expected: TemplatePart[] = [];
        for (const { part } of parts) {
          const last = expected.at(-1);
          if (typeof part === 'string' && typeof last === 'string')
            expected[expected.length - 1] = last + part;
          else expected.push(part);
        }
        expect(parseTemplate(parts.map(({ text }) => text).join(''))).toEqual(
          parts.length > 0 ? expected : [''],
        );
      }),
      { seed, numRuns: 1000 },
    );
    fc.assert(
      fc.property(
        fc.string({
          unit: fc.constantFrom('{', '}', '{{', '}}', '$value', '$labels', '.a', '\n', '😀'),
          maxLength: 12,
        }),
        (text) => {
          let parts: TemplatePart[];
          try {
            parts = parseTemplate(text);
          } catch (error) {
            expect(error).toBeInstanceOf(ExpressionError);
            const { line, column } = error as ExpressionError;
            // What it points at are braces that open.
            expect(Array.from(text.split('\n')[line - 1]!).slice(column - 1, column + 1)).toEqual(['{', '{']);
            return;
          }
          const written = parts.map((part) =>
            typeof part === 'string' ? part : 'value' in part ? '{{$value}}' : `{{$labels.${part.label}}}`,
          );
          expect(written.join('')).toBe(text.replace(/\{\{\s*(\$value|\$labels[.a]+)\s*\}\}/g, '{{$1}}'));
        },
      ),
      { seed, numRuns: 2000 },
    );
  });
});

describe('lengths of time', () => {
  test.each([
    ['0', 0],
    ['0s', 0],
    ['5m', 300],
    ['1h30m', 5400],
    ['1w2d3h4m5s', 788_645],
    ['90s', 90],
    ['1w', 604_800],
    ['30d', 2_592_000],
    [' 5m ', 300],
  ])('%j is %i s', (text, seconds) => {
    expect(parseDuration(text)).toBe(seconds);
  });

  test.each([
    '',
    ' ',
    '5',
    '-5m',
    '5M',
    '5 m',
    '5m 1s',
    '1.5h',
    '1s1m',
    '1m1m',
    '100ms',
    '1y',
    '31d',
    '30d1s',
    '"5m"',
    'm',
    '5m)',
    'PT5M',
    '5m\0',
    '5m\ud800',
    '٥m',
    '1'.repeat(5000),
    '1m'.repeat(3000),
  ])('%j is none', (text) => {
    expect(parseDuration(text)).toBeNull();
  });

  test.each([
    [0, '0s'],
    [1, '1s'],
    [60, '1m'],
    [90, '1m30s'],
    [3661, '1h1m1s'],
    [86_400, '1d'],
    [604_800, '1w'],
    [604_801, '7d1s'],
    [864_000, '10d'],
    [2_419_200, '4w'],
    [2_592_000, '30d'],
  ])('%i s is %s', (seconds, text) => {
    expect(formatDuration(seconds)).toBe(text);
  });

  test('each is read back', () => {
    fc.assert(
      fc.property(fc.oneof(anySeconds, fc.nat(100)), (seconds) => {
        expect(parseDuration(formatDuration(seconds))).toBe(seconds);
      }),
      { seed, numRuns: 3000 },
    );
  });
});

describe('rules about services', () => {
  test.each([
    ['avg(x) > 1', 'avg(x{service="s"}) > 1'],
    ['avg(x{a="b"}[1h]) > 1 for 2m', 'avg(x{a="b", service="s"}[1h]) > 1 for 2m'],
    ['avg(x) > avg(y{service="t"})', 'avg(x{service="s"}) > avg(y{service="t"})'],
    ['avg(x{service_name="t"}) > max(y{service!="u"})', 'avg(x{service_name="t"}) > max(y{service!="u"})'],
    ['absent(x{service=~"t.*"}) or absent(y)', 'absent(x{service=~"t.*"}) or absent(y{service="s"})'],
    ['sum by (service) (x{Service="t"}) > 1', 'sum by (service) (x{Service="t", service="s"}) > 1'],
  ])('%s about s is %s', (text, about) => {
    const rule = parseRule(text);
    expect(printRule(aboutService(rule, 's'))).toBe(about);
    expect(printRule(aboutService(aboutService(rule, 's'), 'other'))).toBe(about);
    // It is another rule, and the first is what it was.
    expect(rule).toEqual(parseRule(text));
  });

  test('a name is text, whatever it is', () => {
    const about = aboutService(parseRule('avg(x) > 1'), '"} or \n\\😀');
    expect(parseRule(printRule(about))).toEqual(about);
    expect(serviceOf(about)).toBe('"} or \n\\😀');
  });

  test.each([
    ['avg(x) > 1', null],
    ['avg(x{service="s"}) > 1', 's'],
    ['avg(x{service_name="s"}) > 1', 's'],
    ['avg(x{a="b", service="s"}) > avg(y{service_name="s"})', 's'],
    ['avg(x{service="s"}) > avg(y{service="t"})', null],
    ['avg(x{service="s"}) > avg(y)', null],
    ['avg(y) > 1 and absent(x{service="s"})', null],
    ['avg(x{service!="s"}) > 1', null],
    ['avg(x{service=~"s"}) > 1', null],
    ['avg(x{service=~".*", service="s"}) > 1', 's'],
    ['avg(x{service=""}) > 1', null],
    ['avg(x{Service="s"}) > 1', null],
    ['avg by (service) (x) > 1', null],
  ])('%s is about %s', (text, service) => {
    expect(serviceOf(parseRule(text))).toBe(service);
  });
});
