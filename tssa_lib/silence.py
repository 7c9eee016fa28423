"""Take away what a trained TSSA says, and see whether the model misses it.

A map of memberships shows what a layer computes, not whether anybody uses it. The test is to change the layer's
answer while everything else stays: measure the model as it is, then within `intervene`, on the same pictures. What is
lost was used; where nothing is lost, the map is a by-product.

    silenced   every gate is 0: the update is gone. Biases and the positional convolution beside it stay
    uniform    every token belongs to all K heads alike, Π = 1/K; second moments and gates follow from that
    swapped    every picture is given the gates of the one before it in the batch (the first those of the last)
    constant   all gates of a head are their mean over the batch and the head's coordinates: no direction is kept or
               cut, no picture has gates of its own

Memberships are a layer's own in "silenced", "swapped" and "constant".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor, nn

from tssa_lib.observe import layers_of, tssa_layers  # noqa: F401  (the names of the layers that can be changed)
from tssa_lib.tssa import TSSA, Statistics, TokenStatistics, gates, second_moments  # noqa: F401  (TSSA: example)


def _silenced(layer: TokenStatistics, w: Tensor, found: Statistics) -> Statistics:
    return found._replace(gates=torch.zeros_like(found.gates))


def _uniform(layer: TokenStatistics, w: Tensor, found: Statistics) -> Statistics:
    Pi = torch.full_like(found.Pi, 1 / found.Pi.shape[-2])  # (B, K, N)
    s = second_moments(w, Pi, layer.mass)  # (B, K, p)
    return Statistics(Pi, s, gates(s, layer.c))


def _swapped(layer: TokenStatistics, w: Tensor, found: Statistics) -> Statistics:
    if len(found.gates) < 2:
        raise ValueError("expected a batch of two pictures or more to swap their gates, got one")
    return found._replace(gates=found.gates.roll(1, 0))


def _constant(layer: TokenStatistics, w: Tensor, found: Statistics) -> Statistics:
    return found._replace(gates=found.gates.mean((0, 2), keepdim=True).expand_as(found.gates))


Change = Callable[[TokenStatistics, Tensor, Statistics], Statistics]
INTERVENTIONS: dict[str, Change] = {
    "silenced": _silenced,
    "uniform": _uniform,
    "swapped": _swapped,
    "constant": _constant,
}


@contextmanager
def intervene(model: nn.Module, what: str | Change, layers: Sequence[str] | None = None) -> Iterator[list[str]]:
    """Change what the TSSA layers of a model answer, for as long as the context lasts.

    model: any module, or an Ultralytics YOLO, run eagerly (not exported, not under `torch.compile`). what: a name of
    `INTERVENTIONS`, or a function of the layer, w and its statistics that returns others. layers: names as in
    `tssa_layers`, default all of them. Yields the names of the changed layers. Weights are never touched, and
    afterwards the layers answer as before, bit for bit, also when an error ends it.

    `ValueError` for another intervention, for a model without such a layer, for layers that it doesn't have, and,
    while the model runs, for "swapped" on a batch of one.

    >>> layer = TSSA(8, 2)
    >>> with intervene(layer, "silenced"): y = layer(torch.rand(1, 5, 8))
    >>> torch.allclose(y, layer.to_out[0].bias.expand_as(y))
    True
    """
    if not callable(what) and what not in INTERVENTIONS:
        raise ValueError(f"expected an intervention of {', '.join(INTERVENTIONS)}, got {what!r}")
    found = layers_of(model)
    names = list(found) if layers is None else list(layers)
    if unknown := [name for name in names if name not in found]:
        raise ValueError(f"expected layers of {', '.join(map(repr, found))}, got {', '.join(map(repr, unknown))}")
    change = what if callable(what) else INTERVENTIONS[what]
    with ExitStack() as until_the_end:
        for layer in (found[name] for name in names):
            # not fast: that form computes the update without asking for statistics
            answer = mock.patch.multiple(layer, fast=False, _statistics=_changed(layer, change))
            until_the_end.enter_context(answer)
        yield names


def _changed(layer: TokenStatistics, change: Change) -> Callable[[Tensor], Statistics]:
    own = layer._statistics

    def statistics(w: Tensor) -> Statistics:
        return change(layer, w, own(w))

    return statistics
