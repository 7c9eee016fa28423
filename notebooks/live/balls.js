// Lesson 1: the coding rate as the number of balls that fit where the tokens live, and as yes/no questions.
function view(root, data) {
  const {names} = data, first = data.state, most = 11;                  // bits that the chart and the squares show
  const state = {tokens: first.tokens.map((z) => [...z]), eps2: first.eps2};

  root.compute = ({tokens, eps2}) => {
    const S = secondMoment(tokens), {values, angle} = eig2(S), nats = codingRate(tokens, eps2);
    return {S, nats, bits: nats / Math.LN2, balls: Math.exp(nats), angle,
      axes: values.map((v) => Math.sqrt(Math.max(v, 0) + eps2 / 2)),    // of the received tokens, S + (ε²/d) I
      halved: (codingRate(tokens, eps2 / 4) - nats) / Math.LN2};        // bits more if ε is halved
  };

  /** The cells of a honeycomb, each of one ball's area, in the order in which a growing ellipse meets them. */
  function honeycomb({axes, angle, balls}, eps2) {
    const area = Math.PI * eps2 / 2, height = Math.sqrt(area * Math.sqrt(3) / 2), width = area / height;
    const reach = Math.max(...axes) * 1.2 + 2 * width, centres = [], [co, si] = [Math.cos(angle), Math.sin(angle)];
    for (let row = -Math.ceil(reach / height); row * height <= reach; row++) {
      const shift = row % 2 ? width / 2 : 0;
      for (let i = -Math.ceil(reach / width); i * width <= reach; i++) {
        const [x, y] = [i * width + shift, row * height];
        const far = Math.hypot((co * x + si * y) / axes[0], (co * y - si * x) / axes[1]);
        if (far < 1.6) centres.push([far, x, y]);
      }
    }
    return centres.sort((a, b) => a[0] - b[0]).slice(0, Math.ceil(balls));
  }

  const board = plane("Tokens in the plane; drag them or move them with the arrow keys", data.reach);
  const below = board.layer();
  const whole = below.appendChild(svg("path", {class: "ball"})), part = below.appendChild(svg("path", {class: "ball"}));
  const region = below.appendChild(svg("path", {class: "region"}));
  const points = names.map((name, j) => handle(board, `token ${name}`, {
    kind: data.groups[j], text: name, moved: (xy) => { state.tokens[j] = xy; render(); }}));

  const ticks = [0.02, 0.1, 0.5, 2, 8];
  const graph = chart("Bits against the precision", {x: [0.02, 8], y: [0, most], log: true, height: 300, xticks: ticks.map((v) => [v, v]),
    yticks: [0, 2, 4, 6, 8, 10].map((v) => [v, v]), xlabel: "precision ε² (to the right: coarser)", ylabel: "bits for a token"});
  const cursor = graph.upright("thin dots"), curve = graph.curve("", "--tone:var(--g0)"), here = graph.point("--tone:var(--g0)");
  const squares = range(most).map((i) => svg("rect", {x: 2 + 36 * i, y: 2, width: 30, height: 26, rx: 4, class: "bit empty"}));
  const filled = range(most).map((i) => svg("rect", {x: 2 + 36 * i, y: 2, height: 26, rx: 4, class: "bit"}));
  const questions = svg("svg", {viewBox: "0 0 400 30", "aria-hidden": "true"}, ...squares, ...filled);
  const price = html("div", {class: "big"});

  const eps2 = slider("precision ε²", {min: 0.02, max: 8, step: 0.01, log: true, text: (v) => v.toPrecision(3),
    change: (v) => { state.eps2 = v; render(); }});
  const flat = button("press onto a line", () => root.set({tokens: state.tokens.map(([x]) => [x, 0])}));
  const reset = button("start again", () => root.set(first));
  const {body, says} = frame(data.title, data.hint, [
    panel("Where a token may be: an ellipse full of balls", board.node),
    panel("What it costs to say where it is", price, questions, graph.node)],
    [eps2.node, html("div", {class: "choice"}, flat, reset)]);

  function render() {
    const now = root.compute(state), cells = honeycomb(now, state.eps2), r = board.unit * Math.sqrt(state.eps2 / 2);
    const whole_balls = Math.floor(now.balls), disc = ([, x, y]) => shape(0, ...board.at([x, y]), r);
    whole.setAttribute("d", cells.slice(0, whole_balls).map(disc).join(""));
    part.setAttribute("d", cells.slice(whole_balls).map(disc).join(""));
    part.setAttribute("opacity", (now.balls - whole_balls) * 0.8);
    region.setAttribute("d", ellipsePath(board.at, now.axes[0], now.axes[1], now.angle) + "Z");
    names.forEach((_, j) => points[j].place(state.tokens[j]));
    curve(range(61).map((i) => { const e = 0.02 * 400 ** (i / 60); return [e, codingRate(state.tokens, e) / Math.LN2]; }));
    cursor(state.eps2);
    here(state.eps2, now.bits);
    filled.forEach((s, i) => s.setAttribute("width", 30 * Math.max(0, Math.min(1, now.bits - i))));
    price.textContent = `${fixed(now.bits, 2)} bits = room for ${fixed(now.balls, 1)} balls`;
    const fills = now.halved > 1.5 ? "they fill the plane" : now.halved > 0.75 ? "much like a line" : "little is left to tell apart";
    says(`A token costs ${fixed(now.nats, 3)} nats = ${fixed(now.bits, 2)} bits: `, bold(`${fixed(now.bits, 1)} yes/no questions`),
      ` to name one of ${fixed(now.balls, 1)} balls. With half the ε it would be ${fixed(now.halved, 2)} bits more: ${fills}.`);
  }
  root.state = state;
  root.set = (given) => {
    Object.assign(state, given, {tokens: (given.tokens || state.tokens).map((z) => [...z])});
    eps2.set(state.eps2);
    render();
  };
  root.set(first);
  return body;
}
