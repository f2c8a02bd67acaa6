// Alerts as a story told minute by minute, with time as an argument: what a rule finds, what it makes of it, who is notified.
import type postgres from 'postgres';
import { expressionFields } from '../../src/routes/expressions.ts';
import { type Matcher, parseMatcher, parseRule } from '../../src/rules/expression.ts';
import { parseTemplate } from '../../src/rules/template.ts';

export interface Sent {
  id: string;
  channel: string;
  status: string;
  alerts: {
    name: string;
    status: string;
    severity: string;
    labels: Record<string, string>;
    value: number | null;
  }[];
}

/** How the processes fare that do the work. */
export type Fate = 'well' | 'two workers' | 'dies at every delivery';

/** What happens when; minutes count from the story's beginning. */
export function tell({
  sql,
  api,
  worker,
  orgId,
  start,
  fate,
}: {
  sql: postgres.Sql;
  api: postgres.Sql;
  worker: postgres.Sql;
  orgId: number;
  start: number;
  fate: Fate;
}) {
  const at = (minute: number) => new Date(start + minute * 60_000);
  const json = (value: unknown) => JSON.stringify(value);

  const put = async (kind: string, fields: object, id: string | null = null) => {
    const [row] = await api<{ definition: { id: string } }[]>`
      select api.put_definition(${orgId}, ${kind}, ${id}, ${json(fields)}::text::jsonb, 'me') as definition`;
    return row!.definition.id;
  };

  const story = {
    at,
    put,
    async rule(name: string, expression: string, more: Record<string, unknown> = {}) {
      const { labels, annotations, ...fields } = more as Record<string, Record<string, string>>;
      const parts = (texts: Record<string, string>) =>
        Object.fromEntries(Object.entries(texts).map(([key, text]) => [key, parseTemplate(text)]));
      const id = await put('alert_rule', {
        name,
        severity: 'warning',
        ...expressionFields(parseRule(expression), null),
        ...(labels ? { labels, label_templates: parts(labels) } : {}),
        ...(annotations ? { annotations, annotation_templates: parts(annotations) } : {}),
        ...fields,
      });
      await sql`update obs.alert_rule_state set next_evaluation_at = ${at(0)} where rule_id = ${id}`;
      return id;
    },
    /** A webhook that is told at once, unless more says otherwise. */
    channel: (name: string, more: object = {}) =>
      put('channel', {
        name,
        type: 'webhook',
        config: { url: 'http://receiver.test/' },
        group_wait_seconds: 0,
        group_interval_seconds: 0,
        ...more,
      }),
    matchers: (...texts: string[]): Matcher[] => texts.map(parseMatcher),
    /** Samples of the minute before; null for none. */
    async record(
      minute: number,
      value: number | null,
      labels: object = {},
      metric = 'temperature',
      service = '',
    ) {
      if (value === null) return;
      await sql`
        insert into obs.sample (time, series_id, value)
        select ${new Date(at(minute).getTime() - 1000)}, (api.ensure_series(${orgId}, ${json([{ name: metric, service_name: service, labels }])}::text::jsonb))[1], ${value}`;
    },
    /** What the workers do at that minute. */
    async work(minute: number) {
      const evaluate = async () => {
        await worker`select job.evaluate_rules(${orgId}, ${at(minute)})`;
        await worker`select job.escalate_alerts(${orgId}, ${at(minute)})`;
      };
      await Promise.all(fate === 'two workers' ? [evaluate(), evaluate()] : [evaluate()]);
    },
    /** What is delivered at that minute, in order. */
    async deliver(minute: number): Promise<Sent[]> {
      const sent: Sent[] = [];
      for (let pass = 0; pass < 10; pass++) {
        const groups = await sql<{ id: string }[]>`
          select g.id from obs.notification_group g join obs.channel c on c.id = g.channel_id
          where g.org_id = ${orgId} order by c.name, g.id`;
        let found = 0;
        for (const { id } of groups) {
          const claim = (now: Date) =>
            worker<{ notification_id: string; attempt: number; message: Sent & { channel: string } }[]>`
              select * from job.claim_notification(${id}::text::bigint, null, ${now})`;
          const claims = await Promise.all(
            fate === 'two workers' ? [claim(at(minute)), claim(at(minute))] : [claim(at(minute))],
          );
          for (let [claimed] of claims) {
            if (!claimed) continue;
            if (fate === 'dies at every delivery') {
              // Nobody hears of it any more; somebody else takes over when its time is up, and tells the same.
              const first = claimed;
              [claimed] = await claim(new Date(at(minute).getTime() + 5_000));
              if (claimed) throw new Error('claimed by two at once');
              [claimed] = await claim(new Date(at(minute).getTime() + 26_000));
              if (claimed?.notification_id !== first.notification_id || claimed.attempt !== 2)
                throw new Error('lost with its worker');
              if (json(claimed.message) !== json(first.message))
                throw new Error('another message with the same id');
            }
            await worker`select job.finish_attempt(
              ${claimed!.notification_id}, ${claimed!.attempt}, true, 200, 1.5, null, 'ok', false, null, ${at(minute)})`;
            sent.push({ ...claimed!.message, id: claimed!.notification_id });
            found++;
          }
        }
        if (found === 0) return sent;
      }
      throw new Error('there is no end of notifications');
    },
    /** The status of the org's open alerts, and of those that were resolved at that minute. */
    async states(minute: number): Promise<string[]> {
      const rows = await sql<{ status: string }[]>`
        select status from obs.alert where org_id = ${orgId} and (status <> 'resolved' or resolved_at = ${at(minute)}) order by started_at, id`;
      return rows.map(({ status }) => status);
    },
    async change(to: 'acknowledged' | 'resolved', minute: number, name: string) {
      await sql`
        select lib.transition_alert(id, ${to}, 'me', null, '{}', ${at(minute)}) from obs.alert
        where org_id = ${orgId} and name = ${name} and status <> 'resolved'`;
    },
    async open(
      name: string,
      severity: string,
      minute: number,
      more: { service?: string; source?: string; labels?: object } = {},
    ) {
      const [row] = await sql<{ id: string }[]>`
        select alert_id as id from lib.open_alert(
          ${orgId}, ${more.source ?? 'api'}, ${name}, ${name}, ${severity}, null, ${more.service ?? null}, ${json(more.labels ?? {})}::text::jsonb, null, 'me', ${at(minute)})`;
      return row!.id;
    },
  };
  return story;
}
