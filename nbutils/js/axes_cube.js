// The input of a norm as N grids of C rows and P columns: choose an element, see which share its statistics.
// Called as (root, data): root is the <figure>, data = {norms: [{name, axes, centered}], groups: the first number of
// groups}. axes are letters: N examples, C channels, G the channels of a group, P positions.
(root, data) => {
  const SVG = "http://www.w3.org/2000/svg";
  const CELL = 20, GAP = 26, TOP = 22, LEFT = 2;
  const find = (role) => root.querySelector(`[data-role=${role}]`);
  const norm = find("norm"), groups = find("G"), sliders = ["N", "C", "P"].map(find);
  const box = root.querySelector(".nbu-cube-grid"), svg = box.querySelector("svg");
  const caption = root.querySelector("figcaption");
  const NAMES = ["example", "channel", "position"];
  let chosen = [0, 1, 2], wanted = data.groups;

  const add = (tag, attributes, text) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    svg.appendChild(node);
    return node;
  };
  const shape = () => sliders.map((slider) => Number(slider.value));
  const divisors = (count) => Array.from({ length: count }, (_, i) => i + 1).filter((g) => count % g === 0);
  const current = () => data.norms[norm.selectedIndex];

  // Two elements share statistics unless they differ along an axis that is not averaged over.
  const shares = (axes, per, a, b) =>
    (axes.includes("N") || a[0] === b[0]) &&
    (axes.includes("P") || a[2] === b[2]) &&
    (axes.includes("C") || (axes.includes("G") ? Math.floor(a[1] / per) === Math.floor(b[1] / per) : a[1] === b[1]));

  const every = (size, visit) => {
    for (let n = 0; n < size[0]; n++)
      for (let c = 0; c < size[1]; c++) for (let p = 0; p < size[2]; p++) visit([n, c, p]);
  };

  const words = (axes, per, size) => {
    const all = (i) => (size[i] === 1 ? `the one ${NAMES[i]}` : `all ${size[i]} ${NAMES[i]}s`);
    const one = (i) => `${NAMES[i]} ${chosen[i] + 1} only`;
    const first = Math.floor(chosen[1] / per) * per + 1;
    const group = per === 1 ? `${one(1)}, alone in its group` : `channels ${first} to ${first + per - 1}, its group`;
    return [
      axes.includes("N") ? all(0) : one(0),
      axes.includes("C") ? all(1) : axes.includes("G") ? group : one(1),
      axes.includes("P") ? all(2) : one(2),
    ].join("; ");
  };

  const draw = () => {
    const size = shape(), [N, C, P] = size;
    chosen = chosen.map((value, i) => Math.min(value, size[i] - 1));
    const possible = divisors(C);
    if (C % wanted) wanted = Math.max(...possible.filter((g) => g <= wanted));
    groups.max = possible.length - 1;
    groups.value = possible.indexOf(wanted);
    const per = C / wanted, { name, axes, centered } = current();
    [...sliders, groups].forEach((slider) => {
      const value = slider === groups ? wanted : slider.value;
      slider.setAttribute("aria-valuetext", value);
      slider.parentElement.querySelector("output").textContent = value;
    });

    const columns = Math.min(N, 2), rows = Math.ceil(N / columns);
    const width = columns * (P * CELL + GAP), height = rows * (C * CELL + GAP + 6);
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width * 1.2);
    let count = 0;
    every(size, (at) => {
      const left = LEFT + (at[0] % columns) * (P * CELL + GAP);
      const top = TOP + Math.floor(at[0] / columns) * (C * CELL + GAP + 6);
      if (at[1] === 0 && at[2] === 0)
        add("text", { x: left, y: top - 6 }, P < 3 ? `N ${at[0] + 1}` : `example ${at[0] + 1}`);
      const same = shares(axes, per, at, chosen);
      count += same;
      const self = at.every((value, i) => value === chosen[i]);
      const kind = self ? " nbu-chosen" : same ? " nbu-same" : "";
      const cell = add("rect", {
        x: left + at[2] * CELL + 1, y: top + at[1] * CELL + 1, width: CELL - 3, height: CELL - 3, rx: 2,
        class: "nbu-cube-cell" + kind,
      });
      cell.addEventListener("click", () => { chosen = at; draw(); });
    });

    const total = (N * C * P) / count;
    const statistic = centered ? "mean and variance" : "root mean square (no mean is subtracted)";
    const alone = centered
      ? " One value is its own mean: the difference is 0, whatever the value."
      : " One value over its own size: only the sign is left.";
    const pair = " Of two values, one becomes +1 and the other −1, whatever they are.";
    caption.textContent =
      `${name} over (N, C, H·W) = (${N}, ${C}, ${P})` + (axes.includes("G") ? `, ${wanted} group${wanted > 1 ? "s" : ""}` : "") +
      `: the element at example ${chosen[0] + 1}, channel ${chosen[1] + 1}, position ${chosen[2] + 1} shares its ` +
      `${statistic} with ${count === 1 ? "no other" : `${count - 1} other${count > 2 ? "s" : ""}, ${count} values in all`}: ` +
      `${words(axes, per, size)}. ` +
      `${total === 1 ? "It is the only such statistic" : `There are ${total} such statistics`}.` +
      (count === 1 ? alone : count === 2 && centered ? pair : "");
  };

  const keys = {
    ArrowLeft: [2, -1], ArrowRight: [2, 1], ArrowUp: [1, -1], ArrowDown: [1, 1], PageUp: [0, -1], PageDown: [0, 1],
  };
  box.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    const [axis, step] = keys[event.key];
    const size = shape()[axis];
    chosen = chosen.map((value, i) => (i === axis ? (value + step + size) % size : value));
    draw();
  });
  sliders.forEach((slider) => slider.addEventListener("input", draw));
  norm.addEventListener("input", draw);
  groups.addEventListener("input", () => {
    wanted = divisors(shape()[1])[groups.value];
    if (!current().axes.includes("G")) norm.selectedIndex = data.norms.findIndex((each) => each.axes.includes("G"));
    draw();
  });
  draw();
};
