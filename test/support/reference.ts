// What POST /metrics/query should answer, computed plainly in TypeScript from the samples.

export interface Sample {
  series: string;
  /** Milliseconds since 1970. */
  time: number;
  value: number;
}

function percentile(sorted: number[], p: number): number {
  const at = p * (sorted.length - 1);
  const low = sorted[Math.floor(at)]!;
  const high = sorted[Math.ceil(at)]!;
  return low + (high - low) * (at - Math.floor(at));
}

/** One aggregation over the samples of one bucket; null where it has no value. */
export function aggregate(aggregation: string, samples: Sample[]): number | null {
  const values = samples.map((sample) => sample.value);
  const sorted = [...values].sort((a, b) => a - b);
  const sum = values.reduce((total, value) => total + value, 0);
  const mean = sum / values.length;
  const byTime = [...samples].sort((a, b) => a.time - b.time);
  switch (aggregation) {
    case 'avg':
      return mean;
    case 'sum':
      return sum;
    case 'min':
      return sorted[0]!;
    case 'max':
      return sorted.at(-1)!;
    case 'count':
      return values.length;
    case 'median':
    case 'p50':
      return percentile(sorted, 0.5);
    case 'p90':
      return percentile(sorted, 0.9);
    case 'p95':
      return percentile(sorted, 0.95);
    case 'p99':
      return percentile(sorted, 0.99);
    case 'stddev':
      if (values.length < 2) return null;
      return Math.sqrt(values.reduce((total, value) => total + (value - mean) ** 2, 0) / (values.length - 1));
    case 'first':
      return byTime[0]!.value;
    case 'last':
      return byTime.at(-1)!.value;
    default:
      throw new Error(`no reference for ${aggregation}`);
  }
}

/** increase of each bucket: steps between successive samples of a series, in the bucket of the later one. */
export function increases(
  samples: Sample[],
  bucketOf: (time: number) => number,
  start: number,
  lookback: number,
): Map<number, number | null> {
  const result = new Map<number, number | null>();
  for (const series of new Set(samples.map((sample) => sample.series))) {
    const own = samples
      .filter((sample) => sample.series === series && sample.time >= start - lookback)
      .sort((a, b) => a.time - b.time || a.value - b.value);
    for (const [i, sample] of own.entries()) {
      if (sample.time < start) continue;
      const bucket = bucketOf(sample.time);
      const previous = own[i - 1]?.value;
      const step =
        previous === undefined ? null : sample.value >= previous ? sample.value - previous : sample.value;
      const before = result.get(bucket) ?? null;
      result.set(bucket, step === null ? before : (before ?? 0) + step);
    }
  }
  return result;
}
