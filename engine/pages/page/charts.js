// Charts as SVG: one tab stop each; the arrow keys, or the pointer, go from point to point.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 44, right: 14, top: 10, bottom: 34 };

export const scales = {
  linear: (x) => x,
  log: (x) => Math.log(Math.max(x, 1e-9)),
  symlog: (x) => (x <= 1 ? Math.max(x, 0) : 1 + Math.log(x)), // linear up to 1
};

/** An element of SVG with its attributes. */
export function draw(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

/** Round numbers between two ends: 1, 2 or 5 times a power of ten apart, or such numbers. */
export function ticksOf(scale, low, high, count) {
  if (scale === "linear" || (scale === "log" && high < 4 * low)) { // there a curve is nearly a line
    const rough = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    const first = Math.ceil(low / step - 1e-9);
    const size = Math.floor((high - low) / step + 1e-9) + 1;
    return Array.from({ length: size }, (_, i) => +((first + i) * step).toPrecision(12))
      .filter((tick) => tick <= high + step * 1e-9);
  }
  const round = scale === "symlog" ? [0, 0.5] : [];
  for (let power = scale === "log" ? 1e-3 : 1; power < 1e9; power *= 10) {
    round.push(...[1, 2, 5].map((n) => n * power));
  }
  const inside = round.filter((tick) => tick >= low && tick <= high);
  const every = Math.ceil(inside.length / (count + 1));
  return inside.filter((_, i) => i % every === 0);
}

/**
 * A chart in a <figure>, drawn again whenever its width changes.
 *
 * all: the series, [{ colour, dash, points: [{ x, y, low, high, text, run, index }] }]; y null is
 *   left out; low and high, where there are any, are the ends of an upright bar.
 * options: { title: of the vertical axis, note: below it, label, xScale, yScale, x: [low, high], y: [low, high], height, xTitle,
 *   before(svg, at): what is drawn below the series, choose(run, index): on Enter or click }
 * Returns { mark(x) } which moves the dashed line of the chosen step.
 */
export function chart(figure, all, options) {
  const { xScale = "linear", yScale = "linear", height = 210 } = options;
  const series = all
    .map((one) => ({ ...one, points: one.points.filter((p) => p.y !== null && p.x !== null) }))
    .filter(({ points }) => points.length);
  const lines = series.map(({ points }) => points);
  let now = null, chosen = null, width = 0, at;
  if (options.title) {
    figure.append(Object.assign(document.createElement("figcaption"), { textContent: options.title }));
  }
  if (options.note) figure.append(Object.assign(document.createElement("small"), { textContent: options.note }));
  const box = document.createElement("div");
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  tip.setAttribute("role", "status");
  figure.append(box, tip);
  const svg = draw(box, "svg", {
    height, tabindex: 0, role: "application",
    "aria-label": `${options.label ?? options.title}. Arrow keys go from point to point.`,
  });

  function paint() {
    width = Math.max(figure.clientWidth, 200);
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const [fx, fy] = [scales[xScale], scales[yScale]];
    const place = (f, [low, high], from, to) => (v) =>
      from + ((f(v) - f(low)) / (f(high) - f(low) || 1)) * (to - from);
    at = {
      x: place(fx, options.x, MARGIN.left, width - MARGIN.right),
      y: place(fy, options.y, height - MARGIN.bottom, MARGIN.top),
    };
    for (const tick of ticksOf(yScale, ...options.y, 4)) {
      draw(svg, "line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: at.y(tick), y2: at.y(tick) });
      draw(svg, "text", { x: MARGIN.left - 8, y: at.y(tick) + 4, "text-anchor": "end" }, tick);
    }
    for (const tick of ticksOf(xScale, ...options.x, Math.min(width / 70, 9))) {
      draw(svg, "text", { x: at.x(tick), y: height - MARGIN.bottom + 18, "text-anchor": "middle" }, tick);
    }
    if (options.xTitle) {
      draw(svg, "text", { x: width - MARGIN.right, y: height - 4, "text-anchor": "end" }, options.xTitle);
    }
    options.before?.(svg, at);
    if (now !== null) draw(svg, "line", { class: "now", x1: at.x(now), x2: at.x(now), y1: MARGIN.top, y2: height - MARGIN.bottom });
    lines.forEach((points, i) => {
      const { colour, dash } = series[i];
      const path = points.map((p) => `${at.x(p.x).toFixed(1)},${at.y(p.y).toFixed(1)}`).join(" ");
      draw(svg, "polyline", { class: "path", points: path, style: `stroke: ${colour}`, "stroke-dasharray": dash });
      for (const { x, low, high } of points) {
        if (low === undefined || low === null) continue;
        draw(svg, "line", { class: "interval", x1: at.x(x), x2: at.x(x), y1: at.y(low), y2: at.y(high), style: `stroke: ${colour}` });
      }
      points.forEach((p, k) => draw(svg, "circle", {
        class: "point", cx: at.x(p.x), cy: at.y(p.y), r: k === points.length - 1 ? 4.5 : 2.8, style: `fill: ${colour}`,
      }));
    });
    show();
  }

  function show() {
    svg.querySelector(".ring")?.remove();
    tip.hidden = chosen === null;
    if (chosen === null) return;
    const point = lines[chosen[0]][chosen[1]];
    const [x, y] = [at.x(point.x), at.y(point.y)];
    draw(svg, "circle", { class: "ring", cx: x, cy: y, r: 6, style: `stroke: ${series[chosen[0]].colour}` });
    tip.textContent = point.text;
    const left = Math.min(Math.max(x - tip.offsetWidth / 2, 0), width - tip.offsetWidth);
    const top = box.offsetTop + y - tip.offsetHeight - 12;
    Object.assign(tip.style, { left: `${left}px`, top: `${top < 0 ? box.offsetTop + y + 14 : top}px` });
  }

  const move = {
    ArrowRight: ([s, p]) => [s, Math.min(p + 1, lines[s].length - 1)],
    ArrowLeft: ([s, p]) => [s, Math.max(p - 1, 0)],
    ArrowUp: ([s, p]) => other(s, -1, p),
    ArrowDown: ([s, p]) => other(s, 1, p),
  };
  function other(s, by, p) {
    const next = (s + by + lines.length) % lines.length;
    return [next, Math.min(p, lines[next].length - 1)];
  }
  function pick() {
    const { run, index } = lines[chosen[0]][chosen[1]];
    options.choose?.(run, index);
  }
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && chosen) return pick();
    if (event.key === "Escape") chosen = null;
    else if (!move[event.key] || !lines.length) return;
    else chosen = chosen ? move[event.key](chosen) : [0, 0];
    event.preventDefault();
    show();
  });
  box.addEventListener("focusout", () => { chosen = null; show(); });
  box.addEventListener("pointerleave", () => { chosen = null; show(); });
  box.addEventListener("pointermove", (event) => {
    const { left, top } = box.getBoundingClientRect();
    let nearest = Infinity;
    lines.forEach((points, s) => points.forEach((p, k) => {
      const far = Math.hypot(at.x(p.x) - event.clientX + left, at.y(p.y) - event.clientY + top);
      if (far < nearest) [nearest, chosen] = [far, [s, k]];
    }));
    if (nearest > 60) chosen = null;
    show();
  });
  box.addEventListener("click", () => chosen && pick());
  new ResizeObserver(() => figure.clientWidth !== width && paint()).observe(figure);
  paint();
  return { mark(x) { now = x; paint(); } };
}
