// Instants in the viewer's time zone; UTC stays there on hover.
const full = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });
const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });

export function localTime(ms: number): string {
  return full.format(ms);
}

/** Writes the times below an element. */
export function showTimes(root: ParentNode): void {
  for (const element of root.querySelectorAll<HTMLTimeElement>('time[datetime]')) {
    const ms = Date.parse(element.dateTime);
    const { format } = element.dataset;
    const text = format === 'time' ? clock.format(ms) : format === 'relative' ? ago(ms) : full.format(ms);
    if (element.textContent !== text) element.textContent = text;
  }
}

function ago(ms: number): string {
  const seconds = Math.round((ms - Date.now()) / 1000);
  if (Math.abs(seconds) < 90) return relative.format(seconds, 'second');
  if (Math.abs(seconds) < 5400) return relative.format(Math.round(seconds / 60), 'minute');
  if (Math.abs(seconds) < 129_600) return relative.format(Math.round(seconds / 3600), 'hour');
  return relative.format(Math.round(seconds / 86_400), 'day');
}

showTimes(document);
