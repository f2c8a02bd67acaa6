// Requests made up from an OpenAPI document: valid, nearly so, or wild. A seed decides on all of them.
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';

/** Numbers from 0 to 1 that a seed decides on (mulberry32), and what is made of them. */
export function createRandom(state: number) {
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (max: number) => Math.floor(next() * max);
  return {
    next,
    below,
    between: (min: number, max: number) => min + Math.floor(next() * (max - min + 1)),
    chance: (share: number) => next() < share,
    pick: <T>(values: readonly T[]): T => values[below(values.length)]!,
    letters: (length: number, alphabet = 'abcdefghijklmnopqrstuvwxyz') =>
      Array.from({ length }, () => alphabet[below(alphabet.length)]).join(''),
  };
}
export type Random = ReturnType<typeof createRandom>;

export interface Schema {
  $ref?: string;
  type?: string | string[];
  enum?: unknown[];
  format?: string;
  example?: unknown;
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
  minItems?: number;
  maxItems?: number;
  items?: Schema;
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: boolean | Schema;
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
}

interface Parameter {
  in: string;
  name: string;
  schema: Schema;
}

interface Operation {
  security?: { bearer?: string[] }[];
  parameters?: Parameter[];
  requestBody?: { required?: boolean; content: Record<string, { schema: Schema }> };
  responses: Record<string, { content?: Record<string, { schema: Schema }> }>;
}

export interface Document {
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Schema> };
}

export interface Route {
  method: string;
  path: string;
  /** The permission that it takes; undefined where no token is asked for. */
  permission: string | undefined;
  operation: Operation;
}

export function routesOf(document: Document): Route[] {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      method: method.toUpperCase(),
      path,
      permission: operation.security?.[0]?.bearer?.[0],
      operation,
    })),
  );
}

/** Values for fields and parameters whose schema does not say all that is asked of them, by name; undefined: go by the schema. */
export type Hints = (name: string, route: Route) => unknown;

export interface FuzzRequest {
  route: Route;
  method: string;
  path: string;
  /** Values of the path's parameters, as they were before they were encoded. */
  params: Record<string, string>;
  headers: Record<string, string>;
  body: Buffer | undefined;
  kind: 'valid' | 'nearly' | 'wild';
  /** Whether method and path are certain to be the route's, and the head of the request one that HTTP allows. */
  isOfRoute: boolean;
}

const wildTexts = [
  '',
  ' ',
  '\0',
  'a\0b',
  '\u001f',
  '\u007f',
  '\ud800',
  'x\udfff',
  '\ufeff',
  '\u202e',
  '𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ☃ é ñ ß',
  'İstanbul ſ K',
  "'; drop table series; --",
  "' or '1'='1",
  '") or 1=1 --',
  '$$; commit; $$',
  "\\'; --",
  '%s %n %x',
  '%00',
  '%',
  '%_%',
  '\\',
  '\\%',
  '<script>alert(1)</script>',
  '"><img src=x onerror=alert(1)>',
  '{{ $labels.x }}',
  '{{ 7*7 }}',
  '#{7*7}',
  '$(id)',
  '`id`',
  '../../../../etc/passwd',
  '..\\..\\boot.ini',
  'file:///etc/passwd',
  'http://169.254.169.254/latest/meta-data',
  'javascript:alert(1)',
  '(a+)+$',
  '.*',
  '[',
  '(?<',
  '^(([a-z])+.)+[A-Z]([a-z])+$',
  '(((((((((((((((((((',
  '"unclosed phrase',
  '-',
  '-a -b or or or "" -',
  '&|!():*<->',
  'a:*&!b',
  '__proto__',
  'constructor',
  'toString',
  'null',
  'undefined',
  'NaN',
  'Infinity',
  '-Infinity',
  '1e999',
  '-1',
  '0',
  '00',
  '1.5',
  '0x10',
  '9007199254740993',
  '2147483648',
  '-2147483649',
  '9223372036854775808',
  '1e308',
  '99999999999999999999999999999999999999',
  'true',
  '[]',
  '{}',
  '{"a":1}',
  '00000000-0000-0000-0000-000000000000',
  '00000000-0000-0000-0000-00000000000g',
  '{00000000-0000-0000-0000-000000000000}',
  '0000-00-00T00:00:00Z',
  '9999-12-31T23:59:59.999999999Z',
  '-000001-01-01T00:00:00Z',
  '+275760-09-13T00:00:00Z',
  '2026-02-30T00:00:00Z',
  '2026-01-01T24:00:00Z',
  '2026-01-01T00:00:60Z',
  '2026-01-01T00:00:00+99:99',
  '2026-01-01',
  'now',
  'infinity',
  '-infinity',
  'epoch',
  '0s',
  '-5m',
  '99999999d',
  '1M',
  'PT5M',
  'GMT+25',
  'Europe/Nowhere',
  'posixrules',
  'avg(x[5m]) >',
  'avg(x[5m]) > 1 '.repeat(300),
  `${'('.repeat(2000)}1${')'.repeat(2000)}`,
  `${'not '.repeat(500)}avg(x[5m]) > 1`,
  'a="b" and c=~"("',
  'x=~"(a+)+b"',
  '$.a[?(@.b)]',
  `$${'..*'.repeat(200)}`,
  'x'.repeat(256),
  'x'.repeat(3000),
  '☃'.repeat(1500),
  'a '.repeat(1500),
];

const wildNumbers = [
  0,
  -0,
  -1,
  0.5,
  1e-320,
  1e300,
  1.7976931348623157e308,
  -1e308,
  2 ** 31,
  -(2 ** 31) - 1,
  2 ** 53,
  2 ** 63,
  2 ** 64,
  1e15,
  -1e15,
  8.64e15,
  8.64e15 + 1,
  253402300800000,
];

const wildPaths = [
  '/',
  '//',
  '/api',
  '/api/v1',
  '/api/v1/',
  '/api/v1//metrics',
  '/api/v1/metrics/',
  '/api/v2/metrics',
  '/API/V1/METRICS',
  '/api/v1/../../etc/passwd',
  '/api/v1/%2e%2e/%2e%2e/etc/passwd',
  '/docs/../package.json',
  '/docs/..%2f..%2fpackage.json',
  '/docs/%2e%2e%2fpackage.json',
  '/docs/__proto__',
  '/docs/swagger-ui.css.map',
  '/.env',
  '/.git/config',
  '/metrics',
  '/metrics/',
  '/openapi.json?x=%00',
  '/docs?',
  '/api/v1/metrics?%00',
  '/api/v1/metrics?=&&&==',
  '/api/v1/metrics#fragment',
  '/api/v1/services/%',
  '/api/v1/services/%zz',
  '/api/v1/services/%00',
  '/api/v1/services/%ed%a0%80',
  '/api/v1/services/%c0%ae%c0%ae',
  '/api/v1/services/a%0d%0aX-Injected:%20yes',
  '/api/v1/services/%25%32%65',
  '/api/v1/logs/%2A',
  '/api/v1/logs/*;x=y',
  '/api/v1/alerts/..;/org',
  '/api/v1/alerts/\\..\\org',
  `/${'a/'.repeat(2000)}`,
  `/api/v1/services/${'%61'.repeat(2000)}`,
];

const wildMethods = [
  'OPTIONS',
  'HEAD',
  'GET',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'PROPFIND',
  'TRACE',
  'SEARCH',
];

export interface Fuzz {
  request(route: Route, hints: Hints): FuzzRequest;
}

export function createFuzz(document: Document, random: Random, cursors: () => string | undefined): Fuzz {
  const resolve = (schema: Schema): Schema =>
    schema.$ref ? resolve(document.components.schemas[schema.$ref.split('/').at(-1)!]!) : schema;

  /** A value that the schema allows. */
  function valid(given: Schema, name: string, route: Route, hints: Hints, depth = 0): unknown {
    const hinted = hints(name, route);
    if (hinted !== undefined) return hinted;
    const schema = resolve(given);
    const alternatives = schema.oneOf ?? schema.anyOf;
    if (alternatives) return valid(random.pick(alternatives), name, route, hints, depth);
    if (schema.allOf)
      return Object.assign({}, ...schema.allOf.map((part) => valid(part, name, route, hints, depth)));
    if (schema.enum) return random.pick(schema.enum);
    switch (Array.isArray(schema.type) ? random.pick(schema.type) : schema.type) {
      case 'null':
        return null;
      case 'boolean':
        return random.chance(0.5);
      case 'integer':
      case 'number': {
        const min = schema.minimum ?? 1;
        const max = Math.max(min, Math.min(schema.maximum ?? 1000, min + 1000));
        if (random.chance(0.1)) return schema.maximum ?? schema.minimum ?? 1;
        return schema.type === 'number' && random.chance(0.3)
          ? Math.min(max, min + random.next())
          : random.between(Math.ceil(min), Math.floor(max));
      }
      case 'string': {
        if (schema.format === 'date-time')
          return new Date(Date.now() + random.between(-90_000, 90_000) * 1000).toISOString();
        if (schema.format === 'uuid')
          return '00000000-0000-4000-8000-000000000000'.replace(/0/g, () =>
            random.letters(1, '0123456789abcdef'),
          );
        if (schema.format === 'email') return `${random.letters(5)}@mail.test`;
        if (schema.example !== undefined && random.chance(0.5)) return schema.example;
        const max = Math.min(schema.maxLength ?? 40, random.chance(0.02) ? 4000 : 40);
        return random.letters(random.between(Math.max(1, schema.minLength ?? 1), max));
      }
      case 'array': {
        const min = schema.minItems ?? 0;
        const count = random.between(min, Math.min(schema.maxItems ?? 3, Math.max(3, min)));
        return Array.from({ length: count }, () => valid(schema.items ?? {}, name, route, hints, depth + 1));
      }
      case 'object': {
        const made: Record<string, unknown> = {};
        for (const [key, property] of Object.entries(schema.properties ?? {}))
          if (schema.required?.includes(key) || random.chance(0.3))
            made[key] = valid(property, key, route, hints, depth + 1);
        if (!schema.properties && schema.additionalProperties)
          for (let i = random.below(3); i >= 0; i--)
            made[random.letters(6)] = valid(
              schema.additionalProperties === true ? {} : schema.additionalProperties,
              `${name}.*`,
              route,
              hints,
              depth + 1,
            );
        return made;
      }
      default:
        return depth > 3 ? 1 : random.pick<unknown>([1, 'text', true, null, [1, 'a'], { a: { b: 1 } }]);
    }
  }

  function wildValue(depth = 0): unknown {
    switch (random.below(depth > 2 ? 3 : 6)) {
      case 0:
        return random.pick(wildTexts);
      case 1:
        return random.pick(wildNumbers);
      case 2:
        return random.pick<unknown>([null, true, false, [], {}, [[]], '']);
      case 3:
        return Array.from({ length: random.below(4) }, () => wildValue(depth + 1));
      case 4:
        return Object.fromEntries(
          Array.from({ length: random.below(4) }, () => [random.pick(wildTexts), wildValue(depth + 1)]),
        );
      default:
        return random.chance(0.4)
          ? nested(random.pick([25, 3000, 20_000]))
          : random.letters(random.below(50));
    }
  }

  /** Stands for what is nested so deep that it could not be written as JSON here. */
  const nested = (levels: number) => `nested ${levels} ${random.pick(['list', 'object'])}`;

  /** One thing in a value is made another: changed, left out, added or wrapped. */
  function mutated(value: unknown): unknown {
    if (typeof value === 'object' && value !== null && random.chance(0.8)) {
      const keys = Object.keys(value);
      if (Array.isArray(value)) {
        if (keys.length === 0) return [wildValue()];
        const at = random.below(keys.length);
        if (random.chance(0.1)) return Array.from({ length: 1001 }, () => value[at]);
        return value.map((inner, i) => (i === at ? mutated(inner) : inner));
      }
      const made = { ...(value as Record<string, unknown>) };
      const key = random.pick(keys);
      const what = random.below(10);
      if (what === 0 || key === undefined) made[random.pick(wildTexts)] = wildValue();
      else if (what === 1) delete made[key];
      else if (what === 2) made[key.toUpperCase()] = made[key];
      else made[key] = mutated(made[key]);
      return made;
    }
    if (random.chance(0.1)) return [value];
    if (random.chance(0.1)) return String(value);
    return wildValue();
  }

  function json(value: unknown): string {
    const text = JSON.stringify(value) ?? '';
    return text.replace(/"nested (\d+) (list|object)"/g, (_, levels: string, kind: string) => {
      const [open, close] = kind === 'list' ? ['[', ']'] : ['{"a":', '}'];
      return `${open.repeat(Number(levels))}1${close.repeat(Number(levels))}`;
    });
  }

  function bodyOf(route: Route, kind: FuzzRequest['kind'], hints: Hints, headers: Record<string, string>) {
    const { requestBody } = route.operation;
    // What takes no body gets one now and then.
    if (!requestBody && !random.chance(kind === 'wild' ? 0.1 : 0.01)) return undefined;
    if (requestBody && !requestBody.required && random.chance(0.3)) return undefined;
    const schema = requestBody?.content['application/json']?.schema ?? {};
    headers['content-type'] = 'application/json';
    const good = valid(schema, '', route, hints);
    let body = Buffer.from(json(kind === 'valid' ? good : kind === 'nearly' ? mutated(good) : wildValue()));
    if (kind === 'valid' && random.chance(0.1)) {
      const [encoding, encode] = random.pick([
        ['gzip', gzipSync],
        ['deflate', deflateSync],
        ['br', brotliCompressSync],
      ] as const);
      headers['content-encoding'] = encoding;
      return encode(body);
    }
    if (kind !== 'wild') return body;
    switch (random.below(14)) {
      case 0:
        return Buffer.alloc(0);
      case 1:
        return Buffer.from(json(good)).subarray(0, random.below(json(good).length));
      case 2:
        body = Buffer.from(json(good));
        for (let i = 0; i < 3; i++) body[random.below(body.length)] = random.below(256);
        return body;
      case 3:
        return Buffer.from(Array.from({ length: random.below(200) }, () => random.below(256)));
      case 4:
        headers['content-type'] = random.pick([
          'text/plain',
          'application/x-www-form-urlencoded',
          'multipart/form-data; boundary=x',
          'application/xml',
          'application/json; charset=utf-16',
          'application/',
          ';',
          'x'.repeat(2000),
        ]);
        return body;
      case 5:
        // Said to be compressed, and is not, or is broken off.
        headers['content-encoding'] = random.pick([
          'gzip',
          'br',
          'deflate',
          'zstd',
          'gzip, gzip',
          '__proto__',
        ]);
        return random.chance(0.5) ? body : gzipSync(json(good)).subarray(0, -random.between(1, 12));
      case 6:
        // Small as it comes, and not small.
        headers['content-encoding'] = 'gzip';
        return gzipSync(Buffer.alloc(5_000_000, 32));
      case 7: {
        const levels = random.pick([100, 10_000, 60_000]);
        return Buffer.from(`${'['.repeat(levels)}${random.chance(0.5) ? ']'.repeat(levels) : ''}`);
      }
      case 8: {
        const levels = random.pick([100, 3000, 10_000]);
        const text = json({ ...(good as object), deep: 1, metadata: 1, labels: 1 });
        return Buffer.from(text.replace(/:1\b/g, `:${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`));
      }
      case 9:
        return Buffer.from(`{"a":${'9'.repeat(400)},"b":1e400,"c":-1e-400}`);
      case 10:
        return Buffer.from(json(good).replace(/}$/, ',"__proto__":{"role":"admin"},"name":1,"name":2}'));
      case 11:
        return Buffer.from(`\ufeff${json(good)}`);
      default:
        return body;
    }
  }

  function wildText(): string {
    if (random.chance(0.8)) return random.pick(wildTexts);
    return random.chance(0.5) ? String(random.pick(wildNumbers)) : random.letters(random.below(60));
  }

  /** As a URL can hold it; a lone surrogate as the bytes that it would have. */
  function encode(text: string): string {
    return text.isWellFormed()
      ? encodeURIComponent(text)
      : Array.from(text, (part) => (part.isWellFormed() ? encodeURIComponent(part) : '%ED%A0%80')).join('');
  }

  function queryOf(route: Route, kind: FuzzRequest['kind'], hints: Hints): string {
    const parts: string[] = [];
    const parameters = (route.operation.parameters ?? []).filter((parameter) => parameter.in === 'query');
    const odd = kind === 'nearly' && parameters.length > 0 ? random.pick(parameters) : undefined;
    for (const parameter of parameters) {
      const isWild = parameter === odd || (kind === 'wild' && random.chance(0.4));
      if (!isWild && !random.chance(0.35)) continue;
      const name = parameter.name.replace(/\{\w+\}/, () => (isWild ? wildText() : random.letters(4)));
      const cursor = parameter.name === 'cursor' ? cursors() : undefined;
      const value = isWild
        ? parameter.name === 'cursor' && random.chance(0.6)
          ? Buffer.from(wildText()).toString('base64url')
          : wildText()
        : (cursor ?? valid(parameter.schema, parameter.name, route, hints));
      parts.push(`${encode(name)}=${encode(String(value))}`);
      if (isWild && random.chance(0.15)) parts.push(parts.at(-1)!);
    }
    if (kind === 'wild' && random.chance(0.3)) parts.push(`${encode(wildText())}=${encode(wildText())}`);
    if (kind === 'wild' && random.chance(0.05))
      parts.push(random.pick(['%', '%zz=%', '&&&', '=', 'a[]=1', '%00']));
    return parts.length > 0 ? `?${parts.join('&')}` : '';
  }

  return {
    request(route, hints) {
      const kind = random.pick([
        'valid',
        'valid',
        'valid',
        'nearly',
        'nearly',
        'nearly',
        'nearly',
        'wild',
        'wild',
        'wild',
      ] as const);
      const headers: Record<string, string> = {};
      const params: Record<string, string> = {};
      let isOfRoute = true;
      let path = route.path.replace(/\{(\w+)\}/g, (_, name: string) => {
        const isWild = random.chance(kind === 'wild' ? 0.4 : kind === 'nearly' ? 0.15 : 0);
        const value = isWild ? wildText() : String(valid({ type: 'string' }, `path.${name}`, route, hints));
        params[name] = value;
        // An empty one is another path, and so are dots.
        if (/^\.*$/.test(value)) isOfRoute = false;
        return encode(value);
      });
      path += queryOf(route, kind, hints);
      let { method } = route;
      if (kind === 'wild' && random.chance(0.04)) {
        path = random.pick(wildPaths);
        isOfRoute = false;
      }
      if (kind === 'wild' && random.chance(0.05)) {
        method = random.pick(wildMethods);
        isOfRoute = false;
      }
      const body = bodyOf(route, kind, hints, headers);
      for (const parameter of route.operation.parameters ?? [])
        if (parameter.in === 'header' && random.chance(0.4))
          headers[parameter.name] =
            kind === 'valid' || random.chance(0.3)
              ? String(valid(parameter.schema, `header.${parameter.name}`, route, hints))
              : headerText(wildText());
      if (random.chance(0.2))
        headers['accept-encoding'] = random.pick([
          'gzip',
          'br',
          'deflate',
          'gzip;q=0, *',
          'identity;q=0',
          '\t,,',
        ]);
      if (kind === 'wild') {
        const [name, values] = random.pick(oddHeaders);
        headers[name] = random.chance(0.5) && name !== 'host' ? headerText(wildText()) : random.pick(values);
        if (name === 'host') isOfRoute = false;
      }
      return { route, method, path, params, headers, body, kind, isOfRoute };
    },
  };
}

const oddHeaders: [string, string[]][] = [
  ['x-request-id', ['abc', 'a b', 'x'.repeat(129)]],
  ['x-forwarded-for', ['1.2.3.4', ', ,', '::1, x']],
  ['if-none-match', ['*', 'W/"x"', '"', ',,,']],
  ['accept', ['text/html', '*/*;q=-1']],
  ['origin', ['https://evil.test', 'null']],
  ['cookie', ['a=b', ';;;']],
  ['host', ['evil.test', 'a b', 'x:99999', '']],
  ['range', ['bytes=0-1', 'bytes=9-1']],
  ['last-event-id', ['0', '-1', '999999999999999', '1-2-3']],
  ['idempotency-key', ['a', 'x'.repeat(256)]],
  ['x-http-method-override', ['DELETE']],
  ['if-modified-since', ['yesterday']],
  ['te', ['trailers']],
];

/** As far as a header can hold it. */
function headerText(text: string): string {
  return text.replace(/[^\t\x20-\x7e\x80-\xff]/g, '').trim();
}
