// What a notification is called, and how its times and counts are written, for people to read.
import type { Message, MessageAlert, Severity } from './delivery.ts';

/** The status in brackets, what is wrong, and where: short enough for a subject or a lock screen, in one line. */
export function titleOf(message: Message): string {
  const isResolved = message.status === 'resolved';
  const meant = message.alerts.filter(({ status }) => (status === 'resolved') === isResolved);
  const alerts = meant.length > 0 ? meant : message.alerts;
  const names = [...new Set(alerts.map(({ name }) => name))];
  const services = [...new Set(alerts.map(({ service_name }) => service_name ?? '').filter(Boolean))];
  const more = names.length > 1 ? ` and ${names.length - 1} more` : '';
  const where = services.length > 0 ? ` (${clip(listed(services), 80)})` : '';
  return `${tagOf(message)} ${clip(names[0]!, 120)}${more}${where}`;
}

function tagOf({ kind, status, summary }: Message): string {
  if (kind === 'test') return '[TEST]';
  return status === 'resolved' ? '[RESOLVED]' : `[FIRING:${summary.firing}]`;
}

function listed(names: string[]): string {
  return names.length > 3 ? `${names.slice(0, 2).join(', ')} and ${names.length - 2} more` : names.join(', ');
}

/** In one line, of at most so many characters. */
export function clip(text: string, length: number): string {
  return cut(text.replace(/[\s\p{Cc}]+/gu, ' '), length);
}

/** The same, with its lines left as they are. */
export function clipLines(text: string, length: number): string {
  return cut(text.replace(/\r\n?/g, '\n').replace(/[^\P{Cc}\n]+/gu, ' '), length);
}

function cut(text: string, length: number): string {
  const whole = text.trim().toWellFormed();
  return whole.length <= length ? whole : `${whole.slice(0, length - 1).replace(/[\ud800-\udbff]$/, '')}…`;
}

export const marks: Record<Severity | 'resolved', string> = {
  critical: '🔴',
  warning: '🟠',
  info: '🔵',
  resolved: '🟢',
};
export const colours: Record<Severity | 'resolved', string> = {
  critical: '#c62828',
  warning: '#e07b00',
  info: '#1565c0',
  resolved: '#2e7d32',
};

export function lookOf(alert: MessageAlert): Severity | 'resolved' {
  return alert.status === 'resolved' ? 'resolved' : alert.severity;
}

/** Such as: critical, acknowledged, escalated. */
export function stateOf(alert: MessageAlert): string {
  return [alert.severity, alert.status, ...(alert.is_escalated ? ['escalated'] : [])].join(', ');
}

/** Such as: 2 firing, 1 resolved. */
export function countsOf({ summary: { firing, resolved } }: Message): string {
  const counts = [
    ...(firing > 0 ? [`${firing} firing`] : []),
    ...(resolved > 0 ? [`${resolved} resolved`] : []),
  ];
  return counts.join(', ') || 'no alerts';
}

export function instant(time: string): string {
  return `${new Date(time).toISOString().slice(0, 19).replace('T', ' ')} UTC`;
}

/** The two largest units of a duration, such as 1 d 4 h. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const units: [number, string][] = [
    [Math.floor(whole / 86_400), 'd'],
    [Math.floor(whole / 3600) % 24, 'h'],
    [Math.floor(whole / 60) % 60, 'min'],
    [whole % 60, 's'],
  ];
  const first = units.findIndex(([count]) => count > 0);
  if (first < 0) return '0 s';
  return units
    .slice(first, first + 2)
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(' ');
}
