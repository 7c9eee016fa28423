"""What an operator costs: multiply–adds, bytes moved and kept, counted exactly; seconds, measured in turns.

Lesson 9 explains the terms: "published" is the published order of operations one by one (Wu et al. 2024, the vision
layer of ToST), "floor" the layer's two linear maps alone, "overhead" what a layer takes above the floor. Counts are
the same on every machine.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import linear, normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from kit.attention import (
    MSSA,
    XCA,
    Attention,
    Chunked,
    Linformer,
    Nystrom,
    RateGradient,
    SlidingWindow,
    WrittenOut,
)
from tssa_lib.core import MASS, join_heads, split_heads
from tssa_lib.tssa import TSSA

HEAD_WIDTH = 32
RIVALS: dict[str, Callable[[int, int, int], nn.Module]] = {  # (dim, num_heads, tokens) → layer
    "softmax (SDPA)": lambda dim, heads, N: Attention(dim, heads),
    "softmax, written out": lambda dim, heads, N: WrittenOut(dim, heads),
    "CRATE's MSSA": lambda dim, heads, N: MSSA(dim, heads),
    "chunked, 64": lambda dim, heads, N: Chunked(dim, heads, chunk=64),
    "sliding window, 65": lambda dim, heads, N: SlidingWindow(dim, heads, window=65),
    "Linformer, 64": lambda dim, heads, N: Linformer(dim, heads, rank=64, tokens=N),
    "Nyström, 64": lambda dim, heads, N: Nystrom(dim, heads, landmarks=64),
    "XCA": lambda dim, heads, N: XCA(dim, heads),
    "rate gradient, p × p": lambda dim, heads, N: RateGradient(dim, heads),
    "TSSA": lambda dim, heads, N: TSSA(dim, heads),
}


# ---- the two references -----------------------------------------------------------------------------
def published(layer: TSSA, x: Tensor) -> Tensor:
    """The published vision layer with this layer's parameters, its operations one by one in their order."""
    w = split_heads(linear(x, layer.qkv.weight, layer.qkv.bias), layer.num_heads)  # (B, K, N, p)
    normed = normalize(w, dim=-2)  # over the tokens
    Pi = ((normed**2).sum(-1) * layer.temp).softmax(1)  # (B, K, N), over the K heads
    share = Pi / (Pi.sum(-1, keepdim=True) + MASS)
    moments = share.unsqueeze(-2) @ w**2  # (B, K, 1, p)
    y = -(w * Pi.unsqueeze(-1)) * (1 / (1 + moments))  # (B, K, N, p)
    return layer.to_out(join_heads(y))  # (B, N, C)


def floor(layer: TSSA, x: Tensor) -> Tensor:
    """The layer's two linear maps and nothing else: what no TSSA can be faster than, pass by pass."""
    return layer.to_out(layer.qkv(x))


# ---- counting ---------------------------------------------------------------------------------------
class Moved(TorchDispatchMode):
    """Counts bytes: `moved`, read and written by all operations but views; `largest`, of the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        y = func(*args, **(kwargs or {}))
        if not func.is_view and "view" not in func.__name__:
            made = [t for t in tree_leaves(y) if isinstance(t, Tensor)]
            read = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
            self.moved += 0 if "empty" in func.__name__ else sum(t.nbytes for t in [*read.values(), *made])
            self.largest = max([self.largest, *(t.nbytes for t in made)])
        return y


def operations(layer: nn.Module, N: int, dim: int) -> int:
    """Multiply–adds of all matrix products in one forward pass over (1, N, dim), by PyTorch's counter on shapes alone.

    >>> operations(TSSA(8, 2), 100, 8) == 2 * 100 * 8 ** 2 + 100 * 8
    True
    """
    layer = layer.to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(torch.empty(1, N, dim, device="meta"))
    return counter.get_total_flops() // 2


def kept_bytes(layer: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters left out, each storage once."""
    owned = {p.untyped_storage().data_ptr() for p in layer.parameters()} if isinstance(layer, nn.Module) else set()
    kept: dict[int, tuple[int, Any]] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes(), storage  # held, so that no address comes twice
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    return sum(n for n, _ in kept.values())


class Cost(NamedTuple):
    """What one picture costs: multiply–adds of all convolutions and matrix products, and the largest tensor."""

    macs: int  # of the whole model
    attention_macs: int  # of the modules named attn
    largest: int  # bytes of the largest tensor that any operation makes, in float32


def count(model: Any, height: int, width: int | None = None) -> Cost:
    """The cost of one picture of height × width pixels, counted without computing anything.

    model: a YOLO, its network, a path or a name, which stays as it is; decoding its maps into boxes isn't counted. One
    multiply–add is two FLOPs.

    >>> count("yolo11n-tssa.yaml", 64).attention_macs
    136192
    """
    if not isinstance(model, nn.Module) or hasattr(model, "predictor"):  # a YOLO wraps its network
        from tssa_lib.train import open_model

        model = open_model(model).model
    shapes_only = copy.deepcopy(model).eval().float().to("meta")
    shapes_only.model[-1].training = True  # the head gives its maps and does not decode them into boxes
    picture = torch.empty(1, 3, height, width or height, device="meta", dtype=torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as flops, Moved() as moved:
        shapes_only(picture)
    by_module = {name: sum(ops.values()) for name, ops in flops.get_flop_counts().items()}
    attention = sum(n for name, n in by_module.items() if name.endswith(".attn"))
    return Cost(flops.get_total_flops() // 2, attention // 2, moved.largest)


# ---- timing -----------------------------------------------------------------------------------------
def interleaved(calls: dict[str, Callable[[], Any]], budget: float, most: int = 60, least: int = 3) -> dict[str, dict]:
    """Wall-clock seconds of each call: median and quartiles of repeats in turns, so that all see the same machine.

    One round warms up; rounds go on until `budget` seconds are spent or `most` are done, `least` in any case.
    """
    took: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + budget
    for turn in range(most + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                took[name].append(time.perf_counter() - start)
        if turn >= least and time.perf_counter() > end:
            break
    return {
        name: {
            "median": statistics.median(t),
            "low": statistics.quantiles(t, n=4)[0],
            "high": statistics.quantiles(t, n=4)[2],
            "repeats": len(t),
        }
        for name, t in took.items()
    }


def forward(f: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    def call() -> None:
        with torch.no_grad():
            f(x)

    return call


def seconds(
    models: dict[str, nn.Module], size: int, budget: float = 40.0, most: int = 21
) -> dict[str, list[tuple[float, float]]]:
    """(Wall, processor) seconds of forward passes of networks at one size, in turns, so that all see one machine.

    With one thread the processor's seconds hardly depend on what else the machine does.
    """
    picture = torch.rand(1, 3, size, size, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    end = time.perf_counter() + budget
    with torch.inference_mode():
        for turn in range(most + 1):
            for name, model in models.items():
                wall, processor = time.perf_counter(), time.process_time()
                model(picture)
                if turn:  # the first is to warm up
                    took[name].append((time.perf_counter() - wall, time.process_time() - processor))
            if turn >= 3 and time.perf_counter() > end:
                break
    return took
