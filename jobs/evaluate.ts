// Evaluates the alert rules of an org that are due, and takes the steps of escalations that are. What follows is decided and stored
// in the same transaction: job.evaluate_rules, job.escalate_alerts.
import type { Task } from 'graphile-worker';
import type { Logger } from 'pino';
import type { Sql } from '../src/db.ts';
import { toProblem } from '../src/errors.ts';

export function evaluateRules({ sql, log }: { sql: Sql; log: Logger }): Task {
  /** Evaluates at most limit rules and answers how many were due; when that fails half as many, down to the one that is to blame. */
  async function evaluate(orgId: number, limit: number): Promise<number> {
    try {
      const [row] = await sql<{ evaluated: number }[]>`
        select job.evaluate_rules(${orgId}, now(), ${limit}) as evaluated`;
      return row!.evaluated;
    } catch (error) {
      // The database is away or busy: nobody's fault, and job.heal_alerts comes back to it.
      if (toProblem(error).status === 503) throw error;
      if (limit > 1) return evaluate(orgId, Math.ceil(limit / 2));
      const { message } = error as Error;
      const [row] = await sql<{ rule_id: string | null }[]>`
        select job.fail_rule(${orgId}, ${message}) as rule_id`;
      log.warn({ org_id: orgId, rule_id: row!.rule_id, error: message }, 'an alert rule cannot be evaluated');
      return 1;
    }
  }

  return async (payload, { abortSignal }) => {
    const { org_id } = payload as { org_id: number };
    // Due rules are few enough to be one transaction, as a rule; where one fails those that are left are taken in turn.
    for (let limit = 100_000; !abortSignal?.aborted; ) {
      const evaluated = await evaluate(org_id, limit);
      if (evaluated === 0) break;
      limit = 10_000;
    }
    await sql`select job.escalate_alerts(${org_id})`;
  };
}
