// Every error a client can see: the Problem it is told (RFC 9457) and the one table from SQLSTATE to HTTP.
import { z } from '@hono/zod-openapi';

export interface FieldError {
  /** Where in the request, such as metrics[3].value or query.limit. Empty for the body as a whole. */
  path: string;
  message: string;
  /** Where in a text of several parts, such as a rule's expression; both count from 1. */
  line?: number;
  column?: number;
}

/** An error whose text may be shown to the client. */
export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  readonly errors: FieldError[] | undefined;
  readonly headers: Record<string, string>;

  constructor(
    status: number,
    code: string,
    detail: string,
    more: { errors?: FieldError[]; headers?: Record<string, string>; cause?: unknown } = {},
  ) {
    super(detail, { cause: more.cause });
    this.status = status;
    this.code = code;
    this.errors = more.errors;
    this.headers = more.headers ?? {};
  }
}

export const problemSchema = z
  .object({
    type: z.string().openapi({ example: 'about:blank' }),
    title: z.string().openapi({ example: 'Bad Request' }),
    status: z.number().int().openapi({ example: 400 }),
    detail: z.string().openapi({ example: 'The request is not valid.' }),
    code: z.string().openapi({ example: 'invalid_request' }),
    request_id: z.string(),
    errors: z
      .array(
        z.object({
          path: z.string(),
          message: z.string(),
          line: z.number().int().optional(),
          column: z.number().int().optional(),
        }),
      )
      .optional(),
  })
  .openapi('Problem');

const titles: Record<number, string> = {
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  408: 'Request Timeout',
  409: 'Conflict',
  413: 'Content Too Large',
  415: 'Unsupported Media Type',
  422: 'Unprocessable Content',
  429: 'Too Many Requests',
  431: 'Request Header Fields Too Large',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
  504: 'Gateway Timeout',
};

/** A problem as the client sees it (RFC 9457). */
export function problemDocument(problem: Problem, requestId: string): z.infer<typeof problemSchema> {
  return {
    type: 'about:blank',
    title: titles[problem.status] ?? 'Error',
    status: problem.status,
    detail: problem.message,
    code: problem.code,
    request_id: requestId,
    ...(problem.errors ? { errors: problem.errors } : {}),
  };
}

/** 400 with the fields that are wrong. At least one. */
export function invalid(errors: FieldError[]): Problem {
  const [first] = errors;
  const where = first?.path ? `${first.path}: ` : '';
  const rest = errors.length > 1 ? ` (and ${errors.length - 1} more)` : '';
  return new Problem(400, 'invalid_request', `${where}${first?.message}${rest}`, { errors });
}

/** 503: the same request may succeed in a moment. */
export function unavailable(code: string, detail: string, cause?: unknown): Problem {
  return new Problem(503, code, detail, { headers: { 'Retry-After': '1' }, cause });
}

/** What a request is answered with that could not be read at all, by the code of Node's error. */
export function unreadable(code: string): Problem {
  if (code === 'HPE_HEADER_OVERFLOW')
    return new Problem(431, 'headers_too_large', 'The headers of the request are longer than 16 KiB.');
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return new Problem(408, 'request_timeout', 'The request did not come in time.');
  return new Problem(400, 'malformed_request', 'The request is not valid HTTP.');
}

// Codes of Node's sockets and of postgres.js for a database that cannot be reached or went away.
const connectionCodes = new Set([
  'CONNECT_TIMEOUT',
  'CONNECTION_CLOSED',
  'CONNECTION_DESTROYED',
  'CONNECTION_ENDED',
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOENT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'ERR_STREAM_PREMATURE_CLOSE',
]);

/** Whether the outcome of a statement is unknown because the database could not be reached or went away. */
export function isConnectionError(error: unknown): boolean {
  const code = codeOf(error);
  return connectionCodes.has(code) || /^(08...|57P0.)$/.test(code);
}

/**
 * Whether a function, or its schema, was looked for by name or by number at the moment when a migration replaced all of
 * them: it is there again by now, and nothing has been done.
 */
export function isMigrating(error: unknown): boolean {
  const message = String((error as Error | null)?.message);
  return (
    (/^(42883|3F000)$/.test(codeOf(error)) && /\b(api|lib|job|queue)\b|\bwith OID\b/.test(message)) ||
    (codeOf(error) === 'XX000' && message.startsWith('cache lookup failed for '))
  );
}

/** SQLSTATE, or the code of a Node error; '' for none. */
export function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : '';
}

/** What the client is told of any error; what must not be shown becomes a 500 without detail. */
export function toProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  const code = codeOf(error);
  const message = (error as Error)?.message ?? '';
  if (isConnectionError(error)) {
    return unavailable('database_unavailable', 'The database cannot be reached. Try again shortly.', error);
  }
  if (isMigrating(error))
    return unavailable('migrating', 'The service is just being upgraded. Try again shortly.', error);
  if (/^PT[45]\d\d$/.test(code)) {
    // The column of an error that SQL raises is the field that is wrong.
    const { hint, column_name: path } = error as { hint?: string; column_name?: string };
    return new Problem(Number(code.slice(2)), hint || 'refused', path ? `${path}: ${message}` : message, {
      cause: error,
      ...(path ? { errors: [{ path, message }] } : {}),
    });
  }
  if (/^22...$/.test(code) || code === '23502' || code === '23514') {
    return new Problem(400, 'invalid_value', message, { cause: error });
  }
  if (code === '23503' || code === '23505' || code === '23P01') {
    return new Problem(409, 'conflict', 'The request conflicts with what is stored.', { cause: error });
  }
  if (code === '42501') return new Problem(403, 'forbidden', 'This is not permitted.', { cause: error });
  if (/^53...$/.test(code) || code === '40001' || code === '40P01' || code === '25006') {
    return unavailable('database_busy', 'The database is busy. Try again shortly.', error);
  }
  if (code === '57014') {
    return new Problem(
      504,
      'timeout',
      'The request took too long and was cancelled. Ask for a shorter range, or longer intervals.',
      {
        cause: error,
      },
    );
  }
  return new Problem(
    500,
    'internal_error',
    'Something went wrong on our side. Quote the request id when reporting it.',
    {
      cause: error,
    },
  );
}
