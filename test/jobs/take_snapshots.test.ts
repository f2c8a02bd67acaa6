// Snapshots of many orgs, one of which cannot be taken.
import postgres from 'postgres';
import { expect, onTestFinished, test } from 'vitest';
import { takeSnapshots } from '../../jobs/take_snapshots.ts';
import { parseConfig } from '../../src/config.ts';
import { useDatabase } from '../support/database.ts';
import { jwtSecret } from '../support/process.ts';

const database = useDatabase();

test('an org whose snapshot fails costs the others none of theirs', async () => {
  const { sql } = database;
  for (const org of ['before', 'broken', 'after'])
    await sql`select api.put_service(api.ensure_org(${org}), 'a', '{"kind":"http","health_endpoint":"http://x.test/"}', 'me')`;
  await sql.unsafe(`
    create function obs.refuse() returns trigger language plpgsql as $$ begin raise numeric_value_out_of_range; end $$;
    create trigger refuse before insert on obs.system_snapshot for each row
      when (new.org_id = ${(await sql`select id from obs.org where external_id = 'broken'`)[0]!.id}) execute function obs.refuse();`);
  const { workerDatabaseUrl } = parseConfig({ DATABASE_URL: database.url, JWT_SECRET: jwtSecret });
  const worker = postgres(workerDatabaseUrl, { max: 1, onnotice: () => {} });
  onTestFinished(() => worker.end());
  const logged: unknown[] = [];
  const take = takeSnapshots(worker, { error: (entry: unknown) => logged.push(entry) });
  await take({}, { abortSignal: undefined } as never);
  const taken = await sql`
    select o.external_id as org from obs.system_snapshot s join obs.org o on o.id = s.org_id order by o.id`;
  expect(taken.map(({ org }) => org)).toEqual(['before', 'after']);
  expect(logged).toMatchObject([{ error: { code: '22003' } }]);
});
