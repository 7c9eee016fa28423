"""The views that move, in headless Chromium: numbers against the library, real mouse and keys, no request, no error."""

import base64
import json
import math
import re

import pytest
import torch
from torch import Tensor

from harness import trouble_of
from kit import live
from kit.attention import mssa
from tssa_lib import rates, tssa

SETTINGS = 50
TOL = 1e-6

SIX = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1], [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]], dtype=torch.float64)
SOFT = torch.tensor([[0.9] * 3 + [0.1] * 3, [0.1] * 3 + [0.9] * 3], dtype=torch.float64)
VIEWS = {
    "step": lambda: live.step(SIX, SOFT, eps2=0.5),
    "balls": lambda: live.balls(SIX),
    "climb": lambda: live.climb(),
    "sign": lambda: live.sign(SIX),
    "basis": lambda: live.basis(SIX[:3]),
    "patch": lambda: photo_of_six_by_eight(),
}


# ---- the browser ------------------------------------------------------------------------------------
class Shown:
    """A page with one view or several, and everything that went wrong on it."""

    def __init__(self, page):
        self.page, self.trouble = page, trouble_of(page)

    def open(self, path):
        self.page.goto(path.as_uri())
        return self.page.locator(".tssa-live").first

    def compute(self, states: list[dict]) -> list[dict]:
        """What the browser computes for each of the states."""
        ask = "(root, text) => JSON.stringify(JSON.parse(text).map((s) => root.compute(s)))"
        return json.loads(self.page.locator(".tssa-live").first.evaluate(ask, json.dumps(states)))


@pytest.fixture
def shown(browser):
    page = browser.new_page(viewport={"width": 1000, "height": 1100})
    shown = Shown(page)
    yield shown
    page.close()
    assert not shown.trouble


def uniform(g: torch.Generator, low: float, high: float, log: bool = False) -> float:
    u = torch.rand((), generator=g, dtype=torch.float64).item()
    return low * (high / low) ** u if log else low + (high - low) * u


def same(ours: dict, theirs: dict) -> None:
    """Every number that the library has is the number of the browser, to TOL."""
    for name, value in theirs.items():
        got, want = torch.as_tensor(ours[name], dtype=torch.float64), torch.as_tensor(value, dtype=torch.float64)
        assert got.shape == want.shape, f"{name}: expected shape {tuple(want.shape)}, got {tuple(got.shape)}"
        scale = want.abs().max().clamp_min(1)
        assert (got - want).abs().max() < TOL * scale, f"{name}: expected {want.tolist()}, got {got.tolist()}"


def slide(root, name: str, value: float) -> None:
    """Move a slider to a value of its own scale, as a user would: through its input event."""
    root.get_by_role("slider", name=name).evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def says(root) -> str:
    return root.locator(".says").inner_text()


def drag(shown: Shown, handle, right: float, up: float) -> None:
    handle.scroll_into_view_if_needed()
    box = handle.locator(".reach").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    shown.page.mouse.move(x, y)
    shown.page.mouse.down()
    shown.page.mouse.move(x + right / 2, y - up / 2, steps=2)
    shown.page.mouse.move(x + right, y - up)
    shown.page.mouse.up()


# ---- lesson 5: the step -----------------------------------------------------------------------------
def step_by_the_library(x: Tensor, Pi: Tensor, U: Tensor, gamma: float, eps2: float) -> dict:
    c, n = 2 / eps2, len(x)
    s = tssa.second_moments(torch.einsum("nd,kdp->knp", x, U), Pi, mass=0)
    D = tssa.gates(s, c)
    A = torch.einsum("kn,kdp,kp,kep->nde", Pi, U, D, U)
    rate = lambda z: rates.variational_rate(z, Pi, U, eps2)
    energy = lambda z: torch.einsum("nd,nde,ne->", z, A, z) / (2 * n)
    moved = x + tssa.tssa_update(x, Pi, U, eps2, t=gamma / c)
    size = rates.variational_rate_grad(x, Pi, U, eps2).square().sum()
    return {
        "s": s,
        "D": D,
        "moved": moved,
        "before": rate(x),
        "after": rate(moved),
        "majoriser": rate(x) + energy(moved) - energy(x),
        "promise": rate(x) - gamma / c * (1 - gamma / 2) * n * size,
        "safe": c * tssa.largest_safe_gamma(Pi, U, D),
    }


@pytest.mark.parametrize("p", [1, 2])
def test_the_step_is_the_library_s_and_keeps_its_promise(shown, tmp_path, p):
    g = torch.Generator().manual_seed(p)
    Pi = torch.randn(3, 6, generator=g, dtype=torch.float64).softmax(0)
    U = torch.linalg.qr(torch.randn(3, 2, 2, generator=g, dtype=torch.float64))[0][..., :p]
    shown.open(live.step(SIX, Pi, U).save(tmp_path / "step.html"))
    states = [
        {
            "tokens": (torch.randn(6, 2, generator=g, dtype=torch.float64) * uniform(g, 0.1, 3, log=True)).tolist(),
            "gamma": uniform(g, 0, 4),
            "eps2": uniform(g, 0.02, 50, log=True),
        }
        for _ in range(SETTINGS)
    ]
    for state, ours in zip(states, shown.compute(states)):
        x = torch.tensor(state["tokens"], dtype=torch.float64)
        same(ours, step_by_the_library(x, Pi, U, state["gamma"], state["eps2"]))
        assert ours["after"] <= ours["majoriser"] + 1e-9 <= ours["promise"] + 2e-9
        if state["gamma"] <= 2:
            assert ours["promise"] <= ours["before"] + 1e-9


def test_the_step_follows_mouse_keys_and_sliders(shown, tmp_path):
    root = shown.open(VIEWS["step"]().save(tmp_path / "step.html"))
    assert "the promise is back at its start" in says(root)
    slide(root, "step γ", 1)
    assert "safe, whatever the tokens" in says(root)
    slide(root, "step γ", 3)
    assert "nothing was promised; it fell all the same" in says(root)
    before = float(re.search(r"Rate (\S+)", says(root))[1])
    assert abs(before - rates.variational_rate(SIX, SOFT, torch.eye(2).double().repeat(2, 1, 1), 0.5).item()) < 6e-4

    token = root.get_by_role("slider", name="token a")
    drag(shown, token, -60, 30)
    x, y = root.evaluate("e => e.state.tokens[0]")
    unit = root.evaluate("e => e.querySelector('svg').getBoundingClientRect().width") / (2 * 2.6)
    assert abs(x - (2.0 - 60 / unit)) < 0.02 and abs(y - (0.1 + 30 / unit)) < 0.02
    assert float(re.search(r"Rate (\S+)", says(root))[1]) != before

    token.focus()
    shown.page.keyboard.press("ArrowUp")
    shown.page.keyboard.press("Shift+ArrowLeft")
    assert root.evaluate("e => e.state.tokens[0]") == pytest.approx([x - 0.01, y + 0.1], abs=1e-6)
    assert token.get_attribute("aria-valuetext") == f"{x - 0.01:.2f}, {y + 0.1:.2f}"
    slide(root, "precision ε²", 1.6)  # the slider's scale is log10
    assert root.get_by_role("slider", name="precision ε²").get_attribute("aria-valuetext").startswith("39")
    assert "and the rate rose" in says(root), "tokens that are small against ε make 2 sharp"
    root.get_by_role("button", name="start again").click()
    assert float(re.search(r"Rate (\S+)", says(root))[1]) == before


# ---- lesson 1: balls and bits -----------------------------------------------------------------------
def test_the_balls_are_the_library_s_rate(shown, tmp_path):
    shown.open(VIEWS["balls"]().save(tmp_path / "balls.html"))
    g = torch.Generator().manual_seed(0)
    states = [
        {
            "tokens": (torch.randn(6, 2, generator=g, dtype=torch.float64) * uniform(g, 0.1, 3, log=True)).tolist(),
            "eps2": uniform(g, 0.02, 8, log=True),
        }
        for _ in range(SETTINGS)
    ]
    for state, ours in zip(states, shown.compute(states)):
        x, eps2 = torch.tensor(state["tokens"], dtype=torch.float64), state["eps2"]
        R, S = rates.coding_rate(x, eps2), rates.second_moment(x)
        lam, V = torch.linalg.eigh(S + eps2 / 2 * torch.eye(2))
        theirs = {"nats": R, "bits": R / math.log(2), "balls": R.exp(), "S": S, "axes": lam.flip(0).sqrt()}
        same(ours, theirs | {"halved": (rates.coding_rate(x, eps2 / 4) - R) / math.log(2)})
        long = torch.tensor([math.cos(ours["angle"]), math.sin(ours["angle"])], dtype=torch.float64)
        assert abs((V[:, 1] @ long).abs() - 1) < TOL


def test_as_many_balls_are_drawn_as_the_rate_says(shown, tmp_path):
    root = shown.open(VIEWS["balls"]().save(tmp_path / "balls.html"))
    drawn = "e => [...e.querySelectorAll('.ball')].map((b) => (b.getAttribute('d').match(/M/g) || []).length)"
    R = rates.coding_rate(SIX, 0.1)
    assert (
        root.evaluate(drawn) == [int(R.exp()), 1] and f"{R / math.log(2):.2f} bits" in root.locator(".big").inner_text()
    )
    slide(root, "precision ε²", -1.5)
    now = root.evaluate("e => e.compute(e.state)")
    assert root.evaluate(drawn) == [int(now["balls"]), 1] and f"{now['balls']:.1f} balls" in says(root)
    assert "they fill the plane" in says(root)
    root.get_by_role("button", name="press onto a line").click()
    assert "much like a line" in says(root)
    root.get_by_role("slider", name="token d").focus()
    shown.page.keyboard.press("ArrowUp")
    assert root.evaluate("e => e.state.tokens[3]") == pytest.approx([0.1, 0.1])
    drag(shown, root.get_by_role("slider", name="token d"), 0, 80)
    assert root.evaluate("e => e.state.tokens[3][1]") > 0.9 and "they fill the plane" in says(root)


# ---- lesson 4: the basis ----------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [0, 1])
def test_the_basis_is_the_library_s_bound(shown, tmp_path, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(7, 2, generator=g, dtype=torch.float64) * torch.tensor([2.0, 0.4]).double()
    view = live.basis(x, turn=40)
    shown.open(view.save(tmp_path / "basis.html"))
    turned = torch.tensor(view.data["tokens"], dtype=torch.float64)
    assert torch.allclose(turned.norm(dim=1), x.norm(dim=1)) and not torch.allclose(turned, x)
    heads = ("both", "one", "corrected")
    states = [
        {"angle": uniform(g, -90, 90), "eps2": uniform(g, 0.02, 2, log=True), "head": heads[i % 3]}
        for i in range(SETTINGS)
    ]
    one = torch.ones(1, 7, dtype=torch.float64)
    for state, ours in zip(states, shown.compute(states)):
        a, eps2 = math.radians(state["angle"]), state["eps2"]
        Q = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)
        U = Q[None] if state["head"] == "both" else Q[None, :, :1]
        bound = rates.variational_rate(turned, one, U, eps2, corrected=state["head"] == "corrected")
        rate = rates.coding_rate(turned, eps2)
        s = tssa.second_moments(torch.einsum("nd,kdp->knp", turned, U), one, mass=0)[0]
        s = s if state["head"] != "corrected" else torch.cat([s, turned.square().sum(1).mean() - s])
        same(
            ours, {"bound": bound, "rate": rate, "bits": (bound - rate) / math.log(2), "gates": tssa.gates(s, 2 / eps2)}
        )
        assert (ours["bits"] < 0) == (state["head"] == "one"), "only the plain bound of one direction breaks"


def test_the_basis_turns_by_mouse_and_keys_and_breaks_with_one_direction(shown, tmp_path):
    root = shown.open(VIEWS["basis"]().save(tmp_path / "basis.html"))
    assert "bits are lost" in says(root)
    root.get_by_role("button", name="eigenbasis").click()
    assert "the box hugs the ellipse" in says(root)
    root.get_by_role("button", name="one (p = 1), plain").click()
    assert "It breaks" in says(root) and root.locator("path.box.bad").count() == 1
    root.get_by_role("button", name="one (p = 1), corrected").click()
    assert "the box hugs the ellipse" in says(root) and root.locator("path.box.bad").count() == 0
    tip = root.get_by_role("slider", name="direction u₁ of the basis")
    tip.focus()
    angle = root.evaluate("e => e.state.angle")
    shown.page.keyboard.press("ArrowUp")
    assert root.evaluate("e => e.state.angle") == pytest.approx(angle + 2)
    assert tip.get_attribute("aria-valuetext") == f"{angle + 2:.0f} degrees"
    drag(shown, tip, -80, 60)
    assert root.evaluate("e => e.state.angle") > angle + 10 and "bits are lost" in says(root)


# ---- lesson 2: the climb ----------------------------------------------------------------------------
def test_the_climb_is_the_library_s(shown, tmp_path):
    shown.open(VIEWS["climb"]().save(tmp_path / "climb.html"))
    g = torch.Generator().manual_seed(0)
    normalize = torch.nn.functional.normalize
    states = [
        {
            "tokens": normalize(torch.randn(6, 2, generator=g, dtype=torch.float64), dim=1).tolist(),
            "eps2": uniform(g, 0.02, 1, log=True),
            "factor": uniform(g, 0.25, 16, log=True),
            "steps": 4,  # more, and a chaotic climb would double the last digit's error at each step
        }
        for _ in range(SETTINGS)
    ]
    Pi = torch.eye(2, dtype=torch.float64).repeat_interleave(3, 1)
    for state, ours in zip(states, shown.compute(states)):
        x, eps2 = torch.tensor(state["tokens"], dtype=torch.float64), state["eps2"]
        path, t = [x], state["factor"] * rates.safe_ascent_step(6, 2, eps2)
        for _ in range(6):
            path.append(normalize(path[-1] + t * rates.rate_reduction_grad(path[-1], Pi, eps2), dim=1))
        theirs = {"path": torch.stack(path[:5]), "reduction": [rates.rate_reduction(z, Pi, eps2) for z in path[:5]]}
        theirs |= {"best": rates.max_rate_reduction(2, 2, eps2), "jump": (path[5] - path[4]).norm()}
        same(ours, theirs | {"twice": (path[6] - path[4]).norm()})


def test_the_climb_arrives_or_jumps_for_ever(shown, tmp_path):
    root = shown.open(VIEWS["climb"]().save(tmp_path / "climb.html"))
    assert "A 2-cycle" in says(root)
    for multiple, verdict in ((1, "It arrives and stays"), (2, "It arrives and stays"), (3.5, "A 2-cycle")):
        slide(root, "step", math.log10(multiple))
        assert verdict in says(root), multiple
    slide(root, "iteration", 0)
    assert says(root).startswith("Iteration 0: ΔR = 0.0")
    climb = root.get_by_role("button", name="climb")
    climb.click()
    shown.page.wait_for_function("() => document.querySelector('.tssa-live').state.at >= 3")
    root.get_by_role("button", name="stop").click()
    token = root.get_by_role("slider", name="token d")
    drag(shown, token, 0, -60)
    assert root.evaluate("e => Math.hypot(...e.state.tokens[3])") == pytest.approx(1), "tokens stay on the circle"
    assert root.evaluate("e => e.state.at") == 0
    old = root.evaluate("e => e.state.tokens[3]")
    token.focus()
    shown.page.keyboard.press("ArrowUp")
    assert root.evaluate("e => Math.hypot(...e.state.tokens[3])") == pytest.approx(1)
    assert root.evaluate("e => e.state.tokens[3]") != old


def test_who_wants_no_movement_gets_the_end_at_once(browser, tmp_path):
    page = browser.new_page(reduced_motion="reduce")
    page.goto(VIEWS["climb"]().save(tmp_path / "climb.html").as_uri())
    root = page.locator(".tssa-live")
    slide(root, "iteration", 2)
    root.get_by_role("button", name="climb").click()
    assert root.evaluate("e => e.state.at") == 40 and root.get_by_role("button", name="stop").count() == 0
    page.close()


# ---- lesson 3: where the sign flips -----------------------------------------------------------------
@pytest.mark.parametrize("p", [1, 2])
def test_the_stages_are_the_library_s(shown, tmp_path, p):
    g = torch.Generator().manual_seed(p)
    U = torch.linalg.qr(torch.randn(3, 2, 2, generator=g, dtype=torch.float64))[0][..., :p]
    shown.open(live.sign(SIX, U).save(tmp_path / "sign.html"))
    states = [
        {
            "tokens": (torch.randn(6, 2, generator=g, dtype=torch.float64) * uniform(g, 0.1, 3, log=True)).tolist(),
            "eps2": uniform(g, 0.05, 100, log=True),
        }
        for _ in range(SETTINGS)
    ]
    cosine = lambda a, b: (a * b).sum() / (a.norm() * b.norm())
    for state, ours in zip(states, shown.compute(states)):
        x, beta = torch.tensor(state["tokens"], dtype=torch.float64), p / (6 * state["eps2"])
        w = torch.einsum("nd,kdp->knp", x, U)
        moves = {
            "exact": -rates.subspace_rate_grad(x, U, state["eps2"]) / beta,
            "difference": -torch.einsum("knp,kdp->nd", w - beta * w @ (w.mT @ w), U),
            "softmax": mssa(x, U) - x,
            "built": mssa(x, U),
        }
        same(ours["moves"], moves)
        same(ours["cosines"], {name: cosine(m, moves["exact"]) for name, m in moves.items() if name != "exact"})
        same(ours, {"x": beta * torch.linalg.svdvals(w) ** 2})


def test_the_sign_flips_where_x_passes_one(shown, tmp_path):
    root = shown.open(VIEWS["sign"]().save(tmp_path / "sign.html"))
    assert "6 of 6 arrows point uphill" in says(root) and "The step turns around" in says(root)
    slide(root, "precision ε²", 1)
    assert "0 of 6 arrows point uphill" in says(root) and "The step compresses" in says(root)
    slide(root, "precision ε²", -0.5)
    root.get_by_role("button", name="softmax").click()
    assert "1 of 6 arrows" in says(root) and "The step compresses" in says(root), (
        "only c moves outward, as in the lesson"
    )
    root.get_by_role("button", name="as built").click()
    assert "The step turns around" in says(root)
    before = says(root)
    drag(shown, root.get_by_role("slider", name="token c"), 0, 90)
    assert says(root) != before
    root.get_by_role("slider", name="token c").focus()
    x, y = root.evaluate("e => e.state.tokens[2]")
    shown.page.keyboard.press("ArrowDown")
    assert root.evaluate("e => e.state.tokens[2]") == pytest.approx([x, y - 0.1], abs=1e-6)


# ---- lesson 6: the patch ----------------------------------------------------------------------------
def photo_of_six_by_eight() -> live.View:
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    image = torch.rand(60, 80, 3, generator=g).numpy()
    return live.patch(image, draw(48, 5), (6, 8), draw(3, 48).softmax(0), torch.linalg.qr(draw(3, 5, 2))[0], eps2=0.3)


def test_the_patch_s_numbers_are_the_library_s(shown, tmp_path):
    view = photo_of_six_by_eight()
    shown.open(view.save(tmp_path / "patch.html"))
    data = view.data
    whole = torch.frombuffer(bytearray(base64.b64decode(data["tokens"])), dtype=torch.int16)
    x, U = whole.view(48, 5).double() * data["unit"], torch.tensor(data["U"], dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    torch.rand(60, 80, 3, generator=g)  # drawn in the order of photo_of_six_by_eight
    given, Pi = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((48, 5), (3, 48)))
    Pi = Pi.softmax(0)
    assert (x - given).abs().max() <= 0.51 * data["unit"], "rounded to 16 bits"

    w = torch.einsum("nd,kdp->knp", x, U)
    s = tssa.second_moments(w, Pi, mass=0)
    T = rates.code_lengths(x, Pi, U, 0.3, corrected=True)
    states = [{"token": j} for j in range(48)] + [{"token": 7}, {"token": 40}]
    for state, ours in zip(states, shown.compute(states)):
        j, own = state["token"], (-T / 2).softmax(0)[:, state["token"]]
        head = int(own.argmax())
        likes = w[head] @ w[head, j] * 5 / math.sqrt(2)  # tokens of mean square d = 5, scale 1/√p
        same(ours, {"Pi": own, "head": head, "gates": tssa.gates(s, 5 / 0.3), "weights": likes.softmax(0), "hears": 6})


def test_the_patch_follows_mouse_and_keys(shown, tmp_path):
    root = shown.open(photo_of_six_by_eight().save(tmp_path / "patch.html"))
    left, right = root.locator(".surface").all()
    assert (
        "16 numbers" not in root.inner_text()
        and "6 numbers" in root.inner_text()
        and "48 comparisons" in root.inner_text()
    )
    box = left.bounding_box()
    shown.page.mouse.move(box["x"] + box["width"] * 2.5 / 8, box["y"] + box["height"] * 1.5 / 6)
    assert root.evaluate("e => e.state.token") == 10 and says(root).startswith("Row 2, column 3")
    picture = "e => e.querySelectorAll('.surface canvas')[1].toDataURL()"
    moments = "e => e.querySelectorAll('.panel svg[role=img]')[0].innerHTML"
    before, kept, shares = root.evaluate(picture), root.evaluate(moments), root.locator(".bars").inner_text()
    right.focus()
    shown.page.keyboard.press("ArrowDown")
    shown.page.keyboard.press("ArrowRight")
    assert root.evaluate("e => e.state.token") == 19 and right.get_attribute("aria-valuetext") == "row 3, column 4"
    assert root.evaluate(picture) != before and root.locator(".bars").inner_text() != shares
    assert root.evaluate(moments) == kept, "the K·p moments are the same for every patch"
    shown.page.keyboard.press("ArrowLeft")
    for _ in range(9):
        shown.page.keyboard.press("ArrowUp")
    assert root.evaluate("e => e.state.token") == 2, "the edge of the picture is the end"


# ---- fingers and themes -----------------------------------------------------------------------------
def test_a_finger_drags_a_token(browser, tmp_path):
    page = browser.new_context(has_touch=True, viewport={"width": 390, "height": 800}).new_page()
    page.goto(VIEWS["balls"]().save(tmp_path / "balls.html").as_uri())
    root, touch = page.locator(".tssa-live"), page.context.new_cdp_session(page)
    box = root.get_by_role("slider", name="token d").locator(".reach").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before, scrolled = root.evaluate("e => e.state.tokens[3]"), page.evaluate("scrollY")
    for kind, up in (("touchStart", 0), ("touchMove", 15), ("touchMove", 30)):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x + up, "y": y - up}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_function("(y) => document.querySelector('.tssa-live').state.tokens[3][1] > y", arg=before[1] + 0.1)
    after = root.evaluate("e => e.state.tokens[3]")
    assert after[0] > before[0] + 0.1 and page.evaluate("scrollY") == scrolled, "the token moves, the page doesn't"
    page.context.close()


def test_the_page_s_theme_goes_before_the_system_s(browser, tmp_path):
    page = browser.new_page(color_scheme="dark")
    page.goto(VIEWS["step"]().save(tmp_path / "step.html").as_uri())
    paper = "e => getComputedStyle(e).backgroundColor"
    root, white, night = page.locator(".tssa-live"), "rgb(255, 255, 255)", "rgb(21, 24, 29)"
    assert root.evaluate(paper) == night
    for name, value, expected in (
        ("data-jp-theme-light", "true", white),
        ("data-jp-theme-light", "false", night),
        ("data-theme", "light", white),
        ("class", "vscode-light", white),
        ("class", "vscode-dark", night),
    ):
        page.evaluate("([n, v]) => document.body.setAttribute(n, v)", [name, value])
        assert root.evaluate(paper) == expected, (name, value)
        page.evaluate("(n) => document.body.removeAttribute(n)", name)
    page.close()


# ---- all of them ------------------------------------------------------------------------------------
def test_all_views_live_on_one_page_and_twice(shown, tmp_path):
    made = [make() for make in VIEWS.values()]
    (tmp_path / "all.html").write_text(
        "<!doctype html><meta charset=utf-8>" + "".join(v._repr_html_() for v in [*made, made[0]])
    )
    shown.open(tmp_path / "all.html")
    for view in made:
        there = shown.page.locator(f'[id="{view.id}"]')
        assert there.count() == (2 if view is made[0] else 1)
        for root in there.all():
            assert root.locator(".fallback").count() == 0 and root.locator("svg").count() >= 1 and says(root)
    first, last = shown.page.locator(f'[id="{made[0].id}"]').all()
    kept = says(last)
    slide(first, "step γ", 0.5)
    assert says(last) == kept != says(first), "each of two equal views moves by itself"


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_fits_a_phone_and_a_screen_and_speaks(shown, tmp_path, name):
    root = shown.open(VIEWS[name]().save(tmp_path / "view.html"))
    for width in (360, 700, 1200):
        shown.page.set_viewport_size({"width": width, "height": 800})
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    assert root.locator("[aria-live=polite]").count() == 1
    unnamed_controls = (
        "e => [...e.querySelectorAll('input')].filter((e) => !e.closest('label').textContent.trim()).length"
    )
    assert root.evaluate(unnamed_controls) == 0
    unnamed = root.evaluate(
        "e => [...e.querySelectorAll('[tabindex]')].filter(e => !e.getAttribute('aria-label')).length"
    )
    assert unnamed == 0


@pytest.mark.parametrize("name", VIEWS)
def test_without_scripts_a_sentence_and_a_picture_stay(browser, tmp_path, name):
    png = bytes.fromhex("89504e470d0a1a0a") + b"rest"
    view = VIEWS[name]()
    view = live.View(view.name, view.data, view.says, png)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(view.save(tmp_path / "still.html").as_uri())
    assert view.says in page.locator(".fallback").inner_text()
    assert page.locator(".fallback img").get_attribute("alt") == view.says
    context.close()


@pytest.mark.parametrize("name", VIEWS)
def test_a_page_is_the_same_each_time_and_asks_nobody(name):
    page, again = VIEWS[name]()._repr_html_(), VIEWS[name]()._repr_html_()
    assert page == again and len(page) < 400_000 and not re.search(r"__[A-Z]+__", page)
    addresses = set(re.findall(r"https?://[^\"'` )]*", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}, "the only address is a name space, which nobody loads"
    assert page.count("<script") == page.count("</script") == 1


def test_data_cannot_end_the_script():
    view = live.View("step", {"title": "a < b", "note": "</script><b>"}, "says <i>")
    page = view._repr_html_()
    assert page.count("</script") == 1 and "a &lt; b" in page and "says &lt;i&gt;" in page


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"tokens \(N, 2\), got \(6, 3\)"):
        live.step(torch.zeros(6, 3), SOFT)
    with pytest.raises(ValueError, match=r"expected Pi \(K, 6\)"):
        live.step(SIX, SOFT[:, :5])
    with pytest.raises(ValueError, match="finite tokens"):
        live.step(SIX * float("nan"), SOFT)
    with pytest.raises(ValueError, match="expected eps2 from 0.02 to 50"):
        live.step(SIX, SOFT, eps2=0.001)
    with pytest.raises(ValueError, match="a group for each of 6 tokens"):
        live.balls(SIX, groups=[0, 1])
    with pytest.raises(ValueError, match="groups 0 and 1"):
        live.climb(SIX, [0, 0, 0, 1, 1, 2])
    with pytest.raises(ValueError, match="one at the origin"):
        live.climb(SIX * 0)
    with pytest.raises(ValueError, match="or \"built\", got 'wrong'"):
        live.sign(SIX, stage="wrong")
    with pytest.raises(ValueError, match='expected head "both"'):
        live.basis(SIX, head="none")
    with pytest.raises(ValueError, match=r"places in the grid \(6, 7\)"):
        live.patch(torch.zeros(9, 9, 3).numpy(), torch.zeros(48, 5), (6, 7), SOFT, torch.zeros(2, 5, 2))
    with pytest.raises(ValueError, match=r"expected Pi \(K, 48\)"):
        live.patch(torch.zeros(9, 9, 3).numpy(), torch.zeros(48, 5), (6, 8), SOFT, torch.zeros(2, 5, 2))
    with pytest.raises(ValueError, match="expected a PNG"):
        live.View("step", VIEWS["step"]().data, "says", b"GIF89a")._repr_html_()
