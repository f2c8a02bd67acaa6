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
    hooks: { streamWrite: withoutSecrets },
  });
}

// Whatever found its way into a line, from the path that a client chose to the message of a library's error.
const secrets: [RegExp, string][] = [
  [/(?<![\w-])eyJ[\w-]{5,4000}\.[\w-]*\.[\w-]*/g, '[JWT]'],
  [/\bobs_[0-9a-f]{8,}/g, '[API token]'],
  [/\b(bearer|basic)(\s+|%20)[^\s"\\]{8,}/gi, '$1 [credentials]'],
  [/(\b[a-z][a-z+]{0,20}:\/\/[^\s"/:@]*:)[^\s"/@]+@/gi, '$1[password]@'],
];

/** A line without what must not be in it: tokens, credentials, passwords of URLs. */
export function withoutSecrets(line: string): string {
  return secrets.reduce((text, [pattern, shown]) => text.replace(pattern, shown), line);
}
