"""Exercises of lesson 8: the block, a certificate for the step, membership entropy, a fair average."""

import math

import torch
from torch.nn import functional as F

from kit import Exercise
from tssa_lib import tssa

_seeded = torch.Generator().manual_seed(8)


def _randn(*shape):
    return torch.randn(*shape, generator=_seeded, dtype=torch.float64)


W = _randn(6, 6)
Pi = torch.rand(3, 7, generator=_seeded, dtype=torch.float64).softmax(0)
_sure = torch.eye(3, dtype=torch.float64)[[0, 2]].T[:, [0, 1, 0]]  # hard memberships of three tokens


def _parameters(d, K, hidden):
    """The parameters of a block that nobody trained: all of them at random, none at its usual start."""
    norm = {"weight": (d,), "bias": (d,)}
    shapes = {f"norm{i}.{k}": v for i in (1, 2) for k, v in norm.items()}
    shapes |= {
        "attn.qkv.weight": (d, d),
        "attn.temp": (K, 1),
        "attn.to_out.0.weight": (d, d),
        "attn.to_out.0.bias": (d,),
    }
    shapes |= {"mlp.fc1.weight": (hidden, d), "mlp.fc1.bias": (hidden,)}
    shapes |= {"mlp.fc2.weight": (d, hidden), "mlp.fc2.bias": (d,), "gamma1": (d,), "gamma2": (d,)}
    return {name: _randn(*shape) for name, shape in shapes.items()}


_blocks = [(2 * _randn(2, 5, 6), _parameters(6, 3, 24), 3), (_randn(1, 7, 4), _parameters(4, 2, 16), 2)]


def _block(
    x, s, K, *, norm1=True, norm2=True, residual=True, gamma=True, bias=True, act=F.gelu, reads="after", temp=True
):
    """(8.1), with one piece at a time replaced."""

    def norm(v, name, on):
        return F.layer_norm(v, v.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"]) if on else v

    w = tssa.split_heads(norm(x, "norm1", norm1) @ s["attn.qkv.weight"].T, K)  # (B, K, N, p)
    y = tssa.join_heads(tssa.token_update(w, s["attn.temp"] if temp else torch.ones_like(s["attn.temp"])))
    y = y @ s["attn.to_out.0.weight"].T + (s["attn.to_out.0.bias"] if bias else 0)
    y = y * s["gamma1"] if gamma else y
    z = x + y if residual else y
    h = act(norm(z if reads == "after" else x, "norm2", norm2) @ s["mlp.fc1.weight"].T + s["mlp.fc1.bias"])
    h = h @ s["mlp.fc2.weight"].T + s["mlp.fc2.bias"]
    h = h * s["gamma2"] if gamma else h
    return z + h if residual else h


_wrong_blocks = {
    "the residuals are missing: each half adds to the tokens that it read.": lambda *a: _block(*a, residual=False),
    "the step sizes are missing: γ₁ and γ₂ multiply what is added, channel by channel.": lambda *a: _block(
        *a, gamma=False
    ),
    "TSSA reads normalised tokens: norm1 is missing.": lambda *a: _block(*a, norm1=False),
    "the MLP reads normalised tokens: norm2 is missing.": lambda *a: _block(*a, norm2=False),
    "the MLP reads the tokens after the TSSA step, not the ones before it.": lambda *a: _block(*a, reads="before"),
    "the bias of the output map is missing.": lambda *a: _block(*a, bias=False),
    "the temperature is missing: token_update takes it as its second argument.": lambda *a: _block(*a, temp=False),
    "between the two maps of the MLP is a GELU, not a ReLU.": lambda *a: _block(*a, act=torch.relu),
}


def _same(answer, other):
    """Whether two blocks answer alike; answers of another shape differ."""
    pairs = [(f(x.clone(), dict(s), K) for f in (answer, other)) for x, s, K in _blocks]
    return all(g.shape == w.shape and torch.allclose(g, w, atol=1e-6) for g, w in pairs)


def _judge_block(answer):
    got = answer(_blocks[0][0].clone(), dict(_blocks[0][1]), 3)
    if got is None or got is ...:
        return ...
    if got.shape != _blocks[0][0].shape:
        return f"expected shape {tuple(_blocks[0][0].shape)}, got {tuple(got.shape)}"
    if _same(answer, _block):
        return None
    known = [diagnosis for diagnosis, other in _wrong_blocks.items() if _same(answer, other)]
    return (
        known[0]
        if known
        else "the tokens that come out are not those of (8.1). Hint: write its two lines one after the other."
    )


EXERCISES = [
    Exercise(
        id="8a",
        hint="norm, project, split into heads, token_update, join, output map with bias, γ₁, add; then the same with the MLP.",
        right=_block,
        wrong=_wrong_blocks,
        judge_by=_judge_block,
    ),
    Exercise(
        id="8b",
        hint="combine (8.3) and (8.4); which norm of a matrix is its largest singular value?",
        inputs=[(W, 0.9), (0.5 * W[:4], 0.3)],
        right=lambda W, pi_max: 2 / (torch.linalg.matrix_norm(W, 2) ** 2 * pi_max),
        wrong={
            "the norm enters squared: A_j holds the projections twice.": lambda W, pi_max: (
                2 / (torch.linalg.matrix_norm(W, 2) * pi_max)
            ),
            "that is the Frobenius norm: safe, but smaller than need be; (8.4) has the largest singular value.": lambda W, pi_max: (
                2 / (torch.linalg.matrix_norm(W) ** 2 * pi_max)
            ),
            "the step may be 2 over the bound, not 1 over it: at 1 the decrease is largest, at 2 it ends.": lambda W, pi_max: (
                1 / (torch.linalg.matrix_norm(W, 2) ** 2 * pi_max)
            ),
            "safe, but you left out the largest membership, which allows a longer step.": lambda W, pi_max: (
                2 / torch.linalg.matrix_norm(W, 2) ** 2
            ),
        },
    ),
    Exercise(
        id="8c",
        hint="−Σ_k π ln π for each token, then the mean over the tokens, then over ln K; 0 · ln 0 counts as 0.",
        inputs=[(Pi,), (Pi[:2] / Pi[:2].sum(0),), (_sure,)],
        right=lambda Pi: torch.special.entr(Pi).sum(0).mean() / math.log(len(Pi)),
        wrong={
            "you forgot to divide by ln K.": lambda Pi: torch.special.entr(Pi).sum(0).mean(),
            "you took the mean over the groups too: sum over the groups, mean over the tokens.": lambda Pi: (
                torch.special.entr(Pi).mean() / math.log(len(Pi))
            ),
            "the largest entropy is that of K groups, not of N tokens.": lambda Pi: (
                torch.special.entr(Pi).sum(0).mean() / math.log(Pi.shape[1])
            ),
            "a membership of 0 makes 0 · ln 0, NaN in floating point: torch.special.entr knows that it is 0.": lambda Pi: (
                -(Pi * Pi.log()).sum(0).mean() / math.log(len(Pi))
            ),
            "the sign: ln π is negative, the entropy is not.": lambda Pi: (
                -torch.special.entr(Pi).sum(0).mean() / math.log(len(Pi))
            ),
        },
    ),
    Exercise(
        id="8d",
        hint="six times the mean is the sum; take the 50 out, then divide by what is left.",
        inputs=[(54.17,), (50.46,)],
        right=lambda m: (6 * m - 50) / 5,
        wrong={
            "that is the way from five tasks to six; you are asked for the other.": lambda m: (5 * m + 50) / 6,
            "after taking one task out, five are left to divide by.": lambda m: (6 * m - 50) / 6,
        },
    ),
]
