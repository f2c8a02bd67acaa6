// Batches sent to two API processes that are killed meanwhile, and what was answered: a 2xx means committed.
import { randomInt, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';

export interface Load {
  rounds: number;
  /** URLs of the processes, at this moment. */
  urls: () => [string, string];
  /** Sends the values of a batch, each of which is sent in one batch alone; the status, or 0 when there was no answer. */
  post(url: string, kind: 'keyed' | 'plain', values: number[], key?: string): Promise<number>;
  /** How many values a batch has. */
  size: () => number;
  /** One a round, in turn. */
  faults: (() => Promise<unknown>)[];
}

export interface Outcome {
  /** Batches sent with a key until they were acknowledged. */
  keyed: number[][];
  /** Batches sent once. */
  plain: { values: number[]; acknowledged: boolean }[];
  /** How often each status was answered. */
  statuses: Map<number, number>;
}

/** Runs rounds of faults under load, each once thirty more batches are acknowledged. */
export async function loadUnderFaults({ rounds, urls, post, size, faults }: Load): Promise<Outcome> {
  let next = 0;
  let isOver = false;
  let acknowledged = 0;
  const take = () => Array.from({ length: size() }, () => next++);
  const keyed: Outcome['keyed'] = [];
  const plain: Outcome['plain'] = [];
  const statuses: Outcome['statuses'] = new Map();
  const note = (status: number) => statuses.set(status, (statuses.get(status) ?? 0) + 1);

  // Sends each batch until it is acknowledged, with one key for all tries, to either process.
  async function keyedClient() {
    while (!isOver) {
      const values = take();
      const key = randomUUID();
      for (;;) {
        const status = await post(urls()[randomInt(2)]!, 'keyed', values, key);
        note(status);
        if (status === 201) break;
        await sleep(20);
      }
      keyed.push(values);
      acknowledged++;
    }
  }
  // Sends each batch once and notes whether it was acknowledged.
  async function plainClient() {
    while (!isOver) {
      const values = take();
      const status = await post(urls()[randomInt(2)]!, 'plain', values);
      note(status);
      plain.push({ values, acknowledged: status === 201 });
      if (status === 201) acknowledged++;
      else await sleep(20);
    }
  }
  const clients = [...Array.from({ length: 5 }, keyedClient), ...Array.from({ length: 3 }, plainClient)];

  for (let round = 0; round < rounds; round++) {
    const target = acknowledged + 30;
    const deadline = Date.now() + 60_000;
    while (acknowledged < target) {
      expect(Date.now(), `no progress in round ${round}: ${JSON.stringify([...statuses])}`).toBeLessThan(
        deadline,
      );
      await sleep(5);
    }
    await sleep(randomInt(50));
    await faults[round % faults.length]!();
  }
  isOver = true;
  await Promise.all(clients);
  return { keyed, plain, statuses };
}

/** stored: how often each value is there. */
export function expectStored(
  { keyed, plain, statuses }: Outcome,
  stored: { keyed: Map<number, number>; plain: Map<number, number> },
) {
  for (const values of keyed)
    for (const value of values) expect(stored.keyed.get(value), `keyed ${value}`).toBe(1);
  expect(stored.keyed.size).toBe(keyed.flat().length);
  for (const batch of plain) {
    const counts = new Set(batch.values.map((value) => stored.plain.get(value) ?? 0));
    // All or nothing, and all when it was acknowledged.
    expect([...counts], `plain ${batch.values[0]}`).toHaveLength(1);
    expect([...counts][0]).toBeLessThanOrEqual(1);
    if (batch.acknowledged) expect([...counts][0]).toBe(1);
  }
  // The faults have hit requests, and no request met anything but success, 503 or a broken connection.
  expect((statuses.get(0) ?? 0) + (statuses.get(503) ?? 0)).toBeGreaterThan(0);
  expect([...statuses.keys()].filter((status) => ![0, 201, 503].includes(status))).toEqual([]);
}

/** Sends JSON; the status, or 0 when there was no answer. */
export async function postJson(url: string, token: string, body: unknown, key?: string): Promise<number> {
  try {
    const answer = await fetch(url, {
      method: 'POST',
      headers: {
        Authorization: `Bearer ${token}`,
        'Content-Type': 'application/json',
        ...(key ? { 'Idempotency-Key': key } : {}),
      },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(20_000),
    });
    await answer.arrayBuffer();
    return answer.status;
  } catch {
    return 0;
  }
}

/** Waits until a database that was killed takes connections again. */
export async function untilReachable(sql: (text: TemplateStringsArray) => PromiseLike<unknown>) {
  for (let attempt = 0; ; attempt++) {
    try {
      await sql`select 1`;
      return;
    } catch (error) {
      if (attempt > 100) throw error;
      await sleep(100);
    }
  }
}
