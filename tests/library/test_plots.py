"""Figures by what is drawn in them: arrays, limits, origin, order. And none is left in anybody's hands."""

import gc
import re

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from tssa_lib import plots

PICTURE = np.zeros((30, 50, 3))
PICTURE[2:6, 40:46] = 1  # a mark, top right
ALPHA = np.zeros((3, 5))
ALPHA[0, 4] = 0.75  # the token of that mark


def screen(fig: Figure) -> np.ndarray:
    fig.canvas.draw()
    return np.asarray(fig.canvas.buffer_rgba())[..., :3].astype(int)


def test_an_overlay_paints_the_marked_token_in_its_colour_where_it_is():
    fig = plots.overlay(PICTURE, ALPHA, "#E69F00", title="head 2", boxes=[(39, 1, 47, 7)])
    ax = fig.axes[0]
    base, layer = ax.images
    assert np.array_equal(base.get_array(), plots.faded(PICTURE))
    assert np.array_equal(layer.get_array()[..., 3], ALPHA)
    assert np.allclose(layer.get_array()[..., :3], np.array([0xE6, 0x9F, 0x00]) / 255)
    assert layer.get_extent() == [-0.5, 49.5, 29.5, -0.5] and layer.get_interpolation() == "nearest"
    assert ax.get_xlim() == (-0.5, 49.5) and ax.get_ylim() == (29.5, -0.5)
    boxes = [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in ax.patches]
    assert set(boxes) == {(38.5, 0.5, 8, 6)}
    pixels = screen(fig)
    orange = np.argwhere((pixels[..., 0] > 180) & (pixels[..., 2] < 130))
    y, x = orange.mean(0)
    left, right = ax.transData.transform([(40, 5), (49, 5)])[:, 0]
    assert left < x < right and y < pixels.shape[0] / 2, "top right, as in the picture"


def test_uniform_is_blank():
    pixels = screen(plots.overlay(PICTURE, np.zeros((3, 5)), "#E69F00", title=""))
    assert (pixels.max(-1) - pixels.min(-1)).max() <= 1, "no colour anywhere"


def test_a_shaded_map_starts_at_zero_and_keeps_its_orientation():
    values = np.arange(15).reshape(3, 5)
    image = plots.shaded(PICTURE, values, title="", unit="u").axes[0].images[0]
    assert np.array_equal(image.get_array(), values) and image.get_clim() == (0, 14)
    assert image.get_extent() == [-0.5, 49.5, 29.5, -0.5] and image.cmap.name == "cividis"


def test_the_outline_runs_around_the_marked_token():
    values = np.zeros((3, 5))
    values[0, 4] = values[0, 3] = 1
    ax = plots.outlined(PICTURE, values, 0.5, "#0072B2", title="").axes[0]
    assert np.array_equal(ax.images[0].get_array(), PICTURE), "the photo as it is"
    line = np.concatenate([path.vertices for c in ax.collections for path in c.get_paths()])
    assert line[:, 0].min() > 25 and line[:, 1].max() < 15, "top right"


def test_gate_bars_are_sorted_within_their_head_and_in_its_colour():
    D = np.array([[0.1, 0.9, 0.5], [0.3, 0.2, 0.8]])
    ax = plots.gate_bars(D, title="gates").axes[0]
    assert [[bar.get_height() for bar in group] for group in ax.containers] == [[0.9, 0.5, 0.1], [0.8, 0.3, 0.2]]
    assert [group.patches[0].get_facecolor()[:3] for group in ax.containers] == [
        pytest.approx([int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for c in plots.COLORS[:2]
    ]
    assert [t.get_text() for t in ax.texts] == ["head 1: mean 0.50", "head 2: mean 0.43"]


def test_curves_differ_by_more_than_colour():
    fig = plots.lines([0, 1], {str(i): [0, i] for i in range(6)}, title="t", xlabel="x", ylabel="y", markers=True)
    assert len({(line.get_linestyle(), line.get_marker()) for line in fig.axes[0].lines}) == 6
    assert plots.COLORS[:4] == ["#0072B2", "#E69F00", "#009E73", "#000000"]


def test_a_figure_belongs_to_its_holder_and_shows_itself_once():
    held = set(pyplot.get_fignums())
    for _ in range(100):
        plots.lines([0, 1], {"a": [0, 1]}, title="t", xlabel="x", ylabel="y")
    gc.collect()
    alive = [o for o in gc.get_objects() if type(o) is plots.Drawing]
    assert set(pyplot.get_fignums()) == held and len(alive) <= 1
    from IPython.core.interactiveshell import InteractiveShell

    bundle, _ = InteractiveShell.instance().display_formatter.format(
        plots.shaded(PICTURE, ALPHA, title="D <map>", unit="")
    )
    assert re.match(r'<img alt="D &lt;map&gt;: map 3 × 5, 0 to 0.75" src="data:image/png;base64,', bundle["text/html"])
    assert not {"image/svg+xml", "application/javascript"} & set(bundle)
