// Queries of one day of samples over HTTP, each answer checked against the samples it is of.
import postgres from 'postgres';
import { encodeCopy, newSamples } from '../src/ingest/samples.ts';
import type { Metric, Series } from './ingest.ts';
import { logRow, type Row, runLoad, toRow } from './load.ts';

const stepMs = 10_000;
const hourMs = 3_600_000;
const ticks = (24 * hourMs) / stepMs;
const rackSize = 100;

/** A day of samples, every ten seconds, of so many series; start is no full hour, as it seldom is. */
export interface Day {
  start: number;
  end: number;
  series: number;
}

/** The day that ended an hour ago: all its hours are over, the last one's end included. */
export function newDay(samples: number): Day {
  const end = Math.floor((Date.now() - hourMs) / stepMs) * stepMs;
  return { start: end - 24 * hourMs, end, series: Math.max(rackSize, Math.ceil(samples / ticks)) };
}

function daySeries(i: number): Series {
  return {
    name: 'temperature',
    service_name: `service-${i % 7}`,
    labels: { host: `web-${i}`, rack: `rack-${Math.floor(i / rackSize)}` },
  };
}

// Random, and the same at each call: what was stored need not be kept to check the answers.
function valueAt(series: number, tick: number): number {
  let hash = Math.imul(series + 1, 0x9e3779b1) ^ Math.imul(tick + 1, 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return ((hash ^ (hash >>> 13)) >>> 0) % 1e6 / 1000;
}

/** The day's samples in order of time, as they would have come, in chunks of at most so many. */
export function* chunksOf(day: Day, length: number): Generator<Metric[]> {
  // TODO
}

export interface DayQuery {
  aggregation: 'avg' | 'p95';
  labels: Record<string, string>;
  start: number;
  end: number;
}
