// A client of server-sent events, as a browser's EventSource reads them, without reconnecting by itself.

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
