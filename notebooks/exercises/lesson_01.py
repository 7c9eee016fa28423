"""Exercises of lesson 1: the coding rate by hand, zero tokens, the derivative in scale."""

import math

import torch

from kit import Exercise


def _tokens(seed: int, n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _filter(x: torch.Tensor, eps2: float) -> torch.Tensor:
    return x.shape[1] / (x.shape[0] * eps2) * torch.linalg.svdvals(x) ** 2


EXERCISES = [
    Exercise(
        id="1.1",
        hint="α = d/(nε²) first, then the determinant of the 2 × 2 matrix I + αI, then nats to bits.",
        right=math.log2(3),
        wrong={
            "that is the rate in nats; divide by ln 2 for bits.": math.log(3),
            "that is the whole log-determinant; the rate has a factor ½ in front.": math.log2(9),
            "α = d/(nε²) has the number of tokens in it; you used d/ε² with ZZᵀ not divided by n.": math.log2(5),
        },
        tol=2e-3,
    ),
    Exercise(
        id="1.2",
        hint="zero tokens add nothing to ZZᵀ; where else does the number of tokens stand in α?",
        inputs=[(6, 6, 0.1), (10, 3, 0.5), (4, 12, 2.0)],
        right=lambda n, m, eps2: eps2 * (n + m) / n,
        wrong={
            "that factor belongs to ε, not to ε²: square it.": lambda n, m, eps2: eps2 * math.sqrt((n + m) / n),
            "the other way round: padding makes the tokens cheaper, so ε² must grow.": lambda n, m, eps2: (
                eps2 * n / (n + m)
            ),
            "that is right for m = n only; the factor depends on the share of zero tokens.": lambda n, m, eps2: (
                2 * eps2
            ),
        },
    ),
    Exercise(
        id="1.3",
        hint="differentiate ½ Σ ln(1 + αt²σᵢ²) term by term and set t = 1.",
        inputs=[(_tokens(0, 6, 2), 0.1), (_tokens(1, 3, 5), 0.5)],
        right=lambda x, eps2: (_filter(x, eps2) / (1 + _filter(x, eps2))).sum(),
        wrong={
            "twice too much: the ½ in front of the log-determinant is missing.": lambda x, eps2: (
                2 * (_filter(x, eps2) / (1 + _filter(x, eps2))).sum()
            ),
            "the denominators 1 + ασ² are missing: that is the derivative of the bound (1.11).": lambda x, eps2: (
                _filter(x, eps2).sum()
            ),
            "half of it: the inner derivative of t² is 2t.": lambda x, eps2: (
                0.5 * (_filter(x, eps2) / (1 + _filter(x, eps2))).sum()
            ),
        },
    ),
]
