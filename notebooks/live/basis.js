// Lesson 4: coding coordinate by coordinate in a turned basis: a box around the ellipse, its gates, the bits lost.
function view(root, data) {
  const {tokens, names} = data, first = data.state, state = {...first};
  const M = secondMoment(tokens), trace = M[0][0] + M[1][1], best = eig2(M);
  const along = (degrees) => [Math.cos(degrees * Math.PI / 180), Math.sin(degrees * Math.PI / 180)];

  root.compute = ({angle, eps2, head}) => {
    const c = 2 / eps2, u = along(angle), s1 = dot(u, times(M, u)), s2 = trace - s1;
    const s = head == "one" ? [s1] : [s1, s2];           // "corrected": what the head doesn't see, in one direction
    const rate = 0.5 * logdet(plusIdentity(M, c)), bound = 0.5 * sum(s.map((v) => Math.log1p(c * v)));
    return {s, rate, bound, bits: (bound - rate) / Math.LN2, gates: s.map((v) => c / (1 + c * v)),
      sides: [s1, head == "one" ? 0 : s2].map((v) => Math.sqrt(v + 1 / c))};
  };

  const board = plane("Tokens, their ellipse, and the box of the basis", data.reach);
  const below = board.layer(), far = 0.86 * data.reach;
  const ellipse = below.appendChild(svg("path", {class: "region"})), tight = below.appendChild(svg("path", {class: "curve thin dots", style: "--tone:var(--soft)"}));
  const box = below.appendChild(svg("path")), second = below.appendChild(svg("path", {class: "curve thin dash", style: "--tone:var(--soft)"}));
  const axis = below.appendChild(svg("path", {class: "arrow", style: "--tone:var(--ink)"}));
  tokens.forEach((z) => below.append(svg("path", {d: shape(0, ...board.at(z), 5), class: "mark", style: group(0)})));
  const turn = (degrees) => { state.angle = ((degrees + 90) % 180 + 180) % 180 - 90; basis.set(state.angle); render(); };
  const tip = handle(board, "direction u₁ of the basis", {kind: 5, text: "u₁", moved: ([x, y]) => turn(Math.atan2(y, x) * 180 / Math.PI),
    nudge: ([x, y], step) => turn(state.angle + 20 * step * (y - x))});

  const [low, high] = data.span;
  const graph = chart("Bits above the true rate against the angle of the basis", {x: [-90, 90], y: [low, high], height: 270,
    xticks: [-90, -45, 0, 45, 90].map((v) => [v, `${v}°`.replace("-", "−")]),
    yticks: range(Math.floor(high) - Math.ceil(low) + 1).map((i) => i + Math.ceil(low)).filter((v) => v % (high - low > 7 ? 2 : 1) == 0)
      .map((v) => [v, String(v).replace("-", "−")]), xlabel: "angle of u₁", ylabel: "bits above the true rate"});
  graph.shade(-90, 90, low, 0);
  graph.curve("thin", "--tone:var(--g0)")([[-90, 0], [90, 0]]);
  graph.note(-86, low * 0.12, "true rate of the ellipse", "start");
  graph.note(86, low * 0.93, "no bound: less than the truth", "end", "bad");
  const cursor = graph.upright("thin dots"), bound = graph.curve("", "--tone:var(--g5)"), broken = graph.curve("", "--tone:var(--bad)");
  const dotted = graph.point("--tone:var(--g5)");
  const gates = bars(["gate D₁ / c", "gate D₂ / c"], () => "--tone:var(--g5)");

  const basis = slider("angle of u₁", {min: -90, max: 90, step: 1, text: (v) => `${fixed(v, 0)}°`, change: (v) => { state.angle = v; render(); }});
  const eps2 = slider("precision ε²", {min: data.least, max: 2, step: 0.01, log: true, text: (v) => v.toPrecision(3),
    change: (v) => { state.eps2 = v; render(); }});
  const head = choice("the head codes", {both: "both directions (p = d)", one: "one (p = 1), plain", corrected: "one (p = 1), corrected"},
    (key) => { state.head = key; head.set(key); render(); });
  const own = button("eigenbasis", () => turn(best.angle * 180 / Math.PI));
  const {body, says} = frame(data.title, data.hint, [
    panel("The ellipse, and the box that the code reserves", board.node),
    panel("What the lazy code costs", graph.node, gates.node)],
    [head.node, html("div", {class: "choice"}, own, button("start again", () => root.set(first))), basis.node, eps2.node]);

  const corners = ([a, b], u) => [[a, b], [-a, b], [-a, -b], [a, -b]].map(([p, q]) => board.at([p * u[0] - q * u[1], p * u[1] + q * u[0]]).join(","));
  function render() {
    const now = root.compute(state), u = along(state.angle), wrong = now.bits < -1e-9, c = 2 / state.eps2;
    ellipse.setAttribute("d", ellipsePath(board.at, ...best.values.map((v) => Math.sqrt(Math.max(v, 0) + 1 / c)), best.angle) + "Z");
    tight.setAttribute("d", `M${corners(best.values.map((v) => Math.sqrt(Math.max(v, 0) + 1 / c)), [Math.cos(best.angle), Math.sin(best.angle)]).join("L")}Z`);
    box.setAttribute("d", `M${corners(now.sides, u).join("L")}Z`);
    box.setAttribute("class", wrong ? "box bad" : "box");
    const line = (v) => `M${board.at(v.map((x) => -far * x)).join(",")}L${board.at(v.map((x) => far * x)).join(",")}`;
    axis.setAttribute("d", line(u));
    second.setAttribute("d", state.head == "both" ? line([-u[1], u[0]]) : "");
    tip.place(u.map((v) => far * v), `${fixed(state.angle, 0)} degrees`);
    const whole = range(91).map((i) => [2 * i - 90, root.compute({...state, angle: 2 * i - 90}).bits]);
    bound(whole.map(([a, b]) => [a, b > -0.03 ? b : NaN]));
    broken(whole.map(([a, b]) => [a, b < 0 ? b : NaN]));
    cursor(state.angle);
    dotted(state.angle, now.bits);
    const size = (i) => (i < now.gates.length ? [now.gates[i] / c, fixed(now.gates[i] / c, 3)] : [0, "none"]);
    gates.set([size(0), size(1)]);
    const verdict = wrong ? bold(`It breaks: ${fixed(-now.bits, 2)} bits below the true rate; the ellipse sticks out of the box.`, "bad")
      : now.bits < 0.005 ? bold("No bit is lost: the box hugs the ellipse.", "good") : bold(`${fixed(now.bits, 2)} bits are lost`, "");
    const how = wrong || now.bits < 0.005 ? "" : ": the box has empty corners.";
    says(`True rate ${fixed(now.rate, 3)} nats, code of the box ${fixed(now.bound, 3)}. `, verdict, how,
      state.head == "corrected" ? " The corrected bound knows how much it doesn't see, and with one direction unseen that is all there is to know." : "");
  }
  root.state = state;
  root.set = (given) => {
    Object.assign(state, given);
    basis.set(state.angle);
    eps2.set(state.eps2);
    head.set(state.head);
    render();
  };
  root.set(first);
  return body;
}
