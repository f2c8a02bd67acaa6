// Before the page is shown: the theme that was chosen here, or else the system's. Not a module, which would come too late.
(() => {
  const chosen = localStorage.getItem('theme');
  if (chosen) document.documentElement.dataset.theme = chosen;
})();
