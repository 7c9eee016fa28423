"""Exercises of lesson 2: hard memberships, the gradient of R_c, the best arrangement."""

import math

import torch

from kit import Exercise
from tssa_lib import rates


def _draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _hard_rates(x: torch.Tensor, eps2: float, balanced: bool = False) -> list[float]:
    """R_c of all hard memberships in two groups, or of those with equally many tokens in both."""
    n, found = len(x), []
    for number in range(2**n):
        first = torch.tensor([float(number >> j & 1) for j in range(n)], dtype=x.dtype)
        if not balanced or first.sum() == n // 2:
            found.append(float(rates.compression_rate(x, torch.stack([first, 1 - first]), eps2)))
    return found


def _gradient(x: torch.Tensor, Pi: torch.Tensor, eps2: float, weight=lambda n_k, n: 1 / n) -> torch.Tensor:
    n, d = x.shape
    c = d / eps2
    inverse = torch.linalg.inv(torch.eye(d, dtype=x.dtype) + c * rates.second_moment(x, Pi))
    return sum(c * weight(p.sum(), n) * p[:, None] * (x @ i) for p, i in zip(Pi, inverse))


# Four tokens along one axis and two along the other: the best split is not half and half.
_FOUR_TWO = torch.tensor(
    [[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1], [1.8, 0.0], [0.1, 1.5], [-0.2, -1.0]], dtype=torch.float64
)

EXERCISES = [
    Exercise(
        id="2.1",
        hint="run a number from 0 to 2**n − 1; its binary digits say which tokens are in the first group.",
        inputs=[(_FOUR_TWO, 0.1), (_draw(3, 5, 2), 0.1)],
        right=lambda x, eps2: min(_hard_rates(x, eps2)),
        wrong={
            "that is R itself, the price of a single group or of evenly shared tokens: nothing is saved. Look for the lowest rate.": lambda x, eps2: (
                float(rates.coding_rate(x, eps2))
            ),
            "you only tried splits into halves; groups may differ in size.": lambda x, eps2: min(
                _hard_rates(x, eps2, balanced=True)
            ),
        },
    ),
    Exercise(
        id="2.2",
        hint="the group's weight n_k/n meets the c/n_k of its gradient.",
        inputs=[(_draw(1, 7, 3), _draw(2, 2, 7).softmax(0), 0.1)],  # softmax over the groups
        right=_gradient,
        wrong={
            "the factor n_k/n is there, but you lost the 1/n_k that each group's own gradient has: they cancel.": lambda x, Pi, eps2: (
                _gradient(x, Pi, eps2, weight=lambda n_k, n: n_k / n**2)
            ),
            "the weight n_k/n of each group is missing: with it, c/n_k becomes c/n.": lambda x, Pi, eps2: _gradient(
                x, Pi, eps2, weight=lambda n_k, n: 1 / n_k
            ),
            "that is the gradient of R: use each group's own second moment S_k inside the inverse.": lambda x, Pi, eps2: (
                rates.coding_rate_grad(x, eps2)
            ),
        },
    ),
    Exercise(
        id="2.3",
        hint="put d = 6, K = 3 and ε² = 0.1 into (2.17).",
        right=3 * (math.log(11) - math.log(31) / 3),
        wrong={
            "that is in bits; the question asks for nats.": 3 * (math.log2(11) - math.log2(31) / 3),
            "inside the second logarithm stands K/ε², not d/ε²: each group has d/K = 2 dimensions with half its energy each.": 3
            * (math.log(11) - math.log(61) / 3),
            "the factor 1/K is missing: a token pays for the code of its own group only.": 3
            * (math.log(11) - math.log(31)),
        },
        tol=2e-4,
    ),
]
