// The API, asked as the page's own session.

/** What the API said was wrong; its message is for people. */
export class ApiError extends Error {
  readonly status: number;
  readonly errors: { path: string; message: string; line?: number; column?: number }[];

  constructor(status: number, detail: string, errors: ApiError['errors'] = []) {
    super(detail);
    this.status = status;
    this.errors = errors;
  }
}

/** Rejects with an ApiError, whatever went wrong. */
export async function ask<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  let answer: Response;
  try {
    answer = await fetch(path, {
      method,
      ...(body === undefined
        ? {}
        : { body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } }),
      ...(signal ? { signal } : {}),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, 'The service cannot be reached just now.');
  }
  if (answer.status === 204) return undefined as T;
  const given = (await answer.json().catch(() => ({}))) as { detail?: string; errors?: ApiError['errors'] };
  if (answer.status === 401) {
    location.reload();
    throw new ApiError(401, 'The session has ended.');
  }
  if (!answer.ok)
    throw new ApiError(answer.status, given.detail ?? `The answer was ${answer.status}.`, given.errors);
  return given as T;
}

/** Shows what came of something, for a few seconds. */
export function toast(text: string, isBad = false): void {
  const element = document.querySelector<HTMLElement>('[data-toast]');
  if (!element) return;
  element.textContent = text;
  element.classList.toggle('bad', isBad);
  element.hidden = false;
  clearTimeout(Number(element.dataset.timer));
  element.dataset.timer = String(setTimeout(() => (element.hidden = true), isBad ? 10_000 : 4_000));
}

/** Shows what is wrong with a form, beside it. */
export function showProblem(form: Element, error: unknown): void {
  const place =
    form.querySelector<HTMLElement>('[data-form-problem]') ??
    document.querySelector<HTMLElement>('[data-form-problem]');
  const text = error instanceof Error ? error.message : String(error);
  if (!place) {
    toast(text, true);
    return;
  }
  place.textContent = text;
  place.hidden = false;
}

/** What the server put into the page for its script. */
export function pageData<T>(id: string): T {
  return JSON.parse(document.getElementById(id)!.dataset.json!) as T;
}
