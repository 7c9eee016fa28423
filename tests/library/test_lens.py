"""The lens in headless Chromium: what is painted and said is what the library computes, and nothing leaves the page."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from harness import trouble_of
from tssa_lib import plots, views
from tssa_lib.lens import Lens, match
from tssa_lib.observe import Observer
from tssa_lib.silence import intervene
from tssa_lib.tssa import TSSA

MARK = (7, 33)  # row and column of the marked token at stride 8


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """TSSA at P3, P4 and P5, untrained, made to find something."""
    from tssa_lib.yolo import YOLO, with_attention

    from ultralytics.utils import YAML

    rows = with_attention(("P3", "P4", "P5"), normalize="rms", temp=4.0, head_width=16)
    file = tmp_path_factory.mktemp("model") / "yolo11n-lens.yaml"
    YAML.save(file, {**rows, "scale": "n", "nc": 3})
    torch.manual_seed(1)
    model = YOLO(str(file))
    network = model.model.train()
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = None  # running statistics of what it sees now: else signals fade from layer to layer
    with torch.no_grad():
        network(torch.rand(2, 3, 256, 320))
        for branch in network.model[-1].cv3:
            nn.init.normal_(branch[-1].weight, std=0.1)
            nn.init.zeros_(branch[-1].bias)
    network.eval()
    return model


@pytest.fixture(scope="module")
def picture():
    """320 × 240 in BGR: noise, and one token of the padded picture of 320 × 256 marked."""
    image = np.random.default_rng(0).integers(90, 130, (240, 320, 3), np.uint8)
    y, x = MARK[0] * 8 - 8, MARK[1] * 8
    image[y : y + 8, x : x + 8] = (0, 40, 255)
    return image


@pytest.fixture(scope="module")
def conf(detector, picture):
    """The confidence from which this detector finds ten boxes."""
    found = Observer(detector, 320, conf=0.3)(picture)[0].boxes[:, 4]
    return float(np.sort(found)[-10:-8].mean() - 1e-6)


@pytest.fixture(scope="module")
def lens(detector, picture, conf):
    return Lens(detector, picture, other=picture[::-1].copy(), imgsz=320, conf=conf, progress=False)


@contextmanager
def opened(browser, url, script=True):
    """A page, and everything that went wrong in it or wanted to leave it."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, java_script_enabled=script)
    trouble = trouble_of(page)
    page.goto(url)
    yield page, trouble
    page.close()


STATE = """() => {
  const host = document.querySelector(".tssa-lens"), $ = css => host.shadowRoot.querySelector(css);
  const all = css => [...host.shadowRoot.querySelectorAll(css)], number = e => Number(e.textContent.replace("−", "-"));
  const c = $(".photo canvas"), boxes = all(".found rect").filter((_, n) => n % 2);   // drawn twice, for contrast
  const gone = b => b.getAttribute("stroke-dasharray") == "6 4";
  const words = Object.fromEntries(["inbox", "answer", "honest", "sentence"].map(at => [at, $("." + at).textContent]));
  return {...host.dataset, ...words, size: [c.height, c.width],
    pixels: [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data],
    table: [...$("table").rows].slice(1).map(row => [...row.cells].map(number)),
    shares: all(".shares button").map(b => number(b.lastChild)),
    boxes: boxes.filter(b => !gone(b)).map(b => ["x", "y", "width", "height"].map(k => Number(b.getAttribute(k)))),
    gone: boxes.filter(gone).length};
}"""


def painted(state):
    return np.array(state["pixels"]).reshape(*state["size"], 4)


def same_map(state, expected, color):
    """Alpha within one step of 255, and the colour wherever enough of it is painted to tell."""
    pixels = painted(state)
    assert pixels.shape[:2] == expected.shape and np.abs(pixels[..., 3] - 255 * expected).max() <= 1.01
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    assert np.abs(pixels[pixels[..., 3] > 120][:, :3] - rgb).max(initial=0) <= 2


def same_boxes(state, boxes):
    shown = np.array(state["boxes"]).reshape(-1, 4)
    shown[:, 2:] += shown[:, :2]
    assert shown.shape == boxes[:, :4].shape and np.abs(shown - boxes[:, :4]).max(initial=0) < 2e-4


def test_every_layer_and_head_as_the_library_computes_it(browser, lens, detector, picture, conf, tmp_path):
    observer = Observer(detector, 320, conf)
    look = observer(picture)[0]
    assert look.picture.shape == (256, 320, 3) and 8 <= len(look.boxes) <= 12
    with opened(browser, lens.save(tmp_path / "lens.html").as_uri()) as (page, trouble):
        do = page.locator(".tssa-lens")
        first = page.evaluate(STATE)
        seen = views.telling(look)
        assert [first[k] for k in ("layer", "head", "token", "run")] == [str(v) for v in seen[:3]] + [""]
        assert first["sentence"] == seen.sentence
        for i, o in enumerate(look.layers):
            K, (rows, columns) = o.Pi.shape[1], o.grid
            j = int((MARK[0] + 0.5) / 32 * rows) * columns + int((MARK[1] + 0.5) / 40 * columns)
            w, Pi = o.w[0].double().numpy(), o.Pi[0].double().numpy()
            D, s = o.gates[0].double().numpy(), o.second_moments[0].double().numpy()
            for k in range(K):
                do.locator(f'.tile[data-at="{i}:{k}"]').click()
                area = do.locator(".photo").bounding_box()
                at = (j % columns + 0.5) / columns * area["width"], (j // columns + 0.5) / rows * area["height"]
                if i == k == 0:
                    do.locator(".photo").click(position={"x": at[0], "y": at[1]})
                    do.locator(f'.tile[data-at="{i}:{k}"]').click()  # the click may have chosen a box and its head
                state = page.evaluate(STATE)
                assert (state["layer"], state["head"], state["token"]) == (str(i), str(k), str(j))
                same_map(state, views.alphas(o)[k], plots.COLORS[k])
                assert state["shares"] == pytest.approx(Pi[:, j], abs=0.0051)
                numbers = np.array(state["table"])
                order = numbers[:, 0].astype(int) - 1
                assert sorted(order) == list(range(w.shape[2])) and (np.diff(D[k][order]) <= 1e-6).all()
                near = np.abs(w[k]).max(0)[order] / 254 + 6e-5  # eight bits, four decimals
                assert (np.abs(numbers[:, 1] - w[k, j][order]) <= near).all()
                assert np.allclose(numbers[:, 2], numbers[:, 1] ** 2, atol=2e-4 * (1 + np.abs(numbers[:, 1])).max())
                assert np.allclose(numbers[:, 3], s[k][order], atol=6e-5, rtol=1e-5)
                assert np.allclose(numbers[:, 4], D[k][order], atol=6e-5)
                assert (np.abs(numbers[:, 5] - o.update[0, k, j].numpy()[order]) <= near).all()
                page.keyboard.press("h")
                with intervene(observer.network, head_off(k), [o.name]):
                    without = observer(picture)[0].boxes
                state = page.evaluate(STATE)
                assert state["run"] == f"head:{i}:{k}"
                same_boxes(state, without)
                origin = match(look.boxes, without)
                assert state["gone"] == len(look.boxes) - sum(n is not None for n in origin)
                assert f": {sum(n is not None for n in origin)} of {len(look.boxes)} boxes stay" in state["answer"]
                page.keyboard.press("0")
                same_boxes(page.evaluate(STATE), look.boxes)
            page.keyboard.press("y")
            with intervene(observer.network, "silenced", [o.name]):
                same_boxes(page.evaluate(STATE), observer(picture)[0].boxes)
        page.keyboard.press("a")
        with intervene(observer.network, "silenced"):
            silent = observer(picture)[0].boxes
        state = page.evaluate(STATE)
        same_boxes(state, silent)
        kept = sum(n is not None for n in match(look.boxes, silent))
        assert f"with all updates silenced {kept} of {len(look.boxes)} boxes stay" in state["honest"]
        page.keyboard.press("g")
        theirs = {a.layer: b.gates for a, b in zip(look.layers, observer(picture[::-1].copy())[0].layers)}
        with intervene(observer.network, lambda layer, w, found: found._replace(gates=theirs[layer])):
            same_boxes(page.evaluate(STATE), observer(picture)[0].boxes)
        assert len(silent) and not np.array_equal(silent[:3, :5], look.boxes[:3, :5]), "silence is heard"
        assert trouble == []


def head_off(k):
    def change(layer, w, found):
        D = found.gates.clone()
        D[:, k] = 0
        return found._replace(gates=D)

    return change


def test_maps_of_moments_and_of_what_is_taken_and_the_keyboard(browser, lens, tmp_path):
    look = lens.look
    o = look.layers[0]
    with opened(browser, lens.save(tmp_path / "lens.html").as_uri()) as (page, trouble):
        do = page.locator(".tssa-lens")
        do.locator('.tile[data-at="0:1"]').click()
        taken = views.taken(o)
        do.locator('[data-show="head"]').click()
        same_map_loosely(page.evaluate(STATE), taken[1] / taken[1].max(), plots.COLORS[1])
        do.locator('[data-show="all"]').click()
        every = np.sqrt((taken**2).sum(0))
        same_map_loosely(page.evaluate(STATE), every / every.max(), "#D55E00")
        do.locator('[data-show="pi"]').click()
        do.locator("button.cell").first.hover()
        i = int(page.evaluate(STATE)["table"][0][0]) - 1
        made = (o.Pi[0, 1] * o.w[0, 1, :, i] ** 2).view(*o.grid).numpy()
        same_map_loosely(page.evaluate(STATE), made / made.max(), plots.COLORS[1])
        do.locator("h2").hover()
        do.locator(".photo").focus()
        before = int(page.evaluate(STATE)["token"])
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowUp")
        assert int(page.evaluate(STATE)["token"]) == before - 1 - o.grid[1]
        page.keyboard.press("3")
        assert page.evaluate(STATE)["head"] == "2"
        page.keyboard.press("l")
        state = page.evaluate(STATE)
        assert state["layer"] == "1" and state["size"] == list(look.layers[1].grid)
        do.locator(".layers button").first.click()
        do.locator(".boxes button").nth(2).click()
        box = look.boxes[2]
        inside = views.within(o.grid, look.picture.shape[:2], box)
        Pi = o.Pi[0].numpy()
        k = int((Pi[:, inside].mean(1) - Pi.mean(1)).argmax())
        power = (taken.reshape(len(Pi), -1)[:, inside] ** 2).sum(1)
        state = page.evaluate(STATE)
        assert state["head"] == str(k) and f"head {k + 1} is most concentrated in it" in state["inbox"]
        said = [int(word) for word in state["inbox"].replace(".", " ").split() if word.isdigit()][-3:]
        exact = 100 * np.array([Pi[k, inside].mean(), Pi[k].mean(), power[k] / power.sum()])
        assert np.abs(said - exact).max() <= 0.6
        assert trouble == []


def same_map_loosely(state, expected, color):
    """As far as w in eight bits allows: 1/127 of the largest coordinate, squared at worst."""
    pixels = painted(state)
    assert np.abs(pixels[..., 3] / 255 - expected).max() < 0.02 and expected.max() == 1
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    assert np.abs(pixels[pixels[..., 3] > 120][:, :3] - rgb).max() <= 2


def test_no_width_needs_scrolling_sideways_and_names_are_there(browser, lens, tmp_path):
    with opened(browser, lens.save(tmp_path / "lens.html").as_uri()) as (page, trouble):
        for width in (1600, 800, 360):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            photo, canvas = (page.locator(f".tssa-lens .photo {part}").bounding_box() for part in ("img", "canvas"))
            assert photo == canvas, "the map lies on the photo"
        assert "memberships of a TSSA layer" in page.locator(".photo").get_attribute("aria-label")
        for live in (".says", ".answer", ".inbox"):
            assert page.locator(f".tssa-lens {live}").get_attribute("aria-live") == "polite"
        assert trouble == []


def test_in_an_exported_notebook_and_where_no_script_runs(browser, lens, tmp_path):
    import nbformat
    from nbconvert import HTMLExporter

    html = lens._repr_html_()
    output = nbformat.v4.new_output("execute_result", {"text/html": html}, execution_count=1)
    cell = nbformat.v4.new_code_cell("lens", outputs=[output, output], execution_count=1)
    page_html, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    (tmp_path / "export.html").write_text(page_html)
    with opened(browser, (tmp_path / "export.html").as_uri()) as (page, trouble):
        assert page.locator(".tssa-lens .tile").count() == 2 * sum(len(layer["mass"]) for layer in lens.data["layers"])
        assert not page.locator(".tssa-lens > img").first.is_visible()
        assert not [t for t in trouble if t.startswith("error")]
    with opened(browser, lens.save(tmp_path / "lens.html").as_uri(), script=False) as (page, trouble):
        image = page.locator(".tssa-lens > img")
        assert image.is_visible() and image.bounding_box()["height"] > 200
        assert image.get_attribute("alt") == lens.data["alt"] and trouble == []
        assert page.inner_text("body").strip() == "", "no dead controls"


def test_the_page_is_small_the_same_each_time_and_holds_no_address(lens):
    html = lens._repr_html_()
    assert html == lens._repr_html_() and len(html) < 1_000_000
    assert "http://" not in html.replace("http://www.w3.org/2000/svg", "") and "https://" not in html


def test_text_from_outside_stays_text(lens):
    from tssa_lib.lens import fill

    data = {**lens.data, "sentence": "</script><b>__DATA__ __ALT__"}
    page = fill("lens.html", data, "data:,", '"><script>x')
    assert page.count("</script>") == 1 and "\\u003c/script>\\u003cb>__DATA__ __ALT__" in page
    assert 'alt="&quot;&gt;&lt;script&gt;x"' in page


def test_boxes_are_matched_once_best_first_within_their_class():
    a = np.array([[0, 0, 10, 10, 0.9, 0], [20, 0, 30, 10, 0.8, 1]])
    b = np.array([[0, 0, 10, 9, 0.7, 0], [0, 0, 10, 10, 0.5, 0], [20, 0, 30, 10, 0.8, 0], [50, 0, 60, 10, 0.3, 1]])
    assert match(a, b) == [None, 0, None, None]
    assert match(a, np.zeros((0, 6))) == [] and match(np.zeros((0, 6)), a) == [None, None]


def test_a_classifier_has_scores_in_place_of_boxes():
    from kit.tost import ToST

    torch.manual_seed(0)
    lens = Lens(ToST(depth=2), np.random.default_rng(0).random((8, 8)), progress=False)
    runs = {run["key"]: run for run in lens.data["runs"]}
    assert len(runs) == 1 + 2 * (4 + 1) + 1 and len(runs["all"]["scores"]) == 5
    assert "the answer keeps" in lens.data["honest"] and runs["all"]["says"].startswith("All TSSA updates off: class ")


def test_one_head_a_layer_is_said(picture):
    class OneHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.side, self.attn = 8, TSSA(1, 1)

        def forward(self, x):
            return self.attn(x.flatten(1)[..., None]).mean(1).expand(-1, 2)

    lens = Lens(OneHead(), picture, progress=False)
    assert "Π = 1, there are no memberships to see" in lens.data["sentence"]
    assert [run["key"] for run in lens.data["runs"]] == ["", "layer:0", "all"]
