"""Weights: a trained detector as a small file of numbers, and what of another model's weights has a place in ours.

An Ultralytics checkpoint is a pickle of classes: opened in the plain way it imports and runs what the file names. Here
it is opened in restricted mode (`yolo.register`), which runs nothing and refuses what it does not know. What `keep`
writes holds a model's plan, its class names, its picture size and its tensors, and nothing else; `load` builds the
network from this package's own classes. `carry_over` (lesson 10; also `yolo.load`) takes a stock YOLO11's weights into
one of our models.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from tssa_lib import paths
from tssa_lib.blocks import C2TSSA
from tssa_lib.registry import BLOCKS, carry

from ultralytics import YOLO
from ultralytics.cfg import DEFAULT_CFG_DICT
from ultralytics.nn import tasks
from ultralytics.nn.modules import C2PSA
from ultralytics.utils import LOGGER
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

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
    Ultralytics, a model YAML, an exported model. No code in a checkpoint runs. `FileNotFoundError` for one that isn't
    there, `ValueError` for one that asks for code, and for weights that don't fit their plan.
    """
    file = Path(file)
    if file.suffix != ".pt":
        known = (paths.checkout() or Path()) / "data" / "detectors" / f"{file}.pt"
        return ready(str(file)) if not file.suffix and known.is_file() else YOLO(str(file))
    if not file.is_file():
        raise FileNotFoundError(f"expected a detector, found no file {file}")
    with opening(file):
        kept = _numbers(file)
        return _build(kept, file.resolve()) if kept else YOLO(str(file))


@contextlib.contextmanager
def opening(file: Path) -> Iterator[None]:
    """What goes wrong with a file that is opened, as a `ValueError`: it asks for code, or it is no checkpoint."""
    try:
        yield
    except Exception as error:  # whatever reading a file that is no checkpoint raises
        if str(error).startswith("expected") or isinstance(error, ConnectionError):
            raise
        if asked := re.search(r"GLOBAL (\S+)|unsupported activation '(.*)' blocked", f"{error} {error.__cause__}"):
            raise ValueError(
                f"expected a checkpoint of networks and numbers alone, got {file}, which asks for "
                f"{asked[1] or asked[2]}: code. If you trust it, set ULTRALYTICS_SAFE_LOAD=False in the environment"
            ) from error
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"
        if file.suffix == ".pt" and not zipfile.is_zipfile(file):
            reason = "not a file of torch.save, or not a whole one"
        raise ValueError(f"expected a YOLO checkpoint, got {file}: {reason}") from error


def _numbers(file: Path) -> dict[str, Any] | None:
    """What `keep` wrote, read without running code; None for another file."""
    try:
        kept = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # classes in it: not ours
        return None
    return kept if isinstance(kept, dict) and all(key in kept for key in KEYS) else None


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
    network.args = {**DEFAULT_CFG_DICT, **given}
    model.model = network.eval()
    model.overrides = given
    model.ckpt = {"model": network}  # so that `train` goes on from these weights
    model.ckpt_path = model.model_name = str(file)
    return model


# ---- weights carried over ---------------------------------------------------------------------------
class Carried(NamedTuple):
    """What `load` found a place for: counts of the checkpoint's tensors (whole or in part) and parameters.

    `fresh` names the parameters of our model that kept their initial values.
    """

    tensors: int
    tensors_of: int
    parameters: int
    parameters_of: int
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.tensors} of {self.tensors_of} tensors and {self.parameters:,} of {self.parameters_of:,} "
            f"parameters of the checkpoint found a place; {len(self.fresh)} of the model's stay fresh"
        )


def carry_over(model: YOLO, weights: str | Path | YOLO | nn.Module) -> Carried:
    """Carry over every weight that has a place in `model`, and say how many found one.

    From a stock YOLO11, `C2PSA` gives its value rows to our single projection, and its output map,
    positional convolution, feed-forward part and outer convolutions to their namesakes; queries and
    keys have no place. `train` then goes on from these weights (it rebuilds the model, and would
    drop weights set by hand). A detector so made is a starting point, not a finished one: the
    attention's output is another function, so train it.

    weights: a checkpoint's path (no code in it runs), a YOLO or its network. `ValueError` for a checkpoint of another
    architecture or scale (less than half of its parameters would fit), for one that asks for code or holds no model,
    and for a file that isn't `.pt`; `FileNotFoundError` where there is none.

    >>> stock, ours = YOLO("yolo11n.yaml"), YOLO("yolo11n-tssa.yaml")
    >>> carry_over(ours, stock.model).fresh
    ('model.10.m.0.attn.temp',)
    """
    weights = weights.model if isinstance(weights, YOLO) else weights
    if not isinstance(weights, nn.Module) and Path(weights).suffix != ".pt":
        raise ValueError(f"expected a checkpoint (.pt) or a model, got {weights}")
    source = weights if isinstance(weights, nn.Module) else _opened(Path(weights))
    target = model.model
    if not isinstance(target, tasks.BaseModel) or not isinstance(source, tasks.BaseModel):
        raise ValueError(f"expected two Ultralytics models, got {type(target).__name__} and {type(source).__name__}")
    fitted = copy.deepcopy(source).float()
    fitted.model = _aligned(target.model, fitted.model)
    for i, (ours, theirs) in enumerate(zip(target.model, fitted.model)):
        if isinstance(ours, tuple(BLOCKS.values())) and type(theirs) is C2PSA:
            block: Any = copy.deepcopy(ours)
            if carry(block, theirs):
                for inner in block.m if isinstance(ours, C2TSSA) else ():
                    del inner.attn.temp  # it has no counterpart: not counted, stays as it is in ours
                    if inner.attn.tied:
                        inner.attn.proj = nn.Identity()
                fitted.model[i] = block

    own = target.state_dict()
    fits = {k: v for k, v in fitted.state_dict().items() if k in own and v.shape == own[k].shape}
    learned = {k for k, _ in target.named_parameters()}
    total = sum(p.numel() for p in source.parameters())
    found = Carried(
        len(fits),
        len(source.state_dict()),
        sum(v.numel() for k, v in fits.items() if k in learned),
        total,
        tuple(sorted(learned - fits.keys())),
    )
    if found.parameters < total / 2:
        raise ValueError(
            f"expected a checkpoint of this architecture, of scale {target.yaml.get('scale')!r}, "
            f"got {_name(source, weights)}: only {found.parameters:,} of its {total:,} parameters have a place"
        )
    if found.parameters < 0.9 * total:
        LOGGER.warning(f"{_name(source, weights)} is another architecture: {found}")
    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)  # it would count, too, but against the swapped copy
    try:
        model.load(fitted)
    finally:
        LOGGER.setLevel(level)
    return found


def _aligned(ours: nn.Sequential, theirs: nn.Sequential) -> nn.Sequential:
    """Their layers at our numbers: attention that only one of the two has would shift all that follow."""
    left, layers = list(theirs), []
    for layer in ours:
        while left and isinstance(left[0], C2PSA) and not isinstance(layer, C2PSA):
            left.pop(0)
        alone = not left or (isinstance(layer, C2PSA) and not isinstance(left[0], C2PSA))
        layers.append(nn.Identity() if alone else left.pop(0))
    return nn.Sequential(*layers)


def _name(source: Any, weights: str | Path | nn.Module) -> str:
    named = Path(source.yaml["yaml_file"]).stem if source.yaml.get("yaml_file") else type(source).__name__
    return named if isinstance(weights, nn.Module) else f"{named} from {Path(weights).name}"


def _opened(file: Path) -> nn.Module:
    """The network in a checkpoint, which is looked for, too, by Ultralytics."""
    if not file.is_file() and str(file) not in GITHUB_ASSETS_NAMES:
        raise FileNotFoundError(f"expected a checkpoint, found no file {file}")
    try:
        with opening(file):
            kept = _numbers(file) if file.is_file() else None
            return _build(kept, file).model if kept else tasks.load_checkpoint(file)[0]
    except ConnectionError as error:
        raise not_found(file.name, error) from error


def not_found(name: str, error: Exception) -> FileNotFoundError:
    """The error for stock weights that are neither here nor to be had, and the way out."""
    return FileNotFoundError(
        f"expected {name} here or on the network, got neither ({type(error).__name__}); "
        "put the file into this folder, or do without stock weights (weights=None; in a shell --weights none)"
    )
