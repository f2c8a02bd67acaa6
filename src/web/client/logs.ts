// The live tail: lines above those that were found, as they arrive, the newest first.
import { localTime } from './times.ts';

// A tab that is left open does not grow.
const mostLines = 500;
const button = document.querySelector<HTMLButtonElement>('[data-tail]')!;
const place = document.querySelector<HTMLElement>('[data-tail-lines]')!;
let source: EventSource | undefined;
let waiting: Line[] = [];

interface Line {
  id: string;
  timestamp: string;
  level: string;
  service_name: string;
  message: string;
  metadata: Record<string, unknown>;
  trace_id: string | null;
}

button.addEventListener('click', () => {
  if (source) return stop('Live tail');
  button.setAttribute('aria-pressed', 'true');
  button.textContent = 'Stop the tail';
  place.hidden = false;
  place.replaceChildren(note('Waiting for lines…'));
  source = new EventSource(button.dataset.tail!);
  source.addEventListener('log', (event) => {
    if (waiting.length === 0) requestAnimationFrame(show);
    waiting.push(JSON.parse((event as MessageEvent<string>).data));
    // Of more than can be shown the newest count.
    if (waiting.length > mostLines) waiting = waiting.slice(-mostLines);
  });
  source.addEventListener('gap', () =>
    place.prepend(note('Lines that arrived meanwhile are not at hand any more.')),
  );
  source.addEventListener('error', () => {
    if (source?.readyState === EventSource.CLOSED) stop('The tail was refused: try again');
  });
});

function stop(text: string) {
  source?.close();
  source = undefined;
  button.setAttribute('aria-pressed', 'false');
  button.textContent = text;
}

function show() {
  const lines = waiting;
  waiting = [];
  place.querySelector('.note')?.remove();
  place.prepend(...lines.reverse().map(row));
  while (place.childElementCount > mostLines) place.lastElementChild!.remove();
}

function note(text: string): HTMLElement {
  const element = document.createElement('p');
  element.className = 'hint note';
  element.textContent = text;
  return element;
}

// As pages/logs.ts has them.
function row({ id, timestamp, level, service_name, message, metadata, trace_id }: Line): HTMLElement {
  const element = document.createElement('details');
  element.className = 'line';
  const summary = document.createElement('summary');
  const time = document.createElement('time');
  time.dateTime = timestamp;
  time.title = `${timestamp} UTC`;
  time.textContent = localTime(Date.parse(timestamp));
  summary.append(
    time,
    ' ',
    span(`level ${level}`, level),
    ' ',
    span('from', service_name),
    ' ',
    span('message', message),
  );
  const pairs = document.createElement('dl');
  pairs.className = 'pairs';
  for (const [key, value] of Object.entries({ ...metadata, ...(trace_id ? { trace_id } : {}) })) {
    const name = document.createElement('dt');
    name.textContent = key;
    const text = document.createElement('dd');
    text.textContent = typeof value === 'string' ? value : JSON.stringify(value);
    pairs.append(name, text);
  }
  const around = document.createElement('a');
  around.href = `/logs/${encodeURIComponent(service_name)}/${encodeURIComponent(id)}#chosen`;
  around.textContent = 'What was around it';
  const last = document.createElement('p');
  last.append(around);
  element.append(summary, pairs, last);
  return element;
}

function span(kind: string, text: string): HTMLElement {
  const element = document.createElement('span');
  element.className = kind;
  element.textContent = text;
  return element;
}
