// The lessons' views follow the theme of JupyterLab; here the site's switch takes its place.
(() => {
  const page = document.documentElement, here = document.currentScript.src;
  const follow = () => { document.body.dataset.jpThemeLight = String(page.dataset.theme != "dark"); };
  new MutationObserver(follow).observe(page, {attributeFilter: ["data-theme"]});
  document.addEventListener("DOMContentLoaded", follow);

  // A reference to an equation shows it: hover, or focus by key.
  let asked, shown;
  const equations = () => asked ||= new Promise(resolve => {
    const script = document.createElement("script");
    script.src = new URL("equations.js", here);
    script.onload = () => resolve(window.EQUATIONS);
    document.head.append(script);
  });
  const hide = () => { shown?.remove(); shown = null; };
  async function show(link) {
    hide();
    const note = shown = document.createElement("div"), label = link.textContent.replace(/[()]/g, "");
    const [latex, says] = (await equations())[label];
    if (shown != note) return;
    const formula = document.createElement("div"), words = document.createElement("div");
    formula.className = "math"; formula.textContent = `\\[${latex.replace(/\\tag\{.*?\}/, "")}\\]`;
    words.textContent = `(${label}) ${says}`;
    note.className = "equation-note"; note.setAttribute("role", "tooltip");
    note.append(formula, words); document.body.append(note);
    await MathJax.typesetPromise([formula]);
    const at = link.getBoundingClientRect(), size = note.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left, innerWidth - size.width - 8));
    const above = at.bottom + size.height + 8 > innerHeight;
    note.style.left = `${left + scrollX}px`;
    note.style.top = `${scrollY + (above ? at.top - size.height - 6 : at.bottom + 6)}px`;
  }
  const reference = e => e.target.closest?.("a.equation");
  for (const come of ["pointerover", "focusin"]) document.addEventListener(come, e => reference(e) && show(reference(e)));
  for (const go of ["pointerout", "focusout"]) document.addEventListener(go, e => reference(e) && hide());
  document.addEventListener("keydown", e => e.key == "Escape" && hide());
})();
