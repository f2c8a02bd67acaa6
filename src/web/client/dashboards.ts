// Arranging dashboards: each change is saved at once, and the page shown anew.
import { ask, pageData, showProblem } from './api.ts';
import { parseLabelNames, withoutEmpty } from './forms.ts';

interface Panel {
  title: string;
  width?: number;
  [field: string]: unknown;
}

const isOne = document.getElementById('dashboard') !== null;
const dashboard = isOne ? pageData<{ id: string; panels: Panel[] }>('dashboard') : undefined;

document.querySelector<HTMLFormElement>('[data-new-dashboard]')?.addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = event.target as HTMLFormElement;
  try {
    const { id } = await ask<{ id: string }>('POST', '/api/v1/dashboards', {
      name: String(new FormData(form).get('name')),
      panels: [],
    });
    location.href = `/dashboards/${id}?edit=on`;
  } catch (error) {
    showProblem(form, error);
  }
});

let isSaving = false;

async function save(panels: Panel[]) {
  // The page is shown anew in a moment; what is clicked till then is of panels as they were.
  if (isSaving) return;
  isSaving = true;
  try {
    await ask('PATCH', `/api/v1/dashboards/${dashboard!.id}`, { panels });
    location.reload();
  } catch (error) {
    showProblem(document.body, error);
    isSaving = false;
  }
}

if (dashboard) {
  const { panels } = dashboard;
  document.addEventListener('click', (event) => {
    const button = (event.target as Element).closest<HTMLButtonElement>('button');
    if (!button) return;
    const { move, by, widen, remove } = button.dataset;
    if (move !== undefined) {
      const from = Number(move);
      const to = from + Number(by);
      if (to < 0 || to >= panels.length) return;
      const moved = panels.toSpliced(from, 1);
      moved.splice(to, 0, panels[from]!);
      void save(moved);
    } else if (widen !== undefined) {
      void save(
        panels.map((panel, i) =>
          i === Number(widen) ? { ...panel, width: ((panel.width ?? 1) % 3) + 1 } : panel,
        ),
      );
    } else if (remove !== undefined) void save(panels.toSpliced(Number(remove), 1));
  });

  const form = document.querySelector<HTMLFormElement>('[data-new-panel]');
  const type = form?.elements.namedItem('type') as HTMLSelectElement | undefined;
  const showFields = () => {
    for (const part of form!.querySelectorAll<HTMLElement>('[data-for]'))
      part.hidden = !part.dataset.for!.split(' ').includes(type!.value);
  };
  type?.addEventListener('change', showFields);
  if (form) showFields();
  form?.addEventListener('submit', (event) => {
    event.preventDefault();
    const {
      type: kind,
      title,
      width,
      ...fields
    } = Object.fromEntries(new FormData(form)) as Record<string, string>;
    const groupBy = parseLabelNames(fields.group_by ?? '');
    const of: Record<string, object> = {
      metric: withoutEmpty({
        metric_name: fields.metric_name,
        aggregation: fields.aggregation,
        service_name: fields.service_name,
        ...(groupBy.length > 0 ? { group_by: groupBy } : {}),
      }),
      logs: withoutEmpty({ service_name: fields.service_name, level: fields.level, q: fields.q }),
      alerts: withoutEmpty({ service_name: fields.service_name }),
      services: {},
    };
    void save([...panels, { type: kind, title: title!, width: Number(width), ...of[kind!] }]);
  });
}
