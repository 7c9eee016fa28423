"""The blocks that the experiments put into one slot of a detector, beside the package's own.

Each is Ultralytics' `C2PSA` with another token mixer in the place of its attention: half of the channels go through n
times (mixer, then a feed-forward net), each with a residual. They have the signature of `C2Plain`, (c1, c2, n, e),
keep the depthwise 3x3 convolution `pe` of the values, and differ in the mixer alone:

    C2Plain     y = v                              nobody hears of anybody
    C2SE        y = v · gate(mean over the tokens)  a channel gate by the global mean (Hu et al. 2018)
    C2XCA       y = v · softmax(k̂ᵀq̂)ᵀ               channels attend to channels (El-Nouby et al. 2021)
    C2Softmax   y = softmax(qkᵀ) v                  stock attention, by `scaled_dot_product_attention`
    C2TSSA      y = −Π · D · v                      token statistics (Wu et al. 2024)

Importing this module makes Ultralytics' YAML parser know them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, scaled_dot_product_attention

from tssa_lib import yolo

from ultralytics.nn.modules import C2PSA, Conv
from ultralytics.nn.modules.block import Attention

# Lesson 6: logits that do not depend on resolution, narrow heads, a selective temperature.
IMPROVED = dict(head_width=16, normalize="rms", temp=4.0)
BLOCKS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("C2Plain", {}),
    "SE": ("C2SE", {}),
    "XCA": ("C2XCA", {}),
    "softmax": ("C2Softmax", {}),
    "TSSA published": ("C2TSSA", {}),
    "TSSA improved": ("C2TSSA", IMPROVED),
}


def row(block: str, channels: int, repeats: int = 2, e: float = 0.5) -> list[Any]:
    """The row of a model YAML that puts a block of `BLOCKS` behind the row before it.

    >>> row("TSSA improved", 128)
    [-1, 2, 'C2TSSA', [128, 0.5, 16, 'rms', 4.0]]
    """
    if block not in BLOCKS:
        raise ValueError(f"expected a block of {', '.join(BLOCKS)}, got {block!r}")
    name, switches = BLOCKS[block]
    defaults = {"head_width": 64, "normalize": "tokens", "temp": 1.0}
    args = list({**defaults, **switches}.values()) if name == "C2TSSA" else []
    return [-1, repeats, name, [channels, e, *args]]


class ChannelGate(nn.Module):
    """Squeeze-and-excitation: values times a gate that a small net makes of their mean over the tokens.

    (B, C, H, W) → (B, C, H, W). Hu et al. 2018, with the projections of the slot's other mixers.
    """

    def __init__(self, dim: int, reduction: int = 4):
        super().__init__()
        self.qkv = Conv(dim, dim, 1, act=False)
        self.gate = nn.Sequential(nn.Linear(dim, dim // reduction), nn.ReLU(), nn.Linear(dim // reduction, dim))
        self.proj = Conv(dim, dim, 1, act=False)
        self.pe = Conv(dim, dim, 3, 1, g=dim, act=False)

    def forward(self, x: Tensor) -> Tensor:
        v = self.qkv(x)  # (B, C, H, W)
        gate = self.gate(v.mean((2, 3))).sigmoid()  # (B, C)
        return self.proj(v * gate[..., None, None] + self.pe(v))  # (B, C, H, W)


class CrossCovariance(nn.Module):
    """Cross-covariance attention over a feature map, heads of about 16 channels. (B, C, H, W) → (B, C, H, W)."""

    def __init__(self, dim: int, head_width: int = 16):
        super().__init__()
        self.num_heads = max(dim // head_width, 1)
        self.qkv = Conv(dim, 3 * dim, 1, act=False)
        self.temp = nn.Parameter(torch.ones(self.num_heads, 1, 1))
        self.proj = Conv(dim, dim, 1, act=False)
        self.pe = Conv(dim, dim, 3, 1, g=dim, act=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=1)  # (B, C, H, W) each
        heads = [t.flatten(2).unflatten(1, (self.num_heads, -1)) for t in (q, k, v)]  # (B, K, p, N)
        unit_q, unit_k = (normalize(t, dim=-1) for t in heads[:2])  # over the tokens
        A = (unit_q @ unit_k.mT * self.temp).softmax(-1)  # (B, K, p, p), over the keys' channels
        y = (A @ heads[2]).flatten(1, 2).view_as(v)  # (B, C, H, W)
        return self.proj(y + self.pe(v))


class FusedSoftmax(Attention):
    """Ultralytics' attention, same parameters and output, its softmax by `scaled_dot_product_attention`.

    Keys are half as wide as values here, and on a CPU the fused form takes equal, dense widths alone: else the N × N
    matrix is written out after all. So queries and keys are filled up with zeros, which change no product.
    """

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        sizes = [self.key_dim, self.key_dim, self.head_dim]
        q, k, v = self.qkv(x).view(B, self.num_heads, sum(sizes), H * W).split(sizes, dim=2)  # (B, K, ·, N)
        short = (0, self.head_dim - self.key_dim)
        wide_q, wide_k = pad(q.mT, short), pad(k.mT, short)  # (B, K, N, p)
        y = scaled_dot_product_attention(wide_q, wide_k, v.mT.contiguous(), scale=self.scale)  # softmax over the keys
        y = y.mT.reshape(B, C, H, W)  # (B, C, H, W)
        return self.proj(y + self.pe(v.reshape(B, C, H, W)))


class _Slot(C2PSA):
    """`C2PSA` with another mixer: a subclass says in `mixer` how it is made."""

    def __init__(self, c1: int, c2: int, n: int = 1, e: float = 0.5):
        super().__init__(c1, c2, n, e)
        for block in self.m:
            block.attn = self.mixer(self.c)


class C2SE(_Slot):
    """The slot's block with squeeze-and-excitation."""

    mixer = ChannelGate


class C2XCA(_Slot):
    """The slot's block with cross-covariance attention."""

    mixer = CrossCovariance


class C2Softmax(_Slot):
    """`C2PSA` itself, computed by `scaled_dot_product_attention`.

    >>> stock, fused = C2PSA(128, 128).eval(), C2Softmax(128, 128).eval()
    >>> x, _ = torch.rand(1, 128, 4, 4), fused.load_state_dict(stock.state_dict())
    >>> torch.allclose(stock(x), fused(x), atol=1e-5)
    True
    """

    @staticmethod
    def mixer(dim: int) -> nn.Module:
        return FusedSoftmax(dim, num_heads=max(dim // 64, 1))


yolo.BLOCKS.update({block.__name__: block for block in (C2SE, C2XCA, C2Softmax)})
torch.serialization.add_safe_globals([ChannelGate, CrossCovariance, FusedSoftmax, C2SE, C2XCA, C2Softmax])
