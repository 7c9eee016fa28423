"""Data sets: what is refused, for which reason, and what a stranger's label cache may do (nothing)."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tssa_lib import train as training
from tssa_lib.dataset import check_data, describe, report
from tssa_lib.yolo import YAML, YOLO

SHORT = {**training.SCENES, "imgsz": 64, "epochs": 1, "batch": 4}


@pytest.fixture
def data(tmp_path) -> Path:
    """Four pictures for training and two for validation, a box of class 0 in each, every picture another."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        for i in range(count):
            picture = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "images" / split / f"{i}.png")
            (tmp_path / "labels" / split / f"{i}.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return tmp_path / "data.yaml"


def spoil(data: Path, text: str | bytes, split: str = "train", name: str = "1") -> None:
    path = data.parent / "labels" / split / f"{name}.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    "text, why",
    [
        ("99 0.5 0.5 0.2 0.2", "class 99 exceeds dataset class count 2"),
        ("-1 0.5 0.5 0.2 0.2", "negative label values"),
        ("1.5 0.5 0.5 0.2 0.2", "non-integer class labels"),
        ("0 0.5 0.5 0.2", "labels require 5 columns, 4 columns detected"),
        ("0 0.5 0.5 2.5 0.2", "out of bounds coordinates"),
        ("0 nan 0.5 0.2 0.2", ""),
        ("cat 0.5 0.5 0.2 0.2", "could not convert string to float: 'cat'"),
        ("0 0.5 0.5 0.2 0.2".encode("utf-16"), "can't decode byte"),
    ],
)
def test_a_bad_label_is_refused_with_its_file_and_reason(data, text, why):
    spoil(data, text)
    with pytest.raises(ValueError, match="expected readable train images with valid labels, got 1 of 4") as refused:
        training.train(data, folder=data.parent / "run", quiet=True, **SHORT)
    assert "\n  1.png: " in str(refused.value) and why in str(refused.value)


def test_what_is_left_of_a_validation_split_is_not_scored(data):
    model = YOLO("yolo11n-tssa.yaml")
    model.model.names = {0: "cat", 1: "dog"}
    spoil(data, "99 0.5 0.5 0.2 0.2", "val")
    with pytest.raises(
        ValueError, match="expected readable val images .* got 1 of 2 that aren't:\n  1.png: .*class 99"
    ):
        training.validate(model, data, imgsz=64)
    spoil(data, "0 0.5 0.5 0.2 0.2", "val")
    (data.parent / "images" / "val" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match="0.png: an empty file"):
        training.validate(model, data, imgsz=64)


def test_a_split_without_one_usable_picture_is_refused_with_the_reasons(data):
    model = YOLO("yolo11n-tssa.yaml")
    model.model.names = {0: "cat", 1: "dog"}
    for name in ("0", "1"):
        spoil(data, "99 0.5 0.5 0.2 0.2", "val", name)
    with pytest.raises(ValueError, match="expected readable images .* none in .*val:\n  0.png: Label class 99 exceeds"):
        training.validate(model, data, imgsz=64)


def test_what_is_left_out_is_said(data, caplog, monkeypatch):
    spoil(data, "99 0.5 0.5 0.2 0.2")
    monkeypatch.setattr(training.LOGGER, "propagate", True)
    training.train(data, folder=data.parent / "run", drop_bad=True, **SHORT)
    assert any("left out 1 of 4 train images" in line and "1.png: Label class 99" in line for line in caplog.messages)


def test_data_with_other_classes_than_the_model_are_not_scored(data):
    with pytest.raises(ValueError, match=r"expected data with the 80 classes of the model .* got 2 \(cat, dog\)"):
        training.validate("yolo11n-tssa.yaml", data, imgsz=64)


def test_data_without_a_single_box_are_refused(data):
    for file in (data.parent / "labels" / "train").iterdir():
        file.write_text("")
    with pytest.raises(ValueError, match=r"expected boxes in the labels .* got none for 4 images; .*sought at .*\.txt"):
        training.train(data, folder=data.parent / "run", quiet=True, **SHORT)
    shutil.rmtree(data.parent / "labels")
    with pytest.raises(ValueError, match=r"expected a label \(.txt\) for the pictures, got none in .*labels/train"):
        training.train(data, folder=data.parent / "run", quiet=True, **SHORT)


@pytest.mark.parametrize(
    "yaml, said",
    [
        ("names: {1: cat, 2: dog}", "numbered 0 to 1, got 1, 2: number them from 0"),
        ("names: {0: cat, 2: dog}", "numbered 0 to 1, got 0, 2"),
        ("backbone: []", r"names missing \(is it a model YAML\?\)"),
    ],
)
def test_a_data_yaml_that_says_something_else_is_named(data, yaml, said):
    data.write_text(f"train: images/train\nval: images/val\n{yaml}\n")
    with pytest.raises(ValueError, match=said):
        check_data(data)
    with pytest.raises(ValueError, match="expected a data YAML, or a folder with pictures and labels, got .* without"):
        check_data(data.parent / "labels")


def test_hidden_files_and_folders_are_not_pictures(data):
    folder = data.parent / "images" / "train"
    (folder / "._1.png").write_bytes(b"what another system leaves behind")
    (folder / "more.png").mkdir()
    model = YOLO("yolo11n-tssa.yaml")
    assert len(training.predict(model, folder, imgsz=64)) == 4
    (folder / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match="got .*empty.png, an empty file"):
        training.predict(model, folder, imgsz=64)


@pytest.mark.parametrize("source", [None, "", " "])
def test_no_source_is_no_sample_picture(source):
    with pytest.raises(ValueError, match="expected a picture, a folder or a pattern"):
        training.predict("yolo11n-tssa.yaml", source)


class Hostile:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_label_cache_of_a_stranger_runs_nothing(data):
    mark = data.parent / "it ran"
    for split in ("train", "val"):
        cache = data.parent / "labels" / f"{split}.cache"
        np.save(cache, Hostile(mark))
        cache.with_name(f"{split}.cache.npy").rename(cache)
        pickle.loads(pickle.dumps(0))  # pickling itself is fine; opening that file is what must not happen
    training.train(data, folder=data.parent / "run", quiet=True, **SHORT)
    assert not mark.exists()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_download_script_of_a_data_yaml_is_not_run(data, split):
    mark = data.parent / "it ran"
    yaml = {**YAML.load(data), "test": "images/val", "download": f"import os\nos.mkdir({str(mark)!r})"}
    YAML.save(data, yaml)
    assert training.check_data(data)["names"], "what is there can be used"
    YAML.save(data, {**yaml, split: "images/elsewhere"})
    with pytest.raises(FileNotFoundError, match="(?s)elsewhere.*`download` in .* is a script, which is not run"):
        training.check_data(data)
    assert not mark.exists()


def test_a_data_set_is_described(data):
    spoil(data, "1 0.5 0.5 0.5 0.5\n0 0.2 0.2 0.1 0.1\n0 0.2 0.2 0.1 0.1\n")
    spoil(data, "0 0.5 0.5 0.02 0.9\n", split="val")
    spoil(data, "", name="2")
    spoil(data, "7 0.5 0.5 0.2 0.2", name="3")
    shutil.copy(data.parent / "images" / "train" / "0.png", data.parent / "images" / "val" / "0.png")
    found = describe(data, progress=False)
    assert found["train"].pictures == 4 and found["train"].boxes == {"cat": 2, "dog": 1}
    assert found["train"].without_boxes == 1 and [file for file, _ in found["train"].bad] == ["3.png"]
    assert sorted(found["train"].sides) == pytest.approx([0.1, (0.25 * 0.5) ** 0.5, 0.5])
    text = report(found)
    for said in (
        "1 of 4 pictures have no box",
        "3.png can't be used",
        "val: no box of dog",
        "share 1 pictures, e.g. 0.png",
        "train: 1.png holds the same box twice",
        "val: 1.png holds a box of 1×43 pixels: is it meant?",
        "train: pictures of 64×48",
    ):
        assert said in text
