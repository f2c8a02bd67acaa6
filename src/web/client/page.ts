// What every page does: times, buttons that change something, and staying up to date while it is open.
import { ApiError, ask, toast } from './api.ts';
import { showTimes } from './times.ts';

// What changes on its own without the overview changing: the last check of a service, say.
const refreshMs = 30_000;
const reconnectMs = [1_000, 2_000, 5_000, 10_000, 30_000];

document.addEventListener('click', (event) => {
  const button = (event.target as Element).closest<HTMLButtonElement>('button');
  if (!button) return;
  const { put, post, delete: remove, silence, confirm: question, done, next } = button.dataset;
  if ('themeSwitch' in button.dataset) return switchTheme();
  if ('copyLink' in button.dataset) return void copyLink();
  if (!(put ?? post ?? remove ?? silence)) return;
  if (question && !confirm(question)) return;
  void run(button, async () => {
    if (silence) {
      const endsAt = new Date(Date.now() + 3_600_000).toISOString();
      await ask('POST', '/api/v1/silences', {
        matchers: JSON.parse(silence),
        ends_at: endsAt,
        reason: 'silenced for an hour',
      });
      toast('Silenced for an hour: nobody is notified of it');
    } else {
      if (put) await ask('PUT', put, {});
      else if (post) await ask('POST', post, {});
      else if (remove) await ask('DELETE', remove);
      if (done) toast(done);
    }
    if (next) location.href = next;
    else await refresh();
  });
});

document.addEventListener('submit', (event) => {
  const form = event.target as HTMLFormElement;
  const { postForm, done } = form.dataset;
  if (!postForm) return;
  event.preventDefault();
  void run(form.querySelector('button')!, async () => {
    await ask('POST', postForm, Object.fromEntries(new FormData(form)));
    form.reset();
    if (done) toast(done);
    await refresh();
  });
});

async function run(button: HTMLButtonElement, work: () => Promise<void>) {
  button.disabled = true;
  try {
    await work();
  } catch (error) {
    toast(error instanceof ApiError ? error.message : String(error), true);
  } finally {
    button.disabled = false;
  }
}

function switchTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme
    ? root.dataset.theme === 'dark'
    : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = isDark ? 'light' : 'dark';
  localStorage.setItem('theme', root.dataset.theme);
  document.dispatchEvent(new CustomEvent('theme'));
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    toast('The link is copied');
  } catch {
    toast(location.href);
  }
}

// The page as it would be now: of it the live parts that differ take the place of those shown. The focus stays where it is.
let refreshing: Promise<void> | undefined;
let refreshedAt = Date.now();

/** What one under way was asked for before may not have what has changed since: then it is done again. */
export async function refresh(): Promise<void> {
  await refreshing;
  refreshing ??= load().finally(() => {
    refreshing = undefined;
  });
  return refreshing;
}

const lastSeen = new WeakMap<Element, string>();

/** A part as the server wrote it, with times in UTC. */
function written(part: Element): string {
  const copy = part.cloneNode(true) as Element;
  for (const time of copy.querySelectorAll('time')) time.textContent = time.title;
  return copy.innerHTML;
}

// As it was served.
for (const part of document.querySelectorAll('[data-live]')) lastSeen.set(part, written(part));

async function load() {
  if (!document.querySelector('[data-live]')) return;
  let text: string;
  try {
    const answer = await fetch(location.href, { headers: { Accept: 'text/html' } });
    if (!answer.ok) return;
    text = await answer.text();
  } catch {
    // The service is away: what is shown stays.
    return;
  }
  const now = new DOMParser().parseFromString(text, 'text/html');
  refreshedAt = Date.now();
  // Signed out meanwhile.
  if (!now.querySelector('[data-live-state]')) return location.reload();
  // Somebody has arranged its panels otherwise.
  const layoutOf = (page: Document) => page.querySelector('[data-layout]')?.getAttribute('data-layout');
  if (layoutOf(now) && layoutOf(now) !== layoutOf(document)) return location.reload();
  const labelOf = (figure: Element) => figure.querySelector('.plot')?.getAttribute('aria-label');
  // Of one name there may be several: then they are told apart by their order.
  const figures = (page: Document) =>
    Map.groupBy(page.querySelectorAll<HTMLElement>('figure[data-chart]'), labelOf);
  const fresh = figures(now);
  for (const [label, shown] of figures(document))
    for (const [i, figure] of shown.entries()) {
      const spec = fresh.get(label)?.[i]?.getAttribute('data-chart');
      if (!spec || spec === figure.dataset.chart) continue;
      figure.dataset.chart = spec;
      figure.dispatchEvent(new CustomEvent('chart', { bubbles: true }));
    }
  for (const shown of document.querySelectorAll('[data-live]')) {
    const fresh = now.querySelector(`[data-live="${CSS.escape(shown.getAttribute('data-live')!)}"]`);
    if (!fresh || lastSeen.get(shown) === fresh.innerHTML) continue;
    // What is typed, or looked at more closely, is not taken away.
    if (shown.querySelector('input:focus, textarea:focus, select:focus, details[open]')) continue;
    if (shown.contains(document.activeElement) && document.activeElement !== document.body) {
      const label = document.activeElement!.getAttribute('aria-label');
      const href = document.activeElement!.getAttribute('href');
      replace(shown, fresh);
      // The focus stays where it was, if that is there still.
      [...shown.querySelectorAll<HTMLElement>('a, button')]
        .find((one) =>
          label
            ? one.getAttribute('aria-label') === label
            : href !== null && one.getAttribute('href') === href,
        )
        ?.focus();
    } else replace(shown, fresh);
  }
}

function replace(shown: Element, fresh: Element) {
  lastSeen.set(shown, fresh.innerHTML);
  shown.replaceChildren(...fresh.childNodes);
  showTimes(shown);
}

let source: EventSource | undefined;
let wasImportant: string | undefined;

/** Of an overview what is worth to show the page anew at once: not that a probe took longer than the one before. */
function importantOf(overview: string): string {
  const { avg_response_time_ms: _, uptime_percentage: __, trends: ___, ...rest } = JSON.parse(overview);
  return JSON.stringify(rest);
}

function follow(attempt = 0) {
  const state = document.querySelector<HTMLElement>('[data-live-state]');
  if (!state || source) return;
  const say = (name: string, text: string) => {
    if (state.dataset.liveState === name) return;
    state.dataset.liveState = name;
    state.querySelector('.live-text')!.textContent = text;
  };
  const opened = new EventSource('/api/v1/overview/stream');
  source = opened;
  opened.addEventListener('open', () => {
    attempt = 0;
    say('on', 'live');
  });
  opened.addEventListener('overview', ({ data }) => {
    const important = importantOf(data);
    const isKnown = important === wasImportant;
    // The page was rendered a moment ago with the first.
    const isFirst = wasImportant === undefined && Date.now() - refreshedAt < 2_000;
    wasImportant = important;
    if (!isKnown && !isFirst) void refresh();
  });
  opened.addEventListener('error', () => {
    say('off', 'not connected');
    // It tries again by itself, unless it was refused.
    if (opened.readyState !== EventSource.CLOSED || source !== opened) return;
    source = undefined;
    setTimeout(
      () => {
        if (document.visibilityState === 'visible') follow(attempt + 1);
      },
      reconnectMs[Math.min(attempt, reconnectMs.length - 1)],
    );
  });
}

addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible') {
    follow();
    if (Date.now() - refreshedAt > refreshMs) void refresh();
    return;
  }
  // A browser has six connections for all tabs of a site: those that nobody sees leave theirs to others.
  source?.close();
  source = undefined;
});
setInterval(() => {
  if (document.visibilityState === 'visible' && Date.now() - refreshedAt >= refreshMs) void refresh();
}, refreshMs / 2);
if (document.visibilityState === 'visible') follow();
