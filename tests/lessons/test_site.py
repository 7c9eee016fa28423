"""The site, built and opened in headless Chromium: every page at two widths, light and dark; what moves, by mouse."""

import os
import re
from pathlib import Path

import pytest
from test_live import drag, says

from harness import fresh_process, trouble_of
from kit.places import ROOT

pytest.importorskip("sphinx", reason="no Sphinx to build the site with: it needs Python 3.11")
SITE = ROOT / "site"
WIDTHS = (390, 1280)

READ = """() => {
  const text = document.querySelector("main").cloneNode(true), maths = [...document.querySelectorAll("main .math")];
  for (const e of text.querySelectorAll("pre, code, script, style, img, mjx-container, .tssa-live")) e.remove();
  return {
    formulas: maths.length,
    raw: maths.filter(e => !e.querySelector("mjx-container")).map(e => e.textContent)
      .concat(text.textContent.match(/\\\\[()[\\]]|\\$[^$\\n]+\\$|\\\\(?:tag|frac|mathrm)/g) ?? []),
    wrong: [...document.querySelectorAll("[data-mjx-error]")].map(e => e.dataset.mjxError),
  };
}"""
DRAWN = """() => {
  const page = document.documentElement, paper = getComputedStyle(document.body).backgroundColor;
  const light = paper.match(/\\d+/g).slice(0, 3).reduce((sum, v) => sum + Number(v), 0) > 384;
  const wide = [page, ...document.querySelectorAll("main, .bd-article-container, .bd-article")];
  const beyond = Math.max(...wide.map(e => e.scrollWidth - e.clientWidth));
  return {beyond, theme: page.dataset.theme, paper: light ? "light" : "dark"};
}"""


def built(*command: object, out: Path):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "notebooks")])
    return fresh_process(*map(str, command), cwd=ROOT, timeout=900, PYTHONPATH=paths, TSSA_SITE=str(out))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the pages; its name holds what people's folders hold."""
    out = tmp_path_factory.mktemp("my site [new] é")
    done = built(SITE / "build.py", "--out", out, "-q", out=out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "html"


class Page:
    """A page of the site, and everything that went wrong on it or wanted to leave it."""

    def __init__(self, browser, site: Path):
        self.page, self.site = browser.new_page(viewport={"width": 1280, "height": 900}), site
        self.trouble, inside = trouble_of(self.page), (site.as_uri(), "data:", "blob:")
        self.page.on("request", lambda r: r.url.startswith(inside) or self.trouble.append(f"off the site: {r.url}"))
        self.page.on("requestfailed", lambda r: self.trouble.append(f"failed: {r.url}"))

    def open(self, name: str):
        self.page.goto((self.site / name).as_uri())
        self.page.evaluate("() => window.MathJax?.startup?.promise")  # formulas stand
        return self.page


@pytest.fixture
def shown(browser, site):
    shown = Page(browser, site)
    yield shown
    shown.page.close()
    assert shown.trouble == []


def pages(site: Path) -> list[str]:
    return sorted(p.relative_to(site).as_posix() for p in site.rglob("*.html") if "_static" not in p.parts)


# ---- the build -----------------------------------------------------------------------------------------------------
def test_every_lesson_page_and_module_is_on_the_site_and_small(site):
    found = set(pages(site))
    lessons = {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")}
    modules = {f"api/{path.stem}.html" for path in (ROOT / "tssa_lib").glob("[a-z]*.py")}
    modules |= {f"api/kit_{name}.html" for name in ("attention", "cost", "photos", "plots", "tost")}
    ours = {path.relative_to(SITE).with_suffix(".html").as_posix() for path in SITE.rglob("*.md")}
    assert lessons | modules | ours | {"notebooks/EQUATIONS.html", "search.html"} <= found
    sources = {name.split("/")[1] for name in found if name.startswith("_modules/")}
    assert sources <= {"index.html", "kit", "tssa_lib", "tssa_lib.html"}, "other people's code stands where they put it"
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 60e6


def test_pages_say_the_figures_of_the_results(site):
    from experiments.readme import blood_rows

    figures = re.search(r"TSSA published at P5 [-+.\d]+ \[.+?\]", blood_rows()[0])[0]
    for name in ("results.html", "five_minutes.html", "zh/guide.html"):
        assert figures in (site / name).read_text(encoding="utf-8"), name


BROKEN = {
    "[a page](nowhere.md)": "nowhere",
    "[a lesson](/notebooks/99_none.ipynb)": "99_none",
    "[a place](#Not-here)": "Not-here",
    "`rates.no_such_rate`": "expected a name of tssa_lib, got rates.no_such_rate",
    "{py:func}`tssa_lib.rates.no_such_rate`": "no_such_rate",
    "![a picture](none.png)": "none.png",
    "{{ no_such_figure }}": "no_such_figure",
}


def test_what_leads_nowhere_fails_the_build(tmp_path):
    (tmp_path / "source").mkdir()
    text = "# A page\n\n[here](#A-page)\n\n" + "\n\n".join(BROKEN)
    (tmp_path / "source" / "index.md").write_text(text, encoding="utf-8")
    folders = tmp_path / "source", tmp_path / "html"
    done = built("-m", "sphinx", "-c", SITE, "-W", "--keep-going", *folders, out=tmp_path)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if "WARNING" in line or "ERROR" in line]
    for link, words in BROKEN.items():
        assert any(words in line for line in said), f"{link}: {done.stderr}"
    assert len(said) == len(BROKEN), done.stderr


# ---- in the browser ------------------------------------------------------------------------------------------------
def test_every_page_at_two_widths_light_and_dark(shown, site):
    trouble, formulas = {}, 0
    for name in pages(site):
        page = shown.open(name)
        read = page.evaluate(READ)
        formulas += read["formulas"]
        shown.trouble += [f"{key}: {read[key]}" for key in ("raw", "wrong") if read[key]]
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 844})
                wanted = {"beyond": 0, "theme": scheme, "paper": scheme}
                drawn = page.evaluate(DRAWN)
                for _ in range(30):  # a page takes a moment to answer to a new width or theme
                    if drawn == wanted:
                        break
                    page.wait_for_timeout(100)
                    drawn = page.evaluate(DRAWN)
                if drawn != wanted:
                    shown.trouble.append(f"{width} px, {scheme}: {drawn}")
        if shown.trouble:
            trouble[name] = shown.trouble.copy()
            shown.trouble.clear()
    assert not trouble, trouble
    assert formulas > 1000, f"expected the formulas of all lessons, got {formulas}"


def test_two_live_views_answer_the_mouse_in_the_theme_of_the_page(shown):
    for name, handle, right, up in (("05_tssa_update", "token a", -60, 30), ("01_coding_rate", "token d", 0, 80)):
        root = shown.open(f"notebooks/{name}.html").locator(".tssa-live").first
        for scheme in ("dark", "light"):
            shown.page.emulate_media(color_scheme=scheme)
            assert root.evaluate("e => getComputedStyle(e).colorScheme") == scheme
        before, token = says(root), "abcdef".index(handle[-1])
        x, y = root.evaluate(f"e => e.state.tokens[{token}]")
        drag(shown, root.get_by_role("slider", name=handle), right, up)
        moved = root.evaluate(f"e => e.state.tokens[{token}]")
        assert (moved[0] - x) * right >= 0 and (moved[1] - y) * up > 0 and says(root) != before


def test_the_lens_on_the_front_page_answers_the_mouse_in_the_theme_of_the_page(shown):
    lens = shown.open("index.html").locator(".tssa-lens")
    seen = []
    for scheme, place in (("light", {"x": 40, "y": 60}), ("dark", {"x": 200, "y": 120})):
        shown.page.emulate_media(color_scheme=scheme)
        lens.locator(".photo").click(position=place)
        lens.locator(".tile").nth(len(seen)).click()
        paper = lens.locator(".lens").evaluate("e => getComputedStyle(e).backgroundColor")
        seen.append((lens.get_attribute("data-token"), lens.get_attribute("data-head"), paper))
    assert all(light != dark for light, dark in zip(*seen)), seen


def test_a_reference_to_an_equation_shows_it_and_leads_there(shown):
    page = shown.open("notebooks/05_tssa_update.html")
    link = page.locator("a.equation", has_text="(5.2)").first
    link.hover()
    note = page.locator(".equation-note")
    note.locator("mjx-container").wait_for()
    assert "Second moment of coordinate i in group k" in note.inner_text()
    page.mouse.move(0, 0)
    assert note.count() == 0
    link.click()
    assert page.locator("#eq-5-2:target mjx-container").is_visible()


def test_search_finds_a_lesson(shown):
    shown.page.goto((shown.site / "search.html").as_uri() + "?q=majoriser")
    shown.page.locator("#search-results li a[href*='05_tssa_update']").first.wait_for()
