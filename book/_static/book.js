// A formula that is wider than the page scrolls inside itself; let the keyboard reach it, too.
const reachFormulas = () => {
  // One with a number stands in a div that scrolls, one without scrolls in MathJax's own container.
  for (const formula of document.querySelectorAll("article div.math, article mjx-container[display]")) {
    if (formula.scrollWidth > formula.clientWidth) formula.tabIndex = 0;
    else formula.removeAttribute("tabindex");
  }
};
window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  reachFormulas();
  window.addEventListener("resize", reachFormulas);
});
