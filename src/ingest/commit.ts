// Group commit: while one flush is under way the next gathers. There is no timer: an idle service writes at
// once, a busy one in large flushes. A request is answered after its transaction has committed.
import { arrayLiteral, type Queryable, type Session } from '../db.ts';
import { codeOf, Problem, toProblem, unavailable } from '../errors.ts';
import { formatTimestamp } from '../timestamp.ts';
import { encodeCopy, type Samples } from './samples.ts';

/** A request's Idempotency-Key: the same key with another body is refused. */
export interface IdempotencyKey {
  key: string;
  bodyHash: Buffer;
}

export interface CommitterOptions {
  /** Most samples that one flush takes, a single larger request apart. */
  flushSamples: number;
  /** Most samples that wait or are being written; a request past that is refused with 503. */
  bufferSamples: number;
  onFlush?: (flush: { samples: number; recorded: number; seconds: number }) => void;
}

export interface Committer {
  /**
   * Resolves when the samples of an org are committed ("recorded"), or were before under the same key ("replayed").
   * Rejects with a Problem: 503 when the buffer is full or the outcome is unknown because the database went
   * away, 422 when the key belongs to another body.
   */
  submit(orgId: number, samples: Samples, key?: IdempotencyKey): Promise<'recorded' | 'replayed'>;
  /** Samples accepted and not yet answered. */
  buffered(): number;
  /** Resolves when everything submitted has been answered. */
  drain(): Promise<void>;
}

interface Pending {
  orgId: number;
  samples: Samples;
  key: IdempotencyKey | undefined;
  resolve: (outcome: 'recorded' | 'replayed') => void;
  reject: (problem: Problem) => void;
}

type Verdict = 'claimed' | 'replayed' | 'mismatched';

// Below this one insert (half a millisecond) is quicker than the four round trips of a COPY in a transaction (one).
const insertLimit = 100;

/** sessions: as many flushes are under way at once. */
export function createCommitter(sessions: readonly Session[], options: CommitterOptions): Committer {
  const queue: Pending[] = [];
  const idle: (() => void)[] = [];
  const free = [...sessions];
  let buffered = 0;

  function submit(orgId: number, samples: Samples, key?: IdempotencyKey) {
    const count = samples.times.length;
    if (buffered > 0 && buffered + count > options.bufferSamples) {
      return Promise.reject(
        unavailable('ingest_buffer_full', 'More samples arrive than the database takes. Try again shortly.'),
      );
    }
    buffered += count;
    return new Promise<'recorded' | 'replayed'>((resolve, reject) => {
      queue.push({ orgId, samples, key, resolve, reject });
      const session = free.pop();
      if (session) void flushAll(session);
    });
  }

  async function flushAll(session: Session) {
    while (queue.length > 0) {
      const batch = takeBatch();
      const started = performance.now();
      const recorded = await flush(session, batch);
      const samples = countSamples(batch);
      buffered -= samples;
      options.onFlush?.({ samples, recorded, seconds: (performance.now() - started) / 1000 });
    }
    free.push(session);
    if (free.length === sessions.length) for (const resolve of idle.splice(0)) resolve();
  }

  function takeBatch(): Pending[] {
    let length = 0;
    let count = 0;
    while (length < queue.length) {
      count += queue[length]!.samples.times.length;
      if (length > 0 && count > options.flushSamples) break;
      length++;
    }
    return queue.splice(0, length);
  }

  // The number of samples recorded. Never rejects: every request of the batch is answered on its own.
  async function flush(session: Session, batch: Pending[]): Promise<number> {
    try {
      const verdicts = await write(session, batch);
      answer(batch, verdicts);
      return countSamples(claimed(batch, verdicts));
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

  async function write(session: Session, batch: Pending[]): Promise<Verdict[]> {
    const isKeyed = batch.some((pending) => pending.key);
    if (countSamples(batch) > insertLimit) {
      try {
        return await copy(session, batch, isKeyed);
      } catch (error) {
        // postgres.js does not hand out the error of a COPY that fails at its end; the insert gives the reason.
        if (codeOf(error) !== '25P02') throw error;
      }
    }
    if (!isKeyed) {
      await session.statement((sql) => insert(sql, batch));
      return batch.map(() => 'claimed');
    }
    return await session.transaction(async (transaction) => {
      const verdicts = await claim(transaction, batch);
      await insert(transaction, claimed(batch, verdicts));
      return verdicts;
    });
  }

  async function copy(session: Session, batch: Pending[], isKeyed: boolean): Promise<Verdict[]> {
    return await session.transaction(async (transaction) => {
      const verdicts = isKeyed ? await claim(transaction, batch) : batch.map(() => 'claimed' as const);
      const recorded = claimed(batch, verdicts);
      if (recorded.length === 0) return verdicts;
      const stream =
        await transaction`copy obs.sample (time, series_id, value) from stdin with (format binary)`.writable();
      await new Promise<void>((resolve, reject) => {
        stream.on('error', reject);
        stream.write(encodeCopy(recorded.map((pending) => pending.samples)), (error) =>
          error ? reject(error) : resolve(),
        );
      });
      stream.end();
      // The stream's own 'finish' proves nothing: after an error at the end of the COPY postgres.js emits it with
      // the next statement's success, or never. In a transaction that has failed this statement fails too.
      await transaction`select ${markLate(transaction, recorded)}`;
      return verdicts;
    });
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

// To whoever sends samples a database that is too slow is one that is away: the same request may succeed later.
function toIngestProblem(error: unknown): Problem {
  const problem = toProblem(error);
  if (problem.status !== 504) return problem;
  return unavailable(
    'database_slow',
    'The database does not take samples in time. Try again shortly.',
    error,
  );
}

function countSamples(batch: Pending[]): number {
  let count = 0;
  for (const pending of batch) count += pending.samples.times.length;
  return count;
}

function claimed(batch: Pending[], verdicts: Verdict[]): Pending[] {
  return batch.filter((_, i) => verdicts[i] === 'claimed');
}

function answer(batch: Pending[], verdicts: Verdict[]) {
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

async function claim(sql: Queryable, batch: Pending[]): Promise<Verdict[]> {
  const keyed = [...batch.entries()].filter(([, pending]) => pending.key);
  const keys = keyed.map(([, pending]) => pending.key!);
  const [row] = await sql<{ verdicts: Verdict[] }[]>`
    select to_jsonb(api.claim_idempotency_keys(
      ${arrayLiteral(keyed.map(([, pending]) => pending.orgId))}::text::int[],
      ${arrayLiteral(keys.map((key) => key.key))}::text::text[],
      ${arrayLiteral(keys.map((key) => `\\x${key.bodyHash.toString('hex')}`))}::text::bytea[],
      ${arrayLiteral(keyed.map(([, pending]) => pending.samples.times.length))}::text::int[]
    )) as verdicts`;
  const verdicts: Verdict[] = batch.map(() => 'claimed');
  for (const [j, [i]] of keyed.entries()) verdicts[i] = row!.verdicts[j]!;
  return verdicts;
}

async function insert(sql: Queryable, batch: Pending[]) {
  if (batch.length === 0) return;
  const list = (pick: (samples: Samples) => ArrayLike<number>) =>
    `{${batch.map((pending) => Array.prototype.join.call(pick(pending.samples), ',')).join(',')}}`;
  await sql`
    insert into obs.sample (time, series_id, value)
    select timestamptz 'epoch' + s.micros * interval '1 microsecond', s.series_id, s.value
    from unnest(
      ${list((samples) => samples.times)}::text::bigint[],
      ${list((samples) => samples.seriesIds)}::text::int[],
      ${list((samples) => samples.values)}::text::float8[]
    ) as s (micros, series_id, value)
    cross join ${markLate(sql, batch)}`;
}

// Tells the database for which times samples come: part of the insert that writes them, or right behind their COPY.
function markLate(sql: Queryable, batch: Pending[]) {
  const { orgIds, starts, ends } = touchedTimes(batch);
  return sql`api.mark_late(${orgIds}::text::int[], ${starts}::text::timestamptz[], ${ends}::text::timestamptz[])`;
}

const spanMicros = 300e6;

// The spans of five minutes, the width of the finest tier, that a batch has samples for; neighbours are joined.
// Which of them are late is for the database to say: its clock decides what has been rolled up.
function touchedTimes(batch: Pending[]): { orgIds: string; starts: string; ends: string } {
  const spansOf = new Map<number, Set<number>>();
  for (const { orgId, samples } of batch) {
    let spans = spansOf.get(orgId);
    if (!spans) {
      spans = new Set();
      spansOf.set(orgId, spans);
    }
    let last = Number.NaN;
    for (const time of samples.times) {
      const span = Math.floor(time / spanMicros);
      if (span !== last) spans.add(span);
      last = span;
    }
  }
  const times = { orgIds: [] as number[], starts: [] as string[], ends: [] as string[] };
  for (const [orgId, spans] of spansOf) {
    const sorted = [...spans].sort((a, b) => a - b);
    for (const [i, span] of sorted.entries()) {
      const end = formatTimestamp((span + 1) * spanMicros);
      if (i > 0 && sorted[i - 1] === span - 1) times.ends[times.ends.length - 1] = end;
      else {
        times.orgIds.push(orgId);
        times.starts.push(formatTimestamp(span * spanMicros));
        times.ends.push(end);
      }
    }
  }
  return {
    orgIds: arrayLiteral(times.orgIds),
    starts: arrayLiteral(times.starts),
    ends: arrayLiteral(times.ends),
  };
}
