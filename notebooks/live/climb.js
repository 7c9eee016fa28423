// Lesson 2: gradient ascent on the rate reduction with tokens on the circle: converges, or jumps for ever.
function view(root, data) {
  const {names, groups} = data, first = data.state, n = names.length, K = Math.max(...groups) + 1, d = 2;
  const state = {tokens: first.tokens.map((z) => [...z]), eps2: first.eps2, factor: first.factor, at: first.at};
  const last = data.steps, far = 200;                                   // iterations shown; iterations before "for ever"
  const members = range(K).map((k) => range(n).filter((j) => groups[j] == k)).filter((list) => list.length);

  /** Second moments of all tokens and of each group, as [a, b, c] for [[a, b], [b, c]]. */
  const moment = (x, list) => {
    let a = 0, b = 0, c = 0;
    for (const j of list) { a += x[j][0] ** 2; b += x[j][0] * x[j][1]; c += x[j][1] ** 2; }
    return [a / list.length, b / list.length, c / list.length];
  };
  const everyone = range(n);
  const half = ([a, b, g], c) => 0.5 * Math.log((1 + c * a) * (1 + c * g) - (c * b) ** 2);
  const reduction = (x, c) => half(moment(x, everyone), c) - sum(members.map((list) => list.length / n * half(moment(x, list), c)));

  /** One step: along the gradient of ΔR by `factor` safe steps 8n/(9c), then back to the circle. */
  function step(x, c, factor) {
    const solve = ([a, b, g], [u, v]) => {                              // (I + c S)⁻¹ z
      const p = 1 + c * a, q = c * b, r = 1 + c * g, det = p * r - q * q;
      return [(r * u - q * v) / det, (p * v - q * u) / det];
    };
    const all = moment(x, everyone), own = [], t = factor * 8 / 9;      // (8n/9c) · (c/n)
    members.forEach((list) => { const S = moment(x, list); for (const j of list) own[j] = S; });
    return x.map((z, j) => {
      const [p, q] = solve(all, z), [u, v] = solve(own[j], z);
      const y = [z[0] + t * (p - u), z[1] + t * (q - v)], size = Math.hypot(...y);
      return size > 0 ? [y[0] / size, y[1] / size] : z;
    });
  }
  const distance = (x, y) => Math.sqrt(sum(x.map((z, j) => (z[0] - y[j][0]) ** 2 + (z[1] - y[j][1]) ** 2)));

  function climb({tokens, eps2, factor}, steps) {
    const c = d / eps2, path = [tokens];
    for (let i = 0; i < steps; i++) path.push(step(path[i], c, factor));
    return path;
  }
  root.compute = (given) => {
    const steps = given.steps ?? last, path = climb(given, steps + 2), c = d / given.eps2;
    return {path: path.slice(0, steps + 1), reduction: path.slice(0, steps + 1).map((x) => reduction(x, c)), best: best(given.eps2),
      jump: distance(path[steps], path[steps + 1]), twice: distance(path[steps], path[steps + 2])};
  };
  const best = (eps2) => d / 2 * (Math.log1p(1 / eps2) - Math.log1p(K / eps2) / K);   // balanced groups, K = d

  const board = plane("Tokens on the circle; drag where they start, or use the arrow keys", 1.35);
  const below = board.layer();
  below.append(svg("circle", {cx: 200, cy: 200, r: board.unit, class: "axis"}));
  const trails = names.map((_, j) => below.appendChild(svg("path", {class: "curve thin", style: `${group(groups[j])};opacity:.45`})));
  const jumps = names.map((_, j) => below.appendChild(svg("path", {class: "arrow", style: group(groups[j])})));
  const ghosts = names.map((_, j) => below.appendChild(svg("path", {class: "hollow", style: group(groups[j])})));
  const onto = (xy) => { const r = Math.hypot(...xy) || 1; return [xy[0] / r, xy[1] / r]; };
  const points = names.map((name, j) => {
    const move = (xy) => { stop(); state.at = 0; state.tokens[j] = onto(xy); at.set(0); render(true); };
    return handle(board, `token ${name}`, {kind: groups[j], text: name, moved: move, nudge: ([x, y], by) => {
      const [u, v] = state.tokens[j], a = Math.atan2(v, u) + by * (y + (x ? -x : 0));
      move([Math.cos(a), Math.sin(a)]);
    }});
  });

  const graph = chart("Rate reduction against the iteration", {x: [0, last], y: [0, 1.15], height: 210,
    xticks: range(5).map((i) => [i * last / 4, i * last / 4]), yticks: [0, 0.5, 1].map((v) => [v, v]),
    xlabel: "iteration", ylabel: "rate reduction ΔR, of its maximum"});
  const goal = graph.curve("thin dash", "--tone:var(--good)"), gain = graph.curve("thin", "--tone:var(--ink)"), cursor = graph.upright("thin dots");
  const spots = range(last + 1).map(() => graph.point("--tone:var(--ink)", 2.6)), now = graph.point("--tone:var(--g5)");
  const fork = chart("How far the tokens still jump after many steps, against the step", {x: [0.25, 16], y: [0, 1], log: true, height: 200,
    xticks: [0.25, 0.5, 1, 2, 4, 8, 16].map((v) => [v, `${v}×`]), yticks: [0, 0.5, 1].map((v) => [v, v]),
    xlabel: "step, in safe steps 8n/(9c)", ylabel: `jump of a token, still after ${far} steps`});
  const swing = fork.curve("", "--tone:var(--g5)"), pointer = fork.upright("thin dots"), mark = fork.point("--tone:var(--g5)");

  const factor = slider("step", {min: 0.25, max: 16, step: 0.02, log: true, text: (v) => `${v.toPrecision(3)} ×`,
    change: (v) => { stop(); state.factor = v; render(); }});
  const at = slider("iteration", {min: 0, max: last, step: 1, text: (v) => fixed(v, 0), change: (v) => { stop(); state.at = v; render(); }});
  const eps2 = slider("precision ε²", {min: data.least, max: 1, step: 0.01, log: true, text: (v) => v.toPrecision(3),
    change: (v) => { stop(); state.eps2 = v; render(true); }});
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "climb"; };
  const play = button("climb", () => {
    if (timer) return stop();
    if (state.at >= last || still()) state.at = still() ? last : 0;     // no movement for those who asked for none
    at.set(state.at);
    render();
    if (still()) return;
    play.textContent = "stop";
    timer = setInterval(() => {
      if (!root.isConnected || state.at >= last) return stop();
      at.set(++state.at);
      render();
    }, 180);
  });
  const {body, says} = frame(data.title, data.hint, [
    panel("Tokens on the circle, this step and the next", board.node),
    panel("Does it arrive?", graph.node, fork.node)],
    [factor.node, at.node, eps2.node, html("div", {class: "choice"}, play, button("start again", () => root.set(first)))]);

  let sweep = [];
  function render(fresh = false) {
    const run = root.compute(state), x = run.path[state.at], next = step(x, d / state.eps2, state.factor);
    if (fresh || !sweep.length) sweep = range(49).map((i) => {
      const f = 0.25 * 64 ** (i / 48), end = climb({...state, factor: f}, far + 1);
      return [f, distance(end[far], end[far + 1]) / Math.sqrt(n)];
    });
    names.forEach((_, j) => {
      points[j].place(x[j], `${fixed(Math.atan2(x[j][1], x[j][0]) * 180 / Math.PI, 0)} degrees`);
      const past = run.path.slice(Math.max(0, state.at - 3), state.at + 1).map((t) => board.at(t[j]).join(","));
      trails[j].setAttribute("d", `M${past.join("L")}`);
      const from = board.at(x[j]), to = board.at(next[j]);
      jumps[j].setAttribute("d", Math.hypot(to[0] - from[0], to[1] - from[1]) > 4 ? arrowPath(from, to) : "");
      ghosts[j].setAttribute("d", shape(groups[j], ...to, 3.5));
    });
    goal([[0, 1], [last, 1]]);
    const share = run.reduction.map((v) => v / run.best);
    gain(share.map((v, i) => [i, v]));
    share.forEach((v, i) => spots[i](i, v));
    cursor(state.at);
    now(state.at, share[state.at]);
    swing(sweep);
    pointer(state.factor);
    const end = climb(state, far + 2), c = d / state.eps2;
    const jump = distance(end[far], end[far + 1]) / Math.sqrt(n), twice = distance(end[far], end[far + 2]) / Math.sqrt(n);
    mark(state.factor, Math.min(jump, 0.97));
    const reached = reduction(end[far], c), value = fixed(reached, 3), verdict = jump < 1e-3 && reached > 0.99 * run.best
      ? bold("It arrives and stays.", "good") : jump < 1e-3 ? bold("It hardly moves there, and has not arrived.")
      : twice < 1e-3 ? bold(`A 2-cycle: every token jumps by ${fixed(jump, 2)}, and back, for ever.`, "bad")
      : bold(`It never settles: tokens jump by about ${fixed(jump, 2)}.`, "bad");
    says(`Iteration ${state.at}: ΔR = ${fixed(run.reduction[state.at], 3)} of at most ${fixed(run.best, 3)} nats; after ${far} steps ${value}. `, verdict,
      twice < 1e-3 && jump >= 1e-3 ? " The curve alone would not tell." : "");
  }
  root.state = state;
  root.set = (given) => {
    stop();
    Object.assign(state, given, {tokens: (given.tokens || state.tokens).map(onto)});
    factor.set(state.factor);
    at.set(state.at);
    eps2.set(state.eps2);
    render(true);
  };
  root.set(first);
  return body;
}
