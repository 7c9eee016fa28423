"""Look inside any model that holds a TSSA: Π, second moments, gates and the rates before and after each layer.

Used by lessons 6, 8, 10 and 11. The model is not changed: hooks read each layer's input and output and
recompute its statistics, so the output stays what it was, bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tssa_lib.photos import load_image
from tssa_lib.tssa import TSSA, entropy, on_each_call, second_moments


class Observation(NamedTuple):
    """What one TSSA did in one forward pass; `name` is its place in the model."""

    name: str
    Pi: Tensor  # (B, K, N) memberships
    second_moments: Tensor  # (B, K, p)
    gates: Tensor  # (B, K, p)
    grid: tuple[int, int] | None  # rows and columns of the N tokens, where they come from a map
    rate_before: Tensor  # (B,) variational rate of the layer's input, in nats, c absorbed
    rate_after: Tensor  # (B,) of input plus output, Π held fixed

    @property
    def entropy(self) -> Tensor:
        """Mean entropy of the memberships over ln K, (B,): 0 is hard, 1 uniform."""
        return entropy(self.Pi) / np.log(max(self.Pi.shape[1], 2))


@contextmanager
def observe(model: nn.Module) -> Iterator[list[Observation]]:
    """Collect an Observation a TSSA layer and forward pass, in the order in which they ran.

    Statistics are those of evaluation, also while training. ValueError for a model without a TSSA.

    >>> model = nn.Sequential(TSSA(8, 2))
    >>> with observe(model) as seen: _ = model(torch.ones(1, 5, 8))
    >>> seen[0].Pi.shape
    torch.Size([1, 2, 5])
    """
    seen: list[Observation] = []
    maps: list[tuple[int, int]] = []  # sides of the maps that came by: the last one that fits is the tokens' grid

    def passing(module: nn.Module, inputs: tuple) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim >= 3:
            maps.append(tuple(inputs[0].shape[-2:]))

    def note(name: str, layer: TSSA, x: Tensor, output: Tensor) -> None:
        Pi, s, D = layer.statistics(x)
        after = second_moments(layer.project(x + output), Pi, layer.mass)
        share, N = Pi.sum(-1) / Pi.shape[-1], Pi.shape[-1]  # (B, K)
        before, after = (0.5 * (share * torch.log1p(layer.c * m).sum(-1)).sum(-1) for m in (s, after))
        grid = next((g for g in reversed(maps) if g[0] * g[1] == N), None)
        seen.append(Observation(name, Pi, s, D, grid, before, after))

    inside = {m for layer in model.modules() if isinstance(layer, TSSA) for m in layer.modules() if m is not layer}
    handles = [
        m.register_forward_pre_hook(passing) for m in model.modules() if m not in inside
    ]  # hooked, a TSSA is not fast
    try:
        with on_each_call(model, note):
            yield seen
    finally:
        for h in handles:
            h.remove()


def look(model: Any, image: Any, size: int | tuple[int, int] = 320) -> tuple[np.ndarray, list[Observation]]:
    """Run a model on one picture and observe it: (the picture as the model saw it, its observations).

    `model` is an Ultralytics YOLO or a module that takes (1, 3, H, W) in [0, 1], or (1, H, W) grey if it has a
    `side`. `image` is anything `photos.load_image` reads. `size` is the longest side, rounded to multiples of
    32, or (H, W) exactly.
    """
    module = (
        model.model if hasattr(model, "predictor") else model
    )  # a YOLO wraps its network, which has a .model as well
    picture = load_image(image)
    if side := getattr(module, "side", None):
        size = (side, side)
    if isinstance(size, int):
        scale = size / max(picture.shape[:2])
        size = tuple(max(32, round(n * scale / 32) * 32) for n in picture.shape[:2])
    weight = next(module.parameters())
    x = torch.tensor(picture, dtype=weight.dtype, device=weight.device).permute(2, 0, 1)[None] / 255
    x = nn.functional.interpolate(x, size=size, mode="bilinear", antialias=True)
    shown = x[0].permute(1, 2, 0).float().cpu().numpy().clip(0, 1)
    training = module.training
    module.eval()
    try:
        with observe(module) as seen, torch.no_grad():
            module(x.mean(1) if side else x)
    finally:
        module.train(training)
    return shown, seen
