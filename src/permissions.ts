// What a token may do: permissions, the roles that have them, and the class of endpoint that each belongs to.

/** resource:action. An endpoint names the one that it takes as the scope of its security requirement: see needs(). */
export const permissions = [
  'metrics:read',
  'metrics:write',
  'logs:read',
  'logs:write',
  'services:read',
  'services:write',
  'heartbeats:write',
  'alerts:read',
  'alerts:write',
  'rules:read',
  'rules:write',
  'channels:read',
  'channels:write',
  'silences:read',
  'silences:write',
  'notifications:read',
  'notifications:write',
  'overview:read',
  'dashboards:read',
  'dashboards:write',
  'org:read',
  'org:write',
  'tokens:read',
  'tokens:write',
  'audit:read',
] as const;
export type Permission = (typeof permissions)[number];

export const roles = ['viewer', 'ingest', 'operator', 'admin'] as const;
export type Role = (typeof roles)[number];

const ofAdmins = /^(org|tokens|audit):/;
const isOfViewers = (permission: Permission) => permission.endsWith(':read') && !ofAdmins.test(permission);
const isOfIngest = (permission: Permission) => /^(metrics|logs|heartbeats):write$/.test(permission);

/** viewer reads; ingest records metrics, logs and heartbeats; operator does both, and changes definitions; admin everything. */
export const permissionsOf: Record<Role, readonly Permission[]> = {
  viewer: permissions.filter(isOfViewers),
  ingest: permissions.filter(isOfIngest),
  operator: permissions.filter((permission) => !ofAdmins.test(permission)),
  admin: permissions,
};

/**
 * What roles allow; where a list is given, only as far as it names it too. Roles and permissions that are not known
 * allow nothing.
 */
export function grantedBy(
  roleNames: readonly string[],
  narrowedTo?: readonly string[],
): ReadonlySet<Permission> {
  const granted = roleNames.flatMap((name) =>
    Object.hasOwn(permissionsOf, name) ? permissionsOf[name as Role] : [],
  );
  return new Set(narrowedTo ? granted.filter((permission) => narrowedTo.includes(permission)) : granted);
}

/** Classes of endpoints that have a rate limit of their own. */
export const endpointClasses = ['ingest', 'query', 'change'] as const;
export type EndpointClass = (typeof endpointClasses)[number];

export function classOf(permission: Permission): EndpointClass {
  if (isOfIngest(permission)) return 'ingest';
  return permission.endsWith(':read') ? 'query' : 'change';
}

/** The security requirement of a route: a bearer token that has the permission. What the document says is what is enforced. */
export function needs(permission: Permission): [{ bearer: Permission[] }] {
  return [{ bearer: [permission] }];
}
