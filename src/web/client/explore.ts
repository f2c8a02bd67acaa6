// The explorer's form: names of metrics as one types, whatever their number; times of the viewer; an address without what is empty.
import { ask } from './api.ts';

const form = document.querySelector<HTMLFormElement>('[data-explore]')!;
const metric = form.elements.namedItem('metric_name') as HTMLInputElement;
const names = document.getElementById('metric-names')!;
let asking: AbortController | undefined;

metric.addEventListener('input', async () => {
  asking?.abort();
  asking = new AbortController();
  try {
    const { metrics } = await ask<{ metrics: { name: string }[] }>(
      'GET',
      `/api/v1/metrics?limit=50&q=${encodeURIComponent(metric.value)}`,
      undefined,
      asking.signal,
    );
    names.replaceChildren(...metrics.map(({ name }) => new Option(name, name)));
  } catch {
    // The names that were there stay.
  }
});

// Instants are typed in the viewer's time zone, and asked for in UTC.
const instants = [...form.querySelectorAll<HTMLInputElement>('[data-instant]')];
for (const field of instants) {
  const at = new Date(field.dataset.instant!);
  if (Number.isNaN(at.getTime())) continue;
  field.value = new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

// Whoever chooses a range means it.
(form.elements.namedItem('range') as HTMLSelectElement).addEventListener('change', () => {
  for (const field of instants) field.value = '';
});

form.addEventListener('formdata', ({ formData }) => {
  for (const { name, value } of instants) if (value) formData.set(name, new Date(value).toISOString());
  for (const [name, value] of [...formData]) if (value === '') formData.delete(name);
});
