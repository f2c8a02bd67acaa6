// The overview and what a dashboard shows, over HTTP: cached, with ETags, and followed as they change.
import { afterEach, describe, expect, test } from 'vitest';
import { useApi } from '../support/api.ts';
import { signToken } from '../support/process.ts';
import { type EventStream, openEvents } from '../support/sse.ts';

const api = useApi();
const streams: EventStream[] = [];
afterEach(() => {
  for (const stream of streams.splice(0)) stream.close();
});
const register = (token: string, name: string) =>
  api.call('POST', '/api/v1/services/register', {
    token,
    body: { service_name: name, health_endpoint: 'http://x.test/' },
  });
const follow = async (token: string) => {
  const stream = await openEvents(`${api.url}/api/v1/overview/stream`, { Authorization: `Bearer ${token}` });
  streams.push(stream);
  return stream;
};

describe.each(['/api/v1/overview', '/api/v1/dashboard/metrics'])('GET %s', (path) => {
  test('has an ETag, and is a 304 to who has it already', async () => {
    const token = await signToken({ org_id: `etag ${path}` });
    const first = await api.call('GET', path, { token });
    expect(first.status).toBe(200);
    expect(first.headers.get('Cache-Control')).toBe('private, no-cache');
    const etag = first.headers.get('ETag')!;
    expect((await api.call('GET', path, { token, headers: { 'If-None-Match': etag } })).status).toBe(304);
  });

  test('shows a change to who has made it', async () => {
    const token = await signToken({ org_id: `change ${path}` });
    const before = (await api.call('GET', path, { token })).headers.get('ETag');
    await register(token, 'new');
    const { headers, body } = await api.call('GET', path, { token });
    expect(headers.get('ETag')).not.toBe(before);
    expect(body.total_services ?? body.status_grid.length).toBe(1);
  });

  test('is of the token’s org alone', async () => {
    const [one, other] = [
      await signToken({ org_id: `one ${path}` }),
      await signToken({ org_id: `other ${path}` }),
    ];
    await register(one, 'mine');
    const { body } = await api.call('GET', path, { token: other });
    expect(body.total_services ?? body.status_grid.length).toBe(0);
  });

  test('takes no query parameters', async () => {
    const { status, body } = await api.call('GET', `${path}?x=1`);
    expect([status, body.errors[0].path]).toEqual([400, 'query.x']);
  });

  test('is for viewers, and not for who records', async () => {
    expect((await api.call('GET', path, { token: await signToken({ role: 'viewer' }) })).status).toBe(200);
    expect((await api.call('GET', path, { token: await signToken({ role: 'ingest' }) })).status).toBe(403);
    const narrowed = await signToken({ role: 'viewer', permissions: ['services:read', 'alerts:read'] });
    expect((await api.call('GET', path, { token: narrowed })).status).toBe(403);
  });
});

describe('a stream of overviews', () => {
  test('begins with one, and goes on with each that is another', async () => {
    const token = await signToken({ org_id: 'followed' });
    const stream = await follow(token);
    await expect.poll(() => stream.events.length).toBe(1);
    const overview = await api.call('GET', '/api/v1/overview', { token });
    expect(JSON.parse(stream.events[0]!.data)).toEqual(overview.body);
    await register(token, 'new');
    await expect.poll(() => stream.events.length, { timeout: 15_000 }).toBe(2);
    expect(stream.events[1]).toMatchObject({ event: 'overview' });
    expect(JSON.parse(stream.events[1]!.data).total_services).toBe(1);
    expect(stream.headers.get('Content-Type')).toMatch(/^text\/event-stream/);
    expect(stream.headers.get('Cache-Control')).toBe('no-store');
  });

  test('ends with its token', async () => {
    const token = await signToken({ org_id: 'ends', exp: Math.floor(Date.now() / 1000) - 3 });
    // Whole, once it has ended.
    const { status, body } = await api.call('GET', '/api/v1/overview/stream', { token });
    expect(status).toBe(200);
    expect(body).toMatch(/^event: overview\ndata: \{.*\}\n\n$/s);
  });
});

describe('labels of a metric', () => {
  test('are those of its series, with some of their values', async () => {
    const metrics = [
      { name: 'm', value: 1, service_name: 'a', labels: { host: 'h1', zone: 'x' } },
      { name: 'm', value: 1, service_name: 'a', labels: { host: 'h2' } },
      { name: 'm', value: 1, service_name: 'b', labels: { host: 'h3' } },
      { name: 'bare', value: 1 },
    ];
    await api.call('POST', '/api/v1/metrics/batch', { body: { metrics } });
    const all = await api.call('GET', '/api/v1/metrics/m/labels');
    expect(all.body).toEqual({
      metric_name: 'm',
      labels: [
        { label: 'service_name', value_count: 2, values: ['a', 'b'] },
        { label: 'host', value_count: 3, values: ['h1', 'h2', 'h3'] },
        { label: 'zone', value_count: 1, values: ['x'] },
      ],
    });
    const some = await api.call('GET', '/api/v1/metrics/m/labels?service_name=b');
    expect(some.body.labels.map(({ label }: { label: string }) => label)).toEqual(['service_name', 'host']);
    expect((await api.call('GET', '/api/v1/metrics/bare/labels')).body.labels).toEqual([]);
    expect((await api.call('GET', '/api/v1/metrics/none/labels')).status).toBe(404);
  });
});

describe('a timeline', () => {
  test('is of a service that there is, for a period that there is', async () => {
    await register(await signToken(), 'timed');
    expect((await api.call('GET', '/api/v1/services/timed/timeline')).body).toEqual({
      period: '24h',
      bucket_seconds: 3600,
      buckets: [],
    });
    expect((await api.call('GET', '/api/v1/services/timed/timeline?period=90d')).body.bucket_seconds).toBe(
      86_400,
    );
    expect((await api.call('GET', '/api/v1/services/none/timeline')).status).toBe(404);
    const wrong = await api.call('GET', '/api/v1/services/timed/timeline?period=1y');
    expect([wrong.status, wrong.body.errors[0].path]).toEqual([400, 'query.period']);
  });
});

describe('a dashboard', () => {
  const panels = [
    {
      type: 'metric',
      title: 'CPU',
      width: 2,
      metric_name: 'cpu_usage',
      aggregation: 'max',
      group_by: ['host'],
    },
    { type: 'logs', title: 'Errors', level: 'error', q: '"timed out"' },
    { type: 'alerts', title: 'Alerts', service_name: 'auth' },
    { type: 'services', title: 'All of them', width: 3 },
  ];

  test('is made, changed, listed and deleted', async () => {
    const made = await api.call('POST', '/api/v1/dashboards', { body: { name: 'ours', panels } });
    expect(made.status).toBe(201);
    expect(made.body).toMatchObject({ name: 'ours', description: null, panels, created_by: 'tester' });
    const path = `/api/v1/dashboards/${made.body.id}`;
    const changed = await api.call('PATCH', path, {
      body: { panels: panels.slice(1), description: 'fewer' },
    });
    expect(changed.body).toMatchObject({ name: 'ours', description: 'fewer', panels: panels.slice(1) });
    expect((await api.call('GET', '/api/v1/dashboards?q=OUR')).body.dashboards).toEqual([changed.body]);
    const taken = await api.call('POST', '/api/v1/dashboards', { body: { name: 'ours', panels: [] } });
    expect([taken.status, taken.body.code]).toEqual([409, 'name_taken']);
    expect((await api.call('DELETE', path)).status).toBe(204);
    expect((await api.call('GET', path)).status).toBe(404);
  });

  test.each([
    [{ panels }, 'name'],
    [{ name: 'x' }, 'panels'],
    [{ name: 'x', panels: {} }, 'panels'],
    [{ name: 'x', panels: [{ type: 'pie', title: 'x' }] }, 'panels[0].type'],
    [{ name: 'x', panels: [{ type: 'services' }] }, 'panels[0].title'],
    [{ name: 'x', panels: [{ type: 'metric', title: 'x' }] }, 'panels[0].metric_name'],
    [{ name: 'x', panels: [{ ...panels[0], width: 4 }] }, 'panels[0].width'],
    [{ name: 'x', panels: [{ ...panels[0], aggregation: 'mode' }] }, 'panels[0].aggregation'],
    [{ name: 'x', panels: [{ ...panels[3], metric_name: 'x' }] }, 'panels[0].metric_name'],
    [{ name: 'x', panels: Array(51).fill(panels[3]) }, 'panels'],
  ])('that is %j is refused for its %s', async (body, path) => {
    const answer = await api.call('POST', '/api/v1/dashboards', { body });
    expect([answer.status, answer.body.errors[0].path]).toEqual([400, path]);
  });
});

describe('the status page of an org', () => {
  const statusPage = { title: 'Ours', service_names: ['shown'] };
  const change = (token: string, status_page: unknown) =>
    api.call('PATCH', '/api/v1/org', { token, body: { status_page } });
  const open = async (org: string) => {
    const answer = await fetch(`${api.url}/status/${encodeURIComponent(org)}`);
    return { status: answer.status, text: await answer.text() };
  };

  test('is there for everybody once it is switched on, and then gone again', async () => {
    const token = await signToken({ org_id: 'public' });
    await register(token, 'shown');
    await register(token, 'hidden');
    expect((await change(token, statusPage)).body.status_page).toEqual(statusPage);
    const { status, text } = await open('public');
    expect(status).toBe(200);
    expect(text).toContain('shown');
    expect(text).not.toContain('hidden');
    expect((await api.call('GET', '/api/v1/org/export', { token })).body.settings.status_page).toEqual(
      statusPage,
    );
    expect((await change(token, null)).body.status_page).toBeNull();
  });

  test('is off by default, and says the same of an org that is none', async () => {
    await register(await signToken({ org_id: 'private' }), 'x');
    const answers = [await open('private'), await open('no such org')];
    expect(answers.map(({ status }) => status)).toEqual([404, 404]);
    expect(answers[0]!.text).toBe(answers[1]!.text);
  });

  test.each([
    [{ service_names: ['a'] }, 'status_page.title'],
    [{ title: 'x' }, 'status_page.service_names'],
    [{ title: 'x', service_names: [] }, 'status_page.service_names'],
    [{ title: 'x', service_names: ['a', 'a'] }, 'status_page.service_names'],
    [{ title: 'x', service_names: ['a'], theme: 'dark' }, 'status_page.theme'],
    ['on', 'status_page'],
  ])('that is %j is refused for %s', async (status_page, path) => {
    const answer = await change(await signToken(), status_page);
    expect([answer.status, answer.body.errors[0].path]).toEqual([400, path]);
  });
});
