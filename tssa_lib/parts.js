// What the live views share: numbers out of text, a map painted token by token, a token chosen by mouse, touch and keys.
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
const rgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
const range = n => Array.from({length: n}, (_, i) => i);
const fixed = (v, n = 2) => Number(v).toFixed(n).replace(/^-(?=0\.0*$)/, "").replace("-", "−");
const percent = v => `${Math.round(100 * v)} %`;

// One pixel a token: `color` with alpha(j) in [0, 1]. The page scales the canvas up, without smoothing.
function paint(canvas, [rows, cols], color, alpha) {
  canvas.width = cols; canvas.height = rows;
  const image = new ImageData(cols, rows), [r, g, b] = rgb(color);
  for (let j = 0; j < rows * cols; j++) image.data.set([r, g, b, Math.round(255 * Math.min(1, Math.max(0, alpha(j))))], 4 * j);
  canvas.getContext("2d").putImageData(image, 0, 0);
}
// How far a membership stands above equal shares: 0 at 1/K and below, 1 where the token is this head's alone.
const above = (pi, K) => K > 1 ? Math.max(0, (pi - 1 / K) / (1 - 1 / K)) : 0;

// Calls changed(token, held) as the pointer moves over `area`; click or Enter holds, arrow keys step.
function pointing(area, grid, now, changed) {
  const place = e => {
    const box = area.getBoundingClientRect(), [rows, cols] = grid();
    const at = (v, n) => Math.min(n - 1, Math.max(0, Math.floor(v * n)));
    return at((e.clientY - box.top) / box.height, rows) * cols + at((e.clientX - box.left) / box.width, cols);
  };
  area.addEventListener("pointermove", e => { if (!now().held && e.pointerType != "touch") changed(place(e), false); });
  area.addEventListener("click", e => { const j = place(e); changed(j, !(now().held && j == now().token), e); });
  area.addEventListener("keydown", e => {
    const [rows, cols] = grid(), j = now().token, row = Math.floor(j / cols), col = j % cols;
    const to = {ArrowLeft: [row, col - 1], ArrowRight: [row, col + 1], ArrowUp: [row - 1, col], ArrowDown: [row + 1, col]}[e.key];
    if (to) { if (to[0] >= 0 && to[0] < rows && to[1] >= 0 && to[1] < cols) changed(to[0] * cols + to[1], true); }
    else if (e.key == "Enter" || e.key == " ") changed(j, !now().held);
    else return;
    e.preventDefault(); e.stopPropagation();
  });
}
// Every copy of a view in this document that isn't alive yet (a notebook may show one output twice).
const waiting = id => [...document.querySelectorAll(`[id="${id}"]`)].filter(e => !e.shadowRoot);
// "dark" or "light": JupyterLab's theme where there is one, else what the reader's system asks for.
function theme(changed) {
  const system = matchMedia("(prefers-color-scheme: dark)"), lab = () => document.body.dataset.jpThemeLight;
  const now = () => lab() ? (lab() == "true" ? "light" : "dark") : system.matches ? "dark" : "light";
  system.addEventListener("change", () => changed(now()));
  new MutationObserver(() => changed(now())).observe(document.body, {attributeFilter: ["data-jp-theme-light"]});
  changed(now());
}
