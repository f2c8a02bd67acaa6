// The explorer's form: names of metrics as one types, whatever their number; an address without what is empty.
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

form.addEventListener('formdata', ({ formData }) => {
  for (const [name, value] of [...formData]) if (value === '') formData.delete(name);
});
