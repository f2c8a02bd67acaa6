// A fleet of services that workers probe, for the test that kills a worker and for the bench.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type postgres from 'postgres';
import type { Service } from './process.ts';
import { startService } from './process.ts';

export interface Fleet {
  services: number;
  intervalSeconds: number;
  /** How long it is probed, after all have been probed once. */
  seconds: number;
  /** Kill one of the two workers half-way. */
  killsOne: boolean;
}

export interface FleetReport {
  /** When the fleet was complete, and when the last full slot ended: only what lies between is looked at. */
  from: Date;
  until: Date;
  killedAt: Date | null;
  /** Requests that the targets got, by service. */
  requests: number;
  /** Of each worker process. */
  workers: { cpuSeconds: number; seconds: number; peakMiB: number; isKilled: boolean }[];
}

const program = `
  let requests = 0;
  require('http').createServer((request, response) => { requests++; response.end('{"status":"healthy"}'); })
    .listen(0, '127.0.0.1', function () { process.send(this.address().port); });
  process.on('message', () => process.send(requests));
  process.on('disconnect', () => process.exit());
`;

/** Registers the fleet in a database of its own and has two workers probe it. */
export async function runFleet(sql: postgres.Sql, databaseUrl: string, fleet: Fleet): Promise<FleetReport> {
  // A process of its own, whose load is not the test's.
  const target = fork('-e', [program], { execArgv: [], stdio: 'ignore', execPath: process.execPath });
  const [port] = (await once(target, 'message')) as [number];
  const workers: Service[] = [];
  try {
    for (let i = 0; i < 2; i++)
      workers.push(await startService('worker', { DATABASE_URL: databaseUrl, LOG_LEVEL: 'info' }));
    const definitions = Array.from({ length: fleet.services }, (_, i) => ({
      service_name: `fleet-${String(i).padStart(5, '0')}`,
      kind: 'http',
      health_endpoint: `http://127.0.0.1:${port}/health/${i}`,
      check_interval_seconds: fleet.intervalSeconds,
      timeout_seconds: 5,
    }));
    await sql`
      select api.import_services(api.ensure_org('fleet'), ${sql.json(definitions as unknown as postgres.JSONValue)}, 'test')`;
    const deadline = Date.now() + 120_000;
    while (
      (
        await sql<
          { n: number }[]
        >`select count(*)::int as n from obs.service_state where last_check_at is null`
      )[0]!.n > 0
    ) {
      if (Date.now() > deadline) throw new Error(`not every service was probed: ${workers[0]!.output()}`);
      await sleep(200);
    }
    const from = new Date(Date.now() + 1000);
    const before = workers.map(usageOf);
    let killedAt: Date | null = null;
    let killed: ReturnType<typeof usageOf> | null = null;
    await sleep((fleet.seconds * 1000) / 2);
    if (fleet.killsOne) {
      killed = usageOf(workers[0]!);
      killedAt = new Date();
      await workers[0]!.kill();
    }
    await sleep((fleet.seconds * 1000) / 2);
    const until = new Date(Date.now() - fleet.intervalSeconds * 1000);
    const usage = workers.map((worker, i) => {
      const { cpuSeconds, at, peakMiB } = i === 0 && killed ? killed : usageOf(worker);
      return {
        cpuSeconds: cpuSeconds - before[i]!.cpuSeconds,
        seconds: (at - before[i]!.at) / 1000,
        peakMiB,
        isKilled: i === 0 && killed !== null,
      };
    });
    await Promise.all(workers.slice(killed ? 1 : 0).map((worker) => worker.stop()));
    target.send('count');
    const [requests] = (await once(target, 'message')) as [number];
    return { from, until, killedAt, requests, workers: usage };
  } finally {
    for (const worker of workers)
      if (worker.child.exitCode === null && worker.child.signalCode === null) await worker.kill();
    target.disconnect();
  }
}

function usageOf({ child }: Service) {
  const stat = readFileSync(`/proc/${child.pid}/stat`, 'utf8');
  const [user, system] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 13)
    .map(Number);
  const peak = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'));
  // In hundredths of a second, on every Linux that Node runs on.
  return { cpuSeconds: (user! + system!) / 100, at: Date.now(), peakMiB: Number(peak?.[1] ?? 0) / 1024 };
}
