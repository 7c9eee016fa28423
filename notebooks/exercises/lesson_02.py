"""Exercises of lesson 2: R_c, the best arrangement, one step of the climb, hard memberships, the gradient of R_c."""

import torch
from torch import Tensor

from kit import Exercise
from tssa_lib import rates


def _draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _soft(seed: int, K: int, N: int) -> Tensor:
    return _draw(seed, K, N).softmax(0)  # softmax over the groups


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


# ---- 2a: the compression rate ----------------------------------------------------------------------------
def _price(S: Tensor, c: float) -> Tensor:
    """½ logdet(I + c S) of moments (K, d, d)."""
    return 0.5 * torch.linalg.slogdet(torch.eye(S.shape[-1]).to(S) + c * S).logabsdet


def _moments(x: Tensor, Pi: Tensor) -> Tensor:
    """n_k S_k (K, d, d)."""
    return torch.einsum("kn,nd,ne->kde", Pi, x, x)


def _compression(x: Tensor, Pi: Tensor, eps2: float) -> Tensor:
    n_k = Pi.sum(1)
    return (n_k / len(x) * _price(_moments(x, Pi) / n_k[:, None, None], x.shape[1] / eps2)).sum()


def _hardened(Pi: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(Pi.argmax(0), len(Pi)).T.to(Pi)


def _unweighted(x: Tensor, Pi: Tensor, eps2: float) -> Tensor:
    return _price(_moments(x, Pi) / Pi.sum(1)[:, None, None], x.shape[1] / eps2).sum()


def _divided_by_all(x: Tensor, Pi: Tensor, eps2: float) -> Tensor:
    return (Pi.sum(1) / len(x) * _price(_moments(x, Pi) / len(x), x.shape[1] / eps2)).sum()


def _share_twice(x: Tensor, Pi: Tensor, eps2: float) -> Tensor:
    n_k = Pi.sum(1)
    return (n_k / len(x) * _price(_moments(x, Pi**2) / n_k[:, None, None], x.shape[1] / eps2)).sum()


def _without_d(x: Tensor, Pi: Tensor, eps2: float) -> Tensor:
    return _compression(x, Pi, eps2 * x.shape[1])


# ---- 2b: the best arrangement ------------------------------------------------------------------------------
_NOT_UNIT = "the tokens must have length one; some of yours do not."
_NOT_ORTHOGONAL = "tokens of different groups must be perpendicular; some of yours are not, so R is below its bound."
_NOT_EVEN = "the groups are perpendicular, but not every group is spread evenly over d/K dimensions."


def _judge_arrangement(answer):
    for d, K in ((3, 3), (6, 3), (6, 2), (12, 4)):
        x = answer(d, K)
        if x is None or x is ...:
            return ...
        if not isinstance(x, Tensor) or tuple(x.shape) != (2 * d, d):
            return f"for d={d}, K={K}: expected a tensor ({2 * d}, {d}), got {tuple(getattr(x, 'shape', ()))}"
        x = x.detach().double()
        groups = torch.eye(K, dtype=x.dtype).repeat_interleave(2 * d // K, 1)  # (K, N)
        if (x.norm(dim=1) - 1).abs().max() > 1e-6:
            return f"for d={d}, K={K}: {_NOT_UNIT}"
        if (x @ x.T)[groups.T @ groups == 0].abs().max() > 1e-6:
            return f"for d={d}, K={K}: {_NOT_ORTHOGONAL}"
        if float(rates.rate_reduction(x, groups, 0.1)) < rates.max_rate_reduction(d, K, 0.1) - 1e-6:
            return f"for d={d}, K={K}: {_NOT_EVEN}"
    return None


# ---- 2c: one step of the climb -----------------------------------------------------------------------------
def _uphill(x: Tensor, Pi: Tensor, eps2: float, step: float) -> Tensor:
    return x + step * rates.rate_reduction_grad(x, Pi, eps2)


# ---- 2d: hard memberships ----------------------------------------------------------------------------------
def _hard_rates(x: Tensor, eps2: float, balanced: bool = False) -> list[float]:
    """R_c of all hard memberships in two groups, or of those with equally many tokens in both."""
    n, found = len(x), []
    for number in range(2**n):
        first = torch.tensor([float(number >> j & 1) for j in range(n)], dtype=x.dtype)
        if not balanced or first.sum() == n // 2:
            found.append(float(rates.compression_rate(x, torch.stack([first, 1 - first]), eps2)))
    return found


def _by_larger_coordinate(x: Tensor, eps2: float) -> float:
    first = (x[:, 0].abs() > x[:, 1].abs()).to(x)
    return float(rates.compression_rate(x, torch.stack([first, 1 - first]), eps2))


# Four tokens along one axis and two along the other: the best split is not half and half.
_FOUR_TWO = torch.tensor(
    [[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1], [1.8, 0.0], [0.1, 1.5], [-0.2, -1.0]], dtype=torch.float64
)
# The same turned by 53 degrees: the larger coordinate no longer tells the groups apart.
_TURNED = _FOUR_TWO @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)


# ---- 2e: the gradient of R_c -------------------------------------------------------------------------------
def _gradient(x: Tensor, Pi: Tensor, eps2: float, weight=lambda n_k, n: 1 / n, shares: bool = True) -> Tensor:
    n, d = x.shape
    c = d / eps2
    inverse = torch.linalg.inv(torch.eye(d, dtype=x.dtype) + c * rates.second_moment(x, Pi))
    return sum(c * weight(p.sum(), n) * (p[:, None] if shares else 1) * (x @ i) for p, i in zip(Pi, inverse))


EXERCISES = [
    Exercise(
        id="2a",
        hint="for each row of Pi: its sum n_k, its moment (share * x.T) @ x / n_k, its price, its weight n_k/n.",
        inputs=[(_draw(4, 9, 3), _soft(5, 2, 9), 0.1), (_draw(6, 5, 2), _soft(7, 4, 5), 0.5)],
        right=_compression,
        wrong={
            "the weights n_k/n are missing: a token pays for the code of its own group only.": _unweighted,
            "each moment must be divided by the size n_k of its group, not by n.": _divided_by_all,
            "the share of a token counts once in S_k; you weighted both factors.": _share_twice,
            "the dimension is missing: c is d/ε².": _without_d,
            "twice too much: the factor ½ in front of the log-determinants is missing.": lambda x, Pi, eps2: (
                2 * _compression(x, Pi, eps2)
            ),
            "you made the memberships hard; each token counts in every group with its share.": lambda x, Pi, eps2: (
                _compression(x, _hardened(Pi) * (1 - 1e-12) + 1e-12 / len(Pi), eps2)
            ),
            "that is R, the price with one code for all: use each group's own moment.": lambda x, Pi, eps2: (
                rates.coding_rate(x, eps2)
            ),
        },
        forbidden=dict.fromkeys(
            ("compression_rate", "rate_reduction", "variational_rate"), "it is the function to be written"
        ),
    ),
    Exercise(
        id="2b",
        hint="each group needs d/K directions that no other group uses, and the same number of tokens along each.",
        right=None,
        wrong={
            _NOT_UNIT: lambda d, K: torch.ones(2 * d, d),
            _NOT_ORTHOGONAL: lambda d, K: torch.eye(d).repeat(2, 1),
            _NOT_EVEN: lambda d, K: torch.eye(d)[:: d // K].repeat_interleave(2 * d // K, 0),
        },
        judge_by=_judge_arrangement,
    ),
    Exercise(
        id="2c",
        hint="x plus step times the gradient; then each row is divided by its own length.",
        inputs=[(_unit(_draw(8, 6, 3)), _soft(9, 2, 6), 0.1, 0.4), (_unit(_draw(10, 5, 2)), _soft(11, 3, 5), 0.5, 2.0)],
        right=lambda x, Pi, eps2, step: _unit(_uphill(x, Pi, eps2, step)),
        wrong={
            "the tokens left the sphere: scale each back to length one.": _uphill,
            "that goes downhill: ΔR is to grow.": lambda x, Pi, eps2, step: _unit(_uphill(x, Pi, eps2, -step)),
            "you normalised over the tokens (dim=0); each token, a row, needs length one.": lambda x, Pi, eps2, step: (
                _unit(_uphill(x, Pi, eps2, step).T).T
            ),
            "you divided by the norm of the whole matrix; each row needs length one.": lambda x, Pi, eps2, step: (
                _uphill(x, Pi, eps2, step) / _uphill(x, Pi, eps2, step).norm()
            ),
            "`step` is not in it.": lambda x, Pi, eps2, step: _unit(_uphill(x, Pi, eps2, 1.0)),
            "that expands the whole only; the gradient of ΔR also compresses each group.": lambda x, Pi, eps2, step: (
                _unit(x + step * rates.coding_rate_grad(x, eps2))
            ),
        },
        forbidden={"ascent_step": "it is the function to be written"},
    ),
    Exercise(
        id="2d",
        hint="run a number from 0 to 2**n − 1; its binary digits say which tokens are in the first group.",
        inputs=[(_FOUR_TWO, 0.1), (_TURNED, 0.1), (_draw(3, 5, 2), 0.1)],
        right=lambda x, eps2: min(_hard_rates(x, eps2)),
        wrong={
            "that is R itself, the price of a single group or of evenly shared tokens: nothing is saved. Look for the lowest rate.": lambda x, eps2: (
                float(rates.coding_rate(x, eps2))
            ),
            "you only tried splits into halves; groups may differ in size.": lambda x, eps2: min(
                _hard_rates(x, eps2, balanced=True)
            ),
            "you sorted the tokens by their larger coordinate; groups need not lie along the axes.": _by_larger_coordinate,
        },
    ),
    Exercise(
        id="2e",
        hint="the group's weight n_k/n meets the c/n_k of its gradient.",
        inputs=[(_draw(1, 7, 3), _soft(2, 2, 7), 0.1), (_draw(12, 4, 2), _soft(13, 3, 4), 0.5)],
        right=_gradient,
        wrong={
            "the factor n_k/n is there, but you lost the 1/n_k that each group's own gradient has: they cancel.": lambda x, Pi, eps2: (
                _gradient(x, Pi, eps2, weight=lambda n_k, n: n_k / n**2)
            ),
            "the weight n_k/n of each group is missing: with it, c/n_k becomes c/n.": lambda x, Pi, eps2: _gradient(
                x, Pi, eps2, weight=lambda n_k, n: 1 / n_k
            ),
            "Diag(π_k) is missing: a token moves by the matrices of its groups, each with its share.": lambda x, Pi, eps2: (
                _gradient(x, Pi, eps2, shares=False)
            ),
            "that is the gradient of R: use each group's own second moment S_k inside the inverse.": lambda x, Pi, eps2: (
                rates.coding_rate_grad(x, eps2)
            ),
        },
        forbidden=dict.fromkeys(
            ("grad", "backward", "autograd", "func", "jvp", "jacobian", "compression_rate_grad", "rate_reduction_grad"),
            "write the derivative yourself, from (2.7)",
        ),
    ),
]
