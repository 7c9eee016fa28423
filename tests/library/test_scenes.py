"""Digit scenes: the same bytes everywhere, clean splits, tight boxes, complete or absent."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tssa_lib import scenes
from tssa_lib.paths import data_dir
from tssa_lib.scenes import SceneSpec, digest, make_scenes, scene

from ultralytics.data.utils import check_det_dataset

SMALL = SceneSpec(train=6, val=4, size=96, digits=(1, 3))
SMALL_DIGEST = "ca8cd048f52c9c2629f0e9b694716a0531ab318bc7a92796e9aa9517f29d5882"
DEFAULT_DIGEST = "1eba55f72e43e8afa8d59e8fe2d5043c6a07243f1a8a1c0b55ef03de05aa254b"


def labels_of(image: Path) -> np.ndarray:
    text = Path(str(image.with_suffix(".txt")).replace("images", "labels")).read_text()
    return np.array([[float(v) for v in line.split()] for line in text.splitlines()])


def test_same_bytes_on_every_machine(tmp_path):
    assert digest(make_scenes(SMALL, tmp_path).parent) == SMALL_DIGEST
    assert digest(make_scenes(root=tmp_path).parent) == DEFAULT_DIGEST


def test_a_seed_changes_every_scene():
    for split in scenes.SPLITS:
        a, b = (scene(SceneSpec(seed=seed), split, 0).image for seed in (0, 1))
        assert not np.array_equal(a, b)


def test_splits_share_neither_digits_nor_pixels():
    spec = SceneSpec()
    used = {s: {n for i in range(getattr(spec, s)) for n in scene(spec, s, i).sources} for s in scenes.SPLITS}
    assert len(used["train"]) > 600 and len(used["val"]) > 250
    assert not used["train"] & used["val"]
    ink, _ = scenes._digits()
    seen = {ink[n].tobytes() for n in used["train"]}
    assert not any(ink[n].tobytes() in seen for n in used["val"]), "the same digit twice under two numbers"
    for name in scenes.PHOTOS:
        parts, photo = [scenes._region(name, s) for s in scenes.SPLITS], scenes._photo(name)
        axis = int(photo.shape[1] > photo.shape[0])
        assert np.array_equal(np.concatenate(parts, axis), photo)
        assert parts[1].size > 0.35 * photo.size


def test_photographs_are_those_of_the_dependencies():
    from sklearn.datasets import load_sample_image

    from ultralytics.utils import ASSETS

    for name, block in {"china": 2, "flower": 2, "bus": 3, "zidane": 3}.items():
        full = np.asarray(Image.open(ASSETS / f"{name}.jpg")) if block == 3 else load_sample_image(f"{name}.jpg")
        kept = scenes._photo(name).astype(int)
        full = full[: kept.shape[0] * block, : kept.shape[1] * block].astype(float)
        mean = full.reshape(kept.shape[0], block, kept.shape[1], block, 3).mean((1, 3))
        assert np.abs(mean - kept).max() <= 3, name  # decoders may differ by a little


def test_boxes_are_apart_and_of_the_asked_size():
    spec = SceneSpec(contrast=(200, 200), tint=0)
    widest = 0
    for i in range(40):
        drawn = scene(spec, "train", i)
        assert spec.digits[0] <= len(drawn.boxes) <= spec.digits[1]
        longest = (drawn.boxes[:, 2:] - drawn.boxes[:, :2]).max(1)
        assert (longest >= spec.side[0] - 3).all() and (longest <= spec.side[1]).all()
        widest = max(widest, longest.max())
        assert drawn.boxes.min() >= spec.gap and drawn.boxes.max() <= spec.size - spec.gap
        covered = np.zeros((spec.size, spec.size), int)
        for x0, y0, x1, y1 in drawn.boxes:
            covered[y0:y1, x0:x1] += 1
        assert covered.max() == 1
    assert widest > 40


@pytest.mark.parametrize("n", [0, 1, 7, 500])
def test_a_glyph_touches_all_four_sides_of_its_box(n):
    for side in (20, 31, 44):
        alpha = scenes._glyph(scenes._digits()[0][n], side)
        assert all(edge.max() >= scenes.VISIBLE for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))
        assert side - 4 <= max(alpha.shape) <= side and alpha.min() >= 0 and alpha.max() <= 255


def test_labels_say_where_the_digits_are(tmp_path):
    data = make_scenes(SMALL, tmp_path)
    found = check_det_dataset(data)
    assert found["nc"] == 10 and found["names"][7] == "7"
    for split in scenes.SPLITS:
        images = sorted(Path(found[split]).iterdir())
        assert len(images) == getattr(SMALL, split)
        for i, path in enumerate(images):
            drawn, rows = scene(SMALL, split, i), labels_of(path)
            assert np.array_equal(np.asarray(Image.open(path)), drawn.image)
            assert np.array_equal(rows[:, 0], drawn.labels)
            assert np.array_equal(drawn.labels, scenes._digits()[1][drawn.sources])
            corners = np.hstack([rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2]) * SMALL.size
            assert np.abs(corners - drawn.boxes).max() < 1e-3


def test_fixed_point_resize_is_bilinear():
    import torch

    image = scenes._photo("china")[:60, :50]
    for shape in ((31, 90), (128, 128), (60, 50)):
        want = torch.nn.functional.interpolate(
            torch.tensor(image).permute(2, 0, 1)[None].double(), shape, mode="bilinear"
        )
        got = scenes._resize(image, *shape)
        assert np.abs(got - want[0].permute(1, 2, 0).numpy()).max() < 2.0


def test_used_again_when_whole_and_made_anew_when_damaged(tmp_path):
    data = make_scenes(SMALL, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in data.parent.rglob("*") if p.is_file()}
    assert make_scenes(SMALL, tmp_path) == data
    assert {p: p.stat().st_mtime_ns for p in data.parent.rglob("*") if p.is_file()} == before
    (data.parent / "labels" / "train.cache").write_bytes(b"what Ultralytics leaves behind")
    assert digest(data.parent) == SMALL_DIGEST

    for damage in (lambda p: p.write_bytes(p.read_bytes()[:-1]), lambda p: p.unlink()):
        damage(sorted((data.parent / "images" / "val").iterdir())[0])
        assert digest(data.parent) != SMALL_DIGEST
        assert digest(make_scenes(SMALL, tmp_path).parent) == SMALL_DIGEST
    (data.parent / "manifest.json").unlink()
    assert json.loads((make_scenes(SMALL, tmp_path).parent / "manifest.json").read_text())["sha256"] == SMALL_DIGEST


def test_an_interrupted_run_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    drawn = scenes.scene
    monkeypatch.setattr(scenes, "scene", lambda spec, split, i: drawn(spec, split, i) if i < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_scenes(SMALL, tmp_path)
    assert not list(tmp_path.iterdir())


def test_two_processes_at_once_agree(tmp_path):
    code = f"from tssa_lib.scenes import SceneSpec, make_scenes; print(make_scenes({SMALL!r}, {str(tmp_path)!r}))"
    root = Path(__file__).resolve().parents[2]
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True) for _ in "ab"]
    paths = {run.communicate()[0].strip().splitlines()[-1] for run in runs}
    assert [run.returncode for run in runs] == [0, 0] and len(paths) == 1
    assert digest(Path(paths.pop()).parent) == SMALL_DIGEST
    assert len(list(tmp_path.iterdir())) == 1


def test_paths_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("TSSA_DATA", raising=False)
    here = data_dir()
    monkeypatch.chdir(tmp_path)
    assert data_dir() == here and here.is_absolute()
    monkeypatch.setenv("TSSA_DATA", "elsewhere")
    assert data_dir() == tmp_path / "elsewhere"


@pytest.mark.skipif(os.name == "nt", reason="the cache folder is chosen otherwise on Windows")
def test_a_place_that_cannot_be_written_gives_way_to_a_user_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("TSSA_DATA", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *a: False)
    assert data_dir() == tmp_path / "tssa_lib"


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(digits=(3, 2)), "digits=.low, high. with 1 <= low <= high, got .3, 2."),
        (dict(digits=(0, 2)), "got .0, 2."),
        (dict(side=(20, 200)), "fit a scene of 128 px"),
        (dict(side=(4, 20)), "at least 8 px"),
        (dict(contrast=(90, 300)), "contrast up to 255"),
        (dict(train=0), "at least 1 scene a split, got train=0"),
    ],
)
def test_a_wrong_specification_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        SceneSpec(**wrong)


def test_digits_that_do_not_fit_are_an_error_and_not_an_endless_loop():
    with pytest.raises(ValueError, match="too small"):
        scene(SceneSpec(size=64, digits=(9, 9), side=(44, 44)), "train", 0)


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="'train', 'val'.*got 'test'"):
        scene(SceneSpec(), "test", 0)
