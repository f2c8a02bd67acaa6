// The embedded server: starts that were interrupted, doubled or damaged lose nothing.
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { embeddedObstacle, startEmbedded, stopEmbedded } from '../../db/server/embedded.ts';
import { dataFolder } from '../../db/server/find.ts';

const obstacle = embeddedObstacle();
const folder = path.join(dataFolder, `embedded-${process.pid}`);
const start = () => startEmbedded(folder, () => {}, { shared_buffers: '128MB' });
const query = async (url: string, statement: string) => {
  const sql = postgres(url, { max: 1, onnotice: () => {} });
  try {
    return await sql.unsafe(statement);
  } finally {
    await sql.end();
  }
};

describe.skipIf(obstacle !== null)(
  obstacle ? `the embedded server (skipped: ${obstacle})` : 'the embedded server',
  () => {
    beforeAll(() => {
      mkdirSync(folder, { recursive: true });
    });
    afterAll(async () => {
      await stopEmbedded(folder);
      rmSync(folder, { recursive: true, force: true });
    });

    test('starts over where making it was interrupted, and two who start it get one server', async () => {
      mkdirSync(path.join(folder, 'pg.new'));
      writeFileSync(path.join(folder, 'pg.new/half'), '');
      const [one, two] = await Promise.all([start(), start()]);
      expect(two).toEqual(one);
      await query(one!.url, 'create table public.kept (x int)');
    });

    test('keeps its data through a stop, and its port', async () => {
      const { url } = await start();
      await stopEmbedded(folder);
      const again = await start();
      expect(again.url).toBe(url);
      expect(await query(again.url, 'select count(*)::int as n from public.kept')).toEqual([{ n: 0 }]);
    });

    test('refuses to begin anew where only its password is missing', async () => {
      await stopEmbedded(folder);
      const password = path.join(folder, 'pg/password');
      renameSync(password, `${folder}/aside`);
      await expect(start()).rejects.toThrow('Nothing was changed');
      renameSync(`${folder}/aside`, password);
      expect(await query((await start()).url, 'select count(*)::int as n from public.kept')).toEqual([
        { n: 0 },
      ]);
      expect(readFileSync(password, 'utf8')).toMatch(/^[0-9a-f]{48}\n$/);
    });
  },
);
