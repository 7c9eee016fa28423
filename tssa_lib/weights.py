"""A trained detector as a small file of numbers: kept in half precision, opened without running anybody's code.

An Ultralytics checkpoint is a pickle of classes: opening it imports and runs what the file names. What `keep` writes
holds a model's plan, its class names, its picture size and its tensors, and nothing else; `load` opens it with
`torch.load(weights_only=True)` and builds the network from this package's own classes.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from tssa_lib import paths
from tssa_lib.yolo import YOLO, engine, tasks

KEYS = ("plan", "names", "imgsz", "state_dict")  # of the dictionary that `keep` writes


def keep(model: YOLO, file: str | Path, imgsz: int) -> Path:
    """Write a detector as numbers alone, at half precision, and return where.

    imgsz: pixels, what it was trained at and what it will predict at by default. Matrices and convolutions are rounded
    to float16 (about three digits); batch norm's statistics, biases and temperatures stay float32. `TypeError` for a
    model that isn't a detector.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "small.pt")
    >>> load(keep(YOLO("yolo11n-tssa.yaml"), file, imgsz=160)).overrides["imgsz"]
    160
    """
    network = model.model
    if not isinstance(network, tasks.DetectionModel):
        raise TypeError(f"expected a YOLO detector, got {type(network).__name__}")
    plan = {k: v for k, v in network.yaml.items() if k != "yaml_file"}
    state = {k: v.half() if v.is_floating_point() and v.ndim > 1 else v for k, v in network.state_dict().items()}
    kept = {
        "plan": plan,
        "names": [network.names[i] for i in sorted(network.names)],
        "imgsz": int(imgsz),
        "state_dict": {k: v.detach().cpu().contiguous() for k, v in state.items()},
    }
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(kept, file)
    return file


def ready(name: str = "blood_cells") -> YOLO:
    """A detector that comes trained with the project's checkout: `data/detectors/<name>.pt`.

    "blood_cells": YOLO11n with TSSA at P3, P4 and P5, of red cells, white cells and platelets. `FileNotFoundError` for
    another name, and for a package that is installed without the checkout's data.
    """
    file = paths.shipped(f"detectors/{name}.pt")
    return load(file)


def load(file: str | Path) -> YOLO:
    """Open a detector, ready to predict, measure, train on, export and look into.

    file: what `keep` wrote, the name of a detector that is `ready`, or anything that `YOLO` takes: a checkpoint of
    Ultralytics, a model YAML, an exported model. (A checkpoint runs code when it is opened: take it from people you
    trust.) `FileNotFoundError` for a checkpoint that isn't there, `ValueError` for weights that don't fit their plan.
    """
    file = Path(file)
    if file.suffix != ".pt":
        known = (paths.checkout() or Path()) / "data" / "detectors" / f"{file}.pt"
        return ready(str(file)) if not file.suffix and known.is_file() else YOLO(str(file))
    if not file.is_file():
        raise FileNotFoundError(f"expected a detector, found no file {file}")
    try:
        kept = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # classes in it: not ours
        return YOLO(str(file))
    if not isinstance(kept, dict) or not all(key in kept for key in KEYS):
        return YOLO(str(file))
    return _build(kept, file.resolve())


def _build(kept: dict[str, Any], file: Path) -> YOLO:
    """A YOLO as if it had been opened from a checkpoint."""
    plan, names = kept["plan"], dict(enumerate(kept["names"]))
    network = tasks.DetectionModel(plan, nc=len(names), verbose=False)
    state = {k: v.float() if v.is_floating_point() else v for k, v in kept["state_dict"].items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"expected weights that fit the plan in {file.name}: {error}") from None
    model = YOLO(f"yolo11{plan.get('scale') or 'n'}-tssa.yaml")  # for its settings; the network is replaced
    given = {"model": str(file), "task": "detect", "imgsz": kept["imgsz"]}
    network.names, network.task, network.pt_path = names, "detect", str(file)  # exports are written beside the file
    network.args = {**engine.DEFAULT_CFG_DICT, **given}
    model.model = network.eval()
    model.overrides = given
    model.ckpt = {"model": network}  # so that `train` goes on from these weights
    model.ckpt_path = model.model_name = str(file)
    return model
