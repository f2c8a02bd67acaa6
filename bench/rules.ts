// Alert rules: how long a pass over all of them takes, how that grows, and how soon a webhook hears of a sample that crosses.
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import postgres from 'postgres';
import { maxRules } from '../jobs/evaluate.ts';
import { expressionFields } from '../src/routes/expressions.ts';
import { parseRule } from '../src/rules/expression.ts';
import { startService } from '../test/support/process.ts';

const metrics = 20;
const hosts = 250;
const stepSeconds = 10;
const minutes = 20;

// Of each four: one series alone, every host by itself, a percentile of each zone, and a ratio of two metrics by zone.
function expressionOf(rule: number): string {
  const metric = `metric_${rule % metrics}`;
  const threshold = 900 + (rule % 90);
  switch (Math.floor(rule / metrics) % 4) {
    case 0:
      return `avg(${metric}{host="h${rule % hosts}"}[5m]) > ${threshold}`;
    case 1:
      return `max by (host) (${metric}[${1 + (rule % 5)}m]) > ${threshold + 90} for 5m`;
    case 2:
      return `p95 by (zone) (${metric}{zone=~"z[0-4]"}[5m]) > ${threshold}`;
    default:
      return `sum by (zone) (${metric}[5m]) / sum by (zone) (metric_${(rule + 1) % metrics}[5m]) > 1.${threshold} and count(${metric}) > 10`;
  }
}

/** One pass over 500, 1,000 and 2,000 rules on 5,000 series. */
export async function benchRules(databaseUrl: string): Promise<void> {
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => {} });
  try {
    const [org] = await sql<{ id: number }[]>`select api.ensure_org('acme') as id`;
    const series = Array.from({ length: metrics * hosts }, (_, i) => ({
      name: `metric_${i % metrics}`,
      labels: { host: `h${Math.floor(i / metrics)}`, zone: `z${Math.floor(i / metrics) % 10}` },
    }));
    await sql`
      insert into obs.sample (time, series_id, value)
      select t.time, s.id, 500 + 499 * sin(s.id + extract(epoch from t.time) / 300)
      from unnest((select api.ensure_series(${org!.id}, ${sql.json(series)}))) as s (id)
      cross join generate_series(
        now() - make_interval(mins => ${minutes}), now() + interval '1 minute', make_interval(secs => ${stepSeconds})
      ) as t (time)`;
    await sql.unsafe('vacuum analyze obs.sample, obs.series');
    let made = 0;
    for (const rules of [500, 1000, 2000]) {
      for (; made < rules; made++) {
        const fields = {
          name: `rule ${made}`,
          severity: 'info',
          ...expressionFields(parseRule(expressionOf(made)), null),
        };
        await sql`select api.put_definition(${org!.id}, 'alert_rule', null, ${sql.json(fields as never)}, 'bench')`;
      }
      const passes: number[] = [];
      for (let pass = 0; pass < 6; pass++) {
        await sql`update obs.alert_rule_state set next_evaluation_at = now()`;
        const began = performance.now();
        // As the worker does: so many a transaction.
        for (let evaluated = 0; evaluated < rules; ) {
          const [row] = await sql<
            { n: number }[]
          >`select job.evaluate_rules(${org!.id}, now(), ${maxRules}) as n`;
          if (!row!.n) throw new Error(`${evaluated} of ${rules} rules were evaluated`);
          evaluated += row!.n;
        }
        passes.push(performance.now() - began);
      }
      const [open] = await sql<
        { n: number }[]
      >`select count(*)::int as n from obs.alert where status <> 'resolved'`;
      const [first, ...steady] = passes;
      steady.sort((a, b) => a - b);
      console.log(
        `  ${String(rules).padStart(5)} rules  pass ${steady[2]!.toFixed(0)} ms (${steady[0]!.toFixed(0)} to ${steady[4]!.toFixed(0)}), the first ` +
          `${first!.toFixed(0)} ms; ${open!.n} open alerts`,
      );
    }
  } finally {
    await sql.end({ timeout: 5 });
  }
}

/** From a sample that crosses, posted, to the webhook that is told: for 0s, an interval of 5 s, a real API and worker. */
export async function benchAlertLatency(databaseUrl: string, token: string, rounds: number): Promise<void> {
  const told = new Map<string, number>();
  const receiver = http.createServer((request, response) => {
    let body = '';
    request.on('data', (chunk) => {
      body += chunk;
    });
    request.on('end', () => {
      for (const alert of JSON.parse(body).alerts)
        if (!told.has(alert.labels.host)) told.set(alert.labels.host, performance.now());
      response.end();
    });
  });
  receiver.listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  const env = { DATABASE_URL: databaseUrl };
  const api = await startService('api', env);
  const worker = await startService('worker', env);
  try {
    const post = async (path: string, body: object) => {
      const response = await fetch(`${api.url}/api/v1${path}`, {
        method: 'POST',
        headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
        body: JSON.stringify(body),
      });
      if (response.status !== 201) throw new Error(`${path}: ${response.status} ${await response.text()}`);
    };
    await post('/channels', {
      name: 'hook',
      type: 'webhook',
      config: { url: `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/` },
      group_by: ['host'],
    });
    await post('/alert-rules', {
      name: 'crossed',
      expression: 'max by (host) (level[1m]) > 100',
      interval_seconds: 5,
    });
    const crossed = new Map<string, number>();
    for (let round = 0; round < rounds; round++) {
      // At no fixed distance from an evaluation.
      await sleep(730 + 97 * (round % 7));
      crossed.set(`h${round}`, performance.now());
      await post('/metrics', { name: 'level', value: 101, labels: { host: `h${round}` } });
    }
    for (let waited = 0; told.size < rounds && waited < 30_000; waited += 100) await sleep(100);
    if (told.size < rounds) throw new Error(`${rounds - told.size} of ${rounds} were never told`);
    const waits = [...crossed].map(([host, at]) => told.get(host)! - at).sort((a, b) => a - b);
    const of = (share: number) => (waits[Math.ceil(share * rounds) - 1]! / 1000).toFixed(2);
    console.log(
      `  sample to webhook  p50 ${of(0.5)} s, p95 ${of(0.95)} s, at most ${of(1)} s, ${rounds} times (goal: p95 < 7 s)`,
    );
  } finally {
    await worker.stop();
    await api.stop();
    receiver.close();
    receiver.closeAllConnections();
  }
}
