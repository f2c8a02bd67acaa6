// Secrets of channels at rest: sealed:<key>:<AES-256-GCM, base64>:<what may be shown>. SQL reads the last part alone (lib.shown_secret), so that
// who reads a channel never has its secrets in hand. Key 0 stands for none: then the third part is the value itself, in base64.
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';

const shownSecret = '••••';
// Others are never sealed, whatever they look like.
const secrets = new Set(['headers', 'secret', 'password', 'bearer_token']);
const addresses = new Set(['url', 'smtp_url']);
const isSealable = (name: string) => secrets.has(name) || addresses.has(name);
const ivBytes = 12;
const tagBytes = 16;

/** What is wrong with a sealed value, or with the keys at hand. */
export class SealError extends Error {}

export interface Sealer {
  /** A channel's configuration, as it was given, with its secrets sealed; one that reads •••• stays so. */
  seal(orgId: number, type: string, config: Record<string, unknown>): Record<string, unknown>;
  /** The configuration as it was given. Throws a SealError for what these keys cannot open. */
  open(orgId: number, config: Record<string, unknown>): Record<string, unknown>;
  /** Whether something of it is sealed with another than the first key, or (of a type) should be and is not. */
  isStale(config: Record<string, unknown>, type?: string): boolean;
}

/** keys: of 32 bytes; the first seals, each can open. None: values are kept readable. */
export function createSealer(keys: readonly Buffer[]): Sealer {
  const byId = new Map(keys.map((key) => [idOf(key), key]));
  const current = keys[0] && idOf(keys[0]);

  function sealText(orgId: number, value: string, shown: string): string {
    // Of a change: what is stored stays (lib.change_config).
    if (value === shownSecret) return value;
    if (!current) return `sealed:0:${Buffer.from(value).toString('base64')}:${shown}`;
    const iv = randomBytes(ivBytes);
    const cipher = createCipheriv('aes-256-gcm', byId.get(current)!, iv);
    // It opens for its own org alone: moved to another's row it is of no use.
    cipher.setAAD(contextOf(orgId));
    const sealed = Buffer.concat([iv, cipher.update(value, 'utf8'), cipher.final(), cipher.getAuthTag()]);
    return `sealed:${current}:${sealed.toString('base64')}:${shown}`;
  }

  function openText(orgId: number, value: string): string {
    if (!isSealed(value)) return value;
    const [, id = '', text = ''] = value.split(':', 3);
    const bytes = Buffer.from(text, 'base64');
    if (id === '0') return bytes.toString();
    const key = byId.get(id);
    if (!key) throw new SealError('it is encrypted with a key that SECRETS_KEY does not hold');
    try {
      const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, ivBytes));
      decipher.setAAD(contextOf(orgId));
      decipher.setAuthTag(bytes.subarray(-tagBytes));
      return decipher.update(bytes.subarray(ivBytes, -tagBytes), undefined, 'utf8') + decipher.final('utf8');
    } catch {
      throw new SealError('what is stored of it was changed, or moved from another organisation');
    }
  }

  return {
    seal: (orgId, type, config) =>
      mapTexts(config, (value, name) => {
        const shown = shownOf(type, name, value);
        return shown === null ? value : sealText(orgId, value, shown);
      }),
    open: (orgId, config) =>
      mapTexts(config, (value, name) => (isSealable(name) ? openText(orgId, value) : value)),
    isStale(config, type) {
      let isStale = false;
      mapTexts(config, (value, name) => {
        if (isSealable(name) && isSealed(value)) isStale ||= value.split(':', 2)[1] !== (current ?? '0');
        else if (type !== undefined && shownOf(type, name, value) !== null) isStale = true;
        return value;
      });
      return isStale;
    },
  };
}

function isSealed(value: string): boolean {
  return value.startsWith('sealed:');
}

/** What may be shown of a text of a channel's configuration; null where all of it may. A header has the name headers. */
function shownOf(type: string, name: string, value: string): string | null {
  if (secrets.has(name)) return shownSecret;
  // Of Slack's the path is the secret; others may carry one in it, in the query or before the host.
  if (name === 'smtp_url' || (name === 'url' && (type !== 'alertmanager' || /[@?]/.test(value)))) {
    const { protocol, host } = new URL(value);
    return `${protocol}//${host}/${shownSecret}`;
  }
  return null;
}

// Texts, and those of an object (headers). Lists (addresses) and nulls are no secrets.
function mapTexts(
  config: Record<string, unknown>,
  change: (value: string, name: string) => string,
): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(config).map(([name, value]) => {
      if (typeof value === 'string') return [name, change(value, name)];
      if (typeof value !== 'object' || value === null || Array.isArray(value)) return [name, value];
      const inner = Object.entries(value).map(([key, text]) => [
        key,
        typeof text === 'string' ? change(text, name) : text,
      ]);
      return [name, Object.fromEntries(inner)];
    }),
  );
}

// Tells keys apart, and says nothing of them.
function idOf(key: Buffer): string {
  return createHash('sha256').update('liftos-observability/key-id').update(key).digest('hex').slice(0, 8);
}

function contextOf(orgId: number): Buffer {
  return Buffer.from(`liftos-observability/channel/${orgId}`);
}
