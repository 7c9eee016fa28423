"""The recipe that looks: what it chooses for few and many pictures, small boxes, GPUs, and what it says of it."""

from types import SimpleNamespace

import pytest
import torch

from tssa_lib import recipes, train
from tssa_lib.dataset import Split
from tssa_lib.scenes import SceneSpec, make_scenes
from tssa_lib.yolo import LOGGER, YOLO


@pytest.fixture
def chosen(monkeypatch, caplog):
    """The settings for a set of so many pictures, of this size, with boxes of this share of a side."""
    monkeypatch.setattr(LOGGER, "propagate", True)

    def choose(count=205, side=320, box=0.1, names=("cell",), gib=0.0, **given):
        seen = Split(shapes=[(side, side)] * 3, sides=[box] * 40)
        monkeypatch.setattr(recipes, "look_at", lambda data: (seen, count, list(names)))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: int(gib > 0))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(total_memory=gib * 2**30))
        with caplog.at_level("INFO", logger=LOGGER.name):
            return recipes.auto("my.yaml", **given)

    return choose


def test_few_pictures_on_a_cpu(chosen, caplog):
    found = chosen()
    assert (found["imgsz"], found["batch"], found["nbs"], found["device"]) == (320, 4, 4, "cpu")
    assert found["optimizer"] == "AdamW" and found["mosaic"] == 0 and "fliplr" not in found
    assert 52 * found["epochs"] <= 1_500 < 52 * (found["epochs"] + 1)
    for said in ("205 pictures of 320 px", "imgsz=320", "batch=4: 205 pictures", "from scratch"):
        assert said in caplog.text


def test_the_size_follows_pictures_boxes_and_machine(chosen):
    assert chosen(side=100)["imgsz"] == 128, "the pictures' own, in multiples of 32"
    assert chosen(side=4000)["imgsz"] == 320 and chosen(side=4000, gib=8)["imgsz"] == 640
    assert chosen(side=4000, box=0.02)["imgsz"] == 416, "small boxes get eight pixels"
    assert chosen(side=4000, box=0.001)["imgsz"] == 640, "within bounds"


def test_many_pictures_get_the_customary_optimizer(chosen):
    found = chosen(count=20_000, gib=24)
    assert (found["optimizer"], found["lr0"], found["batch"]) == ("SGD", 0.01, 16) and "mosaic" not in found
    assert chosen(count=20_000, gib=4)["batch"] == 8


def test_what_is_given_stays_and_the_rest_follows(chosen):
    found = chosen(epochs=2, batch=4, lr0=0.1, weights="yolo11n.pt")
    assert (found["epochs"], found["batch"], found["nbs"], found["lr0"]) == (2, 4, 4, 0.1)
    assert chosen(weights="yolo11n.pt")["lr0"] < chosen()["lr0"], "learned weights are changed with care"


def test_a_batch_left_to_the_gpu_and_a_rectangle_are_understood(chosen):
    found = chosen(batch=-1, imgsz=[320, 256], epochs=2)
    assert (found["batch"], found["imgsz"], found["nbs"]) == (-1, [320, 256], 16)


@pytest.mark.parametrize(
    "names, mirrored", [(("3", "7"), False), (("turn left", "stop"), False), (("leftover",), True)]
)
def test_what_a_mirror_changes_is_not_mirrored(chosen, names, mirrored):
    assert ("fliplr" not in chosen(names=names)) is mirrored


@pytest.mark.slow
def test_a_training_by_the_recipe_says_what_it_chose_and_why_nothing_was_learned(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    data = make_scenes(SceneSpec(train=8, val=2, size=64, digits=(1, 2)), tmp_path)
    model = YOLO("yolo11n-tssa.yaml")
    with caplog.at_level("INFO", logger=LOGGER.name):
        settings = train.auto(data, model, epochs=1, plots=False)
        assert "minutes; any setting may be given in place of these" in caplog.text
        run = train.train(data, model, folder=tmp_path / "run", **settings)
    assert run.metrics["mAP50"] < train.NOTHING and "Usual reasons: too few steps" in caplog.text
