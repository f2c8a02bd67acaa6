// The rule language: text to a syntax tree and back. SQL evaluates the tree (db/functions/rules.sql) and never sees the text.
//
//   rule        = condition [ "for" duration ]
//   condition   = condition "or" condition | condition "and" condition | number comparison number
//               | "absent" "(" selector ")" | "(" condition ")"
//   number      = number ("+" | "-") number | number ("*" | "/" | "%") number | "-" number | literal | aggregate | "(" number ")"
//   aggregate   = name [ by ] "(" selector ")" [ by ]          by = "by" "(" label { "," label } ")"
//   selector    = metric [ "{" matcher { "," matcher } "}" ] [ "[" duration "]" ]
//   matcher     = label ("=" | "!=" | "=~" | "!~") string

export const aggregations = [
  'avg',
  'sum',
  'min',
  'max',
  'count',
  'median',
  'p50',
  'p90',
  'p95',
  'p99',
  'stddev',
  'first',
  'last',
  'rate',
  'increase',
] as const;
export type Aggregation = (typeof aggregations)[number];

const comparisons = ['>', '>=', '<', '<=', '==', '!='] as const;
type Comparison = (typeof comparisons)[number];
export type MatchOperator = '=' | '!=' | '=~' | '!~';

/** A label and what its value has to be. A series or alert without the label counts as having ''. */
export interface Matcher {
  label: string;
  op: MatchOperator;
  /** Of =~ and !~ a regular expression that has to match the whole value. */
  value: string;
}

/** Which samples an aggregate is of, and how they are grouped. */
export interface Selector {
  aggregation: Aggregation;
  metric: string;
  matchers: Matcher[];
  window_seconds: number;
  by: string[];
}

/** Of two groups of series their values, number by number; selector counts in the rule's selectors, from 0. */
export type NumberNode =
  | { op: 'number'; value: number }
  | { op: 'selector'; selector: number }
  | { op: 'negate'; operand: NumberNode }
  | { op: '+' | '-' | '*' | '/' | '%'; left: NumberNode; right: NumberNode };

interface Junction {
  op: 'and' | 'or';
  left: ConditionNode;
  right: ConditionNode;
}

export type ConditionNode =
  | Junction
  | { op: Comparison; left: NumberNode; right: NumberNode }
  | { op: 'absent'; selector: number };

export interface Rule {
  condition: ConditionNode;
  for_seconds: number;
  selectors: Selector[];
  /** The labels that alerts of the rule have from its series: those that its aggregates are grouped by. */
  by: string[];
}

/** Where a text stops making sense. line and column count from 1, in characters as people see them. */
export class ExpressionError extends Error {
  readonly line: number;
  readonly column: number;
  readonly expected: string;

  constructor(text: string, offset: number, expected: string, found: string) {
    const before = text.slice(0, offset).split('\n');
    const line = before.length;
    const column = [...before.at(-1)!].length + 1;
    super(`line ${line}, column ${column}: expected ${expected}${found ? `, found ${found}` : ''}`);
    this.line = line;
    this.column = column;
    this.expected = expected;
  }
}

/** Limits of one expression; what it costs to evaluate follows from them. */
export const expressionLimits = {
  length: 4000,
  depth: 50,
  selectors: 20,
  matchers: 20,
  by: 10,
  durationSeconds: 30 * 86_400,
  textLength: 1024,
  patternLength: 200,
  /** The product of a pattern's repetitions times its length. */
  patternSize: 1000,
  /** Aggregates and literals. */
  operands: 100,
};

const defaultWindowSeconds = 300;

interface Token {
  kind: 'number' | 'duration' | 'name' | 'string' | 'symbol' | 'end';
  text: string;
  /** Of a string what it stands for. */
  value: string;
  offset: number;
}

const unitSeconds: Record<string, number> = { w: 604_800, d: 86_400, h: 3600, m: 60, s: 1 };

const tokenPatterns: [Token['kind'], RegExp][] = [
  ['duration', /(?:\d+(?:ms|[smhdwy]))+(?![\w.])/y],
  ['number', /(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.])/y],
  ['name', /[A-Za-z_:][\w:.]*/y],
  ['symbol', /==|!=|>=|<=|=~|!~|[><=(){}[\],+\-*/%]/y],
];

function tokenize(text: string): Token[] {
  const tokens: Token[] = [];
  let offset = 0;
  const skip = /(?:\s|#[^\n]*)+/y;
  for (;;) {
    skip.lastIndex = offset;
    if (skip.test(text)) offset = skip.lastIndex;
    if (offset >= text.length) break;
    if (text[offset] === '"' || text[offset] === "'") {
      const token = readString(text, offset);
      tokens.push(token);
      offset += token.text.length;
      continue;
    }
    const matched = tokenPatterns
      .map(([kind, pattern]) => {
        pattern.lastIndex = offset;
        return { kind, match: pattern.exec(text)?.[0] };
      })
      .find(({ match }) => match !== undefined);
    if (!matched) {
      const [character] = text.slice(offset);
      const broken = /^[\d.][\w.]*/.exec(text.slice(offset))?.[0];
      throw new ExpressionError(
        text,
        offset,
        broken
          ? 'a number such as 1000 or 0.5, or a duration such as 5m or 1h30m'
          : ['&', '|', '!'].includes(character!)
            ? 'and, or, or another comparison'
            : 'a name, number or operator',
        quoted(broken ?? character!),
      );
    }
    tokens.push({ kind: matched.kind, text: matched.match!, value: matched.match!, offset });
    offset += matched.match!.length;
  }
  tokens.push({ kind: 'end', text: '', value: '', offset: text.length });
  return tokens;
}

const escapes: Record<string, string> = { n: '\n', t: '\t', r: '\r', '\\': '\\', '"': '"', "'": "'" };

function readString(text: string, start: number): Token {
  let value = '';
  for (let i = start + 1; i < text.length; i++) {
    const character = text[i]!;
    if (character === text[start])
      return { kind: 'string', text: text.slice(start, i + 1), value, offset: start };
    if (character === '\n') break;
    if (character === '\\') {
      const escaped = escapes[text[++i] ?? ''];
      if (escaped === undefined)
        throw new ExpressionError(
          text,
          i - 1,
          `an escape such as \\${text[start]} or \\\\`,
          quoted(`\\${String.fromCodePoint(text.codePointAt(i) ?? 32)}`),
        );
      value += escaped;
    } else value += character;
  }
  throw new ExpressionError(
    text,
    start,
    `text that ends with ${text[start]} on the same line`,
    'no end of it',
  );
}

function quoted(text: string): string {
  const characters = [...text];
  return JSON.stringify(characters.length > 40 ? `${characters.slice(0, 40).join('')}…` : text);
}

// What an expression has been understood as, so far.
type Parsed = { by: string[]; start: number } & (
  | { type: 'number'; node: NumberNode }
  | { type: 'condition'; node: ConditionNode }
);

const precedence: Record<string, number> = {
  or: 1,
  and: 2,
  ...Object.fromEntries(comparisons.map((op) => [op, 3])),
  '+': 4,
  '-': 4,
  '*': 5,
  '/': 5,
  '%': 5,
};

/** Reads a rule. Throws an ExpressionError that says where it is wrong and what was expected. */
export function parseRule(text: string): Rule {
  const parser = createParser(text);
  const { condition, by } = parser.condition();
  const forSeconds = parser.takeFor() ? parser.duration('a duration such as 5m', 0) : 0;
  parser.end(parser.hasFor() ? 'the end: for comes last' : 'and, or, an operator, for, or the end');
  // A window that is not given is as long as the condition has to hold.
  const selectors = parser.selectors.map(({ window_seconds, ...selector }) => ({
    ...selector,
    window_seconds: window_seconds ?? (forSeconds || defaultWindowSeconds),
  }));
  if (selectors.length === 0)
    throw new ExpressionError(text, 0, 'a condition on a metric, such as avg(response_time_ms) > 1000', '');
  const rule = { condition, for_seconds: forSeconds, selectors, by };
  const { length } = printRule(rule);
  if (length > expressionLimits.length)
    throw new ExpressionError(
      text,
      0,
      `at most ${expressionLimits.length} characters in canonical form`,
      `${length}`,
    );
  return rule;
}

/** Reads one matcher of alerts, such as severity="critical". Throws an ExpressionError. */
export function parseMatcher(text: string): Matcher {
  const parser = createParser(text);
  const matcher = parser.matcher();
  parser.end('the end of the matcher');
  return matcher;
}

function createParser(text: string) {
  if (text.length > expressionLimits.length)
    throw new ExpressionError(
      text,
      expressionLimits.length,
      `at most ${expressionLimits.length} characters`,
      `${text.length}`,
    );
  const problem = /\p{Cs}|\0/u.exec(text);
  if (problem)
    throw new ExpressionError(text, problem.index, 'well-formed text', 'a character that cannot be stored');
  const tokens = tokenize(text);
  const selectors: (Omit<Selector, 'window_seconds'> & { window_seconds: number | undefined })[] = [];
  let position = 0;
  let depth = 0;
  let operands = 0;

  const peek = () => tokens[position]!;
  const isSymbol = (symbol: string) => peek().kind === 'symbol' && peek().text === symbol;
  const isWord = (word: string) => peek().kind === 'name' && peek().text.toLowerCase() === word;

  function fail(expected: string, token = peek()): never {
    throw new ExpressionError(
      text,
      token.offset,
      expected,
      token.kind === 'end' ? 'the end' : quoted(token.text),
    );
  }
  function take(symbol: string, expected = `"${symbol}"`): Token {
    if (!isSymbol(symbol)) fail(expected);
    return tokens[position++]!;
  }
  function takeSymbol(symbol: string): boolean {
    if (isSymbol(symbol)) position++;
    else return false;
    return true;
  }
  function takeWord(word: string): boolean {
    if (isWord(word)) position++;
    else return false;
    return true;
  }

  // "avg" may be a metric's name as well: what a name means follows from where it stands.
  function name(expected: string): string {
    const token = peek();
    if (token.kind !== 'name' && token.kind !== 'string') fail(expected);
    if (token.value === '' || token.value.length > 255) fail(`${expected} of 1 to 255 characters`);
    position++;
    return token.value;
  }

  function duration(expected: string, least: number): number {
    const token = peek();
    if (token.kind === 'number' && Number(token.text) === 0 && least === 0) {
      position++;
      return 0;
    }
    if (token.kind !== 'duration') fail(expected);
    let seconds = 0;
    let last = Number.POSITIVE_INFINITY;
    for (const [, amount, unit] of token.text.matchAll(/(\d+)(ms|[smhdwy])/g)) {
      const each = unitSeconds[unit!];
      if (each === undefined || each >= last)
        fail('a duration in w, d, h, m and s, the larger before the smaller, such as 1h30m');
      seconds += Number(amount) * each!;
      last = each!;
    }
    if (seconds < least || seconds > expressionLimits.durationSeconds)
      fail(`a duration of ${least === 0 ? '0s' : formatDuration(least)} to 30d`);
    position++;
    return seconds;
  }

  function labels(): string[] {
    take('(', '"(" and the labels to group by');
    const list: string[] = [];
    do {
      const token = peek();
      const label = name('a label');
      if (list.includes(label)) fail('a label that is not in the list yet', token);
      if (list.length === expressionLimits.by) fail(`at most ${expressionLimits.by} labels`, token);
      list.push(label);
    } while (takeSymbol(','));
    take(')', '"," or ")"');
    return list.sort();
  }

  function matcher(): Matcher {
    const label = name('a label');
    const op = (['=', '!=', '=~', '!~'] as const).find(takeSymbol);
    if (!op) fail('one of = != =~ !~');
    const token = peek();
    if (token.kind !== 'string') fail('text in quotes');
    if (token.value.length > expressionLimits.textLength)
      fail(`at most ${expressionLimits.textLength} characters`);
    const problem = op === '=~' || op === '!~' ? patternProblem(token.value) : null;
    if (problem) fail(`a regular expression (${problem})`);
    position++;
    return { label, op, value: token.value };
  }

  function selector(aggregation: Aggregation, by: string[]): number {
    if (selectors.length === expressionLimits.selectors)
      fail(`at most ${expressionLimits.selectors} aggregates`);
    const metric = name('the name of a metric');
    if (isSymbol('(')) fail('the name of a metric: aggregates do not nest', tokens[position - 1]);
    const matchers: Matcher[] = [];
    if (takeSymbol('{') && !takeSymbol('}')) {
      do {
        if (matchers.length === expressionLimits.matchers)
          fail(`at most ${expressionLimits.matchers} matchers`);
        matchers.push(matcher());
      } while (takeSymbol(','));
      take('}', '"," or "}"');
    }
    let window_seconds: number | undefined;
    if (takeSymbol('[')) {
      window_seconds = duration('a duration such as 5m', 1);
      take(']');
    }
    selectors.push({ aggregation, metric, matchers, window_seconds, by });
    return selectors.length - 1;
  }

  function aggregate(): Parsed {
    const token = peek();
    const word = token.text.toLowerCase();
    const start = token.offset;
    const aggregation = aggregations.find((known) => known === word);
    if (!aggregation && word !== 'absent') {
      const isCall = ['(', 'by'].includes(tokens[position + 1]?.text.toLowerCase() ?? '');
      fail(
        isCall
          ? `one of the aggregates ${aggregations.join(', ')}, absent`
          : `an aggregate of a metric, such as avg(${token.text})`,
      );
    }
    position++;
    let by = takeWord('by') ? labels() : [];
    take('(', by.length > 0 || !aggregation ? '"("' : '"(" or by');
    const index = selector(aggregation ?? 'count', by);
    const { window_seconds, matchers } = selectors[index]!;
    take(')', window_seconds !== undefined ? '")"' : matchers.length > 0 ? '"[" or ")"' : '"{", "[" or ")"');
    if (by.length === 0 && isWord('by')) {
      if (!aggregation) fail('no grouping: absent() is about all series of the selector');
      position++;
      by = labels();
      selectors[index]!.by = by;
    } else if (by.length > 0 && !aggregation)
      fail('absent without by: it is about all series of the selector', token);
    return aggregation
      ? { type: 'number', node: { op: 'selector', selector: index }, by, start }
      : { type: 'condition', node: { op: 'absent', selector: index }, by, start };
  }

  function operand(): Parsed {
    const token = peek();
    const start = token.offset;
    if ((token.kind === 'number' || token.kind === 'name') && ++operands > expressionLimits.operands)
      fail(`at most ${expressionLimits.operands} aggregates and numbers`);
    if (token.kind === 'number') {
      const value = Number(token.text);
      if (!(value <= 1e300)) fail('a number up to 1e300');
      position++;
      return { type: 'number', node: { op: 'number', value }, by: [], start };
    }
    if (takeSymbol('-')) {
      const inner = nested(() => expression(precedence['*']! + 1));
      if (inner.type !== 'number') fail('a number after "-"', tokenAt(inner.start));
      return { ...inner, node: { op: 'negate', operand: inner.node as NumberNode }, start };
    }
    if (takeSymbol('(')) {
      const inner = nested(() => expression(0));
      take(')', 'an operator or ")"');
      return { ...inner, start };
    }
    if (token.kind === 'name') return aggregate();
    return fail('an aggregate such as avg(response_time_ms), a number or "("');
  }

  const tokenAt = (offset: number) => tokens.find((token) => token.offset === offset) ?? peek();

  function nested<T>(parse: () => T): T {
    if (++depth > expressionLimits.depth) fail(`at most ${expressionLimits.depth} levels of nesting`);
    const parsed = parse();
    depth--;
    return parsed;
  }

  function operator(): string | undefined {
    const { kind } = peek();
    const word = peek().text.toLowerCase();
    if (kind === 'symbol' && word === '=') fail('"==" (a single = is for matchers)');
    return (kind === 'symbol' || kind === 'name') && Object.hasOwn(precedence, word) ? word : undefined;
  }

  function expression(least: number): Parsed {
    let left = operand();
    for (;;) {
      const token = peek();
      const op = operator();
      if (!op || precedence[op]! < least) return left;
      position++;
      const right = nested(() => expression(precedence[op]! + 1));
      left = combine(op, left, right, token);
    }
  }

  function combine(op: string, left: Parsed, right: Parsed, token: Token): Parsed {
    const by = joinGroups(op, left, right, token);
    const { start } = left;
    if (op === 'and' || op === 'or') {
      for (const side of [left, right])
        if (side.type !== 'condition')
          fail(
            `a condition on each side of ${op}, such as avg(response_time_ms) > 1000`,
            tokenAt(side.start),
          );
      const node = {
        op,
        left: left.node as ConditionNode,
        right: right.node as ConditionNode,
      } as ConditionNode;
      return { type: 'condition', node, by, start };
    }
    for (const side of [left, right])
      if (side.type !== 'number')
        fail(`a number on each side of ${op}, not a condition`, tokenAt(side.start));
    const sides = { left: left.node as NumberNode, right: right.node as NumberNode };
    return comparisons.includes(op as Comparison)
      ? { type: 'condition', node: { op: op as Comparison, ...sides }, by, start }
      : { type: 'number', node: { op: op as '+', ...sides }, by, start };
  }

  // Values of one group meet those of the same group. One that is not grouped meets each; but not through or, where it could
  // hold with no group to hold for.
  function joinGroups(op: string, left: Parsed, right: Parsed, token: Token): string[] {
    if (JSON.stringify(left.by) === JSON.stringify(right.by)) return left.by;
    if (op !== 'or' && left.by.length === 0) return right.by;
    if (op !== 'or' && right.by.length === 0) return left.by;
    return fail(
      `both sides of ${op} to be grouped by the same labels, not by (${left.by.join(', ')}) and by (${right.by.join(', ')})`,
      token,
    );
  }

  function condition(): { condition: ConditionNode; by: string[] } {
    const parsed = nested(() => expression(0));
    if (parsed.type !== 'condition') fail('a comparison, such as > 1000');
    return { condition: parsed.node as ConditionNode, by: parsed.by };
  }

  function end(expected: string) {
    if (peek().kind !== 'end') fail(expected);
  }

  let isForTaken = false;
  function takeFor(): boolean {
    isForTaken = takeWord('for');
    return isForTaken;
  }

  return { selectors, condition, matcher, duration, takeFor, hasFor: () => isForTaken, end };
}

/**
 * Why a regular expression is refused, or null. What is accepted PostgreSQL takes too, in any locale, and means the same as to
 * JavaScript; but that . matches a line break there, and \s no spaces beyond ASCII's.
 */
export function patternProblem(pattern: string): string | null {
  if (pattern.length > expressionLimits.patternLength)
    return `at most ${expressionLimits.patternLength} characters`;
  try {
    new RegExp(pattern, 'u');
  } catch (error) {
    return (error as Error).message.replace(/^.*\/u: /, '').toLowerCase();
  }
  const unknown = /\\(?![dDwWsS\\^$.*+?()[\]{}|/-])./u.exec(pattern.replace(/\\\\/g, '__'));
  if (unknown) return `${unknown[0]} is not known; \\d \\w \\s and escaped punctuation are`;
  const unescaped = pattern.replace(/\\./gu, '__');
  const classes = /\[([^\]]*)\]/g;
  for (const [, inside] of unescaped.matchAll(classes)) {
    if (inside === '' || inside === '^' || inside!.includes('['))
      return 'a class must hold something, and no [';
    if (/.-.-./s.test(inside!)) return 'a dash after a range must be the last of its class';
  }
  const bare = unescaped.replace(classes, '_');
  if (/\(\?(?!:)/.test(bare)) return 'of the groups that begin with (? only (?: is known';
  let repeats = 1;
  for (const [, from, to] of bare.matchAll(/\{(\d+),?(\d*)\}/g))
    repeats *= Math.max(1, Number(from), Number(to));
  // The automaton grows with both.
  if (repeats > 1 && repeats * pattern.length > expressionLimits.patternSize)
    return `its repetitions times its length at most ${expressionLimits.patternSize}`;
  return null;
}

/** A length of time as the language writes it: 90s is 1m30s. */
export function formatDuration(seconds: number): string {
  if (seconds === 0) return '0s';
  let rest = seconds;
  let text = '';
  for (const [unit, each] of Object.entries(unitSeconds)) {
    const amount = Math.floor(rest / each);
    // Weeks only when they are whole: 10d is easier to read than 1w3d.
    if (amount === 0 || (unit === 'w' && rest % each !== 0)) continue;
    text += `${amount}${unit}`;
    rest -= amount * each;
  }
  return text;
}

/** Seconds of a duration such as 1h30m, or null where it is none. */
export function parseDuration(text: string): number | null {
  try {
    const parser = createParser(text);
    const seconds = parser.duration('', 0);
    parser.end('');
    return seconds;
  } catch (error) {
    if (error instanceof ExpressionError) return null;
    throw error;
  }
}

/** The rule as text, in one form whatever it was written like. parseRule reads it back to the same tree. */
export function printRule(rule: Rule): string {
  const defaultWindow = rule.for_seconds || defaultWindowSeconds;

  function selector(index: number): string {
    const { metric, matchers, window_seconds } = rule.selectors[index]!;
    const window = window_seconds === defaultWindow ? '' : `[${formatDuration(window_seconds)}]`;
    return `${printName(metric)}${matchers.length > 0 ? `{${matchers.map(printMatcher).join(', ')}}` : ''}${window}`;
  }
  function number(node: NumberNode, least: number): string {
    switch (node.op) {
      case 'number':
        return String(node.value);
      case 'selector': {
        const { aggregation, by } = rule.selectors[node.selector]!;
        const group = by.length > 0 ? ` by (${by.map(printName).join(', ')}) ` : '';
        return `${aggregation}${group}(${selector(node.selector)})`;
      }
      case 'negate':
        return `-${number(node.operand, precedence['*']! + 1)}`;
      default: {
        const own = precedence[node.op]!;
        return wrapped(`${number(node.left, own)} ${node.op} ${number(node.right, own + 1)}`, own < least);
      }
    }
  }
  function condition(node: ConditionNode, least: number): string {
    if (node.op === 'absent') return `absent(${selector(node.selector)})`;
    const own = precedence[node.op]!;
    if (isJunction(node))
      return wrapped(
        `${condition(node.left, own)} ${node.op} ${condition(node.right, own + 1)}`,
        own < least,
      );
    return `${number(node.left, own + 1)} ${node.op} ${number(node.right, own + 1)}`;
  }

  const text = condition(rule.condition, 0);
  return rule.for_seconds > 0 ? `${text} for ${formatDuration(rule.for_seconds)}` : text;
}

function isJunction(node: ConditionNode): node is Junction {
  return node.op === 'and' || node.op === 'or';
}

function wrapped(text: string, isWrapped: boolean): string {
  return isWrapped ? `(${text})` : text;
}

export function printMatcher({ label, op, value }: Matcher): string {
  return `${printName(label)}${op}${printString(value)}`;
}

function printName(name: string): string {
  return /^[A-Za-z_:][\w:.]*$/.test(name) ? name : printString(name);
}

function printString(value: string): string {
  const escaped = value.replace(/[\\"\n\t\r]/g, (character) => {
    const letter = Object.entries(escapes).find(([, stands]) => stands === character)![0];
    return `\\${letter}`;
  });
  return `"${escaped}"`;
}

/** The rule for one service: selectors that do not say which service they mean are about this one. */
export function aboutService(rule: Rule, service: string): Rule {
  return {
    ...rule,
    selectors: rule.selectors.map((selector) =>
      selector.matchers.some(({ label }) => isServiceLabel(label))
        ? selector
        : { ...selector, matchers: [...selector.matchers, { label: 'service', op: '=', value: service }] },
    ),
  };
}

/** The one service that all selectors of a rule are about, or null. */
export function serviceOf(rule: Rule): string | null {
  const services = rule.selectors.map(
    ({ matchers }) => matchers.find(({ label, op }) => isServiceLabel(label) && op === '=')?.value,
  );
  return services.every((service) => service === services[0]) ? services[0] || null : null;
}

function isServiceLabel(label: string): boolean {
  return label === 'service' || label === 'service_name';
}
