// What the views share: linear algebra of small matrices, a plane with tokens to drag, a chart, controls.
// A matrix is an array of rows. Nothing here knows of a lesson, and nothing is put on the page's window.

// ---- linear algebra ---------------------------------------------------------------------------------
const sum = (values) => values.reduce((a, b) => a + b, 0);
const range = (n) => Array.from({length: n}, (_, i) => i);
const dot = (a, b) => { let s = 0; for (let i = 0; i < a.length; i++) s += a[i] * b[i]; return s; };
const times = (A, v) => A.map((row) => dot(row, v));                    // A v
const norm = (v) => Math.sqrt(dot(v, v));

/** Second moment Σ_j π_j z_j z_jᵀ / Σ_j π_j of tokens x (N rows); all weights one if none are given. */
function secondMoment(x, weights) {
  const d = x[0].length, S = range(d).map(() => new Array(d).fill(0));
  let total = 0;
  x.forEach((z, j) => {
    const share = weights ? weights[j] : 1;
    total += share;
    for (let a = 0; a < d; a++) for (let b = 0; b < d; b++) S[a][b] += share * z[a] * z[b];
  });
  return S.map((row) => row.map((v) => v / Math.max(total, 1e-300)));
}

/** Lower triangle L with L Lᵀ = S, for a positive definite S. */
function cholesky(S) {
  const L = S.map((row) => row.map(() => 0));
  for (let i = 0; i < S.length; i++) for (let j = 0; j <= i; j++) {
    const rest = S[i][j] - dot(L[i].slice(0, j), L[j].slice(0, j));
    L[i][j] = i == j ? Math.sqrt(rest) : rest / L[j][j];
  }
  return L;
}

const plusIdentity = (S, c) => S.map((row, i) => row.map((v, j) => c * v + (i == j ? 1 : 0)));   // I + c S
const logdet = (S) => 2 * sum(cholesky(S).map((row, i) => Math.log(row[i])));

function inverse(S) {
  const L = cholesky(S), n = S.length;
  const columns = range(n).map((k) => {
    const y = [], z = new Array(n);
    for (let i = 0; i < n; i++) y.push(((i == k ? 1 : 0) - dot(L[i].slice(0, i), y)) / L[i][i]);
    for (let i = n - 1; i >= 0; i--) {
      let rest = y[i];
      for (let j = i + 1; j < n; j++) rest -= L[j][i] * z[j];
      z[i] = rest / L[i][i];
    }
    return z;
  });
  return columns;                                                       // symmetric: columns are rows
}

/** Eigenvalues of a symmetric 2 × 2 matrix, largest first, and the angle of the first eigenvector. */
function eig2(S) {
  const mean = (S[0][0] + S[1][1]) / 2, half = (S[0][0] - S[1][1]) / 2, spread = Math.hypot(half, S[0][1]);
  return {values: [mean + spread, mean - spread], angle: 0.5 * Math.atan2(2 * S[0][1], S[0][0] - S[1][1])};
}

/** R(Z) = ½ logdet(I + c S) in nats, c = d/ε² (lesson 1). */
const codingRate = (x, eps2) => 0.5 * logdet(plusIdentity(secondMoment(x), x[0].length / eps2));

// ---- elements ---------------------------------------------------------------------------------------
function make(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const html = (tag, attributes = {}, ...children) => make(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  make(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const fixed = (v, digits) => v.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");
const group = (k) => `--tone:var(--g${k % 6})`;
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Path of an arrow with an open head; only a dot if it is too short to point anywhere. */
function arrowPath([x0, y0], [x1, y1], head = 9) {
  const long = Math.hypot(x1 - x0, y1 - y0);
  if (long < 1) return "";
  const size = Math.min(head, long * 0.6), a = Math.atan2(y1 - y0, x1 - x0);
  const tip = (turn) => `${x1 - size * Math.cos(a + turn)},${y1 - size * Math.sin(a + turn)}`;
  return `M${x0},${y0}L${x1},${y1}M${tip(0.45)}L${x1},${y1}L${tip(-0.45)}`;
}

/** One of the marks that tell groups apart without colour: circle, square, triangle. */
function shape(k, x, y, r) {
  if (k % 3 == 0) return `M${x - r},${y}a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0Z`;
  if (k % 3 == 1) return `M${x - 0.9 * r},${y - 0.9 * r}h${1.8 * r}v${1.8 * r}h${-1.8 * r}Z`;
  return `M${x},${y - 1.1 * r}L${x + 1.1 * r},${y + 0.9 * r}L${x - 1.1 * r},${y + 0.9 * r}Z`;
}

const ellipsePath = (at, a, b, angle, size = 1) => range(73).map((i) => {
  const u = a * Math.cos(i * Math.PI / 36), v = b * Math.sin(i * Math.PI / 36);
  const [x, y] = at([size * (u * Math.cos(angle) - v * Math.sin(angle)), size * (u * Math.sin(angle) + v * Math.cos(angle))]);
  return `${i ? "L" : "M"}${x.toFixed(2)},${y.toFixed(2)}`;
}).join("");

// ---- a plane with things to drag --------------------------------------------------------------------
/** A square of the plane, −reach to reach. `at` gives pixels; `layer` a group to draw into, below the handles. */
function plane(label, reach) {
  const size = 400, unit = size / (2 * reach), at = ([x, y]) => [size / 2 + unit * x, size / 2 - unit * y];
  const inner = svg("svg", {width: size, height: size}), handles = svg("g");
  const node = svg("svg", {viewBox: `0 0 ${size} ${size}`, role: "group", "aria-label": label},
    svg("rect", {width: size, height: size, rx: 6, class: "frame"}), inner, handles);
  for (let v = -Math.floor(reach); v <= reach; v++) {
    const [x, y] = at([v, v]), kind = v ? "grid" : "axis";
    inner.append(svg("path", {d: `M${x},0V${size}M0,${y}H${size}`, class: kind}));
  }
  const back = ({clientX, clientY}) => {
    const box = node.getBoundingClientRect();
    return [(clientX - box.left) / box.width * 2 * reach - reach, reach - (clientY - box.top) / box.height * 2 * reach];
  };
  const layer = () => inner.appendChild(svg("g"));
  return {node, at, unit, reach, back, layer, handles, all: []};
}

/** Something to drag in a plane by mouse, finger or arrow keys; `moved([x, y])` says where to. */
function handle(board, name, {kind = 0, text = name, radius = 7, moved, nudge}) {
  const mark = svg("path", {class: "mark", style: group(kind)}), reach = svg("circle", {r: 19, class: "reach"});
  const letter = svg("text", {"text-anchor": "middle"});
  letter.textContent = text;
  const node = svg("g", {class: "handle", tabindex: 0, role: "slider", "aria-label": name, "aria-valuenow": 0}, reach, mark, letter);
  let here = [0, 0], offset = null;
  const limit = (v) => Math.max(-board.reach, Math.min(board.reach, v));
  const grab = (e) => {
    const [x, y] = board.back(e);
    offset = [here[0] - x, here[1] - y];
    node.setPointerCapture(e.pointerId);
    node.focus({preventScroll: true});
  };
  const distance = (e) => { const [x, y] = board.back(e); return Math.hypot(here[0] - x, here[1] - y); };
  board.all.push({grab, distance});
  node.addEventListener("pointerdown", (e) => {                         // where reaches overlap, the nearest is meant
    board.all.reduce((best, other) => (other.distance(e) < best.distance(e) ? other : best)).grab(e);
    e.preventDefault();
    e.stopPropagation();
  });
  node.addEventListener("touchstart", (e) => e.preventDefault(), {passive: false});   // the finger moves it, not the page
  node.addEventListener("pointermove", (e) => {
    if (!offset) return;
    const [x, y] = board.back(e);
    moved([limit(x + offset[0]), limit(y + offset[1])]);
  });
  for (const end of ["pointerup", "pointercancel"]) node.addEventListener(end, () => { offset = null; });
  node.addEventListener("keydown", (e) => {
    const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[e.key];
    if (!way) return;
    e.preventDefault();
    e.stopPropagation();
    const step = e.shiftKey ? 0.01 : 0.1;
    if (nudge) nudge(way, step);
    else moved(here.map((v, i) => limit(Math.round((v + step * way[i]) * 1e6) / 1e6)));
  });
  board.handles.append(node);
  const place = (xy, says = `${fixed(xy[0], 2)}, ${fixed(xy[1], 2)}`) => {
    here = xy;
    const [x, y] = board.at(xy);
    reach.setAttribute("cx", x); reach.setAttribute("cy", y);
    mark.setAttribute("d", shape(kind, x, y, radius));
    const out = Math.hypot(...xy) > 1e-9 ? Math.atan2(xy[1], xy[0]) : 1;   // the name stands off the origin
    letter.setAttribute("x", Math.max(8, Math.min(392, x + 17 * Math.cos(out))));
    letter.setAttribute("y", Math.max(12, Math.min(396, y + 5 - 17 * Math.sin(out))));
    node.setAttribute("aria-valuenow", xy[0].toFixed(2));
    node.setAttribute("aria-valuetext", says);
  };
  return {node, place};
}

// ---- a chart ----------------------------------------------------------------------------------------
/** Axes with ticks, given as {value: text}. `curve` and `dot` return functions that move what they drew. */
function chart(label, {x, y, xticks, yticks, xlabel, ylabel, log = false, height = 330}) {
  const width = 400, left = 46, right = 10, top = 22, bottom = 44;
  const X = (v) => left + (width - left - right) * (log ? Math.log(v / x[0]) / Math.log(x[1] / x[0]) : (v - x[0]) / (x[1] - x[0]));
  const Y = (v) => height - bottom - (height - top - bottom) * (v - y[0]) / (y[1] - y[0]);
  const inner = svg("svg", {x: left, y: top, width: width - left - right, height: height - top - bottom,
    viewBox: `${left} ${top} ${width - left - right} ${height - top - bottom}`});
  const over = svg("g"), axes = svg("g");
  const node = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label}, axes, inner, over);
  const write = (parent, px, py, text, anchor = "middle", kind = "") => {
    const t = svg("text", {x: px, y: py, "text-anchor": anchor, class: kind});
    t.textContent = text;
    parent.append(t);
    return t;
  };
  axes.append(svg("rect", {x: left, y: top, width: width - left - right, height: height - top - bottom, class: "frame"}));
  for (const [v, text] of xticks) {
    axes.append(svg("path", {d: `M${X(v)},${top}V${height - bottom}`, class: "grid"}));
    write(axes, X(v), height - bottom + 17, text);
  }
  for (const [v, text] of yticks) {
    axes.append(svg("path", {d: `M${left},${Y(v)}H${width - right}`, class: "grid"}));
    write(axes, left - 6, Y(v) + 4.5, text, "end");
  }
  write(axes, (left + width - right) / 2, height - 7, xlabel);
  write(axes, 2, 13, ylabel, "start");
  const path = (points) => {
    let d = "", pen = "M";
    for (const [u, v] of points) {
      if (!Number.isFinite(v)) { pen = "M"; continue; }
      d += `${pen}${X(u).toFixed(2)},${Y(Math.max(y[0] - 9e3, Math.min(y[1] + 9e3, v))).toFixed(2)}`;
      pen = "L";
    }
    return d;
  };
  const curve = (kind = "", style = "") => {
    const p = inner.appendChild(svg("path", {class: `curve ${kind}`, style}));
    return (points) => p.setAttribute("d", path(points));
  };
  const point = (style = "", r = 6) => {
    const p = over.appendChild(svg("path", {class: "mark", style}));
    return (u, v, shown = v >= y[0] && v <= y[1]) => p.setAttribute("d", shown ? shape(0, X(u), Y(v), r) : "");
  };
  const shade = (u0, u1, v0 = y[0], v1 = y[1]) =>
    inner.append(svg("rect", {x: X(u0), y: Y(v1), width: X(u1) - X(u0), height: Y(v0) - Y(v1), class: "shade"}));
  const upright = (kind = "thin") => {
    const p = inner.appendChild(svg("path", {class: `curve ${kind}`, style: "--tone:var(--soft)"}));
    return (u) => p.setAttribute("d", `M${X(u)},${top}V${height - bottom}`);
  };
  const note = (u, v, text, anchor, kind) => write(over, X(u), Y(v), text, anchor, kind);
  return {node, X, Y, curve, point, shade, upright, note, inner};
}

// ---- controls ---------------------------------------------------------------------------------------
/** A labelled slider. With `log`, it moves evenly in the logarithm. Returns {node, set}. */
function slider(name, {min, max, step, log = false, text, change}) {
  const to = log ? Math.log10 : (v) => v, from = log ? (v) => 10 ** v : (v) => v;
  const input = html("input", {type: "range", min: to(min), max: to(max), step});
  const shown = html("output"), node = html("label", {}, html("span", {}, name), input, shown);
  const tell = (v) => { shown.textContent = text(v); input.setAttribute("aria-valuetext", text(v)); };
  input.addEventListener("input", () => { const v = from(Number(input.value)); tell(v); change(v); });
  input.addEventListener("keydown", (e) => e.stopPropagation());
  return {node, set: (v) => { input.value = to(v); tell(v); }};
}

/** Buttons of which one is pressed. Returns {node, set}. */
function choice(name, options, change) {
  const node = html("div", {class: "choice wide", role: "group", "aria-label": name}, html("span", {}, name));
  const buttons = Object.entries(options).map(([key, text]) => {
    const b = html("button", {type: "button", "data-key": key}, text);
    b.addEventListener("click", () => change(key));
    node.append(b);
    return b;
  });
  return {node, set: (key) => buttons.forEach((b) => b.setAttribute("aria-pressed", b.dataset.key == key))};
}

function button(text, act) {
  const node = html("button", {type: "button"}, text);
  node.addEventListener("click", act);
  return node;
}

/** The line of a key: a stroke as in the chart, and what it is. */
const entry = (text, kind = "", style = "") =>
  html("span", {}, svg("svg", {viewBox: "0 0 30 10", "aria-hidden": "true"}, svg("path", {d: "M1,5H29", class: `curve ${kind}`, style})), text);

const panel = (caption, ...nodes) => html("div", {class: "panel"}, html("div", {class: "caption"}, caption), ...nodes);

/** The view's frame: title, hint, panels, controls, and the sentence that says what is shown. */
function frame(title, hint, panels, controls) {
  const says = html("p", {class: "says", "aria-live": "polite"});
  const body = html("div", {}, html("p", {class: "title"}, title), html("p", {class: "hint"}, hint),
    html("div", {class: "stage"}, ...panels), html("div", {class: "controls"}, ...controls), says);
  return {body, says: (...parts) => says.replaceChildren(...parts)};
}
const bold = (text, kind = "") => html("b", {class: kind}, text);

/** Rows of a name, a bar from 0 to 1 and a number. Returns {node, set([[value, text], …])}. */
function bars(names, style = (k) => group(k)) {
  const rows = names.map((name, k) => {
    const fill = html("i", {style: style(k)}), value = html("span");
    return {fill, value, node: html("div", {class: "bar"}, html("span", {}, name), html("div", {}, fill), value)};
  });
  const set = (values) => values.forEach(([v, text], k) => {
    rows[k].fill.style.width = `${100 * Math.max(0, Math.min(1, v))}%`;
    rows[k].value.textContent = text;
  });
  return {node: html("div", {class: "bars"}, ...rows.map((r) => r.node)), set};
}
