// The only place that opens connections to PostgreSQL (graphile-worker's own pool apart).
import net from 'node:net';
import postgres from 'postgres';

export type Sql = postgres.Sql;
/** A pool or a transaction. */
export type Queryable = postgres.ISql;

export interface DatabaseOptions {
  /** Shown in pg_stat_activity. */
  name: string;
  /** Largest number of connections. */
  max: number;
  /** A statement that runs longer is cancelled: SQLSTATE 57014, HTTP 504. */
  statementTimeoutMs?: number;
  /** A lost connection is tried again at once, then at growing intervals of at most this many seconds. */
  maxBackoffSeconds?: number;
}

/**
 * Opens a lazy pool: nothing connects before the first query, and a lost connection is replaced by the next
 * query that needs one.
 */
export function connect(url: string, options: DatabaseOptions): Sql {
  const target = new URL(url);
  const socketFolder = target.searchParams.get('host');
  return postgres(url, {
    max: options.max,
    connect_timeout: 5,
    idle_timeout: 300,
    max_lifetime: null,
    backoff: (retries: number) => Math.min(options.maxBackoffSeconds ?? 2, 0.05 * 2 ** retries),
    connection: {
      application_name: options.name,
      TimeZone: 'UTC',
      ...(options.statementTimeoutMs ? { statement_timeout: options.statementTimeoutMs } : {}),
    },
    onnotice: () => {},
    // postgres.js leaves Nagle's algorithm on, which stalls every COPY over TCP for the peer's delayed
    // acknowledgement (88 ms measured on loopback).
    ...(socketFolder?.startsWith('/')
      ? {}
      : {
          socket: () =>
            openSocket(target.hostname.replace(/^\[|\]$/g, '') || 'localhost', Number(target.port || 5432)),
        }),
  } as postgres.Options<Record<string, never>>);
}

// Returned unconnected: Node queues what is written meanwhile, and postgres.js sees a failure to connect as
// an 'error' event. (Rejecting here instead would leave its connection in the pool as "connecting" for ever.)
function openSocket(host: string, port: number): net.Socket {
  return Object.assign(net.connect({ host, port, noDelay: true }), { host, port });
}
