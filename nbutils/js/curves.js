// One slider per control; the curves that were measured for the chosen values answer at once.
// Called as (root, data): root is the <figure>, data = {controls: [[value, …], …], x and y: labels, log: is y in decades,
// panels: [{title or none, x: grid, low, high}], curves: arrays nested by control, then [caption, panel, …] with a panel = [line, …]}.
(root, data) => {
  const HEIGHT = 290, LEFT = 58, RIGHT = 12, TOP = data.panels[0].title ? 30 : 12, BOTTOM = 44;
  const SVG = "http://www.w3.org/2000/svg";
  const sliders = [...root.querySelectorAll("input[type=range]")];
  const pictures = [...root.querySelectorAll("svg")];
  const caption = root.querySelector("figcaption");

  const add = (parent, tag, attributes, text) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return parent.appendChild(node);
  };

  const decades = (n) => "10" + String(n).replace(/./g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
  const ticks = (low, high, most) => {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const all = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) all.push(+(i * step).toPrecision(10));
    return all;
  };

  const paint = (svg, panel, lines) => {
    // As wide as it is shown, so that text keeps its size on a phone.
    const width = Math.round(svg.getBoundingClientRect().width) || 640;
    const first = panel.x[0], last = panel.x[panel.x.length - 1];
    const across = (x) => LEFT + 6 + ((width - LEFT - RIGHT - 12) * (x - first)) / (last - first || 1);
    const up = (y) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (y - panel.low)) / (panel.high - panel.low);
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.replaceChildren();
    const levels = ticks(panel.low, panel.high, 6).filter((level) => !data.log || Number.isInteger(level));
    for (const level of levels) {
      add(svg, "line", { x1: LEFT, x2: width - RIGHT, y1: up(level), y2: up(level), class: "nbu-grid" });
      add(svg, "text", { x: LEFT - 6, y: up(level) + 4, "text-anchor": "end" }, data.log ? decades(level) : level);
    }
    for (const place of ticks(first, last, width / 80))
      add(svg, "text", { x: across(place), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, place);
    add(svg, "text", { x: (width + LEFT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, data.x);
    add(svg, "text", { x: -(HEIGHT - BOTTOM + TOP) / 2, y: 13, transform: "rotate(-90)", "text-anchor": "middle" }, data.y);
    if (panel.title) add(svg, "text", { x: LEFT, y: 16, "font-weight": 600 }, panel.title);
    lines.forEach((line, i) => {
      const group = add(svg, "g", { class: "nbu-" + i });
      const points = line.flatMap((y, j) => (y === null ? [] : [[across(panel.x[j]), up(y)]]));
      const path = points.map(([x, y], j) => `${j ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
      add(group, "path", { d: path, class: "nbu-line" });
      if (i === 0 && points.length <= 60) points.forEach(([cx, cy]) => add(group, "circle", { cx, cy, r: 2.6, class: "nbu-dot" }));
    });
  };

  const draw = () => {
    let chosen = data.curves;
    sliders.forEach((slider, i) => {
      const value = data.controls[i][slider.value];
      chosen = chosen[slider.value];
      slider.setAttribute("aria-valuetext", value);
      slider.parentElement.querySelector("output").textContent = value;
    });
    const [words, ...panels] = chosen;
    pictures.forEach((svg, i) => paint(svg, data.panels[i], panels[i]));
    if (caption.textContent !== words) caption.textContent = words;
  };

  sliders.forEach((slider) => slider.addEventListener("input", draw));
  new ResizeObserver(draw).observe(root);
  draw();
};
