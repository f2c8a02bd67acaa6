// What admins change: API tokens and the status page.
import { ask, showProblem, toast } from './api.ts';
import { parseLabelNames } from './forms.ts';
import { refresh } from './page.ts';

document.querySelector<HTMLFormElement>('[data-new-token]')?.addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = event.target as HTMLFormElement;
  const { name, role, days } = Object.fromEntries(new FormData(form)) as Record<string, string>;
  try {
    const { token } = await ask<{ token: string }>('POST', '/api/v1/tokens', {
      name,
      role,
      ...(days ? { expires_at: new Date(Date.now() + Number(days) * 86_400_000).toISOString() } : {}),
    });
    const place = document.querySelector<HTMLElement>('[data-made-token]')!;
    const code = document.createElement('code');
    code.textContent = token;
    const copy = document.createElement('button');
    copy.type = 'button';
    copy.textContent = 'Copy it';
    copy.addEventListener('click', () =>
      navigator.clipboard.writeText(token).then(
        () => toast('The token is copied'),
        () => getSelection()?.selectAllChildren(code),
      ),
    );
    place.replaceChildren('It is shown this once: ', code, ' ', copy);
    place.hidden = false;
    form.reset();
    await refresh();
  } catch (error) {
    showProblem(form, error);
  }
});

const statusPage = document.querySelector<HTMLFormElement>('[data-status-page]');

async function change(form: HTMLFormElement, status_page: object | null) {
  try {
    await ask('PATCH', '/api/v1/org', { status_page });
    toast(status_page ? 'The status page is on' : 'The status page is off');
    location.reload();
  } catch (error) {
    showProblem(form, error);
  }
}

statusPage?.addEventListener('submit', (event) => {
  event.preventDefault();
  const { title, service_names } = Object.fromEntries(new FormData(statusPage)) as Record<string, string>;
  void change(statusPage, { title, service_names: parseLabelNames(service_names ?? '') });
});
statusPage
  ?.querySelector('[data-status-off]')
  ?.addEventListener('click', () => void change(statusPage, null));
