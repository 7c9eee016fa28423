"""Train a TSSA-YOLO: Ultralytics' own trainer, with checked input, checkpoints that survive, and a result to keep.

Lessons 11 and 12 train with these functions. The trainer, the losses and the metrics are Ultralytics'; this
file chooses settings, refuses bad data before hours are spent, and gathers what a run made. Wherever a model is
asked for, a YOLO, a path or a name will do. Checkpoints run no code when they are opened (`yolo.register`).
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import json
import logging
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from tssa_lib import __version__, yolo
from tssa_lib import weights as weights_file
from tssa_lib.dataset import check_data, check_readable, reading_labels, refuse_bad_files
from tssa_lib.live_curve import History, LiveCurve  # noqa: F401  (both belong to `watch`)
from tssa_lib.paths import runs_dir
from tssa_lib.recipes import CELLS, FULL, RECIPES, SCENES, auto  # noqa: F401  (recipes belong to `train`)
from tssa_lib.silence import intervene, tssa_layers

from ultralytics import YOLO
from ultralytics.utils import LOGGER, SETTINGS, YAML
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

# Export formats for integer or half-precision processors alone, as Ultralytics 8.4 lists them.
NO_FLOAT32 = frozenset({"ascend", "axelera", "deepx", "edgetpu", "hailo", "imx", "qnn", "rknn", "xilinx"})

PARTS = {"B": "", "M": "mask ", "P": "pose "}  # of Ultralytics' metrics, as in metrics/mAP50(M)


@dataclass(frozen=True)
class Run:
    """What a training made and how good `best.pt` is on the validation images."""

    folder: Path  # everything that Ultralytics wrote: weights/, results.csv, args.yaml
    metrics: dict[str, float]  # precision, recall, mAP50, mAP50-95 of best.pt; also "mask mAP50", "pose mAP50", …
    per_class: dict[str, float]  # mAP50 of each class that occurs; empty after several GPUs
    seconds: float  # wall time of this call, validation included

    @property
    def best(self) -> Path:
        """The weights with the best validation result."""
        return self.folder / "weights" / "best.pt"

    @property
    def last(self) -> Path:
        """The weights of the last epoch: what `resume` needs after an interruption."""
        return self.folder / "weights" / "last.pt"

    @property
    def history(self) -> list[dict[str, float]]:
        """One row an epoch from results.csv: epoch, box, cls and dfl loss of training, and the metrics."""
        losses = lambda row: {key[6:]: value for key, value in row.items() if key.startswith("train/")}
        rows = _rows(self.folder / "results.csv")
        return [{"epoch": row["epoch"], **losses(row), **_named(row)} for row in rows]

    def __str__(self) -> str:
        m = self.metrics
        more = "".join(f", {name} {m[name]:.3f}" for name in m if name.startswith(("mask mAP", "pose mAP")))
        return (
            f"{len(self.history)} epochs in {self.seconds:.0f} s: mAP50 {m['mAP50']:.3f}, "
            f"mAP50-95 {m['mAP50-95']:.3f}, precision {m['precision']:.3f}, recall {m['recall']:.3f}{more}"
        )


# ---- training ----------------------------------------------------------------------------------------------
def train(
    data: str | Path,
    model: str | Path | YOLO = "yolo11n-tssa.yaml",
    *,
    weights: str | Path | nn.Module | None = None,
    folder: str | Path | None = None,
    watch: Callable[[History], None] | None = None,
    quiet: bool = False,
    drop_bad: bool = False,
    **settings: Any,
) -> Run:
    """Train a detector on a data YAML and say what came out.

    data: an Ultralytics data YAML (`make_scenes()`, "coco8.yaml", "VOC.yaml", one's own); model: a
    model YAML, a checkpoint or a YOLO; weights: carried over with `yolo.load` before training;
    folder: where the run is written, new or empty (default: a new one under `runs_dir()`);
    watch: called after every batch and every epoch, e.g. a `LiveCurve` (not on several GPUs, whose
    workers are processes of their own); quiet: no log lines, no bars; drop_bad: train without images
    that can't be used instead of stopping; settings: any setting of Ultralytics, e.g. `**SCENES`.

    Raises `ValueError` for a data YAML without the keys it needs, for images and labels that can't be used
    (with the reason for each), for settings out of range, and for a folder that holds a run or in which another
    training is at work; `FileNotFoundError` for a missing YAML, image folder or checkpoint.

    Whenever it is stopped, `resume(folder)` goes on: checkpoints are written whole or not at all.

    >>> from tssa_lib.scenes import SceneSpec, make_scenes
    >>> data = make_scenes(SceneSpec(train=8, val=4, size=64, digits=(1, 2)))
    >>> run = train(data, quiet=True, **{**SCENES, "imgsz": 64, "epochs": 1})
    >>> run.best.exists(), sorted(run.metrics)
    (True, ['mAP50', 'mAP50-95', 'precision', 'recall'])
    """
    _check_settings(settings)
    with _logging(quiet):
        described = check_data(data)
        model = open_model(model)
        if weights is not None:
            LOGGER.info(str(yolo.load(model, weights)))
        with _new_folder(folder) as place:
            (place / NOTE).write_text(json.dumps({"tssa_lib": __version__, "drop_bad": drop_bad}) + "\n")
            where = dict(project=str(place.parent), name=place.name, exist_ok=True)
            return _run(model, place, watch, drop_bad, data=described["yaml_file"], **where, **settings)


def resume(
    run: Run | str | Path,
    watch: Callable[[History], None] | None = None,
    quiet: bool = False,
    *,
    data: str | Path | None = None,
) -> Run:
    """Go on with an interrupted training, in the place it is given, with the settings it was started with.

    run: its folder, a checkpoint in it, or the Run; a folder that was moved or copied goes on where it is now. data:
    the data YAML, if it has moved. Optimizer, averaged weights, epoch and best result are taken up again; at most
    the interrupted epoch is done again. The data are checked as `train` checks them.

    `FileNotFoundError` when there is no checkpoint; `ValueError` when the training had come to its end, when no
    checkpoint opens, when the data have other classes, or when another training is at work there.
    """
    folder, candidates = _checkpoints(run)
    with _logging(quiet), _taken(folder):
        model, checkpoint = _open_resumable(candidates)
        described = check_data(data or model.ckpt["train_args"]["data"])
        _same_classes(model, described)
        _mend_results(folder / "results.csv", done=model.ckpt["epoch"] + 1)
        drop_bad = _note(folder).get("drop_bad", False)
        again = dict(resume=str(checkpoint), data=described["yaml_file"], save_dir=str(folder))
        return _run(model, folder, watch, drop_bad, **again)


def full_recipe(
    data: str | Path,
    size: str = "n",
    weights: str | Path | None = "here",
    model: str | Path | YOLO | None = None,
    **settings: Any,
) -> Run:
    """The customary full training in one call: 300 epochs, 640 px, batch 64, mixed precision.

    It runs on all GPUs of the machine, or on the CPU. size: n, s, m, l or x (`scale` is a setting of
    Ultralytics, for augmentation); weights: "here" carries over Ultralytics' `yolo11<size>.pt` if it lies in the
    working directory or in Ultralytics' folder of weights, and asks no network; "stock" downloads it if need be;
    a path another checkpoint; None nothing. Into a trained `model` no stock weights go. model: another model than
    `yolo11<size>-tssa.yaml`, e.g. "yolo11n-tssa-p4p5.yaml" or a plan of one's own made with `yolo.with_attention`.
    settings override `FULL` and go to `train`.
    """
    if weights in ("here", "stock"):
        weights = stock_weights(size, model, download=weights == "stock")
    gpus = torch.cuda.device_count()
    device = list(range(gpus)) if gpus else "cpu"
    return train(data, model or f"yolo11{size}-tssa.yaml", weights=weights, **{"device": device, **FULL, **settings})


def stock_weights(size: str, model: str | Path | YOLO | None = None, download: bool = False) -> str | None:
    """Ultralytics' checkpoint of this size, for a fresh model; None for a trained one, which it would replace.

    Without `download` it is None where the file lies neither in the working directory nor in Ultralytics' folder.

    >>> stock_weights("s", download=True), stock_weights("s", "best.pt", download=True)
    ('yolo11s.pt', None)
    """
    trained = model.ckpt if isinstance(model, YOLO) else Path(model or "").suffix == ".pt"
    named = re.match(r"(yolo\d+).*?(-seg|-pose|-obb)?\.ya?ml$", Path(str(model or "")).name)
    name = f"{named[1]}{size}{named[2] or ''}.pt" if named else f"yolo11{size}.pt"
    if trained:
        return None
    return str(found) if (found := _weights_here(name)) else name if download else None


def _weights_here(name: str) -> Path | None:
    places = [Path(name), Path(SETTINGS["weights_dir"]) / name]
    return next((p for p in places if p.is_file()), None)


# ---- using -------------------------------------------------------------------------------------------------
def open_model(model: str | Path | YOLO) -> YOLO:
    """A YOLO from a YOLO, a checkpoint, an exported file, a model YAML, or a name such as "yolo11n-tssa.yaml".

    `FileNotFoundError` for a file that isn't there; `ValueError` for one that is no model, or that asks for code, with
    the reason.
    """
    if isinstance(model, YOLO):
        return model
    path = Path(model).expanduser()
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            _check_model_yaml(path)
        return YOLO(str(model))
    if path.exists():
        return _opened(path)
    name = path.name
    if str(model) == name and not path.suffix:
        return weights_file.load(name)  # one that comes with the project
    if str(model) != name or name not in GITHUB_ASSETS_NAMES:
        raise FileNotFoundError(f"expected a model, found no file {path}")
    if found := _weights_here(name):
        return _opened(found)
    try:
        return YOLO(name)  # asked for by name: Ultralytics downloads it
    except Exception as error:
        raise weights_file.not_found(name, error) from error


def _check_model_yaml(path: Path) -> None:
    found = YAML.load(path)
    if not isinstance(found, dict) or not {"backbone", "head"} <= found.keys():
        keys = sorted(map(str, found))[:6] if isinstance(found, dict) else "nothing"
        is_data = " (is it the data YAML?)" if isinstance(found, dict) and "train" in found else ""
        raise ValueError(f"expected a model YAML with backbone and head, got {path.name} with {keys}{is_data}")


def _opened(path: Path) -> YOLO:
    with weights_file.opening(path):
        model = weights_file.load(path)
    if path.suffix == ".pt" and not isinstance(model.model, nn.Module):
        raise ValueError(f"expected a YOLO checkpoint, got {path}, which holds no network")
    return model


def predict(model: str | Path | YOLO, source: Any, **settings: Any) -> list:
    """Detect objects: Ultralytics' `predict`, quiet, and with an error for images that can't be read.

    source: a path, a folder, an array (H, W, 3) in BGR, or a list of them; also a pattern ("*.png"), a
    URL or whatever else Ultralytics takes. One Results an image, at the size that the model was trained at unless
    `imgsz` says otherwise, also for an exported model. `FileNotFoundError`, `ValueError`: a picture that isn't
    there, or can't be read.

    >>> import numpy as np
    >>> len(predict(YOLO("yolo11n-tssa.yaml"), np.zeros((64, 64, 3), np.uint8), imgsz=64))
    1
    """
    check_readable(source)
    model = open_model(model)
    if "imgsz" not in settings and (size := _exported_size(model)):
        settings["imgsz"] = size
    with _logging(quiet=not settings.get("verbose")), _threads(model, "on_predict_start"):
        return model.predict(source, **{"verbose": False, "save": False, **settings})


def _exported_size(model: YOLO) -> list[int] | None:
    """The picture size that an exported file or folder was made for; None for other models."""
    if isinstance(model.model, nn.Module):
        return None
    path = Path(str(model.model))
    if (path / "metadata.yaml").is_file():
        return YAML.load(path / "metadata.yaml").get("imgsz")
    if path.suffix == ".onnx":
        import onnx

        written = {p.key: p.value for p in onnx.load(str(path), load_external_data=False).metadata_props}
        return json.loads(written["imgsz"]) if "imgsz" in written else None
    if path.suffix == ".torchscript":
        about = {"config.txt": ""}
        torch.jit.load(str(path), map_location="cpu", _extra_files=about)
        return json.loads(about["config.txt"])["imgsz"] if about["config.txt"] else None
    return None


def validate(model: str | Path | YOLO, data: str | Path, **settings: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Measure a detector on the validation images of a data YAML, quietly.

    Returns the metrics (precision, recall, mAP50, mAP50-95) and the mAP50 of each class that occurs. settings: any of
    Ultralytics' `val`; `imgsz` is the size that the model was trained at unless given. Raises as `check_data` does,
    and `ValueError` for images or labels that can't be used (a score of what is left is no score) and for data
    with another number of classes than the model.
    """
    model = open_model(model)
    if "imgsz" not in settings and (size := _exported_size(model)):
        settings["imgsz"] = max(size)

    def refuse(validator: Any) -> None:
        refuse_bad_files(validator.dataloader.dataset, settings.get("split", "val"))

    with _logging(quiet=True), _threads(model, "on_val_start"), reading_labels():
        described = check_data(data)
        _same_classes(model, described)
        with tempfile.TemporaryDirectory() as nowhere, _callbacks(model, {"on_val_start": refuse}):
            place = dict(project=nowhere, name="val")  # nothing is kept, unless asked for
            quietly = {"plots": False, "verbose": False, "workers": 0}
            found = model.val(data=described["yaml_file"], **{**quietly, **place, **settings})
    return _scores(found)


def silenced(model: str | Path | YOLO, data: str | Path, **settings: Any) -> dict[str, dict[str, float]]:
    """`validate`'s metrics with TSSA as it is, and with updates switched off: of each layer alone, and of all.

    What is lost was used by the rest of the network; where nothing is lost, the layer's maps are a by-product.
    Raises as `validate` does, and `ValueError` for a model without TSSA.
    """
    model = open_model(model)
    with _logging(quiet=True):
        model.fuse()  # as validation does, so that the layers that are silenced are the layers that run
    layers = list(tssa_layers(model.model))
    if not layers:
        raise ValueError(
            f"expected a model with TSSA layers, got {Path(str(model.ckpt_path or model.model_name)).name} without"
        )
    found = {"as it is": validate(model, data, **settings)[0]}
    alone = {f"silenced {name}": [name] for name in layers if len(layers) > 1}
    for key, names in {**alone, "silenced, all": layers}.items():
        with intervene(model.model, "silenced", names):
            found[key] = validate(model, data, **settings)[0]
    return found


def export(model: str | Path | YOLO, format: str = "onnx", **settings: Any) -> Path:
    """Write a trained detector in another format, quietly, and return where.

    settings: any of Ultralytics' `export`, above all imgsz; ONNX takes other sizes, too (dynamic).
    Tried with TSSA: onnx, torchscript, openvino and ncnn (extras: `pip install -e .[openvino,ncnn]`). `ValueError` for
    a format that nobody knows, and for eight or sixteen bits, asked for as a format or as `half`, `int8` or
    `quantize`: TSSA's squares, divided by their sum over all tokens, need more. `ModuleNotFoundError` for a format
    whose package is missing.
    """
    narrow = {k: v for k in ("half", "int8", "quantize") if str(v := settings.get(k) or 32) not in ("32", "fp32")}
    if format in NO_FLOAT32 or narrow:
        asked = repr(format) if format in NO_FLOAT32 else ", ".join(f"{key}={value!r}" for key, value in narrow.items())
        raise ValueError(
            f"expected an export with float32, which TSSA's squares need, got {asked}; "
            "onnx, torchscript, openvino and ncnn are tried"
        )
    if format == "onnx" and not importlib.util.find_spec("onnx"):
        raise ModuleNotFoundError("expected the package onnx for this export, found none: pip install onnx onnxruntime")
    model = open_model(model)
    onnx = {"simplify": False, "dynamic": True} if format == "onnx" else {}  # nothing more to install
    with _logging(quiet=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about constants that it folds
        try:
            return Path(model.export(format=format, **{"verbose": False, **onnx, **settings}))
        except ModuleNotFoundError as error:
            needs = f"expected the package {error.name}, which the format {format} needs: pip install {error.name}"
            raise ModuleNotFoundError(needs, name=error.name) from error


# ---- how it is done ------------------------------------------------------------------------------------------
NOTE = "tssa.json"  # beside a run: what `resume` has to know and Ultralytics does not keep


def _run(model: YOLO, folder: Path, watch: Callable[[History], None] | None, drop_bad: bool, **settings: Any) -> Run:
    start = time.perf_counter()
    several = len(str(settings.get("device") or "").strip("[]").split(",")) > 1
    ours: dict[str, Callable[[Any], None]] = {
        "on_pretrain_routine_start": _save_whole,
        "on_pretrain_routine_end": _tell_bad_images if drop_bad else _refuse_bad_images,
        **(_watching(watch) if watch is not None and not several else {}),
    }
    events = () if several else ("on_train_start",)
    try:
        with _callbacks(model, ours), _threads(model, *events), reading_labels():
            metrics = model.train(**settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(folder)) from None
    except OSError as error:
        if error.errno in (28, 122):  # no space left, quota
            raise OSError(
                f"expected room for checkpoints in {folder}, got: {error.strerror}. {_how_to_go_on(folder)}"
            ) from error
        raise
    run = Run(Path(model.trainer.save_dir), *_scores(metrics), time.perf_counter() - start)
    if run.metrics["mAP50"] < NOTHING:
        LOGGER.warning(WHY_NOTHING)
    return run


NOTHING = 0.01  # mAP50 below which a run found nothing
WHY_NOTHING = (
    "mAP50 is about zero: nothing was learned yet. Usual reasons: too few steps (more epochs, a smaller batch; "
    "`--recipe auto` chooses them for the data, from scratch some hundred steps are the least); labels that belong to "
    "other pictures (`check` counts them); objects smaller than some eight pixels at this imgsz."
)


def _how_to_go_on(folder: Path) -> str:
    if (folder / "weights" / "last.pt").is_file():
        return f"To go on: python -m tssa_lib resume '{folder}'"
    return "It was stopped before its first checkpoint: train again, in the same folder if you like"


def _watching(watch: Callable[[History], None]) -> dict[str, Callable[[Any], None]]:
    """Callbacks that fill a History and show it to `watch`."""
    history = History(epochs=0)

    def on_batch(trainer: Any) -> None:
        history.epochs = trainer.epochs
        batches = len(trainer.train_loader)
        of_this_epoch = sum(int(at) == trainer.epoch for at, _ in history.batches[-batches:])
        done = trainer.epoch + (of_this_epoch + 1) / (batches + 1)
        history.batches.append((done, float(trainer.loss.detach()) / trainer.batch_size))
        watch(history)

    def on_epoch(trainer: Any) -> None:
        if trainer.epoch < trainer.epochs:  # the last call, after the end, is about best.pt
            history.rows.append({"epoch": trainer.epoch + 1, **_named(trainer.metrics)})
            watch(history)

    return {"on_train_batch_end": on_batch, "on_fit_epoch_end": on_epoch}


def _save_whole(trainer: Any) -> None:
    """Let this trainer write its checkpoints beside their places and move them there when they are whole.

    Ultralytics writes last.pt in place: killed in that moment, or on a full disk, a training lost it.
    """
    write = trainer.save_model

    def save_model() -> Any:
        places = {name: getattr(trainer, name) for name in ("last", "best")}
        try:
            for name, place in places.items():
                setattr(trainer, name, place.with_name(f".{place.name}.partial"))
            saved = write()
            for name, place in places.items():
                partial = getattr(trainer, name)
                if partial.exists():
                    _flushed(partial).replace(place)
            return saved
        finally:
            for name, place in places.items():
                getattr(trainer, name).unlink(missing_ok=True)
                setattr(trainer, name, place)

    trainer.save_model = save_model


def _flushed(path: Path) -> Path:
    """The file, on the disk and not on its way there, so that a crash of the machine finds it whole."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    return path


def _tell_bad_images(trainer: Any) -> None:
    _refuse_bad_images(trainer, drop=True)


def _refuse_bad_images(trainer: Any, drop: bool = False) -> None:
    if trainer.args.fraction == 1.0:
        mend = ", or leave them out (drop_bad=True; in a shell --drop-bad)"
        for split, loader in (("train", trainer.train_loader), ("val", trainer.test_loader)):
            refuse_bad_files(loader.dataset, split, mend, drop)


@contextlib.contextmanager
def _threads(model: YOLO, *events: str) -> Iterator[None]:
    """The caller's number of threads from these events on, and afterwards.

    On the CPU, Ultralytics takes one thread less than there are cores: half of a machine with two.
    """
    threads = torch.get_num_threads()

    def keep(_: Any) -> None:
        torch.set_num_threads(threads)

    try:
        with _callbacks(model, dict.fromkeys(events, keep)):
            yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _callbacks(model: YOLO, ours: dict[str, Callable[[Any], None]]) -> Iterator[None]:
    """These callbacks by event, and no trace of them afterwards."""
    for event, f in ours.items():
        model.add_callback(event, f)
    try:
        yield
    finally:
        for event, f in ours.items():
            model.callbacks[event] = [g for g in model.callbacks[event] if g is not f]


def _scores(found: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics by our names, and mAP50 by class; after several GPUs there is a dict without classes."""
    totals = found if isinstance(found, dict) else found.results_dict
    box = getattr(found, "box", None)
    per_class = {} if box is None else {found.names[int(c)]: float(a) for c, a in zip(box.ap_class_index, box.ap50)}
    return _named(totals), per_class


def _named(totals: dict[str, Any]) -> dict[str, float]:
    """Ultralytics' metrics by our names: boxes' alone, masks' and poses' with that word in front."""
    found = {key: re.fullmatch(r"metrics/(.+)\((.)\)", key) for key in totals}
    return {PARTS[name[2]] + name[1]: float(totals[key]) for key, name in found.items() if name}


def _same_classes(model: YOLO, described: dict[str, Any]) -> None:
    ours, theirs = model.names, described["names"]
    if len(ours) != len(theirs):
        raise ValueError(
            f"expected data with the {len(ours)} classes of the model ({_some(ours)}), "
            f"got {len(theirs)} ({_some(theirs)})"
        )


def _some(names: dict[int, str]) -> str:
    return ", ".join(map(str, list(names.values())[:4])) + (", …" if len(names) > 4 else "")


def _check_settings(settings: dict[str, Any]) -> None:
    """`ValueError` for settings that belong elsewhere or that Ultralytics would quietly turn into others."""
    if taken := settings.keys() & {"project", "name", "exist_ok", "save_dir"}:
        raise ValueError(f"expected folder=… in place of {', '.join(sorted(taken))}")
    if settings.get("resume"):
        raise ValueError("expected resume(folder) in place of train(…, resume=…)")
    size = settings.get("imgsz", 640)
    if any(side < 32 for side in (size if isinstance(size, (list, tuple)) else [size])):
        raise ValueError(f"expected imgsz of 32 pixels or more, got {size}")
    batch = settings.get("batch", 16)
    if not (batch == -1 or 0 < batch < 1 or (batch >= 1 and batch == int(batch))):
        raise ValueError(f"expected batch >= 1, a share of the GPU's memory below 1, or -1 for automatic, got {batch}")
    for name, least in (("workers", 0), ("epochs", 1)):
        if settings.get(name, least) < least:
            raise ValueError(f"expected {name} >= {least}, got {settings[name]}")


# ---- folders and what stands in them -----------------------------------------------------------------------
@contextlib.contextmanager
def _new_folder(folder: str | Path | None) -> Iterator[Path]:
    """An absolute path that holds no run yet, made and taken: nobody else trains in it meanwhile."""
    if folder is None:
        folder = _next_folder()
    elif not str(folder).strip():
        raise ValueError("expected a folder for this run, got an empty name")
    folder = Path(folder).expanduser().resolve()
    with _taken(folder):
        if (folder / "weights").is_dir() and any((folder / "weights").iterdir()):
            raise ValueError(
                f"expected a new folder for this run, got one with weights in it: {folder}; resume it, or name another"
            )
        yield folder


def _next_folder() -> Path:
    """`runs_dir()/train1`, train2, …: the next one, made here, so that two at once get two."""
    runs = runs_dir()
    runs.mkdir(parents=True, exist_ok=True)
    taken = [int(p.name[5:]) for p in runs.glob("train*") if p.name[5:].isdecimal()]
    number = max(taken, default=0) + 1
    while True:
        try:
            (runs / f"train{number}").mkdir()
            return runs / f"train{number}"
        except FileExistsError:
            number += 1


@contextlib.contextmanager
def _taken(folder: Path) -> Iterator[None]:
    """Hold a folder for one training, as long as this process lives; `ValueError` where another holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".training", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"expected a folder in which nobody trains, got {folder}, where a training is at work"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _checkpoints(run: Run | str | Path) -> tuple[Path, list[Path]]:
    """A run's folder and the checkpoints to go on from, the one to try first in front."""
    place = (run.folder if isinstance(run, Run) else Path(run).expanduser()).resolve()
    folder = place.parent.parent if place.suffix == ".pt" else place
    named = [place] if place.suffix == ".pt" else []
    wanted = [*named, folder / "weights" / "last.pt", folder / "weights" / "best.pt"]
    found = [path for path in dict.fromkeys(wanted) if path.is_file()]
    if not found or (named and place not in found):
        raise FileNotFoundError(
            f"expected the checkpoint of an interrupted training, found no {wanted[0]}"
            + ("; it was stopped before its first checkpoint: train again" if (folder / NOTE).is_file() else "")
        )
    return folder, found


def _open_resumable(candidates: list[Path]) -> tuple[YOLO, Path]:
    """The first checkpoint that opens and holds a training to go on with."""
    broken = []
    for path in candidates:
        try:
            model = _opened(path)
        except ValueError as error:
            broken.append(str(error))
            continue
        if (model.ckpt or {}).get("epoch", -1) >= 0:
            if broken:
                LOGGER.warning(f"going on from {path.name}: {'; '.join(broken)}")
            return model, path
        if not broken:
            raise ValueError(f"expected an interrupted training to resume, got a finished one: {path}")
    raise ValueError("; ".join(broken) or f"expected an interrupted training to resume, got a finished one: {path}")


def _note(folder: Path) -> dict[str, Any]:
    path = folder / NOTE
    return json.loads(path.read_text()) if path.is_file() else {}


def _rows(path: Path) -> list[dict[str, float]]:
    """The whole rows of a results.csv, the last one of each epoch."""
    if not path.is_file():
        return []
    rows = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            try:
                numbers = {key.strip(): float(value) for key, value in row.items()}
            except (AttributeError, TypeError, ValueError):  # a row that was cut short, or two in one
                continue
            rows[numbers["epoch"]] = numbers
    return list(rows.values())


def _mend_results(path: Path, done: int) -> None:
    """Drop what an interruption left in results.csv: a row cut short, and rows of epochs that are done again."""
    if not path.is_file():
        return
    header = path.read_text().splitlines()[:1]
    kept = [row for row in _rows(path) if row["epoch"] <= done]
    lines = [",".join(f"{value:.6g}" for value in row.values()) for row in kept]
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("\n".join([*header, *lines]) + "\n")
    partial.replace(path)


@contextlib.contextmanager
def _logging(quiet: bool) -> Iterator[None]:
    """Ultralytics' log lines and bars off, when quiet."""
    if not quiet:
        yield
        return
    level = LOGGER.level
    LOGGER.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some bars heed no log level
            yield
    finally:
        LOGGER.setLevel(level)
