"""Training for real at tiny size: off the network, interrupted and resumed, loaded elsewhere, exported."""

import doctest
import importlib.util
import json
import os
import signal
import subprocess
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness import fresh_process
from tssa_lib import dataset, observe, yolo
from tssa_lib import train as training
from tssa_lib.scenes import SceneSpec, make_scenes
from tssa_lib.train import SCENES, History, LiveCurve, check_data, predict, train

from ultralytics import YOLO
from ultralytics.nn import tasks

TINY = SceneSpec(train=16, val=4, size=64, digits=(1, 2))
SHORT = {**SCENES, "imgsz": 64, "epochs": 1}
PIXELS, SCORES = 1e-2, 1e-4  # exported model against ours: float32, batch norm folded in

# Records every attempt to reach a network, and lets none through.
BLOCKED = """
    import socket, sys
    tried = []
    def blocked(*args, **kwargs):
        tried.append(args)
        raise OSError("no network in this test")
    socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = blocked
"""


def run_elsewhere(code: str, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a new interpreter, elsewhere, with nothing of this process's settings."""
    ours = ("YOLO_", "PYTEST", "TSSA_")
    done = fresh_process("-c", textwrap.dedent(code), cwd=cwd, without=ours, **environment)
    assert not check or done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return make_scenes(TINY, tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="session")
def offline(tmp_path_factory) -> dict:
    """The road of the last lesson in a fresh process: empty home, no network, another working directory."""
    place = tmp_path_factory.mktemp("offline")
    home = place / "home"
    home.mkdir()
    code = (
        BLOCKED
        + f"""
    import json
    from tssa_lib.scenes import SceneSpec, make_scenes
    from tssa_lib.train import train, predict
    from tssa_lib import yolo
    data = make_scenes({TINY!r}, "made here")
    seen = []
    run = train(data, folder="a run", watch=lambda h: seen.append([len(h.batches), len(h.rows)]), quiet=True, **{SHORT})
    print("TRAINED")
    model = yolo.YOLO(str(run.best))
    boxes = predict(model, str(data.parent / "images" / "val"), imgsz=64, conf=0.001)
    scores = model.val(data=str(data), imgsz=64, plots=False, verbose=False, workers=0, project=".", name="val")
    onnx = model.export(format="onnx", imgsz=64, simplify=False, dynamic=True, verbose=False)
    print("RESULT" + json.dumps(dict(
        tried=[str(t) for t in tried], data=str(data), folder=str(run.folder), metrics=run.metrics, seen=seen,
        history=run.history, text=str(run), boxes=[len(b.boxes) for b in boxes], map50=float(scores.box.map50),
        onnx=onnx, seconds=run.seconds)))
    """
    )
    root = str(Path(__file__).resolve().parents[2])
    done = run_elsewhere(
        code,
        place,
        HOME=str(home),
        PYTHONPATH=root,
        TSSA_DATA=str(place / "data"),
        YOLO_CONFIG_DIR=str(place / "settings"),
        MPLCONFIGDIR=str(place / "mpl"),
    )
    line = next(li for li in done.stdout.splitlines() if "RESULT" in li)
    return {**json.loads(line.split("RESULT")[1]), "home": home, "out": done.stdout, "place": place}


@pytest.fixture(scope="session")
def best(offline) -> Path:
    return Path(offline["folder"]) / "weights" / "best.pt"


# --- the road -----------------------------------------------------------------------------------


def test_nothing_asks_for_a_network(offline):
    assert offline["tried"] == []


def test_nothing_is_written_into_the_home(offline):
    assert [p for p in offline["home"].rglob("*") if p.is_file()] == []


def test_a_quiet_training_prints_nothing(offline):
    assert offline["out"].startswith("TRAINED")


def test_a_run_says_what_came_out(offline, best):
    assert best.is_file() and offline["folder"] == str(offline["place"] / "a run")
    assert set(offline["metrics"]) == {"precision", "recall", "mAP50", "mAP50-95"}
    assert offline["metrics"]["mAP50"] == pytest.approx(offline["map50"], abs=1e-3), "best.pt, validated again"
    (row,) = offline["history"]
    assert row["epoch"] == 1 and row["box_loss"] > 0 and row["cls_loss"] > 0 and "mAP50" in row
    assert offline["text"].startswith("1 epochs in ") and offline["folder"] not in offline["text"]
    assert offline["seconds"] > 0 and len(offline["boxes"]) == TINY.val


def test_metrics_keep_their_names_and_an_absent_class_has_none(tmp_path):
    """Ultralytics' own metrics, filled by hand: precision is not recall, AP50 not AP50-95, and no dog was there."""
    from ultralytics.utils.metrics import DetMetrics

    found = DetMetrics(names={0: "cat", 1: "dog", 2: "bird"})
    ap = np.linspace([0.6, 0.3], [0.2, 0.1], 10, axis=1)  # (2 classes that occur, 10 thresholds)
    found.box.update((np.array([0.9, 0.7]), np.array([0.4, 0.2]), np.zeros(2), ap, np.array([0, 2]), *[None] * 5))
    totals, per_class = training._scores(found)
    assert totals == pytest.approx({"precision": 0.8, "recall": 0.3, "mAP50": 0.45, "mAP50-95": 0.3})
    assert per_class == pytest.approx({"cat": 0.6, "bird": 0.3})
    run = training.Run(tmp_path, totals, per_class, 1.0)
    assert run.best == tmp_path / "weights" / "best.pt" and run.last == tmp_path / "weights" / "last.pt"


def test_watch_sees_every_batch_and_epoch(offline):
    assert offline["seen"] == [[1, 0], [2, 0], [2, 1]]  # 16 images in batches of 8


@pytest.mark.parametrize("first", ["", "import tssa_lib"])
def test_a_checkpoint_opens_in_a_fresh_process(best, first, tmp_path):
    """Without importing us first, too: unpickling the block imports the file that registers it."""
    code = f"""
    {first}
    from ultralytics import YOLO
    import torch
    model = YOLO({str(best)!r}).model
    print(type(model.model[10]).__name__, sum(p.numel() for p in model.parameters()))
    torch.manual_seed(0)
    print("SUM", float(model.eval()(torch.rand(1, 3, 64, 64))[0].double().sum()))
    """
    out = run_elsewhere(code, tmp_path, YOLO_CONFIG_DIR=os.environ["YOLO_CONFIG_DIR"], YOLO_OFFLINE="true").stdout
    model = YOLO(str(best)).model
    torch.manual_seed(0)
    with torch.no_grad():
        want = float(model.eval()(torch.rand(1, 3, 64, 64))[0].double().sum())
    assert f"C2TSSA {sum(p.numel() for p in model.parameters())}" in out
    assert float(out.split("SUM")[1]) == pytest.approx(want, rel=1e-5)


def test_a_checkpoint_opens_in_restricted_mode(best):
    model, _ = tasks.torch_safe_load(best, safe_only=True)
    assert isinstance(model["model"].model[10], yolo.C2TSSA)


def test_onnx_gives_the_same_boxes(offline, best):
    """All candidate boxes and scores, before any is dropped, also at sizes other than the exported one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(offline["onnx"], providers=["CPUExecutionProvider"])
    model = YOLO(str(best)).model.eval()
    for shape in ((1, 3, 64, 64), (2, 3, 96, 160)):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            want = model(x)[0].numpy()  # (B, 4 + classes, candidates)
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert np.abs(got[:, :4] - want[:, :4]).max() < PIXELS
        assert np.abs(got[:, 4:] - want[:, 4:]).max() < SCORES and want[:, 4:].std() > 0


def test_a_trained_model_is_recorded_while_it_predicts(best, tiny):
    model = YOLO(str(best))
    images = [str(p) for p in sorted((tiny.parent / "images" / "val").iterdir())]
    predict(model, images[0], imgsz=64)  # makes the predictor, which runs a fused copy
    for holder in (model.model, model.predictor.model.backend.model):
        with observe.record(holder) as tape:
            predict(model, images, imgsz=64) if holder is not model.model else model.model(torch.rand(4, 3, 64, 64))
        (calls,) = tape.values()
        assert sum(len(c.Pi) for c in calls) == len(images) and calls[0].Pi.shape[1:] == (2, 4)


# --- interruption -------------------------------------------------------------------------------


def test_a_killed_training_resumes_with_nothing_lost(tiny, tmp_path):
    """The process dies without a word in the middle of the second of three epochs."""
    code = f"""
    import os, signal
    from tssa_lib.train import train
    def die(history):
        if len(history.rows) == 1 and len(history.batches) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    train({str(tiny)!r}, folder="run", watch=die, quiet=True, **{SHORT | dict(epochs=3)!r})
    """
    root = str(Path(__file__).resolve().parents[2])
    done = run_elsewhere(code, tmp_path, check=False, PYTHONPATH=root, YOLO_CONFIG_DIR=os.environ["YOLO_CONFIG_DIR"])
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    saved = torch.load(tmp_path / "run" / "weights" / "last.pt", weights_only=False)
    assert saved["epoch"] == 0 and saved["optimizer"] is not None

    started = {}

    def look(history):
        if not started:
            started["epoch"], started["threads"] = history.batches[0][0], torch.get_num_threads()

    with pytest.raises(ValueError, match="expected a new folder.*resume it"):
        train(tiny, folder=tmp_path / "run", quiet=True, **SHORT)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        run = training.resume(tmp_path / "run", watch=look, quiet=True)
        training.validate(YOLO(str(run.best)), tiny, imgsz=64)
        assert started["threads"] == torch.get_num_threads() == threads + 1, (
            "the caller's, which Ultralytics would change"
        )
    finally:
        torch.set_num_threads(threads)
    assert 1 < started["epoch"] < 2, "the first epoch is not done again"
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert run.folder == tmp_path / "run" and run.best.is_file()
    with pytest.raises(ValueError, match="got a finished one"):
        training.resume(run, quiet=True)
    with pytest.raises(FileNotFoundError, match="expected the checkpoint of an interrupted training"):
        training.resume(tmp_path / "nowhere")


# --- weights of a stock model -------------------------------------------------------------------


def test_a_briefly_trained_stock_checkpoint_is_carried_into_training(tiny, tmp_path):
    stock = train(tiny, "yolo11n.yaml", folder=tmp_path / "stock", quiet=True, **SHORT)
    want = YOLO(str(stock.best)).model.state_dict()

    class Seen(Exception):
        pass

    started = {}

    def stop(trainer):
        started.update({k: v.detach().cpu().clone() for k, v in trainer.model.state_dict().items()})
        raise Seen

    model = YOLO("yolo11n-tssa.yaml")
    model.add_callback("on_train_start", stop)
    with pytest.raises(Seen):
        train(tiny, model, weights=stock.best, folder=tmp_path / "ours", quiet=True, **SHORT)
    # the head was made for 80 classes when loaded, and for 10 by the trainer: class outputs start fresh
    carried = [
        k for k, v in want.items() if k in started and v.shape == started[k].shape and torch.equal(v, started[k])
    ]
    lost = sorted(k for k in started if k not in carried)
    assert all(".attn.qkv." in k or k.endswith("attn.temp") or ".cv3." in k for k in lost), lost
    rows = YOLO(str(stock.best)).model.model[10].m[0].attn
    values = rows.qkv.conv.weight.view(rows.num_heads, -1, 128, 1, 1)[:, 2 * rows.key_dim :].flatten(0, 1)
    assert torch.equal(started["model.10.m.0.attn.qkv.conv.weight"], values)


def test_full_recipe_is_the_customary_one(tiny, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(training, "train", lambda *a, **k: asked.update(k, a=a))
    training.full_recipe(tiny, size="s", workers=2)
    assert asked["a"] == (tiny, "yolo11s-tssa.yaml") and asked["weights"] is None and asked["workers"] == 2
    assert (asked["epochs"], asked["imgsz"], asked["batch"], asked["amp"]) == (300, 640, 64, True)
    training.full_recipe(tiny, model="yolo11n-tssa-p4p5.yaml", weights="stock")
    assert asked["a"][1] == "yolo11n-tssa-p4p5.yaml" and asked["weights"] == "yolo11n.pt"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yolo11n.pt").touch()
    training.full_recipe(tiny)
    assert asked["weights"] == "yolo11n.pt", "stock weights are used where they lie, without a network"
    training.full_recipe(tiny, model="best.pt", weights="stock")
    assert asked["a"][1] == "best.pt" and asked["weights"] is None, "stock weights would replace what it has learned"
    monkeypatch.undo()
    short = {**SHORT, "device": "cpu"}
    run = training.full_recipe(tiny, weights=None, folder=tmp_path / "full", quiet=True, **short)
    assert run.best.is_file() and isinstance(YOLO(str(run.best)).model.model[10], yolo.C2TSSA)


# --- the live curve -----------------------------------------------------------------------------


def test_the_live_curve_draws_one_output_and_describes_it(monkeypatch):
    IPython = pytest.importorskip("IPython.display")
    shown = []

    class Handle:
        def update(self, picture):
            shown.append(("update", picture))

    monkeypatch.setattr(IPython, "display", lambda picture, display_id: shown.append(("new", picture)) or Handle())
    curve, history = LiveCurve("a training", goal=0.8, every=0.0), History(epochs=1)
    curve(history)
    assert shown == []
    for i in range(3):
        history.batches.append((i / 4, 9.0 - i))
        curve(history)
    history.rows.append({"epoch": 1, "mAP50": 0.5, "mAP50-95": 0.3})
    curve(history)
    assert [kind for kind, _ in shown] == ["new", "update", "update", "update"]
    assert all(p.data.startswith(b"\x89PNG") for _, p in shown) and len({p.data for _, p in shown}) == 4
    assert curve.describe(history) == "a training: training loss from 9.0 to 7.0; mAP50 by epoch 0.50"


def test_the_live_curve_draws_each_number_under_its_name(monkeypatch):
    from tssa_lib import plots

    kept, row = [], plots.row
    monkeypatch.setattr(plots, "row", lambda *sizes: kept.extend(row(*sizes)) or kept)
    history = History(epochs=2, batches=[(0.5, 9.0), (1.5, 7.0)])
    history.rows += [{"epoch": 1, "mAP50": 0.5, "mAP50-95": 0.3}, {"epoch": 2, "mAP50": 0.6, "mAP50-95": 0.4}]
    LiveCurve("a training", goal=0.8)._draw(history)
    drawn = [{line.get_label(): [*map(list, line.get_data())] for line in ax.get_lines()} for ax in kept]
    assert list(drawn[0].values()) == [[[0.5, 1.5], [9.0, 8.0]]], "the loss, smoothed"
    assert drawn[1]["mAP50"] == [[1, 2], [0.5, 0.6]] and drawn[1]["mAP50-95"] == [[1, 2], [0.3, 0.4]]
    assert any(set(points[1]) == {0.8} for points in drawn[1].values()), "the goal"


def test_digits_are_not_mirrored():
    assert SCENES["fliplr"] == SCENES["mosaic"] == 0.0 and "flipud" not in SCENES


def test_the_examples_in_the_docstrings_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TSSA_DATA", str(tmp_path))
    package = Path(training.__file__).parent
    attempted = {}
    for path in sorted(package.glob("[a-z]*.py")):
        if path.stem == "fused" and importlib.util.find_spec("triton") is None:
            continue  # Triton comes with PyTorch for Linux alone
        result = doctest.testmod(importlib.import_module(f"tssa_lib.{path.stem}"))
        attempted[path.stem] = result.attempted
        assert result.failed == 0, path.stem
    assert {"rates", "tssa", "fast", "registry", "train", "convert", "scenes", "paths"} <= {
        k for k, n in attempted.items() if n
    }


# --- bad input ----------------------------------------------------------------------------------


def test_a_data_yaml_without_its_keys_is_named(tmp_path):
    (tmp_path / "data.yaml").write_text("train: images\nnames: {0: cat}\n")
    with pytest.raises(ValueError, match="expected the keys train, val and names in data.yaml, got .*: val missing"):
        train(tmp_path / "data.yaml", quiet=True)
    (tmp_path / "data.yaml").write_text("train: images\nval:\nnames: {0: cat}\n")
    with pytest.raises(ValueError, match="val missing"):
        check_data(tmp_path / "data.yaml")
    with pytest.raises(ValueError, match="expected folder=… in place of name, project"):
        train(tmp_path / "data.yaml", project="out", name="one")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\n")
    with pytest.raises(ValueError, match="names missing"):
        check_data(tmp_path / "data.yaml")


def test_missing_files_are_named(tmp_path, tiny):
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        check_data(tmp_path / "nowhere.yaml")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: {0: cat}\n")
    with pytest.raises(FileNotFoundError, match="missing path.*images"):
        check_data(tmp_path / "data.yaml")
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="got a folder without any"):
        check_data(tmp_path / "data.yaml")
    (tmp_path / "data.yaml").write_text(f"train: gone\nval: {tiny.parent / 'images' / 'val'}\nnames: {{0: cat}}\n")
    with pytest.raises(FileNotFoundError, match="expected the train images of data.yaml, found no .*gone"):
        check_data(tmp_path / "data.yaml")
    with pytest.raises(FileNotFoundError, match="nothing.pt"):
        train(tiny, weights=tmp_path / "nothing.pt", quiet=True)


def test_images_that_cannot_be_read_are_named(tmp_path):
    data = make_scenes(SceneSpec(train=9, val=2, size=64, digits=(1, 2)), tmp_path)
    bad = data.parent / "images" / "train" / "00003.bmp"
    bad.write_bytes(b"not a picture")
    model = YOLO("yolo11n-tssa.yaml")
    with pytest.raises(ValueError, match="expected readable train images .* got 1 of 9 that aren't:\n  00003.bmp"):
        train(data, model, folder=tmp_path / "run", quiet=True, **SHORT)
    assert train(data, model, folder=tmp_path / "run", quiet=True, drop_bad=True, **SHORT).best.is_file(), (
        "the advice works"
    )
    model = YOLO("yolo11n-tssa.yaml")
    for source in (bad, bad.parent, [str(bad)]):
        with pytest.raises(ValueError, match="expected an image that can be read, got .*00003.bmp"):
            predict(model, source, imgsz=64)


def test_predict_takes_arrays_and_folders(tiny):
    model = YOLO("yolo11n-tssa.yaml")
    picture = np.asarray(Image.open(sorted((tiny.parent / "images" / "val").iterdir())[0]))
    assert len(predict(model, picture, imgsz=64)) == 1
    folder = tiny.parent / "images" / "val"
    assert len(predict(model, folder, imgsz=64)) == len(predict(model, f"{folder}/*.bmp", imgsz=64)) == TINY.val
    with pytest.raises(FileNotFoundError, match="expected a picture, found no file .*lost.png"):
        predict(model, folder / "lost.png")


def test_check_data_knows_the_names_that_ultralytics_ships(monkeypatch):
    """coco8.yaml is found without a path; what would be downloaded is not."""
    asked = []
    monkeypatch.setattr(dataset, "check_det_dataset", lambda data, **options: asked.append(data) or 1 / 0)
    for name in ("coco8.yaml", "VOC.yaml"):
        with pytest.raises(ZeroDivisionError):
            check_data(name)
    assert asked == ["coco8.yaml", "VOC.yaml"]
