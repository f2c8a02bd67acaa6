// What all pages have in common: the frame, and the small parts that they are made of. hono/html escapes whatever is put into its templates.
import { html } from 'hono/html';
import type { HtmlEscapedString } from 'hono/utils/html';
import { assetPath } from './assets.ts';

export type Html = HtmlEscapedString | Promise<HtmlEscapedString>;
/** What templates take: parts, text, and nothing. */
export type Part = Html | string | number | null | undefined | false | readonly Part[];

/** What an answer of the API came to. */
export type Answer<T> =
  | { data: T; problem?: undefined }
  | { data?: undefined; problem: { status: number; detail: string } };

const sections = [
  ['/', 'Overview'],
  ['/explore', 'Metrics'],
  ['/logs', 'Logs'],
  ['/alerts', 'Alerts'],
  ['/rules', 'Rules'],
  ['/dashboards', 'Dashboards'],
  ['/admin', 'Admin'],
] as const;

export interface PageOptions {
  title: string;
  /** Path of the section that it belongs to. */
  section: string;
  org: string;
  /** Modules of client/ besides the one that every page has. */
  modules?: string[];
  hasCharts?: boolean;
}

function head(title: string, modules: readonly string[], hasCharts: boolean): Html {
  return html`<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title} · LiftOS Observability</title>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath fill='none' stroke='%234c6ef5' stroke-width='2' d='M1 9h3l2-6 3 11 2-5h4'/%3E%3C/svg%3E">
<link rel="stylesheet" href="${assetPath}/style.css">
<script src="${assetPath}/web/client/theme.ts"></script>
${hasCharts ? html`<script src="${assetPath}/uplot.js" defer></script>` : ''}
${modules.map((name) => html`<script type="module" src="${assetPath}/web/client/${name}.ts"></script>`)}`;
}

/** A page for who is signed in. */
export function page(
  { title, section, org, modules = [], hasCharts = false }: PageOptions,
  body: Part,
): Html {
  return html`<!doctype html>
<html lang="en">
<head>${head(title, ['page', ...(hasCharts ? ['chart'] : []), ...modules], hasCharts)}</head>
<body>
<a class="skip" href="#main">Skip to content</a>
<header class="top">
<a class="brand" href="/">LiftOS <span>Observability</span></a>
<nav aria-label="Sections"><ul>${sections.map(
    ([path, name]) =>
      html`<li><a href="${path}"${path === section ? html` aria-current="page"` : ''}>${name}</a></li>`,
  )}</ul></nav>
<div class="session">
<span class="live" data-live-state title="Live updates" role="status"><span class="dot" aria-hidden="true"></span><span class="live-text">connecting</span></span>
<button type="button" class="quiet" data-theme-switch>Theme</button>
<span class="org">${org}</span>
<form method="post" action="/signout"><button class="quiet">Sign out</button></form>
</div>
</header>
<main id="main" tabindex="-1">
<p class="toast" role="alert" data-toast hidden></p>
${body}
</main>
</body>
</html>`;
}

/** A page for anybody. */
export function publicPage(title: string, modules: readonly string[], body: Part): Html {
  return html`<!doctype html>
<html lang="en">
<head>${head(title, modules, false)}</head>
<body class="public"><main id="main">${body}</main></body>
</html>`;
}

export interface PanelOptions {
  title: string;
  /** Columns of twelve. */
  width?: 3 | 4 | 6 | 8 | 12;
  /** Name under which it is brought up to date while the page is open; unique in the page. */
  live?: string;
  /** Beside the title. */
  aside?: Part;
}

export function panel({ title, width = 12, live, aside }: PanelOptions, body: Part): Html {
  const id = `panel-${title.toLowerCase().replace(/[^a-z0-9]+/g, '-')}`;
  return html`<section class="panel w${width}" aria-labelledby="${id}">
<div class="panel-head"><h2 id="${id}">${title}</h2>${aside}</div>
<div${live ? html` data-live="${live}"` : ''}>${body}</div>
</section>`;
}

/** What of an answer there is to show; where it failed, why, at the place where it would be. */
export function shown<T>(answer: Answer<T>, show: (data: T) => Part): Part {
  return answer.problem ? failure(answer.problem.detail) : show(answer.data as T);
}

export function failure(detail: string): Html {
  return html`<p class="failure" role="alert">${detail}</p>`;
}

export function empty(text: Part): Html {
  return html`<p class="empty">${text}</p>`;
}

export function badge(kind: string, text: string = kind): Html {
  return html`<span class="badge ${kind}">${text}</span>`;
}

/** An instant: in the viewer's time zone as soon as the page's script runs, with UTC on hover. */
export function time(iso: string | null | undefined, format: 'full' | 'time' | 'relative' = 'full'): Part {
  if (!iso) return html`<span class="none">never</span>`;
  return html`<time datetime="${iso}" data-format="${format}" title="${utc(iso)}">${utc(iso)}</time>`;
}

export function utc(iso: string): string {
  return `${new Date(iso).toISOString().slice(0, 19).replace('T', ' ')} UTC`;
}

export function number(value: number | null | undefined, unit = '', digits = 1): string {
  if (value === null || value === undefined) return '–';
  return `${new Intl.NumberFormat('en', { maximumFractionDigits: digits }).format(value)}${unit}`;
}

export function duration(seconds: number): string {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 86_400 * 2) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.round(seconds / 86_400)} days`;
}

/** A select with the chosen one of its options; options are values, or pairs of value and text. */
export function select(
  name: string,
  label: string,
  options: readonly (string | readonly [string, string])[],
  chosen: string | undefined,
): Html {
  return html`<label>${label} <select name="${name}">${options.map((option) => {
    const [value, text] = typeof option === 'string' ? [option, option] : option;
    return html`<option value="${value}"${value === (chosen ?? '') ? html` selected` : ''}>${text}</option>`;
  })}</select></label>`;
}

export function input(
  name: string,
  label: string,
  value: string | undefined,
  more: { type?: string; placeholder?: string; list?: string; required?: boolean; hint?: string } = {},
): Html {
  return html`<label>${label} <input name="${name}" type="${more.type ?? 'text'}" value="${value ?? ''}"${
    more.placeholder ? html` placeholder="${more.placeholder}"` : ''
  }${more.list ? html` list="${more.list}"` : ''}${more.required ? html` required` : ''} autocomplete="off" spellcheck="false"></label>`;
}

/** What a script of the page reads. */
export function data(id: string, value: unknown): Html {
  return html`<template id="${id}" data-json="${JSON.stringify(value)}"></template>`;
}

/** A chart: drawn by client/chart.ts from its description, see ChartSpec there. */
export function chart(label: string, spec: object, more: { height?: 'small' | 'tall' } = {}): Html {
  return html`<figure class="chart ${more.height ?? ''}" data-chart="${JSON.stringify({ label, ...spec })}">
<div class="plot" role="img" aria-label="${label}"></div><figcaption>${label}<span class="reading"></span></figcaption></figure>`;
}
