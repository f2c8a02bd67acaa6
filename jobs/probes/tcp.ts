// A tcp service is up when it accepts a connection.
import { once } from 'node:events';
import type net from 'node:net';
import { connectTo, type EgressPolicy, resolveHost } from '../../src/egress.ts';
import { abortable, type Definition, ms, type Trace } from './trace.ts';

/** Resolves the host's name and connects; the trace gets the timings. Who calls closes the socket. */
export async function connect(
  url: URL,
  port: number,
  trace: Trace,
  { egress, signal }: { egress: EgressPolicy; signal: AbortSignal },
  timeoutMs: number,
): Promise<net.Socket> {
  trace.host = url.hostname;
  trace.phase = 'looking its name up';
  let began = performance.now();
  const addresses = await abortable(signal, () => {}, resolveHost(url.hostname, egress));
  trace.dns_ms = ms(performance.now() - began);

  trace.phase = 'connecting';
  if (addresses.length === 1) trace.address = addresses[0]!.address;
  began = performance.now();
  const socket = connectTo(addresses, port, timeoutMs);
  // Whatever comes after the first error is of no interest, and must not end the process.
  socket.on('error', () => {});
  try {
    await abortable(signal, () => socket.destroy(), once(socket, 'connect'));
  } catch (error) {
    socket.destroy();
    throw error;
  }
  trace.address = socket.remoteAddress ?? trace.address;
  trace.connect_ms = ms(performance.now() - began);
  trace.hasConnected = true;
  return socket;
}

export async function probeTcp(
  definition: Definition,
  trace: Trace,
  options: { egress: EgressPolicy; signal: AbortSignal },
): Promise<string | null> {
  const url = new URL(definition.health_endpoint);
  const socket = await connect(url, Number(url.port), trace, options, definition.timeout_seconds * 1000);
  socket.destroy();
  return null;
}
