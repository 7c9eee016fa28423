// Lesson 5: one TSSA step z − tAz on six tokens, its rate, the majoriser and the promise of the step-size theorem.
function view(root, data) {
  const {Pi, U, names} = data, K = Pi.length, first = data.state;
  const state = {tokens: first.tokens.map((z) => [...z]), gamma: first.gamma, eps2: first.eps2};
  const owner = names.map((_, j) => range(K).reduce((best, k) => (Pi[k][j] > Pi[best][j] ? k : best), 0));
  const column = (k, i) => U[k].map((row) => row[i]);                   // u_ki

  const moments = (x) => range(K).map((k) => range(U[k][0].length).map((i) => {
    const u = column(k, i);
    return sum(x.map((z, j) => Pi[k][j] * dot(u, z) ** 2)) / Math.max(sum(Pi[k]), 1e-300);
  }));
  const rate = (x, c) => sum(moments(x).map((s, k) => sum(Pi[k]) / x.length / 2 * sum(s.map((v) => Math.log1p(c * v)))));

  /** What the step does: everything that does not depend on γ first. */
  function prepare({tokens, eps2}) {
    const c = 2 / eps2, n = tokens.length, s = moments(tokens), D = s.map((row) => row.map((v) => c / (1 + c * v)));
    const A = tokens.map((_, j) => [0, 1].map((a) => [0, 1].map((b) =>
      sum(D.map((row, k) => Pi[k][j] * sum(row.map((gate, i) => gate * U[k][a][i] * U[k][b][i])))))));
    const Az = tokens.map((z, j) => times(A[j], z)), before = rate(tokens, c);
    const energy = (x) => sum(x.map((z, j) => dot(z, times(A[j], z)))) / (2 * n);
    const safe = 2 * c / Math.max(...A.map((a) => eig2(a).values[0]));
    const start = energy(tokens), pull = sum(Az.map((v) => dot(v, v)));
    const at = (gamma) => {
      const moved = tokens.map((z, j) => z.map((v, a) => v - gamma / c * Az[j][a]));
      return {moved, after: rate(moved, c), majoriser: before + energy(moved) - start,
        promise: before - gamma * (1 - gamma / 2) * pull / (c * n)};
    };
    return {s, D, before, safe, at};
  }
  root.compute = (given) => {
    const {s, D, before, safe, at} = prepare(given);
    return {s, D, before, safe, ...at(given.gamma)};
  };

  const board = plane("Tokens in the plane; drag them or move them with the arrow keys", data.reach);
  const noise = board.layer(), arrows = board.layer();
  const ball = noise.appendChild(svg("circle", {cx: 200, cy: 200, style: "fill:var(--ink);opacity:.07"}));
  const paths = names.map((_, j) => arrows.appendChild(svg("path", {class: "arrow", style: group(owner[j])})));
  const ends = names.map((_, j) => arrows.appendChild(svg("path", {class: "hollow", style: group(owner[j])})));
  const points = names.map((name, j) => handle(board, `token ${name}`, {
    kind: owner[j], text: name, moved: (xy) => { state.tokens[j] = xy; render(); }}));

  const graph = chart("The rate after the step, against the step", {x: [0, 4], y: [0, 1.6],
    xticks: [0, 1, 2, 3, 4].map((v) => [v, v]), yticks: [0, 0.5, 1, 1.5].map((v) => [v, v]),
    xlabel: "step γ (t = γ/c)", ylabel: "rate, relative to the start"});
  graph.shade(2, 4);
  const level = graph.curve("thin", "--tone:var(--soft)");
  level([[0, 1], [4, 1]]);
  const cursor = graph.upright("thin dots");
  const lines = {promise: graph.curve("dash", "--tone:var(--g5)"), majoriser: graph.curve("thin dots", "--tone:var(--g3)"),
    after: graph.curve("", "--tone:var(--ink)")};
  const dots = {promise: graph.point("--tone:var(--g5)"), majoriser: graph.point("--tone:var(--g3)", 4), after: graph.point()};
  graph.note(3.95, 1.03, "start", "end");
  graph.note(3, 0.08, "nothing is promised", "middle", "bad");

  const gamma = slider("step γ", {min: 0, max: 4, step: 0.05, text: (v) => fixed(v, 2), change: (v) => { state.gamma = v; render(); }});
  const eps2 = slider("precision ε²", {min: 0.02, max: 50, step: 0.01, log: true, text: (v) => v.toPrecision(3),
    change: (v) => { state.eps2 = v; render(); }});
  const reset = button("start again", () => root.set(first));
  const {body, says} = frame(data.title, data.hint, [
    panel("The step", board.node, html("div", {class: "key"}, "filled: before · hollow: after · grey disc: the ball of precision ε")),
    panel("What it does to the rate", graph.node, html("div", {class: "key"}, entry("rate", "", "--tone:var(--ink)"),
      entry("majoriser (tangents)", "thin dots", "--tone:var(--g3)"), entry("promise for every data", "dash", "--tone:var(--g5)")))],
    [gamma.node, eps2.node, html("div", {class: "choice"}, reset)]);

  function render() {
    const now = prepare(state), here = now.at(state.gamma), whole = range(81).map((i) => [i / 20, now.at(i / 20)]);
    names.forEach((_, j) => {
      points[j].place(state.tokens[j]);
      const from = board.at(state.tokens[j]), to = board.at(here.moved[j]);
      paths[j].setAttribute("d", arrowPath(from, to));
      ends[j].setAttribute("d", shape(owner[j], ...to, 3.5));
    });
    ball.setAttribute("r", board.unit * Math.sqrt(state.eps2 / 2));
    for (const name in lines) {
      lines[name](whole.map(([g, v]) => [g, v[name] / now.before]));
      dots[name](state.gamma, here[name] / now.before);
    }
    cursor(state.gamma);
    const better = here.after <= now.before + 1e-12, share = fixed(100 * here.after / now.before, 1);
    const verdict = state.gamma == 0 ? bold("no step yet.") : Math.abs(state.gamma - 2) < 1e-9
      ? bold("γ = 2: the promise is back at its start.", "bad") : state.gamma < 2 ? bold("safe, whatever the tokens.", "good")
      : bold(better ? "nothing was promised; it fell all the same." : "nothing was promised, and the rate rose.", "bad");
    says(`Rate ${fixed(now.before, 3)} → ${fixed(here.after, 3)} nats (${share} %); promised at most ${fixed(here.promise, 3)}; `,
      `for these tokens any γ < ${fixed(now.safe, 2)} is safe. `, verdict);
  }
  root.state = state;
  root.set = (given) => {
    Object.assign(state, given, {tokens: (given.tokens || state.tokens).map((z) => [...z])});
    gamma.set(state.gamma);
    eps2.set(state.eps2);
    render();
  };
  root.set(first);
  return body;
}
