// Evaluates the alert rules of an org that are due, and takes the steps of escalations that are. What follows is decided and stored
// in the same transaction: job.evaluate_rules, job.escalate_alerts.
import type { Task } from 'graphile-worker';
import type { Logger } from 'pino';
import type { Sql } from '../src/db.ts';
import { toProblem } from '../src/errors.ts';

/** Rules of one transaction, for which probes and people may have to wait that change the same alerts. */
export const maxRules = 1000;

/** sql has a statement timeout, which is what an org's rules may take from others at a time. */
export function evaluateRules({ sql, log }: { sql: Sql; log: Logger }): Task {
  async function evaluate(orgId: number, limit: number): Promise<number | null | 'failed'> {
    try {
      const [row] = await sql<{ evaluated: number | null }[]>`
        select job.evaluate_rules(${orgId}, now(), ${limit}) as evaluated`;
      return row!.evaluated;
    } catch (error) {
      // The database is away or busy: nobody's fault, and job.heal_alerts comes back to it.
      if (toProblem(error).status === 503) throw error;
      return 'failed';
    }
  }

  /** Answers whether it was there to be evaluated, or blamed. */
  async function evaluateAlone(orgId: number, ruleId: string): Promise<boolean> {
    try {
      const [row] = await sql<{ evaluated: number | null }[]>`
        select job.evaluate_rules(${orgId}, now(), 1, ${ruleId}::text::uuid) as evaluated`;
      return Boolean(row!.evaluated);
    } catch (error) {
      if (toProblem(error).status === 503) throw error;
      const message =
        (error as { code?: string }).code === '57014' ? 'it took too long' : (error as Error).message;
      await sql`select job.fail_rule(${ruleId}::text::uuid, ${message})`;
      log.warn({ org_id: orgId, rule_id: ruleId, error: message }, 'an alert rule cannot be evaluated');
      return true;
    }
  }

  return async (payload, { abortSignal }) => {
    const { org_id } = payload as { org_id: number };
    let limit = maxRules;
    while (!abortSignal?.aborted) {
      const evaluated = await evaluate(org_id, limit);
      // Another is at it, and sees to what comes next.
      if (evaluated === null) return;
      if (evaluated !== 'failed' && evaluated > 0) continue;
      const [first] = await sql<{ rule_id: string | null; due: number }[]>`
        select rule_id, due from job.first_due_rule(${org_id})`;
      if (!first!.rule_id) break;
      // Some rule is to blame: half as many and half as many again, until it is alone, as one is that failed before.
      if (evaluated === 'failed' && limit > 1 && first!.due > 1)
        limit = Math.ceil(Math.min(limit, first!.due) / 2);
      else if (await evaluateAlone(org_id, first!.rule_id)) limit = maxRules;
      else break;
    }
    await sql`select job.escalate_alerts(${org_id})`;
  };
}
