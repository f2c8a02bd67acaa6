// Answers that many ask for again and again, kept for a few seconds: in process, and in Redis where there is one. Each belongs to one org.
import { createHash, randomUUID } from 'node:crypto';
import { promisify } from 'node:util';
import zlib from 'node:zlib';
import type { Context } from 'hono';
import { parseAccept } from 'hono/utils/accept';
import { LRUCache } from 'lru-cache';
import type { AuthEnv } from './auth.ts';
import type { SharedRedis } from './redis.ts';

export interface HotAnswers {
  /**
   * Answers with what compute gives as JSON text, or gave within the last moments for the same org and key; 304 where the client has it already.
   * key tells answers of one org apart: the endpoint and all that its answer depends on.
   */
  respond(c: Context<AuthEnv>, key: string, compute: () => Promise<string>): Promise<Response>;
  /** The same answer, for who makes something of it. */
  get(orgId: number, key: string, compute: () => Promise<string>): Promise<Answer>;
  /** Forgets an org's answers: to be called once something of it has been changed. */
  forget(orgId: number): Promise<void>;
}

export interface Answer {
  body: string;
  /** The same in UTF-8, and compressed once somebody takes it so: to do that anew for each who asks is most of what a large answer costs. */
  bytes: Uint8Array;
  gzipped?: Promise<Uint8Array>;
  etag: string;
}

const gzip = promisify<Uint8Array, Buffer>(zlib.gzip);
/** What is smaller would be no less compressed. */
export const minCompressedBytes = 1024;

// An org's answers are computed anew once its generation is another. Longer than any answer lives.
const generationSeconds = 600;

/** keepMs 0: each is computed. */
export function createHotAnswers(keepMs: number, redis?: SharedRedis): HotAnswers {
  const generations = new LRUCache<number, number>({ max: 10_000 });
  const answers = new LRUCache<string, Answer, () => Promise<string>>({
    max: 10_000,
    maxSize: 64 * 1024 ** 2,
    sizeCalculation: ({ body, bytes }) => 2 * body.length + 2 * bytes.length + 100,
    ttl: Math.max(1, keepMs),
    // Who waits for one that has to make room has it all the same.
    ignoreFetchAbort: true,
    // Those that ask at once wait for one answer.
    fetchMethod: async (key, _stale, { context: compute }) => {
      const shared = await ask(key);
      if (shared) return shared;
      const answer = answerOf(await compute());
      await tell(key, answer);
      return answer;
    },
  });

  // Behind its ETag, by which whatever else is there under the key is known to be none.
  async function ask(key: string): Promise<Answer | undefined> {
    const stored = (await attempt((client) => client.get(key))) ?? '';
    const end = stored.indexOf(' ');
    const answer = answerOf(stored.slice(end + 1));
    return end > 0 && stored.slice(0, end) === answer.etag ? answer : undefined;
  }

  async function tell(key: string, { etag, body }: Answer) {
    await attempt((client) => client.set(key, `${etag} ${body}`, 'PX', keepMs));
  }

  async function attempt<T>(work: (client: SharedRedis['client']) => Promise<T>): Promise<T | undefined> {
    if (!redis?.isUp()) return undefined;
    try {
      return await work(redis.client);
    } catch (error) {
      redis.failed(error);
      return undefined;
    }
  }

  async function keyOf(orgId: number, key: string): Promise<string> {
    // Of processes that share them the one that changes something says so to all.
    const name = generationKey(orgId);
    const shared = await attempt(async (client) => {
      // Random, not counted: a Redis that has lost it begins with none that has been.
      const known = await client.get(name);
      if (known !== null) return known;
      await client.set(name, randomUUID(), 'EX', generationSeconds, 'NX');
      return client.get(name);
    });
    const generation = shared ?? `local-${generations.get(orgId) ?? 0}`;
    return `obs:answer:${orgId}:${generation}:${key}`;
  }

  async function get(orgId: number, key: string, compute: () => Promise<string>): Promise<Answer> {
    if (keepMs === 0) return answerOf(await compute());
    return (await answers.fetch(await keyOf(orgId, key), { context: compute }))!;
  }

  return {
    get,
    async respond(c, key, compute) {
      const answer = await get(c.var.principal.orgId, key, compute);
      const { bytes, etag } = answer;
      const headers = {
        ETag: etag,
        // It may be kept, but has to be asked for again: it is another answer for another token, and a moment later.
        'Cache-Control': 'private, no-cache',
        Vary: 'Authorization, Cookie, Accept-Encoding',
      };
      if (hasEtag(c.req.header('If-None-Match'), etag)) return c.body(null, 304, headers);
      const send = (sent: Uint8Array, more = {}) =>
        c.body(streamOf(sent), 200, {
          ...headers,
          'Content-Type': 'application/json',
          'Content-Length': String(sent.length),
          ...more,
        });
      if (bytes.length < minCompressedBytes || !takesGzip(c.req.header('Accept-Encoding')))
        return send(bytes);
      answer.gzipped ??= gzip(bytes);
      return send(await answer.gzipped, { 'Content-Encoding': 'gzip' });
    },
    async forget(orgId) {
      generations.set(orgId, (generations.get(orgId) ?? 0) + 1);
      await attempt((client) => client.set(generationKey(orgId), randomUUID(), 'EX', generationSeconds));
    },
  };
}

function generationKey(orgId: number): string {
  return `obs:generation:${orgId}`;
}

function answerOf(body: string): Answer {
  const bytes = new TextEncoder().encode(body);
  // Weak: it may be compressed on its way.
  return { body, bytes, etag: `W/"${createHash('sha256').update(bytes).digest('base64url').slice(0, 22)}"` };
}

function takesGzip(header = ''): boolean {
  return parseAccept(header).some(({ type, q }) => type.toLowerCase() === 'gzip' && q > 0);
}

/** A response would copy bytes, and those copies are dear to collect. */
function streamOf(bytes: Uint8Array): ReadableStream {
  return new ReadableStream({
    start(controller) {
      controller.enqueue(bytes);
      controller.close();
    },
  });
}

function hasEtag(header: string | undefined, etag: string): boolean {
  if (!header) return false;
  return header
    .split(',')
    .some((given) => given.trim() === '*' || `W/${given.trim().replace(/^W\//, '')}` === etag);
}
