// Every 10 s the host's CPU, memory, disk and load become metrics of the default org.
import os from 'node:os';
import type { Task } from 'graphile-worker';
import si from 'systeminformation';
import type { Sql } from '../src/db.ts';
import { serviceName } from '../src/version.ts';
import { repeat } from './repeat.ts';

export const intervalMs = 10_000;

/** Name of the task of one host: a worker takes only the tasks it lists, so each host's job runs on that host. */
export function hostMetricsTask(host: string): string {
  return `host_metrics:${host}`;
}

export function recordHostMetrics({ sql, org, host }: { sql: Sql; org: string; host: string }): Task {
  return async (_payload, helpers) => {
    await repeat(helpers, hostMetricsTask(host), intervalMs / 1000);
    const samples = await readHostMetrics(host);
    await sql`select job.record_samples(${org}, ${JSON.stringify(samples)}::text::jsonb)`;
  };
}

/** cpu_usage, memory_usage and disk_usage in percent, load_average over a minute. */
export async function readHostMetrics(host: string) {
  const [cpu, memory, disks] = await Promise.all([si.currentLoad(), si.mem(), si.fsSize()]);
  // The file system that the service itself lives on: the longest mount point above its folder.
  const disk = disks
    .filter(
      ({ mount, size }) =>
        size > 0 && `${process.cwd()}/`.startsWith(mount.endsWith('/') ? mount : `${mount}/`),
    )
    .sort((a, b) => b.mount.length - a.mount.length)[0];
  const values: Record<string, number | undefined> = {
    cpu_usage: cpu.currentLoad,
    memory_usage: (100 * (memory.total - memory.available)) / memory.total,
    disk_usage: disk?.use,
    load_average: os.loadavg()[0],
  };
  return Object.entries(values)
    .filter((entry): entry is [string, number] => Number.isFinite(entry[1]))
    .map(([name, value]) => ({ name, value, service_name: serviceName, labels: { host } }));
}
