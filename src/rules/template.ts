// Texts of a rule's labels and annotations that say something of the alert: {{ $value }} and {{ $labels.NAME }}.
import { ExpressionError } from './expression.ts';

/** Text, the value that the rule found, or one of the alert's labels. SQL puts them together: lib.render_template. */
export type TemplatePart = string | { value: true } | { label: string };

/** Reads a template. Throws an ExpressionError for what stands between braces and means nothing. */
export function parseTemplate(text: string): TemplatePart[] {
  const parts: TemplatePart[] = [];
  let offset = 0;
  for (;;) {
    const open = text.indexOf('{{', offset);
    if (open < 0) break;
    const close = text.indexOf('}}', open);
    if (close < 0) throw new ExpressionError(text, open, '"}}" after "{{"', 'no end of it');
    if (open > offset) parts.push(text.slice(offset, open));
    const inside = text.slice(open + 2, close).trim();
    const label = /^\$labels(?:\.([A-Za-z_][\w.]*)|\["([^"]+)"\])$/.exec(inside);
    if (inside === '$value') parts.push({ value: true });
    else if (label) parts.push({ label: (label[1] ?? label[2])! });
    else
      throw new ExpressionError(
        text,
        open,
        '{{ $value }}, {{ $labels.NAME }} or {{ $labels["NAME"] }}',
        JSON.stringify(inside),
      );
    offset = close + 2;
  }
  if (offset < text.length || parts.length === 0) parts.push(text.slice(offset));
  return parts;
}
