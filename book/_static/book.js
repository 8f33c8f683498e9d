// A formula that is wider than the page scrolls inside itself; let the keyboard reach it, too.
const reachFormulas = () => {
  for (const formula of document.querySelectorAll("article div.math")) {
    if (formula.scrollWidth > formula.clientWidth) formula.tabIndex = 0;
    else formula.removeAttribute("tabindex");
  }
};
window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  reachFormulas();
  window.addEventListener("resize", reachFormulas);
});
