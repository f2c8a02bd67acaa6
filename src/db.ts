// The only place that opens connections to PostgreSQL (graphile-worker's own pool apart).
import net from 'node:net';
import postgres from 'postgres';
import { isConnectionError } from './errors.ts';

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
}

/**
 * Opens a lazy pool: nothing connects before the first query, and a lost connection is replaced by the next
 * query that needs one. For transactions see connectSession.
 */
export function connect(url: string, options: DatabaseOptions): Sql {
  return open(url, options, () => {});
}

/** A PostgreSQL array as text, to be cast: `${arrayLiteral(names)}::text::text[]`. */
export function arrayLiteral(values: readonly (string | number)[]): string {
  return `{${values.map((value) => (typeof value === 'number' ? value : `"${value.replace(/[\\"]/g, '\\$&')}"`)).join(',')}}`;
}

/** One connection, for one piece of work at a time, that ends right even when it is lost in the middle. */
export interface Session {
  /** Runs a statement of its own. */
  statement<T>(work: (sql: Queryable) => Promise<T>): Promise<T>;
  /**
   * Runs work in a transaction; resolves once it is committed. When the connection is lost it rejects with a
   * connection error, and no later statement of work is sent: see isConnectionError.
   */
  transaction<T>(work: (sql: Queryable) => Promise<T>): Promise<T>;
  end(): Promise<void>;
}

export function connectSession(url: string, options: Omit<DatabaseOptions, 'max'>): Session {
  // Counts sockets opened and closed. postgres.js's own transactions do not notice that theirs is gone: what they
  // send next goes to the connection that took its place, outside any transaction, or crashes the process.
  let epoch = 0;
  let isConnected = false;
  const openOne = () =>
    open(url, { ...options, max: 1 }, (socket) => {
      epoch++;
      socket.once('close', () => {
        epoch++;
        isConnected = false;
      });
    });
  let sql = openOne();
  const deadlineMs = (options.statementTimeoutMs ?? 60_000) * 4 + 5_000;

  // For a database that falls silent: the statement timeout is its own to keep, this one is ours.
  async function withDeadline<T>(work: Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        renew();
        reject(Object.assign(new Error('the database does not answer'), { code: 'CONNECTION_CLOSED' }));
      }, deadlineMs);
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  // After a loss postgres.js reports the old connection's last error for the new one's first statement, or waits
  // for ever: a new pool begins with a clean slate.
  function renew() {
    void sql.end({ timeout: 0 }).catch(() => {});
    sql = openOne();
  }

  async function statement<T>(work: (sql: Queryable) => Promise<T>) {
    try {
      return await work(sql);
    } catch (error) {
      if (isConnectionError(error)) renew();
      throw error;
    }
  }

  async function transaction<T>(work: (sql: Queryable) => Promise<T>) {
    let begun = Number.NaN;
    try {
      // A reservation that has to connect first would wait for ever (without fetch_types).
      if (!isConnected) await sql`select 1`;
      isConnected = true;
      const reserved = await sql.reserve();
      begun = epoch;
      const guarded = ((...query: Parameters<Sql>) => {
        if (epoch !== begun)
          throw Object.assign(new Error('the connection was lost'), { code: 'CONNECTION_CLOSED' });
        return reserved(...query);
      }) as unknown as Queryable;
      try {
        await guarded`begin`;
        const result = await work(guarded);
        const { command } = await guarded`commit`;
        // In a transaction that has failed, a commit succeeds, and rolls back.
        if (command !== 'COMMIT')
          throw Object.assign(new Error('the transaction had failed'), { code: '25P02' });
        return result;
      } catch (error) {
        if (epoch === begun) await reserved`rollback`.catch(() => {});
        throw error;
      } finally {
        if (epoch === begun) reserved.release();
      }
    } catch (error) {
      if (epoch !== begun) renew();
      throw error;
    }
  }

  return {
    statement: (work) => withDeadline(statement(work)),
    transaction: (work) => withDeadline(transaction(work)),
    end: () => sql.end({ timeout: 5 }),
  };
}

function open(url: string, options: DatabaseOptions, onSocket: (socket: net.Socket) => void): Sql {
  const target = new URL(url);
  const socketFolder = target.searchParams.get('host');
  const host = target.hostname.replace(/^\[|\]$/g, '') || 'localhost';
  const port = Number(target.port || 5432);
  return postgres(url, {
    max: options.max,
    connect_timeout: 5,
    idle_timeout: 300,
    max_lifetime: null,
    backoff: (retries: number) => Math.min(2, 0.05 * 2 ** retries),
    connection: {
      application_name: options.name,
      TimeZone: 'UTC',
      ...(options.statementTimeoutMs ? { statement_timeout: options.statementTimeoutMs } : {}),
    },
    onnotice: () => {},
    // An error in answer to the look-up of array types would end the process: postgres.js leaves it unhandled.
    // Arrays are passed as text (arrayLiteral) and answered as JSON instead.
    fetch_types: false,
    // Opened here and returned unconnected: Node queues what is written meanwhile, and postgres.js sees a failure to
    // connect as an 'error' event. (Were it to be rejected, the pool would count it as connecting for ever.)
    socket: () => {
      // postgres.js leaves Nagle's algorithm on, which stalls every COPY over TCP for the peer's delayed
      // acknowledgement (88 ms measured on loopback).
      const socket = socketFolder?.startsWith('/')
        ? net.connect({ path: `${socketFolder}/.s.PGSQL.${port}` })
        : net.connect({ host, port, noDelay: true });
      onSocket(socket);
      return Object.assign(socket, { host, port });
    },
  } as postgres.Options<Record<string, never>>);
}
