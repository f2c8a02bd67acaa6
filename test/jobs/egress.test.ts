// What probes must never reach, and what they reach only where they may.
import http from 'node:http';
import type net from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { probe } from '../../jobs/probes/probe.ts';
import type { Definition } from '../../jobs/probes/trace.ts';
import { connectTo, EgressError, egressObstacle, resolveHost } from '../../src/egress.ts';

const never = [
  '169.254.169.254',
  '169.254.0.1',
  'fe80::1',
  'fe80::1%eth0',
  '::ffff:169.254.169.254',
  '::ffff:a9fe:a9fe',
  '64:ff9b::a9fe:a9fe',
  '2002:a9fe:a9fe::1',
  '::169.254.169.254',
  '::ffff:0:169.254.169.254',
  'fd00:ec2::254',
  'fd20:ce::254',
  '100.100.100.200',
  '192.0.0.192',
  '168.63.129.16',
  '0.0.0.0',
  '::',
  '255.255.255.255',
  '224.0.0.1',
  'ff02::1',
];
const inside = [
  '127.0.0.1',
  '127.8.8.8',
  '::1',
  '10.1.2.3',
  '172.16.0.1',
  '192.168.1.1',
  '100.64.0.1',
  'fc00::1',
  'fd12:3456::1',
  '::ffff:10.0.0.1',
  '64:ff9b::0a00:1',
  '192.0.2.1',
  '198.18.0.1',
];
const outside = ['8.8.8.8', '93.184.216.34', '2606:4700::1111', '172.32.0.1', '64:ff9b::0808:0808'];

test.each(never)('%s is never reached', (address) => {
  expect(egressObstacle(address, 'allow')).toMatch(/which is never reached$/);
  expect(egressObstacle(address, 'deny')).not.toBeNull();
});
test.each(inside)('%s is reached unless EGRESS_PRIVATE=deny', (address) => {
  expect(egressObstacle(address, 'allow')).toBeNull();
  expect(egressObstacle(address, 'deny')).toMatch(/which this deployment does not reach$/);
});
test.each(outside)('%s is reached', (address) => {
  expect(egressObstacle(address, 'allow')).toBeNull();
  expect(egressObstacle(address, 'deny')).toBeNull();
});

test('a name is judged by its addresses, and only those that were judged are connected to', async () => {
  await expect(resolveHost('localhost', 'deny')).rejects.toThrow(EgressError);
  await expect(resolveHost('[fe80::1]', 'allow')).rejects.toThrow(EgressError);
  const addresses = await resolveHost('localhost', 'allow');
  expect(addresses.map(({ address }) => address).filter((a) => a !== '127.0.0.1' && a !== '::1')).toEqual([]);
});

describe('probes', () => {
  let requests = 0;
  let answer: http.RequestListener = (_request, response) => response.end();
  const server = http.createServer((request, response) => {
    requests++;
    answer(request, response);
  });
  let port: number;
  beforeAll(async () => {
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    port = (server.address() as net.AddressInfo).port;
  });
  afterAll(() => server.close());

  const definition: Definition = {
    kind: 'http',
    health_endpoint: '',
    method: 'GET',
    headers: {},
    request_body: null,
    expected_status: ['2xx'],
    expected_body: null,
    max_redirects: 5,
    tls_verify: true,
    tls_expiry_days: 14,
    degraded_above_ms: null,
    timeout_seconds: 2,
  };

  // URLs that say 127.0.0.1 in other words; the URL parser, or the resolver, takes them for what they are.
  test.each(['127.0.0.1', 'localhost', '2130706433', '0x7f.1', '0177.0.0.1', '127.1', '[::ffff:127.0.0.1]'])(
    'of %s are refused where private addresses are',
    async (host) => {
      requests = 0;
      const result = await probe(
        { ...definition, health_endpoint: `http://${host}:${port}/` },
        { egress: 'deny' },
      );
      expect(result).toMatchObject({ outcome: 'unknown', network: null, connect_ms: null });
      expect(result.reason).toMatch(
        /^refused: .* is a loopback address, which this deployment does not reach$/,
      );
      expect(requests).toBe(0);
    },
  );

  test('of tcp are refused alike', async () => {
    const result = await probe(
      { ...definition, kind: 'tcp', health_endpoint: `tcp://localhost:${port}` },
      { egress: 'deny' },
    );
    expect(result.reason).toMatch(/^refused: /);
  });

  test('that are redirected are judged at each hop', async () => {
    answer = (_request, response) => response.writeHead(307, { Location: 'http://[fe80::1]/' }).end();
    requests = 0;
    const result = await probe(
      { ...definition, health_endpoint: `http://127.0.0.1:${port}/` },
      { egress: 'allow' },
    );
    expect(result).toMatchObject({
      outcome: 'down',
      reason: 'refused: fe80::1 is a link-local address, which is never reached',
    });
    expect(requests).toBe(1);
  });

  test('connect to the address that was judged, whatever the name stands for by then', async () => {
    // No resolver is asked: the second of two addresses is where it connects when the first refuses.
    const socket = connectTo(
      [
        { address: '127.0.0.2', family: 4 },
        { address: '127.0.0.1', family: 4 },
      ],
      port,
      1000,
    );
    await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    expect(socket.remoteAddress).toBe('127.0.0.1');
    socket.destroy();
  });
});
