"""What `observe` reads out of a model: right, in order, and without changing anything."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tssa_lib import observe, plots, rates
from tssa_lib.tost import ToST
from tssa_lib.tssa import TSSA


@pytest.fixture(scope="module")
def yolo():
    from tssa_lib.yolo import YOLO

    torch.manual_seed(0)
    return YOLO("yolo11n-tssa.yaml")


def test_output_and_state_stay_bit_for_bit():
    torch.manual_seed(0)
    model, images = ToST(depth=2), torch.rand(3, 8, 8)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    plain = model(images)
    with observe.observe(model) as seen:
        assert torch.equal(model(images), plain)
    assert [o.name for o in seen] == ["blocks.0.attn", "blocks.1.attn"]
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    with observe.observe(model):
        pass
    model(images)
    assert len(seen) == 2, "nothing is recorded after the block"


def test_a_training_yolo_keeps_its_running_statistics(yolo):
    from copy import deepcopy

    module, x = yolo.model.train(), torch.rand(2, 3, 64, 64)
    twin = deepcopy(module)
    twin(x)
    with observe.observe(module) as seen:
        module(x)
    assert module.training and seen[0].grid == (2, 2)
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), twin.state_dict().values()))


def test_what_is_recorded_is_the_layers_own():
    torch.manual_seed(0)
    layer, x = TSSA(12, 3, tied=True, orthonormal=True).double(), torch.randn(2, 20, 12, dtype=torch.float64)
    with observe.observe(nn.Sequential(layer)) as seen:
        y = layer(x)
    o, (Pi, s, D) = seen[0], layer.statistics(x)
    assert torch.equal(o.Pi, Pi) and torch.equal(o.second_moments, s) and torch.equal(o.gates, D)
    assert o.Pi.shape == (2, 3, 20) and o.gates.shape == (2, 3, 4) and o.grid is None
    U = layer.bases().unflatten(0, (3, -1)).mT
    for rate, z in ((o.rate_before, x), (o.rate_after, x + y)):
        assert torch.allclose(rate, rates.variational_rate(z, Pi, U, 12.0), atol=1e-7)
    assert (o.rate_after < o.rate_before).all()


def test_entropy_is_one_for_uniform_and_zero_for_hard_memberships():
    layer = TSSA(8, 2)
    with torch.no_grad():
        layer.temp.zero_()
    with observe.observe(nn.Sequential(layer)) as seen:
        layer(torch.randn(1, 9, 8))
    assert torch.allclose(seen[0].entropy, torch.ones(1))
    hard = seen[0]._replace(Pi=torch.eye(2)[None])
    assert hard.entropy.item() == 0


@pytest.mark.parametrize(
    "image",
    [
        np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8),
        np.zeros((40, 40), np.uint8),
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((30, 20, 4), np.uint8),
    ],
    ids=["rgb", "grey", "one pixel", "rgba"],
)
def test_pictures_of_every_kind(yolo, image):
    shown, seen = observe.look(yolo, image, 64)
    assert torch.equal(observe.look(yolo.model, image, 64)[1][0].Pi, seen[0].Pi), "the network itself will do"
    rows, cols = seen[0].grid
    assert shown.shape[0] == 32 * rows and shown.shape[1] == 32 * cols and max(rows, cols) == 2


def test_figures_take_a_path(yolo, tmp_path):
    Image.new("RGB", (90, 60), "red").save(tmp_path / "red.png")
    fig = plots.memberships(yolo, tmp_path / "red.png", size=96)
    assert "entropy of Π" in fig.get_suptitle() and [a.get_title() for a in fig.axes[:4]] == [
        "picture",
        "most likely head",
        "head 1",
        "head 2",
    ]
    assert "Gates" in plots.gate_maps(ToST(), np.random.default_rng(0).random((8, 8))).axes[0].get_title()


def test_clear_errors(yolo, tmp_path):
    with pytest.raises(ValueError, match="holds a TSSA layer, got Linear"):
        with observe.observe(nn.Linear(2, 2)):
            pass
    (tmp_path / "no.jpg").write_text("not a picture")
    with pytest.raises(ValueError, match="no.jpg"):
        observe.look(yolo, tmp_path / "no.jpg")
