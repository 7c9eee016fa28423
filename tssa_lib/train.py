"""Train a TSSA-YOLO: Ultralytics' own trainer, with checked input, a live curve and a result to keep.

Lesson 11 trains with these functions. The trainer, the losses and the metrics are Ultralytics'; this
file chooses settings, notices bad data before hours are spent, and gathers what a run made.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.data.utils import IMG_FORMATS, check_det_dataset
from ultralytics.utils import LOGGER, YAML
from ultralytics.utils.patches import imread

from tssa_lib import yolo
from tssa_lib.paths import data_dir

# Digit scenes from scratch on a CPU, in minutes. Digits must not be mirrored, and scenes are small,
# so mosaic and flips are off; `optimizer="auto"` would take a learning rate six times too low here.
SCENES = dict(
    imgsz=128,
    epochs=15,
    batch=8,
    nbs=8,
    optimizer="AdamW",
    lr0=0.004,
    lrf=0.05,
    momentum=0.9,
    warmup_epochs=1,
    mosaic=0.0,
    fliplr=0.0,
    scale=0.2,
    translate=0.05,
    hsv_s=0.3,
    hsv_v=0.2,
    cache="ram",
    workers=0,
    plots=False,
    amp=False,
)

# Blood cells from scratch on a CPU, in minutes. Cells have no upright, so pictures are mirrored both ways. Ultralytics
# begins with a rate of 0.1 for biases, made for SGD: AdamW would throw them off in its first epoch. Small batches, as
# it takes hundreds of steps until the small platelets are found.
CELLS = {
    **SCENES,
    **dict(imgsz=224, epochs=12, batch=4, nbs=4, lr0=0.003, fliplr=0.5, flipud=0.5, warmup_bias_lr=0.0),
}

# The customary recipe for a real data set on GPUs; everything else is Ultralytics' default.
FULL = dict(imgsz=640, epochs=300, batch=64, optimizer="SGD", lr0=0.01, momentum=0.937, amp=True)

# Export formats for integer or half-precision processors alone, as Ultralytics 8.4 lists them.
NO_FLOAT32 = frozenset({"ascend", "axelera", "deepx", "edgetpu", "hailo", "imx", "qnn", "rknn", "xilinx"})

METRICS = {
    "metrics/precision(B)": "precision",
    "metrics/recall(B)": "recall",
    "metrics/mAP50(B)": "mAP50",
    "metrics/mAP50-95(B)": "mAP50-95",
}


@dataclass(frozen=True)
class Run:
    """What a training made and how good `best.pt` is on the validation images."""

    folder: Path  # everything that Ultralytics wrote: weights/, results.csv, args.yaml
    metrics: dict[str, float]  # precision, recall, mAP50, mAP50-95 of best.pt
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
        with open(self.folder / "results.csv", newline="") as file:
            rows = [{k.strip(): float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        return [
            {
                "epoch": row["epoch"],
                **{k[6:]: v for k, v in row.items() if k.startswith("train/")},
                **{name: row[k] for k, name in METRICS.items()},
            }
            for row in rows
        ]

    def __str__(self) -> str:
        m = self.metrics
        return (
            f"{len(self.history)} epochs in {self.seconds:.0f} s: mAP50 {m['mAP50']:.3f}, "
            f"mAP50-95 {m['mAP50-95']:.3f}, precision {m['precision']:.3f}, recall {m['recall']:.3f}"
        )


@dataclass
class History:
    """What a `watch` function sees while a training runs."""

    epochs: int  # that will be done
    batches: list[tuple[float, float]] = field(default_factory=list)  # (epochs done, summed loss of the batch)
    rows: list[dict[str, float]] = field(default_factory=list)  # one an epoch: epoch and the metrics


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
    folder: where the run is written, new or empty (default: a new one under `data_dir()/runs`);
    watch: called after every batch and every epoch, e.g. a `LiveCurve` (not on several GPUs, whose
    workers are processes of their own); quiet: no log lines, no bars; drop_bad: train without images
    that can't be read instead of stopping; settings: any setting of Ultralytics, e.g. `**SCENES`.

    Raises `ValueError` for a data YAML without the keys it needs, for unreadable images, and for a
    folder that holds a run; `FileNotFoundError` for a missing YAML, image folder or checkpoint.

    >>> from tssa_lib.scenes import SceneSpec, make_scenes
    >>> data = make_scenes(SceneSpec(train=8, val=4, size=64, digits=(1, 2)))
    >>> run = train(data, quiet=True, **{**SCENES, "imgsz": 64, "epochs": 1})
    >>> run.best.exists(), sorted(run.metrics)
    (True, ['mAP50', 'mAP50-95', 'precision', 'recall'])
    """
    if taken := settings.keys() & {"project", "name", "exist_ok"}:
        raise ValueError(f"expected folder=… in place of {', '.join(sorted(taken))}")
    folder = _new_folder(folder)
    with _logging(quiet):
        described = check_data(data)
        model = model if isinstance(model, YOLO) else YOLO(str(model))
        if weights is not None:
            LOGGER.info(str(yolo.load(model, weights)))
        place = dict(project=str(folder.parent), name=folder.name, exist_ok=True)
        with _callbacks(model, {} if drop_bad else {"on_pretrain_routine_end": _refuse_bad_images}):
            return _run(model, watch, data=described["yaml_file"], **place, **settings)


def resume(run: Run | str | Path, watch: Callable[[History], None] | None = None, quiet: bool = False) -> Run:
    """Go on with an interrupted training from its `last.pt`, with the settings it was started with.

    run: its folder, its last.pt, or the Run. Optimizer, averaged weights, epoch and best result are
    taken up again; at most the interrupted epoch is done again. `FileNotFoundError` when there is
    no last.pt, `ValueError` when the training had come to its end.
    """
    last = run.last if isinstance(run, Run) else Path(run)
    last = (last if last.suffix == ".pt" else last / "weights" / "last.pt").resolve()
    if not last.is_file():
        raise FileNotFoundError(f"expected the checkpoint of an interrupted training, found no {last}")
    with _logging(quiet):
        model = YOLO(str(last))
        if (model.ckpt or {}).get("epoch", -1) < 0:
            raise ValueError(f"expected an interrupted training to resume, got a finished one: {last}")
        return _run(model, watch, resume=str(last))


def full_recipe(
    data: str | Path,
    size: str = "n",
    weights: str | Path | None = "stock",
    model: str | Path | YOLO | None = None,
    **settings: Any,
) -> Run:
    """The customary full training in one call: 300 epochs, 640 px, batch 64, mixed precision.

    It runs on all GPUs of the machine, or on the CPU. size: n, s, m, l or x (`scale` is a setting of
    Ultralytics, for augmentation); weights: "stock" carries over Ultralytics'
    `yolo11<size>.pt` (downloaded when it isn't there; not into a trained `model`), a path another
    checkpoint, None nothing; model: another model than `yolo11<size>-tssa.yaml`, e.g. "yolo11n-tssa-p4p5.yaml" or a plan of
    one's own made with `yolo.with_attention`. settings override `FULL` and go to `train`.
    """
    if weights == "stock":
        weights = stock_weights(size, model)
    gpus = torch.cuda.device_count()
    device = list(range(gpus)) if gpus else "cpu"
    return train(data, model or f"yolo11{size}-tssa.yaml", weights=weights, **{"device": device, **FULL, **settings})


def stock_weights(size: str, model: str | Path | YOLO | None = None) -> str | None:
    """Ultralytics' checkpoint of this size, for a fresh model; None for a trained one, which it would replace.

    >>> stock_weights("s"), stock_weights("s", "best.pt")
    ('yolo11s.pt', None)
    """
    trained = model.ckpt if isinstance(model, YOLO) else Path(model or "").suffix == ".pt"
    return None if trained else f"yolo11{size}.pt"


def check_data(data: str | Path) -> dict[str, Any]:
    """Read a data YAML, download the data set if the YAML says how, and check that images are there.

    Returns Ultralytics' description of it. `FileNotFoundError` for a missing YAML or image folder,
    `ValueError` for missing keys or a folder without images.
    """
    path = Path(data)
    if path.is_file():
        found = YAML.load(path)
        missing = [k for k in ("train", "val") if not found.get(k)]
        missing += [] if "names" in found or "nc" in found else ["names"]
        if missing:
            raise ValueError(
                f"expected the keys train, val and names in {path.name}, got {sorted(found)}: "
                f"{', '.join(missing)} missing"
            )
    elif path.parent != Path("."):  # a bare name may be one of Ultralytics' own, e.g. coco8.yaml
        raise FileNotFoundError(f"expected a data YAML, found no file {path}")
    described = check_det_dataset(path.resolve() if path.is_file() else data)
    for split in ("train", "val"):
        for place in described[split] if isinstance(described[split], list) else [described[split]]:
            place = Path(place)
            if not place.exists():
                raise FileNotFoundError(f"expected the {split} images of {path.name}, found no {place}")
            if place.is_dir() and not any(p.suffix[1:].lower() in IMG_FORMATS for p in place.rglob("*")):
                raise ValueError(f"expected {split} images of {path.name} in {place}, got a folder without any")
    return described


def predict(model: YOLO, source: Any, **settings: Any) -> list:
    """Detect objects: Ultralytics' `predict`, quiet, and with an error for images that can't be read.

    source: a path, a folder, an array (H, W, 3) in BGR, or a list of them; also a pattern ("*.png"), a
    URL or whatever else Ultralytics takes. One Results an image. `FileNotFoundError`, `ValueError`: a
    picture that isn't there, or can't be read.

    >>> import numpy as np
    >>> len(predict(YOLO("yolo11n-tssa.yaml"), np.zeros((64, 64, 3), np.uint8), imgsz=64))
    1
    """
    for path in source if isinstance(source, (list, tuple)) else [source]:
        if not isinstance(path, (str, Path)) or "://" in str(path) or "*" in str(path):
            continue
        for file in sorted(Path(path).iterdir()) if Path(path).is_dir() else [Path(path)]:
            if file.suffix[1:].lower() in IMG_FORMATS and not file.exists():
                raise FileNotFoundError(f"expected a picture, found no file {file}")
            if file.suffix[1:].lower() in IMG_FORMATS and not _readable(file):
                raise ValueError(f"expected an image that can be read, got {file}")
    with _logging(quiet=not settings.get("verbose")), _threads(model, "on_predict_start"):
        return model.predict(source, **{"verbose": False, "save": False, **settings})


def validate(model: YOLO, data: str | Path, **settings: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Measure a detector on the validation images of a data YAML, quietly.

    Returns the metrics (precision, recall, mAP50, mAP50-95) and the mAP50 of each class that occurs.
    settings: any of Ultralytics' `val`, above all imgsz. Raises as `check_data` does.
    """
    place = dict(project=str(data_dir() / "runs"), name="val", exist_ok=True)
    with _logging(quiet=True), _threads(model, "on_val_start"):
        described = check_data(data)
        found = model.val(
            data=described["yaml_file"], **{"plots": False, "verbose": False, "workers": 0, **place, **settings}
        )
    return _scores(found)


def export(model: YOLO, format: str = "onnx", **settings: Any) -> Path:
    """Write a trained detector in another format, quietly, and return where.

    settings: any of Ultralytics' `export`, above all imgsz; ONNX takes other sizes, too (dynamic).
    Tried with TSSA: onnx, torchscript, openvino (an extra: `pip install -e .[openvino]`). `ValueError` for a format that nobody knows, and for those
    without float32: TSSA's squares, divided by their sum over all tokens, need more than eight or sixteen bits.
    """
    if format in NO_FLOAT32:
        raise ValueError(
            f"expected an export format with float32, which TSSA's squares need, got {format!r}; "
            "onnx, torchscript and openvino are tried"
        )
    onnx = {"simplify": False, "dynamic": True} if format == "onnx" else {}  # nothing more to install
    with _logging(quiet=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about constants that it folds
        return Path(model.export(format=format, **{"verbose": False, **onnx, **settings}))


class LiveCurve:
    """Losses and mAP of a training, redrawn in one notebook output while it runs: a `watch` for `train`.

    The last picture stays in the stored notebook. title: of the figure; goal: a mAP50 to mark;
    every: seconds between two drawings.
    """

    def __init__(self, title: str, goal: float | None = None, every: float = 5.0):
        self.title, self.goal, self.every = title, goal, every
        self._handle, self._drawn = None, 0.0

    def __call__(self, history: History) -> None:
        from IPython.display import Image, display

        finished = len(history.rows) >= history.epochs
        if not history.batches or (not finished and time.monotonic() - self._drawn < self.every):
            return
        picture = Image(self._draw(history), format="png", alt=self.describe(history))
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)
        self._drawn = time.monotonic()

    def _draw(self, history: History) -> bytes:
        import matplotlib.pyplot as plt

        from tssa_lib import plots

        left, right = plots.row(2)
        at, loss = zip(*history.batches)
        width = max(len(loss) // 40, 1)  # a running mean, else the batches' noise hides the course
        mean = [sum(loss[max(i - width, 0) : i + 1]) / len(loss[max(i - width, 0) : i + 1]) for i in range(len(loss))]
        plots.lines(at, {"loss": mean}, title=self.title, xlabel="epochs", ylabel="training loss", ax=left)
        epochs = [row["epoch"] for row in history.rows]
        curves = {name: [row[name] for row in history.rows] for name in ("mAP50", "mAP50-95")}
        goal = {} if self.goal is None else {f"goal {self.goal:g}": self.goal}
        figure = plots.lines(
            epochs,
            curves,
            title="on the validation scenes",
            xlabel="epochs",
            ylabel="mAP",
            hlines=goal,
            markers=True,
            ax=right,
        )
        left.set_xlim(0, history.epochs)
        right.set(xlim=(0, history.epochs), ylim=(0, 1))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
        plt.close(figure)
        return buffer.getvalue()

    def describe(self, history: History) -> str:
        """The alt text: where the loss and the mAP50 went."""
        first, last = history.batches[0][1], history.batches[-1][1]
        scores = ", ".join(f"{row['mAP50']:.2f}" for row in history.rows) or "not measured yet"
        return f"{self.title}: training loss from {first:.1f} to {last:.1f}; mAP50 by epoch {scores}"


# --- how it is done -----------------------------------------------------------------------------


def _run(model: YOLO, watch: Callable[[History], None] | None, **settings: Any) -> Run:
    start = time.perf_counter()
    history = History(epochs=0)

    def on_batch(trainer) -> None:
        history.epochs = trainer.epochs
        batches = len(trainer.train_loader)
        done = trainer.epoch + (sum(int(at) == trainer.epoch for at, _ in history.batches[-batches:]) + 1) / (
            batches + 1
        )
        history.batches.append((done, float(trainer.loss.detach()) / trainer.batch_size))
        watch(history)

    def on_epoch(trainer) -> None:
        if trainer.epoch < trainer.epochs:  # the last call, after the end, is about best.pt
            scores = {name: float(trainer.metrics[key]) for key, name in METRICS.items()}
            history.rows.append({"epoch": trainer.epoch + 1, **scores})
            watch(history)

    several = len(str(settings.get("device") or "").strip("[]").split(",")) > 1
    watching = (
        {"on_train_batch_end": on_batch, "on_fit_epoch_end": on_epoch} if watch is not None and not several else {}
    )
    with _callbacks(model, watching), _threads(model, *(() if several else ("on_train_start",))):
        metrics = model.train(**settings)
    return Run(Path(model.trainer.save_dir), *_scores(metrics), time.perf_counter() - start)


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
    return {name: float(totals[key]) for key, name in METRICS.items()}, per_class


def _new_folder(folder: str | Path | None) -> Path:
    """An absolute path that holds no run yet."""
    if folder is None:
        runs = data_dir() / "runs"
        taken = [int(p.name[5:]) for p in runs.glob("train*") if p.name[5:].isdecimal()]
        return runs / f"train{max(taken, default=0) + 1}"
    folder = Path(folder).expanduser().resolve()
    if (folder / "weights").is_dir() and any((folder / "weights").iterdir()):
        raise ValueError(
            f"expected a new folder for this run, got one with weights in it: {folder}; resume it, or name another"
        )
    return folder


def _refuse_bad_images(trainer) -> None:
    """Ultralytics drops images that it can't use, with a warning among many lines; stop instead."""
    for split, loader in (("train", trainer.train_loader), ("val", trainer.test_loader)):
        dataset = loader.dataset
        bad = sorted(set(dataset.get_img_files(dataset.img_path)) - set(dataset.im_files))
        if bad and trainer.args.fraction == 1.0:
            raise ValueError(
                f"expected readable {split} images with valid labels, got {len(bad)} that aren't: "
                f"{', '.join(Path(p).name for p in bad[:5])}{', …' if len(bad) > 5 else ''}; "
                "mend or remove them, or leave them out (drop_bad=True; in a shell --drop-bad)"
            )


def _readable(file: Path) -> bool:
    try:
        return imread(str(file)) is not None  # as the trainer and the predictor read
    except Exception:
        return False


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
