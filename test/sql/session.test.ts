// Transactions whose connection is lost in their middle: nothing of them is sent to another connection.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';

vi.setConfig({ testTimeout: 8_000 });

import { connectSession, type Queryable, type Session } from '../../src/db.ts';
import { isConnectionError } from '../../src/errors.ts';
import { useDatabase } from '../support/database.ts';

const database = useDatabase();
let session: Session;
beforeAll(async () => {
  await database.sql`create table public.note (text text)`;
  session = connectSession(database.url, { name: 'test-session' });
});
afterAll(() => session?.end());

const notes = async () =>
  (await database.sql<{ text: string }[]>`select text from public.note order by text`).map((row) => row.text);
const cut = async (sql: Queryable) => {
  const [row] = await sql<{ pid: number }[]>`select pg_backend_pid() as pid`;
  await database.sql`select pg_terminate_backend(${row!.pid})`;
  await sleep(100);
};

test('commits', async () => {
  expect(
    await session.transaction(
      async (sql) => (await sql`insert into public.note values ('a') returning text`)[0]?.text,
    ),
  ).toBe('a');
  expect(await notes()).toEqual(['a']);
});

test('rolls back what throws, and goes on', async () => {
  const failing = session.transaction(async (sql) => {
    await sql`insert into public.note values ('b')`;
    throw new Error('no');
  });
  await expect(failing).rejects.toThrow('no');
  expect(await notes()).toEqual(['a']);
});

test('a failure that work passes over is no commit', async () => {
  const failing = session.transaction(async (sql) => {
    await sql`insert into public.note values ('c')`;
    await sql`select 1 / 0`.catch(() => {});
  });
  await expect(failing).rejects.toMatchObject({ code: '25P02' });
  expect(await notes()).toEqual(['a']);
});

test.each([0, 1, 2])(
  'a connection lost before statement %i: nothing is written, the error says so, and the next works',
  async (at) => {
    const failing = session.transaction(async (sql) => {
      for (const i of [0, 1, 2]) {
        if (i === at) await cut(sql);
        await sql`insert into public.note values (${`lost ${i}`})`;
      }
    });
    await expect(failing).rejects.toSatisfy(isConnectionError);
    // Whatever a zombie would have sent had time to arrive.
    await sleep(100);
    expect(await notes()).toEqual(['a']);
    await session.transaction((sql) => sql`select 1`);
    await session.statement((sql) => sql`select 1`);
  },
);

test('a connection lost in a statement, or in a copy', async () => {
  const slow = session.transaction(async (sql) => {
    const [row] = await sql<{ pid: number }[]>`select pg_backend_pid() as pid`;
    setTimeout(() => void database.sql`select pg_terminate_backend(${row!.pid})`.then(), 100);
    await sql`select pg_sleep(5)`;
  });
  await expect(slow).rejects.toSatisfy(isConnectionError);
  const copying = session.transaction(async (sql) => {
    const [row] = await sql<{ pid: number }[]>`select pg_backend_pid() as pid`;
    const stream = await sql`copy public.note from stdin`.writable();
    const failed = new Promise((_, reject) => stream.on('error', reject));
    failed.catch(() => {});
    stream.write('d\n');
    await database.sql`select pg_terminate_backend(${row!.pid})`;
    await failed;
  });
  await expect(copying).rejects.toSatisfy(isConnectionError);
  expect(await notes()).toEqual(['a']);
  await session.transaction((sql) => sql`select 1`);
});

test('a statement that failed after its first rows leaves nothing of them to the next one', async () => {
  const failing = session.statement((sql) => sql`select 1 / (3 - i) as x from generate_series(1, 3) i`);
  await expect(failing).rejects.toMatchObject({ code: '22012' });
  expect([...(await session.statement((sql) => sql`select 7 as x`))]).toEqual([{ x: 7 }]);
});
