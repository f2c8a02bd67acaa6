// Alerts over HTTP: opened, listed, acknowledged, resolved.
import { beforeAll, describe, expect, test } from 'vitest';
import { useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';

const api = useApi();

const open = async (body: object) => {
  const { status, body: alert } = await api.call('POST', '/api/v1/alerts', { body });
  return { status, alert };
};
const put = (id: string, verb: string, body?: object) =>
  api.call('PUT', `/api/v1/alerts/${id}/${verb}`, { body });
const list = async (query = '') => (await api.call('GET', `/api/v1/alerts${query}`)).body;

describe('an alert', () => {
  test('is opened firing, acknowledged, resolved, and tells its history', async () => {
    const { status, alert } = await open({
      name: 'Backup failed',
      severity: 'critical',
      description: 'Two lines\nof text',
      service_name: 'billing',
      labels: { host: 'db-1' },
      metadata: { run: 17, log: ['a', 'b'], nested: { ok: false } },
    });
    expect(status).toBe(201);
    expect(alert).toMatchObject({
      name: 'Backup failed',
      severity: 'critical',
      status: 'firing',
      source: 'api',
      description: 'Two lines\nof text',
      service_name: 'billing',
      labels: { host: 'db-1' },
      metadata: { run: 17, log: ['a', 'b'], nested: { ok: false } },
      acknowledged_at: null,
      resolved_at: null,
    });
    expect(Math.abs(Date.parse(alert.started_at) - Date.now())).toBeLessThan(10_000);

    const acknowledged = await put(alert.id, 'acknowledge', { note: 'on it' });
    expect(acknowledged.body).toMatchObject({ status: 'acknowledged', resolved_at: null });
    expect(acknowledged.body.acknowledged_at).not.toBeNull();
    const resolved = await put(alert.id, 'resolve');
    expect(resolved.body).toMatchObject({ status: 'resolved' });
    expect(resolved.body.duration_seconds).toBeCloseTo(
      (Date.parse(resolved.body.resolved_at) - Date.parse(alert.started_at)) / 1000,
      1,
    );
    const { body } = await api.call('GET', `/api/v1/alerts/${alert.id}`);
    expect(body).toMatchObject({ ...resolved.body, notifications: [] });
    expect(
      body.events.map(({ event, from_status, to_status, actor, note }: Record<string, string>) => [
        event,
        from_status,
        to_status,
        actor,
        note,
      ]),
    ).toEqual([
      ['firing', 'inactive', 'firing', 'tester', null],
      ['acknowledged', 'firing', 'acknowledged', 'tester', 'on it'],
      ['resolved', 'acknowledged', 'resolved', 'tester', null],
    ]);
  });

  test('changes only as its status allows', async () => {
    const { alert } = await open({ name: 'transitions', severity: 'info' });
    expect((await put(alert.id, 'acknowledge')).status).toBe(200);
    const twice = await put(alert.id, 'acknowledge');
    expect(twice.status).toBe(409);
    expect(twice.body).toMatchObject({
      code: 'alert_status',
      detail: 'the alert is acknowledged and cannot become acknowledged',
    });
    expect((await put(alert.id, 'resolve')).status).toBe(200);
    for (const verb of ['acknowledge', 'resolve']) expect((await put(alert.id, verb)).status).toBe(409);
  });

  test('acknowledged by ten at once is acknowledged once', async () => {
    const { alert } = await open({ name: 'race', severity: 'info' });
    const answers = await Promise.all(Array.from({ length: 10 }, () => put(alert.id, 'acknowledge')));
    expect(answers.map(({ status }) => status).sort()).toEqual([200, ...Array(9).fill(409)]);
    const { body } = await api.call('GET', `/api/v1/alerts/${alert.id}`);
    expect(body.events).toHaveLength(2);
  });

  test('reported again is the same one, brought up to date, until it is resolved', async () => {
    const first = await open({ name: 'again', severity: 'warning', labels: { a: '1' } });
    const second = await open({
      name: 'again',
      severity: 'critical',
      labels: { a: '1' },
      metadata: { n: 2 },
    });
    expect([first.status, second.status]).toEqual([201, 200]);
    expect(second.alert).toMatchObject({
      id: first.alert.id,
      severity: 'critical',
      metadata: { n: 2 },
      status: 'firing',
    });
    const { body } = await api.call('GET', `/api/v1/alerts/${first.alert.id}`);
    expect(body.events.at(-1)).toMatchObject({
      event: 'updated',
      details: { severity: { from: 'warning', to: 'critical' }, metadata: { from: {}, to: { n: 2 } } },
    });
    // What is left out stays; what changes nothing is no event.
    const same = await open({ name: 'again', severity: 'critical', labels: { a: '1' } });
    expect(same.alert.metadata).toEqual({ n: 2 });
    expect((await api.call('GET', `/api/v1/alerts/${first.alert.id}`)).body.events).toHaveLength(2);
    // Other labels, another service: another alert.
    expect((await open({ name: 'again', severity: 'warning', labels: { a: '2' } })).status).toBe(201);
    expect(
      (await open({ name: 'again', severity: 'warning', labels: { a: '1' }, service_name: 's' })).status,
    ).toBe(201);
    await put(first.alert.id, 'resolve');
    const third = await open({ name: 'again', severity: 'warning', labels: { a: '1' } });
    expect(third.status).toBe(201);
    expect(third.alert.id).not.toBe(first.alert.id);
  });

  test('reported by ten at once is one', async () => {
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => open({ name: 'at once', severity: 'info' })),
    );
    expect(answers.map(({ status }) => status).sort()).toEqual([...Array(9).fill(200), 201]);
    expect(new Set(answers.map(({ alert }) => alert.id)).size).toBe(1);
  });

  test('that does not exist, or belongs to another org, is not found', async () => {
    const { alert } = await open({ name: 'mine', severity: 'info' });
    const theirs = await signToken({ org_id: 'other' });
    for (const id of [alert.id, '00000000-0000-4000-8000-000000000000', 'x', '%00']) {
      const token = id === alert.id ? { token: theirs } : {};
      for (const [method, path] of [
        ['GET', `/api/v1/alerts/${id}`],
        ['PUT', `/api/v1/alerts/${id}/acknowledge`],
        ['PUT', `/api/v1/alerts/${id}/resolve`],
      ] as const)
        expect((await api.call(method, path, token)).status, `${method} ${path}`).toBe(404);
    }
    expect((await api.call('GET', '/api/v1/alerts', { token: theirs })).body.alerts).toEqual([]);
  });
});

describe('the list', () => {
  beforeAll(async () => {
    await api.sql`truncate obs.alert cascade`;
    for (let i = 0; i < 25; i++) {
      const { alert } = await open({
        name: `list ${i}`,
        severity: (['critical', 'warning', 'info'] as const)[i % 3]!,
        description: i === 7 ? 'The Disk is full' : null,
        service_name: i % 2 ? 'odd' : 'even',
      });
      if (i % 5 === 0) await put(alert.id, 'acknowledge');
      if (i % 5 === 1) await put(alert.id, 'resolve');
    }
    // Some began at the same instant, where a cursor could lose them.
    await api.sql`update obs.alert set started_at = '2026-11-20T10:00:00Z' where name in ('list 3', 'list 4', 'list 5', 'list 6')`;
  });

  test('has the newest first, page after page, none twice and none missing', async () => {
    const seen: string[] = [];
    let cursor: string | null = '';
    while (cursor !== null) {
      const page: {
        alerts: { name: string; started_at: string }[];
        next_cursor: string | null;
        summary: object;
      } = await list(`?limit=4${cursor ? `&cursor=${cursor}` : ''}`);
      expect(page.summary).toEqual({
        critical: 9,
        warning: 8,
        info: 8,
        firing: 15,
        acknowledged: 5,
        resolved: 5,
        pending: 0,
        mean_time_to_acknowledge_seconds: expect.any(Number),
        mean_time_to_resolve_seconds: expect.any(Number),
      });
      seen.push(...page.alerts.map(({ name }) => name));
      cursor = page.next_cursor;
    }
    expect(seen).toHaveLength(25);
    expect(new Set(seen).size).toBe(25);
    expect(seen.slice(0, 2)).toEqual(['list 24', 'list 23']);
    expect(seen.slice(-4).sort()).toEqual(['list 3', 'list 4', 'list 5', 'list 6']);
  });

  test.each([
    ['?status=acknowledged', 5],
    ['?severity=critical', 9],
    ['?service_name=odd', 12],
    ['?status=firing&severity=info&service_name=even', 3],
    ['?q=disk%20IS', 1],
    ['?q=list%202', 6],
    ['?q=%25', 0],
    ['?start_time=2026-11-20T10:00:00Z&end_time=2026-11-20T10:00:01Z', 4],
    ['?end_time=2026-11-20T10:00:00Z', 0],
  ])('%s', async (query, count) => {
    const { alerts, summary, next_cursor } = await list(query);
    expect(alerts).toHaveLength(count);
    expect(summary.critical + summary.warning + summary.info).toBe(count);
    expect(summary.firing + summary.acknowledged + summary.resolved).toBe(count);
    expect(next_cursor).toBeNull();
  });
});

describe('bad input is a 400 that names the field', () => {
  test.each([
    [{}, ['name', 'severity']],
    [{ name: '', severity: 'fatal' }, ['name', 'severity']],
    [{ name: 'x', severity: 'info', colour: 'red' }, ['colour']],
    [{ name: 'x', severity: 'info', labels: { a: 1 } }, ['labels.a']],
    [{ name: 'x', severity: 'info', metadata: [] }, ['metadata']],
    [{ name: 'x', severity: 'info', metadata: { a: 'nul \0' } }, ['metadata']],
    [{ name: 'x', severity: 'info', metadata: { a: '\ud800' } }, ['metadata']],
    [{ name: 'x', severity: 'info', metadata: { a: 'x'.repeat(17_000) } }, ['metadata']],
    [{ name: 'x', severity: 'info', description: 'nul \0' }, ['description']],
    [{ name: 'x'.repeat(256), severity: 'info' }, ['name']],
    [[], ['']],
  ])('POST %j', async (body, paths) => {
    const { status, body: problem } = await api.call('POST', '/api/v1/alerts', { body });
    expect(status).toBe(400);
    expect(problem.errors.map(({ path }: { path: string }) => path)).toEqual(paths);
  });

  test.each([
    ['?status=open', 'query.status'],
    ['?limit=0', 'query.limit'],
    ['?limit=1001', 'query.limit'],
    ['?cursor=x', 'query.cursor'],
    [`?cursor=${Buffer.from('a b').toString('base64url')}`, 'query.cursor'],
    ['?start_time=yesterday', 'query.start_time'],
    ['?start_time=2026-01-02T00:00:00Z&end_time=2026-01-01T00:00:00Z', 'query.end_time'],
    ['?colour=red', 'query.colour'],
  ])('GET %s', async (query, path) => {
    const { status, body } = await api.call('GET', `/api/v1/alerts${query}`);
    expect(status).toBe(400);
    expect(body.errors[0].path).toBe(path);
  });

  test('PUT with a note that is none', async () => {
    const { alert } = await open({ name: 'note', severity: 'info' });
    const { status, body } = await put(alert.id, 'acknowledge', { note: 5 });
    expect([status, body.errors[0].path]).toEqual([400, 'note']);
  });
});

test.each([
  ['viewer', 200, 403],
  ['ingest', 403, 403],
  ['operator', 200, 201],
])('%s', async (role, reads, writes) => {
  const token = await signToken({ role });
  expect((await api.call('GET', '/api/v1/alerts', { token })).status).toBe(reads);
  const body = { name: `by ${role}`, severity: 'info' };
  expect((await api.call('POST', '/api/v1/alerts', { token, body })).status).toBe(writes);
});
