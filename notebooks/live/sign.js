// Lesson 3: from the exact step of compression to attention, one approximation after the other; where the sign flips.
function view(root, data) {
  const {U, names, groups} = data, first = data.state, K = U.length, p = U[0][0].length, stages = ["difference", "softmax", "built"];
  const state = {tokens: first.tokens.map((z) => [...z]), eps2: first.eps2, stage: first.stage};
  const tones = {exact: "--tone:var(--ink)", difference: "--tone:var(--g5)", softmax: "--tone:var(--g2)", built: "--tone:var(--g3)"};
  const [low, high] = data.span;

  const flat = (x) => x.flat();
  const cosine = (x, y) => dot(flat(x), flat(y)) / Math.max(norm(flat(x)) * norm(flat(y)), 1e-300);

  root.compute = ({tokens, eps2}) => {
    const n = tokens.length, beta = p / (n * eps2), moves = {exact: [], difference: [], softmax: [], built: []};
    for (const name in moves) moves[name] = tokens.map(() => [0, 0]);
    const x = [];
    for (let k = 0; k < K; k++) {
      const columns = range(p).map((i) => U[k].map((row) => row[i]));
      const w = tokens.map((z) => times(columns, z)), G = secondMoment(w).map((row) => row.map((v) => v * n));   // Σ w wᵀ
      const inv = inverse(plusIdentity(G, beta));
      const add = (name, j, v) => [0, 1].forEach((a) => { moves[name][j][a] += dot(U[k][a], v); });
      w.forEach((wj, j) => {
        add("exact", j, times(inv, wj).map((v) => -v));
        const mixed = times(G, wj);
        add("difference", j, wj.map((v, i) => beta * mixed[i] - v));
        const likes = w.map((wi) => dot(wi, wj)), top = Math.max(...likes), e = likes.map((v) => Math.exp(v - top)), total = sum(e);
        add("built", j, range(p).map((i) => sum(w.map((wi, l) => e[l] / total * wi[i]))));   // weights over the tokens
      });
      x.push(p == 1 ? [beta * G[0][0]] : eig2(G).values.map((v) => beta * v));
    }
    tokens.forEach((z, j) => { moves.softmax[j] = moves.built[j].map((v, a) => v - z[a]); });
    return {x, moves, cosines: Object.fromEntries(stages.map((name) => [name, cosine(moves[name], moves.exact)]))};
  };

  const board = plane("Tokens in the plane; drag them or move them with the arrow keys", data.reach);
  const below = board.layer();
  const truth = names.map(() => below.appendChild(svg("path", {class: "arrow", style: "--tone:var(--soft);opacity:.55;stroke-width:5"})));
  const arrows = names.map(() => below.appendChild(svg("path", {class: "arrow"})));
  const points = names.map((name, j) => handle(board, `token ${name}`, {
    kind: groups[j], text: name, moved: (xy) => { state.tokens[j] = xy; render(); }}));

  const graph = chart("How much of the direction each stage keeps, against the precision", {x: [low, high], y: [-1, 1], log: true, height: 300,
    xticks: [0.1, 1, 10, 100].filter((v) => v >= low && v <= high).map((v) => [v, v]), yticks: [[-1, "−1"], [0, "0"], [1, "1"]],
    xlabel: "precision ε² (to the right: coarser)", ylabel: "cosine with the exact step"});
  graph.shade(low, high, -1, 0);
  graph.curve("thin", "--tone:var(--soft)")([[low, 0], [high, 0]]);
  graph.note(high * 0.94, -0.5, "uphill: the sign is wrong", "end", "bad");
  const cursor = graph.upright("thin dots"), lines = {difference: graph.curve("", tones.difference), softmax: graph.curve("dash", tones.softmax),
    built: graph.curve("thin dots", tones.built)};
  const marks = Object.fromEntries(stages.map((name) => [name, graph.point(tones[name])]));
  const flips = range(K * p).map(() => graph.inner.appendChild(svg("path", {class: "curve thin", style: "--tone:var(--g5)"})));

  const eps2 = slider("precision ε²", {min: low, max: high, step: 0.01, log: true, text: (v) => v.toPrecision(3),
    change: (v) => { state.eps2 = v; render(); }});
  const pick = choice("stage", {difference: "1 · difference I − βG", softmax: "3 · softmax (MSSA − Z)", built: "4 · as built (MSSA)"},
    (key) => { state.stage = key; pick.set(key); render(); });
  const {body, says} = frame(data.title, data.hint, [
    panel("One step (grey: the exact one)", board.node),
    panel("What is left of the direction", graph.node, html("div", {class: "key"}, entry("1 difference", "", tones.difference),
      entry("3 softmax", "dash", tones.softmax), entry("4 as built", "thin dots", tones.built)))],
    [pick.node, eps2.node, html("div", {class: "choice"}, button("start again", () => root.set(first)))]);

  function render() {
    const now = root.compute(state), {exact} = now.moves, chosen = now.moves[state.stage];
    names.forEach((_, j) => {
      points[j].place(state.tokens[j]);
      const end = (v) => board.at(state.tokens[j].map((z, a) => z + v[j][a]));
      truth[j].setAttribute("d", arrowPath(board.at(state.tokens[j]), end(exact), 12));
      arrows[j].setAttribute("d", arrowPath(board.at(state.tokens[j]), end(chosen)));
      arrows[j].setAttribute("style", dot(chosen[j], exact[j]) < 0 ? "--tone:var(--bad)" : "--tone:var(--good)");
    });
    const whole = range(81).map((i) => { const e = low * (high / low) ** (i / 80); return [e, root.compute({...state, eps2: e}).cosines]; });
    for (const name of stages) {
      lines[name](whole.map(([e, c]) => [e, c[name]]));
      marks[name](state.eps2, now.cosines[name], name == state.stage);
    }
    cursor(state.eps2);
    const turns = now.x.flat().map((v) => v * state.eps2);              // the ε² at which x = 1
    flips.forEach((tick, i) => tick.setAttribute("d", turns[i] > low && turns[i] < high ? `M${graph.X(turns[i])},${graph.Y(-0.1)}V${graph.Y(0.1)}` : ""));
    const wrong = chosen.filter((v, j) => dot(v, exact[j]) < 0).length, cos = now.cosines[state.stage];
    const about = {
      difference: `x = ${now.x.flat().map((v) => fixed(v, 2)).join(" and ")}: a direction with x above 1 is stretched, not pressed. `,
      softmax: "The softmax's mean is bounded, so the pull towards the origin wins. ",
      built: "The layer adds the mean where the step would move towards it. "}[state.stage];
    says(`Cosine with the exact step ${fixed(cos, 2)}; ${wrong} of ${names.length} arrows point uphill. `, about,
      cos < 0 ? bold("The step turns around.", "bad") : bold("The step compresses.", "good"));
  }
  root.state = state;
  root.set = (given) => {
    Object.assign(state, given, {tokens: (given.tokens || state.tokens).map((z) => [...z])});
    eps2.set(state.eps2);
    pick.set(state.stage);
    render();
  };
  root.set(first);
  return body;
}
