"""Masks, key points and oriented boxes, and YOLO26: by name they build, carry weights, train, and report their own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tssa_lib import yolo
from tssa_lib.recipes import SCENES
from tssa_lib.train import silenced, stock_weights, train, validate
from tssa_lib.yolo import YOLO

from ultralytics.utils import downloads

SHORT = {**SCENES, "imgsz": 64, "epochs": 1, "batch": 4}
CORNERS = np.array([[-0.2, -0.1], [0.2, -0.1], [0.2, 0.1], [-0.2, 0.1]])
ROWS = {  # of a label: class, and what the task asks for
    "seg": lambda x, y: [0, *(CORNERS + (x, y)).flatten()],
    "pose": lambda x, y: [0, x, y, 0.4, 0.2, x - 0.1, y, 2, x + 0.1, y, 2],
    "obb": lambda x, y: [0, *(CORNERS + (x, y)).flatten()],
    "": lambda x, y: [0, x, y, 0.4, 0.2],
}


def data_for(task: str, place: Path) -> Path:
    """A bright rectangle on a dark ground, in six pictures."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        (place / "images" / split).mkdir(parents=True)
        (place / "labels" / split).mkdir(parents=True)
        for i in range(count):
            picture = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            x, y = rng.uniform(0.3, 0.7, 2)
            left, top = round(64 * (x - 0.2)), round(64 * (y - 0.1))
            picture[top : top + 13, left : left + 26] = 230
            Image.fromarray(picture).save(place / "images" / split / f"{i}.png")
            (place / "labels" / split / f"{i}.txt").write_text(" ".join(f"{v:g}" for v in ROWS[task](x, y)) + "\n")
    points = "kpt_shape: [2, 3]\n" if task == "pose" else ""
    (place / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: [bar]\n{points}")
    return place / "data.yaml"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, task, own",
    [
        ("yolo11n-tssa-seg.yaml", "seg", "mask mAP50"),
        ("yolo11n-tssa-improved-p4p5-pose.yaml", "pose", "pose mAP50"),
        ("yolo11n-tssa-obb.yaml", "obb", "mAP50"),
        ("yolo26n-tssa.yaml", "", "mAP50"),
    ],
)
def test_a_task_by_name_trains_and_reports_its_own_metrics(name, task, own, tmp_path):
    data = data_for(task, tmp_path)
    run = train(data, name, folder=tmp_path / "run", quiet=True, **SHORT)
    assert own in run.metrics and own in run.history[0] and ("mask" in str(run)) == (task == "seg")
    again, _ = validate(run.best, data)
    assert again.keys() == run.metrics.keys() and again[own] == pytest.approx(run.metrics[own], abs=1e-3)
    model = YOLO(str(run.best))
    assert any(isinstance(m, yolo.C2TSSA) for m in model.model.model)
    assert own in silenced(model, data)["silenced, all"]


@pytest.mark.parametrize("body", yolo.BODIES)
def test_a_body_by_name_differs_from_its_stock_in_the_attention_alone(body):
    name = f"{body[:6]}n-tssa{body[6:]}.yaml"
    ours, stock = YOLO(name), YOLO(f"{body[:6]}n{body[6:]}.yaml")
    assert ours.task == stock.task and type(ours.model) is type(stock.model)
    kinds = [[type(layer).__name__ for layer in m.model.model] for m in (ours, stock)]
    assert [pair for pair in zip(*kinds) if pair[0] != pair[1]] == [("C2TSSA", "C2PSA")]
    assert yolo.load(ours, stock.model).fresh == ("model.10.m.0.attn.temp",)
    assert stock_weights("n", name, download=True) == f"{body[:6]}n{body[6:]}.pt"


def test_bodies_without_such_a_row_are_refused_in_words():
    for name in ("yolo12n-tssa.yaml", "yolo11n-tssa-cls.yaml"):
        with pytest.raises(ValueError, match="expected a body of yolo11, .* attention in a row of its own, got 'yolo1"):
            YOLO(name)


def test_weights_of_another_family_are_counted_or_refused(caplog):
    yolo.LOGGER.propagate, before = True, yolo.LOGGER.propagate
    try:
        found = yolo.load(YOLO("yolo11n-tssa.yaml"), YOLO("yolo26n.yaml").model)
    finally:
        yolo.LOGGER.propagate = before
    assert found.parameters < 0.9 * found.parameters_of and len(found.fresh) > 10
    assert f"yolo26n is another architecture: {found}" in caplog.text
    with pytest.raises(ValueError, match="expected a checkpoint of this architecture, of scale 'n', got yolov8n: only"):
        yolo.load(YOLO("yolo11n-tssa.yaml"), YOLO("yolov8n.yaml").model)


def test_stock_weights_that_cannot_be_had_name_the_way_out(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("Download failure. Environment may be offline.")

    monkeypatch.setattr(downloads, "attempt_download_asset", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match="expected yolo11n.pt here or on the network, got neither.*weights none"
    ):
        train(data_for("", tmp_path), weights="yolo11n.pt", quiet=True, **SHORT)
