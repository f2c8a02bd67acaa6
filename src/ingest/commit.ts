// Group commit: while one flush is under way the next gathers. There is no timer: an idle service writes at
// once, a busy one in large flushes. A request is answered after its transaction has committed.
import Denque from 'denque';
import { arrayLiteral, type Queryable, type Session } from '../db.ts';
import { codeOf, Problem, toProblem, unavailable } from '../errors.ts';
import { adjust, createCompany } from '../turns.ts';

/** A request's Idempotency-Key: the same key with another body is refused. */
export interface IdempotencyKey {
  key: string;
  bodyHash: Buffer;
}

/** Rows of one org, those of a request. */
export interface OrgRows<Rows> {
  orgId: number;
  rows: Rows;
}

type Statement = PromiseLike<unknown>;

/** How rows of a kind, samples or log lines, are measured and written. */
export interface Writer<Rows> {
  /** How many there are. */
  count(rows: Rows): number;
  /** What they take of a flush and of the buffer, in the unit of the limits. */
  weigh(rows: Rows): number;
  /** What has to be known before they are written, if anything. */
  prepare?(parts: readonly OrgRows<Rows>[]): Promise<void>;
  /** Writes them in one statement. */
  insert(sql: Queryable, parts: readonly OrgRows<Rows>[]): Statement;
  /** Writes them with COPY, to be followed by finish. */
  copy(sql: Queryable, parts: readonly OrgRows<Rows>[]): Promise<void>;
  finish(sql: Queryable, parts: readonly OrgRows<Rows>[]): Statement;
}

export interface CommitterOptions {
  /** Rows of an org that were committed. */
  onRecorded?: (orgId: number, rows: number) => void;
  /** Most that one flush takes, a single larger request apart. */
  flushLimit: number;
  /** Most that waits or is being written; a request past that is refused with 503. */
  bufferLimit: number;
  onFlush?: (flush: { rows: number; recorded: number; seconds: number }) => void;
}

export interface Committer<Rows> {
  /**
   * Resolves when the rows of an org are committed ("recorded"), or were before under the same key ("replayed").
   * Rejects with a Problem: 503 when the buffer is full or the outcome is unknown because the database went
   * away, 422 when the key belongs to another body.
   */
  submit(orgId: number, rows: Rows, key?: IdempotencyKey): Promise<'recorded' | 'replayed'>;
  /** What is accepted and not yet answered weighs. */
  buffered(): number;
  /** Resolves when everything submitted has been answered. */
  drain(): Promise<void>;
}

interface Pending<Rows> extends OrgRows<Rows> {
  key: IdempotencyKey | undefined;
  resolve: (outcome: 'recorded' | 'replayed') => void;
  reject: (problem: Problem) => void;
}

type Verdict = 'claimed' | 'replayed' | 'mismatched';

// Of the buffer: no org takes the last room of the others.
const orgShare = 0.8;

// Of a flush's limit, while several orgs are at work: each flush is over sooner, and the next has all of them again.
const sharedFlush = 0.25;

// Below this one insert (half a millisecond) is quicker than the four round trips of a COPY in a transaction (one).
const insertLimit = 100;

// Of two that make a table's next chunk at the same time; nothing of this one was committed.
const deadlock = '40P01';

/** sessions: as many flushes are under way at once. */
export function createCommitter<Rows>(
  sessions: readonly Session[],
  writer: Writer<Rows>,
  options: CommitterOptions,
): Committer<Rows> {
  // By org, the one whose turn it is first.
  const queues = new Map<number, Denque<Pending<Rows>>>();
  const idle: (() => void)[] = [];
  const free = [...sessions];
  let buffered = 0;
  const bufferedOf = new Map<number, number>();
  const company = createCompany();
  // In how many of the flushes under way an org is.
  const flushing = new Map<number, number>();

  function submit(orgId: number, rows: Rows, key?: IdempotencyKey) {
    const weight = writer.weigh(rows);
    const own = bufferedOf.get(orgId) ?? 0;
    const isFull = (taken: number, limit: number) => taken > 0 && taken + weight > limit;
    if (isFull(buffered, options.bufferLimit) || isFull(own, options.bufferLimit * orgShare)) {
      return Promise.reject(
        unavailable('ingest_buffer_full', 'More arrives than the database takes. Try again shortly.'),
      );
    }
    buffered += weight;
    adjust(bufferedOf, orgId, weight);
    company.saw(orgId);
    return new Promise<'recorded' | 'replayed'>((resolve, reject) => {
      let queue = queues.get(orgId);
      if (!queue) {
        queue = new Denque();
        queues.set(orgId, queue);
      }
      queue.push({ orgId, rows, key, resolve, reject });
      if (free.length > 0 && mayFlush(orgId)) void flushAll(free.pop()!);
    });
  }

  async function flushAll(session: Session) {
    for (let batch = takeBatch(); batch.length > 0; batch = takeBatch()) {
      const started = performance.now();
      const orgIds = new Set(batch.map(({ orgId }) => orgId));
      for (const orgId of orgIds) adjust(flushing, orgId, 1);
      const recorded = await flush(session, batch);
      for (const orgId of orgIds) adjust(flushing, orgId, -1);
      for (const { orgId, rows } of batch) release(orgId, writer.weigh(rows));
      options.onFlush?.({
        rows: countRows(batch),
        recorded,
        seconds: (performance.now() - started) / 1000,
      });
    }
    free.push(session);
    if (free.length === sessions.length) for (const resolve of idle.splice(0)) resolve();
  }

  function release(orgId: number, weight: number) {
    buffered -= weight;
    adjust(bufferedOf, orgId, -weight);
  }

  // While others are there an org leaves one session to them: they do not wait for its flush to end.
  function mayFlush(orgId: number): boolean {
    return (
      sessions.length === 1 || (flushing.get(orgId) ?? 0) < sessions.length - 1 || !company.hasOthers(orgId)
    );
  }

  // A request of each org in turn: one that sends very much waits for itself alone.
  function takeBatch(): Pending<Rows>[] {
    const batch: Pending<Rows>[] = [];
    let weight = 0;
    for (const [orgId, queue] of queues) {
      if (!mayFlush(orgId)) continue;
      weight += writer.weigh(queue.peekFront()!.rows);
      const limit = options.flushLimit * (company.hasOthers(orgId) ? sharedFlush : 1);
      if (batch.length > 0 && weight > limit) break;
      batch.push(queue.shift()!);
      // Behind the others, where this loop comes to it again.
      queues.delete(orgId);
      if (queue.length > 0) queues.set(orgId, queue);
    }
    return batch;
  }

  // The number of rows recorded. Never rejects: every request of the batch is answered on its own.
  async function flush(session: Session, batch: Pending<Rows>[]): Promise<number> {
    try {
      const verdicts = await write(session, batch).catch((error) => {
        if (codeOf(error) === deadlock) return write(session, batch);
        throw error;
      });
      answer(batch, verdicts);
      for (const { orgId, rows } of claimed(batch, verdicts)) options.onRecorded?.(orgId, writer.count(rows));
      return countRows(claimed(batch, verdicts));
    } catch (error) {
      if (batch.length === 1 || !isFaultOfOne(error)) {
        for (const pending of batch) pending.reject(toIngestProblem(error));
        return 0;
      }
      // What one request does wrong must not fail those that happened to share its flush.
      let recorded = 0;
      for (const pending of batch) recorded += await flush(session, [pending]);
      return recorded;
    }
  }

  async function write(session: Session, batch: Pending<Rows>[]): Promise<Verdict[]> {
    await writer.prepare?.(batch);
    const isKeyed = batch.some((pending) => pending.key);
    if (countRows(batch) > insertLimit) {
      try {
        return await inTransaction(session, batch, isKeyed, writer.copy, writer.finish);
      } catch (error) {
        // postgres.js does not hand out the error of a COPY that fails at its end; the insert gives the reason.
        if (codeOf(error) !== '25P02') throw error;
      }
    }
    if (isKeyed) return await inTransaction(session, batch, isKeyed, async () => {}, writer.insert);
    await session.statement((sql) => writer.insert(sql, batch));
    return batch.map(() => 'claimed');
  }

  function inTransaction(
    session: Session,
    batch: Pending<Rows>[],
    isKeyed: boolean,
    copy: Writer<Rows>['copy'],
    last: Writer<Rows>['insert'],
  ): Promise<Verdict[]> {
    return session.transaction(
      async (sql) => {
        const verdicts: Verdict[] = isKeyed
          ? await claim(sql, batch, (pending) => writer.count(pending.rows))
          : batch.map(() => 'claimed');
        const recorded = claimed(batch, verdicts);
        if (recorded.length > 0) await copy(sql, recorded);
        return verdicts;
      },
      (sql, verdicts) => {
        const recorded = claimed(batch, verdicts);
        return recorded.length > 0 ? last(sql, recorded) : undefined;
      },
    );
  }

  function countRows(batch: Pending<Rows>[]): number {
    let count = 0;
    for (const { rows } of batch) count += writer.count(rows);
    return count;
  }

  async function drain() {
    if (free.length < sessions.length) await new Promise<void>((resolve) => idle.push(resolve));
  }

  return { submit, drain, buffered: () => buffered };
}

// A value that PostgreSQL refuses: the fault of one request, while a timeout or a full disk concern the whole flush.
function isFaultOfOne(error: unknown): boolean {
  return /^(22|23)...$/.test(codeOf(error));
}

// To whoever sends data a database that is too slow is one that is away: the same request may succeed later.
function toIngestProblem(error: unknown): Problem {
  const problem = toProblem(error);
  if (problem.status !== 504) return problem;
  return unavailable('database_slow', 'The database does not take data in time. Try again shortly.', error);
}

function claimed<Rows>(batch: Pending<Rows>[], verdicts: Verdict[]): Pending<Rows>[] {
  return batch.filter((_, i) => verdicts[i] === 'claimed');
}

function answer(batch: Pending<unknown>[], verdicts: Verdict[]) {
  for (const [i, pending] of batch.entries()) {
    if (verdicts[i] === 'claimed') pending.resolve('recorded');
    else if (verdicts[i] === 'replayed') pending.resolve('replayed');
    else {
      pending.reject(
        new Problem(
          422,
          'idempotency_key_reused',
          'This Idempotency-Key was used within the last day with another body.',
        ),
      );
    }
  }
}

async function claim<Rows>(
  sql: Queryable,
  batch: Pending<Rows>[],
  count: (pending: Pending<Rows>) => number,
): Promise<Verdict[]> {
  const keyed = [...batch.entries()].filter(([, pending]) => pending.key);
  const keys = keyed.map(([, pending]) => pending.key!);
  const [row] = await sql<{ verdicts: Verdict[] }[]>`
    select to_jsonb(api.claim_idempotency_keys(
      ${arrayLiteral(keyed.map(([, pending]) => pending.orgId))}::text::int[],
      ${arrayLiteral(keys.map((key) => key.key))}::text::text[],
      ${arrayLiteral(keys.map((key) => `\\x${key.bodyHash.toString('hex')}`))}::text::bytea[],
      ${arrayLiteral(keyed.map(([, pending]) => count(pending)))}::text::int[]
    )) as verdicts`;
  const verdicts: Verdict[] = batch.map(() => 'claimed');
  for (const [j, [i]] of keyed.entries()) verdicts[i] = row!.verdicts[j]!;
  return verdicts;
}
