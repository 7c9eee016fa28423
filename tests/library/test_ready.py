"""Detectors kept as numbers alone, and the one that comes with the checkout; what opening a file may run (nothing)."""

import json
import os
import pickletools
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from kit import cost
from tssa_lib import look, paths, silence, weights, yolo
from tssa_lib.observe import Observer
from tssa_lib.train import export, predict, resume, train, validate
from tssa_lib.yolo import YOLO

MEGABYTES = 6  # that a file in the repository may take
CELLS = "blood_cells"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """An untrained detector with a plan of its own, and its file."""
    plan = tmp_path_factory.mktemp("plan") / "yolo11n-own.yaml"
    yolo.YAML.save(plan, yolo.with_attention(("P4", "P5"), head_width=16, normalize="rms", temp=4.0) | {"nc": 3})
    model = YOLO(str(plan))
    for p in model.model.parameters():  # away from initial values that round without loss
        p.data += 0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    model.model.names = {0: "a", 1: "b", 2: "c"}
    return model, weights.keep(model, tmp_path_factory.mktemp("kept") / "own.pt", imgsz=96)


def test_what_is_kept_comes_back_to_half_precision(fresh):
    model, file = fresh
    back = weights.load(file)
    assert back.model.yaml["nc"] == 3 and back.names == model.model.names and back.overrides["imgsz"] == 96
    assert [type(m).__name__ for m in back.model.model] == [type(m).__name__ for m in model.model.model]
    ours, theirs = back.model.state_dict(), model.model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        exact = value.ndim < 2 or not value.is_floating_point()
        assert torch.equal(ours[name], value if exact else value.half().float()), name
    x = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y, z = back.model(x)[0], model.model.eval()(x)[0]
    assert (y - z).abs().max() < 0.01 * z.abs().max()


def test_the_file_holds_numbers_and_names_of_no_class(fresh):
    for file in (fresh[1], *paths.checkout().joinpath("data", "detectors").glob("*.pt")):
        with zipfile.ZipFile(file) as archive:
            (data,) = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
        named = {arg for op, arg, _ in pickletools.genops(data) if op.name in ("GLOBAL", "STACK_GLOBAL")}
        allowed = {"torch._utils _rebuild_tensor_v2", "collections OrderedDict"}
        assert all(name in allowed or name.startswith("torch ") and name.endswith("Storage") for name in named), named
        assert set(torch.load(file, weights_only=True)) == set(weights.KEYS)


def test_training_goes_on_from_the_weights_that_were_kept(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("TSSA_DATA", str(tmp_path))
    from tssa_lib.scenes import SceneSpec, make_scenes

    data = make_scenes(SceneSpec(train=2, val=1, size=64, digits=(1, 2)), tmp_path)
    model = weights.load(fresh[1])
    before = model.model.state_dict()["model.0.conv.weight"].clone()
    still = dict(imgsz=64, epochs=1, batch=2, lr0=1e-9, warmup_epochs=0, optimizer="SGD", workers=0, plots=False)
    run = train(data, model, folder=tmp_path / "run", quiet=True, amp=False, **still)
    after = YOLO(str(run.last)).model.state_dict()["model.0.conv.weight"]
    assert (after - before).abs().max() < 1e-3 < before.abs().max()


def test_other_files_are_opened_as_ultralytics_opens_them_and_errors_say_what_came(fresh, tmp_path):
    model, _ = fresh
    model.save(tmp_path / "checkpoint.pt")
    assert weights.load(tmp_path / "checkpoint.pt").names == model.model.names
    assert weights.load("yolo11n-tssa.yaml").model.yaml["nc"] == 80
    with pytest.raises(FileNotFoundError, match="expected a detector, found no file"):
        weights.load(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match="expected detectors/nobody.pt in the project's data, found"):
        weights.ready("nobody")
    with pytest.raises(TypeError, match="expected a YOLO detector, got Linear"):
        weights.keep(type("Other", (), {"model": torch.nn.Linear(1, 1)})(), tmp_path / "x.pt", 64)
    kept = torch.load(fresh[1], weights_only=True)
    torch.save({**kept, "state_dict": {}}, tmp_path / "empty.pt")
    with pytest.raises(ValueError, match="expected weights that fit the plan in empty.pt"):
        weights.load(tmp_path / "empty.pt")


def test_the_ready_detector_is_small_and_finds_the_white_cell():
    file = paths.shipped(f"detectors/{CELLS}.pt")
    assert file.stat().st_size <= MEGABYTES * 1e6
    model = weights.load(CELLS)
    assert model.ckpt_path == str(file) == weights.ready(CELLS).ckpt_path
    attention = [m for m in model.model.modules() if isinstance(m, yolo.TSSAttention)]
    assert len(attention) == 3 and all(m.num_heads > 1 and m.normalize == "rms" for m in attention)
    white = list(model.names.values()).index("WBC")
    folder = paths.shipped("blood_cells/images/val")
    found = 0
    for picture in sorted(folder.iterdir())[:8]:
        label = folder.parents[1] / "labels" / "val" / f"{picture.stem}.txt"
        true = [
            list(map(float, row.split()[1:])) for row in label.read_text().splitlines() if row.startswith(f"{white} ")
        ]
        (result,) = predict(model, picture)
        boxes = result.boxes.xywhn[result.boxes.cls == white]
        found += any((boxes - torch.tensor(box)).abs().max(1).values.min() < 0.1 for box in true if len(boxes))
    assert found >= 6, "in nearly every picture the white cell has its box"


def test_the_ready_detector_opens_in_a_fresh_process_elsewhere(tmp_path):
    code = "from tssa_lib import weights; m = weights.ready(); print(*m.names.values(), m.model.stride.max().item())"
    env = {**os.environ, "PYTHONPATH": str(paths.checkout())}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["RBC", "WBC", "Platelets", "32.0"]


def test_what_the_ready_detector_says_of_itself():
    said = json.loads(paths.shipped("results/blood_cells_ready.json").read_text())
    assert {"command", "date", "torch", "ultralytics", "seed"} <= said.keys()
    assert [row["split"] for row in said["rows"]] == ["val", "test"]
    assert all(0 <= row["mAP50"] <= 1 and set(row["per_class"]) == {"RBC", "WBC", "Platelets"} for row in said["rows"])
    assert said["bytes"] == paths.shipped(f"detectors/{CELLS}.pt").stat().st_size


def test_a_model_by_name_path_or_open_and_a_picture_as_path_array_or_pil_are_the_same():
    file = paths.shipped(f"detectors/{CELLS}.pt")
    source = sorted(paths.shipped("blood_cells/images/val").iterdir())[0]
    model, photo = weights.ready(), Image.open(source)
    array = np.asarray(photo.convert("RGB"))[..., ::-1].copy()  # BGR, as OpenCV reads
    want, seen, cost_of = predict(model, source)[0].boxes.data, look(model, source), cost.count(model, 64)
    assert len(want) > 5 and seen.picture.shape == (192, 224, 3), "the size that it was trained at"
    for given in (CELLS, str(file), file):
        assert torch.equal(predict(given, source)[0].boxes.data, want) and cost.count(given, 64) == cost_of
        assert torch.equal(look(given, source).layers[0].Pi, seen.layers[0].Pi)
    for picture in (str(source), array, photo):
        assert torch.equal(predict(model, picture)[0].boxes.data, want)
        assert torch.equal(look(model, picture).layers[0].Pi, seen.layers[0].Pi)
    with pytest.raises(TypeError, match="expected a model that is open, as tssa_lib.load gives it, got 'blood_cells'"):
        silence.tssa_layers(CELLS)


# ---- nothing in a file runs --------------------------------------------------------------------------------
class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("verb", ["load", "carry", "predict", "validate", "export", "train", "resume", "lens"])
def test_a_checkpoint_runs_no_code(verb, fresh, tmp_path, monkeypatch):
    (tmp_path / "run" / "weights").mkdir(parents=True)
    file, mark = tmp_path / "run" / "weights" / "last.pt", tmp_path / "it ran"
    torch.save({"model": Hostile(mark), "epoch": 0, "train_args": {"data": "coco8.yaml"}}, file)
    monkeypatch.setenv("TSSA_DATA", str(tmp_path))
    data = paths.shipped("blood_cells/data.yaml")
    does = {
        "load": lambda: weights.load(file),
        "carry": lambda: yolo.load(fresh[0], file),
        "predict": lambda: predict(file, paths.shipped("blood_cells/images/val")),
        "validate": lambda: validate(file, data),
        "export": lambda: export(file),
        "train": lambda: train(data, file),
        "resume": lambda: resume(tmp_path / "run"),
        "lens": lambda: Observer(file),
    }
    with pytest.raises(
        ValueError, match=r"expected a checkpoint of networks and numbers alone, got .*last.pt, which asks"
    ):
        does[verb]()
    assert not mark.exists()


def test_a_plan_runs_no_code(fresh, tmp_path):
    """Ultralytics evaluates the activation that a plan names."""
    code = f"__import__('os').mkdir({str(tmp_path / 'it ran')!r})"
    kept = torch.load(fresh[1], weights_only=True)
    torch.save({**kept, "plan": {**kept["plan"], "activation": code}}, tmp_path / "own.pt")
    with pytest.raises(ValueError, match="expected a checkpoint of networks and numbers alone, got .*own.pt"):
        weights.load(tmp_path / "own.pt")
    yolo.YAML.save(tmp_path / "yolo11n-own.yaml", {**yolo.with_attention(), "activation": code})
    with pytest.raises(TypeError, match="unsupported activation"):
        YOLO(str(tmp_path / "yolo11n-own.yaml"))
    assert not (tmp_path / "it ran").exists()
    yolo.YAML.save(tmp_path / "yolo11n-own.yaml", {**yolo.with_attention(), "activation": "nn.Hardswish()"})
    assert isinstance(YOLO(str(tmp_path / "yolo11n-own.yaml")).model.model[0].act, torch.nn.Hardswish)


def test_who_trusts_a_file_can_say_so(tmp_path):
    file, mark = tmp_path / "last.pt", tmp_path / "it ran"
    torch.save({"model": Hostile(mark)}, file)
    code = f"from tssa_lib import weights; weights.load({str(file)!r})"
    env = {**os.environ, "PYTHONPATH": str(paths.checkout()), "ULTRALYTICS_SAFE_LOAD": "False"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, timeout=200)
    assert mark.is_dir()
