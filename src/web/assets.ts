// What pages load: the modules of client/ without their types, the style sheet, and uPlot. Read once, at the start; nothing comes from anywhere else.
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { transformSync } from 'amaro';

const sourceFolder = path.join(import.meta.dirname, '..');
const uplotFolder = path.join(
  path.dirname(createRequire(import.meta.url).resolve('uplot/package.json')),
  'dist',
);

interface Asset {
  body: string;
  type: string;
}

/** By path: that of a module is its own below src/, so that its imports lead where they lead in the source. */
function readAssets(): Map<string, Asset> {
  const assets = new Map<string, Asset>();
  const module = (file: string) =>
    assets.set(file, {
      body: transformSync(readFileSync(path.join(sourceFolder, file), 'utf8'), { mode: 'strip-only' }).code,
      type: 'text/javascript; charset=utf-8',
    });
  for (const file of readdirSync(path.join(sourceFolder, 'web/client')).sort()) {
    if (file.endsWith('.ts')) module(`web/client/${file}`);
  }
  // The editor of rules reads them as the API does.
  module('rules/expression.ts');
  assets.set('style.css', {
    body:
      readFileSync(path.join(uplotFolder, 'uPlot.min.css'), 'utf8') +
      readFileSync(path.join(sourceFolder, 'web/client/style.css'), 'utf8'),
    type: 'text/css; charset=utf-8',
  });
  assets.set('uplot.js', {
    body: readFileSync(path.join(uplotFolder, 'uPlot.iife.min.js'), 'utf8'),
    type: 'text/javascript; charset=utf-8',
  });
  return assets;
}

const assets = readAssets();

/** Changes with any of them, so that browsers can keep each for ever. */
const hash = createHash('sha256')
  .update(JSON.stringify([...assets]))
  .digest('base64url')
  .slice(0, 12);

export const assetPath = `/assets/${hash}`;

/** An asset by its path below /assets, which begins with the hash; undefined for none. */
export function findAsset(requested: string): Asset | undefined {
  return requested.startsWith(`${assetPath}/`)
    ? assets.get(requested.slice(assetPath.length + 1))
    : undefined;
}

/** All of them by path, for who measures them. */
export const allAssets: ReadonlyMap<string, Asset> = assets;
