"""Views of a model's Π and D: the right array, in the right place, under the right name."""

import numpy as np
import pytest
import torch

from tssa_lib import plots, views
from tssa_lib.observe import Look, Observation
from tssa_lib.tssa import TSSA


def observation(Pi, grid, stride=8, D=None, name="p3"):
    """An observation with memberships Pi (K, N) and gates D (K, p), all else made to fit."""
    Pi = torch.as_tensor(Pi, dtype=torch.float64)[None]
    K, N = Pi.shape[1:]
    D = torch.full((K, 4), 0.5, dtype=torch.float64) if D is None else torch.as_tensor(D, dtype=torch.float64)
    w = torch.arange(K * N * 4, dtype=torch.float64).view(1, K, N, 4) / (K * N * 4)
    zero = torch.zeros(1)
    return Observation(name, grid, stride, w, Pi, 1 / D[None] - 1, D[None], zero, zero, TSSA(4 * K, K))


@pytest.fixture
def marked():
    """A picture of 24 × 40 with a box at its top right that head 2 of the fine layer holds, as no other head does."""
    Pi = np.full((3, 15), 0.3)
    Pi[1] = 0.2
    Pi[2] = 0.5
    for token in (3, 4, 8, 9):  # rows 0, 1 and columns 3, 4 of the grid 3 × 5
        Pi[:, token] = 0.05, 0.9, 0.05
    D = [[0.5] * 4, [0.1, 0.2, 0.1, 0.2], [0.6] * 4]
    fine, coarse = observation(Pi, (3, 5), 8, D), observation(np.full((2, 15), 0.5), (3, 5), 16, name="p4")
    picture = np.random.default_rng(0).random((24, 40, 3))
    boxes = np.array([[24, 0, 40, 16, 0.9, 1.0]])
    return Look(picture, (picture * 255).astype(np.uint8), [fine, coarse], boxes, {1: "cell"}, None)


def test_the_telling_head_is_found_and_said(marked):
    seen = views.telling(marked)
    assert (seen.layer, seen.head, seen.box) == (0, 1, 0) and seen.token in (3, 4, 8, 9)
    assert "Head 2 at stride 8 holds 39 % of all tokens and 90 % of this cell" in seen.sentence
    assert "gates are low (0.15 against 0.55): this is what the layer keeps" in seen.sentence
    assert "nearly uniform (evenness 1.00 of 1)" in views.telling(marked, 1).sentence
    bare = marked._replace(boxes=np.zeros((0, 6)))
    assert views.telling(bare)[:2] == (0, 1) and "most selective" in views.telling(bare).sentence


def test_tokens_within_a_box_are_those_whose_centre_is(marked):
    inside = views.within((3, 5), (24, 40), (24, 0, 40, 16))
    assert np.flatnonzero(inside).tolist() == [3, 4, 8, 9]
    assert np.flatnonzero(views.within((2, 4), (20, 80), (0, 10, 21, 20))).tolist() == [4]


def test_memberships_lie_over_the_photo_head_by_head(marked):
    fig = views.memberships(marked)
    first, *heads = fig.axes[:4]
    assert np.array_equal(first.images[0].get_array(), marked.picture)
    titles = ["Π of head 1: 23 % of all", "Π of head 2: 39 % of all", "Π of head 3: 38 % of all"]
    assert [ax.get_title() for ax in heads] == titles
    for k, ax in enumerate(heads):
        drawn = ax.images[1].get_array()
        pi = marked.layers[0].Pi[0, k].view(3, 5).numpy()
        assert np.allclose(drawn[..., 3], ((pi - 1 / 3) / (2 / 3)).clip(0)), "alpha is (π − 1/K)/(1 − 1/K)"
        color = plots.COLORS[k]
        assert np.allclose(drawn[0, 0, :3], [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    assert "p3, stride 8, 3 × 5 tokens: evenness of Π 0.7" in fig.get_suptitle()


def test_layer_is_the_layer(marked):
    for layer in (1, -1, "p4"):
        fig = views.memberships(marked, layer=layer)
        assert "p4" in fig.get_suptitle() and "nearly uniform" in fig.get_suptitle()
        assert not fig.axes[1].images[1].get_array()[..., 3].any(), "blank"
    with pytest.raises(ValueError, match="expected a layer of p3, p4, got 'p5'"):
        views.memberships(marked, layer="p5")
    with pytest.raises(ValueError, match="from 0 to 1, got 2"):
        views.gates(marked, layer=2)


def test_gates_and_what_is_taken_away(marked):
    bars = views.gates(marked).axes[0].containers
    assert [[b.get_height() for b in group] for group in bars][1] == [0.2, 0.2, 0.1, 0.1]
    fig = views.taken_away(marked)
    o = marked.layers[0]
    by_hand = np.array([[(o.Pi[0, k, j] * o.gates[0, k] * o.w[0, k, j]).norm() for j in range(15)] for k in range(3)])
    maps = {ax.get_title(): ax.images[0].get_array() for ax in fig.axes if ax.get_title()}
    assert np.allclose(maps["by head 2"].ravel(), by_hand[1])
    assert np.allclose(maps["taken away at stride 8"].ravel(), np.sqrt((by_hand**2).sum(0)))


def test_one_head_is_said_to_have_no_memberships(marked):
    one = marked._replace(layers=[observation(np.ones((1, 15)), (3, 5))])
    assert "one head, which has no memberships" in views.memberships(one).get_suptitle()
    assert "Π = 1" in views.telling(one).sentence
    assert not views.memberships(one).axes[1].images[1].get_array()[..., 3].any()


def test_several_pictures_are_rows(marked):
    mirrored = marked._replace(picture=marked.picture[:, ::-1])
    fig = views.memberships([marked, mirrored])
    photos = [ax.images[0].get_array() for ax in fig.axes if "photo" in ax.get_title()]
    assert len(photos) == 2 and np.array_equal(photos[1], mirrored.picture)
    assert len(views.gates([marked, mirrored]).axes) == 2
    assert len([ax for ax in views.taken_away([marked, mirrored]).axes if "stride" in ax.get_title()]) == 2
    with pytest.raises(ValueError, match="expected a model and a picture"):
        views.memberships(3)


def test_the_overview_holds_it_all(marked):
    fig = views.overview(marked)
    titles = [ax.get_title() for ax in fig.axes]
    assert "outlined: more than half head 2's" in titles[0] and "what the layer takes away" in titles
    assert fig.get_suptitle() == views.telling(marked).sentence
    sizes = [t.get_fontsize() for ax in fig.axes for t in (ax.title, *ax.texts, *ax.get_yticklabels())]
    assert min(sizes) * 100 / 72 * 800 / (100 * fig.get_figwidth()) >= 7, "no text under 7 px at 800 px of width"
