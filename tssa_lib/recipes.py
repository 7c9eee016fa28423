"""Recipes: settings for Ultralytics' trainer, as dictionaries, and `auto`, which chooses them by looking.

All of Ultralytics' settings that a recipe does not name keep their defaults.
"""

from __future__ import annotations

import copy
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tssa_lib.dataset import look_at
from tssa_lib.yolo import LOGGER, YOLO

# Digit scenes from scratch on a CPU, in minutes. Digits must not be mirrored, and scenes are small,
# so mosaic and flips are off; `optimizer="auto"` would take a learning rate six times too low here.
SCENES = dict(
    **dict(imgsz=128, epochs=15, batch=8, nbs=8),
    **dict(optimizer="AdamW", lr0=0.004, lrf=0.05, momentum=0.9, warmup_epochs=1),
    **dict(mosaic=0.0, fliplr=0.0, scale=0.2, translate=0.05, hsv_s=0.3, hsv_v=0.2),
    **dict(cache="ram", workers=0, plots=False, amp=False),
)

# Blood cells from scratch on a CPU, in minutes. Cells have no upright, so pictures are mirrored both ways. Ultralytics
# begins with a rate of 0.1 for biases, made for SGD: AdamW would throw them off in its first epoch. The small
# platelets are found last: hence the size. Steps are what two hundred pictures are short of: hence the small batches.
CELLS = {
    **SCENES,
    **dict(imgsz=256, epochs=16, batch=4, nbs=4, lr0=0.002, fliplr=0.5, flipud=0.5, warmup_bias_lr=0.0),
}

# The customary recipe for a real data set on GPUs; everything else is Ultralytics' default.
FULL = dict(imgsz=640, epochs=300, batch=64, optimizer="SGD", lr0=0.01, momentum=0.937, amp=True)

RECIPES = {"scenes": SCENES, "small": CELLS, "full": FULL}

FEW = 10_000  # steps below which AdamW with a step for every batch learns more than SGD: Ultralytics' own bound, too
FINDABLE = 8  # pixels of a box's side, a cell of the finest grid: smaller objects are hardly found


def auto(data: str | Path, model: YOLO | None = None, weights: Any = None, **given: Any) -> dict[str, Any]:
    """Settings for a data set on this machine; says what was chosen, why, and about how long it will take.

    It looks at the number and the size of the pictures and boxes, at GPU memory, and times two steps of `model`.
    weights: whatever will be carried over, as less is then to be learned. given: settings that are fixed already;
    the others are chosen for them. `train(data, model, **auto(data, model))` uses what comes back.
    """
    seen, count, names = look_at(data)
    longest = statistics.median(max(shape) for shape in seen.shapes)
    smallest = statistics.quantiles(seen.sides, n=20)[0] if len(seen.sides) > 1 else 1.0  # of twenty, one is smaller
    gpus = torch.cuda.device_count()
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if gpus else 0.0  # GiB
    machine = f"{gpus} GPU of {memory:.0f} GiB" if gpus else f"a CPU with {torch.get_num_threads()} threads"
    why: dict[str, str] = {}
    chosen: dict[str, Any] = {}

    def choose(reason: str, **settings: Any) -> None:
        chosen.update({key: given.get(key, value) for key, value in settings.items()})
        if fresh := [key for key in settings if key not in given]:
            why[", ".join(f"{key}={chosen[key]}" for key in fresh)] = reason

    usual = 640 if gpus else 320
    wanted = min(longest, max(min(longest, usual), min(FINDABLE / smallest, 2 * usual)))
    reason = "the pictures' own size" if wanted == longest else "usual " + ("on a GPU" if gpus else "on a CPU")
    choose(reason if wanted <= usual else "small boxes ask for it", imgsz=max(64, -(-int(wanted) // 32) * 32))
    choose(
        f"{count:,} pictures", batch=(4 if count < 300 else 8 if count < 1000 or 0 < memory < 6 else 16) * max(1, gpus)
    )
    batch = int(chosen["batch"]) if chosen["batch"] >= 1 else 16  # Ultralytics' own choice, for the GPU's memory
    side = max(np.ravel(chosen["imgsz"]).max(), 32)
    each = -(-count // batch)  # steps an epoch
    epochs = min(300, max(10, (20_000 if gpus else 1_500) // each))
    choose(f"{each * epochs:,} steps, {each:,} an epoch", epochs=epochs)
    steps = each * chosen["epochs"]
    carried = weights is not None or bool(model and model.ckpt)
    if steps < FEW:
        few = f"{steps:,} steps from {'learned weights' if carried else 'scratch'}: every batch is one"
        choose(few, optimizer="AdamW", lr0=0.001 if carried else 0.002, lrf=0.05, momentum=0.9, nbs=batch)
        choose("AdamW's start", warmup_epochs=1, warmup_bias_lr=0.0)
        choose("few steps: whole pictures, moved a little", mosaic=0.0, scale=0.2, translate=0.05)
    else:
        choose("the customary ones", **{key: FULL[key] for key in ("optimizer", "lr0", "momentum")})
    if any(len(name) == 1 or {"left", "right"} & set(name.lower().split()) for name in map(str, names)):
        choose("classes that a mirror would change, by their names", fliplr=0.0)
    choose(machine, device=list(range(gpus)) if gpus else "cpu", amp=bool(gpus))
    says = [f"recipe auto: {count:,} pictures of {longest:.0f} px, boxes from {smallest:.1%} of a side, on {machine}"]
    says += [f"  {what}: {reason}" for what, reason in why.items()]
    if model and isinstance(model.model, nn.Module):
        minutes = steps * _seconds(model.model, side, max(1, batch // max(1, gpus))) * 1.3 / 60
        says.append(f"about {minutes:.1f} minutes; any setting may be given in place of these, e.g. epochs=10")
    LOGGER.info("\n".join(says))
    return {**given, **chosen}


def _seconds(network: nn.Module, imgsz: int, batch: int) -> float:
    """Time of a training step, without reading pictures: three forward passes, as backward takes two."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = copy.deepcopy(network).to(device).train()
    x = torch.rand(batch, 3, imgsz, imgsz, device=device)
    with torch.no_grad():
        for _ in range(2):  # the first warms up
            start = time.perf_counter()
            network(x)
            if device == "cuda":
                torch.cuda.synchronize()
    return 3 * (time.perf_counter() - start)
