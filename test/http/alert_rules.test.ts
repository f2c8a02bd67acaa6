// Alert rules over HTTP: made, listed, changed, deleted, replayed over the past, and made together with an alert.
import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { ExpressionError, parseRule } from '../../src/rules/expression.ts';
import { type Call, useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';

const api = useApi();
const seed = 20261125;
const minuteMs = 60_000;

const make = (name: string, expression: string, more: object = {}, call: Call = {}) =>
  api.call('POST', '/api/v1/alert-rules', { body: { name, expression, ...more }, ...call });
const get = (id: string, call: Call = {}) => api.call('GET', `/api/v1/alert-rules/${id}`, call);
const patch = (id: string, body: object, call: Call = {}) =>
  api.call('PATCH', `/api/v1/alert-rules/${id}`, { body, ...call });
const remove = (id: string, call: Call = {}) => api.call('DELETE', `/api/v1/alert-rules/${id}`, call);
const replay = (body: object, call: Call = {}) =>
  api.call('POST', '/api/v1/alert-rules/test', { body, ...call });
const pathsOf = (body: { errors: { path: string }[] }) => body.errors.map(({ path }) => path);
const alertOf = async (id: string, call: Call = {}) =>
  (await api.call('GET', `/api/v1/alerts/${id}`, call)).body;
const alertsOf = async (query: string, call: Call = {}) =>
  (await api.call('GET', `/api/v1/alerts?${query}`, call)).body.alerts;

async function orgIdOf(org: string): Promise<number> {
  const [row] = await api.sql<{ id: number }[]>`select id from obs.org where external_id = ${org}`;
  return row!.id;
}

/** What of a database a rule could have changed. */
async function countRows() {
  const [row] = await api.sql<Record<string, number>[]>`
    select (select count(*)::int from obs.alert_rule) as rules, (select count(*)::int from obs.alert_rule_state) as states,
      (select count(*)::int from obs.alert) as alerts, (select count(*)::int from obs.alert_event) as events,
      (select count(*)::int from obs.notification_group) as groups, (select count(*)::int from obs.notification) as notifications,
      (select count(*)::int from graphile_worker.jobs) as jobs`;
  return row!;
}

/** An org of its own, whose clock is the test's: minutes count from a moment that lies ahead, so that its rules are due. */
async function useOrg(org: string) {
  const call = { token: await signToken({ org_id: org }) };
  const begin = Date.now() + minuteMs;
  await api.call('GET', '/api/v1/alert-rules', call);
  const orgId = await orgIdOf(org);
  const at = (minute: number) => new Date(begin + minute * minuteMs);
  return {
    call,
    orgId,
    at,
    /** Samples of the minute before. */
    async record(minute: number, name: string, value: number, more: object = {}) {
      const body = { name, value, timestamp: at(minute).getTime() - 1000, ...more };
      expect((await api.call('POST', '/api/v1/metrics', { ...call, body })).status).toBe(201);
    },
    /** What a worker does at that minute; answers how many rules were due. */
    async evaluate(minute: number): Promise<number> {
      const [row] = await api.sql<
        { count: number }[]
      >`select job.evaluate_rules(${orgId}, ${at(minute)}) as count`;
      return row!.count;
    },
  };
}

describe('a rule', () => {
  test('has its defaults', async () => {
    const { status, body } = await make('defaults', 'avg(response_time_ms) > 1000');
    expect(status).toBe(201);
    const { id, created_at, updated_at, next_evaluation_at, ...rest } = body;
    expect(rest).toEqual({
      name: 'defaults',
      expression: 'avg(response_time_ms) > 1000',
      for: '0s',
      severity: 'warning',
      service_name: null,
      interval_seconds: 30,
      evaluation_delay_seconds: 0,
      keep_firing_for: '0s',
      no_data: 'ok',
      labels: {},
      annotations: {},
      enabled: true,
      created_by: 'tester',
      last_evaluation_at: null,
      last_evaluation_ms: null,
      last_error: null,
      series_count: 0,
      alerts: { pending: 0, firing: 0, acknowledged: 0 },
    });
    expect(Math.abs(Date.parse(created_at) - Date.now())).toBeLessThan(10_000);
    expect(updated_at).toBe(created_at);
    // It is evaluated at once.
    expect(next_evaluation_at).toBe(created_at);
    expect((await get(id)).body).toEqual(body);
  });

  test('has every field as it was given', async () => {
    const given = {
      severity: 'critical',
      service_name: 'auth',
      interval_seconds: 5,
      evaluation_delay_seconds: 2.5,
      keep_firing_for: '90s',
      no_data: 'alert',
      labels: { team: 'core', 'on-call': 'who {{ $labels.host }} is' },
      annotations: { summary: '{{ $labels["host"] }}: {{ $value }}', runbook_url: 'https://runbook.test/1' },
      enabled: false,
    };
    const { status, body } = await make(
      'every field',
      'p95(response_time_ms) by (host) > 1000 for 2h',
      given,
    );
    expect(status).toBe(201);
    expect(body).toMatchObject({
      ...given,
      expression: 'p95 by (host) (response_time_ms{service="auth"}) > 1000 for 2h',
      for: '2h',
      keep_firing_for: '1m30s',
      next_evaluation_at: null,
    });
    expect(body.labels).toEqual(given.labels);
    expect(body.annotations).toEqual(given.annotations);
    expect((await get(body.id)).body).toEqual(body);
    const seconds = await make('keep in seconds', 'avg(x) > 1', { keep_firing_for: 5400 });
    expect(seconds.body.keep_firing_for).toBe('1h30m');
  });

  test.each([
    [
      "AVG( response_time_ms {service='auth'} [600s] )>1e3 FOR 300s",
      'avg(response_time_ms{service="auth"}[10m]) > 1000 for 5m',
      '5m',
      'auth',
    ],
    ['((avg(x)) > (1)) # too much', 'avg(x) > 1', '0s', null],
    [
      'max(a{service="s"})\n - min(b{service_name="s"}) > 3',
      'max(a{service="s"}) - min(b{service_name="s"}) > 3',
      '0s',
      's',
    ],
    ['avg(a{service="s"}) > avg(b{service="t"})', 'avg(a{service="s"}) > avg(b{service="t"})', '0s', null],
    ['avg(a{service=~"s|t"}) > 1', 'avg(a{service=~"s|t"}) > 1', '0s', null],
    ['sum(x) by (b, a) >= .5 for 1w3d', 'sum by (a, b) (x) >= 0.5 for 10d', '10d', null],
  ])('%j is kept in canonical form', async (expression, canonical, forText, service) => {
    const { status, body } = await make(`canonical ${canonical}`, expression);
    expect(status).toBe(201);
    expect(body).toMatchObject({ expression: canonical, for: forText, service_name: service });
  });

  test('is of the service it is said to be about, in the aggregates that name none', async () => {
    const { body } = await make('service', 'avg(x) > avg(y{service="b"})', { service_name: 'a' });
    expect(body).toMatchObject({
      expression: 'avg(x{service="a"}) > avg(y{service="b"})',
      service_name: 'a',
    });
    const without = await make('service null', 'avg(x{service="b"}) > 1', { service_name: null });
    expect(without.body.service_name).toBe('b');
  });

  test.each([
    [{ name: 'renamed' }],
    [{ severity: 'info' }],
    [{ interval_seconds: 86_400 }],
    [{ evaluation_delay_seconds: 3600 }],
    [{ keep_firing_for: '30d' }],
    [{ no_data: 'keep' }],
    [{ labels: { other: 'label' } }],
    [{ labels: {} }],
    [{ annotations: { description: 'another {{ $value }}' } }],
    [{ enabled: false }],
    [{}],
  ])('PATCH %j changes that and nothing else', async (change) => {
    const { body: before } = await make(`patch ${JSON.stringify(change)}`, 'avg(x) > 1 for 2m', {
      severity: 'critical',
      labels: { a: 'b' },
      annotations: { summary: 'c' },
    });
    const { status, body } = await patch(before.id, change);
    expect(status).toBe(200);
    expect(body).toEqual({
      ...before,
      ...change,
      updated_at: body.updated_at,
      next_evaluation_at: 'enabled' in change ? null : body.updated_at,
    });
    expect(Date.parse(body.updated_at)).toBeGreaterThan(Date.parse(before.updated_at));
    expect((await get(before.id)).body).toEqual(body);
  });

  test('PATCH of the expression decides on for and the service anew', async () => {
    const { body } = await make('patched', 'avg(x) > 1 for 2m', { service_name: 'auth' });
    expect(body).toMatchObject({ expression: 'avg(x{service="auth"}) > 1 for 2m', service_name: 'auth' });
    const other = await patch(body.id, { expression: 'max(y) > 2', service_name: 'billing' });
    expect(other.body).toMatchObject({
      expression: 'max(y{service="billing"}) > 2',
      service_name: 'billing',
      for: '0s',
    });
    const implied = await patch(body.id, { expression: 'max(y{service="shop"}) > 2 for 1h' });
    expect(implied.body).toMatchObject({
      expression: 'max(y{service="shop"}) > 2 for 1h',
      service_name: 'shop',
      for: '1h',
    });
    const none = await patch(body.id, { expression: 'max(y) > 2' });
    expect(none.body).toMatchObject({ expression: 'max(y) > 2', service_name: null, for: '0s' });
    // What it is about is in the expression: one cannot change without the other.
    for (const service_name of ['auth', null]) {
      const alone = await patch(body.id, { service_name });
      expect(alone.status).toBe(400);
      expect(alone.body.errors).toEqual([
        { path: 'service_name', message: 'changes together with expression' },
      ]);
    }
    expect((await get(body.id)).body).toEqual(none.body);
  });

  test('has a name that no other of the org has', async () => {
    const { body: first } = await make('taken', 'avg(x) > 1');
    const { body: second } = await make('free', 'avg(x) > 1');
    const answers = [
      await make('taken', 'avg(y) > 1'),
      await patch(second.id, { name: 'taken', no_data: 'keep' }),
    ];
    for (const { status, body } of answers) {
      expect(status).toBe(409);
      expect(body.code).toBe('name_taken');
      expect(body.errors).toEqual([{ path: 'name', message: 'another has this name already' }]);
    }
    expect((await get(second.id)).body).toEqual(second);
    expect((await patch(first.id, { name: 'taken' })).status).toBe(200);
    // Ten at once are one.
    const race = await Promise.all(Array.from({ length: 10 }, () => make('at once', 'avg(x) > 1')));
    expect(race.map(({ status }) => status).sort()).toEqual([201, ...Array(9).fill(409)]);
    // Another org has names of its own.
    expect((await make('taken', 'avg(x) > 1', {}, (await useOrg('namesake')).call)).status).toBe(201);
  });
});

describe('a rule and its alerts', () => {
  /** A rule whose alert fires, and one whose alert is pending. */
  async function begin(name: string) {
    const org = await useOrg(name);
    const { body: fires } = await make('fires', 'max by (host) (t[1m]) > 50', {}, org.call);
    const { body: waits } = await make('waits', 'max(t[1m]) > 50 for 1h', {}, org.call);
    await org.record(0, 't', 60, { labels: { host: 'a' } });
    expect(await org.evaluate(0)).toBe(2);
    const [firing] = await alertsOf('status=firing', org.call);
    const [pending] = await alertsOf('status=pending', org.call);
    expect(firing).toMatchObject({ name: 'fires', rule_id: fires.id });
    expect(pending).toMatchObject({ name: 'waits', rule_id: waits.id });
    return { org, fires, waits, firing, pending };
  }

  test('shows how many it has, and when it was looked at', async () => {
    const { org, fires, waits, firing } = await begin('counts');
    const rule = (await get(fires.id, org.call)).body;
    expect(rule).toMatchObject({
      alerts: { pending: 0, firing: 1, acknowledged: 0 },
      last_evaluation_at: org.at(0).toISOString(),
      last_error: null,
    });
    expect(rule.last_evaluation_ms).toBeGreaterThan(0);
    const untilNext = Date.parse(rule.next_evaluation_at) - org.at(0).getTime();
    expect(untilNext).toBeGreaterThan(0);
    expect(untilNext).toBeLessThanOrEqual(30_000);
    expect((await get(waits.id, org.call)).body.alerts).toEqual({ pending: 1, firing: 0, acknowledged: 0 });
    await api.call('PUT', `/api/v1/alerts/${firing.id}/acknowledge`, org.call);
    expect((await get(fires.id, org.call)).body.alerts).toEqual({ pending: 0, firing: 0, acknowledged: 1 });
    await org.record(1, 't', 40, { labels: { host: 'a' } });
    await org.evaluate(1);
    for (const { id } of [fires, waits])
      expect((await get(id, org.call)).body.alerts).toEqual({ pending: 0, firing: 0, acknowledged: 0 });
    expect(await alertOf(firing.id, org.call)).toMatchObject({
      status: 'resolved',
      resolved_at: org.at(1).toISOString(),
    });
  });

  test('gives them its labels, annotations and description, with what it found', async () => {
    const org = await useOrg('templates');
    const { body: rule } = await make(
      'hot',
      'max by (host, service) (t[1m]) > 50',
      {
        severity: 'critical',
        labels: { team: 'core', where: 'on {{ $labels.host }} of {{$labels.service}}' },
        annotations: {
          summary: '{{ $labels.where }} it is {{ $value }} ({{ $labels.severity }})',
          empty: '{{ $labels["no such"] }}',
        },
      },
      org.call,
    );
    await org.record(0, 't', 61.5, { labels: { host: 'a' }, service_name: 'boiler' });
    await org.evaluate(0);
    const [alert] = await alertsOf('q=hot', org.call);
    expect(alert).toMatchObject({
      source: 'rule',
      rule_id: rule.id,
      status: 'firing',
      severity: 'critical',
      service_name: 'boiler',
      labels: { host: 'a', service: 'boiler', team: 'core', where: 'on a of boiler' },
      annotations: { summary: 'on a of boiler it is 61.5 (critical)', empty: '' },
      description: 'on a of boiler it is 61.5 (critical)',
      value: 61.5,
      started_at: org.at(0).toISOString(),
    });
    await org.record(1, 't', 70, { labels: { host: 'a' }, service_name: 'boiler' });
    await org.evaluate(1);
    expect(await alertOf(alert.id, org.call)).toMatchObject({
      value: 70,
      description: 'on a of boiler it is 70 (critical)',
      started_at: org.at(0).toISOString(),
    });
  });

  test('that is disabled resolves them, is evaluated no more, and begins anew once it is enabled', async () => {
    const { org, fires, waits, firing, pending } = await begin('disabling');
    for (const { id } of [fires, waits]) {
      const { body } = await patch(id, { enabled: false }, org.call);
      expect(body).toMatchObject({
        enabled: false,
        next_evaluation_at: null,
        alerts: { pending: 0, firing: 0, acknowledged: 0 },
      });
    }
    const resolved = await alertOf(firing.id, org.call);
    expect(resolved.status).toBe('resolved');
    expect(resolved.events.at(-1)).toMatchObject({
      event: 'resolved',
      actor: 'tester',
      note: 'the rule was disabled',
    });
    expect((await api.call('GET', `/api/v1/alerts/${pending.id}`, org.call)).status).toBe(404);
    await org.record(1, 't', 60, { labels: { host: 'a' } });
    expect(await org.evaluate(1)).toBe(0);
    expect(await alertsOf('status=firing', org.call)).toEqual([]);

    const { body: enabled } = await patch(fires.id, { enabled: true }, org.call);
    expect(enabled).toMatchObject({ enabled: true, next_evaluation_at: enabled.updated_at });
    expect(await org.evaluate(1)).toBe(1);
    const [anew] = await alertsOf('status=firing', org.call);
    expect(anew.rule_id).toBe(fires.id);
    expect(anew.id).not.toBe(firing.id);
  });

  test('that is deleted resolves them, and leaves them behind', async () => {
    const { org, fires, waits, firing, pending } = await begin('deleting');
    for (const { id } of [fires, waits]) {
      expect((await remove(id, org.call)).status).toBe(204);
      for (const again of [
        await get(id, org.call),
        await patch(id, {}, org.call),
        await remove(id, org.call),
      ])
        expect([again.status, again.body.detail]).toEqual([404, 'There is no such alert rule.']);
    }
    const resolved = await alertOf(firing.id, org.call);
    expect(resolved).toMatchObject({ status: 'resolved', rule_id: null, name: 'fires' });
    expect(resolved.events.at(-1)).toMatchObject({ actor: 'tester', note: 'the rule was deleted' });
    expect((await api.call('GET', `/api/v1/alerts/${pending.id}`, org.call)).status).toBe(404);
    expect((await api.call('GET', '/api/v1/alert-rules', org.call)).body.alert_rules).toEqual([]);
    expect(await org.evaluate(1)).toBe(0);
  });

  test('that could not be evaluated says why, until it is changed', async () => {
    const org = await useOrg('failing');
    const { body: rule } = await make('fails', 'avg(x) > 1', {}, org.call);
    await api.sql`select job.fail_rule(${rule.id}, 'it took too long', ${org.at(0)})`;
    expect((await get(rule.id, org.call)).body).toMatchObject({
      last_error: 'it took too long',
      last_evaluation_at: org.at(0).toISOString(),
      last_evaluation_ms: null,
    });
    expect((await patch(rule.id, { severity: 'info' }, org.call)).body.last_error).toBeNull();
  });
});

describe('the list', () => {
  let call: Call;
  const list = async (query = '') => (await api.call('GET', `/api/v1/alert-rules${query}`, call)).body;
  const namesOf = (page: { alert_rules: { name: string }[] }) => page.alert_rules.map(({ name }) => name);
  beforeAll(async () => {
    const org = await useOrg('lists');
    call = org.call;
    for (let i = 0; i < 10; i++) {
      const name = i === 7 ? 'List 7 is 100% Other' : `list ${i}`;
      expect((await make(name, 'avg(x) > 1', { enabled: i % 3 !== 0 }, call)).status).toBe(201);
    }
    // Made at the same instant, where a cursor could lose them.
    await api.sql`update obs.alert_rule set created_at = '2026-01-01T00:00:00.123456Z' where org_id = ${org.orgId} and name in ('list 2', 'list 3', 'list 4', 'list 5')`;
  });

  test('has the newest first, page after page, whatever is made and deleted meanwhile', async () => {
    const seen: string[] = [];
    let query = '?limit=3';
    for (let page = 0; ; page++) {
      const body = await list(query);
      expect(body.alert_rules.length).toBeLessThanOrEqual(3);
      seen.push(...namesOf(body));
      if (body.next_cursor === null) break;
      query = `?limit=3&cursor=${body.next_cursor}`;
      if (page === 0) {
        await make('made meanwhile', 'avg(x) > 1', {}, call);
        // The last of the page, at which the next one begins.
        await remove(body.alert_rules.at(-1).id, call);
      }
    }
    expect(seen.slice(0, 6)).toEqual([
      'list 9',
      'list 8',
      'List 7 is 100% Other',
      'list 6',
      'list 1',
      'list 0',
    ]);
    expect(seen.slice(6).sort()).toEqual(['list 2', 'list 3', 'list 4', 'list 5']);
    expect(seen).toHaveLength(10);
    expect(namesOf(await list())[0]).toBe('made meanwhile');
  });

  test('shows each as it is shown by itself', async () => {
    const [rule] = (await list('?q=list%209')).alert_rules;
    expect((await get(rule.id, call)).body).toEqual({ ...rule, series_count: 0 });
  });

  test.each([
    ['?q=LIST%209', ['list 9']],
    ['?q=%25', ['made later 100%']],
    ['?q=_', []],
    ['?active=false&q=list', ['list 9', 'list 6', 'list 0', 'list 3']],
    ['?active=true&q=list', ['list 8', 'list 1', 'list 2', 'list 4', 'list 5']],
    ['?active=false&q=8', []],
  ])('%s', async (query, expected) => {
    if (query === '?q=%25') await make('made later 100%', 'avg(x) > 1', {}, call);
    const body = await list(query);
    expect(namesOf(body).sort()).toEqual([...expected].sort());
    expect(body.next_cursor).toBeNull();
  });

  test.each([
    ['?limit=0', 'query.limit'],
    ['?limit=1001', 'query.limit'],
    ['?limit=x', 'query.limit'],
    ['?active=yes', 'query.active'],
    ['?q=', 'query.q'],
    ['?cursor=x', 'query.cursor'],
    [`?cursor=${Buffer.from('a b').toString('base64url')}`, 'query.cursor'],
    ['?colour=red', 'query.colour'],
    ['?limit=1&limit=2', 'query.limit'],
  ])('%s is a 400', async (query, path) => {
    const { status, body } = await api.call('GET', `/api/v1/alert-rules${query}`, call);
    expect([status, body.errors[0].path]).toEqual([400, path]);
  });
});

describe('bad input is a 400 that names the field', () => {
  const rule = { name: 'refused', expression: 'avg(x) > 1' };
  const many = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, 'v']));

  test.each([
    [{}, ['name', 'expression']],
    [[], ['']],
    [{ ...rule, colour: 'red' }, ['colour']],
    [{ ...rule, colour: 'red', for: '5m', id: 'x' }, ['colour', 'for', 'id']],
    [{ ...rule, name: '' }, ['name']],
    [{ ...rule, name: 'n'.repeat(256) }, ['name']],
    [{ ...rule, name: 'nul \0' }, ['name']],
    [{ ...rule, expression: 5 }, ['expression']],
    [{ ...rule, severity: 'fatal' }, ['severity']],
    [{ ...rule, service_name: '' }, ['service_name']],
    [{ ...rule, service_name: 's'.repeat(256) }, ['service_name']],
    [{ ...rule, interval_seconds: 4 }, ['interval_seconds']],
    [{ ...rule, interval_seconds: 86_401 }, ['interval_seconds']],
    [{ ...rule, interval_seconds: 5.5 }, ['interval_seconds']],
    [{ ...rule, interval_seconds: '30' }, ['interval_seconds']],
    [{ ...rule, evaluation_delay_seconds: -1 }, ['evaluation_delay_seconds']],
    [{ ...rule, evaluation_delay_seconds: 3601 }, ['evaluation_delay_seconds']],
    [{ ...rule, keep_firing_for: '31d' }, ['keep_firing_for']],
    [{ ...rule, keep_firing_for: -1 }, ['keep_firing_for']],
    [{ ...rule, keep_firing_for: '5 minutes' }, ['keep_firing_for']],
    [{ ...rule, keep_firing_for: null }, ['keep_firing_for']],
    [{ ...rule, keep_firing_for: 0.5 }, ['keep_firing_for']],
    [{ ...rule, expression: `avg(x{service="${'s'.repeat(256)}"}) > 1` }, ['expression']],
    [{ ...rule, no_data: 'fire' }, ['no_data']],
    [{ ...rule, labels: [] }, ['labels']],
    [{ ...rule, labels: { a: 1 } }, ['labels.a']],
    [{ ...rule, labels: { a: 'v'.repeat(1025) } }, ['labels.a']],
    [{ ...rule, labels: { ['k'.repeat(129)]: 'v' } }, [`labels.${'k'.repeat(129)}`]],
    [{ ...rule, labels: many(33) }, ['labels']],
    [{ ...rule, annotations: { a: 'v'.repeat(4097) } }, ['annotations.a']],
    [{ ...rule, annotations: { a: 'nul \0' } }, ['annotations.a']],
    [{ ...rule, annotations: many(33) }, ['annotations']],
    [{ ...rule, enabled: 'yes' }, ['enabled']],
    [
      { ...rule, severity: 'fatal', no_data: 'x', labels: { a: '{{ $x }}' } },
      ['severity', 'no_data', 'labels.a'],
    ],
  ])('%j', async (body, paths) => {
    const before = await countRows();
    const posted = await api.call('POST', '/api/v1/alert-rules', { body });
    expect(posted.status).toBe(400);
    expect(pathsOf(posted.body).sort()).toEqual([...paths].sort());
    expect(await countRows()).toEqual(before);
  });

  test('the limits themselves are taken', async () => {
    const { status, body } = await make('n'.repeat(255), 'avg(x) > 1', {
      service_name: 's'.repeat(255),
      interval_seconds: 86_400,
      evaluation_delay_seconds: 3600,
      keep_firing_for: '30d',
      labels: { ...many(31), ['k'.repeat(128)]: 'v'.repeat(1024) },
      annotations: { ...many(31), a: 'v\n'.repeat(2048) },
    });
    expect(status).toBe(201);
    expect(Object.keys(body.labels)).toHaveLength(32);
    expect(body.annotations.a).toHaveLength(4096);
  });

  test('PATCH', async () => {
    const { body: before } = await make('not changed', 'avg(x) > 1');
    for (const [change, paths] of [
      [{ colour: 'red' }, ['colour']],
      [{ name: null }, ['name']],
      [{ expression: null }, ['expression']],
      [{ severity: null }, ['severity']],
      [{ interval_seconds: 4, enabled: 1 }, ['interval_seconds', 'enabled']],
      [{ created_by: 'me' }, ['created_by']],
      ['[]', ['']],
    ] as const) {
      const { status, body } = await patch(before.id, change as object);
      expect(status).toBe(400);
      expect(pathsOf(body)).toEqual(paths);
    }
    expect((await get(before.id)).body).toEqual(before);
  });

  test('an expression and templates with the line and the column', async () => {
    const { status, body } = await make('positions', '# first\navg(x) >\n  and', {
      labels: { good: '{{ $value }}', bad: 'one {{ $foo }}' },
      annotations: { open: 'one\ntwo {{ $value', brackets: '{{ $labels[host] }}' },
    });
    expect(status).toBe(400);
    expect(body.errors.map(({ message: _, ...where }: { message: string }) => where)).toEqual([
      { path: 'expression', line: 3, column: 3 },
      { path: 'labels.bad', line: 1, column: 5 },
      { path: 'annotations.open', line: 2, column: 5 },
      { path: 'annotations.brackets', line: 1, column: 1 },
    ]);
    expect(body.errors[0].message).toContain('line 3, column 3: expected an aggregate of a metric');
    expect(body.errors[1].message).toContain('expected {{ $value }}, {{ $labels.NAME }}');
    const { body: rule } = await make('position', 'avg(x) > 1');
    const patched = await patch(rule.id, { expression: 'avg(x) > 1 for 5 m' });
    expect(patched.status).toBe(400);
    expect(patched.body.errors).toMatchObject([{ path: 'expression', line: 1, column: 16 }]);
    const replayed = await replay({ expression: 'avg(x', start_time: 0, end_time: 1 });
    expect(replayed.body.errors).toContainEqual(
      expect.objectContaining({ path: 'expression', line: 1, column: 6 }),
    );
    const opened = await api.call('POST', '/api/v1/alerts', {
      body: { name: 'x', severity: 'info', rule_expression: 'avg(x) = 1' },
    });
    expect(opened.body.errors).toMatchObject([{ path: 'rule_expression', line: 1, column: 8 }]);
  });
});

test('an org has as many rules as its rule_limit says, however many come at once', async () => {
  const { call, orgId } = await useOrg('limited');
  await api.sql`update obs.org set rule_limit = 3 where id = ${orgId}`;
  const race = await Promise.all(
    Array.from({ length: 8 }, (_, i) => make(`rule ${i}`, 'avg(x) > 1', {}, call)),
  );
  expect(race.map(({ status }) => status).sort()).toEqual([201, 201, 201, 422, 422, 422, 422, 422]);
  const refused = race.find(({ status }) => status === 422)!;
  expect(refused.body).toMatchObject({
    code: 'rule_limit',
    detail: 'the org has 3 rules, which is all that it may have',
  });
  const alert = { name: 'one more', severity: 'info', rule_expression: 'avg(x) > 1' };
  expect((await api.call('POST', '/api/v1/alerts', { ...call, body: alert })).status).toBe(422);
  expect(await alertsOf('q=one', call)).toEqual([]);
  // What is there may be changed, and what is deleted makes room.
  const { alert_rules } = (await api.call('GET', '/api/v1/alert-rules', call)).body;
  expect((await patch(alert_rules[0].id, { severity: 'info' }, call)).status).toBe(200);
  const known = { ...alert, name: alert_rules[1].name };
  expect((await api.call('POST', '/api/v1/alerts', { ...call, body: known })).status).toBe(201);
  await remove(alert_rules[2].id, call);
  expect((await make('again', 'avg(x) > 1', {}, call)).status).toBe(201);
  expect((await make('too much', 'avg(x) > 1', {}, call)).status).toBe(422);
});

test.each([
  ['viewer', 200, 403],
  ['ingest', 403, 403],
  ['operator', 200, 201],
])('%s', async (role, reads, writes) => {
  const { body: rule } = await make(`for ${role}`, 'avg(x) > 1');
  const call = { token: await signToken({ role }) };
  expect((await api.call('GET', '/api/v1/alert-rules', call)).status).toBe(reads);
  expect((await get(rule.id, call)).status).toBe(reads);
  const range = { start_time: Date.now() - 60_000, end_time: Date.now() };
  expect((await replay({ expression: 'avg(x) > 1', ...range }, call)).status).toBe(reads);
  expect((await make(`by ${role}`, 'avg(x) > 1', {}, call)).status).toBe(writes);
  // Before the body is looked at.
  expect((await make('', '', {}, call)).status).toBe(writes === 201 ? 400 : 403);
  expect((await patch(rule.id, { severity: 'info' }, call)).status).toBe(writes === 201 ? 200 : 403);
  expect((await remove(rule.id, call)).status).toBe(writes === 201 ? 204 : 403);
  expect((await get(rule.id)).status).toBe(writes === 201 ? 404 : 200);
});

test('without a token nothing', async () => {
  const { body } = await make('unseen', 'avg(x) > 1');
  const call = { token: null };
  for (const answer of [
    await get(body.id, call),
    await api.call('GET', '/api/v1/alert-rules', call),
    await make('x', 'avg(x) > 1', {}, call),
    await patch(body.id, {}, call),
    await remove(body.id, call),
    await replay({}, call),
  ])
    expect(answer.status).toBe(401);
});

test('that of another org, and what is none, is not found', async () => {
  const { body: rule } = await make('mine', 'avg(x) > 1');
  const theirs = (await useOrg('others')).call;
  expect((await api.call('GET', '/api/v1/alert-rules', theirs)).body.alert_rules).toEqual([]);
  for (const [id, call] of [
    [rule.id, theirs],
    ['00000000-0000-4000-8000-000000000000', {}],
    ['x', {}],
    ['%00', {}],
  ])
    for (const answer of [
      await get(id, call),
      await patch(id, { severity: 'critical', enabled: false }, call),
      await remove(id, call),
    ])
      expect([answer.status, answer.body.code]).toEqual([404, 'not_found']);
  expect((await get(rule.id)).body).toEqual(rule);
  expect((await get(rule.id.toUpperCase())).body).toEqual(rule);
  for (const answer of [
    await api.call('GET', `/api/v1/alert-rules/${rule.id}?full=1`),
    await api.call('DELETE', `/api/v1/alert-rules/${rule.id}?full=1`),
    await api.call('PATCH', `/api/v1/alert-rules/${rule.id}?full=1`, { body: {} }),
    await api.call('POST', '/api/v1/alert-rules?full=1', { body: { name: 'q', expression: 'avg(x) > 1' } }),
    await api.call('POST', '/api/v1/alert-rules/test?full=1', { body: {} }),
  ])
    expect([answer.status, pathsOf(answer.body)]).toEqual([400, ['query.full']]);
});

describe('a replay', () => {
  // Some hours ago, at the full hour: minutes count from there. Sample n is that of minute n, and an evaluation at
  // minute n with a window of a minute finds that of the minute before.
  const begin = Math.floor(Date.now() / 3_600_000 - 6) * 3_600_000;
  const at = (minute: number) => new Date(begin + minute * minuteMs).toISOString();
  const range = { start_time: at(0), end_time: at(40), interval_seconds: 60 };
  const hot = (minute: number, ...ranges: [number, number][]) =>
    ranges.some(([from, to]) => minute >= from && minute <= to) ? 60 : 40;
  const timesOf = (body: {
    alerts: { pending_at: string; firing_at: string | null; resolved_at: string | null }[];
  }) =>
    body.alerts.map(({ pending_at, firing_at, resolved_at }) =>
      [pending_at, firing_at, resolved_at].map((time) => time && (Date.parse(time) - begin) / minuteMs),
    );

  beforeAll(async () => {
    const metrics = Array.from({ length: 40 }, (_, minute) =>
      [
        { name: 'heat', value: hot(minute, [10, 19]), labels: { host: 'a' }, service_name: 'boiler' },
        { name: 'heat', value: hot(minute, [5, 6], [35, 39]), labels: { host: 'b' }, service_name: 'boiler' },
        ...(minute < 10 ? [{ name: 'beat', value: 40 }] : []),
        { name: 'saw', value: minute % 4 < 2 ? 60 : 40 },
      ].map((metric) => ({ ...metric, timestamp: at(minute) })),
    ).flat();
    const { status } = await api.call('POST', '/api/v1/metrics/batch', { body: { metrics } });
    expect(status).toBe(201);
  });

  test('tells to the instant when alerts would have been pending, have fired and been resolved', async () => {
    const { status, body } = await replay({
      ...range,
      expression: "AVG(heat{host='a'}[60s]) > 50 for 180s",
      name: 'Too hot',
      labels: { team: 'core' },
      annotations: { summary: '{{ $labels.alertname }}: {{ $value }} of {{ $labels.team }}' },
    });
    expect(status).toBe(200);
    expect(body).toEqual({
      expression: 'avg(heat{host="a"}[1m]) > 50 for 3m',
      interval_seconds: 60,
      evaluations: 40,
      alerts: [
        {
          name: 'Too hot',
          service_name: null,
          labels: { team: 'core' },
          annotations: { summary: 'Too hot: 60 of core' },
          description: 'Too hot: 60 of core',
          value: 60,
          pending_at: at(11),
          firing_at: at(14),
          resolved_at: at(21),
        },
      ],
      truncated: false,
    });
  });

  test('of groups tells of each, of those that were pending only, and of those that are still open', async () => {
    const { body } = await replay({
      ...range,
      expression: 'avg by (host, service) (heat[1m]) > 50 for 3m',
      start_time: Date.parse(range.start_time),
      end_time: Date.parse(range.end_time),
    });
    expect(
      body.alerts.map(({ labels, service_name }: { labels: object; service_name: string }) => [
        labels,
        service_name,
      ]),
    ).toEqual([
      [{ host: 'b', service: 'boiler' }, 'boiler'],
      [{ host: 'a', service: 'boiler' }, 'boiler'],
      [{ host: 'b', service: 'boiler' }, 'boiler'],
    ]);
    expect(timesOf(body)).toEqual([
      [6, null, 8],
      [11, 14, 21],
      [36, 39, null],
    ]);
  });

  test.each([
    ['without for it fires at once', 'avg(heat{host="a"}[1m]) > 50', {}, [[11, 11, 21]]],
    ['keep_firing_for', 'avg(heat{host="a"}[1m]) > 50', { keep_firing_for: '2m' }, [[11, 11, 23]]],
    [
      'evaluation_delay_seconds',
      'avg(heat{host="a"}[1m]) > 50',
      { evaluation_delay_seconds: 120 },
      [[13, 13, 23]],
    ],
    [
      'a shorter interval is more exact',
      'last(heat{host="a"}[1m]) > 50 for 1m',
      { interval_seconds: 20 },
      // The first to see a sample comes right after it: the window ends before the moment itself.
      [[10 + 1 / 3, 11 + 1 / 3, 20 + 1 / 3]],
    ],
    [
      'a series that flaps',
      'avg(saw[1m]) > 50',
      { end_time: at(10) },
      [
        [1, 1, 3],
        [5, 5, 7],
        [9, 9, null],
      ],
    ],
    ['one kept firing over the gaps', 'avg(saw[1m]) > 50', { keep_firing_for: '3m' }, [[1, 1, null]]],
    [
      'absent',
      'absent(beat[1m]) for 2m',
      {},
      [
        [0, null, 1],
        [11, 13, null],
      ],
    ],
    [
      'no_data alert',
      'avg(beat[1m]) > 50',
      { no_data: 'alert' },
      [
        [0, 0, 1],
        [11, 11, null],
      ],
    ],
    ['no_data ok', 'avg(beat[1m]) < 50 for 1m', {}, [[1, 2, 11]]],
    ['no_data keep', 'avg(beat[1m]) < 50 for 1m', { no_data: 'keep' }, [[1, 2, null]]],
    ['no samples at all', 'avg(nothing) > 1', {}, []],
    ['another service', 'avg(heat[1m]) > 50', { service_name: 'other' }, []],
  ])('%s', async (_title, expression, more, expected) => {
    const { status, body } = await replay({ ...range, expression, ...more });
    expect(status).toBe(200);
    const times = timesOf(body);
    expect(times.map((row) => row.map((time) => time && Math.round(Number(time) * 60)))).toEqual(
      expected.map((row) => row.map((time) => time && Math.round(time * 60))),
    );
  });

  test('says the same as the evaluations that it replays', async () => {
    // The rule as it is evaluated from now on, on samples whose minutes are those of a replay that follows.
    const org = await useOrg('twice');
    const expression = 'max by (host) (t[1m]) > 50 for 1m';
    const { body: rule } = await make(
      'told twice',
      expression,
      { interval_seconds: 60, keep_firing_for: '1m' },
      org.call,
    );
    const values = { a: [60, 60, 60, 40, 40, 40, 60, 60], b: [40, 60, 40, 60, 60, 60, 40, 40] };
    for (let minute = 0; minute < 8; minute++) {
      for (const host of ['a', 'b'] as const)
        await org.record(minute, 't', values[host][minute]!, { labels: { host } });
      await api.sql`update obs.alert_rule_state set next_evaluation_at = ${org.at(minute)} where rule_id = ${rule.id}`;
      expect(await org.evaluate(minute)).toBe(1);
    }
    const { body } = await replay(
      { expression, interval_seconds: 60, keep_firing_for: '1m', start_time: org.at(0), end_time: org.at(8) },
      org.call,
    );
    const fired = body.alerts.filter(({ firing_at }: { firing_at: string | null }) => firing_at !== null);
    const alerts = await alertsOf('', org.call);
    const brief = (rows: Record<string, unknown>[], startsAt: string) =>
      rows.map((row) => JSON.stringify([row.labels, row[startsAt], row.resolved_at])).sort();
    expect(brief(fired, 'firing_at')).toEqual(brief(alerts, 'started_at'));
    expect(fired).toHaveLength(3);
  });

  test('stores nothing, and sees nothing of another org', async () => {
    const before = await countRows();
    expect((await replay({ ...range, expression: 'avg(heat[1m]) > 1' })).body.alerts).toHaveLength(1);
    expect(await countRows()).toEqual(before);
    const { call } = await useOrg('blind');
    expect((await replay({ ...range, expression: 'avg(heat[1m]) > 1' }, call)).body.alerts).toEqual([]);
    expect((await replay({ ...range, expression: 'absent(heat[1m])' }, call)).body.alerts).toHaveLength(1);
  });

  test('is of 3000 evaluations at most', async () => {
    const rule = { expression: 'avg(nothing) > 1', interval_seconds: 5, start_time: begin };
    // So many are taken, and would take seconds: it is enough that SQL is asked.
    await api.sql`revoke execute on function api.test_rule from obs_api`;
    try {
      expect((await replay({ ...rule, end_time: begin + 3000 * 5000 })).status).toBe(403);
      const refused = await replay({ ...rule, end_time: begin + 3000 * 5000 + 1 });
      expect(refused.status).toBe(400);
      expect(refused.body.errors).toEqual([
        {
          path: 'interval_seconds',
          message: '3001 evaluations are more than 3000: make it 6 or more, or the range shorter',
        },
      ]);
      // By default each 30 s.
      const { interval_seconds: _, ...byDefault } = rule;
      expect((await replay({ ...byDefault, end_time: begin + 3000 * 30_000 })).status).toBe(403);
      expect((await replay({ ...byDefault, end_time: begin + 3000 * 30_000 + 1 })).status).toBe(400);
    } finally {
      await api.sql`grant execute on function api.test_rule to obs_api`;
    }
    expect((await replay({ ...rule, end_time: begin + 100 * 5000 })).body.evaluations).toBe(100);
    expect((await replay({ ...rule, end_time: begin + 100 * 5000 + 1 })).body.evaluations).toBe(101);
    const { interval_seconds: _, ...byDefault } = rule;
    expect((await replay({ ...byDefault, end_time: begin + 60_000 })).body).toMatchObject({
      interval_seconds: 30,
      evaluations: 2,
    });
  });

  test.each([
    [{}, ['expression', 'start_time', 'end_time']],
    [{ expression: 'avg(x) > 1', start_time: at(1), end_time: at(1) }, ['end_time']],
    [{ expression: 'avg(x) > 1', start_time: 'yesterday', end_time: at(1) }, ['start_time']],
    [{ expression: 'avg(x) > 1', start_time: at(0), end_time: at(1), limit: 5 }, ['limit']],
    [
      { expression: 'avg(x) > 1', start_time: at(0), end_time: at(1), interval_seconds: 1 },
      ['interval_seconds'],
    ],
    [
      { expression: 'avg(x) > 1', start_time: at(0), end_time: at(1), labels: { a: '{{ x }}' } },
      ['labels.a'],
    ],
  ])('of %j is a 400', async (body, paths) => {
    const { status, body: problem } = await replay(body);
    expect(status).toBe(400);
    expect(pathsOf(problem)).toEqual(paths);
  });
});

describe('an alert with a rule_expression', () => {
  const open = (body: object, call: Call) => api.call('POST', '/api/v1/alerts', { ...call, body });

  test('fires, and makes the rule that resolves it once the condition has held and does so no more', async () => {
    const org = await useOrg('with-rules');
    const alert = {
      name: 'Slow',
      severity: 'warning',
      description: 'Is {{ $value }} literal? {{ no template',
      service_name: 'auth',
      labels: { team: '{{ $labels.x }}' },
      metadata: { run: 1 },
      rule_expression: 'avg(t[1m]) > 50',
    };
    const first = await open(alert, org.call);
    expect(first.status).toBe(201);
    const { rule_expression: _, ...shown } = alert;
    expect(first.body).toMatchObject({ ...shown, status: 'firing', source: 'api', value: null });
    const { body: rule } = await get(first.body.rule_id, org.call);
    expect(rule).toMatchObject({
      name: 'Slow',
      expression: 'avg(t{service="auth"}[1m]) > 50',
      service_name: 'auth',
      severity: 'warning',
      labels: alert.labels,
      annotations: { description: alert.description },
      enabled: true,
      created_by: 'tester',
      alerts: { pending: 0, firing: 1, acknowledged: 0 },
    });

    // Once more is the same alert and the same rule.
    const second = await open(
      { ...alert, severity: 'critical', rule_expression: 'avg(t[1m]) > 55' },
      org.call,
    );
    expect(second.status).toBe(200);
    expect(second.body).toMatchObject({ id: first.body.id, rule_id: rule.id, severity: 'critical' });
    expect((await api.call('GET', '/api/v1/alert-rules', org.call)).body.alert_rules).toMatchObject([
      { id: rule.id, severity: 'critical', expression: 'avg(t{service="auth"}[1m]) > 55' },
    ]);

    const states: [string, number | null][] = [];
    for (const [minute, value] of [null, 40, 60, 40, 60].entries()) {
      if (value !== null) await org.record(minute, 't', value, { service_name: 'auth' });
      // Of another service, which the rule is not about.
      await org.record(minute, 't', 99, { service_name: 'billing' });
      expect(await org.evaluate(minute)).toBe(1);
      const { status, value: found } = await alertOf(first.body.id, org.call);
      states.push([status, found]);
    }
    // That the condition does not hold says nothing until it has held.
    expect(states).toEqual([
      ['firing', null],
      ['firing', null],
      ['firing', 60],
      ['resolved', 60],
      ['resolved', 60],
    ]);
    const resolved = await alertOf(first.body.id, org.call);
    expect(resolved.resolved_at).toBe(org.at(3).toISOString());
    expect(resolved.events.at(-1)).toMatchObject({
      event: 'resolved',
      actor: 'worker',
      note: 'the condition does not hold any more',
    });
    // And it goes on looking.
    const alerts = await alertsOf('status=firing', org.call);
    expect(alerts).toMatchObject([
      {
        source: 'rule',
        rule_id: rule.id,
        name: 'Slow',
        severity: 'critical',
        service_name: 'auth',
        labels: alert.labels,
        description: alert.description,
        started_at: org.at(4).toISOString(),
        value: 60,
      },
    ]);
  });

  test('takes the place of one that the rule has pending', async () => {
    const org = await useOrg('pending');
    const { body: rule } = await make('Pending', 'max(t[1m]) > 50 for 1h', {}, org.call);
    await org.record(0, 't', 60);
    await org.evaluate(0);
    const [pending] = await alertsOf('status=pending', org.call);
    const { status, body } = await open(
      { name: 'Pending', severity: 'info', rule_expression: 'max(t[1m]) > 50 for 1h' },
      org.call,
    );
    expect(status).toBe(201);
    expect(body).toMatchObject({ id: pending.id, rule_id: rule.id, status: 'firing' });
    expect(await alertsOf('status=pending', org.call)).toEqual([]);
  });

  test('reported by ten at once is one, with one rule', async () => {
    const { call } = await useOrg('alerts at once');
    const alert = { name: 'At once', severity: 'info', rule_expression: 'avg(x) > 1' };
    const answers = await Promise.all(Array.from({ length: 10 }, () => open(alert, call)));
    expect(answers.map(({ status }) => status).sort()).toEqual([...Array(9).fill(200), 201]);
    expect(new Set(answers.map(({ body }) => body.id)).size).toBe(1);
    expect((await api.call('GET', '/api/v1/alert-rules', call)).body.alert_rules).toHaveLength(1);
  });

  test('enables the rule there is, which could not resolve it otherwise', async () => {
    const org = await useOrg('asleep');
    const { body: rule } = await make('Asleep', 'max(t[1m]) > 50', { enabled: false }, org.call);
    const alert = { name: 'Asleep', severity: 'info', rule_expression: 'max(t[1m]) > 50' };
    const answers = [await open(alert, org.call), await open(alert, org.call)];
    expect(answers.map(({ status, body }) => [status, body.id, body.rule_id])).toEqual([
      [201, answers[0]!.body.id, rule.id],
      [200, answers[0]!.body.id, rule.id],
    ]);
    expect((await get(rule.id, org.call)).body.enabled).toBe(true);
  });

  test('of another org makes another rule', async () => {
    const [one, two] = [await useOrg('one'), await useOrg('two')];
    const alert = { name: 'Same', severity: 'info', rule_expression: 'avg(x) > 1' };
    const answers = [await open(alert, one.call), await open(alert, two.call)];
    expect(answers.map(({ status }) => status)).toEqual([201, 201]);
    expect(answers[0]!.body.rule_id).not.toBe(answers[1]!.body.rule_id);
    expect((await get(answers[0]!.body.rule_id, two.call)).status).toBe(404);
  });
});

// Rules in pieces, between which there may be a space or a line's end.
const pieces = [
  'avg ( response_time_ms { service = "auth" } [ 10m ] ) > 1000 for 5m',
  'max by ( host ) ( temperature [ 1h ] ) - 2 * 3 >= - p99 ( limit [ 1d ] )',
  'rate ( requests { code =~ "5\\\\d\\\\d" , host != "a" } ) / rate ( requests ) > 0.05 for 10m',
  'absent ( heartbeat [ 2m ] ) for 1m',
  '( avg ( a ) > 1 or max ( b ) < 2 ) and min ( c ) == 3',
  'sum ( x { a !~ "d|e" } ) by ( host , zone ) > 1e3 and count by ( host , zone ) ( y ) != 0',
].map((text) => text.split(' '));

interface Malformed {
  text: string;
  line: number;
  column: number;
}

/** The pieces as a text, and where in it begins what is wrong: with the piece of that number, or at its end. */
function joined(parts: string[], gaps: boolean[], wrong: number): Malformed {
  let text = '';
  let offset = -1;
  parts.forEach((part, i) => {
    if (i > 0) text += gaps[i % gaps.length] ? '\n' : ' ';
    if (i === wrong) offset = text.length;
    text += part;
  });
  const before = text.slice(0, offset < 0 ? undefined : offset).split('\n');
  return { text, line: before.length, column: before.at(-1)!.length + 1 };
}

const anyPieces = fc.constantFrom(...pieces);
const anyGaps = fc.array(fc.boolean(), { minLength: 1, maxLength: 7 });
const anyIndex = fc.nat(1000);
const strays = [
  '@',
  '$',
  ';',
  '&&',
  '||',
  '^',
  '?',
  '~',
  '!',
  '`',
  '\\',
  '5x',
  '1.2.3',
  'ü',
  '"no end',
  '0x10',
  '😀',
];
const openers = new Set([
  '(',
  '{',
  '[',
  '>',
  '>=',
  '<',
  '==',
  '!=',
  '=',
  '=~',
  '!~',
  '-',
  '*',
  '/',
  ',',
  'and',
  'or',
  'by',
  'for',
]);

// Wrong by the way they are made, at a place that is known: the parser is not asked.
const wrongAtPlace: fc.Arbitrary<Malformed> = fc.oneof(
  // What no rule can hold. (Text without an end has its end with the line, so it is the last.)
  fc.tuple(anyPieces, anyIndex, fc.constantFrom(...strays), anyGaps).map(([parts, index, stray, gaps]) => {
    const at = stray.startsWith('"') ? parts.length : index % (parts.length + 1);
    return joined(parts.toSpliced(at, 0, stray), gaps, at);
  }),
  // More than a rule.
  fc
    .tuple(anyPieces, fc.constantFrom(')', ']', '}', ',', '"x"', '(', '[', '{', 'then', 'avg', '12'), anyGaps)
    .map(([parts, more, gaps]) => joined([...parts, more], gaps, parts.length)),
  // Less than one: cut off where something has to follow.
  fc.tuple(anyPieces, anyIndex, anyGaps).map(([parts, index, gaps]) => {
    const ends = parts.flatMap((part, i) => (openers.has(part) ? [i] : []));
    return joined(parts.slice(0, ends[index % ends.length]! + 1), gaps, -1);
  }),
);

const anyText = fc.oneof(
  fc.constantFrom(
    '',
    "'; drop table obs.alert_rule; --",
    '{{ $value }}',
    'avg',
    ')',
    '#',
    '\0',
    '\ud800',
    'x'.repeat(5000),
  ),
  fc.string({ maxLength: 20 }),
  fc.string({ unit: 'grapheme', maxLength: 10 }),
);
// Pieces taken out, doubled, exchanged or put elsewhere, and texts put in: seldom still a rule, and then another is taken.
const wrongSomewhere: fc.Arbitrary<Malformed> = fc
  .tuple(
    anyPieces,
    anyIndex,
    anyIndex,
    anyText,
    anyGaps,
    fc.constantFrom('drop', 'double', 'swap', 'put', 'cut'),
  )
  .map(([parts, i, j, text, gaps, how]) => {
    const at = i % parts.length;
    const to = j % parts.length;
    const changed = {
      drop: () => parts.toSpliced(at, 1),
      double: () => parts.toSpliced(at, 0, parts[at]!),
      swap: () => parts.with(at, parts[to]!).with(to, parts[at]!),
      put: () => parts.toSpliced(at, 0, text),
      cut: () => parts.slice(at, Math.max(at, to)),
    }[how]();
    return joined(changed, gaps, -1).text;
  })
  .map((text) => {
    try {
      parseRule(text);
      return null;
    } catch (error) {
      if (!(error instanceof ExpressionError)) throw error;
      return { text, line: error.line, column: error.column };
    }
  })
  .filter((malformed) => malformed !== null);

describe('a thousand malformed expressions', () => {
  const targets: [string, string, (expression: string) => object][] = [
    ['/api/v1/alert-rules', 'expression', (expression) => ({ name: 'malformed', expression })],
    [
      '/api/v1/alert-rules/test',
      'expression',
      (expression) => ({ expression, start_time: Date.now() - 60_000, end_time: Date.now() }),
    ],
    [
      '/api/v1/alerts',
      'rule_expression',
      (rule_expression) => ({ name: 'malformed', severity: 'info', rule_expression }),
    ],
  ];

  test('are made from rules that are right', () => {
    for (const parts of pieces)
      expect(() => parseRule(joined(parts, [false], -1).text), parts.join(' ')).not.toThrow();
  });

  test('are each a 400 with the place where they are wrong, and none reaches SQL', {
    timeout: 120_000,
  }, async () => {
    const texts = new Map<string, Malformed>();
    const samples = [wrongAtPlace, wrongSomewhere].flatMap((wrong) => {
      const distinct = new Map(
        fc.sample(wrong, { seed, numRuns: 2500 }).map((malformed) => [malformed.text, malformed]),
      );
      expect(distinct.size).toBeGreaterThan(500);
      return [...distinct.values()].slice(0, 500);
    });
    for (const malformed of samples) texts.set(malformed.text, malformed);
    expect(samples).toHaveLength(1000);
    expect(texts.size).toBeGreaterThan(950);

    // Signed in already, so that the org is known; then whatever the API asks of the database is a 403.
    const before = await countRows();
    expect((await api.call('GET', '/api/v1/alert-rules')).status).toBe(200);
    await api.sql`revoke execute on all functions in schema api from obs_api`;
    // What is known of the org is asked for again every few seconds.
    await api.sql`grant execute on function api.open_org to obs_api`;
    try {
      for (const [path, , bodyOf] of targets)
        expect((await api.call('POST', path, { body: bodyOf('avg(x) > 1') })).status, path).toBe(403);
      for (let i = 0; i < samples.length; i += 25)
        await Promise.all(
          samples.slice(i, i + 25).map(async ({ text, line, column }, j) => {
            const [path, field, bodyOf] = targets[(i + j) % targets.length]!;
            const { status, body } = await api.call('POST', path, { body: bodyOf(text) });
            expect(status, `${path} ${text}: ${JSON.stringify(body)}`).toBe(400);
            expect(body.errors, `${path} ${text}`).toEqual([
              {
                path: field,
                message: expect.stringMatching(/^line \d+, column \d+: expected ./),
                line,
                column,
              },
            ]);
            expect(body.errors[0].message.startsWith(`line ${line}, column ${column}: `)).toBe(true);
          }),
        );
    } finally {
      await api.sql`grant execute on all functions in schema api to obs_api`;
    }
    expect(await countRows()).toEqual(before);
    for (const [path, , bodyOf] of targets) {
      const { status } = await api.call('POST', path, { body: bodyOf('avg(x) > 1') });
      expect(status, path).toBe(path.endsWith('/test') ? 200 : 201);
    }
  });
});

test('an alert that was reported without a rule becomes the rule’s when it is reported with one', async () => {
  const body = { name: 'adopted', severity: 'info', service_name: 'auth', labels: { a: 'b' } };
  const first = await api.call('POST', '/api/v1/alerts', { body });
  expect(first.body.rule_id).toBeNull();
  const second = await api.call('POST', '/api/v1/alerts', {
    body: { ...body, rule_expression: 'avg(adopted) > 1' },
  });
  expect(second.status).toBe(200);
  expect(second.body.id).toBe(first.body.id);
  expect(second.body.rule_id).not.toBeNull();
  // And stays so, when it is reported without it again.
  const third = await api.call('POST', '/api/v1/alerts', { body });
  expect([third.status, third.body.id]).toEqual([200, first.body.id]);
});
