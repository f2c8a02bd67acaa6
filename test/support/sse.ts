// A client of server-sent events, as a browser's EventSource reads them.
import { setTimeout as sleep } from 'node:timers/promises';

export interface ServerSentEvent {
  /** Of the event, or of the last one before that had any. */
  id: string;
  event: string;
  data: string;
}

export interface EventStream {
  status: number;
  headers: Headers;
  /** What has come so far. */
  events: ServerSentEvent[];
  /** To go on from: also moves while nothing comes. */
  lastEventId(): string;
  /** Whether the server has ended the stream, or broken it off. */
  end(): 'ended' | 'broken' | undefined;
  close(): void;
}

/** Opens a stream and reads it from then on. What is no stream is a status alone. */
export async function openEvents(url: string, headers: Record<string, string>): Promise<EventStream> {
  const controller = new AbortController();
  const response = await fetch(url, { headers, signal: controller.signal });
  const events: ServerSentEvent[] = [];
  let id = '';
  let end: ReturnType<EventStream['end']>;

  function readBlock(block: string) {
    let event = 'message';
    const data: string[] = [];
    for (const line of block.split('\n')) {
      const [, field, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line)!;
      if (field === 'id') id = value ?? '';
      else if (field === 'event') event = value ?? '';
      else if (field === 'data') data.push(value ?? '');
    }
    if (data.length > 0) events.push({ id, event, data: data.join('\n') });
  }

  async function read() {
    const decoder = new TextDecoder();
    let rest = '';
    try {
      for await (const chunk of response.body!) {
        const blocks = (rest + decoder.decode(chunk, { stream: true })).split('\n\n');
        rest = blocks.pop()!;
        for (const block of blocks) readBlock(block);
      }
      end = 'ended';
    } catch {
      end = 'broken';
    }
  }

  if (response.ok) void read();
  else await response.body?.cancel();
  return {
    status: response.status,
    headers: response.headers,
    events,
    lastEventId: () => id,
    end: () => end,
    close: () => controller.abort(),
  };
}

export interface Follower {
  /** What has come so far, over all streams. */
  events(): ServerSentEvent[];
  /** Empty until the first stream has begun. */
  lastEventId(): string;
  /** Streams that were opened. */
  opened(): number;
  stop(): Promise<void>;
}

/** Follows a stream, and comes back with Last-Event-ID whenever it ends or cannot be had, each time to what url says. */
export function follow(url: () => string, headers: Record<string, string>, from = ''): Follower {
  const streams: EventStream[] = [];
  let lastEventId = from;
  let isStopped = false;

  async function run() {
    while (!isStopped) {
      try {
        const stream = await openEvents(url(), {
          ...headers,
          ...(lastEventId ? { 'Last-Event-ID': lastEventId } : {}),
        });
        if (stream.status === 200) streams.push(stream);
        while (stream.status === 200 && !stream.end()) {
          if (isStopped) stream.close();
          await sleep(10);
          lastEventId = stream.lastEventId() || lastEventId;
        }
      } catch {
        // Nobody is there: again.
      }
      await sleep(20);
    }
  }
  const running = run();
  return {
    events: () => streams.flatMap(({ events }) => events),
    lastEventId: () => lastEventId,
    opened: () => streams.length,
    async stop() {
      isStopped = true;
      await running;
    },
  };
}
