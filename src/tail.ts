// Live tails of logs: one connection that listens and a query for each org that anything arrives for, however many
// clients there are. Filters are answered by the database, so that a tail shows what a search would find.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Sql } from './db.ts';
import { isConnectionError, Problem, unavailable } from './errors.ts';
import { adjust } from './turns.ts';

/** As lib.read_log_filter takes it. */
export interface LogFilter {
  service_name?: string | undefined;
  level?: string | undefined;
  q?: string | undefined;
  contains?: string | undefined;
  metadata?: Record<string, string> | undefined;
  trace_id?: string | undefined;
}

/** How far a client has read: everything of a flush, or of the next one up to a line. */
export interface Place {
  position: number;
  id: number;
}

export interface TailOptions {
  sql: Sql;
  log: Logger;
  /** Listens to channel obs_log: see listen of db.ts. */
  listen: (onNotify: (payload: string) => void, onListening: () => void) => { end(): Promise<void> };
  maxClients: number;
  /** What takes longer to open has been answered by then, that it took too long. */
  openTimeoutMs: number;
  onDrop?: () => void;
  onFailedRead?: () => void;
}

// How long a stream outlives the token that opened it, when that is revoked.
const checkMs = 5_000;

export interface OpenOptions {
  after?: Place | undefined;
  /** When the stream ends, in epoch milliseconds. */
  expiresAt: number;
  /** Whether who opened it still may have it: asked every few seconds. */
  mayStill: () => Promise<boolean>;
  /** Cuts the connection of a client that does not keep up, with all that waits to be sent. */
  disconnect: () => void;
}

export interface LogTail {
  /** A stream of server-sent events: lines that arrive from now on, or that arrived after a place. */
  open(orgId: number, filter: LogFilter, options: OpenOptions): Promise<ReadableStream<Uint8Array>>;
  clients(): number;
  /** Ends every stream; no new one is opened. */
  close(): Promise<void>;
}

interface Client {
  place: Place;
  isEnded: boolean;
  /** Hands over bytes, unless the client is too far behind. */
  send(bytes: Uint8Array): void;
  /** Resolves once there is room, or the client has ended. */
  room(): Promise<void>;
  end(): void;
}

interface Org {
  id: number;
  /** What the clients below have been sent everything of. */
  position: number;
  /** By filter: what is the same for all of them is evaluated, and written, once. */
  groups: Map<string, Set<Client>>;
  isDirty: boolean;
  isReading: boolean;
  /** While a query is under way: who comes now is not among those it is for. */
  reading: Promise<void> | undefined;
  /** How much is read at once, and for how many filters: less where that takes long. */
  readBytes: number;
  readFilters: number;
  /** The last of those that read what they missed, one after the other: many that come back must not take all connections. */
  catchingUp: Promise<unknown>;
}

interface Event extends Place {
  filters: number[];
  line: string;
}

// A client that has not taken this much is dropped. It comes back where it was, with Last-Event-ID.
const maxBufferedBytes = 1024 ** 2;
// Of lines that are read at once, whoever they are for: as much as takes no long time, and a whole flush at least.
const maxReadBytes = 4 * 1024 ** 2;
const slowReadMs = 1000;
// Each line is looked at for each filter.
const maxFilters = 250;
const gatherMs = 100;
// Of the clients that there may be: no org takes the last places of the others.
const orgShare = 0.8;
const heartbeatMs = 15_000;
// Notifications are not lost; should one be all the same, or its connection fall silent.
const lookAgainMs = 5000;

const wholeFlush = Number.MAX_SAFE_INTEGER;

/** The id of an event: position, or position-id where more of the flush is to come. */
export function formatPlace({ position, id }: Place): string {
  return id === wholeFlush ? String(position) : `${position}-${id}`;
}

export function parsePlace(text: string): Place | undefined {
  const match = /^(\d{1,15})(?:-(\d{1,15}))?$/.exec(text);
  return match ? { position: Number(match[1]), id: match[2] ? Number(match[2]) : wholeFlush } : undefined;
}

function closed(): Problem {
  return unavailable('draining', 'The service is about to stop. Try again shortly.');
}

function tooMany(detail: string): Problem {
  return new Problem(429, 'too_many_tails', detail, { headers: { 'Retry-After': '10' } });
}

// Of a flush that is read in part the rest is to come.
function lastWhole({ position, id }: Place): number {
  return id === wholeFlush ? position : position - 1;
}

function isAfter(a: Place, b: Place): boolean {
  return a.position > b.position || (a.position === b.position && a.id > b.id);
}

export function createLogTail(options: TailOptions): LogTail {
  const { sql, log, listen, maxClients, openTimeoutMs, onDrop, onFailedRead } = options;
  const orgs = new Map<number, Org>();
  const clients = new Set<Client>();
  let listener: { listening: Promise<void>; end(): Promise<void> } | undefined;
  // Clients, those that are being opened among them.
  let taken = 0;
  const takenBy = new Map<number, { clients: number; filters: Map<string, number> }>();
  let isClosed = false;

  const heartbeat = setInterval(() => {
    // Tells proxies that the connection lives, and the client how far it has come when nothing was for it.
    for (const client of clients) client.send(encode(`id: ${formatPlace(client.place)}\n:\n\n`));
  }, heartbeatMs).unref();
  const lookAgain = setInterval(() => wake('*'), lookAgainMs).unref();

  function startListening() {
    const begun = Promise.withResolvers<void>();
    const { end } = listen(wake, () => {
      begun.resolve();
      wake('*');
    });
    return { listening: begun.promise, end };
  }

  function wake(orgIds: string) {
    const woken = orgIds === '*' ? orgs.keys() : orgIds.split(',').map(Number);
    for (const id of woken) {
      const org = orgs.get(id);
      if (!org) continue;
      org.isDirty = true;
      if (!org.isReading) void readOn(org);
    }
  }

  async function readOn(org: Org) {
    org.isReading = true;
    while (org.isDirty && org.groups.size > 0) {
      org.isDirty = false;
      try {
        org.reading = readOnce(org);
        await org.reading;
        // What comes meanwhile is read, and written, together.
        await sleep(gatherMs);
      } catch (error) {
        onFailure(error, org);
        org.isDirty = true;
        await sleep(1000);
      }
    }
    org.isReading = false;
    if (org.groups.size === 0) orgs.delete(org.id);
  }

  function onFailure(error: unknown, org: Org) {
    onFailedRead?.();
    if (!isConnectionError(error))
      log.warn({ error, org_id: org.id }, 'what arrived could not be read for tails');
  }

  async function readOnce(org: Org) {
    try {
      const after = org.position;
      const groups = [...org.groups];
      let until: number | undefined;
      for (let i = 0; i < groups.length; ) {
        const some = groups.slice(i, i + org.readFilters);
        i += some.length;
        const filters = some.map(([filter]) => JSON.parse(filter));
        const found = await read(org, after, filters, until);
        until ??= found.until;
        if (until === after) return;
        for (const [n, [, group]] of some.entries())
          deliver(
            group,
            found.events.filter((event) => event.filters.includes(n)),
            { position: until, id: wholeFlush },
            found.purged,
          );
      }
      org.position = until ?? after;
      org.isDirty = true;
    } finally {
      org.reading = undefined;
    }
  }

  async function read(org: Org, after: number, filters: LogFilter[], atMost?: number) {
    const started = performance.now();
    const { readBytes, readFilters } = org;
    // Should it fail for being too much.
    org.readBytes = Math.max(1, readBytes / 4);
    org.readFilters = Math.max(1, Math.floor(readFilters / 2));
    const [head, ...rows] = await sql<
      {
        until: string;
        purged: string;
        position: string;
        id: string;
        filters: number[];
        line: string;
      }[]
    >`
      select until_position as until, purged_position as purged, position, id, filter_numbers as filters, line
      from api.tail_logs(
        ${org.id}::int, ${after}::bigint, ${JSON.stringify(filters)}::text::jsonb, ${Math.round(readBytes)}::int,
        ${atMost ?? null}::bigint
      )`;
    const factor = performance.now() - started > slowReadMs ? 0.5 : 2;
    org.readBytes = Math.min(maxReadBytes, Math.max(1, readBytes * factor));
    org.readFilters = Math.min(maxFilters, Math.max(1, Math.floor(readFilters * factor)));
    return {
      until: Number(head!.until),
      purged: Number(head!.purged),
      events: rows.map(
        (row): Event => ({
          position: Number(row.position),
          id: Number(row.id),
          filters: row.filters,
          line: row.line,
        }),
      ),
    };
  }

  function deliver(group: Iterable<Client>, events: Event[], until: Place, purged: number) {
    const first = events[0];
    let shared: Uint8Array | undefined;
    for (const client of group) {
      if (!isAfter(until, client.place)) continue;
      const isWhole = first !== undefined && isAfter(first, client.place);
      let bytes: Uint8Array | undefined;
      if (isWhole) {
        shared ??= encode(write(events));
        bytes = shared;
      } else {
        const rest = events.filter((event) => isAfter(event, client.place));
        if (rest.length > 0) bytes = encode(write(rest));
      }
      if (purged > lastWhole(client.place)) client.send(encode(gap));
      if (bytes) client.send(bytes);
      client.place = until;
    }
  }

  async function open(orgId: number, filter: LogFilter, options: OpenOptions) {
    const { after } = options;
    if (isClosed) throw closed();
    const key = JSON.stringify(filter);
    take(orgId, key);
    const deadline = Date.now() + openTimeoutMs;
    try {
      listener ??= startListening();
      // First: what arrives after the position that is read next has to be notified.
      await Promise.race([listener.listening, sleep(5000, undefined, { ref: false })]);
      const [row] = await sql<{ position: string }[]>`select api.get_log_position(${orgId}::int) as position`;
      if (isClosed) throw closed();
      if (Date.now() > deadline) throw unavailable('database_slow', 'The database does not answer in time.');
      const now = { position: Number(row!.position), id: wholeFlush };
      // A place that is still to come is of another database, or of this one before it was restored.
      const isForeign = after !== undefined && isAfter(after, now);
      const place = after && !isForeign ? after : now;
      return newStream(orgId, filter, options, place, now.position, isForeign);
    } catch (error) {
      release(orgId, key);
      throw error;
    }
  }

  function take(orgId: number, key: string) {
    const own = takenBy.get(orgId) ?? { clients: 0, filters: new Map<string, number>() };
    if (taken >= maxClients || own.clients >= Math.ceil(maxClients * orgShare))
      throw tooMany(`There are ${taken} live tails already, ${own.clients} of them of this org.`);
    if (own.filters.size >= maxFilters && !own.filters.has(key))
      throw tooMany(`There are live tails of this org with ${maxFilters} different filters already.`);
    taken++;
    own.clients++;
    adjust(own.filters, key, 1);
    takenBy.set(orgId, own);
  }

  function release(orgId: number, key: string) {
    const own = takenBy.get(orgId)!;
    taken--;
    own.clients--;
    adjust(own.filters, key, -1);
    if (own.clients === 0) takenBy.delete(orgId);
  }

  function newStream(
    orgId: number,
    filter: LogFilter,
    { expiresAt, mayStill, disconnect }: OpenOptions,
    place: Place,
    live: number,
    isGap: boolean,
  ): ReadableStream<Uint8Array> {
    const key = JSON.stringify(filter);
    let client: Client;
    let onRoom: (() => void) | undefined;
    // Beyond what a timer can wait for nobody stays.
    const expiry = setTimeout(() => client.end(), Math.min(expiresAt - Date.now(), 2 ** 31 - 1)).unref();
    const check = setInterval(async () => {
      if (!(await mayStill())) client.end();
    }, checkMs).unref();
    return new ReadableStream<Uint8Array>(
      {
        start(controller) {
          client = {
            place,
            isEnded: false,
            send(bytes) {
              if (client.isEnded) return;
              if (controller.desiredSize! > 0) controller.enqueue(bytes);
              else {
                onDrop?.();
                leave();
                disconnect();
              }
            },
            room() {
              if (client.isEnded || controller.desiredSize! > 0) return Promise.resolve();
              return new Promise((resolve) => {
                onRoom = resolve;
              });
            },
            end() {
              if (client.isEnded) return;
              leave();
              controller.close();
            },
          };
          clients.add(client);
          client.send(encode(`retry: 2000\nid: ${formatPlace(place)}\n\n${isGap ? gap : ''}`));
          void follow();
        },
        pull: () => onRoom?.(),
        cancel: () => leave(),
      },
      new ByteLengthQueuingStrategy({ highWaterMark: maxBufferedBytes }),
    );

    function leave() {
      if (client.isEnded) return;
      client.isEnded = true;
      clearTimeout(expiry);
      clearInterval(check);
      clients.delete(client);
      release(orgId, key);
      onRoom?.();
      const org = orgs.get(orgId);
      const group = org?.groups.get(key);
      if (group?.delete(client) && group.size === 0) org!.groups.delete(key);
      if (org?.groups.size === 0 && !org.isReading) orgs.delete(orgId);
    }

    // Reads by itself what it has missed, and joins the others where they are.
    async function follow() {
      while (!client.isEnded) {
        let org = orgs.get(orgId);
        if (!org) {
          org = {
            id: orgId,
            position: live,
            groups: new Map(),
            isDirty: false,
            isReading: false,
            reading: undefined,
            readBytes: maxReadBytes,
            readFilters: maxFilters,
            catchingUp: Promise.resolve(),
          };
          orgs.set(orgId, org);
        }
        if (org.reading) {
          await org.reading.catch(() => {});
          continue;
        }
        const position = lastWhole(client.place);
        if (position >= org.position) {
          const group = org.groups.get(key);
          if (group) group.add(client);
          else org.groups.set(key, new Set([client]));
          wake(String(orgId));
          return;
        }
        try {
          const turn = org.catchingUp.then(() =>
            client.isEnded ? undefined : read(org, position, [filter]),
          );
          org.catchingUp = turn.catch(() => {});
          const missed = await turn;
          if (!missed) return;
          const { until, purged, events } = missed;
          await client.room();
          deliver([client], events, { position: until, id: wholeFlush }, purged);
        } catch (error) {
          onFailure(error, org);
          await sleep(1000);
        }
      }
    }
  }

  return {
    open,
    clients: () => clients.size,
    async close() {
      isClosed = true;
      clearInterval(heartbeat);
      clearInterval(lookAgain);
      for (const client of clients) client.end();
      await listener?.end();
    },
  };
}

const gap = 'event: gap\ndata: {"reason":"what arrived meanwhile is no longer kept for tails"}\n\n';

const encoder = new TextEncoder();

function encode(text: string): Uint8Array {
  return encoder.encode(text);
}

function write(events: Event[]): string {
  return events.map((event) => `id: ${formatPlace(event)}\nevent: log\ndata: ${event.line}\n\n`).join('');
}
