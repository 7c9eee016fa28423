"""What `observe` reads out of a model: right, in order, and without changing anything."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kit.tost import ToST
from tssa_lib import observe, rates
from tssa_lib.tssa import TSSA


@pytest.fixture(scope="module")
def yolo():
    from tssa_lib.yolo import YOLO

    torch.manual_seed(0)
    model = YOLO("yolo11n-tssa.yaml")
    for branch in model.model.model[-1].cv3:  # else an untrained detector finds nothing
        nn.init.zeros_(branch[-1].bias)
    return model


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
    U = layer.U
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


@pytest.fixture(scope="module")
def picture():
    """40 × 100 pixels in BGR, unlike any of its mirror images: what a model was fed can be told from it."""
    image = np.random.default_rng(0).integers(0, 60, (40, 100, 3), np.uint8)
    image[4:9, 80:95] = (10, 90, 250)  # a red mark, top right
    return image


class Reporter(nn.Module):
    """A model that keeps what it was fed."""

    fed: list[torch.Tensor] = []

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 8, 8)
        self.attn = TSSA(8, 2)

    def forward(self, x):
        self.fed.append(x)
        return self.attn(self.down(x).flatten(2).mT).mean(1)


def expected(image, size):
    """The letterboxed picture in RGB, by hand: scaled to `size` on its longest side, padded to multiples of 32."""
    import cv2

    scale = size / max(image.shape[:2])
    h, w = (round(n * scale) for n in image.shape[:2])
    H = -(-h // 32) * 32
    top = round((H - h) / 2 - 0.1)
    out = np.full((H, w, 3), 114, np.uint8)
    out[top : top + h] = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
    return out[..., ::-1] / 255


def test_a_model_is_fed_what_predict_would_feed_it(picture, tmp_path):
    Reporter.fed.clear()
    seen = observe.look(Reporter(), picture, imgsz=160)
    fed = Reporter.fed[-1][0].permute(1, 2, 0).numpy()
    assert len(Reporter.fed) == 1 and np.allclose(fed, expected(picture, 160), atol=1e-6)
    assert np.array_equal(seen.picture, fed) and seen.inner == (0, 0, 160, 64)
    assert np.array_equal(seen.photo, picture[..., ::-1])
    assert seen.layers[0].grid is None and seen.scores.shape == (8,)
    Image.fromarray(picture[..., ::-1]).save(tmp_path / "p.png")
    with_alpha, file = np.dstack([picture, picture[..., :1]]), tmp_path / "p.png"
    for same in (file, str(file), Image.open(file), with_alpha):
        observe.look(Reporter(), same, imgsz=160)
        assert np.array_equal(Reporter.fed[-1][0].permute(1, 2, 0).numpy(), fed), type(same)


def test_yolo_sees_what_its_own_predict_sees(yolo, picture):
    fed = []
    before = yolo.model.training
    found = observe.look(yolo, picture, imgsz=160)
    yolo.predict(picture, imgsz=160, verbose=False, save=False)
    handle = yolo.predictor.model.model.register_forward_pre_hook(lambda m, inputs: fed.append(inputs[0]))
    with observe.observe(yolo.predictor.model.model) as seen:
        result = yolo.predict(picture, imgsz=160, conf=0.3, verbose=False, save=False)[0]
    handle.remove()
    assert np.array_equal(found.picture, fed[0][0].permute(1, 2, 0).numpy())
    assert torch.equal(found.layers[0].Pi, seen[0].Pi)
    assert found.layers[0].grid == (2, 5) and found.layers[0].stride == 32
    assert yolo.model.training == before
    loose = observe.Observer(yolo, 160, conf=0.3)(picture)[0]
    x0, y0, x1, y1 = loose.inner
    assert len(loose.boxes) == len(result.boxes) > 0
    scale = [(x1 - x0) / 100, (y1 - y0) / 40] * 2
    assert np.allclose(loose.boxes[:, :4], result.boxes.xyxy.numpy() * scale + [x0, y0, x0, y0], atol=1e-3)


def test_padding_moves_the_boxes_along():
    from types import SimpleNamespace

    rows = torch.tensor([[0.0, 0, 100, 50, 0.9, 1]])
    seen = observe.Look(np.zeros((64, 96, 3)), np.zeros((50, 100, 3), np.uint8), [], np.zeros((0, 6)), {}, None)
    assert seen.inner == (0, 8, 96, 56)
    boxes = type("Boxes", (), {"data": rows, "__len__": lambda self: 1})()
    assert np.allclose(observe._placed(SimpleNamespace(boxes=boxes), seen), [[0, 8, 96, 56, 0.9, 1]])


def test_several_pictures_and_a_folder(yolo, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture[:, ::-1]).save(tmp_path / "b.png")
    from_list = observe.look(yolo, [tmp_path / "a.png", tmp_path / "b.png"], 96)
    from_folder = observe.look(yolo, tmp_path, 96)
    assert len(from_list) == len(from_folder) == 2
    assert all(torch.equal(a.layers[0].w, b.layers[0].w) for a, b in zip(from_list, from_folder))
    assert not torch.equal(from_list[0].layers[0].w, from_list[1].layers[0].w)


def test_the_size_is_the_one_the_model_was_trained_at(yolo, picture, monkeypatch):
    assert observe.look(yolo, picture).picture.shape == (256, 640, 3), "Ultralytics' own default, untrained"
    monkeypatch.setitem(yolo.model.args, "imgsz", 96)
    assert observe.look(yolo, picture).picture.shape[1] == 96
    assert observe.look(yolo.model, picture).picture.shape[1] == 96


def test_update_and_mass_are_the_formula(yolo, picture):
    o = observe.look(yolo, picture, 160).layers[0]
    B, K, N, p = o.w.shape
    loop = torch.stack([-o.Pi[0, k, j] * o.gates[0, k] * o.w[0, k, j] for k in range(K) for j in range(N)])
    assert torch.allclose(o.update[0].reshape(K * N, p), loop)
    assert torch.allclose(o.mass.sum(), torch.tensor(1.0)) and not o.w.is_inference()


def test_the_classifier_of_squares(picture):
    o = observe.look(ToST(depth=2), picture)
    assert o.picture.shape == (8, 8, 3) and [layer.grid for layer in o.layers] == [(8, 8)] * 2
    assert o.layers[0].stride == 1 and np.isclose(o.scores.sum(), 1)


def test_one_head_is_even():
    layer = TSSA(8, 1)
    with observe.observe(nn.Sequential(layer)) as seen:
        layer(torch.randn(1, 9, 8))
    with observe.observe(layer) as alone:
        layer(torch.randn(1, 9, 8))
    assert seen[0].entropy.tolist() == [1.0] and alone[0].name == ""


def test_clear_errors(yolo, tmp_path):
    with pytest.raises(ValueError, match="holds a TSSA layer, got Linear"):
        with observe.observe(nn.Linear(2, 2)):
            pass
    with pytest.raises(TypeError, match="expected a YOLO, a module or a checkpoint's path, got int"):
        observe.look(3, "photo.jpg")
    with pytest.raises(FileNotFoundError, match="found no file"):
        observe.look(tmp_path / "best.pt", "photo.jpg")
    with pytest.raises(ValueError, match="uint8 in BGR order"):
        observe.look(yolo, np.zeros((8, 8, 3)))
    (tmp_path / "no.jpg").write_text("not a picture")
    for bad, said in ((tmp_path / "no.jpg", "no.jpg"), (tmp_path, "no.jpg"), (None, "a picture"), ("", "a picture")):
        with pytest.raises(ValueError, match=f"expected .*{said}"):
            observe.look(yolo, bad)
    with pytest.raises(FileNotFoundError, match="expected a picture, found no file"):
        observe.look(yolo, tmp_path / "nowhere.jpg")
