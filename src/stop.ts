import type { Logger } from 'pino';

/**
 * Runs work once at SIGTERM or SIGINT and then ends the process: with 0, or with 1 when work fails or takes
 * longer than timeoutMs. A second signal does not shorten it.
 */
export function onStop(log: Logger, timeoutMs: number, work: () => Promise<void>): void {
  let isStopping = false;
  const stop = async (signal: string) => {
    if (isStopping) return;
    isStopping = true;
    log.info({ signal }, 'stopping');
    setTimeout(() => {
      log.error(`not stopped within ${timeoutMs} ms, giving up`);
      process.exit(1);
    }, timeoutMs).unref();
    try {
      await work();
      log.info('stopped');
      process.exit(0);
    } catch (error) {
      log.error({ error }, 'stopping failed');
      process.exit(1);
    }
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
}
