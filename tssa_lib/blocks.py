"""The blocks that stand in YOLO11's attention slot: TSSA (lesson 10), and its control without attention.

`C2TSSA` is Ultralytics' `C2PSA` with Token Statistics Self-Attention in it (Wu et al. 2024; lesson 7). Importing this
file registers the blocks with Ultralytics (`registry`), so that a checkpoint which holds one can be trained on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tssa_lib import quiet  # noqa: F401  (before ultralytics)

# isort: split
from tssa_lib.fast import fast_tssa
from tssa_lib.forms import kernels_run
from tssa_lib.registry import BLOCKS
from tssa_lib.tssa import TokenStatistics

from ultralytics.nn.modules import C2PSA, Conv
from ultralytics.utils.callbacks.base import default_callbacks


class TSSAttention(TokenStatistics):
    """TSSA over a feature map, (B, C, H, W) to the same: the twin of Ultralytics' `Attention`.

    The tokens are the N = H·W places of the map. As in `Attention`, the projections are 1x1
    convolutions with batch norm, and a depthwise 3x3 convolution of the projected map, `pe`, adds
    position; one projection `qkv` (the values) takes the place of queries, keys and values.
    `tied` takes the projection's transpose as output map, batch norm's scales included (while training:
    of its running statistics), and leaves of `proj` the batch norm.

    `ValueError` when num_heads doesn't divide dim, or normalize is unknown.

    >>> TSSAttention(32, num_heads=2).eval()(torch.zeros(1, 32, 4, 6)).shape
    torch.Size([1, 32, 4, 6])
    """

    def __init__(self, dim: int, num_heads: int = 8, normalize: str = "tokens", temp: float = 1.0, tied: bool = False):
        super().__init__(dim, num_heads, normalize=normalize, temp=temp, tied=tied)
        self.qkv = Conv(dim, dim, 1, act=False)
        self.proj = nn.BatchNorm2d(dim) if tied else Conv(dim, dim, 1, act=False)
        self.pe = Conv(dim, dim, 3, 1, g=dim, act=False)

    def bases(self) -> Tensor:
        """The projection [U_1ᵀ; …; U_Kᵀ] (C, C) in use, batch norm's scales included."""
        W, norm = self.qkv.conv.weight[..., 0, 0], getattr(self.qkv, "bn", None)  # `fuse` takes the norm away
        return W if norm is None else W * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None]

    def project(self, x: Tensor) -> Tensor:
        v = self.qkv(x).flatten(2)  # (B, C, N)
        return v.unflatten(1, (self.num_heads, -1)).transpose(-2, -1)  # (B, K, N, p)

    def output(self, y: Tensor, w: Tensor, x: Tensor) -> Tensor:
        update, v = (t.transpose(-2, -1).reshape(x.shape) for t in (y, w))  # (B, C, H, W)
        return self._mapped_out(update + self.pe(v))

    def _mapped_out(self, y: Tensor) -> Tensor:
        U = self.bases().transpose(0, 1)[..., None, None] if self.tied else None  # (C, C, 1, 1)
        return self.proj(y if U is None else nn.functional.conv2d(y, U))  # (B, C, H, W)

    def forward(self, x: Tensor) -> Tensor:
        if not self.fast_path_applies(x):
            return self.straightforward(x)
        if kernels_run(x.device):
            return self.in_kernels(x)
        v = self.qkv(x)  # (B, C, H, W)
        update = fast_tssa(v.flatten(2), self.temp, **self.switches).view(v.shape)
        return self._mapped_out(update + self.pe(v))


class C2TSSA(C2PSA):
    """`C2PSA` with TSSA in place of softmax attention; half of the channels pass through it.

    c1 = c2 channels, n blocks, e the share of channels c that the blocks see, head_width the channels of a head;
    normalize, temp and tied as in `TSSA`. Without a head_width, heads are 64 channels wide, as in YOLO11, or as wide as
    leaves two of them: one head alone has nothing to share out (Π = 1), and its layer is a gate of channels.
    `ValueError` for channels that don't agree, and for a head_width that doesn't divide c.

    >>> C2TSSA(256, 256).eval()(torch.zeros(1, 256, 4, 4)).shape
    torch.Size([1, 256, 4, 4])
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        e: float = 0.5,
        head_width: int | None = None,
        normalize: str = "tokens",
        temp: float = 1.0,
        tied: bool = False,
    ):
        if c1 != c2:
            raise ValueError(f"expected as many output as input channels, got c1={c1}, c2={c2}")
        super().__init__(c1, c2, n, e)
        width = widest_head(self.c) if head_width is None else head_width
        if not isinstance(width, int) or width < 1 or self.c % width:
            raise ValueError(f"expected a head_width that divides the {self.c} channels of the blocks, got {width}")
        for block in self.m:
            block.attn = TSSAttention(self.c, self.c // width, normalize, temp, tied)


def widest_head(channels: int) -> int:
    """The width of a head where nobody names one: the largest of 64, 32, … that leaves two heads or more.

    >>> [widest_head(channels) for channels in (384, 128, 64, 24)]
    [64, 64, 32, 8]
    """
    return next((width for width in (64, 32, 16, 8, 4, 2) if channels % width == 0 and channels > width), 1)


class Values(nn.Module):
    """What is left of `Attention` and `TSSAttention` without attention: y = proj(v + pe(v)), v the values."""

    def __init__(self, dim: int):
        super().__init__()
        self.qkv = Conv(dim, dim, 1, act=False)
        self.proj = Conv(dim, dim, 1, act=False)
        self.pe = Conv(dim, dim, 3, 1, g=dim, act=False)

    def forward(self, x: Tensor) -> Tensor:
        v = self.qkv(x)  # (B, C, H, W)
        return self.proj(v + self.pe(v))  # (B, C, H, W)


class C2Plain(C2PSA):
    """`C2TSSA` with the identity in place of attention: the control of a fair trial, all else being equal.

    >>> C2Plain(256, 256).eval()(torch.zeros(1, 256, 4, 4)).shape
    torch.Size([1, 256, 4, 4])
    """

    def __init__(self, c1: int, c2: int, n: int = 1, e: float = 0.5):
        super().__init__(c1, c2, n, e)
        for block in self.m:
            block.attn = Values(self.c)


def _import_us(trainer) -> None:
    """Nothing. Ultralytics ships callbacks to its multi-GPU workers by name, which imports this file."""


BLOCKS.update(C2TSSA=C2TSSA, C2Plain=C2Plain)
torch.serialization.add_safe_globals([TSSAttention, Values, C2TSSA, C2Plain])
default_callbacks["on_pretrain_routine_start"].append(_import_us)
