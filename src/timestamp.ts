// Instants of requests: RFC 3339 text or epoch milliseconds, kept to the microsecond like PostgreSQL's.

const pattern =
  /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))$/;

const daysInMonth = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/**
 * Microseconds since 1970 of RFC 3339 text (with an offset or Z; digits past the sixth decimal are cut) or of a
 * number of epoch milliseconds. NaN when it is neither, or not within 285 years of 1970: beyond, a number does not
 * hold microseconds.
 */
export function parseTimestamp(value: unknown): number {
  if (typeof value === 'number') {
    return inReach(Math.round(value * 1000));
  }
  if (typeof value !== 'string') return Number.NaN;
  const match = pattern.exec(value);
  if (!match) return Number.NaN;
  const [, year, month, day, hour, minute, second, fraction, sign, offsetHour, offsetMinute] = match;
  const y = Number(year);
  const m = Number(month);
  const d = Number(day);
  if (y < 1 || m < 1 || m > 12 || d < 1 || d > daysInMonth[m - 1]!) return Number.NaN;
  if (m === 2 && d === 29 && (y % 4 !== 0 || (y % 100 === 0 && y % 400 !== 0))) return Number.NaN;
  // 60 is a leap second; like PostgreSQL we take it for the first second of the next minute.
  if (Number(hour) > 23 || Number(minute) > 59 || Number(second) > 60) return Number.NaN;
  if (sign && (Number(offsetHour) > 23 || Number(offsetMinute) > 59)) return Number.NaN;
  const midnight = new Date(0).setUTCFullYear(y, m - 1, d);
  const offset = sign ? (sign === '-' ? -1 : 1) * (Number(offsetHour) * 60 + Number(offsetMinute)) : 0;
  const seconds = (Number(hour) * 60 + Number(minute) - offset) * 60 + Number(second);
  const micros = fraction ? Number(fraction.slice(0, 6).padEnd(6, '0')) : 0;
  return inReach((midnight / 1000 + seconds) * 1e6 + micros);
}

function inReach(micros: number): number {
  return Number.isSafeInteger(micros) ? micros : Number.NaN;
}

/** RFC 3339 text in UTC, to the microsecond, of microseconds since 1970. */
export function formatTimestamp(micros: number): string {
  const seconds = Math.floor(micros / 1e6);
  const fraction = String(micros - seconds * 1e6).padStart(6, '0');
  return `${new Date(seconds * 1000).toISOString().slice(0, 19)}.${fraction}Z`;
}
