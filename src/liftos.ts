// The services that are registered without anybody asking through the API: this one, and the other six of LiftOS.
import type { Config } from './config.ts';
import type { Sql } from './db.ts';
import { serviceName } from './version.ts';

const ports = {
  gateway: 8000,
  auth: 8001,
  billing: 8002,
  memory: 8003,
  registry: 8005,
  'data-ingestion': 8006,
};

// As a URL writes it: an IPv6 address in brackets.
function urlHost(host: string): string {
  return host.includes(':') && !host.startsWith('[') ? `[${host}]` : host;
}

/** The six LiftOS services at a host. */
export function liftosServices(host: string) {
  return Object.entries(ports).map(([service_name, port]) => ({
    service_name,
    kind: 'http',
    health_endpoint: `http://${urlHost(host)}:${port}/health`,
    description: `LiftOS ${service_name}`,
    tags: ['liftos'],
  }));
}

/** Where the API is reached from its own machine. */
export function ownUrl({ host, tls }: Partial<Config>, port: number): string {
  return `${tls ? 'https' : 'http'}://${host && !['0.0.0.0', '::'].includes(host) ? urlHost(host) : 'localhost'}:${port}`;
}

/** This service, as a worker reaches it: at SELF_HEALTH_URL, or on the worker's own machine. */
export function self(config: Partial<Config>, port: number) {
  return {
    service_name: serviceName,
    kind: 'http',
    health_endpoint: config.selfHealthUrl ?? `${ownUrl(config, port)}/health`,
    description: 'This service itself',
    // Its certificate is for the name that others call it by.
    ...(config.tls && !config.selfHealthUrl ? { tls_verify: false } : {}),
  };
}

/** Registers services in the default org, as role obs_api; what is set otherwise of those that are there stays. */
export async function registerServices(
  sql: Sql,
  org: string,
  services: readonly object[],
): Promise<{ created: number; updated: number; unchanged: number }> {
  const [row] = await sql<{ id: number }[]>`select api.ensure_org(${org}) as id`;
  const [outcome] = await sql<{ created: number; updated: number; unchanged: number }[]>`
    select * from api.import_services(${row!.id}, ${JSON.stringify(services)}::text::jsonb, ${serviceName})`;
  return outcome!;
}
