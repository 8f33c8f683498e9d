// One slider per control; the profile that was measured for the chosen values answers at once.
// Called as (root, data): root is the <figure>, data = {controls: [{name, values}], profiles: nested arrays
// indexed by control, x: axis label, y: axis label, caption: template, low, high: decades of the y axis, longest}.
(root, data) => {
  const WIDTH = 640, HEIGHT = 300, LEFT = 62, RIGHT = 14, TOP = 14, BOTTOM = 44;
  const SVG = "http://www.w3.org/2000/svg";
  const sliders = [...root.querySelectorAll("input[type=range]")];
  const marks = root.querySelector(".nbu-marks");
  const caption = root.querySelector("figcaption");
  const across = (i) => LEFT + ((WIDTH - LEFT - RIGHT) * (i + 0.5)) / data.longest;
  const up = (decade) =>
    HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (decade - data.low)) / (data.high - data.low);

  const add = (parent, tag, attributes, text) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  };

  const superscript = (n) => String(n).replace(/./g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
  const readable = (value) => {
    if (value >= 0.01 && value < 1000) return value.toPrecision(2).replace(/\.0$/, "");
    const power = Math.floor(Math.log10(value));
    return (value / 10 ** power).toFixed(1) + " × 10" + superscript(power);
  };

  const drawAxes = (axes) => {
    const every = Math.max(1, Math.ceil((data.high - data.low) / 7));
    for (let decade = Math.ceil(data.low); decade <= data.high; decade += every) {
      add(axes, "line", { x1: LEFT, x2: WIDTH - RIGHT, y1: up(decade), y2: up(decade), class: "nbu-grid" });
      add(axes, "text", { x: LEFT - 6, y: up(decade) + 4, "text-anchor": "end" }, "10" + superscript(decade));
    }
    for (let layer = 10; layer <= data.longest; layer += 10)
      add(axes, "text", { x: across(layer - 1), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, layer);
    add(axes, "text", { x: (WIDTH + LEFT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, data.x);
    add(axes, "text", { x: -(HEIGHT - BOTTOM + TOP) / 2, y: 14, transform: "rotate(-90)", "text-anchor": "middle" }, data.y);
  };

  const draw = () => {
    let profile = data.profiles;
    let words = data.caption;
    sliders.forEach((slider, i) => {
      const value = data.controls[i].values[slider.value];
      profile = profile[slider.value];
      slider.setAttribute("aria-valuetext", value);
      slider.parentElement.querySelector("output").textContent = value;
      words = words.replace(`{${data.controls[i].name}}`, value);
    });
    const line = profile.map((decade, i) => `${i ? "L" : "M"}${across(i).toFixed(1)} ${up(decade).toFixed(1)}`);
    marks.replaceChildren();
    add(marks, "path", { d: line.join(""), class: "nbu-line" });
    profile.forEach((decade, i) => add(marks, "circle", { cx: across(i), cy: up(decade), r: 2.6, class: "nbu-dot" }));
    const ratio = 10 ** (profile[0] - profile[profile.length - 1]);
    const verdict = ratio < 0.01 ? "It vanishes." : ratio > 100 ? "It explodes." : "It arrives.";
    caption.textContent = words.replace("{ratio}", readable(ratio)) + " " + verdict;
  };

  drawAxes(root.querySelector(".nbu-axes"));
  sliders.forEach((slider) => slider.addEventListener("input", draw));
  draw();
};
