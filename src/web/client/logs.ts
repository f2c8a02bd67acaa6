// The live tail: lines above those that were found, as they arrive, the newest first.
import { localTime } from './times.ts';

// A tab that is left open does not grow.
const mostLines = 500;
const button = document.querySelector<HTMLButtonElement>('[data-tail]')!;
const place = document.querySelector<HTMLElement>('[data-tail-lines]')!;
let source: EventSource | undefined;
let waiting: Line[] = [];

interface Line {
  timestamp: string;
  level: string;
  service_name: string;
  message: string;
  metadata: Record<string, unknown>;
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

function row({ timestamp, level, service_name, message }: Line): HTMLElement {
  const element = document.createElement('div');
  element.className = 'line';
  const time = document.createElement('time');
  time.dateTime = timestamp;
  time.title = `${timestamp} UTC`;
  time.textContent = localTime(Date.parse(timestamp));
  element.append(
    time,
    ' ',
    span(`level ${level}`, level),
    ' ',
    span('from', service_name),
    ' ',
    span('message', message),
  );
  return element;
}

function span(kind: string, text: string): HTMLElement {
  const element = document.createElement('span');
  element.className = kind;
  element.textContent = text;
  return element;
}
