"""The ToST block, its causal TSSA for language, and a small image classifier made of blocks.

Lesson 7 derives the causal layer, lesson 8 trains the classifier on real digits. Source: Wu et al. 2024,
"Token Statistics Transformer" (ToST), and its published code, whose parameter names are kept here.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from tssa_lib.core import (
    MASS,
    check_heads,
    entropy,
    gates,
    join_heads,
    moments_rate,
    second_moments,
    split_heads,
    wide,
)
from tssa_lib.tssa import TSSA, Layer, load_exactly

CLAMP = 1e-12  # floor of the causal layer's running sum of squares, as published
VARIANTS = {"tied": {"tied": True}, "untied": {}, "untied, θ = 30": {"temp": 30.0}} | {
    f"tied, θ = {temp}": {"tied": True, "temp": float(temp)} for temp in (10, 30, 100)
}


class Block(nn.Module):
    """One ToST block, (B, N, dim) → (B, N, dim): a TSSA step, then an MLP (lesson 8, eq. 8.1).

    x ← x + γ₁ ⊙ TSSA(LN(x)), then x ← x + γ₂ ⊙ MLP(LN(x)). `gamma` is LayerScale's initial value, `eps`
    LayerNorm's; every other keyword goes to `TSSA`.

    >>> Block(8, 2, tied=True)(torch.ones(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, gamma: float = 1.0, eps: float = 1e-5, **tssa):
        super().__init__()
        hidden = round(mlp_ratio * dim)
        self.norm1, self.attn = nn.LayerNorm(dim, eps), TSSA(dim, num_heads, **tssa)
        self.gamma1 = nn.Parameter(torch.full((dim,), float(gamma)))
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(dim, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, dim)))
        self.gamma2 = nn.Parameter(torch.full((dim,), float(gamma)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma1 * self.attn(self.norm1(x))  # (B, N, C)
        return x + self.gamma2 * self.mlp(self.norm2(x))  # (B, N, C)

    @classmethod
    def from_tost_state_dict(cls, state: dict[str, Tensor], num_heads: int, eps: float = 1e-5) -> "Block":
        """The block with the published block's parameters; ValueError names all that don't fit."""
        dim = _size(state, -1, num_heads, "attn.qkv.weight", "norm1.weight", "gamma1")
        ratio = _size(state, 0, 4 * dim, "mlp.fc1.weight", "mlp.fc1.bias") / dim
        return _load(cls(dim, num_heads, ratio, eps=eps, qkv_bias="attn.qkv.bias" in state), state)


class CausalTSSA(nn.Module):
    """TSSA for language: token t sees the statistics of tokens 1 … t only (lesson 7, eqs. 7.17 and 7.18).

    (B, N, dim) → (B, N, dim), N <= block_size. Parameter names are the published ones; `denom_bias`
    (heads, block_size, 1) is added to every coordinate of the normalised squares before they are summed.

    >>> CausalTSSA(8, 2, block_size=16)(torch.ones(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, dim: int, num_heads: int, block_size: int):
        super().__init__()
        check_heads(dim, num_heads)
        if block_size < 1:
            raise ValueError(f"expected block_size >= 1, got {block_size}")
        self.dim, self.num_heads, self.block_size = dim, num_heads, block_size
        self.c_attn, self.c_proj = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.temp = nn.Parameter(torch.ones(num_heads, 1))
        self.denom_bias = nn.Parameter(torch.zeros(num_heads, block_size, 1))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[-1] != self.dim or not 1 <= x.shape[1] <= self.block_size:
            raise ValueError(f"expected x (B, 1 <= N <= {self.block_size}, {self.dim}), got {tuple(x.shape)}")
        w = split_heads(self.c_attn(x), self.num_heads)  # (B, K, N, p)
        w2 = wide(w) ** 2
        share = w2 / w2.cumsum(-2).clamp(min=CLAMP) + self.denom_bias[:, : x.shape[1]]
        Pi = (share.sum(-1) * self.temp).softmax(1)[..., None]  # (B, K, N, 1), over the K heads
        s = (w2 * Pi).cumsum(-2) / (Pi.cumsum(-2) + MASS)  # (B, K, N, p), over the past
        y = (-w * (Pi * gates(s))).to(w.dtype)  # (B, K, N, p)
        return self.c_proj(join_heads(y))  # (B, N, C)

    @classmethod
    def from_tost_state_dict(cls, state: dict[str, Tensor], num_heads: int) -> "CausalTSSA":
        """The layer with the published `c_attn.weight`, `c_proj.weight`, `temp` and `denom_bias`, checked likewise."""
        dim = _size(state, -1, num_heads, "c_attn.weight", "c_proj.weight")
        return _load(cls(dim, num_heads, _size(state, -2, 1, "denom_bias")), state)


def _size(state: dict[str, Tensor], axis: int, default: int, *names: str) -> int:
    """The size along `axis` of the first of these entries that is there: the others are judged by it."""
    return next((state[n].shape[axis] for n in names if n in state and state[n].ndim >= -axis), default)


def _load(module: Layer, state: dict[str, Tensor]) -> Layer:
    return load_exactly(module.to(next((v.dtype for v in state.values()), torch.float32)), state)


class ToST(nn.Module):
    """An image classifier of ToST blocks: grey images (B, side, side) → logits (B, classes) (lesson 8).

    One token a pixel, its 3 × 3 neighbourhood; learned positions are added once; the tokens' mean is classified.
    """

    def __init__(self, side: int = 8, classes: int = 10, dim: int = 32, num_heads: int = 4, depth: int = 4, **block):
        super().__init__()
        self.side, self.embed = side, nn.Linear(9, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(side * side, dim))
        self.blocks = nn.Sequential(*(Block(dim, num_heads, **block) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def tokens(self, images: Tensor) -> Tensor:
        if images.ndim != 3 or images.shape[1:] != (self.side, self.side):
            raise ValueError(f"expected images (B, {self.side}, {self.side}), got {tuple(images.shape)}")
        patches = nn.functional.unfold(images[:, None], 3, padding=1).mT  # (B, N, 9)
        return self.embed(patches) + self.positions  # (B, N, C)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(images))).mean(1))  # (B, classes)


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(train, test), each (images (B, 8, 8) in [0, 1], labels (B,)): scikit-learn's 1,797 digits, 500 held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x, held, y, answers = train_test_split(x.reshape(-1, 8, 8) / 16, y, test_size=500, random_state=0, stratify=y)
    return (torch.tensor(x).float(), torch.tensor(y)), (torch.tensor(held).float(), torch.tensor(answers))


def fit(
    model: nn.Module, images: Tensor, labels: Tensor, epochs: int = 12, batch: int = 64, lr: float = 3e-3
) -> Iterator[float]:
    """Train with AdamW and a one-cycle learning rate; yields the mean loss (nats) of each epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * -(-len(images) // batch))
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(images)).split(batch):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows) / len(images)
        yield total


@torch.no_grad()
def compression(model: ToST, images: Tensor) -> list[dict]:
    """What each block's TSSA does to the tokens z = LN(x) that it sees: means over the images.

    `before`, `after`: R_c^var in nats around z + γ₁ ⊙ TSSA(z), Π and projections held, of the layer's own moments
    as in `observe`: with the projection's bias if it has one. `bound`: c · max γ₁ · ‖W‖² · max Π, a tied step must
    compress while it is < 2 (lesson 8, eqs. 8.3 and 8.4); infinite where some γ₁ <= 0, for then nothing is promised.
    `entropy`: Π's, over ln K. `gate`: D's 5, 50 and 95 % quantiles. `temp`: mean θ.
    """
    x, found = model.tokens(images), []
    for block in cast(Iterable[Block], model.blocks):
        z, layer = block.norm1(x), block.attn
        Pi, s, D = layer.statistics(z)
        after = second_moments(layer.project(z + block.gamma1 * layer(z)), Pi, layer.mass)  # (B, K, p)
        rate = [moments_rate(m, Pi, layer.c).mean() for m in (s, after)]
        step = block.gamma1.max() if block.gamma1.min() > 0 else torch.tensor(torch.inf)
        bound = layer.c * step * torch.linalg.matrix_norm(layer.bases(), 2) ** 2 * Pi.max()
        spread = entropy(Pi).mean() / torch.tensor(layer.num_heads).log()
        values = *rate, bound, spread, D.flatten().quantile(torch.tensor([0.05, 0.5, 0.95])), layer.temp.mean()
        found.append(dict(zip(("before", "after", "bound", "entropy", "gate", "temp"), (v.tolist() for v in values))))
        x = block(x)
    return found
