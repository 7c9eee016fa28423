"""Exercises of lesson 1: the coding rate by hand and in code, zero tokens, the derivative in scale."""

import math

import torch

from kit import Exercise


def _tokens(seed: int, n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _rate(x: torch.Tensor, alpha: float) -> torch.Tensor:
    return 0.5 * torch.log1p(alpha * torch.linalg.svdvals(x) ** 2).sum()


def _alpha(x: torch.Tensor, eps2: float) -> float:
    return x.shape[1] / (x.shape[0] * eps2)


def _filter(x: torch.Tensor, alpha: float) -> torch.Tensor:
    a = alpha * torch.linalg.svdvals(x) ** 2
    return a / (1 + a)


EXERCISES = [
    Exercise(
        id="1a",
        hint="α = d/(nε²) first, then the determinant of the 2 × 2 matrix I + αI, then nats to bits.",
        right=math.log2(3),
        wrong={
            "that is the rate in nats; divide by ln 2 for bits.": math.log(3),
            "that is the whole log-determinant; the rate has a factor ½ in front.": math.log2(9),
            "α = d/(nε²) has the number of tokens in it; you used d/ε² with ZZᵀ not divided by n.": math.log2(5),
            "that is the determinant's number of balls, not its logarithm.": 3.0,
        },
        tol=4e-3,  # by hand: 1.58 and 1.59 are right
    ),
    Exercise(
        id="1b",
        hint="with n, d = x.shape, the matrix ZZᵀ is x.T @ x, and α stands in front of it.",
        inputs=[(_tokens(2, 6, 2), 0.1), (_tokens(3, 4, 7), 0.5)],
        right=lambda x, eps2: _rate(x, _alpha(x, eps2)),
        wrong={
            "the number of tokens is missing: ZZᵀ has to be divided by n.": lambda x, eps2: _rate(x, x.shape[1] / eps2),
            "the dimension is missing: c is d/ε², since the error is spread over d coordinates.": lambda x, eps2: _rate(
                x, 1 / (x.shape[0] * eps2)
            ),
            "n and d are exchanged: tokens are the rows of x.": lambda x, eps2: _rate(
                x, x.shape[0] / (x.shape[1] * eps2)
            ),
            "twice too much: the factor ½ in front of the log-determinant is missing.": lambda x, eps2: (
                2 * _rate(x, _alpha(x, eps2))
            ),
            "you subtracted the mean: the rate uses the second moment, not the covariance.": lambda x, eps2: _rate(
                x - x.mean(0), _alpha(x, eps2)
            ),
            "`eps2` is ε² already; you squared it again.": lambda x, eps2: _rate(x, _alpha(x, eps2**2)),
            "that is in bits; the rate is in nats.": lambda x, eps2: _rate(x, _alpha(x, eps2)) / math.log(2),
            "that is the number of balls; the rate is its logarithm.": lambda x, eps2: _rate(x, _alpha(x, eps2)).exp(),
        },
        forbidden={"coding_rate": "it is the function to be written"},
    ),
    Exercise(
        id="1c",
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
        id="1d",
        hint="differentiate ½ Σ ln(1 + αt²σᵢ²) term by term and set t = 1.",
        inputs=[(_tokens(0, 6, 2), 0.1), (_tokens(1, 3, 5), 0.5)],
        right=lambda x, eps2: _filter(x, _alpha(x, eps2)).sum(),
        wrong={
            "twice too much: the ½ in front of the log-determinant is missing.": lambda x, eps2: (
                2 * _filter(x, _alpha(x, eps2)).sum()
            ),
            "the denominators 1 + ασ² are missing: that is the derivative of the bound (1.11).": lambda x, eps2: (
                _alpha(x, eps2) * x**2
            ).sum(),
            "half of it: the inner derivative of t² is 2t.": lambda x, eps2: 0.5 * _filter(x, _alpha(x, eps2)).sum(),
            "singular values of Z go with α = d/(nε²); c = d/ε² goes with the eigenvalues of S.": lambda x, eps2: (
                _filter(x, x.shape[1] / eps2).sum()
            ),
        },
        forbidden=dict.fromkeys(
            ("grad", "backward", "autograd", "func", "jvp", "jacobian", "coding_rate_grad"),
            "write the derivative yourself, from (1.7)",
        ),
    ),
]
