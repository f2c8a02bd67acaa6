// A link that signs in carries its token behind the #, which no browser sends anywhere: from there it goes into the form.
const form = document.querySelector<HTMLFormElement>('form[action="/signin"]');
const token = new URLSearchParams(location.hash.slice(1)).get('token');
if (form && token) {
  history.replaceState(null, '', location.pathname);
  form.querySelector<HTMLTextAreaElement>('textarea')!.value = token;
  if ('atOnce' in form.dataset) form.requestSubmit();
}
