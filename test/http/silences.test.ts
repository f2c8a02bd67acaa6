// Silences, maintenance windows and escalations over HTTP, what keeps an alert quiet, its notes, and how long alerts take.
import { beforeAll, describe, expect, test } from 'vitest';
import { type Call, useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';

const api = useApi();
const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

const at = (offsetMs: number) => new Date(Math.floor(Date.now() / 1000) * 1000 + offsetMs).toISOString();
const make = (path: string, body: object, call: Call = {}) =>
  api.call('POST', `/api/v1${path}`, { body, ...call });
const get = (path: string, call: Call = {}) => api.call('GET', `/api/v1${path}`, call);
const patch = (path: string, body: object, call: Call = {}) =>
  api.call('PATCH', `/api/v1${path}`, { body, ...call });
const remove = (path: string, call: Call = {}) => api.call('DELETE', `/api/v1${path}`, call);
const pathsOf = (body: { errors: { path: string }[] }) => body.errors.map(({ path }) => path);
const theirs = async (org = 'other'): Promise<Call> => ({ token: await signToken({ org_id: org }) });
const open = async (name: string, more: object = {}, call: Call = {}) => {
  const { status, body } = await make('/alerts', { name, severity: 'warning', ...more }, call);
  expect(status).toBe(201);
  return body;
};
const makeChannel = async (name: string, call: Call = {}) =>
  (await make('/channels', { name, type: 'slack', config: { url: 'https://hooks.test/x' } }, call)).body;

async function orgIdOf(org: string): Promise<number> {
  const [row] = await api.sql<{ id: number }[]>`select id from obs.org where external_id = ${org}`;
  return row!.id;
}

const silence = (more: object = {}) => ({ matchers: ['service="auth"'], ends_at: at(hourMs), ...more });
const window = (name: string, more: object = {}) => ({
  name,
  starts_at: at(-hourMs),
  ends_at: at(hourMs),
  ...more,
});

const kinds = [
  ['/silences', 'silences', 'silence', () => silence()],
  ['/maintenance-windows', 'maintenance_windows', 'maintenance window', (name: string) => window(name)],
  ['/escalations', 'escalations', 'escalation', (name: string) => ({ name, steps: [{ after_minutes: 5 }] })],
] as const;

describe('a silence', () => {
  test('has its defaults', async () => {
    const { status, body } = await make('/silences', silence());
    expect(status).toBe(201);
    const { id, starts_at, created_at, updated_at, ...rest } = body;
    expect(rest).toEqual({
      matchers: ['service="auth"'],
      ends_at: body.ends_at,
      active: true,
      author: 'tester',
      reason: '',
    });
    // It begins at once.
    expect([starts_at, updated_at]).toEqual([created_at, created_at]);
    expect((await get(`/silences/${id}`)).body).toEqual(body);
  });

  test('has every field as it was given, and each can be changed', async () => {
    const given = {
      matchers: ['severity!="critical"', 'host=~"web-.*"'],
      starts_at: '2026-12-24T18:00:00.000Z',
      ends_at: '2100-01-01T00:00:00.000Z',
      author: 'Ada',
      reason: 'Two lines\nof text',
    };
    const { status, body } = await make('/silences', given);
    expect(status).toBe(201);
    expect(body).toMatchObject(given);
    let before = (await make('/silences', silence({ starts_at: at(-hourMs) }))).body;
    const { id } = before;
    for (const [name, value] of Object.entries({ ...given, starts_at: at(10 * hourMs) }).toReversed()) {
      if (name === 'starts_at') await patch(`/silences/${id}`, { ends_at: given.ends_at });
      before = (await get(`/silences/${id}`)).body;
      const { status: answered, body: after } = await patch(`/silences/${id}`, { [name]: value });
      expect(answered).toBe(200);
      expect(after).toEqual({
        ...before,
        [name]: value,
        active: name !== 'starts_at' && before.active,
        updated_at: after.updated_at,
      });
      before = after;
    }
    expect(before.active).toBe(false);
    // Instants may be given as epoch milliseconds, and with any offset.
    const { body: other } = await patch(`/silences/${id}`, {
      starts_at: Date.parse('2026-01-01T00:00:00Z'),
      ends_at: '2026-01-01T02:00:00+01:00',
    });
    expect(other).toMatchObject({
      starts_at: '2026-01-01T00:00:00.000Z',
      ends_at: '2026-01-01T01:00:00.000Z',
      active: false,
    });
  });

  test('is active while it lasts', async () => {
    const call = await theirs('active');
    const over = silence({ starts_at: at(-hourMs), ends_at: at(-1000), reason: 'past' });
    expect((await make('/silences', over, call)).body.errors).toEqual([
      { path: 'ends_at', message: 'must be in the future' },
    ]);
    const past = await make('/silences', { ...over, ends_at: at(hourMs) }, call);
    past.body = (await patch(`/silences/${past.body.id}`, { ends_at: at(-1000) }, call)).body;
    const now = await make('/silences', silence({ starts_at: at(-hourMs), reason: 'now' }), call);
    const ahead = await make('/silences', silence({ starts_at: at(60_000), reason: 'ahead' }), call);
    expect([past, now, ahead].map(({ body }) => body.active)).toEqual([false, true, false]);
    const reasons = async (query: string) =>
      (await get(`/silences${query}`, call)).body.silences.map(({ reason }: { reason: string }) => reason);
    expect(await reasons('?active=true')).toEqual(['now']);
    expect(await reasons('?active=false')).toEqual(['ahead', 'past']);
    expect(await reasons('?q=AHE')).toEqual(['ahead']);
    // Ended early.
    const { body } = await patch(`/silences/${now.body.id}`, { ends_at: at(-1000) }, call);
    expect(body.active).toBe(false);
    expect(await reasons('?active=true')).toEqual([]);
  });

  test('takes matchers as text and as objects, and shows them as text', async () => {
    const { status, body } = await make(
      '/silences',
      silence({
        matchers: [
          ' severity = "critical"',
          "'on-call'!='me'",
          { label: 'host', op: '!~', value: 'web-\\d+' },
          { label: 'team', value: 'a "b"' },
        ],
      }),
    );
    expect(status).toBe(201);
    expect(body.matchers).toEqual([
      'severity="critical"',
      '"on-call"!="me"',
      'host!~"web-\\\\d+"',
      'team="a \\"b\\""',
    ]);
    // And takes them back.
    expect((await patch(`/silences/${body.id}`, { matchers: body.matchers })).body.matchers).toEqual(
      body.matchers,
    );
  });

  test.each([
    [{}, ['matchers', 'ends_at']],
    [[], ['']],
    [silence({ colour: 'red', active: true }), ['colour', 'active']],
    [silence({ matchers: [] }), ['matchers']],
    [silence({ matchers: Array(21).fill('a="b"') }), ['matchers']],
    [silence({ matchers: ['a="b"', 'severity'] }), ['matchers[1]']],
    [silence({ matchers: ['severity=critical', 'a=~"("'] }), ['matchers[0]', 'matchers[1]']],
    [silence({ matchers: [5, null] }), ['matchers[0]', 'matchers[1]']],
    [silence({ matchers: [{ label: 'a', op: '=~', value: '(?i)b' }] }), ['matchers[0].value']],
    [silence({ matchers: [{ label: '', value: 'b' }] }), ['matchers[0].label']],
    [silence({ starts_at: 'soon' }), ['starts_at']],
    [silence({ ends_at: null }), ['ends_at']],
    [silence({ author: '' }), ['author']],
    [silence({ reason: 'x'.repeat(2001) }), ['reason']],
    [silence({ reason: 'nul \0' }), ['reason']],
    // These do not go together.
    [silence({ starts_at: at(2 * hourMs) }), ['ends_at']],
    [silence({ starts_at: at(hourMs), ends_at: at(hourMs) }), ['ends_at']],
    // It would begin now.
    [silence({ ends_at: at(-1000) }), ['ends_at']],
  ])('of %j is a 400 that names the field', async (body, paths) => {
    const { status, body: problem } = await make('/silences', body);
    expect(status).toBe(400);
    expect(pathsOf(problem)).toEqual(paths);
  });

  test('tells where in a matcher it is wrong', async () => {
    const { status, body } = await make(
      '/silences',
      silence({
        matchers: [
          'severity=critical',
          'a="b" c',
          'host\n=~ "("',
          { label: 'a', value: 'b\0' },
          { label: 'a', value: '\ud800' },
        ],
      }),
    );
    expect(status).toBe(400);
    expect(body.errors).toEqual([
      {
        path: 'matchers[0]',
        line: 1,
        column: 10,
        message: 'line 1, column 10: expected text in quotes, found "critical"',
      },
      {
        path: 'matchers[1]',
        line: 1,
        column: 7,
        message: 'line 1, column 7: expected the end of the matcher, found "c"',
      },
      {
        path: 'matchers[2]',
        line: 2,
        column: 4,
        message: expect.stringContaining('line 2, column 4: expected a regular expression'),
      },
      { path: 'matchers[3].value', message: 'must not contain a NUL character' },
      { path: 'matchers[4].value', message: 'must be well-formed Unicode' },
    ]);
  });

  test('is changed only as what it was allows', async () => {
    const { body } = await make('/silences', silence({ starts_at: at(-hourMs) }));
    for (const [change, paths] of [
      [{ ends_at: at(-2 * hourMs) }, ['ends_at']],
      [{ starts_at: at(2 * hourMs) }, ['ends_at']],
      [{ matchers: [] }, ['matchers']],
      [{ reason: null }, ['reason']],
      [{ created_at: at(0) }, ['created_at']],
    ] as const) {
      const answer = await patch(`/silences/${body.id}`, change);
      expect([answer.status, pathsOf(answer.body)]).toEqual([400, paths]);
    }
    expect((await get(`/silences/${body.id}`)).body).toEqual(body);
  });
});

describe('a maintenance window', () => {
  test('has its defaults', async () => {
    const given = window('defaults');
    const { status, body } = await make('/maintenance-windows', given);
    expect(status).toBe(201);
    const { id, created_at, updated_at, ...rest } = body;
    expect(rest).toEqual({
      ...given,
      matchers: [],
      timezone: 'UTC',
      repeats: 'never',
      weekdays: [],
      until: null,
      active_until: given.ends_at,
      author: 'tester',
      reason: null,
    });
    expect(updated_at).toBe(created_at);
    expect((await get(`/maintenance-windows/${id}`)).body).toEqual(body);
  });

  test('has every field as it was given, and each can be changed', async () => {
    const given = {
      name: 'full',
      matchers: ['service="auth"'],
      timezone: 'America/New_York',
      starts_at: '2030-01-07T22:00:00.000Z',
      ends_at: '2030-01-08T02:00:00.000Z',
      repeats: 'weekly',
      weekdays: ['sunday', 'monday'],
      until: '2031-01-01T00:00:00.000Z',
      author: 'Ada',
      reason: 'database',
    };
    const { status, body } = await make('/maintenance-windows', given);
    expect(status).toBe(201);
    expect(body).toMatchObject({ ...given, active_until: null });
    let before = (await make('/maintenance-windows', window('bare'))).body;
    const { id } = before;
    // In an order in which they go together.
    for (const change of [
      { ends_at: given.ends_at },
      { starts_at: given.starts_at },
      { repeats: 'weekly' },
      { weekdays: given.weekdays },
      { until: given.until },
      { timezone: given.timezone },
      { matchers: given.matchers },
      { author: 'Ada' },
      { reason: 'database' },
      { name: 'not bare' },
      { until: null, weekdays: [], repeats: 'never' },
    ]) {
      const { status: answered, body: after } = await patch(`/maintenance-windows/${id}`, change);
      expect([answered, change]).toEqual([200, change]);
      const { active_until: _, ...rest } = before;
      expect(after).toMatchObject({ ...rest, ...change, updated_at: after.updated_at });
      before = after;
    }
    expect((await get(`/maintenance-windows/${id}`)).body).toEqual(before);
  });

  const length = 50 * 60_000;
  const began = 10 * 60_000;
  /** Began ten minutes ago and lasts fifty: so many days ago for the first time. */
  const since = (days: number) => ({
    starts_at: at(-days * dayMs - began),
    ends_at: at(-days * dayMs - began + length),
  });
  const weekdayOf = (time: string) =>
    ['sunday', 'monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday'][
      new Date(time).getUTCDay()
    ]!;

  test.each([
    ['daily', () => since(100), {}, true],
    ['daily', () => since(0), {}, true],
    ['weekly', () => since(70), {}, true],
    ['weekly', () => since(71), {}, false],
    ['weekly', () => since(71), () => ({ weekdays: [weekdayOf(at(-began))] }), true],
    ['weekly', () => since(70), () => ({ weekdays: [weekdayOf(at(-began + dayMs))] }), false],
    ['daily', () => since(100), () => ({ until: at(-began) }), false],
    // Until is about when one begins.
    ['daily', () => since(100), () => ({ until: at(-began + 1000) }), true],
    ['never', () => since(1), {}, false],
    ['daily', () => since(-1), {}, false],
    // Of two hours, half a day ago.
    ['daily', () => ({ starts_at: at(-10.5 * dayMs), ends_at: at(-10.5 * dayMs + 2 * hourMs) }), {}, false],
  ] as const)('that repeats %s lasts or not: %#', async (repeats, times, more, lasts) => {
    const given = { ...times(), ...(typeof more === 'function' ? more() : more) };
    const { status, body } = await make('/maintenance-windows', {
      name: `${repeats} ${Math.random()}`,
      repeats,
      ...given,
    });
    expect(status).toBe(201);
    expect(body.active_until === null).toBe(!lasts);
    if (lasts)
      // Whole days later than the first one's end.
      expect((Date.parse(body.active_until) - Date.parse(given.ends_at)) % dayMs).toBe(0);
    if (lasts)
      expect(Math.abs(Date.parse(body.active_until) - Date.parse(at(length - began)))).toBeLessThan(5000);
  });

  test('that repeats monthly is on the same day of the month', async () => {
    const start = new Date(at(-began));
    start.setUTCFullYear(start.getUTCFullYear() - 4);
    const ofYear = {
      starts_at: start.toISOString(),
      ends_at: new Date(start.getTime() + length).toISOString(),
    };
    const { body } = await make('/maintenance-windows', { name: 'monthly', repeats: 'monthly', ...ofYear });
    expect(Math.abs(Date.parse(body.active_until) - Date.parse(at(length - began)))).toBeLessThan(5000);
    const shifted = await make('/maintenance-windows', {
      name: 'monthly, another day',
      repeats: 'monthly',
      starts_at: new Date(start.getTime() - dayMs).toISOString(),
      ends_at: new Date(start.getTime() - dayMs + length).toISOString(),
    });
    expect(shifted.body.active_until).toBeNull();
  });

  test('begins at the same reading of the clock, in summer as in winter', async () => {
    const timezone = 'Europe/Berlin';
    const now = new Date(at(-began));
    const clock = new Intl.DateTimeFormat('en', {
      timeZone: timezone,
      hourCycle: 'h23',
      hour: '2-digit',
      minute: '2-digit',
      second: '2-digit',
    });
    const [hour, minute, second] = clock.format(now).split(':').map(Number);
    const year = now.getUTCFullYear() - 1;
    // The same reading in January, an hour before UTC, and in July, two hours.
    const first = [0, 6].map((month) =>
      Date.UTC(year, month, 15, hour! - (month === 0 ? 1 : 2), minute, second),
    );
    const ends: string[] = [];
    for (const starts of first) {
      const { body } = await make('/maintenance-windows', {
        name: `summer ${starts}`,
        repeats: 'daily',
        timezone,
        starts_at: starts,
        ends_at: starts + length,
      });
      ends.push(body.active_until);
    }
    const expected = new Date(now.getTime() + length).toISOString();
    expect(ends).toEqual([expected, expected]);
  });

  test.each([
    [{}, ['name', 'starts_at', 'ends_at']],
    [window('bad', { colour: 'red', active_until: null }), ['colour', 'active_until']],
    [window(''), ['name']],
    [window('bad', { matchers: ['x'] }), ['matchers[0]']],
    [window('bad', { timezone: 'Mars/Olympus' }), ['timezone']],
    [window('bad', { timezone: '+02:00' }), ['timezone']],
    [window('bad', { timezone: null }), ['timezone']],
    // Known to JavaScript, and on Debian 13 not to PostgreSQL.
    [window('bad', { timezone: 'US/Eastern' }), ['timezone']],
    [window('bad', { repeats: 'yearly' }), ['repeats']],
    [window('bad', { repeats: 'weekly', weekdays: ['monday', 'caturday'] }), ['weekdays[1]']],
    [window('bad', { repeats: 'weekly', weekdays: [1] }), ['weekdays[0]']],
    [window('bad', { until: 'never' }), ['until']],
    [window('bad', { reason: 5 }), ['reason']],
    // These do not go together.
    [window('bad', { ends_at: at(-2 * hourMs) }), ['ends_at']],
    [window('bad', { ends_at: at(-hourMs) }), ['ends_at']],
    [window('bad', { repeats: 'daily', ends_at: at(7 * dayMs) }), ['ends_at']],
    [window('bad', { weekdays: ['monday'] }), ['weekdays']],
    [window('bad', { repeats: 'daily', weekdays: ['monday'] }), ['weekdays']],
    [window('bad', { until: at(dayMs) }), ['until']],
  ])('of %j is a 400 that names the field', async (body, paths) => {
    const { status, body: problem } = await make('/maintenance-windows', body);
    expect(status).toBe(400);
    expect(pathsOf(problem)).toEqual(paths);
    expect((await get('/maintenance-windows?q=bad')).body.maintenance_windows).toEqual([]);
  });

  test('of exactly seven days may repeat, and a longer one may not', async () => {
    const week = { starts_at: at(-hourMs), ends_at: at(-hourMs + 7 * dayMs) };
    expect((await make('/maintenance-windows', { name: 'week', repeats: 'weekly', ...week })).status).toBe(
      201,
    );
    const long = { starts_at: at(-hourMs), ends_at: at(30 * dayMs) };
    expect((await make('/maintenance-windows', { name: 'long', ...long })).body.active_until).toBe(
      long.ends_at,
    );
  });

  test('is changed only as what it was allows', async () => {
    const weekly = window('weekly', { repeats: 'weekly', weekdays: ['monday'], until: at(100 * dayMs) });
    const { body } = await make('/maintenance-windows', weekly);
    const path = `/maintenance-windows/${body.id}`;
    for (const [change, paths] of [
      [{ repeats: 'daily' }, ['weekdays']],
      [{ repeats: 'never', weekdays: [] }, ['until']],
      [{ ends_at: at(-2 * hourMs) }, ['ends_at']],
      [{ starts_at: at(2 * hourMs) }, ['ends_at']],
      [{ ends_at: at(8 * dayMs) }, ['ends_at']],
      [{ timezone: 'Nowhere' }, ['timezone']],
      [{ name: null }, ['name']],
    ] as const) {
      const answer = await patch(path, change);
      expect([answer.status, pathsOf(answer.body)]).toEqual([400, paths]);
    }
    expect((await get(path)).body).toEqual(body);
    expect((await patch(path, { repeats: 'daily', weekdays: [] })).body).toMatchObject({
      repeats: 'daily',
      weekdays: [],
    });
  });
});

describe('an escalation', () => {
  test('has its defaults', async () => {
    const { status, body } = await make('/escalations', { name: 'defaults', steps: [{ after_minutes: 5 }] });
    expect(status).toBe(201);
    const { id, created_at, updated_at, ...rest } = body;
    expect(rest).toEqual({
      name: 'defaults',
      severities: [],
      matchers: [],
      steps: [{ after_minutes: 5 }],
      enabled: true,
      created_by: 'tester',
    });
    expect(updated_at).toBe(created_at);
    expect((await get(`/escalations/${id}`)).body).toEqual(body);
  });

  test('has every field as it was given, and each can be changed', async () => {
    const [one, two] = [await makeChannel('one'), await makeChannel('two')];
    const given = {
      name: 'full',
      severities: ['critical', 'info'],
      matchers: ['team="core"'],
      steps: [
        { after_minutes: 0.1 },
        { after_minutes: 15, severity: 'critical', channel_ids: [one.id, two.id] },
        { after_minutes: 43_200, channel_ids: [] },
      ],
      enabled: false,
    };
    const { status, body } = await make('/escalations', given);
    expect(status).toBe(201);
    expect(body).toMatchObject(given);
    let before = (await make('/escalations', { name: 'bare', steps: [] })).body;
    expect(before.steps).toEqual([]);
    for (const [name, value] of Object.entries({ ...given, name: 'not bare' })) {
      const { status: answered, body: after } = await patch(`/escalations/${before.id}`, { [name]: value });
      expect(answered).toBe(200);
      expect(after).toEqual({ ...before, [name]: value, updated_at: after.updated_at });
      before = after;
    }
    expect((await get('/escalations?active=false&q=bare')).body.escalations).toEqual([before]);
  });

  test.each([
    [{}, ['name', 'steps']],
    [{ name: 'bad', steps: [], colour: 'red' }, ['colour']],
    [{ name: 'bad', steps: {} }, ['steps']],
    [{ name: 'bad', steps: [{}] }, ['steps[0].after_minutes']],
    [{ name: 'bad', steps: [{ after_minutes: 0 }] }, ['steps[0].after_minutes']],
    [{ name: 'bad', steps: [{ after_minutes: 43_201 }] }, ['steps[0].after_minutes']],
    [{ name: 'bad', steps: [{ after_minutes: 1, severity: 'fatal' }] }, ['steps[0].severity']],
    [{ name: 'bad', steps: [{ after_minutes: 1, channel_ids: ['x'] }] }, ['steps[0].channel_ids[0]']],
    [{ name: 'bad', steps: [{ after_minutes: 1, colour: 'red' }] }, ['steps[0].colour']],
    [{ name: 'bad', steps: Array.from({ length: 21 }, (_, i) => ({ after_minutes: i + 1 })) }, ['steps']],
    [{ name: 'bad', steps: [{ after_minutes: 5 }, { after_minutes: 5 }] }, ['steps[1].after_minutes']],
    [
      {
        name: 'bad',
        steps: [{ after_minutes: 5 }, { after_minutes: 9 }, { after_minutes: 8 }, { after_minutes: 7 }],
      },
      ['steps[2].after_minutes', 'steps[3].after_minutes'],
    ],
    [{ name: 'bad', steps: [], severities: ['fatal'] }, ['severities[0]']],
    [{ name: 'bad', steps: [], matchers: ['x', 'a="b"', 'y'] }, ['matchers[0]', 'matchers[2]']],
    [{ name: 'bad', steps: [], enabled: 'no' }, ['enabled']],
    [
      { name: 'bad', steps: [{ after_minutes: 1, channel_ids: ['00000000-0000-4000-8000-000000000000'] }] },
      ['steps[0].channel_ids[0]'],
    ],
  ])('of %j is a 400 that names the field', async (body, paths) => {
    const { status, body: problem } = await make('/escalations', body);
    expect(status).toBe(400);
    expect(pathsOf(problem)).toEqual(paths);
    expect((await get('/escalations?q=bad')).body.escalations).toEqual([]);
  });

  test('has steps that tell channels of the org alone', async () => {
    const mine = await makeChannel('mine');
    const foreign = await makeChannel('foreign', await theirs());
    const steps = [
      { after_minutes: 1, channel_ids: [mine.id] },
      { after_minutes: 2, channel_ids: [mine.id, foreign.id] },
    ];
    const { status, body } = await make('/escalations', { name: 'foreign', steps });
    expect(status).toBe(400);
    expect(body.errors).toEqual([{ path: 'steps[1].channel_ids[1]', message: 'there is no such channel' }]);
    const { body: made } = await make('/escalations', { name: 'foreign', steps: steps.slice(0, 1) });
    const patched = await patch(`/escalations/${made.id}`, { steps });
    expect([patched.status, pathsOf(patched.body)]).toEqual([400, ['steps[1].channel_ids[1]']]);
    expect((await get(`/escalations/${made.id}`)).body).toEqual(made);
  });

  test('whose channel was deleted can be changed all the same, and takes ids in any case', async () => {
    const channel = await makeChannel('short-lived');
    const steps = [{ after_minutes: 1, channel_ids: [channel.id] }];
    const upper = [{ after_minutes: 1, channel_ids: [channel.id.toUpperCase()] }];
    const { status, body } = await make('/escalations', { name: 'outlives', steps: upper });
    expect([status, body.steps]).toEqual([201, steps]);
    const refused = await remove(`/channels/${channel.id}`);
    expect([refused.status, refused.body.code]).toEqual([409, 'in_use']);
    // As it was in the way of a change, which it should not be.
    await api.sql`delete from obs.channel where id = ${channel.id}`;
    const patched = await patch(`/escalations/${body.id}`, { enabled: false });
    expect([patched.status, patched.body.enabled]).toEqual([200, false]);
    expect((await patch(`/escalations/${body.id}`, { steps })).status).toBe(400);
    expect((await patch(`/escalations/${body.id}`, { steps: [] })).status).toBe(200);
  });

  test('by default is there while the org has none of its own', async () => {
    const call = await theirs('fallback');
    const expected = {
      default_escalations: [
        {
          name: 'default',
          severity: 'critical',
          steps: [{ after_minutes: 15 }, { after_minutes: 30 }, { after_minutes: 60 }],
        },
        {
          name: 'default',
          severity: 'warning',
          steps: [{ after_minutes: 60, severity: 'critical' }, { after_minutes: 90 }],
        },
      ],
    };
    expect((await get('/escalations/default', call)).body).toEqual(expected);
    const { body } = await make('/escalations', { name: 'own', steps: [], enabled: false }, call);
    expect((await get('/escalations/default', call)).body).toEqual({ default_escalations: [] });
    await remove(`/escalations/${body.id}`, call);
    expect((await get('/escalations/default', call)).body).toEqual(expected);
    const refused = await get('/escalations/default?severity=info', call);
    expect([refused.status, pathsOf(refused.body)]).toEqual([400, ['query.severity']]);
  });
});

describe.each(kinds)('%s', (path, plural, noun, bodyOf) => {
  const namesOf = (body: Record<string, { id: string }[]>) => body[plural]!.map(({ id }) => id);

  test('is deleted, and then not found', async () => {
    const { body } = await make(path, bodyOf(`deleted ${noun}`));
    expect((await remove(`${path}/${body.id}`)).status).toBe(204);
    const unknown = [body.id, 'x', '%00', '00000000-0000-4000-8000-000000000000'];
    for (const id of unknown)
      for (const answer of [
        await get(`${path}/${id}`),
        await patch(`${path}/${id}`, {}),
        await remove(`${path}/${id}`),
      ])
        expect([answer.status, answer.body.detail]).toEqual([404, `There is no such ${noun}.`]);
  });

  test('of one org is not seen, changed or deleted by another', async () => {
    const { body: before } = await make(path, bodyOf(`mine ${noun}`));
    const call = await theirs();
    expect(namesOf((await get(path, call)).body)).toEqual([]);
    for (const answer of [
      await get(`${path}/${before.id}`, call),
      await patch(`${path}/${before.id}`, bodyOf('theirs'), call),
      await remove(`${path}/${before.id}`, call),
    ]) {
      expect([answer.status, answer.body.code]).toEqual([404, 'not_found']);
    }
    expect((await get(`${path}/${before.id}`)).body).toEqual(before);
    // They may have one of the same name.
    const { status, body } = await make(path, bodyOf(`mine ${noun}`), call);
    expect(status).toBe(201);
    expect((await get(`${path}/${body.id}`)).status).toBe(404);
    await remove(`${path}/${body.id}`, call);
  });

  test('has names that no other of the org has', async () => {
    const [first, second] = [
      await make(path, bodyOf(`taken ${noun}`)),
      await make(path, bodyOf(`taken ${noun}`)),
    ];
    if (path === '/silences') {
      // Which have none.
      expect([first.status, second.status]).toEqual([201, 201]);
      return;
    }
    expect([second.status, second.body.code, pathsOf(second.body)]).toEqual([409, 'name_taken', ['name']]);
    const { body } = await make(path, bodyOf(`free ${noun}`));
    const renamed = await patch(`${path}/${body.id}`, { name: `taken ${noun}` });
    expect([renamed.status, pathsOf(renamed.body)]).toEqual([409, ['name']]);
    expect((await get(`${path}/${body.id}`)).body).toEqual(body);
  });

  test('is listed, the newest first, page after page', async () => {
    const call = await theirs(`lists ${noun}`);
    const made: string[] = [];
    for (let i = 0; i < 7; i++) made.push((await make(path, bodyOf(`list ${i}`), call)).body.id);
    const table = plural.slice(0, -1);
    await api.sql`update obs.${api.sql(table)} set created_at = '2026-01-01T00:00:00.000001Z' where id in ${api.sql(made.slice(0, 4))}`;
    const seen: string[] = [];
    for (let query = '?limit=3'; ; ) {
      const { body } = await get(path + query, call);
      seen.push(...namesOf(body));
      if (body.next_cursor === null) break;
      query = `?limit=3&cursor=${body.next_cursor}`;
    }
    expect(seen.slice(0, 3)).toEqual(made.slice(4).reverse());
    expect(seen.slice(3).sort()).toEqual(made.slice(0, 4).sort());
    const { body } = await get(path, call);
    for (const shown of body[plural]) expect((await get(`${path}/${shown.id}`, call)).body).toEqual(shown);
    for (const [query, field] of [
      ['limit=0', 'query.limit'],
      ['cursor=x', 'query.cursor'],
      ['active=1', 'query.active'],
      ['colour=red', 'query.colour'],
    ]) {
      const { status, body: problem } = await get(`${path}?${query}`, call);
      expect([status, pathsOf(problem)]).toEqual([400, [field]]);
    }
    const asked = await get(`${path}/${made[0]}?full=1`, call);
    expect([asked.status, pathsOf(asked.body)]).toEqual([400, ['query.full']]);
  });

  test.each([
    ['viewer', 200, 403],
    ['ingest', 403, 403],
    ['operator', 200, 201],
  ])('%s', async (role, reads, writes) => {
    const { body } = await make(path, bodyOf(`for ${role}`));
    const call = { token: await signToken({ role }) };
    expect((await get(path, call)).status).toBe(reads);
    expect((await get(`${path}/${body.id}`, call)).status).toBe(reads);
    if (path === '/escalations') expect((await get('/escalations/default', call)).status).toBe(reads);
    expect((await make(path, bodyOf(`by ${role}`), call)).status).toBe(writes);
    expect((await make(path, { colour: 'red' }, call)).status).toBe(writes === 201 ? 400 : 403);
    expect((await patch(`${path}/${body.id}`, {}, call)).status).toBe(writes === 201 ? 200 : 403);
    expect((await remove(`${path}/${body.id}`, call)).status).toBe(writes === 201 ? 204 : 403);
    expect((await get(`${path}/${body.id}`, { token: null })).status).toBe(401);
  });
});

describe('GET /alerts/{id}', () => {
  let call: Call;
  const mutesOf = async (id: string) => (await get(`/alerts/${id}`, call)).body.muted_by;
  beforeAll(async () => {
    call = await theirs('muted');
  });

  test('shows what keeps an alert quiet, for as long as it does', async () => {
    const alert = await open('muted', { service_name: 'auth', labels: { host: 'web-1' } }, call);
    expect(await mutesOf(alert.id)).toEqual([]);
    const matching = [
      'alertname="muted"',
      'severity=~"warn.*"',
      'service="auth"',
      'host!="web-2"',
      'source="api"',
      'none=""',
    ];
    const ends_at = at(hourMs);
    const { body: quiet } = await make('/silences', { matchers: matching, ends_at, reason: 'known' }, call);
    const expected = { kind: 'silence', id: quiet.id, name: 'known', until: ends_at };
    expect(await mutesOf(alert.id)).toEqual([expected]);
    // What does not match, lasts no more or not yet, or is another org's, has no part in it.
    await make('/silences', { matchers: [...matching, 'host="web-2"'], ends_at }, call);
    await make('/silences', { matchers: matching, starts_at: at(-hourMs), ends_at: at(-1000) }, call);
    await make('/silences', { matchers: matching, starts_at: at(60_000), ends_at }, call);
    await make('/silences', { matchers: matching, ends_at }, await theirs('muting others'));
    await make('/maintenance-windows', window('everything'), await theirs('muting others'));
    await make('/maintenance-windows', window('others', { matchers: ['service="billing"'] }), call);
    await make(
      '/maintenance-windows',
      { name: 'over', starts_at: at(-2 * hourMs), ends_at: at(-hourMs) },
      call,
    );
    expect(await mutesOf(alert.id)).toEqual([expected]);

    const { body: planned } = await make(
      '/maintenance-windows',
      { name: 'nightly', starts_at: at(-dayMs - hourMs), ends_at: at(-dayMs + hourMs), repeats: 'daily' },
      call,
    );
    const [row] = await api.sql<{ id: string }[]>`
      select alert_id as id from lib.open_alert(
        ${await orgIdOf('muted')}, 'service', 'service:auth', 'auth is unhealthy', 'critical', null, 'auth', '{}', null, 'worker')`;
    expect(await mutesOf(alert.id)).toEqual([
      { kind: 'alert', id: row!.id, name: 'auth is unhealthy', until: null },
      { kind: 'maintenance_window', id: planned.id, name: 'nightly', until: planned.active_until },
      expected,
    ]);
    // The alert that mutes others is muted by the window alone, and so is one that is as severe.
    const severe = await open('severe', { service_name: 'auth', severity: 'critical' }, call);
    for (const id of [row!.id, severe.id])
      expect(await mutesOf(id)).toMatchObject([{ kind: 'maintenance_window' }]);

    await remove(`/maintenance-windows/${planned.id}`, call);
    await api.call('PUT', `/api/v1/alerts/${row!.id}/resolve`, call);
    expect(await mutesOf(alert.id)).toEqual([expected]);
    await patch(`/silences/${quiet.id}`, { matchers: ['alertname="another"'] }, call);
    expect(await mutesOf(alert.id)).toEqual([]);
    await patch(`/silences/${quiet.id}`, { matchers: matching }, call);
    expect(await mutesOf(alert.id)).toEqual([expected]);
    await api.call('PUT', `/api/v1/alerts/${alert.id}/resolve`, call);
    expect(await mutesOf(alert.id)).toEqual([]);
  });
});

describe('POST /alerts/{id}/notes', () => {
  const note = (id: string, body: object | undefined, call: Call = {}) =>
    api.call('POST', `/api/v1/alerts/${id}/notes`, { body, ...call });

  test('adds to the history, whatever the status', async () => {
    const alert = await open('noted');
    for (const [verb, status] of [
      ['', 'firing'],
      ['acknowledge', 'acknowledged'],
      ['resolve', 'resolved'],
    ] as const) {
      if (verb) await api.call('PUT', `/api/v1/alerts/${alert.id}/${verb}`);
      const answer = await note(alert.id, { note: `it is ${status}\nnow` });
      expect(answer.status).toBe(201);
      expect(answer.body).toMatchObject({ id: alert.id, status });
    }
    const { body } = await get(`/alerts/${alert.id}`);
    const events = body.events.filter(({ event }: { event: string }) => event === 'note');
    expect(
      events.map((event: Record<string, string>) => [
        event.from_status,
        event.to_status,
        event.actor,
        event.note,
      ]),
    ).toEqual([
      ['firing', 'firing', 'tester', 'it is firing\nnow'],
      ['acknowledged', 'acknowledged', 'tester', 'it is acknowledged\nnow'],
      ['resolved', 'resolved', 'tester', 'it is resolved\nnow'],
    ]);
    expect(body.events).toHaveLength(6);
  });

  test('takes a text, of an alert of the org', async () => {
    const alert = await open('not noted');
    for (const [body, paths] of [
      [{}, ['note']],
      [{ note: '' }, ['note']],
      [{ note: ' \n' }, ['note']],
      [{ note: 5 }, ['note']],
      [{ note: 'x'.repeat(10_001) }, ['note']],
      [{ note: 'nul \0' }, ['note']],
      [{ note: 'x', colour: 'red' }, ['colour']],
      [undefined, ['']],
    ] as const) {
      const answer = await note(alert.id, body);
      expect([answer.status, pathsOf(answer.body)]).toEqual([400, paths]);
    }
    const call = await theirs();
    for (const answer of [
      await note(alert.id, { note: 'x' }, call),
      await note('x', { note: 'x' }),
      await note('00000000-0000-4000-8000-000000000000', { note: 'x' }),
    ])
      expect(answer.status).toBe(404);
    for (const [role, status] of [
      ['viewer', 403],
      ['ingest', 403],
      ['operator', 201],
    ] as const)
      expect((await note(alert.id, { note: 'by role' }, { token: await signToken({ role }) })).status).toBe(
        status,
      );
    expect((await get(`/alerts/${alert.id}`)).body.events).toHaveLength(2);
  });
});

describe('the summary of GET /alerts', () => {
  let call: Call;
  const summaryOf = async (query = '') => (await get(`/alerts${query}`, call)).body.summary;

  beforeAll(async () => {
    call = await theirs('summary');
    // When each was acknowledged and resolved, in seconds after it began.
    const times: [string, number | null, number | null][] = [
      ['critical', 10, 100],
      ['critical', 20, 500],
      ['warning', 60, null],
      ['warning', null, 30],
      ['info', null, null],
    ];
    for (const [i, [severity, acknowledged, resolved]] of times.entries()) {
      const { id } = await open(`timed ${i}`, { severity, service_name: `s${i % 2}` }, call);
      if (acknowledged !== null) await api.call('PUT', `/api/v1/alerts/${id}/acknowledge`, call);
      if (resolved !== null) await api.call('PUT', `/api/v1/alerts/${id}/resolve`, call);
      const began = Date.parse('2026-11-20T10:00:00Z') + i * 60_000;
      const later = (seconds: number | null) => (seconds === null ? null : new Date(began + seconds * 1000));
      await api.sql`
        update obs.alert
        set started_at = ${new Date(began)}, acknowledged_at = ${later(acknowledged)}, resolved_at = ${later(resolved)}
        where id = ${id}`;
    }
    // And two that are pending.
    const orgId = await orgIdOf('summary');
    const soon = Date.now() + 60_000;
    await make(
      '/alert-rules',
      { name: 'waits', expression: 'max by (host) (t[1m]) > 1 for 1h', severity: 'critical' },
      call,
    );
    for (const host of ['a', 'b'])
      await make('/metrics', { name: 't', value: 2, labels: { host }, timestamp: soon - 1000 }, call);
    await api.sql`select job.evaluate_rules(${orgId}, ${new Date(soon)})`;
  });

  test('counts by severity and status, and says how long it took on average', async () => {
    expect(await summaryOf()).toEqual({
      critical: 2,
      warning: 2,
      info: 1,
      firing: 1,
      acknowledged: 1,
      resolved: 3,
      pending: 2,
      mean_time_to_acknowledge_seconds: 30,
      mean_time_to_resolve_seconds: 210,
    });
  });

  test.each([
    [
      '?severity=critical',
      { critical: 2, resolved: 2, mean_time_to_acknowledge_seconds: 15, mean_time_to_resolve_seconds: 300 },
    ],
    [
      '?severity=warning',
      { warning: 2, mean_time_to_acknowledge_seconds: 60, mean_time_to_resolve_seconds: 30 },
    ],
    [
      '?severity=info',
      { info: 1, mean_time_to_acknowledge_seconds: null, mean_time_to_resolve_seconds: null },
    ],
    [
      '?service_name=s1',
      { critical: 1, warning: 1, mean_time_to_acknowledge_seconds: 20, mean_time_to_resolve_seconds: 265 },
    ],
    [
      '?start_time=2026-11-20T10:01:00Z&end_time=2026-11-20T10:03:00Z',
      {
        resolved: 1,
        acknowledged: 1,
        mean_time_to_acknowledge_seconds: 40,
        mean_time_to_resolve_seconds: 500,
      },
    ],
    // Whatever page is looked at.
    [
      '?limit=1',
      { firing: 1, resolved: 3, mean_time_to_acknowledge_seconds: 30, mean_time_to_resolve_seconds: 210 },
    ],
    [
      '?q=nothing',
      { firing: 0, pending: 0, mean_time_to_acknowledge_seconds: null, mean_time_to_resolve_seconds: null },
    ],
  ])('%s', async (query, expected) => {
    expect(await summaryOf(query)).toMatchObject(expected);
  });

  test('counts those that are pending where they are asked for', async () => {
    const { body } = await get('/alerts?status=pending', call);
    expect(
      body.alerts.map(({ status, labels }: { status: string; labels: object }) => [status, labels]),
    ).toEqual(
      expect.arrayContaining([
        ['pending', { host: 'a' }],
        ['pending', { host: 'b' }],
      ]),
    );
    expect(body.summary).toEqual({
      critical: 2,
      warning: 0,
      info: 0,
      firing: 0,
      acknowledged: 0,
      resolved: 0,
      pending: 2,
      mean_time_to_acknowledge_seconds: null,
      mean_time_to_resolve_seconds: null,
    });
    // One that is pending cannot be acknowledged or resolved.
    for (const verb of ['acknowledge', 'resolve']) {
      const answer = await api.call('PUT', `/api/v1/alerts/${body.alerts[0].id}/${verb}`, call);
      expect([answer.status, answer.body.code]).toEqual([409, 'alert_status']);
    }
  });

  test('is of the org alone', async () => {
    call = await theirs('summary of nobody');
    expect(await summaryOf()).toMatchObject({
      critical: 0,
      firing: 0,
      resolved: 0,
      mean_time_to_resolve_seconds: null,
    });
  });
});
