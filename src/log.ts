import { type Logger, pino, stdSerializers } from 'pino';
import type { Config } from './config.ts';

/** Structured log lines, one JSON object each, on standard output. */
export function createLog(config: Config, processName: string): Logger {
  return pino({
    level: config.logLevel,
    base: { process: processName, pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (level) => ({ level }) },
    serializers: { error: stdSerializers.err },
  });
}
