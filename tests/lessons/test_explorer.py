"""The membership explorer in headless Chromium: as a page of its own, and in a running JupyterLab."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
import torch

from harness import trouble_of
from kit.explorer import Explorer
from kit.places import NOTEBOOKS
from tssa_lib import rates
from tssa_lib.plots import COLORS
from tssa_lib.tssa import memberships

EPS2, ETA, GRID = 0.5, 0.2, (6, 8)


def example() -> Explorer:
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(48, 5, generator=g, dtype=torch.float64)
    groups = {
        K: (
            torch.rand(K, 48, generator=g, dtype=torch.float64).softmax(0),
            torch.linalg.qr(torch.randn(K, 5, 2, generator=g, dtype=torch.float64))[0],
        )
        for K in (2, 3, 4)
    }
    image = torch.rand(60, 80, 3, generator=g).numpy()
    return Explorer(image, tokens, GRID, groups, EPS2, ETA)


def expected(e: Explorer, K: int, rule: str, knob: float) -> tuple[torch.Tensor, float]:
    """Π and the objective by the library, on the float32 data that the page holds."""
    x, (Pi0, U0) = e.tokens.float().double(), e.groups[K]
    U = U0.float().double()
    w = torch.einsum("nd,kdp->knp", x, U)
    if rule == "length":
        T = rates.code_lengths(e.tokens, Pi0, U0, EPS2, corrected=True).float().double()
        Pi = (-T * ETA / (2 * knob)).softmax(0)
    else:
        Pi = memberships(w, knob if rule == "tokens" else 1 / (2 * knob), "tokens" if rule == "tokens" else "none")
    return Pi, rates.variational_rate(x, Pi, U, EPS2, corrected=True).item()


def painted(root, e: Explorer, K: int, head: int | None = None) -> None:
    """Each token's colour and alpha: its likeliest group's, or one group's, as far as it stands above equal shares."""
    canvas = root.locator("canvas")
    pixels = canvas.evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
    pixels = torch.tensor(pixels).view(*GRID, 4)
    rule, knob = root.locator(".rule").input_value(), float(root.get_attribute("data-knob"))
    Pi = expected(e, K, rule, knob)[0].view(K, *GRID)
    likeliest = Pi.argmax(0) if head is None else torch.full(GRID, head)
    alpha = ((Pi.gather(0, likeliest[None])[0] - 1 / K) / (1 - 1 / K)).clamp_min(0)
    assert (pixels[..., 3] - 255 * alpha).abs().max() <= 1.01
    palette = torch.tensor([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLORS])
    told = alpha > min(0.2, 0.9 * alpha.max())
    assert (pixels[..., :3] - palette[likeliest])[told].abs().max() <= 1 + 0.5 / alpha[told].min(), "rounding aside"


def follow(frame, page, e: Explorer) -> None:
    """Hover, click, use the keyboard and every control; what the view says must be what the library says."""
    root = frame.locator(".tssa-explorer")
    canvas = root.locator("canvas")
    canvas.scroll_into_view_if_needed()

    def says() -> dict:
        return root.evaluate("e => Object.assign({}, e.dataset)")

    def compare(K: int, rule: str) -> None:
        now = says()
        Pi, rate = expected(e, K, rule, float(now["knob"]))
        shown = torch.tensor([float(v) for v in now["membership"].split(",")], dtype=torch.float64)
        assert int(now["k"]) == K
        assert torch.allclose(shown, Pi[:, int(now["token"])], atol=1e-6)
        assert abs(float(now["rate"]) - rate) < 1e-6

    def point(row: int, col: int) -> None:
        box = canvas.bounding_box()
        page.mouse.move(
            box["x"] + box["width"] * (col + 0.5) / GRID[1], box["y"] + box["height"] * (row + 0.5) / GRID[0]
        )

    assert int(says()["token"]) == e.token, "opens on a telling token, held"
    canvas.click(position={"x": 5, "y": 5})
    canvas.click(position={"x": 5, "y": 5})  # held, and let go
    point(2, 3)
    assert int(says()["token"]) == 2 * GRID[1] + 3
    compare(3, "length")
    painted(root, e, 3)
    canvas.click(position={"x": 5, "y": 5})  # hold the first token
    point(5, 7)
    assert int(says()["token"]) == 0, "a held token stays"
    page.keyboard.press("ArrowRight"), page.keyboard.press("ArrowDown")
    assert int(says()["token"]) == GRID[1] + 1
    before = says()["rate"]
    for rule in ("energy", "tokens", "length"):
        root.locator(".rule").select_option(rule)
        compare(3, rule)
        root.locator(".knob").focus()
        old = float(says()["knob"])
        for _ in range(6):
            page.keyboard.press("ArrowRight")
        assert abs(float(says()["knob"]) / old - (10**0.3 if rule == "tokens" else 10**-0.3)) < 1e-6
        compare(3, rule)
    assert says()["rate"] != before
    root.locator(".k").focus()
    page.keyboard.press("ArrowRight")
    compare(4, "length")
    painted(root, e, 4)
    root.locator(".head").select_option("2")
    painted(root, e, 4, head=1)
    assert "group 4" in root.locator(".says").first.inner_text()


@contextlib.contextmanager
def opened(browser):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    yield page, trouble_of(page)
    page.close()


def test_the_exported_page_needs_nothing_and_follows(browser, tmp_path):
    path = example().save(tmp_path / "explorer.html")
    with opened(browser) as (page, trouble):
        page.goto(path.as_uri())
        follow(page, page, example())
        assert not trouble


def test_the_view_follows_in_jupyterlab(browser, tmp_path):
    here = os.path.dirname(__file__)
    places = [here, os.path.dirname(here), str(NOTEBOOKS)]
    cell = f"import sys; sys.path[:0] = {places!r}\nfrom test_explorer import example\nexample()"
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell)],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        ),
        tmp_path / "try.ipynb",
    )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = os.environ | {
        f"JUPYTER{name}": str(tmp_path / name)
        for name in ("_CONFIG_DIR", "_RUNTIME_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR")
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--allow-root",
        f"--ServerApp.root_dir={tmp_path}",
        "--IdentityProvider.token=t",
        "--LabApp.expose_app_in_browser=True",
    ]
    server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token=t", timeout=2)
                break
            time.sleep(0.25)
        with opened(browser) as (page, trouble):
            page.goto(f"http://127.0.0.1:{port}/lab/tree/try.ipynb?token=t&reset")
            page.wait_for_function(
                "() => window.jupyterapp && jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel",
                timeout=90000,
            )
            page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); return true }")
            page.wait_for_selector(".jp-OutputArea .tssa-explorer[data-rate]", timeout=90000)
            follow(page, page, example())
            assert not [t for t in trouble if t.startswith("http")], "JupyterLab's own errors are not ours"
    finally:
        server.terminate()
        server.wait(20)


def test_shapes_that_do_not_fit_are_named():
    e = example()
    with pytest.raises(ValueError, match=r"grid \(5, 8\), got 48"):
        Explorer(e.image, e.tokens, (5, 8), e.groups, EPS2, ETA)
    with pytest.raises(ValueError, match=r"expected Pi \(2, 48\)"):
        Explorer(e.image, e.tokens, GRID, {2: (e.groups[3][0], e.groups[2][1])}, EPS2, ETA)


def odd(**change):
    e = example()
    fields = dict(image=e.image, tokens=e.tokens, grid=e.grid, groups=e.groups, eps2=e.eps2, eta=e.eta)
    return Explorer(**(fields | change))


@pytest.mark.parametrize("eta", [0.0, -1.0, float("inf"), float("nan")])
def test_an_odd_eta_is_named_at_once(eta):
    with pytest.raises(ValueError, match="expected eta > 0 and finite"):
        odd(eta=eta)


def test_twelve_groups_uniform_memberships_and_a_strange_title(browser, tmp_path):
    g = torch.Generator().manual_seed(1)
    frames = torch.linalg.qr(torch.randn(12, 5, 2, generator=g, dtype=torch.float64))[0]
    groups = {12: (torch.full((12, 48), 1 / 12, dtype=torch.float64), frames)}
    e = odd(groups=groups, title="</script> __DATA__ __ID__")
    with opened(browser) as (page, trouble):
        page.goto(e.save(tmp_path / "twelve.html").as_uri())
        root = page.locator(".tssa-explorer")
        assert root.locator(".title").inner_text() == "</script> __DATA__ __ID__"
        assert root.locator(".bar").count() == 12
        root.locator(".rule").select_option("tokens")
        root.locator(".knob").fill("-3")
        shown = root.locator("canvas").evaluate("c => c.getContext('2d').getImageData(0, 0, 8, 6).data")
        assert max(list(shown)[3::4]) <= 2, "uniform is blank"
        assert not trouble


def test_where_no_script_runs_a_picture_and_a_sentence_remain():
    page = example()._repr_html_()
    still = page[: page.index("<script>")]
    assert still.count("<img ") == 1 and "trust this notebook" in still
    assert not {"<input", "<select", "<style", "<canvas"} & set(re.findall(r"<\w+", still))


def test_the_view_is_the_same_each_time_and_speaks_to_a_screen_reader():
    html = example()._repr_html_()
    assert html == example()._repr_html_() and len(html) < 400_000
    assert 'aria-live="polite"' in html and "aria-label" in html and "http://" not in html and "https://" not in html
