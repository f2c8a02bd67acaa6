// An optional Redis that API processes share limits and answers through. It holds nothing that must not be lost, and the service goes on without it.
import { Redis } from 'ioredis';
import type { Logger } from 'pino';

export interface SharedRedis {
  client: Redis;
  /** Whether it is worth asking: it is connected, and has not just failed to answer. */
  isUp(): boolean;
  /** To be told of a command that failed: it is left alone for a second. */
  failed(error: unknown): void;
  end(): void;
}

// What a request may wait for it: more than it ever takes, and little enough to be noticed by nobody when it hangs.
const commandTimeoutMs = 100;
const restMs = 1_000;

export function connectRedis(url: string, log: Logger): SharedRedis {
  const client = new Redis(url, {
    // What cannot be asked now is not asked later: nobody waits for it any more.
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    enableAutoPipelining: true,
    connectTimeout: 2_000,
    commandTimeout: commandTimeoutMs,
    retryStrategy: (attempts) => Math.min(2_000, 100 * attempts),
  });
  let restUntil = 0;
  let wasUp: boolean | undefined;

  function note(isUp: boolean, error?: unknown) {
    if (wasUp === isUp) return;
    wasUp = isUp;
    if (isUp) log.info('Redis is there: limits and hot answers are shared');
    else log.warn({ error }, 'Redis is not there: limits and hot answers are local to this process');
  }
  client.on('ready', () => {
    restUntil = 0;
    note(true);
  });
  // Without a listener it would end the process.
  client.on('error', (error) => note(false, error));
  client.on('close', () => note(false));

  return {
    client,
    isUp: () => client.status === 'ready' && performance.now() >= restUntil,
    failed(error) {
      restUntil = performance.now() + restMs;
      note(false, error);
      // It may have come back without the connection having been lost.
      setTimeout(() => {
        client.ping().then(
          // Of several that failed the last one says so: until then this process counts for itself.
          () => performance.now() >= restUntil && note(true),
          () => {},
        );
      }, restMs + 50).unref();
    },
    end: () => client.disconnect(),
  };
}
