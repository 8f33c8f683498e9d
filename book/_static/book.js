// A formula that is wider than the page scrolls inside itself; let the keyboard reach it, too.
const reachFormula = (formula) => {
  if (formula.scrollWidth > formula.clientWidth) formula.tabIndex = 0;
  else formula.removeAttribute("tabindex");
};
window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  // Fonts that arrive late and windows that change size both change what fits.
  const watch = new ResizeObserver((changes) => {
    for (const { target } of changes) reachFormula(target.closest("div.math"));
  });
  for (const formula of document.querySelectorAll("article div.math")) {
    reachFormula(formula);
    for (const part of [formula, ...formula.children]) watch.observe(part);
  }
});
