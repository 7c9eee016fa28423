// Lesson 6: what one patch of a photo hears: K·p second moments in TSSA, n comparisons in softmax attention.
function view(root, data) {
  const [rows, cols] = data.grid, n = rows * cols, {K, p, d, s, rho} = data, c = data.c, q = d - p, first = data.state;
  const state = {...first};
  const whole = new Int16Array(Uint8Array.from(atob(data.tokens), (t) => t.charCodeAt(0)).buffer);
  const X = Float64Array.from(whole, (v) => v * data.unit);             // n tokens of width d, row by row
  const w = range(K).map((k) => {                                       // w_k (n, p): every patch in every frame
    const out = new Float64Array(n * p);
    for (let j = 0; j < n; j++) for (let i = 0; i < p; i++) {
      let v = 0;
      for (let a = 0; a < d; a++) v += data.U[k][a][i] * X[j * d + a];
      out[j * p + i] = v;
    }
    return out;
  });
  const gates = s.map((row) => row.map((v) => c / (1 + c * v)));

  /** π_j = softmax_k(−T_jk/2), from the patch itself and the second moments; nothing of any other patch. */
  function memberships(j) {
    let energy = 0;
    for (let a = 0; a < d; a++) energy += X[j * d + a] ** 2;
    const minus = range(K).map((k) => {
      let inside = 0, T = 0;
      for (let i = 0; i < p; i++) {
        const square = w[k][j * p + i] ** 2;
        T += Math.log1p(c * s[k][i]) + gates[k][i] * (square - s[k][i]);
        inside += square;
      }
      if (q) T += q * Math.log1p(c * rho[k]) + c / (1 + c * rho[k]) * (Math.max(energy - inside, 0) - q * rho[k]);
      return -T / 2;
    });
    const top = Math.max(...minus), e = minus.map((v) => Math.exp(v - top)), total = sum(e);
    return e.map((v) => v / total);                                     // over the groups
  }
  /** The weights of softmax attention in one head, q = k = v = w, tokens of the size that a LayerNorm gives them. */
  function weights(j, k) {
    const likes = new Float64Array(n);
    let top = -Infinity, total = 0;
    for (let l = 0; l < n; l++) {
      for (let i = 0; i < p; i++) likes[l] += w[k][j * p + i] * w[k][l * p + i];
      likes[l] *= d / Math.sqrt(p);
      top = Math.max(top, likes[l]);
    }
    for (let l = 0; l < n; l++) total += likes[l] = Math.exp(likes[l] - top);
    return likes.map((v) => v / total);                                 // over the patches
  }
  root.compute = ({token}) => {
    const Pi = memberships(token), head = Pi.indexOf(Math.max(...Pi));
    return {Pi, head, gates, hears: K * p, weights: [...weights(token, head)]};
  };

  /** A photo under a map of one colour a patch, with a frame around the patch that is asked. */
  function surface(label) {
    const canvas = html("canvas", {width: cols, height: rows, "aria-hidden": "true"}), pen = canvas.getContext("2d");
    const spot = svg("rect", {width: 1, height: 1, class: "spot"});
    const node = html("div", {class: "surface", tabindex: 0, role: "slider", "aria-label": label, "aria-valuemin": 1, "aria-valuemax": n, "aria-valuenow": 1},
      html("img", {alt: "", src: data.photo, draggable: "false"}), canvas, svg("svg", {viewBox: `0 0 ${cols} ${rows}`, preserveAspectRatio: "none", "aria-hidden": "true"}, spot));
    const find = (e) => {
      const box = node.getBoundingClientRect(), cell = (v, count) => Math.max(0, Math.min(count - 1, Math.floor(v * count)));
      choose(cell((e.clientY - box.top) / box.height, rows) * cols + cell((e.clientX - box.left) / box.width, cols));
    };
    node.addEventListener("pointermove", find);
    node.addEventListener("pointerdown", find);
    node.addEventListener("keydown", (e) => {
      const row = Math.floor(state.token / cols), column = state.token % cols;
      const to = {ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column]}[e.key];
      if (!to) return;
      e.preventDefault();
      e.stopPropagation();
      if (to[0] >= 0 && to[0] < rows && to[1] >= 0 && to[1] < cols) choose(to[0] * cols + to[1]);
    });
    const paint = (colour) => {
      const image = new ImageData(cols, rows);
      for (let j = 0; j < n; j++) image.data.set(colour(j), 4 * j);
      pen.putImageData(image, 0, 0);
    };
    const point = (j) => {
      spot.setAttribute("x", j % cols);
      spot.setAttribute("y", Math.floor(j / cols));
      node.setAttribute("aria-valuenow", j + 1);
      node.setAttribute("aria-valuetext", `row ${Math.floor(j / cols) + 1}, column ${j % cols + 1}`);
    };
    return {node, paint, point};
  }
  const choose = (token) => { if (token != state.token) { state.token = token; render(); } };

  const left = surface("Patch of the photo, with its group"), right = surface("Patch of the photo, with what attention compares it to");
  const tones = [[0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [213, 94, 0]];
  const groups = range(n).map(memberships);
  left.paint((j) => { const k = groups[j].indexOf(Math.max(...groups[j])); return [...tones[k % 6], 130 * groups[j][k]]; });

  const shares = bars(range(K).map((k) => `group ${k + 1}`));
  const largest = Math.max(...s.flat());
  const cells = s.map((row, k) => row.map((v, i) => svg("rect", {x: 34 + 62 * i, y: 20 + 24 * k, width: 58, height: 20, rx: 3,
    style: `fill:var(--g${k % 6});opacity:${(0.08 + 0.92 * Math.sqrt(v / largest)).toFixed(3)}`})));
  const table = svg("svg", {viewBox: `0 0 ${Math.max(34 + 62 * p, 330)} ${24 + 24 * K}`, role: "img",
    "aria-label": `Second moments of ${K} groups in ${p} directions each`}, ...cells.flat());
  const write = (x, y, text, anchor = "start") => { const t = svg("text", {x, y, "text-anchor": anchor}); t.textContent = text; table.append(t); };
  write(34, 13, "second moments s: the same for every patch");
  range(K).forEach((k) => write(26, 35 + 24 * k, String(k + 1), "end"));

  const thousands = (v) => String(v).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const count = html("div", {class: "big"}, `${K * p} numbers`), other = html("div", {class: "big"}, `${thousands(n)} comparisons`);
  const under = html("p", {class: "hint"}), bill = html("p", {class: "hint"});
  under.textContent = `K·p = ${K}·${p}, and ${K} for what lies off the frames. Made once; every patch hears the same ones.`;
  bill.textContent = `n = ${thousands(n)} in each head, for each patch anew: K·n² = ${thousands(K * n * n)} in all.`;
  const lines = html("canvas", {width: n, height: 120, role: "img", class: "lines", "aria-label": "One line for each comparison, as long as the patches are alike"});
  const pen = lines.getContext("2d");
  function compare(weight) {                                            // logarithms of the weights: the comparisons themselves
    const logs = [...weight].map((v) => Math.log(Math.max(v, 1e-300))), low = Math.min(...logs), high = Math.max(...logs);
    pen.clearRect(0, 0, n, 120);
    pen.fillStyle = "#5f93bd";
    logs.forEach((v, j) => { const h = 4 + 116 * (v - low) / Math.max(high - low, 1e-9); pen.fillRect(j, 120 - h, 0.75, h); });
  }
  const {body, says} = frame(data.title, data.hint, [
    panel("TSSA: this patch hears", count, left.node, under, shares.node, table),
    panel("Softmax attention: this patch asks for", other, right.node, bill, lines)], []);

  function render() {
    const now = root.compute(state), top = Math.max(...now.weights);
    left.point(state.token);
    right.point(state.token);
    shares.set(now.Pi.map((v) => [v, fixed(v, 3)]));
    right.paint((j) => [8, 10, 14, 205 * (1 - (now.weights[j] / top) ** 0.3)]);
    compare(now.weights);
    const near = [...now.weights].sort((a, b) => b - a);
    let share = 0, few = 0;
    while (share < 0.5) share += near[few++];
    says(`Row ${Math.floor(state.token / cols) + 1}, column ${state.token % cols + 1}: mostly group `, bold(String(now.head + 1)),
      ` (${fixed(100 * now.Pi[now.head], 0)} %). TSSA hears ${now.hears} second moments. Softmax attention makes ${thousands(n)} comparisons in head ${now.head + 1}; `,
      `half of its weight goes to ${thousands(few)} patches.`);
  }
  root.state = state;
  root.set = (given) => { Object.assign(state, given); render(); };
  root.set(first);
  return body;
}
