// The only place that opens connections to PostgreSQL (graphile-worker's own pool apart).
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
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
export function arrayLiteral(values: readonly (string | number | boolean)[]): string {
  return `{${values.map((value) => (typeof value === 'string' ? `"${value.replace(/[\\"]/g, '\\$&')}"` : value)).join(',')}}`;
}

/** One connection, for one piece of work at a time, that ends right even when it is lost in the middle. */
export interface Session {
  /** Runs a statement of its own. */
  statement<T>(work: (sql: Queryable) => PromiseLike<T>): Promise<T>;
  /**
   * Runs work in a transaction; resolves once it is committed. When the connection is lost it rejects with a
   * connection error, and no later statement of work is sent: see isConnectionError.
   * A last statement is sent together with the commit, without a round trip in between.
   */
  transaction<T>(
    work: (sql: Queryable) => Promise<T>,
    last?: (sql: Queryable, result: T) => PromiseLike<unknown> | undefined,
  ): Promise<T>;
  end(): Promise<void>;
}

export function connectSession(url: string, options: Omit<DatabaseOptions, 'max'>): Session {
  let current = connectOne(url, options);
  const deadlineMs = (options.statementTimeoutMs ?? 60_000) * 4 + 5_000;

  // After a loss postgres.js reports the old connection's last error for the new one's first statement, or waits
  // for ever: a new pool begins with a clean slate.
  function renew(lost: OneConnection) {
    if (current !== lost) return;
    void lost.sql.end({ timeout: 0 }).catch(() => {});
    current = connectOne(url, options);
  }

  async function run<T>(work: (connection: OneConnection) => PromiseLike<T>): Promise<T> {
    const connection = current;
    let timer: NodeJS.Timeout | undefined;
    // For a database that falls silent: the statement timeout is its own to keep, this one is ours.
    const silence = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(connectionLost('the database does not answer')), deadlineMs);
    });
    try {
      return await Promise.race([work(connection), silence]);
    } catch (error) {
      if (isConnectionError(error)) renew(connection);
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  return {
    statement: (work) => run(({ sql }) => work(sql)),
    transaction: (work, last) => run((connection) => runTransaction(connection, work, last)),
    end: () => current.sql.end({ timeout: 5 }),
  };
}

interface OneConnection {
  sql: Sql;
  /** Counts sockets opened, failed and closed. */
  epoch: number;
  isConnected: boolean;
}

function connectOne(url: string, options: Omit<DatabaseOptions, 'max'>): OneConnection {
  const connection: Omit<OneConnection, 'sql'> = { epoch: 0, isConnected: false };
  // A process that is stopped, or cut off, in the middle of a transaction must not go on holding its locks.
  const parameters = { idle_in_transaction_session_timeout: 10_000 };
  const onSocket = (socket: net.Socket) => {
    const change = () => {
      connection.epoch++;
      connection.isConnected = false;
    };
    change();
    socket.once('error', change);
    socket.once('close', change);
  };
  const sql = open(url, { ...options, max: 1 }, onSocket, {}, parameters);
  return Object.assign(connection, { sql });
}

// postgres.js's own transactions do not notice that their connection is gone: what they say next goes to the one that
// took its place, outside any transaction, or is never answered, or crashes the process.
async function runTransaction<T>(
  connection: OneConnection,
  work: (sql: Queryable) => Promise<T>,
  last?: (sql: Queryable, result: T) => PromiseLike<unknown> | undefined,
): Promise<T> {
  // A reservation that has to connect first would wait for ever (without fetch_types).
  if (!connection.isConnected) await connection.sql`select 1`;
  connection.isConnected = true;
  const reserved = await connection.sql.reserve();
  const begun = connection.epoch;
  const isLost = () => connection.epoch !== begun;
  const guarded = ((...query: Parameters<Sql>) => {
    if (isLost()) throw connectionLost('the connection was lost');
    return reserved(...query);
  }) as unknown as Queryable;
  try {
    await guarded`begin`;
    const result = await work(guarded);
    const [, { command }] = await Promise.all([last?.(guarded, result), guarded`commit`]);
    // In a transaction that has failed, a commit succeeds, and rolls back.
    if (command !== 'COMMIT') throw Object.assign(new Error('the transaction had failed'), { code: '25P02' });
    return result;
  } catch (error) {
    if (isLost()) throw isConnectionError(error) ? error : connectionLost('the connection was lost', error);
    if (!isConnectionError(error)) await reserved`rollback`.catch(() => {});
    throw error;
  } finally {
    if (!isLost()) reserved.release();
  }
}

const pingMs = 10_000;

/**
 * Listens to a channel on a connection of its own, which is made anew whenever it is lost. onListening is called each
 * time that notifications begin to come: what was notified before is not told.
 */
export function listen(
  url: string,
  options: Omit<DatabaseOptions, 'max'>,
  channel: string,
  onNotify: (payload: string) => void,
  onListening: () => void,
): { end(): Promise<void> } {
  let isEnded = false;
  let current: Sql | undefined;
  let timer: NodeJS.Timeout | undefined;

  // postgres.js's own listen gives up where the database is away at the moment that it tries again.
  async function begin() {
    const sql = open(url, { ...options, max: 1 }, () => {}, {
      idle_timeout: 0,
      onnotify: (_channel: string, payload: string) => onNotify(payload),
      onclose: () => renew(sql),
    });
    current = sql;
    try {
      await sql`listen ${sql(channel)}`;
      onListening();
      while (current === sql) {
        await sleep(pingMs, undefined, { ref: false });
        // A connection that fell silent is not noticed otherwise.
        await Promise.race([
          sql`select 1`,
          sleep(pingMs / 2, undefined, { ref: false }).then(() =>
            Promise.reject(connectionLost('no answer')),
          ),
        ]);
      }
    } catch {
      renew(sql);
    }
  }

  function renew(lost: Sql) {
    if (current !== lost) return;
    current = undefined;
    void lost.end({ timeout: 0 }).catch(() => {});
    if (!isEnded) timer = setTimeout(() => void begin(), 500).unref();
  }

  void begin();
  return {
    async end() {
      isEnded = true;
      clearTimeout(timer);
      const last = current;
      current = undefined;
      await last?.end({ timeout: 1 });
    },
  };
}

function connectionLost(message: string, cause?: unknown) {
  return Object.assign(new Error(message, { cause }), { code: 'CONNECTION_CLOSED' });
}

function open(
  url: string,
  options: DatabaseOptions,
  onSocket: (socket: net.Socket) => void,
  more: Record<string, unknown> = {},
  parameters: Record<string, number> = {},
): Sql {
  const sql = openPostgres(url, options, onSocket, more, parameters);
  mendResults(sql);
  return sql;
}

let areResultsMended = false;

// postgres.js (3.4.9) counts the rows of a statement that failed after them to the next one of the connection: its first row has the
// index of a later one, and those before it are holes. (Cursors, and several statements in one, are not used here, and not mended.)
function mendResults(sql: Sql) {
  if (areResultsMended) return;
  areResultsMended = true;
  const query = Object.getPrototypeOf(sql`select 1`);
  const { then } = query;
  // biome-ignore lint/suspicious/noThenProperty: it is the one it has
  query.then = function (onFulfilled?: (result: unknown) => unknown, onRejected?: unknown) {
    const onResult = (result: unknown) => {
      if (Array.isArray(result) && result.length > 0 && !(0 in result))
        result.splice(0, Number(Object.keys(result)[0]));
      return onFulfilled ? onFulfilled(result) : result;
    };
    return then.call(this, onResult, onRejected);
  };
}

function openPostgres(
  url: string,
  options: DatabaseOptions,
  onSocket: (socket: net.Socket) => void,
  more: Record<string, unknown>,
  parameters: Record<string, number>,
): Sql {
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
      ...parameters,
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
    ...more,
  } as postgres.Options<Record<string, never>>);
}
